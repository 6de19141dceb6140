"""The metrics, as data: what is best, what each is and where from, and what it costs. The table in docs/metrics.md is this."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["METRICS", "Card"]


class Card(NamedTuple):
    """best: the value to wish for; "floor" where real data does not reach the ideal either.

    source: the paper. cost: CPU-seconds of one thread for 2,000 samples against 2,000 of 64 features, 28×28 pixels
    (memorisation: against 10,000 training images) or two coordinates; "" for those that come with the one above.
    """

    metric: str
    best: str
    what: str
    source: str
    cost: str


METRICS = (
    Card(
        "fd",
        "floor",
        "Fréchet distance of Gaussians fitted to features; biased up by about d/n",
        "arXiv:1706.08500",
        "0.01",
    ),
    Card("fd_inf", "0", "fd extrapolated to infinitely many samples by a line in 1/n", "arXiv:1911.07023", "0.03"),
    Card("fd_inf_r2", "1", "R² of that line: how much of fd is bias, and how linear the bias is", "", ""),
    Card("rfd", "0", "fd between a codec's reconstructions of held-out images and these images: what it loses", "", ""),
    Card(
        "kd",
        "0",
        "squared maximum mean discrepancy, cubic kernel; unbiased, so also below 0",
        "arXiv:1801.01401",
        "0.16",
    ),
    Card("precision", "floor", "share of samples within reach of a real image: fidelity", "arXiv:1904.06991", "0.19"),
    Card("recall", "floor", "share of real images within reach of a sample: diversity", "arXiv:1904.06991", ""),
    Card(
        "density",
        "floor",
        "real images with a sample within reach, counted for each sample, over k; contraction raises it",
        "arXiv:2002.09797",
        "",
    ),
    Card("coverage", "floor", "share of real images with a sample within their own reach", "arXiv:2002.09797", ""),
    Card("label_tv", "0", "total variation between predicted labels of samples and of real images", "", "<0.01"),
    Card("label_kl", "0", "KL(predicted labels of samples ‖ of real images), nats, each count with ½ added", "", ""),
    Card("label_modes", "all", "labels with at least a tenth of their real share of samples", "", ""),
    Card(
        "classifier_score",
        "floor",
        "exp E KL(p(y given x) ‖ p(y)): the Inception score on the named network",
        "arXiv:1606.03498",
        "<0.01",
    ),
    Card(
        "label_accuracy", "1", "share of samples that the classifier gives the label they were drawn for", "", "<0.01"
    ),
    Card(
        "cas",
        "floor",
        "accuracy on real images of a logistic regression trained on samples' features and labels",
        "arXiv:1905.10887",
        "0.02",
    ),
    Card(
        "sharpness",
        "1",
        "variance of the Laplacian of samples over that of real images; below 1 blur, above it noise",
        "Pech-Pacheco et al. 2000",
        "0.16",
    ),
    Card(
        "nn_ratio",
        "1",
        "distance to the nearest training image: of samples over that of held-out images; 0 = copies",
        "",
        "1.4",
    ),
    Card(
        "authenticity",
        "floor",
        "share of samples farther from their nearest training image than that is from its own nearest",
        "arXiv:2102.08921",
        "",
    ),
    Card(
        "nn_gap",
        "0",
        "how much nearer samples are to training than to held-out images, -1 to 1; 1 = copies",
        "",
        "",
    ),
    Card(
        "fld_gap",
        "floor",
        "generalisation gap of the feature likelihood divergence; far below 0 = copies",
        "arXiv:2302.04440",
        "0.12",
    ),
    Card("w2", "floor", "exact 2-Wasserstein distance of at most 2,000 vectors", "", "0.66"),
    Card("sw2", "floor", "sliced 2-Wasserstein distance over 256 fixed directions", "Bonneel et al. 2015", "0.08"),
    Card(
        "mmd2",
        "0",
        "squared maximum mean discrepancy, five Gaussian widths in units of the real columns, unbiased",
        "Gretton et al. 2012",
        "0.23",
    ),
    Card("energy", "0", "energy distance, unbiased", "Székely & Rizzo 2013", "0.05"),
    Card(
        "c2st",
        "0.5",
        "accuracy of a nearest-neighbour classifier that tells samples from real vectors, 5 folds",
        "arXiv:1610.06545",
        "0.06",
    ),
    Card(
        "modes",
        "all",
        "modes with at least a tenth of their expected samples; in stacked images, with one sample",
        "",
        "<0.01",
    ),
    Card("mode_tv", "0", "total variation between the modes' shares of samples and of real vectors", "", ""),
    Card(
        "mode_kl",
        "floor",
        "KL(modes of stacked samples ‖ uniform), nats; (M-1)/2n of perfect samples",
        "arXiv:1705.07761",
        "",
    ),
    Card("off_support", "floor", "share of samples where log p is below what 99 % of real vectors have", "", "<0.01"),
)
