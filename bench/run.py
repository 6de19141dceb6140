"""One run: a recipe on a data set with a seed and a budget, from its identity to the files of its folder.

`plan` names a run, `ensure` makes it exist (its parents first; a finished folder is a cache hit), `load` gives the
model back. A run's folder is <out>/<data set>/<recipe>/<seed>-<hash>, the hash being over all that defines the run:

    run.json             what was run, what it cost, on which machine, how it ended (`Info`)
    log.jsonl            the course of the training (see bench.loop); whole when it has ended
    weights.safetensors  final weights and buffers, averaged ("ema.") and as they were ("raw.")
    parents.safetensors  what its parents are rebuilt from where they are gone and only their kind is asked: settings, buffers
    at-STEP.safetensors  averaged weights after a quarter and after half of the steps
    manifest.json        sha256 of each file, checked when it is read
    .lock                held by whoever writes into the folder
    state.pt             the checkpoint, while training and after a failure
    error.txt            the traceback of a run that failed

Beside the runs of a recipe lies plan-<hash>.json: the width that meets the parameter target and the number of steps
that meets the budget, found once and shared by all seeds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import sys
import time
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import bench.data
from bench import flops, store
from bench.arithmetic import DTYPES, USUAL, Arithmetic, card_of, compile_networks, exact
from bench.data.names import FOLDER, FolderName, Name, OwnData, is_stored, stored
from bench.loop import LOG, PREPARED, STATE, Diverged, Loop, Trained, seeded, train
from bench.progress import Progress, graceful_stop
from bench.schedule import cores
from bench.sharing import alone_on, beside_others
from bench.tiers import MATCHES, SMALL_IMAGE, Budget, Tier, tiers
from paradigms import catalogue
from paradigms.contract import BLOCKS, Data, Frozen, Noise, Recipe, Space, Trainable, seed_of
from paradigms.errors import BadInput, unknown
from reports.words import shortened, visible

if TYPE_CHECKING:
    from bench.data import Dataset

__all__ = [
    "ERROR",
    "INFO",
    "PARENTS",
    "PROTOCOLS",
    "WEIGHTS",
    "Info",
    "Run",
    "again",
    "at_step",
    "base_row",
    "code_version",
    "configure",
    "data_of",
    "dataset",
    "device_of",
    "ensure",
    "environment",
    "fit_width",
    "flat",
    "is_finished",
    "load",
    "made_anew",
    "measured",
    "needed",
    "other_code",
    "out_of",
    "plan",
    "read_info",
    "refusal",
    "slug",
    "snapshots",
    "tidy",
    "wanting",
]

INFO = store.INFO
SCHEMA = 3  # of run.json; 2: with `symptom`; 3: with `source`
IDENTITY = 1  # of what makes two runs the same experiment; a new column of the results does not
WEIGHTS = "weights.safetensors"
PARENTS = "parents.safetensors"
PROTOCOLS = "protocols"  # folder of what other tiers than a run's own measured of it, a folder each
SNAPSHOTS = (0.25, 0.5)  # parts of the training after which the averaged weights are kept too
ERROR = "error.txt"
_log = logging.getLogger(__name__)

TOLERANCE = 0.1  # of the parameter target
LARGE = 50_000_000  # parameters
WIDEST = 1 << 16  # widths that are tried
MOST_NUMBERS = 1 << 26  # of one example
STATUSES = ("training", "ok", "diverged", "failed")
SMALL, MANY = 500_000, 8  # parameters and CPU cores: see `device_for`


# -------------------------------------------------------------------------------------------------------- identity


@dataclass(frozen=True)
class Run:
    """What defines a run. Two runs with the same `id` are the same experiment.

    dataset:    what the data set is called: in rows and in the run's folder, but in no seed or identity.
    place:      what the data set is loaded by, if not by its name; `source` only says where its files lie.
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
    source: Path | None = field(default=None, compare=False)
    place: Name = field(default="", compare=False)

    @property
    def key(self) -> str:
        """What the data set is to seeds and identities, as `Dataset.key`."""
        return self.place.key(self.checksum) if isinstance(self.place, OwnData) else self.dataset

    @property
    def id(self) -> str:
        """<seed>-<hash of everything that matters>."""
        return f"{self.seed}-{_hash({**self._shared(), 'seed': self.seed, 'parents': self._parents()})}"

    @property
    def where(self) -> str:
        """The run's folder, relative to the output folder."""
        return f"{slug(self.dataset)}/{slug(self.recipe)}/{self.id}"

    def folder(self, out: Path) -> Path:
        return Path(out) / self.where

    def _parents(self) -> dict[str, str]:
        return {role: f"{slug(parent.key)}/{slug(parent.recipe)}/{parent.id}" for role, parent in self.parents}

    def _shared(self) -> dict[str, Any]:
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
    """A config as a dictionary, with those inside it, without what has no effect where no labels are told."""
    if not is_dataclass(config):
        return config
    kept = (f.name for f in fields(config) if conditional or not f.metadata.get("conditional"))
    return {name: _effective(getattr(config, name), conditional) for name in kept}


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def slug(name: str) -> str:
    """A name as a folder's name: itself where that is safe, else what is readable of it and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_][\w.@+-]{0,63}", name, re.ASCII):
        return name
    readable = re.sub(r"[^\w.@+-]+", "-", name, flags=re.ASCII).strip("-.")[-32:].strip("-.")
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def plan(
    recipe: str,
    dataset_name: Name,
    seed: int,
    tier: Tier,
    settings: Sequence[str] = (),
    *,
    conditional: bool = False,
    source: Path | None = None,
    match: str | None = None,
    arithmetic: Arithmetic = USUAL,
) -> Run:
    """The run of a recipe, with those that it needs. `settings` are `key=value` changes to the recipe's config, and
    `RECIPE.key=value` to that of one that it needs, or that those need.

    `arithmetic` is what is asked for; a recipe that can not have it all takes what it can. Raises BadInput for an unknown
    recipe, data set or setting, and for data that the recipe can not model.
    """
    if match is not None:
        if match not in MATCHES:
            raise unknown("match", match, MATCHES)
        tier = replace(tier, match=match)
    found = dataset(dataset_name, source)
    if conditional and not found.space.classes:
        raise BadInput(f"{found.name} has no labels; leave out the condition")
    space = found.space if conditional else replace(found.space, classes=0)

    def run(name: str, share: float | None, changes: Sequence[str], path: tuple[str, ...]) -> Run:
        known = catalogue.get(name)
        name = known.name  # it may have been asked for by an alias
        if name in path:
            raise BadInput(f"recipe '{path[0]}' needs itself ({' -> '.join((*path, name))}); break the circle")
        usual = _sized(known.config, tier.budget(space))
        own, below = _addressed(known, changes)
        config = configure(usual, own)
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
                (role, run(n.recipe, n.share, _to(n.recipe, below), (*path, name))) for role, n in known.needs.items()
            ),
            arithmetic=arithmetic.of(known.paradigm),
            source=source,
            place=found.place,
        )

    return run(recipe, None, settings, ())


def needed(recipe: Recipe) -> list[Recipe]:
    """Those that a recipe needs, those that these need, and so on; none for a circle, which `plan` refuses."""
    found: dict[str, Recipe] = {}
    pending = [need.recipe for need in recipe.needs.values()]
    while pending:
        known = catalogue.get(pending.pop())
        if known.name not in found:
            found[known.name] = known
            pending += [need.recipe for need in known.needs.values()]
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


def _to(name: str, below: Sequence[tuple[str, str]]) -> list[str]:
    """Settings of several recipes as one of them takes them, which passes on what is not its own."""
    name = catalogue.get(name).name
    return [change if recipe == name else f"{recipe}.{change}" for recipe, change in below]


def _sized(config: Any, budget: Budget) -> Any:
    """A config with the batch and the learning rates that a budget sets, also of what is inside it."""
    changes: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            changes[f.name] = _sized(value, budget)
        elif f.name == "batch" and budget.batch:
            changes[f.name] = value * max(1, round(budget.batch / value))
        elif (f.name == "lr" or f.name.endswith("_lr")) and budget.lr != 1:
            changes[f.name] = value * budget.lr
    return replace(config, **changes) if changes else config


def _check_batch(config: Any, default: Any, examples: int, name: str) -> None:
    """Refuses a larger batch than there are examples, if it was asked for: it holds some twice, and may fill the memory."""
    batch = getattr(config, "batch", None)
    if type(batch) is int and batch > examples and batch != getattr(default, "batch", None):
        raise BadInput(f"batch = {batch:,}, but {name} has {examples:,} training examples; take at most so many")


def refusal(recipe: str, space: Space) -> str | None:
    """Why a recipe, or one that it needs, can not model such data; None when it can."""
    known = catalogue.get(recipe)
    own = known.paradigm.refuses(known.config, space)
    return own or next((why for n in known.needs.values() if (why := refusal(n.recipe, space))), None)


@lru_cache(maxsize=4)
def dataset(name: Name, source: Path | None = None) -> Dataset:
    """The data set, kept in memory for the runs of this process that share it."""
    return bench.data.load(name, source)


def data_of(folder: Path, info: Info, given: Name | None = None) -> Dataset:
    """The data set that a run was trained on, proved by its checksum, under the name that it had then.

    given: where it is now; otherwise it is looked for where run.json says that it was. Raises BadInput.
    """
    if isinstance(given, str) and given != info.dataset:
        raise BadInput(f"{folder} was trained on '{info.dataset}', not on '{given}'; leave out --dataset")
    place = info.place if given is None else given
    if isinstance(place, FolderName):
        test = info.place.test if isinstance(info.place, FolderName) else None
        place = replace(place, test=place.test or test)
        if info.space["shape"][-1] != place.size:
            raise BadInput(
                f"{folder} was trained on images of {info.space['shape'][-1]} px, not of {place.size}: see @SIZE"
            )
    if isinstance(place, OwnData):
        place = place.named(info.dataset)
        gone = place.gone()
        if given is None and gone is not None:
            typed = info.dataset.removeprefix(FOLDER) if info.dataset.startswith(FOLDER) else str(gone)
            test_too = " --test FOLDER" if isinstance(place, FolderName) and place.test else ""
            raise BadInput(
                f"{Path(folder) / INFO} names the {place.what} in {typed}, looked for at {gone}, which is no "
                f"{place.place}; if they were moved, say where they are: --dataset {place.form}{test_too}"
            )
    found = dataset(place)
    if found.checksum == info.checksum:
        return found
    if not isinstance(place, OwnData):
        command = again(info, out_of(folder, info, None))
        raise BadInput(f"{folder} was trained on another version of '{info.dataset}'; train it anew: `{command}`")
    raise BadInput(
        f"{folder} was trained on other data ('{info.dataset}', sha256 {info.checksum[:12]}) than {place} (sha256 "
        f"{found.checksum[:12]}); name the {place.what} as they were with --dataset, or train it anew"
    )


# -------------------------------------------------------------------------------------------------------- settings


def configure(config: Any, settings: Sequence[str]) -> Any:
    """A config with `key=value` changes; a dotted key reaches into a nested one. Raises BadInput, naming the type."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BadInput(f"--set {setting}: write it as key=value; keys: {', '.join(_keys(config))}")
        config = _changed(config, key.strip(), text.strip(), setting)
    return config


