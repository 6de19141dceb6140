"""The house's rules, read from the sources: who may import whom, and who may know a recipe's name."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bench
import paradigms
import reports
from bench.scores import kept
from paradigms import catalogue
from paradigms.contract import Trainable
from reports import layout

ROOT = Path(paradigms.__file__).parents[1]
PACKAGES = {package.__name__: Path(package.__file__).parent for package in (paradigms, bench, reports)}
RECIPES = catalogue.recipes()
# The files in which recipes stand; the other files beside them serve them all.
OURS = [r.paradigm for r in RECIPES.values() if r.paradigm.__module__.startswith("paradigms.")]
FILES = sorted({Path(inspect.getfile(paradigm)) for paradigm in OURS})
HEAVY = {"torch", "torchmetrics", "numpy", "scipy", "pandas", "sklearn", "matplotlib"}


def sources(package: str) -> list[Path]:
    found = sorted(PACKAGES[package].rglob("*.py"))
    assert found
    return found


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's tree: each rule reads them, and to walk the tree is most of its cost."""
    return tuple(ast.walk(tree(path)))


def imports(path: Path, code: ast.AST | None = None) -> Iterator[str]:
    """The full names of all modules a file imports, at its top or inside functions, relative ones resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in nodes(path) if code is None else ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module
            # `from paradigms import gan` imports a module too.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def for_all(paths: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Makes one test of a rule about a file, over all `paths`; its failure names the file that breaks the rule."""

    def over(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            for path in paths:
                try:
                    rule(path)
                except BaseException as error:
                    error.add_note(f"{path.relative_to(ROOT)} breaks the rule")
                    raise

        test.__name__, test.__doc__ = rule.__name__, rule.__doc__
        return test

    return over


def each(*packages: str) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """`for_all` files of some packages."""
    return for_all([p for package in packages for p in sources(package)])


def test_a_broken_rule_names_the_file():
    @for_all([ROOT / "a.py", ROOT / "b.py", ROOT / "c.py"])
    def rule(path):
        assert path.name != "b.py"

    with pytest.raises(AssertionError) as caught:
        rule()
    assert caught.value.__notes__[-1:] == ["b.py breaks the rule"]


def test_imports_are_found_wherever_they_stand():
    """The tool that the rules below lean on."""
    code = ast.parse("import a.b\nfrom c import d\ndef f():\n    from . import e\n    from ..g.h import i\n")
    found = set(imports(ROOT / "x" / "y" / "z.py", code))
    assert found == {"a.b", "c", "c.d", "x.y", "x.y.e", "x.g.h", "x.g.h.i"}


@each("paradigms")
def test_paradigms_import_nothing_of_the_bench(path):
    allowed = {"torch", "numpy", "scipy", "paradigms", "__future__", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@each("reports")
def test_reports_import_no_models(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "torchmetrics", "bench", "paradigms"}


# Which part of the reports may import which: what stands in a line imports nothing of the lines below it.
FLOW = (
    ("files", "layout", "metrics", "words", "stats", "provenance"),
    ("rows", "plans", "records", "scores"),
    ("entries", "naming", "budgets", "likelihoods"),
    ("sections", "coverage", "strips"),
    ("tables", "figures", "answer", "compare"),
    ("verdict", "across"),
    ("writers",),
)


@each("reports")
def test_reports_flow_one_way(path):
    """From rows to sections, to tables and figures, to words, to files."""
    part = path.relative_to(PACKAGES["reports"]).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    place = {name: i for i, names in enumerate(FLOW) for name in names}
    typed = {
        id(inner)
        for node in nodes(path)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in nodes(path):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == "reports"
            and id(node) not in typed
        ):
            module = node.module or ""
            names = [module.split(".")[1]] if "." in module else [alias.name for alias in node.names]
            assert all(place[name] <= place[part] for name in names if name in place), (part, names)


@each("reports", "bench")
def test_files_are_written_whole_in_one_place(path):
    """Whoever writes a file that others read does it by `reports.files.write`, which syncs and renames."""
    called = {getattr(n.func, "attr", "") for n in nodes(path) if isinstance(n, ast.Call)}
    if path.relative_to(ROOT).as_posix() != "reports/files.py" and "lab" not in path.parts:
        assert "fsync" not in called


@each("paradigms", "bench", "reports")
def test_nothing_of_the_product_imports_an_experiment(path):
    """But the check of a GPU, which measures what the experiments on speed measure."""
    lab = PACKAGES["bench"] / "lab"
    if lab in path.parents or path == PACKAGES["bench"] / "gpu_check.py":
        return
    assert not [name for name in imports(path) if name == "bench.lab" or name.startswith("bench.lab.")]


BENCH = PACKAGES["bench"]
SCORES = sorted((BENCH / "scores").rglob("*.py"))
SUITE = sorted((BENCH / "suite").glob("*.py"))
COMMANDS = [*sorted((BENCH / "cli").glob("*.py")), *sorted((BENCH / "inputs").glob("*.py"))]


def within(names: Iterator[str], *modules: str) -> list[str]:
    """Those of the names that are one of the modules or inside of it."""
    return [name for name in names if any(name == m or name.startswith(f"{m}.") for m in modules)]


@each("bench")
def test_only_a_start_imports_the_command_line(path):
    """Nothing that Python can use is written inside a command; experiments run commands, too."""
    if path == BENCH / "start.py" or path.parent in (BENCH / "cli", BENCH / "lab"):
        return
    assert not within(imports(path), "bench.cli")


@for_all(sorted((BENCH / "inputs").glob("*.py")))
def test_what_is_meant_is_found_before_anything_is_done(path):
    """`bench.inputs` is below the commands, below `bench.api` and below the suite."""
    names = (name for name in imports(path) if name != "reports.layout" and not name.startswith("reports.layout."))
    assert not within(names, "bench.cli", "bench.api", "bench.suite", "reports")


STAGED = [*SUITE, *sorted((BENCH / "features").glob("*.py")), *sorted((BENCH / "store").glob("*.py"))]
WHOLE = {"bench/loop.py:train": "the loop, which is read from its top to its end"}  # longer, with the reason


@each("bench", "reports")
def test_bodies_are_short(path):
    """A function is at most 60 lines below its signature and docstring; in the commands and the suite at most 40."""
    if "lab" in path.parts:
        return
    name, most = path.relative_to(ROOT).as_posix(), 40 if path in (*COMMANDS, *STAGED) else 60
    for node in functions(path):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        long = bool(body) and (body[-1].end_lineno or 0) - body[0].lineno >= most
        assert long == (f"{name}:{node.name}" in WHOLE), node.name


@for_all(FILES)
def test_no_paradigm_imports_a_sibling(path):
    siblings = {f"paradigms.{other.stem}" for other in FILES if other != path}
    assert not {name for name in imports(path) if any(name == s or name.startswith(s + ".") for s in siblings)}


@pytest.mark.parametrize("part", ["maths", "backbones", "flows"])
def test_shared_parts_import_no_paradigm(part):
    siblings = {f"paradigms.{file.stem}" for file in FILES}
    for path in sorted((PACKAGES["paradigms"] / part).rglob("*.py")):
        assert not {name for name in imports(path) if any(name == s or name.startswith(s + ".") for s in siblings)}


# Which part of `paradigms` may import which: what stands in a line imports nothing of the lines below it.
LAYERS = (
    ("errors", "plugins"),
    ("core",),
    ("maths", "backbones"),
    ("flows", "optim"),
    ("contract",),
    ("standardise", "diffusion"),
    ("recipe",),
)


def layer(name: str) -> int:
    """The place in `LAYERS` of a module of `paradigms`; a paradigm and the catalogue stand above all of them."""
    part = name.split(".")[1] if "." in name else ""
    return next((i for i, parts in enumerate(LAYERS) if part in parts), len(LAYERS))


@each("paradigms")
def test_paradigms_flow_one_way(path):
    """From the words that all speak to the mathematics, the contract, and the recipes; what is for types alone too."""
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    used = {name for name in imports(path) if name.split(".")[0] == "paradigms" and name.count(".")}
    known = {name for name in used if layer(name) < len(LAYERS) or (PACKAGES["paradigms"] / f"{name[10:]}.py").exists()}
    assert not {name for name in known if layer(name) > layer(own)}


def test_paradigms_import_in_no_circle():
    """Neither when they load, nor inside a function, nor for types alone."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sources("paradigms")}
    using = {name: set(imports(path)) & modules.keys() - {name} for name, path in modules.items()}
    while free := {name for name, used in using.items() if not used & using.keys()}:
        using = {name: used for name, used in using.items() if name not in free}
    assert not using, sorted(using)


@pytest.mark.parametrize("name", ["contract", "diffusion", "optim", "standardise", "recipe"])
def test_what_serves_all_paradigms_imports_none(name):
    siblings = {f"paradigms.{file.stem}" for file in FILES}
    assert not set(imports(PACKAGES["paradigms"] / f"{name}.py")) & siblings


# Files above 600 lines, with the reason.
LONG = {
    "bench/gpu_check.py": "the eleven steps of one check",
    "bench/lab/fuzz.py": "one campaign, with all that it generates",
}
SHORTER = {  # folders and files of which the lines are fewer
    **dict.fromkeys(
        ("bench/cli", "bench/inputs", "bench/scores", "bench/runs", "bench/suite", "bench/features", "bench/store"), 400
    ),
    **dict.fromkeys(("reports/tables", "reports/figures", "reports/writers"), 400),
    **dict.fromkeys(("paradigms/core", "paradigms/contract.py"), 400),
    **dict.fromkeys(("paradigms/edm.py", "paradigms/ncsn.py", "paradigms/score_sde.py"), 150),
}


@each("paradigms", "bench", "reports")
def test_files_are_short(path):
    name = path.relative_to(ROOT).as_posix()
    most = SHORTER.get(name, SHORTER.get(path.parent.relative_to(ROOT).as_posix(), 600))
    assert (len(path.read_text(encoding="utf-8").splitlines()) > most) == (name in LONG)


def strings_in_code(path: Path) -> Iterator[tuple[int, str]]:
    """String constants other than docstrings and bare strings."""
    bare = {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


@each("bench", "reports")
def test_the_bench_names_no_recipe(path):
    """Neither a recipe's name as a value nor a paradigm's class or file: nothing is done for one of them alone."""
    named = [(line, text) for line, text in strings_in_code(path) if text in RECIPES]
    assert not named
    classes = {recipe.paradigm.__name__ for recipe in RECIPES.values()}
    used = {n.id for n in nodes(path) if isinstance(n, ast.Name)}
    used |= {n.attr for n in nodes(path) if isinstance(n, ast.Attribute)}
    assert not used & classes
    modules = {recipe.paradigm.__module__ for recipe in RECIPES.values()}
    assert not set(imports(path)) & modules


def test_the_rule_about_names_would_see_one(tmp_path):
    path = tmp_path / "x.py"
    path.write_text('"""gan"""\ndef f(recipe):\n    """vae"""\n    return recipe == "ddpm"\n')
    assert list(strings_in_code(path)) == [(4, "ddpm")]


@pytest.mark.parametrize("code", ["import bench.cli", "import paradigms.catalogue as c; assert 'gan' in c.names()"])
def test_nothing_heavy_is_imported_before_work_starts(code):
    """Help and shell completion do not wait for torch."""
    check = f"{code}; import sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"


@each("paradigms", "bench", "reports")
def test_every_file_says_what_it_is_for(path):
    text = ast.get_docstring(tree(path))
    assert text
    assert len(text.splitlines()[0]) > 20 or path.name == "__init__.py"


@for_all(FILES)
def test_a_paradigms_text_is_a_short_lecture(path):
    """Model, Objective, Sampling, Likelihood, each in its place; then the references and what differs."""
    text = ast.get_docstring(tree(path))
    heads = ["Model.", "Objective.", "Sampling.", "Likelihood.", "References", "Where this differs from the paper"]
    places = [text.find(f"\n{head}") for head in heads]
    assert all(place > 0 for place in places), dict(zip(heads, places))
    assert places == sorted(places)
    assert "arXiv:" in text


def test_every_module_can_be_imported_and_keeps_its_promises():
    for package in PACKAGES:
        for path in sources(package):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if name.endswith("__main__"):
                continue
            module = importlib.import_module(name)
            missing = [n for n in getattr(module, "__all__", ()) if not hasattr(module, n)]
            assert not missing, f"{name}: {missing}"


def test_classes_are_abstract_or_final():
    """Variation is by composition: nothing inherits from a paradigm that can be built."""
    for recipe in RECIPES.values():
        ancestors = [c for c in recipe.paradigm.__mro__[1:] if issubclass(c, Trainable)]
        assert all(inspect.isabstract(c) for c in ancestors), recipe.name
        assert not inspect.isabstract(recipe.paradigm), recipe.name


def test_the_catalogue_reads_names_without_running_the_files():
    assert catalogue.names() == {n: r.name for r in RECIPES.values() for n in (r.name, *r.aliases)}


def test_all_of_the_scoring_is_in_the_code_version_of_its_rows():
    """`measure.sources` reads the files of a folder, and none of folders inside it."""
    assert {path.parent for path in SCORES} == {PACKAGES["bench"] / "scores"}
    assert "scores" in kept.SOURCES


# A name is looked up where it enters the scoring; from there on the thing is handed over.
LOOKED_UP = {
    "run.py:is_evaluated": {"runs.read_info", "runs.data_of"},
    "baselines.py:score_baselines": {"runs.dataset"},
    "baselines.py:has_baselines": {"runs.dataset"},
    "baselines.py:floor": {"runs.dataset"},
    "external.py:score": {"runs.dataset"},
    "subject.py:subject_of": {"opened"},
    "subject.py:having": {"opened"},
}


# Every call by which a recipe is found by its name, a data set by its name or place, or a run.json is read, by the function
# that makes it, with the reason why the thing enters there. Everywhere else it is handed over.
TYPED, STORED = "a user or a caller names it", "a file names it"
ENTRIES = {
    "catalogue.get": {
        "bench/gpu_check.py:shaken": TYPED,
        "bench/gpu_check.py:unet": TYPED,
        "bench/inputs/training.py:training_of": TYPED,
        "bench/runs/identity.py:Run.definition": "a run that was sent to a worker names it",
        "bench/runs/identity.py:define": TYPED,
        "bench/runs/identity.py:needs_of": "a recipe names what it needs",
        "bench/runs/identity.py:refusal": TYPED,
        "bench/runs/info.py:Info.definition": STORED,
        "bench/runs/loading.py:_rebuilt": STORED,
        "bench/suite/grid.py:_asked": TYPED,
        "bench/suite/grid.py:_by_recipe": TYPED,
    },
    "dataset": {
        "bench/api.py:score": TYPED,
        "bench/inputs/data.py:announced": TYPED,
        "bench/inputs/data.py:dataset_of": TYPED,
        "bench/inputs/data.py:name_in_rows": TYPED,
        "bench/inputs/data.py:same_data": TYPED,
        "bench/runs/identity.py:define": TYPED,
        "bench/runs/loading.py:data_of": STORED,
        "bench/runs/training.py:_train": "a run that was sent to a worker names it",
        "bench/scores/baselines.py:floor": TYPED,
        "bench/scores/baselines.py:has_baselines": TYPED,
        "bench/scores/baselines.py:score_baselines": TYPED,
        "bench/scores/external.py:score": TYPED,
        "bench/suite/grid.py:plan_runs": TYPED,
        "bench/suite/stages.py:everything": "its size decides on the budget, and so on the device, before runs are planned",
    },
    "read_info": {
        "bench/cli/reporting.py:Side.selector": TYPED,
        "bench/cli/training.py:train": "the training has just written it",
        "bench/gpu_check.py:one_run": "the training has just written it",
        "bench/inputs/chosen.py:ChosenRun.info": TYPED,
        "bench/measure.py:_keys": "a folder to be timed",
        "bench/runs/loading.py:load": "a folder to be loaded",
        "bench/runs/loading.py:parents_file": "the folder of a parent",
        "bench/runs/make.py:_would_fail_again": "another process may have written it meanwhile",
        "bench/runs/make.py:is_finished": "another process may have written it meanwhile",
        "bench/runs/make.py:other_code": "folders that may hold nothing",
        "bench/runs/training.py:_unfinished": "an earlier attempt",
        "bench/runs/training.py:train_run": "the folders of the parents",
        "bench/scores/run.py:is_evaluated": "a folder to be looked at",
        "bench/suite/checked.py:_contradicting": "copies of runs, which are compared",
        "bench/suite/checked.py:_row_of": "a damaged folder",
        "bench/suite/checked.py:records": "a folder to be shown",
        "bench/suite/grid.py:rows_folder": "workers have written it since the grid was made",
        "bench/suite/jobs.py:_train": "the training has just written it",
        "bench/suite/stages.py:_symptoms": "workers have written it since the grid was made",
    },
}


def lookups(code: ast.AST, name: str = "") -> Iterator[tuple[str, str]]:
    """(what is looked up, function) of each call of a function of `ENTRIES`, also where `map` makes it."""
    for node in ast.iter_child_nodes(code):
        inner = name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and name.count(".") < 1:
            inner = f"{name}.{node.name}".removeprefix(".")
        if isinstance(node, ast.Call):
            for called in (node.func, *node.args):
                if isinstance(called, ast.Name | ast.Attribute):
                    text = ast.unparse(called).removeprefix("runs.")
                    if text in ENTRIES and (called is node.func or ast.unparse(node.func) == "map"):
                        yield text, inner
        yield from lookups(node, inner)


def test_a_thing_is_looked_up_where_it_enters_and_then_carried():
    found: dict[str, set[str]] = {what: set() for what in ENTRIES}
    for path in (path for package in ("bench", "reports") for path in sources(package)):
        if "lab" not in path.parts:
            for what, function in lookups(tree(path)):
                found[what].add(f"{path.relative_to(ROOT).as_posix()}:{function}")
    assert found == {what: set(places) for what, places in ENTRIES.items()}


# Names of files, in `reports.layout` alone. Words that also name other things (as the page's template) are not looked for.
FILE_NAMES = {text for name, text in vars(layout).items() if name.isupper() and "." in text} - {
    layout.LOCK,
    layout.PAGE,
}


@each("bench", "reports")
def test_names_of_files_stand_in_one_place(path):
    if path != PACKAGES["reports"] / "layout.py" and "lab" not in path.parts:
        assert not [(line, text) for line, text in strings_in_code(path) if text in FILE_NAMES]


def test_the_scoring_looks_things_up_where_they_enter():
    wanted = {"catalogue.get", "runs.read_info", "runs.data_of", "runs.dataset", "runs.load", "opened"}
    found: dict[str, set[str]] = {}
    for path in SCORES:
        for function in functions(path):
            called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)} & wanted
            if called and path.name != "arrays.py":  # whose `opened` opens a file
                found[f"{path.name}:{function.name}"] = called
    assert found == LOOKED_UP


@each("paradigms", "bench", "reports")
def test_who_scores_is_asked_at_one_door(path):
    """Other parts of the product use `bench.scores`, and no module inside it."""
    if path.parent not in (PACKAGES["bench"] / "scores", PACKAGES["bench"] / "lab"):
        assert not [name for name in imports(path) if name.rpartition(".")[0] == "bench.scores" and _is_inside(name)]


def _is_inside(name: str) -> bool:
    return (PACKAGES["bench"] / "scores" / f"{name.rpartition('.')[2]}.py").exists()


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@each("paradigms", "bench", "reports")
def test_no_default_is_mutable(path):
    for node in functions(path):
        defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        assert not any(isinstance(d, ast.List | ast.Dict | ast.Set) for d in defaults), node.name


@each("paradigms")
def test_no_paradigm_has_a_keyword_tunnel(path):
    # A module's `__call__` has the signature that torch gives it.
    assert not [node.name for node in functions(path) if node.args.kwarg is not None and node.name != "__call__"]


# ------------------------------------------------------------------------------------------------------------ clocks

MEASURED, SHOWN, POLLED = "seconds are what it reports", "for the display alone", "asked again and again until it is so"
UNTOUCHED = "no file may have been written; the test misses a write within the same tick, and never fails without one"
# Every function that reads a clock, the load of the machine or the time of a file, or that waits for so many seconds, with
# its reason. What is not measured, shown or polled may not decide anything by it: results, order and success would depend
# on how busy the machine is.
CLOCKS = {
    "bench/inputs/runs.py:Runs.newest_first": "which of two runs of older versions that ended within a second is newer",
    "bench/data/files.py:_get": "a server that says nothing for so long is given up, and another asked",
    "bench/data/folder.py:_key": "a changed file is known by the time of its change, to the nanosecond",
    "bench/data/folder.py:_recall": "two changes within a tick of the file system look like one: then it decodes again",
    "bench/gpu_check.py": MEASURED,
    "bench/lab/contexts.py": MEASURED,
    "bench/lab/kv_cache.py": MEASURED,
    "bench/lab/mutants.py:attempt": "tests that take five times as long as they do count as failed, and the verdict says so",
    "bench/lab/mutants.py:try_all": "begins no other mutant after so long; the next command goes on there",
    "bench/lab/fuzz.py": "a command that hangs is told after so long; nothing else depends on it",
    "bench/measure.py:Timed.once": MEASURED,
    "bench/measure.py:Watch.__enter__": MEASURED,
    "bench/measure.py:Watch.__exit__": MEASURED,
    "bench/measure.py:Watch.contended": "rows say that the machine was busy while they were timed",
    "bench/lab/metric_speed.py": MEASURED,
    "bench/lab/overhead.py": MEASURED,
    "bench/lab/peers.py": MEASURED,
    "bench/progress.py:Progress.update": SHOWN,
    "bench/sharing.py:_take": "asks every tenth of a second whether a GPU's lock is free; how often decides nothing",
    "bench/progress.py:Meter.__init__": SHOWN,
    "bench/progress.py:Meter.event": SHOWN,
    "bench/progress.py:Meter.eta": SHOWN,
    "bench/progress.py:Meter.line": SHOWN,
    "bench/progress.py:Plain.__init__": SHOWN,
    "bench/progress.py:Plain.tick": SHOWN,
    "bench/runs/budget.py:_clock": "the steps that a budget in seconds, or a tier's cap in seconds, pays for; run.json says so",
    "bench/runs/budget.py:_clock.synchronised": "the same on a GPU",
    "bench/lab/campaign.py:main": SHOWN,
    "bench/lab/kills.py:_kill_real": "what has not ended after so many minutes counts as hung",
    "bench/lab/warm.py:Running.__init__": "what has not ended after so many minutes counts as hung",
    "bench/lab/warm.py:Running.wait": "what has not ended after so many minutes counts as hung",
    "bench/lab/writers.py:lingers.attack": "writers that stop at each call meet sooner; what must hold holds at any pace",
    "bench/runs/training.py:_costed": "run.json says that the machine was busy while it trained",
    "bench/runs/training.py:_now": "run.json says when it began and ended",
    "bench/store/lock.py:locked": POLLED,
    "bench/workers.py:perform": POLLED,
    "bench/workers.py:Worker._start": MEASURED,
    "bench/workers.py:Worker.give": MEASURED,
    "bench/workers.py:Worker.read": MEASURED + "; how long the reason of a death may take to appear",
    "bench/workers.py:Worker.wait_until_gone": POLLED + "; what has closed its pipe has nothing left to save",
    "bench/workers.py:_work": POLLED,
    "bench/suite/stages.py:everything": MEASURED,
    "bench/loop.py:train": MEASURED + "; a checkpoint is written every so often, and changes no result",
    "bench/features/train.py:main": SHOWN,
    "bench/lab/unet_speed.py": MEASURED,
    "tests/costs.py:_cpu": MEASURED,
    "tests/costs.py:pytest_runtest_protocol": MEASURED,
    "tests/costs.py:pytest_runtest_makereport": MEASURED,
    "tests/test_cli.py:test_a_second_time_nothing_is_trained": UNTOUCHED,
    "tests/test_cli.py:test_ctrl_c_says_how_to_go_on_and_the_same_command_does": POLLED,
    "tests/test_data.py:test_images_are_cached_and_the_cache_notices_changes": "it restores a file's time, as an archive does",
    "tests/test_flow_matching.py:test_a_kill_at_either_stage_costs_nothing": UNTOUCHED,
    "tests/test_hostile_files.py:alarm": "a test that waits for ever fails after ten minutes; nothing else depends on it",
    "tests/test_schedule.py:_suite": POLLED,
}
_READ = {"now", "utcnow", "today", "getloadavg", "getmtime", "getctime", "settimeout", "alarm", "setitimer"}
_READ |= {f"st_{letter}time{ns}" for letter in "amc" for ns in ("", "_ns")}
_WAITS = {"wait", "poll", "join", "sleep", "acquire", "communicate"}


def clocks(code: ast.AST) -> Iterator[str]:
    """The functions that read a clock or wait for some seconds, by their names; "" where it is outside of all."""
    inside: list[tuple[ast.AST, str]] = [(code, "")]
    while inside:
        parent, name = inside.pop()
        for node in ast.iter_child_nodes(parent):
            inner = name
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{node.name}".removeprefix(".")
            if _reads(node):
                yield inner
            inside.append((node, inner))


def _reads(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" or bool({a.name for a in node.names} & _READ)
    if isinstance(node, ast.Attribute):
        owner = getattr(node.value, "id", "")
        return owner == "time" or (owner, node.attr) == ("os", "times") or (node.attr in _READ and owner != "self")
    return isinstance(node, ast.Call) and (_waits(node) or any(k.arg == "timeout" for k in node.keywords))


def _waits(call: ast.Call) -> bool:
    """Whether a call waits for some seconds: for a number, a constant by name, or an attribute."""
    called = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if called not in _WAITS or owner.endswith("path") or (owner[:1] in "'\"" and owner):
        return False
    numbers = (a for a in call.args if isinstance(a, ast.Constant) and type(a.value) in (int, float))
    names = (a for a in call.args if getattr(a, "id", "_").isupper())
    fields = (a for a in call.args[:1] if called == "join" and isinstance(a, ast.Attribute))
    return called == "sleep" or any(True for some in (numbers, names, fields) for _ in some)


def test_a_clock_is_found_however_it_is_read():
    for text in (
        "time.sleep(1)", "from time import monotonic", "from os import getloadavg", "os.path.getmtime(p)",
        "wait(p, 0.25)", "conn.wait([p], 0.25)", "p.join(s.grace)", "p.join(LAST)", "p.communicate(None, 5)",
        "f(x, timeout=3)", "s.settimeout(1)", "datetime.utcnow()", "path.stat().st_mtime", "os.times()",
    ):  # fmt: skip
        assert list(clocks(ast.parse(f"def f():\n    {text}"))), text
    for text in (
        "', '.join(x.names)",
        "p.join()",
        "os.path.join(a.b)",
        "p.wait()",
        "self.now",
        "d.get('k', None)",
        "d.get(k)",
    ):
        assert not list(clocks(ast.parse(f"def f():\n    {text}"))), text


def test_whatever_depends_on_time_says_why():
    paths = [p for package in PACKAGES for p in sources(package)] + sorted((ROOT / "tests").rglob("*.py"))
    found = {f"{path.relative_to(ROOT)}:{name}" for path in paths for name in clocks(tree(path))}
    files = {place.partition(":")[0] for place in found}
    unknown = {place for place in found if place not in CLOCKS and place.partition(":")[0] not in CLOCKS}
    assert not unknown, "make it independent of the clock, or give its reason in CLOCKS"
    assert not CLOCKS.keys() - found - files, "no longer there"
