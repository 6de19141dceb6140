"""The program `bench`: how it starts, how each way to end becomes one line and an exit code, and what it says first.

A user's mistake is one line on stderr and exit code 2; a run that failed is exit code 1; Ctrl-C saves, prints the command
that continues and exits with 130.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from bench import terminal
from paradigms.errors import BadInput, out_of_memory
from reports.words import shortened

__all__ = ["app", "fail"]

# typer carries its own copy of click since 0.16 or so; this is the base of its errors in either case.
_ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])


# What a terminal of few letters shows in place of these; anything else it lacks is a question mark.
_PLAIN = {"≤": "<=", "≥": ">=", "≈": "~", "±": "+-", "×": "x", "−": "-", "–": "-", "…": "...", "·": "*", "µ": "u"}
_PLAIN |= {"↓": "(low)", "↑": "(high)", "●": "*"}


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of codecs: writes what can not be encoded in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error("bench.plainly", _plainly)


class Verbs(TyperGroup):
    """The group of verbs. Turns every way to end into one line and an exit code."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        _open_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="bench.plainly")  # a terminal without ± must not end an hour's work
        self.given = list(sys.argv[1:] if args is None else args)
        with terminal.shown():
            code = self._ended(extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _ended(self, extra: Mapping[str, Any]) -> int:
        """The exit code."""
        try:
            code = super().main(self.given, standalone_mode=False, **extra)
            sys.stdout.flush()
        except _ClickException as error:
            command = getattr(getattr(error, "ctx", None), "command_path", "bench")
            text = getattr(error, "format_message", error.__str__)()
            code = fail(f"{text.rstrip('.')} (see {command} --help)")
        except typer.Abort:
            code = 130
        except OSError as error:
            # Of a stream, not of a file, which would be named: nobody reads on, or there is no room behind it.
            if error.filename is not None or error.errno not in (errno.EPIPE, *NO_ROOM):
                raise
            code = 1 if error.errno == errno.EPIPE else fail(f"can not print: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that leaving does not fail again
        return code if isinstance(code, int) else 0

    def invoke(self, ctx: Any) -> Any:
        try:
            os.getcwd()  # libraries that are loaded without one end the program
        except OSError as error:
            gone = f"there is no working folder: {error.strerror}; cd to one, and run the same again"
            raise typer.Exit(fail(gone)) from None
        try:
            return super().invoke(ctx)
        except BadInput as error:
            raise typer.Exit(fail(str(error))) from None
        except SystemExit as error:  # none of ours
            code = (
                f"code that is not of this package, a plugin or a factory, ended the program (exit code {error.code})"
            )
            raise typer.Exit(fail(f"{code}; mend or uninstall it", 1)) from None
        except OSError as error:
            # Of a file: its name is too long, it went away meanwhile, or a folder may not be entered.
            if error.filename is None:
                raise
            why = error.strerror or type(error).__name__
            where = shortened(os.fsdecode(error.filename), 120)
            raise typer.Exit(fail(f"can not use {where}: {why}; give another path, or run the same again")) from None
        except Exception as error:
            if not out_of_memory(error):
                raise
            text = shortened(" ".join(str(error).split()) or type(error).__name__, 160)
            again = "ask for less at a time, or stop what else uses it"
            raise typer.Exit(fail(f"out of memory ({text}); {again}", 1)) from None
        except KeyboardInterrupt:
            again = shlex.join(["bench", *self.given])
            print(f"\nstopped. What was done is kept; to go on:\n  {again}", file=sys.stderr)
            raise typer.Exit(130) from None


def _open_streams() -> None:
    """Opens nothing in the place of streams that were closed, so that no file that is written gets their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for as long as the program runs)


# A disk, a quota or the largest size of a file is full, or the device fails.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def fail(message: str, code: int = 2) -> int:
    with contextlib.suppress(OSError):  # the exit code says it, too, where there is no room for words
        print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _versions(asked: bool) -> None:
    """Prints one line for `--version` and ends. The versions come from the packages' metadata: torch is not imported."""
    if not asked:
        return
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("paradigm-bench", "torch"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} (not installed)")
    print(f"{', '.join(found)}, Python {platform.python_version()}")
    raise typer.Exit


@app.callback(invoke_without_command=True)
def bench(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_versions, is_eager=True, help="Show the versions and exit."),
    ] = False,
) -> None:
    """Train, time, score and compare ways of learning to generate, under one protocol.

    [bold]Start here[/bold]

    \b
        bench all                 every paradigm on real digits, in minutes
        bench all --tier smoke    the same path in about a minute
        bench list recipes        what there is

    [bold]Then[/bold]

    \b
        bench train flow-matching --dataset fashion-mnist
        bench sample flow-matching --to grid.png
        bench evaluate my-samples.npz --dataset digits
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
