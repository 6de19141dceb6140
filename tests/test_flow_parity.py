"""The flows' transforms against zuko's and normflows', given the same parameters: values, log-determinants, inverses."""

from __future__ import annotations

import math

import normflows
import pytest
import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Normal

from paradigms import catalogue
from paradigms.core.data import Space
from paradigms.flows import Chain
from paradigms.flows.autoregressive import MADE, Autoregressive
from paradigms.flows.coupling import Affine, Checkerboard, Coupling, ImageConditioner, Spline, VectorConditioner
from paradigms.flows.linear import ActNorm, Mixing
from paradigms.flows.multiscale import Flatten, Squeeze
from paradigms.flows.spline import _UNIT, rational_quadratic
from paradigms.testing import build, shake

BOUND = 2.0


def same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], atol: float = 1e-5) -> None:
    """Equal values and log-determinants."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=atol)
    torch.testing.assert_close(ours[1].expand(len(ours[0])), theirs[1].expand(len(ours[0])), rtol=1e-5, atol=atol)


@pytest.fixture(autouse=True)
def _no_gradients():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


# ------------------------------------------------------------------------------------------------------- splines


def spline_parameters(n: int, bins: int) -> tuple[Tensor, list[Tensor]]:
    """x inside and outside of [-BOUND, BOUND], and unnormalised widths, heights, derivatives."""
    x = torch.linspace(-1.5 * BOUND, 1.5 * BOUND, n)
    return x, [torch.randn(n, bins), torch.randn(n, bins), torch.randn(n, bins - 1)]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("bins", [2, 8])
def test_the_spline_is_that_of_normflows(bins, inverse):
    """Theirs has no shift of the derivatives, which makes our zero the identity."""
    x, (w, h, d) = spline_parameters(1000, bins)
    theirs = normflows.utils.splines.unconstrained_rational_quadratic_spline(
        x, w.clone(), h.clone(), d + _UNIT, inverse=inverse, tail_bound=BOUND
    )
    ours = rational_quadratic(x, w, h, d, inverse, BOUND)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=1e-4)


def test_the_spline_is_that_of_zuko():
    """Given the same knots and slopes; theirs parametrises them otherwise. In float64, as ours is steep here."""
    x, (w, h, d) = spline_parameters(1000, 6)
    x, w, h, d = x.double(), w.double(), h.double(), d.double()
    transform = zuko.transforms.MonotonicRQSTransform(w, h, d, bound=BOUND)
    knots = [1e-3 + (1 - 6e-3) * a.softmax(-1) for a in (w, h)]
    zero = torch.zeros(len(x), 1).double()
    transform.horizontal, transform.vertical = (BOUND * (2 * torch.cat([zero, a.cumsum(-1)], 1) - 1) for a in knots)
    inner = nn.functional.softplus(d + _UNIT) + 1e-3
    transform.derivatives = torch.cat([zero + 1, inner, zero + 1], dim=1)
    z, log_slope = rational_quadratic(x, w, h, d, bound=BOUND)
    theirs, theirs_log = transform.call_and_ladj(x)
    torch.testing.assert_close(z, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_slope, theirs_log, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(rational_quadratic(z, w, h, d, True, BOUND)[0], transform.inv(z), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------- linear, reshape


def test_actnorm_is_that_of_normflows():
    ours, theirs = shake(ActNorm(3), 0.5), normflows.flows.ActNorm((3, 1, 1))
    theirs.s.copy_(ours.log_scale.view(1, 3, 1, 1))
    theirs.t.copy_(ours.bias.view(1, 3, 1, 1))
    theirs.data_dep_init_done = torch.tensor(1.0)
    x = torch.randn(5, 3, 4, 2)
    same(ours(x), theirs(x))
    torch.testing.assert_close(ours.inverse(x), theirs.inverse(x)[0], rtol=1e-5, atol=1e-5)


def test_actnorms_initialisation_is_that_of_normflows():
    ours, theirs, x = ActNorm(3), normflows.flows.ActNorm((3, 1, 1)), 3 * torch.randn(50, 3, 4, 2) + 1
    ours.initialise(x)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=0, atol=5e-3)  # ours adds 1e-3 to the deviation


@pytest.mark.filterwarnings("ignore::UserWarning")  # normflows calls torch.lu
def test_the_1x1_convolution_is_that_of_normflows():
    """Theirs runs from noise to data: its inverse is our forward."""
    ours, theirs = shake(Mixing(4), 0.3), normflows.flows.Invertible1x1Conv(4, use_lu=True)
    theirs.P.copy_(ours.p)
    theirs.sign_S.copy_(ours.sign)
    theirs.L.copy_(ours.lower)
    theirs.U.copy_(ours.upper)
    theirs.log_S.copy_(ours.log_diagonal)
    x = torch.randn(5, 4, 3, 2)
    same(ours(x), theirs.inverse(x))
    torch.testing.assert_close(ours.inverse(x), theirs(x)[0], rtol=1e-5, atol=1e-5)


def test_the_lu_mixing_is_that_of_zuko():
    """Theirs has the diagonal in L: L U with L = D L' and U = D^-1 U' D', fed with our factors."""
    ours = shake(Mixing(5), 0.3)
    lower, upper = ours.factors()
    diagonal = upper.diagonal()
    transform = zuko.transforms.LULinearTransform(torch.zeros(5, 5))
    transform.L, transform.U = lower * diagonal, upper / diagonal[:, None]
    x = torch.randn(7, 5)
    theirs = transform(x)
    permuted = theirs @ ours.p.T
    same(ours(x), (permuted, transform.log_abs_det_jacobian(x, theirs)))
    torch.testing.assert_close(ours.inverse(permuted), transform.inv(theirs), rtol=1e-4, atol=1e-5)


