"""`bench check`: whether a plug-in keeps the contract of what it adds."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli import shown
from bench.cli.options import JsonOption
from reports.words import visible


def check(
    name: Annotated[str, typer.Argument(help="A recipe, backbone, data set or metric, or a module that defines some.")],
    as_json: JsonOption = False,
) -> None:
    """Run the conformance checks of a recipe, backbone, data set or metric; a line for each. Exit code 1 where one fails.

    [bold]Examples[/bold]
    \b
        bench check my_package.my_model
        bench check flow-matching
    """
    from bench import checks

    failed, lines = 0, []
    for thing, result in checks.checked(name):
        failed += bool(result.problem)
        lines.append({"name": thing.name, "check": result.check, "data": result.space, "problem": result.problem})
        if not as_json:
            text = f"{thing.name}: {result.check} ({result.space}){': ' * bool(result.problem)}{result.problem}"
            print(f"{'FAIL' if result.problem else 'ok'}  {visible(text)}")
    if as_json:
        shown.print_json(lines)
    else:
        print(f"{len(lines)} checks, {failed} failed")
    if failed:
        raise typer.Exit(1)
