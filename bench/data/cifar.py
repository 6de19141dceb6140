"""CIFAR-10, from its binary version: six files of 10,000 records, each a label byte and 3,072 pixel bytes, plane by
plane (red, green, blue), row by row. Order kept: batches 1 to 5 are the training split, as published.

The Python version of the archive holds pickles, which can run code when opened; it is never read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bench.data.dataset import Dataset, checksum
from bench.data.files import Found, Origin, Part
from bench.data.names import Definition
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput

__all__ = ["CIFAR10", "load_cifar10", "parse_batch"]

RECORD = 1 + 3 * 32 * 32
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
_PICKLES = (
    "the Python version, made of pickles, which are never opened; "
    "get https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz instead"
)

# Each of these contents also has the md5 that is published for the binary version.
CIFAR10 = Origin(
    "cifar10",
    tuple(
        Part(name, 10_000 * RECORD, sha256)
        for name, sha256 in (
            ("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            ("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            ("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            ("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            ("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            ("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        )
    ),
    ("https://www.cs.toronto.edu/~kriz/",),
    archive="cifar-10-binary.tar.gz",
    archive_size=170_052_171,
    refused=(("cifar-10-python.tar.gz", _PICKLES), ("data_batch_1", _PICKLES)),
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCE = "CIFAR-10, Krizhevsky (2009), the canonical binary batches in their published order; no formal licence"


def load_cifar10(content: Mapping[str, Found]) -> Dataset:
    """CIFAR-10, (N, 3, 32, 32), of its files by name."""
    space = Space((3, 32, 32), classes=10, levels=256)
    splits = []
    for names in (TRAIN, TEST):
        batches = [parse_batch(content[name].data, name) for name in names]
        pixels = np.concatenate([p for p, _ in batches])
        labels = np.concatenate([y for _, y in batches])
        splits.append(Data(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), space))
    train, test = splits
    return Dataset("cifar10", space, train, test, checksum(train, test), CLASSES, source=SOURCE)


def parse_batch(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3, 32, 32) and labels (N,), uint8, of one binary batch; views of `data`."""
    if not data or len(data) % RECORD:
        raise BadInput(f"{where} is no whole number of CIFAR-10 records ({len(data):,} bytes, {RECORD:,} a record)")
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise BadInput(f"{where} has a label {labels.max()}; labels go from 0 to 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


DATASETS = (
    Definition(
        "cifar10",
        title="CIFAR-10, 32×32 colour",
        shape=(3, 32, 32),
        classes=10,
        levels=256,
        n_train=50_000,
        n_test=10_000,
        where="cifar-10-binary.tar.gz: --from PATH, cache, download",
        load=load_cifar10,
        origin=CIFAR10,
    ),
)
