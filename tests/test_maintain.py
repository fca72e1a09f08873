"""`maang maintain`: what it reports on each warehouse."""

from __future__ import annotations

import re

import pytest

from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS
from tests.conftest import Maang

SAMPLE = ("--source", "sample")


def test_expired_snapshots_and_removed_files_are_reported(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2025-10-13", "2025-10-14"):
        assert maang("run-day", "--date", day, *SAMPLE).code == 0
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "1")
    done = maang("maintain", *SAMPLE)
    assert (done.code, done.err) == (0, "")
    for line, table in zip(done.out.splitlines(), (PRODUCTION, CUMULATIVE, FINDINGS, SPLITS), strict=True):
        removed = "1 snapshot expired, [1-9]" if table in (PRODUCTION, CUMULATIVE) else "0 snapshots expired, "
        assert re.fullmatch(rf"maang_sample.{table.name}: {removed}\d* files? removed, \d+\.\d KB freed", line), line


def test_warehouse_without_tables_has_nothing_to_do(maang: Maang) -> None:
    assert maang("maintain", *SAMPLE).out == "nothing to do: there are no tables\n"


def test_databricks_maintains_its_tables_by_itself(databricks: object, maang: Maang) -> None:
    assert maang("maintain").out == "nothing to do: databricks maintains its tables by itself\n"
