"""What the daily commands cost on a laptop, as ratios against peers. All figures come from one run.

    uv run benchmarks/daily_run_local.py            about 8 minutes on 2 cores
    uv run benchmarks/daily_run_local.py --quick    half a minute: each part runs once, to test this program; ignore its figures

1. `maang --help` against a bare Typer app with the same commands.
2. `maang run-day --source sample` against `minimal_run_day.py`, which does the same imports and commits, and nothing else. Each
   run loads a new day.
3. `maang run-day` in an old warehouse against a young one: one holds 380 days, the other 1 day, then they take turns for 20 days.
   Each run is a process of its own that has imported everything and cached nothing, since the time of the imports would hide
   growth. `large_loads.py` does the same up to day 2,500.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from run_cost import FORKS, PRELOADED, Cost, clean_environment, forked, interleaved, maang, machine, process

from maang_cli import sessions
from maang_cli.cli.commands import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyiceberg.table import Table

PACKAGES = (
    "maang-cli",
    "typer",
    "rich",
    "pydantic-settings",
    "pyarrow",
    "duckdb",
    "pyiceberg",
    "pandas",
)
SIZES = {
    "files": "files",
    "bytes": "bytes",
    "bytes of metadata.json, both tables": "metadata",
    "unreachable files": "unreachable",
}
LABEL = 50
"""Width of the first column."""


@dataclass(frozen=True)
class Plan:
    repetitions: int
    """How often each run of the first two comparisons is repeated."""
    days: int
    """How many days the old warehouse has at the end."""
    turns: int
    """How many days the old and the young warehouse run in turns, at the end."""
    young: int
    """How many days the young warehouse has at the end."""
    sized: tuple[int, ...]
    """The days after which the old warehouse's size on disk is measured, besides the last."""


FULL = Plan(repetitions=9, days=400, turns=20, young=21, sized=(2, 100, 200))
QUICK = Plan(repetitions=1, days=3, turns=1, young=2, sized=(2,))


@dataclass(frozen=True)
class Size:
    """What a warehouse has on disk."""

    files: int
    bytes: int
    metadata: int
    """Bytes of both tables' newest metadata.json. Every command reads it, and every commit writes it again."""
    unreachable: int
    """Files in the tables' folders that neither a snapshot nor the log of metadata.json refers to."""


def days() -> Iterator[str]:
    """2,516 sessions, the oldest first."""
    return map(str, sessions.between(date(2015, 1, 2), date(2024, 12, 31)))


def run_day(home: str, day: str) -> list[str]:
    return ["run-day", "--source", "sample", "--home", str(Path(home).absolute()), "--date", day]


def startup(plan: Plan) -> dict[str, Cost]:
    commands = [command.name for command in app.registered_commands]
    lines = [f"@app.command({name!r})\ndef command_{n}(date: str) -> None:\n    'Do it.'" for n, name in enumerate(commands)]
    # A module like ours, of which Python caches the compiled code.
    Path("bare.py").write_text("\n".join(["import typer", "app = typer.Typer()", *lines]) + "\n")
    run_it = "import sys; from {} import {}; sys.argv = ['maang', '--help']; {}()"
    runs = {
        "maang": partial(process, "-c", run_it.format("maang_cli.cli.process", "run", "run")),
        "peer": partial(process, "-c", run_it.format("bare", "app", "app")),
    }
    interleaved(runs, 1)
    return interleaved(runs, plan.repetitions)


def whole_process(plan: Plan) -> dict[str, Cost]:
    ours, theirs = days(), days()
    minimal = str(Path(__file__).with_name("minimal_run_day.py"))
    Path("minimal").mkdir()
    runs = {
        "maang": lambda: process("-m", "maang_cli", *run_day("whole", next(ours))),
        "peer": lambda: process(minimal, str(Path("minimal").absolute()), "--date", next(theirs)),
    }
    interleaved(runs, 1)  # the first day creates the tables
    return interleaved(runs, plan.repetitions)


