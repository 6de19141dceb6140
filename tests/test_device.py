"""Every recipe on a pretend GPU (`tests/pretend.py`): nothing meets a tensor of the CPU, and the host seldom waits."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable

import pretend
import pytest
import torch
from helpers import thinned

from bench import features, measure, metrics, scores
from bench.features import Features
from bench.gpu_check import few
from bench.loop import Diverged, Loop, seeded
from bench.scores import pools
from bench.suite import jobs
from bench.workers import is_spoiled
from paradigms import catalogue
from paradigms.contract import Frozen, Paradigm, Trainable
from paradigms.core.data import Data, Space
from paradigms.core.noise import BLOCKS, Noise
from paradigms.core.plans import Plan
from paradigms.maths.sums import running_sums

DIGITS = Space((1, 8, 8), 0, 17)
LABELLED = dataclasses.replace(DIGITS, classes=10)
# Forward-mode differentiation does not pass through a tensor subclass: see `pretend`.
NOT_HERE = {"mean-flow"}
RECIPES = [
    name
    for name, recipe in catalogue.recipes().items()
    if recipe.paradigm.refuses(recipe.config, DIGITS) is None and name not in NOT_HERE
]


SAMPLING = [name for name in RECIPES if issubclass(catalogue.get(name).paradigm, Paradigm)]
# The assignment of noise to examples is found on the CPU; the number of a round is read when it has begun.
WAITING = {"ot-flow-matching", "progressive-distillation", "progressive-distillation-equal-total"}


def one_each(names: Iterable[str], method: str) -> list:
    """Recipes that share a method's code do it alike: one of each by default, all with `-m matrix`."""
    return thinned([(name,) for name in names], lambda case: getattr(catalogue.get(case[0]).paradigm, method))


class Event:
    """Stands for torch.cuda.Event: here everything has happened by the time it is asked for."""

    def record(self, stream: object) -> None: ...
    def synchronize(self) -> None: ...


class OnCpu(torch.Generator):
    """A generator that draws on the CPU, whatever device it is asked for."""

    def __new__(cls, device: object = "cpu") -> OnCpu:
        return super().__new__(cls)


@pytest.fixture
def gpu(monkeypatch):
    """The pretend device, with generators that draw on the CPU."""
    monkeypatch.setattr(torch.cuda, "default_generators", (torch.Generator(),))
    monkeypatch.setattr(torch, "Generator", OnCpu)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    with pretend.device() as device:
        yield device


def built(name: str, space: Space, there: bool = True) -> Trainable:
    """A narrow model on the pretend device, its parents there before it as in a run; or on the CPU."""
    recipe = catalogue.get(name)
    parents = {role: Frozen(built(need.recipe, space, there), 400) for role, need in recipe.needs.items()}
    with seeded(0, torch.device("cpu")):
        model = recipe.build(space, 8, parents)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # branches that start silent speak
        for p in model.parameters():
            shift = 0.1 * torch.randn(p.shape, generator=generator)
            p.add_(pretend.Pretended(shift) if isinstance(p, pretend.Pretended) else shift)  # copied from a parent
    return pretend.put(model) if there else model


