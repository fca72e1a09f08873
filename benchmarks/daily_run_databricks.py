"""What `maang run-day` costs on a Databricks SQL warehouse: statements, bytes, and time against a bare connector.

    uv run --group dev benchmarks/daily_run_databricks.py            about 10 minutes on 2 cores; needs Java 17
    uv run --group dev benchmarks/daily_run_databricks.py --quick    half of that: 2 repetitions, to test this program

The warehouse is the tests' stand-in: Spark and Iceberg on this machine, behind the connector's own protocol. A rehearsal records
the statements of each day. Then maang and a bare connector, which sends the same statements, take turns: the same days, each on a
catalog of its own, one connection per day. This shows what maang adds to the statements, not how long a real warehouse takes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from run_cost import Cost, clean_environment, interleaved, machine

from maang_cli import sessions
from maang_cli.cli.process import main

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the stand-in, which is a part of the tests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.polygon_server import PolygonServer
    from tests.warehouses.databricks.server import StandIn
    from tests.warehouses.databricks.spark import Spark

PACKAGES = ("maang-cli", "databricks-sql-connector", "pyspark", "pyarrow", "pandas")
FIRST, LAST = date(2025, 7, 7), date(2025, 12, 31)


@dataclass(frozen=True)
class Day:
    session: date
    statements: tuple[str, ...]
    uploads: tuple[bytes, ...]
    sent: int
    """Bytes of all HTTP bodies sent to the warehouse."""


def symbols(number: int) -> list[str]:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [letters[n // 676 % 26] + letters[n // 26 % 26] + letters[n % 26] for n in range(number)]


@contextlib.contextmanager
def connected_to(server: StandIn) -> Iterator[None]:
    os.environ.update(server.environment)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def by_maang(server: StandIn, day: date) -> Cost:
    with connected_to(server):
        started = time.perf_counter()
        code = main(["run-day", "--date", str(day)])
        cost = Cost(time.perf_counter() - started, 0)
    if code:
        raise RuntimeError(f"run-day of {day} exited with {code}")
    return cost


def by_connector(server: StandIn, day: Day) -> Cost:
    from databricks import sql

    from tests.warehouses.databricks.server import HTTP_PATH, TOKEN

    uploads = iter(day.uploads)
    started = time.perf_counter()
    with (
        sql.connect(
            server_hostname="127.0.0.1",
            http_path=HTTP_PATH,
            access_token=TOKEN,
            enable_telemetry=False,
            use_cloud_fetch=False,
            _connection_uri=server.url + HTTP_PATH,
        ) as connection,
        connection.cursor() as cursor,
    ):
        for statement in day.statements:
            stream = io.BytesIO(next(uploads)) if statement.startswith("PUT") else None
            cursor.execute(statement, input_stream=stream).fetchall_arrow()
    return Cost(time.perf_counter() - started, 0)


def rehearse(server: StandIn, days: Sequence[date]) -> list[Day]:
    """What maang sends on each of these days. In an empty catalog the first day creates the tables."""
    done = []
    for day in days:
        server.statements.clear()
        server.uploads.clear()
        before = server.bytes_received
        by_maang(server, day)
        done.append(Day(day, tuple(server.statements), tuple(server.uploads), server.bytes_received - before))
    return done


def compare(spark: Spark, polygon: PolygonServer, folder: Path, tickers: list[str], repetitions: int) -> None:
    from tests.polygon_server import row
    from tests.warehouses.databricks.server import StandIn

    (folder / "tickers.txt").write_text("\n".join(tickers))
    os.environ["MAANG_TICKERS"] = f"@{folder / 'tickers.txt'}"
    days = sessions.between(FIRST, LAST)[: repetitions + 3]
    for day in days:
        polygon.days[day] = [row(ticker, day, v=1000 + n) for n, ticker in enumerate(tickers)]
    with (
        StandIn(spark.catalog(), folder / "rehearsal") as rehearsal,
        StandIn(spark.catalog(), folder / "maang") as ours,
        StandIn(spark.catalog(), folder / "connector") as theirs,
    ):
        recorded = rehearse(rehearsal, days)
        first, again = recorded[0], rehearse(rehearsal, days[-1:])[0]
        # SHOW .. fails if the schema does not exist. maang expects that; the bare connector would stop.
        theirs.catalog.run("CREATE SCHEMA maang")
        for past in recorded[:3]:
            by_maang(ours, past.session)
            by_connector(theirs, past)
        remaining = {"maang": iter(recorded[3:]), "peer": iter(recorded[3:])}
        runs: dict[str, Callable[[], Cost]] = {
            "maang": lambda: by_maang(ours, next(remaining["maang"]).session),
            "peer": lambda: by_connector(theirs, next(remaining["peer"])),
        }
        cost = interleaved(runs, repetitions)
    print(f"\n{len(tickers):,} tickers{'':>14}{'statements':>12}{'bytes of SQL':>14}{'bytes of files':>16}")
    for label, each in (("the first day", first), ("a usual day", recorded[-1]), ("the same day again", again)):
        print(f"{label:<27}{len(each.statements):>10}{each.sent:>14,}{sum(map(len, each.uploads)):>16,}")
    ratio = cost["maang"].wall / cost["peer"].wall
    print(f"a usual day: maang {cost['maang'].wall:.2f} s, connector {cost['peer'].wall:.2f} s, ratio {ratio:.2f} (goal 1.2)")


def measure(repetitions: int) -> None:
    from tests.polygon_server import KEY, PolygonServer
    from tests.warehouses.databricks.spark import Spark

    clean_environment()
    print(machine(PACKAGES), flush=True)
    with tempfile.TemporaryDirectory() as name, PolygonServer() as polygon:
        folder = Path(name)
        os.environ.update(MAANG_HOME=str(folder / "home"), POLYGON_TOKEN=KEY, MAANG_POLYGON_URL=polygon.url)
        spark = Spark(folder / "spark")
        for number in (5, 11_000):
            (folder / str(number)).mkdir()
            compare(spark, polygon, folder / str(number), symbols(number), repetitions)
        spark.stop()
    print(f"\nmedians of {repetitions} days, in turns")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 repetitions, to test this program")
    measure(2 if parser.parse_args().quick else 9)
