"""Share splits: what is claimed, what the prices say about it, and on which basis a window's prices stand. Pure functions.

A split of 10 for 1 has `split_from` 1 and `split_to` 10: on its first session a price is a tenth of what it was. Prices are
divided and volumes multiplied as CRSP does it (https://www.crsp.org/wp-content/uploads/guides/CRSP_Calculations_Guide.pdf), by
splits and stock dividends only; the base date is the window's last session.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from itertools import groupby
from math import log, prod

from maang_cli import sessions as calendar

APPLIED, DISPUTED, IGNORED = "applied", "disputed", "ignored"
USER = "user"
"""The source of a row that a person has added."""
CLAIMS_BEFORE, CLAIMS_AFTER = timedelta(days=30), timedelta(days=7)
"""Around the sessions of a run: of which execution dates the vendor is asked for splits, so that late corrections are seen."""
NOT_WANTED = "you ignore it"
"""The reason of a listed split that a person does not want to be applied."""
SAME_SPLIT_SESSIONS = 10
"""A user's split replaces the vendor's splits of the ticker up to this many sessions away: the vendor had the date wrong."""
SAME_SPLIT_DAYS = timedelta(days=21)
"""At least as long as so many sessions."""
SMALL = log(1.25)
"""Below this, the overnight move of a price says nothing about a split, such as a stock dividend of 5 %."""
_RATIOS = "the vendor lists the ratios"
_FACTOR_PLACES = Decimal(1).scaleb(-18)
_ROUND_UP = Context(prec=60, rounding=ROUND_CEILING)


Key = tuple[str, date]
"""A split's ticker and first session."""


@dataclass(frozen=True)
class Claim:
    """What somebody says about a split."""

    ticker: str
    executed: date
    """The day from which shares trade on the new basis; it may be a day without a session."""
    split_from: Decimal
    split_to: Decimal
    source: str


@dataclass(frozen=True)
class Claims:
    """What a source lists."""

    rows: tuple[Claim, ...] = ()
    complete: bool = True
    """Whether a split that is not among them is not listed; False if the source does not tell splits."""


@dataclass(frozen=True)
class Night:
    """The prices around a split's first session; None if there is no bar."""

    previous_close: Decimal | None = None
    open: Decimal | None = None


@dataclass(frozen=True)
class Split:
    """A row of the table `tables.SPLITS`."""

    ticker: str
    session: date
    """The first session on the new basis: the column `date`."""
    split_from: Decimal
    split_to: Decimal
    source: str
    vendor_date: date | None
    state: str
    reason: str

    @property
    def key(self) -> Key:
        return self.ticker, self.session

    @property
    def ratio(self) -> str:
        """As a person writes it: new shares for old ones, "10:1"."""
        return f"{self.split_to.normalize():f}:{self.split_from.normalize():f}"


def session_of(executed: date) -> date:
    """The first session that trades on the new basis: `executed`, or the first session after it."""
    day = executed
    while not calendar.is_session(day):
        day += timedelta(days=1)
    return day


def judge(
    claims: Iterable[Claim],
    known: Iterable[Split],
    requested: tuple[date, date] | None,
    nights: Mapping[Key, Night],
) -> list[Split]:
    """The splits to store: the vendor's claims and the known rows, each with its state, by ticker and date.

    `requested`: of which execution dates the vendor was asked; a known row among them that it no longer claims is judged by the
    prices alone. None: it was not asked. `nights`: the prices around the splits' first sessions.
    """
    claimed: dict[Key, list[Claim]] = {}
    for claim in claims:
        claimed.setdefault((claim.ticker, session_of(claim.executed)), []).append(claim)
    rows = {key: _of_one_session(same, nights.get(key, Night())) for key, same in claimed.items()}
    users = [split for split in known if split.source == USER]
    for split in known:
        if split.reason == NOT_WANTED:
            rows[split.key] = replace(rows.get(split.key, split), state=IGNORED, reason=NOT_WANTED)
        elif split.source != USER and split.key not in rows:
            was_asked = requested and split.vendor_date and requested[0] <= split.vendor_date <= requested[1]
            night = nights.get(split.key, Night())
            rows[split.key] = _unlisted(split, night) if was_asked else _rejudged(split, night)
    for user in users:
        if user.state == APPLIED:
            for split in [row for row in rows.values() if row.ticker == user.ticker and _near(row.session, user.session)]:
                rows[split.key] = replace(split, state=IGNORED, reason=_replaced(user.session))
        rows[user.key] = user
    return [rows[key] for key in sorted(rows)]


def _replaced(session: date) -> str:
    return f"your split of {session} replaces it"


def cleared(known: Iterable[Split], key: Key) -> list[Split]:
    """The known splits without what a person did about one of them: to be judged again."""

    def is_free(split: Split) -> bool:
        return split.reason == _replaced(key[1]) or (split.key == key and split.reason == NOT_WANTED)

    rest = (split for split in known if split.key != key or split.source != USER)
    return [replace(split, state=APPLIED, reason="") if is_free(split) else split for split in rest]


def _rejudged(split: Split, night: Night) -> Split:
    """A known split of which the vendor was not asked, with the state that the prices give it now.

    An ignored one stays as it is, and so does one of which the vendor has listed several ratios: only its answer has them all.
    """
    if split.state == IGNORED or split.reason.startswith(_RATIOS):
        return split
    state, reason = _by_prices(split.split_from, split.split_to, night)
    return split if split.reason.startswith(reason) else replace(split, state=state, reason=reason)


