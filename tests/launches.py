"""What a training step asks of a GPU: `python tests/launches.py [RECIPE...]`, counted on the pretend device of `pretend`.

Of one step at CIFAR-10's shape, half way through the training: operations that launch kernels, those of them that draw
noise, and waits of the host. Neither depends on the width, nor but for GANs with several critic steps on the batch.
"""

from __future__ import annotations

import sys

import pretend
import pytest
from test_device import built, gpu, split

from bench.loop import Loop
from paradigms.core.data import Space
from paradigms.core.noise import Noise

SPACE = Space((3, 32, 32), 0, 256)
USUAL = ("ddpm", "flow-matching", "score-sde", "edm", "gan", "normalizing-flow", "consistency")


def main(names: tuple[str, ...]) -> None:
    print("| recipe | operations | of them draws | waits | updates |\n|---|---:|---:|---:|---:|")
    with pytest.MonkeyPatch.context() as patch:
        for device in gpu.__wrapped__(patch):
            for name in names:
                model = built(name, SPACE)
                data = model.prepare(split(SPACE, 512).to(device), Noise("prepare", device=device))
                loop = Loop(model, data, batch=16, steps=10, coords=("cifar10", name, 0))
                loop.step(0)
                loop.settle()
                with pretend.counted() as counts:
                    loop.step(5)
                ops, waits = sum(counts.ops.values()), sum(counts.waits.values())
                print(f"| {name} | {ops} | {counts.draws} | {waits} | {len(loop.coming)} |", flush=True)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or USUAL)
