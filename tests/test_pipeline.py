"""The steps on a warehouse, fed by a loopback Polygon whose bars a test decides.

Nothing here knows which warehouse it runs on: to prove another one, add its name to the fixture's parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pyarrow as pa
import pytest

from maang_cli import checks, pipeline, settings
from maang_cli.checks import AllowMissing
from maang_cli.errors import ExitCode, GateRefused, OutOfOrder, SettingsError, WarehouseFailed
from maang_cli.pipeline import DayRun, Request
from maang_cli.sources import SOURCES
from maang_cli.sources.base import Source
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGED_COLUMNS, Table, arrow_schema
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Replaced, Warehouse
from tests import expected
from tests.expected import Bar, Key, Row
from tests.polygon_server import PolygonServer

TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
DAYS = expected.run_of(date(2025, 11, 17), 12)
"""12 sessions in a row, Thanksgiving and the early close after it among them."""
DAY = DAYS[6]
STAMPS = {"production": "insertion_timestamp", "cumulative": "updated_at"}

DROPPED = "was dropped before it was published, by another run; nothing was published"

StepContext = AbstractContextManager[Callable[[object], None]]


@pytest.fixture(params=["local", "databricks"])
def warehouse(request: pytest.FixtureRequest, home: object) -> Iterator[Warehouse]:
    """An empty warehouse."""
    if request.param == "databricks":
        request.getfixturevalue("databricks")
    chosen = settings.load(warehouse=request.param)
    with closing(WAREHOUSES[chosen.warehouse](chosen)) as opened:
        yield opened


def silently(_name: str) -> StepContext:
    return nullcontext(lambda _result: None)


def bar(ticker: str, day: date, **changes: Any) -> Bar:
    """A bar that passes the gate; most of its numbers need rounding, some at a tie."""
    n = (sum(map(ord, ticker)) * 31 + day.toordinal() * 17) % 997
    usual = Bar(
        ticker,
        day,
        open=f"{n + 20}.005",
        high=f"{n + 22}.4449",
        low=f"{n + 18}.5",
        close=f"{n + 21}.{n % 100:02}5",
        volume=f"{n + 3}.3166045e+04",
        vwap=f"{n + 20}.123456",
        transactions=str(n + 7),
    )
    return replace(usual, **changes)


def revised(ticker: str, day: date) -> Bar:
    """A later edition of the bar, which passes the gate too."""
    return bar(ticker, day, low="0.5", high="2000", close="500.255")


def crossed(ticker: str, day: date) -> Bar:
    """A bar whose high is below its low."""
    return bar(ticker, day, high="1", low="2")


@dataclass
class Feed:
    """A vendor, and the steps that land its bars."""

    polygon: PolygonServer
    source: Source
    warehouse: Warehouse
    bars: dict[Key, Bar] = field(default_factory=dict)
    """What the vendor has now."""

    def serve(self, *bars: Bar) -> None:
        """The vendor has these bars from now on, in the place of those of the same tickers and sessions."""
        self.bars |= {(bar.ticker, bar.date): bar for bar in bars}
        self._answer()

    def withdraw(self, *tickers: str, day: date) -> None:
        for ticker in tickers:
            del self.bars[ticker, day]
        self._answer()

    def _answer(self) -> None:
        expected.serve(self.polygon, self.bars.values())

    def land(self, request: Request) -> DayRun:
        return pipeline.run_day(self.source, self.warehouse, request, silently)

    def ready_to_publish(self, request: Request) -> None:
        pipeline.init_tables(self.warehouse, request)
        pipeline.ingest(self.source, self.warehouse, request)

    def rows(self, part: str, tickers: Sequence[str] = TICKERS) -> list[Row]:
        """A table's rows of DAYS, stamps included."""
        request = Request(tuple(tickers), DAYS)
        return cast("list[Row]", pipeline.show(self.warehouse, request, part).rows.to_pylist())

    def tables(self, tickers: Sequence[str] = TICKERS) -> dict[str, list[Row]]:
        return {part: self.rows(part, tickers) for part in STAMPS}

    def assert_recomputed(self, bars: Sequence[Bar] | None = None) -> None:
        """Both tables hold exactly what the vendor's bars (or `bars`) make of them."""
        bars = list(self.bars.values()) if bars is None else bars
        tickers = sorted({bar.ticker for bar in bars} | set(TICKERS))
        found = {part: expected.by_key(self.rows(part, tickers), without=stamp) for part, stamp in STAMPS.items()}
        assert found == {"production": expected.production(bars), "cumulative": expected.cumulative(bars)}


