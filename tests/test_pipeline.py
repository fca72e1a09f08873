"""The steps on each warehouse, with bars from a Polygon server on loopback that serves what a test wants.

No test knows which warehouse it runs on: to test another one, add its name to the fixture's parameters.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pyarrow as pa
import pytest

from maang_cli import checks, findings, pipeline
from maang_cli.checks import AllowMissing
from maang_cli.errors import ExitCode, GateRefused, OutOfOrder, SettingsError, StagingChanged, TableMismatch, WarehouseFailed
from maang_cli.pipeline import DayRun
from maang_cli.request import Request
from maang_cli.retries import STAGING_ATTEMPTS
from maang_cli.schemas import arrow_schema
from maang_cli.sources import SOURCES
from maang_cli.sources.base import Source
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS, STAGING_COLUMNS, Table
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Replaced, Warehouse
from tests import expected, settings
from tests.expected import Bar, Key, Row
from tests.polygon_server import PolygonServer

TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
DAYS = expected.run_of(date(2025, 11, 17), 12)
"""12 consecutive sessions, with Thanksgiving and the early close after it among them."""
DAY = DAYS[6]
STAMPS = {"production": "insertion_timestamp", "cumulative": "updated_at"}


local_only = pytest.mark.parametrize("warehouse", ["local"], indirect=True)
"""For what takes many days, and other tests show on Databricks with a few."""


@pytest.fixture(params=["local", "databricks"])
def warehouse(request: pytest.FixtureRequest, home: object) -> Iterator[Warehouse]:
    """An empty warehouse."""
    if request.param == "databricks":
        request.getfixturevalue("databricks")
    chosen = settings.load(warehouse=request.param)
    with closing(WAREHOUSES[chosen.warehouse].open(chosen, "")) as opened:
        yield opened


@dataclass
class Recorder:
    """The progress of `run_day`: its steps, each with the type of its result."""

    before: Callable[[str], object] = lambda _step: None
    """What happens when a step begins."""
    steps: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)

    def begin(self, step: str) -> None:
        self.steps.append(step)
        self.before(step)

    def done(self, result: object) -> None:
        self.results.append(type(result).__name__)


def bar(ticker: str, day: date, **changes: Any) -> Bar:
    """A bar that passes the gate. Most of its numbers need rounding, some lie halfway between two results."""
    seed = sum(map(ord, ticker))
    n = 300 + (seed * 31 + day.toordinal() * 17) % 97
    usual = Bar(
        ticker,
        day,
        open=f"{n + 20}.005",
        high=f"{n + 22}.4449",
        low=f"{n + 18}.5",
        close=f"{n + 21}.{n % 100:02}5",
        volume=f"{n + 3}.{seed}3166045e+06",
        vwap=f"{n + 20}.123456",
        transactions=str(n + 7),
    )
    return replace(usual, **changes)


def revised(ticker: str, day: date) -> Bar:
    """Other values for the bar, which also pass the gate."""
    return bar(ticker, day, low="290.5", high="420", close="350.255")


def crossed(ticker: str, day: date) -> Bar:
    """A bar whose high is below its low."""
    return bar(ticker, day, high="1", low="2")


@dataclass
class Feed:
    """A vendor, and the steps that load its bars."""

    polygon: PolygonServer
    source: Source
    warehouse: Warehouse
    bars: dict[Key, Bar] = field(default_factory=dict)
    """What the vendor has now."""

    def serve(self, *bars: Bar) -> None:
        """The vendor serves these bars from now on. They replace those of the same tickers and sessions."""
        self.bars |= {(bar.ticker, bar.date): bar for bar in bars}
        self._answer()

    def withdraw(self, *tickers: str, day: date) -> None:
        for ticker in tickers:
            del self.bars[ticker, day]
        self._answer()

    def _answer(self) -> None:
        expected.serve(self.polygon, self.bars.values())

    def load(self, request: Request) -> DayRun:
        return pipeline.run_day(self.source, self.warehouse, request, Recorder())

    def stage(self, request: Request) -> None:
        pipeline.init_tables(self.warehouse, request)
        pipeline.ingest(self.source, self.warehouse, request)

    def rows(self, part: str, tickers: Sequence[str] = TICKERS) -> list[Row]:
        """A table's rows of DAYS, stamps included."""
        request = Request(tuple(tickers), DAYS)
        return cast("list[Row]", pipeline.show(self.warehouse, request, part).rows.to_pylist())

    def tables(self, tickers: Sequence[str] = TICKERS) -> dict[str, list[Row]]:
        return {part: self.rows(part, tickers) for part in STAMPS}

    def assert_recomputed(self, bars: Sequence[Bar] | None = None) -> None:
        """Both tables contain exactly what follows from the vendor's bars, or from `bars`."""
        bars = list(self.bars.values()) if bars is None else bars
        tickers = sorted({bar.ticker for bar in bars} | set(TICKERS))
        found = {part: expected.by_key(self.rows(part, tickers), without=stamp) for part, stamp in STAMPS.items()}
        assert found == {"production": expected.production(bars), "cumulative": expected.cumulative(bars)}


