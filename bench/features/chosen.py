"""Which feature spaces a data set is scored in, and whether it has images enough for them."""

from __future__ import annotations

from bench.data.dataset import HELD_OUT, Dataset
from bench.features.classifier import hashes, shipped
from bench.features.convolutions import random_conv
from bench.features.space import FeatureSpace
from paradigms.core.data import Space
from paradigms.errors import BadInput

__all__ = ["spaces_for", "too_few"]


def spaces_for(dataset_name: str, space: Space) -> list[FeatureSpace]:
    """The spaces in which this data set is scored: its classifier first where one is shipped, then "random-conv".

    Vectors have none. Raises BadInput when shipped weights are missing, damaged or of another image shape.
    """
    if not space.is_image:
        return []
    classifiers = [shipped(dataset_name)] if dataset_name in hashes() else []
    for found in classifiers:
        if found.shape != space.shape:
            raise BadInput(
                f"feature space {found.id} is of images {found.shape}, data set '{dataset_name}' has {space.shape}; "
                f"retrain it: python -m bench.features.train {dataset_name}"
            )
    return [*classifiers, random_conv(space.shape)]


def too_few(found: Dataset) -> str:
    """What it means that few images are held out, in a line to be read before training; "" where there are enough."""
    from bench.metrics.values import PER_FEATURE  # which reads features

    need = max((PER_FEATURE * space.dim for space in spaces_for(found.name, found.space)), default=0)
    lack = need - len(found.test)
    if lack <= 0:
        return ""
    more = f"{lack:,} more held-out images"
    if found.drawn:
        more = f"{lack * HELD_OUT:,} more images, of which a fifth is held out,"
    return (
        f"{len(found.test):,} held-out images are too few for a Frechet distance, which needs {need:,} here: the kernel "
        f"distance leads, which is unbiased at any number and sees only large differences at this one; {more} would do"
    )
