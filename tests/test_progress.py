"""How far a backfill is, on a terminal and in a log; and the question before a long one."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from maang_cli import backfill
from tests.conftest import Maang
from tests.polygon_server import PolygonServer
from tests.test_backfill import DAYS, OURS, RANGE, WIDE, market_open, tables, wide_open
from tests.test_cli import CODES, on_terminal

__all__ = ["market_open"]

ASKS = [sys.executable, "-c", "from maang_cli import cli; cli.ASK_SECONDS = 0; raise SystemExit(cli.main())"]
"""Asks before any plan: one that takes an hour would be too much of a test."""
LINE = re.compile(r"backfill +(\d+) of 14 sessions, (\d+) rows, (\d+) of (?:3|14) calls(?:, (\d+) s left)?")


def numbers(err: str) -> list[tuple[int, ...]]:
    """What the lines about the progress say: sessions, rows, calls."""
    return [tuple(map(int, found.groups()[:3])) for line in err.splitlines() if (found := LINE.fullmatch(line))]


def test_in_a_log_a_line_every_few_seconds_says_how_far_it_is(
    maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_ROWS", 15)
    monkeypatch.setattr("maang_cli.render.narrator.LINE_SECONDS", 0)
    done = maang("backfill", *RANGE, *OURS)
    assert done.code == 0
    said = numbers(done.err)
    assert said == sorted(said)
    assert [line[:2] for line in said] == [(0, 0)] * 3 + [(5, 15), (10, 30), (14, 42)]
    assert said[-1][2] == 3
    assert not numbers(done.out)


def test_a_backfill_of_a_moment_needs_no_line(maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maang_cli.render.narrator.LINE_SECONDS", 600)
    assert numbers(maang("backfill", *RANGE, *OURS).err) == []


def test_quiet_is_quiet_about_the_progress_too(maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maang_cli.render.narrator.LINE_SECONDS", 0)
    done = maang("backfill", *RANGE, *OURS, "--quiet", "--json")
    assert (done.err, json.loads(done.out)["calls"]) == ("", 3)


def test_the_time_left_is_the_plans_where_no_call_has_to_wait(
    maang: Maang, polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "20")
    monkeypatch.setattr("maang_cli.render.narrator.LINE_SECONDS", 0)
    ours = wide_open(polygon, WIDE)
    assert "14 calls at 20 a minute, about 280 rows, 2 commits, 1 s" in maang("plan", *RANGE, *ours).out
    first = next(found for line in maang("backfill", *RANGE, *ours).err.splitlines() if (found := LINE.fullmatch(line)))
    assert first.groups() == ("0", "0", "1", "0")


def test_on_a_terminal_a_bar_shows_how_far_it_is_and_is_cleaned_up(market_open: PolygonServer) -> None:
    def dawdle(path: str) -> None:
        if "META" in path:
            time.sleep(0.7)

    market_open.always = dawdle
    code, written = on_terminal("backfill", *RANGE, *OURS, "--json")
    assert code == 0
    plain = CODES.sub("", written)
    assert re.search(r"backfill +[━╺╸]+ +0 of 14 sessions, 0 rows, \d of 3 calls", plain)
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor is back"
    assert json.loads(plain[plain.index("{") :])["calls"] == 3


@pytest.mark.parametrize("typed", ["n\n", "\x04"], ids=["no", "end of file"])
def test_a_plan_of_more_than_an_hour_is_asked_about_and_without_a_yes_nothing_is_done(
    typed: str, market_open: PolygonServer, home: Path
) -> None:
    wide = ",".join(f"T{number}" for number in range(62))
    code, written = on_terminal(
        "backfill", "--from", "2024-01-01", "--to", "2025-10-20", "--tickers", wide, typed=typed, MAANG_CALLS_PER_MINUTE="1"
    )
    said = " ".join(CODES.sub("", written).split())
    assert (code, market_open.requests) == (2, [])
    assert re.search(r"62 calls at 1 a minute, about \d+ rows, \d+ commits, 61 min; go on\? \[y/N\]", said)
    assert "hint: give --yes, or a shorter range" in said
    assert not (home / "warehouse" / "maang").exists()


@pytest.mark.parametrize(("flags", "typed", "asked"), [((), "y\n", True), (("--yes",), "", False)], ids=["asked", "told before"])
def test_with_a_yes_it_goes_on(flags: tuple[str, ...], typed: str, asked: bool, maang: Maang, market_open: PolygonServer) -> None:
    code, written = on_terminal("backfill", *RANGE, *OURS, *flags, typed=typed, program=ASKS)
    assert (code, "go on? [y/N]" in CODES.sub("", written)) == (0, asked)
    assert [len(rows) for rows in tables(maang)] == [3 * len(DAYS)] * 2


def test_an_answer_that_is_piped_in_is_none(maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maang_cli.cli.ASK_SECONDS", 0)
    done = maang("backfill", *RANGE, *OURS)
    assert (done.code, market_open.requests) == (2, [])
    assert "not begun: 14 sessions to fetch, 3 calls" in done.err
