"""`sources.polygon.parse`: what each good answer means, and how each bad one is refused, over real HTTP."""

from __future__ import annotations

import gzip
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from maang_cli.errors import MaangError, SourceFailed
from maang_cli.sources.polygon import arrow, parse
from maang_cli.sources.polygon.parse import Adjusted, Contradiction, Reader
from tests.conftest import real_market
from tests.expected import rounded
from tests.polygon_server import Answer, PolygonServer, grouped, row, session_end, session_start
from tests.sources.polygon.client import DAY, error_of, fetch_bars, polygon_source

ROOT = Path(__file__).parents[3]
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
ONE = [row("META", DAY)]


def serve_bar(polygon: PolygonServer, **values: object) -> None:
    """Serve META's bar with these values, and AAPL's. A `str` is sent as it is, without quotes."""
    literal = {key: value for key, value in values.items() if isinstance(value, str)}
    usual = row("META", DAY, **{key: f"<{key}>" if key in literal else value for key, value in values.items()})
    body = grouped([usual, row("AAPL", DAY)]).decode()
    for key, text in literal.items():
        body = body.replace(f'"<{key}>"', text)
    polygon.bodies[DAY] = body.encode()


def one_bar(polygon: PolygonServer, **values: object) -> dict[str, Any]:
    serve_bar(polygon, **values)
    (bar,) = fetch_bars(polygon.url)
    return bar


def warning_of_bar(polygon: PolygonServer, log: pytest.LogCaptureFixture, **values: object) -> str:
    """The only warning about META's bar with these values. META has no row, and AAPL has one."""
    serve_bar(polygon, **values)
    assert [bar["ticker"] for bar in fetch_bars(polygon.url, "META", "AAPL")] == ["AAPL"]
    (warning,) = warnings(log)
    return warning


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    """Each once: a record may be kept twice."""
    return list(dict.fromkeys(record.getMessage() for record in log.records if record.levelno == logging.WARNING))


# --- good answers


def test_bar_becomes_a_row_of_staging(polygon: PolygonServer) -> None:
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
def test_prices_are_rounded_once_half_up_to_cents(polygon: PolygonServer, sent: str, cents: str) -> None:
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
    """Rounded half up, away from zero, with whole numbers only."""
    scaled = Fraction(literal) * 10**places
    size = floor(abs(scaled) + Fraction(1, 2))
    return Fraction(-size if scaled < 0 else size, 10**places)


literals = st.from_regex(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?", fullmatch=True).filter(
    lambda text: abs(Fraction(text)) < 10**36 - 1
)


plain = st.from_regex(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,12})?", fullmatch=True)
"""Numbers as the vendor writes them, and much larger ones: Arrow decodes these."""


@pytest.mark.parametrize("literals", [plain, plain | literals], ids=["plain", "any"])
def test_any_decimal_is_rounded_exactly(literals: st.SearchStrategy[str], polygon: PolygonServer) -> None:
    with closing(polygon_source(polygon.url)) as source:

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


@pytest.mark.parametrize("missing", [None, ...], ids=["null", "left out"])
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
def test_missing_value_is_null(polygon: PolygonServer, key: str, column: str, missing: object) -> None:
    bar = one_bar(polygon, **{key: missing})
    assert [name for name, value in bar.items() if value is None] == [column]


@pytest.mark.parametrize(
    ("millis", "day"),
    [
        (session_end(date(2025, 10, 13)), date(2025, 10, 13)),
        (1760414400000, DAY),  # midnight in New York: the time of a bar in an answer to a range call
        (1760414399999, date(2025, 10, 13)),
        (1760472000, date(1970, 1, 21)),  # seconds instead of milliseconds
        (0, date(1969, 12, 31)),
        (-1, date(1969, 12, 31)),
    ],
)
def test_date_is_the_new_york_date_of_the_bars_time(polygon: PolygonServer, millis: int, day: date) -> None:
    assert one_bar(polygon, t=millis)["date"] == day


