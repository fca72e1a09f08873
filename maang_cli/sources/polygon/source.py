"""Bars from the Polygon (Massive) REST API, through its own client.

The client builds the requests. Its transport and its decoding are replaced: it gives urllib3 no timeout, and turns bad JSON, a
missing `results` and `status: ERROR` into an empty list (`polygon/rest/base.py` 1.16.3).
"""

import logging
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from polygon import RESTClient

from maang_cli import sessions as calendar
from maang_cli.errors import MaangError, NotPublishedYet, SettingsError, SourceDenied, SourceFailed
from maang_cli.settings import LOOPBACK, Settings
from maang_cli.sources.base import Calls, Fetched, Resume, Source
from maang_cli.sources.http import Oversized, RetryingGet
from maang_cli.sources.ordered_pool import OrderedPool
from maang_cli.sources.polygon import fewest_calls, splits
from maang_cli.sources.polygon import settings as polygon_settings
from maang_cli.sources.polygon.arrow import SCHEMA
from maang_cli.sources.polygon.cached_answers import CachedAnswers
from maang_cli.sources.polygon.http import BeyondPlan, vendor
from maang_cli.sources.polygon.pages import Pages
from maang_cli.sources.polygon.parse import Adjusted, Contradiction, Page, Reader
from maang_cli.sources.polygon.settings import PolygonSettings
from maang_cli.sources.rate_limit import RateLimiter
from maang_cli.splits import Claims

log = logging.getLogger("maang")
for _name in ("RESTClient", "WebSocketClient"):  # the client logs to stdout, which is for results
    logging.getLogger(_name).handlers.clear()

CLOCK_SECONDS = 60
"""How far this machine's clock may be off."""
YEARS = (2, 5, 10, 20)
"""How far back the vendor's plans reach."""
IN_FLIGHT = 4
"""Calls at the same time: enough to hide the network's latency, far below what any plan allows."""
AHEAD = 16
"""Answers that may wait to be used; a whole market's day takes 2 MB."""
MAX_BARS = 50_000
"""How many daily bars the API sends in one page."""
MAX_PAGES = 20
"""Of a whole market's day, which the API sends in one page."""
WARNINGS = 5
"""How many wrong rows of one answer are reported one by one."""


