"""Who shares a GPU and who has it alone, on a machine without one: the CPU is taken for one that can be held."""

from __future__ import annotations

import fcntl
import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import measure, runs, scores, sharing, tiers
from bench.lab import kv_cache, peers, unet_speed
from bench.progress import Progress
from bench.runs import budget, training
from bench.scores import pools
from bench.sharing import alone_on, beside_others
from paradigms.core.plans import Plan
from paradigms.errors import BadInput

CPU = torch.device("cpu")
SMALL = tiers.get("smoke")
SMALL = replace(
    SMALL,
    vectors=replace(SMALL.vectors, flops=2e7, params=3_000),
    samples=100,
    timing_repeats=1,
    likelihood_n=8,
    likelihood_calls=0,
)
QUIET = Progress("test")


@pytest.fixture(autouse=True)
def card(tmp_path, monkeypatch):
    """The file that all who use the GPU lock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sharing, "_name", lambda device: "gpu")
    return tmp_path / "gpu.lock"


def free(card: Path, how: int) -> bool:
    """Whether another process could take the GPU so; it asks by a file of its own, as that one would."""
    with open(card, "a") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def held(card: Path) -> str:
    if free(card, fcntl.LOCK_EX):
        return "by nobody"
    return "shared" if free(card, fcntl.LOCK_SH) else "alone"


def watched(monkeypatch, module, name: str, card: Path) -> list[str]:
    """How the GPU is held whenever a function is called."""
    seen, work = list[str](), getattr(module, name)

    def watching(*args, **named):
        seen.append(held(card))
        return work(*args, **named)

    monkeypatch.setattr(module, name, watching)
    return seen


@pytest.fixture
def run(tmp_path, card) -> Path:
    return runs.ensure(runs.define("flow-matching", "moons", 0, SMALL), tmp_path / "runs", device="cpu")


def test_what_is_timed_has_the_gpu_alone_and_who_trains_or_scores_shares_it(run, card, tmp_path, monkeypatch):
    planned, trained, drawn, timed = (
        watched(monkeypatch, module, name, card)
        for module, name in (
            (budget, "_seconds_per_step"),
            (training, "train"),
            (pools, "draw"),
            (measure, "measure"),
        )
    )
    runs.ensure(runs.define("gan", "moons", 0, SMALL), tmp_path / "runs", device="cpu")
    scores.evaluate(run, SMALL, QUIET)
    scores.sampled(run, [Plan("euler", 1)], SMALL, QUIET)
    measure.time_runs([measure.Subject(run, (Plan("euler", 1),))], SMALL, QUIET, keep=False)
    assert (planned, trained, timed) == (["alone"], ["shared"], ["alone"])
    assert set(drawn) == {"shared"}
    assert held(card) == "by nobody"


def test_likelihoods_and_named_spaces_share_the_gpu_too(run, card, monkeypatch):
    loaded = watched(monkeypatch, runs, "load", card)
    scores.likelihoods(run, (), SMALL, QUIET)
    with pytest.raises(BadInput):  # points have no such space
        scores.in_spaces(run, ["no-such-space"], SMALL, QUIET)
    assert loaded == ["shared", "shared"]


def test_programs_that_time_have_the_gpu_alone(card):
    seen = list[str]()

    def work() -> None:
        seen.append(held(card))

    unet_speed.rounds([unet_speed.Timed("it", work)], 1, CPU)
    peers.compare(work, work, 0.0, CPU)

    class Model:
        space = type("space", (), {"classes": 0})
        flow = type("flow", (), {"inverse": staticmethod(lambda *_, **__: work())})

        def prior(self, n, noise):
            return torch.zeros(n)

    before = len(seen)
    kv_cache.compare(Model(), 1, 1)
    assert set(seen[:before]) == {"alone"}
    assert seen[before : before + 4] == ["alone"] * 4


@pytest.mark.parametrize("when", ["before", "meanwhile", "not at all"])
def test_a_share_knows_whether_it_was_the_only_one(when):
    with ExitStack() as early, beside_others(CPU, pytest.fail) if when == "before" else ExitStack():
        mine = early.enter_context(beside_others(CPU, pytest.fail))
        assert mine.crowded is (when == "before")
        if when == "meanwhile":
            with beside_others(CPU, pytest.fail) as other:
                assert other.crowded
        assert mine.crowded is (when != "not at all")
    with alone_on(CPU, pytest.fail):  # everybody has gone
        pass


def test_a_share_is_whole_after_its_holder_asked_whether_it_is_alone(card):
    with beside_others(CPU, pytest.fail), beside_others(CPU, pytest.fail):
        assert held(card) == "shared"
    assert held(card) == "by nobody"


def test_training_beside_another_is_said_in_the_run_its_rows_and_what_stands_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(training.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    train, ended = training.train, []

    def visited(*args, **named):
        ended.append(train(*args, **named))
        if len(ended) == 2:
            with beside_others(CPU, pytest.fail):  # a file of its own: as good as another process
                pass
        return ended[-1]

    monkeypatch.setattr(training, "train", visited)
    alone, beside = (
        runs.read_info(runs.ensure(runs.define("flow-matching", "moons", seed, SMALL), tmp_path / "runs", device="cpu"))
        for seed in (1, 2)
    )
    assert not alone.contended
    assert "contended" not in json.dumps(alone.costs)
    assert beside.contended
    assert runs.base_row(beside).contended
    child = training._costed(replace(alone, where="moons/child/1-0"), ended[0], [beside])
    assert not child.contended
    assert [cost.get("contended") for cost in child.costs.values()] == [1.0, None]


def test_a_stopped_training_remembers_that_it_was_not_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(training.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    plan, train = runs.define("flow-matching", "moons", 2, SMALL), training.train

    def stopped(*args, **named):
        def stop() -> bool:
            return True

        return train(*args, **{**named, "progress": Progress("test", None, stop)})

    with beside_others(CPU, pytest.fail), pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", stopped)
        patch.setattr(budget, "alone_on", lambda *_: ExitStack())  # its plan was made before the other came
        with pytest.raises(KeyboardInterrupt):
            runs.ensure(plan, tmp_path / "runs", device="cpu")
    folder = runs.ensure(plan, tmp_path / "runs", device="cpu")  # goes on alone
    assert runs.read_info(folder).resumed
    assert runs.read_info(folder).contended