def test_the_squeeze_is_that_of_normflows():
    x = torch.randn(2, 3, 4, 6)
    theirs, _ = normflows.flows.Squeeze().inverse(x)
    assert torch.equal(Squeeze()(x)[0], theirs)
    assert torch.equal(Squeeze().inverse(theirs), normflows.flows.Squeeze()(theirs)[0])


# ------------------------------------------------------------------------------------------------------- couplings


class Interleaved(nn.Module):
    """Our conditioner with its outputs as normflows reads them: shift and bounded log scale by turns."""

    def __init__(self, net: nn.Module, bound: float) -> None:
        super().__init__()
        self.net, self.bound = net, bound

    def forward(self, x: Tensor) -> Tensor:
        s, m = self.net(x).chunk(2, dim=1)
        return torch.stack([m, self.bound * torch.tanh(s / self.bound)], dim=2).flatten(1, 2)


@pytest.mark.parametrize("images", [False, True])
def test_the_affine_coupling_is_that_of_normflows(images):
    net = ImageConditioner(2, 4, 8, 1) if images else VectorConditioner(2, 4, 8)
    ours = shake(Coupling(net, 2, Affine(BOUND)), 0.3)
    theirs = normflows.flows.AffineCouplingBlock(Interleaved(net, BOUND))
    x = torch.randn(6, 4, *((3, 5) if images else ()))
    z, log_det = ours(x)
    same((z, log_det), theirs(x))
    assert log_det.std() > 0.1
    torch.testing.assert_close(ours.inverse(z), theirs.inverse(z)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parity", [0, 1])
def test_the_checkerboard_is_that_of_normflows(parity):
    """A masked coupling with the mask that its own splitting makes."""
    ours = shake(Checkerboard(ImageConditioner(2, 4, 8, 1), 4, 6, parity, Affine(BOUND)), 0.3)
    # Their split gives the numbers of one colour in order: the mask is where ones went.
    where = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    (first, second), _ = normflows.flows.reshape.Split("checkerboard")(where)
    black = torch.zeros(48).index_fill(0, first.flatten().long(), 1.0).view(2, 4, 6)
    # Their pattern runs through the channels as well; ours is the same in each.
    mask = ours.kept.float().expand(2, 4, 6)
    assert torch.equal(mask[0], black[0] if bool(black[0, 0, 0]) == bool(mask[0, 0, 0]) else 1 - black[0])
    assert first.numel() == second.numel()

    def part(i: int) -> nn.Module:
        class Part(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                s, m = ours.net(x).chunk(2, dim=1)
                return (BOUND * torch.tanh(s / BOUND), m)[i]

        return Part()

    theirs = normflows.flows.MaskedAffineFlow(mask, t=part(1), s=part(0))
    x = torch.randn(5, 2, 4, 6)
    z, log_det = ours(x)
    same((z, log_det), theirs(x))
    torch.testing.assert_close(ours.inverse(z), theirs.inverse(z)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", [Affine(BOUND), Spline(6, BOUND)], ids=["affine", "spline"])
def test_the_coupling_is_that_of_zuko(by):
    net = VectorConditioner(2, 3 * by.size, 8)
    ours, x = shake(Coupling(net, 2, by), 0.1), torch.randn(9, 5)

    def meta(a: Tensor):
        return zuko.transforms.DependentTransform(elementwise(by, net(a)), 1)

    theirs = zuko.transforms.CouplingTransform(meta, torch.tensor([1, 1, 0, 0, 0]).bool())
    z, log_det = ours(x)
    same((z, log_det), theirs.call_and_ladj(x))
    assert log_det.std() > 0.02
    torch.testing.assert_close(ours.inverse(z), theirs.inv(z), rtol=1e-5, atol=1e-5)


def elementwise(by: Affine | Spline, params: Tensor):
    """zuko's elementwise transform with our parameters."""
    if isinstance(by, Affine):
        s, m = params.chunk(2, dim=1)
        transform = zuko.transforms.MonotonicAffineTransform(m, torch.zeros_like(s))
        transform.log_scale, transform.scale = (
            by.bound * torch.tanh(s / by.bound),
            (by.bound * torch.tanh(s / by.bound)).exp(),
        )
        return transform
    w, h, d = params.unflatten(1, (-1, by.size)).split([by.bins, by.bins, by.bins - 1], dim=-1)
    transform = zuko.transforms.MonotonicRQSTransform(w, h, d, bound=by.bound)
    least = 1e-3
    shares = [least + (1 - least * by.bins) * a.softmax(-1) for a in (w, h)]
    pad = nn.functional.pad
    transform.horizontal, transform.vertical = (by.bound * (2 * pad(a.cumsum(-1), (1, 0)) - 1) for a in shares)
    transform.derivatives = pad(nn.functional.softplus(d + _UNIT) + least, (1, 1), value=1.0)
    return transform


# -------------------------------------------------------------------------------------------------- autoregressive


@pytest.mark.parametrize("by", [Affine(BOUND), Spline(6, BOUND)], ids=["affine", "spline"])
def test_the_autoregressive_transform_is_that_of_zuko(by):
    net = MADE(6, by.owner(6), 16)
    ours, x = shake(Autoregressive(net, by), 0.1), torch.randn(9, 6)

    def meta(a: Tensor):
        return zuko.transforms.DependentTransform(elementwise(by, net(a)), 1)

    theirs = zuko.transforms.AutoregressiveTransform(meta, passes=6)
    z, log_det = ours(x)
    same((z, log_det), theirs.call_and_ladj(x))
    assert log_det.std() > 0.02
    torch.testing.assert_close(ours.inverse(z), theirs.inv(z), rtol=1e-5, atol=1e-5)


def test_the_masked_affine_layer_is_that_of_normflows():
    """Theirs makes the scale by a sigmoid; it is handed the logit of ours."""
    net = MADE(5, Affine(1.0).owner(5), 12)
    ours, x = shake(Autoregressive(net, Affine(1.0)), 0.3), torch.randn(7, 5)

    class Theirs(nn.Module):
        def forward(self, a: Tensor, context: Tensor | None = None) -> Tensor:
            s, m = net(a).chunk(2, dim=1)
            # Scales below one, as a sigmoid's are: half of ours.
            scale = 0.3 * torch.tanh(s).exp() - 1e-3
            return torch.stack([torch.logit(scale) - 2, 0.3 * m], dim=2)

    theirs = normflows.flows.MaskedAffineAutoregressive(5, 8)
    theirs.autoregressive_net = Theirs()
    z, log_det = ours(x)
    same((0.3 * z, log_det + 5 * math.log(0.3)), theirs(x))
    torch.testing.assert_close(ours.inverse(z), theirs.inverse(0.3 * z)[0], rtol=1e-4, atol=1e-5)


def test_the_masks_of_a_made_allow_what_zukos_do():
    """Both let output i see exactly the inputs before it."""
    ours = shake(MADE(5, torch.arange(5), 12), 0.5)
    theirs = zuko.nn.MaskedMLP(torch.ones(5, 5).tril(-1).bool(), hidden_features=(12, 12))
    with torch.enable_grad():
        seen = [
            torch.autograd.functional.jacobian(lambda a, net=net: net(a).sum(0), torch.randn(3, 5)).abs().sum(1) > 0
            for net in (ours, theirs)
        ]
    assert torch.equal(*seen)


# ----------------------------------------------------------------------------------------------------- whole flows


@pytest.mark.filterwarnings("ignore::UserWarning")  # normflows calls torch.lu
def test_a_step_of_glow_is_that_of_normflows():
    """Actnorm, 1x1 convolution and coupling of one step, each with our parameters, in a row."""
    net = ImageConditioner(2, 4, 8, 1)
    ours = shake(Chain([ActNorm(4), Mixing(4), Coupling(net, 2, Affine(BOUND))]), 0.2)
    norm, mixing, _ = ours.transforms
    theirs = [normflows.flows.ActNorm((4, 1, 1)), normflows.flows.Invertible1x1Conv(4, use_lu=True)]
    theirs[0].s.copy_(norm.log_scale.view(1, 4, 1, 1))
    theirs[0].t.copy_(norm.bias.view(1, 4, 1, 1))
    theirs[0].data_dep_init_done = torch.tensor(1.0)
    theirs[1].P.copy_(mixing.p)
    theirs[1].sign_S.copy_(mixing.sign)
    theirs[1].L.copy_(mixing.lower)
    theirs[1].U.copy_(mixing.upper)
    theirs[1].log_S.copy_(mixing.log_diagonal)
    x = torch.randn(6, 4, 3, 2)
    z, total = theirs[0](x)
    z, d = theirs[1].inverse(z)
    total = total + d
    z, d = normflows.flows.AffineCouplingBlock(Interleaved(net, BOUND))(z)
    same(ours(x), (z, total + d))


@pytest.mark.parametrize("name", ["realnvp", "glow", "normalizing-flow", "maf"])
def test_the_log_density_of_a_vector_flow_is_that_of_zuko(name):
    """The recipe's flow, each transform in zuko's terms, and zuko's own change of variables."""
    model = shake(build(catalogue.get(name), Space((3,)), shaken=False).eval(), 0.05)
    flow = zuko.distributions.NormalizingFlow(
        zuko.transforms.ComposedTransform(
            *(in_zuko(t) for t in model.flow.body.transforms if not isinstance(t, Flatten))
        ),
        torch.distributions.Independent(Normal(torch.zeros(3), torch.ones(3)), 1),
    )
    x = torch.randn(20, 3)
    ours = model.log_density(x)
    torch.testing.assert_close(ours, flow.log_prob(x), rtol=1e-5, atol=1e-5)
    assert (ours - Normal(0, 1).log_prob(x).sum(1)).abs().max() > 0.1
    z = model.flow(x)[0]
    torch.testing.assert_close(model.invert(z, None), flow.transform.inv(z), rtol=1e-4, atol=1e-5)


def in_zuko(transform: nn.Module):
    """One of our transforms of vectors as one of zuko's."""
    zt = zuko.transforms
    if isinstance(transform, ActNorm):
        made = zt.MonotonicAffineTransform(transform.bias, torch.zeros_like(transform.bias))
        made.log_scale, made.scale = transform.log_scale, transform.log_scale.exp()
        return zt.DependentTransform(made, 1)
    if isinstance(transform, Mixing):
        lower, upper = transform.factors()
        diagonal = upper.diagonal()
        linear = zt.LULinearTransform(torch.zeros(len(lower), len(lower)))
        linear.L, linear.U = lower * diagonal, upper / diagonal[:, None]
        # P moves row j to where its one stands.
        return zt.ComposedTransform(linear, zt.PermutationTransform(transform.p.argmax(1)))
    if isinstance(transform, Coupling):
        mask = torch.arange(3) < transform.kept
        return zt.CouplingTransform(
            lambda a: zt.DependentTransform(elementwise(transform.map, transform.net(a)), 1), mask
        )
    if isinstance(transform, Autoregressive):
        return zt.AutoregressiveTransform(
            lambda a: zt.DependentTransform(elementwise(transform.map, transform.net(a)), 1), passes=3
        )
    return zt.PermutationTransform(torch.tensor([2, 1, 0]))
