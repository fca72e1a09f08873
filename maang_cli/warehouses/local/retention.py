"""Which history a table keeps, and which files nothing reaches any more. PyIceberg expires snapshots, and leaves their files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table.refs import MAIN_BRANCH

from maang_cli.warehouses.local import disk
from maang_cli.warehouses.local.errors import RESTORE, Damaged
from maang_cli.warehouses.local.pyiceberg_private import table_of

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.metadata import TableMetadata

_WRITTEN = frozenset({".parquet", ".avro", ".json"})
"""What an Iceberg writer writes; other files are not removed."""
ORPHAN_SECONDS = 24 * 3600
"""How old an unreachable file must be: another engine may still commit a younger one."""
DAY_MILLIS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Retention:
    """The history that a table keeps for time travel."""

    snapshots: int
    """How many, 1 or more."""
    days: int | None = None
    """How old a snapshot may be that is not the newest; None: any age."""


def expired(metadata: TableMetadata, keep: Retention, now: float) -> list[int]:
    """The oldest snapshots: those beyond the number to keep, or too old. A snapshot with a tag or a branch stays.

    `now`: seconds since 1970.
    """
    named = {ref.snapshot_id for ref in metadata.refs.values()}
    past = sorted(metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
    too_many = max(len(past) - keep.snapshots, 0)
    since = 0 if keep.days is None else now * 1000 - keep.days * DAY_MILLIS
    too_old = next((i for i, snapshot in enumerate(past) if snapshot.timestamp_ms >= since), len(past))
    return [snapshot.snapshot_id for snapshot in past[: max(too_many, too_old)] if snapshot.snapshot_id not in named]


def reached(table: Table) -> set[Path]:
    """The files that a table needs: its metadata files, and what the snapshots in the newest one reach.

    Raises:
        Damaged: one of its manifests can't be read.
    """
    found = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
    found |= {file.statistics_path for file in (*table.metadata.statistics, *table.metadata.partition_statistics)}
    manifests: dict[str, ManifestFile] = {}
    try:
        for snapshot in table.metadata.snapshots:
            found.add(snapshot.manifest_list)
            manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
        for path, manifest in manifests.items():
            found.add(path)
            found |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
    except OSError:
        raise
    except Exception as exc:  # whatever a reader raises for damaged bytes
        raise Damaged(f"a manifest of {'.'.join(table.name())} can't be read: {exc}", hint=RESTORE) from exc
    return set(map(disk.path_of, found))


def orphans(folder: Path, table: Table) -> list[Path]:
    """Old files in a table's folder that none of its snapshots reaches."""
    needed = reached(table)
    before = time.time() - ORPHAN_SECONDS
    return [
        path for path, found in disk.files(folder) if path.suffix in _WRITTEN and path not in needed and found.st_mtime < before
    ]


def only_reached_by(snapshots: Sequence[int], transaction: Transaction) -> list[Path]:
    """The files that only these snapshots, the oldest ones, reach.

    A manifest or data file that a snapshot has and its child lacks never comes back, so comparing two neighbours is enough. This
    takes a single line of descent: a table with tags or branches, or one that was rolled back, keeps its files.
    """
    metadata, io = transaction.table_metadata, table_of(transaction).io
    if set(metadata.refs) != {MAIN_BRANCH} or not _is_one_line(metadata):
        return []
    past = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    children = {snapshot.parent_snapshot_id: snapshot for snapshot in metadata.snapshots}
    files: list[str] = []
    for number in snapshots:
        old, child = past[number], children[number]
        kept = {manifest.manifest_path: manifest for manifest in child.manifests(io)}
        files += [manifest.manifest_path for manifest in old.manifests(io) if manifest.manifest_path not in kept]
        files.append(old.manifest_list)
        for manifest in kept.values():
            if manifest.added_snapshot_id == child.snapshot_id and manifest.deleted_files_count:
                entries = manifest.fetch_manifest_entry(io, discard_deleted=False)
                files += [entry.data_file.file_path for entry in entries if entry.status == ManifestEntryStatus.DELETED]
    return list(map(disk.path_of, files))


def _is_one_line(metadata: TableMetadata) -> bool:
    """Whether the current snapshot descends from all others. After a rollback by another engine it does not."""
    parents: dict[int | None, int | None] = {each.snapshot_id: each.parent_snapshot_id for each in metadata.snapshots}
    number, length = metadata.current_snapshot_id, 0
    while number in parents:
        number, length = parents[number], length + 1
    return length == len(parents)
