"""`bench list` and `bench data`: what there is, and where data sets come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import shown
from bench.cli.options import (
    JsonOption,
    NameOption,
    OutOption,
    TestOption,
    complete_dataset,
    complete_recipe,
    completed_by,
)
from bench.inputs.data import about, place_of
from bench.inputs.recipes import check_recipe
from bench.inputs.runs import Runs
from paradigms import plugins
from paradigms.errors import BadInput, unknown
from reports.layout import RESULTS

if TYPE_CHECKING:
    from bench.tiers import Budget

SETTINGS = "settings"
KINDS = ("recipes", "datasets", "metrics", "backbones", "tiers", "runs", "samplers", SETTINGS)

Rows = list[dict[str, Any]]


def list_(
    what: Annotated[
        str,
        typer.Argument(metavar=f"[{'|'.join(KINDS)}]", help="What to list.", autocompletion=completed_by(KINDS)),
    ] = "recipes",
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="Whose settings.", autocompletion=complete_recipe),
    ] = None,
    out: OutOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List what there is: recipes, data sets, metrics, backbones, tiers, runs, all samplers, or the settings of a recipe.

    [bold]Examples[/bold]
    \b
        bench list datasets
        bench list runs --json
        bench list settings ddpm
    """
    if what not in KINDS:
        raise unknown("kind of list", what, KINDS)
    if recipe is not None and what != SETTINGS:
        raise BadInput(f"a recipe goes with `bench list {SETTINGS}`; leave out '{recipe}'")
    found: dict[str, Callable[[], Rows]] = {
        "recipes": _recipes,
        "datasets": _datasets,
        "metrics": _metrics,
        "backbones": _backbones,
        "tiers": _tiers,
        "runs": lambda: _runs(Runs(out)),
        "samplers": _samplers,
        SETTINGS: lambda: _settings(recipe),
    }
    rows = found[what]()
    if as_json:
        shown.print_json(rows)
        return
    lines = _LINES.get(what, lambda rows: rows)(rows)
    if lines:
        shown.table(list(lines[0]), [[shown.cell(value) for value in line.values()] for line in lines])
    else:
        print(f"no {what} in {out}" if what == "runs" else f"no {what}")


def _recipes() -> Rows:
    from bench.recipes import listed

    return listed()["recipes"]


def _samplers() -> Rows:
    from bench.recipes import listed

    return listed()["samplers"]


def _settings(recipe: str | None) -> Rows:
    """The settings of a recipe, by its name or an alias. Raises BadInput for none and for an unknown one."""
    from bench.recipes import listed
    from paradigms.catalogue import names

    if recipe is None:
        raise BadInput(f"name the recipe, as in `bench list {SETTINGS} RECIPE`; see `bench list recipes`")
    known = names()
    check_recipe(recipe, known)
    return [row for row in listed()[SETTINGS] if row["recipe"] == known[recipe]]


def _datasets() -> Rows:
    from bench.data.names import describe

    return [
        {
            "dataset": d.name,
            "what": d.title,
            "shape": "×".join(map(str, d.shape)),
            "classes": d.classes or None,
            "levels": d.levels or None,
            "train": d.n_train or None,
            "test": d.n_test or None,
            "where": d.where,
        }
        for d in describe()
    ]


def _metrics() -> Rows:
    from reports.metrics import GROUP, known

    if plugins.points(GROUP):  # whose faults are found where metrics are computed; listing ours needs no torch
        from bench.metrics import table

        table.known()
    return [
        {
            "metric": metric.name,
            "title": metric.title,
            "better": {"↓": "lower", "↑": "higher"}.get(metric.direction, ""),
            "best": metric.best,
            "what": metric.meaning,
            "source": metric.source,
        }
        for metric in known().values()
    ]


def _backbones() -> Rows:
    from paradigms.backbones.build import known

    return [
        {
            "backbone": found.name,
            "what": found.title,
            "makes": ", ".join(role for role in ("denoiser", "encoder", "decoder") if getattr(found, role) is not None),
            "source": found.source,
        }
        for found in known().values()
    ]


def _tiers() -> Rows:
    from bench.tiers import tiers

    return [
        {
            "tier": tier.name,
            "what": tier.summary,
            "seeds": tier.seeds,
            "match": tier.match,
            "small images": _budget(tier.small),
            "larger images": _budget(tier.images),
            "vectors": _budget(tier.vectors),
            "samples": tier.samples,
            "max calls": tier.max_calls,
        }
        for tier in tiers().values()
    ]


def _budget(budget: Budget) -> str:
    return f"{budget.flops:.2g} FLOP, ≤ {budget.seconds:g} s, {budget.params / 1e6:g}M parameters"


# ------------------------------------------------------------------------------------------------------------ runs

