"""The local warehouse's catalog: in SQLite, a row a table that points to the table's current metadata file.

The file is one that PyIceberg's SqlCatalog and other engines' JDBC catalogs open, and the other way round
(https://github.com/apache/iceberg/blob/main/core/src/main/java/org/apache/iceberg/jdbc/JdbcUtil.java). SqlCatalog itself is not
used because SQLAlchemy takes an eighth of a day's time to import.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromInputFile, ToOutputFile
from pyiceberg.table import CommitTableResponse, CreateTableTransaction, StagedTable, Table
from pyiceberg.table.locations import load_location_provider
from pyiceberg.table.metadata import TableMetadataV1, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import update_table_metadata

from maang_cli.retries import SQLITE_SECONDS
from maang_cli.warehouses.local.pyiceberg_private import CommitTarget, LeanTable

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.update import TableRequirement, TableUpdate
    from pyiceberg.typedef import Identifier

NAME = "maang"
"""The catalog's name in its own rows: a file can hold several catalogs."""

_CREATE = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS iceberg_tables (
  catalog_name VARCHAR(255) NOT NULL,
  table_namespace VARCHAR(255) NOT NULL,
  table_name VARCHAR(255) NOT NULL,
  metadata_location VARCHAR(1000),
  previous_metadata_location VARCHAR(1000),
  iceberg_type VARCHAR(5),
  PRIMARY KEY (catalog_name, table_namespace, table_name)
);
CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
  catalog_name VARCHAR(255) NOT NULL,
  namespace VARCHAR(255) NOT NULL,
  property_key VARCHAR(255) NOT NULL,
  property_value VARCHAR(1000) NOT NULL,
  PRIMARY KEY (catalog_name, namespace, property_key)
);
COMMIT;
"""
_ROW = "catalog_name = ? AND table_namespace = ? AND table_name = ?"


class LocalCatalog(CommitTarget):
    """The tables that the file `path` lists. `before_metadata` is called with the location of each metadata file that is about to
    be written. Each change is one statement, so it is done or not done. An identifier is a schema and a name.

    Raises:
        sqlite3.Error: the file can't be opened or created, or is damaged. Every method may raise it.
    """

    def __init__(self, path: Path, before_metadata: Callable[[str], None]) -> None:
        self._before_metadata = before_metadata
        self._loaded: dict[Identifier, Table] = {}
        """The newest version of each table. It is never returned itself, because a commit changes the Table that makes it."""
        # Threads of a notebook may share a warehouse: SQLite itself lets one statement in at a time.
        self._sqlite = sqlite3.connect(path, timeout=SQLITE_SECONDS, isolation_level=None, check_same_thread=False)
        self._sqlite.row_factory = sqlite3.Row
        found = self._sqlite.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'iceberg%'")
        if len(found.fetchall()) < 2:
            self._sqlite.executescript(_CREATE)

    def close(self) -> None:
        self._sqlite.close()

    def has_schema(self, schema: str) -> bool:
        """Whether a schema has tables or was created."""
        tables = "SELECT 1 FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ?"
        schemas = "SELECT 1 FROM iceberg_namespace_properties WHERE catalog_name = ? AND namespace = ?"
        return bool(self._sqlite.execute(f"{tables} UNION ALL {schemas} LIMIT 1", (NAME, schema) * 2).fetchone())

    def create_schema(self, schema: str) -> bool:
        """Create a schema; False if it exists."""
        if self.has_schema(schema):
            return False
        created = self._sqlite.execute(
            "INSERT OR IGNORE INTO iceberg_namespace_properties VALUES (?, ?, 'exists', 'true')", (NAME, schema)
        )
        return bool(created.rowcount)

    def locations(self, schema: str) -> dict[str, str | None]:
        """A schema's tables by name, each with the location of its metadata file. Other engines' views are left out."""
        found = self._sqlite.execute(
            "SELECT * FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ?", (NAME, schema)
        )
        # Catalogs of PyIceberg before 0.11 lack the column; in newer ones it tells tables from views.
        tables = [row for row in map(dict, found) if row.get("iceberg_type") in {None, "TABLE"}]
        return {row["table_name"]: row["metadata_location"] for row in tables}

    def load_table(self, identifier: Identifier) -> Table:
        """The table as it is now.

        Raises:
            NoSuchTableError: it does not exist.
        """
        schema, name = identifier
        location = self.locations(schema).get(name)
        if location is None:
            raise NoSuchTableError(f"{schema}.{name} does not exist")
        known = self._loaded.get(identifier)
        if known is None or known.metadata_location != location:
            metadata = FromInputFile.table_metadata(PyArrowFileIO().new_input(location))
            known = self._loaded[identifier] = Table(identifier, metadata, location, _io(metadata), self.as_catalog())
        return LeanTable(identifier, known.metadata, location, known.io, self.as_catalog())

    def create_table_transaction(
        self, identifier: Identifier, schema: Schema, location: str, spec: PartitionSpec, properties: dict[str, str]
    ) -> CreateTableTransaction:
        """A transaction that creates a table which does not exist. The table appears with its commit."""
        metadata = new_table_metadata(schema, spec, UNSORTED_SORT_ORDER, location, properties)
        return CreateTableTransaction(
            StagedTable(identifier, metadata, _new_location(metadata, 0), _io(metadata), self.as_catalog())
        )

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        """Write the table's next metadata file, and point to it, if the table is still as the transaction expects it.

        Raises:
            CommitFailedException: another writer was faster.
            TableAlreadyExistsError: another writer has created the table.
        """
        identifier = table.name()
        try:
            current = self.load_table(identifier)
        except NoSuchTableError:
            current = None
        base, old = (current.metadata, current.metadata_location) if current else (None, None)
        for requirement in requirements:
            requirement.validate(base)
        metadata = update_table_metadata(
            # An empty table of the version that the updates then raise, as PyIceberg's own catalogs begin.
            base or TableMetadataV1.model_construct(last_column_id=-1, schema=Schema()),
            updates,
            enforce_validation=base is None,
            metadata_location=old,
        )
        location = _new_location(metadata, _version(old) + 1 if old else 0)
        self._before_metadata(location)
        ToOutputFile.table_metadata(metadata, _io(metadata).new_output(location))
        self._point(identifier, old, location)
        return CommitTableResponse(metadata=metadata, metadata_location=location)  # type: ignore[call-arg]  # mypy knows the alias only

    def _point(self, identifier: Identifier, old: str | None, new: str) -> None:
        if old is None:
            try:
                # Without iceberg_type, which older catalogs lack, and which may be NULL for a table.
                self._sqlite.execute(
                    "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location)"
                    " VALUES (?, ?, ?, ?)",
                    (NAME, *identifier, new),
                )
            except sqlite3.IntegrityError as exc:
                raise TableAlreadyExistsError(f"{'.'.join(identifier)} exists") from exc
            return
        pointed = self._sqlite.execute(
            "UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = ?"
            f" WHERE {_ROW} AND metadata_location = ?",
            (new, old, NAME, *identifier, old),
        )
        if not pointed.rowcount:
            raise CommitFailedException(f"another writer has changed {'.'.join(identifier)}")

    def drop_table(self, identifier: Identifier) -> bool:
        """Forget a table; its files stay. False if it does not exist."""
        return bool(self._sqlite.execute(f"DELETE FROM iceberg_tables WHERE {_ROW}", (NAME, *identifier)).rowcount)


def _io(metadata: TableMetadata) -> FileIO:
    return PyArrowFileIO(metadata.properties)


def _new_location(metadata: TableMetadata, version: int) -> str:
    return load_location_provider(metadata.location, metadata.properties).new_table_metadata_file_location(version)


def _version(location: str) -> int:
    """The number that begins a metadata file's name; -1 if another writer named it differently."""
    number = location.rpartition("/")[-1].partition("-")[0]
    return int(number) if number.isdecimal() else -1
