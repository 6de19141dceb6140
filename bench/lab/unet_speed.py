"""Our U-Net against diffusers' `UNet2DModel`: `python -m bench.lab.unet_speed [--shape 1 32 32] [--batch 128] [--threads 1]`.

Both have about the same number of parameters, the peer's or --params. A training step is a squared loss, its gradient
and one fused AdamW step. Beside each network its own layers run alone: every convolution and linear layer it calls,
forward and backward on tensors of the same shapes, with nothing between them. `share` is their time as a part of the
whole step's. All are timed in turn (A B C ... A B C ...), the peer and the layers in both memory layouts; a ratio is the
median of each round's (and its quartiles), to the layout with the better median. Times are this process's CPU time on
one thread of a CPU and wall clock elsewhere. Memory is the most that is alive during a step.

With --learn both are trained by flow matching on equal images of a data set instead, and printed are their losses on its
test split and the Frechet distance to it of samples by Heun's method in 16 steps. Ours was shaped on digits: another data
set is the fair question. With --channels (and --emb) ours has these in place of its own, for what another shape costs and
learns. The peer is part of the optional extra `peers`; --alone leaves it out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from bench import data as datasets
from bench.data import Dataset
from bench.features import spaces_for
from bench.flops import FlopCount
from bench.lab.peers import megabytes
from bench.metrics.frechet import frechet_distance
from bench.script import answered
from bench.sharing import alone_on
from paradigms.backbones.build import denoiser
from paradigms.backbones.images import unet
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan
from paradigms.errors import BadInput
from paradigms.maths import samplers
from paradigms.maths.denoiser import Denoiser, Velocity
from paradigms.maths.likelihood import dequantise
from paradigms.maths.paths import LinearPath
from paradigms.optim import cosine

__all__ = ["Peer", "Timed", "compare", "fitted", "layers_alone", "learn", "rounds"]

LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}


class Peer(nn.Module):
    """`UNet2DModel` with one block a level, called as our networks are.

    By default 32, 64 and 64 channels, the lower resolutions without the attention that only its middle has: about 1M
    parameters. Images of up to 16 pixels: 24 and 40 channels, about 0.28M.
    """

    def __init__(self, space: Space, channels: tuple[int, ...] = ()) -> None:
        """channels: of each level in place of the default's, multiples of 8."""
        super().__init__()
        make: Any = import_module("diffusers").UNet2DModel
        channels = channels or ((32, 64, 64) if min(space.shape[1:]) > 16 else (24, 40))
        self.net: nn.Module = make(
            in_channels=space.shape[0],
            out_channels=space.shape[0],
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * len(channels),
            up_block_types=("UpBlock2D",) * len(channels),
            norm_num_groups=8,
            num_class_embeds=space.classes or None,
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, 1000 * t, class_labels=y, return_dict=False)[0]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@dataclass(frozen=True)
class Shape:
    """Of our network, in place of what fits: channels of each level, and numbers of the embedding (0: its default)."""

    channels: tuple[int, ...]
    emb: int


def fitted(space: Space, target: int, shape: Shape | None = None) -> tuple[nn.Module, int]:
    """Our network of the width whose number of parameters is nearest to `target`, or of a shape, and that width."""
    if shape:
        return unet(space, shape.channels, emb=shape.emb), shape.channels[0]
    with torch.device("meta"):
        counts = {width: parameters(denoiser(space, width)) for width in range(4, 129)}
    width = min(counts, key=lambda w: abs(counts[w] - target))
    return denoiser(space, width), width


def training_step(net: nn.Module, x: Tensor, t: Tensor, y: Tensor | None) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (net(x, t, y) - x).square().mean().backward()
        optimizer.step()

    return step


def layers_alone(
    net: nn.Module, x: Tensor, t: Tensor, y: Tensor | None, layout: torch.memory_format
) -> Callable[[], None]:
    """Runs every convolution and linear layer that one call of the network runs: forward, then its gradients.

    Inputs are random, of the recorded shapes; the gradient with respect to an input is asked for where the network's
    own backward pass needs it.
    """
    calls: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        given = torch.randn_like(args[0].detach())
        given = given.to(memory_format=layout) if given.dim() == 4 else given
        calls.append((module, given.requires_grad_(args[0].requires_grad)))

    kinds = (nn.Conv2d, nn.Linear)
    handles = [m.register_forward_pre_hook(record) for m in net.modules() if isinstance(m, kinds)]
    net(x, t, y)
    for handle in handles:
        handle.remove()
    grads = [torch.randn_like(module(given).detach()) for module, given in calls]

    def run() -> None:
        for (module, given), grad in zip(calls, grads):
            inputs = [*module.parameters(), *([given] if given.requires_grad else [])]
            torch.autograd.grad(module(given), inputs, grad)

    return run


