"""The warehouse in Databricks: managed Iceberg tables in Unity Catalog. Once staged, rows never leave it."""

import io
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from typing import NoReturn, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from maang_cli import sql
from maang_cli.errors import SettingsError, WarehouseDenied, WarehouseFailed
from maang_cli.retries import COMMIT_ATTEMPTS
from maang_cli.schemas import arrow_schema
from maang_cli.settings import Settings
from maang_cli.tables import CUMULATIVE, PRODUCTION, Column, Table, differences
from maang_cli.warehouses.base import GateFailed, Query, Replaced, Size, TableMissing, commit_lost, table_mismatch
from maang_cli.warehouses.databricks import settings as databricks_settings
from maang_cli.warehouses.databricks.connection import Connection
from maang_cli.warehouses.databricks.errors import AlreadyExists, Conflict, GateRaised, Missing, NoHistory, Unfit
from maang_cli.warehouses.databricks.sql import Replace, columns_of, plain, quote, relation, text, tickers_relation, values

log = logging.getLogger("maang")

SMALL = 1000
"""The most rows that fit into one statement's text, 100 KB; more rows go through a volume."""
Found: TypeAlias = dict[str, Column]
"""A table's columns by name, as the warehouse reports them."""


class DatabricksWarehouse:
    """The tables of one schema, through one connection that the first statement opens."""

    def __init__(self, connection: Connection, schema: str, volume: str | None) -> None:
        self._connection = connection
        self._schema = schema
        self._volume = volume
        self._seen: dict[str, Found | None] = {}
        """What `create_schema` found of production and cumulative, for the first `create` of each; None: it does not exist."""

    def full_name(self, table: Table) -> str:
        return f"{self._schema}.{table.name}"

    def create_schema(self) -> bool:
        # Look first: a user who may not create a schema may still use an existing one.
        found = self._look(PRODUCTION, CUMULATIVE)
        self._seen = {table.name: (found or {}).get(table.name) for table in (PRODUCTION, CUMULATIVE)}
        if found is None:
            self._make_schema()
        return found is None

    def _make_schema(self) -> None:
        self._connection.run(f"CREATE SCHEMA IF NOT EXISTS {quote(self._schema)}")

    def has_schema(self) -> bool:
        return self._look(PRODUCTION, CUMULATIVE) is not None

    @property
    def location(self) -> str:
        return f"{self._schema} on {self._connection.host}"

    def describe(self) -> str:
        statement = "SELECT current_user() AS who, current_catalog() AS catalog, version() AS version"
        found = self._connection.run(statement).to_pylist()[0]
        return f"{found['who']} on {self._connection.host}, catalog {found['catalog']}, version {found['version']}"

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        return {"volume": self._try_volume}

    def _try_volume(self) -> str:
        """Upload a file, read it, remove it."""
        if self._volume is None:
            return f"not tried: MAANG_VOLUME is not set; loads of more than {SMALL} rows need it"
        rows = pa.table({"ticker": ["SCRATCH"]})
        with self._file("maang_doctor", rows) as path:
            self._connection.run(f"SELECT count(*) FROM read_files('{path}', format => 'parquet', schema => 'ticker STRING')")
        return f"a file was uploaded to {self._volume}, read and removed"

    def create(self, table: Table) -> bool:
        if table.name in self._seen:
            found = self._seen.pop(table.name)
        else:
            existing = self._look(table)
            if existing is None:
                self._make_schema()
            found = (existing or {}).get(table.name)
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
                f"CREATE TABLE IF NOT EXISTS {self._name(table)} ({columns}) USING ICEBERG{partitions}", expect=(AlreadyExists,)
            )
        except AlreadyExists:
            return False
        return True

    @property
    def max_staged_rows(self) -> int | None:
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
        for _ in range(COMMIT_ATTEMPTS):
            # Missing: the schema, if init-tables did not run; or a table of this name, if another run has just dropped it.
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
        """The rows as a Parquet file in the volume, which is removed at the end; yields its path."""
        assert self._volume is not None  # noqa: S101 - the callers check it
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
        except (WarehouseDenied, WarehouseFailed) as exc:  # the work is done, or a more useful error is being raised
            log.warning("%s was not removed: %s", path, exc.message)

    def query(self, query: Query) -> pa.Table:
        filled = sql.fill(query.text, self._relations(query) | {"tickers": tickers_relation(query.tickers)})
        tables = [read.table for read in query.reads.values()]
        try:
            rows = self._connection.run(filled, expect=(Missing, NoHistory, Unfit))
        except Missing as exc:
            raise self._missing(exc, tables) from exc
        except Unfit as exc:
            self._explain(exc, tables)
        except NoHistory as exc:
            times = ", ".join(read.as_of.isoformat() for read in query.reads.values() if read.as_of)
            raise SettingsError(
                f"{self.full_name(tables[0])} has no history as of {times}",
                hint=f"DESCRIBE HISTORY {self.full_name(tables[0])} lists the history; give --as-of a later time",
            ) from exc
        return rows.cast(pa.schema([pa.field(f.name, plain(f.type)) for f in rows.schema]))

    def replace(self, table: Table, query: Query, sessions: Sequence[date], refuse_if: Query | None = None) -> Replaced:
        statement = Replace(table, self._name(table), self._relations(query, refuse_if), query, refuse_if, tuple(sessions))
        tables = [table, *(read.table for each in (query, refuse_if) if each for read in each.reads.values())]
        for _ in range(COMMIT_ATTEMPTS):
            try:
                found = self._connection.run(statement.preview(), expect=(Missing, Unfit)).to_pylist()[0]
                if found["refused"]:
                    raise GateFailed
                if found["kinds"] is not None and found["kinds"].upper() != statement.kinds:
                    self._must_fit(table, (self._look(table) or {}).get(table.name, {}))
                done = Replaced(
                    self.full_name(table), *(int(found[name]) for name in ("inserted", "updated", "deleted", "unchanged"))
                )
                if done.changed:  # a MERGE that changes nothing would commit an empty snapshot
                    self._connection.run(statement.merge(deletes=done.deleted > 0), expect=(Missing, Unfit, Conflict, GateRaised))
                return done
            except Conflict:
                log.warning("another writer has changed %s; computing it again", self.full_name(table))
            except GateRaised as exc:
                raise GateFailed from exc
            except Missing as exc:
                raise self._missing(exc, tables) from exc
            except Unfit as exc:
                self._explain(exc, tables)
        raise commit_lost(self.full_name(table), COMMIT_ATTEMPTS)

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
        """Databricks maintains managed tables by itself (predictive optimization)."""

    def cancel(self) -> None:
        self._connection.cancel()

    def close(self) -> None:
        self._connection.close()

    def _name(self, table: Table) -> str:
        return quote(f"{self._schema}.{table.name}")

    def _relations(self, *queries: Query | None) -> dict[str, str]:
        """The tables of the queries, by their placeholders."""
        return {name: relation(self._name(read.table), read) for each in queries if each for name, read in each.reads.items()}

    def _look(self, *tables: Table) -> dict[str, Found] | None:
        """The columns by name of those tables that exist; None if the schema does not exist. One statement."""
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
            raise table_mismatch(self.full_name(table), table, lines)

    def _missing(self, exc: Missing, tables: Sequence[Table]) -> TableMissing:
        named = (table for table in tables if re.search(rf"[`.]{table.name}(`|\b)(?!_)", str(exc)))
        return TableMissing(next(named, tables[0]))

    def _explain(self, exc: Unfit, tables: Sequence[Table]) -> NoReturn:
        """Raise why a statement does not fit the tables: one of them has other columns; otherwise the warehouse's own error."""
        for table in {table.name: table for table in tables}.values():
            found = (self._look(table) or {}).get(table.name)
            if found is not None:
                self._must_fit(table, found)
        raise exc.error from exc


def no_volume(rows: int) -> SettingsError:
    return SettingsError(
        f"{rows} rows are too many for one statement, and no volume is set to load them through",
        hint="set MAANG_VOLUME to a volume, such as catalog.schema.volume",
    )


def open_warehouse(settings: Settings, purpose: str) -> DatabricksWarehouse:
    """The warehouse that the settings describe. `purpose` becomes the query tags that an administrator sees.

    Raises:
        SettingsError: a variable is wrong, or the universe needs a volume and none is set.
    """
    workspace = databricks_settings.load(settings)
    if len(settings.tickers) > SMALL and workspace.volume is None:
        raise no_volume(len(settings.tickers))
    command, _, session = purpose.partition(" ")
    tags = {"application": "maang", "command": command, "session": session}
    connection = Connection(workspace, {key: value for key, value in tags.items() if value})
    return DatabricksWarehouse(connection, settings.schema_name, workspace.volume)
