"""What many sessions cost, as ratios against peers, all measured in one run on one local server. Prints a Markdown table.

    uv run benchmarks/many.py                   about an hour on 2 cores; nothing else should be running
    uv run benchmarks/many.py --quick           some minutes: each part once and smaller, figures that mean little
    uv run benchmarks/many.py --only wide deep  some of the parts: wide, narrow, deep, newest, start
    uv run benchmarks/many.py --no-peers        installs nothing

wide    20 sessions x 11,000 tickers into an empty warehouse, against `ingestr` and `dlt`, which do the load alone, and against
        the floor (`floor.py`); then one day in mid-range is replaced by revised bars.
narrow  1,000 sessions x 5 tickers into an empty warehouse.
deep    10 years x 500 tickers, and half of that.
newest  `run-day` for the newest day of 2,500, each in a commit of its own, against day 50: see `laptop.py`.
start   what a command costs before its work: see `laptop.py`.

Each run is a process of its own, which has imported everything and cached nothing; what is measured is its work. Runs that are
compared take turns. The server makes each answer before the clock starts. The peers are installed by this script, in the newest
version of `dlt` and one version of `ingestr`, into virtual environments that are thrown away with the rest.
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

import floor
import laptop
import pyarrow.parquet as pq
from timing import FORKS, PRELOADED, Cost, clean_environment, forked, interleaved, maang, machine, medians

from maang_cli import sessions

PARTS = ("wide", "narrow", "deep", "newest", "start")
FIRST_DAY, LAST_DAY = date(2015, 1, 2), date(2024, 12, 31)
DAYS = tuple(map(str, sessions.between(FIRST_DAY, LAST_DAY)))
MARKET = 11_000
FEW = 5
INGESTR = "ingestr==1.1.22"
DLT = ("dlt[duckdb,parquet]", "requests")
PEER_ENVIRONMENT = {"DISABLE_TELEMETRY": "true", "INGESTR_DISABLE_TELEMETRY": "true"}
IMPORTED = ("backfill", "settings", "sources.polygon", "status", "workspace")
"""Of maang, what its commands import besides what is preloaded for `run-day --source sample`."""
FLOORS = {"python": "the floor", "arrow": "that with Arrow"}
COLUMNS = "ticker:string,t:bigint,v:decimal(30,6),n:bigint," + ",".join(f"{name}:decimal(18,6)" for name in ("vw", *"ochl"))
"""What ingestr is told of the rows: to find it out takes it twice the time."""


@dataclass(frozen=True)
class Plan:
    repetitions: int
    wide: int
    """Sessions of the whole market."""
    narrow: int
    """Sessions of 5 tickers."""
    deep: tuple[int, int]
    """Sessions, and tickers."""
    newest: laptop.Plan
    start: laptop.Plan


FULL = Plan(
    repetitions=5,
    wide=20,
    narrow=1000,
    deep=(2500, 500),
    newest=replace(laptop.FULL, days=2500, turns=20, young=50, sized=(50, 150, 1000)),
    start=laptop.FULL,
)
QUICK = Plan(
    repetitions=1,
    wide=3,
    narrow=60,
    deep=(200, 50),
    newest=replace(laptop.QUICK, days=30, turns=2, young=5, sized=(5, 15)),
    start=laptop.QUICK,
)


class Row(NamedTuple):
    """A line of the table."""

    what: str
    cost: Cost | None
    found: str = ""
    """Ratios and sizes."""
    goal: str = ""


class Server:
    """The vendor."""

    def __init__(self, url: str) -> None:
        self.url = url

    def warm(self, *paths: str) -> None:
        """Have answers made before they are asked for."""
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
    program = Path(__file__).with_name("bars_server.py")
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
    """From the registry that this machine's installer is set up for; None, and why, when that fails."""
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
            print(f"No {name}: `{shlex.join(step)}` ended with {done.returncode}:\n\n    {done.stderr.strip()}\n", flush=True)
            return None
    return Peer(done.stdout.strip(), place / "bin")


