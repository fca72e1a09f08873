"""The warehouse in Databricks: managed Iceberg tables in Unity Catalog. Once staged, rows never leave it."""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from typing import NoReturn, TypeAlias, TypeVar

import pyarrow as pa

from maang_cli import sql
from maang_cli.errors import MaangError, NotOwner, SettingsError, WarehouseDenied
from maang_cli.retries import COMMIT_ATTEMPTS, commit_pause
from maang_cli.settings import Settings
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS, Column, Table, differences
from maang_cli.warehouses.base import GateFailed, Query, Replaced, Size, TableMissing, WouldRevise, commit_lost, table_mismatch
from maang_cli.warehouses.databricks import doctor
from maang_cli.warehouses.databricks import settings as databricks_settings
from maang_cli.warehouses.databricks.connection import Connection
from maang_cli.warehouses.databricks.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    GateRaised,
    Missing,
    NoHistory,
    NothingSince,
    Refusal,
    Unfit,
)
from maang_cli.warehouses.databricks.sql import (
    Add,
    Replace,
    columns_of,
    information_schema,
    plain,
    quote,
    relation,
    spelled,
    text,
    tickers_relation,
    values,
)
from maang_cli.warehouses.databricks.volume import Volume

log = logging.getLogger("maang")

Done = TypeVar("Done")

_OWN = (PRODUCTION, CUMULATIVE, SPLITS, FINDINGS)
SMALL = 1000
"""The most rows that fit into one statement's text, 100 KB; more rows go through a volume."""
Found: TypeAlias = dict[str, Column]
"""A table's columns by name, as the warehouse reports them; empty if it does not."""
HIVE = ("hive_metastore", "spark_catalog")
"""The catalogs outside Unity Catalog, which can't have managed Iceberg tables."""
TAG_LENGTH = 128
"""The most characters of a query tag's value."""


