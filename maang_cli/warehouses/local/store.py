"""The local warehouse on disk: its catalog, its one writer, its commits of one snapshot each.

Layout, under one folder:

    catalog.db                 which tables there are, and each one's current metadata file
    writer.lock                locked while something is written: one writer at a time, readers never wait
    journal.json               what is being written; if the writer is killed, the next one cleans up
    <schema>/<table>/          data and metadata, as the Iceberg specification lays them out
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from pyiceberg import exceptions
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.table import StagedTable
from pyiceberg.table.update.snapshot import ExpireSnapshots
from pyiceberg.transforms import IdentityTransform

from maang_cli.errors import MaangError, WarehouseDenied
from maang_cli.schemas import iceberg_schema
from maang_cli.tables import Column, Table, is_staging, scratch_made, staged_sessions
from maang_cli.warehouses.local import damage, disk, parquet, retention
from maang_cli.warehouses.local.catalog import LocalCatalog
from maang_cli.warehouses.local.errors import RESTORE, Damaged, FileGone, translated
from maang_cli.warehouses.local.journal import Journal
from maang_cli.warehouses.local.pyiceberg_private import table_of, wait_for_threads
from maang_cli.warehouses.local.waiting import Waiting

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
        WarehouseFailed: the disk is full, or other processes have kept this one waiting for too long.
    """

    def __init__(self, root: Path, schema: str, keep: retention.Retention, waiting: Waiting) -> None:
        if found := sorted(set("#?") & set(str(root))):
            raise WarehouseDenied(
                f"{root}: PyIceberg can't use a folder with {' or '.join(found)} in its path",
                hint="set MAANG_HOME to another folder",
            )
        self.root = root
        self.schema = schema
        self._keep = keep
        self._waiting = waiting
        self._journal = Journal(root / "journal.json")
        with translated(root):
            try:
                disk.make_folder(root)
            except FileNotFoundError as exc:  # /proc raises this; elsewhere it means that a table's file is gone
                hint = "set MAANG_HOME to a folder that you can write to"
                raise WarehouseDenied(f"{root} can't be created", hint=hint) from exc
            self._lock = FileLock(root / "writer.lock")
            catalog = root / "catalog.db"
            if not (catalog.exists() and catalog.stat().st_size) and any(root.glob("*/*/metadata/*.metadata.json")):
                raise WarehouseDenied(
                    f"{catalog} is gone, but tables are beside it: a new catalog would not list them",
                    hint=f"restore {catalog}, or set MAANG_HOME to another folder",
                )
            self.catalog = LocalCatalog(catalog, waiting)

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
            self._delete_dropped()

    def _delete_dropped(self) -> None:
        """Remove the folders of staging and scratch tables that were dropped, if that failed; under the lock."""
        folder = self.root / self.schema
        found = [path for path in folder.iterdir() if _is_temporary(path.name)] if folder.is_dir() else []
        known = self.catalog.locations(self.schema) if found else {}
        for path in found:
            if path.name not in known and not self.catalog.points_into(path):
                disk.delete_folder(path)

    def exists(self, name: str) -> bool:
        """Whether the catalog has the table, even if it can't be read."""
        with translated(self.root):
            return name in self.catalog.locations(self.schema)

    def load(self, name: str) -> IcebergTable | None:
        """The table as it is now; None if it does not exist.

        Raises:
            Damaged: its metadata can't be read.
        """
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

    def add_columns(self, table: IcebergTable, columns: Sequence[Column]) -> None:
        """Add nullable columns to a table, in one commit and without rewriting a file; under `writing`.

        Raises:
            Overtaken: another writer has changed the table.
        """
        transaction = table.transaction()
        with transaction.update_schema() as update:
            for field in iceberg_schema(columns).fields:
                update.add_column(field.name, field.field_type, field.doc)
        try:
            transaction.commit_transaction()
        except _LOST as exc:
            raise Overtaken from exc

    @contextmanager
    def reading(self, *reads: tuple[IcebergTable, Sequence[DataFile]]) -> Iterator[None]:
        """Reads the manifests of tables, and these data files of each. If that fails, the files tell why.

        Raises:
            FileGone: another run has changed the table meanwhile, or it is again as before a power cut: load it again.
            Damaged: a file can't be read.
        """
        try:
            yield
        except MaangError:
            raise
        except Exception:  # if no file is to blame, it is the disk's failure or a bug
            for table, files in reads:
                self._examine(table, files)
            raise

    def _examine(self, table: IcebergTable, files: Sequence[DataFile]) -> None:
        name = table.name()
        if self.catalog.location(name) != table.metadata_location:
            raise FileGone(f"another run has changed {'.'.join(name)}", hint="run the same command again")
        if (found := damage.unreadable_manifest(table.metadata, table.io)) is not None:
            if self.catalog.go_back(name, table.metadata_location):
                raise FileGone(found, hint="run the same command again")
            raise Damaged(found, hint=RESTORE)
        if unreadable := damage.unreadable_data(files):
            more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
            raise Damaged(unreadable[0][1] + more, hint=_fetch_again(table, [file for file, _ in unreadable]))

    def commit(self, transaction: Transaction, old: Sequence[DataFile], rows: pa.Table | None, writer: uuid.UUID) -> None:
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
        new = parquet.Writer(transaction.table_metadata, writer).write(rows) if rows is not None else []
        disk.sync((disk.path_of(file.file_path) for file in new), self.root)
        for file in new:
            producer.append_data_file(file)
        table = table_of(transaction)
        try:
            with self.reading(*([] if isinstance(table, StagedTable) else [(table, [])])):
                producer.commit()
                unreachable, _ = self._expire(transaction)
            transaction.commit_transaction()
        except _LOST as exc:
            raise Overtaken from exc
        disk.delete(unreachable)

    def _expire(self, transaction: Transaction) -> tuple[list[Path], int]:
        """Expire old snapshots with the transaction; returns the files to delete after the commit, and how many expired."""
        expired = retention.expired(transaction.table_metadata, self._keep, time.time())
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
            return sum(found.st_size for _, found in disk.files(self._folder(name)))

    def clean_up(self, name: str) -> tuple[int, int, int]:
        """Expire a table's old snapshots, and remove unreachable files; returns how many of both, and how many bytes.

        maang writes nothing meanwhile. Another engine may still commit files of the last day, so they stay.

        Raises:
            Overtaken: another engine has committed to the table.
        """
        with self.writing(name):
            self._delete_dropped()
            table = self.load(name)
            if table is None:
                return 0, 0, 0
            before = self.bytes(name)
            transaction = table.transaction()
            try:
                with self.reading((table, [])):
                    unreachable, snapshots = self._expire(transaction)
                if snapshots:
                    transaction.commit_transaction()
            except _LOST as exc:
                raise Overtaken from exc
            disk.delete(unreachable)
            table.refresh()
            orphans = retention.orphans(self._folder(name), table)
            disk.delete(orphans)
            return snapshots, len(unreachable) + len(orphans), max(before - self.bytes(name), 0)

    def remove(self, name: str) -> bool:
        """Remove a table from the catalog, then its folder; under `writing`. False if it did not exist."""
        if not self.catalog.drop_table((self.schema, name)):
            return False
        disk.delete_folder(self._folder(name))
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
            self.catalog.writer = writer
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
        self._waiting.until(
            lambda: self._lock.acquire(timeout=self._waiting.attempt_seconds),
            lambda exc: isinstance(exc, Timeout),
            f"another maang is writing to {self.root}",
        )
        try:
            yield
        finally:
            self._lock.release()


def _is_temporary(name: str) -> bool:
    """Whether maang drops the table itself, sooner or later."""
    return is_staging(name) or scratch_made(name) is not None


def _fetch_again(table: IcebergTable, files: Sequence[DataFile]) -> str:
    """How a person replaces these data files, which can't be read."""
    name = table.name()[-1]
    if is_staging(name):
        first, last = staged_sessions(Table(name, ()))
        return f"fetch it again: maang ingest {_span(first, last)}{{flags}}"
    if table.spec().is_unpartitioned():
        return RESTORE
    days = sorted(map(parquet.day_of, files))
    return f"fetch them again: maang backfill --refetch {_span(days[0], days[-1])}{{flags}}"


def _span(first: date, last: date) -> str:
    return f"--date {first}" if first == last else f"--from {first} --to {last}"
