"""What the tests of warehouses share: the warehouses themselves, rows to put in, and a reader that knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table as IcebergTable

from maang_cli import settings
from maang_cli.pipeline import publish_query
from maang_cli.tables import PRODUCTION, STAGED_COLUMNS, Table, arrow_schema
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Read, Replaced, Warehouse
from maang_cli.warehouses.local import LocalWarehouse
from maang_cli.warehouses.shield import shielded

Opener = Callable[[], Warehouse]
"""Opens the same warehouse once more, as another process would."""
Row = dict[str, object]

MONDAY, TUESDAY, WEDNESDAY = date(2025, 10, 13), date(2025, 10, 14), date(2025, 10, 15)
STAGING = Table("daily_stock_prices_staging_of_a_test", STAGED_COLUMNS)


def _local(request: pytest.FixtureRequest) -> Opener:
    home: Path = request.getfixturevalue("home")
    return lambda: shielded(lambda: LocalWarehouse(home, "maang", keep_snapshots=100))


def _databricks(request: pytest.FixtureRequest) -> Opener:
    request.getfixturevalue("databricks")
    chosen = settings.load()
    return lambda: WAREHOUSES["databricks"](chosen)


OPENERS: dict[str, Callable[[pytest.FixtureRequest], Opener]] = {"local": _local, "databricks": _databricks}
"""Every warehouse passes the contract suite; an entry here is all that one more needs."""


@pytest.fixture(params=OPENERS)
def reopen(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """An empty warehouse, to be opened as often as a test likes."""
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
    """A row of production, or of staging but for its session: `values`, and plausible ones beside them."""
    prices = {name: Decimal(text) for name, text in (("open", "10.00"), ("high", "11.25"), ("low", "9.50"), ("close", "10.75"))}
    counts = {"volume": Decimal(1000), "vwap": Decimal("10.33"), "transactions": Decimal(42)}
    return {"ticker": ticker, "date": day, **prices, **counts} | values


def staged(rows: Iterable[Row]) -> pa.Table:
    """The rows as a source hands them over, each of the session that its date says."""
    return pa.Table.from_pylist([{"session": row["date"]} | row for row in rows], schema=arrow_schema(STAGED_COLUMNS))


def publish(
    warehouse: Warehouse,
    *rows: Row,
    tickers: Sequence[str] = (),
    sessions: Sequence[date] = (),
    unless: Query | None = None,
    through: Table = STAGING,
) -> Replaced:
    """Stage `rows`, and replace in production what they are of, or `tickers` and `sessions`."""
    warehouse.stage(through, staged(rows))
    asked = tickers or sorted({str(row["ticker"]) for row in rows})
    days = sessions or sorted({day for row in rows if isinstance(day := row["date"], date)})
    return warehouse.replace(PRODUCTION, publish_query(through, days), asked, days, unless)


def content(warehouse: Warehouse, table: Table = PRODUCTION, as_of: datetime | None = None) -> list[Row]:
    """All rows of a table, by date and ticker; without staging's `session`, which tests here make of the date."""
    text = "SELECT * FROM {it} ORDER BY date NULLS LAST, ticker NULLS LAST"
    rows = warehouse.query(Query(text, {"it": Read(table, as_of=as_of)})).to_pylist()
    return [{name: value for name, value in row.items() if name != "session"} for row in rows]


def without_stamp(rows: Iterable[Row], stamp: str | None = PRODUCTION.stamp) -> list[Row]:
    return [{name: value for name, value in row.items() if name != stamp} for row in rows]


def open_catalog(home: Path) -> closing[SqlCatalog]:
    """The local warehouse as a third party opens it: PyIceberg and a path."""
    return closing(SqlCatalog("maang", uri=f"sqlite:///{home}/warehouse/catalog.db", warehouse=f"file://{home}/warehouse"))


def rows_on_disk(home: Path, name: str) -> list[Row]:
    """All rows of `schema.table`, by date and ticker, through PyIceberg alone."""
    with open_catalog(home) as catalog:
        rows: list[Row] = catalog.load_table(name).scan().to_arrow().to_pylist()
    return sorted(rows, key=lambda row: (str(row["date"]), str(row["ticker"])))


def _path(location: str) -> Path:
    return Path(location.removeprefix("file://"))


def _reached(table: IcebergTable) -> Iterator[Path]:
    """Every file that a table's metadata leads to, from its log of metadata files to the data of its oldest snapshot."""
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
    """The files below `<home>/warehouse` that the catalog does not lead to; a table's folder without a table counts too."""
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