@pytest.fixture
def feed(polygon: PolygonServer, warehouse: Warehouse) -> Iterator[Feed]:
    """Bars of TICKERS on all of DAYS, and an empty warehouse."""
    with closing(SOURCES["polygon"](settings.load())) as source:
        made = Feed(polygon, source, warehouse)
        made.serve(*(bar(ticker, day) for ticker in TICKERS for day in DAYS))
        yield made


def asked(*days: date, tickers: tuple[str, ...] = TICKERS, allow: AllowMissing = checks.ALL_MUST_BE_THERE) -> Request:
    return Request(tickers, days or (DAY,), allow)


def staged(*bars: Bar) -> pa.Table:
    """Bars as a source hands them over."""
    rows = [
        {"session": row["date"]} | {name: _decimal(value) for name, value in row.items()}
        for row in expected.production(bars).values()
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(STAGED_COLUMNS))


def _decimal(value: object) -> object:
    return Decimal(value) if isinstance(value, int) else value


def test_a_day_lands_in_both_tables(feed: Feed) -> None:
    run = feed.land(asked())
    assert run.ingested.rows == len(TICKERS)
    assert run.audit.passed
    assert run.published.replaced == Replaced(feed.warehouse.full_name(PRODUCTION), len(TICKERS), 0, 0, 0)
    assert run.cumulated.replaced == Replaced(feed.warehouse.full_name(CUMULATIVE), len(TICKERS), 0, 0, 0)
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date == DAY])


def test_new_rows_are_stamped_with_the_time_of_the_run_in_utc(feed: Feed) -> None:
    before = datetime.now(UTC)
    feed.land(asked())
    after = datetime.now(UTC)
    for part, stamp in STAMPS.items():
        stamps = [cast("datetime", row[stamp]) for row in feed.rows(part)]
        assert all(before <= when <= after and when.utcoffset() == timedelta(0) for when in stamps)


def test_nine_sessions_in_a_row_fill_the_windows_one_by_one(feed: Feed) -> None:
    holes = [len(feed.land(asked(day)).cumulated.holes) for day in DAYS[:9]]
    assert holes == [6, 5, 4, 3, 2, 1, 0, 0, 0]
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:9]])


def test_nine_sessions_in_one_request_equal_nine_in_a_row(feed: Feed) -> None:
    run = feed.land(asked(*DAYS[:9]))
    assert run.published.replaced.inserted == run.cumulated.replaced.inserted == 9 * len(TICKERS)
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:9]])


def test_sessions_landed_out_of_order_end_as_those_in_order(feed: Feed) -> None:
    days = DAYS[:8]
    for number in (5, 0, 7, 2, 1, 6, 4, 3):
        feed.land(asked(days[number]))
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in days])


def test_a_revised_session_ripples_into_its_window_and_the_next_six_and_nowhere_else(feed: Feed) -> None:
    feed.land(asked(*DAYS))
    before = {part: by_key(rows) for part, rows in feed.tables().items()}
    feed.serve(revised("META", DAYS[3]))

    run = feed.land(asked(DAYS[3]))

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


