"""A real HTTP server on loopback that answers as Polygon does, or with the faults that a test sets."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from zoneinfo import ZoneInfo

KEY = "test-key-5b1d0c"
NEW_YORK = ZoneInfo("America/New_York")
_RANGE = re.compile(r"/v2/aggs/ticker/([^/]+)/range/1/day/([0-9-]{10})/([0-9-]{10})")


@dataclass(frozen=True)
class Answer:
    """One scripted answer, which replaces the usual one."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    """Seconds before the first byte."""
    cut_after: int | None = None
    """The connection breaks after so many bytes of the body. The Content-Length is that of the whole body."""
    drip: float = 0
    """Seconds after each byte of the body."""
    reset: bool = False
    """Close the connection without an answer."""


@dataclass(frozen=True)
class Digits:
    """A number that is sent with exactly these digits."""

    text: str


def json_text(value: object, indent: int | None = None) -> str:
    """`value` as JSON; it may hold Digits."""
    text = json.dumps(value, indent=indent, default=lambda digits: f"\0{digits.text}")
    return re.sub(r'"\\u0000([^"]*)"', r"\1", text)


def session_end(day: date) -> int:
    """`t` of a grouped row: 16:00 New York, Unix milliseconds."""
    return int(datetime(day.year, day.month, day.day, 16, tzinfo=NEW_YORK).timestamp() * 1000)


def row(ticker: str, day: date, **values: object) -> dict[str, object]:
    """A plausible grouped row. `values` replace its values; a key whose value is `...` is left out."""
    usual: dict[str, object] = {"T": ticker, "v": 1000, "vw": 10.2, "o": 10, "c": 10.5, "h": 11, "l": 9.5}
    usual |= {"t": session_end(day), "n": 42} | values
    return {key: value for key, value in usual.items() if value is not ...}


def session_start(day: date) -> int:
    """`t` of a row in an answer to a range call: 00:00 New York, Unix milliseconds."""
    return int(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp() * 1000)


BEYOND = (
    b'{"status":"NOT_AUTHORIZED","request_id":"r1","message":"Your plan doesn\'t include this data timeframe. Please upgrade"}'
)


def grouped(rows: Sequence[Mapping[str, object]], **envelope: object) -> bytes:
    """A grouped answer. `envelope` replaces its values; a key whose value is `...` is left out."""
    answer: dict[str, object] = {"queryCount": len(rows), "resultsCount": len(rows), "adjusted": False}
    answer |= ({"results": list(rows)} if rows else {}) | {"status": "OK", "request_id": "r1", "count": len(rows)} | envelope
    given = {key: value for key, value in answer.items() if value is not ...}
    return json_text(given).encode()


class PolygonServer:
    """Serves `days` (grouped rows by session), after the answers in `script`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.days: dict[date, list[dict[str, object]]] = {}
        self.bodies: dict[date, bytes] = {}
        """Whole answers to grouped calls, which replace those of `days`."""
        self.script: deque[Answer] = deque()
        self.always: Callable[[str], Answer | None] = lambda path: None
        """Called with the path of each request that `script` does not answer. None: the usual answer."""
        self.history: date | None = None
        """The first session of the plan's history; None: all sessions are in it."""
        self.page = 50_000
        """The most rows in one page of an answer."""
        self.splits: list[dict[str, object]] = []
        """The rows that the newer endpoint serves, whatever is asked for."""
        self.answer_splits: Callable[[str], Answer | None] = lambda path: None
        """Called with the path of each request for splits; None: the usual answer."""
        self.split_requests: list[str] = []
        """Apart from `requests`: every run makes one, whatever it is about."""
        self.requests: list[str] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # one packet for head and body: of two, the second would wait until the first is acknowledged

            def do_GET(self) -> None:
                if "/splits?" in self.path:
                    server.split_requests.append(self.path)
                    server._send(self, server._answer_splits(self.path, self.headers.get("Authorization")))
                    return
                server.requests.append(self.path)
                server.keys.append(self.headers.get("Authorization"))
                server._send(self, server._answer(self.path, self.headers.get("Authorization")))

            def log_message(self, format: str, *args: Any) -> None:
                """Print nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            # The handshake is left to the connection's own thread.
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _answer_splits(self, path: str, key: str | None) -> Answer:
        if scripted := self.answer_splits(path):
            return scripted
        if key != f"Bearer {KEY}":
            return Answer(401, b'{"status":"ERROR","request_id":"r1","error":"Unknown API Key"}')
        return Answer(body=json.dumps({"results": self.splits, "status": "OK", "request_id": "r1"}).encode())

    def _answer(self, path: str, key: str | None) -> Answer:
        if self.script:
            return self.script.popleft()
        if scripted := self.always(path):
            return scripted
        if key != f"Bearer {KEY}":
            return Answer(401, b'{"status":"ERROR","request_id":"r1","error":"Unknown API Key"}')
        parts = urlsplit(path)
        if parse_qs(parts.query).get("adjusted") == ["false"] and (found := _RANGE.fullmatch(parts.path)):
            return self._range(unquote(found[1]), date.fromisoformat(found[2]), date.fromisoformat(found[3]), parts.query)
        prefix = "/v2/aggs/grouped/locale/us/market/stocks/"
        if not parts.path.startswith(prefix) or parse_qs(parts.query).get("adjusted") != ["false"]:
            return Answer(404, b'{"status":"NOT_FOUND","request_id":"r1","message":"no such endpoint here"}')
        day = date.fromisoformat(parts.path.removeprefix(prefix))
        if self.history is not None and day < self.history:
            return Answer(403, BEYOND)
        return Answer(body=self.bodies.get(day) or self._page(self.days.get(day, []), parts.path, parse_qs(parts.query)))

    def _page(self, rows: Sequence[Mapping[str, object]], path: str, query: Mapping[str, list[str]], **envelope: object) -> bytes:
        """The page of these rows at the query's cursor, with the address of the next."""
        start = int(query.get("cursor", ["0"])[0])
        end = start + min(self.page, int(query.get("limit", ["50000"])[0]))
        if end < len(rows):
            envelope |= {"next_url": f"{self.url}{path}?adjusted=false&limit={end - start}&cursor={end}"}
        return grouped(rows[start:end], **envelope)

    def _range(self, ticker: str, first: date, last: date, query: str) -> Answer:
        """One ticker's bars. If the range begins before the plan's history, the older part is silently missing."""
        parameters = parse_qs(query)
        if self.history is not None and last < self.history:
            return Answer(403, BEYOND)
        rows = [
            {key: value for key, value in bar.items() if key != "T"} | {"t": session_start(day)}
            for day, bars in sorted(self.days.items())
            if first <= day <= last and (self.history is None or day >= self.history)
            for bar in bars
            if bar["T"] == ticker
        ]
        path = f"/v2/aggs/ticker/{ticker}/range/1/day/{first}/{last}"
        return Answer(body=self._page(rows, path, parameters, ticker=ticker))

    def _send(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        handler.close_connection = answer.reset or answer.cut_after is not None
        time.sleep(answer.delay)
        if answer.reset:
            return
        try:
            start = handler.send_response_only if "Date" in answer.headers else handler.send_response
            start(answer.status)
            for name, value in ({"Content-Type": "application/json"} | dict(answer.headers)).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(answer.body)))
            handler.end_headers()
            if not answer.drip:
                handler.wfile.write(answer.body[: answer.cut_after])
                handler.wfile.flush()
                return
            for byte in answer.body:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(answer.drip)
        except (BrokenPipeError, ConnectionResetError):
            """The client has given up: some tests make it."""