def test_time_zone_of_the_machine_does_not_matter(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Honolulu"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            assert one_bar(polygon)["date"] == DAY
        finally:
            monkeypatch.delenv("TZ")
            time.tzset()


def test_server_of_these_tests_has_the_times_of_new_york() -> None:
    assert datetime.fromtimestamp(session_end(DAY) / 1000, UTC).isoformat() == "2025-10-14T20:00:00+00:00"
    assert datetime.fromtimestamp(session_start(DAY) / 1000, UTC).isoformat() == "2025-10-14T04:00:00+00:00"


def test_only_requested_tickers_are_returned_and_case_matters(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row(ticker, DAY) for ticker in ("META", "meta", "BRK.A", "BRK.B", "BACpA", "BACPA", "")]
    bars = fetch_bars(polygon.url, "META", "BRK.A", "BACpA", "NOPE")
    assert sorted(bar["ticker"] for bar in bars) == ["BACpA", "BRK.A", "META"]


def test_market_without_the_requested_tickers_has_no_rows(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("ZZZ", DAY)]
    assert fetch_bars(polygon.url) == []


def test_bad_values_of_other_tickers_do_not_matter(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("ZZZ", DAY, o="n/a", t="never"), row("META", DAY)]
    assert len(fetch_bars(polygon.url)) == 1


def test_two_bars_of_one_ticker_both_become_rows(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [row("META", DAY), row("META", DAY, c=10.6)]
    assert [bar["close"] for bar in fetch_bars(polygon.url)] == [Decimal("10.50"), Decimal("10.60")]


@pytest.mark.parametrize(
    "body",
    [
        grouped(ONE, status="DELAYED"),
        grouped(ONE, adjusted=...),
        grouped(ONE, queryCount=..., count=..., request_id=...),
        grouped([row("META", DAY, otc=True, extra={"a": [1]})], unknown="key"),
        b"\xef\xbb\xbf" + grouped(ONE),
        b" \n" + grouped(ONE) + b"\n",
    ],
    ids=["delayed", "no adjusted", "no counts", "unknown keys", "byte order mark", "white space"],
)
def test_optional_parts_of_the_envelope_do_not_matter(polygon: PolygonServer, body: bytes) -> None:
    polygon.bodies[DAY] = body
    assert len(fetch_bars(polygon.url)) == 1


def test_recorded_answer_is_read_and_refused_if_it_is_adjusted(polygon: PolygonServer, market: Path) -> None:
    adjusted = (market / "recorded" / "grouped_mock.json").read_bytes()
    polygon.bodies = {DAY: adjusted}
    assert "adjusted" in error_of(polygon.url, "GIK").message
    polygon.bodies = {DAY: adjusted.replace(b'"adjusted": true', b'"adjusted": false')}
    (bar,) = fetch_bars(polygon.url, "GIK")
    [sent] = json.loads(adjusted, parse_float=str, parse_int=str)["results"]
    assert (bar["date"], bar["open"], bar["vwap"]) == (date(2020, 10, 14), rounded(sent["o"], 2), rounded(sent["vw"], 2))
    assert (bar["volume"], bar["transactions"]) == (int(sent["v"]), int(sent["n"]))


# --- answers that contradict themselves: never an empty day, never requested twice


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not a JSON document"),
        (HTML, "not a JSON document"),
        (grouped(ONE)[:-20], "not a JSON document"),
        (grouped(ONE) + b"{}", "not a JSON document"),
        (grouped(ONE).replace(b"META", b"M\xffTA"), "not a JSON document"),
        (b"[" * 100_000, "not a JSON document"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not a JSON document"),
        (b'{"status":"OK","resultsCount":' + b"9" * 5000 + b"}", "no list of results, and resultsCount 999"),
        (b"null", "JSON that is not an object"),
        (b"[]", "JSON that is not an object"),
        (b'"OK"', "JSON that is not an object"),
        (b"{}", "status None"),
        (grouped(ONE, status="ERROR", error="internal"), "status 'ERROR'"),
        (grouped(ONE, status=...), "status None"),
        (grouped(ONE, status=["OK"]), "status a list"),
        (b'{"status":' + b"[" * 900 + b"]" * 900 + b"}", "status a list"),
        (grouped(ONE, adjusted=True), "adjusted True instead of bars as traded"),
        (grouped(ONE, adjusted=None), "adjusted None"),
        (grouped(ONE, adjusted="false"), "adjusted 'false'"),
        (grouped(ONE, adjusted=0), "adjusted 0"),
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
        (grouped([*ONE, None], resultsCount=2), "a result that is not an object"),  # type: ignore[list-item]
        (grouped([*ONE, "META"], resultsCount=2), "a result that is not an object"),  # type: ignore[list-item]
        (grouped(ONE, next_url=7), "a next page whose address is not text"),
        (grouped(ONE, next_url=["http://x"]), "a next page whose address is not text"),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_answer_that_contradicts_itself_is_an_error(polygon: PolygonServer, body: bytes, reason: str) -> None:
    polygon.always = lambda path: Answer(body=body)
    error = error_of(polygon.url)
    assert isinstance(error, SourceFailed)
    assert error.exit_code == 4
    assert "2025-10-14" in error.message
    assert reason in error.message
    assert len(polygon.requests) == 1


@pytest.mark.parametrize("name", [..., None, 7, ["META"]], ids=["left out", "null", "number", "list"])
def test_row_without_a_ticker_does_not_matter(polygon: PolygonServer, name: object) -> None:
    polygon.days[DAY] = [row("ZZZ", DAY, T=name), *ONE]
    assert [bar["ticker"] for bar in fetch_bars(polygon.url)] == ["META"]


# --- rows with a wrong value: they cost their ticker


@pytest.mark.parametrize("key", ["o", "h", "l", "c", "v", "vw", "n", "t"])
@pytest.mark.parametrize(
    "sent",
    ['"n/a"', '"10.5"', ' \n"10.5"', '""', "true", "[]", "{}", "NaN", "Infinity", "-Infinity", "-1e40", "1e36", "9" * 5000],
    ids=lambda sent: sent[:10],
)
def test_wrong_value_costs_the_ticker_and_a_warning_names_ticker_field_and_value(
    polygon: PolygonServer, log: pytest.LogCaptureFixture, key: str, sent: str
) -> None:
    warning = warning_of_bar(polygon, log, **{key: sent})
    assert f"answered for 2025-10-14 with META's {key} as " in warning
    assert warning.endswith(": META is missing there")
    if '"' in sent:
        assert repr(json.loads(sent)) in warning


@pytest.mark.parametrize("sent", ["1e30", "253402300800000", "-1e15", "99999999999999999999"])
def test_time_outside_of_the_calendar_is_a_wrong_value(polygon: PolygonServer, log: pytest.LogCaptureFixture, sent: str) -> None:
    assert "META's t as " in warning_of_bar(polygon, log, t=sent)


@pytest.mark.parametrize("sent", ["1e99999999999999999999", "-1e99999999999999999999", "1e-99999999999999999999"])
def test_huge_exponent_is_a_wrong_value(polygon: PolygonServer, log: pytest.LogCaptureFixture, sent: str) -> None:
    assert f"META's o as '{sent}'" in warning_of_bar(polygon, log, o=sent)


def test_ticker_with_a_right_and_a_wrong_row_is_missing(polygon: PolygonServer) -> None:
    polygon.days[DAY] = [*ONE, row("META", DAY, c="n/a"), row("AAPL", DAY)]
    assert [bar["ticker"] for bar in fetch_bars(polygon.url, "META", "AAPL")] == ["AAPL"]


def test_wrong_value_costs_the_ticker_only_its_own_session(polygon: PolygonServer) -> None:
    after = date(2025, 10, 15)
    polygon.days = {DAY: [row("META", DAY)], after: [row("META", after, c="n/a"), row("AAPL", after)]}
    bars = fetch_bars(polygon.url, "META", "AAPL", sessions=[DAY, after])
    assert [(bar["session"], bar["ticker"]) for bar in bars] == [(DAY, "META"), (after, "AAPL")]


def test_many_wrong_rows_of_one_answer_are_not_all_listed(polygon: PolygonServer, log: pytest.LogCaptureFixture) -> None:
    names = [f"T{number}" for number in range(20)]
    polygon.days[DAY] = [row(name, DAY, c="n/a") for name in names]
    assert fetch_bars(polygon.url, *names) == []
    assert len(warnings(log)) == 6
    assert "and 15 more" in warnings(log)[-1]


@real_market
def test_recorded_wrong_value_costs_the_ticker(polygon: PolygonServer, log: pytest.LogCaptureFixture, market: Path) -> None:
    polygon.bodies[DAY] = (market / "cases" / "string_price_newline.json").read_bytes()
    tickers = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
    assert [bar["ticker"] for bar in fetch_bars(polygon.url, *tickers)] == list(tickers[1:])
    (warning,) = warnings(log)
    assert "META's c as '700.5', which is not a number: META is missing there" in warning


# --- answers that are far too large

BOMBS = {
    "empty rows": (b'{"status":"OK","resultsCount":0,"results":[', b"{},"),
    "empty lists": (b'{"status":"OK","x":[', b"[],"),
    "numbers": (b'{"status":"OK","x":[', b".5,"),
}


def bomb(name: str, values: int) -> bytes:
    start, value = BOMBS[name]
    return start + value * values + value[:-1] + b"]}"


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("named", [True, False], ids=["grouped", "range"])
def test_answer_with_too_many_values_is_not_decoded(name: str, *, named: bool) -> None:
    body = bomb(name, 1_000_000)
    with pytest.raises(Contradiction, match=r"more than 1000000* JSON"):
        reader().grouped(body, DAY, frozenset(["META"])) if named else reader().ranged(body, "META", "span")


def test_largest_real_answers_are_decoded() -> None:
    market = [row(f"T{number}", DAY) for number in range(20_000)]
    assert reader().grouped(grouped(market), DAY, frozenset(["T1"])).total == 20_000
    assert reader().ranged(ranged(*market[:1] * 50_000), "META", "span").total == 50_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_in_all_calls_at_the_same_time_take_little_memory(polygon: PolygonServer) -> None:
    body = gzip.compress(bomb("empty rows", 5_000_000))
    assert len(body) < 50_000
    polygon.always = lambda path: Answer(body=body, headers={"Content-Encoding": "gzip"})
    fetch = f"""
from datetime import date
from pathlib import Path
from maang_cli import sessions
from tests.sources.polygon.client import polygon_source
days = sessions.between(date(2025, 10, 8), date(2025, 10, 14))
(batch,) = polygon_source({polygon.url!r}).fetch(dict.fromkeys(days, frozenset(map(str, range(50)))), [days])
assert len(batch.failed) == len(days), batch
print(Path("/proc/self/status").read_text())
"""
    done = subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", done.stdout)
    assert int(peak) < 500_000


# --- answers to range calls


def reader() -> Reader:
    return Reader("host", lambda text, length: text[:length])


def ranged(*bars: dict[str, object], **envelope: object) -> bytes:
    return grouped([{key: value for key, value in bar.items() if key != "T"} for bar in bars], **envelope)


@pytest.fixture(params=["Arrow", "Python"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Arrow decodes usual answers; Python decodes them all."""
    if request.param == "Python":
        monkeypatch.setattr(arrow, "decode", lambda body, *, named: None)
    return str(request.param)


def test_range_answer_has_each_bar_for_its_own_session(decoder: str) -> None:
    days = [date(2025, 10, 13), DAY]
    body = ranged(*(row("META", day, t=session_start(day), o=day.day) for day in days), next_url="https://host/next")
    page = reader().ranged(body, "META", "META from 13 to 14")
    found = [(bar["session"], bar["date"], bar["ticker"], bar["open"]) for bar in page.rows.to_pylist()]
    assert found == [(day, day, "META", day.day) for day in days]
    assert (page.total, page.next_url) == (2, "https://host/next")
    assert page.rows.schema == arrow.SCHEMA


@pytest.mark.parametrize("next_url", [..., None, ""], ids=["left out", "null", "empty"])
def test_last_page_has_no_next_address(next_url: object, decoder: str) -> None:
    page = reader().ranged(ranged(row("META", DAY), next_url=next_url), "META", "span")
    assert page.next_url is None


@pytest.mark.parametrize("body", [grouped([]), grouped([], results=[])], ids=["no results", "empty results"])
def test_empty_range_answer_is_an_empty_page(body: bytes, decoder: str) -> None:
    page = reader().ranged(body, "META", "span")
    assert (page.rows, page.total) == (arrow.SCHEMA.empty_table(), 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ranged(row("META", DAY), ticker="AAPL"), "the ticker 'AAPL'"),
        (ranged(row("META", DAY), ticker=7), "the ticker 7"),
        (grouped([row("AAPL", DAY)], ticker="META"), "the ticker 'AAPL'"),
        (ranged(row("META", DAY), resultsCount=2), "1 results, and resultsCount 2"),
        (ranged(row("META", DAY), status="ERROR"), "status 'ERROR'"),
        (ranged(row("META", DAY), results={}), "no list of results"),
        (b"[]", "JSON that is not an object"),
        (HTML, "not a JSON document"),
    ],
)
def test_range_answer_that_contradicts_itself_names_the_span(body: bytes, reason: str) -> None:
    with pytest.raises(Contradiction, match=f"host answered for META from 13 to 14 with .*{re.escape(reason)}"):
        reader().ranged(body, "META", "META from 13 to 14")


@pytest.mark.parametrize("ticker", ["META", None, ...], ids=["right", "null", "left out"])
def test_range_answer_may_name_its_ticker(ticker: object, decoder: str) -> None:
    assert reader().ranged(ranged(row("META", DAY), ticker=ticker), "META", "span").total == 1


@pytest.mark.parametrize("adjusted", [True, None, "false", 0])
def test_adjusted_range_answer_concerns_all_bars(adjusted: object) -> None:
    with pytest.raises(Adjusted):
        reader().ranged(ranged(row("META", DAY), adjusted=adjusted), "META", "span")


def test_wrong_value_in_a_range_costs_its_session() -> None:
    days = [date(2025, 10, 10), date(2025, 10, 13), DAY]
    rows = [row("META", day, t=session_start(day)) for day in days]
    page = reader().ranged(ranged(rows[0], rows[1] | {"vw": "n/a"}, rows[1], rows[2]), "META", "META from 10 to 14")
    assert page.rows["session"].to_pylist() == [days[0], DAY]
    text = "META's vw as 'n/a', which is not a number: META is missing on 2025-10-13"
    assert page.wrong == {days[1]: f"host answered for META from 10 to 14 with {text}"}


def test_wrong_time_in_a_range_is_reported() -> None:
    page = reader().ranged(ranged(row("META", DAY), row("META", DAY, t="never")), "META", "span")
    assert (page.rows.num_rows, list(page.wrong)) == (1, [None])
    assert "META's t as 'never'" in page.wrong[None]


# --- Arrow and Python decode alike

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


def as_json(bar: dict[str, str | None], ticker: str) -> str:
    return f'{{"T":"{ticker}","t":1760472000000' + "".join(f',"{key}":{text}' for key, text in bar.items() if text) + "}"


def decoded(read: Callable[[], parse.Page]) -> object:
    try:
        page = read()
        return page.rows.to_pylist(), page.wrong
    except MaangError as exc:
        return str(exc)


@given(st.lists(bars, max_size=4))
def test_arrow_and_python_decode_the_same_rows(several: list[dict[str, str | None]]) -> None:
    rows = ",".join(as_json(bar, f"T{number}") for number, bar in enumerate(several))
    body = f'{{"status":"OK","resultsCount":{len(several)},"results":[{rows}]}}'.encode()
    wanted = frozenset(["T0", "T1", "T2"])  # odd numbers of other tickers concern neither decoder

    def read() -> object:
        return decoded(lambda: reader().grouped(body, DAY, wanted))

    by_arrow = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "decode", lambda body, *, named: None)
        by_python = read()
    assert by_arrow == by_python


def test_arrow_decodes_usual_answers() -> None:
    body = grouped([row("META", DAY), row("AAPL", DAY)])
    assert arrow.decode(body, named=True) is not None
    assert arrow.decode(json.dumps(json.loads(body), separators=(",", ":")).encode(), named=True) is not None
    assert arrow.decode(ranged(row("META", DAY)), named=False) is not None
