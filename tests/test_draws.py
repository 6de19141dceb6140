"""Every random draw of the suite, with what it may depend on: the table, and the tests that walk it.

A scene is a computation of the product as a function of factors: the training seed, the data set, the size of a chunk ...
It is done once as usual and once with each factor changed, and the ledger tells which numbers were drawn. For every
stream that was opened on the way the table says which factors it follows: with one of these other numbers are drawn, and
with any other factor the same. `before`, what was drawn by others earlier in the process, is a factor of every scene that
has no chunks.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from ledger import ROOT, Ledger, ledger, places
from scenes import SPECIAL, VECTORS, dataset, default, model, recorded, scenes
from torch import Tensor, nn

from bench.loop import Average, Loop
from bench.scores import pools
from paradigms import catalogue
from paradigms.contract import Trainable, Update
from paradigms.core.data import Batch
from paradigms.core.noise import BLOCKS, Noise

# ------------------------------------------------------------------------------------------------------- the table

# Where streams of random numbers are opened, and the factors that each follows. It follows no other.
STREAMS = {
    "bench/runs/training.py:_train": "data recipe seed",  # initial weights
    "bench/loop.py:train": "data recipe seed",  # torch's own generator while the data are prepared
    "bench/loop.py:_prepare": "data recipe seed",
    "bench/loop.py:Loop._step": "data recipe seed step",
    "bench/loop.py:Order._epoch": "data seed",  # recipes are compared on the same batches
    "bench/runs/budget.py:_calibrate": "data recipe",  # all seeds of a run share the plan of the first
    "bench/runs/budget.py:fit_width.count": "",
    "bench/scores/pools.py:draw": "seed",
    "bench/scores/pools.py:pool_labels": "seed",
    "bench/scores/likelihood.py:_estimate": "data split",  # runs are compared under the same dequantisation
    "bench/scores/codec.py:_reconstructed": "data",
    "bench/scores/reference.py:subset": "data split",  # all runs are scored against the same examples
    "bench/scores/baselines.py:score_baselines": "data",
    "bench/scores/baselines.py:_gaussian_samples": "data",
    "bench/scores/baselines.py:_densities": "data split",
    "bench/trajectory.py:follow": "seed",
    "bench/trajectory.py:_forward": "",
    "bench/measure.py:sample_once": "seed",
    "bench/metrics/frechet.py:extrapolated_distance": "seed",
    "bench/metrics/vectors.py:sliced_wasserstein": "",
    "bench/metrics/vectors.py:two_sample_accuracy": "",
    "bench/data/toys.py:load_toy": "data split",
    "bench/data/toys.py:gmm16_parameters": "",
    "bench/features/train.py:fit": "seed",
    "bench/features/convolutions.py:_RandomConvolutions.__init__": "",
    "paradigms/flows/linear.py:Mixing.__init__": "channels",
}
# Of these torch's own generator has one seed for all, beside the stream that they open.
FIXED = {"bench/runs/budget.py:_calibrate"}
# Where numbers are drawn from a stream that was opened elsewhere, by file. They follow what their stream follows.
HANDED = {
    "bench/data/toys.py": "mixture.sample moons.sample checkerboard.sample",
    "bench/features/train.py": "augment",
    "bench/scores/fitted.py": "Gaussian.sample",
    "paradigms/autoencoder.py": "Autoencoder.updates",
    "paradigms/consistency.py": "Consistency.sample ConsistencyDistillation.updates ConsistencyTraining.updates "
    "EasyConsistency.updates",
    "paradigms/ddpm.py": "Chain.times",
    "paradigms/diffusion.py": "FromNoise.prior Regression.updates Matching.times Measured.prepare",
    "paradigms/edm.py": "EDM.prepare EDM.times",
    "paradigms/flows/base.py": "Normal.draw Student.draw",
    "paradigms/flows/dequantise.py": "Variational.forward",
    "paradigms/gan.py": "Adversarial.prior WassersteinGAN.updates",
    "paradigms/hierarchical_vae.py": "HierarchicalVAE.prior HierarchicalVAE.updates HierarchicalVAE.draw_x "
    "HierarchicalVAE.reconstruct HierarchicalVAE.log_likelihood",
    "paradigms/latent.py": "drawn",
    "paradigms/maths/bounds.py": "_decoder chain_bound continuous_bound ode_likelihood",
    "paradigms/maths/guidance.py": "withheld",
    "paradigms/maths/likelihood.py": "dequantise dequantise_normal sample_logistic_mixture",
    "paradigms/maths/observation.py": "Gaussian.sample FixedGaussian.sample",
    "paradigms/maths/samplers.py": "_ahead",
    "paradigms/mean_flow.py": "MeanFlow.times MeanFlow.updates",
    "paradigms/ncsn.py": "NCSN.times",
    "paradigms/normalizing_flow.py": "NormalizingFlow.prepare",
    "paradigms/progressive.py": "ProgressiveDistillation.updates",
    "paradigms/rectified_flow.py": "Rectified.prepare Reflow.loss",
    "paradigms/score_sde.py": "ScoreSDE.times",
    "paradigms/standardise.py": "Standardised.filled",
    "paradigms/tarflow.py": "TarFlow.prior TarFlow.prepare DenoisedTarFlow.prior DenoisedTarFlow.prepare "
    "DenoisedTarFlow.updates",
    "paradigms/vae.py": "LatentGaussian.prior LatentGaussian.log_likelihood VAE.updates IWAE.updates",
    "paradigms/vq_vae.py": "VQVAE.prior VQVAE.prepare VQVAE.updates",
}
# Initial values, drawn where a model is built from torch's own generator, which `build` seeds.
INITIAL = {
    "paradigms/backbones/causal.py:CausalTransformer.__init__",
    "paradigms/backbones/spectral.py:Spectral.__init__",
    "paradigms/vq_vae.py:Codebook.__init__",
    "paradigms/vq_vae.py:CodePrior.__init__",
}
# What opens streams for its callers, and objects that hold a generator and seed it elsewhere.
MEANS = {
    "bench/loop.py:seeded",
    "bench/loop.py:_seed",
    "bench/loop.py:Order.__init__",
    "bench/runs/budget.py:build",
}
# Draws that no scene reaches, with the reason.
UNWALKED = {
    **dict.fromkeys(
        (f"bench/data/toys.py:{name}.sample" for name in ("mixture", "moons", "checkerboard")),
        "from a generator of torch, which `load_toy` seeds",
    ),
    "bench/features/train.py:augment": "from a generator of torch, which `fit` seeds",
    "paradigms/flows/base.py:Normal.draw": "the prior of flows of vectors; the scenes have images",
    "paradigms/hierarchical_vae.py:HierarchicalVAE.reconstruct": "asked by tests alone",
    "paradigms/hierarchical_vae.py:HierarchicalVAE.draw_x": "where it draws itself: of vectors; the scene has images",
    "paradigms/maths/observation.py:FixedGaussian.sample": "of autoencoders of vectors; the scene has images",
}
HANDED_OVER = {f"{file}:{name}" for file, names in HANDED.items() for name in names.split()}
# No product: the suite's checks of a machine, its tools, and the models of the tests.
OUTSIDE = ("bench/lab/", "bench/gpu_check.py", "paradigms/testing/", "paradigms/core/noise.py")


def test_every_draw_in_the_sources_is_in_the_table():
    opened, drawn = set[str](), set[str]()
    for package in ("paradigms", "bench"):
        for path in sorted((ROOT / package).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            if not file.startswith(OUTSIDE):
                for name, opens in places(ast.parse(path.read_text(encoding="utf-8"))):
                    (opened if opens else drawn).add(f"{file}:{name}")
    known = STREAMS.keys() | HANDED_OVER | INITIAL | MEANS
    assert not (opened | drawn) - known, "a new draw: say in STREAMS what it may depend on, or in HANDED who draws"
    assert not known - opened - drawn, "no longer there"
    assert not opened & (HANDED_OVER | INITIAL) - UNWALKED.keys(), "it opens a stream: say in STREAMS what that follows"


def test_a_draw_is_found_however_it_is_made():
    for text in ("Noise('x')", "core.noise.Noise(1)", "seed_of(1)", "torch.Generator()", "torch.randn(3, generator=g)",
                 "np.random.default_rng(0)", "KFold(random_state=0)", "with seeded(0, d): pass"):  # fmt: skip
        assert list(places(ast.parse(f"def f():\n    {text}"))) in ([("f", True)], [("f", True)] * 2), text
    for text in ("noise.at('a').normal(3)", "torch.randn(3)", "x.normal_()", "torch.bernoulli(p)", "rng.integers(3)"):
        assert list(places(ast.parse(f"class A:\n  def f(self):\n    {text}"))) == [("A.f", False)], text
    assert not list(places(ast.parse("def f():\n    nn.init.normal_(w)\n    x.normalise()")))


SCENES = scenes()


# ------------------------------------------------------------------------------------------------------- the walk


@functools.cache
def usual(name: str) -> tuple[Ledger, Mapping[str, Tensor]]:
    return recorded(SCENES[name])


def by_default(name: str) -> bool:
    """Whether a scene is no one recipe's, or is of a recipe that stands for its paradigm."""
    return name in SPECIAL or bool(set(name.split()) & set(catalogue.rows()))


