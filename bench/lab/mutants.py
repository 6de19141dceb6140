"""Do the tests notice one wrong place? Mutants of the product, drawn by chance. Needs the extra `mutants`.

    python -m bench.lab.mutants map lines.json                    which test runs which line: the default tests under coverage
    python -m bench.lab.mutants draw a.jsonl --seed 1 --count 150
    python -m bench.lab.mutants try a.jsonl --map lines.json [--seconds 120] [--stop 1800]
    python -m bench.lab.mutants table a.jsonl

A mutant is one place of one file changed by one operator of cosmic-ray: another constant, another comparison or arithmetic
operator, a condition negated, a decorator or a `break` taken away. Places are equally likely, then the operators that fit one;
annotations are left out, which change nothing. Of the tests that run the line the quickest are run first, until one fails or
`--seconds` of their usual time are spent. Each verdict is written as it comes, and the same command goes on after it:

    caught     a test failed, or the tests took five times as long as they may
    survived   no test failed
    untested   no test runs the line

A person who finds that a survivor computes the same thing writes "equivalent" in place of its verdict, and why.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.lab.contexts import FIXTURE
from paradigms.errors import BadInput

__all__ = ["Mutant", "draw", "main", "places", "table", "wilson"]

ROOT = Path(__file__).parents[2]
# What is mutated: all that computes a number or decides which one is shown.
PARTS = (
    *(
        "paradigms/*.py",
        "paradigms/core/*.py",
        "paradigms/maths/*.py",
        "paradigms/backbones/*.py",
        "paradigms/flows/*.py",
    ),
    *("bench/loop.py", "bench/measure.py", "bench/flops.py", "bench/arithmetic.py", "bench/metrics/*.py"),
    *("bench/features/*.py", "bench/runs/*.py", "bench/scores/*.py", "bench/data/*.py"),
    *("reports/*.py", "reports/tables/*.py"),
)
SLOW = 5.0  # times their usual time that the tests of a mutant may take


@dataclass(frozen=True)
class Mutant:
    """file: from the root. operator, occurrence: as cosmic-ray counts. line: the first that changes, and before and after."""

    file: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str
    verdict: str = ""
    why: str = ""


# ---------------------------------------------------------------------------------------------------------- drawing


def places(file: Path) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """By place, (line, column), what can be done there: operators with how often each fitted before."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    text = file.read_text("utf-8")
    apart, nodes = set(_annotated(ast.parse(text))), list(ast_nodes(get_ast(text)))
    found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    for name in plugins.operator_names():
        kind = plugins.get_operator(name)
        if kind.arguments():
            continue
        operator = kind()
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, start in enumerate(starts):
            if start not in apart:
                found[start].append((name, occurrence))
    return dict(found)


def _annotated(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """The places within annotations."""
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            for inner in ast.walk(part) if part is not None else ():
                if isinstance(inner, ast.expr):
                    first, last = inner.col_offset, inner.end_col_offset or inner.col_offset
                    yield from ((inner.lineno, column) for column in range(first, last + 1))


def mutated(text: str, operator: str, occurrence: int) -> str:
    """The text of a file with one place changed."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    return mutate_code(text, plugins.get_operator(operator)(), occurrence) or text


def draw(seed: int, count: int, root: Path = ROOT) -> list[Mutant]:
    """Mutants that still are Python, no two in one place."""
    files = sorted({file for part in PARTS for file in root.glob(part) if file.name != "__init__.py"})
    by_file = {file: places(file) for file in files}
    every = [(file, place) for file in files for place in sorted(by_file[file])]
    by, found = random.Random(seed), list[Mutant]()
    for file, place in by.sample(every, len(every)):
        if len(found) == count:
            break
        operator, occurrence = by.choice(by_file[file][place])
        text = file.read_text("utf-8")
        other = mutated(text, operator, occurrence)
        lines, others = text.splitlines(), other.splitlines()
        at = next((k for k, (a, b) in enumerate(zip(lines, others, strict=False)) if a != b), None)
        try:
            same = ast.dump(ast.parse(text)) == ast.dump(ast.parse(other))
        except SyntaxError:
            continue
        if at is not None and not same:
            name = file.relative_to(root).as_posix()
            found.append(Mutant(name, operator, occurrence, at + 1, lines[at].strip(), others[at].strip()))
    return found


# ----------------------------------------------------------------------------------------------------------- trying


def line_map(to: Path) -> None:
    """Runs the default tests under coverage; writes by file and line which tests ran it, and what each takes."""
    from coverage import CoverageData

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        watched = ",".join(f"{ROOT}/{name}" for name in ("paradigms", "bench", "reports"))
        (place / "rc").write_text(f"[run]\ndata_file = {place}/data\nsource = {watched}\n")
        pytest = "-m", "pytest", "-q", "-n0", "-p", "bench.lab.contexts"
        command = [sys.executable, "-m", "coverage", "run", f"--rcfile={place}/rc", *pytest]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "BENCH_TIMES": str(place / "times.json")}, check=False)
        data, told = CoverageData(f"{place}/data"), json.loads((place / "times.json").read_text())
        data.read()
    users = defaultdict[str, list[str]](list)  # of a fixture
    for test, names in told["fixtures"].items():
        for name in names:
            users[name].append(test)
    lines = {
        Path(file).relative_to(ROOT).as_posix(): {
            line: sorted({test for context in contexts for test in _tests(context, users)})
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    to.write_text(json.dumps({"lines": lines, "times": told["seconds"]}))


def _tests(context: str, users: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The tests that a context of coverage stands for; none for what runs on import."""
    if not context.startswith(FIXTURE):
        return [context] if context else []
    name, base = context.removeprefix(FIXTURE).split(" of ")
    return [test for test in users[name] if test.startswith(base)]


def tests_of(mutant: Mutant, known: Mapping, seconds: float) -> tuple[list[str], float]:
    """The quickest tests that run the line, and what they usually take; of a line that runs on import those of its file."""
    by_line: dict[str, list[str]] = known["lines"].get(mutant.file, {})
    near = by_line.get(str(mutant.line)) or sorted({test for tests in by_line.values() for test in tests})
    times: dict[str, float] = known["times"]
    chosen, spent = list[str](), 0.0
    for test in sorted(near, key=lambda test: (times.get(test, 1.0), test)):
        if chosen and spent + times.get(test, 1.0) > seconds:
            break
        chosen.append(test)
        spent += times.get(test, 1.0)
    return chosen, spent


def attempt(mutant: Mutant, changed: str, known: Mapping, seconds: float, place: Path) -> Mutant:
    """The mutant with its verdict. changed: its file's text. `place` is a copy of the repository, which is left as it was."""
    tests, usual = tests_of(mutant, known, seconds)
    if not tests:
        return replace(mutant, verdict="untested")
    file = place / mutant.file
    text = file.read_text("utf-8")
    file.write_text(changed, "utf-8")
    (place / "asked.txt").write_text("".join(f"{test}\n" for test in tests))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", "--tb=line", "@asked.txt"]
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=60 + SLOW * usual
        )
    except subprocess.TimeoutExpired:
        return replace(mutant, verdict="caught", why="the tests did not end in time")
    finally:
        file.write_text(text, "utf-8")
    failed = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    if done.returncode == 0:
        return replace(mutant, verdict="survived", why=f"{len(tests)} tests passed")
    return replace(mutant, verdict="caught", why=failed[:160] or done.stdout.strip()[-160:])


