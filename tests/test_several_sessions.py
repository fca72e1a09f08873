"""Several sessions in one go: which ones are meant, each audited by itself, those that pass published in one commit."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest

from maang_cli import sessions
from maang_cli.errors import MaangError, NoSession, SettingsError
from maang_cli.sessions import NEW_YORK
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row

TICKERS = ("META", "AAPL")
FEW = ("--tickers", "META,AAPL")
DAYS = (date(2025, 10, 13), date(2025, 10, 14), date(2025, 10, 15))
RANGE = ("--from", "2025-10-11", "--to", "2025-10-15")
NOON = datetime(2025, 10, 15, 12, tzinfo=NEW_YORK)


@pytest.fixture
def three_days(polygon: PolygonServer) -> PolygonServer:
    """Polygon with three good sessions."""
    polygon.days = {day: [row(ticker, day) for ticker in TICKERS] for day in DAYS}
    return polygon


def spoil(polygon: PolygonServer, *days: date) -> None:
    """On these days META's high lies below its low."""
    for day in days:
        polygon.days[day][0]["h"] = 1


def held(maang: Maang, *, table: str = "production") -> list[tuple[str, str]]:
    shown = json.loads(maang("show", *RANGE, *FEW, "--table", table, "--json").out)
    return [(line["date"], line["ticker"]) for line in shown["rows"]]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2025, 10, 15, 5, 59, tzinfo=NEW_YORK), date(2025, 10, 13)),
        (datetime(2025, 10, 15, 6, 0, tzinfo=NEW_YORK), date(2025, 10, 14)),
        (datetime(2025, 10, 15, 23, 59, tzinfo=NEW_YORK), date(2025, 10, 14)),
        (datetime(2025, 10, 18, 6, 0, tzinfo=NEW_YORK), date(2025, 10, 17)),
        (datetime(2025, 10, 20, 5, 0, tzinfo=NEW_YORK), date(2025, 10, 17)),
        (datetime(2025, 11, 28, 7, 0, tzinfo=NEW_YORK), date(2025, 11, 26)),
        (datetime(2025, 11, 3, 10, 59, tzinfo=UTC), date(2025, 10, 31)),
        (datetime(2025, 11, 4, 10, 59, tzinfo=UTC), date(2025, 10, 31)),
        (datetime(2025, 11, 4, 11, 0, tzinfo=UTC), date(2025, 11, 3)),
    ],
    ids=["before six", "six", "evening", "saturday", "early monday", "after thanksgiving", "dst ends", "before six", "six, est"],
)
def test_a_session_is_finished_at_six_in_new_york_the_morning_after(now: datetime, expected: date) -> None:
    assert sessions.last_finished(now) == expected


def test_the_next_session_due_follows_the_last_finished_one() -> None:
    assert sessions.next_due(NOON) == date(2025, 10, 15)
    assert sessions.next_due(datetime(2025, 10, 17, 12, tzinfo=NEW_YORK)) == date(2025, 10, 17)
    assert sessions.next_due(datetime(2025, 10, 18, 12, tzinfo=NEW_YORK)) == date(2025, 10, 20)


def test_a_range_is_its_sessions_up_to_the_last_finished_one() -> None:
    assert sessions.ranging(date(2025, 10, 10), date(2025, 10, 14), NOON) == sessions.Selection(
        (date(2025, 10, 10), date(2025, 10, 13), date(2025, 10, 14))
    )
    open_ended = sessions.ranging(date(2025, 10, 13), None, NOON)
    assert (open_ended.sessions[-1], open_ended.notes) == (date(2025, 10, 14), ())


def test_a_range_that_ends_past_the_last_finished_session_is_cut_and_says_so() -> None:
    found = sessions.ranging(date(2025, 10, 14), date(2025, 12, 31), NOON)
    assert found.sessions == (date(2025, 10, 14),)
    assert found.notes == ("2025-12-31 is past the last finished session: taken as 2025-10-14",)


def test_a_range_that_ends_on_a_weekend_after_the_last_finished_session_needs_no_note() -> None:
    saturday = datetime(2025, 10, 18, 12, tzinfo=NEW_YORK)
    assert sessions.ranging(date(2025, 10, 17), date(2025, 10, 19), saturday).notes == ()


@pytest.mark.parametrize(
    ("first", "last", "error"),
    [
        (date(2025, 10, 11), date(2025, 10, 12), NoSession),
        (date(2025, 10, 15), date(2025, 10, 20), NoSession),
        (date(2025, 10, 14), date(2025, 10, 13), SettingsError),
        (date(1989, 12, 29), date(2025, 10, 14), SettingsError),
    ],
    ids=["a weekend", "to come", "backwards", "before the calendar"],
)
def test_a_range_without_a_finished_session_is_an_error(first: date, last: date, error: type[MaangError]) -> None:
    with pytest.raises(error):
        sessions.ranging(first, last, NOON)


def test_dates_without_a_session_are_skipped_with_a_note_among_several(maang: Maang, three_days: PolygonServer) -> None:
    done = maang("run-day", "--date", "2025-10-14", "--date", "2025-10-12", "--date", "2025-10-13", "--date", "2025-10-14", *FEW)
    assert done.code == 0
    assert "note: 2025-10-12 is not a session: Sunday; skipped" in done.err
    assert held(maang) == [(str(day), ticker) for day in DAYS[:2] for ticker in sorted(TICKERS)]


