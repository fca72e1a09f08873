"""What many sessions cost, as ratios, all measured in one run on one local server.

    uv run benchmarks/many.py            about an hour on 2 cores
    uv run benchmarks/many.py --quick    a few minutes: smaller, each part once; figures that mean little

Every run is a process of its own. "work" is what it does once it has imported what it needs, in seconds of wall time; "cpu" is
the processor time of that, which says more on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from maang_cli import sessions

SERVER = Path(__file__).with_name("bars_server.py")
DAYS = sessions.between(date(2015, 1, 1), date(2025, 12, 31))
KEY = "benchmark"


@dataclass(frozen=True)
class Cost:
    work: float
    cpu: float
    peak_mb: float
    result: dict[str, Any]


def worker(argv: list[str]) -> None:
    """Runs one command in this process, its imports done before; prints what it cost."""
    import contextlib
    import io

    from maang_cli import backfill, cli, pipeline, render, status  # noqa: F401 - imported before the clock starts
    from maang_cli.sources import polygon  # noqa: F401
    from maang_cli.warehouses import local  # noqa: F401

    sessions.is_session(DAYS[0])
    out = io.StringIO()
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(out):
        code = cli.main([*argv, "--json"])
    spent = {"work": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(spent | {"peak_mb": peak, "code": int(code), "result": json.loads(out.getvalue() or "{}")}))


def floor(folder: Path, url: str, days: tuple[date, ...]) -> None:
    """Fetch, decode and one Parquet write of the same rows, by hand."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import urllib3

    from maang_cli.sources.answers import Reader

    pool = urllib3.PoolManager()
    reader = Reader("", lambda text, _length: text)
    names = frozenset(f"T{number:05}" for number in range(11_000))
    wall, cpu = time.perf_counter(), time.process_time()
    tables = [
        reader.grouped(pool.request("GET", f"{url}/v2/aggs/grouped/locale/us/market/stocks/{day}").data, day, names).rows
        for day in days
    ]
    pq.write_table(pa.concat_tables(tables), folder / "bars.parquet", compression="zstd")
    print(
        json.dumps({"work": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_mb": 0, "code": 0, "result": {}})
    )


class Bench:
    def __init__(self, folder: Path, url: str, times: int) -> None:
        self.folder, self.url, self.times = folder, url, times

    def run(self, home: str, *argv: str, revision: int = 0) -> Cost:
        env = os.environ | {
            "MAANG_HOME": str(self.folder / home),
            "MAANG_POLYGON_URL": self.url + (f"/r{revision}" if revision else ""),
            "POLYGON_TOKEN": KEY,
        }
        return self._cost([sys.executable, __file__, "--worker", *argv], env)

    def floor(self, days: tuple[date, ...]) -> Cost:
        argv = [sys.executable, __file__, "--floor", str(self.folder), self.url, *map(str, days)]
        return self._cost(argv, dict(os.environ))

    def _cost(self, argv: list[str], env: dict[str, str]) -> Cost:
        done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["code"] == 0, found
        return Cost(found["work"], found["cpu"], found["peak_mb"], found["result"])

    def bytes(self, home: str) -> int:
        return sum(path.stat().st_size for path in (self.folder / home).rglob("*") if path.is_file())


def line(what: str, costs: list[Cost], note: str = "") -> None:
    work, cpu = median(cost.work for cost in costs), median(cost.cpu for cost in costs)
    peak = max(cost.peak_mb for cost in costs)
    print(f"| {what} | {work:.2f} | {cpu:.2f} | {peak:.0f} | {note} |", flush=True)


def tickers(number: int) -> str:
    return ",".join(f"T{n:05}" for n in range(number))


def wide(bench: Bench, names: int, days: tuple[date, ...]) -> None:
    ends = ("--from", str(days[0]), "--to", str(days[-1]))
    (bench.folder / "wide.txt").write_text(tickers(names).replace(",", "\n"))
    universe = ("--tickers", f"@{bench.folder / 'wide.txt'}")
    ours, by_hand = [], []
    for number in range(bench.times):
        by_hand.append(bench.floor(days))
        ours.append(bench.run(f"wide{number}", "backfill", *ends, *universe))
    ratio = median(cost.cpu for cost in ours) / median(cost.cpu for cost in by_hand)
    line(f"floor: {len(days)} sessions x 11,000, fetch, decode, one Parquet file", by_hand)
    line(f"backfill {len(days)} sessions x {names:,} tickers", ours, f"{ratio:.1f}x the floor (cpu)")
    middle = ("--date", str(days[len(days) // 2]))
    revised = [bench.run("wide0", "run-day", *middle, *universe, revision=n + 1) for n in range(bench.times)]
    few = [bench.run("wide0", "run-day", *middle, "--tickers", tickers(5), revision=n + 11) for n in range(bench.times)]
    more = median(cost.work for cost in revised) - median(cost.work for cost in few)
    line("replace one 5-ticker day in mid-range", few)
    line(f"replace one {names:,}-ticker day in mid-range", revised, f"{more:+.2f} s over a 5-ticker day")


def narrow(bench: Bench, days: tuple[date, ...]) -> None:
    ends = ("--from", str(days[0]), "--to", str(days[-1]), "--tickers", tickers(5))
    costs = [bench.run(f"narrow{n}", "backfill", *ends) for n in range(bench.times)]
    size = bench.bytes("narrow0") / 1e6
    line(f"backfill {len(days)} sessions x 5 tickers", costs, f"{size:.1f} MB, {costs[0].result['calls']} calls")


def newest(bench: Bench, early: int, late: int) -> None:
    """Each day in a commit of its own."""
    costs: list[Cost] = []
    written: list[int] = []
    for day in DAYS[:late]:
        before = set((bench.folder / "days").rglob("metadata/*"))
        costs.append(bench.run("days", "run-day", "--date", str(day), "--tickers", tickers(5)))
        fresh = set((bench.folder / "days").rglob("metadata/*")) - before
        written.append(sum(path.stat().st_size for path in fresh))
    span = min(5, early)
    first, last = costs[early - span : early], costs[-span:]
    ratio = median(c.work for c in last) / median(c.work for c in first)
    line(f"run-day number {early}", first, f"{median(written[early - span : early]):,.0f} bytes of metadata")
    line(f"run-day number {late}", last, f"{ratio:.2f}x; {median(written[-span:]):,.0f} bytes of metadata")


def deep(bench: Bench, days: tuple[date, ...], names: int) -> None:
    for part in (len(days) // 2, len(days)):
        ends = ("--from", str(days[0]), "--to", str(days[part - 1]), "--tickers", tickers(names))
        cost = bench.run(f"deep{part}", "backfill", *ends, "--yes")
        line(f"backfill {part} sessions x {names} tickers", [cost], f"{1e6 * cost.cpu / (part * names):.1f} µs of cpu a row")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", default=["wide", "narrow", "newest", "deep"])
    chosen = parser.parse_args()
    quick = chosen.quick
    with tempfile.TemporaryDirectory() as name, subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        bench = Bench(Path(name), server.stdout.readline().decode().strip(), 1 if quick else 5)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median of {bench.times}\n")
        print("| what | work, s | cpu, s | peak, MB | |\n|---|---|---|---|---|")
        try:
            if "wide" in chosen.only:
                wide(bench, 11_000, DAYS[:20])
            if "narrow" in chosen.only:
                narrow(bench, DAYS[:1000])
            if "deep" in chosen.only:
                deep(bench, DAYS[: 500 if quick else 2500], 500)
            if "newest" in chosen.only:
                newest(bench, 5 if quick else 50, 10 if quick else 2500)
        finally:
            server.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2:])
    elif sys.argv[1:2] == ["--floor"]:
        floor(Path(sys.argv[2]), sys.argv[3], tuple(map(date.fromisoformat, sys.argv[4:])))
    else:
        main()
