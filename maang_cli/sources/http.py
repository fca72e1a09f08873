"""One GET to a vendor within a budget of seconds: timeouts, retries, the key's rate limit. It knows no vendor."""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

import tenacity
import urllib3

from maang_cli import retries
from maang_cli.errors import SourceDenied, SourceFailed
from maang_cli.retries import Transient
from maang_cli.sources import connections
from maang_cli.sources.rate_limit import RateLimiter

log = logging.getLogger("maang")

MAX_BYTES = 16 * 1024 * 1024
"""A whole market's day is 1.5 MB; what is far larger is not an answer. Several answers are in memory at the same time."""
RETRIED = frozenset({408, 413, 425, 429, 499, 500, 502, 503, 504, *range(520, 528)})
"""Statuses that a retry may heal; those from 520 on come from a content network before the API."""
CONNECTIONS = 8


class Closed(Exception):
    """The source was closed while a call waited."""


class Oversized(SourceFailed):
    """The answer is far larger than any real one."""


class _TooManyRequests(Transient):
    """HTTP 429."""


@dataclass(frozen=True)
class Answer:
    """What a vendor's client gets back."""

    status: int
    data: bytes


@dataclass(frozen=True)
class Vendor:
    """What a GET has to know about a vendor."""

    url: str
    key: str = field(repr=False)
    """It is never shown: `clean` removes it from the vendor's words."""
    reason: Callable[[bytes], str]
    """Why the vendor refused a call, from the answer's body; empty if the body does not say."""
    refuse: Callable[[int, str], NoReturn]
    """Raises the error for an answer with this status, which is neither 200 nor retried. The text names host and reason."""
    address_setting: str
    """The variable with the address, for hints."""
    budget_setting: str
    """The variable with the budget, for hints."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def clean(self, text: str, length: int) -> str:
        """The vendor's words on one line of at most `length`, without the key and without terminal control characters."""
        line = " ".join(text.replace(self.key, "***").split())
        return "".join(char for char in line if char.isprintable())[:length]


