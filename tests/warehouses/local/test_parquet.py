"""The Parquet data files that the local warehouse writes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import DataFile

from maang_cli.schemas import arrow_schema
from maang_cli.tables import CUMULATIVE, PRODUCTION, Table
from maang_cli.warehouses.local.parquet import Writer
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Maang
from tests.warehouses.conftest import MONDAY, STAGING, TUESDAY, Row, bar, open_catalog, publish, staged
from tests.warehouses.local.conftest import LONG_AGO, PRODUCTION_NAME, RUN_DAY

WRITER = uuid.UUID(int=7)


def path_of(file: DataFile) -> Path:
    return Path(file.file_path.removeprefix("file://"))


def production_rows(rows: Iterable[Row]) -> pa.Table:
    schema = arrow_schema(PRODUCTION.columns)
    return pa.Table.from_pylist([row | {"insertion_timestamp": LONG_AGO} for row in rows], schema=schema)


def write(local: LocalWarehouse, table: Table, rows: pa.Table) -> list[DataFile]:
    """Write the rows as files of an empty table."""
    with local._store.writing(table.name) as writer:
        transaction = local._store.creation(table)
        return Writer(transaction.table_metadata, writer).write(rows)


def written(local: LocalWarehouse, rows: Iterable[Row]) -> list[DataFile]:
    """Write the rows as files of production."""
    table = local._store.load(PRODUCTION.name)
    assert table is not None
    return Writer(table.metadata, WRITER).write(production_rows(rows))


def test_each_date_has_one_file_in_its_own_folder(local: LocalWarehouse) -> None:
    days = [[bar("AAPL", MONDAY), bar("META", MONDAY)], [bar("META", TUESDAY)]]
    files = written(local, [row for rows in days for row in rows])
    assert [path_of(file).parent.name for file in files] == ["date=2025-10-13", "date=2025-10-14"]
    assert [file.record_count for file in files] == [2, 1]
    assert [pq.read_table(path_of(file), partitioning=None)["ticker"].to_pylist() for file in files] == [
        ["AAPL", "META"],
        ["META"],
    ]
    assert all(str(WRITER) in path_of(file).name for file in files)
    assert [file.file_size_in_bytes for file in files] == [path_of(file).stat().st_size for file in files]


def test_no_rows_make_no_file(local: LocalWarehouse) -> None:
    assert written(local, []) == []
    assert write(local, STAGING, staged([])) == []


def test_table_without_partitions_has_one_file(local: LocalWarehouse, home: Path) -> None:
    local.stage(STAGING, staged([bar("AAPL", MONDAY), bar("META", TUESDAY)]))
    (file,) = (home / "warehouse/maang" / STAGING.name / "data").rglob("*.parquet")
    assert pq.read_table(file)["ticker"].to_pylist() == ["AAPL", "META"]


def test_columns_have_their_field_ids_and_no_arrow_schema(local: LocalWarehouse) -> None:
    """Iceberg finds a column by its field id. Arrow's schema would name decimal64, which other readers need not know."""
    (file,) = written(local, [bar("META", TUESDAY)])
    metadata = pq.read_metadata(path_of(file))
    ids = [int((field.metadata or {})[b"PARQUET:field_id"]) for field in pq.read_schema(path_of(file))]
    assert ids == list(range(1, len(PRODUCTION.columns) + 1))
    assert b"ARROW:schema" not in (metadata.metadata or {})


def test_values_are_stored_exactly(local: LocalWarehouse) -> None:
    price = Decimal("99999999.99")
    rows = [bar("LEAST", TUESDAY, open=-price, volume=Decimal(-(2**63))), bar("NULL", TUESDAY, vwap=None, transactions=None)]
    (file,) = written(local, rows)
    found = pq.read_table(path_of(file), partitioning=None).to_pylist()
    assert found == production_rows(rows).to_pylist()
    assert found[0]["insertion_timestamp"] == LONG_AGO == datetime(2020, 1, 1, tzinfo=UTC)


def test_only_ticker_and_date_have_bounds(local: LocalWarehouse) -> None:
    """Readers skip files by them. Bounds of other columns would prune nothing."""
    (file,) = written(local, [bar("AAPL", TUESDAY), bar("META", TUESDAY)])
    assert set(file.lower_bounds) == set(file.upper_bounds) == {1, 2}
    assert (file.lower_bounds[1], file.upper_bounds[1]) == (b"AAPL", b"META")


def test_commit_lists_the_written_files(local: LocalWarehouse, home: Path) -> None:
    publish(local, bar("AAPL", MONDAY), bar("META", TUESDAY))
    with open_catalog(home) as catalog:
        tasks = list(catalog.load_table(PRODUCTION_NAME).scan(f"date = '{TUESDAY}' and ticker = 'META'").plan_files())
    assert [path_of(task.file).parent.name for task in tasks] == ["date=2025-10-14"]


@pytest.mark.parametrize(("table", "has_arrays"), [(PRODUCTION, False), (CUMULATIVE, True)], ids=["production", "cumulative"])
def test_only_arrays_are_stored_as_differences(home: Path, maang: Maang, table: Table, *, has_arrays: bool) -> None:
    assert maang(*RUN_DAY).code == 0
    (file,) = (home / "warehouse/maang_sample" / table.name / "data").rglob("*.parquet")
    group = pq.read_metadata(file).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    differences = {column.path_in_schema for column in columns if "DELTA_BINARY_PACKED" in column.encodings}
    assert differences == {f"{column.name}.list.element" for column in table.columns if column.type.startswith("ARRAY")}
    assert bool(differences) == has_arrays