@pytest.fixture
def feed(polygon: PolygonServer, warehouse: Warehouse) -> Iterator[Feed]:
    """Bars of TICKERS on all of DAYS, and an empty warehouse."""
    with closing(SOURCES["polygon"].open(settings.load())) as source:
        made = Feed(polygon, source, warehouse)
        made.serve(*(bar(ticker, day) for ticker in TICKERS for day in DAYS))
        yield made


def request_for(*days: date, tickers: tuple[str, ...] = TICKERS, allow: AllowMissing = checks.ALLOW_NONE) -> Request:
    return Request(tickers, days or (DAY,), allow)


def staged(*bars: Bar) -> pa.Table:
    """Bars as a source returns them."""
    rows = [
        {"session": row["date"]} | {name: _decimal(value) for name, value in row.items()}
        for row in expected.production(bars).values()
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(STAGING_COLUMNS))


def _decimal(value: object) -> object:
    return Decimal(value) if isinstance(value, int) else value


def test_run_day_fills_both_tables(feed: Feed) -> None:
    run = feed.load(request_for())
    assert run.ingested.rows == len(TICKERS)
    assert run.audit.passed
    assert run.published.replaced == Replaced(feed.warehouse.full_name(PRODUCTION), len(TICKERS), 0, 0, 0)
    assert run.cumulated.replaced == Replaced(feed.warehouse.full_name(CUMULATIVE), len(TICKERS), 0, 0, 0)
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date == DAY])


def test_new_rows_are_stamped_with_the_time_of_the_run_in_utc(feed: Feed) -> None:
    before = datetime.now(UTC)
    feed.load(request_for())
    after = datetime.now(UTC)
    for part, stamp in STAMPS.items():
        stamps = [cast("datetime", row[stamp]) for row in feed.rows(part)]
        assert all(before <= when <= after and when.utcoffset() == timedelta(0) for when in stamps)


@local_only
def test_nine_runs_in_a_row_fill_the_windows_step_by_step(feed: Feed) -> None:
    missing = [len(feed.load(request_for(day)).cumulated.missing) for day in DAYS[:9]]
    assert missing == [6, 5, 4, 3, 2, 1, 0, 0, 0]
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:9]])


@pytest.mark.on_spark
def test_nine_sessions_in_one_request_equal_nine_runs(feed: Feed) -> None:
    run = feed.load(request_for(*DAYS[:9]))
    assert run.published.replaced.inserted == run.cumulated.replaced.inserted == 9 * len(TICKERS)
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:9]])


@local_only
def test_order_in_which_sessions_are_loaded_does_not_matter(feed: Feed) -> None:
    days = DAYS[:8]
    for number in (5, 0, 7, 2, 1, 6, 4, 3):
        feed.load(request_for(days[number]))
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in days])


