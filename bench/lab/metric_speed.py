"""Speed, memory and agreement of the metrics: `python -m bench.lab.metric_speed [--torch-fidelity FOLDER]`.

Times are CPU seconds of one thread, the two sides of a row in turn, medians of a few rounds: only their ratio means
much on a machine that does other work. Memory is the peak of a child process less what it had before.

FOLDER is where torch-fidelity lies unpacked (`pip install --no-deps --target FOLDER torch-fidelity tqdm`; installed
beside a CPU build of torch it would break torchmetrics). Its metric modules are then loaded as they are, without the
package's top level, which wants torchvision: the names they take from `torch_fidelity.utils` only fetch features.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from bench.data import load
from bench.features import Extractor, Features, FeatureSpace, random_conv, shipped
from bench.metrics import Moments, distance_of_gaussians, kernel_distance, neighbourhoods


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seconds(*functions: Callable[[], object], rounds: int) -> list[float]:
    """Median CPU seconds of each, called in turn."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, times in zip(functions, taken):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
    return [statistics.median(times) for times in taken]


def with_sqrtm(a: Moments, b: Moments) -> float:
    (m, s), (n, t) = a.compute(), b.compute()
    root = scipy.linalg.sqrtm((s @ t).numpy())
    return float((m - n).square().sum() + s.trace() + t.trace()) - 2 * float(np.trace(root).real)


def frechet_rows(dims: Iterable[int], n: int = 10_000) -> Iterable[tuple[str, ...]]:
    for d in dims:
        a, b = Moments.of(normal(n, d, 0)), Moments.of(1.1 * normal(n, d, 1))
        values: list[float] = []
        ours, scipys = seconds(
            lambda a=a, b=b, v=values: v.append(distance_of_gaussians(a, b)),  # type: ignore[misc]
            lambda a=a, b=b, v=values: v.append(with_sqrtm(a, b)),  # type: ignore[misc]
            rounds=1 if d > 1000 else 3,
        )
        difference = abs(values[0] / values[1] - 1)
        yield str(d), f"{ours:.4f}", f"{scipys:.3f}", f"{scipys / ours:.0f}×", f"{difference:.0e}"


def statistics_rows(dims: Iterable[int], n: int = 10_000, batch: int = 1000) -> Iterable[tuple[str, ...]]:
    for d in dims:
        x = normal(n, d, 0)

        def accumulate(x: Tensor = x) -> None:
            moments = Moments(x.shape[1])
            for part in x.split(batch):
                moments.update(part)

        ours, product = seconds(accumulate, lambda x=x: x.mT @ x, rounds=5)  # type: ignore[misc]
        yield str(d), f"{ours:.3f}", f"{product:.3f}", f"{ours / product:.2f}×"


def peak() -> float:
    """Of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pairs(n: int, d: int) -> str:
    """What neighbourhoods of n against n vectors take, as a row."""
    x, y = (Features(normal(n, d, s).float(), None, space_of(d)) for s in (0, 1))
    before, start, told = peak(), time.process_time(), 0

    def tell(done: int, of: int) -> None:
        nonlocal told
        if sys.stderr.isatty() and done * 100 // of > told:
            told = done * 100 // of
            print(f"\r{told} %", end="", file=sys.stderr)

    neighbourhoods(x, y, tell)
    return f"{n:,} × {n:,} × {d}|{time.process_time() - start:.0f}|{peak() - before:,.0f}|{peak():,.0f}"


def space_of(d: int) -> FeatureSpace:
    return FeatureSpace("plain", "0" * 12, (1, 1, d), Extractor(nn.Flatten(), d))


def torch_fidelity(folder: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """Its `metric_fid` and `metric_kid`, unchanged."""
    package = types.ModuleType("torch_fidelity")
    package.__path__ = [str(folder / "torch_fidelity")]
    utils = types.ModuleType("torch_fidelity.utils")
    utils.__getattr__ = lambda name: None  # type: ignore[method-assign]
    sys.path.insert(0, str(folder))
    sys.modules |= {"torch_fidelity": package, "torch_fidelity.utils": utils}
    fid, kid = (importlib.import_module(f"torch_fidelity.metric_{name}") for name in ("fid", "kid"))
    return fid, kid


def fidelity_rows(folder: Path) -> Iterable[tuple[str, ...]]:
    fid, kid = torch_fidelity(folder)
    data = load("digits")
    sets = {"64 normal": (normal(2000, 64, 0), 1.1 * normal(2000, 64, 1) + 0.1)}
    for space in (shipped("digits"), random_conv((1, 8, 8))):
        x, y = (space.features(part.all().x).values.double() for part in (data.train, data.test))
        sets[f"digits, {space.name}"] = x[: len(y)], y[: len(x)]
    for name, (x, y) in sets.items():
        theirs = fid.fid_statistics_to_metric(
            fid.fid_features_to_statistics(x), fid.fid_features_to_statistics(y), False
        )["frechet_inception_distance"]
        ours = distance_of_gaussians(Moments.of(x), Moments.of(y))
        yield name, "fd", f"{ours:.9g}", f"{theirs:.9g}", f"{abs(ours / theirs - 1):.0e}"
        n = len(x)
        theirs = kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=n, verbose=False)
        theirs = theirs["kernel_inception_distance_mean"]
        space = space_of(x.shape[1])
        ours = kernel_distance(Features(x, None, space), Features(y, None, space)).value
        yield name, "kd", f"{ours:.9g}", f"{theirs:.9g}", f"{abs(ours / theirs - 1):.0e}"


def show(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n{title}")
    print("  ".join(f"{head:>22}" for head in heads))
    for row in rows:
        print("  ".join(f"{cell:>22}" for cell in row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed, memory and agreement of the metrics.")
    parser.add_argument("--torch-fidelity", type=Path, help="folder in which torch-fidelity lies unpacked")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 768, 2048])
    parser.add_argument("--neighbours", type=int, default=50_000, help="vectors on either side")
    parser.add_argument("--pairs", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if asked.pairs:
            print(pairs(asked.pairs, 64))
            return
        if asked.torch_fidelity:
            show(
                "agreement with torch-fidelity's own code",
                ("features", "metric", "here", "torch-fidelity", "relative difference"),
                fidelity_rows(asked.torch_fidelity),
            )
        show(
            "Frechet distance from the statistics of 10,000 samples",
            ("features", "Frechet, CPU-s", "scipy sqrtm, CPU-s", "faster", "relative difference"),
            frechet_rows(asked.dims),
        )
        show(
            "statistics of 10,000 samples in batches of 1,000",
            ("features", "statistics, CPU-s", "one product, CPU-s", "ratio"),
            statistics_rows(asked.dims),
        )
    child = [sys.executable, "-m", "bench.lab.metric_speed", "--pairs", str(asked.neighbours)]
    row = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().split("|")
    show(
        "precision, recall, density, coverage",
        ("neighbours", "CPU-s", "more than before, MiB", "peak, MiB"),
        [row],
    )


if __name__ == "__main__":
    main()
