"""The runs under a folder: found once, and then carried instead of the folder's path."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.walk import Walk, walk
from paradigms.errors import BadInput
from reports.layout import INFO, PROTOCOLS

__all__ = ["Runs", "is_run", "json_of"]


class Runs:
    """The runs under a folder, which need not exist. It is walked when it is first asked about, and only once.

    root: the folder that the user named, as typed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def below(self) -> Walk:
        """Everything below the folder."""
        return walk(self.root)

    @property
    def lost(self) -> list[str]:
        """What could not be entered, a line each; none where there is no such folder."""
        return list(self.below.lost.values()) if self.root.is_dir() else []

    @property
    def folders(self) -> list[Path]:
        """The run folders, in the order of their paths."""
        return self.below.holding(INFO)

    @cached_property
    def newest_first(self) -> list[tuple[Path, dict[str, Any]]]:
        """(folder, content of run.json) of every run, the one that ended last first; {} where run.json is damaged.

        A run that has not ended counts by its start. Older versions kept whole seconds only: of equal times the run
        whose run.json was written last counts as the newer one.
        """
        from bench import store

        found = []
        for folder in reversed(self.folders):
            written = 0
            with contextlib.suppress(OSError):
                written = (folder / INFO).stat().st_mtime_ns
            info = json_of(folder / INFO)
            if reason := store.misplaced(folder, info.get("id")) if info else "":
                info = {"note": reason}  # a recipe's name never means a run that lies in another's place
            found.append(((_ended(info), written), folder, info))
        return [(folder, info) for _, folder, info in sorted(found, key=lambda run: run[0], reverse=True)]

    def infos(self) -> Iterator[dict[str, Any]]:
        """The content of every run.json, the newest run first."""
        return (info for _, info in self.newest_first)

    @property
    def with_rows(self) -> list[Path]:
        """The folders that hold rows of results, or should."""
        from bench import store

        return [folder for folder, _ in sorted(self.below.folders) if store.has_rows(folder)]

    def results(self, tier: str, more: Iterable[Path] = ()) -> list[Path]:
        """The folders of rows that a report of this tier is made from, in order. Raises BadInput where there are none.

        Left out are folders where a tier that is not the run's own measured it, but those of `tier`.
        more: further folders, from outside of the root.
        """
        if found := _measured_by([*self.with_rows, *more], tier, self.root):
            return found
        advice = "run `bench all` or `bench evaluate` first, or name the folder of the runs"
        raise BadInput(f"no results in {self.root}; {advice}")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / INFO).exists()


def json_of(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} where it is damaged."""
    from bench.store import read_json

    with contextlib.suppress(BadInput):
        return read_json(path)
    return {}


def _ended(info: Mapping[str, Any]) -> float:
    """When a run ended, or else started, in seconds since 1970; 0 where run.json does not say."""
    try:
        return datetime.fromisoformat(info.get("finished") or info["started"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return 0.0


def _measured_by(folders: Iterable[Path], tier: str, root: Path) -> list[Path]:
    """The folders of rows, in order, without those where a tier that is neither the run's own nor `tier` measured it.

    A folder inside of which `root` lies was asked for by the user, and so leaves nothing out.
    """
    from bench.runs import slug

    def measurer(folder: Path) -> str:
        inside = itertools.takewhile(lambda up: up != root, (folder, *folder.parents))
        places = [up for up in inside if up.parent.name == PROTOCOLS and is_run(up.parent.parent)]
        return places[0].name if places else ""

    return sorted(folder for folder in folders if measurer(folder) in ("", slug(tier) if tier else ""))
