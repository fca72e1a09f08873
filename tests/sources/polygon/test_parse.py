"""`sources.polygon.parse`: what each good answer means, and how each bad one is refused, over real HTTP."""

from __future__ import annotations

import json
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
from maang_cli.sources.polygon import parse
from maang_cli.sources.polygon.parse import Contradiction, Reader
from tests.expected import rounded
from tests.polygon_server import Answer, PolygonServer, grouped, row, session_end, session_start
from tests.sources.polygon.client import DAY, error_of, fetch_bars, polygon_source

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
ONE = [row("META", DAY)]


def serve_bar(polygon: PolygonServer, **values: object) -> None:
    """Serve META's bar with these values. A `str` is sent as it is, without quotes."""
    literal = {key: value for key, value in values.items() if isinstance(value, str)}
    usual = row("META", DAY, **{key: f"<{key}>" if key in literal else value for key, value in values.items()})
    body = grouped([usual]).decode()
    for key, text in literal.items():
        body = body.replace(f'"<{key}>"', text)
    polygon.bodies[DAY] = body.encode()


def one_bar(polygon: PolygonServer, **values: object) -> dict[str, Any]:
    serve_bar(polygon, **values)
    (bar,) = fetch_bars(polygon.url)
    return bar


def error_of_bar(polygon: PolygonServer, **values: object) -> MaangError:
    serve_bar(polygon, **values)
    return error_of(polygon.url)


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
        (b'{"status":"OK","resultsCount":' + b"9" * 5000 + b"}", "not a JSON document"),
        (b"null", "JSON that is not an object"),
        (b"[]", "JSON that is not an object"),
        (b'"OK"', "JSON that is not an object"),
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
def test_answer_that_contradicts_itself_is_an_error(polygon: PolygonServer, body: bytes, reason: str) -> None:
    polygon.always = lambda path: Answer(body=body)
    error = error_of(polygon.url)
    assert isinstance(error, SourceFailed)
    assert error.exit_code == 4
    assert "2025-10-14" in error.message
    assert reason in error.message
    assert len(polygon.requests) == 1


@pytest.mark.parametrize("key", ["o", "h", "l", "c", "v", "vw", "n", "t"])
@pytest.mark.parametrize(
    "sent", ['"n/a"', '"10.5"', '""', "true", "false", "[]", "{}", "NaN", "Infinity", "-Infinity", "1e40", "-1e40", "1e36"]
)
def test_value_that_is_not_a_number_is_an_error_with_ticker_and_field(polygon: PolygonServer, key: str, sent: str) -> None:
    error = error_of_bar(polygon, **{key: sent})
    assert f"META's {key} as " in error.message
    assert "2025-10-14" in error.message


@pytest.mark.parametrize("sent", ["1e30", "253402300800000", "-1e15", "99999999999999999999"])
def test_time_outside_of_the_calendar_is_an_error(polygon: PolygonServer, sent: str) -> None:
    assert "META's t as " in error_of_bar(polygon, t=sent).message


@pytest.mark.parametrize("sent", ["1e99999999999999999999", "-1e99999999999999999999", "1e-99999999999999999999"])
def test_huge_exponent_is_an_error_of_the_source(polygon: PolygonServer, sent: str) -> None:
    assert isinstance(error_of_bar(polygon, o=sent), SourceFailed)


def test_bad_value_on_one_session_fails_the_whole_request(polygon: PolygonServer) -> None:
    after = date(2025, 10, 15)
    polygon.days = {DAY: [row("META", DAY)], after: [row("META", after, c="n/a")]}
    with pytest.raises(SourceFailed, match=r"2025-10-15 with META's c as 'n/a'"):
        fetch_bars(polygon.url, sessions=[DAY, after])


# --- answers to range calls


def reader() -> Reader:
    return Reader("host", lambda text, length: text[:length])


def ranged(*bars: dict[str, object], **envelope: object) -> bytes:
    return grouped([{key: value for key, value in bar.items() if key != "T"} for bar in bars], **envelope)


@pytest.fixture(params=["Arrow", "Python"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Arrow decodes usual answers; Python decodes them all."""
    if request.param == "Python":
        monkeypatch.setattr(parse, "_usual", lambda body, *, named: None)
    return str(request.param)


def test_range_answer_has_each_bar_for_its_own_session(decoder: str) -> None:
    days = [date(2025, 10, 13), DAY]
    body = ranged(*(row("META", day, t=session_start(day), o=day.day) for day in days), next_url="https://host/next")
    page = reader().ranged(body, "META", "META from 13 to 14")
    found = [(bar["session"], bar["date"], bar["ticker"], bar["open"]) for bar in page.rows.to_pylist()]
    assert found == [(day, day, "META", day.day) for day in days]
    assert (page.total, page.next_url) == (2, "https://host/next")
    assert page.rows.schema == parse.SCHEMA


@pytest.mark.parametrize("next_url", [..., None, ""], ids=["left out", "null", "empty"])
def test_last_page_has_no_next_address(next_url: object, decoder: str) -> None:
    page = reader().ranged(ranged(row("META", DAY), next_url=next_url), "META", "span")
    assert page.next_url is None


@pytest.mark.parametrize("body", [grouped([]), grouped([], results=[])], ids=["no results", "empty results"])
def test_empty_range_answer_is_an_empty_page(body: bytes, decoder: str) -> None:
    page = reader().ranged(body, "META", "span")
    assert (page.rows, page.total) == (parse.SCHEMA.empty_table(), 0)


def test_range_answer_that_contradicts_itself_names_the_span() -> None:
    with pytest.raises(Contradiction, match=r"host answered for META from 13 to 14 with META's o as 'n/a'"):
        reader().ranged(ranged(row("META", DAY, o="n/a")), "META", "META from 13 to 14")


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
        return read().rows.to_pylist()
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
        patch.setattr(parse, "_usual", lambda body, *, named: None)
        by_python = read()
    assert by_arrow == by_python


def test_arrow_decodes_usual_answers() -> None:
    body = grouped([row("META", DAY), row("AAPL", DAY)])
    assert parse._usual(body, named=True) is not None
    assert parse._usual(json.dumps(json.loads(body), separators=(",", ":")).encode(), named=True) is not None
    assert parse._usual(ranged(row("META", DAY)), named=False) is not None
