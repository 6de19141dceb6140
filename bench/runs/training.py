"""One run's training in its folder, from what is known before it to the manifest that ends it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from bench import store
from bench.data.names import OwnData
from bench.loop import Trained, train
from bench.progress import Progress
from bench.runs.budget import build, spending_of
from bench.runs.identity import Run, dataset
from bench.runs.info import SCHEMA, SNAPSHOTS, Info, base_row, read_info, step_of
from bench.runs.loading import frozen, parents_file
from bench.runs.machine import environment
from bench.runs.settings import changes, sized
from bench.sharing import beside_others
from paradigms.contract import Frozen
from paradigms.core.noise import seed_of
from paradigms.errors import BadInput, out_of_memory
from reports import layout
from reports.files import sweep
from reports.layout import ERROR, INFO, LOG, PARENTS, PREPARED, STATE, WEIGHTS
from reports.words import visible

__all__ = ["tidy", "train_run"]


def train_run(
    run: Run,
    out: Path,
    folder: Path,
    parents: Mapping[str, Path],
    device: torch.device,
    threads: int,
    progress: Progress,
) -> None:
    """Trains a run in its folder, on from its last checkpoint, and records there how it ended.

    parents: the folder of each needed run, by role. Raises BadInput and KeyboardInterrupt, and nothing else that goes wrong
    in the training: a failure is recorded, and the suite goes on.
    """
    before = _unfinished(folder)
    _clear(folder, keep=() if before is None else (INFO, LOG, STATE, PREPARED))
    threads = threads if before is None else before.threads
    with _threads(threads):
        started = _start(run, device, threads)
        attempt = _Attempt(run, folder, before or started)
        try:
            above = [read_info(parent) for parent in parents.values()]
            held, trained = _train(attempt, above, before, started, out, parents, device, threads, progress)
        except (BadInput, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as error:
            if out_of_memory(error):
                # The memory is freed with this frame; the checkpoint stays, and a smaller model or batch is another run.
                reason = (
                    f"out of memory: {device} has no room for {run.recipe} at batches of "
                    f"{getattr(run.config, 'batch', '?')}; take smaller ones (--set batch=N), fewer --jobs, or a tier with "
                    "fewer parameters"
                )
            else:  # the fault of a paradigm
                text = (str(error).strip() or type(error).__name__).splitlines()[0]
                needed = isinstance(error, RuntimeError) and text.startswith("it needs ")
                reason = text if needed else _located(error, text)
                store.write_atomic(folder / ERROR, visible(traceback.format_exc(), lines=True).encode())
            _failed(folder, attempt.info, reason)
            return
        finally:
            if run.arithmetic.compiled:
                torch.compiler.reset()  # the compiler keeps few versions of one network, and the next run has its own width
    _keep(run, folder, _costed(attempt.info, trained, above), trained, parents, held)


@dataclass
class _Attempt:
    """One attempt to train a run, with what its run.json says so far."""

    run: Run
    folder: Path
    info: Info

    def record(self, info: Info) -> None:
        self.info = info
        store.write_sealed(self.folder / INFO, dataclasses.asdict(info))


def _unfinished(folder: Path) -> Info | None:
    """The run.json of an attempt that can go on from its checkpoint; None where there is none."""
    if not os.path.exists(folder / INFO) or not os.path.exists(folder / STATE):
        return None
    before = read_info(folder)
    return before if before.status != "diverged" and before.planned_steps > 0 else None


def _train(
    attempt: _Attempt,
    above: Sequence[Info],
    before: Info | None,
    started: Info,
    out: Path,
    parents: Mapping[str, Path],
    device: torch.device,
    threads: int,
    progress: Progress,
) -> tuple[dict[str, Frozen], Trained]:
    """The parents of a run by role, and its training. above: the run.json of each parent."""
    run, recipe = attempt.run, attempt.run.definition
    split = dataset(run.place or run.dataset).train
    data = (split if run.conditional else split.unlabelled()).to(device)
    broken = next((parent for parent in above if parent.status != "ok"), None)
    if broken is not None:
        raise RuntimeError(f"it needs {broken.where}, which {broken.status}: {broken.reason}")
    held = {role: frozen(parent, device) for role, parent in parents.items()}
    if before is None:
        spending = spending_of(run, recipe, data, held, out, threads, progress)
        attempt.record(replace(started, **dataclasses.asdict(spending)))
    else:
        codes = (*before.codes, started.code)
        attempt.record(replace(before, status="training", reason="", finished="", codes=codes))
    info = attempt.info
    seed = seed_of("init", run.key, run.recipe, run.seed)
    model = build(recipe, run.space, info.width, held, run.config, seed, device, run.arithmetic.precision)
    with beside_others(device, lambda: progress.update(f"wait for the GPU to train {run.recipe}", 0, 1)) as share:
        try:
            trained = train(
                model,
                data,
                batch=info.batch,
                steps=info.planned_steps,
                coords=(run.key, run.recipe, run.seed),
                folder=attempt.folder,
                of=run.id,
                progress=progress,
                stage=f"train {run.recipe}",
                keep={round(part * info.planned_steps) for part in SNAPSHOTS},
                compiled=run.arithmetic.compiled,
            )
        finally:
            if share.crowded and not info.contended:  # recorded now, as the run may go on in another process
                attempt.record(replace(info, contended=True))
    return held, trained


def _keep(
    run: Run,
    folder: Path,
    info: Info,
    trained: Trained,
    parents: Mapping[str, Path],
    held: Mapping[str, Frozen],
) -> None:
    """Writes the files of an ended training."""
    files = {LOG: store.put(folder / LOG, trained.log)}
    if trained.status == "ok":
        if held:
            files[PARENTS] = store.put(folder / PARENTS, parents_file(parents, held))
        for step, ema in trained.kept.items():
            name = f"at-{step}.safetensors"
            files[name] = store.put(folder / name, _weights(run.where, ema=ema))
        files[WEIGHTS] = store.put(folder / WEIGHTS, _weights(run.where, ema=trained.ema, raw=trained.raw))
    _conclude(folder, info, files)


def _start(run: Run, device: torch.device, threads: int) -> Info:
    """What is known of a run before its steps are planned."""
    budget, recipe = run.tier.budget(run.space), run.definition
    return Info(
        schema=SCHEMA,
        id=run.id,
        where=run.where,
        recipe=run.recipe,
        paradigm=recipe.heading,
        summary=recipe.summary,
        dataset=run.dataset,
        checksum=run.checksum,
        seed=run.seed,
        tier=run.tier.name,
        match=run.tier.match,
        budget=budget.spending(),
        share=run.share,
        conditional=run.conditional,
        config=dataclasses.asdict(run.config),
        space={"shape": run.space.shape, "classes": run.space.classes, "levels": run.space.levels},
        parents={role: parent.where for role, parent in run.parents},
        params_target=budget.params,
        started=_now(),
        source=run.place.as_json() if isinstance(run.place, OwnData) else {},
        above=_above(run),
        **vars(run.arithmetic),
        **environment(device, threads, recipe, run.arithmetic.precision, run.config),
    )


def _above(run: Run) -> dict[str, str]:
    """See `Info.above`."""
    found: dict[str, str] = {}
    for _, parent in run.parents:
        usual = sized(parent.definition.config, parent.tier.budget(parent.space))
        changed = changes(usual, dataclasses.asdict(parent.config))
        found |= _above(parent) | {f"{parent.recipe}.{key}": text for key, text in changed.items()}
    return found


def _costed(info: Info, trained: Trained, parents: Sequence[Info]) -> Info:
    """The info of an ended training, with its own cost and that of everything it stands on, each counted once."""
    own = {
        "flops": trained.prepare_flops + trained.steps * info.flops_per_step,
        "seconds": trained.seconds,
        "images": trained.images,
    }
    contended = info.contended or os.getloadavg()[0] > 1.25 * (os.cpu_count() or 1)
    costs: dict[str, Mapping[str, float]] = {}
    for parent in parents:
        costs |= parent.costs
    costs[info.where] = own | ({"contended": 1.0} if contended else {})
    return replace(
        info,
        status=trained.status,
        reason=trained.reason,
        steps=trained.steps,
        images=trained.images,
        flops=own["flops"],
        seconds=trained.seconds,
        cpu_seconds=trained.cpu_seconds,
        images_per_second=trained.images / trained.seconds if trained.seconds else 0.0,
        flops_total=sum(cost["flops"] for cost in costs.values()),
        seconds_total=sum(cost["seconds"] for cost in costs.values()),
        images_total=int(sum(cost["images"] for cost in costs.values())),
        costs=costs,
        skipped=trained.skipped,
        symptom=trained.symptom,
        resumed=trained.resumed,
        contended=contended,
        finished=_now(),
    )


def _weights(where: str, **parts: Mapping[str, torch.Tensor]) -> bytes:
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        f"{part}.{name}": t.cpu().contiguous().clone() for part, state in parts.items() for name, t in state.items()
    }
    return save_tensors(tensors, {"run": where})


def _conclude(folder: Path, info: Info, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Records how a run ended. The manifest comes last: only with it is the folder finished. files: as `write_manifest`."""
    entry = store.write_sealed(folder / INFO, dataclasses.asdict(info))
    if info.status != "ok":
        store.save_rows(folder, [base_row(info)], key=info.status)
    store.write_manifest(folder, {INFO: entry, **files})
    if info.status != "failed":  # want of memory, say: the next attempt goes on from the checkpoint
        tidy(folder)


