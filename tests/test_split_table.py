"""Splits on each warehouse: learned with the bars, judged by them, and followed by the windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from maang_cli import backfill, findings, pipeline, status, user_splits
from maang_cli.checks import AllowMissing
from maang_cli.errors import SettingsError
from maang_cli.request import Request
from maang_cli.tables import CUMULATIVE, PRODUCTION, SPLITS
from maang_cli.user_splits import parse
from maang_cli.warehouses.base import Query, Read
from tests import expected
from tests.expected import Bar, Row
from tests.polygon_server import Answer
from tests.test_pipeline import DAYS, Feed, bar, feed, local_only, warehouse

__all__ = ["feed", "warehouse"]

TICKERS = ("META", "NFLX")
YEARS_LATER = datetime(2040, 1, 1, tzinfo=UTC)
SPLIT_DAY = DAYS[5]
SPLIT = expected.Split("NFLX", SPLIT_DAY, 1, 10)
LISTED = {"ticker": "NFLX", "execution_date": str(SPLIT_DAY), "split_from": 1, "split_to": 10}


UNLISTED = findings.acceptances([f"NFLX:{SPLIT_DAY}:jump"], TICKERS, DAYS)
"""Before the split is known, the gate refuses its first session."""


def traded(day: date) -> list[Bar]:
    """Bars of both tickers; NFLX's prices fall to a tenth on SPLIT_DAY."""
    unit = Decimal(1) if day < SPLIT_DAY else Decimal("0.1")
    prices = {name: str(Decimal(text) * unit) for name, text in {"open": "1000", "high": "1030", "low": "990"}.items()}
    close = str((Decimal(1000) + Decimal(day.day) / 3 * unit).quantize(Decimal("0.001")) * unit)
    return [bar("META", day), Bar("NFLX", day, **prices, close=close, volume=str(int(70_001 / unit) + day.day))]


def served(days: Sequence[date]) -> list[Bar]:
    return [each for day in days for each in traded(day)]


@pytest.fixture
def split_feed(feed: Feed) -> Iterator[Feed]:
    feed.bars.clear()
    feed.serve(*served(DAYS))
    feed.polygon.splits = [LISTED]
    return feed  # type: ignore[return-value]


def windows(feed: Feed) -> dict[tuple[str, date], Row]:
    return expected.by_key(feed.rows("cumulative", TICKERS), without="updated_at")


def wanted(days: Sequence[date] = DAYS, splits: Sequence[expected.Split] = (SPLIT,)) -> dict[tuple[str, date], Row]:
    return expected.cumulative(served(days), splits)


def all_tables(feed: Feed) -> dict[str, list[Row]]:
    """All rows of the three tables, stamps included."""
    rows = feed.warehouse.query(Query("SELECT * FROM {it} ORDER BY ticker, date", {"it": Read(SPLITS)})).to_pylist()
    return feed.tables(TICKERS) | {"splits": rows}


def stored(feed: Feed) -> list[tuple[object, ...]]:
    return [(row["ticker"], row["date"], row["state"], row["reason"]) for row in all_tables(feed)["splits"]]


@pytest.mark.on_spark
def test_windows_after_a_split_are_on_its_basis_and_a_second_run_changes_nothing(split_feed: Feed) -> None:
    for days in (DAYS[:5], DAYS[5:6], DAYS[6:]):
        split_feed.load(Request(TICKERS, days))
    assert windows(split_feed) == wanted()
    assert stored(split_feed) == [("NFLX", SPLIT_DAY, "applied", "the prices prove it")]
    before = all_tables(split_feed)
    again = split_feed.load(Request(TICKERS, DAYS[4:7]))
    assert (again.published.replaced.changed, again.cumulated.replaced.changed) == (False, False)
    assert again.ingested.splits.changed == ()
    assert all_tables(split_feed) == before


@local_only
def test_separate_steps_and_a_backfill_give_the_same_windows(split_feed: Feed) -> None:
    for days in (DAYS[:6], DAYS[6:]):
        request = Request(TICKERS, days)
        split_feed.stage(request)
        pipeline.promote(split_feed.warehouse, request)
        pipeline.cumulate(split_feed.warehouse, request)
    assert windows(split_feed) == wanted()
    split_feed.warehouse.drop(CUMULATIVE)
    split_feed.warehouse.drop(SPLITS)
    request = Request(TICKERS, DAYS)
    todo = backfill.plan(split_feed.source, split_feed.warehouse, request, refetch=True)
    backfill.run(split_feed.source, split_feed.warehouse, todo, lambda _: None)
    assert windows(split_feed) == wanted()


