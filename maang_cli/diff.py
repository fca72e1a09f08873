"""What a step would change in a table: rows that are new, changed or removed, and each changed cell. It only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from maang_cli import sql
from maang_cli.tables import PRICE, PRODUCTION, Column, Table
from maang_cli.warehouses.base import Query, Read, Spans, TableMissing, Warehouse


@dataclass(frozen=True)
class ChangedCell:
    """One value of a stored row that a step would replace."""

    ticker: str
    date: date
    column: str
    before: object
    """A value as the warehouse returns it, exact: Decimal, int, a list of them, or None."""
    after: object
    replaced_at: datetime | None
    """The stamp of the row that is replaced: when its values last changed, UTC."""


def _prices_first(cell: ChangedCell) -> tuple[bool, date, str]:
    return not isinstance(cell.before or cell.after, Decimal), cell.date, cell.ticker


def _merged(one: Mapping[date, frozenset[str]], other: Mapping[date, frozenset[str]]) -> dict[date, frozenset[str]]:
    return {day: one.get(day, frozenset()) | other.get(day, frozenset()) for day in sorted({*one, *other})}


@dataclass(frozen=True)
class Differences:
    """What a step would change in one table. Sessions are in order; `new`, `changed` and `removed` name tickers by session."""

    table: str
    """Its full name."""
    new: Mapping[date, frozenset[str]]
    changed: Mapping[date, frozenset[str]]
    removed: Mapping[date, frozenset[str]]
    cells: tuple[ChangedCell, ...]
    """Prices first, then by session, ticker and column."""
    all_volumes: frozenset[date] = frozenset()
    """Sessions on which the volume of every requested ticker changed."""

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.removed)

    def __add__(self, other: Differences) -> Differences:
        """Those of both, in the same table on different tickers or sessions."""
        merged = {how: _merged(getattr(self, how), getattr(other, how)) for how in ("new", "changed", "removed")}
        cells = tuple(sorted((*self.cells, *other.cells), key=_prices_first))
        return Differences(self.table, **merged, cells=cells, all_volumes=self.all_volumes | other.all_volumes)


def staged_differences(
    warehouse: Warehouse, staged: Table, tickers: Sequence[str], sessions: Sequence[date], spans: Spans | None = None
) -> Differences:
    """What publishing these sessions of a staging table would change in production. A missing production counts as empty.

    Nothing is audited, so the rows may be wrong in any way; their `session` counts, whatever their `date` says. A stored row of a
    requested ticker that is not staged counts as removed.

    Raises:
        TableMissing: there is no staging table.
    """
    columns = ", ".join(["ticker", "session AS date", *PRODUCTION.values[2:]])
    text = sql.text("publish", columns=columns, sessions=", ".join(map(sql.day, sessions)))
    query = Query(text, {"staging": Read(staged)}, tuple(tickers), spans or {})
    return differences(warehouse, PRODUCTION, [(query, sessions)])


def differences(warehouse: Warehouse, table: Table, replacements: Iterable[tuple[Query, Sequence[date]]]) -> Differences:
    """What `Warehouse.replace` would change with each of these queries on its sessions. A missing `table` counts as empty.

    Raises:
        TableMissing: a table that a query reads does not exist.
    """
    pairs = list(replacements)
    rows = [row for query, sessions in pairs for row in _rows(warehouse, table, query, sessions)]
    tickers: dict[str, dict[date, set[str]]] = {"new": {}, "changed": {}, "removed": {}}
    for row in rows:
        tickers[row["change"]].setdefault(row["date"], set()).add(row["ticker"])
    by_session = {change: {day: frozenset(names) for day, names in sorted(found.items())} for change, found in tickers.items()}
    changed = sorted((row for row in rows if row["change"] == "changed"), key=lambda row: (row["date"], row["ticker"]))
    columns = table.value_columns[2:]
    prices_first = ([c for c in columns if PRICE in c.type], [c for c in columns if PRICE not in c.type])
    cells = tuple(cell for group in prices_first for row in changed for cell in _cells(row, group))
    volumes = Counter(cell.date for cell in cells if cell.column == "volume")
    requested = [span for query, _ in pairs for span in query.requested()] if volumes else []
    everywhere = {
        day for day, number in volumes.items() if 1 < number == sum(first <= day <= last for _, first, last in requested)
    }
    return Differences(warehouse.full_name(table), **by_session, cells=cells, all_volumes=frozenset(everywhere))


def _rows(warehouse: Warehouse, table: Table, new: Query, sessions: Sequence[date]) -> list[dict[str, Any]]:
    try:
        rows = warehouse.query(differences_query(table, new, sessions))
    except TableMissing as exc:
        if exc.table != table:
            raise
        rows = warehouse.query(differences_query(table, new, sessions, is_missing=True))
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def differences_query(table: Table, new: Query, sessions: Sequence[date], *, is_missing: bool = False) -> Query:
    """The rows of `table` that differ from those of the query on these sessions. `is_missing`: the table does not exist."""
    columns = table.values[2:]
    if is_missing:
        reads = {}
        old = f"SELECT *, CAST(NULL AS TIMESTAMP) AS {table.stamp} FROM new_rows WHERE FALSE"
    else:
        reads = {"stored": Read(table, (min(sessions), max(sessions)))}
        old = f"SELECT * FROM {{stored}} WHERE date IN ({', '.join(map(sql.day, sessions))})"
    text = sql.text(
        "differences",
        new=new.text,
        old=old,
        values=", ".join(f"o.{name} AS before_{name}, n.{name} AS after_{name}" for name in columns),
        stamp=str(table.stamp),
        differs=sql.differs("n", "o", columns),
    )
    return Query(text, {**new.reads, **reads}, new.tickers, new.spans)


def _cells(row: Mapping[str, Any], columns: Iterable[Column]) -> Iterable[ChangedCell]:
    for column in columns:
        before, after = (_exact(row[f"{when}_{column.name}"], column) for when in ("before", "after"))
        if before != after:
            yield ChangedCell(row["ticker"], row["date"], column.name, before, after, row["replaced_at"])


def _exact(value: Any, column: Column) -> object:
    """The value in the type of production's column: staging has whole numbers as decimals."""
    return int(value) if column.type in {"BIGINT", "INTEGER"} and value is not None else value
