"""What the one writer is doing, in a file: if the writer is killed, the next one reads it and removes the leftovers."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.exceptions import NoSuchTableError

from maang_cli.errors import MaangError
from maang_cli.warehouses.local.errors import translated
from maang_cli.warehouses.local.retention import delete

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from maang_cli.warehouses.local.catalog import LocalCatalog

log = logging.getLogger("maang")


class Journal:
    """One entry, in a file of its own, for as long as something is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entry: dict[str, str | Sequence[str]] = {}

    def begin(self, schema: str, table: str, writer: uuid.UUID) -> None:
        """A write to this table begins; `writer` is part of the names of its new files."""
        self._entry = {"schema": schema, "table": table, "writer": str(writer), "metadata": "", "expired": []}
        self._save()

    def will_write(self, metadata: str) -> None:
        """This metadata file, whose name PyIceberg chooses, is about to be written."""
        self._entry["metadata"] = metadata
        self._save()

    def will_delete(self, expired: Sequence[str]) -> None:
        """These files are to be deleted after the commit."""
        self._entry["expired"] = expired
        self._save()

    def _save(self) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(self._entry))
        draft.replace(self._path)  # so that the journal is complete, or does not exist

    def remove(self) -> None:
        """The write is done."""
        self._path.unlink(missing_ok=True)

    def clean_up(self, root: Path, catalog: LocalCatalog) -> None:
        """Remove the unreachable files of the writer that left the journal; without a journal there is nothing to do.

        Only the holder of the lock may call this, so that writer is gone. Other writers' files stay.
        """
        if not self._path.exists():
            return
        try:
            entry = json.loads(self._path.read_text())
            folder = root / entry["schema"] / entry["table"]
            writer, expired, own = str(entry["writer"]), list(entry["expired"]), Path(entry["metadata"]).name
        except (ValueError, TypeError, KeyError):  # it is not in our format, so it says nothing
            self.remove()
            return
        try:
            with translated(root):
                table = catalog.load_table((entry["schema"], entry["table"]))
        except NoSuchTableError:
            shutil.rmtree(folder, ignore_errors=True)
        except MaangError:
            log.warning("can't clean up after a killed write: %s.%s is damaged", entry["schema"], entry["table"])
        else:
            if any(writer in snapshot.manifest_list for snapshot in table.metadata.snapshots):
                delete(expired)
            else:
                for path in folder.rglob(f"*{writer}*"):
                    path.unlink(missing_ok=True)
            _remove_metadata(folder / "metadata", table, own)
        self.remove()


def _remove_metadata(folder: Path, table: Table, own: str) -> None:
    """Remove metadata files that are older than the table's log, and the writer's `own` one if it was not committed."""
    current = Path(table.metadata_location).name
    known = {Path(entry.metadata_file).name for entry in table.metadata.metadata_log} | {current}
    for path in folder.glob("*.metadata.json"):
        if path.name not in known and (path.name < current or path.name == own):
            path.unlink(missing_ok=True)
