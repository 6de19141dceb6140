"""Data by name: real images, toy densities with a known log p, folders of images.

`load(name)` gives a `Dataset`; `fetch(name)` puts its files into the cache; `describe()` lists the names. Only
`bench.data.names` is imported at once, so that listing and completing names needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.data.names import Definition, describe, info, known

if TYPE_CHECKING:
    from bench.data.dataset import Dataset, Density
    from bench.data.sets import fetch, load

__all__ = ["Dataset", "Definition", "Density", "describe", "fetch", "info", "known", "load"]

_LATER = {
    "Dataset": "bench.data.dataset",
    "Density": "bench.data.dataset",
    "fetch": "bench.data.sets",
    "load": "bench.data.sets",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
