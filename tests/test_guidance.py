"""Guidance: exact networks of labelled mixtures, closed forms of guided ODEs, identities in bits, calls, and training."""

from __future__ import annotations

import math
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from helpers import thinned, told_back
from scipy import integrate
from torch import Tensor, nn

from paradigms import catalogue
from paradigms.backbones import Backbone, count_calls
from paradigms.core.data import Batch, Data, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan, Sampler
from paradigms.errors import BadInput
from paradigms.maths.denoiser import X0, Denoiser, Eps
from paradigms.maths.guidance import PURE, Guidance, withheld
from paradigms.maths.paths import COORDINATES, BetaChainPath, EDMPath, LinearPath, expand
from paradigms.maths.samplers import offered, sample
from paradigms.testing import Exact, Mixture, build, descend, examples, shake

MARKED, PLANE = Space((2,), 2), Space((2,))
FAMILY = (
    "flow-matching", "flow-matching-cosine", "flow-matching-vp", "score-sde", "score-sde-subvp", "score-sde-ve",
    "ddpm", "ddpm-linear", "ddpm-v", "ddpm-x0", "ddpm-learned", "edm", "ncsn",
)  # fmt: skip
EVERY = ("flow-matching", "score-sde", "ddpm-learned", "edm", "ncsn")


class Labelled(Backbone):
    """A network that is exact of a labelled mixture: component y of it alone, and the whole where y is none of them."""

    def __init__(self, data: Mixture, d: Denoiser, time) -> None:
        super().__init__()
        parts = [Mixture([1.0], data.means[k, None].tolist(), data.stds[k, None].tolist()) for k in (0, 1)]
        self.nets = nn.ModuleList(Exact(part, d.path, d.prediction, time) for part in (*parts, data))

    def forward(self, x: Tensor, told: Tensor, y: Tensor) -> Tensor:
        return torch.where(
            y[:, None] == 2, self.nets[2](x, told), torch.stack([n(x, told) for n in self.nets])[y, range(len(y))]
        )


def perfect(name: str, data: Mixture):
    model = build(name, MARKED)
    if not name.startswith("ddpm"):  # whose `prepare` sets where x0 is clipped
        model.prepare(Data(data.sample(1000).float(), torch.zeros(1000, dtype=torch.long), MARKED), Noise("prepare"))
    model = model.double().eval()
    model.net = Labelled(data, model.denoiser(), told_back(model))
    return model


def options(**given: float | str) -> tuple[tuple[str, float | str], ...]:
    return tuple((name.replace("_", "-"), value) for name, value in given.items())


# ----------------------------------------------------------------------------------------------------- the score