# What the list of runs reads of run.json, by type. A text may be missing, as in runs of older versions.
LISTED: Mapping[str, type] = {
    **dict.fromkeys(("recipe", "dataset", "tier", "status", "finished", "reason", "symptom"), str),
    **{"seed": int, "steps": int, "planned_steps": int, "seconds": float},
}


def _runs(under: Runs) -> Rows:
    """Every run, the newest first. The first finished run of a recipe is the one that the recipe's name means."""
    from bench.store import fits

    shown.warn_of_lost(under)
    return [
        {"run": str(folder)}
        | (_run(folder, info) if all(fits(kind)(info.get(key, "")) for key, kind in LISTED.items()) else _damaged(info))
        for folder, info in under.newest_first
    ]


def _run(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """What a line on a run says after its folder."""
    return {
        **{key: info.get(key, "") for key in ("recipe", "dataset", "tier", "seed", "status")},
        "finished": f"{info['finished'][:19].replace('T', ' ')} UTC" if info.get("finished") else "",
        "steps": f"{info['steps'] or '?'}/{info['planned_steps']}",
        "seconds": round(info["seconds"], 1),
        "evaluated": os.path.exists(folder / RESULTS),
        "note": "; ".join(filter(None, (info.get("reason"), info.get("symptom"), _missing(folder, info)))),
    }


def _damaged(info: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a run whose run.json can not be read."""
    return {
        **dict.fromkeys(("recipe", "dataset", "tier", "seed"), "?"),
        "status": "damaged",
        "finished": "",
        "steps": "?",
        "seconds": None,
        "evaluated": False,
        "note": info.get("note", ""),
    }


def _missing(folder: Path, info: Mapping[str, Any]) -> str:
    """Which files of a run are gone, in words; "" for none."""
    from bench import store

    try:
        names = store.missing(folder)
    except BadInput as error:
        return str(error)
    if info.get("status") == "ok" and not os.path.exists(folder / store.MANIFEST):
        names = [store.MANIFEST]
    return f"lacks {', '.join(names)}" if names else ""


# ------------------------------------------------------------------------------------------- lines for a terminal


def _recipe_lines(rows: Rows) -> Rows:
    """What a terminal has room for. A variant is indented below its row."""
    lines = []
    for row in rows:
        also = f" (or {', '.join(row['aliases'])})" if row["aliases"] else ""
        lines.append(
            {
                "recipe": ("  " if row["row"] else "") + row["recipe"] + also,
                "paper": row["paper"],
                "year": str(row["year"] or ""),
                "needs": ", ".join(row["needs"]),
                "likelihood": ", ".join(row["likelihoods"]) or "–",
                "data": row["accepts"],
            }
        )
    return lines


def _sampler_lines(rows: Rows) -> Rows:
    """One line for samplers that several recipes have alike, with the recipes' names at its end."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        alike.setdefault(tuple((k, v) for k, v in row.items() if k != "recipe"), []).append(row["recipe"])
    return [{**dict(rest), "recipes": ", ".join(names)} for rest, names in alike.items()]


def _setting_lines(rows: Rows) -> Rows:
    """Without the recipe, which the user named, and with a default as `--set` takes it."""
    return [
        {key: str(value) if key == "default" else value for key, value in row.items() if key != "recipe"}
        for row in rows
    ]


_LINES: Mapping[str, Callable[[Rows], Rows]] = {
    "recipes": _recipe_lines,
    "samplers": _sampler_lines,
    SETTINGS: _setting_lines,
}


# ------------------------------------------------------------------------------------------------------------ data


def data(
    name: Annotated[str, typer.Argument(help="See `bench list datasets`.", autocompletion=complete_dataset)],
    source: Annotated[
        Path | None, typer.Option("--from", help="Import from this file or folder, not from the network.")
    ] = None,
    test: TestOption = None,
    called: NameOption = None,
) -> None:
    """Find, import or download a data set into the cache, verify its checksums and say what it is.

    [bold]Examples[/bold]
    \b
        bench data fashion-mnist
        bench data cifar10 --from ~/Downloads/cifar-10-binary.tar.gz
        bench data folder:my-images@32
        bench data array:mine.npz
    """
    place = place_of(name, Runs(Path("runs")), test, called)
    if source is not None and not source.exists():
        raise BadInput(f"--from {source} does not exist")

    from bench.data import fetch, load

    with shown.working(name, quiet=False) as progress:
        paths = fetch(place, source, progress.update)
        found = load(place)
    for path in paths:
        print(path)
    space = found.space
    kind = f"{space.levels} levels" if space.levels else "real-valued"
    print(
        f"{found.name}: {len(found.train):,} training and {len(found.test):,} test examples of shape {space.shape}, "
        f"{kind}, {space.classes} classes; sha256 {found.checksum[:12]}\n{found.source}"
    )
    print("\n".join(about(found)))
