"""The local warehouse: Iceberg tables in a folder, read by DuckDB and written by PyIceberg, both inside this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg import types
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression, GreaterThanOrEqual, LessThanOrEqual
from pyiceberg.io.pyarrow import ArrowScan

from maang_cli import sql
from maang_cli.errors import CommitLost, SettingsError
from maang_cli.retries import COMMIT_ATTEMPTS, WAITING_SECONDS
from maang_cli.schemas import arrow_schema
from maang_cli.settings import Settings
from maang_cli.tables import Column, Table, differences
from maang_cli.warehouses.base import (
    Cleanup,
    GateFailed,
    Query,
    Read,
    Replaced,
    Size,
    Spans,
    TableMissing,
    WouldRevise,
    commit_lost,
    table_mismatch,
)
from maang_cli.warehouses.local import damage, disk
from maang_cli.warehouses.local import settings as local_settings
from maang_cli.warehouses.local.errors import Damaged, FileGone, translated, wrong_query
from maang_cli.warehouses.local.merge import OUTCOME, Existing, merge
from maang_cli.warehouses.local.parquet import day_of
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.store import Overtaken, Store
from maang_cli.warehouses.local.waiting import Waiting

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask
    from pyiceberg.table import Table as IcebergTable

log = logging.getLogger("maang")

DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    # DuckDB would otherwise look for extensions on the network.
    "autoinstall_known_extensions": "false",
    "TimeZone": "UTC",
    # From this version on, decimals of up to 18 digits take 8 bytes, as in `schemas.arrow_schema`.
    "arrow_output_version": "1.5",
}
REQUESTED = pa.schema([("ticker", pa.string()), ("first_date", pa.date32()), ("last_date", pa.date32())])
"""Of the relation `{tickers}`."""
NAME_MAPPING = "schema.name-mapping.default"
"""A table with this property may have files without field ids."""


@dataclass(frozen=True)
class _Relations:
    """What a query reads."""

    names: dict[str, str]
    """What DuckDB knows its placeholders by."""
    files: list[tuple[IcebergTable, list[DataFile]]]


class LocalWarehouse:
    """The tables of one schema under `home`; see `store` for the layout. `waiting`: seconds for other processes, in all."""

    def __init__(self, home: Path, schema: str, retention: Retention, waiting: float = WAITING_SECONDS) -> None:
        self._store = Store(home / "warehouse", schema, retention, Waiting(waiting))
        self._duckdb = duckdb.connect(config=DUCKDB)
        self._registered: tuple[Sequence[str], Spans] | None = None
        """The tickers that DuckDB knows as a relation, and when they are requested."""
        self._part: tuple[object, pa.Table] | None = None
        """The last part of a query that was run, and on which data: the gate audits twice, mostly the same data."""
        self._is_closed = False
        """Whether DuckDB may read files of the warehouse only."""

    def full_name(self, table: Table) -> str:
        return f"{self._store.schema}.{table.name}"

    def create_schema(self) -> bool:
        self._store.clean_up_after_kill()
        return self._store.create_schema()

    def has_schema(self) -> bool:
        return self._store.has_schema()

    @property
    def location(self) -> str:
        return str(self._store.root)

    def describe(self) -> str:
        return f"on this machine, in {self.location}"

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        return {}

    def create(self, table: Table) -> bool:
        if self._store.load(table.name) is None:
            with suppress(Overtaken), self._store.writing(table.name):
                if self._store.load(table.name) is None:
                    self._store.create_schema()
                    self._store.create(table)
                    return True
        self._must(table)  # it existed, or another writer was faster: its columns must fit
        return False

    def add_columns(self, table: Table) -> tuple[str, ...]:
        for _ in range(COMMIT_ATTEMPTS):
            found = self._store.load(table.name)
            lacking = _lacking(table, found) if found else []
            if not lacking:
                return ()
            with suppress(Overtaken), self._store.writing(table.name):
                found = self._must_exist(table)
                if lacking := _lacking(table, found):
                    self._store.add_columns(found, lacking)
                return tuple(column.name for column in lacking)
        raise commit_lost(self.full_name(table), COMMIT_ATTEMPTS)

    max_staged_rows = None

    def stage(self, table: Table, rows: pa.Table) -> None:
        try:
            self._stage(table, rows)
        except Overtaken as exc:
            raise CommitLost(
                f"another writer has changed {self.full_name(table)}", hint="run the same command again when it has ended"
            ) from exc
        log.debug("staged %d rows in %s", rows.num_rows, self.full_name(table))

    def _stage(self, table: Table, rows: pa.Table) -> None:
        with self._store.writing(table.name) as writer:
            target, old = self._staged(table)
            if target is None:
                self._store.remove(table.name)
                self._store.create_schema()
                self._store.commit(self._store.creation(table), [], rows, writer)
            else:
                self._store.commit(target.transaction(), old, rows, writer)

    def _staged(self, table: Table) -> tuple[IcebergTable | None, list[DataFile]]:
        """A staging table and its files; None if it does not exist, or is of no use: only maang uses staging."""
        try:
            found = self._store.load(table.name)
            if found is None or _mismatch(table, found):  # another version has left it
                return None, []
            with self._store.reading((found, [])):
                return found, [task.file for task in found.scan().plan_files()]
        except (Damaged, FileGone):
            return None, []

    def query(self, query: Query) -> pa.Table:
        for _ in range(COMMIT_ATTEMPTS):
            with suppress(FileGone):
                return self._query(query)
        return self._query(query)

    def _query(self, query: Query) -> pa.Table:
        with translated(self._store.root):
            relations = self._relations(query)
            with self._store.reading(*relations.files):
                return self._run(query, relations.names)

    def select(self, text: str, tables: Mapping[str, Query]) -> pa.Table:
        try:
            kinds = [statement.type for statement in duckdb.extract_statements(text)]
        except duckdb.Error as exc:
            raise wrong_query(exc) from exc
        if kinds != [duckdb.StatementType.SELECT]:
            raise SettingsError("this is not one query", hint="give one SELECT, such as SELECT count(*) FROM production")
        if not self._is_closed:  # once: it can't be opened again
            self._duckdb.execute(f"SET allowed_directories = [{_literal(self.location)}]")
            self._duckdb.execute("SET enable_external_access = false")
            self._is_closed = True
        for _ in range(COMMIT_ATTEMPTS):
            with suppress(FileGone):
                return self._select(text, tables)
        return self._select(text, tables)

    def _select(self, text: str, tables: Mapping[str, Query]) -> pa.Table:
        with translated(self._store.root):
            files = []
            for name, query in tables.items():
                relations = self._relations(query)
                files += relations.files
                self._duckdb.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {sql.fill(query.text, relations.names)}")
            started = time.monotonic()
            try:
                found = self._duckdb.sql(text)  # a wrong name is found here, before the data is read
                with self._store.reading(*files):
                    rows = found.to_arrow_table()
            except (duckdb.IOException, duckdb.InternalException, duckdb.FatalException):
                raise
            except duckdb.Error as exc:
                raise wrong_query(exc) from exc
            log.debug("query on %s: %d rows, %.3f s", ", ".join(tables), rows.num_rows, time.monotonic() - started)
            return rows

    def replace(
        self, table: Table, query: Query, sessions: Sequence[date], refuse_if: Query | None = None, *, revise: bool = True
    ) -> Replaced:
        for _ in range(COMMIT_ATTEMPTS):
            try:
                with self._store.writing(table.name) as writer:
                    # The target first: what is read later is at least as new, so a stale result can't be committed.
                    target = self._must(table)
                    relations = self._relations(query, refuse_if)
                    with self._store.reading(*relations.files):
                        refused = refuse_if is not None and self._run(refuse_if, relations.names).num_rows
                        new = self._run(query, relations.names) if not refused else None
                    if new is None:
                        raise GateFailed
                    existing, tasks = self._partitions(table, target, set(sessions))
                    merged = merge(table, existing, _in_columns(table, new), query, self._run_on)
                    done = self._counts(table, merged)
                    if done.revised and not revise:
                        raise WouldRevise
                    if days := _changed_days(merged):
                        rows = _published(merged, days).drop_columns(OUTCOME)
                        old_files = [task.file for task in tasks if day_of(task.file) in days]
                        self._store.commit(target.transaction(), old_files, rows, writer)
                    return done
            except Overtaken:
                log.warning("another writer has changed %s; computing it again", self.full_name(table))
            except FileGone as exc:
                log.debug("%s; computing it again", exc.message)
        raise commit_lost(self.full_name(table), COMMIT_ATTEMPTS)

    def add(self, table: Table, query: Query) -> int:
        for _ in range(COMMIT_ATTEMPTS):
            with suppress(Overtaken, FileGone), self._store.writing(table.name) as writer:
                target = self._must(table)
                relations = self._relations(query)
                with self._store.reading(*relations.files):
                    new = self._run(query, relations.names).cast(arrow_schema(table.value_columns))
                if not new.num_rows:
                    return 0
                existing, tasks = self._partitions(table, target, set(new["date"].to_pylist()))
                columns = ", ".join(table.values)
                known = {"new": new, "old": existing.rows}
                added = self._run_on(f"SELECT {columns} FROM {{new}} EXCEPT SELECT {columns} FROM {{old}}", known).cast(
                    new.schema
                )
                if added.num_rows:
                    days = set(added["date"].to_pylist())
                    # One file for each date, as in the other tables: many small ones would have to be compacted.
                    stay = existing.rows.filter(pc.is_in(existing.rows["date"], pa.array(sorted(days), pa.date32())))
                    stamp = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), added.num_rows)
                    rows = pa.concat_tables([stay, added.append_column(str(table.stamp), stamp)], promote_options="permissive")
                    old_files = [task.file for task in tasks if day_of(task.file) in days]
                    self._store.commit(target.transaction(), old_files, rows.sort_by("date"), writer)
                return len(added)
        raise commit_lost(self.full_name(table), COMMIT_ATTEMPTS)

    def remove_unreadable(self, table: Table, sessions: Sequence[date]) -> tuple[date, ...]:
        if not self._store.exists(table.name):
            return ()
        for _ in range(COMMIT_ATTEMPTS):
            with suppress(Overtaken, FileGone), self._store.writing(table.name) as writer:
                found = self._must(table)
                files = [task.file for task in self._tasks(found, set(sessions))]
                unreadable = [file for file, _ in damage.unreadable_data(files)]
                if unreadable:
                    self._store.commit(found.transaction(), unreadable, None, writer)
                return tuple(sorted(set(map(day_of, unreadable))))
        raise commit_lost(self.full_name(table), COMMIT_ATTEMPTS)

    def drop(self, table: Table) -> bool:
        if not self._store.exists(table.name):
            self._store.clean_up_after_kill()  # it may have been dropped by a run that was killed then
            return False
        with self._store.writing(table.name):
            return self._store.remove(table.name)

    def tables(self) -> list[str]:
        return self._store.names()

    def size(self, table: Table) -> Size:
        found = self._must_exist(table)
        return Size(self._store.bytes(table.name), len(found.metadata.snapshots))

    def maintain(self) -> tuple[Cleanup, ...]:
        return tuple(self._clean_up(name) for name in self.tables())

    def _clean_up(self, name: str) -> Cleanup:
        for _ in range(COMMIT_ATTEMPTS):
            try:
                return Cleanup(f"{self._store.schema}.{name}", *self._store.clean_up(name))
            except (Overtaken, FileGone):
                continue
        raise CommitLost(f"other writers change {self._store.schema}.{name} all the time", hint="run the same command again")

    def cancel(self) -> None:
        """Nothing runs outside of this process, and what it leaves half written is never committed."""

    def close(self) -> None:
        self._duckdb.close()
        self._store.close()

    def _must(self, table: Table) -> IcebergTable:
        found = self._must_exist(table)
        self._must_fit(table, found)
        return found

    def _must_exist(self, table: Table) -> IcebergTable:
        found = self._store.load(table.name)
        if found is None:
            raise TableMissing(table)
        return found

    def _must_fit(self, table: Table, found: IcebergTable) -> None:
        if lines := _mismatch(table, found):
            raise table_mismatch(self.full_name(table), table, lines)

    def _run(self, query: Query, relations: dict[str, str]) -> pa.Table:
        started = time.monotonic()
        result = self._duckdb.sql(sql.fill(query.text, relations)).to_arrow_table()
        log.debug("query on %s: %d rows, %.3f s", ", ".join(query.reads), result.num_rows, time.monotonic() - started)
        return result

    def _relations(self, query: Query, refuse_if: Query | None = None) -> _Relations:
        queries = (query, refuse_if) if refuse_if else (query,)
        reads = {name: read for each in queries for name, read in each.reads.items()}
        parts = {name: self._rows_of(part) for each in queries for name, part in each.parts.items()}
        relations = _Relations({"tickers": self._requested(query)}, [])
        for name, read in reads.items():
            relations.names[name], files = self._relation(name, read)
            relations.files.append(files)
        relations.names.update({name: self._register(name, rows) for name, rows in parts.items()})
        return relations

    def _requested(self, query: Query) -> str:
        """The name of the relation `{tickers}`. A run asks for the same ones again and again: they are registered once.

        DuckDB takes a third of a second to parse a list of 11,000 literals, and Python a hundredth to make a relation of them.
        """
        if self._registered != (query.tickers, query.spans):
            rows = dict(zip(REQUESTED.names, zip(*query.requested(), strict=True), strict=True)) if query.tickers else {}
            self._register("tickers", pa.table(rows, REQUESTED) if rows else REQUESTED.empty_table())
            self._registered = query.tickers, query.spans
        return "maang_tickers"

    def _rows_of(self, part: Query) -> pa.Table:
        """The rows of a part; those of the last one, if the same is asked for and nobody has changed its tables."""
        relations = self._relations(part)
        key = part, [table.metadata_location for table, _ in relations.files]
        if self._part is None or self._part[0] != key:
            with self._store.reading(*relations.files):
                self._part = key, self._run(part, relations.names)
        return self._part[1]

    def _register(self, name: str, rows: pa.Table) -> str:
        """The name by which DuckDB knows `rows`."""
        known = f"maang_{name}"
        self._duckdb.register(known, rows)
        return known

    def _relation(self, name: str, read: Read) -> tuple[str, tuple[IcebergTable, list[DataFile]]]:
        """`read` in DuckDB's SQL: its Parquet files, of which DuckDB reads only the columns that it needs; and these files."""
        table = self._must(read.table)
        which = AlwaysTrue() if read.sessions is None else _from_to(*read.sessions)
        scan = table.scan(which, snapshot_id=self._snapshot(read, table))
        with self._store.reading((table, [])):
            tasks = list(scan.plan_files())
        files = table, [task.file for task in tasks]
        paths = [str(disk.path_of(file.file_path)) for file in files[1]]
        odd = any(task.delete_files for task in tasks) or set("*?[") & set("".join(paths)) or NAME_MAPPING in table.properties
        if not paths or odd:
            with self._store.reading(files):
                return self._register(name, scan.to_arrow()), files
        # By field id, as Iceberg requires: a column may have been renamed after a file was written.
        columns = ", ".join(
            f"{table.schema().find_field(column.name).field_id}: "
            f"{{name: '{column.name}', type: '{_duckdb_type(column.type)}', default_value: NULL}}"
            for column in read.table.columns
        )
        text = f"read_parquet([{', '.join(map(_literal, paths))}], schema = MAP {{{columns}}}, hive_partitioning = false)"
        return text, files

    def _snapshot(self, read: Read, table: IcebergTable) -> int | None:
        if read.as_of is None:
            return None
        snapshot = table.snapshot_as_of_timestamp(int(read.as_of.timestamp() * 1000))
        if snapshot is not None:
            return snapshot.snapshot_id
        kept = [entry.timestamp_ms for entry in table.history()]
        since = f"{datetime.fromtimestamp(min(kept) / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}" if kept else "nothing yet"
        raise SettingsError(
            f"{self.full_name(read.table)} has no history as of {read.as_of.isoformat()}",
            hint=f"its oldest snapshot is from {since}; give --as-of a later time",
        )

    def _tasks(self, found: IcebergTable, days: set[date]) -> list[FileScanTask]:
        """The files of these partitions."""
        # By the first and last date: PyIceberg would compare each file with each of a thousand dates.
        scan = found.scan(_from_to(min(days), max(days)))
        with self._store.reading((found, [])):
            return [task for task in scan.plan_files() if day_of(task.file) in days]

    def _partitions(self, table: Table, found: IcebergTable, days: set[date]) -> tuple[Existing, list[FileScanTask]]:
        """The rows of these partitions with all columns, and their files."""
        tasks = self._tasks(found, days)

        def read(names: Iterable[str]) -> pa.Table:
            schema = found.scan(selected_fields=tuple(names)).projection()
            with self._store.reading((found, [task.file for task in tasks])):
                return ArrowScan(found.metadata, found.io, schema, AlwaysTrue()).to_table(tasks)

        arrays = [column.name for column in table.columns if column.type.startswith("ARRAY<")]
        rest = [field.name for field in found.schema().fields if field.name not in arrays]
        return Existing(read(rest), cache(lambda: read(arrays))), tasks

    def _counts(self, table: Table, merged: pa.Table) -> Replaced:
        counts = {row["values"]: row["counts"] for row in pc.value_counts(merged[OUTCOME]).to_pylist()}
        return Replaced(self.full_name(table), *(counts.get(name, 0) for name in ("inserted", "updated", "deleted", "unchanged")))

    def _run_on(self, text: str, tables: dict[str, pa.Table]) -> pa.Table:
        return self._run(Query(text), {name: self._register(name, rows) for name, rows in tables.items()})


