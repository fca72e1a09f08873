"""Bars from the Polygon (Massive) REST API, through its own client.

The client builds the requests. Its transport and its decoding are replaced: it hands no timeout to urllib3, and turns bad JSON, a
missing `results` and `status: ERROR` into an empty list (`polygon/rest/base.py` 1.16.3).
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import certifi
import pyarrow as pa
import tenacity
import urllib3
from polygon import RESTClient

from maang_cli import sessions as calendar
from maang_cli.errors import NotPublishedYet, SettingsError, SourceDenied, SourceFailed
from maang_cli.tables import STAGED_COLUMNS, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from maang_cli.settings import Settings

log = logging.getLogger("maang")
for _name in ("RESTClient", "WebSocketClient"):  # the client logs to stdout, which is for results
    logging.getLogger(_name).handlers.clear()

CONNECT_SECONDS = 10
READ_SECONDS = 30
MAX_BYTES = 256 * 1024 * 1024
"""A whole market's day is 1.5 MB; far beyond that it is not an answer."""
CLOCK_SECONDS = 60
YEARS = (2, 5, 10, 20)
"""How far back the vendor's plans reach."""
RETRIED = frozenset({408, 413, 425, 429, 499, 500, 502, 503, 504, *range(520, 528)})
"""The last are those of the content network before the API."""

_CENTS = Decimal("0.01")
_WHOLE = Decimal(1)
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP, traps=[InvalidOperation])
_FIELDS = {"open": ("o", _CENTS), "high": ("h", _CENTS), "low": ("l", _CENTS), "close": ("c", _CENTS)} | {
    "volume": ("v", _WHOLE),
    "vwap": ("vw", _CENTS),
    "transactions": ("n", _WHOLE),
}


class _Transient(Exception):
    """This attempt failed in a way that the next one may not."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after
        """Seconds that the server asked to wait; None when it did not say."""


@dataclass(frozen=True)
class _Answer:
    """What the client gets back from its transport."""

    status: int
    data: bytes


def _wait(state: tenacity.RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.after if isinstance(failure, _Transient) else None
    return tenacity.wait_exponential_jitter(initial=1, max=30)(state) if asked is None else asked


def _retry_after(value: str | None) -> float | None:
    """The header's seconds; its date form is rare here and left to the back-off."""
    return float(value) if value and re.fullmatch("[0-9]{1,6}", value) else None


