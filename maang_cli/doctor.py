"""`maang doctor`: checks everything that a run needs. It changes nothing but a scratch table of its own, which it drops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from maang_cli import notify, pipeline, sql
from maang_cli.errors import MaangError, SettingsError, WarehouseDenied
from maang_cli.schemas import arrow_schema
from maang_cli.sources.base import Source
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGING_COLUMNS, Column, Table, scratch, scratch_made
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse

if TYPE_CHECKING:
    Checks = Mapping[str, Callable[[], str]]

LEFTOVER_SECONDS = 3600
"""How old another run's scratch table must be to be a leftover: until then the other run may still use it."""
_SESSION = date(2025, 10, 14)
_SCRATCH = (
    *PRODUCTION.columns[:2],
    Column("closes", "ARRAY<DECIMAL(10,2)>", ""),
    Column("volume", "BIGINT", ""),
    Column("updated_at", "TIMESTAMP", ""),
)
_SCRATCH_SQL = """SELECT ticker, date, array_agg(CAST(close AS DECIMAL(10,2))) AS closes, CAST(max(volume) AS BIGINT) AS volume
FROM {staging} GROUP BY ticker, date"""


@dataclass(frozen=True)
class Diagnosis:
    """What one check found."""

    name: str
    found: str
    """What works, or what is wrong."""
    error: MaangError | None = None
    """Set if the check failed."""


@dataclass(frozen=True)
class Checkup:
    diagnoses: tuple[Diagnosis, ...]

    @property
    def errors(self) -> tuple[MaangError, ...]:
        return tuple(each.error for each in self.diagnoses if each.error is not None)


def checkup(
    open_warehouse: Callable[[], Warehouse], open_source: Callable[[], Source], leftover_seconds: float = LEFTOVER_SECONDS
) -> Checkup:
    """Every check, the warehouse's first. If one of the two can't be opened, the checks that need it are left out.
    MAANG_NOTIFY is checked if it is set.

    Scratch tables that are older than `leftover_seconds` are dropped: a killed run has left them.
    """

    def warehouse() -> tuple[str, Checks]:
        opened = open_warehouse()
        own = {"tables": lambda: _read(opened), "merge": lambda: _merge(opened, leftover_seconds)}
        return opened.describe(), {**opened.doctor_checks(), **own}

    def source() -> tuple[str, Checks]:
        opened = open_source()
        return opened.name, opened.doctor_checks()

    return Checkup((*_examine("warehouse", warehouse), *_examine("source", source), *_notified()))


def _notified() -> Iterator[Diagnosis]:
    try:
        wanted = notify.is_wanted()
    except SettingsError:  # the warehouse could not be opened for the same reason
        return
    if wanted:
        yield from _examine("notify", lambda: (notify.check(), {}))


def _examine(name: str, connect: Callable[[], tuple[str, Checks]]) -> Iterator[Diagnosis]:
    try:
        found, checks = connect()
        yield Diagnosis(name, found)
    except MaangError as exc:
        yield Diagnosis(name, exc.message, exc)
        return
    for each, check in checks.items():
        try:
            yield Diagnosis(each, check())
        except MaangError as exc:
            yield Diagnosis(each, exc.message, exc)


def _read(warehouse: Warehouse) -> str:
    """Read production and cumulative: what they list, and all of their newest session."""
    found = []
    for table in (PRODUCTION, CUMULATIVE):
        name = warehouse.full_name(table)
        try:
            row = warehouse.query(Query(sql.text("table_summary"), {"table": Read(table)})).to_pylist()[0]
            if (last := row["last"]) is not None:
                condition = f"date = {sql.day(last)}"
                columns = ", ".join(column.name for column in table.columns)
                text = sql.text("table_rows", columns=columns, condition=condition)
                warehouse.query(Query(text, {"table": Read(table, (last, last))}))
            found.append(f"{name}: {row['rows']} rows" + (f", the newest of {last}" if last else ""))
        except TableMissing:
            found.append(f"{name} does not exist yet")
    return "; ".join(found)


def _merge(warehouse: Warehouse, leftover_seconds: float) -> str:
    """Create, stage, replace and drop, as two days do: first rows are inserted, then one is updated and one is deleted."""
    if not warehouse.has_schema():
        return "not tried: the schema does not exist yet, maang init-tables creates it"
    left = _drop_leftovers(warehouse, leftover_seconds)
    table = scratch(_SCRATCH, "updated_at")
    staged = Table(f"{table.name}_in", STAGING_COLUMNS)
    try:
        _must_be("create", [warehouse.create(table), warehouse.create(table)], [True, False])
        done = _replace(warehouse, table, staged, {"SCRATCH.A": 1, "SCRATCH.B": 1})
        _must_be("first replace", done, (2, 0, 0))
        between = warehouse.query(Query("SELECT current_timestamp AS now")).to_pylist()[0]["now"]
        done = _replace(warehouse, table, staged, {"SCRATCH.A": 2})
        _must_be("second replace", done, (0, 1, 1))
        text = "SELECT ticker, closes FROM {table} ORDER BY ticker"
        times: dict[datetime | None, dict[str, int]] = {None: {"SCRATCH.A": 2}}
        if has_history := warehouse.size(table).snapshots != 1:  # MAANG_KEEP_SNAPSHOTS may be 1
            times[between] = {"SCRATCH.A": 1, "SCRATCH.B": 1}
        for as_of, closes in times.items():
            rows = warehouse.query(Query(text, {"table": Read(table, as_of=as_of)})).to_pylist()
            _must_be("read", rows, [{"ticker": name, "closes": [Decimal(close)]} for name, close in closes.items()])
    finally:
        warehouse.drop(staged)
        warehouse.drop(table)
    read = "read as it was between" if has_history else "read"
    found = f"{warehouse.full_name(table)} was created, written twice, {read}, and dropped"
    return f"{found}; {left} of a killed run dropped" if left else found


def _drop_leftovers(warehouse: Warehouse, seconds: float) -> int:
    """Drop the scratch tables that are older than this; returns how many."""
    before = time.time() - seconds
    old = [name for name in warehouse.tables() if (made := scratch_made(name)) is not None and made <= before]
    return sum(pipeline.drop_table(warehouse, Table(name, ())).dropped for name in old)


def _replace(warehouse: Warehouse, table: Table, staged: Table, closes: Mapping[str, int]) -> tuple[int, int, int]:
    """Make these the scratch tickers' only rows; returns how many were inserted, updated and deleted."""
    import pyarrow as pa

    same = {"session": _SESSION, "date": _SESSION, "volume": Decimal(1)}
    rows = [same | {"ticker": ticker, "close": Decimal(close)} for ticker, close in closes.items()]
    warehouse.stage(staged, pa.Table.from_pylist(rows, schema=arrow_schema(STAGING_COLUMNS)))
    query = Query(_SCRATCH_SQL, {"staging": Read(staged)}, ("SCRATCH.A", "SCRATCH.B"))
    done = warehouse.replace(table, query, [_SESSION])
    return done.inserted, done.updated, done.deleted


def _must_be(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise WarehouseDenied(f"the {what} of a scratch table gave {found}, not {expected}", hint="report this; publish nothing")