def open_warehouse(settings: Settings) -> LocalWarehouse:
    """The warehouse that the settings describe."""
    return LocalWarehouse(settings.home, settings.schema_name, local_settings.load())


def _in_columns(table: Table, new: pa.Table) -> pa.Table:
    """The rows in the types of the table's value columns, other columns as they are."""
    schema = arrow_schema(table.value_columns)
    others = [new.schema.field(name) for name in new.column_names if name not in schema.names]
    return new.select([*schema.names, *(field.name for field in others)]).cast(pa.schema([*schema, *others]))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _duckdb_type(kind: str) -> str:
    """A type of `tables.Column`, spelled as in DuckDB."""
    if kind.startswith("ARRAY<"):
        return f"{_duckdb_type(kind[6:-1])}[]"
    return {"STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}.get(kind, kind)


def _from_to(first: date, last: date) -> BooleanExpression:
    # Expressions are pydantic models with constructors of their own, which mypy does not see.
    return And(GreaterThanOrEqual("date", first.isoformat()), LessThanOrEqual("date", last.isoformat()))  # type: ignore[arg-type, call-arg]


def _changed_days(merged: pa.Table) -> set[date]:
    changed = pc.invert(pc.is_in(merged[OUTCOME], pa.array(["unchanged", "carried"])))
    return set(pc.unique(merged["date"].filter(changed)).to_pylist())


def _published(merged: pa.Table, days: set[date]) -> pa.Table:
    """The rows of the changed partitions."""
    which = pc.and_(pc.is_in(merged["date"], pa.array(sorted(days), pa.date32())), pc.not_equal(merged[OUTCOME], "deleted"))
    return merged if pc.all(which).as_py() else merged.filter(which)  # a copy of all of them takes a while


def _sql_type(kind: types.IcebergType) -> str:
    """An Iceberg type, spelled as in `tables.Column`."""
    if isinstance(kind, types.ListType):
        return f"ARRAY<{_sql_type(kind.element_type)}>"
    if isinstance(kind, types.DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    names: dict[type, str] = {
        types.StringType: "STRING",
        types.DateType: "DATE",
        types.IntegerType: "INTEGER",
        types.LongType: "BIGINT",
        types.TimestamptzType: "TIMESTAMP",
    }
    return names.get(type(kind), str(kind).upper())


def _lacking(table: Table, found: IcebergTable) -> list[Column]:
    """The nullable columns that `found` lacks, if that is all that is different."""
    names = {field.name.lower() for field in found.schema().fields}
    lacking = [column for column in table.columns if not column.required and column.name not in names]
    present = tuple(column for column in table.columns if column not in lacking)
    return lacking if not _mismatch(replace(table, columns=present), found) else []


def _mismatch(table: Table, found: IcebergTable) -> list[str]:
    """Why `found` can't be written as `table`, one line a reason."""
    fields = found.schema().fields
    lines = differences(
        table,
        {field.name: _sql_type(field.field_type) for field in fields},
        required=[field.name for field in fields if field.required],
    )
    source = found.schema().find_field("date").field_id if not lines else None
    spec = [(field.source_id, str(field.transform)) for field in found.spec().fields]
    if source is not None and spec != ([(source, "identity")] if table.partitioned else []):
        lines.append(f"the table is partitioned by {found.spec().fields or 'nothing'}, date expected")
    return lines
