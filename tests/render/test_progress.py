"""The progress of a backfill, on a terminal and in a log, and the question before a long one."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from maang_cli import backfill, sessions
from maang_cli.render import ProgressDisplay
from maang_cli.request import Request
from maang_cli.sources import SOURCES
from maang_cli.warehouses import WAREHOUSES
from tests import settings
from tests.cli.helpers import CODES, PATIENCE, Terminal, held, on_terminal
from tests.conftest import Maang, Outcome
from tests.polygon_server import PolygonServer, row

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 20))
RANGE = ("--from", "2025-10-01", "--to", "2025-10-20")
TICKERS = "META,AAPL,AMZN"
OURS = ("--tickers", TICKERS)
WIDE = ",".join(f"T{number}" for number in range(20))
"""So many tickers that one call a session is cheaper than one call a ticker."""
ASKS = "from maang_cli.cli import commands, process; commands.ASK_SECONDS = 0; process.run()"
"""`maang`, which asks before any backfill: one that takes an hour would take too long."""
LINE = re.compile(r"backfill +fetched (\d+) of (?:4|15) calls, published (\d+) of 14 sessions \((\d+) rows\)(?:, (\d+) s left)?")


@pytest.fixture
def market(polygon: PolygonServer) -> PolygonServer:
    """Every session has a bar of every ticker."""
    polygon.days = {day: [row(ticker, day) for ticker in f"{TICKERS},{WIDE}".split(",")] for day in DAYS}
    return polygon


def run_backfill(display: ProgressDisplay, tickers: str, batch_rows: int = backfill.BATCH_ROWS) -> backfill.Backfilled:
    """A backfill of all days in batches of at most this many rows, whose progress `display` shows."""
    loaded = settings.load(tickers=tickers)
    request = Request(loaded.tickers, DAYS)
    with closing(SOURCES["polygon"].open(loaded)) as source, closing(WAREHOUSES["local"].open(loaded, "")) as warehouse:
        todo = backfill.plan(source, warehouse, request)
        batches = backfill.cut(todo.bars.missing, todo.calls, most_calls=100, most_rows=batch_rows)
        with display.meter() as report:
            return backfill.run(source, warehouse, dataclasses.replace(todo, batches=batches), report)


def numbers(err: str) -> list[tuple[int, ...]]:
    """Sessions, rows and calls in the lines about the progress."""
    return [tuple(map(int, found.group(2, 3, 1))) for line in err.splitlines() if (found := LINE.fullmatch(line))]


def test_log_gets_a_line_every_few_seconds(market: PolygonServer, capsys: pytest.CaptureFixture[str]) -> None:
    run_backfill(ProgressDisplay(quiet=False, line_seconds=0), TICKERS, batch_rows=15)
    out, err = capsys.readouterr()
    found = numbers(err)
    assert found == sorted(found)
    assert [each[:2] for each in found] == [(0, 0)] * 3 + [(5, 15), (10, 30), (14, 42)]
    assert found[-1][2] == 4
    assert len(err.splitlines()) == len(found)
    assert out == ""


def test_short_backfill_needs_no_line(market: PolygonServer, capsys: pytest.CaptureFixture[str]) -> None:
    run_backfill(ProgressDisplay(quiet=False, line_seconds=600), TICKERS)
    assert capsys.readouterr().err == ""


def test_quiet_display_shows_nothing(market: PolygonServer, capsys: pytest.CaptureFixture[str]) -> None:
    done = run_backfill(ProgressDisplay(quiet=True, line_seconds=0), TICKERS)
    assert (done.calls, capsys.readouterr().err) == (4, "")


def test_quiet_backfill_prints_only_its_result(maang: Maang, market: PolygonServer) -> None:
    done = maang("backfill", *RANGE, *OURS, "--quiet", "--json")
    assert (done.err, done.result["calls"]) == ("", 4)


def test_time_left_is_the_plans_if_no_call_has_to_wait(
    maang: Maang, market: PolygonServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "20")
    plan = maang("plan", *RANGE, "--tickers", WIDE).out
    assert "15 calls at 20 a minute, about 280 rows, 2 commits, 2 s" in plan
    run_backfill(ProgressDisplay(quiet=False, line_seconds=0), WIDE)
    first = next(found for line in capfd.readouterr().err.splitlines() if (found := LINE.fullmatch(line)))
    assert first.groups() == ("2", "0", "0", "0")


def test_terminal_shows_a_bar_and_removes_it(market: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "600")
    shown = threading.Event()
    market.always = held(shown, "META")
    terminal = Terminal("backfill", *RANGE, *OURS, "--json")
    terminal.read_until("0 of 14 sessions")
    shown.set()
    code, written = terminal.end()
    assert code == 0
    plain = CODES.sub("", written)
    assert re.search(r"backfill +[━╺╸]+ +fetched \d of 4 calls, published 0 of 14 sessions", plain)
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor is shown again"
    assert json.loads(plain[plain.index("{") :])["result"]["calls"] == 4


def test_verbose_terminal_gets_lines_like_a_log(market: PolygonServer) -> None:
    """A spinner or a bar would be torn by the log's lines."""
    for argv in (("run-day", "--date", "2025-10-20"), ("backfill", *RANGE)):
        _, written = on_terminal(*argv, *OURS, "-v")
        assert "\x1b[?25l" not in written, "no cursor is hidden"
        assert "query on" in written


