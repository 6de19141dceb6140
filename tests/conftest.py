"""Fixtures shared by the tests: small models of any recipe, the step that a trainer takes, and closed-form networks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paradigms import catalogue, edm, plugins
from paradigms.backbones import Backbone
from paradigms.contract import Frozen, Trainable, Update
from paradigms.core.data import Batch, Pairs, Space
from paradigms.core.noise import Noise
from paradigms.maths.denoiser import Prediction
from paradigms.maths.paths import GaussianPath
from paradigms.recipe import Recipe
from paradigms.score_sde import ScoreSDE

pytest_plugins = ["costs"]
torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """A process for each core, but none where files or tests are named: they answer sooner in this one."""
    return 0 if all("::" in argument or Path(argument).is_file() for argument in config.args) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A worker sends its reports as UTF-8, which names of files that are none can not be."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features of real images are kept on disk: not in the user's cache, and not read from there either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATA", str(tmp_path_factory.mktemp("cache")))
        yield


# ---------------------------------------------------------------------------------------------------------- cases


def thinned(cases: list[tuple], key: Callable[[tuple], object]) -> list:
    """Of the cases with the same key one is tried by default, of each key another in turn; the others with `-m matrix`."""
    groups = dict[object, list[tuple]]()
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    chosen = [group[k % len(group)] for k, group in enumerate(groups.values())]
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.matrix) for case in cases]


# ----------------------------------------------------------------------------------------------------------- suites


def jobs_here(patch: pytest.MonkeyPatch) -> list[str]:
    """While `patch` holds, a suite does its jobs in this process; the names of those that it did, in their order.

    `heavy` tests do without this.
    """
    from bench.lab import inline
    from bench.suite import stages

    names: list[str] = []

    def perform(*args, **named):
        outcomes = inline.perform(*args, **named)
        names.extend(outcomes)
        return outcomes

    patch.setattr(stages, "perform", perform)
    return names


@contextmanager
def installed_package(module: str, home: Path) -> Iterator[None]:
    """A package whose `module` in the folder `home` has recipes, and the tiers "tiny" and "other" of `home`/t.toml."""
    from bench import tiers

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        point = EntryPoint(module, module, catalogue.DOOR.group)
        patch.setattr(plugins, "entry_points", lambda group: [point] if group == catalogue.DOOR.group else [])
        plugins.forget()
        shown = tiers.tiers()
        mine = {name: tiers.get(f"{home}/t.toml:{name}") for name in ("tiny", "other")}
        patch.setattr(tiers, "tiers", lambda: {**shown, **mine})
        yield
    plugins.forget()
    sys.modules.pop(module, None)


# --------------------------------------------------------------------------------------------------------- models


def shake(model: nn.Module, scale: float = 0.1, seed: int = 0) -> nn.Module:
    """Moves every parameter a little, so that branches which start silent speak."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return model


