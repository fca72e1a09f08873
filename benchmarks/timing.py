"""What the benchmarks share: the machine in two lines, what a run costs, and interleaved repetitions."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PRELOADED = (
    "maang_cli.cli",
    "maang_cli.render",
    "maang_cli.sources.sample",
    "maang_cli.warehouses.local",
    "maang_cli.warehouses.shield",
    "holidays.financial.ny_stock_exchange",
    "sqlalchemy.dialects.sqlite",
    "pandas",  # where it is installed, PyArrow and PyIceberg import it
)
"""What `run-day --source sample` imports, for the process that runs are forked from."""
FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float
    """Seconds on the clock."""
    cpu: float
    """Seconds of processor time, user and system: what other work on the machine disturbs less."""
    peak: float = 0
    """MB of memory at most; 0 where it was not looked at."""
    said: str = ""
    """What it printed on stdout."""


def machine(packages: Sequence[str]) -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}\n" + ", ".join(map(_version, packages))
    )


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def clean_environment() -> None:
    """Take out of the environment what maang and its libraries would read."""
    for name in list(os.environ):
        if name.startswith(("MAANG_", "POLYGON_", "DATABRICKS_", "PYICEBERG_")):
            del os.environ[name]


def process(*argv: str) -> Cost:
    """Run Python with these arguments, in the current folder, to its end.

    Raises:
        CalledProcessError: it failed; what it said is on stderr.
    """
    before, started = _children(), time.perf_counter()
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False)
    cost = Cost(time.perf_counter() - started, _children() - before)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return cost


def forked(run: Callable[..., Cost], *arguments: object) -> Cost:
    """Run a function in a process of its own, which has imported what is preloaded, and cached nothing."""
    with FORKS.Pool(1) as pool:
        return pool.apply(run, arguments)


def maang(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command in this process, which has no environment of its own left after it.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    from maang_cli.cli import main

    os.environ.update(environment or {})
    told, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        clock = Clock()
        code = main(list(argv))
        cost = clock.stop()
    if code:
        raise RuntimeError(f"maang {' '.join(argv)} ended with {code}: {told.getvalue()}")
    return Cost(cost.wall, cost.cpu, cost.peak, said.getvalue())


class Clock:
    """What this process takes from here on; its peak of memory is that of its whole life."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Cost:
        return Cost(time.perf_counter() - self._wall, time.process_time() - self._cpu, _peak())


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` is there at least what the process had that this one was started by
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def interleaved(runs: Mapping[str, Callable[[], Cost]], repetitions: int) -> dict[str, Cost]:
    """Each run's medians. They take turns, and who goes first changes: a busy minute of the machine slows each of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    turn = list(runs.items())
    for _ in range(repetitions):
        for name, run in turn:
            costs[name].append(run())
        turn.reverse()
    return {name: medians(each) for name, each in costs.items()}


def medians(costs: Sequence[Cost]) -> Cost:
    """Of time; of memory the most, of what was said the last."""
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        max(cost.peak for cost in costs),
        costs[-1].said,
    )
