"""THE training loop: one for every paradigm, which it never asks what it is.

A paradigm yields each loss with the module it trains; the loop descends and resumes the generator (`Loop.step`). Around
that: warm-up, clipping, the average of the weights, divergence, the log, checkpoints and resume (`train`).

All randomness is a function of (coordinates of the run, step), so a checkpoint holds no generator and a resumed run has
the bits of an uninterrupted one (on a CPU, with the same versions and number of threads).

log.jsonl has about a hundred lines: step, images, seconds and, averaged over the updates since the line before, `loss`,
`grad_norm` and the paradigm's own terms; `lr` is the last one used. Where a paradigm trains several modules the three
carry the module's name, as in `loss.critic`. `skipped` counts the steps that were skipped for their gradient norm, once
there is one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bench.arithmetic import compile_networks, computing
from bench.data.whole import read_whole
from bench.flops import FlopCount, keep_generators
from bench.progress import Progress
from bench.store import OF, belongs, fits, write_atomic
from paradigms.contract import Trainable
from paradigms.core.data import Data, Space
from paradigms.core.noise import Noise, seed_of
from paradigms.errors import BadInput, out_of_memory
from reports.layout import LOG, PREPARED, STATE

__all__ = ["Average", "Diverged", "Loop", "Order", "Trained", "seeded", "train"]

LOG_LINES = 100
CHECKPOINT_SECONDS = 5.0  # at least so long between two checkpoints
CHECKPOINT_SHARE = 0.01  # of the time goes to them at most
LAST = 0.1  # of the steps: the part of the log that symptoms are looked for in
WARM_UP = 0.02  # of the steps
HALF_LIFE = 0.05  # half of the average's weight lies on this last part of the training so far


class Diverged(Exception):
    """A loss or gradient is not finite, at `step` = 0, 1, ... The optimizer has not used it."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


# ---------------------------------------------------------------------------------------------------------- pieces


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Runs a block with torch's global generators at `seed` (weight initialisation, dropout), then gives them back."""
    with keep_generators(device):
        _seed(seed, device)
        yield


def _seed(seed: int, device: torch.device) -> None:
    # torch.manual_seed looks for every kind of device each time and costs 500 times as much.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


class Order:
    """Which examples each step sees: epoch after epoch in a fresh order, a function of (coordinates, step) alone.

    A batch may span the end of an epoch; every example is seen once before any is seen again.
    """

    def __init__(self, n: int, batch: int, coords: tuple[object, ...], device: torch.device) -> None:
        self.n, self.batch, self.coords, self.device = n, batch, coords, device
        self._generator = torch.Generator()
        self._epochs: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """The indices (B,) of a step."""
        first, parts = step * self.batch, []
        last = first + self.batch
        while first < last:
            epoch, start = divmod(first, self.n)
            stop = min(self.n, start + last - first)
            parts.append(self._epoch(epoch)[start:stop])
            first += stop - start
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            self._generator.manual_seed(seed_of(*self.coords, epoch))
            order = torch.randperm(self.n, generator=self._generator)
            self._epochs = {epoch: order.to(self.device)}
        return self._epochs[epoch]