def _failed(folder: Path, info: Info, reason: str) -> None:
    """Records that a run failed, with the log so far."""
    path = folder / LOG
    files = {LOG: store.put(path, path.read_bytes())} if path.exists() else {}
    _conclude(folder, replace(info, status="failed", reason=reason, finished=_now()), files)


# What a run's folder holds besides the snapshots: of the training, and of what is measured on its weights.
OWN = frozenset(
    (
        *(INFO, LOG, STATE, PREPARED, WEIGHTS, PARENTS, ERROR, layout.MANIFEST, layout.RESULTS),
        *(layout.GRID, layout.SAMPLES, layout.PROTOCOLS, layout.TIMING, layout.ASKED, layout.PLANS, layout.SPACES),
    )
)


def _clear(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Takes away what an earlier attempt left, so that nothing of it is mistaken for this one's, and nothing else.

    Raises BadInput where no run was begun and others' files lie there, as behind a link to another's folder.
    """
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    strange = [path.name for path in found if path.name not in OWN and not step_of(path.name)]
    if not os.path.exists(folder / INFO) and (strange or (found and folder.is_symlink())):
        where = f"{folder}, a link to {os.path.realpath(folder)}," if folder.is_symlink() else str(folder)
        raise BadInput(
            f"{where} holds no run but {min(strange or [found[0].name])}; move that elsewhere, or choose another --out"
        )
    sweep(folder)
    for path in found:
        if path.name in strange:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # what was measured on the weights that go
        elif path.name not in keep:
            path.unlink()


def _located(error: BaseException, text: str) -> str:
    """An unexpected error in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text}{place}"


def _now() -> str:
    """UTC, to the microsecond: runs of small recipes end several in a second, and the newest is asked for by name."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tidy(folder: Path) -> None:
    """Takes away the checkpoint of a finished run that was stopped before it could. What can not be, stays."""
    for name in (STATE, PREPARED):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
