"""The local warehouse's catalog: in SQLite, a row a table that points to the table's current metadata file.

The file is one that PyIceberg's SqlCatalog and other engines' JDBC catalogs open, and the other way round
(https://github.com/apache/iceberg/blob/main/core/src/main/java/org/apache/iceberg/jdbc/JdbcUtil.java). SqlCatalog itself is not
used because SQLAlchemy takes an eighth of a day's time to import.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
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

from maang_cli.warehouses.local import damage, disk
from maang_cli.warehouses.local.errors import RESTORE, Damaged, is_busy
from maang_cli.warehouses.local.pyiceberg_private import CommitTarget, LeanTable
from maang_cli.warehouses.local.waiting import Waiting

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.partitioning import PartitionSpec
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.update import TableRequirement, TableUpdate
    from pyiceberg.typedef import Identifier

log = logging.getLogger("maang")

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
    """The tables that the file `path` lists. Each change is one statement, so it is done or not done, and what it points to is on
    disk before. An identifier is a schema and a name.

    Raises:
        sqlite3.Error: the file can't be opened or created, or is damaged. Every method may raise it.
        WarehouseFailed: another program has locked the file for too long. Every method may raise it.
    """

    def __init__(self, path: Path, waiting: Waiting) -> None:
        self.writer: uuid.UUID | None = None
        """The part of their names by which the files of the present write are known; None: each metadata file gets its own."""
        self._catalog_file = path
        self._waiting = waiting
        self._loaded: dict[Identifier, Table] = {}
        """The newest version of each table. It is never returned itself, because a commit changes the Table that makes it."""
        # Threads of a notebook may share a warehouse: SQLite itself lets one statement in at a time.
        self._sqlite = sqlite3.connect(path, timeout=waiting.attempt_seconds, isolation_level=None, check_same_thread=False)
        self._sqlite.row_factory = sqlite3.Row
        # After a power cut no commit is rolled back that has returned, because its files' predecessors may be deleted by then.
        self._run("PRAGMA synchronous = EXTRA")
        found = self._run("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'iceberg%'")
        if len(found.fetchall()) < 2:
            self._wait(lambda: self._sqlite.executescript(_CREATE))

    def close(self) -> None:
        self._sqlite.close()

    def _run(self, statement: str, values: tuple[str | None, ...] = ()) -> sqlite3.Cursor:
        return self._wait(lambda: self._sqlite.execute(statement, values))

    def _wait(self, attempt: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        return self._waiting.until(attempt, is_busy, f"another program has locked {self._catalog_file}")

    def has_schema(self, schema: str) -> bool:
        """Whether a schema has tables or was created."""
        tables = "SELECT 1 FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ?"
        schemas = "SELECT 1 FROM iceberg_namespace_properties WHERE catalog_name = ? AND namespace = ?"
        return bool(self._run(f"{tables} UNION ALL {schemas} LIMIT 1", (NAME, schema) * 2).fetchone())

    def create_schema(self, schema: str) -> bool:
        """Create a schema; False if it exists."""
        if self.has_schema(schema):
            return False
        created = self._run("INSERT OR IGNORE INTO iceberg_namespace_properties VALUES (?, ?, 'exists', 'true')", (NAME, schema))
        return bool(created.rowcount)

    def locations(self, schema: str) -> dict[str, str | None]:
        """A schema's tables by name, each with the location of its metadata file. Other engines' views are left out."""
        found = self._run("SELECT * FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ?", (NAME, schema))
        # Catalogs of PyIceberg before 0.11 lack the column; in newer ones it tells tables from views.
        tables = [row for row in map(dict, found) if row.get("iceberg_type") in {None, "TABLE"}]
        return {row["table_name"]: row["metadata_location"] for row in tables}

    def location(self, identifier: Identifier) -> str | None:
        """Where a table's metadata file is now; None if there is no such table."""
        schema, name = identifier
        return self.locations(schema).get(name)

    def points_into(self, folder: Path) -> bool:
        """Whether a table has its metadata file in this folder, whatever it is called and in whichever catalog of the file."""
        found = self._run("SELECT metadata_location FROM iceberg_tables")
        return any(location and folder in disk.path_of(location).parents for (location,) in found)

    def load_table(self, identifier: Identifier) -> Table:
        """The table as it is now, or if a power cut has destroyed its newest metadata file, as it was before that.

        Raises:
            NoSuchTableError: it does not exist.
            Damaged: its metadata can't be read.
        """
        while True:
            location = self.location(identifier)
            if location is None:
                if self.go_back(identifier, None):
                    continue
                raise NoSuchTableError(f"{'.'.join(identifier)} does not exist")
            known = self._loaded.get(identifier)
            if known is None or known.metadata_location != location:
                try:
                    metadata = _read(location)
                except Exception as exc:
                    if self.location(identifier) != location:
                        continue  # another writer has replaced the file, and deleted it
                    if damage.is_cut_off(location) and self.go_back(identifier, location):
                        continue
                    if isinstance(exc, OSError) and not isinstance(exc, FileNotFoundError):
                        raise
                    raise Damaged(f"{disk.path_of(location)} can't be read: {damage.first_line(exc)}", hint=RESTORE) from exc
                known = self._loaded[identifier] = Table(identifier, metadata, location, _io(metadata), self.as_catalog())
            return LeanTable(identifier, known.metadata, location, known.io, self.as_catalog())

    def go_back(self, identifier: Identifier, damaged: str | None) -> bool:
        """Point to the newest metadata file before the `damaged` one that can be read, with its manifests, and say so.

        Returns False if there is none.
        """
        found = self._run(f"SELECT * FROM iceberg_tables WHERE {_ROW}", (NAME, *identifier)).fetchone()
        if found is None:
            return False
        for location in self._earlier(identifier, damaged, found["previous_metadata_location"]):
            with suppress(Exception):  # whatever a reader raises for damaged bytes: then the one before
                metadata = _read(location)
                if damage.unreadable_manifest(metadata, _io(metadata)) is None:
                    break
        else:
            return False
        pointed = self._run(
            f"UPDATE iceberg_tables SET metadata_location = ? WHERE {_ROW} AND metadata_location IS ?",
            (location, NAME, *identifier, damaged),
        )
        if pointed.rowcount:
            when = datetime.fromtimestamp(metadata.last_updated_ms / 1000, UTC)
            log.error(  # said in spite of --quiet
                "%s is damaged; %s is again as of %s: maang backfill fetches what is missing since",
                disk.path_of(damaged) if damaged else "the catalog",
                ".".join(identifier),
                f"{when:%Y-%m-%dT%H:%M:%SZ}",
            )
        return True

    def _earlier(self, identifier: Identifier, damaged: str | None, previous: str | None) -> Iterator[str]:
        """The locations of earlier metadata files, newest first."""
        if previous and previous != damaged:
            yield previous
        known = damaged or previous
        folder = disk.path_of(known).parent if known else Path(self._catalog_file.parent, *identifier, "metadata")
        before = _version(known) if known else None
        names = {f"file://{path}": _version(str(path)) for path in folder.glob("*.metadata.json")}
        for location in sorted(names, key=lambda each: names[each], reverse=True):
            if location not in (damaged, previous) and (before is None or names[location] < before):
                yield location

    def create_table_transaction(
        self, identifier: Identifier, schema: Schema, location: str, spec: PartitionSpec, properties: dict[str, str]
    ) -> CreateTableTransaction:
        """A transaction that creates a table which does not exist. The table appears with its commit."""
        metadata = new_table_metadata(schema, spec, UNSORTED_SORT_ORDER, location, properties)
        return CreateTableTransaction(
            StagedTable(identifier, metadata, self._new_location(metadata, 0), _io(metadata), self.as_catalog())
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
        location = self._new_location(metadata, _version(old) + 1 if old else 0)
        ToOutputFile.table_metadata(metadata, _io(metadata).new_output(location))
        self._sync(disk.path_of(location))
        self._point(identifier, old, location)
        return CommitTableResponse(metadata=metadata, metadata_location=location)  # type: ignore[call-arg]  # mypy knows the alias only

    def _new_location(self, metadata: TableMetadata, version: int) -> str:
        name = f"{version:05d}-{self.writer or uuid.uuid4()}.metadata.json"
        return load_location_provider(metadata.location, metadata.properties).new_metadata_location(name)

    def _sync(self, metadata: Path) -> None:
        """Write a new metadata file through to the disk, with the manifests of the same write beside it."""
        manifests = metadata.parent.glob(f"*{self.writer}*.avro") if self.writer else ()
        disk.sync([metadata, *manifests], self._catalog_file.parent)

    def _point(self, identifier: Identifier, old: str | None, new: str) -> None:
        if old is None:
            # Without iceberg_type, which older catalogs lack, and which may be NULL for a table. A row without a location is one
            # that another program has begun: it stands for no table.
            created = self._run(
                "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET metadata_location = excluded.metadata_location WHERE metadata_location IS NULL",
                (NAME, *identifier, new),
            )
            if not created.rowcount:
                raise TableAlreadyExistsError(f"{'.'.join(identifier)} exists")
            return
        pointed = self._run(
            "UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = ?"
            f" WHERE {_ROW} AND metadata_location = ?",
            (new, old, NAME, *identifier, old),
        )
        if not pointed.rowcount:
            raise CommitFailedException(f"another writer has changed {'.'.join(identifier)}")

    def drop_table(self, identifier: Identifier) -> bool:
        """Forget a table; its files stay. False if it does not exist."""
        return bool(self._run(f"DELETE FROM iceberg_tables WHERE {_ROW}", (NAME, *identifier)).rowcount)


def _io(metadata: TableMetadata) -> FileIO:
    return PyArrowFileIO(metadata.properties)


def _read(location: str) -> TableMetadata:
    return FromInputFile.table_metadata(PyArrowFileIO().new_input(location))


def _version(location: str) -> int:
    """The number that begins a metadata file's name; -1 if another writer named it differently."""
    number = location.rpartition("/")[-1].partition("-")[0]
    return int(number) if number.isdecimal() else -1
