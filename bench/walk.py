"""Folders below a folder, links followed. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Walk", "walk"]


class Walk(NamedTuple):
    """What is below a folder.

    folders: each folder with the names of its files, the root first.
    lost:    what could not be entered, with the reason: links that lead nowhere, folders that may not be read.
    again:   links to folders that are among `folders` under another name.
    """

    folders: list[tuple[Path, list[str]]]
    lost: dict[Path, str]
    again: list[Path]

    def holding(self, name: str) -> list[Path]:
        """The folders that hold a file called `name`, in the order of their paths."""
        return sorted(folder for folder, files in self.folders if name in files)


def walk(root: Path, enter: Callable[[str], bool] = lambda name: True) -> Walk:
    """Everything below `root` whose name `enter` lets in.

    Links to folders are followed. Each folder is entered once, known by device and inode, so that a circle ends; one
    that lies below `root` itself goes by its own name, not by that of a link to it.
    """
    found = Walk([], {}, [])
    seen = set[tuple[int, int]]()
    folders, links = [Path(root)], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                found.again.append(folder)
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted((entry for entry in entries if enter(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            found.lost[folder] = f"{folder} can not be read: {error.strerror or error}"
            continue
        files, below = list[str](), list[Path]()
        for entry in inside:
            path = folder / entry.name
            try:
                if path.is_dir():
                    (links if entry.is_symlink() else below).append(path)
                elif entry.is_symlink() and not path.exists():
                    found.lost[path] = f"{path} links to {os.readlink(path)}, which is not there"
                else:
                    files.append(entry.name)
            except OSError as error:  # of a folder that may be listed but not entered, or gone meanwhile
                found.lost[path] = f"{path} can not be read: {error.strerror or error}"
        folders += reversed(below)
        found.folders.append((folder, files))
    return found
