"""Where the local warehouse's tables are, read from its catalog without PyIceberg and without creating anything."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from maang_cli.errors import WarehouseDenied
from maang_cli.retries import WAITING_SECONDS
from maang_cli.settings import Settings
from maang_cli.warehouses.base import Places


def places(settings: Settings) -> Places:
    """The catalog, and every table in it with its current metadata file.

    Raises:
        WarehouseDenied: the catalog can't be read.
    """
    root = settings.home / "warehouse"
    catalog = root / "catalog.db"
    try:
        return Places(f"sqlite:///{catalog}", {"warehouse": root}, _metadata(catalog) if _is_begun(catalog) else {})
    except sqlite3.Error as exc:
        raise WarehouseDenied(f"{catalog} can't be read: {exc}", hint="restore it, or set MAANG_HOME to another folder") from exc


def _is_begun(catalog: Path) -> bool:
    try:
        return catalog.stat().st_size > 0
    except OSError:  # it does not exist, or its name is too long
        return False


def _metadata(catalog: Path) -> dict[str, str | None]:
    # Not read-only: SQLite may have to roll back what a killed writer left.
    with closing(sqlite3.connect(f"file:{quote(str(catalog))}?mode=rw", uri=True, timeout=WAITING_SECONDS)) as opened:
        opened.row_factory = sqlite3.Row
        # The rows of `catalog.LocalCatalog`; other engines' catalogs and views may be in the same file.
        found = opened.execute("SELECT * FROM iceberg_tables WHERE catalog_name = 'maang' ORDER BY table_namespace, table_name")
        tables = [row for row in map(dict, found) if row.get("iceberg_type") in {None, "TABLE"}]
    return {
        f"{row['table_namespace']}.{row['table_name']}": row["metadata_location"]
        and row["metadata_location"].removeprefix("file://")
        for row in tables
    }
