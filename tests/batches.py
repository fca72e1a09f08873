"""A backfill in batches that are small enough for a test; `maang backfill` has no option for their size."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import date

from maang_cli import backfill, findings
from maang_cli.request import Request
from maang_cli.sources import SOURCES
from maang_cli.warehouses import WAREHOUSES
from tests import settings


def run(days: Sequence[date], batch_rows: int, accept: Sequence[str] = (), **flags: str) -> backfill.Backfilled:
    """Do what `maang backfill` does for these sessions, with at most `batch_rows` rows in a batch.

    Raises:
        MaangError: a failure that stopped the backfill, or its verdict.
    """
    chosen = settings.load(**flags)
    request = Request(chosen.tickers, tuple(days), accept=tuple(map(findings.parse_acceptance, accept)))
    with closing(WAREHOUSES[chosen.warehouse].open(chosen, "")) as opened, closing(SOURCES[chosen.source].open(chosen)) as source:
        plan = backfill.plan(source, opened, request, batch_rows=batch_rows)
        done = backfill.run(source, opened, plan, lambda _progress: None)
    if error := done.verdict():
        raise error
    return done


def run_at_the_same_time(ranges: Sequence[Sequence[date]], batch_rows: int, **flags: str) -> list[BaseException]:
    """Backfill several ranges, each in a thread; returns the failures."""
    failures: list[BaseException] = []

    def one(days: Sequence[date]) -> None:
        try:
            run(days, batch_rows, **flags)
        except BaseException as exc:  # noqa: BLE001 - the tests check them
            failures.append(exc)

    threads = [threading.Thread(target=one, args=(days,)) for days in ranges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures
