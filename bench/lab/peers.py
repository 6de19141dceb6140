"""Our flow transforms against the libraries people use: `python -m bench.lab.peers [--seconds 4] [--threads 1] [--device cpu]`.

Each pair is one stack of transforms at equal shapes around *the same conditioner network*, so that what differs is the
transforms themselves: a Glow step (actnorm, 1x1 convolution by L U, affine coupling) and a rational-quadratic coupling
on images and on vectors, a masked autoregressive flow, and the bare spline. A training step is the loss, its gradient
and one fused AdamW step; sampling is the pass from noise to data. Both sides are timed in turn (A B A B ...); medians
and quartiles of milliseconds; memory is the largest number of bytes alive during a training step. The peers are the
optional extra `peers`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.measure import LiveBytes
from bench.script import answered
from bench.sharing import alone_on
from paradigms.errors import BadInput
from paradigms.flows import Chain, Transform
from paradigms.flows.autoregressive import MADE, Autoregressive
from paradigms.flows.coupling import Affine, Coupling, Spline
from paradigms.flows.linear import ActNorm, Mixing, Reverse
from paradigms.flows.spline import rational_quadratic
from paradigms.maths.likelihood import standard_normal_log_prob

__all__ = ["Pair", "Side", "compare", "pairs"]

BINS, BOUND = 8, 3.0


@dataclass(frozen=True)
class Side:
    """One implementation. loss(x): the mean negative log density; draw(z): noise to data."""

    name: str
    module: nn.Module
    loss: Callable[[Tensor], Tensor]
    draw: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """Two implementations of one thing, timed on inputs of one shape (B, ...)."""

    title: str
    shape: tuple[int, ...]
    ours: Side
    peer: Side


# ---------------------------------------------------------------------------------------------------- conditioners


class Convolutions(nn.Module):
    """3x3 - 1x1 - 3x3 convolutions, the last at zero, as Glow has: the conditioner of both sides."""

    def __init__(self, cin: int, cout: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(cin, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, cout, 3, padding=1),
        )
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(x)


class Dense(nn.Module):
    """Two hidden layers: the conditioner of both sides on vectors."""

    def __init__(self, din: int, dout: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(din, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dout)
        )

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.net(x)


# ----------------------------------------------------------------------------------------------------------- sides


def ours(transforms: list[Transform], last: bool = False) -> Side:
    chain = Chain(transforms)
    if last:
        chain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(x: Tensor) -> Tensor:
        z, log_det = chain(x)
        return -(standard_normal_log_prob(z.flatten(1)) + log_det).mean()

    return Side("ours", chain, loss, lambda z: chain.inverse(z))


def nflows_stack(transforms: list[nn.Module]) -> Side:
    """nflows: forward(x) -> (z, log det), inverse(z) -> (x, log det)."""
    from nflows.transforms import CompositeTransform

    stack = CompositeTransform(transforms)

    def loss(x: Tensor) -> Tensor:
        z, log_det = stack(x)
        return -(standard_normal_log_prob(z.flatten(1)) + log_det).mean()

    return Side("nflows", stack, loss, lambda z: stack.inverse(z)[0])


def normflows_stack(flows: list[nn.Module]) -> Side:
    """normflows: the other way round, forward(z) -> (x, log det), inverse(x) -> (z, log det)."""
    stack = nn.ModuleList(flows)

    def loss(x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for flow in reversed(stack):
            x, log_det = flow.inverse(x)  # type: ignore[operator]
            total = total + log_det
        return -(standard_normal_log_prob(x.flatten(1)) + total).mean()

    def draw(z: Tensor) -> Tensor:
        for flow in stack:
            z, _ = flow(z)
        return z

    return Side("normflows", stack, loss, draw)


def zuko_flow(flow: nn.Module) -> Side:
    return Side("zuko", flow, lambda x: -flow().log_prob(x).mean(), lambda z: flow().transform.inv(z))


# ----------------------------------------------------------------------------------------------------------- pairs


def pairs() -> Iterator[Pair]:
    """Every comparison, built when it is reached."""
    import nflows.transforms as nt
    import normflows as nf
    import zuko

    shape, steps, width = (64, 12, 16, 16), 8, 64
    channels = shape[1]
    yield Pair(
        f"Glow steps, {steps} of width {width}",
        shape,
        ours(
            [
                t
                for _ in range(steps)
                for t in (
                    ActNorm(channels),
                    Mixing(channels),
                    Coupling(Convolutions(channels // 2, channels, width), channels // 2, Affine(2.0)),
                )
            ],
            last=True,
        ),
        normflows_stack(
            [
                flow
                for _ in range(steps)
                for flow in (
                    nf.flows.AffineCouplingBlock(Convolutions(channels // 2, channels, width), True, "exp", "channel"),
                    nf.flows.Invertible1x1Conv(channels, use_lu=True),
                    nf.flows.ActNorm((channels, 1, 1)),
                )
            ]
        ),
    )

    def wanted(dim: int) -> int:
        return (3 * BINS - 1) * dim

    half = [i % 2 for i in range(channels)]
    yield Pair(
        f"spline couplings on images, 4 of width {width}",
        shape,
        ours(
            [
                t
                for _ in range(4)
                for t in (
                    Coupling(
                        Convolutions(channels // 2, wanted(channels // 2), width), channels // 2, Spline(BINS, BOUND)
                    ),
                    Reverse(),
                )
            ],
            last=True,
        ),
        nflows_stack(
            [
                nt.PiecewiseRationalQuadraticCouplingTransform(
                    [(bit + i) % 2 for bit in half],
                    lambda cin, cout: Convolutions(cin, cout, width),
                    num_bins=BINS,
                    tails="linear",
                    tail_bound=BOUND,
                )
                for i in range(4)
            ]
        ),
    )

    vectors, layers, hidden = (512, 16), 5, 128
    dim = vectors[1]

    def spline_couplings() -> Side:
        return ours(
            [
                t
                for _ in range(layers)
                for t in (Coupling(Dense(dim // 2, wanted(dim // 2), hidden), dim // 2, Spline(BINS, BOUND)), Reverse())
            ]
        )

    yield Pair(
        f"spline couplings on vectors, {layers} of width {hidden}",
        vectors,
        spline_couplings(),
        nflows_stack(
            [
                nt.PiecewiseRationalQuadraticCouplingTransform(
                    [(bit + i) % 2 for bit in range(dim)],
                    lambda din, dout: Dense(din, dout, hidden),
                    num_bins=BINS,
                    tails="linear",
                    tail_bound=BOUND,
                )
                for i in range(layers)
            ]
        ),
    )
    yield Pair(
        f"spline couplings on vectors, {layers} of width {hidden}",
        vectors,
        spline_couplings(),
        zuko_flow(zuko.flows.NSF(dim, bins=BINS, transforms=layers, passes=2, hidden_features=(hidden, hidden))),
    )
    for peer in (
        nflows_stack(
            [
                nt.MaskedAffineAutoregressiveTransform(
                    dim, hidden, num_blocks=1, use_residual_blocks=True, activation=nn.functional.silu
                )
                for _ in range(layers)
            ]
        ),
        zuko_flow(zuko.flows.MAF(dim, transforms=layers, hidden_features=(hidden, hidden, hidden), activation=nn.SiLU)),
    ):
        affine = Affine(2.0)
        transforms: list[Transform] = []
        for _ in range(layers):
            transforms += [Autoregressive(MADE(dim, affine.owner(dim), hidden), affine), Reverse()]
        yield Pair(f"masked autoregressive, {layers} of width {hidden}", vectors, ours(transforms), peer)


class Splines(nn.Module):
    """One spline for each of n numbers, as parameters."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.w, self.h = nn.Parameter(torch.randn(n, BINS)), nn.Parameter(torch.randn(n, BINS))
        self.d = nn.Parameter(torch.randn(n, BINS - 1))


