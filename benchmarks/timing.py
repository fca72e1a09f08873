"""What the benchmarks share: the machine in two lines, and interleaved repetitions."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float
    """Seconds on the clock."""
    cpu: float
    """Seconds of processor time, user and system: what other work on the machine disturbs less."""


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
    return {
        name: Cost(statistics.median(cost.wall for cost in each), statistics.median(cost.cpu for cost in each))
        for name, each in costs.items()
    }
