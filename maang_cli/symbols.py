"""Names, and the vendor's symbols by date: a company keeps its name in the tables if it changes its symbol. Pure functions.

An entry of the universe is `NAME`, or `NAME=SYMBOL:FIRST[..LAST][+SYMBOL:FIRST[..LAST]..]`. A symbol is valid from FIRST until
LAST, or until the next one's FIRST.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise

from maang_cli.errors import SettingsError

TICKER = re.compile(r"[A-Z][A-Za-z0-9]{0,9}([./-][A-Za-z0-9]{1,5}){0,2}")
"""A symbol as the vendor spells it: BRK.A, BACpA, ACHR.WS."""
ALWAYS = (date.min, date.max)
EXAMPLE = "META=FB:2012-05-18+META:2022-06-09"
_PART = re.compile(r"([^:]+):(\d{4}-\d{2}-\d{2})(?:\.\.(\d{4}-\d{2}-\d{2}))?", re.ASCII)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Listing:
    """A symbol, and the dates on which it means one name: from `first` to `last`."""

    symbol: str
    first: date
    last: date

    def covers(self, day: date) -> bool:
        return self.first <= day <= self.last


Listings = tuple[Listing, ...]
"""Of one name, in order; two of them never overlap."""


@dataclass(frozen=True)
class Symbols:
    """The listings of those names whose symbols depend on the date. For any other name, the symbol is the name."""

    listings: Mapping[str, Listings] = field(default_factory=dict)

    def symbol_of(self, name: str, day: date) -> str | None:
        """The vendor's symbol; None: the name is not listed on that day, so nobody asks for it, and it is not missing."""
        if name not in self.listings:
            return name
        return next((listing.symbol for listing in self.listings[name] if listing.covers(day)), None)

    def unlisted(self, names: Collection[str], day: date) -> frozenset[str]:
        """Those of the names that are not listed on that day."""
        return frozenset(name for name in self.listings if name in names and self.symbol_of(name, day) is None)

    def between(self, name: str, first: date, last: date) -> Listings:
        """The name's listings, as far as they are within these dates."""
        every = self.listings.get(name, (Listing(name, *ALWAYS),))
        return tuple(
            Listing(each.symbol, max(each.first, first), min(each.last, last))
            for each in every
            if each.first <= last and first <= each.last
        )

    def spans(self, names: Iterable[str]) -> dict[str, tuple[tuple[date, date], ...]]:
        """When these names are listed, without those that always are: the first and last day of each span."""
        return {name: _spans(self.listings[name]) for name in names if name in self.listings}

    def entry(self, name: str) -> str:
        """What a user types for this name. What is built in needs no more than the name."""
        listings = self.listings.get(name)
        return name if listings is None or listings == BUILT_IN.get(name) else entry(name, listings)

    def built_in(self, names: Iterable[str], first: date, last: date) -> list[str]:
        """The built-in entries that matter between these dates: the symbol is not always the name."""
        return [
            entry(name, self.listings[name])
            for name in names
            if name in self.listings
            and self.listings[name] == BUILT_IN.get(name)
            and self.between(name, first, last) != (Listing(name, first, last),)
        ]


def _spans(listings: Listings) -> tuple[tuple[date, date], ...]:
    spans = [(listings[0].first, listings[0].last)]
    for each in listings[1:]:
        if spans[-1][1] + _DAY == each.first:
            spans[-1] = (spans[-1][0], each.last)
        else:
            spans.append((each.first, each.last))
    return tuple(spans)


def without(spans: Iterable[tuple[date, date]], day: date) -> Iterator[tuple[date, date]]:
    """The spans without one day."""
    for first, last in spans:
        if not first <= day <= last:
            yield first, last
            continue
        if first < day:
            yield first, day - _DAY
        if day < last:
            yield day + _DAY, last


def entry(name: str, listings: Listings) -> str:
    """The entry that means these listings."""
    ends = [*(after.first - _DAY for after in listings[1:]), date.max]
    parts = (
        f"{each.symbol}:{each.first}{'' if each.last == end else f'..{each.last}'}"
        for each, end in zip(listings, ends, strict=True)
    )
    return f"{name}={'+'.join(parts)}"


