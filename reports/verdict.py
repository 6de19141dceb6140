"""What the numbers say, in one paragraph; where they come from; what they do not say. Words only.

Text is a list of (words, strong) spans, so that each format escapes and sets it in its own way.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports import words
from reports.budgets import MATCHED, budget_words, multiple_text
from reports.entries import Entry
from reports.likelihoods import kind_text
from reports.metrics import UNITS
from reports.records import run_id
from reports.rows import seed_means
from reports.scores import Measure
from reports.sections import Compared, Section
from reports.stats import Summary, summarise
from reports.tables.notes import space_agreement

Text = list[tuple[str, bool]]  # parts of a sentence, and whether each is strong
SHORT = 1.2  # times as much training as another had: named next to what is compared
NAMED = 6  # of more recipes a sentence names the first and counts the others


def _names(entries: Sequence[Entry]) -> Text:
    shown = entries if len(entries) <= NAMED + 1 else entries[:NAMED]
    out: Text = []
    for i, entry in enumerate(shown):
        last = i == len(shown) - 1 and len(shown) == len(entries)
        out.append(("" if i == 0 else " and " if last else ", ", False))
        out.append((entry.name, True))
    return out if len(shown) == len(entries) else [*out, (f" and {len(entries) - len(shown)} others", False)]


def verdict(section: Section) -> Text:
    """One paragraph: who leads on quality and by how much, who ties, likelihood, cost, and what failed."""
    name = section.lead_title
    scores = {e.name: s for e in section.finished if (s := e.scores[section.lead].summary)}
    out: Text = []
    if not section.finished:
        out.append((_nothing(section), False))
        return out
    if not scores:
        out.append((f"No recipe on {section.title} has a score at its default plan yet. ", False))
    else:
        out += _quality(section, name, scores)
    out += _modes(section)
    out += _likelihood(section)
    out += _speed(section)
    over = [e for e in section.finished if e.over_budget]
    for counted in (True, False):
        group = [e for e in over if e.parents is counted]
        if group:
            multiples = words.listing(list(dict.fromkeys(multiple_text(e) for e in group)))
            out += [*_names(group), (f" had {multiples} the budget{', parents included' if counted else ''}, ", False)]
            out.append((f"and so {'is' if len(group) == 1 else 'are'} shown but not compared. ", False))
    ill = [e for e in section.entries if e.symptoms]
    if ill:
        out += [("The training log of ", False), *_names(ill), (" names a symptom; see the notes below. ", False)]
    ended = [(e, f) for e in section.entries for f in e.failures]
    if ended:
        out.append((f"{words.plural(len(ended), 'run')} did not finish: ", False))
        parts = [f"{e.name} seed {f.seed_text} ({f.status})" for e, f in ended[:6]]
        out.append((words.listing(parts) + (" and more" if len(ended) > 6 else "") + ". ", False))
    return out


def _nothing(section: Section) -> str:
    failed = len({f.run for _, f in section.failures})
    text = f"No run on {section.title} has finished yet"
    text += f": {words.plural(failed, 'run')} failed" if failed else ""
    training = len(section.waiting)
    text += f"{' and' if failed else ':'} {words.plural(training, 'run')} without results" if training else ""
    return text + ". There is nothing to compare; run the same `bench all` command again to go on."


def _score(summary: Summary) -> str:
    text, extra = words.with_interval(summary)
    return f"{text} {extra}".strip()


def _quality(section: Section, name: str, scores: Mapping[str, Summary]) -> Text:
    metric = section.lead.metric
    compared = section.compare(section.lead)
    scored = sorted((e for e in section.finished if e.name in scores), key=section.place_of)
    within = [e for e in scored if not e.over_budget] or scored
    best = within[0]
    # Scores of recipes that had more than one budget: shown, named, but not what the sentence is about.
    more = [e for e in scored if e not in within]
    seeds = sorted({scores[e.name].n for e in within})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    out: Text = [("On ", False), (section.title, True)]
    tier = f"tier {words.plain(section.tier)}, " if section.tier else ""
    unit = "training seed" if counted == "1" else "training seeds"
    matched = f"matched training {MATCHED.get(section.match, section.match)}"
    matched = "budgets differ" if len(section.budgets) > 1 else matched
    out.append((f" ({tier}{counted} {unit}, {matched}), ", False))
    out.append(("among the recipes within one budget, " if more else "", False))
    out.append((best.name, True))
    plan = f" at its default plan {best.plan.text}" if best.plan else ""
    first = scores[best.name]
    score = _score(first)
    kind = ", 95 % t-interval" if "±" in score else ", the least and the most of the seeds" if "–" in score else ""
    mean = "mean " if first.n > 1 else ""
    out.append((f" has the best {mean}{name}{plan}: {score}{kind}{_scale(section)}. ", False))
    refused = next((r for e in within if metric == "kd" and (r := e.reason("fd"))), "")
    if refused:
        out.append(
            (f"There is no Frechet distance ({refused}); the kernel distance, unbiased at any number, leads. ", False)
        )
    better = [e for e in more if section.place_of(e) < section.place_of(best)]
    if better:
        out.append(("Lower, but with more than one budget: ", False))
        for i, entry in enumerate(better):
            out += [("; " if i else "", False), (entry.name, True)]
            out.append((f" {_score(scores[entry.name])} ({multiple_text(entry)} the budget)", False))
        out.append((". ", False))
    if len(within) == 1:
        inside = " within one budget" if more else ""
        out.append((f"It is the only recipe with a score{inside}, so there is nothing to compare. ", False))
    elif not compared.family.names:
        if all(scores[e.name].n < 2 for e in within):
            out.append(("With one training seed each no difference can be tested, so nothing is compared. ", False))
        else:
            out.append(("No difference can be tested. ", False))
            out += _left_out([e for e in within if not e.over_budget], compared)
    else:
        out += _order(within, compared)
        out += _unequal(within, compared)
        out += _left_out(within, compared)
    gaussian = section.scale(section.baseline("gaussian"))
    poor = [e for e in scored if gaussian is not None and scores[e.name].mean >= gaussian]
    if poor:
        out += [("No better than that Gaussian: ", False), *_names(poor), (". ", False)]
    tau = space_agreement(section)
    if tau is not None and tau < 0.6:
        out.append((f"The two feature spaces disagree about the order (Kendall's τ = {words.number(tau, 2)}). ", False))
    return out


def _scale(section: Section) -> str:
    floor = section.floor
    gaussian = section.scale(section.baseline("gaussian"))
    parts = []
    if floor is not None:
        parts.append(f"{words.number(floor)} for real training data (the floor)")
    if gaussian is not None:
        parts.append(f"{words.number(gaussian)} for a Gaussian fitted to the data")
    return f", against {words.listing(parts)}" if parts else ""


def _order(within: Sequence[Entry], compared: Compared) -> Text:
    """The leading group, where there is one; else what the best is not told apart from."""
    family = compared.family
    by_name = {e.name: e for e in within}
    sees = words.number(family.visible, 2)
    sees = f"ratios from {sees}" if family.log else f"differences from {sees}"
    seen = f" (all pairs together, 5 % family-wise; {sees} on are seen in four of five repetitions). "
    if not family.best:
        return [("No two recipes are told apart", False), (seen, False)]
    first = [by_name[n] for n in family.best]
    if not family.leads:
        return [
            (family.names[0], True),
            (" is the best of those compared, and not told apart from ", False),
            *_names(first[1:]),
            (seen, False),
        ]
    if len(first) == 1:
        return [(family.names[0], True), (" is better than every other recipe that is compared", False), (seen, False)]
    lead = " lead, not told apart: each of them is better than every other recipe that is compared"
    return [*_names(first), (lead, False), (seen, False)]


def _unequal(within: Sequence[Entry], compared: Compared) -> Text:
    """That those compared did not train alike, where a limit ended some of them: a difference may be one of training."""
    spent = {e.name: e.multiple for e in within if e.name in compared.family.names and e.multiple is not None}
    if not spent or max(spent.values()) <= SHORT * min(spent.values()):
        return []
    low, high = (f"{words.number(part, 2)}×" for part in (min(spent.values()), max(spent.values())))
    shortest = min(spent, key=lambda name: (spent[name], name))
    return [
        (f"They trained for {low} to {high} of the budget, as the limit on seconds ended some early (", False),
        (shortest, True),
        (" first), so part of a difference may be one of training. ", False),
    ]


def _left_out(within: Sequence[Entry], compared: Compared) -> Text:
    why: dict[str, list[Entry]] = {}
    for entry in within:
        if entry.name in compared.uncompared:
            why.setdefault(compared.uncompared[entry.name], []).append(entry)
    out: Text = []
    for reason, entries in why.items():
        out += [*_names(entries), (f" {'is' if len(entries) == 1 else 'are'} {reason}. ", False)]
    return out


def _modes(section: Section) -> Text:
    """Who misses modes, where they are counted."""
    counted = {e.name: s for e in section.finished if (s := e.scores[Measure("modes")].summary)}
    units = section.rows.loc[section.rows["metric"] == "modes", "unit"]
    total = next((int(u.removeprefix("of ")) for u in units if u.removeprefix("of ").isdigit()), 0)
    if not counted or not total:
        return []
    fewer = sorted((s.mean, name) for name, s in counted.items() if s.mean < total)
    if not fewer:
        return [(f"All {total:,} modes are reached by every recipe. ", False)]
    out: Text = [(f"Of {total:,} modes not all are reached by ", False)]
    shown = fewer if len(fewer) <= NAMED + 1 else fewer[:NAMED]
    for i, (_, name) in enumerate(shown):
        out += [(", " if i else "", False), (name, True), (f" ({counted[name].mean:,.4g})", False)]
    return [*out, (f" and {len(fewer) - len(shown)} others. " if len(shown) < len(fewer) else ". ", False)]


def _likelihood(section: Section) -> Text:
    chosen = section.chosen_likelihoods
    if not chosen:
        return []
    unit, entropy = UNITS[section.likelihood], section.entropy
    groups: dict[str, list[tuple[float, str, str]]] = {}
    for name, rows in chosen.items():
        summary = summarise(seed_means(rows))
        if summary:
            relation = words.plain(rows["relation"].iloc[0])
            key = f"{relation} {rows['kind'].iloc[0]}"
            groups.setdefault(key, []).append((summary.mean, name, f"{relation} {_score(summary)} ({kind_text(rows)})"))
    out: Text = [("Held-out likelihood, comparable only within a kind: ", False)]
    best = sorted(min(group) for group in groups.values())
    for i, (_, name, text) in enumerate(best):
        out += [("; " if i else "", False), (name, True), (f" {text.strip()}", False)]
    out.append((f" {unit}", False))
    if entropy is not None and section.likelihood == "nll":
        out.append((f", where the truth has an entropy of {words.number(entropy, 4)}", False))
    return [*out, (". ", False)]


def _speed(section: Section) -> Text:
    timed = [(s.mean, e) for e in section.finished if (s := e.scores[Measure("latency")].summary)]
    if not timed:
        return []
    fastest, slowest = min(timed, key=lambda t: t[0]), max(timed, key=lambda t: t[0])
    out: Text = [(fastest[1].name, True), (f" samples fastest, {words.seconds(fastest[0])} an image at batch 1", False)]
    if slowest[1] is not fastest[1]:
        out += [(" (slowest: ", False), (slowest[1].name, True), (f", {words.seconds(slowest[0])})", False)]
    return [*out, (". ", False)]


# ----------------------------------------------------------------------------------------------------- provenance


def _distinct(values: Sequence[Any]) -> str:
    return words.listing([words.plain(v) for v in dict.fromkeys(str(v) for v in values if v not in (None, ""))])


def provenance(section: Section) -> list[tuple[str, str]]:
    """(fact, value) of what was run, on what data, with what budget, code and machine; only the facts that are known."""
    facts = [*_protocol(section), *_networks(section), *_machine(section), *_ending(section)]
    return [(name, value) for name, value in facts if value]


def _without_baselines(section: Section) -> pd.DataFrame:
    return section.rows[section.rows["status"] != "baseline"]


def _of_records(section: Section, key: str) -> str:
    """The values of a key of run.json, sorted."""
    return _distinct(sorted({str(r.get(key) or "") for r in section.records}))


def _protocol(section: Section) -> list[tuple[str, str]]:
    seeds = sorted({int(s) for s in _without_baselines(section)["seed"].dropna()})
    return [
        ("Data set", section.title),
        ("Data checksum (sha256)", _distinct([r.get("checksum") for r in section.records])),
        ("Tier", words.plain(section.tier)),
        ("Budget of a run", _budget(section)),
        ("What ended training", _bound(section)),
        ("Training seeds", ", ".join(map(str, seeds))),
    ]


def _budget(section: Section) -> str:
    """The budget of a run, or each of several with the names of its recipes."""
    if not section.budgets and not section.budget:
        return ""
    groups = list(section.budgets.values())
    first = [group[0] for group in groups] or [e for e in section.entries if e.budget][:1]
    texts = [f"{budget_words(e)}; matched by {MATCHED.get(e.match, e.match)}" for e in first]
    names = [words.listing([e.name for e in group]) + ": " for group in groups]
    return " | ".join(n + t for n, t in zip(names, texts)) if len(texts) > 1 else "".join(texts)


def _bound(section: Section) -> str:
    """What ended the trainings, with the number of runs of each."""
    bound = [str(r["bound"]) for r in section.records if r.get("bound")]
    meant = {"flops": "the budget of FLOPs", "images": "the budget of images", "seconds": "the limit on seconds"}
    return ", ".join(
        f"{meant.get(b, words.plain(b))} in {words.plural(bound.count(b), 'run')}" for b in sorted(set(bound))
    )


def _networks(section: Section) -> Iterator[tuple[str, str]]:
    """Each feature network with the number of samples and its accuracy."""
    for space in section.spaces:
        here = section.rows[section.rows["features"] == space]
        n, accuracy = here["n"].dropna(), here.loc[here["metric"] == "accuracy", "value"].dropna()
        extra = f", n = {n.min():,.0f}" + (f" to {n.max():,.0f}" if n.max() > n.min() else "") if len(n) else ""
        extra += f", held-out accuracy {accuracy.mean():.3f}" if len(accuracy) else ""
        yield "Feature network @ weights", words.plain(space) + extra


def _machine(section: Section) -> list[tuple[str, str]]:
    """Averaging, code, devices and versions."""
    rows, records = _without_baselines(section), section.records
    averaging = {"ema": "power-function average of the weights", "raw": "raw weights"}
    trained_on = [r.get("device_name") or r.get("device") for r in records] or sorted(set(rows["device"]))
    return [
        ("Averaging", _distinct([averaging.get(w, w) for w in sorted(set(rows["weights"]))])),
        ("Code (sha256)", _distinct(sorted({*rows["code"], *(str(r.get("code") or "") for r in records)}))),
        ("Trained on", _distinct(trained_on)),
        ("Measured on", _distinct(sorted(set(rows["device"])))),
        ("Threads a run", ", ".join(sorted({f"{t:g}" for t in rows["threads"].dropna()}))),
        ("Number format", _distinct(sorted(set(rows["dtype"])))),
        ("Platform", _of_records(section, "platform")),
        ("Python", _of_records(section, "python")),
        ("PyTorch", _of_records(section, "torch")),
    ]


def _ending(section: Section) -> Iterator[tuple[str, str]]:
    """How long training took, when it ended, and what to keep in mind of either."""
    rows, records = _without_baselines(section), section.records
    timed = [float(r["seconds"]) for r in records if isinstance(r.get("seconds"), (int, float))]
    spent = sum(timed) if timed else sum(s for s in rows.groupby("run")["seconds"].max().dropna())
    count = len(timed) or rows["run"].nunique()
    yield "Training time, all runs", f"{words.seconds(spent)} over {words.plural(count, 'run')}, failed ones included"
    if ended := [str(r["finished"]) for r in records if r.get("finished")]:
        yield "Last run finished", words.plain(max(ended)[:19].replace("T", " ") + " UTC")
    contended = sorted({run_id(r) for r in records if r.get("contended")})
    if contended or bool(rows["contended"].any()):
        what = f"{words.plural(len(contended), 'run')} trained" if contended else "some timings taken"
        yield "Contended", f"{what} while other work was on the machine: read those seconds as upper bounds"
    if section.waiting:
        yield "Without results", f"{words.plural(len(section.waiting), 'run')} still training or not scored"


# --------------------------------------------------------------------------------------------------- reproduction


def commands(section: Section) -> list[tuple[str, str]]:
    """(what, command) that make the section again: all of it, then each row."""
    data, tier = shlex.quote(section.dataset), shlex.quote(section.tier)
    where = f"--dataset {data}" + (f" --tier {tier}" if section.tier else "")
    match = f" --match {shlex.quote(section.match)}" if section.match != "flops" else ""
    recipes = shlex.quote(",".join(dict.fromkeys(e.recipe for e in section.entries)))
    made = [("all of it", f"bench all {where}{match} --recipes {recipes} --seeds {max(1, section.seeds)}")]
    for entry in section.entries:
        seeds = entry.seeds or [int(f.seed) for f in entry.failures if f.seed >= 0] or [0]
        own = _match(entry, section)
        made.append(
            (entry.name, f"bench train {shlex.quote(entry.recipe)} {where}{own} --seed {seeds[0]}{_set(entry)}")
        )
    return made


def _match(entry: Entry, section: Section) -> str:
    match = next((str(r["match"]) for r in entry.records if r.get("match")), section.match)
    return f" --match {shlex.quote(match)}" if match != "flops" else ""


def _set(entry: Entry) -> str:
    """The settings that the row's own name says differ, and what else it says of how its runs were computed."""
    inside = entry.name[len(entry.recipe) :].strip(" ()")
    named = dict(p.split("=", 1) for p in inside.split(", ") if "=" in p)
    options = f" --precision {shlex.quote(named['precision'])}" if "precision" in named else ""
    options += " --compile" if named.get("compiled") == "true" else ""
    options += " --device cuda" if "card" in named or named.get("noise") == "2" else ""
    apart = ("match", "share", "checksum", "precision", "compiled", "noise", "card")
    pairs = [f"{k}={v}" for k, v in named.items() if k not in apart and not k.startswith("budget.")]
    return "".join(f" --set {shlex.quote(p)}" for p in pairs) + options


