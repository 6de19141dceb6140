"""Trains the classifiers whose features the suite compares images in: `python -m bench.features.train digits`.

They are shipped, with their hashes, in bench/features/weights; this script is how they came about. Other weights are another
feature space: every Frechet distance has to be computed again, and rows of the old space are never compared with rows of the
new one. The network sees the training split only. Its accuracy on the held-out split is measured at the end and stored
with the weights. A labelled folder of images gets a network of its own with `folder:PATH@SIZE --to DIR`, and
`bench evaluate ... --features FILE` uses it.

One thread and fixed seeds: the same machine and versions give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import load
from bench.data.names import own_data
from bench.features import SUMS, WEIGHTS, Architecture, Classifier, listed, serialise
from bench.runs import slug
from bench.store import write_atomic
from paradigms.core.data import Data, Space
from paradigms.core.noise import seed_of
from paradigms.errors import BadInput

__all__ = ["Training", "accuracy", "fit", "main", "recipe"]


@dataclass(frozen=True)
class Training:
    """How a classifier is trained: AdamW, warm-up, a line to zero, shifts and flips of part of the images.

    shift: pixels by which a shifted image moves at most, either way; its rim is filled with the darkest value.
    shifted: the share of the images that is shifted. Not all: what is compared later is not shifted.
    flip:  whether half of the images are mirrored (not where left and right mean something, as in a digit).
    channels_last: the memory layout in which colour convolutions take a quarter less time on a CPU.
    """

    epochs: int
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-2
    warmup: int = 50
    shift: int = 1
    shifted: float = 0.5
    flip: bool = False
    channels_last: bool = False


MIRRORED = ("fashion-mnist", "cifar10")  # the mirror image of a shirt is a shirt; that of a digit is not a digit


def recipe(name: str, space: Space) -> tuple[Architecture, Training]:
    """The network and the training for a data set, by the size of its images: 0.1 to 0.25M parameters."""
    channels, height, width = space.shape
    base = Architecture((channels, height, width), classes=space.classes)
    if height <= 8:
        return base, Training(epochs=60)
    large = Training(epochs=10, batch=128, flip=name.split("@")[0] in MIRRORED)
    if height <= 16:
        return base, large
    if height <= 28:
        return replace(base, pools=(2, 2)), replace(large, shift=2)
    # 64 features here too: a Frechet distance is then allowed from 640 samples on, in every tier.
    return replace(base, channels=(32, 64, 128), pools=(2, 2, 2)), replace(
        large, epochs=10, shift=2, channels_last=True
    )


def fit(
    data: Data,
    architecture: Architecture,
    training: Training,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Classifier:
    """A classifier trained on `data`, in eval mode, its features scaled to unit variance on `data`.

    `report(epoch, loss)` hears the mean loss of each epoch.
    """
    if data.y is None:
        raise BadInput("a classifier needs labels; choose a labelled data set")
    generator = torch.Generator().manual_seed(seed_of("features", seed))
    with torch.random.fork_rng(devices=[]):  # initialisation and dropout draw from the global generator
        torch.manual_seed(seed_of("features", "modules", seed))
        net = Classifier(architecture).train()
        layout = torch.channels_last if training.channels_last else torch.contiguous_format
        net.to(memory_format=layout)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(net.parameters(), lr=training.lr, weight_decay=training.weight_decay)
        batches = len(data) // training.batch
        steps, step = training.epochs * batches, 0
        for epoch in range(training.epochs):
            total = 0.0
            order = torch.randperm(len(data), generator=generator)[: batches * training.batch]
            for index in order.split(training.batch):
                for group in optimizer.param_groups:
                    group["lr"] = training.lr * min(1, (step + 1) / training.warmup) * (1 - step / steps)
                x = augment(data.space.encode(data.x[index]), training, generator)
                loss = F.cross_entropy(net(x.contiguous(memory_format=layout)), data.y[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total, step = total + loss.item(), step + 1
            report(epoch + 1, total / batches)
    net.eval().requires_grad_(False)
    net.normalise(data.space.encode(data.x))
    return net


def augment(x: Tensor, training: Training, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), part of them shifted by whole pixels and part of them mirrored."""
    n, _, height, width = x.shape
    most = training.shift
    dy, dx = torch.randint(-most, most + 1, (2, n), generator=generator)
    moved = (torch.rand(n, generator=generator) < training.shifted).long()
    rows = (torch.arange(height) + (dy * moved)[:, None] + most)[:, None, :, None]
    columns = torch.arange(width).expand(n, width)
    if training.flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    columns = (columns + (dx * moved)[:, None] + most)[:, None, None, :]
    padded = F.pad(x, (most,) * 4, value=x.min().item())
    image, channel = torch.arange(n)[:, None, None, None], torch.arange(x.shape[1])[None, :, None, None]
    return padded[image, channel, rows, columns]


@torch.no_grad()
def accuracy(net: Classifier, data: Data) -> float:
    """The share of `data` that the classifier labels as it is labelled."""
    assert data.y is not None
    logits = torch.cat([net(data.space.encode(part)) for part in data.x.split(1000)])
    return (logits.argmax(1) == data.y).double().mean().item()


def main(arguments: list[str] | None = None) -> None:
    """Trains, measures and writes one network; the hash goes into the list next to it."""
    parser = argparse.ArgumentParser(prog="python -m bench.features.train", description=__doc__.split("\n")[0])
    parser.add_argument("dataset", help="a labelled image data set: digits, mnist, fashion-mnist@14 ...")
    parser.add_argument("--from", dest="source", type=Path, metavar="PATH", help="where the data files are")
    parser.add_argument("--to", type=Path, default=WEIGHTS, metavar="DIR", help="where to write (default: the package)")
    options = parser.parse_args(arguments)

    dataset = load(options.dataset, options.source)
    if not dataset.space.is_image or not dataset.space.classes:
        raise BadInput(f"data set '{options.dataset}' has no labelled images; a classifier needs both")
    if own_data(options.dataset) is not None and options.to == WEIGHTS:
        raise BadInput("a network of your own images does not belong in the package; say where it goes with --to DIR")
    architecture, training = recipe(dataset.name, dataset.space)
    start = time.perf_counter()
    net = fit(
        dataset.train,
        architecture,
        training,
        report=lambda epoch, loss: print(
            f"epoch {epoch:3d}/{training.epochs}  loss {loss:.4f}  {time.perf_counter() - start:5.0f} s", flush=True
        ),
    )
    held_out = accuracy(net, dataset.test)
    data = serialise(net, architecture, accuracy=held_out, dataset=dataset.name, data=dataset.checksum)
    digest = hashlib.sha256(data).hexdigest()
    name = slug(dataset.name)
    write_atomic(options.to / f"{name}.safetensors", data)
    others = listed(options.to) if (options.to / SUMS).exists() else {}
    table = {**others, name: digest}
    write_atomic(options.to / SUMS, "".join(f"{v}  {k}.safetensors\n" for k, v in sorted(table.items())).encode())
    print(f"{name}@{digest[:12]}  accuracy {held_out:.4f}  {len(data):,} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main()
    except BadInput as error:
        sys.exit(f"error: {error}")
