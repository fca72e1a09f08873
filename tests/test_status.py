"""`maang status`: what is missing, what is late, and what earlier runs left in staging."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest

from maang_cli import sessions
from maang_cli.errors import ExitCode, WarehouseDenied
from maang_cli.request import Request
from maang_cli.status import Latency, latency
from maang_cli.status import status as find_status
from maang_cli.tables import FINDINGS, PRODUCTION, Column, Table, staging
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Size, Warehouse
from tests import settings
from tests.conftest import Maang
from tests.polygon_server import PolygonServer
from tests.test_backfill import DAYS, OURS, RANGE, TICKERS, market_open, status
from tests.test_clock import Clock, clock

__all__ = ["clock", "market_open"]

HOUR = timedelta(hours=1)


def test_status_of_an_empty_warehouse_exits_2_with_a_hint(maang: Maang) -> None:
    done = maang("status")
    assert (done.code, done.out) == (2, "")
    assert "daily_stock_prices is empty\nhint: publish a session first: maang run-day\n" in done.err


def test_requested_sessions_of_an_empty_warehouse_are_missing(maang: Maang) -> None:
    found = status(maang)
    assert (found["complete"], found["tables"], found["last_session"]) == (False, [], None)
    assert [each["session"] for each in found["missing"]] == [str(day) for day in DAYS]
    assert "no sessions yet, last final session " in maang("status", *RANGE, *OURS).out


def test_status_without_dates_starts_at_the_first_stored_session(maang: Maang, market_open: PolygonServer) -> None:
    maang("run-day", "--date", str(DAYS[3]), *OURS)
    found = maang("status", *OURS, "--json")
    assert (found.document["sessions"][0], found.result["missing"][0]["session"]) == (str(DAYS[3]), str(DAYS[4]))
    assert found.document["sessions"][-1] == found.result["last_final"]
    assert found.result["last_session"] == str(DAYS[3])
    due = datetime.fromisoformat(found.result["next_due"]).date()
    assert found.result["next_due_at"] == sessions.final_at(due)


def test_missing_bars_are_printed_by_session_and_ticker(maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", "--from", str(DAYS[0]), "--to", str(DAYS[3]), *OURS)
    maang("run-day", "--date", str(DAYS[4]), "--tickers", "META")
    done = maang("status", "--from", str(DAYS[0]), "--to", str(DAYS[5]), *OURS)
    assert done.code == 5
    assert f"missing: {DAYS[4]} (1 session): AAPL, AMZN\n" in done.out
    assert f"missing: {DAYS[5]} (1 session): AAPL, AMZN, META\n" in done.out
    assert "error: 2 sessions with missing bars\n" in done.err
    hint = "fetch and repair them: maang backfill --from 2025-10-01 --to 2025-10-08 --tickers META,AAPL,AMZN"
    assert f"hint: {hint}\n" in done.err


def test_complete_sessions_exit_0(maang: Maang, market_open: PolygonServer) -> None:
    maang("backfill", *RANGE, *OURS)
    done = maang("status", *RANGE, *OURS)
    assert (done.code, done.err) == (0, "")
    assert f"complete: {len(DAYS)} sessions from {DAYS[0]} to {DAYS[-1]}\n" in done.out


def test_missing_and_stale_windows_are_printed(maang: Maang, market_open: PolygonServer) -> None:
    maang("init-tables")
    for step in ("ingest", "promote", "drop-staging"):
        assert maang(step, "--date", str(DAYS[2]), *OURS).code == 0
    done = maang("status", "--date", str(DAYS[2]), *OURS)
    assert done.code == 5
    assert f"windows missing: 3 ({DAYS[2]})\n" in done.out
    assert "error: 1 session with missing or stale windows\n" in done.err


@pytest.mark.parametrize("published", [True, False])
def test_leftover_staging_is_reported_with_what_it_is(published: bool, maang: Maang, market_open: PolygonServer) -> None:
    maang("init-tables")
    maang("ingest", "--date", str(DAYS[0]), *OURS)
    if published:
        maang("promote", "--date", str(DAYS[0]), *OURS)
    [found] = status(maang)["staging"]
    name = f"maang.{staging(TICKERS, DAYS[:1]).name}"
    day = str(DAYS[0])
    assert found == {"table": name, "first": day, "last": day, "rows": len(TICKERS), "unpublished": [] if published else [day]}
    why = "all of it is published" if published else "left by a running or killed run"
    assert f"staging: {name}, 3 rows; {why}\n" in maang("status", *RANGE, *OURS).out


def test_staging_table_with_other_columns_is_listed_as_unpublished(maang: Maang, market_open: PolygonServer) -> None:
    maang("init-tables")
    chosen = settings.load()
    warehouse = WAREHOUSES["local"].open(chosen, "")
    warehouse.create(Table(staging(TICKERS, DAYS).name, (Column("date", "DATE", "a date"),)))
    warehouse.close()
    [found] = status(maang)["staging"]
    assert (found["rows"], bool(found["unpublished"]), found["first"], found["last"]) == (0, True, str(DAYS[0]), str(DAYS[-1]))


def test_users_own_table_with_a_similar_name_is_not_staging(maang: Maang, market_open: PolygonServer) -> None:
    assert maang("backfill", *RANGE, *OURS).code == 0
    for name in ("staging_backup", "staging_20251301_20251302_abcdef", "staging_20251001_backup"):
        warehouse = WAREHOUSES["local"].open(settings.load(), "")
        warehouse.create(Table(f"{PRODUCTION.name}_{name}", (Column("x", "DATE", "a date"),)))
        warehouse.close()
    assert status(maang)["staging"] == []
    assert maang("backfill", "--refetch", *RANGE, *OURS).code == 0


class Sizeless:
    """A warehouse that can't say how much space a table takes."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._warehouse, name)

    def size(self, table: Table) -> Size:
        raise WarehouseDenied(f"no right to describe {table.name}")


