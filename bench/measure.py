"""What sampling costs: FLOPs, parameters, memory (counted) and time (measured).

Counts are exact and the same on every machine. Times are taken with nothing else of ours running: after a warm-up,
synchronised, the plans of all recipes interleaved (A B A B ...) so that a slow moment of the machine hits all alike;
the median and the quartiles are reported, and `contended` says that something else had the processor meanwhile.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import arithmetic, runs
from bench.flops import FlopCount
from bench.opened import opened
from bench.progress import Progress
from bench.sharing import alone_on
from bench.store import SCHEMA, Row, load_rows, manifest, results_key, save_rows
from bench.tiers import Tier
from paradigms.backbones.build import plugin_files
from paradigms.contract import Paradigm
from paradigms.core.noise import Noise
from paradigms.core.plans import Plan, settings_text
from paradigms.errors import BadInput
from paradigms.plugins import foreign_file
from paradigms.recipe import Recipe
from reports.layout import TIMING

__all__ = [
    "BATCHES",
    "Subject",
    "flops_per_sample",
    "is_timed",
    "params_sampling",
    "peak_bytes",
    "sample_once",
    "sources",
    "time_runs",
]

BATCHES = (16, 64, 256)  # tried for throughput, the quickest is used
GPU_BATCHES = (*BATCHES, 1024, 4096)


def labels_for(model: Paradigm, n: int, device: torch.device | str) -> Tensor | None:
    """Every label in turn, (n,), for a conditional model."""
    classes = model.space.classes
    return torch.arange(n, device=device) % classes if classes else None


@torch.no_grad()
def sample_once(model: Paradigm, plan: Plan, n: int, device: torch.device | str, seed: int = 0) -> Tensor:
    """n samples in one batch, the draw from the prior included: what is counted and timed."""
    noise = Noise("measure", seed, device=device)
    with arithmetic.sampling(model, plan, torch.device(device)):
        z = model.prior(n, noise.at("prior"))
        return model.sample(z, plan, noise.at("steps"), labels_for(model, n, device))


def sources(
    modules: Sequence[str], recipe: Recipe | None = None, config: Any = None, plugins: Iterable[Path] = ()
) -> str:
    """Short sha256 over paradigms/, these modules of bench/, and the files of plugins.

    Those that the recipe comes from, those of the backbone that its settings `config` name, and `plugins`.
    """
    digest = hashlib.sha256(_own_sources(tuple(modules)))
    found = {*_plugins(recipe), *plugins, *(plugin_files(config) if config is not None else ())}
    for path in sorted(found):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


_ROOT = Path(__file__).parent.parent


@cache
def _own_sources(modules: tuple[str, ...]) -> bytes:
    digest = hashlib.sha256()
    bench = _ROOT / "bench"
    files = [
        path
        for name in modules
        for path in (bench / f"{name}.py", *sorted((bench / name).glob("*.py")))
        if path.exists() and path != bench / "features" / "train.py"  # makes weights, which are hashed themselves
    ]
    models = sorted(path for path in (_ROOT / "paradigms").rglob("*.py") if path.parent.name != "testing")
    for path in (*models, *files):
        digest.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode() + path.read_bytes())
    return digest.digest()


def _plugins(recipe: Recipe | None) -> set[Path]:
    """The files of other packages that define a recipe's paradigm and those of the recipes it needs."""
    if recipe is None:
        return set()
    files = (foreign_file(one.paradigm) for one in (recipe, *runs.needed(recipe)))
    return {file for file in files if file is not None}


def code_of(trained: str, here: str) -> str:
    """The column `code` of a number taken from a model: the sources that trained it, then those that measured it."""
    return trained if trained == here else f"{trained}+{here}"


# ---------------------------------------------------------------------------------------------------------- counts


def flops_per_sample(model: Paradigm, plan: Plan, device: torch.device | str = "cpu") -> float:
    """FLOPs of one sample, counted at batch 1 (an adaptive solver chooses its steps by that one sample)."""
    with FlopCount() as count:
        sample_once(model, plan, 1, device)
    return float(count.total)


