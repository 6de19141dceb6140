"""Stacked digits: each image is three random digits as its three colour channels, so that there are 1,000 modes.

Metz et al. (arXiv:1611.02163) and Srivastava et al. (arXiv:1705.07761) do so with MNIST, to count the modes that a
generator reaches: a classifier of the single digits names the mode of an image. Here every channel is drawn on its own,
uniformly from the images of the split by a hash of (name, split, example, channel): the same on every machine, training
images never in the test split, and each mode about equally often. Models are told no labels.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from bench.data.dataset import Dataset, checksum
from bench.data.digits import load_digits
from bench.data.idx import MNIST, load_idx
from bench.data.names import Definition
from paradigms.core.data import Data, Space

__all__ = ["load_stacked"]

CHANNELS = 3
TRAIN, TEST = 20_000, 10_000


def load_stacked(base: Dataset) -> Dataset:
    """(N, 3, H, W) of a set of grey images (N, 1, H, W): 20,000 training and 10,000 test examples."""
    _, height, width = base.space.shape
    space = Space((CHANNELS, height, width), classes=0, levels=base.space.levels)
    name = f"stacked-{base.name}"

    def stack(data: Data, split: str, n: int) -> Data:
        chosen = torch.from_numpy(drawn(f"{name} {split}", n, len(data)))
        return Data(data.x[chosen].flatten(1, 2), None, space)

    train, test = stack(base.train, "train", TRAIN), stack(base.test, "test", TEST)
    source = f"{CHANNELS} random images of {base.name} in each; {base.source}"
    return Dataset(name, space, train, test, checksum(train, test), (), source=source, stacked=base.name)


def drawn(what: str, n: int, among: int) -> np.ndarray:
    """Indices (n, 3) below `among`, int64, each a hash of its own name."""
    bits = b"".join(hashlib.blake2b(f"{what} {i}".encode(), digest_size=8 * CHANNELS).digest() for i in range(n))
    return (np.frombuffer(bits, "<u8").reshape(n, CHANNELS) % np.uint64(among)).astype(np.int64)


DATASETS = (
    Definition(
        "stacked-digits",
        title="Three random digits as colour channels, 1,000 modes, 8×8",
        shape=(3, 8, 8),
        levels=17,
        n_train=20_000,
        n_test=10_000,
        where="from digits",
        load=lambda _: load_stacked(load_digits()),
    ),
    Definition(
        "stacked-mnist",
        title="Three random MNIST as colour channels, 1,000 modes, 28×28",
        shape=(3, 28, 28),
        levels=256,
        n_train=20_000,
        n_test=10_000,
        where="from mnist",
        load=lambda content: load_stacked(load_idx("mnist", False, content)),
        origin=MNIST,
    ),
    Definition(
        "stacked-mnist@14",
        title="Three random MNIST as colour channels, 1,000 modes, 14×14",
        shape=(3, 14, 14),
        levels=256,
        n_train=20_000,
        n_test=10_000,
        where="from mnist",
        load=lambda content: load_stacked(load_idx("mnist", True, content)),
        origin=MNIST,
    ),
)
