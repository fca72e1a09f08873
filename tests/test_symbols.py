"""Names and the vendor's symbols: entries, and a company whose symbol another security had before, through the real commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maang_cli import sessions, symbols
from maang_cli.errors import SettingsError
from maang_cli.request import Request
from maang_cli.symbols import ALWAYS, BUILT_IN, Listing, Symbols, parse
from tests import settings
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row

DAY = timedelta(days=1)
CHANGE = date(2022, 6, 9)
CLOSES = ("188.64", "198.86", "190.78", "194.25", "195.65", "196.64", "184.00", "175.57", "164.26", "163.73", "169.35")
SESSIONS = sessions.between(date(2022, 6, 1), date(2022, 6, 15))
RANGE = ("--from", "2022-06-01", "--to", "2022-06-15")


def parsed(*entries: str) -> Symbols:
    return parse(entries, "")[1]


def refusal(*entries: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse(entries, "give tickers")
    return caught.value


# --- entries


def test_plain_name_is_its_own_symbol_on_every_day() -> None:
    assert parsed("AAPL").symbol_of("AAPL", date(1990, 1, 1)) == "AAPL"
    assert parsed("AAPL") == Symbols()


@pytest.mark.parametrize(
    ("name", "day", "symbol"),
    [
        ("META", date(2012, 5, 17), None),
        ("META", date(2012, 5, 18), "FB"),
        ("META", date(2022, 6, 8), "FB"),
        ("META", date(2022, 6, 9), "META"),
        ("META", date(2100, 1, 1), "META"),
        ("GOOGL", date(2004, 8, 18), None),
        ("GOOGL", date(2014, 4, 2), "GOOG"),
        ("GOOGL", date(2014, 4, 3), "GOOGL"),
        ("GOOG", date(2014, 4, 2), None),
        ("GOOG", date(2014, 4, 3), "GOOG"),
    ],
)
def test_built_in_entries_apply_to_plain_names(name: str, day: date, symbol: str | None) -> None:
    assert parsed("META", "GOOGL", "GOOG").symbol_of(name, day) == symbol


def test_explicit_entry_replaces_the_built_in_one() -> None:
    fund = parsed("META=META:2021-06-30..2022-01-28")
    assert fund.listings == {"META": (Listing("META", date(2021, 6, 30), date(2022, 1, 28)),)}
    assert fund.symbol_of("META", CHANGE) is None


def test_entry_may_have_a_gap_and_an_end() -> None:
    entry = "X=A:2020-01-01..2020-06-30+B:2021-01-01+C:2022-01-01..2022-12-31"
    found = parsed(entry)
    days = [date(2020, 6, 30), date(2020, 7, 1), date(2021, 12, 31), date(2022, 1, 1), date(2023, 1, 1)]
    assert [found.symbol_of("X", day) for day in days] == ["A", None, "B", "C", None]
    assert found.spans(["X", "Y"]) == {
        "X": ((date(2020, 1, 1), date(2020, 6, 30)), (date(2021, 1, 1), date(2022, 12, 31))),
    }
    assert found.entry("X") == entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("META=", "'' in the entry 'META=' is not SYMBOL:FIRST or SYMBOL:FIRST..LAST"),
        ("META=FB", "'FB' in the entry 'META=FB' is not SYMBOL:FIRST or SYMBOL:FIRST..LAST"),
        ("META=FB:2012-5-18", "is not SYMBOL:FIRST or SYMBOL:FIRST..LAST"),
        ("META=fb:2012-05-18", "is not SYMBOL:FIRST or SYMBOL:FIRST..LAST"),
        ("META=FB:2012-05-18+", "'' in the entry"),
        ("META=FB:2012-05-18..", "is not SYMBOL:FIRST or SYMBOL:FIRST..LAST"),
        ("META=FB:2012-02-30", "'FB:2012-02-30' in the entry 'META=FB:2012-02-30' has an invalid date"),
        ("META=FB:2022-06-09+META:2012-05-18", "are out of order at 'META:2012-05-18'"),
        ("META=FB:2022-06-09+META:2022-06-09", "are out of order at 'META:2022-06-09'"),
        ("META=FB:2012-05-18..2022-06-09+META:2022-06-09", "are out of order at 'META:2022-06-09'"),
        ("META=FB:2022-06-09..2022-06-08", "are out of order at 'FB:2022-06-09..2022-06-08'"),
        ("meta=FB:2012-05-18", "'meta' is not a ticker symbol"),
    ],
)
def test_malformed_entry_is_refused(entry: str, message: str) -> None:
    assert message in refusal(entry).message


def test_name_that_is_listed_twice_is_refused() -> None:
    assert refusal("META", "META=FB:2012-05-18").message == "listed twice among the tickers: META"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (("META", "FB"), "FB and META both mean the symbol FB on 2012-05-18"),
        (("A=X:2020-01-01..2020-01-31", "B=X:2020-01-31"), "A and B both mean the symbol X on 2020-01-31"),
        (("A=X:2020-01-01", "X"), "X and A both mean the symbol X on 2020-01-01"),
    ],
)
def test_two_names_for_one_symbol_on_one_day_are_refused(entries: Sequence[str], message: str) -> None:
    assert refusal(*entries).message == message


def test_two_names_may_mean_one_symbol_on_different_days() -> None:
    found = parsed("META", "FB=FB:2025-06-24", "A=X:2020-01-01..2020-01-31", "B=X:2020-02-01")
    assert [found.symbol_of("FB", date(2025, 6, day)) for day in (23, 24)] == [None, "FB"]


dates = st.dates(date(1990, 1, 1), date(2030, 1, 1))
names = st.sampled_from(["A", "B", "BRK.A"])


@given(st.lists(dates, min_size=1, max_size=6, unique=True).map(sorted), st.data())
def test_entry_is_parsed_into_what_it_was_written_from(firsts: list[date], data: st.DataObject) -> None:
    ends = [after - DAY for _, after in pairwise(firsts)] + [date.max]
    history = tuple(
        Listing(data.draw(names), first, data.draw(st.dates(first, end)) if data.draw(st.booleans()) else end)
        for first, end in zip(firsts, ends, strict=True)
    )
    found = parsed(symbols.entry("NAME", history))
    assert found.listings == {"NAME": history}
    for day in data.draw(st.lists(dates, max_size=5)):
        covering = [listing.symbol for listing in history if listing.first <= day <= listing.last]
        assert found.symbol_of("NAME", day) == (covering[0] if covering else None)
        assert (found.symbol_of("NAME", day) is not None) == any(
            first <= day <= last for first, last in found.spans(["NAME"])["NAME"]
        )


def test_entries_work_in_a_file_and_in_the_configuration_file() -> None:
    path = settings.configure('MAANG_TICKERS = ["AAPL", "X=A:2020-01-01+B:2021-01-01"]\n')
    assert settings.load().tickers == ("AAPL", "X")
    assert settings.load().symbols.symbol_of("X", date(2021, 1, 1)) == "B"
    listed = path.parent / "tickers.txt"
    listed.write_text("\ufeff# mine\n\nMETA=META:2021-06-30..2022-01-28  # the fund\nAAPL\n", "utf-8")
    assert settings.load(tickers=f"@{listed}").symbols.listings.keys() == {"META"}


def test_sample_source_ignores_symbols() -> None:
    found = settings.load(source="sample", tickers="META,X=A:2020-01-01")
    assert (found.tickers, found.symbols) == (("META", "X"), Symbols())


def test_clashing_entries_exit_2(maang: Maang) -> None:
    done = maang("backfill", *RANGE, "--tickers", "META,FB")
    assert done.code == 2
    assert "FB and META both mean the symbol FB on 2012-05-18" in done.err


# --- a company that got another one's symbol


@pytest.fixture
def renamed(polygon: PolygonServer) -> PolygonServer:
    """Meta under FB, then META; bars of another fund under META until the change, and under FB after it."""
    for day, close in zip(SESSIONS, CLOSES, strict=True):
        price = float(close)
        mine, other = ("FB", "META") if day < CHANGE else ("META", "FB")
        polygon.days[day] = [
            row(mine, day, o=price, h=price + 1, l=price - 1, c=price, vw=price),
            row(other, day, o=12, h=13, l=11, c=12.31, vw=12),
            row("AAPL", day),
        ]
    return polygon


def shown(maang: Maang, *argv: str, table: str = "production") -> list[dict[str, Any]]:
    done = maang("show", *RANGE, *argv, "--table", table, "--json")
    assert done.code == 0, done.err
    rows: list[dict[str, Any]] = done.result["rows"]
    return rows


def test_backfill_over_a_change_of_symbols_stores_one_name(maang: Maang, renamed: PolygonServer) -> None:
    planned = maang("plan", *RANGE, "--tickers", "META")
    assert "META=FB:2012-05-18+META:2022-06-09 (built in)" in planned.out
    assert "11 sessions to fetch, 3 calls, about 11 rows" in planned.out
    assert maang("backfill", *RANGE, "--tickers", "META").code == 0
    rows = shown(maang, "--tickers", "META")
    assert [(each["ticker"], each["date"], each["close"]) for each in rows] == [
        ("META", str(day), close) for day, close in zip(SESSIONS, CLOSES, strict=True)
    ]
    assert shown(maang, "--tickers", "FB") == []
    windows = {each["date"]: each for each in shown(maang, "--tickers", "META", table="cumulative")}
    assert windows["2022-06-09"]["volatility_7_day"] == "5.1710"
    assert windows["2022-06-15"]["last_7_days_close"] == list(CLOSES[-7:])
    requests = len(renamed.requests)
    again = maang("backfill", *RANGE, "--tickers", "META", "--json")
    assert (again.code, again.result["published"], len(renamed.requests)) == (0, [], requests)
    assert shown(maang, "--tickers", "META") == rows


def test_refetch_over_a_change_of_symbols_changes_nothing(maang: Maang, renamed: PolygonServer) -> None:
    assert maang("backfill", *RANGE, "--tickers", "META,AAPL").code == 0
    rows = shown(maang, "--tickers", "META,AAPL")
    again = maang("backfill", *RANGE, "--tickers", "META,AAPL", "--refetch", "--json")
    assert (again.code, again.result["production"]["unchanged"]) == (0, 22)
    assert shown(maang, "--tickers", "META,AAPL") == rows


def test_steps_of_a_range_store_one_name(maang: Maang, renamed: PolygonServer) -> None:
    for step in ("init-tables", "ingest", "check", "promote", "cumulate", "drop-staging"):
        assert maang(step, *RANGE, "--tickers", "META,AAPL").code == 0
    assert [each["close"] for each in shown(maang, "--tickers", "META")] == list(CLOSES)


def test_explicit_entry_loads_the_other_security(maang: Maang, renamed: PolygonServer) -> None:
    done = maang("backfill", *RANGE, "--tickers", "FUND=META:2021-06-30..2022-06-08,META")
    assert done.code == 0, done.err
    rows = shown(maang, "--tickers", "FUND,AAPL")
    assert [(each["ticker"], each["close"]) for each in rows] == [("FUND", "12.31")] * 6
    assert len(shown(maang, "--tickers", "META")) == 11


def test_session_before_the_first_listing_is_not_missing(maang: Maang, polygon: PolygonServer) -> None:
    days = sessions.between(date(2012, 5, 16), date(2012, 5, 21))
    polygon.days = {day: [row("AAPL", day), *([row("FB", day)] if day >= date(2012, 5, 18) else [])] for day in days}
    span = ("--from", "2012-05-16", "--to", "2012-05-21", "--tickers", "META,AAPL")
    done = maang("backfill", *span, "--json")
    assert (done.code, done.result["production"]["inserted"]) == (0, 6)
    found = maang("status", *span, "--json")
    assert (found.code, found.result["complete"]) == (0, True)


def test_equal_sets_of_requested_tickers_are_one_object() -> None:
    """With 11,000 tickers and 2,000 sessions, sets of their own would take gigabytes."""
    entries = ("META", "AAPL")
    request = Request(entries, (), symbols=parsed(*entries))
    early, late = request.requested(date(2012, 5, 16)), request.requested(date(2012, 5, 18))
    assert (sorted(early), sorted(late)) == (["AAPL"], ["AAPL", "META"])
    assert early is request.requested(date(2012, 5, 17))
    assert late is request.requested(date(2012, 5, 21))


def test_share_of_missing_tickers_is_of_those_that_are_listed(maang: Maang, polygon: PolygonServer) -> None:
    day = date(2012, 5, 17)  # META is not listed
    polygon.days = {day: [row("AAPL", day)]}
    run = ("run-day", "--date", str(day), "--tickers", "META,AAPL,AMZN,NFLX", "--allow-missing")
    assert maang(*run, "66%").code == 3
    assert maang(*run, "67%").code == 0


def test_only_unlisted_tickers_exit_2(maang: Maang, polygon: PolygonServer) -> None:
    done = maang("run-day", "--date", "2012-05-17", "--tickers", "META")
    assert done.code == 2
    assert "none of the tickers is listed on 2012-05-17" in done.err
    assert polygon.requests == []


def test_rows_of_an_unlisted_session_stay(maang: Maang, renamed: PolygonServer) -> None:
    """A narrower entry than the one that stored them neither asks for them nor deletes them."""
    assert maang("backfill", *RANGE, "--tickers", "META").code == 0
    before = shown(maang, "--tickers", "META")
    narrow = ("--tickers", "META=META:2022-06-09", "--refetch", "--json")
    done = maang("backfill", *RANGE, *narrow)
    assert (done.code, done.result["production"]) == (0, done.result["production"] | {"unchanged": 5, "deleted": 0})
    assert shown(maang, "--tickers", "META") == before


def test_built_in_split_of_alphabet_restates_its_windows(maang: Maang, polygon: PolygonServer) -> None:
    days = sessions.between(date(2014, 3, 31), date(2014, 4, 4))
    prices = (1114.51, 1134.89, 1135.10, 571.50, 545.25)
    for day, price in zip(days, prices, strict=True):
        name = "GOOG" if day < date(2014, 4, 3) else "GOOGL"
        polygon.days[day] = [row(name, day, o=price, h=price, l=price, c=price, vw=price, v=1000)]
    polygon.days[date(2014, 4, 3)].append(row("GOOG", date(2014, 4, 3), o=570, h=570, l=569, c=569.74, vw=569.5))
    polygon.days[date(2014, 4, 4)].append(row("GOOG", date(2014, 4, 4), o=575, h=578, l=540, c=543.14, vw=550))
    span = ("--from", "2014-03-31", "--to", "2014-04-04")
    done = maang("backfill", *span, "--tickers", "GOOGL,GOOG")
    assert done.code == 0, done.err
    listed = maang("splits", "--tickers", "GOOGL,GOOG", "--json").result["splits"]
    assert [
        (each["ticker"], each["date" if "date" in each else "session"], each["source"], each["state"]) for each in listed
    ] == [("GOOGL", "2014-04-03", "built-in", "applied")]
    rows = maang("show", *span, "--tickers", "GOOGL,GOOG", "--table", "cumulative", "--json").result["rows"]
    last = {each["ticker"]: each for each in rows if each["date"] == "2014-04-04"}
    assert last["GOOGL"]["last_7_days_close"] == ["557.26", "567.45", "567.55", "571.50", "545.25"]
    assert last["GOOG"]["last_7_days_close"] == ["569.74", "543.14"]


def test_vendors_split_is_looked_up_by_the_symbol_of_its_date(maang: Maang, renamed: PolygonServer) -> None:
    renamed.splits = [
        {"ticker": "META", "execution_date": "2022-06-06", "split_from": 1, "split_to": 2},
        {"ticker": "FB", "execution_date": "2022-06-10", "split_from": 1, "split_to": 2},
        {"ticker": "FB", "execution_date": "2022-06-03", "split_from": 1, "split_to": 3},
    ]
    assert maang("backfill", *RANGE, "--tickers", "META").code == 0
    listed = maang("splits", "--tickers", "META", "--json").result["splits"]
    assert [(each["ticker"], each["vendor_date"], each["state"]) for each in listed] == [("META", "2022-06-03", "disputed")]


def test_status_names_rows_of_the_fund_that_older_versions_stored_as_meta(maang: Maang, polygon: PolygonServer) -> None:
    days = sessions.between(date(2022, 1, 27), date(2022, 1, 31))
    for day in days:
        fund = [row("META", day, o=12, h=13, l=11, c=12.31, vw=12)] if day <= date(2022, 1, 28) else []
        polygon.days[day] = [row("FB", day, o=300, h=303, l=299, c=301.71, vw=301), *fund]
    span = ("--from", "2022-01-27", "--to", "2022-01-31")
    assert maang("backfill", *span[:2], "--to", "2022-01-28", "--tickers", "META=META:2021-06-30..2022-01-28").code == 0
    assert maang("backfill", *span, "--tickers", "META", "--accept", "META:2022-01-31:jump").code == 0
    found = maang("status", *span, "--tickers", "META")
    assert found.code == 0
    assert "2 rows of META from 2022-01-27 to 2022-01-28: of another security" in " ".join(found.out.split())
    assert "maang backfill --from 2022-01-27 --to 2022-01-28 --refetch" in " ".join(found.out.split())
    assert maang("backfill", "--from", "2022-01-27", "--to", "2022-01-28", "--refetch", "--tickers", "META").code == 0
    rows = maang("show", *span, "--tickers", "META", "--json").result["rows"]
    assert [each["close"] for each in rows] == ["301.71"] * 3
    assert maang("status", *span, "--tickers", "META", "--json").result["mistaken_rows"] is None


# --- the universe


def test_status_names_its_universe_and_counts_the_tickers_outside_it(maang: Maang, renamed: PolygonServer) -> None:
    assert maang("backfill", *RANGE, "--tickers", "META,AAPL").code == 0
    done = maang("status", *RANGE, "--tickers", "META")
    assert done.code == 0
    assert "universe: 1 ticker (META)" in done.out
    assert "1 other ticker of maang.daily_stock_prices is not in it" in done.out
    found = maang("status", *RANGE, "--tickers", "META", "--json").result
    assert (found["universe"], [table["others"] for table in found["tables"]]) == (["META"], [1, 1])


def test_plan_names_its_universe_with_explicit_entries(maang: Maang, renamed: PolygonServer) -> None:
    done = maang("plan", *RANGE, "--tickers", "FUND=META:2021-06-30..2022-06-08,AAPL")
    assert "universe: 2 tickers (FUND=META:2021-06-30..2022-06-08, AAPL)" in done.out
    assert "built in" not in done.out


def test_built_in_entries_are_as_they_would_be_typed() -> None:
    assert symbols.entry("META", BUILT_IN["META"]) == symbols.EXAMPLE
    assert parsed("META").entry("META") == "META"
    assert parsed("META").between("META", *ALWAYS) == BUILT_IN["META"]
