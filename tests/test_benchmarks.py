"""The benchmark runs; what it measures is for a person to read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def printed(program: str, *argv: str) -> str:
    path = Path(__file__).parents[1] / "benchmarks" / program
    done = subprocess.run([sys.executable, path, *argv], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_laptop_benchmark_prints_its_ratios_and_finds_no_litter() -> None:
    said = printed("laptop.py", "--quick")
    ratios = re.findall(r"^(.+?)  .* s +[0-9.]+ s +[0-9.]+ +[0-9.]+ +([0-9.]+)$", said, re.MULTILINE)
    assert [goal for _, goal in ratios] == ["1.5", "1.3", "1.2"]
    assert re.search(r"^files that nothing reaches +0 +0$", said, re.MULTILINE)


def test_the_benchmark_of_many_sessions_prints_a_table_with_a_goal_for_each_of_our_own_runs() -> None:
    said = printed("many.py", "--quick", "--no-peers", "--only", "wide", "narrow")
    rows = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| **")]
    assert [(row[0].partition(":")[0], row[-1]) for row in rows] == [
        ("**maang backfill 3 sessions x 11,000 tickers**", "≤ 2.5 the floor"),
        ("**the same", "≤ +0.50 s"),
        ("**maang backfill 60 sessions x 5 tickers**", "≤ 8 s; ≤ 20 MB; ≤ 5 calls and paging"),
    ]
    assert rows[-1][-2].endswith(", 5 calls")
