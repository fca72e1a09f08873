"""What a person reads, held by golden files: help, results as tables and as JSON, refusals, errors, interruptions."""

from __future__ import annotations

import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.types import LongType

from maang_cli.errors import MaangError
from tests import golden_files
from tests.cli.helpers import outcome_of, started, wait_until
from tests.conftest import Maang
from tests.polygon_server import Answer, row
from tests.render.conftest import DAY, FEW, NEXT, ON, ON_NEXT, SAMPLE, Sheet


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
    """Values that the vendor left out are NULL; a revised bar changes one row, and the windows that contain it."""
    sheet.polygon.days[DAY][0] = row("META", DAY, vw=..., n=...)
    sheet("run-day", *ON, *FEW, *flags)
    sheet("show", *ON, *FEW, *flags)
    sheet("show", *ON, *FEW, *flags, "--table", "cumulative")
    sheet.polygon.days[DAY][0] = row("META", DAY)
    sheet("run-day", *ON, *FEW, *flags)
    sheet.polygon.days[DAY][0] = row("META", DAY, c=10.25)
    for command in ("ingest", "diff", "promote"):
        sheet(command, *ON, *FEW, *flags)
    sheet("diff", *ON, *FEW, *flags, "--table", "cumulative")
    sheet("cumulate", *ON, *FEW, *flags)
    sheet("diff", *ON, *FEW, *flags)


def allowed_missing(sheet: Sheet, *flags: str) -> None:
    sheet("run-day", *ON, *FEW)
    del sheet.polygon.days[DAY][1]
    allow = ("--allow-missing", "AAPL")
    sheet("ingest", *ON, *FEW, *flags)
    for command in ("check", "promote", "cumulate"):
        sheet(command, *ON, *FEW, *allow, *flags)
    sheet("show", *ON, *FEW, *flags)


def refusals(sheet: Sheet, *flags: str) -> None:
    """Each check fails, one of them on more rows than are shown."""
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


def backfill(sheet: Sheet, *flags: str) -> None:
    """A range with one day that is refused and one that the vendor does not serve yet."""
    days = ("--from", "2025-10-13", "--to", "2025-10-16")
    monday = date(2025, 10, 13)
    sheet.polygon.days[monday] = [row("META", monday), row("AAPL", monday, h=1)]
    sheet("plan", *days, *FEW, *flags)
    sheet("backfill", *days, *FEW, *flags, "--quiet")  # otherwise a slow machine gets lines about the progress
    sheet("status", *days, *FEW, *flags)
    sheet.polygon.days |= {day: [row("META", day), row("AAPL", day)] for day in (monday, date(2025, 10, 16))}
    sheet("backfill", *days, *FEW, *flags, "--quiet")
    sheet("plan", *days, *FEW, *flags)
    sheet("status", *days, *FEW, *flags)


def upkeep(sheet: Sheet, *flags: str) -> None:
    source = SAMPLE[:2]
    sheet("maintain", *source, *flags)
    sheet("doctor", *source, *flags)
    sheet.maang("run-day", *ON, *SAMPLE)
    sheet("maintain", *source, *flags)
    sheet("config", *source, *flags)
    sheet("doctor", *source, *flags)
    sheet.monkeypatch.delenv("POLYGON_TOKEN")
    sheet("doctor", *flags)


def usage(sheet: Sheet) -> None:
    sheet("show")
    sheet("shwo", *ON)
    sheet("show", *ON, "--tabel", "production")
    sheet("show", *ON, "--table", "prod")
    sheet("shwo", *ON, "--json")


def interrupted(sheet: Sheet) -> None:
    """SIGINT, then SIGTERM, while the vendor does not answer."""
    sheet.polygon.always = lambda path: Answer(delay=3600)
    sheet.maang("init-tables")
    for number, argv in ((signal.SIGINT, ("ingest", *ON, *FEW)), (signal.SIGTERM, ("ingest", *ON, *FEW, "--json"))):
        sheet.polygon.requests.clear()
        with started(*argv) as process:
            wait_until(lambda: sheet.polygon.requests, process)
            process.send_signal(number)
            sheet.add(argv, outcome_of(process))


def no_session(sheet: Sheet) -> None:
    sheet("run-day", "--date", "2025-11-27", *SAMPLE)
    sheet("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session")
    sheet("run-day", "--date", "2025-11-27", *SAMPLE, "--json")
    sheet("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session", "--json")