@pytest.mark.parametrize("name", [n if by_default(n) else pytest.param(n, marks=pytest.mark.matrix) for n in SCENES])
def test_draws_follow_what_the_table_says_and_nothing_else(name: str) -> None:
    scene = SCENES[name]
    first, numbers = usual(name)
    unknown = first.seen - STREAMS.keys() - HANDED_OVER
    assert not unknown, unknown
    assert not first.repeated() - scene.again.keys(), "draws the same numbers twice"
    for factor, value in {**scene.others, **({} if "chunk" in scene.others else {"before": 1})}.items():
        second, other = recorded(scene, **{factor: value})
        for root in (first.roots | second.roots) - set(scene.apart):
            if root in FIXED:
                assert first.book[root, root] == second.book[root, root], f"{root} depends on {factor}"
            own = {root} & FIXED
            a, b = ({by: v for by, v in one.of(root).items() if by not in own} for one in (first, second))
            compare(a, b, factor, factor in STREAMS[root].split(), root)
        for key, x in numbers.items():
            follows = factor in scene.follows.get(key, "").split()
            same = equal(x, other[key], scene.within if factor in ("chunk", "threads") else 0)
            assert same != follows, f"{key} {'ignores' if follows else 'depends on'} {factor}"


def compare(a: Mapping[str, set[int]], b: Mapping[str, set[int]], factor: str, follows: bool, root: str) -> None:
    if follows:
        shared = set().union(*a.values()) & set().union(*b.values())
        assert not shared, f"{root} ignores {factor}"
    else:
        assert a == b, f"{root} depends on {factor}"


