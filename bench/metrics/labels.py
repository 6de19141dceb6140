"""What a classifier says of samples: which labels, how surely, and whether one can learn from samples to read data."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from bench.metrics.stream import Stream
from bench.metrics.values import Features, Value, check, finite, share
from paradigms.errors import BadInput
from reports.metrics import Metric

__all__ = [
    "COVERED",
    "ClassifierScore",
    "LabelHistogram",
    "classification_accuracy_score",
    "classifier_score",
    "label_accuracy",
    "label_distance",
    "logits_of",
    "variation",
]

COVERED = 0.1  # a mode is covered when it gets this part of its share of real samples


def variation(p: Tensor, q: Tensor) -> float:
    """Total variation, half the sum of |p - q|, of two histograms."""
    return (p - q).abs().sum().item() / 2


class LabelHistogram(Stream[Tensor]):
    """How often a classifier gives each of K labels, from logits (B, K): counts (K,) in float64."""

    state = ("counts",)

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, dtype=torch.float64)

    def update(self, batch: Tensor) -> None:
        if batch.dim() != 2 or batch.shape[1] != len(self.counts):
            raise BadInput(f"logits have shape {tuple(batch.shape)}, expected (B, {len(self.counts)})")
        finite(batch, "logits")
        self.counts += torch.bincount(batch.argmax(1).cpu(), minlength=len(self.counts))

    def merge(self, other: Self) -> None:
        self.counts += other.counts

    def compute(self) -> Tensor:
        return self.counts


def label_distance(fake: Features, real: Features) -> list[Value]:
    """ "label_tv", "label_kl" and "label_modes": predicted labels of samples against those of real images.

    Real images are labelled by the same classifier, so that its own preferences cancel. label_tv is the total
    variation, label_kl the divergence of the samples' histogram from the real one in nats, each count with ½ added, so
    that a label that only samples show does not make it infinite; label_modes how many labels get at least a tenth of
    their real share.
    """
    check(fake, real, at_least=1, of="a label histogram")
    a, b = (_histogram(f) for f in (fake, real))
    p, q = ((c + 0.5) / (c + 0.5).sum() for c in (a, b))
    shown = covered_modes(a, b)
    return [
        Value("label_tv", variation(a / a.sum(), b / b.sum())),
        Value("label_kl", (p * (p / q).log()).sum().item(), unit="nats"),
        Value("label_modes", shown, unit=f"of {int((b > 0).sum())}"),
    ]


def covered_modes(found: Tensor, real: Tensor) -> int:
    """How many of the modes that `real` counts (K,) show have at least a tenth of their share in `found` (K,)."""
    expected = real * found.sum() / real.sum()
    return int(((found >= COVERED * expected) & (real > 0)).sum())


def _histogram(features: Features) -> Tensor:
    logits = logits_of(features)
    metric = LabelHistogram(logits.shape[1])
    metric.update(logits)
    return metric.compute()


def logits_of(features: Features) -> Tensor:
    if features.logits is None:
        raise BadInput(f"feature space {features.space.id} predicts no labels; use a classifier's space")
    finite(features.logits, f"logits of samples in {features.space.id}")
    return features.logits


class ClassifierScore(Stream[Value]):
    """ "classifier_score", exp of the mean over samples of KL(p(y|x) ‖ p(y)), from logits (B, K): 1 to K.

    The Inception score (Salimans et al. 2016, arXiv:1606.03498) on another network, over all samples at once: the
    customary mean over ten parts depends on their order. It sees whether samples are told apart and evenly spread over
    the classes, and nothing else (Barratt & Sharma 2018, arXiv:1801.01973): real images have a score too.
    """

    state = ("n", "total", "entropy")

    def __init__(self, classes: int) -> None:
        self.n = 0
        self.total = torch.zeros(classes, dtype=torch.float64)  # sum over samples of p(y|x)
        self.entropy = torch.zeros((), dtype=torch.float64)  # sum over samples and labels of p log p

    def update(self, batch: Tensor) -> None:
        if batch.dim() != 2 or batch.shape[1] != len(self.total):
            raise BadInput(f"logits have shape {tuple(batch.shape)}, expected (B, {len(self.total)})")
        finite(batch, "logits")
        log_p = batch.cpu().double().log_softmax(1)
        p = log_p.exp()
        self.n += len(p)
        self.total += p.sum(0)
        self.entropy += (p * log_p).sum()

    def merge(self, other: Self) -> None:
        self.n += other.n
        self.total += other.total
        self.entropy += other.entropy

    def compute(self) -> Value:
        if self.n < 2:
            raise BadInput(f"a classifier score of {self.n} samples; at least 2 are needed")
        p = self.total / self.n
        return Value("classifier_score", (self.entropy / self.n - torch.special.xlogy(p, p).sum()).exp().item())


def classifier_score(fake: Features) -> Value:
    """`ClassifierScore` of features that are all there. Raises BadInput for a space that predicts no labels."""
    logits = logits_of(fake)
    metric = ClassifierScore(logits.shape[1])
    metric.update(logits)
    return metric.compute()


def label_accuracy(fake: Features, labels: Tensor) -> Value:
    """The share of samples that the classifier gives the label (N,) they were drawn for: "label_accuracy"."""
    logits = logits_of(fake)
    if len(labels) != len(logits):
        raise BadInput(f"{len(logits)} samples but {len(labels)} labels; give each sample the label it was drawn for")
    return share("label_accuracy", (logits.argmax(1).cpu() == labels.cpu()).double().mean().item(), len(labels))


def classification_accuracy_score(fake: Features, labels: Tensor, real: Features, real_labels: Tensor) -> Value:
    """ "cas": the accuracy on real images of a classifier that saw samples alone, with the labels they were drawn for.

    scikit-learn's logistic regression on standardised features, without a random number. After Ravuri & Vinyals 2019
    (arXiv:1905.10887), who train a ResNet on pixels: here the features are given, so it asks whether the classes of the
    samples lie where those of the data do. What real training images score in the place of samples is its scale.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check(fake, real, at_least=2, of="a classification accuracy score")
    for name, features, y in (("samples", fake, labels), ("real images", real, real_labels)):
        if len(features.values) != len(y):
            raise BadInput(f"{len(features.values)} {name} but {len(y)} labels; give each its label")
    if len(labels.unique()) < 2:
        raise BadInput("all samples have one label, from which no classifier can be trained")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(fake.values.double().cpu().numpy(), labels.cpu().numpy())
    predicted = torch.from_numpy(model.predict(real.values.double().cpu().numpy()))
    return share("cas", (predicted == real_labels.cpu()).double().mean().item(), len(real_labels))


