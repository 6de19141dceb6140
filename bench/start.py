"""Where the command `bench` begins: it is made sure that the packages in use are this project's own, before any is used.

The installed names `bench`, `paradigms` and `reports` are generic. Another distribution, or a folder of such a name in
which Python is started, may come first, and an installer lets one distribution write over the files of another.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["clash", "main"]

NAMES = ("bench", "paradigms", "reports")
OWN = b'\n__distribution__ = "paradigm-bench"\n'  # in the first file of each package
REMEDY = "install paradigm-bench into an environment of its own"


def clash() -> str:
    """What is found in the place of one of this project's packages, in a line; "" where all are its own."""
    root = Path(__file__).parents[1]
    for name in NAMES:
        own = root / name / "__init__.py"
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            return f"the package '{name}' is not beside 'bench' in {root}; {REMEDY}"
        place = spec.origin or next(iter(spec.submodule_search_locations or []), "?")
        if os.path.realpath(place) != os.path.realpath(own):
            return (
                f"another package is called '{name}' and comes first: Python finds {place}, not {own}; start from another "
                f"folder, take it from PYTHONPATH, or {REMEDY}"
            )
        if OWN not in own.read_bytes():
            return f"another distribution has written its '{name}' over this one's in {own.parent}; {REMEDY}"
    return ""


def main() -> None:
    """The command line, or one line on stderr and exit code 2."""
    if line := clash():
        sys.exit(_refused(line))
    from bench.cli import app

    app()


def _refused(line: str) -> int:
    print("error: " + " ".join(line.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