@pytest.mark.parametrize("w", [0.7, 3.0])
@pytest.mark.parametrize("name", ["flow-matching", "score-sde-subvp", "ddpm", "ddpm-v", "ddpm-x0", "edm", "ncsn"])
def test_the_guided_score_is_that_of_the_tilted_density(name, w, mixture):
    """grad log p(x | y)^w p(x)^(1 - w), on the model's own path and on others, at (B,) times and at fixed ones."""
    model, y = perfect(name, mixture), torch.tensor([0, 1, 1, 0])
    x = torch.tensor([[0.3, -0.8], [1.5, 0.2], [-1.0, 0.4], [0.1, 0.1]], dtype=torch.float64)
    for d in (model.denoiser(y), *(model.denoiser(y).on(path) for path in COORDINATES.values())):
        d = d.guided(w)
        t = torch.tensor([0.15, 0.4, 0.6, 0.9], dtype=torch.float64).clamp(d.t_min, d.t_max)
        alpha, sigma = d.path.alpha(t), d.path.sigma(t)
        here = (x * torch.hypot(alpha, sigma)[:, None]).requires_grad_(True)
        told, _, _ = mixture._parts(here, alpha, sigma)
        (truth,) = torch.autograd.grad((w * told[range(4), y] + (1 - w) * told.logsumexp(1)).sum(), here)
        here = here.detach()
        torch.testing.assert_close(d.score(here, t), truth, rtol=1e-6, atol=1e-8)
        eps = -expand(sigma, x) * truth
        x0 = (here - expand(sigma, x) * eps) / expand(alpha, x)
        at = replace(d, reach=math.inf).along(t, here)
        for k, when in enumerate(t.tolist()):
            torch.testing.assert_close(at.eps(here, when)[k], eps[k], rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(at.both(here, when)[0][k], x0[k], rtol=1e-6, atol=1e-6)
            u = d.path.velocity(x0, eps, t)[k]
            torch.testing.assert_close(at.velocity(here, when)[k], u, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                at.combined(here, when, 0.3, -2.0)[k], 0.3 * x0[k] - 2 * eps[k], rtol=1e-6, atol=1e-6
            )


# ------------------------------------------------------------------------------------------------------- the ODE


class Lines(nn.Module):
    """eps of two Gaussians N(0, s^2) on the EDM path, one with a label and one without: guided, the ODE is linear in x."""

    def __init__(self, told: float, free: float, path: EDMPath) -> None:
        super().__init__()
        self.var, self.path = torch.tensor([told**2, free**2], dtype=torch.float64), path

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        sigma = self.path.sigma(t)[:, None]
        return sigma * x / (self.var[y][:, None] + sigma.square())


@pytest.mark.parametrize(("low", "high"), [(0.0, PURE), (0.2, 5.0)])
@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, 4.0])
def test_a_guided_ode_of_gaussians_ends_where_its_closed_form_does(w, low, high):
    """d log x / d sigma = w sigma / (a^2 + sigma^2) + (1 - w) sigma / (b^2 + sigma^2) inside the interval, w = 1 outside."""
    a, b, first, last = 0.5, 1.5, 20.0, 0.01
    path = EDMPath(first)
    d = Denoiser(Lines(a, b, path), path, Eps(), lambda t: t, last / first, y=torch.zeros(5, dtype=torch.long), null=1)
    low, high = max(low, last), min(high, first)

    def shrunk(s: float, start: float, stop: float) -> float:
        return math.sqrt((s**2 + stop**2) / (s**2 + start**2))

    factor = shrunk(a, first, high) * shrunk(a, high, low) ** w * shrunk(b, high, low) ** (1 - w) * shrunk(a, low, last)
    # What is left of the noise at sigma_min is taken off in one step, which is not guided where the interval ends before.
    part = last**2 / (a**2 + last**2)
    e = part if low > last else w * part + (1 - w) * last**2 / (b**2 + last**2)
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    # A step over an end of the interval is of first order.
    for name, n, close in (("heun", 600, 1e-3 if low == last else 1.5e-2), ("rk45", 1, 1e-3)):
        more = {"rtol": 1e-6, "atol": 1e-6} if name == "rk45" else {"grid": "logsnr"}
        plan = Plan(name, n, options(guidance=w, guide_from=low * 0.9999, guide_to=high * 1.0001, **more))
        found = sample(offered(), d, z, plan, Noise(0))
        torch.testing.assert_close(found, first * factor * (1 - e) * z, rtol=close, atol=3e-4)


def test_a_guided_ode_of_a_mixture_agrees_with_scipy(mixture):
    """The field written out in numpy, solved by LSODA, from the same noise; on the linear path and another one."""
    model, y, w = perfect("flow-matching", mixture), torch.tensor([0, 1, 1, 0, 1]), 2.5
    z = Noise("z").normal(5, 2).double()
    means, var, weights = mixture.means.numpy(), mixture.stds.square().numpy(), mixture.weights.numpy()

    def field(t: float, x: np.ndarray, label: int) -> np.ndarray:
        spread = (1 - t) ** 2 * var + t**2
        off = x - (1 - t) * means
        log = np.log(weights) - 0.5 * (off**2 / spread + np.log(spread)).sum(1)
        share = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
        score = -w * off[label] / spread[label] - (1 - w) * (share[:, None] * off / spread).sum(0)
        return (-x - t * score) / (1 - t)  # u = (-x - sigma score) / alpha on this path

    first, plans = 1 - 1e-4, (Plan("heun", 200, options(guidance=w)), Plan("rk4", 60, options(guidance=w, on="cosine")))
    ends = [model.sample(z, plan, Noise(0), y).numpy() for plan in plans]
    for k, label in enumerate(y.tolist()):
        # u at pure noise is z - E[x0], of which the guided mean is known.
        mean = w * means[label] + (1 - w) * weights @ means
        start = z[k].numpy() - 1e-4 * (z[k].numpy() - mean)
        truth = integrate.solve_ivp(field, (first, 1e-9), start, args=(label,), method="LSODA", rtol=1e-8, atol=1e-8)
        for end in ends:
            np.testing.assert_allclose(end[k], truth.y[:, -1], rtol=5e-3, atol=5e-3)


# ------------------------------------------------------------------------------------------ identities, in bits


def spoken(name: str, space: Space = MARKED, **config: float):
    """A model with random weights whose labels make a difference."""
    recipe = catalogue.get(name)
    model = shake(build(recipe, space, config=replace(recipe.config, **config)), 0.3, seed=1).double().eval()
    if hasattr(model, "reach"):
        model.reach.fill_(math.inf)  # where all is clipped there is nothing to compare
    return model