def test_without_any_session_left_the_code_is_99(maang: Maang, polygon: PolygonServer) -> None:
    assert maang("run-day", "--date", "2025-10-11", "--date", "2025-10-12").code == 99
    assert maang("run-day", "--from", "2025-10-11", "--to", "2025-10-12").code == 99
    assert polygon.requests == []


@pytest.mark.parametrize(
    "argv",
    [(), ("--to", "2025-10-14"), ("--from", "2025-10-13", "--date", "2025-10-14"), ("--from", "14.10.2025")],
    ids=["none", "to alone", "both ways", "no date"],
)
def test_what_does_not_say_which_sessions_is_2_with_a_hint(argv: tuple[str, ...], maang: Maang) -> None:
    done = maang("ingest", "--source", "sample", *argv)
    assert (done.code, "hint: give --" in done.err) == (2, True)


def test_steps_of_a_range_publish_it_in_one_commit(maang: Maang, three_days: PolygonServer) -> None:
    maang("init-tables", "--only", "production")
    for step in ("init-tables", "ingest", "check", "promote", "cumulate", "drop-staging"):
        assert maang(step, *RANGE, *FEW).code == 0
    everything = [(str(day), ticker) for day in DAYS for ticker in sorted(TICKERS)]
    assert held(maang) == held(maang, table="cumulative") == everything


def test_a_refused_session_holds_no_other_back(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, DAYS[1])
    done = maang("run-day", *RANGE, *FEW)
    assert done.code == 5
    assert "2025-10-14 refused: price_ranges" in done.out
    assert "the gate refused 1 of 3 sessions: 2025-10-14 (price_ranges)" in done.err
    assert {day for day, _ in held(maang)} == {"2025-10-13", "2025-10-15"}
    assert {day for day, _ in held(maang, table="staging")} == {str(day) for day in DAYS}


def test_the_windows_of_published_sessions_are_made_where_others_were_refused(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, DAYS[0])
    assert maang("run-day", *RANGE, *FEW).code == 5
    assert {day for day, _ in held(maang, table="cumulative")} == {"2025-10-14", "2025-10-15"}


def test_when_every_session_is_refused_the_code_is_3(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, *DAYS)
    done = maang("run-day", *RANGE, *FEW)
    assert done.code == 3
    assert held(maang) == []
    assert "the gate refused 2025-10-13 to 2025-10-15: price_ranges; nothing was published" in done.err
    assert f"--table staging --from {DAYS[0]} --to {DAYS[2]}" in done.err


def test_each_check_names_its_failures_by_the_session_asked_for(maang: Maang, three_days: PolygonServer) -> None:
    three_days.days[DAYS[1]][0] = row("META", DAYS[0])
    two_days = ("--from", str(DAYS[0]), "--to", str(DAYS[1]), *FEW)
    maang("ingest", *two_days)
    done = maang("check", *two_days, "--json")
    report = json.loads(done.out)
    assert done.code == 5
    assert report["refused"] == [{"session": "2025-10-14", "checks": ["missing_stocks", "date_mismatch"]}]
    assert {check["name"]: check["rows"] for check in report["checks"] if check["rows"]} == {
        "missing_stocks": [{"ticker": "META", "date": "2025-10-14", "found": "no bar"}],
        "date_mismatch": [{"ticker": "META", "date": "2025-10-14", "found": "date 2025-10-13"}],
    }


def test_a_report_shows_the_first_rows_of_each_session(maang: Maang, polygon: PolygonServer) -> None:
    tickers = [f"T{number}" for number in range(8)]
    polygon.days = {day: [row(ticker, day, v=0) for ticker in tickers] for day in DAYS}
    maang("ingest", *RANGE, "--tickers", ",".join(tickers))
    report = json.loads(maang("check", *RANGE, "--tickers", ",".join(tickers), "--json").out)
    volume = next(check for check in report["checks"] if check["name"] == "volume")
    assert volume["failing"] == 24
    assert [line["date"] for line in volume["rows"]] == [str(day) for day in DAYS for _ in range(5)]


def test_promote_says_which_sessions_it_refused(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, DAYS[2])
    maang("init-tables")
    maang("ingest", *RANGE, *FEW)
    done = maang("promote", *RANGE, *FEW, "--json")
    result = json.loads(done.out)
    assert done.code == 5
    assert (result["inserted"], result["refused"]) == (4, [{"session": "2025-10-15", "checks": ["price_ranges"]}])


def test_a_share_that_may_be_missing_is_of_each_session(maang: Maang, three_days: PolygonServer) -> None:
    three_days.days[DAYS[0]].pop()
    three_days.days[DAYS[1]].clear()
    three_days.days[DAYS[1]].append(row("TSLA", DAYS[1]))
    assert maang("run-day", *RANGE, *FEW, "--allow-missing", "50%").code == 5
    assert held(maang) == [("2025-10-13", "META"), ("2025-10-15", "AAPL"), ("2025-10-15", "META")]


def test_run_day_without_a_date_takes_the_last_finished_session(maang: Maang) -> None:
    before = sessions.last_finished(datetime.now(UTC))
    done = maang("run-day", "--source", "sample")
    shown = maang("show", "--date", str(before), "--source", "sample")
    assert done.code == 0
    if before == sessions.last_finished(datetime.now(UTC)):
        assert "5 rows of" in shown.out
