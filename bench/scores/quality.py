"""Every metric of samples against real data, as rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor

from bench import metrics
from bench.features import Features
from bench.scores.reference import Reference
from bench.scores.rows import Rows
from bench.scores.work import OnProgress, silent, tell_of
from bench.store import Row

__all__ = ["costs", "marked", "memorisation", "rows"]

LOST = 0.01  # share of labels or modes whose absence is marked: real data leave out as many of a thousand, by chance
MEMORISED = 0.5  # nn_ratio below which samples are called copies; held-out images have 1


def rows(
    base: Row,
    x: Tensor,
    y: Tensor | None,
    ref: Reference,
    splits: Sequence[str] = ("test", "train"),
    copies: bool = True,
    on_progress: OnProgress = silent,
) -> list[Row]:
    """Rows of every metric of samples x (N, *shape), as the data is stored, against each split.

    base: fills the other columns. y: labels (N,) that the samples were drawn for, or None. copies: also ask whether
    they are copies of training examples. on_progress: called for every chunk and block, under the names in `costs`.
    """
    table = Rows(dataclasses.replace(base, n=len(x), draw=base.draw or 0))
    fakes: list[Features] = []
    if ref.spaces:
        fakes = _of_images(table, x, y, ref, splits, copies, on_progress)
    elif "test" in splits:
        # Empirical distances depend on both sizes: equal ones, and no more than the transport problem can hold.
        real = ref.real["test"][: len(x)]
        here = table.having(split="test")
        with here.part("w2"):
            tell = tell_of(on_progress, "distances")
            here.add(metrics.vector_quality(x[: len(real)], real, ref.dataset.density, tell), n_ref=len(real))
    _added(table, x, y, ref, fakes, splits)
    return [marked(row) for row in table.made]


def _of_images(
    table: Rows,
    x: Tensor,
    y: Tensor | None,
    ref: Reference,
    splits: Sequence[str],
    copies: bool,
    on_progress: OnProgress,
) -> list[Features]:
    """Adds the rows of images x (N, C, H, W) to the table; their features in each space."""
    stored = ref.dataset.space
    fakes = [s.features(x, stored=stored, tell=tell_of(on_progress, f"features, {s.name}")) for s in ref.spaces]
    for index, fake in enumerate(fakes):
        for split in splits:
            _distances(table, fake, ref.features[split][index], split, on_progress)
        if "test" in splits:
            _labels(table, fake, y, ref.features["test"][index], ref.labels["test"])
            on_progress(f"labels, {fake.space.name}", 1, 1)
    for split in splits:
        here = table.having(split=split, n_ref=len(ref.real[split]))
        with here.part("sharpness"):
            here.add([metrics.sharpness(x, ref.real[split], tell_of(on_progress, f"sharpness, {split}"))])
    if ref.channels is not None and "test" in splits:
        here = table.having(split="test", features=ref.channels.id)
        with here.part("modes"):
            tells = metrics.in_turn(tell_of(on_progress, "modes"), *[len(x)] * x.shape[1])
            channels = [ref.channels.features(c, stored=stored, tell=of) for c, of in zip(x.split(1, dim=1), tells)]
            here.add(metrics.stacked_modes(channels))
    if copies:
        table.made.extend(memorisation(table.base, x, fakes, ref, on_progress))
    return fakes


def _added(
    table: Rows, x: Tensor, y: Tensor | None, ref: Reference, fakes: Sequence[Features], splits: Sequence[str]
) -> None:
    """Adds the rows of the metrics that have a function of their own, as those of other packages do."""
    kind = "images" if ref.dataset.space.is_image else "vectors"
    for split in splits:
        given = metrics.Compared(x, ref.real[split], y, ref.labels[split], None, None, ref.dataset.density, split)
        here = table.having(split=split, n_ref=len(given.real))
        for metric in metrics.computed("samples", kind):
            with here.part(metric.name):
                here.add(metrics.values_of(metric, given))
        for fake, real in zip(fakes, ref.features[split]):
            there = here.having(features=fake.space.id, n_ref=len(real.values))
            for metric in metrics.computed("features"):
                with there.part(metric.name):
                    there.add(metrics.values_of(metric, dataclasses.replace(given, features=fake, real_features=real)))


def _distances(table: Rows, fake: Features, real: Features, split: str, on_progress: OnProgress) -> None:
    """Adds the distances in one feature space to one split.

    A Frechet distance is refused when samples are few: that costs its own row, not the others.
    """
    space = fake.space
    here = table.having(split=split, features=space.id, n_ref=len(real.values))
    tell = {what: tell_of(on_progress, f"{what}, {space.name}, {split}") for what in ("fd", "fd_inf", "pairs")}
    with here.part("fd"):
        here.add([metrics.frechet_distance(fake, real, tell["fd"])])
    with here.part("fd_inf"):
        here.add(metrics.extrapolated_distance(fake, real, progress=tell["fd_inf"]))
    with here.part("kd"):
        here.add(metrics.quality_without_fd(fake, real, tell["pairs"]))


def _labels(table: Rows, fake: Features, y: Tensor | None, real: Features, truth: Tensor | None) -> None:
    """Adds what labels say of samples: those a classifier's space reads, and y (N,), those they were drawn for."""
    here = table.having(split="test", features=fake.space.id, n_ref=len(real.values))
    if fake.logits is not None:
        with here.part("classifier_score"):
            here.add([metrics.classifier_score(fake)])
            if y is not None:
                here.add([metrics.label_accuracy(fake, y)])
    if y is not None and truth is not None:
        with here.part("cas"):
            here.add([metrics.classification_accuracy_score(fake, y, real, truth)])


