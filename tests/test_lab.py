"""The campaigns of `bench.lab`: a small sample of each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from bench.lab import limits


def test_a_command_is_measured_by_what_its_own_process_used() -> None:
    held = limits.cost_of([sys.executable, "-c", "print(len(b'x' * (200 << 20)))"], dict(os.environ))
    failed = limits.cost_of([sys.executable, "-c", "raise SystemExit('no')"], dict(os.environ))
    assert (held.code, held.lines, failed.code, failed.lines) == (0, [], 1, ["no"])
    assert held.memory > 200 << 20 > failed.memory
    assert held.seconds > 0


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (limits.Cost(0, 0.5, 10, ["x"]), "held"),
        (limits.Cost(0, 1.5, 10, []), "passed its limit"),
        (limits.Cost(0, 0.5, 30, []), "passed its limit"),
        (limits.Cost(2, 0.5, 10, ["error: no"]), "exit code 2"),
    ],
)
def test_a_limit_that_is_passed_is_said(cost: limits.Cost, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert limits.shown(limits.Case("case", ["list"], 1, 20), cost) == (words == "held")
    assert words in capsys.readouterr().out


def test_the_long_log_goes_on_like_the_short_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 7, "images": 448, "loss": 2.0}\n')
    limits.lengthen(path, 1000)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(7, 1008))
    assert 400 < len(lines[-1]) < 500
