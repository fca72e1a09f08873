"""The chosen API calls, compared with the optimum that an exhaustive search finds."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maang_cli.sources.base import Calls
from maang_cli.sources.polygon import fewest_calls

Missing = Mapping[date, frozenset[str]]
DAYS = [date(2016, 1, 1) + timedelta(days=number) for number in range(2500)]
UNIVERSE = [f"T{number:03}" for number in range(500)]


def by_session(missing: Iterable[Iterable[str]]) -> dict[date, frozenset[str]]:
    """The first item has the missing tickers of the first session, and so on."""
    return {day: frozenset(tickers) for day, tickers in zip(DAYS, missing, strict=False)}


def pairs(missing: Missing) -> set[tuple[str, date]]:
    return {(ticker, day) for day, tickers in missing.items() for ticker in tickers}


def fetched(calls: Calls, missing: Missing) -> set[tuple[str, date]]:
    """The missing pairs that the calls fetch."""
    grouped = set(calls.grouped)
    return {
        (ticker, day)
        for ticker, day in pairs(missing)
        if day in grouped or (ticker in calls.ranges and calls.ranges[ticker][0] <= day <= calls.ranges[ticker][1])
    }


def optimum(missing: Missing) -> int:
    """Try every set of grouped calls; each ticker that is missing on another session needs a range call.

    Sessions with the same missing tickers need the same kind of call, so the search tries them together.
    """
    groups = Counter(missing.values())
    choices = itertools.chain.from_iterable(itertools.combinations(groups, size) for size in range(len(groups) + 1))
    return min(sum(groups[group] for group in choice) + len(set().union(*groups.keys() - set(choice))) for choice in choices)


def extra_calls(missing: Missing) -> int:
    """Check that the calls fetch everything. Return by how many calls they exceed the optimum."""
    calls = fewest_calls.fewest(missing)
    assert fetched(calls, missing) == pairs(missing)
    return calls.number - optimum(missing)


def rows(tickers: int) -> list[tuple[str, ...]]:
    """Every set of tickers that can be missing on a session."""
    return [row for size in range(tickers + 1) for row in itertools.combinations("ABCD"[:tickers], size)]


@pytest.mark.parametrize(("sessions", "tickers"), [(3, 3), (3, 4), (4, 3)])
def test_three_sessions_or_three_tickers_always_get_the_optimum(sessions: int, tickers: int) -> None:
    assert {extra_calls(by_session(pattern)) for pattern in itertools.product(rows(tickers), repeat=sessions)} == {0}


def test_four_sessions_and_four_tickers_rarely_need_one_extra_call() -> None:
    """Each pattern in one order of its sessions. In all orders, 576 of 65,536 patterns need one extra call."""
    patterns = itertools.combinations_with_replacement(rows(4), 4)
    assert Counter(extra_calls(by_session(pattern)) for pattern in patterns) == {0: 3852, 1: 24}


@given(st.lists(st.frozensets(st.sampled_from("ABCD")), max_size=5).map(by_session))
def test_five_sessions_and_four_tickers_need_at_most_one_extra_call(missing: Missing) -> None:
    assert extra_calls(missing) <= 1


@given(st.lists(st.frozensets(st.sampled_from("ABCDEFGH")), max_size=8).map(by_session))
def test_calls_fetch_everything_and_are_never_more_than_sessions_or_tickers(missing: Missing) -> None:
    calls = fewest_calls.fewest(missing)
    assert fetched(calls, missing) == pairs(missing)
    assert calls.number <= min(sum(map(bool, missing.values())), len(set().union(*missing.values())))


@given(st.lists(st.frozensets(st.sampled_from("ABCDEFGH")), max_size=8).map(by_session))
def test_range_spans_only_the_sessions_that_it_has_to_fetch(missing: Missing) -> None:
    calls = fewest_calls.fewest(missing)
    for ticker, span in calls.ranges.items():
        days = [day for day in missing if ticker in missing[day] and day not in calls.grouped]
        assert span == (min(days), max(days))


@given(st.lists(st.frozensets(st.sampled_from("ABCDEFGH")), max_size=8).map(by_session))
def test_order_of_the_calls_does_not_depend_on_the_order_of_the_sessions(missing: Missing) -> None:
    calls = fewest_calls.fewest(missing)
    assert fewest_calls.fewest(dict(reversed(list(missing.items())))) == calls
    assert list(calls.grouped) == sorted(calls.grouped)
    assert list(calls.ranges) == sorted(calls.ranges)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([], Calls()),
        (["", ""], Calls()),
        (["A"], Calls((DAYS[0],))),
        (["AB", "AB"], Calls((DAYS[0], DAYS[1]))),
        (["ABC", "", "ABC"], Calls((DAYS[0], DAYS[2]))),
        (["AB", "AB", "AB"], Calls((), {"A": (DAYS[0], DAYS[2]), "B": (DAYS[0], DAYS[2])})),
        (["AB", "A", "A"], Calls((DAYS[0],), {"A": (DAYS[1], DAYS[2])})),
        (["ABCD", "A", "A", "A"], Calls((DAYS[0],), {"A": (DAYS[1], DAYS[3])})),
        (["AB", "A", "A", "B"], Calls((), {"A": (DAYS[0], DAYS[2]), "B": (DAYS[0], DAYS[3])})),
        (
            ["ABC", "A", "A", "B", "B", "C", "C"],
            Calls((), {"A": (DAYS[0], DAYS[2]), "B": (DAYS[0], DAYS[4]), "C": (DAYS[0], DAYS[6])}),
        ),
    ],
    ids=[
        "nothing is missing",
        "complete sessions",
        "one bar",
        "as many sessions as tickers",
        "fewer sessions than tickers",
        "fewer tickers than sessions",
        "a grouped call if it costs no more than a range call",
        "one complete session and one ticker",
        "two tickers at different times",
        "a grouped call that range calls make redundant",
    ],
)
def test_calls_of_small_examples(missing: list[str], expected: Calls) -> None:
    assert fewest_calls.fewest(by_session(missing)) == expected


def stored(sessions: int, *missing: tuple[Iterable[str], int, int]) -> Missing:
    """Sessions on which these tickers are missing: from the first number until before the second."""
    return by_session(
        {ticker for tickers, first, end in missing if first <= number < end for ticker in tickers} for number in range(sessions)
    )


REFUSED = [(UNIVERSE, number, number + 1) for number in (17, 18, 90)]
THIN = [([UNIVERSE[450 + number % 5]], day, day + 1) for number, day in enumerate(range(3, 250, 13))]
NEW = [(UNIVERSE[:2], 0, 2500), (UNIVERSE[2:5], 400, 2500), (UNIVERSE[5:6], 0, 1700)]


@pytest.mark.parametrize(
    "missing",
    [
        stored(21, (UNIVERSE, 0, 21)),
        stored(250, (UNIVERSE[:5], 0, 250)),
        stored(250, *REFUSED),
        stored(2500, (UNIVERSE[:1], 0, 2500), (UNIVERSE, 2495, 2500)),
        stored(2500, *NEW),
        stored(250, *THIN),
        stored(250, (UNIVERSE, 125, 250)),
        stored(250, (UNIVERSE[::2], 100, 250)),
        stored(2500, *REFUSED, *NEW, *THIN, (UNIVERSE, 2499, 2500)),
    ],
    ids=[
        "a month of the universe",
        "a year of five tickers",
        "refused sessions",
        "a new ticker and the last week",
        "tickers that were added at different times",
        "thin tickers on some sessions",
        "a killed backfill that made grouped calls",
        "a killed backfill that made range calls",
        "several of these",
    ],
)
def test_realistic_cases_get_the_optimum(missing: Missing) -> None:
    assert extra_calls(missing) == 0


def test_ten_years_of_a_whole_market() -> None:
    market = frozenset(f"T{number}" for number in range(11_000))
    assert fewest_calls.fewest(dict.fromkeys(DAYS, market)) == Calls(tuple(DAYS))


@pytest.mark.parametrize(
    ("missing", "grouped", "ranges"),
    [(["ABCDE", "A", "A", "A"], 4, 0), (["ABCD", "A", "A", "A"], 4, 0), (["ABCD", "A", "A", "A", "A"], 0, 4)],
    ids=["fewer sessions than tickers", "as many", "fewer tickers than sessions"],
)
def test_too_many_pairs_get_only_one_kind_of_call(missing: list[str], grouped: int, ranges: int) -> None:
    mixed = fewest_calls.fewest(by_session(missing))
    assert (len(mixed.grouped), len(mixed.ranges)) == (1, 1)
    calls = fewest_calls.fewest(by_session(missing), max_pairs=len(missing[0]))
    assert (len(calls.grouped), len(calls.ranges)) == (grouped, ranges)


def test_random_pairs_are_all_fetched() -> None:
    chance = random.Random(7)
    missing = by_session(chance.sample(UNIVERSE, chance.randrange(6)) for _ in range(500))
    calls = fewest_calls.fewest(missing)
    assert fetched(calls, missing) == pairs(missing)
    assert calls.grouped
    assert calls.ranges
