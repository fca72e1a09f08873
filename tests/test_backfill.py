"""Backfills: only missing bars are fetched, a bad session does not stop the others, and a killed run can be repeated.

These run on the local warehouse. tests/warehouses/databricks/test_backfill.py shows that the other one has the same tables then.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from maang_cli import backfill, sessions
from maang_cli.errors import SourceFailed
from maang_cli.sources.base import Calls
from tests import batches
from tests.conftest import Maang
from tests.forks import fork_server
from tests.polygon_server import Answer, PolygonServer, row

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 20))
TICKERS = ("META", "AAPL", "AMZN")
RANGE = ("--from", "2025-10-01", "--to", "2025-10-20")
OURS = ("--tickers", "META,AAPL,AMZN")


def bar(ticker: str, day: date, **values: object) -> dict[str, object]:
    """A bar whose values depend on its ticker and day."""
    number = (len(ticker) * 37 + ord(ticker[0]) * 11 + day.toordinal() * 17) % 97
    prices = {"o": number + 300, "c": number + 301.255, "h": number + 302, "l": number + 299, "vw": number + 300.5}
    return row(ticker, day, **prices | {"v": number * 1000.5 + 100_000 + sum(map(ord, ticker))} | values)


@pytest.fixture
def market_open(polygon: PolygonServer) -> PolygonServer:
    polygon.days = {day: [bar(ticker, day) for ticker in (*TICKERS, "TSLA")] for day in DAYS}
    return polygon


def table(maang: Maang, name: str, *tickers: str) -> list[dict[str, Any]]:
    """A table's rows, without their stamps."""
    shown = maang("show", *RANGE, "--tickers", ",".join(tickers or TICKERS), "--table", name, "--json").result["rows"]
    return [{key: value for key, value in line.items() if key not in ("insertion_timestamp", "updated_at")} for line in shown]


def tables(maang: Maang) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return table(maang, "production"), table(maang, "cumulative")


def status(maang: Maang, *flags: str) -> dict[str, Any]:
    found: dict[str, Any] = maang("status", *RANGE, *OURS, "--json", *flags).result
    return found


