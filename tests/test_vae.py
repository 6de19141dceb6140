"""VAE and IWAE against a linear-Gaussian model, of which everything is known in closed form (probabilistic PCA)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from paradigms import catalogue, vae
from paradigms.backbones import Backbone, count_calls
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Kind, Plan
from paradigms.errors import BadInput
from paradigms.maths import likelihood as lk
from paradigms.testing import build, descend, examples

# -------------------------------------------------------------------------------------------------- the closed form


@dataclass
class Linear:
    """A linear-Gaussian decoder x = W z + b + s eps with orthogonal columns: probabilistic PCA."""

    w: Tensor
    b: Tensor
    std: Tensor

    @property
    def posterior_var(self) -> Tensor:
        return 1 / (1 + (self.w.square() / self.std.square()[:, None]).sum(0))

    def posterior_mean(self, x: Tensor) -> Tensor:
        return ((x - self.b) / self.std.square()) @ self.w * self.posterior_var

    def log_prob(self, x: Tensor) -> Tensor:
        cov = self.w @ self.w.T + torch.diag(self.std.square())
        return torch.distributions.MultivariateNormal(self.b, cov).log_prob(x)


class LinearDecoder(Backbone):
    def __init__(self, law: Linear) -> None:
        super().__init__()
        self.law = law

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        mean = z @ self.law.w.T + self.law.b
        return torch.cat([mean, (self.law.std.log() + 2).expand_as(mean)], dim=1)


class LinearEncoder(Backbone):
    """The exact posterior, or one that is off by `shift` in its mean and `stretch` in its spread."""

    def __init__(self, law: Linear, shift: float, stretch: float) -> None:
        super().__init__()
        self.law, self.shift, self.stretch = law, shift, stretch

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.law.posterior_mean(x) + self.shift
        return torch.cat([mean, (self.law.posterior_var.sqrt() * self.stretch).log().expand_as(mean)], dim=1)


def linear_vae(shift: float = 0.0, stretch: float = 1.0, name: str = "vae"):
    """The recipe with the exact decoder, and an encoder that is as far off as asked; float64."""
    recipe, space = catalogue.get(name), Space((3,))
    model = build(recipe, space, config=replace(recipe.config, latent=2)).double().eval()
    q, _ = torch.linalg.qr(torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    law = Linear(
        q * torch.tensor([1.5, 0.6]).double(), torch.tensor([0.3, -1.0, 0.5]).double(), torch.full((3,), 0.4).double()
    )
    model.coder.decoder, model.coder.encoder = LinearDecoder(law), LinearEncoder(law, shift, stretch)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    x = z @ law.w.T + law.b + law.std * torch.randn(400, 3, generator=generator, dtype=torch.float64)
    return model, law, x


def test_with_the_exact_posterior_every_bound_is_tight():
    model, law, x = linear_vae()
    truth = law.log_prob(x)
    # Each importance weight is p(x) itself, whatever was drawn.
    for k in (1, 5):
        value = model.log_likelihood(x, Kind("iwae", "≤", k + 1, (("K", k),)), Noise("l", k)).value
        torch.testing.assert_close(value, truth, rtol=0, atol=1e-6)
    elbo = model.log_likelihood(x, Kind("elbo", "≤", 2), Noise("l")).value
    gap = elbo - truth
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(x))


def test_bounds_stand_in_their_order():
    """ELBO <= IWAE-1 in the mean ... <= IWAE-K <= log p(x), and the ELBO's gap is KL(q || posterior)."""
    shift, stretch = 0.3, 1.4
    model, law, x = linear_vae(shift, stretch)
    truth = law.log_prob(x)
    var = law.posterior_var
    gap = torch.distributions.kl_divergence(
        torch.distributions.Normal(torch.full((2,), shift).double(), var.sqrt() * stretch),
        torch.distributions.Normal(torch.zeros(2).double(), var.sqrt()),
    ).sum()
    elbo = torch.stack([model.log_likelihood(x, Kind("elbo", "≤", 2), Noise("l", i)).value for i in range(50)])
    below = truth.mean() - elbo.mean()
    assert float(below) == pytest.approx(float(gap), abs=4 * float((truth - elbo).std()) / math.sqrt(elbo.numel()))
    values = [elbo[0]]
    for k in (8, 64, 512):
        values.append(model.log_likelihood(x, Kind("iwae", "≤", k + 1, (("K", k),)), Noise("k", k)).value)
    for looser, tighter in pairwise([*values, truth]):
        gain = tighter - looser
        assert float(gain.mean()) > -4 * float(gain.std()) / math.sqrt(len(x))
    assert float((values[1] - values[0]).mean()) > 0.3
    assert float((values[3] - truth).abs().mean()) < 0.05


