"""What the warehouse tests share: the warehouses, rows for them, and a reader that is independent of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table as IcebergTable

from maang_cli.gate import publish_query
from maang_cli.schemas import arrow_schema
from maang_cli.tables import PRODUCTION, STAGING_COLUMNS, Table
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Read, Replaced, Warehouse
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests import settings

Opener = Callable[[], Warehouse]
"""Opens the same warehouse again, as another process would."""
Row = dict[str, object]

MONDAY, TUESDAY, WEDNESDAY = date(2025, 10, 13), date(2025, 10, 14), date(2025, 10, 15)
STAGING = Table("daily_stock_prices_staging_of_a_test", STAGING_COLUMNS)


def _local(request: pytest.FixtureRequest) -> Opener:
    home: Path = request.getfixturevalue("home")
    return lambda: LocalWarehouse(home, "maang", Retention(100))


def _databricks(request: pytest.FixtureRequest) -> Opener:
    request.getfixturevalue("databricks")
    chosen = settings.load()
    return lambda: WAREHOUSES["databricks"].open(chosen, "")


OPENERS: dict[str, Callable[[pytest.FixtureRequest], Opener]] = {"local": _local, "databricks": _databricks}
"""Every warehouse passes the contract suite. A new warehouse needs an entry here."""


@pytest.fixture(params=OPENERS)
def reopen(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """An empty warehouse, which a test may open several times."""
    opened: list[Warehouse] = []
    open_one = OPENERS[request.param](request)

    def reopen() -> Warehouse:
        opened.append(open_one())
        return opened[-1]

    yield reopen
    for warehouse in opened:
        warehouse.close()


@pytest.fixture
def warehouse(reopen: Opener) -> Warehouse:
    return reopen()


def bar(ticker: str | None, day: date | None, **values: object) -> Row:
    """A row of production, or of staging without its session: `values`, and plausible other values."""
    prices = {name: Decimal(text) for name, text in (("open", "10.00"), ("high", "11.25"), ("low", "9.50"), ("close", "10.75"))}
    counts = {"volume": Decimal(1000), "vwap": Decimal("10.33"), "transactions": Decimal(42)}
    return {"ticker": ticker, "date": day, **prices, **counts} | values


def staged(rows: Iterable[Row]) -> pa.Table:
    """The rows as a source returns them, each for the session of its date."""
    return pa.Table.from_pylist([{"session": row["date"]} | row for row in rows], schema=arrow_schema(STAGING_COLUMNS))


def publish(
    warehouse: Warehouse,
    *rows: Row,
    tickers: Sequence[str] = (),
    sessions: Sequence[date] = (),
    refuse_if: Query | None = None,
    through: Table = STAGING,
) -> Replaced:
    """Stage `rows`, and publish them as the only rows of `tickers` on `sessions`, by default their own."""
    warehouse.stage(through, staged(rows))
    requested = tickers or sorted({str(row["ticker"]) for row in rows})
    days = sessions or sorted({day for row in rows if isinstance(day := row["date"], date)})
    if refuse_if is not None:
        refuse_if = replace(refuse_if, tickers=tuple(requested))
    return warehouse.replace(PRODUCTION, publish_query(through, requested, days), days, refuse_if)


def content(warehouse: Warehouse, table: Table = PRODUCTION, as_of: datetime | None = None) -> list[Row]:
    """All rows of a table, by date and ticker, without staging's `session`, which is the date in these tests."""
    text = "SELECT * FROM {it} ORDER BY date NULLS LAST, ticker NULLS LAST"
    rows = warehouse.query(Query(text, {"it": Read(table, as_of=as_of)})).to_pylist()
    return [{name: value for name, value in row.items() if name not in {"session", "fetched_at"}} for row in rows]


def without_stamp(rows: Iterable[Row], stamp: str | None = PRODUCTION.stamp) -> list[Row]:
    return [{name: value for name, value in row.items() if name != stamp} for row in rows]


def open_catalog(home: Path) -> closing[SqlCatalog]:
    """The local warehouse as another program opens it: PyIceberg and a path."""
    return closing(SqlCatalog("maang", uri=f"sqlite:///{home}/warehouse/catalog.db", warehouse=f"file://{home}/warehouse"))


def rows_on_disk(home: Path, name: str) -> list[Row]:
    """All rows of `schema.table`, by date and ticker, and findings by name and outcome, read only with PyIceberg."""
    with open_catalog(home) as catalog:
        rows: list[Row] = catalog.load_table(name).scan().to_arrow().to_pylist()
    return sorted(rows, key=lambda row: [str(row.get(column)) for column in ("date", "ticker", "name", "outcome")])


def _path(location: str) -> Path:
    return Path(location.removeprefix("file://"))


def _reached(table: IcebergTable) -> Iterator[Path]:
    """Every file that a table's metadata reaches, from its log of metadata files to the data of its oldest snapshot."""
    yield _path(table.metadata_location)
    yield from (_path(entry.metadata_file) for entry in table.metadata.metadata_log)
    manifests = {}
    for snapshot in table.snapshots():
        yield _path(snapshot.manifest_list)
        manifests.update({manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)})
    for location, manifest in manifests.items():
        yield _path(location)
        yield from (_path(entry.data_file.file_path) for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True))


def unreachable(home: Path) -> list[str]:
    """The files below `<home>/warehouse` that the catalog does not reach, and folders of tables that don't exist."""
    root = home / "warehouse"
    reached = {root / "catalog.db", root / "writer.lock"}
    with open_catalog(home) as catalog:
        for schema in catalog.list_namespaces():
            for name in catalog.list_tables(schema):
                table = catalog.load_table(name)
                reached.update(_reached(table), _path(table.location()).parents, [_path(table.location())])
    folders = [path for path in root.glob("*/*") if path.is_dir() and path not in reached]
    files = [path for path in root.rglob("*") if path.is_file() and path not in reached]
    return sorted(str(path.relative_to(root)) for path in files + folders)