def _changed(config: Any, key: str, text: str, setting: str) -> Any:
    name, dot, rest = key.partition(".")
    hints = typing.get_type_hints(type(config))
    if name not in {f.name for f in fields(config)}:
        raise unknown(f"setting in --set {setting}:", name, _keys(config))
    current = getattr(config, name)
    if dot or is_dataclass(current):
        if not is_dataclass(current):
            raise BadInput(f"--set {setting}: '{name}' has no parts")
        if not dot:
            raise BadInput(f"--set {setting}: name one of its parts: {', '.join(f.name for f in fields(current))}")
        value = _changed(current, rest, text, setting)
    else:
        try:
            value = _parse(text, hints[name])
        except (ValueError, OverflowError):
            raise BadInput(f"--set {setting}: '{name}' must be {_words(hints[name])}, not '{text}'") from None
        if not store.fits(hints[name])(value):  # run.json could not be read again
            raise BadInput(
                f"--set {setting}: {text} is more than files hold; give a whole number of at most 63 bits, or a number of at "
                f"most {store.LARGEST:g}"
            )
    try:
        return replace(config, **{name: value})
    except ValueError as error:  # a config may check itself
        raise BadInput(f"--set {setting}: {error}") from None


def _keys(config: Any) -> list[str]:
    """What can be set, parts by their dotted keys."""
    found = list[str]()
    for f in fields(config):
        part = getattr(config, f.name)
        found += [f"{f.name}.{key}" for key in _keys(part)] if is_dataclass(part) else [f.name]
    return found


_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _parse(text: str, hint: Any) -> Any:
    """A text as a value of a type. Raises ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and text.lower() == "none":
            return None
        for arg in args:
            with suppress(ValueError):
                if arg is not type(None):
                    return _parse(text, arg)
        raise ValueError(text)
    if origin is Literal:
        return next(a for a in args if str(a) == text) if text in map(str, args) else _fail(text)
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        kinds = [args[0]] * len(parts) if len(args) == 2 and args[1] is ... else list(args)
        if len(kinds) != len(parts):
            raise ValueError(text)
        return tuple(_parse(part, kind) for part, kind in zip(parts, kinds))
    if hint is bool:
        return _SWITCH[text.lower()] if text.lower() in _SWITCH else _fail(text)
    if hint is int:
        value = float(text.replace("_", "")) if re.search(r"[eE.]", text) else int(text)
        return int(value) if value == int(value) else _fail(text)
    if hint is float:
        return value if math.isfinite(value := float(text)) else _fail(text)
    if hint is str:
        return text
    raise ValueError(text)


def _fail(text: str) -> Any:
    raise ValueError(text)


def _words(hint: Any) -> str:
    """A type as a user reads it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _words(a) for a in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        return f"values separated by commas, each {_words(args[0])}" if args[1:] == (...,) else f"{len(args)} values"
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return known.get(hint, "set in code")