def test_more_importance_samples_are_the_same_draws_regrouped():
    """IWAE-64 is the log mean of the 64 weights that 64 single draws give; larger groups are tighter (Jensen)."""
    model, _, x = linear_vae(0.3, 1.4)
    one = Kind("iwae", "≤", 2, (("K", 1),))

    def single(k: int) -> Tensor:
        noise = Noise("g")
        for _ in range(k):
            noise.normal(1, 2)
        return model.log_likelihood(x, one, noise).value

    weights = torch.stack([single(k) for k in range(64)])
    whole = model.log_likelihood(x, Kind("iwae", "≤", 65, (("K", 64),)), Noise("g")).value
    torch.testing.assert_close(whole, weights.logsumexp(0) - math.log(64))
    grouped = [(weights.view(-1, k, len(x)).logsumexp(1) - math.log(k)).mean(0) for k in (1, 2, 8, 64)]
    assert all((b >= a - 1e-9).all() for a, b in pairwise(grouped))


def test_the_training_loss_is_the_negative_elbo_per_dimension():
    model, _, x = linear_vae(0.3, 1.4)
    (update,) = model.updates(Batch(x), 0.9, Noise("same"))
    elbo = model.log_likelihood(x, Kind("elbo", "≤", 2), Noise("same"))
    assert float(update.loss) == pytest.approx(-float(elbo.value.mean()) / 3, rel=1e-6)
    mean, log_sd = model.coder.encode(x, None)
    q, p = torch.distributions.Normal(mean, log_sd.exp()), torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    kl = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(elbo.terms["kl"], kl.sum(1))
    (start,) = model.updates(Batch(x), 0.0, Noise("same"))  # the KL is silent at first
    assert float(start.loss) == pytest.approx(float(start.terms["reconstruction"]) / 3)


def test_vae_samples_have_the_decoders_law():
    model, law, _ = linear_vae()
    n = 40_000
    z = Noise("z").normal(n, 2).double()
    x = model.sample(z, Plan("sample"), Noise("x"))
    cov = law.w @ law.w.T + torch.diag(law.std.square())
    assert (x.mean(0) - law.b).abs().max() < 0.03
    assert (x.T.cov() - cov).abs().max() < 0.06
    torch.testing.assert_close(model.sample(z, Plan("mean"), Noise("x")), z @ law.w.T + law.b)


# ---------------------------------------------------------------------------------------------------- the objectives


class LearnedEncoder(Backbone):
    """mu = A x + a with one learned spread for each latent dimension: what the optimum needs (Lucas et al. 2019)."""

    def __init__(self, dim: int, latent: int) -> None:
        super().__init__()
        self.net, self.log_sd = nn.Linear(dim, latent), nn.Parameter(torch.zeros(latent))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mu = self.net(x)
        return torch.cat([mu, self.log_sd.expand_as(mu)], dim=1)


class LearnedDecoder(Backbone):
    """mean = W z + b, one scale for all coordinates."""

    def __init__(self, dim: int, latent: int) -> None:
        super().__init__()
        self.net, self.log_scale = nn.Linear(latent, dim), nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.net(z)
        return torch.cat([mean, (self.log_scale + 2).expand_as(mean)], dim=1)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["vae", "iwae"])