def over_samplers():
    """Over recipes x samplers; by default each sampler of one recipe."""
    cases = [(name, sampler) for name in EVERY for sampler in catalogue.get(name).paradigm.card.samplers]
    return pytest.mark.parametrize(
        ("name", "sampler"), thinned(cases, lambda case: case[1].name), ids=lambda value: getattr(value, "name", value)
    )


def drawn(model, sampler: Sampler, y: Tensor, **given: float | str) -> tuple[Tensor, int]:
    """Samples, and the rows that the network was asked for."""
    z = model.prior(len(y), Noise("z")).double()
    steps = 1 if sampler.steps == (1,) else 6
    given |= {"rtol": 0.01, "atol": 0.01} if "rtol" in sampler.options else {}
    with torch.no_grad(), count_calls() as count:
        x = model.sample(z, Plan(sampler.name, steps, options(**given)), Noise("s"), y)
    return x, count.examples


@over_samplers()
def test_strengths_that_need_one_answer_get_it_bit_for_bit(name, sampler):
    model, y = spoken(name), torch.tensor([0, 1, 1])
    plain, asked = drawn(model, sampler, y)
    for given in ({"guidance": 1.0}, {"guidance": 3.0, "guide_from": 90.0, "guide_to": 90.0}):
        same, again = drawn(model, sampler, y, **given)
        assert torch.equal(same, plain)
        assert again == asked
    free, asked_free = drawn(model, sampler, torch.full_like(y, 2))
    same, again = drawn(model, sampler, y, guidance=0.0)
    assert torch.equal(same, free)
    assert again == asked_free
    assert not torch.equal(plain, free)


@over_samplers()
def test_a_guided_sampler_is_the_sampler_of_the_combined_network(name, sampler):
    """Every sampler, the ODE on another path as well, beside one whose network itself gives F = F0 + w (F - F0)."""
    model, y, w = spoken(name), torch.tensor([0, 1, 1]), 2.0
    net, learned = model.net, model.denoiser().learned

    class Combined(Backbone):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            told, free = net(x, t, y), net(x, t, torch.full_like(y, 2))
            out = free + w * (told - free)
            return torch.cat([out[:, :2], told[:, 2:]], dim=1) if learned else out

    more: list[dict[str, float | str]] = [{}]
    more += [{"on": "linear" if name == "edm" else "edm"}] if "on" in sampler.options else []
    more += [{"variance": "learned"}] if "variance" in sampler.options and learned else []
    for given in more:
        model.net = net
        guided, asked = drawn(model, sampler, y, guidance=w, **given)
        model.net = Combined()
        truth, once = drawn(model, sampler, y, **given)
        model.net = net
        _, plain = drawn(model, sampler, y, **given)
        close = 1e-8 if sampler.calls is not None else 1e-3  # where rounding has a say in the steps
        torch.testing.assert_close(guided, truth, rtol=close, atol=close)
        if sampler.calls is not None:  # adaptive steps follow the field
            assert (asked, once) == (2 * plain, plain)


