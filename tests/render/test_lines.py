"""Results in one line each; the transcripts have most of them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from maang_cli.backfill import BackfillProgress, Batch, Plan
from maang_cli.checks import ALLOW_NONE, CHECKS, Audit, CheckResult, FailingRow, Outcome, Round
from maang_cli.diff import ChangedCell
from maang_cli.missing import MissingBars
from maang_cli.pipeline import Cumulated, Dropped, Initialized
from maang_cli.render.lines import bytes_of, cost, line, plural, remarks, reused
from maang_cli.request import Request
from maang_cli.sources.base import Calls
from maang_cli.warehouses.base import Replaced

DAY, NEXT, AFTER = date(2025, 10, 14), date(2025, 10, 15), date(2025, 10, 16)


def plan(calls: int, *, per_minute: int | None = 1, cached: int = 0) -> Plan:
    """A plan of one session with this many calls, one a ticker."""
    names = tuple(f"T{number}" for number in range(calls))
    bars = MissingBars({DAY: frozenset(names)}, {})
    ranges = dict.fromkeys(names, (DAY, DAY))
    return Plan(
        Request(names, (DAY,)), bars, bars.missing, {}, (Batch(names, (DAY,)),), Calls(ranges=ranges, cached=cached), per_minute
    )


def test_plural() -> None:
    assert [plural(number, "row") for number in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]


@pytest.mark.parametrize(
    ("number", "text"), [(None, "?"), (0, "0.0 KB"), (99_999, "100.0 KB"), (100_000, "0.1 MB"), (3_400_000, "3.4 MB")]
)
def test_size(number: int | None, text: str) -> None:
    assert bytes_of(number) == text


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        (1, "0 s (1 call at 1 a minute)"),
        (2, "60 s (2 calls at 1 a minute)"),
        (3, "2 min (3 calls at 1 a minute)"),
        (90, "89 min (90 calls at 1 a minute)"),
        (301, "5.0 h (301 calls at 1 a minute)"),
    ],
)
def test_cost_of_a_backfill(calls: int, text: str) -> None:
    assert cost(plan(calls)) == text


def test_pace_that_is_not_known_is_not_shown() -> None:
    assert line(plan(20, per_minute=None)) == "1 session to fetch, 20 calls, about 20 rows, 2 commits, 2 s"


@pytest.mark.parametrize(
    ("cached", "text"), [(1, "reusing 1 answer from an earlier run"), (4, "reusing 4 answers from an earlier run")]
)
def test_cached_answers(cached: int, text: str) -> None:
    assert reused(plan(2, cached=cached)) == text
    assert f"2 calls at 1 a minute, {text}, about 2 rows" in line(plan(2, cached=cached))


def test_plan_with_nothing_to_do() -> None:
    nothing = Plan(Request(("META",), (DAY, NEXT)), MissingBars({}, {}), {}, {}, (), Calls(), 1)
    assert line(nothing) == "nothing to do: 2 sessions complete"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "fetched 4 of 5 calls, published 1 of 2 sessions (3 rows)"),
        (89.4, "fetched 4 of 5 calls, published 1 of 2 sessions (3 rows), 89 s left"),
        (90, "fetched 4 of 5 calls, published 1 of 2 sessions (3 rows), 2 min left"),
    ],
)
def test_progress_of_a_backfill(seconds: float | None, text: str) -> None:
    assert line(BackfillProgress(1, 2, 3, 4, 5, seconds)) == text


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ((), "5 windows new, 1 window changed"),
        (((DAY, 1),), "5 windows new, 1 window changed; some windows are incomplete: no bars for 1 session (2025-10-14)"),
        (
            ((DAY, 1), (AFTER, 0)),
            "5 windows new, 1 window changed; some windows are incomplete: no bars for 2 sessions (2025-10-14 to 2025-10-16)",
        ),
    ],
)
def test_windows(missing: tuple[tuple[date, int], ...], text: str) -> None:
    assert line(Cumulated(Replaced("t", inserted=5, updated=1), missing)) == text


def test_unchanged_tables_are_reported_as_such() -> None:
    assert line(Cumulated(Replaced("t", unchanged=2), ())) == "2 windows unchanged"
    assert line(Cumulated(Replaced("t"), ())) == "no windows"


def test_tickers_are_counted_by_session() -> None:
    rows = [("META", DAY), ("AAPL", DAY), ("META", NEXT)]
    allowed = tuple(FailingRow(ticker, day, "no bar", Outcome.ALLOWED) for ticker, day in rows)
    held = (FailingRow("NFLX", DAY, "volume 0", Outcome.HELD),)
    results = (CheckResult(CHECKS[3], {Outcome.HELD: 1}, held),)
    judged = Round({DAY: 3, NEXT: 3}, ALLOW_NONE, "")
    assert list(remarks(Audit(judged, "t", results, allowed))) == [
        "missing, allowed by --allow-missing: META (2 sessions), AAPL",
        "held, allowed by --allow-missing: NFLX (volume)",
    ]
    assert list(remarks(Audit(judged, "t", (), ()))) == []


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (Decimal("74.19"), Decimal("72.33"), "74.19 -> 72.33 (-2.51 %)"),
        (Decimal("0.01"), Decimal("100.00"), "0.01 -> 100.00 (+999900.00 %)"),
        (1000, 1001, "1000 -> 1001 (+0.10 %)"),
        (0, 5, "0 -> 5"),
        (None, Decimal("1.00"), "NULL -> 1.00"),
        (42, None, "42 -> NULL"),
        ([Decimal("1.00")], [Decimal("1.00"), Decimal("1.50")], "1.00 -> 1.00 1.50"),
    ],
)
def test_changed_cell(before: object, after: object, text: str) -> None:
    assert line(ChangedCell("NFLX", DAY, "close", before, after, None)) == f"NFLX 2025-10-14 close {text}"


def test_some_results_need_no_line() -> None:
    assert line(Initialized((), ("t",))) == ""
    assert line(Dropped("t", dropped=True)) == ""


def test_result_without_a_line_is_a_bug() -> None:
    with pytest.raises(TypeError, match="no line for date"):
        line(DAY)
