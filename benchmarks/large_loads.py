"""What large loads cost, as ratios against peers. All figures come from one run on one local server. Prints a Markdown table.

    uv run benchmarks/large_loads.py                   about an hour on 2 cores; run nothing else meanwhile
    uv run benchmarks/large_loads.py --quick           a few minutes: smaller parts, once each, to test this program
    uv run benchmarks/large_loads.py --only wide deep  only these parts
    uv run benchmarks/large_loads.py --no-peers        install nothing

wide     20 sessions x 11,000 tickers into an empty warehouse, against `ingestr` and `dlt`, which only load, and against
         `minimal_load.py`. Then revised bars replace one day in mid-range.
narrow   1,000 sessions x 5 tickers into an empty warehouse.
deep     10 years x 500 tickers, and half of that.
growth   `run-day` for the newest day of 2,500, one commit per day and table, against day 50: see `daily_run_local.py`.
startup  What a command costs before its work: see `daily_run_local.py`.

Each run is a process of its own that has imported everything and cached nothing, so that only its work is measured. Runs that are
compared take turns. The server makes each answer before the clock starts. This program installs the newest `dlt` and a fixed
version of `ingestr` into temporary virtual environments.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import daily_run_local
import minimal_load
import pyarrow.parquet as pq
from run_cost import FORKS, PRELOADED, Cost, clean_environment, forked, interleaved, maang, machine, medians

from maang_cli import sessions

PARTS = ("wide", "narrow", "deep", "growth", "startup")
FIRST_DAY, LAST_DAY = date(2015, 1, 2), date(2024, 12, 31)
DAYS = tuple(map(str, sessions.between(FIRST_DAY, LAST_DAY)))
MARKET = 11_000
FEW = 5
INGESTR = "ingestr==1.1.22"
DLT = ("dlt[duckdb,parquet]", "requests")
PEER_ENVIRONMENT = {"DISABLE_TELEMETRY": "true", "INGESTR_DISABLE_TELEMETRY": "true"}
IMPORTED = ("maang_cli.backfill", "maang_cli.sources.polygon.source")
"""What the commands here import in addition to `run-day --source sample`."""
MINIMAL = {"python": "the minimal load", "arrow": "that with Arrow"}
COLUMNS = "ticker:string,t:bigint,v:decimal(30,6),n:bigint," + ",".join(f"{name}:decimal(18,6)" for name in ("vw", *"ochl"))
"""The columns, declared for ingestr: if it has to infer them, it takes twice as long."""


@dataclass(frozen=True)
class Plan:
    repetitions: int
    wide: int
    """Sessions of the whole market."""
    narrow: int
    """Sessions of 5 tickers."""
    deep: tuple[int, int]
    """Sessions and tickers."""
    growth: daily_run_local.Plan
    startup: daily_run_local.Plan


FULL = Plan(
    repetitions=5,
    wide=20,
    narrow=1000,
    deep=(2500, 500),
    growth=replace(daily_run_local.FULL, days=2500, turns=20, young=50, sized=(50, 150, 1000)),
    startup=daily_run_local.FULL,
)
QUICK = Plan(
    repetitions=1,
    wide=3,
    narrow=60,
    deep=(200, 50),
    growth=replace(daily_run_local.QUICK, days=30, turns=2, young=5, sized=(5, 15)),
    startup=daily_run_local.QUICK,
)


class Row(NamedTuple):
    """A row of the table."""

    what: str
    cost: Cost | None
    found: str = ""
    """Ratios and sizes."""
    goal: str = ""


class Server:
    """The running `fake_vendor.py`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def warm(self, *paths: str) -> None:
        """Have the server make these answers before they are measured."""
        for path in paths:
            with urllib.request.urlopen(self.url + path) as answer:
                answer.read()

    def grouped(self, days: Sequence[str], revision: int = 0) -> str:
        revised = f"/r{revision}" if revision else ""
        self.warm(*(f"{revised}/v2/aggs/grouped/locale/us/market/stocks/{day}" for day in days))
        return self.url + revised

    def ranges(self, names: Sequence[str], days: Sequence[str]) -> str:
        self.warm(*(f"/v2/aggs/ticker/{name}/range/1/day/{days[0]}/{days[-1]}" for name in names))
        return self.url

    def lines(self, tickers: int, days: Sequence[str]) -> str:
        path = f"/lines/{tickers}/{days[0]}/{days[-1]}.jsonl"
        self.warm(path)
        return self.url + path


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    program = Path(__file__).with_name("fake_vendor.py")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process.stdout.readline().strip())
        finally:
            process.terminate()


