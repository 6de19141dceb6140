"""What anyone's samples are brought to: the shape and integers of a data set, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data import Dataset
from bench.reading import Range
from paradigms.core.data import Space
from paradigms.errors import BadInput

__all__ = ["SAMPLE", "WAYS", "Resize", "Samples", "Target", "resized"]

Resize = Literal["bicubic", "bilinear", "area", "nearest"]
WAYS: tuple[str, ...] = get_args(Resize)

SAMPLE = Path("samples")  # what an array of samples is called


class Samples(NamedTuple):
    """Anyone's samples: x (N, *shape) as the data is stored, labels (N,) where there are any, what was done to size.

    reading: in words, what their numbers were taken for and what was cut, clipped or left out.
    """

    x: Tensor
    y: Tensor | None = None
    resized: str = ""
    reading: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """Where samples come from, and what they are read as.

    path:   their file or folder, as messages name it.
    space:  what one of them is to be.
    resize: how another size is brought to the data's; None: it is refused.
    span:   the range of the numbers, where it is not the usual one (see `bench.reading`).
    crop:   whether the largest centred square is cut out first.
    found:  the data set of the space, whose own pixels and names of classes are compared, or None.
    """

    path: Path
    space: Space
    resize: Resize | None = None
    span: Range | None = None
    crop: bool = False
    found: Dataset | None = None

    def __post_init__(self) -> None:
        """Raises BadInput where an option for images is given for vectors."""
        if not self.space.is_image and (self.span or self.crop):
            option = "range" if self.span else "crop"
            raise BadInput(f"--{option} is for images, and the data set holds vectors; leave it out")

    @property
    def real(self) -> Tensor | None:
        """The training examples of the data set, (N, *shape), or None."""
        return None if self.found is None else self.found.train.x


def resized(x: Tensor, path: Path, space: Space, how: Resize) -> tuple[Tensor, str]:
    """Integers (N, C, h, w) at the data's size, rounded to its levels, and what was done, in words.

    Raises BadInput where the shape of the pictures would be distorted.
    """
    (height, width), (h, w) = space.shape[1:], x.shape[2:]
    if h * width != w * height:
        raise BadInput(
            f"{path}: {w}×{h} pixels can not become {width}×{height} without distortion; cut them first, or let --crop "
            "cut out the largest centred square"
        )
    smooth: dict[str, Any] = {"align_corners": False, "antialias": True} if how in ("bicubic", "bilinear") else {}
    parts = [F.interpolate(part.float(), (height, width), mode=how, **smooth) for part in x.split(1000)]
    whole = torch.cat([part.round().clamp(0, space.levels - 1).to(torch.uint8) for part in parts])
    return whole, f"{w}×{h} to {width}×{height}, {how}"