def limitations(section: Section) -> list[str]:
    """What a reader should not conclude."""
    metric = section.lead.metric
    lines = []
    if section.seeds <= 1:
        lines.append(
            "One training seed: retraining moves these numbers more than resampling does. Treat gaps as hints."
        )
    elif section.seeds < 5:
        lines.append(
            f"{section.seeds} training seeds: intervals are wide, and recipes that are not told apart may differ all the "
            "same."
        )
    if metric == "fd":
        lines.append(
            "FD-<space> is a Frechet distance in the named feature space, with that space's blind spots. It is not FID "
            "and not comparable with numbers from other feature networks, sample counts or preprocessing."
        )
    elif metric in ("w2", "sw2", "mmd2"):
        lines.append(
            "Empirical transport distances have a floor of their own at this sample size: read them against it."
        )
    lines += [
        "Likelihoods of different kinds (exact, bounds, estimates) measure different things, are not compared, "
        "and a better likelihood does not mean better samples.",
        "Every recipe had one configuration, the one on its card, at a small budget: more training or tuning may "
        "change the order.",
    ]
    if metric == "fd":
        lines.append(
            "No automatic score sees everything: look at the samples, which are not selected, and at the memorisation "
            "columns."
        )
    counted = section.rows[(section.rows["metric"] == "modes") & (section.rows["features"] != "")]
    if len(counted):
        lines.append(
            "A mode counts once the classifier gives its name to one sample, whatever that looks like: noise reaches "
            "modes too. Read them beside the distances and the baseline rows."
        )
    took = len(section.finished) and section.rows["metric"].isin(["latency", "throughput"]).any()
    if took:
        lines.append("Speed is that of this machine, these versions and this number of threads.")
    return lines
