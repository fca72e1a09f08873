"""Loads the vendor's answers into a DuckDB file with dlt: a peer in `large_loads.py`, which runs it with a Python that has dlt.

    python load_with_dlt.py URL FOLDER DAY...

Each answer goes to dlt as an Arrow table, its fastest way; as a list of dicts it takes ten times as long.
Prints one JSON document: elapsed seconds, CPU seconds, peak memory, and the number of loaded rows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import dlt
import pyarrow as pa
import requests
from run_cost import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator


def main(url: str, folder: str, days: list[str]) -> None:
    def bars() -> Iterator[pa.Table]:
        with requests.Session() as session:
            for day in days:
                answer = session.get(f"{url}/v2/aggs/grouped/locale/us/market/stocks/{day}", params={"adjusted": "false"})
                answer.raise_for_status()
                rows = pa.Table.from_pylist(answer.json()["results"]).rename_columns({"T": "ticker"})
                yield rows.append_column("date", pa.repeat(day, len(rows)))

    path = Path(folder, "bars.duckdb")
    clock = Clock()
    pipeline = dlt.pipeline(
        "bars", pipelines_dir=folder, destination=dlt.destinations.duckdb(str(path)), dataset_name="market", progress=None
    )
    pipeline.run(dlt.resource(bars, name="bars"))
    cost = clock.stop()
    with pipeline.sql_client() as client, client.execute_query("SELECT count(*) FROM bars") as found:
        rows = found.fetchall()[0][0]
    print(json.dumps({"wall": cost.wall, "cpu": cost.cpu, "peak": cost.peak, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
