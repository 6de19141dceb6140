"""The command line: it starts fast, refuses in one line, and `bench all` trains, scores, times and reports, once.

The suite here runs in a process of its own, as a user's would, with a paradigm that an installed package adds through
an entry point: no file of this repository knows it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import jobs_here
from PIL import Image
from typer.testing import CliRunner, Result

from bench import cli, recipes, store
from bench.cli import listing, shown
from bench.inputs import chosen, plans
from bench.inputs.runs import Runs
from paradigms import catalogue
from paradigms.core.data import Space
from paradigms.errors import BadInput, out_of_memory

ROOT = Path(__file__).parents[1]
VERBS = ("all", "train", "sample", "evaluate", "time", "compare", "report", "list", "data")

TIER = """
[tiny]
base = "smoke"
match = "images"
seeds = 1
samples = 640
likelihood_n = 16
likelihood_calls = 10
timing_repeats = 2
timing_seconds = 0.02
small = { flops = 1e9, seconds = 1e9, images = 500, params = 60_000 }
"""

# The paradigm that the documentation adds from outside, under names that are counted here, and with a refusal of its own.
PLUGIN = (ROOT / "docs" / "examples" / "my_paradigm.py").read_text()
PLUGIN = PLUGIN.replace("independent-normals", "eighth").replace("IndependentNormals", "Eighth")
PLUGIN = PLUGIN.replace("from paradigms.maths", "from paradigms.errors import BadInput\nfrom paradigms.maths", 1)
PLUGIN = PLUGIN.replace(
    "        draws = [",
    """        if kind.option("K", 1) == 13:
            raise BadInput("thirteen draws bring bad luck; ask for twelve")
        draws = [""",
)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refused(result: Result, *words: str) -> None:
    """One line on stderr that begins with "error: ", exit code 2, and nothing on stdout."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert result.stdout == ""
    for word in words:
        assert word in lines[0]


# ------------------------------------------------------------------------------------------------------------ start


@pytest.mark.parametrize("arguments", [[], ["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_teaches_by_example(arguments: list[str]) -> None:
    result = bench(*arguments)
    assert result.exit_code == 0
    assert f"bench {arguments[0] if arguments[:1] != ['--help'] and arguments else 'all'}" in result.stdout


def test_help_and_completion_do_not_wait_for_torch() -> None:
    """No heavy library is imported by the module, by any help text or by completing any name."""
    script = """
        import contextlib, io, os, sys
        from bench import cli
        heavy = {"torch", "pandas", "sklearn", "numpy", "scipy", "matplotlib"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        for verb in ([], ["all"], ["train"], ["sample"], ["evaluate"], ["time"], ["report"], ["list"], ["data"]):
            with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
                cli.app([*verb, "--help"])
            assert "Usage" in text.getvalue()
        from bench.cli import options
        assert "flow-matching" in options.complete_recipe("flow")
        assert "gan,flow-matching" in options.complete_recipes("gan,flow-m")
        assert options.complete_recipes("ro") == ["rows"]
        assert options.complete_dataset("fashion-mnist")[0] == "fashion-mnist"
        assert options.complete_tier("q") == ["quick"]
        options.complete_run("")
        for what in ("recipes", "samplers", "datasets", "tiers", "runs", "settings vae"):
            with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
                cli.app(["list", *what.split()])
            assert text.getvalue()
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)


def test_the_version_is_one_line_and_does_not_wait_for_torch() -> None:
    """The package's, torch's and Python's, from the packages' metadata alone."""
    script = """
        import sys
        from bench import cli
        try:
            cli.app(["--version"])
        except SystemExit as ended:
            assert not ended.code, ended.code
        heavy = {"torch", "pandas", "sklearn", "numpy", "scipy", "matplotlib"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    line = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    python = platform.python_version()
    assert line == f"paradigm-bench {version('paradigm-bench')}, torch {version('torch')}, Python {python}\n"


def test_the_version_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkout that was never installed there is no metadata: a line, no traceback."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    result = bench("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("paradigm-bench (not installed), torch (not installed), Python 3.")


def test_what_is_kept_of_the_recipes_is_what_they_say() -> None:
    assert recipes.KEPT.read_text("utf-8") == recipes.kept(), "make it anew: python -m bench.lab.readme"


def test_what_is_kept_of_the_recipes_is_not_believed_where_it_may_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.loads(recipes.KEPT.read_text("utf-8"))
    assert recipes._recalled() == good
    monkeypatch.setattr(recipes, "KEPT", tmp_path / "recipes.json")
    assert recipes._recalled() is None
    for text in ("[", "[]", "{}", json.dumps({**good, "sources": "0" * 64})):
        recipes.KEPT.write_text(text)
        assert recipes._recalled() is None
    recipes.KEPT.write_text(json.dumps(good))
    assert recipes._recalled() == good
    monkeypatch.setattr(type(catalogue.DOOR), "points", lambda door: ["theirs"])
    assert recipes._recalled() is None


def test_a_changed_source_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = recipes.sources(), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path).replace(b"DDPM", b"ddpm"))
    assert recipes.sources() != before


def test_shell_completion_answers() -> None:
    environment = os.environ | {
        "_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "bench train flow",
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-c", "from bench.cli import app; app(prog_name='bench')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert "flow-matching" in done.stdout.split()


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("trian", ["No such command", "train"]),
        ("all --what", ["No such option"]),
        ("train", ["Missing argument"]),
        ("train flow-machine", ["unknown recipe 'flow-machine'", "did you mean 'flow-matching'?"]),
        ("train gan --dataset digit", ["unknown data set 'digit'", "did you mean 'digits'?"]),
        ("train gan --tier quik", ["unknown tier 'quik'", "did you mean 'quick'?"]),
        (
            "train gan --tier nowhere.toml:x",
            ["can not read tiers from nowhere.toml: nowhere.toml does not exist; give"],
        ),
        ("train vae --set batch=1000000 --tier smoke --out {tmp}", ["batch = 1,000,000", "899 training examples"]),
        ("train gan --match flop", ["unknown match 'flop'", "did you mean 'flops'?"]),
        ("train flow-matching --set lr=fast --out {tmp}", ["--set lr=fast", "'lr' must be a number"]),
        ("train flow-matching --set learning=1 --out {tmp}", ["'learning'", "see `bench list settings flow-matching`"]),
        ("train flow-matching --set lr --out {tmp}", ["key=value", "see `bench list settings flow-matching`"]),
        ("train flow-matching --device tpu --out {tmp}", ["unknown device 'tpu'"]),
        ("train flow-matching --dataset ring8 --out {tmp}/file/runs", ["can not write to", "choose another"]),
        ("train flow-matching --out /proc/runs", ["can not write to /proc/runs"]),
        ("train ddpm --dataset folder:{tmp}/none --out {tmp}", ["none"]),
        ("all --recipes gan,vea", ["unknown recipe 'vea'", "did you mean 'vae'?"]),
        ("all --jobs many", ["--jobs many"]),
        ("all --seeds 0", ["--seeds"]),
        ("all --dataset digist", ["did you mean 'digits'?"]),
        ("all --out {tmp}/file", ["can not write to"]),
        ("all --recipes all,gna", ["unknown recipe 'gna'", "did you mean 'gan'?"]),
        ("all --recipes , --out {tmp}", ["--recipes is empty"]),
        ("all --recipes gan,gna+ --out {tmp}", ["unknown recipe 'gna'", "did you mean 'gan'?"]),
        ("train vae --set lr=fast --out {tmp}/new/runs", ["'lr' must be a number"]),
        ("sample nosuch --to {tmp}/new/sub/ --out {tmp}", ["unknown run or recipe 'nosuch'"]),
        ("time flow-matching --steps 1" + "0" * 5000 + " --out {tmp}", ["--steps"]),
        ("report {tmp} --formats ,", ["--formats is empty"]),
        ("sample gan --out {tmp}", ["no run of gan on digits", "bench train gan --dataset digits --out {tmp}"]),
        ("sample gan --to {tmp}/way.pdf --out {tmp}", [".png or .npz"]),
        ("sample gan --trajectory --to {tmp}/way.npz --out {tmp}", [".png, .svg or .pdf"]),
        ("sample gan --trajectory -n 3 --out {tmp}", ["leave out -n"]),
        ("evaluate none.npz", ["there is no file none.npz"]),
        ("sample gna --out {tmp}", ["did you mean 'gan'?"]),
        ("sample {tmp}", ["not the folder of a run"]),
        ("sample {tmp}/no/such", ["there is no run"]),
        ("sample gan --to x.gif --out {tmp}", [".png or .npz"]),
        ("sample gan --to {tmp}/file/grid.png", ["can not write to"]),
        ("time flow-matching --steps 1,two --out {tmp}", ["--steps 1,two"]),
        ("evaluate {tmp}/none.npz", ["there is no file"]),
        ("evaluate {tmp}/file --dataset digits", ["can not read"]),
        ("report {tmp}/none", ["there is no folder"]),
        ("report {tmp} --formats pdf", ["unknown format 'pdf'"]),
        ("report {tmp}", ["no results in"]),
        ("list recipies", ["did you mean 'recipes'?"]),
        ("data mnits", ["did you mean 'mnist'?"]),
        ("data mnist --from {tmp}/none", ["does not exist"]),
        ("data mnist --from {tmp}/file", ["does not hold"]),
    ],
)
def test_one_line_and_exit_2(arguments: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not what you think")
    result = bench(*arguments.format(tmp=tmp_path).split())
    refused(result, *(word.format(tmp=tmp_path) for word in words))
    left = {p.name for p in tmp_path.rglob("*")} - {"file"}
    assert not left, f"half-written: {left}"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "MemoryError"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
            "CUDA out of memory. Tried to allocate 9 GiB",
        ),
        (
            RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
            "[enforce fail] . DefaultCPUAllocator: ",
        ),
    ],
)
def test_no_memory_is_one_line(error: Exception, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise error

    monkeypatch.setattr(listing, "_tiers", full)
    done = bench("list", "tiers")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: out of memory ({text}")
    assert line.endswith("); ask for less at a time, or stop what else uses it")


def test_torch_says_on_a_cpu_that_memory_is_wanting() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert out_of_memory(refused.value)
    assert not out_of_memory(RuntimeError("shapes differ"))


def test_a_tier_without_seeds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text('[none]\nbase = "smoke"\nseeds = 0\n')
    refused(bench("all", "--tier", tmp_path / "none.toml", "--out", tmp_path / "runs"), "seeds")


def test_a_run_file_that_is_no_object_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "vae" / "0-1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("[]")
    refused(bench("sample", "vae", "--out", tmp_path), "no run of vae on digits")
    assert "damaged" in bench("list", "runs", "--out", tmp_path).stdout


@pytest.mark.parametrize("old", [False, True])
def test_the_newest_run_is_the_newest(tmp_path: Path, old: bool) -> None:
    """By when it ended, to the microsecond; of runs that kept whole seconds by which file was written last."""
    began = datetime(2026, 5, 4, 23, 59, 59, 999_000, UTC)
    made = []
    for k, name in enumerate(("0-ffff", "1-0000", "0-9999", "2-5555", "0-1111")):
        folder = tmp_path / "digits" / "vae" / name
        folder.mkdir(parents=True)
        ended = began if old else began + timedelta(microseconds=400 * k)
        values = {"recipe": "vae", "dataset": "digits", "tier": "t", "seed": 0, "status": "ok", "steps": 1}
        values |= {
            "planned_steps": 1,
            "seconds": 1.0,
            "finished": ended.isoformat(timespec="seconds" if old else "auto"),
        }
        (folder / "run.json").write_text(json.dumps(values))
        os.utime(folder / "run.json", ns=(0, k * 1000 if old else -k * 1000))
        made.append(str(folder))
        assert chosen.run_on("vae", None, Runs(tmp_path)).folder == folder
        assert [row["run"] for row in json.loads(bench("list", "runs", "--json", "--out", tmp_path).stdout)] == made[
            ::-1
        ]
    for ill, ended in (("3-failed", "failed"), ("4-running", "training")):
        folder = tmp_path / "digits" / "vae" / ill
        folder.mkdir()
        values |= {"status": ended, "finished": "" if ended == "training" else "2026-06-01T00:00:00+00:00"}
        (folder / "run.json").write_text(json.dumps({**values, "started": "2026-06-02T00:00:00+00:00"}))
        assert chosen.run_on("vae", None, Runs(tmp_path)).folder == Path(made[-1]), "a finished one before any other"
        assert json.loads(bench("list", "runs", "--json", "--out", tmp_path).stdout)[0]["run"] == str(folder)


def test_a_folder_named_like_a_recipe_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gan").mkdir()
    refused(bench("evaluate", "gan"), "no run of gan on digits")
    refused(bench("sample", "gan"), "no run of gan on digits")
    refused(bench("evaluate", "./gan"), "neither a run.json nor PNG files")


def test_pictures_are_not_mixed_with_those_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "00000.png").write_bytes(b"")
    refused(bench("sample", "vae", "--to", tmp_path, "--out", tmp_path / "runs"), "PNG files", "name another")


def test_plans_are_checked_against_the_card() -> None:
    from paradigms import catalogue

    def asked(recipe: str, sampler: str | None, steps: int | None, *options: str) -> None:
        card = chosen.card_of(catalogue.get(recipe).paradigm, recipe)
        plans.plan_of(card, recipe, sampler, steps, None, options)

    asked("flow-matching", "rk45", None, "rtol=1e-3")
    asked("gan", None, 1)
    for arguments, words in (
        (("flow-matching", "rk45", None, "rtol=0", "atol=0"), "rtol|atol"),
        (("flow-matching", "rk45", 7), "no number of steps"),
        (("flow-matching", "euler", 1_000_000_000), "100,000"),
        (("gan", None, 5), "no number of steps"),
        (("ddpm", "ddim", 10, "eta=5"), "eta"),
    ):
        with pytest.raises(BadInput, match=words):
            asked(*arguments)
    assert plans.step_counts("2,1,2") == [2, 1]


def test_no_room_behind_the_output_is_one_line(tmp_path: Path) -> None:
    """As of a full disk: the file that is printed into may not grow."""
    with open(tmp_path / "out.txt", "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "bench.cli", "list", "datasets"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: can not print: File too large"]


def test_a_terminal_of_few_letters_still_says_what_is_a_bound() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "list", "tiers"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "<= 6" in done.stdout
    assert "?" not in done.stdout
    assert "≈≤±—".encode("ascii", "bench.plainly") == b"~<=+-?"


# ------------------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize("what", [*(kind for kind in listing.KINDS if kind != "settings"), "settings vae"])
def test_lists(what: str, tmp_path: Path) -> None:
    text = bench("list", *what.split(), "--out", tmp_path)
    assert text.exit_code == 0
    assert text.stdout.strip()
    assert "\x1b" not in text.stdout
    rows = json.loads(bench("list", *what.split(), "--json", "--out", tmp_path).stdout)
    assert isinstance(rows, list)
    assert rows or what == "runs"


def test_settings_have_their_defaults_and_meanings() -> None:
    """As the config has them: an inherited one, and one inside another config."""
    rows = {row["setting"]: row for row in json.loads(bench("list", "settings", "vae", "--json").stdout)}
    assert list(rows["beta"]) == ["recipe", "setting", "default", "type", "range", "meaning"]
    assert list(rows["beta"].values()) == [
        "vae", "beta", 1.0, "a number", "at least 0", "the KL's weight after the warm-up",
    ]  # fmt: skip
    assert rows["latent"]["meaning"] == "dimensions of z", "which the config inherits"
    inner = {
        row["setting"]: row["default"] for row in json.loads(bench("list", "settings", "latent-ddpm", "--json").stdout)
    }
    assert inner["inner.predicts"] == "eps"
    shown = bench("list", "settings", "vae").stdout
    assert "the KL's weight after the warm-up" in shown
    assert "recipe" not in shown.splitlines()[0]
    refused(bench("list", "settings"), "name the recipe", "bench list recipes")
    refused(bench("list", "settings", "vea"), "unknown recipe 'vea'", "did you mean 'vae'?")
    refused(bench("list", "runs", "vae"), "leave out 'vae'")


def test_recipes_say_which_data_they_take_and_why_not_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variants under their row, and for each data set a reason where a recipe refuses it."""
    from bench import recipes
    from paradigms import catalogue

    known = catalogue.recipes()
    variant = dataclasses.replace(known["vae"], name="about-vae", variant_of="vae", aliases=("vae2",))
    monkeypatch.setattr(catalogue, "recipes", lambda: known | {"about-vae": variant})

    def refusal(name: str, space: Space) -> str | None:
        if name == "vae" and not space.is_image:
            return "no pixels"
        if name == "about-vae" and space.shape[-1] in (14, 16):
            return f"{space.shape[-1]} is round"
        return "never" if name == "ddpm" else None

    monkeypatch.setattr(recipes, "refusal", refusal)
    rows = {row["recipe"]: row for row in json.loads(bench("list", "recipes", "--json").stdout)}
    order = list(rows)
    between = order[order.index("vae") + 1 : order.index("about-vae")]
    assert all(rows[name]["row"] == "vae" for name in between)
    assert (rows["about-vae"]["row"], rows["about-vae"]["aliases"]) == ("vae", ["vae2"])
    assert rows["gan"]["accepts"] == "all"
    assert rows["ddpm"]["accepts"] == "none; not all: never"
    assert rows["vae"]["accepts"] == "images; not vectors: no pixels"
    assert rows["about-vae"]["data"]["gmm16"] == "16 is round"
    assert rows["about-vae"]["data"]["mnist"] is None
    small = "mnist@14, stacked-mnist@14"
    assert rows["about-vae"]["accepts"] == f"all but fashion-mnist@14, gmm16, {small} (14–16 is round)"
    assert rows["vae"]["url"].startswith("https://arxiv.org/")
    shown = bench("list", "recipes").stdout
    assert "\n   about-vae (or vae2)  " in shown
    assert "images; not vectors: no pixels" in shown


def test_what_a_user_wrote_is_never_markup(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "[red]bold[" / "0-1"
    folder.mkdir(parents=True)
    values = {"recipe": "[link=x]y[/link]", "dataset": "[/]", "tier": "t", "seed": 0, "status": "ok"}
    (folder / "run.json").write_text(json.dumps({**values, "steps": 1, "planned_steps": 1, "seconds": 1.0}))
    shown = bench("list", "runs", "--out", tmp_path)
    assert shown.exit_code == 0
    assert "[link=x]y[/link]" in shown.stdout
    (folder / "run.json").write_text("{")
    assert "damaged" in bench("list", "runs", "--out", tmp_path).stdout


def test_a_narrow_terminal_gets_fewer_columns_not_broken_ones() -> None:
    texts = {"recipe": ["flow-matching"], "FD-digits ↓": ["1.09 ± 0.02"], "Params": ["285 k"], "Seeds": ["3"]}
    assert shown._fitting(texts, 200) == list(texts)
    assert shown._fitting(texts, 40) == ["recipe", "FD-digits ↓", "Params"]
    assert shown._fitting(texts, 10) == ["recipe", "FD-digits ↓"], "what the command is about stays"
    grouped = {"recipe": ["gan"], "FD-digits ↓": ["1.09 ± 0.02"], "Group": ["a"], "Calls": ["1"]}
    assert shown._fitting(grouped, 31) == ["recipe", "FD-digits ↓", "Group"]


def test_a_table_too_wide_for_its_words_becomes_blocks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    columns, row = ["recipe", "note"], ["flow-matching", "two[x] words"]
    for width, block in ((10, True), (17, False), (40, False)):
        monkeypatch.setattr(shown, "_console", lambda width=width: Console(width=width))
        shown.table(columns, [row])
        text = capsys.readouterr().out
        assert ("note: two[x] words" in text) is block
        assert ("flow-matching" in text) is (width != 17), "broken only where there is no room"


# ------------------------------------------------------------------------------------------------------------ a suite


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tier of its own and an installed package that adds a recipe."""
    root = tmp_path_factory.mktemp("world")
    (root / "mine.toml").write_text(TIER)
    site = root / "site"
    info = site / "eighth-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "eighth_model.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: eighth\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[paradigms.recipes]\neighth = eighth_model\n")
    return root


def run(world: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.cli", *map(str, arguments)],
        env=_environment(world),
        cwd=world,
        capture_output=True,
        text=True,
    )


def _environment(world: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(world / "site")]), "NO_COLOR": "1"}


