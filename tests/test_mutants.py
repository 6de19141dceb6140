"""The tool that asks whether the tests notice a wrong place: what it chooses, tries and counts."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from bench.lab import mutants
from bench.lab.mutants import Mutant
from paradigms.errors import BadInput

ADD = Mutant("paradigms/sums.py", "core/ReplaceBinaryOperator_Add_Sub", 0, 2, "return a + b", "return a - b")
FILE = "def add(a, b):\n    return a + b\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "paradigms").mkdir()
    (tmp_path / "paradigms" / "__init__.py").touch()
    (tmp_path / "paradigms" / "sums.py").write_text(FILE)
    text = "from paradigms.sums import add\ndef test_{}(): assert add({}, {}) == {}\n"
    for name, numbers in (("good", (1, 2, 3)), ("blind", (1, 0, 1))):
        (tmp_path / f"test_{name}.py").write_text(text.format(name, *numbers))
    return tmp_path


def lines(*tests: str) -> dict:
    return {"lines": {ADD.file: {"2": [f"test_{t}.py::test_{t}" for t in tests]}}, "times": {}}


@pytest.mark.parametrize(
    ("tests", "verdict", "why"),
    [
        (("good", "blind"), "caught", "test_good.py::test_good"),
        (("blind",), "survived", "1 tests passed"),
        ((), "untested", ""),
    ],
)
def test_a_mutant_is_caught_where_a_test_fails(place: Path, tests: tuple[str, ...], verdict: str, why: str) -> None:
    found = mutants.attempt(ADD, FILE.replace("+", "-"), lines(*tests), 60, place)
    assert found.verdict == verdict
    assert why in found.why
    assert (place / ADD.file).read_text() == FILE, "left as it was"


def test_the_quickest_tests_come_first_and_no_more_than_there_is_time_for() -> None:
    known = {"lines": {"f.py": {"7": ["a", "b", "c"], "8": ["d"]}}, "times": {"a": 9.0, "b": 1.0, "c": 2.0, "d": 1.0}}
    at = replace(ADD, file="f.py", line=7)
    assert mutants.tests_of(at, known, 5) == (["b", "c"], 3.0)
    assert mutants.tests_of(at, known, 0.1) == (["b"], 1.0)
    assert mutants.tests_of(replace(at, line=1), known, 60)[0] == ["b", "d", "c", "a"], "what runs on import"


def test_annotations_are_no_places() -> None:
    tree = ast.parse("def f(a: int | None, b: int = 1) -> int | None:\n    c: int | None = 1 + 2\n    return c")
    found = set(mutants._annotated(tree))
    assert {(1, 9), (1, 38), (2, 7)} <= found
    assert not {(1, 30), (2, 20), (2, 24)} & found


@pytest.mark.parametrize(("hits", "n"), [(39, 60), (0, 10), (10, 10), (95, 100)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    theirs = binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert mutants.wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_the_table_counts_what_computes_something_else(tmp_path: Path) -> None:
    verdicts = ["caught"] * 3 + ["survived", "untested", "equivalent", ""]
    mutants.write(tmp_path / "a.jsonl", [replace(ADD, verdict=verdict) for verdict in verdicts])
    text = mutants.table(mutants.read(tmp_path / "a.jsonl"))
    assert "| paradigms/sums | 3 | 1 | 1 | 1 | 1 |" in text
    assert "3 of 5 caught: 60%" in text


def test_what_holds_no_mutants_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match="holds no mutants"):
        mutants.read(tmp_path / "a.jsonl")