def test_revised_session_changes_its_own_window_and_the_next_six_only(feed: Feed) -> None:
    feed.load(request_for(*DAYS))
    before = {part: by_key(rows) for part, rows in feed.tables().items()}
    feed.serve(revised("META", DAYS[3]))

    run = feed.load(request_for(DAYS[3]))

    after = {part: by_key(rows) for part, rows in feed.tables().items()}
    assert changed(before["production"], after["production"]) == {("META", DAYS[3])}
    assert changed(before["cumulative"], after["cumulative"]) == {("META", day) for day in DAYS[3:10]}
    assert outcome(run.published.replaced) == (0, 1, 0, len(TICKERS) - 1)
    assert outcome(run.cumulated.replaced) == (0, 7, 0, 7 * (len(TICKERS) - 1))
    for part, key in (("production", ("META", DAYS[3])), ("cumulative", ("META", DAYS[9]))):
        assert cast("datetime", after[part][key][STAMPS[part]]) > cast("datetime", before[part][key][STAMPS[part]])
    feed.assert_recomputed()


def by_key(rows: Sequence[Row]) -> dict[Key, Row]:
    """A table's rows, stamps included."""
    return expected.by_key(rows, without="nothing")


def changed(before: dict[Key, Row], after: dict[Key, Row]) -> set[Key]:
    """The rows that differ in any value, stamps included."""
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


def outcome(done: Replaced) -> tuple[int, int, int, int]:
    return done.inserted, done.updated, done.deleted, done.unchanged


@pytest.mark.parametrize("step", [pytest.param("run_day", marks=pytest.mark.on_spark), "promote", "cumulate"])
def test_rerun_with_the_same_bars_changes_nothing(step: str, feed: Feed) -> None:
    feed.load(request_for(*DAYS[:7]))
    before = feed.tables()
    if step == "run_day":
        run = feed.load(request_for())
        done = [run.published.replaced, run.cumulated.replaced]
    elif step == "promote":
        pipeline.ingest(feed.source, feed.warehouse, request_for())
        done = [pipeline.promote(feed.warehouse, request_for()).replaced]
    else:
        done = [pipeline.cumulate(feed.warehouse, request_for()).replaced]
    assert [outcome(replaced) for replaced in done] == [(0, 0, 0, len(TICKERS))] * len(done)
    assert not any(replaced.changed for replaced in done)
    assert feed.tables() == before


def test_missing_session_shortens_the_windows_and_is_reported(feed: Feed) -> None:
    missing = DAYS[8]
    feed.load(request_for(*DAYS[2:8]))
    run = feed.load(request_for(DAYS[9]))
    assert dict(run.cumulated.missing)[missing] == 0
    row = by_key(feed.rows("cumulative"))["META", DAYS[9]]
    assert len(cast("list[Decimal]", row["last_7_days_close"])) == 6
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[2:10] and bar.date != missing])


def test_session_without_one_ticker_is_reported_with_the_number_of_stored_tickers(feed: Feed) -> None:
    feed.load(request_for(DAYS[5], tickers=TICKERS[1:]))
    run = feed.load(request_for(DAYS[6]))
    assert dict(run.cumulated.missing)[DAYS[5]] == len(TICKERS) - 1


def test_complete_history_has_nothing_missing_to_report(feed: Feed) -> None:
    feed.load(request_for(*DAYS))
    assert pipeline.cumulate(feed.warehouse, request_for(DAYS[6])).missing == ()


def test_refusal_changes_neither_table_and_keeps_the_staged_rows(feed: Feed) -> None:
    feed.load(request_for(*DAYS[:8]))
    before = feed.tables()
    feed.serve(crossed("META", DAY))

    with pytest.raises(GateRefused) as refused:
        feed.load(request_for())

    assert refused.value.exit_code == ExitCode.REFUSED
    assert refused.value.audit is not None
    assert [result.check.name for result in refused.value.audit.failed] == ["price_ranges"]
    assert feed.warehouse.full_name(request_for().staging) in refused.value.hint
    assert feed.tables() == before
    kept = pipeline.show(feed.warehouse, request_for(), "staging").rows.to_pylist()
    assert [(row["high"], row["low"]) for row in kept if row["ticker"] == "META"] == [(Decimal("1.00"), Decimal("2.00"))]


def test_rerun_with_correct_bars_publishes_a_refused_session(feed: Feed) -> None:
    feed.serve(crossed("META", DAY))
    with pytest.raises(GateRefused):
        feed.load(request_for())
    assert feed.tables() == {"production": [], "cumulative": []}

    feed.serve(bar("META", DAY))
    feed.load(request_for())

    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date == DAY])
    assert pipeline.drop_staging(feed.warehouse, request_for()).dropped is False


