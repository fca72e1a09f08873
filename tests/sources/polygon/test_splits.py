"""The vendor's splits: what is asked for, what is made of the answers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest

from maang_cli.errors import SourceFailed
from maang_cli.sources.base import Source
from maang_cli.sources.polygon.source import open_source
from maang_cli.splits import Claim, Claims
from tests import settings
from tests.polygon_server import Answer, PolygonServer

FIRST, LAST = date(2025, 10, 1), date(2025, 11, 24)
NFLX = {"ticker": "NFLX", "execution_date": "2025-11-17", "split_from": 1, "split_to": 10, "id": "a"}
FOUND = Claim("NFLX", date(2025, 11, 17), Decimal(1), Decimal(10), "polygon")


@pytest.fixture
def source(polygon: PolygonServer) -> Iterator[Source]:
    with closing(open_source(settings.load())) as opened:
        yield opened


def asked(polygon: PolygonServer, number: int = -1) -> tuple[str, dict[str, list[str]]]:
    """The path and the query of a request."""
    parts = urlsplit(polygon.split_requests[number])
    return parts.path, parse_qs(parts.query)


def pages(*rows: list[dict[str, object]], url: str) -> Iterator[Answer]:
    """Answers, each of which but the last names the next."""
    for number, page in enumerate(rows, 1):
        following = {"next_url": f"{url}/stocks/v1/splits?cursor={number}"} if number < len(rows) else {}
        yield Answer(body=json.dumps({"results": page, "status": "OK", **following}).encode())


def test_few_tickers_are_asked_for_by_name(source: Source, polygon: PolygonServer) -> None:
    polygon.splits = [NFLX, NFLX | {"ticker": "OTHER"}]
    assert source.splits(("NFLX", "META"), FIRST, LAST) == Claims((FOUND,))
    assert asked(polygon) == (
        "/stocks/v1/splits",
        {
            "ticker.any_of": ["NFLX,META"],
            "execution_date.gte": ["2025-10-01"],
            "execution_date.lte": ["2025-11-24"],
            "limit": ["5000"],
            "sort": ["execution_date.asc"],
        },
    )


def test_many_tickers_are_filtered_here(source: Source, polygon: PolygonServer) -> None:
    polygon.splits = [NFLX, NFLX | {"ticker": "OTHER"}]
    assert source.splits(("NFLX", *(f"T{number}" for number in range(100))), FIRST, LAST) == Claims((FOUND,))
    assert "ticker.any_of" not in asked(polygon)[1]


def test_older_endpoint_answers_if_the_newer_does_not_exist(source: Source, polygon: PolygonServer) -> None:
    missing = Answer(404, b'{"status":"NOT_FOUND","message":"no such endpoint"}')
    polygon.splits = [NFLX | {"split_from": 2e6, "split_to": 1.04347826}]
    polygon.answer_splits = lambda path: missing if path.startswith("/stocks/v1") else None
    [found] = source.splits(("NFLX",), FIRST, LAST).rows
    assert (found.split_from, found.split_to) == (Decimal(2_000_000), Decimal("1.04347826"))
    assert asked(polygon)[0] == "/v3/reference/splits"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(403, b'{"status":"NOT_AUTHORIZED","message":"You are not entitled to this data."}'),
        Answer(404, b'{"status":"NOT_FOUND","message":"no such endpoint"}'),
    ],
    ids=["the plan", "the address"],
)
def test_vendor_without_splits_costs_a_note(
    answer: Answer, source: Source, polygon: PolygonServer, caplog: pytest.LogCaptureFixture
) -> None:
    polygon.answer_splits = lambda path: answer
    assert source.splits(("NFLX",), FIRST, LAST) == Claims(complete=False)
    assert "note: no splits: " in caplog.text


def test_all_pages_are_read_and_each_row_counts_once(source: Source, polygon: PolygonServer) -> None:
    second = NFLX | {"execution_date": "2025-11-20", "id": "b"}
    answers = pages([NFLX], [NFLX, second], url=polygon.url)
    polygon.answer_splits = lambda path: next(answers)
    assert [claim.executed.day for claim in source.splits(("NFLX",), FIRST, LAST).rows] == [17, 20]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([NFLX | {"split_to": "10"}], "a split of NFLX without a date or a ratio"),
        ([NFLX | {"split_to": None}], "a split of NFLX without a date or a ratio"),
        ([NFLX | {"split_to": True}], "a split of NFLX without a date or a ratio"),
        ([NFLX | {"split_to": 10**12}], "a split of NFLX without a date or a ratio"),
        ([NFLX | {"execution_date": "soon"}], "a split of NFLX without a date or a ratio"),
        (["NFLX"], "no list of splits"),
    ],
)
def test_answer_that_is_none_is_refused(rows: list[object], found: str, source: Source, polygon: PolygonServer) -> None:
    body = json.dumps({"results": rows, "status": "OK"}).encode()
    polygon.answer_splits = lambda path: Answer(body=body)
    with pytest.raises(SourceFailed, match=found):
        source.splits(("NFLX",), FIRST, LAST)


@pytest.mark.parametrize(
    ("following", "found"),
    [
        ("{url}/stocks/v1/splits?cursor=1", "a page that brings nothing new"),
        ("http://elsewhere.example/next", "a next page on another host"),
        ("http://[bad", "a next page without a web address"),
    ],
)
def test_pages_that_never_end_or_lead_elsewhere_are_refused(
    following: str, found: str, source: Source, polygon: PolygonServer
) -> None:
    body = json.dumps({"results": [NFLX], "next_url": following.format(url=polygon.url)}).encode()
    polygon.answer_splits = lambda path: Answer(body=body)
    with pytest.raises(SourceFailed, match=found):
        source.splits(("NFLX",), FIRST, LAST)


def test_failure_of_the_vendor_is_an_error(source: Source, polygon: PolygonServer) -> None:
    polygon.answer_splits = lambda path: Answer(500, b"{}")
    with pytest.raises(SourceFailed):
        source.splits(("NFLX",), FIRST, LAST)
