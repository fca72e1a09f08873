"""Bars from the Polygon (Massive) REST API, through its own client.

The client builds the requests. Its transport and its decoding are replaced: it hands no timeout to urllib3, and turns bad JSON, a
missing `results` and `status: ERROR` into an empty list (`polygon/rest/base.py` 1.16.3).
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
from polygon import RESTClient

from maang_cli import planner
from maang_cli import sessions as calendar
from maang_cli.errors import MaangError, NotPublishedYet, SettingsError, SourceDenied
from maang_cli.sources.answers import SCHEMA, Contradiction, Page, Reader
from maang_cli.sources.base import Fetched
from maang_cli.sources.crew import Crew
from maang_cli.sources.pacer import Pacer
from maang_cli.sources.spool import Spool
from maang_cli.sources.transport import BeyondPlan, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from maang_cli.planner import Calls
    from maang_cli.settings import Settings
    from maang_cli.sources.base import Resume

log = logging.getLogger("maang")
for _name in ("RESTClient", "WebSocketClient"):  # the client logs to stdout, which is for results
    logging.getLogger(_name).handlers.clear()

CLOCK_SECONDS = 60
YEARS = (2, 5, 10, 20)
"""How far back the vendor's plans reach."""
IN_FLIGHT = 4
"""Calls at once: enough to hide the way there and back, far below what any plan allows."""
AHEAD = 16
"""Answers that may wait to be used; a whole market's day takes 2 MB."""
MOST_BARS = 50_000
"""What the API gives in one page of daily bars."""