class RetryingGet:
    """Replaces the urllib3 pool of a vendor's client. Any thread may use it."""

    def __init__(self, vendor: Vendor, budget: float, rate_limiter: RateLimiter) -> None:
        """`budget`: seconds for one call with its retries; 0: a single attempt.

        Raises:
            SettingsError: the environment's proxy or certificates can't be used.
        """
        self._vendor = vendor
        self._budget = budget
        self._rate_limiter = rate_limiter
        self._pool = connections.open_pool(vendor.url, CONNECTIONS)
        self._closed = threading.Event()
        self._counting = threading.Lock()
        self.calls = 0
        """Requests made so far, retries included."""
        self.clock: str | None = None
        """The vendor's time in its last answer, in HTTP's format; None before the first answer."""

    def request(self, method: str, url: str, fields: dict[str, str] | None, headers: dict[str, str]) -> Answer:
        """The answer, with status 200.

        Raises:
            SourceFailed: there was no usable answer within the budget, or it is too large (`Oversized`).
            SourceDenied: the host's certificate can't be verified, or the proxy refuses the connection.
            MaangError: what the vendor's `refuse` raises.
            Closed: the source was closed meanwhile.
        """
        host, budget, started = self._vendor.host, self._budget, time.monotonic()

        def attempt() -> Answer:
            nonlocal started
            started += self._rate_limiter.wait()  # this is not the vendor's fault, so it does not count
            return self._once(method, url, fields, headers, started + (budget or retries.CONNECT_SECONDS + retries.READ_SECONDS))

        retrying = tenacity.Retrying(
            stop=lambda state: (
                state.attempt_number == retries.CALL_ATTEMPTS or time.monotonic() + state.upcoming_sleep >= started + budget
            ),
            sleep=self._sleep,
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(Transient),
            before_sleep=self._log_wait,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Transient as exc:
            if exc.after:
                raise SourceFailed(
                    f"{host}: {exc} with Retry-After {exc.after:g} s, longer than the {budget:g} s retry budget",
                    hint=f"run the same command again after that, or raise {self._vendor.budget_setting}",
                ) from exc
            bounded = retrying.statistics["attempt_number"] == retries.CALL_ATTEMPTS
            limit = f"in {retries.CALL_ATTEMPTS} attempts" if bounded else f"within {budget:g} s"
            raise SourceFailed(
                f"{host} gave no usable answer {limit}: {exc}",
                hint=f"check the network and {self._vendor.address_setting}, then run the same command again",
            ) from exc

    def _log_wait(self, state: tenacity.RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        log.warning("%s: %s; trying again in %.0f s", self._vendor.host, failure, state.upcoming_sleep)

    def _once(self, method: str, url: str, fields: dict[str, str] | None, headers: dict[str, str], deadline: float) -> Answer:
        if self._closed.is_set():
            raise Closed
        with self._counting:
            self.calls += 1
        started = time.monotonic()
        left = max(deadline - started, 0.1)
        timeout = urllib3.Timeout(connect=min(retries.CONNECT_SECONDS, left), total=left)
        try:
            response = self._pool.request(
                method, url, fields=fields, headers=headers, timeout=timeout, redirect=False, preload_content=False
            )
            try:
                answer = Answer(response.status, self._body(response))
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as exc:
            if lasting := connections.lasting_fault(exc):
                what, setting = lasting
                raise SourceDenied(
                    f"{self._vendor.host}: {what}",
                    hint=f"check {self._vendor.address_setting}; behind a proxy of your own, set {setting}",
                ) from exc
            raise Transient(_network_error(exc)) from exc
        self.clock = response.headers.get("Date")
        log.debug("GET %s: %d, %d bytes, %.2f s", url, answer.status, len(answer.data), time.monotonic() - started)
        if answer.status in RETRIED:
            kind = _TooManyRequests if answer.status == 429 else Transient
            raise kind(self._status(answer), _retry_after(response.headers.get("Retry-After")))
        self._rate_limiter.answered()
        if answer.status != 200:
            self._vendor.refuse(answer.status, f"{self._vendor.host} answered {self._status(answer)}")
        return answer

    def _body(self, response: urllib3.BaseHTTPResponse) -> bytes:
        # In pieces, because a few bytes of a compressed answer may unpack to gigabytes.
        body = bytearray()
        while part := response.read1(1 << 20):
            body += part
            if len(body) > MAX_BYTES:
                response.close()
                raise Oversized(
                    f"{self._vendor.host} sent more than {MAX_BYTES} bytes",
                    hint=f"check {self._vendor.address_setting}, then run the same command again",
                )
        return bytes(body)

    def _status(self, answer: Answer) -> str:
        """The status, and the vendor's own reason."""
        text = self._vendor.clean(self._vendor.reason(answer.data), 200)
        return f"HTTP {answer.status}" + (f", {text}" if text else "")

    def _wait(self, state: tenacity.RetryCallState) -> float:
        seconds = retries.wait_seconds(state)
        failure = state.outcome.exception() if state.outcome else None
        if isinstance(failure, _TooManyRequests):
            self._rate_limiter.refused(seconds, stated=failure.after is not None)
        return seconds

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise Closed

    def close(self) -> None:
        """End what waits, and close the connections."""
        self._closed.set()
        self._pool.clear()


def _retry_after(value: str | None) -> float | None:
    """The header's seconds. Its date form is rare here, and left to the back-off."""
    return float(value) if value and re.fullmatch("[0-9]{1,6}", value) else None


def _network_error(exc: urllib3.exceptions.HTTPError) -> str:
    """A urllib3 error in a few words; its own text repeats the pool's address and Python objects."""
    if isinstance(exc, urllib3.exceptions.ProxyError):
        cause = exc.original_error
        return f"the proxy: {_network_error(cause) if isinstance(cause, urllib3.exceptions.HTTPError) else 'no connection'}"
    if isinstance(exc, urllib3.exceptions.ReadTimeoutError):
        return "no complete answer in time"
    if isinstance(exc, urllib3.exceptions.NameResolutionError):
        return "the host's name can't be resolved"
    if isinstance(exc, urllib3.exceptions.NewConnectionError):
        return "connection refused" if "refused" in str(exc) else "no connection"
    if isinstance(exc, urllib3.exceptions.ConnectTimeoutError):  # the base class of the two before
        return "no connection in time"
    if isinstance(exc, urllib3.exceptions.SSLError):
        return "TLS failed: " + str(exc).partition("(_ssl")[0].strip()
    if isinstance(exc, (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError)):
        return "the connection broke off"
    return type(exc).__name__
