"""Results as tables: on a narrow terminal every value stays whole, and no terminal is too narrow."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from typing import Any

import pytest
from rich.console import Console

from maang_cli.cli.process import main
from maang_cli.pipeline import Dropped, Ingested, Initialized
from maang_cli.render.tables import Maintained, people
from maang_cli.warehouses.base import Cleanup
from tests import golden_files
from tests.conftest import Outcome
from tests.polygon_server import row
from tests.render.conftest import DAY, FEW, ON, Sheet


def printed(value: object) -> list[str]:
    """A result as people read it, line by line."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    for part in people(value):
        console.print(part, soft_wrap=isinstance(part, str))
    text: Any = console.file
    return [line.rstrip() for line in text.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (Initialized(("the schema", "a.[bold]"), ("a.b",)), ["created the schema", "created a.[bold]", "a.b already exists"]),
        (Initialized((), ()), []),
        (Ingested(1, "polygon", made_up=False, staging="s"), ["1 bar from polygon, staged in s"]),
        (Ingested(2, "sample", made_up=True, staging="s"), ["2 bars from sample, made up, staged in s"]),
        (Dropped("s", dropped=True), ["dropped s"]),
        (Dropped("s", dropped=False), ["there was no s"]),
        (Dropped("s", dropped=False, refused=True), ["s was not dropped"]),
        (Maintained("databricks", None), ["nothing to do: databricks maintains its tables by itself"]),
        (Maintained("local", ()), ["nothing to do: there are no tables"]),
        (Maintained("local", (Cleanup("t", 1, 2, 3_400_000),)), ["t: 1 snapshot expired, 2 files removed, 3.4 MB freed"]),
    ],
)  # fmt: skip
def test_short_results(value: object, lines: list[str]) -> None:
    assert printed(value) == lines


def in_a_terminal(*argv: str) -> Outcome:
    """`maang` in this process, with a terminal as its stdout."""
    master, slave = os.openpty()
    received: list[bytes] = []

    def listen() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(master, 65536):
                received.append(piece)

    listener = threading.Thread(target=listen)
    listener.start()
    with os.fdopen(slave, "w") as terminal, contextlib.redirect_stdout(terminal):
        code = main(argv)
    listener.join()
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(received).decode())
    return Outcome(int(code), text.replace("\r\n", "\n"), "")


@pytest.fixture
def narrow(sheet: Sheet, monkeypatch: pytest.MonkeyPatch) -> Sheet:
    """A sheet whose commands find a terminal of 40 columns."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    sheet.maang = in_a_terminal
    return sheet


def test_narrow_terminal_is_as_approved(narrow: Sheet) -> None:
    narrow("run-day", *ON, *FEW)
    narrow("ingest", *ON, *FEW)
    narrow("show", *ON, *FEW, "--table", "staging")
    narrow.polygon.days[DAY] = [row("META", DAY, h=1)]
    narrow("run-day", *ON, *FEW)
    golden_files.assert_golden("narrow", narrow.text)


@pytest.mark.parametrize("table", ["staging", "production", "cumulative"])
def test_narrow_terminal_gets_every_value_whole(table: str, narrow: Sheet) -> None:
    narrow.polygon.days[DAY][0] = row("META", DAY, vw=..., n=...)
    for command in ("run-day", "ingest"):
        in_a_terminal(command, *ON, *FEW)
    shown = ("show", *ON, *FEW, "--table", table)
    lines = in_a_terminal(*shown).out.splitlines()
    assert max(map(len, lines)) <= 40
    assert "2 rows of maang." in " ".join(" ".join(lines).split())
    words = " ".join(lines).split()
    for values in in_a_terminal(*shown, "--json").result["rows"]:
        for value in values.values():
            first = value[0] if isinstance(value, list) else value
            if not str(first).endswith("Z"):  # times are written in another way there
                assert ("NULL" if first is None else str(first)) in words


@pytest.mark.parametrize("columns", ["12", "1"])
@pytest.mark.parametrize("argv", [("show", *ON, *FEW), ("check", *ON, *FEW), ("show", "--help")], ids=" ".join)
def test_narrowest_terminal_is_not_an_error(
    argv: tuple[str, ...], columns: str, narrow: Sheet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("run-day", "ingest"):
        in_a_terminal(command, *ON, *FEW)
    monkeypatch.setenv("COLUMNS", columns)
    assert in_a_terminal(*argv).code == 0
