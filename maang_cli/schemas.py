"""The tables' columns (`tables.Column`) as Arrow and Iceberg schemas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from maang_cli.tables import STAGING_COLUMNS, Column

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.schema import Schema

NARROW = 18
"""The digits of a decimal that fit into 8 bytes."""


def _decimal(text: str) -> tuple[int, int]:
    precision, scale = text.removeprefix("DECIMAL(").removesuffix(")").split(",")
    return int(precision), int(scale)


def arrow_decimal(precision: int, scale: int) -> pa.DataType:
    """decimal64 if it is wide enough: windows take half the memory, and move several times as fast as with decimal128."""
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


def to_stage(bars: pa.Table, began: datetime) -> pa.Table:
    """Bars of a source as rows of staging. `began`: when their fetch began."""
    import pyarrow as pa

    column = arrow_schema(STAGING_COLUMNS).field("fetched_at")
    return bars.append_column(column, pa.repeat(pa.scalar(began, column.type), bars.num_rows))


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
