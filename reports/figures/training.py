"""Training curves from the logs of runs, which may be long, cut short or damaged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from reports import words
from reports.entries import Entry
from reports.figures.drawing import STYLES, Drawing, Picture, colour, draw, log_axis
from reports.layout import LOG
from reports.records import run_id
from reports.sections import Section

_NOT_TERMS = re.compile(r"^(step|steps|images|seconds|time|skipped|lr(\..*)?)$")


_POINTS = 120


def read_log(path: Path) -> pd.DataFrame:
    """A run's log.jsonl as numbers; lines that are cut short are left out, a missing log is empty.

    Of a long log a row is the mean of lines that follow each other, as many in each row, so that no more than some
    thousand rows are ever held, whatever the length of the file.
    """
    if not path.is_file():  # a pipe would be waited for
        return pd.DataFrame()
    rows: list[dict[str, _Mean]] = []
    several, last = 1, 0  # lines in a row, and in the last one
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if not isinstance(entry, dict):
                    continue
                if last == several and len(rows) == 2 * _ROWS:
                    rows, several = [_joined(*pair) for pair in zip(rows[::2], rows[1::2])], 2 * several
                    last = several
                if last == several or not rows:
                    rows.append({})
                    last = 0
                rows[-1] = _joined(rows[-1], {k: _Mean.of(v) for k, v in entry.items() if type(v) in (int, float)})
                last += 1
    except OSError:
        return pd.DataFrame()
    return pd.DataFrame([{k: mean.value for k, mean in row.items()} for row in rows], dtype=float)


_ROWS = 2_000  # of a log, at least, where it is longer


class _Mean(NamedTuple):
    """Of the finite numbers of a column."""

    total: float = 0.0
    lines: int = 0

    @classmethod
    def of(cls, number: float) -> _Mean:
        try:
            return cls(float(number), 1) if math.isfinite(number) else cls()
        except OverflowError:  # an integer beyond all floats
            return cls()

    @property
    def value(self) -> float:
        return self.total / self.lines if self.lines else math.nan


def _joined(a: dict[str, _Mean], b: dict[str, _Mean]) -> dict[str, _Mean]:
    both = {k: _Mean(a[k].total + b[k].total, a[k].lines + b[k].lines) for k in a.keys() & b.keys()}
    return {**a, **b, **both}


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most _POINTS points, each the mean of its bin."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) <= _POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), _POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def training(section: Section) -> list[Picture]:
    """A card of small multiples per recipe: each logged term and gradient norm, seeds overlaid."""
    pictures = []
    failed = {f.run for _, f in section.failures}
    for entry in section.entries:
        logs = []
        for record in entry.records:
            folder = record.get("folder")
            log = read_log(Path(folder) / LOG) if folder else pd.DataFrame()
            if len(log) > 1 and ("images" in log or "step" in log):
                logs.append((str(record.get("seed", "?")), run_id(record) in failed, log))
        terms = sorted({c for *_, log in logs for c in log.columns if not _NOT_TERMS.match(str(c))}, key=_term_order)[
            :8
        ]
        if not terms:
            continue

        def paint(
            d: Drawing,
            entry: Entry = entry,
            logs: list[tuple[str, bool, pd.DataFrame]] = logs,
            terms: list[str] = terms,
        ) -> None:
            _paint_training(d, entry, logs, terms)

        seeds = words.listing([seed for seed, *_ in logs])
        rows = math.ceil(len(terms) / 2)
        named = ", ".join(words.plain(t) for t in terms)
        alt = f"Training curves of {entry.name} on {section.title}: {named}; seeds {seeds}."
        caption = f"seed{'s' if len(logs) > 1 else ''} {seeds}"
        slug = f"{section.slug}-training-{words.slug(entry.name)}"
        pictures.append(draw(slug, entry.name, caption, alt, (4.9, 0.35 + 1.35 * rows), paint))
    return pictures


def _term_order(name: str) -> tuple[bool, bool, str]:
    return (name.startswith("grad_norm"), not name.startswith("loss"), name)


def _paint_training(d: Drawing, entry: Entry, logs: list[tuple[str, bool, pd.DataFrame]], terms: Sequence[str]) -> None:
    rows = math.ceil(len(terms) / 2)
    grid = d.figure.subplots(rows, 2, squeeze=False, sharex=True).ravel()
    axes: list[Axes] = list(grid)
    x_name = "images" if all("images" in log for *_, log in logs) else "step"
    for ax, term in zip(axes, terms):
        shown: list[np.ndarray] = []
        for i, (seed, stopped, log) in enumerate(logs):
            if term not in log:
                continue
            x, y = _thin(log[x_name].to_numpy(), log[term].to_numpy())
            if not len(x):
                continue
            shown.append(y)
            ax.plot(x, y, color=colour(entry.mark), lw=1.1, ls=STYLES[i % 4], alpha=0.85,
                    gid=d.name(f"{entry.name}, seed {seed}: {words.plain(term)}", entry.mark))  # fmt: skip
            if stopped:
                ax.plot(x[-1:], y[-1:], marker="x", ms=7, mew=2, color="#D55E00", ls="", zorder=4)
        values = np.concatenate(shown) if shown else np.zeros(1)
        if (values > 0).all() and values.max() > 20 * values.min():
            ax.set_yscale("log")
            log_axis(ax.yaxis, None, float(values.min()), float(values.max()))
        else:
            ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.set_title(words.shortened(words.plain(term).replace("_", " "), 26), fontsize=8.5)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in axes[len(terms) :]:
        ax.set_axis_off()
    d.figure.supxlabel(x_name if x_name != "images" else "training images seen", fontsize=8)