def equal(a: Tensor, b: Tensor, within: float) -> bool:
    if not within:
        return torch.equal(a, b)
    if a.dtype == torch.uint8:  # rounding may move a pixel by a level
        return bool(((a.int() - b.int()).abs() <= 1).all())
    return torch.allclose(a, b, within, within)


@pytest.mark.matrix
def test_every_draw_of_the_table_is_walked():
    seen = set().union(*(usual(name)[0].seen for name in SCENES))
    unseen = (STREAMS.keys() | HANDED_OVER) - UNWALKED.keys() - seen
    assert not seen & UNWALKED.keys()
    assert not unseen, f"write a scene that draws there: {unseen}"


# ----------------------------------------------------------------------------------------- what counts steps and rows


class Notes(Trainable):
    """Keeps what it is given at each step: examples, progress, noise, the state of torch's own generator."""

    def __init__(self) -> None:
        super().__init__(None, VECTORS, 1, {})
        self.net, self.given = nn.Linear(2, 2), list[tuple[Any, ...]]()

    def optimizers(self) -> dict[nn.Module, torch.optim.Optimizer]:
        return {self.net: torch.optim.SGD(self.net.parameters(), lr=0.1)}

    def updates(self, batch: Batch, progress: float, noise: Noise) -> Iterator[Update]:
        self.given.append((batch.x.tolist(), progress, noise.normal(3).tolist(), torch.rand(3).tolist()))
        yield Update(self.net, self.net(batch.x).square().mean())


