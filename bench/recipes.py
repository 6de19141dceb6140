"""What each recipe says of itself, and which data it accepts: for `bench list recipes` and the README."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bench.data.names import DATASETS
from bench.run import refusal
from paradigms import catalogue
from paradigms.contract import Card, Recipe, Space

__all__ = ["Described", "describe"]


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


def _described(recipe: Recipe) -> Described:
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
        data={d.name: refusal(recipe.name, Space(d.shape, 0, d.levels)) for d in DATASETS},
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
    images = {d.name for d in DATASETS if len(d.shape) == 3}
    kinds = {"images": images, "vectors": {d.name for d in DATASETS} - images}
    if set(names) == set().union(*kinds.values()):
        return "all"
    whole = [kind for kind, members in kinds.items() if members <= set(names)]
    covered = set().union(*(kinds[kind] for kind in whole))
    return ", ".join([*whole, *(name for name in names if name not in covered)])
