"""The embedded Iceberg warehouse on disk: its catalog, its one-snapshot commits, and what a killed writer leaves behind.

Layout, under one folder:

    catalog.db                 PyIceberg's SqlCatalog, named "maang", on SQLite
    writer.lock                held while something is written: one writer at a time, readers never wait
    write.json                 what is being written; found by the next writer when this one was killed
    <schema>/<table>/          data and metadata, as the Iceberg specification lays them out
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import sqlalchemy
import sqlalchemy.exc
from filelock import FileLock, Timeout
from pydantic import ValidationError
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    ValidationException,
)
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.update.snapshot import ExpireSnapshots
from pyiceberg.transforms import IdentityTransform

from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed
from maang_cli.tables import iceberg_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table as IcebergTable
    from pyiceberg.table import Transaction
    from pyiceberg.table.metadata import TableMetadata

    from maang_cli.tables import Table

log = logging.getLogger("maang")

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
    # PyIceberg would replay a lost commit as it was computed; here it is computed anew.
    "commit.retry.num-retries": "0",
}


def _location(folder: Path) -> str:
    """A folder as Iceberg writes it: PyIceberg takes `file://` paths as they are, without percent escapes."""
    return f"file://{folder}"


class Overtaken(Exception):
    """Another writer committed to the table since it was read."""


class Store:
    """One schema of the warehouse in the folder `root`, which is created.

    Raises:
        WarehouseDenied: the folder or its catalog can't be used.
        WarehouseFailed: disk full, or the lock is held for long.
    """

    def __init__(self, root: Path, schema: str, keep_snapshots: int) -> None:
        self.root = root
        self.schema = schema
        self._keep = keep_snapshots
        self._note = root / "write.json"
        with translated(root):
            root.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(root / "writer.lock", timeout=LOCK_SECONDS)
            if (root / "catalog.db").exists():
                self.catalog = self._open()
            else:
                with self._locked():  # two processes that create SQLite's tables at once trip over each other
                    self.catalog = self._open()

    def _open(self) -> SqlCatalog:
        uri = sqlalchemy.URL.create("sqlite", database=str(self.root / "catalog.db"), query={"timeout": "60"})
        return SqlCatalog("maang", uri=uri.render_as_string(), warehouse=_location(self.root))

    def close(self) -> None:
        self.catalog.close()

    def create_schema(self) -> bool:
        with translated(self.root):
            if self.catalog.namespace_exists(self.schema):
                return False
            try:
                self.catalog.create_namespace(self.schema)
            except NamespaceAlreadyExistsError:
                return False
            return True

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
        if rows.num_rows:
            io = transaction._table.io
            for file in _dataframe_to_data_files(transaction.table_metadata, rows, io, write_uuid=writer):
                producer.append_data_file(file)
        expired = self._expired(transaction.table_metadata)
        try:
            producer.commit()
            if expired:
                ExpireSnapshots(transaction).by_ids(expired).commit()
            transaction.commit_transaction()
        except (CommitFailedException, ValidationException) as exc:
            raise Overtaken from exc

    def _expired(self, metadata: TableMetadata) -> list[int]:
        """The oldest snapshots, but for those with a name, that one more makes too many."""
        named = {ref.snapshot_id for name, ref in metadata.refs.items() if name != MAIN_BRANCH}
        past = sorted(metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
        ids = [snapshot.snapshot_id for snapshot in past if snapshot.snapshot_id not in named]
        return ids[: max(len(ids) + 1 - self._keep, 0)]

    def remove(self, name: str) -> bool:
        """Take a table out of the catalog, then remove its folder; under `writing`. False when it was not there."""
        try:
            self.catalog.drop_table((self.schema, name))
        except NoSuchTableError:
            return False
        shutil.rmtree(self._folder(name), ignore_errors=True)
        return True

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
            self._note.write_text(json.dumps({"schema": self.schema, "table": name, "writer": str(writer)}))
            try:
                yield writer
            except BaseException:
                self._sweep()
                raise
            self._note.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.acquire()
        except Timeout as exc:
            raise WarehouseFailed(
                f"another maang has been writing to {self.root} for over {LOCK_SECONDS} s",
                hint="wait for it to end, then run the same command again",
            ) from exc
        try:
            if self._note.exists():
                self._sweep()
            yield
        finally:
            self._lock.release()

    def _sweep(self) -> None:
        """Remove what the writer in the note did not commit; nothing that the catalog can reach, nor any other writer's file."""
        try:
            note = json.loads(self._note.read_text())
            schema, name, writer = note["schema"], note["table"], note["writer"]
        except (ValueError, KeyError):  # killed while it wrote the note: nothing else was written yet
            self._note.unlink(missing_ok=True)
            return
        folder = self.root / schema / name
        try:
            table = self.catalog.load_table((schema, name))
        except NoSuchTableError:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            snapshots = table.metadata.snapshots
            if not any(writer in snapshot.manifest_list for snapshot in snapshots):
                for path in folder.rglob(f"*{writer}*"):
                    path.unlink(missing_ok=True)
            self._sweep_metadata(folder / "metadata", table, writer)
        log.debug("removed what an interrupted write of %s.%s left behind", schema, name)
        self._note.unlink(missing_ok=True)

    def _sweep_metadata(self, folder: Path, table: IcebergTable, writer: str) -> None:
        """Metadata files don't carry the writer's id in their names: its own speak of it, or are older than the table's log."""
        known = {Path(entry.metadata_file).name for entry in table.metadata.metadata_log}
        current = Path(table.metadata_location).name
        for path in folder.glob("*.metadata.json"):
            if path.name in known or path.name == current:
                continue
            if path.name < current or writer in path.read_text(errors="replace"):
                path.unlink(missing_ok=True)


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Errors of the disk, SQLite, Arrow and PyIceberg as ours."""
    try:
        yield
    except MaangError:
        raise
    except FileNotFoundError as exc:
        # Arrow and the standard library agree on this class; every reader has loaded the table's metadata just before.
        raise WarehouseFailed(
            f"a file of the warehouse is gone: {exc}",
            hint=f"another run may have replaced it: run the same command again; if it persists, {root} is damaged",
        ) from exc
    except OSError as exc:
        raise _disk_error(root, exc) from exc
    except sqlalchemy.exc.OperationalError as exc:
        said = str(exc.orig)
        if "unable to open" in said or "readonly" in said:
            raise WarehouseDenied(f"{root}: {said}", hint="give MAANG_HOME a folder that you can write to") from exc
        raise WarehouseFailed(f"the catalog in {root}: {said}", hint="run the same command again") from exc
    except (sqlalchemy.exc.SQLAlchemyError, ValidationError, pa.ArrowException) as exc:
        said = str(getattr(exc, "orig", exc)).splitlines()[0]
        raise WarehouseDenied(
            f"the warehouse in {root} is damaged: {said}", hint="restore it, or give MAANG_HOME another folder"
        ) from exc


def _disk_error(root: Path, exc: OSError) -> MaangError:
    # Arrow raises OSError with the number in its text alone.
    said = exc.strerror or str(exc)
    for number, error, hint in (
        (errno.ENOSPC, WarehouseFailed, "free some space, then run the same command again"),
        (errno.EDQUOT, WarehouseFailed, "free some space, then run the same command again"),
        (errno.EFBIG, WarehouseFailed, "raise the limit on file sizes, then run the same command again"),
        (errno.EACCES, WarehouseDenied, "give MAANG_HOME a folder that you can write to"),
        (errno.EPERM, WarehouseDenied, "give MAANG_HOME a folder that you can write to"),
        (errno.EROFS, WarehouseDenied, "give MAANG_HOME a folder that you can write to"),
        (errno.ENOTDIR, WarehouseDenied, "give MAANG_HOME a folder"),
        (errno.EEXIST, WarehouseDenied, "give MAANG_HOME a folder"),
    ):
        if exc.errno == number or f"errno {number}" in said:
            return error(f"{root}: {said}", hint=hint)
    return WarehouseFailed(f"{root}: {said}", hint="check the disk, then run the same command again")
