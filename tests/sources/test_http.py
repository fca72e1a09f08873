"""`sources.http`: one GET within its budget, against real servers on loopback, with every fault of a network."""

from __future__ import annotations

import gzip
import logging
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from maang_cli.errors import MaangError, SourceDenied, SourceFailed
from maang_cli.sources.http import RETRIED, Closed, Oversized, RetryingGet, Vendor
from maang_cli.sources.rate_limit import RateLimiter
from tests.polygon_server import KEY, Answer, PolygonServer

AMPLE = 30.0
"""Seconds for an answer that comes immediately, even on a busy machine."""
SHORT = 1.0
"""Seconds: too short for a second attempt, because the wait before it takes a second or longer."""
ROOMY = 3.0
"""Seconds: enough for a second attempt, and for little more."""
BODY = b'{"results":[{"T":"META","c":10.5}]}' * 5
PATH = "/bars/2025-10-14"


def refuse(status: int, text: str) -> NoReturn:
    raise SourceDenied(text, hint=f"this vendor's hint for {status}")


def vendor(url: str) -> Vendor:
    """A vendor whose answers are refused with their body as the reason."""
    return Vendor(url, KEY, lambda body: body.decode(errors="replace"), refuse, "MAANG_VENDOR_URL", "MAANG_VENDOR_SECONDS")


def client(url: str, budget: float = AMPLE, limiter: RateLimiter | None = None) -> RetryingGet:
    return RetryingGet(vendor(url), budget, limiter or RateLimiter(None))


def get_with(client: RetryingGet, url: str) -> bytes:
    answer = client.request("GET", url + PATH, None, {"Authorization": f"Bearer {KEY}"})
    assert answer.status == 200
    return answer.data


def get(url: str, budget: float = AMPLE) -> bytes:
    with closing(client(url, budget)) as opened:
        return get_with(opened, url)


def error_of(url: str, budget: float = AMPLE) -> MaangError:
    """The error of a GET: it names the host, has a hint, prints on one line, and does not show the key."""
    with pytest.raises(MaangError) as caught:
        get(url, budget)
    error = caught.value
    assert urlsplit(url).netloc in error.message
    assert error.hint
    for text in (error.message, error.hint, str(error), repr(error)):
        assert text.isprintable(), text
        assert KEY not in text
        assert not text.endswith(".")
    return error


@pytest.fixture
def server(polygon: PolygonServer) -> PolygonServer:
    """Answers each request with BODY."""
    polygon.always = lambda path: Answer(body=BODY)
    return polygon


