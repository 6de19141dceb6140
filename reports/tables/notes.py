"""The notes below the tables: what intervals are worth, and what a reader should know of runs, budgets and spaces."""

from __future__ import annotations

from collections.abc import Iterable

from reports import coverage, stats, words
from reports.budgets import budget_words, multiple_text
from reports.entries import Entry
from reports.rows import finite
from reports.scores import Measure
from reports.sections import Section

GROUP = "recipes that share a letter are not told apart on the first score; groups may overlap"


def interval_words(section: Section) -> str:
    if section.seeds > 1:
        return (
            "Mean ± 95 % t-interval over training seeds, or (the least – the most) of them where that is wider than half "
            "the mean; bold: the best and those not told apart from it, where any difference could be shown at all."
        )
    return "One training seed each: no intervals, no tests."


def interval_notes(section: Section) -> list[str]:
    """What the 95 % are worth, as measured."""
    if section.seeds < 2:
        return []
    return [coverage.sentence(section.seeds), coverage.sight(section.seeds, len(section.finished))]


def agreement_notes(section: Section) -> list[str]:
    tau, names = space_agreement(section), [section.space_name(s) for s in (section.lead.space, section.second)]
    if tau is None:
        return []
    return [
        f"Agreement of the feature spaces {names[0]} and {names[1]} on the order of the recipes by FD: Kendall's τ = "
        f"{words.number(tau, 2)} (1: the same order, 0: unrelated, −1: reversed). They are never mixed."
    ]


def space_agreement(section: Section) -> float | None:
    if not section.second or section.lead.metric != "fd":
        return None
    means = []
    for entry in section.finished:
        both = [entry.scores[Measure("fd", "test", s)].summary for s in (section.lead.space, section.second)]
        if both[0] and both[1]:
            means.append((both[0].mean, both[1].mean))
    return stats.agreement([a for a, _ in means], [b for _, b in means]) if means else None


def scale_notes(section: Section) -> list[str]:
    """Whether the baselines give the scale of the other rows: with as many samples."""

    def counts(entries: Iterable[Entry]) -> set[float]:
        kept = [e.scores[section.lead].rows for e in entries]
        return {float(n) for r in kept for n in finite(r)["n"].dropna()}

    of_recipes, of_baselines = counts(section.finished), counts(section.baselines)
    if not of_recipes or not of_baselines or of_baselines <= of_recipes:
        return []
    counted = [words.listing([f"{n:,.0f}" for n in sorted(some)]) for some in (of_baselines, of_recipes)]
    return [
        f"The baseline rows were measured with {counted[0]} samples, the recipes with {counted[1]}: "
        f"{section.lead_title} depends on that number, so they are no floor for them."
    ]


def bias_notes(section: Section, space: str) -> list[str]:
    """How far n samples raise a Frechet distance, where it was extrapolated to infinitely many."""
    gaps, counts = [], set()
    for entry in (*section.finished, *section.baselines):
        here, limit = (entry.scores[Measure(m, "test", space)].summary for m in ("fd", "fd_inf"))
        if here and limit:
            gaps.append(here.mean - limit.mean)
            counts |= set(entry.scores.of("fd")["n"].dropna())
    if not gaps:
        return []
    low, high = words.number(min(gaps), 2), words.number(max(gaps), 2)
    n = words.listing([f"{c:,.0f}" for c in sorted(counts)])
    return [
        f"At n = {n} FD lies {low if low == high else f'{low} to {high}'} above FD∞: that is its bias in n, which "
        "differs between models. FD is compared at equal n only."
    ]


def symptom_notes(section: Section) -> list[str]:
    """What the logs say is wrong with the models, run by run."""
    symptoms = [f"{e.name} seed {seed}: {text}" for e in section.entries for seed, text in e.symptoms]
    return [f"The log of {text.rstrip('.')}." for text in symptoms]


def remark_notes(section: Section) -> list[str]:
    """What rows on held-out data say against their own value, once for each metric, of the first seed that says it."""
    notes = []
    for entry in (e for e in section.entries if not e.baseline):
        rows = entry.main[entry.main["headline"] & entry.main["split"].eq("test")]
        rows = rows[rows["value"].notna() & rows["reason"].ne("")].sort_values("seed")
        notes += [
            f"{entry.name} seed {r.seed}, {section.title_of(str(r.metric))}: {words.plain(str(r.reason)).rstrip('.')}."
            for r in rows.drop_duplicates("metric").itertuples(index=False)
        ]
    return notes


def budget_notes(section: Section) -> list[str]:
    notes = []
    over = [e for e in section.finished if e.over_budget]
    for parents in (True, False):
        named = [f"{e.name} ({multiple_text(e)})" for e in over if e.parents is parents]
        if named:
            counted = ", counting parents" if parents else ""
            notes.append(f"{words.listing(named)} had more than one budget{counted}: never bold, not compared.")
    if len(section.budgets) > 1:
        parts = [
            f"{words.listing([e.name for e in group])}: {budget_words(group[0])}" for group in section.budgets.values()
        ]
        notes.append(
            f"Budgets differ ({'; '.join(parts)}). Recipes are compared only with others with the same budget, and "
            "multiples are of a row's own budget."
        )
    return notes


def contention_notes(section: Section) -> list[str]:
    """Whose training seconds were taken while something else had the machine or the GPU."""
    crowded = [e.name for e in section.finished if e.contended]
    if not crowded:
        return []
    return [f"{words.listing(crowded)} trained beside other work: read those training seconds as upper bounds."]


def code_notes(section: Section) -> list[str]:
    """Recipes whose runs were trained by different versions of the code."""
    found: dict[str, set[str]] = {}
    for entry in section.finished:
        found.setdefault(entry.recipe, set()).update(entry.codes)
    parts = [f"{words.plain(r)} ({words.listing(sorted(map(words.plain, c)))})" for r, c in found.items() if len(c) > 1]
    if not parts:
        return []
    return [
        f"Trained by differing versions of the code: {'; '.join(parts)}. Part of the spread over seeds may be the "
        "change of code; train those runs again to be rid of it."
    ]