class _Transport:
    """Stands where the client keeps its urllib3 pool: one GET within a budget of seconds, retries included."""

    def __init__(self, base: str, token: str, budget: float) -> None:
        self._where = urlsplit(base).netloc
        self._token = token
        self._budget = budget
        self._pool = urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=certifi.where(), retries=False)
        self.clock: str | None = None
        """The vendor's time at the last answer, as HTTP writes it; None before the first."""

    def request(self, method: str, url: str, fields: dict[str, str] | None, headers: dict[str, str]) -> _Answer:
        deadline = time.monotonic() + (self._budget or CONNECT_SECONDS + READ_SECONDS)  # without a budget: one attempt
        retrying = tenacity.Retrying(
            stop=tenacity.stop_before_delay(self._budget),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_Transient),
            before_sleep=self._narrate,
            reraise=True,
        )
        try:
            return retrying(self._once, method, url, fields, headers, deadline)
        except _Transient as exc:
            if exc.after is not None:
                raise SourceFailed(
                    f"{self._where}: {exc}; it asks to wait for {exc.after:g} s, the budget is {self._budget:g} s",
                    hint="run the same command again after that, or raise MAANG_RETRY_SECONDS",
                ) from exc
            raise SourceFailed(
                f"{self._where} gave no usable answer within {self._budget:g} s: {exc}",
                hint="check the network and MAANG_POLYGON_URL, then run the same command again",
            ) from exc

    def _narrate(self, state: tenacity.RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        log.warning("%s: %s; trying again in %.0f s", self._where, failure, state.upcoming_sleep)

    def _once(self, method: str, url: str, fields: dict[str, str] | None, headers: dict[str, str], deadline: float) -> _Answer:
        started = time.monotonic()
        left = max(deadline - started, 0.1)
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, left), read=min(READ_SECONDS, left))
        try:
            response = self._pool.request(method, url, fields=fields, headers=headers, timeout=timeout, preload_content=False)
            try:
                answer = _Answer(response.status, self._body(response, deadline))
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as exc:
            raise _Transient(_reason(exc)) from exc
        self.clock = response.headers.get("Date")
        log.debug("GET %s: %d, %d bytes, %.2f s", url, answer.status, len(answer.data), time.monotonic() - started)
        if answer.status in RETRIED:
            raise _Transient(self._said(answer), _retry_after(response.headers.get("Retry-After")))
        if answer.status != 200:
            self._refuse(answer)
        return answer

    def _body(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        # By pieces, because urllib3's read timeout is for each piece: a server that drips would never trip it.
        parts: list[bytes] = []
        size = 0
        while part := response.read1(1 << 20):
            parts.append(part)
            size += len(part)
            if time.monotonic() > deadline:
                response.close()
                raise _Transient(f"the answer was still coming in after {size} bytes")
            if size > MAX_BYTES:
                response.close()
                raise SourceFailed(
                    f"{self._where} sent over {MAX_BYTES} bytes", hint="check MAANG_POLYGON_URL, then run it again"
                )
        return b"".join(parts)

    def _said(self, answer: _Answer) -> str:
        """The status with the vendor's own reason, on one line, short, and without the key."""
        try:
            document = json.loads(answer.data)
        except ValueError:
            document = None
        text = ""
        if isinstance(document, dict):
            text = str(document.get("error") or document.get("message") or "")
        text = self.clean(text, 200)
        return f"HTTP {answer.status}" + (f", {text}" if text else "")

    def clean(self, text: str, length: int) -> str:
        """What the vendor said, on one line of at most `length`, without the key and without what a terminal would obey."""
        line = " ".join(text.replace(self._token, "***").split())
        return "".join(char for char in line if char.isprintable())[:length]

    def _refuse(self, answer: _Answer) -> NoReturn:
        said = f"{self._where} answered {self._said(answer)}"
        if answer.status == 401:
            raise SourceDenied(said, hint="set POLYGON_TOKEN to a key that is valid")
        if answer.status == 403 and "before end of day" in said:
            raise NotPublishedYet(said, hint="this plan serves a session after its end: try again in the morning")
        if answer.status == 403:
            raise SourceDenied(said, hint="ask for a session within the plan's history, or change the plan")
        if answer.status in (400, 404):
            raise SourceDenied(said, hint="check MAANG_POLYGON_URL")
        raise SourceFailed(said, hint="run the same command again")

    def close(self) -> None:
        self._pool.clear()


def _reason(exc: urllib3.exceptions.HTTPError) -> str:
    """A urllib3 error in a few words; its own text repeats the pool's address and Python objects."""
    if isinstance(exc, urllib3.exceptions.ReadTimeoutError):
        return "no data in time"
    if isinstance(exc, urllib3.exceptions.NameResolutionError):
        return "its name can't be resolved"
    if isinstance(exc, urllib3.exceptions.NewConnectionError):
        return "connection refused" if "refused" in str(exc) else "no connection"
    if isinstance(exc, urllib3.exceptions.ConnectTimeoutError):  # the base of the two before
        return "no connection in time"
    if isinstance(exc, urllib3.exceptions.SSLError):
        return "TLS failed: " + str(exc).partition("(_ssl")[0].strip()
    if isinstance(exc, (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError)):
        return "the connection broke off"
    return type(exc).__name__


class PolygonSource:
    """One grouped call for each session: it costs one request, whatever the number of tickers."""

    name = "polygon"
    made_up = False

    def __init__(self, token: str, base: str, budget: float) -> None:
        self._where = urlsplit(base).netloc
        self._transport = _Transport(base, token, budget)
        self._client = RESTClient(token, base=base, retries=0)
        self._client.client = self._transport

    def bars(self, tickers: Sequence[str], sessions: Sequence[date]) -> pa.Table:
        wanted = frozenset(tickers)
        columns: dict[str, list[object]] = {column.name: [] for column in STAGED_COLUMNS}
        for session in sessions:
            answer = self._client.get_grouped_daily_aggs(session, adjusted=False, raw=True)
            rows = list(self._rows(answer.data, session))
            if not rows:
                raise NotPublishedYet(
                    f"{self._where} has no bars at all for {session}, though NYSE traded",
                    hint=f"every plan has them by {calendar.settled(session)}: try again after that",
                )
            for row in rows:
                if row["T"] in wanted:
                    self._add(columns, row, session)
        return pa.Table.from_pydict(columns, schema=arrow_schema(STAGED_COLUMNS))

    def _rows(self, body: bytes, session: date) -> Iterator[dict[str, Any]]:
        """The answer's rows, once its envelope has been found to agree with itself."""
        try:
            answer = json.loads(body, parse_float=Decimal, parse_constant=Decimal)
        except (ValueError, ArithmeticError, RecursionError) as exc:  # Decimal refuses an exponent of twenty digits
            raise self._contradiction(session, f"{len(body)} bytes that are no JSON document") from exc
        if not isinstance(answer, dict):
            raise self._contradiction(session, "JSON that is no object")
        status = answer.get("status")
        if status not in ("OK", "DELAYED"):
            raise self._contradiction(session, f"status {self._said(status)} in an HTTP 200")
        if answer.get("adjusted") is True:
            raise self._contradiction(session, "adjusted bars, where bars as traded were asked for")
        count = answer.get("resultsCount")
        rows = answer.get("results", [] if count == 0 else None)
        if not isinstance(rows, list):
            raise self._contradiction(session, f"no list of results, and resultsCount {self._said(count)}")
        if count != len(rows):
            raise self._contradiction(session, f"{len(rows)} results, and resultsCount {self._said(count)}")
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("T"), str):
                raise self._contradiction(session, "a result without a ticker")
            yield row

    def _add(self, columns: dict[str, list[object]], row: dict[str, Any], session: date) -> None:
        ticker = row["T"]
        columns["ticker"].append(ticker)
        columns["date"].append(self._date(row.get("t"), ticker, session))
        for name, (key, unit) in _FIELDS.items():
            columns[name].append(self._number(row.get(key), unit, f"{ticker}'s {key}", session))

    def _date(self, millis: object, ticker: str, session: date) -> date | None:
        """The New York date of `t`, Unix milliseconds at the session's end."""
        exact = self._number(millis, _WHOLE, f"{ticker}'s t", session)
        if exact is None:
            return None
        try:
            return datetime.fromtimestamp(int(exact) / 1000, UTC).astimezone(calendar.NEW_YORK).date()
        except (ValueError, OverflowError, OSError) as exc:
            raise self._contradiction(session, f"{ticker}'s t as {self._said(exact)}, which is no time") from exc

    def _number(self, value: object, unit: Decimal, what: str, session: date) -> Decimal | None:
        """`value` rounded half up to `unit`; None stays None."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self._contradiction(session, f"{what} as {self._said(value)}, which is no number")
        try:
            rounded = Decimal(value).quantize(unit, context=_EXACT)
        except InvalidOperation as exc:
            raise self._contradiction(session, f"{what} as {self._said(value)}, which no column holds") from exc
        # NaN passes quantize; 36 digits before the point are what staging's DECIMAL(38,2) holds.
        if not rounded.is_finite() or rounded.adjusted() >= 36:
            raise self._contradiction(session, f"{what} as {self._said(value)}, which no column holds")
        return rounded

    def _said(self, value: object) -> str:
        return self._transport.clean(str(value) if isinstance(value, Decimal) else repr(value), 40)

    def _contradiction(self, session: date, what: str) -> SourceFailed:
        return SourceFailed(
            f"{self._where} answered for {session} with {what}",
            hint="run the same command again; if it persists, ask the vendor",
        )

    def looks(self) -> Mapping[str, Callable[[], str]]:
        return {"key": self._try_key, "history": self._try_history, "clock": self._try_clock}

    def _try_key(self) -> str:
        session = _session_before(datetime.now(UTC).date() - timedelta(days=1))
        self.bars((), (session,))
        return f"{self._where} serves {session}"

    def _try_history(self) -> str:
        """How far back the plan reaches, by a session just within each of the usual limits."""
        today, served = datetime.now(UTC).date(), ""
        for years in YEARS:
            session = _session_before(today - timedelta(days=365 * years - 3))
            try:
                self.bars((), (session,))
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


def open_source(settings: Settings) -> PolygonSource:
    """The source that the settings describe.

    Raises:
        SettingsError: there is no key.
    """
    if settings.polygon_token is None:
        raise SettingsError(
            "POLYGON_TOKEN is not set", hint="export POLYGON_TOKEN=<key>, or try --source sample, which needs none"
        )
    return PolygonSource(settings.polygon_token.get_secret_value(), settings.polygon_url, settings.retry_seconds)
