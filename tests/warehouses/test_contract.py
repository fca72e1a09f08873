"""What every warehouse promises. These tests use nothing but `base.Warehouse`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from maang_cli.errors import CommitLost, MaangError, SettingsError, TableMismatch
from maang_cli.gate import publish_query
from maang_cli.tables import CUMULATIVE, FETCHED_COLUMNS, PRODUCTION, Column, Table, staging
from maang_cli.warehouses.base import GateFailed, Query, Read, Replaced, TableMissing, Warehouse
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

PUBLISH = publish_query(STAGING, ["META"], [TUESDAY])
TABLES = [pytest.param(table, id=table.name) for table in (PRODUCTION, CUMULATIVE, STAGING)]
STRANGE_TEXTS = ["", " ", "\t", "O'Brien", '"', "%s", "?", ":d", "$1", "a;b--c", "a\nb", "naïve", "日本", "🚀", "null", "NULL"]
WIDE = "9" * 36 + ".99"
"""The largest number that fits into DECIMAL(38,2)."""
MANY_TICKERS = tuple(f"{'BRK' if n % 2 else 'BACp'}{n:05}{'./-'[n % 3]}{'AbZ'[n % 3]}" for n in range(11_000))
"""More tickers than a US exchange lists, with every kind of character that a ticker may have."""


def counts(done: Replaced) -> tuple[int, int, int, int]:
    return done.inserted, done.updated, done.deleted, done.unchanged


def variant(table: Table, **types: str | None) -> Table:
    """The table with other types for some columns, or without those whose type is None."""
    columns = (replace(column, type=types.get(column.name, column.type) or "") for column in table.columns)
    return replace(table, columns=tuple(column for column in columns if column.type))


def wider(table: Table, *columns: Column) -> Table:
    return replace(table, columns=(*table.columns, *columns))


# create, and what exists


@pytest.mark.parametrize("table", TABLES)
def test_table_is_created_once_and_empty(warehouse: Warehouse, table: Table) -> None:
    assert warehouse.create(table)
    assert content(warehouse, table) == []
    assert not warehouse.create(table)
    assert content(warehouse, table) == []


def test_schema_is_created_once(warehouse: Warehouse) -> None:
    assert warehouse.create_schema()
    assert not warehouse.create_schema()


def test_has_schema_creates_nothing(reopen: Opener) -> None:
    warehouse = reopen()
    for _ in range(2):
        assert not warehouse.has_schema()
    assert warehouse.create_schema()
    assert warehouse.has_schema()
    assert reopen().has_schema()


def test_tables_lists_the_tables_of_the_schema_in_order(warehouse: Warehouse) -> None:
    assert warehouse.tables() == []
    warehouse.create_schema()
    assert warehouse.tables() == []
    for table in (STAGING, PRODUCTION, CUMULATIVE):
        warehouse.create(table)
    assert warehouse.tables() == sorted(table.name for table in (STAGING, PRODUCTION, CUMULATIVE))
    warehouse.drop(STAGING)
    assert warehouse.tables() == sorted(table.name for table in (PRODUCTION, CUMULATIVE))


def test_creating_a_table_creates_the_schema(warehouse: Warehouse) -> None:
    assert warehouse.create(PRODUCTION)
    assert not warehouse.create_schema()


def test_creating_again_keeps_the_rows(warehouse: Warehouse) -> None:
    warehouse.create(PRODUCTION)
    publish(warehouse, bar("META", TUESDAY))
    before = content(warehouse)
    assert not warehouse.create(PRODUCTION)
    assert content(warehouse) == before


def test_another_connection_sees_a_new_table(reopen: Opener) -> None:
    assert reopen().create(PRODUCTION)
    assert not reopen().create(PRODUCTION)
    assert content(reopen()) == []


def test_full_name_ends_with_schema_and_table(warehouse: Warehouse) -> None:
    assert warehouse.full_name(PRODUCTION).split(".")[-2:] == ["maang", "daily_stock_prices"]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        pytest.param(
            wider(
                variant(
                    PRODUCTION,
                    open=None,
                    close="DECIMAL(12,2)",
                    volume="DECIMAL(20,0)",
                    transactions="BIGINT",
                    insertion_timestamp="DATE",
                ),
                Column("note", "STRING", "", required=True),
            ),
            [
                "open is missing, DECIMAL(10,2) expected",
                "close is DECIMAL(12,2), DECIMAL(10,2) expected",
                "volume is DECIMAL(20,0), BIGINT expected",
                "transactions is BIGINT, INTEGER expected",
                "insertion_timestamp is DATE, TIMESTAMP expected",
                "note is required but not maang's: make it nullable",
            ],
            id="production",
        ),
        pytest.param(
            variant(CUMULATIVE, last_7_days_open="ARRAY<DECIMAL(12,2)>", last_7_days_volume="BIGINT"),
            [
                "last_7_days_open is ARRAY<DECIMAL(12,2)>, ARRAY<DECIMAL(10,2)> expected",
                "last_7_days_volume is BIGINT, ARRAY<BIGINT> expected",
            ],
            id="arrays",
        ),
    ],
)
def test_table_with_other_columns_is_refused_with_every_difference(warehouse: Warehouse, found: Table, lines: list[str]) -> None:
    wanted = PRODUCTION if found.name == PRODUCTION.name else CUMULATIVE
    warehouse.create(found)
    warehouse.stage(STAGING, staged([bar("META", TUESDAY)]))
    verbs: list[Callable[[], object]] = [
        lambda: warehouse.create(wanted),
        lambda: warehouse.replace(wanted, PUBLISH, [TUESDAY]),
    ]
    for verb in verbs:
        with pytest.raises(TableMismatch) as caught:
            verb()
        assert warehouse.full_name(wanted) in caught.value.message
        for line in lines:
            assert line in caught.value.message
        assert caught.value.message.count(" expected") == sum(" expected" in line for line in lines)
    assert content(warehouse, found) == []


def test_extra_nullable_columns_keep_their_values(warehouse: Warehouse) -> None:
    extras = (Column("note", "STRING", "A user's own"), Column("score", "DECIMAL(5,1)", "A user's own"))
    wide = wider(PRODUCTION, *extras)
    warehouse.create(wide)
    assert not warehouse.create(PRODUCTION)
    tickers = ("AAPL", "META", "NFLX", "OTHER")
    warehouse.stage(STAGING, staged(bar(ticker, TUESDAY) for ticker in tickers))
    own = "'note on ' || ticker AS note, CAST(7.5 AS DECIMAL(5,1)) AS score"
    noted = Query(f"SELECT published.*, {own} FROM ({PUBLISH.text}) AS published", PUBLISH.reads, tickers)
    warehouse.replace(wide, noted, [TUESDAY])

    changed = bar("META", TUESDAY, close=Decimal("10.80"))
    done = publish(warehouse, bar("AAPL", TUESDAY), changed, bar("GOOGL", TUESDAY), tickers=["AAPL", "GOOGL", "META", "NFLX"])

    assert counts(done) == (1, 1, 1, 1)
    noted_now = {row["ticker"]: (row["close"], row["note"], row["score"]) for row in content(warehouse, wide)}
    assert noted_now == {
        "AAPL": (Decimal("10.75"), "note on AAPL", Decimal("7.5")),
        "GOOGL": (Decimal("10.75"), None, None),
        "META": (Decimal("10.80"), "note on META", Decimal("7.5")),
        "OTHER": (Decimal("10.75"), "note on OTHER", Decimal("7.5")),
    }


# stage


def test_staging_again_replaces_the_content(reopen: Opener) -> None:
    warehouse = reopen()
    for number in (0, 3, 1, 0, 11_000, 11_000):
        rows = [bar(f"T{n:05}", TUESDAY, volume=Decimal(number)) for n in range(number)]
        warehouse.stage(STAGING, staged(rows))
        assert content(warehouse, STAGING) == rows
    assert content(reopen(), STAGING) == rows


def test_staging_table_with_other_columns_is_replaced(warehouse: Warehouse) -> None:
    warehouse.create(variant(STAGING, close=None, open="DECIMAL(10,2)"))
    rows = [bar("META", TUESDAY)]
    warehouse.stage(STAGING, staged(rows))
    assert content(warehouse, STAGING) == rows


def test_staging_tables_of_two_requests_are_independent(warehouse: Warehouse) -> None:
    one, other = staging(["META"], [TUESDAY]), staging(["AAPL"], [TUESDAY])
    warehouse.stage(one, staged([bar("META", TUESDAY)]))
    warehouse.stage(other, staged([bar("AAPL", TUESDAY)]))
    assert warehouse.drop(one)
    assert content(warehouse, other) == [bar("AAPL", TUESDAY)]


def test_staged_values_are_kept_exactly(warehouse: Warehouse) -> None:
    rows = [
        bar("META", MONDAY),
        bar("A", TUESDAY, open=Decimal(WIDE), high=Decimal(f"-{WIDE}"), low=Decimal("-0.01")),
        bar("B", TUESDAY, volume=Decimal("9" * 38), transactions=Decimal("-" + "9" * 38)),
        dict.fromkeys(column.name for column in FETCHED_COLUMNS[1:]),
    ]
    warehouse.stage(STAGING, staged(rows))
    assert content(warehouse, STAGING) == rows


def test_staged_text_is_kept_exactly(warehouse: Warehouse) -> None:
    texts = [*STRANGE_TEXTS, "back\\slash", "{staging}", "x" * 5000]
    warehouse.stage(STAGING, staged(bar(text, TUESDAY) for text in texts))
    found = warehouse.query(Query("SELECT ticker FROM {it}", {"it": Read(STAGING)}))["ticker"].to_pylist()
    assert sorted(found) == sorted(texts)


# query


def test_query_keeps_its_order_and_column_names(warehouse: Warehouse) -> None:
    warehouse.stage(STAGING, staged(bar(f"T{n}", TUESDAY, volume=Decimal(n)) for n in range(5)))
    found = warehouse.query(Query("SELECT ticker AS name, volume FROM {it} ORDER BY volume DESC", {"it": Read(STAGING)}))
    assert found.column_names == ["name", "volume"]
    assert found["volume"].to_pylist() == [4, 3, 2, 1, 0]


def test_query_without_rows_has_its_columns(warehouse: Warehouse) -> None:
    warehouse.create(PRODUCTION)
    found = warehouse.query(Query("SELECT ticker, close FROM {it}", {"it": Read(PRODUCTION)}))
    assert (found.num_rows, found.column_names) == (0, ["ticker", "close"])


def test_query_may_read_one_table_twice_and_several_tables(warehouse: Warehouse) -> None:
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
@pytest.mark.parametrize("schema_exists", [True, False])
def test_query_on_a_missing_table_names_it(warehouse: Warehouse, table: Table, *, schema_exists: bool) -> None:
    if schema_exists:
        warehouse.create_schema()
    for _ in range(2):
        with pytest.raises(TableMissing) as caught:
            content(warehouse, table)
        assert caught.value.table == table


def test_query_finds_the_requested_tickers_among_11000(warehouse: Warehouse) -> None:
    """Stored: every thousandth requested ticker, and tickers that differ from requested ones only in case or punctuation."""
    requested = MANY_TICKERS[::1000]
    others = [*(ticker.swapcase() for ticker in requested), *(ticker[:-2] + ticker[-1] for ticker in requested), "OTHER"]
    assert not set(others) & set(MANY_TICKERS)
    warehouse.stage(STAGING, staged(bar(ticker, TUESDAY) for ticker in (*requested, *others)))
    found = "SELECT ticker FROM {it} WHERE ticker IN (SELECT ticker FROM {tickers}) ORDER BY ticker"
    missing = "SELECT t.ticker FROM {tickers} AS t WHERE t.ticker NOT IN (SELECT ticker FROM {it})"
    reads = {"it": Read(STAGING)}
    assert warehouse.query(Query(found, reads, MANY_TICKERS))["ticker"].to_pylist() == sorted(requested)
    rest = warehouse.query(Query(missing, reads, MANY_TICKERS))["ticker"].to_pylist()
    assert sorted(rest) == sorted(set(MANY_TICKERS) - set(requested))


@pytest.mark.parametrize("tickers", [(), ("META",), tuple(STRANGE_TEXTS)], ids=["none", "one", "strange"])
def test_tickers_placeholder_holds_the_requested_tickers(warehouse: Warehouse, tickers: tuple[str, ...]) -> None:
    rows = warehouse.query(Query("SELECT * FROM {tickers}", tickers=tickers))
    assert rows.column_names == ["ticker", "first_date", "last_date"]
    assert sorted(rows["ticker"].to_pylist()) == sorted(tickers)


def test_tickers_placeholder_holds_the_spans_of_the_requested_tickers(warehouse: Warehouse) -> None:
    spans = {"META": [(TUESDAY, TUESDAY), (WEDNESDAY, date.max)]}
    rows = warehouse.query(Query("SELECT * FROM {tickers}", tickers=("AAPL", "META"), spans=spans)).to_pylist()
    assert sorted(tuple(row.values()) for row in rows) == [
        ("AAPL", date.min, date.max),
        ("META", TUESDAY, TUESDAY),
        ("META", WEDNESDAY, date.max),
    ]


def test_replace_leaves_rows_that_are_outside_the_spans(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY), bar("META", WEDNESDAY), bar("AAPL", TUESDAY))
    query = replace(PUBLISH, tickers=("AAPL", "META"), spans={"META": [(WEDNESDAY, WEDNESDAY)]})
    production.stage(STAGING, staged([]))
    assert counts(production.replace(PRODUCTION, query, [TUESDAY, WEDNESDAY])) == (0, 0, 2, 0)
    assert [(row["ticker"], row["date"]) for row in content(production)] == [("META", TUESDAY)]


# A user's query


BY_CLOSE = {"production": Query("SELECT ticker, date, close FROM {it}", {"it": Read(PRODUCTION)})}


def test_select_answers_a_users_query_in_its_order(production: Warehouse) -> None:
    publish(production, *(bar(f"T{n}", TUESDAY, close=Decimal(price)) for n, price in enumerate(("10.10", "10.30", "10.20"))))
    text = "SELECT ticker, close FROM production WHERE date = DATE '2025-10-14' ORDER BY close DESC LIMIT 2 -- the highest"
    rows = production.select(text, BY_CLOSE).to_pylist()
    assert rows == [{"ticker": "T1", "close": Decimal("10.30")}, {"ticker": "T2", "close": Decimal("10.20")}]
    nested = "WITH p AS (SELECT * FROM production) SELECT count(*) AS n FROM p AS a JOIN p AS b ON a.ticker = b.ticker"
    assert production.select(nested, BY_CLOSE).to_pylist() == [{"n": 3}]
    assert production.select("SELECT '{it}' AS text", {}).to_pylist() == [{"text": "{it}"}]


def test_select_carries_out_nothing_but_one_query(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY))
    name = production.full_name(PRODUCTION)
    before = content(production)
    for text in (
        f"DROP TABLE {name}",
        f"DELETE FROM {name}",
        f"INSERT INTO {name} SELECT * FROM {name}",
        f"SELECT 1; DROP TABLE {name}",
        f"SELECT 1); DROP TABLE {name}; (SELECT 1",
        f"SELECT 1) INSERT INTO {name} (SELECT * FROM {name}",
        "CREATE TABLE mine AS SELECT 1",
        "SET a = 1",
        "",
    ):
        with pytest.raises(MaangError) as caught:
            production.select(text, BY_CLOSE)
        assert caught.value.exit_code == 2, text
    assert content(production) == before
    assert production.tables() == sorted([PRODUCTION.name, STAGING.name])


def test_select_reports_what_is_wrong_with_a_query(production: Warehouse) -> None:
    wrong = {"SELECT clsoe FROM production": "clsoe", "SELECT * FROM nowhere": "nowhere", "SELECT (1": r"(?i)syntax"}
    for text, word in wrong.items():
        with pytest.raises(MaangError, match=word) as caught:
            production.select(text, BY_CLOSE)
        assert caught.value.exit_code == 2, text
    missing = {"cumulative": Query("SELECT * FROM {it}", {"it": Read(CUMULATIVE)})}
    with pytest.raises(TableMissing, match=CUMULATIVE.name):
        production.select("SELECT * FROM cumulative", missing)


def test_table_can_be_read_as_of_an_earlier_time(warehouse: Warehouse) -> None:
    warehouse.create(PRODUCTION)
    past = []
    for close in ("10.70", "10.80", "10.90"):
        publish(warehouse, bar("META", TUESDAY, close=Decimal(close)))
        past.append((datetime.now(UTC), content(warehouse)))
    assert len({str(rows) for _, rows in past}) == 3
    for instant, rows in past:
        assert content(warehouse, as_of=instant) == rows
        assert content(warehouse, as_of=instant.astimezone()) == rows


@pytest.mark.parametrize("published", [True, False])
def test_as_of_before_the_history_is_a_settings_error(warehouse: Warehouse, *, published: bool) -> None:
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
    """A warehouse with an empty production."""
    warehouse.create(PRODUCTION)
    return warehouse


def test_new_rows_get_a_stamp(production: Warehouse) -> None:
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


def test_publishing_the_same_rows_again_changes_nothing(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    rows = [bar("AAPL", TUESDAY, vwap=None), bar("META", TUESDAY, transactions=None), bar("META", WEDNESDAY)]
    publish(reopen(), *rows)
    before = content(reopen())
    for _ in range(2):
        done = publish(reopen(), *rows)
        assert counts(done) == (0, 0, 0, 3)
        assert not done.changed
        assert content(reopen()) == before


def test_only_a_changed_row_gets_a_new_stamp(production: Warehouse) -> None:
    old = [bar("CENT", TUESDAY), bar("NULL", TUESDAY), bar("SAME", TUESDAY), bar("VALUE", TUESDAY, vwap=None), bar("W", TUESDAY)]
    new = [
        bar("CENT", TUESDAY, close=Decimal("10.76")),
        bar("NULL", TUESDAY, transactions=None),
        bar("SAME", TUESDAY),
        bar("VALUE", TUESDAY, vwap=Decimal("10.33")),
        bar("W", TUESDAY, volume=Decimal(1_000_000_000_000)),
    ]
    publish(production, *old)
    before = content(production)
    assert counts(publish(production, *new)) == (0, 4, 0, 1)
    after = content(production)
    assert without_stamp(after) == new
    for earlier, later in zip(before, after, strict=True):
        if later["ticker"] == "SAME":
            assert later == earlier
        else:
            assert str(later["insertion_timestamp"]) > str(earlier["insertion_timestamp"])


def test_replace_counts_every_outcome(production: Warehouse) -> None:
    publish(production, bar("A", TUESDAY), bar("B", TUESDAY), bar("C", TUESDAY), bar("D", TUESDAY))
    new = [bar("A", TUESDAY), bar("B", TUESDAY, close=Decimal("10.80")), bar("E", TUESDAY), bar("F", TUESDAY)]
    done = publish(production, *new, tickers=list("ABCDEF"))
    assert counts(done) == (2, 1, 2, 1)
    assert without_stamp(content(production)) == new


def test_rows_of_other_tickers_and_sessions_stay(production: Warehouse) -> None:
    others = [bar("META", MONDAY), bar("OTHER", TUESDAY), bar("META", WEDNESDAY)]
    publish(production, bar("META", TUESDAY), *others)
    before = {(row["date"], row["ticker"]): row for row in content(production)}
    assert counts(publish(production, bar("META", TUESDAY, close=Decimal("10.80")))) == (0, 1, 0, 0)
    after = {(row["date"], row["ticker"]): row for row in content(production)}
    assert after.keys() == before.keys()
    assert {key for key, row in after.items() if row != before[key]} == {(TUESDAY, "META")}
    assert after[TUESDAY, "META"]["close"] == Decimal("10.80")


def test_new_ticker_is_inserted_beside_stored_ones(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    assert counts(publish(production, bar("AAPL", TUESDAY))) == (1, 0, 0, 0)
    assert content(production)[1:] == before


def test_empty_staging_clears_the_tickers_on_the_sessions(production: Warehouse) -> None:
    days, tickers = (MONDAY, TUESDAY, WEDNESDAY), ("AAPL", "META", "OTHER")
    publish(production, *(bar(ticker, day) for ticker in tickers for day in days))
    kept = {(day, ticker) for day in days for ticker in tickers}
    for sessions in ([TUESDAY], [MONDAY, WEDNESDAY]):
        done = publish(production, tickers=["AAPL", "META"], sessions=sessions)
        assert counts(done) == (0, 0, 2 * len(sessions), 0)
        kept -= {(day, ticker) for day in sessions for ticker in ("AAPL", "META")}
        assert {(row["date"], row["ticker"]) for row in content(production)} == kept
    assert counts(publish(production, tickers=["AAPL", "META"], sessions=days)) == (0, 0, 0, 0)


def test_empty_staging_and_empty_production_change_nothing(production: Warehouse) -> None:
    done = publish(production, tickers=["META"], sessions=[TUESDAY])
    assert (counts(done), done.changed) == ((0, 0, 0, 0), False)
    assert content(production) == []


def test_several_sessions_are_replaced(production: Warehouse) -> None:
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


def test_11000_rows_are_replaced(production: Warehouse) -> None:
    rows = [bar(ticker, TUESDAY, volume=Decimal(n + 1)) for n, ticker in enumerate(sorted(MANY_TICKERS))]
    assert counts(publish(production, *rows)) == (11_000, 0, 0, 0)
    before = content(production)
    assert without_stamp(before) == rows
    rows[7] |= {"vwap": None}
    assert counts(publish(production, *rows)) == (0, 1, 0, 10_999)
    after = content(production)
    assert [n for n in range(11_000) if after[n] != before[n]] == [7]


def test_ticker_may_be_any_text(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY), *(bar(text, TUESDAY) for text in STRANGE_TEXTS))
    before = content(production)
    done = publish(production, *(bar(text, TUESDAY) for text in STRANGE_TEXTS))
    assert counts(done) == (0, 0, 0, len(STRANGE_TEXTS))
    assert content(production) == before
    done = publish(production, tickers=STRANGE_TEXTS, sessions=[TUESDAY])
    assert counts(done) == (0, 0, len(STRANGE_TEXTS), 0)
    assert without_stamp(content(production)) == [bar("META", TUESDAY)]


def test_ticker_case_matters(production: Warehouse) -> None:
    publish(production, bar("BACPA", TUESDAY), bar("BACpA", TUESDAY))
    assert counts(publish(production, bar("BACpA", TUESDAY, close=Decimal("10.80")))) == (0, 1, 0, 0)
    assert [row["close"] for row in content(production)] == [Decimal("10.75"), Decimal("10.80")]


def test_extreme_values_of_each_column_can_be_published(production: Warehouse) -> None:
    price = Decimal("99999999.99")
    least = bar("LEAST", TUESDAY, open=-price, vwap=-price, volume=Decimal(-(2**63)), transactions=Decimal(-(2**31)))
    most = bar("MOST", TUESDAY, open=price, vwap=price, volume=Decimal(2**63 - 1), transactions=Decimal(2**31 - 1))
    nulls = bar("NULL", TUESDAY) | dict.fromkeys(("open", "high", "low", "close", "volume", "vwap", "transactions"))
    rows = [least, most, nulls]
    publish(production, *rows)
    assert without_stamp(content(production)) == rows
    assert counts(publish(production, *rows)) == (0, 0, 0, 3)


def windows(opens: Sequence[str], volatility: str) -> Query:
    """META's row of the cumulative table on Tuesday; its arrays hold `opens`."""
    elements = " UNION ALL ".join(f"SELECT {n} AS n, CAST({text} AS DECIMAL(10,2)) AS v" for n, text in enumerate(opens))
    arrays = ", ".join(f"array_agg(v) OVER w AS last_7_days_{name}" for name in ("open", "high", "low", "close"))
    return Query(
        f"""SELECT DISTINCT 'META' AS ticker, DATE '{TUESDAY}' AS date, {arrays},
  array_agg(CAST(9223372036854775807 AS BIGINT)) OVER w AS last_7_days_volume,
  CAST(9999999999999.99 AS DECIMAL(15,2)) AS avg_7_day_volume, CAST({volatility} AS DECIMAL(10,4)) AS volatility_7_day
FROM ({elements}) AS e
WINDOW w AS (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)""",
        tickers=("META",),
    )


