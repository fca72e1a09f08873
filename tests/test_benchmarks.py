"""The benchmarks run to their end and print their comparisons. A person judges the figures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def output(program: str, *argv: str) -> str:
    done = subprocess.run([sys.executable, BENCHMARKS / program, *argv], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_daily_run_local_prints_its_ratios_and_finds_no_unreachable_files() -> None:
    printed = output("daily_run_local.py", "--quick")
    ratios = re.findall(r"^(.+?)  .* s +[0-9.]+ s +[0-9.]+ +[0-9.]+ +([0-9.]+)$", printed, re.MULTILINE)
    assert [goal for _, goal in ratios] == ["1.5", "1.3", "1.2"]
    assert re.search(r"^unreachable files +0 +0$", printed, re.MULTILINE)


def test_large_loads_prints_a_table_with_a_goal_for_each_run_of_maang() -> None:
    printed = output("large_loads.py", "--quick", "--no-peers", "--only", "wide", "narrow")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| **")]
    assert [(row[0].partition(":")[0], row[-1]) for row in rows] == [
        ("**maang backfill 3 sessions x 11,000 tickers**", "≤ 2.5x the minimal load"),
        ("**the same", "≤ +0.50 s"),
        ("**maang backfill 60 sessions x 5 tickers**", "≤ 8 s; ≤ 20 MB; ≤ 5 calls, plus paging"),
    ]
    assert rows[-1][-2].endswith(", 5 calls")


def test_readme_lists_every_benchmark_file() -> None:
    listed = re.findall(r"^\| \[`([a-z_]+\.py)`\]", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in BENCHMARKS.glob("*.py"))
