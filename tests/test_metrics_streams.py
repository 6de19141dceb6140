"""Streams: any batches, any order, any number of processes; blocks that stay small; and the traps, each closed."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.data import load
from bench.features import Extractor, Features, FeatureSpace, shipped
from bench.metrics import (
    PER_FEATURE,
    ClassifierScore,
    FrechetDistance,
    LabelHistogram,
    Moments,
    Sharpness,
    Stream,
    classification_accuracy_score,
    classifier_score,
    distance_of_gaussians,
    extrapolated_distance,
    floor,
    frechet_distance,
    kernel_distance,
    label_accuracy,
    label_distance,
    likelihood_gap,
    memorisation,
    neighbourhoods,
    quality,
    reconstruction_distance,
    sharpness,
    stacked_modes,
    table,
    vector_quality,
)
from bench.metrics import blocks as blocks_module
from bench.metrics.neighbours import nearest, reach
from paradigms.core.data import Space
from paradigms.errors import BadInput
from reports.metrics import KEPT, kept, known


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def space_of(d: int) -> FeatureSpace:
    return FeatureSpace("plain", "0" * 12, (1, 1, d), Extractor(nn.Flatten(), d))


EXACT = "donot_use_mm_for_euclid_dist"  # of torch.cdist: distances by differences


def features(values: Tensor, logits: Tensor | None = None) -> Features:
    return Features(values, logits, space_of(values.shape[1]))


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 2, 9, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


REAL = Moments.of(normal(500, 6, 9) * 2 + 1)

STREAMS: dict[str, tuple[Callable[[], Stream[Any]], Tensor]] = {
    "moments": (lambda: Moments(6), normal(403, 6, 1) * torch.logspace(-2, 2, 6) + 30),
    "frechet": (lambda: FrechetDistance(REAL), normal(403, 6, 1)),
    "labels": (lambda: LabelHistogram(5), normal(403, 5, 2)),
    "score": (lambda: ClassifierScore(5), 3 * normal(403, 5, 2)),
    "sharpness": (Sharpness, images(403)),
}


def numbers(result: Any) -> Tensor:
    """Whatever a stream computes, flat."""
    parts = result if isinstance(result, tuple) else (result,)
    return torch.cat(
        [torch.as_tensor(p, dtype=torch.float64).flatten() for p in parts if isinstance(p, float | Tensor)]
    )


def fed(make: Callable[[], Stream[Any]], *batches: Tensor) -> Stream[Any]:
    stream = make()
    for batch in batches:
        stream.update(batch)
    return stream


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_does_not_depend_on_its_batches(name: str) -> None:
    make, x = STREAMS[name]
    whole = numbers(fed(make, x).compute())
    assert whole.dtype == torch.float64
    for size in (1, 7, 64, 402):
        assert numbers(fed(make, *x.split(size)).compute()) == pytest.approx(whole, rel=1e-11, abs=1e-11)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    assert numbers(fed(make, *x[order].split(50)).compute()) == pytest.approx(whole, rel=1e-11, abs=1e-11)
    assert numbers(fed(make, x[:0], x).compute()) == pytest.approx(whole, rel=1e-12, abs=1e-12), "an empty batch"


@pytest.mark.parametrize("name", STREAMS)
def test_streams_merge_into_what_one_would_have_seen(name: str) -> None:
    make, x = STREAMS[name]
    whole = numbers(fed(make, x).compute())
    parts = [pickle.loads(pickle.dumps(fed(make, *part.split(40)))) for part in x.tensor_split([1, 150, 150])]
    left, right = make(), parts.pop()
    left.merge(make())  # nothing, into nothing
    for part in parts:
        left.merge(part)
    right.merge(left)
    assert numbers(right.compute()) == pytest.approx(whole, rel=1e-11, abs=1e-11)


def moments_of_part(seed: int) -> Moments:
    return Moments.of(normal(50, 6, seed))


@pytest.mark.heavy
def test_processes_each_see_a_part() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        (far,) = pool.map(moments_of_part, [1])
    far.merge(moments_of_part(2))
    here = Moments.of(torch.cat([normal(50, 6, 1), normal(50, 6, 2)]))
    for a, b in zip(far.compute(), here.compute()):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-13)


def test_moments_are_those_of_numpy_and_survive_a_large_mean() -> None:
    x = normal(1000, 5, 0).double() * torch.tensor([1e-3, 1, 1, 10, 1e3]) + torch.tensor([1e4, -1e6, 0, 1, 1e3])
    mean, covariance = fed(lambda: Moments(5), *x.split(17)).compute()
    assert mean == pytest.approx(x.mean(0), rel=1e-13)
    expected = torch.from_numpy(np.cov(x.numpy(), rowvar=False))
    scale = expected.diagonal().sqrt()
    assert (covariance - expected) / scale / scale[:, None] == pytest.approx(torch.zeros(5, 5).double(), abs=1e-9)


def test_the_stream_and_the_function_give_one_distance() -> None:
    x, y = features(normal(700, 8, 0)), features(1.2 * normal(900, 8, 1))
    stream = FrechetDistance(Moments.of(y.values))
    for batch in x.values.split(33):
        stream.update(batch)
    assert stream.compute().value == pytest.approx(frechet_distance(x, y).value, rel=1e-11)


def test_streams_refuse_what_is_not_theirs() -> None:
    with pytest.raises(BadInput, match=r"expected \(B, 6\)"):
        Moments(6).update(normal(4, 5))
    with pytest.raises(BadInput, match="5 and of 6 features can not be merged"):
        Moments(5).merge(Moments(6))
    with pytest.raises(BadInput, match="covariance of 1 samples"):
        Moments.of(normal(1, 3)).compute()
    for metric in (LabelHistogram(3), ClassifierScore(3)):
        with pytest.raises(BadInput, match=r"expected \(B, 3\)"):
            metric.update(normal(4, 2))
        with pytest.raises(BadInput, match="1 of 4 are not finite"):
            metric.update(normal(4, 3).index_fill(0, torch.tensor([2]), math.nan))
    with pytest.raises(BadInput, match="score of 1 samples"):
        fed(lambda: ClassifierScore(3), normal(1, 3)).compute()
    with pytest.raises(BadInput, match="sharpness: images have shape"):
        Sharpness().update(images(3)[0])
    with pytest.raises(BadInput, match="sharpness of 1 images"):
        fed(Sharpness, images(1)).compute()
    with pytest.raises(BadInput, match="real images are constant"):
        sharpness(images(3), images(3) * 0)


# ----------------------------------------------------------------------------------------------------------- blocks


class Largest(TorchDispatchMode):
    """The most bytes that any one tensor held while it was on."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("metric", ["kernel", "neighbours", "memorisation"])