@dataclass(frozen=True)
class Peer:
    """A program in a virtual environment of its own."""

    version: str
    bin: Path


def install(name: str, *requirements: str) -> Peer | None:
    """Install from the package index that uv or pip is configured for. If that fails, print why and return None."""
    place = Path("peers", name).absolute()
    python = place / "bin" / "python"
    if uv := os.environ.get("UV") or shutil.which("uv"):
        steps = [
            [uv, "venv", "-q", "--python", sys.executable, str(place)],
            [uv, "pip", "install", "-q", "--python", str(python)],
        ]
    else:
        steps = [[sys.executable, "-m", "venv", str(place)], [str(python), "-m", "pip", "install", "-q"]]
    steps[1] += requirements
    steps.append([str(python), "-c", f"from importlib.metadata import version; print(version({name!r}))"])
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            print(
                f"Without {name}: `{shlex.join(step)}` exited with {done.returncode}:\n\n    {done.stderr.strip()}\n", flush=True
            )
            return None
    return Peer(done.stdout.strip(), place / "bin")


def ingestr(peer: Peer, url: str, rows: int) -> Cost:
    """Load one document of JSON lines into an Iceberg table. The whole process is measured.

    Raises:
        CalledProcessError: it failed; its output is on stderr.
    """
    home = Path("ingestr").absolute()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    argv = [
        *(str(peer.bin / "ingestr"), "ingest", "--yes", "--progress", "log"),
        *("--source-uri", url, "--source-table", "bars", "--no-inference", "--columns", COLUMNS),
        *("--dest-uri", f"iceberg+sqlite://{home}/catalog.db?warehouse_path={home}/tables", "--dest-table", "market.bars"),
    ]
    started = time.perf_counter()
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=os.environ | PEER_ENVIRONMENT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        sys.stderr.write(log.read_text())
        raise subprocess.CalledProcessError(process.returncode, argv)
    loaded = sum(pq.read_metadata(path).num_rows for path in home.rglob("*.parquet"))
    assert loaded == rows, (loaded, rows)
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


def dlt(peer: Peer, url: str, days: Sequence[str]) -> Cost:
    home = Path("dlt").absolute()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    argv = [str(peer.bin / "python"), str(Path(__file__).with_name("load_with_dlt.py")), url, str(home), *days]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, cwd=home)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == MARKET * len(days), found
    return Cost(found["wall"], found["cpu"], found["peak"])


def minus(cost: Cost, startup: Cost) -> Cost:
    return replace(cost, wall=cost.wall - startup.wall, cpu=cost.cpu - startup.cpu)


def run(home: str, url: str, *argv: str) -> Cost:
    """Run a command on the server's bars, in a process of its own."""
    flags = ("--home", str(Path(home).absolute()), "--warehouse", "local", "--json")
    return forked(maang, (*argv, *flags), {"MAANG_POLYGON_URL": url, "POLYGON_TOKEN": "benchmark"})


def run_in_empty(home: str, url: str, *argv: str) -> Cost:
    """Run a command as above, in an empty warehouse."""
    shutil.rmtree(home, ignore_errors=True)
    return run(home, url, *argv)


def universe(number: int) -> tuple[list[str], tuple[str, str]]:
    """This many tickers, and the flag that requests them."""
    names = [f"T{n:05}" for n in range(number)]
    Path(f"{number}.txt").write_text("\n".join(names))
    return names, ("--tickers", f"@{Path(f'{number}.txt').absolute()}")


def backfill(days: Sequence[str], flag: Sequence[str]) -> tuple[str, ...]:
    return ("backfill", "--from", days[0], "--to", days[-1], "--yes", *flag)


