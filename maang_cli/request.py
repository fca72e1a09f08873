"""What a run is about: tickers on sessions, and what may be missing or is accepted there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property

from maang_cli import checks
from maang_cli.checks import AllowMissing
from maang_cli.symbols import ALWAYS, Symbols, without
from maang_cli.tables import Table, staging
from maang_cli.warehouses.base import Spans


@dataclass(frozen=True)
class Request:
    """What the user asks for: these tickers on these sessions, as far as they are listed there."""

    tickers: tuple[str, ...]
    sessions: tuple[date, ...]
    """In order; at least one, except for `init_tables`."""
    allow_missing: AllowMissing = checks.ALLOW_NONE
    universe: tuple[str, ...] | None = None
    """The tickers that name the staging table, if only a part of them is requested; None: `tickers`."""
    symbols: Symbols = field(default_factory=Symbols)
    accept: tuple[checks.Acceptance, ...] = ()
    """What a person accepts although it fails a check."""
    left_out: frozenset[tuple[str, date]] = frozenset()
    """Tickers that are not asked for on a session, although they are listed there."""

    @property
    def staging(self) -> Table:
        return staging(map(self.symbols.entry, self.universe or self.tickers), self.sessions)

    @cached_property
    def everything(self) -> frozenset[str]:
        return frozenset(self.tickers)

    @cached_property
    def spans(self) -> Spans:
        """When the tickers are requested, as a query needs it."""
        found = self.symbols.spans(self.tickers)
        for ticker, day in self.left_out:
            found[ticker] = tuple(without(found.get(ticker, (ALWAYS,)), day))
        return found

    def requested(self, day: date) -> frozenset[str]:
        """The tickers that are requested on that day; equal sets are one object."""
        unlisted = self.symbols.unlisted(self.everything, day) | {ticker for ticker, out in self.left_out if out == day}
        return self._without(unlisted) if unlisted else self.everything

    @cached_property
    def _without(self) -> Callable[[frozenset[str]], frozenset[str]]:
        return cache(self.everything.difference)

    def listed(self, sessions: Iterable[date]) -> dict[date, int]:
        """How many tickers of the universe are listed on each session."""
        names = frozenset(self.universe or self.tickers)
        return {day: len(names) - len(self.symbols.unlisted(names, day)) for day in sessions}