def test_arrays_are_compared_element_by_element(warehouse: Warehouse) -> None:
    warehouse.create(CUMULATIVE)

    def replaced(*opens: str, volatility: str = "NULL") -> tuple[int, int, int, int]:
        return counts(warehouse.replace(CUMULATIVE, windows(opens, volatility), [TUESDAY]))

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
    assert row["last_7_days_close"] == [Decimal("2.00"), Decimal("3.00")]  # without NULLs, which Spark's array_agg omits
    assert row["last_7_days_volume"] == [2**63 - 1] * 2
    assert (row["avg_7_day_volume"], row["volatility_7_day"]) == (Decimal("9999999999999.99"), Decimal("999999.9999"))


def no_price(placeholder: str) -> Query:
    """The staged tickers without a close."""
    return Query(f"SELECT ticker FROM {{{placeholder}}} WHERE close IS NULL", {placeholder: Read(STAGING)})


def test_rows_in_refuse_if_refuse_the_replace(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    for placeholder in ("staging", "another_name"):
        with pytest.raises(GateFailed):
            publish(production, bar("META", TUESDAY, close=None), bar("NEW", TUESDAY), refuse_if=no_price(placeholder))
    assert content(production) == before


def test_refuse_if_sees_the_requested_tickers(production: Warehouse) -> None:
    text = "SELECT ticker FROM {tickers} WHERE ticker NOT IN (SELECT ticker FROM {staging})"
    missing = Query(text, {"staging": Read(STAGING)})
    with pytest.raises(GateFailed):
        publish(production, bar("META", TUESDAY), tickers=["AAPL", "META"], refuse_if=missing)
    assert content(production) == []
    assert counts(publish(production, bar("META", TUESDAY), tickers=["META"], refuse_if=missing)) == (1, 0, 0, 0)


def test_refuse_if_is_evaluated_if_staging_is_empty(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    empty = Query("SELECT count(*) AS number FROM {staging} HAVING count(*) = 0", {"staging": Read(STAGING)})
    with pytest.raises(GateFailed):
        publish(production, tickers=["META"], sessions=[TUESDAY], refuse_if=empty)
    assert content(production) == before


def test_replace_in_a_missing_table_names_it(warehouse: Warehouse) -> None:
    warehouse.stage(STAGING, staged([bar("META", TUESDAY)]))
    with pytest.raises(TableMissing) as caught:
        warehouse.replace(PRODUCTION, PUBLISH, [TUESDAY])
    assert caught.value.table == PRODUCTION
    with pytest.raises(TableMissing):
        content(warehouse)


@pytest.mark.parametrize("reader", ["query", "refuse_if"])
def test_replace_from_a_missing_table_names_it(production: Warehouse, reader: str) -> None:
    publish(production, bar("META", TUESDAY))
    before = content(production)
    missing = staging(["META"], [WEDNESDAY])
    query = replace(PUBLISH, reads={"staging": Read(missing if reader == "query" else STAGING)})
    refuse_if = Query("SELECT ticker FROM {it}", {"it": Read(missing)}) if reader == "refuse_if" else None
    with pytest.raises(TableMissing) as caught:
        production.replace(PRODUCTION, query, [TUESDAY], refuse_if)
    assert caught.value.table == missing
    assert content(production) == before


# drop, maintain, cancel, close


@pytest.mark.parametrize("table", TABLES)
def test_table_is_dropped_once_and_can_be_created_again(warehouse: Warehouse, table: Table) -> None:
    assert not warehouse.drop(table)
    warehouse.create(table)
    assert warehouse.drop(table)
    assert not warehouse.drop(table)
    with pytest.raises(TableMissing):
        content(warehouse, table)
    assert warehouse.create(table)
    assert content(warehouse, table) == []


def test_dropped_staging_table_comes_back_without_its_rows(production: Warehouse) -> None:
    publish(production, bar("META", TUESDAY), bar("AAPL", TUESDAY))
    published = content(production)
    production.drop(STAGING)
    production.stage(STAGING, staged([bar("NEW", MONDAY)]))
    assert content(production, STAGING) == [bar("NEW", MONDAY)]
    assert content(production) == published


def test_maintain_keeps_every_row(production: Warehouse) -> None:
    publish(production, bar("AAPL", TUESDAY), bar("META", TUESDAY))
    publish(production, bar("META", TUESDAY, close=Decimal("10.80")))
    before = {table.name: content(production, table) for table in (PRODUCTION, STAGING)}
    done = production.maintain()
    assert done is None or [each.table for each in done] == [production.full_name(table) for table in (PRODUCTION, STAGING)]
    assert {table.name: content(production, table) for table in (PRODUCTION, STAGING)} == before


def test_cancel_without_a_running_statement_does_nothing(production: Warehouse) -> None:
    """A signal may arrive at any moment, and another thread calls `cancel`."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(production.cancel).result()
        publish(production, bar("META", TUESDAY))
        pool.submit(production.cancel).result()
    assert without_stamp(content(production)) == [bar("META", TUESDAY)]


def test_written_rows_outlive_the_connection(reopen: Opener) -> None:
    first = reopen()
    first.create(PRODUCTION)
    publish(first, bar("META", TUESDAY))
    rows = content(first)
    first.close()
    assert content(reopen()) == rows


# writers at the same time


def at_the_same_time(reopen: Opener, *works: Callable[[Warehouse], object]) -> None:
    """Do each piece of work on its own connection, all at the same time. Work that loses its commit is done again."""
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
    """Work that publishes rows three times, through a staging table of its own."""
    table = replace(STAGING, name=f"{STAGING.name}_{name}")
    return lambda warehouse: [publish(warehouse, *rows, through=table) for _ in range(3)]


def test_writers_of_different_sessions_all_publish(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    rows = [bar("META", MONDAY), bar("META", TUESDAY), bar("META", WEDNESDAY)]
    at_the_same_time(reopen, *(publishing(f"{row['date']:%Y%m%d}", row) for row in rows))
    assert without_stamp(content(reopen())) == rows


def test_writers_of_different_tickers_of_one_session_all_publish(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    rows = [bar("AAPL", TUESDAY), bar("META", TUESDAY), bar("NFLX", TUESDAY)]
    at_the_same_time(reopen, *(publishing(str(row["ticker"]).lower(), row) for row in rows))
    assert without_stamp(content(reopen())) == rows


def test_of_two_writers_of_the_same_rows_one_wins_completely(reopen: Opener) -> None:
    reopen().create(PRODUCTION)
    versions = [[bar(ticker, TUESDAY, close=Decimal(close)) for ticker in ("AAPL", "META")] for close in ("10.60", "10.70")]
    at_the_same_time(reopen, *(publishing(f"version_{n}", *rows) for n, rows in enumerate(versions)))
    assert without_stamp(content(reopen())) in versions


def test_several_writers_create_one_schema(reopen: Opener) -> None:
    at_the_same_time(reopen, *[lambda warehouse: warehouse.create_schema()] * 3)
    assert not reopen().create_schema()


def test_several_writers_create_one_table(reopen: Opener) -> None:
    at_the_same_time(reopen, *[lambda warehouse: warehouse.create(PRODUCTION)] * 3)
    assert content(reopen()) == []


def test_several_writers_stage_and_drop_one_table(reopen: Opener) -> None:
    def work(warehouse: Warehouse) -> None:
        for _ in range(3):
            warehouse.stage(STAGING, staged([bar("META", TUESDAY)]))
            warehouse.drop(STAGING)

    at_the_same_time(reopen, work, work)
    assert not reopen().drop(STAGING)
