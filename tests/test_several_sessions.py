"""Commands with several sessions: each session is audited separately, and those that pass are published in one commit."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from maang_cli import sessions
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row

TICKERS = ("META", "AAPL")
FEW = ("--tickers", "META,AAPL")
DAYS = (date(2025, 10, 13), date(2025, 10, 14), date(2025, 10, 15))
RANGE = ("--from", "2025-10-11", "--to", "2025-10-15")


@pytest.fixture
def three_days(polygon: PolygonServer) -> PolygonServer:
    """Polygon with three good sessions."""
    polygon.days = {day: [row(ticker, day) for ticker in TICKERS] for day in DAYS}
    return polygon


def spoil(polygon: PolygonServer, *days: date) -> None:
    """Put META's high below its low on these days."""
    for day in days:
        polygon.days[day][0]["h"] = 1


def stored(maang: Maang, *, table: str = "production") -> list[tuple[str, str]]:
    """The dates and tickers of a table's rows."""
    shown = maang("show", *RANGE, *FEW, "--table", table, "--json").result
    return [(line["date"], line["ticker"]) for line in shown["rows"]]


def test_dates_without_a_session_are_skipped_with_a_note(maang: Maang, three_days: PolygonServer) -> None:
    done = maang("run-day", "--date", "2025-10-14", "--date", "2025-10-12", "--date", "2025-10-13", "--date", "2025-10-14", *FEW)
    assert done.code == 0
    assert "note: 2025-10-12 is not a session: Sunday; skipped" in done.err
    assert stored(maang) == [(str(day), ticker) for day in DAYS[:2] for ticker in sorted(TICKERS)]


def test_dates_without_any_session_exit_99(maang: Maang, polygon: PolygonServer) -> None:
    assert maang("run-day", "--date", "2025-10-11", "--date", "2025-10-12").code == 99
    assert maang("run-day", "--from", "2025-10-11", "--to", "2025-10-12").code == 99
    assert polygon.requests == []


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        ((), "no session is selected", "give --date, such as --date 2025-10-14, or --from and --to"),
        (("--to", "2025-10-14"), "--to needs --from", "give both, such as --from 2025-10-01 --to 2025-10-14"),
        (
            ("--from", "2025-10-13", "--date", "2025-10-14"),
            "--date and --from can't be combined",
            "give --date, once or several times, or --from and --to",
        ),
        (("--from", "14.10.2025"), "'14.10.2025' is not a date", "give --from as YYYY-MM-DD, such as 2025-10-14"),
    ],
    ids=["nothing", "only --to", "both ways", "an invalid date"],
)
def test_unclear_selection_of_sessions_exits_2_with_a_hint(argv: tuple[str, ...], message: str, hint: str, maang: Maang) -> None:
    done = maang("ingest", "--source", "sample", *argv)
    assert done.code == 2
    assert done.err == f"error: {message}\nhint: {hint}\n"


def test_steps_of_a_range_publish_it_in_one_commit(maang: Maang, three_days: PolygonServer) -> None:
    maang("init-tables", "--only", "production")
    for step in ("init-tables", "ingest", "check", "promote", "cumulate", "drop-staging"):
        assert maang(step, *RANGE, *FEW).code == 0
    everything = [(str(day), ticker) for day in DAYS for ticker in sorted(TICKERS)]
    assert stored(maang) == stored(maang, table="cumulative") == everything
    tables = maang("status", *RANGE, *FEW, "--json").result["tables"]
    assert [found["size"]["snapshots"] for found in tables] == [1, 1]


def test_refused_session_does_not_stop_the_others(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, DAYS[1])
    done = maang("run-day", *RANGE, *FEW)
    assert done.code == 5
    assert "refused (price_ranges): 2025-10-14 (1 session)" in done.out
    assert "the gate refused 1 of 3 sessions: 2025-10-14 (price_ranges)" in done.err
    assert {day for day, _ in stored(maang)} == {"2025-10-13", "2025-10-15"}
    assert {day for day, _ in stored(maang, table="staging")} == {str(day) for day in DAYS}


def test_windows_of_published_sessions_are_refreshed_if_others_were_refused(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, DAYS[0])
    assert maang("run-day", *RANGE, *FEW).code == 5
    assert {day for day, _ in stored(maang, table="cumulative")} == {"2025-10-14", "2025-10-15"}


def test_refusal_of_every_session_exits_3(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, *DAYS)
    done = maang("run-day", *RANGE, *FEW)
    assert done.code == 3
    assert stored(maang) == []
    assert "the gate refused 2025-10-13 to 2025-10-15: price_ranges; nothing was published" in done.err
    assert f"--table staging --from {DAYS[0]} --to {DAYS[2]}" in done.err


def test_each_check_reports_its_failures_by_the_requested_session(maang: Maang, three_days: PolygonServer) -> None:
    three_days.days[DAYS[1]][0] = row("META", DAYS[0])
    two_days = ("--from", str(DAYS[0]), "--to", str(DAYS[1]), *FEW)
    maang("ingest", *two_days)
    done = maang("check", *two_days, "--json")
    report = done.result
    assert (done.code, done.document["outcome"], done.document["sessions"]) == (5, "partial", ["2025-10-13", "2025-10-14"])
    assert report["refused"] == [{"session": "2025-10-14", "checks": ["missing_stocks", "date_mismatch"]}]
    row_of = {"ticker": "META", "date": "2025-10-14", "outcome": "refused", "before": None, "after": None}
    assert {check["name"]: check["rows"] for check in report["checks"] if check["rows"]} == {
        "missing_stocks": [row_of | {"found": "no bar"}],
        "date_mismatch": [row_of | {"found": "date 2025-10-13"}],
    }


def test_report_shows_the_first_rows_of_each_session(maang: Maang, polygon: PolygonServer) -> None:
    tickers = [f"T{number}" for number in range(8)]
    polygon.days = {day: [row(ticker, day, v=0) for ticker in tickers] for day in DAYS}
    maang("ingest", *RANGE, "--tickers", ",".join(tickers))
    report = maang("check", *RANGE, "--tickers", ",".join(tickers), "--json").result
    volume = next(check for check in report["checks"] if check["name"] == "volume")
    assert volume["failing"] == 24
    assert [line["date"] for line in volume["rows"]] == [str(day) for day in DAYS for _ in range(5)]


def test_promote_reports_the_sessions_that_it_refused(maang: Maang, three_days: PolygonServer) -> None:
    spoil(three_days, DAYS[2])
    maang("init-tables")
    maang("ingest", *RANGE, *FEW)
    done = maang("promote", *RANGE, *FEW, "--json")
    assert done.code == 5
    assert (done.result["inserted"], done.result["refused"]) == (4, [{"session": "2025-10-15", "checks": ["price_ranges"]}])


def test_allowed_share_applies_to_each_session_separately(maang: Maang, three_days: PolygonServer) -> None:
    three_days.days[DAYS[0]].pop()
    three_days.days[DAYS[1]].clear()
    three_days.days[DAYS[1]].append(row("TSLA", DAYS[1]))
    assert maang("run-day", *RANGE, *FEW, "--allow-missing", "50%").code == 5
    assert stored(maang) == [("2025-10-13", "META"), ("2025-10-15", "AAPL"), ("2025-10-15", "META")]


def test_run_day_without_a_date_loads_the_last_final_session(maang: Maang) -> None:
    before = sessions.last_final(datetime.now(UTC))
    done = maang("run-day", "--source", "sample")
    shown = maang("show", "--date", str(before), "--source", "sample")
    assert done.code == 0
    if before == sessions.last_final(datetime.now(UTC)):
        assert "5 rows of" in shown.out
