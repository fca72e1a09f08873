"""`show` and `sql`: what they select, how it looks on a terminal, and CSV and Parquet on stdout or in a file."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from maang_cli.tables import FINDINGS
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.cli.helpers import CODES, DAY, ON_DAY, SAMPLE, SESSION, completed, failed, on_terminal
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row

BEFORE, NEXT = "2025-10-13", "2025-10-15"
TICKERS = ["AAPL", "AMZN", "GOOGL", "META", "NFLX"]
COUNT = "SELECT count(*) AS n FROM production"


@pytest.fixture(autouse=True)
def two_days(maang: Maang) -> None:
    """The sample source's bars of two sessions."""
    assert maang("backfill", "--from", BEFORE, "--to", DAY, *SAMPLE).code == 0


def shown(*argv: str, columns: int) -> list[str]:
    """What a terminal of this width shows, without the notes on stderr."""
    code, written = on_terminal(*argv, *SAMPLE, "-q", columns=columns, NO_COLOR="1")
    assert code == 0, written
    lines = CODES.sub("", written).replace("\r\n", "\n").rstrip("\n").split("\n")
    assert max(map(len, lines)) <= columns
    return [line.rstrip() for line in lines]


# show: which rows


@pytest.mark.parametrize("table", ["production", "cumulative"])
def test_show_without_dates_shows_the_last_stored_session(maang: Maang, table: str) -> None:
    done = maang("show", "--table", table, *SAMPLE, "--json")
    assert done.document["sessions"] == [DAY]
    assert [(row["ticker"], row["date"]) for row in done.result["rows"]] == [(ticker, DAY) for ticker in TICKERS]


def test_show_without_dates_needs_a_stored_session(maang: Maang) -> None:
    message, hint = failed(maang("show", "--tickers", "BRK.A", *SAMPLE, "-q"), 2)
    assert message == "maang_sample.daily_stock_prices has none of these tickers"
    assert hint == "load the last final session: maang run-day --tickers BRK.A --source sample"
    message, hint = failed(maang("show", "--schema", "other", *SAMPLE, "-q"), 2)
    assert message == "there is no table other.daily_stock_prices"
    assert hint == "load the last final session: maang run-day --source sample --schema other"


@pytest.mark.parametrize(
    ("argv", "missing", "command"),
    [
        (["--date", NEXT], [NEXT], f"maang run-day --date {NEXT}"),
        (
            ["--from", DAY, "--to", "2025-10-17"],
            [NEXT, "2025-10-16", "2025-10-17"],
            f"maang backfill --from {NEXT} --to 2025-10-17",
        ),
        (["--date", NEXT, "--table", "cumulative"], [NEXT], f"maang run-day --date {NEXT}"),
    ],
)
def test_session_that_is_not_stored_is_named_with_the_command_that_loads_it(
    maang: Maang, argv: Sequence[str], missing: Sequence[str], command: str
) -> None:
    done = maang("show", *argv, *SAMPLE)
    assert done.code == 0
    assert done.err.endswith(f"load it: {command} --source sample\n")
    assert maang("show", *argv, *SAMPLE, "--json").result["missing"] == missing
    assert maang(*command.split()[1:], *SAMPLE).code == 0
    again = maang("show", *argv, *SAMPLE)
    assert "load it" not in again.err


def test_show_as_of_an_earlier_time_has_the_sessions_of_that_time(maang: Maang) -> None:
    then = datetime.now(UTC).isoformat()
    assert maang("run-day", "--date", NEXT, *SAMPLE).code == 0
    assert maang("show", "--as-of", then, *SAMPLE, "--json").document["sessions"] == [DAY]
    done = maang("show", "--date", NEXT, "--as-of", then, *SAMPLE)
    assert done.err.endswith(f"note: {NEXT}: not in maang_sample.daily_stock_prices at that time\n")


def test_findings_are_shown_with_and_without_dates(maang: Maang, polygon: PolygonServer) -> None:
    argv = ("show", "--table", "findings", "--tickers", "META", "--json")
    polygon.days = {day: [row("META", day, h=1.0)] for day in (SESSION, SESSION.replace(day=15))}
    for day in (DAY, NEXT):
        assert maang("run-day", "--date", day, "--tickers", "META").code == 3
    found = [
        (each["ticker"], each["date"], each["outcome"]) for each in maang(*argv).result["rows"] if each["name"] == "price_ranges"
    ]
    assert found == [("META", DAY, "refused"), ("META", NEXT, "refused")]
    assert {each["date"] for each in maang(*argv, "--from", NEXT).result["rows"]} == {NEXT}
    assert maang("sql", "SELECT count(*) AS n FROM findings WHERE name = 'price_ranges'", "--json").result["rows"] == [{"n": 2}]