def test_no_matrix_of_all_pairs_is_held(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code at 50,000 × 50,000 then holds a few blocks: `python -m bench.lab.metric_speed` measures it."""
    monkeypatch.setattr(blocks_module, "BLOCK", 40_000)
    x, y, told = normal(1500, 4, 0), normal(2000, 4, 1), []
    run: dict[str, Callable[[], object]] = {
        "kernel": lambda: kernel_distance(features(x), features(y), lambda done, of: told.append((done, of))),
        "neighbours": lambda: neighbourhoods(features(x), features(y), lambda done, of: told.append((done, of))),
        "memorisation": lambda: memorisation(x, y, x + 1, lambda done, of: told.append((done, of))),
    }
    with Largest() as seen:
        run[metric]()
    assert seen.bytes <= 40_000 * 8 * 2, "a quarter of a matrix of pairs is 6 MB"
    done, of = zip(*told)
    assert len(set(of)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == of[0]
    assert len(done) > 10


def test_blocks_cover_every_row_once() -> None:
    for n, m in ((10, 3), (1, 10**9), (7, 2**22)):
        slices = list(blocks_module.blocks(n, m))
        assert [i for s in slices for i in range(n)[s]] == list(range(n))


def test_neighbours_are_found_exactly_and_copies_are_at_zero() -> None:
    x = normal(300, 20, 0).double() + 1000
    y = torch.cat([x[:50], normal(100, 20, 1).double() + 1000])
    squared, rows = nearest(y, x, 4)
    full = (y[:, None] - x[None]).square().sum(2)
    expected, order = full.sort(1)
    assert torch.equal(rows, order[:, :4])
    assert squared == pytest.approx(expected[:, :4], rel=1e-12)
    assert (squared[:50, 0] == 0).all()
    own = (x[:, None] - x[None]).square().sum(2).sort(1).values
    assert reach(x, 3) == pytest.approx(own[:, 3], rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_points_on_the_rim_of_a_ball_are_inside_it(shift: float) -> None:
    """On a grid many points are as far as the fifth neighbour: a matrix product puts them in or out by rounding."""
    steps = torch.cartesian_prod(*[torch.arange(6).double()] * 3)
    halves = steps + torch.tensor([0.5, 0, 0]).double()
    squared = (steps[:, None] - steps[None]).square().sum(2)
    reached = squared.sort(1).values[:, 5]
    for points in (steps, halves):
        between = (steps[:, None] - points[None]).square().sum(2)
        within, recalled = between <= reached[:, None], between <= reached  # the steps between samples are the same
        found = neighbourhoods(features(points * 0.1 + shift), features(steps * 0.1 + shift))
        values = {v.metric: v.value for v in found}
        assert values["density"] == pytest.approx(within.sum(0).double().mean().item() / 5, rel=1e-12)
        assert values["precision"] == within.any(0).double().mean().item()
        assert values["coverage"] == within.any(1).double().mean().item()
        assert values["recall"] == recalled.any(1).double().mean().item()


def test_a_real_point_on_the_rim_of_a_sample_is_recalled() -> None:
    """Samples on a line, a tenth apart; the fifth neighbour of an end is half a unit off, and so is the real point."""
    line = torch.arange(6).double()[:, None] * 0.1
    samples = torch.cat([line, line + 100, line + 200])
    real = torch.cat([line[:1] - 0.5, torch.arange(20).double()[:, None] * 10 + 1000])
    found = {v.metric: v.value for v in neighbourhoods(features(samples), features(real))}
    assert found["recall"] == 1 / 21
    real[0] -= 0.001
    found = {v.metric: v.value for v in neighbourhoods(features(samples), features(real))}
    assert found["recall"] == 0


@pytest.mark.parametrize("copies", [1, 4, 6, 9])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_a_set_of_copies_is_within_its_own_reach(copies: int, shift: float) -> None:
    """Kynkäänniemi et al. (2019), eq. 1: f(phi, Phi) = 1 if |phi - phi'| <= |phi' - NN_k(phi')| for a phi' of Phi.

    Integers have ties of every kind. Brute force with the paper's "<=" and exact distances, of the set against itself
    and of other samples; copies whose features are off by a rounding are copies.
    """
    generator = torch.Generator().manual_seed(copies)
    points = torch.randint(4, (40, 3), generator=generator).double().repeat_interleave(copies, 0)
    others = torch.randint(4, (60, 3), generator=generator).double()
    for samples in (points, others):
        reached, own = (torch.cdist(x, x, compute_mode=EXACT).sort(1).values[:, 5] for x in (points, samples))
        between = torch.cdist(points, samples, compute_mode=EXACT)
        expected = {
            "precision": (between <= reached[:, None]).any(0).double().mean().item(),
            "recall": (between <= own).any(1).double().mean().item(),
            "density": (between <= reached[:, None]).sum(0).double().mean().item() / 5,
            "coverage": (between <= reached[:, None]).any(1).double().mean().item(),
        }
        given = [(samples + shift, points + shift)]
        if samples is points and copies > 5:
            given.append((((samples + shift).float() * (1 + 1e-7)).float(), (points + shift).float()))
        for x, y in given:
            found = neighbourhoods(features(x), features(y))
            assert {v.metric: v.value for v in found} == pytest.approx(expected, rel=1e-12)
        if samples is points:
            assert {expected[m] for m in ("precision", "recall", "coverage")} == {1}
            assert expected["density"] >= 1.2


# ------------------------------------------------------------------------------------------------------------ traps


def test_trap_extractor_left_in_train_mode() -> None:
    """BatchNorm and Dropout in a space answer alike whatever mode its holder is put into."""
    torch_state = torch.get_rng_state()
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    torch.set_rng_state(torch_state)
    body.train()
    space = FeatureSpace("plain", "0" * 12, (1, 8, 8), Extractor(body, 8))
    data = load("digits")
    x, y = data.train.all().x, data.test.all().x
    first = frechet_distance(space.features(x), space.features(y)).value
    nn.ModuleList([space.extractor]).train()
    space.extractor.train(True)
    assert frechet_distance(space.features(x), space.features(y)).value == first
    assert frechet_distance(space.features(x, chunk=10), space.features(y)).value == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trap_half_precision(dtype: torch.dtype) -> None:
    x = normal(100, 4)
    with pytest.raises(BadInput, match=r"float16.*compute them in float32"):
        Moments(4).update(x.to(dtype))
    for function in (frechet_distance, kernel_distance, neighbourhoods, extrapolated_distance):
        with pytest.raises(BadInput, match=r"features of samples in plain@0+ are b?float16"):
            function(features(x.to(dtype)), features(x))
        with pytest.raises(BadInput, match="features of real images"):
            function(features(x), features(x.to(dtype)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_trap_silent_nan(bad: float) -> None:
    """Every metric says which side is not finite; none returns a number, or nan."""
    good, broken = normal(120, 4), normal(120, 4, 1)
    broken[7, 2] = bad
    labels = torch.arange(120) % 4
    with pytest.raises(BadInput, match="1 of 120 are not finite"):
        Moments(4).update(broken)
    calls: list[Callable[[], object]] = [
        lambda: quality(features(broken), features(good)),
        lambda: extrapolated_distance(features(good), features(broken)),
        lambda: likelihood_gap(features(good), features(good), features(broken)),
        lambda: classification_accuracy_score(features(broken), labels, features(good), labels),
        lambda: classifier_score(features(good, broken)),
        lambda: label_accuracy(features(good, broken), labels),
        lambda: label_distance(features(good, good), features(good, broken)),
        lambda: stacked_modes([features(good, broken)]),
        lambda: memorisation(good, broken, good + 1),
        lambda: vector_quality(good, broken, None),
    ]
    for call in calls:
        with pytest.raises(BadInput, match=r"(1 of 120|1 of 119) are not finite"):
            call()


def test_trap_fewer_samples_than_features() -> None:
    """Refused with the reason; the number itself is finite and right, for who asks for it by name."""
    d = 32
    few, many = normal(d - 5, d, 0), normal(PER_FEATURE * d, d, 1)
    for fake, real, who in ((few, many, "samples"), (many, few, "real images")):
        with pytest.raises(BadInput, match=rf"27 {who} are too few for a Frechet distance .*at least 320"):
            frechet_distance(features(fake), features(real))
        with pytest.raises(BadInput, match=rf"27 {who} are too few .*at least 320"):
            extrapolated_distance(features(fake), features(real))
        stream = FrechetDistance(Moments.of(real))
        stream.update(fake)
        with pytest.raises(
            BadInput, match=rf"27 {who} are too few for a Frechet distance of 32 features: at least 320"
        ):
            stream.compute()
    found = distance_of_gaussians(Moments.of(few), Moments.of(many))
    assert 0 < found < 10 * d
    assert distance_of_gaussians(Moments.of(few), Moments.of(few)) == pytest.approx(0, abs=1e-12)


def test_trap_swapped_arguments() -> None:
    """Samples that are one mode of ten are precise and recall nothing; a stream is built on real data, fed samples."""
    centres = 10 * normal(10, 8, 5)
    real = torch.cat([c + normal(40, 8, i) for i, c in enumerate(centres)])
    collapsed = centres[0] + 0.7 * normal(400, 8, 99)
    found = {v.metric: v.value for v in neighbourhoods(features(collapsed), features(real))}
    assert found["precision"] > 0.9
    assert found["recall"] < 0.15
    assert found["coverage"] < 0.15
    assert found["density"] > 0.9
    logits = torch.eye(10).repeat_interleave(40, 0)
    shown = {
        v.metric: v.value
        for v in label_distance(features(collapsed, logits[:1].expand(400, 10)), features(real, logits))
    }
    assert shown["label_modes"] == 1
    assert shown["label_tv"] == pytest.approx(0.9)
    assert shown["label_kl"] == pytest.approx(math.log(10), abs=0.1), "KL(samples ‖ real): finite, log of modes lost"


def test_trap_the_spread_over_subsets_is_not_the_error_of_the_kernel_distance() -> None:
    """Over draws the distance scatters as its error says, and KID's printed spread over subsets is far from that."""
    found = [
        kernel_distance(features(normal(200, 4, 2 * i)), features(normal(200, 4, 2 * i + 1) + 0.5)) for i in range(60)
    ]
    spread = float(np.std([v.value for v in found]))
    errors = [v.error for v in found if v.error is not None]
    assert len(errors) == len(found)
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.25)
    rng = np.random.default_rng(0)
    x, y = normal(200, 4, 0), normal(200, 4, 1) + 0.5
    subsets = [
        kernel_distance(features(x[rng.choice(200, 20)]), features(y[rng.choice(200, 20)])).value for _ in range(50)
    ]
    assert np.std(subsets) > 2 * spread


def test_trap_global_random_state() -> None:
    """No metric draws from, or seeds, the generators that a training run resumes with."""
    data = load("digits")
    space = shipped("digits")
    train, test = space.features(data.train.all().x), space.features(data.test.all().x)
    y, truth = data.train.y, data.test.y
    assert y is not None
    assert truth is not None

    def everything() -> list[object]:
        return [
            floor(train, test),
            extrapolated_distance(train, test),
            classifier_score(train),
            label_accuracy(train, y),
            classification_accuracy_score(train, y, test, truth),
            likelihood_gap(test, train, test),
            sharpness(data.train.x, data.test.x),
            memorisation(data.test.x[:100], data.train.x, data.test.x[100:]),
            vector_quality(normal(200, 2), normal(200, 2, 1), None),
        ]

    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = everything()
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    torch.manual_seed(123)
    np.random.seed(123)
    random.seed(123)
    assert everything() == first


def test_trap_samples_that_are_not_rounded() -> None:
    """What a model adds below a level is gone before a metric sees it, and a metric of pixels refuses floats."""
    space, data = Space((1, 8, 8), 10, 17), load("digits")
    exact = data.train.x[:700]
    noise = torch.rand(exact.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    raw = space.encode(exact) + 0.98 * noise * 2 / 17
    assert torch.equal(space.decode(raw), exact)
    classifier = shipped("digits")
    real = classifier.features(data.test.all().x)
    rounded, unrounded = (
        frechet_distance(classifier.features(x), real).value for x in (space.encode(space.decode(raw)), raw)
    )
    assert rounded == frechet_distance(classifier.features(space.encode(exact)), real).value
    assert abs(unrounded / rounded - 1) > 1e-3, "what rounding is for"
    with pytest.raises(BadInput, match="round them to the data's integers first"):
        sharpness(raw, data.test.x)


def test_every_metric_has_a_card() -> None:
    data = load("digits")
    space = shipped("digits")
    train, test = space.features(data.train.all().x), space.features(data.test.all().x)
    assert data.train.y is not None
    assert data.test.y is not None
    made = [
        *floor(train, test),
        *extrapolated_distance(train, test),
        reconstruction_distance(test, test),
        classifier_score(train),
        label_accuracy(train, data.train.y),
        classification_accuracy_score(train, data.train.y, test, data.test.y),
        likelihood_gap(test, train, test),
        sharpness(data.train.x, data.test.x),
        *memorisation(data.test.x[:100], data.train.x, data.test.x[100:]),
        *vector_quality(normal(200, 2), normal(200, 2, 1), load("ring8").density),
        *stacked_modes([test, test]),
    ]
    assert {v.metric for v in made} == set(known())


def test_what_is_kept_of_the_metrics_is_what_their_files_say():
    assert KEPT.read_text("utf-8") == kept([f.definition for f in table.DOOR.ours()]), "python -m bench.lab.readme"
