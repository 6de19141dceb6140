"""What a run's folder holds and what its run.json says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import store
from bench.arithmetic import DTYPES
from bench.data.names import FOLDER, FolderName, Name, is_stored, stored
from bench.runs.identity import slug
from bench.runs.settings import tuples
from paradigms import catalogue
from paradigms.core.data import Space
from paradigms.errors import BadInput
from paradigms.recipe import Recipe
from reports.layout import INFO, PROTOCOLS

__all__ = [
    *("SCHEMA", "SNAPSHOTS", "WIDEST", "Info", "at_step", "base_row", "measured", "read_info", "snapshots", "space_of"),
    "step_of",
]

SCHEMA = 3  # of run.json; 2: with `symptom`; 3: with `source`
SNAPSHOTS = (0.25, 0.5)  # parts of the training after which the averaged weights are kept too
STATUSES = ("training", "ok", "diverged", "failed")
WIDEST = 1 << 16  # widths that are tried
MOST_NUMBERS = 1 << 26  # of one example


@dataclass(frozen=True)
class Info:
    """The content of run.json: what was run, how it ended, what it cost.

    status:   "training", "ok", "diverged" or "failed"; the last two with the reason.
    where:    the folder, relative to the output folder; also the run's name in `parents` and `costs`.
    parents:  the folder of each needed run, by role.
    space:    the data as the model knows them: shape, classes (0 = unconditional), levels.
    budget:   what the tier allowed a full share: flops, seconds, images, params.
    bound:    what fixed the number of steps: "flops", "images" or "seconds" (the cap, where match is another).
    planned_steps, batch, flops_per_step, seconds_per_step: the plan; the steps done are `steps`.
    params_note: a note where the parameters miss the target by more than 10 %.
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
    def definition(self) -> Recipe:
        """The recipe that it was trained by, whose name is `recipe`. Raises BadInput where there is none of this name."""
        return catalogue.get(self.recipe)

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
        return _sound(Info(**{name: tuples(value) for name, value in store.fitting(Info, values).items()}))
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


def space_of(values: Mapping[str, Any]) -> Space:
    return Space(tuple(values["shape"]), values["classes"], values["levels"])


def measured(folder: Path, info: Info, tier: str) -> Path:
    """Where what a tier measures of a run is kept: the run's folder under its own tier, else that tier's folder inside."""
    return Path(folder) if info.tier == tier else Path(folder) / PROTOCOLS / slug(tier)


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


def step_of(name: str) -> int:
    """The step after which a file keeps the averaged weights; 0 where it is another."""
    found = re.fullmatch(r"at-([1-9]\d*)\.safetensors", name)
    return int(found[1]) if found else 0


def snapshots(folder: Path) -> list[int]:
    """The steps after which a finished run kept its averaged weights, in order; none in runs older than that."""
    return sorted(step for name in store.manifest(folder) if (step := step_of(name)))


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
