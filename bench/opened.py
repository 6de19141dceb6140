"""A trained run held open: what is asked of it is looked up once, when it is opened, and then carried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bench import runs
from bench.data import Dataset
from bench.data.names import Name
from bench.runs import Info
from paradigms.contract import Codec, Paradigm, Trainable
from paradigms.core.data import Space
from paradigms.errors import BadInput
from paradigms.recipe import Recipe

__all__ = ["Opened", "opened"]


@dataclass(frozen=True, eq=False)
class Opened:
    """A finished run.

    folder: where it lies. info: the content of its run.json. recipe: what it was trained by.
    model:  in eval mode, on `device`, with its averaged weights unless others were asked for.
    place:  where its data lie now, if not where run.json says.
    """

    folder: Path
    info: Info
    recipe: Recipe
    model: Trainable
    device: torch.device
    place: Name | None = None

    @property
    def space(self) -> Space:
        """The data as the model knows them: shape, classes (0: it has no labels), levels."""
        return self.model.space

    @property
    def data(self) -> Dataset:
        """The data set that it was trained on, proved by its checksum. Raises BadInput where that is gone or another."""
        return runs.data_of(self.folder, self.info, self.place)

    @property
    def codec(self) -> Codec | None:
        """The codec whose codes it models; None for a model of the data themselves."""
        found = getattr(self.model, "codec", None)
        return found if isinstance(found, Codec) else None

    @property
    def paradigm(self) -> Paradigm:
        """The model, as one that draws samples. Raises BadInput for a first stage, which does not."""
        if not isinstance(self.model, Paradigm):
            raise BadInput(
                f"{self.folder}: '{self.info.recipe}' is a first stage for others and does not sample; name a run that does"
            )
        return self.model


def opened(
    folder: Path,
    device: str | torch.device = "cpu",
    place: Name | None = None,
    out: Path | None = None,
    weights: Literal["ema", "raw"] = "ema",
    step: int | None = None,
) -> Opened:
    """Opens a finished run; weights, step and out are those of `bench.runs.load`. Raises BadInput as that does."""
    where = runs.device_of(device) if isinstance(device, str) else device
    model, info = runs.load(folder, weights, where, step, out)
    return Opened(Path(folder), info, info.definition, model, where, place)
