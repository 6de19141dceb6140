"""Is the suite right and fast on this GPU? `python -m bench.gpu_check [--device cuda] [--steps 1-9] [--to FOLDER]`.

Eleven steps, each of which survives the failure of another:

     1  card         versions; what the card does: products in bf16, TF32 and fp32, copies
     2  recipes      every recipe: prepare, three training steps, a sample, a likelihood
     3  agreement    loss, gradient, sample and log p of every recipe on the CPU and on the card at equal noise
     4  oracles      densities, inverses and samplers against closed forms
     5  resume       a training stopped and taken up again: are the bits equal, and what does that cost
     6  speed        a training step of small and large U-Nets by precision and batch, as a part of what the card does;
                     and beside diffusers' UNet2DModel, where that is installed
     7  profile      launches of a step, and the part of it that the card is busy
     8  samplers     latency, throughput, and what a sampler costs beyond its network
     9  metrics      features and distances on the card against the CPU: how equal, how much faster
    10  table        `bench all` at the tier gpu-minute: every paradigm, scored, with its report
    11  run          a denoiser at the tier gpu, with its distance at a quarter, half and the end

Prints a line for each result as it comes, and keeps all of them as gpu_check.jsonl and gpu_check.md in the folder.
`--device cpu` is the dry run: the same code at tiny sizes, in about a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import arithmetic, features, flops, metrics, runs, tiers
from bench.features import FeatureSpace
from bench.lab import unet_speed
from bench.lab.overhead import overhead
from bench.loop import Loop, seeded
from bench.measure import Timed
from bench.script import answered
from bench.sharing import alone_on
from bench.store import write_atomic
from paradigms import catalogue
from paradigms.backbones import Backbone
from paradigms.contract import Frozen, Paradigm, Trainable
from paradigms.core.data import Data, Space
from paradigms.core.noise import BLOCKS, Noise
from paradigms.core.plans import Kind, Plan
from paradigms.errors import BadInput
from paradigms.maths import bounds, samplers
from paradigms.maths.denoiser import Denoiser, Velocity
from paradigms.maths.paths import LinearPath

__all__ = ["STEPS", "main"]

DIGITS = Space((1, 8, 8), 0, 17)
CIFAR = Space((3, 32, 32), 0, 256)


@dataclass
class Check:
    """The device, the sizes (large on a card, tiny in the dry run), and what was found so far."""

    device: torch.device
    large: bool
    dataset: str
    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0

    def say(self, name: str, value: object, unit: str = "", ok: bool | None = None) -> None:
        """A result. ok: whether it is as it should be, where that is known."""
        row = {"step": self.step, "name": name, "value": value, "unit": unit, "ok": ok}
        self.rows.append(row)
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(
            f"{self.step:2d}  {name:58s} {shown} {unit}{'' if ok is None else '  ok' if ok else '  FAILED'}", flush=True
        )

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """The quickest of several times, everything asked of the device having ended."""
        work()
        found = []
        for _ in range(repeats if self.large else 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return min(found)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


# ------------------------------------------------------------------------------------------------------- the models


class Same(Noise):
    """Draws on the CPU, whatever the device: equal numbers on both sides."""

    def __init__(self, *coords: object, first: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(*coords, first=first)
        self.goal = torch.device(device)

    def rows(self, first: int) -> Noise:
        return Same(*self.coords, first=first, device=self.goal)

    def at(self, *coords: object) -> Noise:
        return Same(*self.coords, *coords, first=self.first, device=self.goal)

    def _draw(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        return super()._draw(shape, draw).to(self.goal)


def shaken(name: str, space: Space, device: torch.device, width: int = 8) -> Trainable:
    """A narrow model whose weights moved a little, so that branches which start silent speak; its parents likewise."""
    recipe = catalogue.get(name)
    parents = {role: Frozen(shaken(need.recipe, space, device, width), 400) for role, need in recipe.needs.items()}
    with seeded(0, torch.device("cpu")):
        model = recipe.build(space, width, parents).to(device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_((0.1 * torch.randn(p.shape, generator=generator)).to(device))
    return model


def noise_images(space: Space, n: int, device: torch.device, seed: int = 1) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(space.levels, (n, *space.shape), generator=generator, dtype=torch.uint8)
    return Data(x, None, space).to(device)


def few(kind: Kind) -> Kind:
    """The same at few steps, where it takes steps."""
    most: Mapping[str, float] = {"steps": 4, "probes": 1, "terms": 4}
    options = ((n, min(v, most[n]) if n in most and not isinstance(v, str) else v) for n, v in kind.options)
    return dataclasses.replace(kind, options=tuple(options))


def names(check: Check) -> list[str]:
    """Every recipe that models small images; first those differentiated forward, which no test without a card can run.

    In the dry run one of each class, which compute alike.
    """
    every = {n: r.paradigm for n, r in catalogue.recipes().items() if r.paradigm.refuses(r.config, DIGITS) is None}
    if not check.large:
        first = {paradigm: name for name, paradigm in reversed(every.items())}
        every = {name: paradigm for name, paradigm in every.items() if first[paradigm] == name}
    return sorted(every, key=lambda name: "*" not in every[name].eager)


def one_denoiser() -> str:
    """A row of the comparison that tells data from noise by one network, stands on no other run and samples in few steps."""
    known = catalogue.recipes()
    rows = {name: known[name] for name in catalogue.rows()}
    found = [name for name, row in rows.items() if hasattr(row.paradigm, "denoiser") and not row.needs]
    return min(found, key=lambda name: rows[name].paradigm.card.default.steps)  # type: ignore[attr-defined]


def each(check: Check, work: Callable[[str], object], some: Sequence[str]) -> list[str]:
    """Does it for some recipes; those that failed, each with a line."""
    bad = []
    for name in some:
        try:
            work(name)
        except Exception as error:
            bad.append(name)
            check.say(name, f"{type(error).__name__}: {str(error).splitlines()[0][:140]}", ok=False)
    return bad


# --------------------------------------------------------------------------------------------------------- steps 1-5


def card(check: Check) -> None:
    """Versions, and the ceilings that later steps are parts of."""
    check.say("torch", torch.__version__)
    check.say("device", runs.environment(check.device, 1)["device_name"])
    if check.device.type == "cuda":
        found = torch.cuda.get_device_properties(check.device)
        check.say("memory", found.total_memory / 2**30, "GiB")
        check.say("multiprocessors", found.multi_processor_count)
    n = 8192 if check.large else 256
    kinds = (("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32))
    for precision, dtype in kinds:
        if precision == "tf32" and check.device.type != "cuda":
            continue
        a, b = (torch.randn(n, n, device=check.device, dtype=dtype) for _ in range(2))
        with arithmetic.computing("tf32" if precision == "tf32" else "fp32", check.device):
            spent = check.seconds(partial(torch.mm, a, b))
        check.say(f"product {n}, {precision}", 2 * n**3 / spent / 1e12, "TFLOP/s")
    a = torch.empty(2**28 if check.large else 2**20, device=check.device)
    check.say("copied and written", 8 * len(a) / check.seconds(lambda: a.clone()) / 1e9, "GB/s")


def recipes(check: Check) -> None:
    """Every recipe runs."""

    def one(name: str) -> None:
        model = shaken(name, DIGITS, check.device)
        data = model.prepare(noise_images(DIGITS, 64, check.device), Noise("prepare", device=check.device))
        loop = Loop(model, data, 10, 3, ("check", name, 0))
        for k in range(3):
            loop.step(k)
        loop.settle()
        if not all(math.isfinite(v) for v in loop.means().values()):
            raise RuntimeError("the log holds a number that is not finite")
        model.eval()
        if isinstance(model, Paradigm):
            samples_and_likelihood(model, check.device)

    bad = each(check, one, names(check))
    check.say("recipes that run", f"{len(names(check)) - len(bad)} of {len(names(check))}", ok=not bad)


@torch.no_grad()
def samples_and_likelihood(model: Paradigm, device: torch.device, noise: type[Noise] = Noise) -> dict[str, Tensor]:
    plan = model.card.default
    plan = dataclasses.replace(plan, steps=min(8, plan.steps))
    z = model.prior(8, noise("z", device=device))
    found = {f"sample by {plan}": model.sample(z, plan, noise("s", device=device))}
    for kind in map(few, model.card.likelihoods_on(DIGITS)[:1]):
        x = noise_images(DIGITS, 64, device).batch(torch.arange(8, device=device)).x
        found[f"log p, {kind.name}"] = model.log_likelihood(x, kind, noise("l", device=device)).value
    return found


def answers(name: str, device: torch.device) -> dict[str, Tensor]:
    """What a recipe computes of a batch, at noise that is the same on every device."""
    model = shaken(name, DIGITS, device).eval()  # no dropout: its generators differ
    data = model.prepare(noise_images(DIGITS, 64, device), Same("prepare", device=device))
    batch, found = data.batch(torch.arange(8, device=device)), dict[str, Tensor]()
    optimizers = model.optimizers()
    for i, update in enumerate(model.updates(batch, 0.3, Same("step", device=device))):
        held = [p for group in optimizers[update.module].param_groups for p in group["params"]]
        gradients = torch.autograd.grad(update.loss, held, allow_unused=True)
        found[f"loss {i}"] = update.loss.detach()
        found[f"gradient {i}"] = torch.cat([g.flatten() for g in gradients if g is not None])
    if isinstance(model, Paradigm):
        found |= samples_and_likelihood(model, device, Same)
    return {key: value.detach().double().cpu() for key, value in found.items()}


def agreement(check: Check) -> None:
    """The CPU and the card at equal noise: relative errors of the vectors."""
    worst: list[float] = []

    def one(name: str) -> None:
        here, there = answers(name, torch.device("cpu")), answers(name, check.device)
        off = {k: float((here[k] - there[k]).norm() / here[k].norm().clamp_min(1e-12)) for k in here}
        key = max(off, key=lambda k: off[k])
        worst.append(off[key])
        check.say(f"{name}: {key}", off[key], ok=off[key] <= 1e-4)

    each(check, one, names(check) if check.large else catalogue.rows())  # in the dry run both sides are the CPU
    check.say("largest relative difference", max(worst, default=math.nan), ok=max(worst, default=1.0) <= 1e-4)


class GaussianVelocity(nn.Module):
    """The exact velocity field of data N(0, s^2 I) on the linear path: E[eps - x0 | x_t]."""

    S = 0.6

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        t = t[:, None]
        return x * (t - (1 - t) * self.S**2) / ((1 - t).square() * self.S**2 + t.square())


def oracles(check: Check) -> None:
    """Closed forms, in fp32 on the device."""
    device, s, space = check.device, GaussianVelocity.S, Space((2,))
    d = Denoiser(GaussianVelocity(), LinearPath(), Velocity(), lambda t: t, 0.0)
    x = s * Noise("x", device=device).normal(64, 2)
    ode = next(kind for kind in bounds.kinds() if kind.name == "ode")
    kind = dataclasses.replace(ode, options=(("steps", 200), ("probes", 0), ("method", "rk4")))
    true = -0.5 * (x / s).square().sum(1) - 2 * math.log(s) - math.log(2 * math.pi)
    with torch.no_grad():
        found = bounds.log_likelihood(d, x, space, kind, Noise("l", device=device)).value
    off = float((found - true).abs().max())
    check.say("density of a Gaussian by the ODE", off, "nats off", ok=off < 1e-3)
    offered, z = samplers.offered(free=True), Noise("z", device=device).normal(64, 2)
    ends = {}
    with torch.no_grad():
        tight = (("rtol", 1e-6), ("atol", 1e-6))
        for plan in (
            Plan("rk45", 1, tight),
            Plan("heun", 200),
            Plan("euler", 50, (("on", "linear"),)),
            Plan("ddim", 50),
        ):
            ends[plan.sampler] = samplers.sample(offered, d, z, plan, Noise("s", device=device))
    for name, bar in (("rk45", 5e-4), ("heun", 1e-3)):
        off = float((ends[name] - s * z).abs().max())
        check.say(f"{name}: where the flow of a Gaussian ends", off, "off", ok=off < bar)
    off = float((ends["ddim"] - ends["euler"]).abs().max())
    check.say("DDIM less Euler's method on the linear path", off, ok=off < 1e-4)
    known = catalogue.recipes()
    for name in names(check):
        if hasattr(known[name].paradigm, "invert"):
            here, there = (inverse_error(name, where) for where in (torch.device("cpu"), device))
            check.say(f"{name}: inverse of its flow", there, "off", ok=there <= 10 * here + 1e-3)


@torch.no_grad()
def inverse_error(name: str, device: torch.device) -> float:
    """How far a flow's inverse leaves images from where they were, at weights that make it stiff."""
    model: Any = shaken(name, DIGITS, device).eval()
    model.prepare(noise_images(DIGITS, 64, device), Noise("p", device=device))
    images = noise_images(DIGITS, 8, device).all().x
    return float((model.invert(model.flow(images, None)[0], None) - images).abs().max())