@dataclass
class Timed:
    """A piece of work and, of each round, its seconds of wall clock and of this process's CPU."""

    name: str
    work: Callable[[], None]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def once(self, device: torch.device) -> None:
        synchronise(device)
        wall, cpu = time.perf_counter(), time.process_time()
        self.work()
        synchronise(device)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def seconds(self, device: torch.device) -> list[float]:
        """On one CPU thread its own time: other work on the machine hardly moves it."""
        return self.cpu if device.type == "cpu" and torch.get_num_threads() == 1 else self.wall


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(sides: Sequence[Timed], count: int, device: torch.device) -> None:
    """Times the sides in turn, `count` times, after two rounds that are not counted."""
    with alone_on(device):
        for _ in range(2):
            for side in sides:
                side.work()
        for _ in range(count):
            for side in sides:
                side.once(device)


def ratio(a: Sequence[float], b: Sequence[float]) -> str:
    """The median of a / b over the rounds, and its quartiles."""
    values = [x / y for x, y in zip(a, b)]
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def compare(
    space: Space,
    batch: int,
    params: int | None,
    peer: bool,
    count: int,
    device: torch.device,
    shape: Shape | None = None,
) -> Iterator[str]:
    """The lines of the table."""
    networks: dict[str, nn.Module] = {}
    if peer:
        networks = {f"diffusers {name}": Peer(space).to(memory_format=layout) for name, layout in LAYOUTS.items()}  # type: ignore[call-overload]
        params = params or parameters(next(iter(networks.values())))
    ours, width = fitted(space, params or 1_000_000, shape)
    networks = {f"ours, width {width}": ours} | networks
    x, t = torch.randn(batch, *space.shape, device=device), torch.rand(batch, device=device)
    y = torch.randint(space.classes, (batch,), device=device) if space.classes else None

    steps = [Timed(name, training_step(net.to(device), x, t, y)) for name, net in networks.items()]
    layers = [
        [Timed(layout, layers_alone(net, x, t, y, LAYOUTS[layout])) for layout in LAYOUTS] for net in networks.values()
    ]
    rounds([*steps, *(side for both in layers for side in both)], count, device)

    def seconds(side: Timed) -> list[float]:
        return side.seconds(device)

    best = min(steps[1:], key=lambda s: median(seconds(s)), default=None)
    for (name, net), step, both in zip(networks.items(), steps, layers):
        alone = min(both, key=lambda s: median(seconds(s)))
        with FlopCount() as flops:
            step.work()
        yield (
            f"| {name} | {parameters(net):,} | {flops.total / batch / 1e6:.0f} | {batch / median(step.wall):.1f} "
            f"| {batch / median(step.cpu):.1f} | {flops.total / median(seconds(step)) / 1e9:.0f} "
            f"| {flops.total / median(seconds(alone)) / 1e9:.0f} ({alone.name}) | {ratio(seconds(alone), seconds(step))} "
            f"| {megabytes(step.work, device):.0f} | {ratio(seconds(best), seconds(step)) if best else ''} |"
        )


def loss(net: nn.Module, batch: Batch, space: Space, noise: Noise) -> Tensor:
    """Conditional flow matching, as `paradigms.flow_matching`."""
    x = dequantise(batch.x, space.levels, noise)
    eps, t = noise.normal(*x.shape), noise.uniform(len(x))
    at = t.view(-1, *(1,) * len(space.shape))
    return (net((1 - at) * x + at * eps, t, batch.y) - (eps - x)).square().mean()


