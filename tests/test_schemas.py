"""The tables' columns as Arrow and Iceberg schemas."""

from __future__ import annotations

import pyarrow as pa
import pytest

from maang_cli import schemas
from maang_cli.tables import Table
from tests.test_tables import PROMISED, each_table

TYPES = {
    "STRING": ("string", pa.string()),
    "DATE": ("date", pa.date32()),
    "INTEGER": ("int", pa.int32()),
    "BIGINT": ("long", pa.int64()),
    "TIMESTAMP": ("timestamptz", pa.timestamp("us", tz="UTC")),
    "DECIMAL(10,2)": ("decimal(10, 2)", pa.decimal64(10, 2)),
    "DECIMAL(10,4)": ("decimal(10, 4)", pa.decimal64(10, 4)),
    "DECIMAL(15,2)": ("decimal(15, 2)", pa.decimal64(15, 2)),
    "DECIMAL(38,0)": ("decimal(38, 0)", pa.decimal128(38, 0)),
    "DECIMAL(38,2)": ("decimal(38, 2)", pa.decimal128(38, 2)),
    "ARRAY<BIGINT>": ("list<long>", pa.list_(pa.int64())),
    "ARRAY<DECIMAL(10,2)>": ("list<decimal(10, 2)>", pa.list_(pa.decimal64(10, 2))),
}
"""Each promised type as the Iceberg specification writes it, and in Arrow."""


@each_table
def test_arrow_schema_has_the_promised_types(table: Table) -> None:
    schema = schemas.arrow_schema(table.columns)
    promised = [pa.field(c.name, TYPES[PROMISED[table.name][c.name]][1], nullable=not c.required) for c in table.columns]
    assert schema.equals(pa.schema(promised))


@each_table
def test_iceberg_schema_has_the_promised_types_and_the_comments(table: Table) -> None:
    fields = schemas.iceberg_schema(table.columns).fields
    assert [(field.name, str(field.field_type)) for field in fields] == [
        (name, TYPES[kind][0]) for name, kind in PROMISED[table.name].items()
    ]
    assert [(field.required, field.doc) for field in fields] == [(column.required, column.comment) for column in table.columns]


@each_table
def test_iceberg_field_ids_are_distinct_and_include_array_elements(table: Table) -> None:
    schema = schemas.iceberg_schema(table.columns)
    assert [field.field_id for field in schema.fields] == list(range(1, len(table.columns) + 1))
    arrays = sum(column.type.startswith("ARRAY<") for column in table.columns)
    assert len(schema.field_ids) == len(table.columns) + arrays


@pytest.mark.parametrize(
    ("precision", "expected"), [(1, pa.decimal64(1, 0)), (18, pa.decimal64(18, 0)), (19, pa.decimal128(19, 0))]
)
def test_decimals_of_up_to_18_digits_take_8_bytes(precision: int, expected: pa.DataType) -> None:
    assert schemas.arrow_decimal(precision, 0) == expected
