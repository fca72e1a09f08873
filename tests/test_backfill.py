"""Years of sessions: only what production lacks is fetched, a bad session holds no other back, any run may be killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from maang_cli import backfill, sessions, settings
from maang_cli.checks import AllowMissing
from maang_cli.pipeline import Request
from maang_cli.planner import Calls
from maang_cli.sources import SOURCES, spool
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Warehouse
from tests.conftest import Maang
from tests.polygon_server import Answer, PolygonServer, row

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 20))
TICKERS = ("META", "AAPL", "AMZN")
RANGE = ("--from", "2025-10-01", "--to", "2025-10-20")
OURS = ("--tickers", "META,AAPL,AMZN")


def bar(ticker: str, day: date, **values: object) -> dict[str, object]:
    """A bar that differs from ticker to ticker and from day to day."""
    number = (len(ticker) * 37 + ord(ticker[0]) * 11 + day.toordinal() * 17) % 97
    prices = {"o": number + 10, "c": number + 11.255, "h": number + 12, "l": number + 9}
    return row(ticker, day, **prices | {"v": number * 1000.5 + 1} | values)


@pytest.fixture
def market_open(polygon: PolygonServer) -> PolygonServer:
    polygon.days = {day: [bar(ticker, day) for ticker in (*TICKERS, "TSLA")] for day in DAYS}
    return polygon


def table(maang: Maang, name: str, *tickers: str) -> list[dict[str, Any]]:
    """A table's rows, without when they changed."""
    shown = json.loads(maang("show", *RANGE, "--tickers", ",".join(tickers or TICKERS), "--table", name, "--json").out)
    return [
        {key: value for key, value in line.items() if key not in ("insertion_timestamp", "updated_at")} for line in shown["rows"]
    ]


def tables(maang: Maang) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return table(maang, "production"), table(maang, "cumulative")


