"""The one exception a user's mistake raises, and how want of memory is known. Imports nothing: the command line starts fast."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """What is wrong, where, and what to do next, in one line. The command line prints it and exits with 2."""


LISTED = 100  # names in a message: someone's own images may have thousands of classes


def unknown(what: str, name: str, known: Iterable[str]) -> BadInput:
    """A BadInput for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    more = f" … and {len(known) - LISTED:,} more" if len(known) > LISTED else ""
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known[:LISTED])}{more}"
    return BadInput(f"unknown {what} '{name}'; {hint}")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was wanting: Python's error, torch's on a GPU, or the text by which torch says so on a CPU."""
    # By name: torch is not imported for this.
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)