def notes(seed: int = 0, steps: range = range(12)) -> tuple[Notes, Loop, list[Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        at = Notes()
        loop = Loop(at, dataset(VECTORS).train, 4, 12, ("data", "notes", seed))
        weights = []
        for k in steps:
            loop.step(k)
            weights.append(at.net.weight.detach().clone())
    return at, loop, weights


def test_a_step_is_known_by_its_number_alone():
    at, _, _ = notes()
    assert [progress for _, progress, _, _ in at.given] == [k / 12 for k in range(12)]
    assert notes(steps=range(5, 8))[0].given == at.given[5:8], "it depends on the steps before it"
    other = notes(seed=1)[0].given
    for column in (2, 3):
        drawn = [str(step[column]) for step in (*at.given, *other)]
        assert len(set(drawn)) == 24, "two steps, or two seeds, share their noise"
    epochs = [[x for step in given[k : k + 3] for x in step[0]] for given in (at.given, other) for k in (0, 3, 6, 9)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs), "an epoch has every example once"
    assert len({str(epoch) for epoch in epochs}) == 8, "two epochs, or two seeds, share their order"


def test_the_average_weighs_every_step_from_the_first():
    """Weights of step s = 1 ... t count s^e - (s - 1)^e of t^e: what the running average comes to, written out."""
    _, loop, weights = notes()
    t, e = len(weights), Average.EXPONENT
    expected = sum(w.double() * (s**e - (s - 1) ** e) / t**e for s, w in enumerate(weights, 1))
    assert torch.allclose(loop.average.state_dict()["net.weight"].double(), expected, atol=1e-6)
    _, first, (only,) = notes(steps=range(1))
    assert torch.equal(first.average.state_dict()["net.weight"], only), "the initial weights have no part in it"


@pytest.mark.parametrize("rest", [(), (3,), (70, 70)])
def test_rows_of_noise_are_those_of_the_whole_and_no_two_are_one(rest: tuple[int, ...]) -> None:
    n = 5 if len(rest) > 1 else 2 * BLOCKS["cpu"].rows + 5
    with ledger() as kept:
        kept.note = lambda root, found: kept.book["", ""].extend(found)  # type: ignore[method-assign]
        whole = Noise("a", 1)
        draws = [whole.normal(n, *rest), whole.uniform(n, *rest), whole.integers(9, n, *rest)]
        for coords in (("a", 2), ("b", 1), ("a",), (1, "a"), ("a1",)):
            Noise(*coords).normal(n)
        whole.at("x").normal(n)
    found = kept.book["", ""]
    assert len(set(found)) == len(found)
    for first in (1, n // 2, n - 1):
        part = Noise("a", 1).rows(first)
        again = [part.normal(n - first, *rest), part.uniform(n - first, *rest), part.integers(9, n - first, *rest)]
        assert all(torch.equal(a, b[first:]) for a, b in zip(again, draws))


def test_fewer_samples_are_the_first_of_more():
    at, data = model("score-sde", VECTORS), dataset(VECTORS)
    labels = [pools.pool_labels(at, data.train, n, 0) for n in (5, 9)]
    few_, more = (pools.draw(at, default(at), n, 0, y) for n, y in zip((5, 9), labels))
    assert torch.equal(labels[0], labels[1][:5])
    assert torch.allclose(few_.x, more.x[:5], atol=1e-4)
