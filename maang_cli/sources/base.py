"""What a source is: it answers one question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    import pyarrow as pa


class Source(Protocol):
    name: str
    made_up: bool
    """Whether its bars are invented; such bars are announced and live in a schema of their own."""

    def bars(self, tickers: Sequence[str], sessions: Sequence[date]) -> pa.Table:
        """The bars of these tickers on these sessions, as traded, in staging's columns (`tables.STAGED_COLUMNS`), in no order.

        A ticker without a bar is absent, a value the source does not give is NULL, and `date` is what the source says it is:
        whether that will do is the gate's to say. Rows of other tickers are left out. Prices are rounded half up to cents,
        volumes to whole shares.

        Raises:
            SourceDenied: the key or the plan does not allow it (2).
            NotPublishedYet: a session is not served yet (4).
            SourceFailed: no usable answer, after retries (4).
        """

    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What `maang doctor` looks at here, by name; each says what is so, or raises."""

    def close(self) -> None:
        """Give back what is held; the source is not used afterwards."""
