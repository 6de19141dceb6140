"""The adapters are the suite's own metrics: on the whole, of ranks put together, and by torchmetrics' own formulas."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from test_metrics_streams import REAL, STREAMS, features, normal, numbers
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from bench.metrics import FrechetDistance, Moments, frechet_distance, kernel_distance, neighbourhoods
from bench.metrics.torchmetrics import PoolMetric, StreamMetric
from paradigms.errors import BadInput

ROOT = Path(__file__).parents[1]
EARLY = "was called before the ``update`` method"
EACH = pytest.mark.parametrize("name", STREAMS)


def fed(metric: Any, x: Tensor, *cuts: int) -> Any:
    for part in x.tensor_split(cuts):
        metric.update(part)
    return metric


def flat(result: Any) -> Tensor:
    parts = result if isinstance(result, tuple) else (result,)
    assert all(part.dtype == torch.float64 for part in parts)
    return torch.cat([part.flatten() for part in parts])


def expected(name: str, x: Tensor, *cuts: int) -> Tensor:
    result = fed(STREAMS[name][0](), x, *cuts).compute()
    return numbers(result)[:1] if hasattr(result, "metric") else numbers(result)


@pytest.mark.heavy
def test_torchmetrics_is_imported_on_use_alone():
    code = "import sys, bench.metrics, bench.scores; print('torchmetrics' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout == "False\n"


@EACH
def test_it_is_the_stream_whatever_the_batches(name):
    make, x = STREAMS[name]
    metric = fed(StreamMetric(make()), x, 7, 100, 101)
    assert torch.equal(flat(metric.compute()), expected(name, x, 7, 100, 101))
    torch.testing.assert_close(flat(metric.compute()), expected(name, x), rtol=1e-11, atol=1e-11)
    metric.reset()
    refused = nullcontext() if name == "labels" else pytest.raises(BadInput)
    with pytest.warns(UserWarning, match=EARLY), refused:
        metric.compute()
    assert torch.equal(flat(fed(metric, x[:300], 50).compute()), expected(name, x[:300], 50))


def ranks(make: Any, *parts: Tensor) -> list[Any]:
    """A metric on each of several ranks, which gather from all of them."""
    metrics = [make() for _ in parts]
    for metric, part in zip(metrics, parts):
        if len(part):
            metric.update(part)
    states = [metric.seen for metric in metrics]
    for metric in metrics:
        metric.dist_sync_fn = lambda state, group: states
        metric.distributed_available_fn = lambda: True
    return metrics


@EACH
@pytest.mark.parametrize("cuts", [(200,), (3, 400), (0,), (100, 100, 300)], ids=str)
def test_ranks_together_are_one_stream(name, cuts):
    """Of unequal parts, and where a rank has seen nothing."""
    make, x = STREAMS[name]
    for metric in ranks(lambda: StreamMetric(make()), *x.tensor_split(cuts)):
        with nullcontext() if metric.update_called else pytest.warns(UserWarning, match=EARLY):
            together = flat(metric.compute())
        torch.testing.assert_close(together, expected(name, x), rtol=1e-11, atol=1e-11)


@EACH
def test_what_two_have_seen_is_merged(name):
    make, x = STREAMS[name]
    one, other = fed(StreamMetric(make()), x[:150]), fed(StreamMetric(make()), x[150:], 40)
    other = pickle.loads(pickle.dumps(other))
    one.merge_state(other)
    torch.testing.assert_close(flat(one.compute()), expected(name, x), rtol=1e-11, atol=1e-11)


@pytest.mark.heavy
def test_two_processes_are_one_stream(tmp_path):
    """torch's own process group gathers what they have seen; the second has seen less, and of pools nothing."""
    code = f"""
import sys, torch, torch.distributed as dist
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_metrics_streams import STREAMS, features, normal
from bench.metrics import kernel_distance
from bench.metrics.torchmetrics import PoolMetric, StreamMetric
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://{tmp_path}/meeting", rank=rank, world_size=2)
found = {{}}
for name, (make, x) in STREAMS.items():
    metric = StreamMetric(make())
    metric.update(x[:300] if rank == 0 else x[300:])
    found[name] = metric.compute()
pool = PoolMetric(features(normal(150, 5, 2)), kernel_distance)
if rank == 0:
    pool.update(normal(120, 5, 1))
found["pool"] = pool.compute()
torch.save(found, f"{tmp_path}/{{rank}}.pt")
"""
    both = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(rank)]) for rank in (0, 1)]
    assert [process.wait() for process in both] == [0, 0]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, (_, x) in STREAMS.items():
            torch.testing.assert_close(flat(found[name]), expected(name, x), rtol=1e-11, atol=1e-11)
        whole = kernel_distance(features(normal(120, 5, 1)), features(normal(150, 5, 2)))
        assert found["pool"].item() == pytest.approx(whole.value, rel=1e-11)