def build(recipe: Recipe | str, space: Space, width: int = 8, seed: int = 0, config=None, shaken: bool = True):
    """A small model with the initial weights of a seed; the parents it needs are built and shaken first."""
    recipe = catalogue.get(recipe) if isinstance(recipe, str) else recipe
    parents = {role: Frozen(build(need.recipe, space, width, seed)) for role, need in recipe.needs.items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Of vectors the paradigm proper: the map around it has tests of its own (test_standardise.py).
        model = recipe.build(space, width, parents, config).core
    return shake(model, seed=seed) if shaken else model


def examples(space: Space, n: int = 4, seed: int = 0) -> Batch:
    """n examples of a space: bin centres where it has levels, labels where it has classes, and noise to go with them."""
    generator = torch.Generator().manual_seed(seed)
    if space.levels:
        x = space.encode(torch.randint(space.levels, (n, *space.shape), generator=generator))
    else:
        x = torch.randn(n, *space.shape, generator=generator)
    y = torch.randint(space.classes, (n,), generator=generator) if space.classes else None
    return Pairs(x, y, torch.randn(n, *space.shape, generator=generator))


def examples_for(model: Trainable, n: int = 4, seed: int = 0) -> Batch:
    """n examples as `prepare` would have the model train on them: codes, where it trains on such."""
    x, y = batch = examples(model.space, n, seed)
    return Batch(model.codes(x, y), y) if hasattr(model, "codes") else batch


def descend(optimizers: dict, update: Update) -> list[nn.Parameter]:
    """What a trainer does with an update, short of `after`; returns the parameters it may have moved."""
    optimizer = optimizers[update.module]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group.update(update.settings)
    optimizer.zero_grad(set_to_none=True)
    update.loss.backward(inputs=parameters)
    optimizer.step()
    return parameters


def train_a_little(model: Trainable, steps: int = 2, n: int = 4) -> Trainable:
    """A few steps on random examples, in order to leave the initial state."""
    optimizers = model.optimizers()
    for k in range(steps):
        for update in model.updates(examples_for(model, n, seed=k), k / steps, Noise("train", k)):
            descend(optimizers, update)
            if update.after is not None:
                update.after()
    return model


# ------------------------------------------------------------------------------------------------- closed forms


class Mixture:
    """Gaussians with diagonal covariances, and everything a perfect network knows of them; float64."""

    def __init__(self, weights: list[float], means: list[list[float]], stds: list[list[float]]) -> None:
        self.weights, self.means, self.stds = (torch.tensor(a, dtype=torch.float64) for a in (weights, means, stds))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.stds[k] * noise

    @property
    def mean(self) -> Tensor:
        return (self.weights[:, None] * self.means).sum(0)

    @property
    def cov(self) -> Tensor:
        off = self.means - self.mean
        return torch.diag((self.weights[:, None] * self.stds.square()).sum(0)) + (self.weights * off.T) @ off

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, K) log weight x density, and (B, K, D) centred x and variance, of alpha x + sigma eps."""
        alpha, sigma = alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1)
        var = (alpha * self.stds).square() + sigma.square()
        off = x[:, None] - alpha * self.means
        normal = torch.distributions.Normal(torch.zeros(()), var.sqrt(), validate_args=False)
        return normal.log_prob(off).sum(2) + self.weights.log(), off, var

    def log_prob(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """The log density of alpha x + sigma eps."""
        return self._parts(x, torch.tensor(alpha).double(), torch.tensor(sigma).double())[0].logsumexp(1)

    def posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[data | x] and E[noise | x]; alpha, sigma (B,)."""
        log, off, var = self._parts(x, alpha, sigma)
        share = log.softmax(1)[:, :, None]
        a, s = alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1)
        x0 = (share * (self.means + a * self.stds.square() * off / var)).sum(1)
        return x0, (share * s * off / var).sum(1)


class Exact(Backbone):
    """The network that a trained one approaches: the posterior mean of its `prediction`, given (c_in x_t, clock(t)).

    time: the inverse of the clock.
    """

    def __init__(
        self,
        data: Mixture,
        path: GaussianPath,
        prediction: Prediction,
        time: Callable[[Tensor], Tensor] = lambda told: told,
    ) -> None:
        super().__init__()
        self.data, self.path, self.prediction, self.time = data, path, prediction, time

    def forward(self, x: Tensor, told: Tensor, y: Tensor | None = None) -> Tensor:
        t = self.time(told.double())
        seen = self.prediction.coefficients(self.path, t).c_in[:, None]
        x0, eps = self.data.posterior(x.double() / seen, self.path.alpha(t), self.path.sigma(t))
        return self.prediction.target(self.path, t, x0, eps).to(x.dtype)


def told_back(model) -> Callable[[Tensor], Tensor]:
    """The inverse of what the network of `model` is told of the time."""
    if isinstance(model, ScoreSDE):
        path, data = model.path, float(model.sigma_data)
        return lambda angle: path.time_of_log_snr(-2 * torch.log(data * torch.tan(angle * (math.pi / 2))))
    if isinstance(model, edm.EDM):
        lowest, highest = model.sigma_min, model.config.sigma_max
        return lambda c: (lowest / highest) ** (1 - c)
    return lambda t: t


@pytest.fixture(scope="session")
def gaussian() -> Mixture:
    return Mixture([1.0], [[0.6, -0.3]], [[0.8, 0.3]])


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    return Mixture([0.7, 0.3], [[1.0, 0.5], [-1.2, -0.4]], [[0.4, 0.2], [0.3, 0.5]])
