"""The benchmark runs; what it measures is for a person to read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_the_laptop_benchmark_prints_its_ratios_and_finds_no_litter() -> None:
    program = Path(__file__).parents[1] / "benchmarks" / "laptop.py"
    done = subprocess.run([sys.executable, program, "--quick"], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    ratios = re.findall(r"^(.+?)  .* s +[0-9.]+ s +[0-9.]+ +[0-9.]+ +([0-9.]+)$", done.stdout, re.MULTILINE)
    assert [goal for _, goal in ratios] == ["1.5", "1.3", "1.2"]
    assert re.search(r"^files that nothing reaches +0 +0$", done.stdout, re.MULTILINE)
