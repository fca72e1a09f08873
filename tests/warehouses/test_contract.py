"""What every warehouse promises, through `base.Warehouse` alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from maang_cli.errors import CommitLost, SettingsError, TableMismatch
from maang_cli.pipeline import publish_query
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGED_COLUMNS, Column, Table, staging
from maang_cli.warehouses.base import Forbidden, Query, Read, Replaced, TableMissing, Warehouse
from tests.warehouses.conftest import (
    MONDAY,
    STAGING,
    TUESDAY,
    WEDNESDAY,
    Opener,
    Row,
    bar,
    content,
    publish,
    staged,
    without_stamp,
)

PUBLISH = publish_query(STAGING, [TUESDAY])
TABLES = [pytest.param(table, id=table.name) for table in (PRODUCTION, CUMULATIVE, STAGING)]
STRANGE_TEXTS = ["", " ", "\t", "O'Brien", '"', "%s", "?", ":d", "$1", "a;b--c", "a\nb", "naïve", "日本", "🚀", "null", "NULL"]
WIDE = "9" * 36 + ".99"
"""The largest number of a DECIMAL(38,2)."""


def counts(done: Replaced) -> tuple[int, int, int, int]:
    return done.inserted, done.updated, done.deleted, done.unchanged


def variant(table: Table, **types: str | None) -> Table:
    """The table with other types for some columns, or without them (None)."""
    columns = (replace(column, type=types.get(column.name, column.type) or "") for column in table.columns)
    return replace(table, columns=tuple(column for column in columns if column.type))


def wider(table: Table, *columns: Column) -> Table:
    return replace(table, columns=(*table.columns, *columns))


# create


@pytest.mark.parametrize("table", TABLES)
def test_a_created_table_is_empty_and_is_created_once(warehouse: Warehouse, table: Table) -> None:
    assert warehouse.create(table)
    assert content(warehouse, table) == []
    assert not warehouse.create(table)
    assert content(warehouse, table) == []


def test_a_schema_is_created_once(warehouse: Warehouse) -> None:
    assert warehouse.create_schema()
    assert not warehouse.create_schema()


def test_creating_a_table_creates_its_schema(warehouse: Warehouse) -> None:
    assert warehouse.create(PRODUCTION)
    assert not warehouse.create_schema()


def test_creating_again_keeps_the_rows(warehouse: Warehouse) -> None:
    warehouse.create(PRODUCTION)
    publish(warehouse, bar("META", TUESDAY))
    before = content(warehouse)
    assert not warehouse.create(PRODUCTION)
    assert content(warehouse) == before


def test_another_connection_sees_what_was_created(reopen: Opener) -> None:
    assert reopen().create(PRODUCTION)
    assert not reopen().create(PRODUCTION)
    assert content(reopen()) == []


def test_the_full_name_ends_in_schema_and_table(warehouse: Warehouse) -> None:
    assert warehouse.full_name(PRODUCTION).split(".")[-2:] == ["maang", "daily_stock_prices"]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        pytest.param(variant(PRODUCTION, vwap=None), ["vwap is missing, DECIMAL(10,2) expected"], id="missing"),
        pytest.param(
            variant(PRODUCTION, close="DECIMAL(12,2)", volume="DECIMAL(20,0)"),
            ["close is DECIMAL(12,2), DECIMAL(10,2) expected", "volume is DECIMAL(20,0), BIGINT expected"],
            id="different",
        ),
        pytest.param(
            wider(PRODUCTION, Column("note", "STRING", "", required=True)),
            ["note is required but not maang's: make it nullable"],
            id="required",
        ),
        pytest.param(
            wider(variant(PRODUCTION, open=None, transactions="BIGINT"), Column("note", "STRING", "", required=True)),
            [
                "open is missing, DECIMAL(10,2) expected",
                "transactions is BIGINT, INTEGER expected",
                "note is required but not maang's: make it nullable",
            ],
            id="all-at-once",
        ),
        pytest.param(
            variant(CUMULATIVE, last_7_days_open="ARRAY<DECIMAL(12,2)>", last_7_days_volume="BIGINT"),
            [
                "last_7_days_open is ARRAY<DECIMAL(12,2)>, ARRAY<DECIMAL(10,2)> expected",
                "last_7_days_volume is BIGINT, ARRAY<BIGINT> expected",
            ],
            id="arrays",
        ),
        pytest.param(
            variant(PRODUCTION, insertion_timestamp="DATE"), ["insertion_timestamp is DATE, TIMESTAMP expected"], id="stamp"
        ),
    ],
)
def test_a_table_of_another_shape_is_refused_with_every_difference(warehouse: Warehouse, found: Table, lines: list[str]) -> None:
    wanted = PRODUCTION if found.name == PRODUCTION.name else CUMULATIVE
    warehouse.create(found)
    warehouse.stage(STAGING, staged([bar("META", TUESDAY)]))
    verbs: list[Callable[[], object]] = [
        lambda: warehouse.create(wanted),
        lambda: warehouse.replace(wanted, PUBLISH, ["META"], [TUESDAY]),
    ]
    for verb in verbs:
        with pytest.raises(TableMismatch) as caught:
            verb()
        assert warehouse.full_name(wanted) in caught.value.message
        for line in lines:
            assert line in caught.value.message
        assert caught.value.message.count(" expected") == sum(" expected" in line for line in lines)
    assert content(warehouse, found) == []


def test_extra_nullable_columns_are_left_alone(warehouse: Warehouse) -> None:
    extras = (Column("note", "STRING", "A user's own"), Column("score", "DECIMAL(5,1)", "A user's own"))
    wide = wider(PRODUCTION, *extras)
    warehouse.create(wide)
    assert not warehouse.create(PRODUCTION)
    rows = [bar("AAPL", TUESDAY), bar("META", TUESDAY), bar("NFLX", TUESDAY), bar("OTHER", TUESDAY)]
    warehouse.stage(STAGING, staged(rows))
    own = "'of ' || ticker AS note, CAST(7.5 AS DECIMAL(5,1)) AS score"
    noted = Query(f"SELECT published.*, {own} FROM ({PUBLISH.text}) AS published", PUBLISH.reads)
    warehouse.replace(wide, noted, ["AAPL", "META", "NFLX", "OTHER"], [TUESDAY])

    changed = bar("META", TUESDAY, close=Decimal("10.80"))
    done = publish(warehouse, bar("AAPL", TUESDAY), changed, bar("GOOGL", TUESDAY), tickers=["AAPL", "GOOGL", "META", "NFLX"])

    assert counts(done) == (1, 1, 1, 1)
    noted_now = {row["ticker"]: (row["close"], row["note"], row["score"]) for row in content(warehouse, wide)}
    assert noted_now == {
        "AAPL": (Decimal("10.75"), "of AAPL", Decimal("7.5")),
        "GOOGL": (Decimal("10.75"), None, None),
        "META": (Decimal("10.80"), "of META", Decimal("7.5")),
        "OTHER": (Decimal("10.75"), "of OTHER", Decimal("7.5")),
    }


# stage


@pytest.mark.parametrize("number", [0, 1, 11_000])
def test_staged_rows_are_the_only_content(warehouse: Warehouse, number: int) -> None:
    rows = [bar(f"T{n:05}", TUESDAY, volume=Decimal(n)) for n in range(number)]
    for _ in range(2):
        warehouse.stage(STAGING, staged(rows))
        assert content(warehouse, STAGING) == rows


@pytest.mark.parametrize(("first", "second"), [(3, 1), (1, 3), (2, 0), (0, 2)])
def test_staging_again_leaves_the_second_content_only(reopen: Opener, first: int, second: int) -> None:
    warehouse = reopen()
    warehouse.stage(STAGING, staged(bar(f"A{n}", MONDAY) for n in range(first)))
    rows = [bar(f"B{n}", TUESDAY) for n in range(second)]
    warehouse.stage(STAGING, staged(rows))
    assert content(warehouse, STAGING) == rows
    assert content(reopen(), STAGING) == rows


def test_a_staging_table_of_another_shape_is_replaced(warehouse: Warehouse) -> None:
    warehouse.create(variant(STAGING, close=None, open="DECIMAL(10,2)"))
    rows = [bar("META", TUESDAY)]
    warehouse.stage(STAGING, staged(rows))
    assert content(warehouse, STAGING) == rows


def test_staging_tables_of_different_requests_do_not_touch_each_other(warehouse: Warehouse) -> None:
    one, other = staging(["META"], [TUESDAY]), staging(["AAPL"], [TUESDAY])
    warehouse.stage(one, staged([bar("META", TUESDAY)]))
    warehouse.stage(other, staged([bar("AAPL", TUESDAY)]))
    assert warehouse.drop(one)
    assert content(warehouse, other) == [bar("AAPL", TUESDAY)]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(dict.fromkeys(column.name for column in STAGED_COLUMNS[1:]), id="nothing-but-null"),
        pytest.param(bar("A", TUESDAY, open=Decimal(WIDE), high=Decimal(f"-{WIDE}"), low=Decimal("-0.01")), id="prices"),
        pytest.param(bar("A", TUESDAY, volume=Decimal("9" * 38), transactions=Decimal("-" + "9" * 38)), id="whole-numbers"),
    ],
)
def test_whatever_is_staged_comes_back(warehouse: Warehouse, row: Row) -> None:
    rows = [bar("META", MONDAY), row]
    warehouse.stage(STAGING, staged(rows))
    assert content(warehouse, STAGING) == rows


def test_text_is_kept_to_the_letter(warehouse: Warehouse) -> None:
    texts = [*STRANGE_TEXTS, "back\\slash", "{staging}", "x" * 5000]
    warehouse.stage(STAGING, staged(bar(text, TUESDAY) for text in texts))
    found = warehouse.query(Query("SELECT ticker FROM {it}", {"it": Read(STAGING)}))["ticker"].to_pylist()
    assert sorted(found) == sorted(texts)


# query


def test_a_query_keeps_its_order_and_its_names(warehouse: Warehouse) -> None:
    warehouse.stage(STAGING, staged(bar(f"T{n}", TUESDAY, volume=Decimal(n)) for n in range(5)))
    found = warehouse.query(Query("SELECT ticker AS name, volume FROM {it} ORDER BY volume DESC", {"it": Read(STAGING)}))
    assert found.column_names == ["name", "volume"]
    assert found["volume"].to_pylist() == [4, 3, 2, 1, 0]


def test_a_query_on_no_rows_has_its_columns(warehouse: Warehouse) -> None:
    warehouse.create(PRODUCTION)
    found = warehouse.query(Query("SELECT ticker, close FROM {it}", {"it": Read(PRODUCTION)}))
    assert (found.num_rows, found.column_names) == (0, ["ticker", "close"])


def test_a_query_may_read_one_table_twice_and_several_at_once(warehouse: Warehouse) -> None:
    warehouse.create(PRODUCTION)
    publish(warehouse, bar("META", MONDAY), bar("META", TUESDAY))
    text = (
        "SELECT (SELECT count(*) FROM {one}) AS one, (SELECT count(*) FROM {all_of_it}) AS all_of_it, "
        "(SELECT count(*) FROM {staging}) AS staging"
    )
    reads = {"one": Read(PRODUCTION, (TUESDAY, TUESDAY)), "all_of_it": Read(PRODUCTION), "staging": Read(STAGING)}
    for _ in range(2):
        assert warehouse.query(Query(text, reads)).to_pylist() == [{"one": 1, "all_of_it": 2, "staging": 2}]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("schema_is_there", [True, False])
def test_a_query_on_a_missing_table_says_which(warehouse: Warehouse, table: Table, *, schema_is_there: bool) -> None:
    if schema_is_there:
        warehouse.create_schema()
    for _ in range(2):
        with pytest.raises(TableMissing) as caught:
            content(warehouse, table)
        assert caught.value.table == table


def test_a_table_can_be_read_as_it_was(warehouse: Warehouse) -> None:
    warehouse.create(PRODUCTION)
    past = []
    for close in ("10.70", "10.80", "10.90"):
        publish(warehouse, bar("META", TUESDAY, close=Decimal(close)))
        time.sleep(0.01)  # snapshots are told apart by the millisecond
        past.append((datetime.now(UTC), content(warehouse)))
        time.sleep(0.01)
    assert len({str(rows) for _, rows in past}) == 3
    for instant, rows in past:
        assert content(warehouse, as_of=instant) == rows
        assert content(warehouse, as_of=instant.astimezone()) == rows


@pytest.mark.parametrize("published", [True, False])
def test_a_time_before_the_history_is_a_settings_error(warehouse: Warehouse, *, published: bool) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    warehouse.create(PRODUCTION)
    if published:
        publish(warehouse, bar("META", TUESDAY))
    with pytest.raises(SettingsError) as caught:
        content(warehouse, as_of=long_ago)
    assert warehouse.full_name(PRODUCTION) in caught.value.message
    assert "--as-of" in caught.value.hint


# replace


@pytest.fixture
def production(warehouse: Warehouse) -> Warehouse:
    """A warehouse with production, which is empty."""
    warehouse.create(PRODUCTION)
    return warehouse


def test_new_rows_are_inserted_with_a_stamp(production: Warehouse) -> None:
    before = datetime.now(UTC)
    done = publish(production, bar("AAPL", TUESDAY), bar("META", TUESDAY))
    assert counts(done) == (2, 0, 0, 0)
    assert done.changed
    assert done.table == production.full_name(PRODUCTION)
    rows = content(production)
    assert without_stamp(rows) == [bar("AAPL", TUESDAY), bar("META", TUESDAY)]
    for row in rows:
        stamp = row["insertion_timestamp"]
        assert isinstance(stamp, datetime)
        assert before <= stamp <= datetime.now(UTC)


def test_the_same_rows_again_change_nothing(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    rows = [bar("AAPL", TUESDAY, vwap=None), bar("META", TUESDAY, transactions=None), bar("META", WEDNESDAY)]
    publish(reopen(), *rows)
    before = content(reopen())
    for _ in range(2):
        done = publish(reopen(), *rows)
        assert counts(done) == (0, 0, 0, 3)
        assert not done.changed
        assert content(reopen()) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({"close": Decimal("10.75")}, {"close": Decimal("10.76")}, id="a-cent"),
        pytest.param({"volume": Decimal(1000)}, {"volume": Decimal(1_000_000_000_000)}, id="volume"),
        pytest.param({"vwap": None}, {"vwap": Decimal("10.33")}, id="null-to-value"),
        pytest.param({"transactions": Decimal(42)}, {"transactions": None}, id="value-to-null"),
    ],
)
def test_a_changed_row_gets_a_new_stamp_and_its_neighbour_keeps_its_own(production: Warehouse, old: Row, new: Row) -> None:
    publish(production, bar("AAPL", TUESDAY), bar("META", TUESDAY) | old)
    aapl, meta = content(production)
    assert counts(publish(production, bar("AAPL", TUESDAY), bar("META", TUESDAY) | new)) == (0, 1, 0, 1)
    aapl_now, meta_now = content(production)
    assert aapl_now == aapl
    assert without_stamp([meta_now]) == [bar("META", TUESDAY) | new]
    assert str(meta_now["insertion_timestamp"]) > str(meta["insertion_timestamp"])


def test_every_fate_at_once_is_counted(production: Warehouse) -> None:
    publish(production, bar("A", TUESDAY), bar("B", TUESDAY), bar("C", TUESDAY), bar("D", TUESDAY))
    new = [bar("A", TUESDAY), bar("B", TUESDAY, close=Decimal("10.80")), bar("E", TUESDAY), bar("F", TUESDAY)]
    done = publish(production, *new, tickers=list("ABCDEF"))
    assert counts(done) == (2, 1, 2, 1)
    assert without_stamp(content(production)) == new


def test_rows_of_other_tickers_and_other_sessions_stay(production: Warehouse) -> None:
    others = [bar("META", MONDAY), bar("OTHER", TUESDAY), bar("META", WEDNESDAY)]
    publish(production, bar("META", TUESDAY), *others)
    before = {(row["date"], row["ticker"]): row for row in content(production)}
    assert counts(publish(production, bar("META", TUESDAY, close=Decimal("10.80")))) == (0, 1, 0, 0)
    after = {(row["date"], row["ticker"]): row for row in content(production)}
    assert after.keys() == before.keys()
    assert {key for key, row in after.items() if row != before[key]} == {(TUESDAY, "META")}
    assert after[TUESDAY, "META"]["close"] == Decimal("10.80")


def test_a_ticker_that_others_share_a_session_with_is_inserted_beside_them(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    assert counts(publish(production, bar("AAPL", TUESDAY))) == (1, 0, 0, 0)
    assert content(production)[1:] == before


@pytest.mark.parametrize("sessions", [[TUESDAY], [MONDAY, TUESDAY]])
def test_no_rows_clear_those_tickers_on_those_sessions(production: Warehouse, sessions: list[date]) -> None:
    publish(production, *(bar(ticker, day) for ticker in ("AAPL", "META", "OTHER") for day in (MONDAY, TUESDAY)))
    done = publish(production, tickers=["AAPL", "META"], sessions=sessions)
    assert counts(done) == (0, 0, 2 * len(sessions), 0)
    kept = {(row["date"], row["ticker"]) for row in content(production)}
    cleared = {(day, ticker) for day in sessions for ticker in ("AAPL", "META")}
    assert kept == {(day, ticker) for day in (MONDAY, TUESDAY) for ticker in ("AAPL", "META", "OTHER")} - cleared
    assert counts(publish(production, tickers=["AAPL", "META"], sessions=sessions)) == (0, 0, 0, 0)


def test_no_rows_in_the_place_of_no_rows_change_nothing(production: Warehouse) -> None:
    done = publish(production, tickers=["META"], sessions=[TUESDAY])
    assert (counts(done), done.changed) == ((0, 0, 0, 0), False)
    assert content(production) == []


def test_several_sessions_are_replaced_at_once(production: Warehouse) -> None:
    days = (MONDAY, TUESDAY, WEDNESDAY)
    publish(production, *(bar(ticker, day) for day in days for ticker in ("AAPL", "META")))
    before = content(production)
    new = [
        *(bar(ticker, MONDAY) for ticker in ("AAPL", "META")),
        *(bar(ticker, TUESDAY, close=Decimal("10.80")) for ticker in ("AAPL", "META")),
        bar("AAPL", WEDNESDAY),
    ]
    done = publish(production, *new, tickers=["AAPL", "META"], sessions=days)
    assert counts(done) == (0, 2, 1, 3)
    after = content(production)
    assert without_stamp(after) == new
    assert after[:2] == before[:2]
    assert after[4] == before[4]


def test_eleven_thousand_rows_are_replaced(production: Warehouse) -> None:
    rows = [bar(f"T{n:05}", TUESDAY, volume=Decimal(n + 1)) for n in range(11_000)]
    assert counts(publish(production, *rows)) == (11_000, 0, 0, 0)
    before = content(production)
    assert without_stamp(before) == rows
    rows[7] |= {"vwap": None}
    assert counts(publish(production, *rows)) == (0, 1, 0, 10_999)
    after = content(production)
    assert [n for n in range(11_000) if after[n] != before[n]] == [7]


def test_a_ticker_is_only_text(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY), *(bar(text, TUESDAY) for text in STRANGE_TEXTS))
    before = content(production)
    done = publish(production, *(bar(text, TUESDAY) for text in STRANGE_TEXTS))
    assert counts(done) == (0, 0, 0, len(STRANGE_TEXTS))
    assert content(production) == before
    done = publish(production, tickers=STRANGE_TEXTS, sessions=[TUESDAY])
    assert counts(done) == (0, 0, len(STRANGE_TEXTS), 0)
    assert without_stamp(content(production)) == [bar("META", TUESDAY)]


def test_tickers_that_differ_in_case_are_different(production: Warehouse) -> None:
    publish(production, bar("BACPA", TUESDAY), bar("BACpA", TUESDAY))
    assert counts(publish(production, bar("BACpA", TUESDAY, close=Decimal("10.80")))) == (0, 1, 0, 0)
    assert [row["close"] for row in content(production)] == [Decimal("10.75"), Decimal("10.80")]


def test_the_bounds_of_the_columns_can_be_published(production: Warehouse) -> None:
    price = Decimal("99999999.99")
    least = bar("LEAST", TUESDAY, open=-price, vwap=-price, volume=Decimal(-(2**63)), transactions=Decimal(-(2**31)))
    most = bar("MOST", TUESDAY, open=price, vwap=price, volume=Decimal(2**63 - 1), transactions=Decimal(2**31 - 1))
    nulls = bar("NULL", TUESDAY) | dict.fromkeys(("open", "high", "low", "close", "volume", "vwap", "transactions"))
    rows = [least, most, nulls]
    publish(production, *rows)
    assert without_stamp(content(production)) == rows
    assert counts(publish(production, *rows)) == (0, 0, 0, 3)


def windows(opens: Sequence[str], volatility: str) -> Query:
    """One row of the cumulative table; its arrays hold `opens`."""
    elements = " UNION ALL ".join(f"SELECT {n} AS n, CAST({text} AS DECIMAL(10,2)) AS v" for n, text in enumerate(opens))
    arrays = ", ".join(f"array_agg(v) OVER w AS last_7_days_{name}" for name in ("open", "high", "low", "close"))
    return Query(f"""SELECT DISTINCT 'META' AS ticker, DATE '{TUESDAY}' AS date, {arrays},
  array_agg(CAST(9223372036854775807 AS BIGINT)) OVER w AS last_7_days_volume,
  CAST(9999999999999.99 AS DECIMAL(15,2)) AS avg_7_day_volume, CAST({volatility} AS DECIMAL(10,4)) AS volatility_7_day
