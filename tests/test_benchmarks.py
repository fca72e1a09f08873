"""The benchmarks load and list their options. A person runs them and judges the figures; mypy checks how they call maang."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = ("daily_run_local.py", "large_loads.py", "daily_run_databricks.py", "start_time.py", "held_rows.py")


@pytest.mark.parametrize("program", PROGRAMS)
def test_benchmark_loads_and_prints_its_help(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / program), run_name="__main__")
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_readme_lists_every_benchmark_file() -> None:
    listed = re.findall(r"^\| \[`([a-z_]+\.py)`\]", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in BENCHMARKS.glob("*.py"))
