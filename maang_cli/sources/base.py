"""What a source is: it answers which bars these tickers had on these sessions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Protocol

from maang_cli.errors import MaangError
from maang_cli.splits import Claims

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Calls:
    """The API calls that a fetch of bars needs, and those for the splits around them."""

    grouped: tuple[date, ...] = ()
    """Sessions, in order, with one call each for all tickers."""
    ranges: Mapping[str, tuple[date, date]] = field(default_factory=dict)
    """Tickers with one call each, which covers the sessions from the first to the last."""
    cached: int = 0
    """Tickers for which an earlier run has left a cached answer, which costs no call."""

    splits: int = 0

    @property
    def number(self) -> int:
        """For bars."""
        return len(self.grouped) + len(self.ranges)

    @property
    def total(self) -> int:
        """For bars and splits."""
        return self.number + self.splits


@dataclass(frozen=True)
class Fetched:
    """One batch of sessions."""

    rows: pa.Table
    """In the columns of `tables.FETCHED_COLUMNS`."""
    failed: Mapping[date, MaangError]
    """Sessions that the source could not deliver, and why. They have no rows."""


@dataclass(frozen=True)
class Resume:
    """The request of a run that may reuse cached answers: those of an earlier run that did not publish them."""

    tickers: frozenset[str]
    first: date
    last: date


class Source(Protocol):
    """What sources implement. They inherit from it, for `bars`."""

    name: str
    made_up: bool
    """Whether its bars are invented. maang says so, and keeps them in a schema of their own."""

    def bars(self, tickers: Sequence[str], sessions: Sequence[date]) -> pa.Table:
        """The bars of these tickers on these sessions, as traded, in the columns `tables.FETCHED_COLUMNS`, in any order.

        A ticker without a bar has no row, and a value that the source does not send is NULL. `session` is the requested session,
        `date` is the one that the source says; the gate compares them. Rows of other tickers are left out. Prices are rounded
        half up to cents, volumes to whole shares.

        Raises:
            SourceDenied: the key or the plan does not allow it (2).
            NotPublishedYet: a session is not served yet (4).
            SourceFailed: no usable answer, after retries (4).
        """
        with closing(self.fetch(dict.fromkeys(sessions, frozenset(tickers)), [sessions])) as answers:
            (fetched,) = answers
        for error in fetched.failed.values():
            raise error
        return fetched.rows

    def splits(self, tickers: Sequence[str], first: date, last: date) -> Claims:
        """The splits of these tickers with execution dates from `first` to `last`, as the source lists them, right or wrong.

        Raises:
            SourceDenied, SourceFailed: as `bars`. A plan without splits is not an error: the user is told, and
            the claims are not complete.
        """

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        """What `maang doctor` checks, by name. Each returns what it found, or raises."""

    def plan(self, missing: Mapping[date, frozenset[str]], *, resume: Resume | None = ...) -> Calls:
        """The calls that `fetch` would make for these tickers of these sessions. It makes none."""

    def fetch(
        self,
        missing: Mapping[date, frozenset[str]],
        batches: Sequence[Sequence[date]],
        tick: Callable[[], None] = ...,
        *,
        resume: Resume | None = ...,
    ) -> Generator[Fetched]:
        """The bars of these tickers on these sessions, as `bars` returns them, one batch of sessions at a time.

        The batches are the sessions of `missing`, in order, cut into pieces. `tick` is called after each API call. A failure of
        one session is reported in its batch; a failure that concerns all of them is raised, as by `bars`.

        With `resume`, cached answers are used, and this run's answers are kept until the generator has come to its end. None:
        everything is fetched again.
        """

    @property
    def calls(self) -> int:
        """API calls made so far, retries included."""

    @property
    def per_minute(self) -> int | None:
        """How many calls a minute are allowed; None: no limit is known."""

    def close(self) -> None:
        """Release what is open; the source is not used afterwards."""
