"""What commands print: progress, JSON and tables. Nothing that is printed is taken for markup."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from bench import terminal
from reports.words import visible

if TYPE_CHECKING:
    from rich.console import Console

    from bench.inputs.runs import Runs
    from bench.progress import Display, Progress
    from bench.store import Row
    from bench.suite import Result

__all__ = [
    "cell",
    "comparison",
    "display",
    "print_json",
    "print_rows",
    "scores",
    "table",
    "times",
    "warn_of_lost",
    "working",
]


# -------------------------------------------------------------------------------------------------------- progress


def display(quiet: bool) -> Callable[[Mapping[str, float]], Display]:
    """What makes a display on stderr for jobs with their costs; a silent one where the output is for a script."""

    def made(costs: Mapping[str, float]) -> Display:
        from bench import progress

        return progress.display(costs, quiet=quiet)

    return made


@contextlib.contextmanager
def working(job: str, quiet: bool) -> Iterator[Progress]:
    """The progress of one job, shown while the block lasts. The first Ctrl-C ends the job where it is safe."""
    from bench.progress import Progress, graceful_stop

    with display(quiet)({job: 1.0}) as screen, graceful_stop() as stopping:
        yield Progress(job, screen.event, stopping)


def warn_of_lost(runs: Runs) -> None:
    """Names what is below a folder of runs and could not be entered, in warnings on stderr."""
    for reason in runs.lost:
        print(f"warning: left out: {reason}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------ JSON


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    print(text.encode("utf-8", "backslashreplace").decode())  # what is no UTF-8 as JSON's own escape


def print_rows(rows: Iterable[Row]) -> None:
    """Prints rows of results as JSON, which has no numbers that are not finite: null stands for them."""
    print_json(
        [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in dataclasses.asdict(row).items()
            }
            for row in rows
        ]
    )


# ---------------------------------------------------------------------------------------------------------- tables


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _console() -> Console:
    """Standard output. Away from a terminal it is so wide that nothing is cut."""
    return terminal.console(width=None if sys.stdout.isatty() else 1_000, highlight=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", numeric: Sequence[str] = ()) -> None:
    """Prints a table of texts, or a block of lines a row where the terminal is too narrow. numeric: columns set right."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    columns, rows = [visible(name) for name in columns], [[visible(text) for text in row] for row in rows]
    screen = _console()
    # Where there is room no word is broken; where even pieces of five letters do not fit, a row becomes a block.
    words = [max((len(w) for text in column for w in text.split()), default=0) for column in zip(columns, *rows)]
    whole = sum(words) + 3 * len(words) <= screen.width
    if sum(min(word, 5) for word in words) + 3 * len(words) > screen.width:
        if title:
            print(title)
        for row in rows:
            print("\n".join(["", *(f"{name}: {text}" for name, text in zip(columns, row, strict=True) if text)]))
        return
    drawn = Table(title=escape(title) or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, longest in zip(columns, words, strict=True):
        justify: Literal["left", "right"] = "right" if name in numeric else "left"
        drawn.add_column(escape(name), justify=justify, overflow="fold", min_width=longest if whole else None)
    for row in rows:
        drawn.add_row(*(escape(text) for text in row))
    screen.print(drawn, soft_wrap=False)


def comparison(result: Result) -> None:
    """Prints the headline table of a suite, what failed or was left out, and where the report is."""
    from bench.progress import duration

    frame = result.comparison()
    for (dataset, tier), part in frame.groupby(["dataset", "tier"], sort=False):
        columns = [c for c in frame.attrs["display"] if c not in ("dataset", "tier") and part[c].astype(bool).any()]
        texts = {c: part[c].astype(str).tolist() for c in columns}
        names = _fitting(texts, _console().width)
        rows = [list(row) for row in zip(*(texts[c] for c in names))]
        table(names, rows, f"{dataset}, tier {tier}: mean ± 95 % t-interval over seeds, or (least – most)", names[2:])
        if any(text.endswith("*") for c in names for text in texts[c]):
            print("*: the best and those not told apart from it; Group: recipes that share a letter are not told apart")
        if hidden := [c for c in columns if c not in names]:
            print(f"for want of width not shown, but in the report: {', '.join(hidden)}")
    for job, reason in result.failures:
        print(f"failed: {job}: {reason}")
    for job, folder, text in result.symptoms:
        print(f"warning: {job}: {text} ({folder})")
    for name, reason in result.skipped.items():
        print(f"left out: {name}: {reason}")
    for path in result.report[:1]:
        print(f"report: {path}")
    print(f"{result.trained} runs trained and {result.evaluated} evaluated in {duration(result.seconds)}")


# Columns that a narrow terminal leaves out, in this order; the report has them all.
_DISPENSABLE = ("Seeds", "Params", "Throughput", "Time", "FD-random", "plan", "Training", "Latency", "Calls", "Group")


def _fitting(texts: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """The names of the columns of a table that fit into so many characters."""
    widths = {name: 3 + max(map(len, (name, *column))) for name, column in texts.items()}
    for dispensable in _DISPENSABLE:
        if sum(widths.values()) <= width:
            break
        for name in [n for n in widths if n.startswith(dispensable)]:
            del widths[name]
    return list(widths)


# ------------------------------------------------------------------------------------------------ rows of results

_COLUMNS = ("metric", "value", "error", "floor", "unit", "against", "by", "n", "note")
_NUMERIC = ("value", "error", "floor", "n")


def scores(rows: Sequence[Row], every: bool = False) -> None:
    """Prints an evaluation as a table with what its columns mean: the headline plan, or `every` one, and likelihoods."""
    floors = {(r.metric, r.split, r.features): r.value for r in rows if r.status == "baseline"}
    own = [row for row in rows if row.status != "baseline"]
    lines = [_line(row, floors, every) for row in own if _is_shown(row, every)]
    used = [k for k in range(len(_COLUMNS)) if any(line[k] for line in lines)]
    table([_COLUMNS[k] for k in used], [[line[k] for k in used] for line in lines], numeric=_NUMERIC)
    if sets := max((row.draw or 0 for row in rows), default=0):
        print(f"of {sets + 1} disjoint sets of samples this is the first; --json and the report have all")
    if resized := next((row.resize for row in rows if row.resize), ""):
        print(f"samples were brought from {resized}, before they were scored")
    if reading := next((row.reading for row in rows if row.reading), ""):
        print(f"read: {reading}")
    if any(row.low is not None for row in own):
        print("± one standard error; … a proportion's 95 % interval, Wilson's")
    if floors:
        print("floor: what as many real training images or points score as if they were the samples")


def _is_likelihood(row: Row) -> bool:
    return bool(row.kind) or row.metric in ("bits_per_dim", "nll")


def _is_shown(row: Row, every: bool) -> bool:
    """Whether a row of a run or of samples is for the terminal: of the first set of samples, and of a plan that leads."""
    return not row.draw and (_is_likelihood(row) or every or row.headline or not row.sampler)


def _line(row: Row, floors: Mapping[tuple[str, str, str], float | None], every: bool) -> list[str]:
    """The cells of a row. floors: what real examples score, by metric, split and feature space."""
    from bench.features import frechet_title

    value = "n/a" if row.value is None or math.isnan(row.value) else f"{row.value:.5g}"
    relation = f"{row.relation} " if row.relation not in ("", "=") else ""
    error = "" if row.error is None else f"± {row.error:.2g}"
    if row.low is not None and row.high is not None:
        error = f"{row.low:.4f} … {row.high:.4f}"
    real = None if _is_likelihood(row) else floors.get((row.metric, row.split, row.features))
    return [
        frechet_title(row.features) if row.metric == "fd" and row.features else row.metric,
        relation + value,
        error,
        "" if real is None or math.isnan(real) else f"{real:.5g}",
        row.unit,
        f"{row.split} ({row.n_ref:,})" if row.n_ref else row.split,
        _measured_by(row, every),
        f"{row.n or 0:,}",
        row.reason,
    ]


def _measured_by(row: Row, every: bool) -> str:
    """By what a value was made: feature space, likelihood, plan, options and weights, where they are not the usual ones."""
    weights = row.weights if row.weights == "raw" else ""
    if row.fraction is not None and row.fraction < 1:
        weights = f"at {row.fraction:.0%} of the budget"
    plan = f"{row.sampler}-{row.steps}" if row.sampler else ""
    options = row.options if row.kind or every else ""
    return " ".join(text for text in (row.features, row.kind, plan, options, weights) if text)


def times(rows: Sequence[Row], tier: str) -> None:
    """Prints times of sampling as a table, a line for each run and plan."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row.value is not None:
            found.setdefault((f"{row.recipe} {row.run}", f"{row.sampler}-{row.steps}"), {})[row.metric] = row.value
    threads = f"{rows[0].threads} thread{'s' if rows[0].threads != 1 else ''} on {rows[0].device}" if rows else ""
    table(
        ["run", "plan", "latency, ms", "quartiles", "samples/s", "at batch", "memory, MiB"],
        [[run, plan, *_timing(by_metric)] for (run, plan), by_metric in found.items()],
        f"{threads}; median, by tier {tier}",
        numeric=("latency, ms", "samples/s", "at batch", "memory, MiB"),
    )
    if any(row.contended for row in rows):
        print("the machine was busy with other work while these were taken: time again when it is idle")


def _timing(found: Mapping[str, float]) -> list[str]:
    """The cells of one run and plan: latency, quartiles, throughput, its batch and memory."""
    quartiles = ""
    if "latency_q25" in found:
        quartiles = f"{1e3 * found['latency_q25']:.3g} … {1e3 * found['latency_q75']:.3g}"
    return [
        f"{1e3 * found['latency']:.3g}",
        quartiles,
        f"{found['throughput']:,.0f}",
        f"{found['throughput_batch']:.0f}",
        f"{found['peak_memory'] / 2**20:.3g}",
    ]
