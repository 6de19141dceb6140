"""Where the recipes and the authors' own code differ: what is followed, to the digit, and the size of what is declared.

The authors' rules are written out here from their papers and code; a figure in a file's "Where this differs" is measured.
"""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import f as f_law
from scipy.stats import norm
from torch import Tensor

from paradigms import catalogue, consistency, ddpm, edm, flow_matching, ncsn, rectified_flow, score_sde, tarflow
from paradigms.backbones.causal import CausalTransformer
from paradigms.core.data import Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Eps, Preconditioned
from paradigms.maths.likelihood import discretised_normal
from paradigms.maths.paths import BetaChainPath, EDMPath, GaussianPath, SubVPPath, VEPath, VPPath
from paradigms.testing import Exact, Mixture, build, examples


def says(module, *texts: str) -> None:
    """The module's docstring has a list of differences, and these are in it."""
    _, _, listed = " ".join(inspect.getdoc(module).split()).partition("Where this differs from the paper")
    for text in texts:
        assert text in listed, f"{module.__name__} does not say: {text}"


def told(t: Tensor) -> Tensor:
    return t


def known(law: Mixture, path: GaussianPath, t_min: float = 1e-3, T: int | None = None) -> Denoiser:
    """A perfect denoiser of `law`."""
    data = float(law.cov.diagonal().mean().sqrt())
    return Denoiser(Exact(law, path, Preconditioned(data)), path, Preconditioned(data), told, t_min, T=T)


def unwatched(t: float, x: Tensor) -> None:
    pass


def first(sampler, d: Denoiser, x: Tensor, times: Tensor, plan: Plan, noise: Noise) -> Tensor:
    """The state after a sampler's first step."""
    seen: list[Tensor] = []
    sampler(d, x, times, plan, noise, lambda t, x: seen.append(x))
    return seen[0]


# ------------------------------------------------------------------------------------------------------- samplers


def respaced(T: int, n: int) -> list[int]:
    """Nichol & Dhariwal's `space_timesteps` with one section: the kept steps, counted from 0."""
    stride, place, kept = (T - 1) / (n - 1), 0.0, []
    for _ in range(n):
        kept.append(round(place))
        place += stride
    return kept


def test_a_chain_is_asked_at_the_authors_times() -> None:
    chain = Denoiser(told, BetaChainPath(), Eps(), told, 1e-3, T=1000)
    for n in range(2, 1001):
        asked = (samplers.levels(chain, n) * 1000).tolist()
        assert asked == pytest.approx([k + 1 for k in respaced(1000, n)][::-1], abs=1e-9), n
    # Halves go to the even side of a count from 0: 499.5 to 500, which is t = 501.
    assert round(float(samplers.levels(chain, 3)[1]) * 1000) == 501
    assert samplers.levels(chain, 1).tolist() == [1.0]
    says(samplers, "A single step is asked at t = T", "their code asks at t = 1", "t = 981, 961 ... 1 with 50 steps")


class Counted(Noise):
    """Counts its draws."""

    drawn = 0

    def normal(self, *shape: int) -> Tensor:
        self.drawn += 1
        return super().normal(*shape)


