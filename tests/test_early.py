"""Sessions that are taken before they are final: their stamps, and that they are fetched again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest

from maang_cli import backfill, missing, pipeline, sessions
from maang_cli import status as status_module
from maang_cli.checks import AllowMissing
from maang_cli.errors import NotPublishedYet
from maang_cli.schemas import to_stage
from maang_cli.sessions import NEW_YORK
from tests.conftest import Maang
from tests.test_missing import warehouse
from tests.test_pipeline import DAY, DAYS, TICKERS, Feed, Recorder, bar, feed, request_for

__all__ = ["feed", "warehouse"]

AFTERNOON = datetime.combine(DAY, time(17), NEW_YORK)
"""DAY is over, and not final."""


def take(feed: Feed, began: datetime = AFTERNOON, *days: date) -> None:
    """Publish the vendor's bars as if their fetch had begun at this time."""
    request = request_for(*(days or (DAY,)))
    pipeline.init_tables(feed.warehouse, request)
    rows = to_stage(feed.source.bars(request.tickers, request.sessions), began)
    feed.warehouse.stage(request.staging, rows)
    pipeline.promote(feed.warehouse, request)
    pipeline.cumulate(feed.warehouse, request)
    pipeline.drop_staging(feed.warehouse, request)


def stamps(feed: Feed) -> dict[tuple[object, object], object]:
    return {(row["ticker"], row["date"]): row["insertion_timestamp"] for row in feed.rows("production")}


def test_day_of_these_tests_is_over_and_not_final() -> None:
    assert sessions.require(DAY, AFTERNOON) == DAY
    assert not sessions.is_final(DAY, AFTERNOON)
    assert sessions.final(DAY) == datetime(2025, 11, 26, 6, tzinfo=NEW_YORK)


def test_early_rows_are_stamped_with_the_start_of_their_fetch(feed: Feed) -> None:
    take(feed)
    assert set(stamps(feed).values()) == {AFTERNOON}


def test_final_rows_of_the_same_batch_are_stamped_with_the_present_time(feed: Feed) -> None:
    before = datetime.now(UTC)
    take(feed, AFTERNOON, DAYS[DAYS.index(DAY) - 1], DAY)
    found = stamps(feed)
    assert {found[ticker, DAY] for ticker in TICKERS} == {AFTERNOON}
    others = [stamp for (_, day), stamp in found.items() if day != DAY]
    assert len(others) == len(TICKERS)
    assert all(isinstance(stamp, datetime) and stamp >= before for stamp in others)


def test_fetch_after_the_session_is_final_renews_the_stamp_of_equal_rows(feed: Feed) -> None:
    take(feed)
    before = datetime.now(UTC)
    windows = feed.rows("cumulative")
    run = feed.load(request_for())
    assert (run.published.replaced.updated, run.published.replaced.unchanged) == (len(TICKERS), 0)
    renewed = stamps(feed)
    assert all(isinstance(stamp, datetime) and stamp >= before for stamp in renewed.values())
    assert feed.rows("cumulative") == windows
    assert not feed.load(request_for()).published.replaced.changed
    assert stamps(feed) == renewed


def test_early_rows_that_are_fetched_again_early_keep_their_stamp_unless_they_change(feed: Feed) -> None:
    take(feed)
    feed.serve(bar("META", DAY, volume="399e6"))
    later = AFTERNOON + timedelta(hours=1)
    take(feed, later)
    found = stamps(feed)
    assert found.pop(("META", DAY)) == later
    assert set(found.values()) == {AFTERNOON}


def test_held_row_of_an_early_session_stays_early(feed: Feed) -> None:
    take(feed)
    before = stamps(feed)["META", DAY]
    feed.serve(bar("META", DAY, volume="0"))
    request = replace(request_for(), allow_missing=AllowMissing(frozenset({"META"})))
    run = pipeline.run_day(feed.source, feed.warehouse, request, Recorder())
    assert run.published.held == {DAY: frozenset({"META"})}
    assert stamps(feed)["META", DAY] == before