def test_table_whose_size_is_unavailable_is_still_shown(maang: Maang, market_open: PolygonServer) -> None:
    assert maang("backfill", *RANGE, *OURS).code == 0
    with closing(WAREHOUSES["local"].open(settings.load(), "")) as opened:
        found = find_status(cast("Warehouse", Sizeless(opened)), Request(TICKERS, DAYS), datetime.now(UTC))
    assert [(table.rows, table.size) for table in found.tables] == [(len(TICKERS) * len(DAYS), Size(None, None))] * 2


def test_status_without_tables_has_no_empty_table(maang: Maang) -> None:
    assert "snapshots" not in maang("status", *RANGE, *OURS).out


def test_empty_table_has_no_first_session(maang: Maang) -> None:
    assert maang("init-tables").code == 0
    assert "None" not in maang("status", *RANGE, *OURS).out


# --max-delay


def test_session_is_missing_only_after_its_delay(maang: Maang, market_open: PolygonServer, clock: type[Clock]) -> None:
    """The newest final session is Tuesday's, final on Wednesday at 06:00."""
    clock.set("2025-10-14T08:59")
    assert maang("backfill", "--from", "2025-10-01", "--to", "2025-10-10", *OURS).code == 0
    asked = ("status", "--from", "2025-10-01", *OURS, "--max-delay", "3h")
    done = maang(*asked)
    assert (done.code, done.err) == (ExitCode.DONE, "")
    assert "awaited: 2025-10-13, until 2025-10-14 09:00 New York\n" in done.out
    assert "complete" not in done.out
    found = maang(*asked, "--json").result
    assert (found["complete"], found["missing"]) == (False, [])
    assert found["awaited"] == [{"session": "2025-10-13", "until": "2025-10-14T13:00:00Z"}]
    assert maang(*asked[:-2]).code == ExitCode.PARTIAL, "without --max-delay it is missing"
    clock.set("2025-10-14T09:00")
    done = maang(*asked)
    assert done.code == ExitCode.PARTIAL
    assert "missing: 2025-10-13 (1 session): AAPL, AMZN, META\n" in done.out
    assert "awaited" not in done.out


def test_delay_excuses_no_earlier_session(maang: Maang, market_open: PolygonServer, clock: type[Clock]) -> None:
    clock.set("2025-10-14T08:00")
    assert maang("backfill", "--from", "2025-10-01", "--to", "2025-10-09", *OURS).code == 0
    done = maang("status", "--from", "2025-10-01", *OURS, "--max-delay", "180m")
    assert done.code == ExitCode.PARTIAL
    assert "missing: 2025-10-10 (1 session): AAPL, AMZN, META\n" in done.out
    assert "awaited: 2025-10-13, until 2025-10-14 09:00 New York\n" in done.out


def test_windows_of_an_awaited_session_are_awaited_too(maang: Maang, market_open: PolygonServer, clock: type[Clock]) -> None:
    clock.set("2025-10-14T08:00")
    assert maang("run-day", "--date", "2025-10-10", *OURS).code == 0
    for step in ("ingest", "promote"):
        assert maang(step, "--date", "2025-10-13", *OURS).code == 0
    asked = ("status", "--from", "2025-10-10", *OURS)
    assert maang(*asked).code == ExitCode.PARTIAL
    done = maang(*asked, "--max-delay", "1d")
    assert (done.code, "windows" in done.out) == (ExitCode.DONE, False)


