"""The names of the files and folders that the suite writes, each in this one place."""

from __future__ import annotations

# Of any folder that is written to.
MANIFEST = "manifest.json"  # the sha256 of each file
LOCK = ".lock"  # held by whoever writes into the folder
RESULTS = "results.jsonl"  # rows

# Of a run.
INFO = "run.json"  # what was run, how it ended, what it cost
LOG = "log.jsonl"  # the course of the training
STATE = "state.pt"  # the checkpoint, while training
PREPARED = "prepared.pt"  # what `prepare` returned, where that is not the data itself, while training
WEIGHTS = "weights.safetensors"
PARENTS = "parents.safetensors"  # what its parents are rebuilt from
ERROR = "error.txt"  # the traceback of a failure
GRID = "grid.png"  # a picture of samples
SAMPLES = "samples.npz"  # the first samples

# Folders inside a run's own, of rows.
PROTOCOLS = "protocols"  # what tiers other than the run's own measured of it, a folder each
TIMING = "timing"  # of timings
ASKED = "likelihood"  # of likelihoods that a user chose
PLANS = "samplers"  # of plans that a user chose
SPACES = "features"  # in feature spaces that a user named

# In an output folder.
BASELINES = "baselines"  # next to the recipes' folders: what is measured without a run
REPORT = "report"  # the reports
PAGE = "report.html"  # in a report's own folder
FIGURES = "figures"