def test_promote_audits_without_a_check_before_it(feed: Feed) -> None:
    feed.serve(crossed("META", DAY))
    feed.stage(request_for())
    with pytest.raises(GateRefused):
        pipeline.promote(feed.warehouse, request_for())
    assert feed.rows("production") == []


def test_refused_session_does_not_stop_the_others(feed: Feed) -> None:
    feed.serve(crossed("META", DAYS[1]))
    run = feed.load(request_for(*DAYS[:3]))
    assert run.audit.refused == {DAYS[1]: ("price_ranges",)}
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in (DAYS[0], DAYS[2])])


@pytest.mark.on_spark
def test_values_at_the_bounds_of_the_gate_are_published_unchanged(feed: Feed) -> None:
    top, cent = str(checks.MAX_PRICE), "0.01"
    counts = {"volume": str(checks.MAX_VOLUME), "transactions": str(checks.MAX_TRANSACTIONS)}
    bars = [
        bar("META", DAYS[0], open=top, high=top, low=top, close=top, vwap=top, **counts),
        bar("META", DAYS[1], open=cent, high=cent, low=cent, close=cent, vwap=cent, volume="1", transactions="0"),
        bar("META", DAYS[2], open=cent, high=top, low=cent, close=cent, vwap=None, **counts | {"transactions": None}),
    ]
    feed.serve(*bars)
    unlikely = [f"META:{DAYS[1]}:jump", f"META:{DAYS[2]}:jump", f"META:{DAYS[2]}:spike"]
    accepted = findings.acceptances(unlikely, ("META",), DAYS)
    feed.load(replace(request_for(*DAYS[:3], tickers=("META",)), accept=accepted))
    feed.assert_recomputed(bars)


def test_universes_of_different_size_share_the_tables(feed: Feed) -> None:
    feed.serve(*(bar("MSFT", day) for day in DAYS))
    feed.load(request_for(*DAYS[:3]))
    before = {part: by_key(rows) for part, rows in feed.tables().items()}
    feed.serve(revised("META", DAYS[1]))

    run = feed.load(request_for(DAYS[1], tickers=("MSFT", "META")))

    assert outcome(run.published.replaced) == (1, 1, 0, 0)
    after = {part: by_key(rows) for part, rows in feed.tables().items()}
    assert changed(before["production"], after["production"]) == {("META", DAYS[1])}
    assert changed(before["cumulative"], after["cumulative"]) == {("META", DAYS[1]), ("META", DAYS[2])}
    loaded = [("MSFT", DAYS[1]), *((ticker, day) for ticker in TICKERS for day in DAYS[:3])]
    feed.assert_recomputed([feed.bars[key] for key in loaded])


def test_different_universes_have_their_own_staging(feed: Feed) -> None:
    few = request_for(tickers=("META", "AAPL"))
    pipeline.ingest(feed.source, feed.warehouse, request_for())
    pipeline.ingest(feed.source, feed.warehouse, few)
    assert pipeline.show(feed.warehouse, request_for(), "staging").rows.num_rows == len(TICKERS)
    assert pipeline.show(feed.warehouse, few, "staging").rows.num_rows == 2


@pytest.mark.parametrize(
    ("missing", "allow", "passes"),
    [
        (["NFLX"], AllowMissing(tickers=frozenset({"NFLX"})), True),
        (["NFLX", "META"], AllowMissing(tickers=frozenset({"NFLX"})), False),
        (["NFLX"], AllowMissing(percent=Decimal(20)), True),
        (["NFLX"], AllowMissing(percent=Decimal("19.99")), False),
        (["NFLX", "META"], AllowMissing(percent=Decimal("39.99")), False),
        (["NFLX", "META"], AllowMissing(percent=Decimal(40)), True),
    ],
)
def test_tickers_may_be_missing_by_name_or_up_to_a_share(
    missing: list[str], allow: AllowMissing, passes: bool, feed: Feed
) -> None:
    feed.withdraw(*missing, day=DAY)
    if passes:
        run = feed.load(request_for(allow=allow))
        assert sorted((row.ticker, row.date) for row in run.published.allowed) == sorted((ticker, DAY) for ticker in missing)
        feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date == DAY])
    else:
        with pytest.raises(GateRefused):
            feed.load(request_for(allow=allow))
        assert feed.rows("production") == []


