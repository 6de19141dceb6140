"""What each recipe says of itself, and which data it accepts: for `bench list` and docs/recipes.md.

A recipe can be asked only where torch is loaded, which takes seconds. So what the recipes of this package answer is kept
next to this file (`python -m bench.lab.readme` makes it anew), with the sha256 of the sources that it was read from: where
these have changed, or other packages add recipes, backbones or data sets, the recipes are asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paradigms
from bench.data.names import known as datasets
from paradigms import catalogue, plugins

if TYPE_CHECKING:
    from paradigms.core.data import Space
    from paradigms.core.plans import Card
    from paradigms.recipe import Recipe

__all__ = ["KEPT", "Described", "describe", "kept", "listed"]

KEPT = Path(__file__).with_name("recipes.json")
# Groups of entry points that the lists depend on.
GROUPS = ("paradigms.recipes", "paradigms.backbones", "bench.datasets")


@dataclass(frozen=True)
class Described:
    """A recipe in words. Of one that does not sample, and so has no card, title to url and likelihoods are empty.

    row:  the recipe that it varies; "" for one that varies none.
    data: for each known data set None, or why the recipe can not model it.
    """

    recipe: str
    aliases: tuple[str, ...]
    row: str
    title: str
    paper: str
    year: int | None
    url: str
    summary: str
    needs: tuple[str, ...]
    likelihoods: tuple[str, ...]
    no_likelihood: str
    data: Mapping[str, str | None]

    @property
    def accepts(self) -> str:
        """The data in words: "all", "vectors; not images: <reason>", or "all but mnist (<reason>) and ..."."""
        good = [name for name, reason in self.data.items() if reason is None]
        alike: dict[str, dict[str, str]] = {}  # reasons that differ in their numbers only
        for name, reason in self.data.items():
            if reason is not None:
                alike.setdefault(_NUMBER.sub("#", reason), {})[name] = reason
        why = [(_together(list(some)), _ranged(list(some.values()))) for some in alike.values()]
        accepted = _together(good)
        if why and accepted.count(",") > 2:
            return "all but " + " and ".join(f"{names} ({reason})" for names, reason in why)
        return "; ".join([accepted or "none", *(f"not {names}: {reason}" for names, reason in why)])


def describe() -> list[Described]:
    """Every recipe: the rows in alphabetical order, each before its variants."""
    known = catalogue.recipes()
    return [_described(known[name]) for row in catalogue.rows() for name in catalogue.family(row)]


def refusal(recipe: str, space: Space) -> str | None:
    """As `bench.runs.refusal`."""
    from bench import runs

    return runs.refusal(recipe, space)


def _described(recipe: Recipe) -> Described:
    from paradigms.core.data import Space

    card: Card | None = getattr(recipe.paradigm, "card", None)
    return Described(
        recipe=recipe.name,
        aliases=recipe.aliases,
        row=recipe.variant_of,
        title=recipe.heading,
        paper=card.paper if card else "",
        year=card.year if card else None,
        url=card.url if card else "",
        summary=recipe.summary,
        needs=tuple(need.recipe for need in recipe.needs.values()),
        likelihoods=tuple(dict.fromkeys(kind.name for kind in card.likelihoods)) if card else (),
        no_likelihood=card.no_likelihood if card else "",
        data={d.name: refusal(recipe.name, Space(d.shape, 0, d.levels)) for d in datasets().values()},
    )


_NUMBER = re.compile(r"\d+(?:,\d{3})*")


def _ranged(reasons: list[str]) -> str:
    """One sentence for several that differ in their numbers only: "its 588–3,072 numbers"."""
    columns = zip(*(_NUMBER.findall(reason) for reason in reasons))
    ordered = [sorted(set(column), key=lambda text: int(text.replace(",", ""))) for column in columns]
    numbers = iter([column[0] if len(column) == 1 else f"{column[0]}–{column[-1]}" for column in ordered])
    return _NUMBER.sub(lambda _: next(numbers), reasons[0])


def _together(names: list[str]) -> str:
    """Names of data sets, or of all that are alike."""
    images = {d.name for d in datasets().values() if len(d.shape) == 3}
    kinds = {"images": images, "vectors": datasets().keys() - images}
    if set(names) == set().union(*kinds.values()):
        return "all"
    whole = [kind for kind, members in kinds.items() if members <= set(names)]
    covered = set().union(*(kinds[kind] for kind in whole))
    return ", ".join([*whole, *(name for name in names if name not in covered)])


# ----------------------------------------------------------------------------------------------------- without torch


def listed() -> dict[str, list[dict[str, Any]]]:
    """What `bench list` shows of "recipes", and of their "samplers" and "settings", as JSON has it.

    Where torch is loaded the recipes are asked, which then takes no time.
    """
    found = None if "torch" in sys.modules else _recalled()
    found = found or json.loads(_asked())
    return {what: found[what] for what in ("recipes", "samplers", "settings")}


def _recalled() -> dict[str, Any] | None:
    """The kept file; None where the recipes may say something else by now."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(KEPT.read_text("utf-8"))
        if found["sources"] == sources() and not plugins.points(*GROUPS):
            return found
    return None


@plugins.ours_alone()
def kept() -> str:
    """The content of the kept file: what the recipes of this package say."""
    return _asked()


def _asked() -> str:
    """What the recipes say of themselves, in the form of the kept file: a line for each, for each sampler and setting."""
    recipes = [dataclasses.asdict(found) | {"accepts": found.accepts} for found in describe()]
    lists = {"recipes": recipes, "samplers": _samplers(), "settings": _settings()}
    lines = [f'"sources": "{sources()}"']
    for name, entries in lists.items():
        lines.append(f'"{name}": [\n' + ",\n".join(json.dumps(one, ensure_ascii=False) for one in entries) + "\n]")
    return "{" + ",\n".join(lines) + "}\n"


def sources() -> str:
    """sha256 over all that decides what the recipes of this package say."""
    root = Path(paradigms.__file__).parent
    files = [path for path in sorted(root.rglob("*.py")) if path.name != "errors.py"]
    digest = hashlib.sha256(repr(list(datasets().values())).encode())
    for path in (*files, Path(__file__), Path(__file__).with_name("settings.py")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _samplers() -> list[dict[str, Any]]:
    """Every sampler of every recipe that has some."""
    from paradigms.core.plans import settings_text

    found = []
    for name, recipe in catalogue.recipes().items():
        card: Card | None = getattr(recipe.paradigm, "card", None)
        if card is None:
            continue
        for sampler in card.samplers:
            calls = "adaptive" if sampler.calls is None else _linear(*sampler.calls)
            many = card.default.steps
            default = f"{many} step{'s' * (many != 1)}" if sampler.name == card.default.sampler else ""
            found.append(
                {
                    "recipe": name,
                    "sampler": sampler.name,
                    "steps": ", ".join(map(str, sampler.steps)),
                    "default": default,
                    "network calls": calls,
                    "order": sampler.order,
                    "stochastic": sampler.stochastic,
                    "options": settings_text(sampler.options.items(), ", "),
                    "note": sampler.note,
                }
            )
    return found


def _settings() -> list[dict[str, Any]]:
    """Every setting of every recipe."""
    from bench.settings import described

    return [setting for recipe in catalogue.recipes().values() for setting in described(recipe)]


def _linear(a: int, b: int) -> str:
    """a * steps + b as one writes it."""
    slope = "" if not a else "steps" if a == 1 else f"{a} × steps"
    return f"{slope} + {b}" if slope and b > 0 else f"{slope} − {-b}" if slope and b < 0 else slope or str(b)
