"""Anyone's samples, from a file, a folder or memory, as the data is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import reading
from bench.data import Dataset
from bench.data.folder import SUFFIXES
from bench.reading import Range
from bench.scores.arrays import Array, array_of, heads, not_an_archive, numbers, refuse_size, tensor_of, unpacked
from bench.scores.image_folder import read_folder
from bench.scores.target import SAMPLE, WAYS, Resize, Samples, Target, resized
from bench.scores.work import OnProgress, silent
from paradigms.core.data import Space
from paradigms.errors import BadInput
from reports.words import shortened

__all__ = ["read_samples", "samples_of"]

LABELS = ("labels", "y")  # the usual names of an array of labels


def read_samples(
    path: Path,
    space: Space,
    resize: Resize | None = None,
    *,
    span: Range | None = None,
    crop: bool = False,
    found: Dataset | None = None,
    on_progress: OnProgress = silent,
) -> Samples:
    """Samples as the data is stored: integers 0 ... L - 1 (uint8), or float32 vectors. Raises BadInput.

    Arrays: integers are the data's own levels; floats are images in [-1, 1]; channels first or last. Where the bulk of
    them lies elsewhere they are refused. A file's array "labels" or "y", or a further one that can be nothing else, are
    the samples' labels. A folder is read as a folder of data is, sub-folders with it, and these are labels where they
    are called like the data's classes, or by their numbers; images hold 0 ... 255, spread evenly over the levels, as
    `bench sample --to folder/` writes them. Samples of another size are resized as `resize` says (antialiased where it
    interpolates, then rounded to the levels), or refused.

    span:  the range of the numbers, where it is not the one above; see `bench.reading`.
    crop:  the largest centred square is cut out first and resized, by Pillow's bicubic filter unless `resize` says
           otherwise: what is done to a folder of data.
    found: the data set of the space, whose own pixels and names of classes are compared.
    """
    target = Target(path, space, resize, span, crop, found)
    if path.is_dir():
        return read_folder(target, on_progress)
    if not path.exists():
        raise BadInput(f"{path} does not exist; give an .npz, .npy or .safetensors file, a folder of images or a run")
    if path.suffix.lower() in SUFFIXES:
        raise BadInput(f"{path} is one picture; give a folder of them, or an .npz, .npy or .safetensors file")
    if not path.is_file():  # a pipe would be waited for, and can not be read twice
        raise BadInput(f"{path} is no regular file; give an .npz, .npy or .safetensors file, or a folder of images")
    try:
        with heads(path) as arrays:
            x, labels, unused = _taken(*_only_array(arrays, path), target)
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(f"{path} holds more than there is memory for; give fewer samples, as 8-bit integers") from None
    except OSError as error:
        if error.strerror:
            raise BadInput(f"can not read {path}: {error.strerror}") from None
        raise not_an_archive(path) from None
    except Exception:  # numpy raises whatever it finds first, with advice that does not apply here
        raise not_an_archive(path) from None
    return _as_stored(x, labels, target, unused)


def samples_of(
    x: Any,
    y: Any,
    space: Space,
    resize: Resize | None = None,
    *,
    span: Range | None = None,
    crop: bool = False,
    found: Dataset | None = None,
) -> Samples:
    """The same of an array of samples, and of their labels (N,) if there are any: whatever numpy takes, or tensors."""
    target = Target(SAMPLE, space, resize, span, crop, found)
    samples, others = array_of(_held(x)), {} if y is None else {LABELS[0]: array_of(_held(y))}
    if others and not space.classes:
        raise BadInput("the data set has no classes; leave out the labels")
    tensor, labels, unused = _taken(samples, others, target)
    return _as_stored(tensor, labels, target, unused)


def _held(x: Any) -> np.ndarray:
    """What someone gave for an array, as numpy has it. Raises BadInput."""
    try:
        return numbers(x.detach().cpu()) if isinstance(x, Tensor) else np.asarray(x)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{SAMPLE} are no array of numbers ({' '.join(str(error).split())[:100]})") from None


def _only_array(file: Mapping[str, Array], path: Path) -> tuple[Array, dict[str, Array]]:
    """The array with one of the usual names, else the only one that can be samples: labels are flat; and the others."""
    every = dict(file)
    usual = next((n for n in ("samples", "x", "images") if n in every and every[n].ndim > 1), None)  # else a count
    if usual is not None:
        return every.pop(usual), every
    arrays = {name: array for name, array in every.items() if name not in LABELS}
    able = {name: array for name, array in arrays.items() if array.ndim > 1} or arrays
    if not able:
        raise BadInput(f"{path} holds no array of samples; write one with numpy.savez(path, samples=x)")
    if len(able) > 1:
        raise BadInput(
            f"{path} holds {len(able)} arrays, {shortened(', '.join(able), 200)}: which are the samples? name that one "
            "'samples', as in numpy.savez(path, samples=x)"
        )
    return every.pop(next(iter(able))), every


def _square(x: Tensor) -> Tensor:
    """The largest centred square of images (N, C, H, W), cut where a folder of data cuts it."""
    side = min(x.shape[2:])
    top, left = ((length - side) // 2 for length in x.shape[2:])
    return x[:, :, top : top + side, left : left + side]


def _taken(array: Array, others: Mapping[str, Array], target: Target) -> tuple[Tensor, Tensor | None, list[str]]:
    """The numbers of samples, their labels among other arrays, and what was done with those. Raises BadInput."""
    if array.dtype.kind not in "uif":
        held = f"{array.dtype}" if array.dtype.kind != "O" else "Python objects"
        bits = "; write them as uint8 and say --range 0..1" if array.dtype.kind == "b" else ""
        raise BadInput(f"{target.path} must hold an array of integers or floats, not of {held}{bits}")
    refuse_size(array, target.path)
    _arranged(torch.empty(array.shape, device="meta"), target)
    labels, unused = _labels_in(others, array.shape[0], target)
    return tensor_of(unpacked(array, target.path)), labels, unused


def _labels_in(others: Mapping[str, Array], n: int, target: Target) -> tuple[Tensor | None, list[str]]:
    """Labels (n,) among the arrays of a file that are not its samples, and what was done with those arrays.

    They have a usual name, or are the only n integers that can be labels. A data set without classes has no use for them.
    """
    classes = target.space.classes
    name = next((name for name in LABELS if name in others), None)
    if name is None:
        able = [key for key, array in others.items() if _may_be_labels(array, n, target)]
        name = able[0] if len(able) == 1 else None
    notes = [] if name is None or name in LABELS or not classes else [f"{name} taken as labels"]
    if unused := [key for key in others if key != name or not classes]:
        why = "" if classes else ", as the data set has no classes"
        notes.append(f"not used: {shortened(', '.join(unused), 200)}{why}")
    return None if name is None or not classes else _checked_labels(others[name], n, target), notes


def _may_be_labels(array: Array, n: int, target: Target) -> bool:
    """Whether an array holds n labels of the data set's classes."""
    if array.dtype.kind not in "ui" or array.shape != (n,) or not n:
        return False
    values = unpacked(array, target.path)
    return 0 <= int(values.min()) <= int(values.max()) < target.space.classes


