"""What README and docs say is what the code does: their generated parts, their commands, their links, their example."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from bench.cli import app
from bench.lab import readme
from bench.lab.publish import publish
from paradigms.core.data import Batch, Space
from paradigms.core.noise import Noise

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def test_the_generated_pages_are_current() -> None:
    """`python -m bench.lab.readme` makes them anew."""
    stale = [page for page, text in readme.generated().items() if page.read_text("utf-8") != text]
    assert not stale


def test_every_generated_part_is_on_one_page() -> None:
    for part in (*readme.PARTS, "results", "paradigms"):
        assert sum(f"<!-- {part} -->" in page.read_text("utf-8") for page in PAGES) == 1, part


def test_every_paradigm_has_a_page_and_no_page_is_left_over() -> None:
    files = {
        f for f in (ROOT / "paradigms").glob("*.py") if re.search(r"^RECIPES\b", f.read_text("utf-8"), re.MULTILINE)
    }
    assert {page.stem for page in (ROOT / "docs" / "paradigms").glob("*.md")} == {f.stem for f in files} | {"README"}


def test_a_lecture_becomes_headings_paragraphs_equations_and_lists() -> None:
    text = """GAN: two *networks* play.

Model.      G maps z < 1 to a
            sample.
                x = G(z)

                y = a*b
            Its `a*b` stays.

References
    A. Author. Title.
        Venue.
    B. Author. Title.

Where this differs from the paper
    - A step, as
      here.
    - [b]."""
    page = readme.lecture_page(text, "gan.py")
    assert page.startswith("# GAN\n\nTwo \\*networks\\* play.\n")
    assert (
        "## Model\n\nG maps z \\< 1 to a\nsample.\n\n```text\nx = G(z)\n```\n\n```text\ny = a*b\n```\n\nIts `a*b` stays.\n"
        in page
    )
    assert "## References\n\n- A. Author. Title.\n    Venue.\n- B. Author. Title.\n" in page
    assert page.endswith("## Where this differs from the paper\n\n- A step, as\n  here.\n- \\[b\\].\n")


def test_every_verb_and_option_shown_exists() -> None:
    command = get_command(app)
    block = re.search(r"```\n(bench all.*?)```", (ROOT / "docs" / "commands.md").read_text(), re.DOTALL)
    assert block
    shown = [line.split() for line in block[1].splitlines() if line.startswith("bench ")]
    assert {words[1] for words in shown if not words[1].startswith("-")} == set(command.commands)


@named
def test_every_command_in_a_block_can_be_parsed(page: Path) -> None:
    """Each line that begins with `bench` names a command of it, and options of that command."""
    command = get_command(app)
    for block in re.findall(r"^```\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        for line in re.findall(r"^(?:.*&& )?bench (.*(?:\n {4,}.*)*)", block, re.MULTILINE):
            verb = command.commands.get(line.split()[0])
            assert verb or line.startswith("-"), line
            options = {o for p in (verb or command).params for o in p.opts}
            assert set(re.findall(r"(?<!\S)\[?(--[\w-]+)", line)) <= options, line


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


@named
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`\n]*`", "", without_code(page))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(found), target


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    for page in PAGES[1:]:
        if page == index:
            continue
        above = page.parent / "README.md"
        listed = index if above == page or page.parent == index.parent else above
        name = page.relative_to(listed.parent).as_posix()
        assert f"]({name})" in listed.read_text("utf-8"), f"{listed} does not link to {name}"
    assert "](docs/README.md)" in TEXT


def test_the_readme_is_at_most_two_screens() -> None:
    assert len(TEXT.encode()) <= 8192
    assert len(TEXT.splitlines()) <= 120


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -c constraints.txt -e . && bench all" in TEXT
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in TEXT
    assert "-c constraints.txt -e '.[test]'" in ci
    assert re.search(r"^pytest$", ci, re.MULTILINE)


def test_the_example_of_a_paradigm_trains_and_samples(tmp_path: Path) -> None:
    """The file that docs/extending.md shows, on images with labels and on vectors."""
    text = (ROOT / "docs" / "extending.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "RECIPES" in block)
    (tmp_path / "my_model.py").write_text(example)
    (recipe,) = runpy.run_path(str(tmp_path / "my_model.py"))["RECIPES"]
    for space in (Space((1, 8, 8), classes=10, levels=17), Space((2,))):
        model, noise = recipe.build(space, 16, {}), Noise("example")
        y = noise.integers(space.classes, 32) if space.classes else None
        x = noise.uniform(32, *space.shape)
        (optimizer,) = model.optimizers().values()
        losses = []
        for step in range(30):
            for update in model.updates(Batch(x, y), step / 30, noise.at(step)):
                optimizer.zero_grad()
                update.loss.backward()
                optimizer.step()
                losses.append(float(update.loss.detach()))
        assert losses[-1] < losses[0]
        z = model.prior(5, noise)
        assert model.sample(z, model.card.default, noise, y if y is None else y[:5]).shape == (5, *space.shape)


def test_one_version_is_named_everywhere_and_the_licence_is_part_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = project["version"]
    assert re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version
    assert f"## [{version}]" in (ROOT / "docs" / "CHANGELOG.md").read_text()
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 The paradigm-bench authors\n")


def test_what_is_kept_of_a_report(tmp_path: Path) -> None:
    """Tables and figures without the curves of single trainings, the rows packed: the same bytes each time."""
    report, to = tmp_path / "report", tmp_path / "kept"
    (report / "figures").mkdir(parents=True)
    for name in ("quality", "training-vae"):
        (report / "figures" / f"digits-{name}.svg").write_text(f"<svg>{name}</svg>")
    (report / "report.csv").write_text("metric,value\nfd,1.5\n")
    pictures = ("![Dots](figures/digits-quality.svg)", "![Curves of vae](figures/digits-training-vae.svg)")
    (report / "report.md").write_text("# Title\n\n" + "\n\n".join(pictures) + "\n\n## Limits\n")
    written = publish(report, to)
    assert sorted(path.relative_to(to).as_posix() for path in written) == [
        "figures/digits-quality.svg",
        "report.md",
        "rows.csv.gz",
    ]
    assert (to / "report.md").read_text() == f"# Title\n\n{pictures[0]}\n\n## Limits\n"
    assert pd.read_csv(to / "rows.csv.gz")["value"].tolist() == [1.5]
    before = (to / "rows.csv.gz").read_bytes()
    publish(report, to)
    assert (to / "rows.csv.gz").read_bytes() == before