def split(space: Space, n: int = 64, seed: int = 1) -> Data:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, *space.shape)
    x = torch.randn(shape, generator=generator)
    if space.levels:
        x = torch.randint(space.levels, shape, generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % space.classes if space.classes else None
    return Data(x, y, space)


def prepared(name: str, space: Space, device: torch.device) -> Paradigm:
    model = built(name, space).eval()
    model.prepare(split(space).to(device), Noise("prepare", device=device))
    return model


def short(plan: Plan) -> Plan:
    return dataclasses.replace(plan, steps=min(8, plan.steps))


@pytest.mark.parametrize("name", one_each(RECIPES, "updates"))
def test_a_step_waits_for_the_device_at_most_once_an_update(name, gpu):
    model, coords = built(name, DIGITS), ("digits", name, 0)
    data = model.prepare(split(DIGITS).to(gpu), Noise(*coords, "prepare", device=gpu))
    loop = Loop(model, data, batch=10, steps=3, coords=coords)
    loop.step(0)  # an order of the examples, constants: what is copied once
    loop.settle()
    with pretend.counted() as counts:
        loop.step(1)
    updates = len(loop.coming)
    loop.settle()
    assert all(math.isfinite(value) for value in loop.means().values())
    assert sum(counts.waits.values()) <= updates, counts.waits
    if name not in WAITING:
        assert not counts.waits


@pytest.mark.parametrize("name", one_each(SAMPLING, "sample"))
def test_sampling_waits_for_the_device_at_most_three_times(name, gpu):
    model = prepared(name, DIGITS, gpu)
    with torch.no_grad(), pretend.counted() as counts:
        x = model.sample(model.prior(4, Noise("z", device=gpu)), short(model.card.default), Noise("s", device=gpu))
    assert x.device == gpu
    assert tuple(x.shape) == (4, *DIGITS.shape)
    assert sum(counts.waits.values()) <= 3, counts.waits


@pytest.mark.parametrize(
    "name",
    one_each((n for n in SAMPLING if catalogue.get(n).paradigm.card.likelihoods_on(DIGITS)), "log_likelihood"),
)
def test_a_likelihood_waits_for_the_device_at_most_three_times(name, gpu):
    model = prepared(name, DIGITS, gpu)
    x = split(DIGITS, 3).to(gpu).all().x
    kind = few(model.card.likelihoods_on(DIGITS)[0])
    with torch.no_grad(), pretend.counted() as counts:
        found = model.log_likelihood(x, kind, Noise("l", device=gpu))
    assert sum(counts.waits.values()) <= 3, counts.waits
    assert found.value.device == gpu
    assert bool(found.value.isfinite().all())


@pytest.mark.parametrize("name", ["ddpm", "gan", "normalizing-flow", "latent-flow-matching"])
def test_what_is_evaluated_is_drawn_on_the_device_and_scored_from_the_host(name, gpu):
    model = prepared(name, LABELLED, gpu)
    labels = scores.pool_labels(model, split(LABELLED), 5, 0)
    pool = pools.draw(model, short(model.card.default), 5, 0, labels, gpu)
    assert pool.x.device.type == "cpu"
    assert pool.x.dtype == torch.uint8
    assert len(pool.x) == 5
    assert measure.params_sampling(model, short(model.card.default), gpu) > 0


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "sampler"), [(n, s.name) for n in SAMPLING for s in catalogue.get(n).paradigm.card.samplers]
)
def test_every_sampler_runs_on_the_device(name, sampler, gpu):
    model = prepared(name, LABELLED, gpu)
    offered = model.card.sampler(sampler)
    guided = {"guidance": 2.0} if "guidance" in offered.options and getattr(model, "null", None) is not None else {}
    plan = Plan(sampler, min(4, offered.steps[-1]), tuple(guided.items()))
    cond = torch.arange(4, device=gpu) % LABELLED.classes
    with torch.no_grad(), pretend.counted() as counts:
        x = model.sample(model.prior(4, Noise("z", device=gpu)), plan, Noise("s", device=gpu), cond)
    assert x.device == gpu
    if offered.calls is not None:  # an adaptive one looks at its errors
        assert sum(counts.waits.values()) <= 3, counts.waits


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["ddpm", "flow-matching", "gan", "hvae", "normalizing-flow", "consistency"])
@pytest.mark.parametrize("space", [Space((3, 32, 32), 0, 256), Space((2,), 0, 0)], ids=["cifar10", "vectors"])
def test_other_spaces_run_on_the_device(name, space, gpu):
    model = built(name, space)
    loop = Loop(
        model, model.prepare(split(space).to(gpu), Noise("p", device=gpu)), batch=4, steps=3, coords=("s", name, 0)
    )
    loop.step(0)
    loop.step(1)
    loop.settle()
    model.eval()
    with torch.no_grad():
        x = model.sample(model.prior(2, Noise("z", device=gpu)), short(model.card.default), Noise("s", device=gpu))
    assert x.device == gpu


def test_a_draw_is_one_launch_and_its_rows_do_not_depend_on_the_batch(gpu):
    with pretend.counted() as counts:
        whole = Noise("n", device=gpu).normal(512, 3, 32, 32)
    assert counts.draws == 1
    assert sum(counts.ops.values()) == 1
    part = Noise("n", device=gpu).rows(100).normal(7, 3, 32, 32)
    assert torch.equal(whole.cpu()[100:107], part.cpu())
    across = Noise("n", device=gpu).rows(2_700).normal(64, 3, 32, 32)
    with pretend.counted() as counts:
        Noise("n", device=gpu).rows(2_700).normal(64, 3, 32, 32)
    assert counts.draws == 2
    assert torch.equal(across.cpu()[30:], Noise("n", device=gpu).rows(2_730).normal(34, 3, 32, 32).cpu())


def test_a_loss_that_is_not_finite_is_never_used_and_said_a_step_later(gpu):
    model = built("flow-matching", DIGITS)
    loop = Loop(model, split(DIGITS).to(gpu), batch=8, steps=10, coords=("digits", "flow-matching", 0))
    loop.step(0)
    before = [p.detach().cpu().clone() for p in model.parameters()]
    with torch.no_grad():
        poisoned = next(model.parameters())
        poisoned.view(-1)[0] = math.nan
    loop.step(1)  # not read yet
    with pytest.raises(Diverged, match="step 2 of 10") as caught:
        loop.step(2)
    assert caught.value.step == 1
    after = [p.detach().cpu() for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:]))


