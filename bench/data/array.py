"""A file of anyone's examples as a data set: `array:PATH.npz` or `array:PATH.npy`.

    x       images: integers 0 to 255, (N, H, W), (N, H, W, C) or (N, C, H, W), square, C = 1 or 3;
            or vectors: floats (N, D), kept as float32
    y       their classes (N,): integers, truth values or texts; may be wanting
    x_test  the held-out part, in the shape of x, and y_test its classes

An .npy file holds x alone; `samples` and `labels`, as `bench sample --to x.npz` calls them, are read as x and y.

Without x_test an example is held out (about one in five) by a hash of its content, so that the split does not depend on
the order, survives added examples and leaves no copy of a training example held out. Classes are numbered in the order of
their values. The data set is its content: its name is the file's, and the first digits of the checksum.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.dataset import HELD_OUT, Dataset, checksum
from bench.data.files import cache_folder
from bench.data.names import ARRAY, SIZES, ArrayName, readable
from bench.data.whole import read_whole
from paradigms.core.data import Data, Space
from paradigms.errors import BadInput

__all__ = ["as_numpy", "keep_arrays", "load_array"]

LARGEST = 2 << 30  # bytes of a file's arrays: they are held in memory
ALSO = {"samples": "x", "images": "x", "labels": "y", "labels_test": "y_test"}  # other names of the arrays
WANTED = ("x", "y", "x_test", "y_test")
DIMENSIONS = 1 << 16  # of a vector, at most


def load_array(place: ArrayName) -> Dataset:
    """The data set of a file. Raises BadInput where it is damaged, too large, or its arrays are no data."""
    found = _made(_read(place.path), str(place.path))
    name = place.called(found.checksum)
    return replace(found, name=name, source=f"arrays of {place.base}; {found.source}", own=replace(place, name=name))


def keep_arrays(arrays: Mapping[str, Any], name: str | None = None) -> ArrayName:
    """Writes arrays into the cache, in a file that is called by their content, and says where. Raises BadInput.

    arrays: by the names above, as numpy takes them. name: what the data set is called; by default "array-" and a hash.
    """
    from bench.store import write_atomic

    given = {key: _array(key, value) for key, value in arrays.items()}
    found = _made(given, "the data")
    content = hashlib.sha256(repr((found.checksum, found.labels)).encode()).hexdigest()
    path = cache_folder() / "array" / content[:24] / "array.npz"
    if not path.is_file() or not _is_of(path, found):
        packed = io.BytesIO()
        np.savez(packed, **given)  # type: ignore[arg-type]
        write_atomic(path, packed.getvalue())
    return ArrayName.parse(f"{ARRAY}{path}", name)


def _is_of(path: Path, found: Dataset) -> bool:
    """Whether a file is whole and holds these examples; what is damaged is written anew."""
    try:
        kept = _made(_read(path), str(path))
    except BadInput:
        return False
    return (kept.checksum, kept.labels) == (found.checksum, found.labels)


def as_numpy(value: Any) -> np.ndarray:
    """A tensor, of bfloat16 as float32, or anything that numpy takes, as an array. Raises ValueError and TypeError."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value
    return np.asarray(value)


def _array(key: str, value: Any) -> np.ndarray:
    try:
        return as_numpy(value)
    except (ValueError, TypeError) as error:
        raise BadInput(f"the data: {key} is no array of numbers ({' '.join(str(error).split())[:100]})") from None


# -------------------------------------------------------------------------------------------------------- reading


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their names, an .npy's as x. Raises BadInput."""
    data = read_whole(path, LARGEST)
    try:
        if data[: len(np.lib.format.MAGIC_PREFIX)] == np.lib.format.MAGIC_PREFIX:
            return {"x": np.load(io.BytesIO(data), allow_pickle=False)}
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST:
            raise BadInput(f"{path} unpacks to {size / 2**30:,.1f} GiB, and at most {LARGEST >> 30} GiB are read")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (BadInput, MemoryError):
        raise
    except Exception:  # numpy and zipfile raise whatever they meet first
        raise BadInput(
            f"{path} is no whole .npz or .npy file of plain numbers; write one with numpy.savez(path, x=x, y=y)"
        ) from None


def _digests(x: np.ndarray) -> list[bytes]:
    """A hash of the content of each example."""
    return [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in x]


