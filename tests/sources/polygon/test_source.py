"""`sources.polygon.source`: which calls Polygon gets, and which sessions of a range it may silently leave out."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from maang_cli import sessions
from maang_cli.errors import NotPublishedYet, SettingsError, SourceFailed
from maang_cli.sources import SOURCES
from maang_cli.sources.base import Fetched, Source
from maang_cli.sources.http import MAX_BYTES
from maang_cli.sources.polygon.http import BeyondPlan
from maang_cli.sources.polygon.source import open_source
from tests import settings
from tests.conftest import real_market
from tests.polygon_server import KEY, Answer, PolygonServer, grouped, row, session_start
from tests.sources.polygon.client import DAY, error_of, fetch_bars, polygon_source

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 31))
TICKERS = ("META", "AAPL", "BRK.A")
BAD_ADDRESSES = {
    "http://[bad": "a next page without a web address",
    "/v2/next": "a next page without a web address",
    "next": "a next page without a web address",
    "http://127.0.0.1/v2/a b": "a next page without a web address",
    "http://127.0.0.1/\ud800": "a next page without a web address",
    "http://127.0.0.1.example/v2/next": "a next page on another host",
    "http://127.0.0.1@example.com/v2/next": "a next page on another host",
}


@pytest.fixture
def source(polygon: PolygonServer) -> Iterator[Source]:
    """Polygon, with three tickers' bars of one month."""
    polygon.days = {day: [row(name, day, o=10.405, v=day.day * 100.5) for name in TICKERS] for day in DAYS}
    with closing(SOURCES["polygon"].open(settings.load())) as opened:
        yield opened


def calls(polygon: PolygonServer) -> list[str]:
    """The calls so far: the session of a grouped call, the ticker of a range call."""
    paths = [urlsplit(request).path.split("/") for request in polygon.requests]
    return sorted(path[-1] if "grouped" in path else path[4] for path in paths)


def pairs(batch: Fetched) -> list[tuple[date, str]]:
    """Session and ticker of each bar."""
    return sorted((bar["session"], bar["ticker"]) for bar in batch.rows.to_pylist())


def all_pairs(*days: date, tickers: tuple[str, ...] = TICKERS) -> list[tuple[date, str]]:
    return sorted((day, ticker) for day in days for ticker in tickers)


# --- requests


def test_session_costs_one_call_whatever_the_number_of_tickers(polygon: PolygonServer) -> None:
    days = [DAY, date(2025, 10, 15), date(2025, 10, 16)]
    tickers = [f"T{number}" for number in range(50)]
    polygon.days = {day: [row(ticker, day) for ticker in tickers] for day in days}
    assert len(fetch_bars(polygon.url, *tickers, sessions=days)) == 150
    assert calls(polygon) == [str(day) for day in days]


