"""What time it is in New York decides which sessions are over: across midnight, across six in the morning, across DST."""

from __future__ import annotations

import json
from datetime import date, datetime, tzinfo
from typing import Any, Self

import pytest

from maang_cli import backfill
from maang_cli.sessions import NEW_YORK
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row, session_end, session_start

TICKERS = ("META", "AAPL", "AMZN")
OURS = ("--tickers", ",".join(TICKERS))


class Clock(datetime):
    """The time as the commands take it, which stands still until a test moves it."""

    moment: datetime

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(cls.moment.timestamp(), tz)

    @classmethod
    def set(cls, text: str) -> None:
        """New York's time, ISO 8601."""
        cls.moment = datetime.fromisoformat(text).replace(tzinfo=NEW_YORK)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    """Put in the place of the commands' own: a test can't set the machine's clock."""
    for module in ("cli", "command"):
        monkeypatch.setattr(f"maang_cli.{module}.datetime", Clock)
    return Clock


def serve(polygon: PolygonServer, *days: date) -> None:
    polygon.days = {day: [row(ticker, day, v=day.toordinal() + 0.5) for ticker in TICKERS] for day in days}


def held(maang: Maang, first: str, last: str, table: str = "production") -> dict[str, int]:
    """Volume by session, each the same for all tickers."""
    shown = json.loads(maang("show", "--from", first, "--to", last, *OURS, "--table", table, "--json").out)
    rows: list[dict[str, Any]] = shown["rows"]
    assert len(rows) == len(TICKERS) * len({line["date"] for line in rows})
    return {line["date"]: line.get("volume") or line["last_7_days_volume"][-1] for line in rows}


SPRING = [date(2025, 3, day) for day in (5, 6, 7, 10, 11, 12)]
"""DST begins on Sunday the 9th."""
AUTUMN = [date(2025, 10, 29), date(2025, 10, 30), date(2025, 10, 31), *(date(2025, 11, day) for day in (3, 4, 5))]
"""It ends on Sunday 2 November."""


def test_the_vendor_times_sessions_by_new_york(polygon: PolygonServer) -> None:
    times = {date(2025, 3, 7): (5, 21), date(2025, 3, 10): (4, 20), date(2025, 10, 31): (4, 20), date(2025, 11, 3): (5, 21)}
    for day, (start, end) in times.items():
        midnight = (day - date(1970, 1, 1)).days * 86_400_000
        assert (session_start(day), session_end(day)) == (midnight + start * 3_600_000, midnight + end * 3_600_000)


@pytest.mark.parametrize("calls", ["range_calls", "grouped_calls"])
@pytest.mark.parametrize("days", [SPRING, AUTUMN], ids=["DST begins", "DST ends"])
def test_sessions_on_both_sides_of_a_dst_change_get_their_own_bars(
    days: list[date], calls: str, polygon: PolygonServer, maang: Maang, clock: type[Clock]
) -> None:
    serve(polygon, *days)
    # Four sessions of three tickers take a call a ticker, three a call a session.
    asked = days if calls == "range_calls" else days[2:5]
    clock.set(f"{days[-1]}T06:00")
    ends = ("--from", str(asked[0]), "--to", str(days[-1] if asked is days else asked[-1]))
    wanted = {str(day): day.toordinal() + 1 for day in asked if day < days[-1]}
    assert json.loads(maang("plan", *ends, *OURS, "--json").out)[calls] == 3
    assert maang("backfill", *ends, *OURS).code == 0
    assert held(maang, str(days[0]), str(days[-2])) == wanted
    assert held(maang, str(days[0]), str(days[-2]), "cumulative") == wanted


@pytest.mark.parametrize(
    ("now", "last"),
    [
        ("2025-03-08T05:59", "2025-03-06"),
        ("2025-03-08T06:00", "2025-03-07"),
        ("2025-03-11T05:59", "2025-03-07"),
        ("2025-03-11T06:00", "2025-03-10"),
        ("2025-11-01T05:59", "2025-10-30"),
        ("2025-11-01T06:00", "2025-10-31"),
        ("2025-11-04T05:59", "2025-10-31"),
        ("2025-11-04T06:00", "2025-11-03"),
    ],
)
def test_the_end_of_a_range_is_clamped_at_six_in_new_york_whatever_the_season(
    now: str, last: str, polygon: PolygonServer, maang: Maang, clock: type[Clock]
) -> None:
    serve(polygon, *SPRING, *AUTUMN)
    clock.set(now)
    first = str(SPRING[0] if now < "2025-06" else AUTUMN[0])
    done = maang("backfill", "--from", first, "--to", "2026-12-31", *OURS)
    assert done.code == 0, done.err
    assert f"note: 2026-12-31 is past the last finished session: taken as {last}" in done.err
    assert max(held(maang, first, last)) == last
    found = json.loads(maang("status", *OURS, "--json").out)
    assert (found["to"], found["last_finished"], found["whole"]) == (last, last, True)
    assert not any(last < request.split("?")[0][-10:] for request in polygon.requests)


@pytest.mark.parametrize("morning", ["2025-11-04T00:01", "2025-11-04T06:01"], ids=["midnight", "six"])
def test_a_clock_that_moves_on_during_a_backfill_does_not_change_what_it_does(
    morning: str, polygon: PolygonServer, maang: Maang, clock: type[Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "BATCH_ROWS", 6)
    serve(polygon, *AUTUMN)
    clock.set("2025-11-03T23:59")
    polygon.always = lambda path: clock.set(morning)
    asked = ("--from", "2025-10-29", "--to", "2025-11-05", *OURS)
    done = maang("backfill", *asked, "--json")
    assert (done.code, json.loads(done.out)["published"][-1]) == (0, "2025-10-31")
    again = maang("backfill", *asked, "--json")
    published = [] if morning.endswith("00:01") else ["2025-11-03"]
    assert (again.code, json.loads(again.out)["published"]) == (0, published)