FROM ({elements}) AS e
WINDOW w AS (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)""")


def test_arrays_are_compared_by_their_elements(warehouse: Warehouse) -> None:
    warehouse.create(CUMULATIVE)

    def replaced(*opens: str, volatility: str = "NULL") -> tuple[int, int, int, int]:
        return counts(warehouse.replace(CUMULATIVE, windows(opens, volatility), ["META"], [TUESDAY]))

    assert replaced("1", "2") == (1, 0, 0, 0)
    before = content(warehouse, CUMULATIVE)
    assert replaced("1", "2") == (0, 0, 0, 1)
    assert content(warehouse, CUMULATIVE) == before
    assert replaced("2", "1") == (0, 1, 0, 0)
    assert replaced("2") == (0, 1, 0, 0)
    assert replaced("2", volatility="0") == (0, 1, 0, 0)
    assert replaced("2", "3", volatility="999999.9999") == (0, 1, 0, 0)
    assert replaced("2", "3", volatility="999999.9999") == (0, 0, 0, 1)
    (row,) = content(warehouse, CUMULATIVE)
    assert row["last_7_days_close"] == [Decimal("2.00"), Decimal("3.00")]  # never NULL: array_agg leaves it out in Spark
    assert row["last_7_days_volume"] == [2**63 - 1] * 2
    assert (row["avg_7_day_volume"], row["volatility_7_day"]) == (Decimal("9999999999999.99"), Decimal("999999.9999"))


def no_price(hole: str) -> Query:
    return Query(f"SELECT ticker FROM {{{hole}}} WHERE close IS NULL", {hole: Read(STAGING)})


@pytest.mark.parametrize("hole", ["staging", "under_another_name"])
def test_rows_in_unless_forbid_the_replace(production: Warehouse, hole: str) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    for _ in range(2):
        with pytest.raises(Forbidden):
            publish(production, bar("META", TUESDAY, close=None), bar("NEW", TUESDAY), unless=no_price(hole))
    assert content(production) == before


def test_no_rows_in_unless_let_it_pass(production: Warehouse) -> None:
    done = publish(production, bar("META", TUESDAY, vwap=None), unless=no_price("staging"))
    assert counts(done) == (1, 0, 0, 0)


def test_unless_is_asked_when_staging_is_empty(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    empty = Query("SELECT count(*) AS number FROM {staging} HAVING count(*) = 0", {"staging": Read(STAGING)})
    with pytest.raises(Forbidden):
        publish(production, tickers=["META"], sessions=[TUESDAY], unless=empty)
    assert content(production) == before


def test_a_replace_of_a_missing_table_says_which(warehouse: Warehouse) -> None:
    warehouse.stage(STAGING, staged([bar("META", TUESDAY)]))
    with pytest.raises(TableMissing) as caught:
        warehouse.replace(PRODUCTION, PUBLISH, ["META"], [TUESDAY])
    assert caught.value.table == PRODUCTION
    with pytest.raises(TableMissing):
        content(warehouse)


@pytest.mark.parametrize("where", ["query", "unless"])
def test_a_replace_from_a_missing_table_says_which(production: Warehouse, where: str) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    missing = staging(["META"], [WEDNESDAY])
    query = Query(PUBLISH.text, {"staging": Read(missing if where == "query" else STAGING)})
    unless = Query("SELECT ticker FROM {it}", {"it": Read(missing)}) if where == "unless" else None
    with pytest.raises(TableMissing) as caught:
        production.replace(PRODUCTION, query, ["META"], [TUESDAY], unless)
    assert caught.value.table == missing
    assert content(production) == before


# drop, close


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_dropped_once_and_can_be_made_anew(warehouse: Warehouse, table: Table) -> None:
    assert not warehouse.drop(table)
    warehouse.create(table)
    assert warehouse.drop(table)
    assert not warehouse.drop(table)
    with pytest.raises(TableMissing):
        content(warehouse, table)
    assert warehouse.create(table)
    assert content(warehouse, table) == []


def test_a_dropped_staging_table_does_not_come_back_with_its_rows(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY), bar("AAPL", TUESDAY))
    published = content(production)
    production.drop(STAGING)
    production.stage(STAGING, staged([bar("NEW", MONDAY)]))
    assert content(production, STAGING) == [bar("NEW", MONDAY)]
    assert content(production) == published


def test_what_is_written_outlives_the_connection(reopen: Opener) -> None:
    first = reopen()
    first.create(PRODUCTION)
    publish(first, bar("META", TUESDAY))
    rows = content(first)
    first.close()
    assert content(reopen()) == rows


# several at once


def at_once(reopen: Opener, *works: Callable[[Warehouse], object]) -> None:
    """Each piece of work on a connection of its own, all at once; one that lost to the others is done again."""
    together = threading.Barrier(len(works))

    def run(work: Callable[[Warehouse], object], warehouse: Warehouse) -> None:
        together.wait()
        for attempt in range(len(works)):
            try:
                work(warehouse)
                return
            except CommitLost:
                if attempt == len(works) - 1:
                    raise

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(run, work, reopen()) for work in works]:
            future.result()


def publishing(name: str, *rows: Row) -> Callable[[Warehouse], object]:
    """Publish rows three times through a staging table of its own."""
    table = replace(STAGING, name=f"{STAGING.name}_{name}")
    return lambda warehouse: [publish(warehouse, *rows, through=table) for _ in range(3)]


def test_different_sessions_at_once_are_all_published(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    rows = [bar("META", MONDAY), bar("META", TUESDAY), bar("META", WEDNESDAY)]
    at_once(reopen, *(publishing(f"{row['date']:%Y%m%d}", row) for row in rows))
    assert without_stamp(content(reopen())) == rows


def test_different_tickers_of_one_session_at_once_are_all_published(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    rows = [bar("AAPL", TUESDAY), bar("META", TUESDAY), bar("NFLX", TUESDAY)]
    at_once(reopen, *(publishing(str(row["ticker"]).lower(), row) for row in rows))
    assert without_stamp(content(reopen())) == rows


def test_of_two_that_publish_the_same_rows_one_wins_whole(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    versions = [[bar(ticker, TUESDAY, close=Decimal(close)) for ticker in ("AAPL", "META")] for close in ("10.60", "10.70")]
    at_once(reopen, *(publishing(f"version_{n}", *rows) for n, rows in enumerate(versions)))
    assert without_stamp(content(reopen())) in versions


def test_a_schema_created_by_several_at_once_is_there(reopen: Opener) -> None:
    at_once(reopen, *[lambda warehouse: warehouse.create_schema()] * 3)
    assert not reopen().create_schema()


def test_a_table_created_by_several_at_once_is_there(reopen: Opener) -> None:
    at_once(reopen, *[lambda warehouse: warehouse.create(PRODUCTION)] * 3)
    assert content(reopen()) == []


def test_a_staging_table_filled_and_dropped_by_several_at_once_ends_well(reopen: Opener) -> None:
    def work(warehouse: Warehouse) -> None:
        for _ in range(3):
            warehouse.stage(STAGING, staged([bar("META", TUESDAY)]))
            warehouse.drop(STAGING)

    at_once(reopen, work, work)
    assert not reopen().drop(STAGING)
