"""The three tables as data: column, type, unit, meaning. Arrow and Iceberg schemas and SQL casts derive from it.

Types are those of the Iceberg specification (https://iceberg.apache.org/spec/#schemas-and-data-types), as SQL spells them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    import pyarrow as pa
    from pyiceberg.schema import Schema


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    """STRING, DATE, INTEGER, BIGINT, TIMESTAMP (with zone), DECIMAL(p,s), or ARRAY<one of them>."""
    comment: str
    """Meaning and unit, as it goes into the table's schema."""
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A table's shape. Rows are keyed by `ticker` and `date`."""

    name: str
    columns: tuple[Column, ...]
    stamp: str | None = None
    """The column that says when a row's values last changed; the warehouse fills it. None for staging."""

    @property
    def values(self) -> tuple[str, ...]:
        """The columns that a step writes: all but the stamp."""
        return tuple(column.name for column in self.columns if column.name != self.stamp)

    @property
    def partitioned(self) -> bool:
        """By `date`, but for staging, which is read whole and dropped."""
        return self.stamp is not None


_PRICE = "DECIMAL(10,2)"
_KEY = (
    Column("ticker", "STRING", "Symbol as the vendor spells it; case matters", required=True),
    Column("date", "DATE", "Session, a New York date on which NYSE traded", required=True),
)

PRODUCTION = Table(
    "daily_stock_prices",
    (
        *_KEY,
        Column("open", _PRICE, "First price of the session, USD a share, as traded"),
        Column("high", _PRICE, "Highest price of the session, USD a share, as traded"),
        Column("low", _PRICE, "Lowest price of the session, USD a share, as traded"),
        Column("close", _PRICE, "Last price of the session, USD a share, as traded"),
        Column("volume", "BIGINT", "Shares traded, as traded, rounded half up to whole shares"),
        Column("vwap", _PRICE, "Volume-weighted average price, USD a share; NULL when the vendor gives none"),
        Column("transactions", "INTEGER", "Trades; NULL when the vendor gives none"),
        Column("insertion_timestamp", "TIMESTAMP", "When this row's values last changed, UTC"),
    ),
    stamp="insertion_timestamp",
)

_WINDOW = "of the last 7 sessions by the calendar, oldest to newest; shorter where production lacks one"
CUMULATIVE = Table(
    "daily_stock_prices_cumulative",
    (
        *_KEY,
        Column("last_7_days_open", f"ARRAY<{_PRICE}>", f"Opens {_WINDOW}; USD a share, as traded"),
        Column("last_7_days_high", f"ARRAY<{_PRICE}>", f"Highs {_WINDOW}; USD a share, as traded"),
        Column("last_7_days_low", f"ARRAY<{_PRICE}>", f"Lows {_WINDOW}; USD a share, as traded"),
        Column("last_7_days_close", f"ARRAY<{_PRICE}>", f"Closes {_WINDOW}; USD a share, as traded"),
        Column("last_7_days_volume", "ARRAY<BIGINT>", f"Volumes {_WINDOW}; shares, as traded"),
        Column("avg_7_day_volume", "DECIMAL(15,2)", "Mean of last_7_days_volume, shares a session"),
        Column(
            "volatility_7_day",
            "DECIMAL(10,4)",
            "Sample standard deviation of last_7_days_close, USD; NULL for fewer than 2 closes, or above 999999.9999",
        ),
        Column("updated_at", "TIMESTAMP", "When this row's values last changed, UTC"),
    ),
    stamp="updated_at",
)

_ANY_PRICE = "DECIMAL(38,2)"
_ANY_COUNT = "DECIMAL(38,0)"
_STAGED = {"open": _ANY_PRICE, "high": _ANY_PRICE, "low": _ANY_PRICE, "close": _ANY_PRICE, "vwap": _ANY_PRICE} | {
    "volume": _ANY_COUNT,
    "transactions": _ANY_COUNT,
}
STAGED_COLUMNS = (
    Column("session", "DATE", "Session asked for; `date` is what the source says"),
    *(
        replace(column, type=_STAGED.get(column.name, column.type), required=False)
        for column in PRODUCTION.columns
        if column.name != PRODUCTION.stamp
    ),
)
"""Wide and nullable: a wrong number is refused by the check that names it, not by a cast."""


