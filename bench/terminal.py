"""What the command line says, made visible where it leaves: on the streams, and on consoles that draw with control codes.

Names of files, texts of run.json, of exceptions and of plugins may hold terminal escapes, bidirectional marks or bytes
that are no UTF-8. Nobody who prints has to think of them: `shown` stands around a whole program.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from reports.words import visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "shown"]


class Visible:
    """A text stream on which every character is seen (see `reports.words.visible`). Otherwise it is the stream it holds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.rich_proxied_file = stream  # where rich writes, whose control codes are its own; see `console`

    def write(self, text: str) -> int:
        self._stream.write(visible(text, lines=True))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Makes all visible that is printed, logged or raised to the standard streams while the block lasts."""
    with contextlib.redirect_stdout(Visible(sys.stdout)), contextlib.redirect_stderr(Visible(sys.stderr)):
        yield


def console(**options: Any) -> Console:
    """A rich console on which only its own control codes are such; takes the same options."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Shown(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text, lines=True))

        def on_broken_pipe(self) -> None:
            raise  # rich would end the program; whoever holds the program says how it ends

    return Shown(**options)