class PolygonSource(Source):
    """Makes grouped calls, each for one session of the whole market, and range calls, each for one ticker's history."""

    name = "polygon"
    made_up = False

    def __init__(self, settings: PolygonSettings, cache: Path) -> None:
        """`cache`: the file in which a killed run leaves its answers for the next run."""
        polygon = vendor(settings)
        self._base = urlsplit(settings.url)
        self._cache = cache
        self._rate_limiter = RateLimiter(settings.calls_per_minute)
        self._http = RetryingGet(polygon, settings.retry_seconds, self._rate_limiter)
        self._reader = Reader(polygon.host, polygon.clean)
        self._client = RESTClient(polygon.key, base=settings.url, retries=0)
        self._client.client = self._http
        self._served: dict[date, bool] = {}
        """Whether the vendor has any bars of a session, as far as this run has asked."""
        self._pages = Pages(self._base, self._get_page, self._reader)

    @property
    def calls(self) -> int:
        return self._http.calls

    @property
    def per_minute(self) -> int | None:
        return self._rate_limiter.per_minute

    def plan(self, missing: Mapping[date, frozenset[str]], *, resume: Resume | None = None) -> Calls:
        with self._cached_answers(resume) as cached:
            return _fewest(missing, cached)

    def _cached_answers(self, resume: Resume | None) -> CachedAnswers:
        return CachedAnswers(self._cache, self._base.netloc, resume)

    def splits(self, tickers: Sequence[str], first: date, last: date) -> Claims:
        what = f"splits from {first} to {last}"
        vendor = splits.Vendor(
            self._base.geturl().rstrip("/"),
            self._get_page,
            lambda url: self._pages.checked(url, what),
            lambda found: self._reader.contradiction(what, found),
        )
        return splits.fetch(vendor, tickers, first, last)

    def fetch(
        self,
        missing: Mapping[date, frozenset[str]],
        batches: Sequence[Sequence[date]],
        tick: Callable[[], None] = lambda: None,
        *,
        resume: Resume | None = None,
    ) -> Generator[Fetched]:
        with ExitStack() as stack:
            cached = stack.enter_context(self._cached_answers(resume))
            calls = _fewest(missing, cached)
            grouped = frozenset(calls.grouped)
            ranged = {day: tickers for day, tickers in missing.items() if day not in grouped and tickers}
            failed = self._fetch_ranges(calls, ranged, cached, tick) if ranged else {}
            ranged = {day: tickers for day, tickers in ranged.items() if day not in failed}
            order = [day for batch in batches for day in batch if day in grouped]
            pages = self._fetch_grouped(order, missing, stack, tick)
            for batch in batches:
                tables = [cached.rows(_by_ticker({day: ranged[day] for day in batch if day in ranged}))]
                errors = {day: failed[day] for day in batch if day in failed}
                for day in batch:
                    if day in grouped:
                        page = next(pages)
                        if isinstance(page, MaangError):
                            errors[day] = page
                        else:
                            tables.append(page.rows)
                            _warn(page.wrong.values())
                yield Fetched(pa.concat_tables(tables), dict(sorted(errors.items())))
            cached.forget()

    def _fetch_grouped(
        self,
        sessions: Sequence[date],
        missing: Mapping[date, frozenset[str]],
        stack: ExitStack,
        tick: Callable[[], None],
    ) -> Iterator[Page | MaangError]:
        """Each session's bars, or why it is unavailable, in order; the first session is the oldest."""

        def attempt(session: date) -> Page | MaangError:
            return self._attempt(session, missing[session])

        if not sessions:
            return
        # The oldest first: if the plan does not reach back to it, calls for other old sessions can be saved.
        oldest, rest = attempt(sessions[0]), sessions[1:]
        tick()
        yield oldest
        beyond: frozenset[date] = frozenset()
        if isinstance(oldest, BeyondPlan):
            older = sorted(rest)
            beyond = frozenset(older[: self._beyond(older)])
        within = [day for day in rest if day not in beyond]
        if len(within) < 2:
            pages: Iterator[Page | MaangError] = map(attempt, within)
        else:
            pages = stack.enter_context(OrderedPool(attempt, IN_FLIGHT)).map(within, AHEAD)
        for day in rest:
            if day in beyond:
                yield oldest
            else:
                page = next(pages)
                tick()
                yield page

    def _attempt(self, session: date, wanted: frozenset[str]) -> Page | MaangError:
        """The session's bars, or why it is unavailable; a failure that concerns all sessions is raised."""
        try:
            return self._grouped(session, wanted)
        except (BeyondPlan, NotPublishedYet, Contradiction, Oversized) as exc:
            return _kept(exc)

    def _grouped(self, session: date, wanted: frozenset[str]) -> Page:
        answer = self._client.get_grouped_daily_aggs(session, adjusted=False, raw=True)
        page = self._pages.read(lambda body: self._reader.grouped(body, session, wanted), answer.data, str(session), MAX_PAGES)
        self._served[session] = bool(page.total)
        if not page.total:
            raise self._without_bars(session)
        return page

    def _without_bars(self, session: date) -> NotPublishedYet:
        """The error for a session of which the vendor has nothing: it is early, or NYSE was closed and maang does not know."""
        later = calendar.affected(session)[1]
        if later <= calendar.last_final(datetime.now(UTC)) and self._serves(later):
            return NotPublishedYet(
                f"{self._base.netloc} has no bars for {session}, but for {later}: was NYSE closed?",
                hint=f"if it was, set MAANG_CLOSED={session}; otherwise run the same command again later",
            )
        final = calendar.is_final(session, datetime.now(UTC))
        return NotPublishedYet(
            f"{self._base.netloc} has no bars for {session} yet",
            hint="every plan should have them by now: run the same command again later"
            if final
            else f"every plan has them by {calendar.final_at(session)}: try again after that",
        )

    def _serves(self, session: date) -> bool:
        if session not in self._served:
            answer = self._client.get_grouped_daily_aggs(session, adjusted=False, raw=True)
            self._served[session] = bool(self._reader.grouped(answer.data, session, frozenset()).total)
        return self._served[session]

    def _get_page(self, url: str) -> bytes:
        return self._http.request("GET", url, None, self._client.headers).data

    def _beyond(self, sessions: Sequence[date]) -> int:
        """How many of the sessions, which are in order, are older than the plan's history; by bisection."""
        low, high = 0, len(sessions)
        while low < high:
            middle = (low + high) // 2
            if isinstance(self._attempt(sessions[middle], frozenset()), BeyondPlan):
                low = middle + 1
            else:
                high = middle
        return low

    def _fetch_ranges(
        self, calls: Calls, missing: Mapping[date, frozenset[str]], cached: CachedAnswers, tick: Callable[[], None]
    ) -> dict[date, MaangError]:
        """Cache the bars of the range calls; returns the sessions that are unavailable, and why."""
        # The vendor served what a cached answer covers. For the other sessions only this run can tell: the plan's history moves.
        uncached = sorted(day for day, tickers in cached.lacking(missing).items() if tickers)
        seen: set[date] = set()

        def fetch(ticker: str) -> Page | SourceFailed:
            try:
                return self._range(ticker, *calls.ranges[ticker])
            except Adjusted:
                raise
            except (Contradiction, Oversized) as exc:
                return _kept(exc)

        with OrderedPool(fetch, IN_FLIGHT) as pool:
            for ticker, page in zip(calls.ranges, pool.map(calls.ranges, AHEAD), strict=True):
                if isinstance(page, SourceFailed):
                    _warn([f"{page.message}: {ticker} is missing there"])
                else:
                    seen.update(pc.unique(page.rows["session"]).to_pylist())
                    cached.add(ticker, *calls.ranges[ticker], page.rows, page.wrong)
                    _warn(page.wrong.values())
                tick()
        return self._unserved(uncached, seen)

    def _unserved(self, wanted: Sequence[date], seen: set[date]) -> dict[date, MaangError]:
        """Which sessions at the ends of a range the vendor does not serve; the answer to a range call does not say so."""
        failed: dict[date, MaangError] = {}
        older = wanted[: next((i for i, day in enumerate(wanted) if day in seen), len(wanted))]
        if older:
            oldest = self._attempt(older[0], frozenset())
            if isinstance(oldest, MaangError):
                failed[older[0]] = oldest
            if isinstance(oldest, BeyondPlan):
                failed |= dict.fromkeys(older[1 : 1 + self._beyond(older[1:])], oldest)
        for day in reversed(wanted[len(older) :] if seen else wanted):
            if day in seen or day in failed:
                break
            newest = self._attempt(day, frozenset())
            if not isinstance(newest, MaangError):
                break
            failed[day] = newest
        return failed

    def _range(self, ticker: str, first: date, last: date) -> Page:
        span = f"{ticker} from {first} to {last}"
        days = len(calendar.between(first, last))
        try:
            answer = self._client.get_aggs(
                quote(ticker, safe=""), 1, "day", first, last, adjusted=False, sort="asc", limit=MAX_BARS, raw=True
            )
            page = self._pages.read(lambda body: self._reader.ranged(body, ticker, span), answer.data, span, days)
        except BeyondPlan:  # the whole range; `_unserved` finds out which sessions
            return Page(SCHEMA.empty_table(), 0)
        found = page.rows["session"]
        if found.null_count or any(not first <= day <= last for day in pc.unique(found).to_pylist()):
            raise self._reader.contradiction(span, "bars of other dates")
        return page

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        return {"key": self._try_key, "history": self._try_history, "clock": self._try_clock}

    def _try_key(self) -> str:
        session = _session_before(datetime.now(UTC).date() - timedelta(days=1))
        self._grouped(session, frozenset())
        return f"{self._base.netloc} serves {session}"

    def _try_history(self) -> str:
        """How far back the plan reaches, tried with a session just within each of the usual limits."""
        today, served = datetime.now(UTC).date(), ""
        for years in YEARS:
            session = _session_before(today - timedelta(days=365 * years - 3))
            try:
                self._grouped(session, frozenset())
            except (SourceDenied, NotPublishedYet) as exc:
                if not served and not isinstance(exc, BeyondPlan | NotPublishedYet):
                    raise
                if not served:
                    raise SourceDenied(
                        f"the plan has no bars of {session}, {years} years ago, which every plan serves",
                        hint="check what the key may do, and MAANG_POLYGON_URL",
                    ) from exc
                return f"{served}; it does not reach {session}, {years} years ago"
            served = f"the plan reaches back to {session} or earlier"
        return served

    def _try_clock(self) -> str:
        try:
            there = parsedate_to_datetime(self._http.clock or "").astimezone(UTC)
        except (ValueError, OverflowError):  # OverflowError: a year that no calendar has
            return "not tried: the vendor did not send its time"
        ahead = (datetime.now(UTC) - there).total_seconds()
        if abs(ahead) > CLOCK_SECONDS:
            raise SettingsError(
                f"this machine's clock is {ahead:+.0f} s off", hint="set the clock: maang decides by it which sessions have ended"
            )
        return f"within {CLOCK_SECONDS} s of the vendor's"

    def close(self) -> None:
        self._http.close()


