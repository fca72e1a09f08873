"""One GET to the vendor within a budget of seconds: timeouts, retries, the key's pace, refusals in the vendor's own words."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import certifi
import tenacity
import urllib3

from maang_cli.errors import NotPublishedYet, SourceDenied, SourceFailed

if TYPE_CHECKING:
    from maang_cli.sources.pacer import Pacer

log = logging.getLogger("maang")

CONNECT_SECONDS = 10
READ_SECONDS = 30
MAX_BYTES = 256 * 1024 * 1024
"""A whole market's day is 1.5 MB; far beyond that it is not an answer."""
RETRIED = frozenset({408, 413, 425, 429, 499, 500, 502, 503, 504, *range(520, 528)})
"""The last are those of the content network before the API."""
CONNECTIONS = 8


class BeyondPlan(SourceDenied):
    """The plan's history does not reach back to what was asked for."""


class Closed(Exception):
    """The source was closed while a call waited for its turn."""


class _Transient(Exception):
    """This attempt failed in a way that the next one may not."""

    def __init__(self, what: str, after: float | None = None, *, too_many: bool = False) -> None:
        super().__init__(what)
        self.after = after
        """Seconds that the server asked to wait; None when it did not say."""
        self.too_many = too_many


@dataclass(frozen=True)
class Answer:
    """What the client gets back from its transport."""

    status: int
    data: bytes


@dataclass
class _Call:
    budget: float
    """Seconds from its beginning, after which no attempt begins."""
    deadline: float
    """When an attempt is broken off, on the monotonic clock."""


def _retry_after(value: str | None) -> float | None:
    """The header's seconds; its date form is rare here and left to the back-off."""
    return float(value) if value and re.fullmatch("[0-9]{1,6}", value) else None


class Transport:
    """Stands where the client keeps its urllib3 pool: one GET within a budget of seconds, by any thread."""

    def __init__(self, base: str, token: str, budget: float, pacer: Pacer) -> None:
        self._where = urlsplit(base).netloc
        self._token = token
        self._budget = budget
        self._pacer = pacer
        self._pool = urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=certifi.where(), retries=False, maxsize=CONNECTIONS)
        self._closed = threading.Event()
        self._counting = threading.Lock()
        self.calls = 0
        """Requests made so far, retries included."""
        self.clock: str | None = None
        """The vendor's time at the last answer, as HTTP writes it; None before the first."""

    def request(self, method: str, url: str, fields: dict[str, str] | None, headers: dict[str, str]) -> Answer:
        started = time.monotonic()
        call = _Call(self._budget, started + (self._budget or CONNECT_SECONDS + READ_SECONDS))  # without a budget: one attempt
        retrying = tenacity.Retrying(
            stop=lambda state: time.monotonic() + state.upcoming_sleep >= started + call.budget,
            sleep=self._sleep,
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(_Transient),
            before_sleep=self._narrate,
            reraise=True,
        )
        try:
            return retrying(self._once, method, url, fields, headers, call)
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

    def _once(self, method: str, url: str, fields: dict[str, str] | None, headers: dict[str, str], call: _Call) -> Answer:
        # Waiting for a turn is no failure of the vendor's: it does not count.
        waited = self._pacer.wait()
        call.budget += waited
        call.deadline += waited
        if self._closed.is_set():
            raise Closed
        with self._counting:
            self.calls += 1
        started = time.monotonic()
        left = max(call.deadline - started, 0.1)
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, left), read=min(READ_SECONDS, left))
        try:
            response = self._pool.request(method, url, fields=fields, headers=headers, timeout=timeout, preload_content=False)
            try:
                answer = Answer(response.status, self._body(response, call.deadline))
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as exc:
            raise _Transient(_reason(exc)) from exc
        self.clock = response.headers.get("Date")
        log.debug("GET %s: %d, %d bytes, %.2f s", url, answer.status, len(answer.data), time.monotonic() - started)
        if answer.status in RETRIED:
            raise _Transient(self._said(answer), _retry_after(response.headers.get("Retry-After")), too_many=answer.status == 429)
        self._pacer.answered()
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

    def _said(self, answer: Answer) -> str:
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

    def _refuse(self, answer: Answer) -> NoReturn:
        said = f"{self._where} answered {self._said(answer)}"
        if answer.status == 401:
            raise SourceDenied(said, hint="set POLYGON_TOKEN to a key that is valid")
        if answer.status == 403 and "before end of day" in said:
            raise NotPublishedYet(said, hint="this plan serves a session after its end: try again in the morning")
        if answer.status == 403:
            kind = BeyondPlan if "timeframe" in said else SourceDenied
            raise kind(said, hint="ask for a session within the plan's history, or change the plan")
        if answer.status in (400, 404):
            raise SourceDenied(said, hint="check MAANG_POLYGON_URL")
        raise SourceFailed(said, hint="run the same command again")

    def _wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.after if isinstance(failure, _Transient) else None
        seconds = tenacity.wait_exponential_jitter(initial=1, max=30)(state) if asked is None else asked
        if isinstance(failure, _Transient) and failure.too_many:
            self._pacer.refused(seconds, told=asked is not None)
        return seconds

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise Closed

    def close(self) -> None:
        self._closed.set()
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