def growth(plan: Plan) -> tuple[dict[str, Cost], dict[int, Size], dict[int, float]]:
    """What a day costs in the old and the young warehouse; by day, the old one's size and the bytes of metadata a run writes."""
    old, young = days(), days()
    sizes: dict[int, Size] = {}
    written: list[int] = []

    def next_old() -> Cost:
        before = metadata("old")
        cost = one_day("old", next(old))
        written.append(sum(size for path, size in metadata("old").items() if path not in before))
        if len(written) in (*plan.sized, plan.days):
            sizes[len(written)] = size("old")
        return cost

    for _ in range(plan.days - plan.turns):
        next_old()
    for _ in range(plan.young - plan.turns):
        one_day("young", next(young))
    costs = interleaved({"maang": next_old, "peer": lambda: one_day("young", next(young))}, plan.turns)
    return costs, sizes, {day: statistics.median(written[max(day - plan.turns, 0) : day]) for day in sizes}


def metadata(home: str) -> dict[Path, int]:
    """The metadata files of all tables, with their sizes. No file is ever written twice."""
    return {path: path.stat().st_size for path in Path(home, "warehouse").glob("*/*/metadata/*")}


def one_day(home: str, day: str) -> Cost:
    return forked(maang, run_day(home, day))


def growth_label(plan: Plan) -> str:
    ends = (plan.days - plan.turns + 1, plan.days, plan.young - plan.turns + 1, plan.young)
    return "run-day, days {:,}-{:,} / {}-{}, no imports".format(*ends)


def size(home: str) -> Size:
    from pyiceberg.catalog.sql import SqlCatalog

    root = Path(home, "warehouse").absolute()
    catalog = SqlCatalog("maang", uri=f"sqlite:///{root}/catalog.db", warehouse=f"file://{root}")
    tables = [catalog.load_table(name) for name in catalog.list_tables("maang_sample")]
    catalog.close()
    files = {f"file://{path}": path.stat().st_size for path in root.rglob("*") if path.is_file()}
    known = set().union(*map(reachable, tables))
    return Size(
        files=len(files),
        bytes=sum(files.values()),
        metadata=sum(files[table.metadata_location] for table in tables),
        unreachable=sum(name not in known for name in files if "/maang_sample/" in name),
    )


def reachable(table: Table) -> set[str]:
    files = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
    for snapshot in table.metadata.snapshots:
        files.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in files:
                files.add(manifest.manifest_path)
                files.update(entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io))
    return files


def print_costs(rows: dict[str, tuple[dict[str, Cost], str]]) -> None:
    print(f"{'':{LABEL}}{'maang':>10}{'peer':>10}{'ratio':>10}{'CPU ratio':>10}{'goal':>10}")
    for label, (cost, goal) in rows.items():
        ours, peer = cost["maang"], cost["peer"]
        times = f"{ours.wall:>8.3f} s{peer.wall:>8.3f} s{ours.wall / peer.wall:>10.2f}{ours.cpu / peer.cpu:>10.2f}"
        print(f"{label:{LABEL}}{times}{goal:>10}")


def print_sizes(sizes: dict[int, Size]) -> None:
    print(f"{'on disk after day':{LABEL}}" + "".join(f"{day:>12,}" for day in sizes))
    for label, name in SIZES.items():
        print(f"{label:{LABEL}}" + "".join(f"{getattr(each, name):>12,}" for each in sizes.values()))


def measure(plan: Plan) -> None:
    FORKS.set_forkserver_preload(list(PRELOADED))
    print(machine(PACKAGES), flush=True)
    started = time.perf_counter()
    rows = {"--help / a bare Typer app": (startup(plan), "1.5")}
    rows["run-day / minimal run-day"] = (whole_process(plan), "1.3")
    costs, sizes, _ = growth(plan)
    rows[growth_label(plan)] = (costs, "1.2")
    print()
    print_costs(rows)
    repetitions = f"{plan.repetitions}, {plan.repetitions} and {plan.turns}"
    print(f"repetitions, in turns: {repetitions}; times are medians; {time.perf_counter() - started:.0f} s in all\n")
    print_sizes(sizes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the daily commands cost on a laptop, as ratios against peers.")
    parser.add_argument("--quick", action="store_true", help="run each part once, to test this program")
    quick = parser.parse_args().quick
    clean_environment()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        measure(QUICK if quick else FULL)
