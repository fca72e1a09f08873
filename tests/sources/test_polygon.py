"""The Polygon source against a real server on loopback: what it makes of good answers, and of every bad one."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from maang_cli import settings
from maang_cli.errors import MaangError, NotPublishedYet, SettingsError, SourceDenied, SourceFailed
from maang_cli.sources.polygon import PolygonSource, open_source
from tests.polygon_server import KEY, Answer, PolygonServer, grouped, row, session_end

DAY = date(2025, 10, 14)
NOT_KEPT = Path("not-there")
"""Of a source that keeps no answers."""
AMPLE = 30.0
"""Seconds for an answer that comes at once, on a machine that is busy."""
SHORT = 1.0
"""Seconds: too short for a second attempt, whose wait is a second at least."""
ROOMY = 3.0
"""Seconds: enough for a second attempt, and for little more."""
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

LIMITED = b'{"status":"ERROR","request_id":"r1","error":"You\'ve exceeded the maximum requests per minute"}'
UNKNOWN_KEY = b'{"status":"ERROR","request_id":"r1","error":"Unknown API Key"}'
EARLY = b'{"status":"NOT_AUTHORIZED","message":"Attempted to request today\'s data before end of day. Please upgrade your plan"}'
BEYOND = b'{"status":"NOT_AUTHORIZED","message":"Your plan doesn\'t include this data timeframe. Please upgrade"}'
NOWHERE = b'{"status":"NOT_FOUND","message":"The requested resource was not found"}'


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All that is logged, by anyone; the key must not be in it."""
    ours = logging.getLogger("maang")
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "maang")
    ours.addHandler(caplog.handler)  # a command that ran in this process may have cut it off from the root
    yield caplog
    ours.removeHandler(caplog.handler)
    assert KEY not in caplog.text


def ask(base: str, *tickers: str, sessions: Sequence[date] = (DAY,), budget: float = AMPLE) -> list[dict[str, Any]]:
    with closing(PolygonSource(KEY, base, budget, NOT_KEPT)) as source:
        rows: list[dict[str, Any]] = source.bars(tickers or ("META",), sessions).to_pylist()
        return rows


def refusal(base: str, *tickers: str, budget: float = AMPLE) -> MaangError:
    """How the source says no: on one line that says where, with a hint, without the key."""
    with pytest.raises(MaangError) as caught:
        ask(base, *tickers, budget=budget)
    failure = caught.value
    assert urlsplit(base).netloc in failure.message
    assert failure.hint
    for text in (failure.message, failure.hint, str(failure), repr(failure)):
        assert text.isprintable(), text
        assert KEY not in text
        assert not text.endswith(".")
    return failure


def serve_bar(polygon: PolygonServer, **values: object) -> None:
    """META's bar, its values as given; a `str` is sent as it stands, digit by digit."""
    literal = {key: value for key, value in values.items() if isinstance(value, str)}
    usual = row("META", DAY, **{key: f"<{key}>" if key in literal else value for key, value in values.items()})
    body = grouped([usual]).decode()
    for key, text in literal.items():
        body = body.replace(f'"<{key}>"', text)
    polygon.bodies[DAY] = body.encode()


def one_bar(polygon: PolygonServer, **values: object) -> dict[str, Any]:
    serve_bar(polygon, **values)
    (bar,) = ask(polygon.url)
    return bar


def refused_bar(polygon: PolygonServer, **values: object) -> MaangError:
    serve_bar(polygon, **values)
    return refusal(polygon.url)


