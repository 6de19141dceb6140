"""Makes runs exist: those that are finished are verified and used, the others trained, their parents first."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from bench import store
from bench.arithmetic import card_of
from bench.progress import Progress, graceful_stop
from bench.runs.identity import Run
from bench.runs.info import read_info, step_of
from bench.runs.machine import code_version, device_of
from bench.runs.training import tidy, train_run
from paradigms.core.noise import BLOCKS
from paradigms.errors import BadInput
from reports.layout import INFO, LOG, PARENTS, STATE, WEIGHTS

__all__ = ["ensure", "is_finished", "made_anew", "other_code", "wanting"]

_log = logging.getLogger(__name__)


def ensure(
    run: Run,
    out: Path,
    progress: Progress | None = None,
    *,
    device: str | torch.device = "auto",
    threads: int = 1,
) -> Path:
    """Trains a run unless it is there, the runs it needs first, and returns its folder.

    A finished folder is verified and used, with a warning where other code trained it. An interrupted one goes on, with
    the steps and threads it began with. A run that diverges or fails keeps its reason in run.json and as a row in
    results.jsonl (`read_info(folder).status`), and is tried again when it is next asked for: what diverged from the
    start, what failed from its last checkpoint. Two processes never train the same folder: the second waits for the
    first. Raises BadInput for what the user can mend (a damaged folder, an unwritable place), and KeyboardInterrupt
    after a checkpoint when `progress` was asked to stop (without one: on Ctrl-C).
    """
    where = device_of(device) if isinstance(device, str) else device
    if run.arithmetic.noise != BLOCKS[where.type].version:
        raise BadInput(
            f"{run.where} was planned for another kind of device than {where.type}, whose noise is not the same"
        )
    if run.arithmetic.card != card_of(where):
        raise BadInput(
            f"{run.where} was planned for {run.arithmetic.card or 'no model of GPU'}, not for {card_of(where)}, whose noise "
            "is not the same; run the same command again"
        )
    if progress is None:
        with graceful_stop() as stopping:
            return ensure(run, out, Progress(run.where, None, stopping), device=where, threads=threads)
    if (line := other_code([run], out)) is not None:
        _log.warning(line)
    return _ensure(run, out, progress, where, threads)


def _ensure(run: Run, out: Path, progress: Progress, where: torch.device, threads: int) -> Path:
    folder = run.folder(out)

    def parent_of(role: str, parent: Run) -> None:
        try:
            _ensure(parent, out, progress, where, threads)
        except BadInput as error:
            raise BadInput(f"{run.recipe} {run.id} needs its {role} {parent.recipe} {parent.id}: {error}") from None

    if is_finished(folder):
        tidy(folder)
        for role, parent in wanting(run, out).items():
            with suppress(BadInput):  # damaged: reported below
                if not is_finished(parent.folder(out)):
                    _log.warning(made_anew(run, parent, out))
            parent_of(role, parent)
        return folder
    parents = {}
    for role, parent in run.parents:
        parents[role] = parent.folder(out)
        # It ended so under this same code, so training it again would end the same way.
        if not _would_fail_again(parents[role], parent):
            parent_of(role, parent)
    with store.locked(folder, lambda: progress.update(f"wait for {run.recipe}", 0, 1)):
        if not is_finished(folder):  # another process may have trained it while this one waited
            train_run(run, out, folder, parents, where, threads, progress)
    return folder


def wanting(run: Run, out: Path) -> dict[str, Run]:
    """By role the runs that a finished one can not be loaded without.

    Those that it draws samples with; of a run from before `PARENTS` all, as nothing else says how its model is built.
    """
    needs, kept = run.definition.needs, PARENTS in store.manifest(run.folder(out))
    return {role: parent for role, parent in run.parents if needs[role].at_sampling or not kept}


def made_anew(run: Run, parent: Run, out: Path) -> str:
    """The warning for a finished run whose parent is gone and is trained again."""
    folder = run.folder(out)
    return (
        f"{folder} was trained on {parent.folder(out)}, which is gone and is made anew; where that was on another machine "
        f"or by other code it is not the same, so delete {folder} too and train both"
    )


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a whole trained run. Raises BadInput when it says so and does not."""
    if not os.path.exists(folder / INFO):
        if os.path.exists(folder / store.MANIFEST) and WEIGHTS in store.manifest(folder):
            raise BadInput(f"{folder / INFO} is missing; delete the folder {folder} and run the same command again")
        return False
    if read_info(folder).status != "ok":
        return False
    listed = store.manifest(folder)
    if WEIGHTS not in listed:
        if os.path.exists(folder / WEIGHTS) and not os.path.exists(folder / STATE):
            raise BadInput(
                f"{folder / store.MANIFEST} is missing or incomplete, so the trained weights beside it can not be "
                f"verified; put it back, or delete the folder {folder} to train the run again"
            )
        return False
    kept = [name for name in listed if name == PARENTS or step_of(name)]
    store.verify(folder, (INFO, LOG, WEIGHTS, *kept))
    return True


def other_code(planned: Sequence[Run], out: Path) -> str | None:
    """One line on those of the runs, and of what they need, that another version of the code trained; else None."""
    folders = {}
    pending = list(planned)
    while pending:
        run = pending.pop()
        folders[run.where] = run.folder(out)
        pending += [parent for _, parent in run.parents]
    infos, here = [], dict[tuple[str, str], str]()
    for folder in folders.values():
        with suppress(BadInput):  # none, or damaged, or of a recipe that is not known: reported where it is used
            info = read_info(folder)
            here[info.recipe, str(info.config)] = code_version(info.definition, info.config)
            infos.append(info)
    old = [info for info in infos if info.status == "ok" and info.code != here[info.recipe, str(info.config)]]
    if not old:
        return None
    which = ", ".join(sorted({info.recipe for info in old}))
    return (
        f"warning: {len(old)} finished {'run was' if len(old) == 1 else 'runs were'} trained by another version of the "
        f"code and stand as they are ({which}); for the code as it is now give a new folder with --out, or delete them"
    )


def _would_fail_again(folder: Path, run: Run) -> bool:
    if not os.path.exists(folder / INFO):
        return False
    info = read_info(folder)
    return info.status in ("diverged", "failed") and info.code == code_version(run.definition, run.config)