def test_x0_is_clipped_after_it_was_combined():
    told, free = torch.tensor([[0.9, -0.5]]), torch.tensor([[0.2, 0.9]])

    def net(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.where(y[:, None] == 2, free, told)

    d = Denoiser(net, LinearPath(), X0(), lambda t: t, 0.0, reach=1.0, y=torch.tensor([0]), null=2).guided(3.0)
    x = torch.tensor([[0.1, 0.2]])
    x0, eps = d.along(torch.tensor([0.5]), x).both(x, 0.5)
    torch.testing.assert_close(x0, torch.tensor([[1.0, -1.0]]))  # of 2.3 and -3.3
    torch.testing.assert_close(eps, (x - 0.5 * x0) / 0.5)


# -------------------------------------------------------------------------------------------------- the interval


class Asked(nn.Module):
    """A network that notes how many rows it is asked for at every time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, int]] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.seen += [(float(v), int((t == v).sum())) for v in t.unique()]
        return 0.1 * x * (1 + y[:, None])


@pytest.mark.parametrize("on", ["own", *COORDINATES])
@pytest.mark.parametrize("path", [LinearPath(), EDMPath(80.0), BetaChainPath()], ids=lambda p: type(p).__name__)
def test_the_interval_means_the_same_on_every_path(path, on):
    net = Asked()
    d = Denoiser(net, path, Eps(), lambda t: t, 0.002, y=torch.tensor([0, 1]), null=2)
    plan = options(guidance=2.0, guide_from=0.3, guide_to=5.0, on=on)
    z = Noise("z").normal(2, 2).double()
    sample(offered(), d, z, Plan("heun", 24, plan), Noise(0))
    rows: dict[float, set[int]] = {}
    for told, n in net.seen:
        rows.setdefault(told, set()).add(n)
    t = torch.tensor(sorted(rows), dtype=torch.float64)
    ratio = path.sigma(t) / path.alpha(t)
    assert {2 if 0.3 <= r <= 5.0 else 1 for r in ratio.tolist()} == {1, 2}
    assert [rows[told] for told in t.tolist()] == [{4} if 0.3 <= r <= 5.0 else {2} for r in ratio.tolist()]


def test_rows_at_times_of_their_own_are_guided_each_by_its_own():
    net = Asked()
    d = Denoiser(net, LinearPath(), Eps(), lambda t: t, 0.0, y=torch.tensor([0, 1, 0, 1]), null=2)
    x, t = Noise("x").normal(4, 2).double(), torch.tensor([0.1, 0.5, 0.9, 0.6], dtype=torch.float64)
    plain, whole, part = d.both(x, t), d.guided(2.0).both(x, t), d.guided(2.0, 0.5, 2.0).both(x, t)
    inside = torch.tensor([False, True, False, True])
    for a, b, c in zip(plain, whole, part):
        torch.testing.assert_close(c, torch.where(inside[:, None], b, a), rtol=1e-12, atol=1e-12)
        assert ((a - b).abs().amax(1) > 1e-3).all()
    net.seen.clear()
    d.guided(2.0, 0.5, 2.0).both(x, t)
    assert sorted(net.seen) == [(0.1, 1), (0.5, 2), (0.6, 2), (0.9, 1)]


def test_pure_noise_and_the_data_are_inside_by_default():
    for path in COORDINATES.values():
        t = torch.tensor([0.0, 1.0])
        assert Guidance(2.0, 2).covers(path, t).all()
        assert Guidance(2.0, 2, 0.1).covers(path, t).tolist() == [False, True]
        assert Guidance(2.0, 2, 0.0, 79.0).covers(path, t).tolist() == [True, False]


# ------------------------------------------------------------------------------------------------ another's guidance


class Smooth(nn.Module):
    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(x * (1 + 0.3 * y[:, None]) + 2 * t[:, None] - 0.2 * y[:, None])


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (0.2, 0.7)])
@pytest.mark.parametrize("original", [False, True])
def test_ddim_is_guided_as_by_diffusers(original, start, stop):
    """Their scale is this strength, and Ho & Salimans' own one less. Their interval counts steps: here the levels of these."""
    n, w, x = 20, 3.0, 2 * Noise("z").normal(3, 2).double()
    theirs = diffusers.DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False)
    theirs.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    theirs.alphas_cumprod = (1 - theirs.betas).cumprod(0)
    theirs.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    theirs.set_timesteps(n)
    theirs.timesteps = torch.linspace(999, 0, n).round().long()
    guider = ClassifierFreeGuidance(w - 1 if original else w, use_original_formulation=original, start=start, stop=stop)
    d = Denoiser(Smooth(), BetaChainPath(), Eps(), lambda t: t, 1e-3, T=1000, y=torch.tensor([0, 1, 0]), null=2)
    here, levels = x * d.path.sigma(torch.tensor(1.0).double()), theirs.timesteps.tolist()
    alpha_s = [*theirs.alphas_cumprod[theirs.timesteps].tolist()[1:], 1.0]
    for k, (step, after) in enumerate(zip(levels, alpha_s)):
        guider.set_state(step=k, num_inference_steps=n, timestep=torch.tensor(step))
        t = torch.full((3,), (step + 1) / 1000, dtype=torch.float64)
        told, free = d.net(here, t, d.y), d.net(here, t, torch.full_like(d.y, 2))
        eps = guider.forward(told, free).pred
        now = theirs.alphas_cumprod[step]
        here = after**0.5 * (here - (1 - now).sqrt() * eps) / now.sqrt() + (1 - after) ** 0.5 * eps
    t = (theirs.timesteps + 1).double() / 1000
    ratio = (d.path.sigma(t) / d.path.alpha(t))[int(start * n) : int(stop * n)]
    plan = Plan("ddim", n, options(guidance=w, guide_from=float(ratio[-1]) * 0.999, guide_to=float(ratio[0]) * 1.001))
    torch.testing.assert_close(sample(offered(T=1000), d, x, plan, Noise(0)), here, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------------- training


def test_the_share_of_withheld_labels_is_what_was_asked_for():
    y = torch.arange(20_000) % 7
    out = withheld(y, 7, 0.1, Noise("step", 3))
    assert ((out == 7) | (out == y)).all()
    assert float((out == 7).double().mean()) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 20_000))
    assert not torch.equal(out, withheld(y, 7, 0.1, Noise("step", 4)))
    assert torch.equal(out[500:600], withheld(y[500:600], 7, 0.1, Noise("step", 3).rows(500)))
    assert withheld(None, None, 0.1, Noise(0)) is None
    assert withheld(y, None, 0.0, Noise(0)) is y