def test_complete_session_is_not_awaited(maang: Maang, market_open: PolygonServer, clock: type[Clock]) -> None:
    clock.set("2025-10-14T06:30")
    assert maang("run-day", "--date", "2025-10-13", *OURS).code == 0
    done = maang("status", "--date", "2025-10-13", *OURS, "--max-delay", "3h")
    assert done.code == ExitCode.DONE
    assert "complete: 1 session" in done.out


@pytest.mark.parametrize("text", ["3", "h", "3 h", "-3h", "3.5h", "3s", "99999h", "\u0663h", ""])
def test_wrong_duration_exits_2(maang: Maang, text: str) -> None:
    done = maang("status", *RANGE, f"--max-delay={text}")
    assert done.code == ExitCode.UNUSABLE
    assert f"error: {text!r} is not a duration\n" in done.err
    assert "such as 90m, 3h or 2d" in done.err


# Latency


def at(day: date, delay: timedelta) -> tuple[date, datetime]:
    return day, sessions.final(day).astimezone(UTC) + delay


def test_latency_is_the_median_and_the_worst_of_the_first_time_that_each_session_was_stored() -> None:
    stored = [at(DAYS[0], HOUR), at(DAYS[0], 2 * HOUR), at(DAYS[1], 5 * HOUR), at(DAYS[2], 2 * HOUR), at(DAYS[3], timedelta(0))]
    assert latency(stored) == Latency(4, 1.5 * HOUR, 5 * HOUR, DAYS[1])
    assert latency(stored[:3]) == Latency(2, 3 * HOUR, 5 * HOUR, DAYS[1])


def test_backfilled_session_has_no_latency() -> None:
    three_days = timedelta(days=3)
    late = at(DAYS[1], three_days + timedelta(microseconds=1))
    assert latency([late]) is None
    assert latency([late, at(DAYS[0], three_days)]) == Latency(1, three_days, three_days, DAYS[0])


def test_early_rows_have_no_latency_until_they_are_confirmed() -> None:
    early = at(DAYS[0], -HOUR)
    assert latency([early]) is None
    assert latency([early, at(DAYS[0], HOUR)]) == Latency(1, HOUR, HOUR, DAYS[0])


def test_latency_follows_from_production_and_its_revisions(maang: Maang, market_open: PolygonServer) -> None:
    assert maang("backfill", *RANGE, *OURS).code == 0
    assert status(maang)["latency"] is None, "all sessions were backfilled"
    with closing(WAREHOUSES["local"].open(settings.load(), "")) as opened:
        for ticker, kind, (day, moment) in (
            ("META", "revision", at(DAYS[0], 2 * HOUR)),
            ("META", "revision", at(DAYS[0], HOUR / 2)),
            ("AAPL", "revision", at(DAYS[5], 9 * HOUR)),
            ("OTHER", "revision", at(DAYS[5], HOUR)),
            ("META", "check", at(DAYS[6], HOUR)),
        ):
            given = {"ticker": f"'{ticker}'", "date": f"DATE '{day}'", "kind": f"'{kind}'", "replaced_at": f"'{moment}'"}
            columns = (
                f"CAST({given.get(column.name, 'NULL')} AS {column.type}) AS {column.name}" for column in FINDINGS.value_columns
            )
            assert opened.add(FINDINGS, Query(f"SELECT {', '.join(columns)}")) == 1
    assert status(maang)["latency"] == {
        "sessions": 2,
        "median_seconds": (9 * 3600 + 1800) / 2,
        "worst_seconds": 9 * 3600,
        "worst_session": str(DAYS[5]),
    }
    assert f"latency of 2 sessions: median 4.8 h, worst 9.0 h ({DAYS[5]})" in maang("status", *RANGE, *OURS).out
    only = maang("status", "--date", str(DAYS[0]), *OURS).out
    assert f"latency of 1 session: median 30 min, worst 30 min ({DAYS[0]})\n" in only


def test_latency_is_read_without_a_table_of_findings(maang: Maang, market_open: PolygonServer) -> None:
    assert maang("backfill", *RANGE, *OURS).code == 0
    with closing(WAREHOUSES["local"].open(settings.load(), "")) as opened:
        opened.drop(FINDINGS)
    assert maang("status", *RANGE, *OURS).code == ExitCode.DONE
