"""Files that nothing reaches: those of expired snapshots, and those that a killed writer never committed.

PyIceberg removes neither. Nothing is ever searched for: a writer notes down what it is about to leave behind.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table.refs import MAIN_BRANCH

from maang_cli.errors import MaangError
from maang_cli.warehouses.disk_errors import translated

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Sequence

    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.metadata import TableMetadata

log = logging.getLogger("maang")

_WRITTEN = frozenset({".parquet", ".avro", ".json"})
"""What an Iceberg writer leaves; other files are not ours to judge."""


ORPHANED = 24 * 3600
"""Seconds after which a file that no snapshot reaches is no longer one that another engine is about to commit."""
DAY_MILLIS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Keep:
    """The history that is kept for time travel."""

    snapshots: int
    days: int | None = None
    """None: whatever their age."""


def expired(metadata: TableMetadata, keep: Keep) -> list[int]:
    """The oldest snapshots, above the number that is kept or too old; but for those that a tag or a branch names."""
    named = {ref.snapshot_id for ref in metadata.refs.values()}
    past = sorted(metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
    too_many = max(len(past) - keep.snapshots, 0)
    since = 0 if keep.days is None else time.time() * 1000 - keep.days * DAY_MILLIS
    too_old = next((i for i, snapshot in enumerate(past) if snapshot.timestamp_ms >= since), len(past))
    return [snapshot.snapshot_id for snapshot in past[: max(too_many, too_old)] if snapshot.snapshot_id not in named]


def orphans(folder: Path, table: Table) -> list[str]:
    """Old files in a table's folder that none of its snapshots reaches."""
    reached = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
    reached |= {file.statistics_path for file in table.metadata.statistics}
    manifests: dict[str, ManifestFile] = {}
    for snapshot in table.metadata.snapshots:
        reached.add(snapshot.manifest_list)
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    for path, manifest in manifests.items():
        reached.add(path)
        reached |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False)}
    names = {location.removeprefix("file://") for location in reached}
    before = time.time() - ORPHANED
    return [
        str(path)
        for path in folder.rglob("*")
        if path.suffix in _WRITTEN and str(path) not in names and path.stat().st_mtime < before
    ]


def unreachable_without(snapshots: Sequence[int], transaction: Transaction) -> list[str]:
    """The files that only these snapshots, the oldest ones, reach.

    A manifest or a data file that a snapshot has and the next one has not never comes back, so two neighbours tell. That takes
    one line of descent: a table with tags or branches of its own keeps its files.
    """
    metadata, io = transaction.table_metadata, transaction._table.io
    if set(metadata.refs) != {MAIN_BRANCH}:
        return []
    children = {snapshot.parent_snapshot_id: snapshot for snapshot in metadata.snapshots}
    files: list[str] = []
    for number in snapshots:
        old, child = metadata.snapshot_by_id(number), children.get(number)
        if old is None or child is None:
            continue
        kept = {manifest.manifest_path: manifest for manifest in child.manifests(io)}
        files += [manifest.manifest_path for manifest in old.manifests(io) if manifest.manifest_path not in kept]
        files.append(old.manifest_list)
        for manifest in kept.values():
            if manifest.added_snapshot_id == child.snapshot_id and manifest.deleted_files_count:
                entries = manifest.fetch_manifest_entry(io, discard_deleted=False)
                files += [entry.data_file.file_path for entry in entries if entry.status == ManifestEntryStatus.DELETED]
    return files


def delete(locations: Iterable[str]) -> None:
    for location in locations:
        Path(location.removeprefix("file://")).unlink(missing_ok=True)


class Note:
    """What the one writer is about, in a file: the next writer finds it when this one was killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._note: dict[str, str | Sequence[str]] = {}

    def begin(self, schema: str, table: str, writer: uuid.UUID) -> None:
        """`writer` is in the names of the files that it makes."""
        self._note = {"schema": schema, "table": table, "writer": str(writer), "metadata": "", "doomed": []}
        self._write()

    def will_write(self, metadata: str) -> None:
        """A metadata file, whose name PyIceberg makes up."""
        self._note["metadata"] = metadata
        self._write()

    def will_delete(self, doomed: Sequence[str]) -> None:
        """Files that are to go once the writer has committed."""
        self._note["doomed"] = doomed
        self._write()

    def _write(self) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(self._note))
        draft.replace(self._path)  # a note is whole or it is not there

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def sweep(self, root: Path, catalog: Catalog) -> None:
        """Remove what the writer of the note left unreachable; without a note there is nothing to do.

        Only the holder of the lock may call this, so the writer is gone. Other writers' files stay.
        """
        if not self._path.exists():
            return
        try:
            note = json.loads(self._path.read_text())
            folder = root / note["schema"] / note["table"]
            writer, doomed, own = str(note["writer"]), list(note["doomed"]), Path(note["metadata"]).name
        except (ValueError, TypeError, KeyError):  # not as we write it: there is nothing to go by
            self.remove()
            return
        try:
            with translated(root):
                table = catalog.load_table((note["schema"], note["table"]))
        except NoSuchTableError:
            shutil.rmtree(folder, ignore_errors=True)
        except MaangError:
            log.warning("can't tidy up after an interrupted write: %s.%s is damaged", note["schema"], note["table"])
        else:
            if any(writer in snapshot.manifest_list for snapshot in table.metadata.snapshots):
                delete(doomed)
            else:
                for path in folder.rglob(f"*{writer}*"):
                    path.unlink(missing_ok=True)
            _sweep_metadata(folder / "metadata", table, own)
        self.remove()


def _sweep_metadata(folder: Path, table: Table, own: str) -> None:
    """Remove the writer's `own` metadata file, unless it was committed, and those that are older than the table's log."""
    current = Path(table.metadata_location).name
    known = {Path(entry.metadata_file).name for entry in table.metadata.metadata_log} | {current}
    for path in folder.glob("*.metadata.json"):
        if path.name not in known and (path.name < current or path.name == own):
            path.unlink(missing_ok=True)
