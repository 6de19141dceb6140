"""A pytest plugin for `bench.lab.mutants map`: tells coverage which test or shared fixture runs, and times the tests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FIXTURE = "fixture "
_seconds: dict[str, float] = {}
_used: dict[str, list[str]] = {}  # by test the names of its fixtures
_running = [""]


def _switch(context: str) -> None:
    import coverage

    running = coverage.Coverage.current()
    if running is not None:
        running.switch_context(context)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Iterator[Any]:
    start = time.perf_counter()
    _running.append(item.nodeid)
    _used[item.nodeid] = list(item.fixturenames)
    _switch(item.nodeid)
    try:
        return (yield)
    finally:
        _running.pop()
        _switch(_running[-1])
        _seconds[item.nodeid] = time.perf_counter() - start


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Iterator[Any]:
    """What a shared fixture runs is run for every test that uses it."""
    if fixturedef.scope == "function":
        return (yield)
    _running.append(f"{FIXTURE}{fixturedef.argname} of {fixturedef.baseid}")
    _switch(_running[-1])
    try:
        return (yield)
    finally:
        _running.pop()
        _switch(_running[-1])


def pytest_unconfigure() -> None:
    Path(os.environ["BENCH_TIMES"]).write_text(json.dumps({"seconds": _seconds, "fixtures": _used}))