def _restored(config: Any, values: Any, where: Path) -> Any:
    """A config of the same type with the values of a run.json. Raises BadInput."""
    hints = typing.get_type_hints(type(config))
    if not isinstance(values, Mapping):
        raise BadInput(f"{where} has settings of another kind than the recipe; train the run anew")
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in {f.name for f in fields(config)}:
            raise BadInput(f"{where} has the setting '{name}', which the recipe no longer has; train the run anew")
        current = getattr(config, name)
        if is_dataclass(current):
            changes[name] = _restored(current, value, where)
        elif store.fits(hints[name])(value):
            changes[name] = _tuples(value)
        else:
            raise BadInput(f"{where}: the setting '{name}' must be {_words(hints[name])}; train the run anew")
    try:
        return replace(config, **changes)
    except ValueError as error:  # a config may check itself
        raise BadInput(f"{where}: {error}; train the run anew") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------------------------ Info


@dataclass(frozen=True)
class Info:
    """The content of run.json: what was run, how it ended, what it cost.

    status:   "training", "ok", "diverged" or "failed"; the last two with the reason.
    where:    the folder, relative to the output folder; also the run's name in `parents` and `costs`.
    parents:  the folder of each needed run, by role.
    space:    what the model was told of the data: shape, classes (0 = unconditional), levels.
    budget:   what the tier allowed a full share: flops, seconds, images, params.
    bound:    what fixed the number of steps: "flops", "images" or "seconds" (the cap, where match is another).
    planned_steps, batch, flops_per_step, seconds_per_step: the plan; the steps done are `steps`.
    params_note: said where the parameters miss the target by more than 10 %.
    images, flops, seconds, cpu_seconds: this run's own training cost. seconds are wall clock without waiting or saving.
    images_per_second: while training.
    costs:    own cost and that of each ancestor, {where: {flops, seconds, images}}; *_total are their sums. One that was
              contended says so.
    skipped:  updates skipped because of their gradient norm.
    symptom:  what the model's log says is wrong with it, in words; "" for nothing, and for runs older than the field.
    resumed:  the steps at which training was taken up again, and `codes` the versions of the code that did.
    contended: the machine had more work than cores, or others of its user trained or scored on the same GPU, while this
              was trained, so the seconds are not comparable.
    precision, compiled, noise, card: see `Arithmetic`; dtype is the precision as rows have it.
    source:   of a user's own data, where they lay (see `OwnData.as_json`); {} elsewhere, and in runs older than the field.
    above:    the settings of what it stands on that are not their recipes' own, {RECIPE.key: value} as --set takes them.
    """

    schema: int
    id: str
    where: str
    recipe: str
    paradigm: str
    summary: str
    dataset: str
    checksum: str
    seed: int
    tier: str
    match: str
    budget: Mapping[str, float]
    share: float
    conditional: bool
    config: Mapping[str, Any]
    space: Mapping[str, Any]
    parents: Mapping[str, str]
    params_target: int
    device: str
    device_name: str
    threads: int
    dtype: str
    torch: str
    python: str
    platform: str
    code: str
    started: str
    width: int = 0
    params_trained: int = 0
    params_note: str = ""
    planned_steps: int = 0
    batch: int = 0
    flops_per_step: float = 0.0
    seconds_per_step: float = 0.0
    bound: str = ""
    status: str = "training"
    reason: str = ""
    steps: int = 0
    images: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    images_per_second: float = 0.0
    flops_total: float = 0.0
    seconds_total: float = 0.0
    images_total: int = 0
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    skipped: int = 0
    symptom: str = ""
    resumed: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    contended: bool = False
    finished: str = ""
    precision: str = "fp32"
    compiled: bool = False
    noise: int = 1
    card: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    above: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Name:
        """What the data set was loaded by."""
        if self.source:
            return stored(self.source, self.dataset)
        return FolderName.parse(self.dataset) if self.dataset.startswith(FOLDER) else self.dataset


def read_info(folder: Path) -> Info:
    """run.json of a run's folder.

    Raises BadInput when there is none, it is damaged or of a newer schema, or the folder bears the name of another run.
    """
    path = Path(folder) / INFO
    if not path.exists():
        raise BadInput(f"{folder} is not a run: it has no {INFO}; `bench list runs` shows those there are")
    values = store.read_json(path)
    if type(values.get("schema")) is int and values["schema"] > SCHEMA:
        raise BadInput(f"{path} was written by a newer version (schema {values['schema']}); upgrade this one")
    values = store.unsealed(path, values)
    if reason := store.misplaced(folder, values.get("id")):
        raise BadInput(reason)
    try:
        return _sound(Info(**{name: _tuples(value) for name, value in store.fitting(Info, values).items()}))
    except ValueError as error:
        raise BadInput(
            f"{path} is damaged ({error}); delete the folder {folder}, and `bench all` or `bench train` makes it anew"
        ) from None


def _sound(info: Info) -> Info:
    """An info whose every value has its type, once it makes sense too. Raises ValueError."""
    places = (info.where, *info.parents.values())
    for good, text in (
        (info.status in STATUSES, f"its status is '{info.status}'"),
        (info.width <= WIDEST, f"its width is {info.width:,}"),
        (info.precision in DTYPES, f"its precision is '{info.precision}'"),
        (_is_space(**info.space), "its space is not one of data"),
        (
            all(re.fullmatch(r"[^/]+/[^/]+/[^/]+", place) and ".." not in place.split("/") for place in places),
            "its place or a parent's is not DATA/RECIPE/RUN",
        ),
        (not info.source or is_stored(info.source), "its source is no place of a user's own data"),
    ):
        if not good:
            raise ValueError(text)
    return info


def _is_space(shape: Any = None, classes: Any = None, levels: Any = None, **others: Any) -> bool:
    whole = store.fits(tuple[tuple[int, ...], int, int])((shape, classes, levels)) and not others
    if not whole or not 0 < len(shape) <= 3 or min(shape) < 1 or math.prod(shape) > MOST_NUMBERS:
        return False
    return classes >= 0 and levels >= 0 and levels != 1


def measured(folder: Path, tier: str) -> Path:
    """Where what a tier measures of a run is kept: the run's folder under its own tier, else that tier's folder inside."""
    return Path(folder) if read_info(folder).tier == tier else Path(folder) / PROTOCOLS / slug(tier)


def base_row(info: Info) -> store.Row:
    """The columns that a run fills in alike for everything measured on it."""
    return store.Row(
        run=info.id,
        status=info.status,
        reason=info.reason,
        recipe=info.recipe,
        paradigm=info.paradigm,
        tier=info.tier,
        dataset=info.dataset,
        data=info.checksum[:12],
        seed=info.seed,
        conditional=info.conditional,
        fraction=info.steps / info.planned_steps if info.planned_steps else None,
        images=info.images,
        flops=info.flops,
        seconds=info.seconds,
        cost_total=info.flops_total,
        seconds_total=info.seconds_total,
        images_total=info.images_total,
        params_trained=info.params_trained,
        device=info.device_name,
        threads=info.threads,
        dtype=info.dtype,
        contended=info.contended,
        torch=info.torch,
        code=info.code,
    )


def environment(
    device: torch.device, threads: int, recipe: Recipe | None = None, precision: str = "fp32"
) -> dict[str, Any]:
    """What a number depends on besides the run: device, threads, number format, versions, code."""
    return {
        "device": device.type,
        "device_name": _device_name(device),
        "threads": threads,
        "dtype": DTYPES[precision],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "code": code_version(recipe),
    }