METRICS = (
    Metric(
        "label_tv",
        title="Label TV",
        direction="↓",
        judged=True,
        best="0",
        meaning="total variation between predicted labels of samples and of real images",
        cost="<0.01",
        place=40,
    ),
    Metric(
        "label_kl",
        title="Label KL",
        direction="↓",
        judged=True,
        best="0",
        meaning="KL(predicted labels of samples ‖ of real images), nats, each count with ½ added",
        ratio=True,
        place=40,
    ),
    Metric(
        "label_modes",
        title="Labels",
        direction="↑",
        judged=True,
        best="all",
        meaning="labels with at least a tenth of their real share of samples",
        place=40,
    ),
    Metric(
        "classifier_score",
        title="Classifier score",
        best="floor",
        meaning="exp E KL(p(y given x) ‖ p(y)): the Inception score on the named network",
        source="arXiv:1606.03498",
        cost="<0.01",
        place=40,
    ),
    Metric(
        "label_accuracy",
        title="Label accuracy",
        direction="↑",
        judged=True,
        best="1",
        meaning="share of samples that the classifier gives the label they were drawn for",
        cost="<0.01",
        place=40,
    ),
    Metric(
        "cas",
        title="CAS",
        direction="↑",
        judged=True,
        best="floor",
        meaning="accuracy on real images of a logistic regression trained on samples' features and labels",
        source="arXiv:1905.10887",
        cost="0.02",
        place=40,
    ),
)