def bare_splines(n: int = 2**16) -> Iterator[Pair]:
    """The spline alone, on n numbers with a spline each."""
    from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline as nflows_spline
    from zuko.transforms import MonotonicRQSTransform

    def side(name: str, apply: Callable[[Splines, Tensor, bool], tuple[Tensor, Tensor]]) -> Side:
        splines = Splines(n)
        return Side(
            name,
            splines,
            lambda x: -sum(part.mean() for part in apply(splines, x, False)),  # type: ignore[arg-type, return-value]
            lambda z: apply(splines, z, True)[0],
        )

    def zuko_spline(s: Splines, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        transform = MonotonicRQSTransform(s.w, s.h, s.d, bound=BOUND)
        return transform.inv.call_and_ladj(x) if inverse else transform.call_and_ladj(x)

    peers = {
        "nflows": lambda s, x, inverse: nflows_spline(x, s.w, s.h, s.d, inverse, tail_bound=BOUND),
        "zuko": zuko_spline,
    }
    for name, apply in peers.items():
        mine = side("ours", lambda s, x, inverse: rational_quadratic(x, s.w, s.h, s.d, inverse, BOUND))
        yield Pair(f"rational-quadratic spline, {BINS} bins", (n,), mine, side(name, apply))


# ---------------------------------------------------------------------------------------------------------- timing


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, in milliseconds."""
    q = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    low, middle, high = (1e3 * q).tolist()
    return low, middle, high


def compare(
    a: Callable[[], None], b: Callable[[], None], seconds: float, device: torch.device
) -> tuple[list[float], ...]:
    """Seconds of each round of a and of b, in turn, for about `seconds` in all and at least five rounds."""
    # On one CPU thread its own time: other work on the machine hardly moves it.
    now = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def clock(work: Callable[[], None]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = now()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return now() - start

    times: tuple[list[float], list[float]] = ([], [])
    with alone_on(device):
        for work in (a, b, a, b):
            work()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[0]) < 5:
            for work, into in zip((a, b), times):
                into.append(clock(work))
    return times


def training_step(side: Side, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(side.module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        side.loss(x).backward()
        optimizer.step()

    return step


def sampling(side: Side, z: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def draw() -> None:
        side.draw(z)

    return draw


def megabytes(work: Callable[[], None], device: torch.device) -> float:
    """The most memory alive during one call, in 10^6 bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with LiveBytes() as live:
        work()
    return live.peak / 1e6


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each comparison")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {given.threads} thread(s)"
    name += " (its CPU time)" if device.type == "cpu" and given.threads == 1 else ""
    print(f"torch {torch.__version__}, {name}; median (quartiles) in milliseconds, ours and the peer in turn\n")
    print("| what | shape | pass | ours | peer | ms | faster | MB ours | MB peer |")
    print("| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: |")
    torch.manual_seed(0)
    try:
        for pair in (*pairs(), *bare_splines()):
            x = torch.randn(pair.shape).to(device)
            for side in (pair.ours, pair.peer):
                side.module.to(device)
            for what, make in (("training step", training_step), ("sampling", sampling)):
                mine, theirs = make(pair.ours, x), make(pair.peer, x)
                a, b = (quartiles(t) for t in compare(mine, theirs, given.seconds, device))
                held = [f"{megabytes(work, device):.1f}" for work in (mine, theirs)]
                print(
                    f"| {pair.title} | {'x'.join(map(str, pair.shape))} | {what} "
                    f"| {a[1]:.2f} ({a[0]:.2f}–{a[2]:.2f}) | {pair.peer.name} | {b[1]:.2f} ({b[0]:.2f}–{b[2]:.2f}) "
                    f"| {b[1] / a[1]:.2f}x | {held[0]} | {held[1]} |",
                    flush=True,
                )
    except ImportError as error:
        raise BadInput(f"{error}; install the peers: pip install -e '.[peers]'") from None


if __name__ == "__main__":
    sys.exit(main())