def test_backfill_fetches_early_rows_again_when_their_session_is_final(feed: Feed) -> None:
    take(feed)
    request = request_for()
    bars = missing.find_missing_bars(feed.warehouse, request)
    assert (bars.missing, bars.early) == ({}, {DAY: frozenset(TICKERS)})
    assert bars.to_fetch(AFTERNOON) == {}
    assert bars.to_fetch(sessions.final(DAY)) == bars.early

    todo = backfill.plan(feed.source, feed.warehouse, request)
    assert todo.rows == len(TICKERS)
    backfill.run(feed.source, feed.warehouse, todo, lambda _: None)
    assert missing.find_missing_bars(feed.warehouse, request).early == {}
    assert not backfill.plan(feed.source, feed.warehouse, request).batches


def test_only_the_early_rows_of_a_session_are_fetched_again(feed: Feed) -> None:
    take(feed)
    feed.load(request_for(tickers=TICKERS[:1]))
    assert missing.find_missing_bars(feed.warehouse, request_for()).early == {DAY: frozenset(TICKERS[1:])}


def test_status_lists_early_rows_and_complains_only_when_their_session_is_final(feed: Feed) -> None:
    take(feed)
    early = {DAY: frozenset(TICKERS)}
    found = status_module.status(feed.warehouse, request_for(), AFTERNOON)
    assert (found.bars.early, found.late, found.verdict()) == (early, {}, None)
    found = status_module.status(feed.warehouse, request_for(), sessions.final(DAY))
    error = found.verdict()
    assert found.late == early
    assert error is not None
    assert (error.exit_code, error.message) == (5, "1 session with early rows")


def test_delay_counts_for_early_rows_too(feed: Feed) -> None:
    take(feed)
    hour, final = timedelta(hours=1), sessions.final(DAY)
    found = status_module.status(feed.warehouse, request_for(), final + hour, 2 * hour)
    assert (found.late, found.verdict(), found.complete) == ({}, None, False)
    assert found.awaited == {DAY: final + 2 * hour}
    assert status_module.status(feed.warehouse, request_for(), final + 2 * hour, 2 * hour).verdict() is not None


def test_status_without_dates_lists_early_rows_of_a_session_that_is_not_final(feed: Feed) -> None:
    yesterday = DAYS[DAYS.index(DAY) - 1]
    feed.load(request_for(yesterday))
    take(feed)
    found = status_module.status(feed.warehouse, replace(request_for(), sessions=()), AFTERNOON)
    assert found.request.sessions == (yesterday,)
    assert found.bars.early == {DAY: frozenset(TICKERS)}
    assert not found.late


def test_session_that_is_not_final_is_not_fetched_unless_early() -> None:
    with pytest.raises(NotPublishedYet, match=f"{DAY} is not final") as caught:
        sessions.select_dates([DAY], AFTERNOON, early=False)
    assert caught.value.hint.startswith("try again after 2025-11-26 06:00 New York, or take it as it is now: maang run-day")
    assert sessions.select_dates([DAY], AFTERNOON, early=True).sessions == (DAY,)
    assert sessions.select_dates([DAY], sessions.final(DAY), early=False).sessions == (DAY,)


def test_early_range_ends_with_the_session_that_is_over() -> None:
    first = DAYS[DAYS.index(DAY) - 1]
    assert sessions.select_range(first, None, AFTERNOON).sessions == (first,)
    assert sessions.select_range(first, None, AFTERNOON, early=True).sessions == (first, DAY)
    morning = AFTERNOON.replace(hour=9)
    assert sessions.select_range(first, None, morning, early=True).sessions == (first,)


def test_confirmed_rows_are_no_revision_in_json(feed: Feed, maang: Maang) -> None:
    take(feed)
    done = maang("run-day", "--date", str(DAY), "--tickers", ",".join(TICKERS), "--json")
    assert done.code == 0, done.err
    assert (done.result["promote"]["updated"], done.result["promote"]["revised"]) == (len(TICKERS), None)
