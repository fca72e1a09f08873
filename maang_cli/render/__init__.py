"""Results for people, as lines and tables, and as JSON. stdout is for results; what people read meanwhile goes to stderr."""

import sys

from rich.text import Text

from maang_cli.render.lines import cost, line, reused
from maang_cli.render.progress import ProgressDisplay, console
from maang_cli.render.tables import Maintained, people

__all__ = ["Maintained", "ProgressDisplay", "cost", "error", "line", "result", "reused"]


def error(message: str, hint: str) -> None:
    """A foreseen failure, on stderr: two lines, or the message alone if there is no hint."""
    out = console(sys.stderr)
    if not hint:
        out.print(Text(message), soft_wrap=True)
        return
    out.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    out.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)


def result(value: object) -> None:
    """A command's result on stdout, for people."""
    for part in people(value):
        console(sys.stdout).print(part, soft_wrap=isinstance(part, str))