def wide(plan: Plan, server: Server, peers: Mapping[str, Peer]) -> Iterator[Row]:
    days = DAYS[: plan.wide]
    _, everything = universe(MARKET)
    url, size = server.grouped(days), f"{len(days)} sessions x {MARKET:,} tickers"
    dates = [date.fromisoformat(day) for day in days]
    runs: dict[str, Callable[[], Cost]] = {
        "fetch": partial(forked, minimal_load.fetch, url, dates),
        "python": partial(
            forked, minimal_load.load, minimal_load.decode_with_python, url, dates, str(Path("python.parquet").absolute())
        ),
        "arrow": partial(
            forked, minimal_load.load, minimal_load.decode_with_arrow, url, dates, str(Path("arrow.parquet").absolute())
        ),
        "maang": lambda: run_in_empty("wide", url, *backfill(days, everything)),
    }
    if "ingestr" in peers:
        runs["ingestr"] = partial(ingestr, peers["ingestr"], server.lines(MARKET, days), MARKET * len(days))
        runs["idle"] = partial(ingestr, peers["ingestr"], server.lines(1, days[:1]), 1)
    if "dlt" in peers:
        runs["dlt"] = partial(dlt, peers["dlt"], url, days)
    costs = interleaved(runs, plan.repetitions)
    assert pq.read_table("arrow.parquet").equals(pq.read_table("python.parquet")), "the two minimal loads differ"
    yield Row(f"{size}: only fetch", costs["fetch"])
    yield Row("the minimal load, with `json` and `Decimal`: fetch, decode, write one Parquet file", costs["python"])
    yield Row("the minimal load with Arrow's JSON reader, the fastest that we know", costs["arrow"])
    found = [f"{_times(costs['maang'], costs[name])} {word}" for name, word in MINIMAL.items()]
    goals = ["≤ 2.5x the minimal load"]
    if "dlt" in costs:
        yield Row(f"dlt {peers['dlt'].version}, load only", costs["dlt"], _times(costs["maang"], costs["dlt"], "maang takes "))
    if "ingestr" in costs:
        alone = minus(costs["ingestr"], costs["idle"])
        startup = f"without its startup of {costs['idle'].wall:.2f} s"
        yield Row(f"ingestr {peers['ingestr'].version}, load only", alone, startup)
        found.insert(0, f"{_times(costs['maang'], alone)} ingestr")
        goals.insert(0, "≤ 1.5x ingestr")
    yield Row(f"**maang backfill {size}**", costs["maang"], "; ".join(found), "; ".join(goals))
    yield from replaced(plan, server, days, everything)