@dataclass(frozen=True)
class Fault:
    """A fault of the vendor, and how it ends: the stored splits with their states and reasons, and those that apply."""

    listed: Sequence[dict[str, object]]
    stored: Sequence[tuple[str, str, str]]
    applied: Sequence[expected.Split] = ()
    missing: str = ""
    """A ticker without a bar on SPLIT_DAY."""


def listing(ticker: str = "NFLX", before: float = 1, after: float = 10, executed: date = SPLIT_DAY) -> dict[str, object]:
    return {"ticker": ticker, "execution_date": str(executed), "split_from": before, "split_to": after}


PROVED, NO_PRICES = "the prices prove it", "listed; there are no prices yet to prove it"
FAULTS = {
    "twice": Fault([LISTED | {"id": "a"}, LISTED | {"id": "b"}], [("NFLX", "applied", PROVED)], [SPLIT]),
    "on-a-Saturday": Fault([listing(executed=SPLIT_DAY - timedelta(2))], [("NFLX", "applied", PROVED)], [SPLIT]),
    "with-two-ratios": Fault(
        [listing(after=3), LISTED], [("NFLX", "applied", f"{PROVED}; the vendor lists other ratios too")], [SPLIT]
    ),
    "with-two-ratios-and-neither-is-true": Fault(
        [listing("META", after=3), listing("META", after=10), LISTED],
        [
            ("META", "disputed", "the vendor lists the ratios 3:1 and 10:1, and the prices prove neither"),
            ("NFLX", "applied", PROVED),
        ],
        [SPLIT],
    ),
    "contradicted-by-the-prices": Fault(
        [listing("META"), LISTED],
        [
            ("META", "disputed", "the price did not move: {close} at the close before, {open} at the open"),
            ("NFLX", "applied", PROVED),
        ],
        [SPLIT],
    ),
    "with-ratio-0": Fault(
        [listing("META", 1, 0), LISTED],
        [("META", "ignored", "its ratio is not that of a split"), ("NFLX", "applied", PROVED)],
        [SPLIT],
    ),
    "a-stock-dividend": Fault(
        [listing("META", 1, 1.05), LISTED],
        [("META", "applied", "listed; the prices neither prove nor contradict it"), ("NFLX", "applied", PROVED)],
        [SPLIT, expected.Split("META", SPLIT_DAY, 20, 21)],
    ),
    "on-a-session-without-a-bar": Fault([LISTED], [("NFLX", "applied", NO_PRICES)], [SPLIT], missing="NFLX"),
}


@local_only
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_of_the_vendor_ends_the_same_day_by_day_and_in_one_backfill(fault: Fault, split_feed: Feed) -> None:
    days = DAYS[3:8]
    if fault.missing:
        split_feed.withdraw(fault.missing, day=SPLIT_DAY)
    split_feed.polygon.splits = list(fault.listed)
    request = Request(TICKERS, days, allow_missing=AllowMissing(tickers=frozenset({fault.missing})))
    for day in days:
        split_feed.load(replace(request, sessions=(day,)))
    by_day = all_tables(split_feed)
    prices = expected.production(split_feed.bars.values())
    texts = {"close": prices["META", DAYS[4]]["close"], "open": prices["META", SPLIT_DAY]["open"]}
    assert stored(split_feed) == [(name, SPLIT_DAY, state, reason.format(**texts)) for name, state, reason in fault.stored]
    served_bars = [bar for bar in split_feed.bars.values() if bar.date in days]
    assert windows(split_feed) == expected.cumulative(served_bars, fault.applied)

    for day in days:
        split_feed.load(replace(request, sessions=(day,)))
    assert all_tables(split_feed) == by_day, "loaded again"
    for table in (PRODUCTION, CUMULATIVE, SPLITS):
        split_feed.warehouse.drop(table)
    todo = backfill.plan(split_feed.source, split_feed.warehouse, request, batch_rows=4)
    backfill.run(split_feed.source, split_feed.warehouse, todo, lambda _: None)
    stamps = {"production": "insertion_timestamp", "cumulative": "updated_at", "splits": "updated_at"}
    in_one = all_tables(split_feed)
    assert {name: expected.by_key(in_one[name], without=stamp) for name, stamp in stamps.items()} == {
        name: expected.by_key(by_day[name], without=stamp) for name, stamp in stamps.items()
    }


