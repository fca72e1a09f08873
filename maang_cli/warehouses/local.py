"""The embedded warehouse: DuckDB reads, PyIceberg writes, Iceberg tables in a folder. Nothing to install or start."""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg import types
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan

from maang_cli import sql
from maang_cli.errors import CommitLost, SettingsError, TableMismatch
from maang_cli.tables import Table, arrow_schema, differences
from maang_cli.warehouses import litter
from maang_cli.warehouses.base import Forbidden, Query, Replaced, Size, TableMissing, Tidied
from maang_cli.warehouses.disk_errors import FileGone, translated
from maang_cli.warehouses.iceberg import Overtaken, Store
from maang_cli.warehouses.merge import OUTCOME, Held, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask
    from pyiceberg.table import Table as IcebergTable

    from maang_cli.warehouses.base import Read

log = logging.getLogger("maang")

EPOCH = date(1970, 1, 1)
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    # No extension may be fetched: DuckDB would otherwise look for one on the network.
    "autoinstall_known_extensions": "false",
    "TimeZone": "UTC",
    # From this version on, decimals of up to 18 digits come in 8 bytes, as `tables.arrow_schema` has them.
    "arrow_output_version": "1.5",
}
NAME_MAPPING = "schema.name-mapping.default"
"""The property of a table that took in files without field ids."""
ATTEMPTS = 10
"""How often a commit is computed anew when a writer that doesn't hold our lock (Spark, say) is faster."""


