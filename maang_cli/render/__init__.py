"""Results for people and for programs: lines and tables, or one JSON document. stdout is the result, stderr is narration."""

from __future__ import annotations

import sys

from rich.text import Text

from maang_cli.render.documents import dumps
from maang_cli.render.lines import line
from maang_cli.render.narrator import Narrator, console
from maang_cli.render.tables import Maintained, people

__all__ = ["Maintained", "Narrator", "error", "line", "result"]


def error(message: str, hint: str) -> None:
    """The two lines of a foreseen failure, on stderr; without a hint it is a plain line."""
    out = console(sys.stderr)
    if not hint:
        out.print(Text(message), soft_wrap=True)
        return
    out.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    out.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)


def result(value: object, *, as_json: bool) -> None:
    """A step's result on stdout."""
    if as_json:
        sys.stdout.write(dumps(value) + "\n")
    else:
        for part in people(value):
            console(sys.stdout).print(part, soft_wrap=isinstance(part, str))
