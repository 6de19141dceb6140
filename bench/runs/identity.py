"""What defines a run: recipe, settings, data, seed and budget, with those of the runs that it needs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench.data
from bench.arithmetic import USUAL, Arithmetic
from bench.data.names import Name, OwnData
from bench.runs.settings import configure, sized
from bench.tiers import Tier
from paradigms import catalogue
from paradigms.core.data import Space
from paradigms.core.settings import is_conditional
from paradigms.errors import BadInput
from paradigms.recipe import Recipe

if TYPE_CHECKING:
    from bench.data import Dataset

__all__ = ["Run", "dataset", "define", "needed", "needs_of", "refusal", "short_hash", "slug"]

IDENTITY = 1  # of what makes two runs the same experiment; a new column of the results does not


@dataclass(frozen=True)
class Run:
    """What defines a run. Two runs with the same `id` are the same experiment.

    dataset:    what the data set is called: in rows and in the run's folder, but in no seed or identity.
    place:      by what the data set is loaded, if not by its name.
    share:      the part of the tier's budget that it gets.
    parents:    the runs that it needs, by role.
    arithmetic: what this paradigm can have of what was asked for.
    """

    recipe: str
    config: Any
    dataset: str
    checksum: str
    space: Space
    seed: int
    tier: Tier
    conditional: bool = False
    share: float = 1.0
    parents: tuple[tuple[str, Run], ...] = ()
    arithmetic: Arithmetic = USUAL
    place: Name = field(default="", compare=False)

    @property
    def definition(self) -> Recipe:
        """The recipe, whose name is `recipe`; a run that is sent to another process finds it there by its name."""
        return catalogue.get(self.recipe)

    @property
    def key(self) -> str:
        """What the data set is to seeds and identities, as `Dataset.key`."""
        return self.place.key(self.checksum) if isinstance(self.place, OwnData) else self.dataset

    @property
    def id(self) -> str:
        """<seed>-<hash of everything that matters>."""
        return f"{self.seed}-{short_hash({**self.shared(), 'seed': self.seed, 'parents': self._parents()})}"

    @property
    def where(self) -> str:
        """The run's folder, relative to the output folder."""
        return f"{slug(self.dataset)}/{slug(self.recipe)}/{self.id}"

    def folder(self, out: Path) -> Path:
        return Path(out) / self.where

    def _parents(self) -> dict[str, str]:
        return {role: f"{slug(parent.key)}/{slug(parent.recipe)}/{parent.id}" for role, parent in self.parents}

    def shared(self) -> dict[str, Any]:
        """What all seeds of the run have in common."""
        return {
            "schema": IDENTITY,
            "recipe": self.recipe,
            "config": _effective(self.config, self.conditional),
            "dataset": self.key,
            "checksum": self.checksum,
            "match": self.tier.match,
            "budget": self.tier.budget(self.space).spending(),
            "conditional": self.conditional,
            "share": self.share,
            **({} if self.space.is_image else {"columns": "standardised"}),  # older runs of vectors were not
            **self.arithmetic.identity(),
        }


def _effective(config: Any, conditional: bool) -> Any:
    """A config as a dictionary, with those inside it, without what has no effect in an unconditional model."""
    if not is_dataclass(config):
        return config
    kept = (f.name for f in fields(config) if conditional or not is_conditional(type(config), f.name))
    return {name: _effective(getattr(config, name), conditional) for name in kept}