@pytest.mark.parametrize("step", ["run_day", "promote", "cumulate"])
def test_a_rerun_with_the_same_bars_changes_nothing_and_says_unchanged(step: str, feed: Feed) -> None:
    feed.land(asked(*DAYS[:7]))
    before = feed.tables()
    if step == "run_day":
        run = feed.land(asked())
        done = [run.published.replaced, run.cumulated.replaced]
    elif step == "promote":
        pipeline.ingest(feed.source, feed.warehouse, asked())
        done = [pipeline.promote(feed.warehouse, asked()).replaced]
    else:
        done = [pipeline.cumulate(feed.warehouse, asked()).replaced]
    assert [outcome(replaced) for replaced in done] == [(0, 0, 0, len(TICKERS))] * len(done)
    assert not any(replaced.changed for replaced in done)
    assert feed.tables() == before


def test_a_session_that_production_lacks_shortens_the_windows_and_is_reported(feed: Feed) -> None:
    hole = DAYS[8]
    feed.land(asked(*DAYS[2:8]))
    run = feed.land(asked(DAYS[9]))
    assert dict(run.cumulated.holes)[hole] == 0
    row = by_key(feed.rows("cumulative"))["META", DAYS[9]]
    assert len(cast("list[Decimal]", row["last_7_days_close"])) == 6
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[2:10] and bar.date != hole])


def test_a_session_that_lacks_one_ticker_is_reported_with_how_many_it_holds(feed: Feed) -> None:
    feed.land(asked(DAYS[5], tickers=TICKERS[1:]))
    run = feed.land(asked(DAYS[6]))
    assert dict(run.cumulated.holes)[DAYS[5]] == len(TICKERS) - 1


def test_a_full_history_has_no_holes_to_report(feed: Feed) -> None:
    feed.land(asked(*DAYS))
    assert pipeline.cumulate(feed.warehouse, asked(DAYS[6])).holes == ()


def test_a_refusal_leaves_both_tables_alone_and_keeps_the_staged_rows(feed: Feed) -> None:
    feed.land(asked(*DAYS[:8]))
    before = feed.tables()
    feed.serve(crossed("META", DAY))

    with pytest.raises(GateRefused) as refused:
        feed.land(asked())

    assert refused.value.exit_code == ExitCode.REFUSED
    assert refused.value.audit is not None
    assert [result.check.name for result in refused.value.audit.failed] == ["price_ranges"]
    assert feed.warehouse.full_name(asked().staging) in refused.value.hint
    assert feed.tables() == before
    kept = pipeline.show(feed.warehouse, asked(), "staging").rows.to_pylist()
    assert [(row["high"], row["low"]) for row in kept if row["ticker"] == "META"] == [(Decimal("1.00"), Decimal("2.00"))]


def test_a_plain_rerun_heals_a_refusal(feed: Feed) -> None:
    feed.serve(crossed("META", DAY))
    with pytest.raises(GateRefused):
        feed.land(asked())
    assert feed.tables() == {"production": [], "cumulative": []}

    feed.serve(bar("META", DAY))
    feed.land(asked())

    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date == DAY])
    assert pipeline.drop_staging(feed.warehouse, asked()).dropped is False


def test_promote_audits_for_itself(feed: Feed) -> None:
    feed.serve(crossed("META", DAY))
    feed.ready_to_publish(asked())
    with pytest.raises(GateRefused):
        pipeline.promote(feed.warehouse, asked())
    assert feed.rows("production") == []


def test_one_bad_session_of_a_request_holds_no_other_back(feed: Feed) -> None:
    feed.serve(crossed("META", DAYS[1]))
    run = feed.land(asked(*DAYS[:3]))
    assert run.audit.refused == {DAYS[1]: ("price_ranges",)}
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in (DAYS[0], DAYS[2])])


