"""What samples are worth: distances to real data, fidelity and diversity, memorisation, and the toys' exact measures.

Where one pass over the data is enough a metric is a `Stream`: sufficient statistics in float64, fed batch by batch and
merged across processes. Where all pairs count it is a function that holds a block of them at a time. Either way the same
input gives the same value whatever the batch, no random number is drawn that is not fixed by the code, and nothing here
disturbs the global generators. Samples come first and real data second, everywhere.

`METRICS` at the foot of each file says of its metrics what is best, what they are, where from and what they cost. Each value
has a floor: what real images score against other real images; `floor` computes it, and no value means much without it.
"""

from __future__ import annotations

from bench.metrics.blocks import Tell, in_turn
from bench.metrics.compared import Compared, values_of
from bench.metrics.frechet import (
    FrechetDistance,
    distance_of_gaussians,
    extrapolated_distance,
    frechet_distance,
    reconstruction_distance,
)
from bench.metrics.kernel import kernel_distance
from bench.metrics.labels import (
    ClassifierScore,
    LabelHistogram,
    classification_accuracy_score,
    classifier_score,
    label_accuracy,
    label_distance,
)
from bench.metrics.likelihood_gap import likelihood_gap
from bench.metrics.memorise import memorisation
from bench.metrics.modes import stacked_modes
from bench.metrics.moments import Moments
from bench.metrics.neighbours import NEIGHBOURS, neighbourhoods
from bench.metrics.quality import floor, quality, quality_without_fd, vector_quality
from bench.metrics.sharpness import Sharpness, sharpness
from bench.metrics.stream import Stream
from bench.metrics.table import computed, plugin_files
from bench.metrics.values import PER_FEATURE, Features, Value, evenly
from reports.metrics import Metric

__all__ = [
    "NEIGHBOURS",
    "PER_FEATURE",
    "ClassifierScore",
    "Compared",
    "Features",
    "FrechetDistance",
    "LabelHistogram",
    "Metric",
    "Moments",
    "Sharpness",
    "Stream",
    "Tell",
    "Value",
    "classification_accuracy_score",
    "classifier_score",
    "computed",
    "distance_of_gaussians",
    "evenly",
    "extrapolated_distance",
    "floor",
    "frechet_distance",
    "in_turn",
    "kernel_distance",
    "label_accuracy",
    "label_distance",
    "likelihood_gap",
    "memorisation",
    "neighbourhoods",
    "plugin_files",
    "quality",
    "quality_without_fd",
    "reconstruction_distance",
    "sharpness",
    "stacked_modes",
    "values_of",
    "vector_quality",
]
