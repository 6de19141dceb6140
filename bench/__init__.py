"""Train, time, score and compare generative paradigms under one protocol.

    run = bench.train("flow-matching", "digits", tier="smoke")     # or bench.load(FOLDER)
    samples = bench.sample(run, 1000)
    bench.score(samples, "digits")

`bench.frame(FOLDER)` gives every row of a folder of runs; `bench.BadInput` is what a mistake raises. What these need is
imported when they are first asked for, so that `import bench` and the command line answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import frame, load, sample, score, train
    from bench.opened import Opened
    from paradigms.errors import BadInput

__distribution__ = "paradigm-bench"
__all__ = ["BadInput", "Opened", "frame", "load", "sample", "score", "train"]

_LATER = {
    "BadInput": "paradigms.errors",
    "Opened": "bench.opened",
    **dict.fromkeys(("frame", "load", "sample", "score", "train"), "bench.api"),
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for (PEP 562). Raises ImportError where packages clash."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys
    from importlib import import_module

    from bench.start import clash

    if _LATER[name] not in sys.modules and (line := clash()):
        raise ImportError(line)
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
