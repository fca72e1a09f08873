"""Serves made-up bars on loopback, in the vendor's JSON format. Prints its address first. Keeps each answer that it has made.

A path that begins with /r<number> returns revised bars. /lines/<tickers>/<first>/<last>.jsonl returns the same bars as JSON
lines, for a program that can't read the `results` of an answer.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zoneinfo import ZoneInfo

from maang_cli import sessions

NEW_YORK = ZoneInfo("America/New_York")
MARKET = 11_000
"""How many tickers the market has."""
GROUPED = re.compile(r"(?:/r(\d+))?/v2/aggs/grouped/locale/us/market/stocks/([0-9-]{10})")
RANGE = re.compile(r"(?:/r(\d+))?/v2/aggs/ticker/([^/]+)/range/1/day/([0-9-]{10})/([0-9-]{10})")
SPLITS = re.compile(r"(?:/r\d+)?/stocks/v1/splits")
LINES = re.compile(r"/lines/(\d+)/([0-9-]{10})/([0-9-]{10})\.jsonl")


def bar(number: int, day: int, revision: int) -> dict[str, object]:
    """A bar that the gate lets pass: a level of the ticker's own, and a dollar at most that depends on the day."""
    level, moved = number * 7919 % 50_000, (number * 31 + day * 104_729 + revision * 17) % 101
    low = 5 + (level + moved) / 100
    return {
        "v": 1000 + level * 37.25 + moved,
        "vw": round(low + 1.23456, 4),
        "o": round(low + 1, 2),
        "c": round(low + 1.405, 3),
        "h": round(low + 2, 2),
        "l": round(low, 2),
        "n": 10 + level + moved,
    }


def millis(day: date, hour: int) -> int:
    return int(datetime(day.year, day.month, day.day, hour, tzinfo=NEW_YORK).timestamp() * 1000)


def answer(rows: list[dict[str, object]]) -> bytes:
    return json.dumps(
        {
            "queryCount": len(rows),
            "resultsCount": len(rows),
            "adjusted": False,
            "results": rows,
            "status": "OK",
            "count": len(rows),
        }
    ).encode()


@cache
def grouped(day: date, revision: int) -> bytes:
    end, ordinal = millis(day, 16), day.toordinal()
    return answer([{"T": f"T{n:05}", "t": end} | bar(n, ordinal, revision) for n in range(MARKET)])


@cache
def ranged(ticker: str, first: date, last: date, revision: int) -> bytes:
    number = int(ticker[1:])
    return answer([{"t": millis(day, 0)} | bar(number, day.toordinal(), revision) for day in sessions.between(first, last)])


@cache
def lines(tickers: int, first: date, last: date) -> bytes:
    rows = (
        # No column `T` beside `t`: databases ignore the case of a name.
        json.dumps({"ticker": f"T{n:05}", "t": millis(day, 16)} | bar(n, day.toordinal(), 0))
        for day in sessions.between(first, last)
        for n in range(tickers)
    )
    return "\n".join(rows).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise an answer may wait up to 40 ms for the client's acknowledgement
    wbufsize = -1

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := GROUPED.fullmatch(path):
            body = grouped(date.fromisoformat(found[2]), int(found[1] or 0))
        elif found := RANGE.fullmatch(path):
            body = ranged(found[2], date.fromisoformat(found[3]), date.fromisoformat(found[4]), int(found[1] or 0))
        elif found := LINES.fullmatch(path):
            body = lines(int(found[1]), date.fromisoformat(found[2]), date.fromisoformat(found[3]))
        elif SPLITS.fullmatch(path):
            body = b'{"results":[],"status":"OK"}'
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


if __name__ == "__main__":
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    print(f"http://127.0.0.1:{http.server_address[1]}", flush=True)
    http.serve_forever()
