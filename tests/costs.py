"""A pytest plugin: `pytest --costs` prints what the tests cost by file, in cases, wall seconds and CPU seconds.

A case's seconds are those of its set-up, call and tear-down. Its CPU seconds count all threads of the process and the
processes that it started and waited for. With several workers the wall seconds of the files add up to more than the run's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

_start = pytest.StashKey[tuple[float, float]]()  # wall and CPU seconds as a case begins


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", action="store_true", help="print cases, wall and CPU seconds of each file")


def _cpu() -> float:
    """Seconds of CPU of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[_start] = time.perf_counter(), _cpu()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if call.when == "teardown":  # the last of a case; user properties travel from a worker to the terminal
        wall, cpu = item.stash[_start]
        report.user_properties.append(("costs", (time.perf_counter() - wall, _cpu() - cpu)))
    return report


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not config.getoption("costs"):
        return
    costs = dict[str, list[float]]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                wall, cpu = dict(report.user_properties)["costs"]
                seen = costs.setdefault(report.location[0], [0, 0.0, 0.0])
                costs[report.location[0]] = [seen[0] + 1, seen[1] + wall, seen[2] + cpu]
    lines = sorted(costs.items(), key=lambda line: -line[1][2])
    total = [sum(cost[k] for _, cost in lines) for k in range(3)]
    terminalreporter.section("costs")
    terminalreporter.write_line(f"{'cases':>7} {'wall s':>8} {'CPU s':>8}  file")
    for name, (cases, wall, cpu) in (*lines, ("all", total)):
        terminalreporter.write_line(f"{cases:7,} {wall:8.1f} {cpu:8.1f}  {name}")