def status(maang: Maang, *flags: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(maang("status", *RANGE, *OURS, "--json", *flags).out)
    return found


@pytest.fixture(params=["local", "databricks"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The warehouse that the settings point to, one after the other."""
    if request.param == "databricks":
        request.getfixturevalue("databricks")
    monkeypatch.setenv("MAANG_WAREHOUSE", request.param)
    name: str = request.param
    return name


def test_a_backfill_makes_what_its_days_make_one_by_one(
    anywhere: str, maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = maang("backfill", *RANGE, *OURS, "--json")
    assert (done.code, len(json.loads(done.out)["published"])) == (0, len(DAYS))
    at_once = tables(maang)
    assert len(at_once[0]) == len(at_once[1]) == len(DAYS) * len(TICKERS)
    if anywhere == "local":
        assert {found["size"]["snapshots"] for found in status(maang)["tables"]} == {1}
    monkeypatch.setenv("MAANG_SCHEMA", "one_by_one")
    for day in reversed(DAYS[:9]):
        assert maang("run-day", "--date", str(day), *OURS).code == 0
    assert maang("backfill", *RANGE, *OURS).code == 0
    assert tables(maang) == at_once


def test_a_backfill_that_is_repeated_does_nothing(anywhere: str, maang: Maang, market_open: PolygonServer) -> None:
    assert maang("backfill", *RANGE, *OURS).code == 0
    market_open.requests.clear()
    again = maang("backfill", *RANGE, *OURS, "--json")
    assert (again.code, market_open.requests, json.loads(again.out)["published"]) == (0, [], [])
    assert maang("plan", *RANGE, *OURS).out == f"nothing to do: {len(DAYS)} sessions whole\n"
    assert status(maang)["whole"]


def test_a_new_ticker_is_added_beside_the_others(maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", *RANGE, *OURS)
    stamps = maang("show", *RANGE, *OURS, "--json").out
    market_open.requests.clear()
    assert maang("backfill", *RANGE, "--tickers", "META,AAPL,AMZN,TSLA").code == 0
    assert len(market_open.requests) == 1
    assert "TSLA" in market_open.requests[0]
    assert maang("show", *RANGE, *OURS, "--json").out == stamps
    assert len(table(maang, "cumulative", "TSLA")) == len(DAYS)


def test_a_refused_session_holds_no_other_back_and_is_published_once_it_is_mended(
    anywhere: str, maang: Maang, market_open: PolygonServer
) -> None:
    market_open.days[DAYS[4]] = [bar(ticker, DAYS[4], h=1) for ticker in TICKERS]
    done = maang("backfill", *RANGE, *OURS, "--json")
    report = json.loads(done.out)
    assert done.code == 5
    assert report["refused"] == [{"session": str(DAYS[4]), "checks": ["price_ranges"]}]
    assert f"1 of {len(DAYS)} sessions are not done: {DAYS[4]} refused (price_ranges)" in done.err
    found = status(maang)
    assert [gap["session"] for gap in found["gaps"]] == [str(DAYS[4])]
    assert [(left["table"], left["published"]) for left in found["staging"]] == [(report["staging"][0], False)]
    assert {line["date"] for line in table(maang, "cumulative")} == {str(day) for day in DAYS if day != DAYS[4]}
    market_open.days[DAYS[4]] = [bar(ticker, DAYS[4]) for ticker in TICKERS]
    assert maang("backfill", *RANGE, *OURS).code == 0
    found = status(maang)
    assert (found["whole"], found["staging"]) == (True, [])


def test_when_every_session_is_refused_the_code_is_3(maang: Maang, market_open: PolygonServer) -> None:
    for day in DAYS:
        market_open.days[day] = [bar(ticker, day, v=0) for ticker in TICKERS]
    done = maang("backfill", *RANGE, *OURS)
    assert (done.code, tables(maang)) == (3, ([], []))
    assert f"{DAYS[0]} to {DAYS[-1]} refused (volume)" in done.err


# Few tickers are a call each for the whole range; more tickers than sessions are a call a session.
NARROW, WIDE = TICKERS, tuple(f"T{number}" for number in range(len(DAYS) + 6))
shapes = pytest.mark.parametrize("tickers", [NARROW, WIDE], ids=["range calls", "grouped calls"])


def wide_open(polygon: PolygonServer, tickers: tuple[str, ...]) -> tuple[str, ...]:
    """Have Polygon serve these tickers; returns the flag that asks for them."""
    polygon.days = {day: [bar(ticker, day) for ticker in tickers] for day in DAYS}
    return ("--tickers", ",".join(tickers))


def held(maang: Maang, tickers: tuple[str, ...]) -> list[tuple[str, int]]:
    """The sessions of both tables, with how many of the tickers; where both hold the same."""
    counts = [Counter(line["date"] for line in table(maang, name, *tickers)) for name in ("production", "cumulative")]
    assert counts[0] == counts[1]
    return sorted(counts[0].items())


@shapes
def test_sessions_before_the_plans_history_are_named_and_the_rest_is_done(
    tickers: tuple[str, ...], maang: Maang, polygon: PolygonServer
) -> None:
    ours = wide_open(polygon, tickers)
    polygon.history = DAYS[5]
    for published in (len(DAYS) - 5, 0):
        done = maang("backfill", *RANGE, *ours, "--json")
        assert (done.code, len(json.loads(done.out)["published"])) == (5, published)
        assert f"5 of {len(DAYS)} sessions are not done: {DAYS[0]} to {DAYS[4]} 127.0.0.1" in done.err
        assert "data timeframe" in done.err
        assert [gap["session"] for gap in json.loads(done.out)["failed"]] == [str(day) for day in DAYS[:5]]
        assert held(maang, tickers) == [(str(day), len(tickers)) for day in DAYS[5:]]


@shapes
def test_a_range_that_lies_before_the_plans_history_is_2(tickers: tuple[str, ...], maang: Maang, polygon: PolygonServer) -> None:
    ours = wide_open(polygon, tickers)
    polygon.history = date(2025, 11, 1)
    done = maang("backfill", *RANGE, *ours)
    assert (done.code, held(maang, tickers)) == (2, [])
    assert f"{len(DAYS)} of {len(DAYS)} sessions are not done: {DAYS[0]} to {DAYS[-1]} 127.0.0.1" in done.err
    assert "hint: ask for a session within the plan's history, or change the plan" in done.err


@pytest.mark.parametrize("whole", [True, False], ids=["before the first byte", "in the middle of the answer"])
@shapes
def test_a_call_that_stalls_is_4_and_the_next_run_does_the_rest(
    tickers: tuple[str, ...], whole: bool, maang: Maang, polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "0.5")
    monkeypatch.setattr(backfill, "BATCH_ROWS", 3 * len(tickers))
    ours = wide_open(polygon, tickers)
    stalled = "AAPL" if tickers == NARROW else str(DAYS[7])
    stall = Answer(delay=60) if whole else Answer(body=b"x" * 600, drip=0.1)
    polygon.always = lambda path: stall if stalled in path else None
    done = maang("backfill", *RANGE, *ours)
    assert (done.code, "gave no usable answer within 0.5 s" in done.err) == (4, True)
    # Ranges come before the first batch; the batch of a session that stalls is the third.
    assert held(maang, tickers) == [(str(day), len(tickers)) for day in DAYS[: 0 if tickers == NARROW else 6]]
    assert maang("status", *RANGE, *ours).code == 5
    polygon.always = lambda path: None
    polygon.requests.clear()
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "30")
    assert maang("backfill", *RANGE, *ours).code == 0
    assert len(polygon.requests) == (3 if tickers == NARROW else len(DAYS) - 6)
    assert maang("status", *RANGE, *ours).code == 0


@shapes
def test_refusals_at_random_cost_time_and_nothing_else(
    tickers: tuple[str, ...], maang: Maang, polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "30")
    monkeypatch.setattr(backfill, "BATCH_ROWS", 3 * len(tickers))
    ours = wide_open(polygon, tickers)
    chance = random.Random(1)
    polygon.always = lambda path: Answer(429, headers={"Retry-After": "0"}) if chance.random() < 0.4 else None
    done = maang("backfill", *RANGE, *ours, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["calls"] == len(polygon.requests) > min(len(tickers), len(DAYS))
    assert "HTTP 429; trying again in" in done.err
    assert held(maang, tickers) == [(str(day), len(tickers)) for day in DAYS]
    assert {line["ticker"]: line["volume"] for line in table(maang, "production", *tickers) if line["date"] == str(DAYS[3])} == {
        ticker: int(Decimal(str(bar(ticker, DAYS[3])["v"])).quantize(Decimal(1), ROUND_HALF_UP)) for ticker in tickers
    }


def test_a_session_that_is_not_published_yet_is_4_and_the_rest_is_done(maang: Maang, market_open: PolygonServer) -> None:
    del market_open.days[DAYS[-1]]
    assert maang("backfill", *RANGE, *OURS).code == 4
    assert {line["date"] for line in table(maang, "production")} == {str(day) for day in DAYS[:-1]}


def test_missing_means_the_same_to_plan_gate_and_status(anywhere: str, maang: Maang, market_open: PolygonServer) -> None:
    for day in DAYS[:6]:
        market_open.days[day] = [line for line in market_open.days[day] if line["T"] != "AMZN"]
    strict = maang("backfill", *RANGE, *OURS, "--json")
    assert (strict.code, [gap["session"] for gap in json.loads(strict.out)["refused"]]) == (5, [str(day) for day in DAYS[:6]])
    lenient = maang("backfill", *RANGE, *OURS, "--allow-missing", "AMZN", "--json")
    assert (lenient.code, json.loads(lenient.out)["absent"]) == (0, {"AMZN": 6})
    excused = [{"session": str(day), "tickers": ["AMZN"]} for day in DAYS[:6]]
    assert (status(maang)["whole"], status(maang)["gaps"]) == (False, excused)
    allowed = status(maang, "--allow-missing", "34%")
    assert (allowed["whole"], allowed["excused"], allowed["gaps"]) == (True, excused, [])
    assert maang("plan", *RANGE, *OURS, "--allow-missing", "AMZN").out.startswith("nothing to do")


@pytest.mark.parametrize(
    ("allow", "gap", "fine"),
    [
        (AllowMissing(), 1, False),
        (AllowMissing(frozenset("AB")), 2, True),
        (AllowMissing(frozenset("AB")), 3, False),
        (AllowMissing(percent=Decimal(20)), 2, True),
        (AllowMissing(percent=Decimal(20)), 3, False),
    ],
)
def test_what_may_be_missing_is_what_the_gate_lets_go(allow: AllowMissing, gap: int, fine: bool) -> None:
    request = Request(tuple("ABCDEFGHIJ"), (DAYS[0],), allow)
    assert backfill.may_lack(request, frozenset("ABCDEFGHIJ"[:gap])) is fine


def test_a_share_is_of_all_tickers_where_only_some_are_fetched(maang: Maang, market_open: PolygonServer) -> None:
    four = ("--tickers", "META,AAPL,AMZN,GONE", "--allow-missing", "25%")
    maang("backfill", *RANGE, "--tickers", "META,AAPL")
    assert maang("backfill", *RANGE, *four).code == 0
    assert len(table(maang, "production")) == len(DAYS) * 3


def test_windows_that_are_stale_or_missing_are_found_and_made_without_a_call(
    anywhere: str, maang: Maang, market_open: PolygonServer
) -> None:
    maang("backfill", *RANGE, *OURS)
    right = table(maang, "cumulative")
    market_open.days[DAYS[2]][0] = bar("META", DAYS[2], c=11, o=11, h=300, l=1)
    for step in ("ingest", "promote", "drop-staging"):
        assert maang(step, "--date", str(DAYS[2]), *OURS).code == 0
    found = maang("status", *RANGE, *OURS, "--json")
    assert found.code == 5
    assert json.loads(found.out)["windows"] == [{"session": str(day), "missing": 0, "stale": 1} for day in DAYS[2:9]]
    market_open.requests.clear()
    assert maang("backfill", *RANGE, *OURS).code == 0
    assert (market_open.requests, status(maang)["whole"]) == ([], True)
    assert table(maang, "cumulative") != right


def test_refetch_takes_revised_bars(maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", *RANGE, *OURS)
    market_open.days[DAYS[3]][1] = bar("AAPL", DAYS[3], v=77)
    assert json.loads(maang("backfill", *RANGE, *OURS, "--json").out)["production"]["updated"] == 0
    again = json.loads(maang("backfill", *RANGE, *OURS, "--refetch", "--json").out)
    assert (again["production"]["updated"], again["cumulative"]["updated"]) == (1, 7)


def test_a_plan_says_what_a_backfill_then_does(maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "600")
    plan = json.loads(maang("plan", *RANGE, *OURS, "--json").out)
    assert market_open.requests == []
    done = json.loads(maang("backfill", *RANGE, *OURS, "--json").out)
    assert (plan["calls"], plan["rows"], plan["calls_per_minute"]) == (3, len(DAYS) * 3, 600)
    assert (done["calls"], done["production"]["inserted"], len(market_open.requests)) == (3, plan["rows"], 3)


@pytest.mark.parametrize("refetch", [(), ("--refetch",)], ids=["", "refetch"])
def test_what_a_killed_run_was_told_is_not_asked_again_but_to_refetch(
    refetch: tuple[str, ...], maang: Maang, polygon: PolygonServer, home: Path
) -> None:
    names = ("A", "B", "C", "D", "E", "F")
    ours = wide_open(polygon, names)
    gone = threading.Event()

    def hang(path: str) -> None:
        if "/E/range" in path or "/F/range" in path:
            gone.wait(60)

    polygon.always = hang
    kept = home / "answers" / "maang"

    def told() -> int:
        with suppress(FileNotFoundError), kept.open("rb") as file:
            return len(spool._scan(file)[0])
        return 0

    argv = [sys.executable, "-m", "maang_cli", "backfill", *RANGE, *ours]
    with subprocess.Popen(argv, env=os.environ | {"MAANG_RETRY_SECONDS": "60"}) as process:
        while told() < 4 and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    gone.set()
    polygon.requests.clear()
    if not refetch:
        assert maang("plan", *RANGE, *ours).out.startswith(
            f"{len(DAYS)} sessions to fetch, 2 calls, 4 answers of an earlier run in hand"
        )
    done = maang("backfill", *RANGE, *ours, *refetch, "--json")
    assert (done.code, json.loads(done.out)["calls"]) == (0, 6 if refetch else 2), done.err
    assert ("note: answers of an earlier run in hand: 4\n" in done.err) != bool(refetch)
    assert held(maang, names) == [(str(day), len(names)) for day in DAYS]
    assert kept.exists() == bool(refetch)
    assert maang("status", *RANGE, *ours).code == 0


def test_a_plan_of_more_than_an_hour_is_not_begun_without_a_yes(
    maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "1")
    wide = ",".join(f"T{number}" for number in range(300))
    done = maang("backfill", "--from", "2024-01-01", "--to", "2025-10-20", "--tickers", wide)
    assert (done.code, market_open.requests) == (2, [])
    assert "300 calls at 1 a minute" in done.err
    assert "hint: give --yes" in done.err


def cut(missing: dict[date, frozenset[str]], grouped: Sequence[date] = (), calls: int = 100) -> list[tuple[object, ...]]:
    return [(batch.tickers, batch.sessions) for batch in backfill.cut(missing, Calls(tuple(grouped)), calls)]


def test_batches_hold_sessions_that_lack_the_same_and_are_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "BATCH_ROWS", 6)
    some, all_of_them = frozenset(["A"]), frozenset(["A", "B", "C"])
    missing = {day: some if number in (3, 4) else all_of_them for number, day in enumerate(DAYS[:8])}
    assert cut(missing) == [
        (("A", "B", "C"), DAYS[0:2]),
        (("A", "B", "C"), (DAYS[2], DAYS[5])),
        (("A",), DAYS[3:5]),
        (("A", "B", "C"), DAYS[6:8]),
    ]


def test_a_batch_waits_for_so_many_calls_and_no_more() -> None:
    missing = dict.fromkeys(DAYS[:8], frozenset(["A"]))
    assert cut(missing, grouped=DAYS[:8], calls=3) == [(("A",), days) for days in (DAYS[0:3], DAYS[3:6], DAYS[6:8])]
    assert cut(missing, grouped=DAYS[1:4:2], calls=1) == [(("A",), days) for days in (DAYS[0:3], DAYS[3:8])]
    assert cut(missing, calls=1) == [(("A",), DAYS[:8])]


def test_a_batch_takes_ten_minutes_of_calls(maang: Maang, polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = ("--tickers", ",".join(f"T{number}" for number in range(300)))
    year = ("--from", "2024-10-01", "--to", "2025-09-30")
    for pace, batches in (("", 3), ("5", 5), ("1000", 1)):
        monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", pace)
        plan = json.loads(maang("plan", *year, *wide, "--json").out)
        assert (plan["grouped_calls"], plan["batches"]) == (250, batches)
    assert polygon.requests == []


def test_many_batches_make_the_same_tables(maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    maang("backfill", *RANGE, *OURS)
    at_once = tables(maang)
    monkeypatch.setattr(backfill, "BATCH_ROWS", 12)
    monkeypatch.setattr(backfill, "COMPARED_ROWS", 9)
    monkeypatch.setenv("MAANG_SCHEMA", "in_batches")
    assert maang("backfill", *RANGE, *OURS).code == 0
    assert tables(maang) == at_once
    assert status(maang)["whole"]


@pytest.fixture
def warehouse(home: Path) -> Iterator[Warehouse]:
    chosen = settings.load()
    with closing(WAREHOUSES["local"](chosen)) as opened:
        yield opened


def test_two_backfills_of_overlapping_ranges_may_run_at_once(
    maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_ROWS", 9)
    failures: list[BaseException] = []

    def one(first: int, last: int) -> None:
        chosen = settings.load()
        request = Request(TICKERS, DAYS[first:last])
        try:
            with closing(WAREHOUSES["local"](chosen)) as opened, closing(SOURCES["polygon"](chosen)) as source:
                backfill.run(source, opened, backfill.plan(source, opened, request), lambda _tally: None)
        except BaseException as exc:  # noqa: BLE001 - looked at below
            failures.append(exc)

    threads = [threading.Thread(target=one, args=ends) for ends in ((0, 10), (3, len(DAYS)), (0, 10))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = status(maang)
    assert (found["whole"], found["staging"]) == (True, [])


def test_status_of_an_empty_warehouse_says_what_to_do(maang: Maang) -> None:
    done = maang("status")
    assert (done.code, "maang run-day" in done.err) == (2, True)


def test_status_without_dates_begins_with_the_first_session_held(maang: Maang, market_open: PolygonServer) -> None:
    maang("run-day", "--date", str(DAYS[3]), *OURS)
    found = json.loads(maang("status", *OURS, "--json").out)
    assert (found["from"], found["gaps"][0]["session"]) == (str(DAYS[3]), str(DAYS[4]))
    assert found["to"] == found["last_finished"]
    assert found["next_due_at"].endswith("06:00 New York")


def test_status_for_people_names_gaps_by_session_and_ticker(maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", "--from", str(DAYS[0]), "--to", str(DAYS[3]), *OURS)
    maang("run-day", "--date", str(DAYS[4]), "--tickers", "META")
    done = maang("status", "--from", str(DAYS[0]), "--to", str(DAYS[5]), *OURS)
    assert done.code == 5
    assert f"gap: {DAYS[4]} (1 session): AAPL, AMZN" in done.out
    assert f"gap: {DAYS[5]} (1 session): AAPL, AMZN, META" in done.out
    assert "hint: fill them: maang backfill --from 2025-10-01 --to 2025-10-08 --tickers META,AAPL,AMZN" in done.err


def test_maintain_expires_what_is_beyond_the_settings(
    maang: Maang, market_open: PolygonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS[:4]:
        maang("run-day", "--date", str(day), *OURS)
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "1")
    done = maang("maintain", "--json")
    assert [(line["snapshots"], line["files"] > 0) for line in json.loads(done.out)["tidied"]] == [(3, True), (3, True)]
    assert {found["size"]["snapshots"] for found in status(maang)["tables"]} == {1}
    assert len(table(maang, "production")) == 12


def test_maintain_removes_old_files_that_nothing_reaches_and_no_others(
    maang: Maang, market_open: PolygonServer, home: Path
) -> None:
    import os

    maang("run-day", "--date", str(DAYS[0]), *OURS)
    folder = home / "warehouse" / "maang" / "daily_stock_prices"
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    old, new, foreign = folder / "data" / "old.parquet", folder / "data" / "new.parquet", folder / "data" / "notes.txt"
    for path in (old, new, foreign):
        path.write_bytes(b"x")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    assert maang("maintain").code == 0
    assert [path.exists() for path in (old, new, foreign)] == [False, True, True]
    assert len(table(maang, "production")) == 3


def test_on_databricks_maintenance_is_the_platforms_work(databricks: object, maang: Maang) -> None:
    assert maang("maintain").out == "nothing to do: databricks looks after its tables by itself\n"
