"""Waiting for other processes that use the same warehouse."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from maang_cli.errors import WarehouseFailed
from maang_cli.retries import ATTEMPT_SECONDS

log = logging.getLogger("maang")

T = TypeVar("T")


class Waiting:
    """How long one run may still wait, all its steps together. After a second of it, one line says what it waits for."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left = seconds
        self._said = False

    @property
    def attempt_seconds(self) -> float:
        """How long one attempt should wait; 0 if all the time is spent."""
        return max(min(ATTEMPT_SECONDS, self._left), 0)

    def until(self, attempt: Callable[[], T], is_busy: Callable[[Exception], bool], reason: str) -> T:
        """What `attempt` returns as soon as it succeeds. It waits for `attempt_seconds`, and raises an error that `is_busy`.

        Raises:
            WarehouseFailed: the other process has needed too long; `reason` says what it does.
        """
        while True:
            started = time.monotonic()
            try:
                return attempt()
            except Exception as exc:
                if not is_busy(exc):
                    raise
                failure = exc
            finally:
                self._left -= time.monotonic() - started
            if self._left <= 0:
                raise WarehouseFailed(
                    f"{reason}; this run has waited for {self._seconds:g} s",
                    hint="wait until it has ended, then run the same command again",
                ) from failure
            if not self._said:
                log.warning("waiting: %s", reason)
                self._said = True
