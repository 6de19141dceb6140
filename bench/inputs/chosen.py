"""The run that a user means: a folder, or a recipe's newest finished run on a data set."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import tiers
from bench.inputs.data import is_gone, place_of, same_data
from bench.inputs.recipes import is_recipe
from bench.inputs.runs import Runs, is_run
from paradigms.errors import BadInput, unknown

if TYPE_CHECKING:
    import torch

    from bench.data import Dataset
    from bench.data.names import Name
    from bench.opened import Opened
    from bench.runs import Info
    from bench.tiers import Tier
    from paradigms.core.plans import Card

__all__ = ["ChosenRun", "run_of", "run_on"]


@dataclass(frozen=True)
class ChosenRun:
    """A run that a user means, not opened yet.

    folder: where it lies. out: the folder of runs, where the runs that it needs may lie too.
    place:  where its data lie now, if the user named them and they are there.
    """

    folder: Path
    place: Name | None
    out: Path

    @cached_property
    def info(self) -> Info:
        """The content of its run.json. Raises BadInput where that is damaged."""
        from bench.runs import read_info

        return read_info(self.folder)

    @property
    def data(self) -> Dataset:
        """The data set that it was trained on. Raises BadInput where that is gone or another."""
        from bench.runs import data_of

        return data_of(self.folder, self.info, self.place)

    @cached_property
    def card(self) -> Card:
        """What its paradigm claims of samplers and likelihoods. Raises BadInput for a first stage, which has no card."""
        return card_of(self.info.definition.paradigm, self.info.recipe)

    def tier(self, asked: str | None) -> Tier:
        """The tier that is asked for, else the run's own. Of a tier in a user's file a run keeps only the name."""
        if asked is not None:
            return tiers.get(asked)
        own = self.info.tier
        try:
            return tiers.get(own)
        except BadInput:
            again = f"name its file, as in --tier mine.toml:{own}"
            raise BadInput(f"the run's tier '{own}' is not a shipped one; {again}") from None

    def open(self, device: str | torch.device) -> Opened:
        """The run, opened. Raises BadInput as `bench.runs.load` does."""
        from bench.opened import opened

        return opened(self.folder, device, self.place, self.out)


def card_of(paradigm: Any, recipe: str) -> Card:
    """The card of a paradigm. Raises BadInput for a first stage."""
    card = getattr(paradigm, "card", None)
    if card is None:
        raise BadInput(f"'{recipe}' is a first stage for others and does not sample")
    return card


def run_of(text: str, dataset: str | None, runs: Runs, test: Path | None = None) -> ChosenRun:
    """The run that `text` means. dataset, test: the values of --dataset and --test. Raises BadInput."""
    given = dataset is not None or test is not None
    return run_on(text, place_of(dataset or "digits", runs, test) if given else None, runs)


def run_on(text: str, place: Name | None, runs: Runs) -> ChosenRun:
    """The run that `text` means: a run's folder, whose data lie in `place`, or a recipe's run on the data set `place`."""
    from bench.data.names import OwnData

    folder = _folder_of(text, place or "digits", runs)
    # Where a recipe was named, the data set only selects the run, which may do without the data.
    lost = not is_run(Path(text)) and isinstance(place, OwnData) and is_gone(place)
    return ChosenRun(folder, None if lost else place, runs.root)


def _folder_of(text: str, place: Name, runs: Runs) -> Path:
    """The folder of the run that `text` means. Raises BadInput."""
    path = Path(text)
    if is_run(path):
        return path
    if path.is_dir() and not is_recipe(text):
        raise BadInput(f"{path} is not the folder of a run: it has no run.json; see `bench list runs`")
    if os.sep in text:
        raise BadInput(f"there is no run {text}; see `bench list runs`")
    return _newest(text, place, runs)


def _newest(recipe: str, place: Name, runs: Runs) -> Path:
    """The newest finished run of a recipe on a data set, else the newest of all. Raises BadInput."""
    from paradigms.catalogue import names

    known, same = names(), same_data(place)

    def own_name(name: object) -> object:
        """A recipe's own name for an alias; a run may bear one that became an alias later."""
        return known.get(str(name), name)

    candidates = [
        (info.get("status") == "ok", folder)
        for folder, info in runs.newest_first
        if same(info) and own_name(info.get("recipe")) == own_name(recipe)
    ]
    if candidates:
        return next((folder for finished, folder in candidates if finished), candidates[0][1])
    if recipe not in known:
        raise unknown("run or recipe", recipe, known)
    again = f"bench train {recipe} --dataset {place}"
    again += "" if runs.root == Path("runs") else f" --out {shlex.quote(str(runs.root))}"
    raise BadInput(f"no run of {recipe} on {place} in {runs.root}; train one: {again}")