def parse(entries: Sequence[str], hint: str) -> tuple[tuple[str, ...], Symbols]:
    """The names in their order, and their symbols, with the built-in ones for plain names. `hint`: of the errors.

    Raises:
        SettingsError: an entry is malformed, its dates are out of order, a name is listed twice, or two names mean one symbol on
            one day.
    """
    parts = [(text, *text.partition("=")) for text in entries]
    names = parse_names([name for _, name, _, _ in parts], hint)
    listings = {name: BUILT_IN[name] for name in names if name in BUILT_IN}
    listings |= {name: _listings(text, history) for text, name, equals, history in parts if equals}
    found = Symbols(listings)
    _check_clashes(names, found)
    return names, found


def parse_names(names: Sequence[str], hint: str) -> tuple[str, ...]:
    """The names as they are.

    Raises:
        SettingsError: a name is malformed, or listed twice.
    """
    for name in names:
        if not TICKER.fullmatch(name):
            meant = f"did you mean {name.upper()}? " if TICKER.fullmatch(name.upper()) else ""
            raise SettingsError(f"{name[:40]!r} is not a ticker symbol", hint=f"{meant}{hint}")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise SettingsError(f"listed twice among the tickers: {', '.join(twice)}", hint=hint)
    return tuple(names)


def _listings(text: str, history: str) -> Listings:
    hint = f"give an entry such as {EXAMPLE}, or NAME=SYMBOL:FIRST..LAST"
    found: list[Listing] = []
    for part in history.split("+"):
        match = _PART.fullmatch(part)
        if match is None or not TICKER.fullmatch(match[1]):
            raise SettingsError(f"{part[:40]!r} in the entry {text[:80]!r} is not SYMBOL:FIRST or SYMBOL:FIRST..LAST", hint=hint)
        try:
            first, last = date.fromisoformat(match[2]), date.fromisoformat(match[3]) if match[3] else date.max
        except ValueError as exc:
            raise SettingsError(f"{part[:40]!r} in the entry {text[:80]!r} has an invalid date", hint=hint) from exc
        if found and found[-1].last == date.max and found[-1].first < first:
            found[-1] = Listing(found[-1].symbol, found[-1].first, first - _DAY)
        if last < first or (found and found[-1].last >= first):
            raise SettingsError(f"the dates of the entry {text[:80]!r} are out of order at {part[:40]!r}", hint=hint)
        found.append(Listing(match[1], first, last))
    return tuple(found)


def _check_clashes(names: Iterable[str], symbols: Symbols) -> None:
    """Raise SettingsError if two names mean one symbol on one day."""
    uses: dict[str, list[tuple[Listing, str]]] = {}
    for name, listings in symbols.listings.items():
        for listing in listings:
            uses.setdefault(listing.symbol, []).append((listing, name))
    for name in names:
        if name in uses and name not in symbols.listings:
            uses[name].append((Listing(name, *ALWAYS), name))
    for symbol, found in uses.items():
        for (one, name), (other, second) in pairwise(sorted(found, key=lambda use: use[0].first)):
            if other.first <= one.last:
                raise SettingsError(
                    f"{name} and {second} both mean the symbol {symbol} on {other.first}",
                    hint="say in an entry when each of them means it: NAME=SYMBOL:FIRST..LAST",
                )


def _built_in(*entries: str) -> dict[str, Listings]:
    parts = (text.partition("=") for text in entries)
    return {name: _listings(f"{name}={history}", history) for name, _, history in parts}


BUILT_IN = _built_in(
    # Meta Platforms, class A. It trades as META since 2022-06-09 (the company's announcement of 2022-05-31), and the bars agree.
    # Before, META was the Roundhill Ball Metaverse ETF (2021-06-30 to 2022-01-28). Since 2025-06-24, FB is another fund.
    "META=FB:2012-05-18+META:2022-06-09",
    # Alphabet, class A. On 2014-04-02 Google paid one class C share for each class A share (its Form 8-K). Since 2014-04-03, the
    # class A shares trade as GOOGL and the class C shares as GOOG, and the bars agree.
    "GOOGL=GOOG:2004-08-19+GOOGL:2014-04-03",
    "GOOG=GOOG:2014-04-03",
)
"""What a plain name means if its symbol depends on the date."""


@dataclass(frozen=True)
class Mistaken:
    """Bars that versions without symbols stored under a name although they are another security's."""

    name: str
    first: date
    last: date
    below: int
    """USD. Their closes are below it; those of the name were above it at that time."""


MISTAKEN = Mistaken("META", date(2021, 6, 30), date(2022, 1, 28), 100)
"""The Roundhill Ball Metaverse ETF, at 12 to 17 dollars. Meta's shares cost about 300 dollars."""