def copied(to: Path) -> Path:
    """The files of the repository that git knows, without its history."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, to / name)
    return to


# --------------------------------------------------------------------------------------------------------- the table


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927)."""
    if not n:
        return 0.0, 1.0
    p, w = hits / n, z * z / n
    middle, half = (p + w / 2) / (1 + w), z * math.sqrt(p * (1 - p) / n + w / (4 * n)) / (1 + w)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(mutants: Sequence[Mutant]) -> str:
    """Verdicts by part of the product, and the share that was caught, of those that compute something else."""
    kinds = ("caught", "survived", "untested", "equivalent", "")
    parts = defaultdict[str, Counter[str]](Counter)
    for mutant in mutants:
        parts["/".join(Path(mutant.file).parts[:2]).removesuffix(".py")][mutant.verdict] += 1
        parts["all"][mutant.verdict] += 1
    lines = ["| part | caught | survived | untested | equivalent | not tried |", "| --- |" + " ---: |" * 5]
    for part in sorted(parts, key=lambda part: (part == "all", part)):
        lines.append(f"| {part} | " + " | ".join(str(parts[part][kind]) for kind in kinds) + " |")
    every = parts["all"]
    caught, wrong = every["caught"], every["caught"] + every["survived"] + every["untested"]
    low, high = wilson(caught, wrong)
    share = f"{caught} of {wrong} caught" + (f": {caught / wrong:.0%} ({low:.0%} to {high:.0%})" if wrong else "")
    return "\n".join([*lines, "", share])


def read(path: Path) -> list[Mutant]:
    try:
        return [Mutant(**json.loads(line)) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"{path} holds no mutants ({error}); make them: `python -m bench.lab.mutants draw {path}`"
        ) from None


def write(path: Path, mutants: Sequence[Mutant]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text("".join(json.dumps(asdict(mutant), ensure_ascii=False) + "\n" for mutant in mutants), "utf-8")
    temporary.replace(path)


def try_all(path: Path, known: Mapping, seconds: float, stop: float) -> None:
    began, mutants = time.monotonic(), read(path)
    with tempfile.TemporaryDirectory() as folder:
        place = copied(Path(folder))
        for k, mutant in enumerate(mutants):
            if mutant.verdict or time.monotonic() - began > stop:
                continue
            text = (place / mutant.file).read_text("utf-8")
            if text.splitlines()[mutant.line - 1].strip() != mutant.before:
                raise BadInput(
                    f"{mutant.file}:{mutant.line} is no longer `{mutant.before}`; draw others, or take that commit"
                )
            mutants[k] = attempt(mutant, mutated(text, mutant.operator, mutant.occurrence), known, seconds, place)
            write(path, mutants)
            print(
                f"{mutants[k].verdict:9} {mutant.file}:{mutant.line}  {mutant.before}  ->  {mutant.after}", flush=True
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lab.mutants", description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (("map", "made"), ("draw", "made"), ("try", "read and written"), ("table", "read")):
        one = verbs.add_parser(verb)
        one.add_argument("path", type=Path, help=f"the file that is {what}")
        if verb == "draw":
            one.add_argument("--seed", type=int, default=1)
            one.add_argument("--count", type=int, default=150)
        if verb == "try":
            one.add_argument("--map", type=Path, required=True)
            one.add_argument("--seconds", type=float, default=120, help="of tests for each mutant")
            one.add_argument("--stop", type=float, default=math.inf, help="begin none after so many seconds")
    given = parser.parse_args(arguments)
    if given.verb == "map":
        line_map(given.path)
    elif given.verb == "draw":
        write(given.path, draw(given.seed, given.count))
    elif given.verb == "try":
        try_all(given.path, json.loads(given.map.read_text()), given.seconds, given.stop)
    if given.verb != "map":
        print(table(read(given.path)))


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(f"error: {error}")
