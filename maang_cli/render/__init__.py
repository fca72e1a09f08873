"""Results for people, as lines and tables, and as JSON. stdout is for results; what people read meanwhile goes to stderr."""

import sys

from rich.text import Text

from maang_cli.render.lines import cost, line, not_stored, plural, reused
from maang_cli.render.progress import ProgressDisplay, console
from maang_cli.render.tables import Maintained, people

__all__ = ["Maintained", "ProgressDisplay", "cost", "error", "line", "not_stored", "plural", "result", "reused"]


def error(message: str, hint: str) -> None:
    """A foreseen failure, on stderr: a line for the message, and one for each line of the hint. Without a hint it has no label.

    On a terminal they are wrapped between words.
    """
    out = console(sys.stderr)
    lines = [("error: ", "bold red", message), *(("hint: ", "bold", each) for each in hint.splitlines())]
    for label, style, text in lines:
        out.print(Text.assemble((label, style), text) if hint else Text(text), soft_wrap=not out.is_terminal)


def result(value: object) -> None:
    """A command's result on stdout, for people."""
    out = console(sys.stdout)
    for part in people(value):
        out.print(part, soft_wrap=isinstance(part, str) and not out.is_terminal)