def memorisation(
    base: Row, x: Tensor, fakes: Sequence[Features], ref: Reference, on_progress: OnProgress = silent
) -> list[Row]:
    """Rows that say whether images x (N, *shape) are copies of training examples: in pixels and by their features."""
    table = Rows(dataclasses.replace(base, n=len(x), draw=base.draw or 0))
    # All of the training split, for any of it may have been copied; as many held-out examples as samples.
    train, held_out = ref.dataset.train.x, ref.real["test"][: len(x)]
    with table.part("nn_ratio"):
        found = metrics.memorisation(x.to(ref.device), train, held_out, tell_of(on_progress, "copies"))
        table.add(found, split="train", n_ref=len(train))
    for fake, seen, unseen in zip(fakes, ref.features["train"], ref.features["test"]):
        here = table.having(split="train", features=fake.space.id, n_ref=len(seen.values))
        with here.part("fld_gap"):
            here.add([metrics.likelihood_gap(fake, seen, unseen)])
    return table.made


def costs(n: int, ref: Reference, splits: Sequence[str] = ("test", "train"), copies: bool = True) -> dict[str, float]:
    """About what the parts of `rows` of n samples cost, in multiplications, by the names that they report under."""
    if not ref.spaces:
        return {"distances": 1.0}
    found = {f"features, {s.name}": 1e4 * n * (s.pixels or math.prod(s.shape[1:])) for s in ref.spaces}
    for index, space in enumerate(ref.spaces):
        d = space.dim
        for split in splits:
            m = len(ref.features[split][index].values)
            found[f"fd, {space.name}, {split}"] = (n + m + 10 * d) * d**2
            found[f"fd_inf, {space.name}, {split}"] = 5 * (n + m + 30 * d) * d**2
            found[f"pairs, {space.name}, {split}"] = 2 * (n * n + m * m + n * m) * (d + 32)
        if "test" in splits:
            found[f"labels, {space.name}"] = 1e3 * n * d
    dim = math.prod(ref.dataset.space.shape)
    found |= {f"sharpness, {split}": 150.0 * dim * (n + len(ref.real[split])) for split in splits}
    if ref.channels is not None and "test" in splits:
        found["modes"] = 1e4 * n * dim
    if copies:
        held_out, train = min(n, len(ref.real["test"])), len(ref.dataset.train)
        found["copies"] = ((2 * n + held_out) * train + 2 * n * held_out) * (dim + 32) / 2
    return found


def marked(row: Row) -> Row:
    """The row with a reason where samples are copies of training examples, or leave out labels or modes."""
    if row.value is None or row.reason:
        return row
    if row.metric == "nn_ratio" and row.value < MEMORISED:
        near = "copies of training examples, or nearly: held-out ones have 1, copies 0"
        return dataclasses.replace(row, reason=near)
    if row.metric in ("label_modes", "modes"):
        number, what = int(row.unit.removeprefix("of ")), "labels" if row.metric == "label_modes" else "modes"
        usual = number * (1 - (1 - 1 / number) ** (row.n or 0))  # of as many fair draws: few can not show a thousand
        chance = 3 * math.sqrt(usual * (1 - usual / number))
        if usual - row.value > max(chance, LOST * number):
            lost = number - int(row.value)
            return dataclasses.replace(row, reason=f"{lost:,} of {number:,} {what} are missing, or nearly")
    return row
