"""How the tests run, and the densities that several of them know in closed form.

Nothing here imports torch: the process that hands the tests to the workers does not need it.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paradigms.testing import Mixture

pytest_plugins = ["costs"]

# Each process of the tests computes on a core of its own. The libraries read this once, when they are loaded.
os.environ.update(
    dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
)


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


@pytest.fixture(scope="module", autouse=True)
def _nothing_to_look_through_again() -> None:
    """Garbage is not sought among the tests and libraries that stay: that would take a tenth of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_tree_of_commands() -> Iterator[None]:
    """A command line is read by an object of each command, made anew for each line: that takes longer than most commands."""
    import typer.testing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features of real images are kept on disk: not in the user's cache, and not read from there either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATA", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def gaussian() -> Mixture:
    from paradigms.testing import Mixture

    return Mixture([1.0], [[0.6, -0.3]], [[0.8, 0.3]])


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    from paradigms.testing import Mixture

    return Mixture([0.7, 0.3], [[1.0, 0.5], [-1.2, -0.4]], [[0.4, 0.2], [0.3, 0.5]])
