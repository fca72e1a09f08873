"""The tables for other programs: `maang_cli.read`, and `maang sql`. It only reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from maang_cli import pipeline, settings, sql, symbols
from maang_cli import sessions as calendar
from maang_cli.errors import SettingsError
from maang_cli.sources import SOURCES
from maang_cli.tables import PRODUCTION, SPLITS, STORED
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse, query_optional

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Selected:
    """What a user's query found. Each column has a name of its own."""

    rows: pa.Table


def read(
    table: str = "production",
    tickers: str | Sequence[str] | None = None,
    first: date | str | None = None,
    last: date | str | None = None,
    as_of: datetime | str | None = None,
    adjusted: bool = False,
    floats: bool = False,
) -> pa.Table:
    """Rows of a table, by date and ticker, from the warehouse that the environment and the configuration file name.

    Args:
        table: production, cumulative, splits or findings; docs/tables.md has their columns.
        tickers: names, or a comma list of them; None: every ticker that is stored. Findings about whole sessions always count.
        first: the first date, inclusive; a date, or YYYY-MM-DD.
        last: the last date, inclusive.
        as_of: the table as of this time; a datetime, or ISO 8601; UTC if it has no offset.
        adjusted: production's prices and volumes on the basis of the newest split, instead of as traded.
        floats: decimals as float64, for plots and statistics; otherwise they are exact decimals (decimal128).

    Raises:
        SettingsError: an argument or a setting is wrong, or the table's history does not reach back to `as_of`.
        OutOfOrder: there is no production, or no cumulative. Splits and findings are then empty.
        WarehouseDenied, WarehouseFailed: the warehouse can't be read.
    """
    if table not in STORED:
        raise SettingsError(f"{table!r} is not a table", hint=f"give one of: {', '.join(STORED)}")
    if adjusted and STORED[table] != PRODUCTION:
        raise SettingsError(f"adjusted reads production, not {table}", hint="leave out table, or adjusted")
    bounds = _date(first, "first") or calendar.FIRST_DATE, _date(last, "last") or pipeline.EVER
    instant = None if as_of is None else parse_instant(str(as_of), "as_of")
    conditions = [f"date BETWEEN {sql.day(bounds[0])} AND {sql.day(bounds[1])}"]
    names: Sequence[str] = ()
    if tickers is not None:
        given = tickers.split(",") if isinstance(tickers, str) else tickers
        names = tuple(symbols.parse_names([name.strip() for name in given], "give tickers such as 'META,BRK.A'"))
        conditions.append(pipeline.of_tickers(STORED[table]))
    chosen = settings.load(SOURCES, WAREHOUSES)
    with closing(WAREHOUSES[chosen.warehouse].open(chosen, "read")) as warehouse:
        if adjusted and tickers is None:
            names = _split_tickers(warehouse)
        try:
            rows = pipeline.stored_rows(warehouse, STORED[table], conditions, names, bounds, instant, adjusted=adjusted)
        except TableMissing as exc:
            raise pipeline.no_table(warehouse, exc) from exc
    return _converted(rows, floats=floats)


def select(warehouse: Warehouse, text: str) -> Selected:
    """The rows of a user's query, which knows the tables as production, cumulative, splits and findings.

    Raises:
        SettingsError, WarehouseDenied: it is not one query, or a wrong one.
        OutOfOrder: it names a table that does not exist.
    """
    named = [name for name in STORED if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    tables = {name: _all_rows(name) for name in named}
    while True:
        try:
            rows = warehouse.select(text.strip().removesuffix(";"), tables)
        except TableMissing as exc:
            if exc.table not in pipeline.OPTIONAL:
                raise pipeline.no_table(warehouse, exc) from exc
            tables = {name: query.without(exc.table) for name, query in tables.items()}
        else:
            return Selected(rows.rename_columns(_distinct(rows.column_names)))


def parse_instant(text: str, name: str = "--as-of") -> datetime:
    """An instant as a person types it; UTC if it has no offset.

    Raises:
        SettingsError: it is not one.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        raise SettingsError(
            f"{text[:40]!r} is not a timestamp", hint=f"give {name} as ISO 8601, such as 2025-10-15T06:00:00-04:00"
        ) from exc
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _date(value: date | str | None, name: str) -> date | None:
    if not isinstance(value, str):
        return value
    try:
        return date.fromisoformat(value)
    except ValueError as exc:
        raise SettingsError(f"{value[:40]!r} is not a date", hint=f"give {name} as YYYY-MM-DD, such as 2025-10-14") from exc


def _all_rows(name: str) -> Query:
    columns = ", ".join(column.name for column in STORED[name].columns)
    return Query(f"SELECT {columns} FROM {{{name}}}", {name: Read(STORED[name])})


def _split_tickers(warehouse: Warehouse) -> Sequence[str]:
    query = Query("SELECT DISTINCT ticker FROM {splits} ORDER BY ticker", {"splits": Read(SPLITS)})
    names: list[str] = query_optional(warehouse, query, (SPLITS,))["ticker"].to_pylist()
    return names


def _converted(rows: pa.Table, *, floats: bool) -> pa.Table:
    """With float64 for all decimals, or with decimal128, which more programs read than decimal64."""
    import pyarrow as pa

    def kind(found: pa.DataType, decimal: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
        if pa.types.is_list(found):
            return pa.list_(kind(found.value_type, decimal))
        return decimal(found) if pa.types.is_decimal(found) else found

    def schema(decimal: Callable[[pa.DataType], pa.DataType]) -> pa.Schema:
        return pa.schema([field.with_type(kind(field.type, decimal)) for field in rows.schema])

    if not floats:
        return rows.cast(schema(lambda found: pa.decimal128(found.precision, found.scale)))
    # By way of text: Arrow makes 88.46000000000001 of 88.46, which is not the nearest float.
    return rows.cast(schema(lambda _: pa.string())).cast(schema(lambda _: pa.float64()))


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number after those that are there already: a, a_1."""
    found: dict[str, None] = {}
    for name in names:
        number, new = 0, name
        while new in found:
            number += 1
            new = f"{name}_{number}"
        found[new] = None
    return list(found)
