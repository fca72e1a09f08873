"""`maang maintain`: what it reports on each warehouse."""

from __future__ import annotations

import re

import pytest

from maang_cli.tables import CUMULATIVE, PRODUCTION, SPLITS
from tests.conftest import Maang

SAMPLE = ("--source", "sample")


def test_expired_snapshots_and_removed_files_are_reported(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2025-10-13", "2025-10-14"):
        assert maang("run-day", "--date", day, *SAMPLE).code == 0
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "1")
    done = maang("maintain", *SAMPLE)
    assert (done.code, done.err) == (0, "")
    *lines, splits = done.out.splitlines()
    assert splits.startswith(f"maang_sample.{SPLITS.name}: 0 snapshots expired, 0 files removed, ")
    for line, table in zip(lines, (PRODUCTION, CUMULATIVE), strict=True):
        name = f"maang_sample.{table.name}"
        assert re.fullmatch(rf"{name}: 1 snapshot expired, [1-9]\d* files? removed, \d+\.\d KB freed", line), line


def test_warehouse_without_tables_has_nothing_to_do(maang: Maang) -> None:
    assert maang("maintain", *SAMPLE).out == "nothing to do: there are no tables\n"


def test_databricks_maintains_its_tables_by_itself(databricks: object, maang: Maang) -> None:
    assert maang("maintain").out == "nothing to do: databricks maintains its tables by itself\n"