def test_warehouse_without_findings_shows_none(maang: Maang, home: Path) -> None:
    with closing(LocalWarehouse(home, "maang_sample", Retention(100))) as warehouse:
        assert warehouse.drop(FINDINGS)
    done = maang("show", "--table", "findings", *SAMPLE)
    assert (done.code, done.out) == (0, "0 rows of maang_sample.daily_stock_prices_findings\n")


# How it looks


def test_five_rows_are_five_rows_at_80_columns() -> None:
    header, *rows, left_out, count = shown("show", columns=80)
    assert header.split() == ["ticker", "date", "open", "high", "low", "close", "volume", "vwap"]
    assert [row.split()[0] for row in rows] == TICKERS
    assert left_out.startswith("no room for transactions, insertion_timestamp; ")
    assert count == "5 rows of maang_sample.daily_stock_prices"


def test_cumulative_shows_the_closes_as_a_sparkline() -> None:
    header, *lines = shown("show", "--table", "cumulative", columns=80)
    assert header.split() == ["ticker", "date", "closes", "avg_7_day_volume", "volatility_7_day"]
    assert [line.split()[0] for line in lines[:5]] == TICKERS
    for line in lines[:5]:
        assert set(line.split()[2]) <= set("▁▂▃▄▅▆▇█")
        assert len(line.split()[2]) == 2
    assert shown("show", "--table", "cumulative", columns=120)[0].split()[-1] == "updated_at"


def test_wide_terminal_shows_every_column() -> None:
    assert shown("show", columns=120)[0].split()[-2:] == ["transactions", "insertion_timestamp"]
    assert "last_7_days_volume" in shown("show", "--table", "cumulative", columns=300)[0]
    assert shown("show", columns=120)[-2].startswith("NFLX")


def test_narrow_terminal_shows_records() -> None:
    lines = shown("show", "--tickers", "META", columns=40)
    assert [line.split()[0] for line in lines[:3]] == ["META", "open", "high"]
    assert lines[8].split() == ["insertion_timestamp", *lines[8].split()[1:]]


@pytest.mark.parametrize("columns", [30, 62, 80, 300])
def test_query_without_ticker_and_date_is_shown_at_any_width(columns: int) -> None:
    text = "SELECT [1, NULL] AS last_7_days_close, last_7_days_volume, repeat('x', 50) AS x, 1 AS n FROM cumulative LIMIT 2"
    lines = shown("sql", text, columns=columns)
    assert "".join(lines).count("x") >= 2 * 50
    assert lines[-1] == "2 rows"
    [only] = [line for line in shown("sql", "SELECT repeat('12 ', 50) AS l", columns=columns) if line.startswith("l")]
    assert only.split()[0] == "l"
    assert "".join(shown("sql", "SELECT range(60) AS l", columns=columns)).count("59") == 1


# sql


def test_sql_shows_the_rows_of_a_query(maang: Maang) -> None:
    done = maang("sql", f"{COUNT} WHERE date = '{DAY}'", *SAMPLE)
    assert (done.code, done.out.split(), done.err) == (0, ["n", "5", "1", "row"], "")
    document = maang("sql", "SELECT close, 0.5::DOUBLE AS half, 'nan'::DOUBLE AS nan FROM production LIMIT 1", *SAMPLE, "--json")
    assert document.result["columns"] == ["close", "half", "nan"]
    [row] = document.result["rows"]
    assert (Decimal(row["close"]).as_tuple().exponent, row["half"], row["nan"]) == (-2, 0.5, "nan")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DROP TABLE production",
        "DELETE FROM production",
        "SELECT 1; DROP TABLE production",
        "INSERT INTO production SELECT * FROM production",
        "COPY production TO 'copy.csv'",
        "CREATE TABLE mine AS SELECT 1",
        "ATTACH 'mine.db'",
        "INSTALL httpfs",
        "SET threads = 1",
        "EXPLAIN SELECT 1",
        "SELECT 1 FROM",
    ],
)
def test_anything_but_one_query_exits_2(maang: Maang, text: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    failed(maang("sql", text, *SAMPLE), 2)
    assert sorted(tmp_path.rglob("*")) == before
    assert maang("sql", COUNT, *SAMPLE, "--json").result["rows"] == [{"n": 10}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT clsoe FROM production", '"clsoe" not found'),
        ("SELECT * FROM prices", "prices does not exist"),
        ("SELECT CAST(ticker AS INTEGER) FROM production", "Could not convert string"),
        ("SELECT error('no')", "no"),
    ],
)
def test_wrong_query_exits_2_with_the_engines_message(maang: Maang, text: str, message: str) -> None:
    found, hint = failed(maang("sql", text, *SAMPLE), 2)
    assert message in found
    assert "LINE" not in found
    assert hint == "docs/tables.md lists the tables and their columns"


# CSV and Parquet