def test_values_at_the_bounds_of_the_gate_are_published_as_they_are(feed: Feed) -> None:
    top, cent = str(checks.MAX_PRICE), "0.01"
    counts = {"volume": str(checks.MAX_VOLUME), "transactions": str(checks.MAX_TRANSACTIONS)}
    bars = [
        bar("META", DAYS[0], open=top, high=top, low=top, close=top, vwap=top, **counts),
        bar("META", DAYS[1], open=cent, high=cent, low=cent, close=cent, vwap=cent, volume="1", transactions="0"),
        bar("META", DAYS[2], open=cent, high=top, low=cent, close=cent, vwap=None, **counts | {"transactions": None}),
    ]
    feed.serve(*bars)
    feed.land(asked(*DAYS[:3], tickers=("META",)))
    feed.assert_recomputed(bars)


def test_universes_of_different_size_share_the_tables(feed: Feed) -> None:
    feed.serve(*(bar("MSFT", day) for day in DAYS))
    feed.land(asked(*DAYS[:3]))
    before = {part: by_key(rows) for part, rows in feed.tables().items()}
    feed.serve(revised("META", DAYS[1]))

    run = feed.land(asked(DAYS[1], tickers=("MSFT", "META")))

    assert outcome(run.published.replaced) == (1, 1, 0, 0)
    after = {part: by_key(rows) for part, rows in feed.tables().items()}
    assert changed(before["production"], after["production"]) == {("META", DAYS[1])}
    assert changed(before["cumulative"], after["cumulative"]) == {("META", DAYS[1]), ("META", DAYS[2])}
    landed = [("MSFT", DAYS[1]), *((ticker, day) for ticker in TICKERS for day in DAYS[:3])]
    feed.assert_recomputed([feed.bars[key] for key in landed])


def test_universes_of_one_session_are_staged_apart(feed: Feed) -> None:
    few = asked(tickers=("META", "AAPL"))
    pipeline.ingest(feed.source, feed.warehouse, asked())
    pipeline.ingest(feed.source, feed.warehouse, few)
    assert pipeline.show(feed.warehouse, asked(), "staging").rows.num_rows == len(TICKERS)
    assert pipeline.show(feed.warehouse, few, "staging").rows.num_rows == 2


@pytest.mark.parametrize(
    ("absent", "allow", "passes"),
    [
        (["NFLX"], AllowMissing(tickers=frozenset({"NFLX"})), True),
        (["NFLX", "META"], AllowMissing(tickers=frozenset({"NFLX"})), False),
        (["NFLX"], AllowMissing(percent=Decimal(20)), True),
        (["NFLX"], AllowMissing(percent=Decimal("19.99")), False),
        (["NFLX", "META"], AllowMissing(percent=Decimal("39.99")), False),
        (["NFLX", "META"], AllowMissing(percent=Decimal(40)), True),
    ],
)
def test_tickers_may_be_absent_by_name_or_up_to_a_share(absent: list[str], allow: AllowMissing, passes: bool, feed: Feed) -> None:
    feed.withdraw(*absent, day=DAY)
    if passes:
        run = feed.land(asked(allow=allow))
        assert sorted((row.ticker, row.date) for row in run.published.absent) == sorted((ticker, DAY) for ticker in absent)
        feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date == DAY])
    else:
        with pytest.raises(GateRefused):
            feed.land(asked(allow=allow))
        assert feed.rows("production") == []


def test_the_old_row_of_an_absent_ticker_goes_from_both_tables_and_from_later_windows(feed: Feed) -> None:
    feed.land(asked(*DAYS[:8]))
    feed.withdraw("NFLX", day=DAY)
    run = feed.land(asked(allow=AllowMissing(tickers=frozenset({"NFLX"}))))
    assert outcome(run.published.replaced) == (0, 0, 1, len(TICKERS) - 1)
    assert run.cumulated.replaced.deleted == 1
    assert run.cumulated.replaced.updated == 1
    feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:8]])


