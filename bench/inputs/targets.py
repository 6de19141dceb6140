"""Files and folders that a user has results written to, proved to be writable before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from paradigms.errors import BadInput
from reports.layout import INFO

__all__ = ["check_folder", "check_results", "check_target"]


def check_folder(path: Path) -> None:
    """Raises BadInput for a folder that is not there and can not be made. An existing one may need nothing written."""
    if not path.is_dir():
        _check_writable(path)


def check_target(to: Path, suffixes: Sequence[str]) -> None:
    """Raises BadInput where samples can not be written: to a file with one of the suffixes, or into a folder."""
    if to.suffix and to.suffix.lower() not in suffixes:
        raise BadInput(f"--to {to}: the name must end in .png or .npz, or be a folder")
    if to.suffix and to.is_dir():
        raise BadInput(f"--to {to} is a folder; name a file in it")
    if not to.suffix and to.is_dir() and (image := _image_in(to)):
        raise BadInput(
            f"--to {to}: there are PNG files or other images in it, as {image}, which would be mixed with the new ones; "
            "name another"
        )
    _check_writable(to.parent if to.suffix else to)


def check_results(to: Path, grid: str) -> None:
    """Raises BadInput for a folder that rows can not be kept in: one with other files, as a run's own rows would be lost.

    grid: the name of the picture that lies with rows of samples.
    """
    if to.exists() and not to.is_dir():
        raise BadInput(f"--to {to} is a file; name a folder")
    others = [path for path in to.iterdir() if not path.name.startswith(".")] if to.is_dir() else []
    if (to / INFO).exists() or (others and not (to / grid).exists()):
        raise BadInput(f"--to {to} holds other files; name a new folder")
    _check_writable(to)


def _check_writable(path: Path) -> None:
    """Raises BadInput where no files can be written into the folder, and leaves none behind."""
    from bench import store

    store.writable(path)


def _image_in(folder: Path) -> str:
    """The path of the first image below a folder, which the folder's images would be read with; "" for none."""
    from bench.data.folder import SUFFIXES
    from bench.data.names import readable

    for path, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found = sorted(name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        if found:
            return readable(os.path.relpath(os.path.join(path, found[0]), folder))
    return ""
