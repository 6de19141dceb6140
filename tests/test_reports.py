"""Reports: statistics, what may be compared, escaping, offline and byte-stable files, and frames with nothing in them."""

from __future__ import annotations

import base64
import csv
import hashlib
import html.parser
import io
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats as scipy_stats

import reports
from bench import store
from reports import stats, verdict, words
from reports.figures import curves, dots, drawing, pareto, training
from reports.metrics import SHOWN
from reports.scores import Measure
from reports.sections import Section, sections
from reports.tables import cells, cost, headline, likelihood, pairs, quality, sampling, sources
from reports.writers import grids, report
from reports.writers.markdown import as_markdown
from reports.writers.page import page_of

EVIL = "<script>alert('x')</script>\"'&|`*_[a](b)\\%$#~^{}=1\x1b[31m\u202e"
SCORES = {"alpha": 2.0, "beta": 2.02, "gamma": 6.0}
BUDGET = {"flops": 1e12, "seconds": 36.0, "images": 32_000, "params": 280_000}
SPACE = "digits@9f3c1a2b4d5e"


def png(size: int = 72, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def made(
    root: Path,
    scores: dict[str, float] | None = None,
    seeds: int = 3,
    dataset: str = "digits",
    tier: str = "quick",
    spread: float = 0.02,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and run records of a small suite: an image set, one sampler swept on the first seed, two baselines."""
    scores = SCORES if scores is None else scores
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for i, (recipe, score) in enumerate(scores.items()):
        for seed in range(seeds):
            run = f"{seed}-{hashlib.sha256(f'{recipe}{dataset}{tier}'.encode()).hexdigest()[:10]}"
            folder = root / f"{dataset}-{tier}-{i}" / run
            folder.mkdir(parents=True, exist_ok=True)
            log = [
                {"step": k, "images": 64 * k, "seconds": 0.1 * k, "loss": 1 / k, "grad_norm": 0.5, "lr": 1e-3}
                for k in range(1, 30)
            ]
            text = "\n".join(json.dumps(line) for line in log)
            (folder / "log.jsonl").write_text(f'{text}\n{{"step": 30, "lo')
            (folder / "grid.png").write_bytes(png(seed=seed))
            base: dict[str, Any] = {
                "schema": store.SCHEMA, "run": run, "status": "ok", "reason": "", "recipe": recipe, "paradigm": recipe,
                "tier": tier, "dataset": dataset, "seed": seed, "conditional": False, "weights": "ema",
                "fraction": 1.0, "images": 32_000, "flops": 1e12, "seconds": 30.0, "cost_total": 1e12,
                "seconds_total": 30.0, "params_trained": 283_000, "params_sampling": 283_000, "device": "a CPU",
                "threads": 1, "dtype": "float32", "contended": False, "code": "ab12cd34ef56",
            }  # fmt: skip
            runs.append(
                {
                    "id": run,
                    "where": f"{dataset}/{recipe}/{run}",
                    "recipe": recipe,
                    "dataset": dataset,
                    "seed": seed,
                    "tier": tier,
                    "match": "flops",
                    "budget": BUDGET,
                    "share": 1.0,
                    "checksum": "9f" * 32,
                    "config": {"lr": 1e-3},
                    "conditional": False,
                    "status": "ok",
                    "bound": "flops",
                    "seconds": 30.0,
                    "device_name": "a CPU",
                    "torch": "2.13.0",
                    "python": "3.11",
                    "folder": folder,
                }
            )
            for steps in (10, 1, 100) if seed == 0 else (10,):
                plan = base | {"sampler": "heun", "steps": steps, "options": "", "headline": steps == 10}
                plan |= {"calls": 2.0 * steps, "n": 898, "n_ref": 898, "draw": 0}
                value = score * (1 + spread * math.sin(seed + i)) * (1 + 2 / steps)
                for split in ("test", "train"):
                    rows.append(plan | {"metric": "fd", "value": value, "split": split, "features": SPACE})
                rows.append(plan | {"metric": "coverage", "value": 1 / value, "split": "test", "features": SPACE})
                if seed == 0:
                    rows.append(plan | {"metric": "latency", "value": 1e-3 * steps, "unit": "s"})
            kind = {"kind": "elbo" if i == 0 else "pf-ode", "relation": "≤" if i == 0 else "≈", "headline": True}
            for split in ("test", "train"):
                bits = 2.0 + i + 0.001 * seed
                rows.append(base | kind | {"metric": "bits_per_dim", "value": bits, "split": split, "n": 256})
    for recipe, score in (("real-train", 0.42), ("gaussian", 9.82)):
        row = {"status": "baseline", "recipe": recipe, "dataset": dataset, "tier": tier, "split": "test", "n": 898}
        rows.append(row | {"metric": "fd", "value": score, "features": SPACE, "n_ref": 898})
    return rows, runs


def plain_text(text: verdict.Text) -> str:
    return "".join(part for part, _ in text)


def one(rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]] = ()) -> Section:
    (section,) = sections(pd.DataFrame(rows), runs)
    return section


class Page(html.parser.HTMLParser):
    """What a browser would find: tags, attributes and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# ------------------------------------------------------------------------------------------------------ statistics


def test_interval_is_students_t() -> None:
    x = [2.0, 2.3, 2.9]
    summary = stats.summarise(x)
    expected = scipy_stats.t.interval(0.95, 2, np.mean(x), scipy_stats.sem(x))
    assert summary is not None
    assert (summary.low, summary.high) == pytest.approx(expected)
    alone = stats.summarise([2.0, math.nan])
    assert alone is not None
    assert alone.half is None
    assert stats.summarise([math.nan]) is None


def test_holm_agrees_with_references() -> None:
    # Holm (1979): sorted p times the number of tests left, made monotone.
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


def test_seeds_without_spread_give_no_interval_and_wide_ones_the_range() -> None:
    def said(values: list[float]) -> str:
        summary = stats.summarise(values)
        assert summary is not None
        return " ".join(words.with_interval(summary)).strip()

    assert said([6.0, 6.0]) == "6.00"  # three equal counts are no sign of a spread of 0
    assert said([21.8, 26.2]) == "24.0 (21.8 – 26.2)"  # and not 24 ± 28
    assert said([0.9, 1.0, 0.95]) == "0.95 ± 0.12"
    assert said([-0.2, 0.1, 0.4]) == "0.1 ± 0.7"  # what can be negative has an interval about 0


def test_numbers_are_written_as_people_read_them() -> None:
    def said(mean: float, half: float | None) -> str:
        return " ".join(words.with_interval(stats.Summary(mean, half, 3, mean, mean))).strip()

    assert said(2.0812, 0.19) == "2.08 ± 0.19"
    assert said(2.0812, 0.043) == "2.08 ± 0.04"
    assert said(2.0812, 0.0349) == "2.081 ± 0.035"
    assert said(1234.5, 12.3) == "1,234 ± 12"
    assert said(-0.5, 0.2) == "−0.50 ± 0.20"
    assert said(2.0812, None) == "2.08"
    assert words.number(0.00001234) == "1.23e−5"
    assert words.si(1.1e12, "FLOP") == "1.10 TFLOP"
    assert words.seconds(0.0031) == "3.10 ms"
    assert words.seconds(600) == "10.0 min"


# --------------------------------------------------------------------------------------------- what may be compared


def test_one_seed_has_no_interval_no_group_and_nothing_bold(tmp_path: Path) -> None:
    section = one(*made(tmp_path, seeds=1))
    table = headline.headline(section)
    assert "Group" not in [c.title for c in table.columns]
    assert not any(c.bold or "±" in c.plain for line in table.lines for c in line.cells)
    assert "one training seed" in plain_text(verdict.verdict(section)).lower()
    compared = section.compare(Measure("fd", "test", SPACE))
    assert not compared.family.names
    assert set(compared.uncompared.values()) == {"not compared: one training seed"}


def test_ties_and_losers_are_told_apart(tmp_path: Path) -> None:
    section = one(*made(tmp_path))
    said = plain_text(verdict.verdict(section))
    assert "alpha has the best mean FD-digits" in said
    assert "alpha and beta lead, not told apart: each of them is better than every other recipe" in said
    lines = {line.name: line.cells for line in headline.headline(section).lines if line.kind == "recipe"}
    assert {name: cells[0].text for name, cells in lines.items()} == {"alpha": "a", "beta": "a", "gamma": "b"}
    assert lines["alpha"][0].title == "better than gamma"
    assert {name: cells[1].bold for name, cells in lines.items()} == {"alpha": True, "beta": True, "gamma": False}
    order = pairs.partial_order(section)
    assert order is not None
    assert {line.name: [c.text for c in line.cells] for line in order.lines} == {
        "alpha": ["a", "gamma", "beta"],
        "beta": ["a", "gamma", "alpha"],
        "gamma": ["b", "–", "–"],
    }


def test_a_threefold_difference_is_no_tie(tmp_path: Path) -> None:
    """Three seeds, errors of a tenth: the published rows of ddpm and its rivals, which Welch with Holm called ties."""
    seeds = {
        "alpha": (0.91, 0.95, 0.99),
        "beta": (0.95, 1.05, 1.42),
        "gamma": (2.5, 2.7, 2.9),
        "delta": (2.6, 3.0, 3.4),
    }
    rows, runs = made(tmp_path, dict.fromkeys(seeds, 1.0))
    for row in rows:
        if row["metric"] in ("fd", "coverage") and row["recipe"] in seeds:
            value = seeds[row["recipe"]][row["seed"]]
            row["value"] = value if row["metric"] == "fd" else -value
    section = one(rows, runs)
    family = section.compare(Measure("fd", "test", SPACE)).family
    assert family.log
    assert (family.best, family.leads) == (("alpha", "beta"), True)
    assert family.letters == {"alpha": "a", "beta": "a", "gamma": "b", "delta": "b"}
    upwards = section.compare(Measure("coverage", "test", SPACE), lower_is_better=False).family  # a share: as it is
    assert (upwards.log, upwards.best) == (False, ("alpha", "beta"))


def test_no_leading_group_where_one_of_the_best_does_not_beat_all_others(tmp_path: Path) -> None:
    seeds = {"alpha": (1.0, 1.05, 0.95), "beta": (0.9, 1.4, 2.1), "gamma": (1.9, 2.0, 2.1)}
    rows, runs = made(tmp_path, dict.fromkeys(seeds, 1.0))
    for row in rows:
        if row["metric"] == "fd" and row["recipe"] in seeds:
            row["value"] = seeds[row["recipe"]][row["seed"]]
    section = one(rows, runs)
    assert section.compare(Measure("fd", "test", SPACE)).family.letters == {"alpha": "a", "beta": "a b", "gamma": "b"}
    assert "alpha is the best of those compared, and not told apart from beta (" in plain_text(verdict.verdict(section))


def test_where_images_are_too_few_for_frechet_the_kernel_distance_leads(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    kd = [r | {"metric": "kd", "value": r["value"] / 10} for r in rows if r["metric"] == "fd"]
    why = "207 samples are too few for a Frechet distance of 64 features: at least 640 are needed"
    rows = [r | ({"value": None, "reason": why} if r["metric"] == "fd" else {}) for r in rows]
    section = one(rows + kd, runs)
    assert section.lead == ("kd", "test", SPACE)
    assert section.compare(Measure("kd", "test", SPACE)).family.leads
    said = plain_text(verdict.verdict(section))
    assert "best mean KD-digits" in said
    assert f"There is no Frechet distance ({why}); the kernel distance, unbiased at any number, leads." in said
    table = headline.headline(section)
    assert [c.text for c in table.lines[0].cells][:1] == ["a"]


def test_of_two_versions_of_a_feature_network_the_one_that_leads_is_compared(tmp_path: Path) -> None:
    """The baselines are scored by the one, most recipes by the other: the table and the words are of the same one."""
    scores = {"alpha": 2.0, "beta": 3.0, "gamma": 4.0, "delta": 5.0, "epsilon": 6.0}
    rows, runs = made(tmp_path, scores)
    for row in rows:
        if row["recipe"] in ("gamma", "delta", "epsilon") and row.get("features") == SPACE:
            row["features"] = "digits@000000000000"
    section = one(rows, runs)
    lead = section.lead.space
    said = plain_text(verdict.verdict(section))
    compared = section.compare(Measure("fd", "test", lead))
    scored = {e.name for e in section.finished if e.scores[Measure("fd", "test", lead)].values}
    assert set(compared.family.names) <= scored
    assert all(name in said for name in compared.family.best)
    assert set(scores) - scored <= set(compared.uncompared)


def test_recipes_that_a_limit_ended_early_are_compared_and_that_is_said(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    assert "limit on seconds" not in _said(one(rows, runs))
    _costing(rows, "gamma", flops=0.25e12, cost_total=0.25e12)
    section = one(rows, runs)
    assert "gamma" in section.compare(Measure("fd", "test", SPACE)).family.names
    assert (
        "They trained for 0.25× to 1.0× of the budget, as the limit on seconds ended some early (gamma first), so part of "
        "a difference may be one of training." in _said(section)
    )


def test_a_lone_score_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    section = one(*made(tmp_path, {"alpha": 2.0}))
    assert section.compare(Measure("fd", "test", SPACE)).uncompared == {
        "alpha": "not compared: no other score to compare it with"
    }
    assert "the only recipe with a score" in plain_text(verdict.verdict(section))


def test_what_brackets_hold_is_called_so(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 4.0})
    for row in rows:
        if row["recipe"] == "alpha" and row["metric"] == "fd":
            row["value"] = (0.5, 1.0, 2.5)[row["seed"]]
    said = plain_text(verdict.verdict(one(rows, runs)))
    assert "1.33 (0.500 – 2.50), the least and the most of the seeds, against" in said


def test_a_row_worse_than_a_baseline_says_so(tmp_path: Path) -> None:
    section = one(*made(tmp_path, {"alpha": 2.0, "beta": 15.0}))
    table = headline.headline(section)
    fd = [c.key for c in table.columns].index("fd-digits-test")
    assert {line.name: line.cells[fd].sub for line in table.lines if line.kind == "recipe"} == {
        "alpha": "",
        "beta": "worse than the Gaussian fit",
    }


def test_a_recipe_no_better_than_the_gaussian_is_named(tmp_path: Path) -> None:
    said = plain_text(verdict.verdict(one(*made(tmp_path, {"alpha": 2.0, "beta": 15.0}))))
    assert "against 0.420 for real training data (the floor) and 9.82 for a Gaussian" in said
    assert "No better than that Gaussian: beta." in said


def test_over_budget_is_marked_never_bold_never_compared(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    for row in rows:
        if row["recipe"] == "alpha":
            row["cost_total"] = 2e12
    section = one(rows, runs)
    line = next(line for line in headline.headline(section).lines if line.name == "alpha")
    assert not any(c.bold for c in line.cells)
    assert "2.0× budget" in [c.sub for c in line.cells]
    compared = section.compare(Measure("fd", "test", SPACE))
    assert "2.0×" in compared.uncompared["alpha"]
    assert set(compared.family.names) == {"beta", "gamma"}
    assert "alpha had 2.0× the budget" in plain_text(verdict.verdict(section))


@pytest.mark.parametrize(("column", "value"), [("n", 500), ("n_ref", 100), ("weights", "raw"), ("conditional", True)])
def test_rows_with_other_provenance_are_not_compared(tmp_path: Path, column: str, value: object) -> None:
    rows, _ = made(tmp_path)
    for row in rows:
        if row["recipe"] == "gamma":
            row[column] = value
    section = one(rows)
    (odd,) = [e.name for e in section.entries if e.recipe == "gamma"]
    compared = section.compare(Measure("fd", "test", SPACE))
    assert set(compared.family.names) == {"alpha", "beta"}
    assert "differs" in compared.uncompared[odd]


def test_likelihoods_are_compared_only_within_a_kind(tmp_path: Path) -> None:
    section = one(*made(tmp_path))
    made_ = section.compare_likelihoods(section.chosen_likelihoods)
    assert {kind: set(c.family.names) for kind, c in made_.items()} == {"≤ elbo": set(), "≈ pf-ode": {"beta", "gamma"}}
    held_out = {line.name: line.cells[1] for line in likelihood.likelihood(section).lines}
    assert held_out["beta"].bold
    assert not held_out["alpha"].bold  # the lowest number, but alone in its kind
    assert held_out["alpha"].text.startswith("≤ ")


def test_different_settings_are_never_averaged(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0})
    more, again = made(tmp_path / "b", {"alpha": 4.0}, tier="quick")
    for item, record in ((m, r) for r in again for m in more if m.get("run") == r["id"]):
        item["run"] = f"{record['seed']}-other"
    for record in again:
        record["id"] = f"{record['seed']}-other"
        record["folder"] = record["folder"].rename(record["folder"].with_name(record["id"]))
        record["config"] = {"lr": 2e-3}
    section = one([*rows, *more], [*runs, *again])
    assert [e.name for e in section.entries] == ["alpha (lr=0.001)", "alpha (lr=0.002)"]
    assert ("--set lr=0.002") in dict(verdict.commands(section))["alpha (lr=0.002)"]


def test_runs_on_different_models_of_gpu_are_never_averaged(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0})
    for record, card in zip(runs, ("Card A", "Card A", "Card B"), strict=True):
        record |= {"card": card, "precision": "bf16" if card == "Card B" else "fp32"}
    section = one(rows, runs)
    names = ["alpha (card=Card A, precision=fp32)", "alpha (card=Card B, precision=bf16)"]
    assert [(e.name, len(e.seeds)) for e in section.entries] == [(names[0], 2), (names[1], 1)]
    assert dict(verdict.commands(section))[names[1]].endswith("--seed 2 --precision bf16 --device cuda")
    for record in runs:  # the others on a CPU
        record |= {"card": "" if record["card"] == "Card A" else "Card B", "precision": "fp32"}
    assert [e.name for e in one(rows, runs).entries] == ["alpha", "alpha (card=Card B)"]


def test_draws_are_averaged_within_a_seed_and_their_spread_is_shown_apart(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    more = [r | {"draw": 1, "value": r["value"] + 0.5} for r in rows if r["metric"] == "fd" and r.get("run")]
    section = one([*rows, *more], runs)
    entry = next(e for e in section.entries if e.name == "alpha")
    assert len(entry.scores[Measure("fd", "test", SPACE)].values) == 3
    assert entry.scores[Measure("fd", "test", SPACE)].spread == pytest.approx(0.5 / math.sqrt(2))


def test_failed_runs_stay_visible(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    lost = next(r["run"] for r in rows if r["recipe"] == "beta" and r["seed"] == 1)
    rows = [r for r in rows if r.get("run") != lost]
    rows.append({"run": lost, "status": "diverged", "reason": "step 3: loss is nan", "recipe": "beta", "seed": 1,
                 "dataset": "digits", "tier": "quick", "metric": "", "fraction": 0.1})  # fmt: skip
    rows.append({"run": "0-z", "status": "failed", "reason": "out of memory", "recipe": "delta", "seed": 0,
                 "dataset": "digits", "tier": "quick", "metric": ""})  # fmt: skip
    section = one(rows, runs)
    table = headline.headline(section)
    seeds = {line.name: line.cells[-1].plain for line in table.lines if line.kind != "baseline"}
    assert seeds == {"alpha": "3", "beta": "2 of 3 †", "gamma": "3", "delta": "0 of 1 †"}
    assert next(line for line in table.lines if line.name == "delta").kind == "failed"
    assert any("step 3: loss is nan" in note for note in table.notes)
    failed = sources.failed(section)
    assert failed is not None
    assert [line.name for line in failed.lines] == ["beta", "delta"]
    assert "2 runs did not finish" in plain_text(verdict.verdict(section))


def test_a_missing_metric_says_why(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    rows = [r for r in rows if not (r["recipe"] == "gamma" and r["metric"] == "bits_per_dim")]
    gone = next(r for r in rows if r["recipe"] == "gamma")
    rows.append(gone | {"metric": "bits_per_dim", "value": None, "reason": "no tractable density", "split": "test"})
    table = headline.headline(one(rows, runs))
    column = next(i for i, c in enumerate(table.columns) if c.key == "bits_per_dim")
    cell = next(line.cells[column] for line in table.lines if line.name == "gamma")
    assert cell.text == "n/a"
    assert cell.note == "gamma: no tractable density"
    assert any("no tractable density" in note for note in table.notes)


def test_a_note_on_what_was_not_measured_names_the_column(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    section = one([r for r in rows if r["recipe"] != "gamma" or r["metric"] != "kd"], runs)
    entry = next(e for e in section.finished if e.name == "gamma")
    assert cells.missing(entry, "kd").note == f"gamma: {SHOWN['kd'].title} not measured"


def test_frontier() -> None:
    assert pareto.frontier([(4, 1.0), (1, 5.0), (2, 6.0), (3, 1.0), (8, 0.5)]) == [(1, 5.0), (3, 1.0), (8, 0.5)]


def test_markers_and_colours_tell_many_recipes_apart() -> None:
    seen = {(drawing.colour(i), drawing.marker(i)) for i in range(50)}
    assert len(seen) == 50
    assert len(drawing.MARKERS) == len(drawing.SHAPES)
    assert len({drawing.colour(i) for i in range(8)}) == 8, "one for each paradigm of the default comparison"


def test_names_of_the_lines_do_not_meet() -> None:
    """A long name, and lines close together because a recipe lies far off."""
    shown = [dots._Dot("far", 0, (2.4, 7.5)), dots._Dot("near", 1, (2.5, 2.6))]
    lines = [("uniform", 4.09), ("Gaussian", 3.07), ("pixel histograms", 2.44)]
    boxes = []

    def measured(slug: str, title: str, caption: str, alt: str, size: tuple[float, float], paint: Any) -> Any:
        made = drawing.Drawing(Figure(figsize=size, layout="constrained"))
        paint(made)
        made.figure.draw_without_rendering()
        boxes.extend(text.get_window_extent() for text in made.figure.axes[0].texts)

    with pytest.MonkeyPatch.context() as patch, drawing.settings():
        patch.setattr(dots, "draw", measured)
        dots._dots("s", "t", "c", "a", "NLL", shown, lines)
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


# -------------------------------------------------------------------------------------------------------- the files


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, list[dict[str, Any]]]:
    """A report in which every string is an attack."""
    root = tmp_path_factory.mktemp("hostile")
    rows, runs = made(root, {EVIL: 2.0, "=cmd|' /C calc'!A0": 3.0}, seeds=2)
    for row in rows:
        row["dataset"] = "digits" + EVIL
        row["features"] = row.get("features", "") and EVIL + "@1234"
        row |= {"device": EVIL, "code": EVIL, "options": EVIL if row.get("sampler") else ""}
        if row["metric"] == "bits_per_dim":
            row["kind"] = EVIL
    for record in runs:
        record |= {"dataset": "digits" + EVIL, "config": {EVIL: EVIL}, "device_name": EVIL, "platform": EVIL}
    rows.append(rows[0] | {"run": EVIL, "status": "failed", "reason": EVIL, "metric": "", "seed": 7})
    frame = pd.DataFrame(rows)
    reports.render(frame, runs, png(), root / "out")
    return root / "out", frame, runs


def test_nothing_in_the_page_runs_or_asks_the_network(hostile: tuple[Path, Any, Any]) -> None:
    text = (hostile[0] / "report.html").read_text(encoding="utf-8")
    seen = Page(text)
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert len(scripts) == 1
    assert sum(tag == "script" for tag, _ in seen.tags) == 1
    policy = next(a["content"] for t, a in seen.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    digest = hashlib.sha256(scripts[0].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "data"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:")), (tag, address)
    assert "url(http" not in text
    assert "@import" not in text
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.encode()) < 5_000_000
    assert len(scripts[0].encode()) <= 10_000
    assert all(a.get("alt") for t, a in seen.tags if t == "img")
    assert all(a.get("aria-label") or a.get("aria-hidden") for t, a in seen.tags if t == "svg")
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_tags_balance(hostile: tuple[Path, Any, Any]) -> None:
    text = (hostile[0] / "report.html").read_text(encoding="utf-8")
    for tag in ("table", "tr", "td", "svg", "figure", "section", "details", "ul", "li", "dl", "p", "h3"):
        assert len(re.findall(rf"<{tag}[\s>]", text)) == text.count(f"</{tag}>"), tag


def test_markdown_tables_keep_their_shape(hostile: tuple[Path, Any, Any]) -> None:
    text = (hostile[0] / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"(`+) ?.*?\1", "", text)
    assert "<script>" not in outside
    rows = re.findall(r"(?m)^\|.*\|$", text)
    widths = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    heads = [i for i, row in enumerate(rows) if i + 1 < len(rows) and set(rows[i + 1]) <= set("|-: ")]
    assert len(heads) >= 5
    for start, end in zip(heads, [*heads[1:], len(rows)]):
        assert len(set(widths[start:end])) == 1


def test_latex_is_escaped_and_balanced(hostile: tuple[Path, Any, Any]) -> None:
    text = (hostile[0] / "table.tex").read_text(encoding="utf-8")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[\\&%$#_{}]", "", body)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "#" not in bare
    assert body.count(r"\toprule") == body.count(r"\bottomrule") == body.count(r"\begin{table}") >= 4
    for table in re.findall(r"\\begin\{tabular\}\{@\{\}(l[rl]+)@\{\}\}(.*?)\\end\{tabular\}", text, flags=re.S):
        for row in re.findall(r"(?m)^(.*) \\\\$", table[1]):
            assert len(re.findall(r"(?<!\\)&", row)) == len(table[0]) - 1
    assert all(ord(c) < 256 for c in text)


def test_csv_holds_every_row_and_no_formula(hostile: tuple[Path, Any, Any]) -> None:
    out, frame, _ = hostile
    rows = list(csv.reader(io.StringIO((out / "report.csv").read_text(encoding="utf-8"))))
    assert len(rows) == len(frame) + 1
    assert rows[0] == list(frame.columns)
    for name in ("report.csv", "table.csv"):
        cells = [c for row in csv.reader(io.StringIO((out / name).read_text(encoding="utf-8"))) for c in row]
        assert not [c for c in cells if c[:1] in ("=", "@", "+") or (c[:1] == "-" and not _is_number(c))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.heavy
def test_same_inputs_same_bytes_in_any_order(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=2)
    shuffled, backwards = list(rows), list(reversed(runs))
    random.Random(1).shuffle(shuffled)
    first = reports.render(pd.DataFrame(rows), runs, png(), tmp_path / "a")
    second = reports.render(pd.DataFrame(shuffled), backwards, png(), tmp_path / "b")
    assert [p.name for p in first] == [p.name for p in second]
    assert {p.suffix for p in first} == {".html", ".md", ".tex", ".csv", ".svg", ".pdf"}
    for a, b in zip(first, second):
        if a.name != "report.csv":  # keeps the rows' own order
            assert a.read_bytes() == b.read_bytes(), a.name
    assert not [p for p in (tmp_path / "a").rglob("*") if p.name.startswith(".")]


@pytest.mark.heavy
def test_user_settings_of_matplotlib_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    section = one(*made(tmp_path, {"alpha": 2.0}, seeds=1))
    plain = dots.quality_dots(section)
    with matplotlib.rc_context({"axes.grid": False, "font.size": 20, "svg.fonttype": "path"}):
        assert dots.quality_dots(section) == plain
        assert matplotlib.rcParams["font.size"] == 20


def test_inline_figures_keep_their_tick_labels(tmp_path: Path) -> None:
    section = one(*made(tmp_path, {"alpha": 0.0712, "beta": 0.0723}, seeds=2, spread=0.001))
    picture = dots.quality_dots(section)
    assert picture is not None
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", picture.inline)
    assert ticks == re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg.decode())
    assert "var(--ink)" in picture.inline
    assert drawing.INK not in picture.inline
    assert "<title>alpha: FD-digits" in picture.inline


def test_nothing_finished_is_said_in_words(tmp_path: Path) -> None:
    rows = [{"run": "0-a", "status": "failed", "reason": "boom", "recipe": "alpha", "dataset": "digits", "metric": ""}]
    reports.render(pd.DataFrame(rows), [], None, tmp_path / "failed")
    text = Page((tmp_path / "failed" / "report.html").read_text(encoding="utf-8")).text
    assert "No run on digits has finished yet: 1 run failed" in text
    assert "boom" in text
    reports.render(pd.DataFrame(), [], None, tmp_path / "empty")
    assert "no results yet" in (tmp_path / "empty" / "report.html").read_text(encoding="utf-8")
    training = made(tmp_path, {"alpha": 1.0}, seeds=1)[1][0] | {"status": "training"}
    reports.render(pd.DataFrame(), [training], None, tmp_path / "training")
    text = Page((tmp_path / "training" / "report.html").read_text(encoding="utf-8")).text
    assert "No run on digits has finished yet: 1 run without results" in text


@pytest.mark.heavy
def test_any_metric_may_be_missing(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=2)
    for metric in sorted({r["metric"] for r in rows}):
        fewer = [r for r in rows if r["metric"] != metric]
        found = sections(pd.DataFrame(fewer), runs)
        assert as_markdown([page_of(s, headline.headline(s), False, None) for s in found])
    bare = [{"recipe": "alpha", "dataset": "digits", "metric": "fd", "value": 2.0}]
    assert len(reports.comparison(pd.DataFrame(bare))) == 1


@pytest.mark.heavy
def test_two_data_sets_and_a_toy(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0}, seeds=1)
    toy: dict[str, Any] = {
        "run": "0-t",
        "status": "ok",
        "recipe": "alpha",
        "dataset": "ring8",
        "tier": "quick",
        "seed": 0,
    }
    drawn = toy | {"split": "test", "sampler": "heun", "steps": 10, "headline": True, "calls": 20}
    rows += [
        drawn | {"metric": "w2", "value": 0.2},
        drawn | {"metric": "modes", "value": 8.0, "unit": "of 8"},
        toy | {"metric": "nll", "value": 2.5, "split": "test", "kind": "exact", "relation": "="},
        {"status": "baseline", "recipe": "real-train", "dataset": "ring8", "metric": "entropy", "value": 1.8},
    ]
    frame = pd.DataFrame(rows)
    reports.render(frame, runs, {"digits": png()}, tmp_path / "out", ["html", "md"])
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## digits" in text
    assert "## ring8" in text
    assert "8 of 8" in text
    toy_section = next(s for s in sections(frame, runs) if s.dataset == "ring8")
    assert toy_section.lead == ("w2", "test", "")
    (line,) = [line for line in likelihood.likelihood(toy_section).lines if line.kind == "recipe"]
    assert line.cells[3].text == "0.700"  # above entropy
    table = reports.comparison(frame, runs)
    assert list(table["dataset"].unique()) == ["digits", "ring8"]
    display = table[table.attrs["display"]]
    assert display.map(lambda v: isinstance(v, str)).all(axis=None)


def test_grids_are_embedded_captioned_and_kept_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=2)
    (runs[-1]["folder"] / "grid.png").write_bytes(b"not a picture")
    section = one(rows, runs)
    first, more = grids.tiles(section, png())
    assert [t.name for t in first] == ["real data", "alpha", "beta"]
    assert first[1].caption == "heun-10, seed 0, uncurated"
    assert [t.name for t in more] == ["alpha"]
    verified = [{**run, "grid": None if run["recipe"] == "alpha" else png(seed=7)} for run in runs]
    shown, _ = grids.tiles(one(rows, verified), png())
    assert [t.name for t in shown if t.image] == ["real data", "beta"], "what is in the folder is not shown unverified"
    assert shown[-1].image == png(seed=7)
    grids.embed(first)
    assert all(t.data.startswith("data:image/png;base64,") for t in first)
    monkeypatch.setattr(grids, "IMAGE_BYTES", 6_000)
    small = [replace(t, data="") for t in first]
    grids.embed(small)
    assert all(t.data.startswith("data:image/webp;base64,") for t in small)
    assert sum(len(t.data) for t in small) < 6_000 * 4 / 3 + 200
    assert "compressed" in small[1].caption


def test_logs_are_read_tolerantly(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0, "note": "x"}\nrubbish\n[1]\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    log = training.read_log(path)
    assert list(log["step"]) == [1, 2]
    assert "note" not in log
    assert training.read_log(tmp_path / "none").empty


def test_a_long_log_is_thinned_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is the mean of equally many lines that follow each other; what is held does not grow with the file."""
    monkeypatch.setattr(training, "_ROWS", 4)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("the file is read whole"))
    monkeypatch.setattr(Path, "read_bytes", lambda *_: pytest.fail("the file is read whole"))
    path = tmp_path / "log.jsonl"
    for n, several in ((7, 1), (8, 1), (9, 2), (16, 2), (17, 4), (1000, 128)):
        lines = [{"step": k, "loss": 2.0 * k, **({"late": float(k)} if k >= n // 2 else {})} for k in range(n)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        log, whole = training.read_log(path), pd.DataFrame(lines, dtype=float)
        parts = whole.groupby(whole.index // several).mean()
        assert len(log) == len(parts) <= 8
        pd.testing.assert_frame_equal(log, parts[log.columns], check_index_type=False)


def test_a_line_of_a_log_that_is_no_number_costs_that_number_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1, "loss": Infinity}}\n[1]\n{{"step": 2, "loss": 1{"0" * 400}}}\n{{"step": 3, "lo')
    log = training.read_log(path)
    assert log["step"].tolist() == [1, 2]
    assert log["loss"].isna().all()


def test_bad_format_and_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown report format 'pdf'; known: html"):
        reports.render(pd.DataFrame(), [], None, tmp_path, ["pdf"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        reports.render(pd.DataFrame(), [], None, tmp_path / "file" / "out", ["csv"])


def test_csv_alone_sets_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "page_of", lambda *_: pytest.fail("most of a report's time, for nothing"))
    bare = [{"recipe": "alpha", "dataset": "digits", "metric": "fd", "value": 2.0}]
    written = reports.render(pd.DataFrame(bare), [], None, tmp_path, ["csv"])
    assert [path.name for path in written] == ["report.csv", "table.csv"]


def test_reports_need_neither_torch_nor_the_suite() -> None:
    code = (
        "import sys, reports.writers.report\n"
        "bad = {'torch', 'bench', 'paradigms'} & {m.split('.')[0] for m in sys.modules}\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    root = Path(reports.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------- budgets and what they say


def _said(section: Section) -> str:
    return plain_text(verdict.verdict(section))


def _costing(rows: list[dict[str, Any]], recipe: str, **facts: float) -> None:
    for row in rows:
        if row["recipe"] == recipe:
            row |= facts


def test_the_verdict_names_a_better_row_that_had_more_than_one_budget(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    _costing(rows, "alpha", cost_total=2e12)
    said = _said(one(rows, runs))
    assert "among the recipes within one budget, beta has the best mean FD-digits" in said
    assert "Lower, but with more than one budget: alpha 2.4" in said
    assert "(2.0× the budget)" in said
    _costing(rows, "gamma", cost_total=3e12)
    assert "only recipe with a score within one budget" in _said(one(rows, runs))
    # A worse row that had more is no news for the first sentence, but the comparison is still within one budget.
    rows, runs = made(tmp_path / "b")
    _costing(rows, "gamma", cost_total=2e12)
    said = _said(one(rows, runs))
    assert "among the recipes within one budget, alpha has the best" in said
    assert "Lower, but" not in said


def test_an_over_budget_row_worse_than_the_gaussian_is_still_named(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0, "gamma": 15.0})
    _costing(rows, "gamma", cost_total=2e12)
    assert "No better than that Gaussian: gamma." in _said(one(rows, runs))


def test_the_verdict_says_the_real_reason_for_no_comparison(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, seeds=2)
    for row in rows:
        if row.get("run") and row["seed"] == 1 and row["metric"] == "fd":
            row["n"] = 500
    said = _said(one(rows, runs))
    assert "one training seed" not in said
    assert "are not compared: its seeds differ in the number of samples" in said


def _timed(tmp_path: Path, **wall: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A suite matched by seconds: 36 CPU-seconds a run, stretched on the wall."""
    rows, runs = made(tmp_path)
    for record in runs:
        seconds = wall.get(record["recipe"], 36.0)
        record |= {"match": "seconds", "device": "cpu", "threads": 1, "seconds": seconds, "cpu_seconds": 38.5}
        record["costs"] = {record["where"]: {"seconds": seconds, "flops": 1e12, "images": 1}}
        _costing(rows, record["recipe"], seconds=seconds, seconds_total=seconds)
    return rows, runs


@pytest.mark.parametrize("where", ["run", *(pytest.param(x, marks=pytest.mark.heavy) for x in ("parent", "rows"))])
def test_training_seconds_taken_beside_other_work_are_marked_under_their_tables(tmp_path: Path, where: str) -> None:
    rows, runs = made(tmp_path)
    name = runs[0]["recipe"]
    alone = headline.headline(one(rows, runs)), cost.cost(one(rows, runs))
    if where == "run":
        runs[0]["contended"] = True
    elif where == "parent":
        runs[0]["costs"] = {"a": {"seconds": 1.0, "contended": 1.0}, runs[0]["where"]: {"seconds": 30.0}}
    else:  # run.json is gone
        runs = []
        rows = [row | {"contended": row.get("recipe") == name and row["metric"] == "fd"} for row in rows]
    section = one(rows, runs)
    said = f"{name} trained beside other work: read those training seconds as upper bounds."
    assert not any(said in table.notes for table in alone)
    assert all(said in table.notes for table in (headline.headline(section), cost.cost(section)))
    assert not any("Some timings" in note for table in sampling.speed(section) for note in table.notes)


def test_matched_seconds_are_cpu_seconds_on_one_thread(tmp_path: Path) -> None:
    section = one(*_timed(tmp_path, alpha=80.0, beta=60.0))
    assert not any(e.over_budget for e in section.entries)  # 7 % of jitter is allowed, the wall clock not asked
    assert set(section.compare(Measure("fd", "test", SPACE)).family.names) == set(SCORES)
    rows, runs = _timed(tmp_path / "b", alpha=80.0)
    for record in runs:
        record["threads"] = 4
    (alpha,) = [e for e in one(rows, runs).entries if e.name == "alpha"]
    assert alpha.multiple == pytest.approx(80 / 36)


def test_multiples_of_seconds_stand_under_seconds_and_name_parents_only_where_there_are_some(tmp_path: Path) -> None:
    rows, runs = _timed(tmp_path)
    teacher = {r["seed"]: r["where"] for r in runs if r["recipe"] == "alpha"}
    for record in runs:
        if record["recipe"] == "beta":
            where = teacher[record["seed"]]
            record |= {"parents": {"teacher": where}, "costs": record["costs"] | {where: {"seconds": 500.0}}}
        if record["recipe"] == "gamma":
            record["cpu_seconds"] = 72.0
    section = one(rows, runs)
    multiples = {e.name: e.multiple for e in section.entries}
    # The teacher's own record says its CPU time; what beta wrote down of it is the wall clock's.
    assert multiples == pytest.approx({"alpha": 38.5 / 36, "beta": 77 / 36, "gamma": 2.0})
    for table in (headline.headline(section), cost.cost(section)):
        marked = {
            c.key for line in table.lines for c, made in zip(table.columns, line.cells) if made.sub.endswith("budget")
        }
        assert marked == {"seconds_total"}
    said = _said(section)
    assert "beta had 2.1× the budget, parents included, and so" in said
    assert "gamma had 2.0× the budget, and so" in said


@pytest.mark.parametrize("column", [True, False])
def test_matched_images_charge_a_distilled_row_for_its_teacher(tmp_path: Path, column: bool) -> None:
    rows, runs = made(tmp_path)
    for record in runs:
        record["match"] = "images"
        if record["recipe"] == "beta" and not column:
            record["images_total"] = 64_000
    if column:
        _costing(rows, "beta", images_total=64_000)
    section = one(rows, runs)
    assert [e.name for e in section.entries if e.over_budget] == ["beta"]
    table = headline.headline(section)
    (line,) = [line for line in table.lines if line.name == "beta"]
    assert [c.key for c, made in zip(table.columns, line.cells) if made.sub.endswith("budget")] == ["images_total"]


def test_budgets_that_differ_under_one_name_are_said_and_measured_each_by_its_own(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    for record in runs:
        if record["recipe"] == "gamma":
            record["budget"] = BUDGET | {"flops": 2e12}
    _costing(rows, "gamma", flops=2e12, cost_total=2e12)
    section = one(rows, runs)
    assert [e.multiple for e in section.entries] == pytest.approx([1.0, 1.0, 1.0])
    assert any("Budgets differ (alpha and beta: 1.00 TFLOP" in note for note in headline.headline(section).notes)
    assert "budgets differ" in _said(section)
    assert "gamma" in section.compare(Measure("fd", "test", SPACE)).uncompared
    assert "gamma: 2.00 TFLOP" in dict(verdict.provenance(section))["Budget of a run"]


def test_values_without_spread_are_not_tested(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 6.0}, spread=0.0)
    section = one(rows, runs)
    compared = section.compare(Measure("fd", "test", SPACE))
    assert not compared.family.names
    why = "not compared: no score varies over seeds, so nothing can be tested"
    assert compared.uncompared == {"alpha": why, "beta": why}
    assert pairs.pairs(section) is None
    assert pairs.partial_order(section) is None
    said = _said(section)
    assert "told apart" not in said
    assert f"alpha and beta are {why}" in said


def test_a_recipe_trained_by_two_versions_of_the_code_is_marked_but_compared(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    for record in runs:
        record["code"] = "new" if record["recipe"] == "beta" and record["seed"] == 1 else "old"
    section = one(rows, runs)
    assert any("beta (new and old)" in note for note in headline.headline(section).notes)
    assert set(section.compare(Measure("fd", "test", SPACE)).family.names) == set(SCORES)
    assert not any("differing versions" in note for note in headline.headline(one(*made(tmp_path / "b"))).notes)


def test_likelihoods_show_the_gap_between_splits_and_spaces_their_agreement(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    for row in rows:
        if row["metric"] == "bits_per_dim" and row["split"] == "train":
            row["value"] -= 0.25
    rows += [r | {"features": "random-conv@1"} for r in rows if r["metric"] == "fd"]
    section = one(rows, runs)
    table = likelihood.likelihood(section)
    gap = next(i for i, c in enumerate(table.columns) if c.key == "gap")
    assert [line.cells[gap].value for line in table.lines] == pytest.approx([0.25] * 3)
    notes = [note for table in quality.quality(section) for note in table.notes]
    assert sum("Kendall's τ = 1" in note for note in notes) == 1


@pytest.mark.heavy
def test_a_sweep_far_above_the_gaussian_does_not_flatten_the_pareto_picture(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    for row in rows:
        if row["recipe"] == "gamma" and row["metric"] == "fd" and row.get("steps") == 1:
            row["value"] = 5000.0
    picture = next(p for p in pareto.pareto(one(rows, runs)) if p.slug.endswith("calls"))
    assert picture.caption.startswith("1 plan above the picture is drawn as arrows")
    assert "heun-1: FD-digits 5,000" in picture.inline
    assert "1000" not in re.findall(r"<text[^>]*>([^<]*)</text>", picture.inline)


def test_one_call_recipes_do_not_hide_each_other(tmp_path: Path) -> None:
    rows, runs = made(tmp_path)
    rows = [r for r in rows if r.get("steps") in (None, 10) or r["recipe"] == "gamma"]
    section = one(rows, runs)
    points = pareto._points(section, "calls")
    beside = pareto._shifts(points)
    assert set(beside) == {"alpha", "beta"}
    assert beside["alpha"] != beside["beta"]
    assert 1.0 not in beside.values()  # there, gamma's own sweep stands
    assert "20 calls" in next(p for p in pareto.pareto(section) if p.slug.endswith("calls")).inline


@pytest.mark.heavy
def test_what_a_log_says_is_wrong_stands_in_the_verdict_and_under_the_table(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, seeds=2)
    before = set(headline.headline(one(rows, runs)).notes)
    ill = next(r for r in runs if r["recipe"] == "gamma" and r["seed"] == 1)
    ill["symptom"] = f"collapse {EVIL}."
    section = one(rows, runs)
    assert "The training log of gamma names a symptom" in plain_text(verdict.verdict(section))
    (note,) = set(headline.headline(section).notes) - before
    assert note.startswith("The log of gamma seed 1: collapse <script>")
    (page, *_) = reports.render(pd.DataFrame(rows), runs, None, tmp_path / "out", ("html",))
    shown = page.read_text()
    assert "collapse &lt;script&gt;" in shown
    assert "collapse <script>" not in shown


def test_modes_of_images_stand_beside_the_distance(tmp_path: Path) -> None:
    """Counted by another network than the one of the distances, so in a column of its own and in no space's comparison."""
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, dataset="stacked")
    for row in [r for r in rows if r.get("metric") == "fd" and r["split"] == "test"]:
        row["features"] = "random-conv@0123456789ab"
        seen = {"alpha": 1000.0, "beta": 980.0 + row.get("seed", 0)}.get(row["recipe"], 999.0)
        named = row | {"features": "digits@aa11bb22cc33"}
        rows.append(named | {"metric": "modes", "value": seen, "unit": "of 1000"})
        rows.append(named | {"metric": "mode_kl", "value": 0.05 + (1000 - seen) / 100, "unit": "nats"})
    rows = [r for r in rows if r["metric"] not in ("fd", "coverage") or r["features"].startswith("random")]
    section = one(rows, runs)
    assert section.spaces == ("random-conv@0123456789ab",)
    table = headline.headline(section)
    titles = [c.title for c in table.columns]
    cells = {line.name: dict(zip(titles, line.cells)) for line in table.lines}
    assert cells["alpha"]["Modes"].plain == "1,000 of 1000"
    assert cells["beta"]["Modes"].plain == "981.0 ± 2.5 of 1000"
    assert cells["alpha"]["Mode KL"].bold
    assert cells["real training data (floor)"]["Modes"].text == "999"
    (whole,) = quality.quality(section)
    assert {"Modes", "Mode KL"} <= {c.title for c in whole.columns}
    assert "Of 1,000 modes not all are reached by beta (981)" in plain_text(verdict.verdict(section))
    assert any("noise reaches modes too" in said for said in verdict.limitations(section))


@pytest.mark.heavy
def test_the_parts_of_a_bound_are_listed_in_order_and_drawn_by_number(tmp_path: Path) -> None:
    rows, runs = made(tmp_path, {"alpha": 2.0, "beta": 3.0}, seeds=2)
    assert not likelihood.parts(one(rows, runs)).lines
    assert not dots.parts(one(rows, runs))
    for row in [r for r in rows if r["recipe"] == "alpha" and r["metric"] == "bits_per_dim"]:
        of = row | {"unit": "nats", "options": "steps=3"}
        rows += [of | {"metric": f"term_kl_{i}", "value": i + row["seed"] / 10} for i in range(1, 13)]
        rows.append(of | {"metric": "term_reconstruction", "value": 21.4})
    rows += [
        r | {"metric": "term_gain", "value": -1.0, "recipe": "beta"}
        for r in rows
        if r["recipe"] == "beta" and r["metric"] == "bits_per_dim"
    ]
    section = one(rows, runs)
    lines = [line for line in likelihood.parts(section).lines if line.name == "alpha"]
    assert [line.cells[1].text for line in lines] == [*(f"kl_{i}" for i in range(1, 13)), "reconstruction"]
    assert lines[0].cells[0].text == "elbo (steps=3)"
    assert lines[1].cells[2].value == pytest.approx(2.05)
    assert sum(line.cells[3].value or 0 for line in lines) == pytest.approx(1)
    assert lines[-1].cells[3].text == "21.4 %"
    (beta,) = [line for line in likelihood.parts(section).lines if line.name == "beta"]
    assert beta.cells[3].text == "", "of a part below 0 there is no share"
    (picture,) = dots.parts(section)
    assert "; kl_2 2.0 ± 0.6; kl_3" in picture.alt
    assert "kl_12" in picture.inline
    reports.render(pd.DataFrame(rows), runs, None, tmp_path / "out", ("html", "md"))
    assert "### What the likelihoods are made of" in (tmp_path / "out" / "report.md").read_text()
    assert picture.slug in {p.stem for p in (tmp_path / "out" / "figures").iterdir()}


def test_the_sweep_is_a_line_for_each_sampler_and_a_column_for_each_step_count(tmp_path):
    rows, runs = made(tmp_path)
    extra = [r | {"sampler": "euler", "headline": False, "calls": r["steps"]} for r in rows if r.get("steps") == 1]
    table = sampling.sweep(one(rows + extra, runs))
    assert table is not None
    assert [c.title for c in table.columns] == ["Sampler", "1", "10", "100"]
    assert [line.name for line in table.lines] == ["alpha"] * 2 + ["beta"] * 2 + ["gamma"] * 2
    euler, heun = (list(line.cells) for line in table.lines[:2])
    assert [c.plain for c in euler] == ["euler", "6.00", "", ""]
    assert heun[0].plain == "heun"
    assert [c.sub for c in heun[1:]] == ["2 calls", "20 calls", "200 calls"]
    assert [c.value for c in heun[1:]] == pytest.approx([6.0, 2.4 * (1 + 0.02 * np.sin(range(3)).mean()), 2.04])
    assert [c.half is None for c in heun[1:]] == [True, False, True]
    assert [("●" in c.extra, c.seeds) for c in heun[1:]] == [(False, None), (True, None), (False, None)]
    assert table.notes == ("All but the defaults were tried on 1 training seed.",)
    alone = [r for r in rows if r.get("steps") != 1 and r.get("steps") != 100]
    assert sampling.sweep(one(alone, runs)) is None


def guided(rows: list[dict[str, Any]], *strengths: str) -> list[dict[str, Any]]:
    """Rows of a suite of conditional runs whose default plan was also drawn with guidance."""
    rows = [r | {"conditional": True} if r["status"] == "ok" else r for r in rows]
    scored = [r for r in rows if r.get("steps") == 10 and r.get("split") == "test" and r["metric"] == "fd"]
    scored += [
        r | {"metric": name, "value": value}
        for r in scored
        for name, value in (("precision", 0.7), ("recall", 0.8), ("label_accuracy", 0.9), ("cas", 0.6))
    ]
    kept = [r for r in scored if r["metric"] != "fd"]
    for options in strengths:
        w = float(options.split(",")[0].removeprefix("guidance="))
        kept += [
            r
            | {"options": options, "headline": False, "calls": 40.0 if w else 20.0, "value": r["value"] + (w - 1) / 10}
            for r in scored
        ]
    return [*rows, *kept]


@pytest.mark.heavy
def test_guidance_is_a_table_of_strengths_and_three_pictures_where_there_is_any(tmp_path):
    rows, runs = made(tmp_path)
    assert sampling.guidance(one(rows, runs)) is None
    assert curves.guidance(one(rows, runs)) == []
    reports.render(pd.DataFrame(rows), runs, None, tmp_path / "without", ("html",))
    assert "guidance" not in (tmp_path / "without" / "report.html").read_text().lower()

    more = guided(rows, "guidance=2", "guidance=0", "guidance=3,guide-to=5")
    section = one(more, runs)
    table = sampling.guidance(section)
    assert table is not None
    assert [c.title for c in table.columns] == [
        "Plan", "Guidance", "Calls", "FD-digits", "Precision", "Recall", "Label accuracy", "CAS"
    ]  # fmt: skip
    alpha = [[c.plain for c in line.cells] for line in table.lines if line.name.startswith("alpha")]
    assert [row[:3] for row in alpha] == [
        ["heun-10", "0", "20"], ["heun-10 ●", "1", "20"], ["heun-10", "2", "40"],
        ["heun-10 guide-to=5 ●", "1", "20"], ["heun-10 guide-to=5", "3", "40"],
    ]  # fmt: skip
    assert [row[4].split()[0] for row in alpha] == ["0.600", "0.700", "0.800", "0.700", "0.900"]
    swept = sampling.sweep(section)
    assert swept is not None
    assert not any("guidance" in c.plain for line in swept.lines for c in line.cells)
    pictures = curves.guidance(section)
    assert [p.title for p in pictures] == [
        "FD-digits against guidance", "Precision against recall", "Label accuracy against recall"
    ]  # fmt: skip
    assert "heun-10: 0.600 at 0, 0.800 at 2" in pictures[1].alt
    assert "guidance 2: Precision 0.800" in pictures[1].inline
    assert {e.plan for e in section.finished} == {("heun", 10.0, "")}
    reports.render(pd.DataFrame(more), runs, None, tmp_path / "with", ("html", "md"))
    text = (tmp_path / "with" / "report.md").read_text()
    assert "### Guidance" in text
    assert "What guidance buys and costs" in (tmp_path / "with" / "report.html").read_text()
    assert {p.slug for p in pictures} <= {p.stem for p in (tmp_path / "with" / "figures").iterdir()}


def test_a_kind_measured_in_two_ways_is_told_by_its_options(tmp_path):
    rows, runs = made(tmp_path)
    again = [
        r | {"kind": "pf-ode", "options": "steps=40", "headline": False} for r in rows if r.get("kind") == "pf-ode"
    ]
    picture = dots.likelihood_dots(one(rows + again, runs))
    assert picture is not None
    assert "beta ≈ pf-ode (steps=40) " in picture.alt
    assert "beta ≈ pf-ode 3" in picture.alt
    assert "alpha ≤ elbo 2" in picture.alt


@pytest.mark.parametrize(("error", "doubted"), [(0.01, False), (0.5, True)])
def test_a_likelihood_that_its_solver_doubts_is_not_bold_and_says_so(tmp_path, error, doubted):
    rows, runs = made(tmp_path)
    rows = [r | {"error": 0.02} if r.get("kind") == "pf-ode" else r for r in rows]
    rows += [
        r | {"metric": "bits_per_dim_solver_error", "value": error, "unit": "bits/dim"}
        for r in rows
        if r.get("kind") == "pf-ode"
    ]
    table = headline.headline(one(rows, runs))
    column = [c.title for c in table.columns].index("NLL, bits/dim")
    beta = next(line for line in table.lines if line.name == "beta").cells[column]
    assert beta.sub == ("pf-ode, solver error 0.50" if doubted else "pf-ode")
    assert beta.bold != doubted
    section = one(rows, runs)
    (compared,) = (r for kind, r in section.compare_likelihoods(section.chosen_likelihoods).items() if "pf-ode" in kind)
    assert set(compared.family.names) == (set() if doubted else {"beta", "gamma"})
    assert set(compared.uncompared) == ({"beta", "gamma"} if doubted else set())
    whole = next(line for line in likelihood.likelihood(section).lines if line.name == "beta").cells[1]
    assert whole.bold != doubted