def short_hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def slug(name: str) -> str:
    """A name as a folder's name: itself where that is safe, else what is readable of it and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_][\w.@+-]{0,63}", name, re.ASCII):
        return name
    readable = re.sub(r"[^\w.@+-]+", "-", name, flags=re.ASCII).strip("-.")[-32:].strip("-.")
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


@lru_cache(maxsize=4)
def dataset(name: Name) -> Dataset:
    """The data set, kept in memory for the runs of this process that share it."""
    return bench.data.load(name)


def define(
    recipe: str,
    dataset_name: Name,
    seed: int,
    tier: Tier,
    settings: Sequence[str] = (),
    *,
    conditional: bool = False,
    arithmetic: Arithmetic = USUAL,
) -> Run:
    """The run of a recipe, with those that it needs. `settings` are `key=value` changes to the recipe's config, and
    `RECIPE.key=value` to that of one that it needs, or that those need.

    `arithmetic` is what is asked for; a recipe that can not have it all takes what it can. Raises BadInput for an unknown
    recipe, data set or setting, and for data that the recipe can not model.
    """
    found = dataset(dataset_name)
    if conditional and not found.space.classes:
        raise BadInput(f"{found.name} has no labels; leave out the condition")
    space = found.space if conditional else replace(found.space, classes=0)

    def run(known: Recipe, share: float | None, changes: Sequence[str], path: tuple[str, ...]) -> Run:
        name = known.name
        if name in path:
            raise BadInput(f"recipe '{path[0]}' needs itself ({' -> '.join((*path, name))}); break the circle")
        usual = sized(known.config, tier.budget(space))
        own, below = _addressed(known, changes)
        config = configure(usual, own, name)
        reason = known.paradigm.refuses(config, space)
        if reason is not None:
            raise BadInput(f"{name} can not model {found.name}: {reason}")
        _check_batch(config, usual, len(found.train), found.name)
        return Run(
            recipe=name,
            config=config,
            dataset=found.name,
            checksum=found.checksum,
            space=space,
            seed=seed,
            tier=tier,
            conditional=conditional,
            share=known.share if share is None else share,
            parents=tuple(
                (role, run(parent, known.needs[role].share, _to(parent, below), (*path, name)))
                for role, parent in needs_of(known).items()
            ),
            arithmetic=arithmetic.of(known.paradigm),
            place=found.place,
        )

    return run(catalogue.get(recipe), None, settings, ())


def needs_of(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe that a recipe needs in each role."""
    return {role: catalogue.get(need.recipe) for role, need in recipe.needs.items()}


def needed(recipe: Recipe) -> list[Recipe]:
    """The recipes that a recipe needs, those that these need, and so on; each once, as in a circle, which `define` refuses."""
    found: dict[str, Recipe] = {}
    pending = list(needs_of(recipe).values())
    while pending:
        known = pending.pop()
        if known.name not in found:
            found[known.name] = known
            pending += needs_of(known).values()
    return list(found.values())


def _addressed(recipe: Recipe, settings: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Those of the settings that are of a recipe itself, and (recipe, setting) of those it needs."""
    names = {name: known.name for known in needed(recipe) for name in (known.name, *known.aliases)}
    own, below = list[str](), list[tuple[str, str]]()
    for setting in settings:
        name, dot, change = setting.partition(".")
        if dot and name in names and not hasattr(recipe.config, name):
            below.append((names[name], change))
        else:
            own.append(setting)
    return own, below


def _to(known: Recipe, below: Sequence[tuple[str, str]]) -> list[str]:
    """Settings of several recipes as one of them takes them, which passes on what is not its own."""
    return [change if recipe == known.name else f"{recipe}.{change}" for recipe, change in below]


def _check_batch(config: Any, default: Any, examples: int, name: str) -> None:
    """Refuses a larger batch than there are examples, if it was asked for: it holds some twice, and may fill the memory."""
    batch = getattr(config, "batch", None)
    if type(batch) is int and batch > examples and batch != getattr(default, "batch", None):
        raise BadInput(f"batch = {batch:,}, but {name} has {examples:,} training examples; take at most so many")


def refusal(recipe: str, space: Space) -> str | None:
    """Why a recipe, or one that it needs, can not model such data; None when it can."""

    def reason(known: Recipe) -> str | None:
        own = known.paradigm.refuses(known.config, space)
        return own or next((why for parent in needs_of(known).values() if (why := reason(parent))), None)

    return reason(catalogue.get(recipe))
