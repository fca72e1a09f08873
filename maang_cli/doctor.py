"""`maang doctor`: checks everything that a run needs. It changes nothing but a scratch table of its own, which it drops."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

from maang_cli import sql
from maang_cli.errors import MaangError, WarehouseDenied
from maang_cli.schemas import arrow_schema
from maang_cli.sources.base import Source
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGING_COLUMNS, Column, Table
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse

if TYPE_CHECKING:
    Checks = Mapping[str, Callable[[], str]]

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


def checkup(open_warehouse: Callable[[], Warehouse], open_source: Callable[[], Source]) -> Checkup:
    """Every check, the warehouse's first. If one of the two can't be opened, the checks that need it are left out."""

    def warehouse() -> tuple[str, Checks]:
        opened = open_warehouse()
        return opened.describe(), {**opened.doctor_checks(), "tables": lambda: _read(opened), "merge": lambda: _merge(opened)}

    def source() -> tuple[str, Checks]:
        opened = open_source()
        return opened.name, opened.doctor_checks()

    return Checkup((*_examine("warehouse", warehouse), *_examine("source", source)))


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


def _merge(warehouse: Warehouse) -> str:
    """Create, stage, replace and drop, as two days do: first rows are inserted, then one is updated and one is deleted."""
    if not warehouse.has_schema():
        return "not tried: the schema does not exist yet, maang init-tables creates it"
    table = Table(f"maang_doctor_{uuid.uuid4().hex[:8]}", _SCRATCH, "updated_at")
    staged = Table(f"{table.name}_in", STAGING_COLUMNS)
    try:
        _must_be("create", [warehouse.create(table), warehouse.create(table)], [True, False])
        done = _replace(warehouse, table, staged, {"SCRATCH.A": 1, "SCRATCH.B": 1})
        _must_be("first replace", done, (2, 0, 0))
        between = warehouse.query(Query("SELECT current_timestamp AS now")).to_pylist()[0]["now"]
        done = _replace(warehouse, table, staged, {"SCRATCH.A": 2})
        _must_be("second replace", done, (0, 1, 1))
        text = "SELECT ticker, closes FROM {table} ORDER BY ticker"
        for as_of, closes in ((None, {"SCRATCH.A": 2}), (between, {"SCRATCH.A": 1, "SCRATCH.B": 1})):
            rows = warehouse.query(Query(text, {"table": Read(table, as_of=as_of)})).to_pylist()
            _must_be("read", rows, [{"ticker": name, "closes": [Decimal(close)]} for name, close in closes.items()])
    finally:
        warehouse.drop(staged)
        warehouse.drop(table)
    return f"{warehouse.full_name(table)} was created, written twice, read as it was between, and dropped"


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