def settings_error(sheet: Sheet) -> None:
    sheet("ingest", "--date", "14.10.2025")
    sheet("ingest", "--date", "14.10.2025", "--json")


def table_mismatch(sheet: Sheet) -> None:
    uri = f"sqlite:///{sheet.catalog()}"
    with closing(SqlCatalog("maang", uri=uri)) as catalog:
        table = catalog.load_table("maang_sample.daily_stock_prices")
        table.update_schema().update_column("transactions", LongType()).commit()
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
    sheet.home.write_text("a file")
    sheet("init-tables")
    sheet.home.unlink()
    sheet.maang("run-day", *ON, *SAMPLE)
    [data] = (sheet.home / "warehouse/maang_sample/daily_stock_prices/data").rglob("*.parquet")
    data.unlink()
    sheet("show", *ON, *SAMPLE)


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
    (sheet.home / "warehouse").mkdir(parents=True)
    (sheet.home / "warehouse/journal.new").symlink_to("/dev/full")
    sheet("run-day", *ON, *SAMPLE)


def commit_lost(sheet: Sheet) -> None:
    """The catalog never finds a table as the commit expects it, as if another writer was always faster."""
    with closing(sqlite3.connect(sheet.catalog())) as catalog:
        catalog.execute("CREATE TRIGGER faster BEFORE UPDATE ON iceberg_tables BEGIN SELECT RAISE(IGNORE); END")
    sheet("run-day", *ON, *SAMPLE, "--quiet")


def partly_refused(sheet: Sheet) -> None:
    """Of two sessions one is refused, and the other is published."""
    sheet.polygon.days[NEXT][0] = row("META", NEXT, h=1)
    sheet("run-day", *ON, *ON_NEXT, *FEW)
    sheet("promote", *ON, *ON_NEXT, *FEW)
    sheet("status", *ON, *ON_NEXT, *FEW)


TRANSCRIPTS: dict[str, Callable[[Sheet], object]] = {
    "steps": steps,
    "steps-json": lambda sheet: steps(sheet, "--json"),
    "quiet": quiet,
    "revisions": revisions,
    "revisions-json": lambda sheet: revisions(sheet, "--json"),
    "allowed-missing": allowed_missing,
    "allowed-missing-json": lambda sheet: allowed_missing(sheet, "--json"),
    "refusals": refusals,
    "refusals-json": lambda sheet: refusals(sheet, "--json"),
    "backfill": backfill,
    "backfill-json": lambda sheet: backfill(sheet, "--json"),
    "upkeep": upkeep,
    "upkeep-json": lambda sheet: upkeep(sheet, "--json"),
    "interrupted": interrupted,
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


def test_maang_alone_shows_the_help(maang: Maang) -> None:
    assert maang().out.strip() == maang("--help").out.strip()


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_result_is_as_approved(name: str, sheet: Sheet) -> None:
    TRANSCRIPTS[name](sheet)
    golden_files.assert_golden(name, sheet.text)


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_as_approved(name: str, sheet: Sheet) -> None:
    ERRORS[name](sheet)
    golden_files.assert_golden(f"errors/{name}", sheet.text)


def kinds(root: type[MaangError]) -> Iterator[str]:
    for kind in root.__subclasses__():
        yield kind.__name__
        yield from kinds(kind)


def test_every_kind_of_error_has_a_golden_file_and_every_golden_file_a_test() -> None:
    # MayHeal is only raised as one of its kinds, a refusal has transcripts of its own, staging that changes during a run needs a
    # second run, and the others read like their parents.
    elsewhere = {"MayHeal", "GateRefused", "StagingChanged", "FileGone", "Damaged", "Contradiction", "Adjusted", "Oversized"}
    elsewhere |= {"BeyondPlan", "NotFound", "NotInPlan", "NotOwner"}
    assert set(ERRORS) == set(kinds(MaangError)) - elsewhere
    names = set(TRANSCRIPTS) | {f"errors/{name}" for name in ERRORS}
    names |= {"narrow"}  # see test_tables.py
    assert {path.relative_to(golden_files.FOLDER).as_posix() for path in golden_files.FOLDER.rglob("*.*")} == {
        f"{name}.txt" for name in names
    }


def test_golden_files_have_no_path_port_or_time_of_the_run_that_wrote_them(tmp_path: Path) -> None:
    for path in golden_files.FOLDER.rglob("*.txt"):
        text = path.read_text("utf-8")
        assert text == golden_files.masked(text, tmp_path)
        assert not re.search(r"/(tmp|root|work|var|private|Users)/", text), path
