"""The warehouse in Databricks: managed Iceberg tables on Unity Catalog. Once staged, rows never leave it."""

from __future__ import annotations

import io
import logging
import re
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from maang_cli import sql
from maang_cli.errors import CommitLost, SettingsError, TableMismatch, WarehouseDenied, WarehouseFailed
from maang_cli.tables import CUMULATIVE, PRODUCTION, Column, Table, arrow_schema, differences
from maang_cli.warehouses.base import Forbidden, Query, Replaced, Size, TableMissing
from maang_cli.warehouses.databricks_connection import Connection
from maang_cli.warehouses.databricks_errors import AlreadyThere, Conflict, GateRaised, Missing, NoHistory, Unfit
from maang_cli.warehouses.databricks_sql import Replace, columns_of, plain, quote, relation, text, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import date

    from maang_cli.settings import Settings

log = logging.getLogger("maang")

SMALL = 1000
"""Rows that go into one statement's text, 100 KB at most; more go through a volume."""
Found: TypeAlias = dict[str, Column]
"""A table's columns by name, as the warehouse has them."""
ATTEMPTS = 10
"""How often a commit is computed anew when another writer is faster."""


class DatabricksWarehouse:
    """The tables of one schema, through one connection that the first statement opens."""

    def __init__(self, connection: Connection, schema: str, volume: str | None) -> None:
        self._connection = connection
        self._schema = schema
        self._volume = volume
        self._seen: dict[str, Found | None] = {}
        """What `create_schema` saw of the two lasting tables, for the first `create` of each; None: it is not there."""

    def full_name(self, table: Table) -> str:
        return f"{self._schema}.{table.name}"

    def create_schema(self) -> bool:
        # First a look: who may not create a schema may still use one that is there.
        found = self._look(PRODUCTION, CUMULATIVE)
        self._seen = {table.name: (found or {}).get(table.name) for table in (PRODUCTION, CUMULATIVE)}
        if found is None:
            self._make_schema()
        return found is None

    def _make_schema(self) -> None:
        self._connection.run(f"CREATE SCHEMA IF NOT EXISTS {quote(self._schema)}")

    def has_schema(self) -> bool:
        return self._look(PRODUCTION, CUMULATIVE) is not None

    def describe(self) -> str:
        asked = "SELECT current_user() AS who, current_catalog() AS catalog, version() AS version"
        found = self._connection.run(asked).to_pylist()[0]
        return f"{found['who']} on {self._connection.host}, catalog {found['catalog']}, version {found['version']}"

    def looks(self) -> Mapping[str, Callable[[], str]]:
        return {"volume": self._try_volume}

    def _try_volume(self) -> str:
        """Put a file, read it, remove it."""
        if self._volume is None:
            return f"not tried: MAANG_VOLUME is not set, and loads of over {SMALL} rows need it"
        rows = pa.table({"ticker": ["SCRATCH"]})
        with self._file("maang_doctor", rows) as path:
            self._connection.run(f"SELECT count(*) FROM read_files('{path}', format => 'parquet', schema => 'ticker STRING')")
        return f"a file was put into {self._volume}, read and removed"

    def create(self, table: Table) -> bool:
        if table.name in self._seen:
            found = self._seen.pop(table.name)
        else:
            there = self._look(table)
            if there is None:
                self._make_schema()
            found = (there or {}).get(table.name)
        if found is not None:
            self._must_fit(table, found)
            return False
        columns = ", ".join(
            f"{column.name} {column.type}{' NOT NULL' if column.required else ''} COMMENT {text(column.comment)}"
            for column in table.columns
        )
        partitions = " PARTITIONED BY (date)" if table.partitioned else ""
        try:
            self._connection.run(
                f"CREATE TABLE IF NOT EXISTS {self._name(table)} ({columns}) USING ICEBERG{partitions}", expect=(AlreadyThere,)
            )
        except AlreadyThere:
            return False
        return True

    @property
    def most_staged(self) -> int | None:
        return SMALL if self._volume is None else None

    def stage(self, table: Table, rows: pa.Table) -> None:
        if rows.num_rows <= SMALL:
            self._stage(table, values(table, rows))
        else:
            self._stage_file(table, rows)
        log.debug("staged %d rows in %s", rows.num_rows, self.full_name(table))

    def _stage(self, table: Table, source: str) -> None:
        columns = ", ".join(f"CAST({column.name} AS {column.type}) AS {column.name}" for column in table.columns)
        statement = f"CREATE OR REPLACE TABLE {self._name(table)} USING ICEBERG AS SELECT {columns} FROM {source}"
        for _ in range(ATTEMPTS):
            # Missing: the schema, where init-tables did not come before; or a table of this name that another run just dropped.
            with suppress(Missing):
                self._connection.run(statement, expect=(Missing,))
                return
            self._make_schema()
        self._connection.run(statement)

    def _stage_file(self, table: Table, rows: pa.Table) -> None:
        if self._volume is None:
            raise no_volume(rows.num_rows)
        schema = ", ".join(f"{column.name} {column.type}" for column in table.columns)
        with self._file(table.name, rows.cast(arrow_schema(table.columns))) as path:
            self._stage(table, f"read_files('{path}', format => 'parquet', schema => '{schema}')")

    @contextmanager
    def _file(self, name: str, rows: pa.Table) -> Iterator[str]:
        """The rows as a Parquet file in the volume, for as long as this lasts; yields its path."""
        assert self._volume is not None  # noqa: S101 - the callers see to it
        path = f"/Volumes/{self._volume.replace('.', '/')}/{name}_{uuid.uuid4().hex}.parquet"
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        try:
            self._connection.run(f"PUT '__input_stream__' INTO '{path}' OVERWRITE", upload=buffer.getvalue())
            yield path
        finally:
            self._remove(path)

    def _remove(self, path: str) -> None:
        try:
            self._connection.run(f"REMOVE '{path}'")
        except (WarehouseDenied, WarehouseFailed) as exc:  # what it was for is done, or a better error is on its way
            log.warning("%s was not removed: %s", path, exc.message)

    def query(self, query: Query) -> pa.Table:
        holes = self._sources(query)
        tables = [read.table for read in query.reads.values()]
        try:
            rows = self._connection.run(sql.fill(query.text, holes), expect=(Missing, NoHistory, Unfit))
        except Missing as exc:
            raise self._missing(exc, tables) from exc
        except Unfit as exc:
            self._explain(exc, tables)
        except NoHistory as exc:
            times = ", ".join(read.as_of.isoformat() for read in query.reads.values() if read.as_of)
            raise SettingsError(
                f"{self.full_name(tables[0])} has no history as of {times}",
                hint=f"DESCRIBE HISTORY {self.full_name(tables[0])} lists what there is; give --as-of a later time",
            ) from exc
        return rows.cast(pa.schema([pa.field(f.name, plain(f.type)) for f in rows.schema]))

    def replace(
        self, table: Table, query: Query, tickers: Sequence[str], sessions: Sequence[date], unless: Query | None = None
    ) -> Replaced:
        statement = Replace(
            table, self._name(table), self._sources(query, unless), query, unless, tuple(tickers), tuple(sessions)
        )
        tables = [table, *(read.table for each in (query, unless) if each for read in each.reads.values())]
        for _ in range(ATTEMPTS):
            try:
                found = self._connection.run(statement.preview(), expect=(Missing, Unfit)).to_pylist()[0]
                if found["forbidden"]:
                    raise Forbidden
                if found["kinds"] is not None and found["kinds"].upper() != statement.kinds:
                    self._must_fit(table, (self._look(table) or {}).get(table.name, {}))
                done = Replaced(
                    self.full_name(table), *(int(found[name]) for name in ("inserted", "updated", "deleted", "unchanged"))
                )
                if done.changed:  # a MERGE that changes nothing would commit an empty snapshot
                    self._connection.run(statement.merge(deletes=done.deleted > 0), expect=(Missing, Unfit, Conflict, GateRaised))
                return done
            except Conflict:
                log.warning("%s was changed by another writer; computing it anew", self.full_name(table))
            except GateRaised as exc:
                raise Forbidden from exc
            except Missing as exc:
                raise self._missing(exc, tables) from exc
            except Unfit as exc:
                self._explain(exc, tables)
        raise CommitLost(
            f"{self.full_name(table)} was changed by other writers {ATTEMPTS} times in a row",
            hint="run the same command again when they are done",
        )

    def drop(self, table: Table) -> bool:
        try:
            self._connection.run(f"DROP TABLE {self._name(table)}", expect=(Missing,))
        except Missing:
            return False
        return True

    def tables(self) -> list[str]:
        try:
            rows = self._connection.run(f"SHOW TABLES IN {quote(self._schema)}", expect=(Missing,))
        except Missing:
            return []
        return sorted(rows["tableName"].to_pylist())

    def size(self, table: Table) -> Size:
        try:
            rows = self._connection.run(f"DESCRIBE DETAIL {self._name(table)}", expect=(Missing, Unfit))
        except Missing as exc:
            raise TableMissing(table) from exc
        except Unfit:
            return Size(None, None)
        found = rows.to_pylist()[0].get("sizeInBytes")
        return Size(None if found is None else int(found), None)

    def maintain(self) -> None:
        """Predictive optimisation looks after managed tables."""

    def close(self) -> None:
        self._connection.close()

    def _name(self, table: Table) -> str:
        return quote(f"{self._schema}.{table.name}")

    def _sources(self, *queries: Query | None) -> dict[str, str]:
        """Hole to what it stands for."""
        return {hole: relation(self._name(read.table), read) for each in queries if each for hole, read in each.reads.items()}

    def _look(self, *tables: Table) -> dict[str, Found] | None:
        """Those of the tables that are there, with their columns by name; None without the schema. One statement."""
        names = "|".join(table.name for table in tables)
        try:
            rows = self._connection.run(f"SHOW TABLE EXTENDED IN {quote(self._schema)} LIKE '{names}'", expect=(Missing,))
        except Missing:
            return None
        return {row["tableName"]: columns_of(row["information"]) for row in rows.to_pylist()}

    def _must_fit(self, table: Table, found: Found) -> None:
        kinds = {column.name: column.type for column in found.values()}
        required = [column.name for column in found.values() if column.required]
        if lines := differences(table, kinds, required):
            raise TableMismatch(
                f"{self.full_name(table)} is not as this version writes it: {'; '.join(lines)}",
                hint="alter the table to match, or give --schema a new name",
            )

    def _missing(self, exc: Missing, tables: Sequence[Table]) -> TableMissing:
        named = (table for table in tables if re.search(rf"[`.]{table.name}(`|\b)(?!_)", str(exc)))
        return TableMissing(next(named, tables[0]))

    def _explain(self, exc: Unfit, tables: Sequence[Table]) -> NoReturn:
        """Why a statement does not fit: a table of another shape, if it is one."""
        for table in {table.name: table for table in tables}.values():
            found = (self._look(table) or {}).get(table.name)
            if found is not None:
                self._must_fit(table, found)
        raise exc.error from exc


def no_volume(rows: int) -> SettingsError:
    return SettingsError(
        f"{rows} rows are too many for one statement, and there is no volume to load them through",
        hint="set MAANG_VOLUME to a volume, as catalog.schema.volume",
    )


def open_warehouse(settings: Settings, purpose: str) -> DatabricksWarehouse:
    """The warehouse that the settings describe. `purpose` is what an administrator reads beside its statements.

    Raises:
        SettingsError: the universe can only be loaded through a volume, and there is none.
    """
    workspace = settings.workspace
    assert workspace is not None  # noqa: S101 - the settings see to it
    if len(settings.tickers) > SMALL and workspace.volume is None:
        raise no_volume(len(settings.tickers))
    command, _, session = purpose.partition(" ")
    tags = {"application": "maang", "command": command, "session": session}
    connection = Connection(workspace, {key: value for key, value in tags.items() if value})
    return DatabricksWarehouse(connection, settings.schema_name, workspace.volume)
