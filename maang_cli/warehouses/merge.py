"""Held rows and new ones put together: which row comes from where, and what became of it.

Keys are matched in SQL. Values, arrays among them, are compared and moved by Arrow, which takes half the time that SQL does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maang_cli.tables import Table

OUTCOME = "maang: outcome"
"""The column that `merge` adds; no table has one of this name."""

# A further copy of a held row matches nothing: there is one new row of a key, and it is the first one's.
_PAIRS = """
WITH held AS (
  SELECT ticker, date, place, row_number() OVER (PARTITION BY ticker, date ORDER BY stamp) AS copy FROM {old}
)
SELECT n.place AS new_place, o.place AS old_place
FROM {new} AS n FULL OUTER JOIN held AS o ON o.ticker = n.ticker AND o.date = n.date AND o.copy = n.copy
ORDER BY coalesce(n.date, o.date), coalesce(n.ticker, o.ticker)"""


def merge(
    table: Table, old: pa.Table, new: pa.Table, tickers: Sequence[str], run: Callable[[str, dict[str, pa.Table]], pa.Table]
) -> pa.Table:
    """Old and new rows by date and ticker, as `old`'s columns and an outcome. `run` runs SQL over tables, by their holes.

    inserted, updated, unchanged: a row of `new`, with the stamp that it keeps or gets; deleted: asked for and not in `new`,
    or a second copy; carried: a row of another ticker. `new` has the table's values, `old` a user's own columns too.
    """
    first = pa.repeat(pa.scalar(1, pa.int64()), new.num_rows)
    pairs = run(_PAIRS, {"old": _keys(old, stamp=old[table.stamp]), "new": _keys(new, copy=first)})
    into, out_of = pairs["new_place"].combine_chunks(), pairs["old_place"].combine_chunks()
    held = old.select(table.values)
    if into.null_count:  # only the held rows that stay are moved: to cast and copy all of them takes longer than all the rest
        alone = held.take(out_of.filter(into.is_null())).cast(new.schema)
        after = pc.add(pc.cumulative_sum(into.is_null().cast(pa.int64())), new.num_rows - 1)
        values = pa.concat_tables([new, alone]).combine_chunks().take(pc.coalesce(into, after))
    else:
        values = new.combine_chunks().take(into)
    outcome = pc.if_else(
        into.is_valid(), "inserted", pc.if_else(pc.is_in(values["ticker"], pa.array(tickers, pa.string())), "deleted", "carried")
    )
    met = pc.and_(into.is_valid(), out_of.is_valid())
    if pc.any(met).as_py():
        changed = differ(values, pc.indices_nonzero(met), held, out_of.filter(met))
        outcome = pc.replace_with_mask(_one(outcome), met, pc.if_else(changed, "updated", "unchanged"))
    kept = old.select([name for name in old.column_names if name not in table.values]).take(out_of)
    renewed = pc.is_in(outcome, pa.array(["inserted", "updated"]))
    stamp = pc.if_else(renewed, pa.scalar(datetime.now(UTC), old[table.stamp].type), kept[table.stamp])
    columns = (
        {name: kept[name] for name in kept.column_names} | {table.stamp: stamp} | {name: values[name] for name in table.values}
    )
    return pa.table({name: columns[name] for name in old.column_names} | {OUTCOME: outcome})


def _keys(rows: pa.Table, **more: pa.Array) -> pa.Table:
    return pa.table({"ticker": rows["ticker"], "date": rows["date"], "place": pa.arange(0, rows.num_rows)} | more)


def differ(left: pa.Table, left_rows: pa.Array, right: pa.Table, right_rows: pa.Array) -> pa.Array:
    """Which of these rows are distinct in any column, as SQL's IS DISTINCT FROM has it.

    Both tables have the same columns, and `right` types that can be cast to those of `left`.
    """
    found = pa.repeat(False, len(left_rows))
    # Arrays last: most rows that differ do so in a number too, and then their arrays need not be looked at.
    for name in sorted(left.column_names, key=lambda name: pa.types.is_list(left[name].type)):
        undecided = pc.indices_nonzero(pc.invert(found))
        one = _one(left[name].take(left_rows.take(undecided)))
        distinct = _distinct(one, _one(right[name].take(right_rows.take(undecided))).cast(one.type))
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
