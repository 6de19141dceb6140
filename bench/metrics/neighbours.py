"""Nearest neighbours, and what they say of fidelity and diversity: precision, recall, density, coverage."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from bench.metrics.blocks import Tell, blocks, in_turn, pair_distances, squared_distances
from bench.metrics.values import Features, Value, check
from reports.metrics import Metric

__all__ = ["NEIGHBOURS", "nearest", "neighbourhoods", "reach"]

NEIGHBOURS = 5  # k of precision, recall, density, coverage
QUERIES = 2048  # rows asked of scikit-learn at once, at most: a whole number of its own blocks
OWN = 256  # rows of such a block
PRODUCTS = 2**33  # multiplications asked for at once, about: a second or two
RIM = 1e-11  # of the squared norms: how near to the rim of a ball a fast distance is not trusted
TIE = 1e-9  # of the squared radius: farther by less than this is on the rim, and inside
COPY = 8  # roundings of the features, of their norm: what is nearer than so much is a copy, in a ball of radius 0 too


def neighbourhoods(fake: Features, real: Features, tell: Tell | None = None) -> list[Value]:
    """ "precision", "recall", "density" and "coverage" with k = 5 (arXiv:1904.06991, arXiv:2002.09797).

    Within reach of a point is no farther than its k-th nearest neighbour in its own set: "<=", as Kynkäänniemi et al.
    define it, so that a point with k or more copies reaches these, and real data against itself scores 1 (its density,
    (k + 1)/k or more: the k-th neighbour counts). Distances come from a matrix product, and are taken again by
    differences where they are near the rim of a ball; what is on it but for rounding is inside. Nothing larger than a
    block of pairs is held. There is no error: neighbouring balls hold the same samples. Raises BadInput as `check` does,
    and below 7 on either side.
    """
    k = NEIGHBOURS
    check(fake, real, at_least=k + 2, of=f"neighbourhoods of k = {k}")
    x, y = fake.values.double(), real.values.double()
    n, m = len(x), len(y)
    of_x, of_y, of_both = in_turn(tell, n, m, m)
    eps = max(torch.finfo(side.values.dtype).eps for side in (fake, real))
    copy = (COPY * eps) ** 2 * max(x.square().sum(1).max().item(), y.square().sum(1).max().item())
    reach_fake, reach_real = (each * (1 + TIE) + copy for each in (reach(x, k, of_x), reach(y, k, of_y)))
    near_x, near_y = x - y.mean(0), y - y.mean(0)  # to the origin, where products cancel less
    within = torch.zeros(n, dtype=torch.long, device=x.device)  # how many real balls hold the sample
    recalled, covered = 0, 0
    for part in blocks(m, n, of_both):
        distance = squared_distances(near_y[part], near_x)
        # A distance near either rim is replaced by the exact one, of which nothing is in doubt.
        doubt = RIM * (near_x.square().sum(1).max() + near_y[part].square().sum(1).max())
        near = ((distance - reach_real[part, None]).abs() <= doubt) | ((distance - reach_fake).abs() <= doubt)
        rows, columns = near.nonzero(as_tuple=True)
        distance[rows, columns] = pair_distances(y[part][rows], x[columns])
        held = distance <= reach_real[part, None]
        within += held.sum(0)
        recalled += int((distance <= reach_fake).any(1).sum())
        covered += int(held.any(1).sum())
    return [
        Value("precision", (within > 0).double().mean().item()),
        Value("recall", recalled / m),
        Value("density", within.double().mean().item() / k),
        Value("coverage", covered / m),
    ]


def nearest(x: Tensor, reference: Tensor, k: int, tell: Tell | None = None) -> tuple[Tensor, Tensor]:
    """Squared distances (N, k), ascending and exact, and rows of the k nearest in `reference` (M, d) to x (N, d).

    They are found through a matrix product in the precision given, on a CPU by scikit-learn; their distances are then
    taken again by differences in float64.
    """
    centre = reference.mean(0)
    find = _finder(reference - centre, k)
    distances, rows = [], []
    several = max(1, min(QUERIES, PRODUCTS // reference.numel()) // OWN) * OWN
    for part in x.split(several):
        index = find(part - centre)
        each = pair_distances(part.repeat_interleave(k, 0), reference[index.flatten()]).view(-1, k)
        each, order = each.sort(1)
        distances.append(each)
        rows.append(index.gather(1, order))
        if tell is not None:
            tell(sum(map(len, rows)), len(x))
    return torch.cat(distances), torch.cat(rows)


def _finder(reference: Tensor, k: int) -> Callable[[Tensor], Tensor]:
    """What finds the rows (n, k) of the k nearest to x (n, d)."""
    if reference.device.type == "cpu":
        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(reference.numpy())
        return lambda x: torch.from_numpy(search.kneighbors(x.numpy(), return_distance=False)).long()

    def find(x: Tensor) -> Tensor:
        parts = (squared_distances(x[part], reference) for part in blocks(len(x), len(reference)))
        return torch.cat([distance.topk(k, largest=False).indices for distance in parts])

    return find


def reach(x: Tensor, k: int, tell: Tell | None = None) -> Tensor:
    """The squared distance (N,) of each row of x to its k-th nearest other row."""
    distances, _ = nearest(x, x, k + 1, tell)
    return distances[:, k]  # the row itself, at 0, is among the first


METRICS = (
    Metric(
        "precision",
        title="Precision",
        direction="↑",
        judged=True,
        best="floor",
        meaning="share of samples within reach of a real image: fidelity",
        source="arXiv:1904.06991",
        cost="0.19",
        place=30,
    ),
    Metric(
        "recall",
        title="Recall",
        direction="↑",
        judged=True,
        best="floor",
        meaning="share of real images within reach of a sample: diversity",
        source="arXiv:1904.06991",
        place=30,
    ),
    Metric(
        "density",
        title="Density",
        best="floor",
        meaning="real images with a sample within reach, counted for each sample, over k; contraction raises it",
        source="arXiv:2002.09797",
        place=30,
    ),
    Metric(
        "coverage",
        title="Coverage",
        direction="↑",
        judged=True,
        best="floor",
        meaning="share of real images with a sample within their own reach",
        source="arXiv:2002.09797",
        place=30,
    ),
)
