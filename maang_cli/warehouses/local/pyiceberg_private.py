"""Every use of PyIceberg's private parts, which a new version may change (pyproject.toml allows one minor version).

They are used because the public parts repeat work: a table's metadata lists every snapshot, and PyIceberg parses all of it
whenever a table is loaded, a dozen times a day, and copies all of it whenever a transaction is asked for it, over 20 times a
commit. With 100 snapshots that is a third of a day's time. Here a metadata file, which never changes, is parsed once, and a
transaction's state is copied once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import _get_parquet_writer_kwargs
from pyiceberg.table import Table, Transaction
from pyiceberg.utils.concurrent import ExecutorFactory

if TYPE_CHECKING:
    from pyiceberg.io import FileIO
    from pyiceberg.table.metadata import TableMetadata


class LocalCatalog(SqlCatalog):
    """A catalog that calls `before_metadata` with the name of each metadata file that it is about to write."""

    def __init__(self, name: str, before_metadata: Callable[[str], None], **properties: str) -> None:
        super().__init__(name, **properties)
        self._before_metadata = before_metadata
        self._loaded: dict[tuple[str, str], Table] = {}
        """The newest version of each table. It is never returned itself, because a commit changes the Table that makes it."""

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
    """The base metadata and the updates, both of which are replaced and never altered, and the metadata made of them."""

    @property
    def table_metadata(self) -> TableMetadata:
        base, updates = self._table.metadata, self._updates
        if self._state is None or self._state[0] is not base or self._state[1] is not updates:
            self._state = base, updates, super().table_metadata
        return self._state[2]


def io_of(transaction: Transaction) -> FileIO:
    """How the transaction's table reads and writes files."""
    return transaction._table.io


def parquet_options(metadata: TableMetadata) -> dict[str, Any]:
    """pyarrow's ParquetWriter options that the table's properties ask for."""
    return _get_parquet_writer_kwargs(metadata.properties)


def wait_for_threads() -> None:
    """Wait for PyIceberg's threads, and let it start new ones.

    When one of them finds the disk full, the others go on writing: a cleanup before they end would miss files.
    """
    executor, ExecutorFactory._instance = ExecutorFactory._instance, None
    if executor is not None:
        executor.shutdown(wait=True)