@pytest.mark.parametrize("path", [EDMPath(), EDMPath(10.0), VEPath(0.01, 12.0)], ids=["edm", "edm-10", "ve"])
def test_churn_raises_noise_above_sigma_max(mixture: Mixture, path: GaussianPath) -> None:
    """Karras et al., algorithm 2: sigma_hat = (1 + gamma) sigma at every step from the first, with fresh noise each."""
    d = known(mixture, path, float(path.time_of_log_snr(torch.tensor(-2 * math.log(0.02)).double())))
    own = d.on(samplers.COORDINATES["edm"])
    times = samplers.levels(own, 6, "karras")
    sigma = [*own.path.sigma(times).tolist(), 0.0]
    z = sigma[0] * torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise, x = Noise("churn"), z
    for s, after in pairwise(sigma):
        hat = s * (1 + min(60 / 6, math.sqrt(2) - 1))
        x = x + math.sqrt(hat**2 - s**2) * noise.normal(9, 2).double()

        def slope(x: Tensor, s: float) -> Tensor:
            return (x - own.both(x, torch.full((9,), s / 80, dtype=torch.float64))[0]) / s

        steep = slope(x, hat)
        end = x + (after - hat) * steep
        x = x + (after - hat) * (steep + slope(end, after)) / 2 if after else end
    counted = Counted("churn")
    plan = Plan("churn", 6, (("churn", 60.0), ("noise", 1.0), ("from", 0.0), ("to", 1e6)))
    ours = samplers.churn(own, z, times, plan, counted, unwatched)
    assert counted.drawn == 6
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [VPPath(), SubVPPath()], ids=lambda p: type(p).__name__)
def test_the_correctors_factor_is_declared_and_no_better(path: GaussianPath) -> None:
    """alpha_i = 1 - beta_i of Song et al., algorithm 5, in our samplers: by how much, and what the samples say of it."""
    betas = {n: 20.0 / n for n in (1000, 50, 20)}
    assert [round(betas[n], 3) for n in (1000, 50, 20)] == [0.02, 0.4, 1.0]
    says(samplers, "by 2 % at most with N = 1000 steps and 40 % with 50", "below 20 steps it has none")

    stds = torch.logspace(-1.5, 0.2, 64)
    law = Mixture([1.0], [[0.0] * 64], [stds.tolist()])
    d = known(law, path, float(path.time_of_log_snr(torch.tensor(-2 * math.log(0.005)).double())))
    z = torch.randn(2000, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = samplers.levels(d, 32)
    alpha = d.along(times, z).alpha
    factor = (alpha[1:-1] / alpha[2:]).square().tolist()

    def distance(followed: bool) -> float:
        """Wasserstein-2 of Gaussians, of what the sampler leaves; the factor enters by the score's norm at each level."""
        x = z
        for k, (t, s) in enumerate(pairwise(times)):
            noise = Noise("pc", k)
            plan = Plan("pc", 2, (("snr", 0.16 * math.sqrt(factor[k]) if followed else 0.16),))
            x = first(samplers.predictor_corrector, d, x, torch.stack([t, s]), plan, noise)
        x = d.both(x, times[-1:].expand(len(x)))[0]
        return float((x.std(0) - law.stds[0]).norm())

    ours, theirs = distance(False), distance(True)
    assert ours < theirs < 1.03 * ours
    says(samplers, "0 to 3 % further from the data")


def test_the_correctors_cap_binds_as_declared() -> None:
    """|w|^2 / |eps|^2 of two normals in D dimensions is F-distributed; a step is 2 snr^2 times that, in sigma^2."""
    bound = samplers.LONGEST / (2 * 0.16**2)
    binds = {D: float(f_law.sf(bound, D, D)) for D in (2, 16, 64)}
    assert binds[2] == pytest.approx(0.17, abs=0.005)
    assert binds[16] == pytest.approx(0.001, abs=0.0005)
    assert binds[64] < 1e-6
    says(samplers, "17 % of the steps in 2 dimensions, 0.1 % in 16 and none in 64", "at most 0.25 sigma^2")


# ------------------------------------------------------------------------------------------------ learned variances


DIGITS = Space((1, 8, 8), 0, 17)


def hybrid(model, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Nichol & Dhariwal's vb term of each example in bits per dimension (their `_vb_terms_bpd`), float64.

    From the chain's betas, which are respaced from this path: T steps, counted from 0.
    """
    T = ddpm.T
    grid = torch.arange(1, T + 1, dtype=torch.float64) / T
    bar = model.path.alpha(grid).square()
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    beta = 1 - bar / before
    posterior = beta * (1 - before) / (1 - bar)
    clipped = torch.cat([posterior[1:2], posterior[1:]]).log()
    i = (t * T).round().long() - 1
    a = bar[i].view(-1, 1, 1, 1)
    x_t = a.sqrt() * x + (1 - a).sqrt() * eps
    out, v = model.net(x_t.float(), t.float()).double().chunk(2, dim=1)
    x0 = (x_t - (1 - a).sqrt() * out) / a.sqrt()
    share = ((v + 1) / 2).clamp(-9, 9)
    low, high = (k[i].view(-1, 1, 1, 1) for k in (clipped, beta.log()))
    log_var = share * high + (1 - share) * low
    on_x0 = (beta * before.sqrt() / (1 - bar))[i].view(-1, 1, 1, 1)
    on_x_t = ((1 - before) * (1 - beta).sqrt() / (1 - bar))[i].view(-1, 1, 1, 1)
    true, mean = on_x0 * x + on_x_t * x_t, on_x0 * x0 + on_x_t * x_t
    kl = 0.5 * (-1 + log_var - low + torch.exp(low - log_var) + (true - mean).square() * torch.exp(-log_var))
    decoder = -discretised_normal(x, mean, (0.5 * log_var).exp(), 17)
    return torch.where((i == 0).view(-1, 1, 1, 1), decoder, kl).flatten(1).mean(1) / math.log(2)


def test_the_learned_variance_is_trained_by_the_authors_bound() -> None:
    """In bits per dimension, with the decoder's term at t = 1; the bound itself is then of those terms."""
    model = build("ddpm-learned", DIGITS, shaken=True)
    x = examples(DIGITS, 64).x
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    for t in (torch.full((64,), 1e-3), torch.arange(2, 66) / 1000, torch.linspace(0.1, 1, 64)):
        t = (t * 1000).round() / 1000
        loss, terms = model.loss(model.denoiser(), x, eps, t)
        theirs = 1000 * hybrid(model, x.double(), t.double(), eps.double()).mean()
        torch.testing.assert_close(terms["bound"].double(), theirs, rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(loss, terms["simple"] + 0.001 * terms["bound"])
    _, terms = model.loss(model.denoiser(), x, eps, torch.full((64,), 1e-3))
    grads = torch.autograd.grad(terms["bound"], [*model.net.parameters()], allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in grads), "at t = 1 the decoder trains the variance"


def test_the_decoder_of_a_learned_chain_has_its_learned_variance() -> None:
    model = build("ddpm-learned", DIGITS, shaken=True)
    d, x = model.denoiser(), examples(DIGITS, 16).x
    one, two = torch.full((16,), 1e-3), torch.full((16,), 2e-3)
    noise = Noise("decoder")
    with torch.no_grad():
        found = bounds.chain_bound(d, x, DIGITS, 1000, 1, "learned", Noise("decoder"), False).terms["decoder"]
        x_t = model.path.perturb(x, noise.normal(*x.shape), one)
        x0, v = d.with_variance(x_t, one)
    sigma, kappa = model.path.sigma(one), 1 - torch.exp(model.path.log_snr(two) - model.path.log_snr(one))
    low, high = (s.view(-1, 1, 1, 1).log() for s in (sigma * kappa.sqrt(), sigma))
    log_p = discretised_normal(x, x0, torch.exp(v * high + (1 - v) * low), 17).flatten(1).sum(1)
    torch.testing.assert_close(found, -log_p, rtol=1e-3, atol=1e-3)
    assert v.std() > 0.01


def test_the_decoders_other_variances_are_declared() -> None:
    one, two = torch.tensor([1e-3, 2e-3], dtype=torch.float64)
    for schedule, share in (("linear", 0.74), ("cosine", 0.19)):
        path = ddpm.schedule_of(ddpm.Config(schedule=schedule), DIGITS)
        kappa = float(-torch.expm1(path.log_snr(two) - path.log_snr(one)))
        assert math.sqrt(kappa) == pytest.approx(share, abs=0.005)
        if schedule == "linear":
            assert float(path.sigma(one)) * math.sqrt(kappa) == pytest.approx(0.00738, abs=5e-6)
        else:
            assert 1 / float(path.alpha(one)) - 1 == pytest.approx(0.003, abs=5e-4)
        assert 1 - float(path.sigma(torch.ones((), dtype=torch.float64))) ** 2 == pytest.approx(3e-5, abs=1.1e-5)
    says(ddpm, "0.74 sigma_1 on the linear chain (0.00738", "0.19 sigma_1 on the cosine one", "(0.3 % less on digits)")
    assert catalogue.get("ddpm-learned").config.vlb == 0.001


# ------------------------------------------------------------------------------------------------------ consistency


@pytest.mark.parametrize(
    ("name", "first"),
    [("easy-consistency", 20.0), ("easy-consistency-edm", 20.0), ("consistency-edm", 80.0), ("consistency", math.inf)],
)
def test_easy_tuning_samples_from_where_it_was_trained(name: str, first: float) -> None:
    """Noise over signal at which a sample begins; the later steps of a plan lie below."""
    model = build(name, DIGITS)
    z = torch.randn(4, *DIGITS.shape, generator=torch.Generator().manual_seed(0))
    for plan in (Plan("multistep", 1), Plan("multistep", 3), Plan("multistep", 2, (("times", 0.999),))):
        seen: list[tuple[float, Tensor]] = []
        with torch.no_grad():
            model.sample(z, plan, Noise("s"), watch=lambda t, x: seen.append((t, x)))  # noqa: B023
        times = [t for t, _ in seen]
        begun = times[0] / (1 - times[0]) if times[0] < 1 else math.inf
        assert begun == pytest.approx(first, rel=0.005)
        torch.testing.assert_close(seen[0][1], times[0] * z)
        assert times == sorted(times, reverse=True)
    drawn = {s: float(norm.sf((math.log(s) + 1.1) / 2)) for s in (20, 40, 80)}
    assert [round(100 * drawn[s], 1) for s in (20, 40, 80)] == [2.0, 0.8, 0.3]
    says(consistency, "samples begin at s = 20, above which 2 % of the draws", "at 80, with 0.3 % (0.8 % above 40)")


def test_consistency_never_clips_and_says_so() -> None:
    model = build("consistency", DIGITS)
    z = 3 * torch.randn(64, *DIGITS.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = model.sample(z, Plan("multistep", 1), Noise("s"))
    assert (x.abs() > 1).any()
    # Where it is the last step the data's levels are those of the clipped.
    assert torch.equal(DIGITS.decode(x), DIGITS.decode(x.clamp(-1, 1)))
    says(consistency, "f is never clipped", "clips it to [-1, 1] after every step")


# ----------------------------------------------------------------------------------------------- priors, time's ends


PRIORS = ["score-sde", "score-sde-subvp", "score-sde-ve", "edm", "ncsn", "flow-matching-vp"]


@pytest.mark.parametrize("name", [*PRIORS[:1], *(pytest.param(name, marks=pytest.mark.matrix) for name in PRIORS[1:])])
def test_priors_and_the_density_of_x_are_as_declared(name: str) -> None:
    """Of an exact Gaussian: the ODE's density is that of x, from a prior of the path's own last variance."""
    model = build(name, DIGITS)
    d = model.denoiser()
    z = torch.ones(3, *DIGITS.shape)
    seen: list[Tensor] = []
    plan = Plan("ddim", 1)
    with torch.no_grad():
        model.sample(z, plan, Noise("s"), watch=lambda t, x: seen.append(x))
    assert float(seen[0].mean()) == pytest.approx(d.largest)

    law = Mixture([1.0], [[0.3, -0.2]], [[0.7, 0.5]])
    exact = known(law, d.path, d.t_min)
    x = torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    mine = bounds.ode_density(exact, x, 400, None)[0]
    alpha, sigma = (float(f(torch.tensor(d.t_min, dtype=torch.float64))) for f in (d.path.alpha, d.path.sigma))
    theirs = law.log_prob(alpha * x, alpha, sigma)  # of x_(t_min)
    last = float(d.path.sigma(torch.ones((), dtype=torch.float64)))
    assert float(mine - theirs) == pytest.approx(2 * math.log(alpha), abs=2e-3 if last < 2 else 0.1)


def test_the_sizes_of_priors_and_ends_are_as_declared() -> None:
    one, eps = torch.ones((), dtype=torch.float64), torch.tensor(1e-5, dtype=torch.float64)
    for path, variance, log_alpha in ((VPPath(), 4e-5, -7e-5), (SubVPPath(), 9e-5, -6e-3)):
        assert 1 - float(path.sigma(one)) ** 2 == pytest.approx(variance, rel=0.1)
        t_min = path.time_of_log_snr(torch.tensor(-2 * math.log(0.1 * 2 / 17), dtype=torch.float64))
        assert float(path.alpha(t_min).log()) == pytest.approx(log_alpha, rel=0.05)
        assert float(path.alpha(eps).log()) == pytest.approx(-5e-7, rel=0.01)
    says(
        score_sde, "larger by 4e-5 and 9e-5", "-7e-5 nats a dimension for VP and -6e-3 for sub-VP", "at their eps -5e-7"
    )
    says(flow_matching, "of variance 1 - 4e-5 for their 1", "-7e-5 nats a dimension on digits")
    says(edm, "The prior is N(0, sigma_max^2 I)", "1e-5 of the draws lie below on bytes, 1.2 % on digits")
    below = {
        levels: float(norm.cdf((math.log(0.5 / levels / std) + 0.5) / 1.2)) for levels, std in ((256, 0.5), (17, 0.73))
    }
    assert below[256] == pytest.approx(1e-5, rel=0.5)
    assert below[17] == pytest.approx(0.012, rel=0.1)
    says(ncsn, "The prior is N(0, sigma_1^2 I)", "start from uniform pixels")


@pytest.mark.parametrize("name", ["flow-matching", "reflow", "reflow-distilled"])
def test_flows_are_trained_and_asked_up_to_the_noise(name: str) -> None:
    """Liu et al.'s code: times from 1e-3 on (0 is noise there), the first call at 1e-3. Here the first is at the noise."""
    model = build(name, DIGITS)
    asked: list[float] = []
    model.net.register_forward_pre_hook(lambda net, args: asked.append(float(args[1].max())))
    with torch.no_grad():
        sampler = "one-step" if name == "reflow-distilled" else "euler"
        model.sample(torch.randn(2, *DIGITS.shape), Plan(sampler, 1), Noise("s"))
    assert asked == [1.0]
    if name == "reflow-distilled":
        return
    batch = examples(DIGITS, 4000)
    next(iter(model.updates(batch, 0.5, Noise("u"))))
    assert asked[-1] > 0.999
    for module in (flow_matching, rectified_flow):
        says(module, "leaves out the 1e-3 next to the noise", "t <= 0.999")


def test_the_transformers_last_layer_norm_is_declared() -> None:
    net = CausalTransformer(2, 3, 32, 2, 5)
    assert sum(p.numel() for p in net.norm.parameters()) == 2 * 32
    torch.nn.init.normal_(net.head.weight)
    x, scale = torch.randn(4, 5, 2), []
    net.head.register_forward_pre_hook(lambda module, args: scale.append(args[0].square().mean().sqrt()))
    net(x)
    assert float(scale[0]) == pytest.approx(1, abs=1e-3)
    says(tarflow, "A LayerNorm stands between", "theirs has none there", "2 width parameters a block")
