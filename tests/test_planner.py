"""The fewest calls, held against trying all ways on small holes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maang_cli import planner
from maang_cli.planner import Calls

Missing = Mapping[date, frozenset[str]]
DAYS = [date(2025, 10, 1) + timedelta(days=number) for number in range(2500)]


def hole(*rows: str) -> dict[date, frozenset[str]]:
    """One string of tickers, a letter each, for each session."""
    return {day: frozenset(row) for day, row in zip(DAYS, rows, strict=False)}


def pairs(missing: Missing) -> set[tuple[str, date]]:
    return {(ticker, day) for day, tickers in missing.items() for ticker in tickers}


def brought(calls: Calls, missing: Missing) -> set[tuple[str, date]]:
    """What the calls bring of what is missing."""
    return {
        (ticker, day)
        for ticker, day in pairs(missing)
        if day in calls.grouped or (ticker in calls.ranges and calls.ranges[ticker][0] <= day <= calls.ranges[ticker][1])
    }


def fewest_by_trying(missing: Missing) -> int:
    """For each set of grouped sessions, the tickers that are left need a range call each."""
    days = list(missing)
    ways = itertools.chain.from_iterable(itertools.combinations(days, size) for size in range(len(days) + 1))
    return min(len(way) + len({ticker for ticker, day in pairs(missing) if day not in way}) for way in ways)


holes = st.lists(st.text(alphabet="ABCDEFGH", max_size=8), min_size=0, max_size=8).map(lambda rows: hole(*rows))


@given(holes)
def test_no_fewer_calls_bring_what_is_missing(missing: Missing) -> None:
    calls = planner.fewest(missing)
    assert brought(calls, missing) == pairs(missing)
    assert calls.number == fewest_by_trying(missing)


@given(holes)
def test_a_range_spans_just_what_no_grouped_call_brings(missing: Missing) -> None:
    calls = planner.fewest(missing)
    for ticker, (first, last) in calls.ranges.items():
        left = [day for day in missing if ticker in missing[day] and day not in calls.grouped]
        assert (first, last) == (min(left), max(left))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((), Calls()),
        (("", ""), Calls()),
        (("A",), Calls((DAYS[0],))),
        (("ABC", "ABC"), Calls((DAYS[0], DAYS[1]))),
        (("AB", "AB", "AB"), Calls((), {"A": (DAYS[0], DAYS[2]), "B": (DAYS[0], DAYS[2])})),
        (("ABCD", "A", "A", "A"), Calls((DAYS[0],), {"A": (DAYS[1], DAYS[3])})),
    ],
    ids=["nothing", "complete sessions", "one bar", "wide and short", "narrow and long", "a mix"],
)
def test_the_usual_holes(rows: tuple[str, ...], expected: Calls) -> None:
    assert planner.fewest(hole(*rows)) == expected


def test_a_whole_market_over_ten_years_is_one_edge() -> None:
    market = frozenset(f"T{number}" for number in range(11_000))
    assert planner.fewest(dict.fromkeys(DAYS, market)).grouped == tuple(DAYS)


def test_a_new_ticker_beside_a_missing_week_takes_both_ways() -> None:
    market = frozenset(f"T{number}" for number in range(500))
    missing = {day: market if number < 5 else frozenset(["T7"]) for number, day in enumerate(DAYS)}
    assert planner.fewest(missing) == Calls(tuple(DAYS[:5]), {"T7": (DAYS[5], DAYS[-1])})


def test_holes_without_any_pattern_are_covered_all_the_same() -> None:
    chance = random.Random(7)
    names = [f"T{number}" for number in range(400)]
    missing = {day: frozenset(chance.sample(names, 200)) for day in DAYS[:300]}
    calls = planner.fewest(missing)
    assert brought(calls, missing) == pairs(missing)
    assert calls.number <= 300
