"""Several runs of the same session at the same time: every one exits with 0, and the session is published once."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.forks import fork_server
from tests.warehouses.conftest import open_catalog, unreachable

ARGV = ("run-day", "--date", "2025-10-14", "--source", "sample", "--json")


@pytest.mark.parametrize("attempt", range(2))
def test_four_runs_of_the_same_day_all_exit_0(home: Path, attempt: int) -> None:
    server = fork_server()  # before the runs, so that they start together
    with ExitStack() as stack:
        runs = [stack.enter_context(server.start(*ARGV)) for _ in range(4)]
        ended = [(*run.communicate(timeout=300), run.wait()) for run in runs]
    assert [code for _, _, code in ended] == [0] * 4, ended
    published = [json.loads(out)["result"]["promote"]["inserted"] for out, _, _ in ended]
    assert sorted(published) == [0, 0, 0, 5]
    with open_catalog(home) as catalog:
        table = catalog.load_table("maang_sample.daily_stock_prices")
        assert len(table.snapshots()) == 1
    assert unreachable(home) == []