def test_a_step_that_is_left_out_on_the_device_is_counted(gpu):
    model = built("hvae", DIGITS)
    model.config = dataclasses.replace(model.config, skip=1e-9)
    loop = Loop(model, split(DIGITS).to(gpu), batch=8, steps=10, coords=("digits", "hvae", 0))
    before = [p.detach().cpu().clone() for p in model.parameters()]
    loop.step(0)
    loop.settle()
    assert loop.skipped == 1
    assert all(torch.equal(a, b.detach().cpu()) for a, b in zip(before, model.parameters()))


def test_what_is_read_late_is_in_the_checkpoint(gpu):
    model, coords = built("gan", DIGITS), ("digits", "gan", 0)
    loop = Loop(model, split(DIGITS).to(gpu), batch=8, steps=10, coords=coords)
    loop.step(0)
    state = loop.state()
    assert [step for step, *_ in state["coming"]] == [0, 0]
    loop.settle()
    other = Loop(built("gan", DIGITS), split(DIGITS).to(gpu), batch=8, steps=10, coords=coords)
    other.coming = []
    other.sums, other.last = state["sums"].copy(), dict(state["last"])
    other.restore({**state, "optimizers": [o.state_dict() for o in other.optimizers.values()]})
    other.settle()
    assert other.means() == loop.means()


def test_metrics_on_the_device_say_what_they_say_on_the_cpu(gpu):
    space = features.random_conv(DIGITS.shape)
    there = dataclasses.replace(space, extractor=pretend.put(copy.deepcopy(space.extractor)), device=gpu)
    fake, real = (DIGITS.encode(split(DIGITS, 700, seed=k).x) for k in (1, 2))
    near = [Features(s(x)[0], None, s) for s in (space, there) for x in (fake, real)]
    assert near[2].values.device == gpu
    for one in (metrics.frechet_distance, metrics.kernel_distance):
        here, on_it = one(*near[:2]), one(*near[2:])
        assert on_it.value == pytest.approx(here.value, rel=1e-6)
    for several in (metrics.neighbourhoods, lambda a, b: [metrics.likelihood_gap(a, b, b)]):
        assert [v.value for v in several(*near[2:])] == pytest.approx([v.value for v in several(*near[:2])], rel=1e-6)
    x, train, test = (split(DIGITS, 60, seed=k).x for k in (1, 2, 3))
    here, on_it = metrics.memorisation(x, train, test), metrics.memorisation(x.to(gpu), train, test)
    assert [v.value for v in on_it] == pytest.approx([v.value for v in here], rel=1e-6)


BEYOND = [pytest.param(name, marks=pytest.mark.matrix) for name in ("wgan-gp", "hvae", "vq-vae")]


@pytest.mark.parametrize("name", ["flow-matching", "gan", "consistency", *BEYOND])
def test_a_training_on_the_device_has_the_weights_of_one_on_the_cpu(name, gpu, monkeypatch):
    """The same updates, though clipping, skipping and the guard are done by other means."""
    monkeypatch.setitem(BLOCKS, "cuda", BLOCKS["cpu"])
    weights = []
    for put in (False, True):
        model, data = built(name, DIGITS, put), split(DIGITS)
        data = model.prepare(data.to(gpu) if put else data, Noise("p", device=gpu if put else "cpu"))
        loop = Loop(model, data, batch=10, steps=4, coords=("digits", name, 0))
        for k in range(4):
            loop.step(k)
        loop.settle()
        weights.append([p.detach().cpu() for p in loop.average.mean])
    for here, there in zip(*weights, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("own", ["", "CUDNN_STATUS_EXECUTION_FAILED"])
def test_a_job_after_which_the_gpu_answers_no_more_fails_and_says_of_what(own, monkeypatch):
    def assertion() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", assertion)

    def job() -> None:
        with jobs._returned("cuda"):
            if own:
                raise ValueError(own)

    with pytest.raises(RuntimeError) as caught:
        job()
    assert str(caught.value) == "; ".join(filter(None, (own, "CUDA error: device-side assert triggered")))
    assert is_spoiled(str(caught.value))


def test_running_sums_on_the_device_are_those_of_the_cpu(gpu):
    x = torch.rand(5, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(running_sums(pretend.Pretended(x)).cpu(), running_sums(x), rtol=1e-6, atol=0)
