"""What publishing and `cumulate` would change: the differences are those that the steps then report."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from maang_cli import pipeline
from maang_cli.checks import AllowMissing
from maang_cli.diff import ChangedCell, Differences, staged_differences
from maang_cli.errors import ExitCode, NotStaged, OutOfOrder
from maang_cli.request import Request
from maang_cli.schemas import arrow_schema
from maang_cli.tables import CUMULATIVE, PRODUCTION, SPLITS, STAGING_COLUMNS
from maang_cli.warehouses.base import Replaced, TableMissing, Warehouse
from tests import test_split_table as split_tests
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row
from tests.test_pipeline import DAY, DAYS, TICKERS, Feed, bar, feed, local_only, request_for, revised, staged, warehouse
from tests.test_split_table import split_feed

__all__ = ["feed", "split_feed", "warehouse"]


def counts(found: Differences) -> tuple[int, int, int]:
    return tuple(sum(map(len, rows.values())) for rows in (found.new, found.changed, found.removed))  # type: ignore[return-value]


def would_be(done: Replaced) -> tuple[int, int, int]:
    return done.inserted, done.updated, done.deleted


def cells_between(feed: Feed, part: str, before: list[dict[str, object]]) -> set[tuple[str, date, str, str, str]]:
    """The changed cells of rows that were there `before` and still are, in a set, recomputed from the rows themselves."""
    stamp = {"production": "insertion_timestamp", "cumulative": "updated_at"}[part]
    old = {(line["ticker"], line["date"]): line for line in before}
    return {
        (str(line["ticker"]), line["date"], name, str(old[key][name]), str(value))  # type: ignore[misc]
        for line in feed.rows(part)
        if (key := (line["ticker"], line["date"])) in old
        for name, value in line.items()
        if name != stamp and value != old[key][name]
    }


def as_texts(cells: tuple[ChangedCell, ...]) -> set[tuple[str, date, str, str, str]]:
    return {(cell.ticker, cell.date, cell.column, str(cell.before), str(cell.after)) for cell in cells}


@pytest.mark.on_spark
def test_diff_is_what_promote_then_changes(feed: Feed) -> None:
    feed.serve(bar("TSLA", DAY))
    feed.load(request_for(tickers=("META", "AAPL", "AMZN", "TSLA")))
    before = feed.rows("production")
    feed.serve(bar("META", DAY, volume="1000000", close=f"{before[-1]['open']}", transactions=None))
    feed.withdraw("AAPL", day=DAY)
    request = request_for(allow=AllowMissing(frozenset({"AAPL"})))
    feed.stage(request)

    found = pipeline.diff(feed.warehouse, request)

    assert found.new == {DAY: frozenset({"NFLX", "GOOGL"})}
    assert found.changed == {DAY: frozenset({"META"})}
    assert found.removed == {DAY: frozenset({"AAPL"})}
    assert [cell.column for cell in found.cells] == ["close", "volume", "transactions"]
    [stamp] = {line["insertion_timestamp"] for line in before if line["ticker"] == "META"}
    assert {cell.replaced_at for cell in found.cells} == {stamp}
    assert (found.cells[1].after, found.cells[2].after) == (1_000_000, None)
    published = pipeline.promote(feed.warehouse, request)
    assert counts(found) == would_be(published.replaced)
    assert as_texts(found.cells) == cells_between(feed, "production", before)
    assert not pipeline.diff(feed.warehouse, request)


def test_diff_of_the_windows_is_what_cumulate_then_changes(feed: Feed) -> None:
    feed.load(request_for(*DAYS[:5]))
    before = feed.rows("cumulative")
    feed.serve(revised("META", DAYS[3]))
    request = request_for(*DAYS[3:6])
    feed.stage(request)
    pipeline.promote(feed.warehouse, request)

    found = pipeline.diff(feed.warehouse, request, "cumulative")

    assert found.new == {DAYS[5]: frozenset(TICKERS)}
    assert found.changed == {day: frozenset({"META"}) for day in DAYS[3:5]}
    assert found.removed == {}
    assert counts(found) == would_be(pipeline.cumulate(feed.warehouse, request).replaced)
    assert as_texts(found.cells) == cells_between(feed, "cumulative", before)
    assert not pipeline.diff(feed.warehouse, request, "cumulative")


@local_only
def test_diff_of_the_windows_includes_those_around_a_split_that_is_learned_late(split_feed: Feed) -> None:
    split_feed.polygon.splits = []
    split_feed.load(Request(split_tests.TICKERS, DAYS[:-1], accept=split_tests.UNLISTED))
    split_feed.polygon.splits = [split_tests.LISTED]
    request = Request(split_tests.TICKERS, DAYS[-1:])
    split_feed.stage(request)
    pipeline.promote(split_feed.warehouse, request)

    found = pipeline.diff(split_feed.warehouse, request, "cumulative")

    assert set(found.changed) == set(DAYS[5:11])
    assert set().union(*found.changed.values()) == {"NFLX"}
    assert counts(found) == would_be(pipeline.cumulate(split_feed.warehouse, request).replaced)


@local_only
def test_window_whose_bars_are_gone_is_removed(feed: Feed) -> None:
    feed.load(request_for())
    feed.withdraw("META", day=DAY)
    request = request_for(allow=AllowMissing(frozenset({"META"})))
    feed.stage(request)
    pipeline.promote(feed.warehouse, request)
    found = pipeline.diff(feed.warehouse, request, "cumulative")
    assert (found.new, found.changed, found.removed) == ({}, {}, {DAY: frozenset({"META"})})
    assert counts(found) == would_be(pipeline.cumulate(feed.warehouse, request).replaced)


@pytest.mark.on_spark
def test_table_that_does_not_exist_counts_as_empty(feed: Feed) -> None:
    pipeline.init_tables(feed.warehouse, request_for(), only=["schema"])
    pipeline.ingest(feed.source, feed.warehouse, request_for())
    expected: tuple[object, ...] = ({DAY: frozenset(TICKERS)}, {}, {}, ())
    found = pipeline.diff(feed.warehouse, request_for())
    assert (found.new, found.changed, found.removed, found.cells) == expected
    pipeline.init_tables(feed.warehouse, request_for(), only=["production"])
    pipeline.promote(feed.warehouse, request_for())
    found = pipeline.diff(feed.warehouse, request_for(), "cumulative")
    assert (found.new, found.changed, found.removed, found.cells) == expected
    assert found.table == feed.warehouse.full_name(CUMULATIVE)


@local_only
def test_diff_without_the_table_that_it_reads_names_the_step_before_it(feed: Feed) -> None:
    with pytest.raises(NotStaged, match="nothing is staged") as staging:
        pipeline.diff(feed.warehouse, request_for())
    assert staging.value.hint == f"fetch them first: maang ingest --date {DAY}{{flags}}"
    with pytest.raises(OutOfOrder, match="there is no table"):
        pipeline.diff(feed.warehouse, request_for(), "cumulative")
    with pytest.raises(TableMissing):
        staged_differences(feed.warehouse, request_for().staging, TICKERS, [DAY])


@pytest.mark.on_spark
def test_rows_that_the_gate_would_refuse_are_compared_too(warehouse: Warehouse) -> None:
    request = request_for(tickers=("AAPL", "AMZN", "META", "NFLX"))
    pipeline.init_tables(warehouse, request)
    good = [bar(ticker, DAY) for ticker in request.tickers]
    warehouse.stage(request.staging, staged(*good))
    pipeline.promote(warehouse, request)
    huge = Decimal("123456789012345678901234567890.12")
    changes: list[dict[str, object]] = [
        {"open": None},
        {"high": huge, "volume": Decimal(-1)},
        {"date": DAYS[0]},
        {},
        {},
        {"ticker": None},
    ]
    once = staged(*good, bar("TSLA", DAY), bar("OTHER", DAY)).to_pylist()
    twice = staged(replace(good[3], close="0.01")).to_pylist()
    lines = [line | change for line, change in zip(once, changes, strict=True)] + twice
    wrong = pa.Table.from_pylist(lines, schema=arrow_schema(STAGING_COLUMNS))
    warehouse.stage(request.staging, wrong)

    found = pipeline.diff(warehouse, request)

    assert (found.new, found.removed) == ({}, {})
    assert found.changed == {DAY: frozenset({"AAPL", "AMZN", "NFLX"})}
    values = {(cell.ticker, cell.column): cell.after for cell in found.cells}
    assert values == {
        ("AAPL", "open"): None,
        ("AMZN", "high"): huge,
        ("AMZN", "volume"): -1,
        ("NFLX", "close"): Decimal("0.01"),
    }


@local_only
def test_diff_writes_nothing(split_feed: Feed) -> None:
    request = Request(split_tests.TICKERS, DAYS)
    split_feed.load(request)
    split_feed.stage(request)
    before = [split_feed.warehouse.size(each) for each in (PRODUCTION, CUMULATIVE, SPLITS, request.staging)]
    for part in ("production", "cumulative"):
        assert not pipeline.diff(split_feed.warehouse, request, part)
    assert [split_feed.warehouse.size(each) for each in (PRODUCTION, CUMULATIVE, SPLITS, request.staging)] == before


# The command

ON = ("--date", "2025-10-14")


def test_diff_prints_rows_and_changed_values_and_exits_0(maang: Maang, polygon: PolygonServer) -> None:
    day = date(2025, 10, 14)
    polygon.days = {day: [row("META", day), row("NFLX", day), row("AAPL", day)]}
    assert maang("run-day", *ON, "--tickers", "META,NFLX,AAPL").code == ExitCode.DONE
    polygon.days = {day: [row("META", day, c=10.25), row("NFLX", day, v=1500), row("AMZN", day)]}
    ours = (*ON, "--tickers", "META,NFLX,AMZN,AAPL")
    maang("ingest", *ours)
    done = maang("diff", *ours)
    assert (done.code, done.err) == (ExitCode.DONE, "")
    assert done.out.splitlines() == [
        "maang.daily_stock_prices: 1 row new, 2 rows changed, 1 row removed",
        "new: 2025-10-14 (1 session): AMZN",
        "changed: 2025-10-14 (1 session): META, NFLX",
        "removed: 2025-10-14 (1 session): AAPL",
        "META 2025-10-14 close 10.50 -> 10.25 (-2.38 %)",
        "NFLX 2025-10-14 volume 1000 -> 1500 (+50.00 %)",
    ]
    assert maang("promote", *ours, "--allow-missing", "AAPL").code == ExitCode.DONE
    done = maang("diff", *ours)
    assert (done.code, done.out) == (ExitCode.DONE, "maang.daily_stock_prices: no differences\n")


def test_diff_without_staging_exits_2_with_a_hint(maang: Maang, polygon: PolygonServer) -> None:
    done = maang("diff", *ON, "--tickers", "META")
    assert (done.code, done.out) == (ExitCode.UNUSABLE, "")
    assert "hint: fetch them first: maang ingest --date 2025-10-14 --tickers META" in done.err


def test_twenty_changed_values_are_printed_and_the_others_counted(maang: Maang, polygon: PolygonServer) -> None:
    days = DAYS[:6]
    dates = ("--from", str(days[0]), "--to", str(days[-1]), "--tickers", "META")
    polygon.days = {day: [row("META", day)] for day in days}
    assert maang("run-day", *dates).code == ExitCode.DONE
    polygon.days = {day: [row("META", day, o=10.25, h=12, l=9, c=11, v=2000)] for day in days}
    maang("ingest", *dates)
    printed = maang("diff", *dates).out.splitlines()
    assert printed[:2] == [
        "maang.daily_stock_prices: 6 rows changed",
        f"changed: {days[0]} to {days[-1]} (6 sessions): META",
    ]
    assert printed[2:6] == [
        f"META {days[0]} open 10.00 -> 10.25 (+2.50 %)",
        f"META {days[0]} high 11.00 -> 12.00 (+9.09 %)",
        f"META {days[0]} low 9.50 -> 9.00 (-5.26 %)",
        f"META {days[0]} close 10.50 -> 11.00 (+4.76 %)",
    ]
    assert printed[22:] == ["and 10 more changed values"]
    assert not [line for line in printed[2:22] if "volume" in line]  # prices come first
    assert len(maang("diff", *dates, "--json").result["cells"]) == 30


def test_ticker_that_is_not_listed_on_a_session_would_not_be_removed(maang: Maang) -> None:
    sample = (*ON, "--source", "sample")
    assert maang("run-day", *sample, "--tickers", "META,AAPL").code == ExitCode.DONE
    later = (*sample, "--tickers", "AAPL,META=META:2025-10-15")
    assert maang("ingest", *later).code == ExitCode.DONE
    assert maang("diff", *later).out == "maang_sample.daily_stock_prices: no differences\n"