def test_csv_has_one_line_a_row_and_exact_values(maang: Maang) -> None:
    done = maang("show", "--table", "cumulative", *SAMPLE, "--format", "csv", "-q")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    exact = maang("show", "--table", "cumulative", *SAMPLE, "--json").result["rows"]
    assert [row["last_7_days_close"].split() for row in rows] == [row["last_7_days_close"] for row in exact]
    assert [row["updated_at"] for row in rows] == [row["updated_at"] for row in exact]
    assert [row["avg_7_day_volume"] for row in rows] == [row["avg_7_day_volume"] for row in exact]
    odd = "SELECT NULL AS nothing, 'a,\"b' AS text, TRUE AS yes, {'a': 1} AS it, INTERVAL 1 DAY IS NULL AS i"
    assert maang("sql", odd, *SAMPLE, "--format", "csv").out == 'nothing,text,yes,it,i\n,"a,""b",true,{\'a\': 1},false\n'


def test_parquet_keeps_decimals(maang: Maang, tmp_path: Path) -> None:
    file = tmp_path / "bars.parquet"
    done = maang("show", *SAMPLE, "--out", str(file))
    assert (done.code, done.out) == (0, "")
    assert done.err.endswith(f"5 rows written to {file}\n")
    rows = pq.read_table(file)
    assert (rows.schema.field("close").type.precision, rows.schema.field("close").type.scale) == (10, 2)
    assert [str(price) for price in rows["close"].to_pylist()] == [
        row["close"] for row in maang("show", *SAMPLE, "--json").result["rows"]
    ]


def test_parquet_on_stdout_is_for_pipes_and_files_only(tmp_path: Path) -> None:
    code, written = on_terminal("show", *SAMPLE, "--format", "parquet")
    assert (code, "Parquet is not for a terminal" in written, "PAR1" in written) == (2, True, False)
    with (tmp_path / "bars").open("w+b") as file:
        done = completed(["show", *SAMPLE, "--format", "parquet", "-q"], stdout=file.fileno())
        assert (done.code, done.err) == (0, "")
    assert pq.read_table(tmp_path / "bars").num_rows == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "bars.txt"], "--out bars.txt: CSV or Parquet?"),
        (["--out", "bars.csv", "--format", "table"], "--out bars.csv: CSV or Parquet?"),
        (["--out", "none/bars.csv"], "there is no folder"),
        (["--out", "/dev/null", "--format", "csv"], "/dev/null is not a file"),
        (["--out", ".", "--format", "csv"], "is not a file"),
        (["--out", "bars.csv", "--json"], "--json can't be combined with --format or --out"),
        (["--format", "csv", "--json"], "--json can't be combined with --format or --out"),
        (["--format", "xls"], "xls"),
    ],
)
def test_rows_that_can_not_go_there_exit_2(maang: Maang, argv: Sequence[str], message: str) -> None:
    for command in (("show", *ON_DAY), ("sql", COUNT)):
        done = maang(*command, *SAMPLE, *argv, "-q")
        assert done.code == 2
        assert message in done.out + done.err
    assert list(Path().iterdir()) == []


def test_type_that_parquet_lacks_exits_2(maang: Maang) -> None:
    message, hint = failed(maang("sql", "SELECT INTERVAL 1 DAY", *SAMPLE, "--out", "a.parquet"), 2)
    assert "can't be Parquet" in message
    assert "cast" in hint
    assert list(Path().iterdir()) == []


def test_file_is_replaced_with_its_rights_and_through_a_link(maang: Maang) -> None:
    file, link = Path("bars.csv").absolute(), Path("link.csv")
    file.write_text("before")
    file.chmod(0o600)
    link.symlink_to(file)
    assert maang("sql", COUNT, *SAMPLE, "--out", str(link)).code == 0
    assert (file.read_text(), file.stat().st_mode & 0o777, link.is_symlink()) == ("n\n10\n", 0o600, True)


FULL = """
import resource
from maang_cli.cli.process import run
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
run()
"""
"""`maang` on a disk that takes 100 bytes a file."""


def test_full_disk_leaves_the_file_as_it_was() -> None:
    Path("bars.csv").write_text("before")
    argv = ["show", *SAMPLE, "--out", "bars.csv", "-q"]
    message, hint = failed(completed(argv, program=FULL), 4)
    assert message.endswith("bars.csv can't be written: File too large")
    assert "free some space" in hint
    assert [file.name for file in Path().iterdir()] == ["bars.csv"]
    assert Path("bars.csv").read_text() == "before"


STOPPED = """
import os, signal
from maang_cli.cli.process import run

def fsync(number):
    os.kill(os.getpid(), {signal})
    signal.pause()

os.fsync = fsync  # the file is written, and not yet in place
run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_leaves_no_half_file(number: signal.Signals) -> None:
    argv = ["show", *SAMPLE, "--out", "bars.csv", "-q"]
    done = completed(argv, program=STOPPED.format(signal=int(number)))
    assert done.code in (143, -signal.SIGKILL)
    left = [file.name for file in Path().iterdir()]
    assert "bars.csv" not in left
    assert number is signal.SIGKILL or left == []