class DatabricksWarehouse:
    """The tables of one schema, through one connection that the first statement opens."""

    def __init__(
        self, connection: Connection, schema: str, volume: Volume | None, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self.connection = connection
        self._schema = schema
        self.volume = volume
        self._wait = wait
        """Between the attempts to commit."""
        self._seen: dict[str, Found | None] = {}
        """What `create_schema` found of production and cumulative, for the first `create` of each; None: it does not exist."""

    def full_name(self, table: Table) -> str:
        return f"{self._schema}.{table.name}"

    def create_schema(self) -> bool:
        # Look first: a user who may not create a schema may still use an existing one.
        found = self._look(*_OWN)
        self._seen = {table.name: (found or {}).get(table.name) for table in _OWN}
        if found is None:
            self._make_schema()
        return found is None

    def _make_schema(self) -> None:
        self.connection.run(f"CREATE SCHEMA IF NOT EXISTS {quote(self._schema)}")

    def has_schema(self) -> bool:
        return self._look(*_OWN) is not None

    @property
    def location(self) -> str:
        return f"{self._schema} on {self.connection.host}"

    def describe(self) -> str:
        statement = "SELECT current_user() AS who, current_catalog() AS catalog, version() AS version"
        found = self.connection.run(statement).to_pylist()[0]
        return f"{found['who']} on {self.connection.host}, catalog {found['catalog']}, version {found['version']}"

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        return {"volume": lambda: doctor.try_volume(self), "gate": lambda: doctor.try_gate(self)}

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
        statement = f"CREATE TABLE IF NOT EXISTS {self.quoted(table)} ({columns}) USING ICEBERG{partitions}"
        try:
            self.connection.run(statement, expect=(AlreadyExists,))
        except AlreadyExists:
            return False
        except MaangError as exc:
            self._must_be_in_unity_catalog(exc)
            raise
        return True

    def _must_be_in_unity_catalog(self, exc: MaangError) -> None:
        """Raise why no Iceberg table could be created, if it is the catalog."""
        catalog = self._schema.rpartition(".")[0]
        with suppress(MaangError):
            catalog = catalog or self.connection.run("SELECT current_catalog() AS catalog").to_pylist()[0]["catalog"]
        if catalog in HIVE:
            raise WarehouseDenied(
                f"{self.connection.host}: the schema {self._schema} is in {catalog}, which can't have Iceberg tables",
                hint="set --schema or MAANG_SCHEMA to catalog.schema, with a catalog of Unity Catalog",
            ) from exc

    def add_columns(self, table: Table) -> tuple[str, ...]:
        existing = self._seen if table.name in self._seen else self._look(table) or {}
        found = existing.get(table.name)
        lacking = [column for column in table.columns if not column.required and found and column.name not in found]
        if not found or not lacking or differences(table, {c.name: c.type for c in (*found.values(), *lacking)}):
            return ()
        columns = ", ".join(f"{column.name} {column.type} COMMENT {text(column.comment)}" for column in lacking)
        self.connection.run(f"ALTER TABLE {self.quoted(table)} ADD COLUMNS ({columns})")
        found |= {column.name: column for column in lacking}
        return tuple(column.name for column in lacking)

    @property
    def max_staged_rows(self) -> int | None:
        return SMALL if self.volume is None else None

    def stage(self, table: Table, rows: pa.Table) -> None:
        if rows.num_rows <= SMALL:
            self.stage_from(table, values(table, rows))
        elif self.volume is None:
            raise no_volume(rows.num_rows)
        else:
            with self.volume.file(table.name, table.columns, rows) as file:
                self.stage_from(table, file)
        log.debug("staged %d rows in %s", rows.num_rows, self.full_name(table))

    def stage_from(self, table: Table, source: str) -> None:
        """Make the rows of a relation the table's only content."""
        columns = ", ".join(f"CAST({column.name} AS {column.type}) AS {column.name}" for column in table.columns)
        statement = f"CREATE OR REPLACE TABLE {self.quoted(table)} USING ICEBERG AS SELECT {columns} FROM {source}"
        for _ in range(COMMIT_ATTEMPTS):
            # Missing: the schema, if init-tables did not run; or a table of this name, if another run has just dropped it.
            with suppress(Missing):
                self.connection.run(statement, expect=(Missing,))
                return
            self._make_schema()
        self.connection.run(statement)

    def query(self, query: Query) -> pa.Table:
        query = query.whole()
        filled = self._filled(query)
        tables = [read.table for read in query.reads.values()]
        try:
            rows = self.connection.run(filled, expect=(Missing, NoHistory, NothingSince, Unfit))
        except NothingSince as exc:
            if len(tables) > 1:  # it does not say which of them
                raise exc.error from exc
            return self.query(replace(query, reads={name: replace(read, as_of=None) for name, read in query.reads.items()}))
        except Missing as exc:
            raise self._missing(exc, tables) from exc
        except Unfit as exc:
            self._explain(exc, tables)
        except NoHistory as exc:
            times = ", ".join(read.as_of.isoformat() for read in query.reads.values() if read.as_of)
            raise SettingsError(
                f"{self.full_name(tables[0])} has no history as of {times}",
                hint=f"give --as-of a later time, at most 7 days ago; DESCRIBE HISTORY {self.full_name(tables[0])} lists them",
            ) from exc
        return _plain(rows)

    def select(self, text: str, tables: Mapping[str, Query]) -> pa.Table:
        # In parentheses, so that only a query can be here. It is not a subquery, which might lose its order.
        named = ",\n".join(f"{name} AS (\n{self._filled(query)}\n)" for name, query in tables.items())
        statement = f"WITH {named}\n(\n{text}\n)" if named else f"(\n{text}\n)"
        try:
            return _plain(self.connection.run(statement, expect=(Missing,)))
        except Missing as exc:
            read = [table for query in tables.values() for table in query.tables]
            if (table := _named(exc, read)) is None:
                raise SettingsError(exc.error.message, hint="docs/tables.md lists the tables and their columns") from exc
            raise TableMissing(table) from exc

    def replace(
        self, table: Table, query: Query, sessions: Sequence[date], refuse_if: Query | None = None, *, revise: bool = True
    ) -> Replaced:
        query, refuse_if = query.whole(), refuse_if and refuse_if.whole()
        statement = Replace(table, self.quoted(table), self._relations(query, refuse_if), query, refuse_if, tuple(sessions))

        def attempt() -> Replaced:
            found = self.connection.run(statement.preview(), expect=(Missing, Unfit)).to_pylist()[0]
            if found["kinds"] is not None:
                self._must_fit(table, statement.columns(found["kinds"]))
            counts = (int(found[name]) for name in ("inserted", "updated", "deleted", "unchanged"))
            done = Replaced(self.full_name(table), *counts)
            if not done.changed:  # a MERGE that changes nothing would commit an empty snapshot
                audit = statement.audit()
                if audit and self.connection.run(audit, expect=(Missing, Unfit))["refused"][0].as_py():
                    raise GateFailed
                return done
            if done.revised and not revise:
                raise WouldRevise
            merge = statement.merge(deletes=done.deleted > 0)
            try:
                rows = self.connection.run(merge, expect=(Missing, Unfit, Conflict, GateRaised))
            except GateRaised as exc:
                raise GateFailed from exc
            return self._counted(done, rows)

        return self._commit(attempt, table, query, refuse_if)

    def add(self, table: Table, query: Query) -> int:
        query = query.whole()
        statement = Add(table, self.quoted(table), self._filled(query))

        def attempt() -> int:
            found = self.connection.run(statement.preview(), expect=(Missing, Unfit)).to_pylist()[0]
            if found["added"]:
                self.connection.run(statement.merge(found["days"].split(",")), expect=(Missing, Unfit, Conflict))
            return int(found["added"])

        return self._commit(attempt, table, query)

    def _commit(self, attempt: Callable[[], Done], table: Table, *queries: Query | None) -> Done:
        """Try to commit to a table, again if another writer commits first; the queries say what is read."""
        tables = [table, *(read.table for each in queries if each for read in each.reads.values())]
        for number in range(1, COMMIT_ATTEMPTS + 1):
            try:
                return attempt()
            except Conflict:
                if number < COMMIT_ATTEMPTS:
                    pause = commit_pause(number)
                    log.warning("another writer has changed %s; computing it again in %.1f s", self.full_name(table), pause)
                    self._wait(pause)
            except Missing as exc:
                raise self._missing(exc, tables) from exc
            except Unfit as exc:
                self._explain(exc, tables)
        raise commit_lost(self.full_name(table), COMMIT_ATTEMPTS)

    def _counted(self, expected: Replaced, rows: pa.Table) -> Replaced:
        """What the MERGE did by its own account, if it gives one: another writer may have been there since the preview."""
        counts = rows.slice(0, 1).to_pylist()
        names = [f"num_{name}_rows" for name in ("inserted", "updated", "deleted")]
        if counts and all(isinstance(counts[0].get(name), int) for name in names):
            inserted, updated, deleted = (counts[0][name] for name in names)
            there = expected.inserted + expected.updated + expected.unchanged
            return Replaced(expected.table, inserted, updated, deleted, there - inserted - updated)
        changed = expected.inserted + expected.updated + expected.deleted
        if self.connection.rows_changed not in (None, changed):
            log.warning("%s: %d rows were changed, not %d", expected.table, self.connection.rows_changed, changed)
        return expected

    def remove_unreadable(self, _table: Table, _sessions: Sequence[date], /) -> tuple[date, ...]:
        return ()  # the platform looks after its files

    def drop(self, table: Table) -> bool:
        try:
            self.connection.run(f"DROP TABLE {self.quoted(table)}", expect=(Missing, Denied))
        except Missing:
            return False
        except Denied as exc:
            raise NotOwner(exc.error.message, hint="GRANT MANAGE ON SCHEMA lets others than its owner drop it") from exc
        return True

    def tables(self) -> list[str]:
        try:
            rows = self.connection.run(f"SHOW TABLES IN {quote(self._schema)}", expect=(Missing,))
        except Missing:
            return []
        return sorted(rows["tableName"].to_pylist())

    def size(self, table: Table) -> Size:
        try:
            rows = self.connection.run(f"DESCRIBE DETAIL {self.quoted(table)}", expect=(Missing, Unfit))
        except Missing as exc:
            raise TableMissing(table) from exc
        except Unfit:
            return Size(None, None)
        found = rows.to_pylist()[0].get("sizeInBytes")
        return Size(None if found is None else int(found), None)

    def maintain(self) -> None:
        """Databricks maintains managed tables by itself (predictive optimization)."""

    def cancel(self) -> None:
        self.connection.cancel()

    def close(self) -> None:
        self.connection.close()

    def quoted(self, table: Table) -> str:
        """The table's full name in SQL."""
        return quote(f"{self._schema}.{table.name}")

    def _filled(self, query: Query) -> str:
        return sql.fill(query.text, self._relations(query) | {"tickers": tickers_relation(query)})

    def _relations(self, *queries: Query | None) -> dict[str, str]:
        """The tables of the queries, by their placeholders."""
        return {name: relation(self.quoted(read.table), read) for each in queries if each for name, read in each.reads.items()}

    def _look(self, *tables: Table) -> dict[str, Found] | None:
        """The columns by name of those tables that exist; None if the schema does not exist.

        One statement, and a second one if the first does not show the columns.
        """
        names = "|".join(table.name for table in tables)
        try:
            rows = self.connection.run(f"SHOW TABLE EXTENDED IN {quote(self._schema)} LIKE '{names}'", expect=(Missing,))
        except Missing:
            return None
        found = {row["tableName"]: columns_of(row["information"]) for row in rows.to_pylist()}
        if unknown := [name for name, columns in found.items() if not columns]:
            with suppress(Refusal):
                rows = self.connection.run(information_schema(self._schema, unknown), expect=(Refusal,))
                for row in rows.to_pylist():
                    column = Column(row["column_name"], spelled(row["full_data_type"]), "", required=row["is_nullable"] == "NO")
                    found[row["table_name"]][column.name] = column
        return found

    def _must_fit(self, table: Table, found: Found) -> None:
        if not found:
            log.warning("%s: the warehouse does not show its columns, so they are not compared", self.full_name(table))
            return
        kinds = {column.name: column.type for column in found.values()}
        required = [column.name for column in found.values() if column.required]
        if lines := differences(table, kinds, required):
            raise table_mismatch(self.full_name(table), table, lines)

    def _missing(self, exc: Missing, tables: Sequence[Table]) -> TableMissing:
        return TableMissing(_named(exc, tables) or tables[0])

    def _explain(self, exc: Unfit, tables: Sequence[Table]) -> NoReturn:
        """Raise why a statement does not fit the tables: one of them has other columns; otherwise the warehouse's own error.

        Another run may be replacing a staging table, which then has no columns for a moment: it counts as missing.
        """
        replaced = [table for table in tables if not table.partitioned]
        if replaced and "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION" in str(exc):
            raise TableMissing(replaced[0]) from exc
        for table in {table.name: table for table in tables}.values():
            found = (self._look(table) or {}).get(table.name)
            if found is not None:
                self._must_fit(table, found)
        raise exc.error from exc


def _named(exc: Missing, tables: Sequence[Table]) -> Table | None:
    """The first of these tables that the warehouse's message names."""
    return next((table for table in tables if re.search(rf"[`.]{table.name}(`|\b)(?!_)", str(exc))), None)


def _plain(rows: pa.Table) -> pa.Table:
    return rows.cast(pa.schema([pa.field(f.name, plain(f.type)) for f in rows.schema]))


def no_volume(rows: int) -> SettingsError:
    return SettingsError(
        f"{rows} rows are too many for one statement, and no volume is set to load them through",
        hint="set MAANG_VOLUME to a volume, such as catalog.schema.volume",
    )


def _tag(sessions: str) -> str:
    """The selected sessions, as many as a query tag's value can have."""
    if len(sessions) <= TAG_LENGTH:
        return sessions
    first, *others = sessions.split(",")
    return f"{first} and {len(others)} more"


def open_warehouse(settings: Settings, purpose: str) -> DatabricksWarehouse:
    """The warehouse that the settings describe. `purpose` becomes the query tags that an administrator sees.

    Raises:
        SettingsError: a variable is wrong, or the universe needs a volume and none is set.
    """
    workspace = databricks_settings.load(settings)
    if len(settings.tickers) > SMALL and workspace.volume is None:
        raise no_volume(len(settings.tickers))
    command, _, sessions = purpose.partition(" ")
    tags = {"application": "maang", "command": command, "session": _tag(sessions)}
    connection = Connection(workspace, {key: value for key, value in tags.items() if value})
    volume = Volume(connection, workspace.volume) if workspace.volume else None
    return DatabricksWarehouse(connection, settings.schema_name, volume)
