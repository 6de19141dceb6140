"""The names of the data sets and what can be said of them without opening one. Standard library only.

The command line lists and completes from here, so nothing in this file may import torch, numpy or scikit-learn.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from paradigms.errors import BadInput, unknown
from paradigms.plugins import Door

if TYPE_CHECKING:
    from bench.data.dataset import Dataset
    from bench.data.files import Found, Origin

__all__ = [
    "ARRAY",
    "DOOR",
    "FOLDER",
    "ArrayName",
    "Definition",
    "FolderName",
    "Info",
    "Name",
    "OwnData",
    "describe",
    "info",
    "is_stored",
    "known",
    "own_data",
    "readable",
    "stored",
]

FOLDER, ARRAY = "folder:", "array:"
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
    classes: int = 0
    levels: int = 0
    n_train: int = 0
    n_test: int = 0
    where: str = ""


@dataclass(frozen=True)
class Definition(Info):
    """A data set, whole, as it stands in `DATASETS` at the foot of its file.

    load:     makes the `Dataset` of the verified files of `origin`, by name; of none where there is no origin.
    origin:   the files that it is read from: their sizes, checksums and addresses.
    checksum: sha256 of the loaded tensors (`Dataset.checksum`), refused where it is another; "" where origin has checked.
    """

    load: Callable[[Mapping[str, Found]], Dataset] = field(kw_only=True, compare=False)
    origin: Origin | None = None
    checksum: str = ""


DOOR = Door(
    "bench.datasets",
    "DATASETS",
    "Definition",
    "bench.data.names",
    "bench.data",
    frozenset({"names", "sets", "files", "whole"}),
    frozenset(f.name for f in fields(Info)),
)


def known() -> Mapping[str, Info]:
    """Every data set that has a name, by it: ours and what other packages add. Nothing heavy is imported."""
    return _known(tuple(sys.path), DOOR.points())


@lru_cache(maxsize=4)
def _known(path: tuple[str, ...], points: tuple[EntryPoint, ...]) -> Mapping[str, Info]:
    described = DOOR.described()
    return {name: _info(described[name]) for name in sorted(described)}


def _info(described: Mapping[str, Any]) -> Info:
    """What a definition says. Of a plugin that can not be loaded only its name is known."""
    usual = {"title": "", "shape": ()}
    return Info(**(usual | {name: value for name, value in described.items() if name in DOOR.listed}))


_FOLDER_INFO = Info("folder:PATH@SIZE", "Your own images, square, SIZE px (32)", (), 0, 256, 0, 0, "a folder of images")
_ARRAY_INFO = Info(
    "array:PATH.npz", "Your own images or vectors, arrays x and y", (), 0, 0, 0, 0, "a file of numpy arrays"
)


def describe() -> list[Info]:
    """Every data set that can be named, the forms of a user's own data last."""
    return [*known().values(), _FOLDER_INFO, _ARRAY_INFO]


def info(name: str) -> Info:
    """What is known of `name`. BadInput, with the nearest name that exists, when there is none."""
    if name.startswith(FOLDER):
        folder = FolderName.parse(name)
        return replace(_FOLDER_INFO, name=name, title=f"Images of {folder.base}, {folder.size} px")
    if name.startswith(ARRAY):
        return replace(_ARRAY_INFO, name=name, title=f"Examples in {ArrayName.parse(name).base}")
    if (found := known().get(name)) is not None:
        return found
    if os.path.isdir(os.path.expanduser(name)):
        raise BadInput(
            f"unknown data set '{name}'; for the images in the folder of that name write {FOLDER}{name}@SIZE"
        )
    if os.path.isfile(os.path.expanduser(name)):
        raise BadInput(f"unknown data set '{name}'; for the arrays in the file of that name write {ARRAY}{name}")
    raise unknown("data set", name, (*known(), _FOLDER_INFO.name, _ARRAY_INFO.name))


class OwnData(ABC):
    """A user's own data by where they lie. They are their content: no seed or identity depends on the place.

    path: absolute and without links, so that every spelling of it is equal.
    name: what the data set is called; "" where that is left to its content (see `called`).
    what, place: what lies there, and what kind of place it is, in words.
    """

    path: Path
    name: str
    what: ClassVar[str]
    place: ClassVar[str]

    def named(self, name: str) -> Self:
        """The same under another name."""
        return cast(Self, replace(cast(Any, self), name=name))

    @abstractmethod
    def gone(self) -> Path | None:
        """The first of its places that is not there; None where all are."""

    @abstractmethod
    def typed(self) -> list[str]:
        """The words that one types after --dataset."""

    @property
    @abstractmethod
    def form(self) -> str:
        """The same of another place, as an example."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Where it lies, for run.json; `stored` reads it."""

    @abstractmethod
    def called(self, checksum: str) -> str:
        """The data set's name: its own, else one that is equal only for equal content."""

    @abstractmethod
    def key(self, checksum: str) -> str:
        """What the data set is to seeds and identities: its content alone."""

    def __str__(self) -> str:
        """As one types it after --dataset."""
        return shlex.join(self.typed())


