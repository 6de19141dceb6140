"""The constants of the recipes from their papers' formulas: times and noise levels, initial weights, optimizers, compositions.

Each is written out from the formula at two data sets, vectors of a wide spread and rows of pixels with few levels: a constant
that forgets the levels or the scale of the data is wrong at one of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paradigms import catalogue
from paradigms.backbones import causal, embed, grid, images, ladder, mlp, resnet, unet
from paradigms.core.data import Data, Pairs, Space
from paradigms.core.noise import Noise
from paradigms.flows import Chain, autoregressive, coupling, dequantise
from paradigms.flows.coupling import Checkerboard, Coupling, Folded
from paradigms.flows.multiscale import MultiScale
from paradigms.hierarchical_vae import TopDown
from paradigms.testing import build
from paradigms.vq_vae import CodePrior

SPREAD, PIXELS = Space((2,)), Space((5,), 0, 17)
BIN = {SPREAD: 0.05, PIXELS: 2 / 17}
DATASETS = pytest.mark.parametrize("space", [SPREAD, PIXELS], ids=["vectors", "pixels"])
MANY = 6000


def data_of(space: Space) -> Data:
    generator = torch.Generator().manual_seed(2)
    if space.levels:
        return Data(torch.randint(space.levels, (300, *space.shape), generator=generator), None, space)
    return Data(7 + 4 * torch.randn(300, *space.shape, generator=generator), None, space)


def model_of(name: str, space: Space, **changes) -> Any:
    recipe = catalogue.get(name)
    return build(recipe, space, 8, shaken=False, config=replace(recipe.config, **changes))


def measured(name: str, space: Space, **changes) -> tuple[Any, float, float]:
    """A model of few steps' parents or itself, prepared; the data's standard deviation and largest distance as it sees them."""
    model, data = model_of(name, space, **changes), data_of(space)
    model.prepare(data, Noise("prepare"))
    drawn = {"edm": 10_000}.get(name, 1000)
    x = data.batch(Noise("prepare").integers(300, drawn)).x
    furthest = max(float((x - row).norm(dim=1).max()) for row in x[:300])
    return model, float(x.std()), max(furthest, float(torch.pdist(x[:1000]).max()))


# ------------------------------------------------------------------------------------------------------ training times


class Recorder(nn.Module):
    """A network that keeps what it is asked at: `seen`, its inputs with their times, and gives zeros."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.zero, self.outputs, self.seen = nn.Parameter(torch.zeros(())), outputs, []

    def forward(self, x: Tensor, clock: Tensor, y: Tensor | None = None) -> Tensor:
        self.seen.append((x, clock))
        return self.zero * torch.cat([x] * self.outputs, dim=1)


