"""scikit-learn's `digits`: 1,797 real handwritten digits, 8×8, integers 0 to 16. The default data set: no download.

About half is held out, because a Frechet distance wants ten samples for each feature: within each class the images are
put in the order of a hash of their index and cut in the middle; classes with an odd number give the odd image to
training and to held-out in turn. That makes 899 training and 898 held-out images, the same on every machine, whatever
the version of any library.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import torch

from bench.data.dataset import Dataset, checksum
from bench.data.files import unpacked
from bench.data.names import Definition
from bench.data.whole import read_whole
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput

__all__ = ["load_digits"]

SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
MOST = 1 << 20  # bytes of the file, packed or unpacked: four times what it holds
SOURCE = (
    "UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), test part, as shipped with "
    "scikit-learn; CC BY 4.0"
)


def load_digits() -> Dataset:
    """The data set, checked against the checksum of the decoded images and labels."""
    pixels, labels = _read()
    found = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    if found != SHA256:
        raise BadInput(
            f"scikit-learn's digits are not the known 1,797 images (sha256 {found[:12]}, expected {SHA256[:12]}); "
            "reinstall scikit-learn"
        )
    space = Space((1, 8, 8), classes=10, levels=17)
    train, test = (
        Data(torch.from_numpy(pixels[i]).view(-1, 1, 8, 8), torch.from_numpy(labels[i]).long(), space)
        for i in split(labels)
    )
    return Dataset("digits", space, train, test, checksum(train, test), tuple("0123456789"), source=SOURCE)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (899,) of the training and (898,) of the held-out images, each in ascending order."""
    train: list[int] = []
    test: list[int] = []
    odd = 0
    for label in range(10):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=_order)
        half = len(members) // 2
        if len(members) % 2:
            half += odd % 2 == 0
            odd += 1
        train += members[:half]
        test += members[half:]
    return np.array(sorted(train)), np.array(sorted(test))


def _order(index: int) -> bytes:
    return hashlib.blake2b(f"digits {index}".encode(), digest_size=8).digest()


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 64) and labels (1797,), uint8. Raises BadInput when the file is damaged or is not there.

    The file is read where scikit-learn keeps it: importing scikit-learn takes a second, and every job loads the set.
    """
    spec = importlib.util.find_spec("sklearn")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place, "datasets", "data", "digits.csv.gz")
        if path.exists():
            try:
                text = unpacked(read_whole(path, MOST), MOST, str(path))
                table = np.array([line.split(b",") for line in text.split()], dtype="S32").astype(np.float64)
                with np.errstate(invalid="ignore"):  # what is no byte becomes another number, and that is noticed
                    return table[:, :-1].astype(np.uint8), table[:, -1].astype(np.uint8)
            except (BadInput, ValueError, IndexError) as error:
                raise BadInput(
                    f"the digits of scikit-learn are damaged: {path} ({error}); reinstall scikit-learn"
                ) from None
    try:
        from sklearn.datasets import load_digits as read

        bunch = read()
    except (ImportError, OSError) as error:
        raise BadInput(f"the digits of scikit-learn are not there ({error}); reinstall scikit-learn") from None
    return bunch.data.astype(np.uint8), bunch.target.astype(np.uint8)


DATASETS = (
    Definition(
        "digits",
        title="Handwritten digits, 8×8",
        shape=(1, 8, 8),
        classes=10,
        levels=17,
        n_train=899,
        n_test=898,
        where="ships with scikit-learn",
        load=lambda _: load_digits(),
    ),
)
