"""The arrays of a file: judged by their heads, and unpacked only where they are plain numbers of a size that fits."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import safetensors
import torch
from torch import Tensor

from paradigms.errors import BadInput
from reports.words import shortened

__all__ = ["Array", "array_of", "heads", "not_an_archive", "refuse_size", "tensor_of", "unpacked"]

LARGEST = 4 << 30  # bytes of an array: it is held in memory, and a small file can unpack to any size
MEMBERS = 1000  # arrays of an archive


class Array(NamedTuple):
    """An array of a file as its head tells it, and how to read it: nothing is unpacked before it was judged."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def ndim(self) -> int:
        return len(self.shape)


def array_of(values: np.ndarray) -> Array:
    """An array that is in memory already."""
    return Array(values.dtype, values.shape, lambda: values)


@contextmanager
def heads(path: Path) -> Iterator[dict[str, Array]]:
    """The arrays of a file by name ("" in an .npy), to be read while it is open.

    What is no array of numbers stands as one of Python objects, which are never loaded: it may be no more than a note.
    """
    if path.suffix.lower() == ".safetensors":
        with safetensors.safe_open(path, "pt") as tensors:
            yield {name: _head_of_tensor(tensors, name) for name in tensors.keys()}  # noqa: SIM118 (it is no dict)
        return
    with open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            yield {"": _head_of_npy(lambda: path.open("rb"), path)}
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if not {info.compress_type for info in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise not_an_archive(path)  # what numpy does not write
            if len(members) > MEMBERS:
                raise BadInput(f"{path} holds {len(members):,} arrays, and at most {MEMBERS:,} are looked at")
            names = [info.filename.removesuffix(".npy") for info in members]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise BadInput(
                    f"{path} holds several arrays called {shortened(twice, 80)}; write each under its own name"
                )
            yield {
                name: _head_of_npy(partial(archive.open, info.filename), path)
                for name, info in zip(names, members, strict=True)
            }


def _head_of_npy(opened: Callable[[], IO[bytes]], path: Path) -> Array:
    try:
        with opened() as file:
            version = np.lib.format.read_magic(file)
            head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = head(file)
    except (ValueError, MemoryError):  # also of a head that is nested too deeply to be parsed
        dtype = np.dtype(object)
    if dtype.hasobject:
        return Array(np.dtype(object), (), lambda: np.array(None, dtype=object))

    def read() -> np.ndarray:
        with opened() as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):  # numpy.save into a file that is open already appends
                raise BadInput(
                    f"{path} holds more behind an array; write all samples as one array, with numpy.save(path, x)"
                )
            return array

    return Array(dtype, shape, read)


def _head_of_tensor(file: Any, name: str) -> Array:
    head = file.get_slice(name)
    kind = head.get_dtype()
    # numpy knows no floats of fewer than 16 bits and not all of 16: `numbers` makes them wider
    dtype = TYPES.get(kind, np.dtype(np.float32 if kind.startswith(("F", "BF")) else object))
    return Array(dtype, tuple(head.get_shape()), lambda: numbers(file.get_tensor(name).clone()))  # no view of the file


TYPES = {
    f"{kind.upper()}{8 * size}": np.dtype(f"{kind}{size}") for kind in "iuf" for size in (1, 2, 4, 8)[kind == "f" :]
}

TYPES["BOOL"] = np.dtype(bool)


def unpacked(array: Array, path: Path) -> np.ndarray:
    """An array read, where it is not too large."""
    refuse_size(array, path)
    return array.read()


def refuse_size(array: Array, path: Path) -> None:
    size = math.prod(array.shape) * array.dtype.itemsize
    if size > LARGEST:
        raise BadInput(
            f"{path} holds an array of shape {array.shape}, which unpacks to {size / 2**30:,.1f} GiB, and at most "
            f"{LARGEST / 2**30:g} GiB are read; give fewer samples, as 8-bit integers"
        )


def not_an_archive(path: Path) -> BadInput:
    return BadInput(
        f"can not read samples from {path}: it is no whole .npz, .npy or .safetensors file of plain numbers; "
        "write one with numpy.savez(path, samples=x)"
    )


def numbers(tensor: Tensor) -> np.ndarray:
    """A tensor as numpy has it, which knows no floats of fewer than 16 bits and not all of 16."""
    short = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if short else tensor).numpy()


def tensor_of(array: np.ndarray) -> Tensor:
    """Any width and byte order of numbers in one that torch can work with."""
    if array.dtype.kind == "f":
        kind: type[np.generic] = np.float32 if array.dtype.itemsize <= 4 else np.float64
    elif array.dtype == np.uint64:
        array, kind = array.clip(max=2**62), np.int64
    else:
        kind = np.uint8 if array.dtype == np.uint8 else np.int64
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return torch.from_numpy(np.require(array, kind, ["C", "W"]))
