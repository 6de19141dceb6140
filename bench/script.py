"""What the small programs of this package, `python -m bench.NAME`, have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps

from bench.terminal import shown
from paradigms.errors import BadInput

__all__ = ["answered"]


def answered(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """The exit code of a program: 0, or 2 after bad input, which is reported in one line as by `bench`."""

    @wraps(main)
    def program(arguments: Sequence[str] | None = None) -> int:
        with shown():
            try:
                main(arguments)
            except BadInput as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
        return 0

    return program