class _Used(TorchFunctionMode):
    """Collects the parameters that any torch function is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, nn.Parameter):
                self.sizes[id(leaf)] = leaf.numel()
        return func(*args, **(kwargs or {}))


def params_sampling(model: Paradigm, plan: Plan, device: torch.device | str = "cpu") -> int:
    """How many parameters are read to draw a sample, a parent's included; a GAN's critic is not among them."""
    with _Used() as used:
        sample_once(model, plan, 1, device)
    return sum(used.sizes.values())


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of the tensors alive; what one operation needs inside itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak_bytes(model: Paradigm, plan: Plan, batch: int, device: torch.device | str = "cpu") -> int:
    """The largest number of bytes held while sampling a batch: parameters read, plus tensors alive at once."""
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        sample_once(model, plan, batch, where)
        torch.cuda.synchronize(where)
        activations = torch.cuda.max_memory_allocated(where) - before
    else:
        with LiveBytes() as live:
            sample_once(model, plan, batch, where)
        activations = live.peak
    return activations + 4 * params_sampling(model, plan, where)


# ------------------------------------------------------------------------------------------------------------ time


@dataclass(eq=False)
class Timed:
    """One thing that is timed: a model's plan at a batch size, until `repeats` or `seconds` are reached."""

    model: Paradigm
    plan: Plan
    batch: int
    repeats: int
    seconds: float
    times: list[float] = field(default_factory=list)
    contended: bool = False

    @property
    def done(self) -> bool:
        return bool(self.times) and (len(self.times) >= self.repeats or sum(self.times) >= self.seconds)

    def once(self, device: torch.device) -> float:
        """Seconds of one batch, everything that was asked of the device having ended."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        sample_once(self.model, self.plan, self.batch, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    def row(self, base: Row, metric: str, unit: str, values: Sequence[float]) -> list[Row]:
        """The median as a row of its own, with the quartiles where there are enough values."""
        here = dataclasses.replace(
            base,
            sampler=self.plan.sampler,
            steps=self.plan.steps,
            options=settings_text(self.plan.options),
            n=len(values),
            unit=unit,
            contended=self.contended,
        )
        rows = [dataclasses.replace(here, metric=metric, value=median(values))]
        if len(values) >= 4:
            low, _, high = quantiles(values, n=4)
            rows.append(dataclasses.replace(here, metric=f"{metric}_q25", value=low))
            rows.append(dataclasses.replace(here, metric=f"{metric}_q75", value=high))
        return rows


class Watch:
    """Whether something else had the processor: our own share of it, and what the rest of the machine did.

    Sums over the blocks it is put around: the machine's clock ticks are too coarse to judge one short block by.
    """

    def __init__(self) -> None:
        self.wall = self.own = 0.0
        self.others: float | None = 0.0

    def __enter__(self) -> Watch:
        self._start = time.perf_counter(), time.process_time(), _machine_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        wall, own, machine = self._start
        own, now = time.process_time() - own, _machine_seconds()
        self.wall += time.perf_counter() - wall
        self.own += own
        if machine is None or now is None or self.others is None:
            self.others = None
        else:
            self.others += now - machine - own

    def contended(self, device: torch.device) -> bool:
        """In the blocks: we waited for a core while we had work, or others kept a quarter of a core busy."""
        if self.wall < 0.02:
            return False  # too short to see anything
        if device.type == "cpu" and self.own / self.wall < 0.95:
            return True
        if self.others is None:
            return os.getloadavg()[0] > torch.get_num_threads() + 0.5
        return self.others > 0.25 * self.wall + 2.5 * _TICK


_TICK = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01  # seconds: what the system counts in


def _machine_seconds() -> float | None:
    """CPU seconds that all processes of the machine have used since it started; None where the system does not say."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) * _TICK


def measure(things: Sequence[Timed], device: torch.device, progress: Progress, stage: str = "time") -> None:
    """Fills `times` of every thing, round by round over all that are not done. The garbage collector is held off."""
    with _uncollected():
        for index, thing in enumerate(things):
            progress.update(f"{stage}: warm-up", index, 2 * len(things))
            thing.once(device)
        watches = [Watch() for _ in things]
        while todo := [(s, watch) for s, watch in zip(things, watches, strict=True) if not s.done]:
            for thing, watch in todo:
                spent = 0.0
                # Short runs are timed in bursts: a watch needs some time to see anything.
                with watch:
                    while not thing.done and spent < 0.05:
                        thing.times.append(thing.once(device))
                        spent += thing.times[-1]
                progress.update(stage, 2 * len(things) - len(todo), 2 * len(things))
    for thing, watch in zip(things, watches, strict=True):
        thing.contended = watch.contended(device)


@contextmanager
def _uncollected() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Subject:
    """A run to be timed. `sweep`: plans that are timed briefly, besides the headline plan or those asked for."""

    folder: Path
    plans: tuple[Plan, ...]
    sweep: tuple[Plan, ...] = ()


def time_runs(
    subjects: Sequence[Subject],
    tier: Tier,
    progress: Progress,
    device: str = "cpu",
    threads: int | None = 1,
    *,
    force: bool = False,
    keep: bool = True,
    out: Path | None = None,
) -> list[Row]:
    """Latency, throughput and memory of sampling; with `keep` in `timing/results.jsonl` of each run's folder.

    The subject's plans: latency at batch 1 and throughput at the best of `BATCHES`, for `timing_repeats` or
    `timing_seconds` each, whichever comes first. The sweep: latency alone, for a tenth of that. All runs are timed
    together, and again together when one of them has no times yet: what is compared was measured side by side. A GPU is
    waited for until nobody else trains or scores on it.
    out: where parents may be besides the runs' own output folder.
    """
    where = runs.device_of(device)
    before = torch.get_num_threads()
    if threads is not None and where.type == "cpu":
        torch.set_num_threads(threads)
    try:
        with alone_on(where, lambda: progress.update("wait for the GPU to time sampling", 0, 1)):
            return _time_runs(subjects, tier, progress, where, force, keep, out)
    finally:
        torch.set_num_threads(before)


