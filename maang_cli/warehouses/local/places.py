"""Where the local warehouse's tables are, read from its catalog without opening the warehouse, which would create it."""

import os
import sqlite3
from contextlib import closing
from urllib.parse import quote

from maang_cli.errors import WarehouseDenied
from maang_cli.retries import SQLITE_SECONDS
from maang_cli.settings import Settings
from maang_cli.warehouses.base import Places


def places(settings: Settings) -> Places:
    """The catalog, and every table in it with its current metadata file.

    Raises:
        WarehouseDenied: the catalog can't be read.
    """
    root = settings.home / "warehouse"
    catalog = root / "catalog.db"
    metadata: dict[str, str | None] = {}
    if os.path.exists(catalog):  # noqa: PTH110 - Path.exists raises an error for a name that is too long
        try:
            # Not read-only: SQLite may have to roll back what a killed writer left.
            with closing(sqlite3.connect(f"file:{quote(str(catalog))}?mode=rw", uri=True, timeout=SQLITE_SECONDS)) as opened:
                rows = opened.execute("SELECT table_namespace, table_name, metadata_location FROM iceberg_tables ORDER BY 1, 2")
                metadata = {f"{schema}.{name}": place and place.removeprefix("file://") for schema, name, place in rows}
        except sqlite3.Error as exc:
            raise WarehouseDenied(
                f"{catalog} can't be read: {exc}", hint="restore it, or set MAANG_HOME to another folder"
            ) from exc
    return Places(f"sqlite:///{catalog}", {"warehouse": root}, metadata)