E = TypeVar("E", bound=MaangError)


def _kept(error: E) -> E:
    """The error without its traceback, whose frames would keep the whole answer in memory."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _warn(wrong: Collection[str]) -> None:
    for text in list(wrong)[:WARNINGS]:
        log.warning("warning: %s", text)
    if len(wrong) > WARNINGS:
        log.warning("warning: and %d more like these, in the same answer", len(wrong) - WARNINGS)


def _session_before(day: date) -> date:
    return calendar.between(day - timedelta(days=10), day - timedelta(days=1))[-1]


def _fewest(missing: Mapping[date, frozenset[str]], cached: CachedAnswers) -> Calls:
    lacking = cached.lacking(missing)
    covered = frozenset[str]().union(*(tickers - left for tickers, left in {(missing[day], lacking[day]) for day in missing}))
    return replace(fewest_calls.fewest(lacking), cached=len(covered), splits=1)


def _by_ticker(missing: Mapping[date, frozenset[str]]) -> dict[str, list[date]]:
    """The sessions on which each ticker is missing."""
    found: dict[str, list[date]] = {}
    for day, tickers in missing.items():
        for ticker in tickers:
            found.setdefault(ticker, []).append(day)
    return found


def open_source(settings: Settings) -> PolygonSource:
    """The source that the settings describe.

    Raises:
        SettingsError: a variable is wrong, or there is no key.
    """
    own = polygon_settings.load()
    host = urlsplit(own.url).hostname
    if host not in (*polygon_settings.HOSTS, *LOOPBACK):
        log.warning("note: the API key is sent to %s, as MAANG_POLYGON_URL says", host)
    return PolygonSource(own, settings.home / "answers" / f"{settings.schema_name}.db")
