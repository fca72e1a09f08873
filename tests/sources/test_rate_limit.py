"""`sources.rate_limit`: how many calls start in a minute, on a clock that the tests move."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maang_cli.sources.rate_limit import RateLimiter


class Clock:
    """Time that only passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def starts(limiter: RateLimiter, clock: Clock, number: int) -> list[float]:
    """When so many calls start, each after the answer to the one before."""
    found = []
    for _ in range(number):
        limiter.wait()
        found.append(clock.now - 1000)
        limiter.answered()
    return found


def test_five_calls_a_minute() -> None:
    clock = Clock()
    assert starts(RateLimiter(5, clock, clock.sleep), clock, 11) == [0] * 5 + [60] * 5 + [120]


@given(st.integers(1, 6), st.lists(st.floats(0, 50), max_size=30))
def test_no_minute_has_more_calls_than_the_limit(limit: int, pauses: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(limit, clock, clock.sleep)
    found = []
    for pause in pauses:
        clock.now += pause
        limiter.wait()
        found.append(clock.now)
    assert all(later - earlier > 59.999 for earlier, later in zip(found, found[limit:], strict=False))


def test_no_call_waits_without_a_limit() -> None:
    clock = Clock()
    assert starts(RateLimiter(None, clock, clock.sleep), clock, 1000) == [0] * 1000


def test_wait_returns_the_seconds_that_it_took() -> None:
    clock = Clock()
    limiter = RateLimiter(1, clock, clock.sleep)
    assert limiter.wait() == 0
    clock.now += 20
    assert limiter.wait() == 40


def test_threads_share_the_limit() -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        threading.Event().wait()

    limiter = RateLimiter(2, sleep=sleep)
    threads = [threading.Thread(target=limiter.wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(0.2)
    assert sum(thread.is_alive() for thread in threads) == 3
    assert sorted(round(seconds) for seconds in waits) == [60, 60, 120]


def test_refusal_delays_all_calls() -> None:
    clock = Clock()
    limiter = RateLimiter(None, clock, clock.sleep)
    limiter.refused(7, stated=True)
    assert starts(limiter, clock, 2) == [7, 7]
    assert limiter.per_minute is None


def test_refusal_delays_a_call_that_waits_already() -> None:
    clock = Clock()

    def sleep(seconds: float) -> None:
        if clock.now == 1000:
            limiter.refused(100, stated=True)
        clock.now += seconds

    limiter = RateLimiter(1, clock, sleep)
    assert (limiter.wait(), limiter.wait()) == (0, 100)


def test_unstated_limit_is_learned_and_doubled_after_a_minute() -> None:
    clock = Clock()
    limiter = RateLimiter(None, clock, clock.sleep)
    starts(limiter, clock, 5)
    for seconds in (1, 2, 4):
        limiter.refused(seconds, stated=False)
    assert limiter.per_minute == 5
    assert starts(limiter, clock, 6)[-1] >= 60
    clock.now += 61
    limiter.wait()
    assert limiter.per_minute == 10


@pytest.mark.parametrize("between", ["an answer", "a stated wait"])
def test_limit_is_learned_only_from_refusals_in_a_row(between: str) -> None:
    clock = Clock()
    limiter = RateLimiter(None, clock, clock.sleep)
    for _ in range(2):
        limiter.refused(1, stated=False)
    if between == "an answer":
        limiter.answered()
    else:
        limiter.refused(1, stated=True)
    for _ in range(2):
        limiter.refused(1, stated=False)
    assert limiter.per_minute is None
    limiter.refused(1, stated=False)
    assert limiter.per_minute == 1


def test_given_limit_is_never_changed() -> None:
    clock = Clock()
    limiter = RateLimiter(5, clock, clock.sleep)
    for _ in range(9):
        limiter.refused(1, stated=False)
    clock.now += 1000
    limiter.wait()
    assert limiter.per_minute == 5
