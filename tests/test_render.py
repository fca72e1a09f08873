"""What a person reads, held by golden files: help, results as tables and JSON, refusals, each error's lines, narrow terminals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog

from maang_cli.cli import app, main
from maang_cli.errors import MaangError
from tests import golden_files
from tests.conftest import Maang, Outcome
from tests.polygon_server import Answer, PolygonServer, row

DAY, NEXT = date(2025, 10, 14), date(2025, 10, 15)
ON, ON_NEXT = ("--date", str(DAY)), ("--date", str(NEXT))
COMMANDS = sorted(str(command.name) for command in app.registered_commands)
SAMPLE = ("--source", "sample", "--tickers", "META,AAPL")
FEW = ("--tickers", "META,AAPL")


@dataclass
class Sheet:
    """Runs commands, and takes down what each printed: stdout, stderr behind `2> `, and the exit code."""

    maang: Maang
    polygon: PolygonServer
    home: Path
    monkeypatch: pytest.MonkeyPatch
    lines: list[str] = field(default_factory=list)

    def __call__(self, *argv: str) -> Outcome:
        outcome = self.maang(*argv)
        self.lines += [f"$ maang {' '.join(argv)}", *outcome.out.splitlines()]
        self.lines += [f"2> {line}" for line in outcome.err.splitlines()]
        self.lines += [f"exit code {outcome.code}"] if outcome.code else []
        self.lines.append("")
        return outcome

    @property
    def text(self) -> str:
        return golden_files.masked("\n".join(self.lines), self.home.parent)

    def catalog(self) -> Path:
        """The local warehouse's SQLite file, tables for SAMPLE in it."""
        self.maang("init-tables", *SAMPLE)
        return self.home / "warehouse" / "catalog.db"


