"""The local warehouse on disk: its catalog, its one writer, its commits of one snapshot each.

Layout, under one folder:

    catalog.db                 which tables there are, and each one's current metadata file
    writer.lock                locked while something is written: one writer at a time, readers never wait
    journal.json               what is being written; if the writer is killed, the next one cleans up
    <schema>/<table>/          data and metadata, as the Iceberg specification lays them out
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pyiceberg import exceptions
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.table.update.snapshot import ExpireSnapshots
from pyiceberg.transforms import IdentityTransform

from maang_cli.errors import WarehouseDenied, WarehouseFailed
from maang_cli.retries import LOCK_SECONDS
from maang_cli.schemas import iceberg_schema
from maang_cli.tables import Table
from maang_cli.warehouses.local import parquet, retention
from maang_cli.warehouses.local.catalog import LocalCatalog
from maang_cli.warehouses.local.errors import translated
from maang_cli.warehouses.local.journal import Journal
from maang_cli.warehouses.local.pyiceberg_private import wait_for_threads

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table as IcebergTable
    from pyiceberg.table import Transaction

PROPERTIES = {
    "format-version": "2",
    # Many days make many small commits. Merged into bins of this size, neither the number of manifests nor a merge's cost grows.
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "16",
    "commit.manifest.target-size-bytes": "65536",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "5",
    # Bounds of other columns would prune nothing, and take most of a manifest's space.
    "write.metadata.metrics.default": "none",
    "write.metadata.metrics.column.ticker": "truncate(16)",
    "write.metadata.metrics.column.date": "full",
    # PyIceberg would replay a lost commit as it is; here everything is computed again.
    "commit.retry.num-retries": "0",
}


def _location(folder: Path) -> str:
    """A folder as a location in Iceberg. PyIceberg takes `file://` paths as they are, without percent escapes."""
    return f"file://{folder}"


_LOST = (exceptions.CommitFailedException, exceptions.TableAlreadyExistsError, exceptions.ValidationException)
"""What PyIceberg raises if another writer was faster."""


class Overtaken(Exception):
    """Another writer committed to the table after it was read."""


class Store:
    """One schema of the warehouse in the folder `root`, which is created.

    Raises:
        WarehouseDenied: the folder or its catalog can't be used.
        WarehouseFailed: the disk is full, or another writer has held the lock for too long.
    """

    def __init__(self, root: Path, schema: str, keep: retention.Retention) -> None:
        if found := sorted(set("#?") & set(str(root))):
            raise WarehouseDenied(
                f"{root}: PyIceberg can't use a folder with {' or '.join(found)} in its path",
                hint="set MAANG_HOME to another folder",
            )
        self.root = root
        self.schema = schema
        self._keep = keep
        self._journal = Journal(root / "journal.json")
        with translated(root):
            try:
                root.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as exc:  # /proc raises this; elsewhere it means that a table's file is gone
                hint = "set MAANG_HOME to a folder that you can write to"
                raise WarehouseDenied(f"{root} can't be created", hint=hint) from exc
            self._lock = FileLock(root / "writer.lock", timeout=LOCK_SECONDS)
            catalog = root / "catalog.db"
            if not (catalog.exists() and catalog.stat().st_size) and any(root.glob("*/*/metadata/*.metadata.json")):
                raise WarehouseDenied(
                    f"{catalog} is gone, but tables are beside it: a new catalog would not list them",
                    hint=f"restore {catalog}, or set MAANG_HOME to another folder",
                )
            self.catalog = LocalCatalog(catalog, self._journal.will_write)

    def close(self) -> None:
        self.catalog.close()

    def has_schema(self) -> bool:
        with translated(self.root):
            return self.catalog.has_schema(self.schema)

    def create_schema(self) -> bool:
        with translated(self.root):
            return self.catalog.create_schema(self.schema)

    def clean_up_after_kill(self) -> None:
        """Remove a killed writer's leftovers, for a run that may have nothing to write. A running writer is not disturbed."""
        with translated(self.root), suppress(Timeout), self._lock.acquire(timeout=0):
            self._journal.clean_up(self.root, self.catalog)

    def load(self, name: str) -> IcebergTable | None:
        """The table as it is now; None if it does not exist."""
        with translated(self.root):
            try:
                return self.catalog.load_table((self.schema, name))
            except exceptions.NoSuchTableError:
                return None

    def creation(self, table: Table) -> Transaction:
        """A transaction that creates a table which does not exist; under `writing`."""
        schema = iceberg_schema(table.columns)
        spec = UNPARTITIONED_PARTITION_SPEC
        if table.partitioned:
            source = schema.find_field("date").field_id
            spec = PartitionSpec(PartitionField(source, 1000, IdentityTransform(), "date"))
        place = _location(self._folder(table.name))
        return self.catalog.create_table_transaction((self.schema, table.name), schema, place, spec, PROPERTIES)

    def create(self, table: Table) -> None:
        """Create an empty table; under `writing`.

        Raises:
            Overtaken: another writer has created it.
        """
        try:
            self.creation(table).commit_transaction()
        except _LOST as exc:
            raise Overtaken from exc

    def commit(self, transaction: Transaction, old: Sequence[DataFile], rows: pa.Table, writer: uuid.UUID) -> None:
        """Replace the `old` files with `rows`: one commit, one snapshot; under `writing`, whose id is `writer`.

        Raises:
            Overtaken: another writer has changed the table since the transaction began.
        """
        update = transaction.update_snapshot()
        # Both make one snapshot. Only the append merges manifests, so the usual day uses it.
        producer = update.overwrite() if old else update.merge_append()
        producer.commit_uuid = writer
        for file in old:
            producer.delete_data_file(file)
        for file in parquet.Writer(transaction.table_metadata, writer).write(rows):
            producer.append_data_file(file)
        try:
            producer.commit()
            unreachable, _ = self._expire(transaction)
            transaction.commit_transaction()
        except _LOST as exc:
            raise Overtaken from exc
        retention.delete(unreachable)

    def _expire(self, transaction: Transaction) -> tuple[list[str], int]:
        """Expire old snapshots with the transaction; returns the files to delete after the commit, and how many expired."""
        expired = retention.expired(transaction.table_metadata, self._keep)
        if not expired:
            return [], 0
        unreachable = retention.only_reached_by(expired, transaction)
        ExpireSnapshots(transaction).by_ids(expired).commit()
        self._journal.will_delete(unreachable)
        return unreachable, len(expired)

    def names(self) -> list[str]:
        """The schema's tables, in order."""
        with translated(self.root):
            return sorted(self.catalog.locations(self.schema))

    def bytes(self, name: str) -> int:
        """How much space a table's files take."""
        with translated(self.root):
            return sum(path.stat().st_size for path in self._folder(name).rglob("*") if path.is_file())

    def clean_up(self, name: str) -> tuple[int, int]:
        """Expire a table's old snapshots, and remove unreachable files; returns how many of both.

        maang writes nothing meanwhile. Another engine may still commit files of the last day, so they stay.

        Raises:
            Overtaken: another engine has committed to the table.
        """
        with self.writing(name):
            table = self.load(name)
            if table is None:
                return 0, 0
            transaction = table.transaction()
            try:
                unreachable, snapshots = self._expire(transaction)
                if snapshots:
                    transaction.commit_transaction()
            except _LOST as exc:
                raise Overtaken from exc
            retention.delete(unreachable)
            table.refresh()
            orphans = retention.orphans(self._folder(name), table)
            retention.delete(orphans)
            return snapshots, len(unreachable) + len(orphans)

    def remove(self, name: str) -> bool:
        """Remove a table from the catalog, then its folder; under `writing`. False if it did not exist."""
        if not self.catalog.drop_table((self.schema, name)):
            return False
        shutil.rmtree(self._folder(name), ignore_errors=True)
        return True

    def _folder(self, name: str) -> Path:
        return self.root / self.schema / name

    @contextmanager
    def writing(self, name: str) -> Iterator[uuid.UUID]:
        """Be the one writer, and write to one table; yields the id that its new files must have in their names.

        The journal says what is being written. If the writer is killed, the next one removes the files that were never committed;
        a writer that fails does so itself.
        """
        with translated(self.root), self._locked():
            writer = uuid.uuid4()
            self._journal.clean_up(self.root, self.catalog)
            self._journal.begin(self.schema, name, writer)
            try:
                yield writer
            except BaseException as exc:
                if isinstance(exc, OSError):
                    wait_for_threads()
                self._journal.clean_up(self.root, self.catalog)
                raise
            self._journal.remove()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.acquire()
        except Timeout as exc:
            raise WarehouseFailed(
                f"another maang has been writing to {self.root} for over {LOCK_SECONDS} s",
                hint="wait until it has ended, then run the same command again",
            ) from exc
        try:
            yield
        finally:
            self._lock.release()