def test_a_session_where_every_ticker_may_be_absent_empties_it(feed: Feed) -> None:
    feed.serve(bar("MSFT", DAY))
    feed.land(asked())
    feed.withdraw(*TICKERS, day=DAY)
    run = feed.land(asked(allow=AllowMissing(percent=Decimal(100))))
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
        ("cumulate", "holds none of these tickers on 2025-11-25", "maang run-day --date 2025-11-25{flags}"),
    ],
)
def test_a_step_before_the_one_it_needs_says_which(step: str, message: str, hint: str, warehouse: Warehouse) -> None:
    pipeline.init_tables(warehouse, Request(TICKERS, ()))
    assert_out_of_order(step, warehouse, message, hint)


@pytest.mark.parametrize("step", ["promote", "cumulate", "show"])
def test_a_step_without_its_tables_names_init_tables(step: str, feed: Feed) -> None:
    pipeline.ingest(feed.source, feed.warehouse, asked())
    message = f"there is no table {feed.warehouse.full_name(PRODUCTION)}"
    assert_out_of_order(step, feed.warehouse, message, "create it: maang init-tables{flags}")


def test_cumulate_without_its_own_table_names_init_tables(feed: Feed) -> None:
    pipeline.init_tables(feed.warehouse, asked(), ["production"])
    pipeline.ingest(feed.source, feed.warehouse, asked())
    pipeline.promote(feed.warehouse, asked())
    message = f"there is no table {feed.warehouse.full_name(CUMULATIVE)}"
    assert_out_of_order("cumulate", feed.warehouse, message, "create it: maang init-tables{flags}")


def assert_out_of_order(step: str, warehouse: Warehouse, message: str, hint: str) -> None:
    with pytest.raises(OutOfOrder) as error:
        STEPS[step](warehouse, asked())
    assert error.value.exit_code == ExitCode.UNUSABLE
    assert message in error.value.message
    assert error.value.hint.endswith(hint)


