"""Rows as Parquet data files of an Iceberg table, one per partition (https://iceberg.apache.org/spec/#appendix-a-format-specific-requirements).

PyIceberg's own writer searches all rows for each partition, and converts the schema for each file: 3 ms for a file of 5 rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import pyarrow as iceberg_arrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.schema import sanitize_column_names
from pyiceberg.table.locations import load_location_provider
from pyiceberg.typedef import Record

from maang_cli.schemas import arrow_decimal
from maang_cli.warehouses.local.disk import path_of
from maang_cli.warehouses.local.pyiceberg_private import parquet_options

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata

EPOCH = date(1970, 1, 1)
WRITERS = 2
"""How many files are written at the same time."""


class Writer:
    """Writes the files of one commit, with `writer` in their names. The table is unpartitioned, or partitioned only by `date`."""

    def __init__(self, metadata: TableMetadata, writer: uuid.UUID) -> None:
        self._metadata = metadata
        self._writer = writer
        self._names = [field.name for field in metadata.schema().fields]
        self._schema = sanitize_column_names(metadata.schema())
        self._layout = pa.schema(map(_narrowed, iceberg_arrow.schema_to_pyarrow(self._schema, include_field_ids=True)))
        self._places = load_location_provider(metadata.location, metadata.properties)
        self._statistics = iceberg_arrow.compute_statistics_plan(self._schema, metadata.properties)
        self._fields = iceberg_arrow.parquet_path_to_id_mapping(self._schema)
        self._options = parquet_options(metadata)
        self._encodings = dict(_encodings(self._layout))

    def write(self, rows: pa.Table) -> list[DataFile]:
        """The files with `rows`, which have the table's columns and are in order of `date`; no files for no rows."""
        rows = rows.select(self._names).rename_columns(self._layout.names).cast(self._layout)
        if self._metadata.spec().is_unpartitioned():
            return [self._file(0, None, rows)] if rows.num_rows else []
        with ThreadPoolExecutor(WRITERS) as pool:
            return list(pool.map(lambda part: self._file(*part), _by_date(rows)))

    def _file(self, number: int, day: date | None, rows: pa.Table) -> DataFile:
        key = self._key(day)
        location = self._places.new_data_location(f"00000-{number}-{self._writer}.parquet", key)
        path = path_of(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Prices rarely repeat: a dictionary makes such a file larger, and takes three times as long.
        # Arrow's own schema is left out: Parquet's is enough, and readers of Iceberg need not know decimal64.
        plain = {"use_dictionary": False, "store_decimal_as_integer": True, "store_schema": False}
        with pq.ParquetWriter(path, self._layout, column_encoding=self._encodings, **plain, **self._options) as parquet:
            parquet.write_table(rows)
        found = iceberg_arrow.data_file_statistics_from_parquet_metadata(parquet.writer.metadata, self._statistics, self._fields)
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=location,
            file_format=FileFormat.PARQUET,
            partition=key.partition if key else Record(),
            file_size_in_bytes=path.stat().st_size,
            sort_order_id=None,
            spec_id=self._metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **found.to_serialized_dict(),
        )

    def _key(self, day: date | None) -> PartitionKey | None:
        if day is None:
            return None
        spec = self._metadata.spec()
        return PartitionKey([PartitionFieldValue(spec.fields[0], day)], spec, self._metadata.schema())


def day_of(file: DataFile) -> date:
    """A data file's partition, which Iceberg stores as days since 1970."""
    return EPOCH + timedelta(days=file.partition[0])


def _narrowed(field: pa.Field) -> pa.Field:
    """The field with the decimals and lists of `schemas.arrow_schema`. PyIceberg's are larger, and would need a conversion."""
    kind = field.type
    if pa.types.is_decimal(kind):
        return field.with_type(arrow_decimal(kind.precision, kind.scale))
    return field.with_type(pa.list_(_narrowed(kind.value_field))) if pa.types.is_large_list(kind) else field


def _encodings(layout: pa.Schema) -> Iterator[tuple[str, str]]:
    """The encodings of arrays of numbers: as differences, because a ticker's prices on a few sessions are close to each other.

    Other numbers stay plain: older vectorised readers in Spark don't know this encoding (and they don't read arrays).
    """
    for field in layout:
        element = field.type.value_type if pa.types.is_list(field.type) else None
        if element is not None and (pa.types.is_integer(element) or pa.types.is_decimal64(element)):
            yield f"{field.name}.list.element", "DELTA_BINARY_PACKED"


def _by_date(rows: pa.Table) -> Iterator[tuple[int, date, pa.Table]]:
    """Consecutive rows of one date, numbered."""
    runs = pc.run_end_encode(rows["date"].combine_chunks())
    start = 0
    for number, (end, day) in enumerate(zip(runs.run_ends.to_pylist(), runs.values.to_pylist(), strict=True)):
        yield number, day, rows.slice(start, end - start)
        start = end