@local_only
def test_split_that_the_vendor_lists_no_longer_stays_if_the_prices_prove_it(split_feed: Feed) -> None:
    request = Request(TICKERS, DAYS[:8])
    split_feed.load(request)
    split_feed.polygon.splits = []
    split_feed.load(request)
    assert stored(split_feed) == [("NFLX", SPLIT_DAY, "applied", f"{PROVED}; no longer listed by the vendor")]
    assert windows(split_feed) == wanted(DAYS[:8])
    before = all_tables(split_feed)
    split_feed.load(request)
    assert all_tables(split_feed) == before


@local_only
def test_users_split_replaces_the_vendors_for_runs_that_end_before_it(split_feed: Feed) -> None:
    """Such a run asks the vendor for splits up to 7 days after it: the vendor's date is among them, the user's is not."""
    split_feed.polygon.splits = [LISTED]
    split_feed.load(Request(TICKERS, DAYS[:6]))
    mine = expected.run_of(SPLIT_DAY, 11)[-1]
    user_splits.edit(split_feed.warehouse, TICKERS, [parse("add", f"NFLX:{mine}:1:10")])
    before = stored(split_feed)
    assert before[0][2:] == ("ignored", f"your split of {mine} replaces it")
    split_feed.load(Request(TICKERS, DAYS[:2]))
    assert stored(split_feed) == before


def test_split_that_is_learned_late_refreshes_its_windows_in_the_same_run(split_feed: Feed) -> None:
    split_feed.polygon.splits = []
    split_feed.load(Request(TICKERS, DAYS[:-1], accept=UNLISTED))
    assert windows(split_feed) == wanted(DAYS[:-1], splits=())
    split_feed.polygon.splits = [LISTED]
    split_feed.load(Request(TICKERS, DAYS[-1:]))
    assert windows(split_feed) == wanted()


def test_split_that_the_prices_contradict_is_not_applied_and_status_names_it(feed: Feed) -> None:
    feed.bars.clear()
    feed.serve(*(bar("META", day) for day in DAYS[:8]))
    feed.polygon.splits = [LISTED]
    feed.serve(*(replace(bar("NFLX", day), open="100", high="101", low="99", close="100") for day in DAYS[:8]))
    done = feed.load(Request(TICKERS, DAYS[:8]))
    assert [split.state for split in done.ingested.splits.disputed] == ["disputed"]
    assert windows(feed) == expected.cumulative(feed.bars.values())
    found = status.status(feed.warehouse, Request(TICKERS, DAYS[:8]), YEARS_LATER)
    assert [(split.ticker, split.session) for split in found.disputed] == [("NFLX", SPLIT_DAY)]
    assert found.complete


def test_backfill_repairs_the_windows_of_an_older_version(split_feed: Feed) -> None:
    """It knew no splits, and had no table of them."""
    split_feed.polygon.splits = []
    split_feed.load(Request(TICKERS, DAYS, accept=UNLISTED))
    split_feed.warehouse.drop(SPLITS)
    split_feed.polygon.splits = [LISTED]
    request = Request(TICKERS, DAYS)
    assert status.status(split_feed.warehouse, request, YEARS_LATER).complete, "nothing is known yet"
    assert pipeline.init_tables(split_feed.warehouse, request).without_splits == (DAYS[0], DAYS[-1])
    todo = backfill.plan(split_feed.source, split_feed.warehouse, request)
    assert (todo.batches, dict(todo.windows), todo.calls.total) == ((), {}, 1)
    done = backfill.run(split_feed.source, split_feed.warehouse, todo, lambda _: None)
    assert done.cumulative.updated == 6
    assert windows(split_feed) == wanted()
    assert pipeline.init_tables(split_feed.warehouse, request).without_splits is None


def test_user_adds_ignores_and_clears_a_split_and_the_windows_follow(split_feed: Feed) -> None:
    split_feed.polygon.splits = []
    split_feed.load(Request(TICKERS, DAYS, accept=UNLISTED))
    raw = windows(split_feed)
    text = f"NFLX:{SPLIT_DAY}"
    added = user_splits.edit(split_feed.warehouse, TICKERS, [parse("add", f"{text}:1:10")])
    assert (added.windows.updated, windows(split_feed)) == (6, wanted())
    removed = user_splits.edit(split_feed.warehouse, TICKERS, [parse("clear", text)])
    assert ([split.session for split in removed.removed], windows(split_feed)) == ([SPLIT_DAY], raw)
    split_feed.polygon.splits = [LISTED]
    split_feed.load(Request(TICKERS, DAYS[-1:]))
    assert windows(split_feed) == wanted()
    user_splits.edit(split_feed.warehouse, TICKERS, [parse("ignore", text)])
    assert windows(split_feed) == raw
    split_feed.load(Request(TICKERS, DAYS[-1:]))
    assert windows(split_feed) == raw, "it is listed again, and still ignored"
    user_splits.edit(split_feed.warehouse, TICKERS, [parse("clear", text)])
    assert windows(split_feed) == wanted()