def asked(model, space: Space, progress: float = 0.0) -> tuple[Tensor, Tensor]:
    """What the trained network is asked at in a step of MANY examples, all of them 0: inputs and times, float64."""
    model.net = Recorder(2 if getattr(model, "learned", False) else 1)
    x = torch.zeros(MANY, *space.shape)
    batch = Pairs(x, None, torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    list(model.updates(batch, progress, Noise("law", 3)))
    x, clock = model.net.seen[-1]
    return x.double(), clock.double()


def normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def logit_normal(t: Tensor, mean: float, std: float) -> Tensor:
    return normal_cdf((torch.logit(t) - mean) / std)


def distance(values: Tensor, cdf: Callable[[Tensor], Tensor], steps: int = 0) -> float:
    """Kolmogorov and Smirnov's, of values of a continuous law, or of one on the grid k / steps."""
    at = torch.arange(1, steps + 1, dtype=torch.float64) / steps if steps else values.sort()[0]
    share = (
        torch.stack([(values <= one + 1e-7).double().mean() for one in at])
        if steps
        else (torch.arange(MANY) + 0.5) / MANY
    )
    return float((share - cdf(at)).abs().max())


LAST = 1.63 / math.sqrt(MANY)  # a distance exceeded once in a hundred draws; the draws here are fixed


@pytest.mark.parametrize("name", ["ddpm", "ddpm-linear", "ddpm-v", "ddpm-x0", "ddpm-learned"])
def test_a_chain_is_trained_at_each_of_its_thousand_steps(name):
    _, t = asked(model_of(name, SPREAD), SPREAD)
    i = (1000 * t).round()
    torch.testing.assert_close(i / 1000, t, rtol=0, atol=1e-7)
    assert (i.min(), i.max()) == (1, 1000)
    assert distance(t, lambda t: t, 1000) < LAST


@DATASETS
def test_edm_is_trained_at_log_normal_noise_about_the_datas(space):
    model, data, _ = measured("edm", space, sigma_max=60.0, floor=0.1)
    least = 0.1 * BIN[space]
    x, clock = asked(model, space)
    sigma = least * (60 / least) ** clock
    assert distance(sigma, lambda s: normal_cdf((torch.log(s / data) + 0.5) / 1.2)) < LAST
    # Of examples at 0 the network sees c_in sigma eps.
    ratio = x.std(1) if space.dim > 4 else x.abs().mean(1) * math.sqrt(math.pi / 2)
    wanted = sigma / torch.sqrt(sigma**2 + data**2)
    assert float((ratio / wanted).mean()) == pytest.approx(1, abs=0.06)


@DATASETS
def test_ncsn_is_trained_at_each_of_its_levels(space):
    """L geometric levels: the first is the largest distance in the data, the last a part of a bin."""
    model, data, furthest = measured("ncsn", space, L=9, floor=0.4)
    x, clock = asked(model, space)
    assert sorted(set(torch.round(8 * clock).tolist())) == list(range(9))
    assert distance((8 * clock + 1) / 9, lambda t: t, 9) < LAST
    for i in range(9):
        sigma = 0.4 * BIN[space] * (furthest / (0.4 * BIN[space])) ** (i / 8)
        seen = x[(8 * clock).round() == i]
        assert seen.std().item() * math.sqrt(1 + (data / sigma) ** 2) == pytest.approx(
            math.hypot(1, BIN[space] / math.sqrt(12) / sigma if space.levels else 0), rel=0.08
        )


@DATASETS
@pytest.mark.parametrize("name", ["score-sde", "score-sde-subvp", "score-sde-ve", "score-sde-likelihood"])
def test_an_sde_is_trained_at_uniform_angles_or_log_snrs(name, space):
    model, data, furthest = measured(name, space, floor=0.3, beta_min=0.2, beta_max=12.0)
    _, clock = asked(model, space)
    ratio = data * torch.tan(clock * math.pi / 2)
    B, least = (0.2 + 12) / 2, 0.3 * BIN[space]
    most = {"score-sde-ve": furthest, "score-sde-subvp": 2 * math.sinh(B / 2)}.get(name, math.sqrt(math.expm1(B)))
    if name == "score-sde-likelihood":
        low, high = math.log(least), math.log(most)
        assert distance(ratio, lambda r: (r.log() - low) / (high - low)) < LAST
    else:
        low, high = math.atan(least / data), math.atan(most / data)
        assert distance(ratio, lambda r: (torch.atan(r / data) - low) / (high - low)) < LAST
    assert float(ratio.min() / least) == pytest.approx(1, abs=0.4)


TIMES = {
    "uniform": lambda t: t,
    "logit-normal": lambda t: logit_normal(t, 0, 1),
    "skewed": lambda t: logit_normal(t, -1.2, 1.2),
    "u-shaped": lambda t: 0.5 + torch.sinh(4 * (t - 0.5)) / (2 * math.sinh(2)),
}


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", ["flow-matching", "flow-matching-cosine", "ot-flow-matching", "reflow"])
def test_flows_are_trained_at_the_times_that_are_named(name, times):
    _, t = asked(model_of(name, SPREAD, times=times), SPREAD)
    assert distance(t, TIMES[times]) < LAST


@DATASETS
def test_the_path_of_the_vp_sde_ends_at_a_tenth_of_a_bin(space):
    """1 - exp(-B(t)) = (bin / 10)^2, B = 0.1 t + 19.9 t^2 / 2."""
    _, t = asked(model_of("flow-matching-vp", space), space)
    b = -math.log(1 - (0.1 * BIN[space]) ** 2)
    end = (math.sqrt(0.01 + 2 * 19.9 * b) - 0.1) / 19.9
    assert distance(t, lambda t: (t - end) / (1 - end)) < LAST
    assert end < float(t.min()) < end + 10 / MANY


def test_mean_flow_is_trained_at_two_ordered_logit_normal_times():
    model = model_of("mean-flow", SPREAD, same=0.25, P_mean=0.3, P_mean_r=-1.5, P_std=1.1)
    model.derivative = lambda z, *rest: torch.zeros_like(z)
    _, clock = asked(model, SPREAD)
    t, r = 32 * clock[:, 0], 32 * (clock[:, 0] - clock[:, 1])

    def both(t: Tensor) -> tuple[Tensor, Tensor]:
        return logit_normal(t, 0.3, 1.1), logit_normal(t, -1.5, 1.1)

    assert distance(t, lambda t: both(t)[0] * both(t)[1]) < LAST
    moving = 0.75 * MANY
    assert (r < t - 1e-6).sum() == pytest.approx(moving, abs=20)
    small, _ = r[: int(moving)].sort()
    share = (torch.arange(len(small)) + 0.5) / len(small)
    a, b = both(small)
    assert float((share - (1 - (1 - a) * (1 - b))).abs().max()) < LAST / math.sqrt(0.75)


@pytest.mark.parametrize(("progress", "n"), [(0.0, 4), (0.6, 8), (0.67, 16), (1.0, 16)])
def test_consistency_training_has_a_doubling_grid_of_times(progress, n):
    _, t = asked(model_of("consistency-training", SPREAD, steps_start=4, steps_end=16), SPREAD, progress)
    assert distance(t, lambda t: logit_normal(t, -1.1, 2.0), n) < LAST


@pytest.mark.parametrize(("progress", "n"), [(0.0, 4), (0.5, 8), (1.0, 16)])
def test_consistency_distillation_has_an_even_grid_of_times(progress, n):
    _, t = asked(model_of("consistency", SPREAD, steps_start=4, steps_end=16), SPREAD, progress)
    assert float(t.max()) == 1
    assert distance(t, lambda t: t, n) < LAST


@pytest.mark.parametrize(("progress", "n"), [(0.0, 8), (0.4, 4), (0.6, 2), (1.0, 1)])
def test_progressive_distillation_halves_its_grid_of_times(progress, n):
    _, t = asked(model_of("progressive-distillation", SPREAD), SPREAD, progress)
    assert float(t.max()) == 1
    assert distance(t, lambda t: t, n) < LAST


@DATASETS
def test_easy_tuning_is_trained_at_log_normal_noise(space):
    _, t = asked(model_of("easy-consistency", space, P_mean=-0.4, P_std=1.5), space)
    assert distance(t, lambda t: logit_normal(t, -0.4, 1.5)) < LAST


# --------------------------------------------------------------------------------------------------- of the noise levels


@DATASETS
def test_the_constants_of_the_chains(space):
    """alpha_t^2 = prod (1 - beta_i), or the cosine from a part of a bin to alpha_T."""
    i = torch.arange(1, 1001, dtype=torch.float64)
    linear = model_of("ddpm-linear", space, beta_1=2e-4, beta_T=0.03)
    bar = torch.cumprod(1 - (2e-4 + (i - 1) / 999 * (0.03 - 2e-4)), 0)
    torch.testing.assert_close(linear.path.alpha(i / 1000).square(), bar)
    torch.testing.assert_close(linear.path.sigma(i / 1000).square(), 1 - bar)
    cosine = model_of("ddpm", space, first=1.4, last=0.01)
    sigma, alpha = cosine.path.sigma(i / 1000), cosine.path.alpha(i / 1000)
    assert float(sigma[0]) == pytest.approx(1.4 * BIN[space])
    assert float(alpha[-1]) == pytest.approx(0.01)
    angle = torch.atan2(sigma, alpha)
    torch.testing.assert_close(angle.diff(), (angle[-1] - angle[0]).expand(999) / 999)
    data = data_of(space)
    cosine.prepare(data, Noise("prepare"))
    d = cosine.denoiser()
    reach = 1.0 if space.levels else float(data.x.abs().max())
    assert (d.t_min, d.t_max, d.T) == (1 / 1000, 1.0, 1000)
    assert d.reach == pytest.approx(reach)
    assert d.largest == pytest.approx(math.sqrt(1 - 0.01**2))


@DATASETS
@pytest.mark.parametrize("name", ["edm", "ncsn", "score-sde", "score-sde-subvp", "score-sde-ve"])
def test_noise_runs_from_a_part_of_a_bin_to_that_of_the_prior(name, space):
    model, data, furthest = measured(name, space, floor=0.7)
    d, B = model.denoiser(), 20.1 / 2
    ends = torch.tensor([d.t_min, d.t_max], dtype=torch.float64)
    least, most = (d.path.sigma(ends) / d.path.alpha(ends)).tolist()
    assert least == pytest.approx(0.7 * BIN[space])
    wanted = {"edm": 80.0, "score-sde": math.sqrt(1 - math.exp(-B)), "score-sde-subvp": 1 - math.exp(-B)}
    assert d.largest == pytest.approx(wanted.get(name, furthest))
    assert float(model.sigma_data) == pytest.approx(data, rel=1e-5)
    assert d.prediction.sigma_data == pytest.approx(data, rel=1e-5)
    clock = d.clock(torch.tensor([d.t_min, d.t_max])).tolist()
    right = 2 / math.pi
    angles = [right * math.atan(0.7 * BIN[space] / data), right * math.atan(most / data)]
    assert clock == pytest.approx(angles if name.startswith("score") else [0, 1], abs=2e-5)


@DATASETS
def test_easy_tuning_draws_from_the_noise_that_it_was_trained_on(space):
    """98 % of log s ~ N(P_mean, P_std^2) lie below: 2.05 deviations above the mean; EDM's s lie within its ends."""
    for name, t_min in (("easy-consistency", 0.0), ("easy-consistency-edm", 0.25 * BIN[space])):
        model = model_of(name, space, P_mean=-0.4, P_std=1.5)
        assert math.log(model.highest) == pytest.approx(-0.4 + 2.05 * 1.5)
        d = model.denoiser_of(model.net, None)
        assert d.t_min == pytest.approx(t_min / (1 + t_min))


@pytest.mark.parametrize(
    ("shape", "patch", "mults", "folded", "channels"),
    [
        ((1, 8, 8), 2, (1, 2), 1, (8, 16, 32)),
        ((3, 16, 16), 2, (1, 2), 1, (8, 16, 32)),
        ((1, 28, 28), 2, (1, 2, 2), 1, (8, 16, 32, 64)),
        ((3, 32, 32), 2, (1, 2, 2), 1, (8, 16, 32, 64)),
        ((3, 64, 64), 4, (1, 2, 2), 2, (8, 16, 32, 64)),
        ((1, 9, 13), 1, (1, 2), 1, (8, 16, 32)),
    ],
)
def test_the_sizes_of_networks_follow_the_image(shape, patch, mults, folded, channels):
    space = Space(shape)
    assert images.levels(space) == (patch, mults)
    net = images.denoiser(space, 8, 0.0, 1, 1)
    assert net.channels == (*channels, *reversed(channels), channels[0])
    assert net.patch == folded
    assert isinstance(net.attention, nn.Identity) == (shape[1] <= 16)
    assert net.embed.dim == 64


# ---------------------------------------------------------------------------------------------------- initial weights

SMALL = (2, 12, 10)
RESNET = ((1, 2, 2), 2, 2, 3, 0.0)
SILENT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "u-net": (lambda: unet.UNet(2, 3, (8, 16), 2, 3, attend=True), r"blocks.\d.conv2|attention.out|modulation|head"),
    "mlp": (lambda: mlp.MLP(6, 4, 8, 2, True, 3), r"blocks.\d.(emb|w2)|head"),
    "plain mlp": (lambda: mlp.PlainMLP(6, 4, 8, 2, 3), r"blocks.\d.w2"),
    "critic mlp": (lambda: mlp.PlainMLP(6, 4, 8, 2, 3, True), r"blocks.\d.w2|project"),
    "encoder": (lambda: resnet.Encoder(SMALL, 4, 8, *RESNET), r"blocks.\d.\d.(emb|conv2)"),
    "critic": (lambda: resnet.Encoder(SMALL, 1, 8, *RESNET, True), r"blocks.\d.\d.conv2|project"),
    "decoder": (lambda: resnet.Decoder(4, SMALL, 3, 8, *RESNET), r"blocks.\d.\d.(emb|conv2)"),
    "generator": (lambda: resnet.Decoder(4, SMALL, 3, 8, *RESNET, True), r"blocks.\d.\d.conv2"),
    "grid encoder": (lambda: grid.GridEncoder(Space(SMALL, 3), 3, 8, 4), r"(last|blocks.\d).(emb|conv2)"),
    "grid decoder": (lambda: grid.GridDecoder(Space(SMALL, 3), 3, 5, 8, 4, 0.0), r"(first|blocks.\d).(emb|conv2)"),
    "features": (lambda: ladder.BottomUp(SMALL, 8, 2, 3), r"blocks.\d.emb"),
    "ladder": (
        lambda: TopDown(SMALL, 5, 8, 3, 2, 2, 3),
        r"rows.\d.\d.((prior|posterior|after).emb|prior.last)|start|doubles.\d.bias",
    ),
    "transformer": (lambda: causal.CausalTransformer(3, 4, 32, 2, 5, 3), r"head|bias"),
    "code prior": (lambda: CodePrior(7, 4, 8, 3, 2, 0.0), r"head"),
    "masked network": (lambda: autoregressive.MADE(5, torch.arange(5), 9, 2, 4), r"head.*"),
    "conditioner": (lambda: coupling.ImageConditioner(2, 4, 8, 2, 5), r"blocks.\d.(emb|conv2)|head"),
    "dequantisation": (
        lambda: dequantise.Variational((1, 4, 6), 17, 3, 8, 1, 2.0), r"context.blocks.\d.(emb|conv2)|.*net.net.head",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_what_starts_silent_and_nothing_else(name):
    make, silent = SILENT[name]
    zeros = {key for key, p in make().named_parameters() if p.dim() > 1 and not p.any()}
    wanted = {
        key for key, p in make().named_parameters() if p.dim() > 1 and re.fullmatch(silent, key.removesuffix(".weight"))
    }
    assert zeros == wanted
    assert wanted


def he(fan_in: int, negative_slope: float = 0.0) -> float:
    """He et al. 2015, eq. 14: the variance after a rectifier stays as it is."""
    return math.sqrt(2 / ((1 + negative_slope**2) * fan_in))


BIG = (1, 12, 10)  # levels of 12 x 10, 6 x 5, 3 x 3, 2 x 2 and 1: five features, and 2 + 2 + 2 + 1 + 1 levels of z
SPREADS: dict[str, tuple[Callable[[], nn.Module], dict[str, float]]] = {
    "plain": (lambda: resnet.PlainBlock(40, 60, 3), {"conv1.weight": he(360, 0.2) / math.sqrt(3)}),
    "plain in an encoder": (
        lambda: resnet.Encoder(BIG, 1, 32, (1, 2), 3, plain=True), {"blocks.0.1.conv1.weight": he(288, 0.2) / math.sqrt(6)},
    ),
    "plain in a decoder": (
        lambda: resnet.Decoder(4, BIG, 1, 32, (1, 2), 3, plain=True), {"blocks.1.1.conv1.weight": he(288, 0.2) / math.sqrt(6)},
    ),
    "plain mlp": (
        lambda: mlp.PlainMLP(60, 4, 90, 4), {"stem.weight": 60**-0.5, "blocks.2.w1.weight": he(90, 0.2) / 2},
    ),
    "critic mlp": (lambda: mlp.PlainMLP(60, 4, 90, 4, critic=True), {"stem.weight": 3 * 60**-0.5}),
    "features": (
        lambda: ladder.BottomUp(BIG, 80),
        {"blocks.1.first.weight": he(80), "blocks.1.inner.0.weight": he(360), "blocks.1.last.weight": he(40) / math.sqrt(5)},
    ),
    "ladder": (
        lambda: TopDown(BIG, 5, 80, 8, 2),
        {
            "rows.4.0.prior.first.weight": he(80), "rows.4.1.posterior.first.weight": he(160),
            "rows.4.1.posterior.last.weight": he(40), "rows.4.1.after.last.weight": he(40) / math.sqrt(8),
            "rows.4.1.project.weight": (3 * 8) ** -0.5 / math.sqrt(8),  # torch's uniform one, then as `after`
        },
    ),
    "transformer": (lambda: causal.CausalTransformer(3, 4, 64, 1, 40), {"position": 0.5}),
    "code prior": (lambda: CodePrior(90, 80, 40, 0, 1, 0.0), {"code": 0.02, "place": 0.02}),
    "told a time": (lambda: embed.Embedding(90, 40), {"label.weight": 1.0}),
    "told a label alone": (lambda: embed.Embedding(90, 40, timed=False), {"label.weight": 0.02}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPREADS)
def test_how_widely_weights_are_drawn(name):
    torch.manual_seed(0)
    make, spreads = SPREADS[name]
    parameters = dict(make().named_parameters())
    for key, std in spreads.items():
        assert float(parameters[key].detach().std()) == pytest.approx(std, rel=0.06), key
    assert not any(float(p.detach().std()) > 3.2 for p in parameters.values() if p.numel() > 1)


# ---------------------------------------------------------------------------------------------------------- optimizers


def decay_of(name: str, space: Space) -> float:
    """The weight decay of what decays at all, where the settings say 0.07 (0.11 for MAF on images)."""
    if name in ("vae", "iwae", "autoencoder"):
        return 0.07 if space.is_image else 0.0
    if name == "maf" and space.is_image:
        return 0.11
    few_steps = ("consistency", "easy", "progressive", "mean-flow", "gan", "wgan")
    return 0.0 if name.startswith(few_steps) else 0.07


def dropouts_of(name: str, space: Space) -> dict[str, float]:
    """By part of the model its networks' dropout, where the settings say 0.3 (0.2 in the prior of codes)."""
    if name in ("vae", "iwae"):
        return {"coder": 0.3} if space.is_image else {"coder": 0.0}
    if name == "autoencoder":
        return {"coder.encoder": 0.0, "coder.decoder": 0.3} if space.is_image else {"coder": 0.0}
    if name == "vq-vae":
        codec = {"codec.encoder": 0.0, "codec.decoder": 0.3 if space.is_image else 0.0}
        return codec | {"code_prior": 0.2}
    if name == "hvae" or name in FLOWS:
        return {"ladder": 0.3, "flow": 0.3, "dequantiser": 0.0} if space.is_image else {"": 0.0}
    few_steps = ("consistency", "easy", "progressive", "mean-flow", "reflow", "gan", "wgan")
    return {"": 0.0 if name.startswith(few_steps) else 0.3}


NAMES = [name for name in catalogue.recipes() if "equal-total" not in name]
LABELLED = [Space((1, 4, 4), 3, 6), Space((2,), 3)]
FLOWS = ("normalizing-flow", "glow", "glow-variational", "realnvp", "maf")
SAID = {"weight_decay": 0.07, "image_decay": 0.11, "dropout": 0.3, "prior_dropout": 0.2, "lr": 0.013}


def with_said(name: str, space: Space) -> Any:
    """The recipe's model with `SAID` for those of its settings."""
    config = catalogue.get(name).config
    at = config.inner if hasattr(config, "inner") else config
    changes = {key: value for key, value in SAID.items() if hasattr(at, key)}
    space = replace(space, classes=0) if name == "ot-flow-matching" else space
    return model_of(name, space, **({"inner": replace(at, **changes)} if at is not config else changes))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", LABELLED, ids=["pixels", "vectors"])
def test_what_is_optimised_and_how_by_name(name, space):
    """Each trained parameter once; of flows the weights of networks decay, and neither scales, mixings, norms nor biases."""
    model = with_said(name, space)
    config, seen = getattr(model, "inner", model).config, {}
    names = {p: key for key, p in model.named_parameters()}
    for optimizer in model.optimizers().values():
        assert isinstance(optimizer, torch.optim.AdamW)
        for group in optimizer.param_groups:
            betas = (config.beta1, config.beta2) if hasattr(config, "beta1") else (0.9, 0.99)
            assert (group["lr"], group["betas"], group["eps"], group["amsgrad"]) == (0.013, betas, 1e-8, False)
            for p in group["params"]:
                assert names[p] not in seen
                seen[names[p]] = group["weight_decay"]
    decay = decay_of(name.removeprefix("latent-"), space)
    weight = re.compile(r"(?<!norm)(?<!norm1)(?<!norm2)\.(weight|original)$")
    wanted = {
        key: decay if name not in FLOWS or weight.search(key) else 0.0
        for key, p in model.named_parameters()
        if p.requires_grad
    }
    assert seen == wanted
    assert {key.split(".")[0] for key in set(names.values()) - set(seen)} <= {"target", "teacher"}

    dropouts = dropouts_of(name.removeprefix("latent-"), space)
    layers = {key.removeprefix("inner."): m.p for key, m in model.named_modules() if isinstance(m, nn.Dropout)}
    for key, p in layers.items():
        assert p == dropouts[next(part for part in dropouts if key.startswith(part))], key


# --------------------------------------------------------------------------------------------------------- composition


def plan(module: nn.Module) -> str:
    """A transform in letters: Actnorm, Mixing, Reversal, Squeeze, Flattening, a coupling's kept of all, a checkerboard's
    parity and fold, an autoregressive Map; levels in brackets."""
    if isinstance(module, Chain):
        return " ".join(plan(one) for one in module.transforms)
    if isinstance(module, MultiScale):
        return " ".join(f"[{plan(level)}]" for level in module.levels)
    if isinstance(module, Checkerboard):
        fold = module.net.fold if isinstance(module.net, Folded) else 1
        return f"B{int(not module.kept[0, 0])}/{fold}"
    if isinstance(module, Coupling):
        return f"C{module.kept}"
    return {"ActNorm": "A", "Mixing": "M", "Reverse": "R", "Squeeze": "S", "Flatten": "F", "Autoregressive": "Map"}[
        type(module).__name__
    ]


EIGHT = Space((1, 8, 8), 0, 4)
GLOW = "[S A M C2 A M C2] [S A M C4 A M C4]"
REAL = "[A B0/2 A B1/2 A B0/2 S A C2 R A C2 R A C2 R] [A B0/1 A B1/1 A B0/1 A B1/1]"


@pytest.mark.parametrize(
    ("name", "changes", "space", "composed"),
    [
        ("glow", {"steps": 2}, EIGHT, GLOW),
        ("glow-variational", {"steps": 2}, EIGHT, GLOW),
        ("normalizing-flow", {"steps": 2}, EIGHT, GLOW),
        ("glow", {"steps": 2}, Space((5,)), "A M C2 A M C2"),
        ("realnvp", {"steps": 3}, EIGHT, REAL),
        ("realnvp", {"steps": 1}, Space((5,)), "A C2 R A C2 R A C2 R A C2 R"),
        ("maf", {"steps": 2}, EIGHT, "F A Map R A Map R"),
    ],
)
def test_a_flow_is_composed_as_in_its_paper(name, changes, space, composed):
    model = model_of(name, space, **changes)
    assert plan(model.flow.body) == composed
    bounds = {m.map.bound for m in model.modules() if hasattr(m, "map")}
    assert bounds == {3.0 if name == "normalizing-flow" else 2.0}


def test_every_second_block_of_a_tarflow_reads_backwards():
    assert [block.flipped for block in model_of("tarflow", EIGHT, blocks=5).flow.blocks] == [
        False,
        True,
        False,
        True,
        False,
    ]