@dataclass(frozen=True)
class FolderName(OwnData):
    """A folder of images by where it lies: `folder:PATH` or `folder:PATH@SIZE`, taken apart.

    path: absolute and without links, so that every spelling of it is equal. test: the folder of a held-out part.
    name: what the data set is called; "" where that is left to its content (see `called`).
    """

    path: Path
    size: int = 32
    test: Path | None = None
    name: str = ""
    what: ClassVar[str] = "images"
    place: ClassVar[str] = "folder"

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

    def gone(self) -> Path | None:
        return next((path for path in (self.path, self.test) if path is not None and not os.path.isdir(path)), None)

    def typed(self) -> list[str]:
        return [f"{FOLDER}{self.path}@{self.size}"] + (["--test", str(self.test)] if self.test else [])

    @property
    def form(self) -> str:
        return f"{FOLDER}PATH@{self.size}"

    @property
    def base(self) -> str:
        """The last part of the path, fit to be shown."""
        return _shown(self.path.name) or "images"

    def called(self, checksum: str) -> str:
        return self.name or f"{self.base}@{self.size}-{checksum[:8]}"

    def key(self, checksum: str) -> str:
        return f"{FOLDER}{checksum}@{self.size}"


@dataclass(frozen=True)
class ArrayName(OwnData):
    """A file of numpy arrays by where it lies: `array:PATH`, an .npz or .npy."""

    path: Path
    name: str = ""
    what: ClassVar[str] = "examples"
    place: ClassVar[str] = "file"

    @staticmethod
    def parse(name: str, own: str | None = None) -> ArrayName:
        """own: of --name. Raises BadInput."""
        path = name.removeprefix(ARRAY)
        if Path(path).suffix.lower() not in (".npz", ".npy"):
            raise BadInput(f"'{name}' names no .npz or .npy file; write array:PATH.npz")
        return ArrayName(_real(path), _own(own))

    @staticmethod
    def is_stored(source: Any) -> bool:
        """Whether a value out of JSON is what `as_json` gave."""
        path = source.get("array") if isinstance(source, Mapping) and source.keys() == {"array"} else None
        return isinstance(path, str) and bool(path) and "\0" not in path

    def as_json(self) -> dict[str, Any]:
        return {"array": str(self.path)}

    def gone(self) -> Path | None:
        return None if os.path.isfile(self.path) else self.path

    def typed(self) -> list[str]:
        return [f"{ARRAY}{self.path}"]

    @property
    def form(self) -> str:
        return f"{ARRAY}PATH.npz"

    @property
    def base(self) -> str:
        """The name of the file without its suffix, fit to be shown."""
        return _shown(self.path.stem).replace(":", "-") or "array"

    def called(self, checksum: str) -> str:
        return self.name or f"{self.base}-{checksum[:8]}"

    def key(self, checksum: str) -> str:
        return f"{ARRAY}{checksum}"


Name = str | OwnData  # how a data set is asked for


def own_data(name: str, test: Path | None = None, called: str | None = None) -> OwnData | None:
    """What a user's own data are named by, as typed; None for another name. test, called: of --test and --name.

    Raises BadInput.
    """
    if name.startswith(FOLDER):
        return FolderName.parse(name, test, called)
    if not name.startswith(ARRAY):
        return None
    if test is not None:
        raise BadInput(
            "--test goes with folder:PATH; a file of arrays holds its own held-out part, as x_test and y_test"
        )
    return ArrayName.parse(name, called)


def is_stored(source: Any) -> bool:
    """Whether a value out of JSON is what `OwnData.as_json` gave."""
    return FolderName.is_stored(source) or ArrayName.is_stored(source)


def stored(source: Mapping[str, Any], name: str) -> OwnData:
    """What `OwnData.as_json` gave, under the name that the data set had."""
    return ArrayName(Path(source["array"]), name) if "array" in source else FolderName.stored(source, name)


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in readable(name))[: LONGEST - 24]


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def _own(name: str | None) -> str:
    """The name of --name, or "". Raises BadInput for one that has another meaning or can not be shown."""
    if name is None:
        return ""
    shown = " ".join(readable(name).split())
    if not shown or not shown.isprintable() or len(shown) > LONGEST or not any(map(str.isalnum, shown)):
        raise BadInput(f"--name must have 1 to {LONGEST} characters that can be shown, a letter or digit among them")
    if shown in known() or shown.startswith((FOLDER, ARRAY)) or shown == "report":
        raise BadInput(f"--name {shown} means something else here; choose another")
    return shown
