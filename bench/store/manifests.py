"""The manifest of a folder: the sha256 and the size of each file that was written into it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.store.files import damaged, read
from bench.store.lock import locked
from bench.store.row import SCHEMA
from bench.store.sealed import read_json, write_json
from bench.store.typed import fits
from reports.layout import MANIFEST

__all__ = ["entry_of", "manifest", "missing", "read_verified", "verify", "write_manifest"]


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """What manifest.json says of each file: {"name": {"sha256", "bytes", ...}}; {} when there is no manifest.

    Raises BadInput when it is none, or lists a name that leads out of the folder.
    """
    path = Path(folder) / MANIFEST
    if not os.path.exists(path):
        return {}
    files: Any = read_json(path).get("files")
    if not fits(Mapping[str, Mapping[str, Any]])(files) or not all(map(_is_entry, files.values())):
        raise damaged(path, "is not a manifest")
    for name in files:
        if not name or name.startswith("/") or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise damaged(path, f"lists {name!r}, which is no file in its folder")
    return files


def _is_entry(entry: Mapping[str, Any]) -> bool:
    later = entry.get("next")
    typed = (
        fits(str)(entry.get("sha256"))
        and all(map(fits(str | None), (entry.get("key"), entry.get("place"))))
        and fits(int | None)(entry.get("bytes"))
    )
    return typed and (later is None or (isinstance(later, dict) and _is_entry(later)))


def write_manifest(folder: Path, files: Mapping[str, Mapping[str, Any]], **facts: Any) -> None:
    """Records files, by their names, with what `put` gave for each and further `facts`; others stay recorded.

    One that is recorded and is gone stays recorded too, so that it is missed.
    """
    folder = Path(folder)
    with locked(folder):
        listed = manifest(folder) | {name: {**entry, **facts} for name, entry in files.items()}
        write_json(folder / MANIFEST, {"schema": SCHEMA, "files": dict(sorted(listed.items()))})


def read_verified(folder: Path, name: str) -> bytes:
    """The bytes of a file that the manifest lists. Raises BadInput when it is missing, unlisted or changed."""
    folder = Path(folder)
    entry = manifest(folder).get(name)
    if entry is None:
        raise damaged(folder / name, f"is not listed in {MANIFEST}")
    if not os.path.exists(folder / name):
        raise damaged(folder / name, f"is missing, but {MANIFEST} lists it")
    sizes = {one.get("bytes") for one in (entry, entry.get("next") or entry)}
    data = read(folder / name) if not sizes.isdisjoint({None, (folder / name).stat().st_size}) else b""
    if hashlib.sha256(data).hexdigest() != entry_of(entry, data)["sha256"]:
        raise damaged(folder / name, f"is damaged (its sha256 is not the one in {MANIFEST})")
    return data


def verify(folder: Path, names: Iterable[str] | None = None) -> None:
    """Checks files of the manifest, by default all, and holds none of them whole.

    Raises BadInput naming the first that is missing or changed, or that the manifest does not list.
    """
    folder, listed = Path(folder), manifest(folder)
    for name in listed if names is None else names:
        entry, path, digest = listed.get(name, {}), folder / name, ""
        with suppress(OSError):
            # A pipe would be waited for, and a file of another size is another without being read.
            if os.path.isfile(path) and entry.get("bytes") in (None, path.stat().st_size):
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry.get("sha256"):
            read_verified(folder, name)  # which says what is wrong, or knows it for what was to be next


def missing(folder: Path) -> list[str]:
    """The names of the files that the manifest lists and that are gone. Raises BadInput when it is none."""
    return [name for name in manifest(folder) if not os.path.exists(Path(folder) / name)]


def entry_of(entry: dict[str, Any], data: bytes) -> dict[str, Any]:
    """What the manifest says of these bytes of a file: what stands there, or what was to be next when it was stopped."""
    later = entry.get("next")
    return later if later is not None and hashlib.sha256(data).hexdigest() == later["sha256"] else entry
