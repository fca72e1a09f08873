"""`maang doctor`: one look after another at what a run needs. It changes nothing but a scratch table of its own."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

from maang_cli.errors import MaangError
from maang_cli.pipeline import publish_query
from maang_cli.tables import PRODUCTION, STAGED_COLUMNS, Table, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from maang_cli.sources.base import Source
    from maang_cli.warehouses.base import Warehouse

_TICKER, _SESSION = "SCRATCH", date(2025, 10, 14)


@dataclass(frozen=True)
class Finding:
    """What one look found."""

    name: str
    said: str
    """What is so, or what is wrong."""
    error: MaangError | None = None
    """Set when it failed."""


@dataclass(frozen=True)
class Checkup:
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[MaangError, ...]:
        return tuple(finding.error for finding in self.findings if finding.error is not None)


def checkup(open_warehouse: Callable[[], Warehouse], open_source: Callable[[], Source]) -> Checkup:
    """Every look, the warehouse's first; one that fails spares those that rest on it."""
    return Checkup((*_warehouse(open_warehouse), *_source(open_source)))


def _look(name: str, at: Callable[[], str]) -> Finding:
    try:
        return Finding(name, at())
    except MaangError as exc:
        return Finding(name, exc.message, exc)


def _warehouse(open_warehouse: Callable[[], Warehouse]) -> Iterator[Finding]:
    opened: list[Warehouse] = []

    def connect() -> str:
        opened.append(open_warehouse())
        return opened[0].describe()

    yield (first := _look("warehouse", connect))
    if first.error is not None:
        return
    yield from (_look(name, at) for name, at in opened[0].looks().items())
    yield _look("merge", lambda: _merge(opened[0]))


def _merge(warehouse: Warehouse) -> str:
    """Create, stage, replace, drop, as a day does."""
    if not warehouse.has_schema():
        return "not tried: the schema is not there yet, maang init-tables creates it"
    import pyarrow as pa

    mark = uuid.uuid4().hex[:8]
    table, staged = (
        Table(f"maang_doctor_{mark}", PRODUCTION.columns, PRODUCTION.stamp),
        Table(f"maang_doctor_{mark}_in", STAGED_COLUMNS),
    )
    row = (
        {"session": _SESSION, "ticker": _TICKER, "date": _SESSION}
        | dict.fromkeys(("open", "high", "low", "close"), Decimal(1))
        | {"volume": Decimal(1)}
    )
    try:
        warehouse.create(table)
        warehouse.stage(staged, pa.Table.from_pylist([row], schema=arrow_schema(STAGED_COLUMNS)))
        warehouse.replace(table, publish_query(staged, [_SESSION]), [_TICKER], [_SESSION])
    finally:
        warehouse.drop(staged)
        warehouse.drop(table)
    return f"{warehouse.full_name(table)} was created, written and dropped"


def _source(open_source: Callable[[], Source]) -> Iterator[Finding]:
    opened: list[Source] = []

    def connect() -> str:
        opened.append(open_source())
        return opened[0].name

    yield (first := _look("source", connect))
    if first.error is None:
        yield from (_look(name, at) for name, at in opened[0].looks().items())