class Seen(nn.Module):
    """Notes the labels and the states that a network is trained on."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.x, self.y = x, y
        return self.net(x, t, y)


@pytest.mark.parametrize("name", FAMILY)
def test_a_network_is_trained_without_labels_too(name):
    """Some rows are told none, the others their own; states and times are those of a training that withholds nothing."""
    batch = examples(MARKED, 400)
    seen = {}
    for unlabelled in (0.0, 0.25):
        model = spoken(name, unlabelled=unlabelled).float()
        assert model.net.net.embed.label.num_embeddings == 2 + (unlabelled > 0)
        optimizers = model.optimizers()
        inner, model.net = model.net, Seen(model.net)
        (update,) = model.updates(batch, 0.5, Noise(0))
        update.loss.backward()
        seen[unlabelled] = model.net
        assert (inner.net.embed.label.weight.grad.abs().amax(1) > 0).all()
        assert len(optimizers) == 1
    assert torch.equal(seen[0.0].x, seen[0.25].x)
    assert torch.equal(seen[0.0].y, batch.y)
    none = seen[0.25].y == 2
    assert torch.equal(seen[0.25].y[~none], batch.y[~none])
    assert 0.15 < float(none.double().mean()) < 0.35


@pytest.mark.parametrize("name", FAMILY)
def test_an_unconditional_model_does_not_know_of_it(name):
    """The same weights, the same draws and the same step, whatever the setting."""
    batch = Batch(examples(PLANE, 8).x)
    states = []
    for unlabelled in (0.0, 0.1, 0.5):
        recipe = catalogue.get(name)
        model = build(recipe, PLANE, config=replace(recipe.config, unlabelled=unlabelled))
        (update,) = model.updates(batch, 0.3, Noise(0))
        descend(model.optimizers(), update)
        states.append({**model.state_dict(), "loss": update.loss.detach()})
        assert model.denoiser().null is None
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[k], v) for k, v in states[0].items())


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", EVERY)
def test_a_model_that_does_not_know_both_refuses_guidance(name):
    plan = Plan("heun", 4, options(guidance=2.0))
    unaware = catalogue.get(name)
    for model in (build(name, PLANE), build(unaware, MARKED, config=replace(unaware.config, unlabelled=0.0))):
        y = torch.tensor([0, 1]) if model.space.classes else None
        with pytest.raises(BadInput, match=r"^guidance weighs what .*--conditional.* `unlabelled` above 0"):
            model.check(plan)
        with pytest.raises(BadInput, match="guidance"):
            model.sample(model.prior(2, Noise(0)), plan, Noise(0), y)
        model.check(Plan("heun", 4, options(guidance=1.0)))
        model.check(Plan("heun", 4))
    able = build(name, MARKED)
    able.check(plan)
    with pytest.raises(BadInput, match="guide-from=5 is above guide-to=1"):
        able.check(Plan("heun", 4, options(guidance=2.0, guide_from=5.0, guide_to=1.0)))
    with pytest.raises(ValueError, match="labels"):
        able.sample(able.prior(2, Noise(0)), plan, Noise(0))
    with pytest.raises(ValueError, match="unlabelled must be"):
        replace(unaware.config, unlabelled=1.0)
    for bad in ({"guidance": -1.0}, {"guidance": "two"}, {"guide_to": -0.1}):
        with pytest.raises(BadInput, match=r"guidance|guide-to"):
            able.card.sampler("heun").check(Plan("heun", 4, options(**bad)))


@pytest.mark.parametrize("name", ["ot-flow-matching", "reflow", "consistency", "mean-flow", "progressive-distillation"])
def test_what_has_no_score_or_no_unlabelled_half_offers_no_guidance(name):
    recipe = catalogue.get(name)
    assert all("guidance" not in s.options for s in recipe.paradigm.card.samplers)
    if name in ("progressive-distillation", "consistency"):
        model = build(name, MARKED)
        assert getattr(model, "teacher", None) is not None
        assert model.denoiser_of(model.net, torch.tensor([0])).null is None
    assert all("guidance" in s.options for s in catalogue.get("flow-matching").paradigm.card.samplers)