@pytest.fixture
def sheet(maang: Maang, polygon: PolygonServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Sheet:
    polygon.days = {day: [row("META", day), row("AAPL", day, o=10.405, v=2000.5)] for day in (DAY, NEXT)}
    return Sheet(maang, polygon, home, monkeypatch)


def steps(sheet: Sheet, *flags: str) -> None:
    for argv in (
        ("init-tables", *ON),
        ("init-tables", "--only", "production"),
        ("ingest", *ON),
        ("show", *ON, "--table", "staging"),
        ("check", *ON),
        ("promote", *ON),
        ("cumulate", *ON),
        ("show", *ON),
        ("show", *ON, "--table", "cumulative"),
        ("drop-staging", *ON),
        ("drop-staging", *ON),
        ("run-day", *ON),
        ("run-day", *ON_NEXT),
        ("show", *ON_NEXT, "--table", "cumulative"),
    ):
        assert sheet(*argv, *SAMPLE, *flags).code == 0


def quiet(sheet: Sheet) -> None:
    sheet("run-day", *ON, *SAMPLE, "--quiet")
    sheet("run-day", "--date", "2025-10-11", *SAMPLE, "--ok-if-no-session", "--quiet")


def revisions(sheet: Sheet, *flags: str) -> None:
    """Values that the vendor left out are NULL; a revised bar changes one row, and the windows that hold it."""
    sheet.polygon.days[DAY][0] = row("META", DAY, vw=..., n=...)
    sheet("run-day", *ON, *FEW, *flags)
    sheet("show", *ON, *FEW, *flags)
    sheet("show", *ON, *FEW, *flags, "--table", "cumulative")
    sheet.polygon.days[DAY][0] = row("META", DAY)
    sheet("run-day", *ON, *FEW, *flags)
    sheet.polygon.days[DAY][0] = row("META", DAY, c=10.25)
    for command in ("ingest", "promote", "cumulate"):
        sheet(command, *ON, *FEW, *flags)


def absences(sheet: Sheet, *flags: str) -> None:
    sheet("run-day", *ON, *FEW)
    del sheet.polygon.days[DAY][1]
    allow = ("--allow-missing", "AAPL")
    for command in ("ingest", "check", "promote", "cumulate"):
        sheet(command, *ON, *FEW, *allow, *flags)
    sheet("show", *ON, *FEW, *flags)


def refusals(sheet: Sheet, *flags: str) -> None:
    """Each check fails; one of them on more rows than are shown."""
    several = [row(f"T{number}", DAY, v=0) for number in range(7)]
    sheet.polygon.days[DAY] = [
        row("META", DAY, h=1, vw=...),
        row("AAPL", NEXT, c=...),
        *[row("NFLX", DAY, n=-1)] * 2,
        *several,
    ]
    universe = ("--tickers", ",".join(["META", "AAPL", "NFLX", "GOOGL", *(str(bar["T"]) for bar in several)]))
    sheet("run-day", *ON, *universe, *flags)
    sheet("check", *ON, *universe, *flags)


def usage(sheet: Sheet) -> None:
    sheet("show")
    sheet("shwo", *ON)
    sheet("show", *ON, "--tabel", "production")
    sheet("show", *ON, "--table", "prod")


def no_session(sheet: Sheet) -> None:
    sheet("run-day", "--date", "2025-11-27", *SAMPLE)
    sheet("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session")
    sheet("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session", "--json")


def settings_error(sheet: Sheet) -> None:
    sheet("ingest", "--date", "14.10.2025")


def table_mismatch(sheet: Sheet) -> None:
    uri = f"sqlite:///{sheet.catalog()}"
    with closing(SqlCatalog("maang", uri=uri)) as catalog:
        catalog.load_table("maang_sample.daily_stock_prices").update_schema().delete_column("vwap").commit()
    sheet("init-tables", *SAMPLE)
    sheet("run-day", *ON, *SAMPLE)


def out_of_order(sheet: Sheet) -> None:
    sheet("cumulate", *ON, *SAMPLE)
    sheet("init-tables", *SAMPLE)
    sheet("cumulate", *ON, *SAMPLE)


def not_staged(sheet: Sheet) -> None:
    sheet("check", *ON, *SAMPLE)


def source_denied(sheet: Sheet) -> None:
    sheet.monkeypatch.setenv("POLYGON_TOKEN", "another-key")
    sheet("ingest", *ON)
    message = b'{"status":"NOT_AUTHORIZED","request_id":"r1","message":"Your plan doesn\'t include this data timeframe."}'
    sheet.polygon.script.append(Answer(403, message))
    sheet("ingest", *ON)


def warehouse_denied(sheet: Sheet) -> None:
    sheet.home.write_text("no folder")
    sheet("init-tables")


def not_published_yet(sheet: Sheet) -> None:
    sheet.polygon.days.clear()
    sheet("ingest", *ON)


def source_failed(sheet: Sheet) -> None:
    sheet.polygon.bodies[DAY] = b"<html>moved</html>"
    sheet("ingest", *ON)
    sheet.monkeypatch.setenv("MAANG_RETRY_SECONDS", "0.3")
    sheet.polygon.script.append(Answer(503, b"<html>sorry</html>"))
    sheet("ingest", *ON)


def warehouse_failed(sheet: Sheet) -> None:
    sheet.maang("run-day", *ON, *SAMPLE)
    [data] = (sheet.home / "warehouse/maang_sample/daily_stock_prices/data").rglob("*.parquet")
    data.unlink()
    sheet("show", *ON, *SAMPLE)


def commit_lost(sheet: Sheet) -> None:
    """The catalog never finds a table as the commit expects it, as when another writer is always faster."""
    with closing(sqlite3.connect(sheet.catalog())) as catalog:
        catalog.execute("CREATE TRIGGER faster BEFORE UPDATE ON iceberg_tables BEGIN SELECT RAISE(IGNORE); END")
    sheet("run-day", *ON, *SAMPLE, "--quiet")


def partly_refused(sheet: Sheet) -> None:
    """Of two sessions one is refused; the other is published."""
    sheet.polygon.days[NEXT][0] = row("META", NEXT, h=1)
    sheet("run-day", *ON, *ON_NEXT, *FEW)
    sheet("promote", *ON, *ON_NEXT, *FEW)
    sheet("status", *ON, *ON_NEXT, *FEW)


def stopped(sheet: Sheet) -> None:
    """SIGINT, then SIGTERM, while the vendor is being waited for."""
    for number in (signal.SIGINT, signal.SIGTERM):

        def kill(_path: str, number: signal.Signals = number) -> Answer:
            os.kill(os.getpid(), number)
            return Answer(delay=0.2)

        sheet.polygon.always = kill
        sheet("ingest", *ON)


TRANSCRIPTS: dict[str, Callable[[Sheet], object]] = {
    "steps": steps,
    "steps-json": lambda sheet: steps(sheet, "--json"),
    "quiet": quiet,
    "revisions": revisions,
    "revisions-json": lambda sheet: revisions(sheet, "--json"),
    "absences": absences,
    "absences-json": lambda sheet: absences(sheet, "--json"),
    "refusals": refusals,
    "refusals-json": lambda sheet: refusals(sheet, "--json"),
    "stopped": stopped,
    "usage": usage,
}
ERRORS: dict[str, Callable[[Sheet], object]] = {
    "NoSession": no_session,
    "SettingsError": settings_error,
    "TableMismatch": table_mismatch,
    "OutOfOrder": out_of_order,
    "NotStaged": not_staged,
    "SourceDenied": source_denied,
    "WarehouseDenied": warehouse_denied,
    "NotPublishedYet": not_published_yet,
    "SourceFailed": source_failed,
    "WarehouseFailed": warehouse_failed,
    "CommitLost": commit_lost,
    "PartlyRefused": partly_refused,
}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_as_it_was_approved(command: str, sheet: Sheet) -> None:
    assert sheet(*[command][: bool(command)], "--help").code == 0
    assert max(map(len, sheet.text.splitlines())) <= 100
    golden_files.assert_golden(f"help/{command or 'maang'}", sheet.text)


def test_maang_alone_shows_the_help(maang: Maang) -> None:
    assert maang().out.strip() == maang("--help").out.strip()


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_results_are_as_they_were_approved(name: str, sheet: Sheet) -> None:
    TRANSCRIPTS[name](sheet)
    golden_files.assert_golden(name, sheet.text)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_as_it_was_approved(name: str, sheet: Sheet) -> None:
    ERRORS[name](sheet)
    golden_files.assert_golden(f"errors/{name}", sheet.text)


def kinds(root: type[MaangError]) -> Iterator[str]:
    for kind in root.__subclasses__():
        yield kind.__name__
        yield from kinds(kind)


def test_every_kind_of_error_has_a_golden_file_and_every_golden_file_a_test() -> None:
    # MayHeal is only ever raised as one of its kinds, a refusal has reports of its own, staging that changes under a run takes a
    # second run, and the others read as the kind that they are of.
    elsewhere = {"MayHeal", "GateRefused", "StagingChanged", "FileGone", "Contradiction", "BeyondPlan"}
    assert set(ERRORS) == set(kinds(MaangError)) - elsewhere
    names = {f"help/{command}" for command in ("maang", *COMMANDS)} | set(TRANSCRIPTS) | {f"errors/{name}" for name in ERRORS}
    names |= {"narrow"}
    assert {path.relative_to(golden_files.FOLDER).as_posix() for path in golden_files.FOLDER.rglob("*.*")} == {
        f"{name}.txt" for name in names
    }


def test_golden_files_name_no_path_port_or_time_of_the_run_that_wrote_them(tmp_path: Path) -> None:
    for path in golden_files.FOLDER.rglob("*.txt"):
        text = path.read_text("utf-8")
        assert text == golden_files.masked(text, tmp_path)
        assert not re.search(r"/(tmp|root|work|var|private|Users)/", text), path


def documents(sheet: Sheet) -> Iterator[dict[str, Any]]:
    for argv in ((command, *ON, *FEW, "--json") for command in ("run-day", "show", "drop-staging", "ingest", "check")):
        yield json.loads(sheet.maang(*argv).out)


def test_json_is_one_document_whose_decimals_are_exact_strings(sheet: Sheet) -> None:
    run_day, show, dropped, _, check = documents(sheet)
    assert run_day["promote"]["inserted"] == 2
    assert (show["rows"][0]["open"], show["rows"][0]["volume"], show["rows"][0]["date"]) == ("10.41", 2001, "2025-10-14")
    assert dropped["dropped"] is False
    assert check["passed"] is True


def in_a_terminal(*argv: str) -> Outcome:
    """`maang` in this process, its stdout a terminal."""
    master, slave = os.openpty()
    heard: list[bytes] = []

    def listen() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(master, 65536):
                heard.append(piece)

    listener = threading.Thread(target=listen)
    listener.start()
    with os.fdopen(slave, "w") as terminal, contextlib.redirect_stdout(terminal):
        code = main(argv)
    listener.join()
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(heard).decode())
    return Outcome(int(code), text.replace("\r\n", "\n"), "")


