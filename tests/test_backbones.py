"""The U-Net of the diffusion family: shapes, derivatives of every kind, its block in closed form; and its speed script."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.lab import unet_speed
from paradigms.backbones import Backbone, count_calls, mark_networks
from paradigms.backbones import build as backbones_build
from paradigms.backbones.blocks import Attention
from paradigms.backbones.build import denoiser
from paradigms.backbones.embed import Embedding
from paradigms.backbones.networks import Networks
from paradigms.backbones.unet import Block, UNet
from paradigms.core.data import Space
from paradigms.errors import BadInput
from paradigms.testing import shake

SPACES = [
    Space((1, 7, 7)),
    Space((1, 8, 8), 10),
    Space((3, 14, 14)),
    Space((1, 9, 13), 3),
    Space((3, 28, 28), 10),
    Space((1, 33, 34)),
    Space((3, 64, 64)),
]


def inputs(space: Space, n: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(space.classes, (n,), generator=generator) if space.classes else None
    return torch.randn(n, *space.shape, generator=generator), torch.rand(n, generator=generator), y


def net_of(space: Space, width: int = 8, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return denoiser(space, width, dropout)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: "x".join(map(str, s.shape)))
def test_the_unet_takes_every_size_starts_at_zero_and_treats_rows_alone(space):
    net, (x, t, y) = net_of(space), inputs(space)
    assert isinstance(net, UNet)
    assert (net(x, t, y) == 0).all()
    out = shake(net)(x, t, y)
    assert out.shape == x.shape
    assert out.std() > 1e-3
    # Every position of the input is seen: at the size where a halving rounds up, too.
    x.requires_grad_()
    (grad,) = torch.autograd.grad(net(x, t, y)[0].square().sum(), x)
    assert (grad[0] != 0).all()
    assert (grad[1:] == 0).all()


def test_every_parameter_gets_a_gradient_in_the_convolutions_own_layout():
    space = Space((3, 28, 28), 10)
    net, (x, t, _) = shake(net_of(space)), inputs(space, 10)
    (net(x, t, torch.arange(10)) - x).square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name
        if p.dim() == 4:
            assert p.is_contiguous(memory_format=torch.channels_last), name


def test_a_block_is_its_formula():
    """Against the whole-example normalisation written as a layer norm over (C, H, W)."""
    torch.manual_seed(0)
    block, x = shake(Block(16, 0.0)), torch.randn(2, 16, 5, 3)
    scale, shift = torch.randn(2, 16, 1, 1), torch.randn(2, 16, 1, 1)
    h = F.layer_norm(F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1), (16, 5, 3))
    h = h * scale + shift
    h = F.conv2d(h * torch.sigmoid(h), block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x, scale, shift), x + h, rtol=1e-5, atol=1e-5)


def test_each_block_is_modulated_by_its_own_part_in_the_order_they_run():
    space = Space((1, 8, 8))
    net, (x, t, _) = shake(net_of(space)), inputs(space)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[1:]))
    net(x, t)
    wanted = net.modulation(net.embed(t))
    assert net.channels == (8, 16, 32, 32, 16, 8, 8)
    at = 0
    for (scale, shift), c in zip(seen, net.channels[:-1], strict=True):
        torch.testing.assert_close(scale.flatten(1), 1 + wanted[:, at : at + c])
        torch.testing.assert_close(shift.flatten(1), wanted[:, sum(net.channels) + at : sum(net.channels) + at + c])
        at += c


def test_the_skips_carry_what_the_lower_levels_do_not():
    space = Space((1, 8, 8))
    net, (x, t, _) = shake(net_of(space)), inputs(space)
    for up in net.up:
        nn.init.zeros_(up.weight)
    assert (net(x, t) - net(-x, t)).abs().max() > 1e-2


def test_attention_agrees_with_torchs():
    torch.manual_seed(0)
    ours, x = shake(Attention(64)), torch.randn(2, 64, 3, 4)
    theirs = nn.MultiheadAttention(64, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight.flatten(1))
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight.flatten(1))
        theirs.out_proj.bias.copy_(ours.out.bias)
    tokens = F.layer_norm(x, x.shape[1:]).flatten(2).transpose(1, 2)
    mixed = theirs(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(ours(x), x + mixed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space", [Space((1, 7, 7), 3), Space((1, 17, 18))], ids=["7x7", "17x18"])
def test_forward_mode_and_second_derivatives(space):
    """What MeanFlow (a Jacobian-vector product, differentiated again) and gradient penalties ask of a network."""
    net, (x, t, y) = shake(net_of(space, width=8)).double(), inputs(space, 2)
    x, t, v = x.double(), t.double(), torch.randn(x.shape, dtype=torch.float64)

    def f(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t, y)

    def along(x: Tensor) -> Tensor:
        return torch.func.jvp(f, (x, t), (v, torch.ones_like(t)))[1]

    def both(h: float) -> Tensor:
        return (f(x + h * v, t + h) - f(x - h * v, t - h)) / (2 * h)

    torch.testing.assert_close(along(x), both(1e-5), rtol=1e-5, atol=1e-6)
    w = torch.randn_like(v)
    space_only = torch.func.jvp(lambda x: f(x, t), (x,), (v,))[1]
    leaf = x.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(f(leaf, t), leaf, w, create_graph=True)
    torch.testing.assert_close((w * space_only).sum(), (pulled * v).sum(), rtol=1e-9, atol=1e-9)

    # w^T H v by reverse over reverse, and by reverse over forward.
    (twice,) = torch.autograd.grad((pulled * v).sum(), leaf)
    leaf = x.clone().requires_grad_()
    (mixed,) = torch.autograd.grad((torch.func.jvp(lambda x: f(x, t), (leaf,), (v,))[1] * w).sum(), leaf)
    torch.testing.assert_close(mixed, twice, rtol=1e-8, atol=1e-10)
    assert twice.abs().max() > 1e-6


def test_the_unet_compiles_whole_and_comes_back_from_its_state():
    space = Space((1, 28, 28), 10)
    net, (x, t, y) = shake(net_of(space)).eval(), inputs(space)
    expected = net(x, t, y)
    traced = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(x, t, y), expected, rtol=1e-5, atol=1e-5)
    other = denoiser(space, 8).eval()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, t, y), expected)


def test_dropout_acts_in_training_alone():
    space = Space((1, 8, 8))
    net, (x, t, _) = shake(net_of(space, dropout=0.5)), inputs(space)
    assert not torch.equal(net(x, t), net(x, t))
    assert torch.equal(net.eval()(x, t), net(x, t))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 14, 14), (1, 28, 28), (3, 64, 64)])
def test_a_width_meets_each_parameter_target_and_more_width_is_never_fewer_parameters(shape):
    counts = []
    with torch.device("meta"):
        for width in range(4, 40):
            net = denoiser(Space(shape, 10), width)
            counts.append(sum(p.numel() for p in net.parameters()))
            assert all(m.out_channels % 8 == 0 for m in net.modules() if isinstance(m, nn.Conv2d) and m is not net.head)
    assert counts == sorted(counts)
    for target in (280_000, 700_000):
        assert min(abs(c / target - 1) for c in counts) < 0.1


def test_a_label_beside_a_time_starts_as_loud_as_the_time():
    torch.manual_seed(0)
    embed = Embedding(256, classes=10)
    assert embed.label.weight.std().item() == pytest.approx(1, abs=0.1)
    assert Embedding(256, classes=10, timed=False).label.weight.std().item() == pytest.approx(0.02, abs=0.002)


# ------------------------------------------------------------------------------------------------------------- speed


def test_layers_alone_are_the_networks_own():
    """As many FLOPs as the network's convolutions and linear layers have, counted by hand."""
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 4, 3, stride=2, padding=1))
    wrapped = nn.Module()
    wrapped.net = net
    wrapped.forward = lambda x, t, y: wrapped.net(x)
    x = torch.randn(5, 2, 8, 8)
    run = unet_speed.layers_alone(wrapped, x, torch.rand(5), None, torch.channels_last)
    with unet_speed.FlopCount() as flops:
        run()
    first, second = 2 * 5 * 9 * 2 * 8 * 64, 2 * 5 * 9 * 8 * 4 * 16
    # The first convolution's input needs no gradient.
    assert flops.total == 2 * first + 3 * second
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.heavy
def test_the_speed_script_prints_its_table_without_the_peer(capsys):
    given = [
        "--alone",
        "--shape",
        "1",
        "8",
        "8",
        "--classes",
        "3",
        "--batch",
        "4",
        "--rounds",
        "2",
        "--params",
        "20000",
    ]
    threads = torch.get_num_threads()
    try:
        assert unet_speed.main(given) == 0
    finally:
        torch.set_num_threads(threads)
    head, rule, row = capsys.readouterr().out.strip().splitlines()[-3:]
    assert head.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| ours, width ")
    share = float(row.split("|")[8].split()[0])
    assert 0 < share < 2


