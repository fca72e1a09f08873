"""What the one writer is doing, in a file: if the writer is killed, the next one reads it and removes the leftovers."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.exceptions import NoSuchTableError

from maang_cli.errors import MaangError
from maang_cli.warehouses.local import disk
from maang_cli.warehouses.local.errors import translated
from maang_cli.warehouses.local.retention import reached

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from maang_cli.warehouses.local.catalog import LocalCatalog

log = logging.getLogger("maang")


@dataclass(frozen=True)
class _Entry:
    """A write to one table."""

    schema: str
    table: str
    writer: uuid.UUID
    """Part of the names of its new files."""
    expired: tuple[str, ...] = ()
    """The files to delete after the commit."""


class Journal:
    """One entry, in a file of its own, for as long as something is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entry: _Entry | None = None

    def begin(self, schema: str, table: str, writer: uuid.UUID) -> None:
        """A write to this table begins; `writer` is part of the names of its new files."""
        self._save(_Entry(schema, table, writer))

    def will_delete(self, expired: Sequence[Path]) -> None:
        """These files are to be deleted after the commit of the present write."""
        assert self._entry is not None  # noqa: S101 - it has begun
        self._save(_Entry(self._entry.schema, self._entry.table, self._entry.writer, tuple(map(str, expired))))

    def _save(self, entry: _Entry) -> None:
        self._entry = entry
        draft = self._path.with_suffix(".new")
        with draft.open("w") as file:
            json.dump(vars(entry) | {"writer": str(entry.writer)}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)  # so that the journal is complete, or does not exist
        disk.sync([], self._path.parent)

    def remove(self) -> None:
        """The write is done."""
        self._path.unlink(missing_ok=True)

    def clean_up(self, root: Path, catalog: LocalCatalog) -> None:
        """Remove the unreachable files of the writer that left the journal; without a journal there is nothing to do.

        Only the holder of the lock may call this, so that writer is gone. Other writers' files stay. The journal is not trusted:
        whatever it says, only files in the named table's own folder that nothing needs are removed.
        """
        if not self._path.exists():
            return
        entry = _parse(self._path.read_bytes())
        if entry is not None and _is_inside(folder := root / entry.schema / entry.table, root):
            try:
                with translated(root):
                    table = catalog.load_table((entry.schema, entry.table))
                    _remove_leftovers(entry, table, folder)
            except NoSuchTableError:
                if not catalog.points_into(folder):
                    disk.delete_folder(folder)
            except MaangError:
                log.warning("can't clean up after a killed write: %s.%s is damaged", entry.schema, entry.table)
        self.remove()


def _parse(text: bytes) -> _Entry | None:
    """A journal's entry; None if it is not in our format, so that it says nothing."""
    try:
        found = json.loads(text)
        entry = _Entry(found["schema"], found["table"], uuid.UUID(found["writer"]), tuple(map(str, found["expired"])))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    names: tuple[object, ...] = (entry.schema, entry.table)
    fine = all(isinstance(name, str) and name not in ("", "..") and name == Path(name).name for name in names)
    return entry if fine else None


def _is_inside(folder: Path, root: Path) -> bool:
    """Whether a table's folder is where maang puts it, and not behind a link to another place."""
    return folder.resolve() == root.resolve() / folder.parent.name / folder.name


def _remove_leftovers(entry: _Entry, table: Table, folder: Path) -> None:
    """Remove what the killed writer would have deleted, if it has committed; otherwise the files that it has written.

    Remove older metadata files, too, that the table no longer lists.
    """
    listed = {table.metadata_location, *(each.metadata_file for each in table.metadata.metadata_log)}
    found = [path for path, _ in disk.files(folder)]
    if any(str(entry.writer) in location for location in listed):
        doomed = {disk.path_of(path) for path in entry.expired}.intersection(found)
    else:
        doomed = {path for path in found if str(entry.writer) in path.name}
    current = disk.path_of(table.metadata_location).name
    doomed |= {path for path in found if path.name.endswith(".metadata.json") and path.name < current}
    disk.delete(sorted(doomed - reached(table)) if doomed else [])
