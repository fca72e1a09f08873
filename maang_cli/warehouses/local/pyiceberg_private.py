"""Every use of PyIceberg's private parts, which a new version may change (pyproject.toml allows one minor version).

They are used because the public parts repeat work: a table's metadata lists every snapshot, and PyIceberg copies all of it
whenever a transaction is asked for it, over 20 times a commit. Here a transaction's state is copied once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pyiceberg.io.pyarrow import _get_parquet_writer_kwargs
from pyiceberg.table import Table, Transaction
from pyiceberg.utils.concurrent import ExecutorFactory

from maang_cli.warehouses.local import disk

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.table.metadata import TableMetadata


class CommitTarget:
    """What PyIceberg's tables call of their catalog, beside `load_table` and `commit_table`."""

    def as_catalog(self) -> Catalog:
        """This object, for PyIceberg's tables: of a Catalog's forty methods they call four."""
        return cast("Catalog", self)

    @staticmethod
    def supports_server_side_planning() -> bool:
        return False

    @staticmethod
    def _delete_old_metadata(_io: FileIO, base: TableMetadata, metadata: TableMetadata) -> None:
        """After a commit: delete the metadata files that the table's log no longer lists."""
        listed = {entry.metadata_file for entry in metadata.metadata_log}
        disk.delete(disk.path_of(entry.metadata_file) for entry in base.metadata_log if entry.metadata_file not in listed)


class LeanTable(Table):
    """A table whose transactions copy their state once a change."""

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


def table_of(transaction: Transaction) -> Table:
    """The table that the transaction changes."""
    return transaction._table


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
