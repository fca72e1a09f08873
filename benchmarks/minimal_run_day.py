"""The minimal run-day: only the imports, the three commits and the drop that `maang run-day --source sample` needs.

A peer in `daily_run_local.py`. It has no audit and no real windows, and it reads no rows back. A second run would append the day
again.
"""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import duckdb
import pyarrow as pa
import typer
from pydantic_settings import BaseSettings
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table
from rich.console import Console

PRICE, VOLUME, STAMP = pa.decimal128(10, 2), pa.int64(), pa.timestamp("us", tz="UTC")
PRICES = ("open", "high", "low", "close")
BARS = pa.schema(
    [
        ("ticker", pa.string()),
        ("date", pa.date32()),
        *((name, PRICE) for name in PRICES),
        ("volume", VOLUME),
        ("vwap", PRICE),
        ("transactions", pa.int32()),
        ("insertion_timestamp", STAMP),
    ]
)
LAST_7 = ", ".join(f"[{name}] AS last_7_days_{name}" for name in (*PRICES, "volume"))
WINDOWS = f"""SELECT ticker, date, {LAST_7}, CAST(volume AS DECIMAL(15,2)) AS avg_7_day_volume,
CAST(NULL AS DECIMAL(10,4)) AS volatility_7_day, insertion_timestamp AS updated_at FROM bars"""


class Settings(BaseSettings):
    tickers: str = "META,AAPL,AMZN,NFLX,GOOGL"


def main(home: Path, day: Annotated[str, typer.Option("--date")]) -> None:
    session = date.fromisoformat(day)
    if session.weekday() >= 5:
        raise typer.Exit(99)
    catalog = SqlCatalog("minimal", uri=f"sqlite:///{home}/catalog.db", warehouse=f"file://{home}")
    catalog.create_namespace_if_not_exists("minimal")

    row = {"date": session, **dict.fromkeys((*PRICES, "vwap"), Decimal("10.25")), "volume": 1_000_000, "transactions": 10_000}
    bars = pa.Table.from_pylist([{"ticker": ticker, **row} for ticker in Settings().tickers.split(",")], schema=BARS)
    staging = f"minimal.staging_{session:%Y%m%d}"
    with catalog.create_table_transaction(staging, BARS) as creation:
        creation.append(bars)

    windows = duckdb.connect().sql(WINDOWS).to_arrow_table()  # DuckDB reads the local variable `bars`
    partitioned(catalog, "minimal.production", bars).append(bars)
    partitioned(catalog, "minimal.cumulative", windows).append(windows)

    catalog.purge_table(staging)
    Console().print(f"{bars.num_rows} bars of {session}")


def partitioned(catalog: SqlCatalog, name: str, rows: pa.Table) -> Table:
    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        table = catalog.create_table(name, rows.schema)
        with table.update_spec() as update:
            update.add_identity("date")
        return table


if __name__ == "__main__":
    typer.run(main)