@pytest.fixture
def narrow(sheet: Sheet, monkeypatch: pytest.MonkeyPatch) -> Sheet:
    """A sheet whose commands find a terminal of 40 columns."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    sheet.maang = in_a_terminal
    return sheet


def test_a_narrow_terminal_is_as_it_was_approved(narrow: Sheet) -> None:
    narrow("run-day", *ON, *FEW)
    narrow("ingest", *ON, *FEW)
    narrow("show", *ON, *FEW, "--table", "staging")
    narrow.polygon.days[DAY] = [row("META", DAY, h=1)]
    narrow("run-day", *ON, *FEW)
    golden_files.assert_golden("narrow", narrow.text)


@pytest.mark.parametrize("table", ["staging", "production", "cumulative"])
def test_a_narrow_terminal_gets_every_value_whole(table: str, narrow: Sheet) -> None:
    narrow.polygon.days[DAY][0] = row("META", DAY, vw=..., n=...)
    for command in ("run-day", "ingest"):
        in_a_terminal(command, *ON, *FEW)
    shown = ("show", *ON, *FEW, "--table", table)
    *lines, last = in_a_terminal(*shown).out.splitlines()
    assert max(map(len, lines)) <= 40  # the last line is text, which the terminal wraps
    assert last.startswith("2 rows of ")
    printed = " ".join(lines).split()
    for values in json.loads(in_a_terminal(*shown, "--json").out)["rows"]:
        for value in values.values():
            first = value[0] if isinstance(value, list) else value
            if not str(first).endswith("Z"):  # stamps are spelt in another way there
                assert ("NULL" if first is None else str(first)) in printed


@pytest.mark.parametrize("columns", ["12", "1"])
@pytest.mark.parametrize("argv", [("show", *ON, *FEW), ("check", *ON, *FEW), ("show", "--help")], ids=" ".join)
def test_the_narrowest_terminal_is_no_reason_to_fail(
    argv: tuple[str, ...], columns: str, narrow: Sheet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("run-day", "ingest"):
        in_a_terminal(command, *ON, *FEW)
    monkeypatch.setenv("COLUMNS", columns)
    assert in_a_terminal(*argv).code == 0