def _checked_labels(array: Array, n: int, target: Target) -> Tensor:
    """Labels (n,) of the data set's classes. Raises BadInput."""
    path, classes = target.path, target.space.classes
    if array.dtype.kind not in "ui" or array.shape != (n,):
        held = f"{array.dtype} {array.shape}" if array.dtype.kind != "O" else "something that is no array of numbers"
        raise BadInput(f"{path}: labels must be {n:,} integers, one for each sample, not {held}")
    labels = unpacked(array, path)
    if n and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise BadInput(
            f"{path}: labels {int(labels.min())} to {int(labels.max())}, but the data set has 0 to {classes - 1}"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _as_stored(x: Tensor, y: Tensor | None, target: Target, unused: list[str]) -> Samples:
    """An array and its labels as the data is stored. unused: what was done with the other arrays, in words."""
    x, how, notes = _arranged(x, target)
    x, taken = _as_integers(x, target)
    done = ""
    if tuple(x.shape[1:]) != target.space.shape:
        assert how is not None
        x, done = resized(x, target.path, target.space, how)
    return Samples(x, y, done, "; ".join(part for part in (taken, *notes, *unused) if part))


def _arranged(x: Tensor, target: Target) -> tuple[Tensor, Resize | None, list[str]]:
    """An array with its axes in order and cut, how it is to be resized, and what was done, in words.

    Raises BadInput where its shape does not fit. It reads no value: x may be on torch's device "meta".
    """
    space, resize, whole = target.space, target.resize, tuple(x.shape)
    if space.is_image:
        channels = space.shape[0]
        if channels == 1 and x.ndim == 3:
            x = x[:, None]
        elif x.ndim == 4 and x.shape[3] == channels != x.shape[1]:
            x = x.movedim(-1, 1)
    asked = ", ".join(map(str, space.shape))
    refused = f"{target.path} holds an array of shape {whole}, but samples of the data set have shape (N, {asked})"
    if x.ndim and not len(x):
        raise BadInput(f"{target.path} holds no sample: an array of shape {whole}")
    if not x.ndim:
        raise BadInput(refused)
    notes: list[str] = []
    if tuple(x.shape[1:]) != space.shape:
        if not space.is_image or x.ndim != 4 or x.shape[1] != space.shape[0] or not math.prod(x.shape):
            raise BadInput(refused)
        if target.crop and x.shape[2] != x.shape[3]:
            x = _square(x)
            notes.append("cut to the largest centred square")
        if target.crop:
            resize = resize or "bicubic"
        if resize is None:
            raise BadInput(f"{refused}; resize them yourself, or say how with --resize {'|'.join(WAYS)}")
    return x, resize, notes


def _as_integers(x: Tensor, target: Target) -> tuple[Tensor, str]:
    """Levels of the data, or vectors as float32, and what the numbers were taken for, in words. Raises BadInput."""
    path, space, span = target.path, target.space, target.span
    if x.is_floating_point():
        x = x.float()
        whole = torch.isfinite(x).flatten(1).all(dim=1)
        if not whole.all():
            bad = (~whole).nonzero().flatten()
            raise BadInput(
                f"{path} holds numbers that are not finite, in {len(bad):,} of {len(x):,} samples, the first of them "
                f"{int(bad[0])} (from 0); repair the model or leave those out, and say so"
            )
        return reading.from_floats(x, path, space, span, target.real) if space.levels else (x, "")
    return reading.from_integers(x, path, space, span, target.real) if space.levels else (x.float(), "")
