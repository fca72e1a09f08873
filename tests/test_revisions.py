"""What changes after it was published: findings, what is printed, and `backfill --refetch --dry-run`."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from maang_cli import backfill, findings, gate, pipeline, sessions, sql, status
from maang_cli.checks import AllowMissing
from maang_cli.errors import NotStaged, PartlyRefused
from maang_cli.request import Request
from maang_cli.tables import FINDINGS
from maang_cli.warehouses.base import Query, Read, Warehouse
from tests.conftest import Maang
from tests.test_missing import warehouse
from tests.test_pipeline import DAY, DAYS, TICKERS, Feed, bar, feed, request_for

__all__ = ["feed", "warehouse"]

ONE = DAYS[: DAYS.index(DAY) + 1][-2:]
"""DAY, and the session before it."""


def stored(opened: Warehouse) -> list[dict[str, Any]]:
    text = sql.text("table_rows", columns=", ".join(column.name for column in FINDINGS.columns), condition="TRUE")
    rows = opened.query(Query(text, {"table": Read(FINDINGS)})).to_pylist()
    return sorted(rows, key=lambda row: (row["date"], row["ticker"], row["name"]))


def refetch(feed: Feed, request: Request) -> backfill.Backfilled:
    todo = backfill.plan(feed.source, feed.warehouse, request, refetch=True)
    return backfill.run(feed.source, feed.warehouse, todo, lambda _: None)


def compare(feed: Feed, request: Request) -> backfill.Compared:
    todo = backfill.plan(feed.source, feed.warehouse, request, refetch=True)
    return backfill.compare(feed.source, feed.warehouse, todo, lambda _: None)


def test_changed_values_are_findings_with_both_values_and_the_replaced_stamp(feed: Feed) -> None:
    feed.load(request_for())
    [before] = [row for row in feed.rows("production") if row["ticker"] == "META"]
    feed.serve(bar("META", DAY, high=str(Decimal(str(before["high"])) + 1), volume="398e6"))
    run = feed.load(request_for())
    revised = run.published.revised
    assert revised is not None
    assert [(cell.column, cell.replaced_at) for cell in revised.cells] == [
        ("high", before["insertion_timestamp"]),
        ("volume", before["insertion_timestamp"]),
    ]
    found = stored(feed.warehouse)
    assert [(row["ticker"], row["date"], row["kind"], row["name"], row["outcome"]) for row in found] == [
        ("META", DAY, "revision", name, "revised") for name in ("high", "volume")
    ]
    assert (found[1]["before"], found[1]["after"]) == (str(before["volume"]), "398000000")
    assert {row["replaced_at"] for row in found} == {before["insertion_timestamp"]}
    assert {row["volume"] for row in found} == {Decimal(398_000_000)}


def test_usual_day_and_its_repetition_write_no_findings(feed: Feed) -> None:
    for _ in range(2):
        assert feed.load(request_for()).published.revised is None
    assert stored(feed.warehouse) == []


def test_revision_is_stored_once_however_often_it_is_repeated(feed: Feed) -> None:
    feed.load(request_for())
    feed.serve(bar("META", DAY, volume="398e6"))
    feed.stage(request_for())
    query = gate.publish_query(request_for().staging, TICKERS, [DAY])
    for _ in range(2):  # as if the run had been killed before it published
        findings.revisions(feed.warehouse, query, [DAY])
    pipeline.promote(feed.warehouse, request_for())
    assert len(stored(feed.warehouse)) == 1


def test_row_that_an_allowance_removes_is_a_finding_with_the_old_bar(feed: Feed) -> None:
    feed.load(request_for())
    [before] = [row for row in feed.rows("production") if row["ticker"] == "META"]
    feed.withdraw("META", day=DAY)
    run = feed.load(request_for(allow=AllowMissing(frozenset({"META"}))))
    assert run.published.replaced.deleted == 1
    [found] = stored(feed.warehouse)
    assert (found["name"], found["outcome"], found["close"], found["replaced_at"]) == (
        "bar",
        "vanished",
        before["close"],
        before["insertion_timestamp"],
    )


def test_refetch_keeps_a_row_that_the_vendor_no_longer_has(feed: Feed) -> None:
    request = request_for(*ONE)
    feed.load(request)
    before = feed.tables()
    feed.withdraw("META", day=DAY)
    done = refetch(feed, request)
    assert done.verdict() is None
    assert feed.tables() == before
    assert [(row["ticker"], row["date"], row["outcome"]) for row in stored(feed.warehouse)] == [("META", DAY, "vanished")]
    assert done.revised is not None
    assert done.revised.removed == {DAY: frozenset({"META"})}


def test_ticker_that_is_missing_everywhere_is_still_refused_when_it_is_fetched_again(feed: Feed) -> None:
    """Production does not have it either."""
    feed.load(request_for(*ONE))
    feed.withdraw("META", day=DAY)
    others = request_for(*ONE, tickers=(*TICKERS, "NONE"))
    assert set(refetch(feed, others).refused) == set(ONE)


def test_dry_run_shows_differences_and_writes_nothing(feed: Feed) -> None:
    request = request_for(*ONE)
    feed.load(request)
    tables, names = feed.tables(), feed.warehouse.tables()
    assert compare(feed, request).verdict() is None
    feed.serve(bar("META", DAY, close="333.33"))
    feed.withdraw("AAPL", day=ONE[0])
    found = compare(feed, request)
    assert found.differences.changed == {DAY: frozenset({"META"})}
    assert found.differences.removed == {ONE[0]: frozenset({"AAPL"})}
    assert [(cell.column, cell.after) for cell in found.differences.cells] == [("close", Decimal("333.33"))]
    error = found.verdict()
    assert isinstance(error, PartlyRefused)
    assert f"maang backfill --refetch --date {DAY}" in error.hint
    assert (feed.tables(), feed.warehouse.tables(), stored(feed.warehouse)) == (tables, names, [])


def test_volumes_that_all_changed_are_one_line(feed: Feed) -> None:
    feed.load(request_for())
    feed.serve(*(bar(ticker, DAY, volume="399e6") for ticker in TICKERS))
    found = compare(feed, request_for()).differences
    assert found.all_volumes == {DAY}
    feed.withdraw(TICKERS[0], day=DAY)
    assert compare(feed, request_for()).differences.all_volumes == frozenset()


def test_held_rows_are_named_by_a_backfill(feed: Feed) -> None:
    feed.serve(bar("META", DAY, volume="0"))
    request = replace(request_for(*ONE), allow_missing=AllowMissing(frozenset({"META"})))
    todo = backfill.plan(feed.source, feed.warehouse, request)
    done = backfill.run(feed.source, feed.warehouse, todo, lambda _: None)
    assert (done.verdict(), done.held) == (None, {DAY: frozenset({"META"})})


@pytest.mark.usefixtures("feed")
def test_dry_run_needs_refetch(maang: Maang) -> None:
    done = maang("backfill", "--date", str(DAY), "--dry-run")
    assert done.code == 2
    assert f"hint: to see what is missing: maang plan --date {DAY}" in done.err


def test_dry_run_prints_changed_values_and_exits_5(feed: Feed, maang: Maang) -> None:
    flags = ("--date", str(DAY), "--tickers", ",".join(TICKERS))
    feed.load(request_for())
    assert maang("backfill", *flags, "--refetch", "--dry-run").code == 0
    feed.serve(bar("META", DAY, volume="199e6"))
    done = maang("backfill", *flags, "--refetch", "--dry-run")
    assert done.code == 5
    assert f"META {DAY} volume " in done.out
    assert " -> 199000000 (-" in done.out
    done = maang("run-day", *flags)
    assert done.code == 0
    assert f"META {DAY} volume " in done.out
    assert maang("backfill", *flags, "--refetch", "--dry-run").code == 0


def test_status_reports_refused_rows_that_wait_in_staging(feed: Feed) -> None:
    """Also if the session is stored: a refetch was refused."""
    feed.load(request_for())
    assert status.status(feed.warehouse, request_for(), sessions.final(DAY)).verdict() is None
    feed.serve(bar("META", DAY, volume="0"))
    assert set(refetch(feed, request_for()).refused) == {DAY}
    found = status.status(feed.warehouse, request_for(), sessions.final(DAY))
    assert found.refused == (DAY,)
    error = found.verdict()
    assert error is not None
    assert (error.exit_code, error.message) == (5, "1 session with refused rows in staging")
    assert f"maang show --table findings --date {DAY}" in error.hint
    feed.serve(bar("META", DAY))
    feed.load(request_for())
    assert status.status(feed.warehouse, request_for(), sessions.final(DAY)).verdict() is None


def test_status_names_rows_that_the_gate_holds(feed: Feed) -> None:
    feed.serve(bar("META", DAY, volume="0"))
    request = request_for(allow=AllowMissing(frozenset({"META"})))
    assert feed.load(request).published.held == {DAY: frozenset({"META"})}
    found = status.status(feed.warehouse, request, sessions.final(DAY))
    assert (found.held, found.verdict()) == ({DAY: frozenset({"META"})}, None)
    feed.serve(bar("META", DAY))
    feed.load(request)
    assert status.status(feed.warehouse, request, sessions.final(DAY)).held == {}


def test_refused_staging_of_several_sessions_is_found_by_any_of_its_days(feed: Feed) -> None:
    feed.serve(bar("META", DAY, volume="0"))
    with pytest.raises(PartlyRefused):
        raise pipeline.verdict(feed.load(request_for(*ONE)).audit) or AssertionError
    shown = pipeline.show(feed.warehouse, request_for(DAY), "staging").rows
    assert set(shown["session"].to_pylist()) == {DAY}
    assert shown.num_rows == len(TICKERS)
    with pytest.raises(NotStaged, match="staged together with other sessions") as caught:
        pipeline.check(feed.warehouse, request_for(DAY))
    assert f"--from {ONE[0]} --to {DAY}" in caught.value.hint


def test_dry_run_that_finds_only_vanished_rows_exits_0(feed: Feed) -> None:
    """A refetch would keep them, so that there is nothing to do."""
    feed.load(request_for(*ONE))
    feed.withdraw("META", day=DAY)
    found = compare(feed, request_for(*ONE))
    assert found.differences.removed == {DAY: frozenset({"META"})}
    assert found.verdict() is None


def test_dry_run_keeps_what_a_refused_run_has_staged(feed: Feed) -> None:
    feed.load(request_for())
    feed.serve(bar("META", DAY, volume="0"))
    refetch(feed, request_for())
    staged = pipeline.show(feed.warehouse, request_for(), "staging").rows
    compare(feed, request_for())
    assert pipeline.show(feed.warehouse, request_for(), "staging").rows.equals(staged)


def test_refetch_of_tickers_that_have_all_vanished_keeps_their_rows(feed: Feed) -> None:
    feed.load(request_for(*ONE))
    before = feed.tables()
    for day in ONE:
        feed.withdraw("META", day=day)
    done = refetch(feed, request_for(*ONE, tickers=("META",)))
    assert done.verdict() is None
    assert feed.tables() == before


def test_acceptance_of_a_row_that_is_not_fetched_is_a_warning(feed: Feed, caplog: pytest.LogCaptureFixture) -> None:
    feed.load(request_for())
    request = replace(request_for(), accept=(findings.parse_acceptance(f"META:{DAY}:jump"),))
    backfill.run(feed.source, feed.warehouse, backfill.plan(feed.source, feed.warehouse, request), lambda _: None)
    assert f"nothing to accept: META:{DAY}:jump is not fetched" in caplog.text
