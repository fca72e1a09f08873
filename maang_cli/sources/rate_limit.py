"""How many calls a minute a vendor gets from all threads of this process together; first come, first served."""

import threading
import time
from collections import deque
from collections.abc import Callable

MINUTE = 60.0
REFUSALS = 3
"""After so many refusals in a row that don't state how long to wait, the limit per minute is learned."""


class RateLimiter:
    """At most `per_minute` calls in any 60 seconds; None: full speed, until the vendor refuses a call."""

    def __init__(
        self, per_minute: int | None, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._given = per_minute
        self._limit = per_minute
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._turns: deque[float] = deque()
        """When the calls of the last minute started or will start."""
        self._answers: deque[float] = deque()
        """When the answers of the last minute came."""
        self._not_before = 0.0
        self._refused = 0
        self._learned = 0.0

    @property
    def per_minute(self) -> int | None:
        """The limit now: the given one, or the learned one."""
        return self._limit

    def wait(self) -> float:
        """Wait for this call's turn; returns the seconds that it took."""
        called = self._clock()
        with self._lock:
            self._relax(called)
            turn = max(called, self._not_before)
            if self._limit is not None and len(self._turns) >= self._limit:
                turn = max(turn, self._turns[-self._limit] + MINUTE)
            self._turns.append(turn)
        while (now := self._clock()) < (due := max(turn, self._not_before)):
            self._sleep(due - now)
        return now - called

    def answered(self) -> None:
        """A call was answered."""
        with self._lock:
            self._refused = 0
            now = self._clock()
            self._answers.append(now)
            _forget(self._answers, now)

    def refused(self, seconds: float, *, stated: bool) -> None:
        """A call was one too many: no call starts for `seconds`. `stated`: the vendor stated how long to wait."""
        with self._lock:
            now = self._clock()
            self._not_before = max(self._not_before, now + seconds)
            self._refused = 0 if stated else self._refused + 1
            if self._given is None and self._refused >= REFUSALS:
                _forget(self._answers, now)
                self._limit = max(len(self._answers), 1)
                self._learned = now
                self._refused = 0

    def _relax(self, now: float) -> None:
        """After a minute without a refusal, try a learned limit twice as fast: it may not be a limit per minute at all."""
        _forget(self._turns, now)
        if self._given is None and self._limit is not None and now > self._learned + MINUTE:
            self._limit, self._learned = 2 * self._limit, now


def _forget(times: deque[float], now: float) -> None:
    while times and times[0] <= now - MINUTE:
        times.popleft()
