"""Which calls Polygon gets, at what pace, and what a range of a ticker's history may silently lack."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maang_cli import sessions, settings
from maang_cli.errors import MaangError, NotPublishedYet, SourceDenied, SourceFailed
from maang_cli.sources import SOURCES, answers
from maang_cli.sources.answers import Reader
from maang_cli.sources.base import Fetched, Source
from maang_cli.sources.pacer import Pacer
from maang_cli.sources.sample import SampleSource
from tests.polygon_server import Answer, PolygonServer, grouped, row, session_start

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 31))
TICKERS = ("META", "AAPL", "BRK.A")


@pytest.fixture
def source(polygon: PolygonServer) -> Iterator[Source]:
    """A source of a month of three tickers."""
    polygon.days = {day: [row(name, day, o=10.405, v=day.day * 100.5) for name in TICKERS] for day in DAYS}
    with closing(SOURCES["polygon"](settings.load())) as opened:
        yield opened


def kinds(polygon: PolygonServer) -> list[str]:
    """What was asked: the session of a grouped call, the ticker of a range call."""
    paths = [urlsplit(request).path.split("/") for request in polygon.requests]
    return sorted(path[-1] if "grouped" in path else path[4] for path in paths)


def found(batch: Fetched) -> list[tuple[date, str]]:
    return sorted((line["session"], line["ticker"]) for line in batch.rows.to_pylist())


def everything(*days: date, tickers: tuple[str, ...] = TICKERS) -> list[tuple[date, str]]:
    return sorted((day, ticker) for day in days for ticker in tickers)


def test_a_long_span_of_few_tickers_is_one_call_a_ticker(source: Source, polygon: PolygonServer) -> None:
    rows = source.bars(TICKERS, DAYS)
    assert kinds(polygon) == sorted(TICKERS)
    assert sorted(zip(rows["session"].to_pylist(), rows["ticker"].to_pylist(), strict=True)) == everything(*DAYS)


def test_a_range_gives_the_bars_that_grouped_calls_give(source: Source, polygon: PolygonServer) -> None:
    narrow = source.bars(TICKERS, DAYS).to_pylist()
    wide = [line for day in DAYS for line in source.bars(TICKERS, [day]).to_pylist()]
    assert len(polygon.requests) == 3 + len(DAYS)
    assert sorted(map(str, narrow)) == sorted(map(str, wide))
    assert narrow[0]["open"] == Decimal("10.41")


def test_of_two_ways_that_cost_the_same_the_sessions_are_asked_for(source: Source, polygon: PolygonServer) -> None:
    source.bars(TICKERS, DAYS[:3])
    assert kinds(polygon) == [str(day) for day in DAYS[:3]]


def test_a_mix_brings_each_bar_once(source: Source, polygon: PolygonServer) -> None:
    missing = {day: frozenset(TICKERS if number == 3 else ["META"]) for number, day in enumerate(DAYS)}
    batches = list(source.fetch(missing, [DAYS[:10], DAYS[10:]]))
    assert kinds(polygon) == [str(DAYS[3]), "META"]
    assert [found(batch) for batch in batches] == [
        sorted(everything(*DAYS[:10], tickers=("META",)) + everything(DAYS[3], tickers=("AAPL", "BRK.A"))),
        everything(*DAYS[10:], tickers=("META",)),
    ]


def test_bars_that_are_not_missing_are_left_out(source: Source) -> None:
    missing = {day: frozenset(["META"] if number % 2 else ["META", "AAPL"]) for number, day in enumerate(DAYS)}
    (batch,) = source.fetch(missing, [DAYS])
    assert found(batch) == sorted((day, name) for day in DAYS for name in missing[day])


def test_every_page_is_fetched_and_the_key_stays_in_the_header(source: Source, polygon: PolygonServer) -> None:
    polygon.page = 10
    assert source.bars(["META"], DAYS).num_rows == len(DAYS)
    assert len(polygon.requests) == 3
    assert len(set(polygon.keys)) == 1
    assert not any("test-key" in request for request in polygon.requests)


def test_a_next_page_on_another_host_is_refused_before_it_gets_the_key(source: Source, polygon: PolygonServer) -> None:
    body = grouped([], next_url="http://localhost:1/v2/aggs/ticker/META/range/1/day/a/b?cursor=x")
    polygon.always = lambda path: Answer(body=body) if "range" in path else None
    with pytest.raises(SourceFailed, match="another host"):
        source.bars(["META"], DAYS)


def test_a_range_with_bars_of_other_dates_contradicts_itself(source: Source, polygon: PolygonServer) -> None:
    bar = row("META", DAYS[0]) | {"t": session_start(DAYS[0] - timedelta(days=30))}
    polygon.always = lambda path: Answer(body=grouped([bar])) if "range" in path else None
    with pytest.raises(SourceFailed, match="other dates"):
        source.bars(["META"], DAYS)


def test_the_part_of_a_range_before_the_plans_history_is_named(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[9]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert found(batch) == everything(*DAYS[9:])
    assert list(batch.failed) == list(DAYS[:9])
    assert {type(error).__mro__[1] for error in batch.failed.values()} == {SourceDenied}
    assert "data timeframe" in str(batch.failed[DAYS[0]])


def test_a_ticker_that_is_younger_than_the_range_is_not_taken_for_the_plans_limit(source: Source, polygon: PolygonServer) -> None:
    for day in DAYS[:9]:
        polygon.days[day] = [row("OLD", day)]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert (found(batch), batch.failed) == (everything(*DAYS[9:]), {})
    assert kinds(polygon) == sorted([*TICKERS, str(DAYS[0])])


def test_history_and_a_young_ticker_in_one_range_are_told_apart(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[4]
    for day in DAYS[:9]:
        polygon.days[day] = [row("OLD", day)]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert list(batch.failed) == list(DAYS[:4])


def test_a_range_wholly_before_the_plans_history_is_named(source: Source, polygon: PolygonServer) -> None:
    polygon.history = date(2026, 1, 1)
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert (found(batch), list(batch.failed)) == ([], list(DAYS))


def test_sessions_before_the_plans_history_cost_few_grouped_calls(source: Source, polygon: PolygonServer) -> None:
    names = tuple(f"T{number}" for number in range(30))
    polygon.history = DAYS[15]
    polygon.days = {day: [row(name, day) for name in names] for day in DAYS}
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(names)), [DAYS])
    assert (list(batch.failed), found(batch)) == (list(DAYS[:15]), everything(*DAYS[15:], tickers=names))
    assert len(polygon.requests) <= len(DAYS[15:]) + 6


def test_the_last_session_of_a_range_may_not_be_published_yet(source: Source, polygon: PolygonServer) -> None:
    del polygon.days[DAYS[-1]]
    (batch,) = source.fetch(dict.fromkeys(DAYS, frozenset(TICKERS)), [DAYS])
    assert {day: type(error) for day, error in batch.failed.items()} == {DAYS[-1]: NotPublishedYet}
    assert found(batch) == everything(*DAYS[:-1])


def test_a_session_that_is_not_served_holds_no_other_back(source: Source, polygon: PolygonServer) -> None:
    polygon.bodies[DAYS[1]] = b"{}"
    del polygon.days[DAYS[2]]
    (batch,) = source.fetch(dict.fromkeys(DAYS[:3], frozenset(TICKERS)), [DAYS[:3]])
    assert found(batch) == everything(DAYS[0])
    assert [type(error).__name__ for error in batch.failed.values()] == ["Contradiction", "NotPublishedYet"]


def test_a_vendor_that_fails_altogether_ends_the_fetching(source: Source, polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(503)
    with pytest.raises(SourceFailed):
        list(source.fetch(dict.fromkeys(DAYS, frozenset(f"T{n}" for n in range(50))), [DAYS]))


def test_refusals_at_random_cost_time_and_nothing_else(source: Source, polygon: PolygonServer) -> None:
    chance = random.Random(3)
    polygon.always = lambda path: Answer(429, headers={"Retry-After": "0"}) if chance.random() < 0.3 else None
    names = tuple(f"T{number}" for number in range(30))
    polygon.days = {day: [row(name, day) for name in names] for day in DAYS}
    batches = list(source.fetch(dict.fromkeys(DAYS, frozenset(names)), [DAYS[:8], DAYS[8:]]))
    assert [found(batch) for batch in batches] == [everything(*days, tickers=names) for days in (DAYS[:8], DAYS[8:])]
    assert source.calls == len(polygon.requests) > len(DAYS)


def test_calls_overlap(source: Source, polygon: PolygonServer) -> None:
    together = threading.Barrier(2, timeout=20)

    def meet(path: str) -> None:
        if str(DAYS[0]) not in path:  # the oldest goes ahead
            together.wait()

    polygon.always = meet
    names = frozenset(f"T{number}" for number in range(5))
    polygon.days = {day: [row(name, day) for name in names] for day in DAYS[:5]}
    (batch,) = source.fetch(dict.fromkeys(DAYS[:5], names), [DAYS[:5]])
    assert batch.rows.num_rows == 25


def test_made_up_bars_come_by_batches_too() -> None:
    missing = {DAYS[0]: frozenset(["META"]), DAYS[1]: frozenset(["META", "AAPL"])}
    batches = list(SampleSource().fetch(missing, [[DAYS[0]], [DAYS[1]]]))
    assert [found(batch) for batch in batches] == [[(DAYS[0], "META")], [(DAYS[1], "AAPL"), (DAYS[1], "META")]]


# --- the pace


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def starts(pacer: Pacer, clock: Clock, number: int) -> list[float]:
    begun = []
    for _ in range(number):
        pacer.wait()
        begun.append(clock.now - 1000)
        pacer.answered()
    return begun


def test_a_key_of_five_calls_a_minute_gets_five_in_any_minute() -> None:
    clock = Clock()
    assert starts(Pacer(5, clock, clock.sleep), clock, 11) == [0] * 5 + [60] * 5 + [120]


@given(st.integers(1, 6), st.lists(st.floats(0, 50), max_size=30))
def test_no_minute_holds_more_calls_than_the_pace_allows(pace: int, pauses: list[float]) -> None:
    clock = Clock()
    pacer = Pacer(pace, clock, clock.sleep)
    begun = []
    for pause in pauses:
        clock.now += pause
        pacer.wait()
        begun.append(clock.now)
    assert all(later - earlier > 59.999 for earlier, later in zip(begun, begun[pace:], strict=False))


def test_without_a_pace_nobody_waits() -> None:
    clock = Clock()
    assert starts(Pacer(None, clock, clock.sleep), clock, 1000) == [0] * 1000


def test_a_refusal_holds_everybody() -> None:
    clock = Clock()
    pacer = Pacer(None, clock, clock.sleep)
    pacer.refused(7, told=True)
    assert starts(pacer, clock, 2) == [7, 7]
    assert pacer.per_minute is None


def test_a_limit_that_the_vendor_does_not_tell_is_learned_and_tried_again_later() -> None:
    clock = Clock()
    pacer = Pacer(None, clock, clock.sleep)
    starts(pacer, clock, 5)
    for seconds in (1, 2, 4):
        pacer.refused(seconds, told=False)
    assert pacer.per_minute == 5
    assert starts(pacer, clock, 6)[-1] >= 60
    clock.now += 61
    pacer.wait()
    assert pacer.per_minute == 10


@pytest.mark.parametrize("text", ["0", "-1", "five", "1.5", "1e3"])
def test_a_pace_that_is_none_is_a_wrong_setting(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", text)
    with pytest.raises(MaangError) as caught:
        settings.load()
    assert (caught.value.exit_code, "MAANG_CALLS_PER_MINUTE" in caught.value.hint) == (2, True)


def test_the_settings_decide_the_pace(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "5")
    with closing(SOURCES["polygon"](settings.load())) as source:
        assert source.per_minute == 5


# --- the fast way and the thorough way

numbers = st.one_of(
    st.none(),
    st.integers(0, 10**20).map(str),
    st.decimals(-100, 10**9, allow_nan=False, places=3).map(str),
    st.decimals(0, 10**6, allow_nan=False, places=14).map(str),
    st.floats(0, 1e12, allow_nan=False).map(repr),
    st.sampled_from(
        ["271.405", "3.3166048e+07", "1e-9", "0.005", "-0.005", "-1.5", "9" * 17 + ".995", "NaN", '"1.5"', "true", "[]"]
    ),
)
bars = st.fixed_dictionaries(dict.fromkeys(("o", "h", "l", "c", "v", "vw", "n"), numbers))


def written(bar: dict[str, str | None], ticker: str) -> str:
    return f'{{"T":"{ticker}","t":1760472000000' + "".join(f',"{key}":{text}' for key, text in bar.items() if text) + "}"


@given(st.lists(bars, max_size=4))
def test_the_fast_way_reads_what_the_thorough_way_reads(several: list[dict[str, str | None]]) -> None:
    rows = ",".join(written(bar, f"T{number}") for number, bar in enumerate(several))
    body = f'{{"status":"OK","resultsCount":{len(several)},"results":[{rows}]}}'.encode()
    reader, day = Reader("host", lambda text, length: text[:length]), date(2025, 10, 14)
    wanted = frozenset(["T0", "T1", "T2"])

    def read() -> object:
        try:
            return reader.grouped(body, day, wanted).rows.to_pylist()
        except MaangError as exc:
            return str(exc)

    fast = read()
    usual, answers._usual = answers._usual, lambda body, *, named: None
    try:
        thorough = read()
    finally:
        answers._usual = usual
    # Odd numbers of tickers that nobody asked for are no concern of either.
    assert fast == thorough


def test_an_answer_as_usual_takes_the_fast_way() -> None:
    body = grouped([row("META", DAYS[0]), row("AAPL", DAYS[0])])
    assert answers._usual(body, named=True) is not None
    assert answers._usual(json.dumps(json.loads(body), separators=(",", ":")).encode(), named=True) is not None
    assert datetime.fromtimestamp(session_start(DAYS[0]) / 1000, sessions.NEW_YORK).hour == 0