def staging(tickers: Iterable[str], sessions: Sequence[date]) -> Table:
    """The staging table of one request, `daily_stock_prices_staging_<first session>[_<last>]_<6 hex of the sorted tickers>`.

    The tickers' part is the head of a SHA-256 over the sorted symbols, one a line.
    """
    digest = hashlib.sha256("\n".join(sorted(tickers)).encode()).hexdigest()[:6]
    ends = dict.fromkeys(f"{day:%Y%m%d}" for day in (sessions[0], sessions[-1]))
    return Table("_".join([PRODUCTION.name, "staging", *ends, digest]), STAGED_COLUMNS)


def staged_sessions(table: Table) -> tuple[date, date]:
    """The first and the last session of a staging table, as its name says."""
    ends = table.name.removeprefix(f"{PRODUCTION.name}_staging_").split("_")[:-1]
    first, last = (datetime.strptime(text, "%Y%m%d").date() for text in (ends[0], ends[-1]))  # noqa: DTZ007 - a date
    return first, last


def _decimal(text: str) -> tuple[int, int]:
    precision, scale = text.removeprefix("DECIMAL(").removesuffix(")").split(",")
    return int(precision), int(scale)


NARROW = 18
"""Digits of a decimal that 8 bytes hold."""


def arrow_decimal(precision: int, scale: int) -> pa.DataType:
    """decimal64 where it is wide enough: it halves what windows take, and is moved several times as fast as decimal128."""
    import pyarrow as pa

    return pa.decimal64(precision, scale) if precision <= NARROW else pa.decimal128(precision, scale)


def _arrow_type(text: str) -> pa.DataType:
    import pyarrow as pa

    if text.startswith("ARRAY<"):
        return pa.list_(_arrow_type(text[6:-1]))
    if text.startswith("DECIMAL("):
        return arrow_decimal(*_decimal(text))
    plain = {
        "STRING": pa.string(),
        "DATE": pa.date32(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    }
    return plain[text]


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The columns as Arrow fields: decimal64 prices (decimal128 in staging), date32, timestamp[us, UTC]."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _arrow_type(c.type), nullable=not c.required) for c in columns])


def iceberg_schema(columns: Sequence[Column]) -> Schema:
    """The columns as an Iceberg schema, comments included, field ids from 1 in order."""
    from pyiceberg import types
    from pyiceberg.schema import Schema

    ids = iter(range(len(columns) + 1, 1000))

    def convert(text: str) -> types.IcebergType:
        if text.startswith("ARRAY<"):
            return types.ListType(element_id=next(ids), element_type=convert(text[6:-1]), element_required=False)
        if text.startswith("DECIMAL("):
            return types.DecimalType(*_decimal(text))
        plain: dict[str, types.IcebergType] = {
            "STRING": types.StringType(),
            "DATE": types.DateType(),
            "INTEGER": types.IntegerType(),
            "BIGINT": types.LongType(),
            "TIMESTAMP": types.TimestamptzType(),
        }
        return plain[text]

    return Schema(
        *(
            types.NestedField(number, c.name, convert(c.type), required=c.required, doc=c.comment)
            for number, c in enumerate(columns, 1)
        )
    )


def differences(table: Table, found: dict[str, str], required: Iterable[str] = ()) -> list[str]:
    """What keeps `table` from being written: found columns (name to SQL type) against its own, and those `required` in vain.

    A user's extra nullable columns are no difference.
    """
    own = {column.name: column.type for column in table.columns}
    lines = [
        f"{name} is missing, {kind} expected" if name not in found else f"{name} is {found[name]}, {kind} expected"
        for name, kind in own.items()
        if found.get(name) != kind
    ]
    always = {column.name for column in table.columns if column.required}
    return lines + [
        f"{name} is required, and maang may have no value for it: make it nullable"
        if name in own
        else f"{name} is required but not maang's: make it nullable"
        for name in required
        if name not in always
    ]