class Meddled:
    """A warehouse in which something else happens just before `replace`, as when another run is at work."""

    def __init__(self, warehouse: Warehouse, meddle: Callable[[], object]) -> None:
        self._warehouse = warehouse
        self._meddle = meddle
        self.after: Callable[[], object] = lambda: None
        """What happens once `replace` has failed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._warehouse, name)

    def replace(
        self, table: Table, query: Query, tickers: Sequence[str], sessions: Sequence[date], unless: Query | None = None
    ) -> Replaced:
        self._meddle()
        try:
            return self._warehouse.replace(table, query, tickers, sessions, unless)
        except Exception:
            self.after()
            raise


@dataclass
class Race:
    """A day in production, a revision of it that is staged, and its publishing with something in between."""

    feed: Feed

    def __post_init__(self) -> None:
        self.feed.land(asked())
        self.before = self.feed.tables()
        self.feed.serve(revised("META", DAY))
        self.feed.ready_to_publish(asked())

    def stage(self, *bars: Bar) -> Callable[[], None]:
        return lambda: self.feed.warehouse.stage(asked().staging, staged(*bars))

    def promote(self, meddle: Callable[[], object], after: Callable[[], object] = lambda: None) -> pipeline.Published:
        meddled = Meddled(self.feed.warehouse, meddle)
        meddled.after = after
        return pipeline.promote(cast("Warehouse", meddled), asked())

    def assert_untouched(self) -> None:
        assert self.feed.tables() == self.before


@pytest.mark.parametrize(
    ("bars", "check"),
    [
        ([crossed("META", DAY), *(bar(ticker, DAY) for ticker in TICKERS[1:])], "price_ranges"),
        ([bar(ticker, DAY) for ticker in TICKERS[1:]], "missing_stocks"),
        ([], "missing_stocks"),
    ],
    ids=["spoiled", "one row gone", "emptied"],
)
def test_staging_that_is_spoiled_between_audit_and_publishing_is_refused(bars: list[Bar], check: str, feed: Feed) -> None:
    race = Race(feed)
    with pytest.raises(GateRefused) as refused:
        race.promote(race.stage(*bars))
    assert refused.value.audit is not None
    assert [result.check.name for result in refused.value.audit.failed] == [check]
    race.assert_untouched()


def test_staging_that_is_dropped_between_audit_and_publishing_may_heal(feed: Feed) -> None:
    race = Race(feed)
    with pytest.raises(WarehouseFailed, match=DROPPED) as failed:
        race.promote(lambda: feed.warehouse.drop(asked().staging))
    assert failed.value.exit_code == ExitCode.MAY_HEAL
    race.assert_untouched()


@pytest.mark.parametrize("before", ["check", "promote"])
def test_staging_that_is_dropped_in_the_middle_of_run_day_may_heal(before: str, feed: Feed) -> None:
    race = Race(feed)

    def step(name: str) -> StepContext:
        if name == before:
            feed.warehouse.drop(asked().staging)
        return silently(name)

    with pytest.raises(WarehouseFailed, match=DROPPED):
        pipeline.run_day(feed.source, feed.warehouse, asked(), step)
    race.assert_untouched()


def test_staging_that_is_spoiled_and_mended_around_publishing_may_heal(feed: Feed) -> None:
    race = Race(feed)
    good = [bar(ticker, DAY) for ticker in TICKERS]
    with pytest.raises(WarehouseFailed, match="was changed while it was being published; nothing was published"):
        race.promote(race.stage(*good[1:]), after=race.stage(*good))
    race.assert_untouched()


def test_what_is_audited_last_is_what_is_published(feed: Feed) -> None:
    race = Race(feed)
    newer = [bar(ticker, DAY, volume="777") for ticker in TICKERS]
    race.promote(race.stage(*newer))
    assert expected.by_key(feed.rows("production"), without="insertion_timestamp") == expected.production(newer)


def test_staging_is_dropped_once_and_again(feed: Feed) -> None:
    pipeline.ingest(feed.source, feed.warehouse, asked())
    assert [pipeline.drop_staging(feed.warehouse, asked()).dropped for _ in range(3)] == [True, False, False]


def test_show_gives_the_rows_of_its_part_by_session_and_ticker(feed: Feed) -> None:
    feed.land(asked(*DAYS[:2]))
    pipeline.ingest(feed.source, feed.warehouse, asked(*DAYS[:2]))
    for part, table in (("production", PRODUCTION), ("cumulative", CUMULATIVE), ("staging", asked(*DAYS[:2]).staging)):
        shown = pipeline.show(feed.warehouse, asked(*DAYS[:2]), part)
        assert shown.table == feed.warehouse.full_name(table)
        assert shown.rows.column_names == [column.name for column in table.columns]
        keys = [(row["date"], row["ticker"]) for row in shown.rows.to_pylist()]
        assert keys == [(day, ticker) for day in DAYS[:2] for ticker in sorted(TICKERS)]


def test_show_leaves_out_other_sessions_and_tickers_but_shows_all_that_is_staged(feed: Feed) -> None:
    feed.land(asked(*DAYS[:3]))
    for part in STAMPS:
        shown = pipeline.show(feed.warehouse, asked(DAYS[1], tickers=("META", "AAPL")), part).rows.to_pylist()
        assert [(row["ticker"], row["date"]) for row in shown] == [("AAPL", DAYS[1]), ("META", DAYS[1])]
    feed.warehouse.stage(asked().staging, staged(bar("OTHER", DAYS[1]), bar("META", DAY)))
    shown = pipeline.show(feed.warehouse, asked(), "staging").rows.to_pylist()
    assert [row["ticker"] for row in shown] == ["OTHER", "META"]


@pytest.mark.parametrize("part", ["production", "cumulative"])
def test_show_as_of_gives_the_rows_as_they_were_then(part: str, feed: Feed) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    feed.land(asked())
    first, then = feed.rows(part), datetime.now(UTC)
    time.sleep(0.002)  # history counts in milliseconds
    feed.serve(revised("META", DAY))
    feed.land(asked())

    assert pipeline.show(feed.warehouse, asked(), part, as_of=then).rows.to_pylist() == first
    assert pipeline.show(feed.warehouse, asked(), part, as_of=datetime.now(UTC)).rows.to_pylist() == feed.rows(part) != first
    with pytest.raises(SettingsError, match="has no history as of"):
        pipeline.show(feed.warehouse, asked(), part, as_of=began)


@pytest.mark.parametrize("part", pipeline.PARTS)
def test_init_tables_creates_one_part_alone_and_finds_it_again(part: str, warehouse: Warehouse) -> None:
    names = {
        "schema": "the schema",
        "staging": warehouse.full_name(asked().staging),
        "production": warehouse.full_name(PRODUCTION),
        "cumulative": warehouse.full_name(CUMULATIVE),
    }
    assert pipeline.init_tables(warehouse, asked(), [part]) == pipeline.Initialized(created=(names[part],), present=())
    assert pipeline.init_tables(warehouse, asked(), [part]) == pipeline.Initialized(created=(), present=(names[part],))
    missing = [other for other in pipeline.PARTS if other not in (part, "schema")]
    assert pipeline.init_tables(warehouse, asked(), missing).created == tuple(names[other] for other in missing)


def test_init_tables_without_a_session_leaves_staging_out(warehouse: Warehouse) -> None:
    everything = pipeline.init_tables(warehouse, Request(TICKERS, ()))
    assert everything.created == ("the schema", warehouse.full_name(PRODUCTION), warehouse.full_name(CUMULATIVE))
    assert pipeline.init_tables(warehouse, asked()).created == (warehouse.full_name(asked().staging),)


def test_init_tables_leaves_rows_alone(feed: Feed) -> None:
    feed.land(asked())
    before = feed.tables()
    pipeline.init_tables(feed.warehouse, asked())
    assert feed.tables() == before


def test_run_day_takes_the_steps_in_order_and_tells_each_result(feed: Feed) -> None:
    told: list[tuple[str, str]] = []

    def step(name: str) -> StepContext:
        return nullcontext(lambda result: told.append((name, type(result).__name__)))

    run = pipeline.run_day(feed.source, feed.warehouse, asked(), step)

    assert told == [
        ("init-tables", "Initialized"),
        ("ingest", "Ingested"),
        ("check", "Audit"),
        ("promote", "Published"),
        ("cumulate", "Cumulated"),
        ("drop-staging", "Dropped"),
    ]
    assert isinstance(run, DayRun)


def test_the_steps_one_by_one_do_what_run_day_does(feed: Feed) -> None:
    request = asked(*DAYS[:3])
    pipeline.init_tables(feed.warehouse, request)
    ingested = pipeline.ingest(feed.source, feed.warehouse, request)
    audit = pipeline.check(feed.warehouse, request)
    published = pipeline.promote(feed.warehouse, request)
    cumulated = pipeline.cumulate(feed.warehouse, request)
    pipeline.drop_staging(feed.warehouse, request)
    before = feed.tables()

    run = feed.land(request)

    assert (run.ingested, run.audit, run.published.absent, run.cumulated.holes) == (
        ingested,
        audit,
        published.absent,
        cumulated.holes,
    )
    assert outcome(published.replaced) == outcome(cumulated.replaced) == (15, 0, 0, 0)
    assert outcome(run.published.replaced) == outcome(run.cumulated.replaced) == (0, 0, 0, 15)
    assert feed.tables() == before


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Pacific/Honolulu"])
def test_the_machines_time_zone_changes_nothing(zone: str, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        feed.land(asked(*DAYS[:2]))
        feed.assert_recomputed([bar for bar in feed.bars.values() if bar.date in DAYS[:2]])
    time.tzset()