def _made(arrays: Mapping[str, np.ndarray], where: str) -> Dataset:
    """The data set of arrays, without a name. Raises BadInput, which begins with `where`."""
    known = {key: ALSO.get(key, key) for key in arrays if key in ALSO or key in WANTED}
    for name in WANTED:
        if len(twice := [key for key, meant in known.items() if meant == name]) > 1:
            raise BadInput(f"{where}: {' and '.join(twice)} are both taken as {name}; give one of them")
    named = {name: arrays[key] for key, name in known.items()}
    others = [readable(key) for key in arrays if key not in known]
    if "x" not in named and len(others) == 1 and len(arrays) == 1:
        named, others = {"x": next(iter(arrays.values()))}, []
    if "x" not in named:
        raise BadInput(f"{where}: there is no array x of examples; write one with numpy.savez(path, x=x, y=y)")
    if "y_test" in named and "x_test" not in named:
        raise BadInput(f"{where}: there is y_test without x_test; give both, or neither")
    notes = [f"not used: {', '.join(others)}"] if others else []
    x, rest = _examples(named["x"], f"{where}: x"), named.get("x_test")
    held = None if rest is None else _examples(rest, f"{where}: x_test")
    if held is not None and (held.shape[1:] != x.shape[1:] or held.dtype != x.dtype):
        raise BadInput(
            f"{where}: x holds {_kind(x)} and x_test {_kind(held)}; give a held-out part of the same kind as the examples"
        )
    y, y_held, classes = _classes(named, x, held, where, notes)
    space = Space(tuple(x.shape[1:]), len(classes), 256 if x.ndim == 4 else 0)
    digests = _digests(x)
    drawn = held is None
    if held is None:
        out = np.array([int.from_bytes(digest, "big") % HELD_OUT == 0 for digest in digests])
        if not 0 < out.sum() < len(x):
            differ = len(set(digests))
            raise BadInput(
                f"{where}: {len(x):,} examples, of which {differ:,} differ, are too few for a training and a held-out "
                "part; add more, or give x_test"
            )
        (x, held), (y, y_held) = (x[~out], x[out]), (None, None) if y is None else (y[~out], y[out])
    else:
        seen = set(digests)
        copies = sum(digest in seen for digest in _digests(held))
        notes += [f"{copies:,} of {len(held):,} held-out examples equal a training example"] if copies else []
    train, test = (
        Data(torch.from_numpy(a), None if b is None else torch.from_numpy(b), space)
        for a, b in ((x, y), (held, y_held))
    )
    source = f"{len(train):,} + {len(test):,} {'images' if space.is_image else 'vectors'}"
    return Dataset(
        "", space, train, test, checksum(train, test), classes, source=source, drawn=drawn, notes=tuple(notes)
    )


def _examples(x: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8 (N, C, H, W) or vectors as float32 (N, D), contiguous. Raises BadInput."""
    shape = f"{x.dtype} of shape {x.shape}"
    if x.nbytes > LARGEST:
        raise BadInput(
            f"{where} needs {x.nbytes / 2**30:,.1f} GiB of memory, and at most {LARGEST >> 30} GiB are taken"
        )
    if x.ndim > 0 and not x.size:
        raise BadInput(f"{where} holds no example: {shape}")
    if x.ndim == 2 and x.dtype.kind == "f":
        if not 0 < x.shape[1] <= DIMENSIONS:
            raise BadInput(f"{where}: vectors have {x.shape[1]:,} numbers, and 1 to {DIMENSIONS:,} are taken")
        with np.errstate(over="ignore"):  # what becomes infinite is refused as such
            x = np.ascontiguousarray(x, dtype=np.float32)
        if not np.isfinite(x).all():
            bad = int((~np.isfinite(x)).any(1).sum())
            raise BadInput(
                f"{where} holds numbers that are not finite, in {bad:,} of {len(x):,} examples; leave those out"
            )
        return x
    if x.ndim not in (3, 4) or x.dtype.kind not in "ui":
        hint = {"f": "images must be integers 0 to 255: round them", "b": "write images as integers 0 to 255"}
        raise BadInput(
            f"{where} is {shape}, but examples are images, integers 0 to 255 of shape (N, H, W), (N, H, W, C) or "
            f"(N, C, H, W), or vectors, floats of shape (N, D)" + (f"; {h}" if (h := hint.get(x.dtype.kind)) else "")
        )
    low, high = int(x.min()), int(x.max())
    if low < 0 or high > 255:
        raise BadInput(f"{where} holds integers {low} to {high}, but images hold 0 to 255; scale them")
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] in (1, 3) and not (x.shape[1] in (1, 3) and x.shape[2] == x.shape[3]):
        x = np.moveaxis(x, -1, 1)
    _, channels, height, width = x.shape
    if channels not in (1, 3) or height != width or height not in SIZES:
        raise BadInput(
            f"{where} is {shape}, but images must be square, of {SIZES[0]} to {SIZES[-1]} px, with 1 or 3 channels"
        )
    return np.ascontiguousarray(x, dtype=np.uint8)


def _kind(x: np.ndarray) -> str:
    return f"{'images' if x.ndim == 4 else 'vectors'} of shape {x.shape[1:]}"


def _classes(
    named: Mapping[str, np.ndarray], x: np.ndarray, held: np.ndarray | None, where: str, notes: list[str]
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    """Labels of both parts, int64, and what the classes are called; (None, None, ()) where there are none."""
    parts = [("y", x)] + ([] if held is None else [("y_test", held)])
    given = [name for name, _ in parts if name in named]
    if not given:
        return None, None, ()
    if len(given) < len(parts):
        raise BadInput(f"{where}: there is {given[0]} without {'y' if given[0] == 'y_test' else 'y_test'}; give both")
    for name, of in parts:
        y = named[name]
        if y.dtype.kind not in "uibU" or y.shape != (len(of),):
            raise BadInput(
                f"{where}: {name} must hold {len(of):,} classes, integers or texts, one for each example, not {y.dtype} of "
                f"shape {y.shape}"
            )
    if len({named[name].dtype.kind in "U" for name in given}) > 1:
        raise BadInput(f"{where}: y and y_test must both hold integers, or both texts")
    values, number = np.unique(np.concatenate([named[name] for name in given]), return_inverse=True)
    if len(values) < 2:
        notes.append("all examples have one class, so there are no labels")
        return None, None, ()
    number = number.astype(np.int64)
    own, rest = number[: len(x)], number[len(x) :]
    return own, (rest if held is not None else None), tuple(readable(str(value)) for value in values)