class PolygonSource:
    """Grouped calls, each one session of the whole market, and range calls, each one ticker's history: the fewest of both."""

    name = "polygon"
    made_up = False

    def __init__(self, token: str, base: str, budget: float, kept: Path, per_minute: int | None = None) -> None:
        """`kept`: the file in which the answers of a run that is killed wait for the next."""
        self._base = urlsplit(base)
        self._kept = kept
        self._pacer = Pacer(per_minute)
        self._transport = Transport(base, token, budget, self._pacer)
        self._reader = Reader(self._base.netloc, self._transport.clean)
        self._client = RESTClient(token, base=base, retries=0)
        self._client.client = self._transport

    @property
    def calls(self) -> int:
        return self._transport.calls

    @property
    def per_minute(self) -> int | None:
        return self._pacer.per_minute

    def plan(self, missing: Mapping[date, frozenset[str]], *, resume: Resume | None = None) -> Calls:
        return _fewest(missing, self._spool(resume).peek())

    def _spool(self, resume: Resume | None) -> Spool:
        return Spool(self._kept, self._base.netloc, resume)

    def bars(self, tickers: Sequence[str], sessions: Sequence[date]) -> pa.Table:
        (fetched,) = self.fetch(dict.fromkeys(sessions, frozenset(tickers)), [sessions])
        for error in fetched.failed.values():
            raise error
        return fetched.rows

    def fetch(
        self,
        missing: Mapping[date, frozenset[str]],
        batches: Sequence[Sequence[date]],
        tick: Callable[[], None] = lambda: None,
        *,
        resume: Resume | None = None,
    ) -> Generator[Fetched]:
        with ExitStack() as stack:
            spool = stack.enter_context(self._spool(resume))
            calls = _fewest(missing, spool)
            asked = frozenset(calls.grouped)
            ranged = {day: tickers for day, tickers in missing.items() if day not in asked and tickers}
            failed = self._fetch_ranges(calls, ranged, spool, tick) if ranged else {}
            ranged = {day: tickers for day, tickers in ranged.items() if day not in failed}
            order = [day for batch in batches for day in batch if day in asked]
            grouped = self._fetch_grouped(order, missing, stack, tick)
            for batch in batches:
                tables = [spool.rows(_by_ticker({day: ranged[day] for day in batch if day in ranged}))]
                errors = {day: failed[day] for day in batch if day in failed}
                for day in batch:
                    if day in asked:
                        page = next(grouped)
                        if isinstance(page, MaangError):
                            errors[day] = page
                        else:
                            tables.append(page.rows)
                yield Fetched(pa.concat_tables(tables), dict(sorted(errors.items())))
            spool.forget()

    def _fetch_grouped(
        self,
        sessions: Sequence[date],
        missing: Mapping[date, frozenset[str]],
        stack: ExitStack,
        tick: Callable[[], None],
    ) -> Iterator[Page | MaangError]:
        """Each session's bars, or why it has none, in order; the first session is the oldest."""

        def ask(session: date) -> Page | MaangError:
            return self._attempt(session, missing[session])

        if not sessions:
            return
        # The oldest by itself: when the plan does not reach back to it, others need not be asked for.
        oldest, rest = ask(sessions[0]), sessions[1:]
        tick()
        yield oldest
        beyond: frozenset[date] = frozenset()
        if isinstance(oldest, BeyondPlan):
            older = sorted(rest)
            beyond = frozenset(older[: self._beyond(older)])
        within = [day for day in rest if day not in beyond]
        if len(within) < 2:
            answers: Iterator[Page | MaangError] = map(ask, within)
        else:
            answers = stack.enter_context(Crew(ask, IN_FLIGHT)).map(within, AHEAD)
        for day in rest:
            if day in beyond:
                yield oldest
            else:
                page = next(answers)
                tick()
                yield page

    def _attempt(self, session: date, wanted: frozenset[str]) -> Page | MaangError:
        """The session's bars, or why this session can't be had; what concerns all sessions is raised."""
        try:
            return self._grouped(session, wanted)
        except (BeyondPlan, NotPublishedYet, Contradiction) as exc:
            return exc

    def _grouped(self, session: date, wanted: frozenset[str]) -> Page:
        answer = self._client.get_grouped_daily_aggs(session, adjusted=False, raw=True)
        page = self._reader.grouped(answer.data, session, wanted)
        if not page.total:
            raise NotPublishedYet(
                f"{self._base.netloc} has no bars at all for {session}, though NYSE traded",
                hint=f"every plan has them by {calendar.settled(session)}: try again after that",
            )
        return page

    def _beyond(self, sessions: Sequence[date]) -> int:
        """How many of the sessions, in order, are older than the plan's history, by bisection."""
        low, high = 0, len(sessions)
        while low < high:
            middle = (low + high) // 2
            if isinstance(self._attempt(sessions[middle], frozenset()), BeyondPlan):
                low = middle + 1
            else:
                high = middle
        return low

    def _fetch_ranges(
        self, calls: Calls, missing: Mapping[date, frozenset[str]], spool: Spool, tick: Callable[[], None]
    ) -> dict[date, MaangError]:
        """Put the bars of the range calls into the spool; returns the sessions that can't be had."""
        # What earlier answers have was served when they came. Of the rest only this run's can tell: the plan's history moves on.
        asked = sorted(day for day, tickers in spool.lacking(missing).items() if tickers)
        seen: set[date] = set()

        def ask(ticker: str) -> pa.Table:
            return self._range(ticker, *calls.ranges[ticker])

        with Crew(ask, IN_FLIGHT) as crew:
            for ticker, rows in zip(calls.ranges, crew.map(calls.ranges, AHEAD), strict=True):
                seen.update(pc.unique(rows["session"]).to_pylist())
                spool.add(ticker, *calls.ranges[ticker], rows)
                tick()
        return self._unserved(asked, seen)

    def _unserved(self, wanted: Sequence[date], seen: set[date]) -> dict[date, MaangError]:
        """Which sessions at the ends of a range have no bars because the vendor does not serve them: the range does not say."""
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

    def _range(self, ticker: str, first: date, last: date) -> pa.Table:
        span = f"{ticker} from {first} to {last}"
        pages = []
        try:
            answer = self._client.get_aggs(
                quote(ticker, safe=""), 1, "day", first, last, adjusted=False, sort="asc", limit=MOST_BARS, raw=True
            )
            pages.append(self._reader.ranged(answer.data, ticker, span))
            while pages[-1].next_url is not None:
                following = self._checked(pages[-1].next_url, span)
                answer = self._transport.request("GET", following, None, self._client.headers)
                pages.append(self._reader.ranged(answer.data, ticker, span))
        except BeyondPlan:  # all of it; which sessions those are, a grouped call tells
            return SCHEMA.empty_table()
        rows = pa.concat_tables(page.rows for page in pages)
        days = rows["session"]
        if days.null_count or any(not first <= day <= last for day in pc.unique(days).to_pylist()):
            raise self._reader.contradiction(span, "bars of other dates")
        return rows

    def _checked(self, url: str, span: str) -> str:
        """The address of the next page. The key goes along with it: no other host may get it."""
        parts = urlsplit(url)
        if parts.hostname != self._base.hostname:
            raise self._reader.contradiction(span, "a next page on another host")
        return parts._replace(scheme=self._base.scheme, netloc=self._base.netloc).geturl()

    def looks(self) -> Mapping[str, Callable[[], str]]:
        return {"key": self._try_key, "history": self._try_history, "clock": self._try_clock}

    def _try_key(self) -> str:
        session = _session_before(datetime.now(UTC).date() - timedelta(days=1))
        self._grouped(session, frozenset())
        return f"{self._base.netloc} serves {session}"

    def _try_history(self) -> str:
        """How far back the plan reaches, by a session just within each of the usual limits."""
        today, served = datetime.now(UTC).date(), ""
        for years in YEARS:
            session = _session_before(today - timedelta(days=365 * years - 3))
            try:
                self._grouped(session, frozenset())
            except (SourceDenied, NotPublishedYet):
                return f"{served or 'nothing of the past is served'}; not {session}, of {years} years ago"
            served = f"the plan reaches back to {session} at least"
        return served

    def _try_clock(self) -> str:
        try:
            there = parsedate_to_datetime(self._transport.clock or "").astimezone(UTC)
        except ValueError:
            return "not tried: the vendor did not say its time"
        ahead = (datetime.now(UTC) - there).total_seconds()
        if abs(ahead) > CLOCK_SECONDS:
            raise SettingsError(f"this machine's clock is {ahead:+.0f} s off", hint="set the clock; sessions end by it")
        return f"within {CLOCK_SECONDS} s of the vendor's"

    def close(self) -> None:
        self._transport.close()


def _session_before(day: date) -> date:
    return calendar.between(day - timedelta(days=10), day - timedelta(days=1))[-1]


def _fewest(missing: Mapping[date, frozenset[str]], spool: Spool) -> Calls:
    lacking = spool.lacking(missing)
    in_hand = frozenset[str]().union(*(tickers - left for tickers, left in {(missing[day], lacking[day]) for day in missing}))
    return replace(planner.fewest(lacking), in_hand=len(in_hand))


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
        SettingsError: there is no key.
    """
    if settings.polygon_token is None:
        raise SettingsError(
            "POLYGON_TOKEN is not set", hint="export POLYGON_TOKEN=<key>, or try --source sample, which needs none"
        )
    return PolygonSource(
        settings.polygon_token.get_secret_value(),
        settings.polygon_url,
        settings.retry_seconds,
        settings.home / "answers" / settings.schema_name,
        settings.calls_per_minute,
    )
