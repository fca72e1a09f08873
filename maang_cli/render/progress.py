"""What people read on stderr while work goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from maang_cli.backfill import BackfillProgress
from maang_cli.render.lines import line

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_SECONDS = 5
"""Between two lines about a backfill's progress."""
LOG_WIDTH = 120
"""Columns if there is no terminal to ask, as in a task's log."""


def console(stream: IO[str]) -> Console:
    """A console for a terminal, a pipe or a file."""
    return Console(file=stream, highlight=False, width=None if stream.isatty() else LOG_WIDTH)


class ProgressDisplay:
    """Shows what is being done: a spinner or a bar on a terminal, lines elsewhere. Quiet: nothing."""

    def __init__(self, *, quiet: bool, verbose: bool = False, line_seconds: float = LINE_SECONDS) -> None:
        """`verbose`: lines on a terminal too, because the log's lines would tear a spinner. `line_seconds`: between two of them
        about a backfill.
        """
        self._quiet = quiet
        self._line_seconds = line_seconds
        self._console = console(sys.stderr)
        self._moves = self._console.is_interactive and not verbose
        self._step = ""
        self._live: Status | Progress | None = None
        """The spinner or the bar that is on the terminal."""

    def begin(self, step: str) -> None:
        """A step begins; the one before it, if any, is done."""
        self._step = step
        if isinstance(self._live, Status):
            self._live.update(step)
        elif self._moves and not self._quiet:
            self._live = self._console.status(step)
            self._live.start()

    def done(self, result: object) -> None:
        """The step has returned this."""
        if text := line(result):
            self.say(text, self._step)

    def end(self) -> None:
        """Nothing is being done any more. Any thread may call it."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def say(self, text: str, heading: str = "") -> None:
        """A line, after a heading in bold."""
        if not self._quiet:
            bold = f"[bold]{heading:<12}[/]  " if heading else ""
            self._console.print(f"{bold}{escape(text)}", soft_wrap=True)

    @contextmanager
    def meter(self) -> Iterator[Callable[[BackfillProgress], None]]:
        """Show a backfill's progress: a bar on a terminal, a line every few seconds elsewhere."""
        self.end()
        if self._quiet:
            yield lambda _progress: None
        elif self._moves:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"))
            with Progress(*columns, console=self._console, transient=True) as bar:
                self._live = bar
                task = bar.add_task("backfill", total=None, done="")

                def move(progress: BackfillProgress) -> None:
                    completed = progress.calls + progress.sessions
                    total = progress.all_calls + progress.all_sessions
                    bar.update(task, completed=completed, total=total, done=line(progress))

                yield move
        else:
            shown = time.monotonic()

            def print_line(progress: BackfillProgress) -> None:
                nonlocal shown
                if time.monotonic() - shown >= self._line_seconds:
                    shown = time.monotonic()
                    self.say(line(progress), "backfill")

            yield print_line

    def agrees(self, plan: str) -> bool:
        """Whether the user confirms a plan on the terminal; False if there is no terminal."""
        self.end()
        if not (sys.stdin.isatty() and self._console.is_terminal):
            return False
        self._console.print(Text(f"{plan}; continue? [y/N] "), end="", soft_wrap=True)  # in a str [y/N] would be markup
        return sys.stdin.readline().strip().lower() in ("y", "yes")
