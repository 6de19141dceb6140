"""What a user asks of a run besides what its tier measures: likelihoods, plans and feature spaces of their choice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from bench.data.names import Name
from bench.progress import Progress
from bench.scores import kept, likelihood, quality
from bench.scores.kept import rows_in
from bench.scores.pools import expected_calls
from bench.scores.rows import Rows, row_of_plan
from bench.scores.run import plan_rows
from bench.scores.subject import shares_device, subject_of
from bench.scores.work import Work
from bench.store import SCHEMA, Row, fits, load_rows, locked, manifest, parse, results_key, save_rows
from bench.tiers import Tier
from paradigms.core.plans import Kind, Plan, settings_text
from reports.layout import ASKED, PLANS, SPACES

__all__ = ["in_spaces", "likelihoods", "sampled", "shown"]


@shares_device
def in_spaces(
    folder: Path,
    specs: Sequence[str],
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    n: int | None = None,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """The rows of the headline plan in feature spaces that a user named (see `bench.features.named`), on n samples.

    They are kept in a folder inside the run's, for each space and n. n: by default as many as the tier draws. Raises
    BadInput as `evaluate` does, and for a space that can not be had.
    """
    subject = subject_of(folder, tier, device, data, out)
    card, run = subject.card, subject.run
    ref = subject.reference(progress.update, tuple(specs))
    n = n or subject.n
    protocol = SCHEMA, tier.name, subject.data.checksum, torch.__version__, kept.code(run.recipe, run.info.config)
    key = kept.digest("spaces", protocol, kept.weights_of(run.folder))
    answers = _Answers(subject.place / SPACES, key, _space_of)
    wanted = {(space.id, n): space for space in ref.spaces}
    todo = [space for name, space in wanted.items() if force or name not in answers.known]
    if not todo:
        return answers.with_new([], wanted)
    work = Work(progress, [n * expected_calls(card, card.default)])
    drawn, name = Rows(row_of_plan(subject.row(), card.default, card)), str(card.default)
    with work.part(name, n) as tell, drawn.part("fd"):
        pool = subject.draw(card.default, n, tell)
        here = dataclasses.replace(drawn.base, calls=pool.calls)
        scored = quality.rows(here, pool.x, pool.y, ref, copies=False, on_progress=work.scored(name))
        drawn.made.extend(row for row in scored if row.features)  # what needs none is among the tier's own rows
    # Where nothing could be drawn, that is the answer in every space.
    rows = [
        dataclasses.replace(row, features=space.id, n=n)
        for space in todo
        for row in drawn.made
        if row.features in ("", space.id)
    ]
    return answers.with_new(rows, wanted)


@shares_device
def likelihoods(
    folder: Path,
    kinds: Sequence[Kind],
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """The rows of likelihoods that a user chose, on the tier's examples: with options of their own and at any cost.

    They are kept in a folder inside the run's, apart from those of the tier, and are never the headline. Raises BadInput
    as `evaluate` does, and for an option outside its range.
    """
    for kind in kinds:
        kind.check()
    subject = subject_of(folder, tier, device, data, out)
    _ = subject.card  # raises BadInput for a first stage
    wanted = {(kind.name, settings_text(kind.options)): kind for kind in kinds}
    key = subject.protocol.key("likelihood", kept.weights_of(subject.run.folder))
    answers = _Answers(subject.place / ASKED, key, _kind_of)
    todo = {name: kind for name, kind in wanted.items() if force or name not in answers.known}
    work, base = Work(progress, likelihood.costs(list(todo.values()), subject.data, tier)), subject.row()
    rows = [row for kind in todo.values() for row in likelihood.of_splits(base, kind, subject, work)]
    return answers.with_new(rows, wanted)


@shares_device
def sampled(
    folder: Path,
    chosen: Sequence[Plan],
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """The rows of plans that a user chose, on as many samples as the tier draws, at any cost; as `likelihoods` otherwise.

    A plan that the tier itself draws for this run is not drawn again. Raises BadInput as `evaluate` does, and for a plan
    that the model can not draw by.
    """
    subject = subject_of(folder, tier, device, data, out)
    for plan in chosen:
        subject.run.paradigm.check(plan)
    card, n, place = subject.card, subject.n, subject.place
    ref = subject.reference(progress.update)
    wanted = {(plan.sampler, plan.steps, settings_text(plan.options)): plan for plan in chosen}
    key = subject.protocol.key("plans", kept.weights_of(subject.run.folder))
    answers = _Answers(place / PLANS, key, _plan_of)
    # As they stand, made by this code or an earlier one: the report shows them, and a plan must not count twice.
    tiers = [row for row in rows_in(place) if row.tier == tier.name and _plan_of(row) in wanted]
    own = {name: plan for name, plan in wanted.items() if name not in {_plan_of(row) for row in tiers}}
    todo = {name: plan for name, plan in own.items() if force or name not in answers.known}
    work = Work(progress, [n * expected_calls(card, plan) for plan in todo.values()])
    base, rows = subject.row(), list[Row]()
    for plan in todo.values():
        drawn = Rows(row_of_plan(base, plan, card), rows)
        with work.part(str(plan), n) as tell, drawn.part("fd" if ref.spaces else "w2"):
            pool = subject.draw(plan, n, tell)
            rows += plan_rows(drawn.base, pool, subject, ref, work.scored(str(plan)))
    return [*answers.with_new(rows, own), *tiers]


def shown(folder: Path) -> list[Row]:
    """The rows of a folder that a report shows with the others of the run.

    Of a space that a user named with several numbers of samples those of the largest, and none where the tier has its own.
    """
    rows = load_rows(folder)
    if Path(folder).name != SPACES:
        return rows
    own = {row.features for row in rows_in(Path(folder).parent)}
    most: dict[str, int] = {}
    for row in rows:
        most[row.features] = max(most.get(row.features, 0), row.n or 0)
    return [row for row in rows if row.features not in own and row.n == most[row.features]]


class _Answers:
    """The answers to one kind of question about a run, kept in a folder of their own, each under its key.

    name: of a row, the question that it answers. An answer stays until that same question is answered anew.
    """

    def __init__(self, folder: Path, key: str, name: Callable[[Row], tuple[object, ...]]) -> None:
        self.folder, self.key, self.name = folder, key, name
        manifest(folder)  # raises BadInput before the work where it is damaged
        self._read()

    def _read(self) -> None:
        self.rows = rows_in(self.folder)
        text = (results_key(self.folder) if self.rows else None) or "{}"
        names = {json.dumps(self.name(row)) for row in self.rows}
        # Older versions had one key for all.
        self.keys = _keys_of(text) if text.startswith("{") else dict.fromkeys(names, text)

    @property
    def known(self) -> set[tuple[object, ...]]:
        """The questions whose answers would be the same now."""
        return {name for row in self.rows if self.keys.get(json.dumps(name := self.name(row))) == self.key}

    def with_new(self, rows: list[Row], wanted: Collection[tuple[object, ...]]) -> list[Row]:
        """Keeps the new rows in place of the old of the same name, failures apart; returns those that were wanted."""
        if not rows:
            return self._with_new(rows, wanted)
        with locked(self.folder):
            self._read()  # what others have answered meanwhile stays
            return self._with_new(rows, wanted)

    def _with_new(self, rows: list[Row], wanted: Collection[tuple[object, ...]]) -> list[Row]:
        failed = {self.name(row) for row in rows if row.status == "failed"}
        new = {self.name(row) for row in rows}
        whole = [row for row in rows if self.name(row) not in failed]
        stay = [row for row in self.rows if self.name(row) not in new - failed] + whole
        if whole:
            self.keys |= {json.dumps(name): self.key for name in new - failed}
            save_rows(self.folder, stay, json.dumps(self.keys, sort_keys=True))
        return [row for row in [r for r in self.rows if self.name(r) not in new] + rows if self.name(row) in wanted]


def _keys_of(text: str) -> dict[str, str]:
    """The key of each question; none where that is damaged, and all are answered anew."""
    with suppress(ValueError):
        if fits(Mapping[str, str])(keys := parse(text.encode())):
            return keys
    return {}


def _kind_of(row: Row) -> tuple[object, ...]:
    return row.kind, row.options


def _space_of(row: Row) -> tuple[object, ...]:
    return row.features, row.n


def _plan_of(row: Row) -> tuple[object, ...]:
    return row.sampler, row.steps, row.options