def _time_runs(
    subjects: Sequence[Subject],
    tier: Tier,
    progress: Progress,
    device: torch.device,
    force: bool,
    keep: bool,
    out: Path | None,
) -> list[Row]:
    keys = _keys(subjects, tier, device, torch.get_num_threads())
    if keep and not force and (kept := _kept(keys)) is not None:
        return kept
    loaded_runs = [opened(subject.folder, device, out=out) for subject in subjects]
    loaded = [(subject, run.paradigm, run.info) for subject, run in zip(subjects, loaded_runs)]
    repeats, seconds = max(1, tier.timing_repeats), tier.timing_seconds
    latency: list[tuple[int, Timed]] = []
    throughput: list[tuple[int, Timed]] = []
    for index, (subject, model, info) in enumerate(loaded):
        for plan in subject.plans:
            progress.update(f"time: choose a batch for {info.recipe}", index, len(loaded))
            latency.append((index, Timed(model, plan, 1, repeats, seconds)))
            throughput.append((index, Timed(model, plan, _best_batch(model, plan, device), repeats, seconds)))
        for plan in subject.sweep:
            latency.append((index, Timed(model, plan, 1, max(3, repeats // 10), seconds / 10)))
    measure([s for _, s in (*latency, *throughput)], device, progress)

    threads = torch.get_num_threads()
    places = {
        run.info.recipe: runs.environment(device, threads, run.recipe, config=run.info.config) for run in loaded_runs
    }
    rows: dict[int, list[Row]] = {index: [] for index in range(len(loaded))}
    for metric, unit, things in (("latency", "s", latency), ("throughput", "samples/s", throughput)):
        for index, thing in things:
            model, info = loaded[index][1:]
            here = places[info.recipe]
            base = dataclasses.replace(
                runs.base_row(info),
                tier=tier.name,
                weights="ema",
                device=here["device_name"],
                threads=here["threads"],
                code=code_of(info.code, here["code"]),
                headline=thing.plan == model.card.default,
            )
            values = thing.times if unit == "s" else [thing.batch / t for t in thing.times]
            rows[index] += thing.row(base, metric, unit, values)
            if metric == "throughput":
                rows[index] += thing.row(base, "throughput_batch", "samples", [float(thing.batch)])
                held = float(peak_bytes(model, thing.plan, thing.batch, device))
                rows[index] += thing.row(base, "peak_memory", "bytes", [held])
    for index, (subject, _, _) in enumerate(loaded):
        if keep:
            place = runs.measured(subject.folder, loaded[index][2], tier.name) / TIMING
            save_rows(place, rows[index], keys[place])
    progress.update("time", 1, 1)
    return [row for some in rows.values() for row in some]


def _best_batch(model: Paradigm, plan: Plan, device: torch.device, limit: float = 2.0) -> int:
    """The batch size with the most samples a second in one trial; one that would take long, or does not fit, is not tried."""
    best, rate = BATCHES[0], 0.0
    Timed(model, plan, 1, 1, 0.0).once(device)
    for batch in BATCHES if device.type == "cpu" else GPU_BATCHES:
        if rate and batch / rate > limit:
            break
        try:
            this = batch / Timed(model, plan, batch, 1, 0.0).once(device)
        except torch.OutOfMemoryError:
            break
        if this > rate:
            best, rate = batch, this
    return best


def is_timed(subjects: Sequence[Subject], tier: Tier, device: str = "cpu", threads: int = 1) -> bool:
    """Whether `time_runs` would find the rows of every subject ready."""
    return _kept(_keys(subjects, tier, runs.device_of(device), threads)) is not None


def _keys(subjects: Sequence[Subject], tier: Tier, device: torch.device, threads: int) -> dict[Path, str]:
    """By folder what a run's times depend on, but for the moment: protocol, plans, weights, machine, versions."""
    here = runs.environment(device, threads)
    here.pop("code")  # of the whole suite: times are not taken anew because a report was changed
    keys = {}
    for subject in subjects:
        info = runs.read_info(subject.folder)
        code = sources(("measure",), info.definition, info.config)
        weights = sorted((n, f["sha256"]) for n, f in manifest(subject.folder).items() if n.endswith(".safetensors"))
        plans = [str(plan) for plan in subject.plans], [str(plan) for plan in subject.sweep]
        parts = [SCHEMA, tier.timing_repeats, tier.timing_seconds, plans, weights, sorted(here.items()), code]
        place = runs.measured(subject.folder, info, tier.name) / TIMING
        keys[place] = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
    return keys


def _kept(keys: dict[Path, str]) -> list[Row] | None:
    """The rows saved under these keys; None unless every run has them."""
    rows: list[Row] = []
    for folder, key in keys.items():
        try:
            if results_key(folder) != key:
                return None
            rows += load_rows(folder)
        except BadInput:
            return None
    return rows
