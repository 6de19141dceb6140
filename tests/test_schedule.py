"""The scheduler: order, dependence, failure and death of workers, interruption; and what the displays print."""

from __future__ import annotations

import contextlib
import io
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import workers
from bench.progress import Event, Meter, Plain, Progress, Silent, display, duration, graceful_stop
from bench.workers import Job, Outcome, Place, cores, critical_paths, gpu_places, perform
from paradigms.errors import BadInput


def note(path: Path, text: str, progress: Progress) -> str:
    """Work for the tests: leaves a file that lists those that were there before it."""
    progress.update("note", 1, 1)
    (path / text).write_text(" ".join(p.name for p in path.iterdir()))
    return text.upper()


def refuse(progress: Progress) -> None:
    raise BadInput("no such thing; try the other")


def crash(progress: Progress) -> None:
    raise ZeroDivisionError("by nought\nand more")


def die(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def vanish(progress: Progress) -> None:
    os._exit(3)


_spoiled = ""  # as CUDA has it, for the rest of the process


def on_a_gpu(text: str, progress: Progress) -> int:
    """Fails as a kernel does, if told what of, and then whatever this process does on its GPU."""
    global _spoiled
    text = _spoiled or text
    if text:
        _spoiled = "" if text == "out of memory" else text
        raise RuntimeError(f"CUDA error: {text}\nCUDA kernel errors might be asynchronously reported")
    return os.getpid()


def environment(progress: Progress) -> tuple[str | None, int]:
    import torch

    return os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()


def seen(progress: Progress) -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def test_every_gpu_has_workers_that_train_and_workers_that_score() -> None:
    places = gpu_places(["3", "GPU-5"], trainers=4, scorers=3)
    assert [(p.kind, p.environment["CUDA_VISIBLE_DEVICES"]) for p in places] == [
        *(("train", gpu) for gpu in ("3", "GPU-5", "3", "GPU-5")),
        *(("score", gpu) for gpu in ("3", "GPU-5", "3")),
    ]


def test_a_job_goes_where_its_kind_is_taken_and_sees_one_gpu() -> None:
    jobs = [Job("t", seen, place="train"), Job("s", seen, place="score", needs=("t",))]
    out = perform(jobs, Silent(), threads=1, places=[*gpu_places(["0"], 1, 0), *gpu_places(["1"], 0, 1)])
    assert {name: outcome.value for name, outcome in out.items()} == {"t": "0", "s": "1"}
    with pytest.raises(ValueError, match="for a 'score' worker"):
        perform(jobs, Silent(), threads=1, places=gpu_places(["0"], 1, 0))


def test_longest_path_first() -> None:
    jobs = [
        Job("alone", note, cost=3),
        Job("teacher", note, cost=2),
        Job("student", note, needs=("teacher",), cost=2),
        Job("score", note, needs=("student",), cost=1),
    ]
    assert critical_paths(jobs) == {"alone": 3, "teacher": 5, "student": 3, "score": 1}


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([Job("a", note, needs=("b",)), Job("b", note, needs=("a",))], "wait for each other"),
        ([Job("a", note, needs=("c",))], "needs 'c'"),
        ([Job("a", note), Job("a", note)], "share a name"),
    ],
)
def test_impossible_graphs_are_refused(jobs: list[Job], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        critical_paths(jobs)


def test_needs_come_first_and_values_return(tmp_path: Path) -> None:
    jobs = [
        Job("child", note, (tmp_path, "child"), needs=("parent",)),
        Job("parent", note, (tmp_path, "parent")),
        Job("other", note, (tmp_path, "other")),
    ]
    outcomes = perform(jobs, Silent(), workers=2, threads=None)
    assert {name: o.value for name, o in outcomes.items()} == {"child": "CHILD", "parent": "PARENT", "other": "OTHER"}
    assert "parent" in (tmp_path / "child").read_text().split()


def test_failures_stay_with_their_job(tmp_path: Path) -> None:
    """Refusal, exception, kill -9, exit: each fails its own job, with a reason, and the jobs that need it."""
    jobs = [
        Job("refused", refuse, cost=9),
        Job("crashed", crash, cost=8),
        Job("killed", die, cost=7),
        Job("gone", vanish, cost=6),
        Job("orphan", note, (tmp_path, "orphan"), needs=("killed",)),
        Job("grandchild", note, (tmp_path, "grandchild"), needs=("orphan",)),
        Job("healthy", note, (tmp_path, "healthy")),
    ]
    seen: list[str] = []
    out = perform(jobs, Silent(), workers=1, threads=None, done=lambda job, outcome: seen.append(job.name))
    assert out["refused"].failure == "no such thing; try the other"
    assert out["crashed"].failure == "ZeroDivisionError: by nought"
    assert "and more" in out["crashed"].trace
    assert "SIGKILL" in out["killed"].failure
    assert "exit code 3" in out["gone"].failure
    assert out["orphan"].failure == "not run: 'killed' failed"
    assert out["grandchild"].failure == "not run: 'orphan' failed"
    assert out["healthy"] == Outcome("HEALTHY", seconds=out["healthy"].seconds)
    assert sorted(seen) == sorted(job.name for job in jobs)
    assert not (tmp_path / "orphan").exists()


def fail_if(fails: bool) -> None:
    if fails:
        raise ZeroDivisionError


STICKY = ["device-side assert triggered", "an illegal memory access was encountered", "unspecified launch failure"]


@pytest.mark.parametrize("text", [*STICKY, "misaligned address", "out of memory"])
def test_a_worker_whose_gpu_answers_no_more_is_replaced(text: str) -> None:
    """Two jobs after the one that spoils it, in one worker: both run, in one process, the old one where it is whole."""
    out = io.StringIO()
    costs = {"pid": 9.0, "bad": 5.0, "one": 2.0, "two": 1.0}  # one after the other, the dearest first
    jobs = [Job(name, on_a_gpu, (text if name == "bad" else "",), cost=cost) for name, cost in costs.items()]
    outcomes = perform(jobs, Plain(costs, out), workers=1, threads=None)
    assert outcomes["bad"].failure == f"RuntimeError: CUDA error: {text}"
    assert [name for name, outcome in outcomes.items() if not outcome.ok] == ["bad"]
    assert outcomes["one"].value == outcomes["two"].value
    replaced = outcomes["pid"].value != outcomes["one"].value
    assert replaced is (text != "out of memory")
    said = "bad left its process unable to use the GPU; jobs after it get a new one\n"
    assert out.getvalue().count(said) == replaced


@pytest.mark.parametrize("workers", [1, 2])
def test_a_chain_stops_where_it_breaks(workers: int) -> None:
    jobs = [
        Job("train A", crash),
        Job("train B", note, needs=("train A",)),
        Job("train C", note, needs=("train B",)),
        Job("evaluate C", note, needs=("train C",)),
    ]
    out = perform(jobs, Silent(), workers=workers, threads=None)
    assert {name: outcome.failure for name, outcome in out.items()} == {
        "train A": "ZeroDivisionError: by nought",
        "train B": "not run: 'train A' failed",
        "train C": "not run: 'train B' failed",
        "evaluate C": "not run: 'train C' failed",
    }


class Inline:
    """A worker without a process: does its job when it is given one."""

    def __init__(self, place: Place, ran: list[str]) -> None:
        self.place, self.ran, self.job = place, ran, None
        self.process = self
        self.pipe, self.theirs = multiprocessing.Pipe()

    def is_alive(self) -> bool:
        return True

    def give(self, job: Job) -> None:
        self.job = job
        self.ran.append(job.name)
        self.theirs.send(Outcome(failure="broke" if job.args[0] else ""))

    def read(self) -> Outcome:
        return self.pipe.recv()


@pytest.mark.parametrize("seed", range(100))
def test_no_job_runs_without_all_that_it_needs(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Random graphs with random failures: what runs, in which order, and what is said of the rest."""
    rng = random.Random(seed)
    names = [f"job {k}" for k in range(rng.randint(1, 15))]
    jobs = [
        Job(
            name,
            fail_if,
            (rng.random() < 0.25,),
            needs=tuple(rng.sample(names[:k], rng.randint(0, min(k, 3)))),
            cost=rng.random(),
        )
        for k, name in enumerate(names)
    ]
    ran: list[str] = []

    @contextlib.contextmanager
    def pool(places: list[Place], *_: object) -> Iterator[list[Inline]]:
        yield [Inline(place, ran) for place in places]

    monkeypatch.setattr(workers, "_pool", pool)
    shuffled = rng.sample(jobs, len(jobs))
    out = perform(shuffled, Silent(), workers=rng.randint(1, 4), threads=None)
    assert out.keys() == set(names)
    for job in jobs:  # in the order of the graph
        bad = [need for need in job.needs if not out[need].ok]
        assert (job.name in ran) == (not bad)
        if bad:
            assert out[job.name].failure in {f"not run: '{need}' failed" for need in bad}
        else:
            assert out[job.name].ok == (not job.args[0])
            assert all(ran.index(need) < ran.index(job.name) for need in job.needs)


def test_ctrl_c_while_a_worker_starts_prints_nothing(tmp_path: Path) -> None:
    """The worker gets the signal before the first line of its own code, as it is imported; the parent decides."""
    script = tmp_path / "early.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal
            from bench.progress import Silent
            from bench.workers import Job, perform

            def work(progress):
                return "done"

            if __name__ == "__main__":
                print(perform([Job("a", work)], Silent(), workers=1, threads=None)["a"].value)
            else:
                os.kill(os.getpid(), signal.SIGINT)
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_this_process_hears_ctrl_c_that_came_while_a_worker_was_started() -> None:
    with graceful_stop() as stopping:
        with workers._deaf_children():
            os.kill(os.getpid(), signal.SIGINT)
        assert stopping.times == 1


def test_one_thread_per_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert perform([Job("e", environment)], Silent(), workers=1, threads=1)["e"].value == ("1", 1)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_cores_is_at_least_one() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


SAY = """def say(self, text):
            print(text, flush=True)"""
SUITE = f"""
    import itertools, sys, time
    from pathlib import Path
    from bench.progress import Progress, Silent
    from bench.workers import Job, perform

    class Said(Silent):
        {SAY}

    def work(path, progress):
        try:
            for step in itertools.count():
                progress.update("train", step, step + 1)
                (path / "began").touch()
                time.sleep(0.01)
        except KeyboardInterrupt:
            (path / "checkpoint").write_text(str(step))
            raise

    if __name__ == "__main__":
        perform([Job("train", work, (Path(sys.argv[1]),))], Said(), workers=1, threads=None)
"""


@pytest.mark.parametrize("how", ["one", "group", "killed"])
def test_a_stop_reaches_the_workers(tmp_path: Path, how: str) -> None:
    """Ctrl-C to the parent or to the group lets the worker save; when the parent is killed it saves and leaves."""
    script = tmp_path / "suite.py"
    script.write_text(textwrap.dedent(SUITE))
    with _suite(script, tmp_path) as process:
        if how == "one":
            process.send_signal(signal.SIGINT)
        elif how == "group":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.kill()
        _, errors = process.communicate()  # the end of the worker's stderr too, which is this pipe
    if how != "killed":
        assert "KeyboardInterrupt" in errors
    assert (tmp_path / "checkpoint").read_text()


@pytest.mark.parametrize("second", ["", "said", "at once"])
def test_a_second_stop_does_not_wait_for_the_step(tmp_path: Path, second: str) -> None:
    """Nor is there a limit to how long the first one waits: the step lasts until the file "go" is there."""
    script = tmp_path / "suite.py"
    endless = 'while not (path / "go").exists():\n                    time.sleep(0.01)'
    script.write_text(textwrap.dedent(SUITE.replace("time.sleep(0.01)", endless)))
    with _suite(script, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        if second == "at once":
            process.send_signal(signal.SIGTERM)  # two signals of one kind, so close together, may become one
        else:
            assert process.stdout.readline().startswith("stopping after the step at hand")
        if second == "said":
            process.send_signal(signal.SIGINT)
        elif not second:
            (tmp_path / "go").touch()
        _, errors = process.communicate()
        assert "KeyboardInterrupt" in errors
    assert (tmp_path / "checkpoint").exists() == (not second)


def test_whoever_stops_reading_costs_no_checkpoint(tmp_path: Path) -> None:
    """As behind `| head`: what is printed fails, while the suite goes on and then where it says that it stops."""
    script = tmp_path / "suite.py"
    broken = """def tick(self):
            if Path(sys.argv[1], "began").exists():
                raise BrokenPipeError

        def say(self, text):
            raise BrokenPipeError"""
    script.write_text(textwrap.dedent(SUITE.replace(SAY, broken)))
    with _suite(script, tmp_path) as process:
        _, errors = process.communicate()
    assert "BrokenPipeError" in errors
    assert (tmp_path / "checkpoint").read_text()


@contextlib.contextmanager
def _suite(script: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running suite whose job has begun; nothing of it is left when the block ends."""
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while not (folder / "began").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# -------------------------------------------------------------------------------------------------------- progress


def test_progress_thins_events_but_keeps_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(100.0, 0.001)  # a thousand updates a second
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    events: list[Event] = []
    progress = Progress("job", events.append)
    for step in range(1001):
        progress.update("train", step, 1000, loss=0.5)
    assert 10 <= len(events) <= 12
    assert events[0].done == 0
    assert events[-1] == Event("job", "train", 1000, 1000, {"loss": 0.5})


def test_a_first_interrupt_waits_for_a_safe_point_the_second_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with graceful_stop() as stopping:
        progress = Progress("job", stopping=stopping)
        progress.update("train", 1, 2)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            progress.update("train", 2, 2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_plain_lines_are_few_and_carry_no_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    plain = Plain({"a": 1.0, "b": 3.0}, stream, every=0.5)
    with plain:
        for k in range(100):
            plain.event(Event("a", "train", k, 100, {"images": 64 * k, "loss": 1.25}))
            now[0] += 0.02
        plain.finished("a", 1.0, "it broke [red]not markup[/red]")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4  # of two seconds less a tick, and the failure
    assert "\x1b" not in stream.getvalue()
    assert "a: train" in lines[0]
    assert "loss 1.25" in lines[0]
    assert lines[-1] == "failed: a: it broke [red]not markup[/red]"


@pytest.mark.parametrize(
    ("job", "stage", "words"),
    [
        ("train gan seed 0", "train gan", "train gan seed 0"),
        ("evaluate gan seed 0", "evaluate ddim-50", "evaluate gan seed 0: ddim-50"),
        ("train gan seed 0", "plan gan", "train gan seed 0: plan gan"),
        ("time sampling", "time", "time sampling"),
    ],
)
def test_titles_say_nothing_twice(job: str, stage: str, words: str) -> None:
    stream = io.StringIO()
    plain = Plain({job: 1.0, "other": 1.0}, stream, every=0.0)
    plain.event(Event(job, stage, 1, 2))
    assert f"| {words} 1/2" in stream.getvalue()


def test_bars_on_a_terminal() -> None:
    """Drawn with control codes; what stays is the lines that were said, as they were said."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    bars = display({"train gan": 1.0, "train [b]x": 1.0}, stream)
    with bars:
        bars.started("train gan")
        bars.event(Event("train gan", "train gan", 3, 4, {"images": 10, "loss": 0.25}))
        bars.event(Event("train [b]x", "plan", 0, 0))
        bars.tick()
        bars.finished("train gan", 1.0, "it broke [/red]")
        bars.finished("train [b]x", 1.0)
    assert "failed: train gan: it broke [/red]" in stream.getvalue()


def test_meter_weights_by_cost_and_ignores_cache_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = Meter({"cached": 50.0, "long": 90.0, "short": 10.0})
    assert meter.eta is None
    meter.finish("cached", 0.1)
    now[0] = 10.0
    meter.event(Event("long", "train", 1, 3, {"images": 0}))
    assert meter.eta == pytest.approx(10.0 * 70 / 30)
    now[0] = 12.0
    meter.event(Event("long", "train", 2, 3, {"images": 128}))
    assert meter.images_per_second == pytest.approx(64.0)
    assert meter.done == pytest.approx(110.0)


@pytest.mark.parametrize(("seconds", "words"), [(-1, "0 s"), (7.6, "8 s"), (185, "3 min 05 s"), (7_800, "2 h 10 min")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