@pytest.mark.on_spark
def test_old_row_of_a_missing_ticker_is_removed_from_both_tables_and_later_windows(feed: Feed) -> None:
    feed.load(request_for(*DAYS[:8]))
    feed.withdraw("NFLX", day=DAY)
    run = feed.load(request_for(allow=AllowMissing(tickers=frozenset({"NFLX"}))))
    assert outcome(run.published.replaced) == (0, 0, 1, len(TICKERS) - 1)
    assert run.cumulated.replaced.deleted == 1
    assert run.cumulated.replaced.updated == 1
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:8]])


def test_session_without_any_bar_is_emptied_if_every_ticker_may_be_missing(feed: Feed) -> None:
    feed.serve(bar("MSFT", DAY))
    feed.load(request_for())
    feed.withdraw(*TICKERS, day=DAY)
    run = feed.load(request_for(allow=AllowMissing(percent=Decimal(100))))
    assert outcome(run.published.replaced) == outcome(run.cumulated.replaced) == (0, 0, len(TICKERS), 0)
    assert feed.tables() == {"production": [], "cumulative": []}


STEPS: dict[str, Callable[[Warehouse, Request], object]] = {
    "check": pipeline.check,
    "promote": pipeline.promote,
    "cumulate": pipeline.cumulate,
    "show": pipeline.show,
    "show staging": lambda warehouse, request: pipeline.show(warehouse, request, "staging"),
}


@pytest.mark.parametrize(
    ("step", "message", "hint"),
    [
        ("check", "nothing is staged for 2025-11-25", "maang ingest --date 2025-11-25{flags}"),
        ("promote", "nothing is staged for 2025-11-25", "maang ingest --date 2025-11-25{flags}"),
        ("show staging", "nothing is staged for 2025-11-25", "maang ingest --date 2025-11-25{flags}"),
        ("cumulate", "has none of these tickers on 2025-11-25", "maang run-day --date 2025-11-25{flags}"),
    ],
)
def test_step_that_comes_too_early_names_the_step_to_run_first(step: str, message: str, hint: str, warehouse: Warehouse) -> None:
    pipeline.init_tables(warehouse, Request(TICKERS, ()))
    assert_out_of_order(step, warehouse, message, hint)


@pytest.mark.parametrize("step", ["promote", "cumulate", "show"])
def test_step_without_its_tables_names_init_tables(step: str, feed: Feed) -> None:
    pipeline.ingest(feed.source, feed.warehouse, request_for())
    message = f"there is no table {feed.warehouse.full_name(PRODUCTION)}"
    assert_out_of_order(step, feed.warehouse, message, "create it: maang init-tables{flags}")


def test_cumulate_without_its_own_table_names_init_tables(feed: Feed) -> None:
    pipeline.init_tables(feed.warehouse, request_for(), ["production"])
    pipeline.ingest(feed.source, feed.warehouse, request_for())
    pipeline.promote(feed.warehouse, request_for())
    message = f"there is no table {feed.warehouse.full_name(CUMULATIVE)}"
    assert_out_of_order("cumulate", feed.warehouse, message, "create it: maang init-tables{flags}")


def assert_out_of_order(step: str, warehouse: Warehouse, message: str, hint: str) -> None:
    with pytest.raises(OutOfOrder) as error:
        STEPS[step](warehouse, request_for())
    assert error.value.exit_code == ExitCode.UNUSABLE
    assert message in error.value.message
    assert error.value.hint.endswith(hint)


