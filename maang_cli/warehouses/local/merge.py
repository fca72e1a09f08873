"""Merge existing rows with new ones: where each row comes from, and what happens to it.

SQL matches the keys. Arrow compares and moves the values, arrays among them, in half the time that SQL would take.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from maang_cli import sessions as calendar
from maang_cli.tables import Table
from maang_cli.warehouses.base import Query

OUTCOME = "maang: outcome"
"""The column that `merge` adds; no table has one of this name."""

# There is one new row per key, which matches the first copy of an existing row; further copies match nothing.
_PAIRS = """
WITH existing AS (
  SELECT ticker, date, place, row_number() OVER (PARTITION BY ticker, date ORDER BY stamp) AS copy FROM {old}
)
SELECT n.place AS new_place, o.place AS old_place
FROM {new} AS n FULL OUTER JOIN existing AS o ON o.ticker = n.ticker AND o.date = n.date AND o.copy = n.copy
ORDER BY coalesce(n.date, o.date), coalesce(n.ticker, o.ticker)"""


@dataclass(frozen=True)
class Existing:
    """Rows that a table has."""

    rows: pa.Table
    """With a user's own columns, and without arrays."""
    arrays: Callable[[], pa.Table]
    """The arrays, in the same order. They take most of the bytes, so they are read only if they are needed."""

    def columns(self, names: Iterable[str]) -> pa.Table:
        return pa.table({name: self.column(name) for name in names})

    def column(self, name: str) -> pa.ChunkedArray:
        return self.rows[name] if name in self.rows.column_names else self.arrays()[name]


def merge(
    table: Table, existing: Existing, new: pa.Table, query: Query, run: Callable[[str, dict[str, pa.Table]], pa.Table]
) -> pa.Table:
    """Existing and new rows by date and ticker, each with an outcome. `run` runs SQL on tables by their placeholders.

    inserted, updated, unchanged: a row of `new`, with the stamp that it keeps or gets; deleted: one that `query` requests and
    that is not in `new`, or a second copy; carried: a row that is not requested. `new` has the table's value columns, and
    `fetched_at` if the query yields it.
    """
    old = existing.rows
    first = pa.repeat(pa.scalar(1, pa.int64()), new.num_rows)
    pairs = run(_PAIRS, {"old": _keys(old, stamp=old[table.stamp]), "new": _keys(new, copy=first)})
    into, out_of = pairs["new_place"].combine_chunks(), pairs["old_place"].combine_chunks()
    alone, place = new.slice(0, 0), into
    if into.null_count:  # only existing rows that stay are moved: a cast and copy of all of them takes longer than the rest
        alone = existing.columns(table.values).take(out_of.filter(into.is_null()))
        place = pc.coalesce(into, pc.add(pc.cumulative_sum(into.is_null().cast(pa.int64())), new.num_rows - 1))
    # One column at a time, so that each reuses the memory of the one before: memory that is new to the process is slow.
    values = pa.table({name: _joined(new[name], alone[name].cast(new[name].type)).take(place) for name in table.values})
    outcome = pc.if_else(into.is_valid(), "inserted", pc.if_else(_requested(values, query), "deleted", "carried"))
    met = pc.and_(into.is_valid(), out_of.is_valid())
    if pc.any(met).as_py():
        changed = differ(values, pc.indices_nonzero(met), existing, out_of.filter(met))
        outcome = pc.replace_with_mask(_one(outcome), met, pc.if_else(changed, "updated", "unchanged"))
    own = [name for name in old.column_names if name not in table.values]
    kept = old.select(own).take(out_of)
    now = pa.scalar(datetime.now(UTC), old[table.stamp].type)
    if query.fetched:
        fetched = _one(new["fetched_at"].cast(now.type)).take(into)  # NULL for a row that is not in `new`
        early = _before_final(values["date"], fetched)
        confirmed = pc.and_(pc.invert(early), _before_final(values["date"], kept[table.stamp]))
        confirmed = pc.and_(pc.equal(outcome, "unchanged"), pc.and_(fetched.is_valid(), confirmed))
        outcome = pc.if_else(confirmed, "updated", outcome)
        now = pc.if_else(early, fetched, now)
    renewed = pc.is_in(outcome, pa.array(["inserted", "updated"]))
    stamp = pc.if_else(renewed, now, kept[table.stamp])
    columns = {name: values[name] for name in table.values} | {name: kept[name] for name in own} | {table.stamp: stamp}
    return pa.table(columns | {OUTCOME: outcome})


def _before_final(days: pa.ChunkedArray, instants: pa.Array) -> pa.Array:
    """Which of the instants are before the moment at which their session is final; NULL is not."""
    found = _one(days).dictionary_encode()
    moments = pa.array([calendar.final(day) for day in found.dictionary.to_pylist()], instants.type).take(found.indices)
    return pc.fill_null(pc.less(_one(instants), moments), False)


def _requested(rows: pa.Table, query: Query) -> pa.Array:
    """Which of these rows the query requests: its tickers, within their spans."""
    tickers, days = rows["ticker"], rows["date"]
    mine = pc.is_in(tickers, pa.array(query.tickers, pa.string()))
    for ticker, spans in query.spans.items():
        listed = pc.not_equal(tickers, ticker)
        for first, last in spans:
            listed = pc.or_(listed, pc.and_(pc.greater_equal(days, first), pc.less_equal(days, last)))
        mine = pc.and_(mine, listed)
    return mine


def _joined(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.Array:
    return pa.chunked_array([*first.chunks, *second.chunks], first.type).combine_chunks()


def _keys(rows: pa.Table, **more: pa.Array) -> pa.Table:
    return pa.table({"ticker": rows["ticker"], "date": rows["date"], "place": pa.arange(0, rows.num_rows)} | more)


def differ(left: pa.Table, left_rows: pa.Array, right: Existing, right_rows: pa.Array) -> pa.Array:
    """Which of these rows are distinct in a column, in the sense of SQL's IS DISTINCT FROM.

    `right` has the columns of `left`, with types that can be cast to those of `left`.
    """
    found = pa.repeat(False, len(left_rows))
    # Arrays last: most rows that differ also differ in a number, and then their arrays need not be read.
    for name in sorted(left.column_names, key=lambda name: pa.types.is_list(left[name].type)):
        undecided = pc.indices_nonzero(pc.invert(found))
        if not len(undecided):
            break
        one = _one(left[name].take(left_rows.take(undecided)))
        distinct = _distinct(one, _one(right.column(name).take(right_rows.take(undecided))).cast(one.type))
        if pc.any(distinct).as_py():
            found = pc.replace_with_mask(found, pc.invert(found), distinct)
    return found


def _distinct(left: pa.Array, right: pa.Array) -> pa.Array:
    if pa.types.is_list(left.type):
        return _distinct_lists(left, right)
    return pc.or_(pc.xor(left.is_null(), right.is_null()), pc.fill_null(pc.not_equal(left, right), False))


def _distinct_lists(left: pa.ListArray, right: pa.ListArray) -> pa.Array:
    lengths = _distinct(pc.list_value_length(left), pc.list_value_length(right))
    alike = pc.indices_nonzero(pc.invert(lengths))
    if len(alike) < len(left):
        left, right = left.take(alike), right.take(alike)
    elements = _distinct(left.flatten(), right.flatten())
    if not pc.any(elements).as_py():
        return lengths
    rows = alike.take(pc.unique(pc.list_parent_indices(left).filter(elements)))
    return pc.or_(lengths, pc.is_in(pa.arange(0, len(lengths)).cast(rows.type), rows))


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
