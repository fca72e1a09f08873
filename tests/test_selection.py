"""A skipped test makes a run fail unless the list of allowed skips names it, also if several processes run the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.selection import allowed

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

def test_passes():
    pass

def test_is_skipped():
    pytest.skip("needs a tide table")

@pytest.mark.xfail(reason="is known to fail")
def test_is_known_to_fail():
    assert False
"""


@pytest.mark.parametrize(
    ("line", "is_allowed"),
    [
        ("test_sea.py::test_is_skipped needs a tide", True),
        ("test_sea.py needs a tide table", True),
        ("test_sea.py::test_is_skipped needs a boat", False),
        ("test_lake.py needs a tide table", False),
        ("test_sea.py::test_is_skipped", False),
        ("# test_sea.py needs a tide table", False),
        ("", False),
    ],
)
def test_line_allows_a_skip_by_the_start_of_its_id_and_of_its_reason(line: str, is_allowed: bool) -> None:
    assert allowed(line, "test_sea.py::test_is_skipped[ebb]", "needs a tide table of this year") == is_allowed


@pytest.mark.parametrize(("listed", "code"), [("test_sea.py", 0), ("test_lake.py", 1)])
def test_skip_fails_the_run_unless_it_is_listed(tmp_path: Path, listed: str, code: int) -> None:
    (tmp_path / "conftest.py").write_text("from tests.selection import *\n")
    (tmp_path / "test_sea.py").write_text(TESTS)
    (tmp_path / "allowed.txt").write_text(f"{listed} needs a tide table\n")
    argv = ["-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "--allowed-skips", "allowed.txt"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, *argv], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "1 passed, 1 skipped, 1 xfailed" in done.stdout
    assert done.returncode == code
    assert ("test_sea.py::test_is_skipped needs a tide table" in done.stdout) == bool(code)