def test_backfill_fills_the_tables_as_single_days_do(
    maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = maang("backfill", *RANGE, *OURS, "--json")
    assert (done.code, len(done.result["published"])) == (0, len(DAYS))
    backfilled = tables(maang)
    assert len(backfilled[0]) == len(backfilled[1]) == len(DAYS) * len(TICKERS)
    assert {found["size"]["snapshots"] for found in status(maang)["tables"]} == {1}
    monkeypatch.setenv("MAANG_SCHEMA", "one_by_one")
    for day in reversed(DAYS[:9]):
        assert maang("run-day", "--date", str(day), *OURS).code == 0
    assert maang("backfill", *RANGE, *OURS).code == 0
    assert tables(maang) == backfilled


def test_second_backfill_does_nothing(maang: Maang, market_open: PolygonServer) -> None:
    assert maang("backfill", *RANGE, *OURS).code == 0
    market_open.requests.clear()
    again = maang("backfill", *RANGE, *OURS, "--json")
    assert (again.code, market_open.requests, again.result["published"]) == (0, [], [])
    assert maang("plan", *RANGE, *OURS).out.startswith(f"nothing to do: {len(DAYS)} sessions complete\n")
    assert status(maang)["complete"]


def test_new_ticker_is_added_without_changing_the_others(maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", *RANGE, *OURS)
    stamps = maang("show", *RANGE, *OURS, "--json").out
    market_open.requests.clear()
    assert maang("backfill", *RANGE, "--tickers", "META,AAPL,AMZN,TSLA").code == 0
    assert len(market_open.requests) == 1
    assert "TSLA" in market_open.requests[0]
    assert maang("show", *RANGE, *OURS, "--json").out == stamps
    assert len(table(maang, "cumulative", "TSLA")) == len(DAYS)


def test_refused_session_does_not_stop_the_others_and_is_published_after_a_correction(
    maang: Maang, market_open: PolygonServer
) -> None:
    market_open.days[DAYS[4]] = [bar(ticker, DAYS[4], h=1) for ticker in TICKERS]
    done = maang("backfill", *RANGE, *OURS, "--json")
    report = done.result
    assert (done.code, done.document["outcome"]) == (5, "partial")
    assert report["refused"] == [{"session": str(DAYS[4]), "checks": ["price_ranges"]}]
    assert f"1 of {len(DAYS)} sessions are not done: {DAYS[4]} refused (price_ranges)" in done.err
    found = status(maang)
    assert [each["session"] for each in found["missing"]] == [str(DAYS[4])]
    assert [(each["table"], each["unpublished"]) for each in found["staging"]] == [(report["staging"][0], [str(DAYS[4])])]
    assert {line["date"] for line in table(maang, "cumulative")} == {str(day) for day in DAYS if day != DAYS[4]}
    market_open.days[DAYS[4]] = [bar(ticker, DAYS[4]) for ticker in TICKERS]
    assert maang("backfill", *RANGE, *OURS).code == 0
    found = status(maang)
    assert (found["complete"], found["staging"]) == (True, [])


def test_refusal_of_every_session_exits_3(maang: Maang, market_open: PolygonServer) -> None:
    for day in DAYS:
        market_open.days[day] = [bar(ticker, day, v=0) for ticker in TICKERS]
    done = maang("backfill", *RANGE, *OURS)
    assert (done.code, tables(maang)) == (3, ([], []))
    assert f"{DAYS[0]} to {DAYS[-1]} refused (volume)" in done.err


# Few tickers take one call each for the whole range. More tickers than sessions take one call a session.
NARROW, WIDE = TICKERS, tuple(f"T{number}" for number in range(len(DAYS) + 6))
shapes = pytest.mark.parametrize("tickers", [NARROW, WIDE], ids=["range calls", "grouped calls"])


def wide_open(polygon: PolygonServer, tickers: tuple[str, ...]) -> tuple[str, ...]:
    """Have Polygon serve these tickers; returns the flag that requests them."""
    polygon.days = {day: [bar(ticker, day) for ticker in tickers] for day in DAYS}
    return ("--tickers", ",".join(tickers))


def stored(maang: Maang, tickers: tuple[str, ...]) -> list[tuple[str, int]]:
    """The sessions of both tables, with the number of tickers, which must be the same in both."""
    counts = [Counter(line["date"] for line in table(maang, name, *tickers)) for name in ("production", "cumulative")]
    assert counts[0] == counts[1]
    return sorted(counts[0].items())


@shapes
def test_sessions_before_the_history_of_the_plan_are_listed_and_the_others_are_done(
    tickers: tuple[str, ...], maang: Maang, polygon: PolygonServer
) -> None:
    ours = wide_open(polygon, tickers)
    polygon.history = DAYS[5]
    for published in (len(DAYS) - 5, 0):
        done = maang("backfill", *RANGE, *ours, "--json")
        assert (done.code, len(done.result["published"])) == (5, published)
        assert f"5 of {len(DAYS)} sessions are not done: {DAYS[0]} to {DAYS[4]} 127.0.0.1" in done.err
        assert "data timeframe" in done.err
        assert [each["session"] for each in done.result["failed"]] == [str(day) for day in DAYS[:5]]
        assert stored(maang, tickers) == [(str(day), len(tickers)) for day in DAYS[5:]]


@shapes
def test_range_before_the_history_of_the_plan_exits_2(tickers: tuple[str, ...], maang: Maang, polygon: PolygonServer) -> None:
    ours = wide_open(polygon, tickers)
    polygon.history = date(2025, 11, 1)
    done = maang("backfill", *RANGE, *ours)
    assert (done.code, stored(maang, tickers)) == (2, [])
    assert f"{len(DAYS)} of {len(DAYS)} sessions are not done: {DAYS[0]} to {DAYS[-1]} 127.0.0.1" in done.err
    assert "hint: request a session within the plan's history, or change the plan" in done.err


@pytest.mark.parametrize("silent", [True, False], ids=["before the first byte", "in the middle of the answer"])
@shapes
def test_call_that_stalls_exits_4_and_the_next_run_finishes(
    tickers: tuple[str, ...], silent: bool, maang: Maang, polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "3")  # all other calls must be done in this time, on a busy machine too
    ours = wide_open(polygon, tickers)
    stalled = "AAPL" if tickers == NARROW else str(DAYS[7])
    stall = Answer(delay=60) if silent else Answer(body=b"x" * 600, drip=0.1)
    polygon.always = lambda path: stall if stalled in path else None
    with pytest.raises(SourceFailed, match="gave no usable answer within 3 s") as failed:
        batches.run(DAYS, 3 * len(tickers), tickers=ours[1])
    assert failed.value.exit_code == 4
    # Range calls come before the first batch. The session that stalls is in the third batch.
    assert stored(maang, tickers) == [(str(day), len(tickers)) for day in DAYS[: 0 if tickers == NARROW else 6]]
    assert maang("status", *RANGE, *ours).code == 5
    polygon.always = lambda path: None
    polygon.requests.clear()
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "30")
    assert maang("backfill", *RANGE, *ours).code == 0
    assert len(polygon.requests) == (3 if tickers == NARROW else len(DAYS) - 6)
    assert maang("status", *RANGE, *ours).code == 0


@shapes
def test_random_http_429_answers_only_cost_time(
    tickers: tuple[str, ...],
    maang: Maang,
    polygon: PolygonServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "30")
    ours = wide_open(polygon, tickers)
    chance = random.Random(1)
    polygon.always = lambda path: Answer(429, headers={"Retry-After": "0"}) if chance.random() < 0.4 else None
    done = batches.run(DAYS, 3 * len(tickers), tickers=ours[1])
    assert done.calls == len(polygon.requests) + len(polygon.split_requests) > min(len(tickers), len(DAYS))
    assert "HTTP 429; trying again in" in caplog.text
    assert stored(maang, tickers) == [(str(day), len(tickers)) for day in DAYS]
    assert {line["ticker"]: line["volume"] for line in table(maang, "production", *tickers) if line["date"] == str(DAYS[3])} == {
        ticker: int(Decimal(str(bar(ticker, DAYS[3])["v"])).quantize(Decimal(1), ROUND_HALF_UP)) for ticker in tickers
    }


def test_session_that_is_not_served_yet_exits_4_and_the_others_are_done(maang: Maang, market_open: PolygonServer) -> None:
    del market_open.days[DAYS[-1]]
    assert maang("backfill", *RANGE, *OURS).code == 4
    assert {line["date"] for line in table(maang, "production")} == {str(day) for day in DAYS[:-1]}


def test_allowed_share_is_of_all_tickers_even_if_only_some_are_fetched(maang: Maang, market_open: PolygonServer) -> None:
    four = ("--tickers", "META,AAPL,AMZN,GONE", "--allow-missing", "25%")
    maang("backfill", *RANGE, "--tickers", "META,AAPL")
    assert maang("backfill", *RANGE, *four).code == 0
    assert len(table(maang, "production")) == len(DAYS) * 3


def test_refetch_publishes_revised_bars(maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", *RANGE, *OURS)
    market_open.days[DAYS[3]][1] = bar("AAPL", DAYS[3], v=77)
    assert maang("backfill", *RANGE, *OURS, "--json").result["production"]["updated"] == 0
    again = maang("backfill", *RANGE, *OURS, "--refetch", "--json").result
    assert (again["production"]["updated"], again["cumulative"]["updated"]) == (1, 7)


def test_plan_shows_what_a_backfill_then_does(maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "600")
    plan = maang("plan", *RANGE, *OURS, "--json").result
    assert market_open.requests == []
    done = maang("backfill", *RANGE, *OURS, "--json").result
    assert (plan["calls"], plan["rows"], plan["calls_per_minute"]) == (4, len(DAYS) * 3, 600)
    assert (done["calls"], done["production"]["inserted"], len(market_open.requests)) == (4, plan["rows"], 3)


@pytest.mark.parametrize("refetch", [(), ("--refetch",)], ids=["", "refetch"])
def test_answers_of_a_killed_run_are_reused_unless_refetch_is_given(
    refetch: tuple[str, ...], maang: Maang, polygon: PolygonServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("A", "B", "C", "D", "E", "F")
    ours = wide_open(polygon, names)
    killed = threading.Event()

    def hang(path: str) -> None:
        if "/E/range" in path or "/F/range" in path:
            killed.wait(60)

    polygon.always = hang
    cache = home / "answers" / "maang.db"
    vendor = polygon.url.removeprefix("http://").encode()

    def cached() -> int:
        """How many answers the file has. The run has locked it, so its bytes are read: each answer names its vendor."""
        return cache.read_bytes().count(vendor) if cache.exists() else 0

    monkeypatch.setenv("MAANG_RETRY_SECONDS", "60")
    with fork_server().start("backfill", *RANGE, *ours) as process:
        while cached() < 4 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)  # the last answer may still be in the middle of its commit
        process.kill()
    killed.set()
    polygon.requests.clear()
    if not refetch:
        line = maang("plan", *RANGE, *ours).out
        assert line.startswith(f"{len(DAYS)} sessions to fetch, 3 calls, reusing 4 answers from an earlier run, ")
    done = maang("backfill", *RANGE, *ours, *refetch, "--json")
    assert (done.code, done.result["calls"]) == (0, 7 if refetch else 3), done.err
    assert ("note: reusing 4 answers from an earlier run\n" in done.err) != bool(refetch)
    assert stored(maang, names) == [(str(day), len(names)) for day in DAYS]
    assert cache.exists() == bool(refetch)
    assert maang("status", *RANGE, *ours).code == 0


def test_backfill_of_more_than_an_hour_needs_yes(
    maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "1")
    wide = ",".join(f"T{number}" for number in range(300))
    done = maang("backfill", "--from", "2024-01-01", "--to", "2025-10-20", "--tickers", wide)
    assert (done.code, market_open.requests) == (2, [])
    assert "error: not started: this would take about 5.0 h (301 calls at 1 a minute)\n" in done.err
    assert "hint: give --yes" in done.err


def cut(
    lacking: dict[date, frozenset[str]], grouped: Sequence[date] = (), calls: int = 100, rows: int = 1000
) -> list[tuple[object, ...]]:
    return [(batch.tickers, batch.sessions) for batch in backfill.cut(lacking, Calls(tuple(grouped)), calls, rows)]


def test_batch_has_sessions_that_lack_the_same_tickers_and_a_limited_number_of_rows() -> None:
    some, all_of_them = frozenset(["A"]), frozenset(["A", "B", "C"])
    lacking = {day: some if number in (3, 4) else all_of_them for number, day in enumerate(DAYS[:8])}
    assert cut(lacking, rows=6) == [
        (("A", "B", "C"), DAYS[0:2]),
        (("A", "B", "C"), (DAYS[2], DAYS[5])),
        (("A",), DAYS[3:5]),
        (("A", "B", "C"), DAYS[6:8]),
    ]


def test_batch_waits_for_a_limited_number_of_calls() -> None:
    lacking = dict.fromkeys(DAYS[:8], frozenset(["A"]))
    assert cut(lacking, grouped=DAYS[:8], calls=3) == [(("A",), days) for days in (DAYS[0:3], DAYS[3:6], DAYS[6:8])]
    assert cut(lacking, grouped=DAYS[1:4:2], calls=1) == [(("A",), days) for days in (DAYS[0:3], DAYS[3:8])]
    assert cut(lacking, calls=1) == [(("A",), DAYS[:8])]


def test_batch_takes_at_most_ten_minutes_of_calls(maang: Maang, polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = ("--tickers", ",".join(f"T{number}" for number in range(300)))
    year = ("--from", "2024-10-01", "--to", "2025-09-30")
    for pace, number in (("", 3), ("5", 5), ("1000", 1)):
        monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", pace)
        plan = maang("plan", *year, *wide, "--json").result
        assert (plan["grouped_calls"], plan["batches"]) == (250, number)
    assert polygon.requests == []


def test_many_batches_fill_the_tables_as_one(maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    maang("backfill", *RANGE, *OURS)
    in_one = tables(maang)
    monkeypatch.setenv("MAANG_SCHEMA", "in_batches")
    assert len(batches.run(DAYS, 12, tickers=OURS[1]).plan.batches) == 4
    assert tables(maang) == in_one
    assert status(maang)["complete"]


def test_backfills_of_overlapping_ranges_may_run_at_the_same_time(
    maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "30")  # three runs share the machine
    ranges = [DAYS[first:last] for first, last in ((0, 10), (3, len(DAYS)), (0, 10))]
    assert batches.run_at_the_same_time(ranges, 9, tickers=OURS[1]) == []
    found = status(maang)
    assert (found["complete"], found["staging"]) == (True, [])