def test_a_linear_model_trained_by_our_loss_reaches_probabilistic_pca(name):
    """Tipping & Bishop 1999, eqs. 7, 8: the maximum likelihood, by the eigenvalues of the sample covariance."""
    d, q, n = 5, 2, 500
    torch.manual_seed(0)
    x = torch.randn(n, q) @ torch.tensor([[1.5, 0.4, -0.8, 0.0, 0.6], [0.0, 1.0, 0.5, -0.7, 0.2]]) + 0.3
    x = x + 0.4 * torch.randn(n, d)
    off = (x - x.mean(0)).double()
    cov = off.T @ off / n
    eigenvalues, vectors = torch.linalg.eigh(cov)
    noise_var = eigenvalues[: d - q].mean()
    w = vectors[:, d - q :] * (eigenvalues[d - q :] - noise_var).sqrt()
    best = torch.distributions.MultivariateNormal(x.mean(0).double(), w @ w.T + noise_var * torch.eye(d))
    truth = float(best.log_prob(x.double()).mean())

    recipe = catalogue.get(name)
    model = build(recipe, Space((d,)), config=replace(recipe.config, latent=q, lr=2e-2, weight_decay=0.0), shaken=False)
    model.coder.encoder, model.coder.decoder = LearnedEncoder(d, q), LearnedDecoder(d, q)
    optimizers, steps = model.optimizers(), 700
    for k in range(steps):
        for update in model.updates(Batch(x), k / steps, Noise("pca", k)):
            descend(optimizers, update)
    with torch.no_grad():
        net, var = model.coder.decoder.net, float(model.coder.decoder.log_scale.exp()) ** 2
        own = torch.distributions.MultivariateNormal(net.bias, net.weight @ net.weight.T + var * torch.eye(d))
        reached = float(own.log_prob(x).mean())
        elbo = torch.stack([model.log_likelihood(x, vae.ELBO, Noise("e", i)).value for i in range(20)])
    assert truth - 0.01 < reached < truth + 1e-4, "nothing is above the maximum"
    error = 4 * float(elbo.mean(0).std()) / math.sqrt(20 * n)
    assert truth - 0.03 - error < float(elbo.mean()) < reached + error
    assert var == pytest.approx(float(noise_var), rel=0.05)


def written_out(model, x: Tensor, noise: Noise, k: int) -> Tensor:
    """log w (K, B) by torch's distributions, of the draws that the objective takes."""
    normal = torch.distributions.Normal
    mu, log_sd = model.coder.encode(x, None)
    q = normal(mu, log_sd.exp())
    out = []
    for _ in range(k):
        z = mu + log_sd.exp() * noise.normal(*mu.shape)
        mean, log_scale = model.coder.decoder(z, None).chunk(2, dim=1)
        log_px = normal(mean, (log_scale - 2).exp()).log_prob(x).sum(1)
        out.append(log_px + normal(0.0, 1.0).log_prob(z).sum(1) - q.log_prob(z).sum(1))
    return torch.stack(out)


def gradients(loss: Tensor, model) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.coder.parameters()), retain_graph=True))


@pytest.mark.parametrize("k", [1, 4])
def test_the_importance_weighted_gradient_is_that_of_the_paper(k):
    """Burda et al., eq. 13: the gradients of the log weights, in the proportion of the weights."""
    recipe, space = catalogue.get("iwae"), Space((3,))
    model = build(recipe, space, config=replace(recipe.config, K=k, latent=2)).eval()
    x = examples(space, 6).x
    (update,) = model.updates(Batch(x), 0.5, Noise("g"))
    log_w = written_out(model, x, Noise("g"), k)
    share, bound = log_w.detach().softmax(0), log_w.detach().logsumexp(0).mean() - math.log(k)
    mine, theirs = gradients(update.loss, model), gradients(-(share * log_w).sum(0).mean() / 3, model)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert float(update.terms["bound"].detach()) == pytest.approx(float(bound), rel=1e-5)
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(mine, gradients(-log_w.mean() / 3, model))) == (
        k > 1
    )


def test_one_importance_sample_has_the_gradient_of_the_elbo():
    """On the same draw: the decoder's is the same; the encoder's differs by the KL's estimate, and not in the mean."""
    recipe, space = catalogue.get("iwae"), Space((3,))
    model = build(recipe, space, config=replace(recipe.config, K=1, latent=2)).eval()
    elbo = build("vae", space, config=replace(catalogue.get("vae").config, latent=2)).eval()
    elbo.load_state_dict(model.state_dict())
    batch = examples(space, 512)
    pairs = []
    for i in range(40):
        (a,), (b,) = (list(m.updates(batch, 0.9, Noise("d", i))) for m in (model, elbo))
        pairs.append([gradients(a.loss, model), gradients(b.loss, elbo)])
    names = [name for name, _ in model.coder.named_parameters()]
    assert any(name.startswith("decoder") for name in names)
    for j, name in enumerate(names):
        mine, theirs = (torch.stack([pair[side][j] for pair in pairs]) for side in (0, 1))
        if name.startswith("decoder"):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
        else:
            gap = mine - theirs
            z = gap.mean(0) / (gap.std(0) / math.sqrt(len(pairs)) + 1e-8)
            assert float(z.abs().max()) < 6, name  # a t of 39 degrees in some hundred entries: false alarm below 1e-3