def resume(check: Check) -> None:
    """Are the bits of a resumed training those of an uninterrupted one? With and without deterministic kernels."""
    before = torch.are_deterministic_algorithms_enabled()
    known = catalogue.recipes()
    for name in (name for name in catalogue.rows() if not known[name].needs):
        for kernels in ("usual", "deterministic"):
            torch.use_deterministic_algorithms(kernels == "deterministic")
            try:
                equal, spent = resumed(check, name, 60 if check.large else 2)
            except RuntimeError as error:  # an operation that has no deterministic kernel
                check.say(f"{name}, {kernels} kernels", str(error).splitlines()[0][:140])
            else:
                check.say(f"{name}, {kernels} kernels: bits after a resume", "equal" if equal else "differ")
                check.say(f"{name}, {kernels} kernels: a step", 1e3 * spent, "ms")
            finally:
                torch.use_deterministic_algorithms(before)


def resumed(check: Check, name: str, steps: int) -> tuple[bool, float]:
    """Whether a training stopped half way has the weights of an uninterrupted one, and the seconds of a step."""

    def loop() -> Loop:
        return Loop(
            shaken(name, DIGITS, check.device),
            noise_images(DIGITS, 256, check.device),
            64 if check.large else 8,
            steps,
            ("c", name, 0),
        )

    if check.large:
        run_steps(loop(), 0, 2)  # kernels are chosen at first use
    start = time.perf_counter()
    whole = run_steps(loop(), 0, steps)
    check.wait()
    spent = (time.perf_counter() - start) / steps
    half, other = run_steps(loop(), 0, steps // 2), loop()
    other.restore(half.state())
    run_steps(other, steps // 2, steps)
    pairs = zip(whole.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs), spent


def run_steps(loop: Loop, first: int, last: int) -> Loop:
    for k in range(first, last):
        loop.step(k)
    loop.settle()
    return loop


# --------------------------------------------------------------------------------------------------------- steps 6-9


def unet(check: Check, params: int, batch: int, precision: str) -> Loop:
    """A training of a denoiser on images of CIFAR-10's shape."""
    recipe = catalogue.get(one_denoiser())
    width, _ = runs.fit_width(recipe, CIFAR, params, {}, recipe.config)
    with seeded(0, torch.device("cpu")):
        model = recipe.build(CIFAR, width, {}).to(check.device)
    model.precision = precision
    return Loop(model, noise_images(CIFAR, 2 * batch, check.device), batch, 1_000, ("check", params, 0))


def speed(check: Check) -> None:
    """Images a second of whole training steps."""
    sizes = ((700_000, (64, 512)), (33_000_000, (64, 256, 1024))) if check.large else ((20_000, (4,)),)
    best = {r["name"].rpartition(" ")[2]: r["value"] for r in check.rows if str(r["name"]).startswith("product")}
    kinds = ("fp32", "tf32", "bf16") if check.device.type == "cuda" else ("fp32", "bf16")
    for params, batches in sizes:
        for precision in kinds:
            for batch in batches:
                each_speed(check, params, batch, precision, best.get(precision), False)
    params, batches = sizes[-1]
    each_speed(check, params, batches[-1] // 4 or 1, "bf16", best.get("bf16"), check.large)
    beside_peer(check)


def each_speed(check: Check, params: int, batch: int, precision: str, best: Any, compiled: bool) -> None:
    title = f"U-Net {params / 1e6:g}M, batch {batch}, {precision}{', compiled' if compiled else ''}"
    try:
        loop = unet(check, params, batch, precision)
        noise = Noise("flops", device=check.device)
        cost = flops.of_step(loop.model, loop.data.batch(loop.order(0)), 0.5, noise)
        if compiled:
            arithmetic.compile_networks(loop.model)
            start = time.perf_counter()
            run_steps(loop, 0, 2)
            check.say(f"{title}: compiling", time.perf_counter() - start, "s")
        if check.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(check.device)
        ten = 10 if check.large else 1
        spent = check.seconds(lambda: run_steps(loop, 100, 100 + ten), 3) / ten
        check.say(title, batch / spent, "images/s")
        share = f" = {100 * cost / spent / 1e12 / best:.0f} % of its product" if best else ""
        check.say(f"{title}: work", cost / spent / 1e12, f"TFLOP/s{share}")
        if check.device.type == "cuda":
            check.say(f"{title}: memory", torch.cuda.max_memory_allocated(check.device) / 2**30, "GiB")
    except torch.OutOfMemoryError:
        check.say(title, "out of memory", ok=False)


class Called(Backbone):
    """Anyone's network as one of ours: in bfloat16 where `computing` says so."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(x, t, y)
        return out


def beside_peer(check: Check) -> None:
    """A training step of our U-Net and of diffusers' with the same channels at each level, at equal precision."""
    if find_spec("diffusers") is None:
        check.say("beside diffusers' UNet2DModel", "diffusers is not installed")
        return
    channels, batch = ((176, 352, 352), 256) if check.large else ((8, 16, 16), 2)
    nets = {"ours": unet_speed.fitted(CIFAR, 0, unet_speed.Shape(channels, 0))[0]}
    nets |= {f"diffusers', {name}": unet_speed.Peer(CIFAR, channels).to(memory_format=layout)  # type: ignore[call-overload]
             for name, layout in unet_speed.LAYOUTS.items()}  # fmt: skip
    x, t = torch.randn(batch, *CIFAR.shape, device=check.device), torch.rand(batch, device=check.device)
    rates: dict[tuple[str, str], float] = {}
    for name, net in nets.items():
        step = unet_speed.training_step(Called(net.to(check.device)), x, t, None)
        for precision in ("fp32", "tf32", "bf16") if check.device.type == "cuda" else ("fp32", "bf16"):
            title = f"{name}, {unet_speed.parameters(net) / 1e6:.3g}M, batch {batch}, {precision}"
            with arithmetic.computing(precision, check.device):
                rates[name, precision] = batch / check.seconds(step)
            check.say(title, rates[name, precision], "images/s")
        net.to("cpu")
    for precision in {precision for _, precision in rates}:
        peer = max(rate for (name, p), rate in rates.items() if p == precision and name != "ours")
        ratio = rates["ours", precision] / peer
        check.say(
            f"as fast as diffusers' quicker layout, {precision}", ratio, "times", ratio >= 1 if check.large else None
        )


def profile(check: Check) -> None:
    """Where a step goes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if check.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for params, batch in ((700_000, 512), (33_000_000, 256)) if check.large else ((20_000, 4),):
        loop = run_steps(unet(check, params, batch, "fp32"), 0, 3)
        title, steps = f"U-Net {params / 1e6:g}M, batch {batch}", 10 if check.large else 2
        start = time.perf_counter()
        with torch.profiler.profile(activities=activities) as seen:
            run_steps(loop, 3, 3 + steps)
            check.wait()
        spent = time.perf_counter() - start
        events = [
            e for e in seen.events() if e.device_type == torch.profiler.DeviceType.CUDA and not e.is_user_annotation
        ]
        check.say(f"{title}: kernels a step", len(events) / steps)
        busy = sum(e.time_range.elapsed_us() for e in events) / 1e6
        check.say(f"{title}: card busy (with the profiler's own cost)", 100 * busy / spent, "% of the time")
    noise = Noise("draw", device=check.device)
    check.say("a draw of 512 x 3 x 32 x 32", 1e3 * check.seconds(lambda: noise.normal(512, 3, 32, 32)), "ms")
    check.say("blocks of noise", str(BLOCKS[check.device.type]))


def sampling(check: Check) -> None:
    """What samples cost."""
    loop = unet(check, 700_000 if check.large else 20_000, 8, "fp32")
    model = loop.model.eval()
    assert isinstance(model, Paradigm)
    for plan in (Plan("heun", 16), Plan("euler", 4), Plan("euler", 1)):
        for batch in (1, 256, 2048) if check.large else (1, 4):
            spent = Timed(model, plan, batch, 1, 0.0)
            quickest = min(spent.once(check.device) for _ in range(4 if check.large else 1))
            check.say(f"{plan}, batch {batch}", batch / quickest, "samples/s")
    for batch in (64, 1024) if check.large else (4,):
        found = overhead(model, Plan("heun", 16), batch, 10 if check.large else 1, str(check.device))
        good = found.fraction <= 0.02 if check.large and batch > 64 else None
        check.say(f"heun-16, batch {batch}: beyond its network calls", 100 * found.fraction, "%", ok=good)


def distances(check: Check) -> None:
    """Metrics on the device against the CPU."""
    n, m = (10_000, 20_000) if check.large else (700, 800)
    space: FeatureSpace = features.random_conv(CIFAR.shape)
    sides = {}
    for where in (space, space.on(check.device)):
        x, y = (CIFAR.encode(noise_images(CIFAR, k, where.device, seed=k).x) for k in (n, m))
        start = time.perf_counter()
        fake, real = where.features(x, 2_000), where.features(y, 2_000)
        check.wait()
        timed = {"features": time.perf_counter() - start}
        values = {"features": fake.values.double().norm().item()}
        for metric in (metrics.frechet_distance, metrics.kernel_distance, metrics.neighbourhoods):
            start = time.perf_counter()
            found = metric(fake, real)
            check.wait()
            timed[metric.__name__] = time.perf_counter() - start
            values |= {v.metric: v.value for v in (found if isinstance(found, list) else [found])}
        sides[str(where.device)] = timed, values
    (slow, here), (fast, there) = sides[str(space.device)], sides[str(check.device)]
    for name, seconds in slow.items():
        check.say(f"{name}, {n:,} against {m:,}: times as fast as one CPU", seconds / max(fast[name], 1e-9))
    for name, value in here.items():
        off = abs(there[name] - value) / max(abs(value), 1e-12)
        # Features differ in their last digits: that moves a count by one or two samples, and kd by more of its size near 0.
        bar = 1e-5 if name in ("features", "fd") else 1e-4 if name == "kd" else 4 / (n * max(value, 1e-3))
        check.say(f"{name}: relative difference", off, ok=off <= bar)


# ------------------------------------------------------------------------------------------------------- steps 10, 11


def tier_of(check: Check, name: str) -> tiers.Tier:
    """The tier `name` on a card. In the dry run small networks, and ten samples to a feature, as a distance needs."""
    if check.large:
        return tiers.get(name)
    smoke = tiers.get("smoke")
    small = dataclasses.replace(smoke.small, params=30_000)
    return dataclasses.replace(smoke, name="dry-run", small=small, seeds=1, samples=898, likelihood_n=8)


def table(check: Check) -> None:
    """Every paradigm with scores and a report."""
    from bench import suite
    from bench.progress import display

    tier = tier_of(check, "gpu-minute")
    chosen = ["rows"] if check.large else [one_denoiser()]
    start = time.perf_counter()
    found = suite.everything(
        check.dataset, chosen, tier, check.folder / "table", display, device=str(check.device), timing=check.large
    )
    for job, reason in found.failures:
        check.say(job, reason, ok=False)
    wanted = ["row", "fd", "fd_n", "seeds"]
    for line in found.comparison().to_dict("records"):
        shown = {k: v for k, v in line.items() if k in wanted or k.startswith("fd")}
        check.say(f"row {line.get('name', line.get('recipe', ''))}", json.dumps(shown, default=str)[:160])
    check.say("report", str(next(iter(found.report), "none")), ok=not found.failures)
    check.say(
        "all of it", time.perf_counter() - start, "s", ok=time.perf_counter() - start <= 240 if check.large else None
    )


def one_run(check: Check) -> None:
    """One real training, scored on the way."""
    from bench import scores
    from bench.progress import Progress

    tier = tier_of(check, "gpu")
    if check.large:
        tier = dataclasses.replace(tier, samples=5_000, images=dataclasses.replace(tier.images, seconds=200))
    tier = dataclasses.replace(tier, name="gpu-check", snapshot_seeds=1, sweep_seeds=0, raw_seeds=0)
    asked = arithmetic.chosen(check.device, "bf16" if check.large else "fp32")
    run = runs.define(one_denoiser(), check.dataset, 0, tier, arithmetic=asked)
    folder = runs.ensure(run, check.folder / "run", device=check.device)
    info = runs.read_info(folder)
    check.say(info.recipe, f"{info.status} {info.reason}", ok=info.status == "ok")
    check.say("images a second", info.images_per_second, "images/s")
    check.say("images", info.images)
    if info.status != "ok":
        return
    rows = scores.evaluate(folder, tier, Progress("evaluate"), check.device.type)
    for row in rows:
        if row.metric == "fd" and row.split == "test" and row.draw == 0:
            check.say(f"fd, {row.features}, {row.weights}, after {row.fraction or 1:g} of it", row.value)
    check.say("samples", str(folder / scores.GRID))


STEPS: tuple[Callable[[Check], None], ...] = (
    *(card, recipes, agreement, oracles, resume),
    *(speed, profile, sampling, distances),
    *(table, one_run),
)


def chosen_steps(text: str) -> list[int]:
    """Numbers of steps, as 1-9,11."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise BadInput(f"--steps {text}: give numbers from 1 to {len(STEPS)}, as 1-9,11")
        found += range(int(first), int(last or first) + 1)
    if not all(1 <= k <= len(STEPS) for k in found) or not found:
        raise BadInput(f"--steps {text}: give numbers from 1 to {len(STEPS)}, as 1-9,11")
    return found


def lines(check: Check) -> Iterator[str]:
    """The results as a table in Markdown."""
    yield "| Step | What | Value | |"
    yield "|---:|---|---:|---|"
    for row in check.rows:
        value = f"{row['value']:.4g}" if isinstance(row["value"], float) else str(row["value"]).replace("|", "\\|")
        mark = {None: "", True: "ok", False: "**failed**"}[row["ok"]]
        yield f"| {row['step']} | {row['name']} | {value} {row['unit']} | {mark} |"


def keep(check: Check) -> None:
    body = "".join(json.dumps(row, default=str) + "\n" for row in check.rows)
    write_atomic(check.folder / "gpu_check.jsonl", body.encode())
    write_atomic(check.folder / "gpu_check.md", ("\n".join(lines(check)) + "\n").encode())


@answered
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for the dry run")
    parser.add_argument("--steps", default=f"1-{len(STEPS)}", help="as 1-9,11")
    parser.add_argument("--dataset", default="", help="of steps 10 and 11; cifar10, and digits in the dry run")
    parser.add_argument("--to", type=Path, default=None, help="a folder for results and runs")
    given = parser.parse_args(arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products ask for it before CUDA starts
    device, numbers = runs.device_of(given.device), chosen_steps(given.steps)
    large = device.type == "cuda"
    if not large:
        torch.set_num_threads(1)  # a second one would only wait: the networks of the dry run are tiny
    folder = given.to or Path(tempfile.mkdtemp(prefix="gpu_check-"))
    check = Check(device, large, given.dataset or ("cifar10" if large else "digits"), folder)
    began = time.perf_counter()
    for number in numbers:
        check.step, start = number, time.perf_counter()
        try:
            # Others of this user do not disturb what is timed; the last two steps start workers, who share the card.
            with alone_on(device) if number < 10 else nullcontext():
                STEPS[number - 1](check)
        except Exception as error:
            check.say(STEPS[number - 1].__name__, f"{type(error).__name__}: {str(error)[:200]}", ok=False)
            print(traceback.format_exc(), file=sys.stderr, flush=True)
        if large:  # for the workers of later steps
            gc.collect()
            torch.cuda.empty_cache()
        check.say(f"step {number}, {STEPS[number - 1].__name__}", time.perf_counter() - start, "s")
        keep(check)
    failed = sum(row["ok"] is False for row in check.rows)
    check.say("failed", failed, ok=not failed)
    check.say("everything", time.perf_counter() - began, "s")
    keep(check)
    print(f"{folder / 'gpu_check.md'}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