def test_the_speed_script_names_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert unet_speed.main(["--threads", str(torch.get_num_threads())]) == 2
    assert "--alone" in capsys.readouterr().err


def test_learning_lowers_the_loss(tmp_path: Path):
    dataset = unet_speed.datasets.load("digits")
    torch.manual_seed(0)
    net = denoiser(dataset.space, 8)
    before, _ = unet_speed.learn(net, dataset, 0, 64, 2e-3, 0)
    after, spent = unet_speed.learn(net.train(), dataset, 15 * 64, 64, 2e-3, 0)
    assert after < 0.97 * before
    assert spent > 0


def test_a_velocity_towards_the_data_is_near_it():
    """The distance of the learning comparison: the exact velocity of one held-out image each is at the split itself."""
    dataset = unet_speed.datasets.load("digits")
    images, seen = dataset.space.encode(dataset.test.x), []

    class Towards(nn.Module):
        def forward(self, x, t, y):
            # x = (1 - t) image + t eps, so that the way to the image is (x - image) / t at all times but the last.
            first = 200 * (len(seen) // 32)  # calls of a batch
            seen.append(t)
            target = images[torch.arange(first, first + len(x)) % len(images)]
            return (x - target) / t.clamp_min(1e-3).view(-1, 1, 1, 1)

    assert unet_speed.distance(Towards(), dataset, 200, 800) < 0.5
    assert unet_speed.distance(lambda x, t, y: torch.zeros_like(x), dataset, 200, 800) > 10


def test_the_speed_script_takes_another_shape(capsys):
    threads = torch.get_num_threads()
    given = ["--alone", "--shape", "1", "8", "8", "--batch", "2", "--rounds", "1", "--channels", "8", "24"]
    try:
        assert unet_speed.main([*given, "--emb", "16"]) == 0
        small = capsys.readouterr().out.splitlines()[-1].split("|")
        assert unet_speed.main(given) == 0
        usual = capsys.readouterr().out.splitlines()[-1].split("|")
        assert unet_speed.main([*given[:-1], "0"]) == 2
        assert "--channels must be 1 or more" in capsys.readouterr().err
    finally:
        torch.set_num_threads(threads)
    assert small[1].strip() == usual[1].strip() == "ours, width 8"
    own = sum(p.numel() for p in unet_speed.fitted(Space((1, 8, 8)), 0, unet_speed.Shape((8, 24), 16))[0].parameters())
    assert int(small[2].replace(",", "")) == own < int(usual[2].replace(",", ""))


# ------------------------------------------------------------------------------------------------- from elsewhere


class Plain(nn.Module):
    """No `Backbone`: (x, t, y) -> as x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim + 1, dim)

    def forward(self, x, t, y=None):
        return self.linear(torch.cat([x.flatten(1), t[:, None]], 1)).view(x.shape)


def _denoiser(space, width, dropout, outputs, times):
    return Plain(space.dim)


PLAIN = Networks("plain", "a plain module", denoiser=_denoiser, refuses=lambda s: "no image" if s.is_image else None)


def test_a_backbone_of_another_package_is_found_counted_and_refused(monkeypatch):
    monkeypatch.setattr(backbones_build.DOOR.__class__, "known", lambda door: {"plain": PLAIN})
    backbones_build._known.cache_clear()
    try:
        net = denoiser(Space((2,)), 8, backbone="plain")
        with count_calls() as count:
            assert net(torch.zeros(3, 2), torch.zeros(3)).shape == (3, 2)
        assert (count.calls, count.examples) == (1, 3)
        with pytest.raises(BadInput, match="backbone 'plain' is not for such data: no image"):
            denoiser(Space((1, 8, 8)), 8, backbone="plain")
        with pytest.raises(BadInput, match="makes no encoder, only denoiser"):
            backbones_build.encoder(Space((2,)), 1, 8, backbone="plain")
        assert backbones_build.plugin_files({"backbone": "plain"}) == {Path(__file__)}
        assert backbones_build.plugin_files({"inner": {"backbone": "plain"}}) == {Path(__file__)}
        assert not backbones_build.plugin_files({})
    finally:
        backbones_build._known.cache_clear()


def test_any_module_of_a_model_without_backbones_is_counted():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets, self.act = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))]), nn.ReLU()

    model = Model()
    mark_networks(model)
    model = copy.deepcopy(model)  # as averaged weights are
    with count_calls() as count:
        model.act(model.nets[0](torch.zeros(5, 2)))
        model.nets[0](input=torch.zeros(4, 2))
    assert (count.calls, count.examples) == (2, 9)


def test_rows_are_those_of_the_first_tensor_that_has_some():
    class Net(Backbone):
        def forward(self, t, x):
            return x[0]

    with count_calls() as count:
        Net()(t=torch.tensor(0.5), x=[torch.zeros(3, 2)])
        Net()(None, [0.0])
    assert (count.calls, count.examples) == (2, 3)