def _of_one_session(claims: Sequence[Claim], night: Night) -> Split:
    """What to make of all claims about one ticker's session."""
    first = claims[0]
    day = session_of(first.executed)
    valid = [claim for claim in claims if claim.split_from > 0 and claim.split_to > 0 and claim.split_from != claim.split_to]
    if not valid:
        return _row(first, day, IGNORED, "its ratio is not that of a split")
    ratios = {Fraction(claim.split_to) / Fraction(claim.split_from): claim for claim in valid}
    if len(ratios) == 1:
        return _row(valid[0], day, *_by_prices(valid[0].split_from, valid[0].split_to, night))
    moved = _moved(night)
    best = ratios[min(ratios, key=lambda ratio: 0.0 if moved is None else abs(moved - log(ratio)))]
    if moved is not None and _proves(moved, log(best.split_to / best.split_from)):
        return _row(best, day, APPLIED, "the prices prove it; the vendor lists other ratios too")
    listed = " and ".join(f"{ratio.numerator}:{ratio.denominator}" for ratio in sorted(ratios))
    return _row(best, day, DISPUTED, f"{_RATIOS} {listed}, and the prices prove neither")


def _row(claim: Claim, day: date, state: str, reason: str) -> Split:
    return Split(claim.ticker, day, claim.split_from, claim.split_to, claim.source, claim.executed, state, reason)


def _by_prices(split_from: Decimal, split_to: Decimal, night: Night) -> tuple[str, str]:
    """A listed split's state and the reason for it."""
    factor, moved = log(split_to / split_from), _moved(night)
    if moved is None:
        return APPLIED, "listed; there are no prices yet to prove it"
    if _proves(moved, factor):
        return APPLIED, "the prices prove it"
    if abs(moved) <= abs(factor) / 2 and abs(factor) > SMALL:
        return DISPUTED, f"the price did not move: {night.previous_close} at the close before, {night.open} at the open"
    return APPLIED, "listed; the prices neither prove nor contradict it"


def _unlisted(split: Split, night: Night) -> Split:
    """A known split that the vendor no longer lists."""
    moved = _moved(night)
    if moved is not None and split.state == APPLIED and _proves(moved, log(split.split_to / split.split_from)):
        return replace(split, reason="the prices prove it; no longer listed by the vendor")
    return replace(split, state=IGNORED, reason="no longer listed by the vendor, and the prices do not prove it")


def _moved(night: Night) -> float | None:
    """How far the price fell overnight, as a logarithm: log 10 for a fall to a tenth."""
    if not night.previous_close or not night.open:
        return None
    return log(night.previous_close / night.open)


def _proves(moved: float, factor: float) -> bool:
    return abs(moved - factor) <= abs(factor) / 2


def _near(day: date, other: date) -> bool:
    return day != other and len(calendar.between(min(day, other), max(day, other))) <= SAME_SPLIT_SESSIONS + 1


@dataclass(frozen=True)
class Basis:
    """One ticker's bars from `first` to `last` on one of its bases: prices and volumes times these factors."""

    ticker: str
    number: int
    first: date
    last: date
    price_factor: Decimal
    volume_factor: Decimal
    own: bool
    """Whether the bars were traded on this basis; otherwise they are here for the windows of the sessions after a split."""


def bases(splits: Iterable[Split], first: date, last: date) -> Iterator[Basis]:
    """The bases on which the windows of the sessions from `first` to `last` stand, for those tickers that split in between.

    A factor is a rational number, rounded up at its 18th decimal: the product with a price of 10 digits, or with a volume of 13,
    then rounds half up as the exact product does.
    """
    reached = sorted((split for split in splits if split.state == APPLIED and first < split.session <= last), key=lambda s: s.key)
    for ticker, same in groupby(reached, lambda split: split.ticker):
        own = list(same)
        starts = [first, *(split.session for split in own)]
        ends = [*(split.session - timedelta(days=1) for split in own), last]
        for number in range(len(starts)):
            yield Basis(ticker, number, starts[number], ends[number], Decimal(1), Decimal(1), own=True)
            needed = calendar.window(starts[number])[0]
            for earlier in range(number):
                if ends[earlier] >= needed:
                    factor = _factor(own[earlier:number])
                    yield Basis(
                        ticker, number, max(starts[earlier], needed), ends[earlier], _up(factor), _up(1 / factor), own=False
                    )


def to_newest(splits: Iterable[Split], first: date, last: date) -> Iterator[Basis]:
    """What brings the bars of the sessions from `first` to `last` to the basis of the newest split, for tickers that split after
    `first`. The factors are as those of `bases`.
    """
    applied = sorted((split for split in splits if split.state == APPLIED and split.session > first), key=lambda s: s.key)
    for ticker, same in groupby(applied, lambda split: split.ticker):
        own = list(same)
        starts = [first, *(split.session for split in own)]
        for number, start in enumerate(starts[:-1]):
            factor = _factor(own[number:])
            end = own[number].session - timedelta(days=1)
            if start <= last:
                yield Basis(ticker, number, start, end, _up(factor), _up(1 / factor), own=False)


SIMPLE = [Fraction(n) for n in range(2, 101)] + [Fraction(3, 2), Fraction(4, 3), Fraction(5, 2), Fraction(5, 4)]


def nearest_simple(before: Decimal, after: Decimal) -> Fraction:
    """The ratio of a common split, new shares for old ones, that would explain best how a price moved."""
    moved = log(before / after)
    return min([*SIMPLE, *(1 / ratio for ratio in SIMPLE)], key=lambda ratio: abs(moved - log(ratio)))


def _factor(between: Iterable[Split]) -> Fraction:
    return prod((Fraction(split.split_from) / Fraction(split.split_to) for split in between), start=Fraction(1))


def _up(factor: Fraction) -> Decimal:
    exact = _ROUND_UP.divide(Decimal(factor.numerator), Decimal(factor.denominator))
    return exact.quantize(_FACTOR_PLACES, context=_ROUND_UP)