def device_of(name: str) -> torch.device:
    """ "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1". Raises BadInput for what this machine lacks."""
    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from None
    if device.type not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"device '{name}' is not there: torch sees {torch.cuda.device_count()} GPUs; use --device cpu")
    if device.type == "cuda":
        exact()
    return device


def device_for(name: str, budget: Budget) -> tuple[torch.device, str]:
    """The device of runs, with a line on how it was chosen where that was left open. Raises as `device_of`.

    auto: the CPU for networks so small that a GPU would only wait for its next launch (a step of 0.3M parameters takes
    one some 2.5 ms, as long as seven CPU cores) where the machine has the cores for it; else a GPU where there is one.
    """
    if name != "auto" or not torch.cuda.is_available():
        return device_of(name), ""
    many = cores()
    if budget.params < SMALL and many >= MANY:
        why = f"the {many} CPU cores, as networks of {budget.params:,} parameters would leave a GPU idle"
        return device_of("cpu"), f"--device auto: {why}; --device cuda takes it all the same"
    return device_of("cuda"), f"--device auto: {_device_name(torch.device('cuda'))}"


def gpus_of(device: torch.device) -> list[str]:
    """The GPUs that "cuda" or "cuda:N" stands for, each as CUDA_VISIBLE_DEVICES would name it.

    "cuda" is all that are visible and of the first one's model: the runs of a suite have the noise of one (see `Arithmetic`).
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = [name.strip() for name in visible.split(",")][:count] if visible else [str(k) for k in range(count)]
    if device.index is not None:
        return [names[device.index]]
    models = [card_of(torch.device("cuda", k)) for k in range(count)]
    if others := sorted({model for model in models if model != models[0]}):
        _log.warning(
            f"warning: only {models[0]} is used, as noise on {', '.join(others)} is not the same; --device cuda:N takes one"
        )
    return [name for name, model in zip(names, models) if model == models[0]]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine() or "cpu"


@lru_cache
def _code_here() -> str:
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    found = (path for part in ("paradigms", "bench") for path in (root / part).rglob("*.py"))
    for path in sorted(path for path in found if root / "bench" / "lab" not in path.parents):  # trains nothing
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def code_version(recipe: Recipe | None = None) -> str:
    """Short sha256 over the sources of paradigms/ and bench/ but bench/lab, and of a plugin's file where the recipe is one."""
    module = sys.modules.get(recipe.paradigm.__module__) if recipe is not None else None
    source = getattr(module, "__file__", None)
    if source is None or Path(__file__).parents[1] in Path(source).parents:
        return _code_here()
    return hashlib.sha256(_code_here().encode() + Path(source).read_bytes()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------- width, steps


def fit_width(recipe: Recipe, space: Space, target: int, parents: Mapping[str, Frozen], config: Any) -> tuple[int, int]:
    """(width, trained parameters): the width whose trained parameters, all networks together, are nearest to `target`.

    Counts must not fall as the width grows.
    """
    # On the meta device nothing is allocated, but a constructor can not read a value: only where allocating would hurt.
    device = torch.device("meta" if target > LARGE else "cpu")

    @cache
    def count(width: int) -> int:
        with seeded(0, torch.device("cpu")), device:
            return _trained(recipe.build(space, width, parents, config))

    low, high = 1, 2
    while count(high) < target and high < WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    width = min((low, high), key=lambda w: abs(math.log(count(w) / target)) if count(w) else math.inf)
    return width, count(width)


def _trained(model: Trainable) -> int:
    held = (p for o in model.optimizers().values() for group in o.param_groups for p in group["params"])
    return sum(p.numel() for p in dict.fromkeys(held))


@dataclass(frozen=True)
class Schedule:
    """How a run's budget is spent: see the fields of the same names in `Info`."""

    width: int
    params_trained: int
    params_note: str
    planned_steps: int
    batch: int
    flops_per_step: float
    seconds_per_step: float
    bound: str


def _schedule(
    run: Run, recipe: Recipe, data: Data, parents: Mapping[str, Frozen], out: Path, threads: int, progress: Progress
) -> Schedule:
    """The schedule of a run, found by the first of its seeds and read by the others, so that all have equal steps."""
    device = data.x.device
    shared = {**run._shared(), "parents": {role: parent._shared() for role, parent in run.parents}}
    # Not by the code: seeds that are averaged must have the same steps, also where the code has changed between them.
    key = _hash({**shared, "device": _device_name(device), "threads": threads})
    path = run.folder(out).parent / f"plan-{key}.json"

    def waiting() -> None:
        progress.update(f"plan {run.recipe}", 0, 1)

    with store.locked(path.parent, waiting, path.name):
        if path.exists():
            values = store.read_sealed(path)
            store.belongs(path, values.pop(store.OF, key), key)  # plans of earlier versions do not say
            try:
                known = Schedule(**store.fitting(Schedule, values))
                if not (0 < known.width <= WIDEST and known.planned_steps > 0 and known.batch > 0):
                    raise ValueError("it plans no training")
                return known
            except ValueError as error:
                raise BadInput(f"{path} is damaged ({error}); delete it and run the same command again") from None
        waiting()
        with alone_on(device, lambda: progress.update(f"wait for the GPU to plan {run.recipe}", 0, 1)):
            found = _calibrate(run, recipe, data, parents, threads)
        store.write_sealed(path, {**dataclasses.asdict(found), store.OF: key})
        return found


def _calibrate(run: Run, recipe: Recipe, data: Data, parents: Mapping[str, Frozen], threads: int) -> Schedule:
    """Counts and times a few steps of a model that is thrown away, and divides the budget by them."""
    budget, device = run.tier.budget(run.space), data.x.device
    batch = getattr(run.config, "batch", None)
    if type(batch) is not int or batch < 1:
        raise BadInput(f"{run.recipe}: its config must have 'batch', a whole number of at least 1, not {batch!r}")
    width, params = fit_width(recipe, run.space, budget.params, parents, run.config)
    off = params / budget.params - 1
    note = f"{params:,} trained parameters are {off:+.0%} off the target of {budget.params:,}, the nearest there is"
    clock = _clock(device, threads)
    coords = ("plan", run.key, run.recipe, 0)

    model = _build(recipe, run.space, width, parents, run.config, 0, device, run.arithmetic.precision)
    with seeded(0, device):
        start = clock()
        with flops.FlopCount() as prepare:
            data = model.prepare(data, Noise(*coords, device=device))
        prepare_seconds = clock() - start
        loop = Loop(model, data, batch, 1_000, coords)
        per_step = flops.of_training_step(model, data.batch(loop.order(0)), Noise(*coords, device=device))
        if run.arithmetic.compiled:  # only now, as FLOPs can not be counted through what was compiled
            compile_networks(model)
            for progress in flops.PROGRESS:  # what a later phase of the training calls is compiled here, unclocked
                with suppress(Diverged):
                    loop.step(min(loop.steps - 1, round(progress * loop.steps)))
        seconds = _seconds_per_step(loop, clock, max(1.0, 0.05 * budget.seconds * run.share))

    steps = {
        "flops": (budget.flops * run.share - prepare.total) / per_step if per_step else math.inf,
        "images": budget.images * run.share / batch,
        "seconds": _two_digits((budget.seconds * run.share - prepare_seconds) / seconds),
    }
    # The cap in seconds holds whatever is matched; where it binds, the row says so.
    bound = min((run.tier.match, "seconds"), key=lambda name: steps[name])
    if steps[bound] < 1:
        raise BadInput(
            f"{run.recipe} on {run.dataset}: tier '{run.tier.name}' does not pay for one step of {batch} "
            f"examples ({per_step:.3g} FLOPs, {seconds:.3g} s) once the data is prepared; choose a larger tier"
        )
    return Schedule(
        width=width,
        params_trained=params,
        params_note=note if abs(off) > TOLERANCE else "",
        planned_steps=int(steps[bound]),
        batch=batch,
        flops_per_step=per_step,
        seconds_per_step=seconds,
        bound=bound,
    )


def _clock(device: torch.device, threads: int) -> Callable[[], float]:
    """CPU time on one thread, which other work on the machine hardly moves; otherwise wall-clock time."""
    if device.type == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def _seconds_per_step(loop: Loop, clock: Callable[[], float], limit: float) -> float:
    """Seconds of a step: the quickest of a few at each point of the training, averaged over the points."""
    with suppress(Diverged):
        loop.step(0)  # allocations, kernels chosen at first use
    quickest = []
    for progress in flops.PROGRESS:
        spent: list[float] = []
        while len(spent) < 5 and (not spent or sum(spent) + spent[-1] < limit / len(flops.PROGRESS)):
            start = clock()
            with suppress(Diverged):
                loop.step(min(loop.steps - 1, round(progress * loop.steps)))
            spent.append(clock() - start)
        quickest.append(min(spent))
    return max(1e-9, sum(quickest) / len(quickest))


def _two_digits(steps: float) -> float:
    """Down to two significant digits: what a clock decides should not pretend to more."""
    if steps < 1:
        return steps
    unit = 10.0 ** max(0, math.floor(math.log10(steps)) - 1)
    return math.floor(steps / unit) * unit


def _build(
    recipe: Recipe,
    space: Space,
    width: int,
    parents: Mapping[str, Frozen],
    config: Any,
    seed: int,
    device: torch.device,
    precision: str,
) -> Trainable:
    """A model with the initial weights of a seed, which are the same on every device."""
    with seeded(seed, torch.device("cpu")):
        model = recipe.build(space, width, parents, config).to(device)
    model.precision = precision
    return model


# ---------------------------------------------------------------------------------------------------------- ensure


def ensure(
    run: Run,
    out: Path,
    progress: Progress | None = None,
    *,
    device: str | torch.device = "auto",
    threads: int = 1,
) -> Path:
    """Trains a run unless it is there, the runs it needs first, and returns its folder.

    A finished folder is verified and used, with a warning where other code trained it. An interrupted one goes on, with
    the steps and threads it began with. A run that diverges or fails keeps its reason in run.json and as a row in
    results.jsonl (`read_info(folder).status`), and is tried again when it is next asked for: what diverged from the
    start, what failed from its last checkpoint. Two processes never train the same folder: the second waits for the
    first. Raises BadInput for what the user can mend (a damaged folder, an unwritable place), and KeyboardInterrupt
    after a checkpoint when `progress` was told to stop (without one: on Ctrl-C).
    """
    where = device_of(device) if isinstance(device, str) else device
    if run.arithmetic.noise != BLOCKS[where.type].version:
        raise BadInput(
            f"{run.where} was planned for another kind of device than {where.type}, whose noise is not the same"
        )
    if run.arithmetic.card != card_of(where):
        raise BadInput(
            f"{run.where} was planned for {run.arithmetic.card or 'no model of GPU'}, not for {card_of(where)}, whose noise "
            "is not the same; run the same command again"
        )
    if progress is None:
        with graceful_stop() as stopping:
            return ensure(run, out, Progress(run.where, None, stopping), device=where, threads=threads)
    if (line := other_code([run], out)) is not None:
        _log.warning(line)
    return _ensure(run, out, progress, where, threads)


def _ensure(run: Run, out: Path, progress: Progress, where: torch.device, threads: int) -> Path:
    folder = run.folder(out)

    def parent_of(role: str, parent: Run) -> None:
        try:
            _ensure(parent, out, progress, where, threads)
        except BadInput as error:
            raise BadInput(f"{run.recipe} {run.id} needs its {role} {parent.recipe} {parent.id}: {error}") from None

    if is_finished(folder):
        tidy(folder)
        for role, parent in wanting(run, out).items():
            with suppress(BadInput):  # damaged: said below
                if not is_finished(parent.folder(out)):
                    _log.warning(made_anew(run, parent, out))
            parent_of(role, parent)
        return folder
    parents = {}
    for role, parent in run.parents:
        parents[role] = parent.folder(out)
        # Trained a moment ago with this very code, it would only diverge once more.
        if not _hopeless(parents[role], parent):
            parent_of(role, parent)
    with store.locked(folder, lambda: progress.update(f"wait for {run.recipe}", 0, 1)):
        if not is_finished(folder):  # another process may have trained it while this one waited
            _train(run, out, folder, parents, where, threads, progress)
    return folder


def wanting(run: Run, out: Path) -> dict[str, Run]:
    """By role the runs that a finished one can not be loaded without.

    Those that it draws samples with; of a run from before `PARENTS` all, as nothing else says how its model is built.
    """
    needs, kept = catalogue.get(run.recipe).needs, PARENTS in store.manifest(run.folder(out))
    return {role: parent for role, parent in run.parents if needs[role].at_sampling or not kept}


def made_anew(run: Run, parent: Run, out: Path) -> str:
    """What is said where a finished run is wanting a parent, which is trained once more."""
    folder = run.folder(out)
    return (
        f"{folder} was trained on {parent.folder(out)}, which is gone and is made anew; where that was on another machine "
        f"or by other code it is not the same, so delete {folder} too and train both"
    )


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a whole trained run. Raises BadInput when it says so and does not."""
    if not os.path.exists(folder / INFO):
        if os.path.exists(folder / store.MANIFEST) and WEIGHTS in store.manifest(folder):
            raise BadInput(f"{folder / INFO} is missing; delete the folder {folder} and run the same command again")
        return False
    if read_info(folder).status != "ok":
        return False
    listed = store.manifest(folder)
    if WEIGHTS not in listed:
        if os.path.exists(folder / WEIGHTS) and not os.path.exists(folder / STATE):
            raise BadInput(
                f"{folder / store.MANIFEST} is missing or incomplete, so the trained weights beside it can not be "
                f"verified; put it back, or delete the folder {folder} to train the run again"
            )
        return False
    kept = [name for name in listed if name == PARENTS or _step_of(name)]
    store.verify(folder, (INFO, LOG, WEIGHTS, *kept))
    return True


def tidy(folder: Path) -> None:
    """Takes away the checkpoint of a finished run that was stopped before it could. What can not be, stays."""
    for name in (STATE, PREPARED):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def other_code(planned: Sequence[Run], out: Path) -> str | None:
    """One line on those of the runs, and of what they need, that another version of the code trained; else None."""
    folders = {}
    pending = list(planned)
    while pending:
        run = pending.pop()
        folders[run.where] = run.folder(out)
        pending += [parent for _, parent in run.parents]
    infos, here = [], dict[str, str]()
    for folder in folders.values():
        with suppress(BadInput):  # none, or damaged, or of a recipe that is not known: said where it is used
            info = read_info(folder)
            here[info.recipe] = code_version(catalogue.get(info.recipe))
            infos.append(info)
    old = [info for info in infos if info.status == "ok" and info.code != here[info.recipe]]
    if not old:
        return None
    which = ", ".join(sorted({info.recipe for info in old}))
    return (
        f"warning: {len(old)} finished {'run was' if len(old) == 1 else 'runs were'} trained by another version of the "
        f"code and stand as they are ({which}); for the code as it is now give a new folder with --out, or delete them"
    )


def _hopeless(folder: Path, run: Run) -> bool:
    if not os.path.exists(folder / INFO):
        return False
    info = read_info(folder)
    return info.status in ("diverged", "failed") and info.code == code_version(catalogue.get(run.recipe))


def _train(
    run: Run,
    out: Path,
    folder: Path,
    parents: Mapping[str, Path],
    device: torch.device,
    threads: int,
    progress: Progress,
) -> None:
    recipe = catalogue.get(run.recipe)
    before = read_info(folder) if os.path.exists(folder / INFO) and os.path.exists(folder / STATE) else None
    if before is not None and before.status != "diverged" and before.planned_steps > 0:
        threads = before.threads
        _clear(folder, keep=(INFO, LOG, STATE, PREPARED))
    else:
        before = None
        _clear(folder)
    info: Info | None = None
    with _threads(threads):
        try:
            started = _start(run, recipe, parents, device, threads)
            split = dataset(run.place or run.dataset, run.source).train
            data = (split if run.conditional else split.unlabelled()).to(device)
            broken = next((read_info(f) for f in parents.values() if read_info(f).status != "ok"), None)
            if broken is not None:
                raise RuntimeError(f"it needs {broken.where}, which {broken.status}: {broken.reason}")
            held = {role: _frozen(parent, device) for role, parent in parents.items()}
            if before is None:
                schedule = _schedule(run, recipe, data, held, out, threads, progress)
                info = replace(started, **dataclasses.asdict(schedule))
            else:
                codes = (*before.codes, started.code)
                info = replace(before, status="training", reason="", finished="", codes=codes)
            store.write_sealed(folder / INFO, dataclasses.asdict(info))
            seed = seed_of("init", run.key, run.recipe, run.seed)
            model = _build(recipe, run.space, info.width, held, run.config, seed, device, run.arithmetic.precision)
            with beside_others(
                device, lambda: progress.update(f"wait for the GPU to train {run.recipe}", 0, 1)
            ) as share:
                try:
                    trained = train(
                        model,
                        data,
                        batch=info.batch,
                        steps=info.planned_steps,
                        coords=(run.key, run.recipe, run.seed),
                        folder=folder,
                        of=run.id,
                        progress=progress,
                        stage=f"train {run.recipe}",
                        keep={round(part * info.planned_steps) for part in SNAPSHOTS},
                        compiled=run.arithmetic.compiled,
                    )
                finally:
                    if share.crowded and not info.contended:  # kept now, as the run may go on in another sitting
                        info = replace(info, contended=True)
                        store.write_sealed(folder / INFO, dataclasses.asdict(info))
        except (BadInput, KeyboardInterrupt):
            raise
        except torch.OutOfMemoryError:
            # What is left of it goes with this frame; the checkpoint stays, and a smaller model or batch is another run.
            reason = (
                f"out of memory: {device} has no room for {run.recipe} at batches of {getattr(run.config, 'batch', '?')}; "
                "take smaller ones (--set batch=N), fewer --jobs, or a tier with fewer parameters"
            )
            _failed(folder, info or before or started, reason)
            return
        except (Exception, SystemExit) as error:  # a paradigm's own fault: recorded, and the suite goes on
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            reason = text if isinstance(error, RuntimeError) and text.startswith("it needs ") else _located(error, text)
            store.write_atomic(folder / ERROR, visible(traceback.format_exc(), lines=True).encode())
            _failed(folder, info or before or started, reason)
            return
        finally:
            if run.arithmetic.compiled:
                torch.compiler.reset()  # the compiler keeps few versions of one network, and the next run has its own width
    info = _costed(info, trained, parents)
    files = {LOG: store.put(folder / LOG, trained.log)}
    if trained.status == "ok":
        if held:
            files[PARENTS] = store.put(folder / PARENTS, _parents_of(parents, held))
        for step, ema in trained.kept.items():
            name = f"at-{step}.safetensors"
            files[name] = store.put(folder / name, _weights(run.where, ema=ema))
        files[WEIGHTS] = store.put(folder / WEIGHTS, _weights(run.where, ema=trained.ema, raw=trained.raw))
    _conclude(folder, info, files)


def _start(run: Run, recipe: Recipe, parents: Mapping[str, Path], device: torch.device, threads: int) -> Info:
    """What is known of a run before its schedule."""
    budget = run.tier.budget(run.space)
    return Info(
        schema=SCHEMA,
        id=run.id,
        where=run.where,
        recipe=run.recipe,
        paradigm=recipe.heading,
        summary=recipe.summary,
        dataset=run.dataset,
        checksum=run.checksum,
        seed=run.seed,
        tier=run.tier.name,
        match=run.tier.match,
        budget=budget.spending(),
        share=run.share,
        conditional=run.conditional,
        config=dataclasses.asdict(run.config),
        space={"shape": run.space.shape, "classes": run.space.classes, "levels": run.space.levels},
        parents={role: parent.where for role, parent in run.parents},
        params_target=budget.params,
        started=_now(),
        source=run.place.as_json() if isinstance(run.place, OwnData) else {},
        above=_above(run),
        **vars(run.arithmetic),
        **environment(device, threads, recipe, run.arithmetic.precision),
    )


def _above(run: Run) -> dict[str, str]:
    """See `Info.above`."""
    found: dict[str, str] = {}
    for _, parent in run.parents:
        usual = _sized(catalogue.get(parent.recipe).config, parent.tier.budget(parent.space))
        changed = _changes(usual, dataclasses.asdict(parent.config))
        found |= _above(parent) | {f"{parent.recipe}.{key}": text for key, text in changed.items()}
    return found


def _changes(usual: Any, config: Mapping[str, Any]) -> dict[str, str]:
    """What a config has other than the usual one of its recipe, as --set takes it."""
    was, now = flat(dataclasses.asdict(usual)), flat(config)
    return {key: text for key, text in now.items() if was.get(key, text) != text}


def _costed(info: Info, trained: Trained, parents: Mapping[str, Path]) -> Info:
    """The info of an ended training, with its own cost and that of everything it stands on, each counted once."""
    own = {
        "flops": trained.prepare_flops + trained.steps * info.flops_per_step,
        "seconds": trained.seconds,
        "images": trained.images,
    }
    contended = info.contended or os.getloadavg()[0] > 1.25 * (os.cpu_count() or 1)
    costs: dict[str, Mapping[str, float]] = {}
    for folder in parents.values():
        costs |= read_info(folder).costs
    costs[info.where] = own | ({"contended": 1.0} if contended else {})
    return replace(
        info,
        status=trained.status,
        reason=trained.reason,
        steps=trained.steps,
        images=trained.images,
        flops=own["flops"],
        seconds=trained.seconds,
        cpu_seconds=trained.cpu_seconds,
        images_per_second=trained.images / trained.seconds if trained.seconds else 0.0,
        flops_total=sum(cost["flops"] for cost in costs.values()),
        seconds_total=sum(cost["seconds"] for cost in costs.values()),
        images_total=int(sum(cost["images"] for cost in costs.values())),
        costs=costs,
        skipped=trained.skipped,
        symptom=trained.symptom,
        resumed=trained.resumed,
        contended=contended,
        finished=_now(),
    )


def _weights(where: str, **parts: Mapping[str, torch.Tensor]) -> bytes:
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        f"{part}.{name}": t.cpu().contiguous().clone() for part, state in parts.items() for name, t in state.items()
    }
    return save_tensors(tensors, {"run": where})


def _step_of(name: str) -> int:
    """The step after which a file keeps the averaged weights; 0 where it is another."""
    found = re.fullmatch(r"at-([1-9]\d*)\.safetensors", name)
    return int(found[1]) if found else 0


def snapshots(folder: Path) -> list[int]:
    """The steps after which a finished run kept its averaged weights, in order; none in runs older than that."""
    return sorted(step for name in store.manifest(folder) if (step := _step_of(name)))


def at_step(info: Info, step: int) -> Info:
    """The info of a run as it was after `step` of its steps: images and FLOPs till then. Its seconds are not known."""
    fewer = info.steps - step
    flops, images = fewer * info.flops_per_step, fewer * info.batch
    return replace(
        info,
        steps=step,
        images=info.images - images,
        flops=info.flops - flops,
        flops_total=info.flops_total - flops,
        images_total=info.images_total - images,
        seconds=math.nan,
        seconds_total=math.nan,
    )


def _conclude(folder: Path, info: Info, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Records how a run ended. The manifest comes last: only with it is the folder finished. files: as `write_manifest`."""
    told = store.write_sealed(folder / INFO, dataclasses.asdict(info))
    if info.status != "ok":
        store.save_rows(folder, [base_row(info)], key=info.status)
    store.write_manifest(folder, {INFO: told, **files})
    if info.status != "failed":  # want of memory, say: the next attempt goes on from the checkpoint
        tidy(folder)


def _failed(folder: Path, info: Info, reason: str) -> None:
    """Records that a run failed, with the log so far."""
    path = folder / LOG
    files = {LOG: store.put(path, path.read_bytes())} if path.exists() else {}
    _conclude(folder, replace(info, status="failed", reason=reason, finished=_now()), files)


# What a run's folder holds besides the snapshots: of the training, and of what is measured on its weights.
OWN = frozenset((INFO, LOG, STATE, PREPARED, WEIGHTS, PARENTS, ERROR, PROTOCOLS, store.MANIFEST, store.RESULTS)) | {
    *("grid.png", "samples.npz", "timing", "likelihood", "samplers", "features")
}


def _clear(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Takes away what an earlier attempt left, so that nothing of it is mistaken for this one's, and nothing else.

    Raises BadInput where no run was begun and others' files lie there, as behind a link to a folder of theirs.
    """
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    strange = [path.name for path in found if path.name not in OWN and not _step_of(path.name)]
    if not os.path.exists(folder / INFO) and (strange or (found and folder.is_symlink())):
        where = f"{folder}, a link to {os.path.realpath(folder)}," if folder.is_symlink() else str(folder)
        raise BadInput(
            f"{where} holds no run but {min(strange or [found[0].name])}; move that elsewhere, or choose another --out"
        )
    store.sweep(folder, locked=True)
    for path in found:
        if path.name in strange:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # what was measured on the weights that go
        elif path.name not in keep:
            path.unlink()


def _located(error: BaseException, text: str) -> str:
    """An unexpected error in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text}{place}"


def _now() -> str:
    """UTC, to the microsecond: runs of small recipes end several in a second, and the newest is asked for by name."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------------ load


def load(
    folder: Path,
    weights: Literal["ema", "raw"] = "ema",
    device: str | torch.device = "cpu",
    step: int | None = None,
    out: Path | None = None,
) -> tuple[Trainable, Info]:
    """The model of a finished run in eval mode, with averaged or raw weights, and its run.json.

    step: one of `snapshots`, for the averaged weights after it; by default the last.
    out:  an output folder where its parents may be besides the run's own.

    Its parents are rebuilt too: from their own folders (see `_places`), or, where one is gone or damaged and no sample is
    drawn with it, from `PARENTS`. Raises BadInput when the run did not finish, a file is damaged, a parent is wanting, or the
    recipe no longer fits the weights.
    """
    folder = Path(folder)
    info = read_info(folder)
    if info.status != "ok":
        how = f"{info.status}: {info.reason}" if info.reason else "has not finished training"
        command = again(info, out_of(folder, info, out))
        raise BadInput(f"{folder} has no weights, it {how}; run the same training command again: `{command}`")
    store.read_verified(folder, INFO)
    name = WEIGHTS if step is None else f"at-{step}.safetensors"
    data = store.read_verified(folder, name)
    _check_weights(folder / name, data, info)
    recipe = catalogue.get(info.recipe)
    config = _restored(recipe.config, info.config, folder / INFO)
    where = device_of(device) if isinstance(device, str) else device
    parents = {role: _parent(folder, info, role, where, out) for role in info.parents}
    try:
        tensors = load_tensors(data)
        model = _build(recipe, _space(info.space), info.width, parents, config, 0, where, info.precision)
        model.load_state_dict(
            {n.removeprefix(f"{weights}."): t for n, t in tensors.items() if n.startswith(f"{weights}.")}
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what run.json and the weights say of the model is not what the recipe now makes of it
        text = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
        raise BadInput(
            f"{folder} does not fit the recipe '{info.recipe}' as it is now ({text}); delete this folder and train it anew: "
            f"`{again(info, out_of(folder, info, out))}`"
        ) from None
    return model.eval(), info if step is None else at_step(info, step)


def _check_weights(path: Path, data: bytes, info: Info) -> None:
    """Compares the run that weights are of with the one that they are read as. Raises BadInput."""
    said = str(store.metadata(data).get("run", ""))
    store.belongs(path, said.rpartition("/")[2], info.id)


def _space(values: Mapping[str, Any]) -> Space:
    return Space(tuple(values["shape"]), values["classes"], values["levels"])


def _frozen(folder: Path, device: torch.device, out: Path | None = None) -> Frozen:
    """A finished run as the parent of another."""
    model, info = load(folder, device=device, out=out)
    return Frozen(model, info.images)


# --------------------------------------------------------------------------------------------------------- parents


def _parent(folder: Path, info: Info, role: str, device: torch.device, out: Path | None) -> Frozen:
    """A run's parent in a role: its own run where that is whole, else rebuilt where no sample is drawn with it."""
    need = catalogue.get(info.recipe).needs.get(role)
    _, recipe, name = info.parents[role].split("/")
    who = f"{info.recipe} {info.id} needs its {role} {recipe} {name}"
    found = next((place for place in _places(folder, info.parents[role], out) if os.path.exists(place / INFO)), None)
    try:
        if found is None:
            root = out_of(folder, info, out)
            raise BadInput(
                f"{who}, which is gone: it is not in {root / info.parents[role]}; `{again(info, root, role)}` makes it anew"
            )
        try:
            return _frozen(found, device, out)
        except BadInput as error:
            raise BadInput(f"{who}: {error}; `{again(info, out_of(folder, info, out), role)}` makes it anew") from None
    except BadInput:
        if need is None or need.at_sampling or PARENTS not in store.manifest(folder):
            raise
    try:
        facts, tensors = _part(*_read_parents(store.read_verified(folder, PARENTS)), role)
        store.belongs(folder / PARENTS, facts["where"].rpartition("/")[2], name)
        return _rebuilt(facts, tensors, device)
    except (ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        text = " ".join(str(error).split())[:200]
        raise BadInput(f"{folder / PARENTS} does not fit its run ({text}); delete {folder} and train it anew") from None


def _places(folder: Path, where: str, out: Path | None) -> list[Path]:
    """Where a parent may be: beside its child in the output folder, or in as much of it as was copied; then in `out`."""
    parts = where.split("/")
    homes = dict.fromkeys(
        (folder.absolute(), folder.resolve())
    )  # of a linked run, where it is linked and where it lies
    beside = [
        up.joinpath(*parts[-k:]) for home in homes for k, up in reversed([*enumerate(home.parents, 1)][: len(parts)])
    ]
    return beside + ([] if out is None else [Path(out) / where])


def out_of(folder: Path, info: Info, out: Path | None = None) -> Path:
    """The output folder that a run lies in; of one that was copied alone the one that was named."""
    home = folder.absolute()
    if home.as_posix().endswith(f"/{info.where}"):
        return home.parents[2]
    return Path("runs") if out is None else Path(out)


def _as_typed(info: Info) -> list[str]:
    """The data set of a run as one types it after --dataset, with what goes with it."""
    place = info.place
    if not isinstance(place, OwnData):
        return [info.dataset]
    own = place.named("").called(info.checksum) != info.dataset and not info.dataset.startswith(FOLDER)
    return place.typed() + (["--name", info.dataset] if own else [])


def again(info: Info, out: Path, role: str = "") -> str:
    """The command that makes a run anew in `out`, under the same id; or that which it needs in a `role`.

    A parent that had another share of the budget than its recipe has by itself is made by training its child.
    """
    recipe, changes = catalogue.get(info.recipe), True
    if role in recipe.needs:
        need = recipe.needs[role]
        if need.share == catalogue.get(need.recipe).share:
            recipe, changes = catalogue.get(need.recipe), False
    tier = tiers().get(info.tier)
    space = _space(info.space)
    words = ["bench", "train", recipe.name, "--dataset", *_as_typed(info)]
    words += ["--tier", info.tier if tier is not None else f"FILE.toml:{info.tier}", "--seed", str(info.seed)]
    settings: dict[str, str] = {}
    if changes:
        usual = recipe.config if tier is None else _sized(recipe.config, tier.budget(space))
        settings = _changes(usual, info.config)
    # What stands above a parent is among what stands above its child.
    above = {name.removeprefix(f"{recipe.name}."): text for name, text in info.above.items() if _is_of(recipe, name)}
    words += [word for key, text in (settings | above).items() for word in ("--set", f"{key}={text}")]
    words += ["--match", info.match] if tier is None or info.match != tier.match else []
    words += ["--conditional"] if info.conditional else []
    words += ["--device", info.device] if info.device != "cpu" or torch.cuda.is_available() else []
    words += ["--precision", info.precision] if info.precision != "fp32" else []
    words += ["--compile"] if info.compiled else []
    if info.threads != 1 or (space.is_image and max(space.shape[1:]) > SMALL_IMAGE):
        words += ["--threads", str(info.threads)]
    out = Path(out)
    words += ["--out", str(out)] if out.resolve() != Path("runs").resolve() else []
    return shlex.join(words)


def _is_of(recipe: Recipe, setting: str) -> bool:
    """Whether RECIPE.key is of a recipe or of what it needs."""
    return setting.partition(".")[0] in {recipe.name, *(known.name for known in needed(recipe))}


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their dotted keys, each as --set takes it."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        elif isinstance(value, (list, tuple)):
            found[before + name] = ",".join(map(str, value))
        else:
            found[before + name] = str(value).lower() if value is None or isinstance(value, bool) else str(value)
    return found


def _parents_of(folders: Mapping[str, Path], held: Mapping[str, Frozen]) -> bytes:
    """`PARENTS`: by role what each parent is rebuilt from but its parameters, and the same of what that one needs.

    Tensors are buffers, named ROLE/[ROLE/...]NAME; the settings are JSON in the file's own metadata.
    """
    facts: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    for role, folder in folders.items():
        info, model = read_info(folder), held[role].model
        if PARENTS in store.manifest(folder):
            above, buffers = _read_parents(store.read_verified(folder, PARENTS))
        else:
            root, device = out_of(folder.resolve(), info), torch.device("cpu")
            some = {r: root / where for r, where in info.parents.items()}
            above, buffers = _read_parents(_parents_of(some, {r: _frozen(f, device) for r, f in some.items()}))
        trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers |= {name: t for name, t in model.state_dict().items() if name not in trained}
        tensors |= {f"{role}/{name}": t.cpu().contiguous().clone() for name, t in buffers.items()}
        kept = ("where", "recipe", "config", "space", "width", "precision", "images")
        facts[role] = {**{name: getattr(info, name) for name in kept}, "parents": above}
    return save_tensors(tensors, {"parents": json.dumps(facts)})


def _read_parents(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(settings by role, buffers) of the content of `PARENTS`."""
    return json.loads(store.metadata(data)["parents"]), load_tensors(data)


def _part(
    facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], role: str
) -> tuple[Any, dict[str, torch.Tensor]]:
    """What of it is of one role."""
    before = f"{role}/"
    return facts[role], {name.removeprefix(before): t for name, t in tensors.items() if name.startswith(before)}


def _rebuilt(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], device: torch.device) -> Frozen:
    """A parent without its parameters, for a child that only asks what kind of model it was.

    They are NaN: whatever is computed with them after all is seen not to be a number.
    """
    recipe, above = catalogue.get(facts["recipe"]), facts["parents"]
    config = _restored(recipe.config, facts["config"], Path(facts["where"]) / INFO)
    parents = {role: _rebuilt(*_part(above, tensors, role), device) for role in above}
    model = _build(recipe, _space(facts["space"]), facts["width"], parents, config, 0, device, facts["precision"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    own = {name: t for name, t in tensors.items() if "/" not in name}
    try:
        unknown_names = model.load_state_dict(own, strict=False).unexpected_keys
    except RuntimeError as error:  # of other shapes
        unknown_names = [str(error)]
    if unknown_names:
        raise BadInput(
            f"{facts['where']} does not fit the recipe '{recipe.name}' as it is now; delete its child and train both anew"
        )
    return Frozen(model, facts["images"])
