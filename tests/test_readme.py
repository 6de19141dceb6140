"""What the README says is what the code does: its generated parts, its commands, its links."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from typer.main import get_command

from bench import readme
from bench.cli import app
from bench.publish import publish

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_table_of_columns_is_the_row_schema():
    assert readme.replace_part(TEXT, "columns", readme.column_table()) == TEXT


def test_the_table_of_recipes_is_the_catalogue():
    """`python -m bench.readme` makes it anew."""
    assert readme.replace_part(TEXT, "recipes", readme.recipe_table()) == TEXT


def test_the_table_of_metrics_is_the_cards():
    assert readme.replace_part(TEXT, "metrics", readme.metric_table()) == TEXT


def test_the_table_of_feature_spaces_is_what_is_shipped():
    assert readme.replace_part(TEXT, "spaces", readme.space_table()) == TEXT


def test_every_verb_and_option_it_shows_exists():
    command = get_command(app)
    block = re.search(r"```\n(bench all.*?)```", TEXT, re.DOTALL)
    assert block
    shown = [line for line in block[1].splitlines() if line.startswith("bench ")]
    assert {line.split()[1] for line in shown} == set(command.commands)
    for line in shown:
        verb = command.commands[line.split()[1]]
        options = {o for p in verb.params for o in p.opts}
        assert set(re.findall(r"--\w+", line)) <= options, line


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert "://" in target or (ROOT / target).exists(), target


def test_the_two_commands_are_the_ones_that_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -c constraints.txt -e . && bench all" in TEXT
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in TEXT
    assert "-c constraints.txt -e '.[test]'" in ci
    assert re.search(r"^pytest$", ci, re.MULTILINE)


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
