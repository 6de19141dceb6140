"""Runs: a recipe on a data set with a seed and a budget, from its identity to the files of its folder.

`define` says what a run is, `ensure` makes it exist (its parents first; a finished folder is a cache hit), `load` gives
the model back. A run's folder is <out>/<data set>/<recipe>/<seed>-<hash>, the hash being over all that defines the run:

    run.json             what was run, what it cost, on which machine, how it ended (`Info`)
    log.jsonl            the course of the training (see bench.loop); whole when it has ended
    weights.safetensors  final weights and buffers, averaged ("ema.") and as they were ("raw.")
    parents.safetensors  what its parents are rebuilt from where they are gone and only their kind is asked: settings, buffers
    at-STEP.safetensors  averaged weights after a quarter and after half of the steps
    manifest.json        sha256 of each file, checked when it is read
    .lock                held by whoever writes into the folder
    state.pt             the checkpoint, while training and after a failure
    error.txt            the traceback of a run that failed

The folder of a recipe's runs also holds plan-<hash>.json (`Spending`): the width that meets the parameter target and the
number of steps that meets the budget, found once and shared by all seeds. Folders of earlier versions hold it too, so the
file keeps its name.

    identity -> info -> command -> budget -> loading -> training -> make      (settings and machine below them)
"""

from bench.runs.budget import fit_width
from bench.runs.command import again, out_of
from bench.runs.identity import Run, dataset, define, needed, refusal, slug
from bench.runs.info import SNAPSHOTS, Info, base_row, measured, read_info, snapshots
from bench.runs.loading import data_of, load
from bench.runs.machine import code_version, device_for, device_of, environment, gpus_of
from bench.runs.make import ensure, is_finished, made_anew, other_code, wanting
from bench.runs.settings import configure, flat
from bench.runs.training import tidy
from reports.layout import ERROR, INFO, PARENTS, PROTOCOLS, WEIGHTS

__all__ = [
    "ERROR",
    "INFO",
    "PARENTS",
    "PROTOCOLS",
    "SNAPSHOTS",
    "WEIGHTS",
    "Info",
    "Run",
    "again",
    "base_row",
    "code_version",
    "configure",
    "data_of",
    "dataset",
    "define",
    "device_for",
    "device_of",
    "ensure",
    "environment",
    "fit_width",
    "flat",
    "gpus_of",
    "is_finished",
    "load",
    "made_anew",
    "measured",
    "needed",
    "other_code",
    "out_of",
    "read_info",
    "refusal",
    "slug",
    "snapshots",
    "tidy",
    "wanting",
]
