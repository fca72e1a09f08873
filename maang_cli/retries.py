"""How often and how long maang tries again: every budget, and the back-off between attempts.

Two budgets are settings: one API call (MAANG_RETRY_SECONDS) and a warehouse that starts (MAANG_WAREHOUSE_WAIT).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenacity import RetryCallState

API_CALL_SECONDS = "120"
"""The default of MAANG_RETRY_SECONDS: one API call with all its attempts."""
WAREHOUSE_START_SECONDS = "600"
"""The default of MAANG_WAREHOUSE_WAIT: one statement while the warehouse starts."""
UNREACHABLE_SECONDS = 60
"""A Databricks host that can't be reached. It gets less time than a starting warehouse, because its address may be wrong."""
FAILED_STATEMENT_SECONDS = 30
"""A statement that fails inside Databricks."""
CALL_ATTEMPTS = 100
"""Of one API call, if the vendor asks for no wait between them (`Retry-After: 0`)."""

CONNECT_SECONDS = 10
READ_SECONDS = 30
"""Without a byte of the answer."""
STATEMENT_SECONDS = 120
"""Without an answer from Databricks. A long statement is answered immediately, and then polled."""

WAITING_SECONDS = 120
"""One run, while other processes write to the same local warehouse. One write takes a fraction of a second."""
ATTEMPT_SECONDS = 1
"""One attempt to lock it; after the first one that fails, a line says what maang waits for."""

COMMIT_ATTEMPTS = 10
"""How often a commit is computed, if another writer is faster each time."""
STAGING_ATTEMPTS = 5
"""How often a backfill stages a batch, if another run drops or replaces its staging table each time."""

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1, 30
"""The back-off doubles from the first to the longest wait, with up to a second of jitter."""


def commit_pause(attempt: int) -> float:
    """How many seconds to wait before a commit is computed again: at random, so that writers who met don't meet again.

    `attempt`: how many attempts have failed.
    """
    return random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)))  # noqa: S311 - no secret


class Transient(Exception):
    """This attempt failed, and the next one may succeed."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after
        """Seconds that the server asked to wait before the next attempt; None: the back-off decides."""


def wait_seconds(state: RetryCallState) -> float:
    """How long to wait before the next attempt."""
    from tenacity import wait_exponential_jitter

    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, Transient) and failure.after is not None:
        return failure.after
    return wait_exponential_jitter(initial=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS)(state)