def replaced(plan: Plan, server: Server, days: Sequence[str], everything: Sequence[str]) -> Iterator[Row]:
    """Replace one day in mid-range by bars that are revised each time: of 5 tickers, and of the whole market."""
    _, few = universe(FEW)
    run("few", server.url, *backfill(days, few))
    middle, revision = days[len(days) // 2], count(1)
    urls = [server.grouped([middle], next(revision)) for _ in range(3 * plan.repetitions)]
    day = ("run-day", "--date", middle)
    runs = {
        "few": lambda: run("few", urls.pop(), *day, *few),
        "few of many": lambda: run("wide", urls.pop(), *day, *few),
        "many": lambda: run("wide", urls.pop(), *day, *everything),
    }
    costs = interleaved(runs, plan.repetitions)
    yield Row(f"replace a day in mid-range: {FEW} tickers in a warehouse of {FEW}", costs["few"])
    yield Row(f"the same: {FEW} tickers in a warehouse of {MARKET:,}", costs["few of many"])
    more = costs["many"].wall - costs["few"].wall
    cpu = costs["many"].cpu - costs["few"].cpu
    yield Row(
        f"**the same: {MARKET:,} tickers, and the windows of {min(7, len(days) - len(days) // 2)} sessions**",
        costs["many"],
        f"{more:+.2f} s (CPU {cpu:+.2f}) compared with {FEW} tickers",
        "≤ +0.50 s",
    )


def narrow(plan: Plan, server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    days = DAYS[: plan.narrow]
    names, few = universe(FEW)
    url = server.ranges(names, days)
    cost = medians([run_in_empty("narrow", url, *backfill(days, few)) for _ in range(plan.repetitions)])
    size = sum(path.stat().st_size for path in Path("narrow").rglob("*") if path.is_file()) / 1e6
    found = f"{size:.1f} MB of files, {json.loads(cost.stdout)['result']['calls']} calls"
    yield Row(
        f"**maang backfill {len(days):,} sessions x {FEW} tickers**", cost, found, f"≤ 8 s; ≤ 20 MB; ≤ {FEW} calls, plus paging"
    )


def deep(plan: Plan, server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    number, tickers = plan.deep
    names, flag = universe(tickers)
    lengths = (number // 2, number)

    def one(length: int) -> Cost:
        return run_in_empty("deep", server.url, *backfill(DAYS[:length], flag))

    for length in lengths:
        server.ranges(names, DAYS[:length])
    half, whole = interleaved({str(length): partial(one, length) for length in lengths}, plan.repetitions).values()
    for length, cost in zip(lengths, (half, whole), strict=True):
        rows = length * tickers
        found, goal = f"{1e6 * cost.wall / rows:.1f} µs a row (CPU {1e6 * cost.cpu / rows:.1f})", ""
        if cost is whole:
            found = f"{found}; {_times(whole, half)} for twice the rows"
            goal = "linear: 2.0x; < 1,000 MB"
        yield Row(f"**maang backfill {length:,} sessions x {tickers:,} tickers**", cost, found, goal)


def growth(plan: Plan, _server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    ages = plan.growth
    costs, sizes, written = daily_run_local.growth(ages)
    for day, size in sizes.items():
        found = f"{written[day]:,.0f} bytes of metadata per run; {size.files:,} files, {size.bytes / 1e6:.1f} MB in all"
        if day == ages.young:
            yield Row(f"maang run-day, days {day - ages.turns + 1}-{day}", costs["peer"], found)
        elif day == ages.days:
            what = f"**maang run-day, days {day - ages.turns + 1:,}-{day:,}**"
            found = f"{_times(costs['maang'], costs['peer'])} day {ages.young}; {found}"
            yield Row(what, costs["maang"], found, f"≤ 1.2x day {ages.young}; metadata flat")
        else:
            yield Row(f"maang run-day, day {day:,}", None, found)


def startup(plan: Plan, _server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    for label, costs, goal in (
        ("`maang --help`, and a bare Typer app", daily_run_local.startup(plan.startup), "≤ 1.5x"),
        (f"`maang run-day` of {FEW} tickers, and the minimal run-day", daily_run_local.whole_process(plan.startup), "≤ 1.3x"),
    ):
        ours, theirs = label.split(", and ")
        yield Row(theirs, costs["peer"])
        yield Row(f"**{ours}**, whole process", costs["maang"], f"{_times(costs['maang'], costs['peer'])} {theirs}", goal)


def _figures(cost: Cost | None) -> tuple[str, str, str]:
    if cost is None:
        return "", "", ""
    return f"{cost.wall:.2f}", f"{cost.cpu:.2f}", f"{cost.peak:,.0f}" if cost.peak else ""


def _times(ours: Cost, theirs: Cost, before: str = "") -> str:
    return f"{before}{ours.wall / theirs.wall:.2f}x (CPU {ours.cpu / theirs.cpu:.2f}x)"


def measure(plan: Plan, parts: Sequence[str], with_peers: bool) -> None:
    FORKS.set_forkserver_preload([*PRELOADED, *IMPORTED, "daily_run_local", "minimal_load"])
    print(machine(daily_run_local.PACKAGES).replace("\n", "  \n"))
    began, load = time.perf_counter(), os.getloadavg()[0]
    wanted = {"ingestr": (INGESTR,), "dlt": DLT} if with_peers and "wide" in parts else {}
    peers = {name: peer for name, requirements in wanted.items() if (peer := install(name, *requirements))}
    print("\n| | wall, s | CPU, s | peak, MB | | goal |\n|---|--:|--:|--:|---|---|", flush=True)
    with serving() as server:
        for part in parts:
            for row in globals()[part](plan, server, peers):
                print(f"| {row.what} | {' | '.join(_figures(row.cost))} | {row.found} | {row.goal} |", flush=True)
    repetitions = f"{plan.repetitions} (growth: {plan.growth.turns}, startup: {plan.startup.repetitions})"
    print(f"\nRepetitions: {repetitions}. Times are medians, memory is the maximum.")
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.0f} minutes in all. Load average {load:.1f} before, {os.getloadavg()[0]:.1f} after.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What large loads cost, as ratios against peers.")
    parser.add_argument("--quick", action="store_true", help="run smaller parts, once each, to test this program")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="run only these parts")
    parser.add_argument("--times", type=int, help="repetitions of wide, narrow and deep")
    parser.add_argument("--no-peers", action="store_true", help="leave out ingestr and dlt, which would be installed")
    chosen = parser.parse_args()
    plan = QUICK if chosen.quick else FULL
    if chosen.times:
        plan = replace(plan, repetitions=chosen.times)
    clean_environment()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        measure(plan, chosen.only, not chosen.no_peers)
