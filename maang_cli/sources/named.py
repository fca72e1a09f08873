"""A source that is asked for names, and asks another one for the symbols that they have on each session."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from maang_cli.sources.base import Calls, Fetched, Resume, Source
from maang_cli.splits import Claim, Claims
from maang_cli.symbols import Listing, Symbols

BUILT_IN_SPLITS = (
    # 2014-04-02: one class C share for each class A share, and the class A symbol changed from GOOG to GOOGL. GOOG closed at
    # 1135.10, GOOGL opened at 573.39.
    Claim("GOOGL", date(2014, 4, 3), Decimal(1), Decimal(2), "built-in"),
)
"""By symbol. The vendor lists none of them; they are judged as its own."""


class NamedSource(Source):
    """Translates names to symbols on the way to a source, and symbols to names on the way back.

    A name that is not listed on a session is not asked for there. If all symbols equal their names, rows stay as they are.
    """

    def __init__(self, source: Source, symbols: Symbols) -> None:
        self._source, self._symbols = source, symbols
        self.name, self.made_up = source.name, source.made_up

    def splits(self, tickers: Sequence[str], first: date, last: date) -> Claims:
        listed = self._by_symbol(tickers, first, last)
        claims = self._source.splits(list(listed), first, last)
        built_in = [claim for claim in BUILT_IN_SPLITS if first <= claim.executed <= last]
        rows = tuple(
            replace(claim, ticker=name)
            for claim in (*claims.rows, *built_in)
            for name, listing in listed.get(claim.ticker, ())
            if listing.covers(claim.executed)
        )
        return Claims(rows, claims.complete)

    def _by_symbol(self, names: Iterable[str], first: date, last: date) -> dict[str, list[tuple[str, Listing]]]:
        """The symbols that these names have between these dates, with the name that each means, and when."""
        found: dict[str, list[tuple[str, Listing]]] = {}
        for name in names:
            for listing in self._symbols.between(name, first, last):
                found.setdefault(listing.symbol, []).append((name, listing))
        return found

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        return self._source.doctor_checks()

    def plan(self, missing: Mapping[date, frozenset[str]], *, resume: Resume | None = None) -> Calls:
        return self._source.plan(self._translated(missing), resume=self._resume(resume))

    def fetch(
        self,
        missing: Mapping[date, frozenset[str]],
        batches: Sequence[Sequence[date]],
        tick: Callable[[], None] = lambda: None,
        *,
        resume: Resume | None = None,
    ) -> Generator[Fetched]:
        wanted = self._translated(missing)
        with closing(self._source.fetch(wanted, batches, tick, resume=self._resume(resume))) as answers:
            for batch, fetched in zip(batches, answers, strict=True):
                names = frozenset[str]().union(*{missing[day] for day in batch})
                yield replace(fetched, rows=self._renamed(fetched.rows, names, batch))

    def _resume(self, resume: Resume | None) -> Resume | None:
        return resume and replace(resume, tickers=frozenset(self._by_symbol(resume.tickers, resume.first, resume.last)))

    def _translated(self, missing: Mapping[date, frozenset[str]]) -> dict[date, frozenset[str]]:
        """The symbols that these names have on these sessions; equal sets are one object."""
        made: dict[tuple[frozenset[str], tuple[tuple[str, str | None], ...]], frozenset[str]] = {}
        found = {}
        for day, names in missing.items():
            limited = ((name, self._symbols.symbol_of(name, day)) for name in self._symbols.listings if name in names)
            other = {name: symbol for name, symbol in limited if symbol != name}
            if not other:
                found[day] = names
                continue
            key = names, tuple(other.items())
            if key not in made:
                made[key] = names.difference(other) | {symbol for symbol in other.values() if symbol is not None}
            found[day] = made[key]
        return found

    def _renamed(self, rows: pa.Table, names: frozenset[str], batch: Sequence[date]) -> pa.Table:
        """The rows under the names of their symbols."""
        tickers = renamed = rows["ticker"]
        for name in self._symbols.listings.keys() & names:
            for each in self._symbols.between(name, min(batch), max(batch)):
                if each.symbol != name:
                    within = pc.and_(pc.greater_equal(rows["session"], each.first), pc.less_equal(rows["session"], each.last))
                    mine = pc.fill_null(pc.and_(pc.equal(tickers, each.symbol), within), False)
                    renamed = pc.if_else(mine, name, renamed)
        if renamed is tickers:
            return rows
        place = rows.column_names.index("ticker")
        return rows.set_column(place, rows.schema.field(place), renamed)

    @property
    def calls(self) -> int:
        return self._source.calls

    @property
    def per_minute(self) -> int | None:
        return self._source.per_minute

    def close(self) -> None:
        self._source.close()
