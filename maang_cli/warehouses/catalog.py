"""PyIceberg's SqlCatalog, without the work that it repeats, and with a word before it writes.

A table's metadata lists every snapshot that is kept. PyIceberg parses all of it whenever the table is loaded, a dozen times a
day, and copies all of it whenever a transaction is asked for it, over 20 times a commit: with 100 snapshots that is a third of a
day's time. Here a metadata file, which never changes, is parsed once, and a transaction's state is copied once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyiceberg.io import FileIO
    from pyiceberg.table.metadata import TableMetadata


class LocalCatalog(SqlCatalog):
    """`before_metadata` is told of each metadata file that is about to be written."""

    def __init__(self, name: str, before_metadata: Callable[[str], None], **properties: str) -> None:
        super().__init__(name, **properties)
        self._before_metadata = before_metadata
        self._loaded: dict[tuple[str, str], Table] = {}
        """The newest of each table; never handed out, since a commit changes the Table that it is made through."""

    def _write_metadata(self, metadata: TableMetadata, io: FileIO, metadata_path: str) -> None:  # type: ignore[override]
        self._before_metadata(metadata_path)
        super()._write_metadata(metadata, io, metadata_path)

    def _convert_orm_to_iceberg(self, orm_table: Any) -> Table:
        name = (orm_table.table_namespace, orm_table.table_name)
        known = self._loaded.get(name)
        if known is None or known.metadata_location != orm_table.metadata_location:
            known = self._loaded[name] = super()._convert_orm_to_iceberg(orm_table)
        return _Table(known.name(), known.metadata, known.metadata_location, known.io, self)


class _Table(Table):
    def transaction(self) -> Transaction:
        return _Transaction(self)


class _Transaction(Transaction):
    _state: tuple[TableMetadata, tuple[Any, ...], TableMetadata] | None = None
    """What the metadata was made of, both replaced and never altered, and the metadata itself."""

    @property
    def table_metadata(self) -> TableMetadata:
        base, updates = self._table.metadata, self._updates
        if self._state is None or self._state[0] is not base or self._state[1] is not updates:
            self._state = base, updates, super().table_metadata
        return self._state[2]