def test_a_stream_that_has_seen_something_goes_on_and_is_not_changed():
    make, x = STREAMS["moments"]
    begun = fed(make(), x[:100])
    metric = fed(StreamMetric(begun), x[100:])
    assert begun.n == 100
    torch.testing.assert_close(flat(metric.compute()), expected("moments", x), rtol=1e-11, atol=1e-11)


def test_a_mean_far_from_zero_costs_no_digits_between_ranks():
    """What sums of squares, which ranks could simply add up, would lose: all of it."""
    x = (normal(1000, 3).double() * 1e-4 + 1e6).float().double()
    a, b = ranks(lambda: StreamMetric(Moments(3)), x[:300], x[300:])
    torch.testing.assert_close(a.compute()[1], torch.cov(x.T), rtol=1e-9, atol=0)
    assert torch.equal(a.compute()[1], b.compute()[1])


def test_in_a_collection_and_through_a_network():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6, bias=False)).requires_grad_(False)
    images = normal(200, 12, 4).view(200, 3, 2, 2)
    metrics = MetricCollection(
        {
            "fd": StreamMetric(FrechetDistance(REAL), through=network),
            "moments": StreamMetric(Moments(6), through=network),
        },
        compute_groups=False,
    )
    fed(metrics, images, 70)
    found = metrics.compute()
    values = network(images)
    metric = FrechetDistance(REAL)
    metric.update(values)
    torch.testing.assert_close(found["fd"].item(), metric.compute().value, rtol=1e-11, atol=0)


def test_refusals_are_the_streams():
    with pytest.raises(BadInput, match="too few for a Frechet distance"):
        fed(StreamMetric(FrechetDistance(REAL)), normal(20, 6)).compute()
    with pytest.raises(BadInput, match=r"shape .*expected"):
        StreamMetric(Moments(3)).update(normal(4, 2))
    pool = PoolMetric(features(normal(30, 4)), kernel_distance)
    with pytest.raises(BadInput, match="0 samples are too few"), pytest.warns(UserWarning, match=EARLY):
        pool.compute()
    pool.update(normal(10, 5))
    with pytest.raises(BadInput, match=r"shape \(10, 5\), but"):
        pool.compute()


# ---------------------------------------------------------------------------------------------------- whole pools


@pytest.mark.parametrize("of", [kernel_distance, frechet_distance, neighbourhoods])
def test_a_pool_is_the_metric_of_all(of):
    x, y = normal(120, 5, 1), normal(150, 5, 2) + 0.3
    whole = of(features(x), features(y))
    found = fed(PoolMetric(features(y), of), x, 11, 90).compute()
    if isinstance(whole, list):
        assert {name: value.item() for name, value in found.items()} == {value.metric: value.value for value in whole}
    else:
        assert found.item() == whole.value


def test_pools_of_ranks_are_one():
    x, y = normal(120, 5, 1), normal(150, 5, 2) + 0.3
    one, other = (fed(PoolMetric(features(y), kernel_distance), part) for part in (x[:50], x[50:]))
    one.merge_state(other)
    assert one.compute().item() == pytest.approx(kernel_distance(features(x), features(y)).value, rel=1e-11)


# ---------------------------------------------------------------------------------------------------- its own peers


class Flat(nn.Module):
    """Features of images that are their pixels, as torchmetrics takes a network."""

    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


def test_torchmetrics_own_distances_are_the_same():
    def images(n: int, seed: int) -> Tensor:
        return (normal(n, 12, seed).abs() + seed / 10).view(n, 3, 2, 2)

    network, x, y = Flat(), images(400, 1), images(500, 2)
    theirs = FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    kernel = KernelInceptionDistance(feature=network, subsets=1, subset_size=400)
    for metric in (theirs, kernel):
        metric.update(x, real=False)
        metric.update(y if metric is theirs else y[:400], real=True)
    fd = fed(StreamMetric(FrechetDistance(Moments.of(network(y))), through=network), x, 100)
    assert float(theirs.compute()) == pytest.approx(float(fd.compute()), rel=1e-4)  # it squares float32 features
    kd = fed(PoolMetric(features(network(y[:400])), kernel_distance, through=network), x, 100)
    with torch.random.fork_rng():  # it draws its subsets from the global generator
        assert float(kernel.compute()[0]) == pytest.approx(float(kd.compute()), rel=1e-3)  # its sums are in float32


def test_torchmetrics_own_score_is_the_same():
    make, logits = STREAMS["score"]
    theirs = InceptionScore(feature=nn.Identity(), splits=1)
    theirs.update(logits)
    with torch.random.fork_rng():
        assert float(theirs.compute()[0]) == pytest.approx(float(fed(StreamMetric(make()), logits).compute()), rel=1e-6)