def learn(net: nn.Module, dataset: Dataset, images: int, batch: int, lr: float, seed: int) -> tuple[float, float]:
    """Trains on so many images; the loss on the test split (up to 1,000 images, eight draws each), and CPU-seconds."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)
    steps, start = images // batch, time.process_time()
    for k in range(steps):
        noise = Noise("train", seed, k)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (k + 1) / 20) * cosine(k / steps)
        optimizer.zero_grad(set_to_none=True)
        examples = dataset.train.batch(noise.integers(len(dataset.train), batch))
        loss(net, examples, dataset.space, noise).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    spent = time.process_time() - start
    held_out = dataset.test.batch(torch.arange(min(1000, len(dataset.test))))
    with torch.no_grad():
        losses = [loss(net.eval(), held_out, dataset.space, Noise("test", k)).item() for k in range(8)]
    return sum(losses) / len(losses), spent


@torch.no_grad()
def distance(net: nn.Module, dataset: Dataset, batch: int = 250, n: int = 2000) -> float:
    """The Frechet distance of n samples to the whole test split, in the data set's own feature space."""
    space, noise, offered = dataset.space, Noise("sample"), samplers.offered(free=True)
    d = Denoiser(net, LinearPath(), Velocity(), lambda t: t, t_min=0.0)
    parts = []
    for first in range(0, n, batch):
        y = dataset.test.batch(torch.arange(first, first + batch) % len(dataset.test)).y
        z = noise.rows(first).normal(batch, *space.shape)
        parts.append(samplers.sample(offered, replace(d, y=y), z, Plan("heun", 16), noise))
    extractor = spaces_for(dataset.name, space)[0]
    fake = extractor.features(space.encode(space.decode(torch.cat(parts))))
    return frechet_distance(fake, extractor.features(space.encode(dataset.test.x))).value


def learned(
    dataset: Dataset,
    images: int,
    batch: int,
    lrs: Sequence[float],
    seeds: Sequence[int],
    params: int | None = None,
    shape: Shape | None = None,
    peer: bool = True,
) -> Iterator[str]:
    """One line a seed, learning rate and network."""
    target = params or (parameters(Peer(dataset.space)) if peer else 1_000_000)
    for seed in seeds:
        for lr in lrs:
            for name in ("ours", "diffusers") if peer else ("ours",):
                torch.manual_seed(seed)
                net = fitted(dataset.space, target, shape)[0] if name == "ours" else Peer(dataset.space)
                value, spent = learn(net, dataset, images, batch, lr, seed)
                shown = f"{value:.4f} | {distance(net, dataset):.3f} | {images / spent:.0f}"
                yield f"| {name} | {parameters(net):,} | {seed} | {lr:g} | {shown} |"


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.unet_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 32, 32], metavar=("C", "H", "W"))
    parser.add_argument("--classes", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--params", type=int, help="of our network; default: as many as the peer has")
    parser.add_argument("--channels", type=int, nargs="+", help="of our network's levels")
    parser.add_argument("--emb", type=int, default=0, help="with --channels: numbers of its embedding")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument("--learn", metavar="DATASET", help="compare the losses after equal images instead")
    parser.add_argument("--from", dest="source", type=Path, help="folder with the data set's files")
    parser.add_argument("--images", type=int, default=20_000, help="with --learn: training images")
    parser.add_argument("--lr", type=float, nargs="+", default=[2e-3], help="with --learn: peak learning rates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="with --learn: seeds")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device(given.device)
    shape = Shape(tuple(given.channels), given.emb) if given.channels else None
    if given.emb < 0 or (shape and min(shape.channels) < 1):
        raise BadInput("--channels must be 1 or more, --emb 0 or more")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {given.threads} thread(s)"
    print(f"torch {torch.__version__}, {name}, batch {given.batch}\n")
    try:
        if given.learn:
            dataset = datasets.load(given.learn, given.source)
            lines = learned(
                dataset, given.images, given.batch, given.lr, given.seeds, given.params, shape, not given.alone
            )
            head = "network | parameters | seed | lr | test loss | FD | images per CPU-second"
        else:
            space = Space(tuple(given.shape), given.classes, 256)
            lines = compare(space, given.batch, given.params, not given.alone, given.rounds, device, shape)
            head = (
                "network | parameters | MFLOP/image | images/s | images/CPU-s | GFLOP/s | layers alone, GFLOP/s "
                "| share | MB | faster than the peer"
            )
        print(f"| {head} |\n|{' --- |' * head.count('|')} --- |", flush=True)
        for line in lines:
            print(line, flush=True)
    except ImportError as error:
        raise BadInput(f"{error}; install the peer: pip install -e '.[peers]', or use --alone") from None


if __name__ == "__main__":
    sys.exit(main())