class LocalWarehouse:
    """The tables of one schema under `home`; see `iceberg.Store` for the layout."""

    def __init__(self, home: Path, schema: str, keep_snapshots: int, keep_days: int | None = None) -> None:
        self._store = Store(home / "warehouse", schema, litter.Keep(keep_snapshots, keep_days))
        self._duckdb = duckdb.connect(config=DUCKDB)

    def full_name(self, table: Table) -> str:
        return f"{self._store.schema}.{table.name}"

    def create_schema(self) -> bool:
        self._store.sweep()
        return self._store.create_schema()

    def has_schema(self) -> bool:
        return self._store.has_schema()

    def describe(self) -> str:
        return f"on this machine, in {self._store.root}"

    def looks(self) -> Mapping[str, Callable[[], str]]:
        return {}

    def create(self, table: Table) -> bool:
        if self._store.load(table.name) is None:
            with suppress(Overtaken), self._store.writing(table.name):
                if self._store.load(table.name) is None:
                    self._store.create_schema()
                    self._store.create(table)
                    return True
        self._must(table)  # it was there, or another writer was faster: it has to fit
        return False

    most_staged = None

    def stage(self, table: Table, rows: pa.Table) -> None:
        try:
            self._stage(table, rows)
        except Overtaken as exc:
            raise CommitLost(
                f"{self.full_name(table)} was changed by another writer", hint="run the same command again when it is done"
            ) from exc
        log.debug("staged %d rows in %s", rows.num_rows, self.full_name(table))

    def _stage(self, table: Table, rows: pa.Table) -> None:
        with self._store.writing(table.name) as writer:
            target = self._store.load(table.name)
            if target is not None and _mismatch(table, target):
                self._store.remove(table.name)  # left by another version; staging is ours alone
                target = None
            if target is None:
                self._store.create_schema()
                self._store.commit(self._store.creation(table), [], rows, writer)
            else:
                old = [task.file for task in target.scan().plan_files()]
                self._store.commit(target.transaction(), old, rows, writer)

    def query(self, query: Query) -> pa.Table:
        for _ in range(ATTEMPTS):
            with suppress(FileGone):
                return self._query(query)
        return self._query(query)

    def _query(self, query: Query) -> pa.Table:
        with translated(self._store.root):
            holes = {hole: self._relation_of(hole, read) for hole, read in query.reads.items()}
            return self._run(query, holes)

    def replace(
        self, table: Table, query: Query, tickers: Sequence[str], sessions: Sequence[date], unless: Query | None = None
    ) -> Replaced:
        for _ in range(ATTEMPTS):
            try:
                with self._store.writing(table.name) as writer:
                    # The target first: what is read after it is at least as new, so a stale result can't pass for a fresh one.
                    target = self._must(table)
                    inputs = dict(query.reads) | (dict(unless.reads) if unless else {})
                    holes = {hole: self._relation_of(hole, read) for hole, read in inputs.items()}
                    if unless is not None and self._run(unless, holes).num_rows:
                        raise Forbidden
                    new = self._run(query, holes).cast(_values_schema(table))
                    held, tasks = _partitions(table, target, set(sessions))
                    merged = merge(table, held, new, tickers, self._run_on)
                    if days := _changed_days(merged):
                        rows = _published(merged, days).drop_columns(OUTCOME)
                        old_files = [task.file for task in tasks if _day_of(task.file) in days]
                        self._store.commit(target.transaction(), old_files, rows, writer)
                    return self._counts(table, merged)
            except Overtaken:
                log.warning("%s was changed by another writer; computing it anew", self.full_name(table))
            except FileGone as exc:
                log.debug("%s; computing it anew", exc.message)
        raise CommitLost(
            f"{self.full_name(table)} was changed by other writers {ATTEMPTS} times in a row",
            hint="run the same command again when they are done",
        )

    def drop(self, table: Table) -> bool:
        if self._store.load(table.name) is None:
            return False
        with self._store.writing(table.name):
            return self._store.remove(table.name)

    def tables(self) -> list[str]:
        return self._store.names()

    def size(self, table: Table) -> Size:
        found = self._store.load(table.name)
        if found is None:
            raise TableMissing(table)
        return Size(self._store.bytes(table.name), len(found.metadata.snapshots))

    def maintain(self) -> tuple[Tidied, ...]:
        return tuple(self._tidied(name) for name in self.tables())

    def _tidied(self, name: str) -> Tidied:
        before = self._store.bytes(name)
        for _ in range(ATTEMPTS):
            try:
                snapshots, files = self._store.tidy(name)
            except Overtaken:
                continue
            return Tidied(f"{self._store.schema}.{name}", snapshots, files, max(before - self._store.bytes(name), 0))
        raise CommitLost(f"{self._store.schema}.{name} is being changed all the time", hint="run the same command again")

    def interrupt(self) -> None:
        """Have the verb that another thread is carrying out end before its next query or its wait for the lock does."""
        self._store.interrupted.set()
        self._duckdb.interrupt()

    def proceed(self) -> None:
        self._store.interrupted.clear()

    def close(self) -> None:
        self._duckdb.close()
        self._store.close()

    def _must(self, table: Table) -> IcebergTable:
        found = self._store.load(table.name)
        if found is None:
            raise TableMissing(table)
        self._must_fit(table, found)
        return found

    def _must_fit(self, table: Table, found: IcebergTable) -> None:
        if lines := _mismatch(table, found):
            raise TableMismatch(
                f"{self.full_name(table)} is not as this version writes it: {'; '.join(lines)}",
                hint="alter the table to match, or give --schema a new name"
                if table.partitioned
                else "fetch it anew: maang ingest",
            )

    def _run(self, query: Query, holes: dict[str, str]) -> pa.Table:
        started = time.monotonic()
        relation = self._duckdb.sql(_LONG_LIST.sub(_split, sql.fill(query.text, holes)))
        self._store.must_go_on()  # DuckDB itself forgets an interruption that comes before it runs
        result = relation.to_arrow_table()
        log.debug("query on %s: %d rows, %.3f s", ", ".join(holes), result.num_rows, time.monotonic() - started)
        return result

    def _relation(self, hole: str, rows: pa.Table) -> str:
        """The name under which DuckDB knows `rows`."""
        name = f"maang_{hole}"
        self._duckdb.register(name, rows)
        return name

    def _relation_of(self, hole: str, read: Read) -> str:
        """What stands for `read` in DuckDB's SQL: its Parquet files, of which only the columns in use are read."""
        table = self._must(read.table)
        which = "true" if read.sessions is None else f"date >= '{read.sessions[0]}' and date <= '{read.sessions[1]}'"
        scan = table.scan(which, snapshot_id=self._snapshot(read, table))
        tasks = list(scan.plan_files())
        paths = [task.file.file_path.removeprefix("file://") for task in tasks]
        odd = any(task.delete_files for task in tasks) or set("*?[") & set("".join(paths)) or NAME_MAPPING in table.properties
        if not paths or odd:
            return self._relation(hole, scan.to_arrow())
        # By field id, as Iceberg wants it: a column may have been renamed since a file was written.
        columns = ", ".join(
            f"{table.schema().find_field(column.name).field_id}: "
            f"{{name: '{column.name}', type: '{_duckdb_type(column.type)}', default_value: NULL}}"
            for column in read.table.columns
        )
        return f"read_parquet([{', '.join(map(_literal, paths))}], schema = MAP {{{columns}}}, hive_partitioning = false)"

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
            hint=f"its oldest snapshot is of {since}; give --as-of a later time",
        )

    def _counts(self, table: Table, merged: pa.Table) -> Replaced:
        counts = {row["values"]: row["counts"] for row in pc.value_counts(merged[OUTCOME]).to_pylist()}
        return Replaced(self.full_name(table), *(counts.get(name, 0) for name in ("inserted", "updated", "deleted", "unchanged")))

    def _run_on(self, text: str, tables: dict[str, pa.Table]) -> pa.Table:
        return self._run(Query(text), {hole: self._relation(hole, rows) for hole, rows in tables.items()})


