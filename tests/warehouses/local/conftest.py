"""What the tests of the local warehouse share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.partitioning import PartitionSpec

from maang_cli.errors import ExitCode
from maang_cli.schemas import iceberg_schema
from maang_cli.tables import PRODUCTION
from maang_cli.warehouses.local.catalog import LocalCatalog
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.store import PROPERTIES
from maang_cli.warehouses.local.waiting import Waiting
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Outcome
from tests.warehouses.conftest import TUESDAY, Row, bar, staged

PRODUCTION_NAME = "maang.daily_stock_prices"
FIVE = ("AAPL", "AMZN", "GOOGL", "META", "NFLX")
RUN_DAY = ("run-day", "--date", str(TUESDAY), "--source", "sample", "--quiet")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def open_local(home: Path, snapshots: int = 100, waiting: float = 60) -> closing[LocalWarehouse]:
    """The local warehouse; `snapshots` is how many it keeps of each table, `waiting` how many seconds it waits for others."""
    return closing(LocalWarehouse(home, "maang", Retention(snapshots), waiting))


@pytest.fixture
def local(home: Path) -> Iterator[LocalWarehouse]:
    """The local warehouse with an empty production."""
    with open_local(home) as warehouse:
        warehouse.create(PRODUCTION)
        yield warehouse


TABLE = ("maang", "t")


@pytest.fixture
def catalog(home: Path) -> Iterator[LocalCatalog]:
    """The catalog of the warehouse in `home`, with the empty table TABLE."""
    root = home / "warehouse"
    root.mkdir(parents=True)
    with closing(LocalCatalog(root / "catalog.db", Waiting(10))) as catalog:
        assert catalog.create_schema("maang")
        create(catalog, root)
        yield catalog


def create(catalog: LocalCatalog, root: Path) -> None:
    """Create TABLE, with production's columns and without partitions."""
    schema = iceberg_schema(PRODUCTION.columns)
    catalog.create_table_transaction(TABLE, schema, f"file://{root}/t", PartitionSpec(), PROPERTIES).commit_transaction()


def closes(*texts: str) -> list[Row]:
    """META's bar on Tuesday, one for each close."""
    return [bar("META", TUESDAY, close=Decimal(text)) for text in texts]


def foreign(*rows: Row, stamp: datetime = LONG_AGO) -> pa.Table:
    """Production's rows, as another program would write them."""
    fields = schema_to_pyarrow(iceberg_schema(PRODUCTION.columns), include_field_ids=False)
    narrowed = staged(rows).select(PRODUCTION.values).cast(pa.schema([fields.field(name) for name in PRODUCTION.values]))
    return narrowed.append_column(fields.field("insertion_timestamp"), [[stamp] * len(rows)])


def must_fail(outcome: Outcome, code: ExitCode, *texts: str) -> None:
    """It exits with this code, and prints exactly an error and a hint, which contain these texts."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    error, hint = outcome.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    for text in texts:
        assert text in outcome.err
