"""Large loads: the rows become a Parquet file in a Unity Catalog volume, which one statement reads."""

import io
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from maang_cli.errors import WarehouseDenied, WarehouseFailed
from maang_cli.schemas import arrow_schema
from maang_cli.tables import Column
from maang_cli.warehouses.databricks.connection import Connection

log = logging.getLogger("maang")


class Volume:
    def __init__(self, connection: Connection, name: str) -> None:
        """`name`: catalog.schema.volume."""
        self._connection = connection
        self.name = name

    @contextmanager
    def file(self, name: str, columns: Sequence[Column], rows: pa.Table) -> Iterator[str]:
        """The rows as a file in the volume, which is removed at the end; yields the relation that reads it."""
        path = f"/Volumes/{self.name.replace('.', '/')}/{name}_{uuid.uuid4().hex}.parquet"
        buffer = io.BytesIO()
        pq.write_table(rows.cast(arrow_schema(columns)), buffer, compression="zstd")
        schema = ", ".join(f"{column.name} {column.type}" for column in columns)
        try:
            self._connection.run(f"PUT '__input_stream__' INTO '{path}' OVERWRITE", upload=buffer.getvalue())
            yield f"read_files('{path}', format => 'parquet', schema => '{schema}')"
        finally:
            self._remove(path)

    def _remove(self, path: str) -> None:
        try:
            self._connection.run(f"REMOVE '{path}'")
        except (WarehouseDenied, WarehouseFailed) as exc:  # the work is done, or a more useful error is being raised
            log.warning("%s was not removed: %s", path, exc.message)
