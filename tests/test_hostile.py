"""Files and names from elsewhere: what they say is made visible, what they are is checked once, and none stops the others."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import thinned
from typer.testing import CliRunner, Result

from bench import cli, runs, store, suite, tiers
from bench.cli import listing, options
from bench.lab import fuzz
from bench.progress import Bars, Event
from bench.runs.loading import _places
from bench.terminal import console, shown
from bench.walk import walk
from paradigms.errors import BadInput
from reports.files import fingerprint
from reports.layout import STATE
from reports.words import csv_text, visible

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202e\u2066\x7f\U000e0041\udcff"
DEEP = "[" * 100_000


def bench(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.World]:
    """Two finished runs of a recipe and one of another, small and quickly made."""
    root = Path(os.path.realpath(tmp_path_factory.mktemp("hostile"))) / "world"
    root.mkdir()
    with fuzz._stubbed(root):
        yield fuzz.World(root)


@pytest.fixture
def world(kept: fuzz.World) -> Iterator[fuzz.World]:
    yield kept
    kept.restore()


def listed(folder: Path, name: str, **facts: str) -> None:
    """A file in the manifest as it now is."""
    store.write_manifest(folder, {name: fingerprint((folder / name).read_bytes())}, **facts)


def resealed(folder: Path, **changes: Any) -> None:
    """run.json with other values, which all its hashes fit."""
    value = {**store.read_sealed(folder / runs.INFO), **changes}
    seal = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    (folder / runs.INFO).write_text(json.dumps({**value, store.SEAL: seal}))
    listed(folder, runs.INFO)


def relisted(folder: Path, data: bytes, name: str = store.RESULTS) -> None:
    (folder / name).write_bytes(data)
    listed(folder, name, key=store.results_key(folder) or "")


def rows_of(folder: Path, **changes: Any) -> bytes:
    rows = [{**json.loads(line), **changes} for line in (folder / store.RESULTS).read_bytes().splitlines()]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# ------------------------------------------------------------------------------------------------------------- text


def test_all_is_seen():
    assert visible("a\x1b[2J\u202eb\udcff\U000e0041") == "a\\u001b[2J\\u202eb\\xff\\udb40\\udc41"
    assert visible("a\tb\r\nc") == "a b  c"
    assert visible("a\tb\r\nc", lines=True) == "a\tb\\u000d\nc"
    assert visible("±, 名前, 🙂, \u00a0") == "±, 名前, 🙂, \u00a0"
    assert csv_text("\x1b[2J") == "\\u001b[2J"
    assert csv_text("\t=1+1").startswith("'")


@pytest.mark.parametrize("isatty", [False, True])
def test_what_is_printed_logged_or_drawn_is_seen(isatty, monkeypatch):
    """On the streams and on a console, of whose codes only its own are left."""
    import logging

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return isatty

    out, err = Screen(), Screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with shown():
        print(EVIL)
        logging.lastResort.handle(logging.makeLogRecord({"msg": EVIL, "levelno": 40}))
        console(color_system=None).print(EVIL)
    assert not unseen(out.getvalue() + err.getvalue())
    assert out.getvalue().count("\\u202e") == 2
    assert err.getvalue().count("\\u202e") == 1


def unseen(text: str) -> set[str]:
    return {c for c in text if not c.isprintable() and c not in "\n\t"}


def test_bars_draw_no_codes_of_names():
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    with Bars({EVIL: 1.0}, screen) as bars:
        bars.event(Event(EVIL, "train", 1, 2))
        bars.finished(EVIL, 1.0, EVIL)
    assert not {"\x07", "\x9b", "\u202e", "\U000e0041"} & set(screen.getvalue())
    assert "\x1b]0" not in screen.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        ("list", EVIL),
        ("list", "runs", "--out", EVIL),
        ("sample", EVIL),
        ("evaluate", EVIL + ".npz"),
        ("time", EVIL),
        ("compare", EVIL, EVIL),
        ("report", EVIL),
        ("train", EVIL),
        ("data", EVIL),
        (EVIL,),
        ("list", "--" + EVIL),
        ("all", "--tier", EVIL),
    ],
    ids=lambda words: words[0] if words[0].isascii() else "verb",
)
def test_arguments_are_told_visibly(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = bench(*words)
    assert done.exit_code in (0, 2), done.output
    assert not unseen(done.output)


def test_what_a_run_says_of_itself_is_told_visibly(world):
    resealed(world.bad, status="failed", reason=EVIL, symptom=EVIL)
    relisted(world.bad, rows_of(world.bad, reason=EVIL, recipe=f"x{EVIL}", run=EVIL))
    shutil.copytree(world.good[0], world.bad.parent / os.fsencode(EVIL).decode("utf-8", "surrogateescape"))
    for words in (("list", "runs"), ("list", "runs", "--json"), ("sample", world.bad)):
        done = bench(*words, *([] if words[0] == "sample" else ["--out", world.runs]))
        assert "\\u202e" in done.output
        assert not unseen(done.output)
    told = json.loads(bench("list", "runs", "--json", "--out", world.runs).stdout)
    assert EVIL in {run["note"].partition("; ")[0] for run in told}
    assert not unseen(bench("report", world.runs, "--formats", "csv,md").output)
    assert not unseen((world.runs / "report" / "report.csv").read_text())


def test_completions_have_nothing_unseen():
    assert options.completions(["a", f"a{EVIL}"], "a") == ["a"]


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("kind", ["pickle", "empty", "list", "none", "wrong", "loop"])
def test_a_checkpoint_that_fits_its_hash_and_not_the_run_is_named(kind, world, tmp_path):
    """One line, exit code 2, nothing executed, and no advice to load unsafely; deleting it mends the run."""
    mark = tmp_path / "EXECUTED"
    good = {"loop": {}, "done": 1, "seconds": 0.0, "cpu_seconds": 0.0, "resumed": [], "prepare_flops": 0.0}
    held = {"empty": {}, "list": [1], "none": None, "wrong": {**good, "done": "x"}, "loop": good}
    buffer = io.BytesIO()
    torch.save(held.get(kind), buffer)
    data = pickle.dumps(fuzz.Planted(mark)) if kind == "pickle" else buffer.getvalue()
    info = runs.read_info(world.bad)
    for path in world.bad.iterdir():
        if path.name != runs.INFO:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    resealed(world.bad, status="training")
    (world.bad / STATE).write_bytes(hashlib.sha256(data).digest() + data)
    words = ("train", info.recipe, "--dataset", info.dataset, "--seed", 1, "--tier", info.tier, "--out", world.runs)
    done = bench(*words, "--device", "cpu")
    assert done.exit_code == 2
    assert f"{STATE} does not " in done.output  # fit, or say what it is of
    assert "to train anew" in done.output or "trains anew" in done.output
    assert "weights_only" not in done.output
    assert runs.read_info(world.bad).status == "training"
    assert not mark.exists()
    (world.bad / STATE).unlink()
    assert bench(*words, "--device", "cpu").exit_code == 0


# ------------------------------------------------------------------------------------------- one bad folder among good


BAD_INFO = [
    {"width": "x"},
    {"width": -1},
    {"width": 10**9},
    {"space": {}},
    {"space": []},
    {"space": {"shape": [0], "classes": 0, "levels": 0}},
    {"config": []},
    {"config": {"lr": "x"}},
    {"config": {"batch": {}}},
    {"seed": 1.5},
    {"seed": True},
    {"steps": 10**400},
    {"seconds": 1e308},
    {"status": "fine"},
    {"recipe": "no-such"},
    {"recipe": 3},
    {"dataset": "no-such"},
    {"dataset": None},
    {"tier": "no-such"},
    {"parents": {"teacher": "x"}},
    {"parents": {"teacher": "../../x"}},
    {"source": {"folder": "\0", "size": 8}},
    {"source": {"folder": 1}},
    {"started": [], "finished": {}},
    {"reason": "\ud800"},
    {"costs": {"a": 1}},
    {"precision": "fp1"},
    {"new": 1},
    {"schema": 99},
]
BAD_ROWS = [
    {"seed": 1.5},
    {"seed": -1},
    {"n": [1]},
    {"steps": 1e30},
    {"value": "abc"},
    {"value": 10**400},
    {"error": -1.0},
    {"recipe": 3},
    {"headline": 1},
    {"status": "fine"},
    {"reason": "\ud800"},
    {"new": 1},
    {"schema": 99, "new": 1},
]
TEXTS = {
    "deep": DEEP.encode(),
    "deep in an object": b'{"schema": 3, "config": ' + DEEP.encode(),
    "no UTF-8": b"\xff\xfe{}",
    "empty": b"",
    "null": b"null",
    "NaN": b'{"schema": 3, "value": NaN}',
    "infinite": b'{"schema": 3, "value": 1e999}',
    "twice": b'{"schema": 3, "schema": 3}',
    "digits": b"1" * 5000,
}


def alone(world: fuzz.World) -> None:
    """The bad run is named or harmless wherever it is read, and the good ones are read beside it."""
    done = bench("list", "runs", "--json", "--out", world.runs)
    assert done.exit_code == 0, done.output
    assert {str(folder) for folder in world.good} <= {run["run"] for run in json.loads(done.stdout)}
    assert set(suite.damaged([*world.good, world.bad])) <= {world.bad}
    to = world.root / "made" / "x.npz"
    done = bench("sample", world.bad, "-n", 2, "--to", to, "--out", world.runs, "--device", "cpu")
    assert done.exit_code in (0, 2), done.output
    assert done.exit_code == 0 or len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "deep run.json",
        "rows",
        *(pytest.param(k, marks=pytest.mark.heavy) for k in ("sealed run.json", "no UTF-8", "large")),
    ],
)
def test_one_bad_folder_stops_no_other(kind, world):
    """The good runs are listed, reported, compared and sampled from."""
    if kind == "deep run.json":
        (world.bad / runs.INFO).write_text(DEEP)
    elif kind == "sealed run.json":
        resealed(world.bad, width="x")
    elif kind == "rows":
        relisted(world.bad, rows_of(world.bad, seed=1.5))
    elif kind == "no UTF-8":
        relisted(world.bad, b"\xff\xfe")
    else:
        relisted(world.bad, rows_of(world.bad, value=1e308))
    alone(world)
    to = world.root / "made"
    formats = "csv,md" if kind == "large" else "csv"  # what it does to tables and figures
    done = bench("report", world.runs, "--formats", formats, "--to", to)
    assert done.exit_code == (kind != "large"), done.output
    with (to / "report.csv").open() as file:
        found = {(row["recipe"], row["seed"]) for row in csv.DictReader(file)}
    assert {(folder.parent.name, folder.name[0]) for folder in world.good} <= found
    assert bench("compare", *world.good, world.runs).exit_code == 0
    done = bench("sample", world.good[0], "-n", 2, "--to", to / "x.npz", "--out", world.runs, "--device", "cpu")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("changes", BAD_INFO, ids=lambda changes: ascii(changes)[:40])
def test_a_run_json_of_wrong_types_is_left_out(changes, world):
    resealed(world.bad, **changes)
    alone(world)


@pytest.mark.parametrize("changes", BAD_ROWS, ids=lambda changes: ascii(changes)[:40])
def test_rows_of_wrong_types_are_left_out(changes, world):
    relisted(world.bad, rows_of(world.bad, **changes))
    alone(world)


@pytest.mark.parametrize(
    ("name", "text"),
    thinned([(name, text) for text in TEXTS for name in (runs.INFO, store.RESULTS, store.MANIFEST)], lambda c: c[1]),
)
def test_text_that_is_no_json_of_ours_is_left_out(name, text, world):
    (world.bad / name).write_bytes(TEXTS[text])
    if name != store.MANIFEST:
        listed(world.bad, name)
    alone(world)


def test_a_number_too_large_to_be_summed_is_told_as_such(world):
    relisted(world.bad, rows_of(world.bad, value=1e308))
    assert {row.value for row in store.load_rows(world.bad)} == {None}
    assert all("1e+308" in row.reason for row in store.load_rows(world.bad))
    alone(world)


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


RUNS = (runs.INFO, store.RESULTS, store.MANIFEST, runs.WEIGHTS, "log.jsonl")  # the files of a run


@pytest.mark.parametrize(
    ("name", "make"),
    thinned([(n, m) for m in (_folder, _loop, _zero, os.mkfifo, Path.touch) for n in RUNS], lambda c: c[1]),
)
def test_another_thing_in_a_files_place_is_left_out(name, make, world):
    (world.bad / name).unlink()
    make(world.bad / name)
    alone(world)


@pytest.mark.heavy
def test_a_file_where_a_run_should_be(world):
    shutil.rmtree(world.bad)
    world.bad.write_text("x")
    done = bench("list", "runs", "--json", "--out", world.runs)
    assert len(json.loads(done.stdout)) == len(world.good)
    info = runs.read_info(world.good[0])
    words = ("--dataset", info.dataset, "--tier", info.tier, "--recipes", info.recipe, "--no-timing", "--device", "cpu")
    done = bench("all", *words, "--seeds", 2, "--out", world.runs)
    assert done.exit_code == 1
    assert f"failed: train {info.recipe} seed 1" in done.output
    assert "report:" in done.output


@pytest.mark.parametrize("data", [b"\xff" * 8, b"", DEEP.encode()], ids=["ones", "empty", "deep"])
def test_weights_that_are_listed_and_no_safetensors(data, world):
    relisted(world.bad, data, runs.WEIGHTS)
    for verb in ("sample", "evaluate", "time"):
        done = bench(
            verb, world.bad, "--out", world.runs, "--device", "cpu", *(["--force"] if verb == "evaluate" else [])
        )
        assert done.exit_code == 2
        assert f"{runs.WEIGHTS} does not say what it is of" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_plan_of_other_types_is_named(world):
    info = runs.read_info(world.bad)
    shutil.rmtree(world.bad)
    for path in world.bad.parent.glob("plan-*.json"):
        value = store.read_sealed(path)
        store.write_sealed(path, {**value, "batch": "x"})
    words = ("--dataset", info.dataset, "--tier", info.tier, "--seed", 1, "--out", world.runs, "--device", "cpu")
    done = bench("train", info.recipe, *words)
    assert done.exit_code == 2
    assert "'batch' is 'x', not int" in done.stderr
    assert "delete it" in done.stderr


def test_a_run_near_the_root(world):
    """Less than three levels deep: /run."""
    info = runs.read_info(world.good[0])
    assert runs.out_of(Path("/run"), info) == Path("runs")
    assert [place.as_posix() for place in _places(Path("/run"), "a/b/0-c", None)]


# ------------------------------------------------------------------------------------------------- names and folders


@pytest.mark.parametrize("verb", ["sample", "evaluate", "time", "report", "data", "list", "compare", "train", "all"])
def test_names_that_are_too_long_are_told_in_one_line(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "a" * 300
    words = {"list": ["runs", "--out", long], "compare": [long, long], "train": ["gan", "--out", long]}
    words |= {"all": ["--out", long], "data": [f"folder:{long}"]}
    done = bench(verb, *words.get(verb, [long]))
    assert done.exit_code in (0, 2)
    assert isinstance(done.exception, (SystemExit, type(None)))
    assert len(done.stderr.strip().splitlines()) <= 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("train", "vae", "--seed", str(2**63)),
        ("train", "vae", "--threads", "100000"),
        ("train", "vae", "--threads", str(10**20)),
        ("time", "vae", "--threads", "100000"),
        ("sample", "vae", "--seed", str(10**30)),
        ("all", "--seeds", str(10**9)),
    ],
)
def test_numbers_that_nothing_holds_are_refused_before_any_work(words):
    result = bench(*words)
    assert result.exit_code == 2
    assert f"Invalid value for '{words[-2]}'" in result.output
    assert result.output.count("\n") == 1


def in_a_process(*words: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`bench` with such arguments, started by a shell that first does something."""
    command = f"{before} exec {shlex.quote(sys.executable)} -m bench.cli {shlex.join(words)}"
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), **environment},
        check=False,
    )


