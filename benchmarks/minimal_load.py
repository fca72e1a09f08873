"""The minimal load: fetch, decode, and write one Parquet file, without a check, a table or a window.

A peer in `large_loads.py`, with two decoders. Both round prices half up to cents, exactly, as maang does.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import urllib3
from pyarrow.json import ParseOptions, ReadOptions, read_json
from run_cost import Clock, Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONNECTIONS = 4
PRICES = {"open": "o", "high": "h", "low": "l", "close": "c", "vwap": "vw"}
WHOLE = {"volume": "v", "transactions": "n"}
PRICE, COUNT = pa.decimal128(10, 2), pa.int64()
EXACT = pa.decimal128(30, 12)
"""Numbers as the answer has them, before they are rounded."""
ANSWER = pa.schema(
    [("results", pa.list_(pa.struct([("T", pa.string()), *((key, EXACT) for key in (*PRICES.values(), *WHOLE.values()))])))]
)


def decode_with_python(day: date, body: bytes) -> pa.Table:
    """With the standard library's `json` and `Decimal`."""
    rows = json.loads(body, parse_float=Decimal)["results"]

    def column(key: str, unit: Decimal) -> list[Decimal]:
        return [Decimal(row[key]).quantize(unit, ROUND_HALF_UP) for row in rows]

    cents, one = Decimal("0.01"), Decimal(1)
    columns = {name: pa.array(column(key, cents), PRICE) for name, key in PRICES.items()}
    columns |= {name: pa.array(map(int, column(key, one)), COUNT) for name, key in WHOLE.items()}
    return _table(day, pa.array([row["T"] for row in rows]), columns)


def decode_with_arrow(day: date, body: bytes) -> pa.Table:
    """With Arrow's JSON reader."""
    answer = read_json(
        pa.BufferReader(body),
        read_options=ReadOptions(use_threads=False, block_size=len(body) + 1),
        parse_options=ParseOptions(explicit_schema=ANSWER, unexpected_field_behavior="ignore"),
    )
    rows = answer["results"].chunk(0).values

    def column(key: str, half: str, kind: pa.DataType) -> pa.Array:
        return pc.add(rows.field(key), pa.scalar(Decimal(half), EXACT)).cast(kind, safe=False)

    columns = {name: column(key, "0.005", PRICE) for name, key in PRICES.items()}
    columns |= {name: column(key, "0.5", pa.decimal128(18, 0)).cast(COUNT) for name, key in WHOLE.items()}
    return _table(day, rows.field("T"), columns)


def _table(day: date, tickers: pa.Array, columns: dict[str, pa.Array]) -> pa.Table:
    return pa.table({"ticker": tickers, "date": pa.repeat(pa.scalar(day, pa.date32()), len(tickers)), **columns})


def _fetch(pool: urllib3.PoolManager, url: str, day: date) -> bytes:
    answer = pool.request("GET", f"{url}/v2/aggs/grouped/locale/us/market/stocks/{day}?adjusted=false")
    if answer.status != 200:
        raise RuntimeError(f"{day}: HTTP {answer.status}")
    return answer.data


def fetch(url: str, days: Sequence[date]) -> Cost:
    """Only fetch, which shows how little of the time is the server's."""
    clock = Clock()
    with urllib3.PoolManager(maxsize=CONNECTIONS) as pool, ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(partial(_fetch, pool, url), days))
    return clock.stop()


def load(decode: Callable[[date, bytes], pa.Table], url: str, days: Sequence[date], path: str) -> Cost:
    """Fetch, decode, write, with as many concurrent calls as maang makes."""
    clock = Clock()
    with urllib3.PoolManager(maxsize=CONNECTIONS) as pool, ThreadPoolExecutor(CONNECTIONS) as threads:
        rows = pa.concat_tables(threads.map(lambda day: decode(day, _fetch(pool, url, day)), days))
    pq.write_table(rows, path, compression="zstd", use_dictionary=False)
    return clock.stop()