class Meddled:
    """A warehouse in which something else happens just before `replace`, as if another run were active."""

    def __init__(self, warehouse: Warehouse, meddle: Callable[[], object]) -> None:
        self._warehouse = warehouse
        self._meddle = meddle
        self.after: Callable[[], object] = lambda: None
        """What happens after `replace` has failed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._warehouse, name)

    def replace(
        self, table: Table, query: Query, sessions: Sequence[date], refuse_if: Query | None = None, *, revise: bool = True
    ) -> Replaced:
        self._meddle()
        try:
            return self._warehouse.replace(table, query, sessions, refuse_if, revise=revise)
        except Exception:
            self.after()
            raise


@dataclass
class Race:
    """A published session whose revision is staged. Something else happens while the revision is published."""

    feed: Feed

    def __post_init__(self) -> None:
        self.feed.load(request_for())
        self.before = self.feed.tables()
        self.feed.serve(revised("META", DAY))
        self.feed.stage(request_for())

    def stage(self, *bars: Bar) -> Callable[[], None]:
        return lambda: self.feed.warehouse.stage(request_for().staging, staged(*bars))

    def promote(self, meddle: Callable[[], object], after: Callable[[], object] = lambda: None) -> pipeline.Published:
        meddled = Meddled(self.feed.warehouse, meddle)
        meddled.after = after
        return pipeline.promote(cast("Warehouse", meddled), request_for())

    def message(self, how: str) -> str:
        """A pattern for the message about another run."""
        return re.escape(f"another run {how.format(self.feed.warehouse.full_name(request_for().staging))}; nothing was published")

    def assert_unchanged(self) -> None:
        assert self.feed.tables() == self.before


@pytest.mark.parametrize(
    ("bars", "check"),
    [
        ([crossed("META", DAY), *(bar(ticker, DAY) for ticker in TICKERS[1:])], "price_ranges"),
        ([bar(ticker, DAY) for ticker in TICKERS[1:]], "missing_stocks"),
        ([], "missing_stocks"),
    ],
    ids=["a bad row", "one row fewer", "no rows"],
)
def test_staging_that_changes_for_the_worse_after_the_check_is_refused(bars: list[Bar], check: str, feed: Feed) -> None:
    race = Race(feed)
    with pytest.raises(GateRefused) as refused:
        race.promote(race.stage(*bars))
    assert refused.value.audit is not None
    assert [result.check.name for result in refused.value.audit.failed] == [check]
    race.assert_unchanged()


def test_staging_that_is_dropped_after_the_check_is_worth_a_retry(feed: Feed) -> None:
    race = Race(feed)
    with pytest.raises(WarehouseFailed, match=race.message("dropped {} before it was published")) as failed:
        race.promote(lambda: feed.warehouse.drop(request_for().staging))
    assert failed.value.exit_code == ExitCode.MAY_HEAL
    race.assert_unchanged()


def dropping(feed: Feed, before: str, times: int) -> Recorder:
    """The progress of a day whose staging another run drops when a step begins, on so many attempts."""
    attempts = itertools.count(1)

    def drop(step: str) -> None:
        if step == before and next(attempts) <= times:
            feed.warehouse.drop(request_for().staging)

    return Recorder(drop)


@pytest.mark.parametrize("before", ["check", pytest.param("promote", marks=pytest.mark.on_spark)])
def test_staging_that_is_dropped_during_run_day_is_staged_again(before: str, feed: Feed) -> None:
    done = pipeline.run_day(feed.source, feed.warehouse, request_for(), dropping(feed, before, 2))
    assert done.published.replaced.inserted == len(TICKERS)
    assert expected.by_key(feed.rows("production"), without="insertion_timestamp") == expected.production(
        [bar(ticker, DAY) for ticker in TICKERS]
    )


def test_staging_that_is_dropped_on_every_attempt_is_worth_a_retry(feed: Feed) -> None:
    race = Race(feed)
    with pytest.raises(StagingChanged, match=race.message("dropped {} before it was published")):
        pipeline.run_day(feed.source, feed.warehouse, request_for(), dropping(feed, "check", STAGING_ATTEMPTS))
    race.assert_unchanged()


def test_failure_after_publishing_says_what_was_published(feed: Feed) -> None:
    def drop(step: str) -> None:
        if step == "cumulate":
            feed.warehouse.drop(CUMULATIVE)

    with pytest.raises(OutOfOrder, match=rf"there is no table .*; the bars of {DAY} were published before that$") as failed:
        pipeline.run_day(feed.source, feed.warehouse, request_for(), Recorder(drop))
    assert failed.value.exit_code == ExitCode.UNUSABLE
    assert len(feed.rows("production")) == len(TICKERS)


def test_staging_that_is_changed_and_restored_during_publishing_is_worth_a_retry(feed: Feed) -> None:
    race = Race(feed)
    good = [bar(ticker, DAY) for ticker in TICKERS]
    with pytest.raises(WarehouseFailed, match=race.message("changed {} while it was being published")):
        race.promote(race.stage(*good[1:]), after=race.stage(*good))
    race.assert_unchanged()


@pytest.mark.on_spark
def test_rows_that_are_audited_last_are_published(feed: Feed) -> None:
    race = Race(feed)
    newer = [bar(ticker, DAY, volume="777") for ticker in TICKERS]
    race.promote(race.stage(*newer))
    assert expected.by_key(feed.rows("production"), without="insertion_timestamp") == expected.production(newer)


def test_staging_is_dropped_once(feed: Feed) -> None:
    pipeline.ingest(feed.source, feed.warehouse, request_for())
    assert [pipeline.drop_staging(feed.warehouse, request_for()).dropped for _ in range(3)] == [True, False, False]


def test_show_returns_the_rows_of_a_table_by_session_and_ticker(feed: Feed) -> None:
    feed.load(request_for(*DAYS[:2]))
    pipeline.ingest(feed.source, feed.warehouse, request_for(*DAYS[:2]))
    for part, table in (("production", PRODUCTION), ("cumulative", CUMULATIVE), ("staging", request_for(*DAYS[:2]).staging)):
        shown = pipeline.show(feed.warehouse, request_for(*DAYS[:2]), part)
        assert shown.table == feed.warehouse.full_name(table)
        assert shown.rows.column_names == [column.name for column in table.columns]
        keys = [(row["date"], row["ticker"]) for row in shown.rows.to_pylist()]
        assert keys == [(day, ticker) for day in DAYS[:2] for ticker in sorted(TICKERS)]


def test_show_leaves_out_other_sessions_and_tickers_except_in_staging(feed: Feed) -> None:
    feed.load(request_for(*DAYS[:3]))
    for part in STAMPS:
        shown = pipeline.show(feed.warehouse, request_for(DAYS[1], tickers=("META", "AAPL")), part).rows.to_pylist()
        assert [(row["ticker"], row["date"]) for row in shown] == [("AAPL", DAYS[1]), ("META", DAYS[1])]
    feed.warehouse.stage(request_for().staging, staged(bar("OTHER", DAYS[1]), bar("META", DAY)))
    shown = pipeline.show(feed.warehouse, request_for(), "staging").rows.to_pylist()
    assert [row["ticker"] for row in shown] == ["OTHER", "META"]


@pytest.mark.on_spark
def test_show_as_of_returns_the_rows_of_that_time(feed: Feed) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    feed.load(request_for())
    first, then = feed.tables(), datetime.now(UTC)
    feed.serve(revised("META", DAY))
    feed.load(request_for())

    def as_of(part: str, instant: datetime) -> list[Row]:
        return cast("list[Row]", pipeline.show(feed.warehouse, request_for(), part, as_of=instant).rows.to_pylist())

    for part, rows in first.items():
        assert as_of(part, then) == rows
        assert as_of(part, datetime.now(UTC)) == feed.rows(part) != rows
        with pytest.raises(SettingsError, match="has no history as of"):
            as_of(part, began)


@pytest.mark.parametrize("part", pipeline.PARTS)
def test_init_tables_creates_one_part_and_reports_that_it_exists_the_next_time(part: str, warehouse: Warehouse) -> None:
    names = {
        "schema": ("the schema",),
        "staging": (warehouse.full_name(request_for().staging),),
        "production": tuple(map(warehouse.full_name, (PRODUCTION, SPLITS, FINDINGS))),
        "cumulative": (warehouse.full_name(CUMULATIVE),),
    }
    assert pipeline.init_tables(warehouse, request_for(), [part]) == pipeline.Initialized(created=names[part], present=())
    assert pipeline.init_tables(warehouse, request_for(), [part]) == pipeline.Initialized(created=(), present=names[part])
    missing = [other for other in pipeline.PARTS if other not in (part, "schema")]
    assert pipeline.init_tables(warehouse, request_for(), missing).created == tuple(
        name for other in missing for name in names[other]
    )


def test_init_tables_without_a_session_creates_no_staging(warehouse: Warehouse) -> None:
    everything = pipeline.init_tables(warehouse, Request(TICKERS, ()))
    assert everything.created == ("the schema", *map(warehouse.full_name, (PRODUCTION, SPLITS, FINDINGS, CUMULATIVE)))
    assert pipeline.init_tables(warehouse, request_for()).created == (warehouse.full_name(request_for().staging),)


@pytest.mark.on_spark
def test_init_tables_adds_a_nullable_column_that_an_older_table_lacks(feed: Feed) -> None:
    older = replace(PRODUCTION, columns=tuple(column for column in PRODUCTION.columns if column.name != "vwap"))
    pipeline.init_tables(feed.warehouse, request_for(), [pipeline.SCHEMA])
    feed.warehouse.create(older)
    done = pipeline.init_tables(feed.warehouse, Request(TICKERS, ()))
    assert done.added == (f"{feed.warehouse.full_name(PRODUCTION)}.vwap",)
    assert feed.warehouse.full_name(PRODUCTION) in done.present
    assert pipeline.init_tables(feed.warehouse, Request(TICKERS, ())).added == ()
    feed.load(request_for())
    assert expected.by_key(feed.rows("production"), without="insertion_timestamp") == expected.production(
        [bar(ticker, DAY) for ticker in TICKERS]
    )


def test_init_tables_adds_nothing_to_a_table_that_differs_in_another_way(warehouse: Warehouse) -> None:
    columns = tuple(replace(column, type="STRING") if column.name == "close" else column for column in PRODUCTION.columns)
    pipeline.init_tables(warehouse, request_for(), [pipeline.SCHEMA])
    warehouse.create(replace(PRODUCTION, columns=tuple(column for column in columns if column.name != "vwap")))
    with pytest.raises(TableMismatch, match=r"close is STRING, .* expected; vwap is missing"):
        pipeline.init_tables(warehouse, Request(TICKERS, ()))


def test_init_tables_keeps_existing_rows(feed: Feed) -> None:
    feed.load(request_for())
    before = feed.tables()
    pipeline.init_tables(feed.warehouse, request_for())
    assert feed.tables() == before


def test_run_day_carries_out_the_steps_in_order_and_reports_each_result(feed: Feed) -> None:
    progress = Recorder()

    run = pipeline.run_day(feed.source, feed.warehouse, request_for(), progress)

    assert progress.steps == ["init-tables", "ingest", "check", "promote", "cumulate", "drop-staging"]
    assert progress.results == ["Initialized", "Ingested", "Audit", "Published", "Cumulated", "Dropped"]
    assert isinstance(run, DayRun)


def test_steps_one_by_one_do_the_same_as_run_day(feed: Feed) -> None:
    request = request_for(*DAYS[:3])
    pipeline.init_tables(feed.warehouse, request)
    ingested = pipeline.ingest(feed.source, feed.warehouse, request)
    audit = pipeline.check(feed.warehouse, request)
    published = pipeline.promote(feed.warehouse, request)
    cumulated = pipeline.cumulate(feed.warehouse, request)
    pipeline.drop_staging(feed.warehouse, request)
    before = feed.tables()

    run = feed.load(request)

    assert (run.ingested, run.audit, run.published.allowed, run.cumulated.missing) == (
        ingested,
        audit,
        published.allowed,
        cumulated.missing,
    )
    assert outcome(published.replaced) == outcome(cumulated.replaced) == (15, 0, 0, 0)
    assert outcome(run.published.replaced) == outcome(run.cumulated.replaced) == (0, 0, 0, 15)
    assert feed.tables() == before


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Pacific/Honolulu"])
def test_time_zone_of_the_machine_changes_nothing(zone: str, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        feed.load(request_for(*DAYS[:2]))
        feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:2]])
    time.tzset()
