"""The one table of metrics: what each is called, which way is better, what is best, what it is, where from, its cost.

A report takes titles, arrows and meanings from here; the table in docs/metrics.md is made from it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DISTANCES", "FID", "LIKELIHOODS", "METRICS", "RATIOS", "SHOWN", "SPEED", "UNITS", "Metric"]


class Metric(NamedTuple):
    """What is known of a metric before it is measured.

    title:     its column in a report; "" for one that no report shows.
    direction: "↓" or "↑" where lower or higher is better, else "".
    judged:    whether the best recipes are marked in its column.
    best:      the value to wish for; "floor" where real data does not reach the ideal either.
    source:    the paper. cost: CPU-seconds of one thread for 2,000 samples against 2,000 of 64 features, 28×28 pixels
    (memorisation: against 10,000 training images) or two coordinates; "" for those that come with the one above.
    """

    name: str
    title: str
    direction: str
    judged: bool
    best: str
    meaning: str
    source: str = ""
    cost: str = ""


# In the order of a report's columns and of the table in docs/metrics.md.
METRICS = (
    Metric(
        "fd",
        "FD",
        "↓",
        True,
        "floor",
        "Fréchet distance of Gaussians fitted to features; biased up by about d/n",
        "arXiv:1706.08500",
        "0.01",
    ),
    Metric(
        "fd_inf",
        "FD∞",
        "↓",
        True,
        "0",
        "fd extrapolated to infinitely many samples by a line in 1/n",
        "arXiv:1911.07023",
        "0.03",
    ),
    Metric(
        "fd_inf_r2", "", "", False, "1", "R² of that line: how much of fd is bias, and how linear the bias is", "", ""
    ),
    Metric(
        "rfd",
        "rFD",
        "",
        False,
        "0",
        "fd between a codec's reconstructions of held-out images and these images: what it loses",
        "",
        "",
    ),
    Metric(
        "kd",
        "Kernel distance",
        "↓",
        True,
        "0",
        "squared maximum mean discrepancy, cubic kernel; unbiased, so also below 0",
        "arXiv:1801.01401",
        "0.16",
    ),
    Metric(
        "precision",
        "Precision",
        "↑",
        True,
        "floor",
        "share of samples within reach of a real image: fidelity",
        "arXiv:1904.06991",
        "0.19",
    ),
    Metric(
        "recall",
        "Recall",
        "↑",
        True,
        "floor",
        "share of real images within reach of a sample: diversity",
        "arXiv:1904.06991",
        "",
    ),
    Metric(
        "density",
        "Density",
        "",
        False,
        "floor",
        "real images with a sample within reach, counted for each sample, over k; contraction raises it",
        "arXiv:2002.09797",
        "",
    ),
    Metric(
        "coverage",
        "Coverage",
        "↑",
        True,
        "floor",
        "share of real images with a sample within their own reach",
        "arXiv:2002.09797",
        "",
    ),
    Metric(
        "label_tv",
        "Label TV",
        "↓",
        True,
        "0",
        "total variation between predicted labels of samples and of real images",
        "",
        "<0.01",
    ),
    Metric(
        "label_kl",
        "Label KL",
        "↓",
        True,
        "0",
        "KL(predicted labels of samples ‖ of real images), nats, each count with ½ added",
        "",
        "",
    ),
    Metric(
        "label_modes", "Labels", "↑", True, "all", "labels with at least a tenth of their real share of samples", "", ""
    ),
    Metric(
        "classifier_score",
        "Classifier score",
        "",
        False,
        "floor",
        "exp E KL(p(y given x) ‖ p(y)): the Inception score on the named network",
        "arXiv:1606.03498",
        "<0.01",
    ),
    Metric(
        "label_accuracy",
        "Label accuracy",
        "↑",
        True,
        "1",
        "share of samples that the classifier gives the label they were drawn for",
        "",
        "<0.01",
    ),
    Metric(
        "cas",
        "CAS",
        "↑",
        True,
        "floor",
        "accuracy on real images of a logistic regression trained on samples' features and labels",
        "arXiv:1905.10887",
        "0.02",
    ),
    Metric(
        "sharpness",
        "Sharpness",
        "",
        False,
        "1",
        "variance of the Laplacian of samples over that of real images; below 1 blur, above it noise",
        "Pech-Pacheco et al. 2000",
        "0.16",
    ),
    Metric(
        "nn_ratio",
        "NN ratio",
        "",
        False,
        "1",
        "distance to the nearest training image: of samples over that of held-out images; 0 = copies",
        "",
        "1.4",
    ),
    Metric(
        "authenticity",
        "Authenticity",
        "",
        False,
        "floor",
        "share of samples farther from their nearest training image than that is from its own nearest",
        "arXiv:2102.08921",
        "",
    ),
    Metric(
        "nn_gap",
        "NN gap",
        "",
        False,
        "0",
        "how much nearer samples are to training than to held-out images, -1 to 1; 1 = copies",
        "",
        "",
    ),
    Metric(
        "fld_gap",
        "FLD gap",
        "",
        False,
        "floor",
        "generalisation gap of the feature likelihood divergence; far below 0 = copies",
        "arXiv:2302.04440",
        "0.12",
    ),
    Metric("w2", "W₂", "↓", True, "floor", "exact 2-Wasserstein distance of at most 2,000 vectors", "", "0.66"),
    Metric(
        "sw2",
        "Sliced W₂",
        "↓",
        True,
        "floor",
        "sliced 2-Wasserstein distance over 256 fixed directions",
        "Bonneel et al. 2015",
        "0.08",
    ),
    Metric(
        "mmd2",
        "MMD²",
        "↓",
        True,
        "0",
        "squared maximum mean discrepancy, five Gaussian widths in units of the real columns, unbiased",
        "Gretton et al. 2012",
        "0.23",
    ),
    Metric("energy", "Energy", "↓", True, "0", "energy distance, unbiased", "Székely & Rizzo 2013", "0.05"),
    Metric(
        "c2st",
        "C2ST",
        "↓",
        True,
        "0.5",
        "accuracy of a nearest-neighbour classifier that tells samples from real vectors, 5 folds",
        "arXiv:1610.06545",
        "0.06",
    ),
    Metric(
        "modes",
        "Modes",
        "↑",
        True,
        "all",
        "modes with at least a tenth of their expected samples; in stacked images, with one sample",
        "",
        "<0.01",
    ),
    Metric(
        "mode_tv",
        "Mode TV",
        "↓",
        True,
        "0",
        "total variation between the modes' shares of samples and of real vectors",
        "",
        "",
    ),
    Metric(
        "mode_kl",
        "Mode KL",
        "↓",
        True,
        "floor",
        "KL(modes of stacked samples ‖ uniform), nats; (M-1)/2n of perfect samples",
        "arXiv:1705.07761",
        "",
    ),
    Metric(
        "off_support",
        "Off support",
        "↓",
        True,
        "floor",
        "share of samples where log p is below what 99 % of real vectors have",
        "",
        "<0.01",
    ),
)
# Those that have a column in a report, by name.
SHOWN = {metric.name: metric for metric in METRICS if metric.title}

# What a report measures of a model, besides the quality of its samples: (title, direction).
SPEED = {"latency": ("Latency", "↓"), "throughput": ("Throughput", "↑"), "peak_memory": ("Peak memory", "↓")}
LIKELIHOODS = ("bits_per_dim", "nll")
UNITS = {"bits_per_dim": "bits/dim", "nll": "nats"}
# Distances, which a model has to bring below those of the baselines.
DISTANCES = ("fd", "fd_inf", "kd", "w2", "sw2", "mmd2", "energy")
# Metrics that are compared as ratios, by their logarithms, where all scores are positive: distances and costs, whose
# errors grow with them. All others (shares, counts, nats) are compared by differences, as they are.
RATIOS = frozenset((*DISTANCES, "mode_kl", "label_kl", *SPEED))
# The one space whose Frechet distance is called FID: the published weights behind their own treatment of an image.
FID = "inception-2015/299-tensorflow-bilinear,rgb,bytes@6726825d0af5"