@contextmanager
def bare_server(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server below HTTP: `speak` gets each connection after its request has arrived."""
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(65536)
                    speak(connection)
                except OSError:
                    """The client has given up: some tests make it."""

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


# --- answers


def test_answer_has_the_whole_body(server: PolygonServer) -> None:
    assert get(server.url) == BODY
    assert server.requests == [PATH]


def test_gzip_answer_is_unpacked(server: PolygonServer) -> None:
    server.script.append(Answer(body=gzip.compress(BODY), headers={"Content-Encoding": "gzip"}))
    assert get(server.url) == BODY


def test_chunked_answer_is_read() -> None:
    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (BODY[:50], BODY[50:], b""):
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))

    with bare_server(speak) as url:
        assert get(url) == BODY


def test_call_and_its_duration_are_logged(server: PolygonServer, log: pytest.LogCaptureFixture) -> None:
    get(server.url)
    (line,) = {record.getMessage() for record in log.records if record.name == "maang"}
    assert line.startswith(f"GET {server.url}{PATH}: 200, {len(BODY)} bytes, ")
    assert line.endswith(" s")


def test_calls_are_counted_with_their_retries(server: PolygonServer) -> None:
    server.script.extend([Answer(503, headers={"Retry-After": "0"})] * 2)
    with closing(client(server.url)) as opened:
        get_with(opened, server.url)
        get_with(opened, server.url)
        assert opened.calls == len(server.requests) == 4


def test_clock_is_the_date_of_the_last_answer(server: PolygonServer) -> None:
    dates = ["Tue, 14 Oct 2025 20:00:00 GMT", "Wed, 15 Oct 2025 20:00:00 GMT"]
    server.script.extend(Answer(body=BODY, headers={"Date": text}) for text in dates)
    with closing(client(server.url)) as opened:
        assert opened.clock is None
        for text in dates:
            get_with(opened, server.url)
            assert opened.clock == text


def test_oversized_answer_is_not_read_to_its_end(server: PolygonServer) -> None:
    packer = zlib.compressobj(level=1, wbits=31)
    spaces = b" " * (1 << 20)
    packed = b"".join(packer.compress(spaces) for _ in range(30)) + packer.flush()
    server.script.append(Answer(body=packed, headers={"Content-Encoding": "gzip"}))
    error = error_of(server.url, budget=120)
    assert isinstance(error, Oversized)
    assert "sent more than 16777216 bytes" in error.message
    assert "MAANG_VENDOR_URL" in error.hint
    assert len(server.requests) == 1


# --- refusals


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 501])
def test_other_statuses_are_refused_by_the_vendor_without_a_retry(server: PolygonServer, status: int) -> None:
    server.script.append(Answer(status, b"the vendor's reason"))
    error = error_of(server.url)
    assert (type(error), error.message) == (
        SourceDenied,
        f"{urlsplit(server.url).netloc} answered HTTP {status}, the vendor's reason",
    )
    assert error.hint == f"this vendor's hint for {status}"
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 304, 307])
def test_redirect_is_not_followed_so_the_key_stays_with_the_vendor(server: PolygonServer, status: int) -> None:
    with PolygonServer() as elsewhere:
        server.script.append(Answer(status, headers={"Location": f"{elsewhere.url}{PATH}"}))
        error = error_of(server.url)
        assert f"HTTP {status}" in error.message
        assert (len(server.requests), len(elsewhere.requests)) == (1, 0)


@pytest.mark.parametrize(
    "text", ["two\nlines", "a \x1b[31mcolour", "a\x07bell", "\u202etrick", "x" * 5000, KEY, f"{'x' * 190} {KEY}"]
)
def test_vendors_reason_is_one_short_printable_line_without_the_key(server: PolygonServer, text: str) -> None:
    server.script.append(Answer(403, text.encode()))
    message = error_of(server.url).message
    assert len(message) < 300
    assert KEY[:8] not in message, "not even a part of it"


def test_representation_of_a_vendor_does_not_show_the_key(server: PolygonServer) -> None:
    known = vendor(server.url)
    assert KEY not in f"{known!r} {known!s} {client(server.url)!r}"


# --- network faults


def reset_on_arrival(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def speak_ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize("speak", [reset_on_arrival, speak_ssh], ids=["reset", "another protocol"])
def test_server_that_does_not_speak_http_is_named(speak: Callable[[socket.socket], None]) -> None:
    with bare_server(speak) as url:
        error = error_of(url, budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "the connection broke off" in error.message


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "header": (OK + b"X-Slow: ", b"."),
    "headers": (OK, b"X-Slow: .\r\n"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of 100 Continue": (b"HTTP/1.1 100 Continue\r\n", b"X-Slow: .\r\n"),
    "chunk size": (CHUNKED, b"0"),
    "chunk extension": (CHUNKED + b"5;", b"x"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "chunked trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Slow: .\r\n"),
    "body": (OK + b"Content-Length: 1000\r\n\r\n", b"x"),
    "body without a length": (OK + b"\r\n", b"x"),
    "body of an error": (b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize(("start", "piece"), SLOW.values(), ids=SLOW.keys())
def test_slow_answer_ends_with_the_budget_whatever_part_is_slow(start: bytes, piece: bytes) -> None:
    sent = []

    def speak(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(90):
            connection.sendall(piece)
            sent.append(piece)
            time.sleep(0.05)

    with bare_server(speak) as url:
        error = error_of(url, budget=0.5)
    assert isinstance(error, SourceFailed)
    assert "no complete answer in time" in error.message
    assert len(sent) < 90, "the client listened to all of it, for nine times its budget"


HOSTILE = {
    "huge chunk": CHUNKED + b"f" * 60 + b"\r\nx",
    "negative chunk": CHUNKED + b"-1\r\nx",
    "many headers": OK + b"A: b\r\n" * 300 + b"\r\nx",
    "redirect to an address that can't be read": b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\n\r\n",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_head_is_a_failure_of_the_source(answer: bytes) -> None:
    with bare_server(lambda connection: connection.sendall(answer)) as url:
        error_of(url, budget=SHORT)


def test_slow_body_ends_with_the_budget(server: PolygonServer) -> None:
    server.script.append(Answer(body=BODY, drip=0.05))
    error = error_of(server.url, budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "no complete answer in time" in error.message


def test_refused_connection_is_named() -> None:
    with socket.socket() as bound:  # bound, but not listening: nobody else can take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        error = error_of(f"http://127.0.0.1:{bound.getsockname()[1]}", budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "connection refused" in error.message
    assert "MAANG_VENDOR_URL" in error.hint


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses connections")
def test_connection_that_is_not_accepted_ends_with_the_budget() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        error = error_of(f"http://127.0.0.1:{full.getsockname()[1]}", budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "no connection" in error.message


def test_unknown_host_is_named() -> None:
    error = error_of("https://vendor.invalid", budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "vendor.invalid" in error.message
    assert "can't be resolved" in error.message


def test_server_without_tls_is_named(server: PolygonServer) -> None:
    error = error_of(server.url.replace("http:", "https:"), budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "TLS" in error.message


def test_stall_ends_with_the_budget(server: PolygonServer) -> None:
    server.always = lambda path: Answer(delay=20)
    error = error_of(server.url, budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "no complete answer in time" in error.message
    assert "1 s" in error.message


def test_stall_within_the_body_ends_with_the_budget() -> None:
    given_up = threading.Event()

    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY[:40]))
        given_up.wait(20)

    with bare_server(speak) as url:
        error = error_of(url, budget=SHORT)
        given_up.set()
    assert isinstance(error, SourceFailed)


# --- retries

FAULTS = {
    "reset": (Answer(reset=True), "the connection broke off"),
    "broken body": (Answer(body=BODY, cut_after=40), "the connection broke off"),
    "broken gzip": (Answer(body=b"this is not gzip", headers={"Content-Encoding": "gzip"}), "the connection broke off"),
    **{str(status): (Answer(status, b"busy"), f"HTTP {status}, busy") for status in sorted(RETRIED)},
    "504 without a body": (Answer(504), "HTTP 504"),
}


def test_these_statuses_are_retried() -> None:
    assert sorted(RETRIED) == [408, 413, 425, 429, 499, 500, 502, 503, 504, *range(520, 528)]


@pytest.mark.parametrize(("answer", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_permanent_fault_ends_with_the_budget(server: PolygonServer, answer: Answer, reason: str) -> None:
    server.always = lambda path: answer
    error = error_of(server.url, budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert error.exit_code == 4
    assert reason in error.message


@pytest.mark.parametrize("name", ["reset", "broken body", "429", "502"])
def test_fault_is_logged_and_tried_again(server: PolygonServer, log: pytest.LogCaptureFixture, name: str) -> None:
    answer, reason = FAULTS[name]
    server.script.append(answer)
    assert get(server.url) == BODY
    assert len(server.requests) == 2
    (warning,) = {record.getMessage() for record in log.records if record.levelno == logging.WARNING and record.name == "maang"}
    assert reason in warning
    assert "trying again in" in warning


def test_permanent_fault_is_tried_more_than_once(server: PolygonServer) -> None:
    server.always = lambda path: Answer(503)
    error = error_of(server.url, budget=ROOMY)
    assert len(server.requests) > 1
    assert "3 s" in error.message


def test_retry_after_replaces_the_back_off(server: PolygonServer) -> None:
    server.script.extend([Answer(429, headers={"Retry-After": "0"})] * 5)  # five waits of the back-off would last 31 s
    assert get(server.url) == BODY
    assert len(server.requests) == 6


def test_attempts_without_a_wait_are_bounded(server: PolygonServer) -> None:
    server.always = lambda path: Answer(429, headers={"Retry-After": "0"})
    error = error_of(server.url, budget=3600)
    assert isinstance(error, SourceFailed)
    assert len(server.requests) == 100
    assert "gave no usable answer in 100 attempts: HTTP 429" in error.message


def test_retry_after_beyond_the_budget_ends_immediately(server: PolygonServer) -> None:
    server.always = lambda path: Answer(429, b"too fast", {"Retry-After": "60"})
    error = error_of(server.url, budget=ROOMY)
    assert isinstance(error, SourceFailed)
    assert len(server.requests) == 1
    assert "HTTP 429, too fast with Retry-After 60 s, longer than the 3 s retry budget" in error.message
    assert "MAANG_VENDOR_SECONDS" in error.hint


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2099 07:28:00 GMT", "soon", "-1", "", "\u00b2", "9" * 400])
def test_retry_after_in_another_form_is_ignored(server: PolygonServer, value: str) -> None:
    server.always = lambda path: Answer(429, headers={"Retry-After": value})
    error = error_of(server.url, budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert "Retry-After" not in error.message


def test_zero_budget_is_a_single_attempt(server: PolygonServer) -> None:
    assert get(server.url, budget=0) == BODY
    assert len(server.requests) == 1
    server.script.append(Answer(503, headers={"Retry-After": "0"}))
    assert isinstance(error_of(server.url, budget=0), SourceFailed)
    assert len(server.requests) == 2


# --- the rate limit, and the end


class Limiter(RateLimiter):
    """A rate limiter that records what it hears, and makes each call wait for `pause` seconds."""

    def __init__(self, pause: float = 0) -> None:
        super().__init__(None)
        self.pause = pause
        self.refusals: list[tuple[float, bool]] = []
        self.answers = 0

    def wait(self) -> float:
        time.sleep(self.pause)
        return self.pause

    def answered(self) -> None:
        self.answers += 1

    def refused(self, seconds: float, *, stated: bool) -> None:
        self.refusals.append((seconds, stated))


def test_only_429_counts_as_one_call_too_many(server: PolygonServer) -> None:
    server.script.extend(Answer(status, headers={"Retry-After": "0"}) for status in (503, 429, 500))
    server.script.append(Answer(404))
    limiter = Limiter()
    with closing(client(server.url, limiter=limiter)) as opened:
        with pytest.raises(SourceDenied):
            get_with(opened, server.url)
        get_with(opened, server.url)
    assert (limiter.refusals, limiter.answers) == ([(0, True)], 2)


def test_429_without_retry_after_holds_calls_for_the_back_off(server: PolygonServer) -> None:
    server.script.append(Answer(429))
    limiter = Limiter()
    with closing(client(server.url, limiter=limiter)) as opened:
        get_with(opened, server.url)
    ((seconds, stated),) = limiter.refusals
    assert 1 <= seconds <= 2
    assert (stated, limiter.answers) == (False, 1)


def test_waiting_for_the_rate_limit_does_not_use_the_budget(server: PolygonServer) -> None:
    server.script.extend([Answer(503, headers={"Retry-After": "0"})] * 3)
    with closing(client(server.url, budget=1, limiter=Limiter(0.6))) as opened:
        assert get_with(opened, server.url) == BODY
    assert len(server.requests) == 4


def test_close_ends_a_call_that_waits_for_its_next_attempt(server: PolygonServer) -> None:
    server.always = lambda path: Answer(503, headers={"Retry-After": "20"})
    opened = client(server.url)
    closer = threading.Timer(0.3, opened.close)
    closer.start()
    started = time.monotonic()
    with pytest.raises(Closed):
        get_with(opened, server.url)
    assert time.monotonic() - started < 15
    with pytest.raises(Closed):
        get_with(opened, server.url)
    assert len(server.requests) == 1