def test_the_kls_weight_warms_up():
    recipe, space = catalogue.get("vae"), Space((3,))
    model = build(recipe, space, config=replace(recipe.config, beta=2.0, warm_up=0.9, vector_warm_up=0.4)).eval()
    batch = examples(space, 6)
    for progress, beta in ((0.0, 0.0), (0.1, 0.5), (0.4, 2.0), (0.9, 2.0)):
        (u,) = model.updates(batch, progress, Noise(0))
        expected = (u.terms["reconstruction"] + beta * u.terms["kl"]) / 3
        assert float(u.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_importance_weights_warm_up_as_the_kl_does():
    """At first -log mean p(x | z_k); then the ratio of prior and q comes in, in proportion."""
    recipe, space = catalogue.get("iwae"), Space((3,))
    model = build(recipe, space, config=replace(recipe.config, K=3, warm_up=0.9, vector_warm_up=0.4, latent=2)).eval()
    x = examples(space, 6).x
    mu, log_sd = model.coder.encode(x, None)
    noise = Noise("w")
    z = torch.stack([mu + log_sd.exp() * noise.normal(*mu.shape) for _ in range(3)])
    q, p = torch.distributions.Normal(mu, log_sd.exp()), torch.distributions.Normal(0.0, 1.0)
    ratio = (p.log_prob(z) - q.log_prob(z)).sum(2)
    log_px = torch.stack([model.coder.log_prob(x, one, None) for one in z])
    for progress, beta in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        (u,) = model.updates(Batch(x), progress, Noise("w"))
        expected = -((log_px + beta * ratio).logsumexp(0) - math.log(3)).mean() / 3
        assert float(u.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_importance_samples_share_the_decoders_calls(monkeypatch):
    """Grouped as memory allows: the same bound, and as many rows as the card claims."""
    model, _, x = linear_vae(0.3, 1.4)
    kind = Kind("iwae", "≤", 11, (("K", 10),))
    found = []
    for at_once, calls in ((10**6, 2), (4 * x.numel(), 4), (1, 11)):
        monkeypatch.setattr(vae, "AT_ONCE", at_once)
        with count_calls() as count:
            found.append(model.log_likelihood(x, kind, Noise("g")).value)
        assert count.calls == calls
        assert count.examples == 11 * len(x)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    for K in (0, 1.5, 10**6):
        with pytest.raises(BadInput, match="whole numbers K from 1 to 100,000"):
            replace(vae.BOUNDS[0], options=(("K", K),)).check()


# --------------------------------------------------------------------------------------------------- data with levels


class Wide(Backbone):
    """A posterior that depends on x and is wider than the prior, so that no weight is large."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mu = x.flatten(1)[:, :2]
        return torch.cat([0.2 * mu, torch.full_like(mu, 0.2)], dim=1)


@pytest.mark.parametrize("space", [Space((1, 2, 2), 0, 3), Space((2, 1, 2), 0, 3), Space((4,), 0, 3)], ids=str)
def test_the_masses_of_all_images_sum_to_one(space):
    """E w = p(x): the importance weights of all 81 images add up to one, up to their scatter."""
    recipe = catalogue.get("vae")
    model = build(recipe, space, config=replace(recipe.config, latent=2)).eval()
    model.coder.encoder = Wide()
    k = torch.cartesian_prod(*[torch.arange(3)] * 4).view(81, *space.shape)
    kind, totals = Kind("iwae", "≤", 201, (("K", 200),)), []
    with torch.no_grad():
        for i in range(10):
            totals.append(model.log_likelihood(space.encode(k), kind, Noise("s", i)).value.exp().sum())
    total = torch.stack(totals)
    assert float(total.mean()) == pytest.approx(1, abs=6 * float(total.std()) / math.sqrt(10))
    assert float(total.std()) < 0.05


class Constant(Backbone):
    """A decoder that says the same whatever z is."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.out.expand(len(z), *self.out.shape)


@pytest.mark.parametrize("components", [1, 10])
def test_samples_on_levels_have_the_masses_that_are_scored(components):
    """Chi-square over the levels of each of two pixels, false alarm 1e-4; and the mean is that of the mixture."""
    space, recipe, n = Space((1, 1, 2), 0, 17), catalogue.get("vae"), 20_000
    model = build(recipe, space, config=replace(recipe.config, components=components)).eval()
    out = torch.randn(model.coder.law.shape, generator=torch.Generator().manual_seed(1))
    model.coder.decoder = Constant(out)
    z = model.prior(n, Noise("z"))
    drawn = space.decode(model.sample(z, Plan("sample"), Noise("x"))).long()
    every = space.encode(torch.arange(17))[:, None, None, None].expand(17, 1, 1, 2)
    logits, means, log_scales, _ = lk.split_logistic_mixture(out.expand(17, *out.shape), components, 1)
    mass = lk.discretised_logistic_mixture(every, logits, means, log_scales, 17).exp()
    for pixel in range(2):
        expected = mass[:, 0, pixel].double() * n
        often = expected > 5
        seen = torch.bincount(drawn[:, 0, 0, pixel], minlength=17).double()
        both = [torch.cat([t[often], t[~often].sum()[None]]) + 1e-9 for t in (seen, expected)]
        assert stats.chisquare(
            *(t.numpy() for t in (both[0] / both[0].sum(), both[1] / both[1].sum()))
        ).statistic * n < (stats.chi2.isf(1e-4, len(both[0]) - 1))
    mean = model.sample(z[:3], Plan("mean"), Noise("x"))
    torch.testing.assert_close(mean[:, 0], (logits.softmax(1) * means[:, :, 0]).sum(1)[:3])


# ----------------------------------------------------------------------------------------- options, symptoms, refusals


def test_temperature_multiplies_the_priors_spread():
    space = Space((2,))
    model = build("vae", space).eval()
    z = model.prior(5, Noise("z"))
    for name in ("sample", "mean"):
        warm = model.sample(z, Plan(name, 1, (("temperature", 0.5),)), Noise("x"))
        assert torch.equal(warm, model.sample(0.5 * z, Plan(name), Noise("x")))
        for wrong in (-0.1, 2.1):
            with pytest.raises(BadInput, match="temperature from 0 to 2"):
                model.card.sampler(name).check(Plan(name, 1, (("temperature", wrong),)))


def test_collapse_of_the_posterior_is_counted_and_said():
    space, recipe = Space((1, 4, 4), 0, 17), catalogue.get("vae")
    model = build(recipe, space, config=replace(recipe.config, latent=4)).eval()

    class Told(Backbone):
        """Two dimensions at the prior, one a little off it, one used: KLs 0, 0, 0.005, 0.5."""

        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return torch.tensor([0.0, 0.0, 0.1, 1.0, 0.0, 0.0, 0.0, 0.0]).expand(len(x), 8)

    model.coder.encoder = Told()
    (update,) = model.updates(examples(space, 4), 0.5, Noise(0))
    assert float(update.terms["active"]) == 1
    assert float(update.terms["kl"]) == pytest.approx(0.505)
    said = model.symptom({"active": 0.9})
    assert said is not None
    assert said.startswith("posterior collapse: 3 of 4 latent dimensions carry less than 0.01 nats")
    assert model.symptom({"active": 1.0}) is None
    assert model.symptom({}) is None
    # Two dimensions of data need no sixteen.
    assert build("vae", Space((2,))).symptom({"active": 0.6}) is None


def test_a_latent_far_larger_than_the_data_is_refused():
    recipe = catalogue.get("vae")
    for latent, space, fits in ((64, Space((2,)), True), (65, Space((2,)), False), (257, Space((1, 8, 8)), False)):
        reason = recipe.paradigm.refuses(replace(recipe.config, latent=latent), space)
        assert (reason is None) == fits
        assert reason is None or f"latent of {latent} dimensions for data of {space.dim}" in reason


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("vae", "beta", -0.1), ("vae", "warm_up", 1.5), ("vae", "components", 0), ("iwae", "K", 0), ("iwae", "lr", 0.0)],
)
def test_settings_that_make_no_sense_are_refused(name, key, value):
    with pytest.raises(ValueError, match=key):
        replace(catalogue.get(name).config, **{key: value})


@pytest.mark.parametrize("name", ["vae", "iwae"])
def test_images_and_vectors_are_warmed_up_and_decayed_in_their_own_ways(name):
    for space, decayed in ((Space((2,)), False), (Space((1, 8, 8), 0, 17), True)):
        model = build(catalogue.get(name), space)
        share = model.config.warm_up if decayed else model.config.vector_warm_up
        assert model.warmth(share / 2) == pytest.approx(0.5)
        (optimizer,) = model.optimizers().values()
        assert any(group["weight_decay"] > 0 for group in optimizer.param_groups) == decayed
