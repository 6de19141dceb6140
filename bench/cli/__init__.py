"""The command line: `bench all`, `train`, `sample`, `evaluate`, `time`, `report`, `compare`, `list`, `data`, `check`.

A command asks (text to things: `options`, `bench.inputs`), does (the rest of `bench`) and shows (`shown`). Nothing here
imports torch, pandas or scikit-learn before work starts, so that help and completion answer at once.
"""

from __future__ import annotations

from bench.cli import checking, listing, reporting, sampling, scoring, training
from bench.cli.program import app

__all__ = ["app"]

# In the order of `bench --help`.
for _name, _command in (
    ("all", training.all_),
    ("train", training.train),
    ("sample", sampling.sample),
    ("evaluate", scoring.evaluate),
    ("time", scoring.time_),
    ("report", reporting.report),
    ("compare", reporting.compare),
    ("list", listing.list_),
    ("data", listing.data),
    ("check", checking.check),
):
    app.command(_name)(_command)
