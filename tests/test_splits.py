"""Splits as pure functions: how a claim is judged by the prices, and on which basis bars stand."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from maang_cli.splits import APPLIED, DISPUTED, IGNORED, NOT_WANTED, USER, Claim, Night, Split, bases, cleared, judge, to_newest

MONDAY, FRIDAY, SATURDAY, SUNDAY = date(2025, 11, 17), date(2025, 11, 14), date(2025, 11, 15), date(2025, 11, 16)
ASKED = (date(2025, 10, 15), date(2025, 11, 24))


def claim(split_from: str = "1", split_to: str = "10", executed: date = MONDAY) -> Claim:
    return Claim("NFLX", executed, Decimal(split_from), Decimal(split_to), "polygon")


def night(close: str, opened: str) -> Night:
    return Night(Decimal(close), Decimal(opened))


PROVED, UNMOVED = night("1112.17", "110.75"), night("1112.17", "1110.00")


def row(state: str = APPLIED, reason: str = "the prices prove it", **values: object) -> Split:
    usual = Split("NFLX", MONDAY, Decimal(1), Decimal(10), "polygon", MONDAY, state, reason)
    return replace(usual, **values)  # type: ignore[arg-type]


def verdict(claims: list[Claim], prices: Night | None, known: tuple[Split, ...] = ()) -> tuple[str, str]:
    """The state and the reason of the only split that is stored."""
    nights = {} if prices is None else {("NFLX", MONDAY): prices}
    [split] = judge(claims, known, ASKED, nights)
    assert split.key == ("NFLX", MONDAY)
    return split.state, split.reason


@pytest.mark.parametrize(
    ("claims", "prices", "state", "reason"),
    [
        ([claim()], PROVED, APPLIED, "the prices prove it"),
        ([claim()], None, APPLIED, "listed; there are no prices yet to prove it"),
        ([claim()], Night(Decimal("1112.17"), None), APPLIED, "listed; there are no prices yet to prove it"),
        ([claim()], UNMOVED, DISPUTED, "the price did not move: 1112.17 at the close before, 1110.00 at the open"),
        ([claim()], night("1000.00", "300.00"), APPLIED, "the prices prove it"),
        (
            [claim()],
            night("1000.00", "330.00"),
            DISPUTED,
            "the price did not move: 1000.00 at the close before, 330.00 at the open",
        ),
        ([claim()], night("1000.00", "2.00"), APPLIED, "listed; the prices neither prove nor contradict it"),
        ([claim("8", "1")], night("1.00", "8.10"), APPLIED, "the prices prove it"),
        ([claim("1", "1.05")], night("100.00", "100.00"), APPLIED, "listed; the prices neither prove nor contradict it"),
        ([claim("1", "0")], PROVED, IGNORED, "its ratio is not that of a split"),
        ([claim("-1", "10")], PROVED, IGNORED, "its ratio is not that of a split"),
        ([claim("5", "5")], PROVED, IGNORED, "its ratio is not that of a split"),
        ([claim(), claim("2", "20")], PROVED, APPLIED, "the prices prove it"),
        ([claim("1", "3"), claim()], PROVED, APPLIED, "the prices prove it; the vendor lists other ratios too"),
        ([claim("1", "3"), claim()], UNMOVED, DISPUTED, "the vendor lists the ratios 3:1 and 10:1, and the prices prove neither"),
        ([claim(executed=SATURDAY)], PROVED, APPLIED, "the prices prove it"),
    ],
)
def test_claim_is_judged_by_the_prices(claims: list[Claim], prices: Night | None, state: str, reason: str) -> None:
    assert verdict(claims, prices) == (state, reason)


def test_ratio_that_the_prices_prove_is_stored() -> None:
    [split] = judge([claim("1", "3"), claim()], [], ASKED, {("NFLX", MONDAY): PROVED})
    assert split.ratio == "10:1"


def test_split_of_a_day_without_a_session_counts_from_the_next_session() -> None:
    [split] = judge([claim(executed=SATURDAY)], [], ASKED, {})
    assert (split.session, split.vendor_date) == (MONDAY, SATURDAY)


@pytest.mark.parametrize(
    ("prices", "state", "reason"),
    [
        (PROVED, APPLIED, "the prices prove it; no longer listed by the vendor"),
        (UNMOVED, IGNORED, "no longer listed by the vendor, and the prices do not prove it"),
        (None, IGNORED, "no longer listed by the vendor, and the prices do not prove it"),
    ],
)
def test_split_that_is_no_longer_listed_needs_the_prices(prices: Night | None, state: str, reason: str) -> None:
    assert verdict([], prices, (row(),)) == (state, reason)


def test_split_of_which_the_vendor_was_not_asked_stays() -> None:
    old = row(session=date(2025, 7, 1), vendor_date=date(2025, 7, 1))
    assert judge([], [old], ASKED, {("NFLX", date(2025, 7, 1)): PROVED}) == [old]


@pytest.mark.parametrize("prices", [PROVED, UNMOVED, Night(Decimal("1112.17"), None)], ids=["proved", "unmoved", "no open"])
@pytest.mark.parametrize(
    "claims", [[claim()], [claim("1", "0")], [claim("1", "3"), claim()]], ids=["one ratio", "ratio 0", "two ratios"]
)
def test_judging_again_changes_nothing(claims: list[Claim], prices: Night) -> None:
    nights = {("NFLX", MONDAY): prices}
    once = judge(claims, [], ASKED, nights)
    assert judge(claims, once, ASKED, nights) == once
    assert judge([], once, None, nights) == once, "the vendor is not asked"
    unlisted = judge([], once, ASKED, nights)
    assert judge([], unlisted, None, nights) == judge([], unlisted, ASKED, nights) == unlisted


def test_users_split_replaces_the_vendors_of_the_same_time_and_gives_it_back() -> None:
    mine = row(source=USER, session=date(2025, 11, 24), vendor_date=None, reason="you added it")
    nights = {("NFLX", MONDAY): PROVED}
    judged = judge([claim()], [mine], ASKED, nights)
    assert [(split.session, split.state, split.reason) for split in judged] == [
        (MONDAY, IGNORED, "your split of 2025-11-24 replaces it"),
        (date(2025, 11, 24), APPLIED, "you added it"),
    ]
    again = judge([], cleared(judged, mine.key), None, nights)
    assert again == judge([claim()], [], ASKED, nights)


def test_users_split_of_another_time_replaces_nothing() -> None:
    mine = row(source=USER, session=date(2025, 12, 3), vendor_date=None)
    assert [split.state for split in judge([claim()], [mine], ASKED, {})] == [APPLIED, APPLIED]


def test_split_that_a_person_ignores_stays_ignored_when_it_is_listed_again() -> None:
    assert verdict([claim()], PROVED, (row(IGNORED, NOT_WANTED),)) == (IGNORED, NOT_WANTED)
    unlisted = judge([], [row(IGNORED, NOT_WANTED)], ASKED, {("NFLX", MONDAY): PROVED})
    assert unlisted == [row(IGNORED, NOT_WANTED)], "the vendor may list it again"
    assert [split.state for split in cleared([row(IGNORED, NOT_WANTED)], ("NFLX", MONDAY))] == [APPLIED]


def test_without_a_split_in_reach_there_is_no_basis() -> None:
    first, last = date(2025, 11, 3), date(2025, 11, 28)
    assert list(bases([row(session=first), row(session=date(2025, 12, 1)), row(DISPUTED)], first, last)) == []


def test_two_splits_in_one_window_are_multiplied() -> None:
    """3:1 on the 17th, 3:2 on the 19th: the bars before both are divided by 4.5."""
    splits = [row(split_to=Decimal(3)), row(session=date(2025, 11, 19), split_from=Decimal(2), split_to=Decimal(3))]
    found = [basis for basis in bases(splits, date(2025, 11, 3), date(2025, 11, 28)) if not basis.own]
    third, two_thirds = Decimal("0.333333333333333334"), Decimal("0.666666666666666667")
    assert [(b.first, b.last, b.price_factor, b.volume_factor) for b in found] == [
        (date(2025, 11, 7), SUNDAY, third, Decimal(3)),
        (date(2025, 11, 11), SUNDAY, Decimal("0.222222222222222223"), Decimal("4.5")),
        (MONDAY, date(2025, 11, 18), two_thirds, Decimal("1.5")),
    ]


def test_newest_basis_divides_by_all_later_splits() -> None:
    splits = [row(), row(session=date(2026, 3, 2), split_to=Decimal(2))]
    found = list(to_newest(splits, FRIDAY, date(2025, 11, 18)))
    assert [(b.first, b.last, b.price_factor, b.volume_factor) for b in found] == [
        (FRIDAY, SUNDAY, Decimal("0.05"), Decimal(20)),
        (MONDAY, date(2026, 3, 1), Decimal("0.5"), Decimal(2)),
    ]
