"""What a source is: it answers one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from datetime import date

    import pyarrow as pa

    from maang_cli.errors import MaangError
    from maang_cli.planner import Calls


@dataclass(frozen=True)
class Fetched:
    """One batch of sessions."""

    rows: pa.Table
    """In staging's columns."""
    failed: Mapping[date, MaangError]
    """Sessions that the source could not give, and why; they have no rows."""


@dataclass(frozen=True)
class Resume:
    """What a run is asked for, so that it can take up what an earlier run of the same was told and did not publish."""

    tickers: frozenset[str]
    first: date
    last: date


class Source(Protocol):
    name: str
    made_up: bool
    """Whether its bars are invented; such bars are announced and live in a schema of their own."""

    def bars(self, tickers: Sequence[str], sessions: Sequence[date]) -> pa.Table:
        """The bars of these tickers on these sessions, as traded, in staging's columns (`tables.STAGED_COLUMNS`), in no order.

        A ticker without a bar is absent, a value the source does not give is NULL, `session` is the session that was asked for,
        and `date` is what the source says it is: whether that will do is the gate's to say. Rows of other tickers are left out.
        Prices are rounded half up to cents, volumes to whole shares.

        Raises:
            SourceDenied: the key or the plan does not allow it (2).
            NotPublishedYet: a session is not served yet (4).
            SourceFailed: no usable answer, after retries (4).
        """

    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What `maang doctor` looks at here, by name; each says what is so, or raises."""

    def plan(self, missing: Mapping[date, frozenset[str]], *, resume: Resume | None = ...) -> Calls:
        """The calls that `fetch` would make for these tickers of these sessions. Nothing is asked."""

    def fetch(
        self,
        missing: Mapping[date, frozenset[str]],
        batches: Sequence[Sequence[date]],
        tick: Callable[[], None] = ...,
        *,
        resume: Resume | None = ...,
    ) -> Generator[Fetched]:
        """The bars of these tickers on these sessions, a batch of sessions at a time, as `bars` would give them.

        The batches are the sessions of `missing`, in order, cut into pieces. `tick` is called after each call. What concerns one
        session is told in its batch, what concerns them all is raised, as by `bars`.

        `resume`: what an earlier run was told of this and did not publish will do, and what this one is told is kept until the
        generator has come to its end. None: everything is asked anew.
        """

    @property
    def calls(self) -> int:
        """Calls made so far, those that were repeated included."""

    @property
    def per_minute(self) -> int | None:
        """The pace of the calls; None: no limit is known."""

    def close(self) -> None:
        """Give back what is held; the source is not used afterwards."""
