"""The evaluation of a finished run: every plan, other weights, every likelihood, its codec; kept in its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bench import measure, runs
from bench.data.names import Name
from bench.progress import Progress
from bench.scores import codec, kept, likelihood, pictures, pools, quality
from bench.scores.kept import Protocol
from bench.scores.pools import Pool, expected_calls
from bench.scores.reference import Reference
from bench.scores.rows import Rows, row_of_plan
from bench.scores.subject import Subject, Variant, other_weights, shares_device, subject_of
from bench.scores.work import OnProgress, Work, silent
from bench.store import Row, locked, manifest, save_rows
from bench.tiers import Tier
from paradigms.contract import Codec
from paradigms.core.plans import Kind, Plan

__all__ = ["evaluate", "is_evaluated", "plan_rows"]


@shares_device
def evaluate(
    folder: Path,
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    force: bool = False,
    data: Name | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Scores a finished run and writes results.jsonl, grid.png and samples.npz into its folder; returns the rows.

    What another tier than its own measures goes into a folder of that tier's inside (see `bench.runs.measured`), here and
    below. What was there before stays until all of the new is made.

    Every sampler and step count is tried on the first `tier.sweep_seeds` training seeds, the headline plan on all. That
    one draws `tier.draws` disjoint sets, and on the first seeds it is drawn with other weights too (see
    `other_weights`). A codec, which does not sample, is asked for its reconstructions, and nothing of that is kept: rows
    are for what can be compared, and the models that stand on it have these among their own.

    data: where its data lie, if not where they did. out: where its parents may be besides its own output folder (see
    `bench.runs.load`). Raises BadInput when the folder is not that of a finished, whole run.
    """
    subject = subject_of(folder, tier, device, data, out)
    if isinstance(subject.run.model, Codec):
        ref = subject.reference(progress.update)
        return codec.rows(subject.row(), subject.run.model, ref, subject.n, progress.update)
    card, space, run = subject.card, subject.run.paradigm.space, subject.run
    variants = other_weights(run.folder, run.info, tier)
    key = _key(run.folder, run.info, subject.protocol)
    if not force and (found := kept.rows_under(subject.place, key)) is not None:
        return found
    manifest(subject.place)  # raises BadInput before the work where it is damaged
    ref = subject.reference(progress.update)
    plans = pools.plans(card, tier.max_calls, _sweep(run.info, tier))
    kinds = likelihood.affordable(card, space, tier.likelihood_calls)
    work = Work(progress, _costs(subject, plans, variants, kinds))
    base = subject.row()
    rows, shown = _of_plans(subject, base, plans, ref, work)
    for variant in variants:
        rows += _of_variant(subject, variant, ref, work)
    for kind in kinds:
        rows += likelihood.of_splits(dataclasses.replace(base, headline=kind == kinds[0]), kind, subject, work)
    if not kinds:
        rows.append(likelihood.none_row(base, card, space, tier))
    if (stage := run.codec) is not None:
        drawn = row_of_plan(base, card.default, card)
        rows += codec.rows(drawn, stage, ref, subject.n, work.scored("the codec"))
    with locked(subject.place):
        if shown is not None:
            pictures.keep(subject.place, shown, subject.data)
        save_rows(subject.place, rows, key)
    return rows


def is_evaluated(folder: Path, tier: Tier, data: Name | None = None) -> bool:
    """Whether `evaluate` would find the rows of a trained run ready, under this tier and these sources."""
    info = runs.read_info(folder)
    protocol = Protocol(runs.data_of(folder, info, data), tier, info.definition, info.config)
    return kept.rows_under(runs.measured(folder, info, tier.name), _key(folder, info, protocol)) is not None


def _key(folder: Path, info: runs.Info, protocol: Protocol) -> str:
    """The key of all that a run's rows depend on."""
    tier = protocol.tier
    variants = other_weights(folder, info, tier)
    drawn = _sweep(info, tier), tier.max_calls, tier.draws, variants, tier.likelihood_calls
    return protocol.key("evaluate", drawn, kept.weights_of(folder))


def _sweep(info: runs.Info, tier: Tier) -> str:
    """Which samplers are swept over: the tier's on its first seeds, none on the others."""
    return tier.sweep if info.seed < tier.sweep_seeds else ""


def _costs(subject: Subject, plans: Sequence[Plan], variants: Sequence[Variant], kinds: Sequence[Kind]) -> list[float]:
    """The network calls of each part of an evaluation, in its order."""
    card, tier, n = subject.card, subject.tier, subject.n
    return [
        *[n * pools.draws_of(card, plan, tier) * expected_calls(card, plan) for plan in plans],
        *[n * expected_calls(card, card.default)] * len(variants),
        *likelihood.costs(kinds, subject.data, tier),
    ]


def _of_plans(
    subject: Subject, base: Row, plans: Sequence[Plan], ref: Reference, work: Work
) -> tuple[list[Row], Pool | None]:
    """The rows of every plan, and the pool of the headline one; None where it could not be drawn."""
    card, n = subject.card, subject.n
    rows: list[Row] = []
    shown: Pool | None = None
    for plan in plans:
        sets, drawn = pools.draws_of(card, plan, subject.tier), Rows(row_of_plan(base, plan, card), rows)
        with work.part(str(plan), n * sets) as tell, drawn.part("fd" if ref.spaces else "w2"):
            pool = subject.draw(plan, n * sets, tell)
            rows += plan_rows(drawn.base, pool, subject, ref, work.scored(str(plan)))
            if plan == card.default:
                shown = pool
    return rows, shown


def plan_rows(drawn: Row, pool: Pool, subject: Subject, ref: Reference, on_progress: OnProgress = silent) -> list[Row]:
    """The rows of a plan's samples, in disjoint sets, and of what one costs. drawn: their base row."""
    drawn = dataclasses.replace(drawn, calls=pool.calls)
    rows: list[Row] = []
    # The training split asks for copies, and only the headline is asked, once.
    splits = ("test", "train") if drawn.headline else ("test",)
    for index, (x, y) in enumerate(pools.pieces(pool, subject.n)):
        here, copies = dataclasses.replace(drawn, draw=index), drawn.headline and index == 0
        rows += quality.rows(here, x, y, ref, splits, copies, on_progress)
    flops = measure.flops_per_sample(subject.run.paradigm, pool.plan, subject.run.device)
    return [*rows, dataclasses.replace(drawn, metric="flops_per_sample", value=flops, unit="FLOP", n=1)]


def _of_variant(subject: Subject, variant: Variant, ref: Reference, work: Work) -> list[Row]:
    """The rows of the headline plan with other weights, against the held-out examples."""
    other, plan = subject.having(variant), subject.card.default
    drawn = Rows(row_of_plan(other.row(), plan, subject.card))
    with work.part(str(variant), subject.n) as tell, drawn.part("fd" if ref.spaces else "w2"):
        pool = other.draw(plan, subject.n, tell)
        here, scored = dataclasses.replace(drawn.base, calls=pool.calls), work.scored(str(variant))
        drawn.made.extend(quality.rows(here, pool.x, pool.y, ref, ("test",), copies=False, on_progress=scored))
    return drawn.made
