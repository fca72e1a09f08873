"""What is said on stderr while work goes on."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from maang_cli.render.lines import line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from maang_cli.backfill import Tally


LINE_SECONDS = 5
"""Between two lines about how far a backfill is."""
LOG_WIDTH = 120
"""Columns where there is no terminal to ask, as in a task's log."""


def console(stream: IO[str]) -> Console:
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_WIDTH)


class Narrator:
    """Says on stderr what is being done: a spinner on a terminal, then a line for each step that has something to say."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = console(sys.stderr)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[object], None]]:
        def done(result: object) -> None:
            if (said := line(result)) and not self._quiet:
                self._console.print(f"[bold]{name:<12}[/]  {escape(said)}", soft_wrap=True)

        if self._quiet or not self._console.is_terminal:
            yield done
        else:
            with self._console.status(name):
                yield done

    def say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(escape(text), soft_wrap=True)

    @contextmanager
    def meter(self) -> Iterator[Callable[[Tally], None]]:
        """Shows how far a backfill is: a bar on a terminal, a line every few seconds elsewhere."""
        if self._quiet:
            yield lambda _tally: None
        elif self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
            with Progress(*columns, console=self._console, transient=True) as progress:
                task = progress.add_task("backfill", total=None, said="")

                def show(tally: Tally) -> None:
                    steps = (tally.calls + tally.sessions, tally.all_calls + tally.all_sessions)
                    progress.update(task, completed=steps[0], total=steps[1], said=line(tally))

                yield show
        else:
            told = time.monotonic()

            def tell(tally: Tally) -> None:
                nonlocal told
                if time.monotonic() - told >= LINE_SECONDS:
                    told = time.monotonic()
                    self.say(f"{'backfill':<12}  {line(tally)}")

            yield tell

    def agrees(self, plan: str) -> bool:
        """Whether the user wants it, asked on the terminal; False where there is none."""
        if not (sys.stdin.isatty() and self._console.is_terminal):
            return False
        self._console.print(Text(f"{plan}; go on? [y/N] "), end="", soft_wrap=True)  # in a string [y/N] would be markup
        return sys.stdin.readline().strip().lower() in ("y", "yes")
