"""The time in New York decides which sessions are final: at midnight, at 6 in the morning, and when DST begins or ends."""

from __future__ import annotations

from datetime import date, datetime, tzinfo
from typing import Any, Self

import pytest

from maang_cli.sessions import NEW_YORK
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row, session_end, session_start

TICKERS = ("META", "AAPL", "AMZN")
OURS = ("--tickers", ",".join(TICKERS))


class Clock(datetime):
    """The commands' clock. It stands still until a test moves it."""

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
    """Replaces the commands' clock, because a test can't set the machine's."""
    for module in ("commands", "context"):
        monkeypatch.setattr(f"maang_cli.cli.{module}.datetime", Clock)
    return Clock


def serve(polygon: PolygonServer, *days: date) -> None:
    polygon.days = {
        day: [row(ticker, day, v=day.toordinal() + 0.5, n=n, h=11 + n / 100) for n, ticker in enumerate(TICKERS)] for day in days
    }


def stored(maang: Maang, first: str, last: str, table: str = "production") -> dict[str, int]:
    """Volume by session; it is the same for all tickers."""
    shown = maang("show", "--from", first, "--to", last, *OURS, "--table", table, "--json")
    rows: list[dict[str, Any]] = shown.result["rows"]
    assert len(rows) == len(TICKERS) * len({line["date"] for line in rows})
    return {line["date"]: line.get("volume") or line["last_7_days_volume"][-1] for line in rows}


SPRING = [date(2025, 3, day) for day in (5, 6, 7, 10, 11, 12)]
"""DST begins on Sunday the 9th."""
AUTUMN = [date(2025, 10, 29), date(2025, 10, 30), date(2025, 10, 31), *(date(2025, 11, day) for day in (3, 4, 5))]
"""DST ends on Sunday 2 November."""


def test_test_server_times_sessions_by_new_york(polygon: PolygonServer) -> None:
    times = {date(2025, 3, 7): (5, 21), date(2025, 3, 10): (4, 20), date(2025, 10, 31): (4, 20), date(2025, 11, 3): (5, 21)}
    for day, (start, end) in times.items():
        midnight = (day - date(1970, 1, 1)).days * 86_400_000
        assert (session_start(day), session_end(day)) == (midnight + start * 3_600_000, midnight + end * 3_600_000)


@pytest.mark.parametrize("calls", ["range_calls", "grouped_calls"])
@pytest.mark.parametrize("days", [SPRING, AUTUMN], ids=["DST begins", "DST ends"])
def test_sessions_before_and_after_a_dst_change_get_their_own_bars(
    days: list[date], calls: str, polygon: PolygonServer, maang: Maang, clock: type[Clock]
) -> None:
    serve(polygon, *days)
    # More sessions than tickers: one call a ticker. Otherwise: one call a session.
    selected = days if calls == "range_calls" else days[2:5]
    clock.set(f"{days[-1]}T06:00")
    ends = ("--from", str(selected[0]), "--to", str(selected[-1]))
    wanted = {str(day): day.toordinal() + 1 for day in selected if day < days[-1]}
    assert maang("plan", *ends, *OURS, "--json").result[calls] == 3
    assert maang("backfill", *ends, *OURS).code == 0
    assert stored(maang, str(days[0]), str(days[-2])) == wanted
    assert stored(maang, str(days[0]), str(days[-2]), "cumulative") == wanted


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
def test_range_is_cut_at_6_in_new_york_in_summer_and_winter(
    now: str, last: str, polygon: PolygonServer, maang: Maang, clock: type[Clock]
) -> None:
    serve(polygon, *SPRING, *AUTUMN)
    clock.set(now)
    first = str(SPRING[0] if now < "2025-06" else AUTUMN[0])
    done = maang("backfill", "--from", first, "--to", "2026-12-31", *OURS)
    assert done.code == 0, done.err
    assert f"note: 2026-12-31 is after the last final session, so the range ends on {last}" in done.err
    assert max(stored(maang, first, last)) == last
    found = maang("status", *OURS, "--json")
    assert (found.document["sessions"][-1], found.result["last_final"], found.result["complete"]) == (last, last, True)
    assert not any(last < request.split("?")[0][-10:] for request in polygon.requests)


@pytest.mark.parametrize("morning", ["2025-11-04T00:01", "2025-11-04T06:01"], ids=["midnight", "6"])
def test_time_that_passes_during_a_backfill_does_not_change_its_sessions(
    morning: str, polygon: PolygonServer, maang: Maang, clock: type[Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(polygon, *AUTUMN)
    clock.set("2025-11-03T23:59")
    polygon.always = lambda path: clock.set(morning)
    selected = ("--from", "2025-10-29", "--to", "2025-11-05", *OURS)
    done = maang("backfill", *selected, "--json")
    assert (done.code, done.result["published"][-1]) == (0, "2025-10-31")
    again = maang("backfill", *selected, "--json")
    published = [] if morning.endswith("00:01") else ["2025-11-03"]
    assert (again.code, again.result["published"]) == (0, published)
