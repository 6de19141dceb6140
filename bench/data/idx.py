"""MNIST and Fashion-MNIST, from the IDX files they are published as.

`@14` names the same images at half the size: means of 2×2 pixels, rounded to the nearest integer (halves up), so they
still have 256 levels. They cost a quarter to train on and keep all 70,000 examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.data.dataset import Dataset, checksum
from bench.data.files import Found, Origin, Part
from bench.data.names import Definition
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput

__all__ = ["FASHION_MNIST", "MNIST", "halved", "load_idx", "paired", "parse_idx"]

IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}


def _parts(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[Part, ...]:
    """The four files by the sha256 of their content. Some copies write `train-images.idx3-ubyte`, with a dot."""

    def part(name: str, size: int, sha256: str) -> Part:
        return Part(name, size, sha256, also=(name.replace("-idx", ".idx"),))

    return (
        part(IMAGES["train"], 16 + 60_000 * 784, train_images),
        part(LABELS["train"], 8 + 60_000, train_labels),
        part(IMAGES["test"], 16 + 10_000 * 784, test_images),
        part(LABELS["test"], 8 + 10_000, test_labels),
    )


MNIST = Origin(
    "mnist",
    _parts(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)
FASHION_MNIST = Origin(
    "fashion-mnist",
    _parts(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    system=Path("/usr/share/datasets/fashion-mnist"),
)

CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
}  # fmt: skip
SOURCES = {
    "mnist": "MNIST, LeCun, Cortes and Burges (1998), the canonical IDX files; usually stated as CC BY-SA 3.0",
    "fashion-mnist": "Fashion-MNIST, Zalando SE (Xiao, Rasul and Vollgraf, 2017), the canonical IDX files; MIT",
}


def load_idx(base: str, half: bool, content: Mapping[str, Found]) -> Dataset:
    """MNIST or Fashion-MNIST by its files, (N, 1, 28, 28) or, `half`, (N, 1, 14, 14)."""
    side = 14 if half else 28
    space = Space((1, side, side), classes=10, levels=256)
    splits = []
    for split in ("train", "test"):
        images = parse_idx(content[IMAGES[split]].data, 3, IMAGES[split])
        labels = parse_idx(content[LABELS[split]].data, 1, LABELS[split])
        x, y = paired(images, labels, f"{base} {split}")
        splits.append(Data(halved(x) if half else x, y, space))
    train, test = splits
    name = base + ("@14" if half else "")
    return Dataset(name, space, train, test, checksum(train, test), CLASSES[base], source=SOURCES[base])


def parse_idx(data: bytes, dims: int, where: str) -> np.ndarray:
    """An IDX file of unsigned bytes with `dims` dimensions, as a read-only array.

    Format: 0, 0, 8 (unsigned byte), the number of dimensions, each size as a big-endian 32-bit integer, the bytes.
    """
    head = 4 + 4 * dims
    if len(data) < head or data[:4] != bytes([0, 0, 8, dims]):
        raise BadInput(f"{where} is not an IDX file of bytes with {dims} dimension{'s' * (dims > 1)}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", count=dims, offset=4))
    size = 1
    for n in shape:  # in Python integers: four times 2³² must not wrap around
        size *= n
    if len(data) - head != size:
        raise BadInput(f"{where} announces {' × '.join(map(str, shape))} bytes and holds {len(data) - head:,}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def paired(images: np.ndarray, labels: np.ndarray, where: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, H, W) and labels (N,) as tensors (N, 1, H, W) uint8 and (N,) int64, once they are known to match."""
    if len(images) != len(labels):
        raise BadInput(
            f"{where} has {len(images):,} images and {len(labels):,} labels; the files do not belong together"
        )
    if len(labels) and labels.max() > 9:
        raise BadInput(f"{where} has a label {labels.max()}; labels go from 0 to 9")
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def halved(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) uint8 to (N, C, H/2, W/2): 2×2 means, to the nearest integer, halves up."""
    wide = x.to(torch.int16)
    total = wide[..., 0::2, 0::2] + wide[..., 0::2, 1::2] + wide[..., 1::2, 0::2] + wide[..., 1::2, 1::2]
    return total.add_(2).div_(4, rounding_mode="floor").to(torch.uint8)


DATASETS = (
    Definition(
        "mnist",
        title="MNIST, 28×28",
        shape=(1, 28, 28),
        classes=10,
        levels=256,
        n_train=60_000,
        n_test=10_000,
        where="IDX files: --from PATH, cache, download",
        load=partial(load_idx, "mnist", False),
        origin=MNIST,
    ),
    Definition(
        "mnist@14",
        title="MNIST, 2×2 means, 14×14",
        shape=(1, 14, 14),
        classes=10,
        levels=256,
        n_train=60_000,
        n_test=10_000,
        where="from mnist",
        load=partial(load_idx, "mnist", True),
        origin=MNIST,
    ),
    Definition(
        "fashion-mnist",
        title="Fashion-MNIST, 28×28",
        shape=(1, 28, 28),
        classes=10,
        levels=256,
        n_train=60_000,
        n_test=10_000,
        where="IDX files: --from PATH, cache, /usr/share/datasets/fashion-mnist, download",
        load=partial(load_idx, "fashion-mnist", False),
        origin=FASHION_MNIST,
    ),
    Definition(
        "fashion-mnist@14",
        title="Fashion-MNIST, 2×2 means, 14×14",
        shape=(1, 14, 14),
        classes=10,
        levels=256,
        n_train=60_000,
        n_test=10_000,
        where="from fashion-mnist",
        load=partial(load_idx, "fashion-mnist", True),
        origin=FASHION_MNIST,
    ),
)
