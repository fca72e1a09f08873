"""The embedded Iceberg warehouse on disk: its catalog, its one writer, its one-snapshot commits.

Layout, under one folder:

    catalog.db                 PyIceberg's SqlCatalog, named "maang", on SQLite
    writer.lock                held while something is written: one writer at a time, readers never wait
    write.json                 what is being written; found by the next writer when this one was killed
    <schema>/<table>/          data and metadata, as the Iceberg specification lays them out
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
import uuid
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import sqlalchemy
from filelock import FileLock, Timeout
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.table.update.snapshot import ExpireSnapshots
from pyiceberg.transforms import IdentityTransform
from pyiceberg.utils.concurrent import ExecutorFactory

from maang_cli.errors import WarehouseDenied, WarehouseFailed
from maang_cli.tables import iceberg_schema
from maang_cli.warehouses import data_files, litter
from maang_cli.warehouses.catalog import LocalCatalog
from maang_cli.warehouses.disk_errors import translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table as IcebergTable
    from pyiceberg.table import Transaction

    from maang_cli.tables import Table

SQLITE_SECONDS = 60
"""How long SQLite waits for another process that writes to the catalog."""
SQLITE_TABLES = 2
"""Of a SqlCatalog: `iceberg_tables` and `iceberg_namespace_properties`."""

LOCK_SECONDS = 120
"""How long a writer waits for another; one write takes a fraction of a second."""

PROPERTIES = {
    "format-version": "2",
    # Many days, one small commit each: merged a bin at a time, neither the manifests' number nor the cost of a merge grows.
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "16",
    "commit.manifest.target-size-bytes": "65536",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "5",
    # Bounds of other columns would prune nothing, and make up most of a manifest.
    "write.metadata.metrics.default": "none",
    "write.metadata.metrics.column.ticker": "truncate(16)",
    "write.metadata.metrics.column.date": "full",
    # PyIceberg would replay a lost commit as it was computed; here it is computed anew.
    "commit.retry.num-retries": "0",
}


def _location(folder: Path) -> str:
    """A folder as Iceberg writes it: PyIceberg takes `file://` paths as they are, without percent escapes."""
    return f"file://{folder}"


_LOST = (CommitFailedException, TableAlreadyExistsError, ValidationException)
"""What PyIceberg raises when another writer was faster."""


def _settle() -> None:
    """Wait for PyIceberg's threads, and let it make new ones.

    When one of them finds the disk full, the others go on writing: a sweep before they end would miss files.
    """
    executor, ExecutorFactory._instance = ExecutorFactory._instance, None
    if executor is not None:
        executor.shutdown(wait=True)


class Interrupted(Exception):
    """The work was to end before it was done. Nobody waits for its result any more."""


class Overtaken(Exception):
    """Another writer committed to the table since it was read."""


class Store:
    """One schema of the warehouse in the folder `root`, which is created.

    Raises:
        WarehouseDenied: the folder or its catalog can't be used.
        WarehouseFailed: disk full, or the lock is held for long.
    """

    def __init__(self, root: Path, schema: str, keep: litter.Keep) -> None:
        if found := sorted(set("#?") & set(str(root))):
            raise WarehouseDenied(
                f"{root}: PyIceberg takes {' and '.join(found)} in a path for the end of it",
                hint="give MAANG_HOME another folder",
            )
        self.root = root
        self.schema = schema
        self._keep = keep
        self._note = litter.Note(root / "write.json")
        self.interrupted = threading.Event()
        """Set by another thread when the work is to end."""
        with translated(root):
            try:
                root.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as exc:  # as /proc says it; elsewhere this error means that a table's file is gone
                raise WarehouseDenied(f"{root} can't be created", hint="give MAANG_HOME a folder that you can write to") from exc
            self._lock = FileLock(root / "writer.lock", timeout=LOCK_SECONDS)
            catalog = root / "catalog.db"
            if not (catalog.exists() and catalog.stat().st_size) and any(root.glob("*/*/metadata/*.metadata.json")):
                raise WarehouseDenied(
                    f"{catalog} is gone, and there are tables beside it: a new catalog would not know them",
                    hint=f"restore {catalog}, or give MAANG_HOME another folder",
                )
            if _is_whole(catalog):
                self.catalog = self._open()
            else:
                with self._locked():  # two processes that create SQLite's tables at once trip over each other
                    self.catalog = self._open()

    def _open(self) -> LocalCatalog:
        uri = sqlalchemy.URL.create("sqlite", database=str(self.root / "catalog.db"), query={"timeout": str(SQLITE_SECONDS)})
        return LocalCatalog("maang", self._note.will_write, uri=uri.render_as_string(), warehouse=_location(self.root))

    def close(self) -> None:
        self.catalog.close()

    def has_schema(self) -> bool:
        with translated(self.root):
            return self.catalog.namespace_exists(self.schema)

    def create_schema(self) -> bool:
        if self.has_schema():
            return False
        with translated(self.root), self._locked():  # of two that create it at once, the second would see a damaged catalog
            try:
                self.catalog.create_namespace(self.schema)
            except NamespaceAlreadyExistsError:
                return False
            return True

    def sweep(self) -> None:
        """Remove what a killed writer left, for a run that may have nothing to write; a writer that is at work is let be."""
        with translated(self.root), suppress(Timeout), self._lock.acquire(timeout=0):
            self._note.sweep(self.root, self.catalog)

    def load(self, name: str) -> IcebergTable | None:
        """The table as it is now; None when it is not there."""
        with translated(self.root):
            try:
                return self.catalog.load_table((self.schema, name))
            except NoSuchTableError:
                return None

    def creation(self, table: Table) -> Transaction:
        """A transaction that will create a table which is not there; under `writing`."""
        schema = iceberg_schema(table.columns)
        spec = UNPARTITIONED_PARTITION_SPEC
        if table.partitioned:
            source = schema.find_field("date").field_id
            spec = PartitionSpec(PartitionField(source, 1000, IdentityTransform(), "date"))
        place = _location(self._folder(table.name))
        return self.catalog.create_table_transaction((self.schema, table.name), schema, place, spec, properties=PROPERTIES)

    def create(self, table: Table) -> None:
        """Create an empty table; under `writing`.

        Raises:
            Overtaken: it is there by now.
        """
        try:
            self.creation(table).commit_transaction()
        except _LOST as exc:
            raise Overtaken from exc

    def commit(self, transaction: Transaction, old: Sequence[DataFile], rows: pa.Table, writer: uuid.UUID) -> None:
        """Put `rows` in the place of the `old` files: one commit, one snapshot; under `writing`, whose id is `writer`.

        Raises:
            Overtaken: the table is not what it was when the transaction began.
        """
        update = transaction.update_snapshot()
        # Both leave one snapshot; only the append merges manifests, so the usual day takes that way.
        producer = update.overwrite() if old else update.merge_append()
        producer.commit_uuid = writer
        for file in old:
            producer.delete_data_file(file)
        for file in data_files.Writer(transaction.table_metadata, writer).write(rows):
            producer.append_data_file(file)
        try:
            producer.commit()
            doomed, _ = self._expire(transaction)
            transaction.commit_transaction()
        except _LOST as exc:
            raise Overtaken from exc
        litter.delete(doomed)

    def _expire(self, transaction: Transaction) -> tuple[list[str], int]:
        """Let old snapshots go with the transaction; returns the files that are to go once it is committed, and their number."""
        expired = litter.expired(transaction.table_metadata, self._keep)
        if not expired:
            return [], 0
        doomed = litter.unreachable_without(expired, transaction)
        ExpireSnapshots(transaction).by_ids(expired).commit()
        self._note.will_delete(doomed)
        return doomed, len(expired)

    def names(self) -> list[str]:
        """The schema's tables, in order."""
        with translated(self.root):
            if not self.catalog.namespace_exists(self.schema):
                return []
            return sorted(name[-1] for name in self.catalog.list_tables(self.schema))

    def bytes(self, name: str) -> int:
        """What a table's files take up."""
        with translated(self.root):
            return sum(path.stat().st_size for path in self._folder(name).rglob("*") if path.is_file())

    def tidy(self, name: str) -> tuple[int, int]:
        """Expire a table's old snapshots, and remove files that nothing reaches; returns how many of both.

        No writer of ours is at work meanwhile; what another engine wrote in the last day may still be committed, and stays.

        Raises:
            Overtaken: another engine has committed to the table.
        """
        with self.writing(name):
            table = self.load(name)
            if table is None:
                return 0, 0
            transaction = table.transaction()
            try:
                doomed, snapshots = self._expire(transaction)
                if snapshots:
                    transaction.commit_transaction()
            except _LOST as exc:
                raise Overtaken from exc
            litter.delete(doomed)
            table.refresh()
            orphans = litter.orphans(self._folder(name), table)
            litter.delete(orphans)
            return snapshots, len(doomed) + len(orphans)

    def remove(self, name: str) -> bool:
        """Take a table out of the catalog, then remove its folder; under `writing`. False when it was not there."""
        try:
            self.catalog.drop_table((self.schema, name))
        except NoSuchTableError:
            return False
        shutil.rmtree(self._folder(name), ignore_errors=True)
        return True

    def must_go_on(self) -> None:
        """Raises Interrupted when the work is to end."""
        if self.interrupted.is_set():
            raise Interrupted

    def _folder(self, name: str) -> Path:
        return self.root / self.schema / name

    @contextmanager
    def writing(self, name: str) -> Iterator[uuid.UUID]:
        """Be the one writer, and write to one table; yields the id that its new files must carry.

        A writer leaves a note of what it is about. When it is killed, the next one finds the note and removes the files that were
        never committed; a writer that fails does so itself.
        """
        with translated(self.root), self._locked():
            writer = uuid.uuid4()
            self._note.sweep(self.root, self.catalog)
            self._note.begin(self.schema, name, writer)
            try:
                yield writer
            except BaseException as exc:
                if isinstance(exc, OSError):
                    _settle()
                self._note.sweep(self.root, self.catalog)
                raise
            self._note.remove()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.acquire(cancel_check=self.interrupted.is_set)
        except Timeout as exc:
            self.must_go_on()
            raise WarehouseFailed(
                f"another maang has been writing to {self.root} for over {LOCK_SECONDS} s",
                hint="wait for it to end, then run the same command again",
            ) from exc
        try:
            yield
        finally:
            self._lock.release()


def _is_whole(catalog: Path) -> bool:
    """Whether SQLite's tables are all there; of a damaged file too, which the catalog itself finds and tells."""
    if not catalog.exists():
        return False
    try:
        with closing(sqlite3.connect(catalog, timeout=SQLITE_SECONDS)) as opened:
            found = opened.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE 'iceberg%'")
            return bool(found.fetchone()[0] == SQLITE_TABLES)
    except sqlite3.Error:
        return True
