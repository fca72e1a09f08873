"""Which files of a table can't be read. It is asked after something has failed, so that damage and bugs are told apart by the
files, not by the class of an exception."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from maang_cli.warehouses.local.disk import path_of

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import DataFile
    from pyiceberg.table.metadata import TableMetadata


def is_cut_off(location: str) -> bool:
    """Whether a metadata file is as a power cut leaves it: missing, empty, filled with zeros, or without its end.

    One that is complete and can't be read is another matter: a newer version of Iceberg may have written it.
    """
    try:
        json.loads(path_of(location).read_bytes())
    except (FileNotFoundError, ValueError):
        return not location.endswith(".gz.metadata.json")  # maang compresses none
    return False


def unreadable_manifest(metadata: TableMetadata, io: FileIO) -> str | None:
    """What is wrong with the current snapshot's manifest list or one of its manifests; None if all can be read."""
    snapshot = metadata.current_snapshot()
    if snapshot is None:
        return None
    place = snapshot.manifest_list
    try:
        for manifest in snapshot.manifests(io):
            place = manifest.manifest_path
            manifest.fetch_manifest_entry(io)
    except Exception as exc:  # noqa: BLE001 - whatever a reader raises for damaged bytes
        return _found(place, exc)
    return None


def unreadable_data(files: Iterable[DataFile]) -> list[tuple[DataFile, str]]:
    """The data files that can't be read, each with what is wrong."""
    found = []
    for file in files:
        try:
            with pq.ParquetFile(path_of(file.file_path)) as parquet:
                for _ in parquet.iter_batches():
                    """Every page is read."""
        except Exception as exc:  # noqa: BLE001 - whatever a reader raises for damaged bytes
            found.append((file, _found(file.file_path, exc)))
    return found


def _found(location: str, exc: Exception) -> str:
    what = "is missing" if isinstance(exc, FileNotFoundError) else f"can't be read: {first_line(exc)}"
    return f"{path_of(location)} {what}"


def first_line(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0][:200]