@pytest.mark.parametrize(
    "closed",
    [*(pytest.param(f"exec {one}&-;", marks=pytest.mark.heavy) for one in ("<", ">", "2>")), "exec <&- >&- 2>&-;"],
)
def test_streams_that_are_closed_end_no_command(closed):
    for words, code in ((("list", "tiers"), 0), (("list", "nonsense"), 2)):
        result = in_a_process(*words, before=closed)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr


def test_streams_that_take_nothing_end_in_an_exit_code():
    assert in_a_process("list", "nonsense", before="exec 2>/dev/full;").returncode == 2
    unread, into = os.pipe()
    os.close(unread)
    words = [sys.executable, "-m", "bench.cli", "list", "recipes"]
    try:
        ended = subprocess.run(words, stdout=into, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(into)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_working_folder_that_is_gone_is_told_in_one_line(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    place = shlex.quote(str(gone))
    result = in_a_process("data", "folder:x", before=f"cd {place}; rmdir {place};")
    assert result.returncode == 2
    assert "there is no working folder" in result.stderr
    assert result.stderr.count("\n") == 1


def test_code_of_others_that_ends_the_program_is_a_failure(monkeypatch):
    monkeypatch.setattr("bench.recipes.listed", lambda: sys.exit(0))
    result = bench("list", "recipes")
    assert result.exit_code == 1
    assert "a plugin or a factory, ended the program (exit code 0)" in result.output


def test_a_folder_that_goes_away_is_told_in_one_line(world, monkeypatch):
    def gone(root: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(root))

    monkeypatch.setattr("bench.inputs.runs.walk", gone)
    done = bench("list", "runs", "--out", world.runs)
    assert done.exit_code == 2
    assert "No such file" in done.stderr


def test_a_folder_that_may_be_listed_and_not_entered_stops_no_other(tmp_path, monkeypatch):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / runs.INFO).touch()
    (tmp_path / "good" / runs.INFO).touch()
    is_dir = Path.is_dir

    def refused(path: Path) -> bool:
        if path.parent.name == "bad":
            raise PermissionError(13, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    found = walk(tmp_path)
    assert found.holding(runs.INFO) == [tmp_path / "good"]
    assert list(found.lost) == [tmp_path / "bad" / runs.INFO]


# ------------------------------------------------------------------------------------------------------- the types


def test_values_fit_their_types():
    assert store.fits(float)(1)
    assert not store.fits(float)(True)
    assert not store.fits(float)(10**400)
    assert not store.fits(int)(1.0)
    assert not store.fits(int)(2**63)
    assert store.fits(int | None)(None)
    assert store.fits(tuple[int, ...])([1, 2])
    assert not store.fits(tuple[int, str])([1, 2])
    assert store.fits(str)("\udcff")
    assert not store.fits(str)("\ud800")
    assert not store.fits(str)("\0")


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", '{"a": 1, "a": 1}', DEEP, "[" * 20 + "]" * 20, "1" * 5000]
)
def test_json_that_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        store.parse(text.encode())


def test_what_is_written_is_read(tmp_path):
    value = {"path": "\udcff", "n": 2**62, "x": 1.5e99, "deep": [[[{}]]]}
    store.write_sealed(tmp_path / "x.json", value)
    assert store.read_sealed(tmp_path / "x.json") == value


# ---------------------------------------------------------------------------------------------------------- the fuzzer


@pytest.mark.heavy
def test_random_commands_and_files_hold():
    """A small sample of `python -m bench.lab.fuzz`."""
    tried, found = fuzz.trials(12, seed=7)
    assert sum(tried.values()) == 12
    assert not found, found


def test_the_fuzzer_sees_what_it_looks_for(world, tmp_path, monkeypatch):
    def evil(*_: object, **__: object) -> None:
        (world.root / "outside" / "new").write_text("x")
        sys.stdout._stream.write("\x1b[2J")  # past what makes it visible
        raise ZeroDivisionError

    monkeypatch.setattr(listing, "_runs", evil)
    faults = {fault for fault, _ in fuzz._held(world, ["list", "runs"], 10.0, [])}
    assert faults == {"traceback", "control", "outside"}


def test_the_tier_of_the_fuzzer_is_cut():
    assert dataclasses.asdict(fuzz._cut(tiers.get("full")))["samples"] == 32
    with pytest.raises(BadInput, match="no kind holds"):
        fuzz.trials(1, only="nothing")