SUITE = ("all", "--dataset", "digits", "--tier", "mine.toml:tiny", "--recipes", "vae,eighth")


@pytest.fixture(scope="module")
def first(world: Path) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        patch.syspath_prepend(world / "site")
        jobs_here(patch)
        done = bench(*SUITE)
    assert done.exit_code == 0, done.output
    return done


def test_all_trains_scores_times_and_reports(first: Result, world: Path) -> None:
    assert "2 runs to train, 2 to evaluate" in first.stderr
    assert "\x1b" not in first.stdout + first.stderr
    assert "2 runs trained and 2 evaluated" in first.stdout
    for name in ("vae", "eighth", "floor", "uniform noise", "bits/dim"):
        assert name in first.stdout
    assert first.stdout.count("warning: eighth seed 0: blind to neighbours") == 1
    assert "warning: vae" not in first.stdout
    page = world / "runs" / "report" / "digits-tiny" / "report.html"
    assert f"report: {page.relative_to(world)}" in first.stdout
    assert page.stat().st_size > 10_000


def test_an_eighth_paradigm_from_outside(first: Result, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, evaluated, timed and in the report, with no file of this repository touched."""
    folders = sorted((world / "runs" / "digits" / "eighth").glob("*-*/run.json"))
    assert [json.loads(f.read_text())["status"] for f in folders] == ["ok"]
    rows = [json.loads(line) for line in (folders[0].parent / "results.jsonl").read_text().splitlines()]
    assert {"fd", "bits_per_dim", "coverage"} <= {row["metric"] for row in rows}
    fd = next(row for row in rows if row["metric"] == "fd")
    assert fd["paradigm"] == "Independent normals"
    assert fd["calls"] == 1
    timed = [json.loads(line) for line in (folders[0].parent / "timing" / "results.jsonl").read_text().splitlines()]
    assert {"latency", "throughput"} <= {row["metric"] for row in timed}
    page = (world / "runs" / "report" / "digits-tiny" / "report.html").read_text()
    assert "The log of eighth seed 0: blind to neighbours: every pixel is drawn alone." in page
    assert "The training log of <b>eighth</b> names a symptom" in page
    monkeypatch.chdir(world)
    told = {row["run"]: row["note"] for row in json.loads(bench("list", "runs", "--json").stdout)}
    assert {"eighth" in run for run, note in told.items() if note} == {True}
    listed = json.loads(run(world, "list", "recipes", "--json").stdout)
    assert "eighth" in {row["recipe"] for row in listed}


@pytest.mark.heavy
def test_a_second_time_nothing_is_trained(first: Result, world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (world / "runs").rglob("*") if path.is_file()}
    again = run(world, *SUITE, "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert again.stderr == ""
    assert (found["trained"], found["evaluated"], found["failures"]) == (0, 0, [])
    recipes = {row["recipe"]: row for row in found["table"]}
    assert {"vae", "eighth"} <= set(recipes)
    after = {path: path.stat().st_mtime_ns for path in (world / "runs").rglob("*") if path.is_file()}
    assert after == before, "files were written"


@pytest.mark.heavy
def test_results_do_not_depend_on_the_number_of_jobs(first: Result, world: Path) -> None:
    """Two workers against none: the same rows but for what a clock measured."""
    two = run(world, *SUITE, "--seeds", 1, "--jobs", 2, "--out", "two", "--no-timing")
    assert two.returncode == 0, two.stderr
    paths = sorted(path.relative_to(world / "two") for path in (world / "two").glob("digits/*/*/results.jsonl"))
    assert len(paths) == 2 + 1  # and the baselines
    clocked = ("seconds", "seconds_total", "contended")
    for path in paths:
        one, two = (
            [{k: v for k, v in json.loads(line).items() if k not in clocked} for line in (world / out / path).open()]
            for out in ("two", "runs")
        )
        assert one == two


@pytest.mark.heavy
def test_a_corrupt_run_is_refused(first: Result, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world / "runs", world / "corrupt")
    weights = next((world / "corrupt" / "digits" / "vae").glob("0-*")) / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(world / "site")
    others = bench(*SUITE, "--out", "corrupt")  # the damaged run is named and left out, the rest goes on
    assert others.exit_code == 1, others.output
    assert "failed: vae seed 0: " in others.stdout
    assert f"{weights.name} is damaged" in others.stdout
    assert "eighth" in others.stdout
    refused(bench("sample", weights.parent), "damaged", weights.name)
    refused(bench("evaluate", weights.parent, "--tier", "smoke"), "damaged", weights.name)


def test_samples_are_written_as_arrays_and_pictures(
    first: Result, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(world)
    grid = bench("sample", "vae", "-n", 9, "--to", tmp_path / "g.png")
    assert grid.exit_code == 0, grid.output
    assert "9 samples of vae by sample-1, 1 network call each" in grid.stdout
    assert Image.open(tmp_path / "g.png").width > 300
    assert bench("sample", "vae", "-n", 700, "--to", tmp_path / "new" / "v.npz").exit_code == 0
    with np.load(tmp_path / "new" / "v.npz") as kept:
        assert kept["samples"].shape == (700, 1, 8, 8)
    assert bench("sample", "vae", "-n", 5, "--to", tmp_path / "pngs").exit_code == 0
    assert len(list((tmp_path / "pngs").glob("*.png"))) == 5
    refused(bench("sample", "vae", "-n", 2, "--to", tmp_path / "pngs"), "PNG files")
    refused(bench("sample", "vae", "--label", 3), "without labels")
    refused(bench("sample", "vae", "--guidance", 2), "no guidance")
    assert "latency, ms" in bench("time", "vae", "--tier", "mine.toml:tiny").stdout
    rows = json.loads(bench("evaluate", tmp_path / "new" / "v.npz", "--json").stdout)
    assert {"fd", "kd", "nn_ratio"} <= {row["metric"] for row in rows if row["status"] == "external"}


@pytest.mark.heavy
def test_sample_evaluate_time_report(
    first: Result, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(world)
    assert bench("train", "flow-matching", "--tier", "mine.toml:tiny", "--threads", 1).exit_code == 0
    grid = bench("sample", "flow-matching", "-n", 9, "--sampler", "euler", "--steps", 2, "--to", tmp_path / "g.png")
    assert grid.exit_code == 0, grid.output
    assert "euler-2, 2 network calls each" in grid.stdout
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        way = tmp_path / f"way.{suffix}"
        drawn = bench("sample", "flow-matching", "--steps", 2, "--trajectory", "--to", way)
        assert drawn.exit_code == 0, drawn.output
        assert way.read_bytes().startswith(start)

    refused(bench("sample", "flow-matching", "--guidance", 2), "guidance weighs", "--conditional")
    refused(bench("sample", "flow-matching", "--sampler", "hein"), "no sampler 'hein'; it has ancestral, ddim")
    refused(
        bench("sample", "flow-matching", "--sampler", "ddim", "--option", "eta=x"),
        "ddim takes a number for eta, not 'x'",
    )

    assert bench("sample", "vae", "-n", 700, "--to", tmp_path / "new" / "v.npz").exit_code == 0
    scored = json.loads(bench("evaluate", tmp_path / "new" / "v.npz", "--json").stdout)
    run_rows = json.loads(bench("evaluate", "vae", "--tier", "mine.toml:tiny", "--json").stdout)
    assert {"fd", "kd", "nn_ratio"} <= {row["metric"] for row in scored}
    assert {row["tier"] for row in run_rows} == {"tiny"}
    refused(bench("evaluate", "vae"), "--tier mine.toml:tiny")
    shown = bench("evaluate", tmp_path / "new" / "v.npz")
    assert shown.exit_code == 0
    assert "precision" in shown.stdout
    assert "floor" in shown.stdout
    floors = {r["recipe"] for r in scored if r["status"] == "baseline"}
    assert floors == {r["recipe"] for r in run_rows if r["status"] == "baseline"} == {"real-train"}

    timed = json.loads(
        bench(
            "time", "flow-matching", "--sampler", "euler", "--steps", "1,2", "--tier", "mine.toml:tiny", "--json"
        ).stdout
    )
    assert {(row["sampler"], row["steps"]) for row in timed} == {("euler", 1), ("euler", 2)}
    assert "latency, ms" in bench("time", "vae", "--tier", "mine.toml:tiny").stdout

    written = bench("report", "runs", "--to", tmp_path / "report", "--formats", "csv,md")
    assert written.exit_code == 0, written.output
    names = {Path(line).name for line in written.stdout.splitlines()}
    assert names & {"table.csv", "report.csv"}
    assert all(Path(line).exists() for line in written.stdout.splitlines())


def a_run_of_ones_own(world: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bytes]:
    """A run of the eighth paradigm in a copy of the suite under `name`, and what it was scored."""
    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(world / "site")
    shutil.copytree(world / "runs", world / name)
    run = next((world / name / "digits" / "eighth").glob("0-*"))
    return run, (run / "results.jsonl").read_bytes()


@pytest.mark.heavy
def test_a_likelihood_with_options_of_ones_own(first: Result, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once, kept beside the tier's rows, in the report; what the card does not have is one line."""
    run, before = a_run_of_ones_own(world, "asked", monkeypatch)
    arguments = ("evaluate", run, "--tier", "mine.toml:tiny", "--likelihood")
    asked = bench(*arguments, "mean:K=3", "--likelihood", "exact", "--json")
    assert asked.exit_code == 0, asked.output
    rows = json.loads(asked.stdout)
    assert {(row["kind"], row["options"]) for row in rows} == {("mean", "K=3"), ("exact", "")}
    bits = {(row["kind"], row["split"]): row["value"] for row in rows if row["metric"] == "bits_per_dim"}
    assert bits.keys() == {(kind, split) for kind in ("mean", "exact") for split in ("test", "train")}
    assert len(set(bits.values())) == 4, "three draws have another mean than one"
    assert not any(row["headline"] for row in rows)
    assert (run / "results.jsonl").read_bytes() == before
    kept = (run / "likelihood" / "results.jsonl").read_bytes()
    assert [row["value"] for row in json.loads(bench(*arguments, "mean:K=3", "--json").stdout)] == [
        row["value"] for row in rows if row["kind"] == "mean"
    ]
    assert (run / "likelihood" / "results.jsonl").read_bytes() == kept
    assert "mean K=3" in bench(*arguments, "mean:K=3").stdout
    assert bench(*arguments, "mean").exit_code == 0, "the card's own options by default"
    assert len((run / "likelihood" / "results.jsonl").read_bytes()) > len(kept)
    assert bench("report", "asked", "--formats", "md").exit_code == 0
    assert "mean \\(K=3\\)" in (world / "asked" / "report" / "report.md").read_text()

    refused(bench(*arguments, "mean:K=13"), "thirteen draws bring bad luck")
    refused(bench(*arguments, "means:K=3"), "unknown likelihood 'means' of eighth; known: exact, mean")
    refused(bench(*arguments, "mean:K=0"), "mean takes whole numbers K from 1 to 100,000, not 0")
    refused(bench(*arguments, "mean:K=2.5"), "whole numbers K", "not 2.5")
    refused(bench(*arguments, "mean:K=many"), "mean takes a number for K, not 'many'")
    refused(bench(*arguments, "mean:k=3"), "unknown option of mean: 'k'; known: K")
    refused(bench(*arguments, "exact:K=3"), "unknown option of exact: 'K'", "it has none")
    refused(bench("evaluate", "mine.toml", "--likelihood", "exact"), "holds samples")
    refused(bench("sample", "eighth", "--option", "temperature=-1"), "temperature from 0 to 2, not -1")
    refused(bench("sample", "eighth", "--option", "temperature=inf"), "finite number")


def test_a_sampler_of_ones_own(first: Result, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn once, kept beside the tier's rows, in the report; what the tier draws itself is not drawn again."""
    run, before = a_run_of_ones_own(world, "chosen", monkeypatch)
    arguments = ("evaluate", run, "--tier", "mine.toml:tiny", "--sampler")
    asked = bench(*arguments, "push-1:temperature=0.5", "--sampler", "push-1", "--json")
    assert asked.exit_code == 0, asked.output
    rows = [row for row in json.loads(asked.stdout) if row["status"] != "baseline"]
    assert {(row["options"], row["headline"]) for row in rows} == {("temperature=0.5", False), ("", True)}
    mine = [row for row in rows if row["options"]]
    assert {"fd", "kd", "flops_per_sample"} <= {row["metric"] for row in mine}
    assert {row["n"] for row in mine if row["metric"] == "fd"} == {row["n"] for row in rows if row["metric"] == "fd"}
    assert (run / "results.jsonl").read_bytes() == before
    kept = (run / "samplers" / "results.jsonl").read_bytes()
    assert {row.options for row in store.load_rows(run / "samplers")} == {"temperature=0.5"}, "the other is the tier's"
    assert bench(*arguments, "push-1", "--force").exit_code == 0
    assert (run / "samplers" / "results.jsonl").read_bytes() == kept, "the tier's, forced or not, counts once"
    assert "temperature=0.5" in bench(*arguments, "push-1:temperature=0.5").stdout
    assert (run / "samplers" / "results.jsonl").read_bytes() == kept
    assert bench("report", "chosen", "--formats", "csv").exit_code == 0
    assert "temperature=0.5" in (world / "chosen" / "report" / "report.csv").read_text()

    refused(bench(*arguments, "ddim-5"), "eighth has no sampler 'ddim'; it has push")
    refused(bench(*arguments, "push-1:eta=1"), "unknown option of sampler push: 'eta'")
    refused(bench(*arguments, "push-0"), "steps")
    refused(bench("evaluate", "mine.toml", "--sampler", "push-1"), "drawn already")
    refused(bench(*arguments, "push-1", "--likelihood", "exact"), "--likelihood and --sampler are 2 questions")


# ------------------------------------------------------------------------------------------------- anyone's samples


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of every kind that `bench evaluate` may be given, of digits."""
    from bench.data import load

    root, digits = tmp_path_factory.mktemp("theirs"), load("digits")
    test, train = digits.test.x.numpy(), digits.train.x.numpy()
    assert digits.test.y is not None
    np.savez(root / "test.npz", samples=test, labels=digits.test.y.numpy())
    np.save(root / "train.npy", train)
    np.save(root / "noise.npy", np.random.default_rng(0).integers(0, 17, test.shape).astype(np.uint8))
    np.save(root / "large.npy", test.repeat(2, 2).repeat(2, 3))
    np.save(root / "shape.npy", test[:, :, :7])
    floats = (2.0 * test + 1) / 17 - 1
    np.save(root / "bytes.npy", test * 15.9)
    np.save(root / "unit.npy", (floats + 1) / 2)
    floats[3, 0, 2, 2] = np.nan
    np.save(root / "nan.npy", floats)
    np.savez(root / "two.npz", a=test, b=train, y=digits.test.y.numpy())
    np.savez(root / "labels.npz", samples=test, labels=digits.test.y.numpy() + 1)
    (root / "empty").mkdir()
    (root / "pngs").mkdir()
    for index, image in enumerate(test[:700, 0]):
        Image.fromarray(np.rint(image * 255.0 / 16).astype(np.uint8)).save(root / "pngs" / f"{index:04d}.png")
    return root


def scored(*arguments: object) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The rows of external samples by (metric, split, first word of the space)."""
    result = bench("evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.output
    rows = [row for row in json.loads(result.stdout) if row["status"] == "external"]
    assert rows
    return {(row["metric"], row["split"], row["features"].split("@")[0]): row for row in rows}


@pytest.mark.heavy
def test_rows_of_real_images_copies_noise_and_pngs(theirs: Path) -> None:
    real, copies, noise = (scored(theirs / name) for name in ("test.npz", "train.npy", "noise.npy"))
    fd = ("fd", "test", "digits")
    assert real[fd]["value"] < 1e-6, "they are the reference"
    assert 0.05 < real["fd", "train", "digits"]["value"] < 1
    assert real["label_accuracy", "test", "digits"]["value"] > 0.98
    assert real["nn_ratio", "train", ""]["value"] == pytest.approx(1)
    assert copies["nn_ratio", "train", ""]["value"] == 0
    assert copies["authenticity", "train", ""]["value"] == 0
    assert "copies of training examples" in copies["nn_ratio", "train", ""]["reason"]
    assert not real["nn_ratio", "train", ""]["reason"]
    assert copies[fd]["value"] < 1, "the distance alone does not tell"
    assert noise[fd]["value"] > 20
    assert noise["nn_ratio", "train", ""]["value"] > 2
    pngs = scored(theirs / "pngs")
    assert pngs[fd]["n"] == 700
    assert pngs[fd]["value"] < 0.5
    shown = bench("evaluate", theirs / "train.npy").stdout
    assert "FD-digits" in shown
    assert "FID" not in shown
    assert "copies of training" in " ".join(shown.split())


def test_what_was_assumed_of_samples_is_printed(theirs: Path, tmp_path: Path) -> None:
    with np.load(theirs / "test.npz") as real:
        x, y = real["samples"][:40] / 16, real["labels"][:40]
    x[0, 0, 0, 0] = -0.003
    path = tmp_path / "a" / "samples.npz"
    path.parent.mkdir()
    np.savez(path, x, y)
    refused(bench("evaluate", path), "floats must span [-1, 1]", "--range 0..1")
    shown = " ".join(bench("evaluate", path, "--range", "0..1").stdout.split())
    assert (
        "read: floats from -0.003 to 1 taken as 0..1, 0.039 % of them outside, clipped; arr_1 taken as labels" in shown
    )
    assert "a proportion's 95 % interval, Wilson's" in shown
    assert "± 0 " not in shown
    rows = scored(path, "--range", "0..1")
    assert {row["recipe"] for row in rows.values()} == {"a/samples"}
    assert {row["recipe"] for row in scored(path, "--range", "0..1", "--name", "mine").values()} == {"mine"}
    right = rows["label_accuracy", "test", "digits"]
    assert right["low"] < right["value"] <= right["high"] <= 1
    assert f"{right['low']:.4f} … {right['high']:.4f}" in shown


@pytest.mark.heavy
def test_samples_of_another_size_with_a_stated_resize(theirs: Path) -> None:
    refused(bench("evaluate", theirs / "large.npy"), "(898, 1, 16, 16)", "--resize bicubic|bilinear|area|nearest")
    rows = scored(theirs / "large.npy", "--resize", "area")
    assert rows["fd", "test", "digits"]["value"] < 1e-6, "each pixel was doubled"
    assert {row["resize"] for row in rows.values()} == {"16×16 to 8×8, area"}
    shown = bench("evaluate", theirs / "large.npy", "--resize", "area").stdout
    assert "brought from 16×16 to 8×8, area, before they were scored" in " ".join(shown.split())


@pytest.mark.heavy
def test_rows_of_samples_are_kept_for_the_report(theirs: Path, tmp_path: Path) -> None:
    to = tmp_path / "runs" / "digits" / "external" / "mine"
    done = bench("evaluate", theirs / "pngs", "--tier", "smoke", "--to", to)
    assert done.exit_code == 0, done.output
    assert "marked external" in done.stdout
    assert {"results.jsonl", "grid.png", "samples.npz", "manifest.json", ".lock"} == {p.name for p in to.iterdir()}
    kept = [json.loads(line) for line in (to / "results.jsonl").read_text().splitlines()]
    assert {(row["status"], row["recipe"], row["tier"]) for row in kept} == {("external", "pngs", "smoke")}
    again = bench("evaluate", theirs / "pngs", "--tier", "smoke", "--to", to)
    assert again.exit_code == 0, "the same folder again is made anew"
    assert bench("report", tmp_path / "runs", "--formats", "csv,md").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("shape.npy", ["shape (898, 1, 7, 8)", "(N, 1, 8, 8)"]),
        ("shape.npy --resize area", ["8×7 pixels can not become 8×8 without distortion"]),
        ("empty", ["neither a run.json nor PNG files"]),
        ("nan.npy", ["not finite, in 1 of 898 samples, the first of them 3"]),
        ("two.npz", ["holds 2 arrays, a, b: which are the samples?"]),
        ("bytes.npy", ["floats must span [-1, 1]", "these reach"]),
        ("unit.npy", ["floats must span [-1, 1]", "all positive", "--range 0..1"]),
        ("test.npz --range 1", ["--range '1' is no range; write LOW..HIGH"]),
        ("test.npz --name=", ["--name is empty"]),
        ("test.npz --dataset ring8 --range 0..1", ["--range is for images"]),
        ("test.npz --dataset ring8 --crop", ["--crop is for images"]),
        ("labels.npz", ["labels 1 to 10", "0 to 9"]),
        ("test.npz --resize bicubix", ["unknown way to resize 'bicubix'", "did you mean 'bicubic'?"]),
        ("test.npz --dataset ring8", ["shape"]),
        ("test.npz --tier quik", ["unknown tier 'quik'"]),
        ("test.npz --features nosuch", ["unknown feature space 'nosuch'"]),
        ("test.npz --features empty/net.onnx", ["does not exist"]),
        ("test.npz --features inception-2015:from=empty", ["weights-inception-2015-12-05-6726825d.pth"]),
        ("test.npz --to test.npz", ["is a file"]),
        ("test.npz --to pngs", ["holds other files"]),
        ("test.npz --samples 100", ["--samples is for runs"]),
        ("test.npz --likelihood elbo", ["samples, which have no likelihood"]),
    ],
)
def test_samples_that_can_not_be_scored_are_one_line(
    arguments: str, words: list[str], theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(theirs)
    before = sorted(theirs.rglob("*"))
    refused(bench("evaluate", *arguments.split()), *words)
    assert sorted(theirs.rglob("*")) == before


def test_a_run_in_a_space_of_ones_own(
    first: Result, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(world)
    tier = ("--tier", "mine.toml:tiny")
    (tmp_path / "their_pixels.py").write_text("from torch.nn import Flatten as pixels\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows = json.loads(bench("evaluate", "vae", *tier, "--features", "their_pixels:pixels", "--json").stdout)
    name = "their_pixels.pixels/own-size,own-channels,symmetric"
    spaces = {row["features"].split("@")[0] for row in rows if row["status"] == "ok" and row["metric"] == "fd"}
    assert spaces == {name}
    floors = {row["features"].split("@")[0] for row in rows if row["status"] == "baseline" and row["metric"] == "fd"}
    assert name in floors
    refused(bench("evaluate", "vae", *tier, "--resize", "area"), "--resize is for samples")
    refused(bench("evaluate", "vae", *tier, "--to", "x"), "--to is for samples")
    for option in (("--crop",), ("--range", "0..1"), ("--name", "x")):
        refused(bench("evaluate", "vae", *tier, *option), f"{option[0]} is for samples")
    refused(bench("evaluate", "vae", *tier, "--samples", 700), "--samples goes with --features")
    refused(bench("evaluate", "vae", *tier, "--features", "x:y", "--likelihood", "elbo"), "one at a time")


def test_a_recipe_without_a_likelihood_says_why() -> None:
    from paradigms import catalogue

    card = chosen.card_of(catalogue.get("gan").paradigm, "gan")
    with pytest.raises(BadInput, match=f"gan has no likelihood: {card.no_likelihood}"):
        plans.kind_of(card, "gan", Space((2,)), "elbo")


def test_a_likelihood_for_levels_is_refused_on_vectors() -> None:
    from paradigms import catalogue

    card = chosen.card_of(catalogue.get("maf").paradigm, "maf")
    assert plans.kind_of(card, "maf", Space((1, 8, 8), 0, 17), "dequantised-iwae:K=5").option("K", 0) == 5
    with pytest.raises(BadInput, match=r"^dequantised-iwae is for data with levels, as pixels have"):
        plans.kind_of(card, "maf", Space((2,)), "dequantised-iwae:K=5")


@pytest.mark.heavy
def test_guidance_from_training_to_rows(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a model trained with labels and without; what was trained in another way says so in a line."""
    monkeypatch.chdir(world)
    to, out = tmp_path / "x.npz", ("--out", tmp_path / "runs")
    train = ("train", "flow-matching", "--tier", "mine.toml:tiny", "--conditional", "--threads", 1, *out)
    assert bench(*train, "--set", "unlabelled=0").exit_code == 0
    refused(bench("sample", "flow-matching", "--guidance", 2, "--to", to, *out), "guidance weighs", "`unlabelled`")
    evaluate = ("evaluate", "flow-matching", "--tier", "mine.toml:tiny", *out, "--json")
    refused(bench(*evaluate, "--sampler", "heun-2:guidance=2"), "guidance weighs")

    trained = bench(*train, "--json")
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["config"]["unlabelled"] == 0.1
    drawn = bench("sample", "flow-matching", "-n", 3, "--label", 3, "--guidance", 2, "--steps", 4, "--to", to, *out)
    assert "by heun-4 guidance=2, 16 network calls each" in drawn.stdout
    refused(
        bench("sample", "flow-matching", "--guidance", 2, "--option", "guide-from=9", "--option", "guide-to=1", *out),
        "above",
    )
    swept = bench(*evaluate, "--sampler", "heun-2:guidance=0/1/2,guide-to=50")
    assert swept.exit_code == 0, swept.output
    rows = [r for r in json.loads(swept.stdout) if r["metric"] == "label_accuracy" and r["status"] == "ok"]
    # Heun asks at t = 1, and three times at 1/2 and 0: of sigma / alpha only pure noise lies above 50.
    assert {r["options"]: r["calls"] for r in rows} == {
        "guidance=0,guide-to=50": 4, "": 4, "guidance=2,guide-to=50": 7
    }  # fmt: skip
    assert all(r["conditional"] for r in rows)


def test_an_option_with_several_values_is_as_many_plans() -> None:
    from paradigms import catalogue

    card = catalogue.get("flow-matching").paradigm.card
    each = plans.plans_of(card, "flow-matching", "heun-8:guidance=0/1/2,grid=uniform/cosine")
    assert [str(p) for p in each] == [
        "heun-8 guidance=0", "heun-8 grid=cosine guidance=0", "heun-8", "heun-8 grid=cosine", "heun-8 guidance=2",
        "heun-8 grid=cosine guidance=2",
    ]  # fmt: skip
    swept = plans.plans_of(card, "flow-matching", "heun-8:guidance=1/2,guide-to=3")
    assert [str(p) for p in swept] == ["heun-8", "heun-8 guidance=2 guide-to=3"]
    (falling,) = plans.plans_of(catalogue.get("mean-flow").paradigm.card, "mean-flow", "mean-flow-3:times=0.8/0.3")
    assert dict(falling.options) == {"times": "0.8/0.3"}
    with pytest.raises(BadInput, match=r"^--sampler heun-8:guidance=1/: write it as key=value"):
        plans.plans_of(card, "flow-matching", "heun-8:guidance=1/")
    with pytest.raises(BadInput, match="guidance is given twice"):
        plans.plans_of(card, "flow-matching", "heun-8:guidance=1,guidance=2")
    with pytest.raises(BadInput, match=r"^guide-to acts only beside guidance, which is not given"):
        plans.plans_of(card, "flow-matching", "heun-8:guide-to=5")
    with pytest.raises(BadInput, match="guidance from 0 to 100"):
        plans.plans_of(card, "flow-matching", "heun-8:guidance=1/200")


def test_train_conditional_and_draw_a_label(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(world)
    trained = bench(
        "train",
        "vae",
        "--tier",
        "mine.toml:tiny",
        "--conditional",
        "--out",
        tmp_path,
        "--set",
        "batch=32",
        "--threads",
        1,
        "--json",
    )
    assert trained.exit_code == 0, trained.output
    info = json.loads(trained.stdout)
    assert (info["status"], info["conditional"], info["config"]["batch"]) == ("ok", True, 32)
    to = tmp_path / "threes.npz"
    assert bench("sample", "vae", "-n", 4, "--label", "3", "--to", to, "--out", tmp_path).exit_code == 0
    with np.load(to) as kept:
        assert kept["labels"].tolist() == [3, 3, 3, 3]
    refused(bench("sample", "vae", "--label", "ten", "--to", to, "--out", tmp_path), "unknown label 'ten'")
    refused(bench("sample", "vae", "--label", "30", "--to", to, "--out", tmp_path), "--label 30", "0 to 9")
    again = bench("train", "vae", "--tier", "mine.toml:tiny", "--conditional", "--out", tmp_path, "--set", "batch=32")
    assert "next: bench sample" in again.stdout
    monkeypatch.syspath_prepend(world / "site")
    ill = bench("train", "eighth", "--tier", "mine.toml:tiny", "--out", "runs")
    assert ill.exit_code == 0, ill.output
    assert ill.stderr.splitlines() == [
        f"warning: {ill.stdout.splitlines()[0]}: blind to neighbours: every pixel is drawn alone"
    ]


@contextlib.contextmanager
def another(world: Path, name: str, code: str) -> Iterator[None]:
    """A recipe `name` that is the eighth but for the `code` that its updates begin with; gone when the block ends."""
    text = PLUGIN.replace('"eighth"', f'"{name}"').replace("Eighth", name.capitalize())
    text = text.replace(
        "        loss = -self", textwrap.indent(textwrap.dedent(code), " " * 8) + "        loss = -self"
    )
    (world / "site" / f"{name}_model.py").write_text(text)
    entry = world / "site" / "eighth-1.0.dist-info" / "entry_points.txt"
    before = entry.read_text()
    entry.write_text(before + f"{name} = {name}_model\n")
    try:
        yield
    finally:
        entry.write_text(before)


# Once its training has begun it says so, and goes on when the worker has been told to stop: never too late for that.
PATIENT = """
    import os, signal
    from pathlib import Path

    if list(Path("stopped").glob("digits/patient/0-*/log.jsonl")) and not Path("reached").exists():
        out, into = os.pipe()
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into)
        Path("reached").touch()
        os.read(out, 1)
        signal.set_wakeup_fd(-1)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("signalled", ["one", "group"])
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(world: Path, signalled: str) -> None:
    arguments = (*SUITE[:-1], "patient", "--seeds", "1", "--no-timing", "--out", "stopped")
    with another(world, "patient", PATIENT):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.cli", *arguments],
            env=_environment(world),
            cwd=world,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            while not (world / "reached").exists():
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.02)
            (os.kill if signalled == "one" else os.killpg)(process.pid, signal.SIGINT)
            _, errors = process.communicate()
        finally:
            (world / "reached").touch()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 130, errors
        assert f"bench {' '.join(arguments)}" in errors
        folder = world / "stopped" / "digits" / "patient"
        assert list(folder.glob("0-*/state.pt")), "a checkpoint was left"
        again = run(world, *arguments)
        assert again.returncode == 0, again.stderr
        info = json.loads(next(folder.glob("0-*/run.json")).read_text())
        assert info["status"] == "ok"
        assert info["resumed"], "it went on, not anew"
    (world / "reached").unlink()
    shutil.rmtree(world / "stopped")


@pytest.mark.heavy
def test_a_worker_that_dies_is_a_failed_row_and_exit_1(world: Path) -> None:
    """A recipe that kills its process: the others finish, the failure is in the table, the report and the exit code."""
    with another(world, "deadly", "import os; os.kill(os.getpid(), 9)\n"):
        done = run(world, *SUITE[:-1], "eighth,deadly", "--out", "deadly", "--seeds", 1, "--no-timing", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert any("SIGKILL" in failure["reason"] for failure in found["failures"])
    rows = {row["recipe"]: row for row in found["table"]}
    assert "eighth" in rows
    path = next((world / "deadly" / "digits" / "deadly").glob("0-*")) / "results.jsonl"
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert row["status"] == "failed"
    assert "SIGKILL" in row["reason"]