def test_request_is_for_bars_as_traded_and_has_the_key_only_in_its_header(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    fetch_bars(polygon.url)
    (path,) = polygon.requests
    assert urlsplit(path).path == "/v2/aggs/grouped/locale/us/market/stocks/2025-10-14"
    assert parse_qs(urlsplit(path).query)["adjusted"] == ["false"]
    assert KEY not in path
    assert polygon.keys == [f"Bearer {KEY}"]


def test_address_may_have_a_path(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(body=grouped([row("META", DAY)]))
    assert len(fetch_bars(f"{polygon.url}/mirror")) == 1
    assert polygon.requests[0].startswith("/mirror/v2/aggs/grouped/")


def test_settings_give_the_key_the_address_and_the_budget(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "the-client-would-take-this-one")
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "0.5")
    polygon.script.append(Answer(503))
    with closing(open_source(settings.load())) as source, pytest.raises(SourceFailed, match=r"0\.5 s"):
        source.bars(["META"], [DAY])
    assert polygon.keys == [f"Bearer {KEY}"]


def test_no_call_is_made_without_a_key(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYGON_TOKEN")
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    with pytest.raises(SettingsError, match="POLYGON_TOKEN") as caught:
        open_source(settings.load())
    assert "POLYGON_TOKEN" in caught.value.hint
    assert not polygon.requests


def test_client_prints_nothing_on_stdout(polygon: PolygonServer, capfd: pytest.CaptureFixture[str]) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    fetch_bars(polygon.url)
    logging.getLogger("RESTClient").error("the client's own handler would print this")
    assert capfd.readouterr().out == ""


def test_call_is_logged(polygon: PolygonServer, log: pytest.LogCaptureFixture) -> None:
    polygon.days[DAY] = [row("META", DAY)]
    fetch_bars(polygon.url)
    (line,) = {record.getMessage() for record in log.records if record.name == "maang"}
    assert f"GET {polygon.url}/v2/aggs/grouped/locale/us/market/stocks/2025-10-14: 200, " in line


def test_representation_of_the_source_does_not_show_the_key(polygon: PolygonServer) -> None:
    with closing(polygon_source(polygon.url)) as source:
        assert KEY not in f"{source!r} {source!s}"


@pytest.mark.parametrize("body", [grouped([]), grouped([], results=[])], ids=["no results", "empty results"])
def test_session_without_any_bar_is_not_published_yet(polygon: PolygonServer, body: bytes) -> None:
    polygon.bodies[DAY] = body
    error = error_of(polygon.url)
    assert isinstance(error, NotPublishedYet)
    assert error.exit_code == 4
    assert "2025-10-14" in error.message
    assert error.hint == "every plan should have them by now: run the same command again later"


# --- range calls


def test_long_range_of_few_tickers_costs_one_call_a_ticker(source: Source, polygon: PolygonServer) -> None:
    rows = source.bars(TICKERS, DAYS)
    assert calls(polygon) == sorted(TICKERS)
    assert sorted(zip(rows["session"].to_pylist(), rows["ticker"].to_pylist(), strict=True)) == all_pairs(*DAYS)


def test_range_calls_and_grouped_calls_bring_the_same_bars(source: Source, polygon: PolygonServer) -> None:
    by_range = source.bars(TICKERS, DAYS).to_pylist()
    by_session = [bar for day in DAYS for bar in source.bars(TICKERS, [day]).to_pylist()]
    assert len(polygon.requests) == 3 + len(DAYS)
    assert sorted(map(str, by_range)) == sorted(map(str, by_session))
    assert by_range[0]["open"] == Decimal("10.41")


def test_grouped_calls_are_chosen_if_both_cost_the_same(source: Source, polygon: PolygonServer) -> None:
    source.bars(TICKERS, DAYS[:3])
    assert calls(polygon) == [str(day) for day in DAYS[:3]]


def test_mix_of_calls_brings_each_bar_once(source: Source, polygon: PolygonServer) -> None:
    missing = {day: frozenset(TICKERS if number == 3 else ["META"]) for number, day in enumerate(DAYS)}
    batches = list(source.fetch(missing, [DAYS[:10], DAYS[10:]]))
    assert calls(polygon) == [str(DAYS[3]), "META"]
    assert [pairs(batch) for batch in batches] == [
        sorted(all_pairs(*DAYS[:10], tickers=("META",)) + all_pairs(DAYS[3], tickers=("AAPL", "BRK.A"))),
        all_pairs(*DAYS[10:], tickers=("META",)),
    ]


def test_only_missing_bars_are_returned(source: Source) -> None:
    missing = {day: frozenset(["META"] if number % 2 else ["META", "AAPL"]) for number, day in enumerate(DAYS)}
    (batch,) = source.fetch(missing, [DAYS])
    assert pairs(batch) == sorted((day, name) for day in DAYS for name in missing[day])


def test_every_page_is_fetched_and_the_key_stays_in_the_header(source: Source, polygon: PolygonServer) -> None:
    polygon.page = 10
    assert source.bars(["META"], DAYS).num_rows == len(DAYS)
    assert len(polygon.requests) == 3
    assert set(polygon.keys) == {f"Bearer {KEY}"}
    assert not any(KEY in request for request in polygon.requests)


def test_every_page_of_a_whole_market_is_fetched(source: Source, polygon: PolygonServer) -> None:
    polygon.days[DAYS[0]] = [row(f"T{number}", DAYS[0]) for number in range(25)]
    polygon.page = 10
    assert source.bars(["T3", "T24"], DAYS[:1])["ticker"].to_pylist() == ["T3", "T24"]
    assert len(polygon.requests) == 3


@pytest.mark.parametrize(("address", "reason"), BAD_ADDRESSES.items(), ids=BAD_ADDRESSES.keys())
def test_next_page_at_a_bad_address_contradicts_a_whole_market(
    source: Source, polygon: PolygonServer, address: str, reason: str
) -> None:
    polygon.bodies[DAYS[0]] = grouped(polygon.days[DAYS[0]], next_url=address)
    with pytest.raises(SourceFailed, match=reason):
        source.bars(["META"], DAYS[:1])
    assert len(polygon.requests) == 1


def test_next_page_on_another_host_does_not_get_the_key(
    source: Source, polygon: PolygonServer, log: pytest.LogCaptureFixture
) -> None:
    with PolygonServer() as elsewhere:
        address = elsewhere.url.replace("127.0.0.1", "localhost")
        page = [{"o": 1, "t": session_start(DAYS[0])}]
        body = grouped(page, next_url=f"{address}/v2/aggs/ticker/META/range/1/day/a/b?cursor=x")
        polygon.always = lambda path: Answer(body=body) if "range" in path else None
        assert source.bars(["META"], DAYS).num_rows == 0
        assert "another host" in log.text
        assert elsewhere.requests == []


def test_next_page_on_another_port_is_fetched_from_the_configured_one(source: Source, polygon: PolygonServer) -> None:
    with PolygonServer() as elsewhere:
        body = grouped([row("ZZZ", DAYS[0])], next_url=f"{elsewhere.url}/next")
        polygon.always = lambda path: Answer(body=body if "grouped" in path else grouped([row("META", DAYS[0])]))
        assert source.bars(["META"], DAYS[:1]).num_rows == 1
        assert [urlsplit(path).path[:6] for path in polygon.requests] == ["/v2/ag", "/next"]
        assert elsewhere.requests == []


@pytest.mark.parametrize("rows", [0, 1], ids=["empty pages", "the same page"])
@pytest.mark.parametrize("days", [DAYS[:1], DAYS], ids=["whole market", "range"])
def test_next_page_that_brings_nothing_new_is_the_last(
    source: Source, polygon: PolygonServer, log: pytest.LogCaptureFixture, days: tuple[date, ...], rows: int
) -> None:
    bar = row("META", DAYS[0], T=... if len(days) > 1 else "META", t=session_start(DAYS[0]))
    body = grouped([bar] * rows, results=[bar] * rows, next_url=f"{polygon.url}/v2/next")
    polygon.always = lambda path: Answer(body=body) if "next" in path or len(polygon.requests) == 1 else None
    if len(days) == 1:
        with pytest.raises(SourceFailed, match="a page that brings nothing new"):
            source.bars(["META"], days)
        assert len(polygon.requests) == 1 + rows
    else:
        assert source.bars(["META"], days).num_rows == 0
        assert "META from 2025-10-01 to 2025-10-31 with a page that brings nothing new: META is missing there" in log.text


def test_pages_of_a_whole_market_are_bounded(source: Source, polygon: PolygonServer) -> None:
    def another(path: str) -> Answer:
        return Answer(body=grouped([row(f"T{len(polygon.requests)}", DAYS[0])], next_url=f"{polygon.url}/next"))

    polygon.always = another
    with pytest.raises(SourceFailed, match="more than 20 pages"):
        source.bars(["META"], DAYS[:1])
    assert len(polygon.requests) == 20


def test_pages_of_a_range_are_at_most_its_sessions(source: Source, polygon: PolygonServer, log: pytest.LogCaptureFixture) -> None:
    def another(path: str) -> Answer | None:
        if "next" not in path and "range" not in path:
            return None
        bar = {"o": 1, "t": session_start(date(2020, 1, 1) + timedelta(days=len(polygon.requests)))}
        return Answer(body=grouped([bar], next_url=f"{polygon.url}/next"))

    polygon.always = another
    assert source.bars(["META"], DAYS).num_rows == 0
    assert f"more than {len(DAYS)} pages" in log.text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (grouped([], ticker="AAPL"), "the ticker 'AAPL'"),
        (grouped([row("META", DAYS[0])], resultsCount=2), "1 results, and resultsCount 2"),
        (b"<html>", "not a JSON document"),
        (grouped([row("META", DAYS[0], T=..., t=session_start(DAYS[0] - timedelta(days=30)))]), "bars of other dates"),
        (grouped([row("META", DAYS[0], T=..., t=...)]), "bars of other dates"),
        (b" " * (MAX_BYTES + 1), "sent more than"),
        *((grouped([{"t": session_start(DAYS[0])}], next_url=url), text) for url, text in BAD_ADDRESSES.items()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_range_answer_that_contradicts_itself_costs_its_ticker_alone(
    source: Source, polygon: PolygonServer, log: pytest.LogCaptureFixture, body: bytes, reason: str
) -> None:
    polygon.always = lambda path: Answer(body=body) if "/META/" in path else None
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert (pairs(batch), batch.failed) == (all_pairs(*DAYS, tickers=("AAPL", "BRK.A")), {})
    (warning,) = {record.getMessage() for record in log.records if record.levelno == logging.WARNING}
    assert reason in warning
    assert warning.endswith(": META is missing there")


def test_wrong_value_in_a_range_costs_the_ticker_that_session(
    source: Source, polygon: PolygonServer, log: pytest.LogCaptureFixture
) -> None:
    polygon.days[DAYS[3]][0] |= {"vw": "n/a"}
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert pairs(batch) == [pair for pair in all_pairs(*DAYS) if pair != (DAYS[3], "META")]
    assert f"META's vw as 'n/a', which is not a number: META is missing on {DAYS[3]}" in log.text


def test_adjusted_range_answer_ends_the_fetch(source: Source, polygon: PolygonServer) -> None:
    body = grouped([row("META", DAYS[0], T=..., t=session_start(DAYS[0]))], adjusted=True)
    polygon.always = lambda path: Answer(body=body) if "/META/" in path else None
    with pytest.raises(SourceFailed, match="adjusted True instead of bars as traded"):
        source.bars(TICKERS, DAYS)


@real_market
def test_other_tickers_range_is_not_stored(source: Source, market: Path, polygon: PolygonServer) -> None:
    body = (market / "cases" / "range_other_ticker_in_envelope.json").read_bytes()
    polygon.always = lambda path: Answer(body=body) if "/META/" in path or "/AAPL/" in path else None
    days = sessions.between(date(2025, 10, 1), date(2025, 10, 14))
    rows = source.bars(["META", "AAPL"], days)
    assert set(rows["ticker"].to_pylist()) == {"AAPL"}
    assert rows.num_rows == len(days)


# --- sessions that the vendor does not serve


def test_sessions_before_the_plans_history_fail_by_name(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[9]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert pairs(batch) == all_pairs(*DAYS[9:])
    assert list(batch.failed) == list(DAYS[:9])
    assert {type(error) for error in batch.failed.values()} == {BeyondPlan}
    assert "data timeframe" in str(batch.failed[DAYS[0]])


def test_ticker_younger_than_the_range_is_not_mistaken_for_the_plans_limit(source: Source, polygon: PolygonServer) -> None:
    for day in DAYS[:9]:
        polygon.days[day] = [row("OLD", day)]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert (pairs(batch), batch.failed) == (all_pairs(*DAYS[9:]), {})
    assert calls(polygon) == sorted([*TICKERS, str(DAYS[0])])


def test_plans_limit_and_a_young_ticker_in_one_range_are_distinguished(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[4]
    for day in DAYS[:9]:
        polygon.days[day] = [row("OLD", day)]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert list(batch.failed) == list(DAYS[:4])


def test_range_wholly_before_the_plans_history_fails_by_name(source: Source, polygon: PolygonServer) -> None:
    polygon.history = date(2026, 1, 1)
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert (pairs(batch), list(batch.failed)) == ([], list(DAYS))


def test_sessions_before_the_plans_history_cost_few_grouped_calls(source: Source, polygon: PolygonServer) -> None:
    names = tuple(f"T{number}" for number in range(30))
    polygon.history = DAYS[15]
    polygon.days = {day: [row(name, day) for name in names] for day in DAYS}
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(names)), [DAYS])
    assert (list(batch.failed), pairs(batch)) == (list(DAYS[:15]), all_pairs(*DAYS[15:], tickers=names))
    assert len(polygon.requests) <= len(DAYS[15:]) + 6


def test_last_session_of_a_range_may_not_be_published_yet(source: Source, polygon: PolygonServer) -> None:
    del polygon.days[DAYS[-1]]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert {day: type(error) for day, error in batch.failed.items()} == {DAYS[-1]: NotPublishedYet}
    assert pairs(batch) == all_pairs(*DAYS[:-1])


def test_failed_session_does_not_stop_the_others(source: Source, polygon: PolygonServer) -> None:
    polygon.bodies[DAYS[1]] = b"{}"
    del polygon.days[DAYS[2]]
    (batch,) = source.fetch(dict.fromkeys(DAYS[:3], frozenset(TICKERS)), [DAYS[:3]])
    assert pairs(batch) == all_pairs(DAYS[0])
    assert [type(error).__name__ for error in batch.failed.values()] == ["Contradiction", "NotPublishedYet"]


def test_vendor_that_answers_nothing_ends_the_fetch(source: Source, polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(503)
    with pytest.raises(SourceFailed):
        list(source.fetch(dict.fromkeys(DAYS, frozenset(f"T{n}" for n in range(50))), [DAYS]))


# --- several calls at the same time


def test_random_refusals_lose_no_bar(source: Source, polygon: PolygonServer) -> None:
    chance = random.Random(3)
    polygon.always = lambda path: Answer(429, headers={"Retry-After": "0"}) if chance.random() < 0.3 else None
    names = tuple(f"T{number}" for number in range(30))
    polygon.days = {day: [row(name, day) for name in names] for day in DAYS}
    batches = list(source.fetch(dict.fromkeys(DAYS, frozenset(names)), [DAYS[:8], DAYS[8:]]))
    assert [pairs(batch) for batch in batches] == [all_pairs(*days, tickers=names) for days in (DAYS[:8], DAYS[8:])]
    assert source.calls == len(polygon.requests) > len(DAYS)


def test_grouped_calls_overlap(source: Source, polygon: PolygonServer) -> None:
    together = threading.Barrier(2, timeout=20)

    def meet(path: str) -> None:
        if str(DAYS[0]) not in path:  # the call for the oldest session is made alone, before the others
            together.wait()

    polygon.always = meet
    names = frozenset(f"T{number}" for number in range(5))
    polygon.days = {day: [row(name, day) for name in names] for day in DAYS[:5]}
    (batch,) = source.fetch(dict.fromkeys(DAYS[:5], names), [DAYS[:5]])
    assert batch.rows.num_rows == 25


def test_tick_is_called_after_each_call(source: Source, polygon: PolygonServer) -> None:
    ticks: list[int] = []
    missing = {day: frozenset(TICKERS if number == 3 else ["META"]) for number, day in enumerate(DAYS)}
    for _ in source.fetch(missing, [DAYS], lambda: ticks.append(len(polygon.requests))):
        pass
    assert ticks == [1, 2]


def test_session_without_bars_before_one_with_bars_asks_whether_the_exchange_was_closed(
    source: Source, polygon: PolygonServer
) -> None:
    del polygon.days[DAYS[3]]
    with pytest.raises(NotPublishedYet, match=f"no bars for {DAYS[3]}, but for {DAYS[4]}: was NYSE closed") as error:
        source.bars(TICKERS, DAYS[3:4])
    assert f"MAANG_CLOSED={DAYS[3]}" in error.value.hint
    (batch,) = source.fetch(dict.fromkeys(DAYS[2:5], frozenset(TICKERS)), [DAYS[2:5]])
    assert [str(each) for each in batch.failed.values()] == [str(error.value)]
