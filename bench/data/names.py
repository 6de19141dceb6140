"""The names of the data sets and what can be said of them without opening one. Standard library only.

The command line lists and completes from here, so nothing in this file may import torch, numpy or scikit-learn.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paradigms.errors import BadInput, unknown

__all__ = ["DATASETS", "FOLDER", "NAMES", "FolderName", "Info", "Name", "describe", "info", "readable"]

FOLDER = "folder:"
SIZES = range(2, 1025)
LONGEST = 64  # characters of a data set's name


def readable(text: str) -> str:
    """Text that can be written as UTF-8: a byte of a file's name that is none (as `os.fsdecode` keeps it) becomes \\xff."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


@dataclass(frozen=True)
class Info:
    """What a data set is, before it is loaded.

    shape:  (C, H, W) of an image, (D,) of a vector; () where only the files can tell.
    levels: integer values a pixel takes; 0 = real-valued. classes: labels the set has; 0 = none.
    n_train, n_test: examples in each split; 0 where only the files can tell.
    where:  where the examples come from.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    classes: int
    levels: int
    n_train: int
    n_test: int
    where: str


_IDX = "IDX files: --from PATH, cache, {system}download"
_TOY = "generated; log p known in closed form"
_STACKED = "Three random {} as colour channels, 1,000 modes, {}"

DATASETS: tuple[Info, ...] = (
    Info("digits", "Handwritten digits, 8×8", (1, 8, 8), 10, 17, 899, 898, "ships with scikit-learn"),
    Info("ring8", "Eight Gaussians on a ring", (2,), 8, 0, 20_000, 10_000, _TOY),
    Info("grid25", "Twenty-five Gaussians on a grid", (2,), 25, 0, 20_000, 10_000, _TOY),
    Info("moons", "Two noisy half circles", (2,), 2, 0, 20_000, 10_000, "generated; log p by quadrature to 1e-10"),
    Info("checkerboard", "Uniform on the black squares of a 4×4 board", (2,), 8, 0, 20_000, 10_000, _TOY),
    Info("gmm16", "Sixteen tilted Gaussians in 16 dimensions", (16,), 16, 0, 20_000, 10_000, _TOY),
    Info("stacked-digits", _STACKED.format("digits", "8×8"), (3, 8, 8), 0, 17, 20_000, 10_000, "from digits"),
    Info("stacked-mnist", _STACKED.format("MNIST", "28×28"), (3, 28, 28), 0, 256, 20_000, 10_000, "from mnist"),
    Info("stacked-mnist@14", _STACKED.format("MNIST", "14×14"), (3, 14, 14), 0, 256, 20_000, 10_000, "from mnist"),
    Info("mnist", "MNIST, 28×28", (1, 28, 28), 10, 256, 60_000, 10_000, _IDX.format(system="")),
    Info("mnist@14", "MNIST, 2×2 means, 14×14", (1, 14, 14), 10, 256, 60_000, 10_000, "from mnist"),
    Info(
        "fashion-mnist",
        "Fashion-MNIST, 28×28",
        (1, 28, 28),
        10,
        256,
        60_000,
        10_000,
        _IDX.format(system="/usr/share/datasets/fashion-mnist, "),
    ),
    Info(
        "fashion-mnist@14",
        "Fashion-MNIST, 2×2 means, 14×14",
        (1, 14, 14),
        10,
        256,
        60_000,
        10_000,
        "from fashion-mnist",
    ),
    Info(
        "cifar10",
        "CIFAR-10, 32×32 colour",
        (3, 32, 32),
        10,
        256,
        50_000,
        10_000,
        "cifar-10-binary.tar.gz: --from PATH, cache, download",
    ),
)

NAMES: tuple[str, ...] = tuple(d.name for d in DATASETS)

_FOLDER_INFO = Info("folder:PATH@SIZE", "Your own images, square, SIZE px (32)", (), 0, 256, 0, 0, "a folder of images")


def describe() -> list[Info]:
    """Every data set that can be named, the folder form last."""
    return [*DATASETS, _FOLDER_INFO]


def info(name: str) -> Info:
    """What is known of `name`. BadInput, with the nearest name that exists, when there is none."""
    if name.startswith(FOLDER):
        folder = FolderName.parse(name)
        return replace(_FOLDER_INFO, name=name, title=f"Images of {folder.base}, {folder.size} px")
    for known in DATASETS:
        if known.name == name:
            return known
    if os.path.isdir(os.path.expanduser(name)):
        raise BadInput(
            f"unknown data set '{name}'; for the images in the folder of that name write {FOLDER}{name}@SIZE"
        )
    raise unknown("data set", name, (*NAMES, _FOLDER_INFO.name))


@dataclass(frozen=True)
class FolderName:
    """A folder of images by where it lies: `folder:PATH` or `folder:PATH@SIZE`, taken apart.

    path: absolute and without links, so that every spelling of it is equal. test: the folder of a held-out part.
    name: what the data set is called; "" where that is left to its content (see `called`).
    """

    path: Path
    size: int = 32
    test: Path | None = None
    name: str = ""

    @staticmethod
    def parse(name: str, test: Path | None = None, own: str | None = None) -> FolderName:
        """A trailing `@` and digits are always the size. test, own: of --test and --name. Raises BadInput."""
        text = name.removeprefix(FOLDER)
        path, at, size = text.rpartition("@")
        if not (at and size.isascii() and size.isdigit()):
            path, size = text, "32"
        if not path:
            raise BadInput(f"'{name}' names no folder; write folder:PATH or folder:PATH@SIZE")
        if len(size) > 5 or int(size) not in SIZES:
            raise BadInput(f"'{name}': SIZE must be between {SIZES[0]} and {SIZES[-1]} pixels")
        return FolderName(_real(path), int(size), None if test is None else _real(test), _own(own))

    @staticmethod
    def is_stored(source: Any) -> bool:
        """Whether a value out of JSON is what `as_json` gave."""
        if not isinstance(source, Mapping) or not {"folder", "size"} <= source.keys() <= {"folder", "size", "test"}:
            return False
        paths = [path for name, path in source.items() if name != "size"]
        texts = all(isinstance(path, str) and path and "\0" not in path for path in paths)
        return texts and type(source["size"]) is int and source["size"] in SIZES

    @staticmethod
    def stored(source: Mapping[str, Any], name: str) -> FolderName:
        """What `as_json` gave, under the name that the data set had."""
        test = source.get("test")
        return FolderName(Path(source["folder"]), int(source["size"]), Path(test) if test else None, name)

    def as_json(self) -> dict[str, Any]:
        return {"folder": str(self.path), "size": self.size} | ({"test": str(self.test)} if self.test else {})

    def __str__(self) -> str:
        """As one types it after --dataset."""
        test = f" --test {shlex.quote(str(self.test))}" if self.test else ""
        return shlex.quote(f"{FOLDER}{self.path}@{self.size}") + test

    @property
    def base(self) -> str:
        """The last part of the path, fit to be shown."""
        shown = "".join(c if c.isprintable() else "?" for c in readable(self.path.name))
        return shown[: LONGEST - 24] or "images"

    def called(self, checksum: str) -> str:
        """The data set's name: its own, else one that is equal only for equal images."""
        return self.name or f"{self.base}@{self.size}-{checksum[:8]}"

    def key(self, checksum: str) -> str:
        """What the data set is to seeds and identities: its content alone."""
        return f"{FOLDER}{checksum}@{self.size}"


Name = str | FolderName  # how a data set is asked for


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def _own(name: str | None) -> str:
    """The name of --name, or "". Raises BadInput for one that has another meaning or can not be shown."""
    if name is None:
        return ""
    shown = " ".join(readable(name).split())
    if not shown or not shown.isprintable() or len(shown) > LONGEST or not any(map(str.isalnum, shown)):
        raise BadInput(f"--name must have 1 to {LONGEST} characters that can be shown, a letter or digit among them")
    if shown in NAMES or shown.startswith(FOLDER) or shown == "report":
        raise BadInput(f"--name {shown} means something else here; choose another")
    return shown
