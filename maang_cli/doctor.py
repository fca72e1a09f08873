"""`maang doctor`: checks everything that a run needs. It changes nothing but a scratch table of its own, which it drops."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

from maang_cli.errors import MaangError
from maang_cli.pipeline import publish_query
from maang_cli.schemas import arrow_schema
from maang_cli.sources.base import Source
from maang_cli.tables import PRODUCTION, STAGING_COLUMNS, Table
from maang_cli.warehouses.base import Warehouse

if TYPE_CHECKING:
    Checks = Mapping[str, Callable[[], str]]

_TICKER, _SESSION = "SCRATCH", date(2025, 10, 14)


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
        return opened.describe(), {**opened.doctor_checks(), "merge": lambda: _merge(opened)}

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


def _merge(warehouse: Warehouse) -> str:
    """Create, stage, replace and drop, as a day does."""
    if not warehouse.has_schema():
        return "not tried: the schema does not exist yet, maang init-tables creates it"
    import pyarrow as pa

    mark = uuid.uuid4().hex[:8]
    table = Table(f"maang_doctor_{mark}", PRODUCTION.columns, PRODUCTION.stamp)
    staged = Table(f"{table.name}_in", STAGING_COLUMNS)
    row = {"session": _SESSION, "ticker": _TICKER, "date": _SESSION}
    row |= dict.fromkeys(("open", "high", "low", "close", "volume"), Decimal(1))
    try:
        warehouse.create(table)
        warehouse.stage(staged, pa.Table.from_pylist([row], schema=arrow_schema(STAGING_COLUMNS)))
        warehouse.replace(table, publish_query(staged, [_TICKER], [_SESSION]), [_SESSION])
    finally:
        warehouse.drop(staged)
        warehouse.drop(table)
    return f"{warehouse.full_name(table)} was created, written and dropped"