def ingestr(peer: Peer, url: str, rows: int) -> Cost:
    """Load one document of JSON lines into an Iceberg table; the start included.

    Raises:
        CalledProcessError: it failed; what it said is on stderr.
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
    said = home / "said"
    with said.open("w") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=os.environ | PEER_ENVIRONMENT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        sys.stderr.write(said.read_text())
        raise subprocess.CalledProcessError(process.returncode, argv)
    loaded = sum(pq.read_metadata(path).num_rows for path in home.rglob("*.parquet"))
    assert loaded == rows, (loaded, rows)
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


def dlt(peer: Peer, url: str, days: Sequence[str]) -> Cost:
    home = Path("dlt").absolute()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    argv = [str(peer.bin / "python"), str(Path(__file__).with_name("dlt_load.py")), url, str(home), *days]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, cwd=home)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == MARKET * len(days), found
    return Cost(found["wall"], found["cpu"], found["peak"])


def without(cost: Cost, start: Cost) -> Cost:
    return replace(cost, wall=cost.wall - start.wall, cpu=cost.cpu - start.cpu)


def run(home: str, url: str, *argv: str) -> Cost:
    """A command on the server's bars, in a process of its own."""
    flags = ("--home", str(Path(home).absolute()), "--warehouse", "local", "--json")
    return forked(maang, (*argv, *flags), {"MAANG_POLYGON_URL": url, "POLYGON_TOKEN": "benchmark"})


def anew(home: str, url: str, *argv: str) -> Cost:
    """The same, into an empty warehouse."""
    shutil.rmtree(home, ignore_errors=True)
    return run(home, url, *argv)


def universe(number: int) -> tuple[list[str], tuple[str, str]]:
    """Tickers, and the flag that asks for them."""
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
        "fetch": partial(forked, floor.fetch, url, dates),
        "python": partial(forked, floor.load, floor.by_python, url, dates, str(Path("by_python.parquet").absolute())),
        "arrow": partial(forked, floor.load, floor.by_arrow, url, dates, str(Path("by_arrow.parquet").absolute())),
        "maang": lambda: anew("wide", url, *backfill(days, everything)),
    }
    if "ingestr" in peers:
        runs["ingestr"] = partial(ingestr, peers["ingestr"], server.lines(MARKET, days), MARKET * len(days))
        runs["idle"] = partial(ingestr, peers["ingestr"], server.lines(1, days[:1]), 1)
    if "dlt" in peers:
        runs["dlt"] = partial(dlt, peers["dlt"], url, days)
    costs = interleaved(runs, plan.repetitions)
    assert pq.read_table("by_arrow.parquet").equals(pq.read_table("by_python.parquet")), "two floors, two results"
    yield Row(f"{size}: fetch alone, by hand", costs["fetch"])
    yield Row("the floor, with `json` and `Decimal`: fetch, decode, one Parquet file", costs["python"])
    yield Row("the same with Arrow's JSON reader: the least that we know of", costs["arrow"])
    found = [f"{_times(costs['maang'], costs[name])} {word}" for name, word in FLOORS.items()]
    goals = ["≤ 2.5 the floor"]
    if "dlt" in costs:
        yield Row(f"dlt {peers['dlt'].version}, load alone", costs["dlt"], _times(costs["maang"], costs["dlt"], "maang takes "))
    if "ingestr" in costs:
        alone = without(costs["ingestr"], costs["idle"])
        start = f"without its start of {costs['idle'].wall:.2f} s"
        yield Row(f"ingestr {peers['ingestr'].version}, load alone", alone, start)
        found.insert(0, f"{_times(costs['maang'], alone)} ingestr")
        goals.insert(0, "≤ 1.5 ingestr")
    yield Row(f"**maang backfill {size}**", costs["maang"], "; ".join(found), "; ".join(goals))
    yield from replaced(plan, server, days, everything)


def replaced(plan: Plan, server: Server, days: Sequence[str], everything: Sequence[str]) -> Iterator[Row]:
    """One day in mid-range, its bars revised each time: of the whole market, and of 5 tickers in a warehouse of 5."""
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
    yield Row(f"replace a day in mid-range: {FEW} tickers, where there are no others", costs["few"])
    yield Row(f"the same: {FEW} tickers among {MARKET:,}", costs["few of many"])
    more = costs["many"].wall - costs["few"].wall
    cpu = costs["many"].cpu - costs["few"].cpu
    yield Row(
        f"**the same: {MARKET:,} tickers, with the windows of {min(7, len(days) - len(days) // 2)} sessions**",
        costs["many"],
        f"{more:+.2f} s (CPU {cpu:+.2f}) over {FEW} tickers",
        "≤ +0.50 s",
    )