@pytest.mark.on_spark
def test_adjusted_prices_are_on_the_newest_basis(split_feed: Feed) -> None:
    split_feed.load(Request(TICKERS, DAYS))
    request = Request(TICKERS, DAYS)
    shown = pipeline.show(split_feed.warehouse, request, adjusted=True)
    production = expected.production(served(DAYS))
    restated = {key: expected.restated(row, DAYS[-1], [SPLIT]) for key, row in production.items()}
    found = expected.by_key(shown.rows.to_pylist(), without="insertion_timestamp")
    names = (*expected.PRICES, "volume")
    assert {key: [row[name] for name in names] for key, row in found.items()} == {
        key: [row[name] for name in names] for key, row in restated.items() if row is not None
    }


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("add", "NFLX:2025-11-17", "is not TICKER:DATE:FROM:TO"),
        ("add", "NFLX:2025-11-17:1:0", "is not TICKER:DATE:FROM:TO"),
        ("add", "NFLX:2025-11-17:1:-2", "is not TICKER:DATE:FROM:TO"),
        ("add", "NFLX:2025-11-17:1:ten", "is not TICKER:DATE:FROM:TO"),
        ("add", "NFLX:2025-11-17:3:3", "changes nothing"),
        ("add", "NFLX:soon:1:10", "is not TICKER:DATE:FROM:TO"),
        ("add", "NFLX:2025-11-15:1:10", "2025-11-15 is not a session"),
        ("ignore", "NFLX", "is not TICKER:DATE"),
        ("clear", "NFLX:2025-11-17:1:10", "is not TICKER:DATE"),
    ],
)
def test_edit_that_can_not_be_read_is_refused(kind: str, text: str, found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        parse(kind, text)


def test_hint_names_the_next_session() -> None:
    with pytest.raises(SettingsError) as error:
        parse("add", "NFLX:2025-11-15:1:10")
    assert error.value.hint.endswith("the next one is 2025-11-17")


@local_only
def test_plan_without_splits_leaves_the_known_ones(split_feed: Feed) -> None:
    request = Request(TICKERS, DAYS[:6])
    split_feed.load(request)
    split_feed.polygon.answer_splits = lambda path: Answer(403, b'{"status":"NOT_AUTHORIZED","message":"Not in your plan."}')
    split_feed.load(request)
    assert stored(split_feed) == [("NFLX", SPLIT_DAY, "applied", "the prices prove it")]


@local_only
@pytest.mark.parametrize("kind", ["ignore", "clear"])
def test_edit_of_an_unknown_split_is_refused(kind: str, split_feed: Feed) -> None:
    with pytest.raises(SettingsError, match="NFLX on 2025-11-24"):
        user_splits.edit(split_feed.warehouse, TICKERS, [parse(kind, "NFLX:2025-11-24")])


@local_only
def test_edits_of_one_command_are_carried_out_all_or_none(split_feed: Feed) -> None:
    split_feed.polygon.splits = []
    split_feed.load(Request(TICKERS, DAYS, accept=UNLISTED))
    raw = windows(split_feed)
    wrong = [parse("add", f"NFLX:{SPLIT_DAY}:1:10"), parse("clear", f"META:{SPLIT_DAY}")]
    with pytest.raises(SettingsError, match="META"):
        user_splits.edit(split_feed.warehouse, TICKERS, wrong)
    assert (stored(split_feed), windows(split_feed)) == ([], raw)


@local_only
def test_edit_of_a_ticker_that_is_not_in_the_universe_is_refused(split_feed: Feed) -> None:
    with pytest.raises(SettingsError, match="'NFLXX' is not among the tickers"):
        user_splits.edit(split_feed.warehouse, TICKERS, [parse("add", "NFLXX:2025-11-24:1:2")])
    assert user_splits.listed(split_feed.warehouse, ("NFLXX",)).splits == ()
