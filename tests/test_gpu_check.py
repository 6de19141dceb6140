"""The dry run of what is asked of a GPU: the same program, at tiny sizes, on the CPU."""

from __future__ import annotations

import json

import pytest
import torch

from bench import gpu_check


def test_steps_pass_on_a_cpu(tmp_path, capsys):
    assert gpu_check.main(["--device", "cpu", "--steps", "1,4,8", "--to", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row["ok"] is False]
    assert {row["step"] for row in rows} == {1, 4, 8}
    assert "| 4 | heun: where the flow of a Gaussian ends |" in (tmp_path / "gpu_check.md").read_text()
    assert str(tmp_path) in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_said(tmp_path, monkeypatch):
    check = gpu_check.Check(torch.device("cpu"), False, "digits", tmp_path)
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None)
    gpu_check.beside_peer(check)
    assert [(row["value"], row["ok"]) for row in check.rows] == [("diffusers is not installed", None)]


def test_a_step_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    def broken(check: gpu_check.Check) -> None:
        raise ValueError("no such kernel")

    def whole(check: gpu_check.Check) -> None:
        check.say("speed", 1.0, "samples/s")

    monkeypatch.setattr(gpu_check, "STEPS", (broken, whole, *gpu_check.STEPS[2:]))
    with pytest.raises(SystemExit, match="1"):
        gpu_check.main(["--device", "cpu", "--steps", "1,2", "--to", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    bad = next(row for row in rows if row["ok"] is False)
    assert (bad["name"], bad["value"]) == ("broken", "ValueError: no such kernel")
    assert any(row["step"] == 2 and row["unit"] == "samples/s" for row in rows)


@pytest.mark.heavy
def test_the_dry_run_passes_whole(tmp_path):
    assert gpu_check.main(["--device", "cpu", "--to", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row["ok"] is False]
    assert {row["step"] for row in rows} >= set(range(1, 12))


@pytest.mark.parametrize("steps", ["0", "12", "a", "3-", ""])
def test_bad_steps_are_refused(steps, capsys):
    assert gpu_check.main(["--device", "cpu", "--steps", steps]) == 2
    assert "give numbers from 1 to 11" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_said_in_a_line(capsys):
    assert gpu_check.main(["--device", "cuda:9"]) == 2
    assert "cuda:9" in capsys.readouterr().err
