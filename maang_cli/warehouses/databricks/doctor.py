"""What `maang doctor` tries on Databricks besides a scratch table: what no test without a real account can prove."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa

from maang_cli.errors import WarehouseDenied
from maang_cli.schemas import arrow_schema
from maang_cli.tables import Column, scratch
from maang_cli.warehouses.base import Query, Read
from maang_cli.warehouses.databricks.errors import GateRaised
from maang_cli.warehouses.databricks.sql import Replace

if TYPE_CHECKING:
    from maang_cli.warehouses.databricks.warehouse import DatabricksWarehouse

_NO_SCHEMA = "the schema does not exist yet, maang init-tables creates it"
_LOADED = (Column("ticker", "STRING", ""), Column("closes", "ARRAY<DECIMAL(10,2)>", ""))
_MERGED = (
    Column("ticker", "STRING", ""),
    Column("date", "DATE", ""),
    Column("volume", "BIGINT", ""),
    Column("stamp", "TIMESTAMP", ""),
)
_SESSION = date(2025, 10, 14)


def try_volume(warehouse: DatabricksWarehouse) -> str:
    """Upload a file, load it into a table, remove it."""
    if warehouse.volume is None:
        return f"not tried: MAANG_VOLUME is not set; loads of more than {warehouse.max_staged_rows} rows need it"
    table = scratch(_LOADED)
    rows = pa.Table.from_pylist([{"ticker": "SCRATCH", "closes": [Decimal("1.25")]}], schema=arrow_schema(_LOADED))
    has_schema = warehouse.has_schema()
    with warehouse.volume.file(table.name, _LOADED, rows) as file:
        if not has_schema:
            warehouse.connection.run(f"SELECT count(*) FROM {file}")
            return f"a file was uploaded to {warehouse.volume.name}, read and removed; not loaded: {_NO_SCHEMA}"
        try:
            warehouse.stage_from(table, file)
            loaded = warehouse.query(Query("SELECT ticker, closes FROM {table}", {"table": Read(table)})).to_pylist()
        finally:
            warehouse.drop(table)
    if loaded != rows.to_pylist():
        raise WarehouseDenied(f"{warehouse.full_name(table)} was loaded with other rows: {loaded}", hint="report this")
    return f"a file was uploaded to {warehouse.volume.name}, loaded into a table and removed"


def try_gate(warehouse: DatabricksWarehouse) -> str:
    """Send one MERGE whose gate raises."""
    if not warehouse.has_schema():
        return f"not tried: {_NO_SCHEMA}"
    table = scratch(_MERGED, "stamp")
    rows = Query(f"SELECT ticker, DATE '{_SESSION}' AS date, CAST(1 AS BIGINT) AS volume FROM {{tickers}}", tickers=("SCRATCH",))
    refused = Query("SELECT ticker FROM {tickers}", tickers=rows.tickers)
    try:
        warehouse.create(table)
        merge = Replace(table, warehouse.quoted(table), {}, rows, refused, (_SESSION,)).merge(deletes=True)
        try:
            warehouse.connection.run(merge, expect=(GateRaised,))
        except GateRaised:
            pass
        else:
            raise WarehouseDenied("a MERGE whose gate refuses its rows did not fail", hint="report this; publish nothing")
        left = warehouse.query(Query("SELECT count(*) AS rows FROM {table}", {"table": Read(table)})).to_pylist()
    finally:
        warehouse.drop(table)
    if left != [{"rows": 0}]:
        raise WarehouseDenied("a MERGE whose gate refuses its rows stored them", hint="report this; publish nothing")
    return "a MERGE whose gate refuses its rows failed, and stored nothing"
