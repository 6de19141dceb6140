"""How straight a flow's paths are: `python -m bench.lab.straightness RUN... [-n 512] [--steps 128] [--json]`.

S = int_0^1 E || (Z_1 - Z_0) - v(Z_t, t) ||^2 dt along the model's own ODE (Liu et al. 2022, arXiv:2209.03003, section 2.2),
0 where all paths are straight; shown with its standard error over the paths, and as a part of the mean squared length of
the way E || Z_1 - Z_0 ||^2, which can be compared between data sets. Takes any run whose model has a `denoiser`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench import runs
from bench.script import answered
from paradigms.contract import Denoises, Paradigm
from paradigms.core.noise import Noise
from paradigms.errors import BadInput
from paradigms.maths.couplings import straightness

__all__ = ["Straightness", "measure"]

CHUNK = 256  # paths at a time


@dataclass(frozen=True)
class Straightness:
    """S and its standard error over n paths, and S / E || Z_1 - Z_0 ||^2."""

    recipe: str
    dataset: str
    seed: int
    n: int
    S: float
    error: float
    relative: float


def measure(folder: Path, n: int = 512, steps: int = 128) -> Straightness:
    """Of a finished run, unconditional or with labels in turn. Raises BadInput when its model follows no ODE."""
    if n < 2 or steps < 1:
        raise BadInput(f"straightness takes at least 2 paths and 1 step, not {n} and {steps}")
    model, info = runs.load(folder)
    model = model.core  # vectors: paths are as straight in units of their columns, which no column outweighs
    if not isinstance(model, Paradigm) or not isinstance(model, Denoises):
        raise BadInput(f"{folder} holds a '{info.recipe}', which follows no ODE whose paths could be measured")
    found = []
    for first in range(0, n, CHUNK):
        z = model.prior(min(CHUNK, n - first), Noise("straightness", info.seed).rows(first))
        y = torch.arange(first, first + len(z)) % model.space.classes if model.space.classes else None
        found.append(torch.stack(straightness(model.denoiser(y), z, steps)))
    S, length = torch.cat(found, dim=1)
    error = float(S.std()) / n**0.5
    return Straightness(
        info.recipe, info.dataset, info.seed, n, float(S.mean()), error, float(S.mean() / length.mean())
    )


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.straightness", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("-n", type=int, default=512, help="paths")
    parser.add_argument("--steps", type=int, default=128, help="of a fourth-order solver")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each run")
    given = parser.parse_args(arguments)
    for folder in given.runs:
        s = measure(folder, given.n, given.steps)
        if given.json:
            print(json.dumps(asdict(s)))
        else:
            print(
                f"{s.recipe} on {s.dataset}, seed {s.seed}: S = {s.S:.4g} ± {s.error:.2g} ({s.n:,} paths), "
                f"{s.relative:.2%} of the squared length of the way"
            )


if __name__ == "__main__":
    sys.exit(main())