_LONG_LIST = re.compile(r"\(VALUES ((?:\('[^',]*'\), ){99,}\('[^',]*'\))\) AS (\w+)\((\w+)\)")
"""A list of 100 tickers or more, as a relation."""


def _split(found: re.Match[str]) -> str:
    """The same list as one literal: DuckDB takes a third of a second to parse 11,000 of them."""
    values, name, column = found.groups()
    joined = values[2:-2].replace("'), ('", ",")
    return f"(SELECT unnest(string_split('{joined}', ',')) AS {column}) AS {name}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _duckdb_type(kind: str) -> str:
    """A type of `tables.Column` as DuckDB spells it."""
    if kind.startswith("ARRAY<"):
        return f"{_duckdb_type(kind[6:-1])}[]"
    return {"STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMPTZ"}.get(kind, kind)


def _values_schema(table: Table) -> pa.Schema:
    return arrow_schema([column for column in table.columns if column.name in table.values])


def _partitions(table: Table, found: IcebergTable, days: set[date]) -> tuple[Held, list[FileScanTask]]:
    """The rows of these partitions, all of their columns, and the files that hold them."""
    # By the ends: PyIceberg would hold each file against each of a thousand dates.
    scan = found.scan(f"date >= '{min(days)}' and date <= '{max(days)}'")
    tasks = [task for task in scan.plan_files() if _day_of(task.file) in days]

    def read(names: Iterable[str]) -> pa.Table:
        schema = scan.select(*names).projection()
        return ArrowScan(found.metadata, found.io, schema, AlwaysTrue()).to_table(tasks)

    arrays = [column.name for column in table.columns if column.type.startswith("ARRAY<")]
    rest = [field.name for field in found.schema().fields if field.name not in arrays]
    return Held(read(rest), cache(lambda: read(arrays))), tasks


def _changed_days(merged: pa.Table) -> set[date]:
    changed = pc.invert(pc.is_in(merged[OUTCOME], pa.array(["unchanged", "carried"])))
    return set(pc.unique(merged["date"].filter(changed)).to_pylist())


def _published(merged: pa.Table, days: set[date]) -> pa.Table:
    """The rows that go into the changed partitions."""
    which = pc.and_(pc.is_in(merged["date"], pa.array(sorted(days), pa.date32())), pc.not_equal(merged[OUTCOME], "deleted"))
    return merged if pc.all(which).as_py() else merged.filter(which)  # to copy all of them takes a while


def _day_of(file: DataFile) -> date:
    """The partition that a data file belongs to, which Iceberg keeps as days since 1970."""
    return EPOCH + timedelta(days=file.partition[0])


def _sql_type(kind: types.IcebergType) -> str:
    """An Iceberg type as `tables.Column` spells it."""
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


def _mismatch(table: Table, found: IcebergTable) -> list[str]:
    """What keeps `found` from being written as `table`."""
    fields = found.schema().fields
    lines = differences(
        table,
        {field.name: _sql_type(field.field_type) for field in fields},
        required=[field.name for field in fields if field.required],
    )
    source = found.schema().find_field("date").field_id if not lines else None
    spec = [(field.source_id, str(field.transform)) for field in found.spec().fields]
    if source is not None and spec != ([(source, "identity")] if table.partitioned else []):
        lines.append(f"it is partitioned by {found.spec().fields or 'nothing'}, date expected")
    return lines
