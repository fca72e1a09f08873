"""The pace of calls to a vendor, shared by every thread of the process: turns go by the order of asking."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTE = 60.0
REFUSALS = 3
"""So many "too many requests" in a row, none of them saying how long to wait, are a limit a minute, to be learned."""


class Pacer:
    """At most `per_minute` calls in any 60 seconds; None: full speed, until the vendor refuses."""

    def __init__(
        self, per_minute: int | None, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._given = per_minute
        self._limit = per_minute
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._turns: deque[float] = deque()
        """When the calls of the last minute began or will begin."""
        self._answers: deque[float] = deque()
        """When the last minute's answers came."""
        self._not_before = 0.0
        self._refused = 0
        self._learned = 0.0

    @property
    def per_minute(self) -> int | None:
        """The pace as it is: the one that was given, or the one that was learned."""
        return self._limit

    def wait(self) -> float:
        """Wait for a turn; returns the seconds that it took."""
        asked = self._clock()
        with self._lock:
            self._relax(asked)
            turn = max(asked, self._not_before)
            if self._limit is not None and len(self._turns) >= self._limit:
                turn = max(turn, self._turns[-self._limit] + MINUTE)
            self._turns.append(turn)
        while (now := self._clock()) < (due := max(turn, self._not_before)):
            self._sleep(due - now)
        return now - asked

    def answered(self) -> None:
        """A call was let through."""
        with self._lock:
            self._refused = 0
            now = self._clock()
            self._answers.append(now)
            _forget(self._answers, now)

    def refused(self, seconds: float, *, told: bool) -> None:
        """A call was one too many: nobody calls for so long. `told`: the vendor said how long."""
        with self._lock:
            now = self._clock()
            self._not_before = max(self._not_before, now + seconds)
            self._refused = 0 if told else self._refused + 1
            if self._given is None and self._refused >= REFUSALS:
                _forget(self._answers, now)
                self._limit = max(len(self._answers), 1)
                self._learned = now
                self._refused = 0

    def _relax(self, now: float) -> None:
        """A pace that was learned is tried twice as fast after a minute without a refusal: the limit may not be one a minute."""
        _forget(self._turns, now)
        if self._given is None and self._limit is not None and now > self._learned + MINUTE:
            self._limit, self._learned = 2 * self._limit, now


def _forget(times: deque[float], now: float) -> None:
    while times and times[0] <= now - MINUTE:
        times.popleft()
