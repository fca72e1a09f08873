"""Merging existing rows with new ones, compared with the same merge in plain Python."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import sql
from maang_cli.schemas import arrow_schema
from maang_cli.tables import Column, Table
from maang_cli.warehouses.base import Query
from maang_cli.warehouses.local import warehouse as local
from maang_cli.warehouses.local.merge import OUTCOME, Existing, merge

Row = dict[str, Any]

TABLE = Table(
    "bars",
    (
        Column("ticker", "STRING", "Key"),
        Column("date", "DATE", "Key"),
        Column("price", "DECIMAL(10,2)", "A number"),
        Column("prices", "ARRAY<DECIMAL(10,2)>", "Numbers"),
        Column("stamp", "TIMESTAMP", "When"),
    ),
    stamp="stamp",
)
NEW = arrow_schema(TABLE.columns[:-1])
OLD = arrow_schema(TABLE.columns).append(pa.field("note", pa.string()))
REQUESTED = ["A", "B"]
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)
DUCKDB = duckdb.connect(config=local.DUCKDB)

keys = st.tuples(st.sampled_from(["A", "B", "C"]), st.sampled_from([date(2025, 10, 14), date(2025, 10, 15)]))
numbers = st.sampled_from([None, Decimal("1.00"), Decimal("2.00")])
values = st.fixed_dictionaries({"price": numbers, "prices": st.none() | st.lists(numbers, max_size=3)})


def run(text: str, tables: dict[str, pa.Table]) -> pa.Table:
    for name, rows in tables.items():
        DUCKDB.register(f"merge_{name}", rows)
    return DUCKDB.sql(sql.fill(text, {name: f"merge_{name}" for name in tables})).to_arrow_table()


def expected(existing: list[Row], new: dict[tuple[str, date], Row]) -> list[tuple[object, ...]]:
    """Key, values, note, stamp (None for a new one) and outcome of each row, in no order."""
    found: list[tuple[object, ...]] = []
    first: dict[tuple[str, date], Row] = {}
    for row in sorted(existing, key=lambda row: row["stamp"]):
        key = (row["ticker"], row["date"])
        if key in first or key not in new:
            outcome = "deleted" if row["ticker"] in REQUESTED else "carried"
            found.append((*key, row["price"], row["prices"], row["note"], row["stamp"], outcome))
        first.setdefault(key, row)
    for key, row in new.items():
        old = first.get(key)
        same = old is not None and (old["price"], old["prices"]) == (row["price"], row["prices"])
        outcome = "inserted" if old is None else "unchanged" if same else "updated"
        stamp = old["stamp"] if old is not None and same else None
        found.append((*key, row["price"], row["prices"], old["note"] if old else None, stamp, outcome))
    return found


@given(
    st.lists(st.tuples(keys, values), max_size=8),
    st.dictionaries(keys.filter(lambda key: key[0] in REQUESTED), values, max_size=4),
)
@examples(deadline=None, max_examples=300)
def test_merge_gives_each_row_its_outcome(stored: list[tuple[tuple[str, date], Row]], new: dict[tuple[str, date], Row]) -> None:
    old = [
        {"ticker": key[0], "date": key[1], **row, "stamp": LONG_AGO + timedelta(days=number), "note": f"note {number}"}
        for number, (key, row) in enumerate(stored)
    ]
    rows_of_old = pa.Table.from_pylist(old, schema=OLD)
    rows_of_new = pa.Table.from_pylist([{"ticker": ticker, "date": day, **row} for (ticker, day), row in new.items()], schema=NEW)
    existing = Existing(rows_of_old.drop_columns("prices"), lambda: rows_of_old.select(["prices"]))
    before = datetime.now(UTC)

    merged = merge(TABLE, existing, rows_of_new, Query("", tickers=tuple(REQUESTED)), run)

    assert sorted(merged.column_names) == sorted([*OLD.names, OUTCOME])
    rows = merged.to_pylist()
    assert [(row["date"], row["ticker"]) for row in rows] == sorted((row["date"], row["ticker"]) for row in rows)
    found = [
        (
            *(row[name] for name in ("ticker", "date", "price", "prices", "note")),
            None if row["stamp"] >= before else row["stamp"],
            row[OUTCOME],
        )
        for row in rows
    ]
    assert sorted(found, key=repr) == sorted(expected(old, new), key=repr)


def test_arrays_are_not_read_if_a_number_already_differs() -> None:
    key = {"ticker": "A", "date": date(2025, 10, 14)}
    old = pa.Table.from_pylist([key | {"price": Decimal("1.00"), "stamp": LONG_AGO, "note": "kept"}], schema=OLD)
    new = pa.Table.from_pylist([key | {"price": Decimal("2.00"), "prices": [Decimal("2.00")]}], schema=NEW)

    def arrays() -> pa.Table:
        raise AssertionError("the arrays were read")

    (row,) = merge(TABLE, Existing(old.drop_columns("prices"), arrays), new, Query("", tickers=tuple(REQUESTED)), run).to_pylist()

    assert (row["price"], row["prices"], row["note"], row[OUTCOME]) == (Decimal("2.00"), [Decimal("2.00")], "kept", "updated")
