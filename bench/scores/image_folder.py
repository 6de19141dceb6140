"""A folder of images as samples, read by the rules for folders of data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench import reading
from bench.data import Dataset
from bench.data.dataset import label_of
from bench.data.folder import centred_square, images_below, read_image
from bench.data.names import readable
from bench.scores.target import WAYS, Samples, Target, resized
from bench.scores.work import OnProgress, silent
from paradigms.core.data import Space
from paradigms.errors import BadInput

__all__ = ["read_folder"]

LOSSY = frozenset({"jpg", "jpeg", "jpe", "jfif", "webp"})


def read_folder(target: Target, on_progress: OnProgress = silent) -> Samples:
    """The images below a folder, by the rule for folders of data: of every kind, in sub-folders too, but no hidden files.

    Raises BadInput.
    """
    path, space = target.path, target.space
    if not space.is_image:
        raise BadInput(f"{path} is a folder, but the data set holds vectors; give an .npz, .npy or .safetensors file")
    try:
        listing = images_below(path)
    except BadInput as error:
        neither = f"{path} holds neither a run.json nor PNG files or other images: {error}"
        raise BadInput(f"{neither}; give a run, or save the samples as PNG or .npz") from None
    files = [path / name for name in listing.names]
    pictures = _Pictures(target, files)
    for index, file in enumerate(files):
        if index % 100 == 0:
            on_progress("read images", index, len(files))
        pictures.read(index, file)
    x, taken = pictures.stored()
    labels, notes = folder_labels(listing.names, space, target.found)
    kinds = Counter(file.suffix.lower().removeprefix(".") for file in files)
    if len(kinds) > 1 and LOSSY & kinds.keys():
        notes.append(
            "kinds mixed, some of them lossy: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())
        )
    parts = taken, *notes, *pictures.notes(), *listing.notes
    return Samples(x, labels, pictures.sizes(), "; ".join(part for part in parts if part))


@dataclass
class _Pictures:
    """The pictures of a folder read so far, by their shape, and what was done to them.

    bytes_of: shape -> index among the files, and bytes of that shape. done: how sizes were changed, in words.
    cut, grey: how many pictures were cut to a square, and how many in colour were read as grey.
    """

    target: Target
    files: Sequence[Path]
    bytes_of: dict[tuple[int, ...], list[tuple[int, Tensor]]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    cut: int = 0
    grey: int = 0

    def read(self, index: int, file: Path) -> None:
        """Reads one picture, cropped where that was asked for. Raises BadInput where its size does not fit."""
        space, resize = self.target.space, self.target.resize
        size = (space.shape[2], space.shape[1])
        image = read_image(file)
        if self.target.crop and image.size != size:
            self.cut += image.width != image.height
            image = centred_square(image)
            if resize in (None, "bicubic") and image.size != size:
                self.done.add(f"{image.width}×{image.height} to {size[0]}×{size[1]}, bicubic")
                image = image.resize(size, Image.Resampling.BICUBIC)
        self.grey += space.shape[0] == 1 and image.mode != "L"
        array = np.array(image.convert("L" if space.shape[0] == 1 else "RGB"))
        pixels = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
        if tuple(pixels.shape) != space.shape and resize is None:
            raise BadInput(
                f"{file} is {array.shape[1]}×{array.shape[0]} pixels, but the data set has {space.shape[1:]}; resize it "
                f"yourself, say how with --resize {'|'.join(WAYS)}, or --crop as a folder of data is"
            )
        self.bytes_of.setdefault(tuple(pixels.shape), []).append((index, pixels))

    def stored(self) -> tuple[Tensor, str]:
        """All of them as the data is stored, (N, C, H, W) in the files' order, and what their bytes were taken for."""
        path, space, resize = self.target.path, self.target.space, self.target.resize
        every = torch.cat([pixels.flatten() for some in self.bytes_of.values() for _, pixels in some])
        levels, taken = reading.from_integers(every, path, space, self.target.span, self.target.real, what="pictures")
        x, first = torch.empty(len(self.files), *space.shape, dtype=torch.uint8), 0
        for shape, some in self.bytes_of.items():
            part = levels[first : first + len(some) * math.prod(shape)].view(len(some), *shape)
            first += part.numel()
            if shape != space.shape:
                assert resize is not None
                part, how = resized(part, self.files[some[0][0]], space, resize)
                self.done.add(how)
            x[[index for index, _ in some]] = part
        return x, taken

    def sizes(self) -> str:
        """How sizes were changed: of several the first in the order of the words, and how many there are."""
        return min(self.done, default="") + (f", and {len(self.done) - 1} other sizes" if len(self.done) > 1 else "")

    def notes(self) -> list[str]:
        """What was done to some of the pictures, in words."""
        cut = [f"{self.cut:,} cut to the largest centred square"] * bool(self.cut)
        return cut + [f"{self.grey:,} in colour read as grey"] * bool(self.grey)


def folder_labels(names: Sequence[str], space: Space, found: Dataset | None) -> tuple[Tensor | None, list[str]]:
    """Labels (N,) by the sub-folders of images' names, and a note on these.

    The folders are those of the first level, or of the second (below train/ and test/), where all are called like the
    data's classes or by their numbers.
    """
    folders = [name.split("/")[:-1] for name in names]
    if not any(folders):
        return None, []
    if not space.classes:
        return None, ["sub-folders read without labels, as the data set has no classes"]
    classes = (found.labels if found else ()) or tuple(map(str, range(space.classes)))

    @cache
    def label(folder: str) -> int | None:
        return label_of(readable(folder), classes)

    for level in (0, 1):
        each = [label(parts[level]) if len(parts) > level else None for parts in folders]
        labels = [number for number in each if number is not None]
        if len(labels) == len(each):
            return torch.tensor(labels), [f"sub-folders taken as labels, of {len(set(labels))} classes"]
    loose = sum(not parts for parts in folders)
    strange = next((parts[0] for parts in folders if parts and label(parts[0]) is None), "")
    why = f"'{readable(strange)}' is no class of the data" if strange else f"{loose:,} images lie in none"
    return None, [f"sub-folders read without labels, as {why}"]