def narrow(plan: Plan, server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    days = DAYS[: plan.narrow]
    names, few = universe(FEW)
    url = server.ranges(names, days)
    cost = medians([anew("narrow", url, *backfill(days, few)) for _ in range(plan.repetitions)])
    size = sum(path.stat().st_size for path in Path("narrow").rglob("*") if path.is_file()) / 1e6
    found = f"{size:.1f} MB of files, {json.loads(cost.said)['calls']} calls"
    yield Row(
        f"**maang backfill {len(days):,} sessions x {FEW} tickers**", cost, found, f"≤ 8 s; ≤ 20 MB; ≤ {FEW} calls and paging"
    )


def deep(plan: Plan, server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    number, tickers = plan.deep
    names, flag = universe(tickers)
    lengths = (number // 2, number)

    def one(length: int) -> Cost:
        return anew("deep", server.url, *backfill(DAYS[:length], flag))

    for length in lengths:
        server.ranges(names, DAYS[:length])
    half, all_of_it = interleaved({str(length): partial(one, length) for length in lengths}, plan.repetitions).values()
    for length, cost in zip(lengths, (half, all_of_it), strict=True):
        rows = length * tickers
        found, goal = f"{1e6 * cost.wall / rows:.1f} µs a row (CPU {1e6 * cost.cpu / rows:.1f})", ""
        if cost is all_of_it:
            found = f"{found}; {_times(all_of_it, half)} for twice the rows"
            goal = "linear: 2.0x; < 1,000 MB"
        yield Row(f"**maang backfill {length:,} sessions x {tickers:,} tickers**", cost, found, goal)


def newest(plan: Plan, _server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    growth = plan.newest
    costs, sizes, written = laptop.growth(growth)
    for day, size in sizes.items():
        found = f"{written[day]:,.0f} bytes of metadata a run; {size.files:,} files, {size.bytes / 1e6:.1f} MB in all"
        if day == growth.young:
            yield Row(f"maang run-day, days {day - growth.turns + 1}-{day}", costs["peer"], found)
        elif day == growth.days:
            what = f"**maang run-day, days {day - growth.turns + 1:,}-{day:,}**"
            found = f"{_times(costs['maang'], costs['peer'])} day {growth.young}; {found}"
            yield Row(what, costs["maang"], found, f"≤ 1.2 day {growth.young}; metadata flat")
        else:
            yield Row(f"maang run-day, day {day:,}", None, found)


def start(plan: Plan, _server: Server, _: Mapping[str, Peer]) -> Iterator[Row]:
    for label, costs, goal in (
        ("`maang --help`, and a bare Typer app", laptop.start_up(plan.start), "≤ 1.5"),
        (f"`maang run-day` of {FEW} tickers, and its imports and commits by hand", laptop.whole_process(plan.start), "≤ 1.3"),
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
    FORKS.set_forkserver_preload([*PRELOADED, *(f"maang_cli.{name}" for name in IMPORTED), "laptop", "floor"])
    print(machine(laptop.PACKAGES).replace("\n", "  \n"))
    began, load = time.perf_counter(), os.getloadavg()[0]
    wanted = {"ingestr": (INGESTR,), "dlt": DLT} if with_peers and "wide" in parts else {}
    peers = {name: peer for name, requirements in wanted.items() if (peer := install(name, *requirements))}
    print("\n| | wall, s | CPU, s | peak, MB | | goal |\n|---|--:|--:|--:|---|---|", flush=True)
    with serving() as server:
        for part in parts:
            for row in globals()[part](plan, server, peers):
                print(f"| {row.what} | {' | '.join(_figures(row.cost))} | {row.found} | {row.goal} |", flush=True)
    turns = f"{plan.repetitions} ({plan.newest.turns} of newest, {plan.start.repetitions} of start)"
    print(f"\nMedians of {turns} runs, memory the most of them; {(time.perf_counter() - began) / 60:.0f} minutes in all.")
    print(f"Load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What many sessions cost, as ratios against peers.")
    parser.add_argument("--quick", action="store_true", help="each part once and smaller, as a test of this program")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--times", type=int, help="repetitions of wide, narrow and deep")
    parser.add_argument("--no-peers", action="store_true", help="without ingestr and dlt: nothing is installed")
    chosen = parser.parse_args()
    plan = QUICK if chosen.quick else FULL
    if chosen.times:
        plan = replace(plan, repetitions=chosen.times)
    clean_environment()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        measure(plan, chosen.only, not chosen.no_peers)
