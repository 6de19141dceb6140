"""The campaigns against the suite's own reliability: that they see harm, and a small sample of each."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import store
from bench.lab import campaign, corruption, kills, museum
from bench.lab.attack import Call
from bench.lab.same import differences, essence
from bench.lab.verdict import Verdict
from reports.files import fingerprint

ROOT = Path(__file__).parents[1]


# ------------------------------------------------------------------------------------------------ what sees the harm


def _folder(root: Path, seconds: float = 1.0, value: float = 2.0) -> Path:
    folder = root / "out" / "ring8" / "some" / "0-a"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(range(100)))
    store.write_sealed(folder / "run.json", {"status": "ok", "seconds": seconds, "steps": 3})
    store.save_rows(folder, [store.Row(metric="fd", value=value, seconds=seconds)], "key")
    store.write_manifest(
        folder, {name: fingerprint((folder / name).read_bytes()) for name in ("weights.safetensors", "run.json")}
    )
    return folder


def test_only_clocks_may_differ(tmp_path: Path) -> None:
    reference = essence(_folder(tmp_path / "a").parents[3])
    same = _folder(tmp_path / "b", seconds=7.0).parents[3]
    (same / "out" / "ring8" / "some" / "0-a" / ".lock").touch()
    assert differences(reference, same) == []
    other = _folder(tmp_path / "c", value=2.5).parents[3]
    assert differences(reference, other) == ["differs: out/ring8/some/0-a/results.jsonl (other content)"]


def test_missing_left_over_and_damaged_files_are_seen(tmp_path: Path) -> None:
    reference = essence(_folder(tmp_path / "a").parents[3])
    folder = _folder(tmp_path / "b")
    (folder / ".grid.png.17.tmp").touch()
    (folder / "run.json").unlink()
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[50] ^= 4
    (folder / "weights.safetensors").write_bytes(data)
    lines = differences(reference, folder.parents[3])
    assert [line.split(" (")[0].replace("out/ring8/some/0-a/", "") for line in lines] == [
        "differs: manifest.json",
        "differs: weights.safetensors",
        "left over: .grid.png.17.tmp",
        "missing: run.json",
    ]


@pytest.mark.parametrize("name", corruption.DAMAGES)
def test_a_damage_changes_the_file_and_no_other(name: str, tmp_path: Path) -> None:
    kept = SimpleNamespace(world=SimpleNamespace(root=tmp_path), kinds={"tiers": ["tiers.toml"]})
    (tmp_path / "tiers.toml").write_text("[tiny]\n")
    path = tmp_path / "results.jsonl"
    for seed in range(20):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_text('{"metric": "fd", "value": 2.5, "n": [1, {"a": null}]}\n{"metric": "kd"}\n')
        before = path.read_bytes()
        corruption.DAMAGES[name](path, random.Random(seed), kept)
        changed = path.is_symlink() or not path.is_file() or path.read_bytes() != before
        assert changed or name in ("block", "cut", "other JSON")  # which may hit what was so already
        assert (tmp_path / "tiers.toml").read_text() == "[tiny]\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("out/digits/gan/0-ab/weights.safetensors", "weights"),
        ("out/digits/gan/0-ab/at-12.safetensors", "at-*.safetensors"),
        ("out/digits/gan/plan-1f.json", "plan"),
        ("out/digits/gan/.plan-1f.json.lock", ""),
        ("out/digits/gan/0-ab/protocols/other/results.jsonl", "protocols"),
        ("out/digits/gan/0-ab/timing/manifest.json", "timing"),
        ("out/digits/baselines/tiny/grid.png", "baselines"),
        ("cache/features/12.safetensors", "cached features"),
        ("package/SHA256SUMS", "SHA256SUMS"),
        ("package/digits.safetensors", "shipped weights"),
        ("package/digits.csv.gz", "digits.csv.gz"),
        ("out/ring8/reflow/7-ab/state.pt", "state.pt"),
    ],
)
def test_files_are_told_apart(name: str, kind: str) -> None:
    assert museum.kind_of(name) == kind


def test_every_stage_of_a_suite_is_told_apart() -> None:
    told = {
        "out/ring8/gan/plan-1.json": "plan",
        "out/ring8/gan/0-a/.state.pt.12.tmp": "checkpoint",
        "out/ring8/reflow/0-a/prepared.pt": "prepare",
        "out/ring8/gan/0-a/weights.safetensors": "weights",
        "train gan 3/8": "train",
        "evaluate sample-1 64/64": "evaluation",
        "baseline uniform 4/5": "baselines",
        "out/ring8/gan/0-a/timing/results.jsonl": "timing",
        "out/report/ring8-tiny/report.html": "report",
    }
    assert {what: kills.stage(Call("step", what)) for what in told} == told


def test_trials_are_repeatable_alone_and_what_fell_is_exit_1(monkeypatch, capsys) -> None:
    def trial(setup: str, number: int, by: random.Random, place: Path) -> Verdict:
        assert setup == "setup"
        return Verdict("coin", number, by.random() < 0.5, "thrown", str(by.random()))

    module = SimpleNamespace(TRIALS=20, prepare=lambda place, trials: "setup", trial=trial)
    monkeypatch.setitem(campaign.CAMPAIGNS, "coins", module)
    monkeypatch.setattr(campaign, "preload", lambda: None)
    assert campaign.main(["coins", "--json"]) == 1
    every = json.loads(capsys.readouterr().out)["coins"]
    assert len(every) == 20
    fallen = next(v for v in every if not v["held"])
    assert campaign.main(["coins", "--only", str(fallen["trial"]), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["coins"] == [fallen]
    held = next(v for v in every if v["held"])
    assert campaign.main(["coins", "--only", str(held["trial"]), "--json"]) == 0
    capsys.readouterr()
    campaign.main(["coins", "--seed", "1"])
    *told, heads, line, whole = capsys.readouterr().out.splitlines()
    assert all(text.startswith("coins --seed 1 --only ") for text in told if text and "coins," not in text)
    assert heads.split() == ["kind", "tried", "held", "how"]
    assert line.split()[:2] == ["coin", "20"]
    assert whole.split()[:2] == ["all", "20"]


def test_a_campaign_goes_on_after_the_verdicts_of_its_log(monkeypatch, capsys, tmp_path: Path) -> None:
    tried = []

    def trial(setup: None, number: int, by: random.Random, place: Path) -> Verdict:
        tried.append(number)
        if len(tried) == 3:
            raise KeyboardInterrupt
        return Verdict("coin", number, True, "thrown", str(by.random()))

    module = SimpleNamespace(TRIALS=5, prepare=lambda place, trials: None, trial=trial)
    monkeypatch.setitem(campaign.CAMPAIGNS, "coins", module)
    monkeypatch.setattr(campaign, "preload", lambda: None)
    log = tmp_path / "verdicts.jsonl"
    campaign.main(["coins", "--log", str(log), "--json"])
    with log.open("a") as file:
        file.write('{"campaign": "coins", "se')  # cut short
    capsys.readouterr()
    assert campaign.main(["coins", "--log", str(log), "--json"]) == 0
    assert tried == [0, 1, 2, 2, 3, 4]
    every = json.loads(capsys.readouterr().out)["coins"]
    assert [verdict["trial"] for verdict in every] == [0, 1, 2, 3, 4]
    campaign.main(["coins", "--log", str(log), "--seed", "1", "--json"])  # other trials
    assert tried[6:] == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------ samples of each


def _run(tmp_path: Path, *arguments: object) -> list[dict]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bench.lab.campaign", *map(str, arguments), "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [verdict for verdicts in json.loads(done.stdout).values() for verdict in verdicts]


def _fallen(verdicts: list[dict]) -> list[str]:
    return [f"{v['trial']}: {v['kind']}: {v['how']}: {v['detail']}" for v in verdicts if not v["held"]]


@pytest.mark.heavy
def test_two_writers_of_rows_leave_one_of_both_under_its_own_key(tmp_path: Path) -> None:
    found = _run(tmp_path, "writers", "--trials", 6)
    assert len(found) == 6
    assert _fallen(found) == []


@pytest.mark.heavy
def test_a_suite_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    assert _fallen(_run(tmp_path, "kills", "--trials", 4)) == []


@pytest.mark.heavy
def test_damage_swaps_deletions_and_races_are_noticed(tmp_path: Path) -> None:
    """One world for all four: a file of every kind, the other kinds and damages by hand."""
    for name, trials in (("corruption", 4), ("swaps", 3), ("deletions", 3), ("races", 1)):
        assert _fallen(_run(tmp_path, name, "--trials", trials, "--keep", tmp_path / "kept")) == [], name


def test_a_folder_of_others_is_never_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kills").mkdir()
    with pytest.raises(SystemExit) as ended:
        campaign.main(["kills", "--keep", str(tmp_path)])
    assert ended.value.code == 2
    assert "it holds other files" in capsys.readouterr().err
    assert (tmp_path / "kills").exists()
