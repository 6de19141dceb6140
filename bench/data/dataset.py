"""What a loaded data set is: two splits held as tensors, what one example looks like, and, for a toy, its density."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data.names import Name, OwnData
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput

__all__ = ["HELD_OUT", "Dataset", "Density", "checksum", "label_of"]


HELD_OUT = 5  # one in so many of a user's own examples, where none are given to be held out


@dataclass(frozen=True, eq=False)
class Density:
    """A toy's closed form.

    log_prob:    x (N, D) -> (N,) float64, nats; -inf outside the support. None where no closed form exists.
    sample:      (n, generator) -> x (n, D) float32 and labels y (n,) int64.
    entropy:     nats; each toy says how it was found.
    modes:       (K, D) float64 centres, in the order of the labels; None where the set has no point-like modes.
    mode_radius: a sample within this distance of its nearest mode counts for it; 0 where there are no modes.
    """

    log_prob: Callable[[Tensor], Tensor] | None
    sample: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    entropy: float | None
    modes: Tensor | None
    mode_radius: float


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set on the CPU; `train.to(device)` and `test.to(device)` move it.

    space:    `classes` is the number of labels that the set has; a model may be told none (`Data.unlabelled`).
    train, test: uint8 (N, C, H, W) for images, float32 (N, D) for vectors; labels int64 (N,), None without labels.
    checksum: sha256 over the decoded tensors of both splits.
    labels:   what each class is called.
    source:   one line: what it is, where from, which licence.
    stacked:  the data set whose images are the channels, where a mode is what each channel shows; "" elsewhere.
    own:      where the examples lie, for a user's own.
    drawn:    one in HELD_OUT of them was held out here; else the held-out part was given.
    notes:    what was decided about the files, and what was left out; a line each.
    """

    name: str
    space: Space
    train: Data
    test: Data
    checksum: str
    labels: tuple[str, ...]
    density: Density | None = None
    source: str = ""
    stacked: str = ""
    own: OwnData | None = None
    drawn: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        train: tuple[Tensor, Tensor | None],
        test: tuple[Tensor, Tensor | None],
        *,
        levels: int = 0,
        labels: tuple[str, ...] = (),
        density: Density | None = None,
        source: str = "",
    ) -> Dataset:
        """The data set of two splits (examples, labels), as a plug-in's loader gives it.

        examples: uint8 (N, C, H, W) with values below `levels`, or float32 (N, D) with levels = 0. labels of the examples:
        int64 (N,), numbers of the names in `labels`; None where there are no classes. Raises BadInput for anything else.
        """
        space = Space(tuple(train[0].shape[1:]), classes=len(labels), levels=levels)
        for split, (x, y) in (("training", train), ("held-out", test)):
            _check_split(f"data set '{name}': {split} examples", x, y, space)
        first, second = (Data(x.contiguous(), y if labels else None, space) for x, y in (train, test))
        return cls(name, space, first, second, checksum(first, second), labels, density, source)

    @property
    def place(self) -> Name:
        """What `load` gives this data set for."""
        return self.own or self.name

    @property
    def key(self) -> str:
        """What stands for the data in seeds and identities: the name, or of a user's own its content, wherever it lies."""
        return self.name if self.own is None else self.own.key(self.checksum)

    def about(self) -> list[str]:
        """Its classes with their counts, what was decided about its files, and classes without examples; a line each."""
        lines = [*self._classes(), *self.notes, *self._untold()]
        return [
            "".join(c if c.isprintable() else "?" for c in line) for line in lines
        ]  # a folder's name may hold a newline

    def _counts(self) -> list[tuple[str, int, int]]:
        """(class, training examples, held-out examples) of each class."""
        if not self.space.classes or self.train.y is None or self.test.y is None:
            return []
        counts = [part.bincount(minlength=self.space.classes).tolist() for part in (self.train.y, self.test.y)]
        names = self.labels or tuple(map(str, range(self.space.classes)))
        return list(zip(names, *counts, strict=True))

    def _classes(self) -> list[str]:
        counts = self._counts()
        if not counts:
            return ["no classes"]
        shown = ", ".join(f"{name} {train:,} + {test:,}" for name, train, test in counts[:SHOWN])
        more = f" … and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else ""
        return [f"classes, training + held-out examples: {shown}{more}"]

    def _untold(self) -> Iterator[str]:
        for what, column, so in (("training", 1, ", which no model is shown"), ("held-out", 2, "")):
            names = [str(count[0]) for count in self._counts() if not count[column]]
            if names:
                some = ", ".join(names[:SHOWN]) + (f" … and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
                yield f"{'class' if len(names) == 1 else 'classes'} without a {what} example: {some}{so}"


SHOWN = 10  # classes by name


def _check_split(what: str, x: Tensor, y: Tensor | None, space: Space) -> None:
    """Raises BadInput unless these are examples of the space."""
    kind = torch.uint8 if space.levels else torch.float32
    if tuple(x.shape[1:]) != space.shape or len(space.shape) not in (1, 3) or not len(x):
        raise BadInput(f"{what} have shape {tuple(x.shape)}; give (N, C, H, W) images or (N, D) vectors, alike in both")
    if (len(space.shape) == 3) != bool(space.levels) or not (space.levels == 0 or 2 <= space.levels <= 256):
        raise BadInput(f"{what} have levels={space.levels}; images have 2 to 256 of them, vectors none (0)")
    if x.dtype != kind:
        raise BadInput(f"{what} are {x.dtype}; with levels={space.levels} they must be {kind}")
    if space.levels and int(x.max()) >= space.levels:
        raise BadInput(f"{what} have a value {int(x.max())}; with levels={space.levels} they go to {space.levels - 1}")
    if not space.levels and not x.isfinite().all():
        raise BadInput(f"{what} are not all finite; leave these out")
    if space.classes and (y is None or y.shape != (len(x),) or y.dtype != torch.int64):
        raise BadInput(f"{what} have {space.classes} classes; give an int64 label for each")
    if space.classes and y is not None and not 0 <= int(y.min()) <= int(y.max()) < space.classes:
        raise BadInput(
            f"{what} have labels {int(y.min())} to {int(y.max())}; there are {space.classes} classes, from 0"
        )


def label_of(text: str, names: Sequence[str]) -> int | None:
    """The class, of those called `names`, that someone means by `text`; None where it is none, or not clear which.

    It is the name itself, before the name in another encoding of its letters (é as one character or as two), before that
    in other letters (a is not A where there are both), before a number. A number
    counts the classes from 0, unless classes are called by numbers: then it is a name, 1 that of the class 1 or 01.
    """
    if text in names:
        return names.index(text)
    text, *names = (unicodedata.normalize("NFC", name) for name in (text, *names))
    if names.count(text) == 1:
        return names.index(text)
    ways = [[name.casefold() for name in names]]
    if _is_number(text):
        called = any(map(_is_number, names))
        ways.append(
            [_plain(name) if _is_number(name) else "" for name in names] if called else [*map(str, range(len(names)))]
        )
    for way, wanted in zip(ways, (text.casefold(), _plain(text))):
        if way.count(wanted) == 1:
            return way.index(wanted)
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _plain(number: str) -> str:
    return number.lstrip("0") or "0"


def checksum(train: Data, test: Data) -> str:
    """sha256 over type, shape and bytes of every tensor of both splits, in order."""
    digest = hashlib.sha256()
    for tensor in (train.x, train.y, test.x, test.y):
        if tensor is None:
            digest.update(b"none;")
        else:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.reshape(-1).numpy().data)
    return digest.hexdigest()
