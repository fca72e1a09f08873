"""`sources.polygon.http`: what each of Polygon's refusals means, and what maang shows of its words."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from maang_cli.errors import NotPublishedYet, SourceDenied, SourceFailed
from maang_cli.sources.polygon.http import BeyondPlan
from tests.polygon_server import BEYOND, KEY, Answer, PolygonServer, grouped, row
from tests.sources.polygon.client import DAY, SHORT, error_of, fetch_bars, polygon_source

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
LIMITED = b'{"status":"ERROR","request_id":"r1","error":"You\'ve exceeded the maximum requests per minute"}'
UNKNOWN_KEY = b'{"status":"ERROR","request_id":"r1","error":"Unknown API Key"}'
EARLY = b'{"status":"NOT_AUTHORIZED","message":"Attempted to request today\'s data before end of day. Please upgrade your plan"}'
NOWHERE = b'{"status":"NOT_FOUND","message":"The requested resource was not found"}'
ONE = [row("META", DAY)]


def test_todays_session_is_not_published_yet_for_a_plan_that_serves_the_past(polygon: PolygonServer) -> None:
    polygon.script.append(Answer(403, EARLY))
    error = error_of(polygon.url)
    assert isinstance(error, NotPublishedYet)
    assert (error.exit_code, len(polygon.requests)) == (4, 1)
    assert "before end of day" in error.message


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, UNKNOWN_KEY, "HTTP 401, Unknown API Key"),
        (401, b"", "HTTP 401"),
        (403, BEYOND, "HTTP 403, Your plan doesn't include this data timeframe"),
        (403, HTML, "HTTP 403"),
        (403, b"[" * 200_000, "HTTP 403"),
        (403, b"[" * 200_000 + b"]" * 200_000, "HTTP 403"),
        (403, b'{"message":' + b"[" * 900 + b"]" * 900 + b"}", "HTTP 403"),
        (404, NOWHERE, "HTTP 404, The requested resource was not found"),
        (404, HTML, "HTTP 404"),
        (400, b'{"status":"ERROR","error":"bad date"}', "HTTP 400, bad date"),
    ],
)
def test_denial_is_not_retried(polygon: PolygonServer, status: int, body: bytes, reason: str) -> None:
    polygon.script.append(Answer(status, body))
    error = error_of(polygon.url)
    assert isinstance(error, SourceDenied)
    assert isinstance(error, BeyondPlan) == (body == BEYOND)
    assert (error.exit_code, len(polygon.requests)) == (2, 1)
    assert reason in error.message
    assert "<" not in error.message


def test_wrong_key_gets_a_hint(polygon: PolygonServer) -> None:
    with closing(polygon_source(polygon.url, key="wrong")) as source, pytest.raises(SourceDenied) as caught:
        source.bars(["META"], [DAY])
    assert "POLYGON_TOKEN" in caught.value.hint


@pytest.mark.parametrize("status", [302, 418, 501])
def test_other_statuses_may_heal(polygon: PolygonServer, status: int) -> None:
    polygon.script.append(Answer(status, HTML))
    error = error_of(polygon.url)
    assert isinstance(error, SourceFailed)
    assert (error.exit_code, len(polygon.requests)) == (4, 1)
    assert f"HTTP {status}" in error.message
    assert "<" not in error.message


RETRIED = {
    "429": (Answer(429, LIMITED), "HTTP 429, You've exceeded the maximum requests per minute"),
    "500": (Answer(500, b'{"status":"ERROR","error":"oops"}'), "HTTP 500, oops"),
    "502 with HTML": (Answer(502, HTML), "HTTP 502"),
    "503 with HTML": (Answer(503, HTML), "HTTP 503"),
    "504 without a body": (Answer(504), "HTTP 504"),
    "500 with a list": (Answer(500, b"[]"), "HTTP 500"),
    "500 with deep JSON": (Answer(500, b"[" * 200_000), "HTTP 500"),
    "500 with a deep error": (Answer(500, b'{"error":' + b"[" * 900 + b"]" * 900 + b"}"), "HTTP 500"),
    "500 with a short deep body": (Answer(500, b"[" * 5_000), "HTTP 500"),
    "500 with other bytes": (Answer(500, b'{"error":"\xff"}'), "HTTP 500"),
}


@pytest.mark.parametrize(("answer", "reason"), RETRIED.values(), ids=RETRIED.keys())
def test_permanent_fault_ends_with_polygons_reason(polygon: PolygonServer, answer: Answer, reason: str) -> None:
    polygon.always = lambda path: answer
    error = error_of(polygon.url, budget=SHORT)
    assert isinstance(error, SourceFailed)
    assert error.exit_code == 4
    assert reason in error.message
    assert "<" not in error.message


def test_hints_name_polygons_settings(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(503)
    assert "MAANG_POLYGON_URL" in error_of(polygon.url, budget=SHORT).hint
    polygon.always = lambda path: Answer(429, LIMITED, {"Retry-After": "60"})
    assert "MAANG_RETRY_SECONDS" in error_of(polygon.url, budget=SHORT).hint


# --- secrets

ECHOES = {
    "401": Answer(401, json.dumps({"error": f"Unknown API Key: {KEY}"}).encode()),
    "401, where the text is cut": Answer(401, json.dumps({"error": "x" * 190 + f" {KEY}"}).encode()),
    "403": Answer(403, json.dumps({"message": f"{KEY} has no such plan"}).encode()),
    "404": Answer(404, json.dumps({"message": f"/v2?apiKey={KEY}"}).encode()),
    "429": Answer(429, json.dumps({"error": f"{KEY} is too fast"}).encode()),
    "500": Answer(500, json.dumps({"error": {"key": KEY}}).encode()),
    "status": Answer(body=grouped(ONE, status=f"ERROR: {KEY}")),
    "resultsCount": Answer(body=grouped(ONE, resultsCount=f"of {KEY}")),
    "redirect": Answer(302, headers={"Location": f"/?apiKey={KEY}"}),
}


@pytest.mark.parametrize("answer", ECHOES.values(), ids=ECHOES.keys())
def test_key_in_the_vendors_words_is_masked(polygon: PolygonServer, answer: Answer) -> None:
    polygon.always = lambda path: answer
    error = error_of(polygon.url, budget=SHORT)  # looks for the key
    assert KEY[:8] not in error.message, "not even a part of it"


def test_key_in_a_wrong_value_is_masked(polygon: PolygonServer, log: pytest.LogCaptureFixture) -> None:
    polygon.days[DAY] = [row("META", DAY, o=f"{'x' * 30} {KEY}")]
    assert fetch_bars(polygon.url) == []
    assert "META's o as 'xxx" in log.text
    assert KEY[:8] not in log.text


@pytest.mark.parametrize("text", ["two\nlines", "a \x1b[31mcolour", "a\x07bell", "\u202etrick", "x" * 5000])
def test_vendors_words_are_one_short_printable_line(polygon: PolygonServer, text: str) -> None:
    polygon.script.append(Answer(403, json.dumps({"message": text}).encode()))
    assert len(error_of(polygon.url).message) < 300
