"""The house's rules, read from the sources: who may import whom, and who may know a recipe's name."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench
import paradigms
import reports
from paradigms import catalogue
from paradigms.contract import Trainable

ROOT = Path(paradigms.__file__).parents[1]
PACKAGES = {package.__name__: Path(package.__file__).parent for package in (paradigms, bench, reports)}
RECIPES = catalogue.recipes()
# The files in which recipes stand; the other files beside them serve them all.
OURS = [r.paradigm for r in RECIPES.values() if r.paradigm.__module__.startswith("paradigms.")]
FILES = sorted({Path(inspect.getfile(paradigm)) for paradigm in OURS})
HEAVY = {"torch", "torchmetrics", "scipy", "pandas", "sklearn", "matplotlib"}


def sources(package: str) -> list[Path]:
    found = sorted(PACKAGES[package].rglob("*.py"))
    assert found
    return found


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path, code: ast.AST | None = None) -> Iterator[str]:
    """The full names of all modules a file imports, at its top or inside functions, relative ones resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(code or tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module
            # `from paradigms import gan` imports a module too.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def each(*packages: str):
    paths = [p for package in packages for p in sources(package)]
    return pytest.mark.parametrize("path", paths, ids=[str(p.relative_to(ROOT)) for p in paths])


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


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_no_paradigm_imports_a_sibling(path):
    siblings = {f"paradigms.{other.stem}" for other in FILES if other != path}
    assert not {name for name in imports(path) if any(name == s or name.startswith(s + ".") for s in siblings)}


@pytest.mark.parametrize("part", ["maths", "backbones", "flows"])
def test_shared_parts_import_no_paradigm(part):
    siblings = {f"paradigms.{file.stem}" for file in FILES}
    for path in sorted((PACKAGES["paradigms"] / part).rglob("*.py")):
        assert not {name for name in imports(path) if any(name == s or name.startswith(s + ".") for s in siblings)}


def strings_in_code(path: Path) -> Iterator[tuple[int, str]]:
    """String constants other than docstrings and bare strings."""
    module = tree(path)
    bare = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


@each("bench", "reports")
def test_the_bench_names_no_recipe(path):
    """Neither a recipe's name as a value nor a paradigm's class or file: nothing is done for one of them alone."""
    named = [(line, text) for line, text in strings_in_code(path) if text in RECIPES]
    assert not named
    classes = {recipe.paradigm.__name__ for recipe in RECIPES.values()}
    used = {n.id for n in ast.walk(tree(path)) if isinstance(n, ast.Name)}
    used |= {n.attr for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute)}
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


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
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


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@each("paradigms", "bench", "reports")
def test_no_default_is_mutable(path):
    for node in functions(path):
        defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        assert not any(isinstance(d, ast.List | ast.Dict | ast.Set) for d in defaults), node.name


@each("paradigms")
def test_no_paradigm_has_a_keyword_tunnel(path):
    assert not [node.name for node in functions(path) if node.args.kwarg is not None]
