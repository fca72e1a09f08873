"""Measures what a run costs. All benchmarks use it: the machine's description, one run, and runs that take turns."""

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
    "maang_cli.cli.process",
    "maang_cli.cli.commands",
    "maang_cli.cli.context",
    "maang_cli.render.progress",
    "maang_cli.render.documents",
    "maang_cli.sources.sample",
    "maang_cli.warehouses.local.warehouse",
    "pandas",  # PyArrow and PyIceberg import it if it is installed
)
"""What `run-day --source sample` imports. The fork server imports it once, and every run is forked from there."""
FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float
    """Elapsed seconds."""
    cpu: float
    """Seconds of CPU time, user and system. Other work on the machine disturbs it less than `wall`."""
    peak: float = 0
    """Peak memory in MB; 0 if it was not measured."""
    stdout: str = ""
    """What the run printed on stdout."""


def machine(packages: Sequence[str]) -> str:
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}\n" + ", ".join(map(_version, packages))
    )


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"


def clean_environment() -> None:
    """Remove the variables that maang and its libraries would read, and the one that stops Python from caching compiled code."""
    for name in list(os.environ):
        if name.startswith(("MAANG_", "POLYGON_", "DATABRICKS_", "PYICEBERG_")) or name == "PYTHONDONTWRITEBYTECODE":
            del os.environ[name]


def process(*argv: str, python: str = sys.executable, environment: Mapping[str, str] | None = None) -> Cost:
    """Run Python with these arguments in the current folder, and measure the whole process. `environment`: variables to add.

    Raises:
        CalledProcessError: it failed; its messages are on stderr.
    """
    before, started = _children(), time.perf_counter()
    done = subprocess.run([python, *argv], capture_output=True, text=True, check=False, env=os.environ | (environment or {}))
    cost = Cost(time.perf_counter() - started, _children() - before)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return cost


def forked(run: Callable[..., Cost], *arguments: object) -> Cost:
    """Run a function in a process of its own, in which the preloaded modules are imported and nothing is cached."""
    with FORKS.Pool(1) as pool:
        return pool.apply(run, arguments)


def maang(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command in this process, for `forked`: the variables in `environment` stay set.

    Raises:
        RuntimeError: the command failed, or it imported a module of maang, which would count as its work.
    """
    from maang_cli.cli.process import main

    os.environ.update(environment or {})
    imported = set(sys.modules)
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        clock = Clock()
        code = main(list(argv))
        cost = clock.stop()
    if code:
        raise RuntimeError(f"maang {' '.join(argv)} exited with {code}: {stderr.getvalue()}")
    # The fork server ignores a preloaded module that does not exist, such as one that was renamed.
    if late := sorted(name for name in set(sys.modules) - imported if name.startswith("maang_cli.")):
        raise RuntimeError(f"maang {argv[0]} imported {', '.join(late)} while it was measured; preload them")
    return Cost(cost.wall, cost.cpu, cost.peak, stdout.getvalue())


class Clock:
    """Measures this process from its creation to `stop`. Peak memory is that of the whole process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Cost:
        return Cost(time.perf_counter() - self._wall, time.process_time() - self._cpu, _peak())


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` is at least what the parent process had at the fork
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def interleaved(runs: Mapping[str, Callable[[], Cost]], repetitions: int) -> dict[str, Cost]:
    """Each run's medians. The runs take turns in alternating order, so that a busy minute of the machine slows all of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    turn = list(runs.items())
    for _ in range(repetitions):
        for name, run in turn:
            costs[name].append(run())
        turn.reverse()
    return {name: medians(each) for name, each in costs.items()}


def medians(costs: Sequence[Cost]) -> Cost:
    """The median of the times, the maximum of the memory, the last run's output."""
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        max(cost.peak for cost in costs),
        costs[-1].stdout,
    )
