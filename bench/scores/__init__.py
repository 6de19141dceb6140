"""Scores: one pool of samples per (sampler, step count), every metric on it, every likelihood the card declares.

A pool is drawn once, in chunks whose size depends on the data's shape alone; sample i of it does not depend on the
chunk, the pool's size, the worker or what was drawn before. It is rounded to the data's integers, its features are
computed once, and every metric reads them, against as many test as training examples. Network calls are counted while
the pool is drawn. The headline plan draws several disjoint sets, one long stream cut in pieces, and from the tier
"standard" on its rows are also made with the raw weights and with those of a quarter and half of the budget.

What flows where:

    run.evaluate, asked.*   a run's folder is opened into a `Subject` (subject.py), which all that follows receives
    pools -> quality        `pools.draw` makes a `Pool`, `quality.rows` compares it with a `Reference` (reference.py)
    likelihood, codec       rows of log-likelihoods of `Examples` and of a codec's reconstructions; means.py: their units
    baselines               what needs no model: real against real, training images as samples, a fitted Gaussian, noise
    external                anyone's samples, which samples.py, arrays.py and image_folder.py read as a `Target` says
    kept                    the keys under which finished rows are kept; pictures.py: the grid and the first samples

The rows of each are made from one base row (rows.py), and work.py says how far the work is.
"""

from __future__ import annotations

from bench.scores.asked import in_spaces, likelihoods, sampled, shown
from bench.scores.baselines import floor, has_baselines, score_baselines
from bench.scores.external import score
from bench.scores.pictures import grid_png, in_columns, write_samples
from bench.scores.pools import Pool, draw, plans, pool_labels
from bench.scores.reference import forget, subset
from bench.scores.run import evaluate, is_evaluated
from bench.scores.samples import read_samples, samples_of
from bench.scores.target import WAYS, Resize, Samples
from reports.layout import ASKED, GRID, PLANS, SAMPLES, SPACES

__all__ = [
    "ASKED",
    "GRID",
    "PLANS",
    "SAMPLES",
    "SPACES",
    "WAYS",
    "Pool",
    "Resize",
    "Samples",
    "draw",
    "evaluate",
    "floor",
    "forget",
    "grid_png",
    "has_baselines",
    "in_columns",
    "in_spaces",
    "is_evaluated",
    "likelihoods",
    "plans",
    "pool_labels",
    "read_samples",
    "sampled",
    "samples_of",
    "score",
    "score_baselines",
    "shown",
    "subset",
    "write_samples",
]