def test_dumb_terminal_gets_lines_like_a_log(market: PolygonServer) -> None:
    _, written = on_terminal("backfill", *RANGE, *OURS, TERM="dumb")
    assert "\x1b" not in written
    assert "14 sessions published" in written


# The question


AN_HOUR = ("--from", "2024-01-01", "--to", "2025-10-20", "--tickers", ",".join(f"T{number}" for number in range(62)))
"""62 calls, one a ticker, and one for splits: a key with one call a minute makes the last after 62 minutes."""


@pytest.mark.parametrize("typed", ["n\n", "\n", "\x04"], ids=["no", "nothing", "end of file"])
def test_backfill_of_more_than_an_hour_asks_and_without_a_yes_does_nothing(typed: str, market: PolygonServer, home: Path) -> None:
    code, written = on_terminal("backfill", *AN_HOUR, typed=typed, MAANG_CALLS_PER_MINUTE="1")
    words = " ".join(CODES.sub("", written).split())
    assert (code, market.requests) == (2, [])
    assert re.search(r"63 calls at 1 a minute, about \d+ rows, \d+ commits, 62 min; continue\? \[y/N\]", words)
    assert "error: not started: this would take about 62 min (63 calls at 1 a minute)" in words
    assert "hint: give --yes, or a shorter range" in words
    assert not (home / "warehouse" / "maang").exists()


@pytest.mark.parametrize(
    ("flags", "typed", "asked"),
    [((), "y\n", True), ((), "YES\n", True), (("--yes",), "", False), (("-y",), "", False)],
    ids=["y", "YES", "--yes", "-y"],
)
def test_backfill_starts_after_a_yes(flags: Sequence[str], typed: str, asked: bool, maang: Maang, market: PolygonServer) -> None:
    code, written = on_terminal("backfill", *RANGE, *OURS, *flags, typed=typed, program=ASKS)
    assert (code, "continue? [y/N]" in CODES.sub("", written)) == (0, asked)
    for table in ("production", "cumulative"):
        assert len(maang("show", *RANGE, *OURS, "--table", table, "--json").result["rows"]) == 3 * len(DAYS)


def test_yes_from_a_pipe_does_not_count(market: PolygonServer) -> None:
    argv = [sys.executable, "-c", ASKS, "backfill", *RANGE, *OURS]
    done = subprocess.run(argv, input="y\n", capture_output=True, text=True, check=False, timeout=PATIENCE)
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    assert (outcome.code, outcome.out, market.requests) == (2, "", [])
    assert "not started: this would take about" in outcome.err
    assert "continue?" not in outcome.err


def test_backfill_of_less_than_an_hour_does_not_ask(market: PolygonServer) -> None:
    code, written = on_terminal("backfill", *RANGE, *OURS)
    assert (code, "continue?" in written) == (0, False)