@contextmanager
def bare_server(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server below HTTP: `speak` gets each connection once its request has arrived."""
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
                    """The client has given up, as a test wanted it to."""

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


# --- what is asked


def test_a_session_costs_one_request_whatever_the_number_of_tickers(polygon: PolygonServer) -> None:
    days = [DAY, date(2025, 10, 15), date(2025, 10, 16)]
    tickers = [f"T{number}" for number in range(50)]
    polygon.days = {day: [row(ticker, day) for ticker in tickers] for day in days}
    assert len(ask(polygon.url, *tickers, sessions=days)) == 150
    asked = sorted(urlsplit(path).path.rpartition("/")[2] for path in polygon.requests)  # a few at once, in any order
    assert asked == [day.isoformat() for day in days]


def test_the_request_is_for_bars_as_traded_and_the_key_is_in_its_header_alone(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    ask(polygon.url)
    (path,) = polygon.requests
    assert urlsplit(path).path == "/v2/aggs/grouped/locale/us/market/stocks/2025-10-14"
    assert parse_qs(urlsplit(path).query)["adjusted"] == ["false"]
    assert KEY not in path
    assert polygon.keys == [f"Bearer {KEY}"]


def test_an_address_below_a_path_is_asked_there(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(body=grouped([row("META", DAY)]))
    assert len(ask(f"{polygon.url}/mirror")) == 1
    assert polygon.requests[0].startswith("/mirror/v2/aggs/grouped/")


def test_the_settings_decide_the_key_the_address_and_the_budget(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "the-client-would-take-this-one")
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "0.5")
    polygon.script.append(Answer(503, HTML))
    with closing(open_source(settings.load())) as source, pytest.raises(SourceFailed, match=r"0\.5 s"):
        source.bars(["META"], [DAY])
    assert polygon.keys == [f"Bearer {KEY}"]


def test_without_a_key_nothing_is_asked(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYGON_TOKEN")
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    with pytest.raises(SettingsError, match="POLYGON_TOKEN") as caught:
        open_source(settings.load())
    assert "POLYGON_TOKEN" in caught.value.hint
    assert not polygon.requests


def test_what_was_asked_and_how_long_it_took_is_logged(polygon: PolygonServer, log: pytest.LogCaptureFixture) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    ask(polygon.url)
    (said,) = {record.getMessage() for record in log.records if record.name == "maang"}
    assert f"GET {polygon.url}/v2/aggs/grouped/locale/us/market/stocks/2025-10-14: 200, " in said
    assert said.endswith(" s")


def test_the_client_writes_nothing_to_stdout(polygon: PolygonServer, capfd: pytest.CaptureFixture[str]) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    ask(polygon.url)
    logging.getLogger("RESTClient").error("the client's own handler would print this")
    assert capfd.readouterr().out == ""


# --- what is made of a good answer


def test_a_bar_is_taken_over_as_it_is(polygon: PolygonServer) -> None:
    assert one_bar(polygon, v="3.3166048e+07") == {
        "session": DAY,
        "ticker": "META",
        "date": DAY,
        "open": Decimal("10.00"),
        "high": Decimal("11.00"),
        "low": Decimal("9.50"),
        "close": Decimal("10.50"),
        "volume": Decimal(33166048),
        "vwap": Decimal("10.20"),
        "transactions": Decimal(42),
    }


@pytest.mark.parametrize(
    ("sent", "cents"),
    [
        ("271.405", "271.41"),
        ("271.4049999999999999999999999999", "271.40"),
        ("0.004", "0.00"),
        ("0.005", "0.01"),
        ("2.675", "2.68"),
        ("-0.005", "-0.01"),
        ("1e2", "100.00"),
        ("1E-2", "0.01"),
        ("1.005E+1", "10.05"),
        ("1e30", "1000000000000000000000000000000.00"),
        ("-1e30", "-1000000000000000000000000000000.00"),
        ("999999999999999999999999999999999999.994", "999999999999999999999999999999999999.99"),
        ("1e-30", "0.00"),
        ("1e-400000", "0.00"),
        ("7", "7.00"),
        ("0", "0.00"),
    ],
)
def test_a_price_is_rounded_once_half_up_to_cents(polygon: PolygonServer, sent: str, cents: str) -> None:
    bar = one_bar(polygon, o=sent, h=sent, l=sent, c=sent, vw=sent)
    assert [str(bar[name]) for name in ("open", "high", "low", "close", "vwap")] == [cents] * 5


@pytest.mark.parametrize(
    ("sent", "whole"),
    [
        ("38649398.679189", 38649399),
        ("3.3166048e+07", 33166048),
        ("0.5", 1),
        ("0.49999999999999999999", 0),
        ("1000", 1000),
        ("-3", -3),
        ("1e30", 10**30),
    ],
)
def test_volume_and_transactions_are_rounded_half_up_to_whole_numbers(polygon: PolygonServer, sent: str, whole: int) -> None:
    bar = one_bar(polygon, v=sent, n=sent)
    assert (bar["volume"], bar["transactions"]) == (whole, whole)


def half_up(literal: str, places: int) -> Fraction:
    """Rounded half up, away from zero, with nothing but whole numbers."""
    scaled = Fraction(literal) * 10**places
    size = floor(abs(scaled) + Fraction(1, 2))
    return Fraction(-size if scaled < 0 else size, 10**places)


literals = st.from_regex(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?", fullmatch=True).filter(
    lambda text: abs(Fraction(text)) < 10**36 - 1
)


plain = st.from_regex(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,12})?", fullmatch=True)
"""Numbers as the vendor writes them, and far beyond: these take the fast way."""


@pytest.mark.parametrize("literals", [plain, plain | literals], ids=["plain", "any"])
def test_any_decimal_is_rounded_exactly(literals: st.SearchStrategy[str], polygon: PolygonServer) -> None:
    with closing(PolygonSource(KEY, polygon.url, AMPLE, NOT_KEPT)) as source:

        @hypothesis_settings(deadline=None, max_examples=60)
        @given(st.lists(literals, min_size=1, max_size=30))
        def holds(sent: list[str]) -> None:
            names = [f"T{number}" for number in range(len(sent))]
            rows = [
                f'{{"T":"{name}","t":{session_end(DAY)},"o":{text},"v":{text}}}' for name, text in zip(names, sent, strict=True)
            ]
            polygon.bodies[DAY] = f'{{"status":"OK","resultsCount":{len(rows)},"results":[{",".join(rows)}]}}'.encode()
            for text, bar in zip(sent, source.bars(names, [DAY]).to_pylist(), strict=True):
                assert Fraction(bar["open"]) == half_up(text, 2), text
                assert Fraction(bar["volume"]) == half_up(text, 0), text

        holds()


@pytest.mark.parametrize("absent", [None, ...], ids=["null", "left out"])
@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("o", "open"),
        ("h", "high"),
        ("l", "low"),
        ("c", "close"),
        ("v", "volume"),
        ("vw", "vwap"),
        ("n", "transactions"),
        ("t", "date"),
    ],
)
def test_a_value_that_is_not_given_is_null(polygon: PolygonServer, key: str, column: str, absent: object) -> None:
    bar = one_bar(polygon, **{key: absent})
    assert [name for name, value in bar.items() if value is None] == [column]


@pytest.mark.parametrize(
    ("millis", "day"),
    [
        (session_end(date(2025, 10, 13)), date(2025, 10, 13)),
        (1760414400000, DAY),  # midnight in New York, where per-ticker bars begin
        (1760414399999, date(2025, 10, 13)),
        (1760472000, date(1970, 1, 21)),  # seconds in the place of milliseconds
        (0, date(1969, 12, 31)),
        (-1, date(1969, 12, 31)),
    ],
)
def test_the_date_is_the_one_that_the_bar_says_it_is_of(polygon: PolygonServer, millis: int, day: date) -> None:
    assert one_bar(polygon, t=millis)["date"] == day


def test_the_machines_time_zone_does_not_matter(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Honolulu"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            assert one_bar(polygon)["date"] == DAY
        finally:
            monkeypatch.delenv("TZ")
            time.tzset()


def test_only_the_tickers_asked_for_are_taken_and_their_case_matters(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row(ticker, DAY) for ticker in ("META", "meta", "BRK.A", "BRK.B", "BACpA", "BACPA", "")]
    assert {bar["ticker"] for bar in ask(polygon.url, "META", "BRK.A", "BACpA", "NOPE")} == {"META", "BRK.A", "BACpA"}


def test_a_market_without_the_tickers_asked_for_is_no_error_of_the_source(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("ZZZ", DAY)]
    assert ask(polygon.url) == []


def test_rubbish_in_rows_of_other_tickers_does_not_matter(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("ZZZ", DAY, o="n/a", t="never"), row("META", DAY)]
    assert len(ask(polygon.url)) == 1


def test_two_bars_of_one_ticker_are_both_staged_for_the_gate_to_see(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("META", DAY), row("META", DAY, c=10.6)]
    assert [bar["close"] for bar in ask(polygon.url)] == [Decimal("10.50"), Decimal("10.60")]


@pytest.mark.parametrize(
    "body",
    [
        grouped([row("META", DAY)], status="DELAYED"),
        grouped([row("META", DAY)], adjusted=...),
        grouped([row("META", DAY)], queryCount=..., count=..., request_id=...),
        grouped([row("META", DAY, otc=True, extra={"a": [1]})], unknown="key"),
        b"\xef\xbb\xbf" + grouped([row("META", DAY)]),
        b" \n" + grouped([row("META", DAY)]) + b"\n",
    ],
    ids=["delayed", "adjusted unsaid", "no counts", "unknown keys", "byte order mark", "white space"],
)
def test_what_the_vendor_may_leave_out_or_add_does_not_matter(polygon: PolygonServer, body: bytes) -> None:
    polygon.bodies[DAY] = body
    assert len(ask(polygon.url)) == 1


def test_an_answer_may_be_packed(polygon: PolygonServer) -> None:
    polygon.script.append(Answer(body=gzip.compress(grouped([row("META", DAY)])), headers={"Content-Encoding": "gzip"}))
    assert len(ask(polygon.url)) == 1


def test_an_answer_may_come_without_its_length(polygon: PolygonServer) -> None:
    body = grouped([row("META", DAY)])

    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (body[:50], body[50:], b""):
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))

    with bare_server(speak) as url:
        assert len(ask(url)) == 1


def test_a_recorded_answer_is_understood_and_refused_when_adjusted(polygon: PolygonServer, market: Path) -> None:
    adjusted = (market / "recorded" / "grouped_mock.json").read_bytes()
    polygon.bodies = {DAY: adjusted}
    assert "adjusted" in refusal(polygon.url, "GIK").message
    polygon.bodies = {DAY: adjusted.replace(b'"adjusted": true', b'"adjusted": false')}
    (bar,) = ask(polygon.url, "GIK")
    assert (bar["date"], bar["open"], bar["vwap"]) == (date(2020, 10, 14), Decimal("9.99"), Decimal("10.00"))
    assert (bar["volume"], bar["transactions"]) == (895345, 96)


# --- a day that is not there


@pytest.mark.parametrize("body", [grouped([]), grouped([], results=[])], ids=["no results", "empty results"])
def test_a_session_without_any_bar_is_not_published_yet(polygon: PolygonServer, body: bytes) -> None:
    polygon.bodies[DAY] = body
    failure = refusal(polygon.url)
    assert isinstance(failure, NotPublishedYet)
    assert failure.exit_code == 4
    assert "2025-10-14" in failure.message
    assert "2025-10-15 06:00 New York" in failure.hint


def test_today_on_a_plan_that_serves_the_past_is_not_published_yet(polygon: PolygonServer) -> None:
    polygon.script.append(Answer(403, EARLY))
    failure = refusal(polygon.url)
    assert isinstance(failure, NotPublishedYet)
    assert (failure.exit_code, len(polygon.requests)) == (4, 1)
    assert "before end of day" in failure.message


# --- what waiting can't help


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, UNKNOWN_KEY, "HTTP 401, Unknown API Key"),
        (401, b"", "HTTP 401"),
        (403, BEYOND, "HTTP 403, Your plan doesn't include this data timeframe"),
        (403, HTML, "HTTP 403"),
        (404, NOWHERE, "HTTP 404, The requested resource was not found"),
        (404, HTML, "HTTP 404"),
        (400, b'{"status":"ERROR","error":"bad date"}', "HTTP 400, bad date"),
    ],
)
def test_a_denial_ends_at_once(polygon: PolygonServer, status: int, body: bytes, said: str) -> None:
    polygon.script.append(Answer(status, body))
    failure = refusal(polygon.url)
    assert isinstance(failure, SourceDenied)
    assert (failure.exit_code, len(polygon.requests)) == (2, 1)
    assert said in failure.message
    assert "<" not in failure.message


def test_a_wrong_key_is_pointed_out(polygon: PolygonServer) -> None:
    with closing(PolygonSource("wrong", polygon.url, AMPLE, NOT_KEPT)) as source, pytest.raises(SourceDenied) as caught:
        source.bars(["META"], [DAY])
    assert "POLYGON_TOKEN" in caught.value.hint


@pytest.mark.parametrize("status", [301, 302, 304, 307])
def test_a_redirection_is_not_followed_so_that_the_key_stays_here(polygon: PolygonServer, status: int) -> None:
    with PolygonServer() as elsewhere:
        polygon.script.append(Answer(status, headers={"Location": f"{elsewhere.url}/v2/aggs"}))
        failure = refusal(polygon.url)
        assert f"HTTP {status}" in failure.message
        assert (len(polygon.requests), len(elsewhere.requests)) == (1, 0)


# --- what may heal: the network, and an overloaded server


def reset_on_arrival(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def babble(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize(
    ("speak", "said"),
    [(reset_on_arrival, "the connection broke off"), (babble, "the connection broke off")],
    ids=["reset", "another protocol"],
)
def test_a_server_that_does_not_speak_http_is_named(speak: Callable[[socket.socket], None], said: str) -> None:
    with bare_server(speak) as url:
        failure = refusal(url, budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert said in failure.message


@pytest.mark.xfail(strict=True, reason="urllib3 renews its read timeout with each byte of a head; the body has a deadline")
def test_a_head_that_drips_ends_with_the_budget() -> None:
    sent = []

    def speak(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"." * 100:
            connection.sendall(bytes([byte]))
            sent.append(byte)
            time.sleep(0.03)

    with bare_server(speak) as url:
        assert isinstance(refusal(url, budget=0.5), SourceFailed)
    assert len(sent) < 100, "the client listened to all of it, six times as long as it was given"


def test_a_body_that_drips_ends_with_the_budget(polygon: PolygonServer) -> None:
    polygon.script.append(Answer(body=grouped([row("META", DAY)]), drip=0.05))
    failure = refusal(polygon.url, budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert "still coming in after" in failure.message


def test_a_refused_connection_is_named() -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else can take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        failure = refusal(f"http://127.0.0.1:{bound.getsockname()[1]}", budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert "connection refused" in failure.message
    assert "MAANG_POLYGON_URL" in failure.hint


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses connections")
def test_a_connection_that_is_not_taken_up_ends_with_the_budget() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        failure = refusal(f"http://127.0.0.1:{full.getsockname()[1]}", budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert "no connection" in failure.message


def test_a_name_that_does_not_resolve_is_named() -> None:
    failure = refusal("https://polygon.invalid", budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert "polygon.invalid" in failure.message
    assert "can't be resolved" in failure.message


def test_a_server_without_tls_is_named(polygon: PolygonServer) -> None:
    failure = refusal(polygon.url.replace("http:", "https:"), budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert "TLS" in failure.message


def test_a_stall_ends_with_the_budget(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(delay=20)
    failure = refusal(polygon.url, budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert "no data" in failure.message
    assert "1 s" in failure.message


def test_a_stall_in_the_middle_of_the_body_ends_with_the_budget() -> None:
    body = grouped([row("META", DAY)])
    given_up = threading.Event()

    def speak(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body[:40]))
        given_up.wait(20)

    with bare_server(speak) as url:
        failure = refusal(url, budget=SHORT)
        given_up.set()
    assert isinstance(failure, SourceFailed)


TRANSIENT = {
    "reset": (Answer(reset=True), "the connection broke off"),
    "broken in mid-body": (Answer(body=grouped([row("META", DAY)]), cut_after=40), "the connection broke off"),
    "broken gzip": (Answer(body=b"no gzip at all", headers={"Content-Encoding": "gzip"}), "the connection broke off"),
    "429": (Answer(429, LIMITED), "HTTP 429, You've exceeded the maximum requests per minute"),
    "500": (Answer(500, b'{"status":"ERROR","error":"oops"}'), "HTTP 500, oops"),
    "502 with HTML": (Answer(502, HTML), "HTTP 502"),
    "503 with HTML": (Answer(503, HTML), "HTTP 503"),
    "504 without a body": (Answer(504), "HTTP 504"),
    "408": (Answer(408), "HTTP 408"),
}


@pytest.mark.parametrize(("answer", "said"), TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_failure_that_lasts_ends_with_the_budget(polygon: PolygonServer, answer: Answer, said: str) -> None:
    polygon.always = lambda path: answer
    failure = refusal(polygon.url, budget=SHORT)
    assert isinstance(failure, SourceFailed)
    assert failure.exit_code == 4
    assert said in failure.message
    assert "<" not in failure.message


@pytest.mark.parametrize("name", ["reset", "broken in mid-body", "429", "502 with HTML"])
def test_a_failure_that_heals_is_tried_again_and_narrated(
    polygon: PolygonServer, log: pytest.LogCaptureFixture, name: str
) -> None:
    answer, said = TRANSIENT[name]
    polygon.days[DAY] = [row("META", DAY)]
    polygon.script.append(answer)
    assert len(ask(polygon.url)) == 1
    assert len(polygon.requests) == 2
    warned = [record.getMessage() for record in log.records if record.levelno == logging.WARNING and record.name == "maang"]
    assert warned
    assert said in warned[0]
    assert "trying again in" in warned[0]


def test_a_failure_that_lasts_is_tried_more_than_once(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(503, HTML)
    failure = refusal(polygon.url, budget=ROOMY)
    assert len(polygon.requests) > 1
    assert "3 s" in failure.message


def test_a_retry_after_is_honoured(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    # Shorter than any back-off: five of those last 31 s.
    polygon.script.extend([Answer(429, LIMITED, {"Retry-After": "0"})] * 5)
    assert len(ask(polygon.url)) == 1
    assert len(polygon.requests) == 6


def test_a_retry_after_beyond_the_budget_ends_at_once(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(429, LIMITED, {"Retry-After": "60"})
    failure = refusal(polygon.url, budget=ROOMY)
    assert isinstance(failure, SourceFailed)
    assert len(polygon.requests) == 1
    assert "HTTP 429" in failure.message
    assert "no answer" not in failure.message, "it answered at once"
    assert "60 s" in failure.message + failure.hint, "when it makes sense to come back"


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2099 07:28:00 GMT", "soon", "-1", "", "\u00b2", "9" * 400])
def test_a_retry_after_of_another_form_is_no_bug(polygon: PolygonServer, value: str) -> None:
    polygon.always = lambda path: Answer(429, LIMITED, {"Retry-After": value})
    assert isinstance(refusal(polygon.url, budget=SHORT), SourceFailed)


def test_without_a_budget_there_is_one_attempt(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    assert len(ask(polygon.url, budget=0)) == 1
    assert len(polygon.requests) == 1


# --- answers that contradict themselves: never an empty day, never asked twice

ONE = [row("META", DAY)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON document"),
        (HTML, "no JSON document"),
        (grouped(ONE)[:-20], "no JSON document"),
        (grouped(ONE) + b"{}", "no JSON document"),
        (grouped(ONE).replace(b"META", b"M\xffTA"), "no JSON document"),
        (b"[" * 100_000, "no JSON document"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "no JSON document"),
        (b'{"status":"OK","resultsCount":' + b"9" * 5000 + b"}", "no JSON document"),
        (b"null", "JSON that is no object"),
        (b"[]", "JSON that is no object"),
        (b'"OK"', "JSON that is no object"),
        (b"{}", "status None"),
        (grouped(ONE, status="ERROR", error="internal"), "status 'ERROR'"),
        (grouped(ONE, status=...), "status None"),
        (grouped(ONE, status=["OK"]), "status ['OK']"),
        (grouped(ONE, adjusted=True), "adjusted"),
        (grouped(ONE, results=None), "no list of results"),
        (grouped([], results=None), "no list of results"),
        (grouped(ONE, results=...), "no list of results"),
        (grouped(ONE, results={}), "no list of results"),
        (grouped(ONE, results="META"), "no list of results"),
        (grouped(ONE, resultsCount=2), "1 results, and resultsCount 2"),
        (grouped(ONE, resultsCount=0), "1 results, and resultsCount 0"),
        (grouped(ONE, resultsCount="1"), "1 results, and resultsCount '1'"),
        (grouped(ONE, resultsCount=None), "1 results, and resultsCount None"),
        (grouped(ONE, resultsCount=...), "1 results, and resultsCount None"),
        (grouped([], resultsCount=...), "no list of results"),
        (grouped([row("META", DAY, T=...)]), "without a ticker"),
        (grouped([row("META", DAY, T=None)]), "without a ticker"),
        (grouped([row("META", DAY, T=7)]), "without a ticker"),
        (grouped([*ONE, None], resultsCount=2), "without a ticker"),  # type: ignore[list-item]
        (grouped([*ONE, "META"], resultsCount=2), "without a ticker"),  # type: ignore[list-item]
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_an_answer_that_contradicts_itself_is_an_error(polygon: PolygonServer, body: bytes, said: str) -> None:
    polygon.always = lambda path: Answer(body=body)
    failure = refusal(polygon.url)
    assert isinstance(failure, SourceFailed)
    assert failure.exit_code == 4
    assert "2025-10-14" in failure.message
    assert said in failure.message
    assert len(polygon.requests) == 1


def test_an_answer_beyond_all_measure_is_not_read_to_its_end(polygon: PolygonServer) -> None:
    packer = zlib.compressobj(level=1, wbits=31)
    spaces = b" " * (1 << 20)
    packed = b"".join(packer.compress(spaces) for _ in range(300)) + packer.flush()
    polygon.script.append(Answer(body=packed, headers={"Content-Encoding": "gzip"}))
    assert "sent over 268435456 bytes" in refusal(polygon.url, budget=120).message


@pytest.mark.parametrize("key", ["o", "h", "l", "c", "v", "vw", "n", "t"])
@pytest.mark.parametrize(
    "sent", ['"n/a"', '"10.5"', '""', "true", "false", "[]", "{}", "NaN", "Infinity", "-Infinity", "1e40", "-1e40", "1e36"]
)
def test_what_is_no_number_is_an_error_that_names_ticker_and_field(polygon: PolygonServer, key: str, sent: str) -> None:
    failure = refused_bar(polygon, **{key: sent})
    assert f"META's {key} as " in failure.message
    assert "2025-10-14" in failure.message


@pytest.mark.parametrize("sent", ["1e30", "253402300800000", "-1e15", "99999999999999999999"])
def test_a_time_that_no_calendar_holds_is_an_error(polygon: PolygonServer, sent: str) -> None:
    assert "META's t as " in refused_bar(polygon, t=sent).message


@pytest.mark.parametrize("sent", ["1e99999999999999999999", "-1e99999999999999999999", "1e-99999999999999999999"])
def test_an_exponent_beyond_all_measure_is_an_error_of_the_source(polygon: PolygonServer, sent: str) -> None:
    assert isinstance(refused_bar(polygon, o=sent), SourceFailed)


def test_a_bad_value_on_one_session_spoils_the_whole_request(polygon: PolygonServer) -> None:
    after = date(2025, 10, 15)
    polygon.days = {DAY: [row("META", DAY)], after: [row("META", after, c="n/a")]}
    with pytest.raises(SourceFailed, match=r"2025-10-15 with META's c as 'n/a'"):
        ask(polygon.url, sessions=[DAY, after])


# --- secrets


ECHOES = {
    "401": Answer(401, json.dumps({"error": f"Unknown API Key: {KEY}"}).encode()),
    "401 across the cut": Answer(401, json.dumps({"error": "x" * 190 + f" {KEY}"}).encode()),
    "403": Answer(403, json.dumps({"message": f"{KEY} has no such plan"}).encode()),
    "404": Answer(404, json.dumps({"message": f"/v2?apiKey={KEY}"}).encode()),
    "429": Answer(429, json.dumps({"error": f"{KEY} is too fast"}).encode()),
    "500": Answer(500, json.dumps({"error": {"key": KEY}}).encode()),
    "status": Answer(body=grouped(ONE, status=f"ERROR: {KEY}")),
    "resultsCount": Answer(body=grouped(ONE, resultsCount=f"of {KEY}")),
    "value": Answer(body=grouped([row("META", DAY, o=f"for {KEY}")])),
    "redirection": Answer(302, headers={"Location": f"/?apiKey={KEY}"}),
}


@pytest.mark.parametrize("answer", ECHOES.values(), ids=ECHOES.keys())
def test_a_key_that_the_vendor_echoes_is_masked(polygon: PolygonServer, answer: Answer) -> None:
    polygon.always = lambda path: answer
    failure = refusal(polygon.url, budget=SHORT)  # which looks for it
    assert KEY[:8] not in failure.message, "nor a part of it"


def test_the_key_is_not_in_what_the_source_says_of_itself(polygon: PolygonServer) -> None:
    with closing(PolygonSource(KEY, polygon.url, AMPLE, NOT_KEPT)) as source:
        assert KEY not in f"{source!r} {source!s}"


@pytest.mark.parametrize("text", ["two\nlines", "a \x1b[31mcolour", "a\x07bell", "\u202etrick", "x" * 5000])
def test_what_the_vendor_says_is_shown_on_one_short_clean_line(polygon: PolygonServer, text: str) -> None:
    polygon.script.append(Answer(403, json.dumps({"message": text}).encode()))
    assert len(refusal(polygon.url).message) < 300


def test_the_server_of_these_tests_speaks_of_the_same_moment_as_new_york() -> None:
    assert datetime.fromtimestamp(session_end(DAY) / 1000, UTC).isoformat() == "2025-10-14T20:00:00+00:00"