class Figures(NamedTuple):
    """The loss and gradient norm of an update, (2,), on their way from the device.

    arrived: says that they are here; None where they already are. skip_above: as in `Update`.
    """

    step: int
    label: str
    skip_above: float
    values: Tensor
    arrived: torch.cuda.Event | None = None

    def read(self) -> tuple[float, float]:
        """Loss and norm, after waiting for them; not for work that the device has queued since."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm = self.values.tolist()
        return loss, norm


class Average:
    """The power-function average of the weights (Karras et al. 2024, eq. 123): no rate to tune to a budget.

    After t steps the weights of step s count in proportion to s^g, with g such that half of the weight lies on the last
    `HALF_LIFE` of the training so far: beta_t = (1 - 1/t)^(g + 1). Averaged are the optimised parameters and the
    running statistics of batch normalisation; anything else (a codebook, a consistency target) has its own dynamics.
    """

    EXPONENT = math.log(0.5) / math.log(1 - HALF_LIFE)  # g + 1

    def __init__(self, model: nn.Module, optimised: list[nn.Parameter]) -> None:
        self.model = model
        norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
        statistics = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        self.source: list[Tensor] = [t for t in (*optimised, *statistics) if t.is_floating_point()]
        self.mean = [t.detach().clone() for t in self.source]

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Takes the weights after step t = 1, 2, ..."""
        torch._foreach_lerp_(self.mean, self.source, 1 - (1 - 1 / t) ** self.EXPONENT)

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state with the averages in place of the weights."""
        mean = {id(source): mean for source, mean in zip(self.source, self.mean)}
        state = self.model.state_dict(keep_vars=True)
        return {name: mean.get(id(tensor), tensor).detach() for name, tensor in state.items()}


# ------------------------------------------------------------------------------------------------------------ loop


class Loop:
    """A model in training: its optimizers, its average and the step. Deterministic given (coords, step)."""

    def __init__(self, model: Trainable, data: Data, batch: int, steps: int, coords: tuple[object, ...]) -> None:
        """`data` is what `prepare` returned; coords = (data set, recipe, seed)."""
        self.model, self.data, self.batch, self.steps, self.coords = model.train(), data, batch, steps, coords
        self.device = data.x.device
        # The same seed sees a data set in the same order, whatever the recipe.
        self.order = Order(len(data), batch, ("order", coords[0], coords[-1]), self.device)
        self.optimizers = model.optimizers()
        self.parameters = {
            module: [p for group in optimizer.param_groups for p in group["params"]]
            for module, optimizer in self.optimizers.items()
        }
        # What each group was created with, so that the settings of one step do not last into the next.
        self.created = {
            module: [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for module, optimizer in self.optimizers.items()
        }
        names = {module: name for name, module in model.core.named_modules()}
        single = len(self.optimizers) == 1
        self.label = {
            module: "" if single else f".{names.get(module) or i}" for i, module in enumerate(self.optimizers)
        }
        self.average = Average(model, self.optimised)
        self.warm_up = max(1, round(WARM_UP * steps))
        self.skipped = 0
        self.sums: dict[str, tuple[Any, int]] = {}
        self.last: dict[str, float] = {}
        # Waiting for a GPU before every update would leave it idle meanwhile. A fused optimizer leaves out an update by a
        # flag on the device, so that the loss and norm can be read once the next step is under way.
        self.ahead = self.device.type == "cuda" and all(
            group.get("fused") for optimizer in self.optimizers.values() for group in optimizer.param_groups
        )
        self.coming: list[Figures] = []

    @property
    def optimised(self) -> list[nn.Parameter]:
        """Every parameter that an optimizer holds, once."""
        return list(dict.fromkeys(p for some in self.parameters.values() for p in some))

    def step(self, k: int) -> None:
        """Training step k = 0, 1, ... A loss or gradient that is not finite is never used; it raises Diverged.

        On a GPU it raises that during the next step, or in `settle`.
        """
        with computing(self.model.precision, self.device):
            self._step(k)
        self.average.update(k + 1)
        self.settle(k)

    def _step(self, k: int) -> None:
        batch = self.data.batch(self.order(k))
        _seed(seed_of(*self.coords, "global", k), self.device)  # dropout and the like
        noise = Noise(*self.coords, "step", k, device=self.device)
        warm = min(1.0, (k + 1) / self.warm_up)
        for update in self.model.updates(batch, k / self.steps, noise):
            module, label = update.module, self.label[update.module]
            optimizer, parameters = self.optimizers[module], self.parameters[module]
            for group, created in zip(optimizer.param_groups, self.created[module]):
                group.update(created)
                for name, value in update.settings.items():
                    if name not in created:
                        raise KeyError(f"an update sets '{name}', which {type(optimizer).__name__} does not have")
                    group[name] = value
                group["lr"] *= warm
            self.last[f"lr{label}"] = group["lr"]
            optimizer.zero_grad(set_to_none=True)
            update.loss.backward(inputs=parameters)
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            values = torch.stack((update.loss.detach().to(norm), norm))
            for name, term in update.terms.items():
                if name != "loss":  # noted with the norm
                    self._note(name, term.detach() if isinstance(term, Tensor) else term)
            if self.ahead:
                self._send(Figures(k, label, update.skip_above, values))
                flagged = ~values.isfinite().all() | (norm > update.skip_above)
                optimizer.found_inf = flagged.float()  # type: ignore[attr-defined]
            elif self._read(Figures(k, label, update.skip_above, values)):
                continue
            if update.clip < math.inf:
                torch._foreach_mul_(gradients, (update.clip / norm.double()).clamp(max=1).to(norm))
            optimizer.step()
            if update.after is not None:
                update.after()

    def _send(self, figures: Figures) -> None:
        arrived = torch.cuda.Event()
        figures = figures._replace(values=figures.values.to("cpu", non_blocking=True), arrived=arrived)
        arrived.record(torch.cuda.current_stream(self.device))
        self.coming.append(figures)

    def settle(self, before: float = math.inf) -> None:
        """Reads the figures of the steps before `before` that are still on their way. Raises Diverged."""
        while self.coming and self.coming[0].step < before:
            self._read(self.coming.pop(0))

    def _read(self, figures: Figures) -> bool:
        """Notes an update's loss and norm; whether its gradient was too large to be used. Raises Diverged."""
        loss, norm = figures.read()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss{figures.label} is {loss}"
            if math.isfinite(loss):
                what = f"gradient norm{figures.label} is {norm}"
            raise Diverged(f"step {figures.step + 1} of {self.steps}: {what}", figures.step)
        self._note(f"loss{figures.label}", loss)
        self._note(f"grad_norm{figures.label}", norm)
        too_large = norm > figures.skip_above
        self.skipped += too_large
        return too_large

    def _note(self, name: str, value: Any) -> None:
        # A tensor stays one until the line is written: no wait for the device.
        total, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = (total + value, count + 1)

    def means(self) -> dict[str, float]:
        """What was noted since the last call, averaged over the updates that noted it, with the last learning rates."""
        means = {name: float(total) / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
        return {**means, **self.last, **({"skipped": self.skipped} if self.skipped else {})}

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.mean,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers.values()],
            "skipped": self.skipped,
            "sums": self.sums,
            "last": self.last,
            "coming": [(f.step, f.label, f.skip_above, *f.read()) for f in self.coming],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for mean, saved in zip(self.average.mean, state["average"], strict=True):
            mean.copy_(saved)
        for optimizer, saved in zip(self.optimizers.values(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.skipped, self.sums, self.last = int(state["skipped"]), dict(state["sums"]), dict(state["last"])
        coming = state.get("coming", [])  # older checkpoints have none
        self.coming = [Figures(k, label, most, torch.tensor([loss, norm])) for k, label, most, loss, norm in coming]


# ------------------------------------------------------------------------------------------------------ whole runs


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    status:        "ok" or "diverged", with the reason.
    ema, raw:      the final weights by name, parameters and buffers.
    steps, images: done and seen.
    seconds:       wall clock spent on them and on `prepare`, over all sittings, without waiting and saving; cpu_seconds
                   likewise, of this process.
    prepare_flops: what `prepare` cost.
    skipped:       updates skipped because of their gradient norm.
    resumed:       the step that each later sitting began at.
    log, kept:     the content of log.jsonl; by step the averaged weights that were to be kept, on the CPU.
    symptom:       what the model says is wrong, from the last tenth of the log; "" for nothing.
    """

    status: str
    reason: str
    ema: dict[str, Tensor]
    raw: dict[str, Tensor]
    steps: int
    images: int
    seconds: float
    cpu_seconds: float
    prepare_flops: float
    skipped: int
    resumed: tuple[int, ...]
    symptom: str
    log: bytes
    kept: dict[int, dict[str, Tensor]]


def train(
    model: Trainable,
    data: Data,
    *,
    batch: int,
    steps: int,
    coords: tuple[object, ...],
    folder: Path,
    progress: Progress,
    of: str = "",
    stage: str = "train",
    checkpoint_seconds: float | None = None,
    keep: Collection[int] = (),
    compiled: bool = False,
) -> Trained:
    """Trains `model` in place for `steps` steps of `batch` examples, going on from the checkpoint in `folder` if any.

    Keeps log.jsonl and state.pt in `folder`: a checkpoint every `checkpoint_seconds`, by default every few seconds but
    for at most 1 % of the time. The checkpoint holds all that there is so far, the lines of the log and the averaged
    weights after the steps in `keep` among it, so that nothing else there is believed or missed. of: the run's id.
    compiled: networks are compiled, once the data is prepared. Raises KeyboardInterrupt (from `progress`) once a
    checkpoint is written, BadInput when the checkpoint that is there is damaged, does not fit or is another run's. Torch's
    global generators are left as they were.
    """
    with keep_generators(data.x.device), Log(folder / LOG) as log:
        saved = _load(folder / STATE, data.x.device, of)
        if saved is not None and (wrong := [name for name, fit in _SAVED.items() if not fit(saved.get(name))]):
            raise _unfit(folder / STATE, ValueError(f"it has no fitting '{wrong[0]}'"))
        _seed(seed_of(*coords, "prepare"), data.x.device)
        wall, cpu = time.perf_counter(), time.process_time()
        data, prepare_flops = _prepare(model, data, coords, folder, saved, of)
        if compiled:  # only now: what a counter of FLOPs has seen called is never compiled afterwards
            compile_networks(model)
        done, seconds, cpu_seconds, resumed = 0, time.perf_counter() - wall, time.process_time() - cpu, []
        loop = Loop(model, data, batch, steps, coords)
        kept: dict[int, dict[str, Tensor]] = {}
        if saved is None:
            log.start([])
        else:
            try:
                loop.restore(saved["loop"])
            except Exception as error:
                if out_of_memory(error):
                    raise
                raise _unfit(folder / STATE, error) from None
            done, seconds, cpu_seconds = saved["done"], saved["seconds"], saved["cpu_seconds"]
            resumed = [*saved["resumed"], done]
            kept = {step: {name: t.cpu() for name, t in ema.items()} for step, ema in saved["kept"].items()}
            log.start(saved["log"])

        def checkpoint() -> None:
            state = {"loop": loop.state(), "done": done, "seconds": seconds, "cpu_seconds": cpu_seconds}
            state |= {"resumed": resumed, "prepare_flops": prepare_flops, "log": log.lines, "kept": kept}
            _save(folder / STATE, state, of)

        status, reason = "ok", ""
        written, pause = time.monotonic(), CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
        wall, cpu = time.perf_counter(), time.process_time()
        while done < steps:
            try:
                loop.step(done)
                if _is_logged(done + 1, steps):
                    loop.settle()
            except Diverged as error:
                status, reason, done = "diverged", str(error), error.step
            else:
                done += 1
                if done in keep and done < steps:
                    kept[done] = {name: t.cpu().clone() for name, t in loop.average.state_dict().items()}
            now_wall, now_cpu = time.perf_counter(), time.process_time()
            seconds, wall = seconds + now_wall - wall, now_wall
            cpu_seconds, cpu = cpu_seconds + now_cpu - cpu, now_cpu
            if status != "ok":
                break
            if _is_logged(done, steps):
                log.add({"step": done, "images": done * batch, "seconds": round(seconds, 4), **loop.means()})
            try:
                progress.update(stage, done, steps, images=done * batch)
            except KeyboardInterrupt:
                checkpoint()
                raise
            if time.monotonic() - written > pause and done < steps:
                before = time.monotonic()
                checkpoint()
                wall, cpu, written = time.perf_counter(), time.process_time(), time.monotonic()
                if checkpoint_seconds is None:
                    pause = max(CHECKPOINT_SECONDS, (written - before) / CHECKPOINT_SHARE)
        if status == "ok" and resumed[-1:] != [steps]:
            checkpoint()  # a kill while the results are written costs nothing
    return Trained(
        status=status,
        reason=reason,
        ema=loop.average.state_dict(),
        raw=loop.model.state_dict(),
        steps=done,
        images=done * batch,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        prepare_flops=prepare_flops,
        skipped=loop.skipped,
        resumed=tuple(resumed),
        symptom=_symptom(model, log, done),
        log=log.content(),
        kept=kept,
    )


def _is_logged(done: int, steps: int) -> bool:
    """Whether a line is written after so many steps: after the first, the last, and about a hundred between."""
    return done in (1, steps) or done * LOG_LINES // steps != (done - 1) * LOG_LINES // steps


def _symptom(model: Trainable, log: Log, done: int) -> str:
    """What the model makes of the last tenth of its log, read back from the text: the same after any resume."""
    lines = [line for line in log.read() if line["step"] > (1 - LAST) * done]
    found: dict[str, list[float]] = {}
    for name, value in (pair for line in lines for pair in line.items()):
        if name not in ("step", "images", "seconds", "skipped") and isinstance(value, (int, float)):
            found.setdefault(name, []).append(value)
    return (model.symptom({name: fmean(values) for name, values in found.items()}) or "") if found else ""


def _prepare(
    model: Trainable, data: Data, coords: tuple[object, ...], folder: Path, saved: dict[str, Any] | None, of: str
) -> tuple[Data, float]:
    """The data to train on and what it cost: computed once, and read back on resume."""
    device, path = data.x.device, folder / PREPARED
    if saved is None or not path.exists():
        with FlopCount() as count:
            prepared = model.prepare(data, Noise(*coords, "prepare", device=device))
        if prepared is not data:
            space = prepared.space
            shape = (space.shape, space.classes, space.levels)
            _save(path, {"x": prepared.x, "y": prepared.y, "z": prepared.z, "space": shape}, of)
        return prepared, float(count.total)
    kept = _load(path, device, of) or {}
    tensors = [
        isinstance(kept.get(name), kind) for name, kind in (("x", Tensor), ("y", Tensor | None), ("z", Tensor | None))
    ]
    if not (all(tensors) and fits(tuple[tuple[int, ...], int, int])(kept.get("space"))):
        raise _unfit(path, ValueError("it holds no prepared data"))
    return Data(kept["x"], kept["y"], Space(*kept["space"]), kept["z"]), saved["prepare_flops"]


# ----------------------------------------------------------------------------------------------------- checkpoints

# What a checkpoint holds besides the loop, with what it must be.
_SAVED = {"done": fits(int), "seconds": fits(float), "cpu_seconds": fits(float), "prepare_flops": fits(float)}
_SAVED |= {"resumed": fits(tuple[int, ...]), "log": fits(tuple[str, ...]), "kept": lambda kept: isinstance(kept, dict)}


def _save(path: Path, state: dict[str, Any], of: str) -> None:
    """Writes tensors and plain values, and whose they are, with the sha256 of what follows in front: one atomic write."""
    buffer = io.BytesIO()
    torch.save({OF: of, **state}, buffer)
    data = buffer.getbuffer()
    write_atomic(path, b"".join((hashlib.sha256(data).digest(), data)))


def _load(path: Path, device: torch.device, of: str) -> dict[str, Any] | None:
    """What `_save` wrote, or None when there is no such file. Raises BadInput when it is damaged or another run's."""
    if not os.path.lexists(path):
        return None
    data = read_whole(path)
    if hashlib.sha256(memoryview(data)[32:]).digest() != data[:32]:
        raise BadInput(f"{path} is damaged (its sha256 does not match); delete the folder {path.parent} to train anew")
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickles it would not read anyway
            state = torch.load(io.BytesIO(data[32:]), map_location=device, weights_only=True)
    except Exception as error:
        if out_of_memory(error):
            raise
        state = None  # a pickle, or of a version that wrote otherwise; torch's advice is to load it unsafely
    if not isinstance(state, dict):
        raise _unfit(path, ValueError("it holds no state that this version can read"))
    belongs(path, state.get(OF), of)
    return state


def _unfit(path: Path, error: Exception) -> BadInput:
    """The error for a checkpoint that is whole and yet none of this training."""
    lines = str(error).splitlines() or [""]
    text = f"it has no {error}" if isinstance(error, KeyError) else lines[0] or type(error).__name__
    return BadInput(f"{path} does not fit this model or version ({text}); delete it, and the same command trains anew")


class Log:
    """log.jsonl: appended to while training, so that it can be watched. What counts are the lines held here.

    However the training ends, the file is then made to hold them all.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, list[str]()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.lines and not self._is_written():
            write_atomic(self.path, self.content())

    def _is_written(self) -> bool:
        try:
            return read_whole(self.path) == self.content()
        except BadInput:
            return False

    def start(self, lines: list[str]) -> None:
        self.lines = list(lines)
        write_atomic(self.path, self.content())

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(json.dumps(line))
        with open(self.path, "a") as file:
            file.write(self.lines[-1] + "\n")

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def content(self) -> bytes:
        return "".join(f"{line}\n" for line in self.lines).encode()
