"""`maang report`: its numbers are those of the tables, and it says what is missing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from maang_cli import pipeline, report, sessions, sql, status, user_splits
from maang_cli.checks import AllowMissing
from maang_cli.errors import GateRefused
from maang_cli.render.report import page
from maang_cli.report import Level, Report, State
from maang_cli.request import Request
from maang_cli.sessions import NEW_YORK
from maang_cli.sources import SOURCES
from maang_cli.tables import CUMULATIVE, FINDINGS, SPLITS
from maang_cli.warehouses import WAREHOUSES
from maang_cli.warehouses.base import Query, Warehouse
from tests import settings
from tests.cli.helpers import DAY as ONE_DAY
from tests.cli.helpers import ON_DAY, SAMPLE, completed, failed
from tests.conftest import Maang
from tests.polygon_server import KEY, PolygonServer
from tests.test_early import take
from tests.test_missing import price, publish, warehouse
from tests.test_pipeline import DAYS, TICKERS, Feed, bar, crossed, feed, request_for

__all__ = ["feed", "warehouse"]

SPLIT, MISSING, REFUSED, HELD, REVISED, EARLY = DAYS[2:8]
THANKSGIVING = date(2025, 11, 27)
ALLOW = AllowMissing(frozenset({"META"}))
REQUEST = Request(TICKERS, DAYS, ALLOW)
HOSTILE = "</script><script>alert(1)</script><b>&"
DELAY = timedelta(minutes=20)


def tell(feed: Feed) -> None:
    """Fill the tables with something of everything that a report shows."""
    feed.serve(*(bar(ticker, day) for ticker in TICKERS for day in DAYS))
    take(feed, datetime.combine(EARLY, time(17), NEW_YORK), EARLY)
    feed.serve(bar("META", HELD, volume="0"))
    feed.load(request_for(*(day for day in DAYS if day not in {MISSING, REFUSED, EARLY}), allow=ALLOW))
    feed.serve(bar("AMZN", REVISED, volume="399e6"))
    feed.load(request_for(REVISED, allow=ALLOW))
    feed.serve(crossed("GOOGL", REFUSED))
    feed.stage(request_for(REFUSED))
    with pytest.raises(GateRefused):
        pipeline.promote(feed.warehouse, request_for(REFUSED))
    user_splits.edit(feed.warehouse, TICKERS, [user_splits.parse("add", f"NFLX:{SPLIT}:1:2")])
    add_finding(feed.warehouse, DAYS[0], kind="check", name="volume_high", outcome="warned", found=HOSTILE)
    stored_at = str((sessions.final(DAYS[9]) + DELAY).astimezone(UTC))
    add_finding(feed.warehouse, DAYS[9], kind="revision", name="close", outcome="revised", replaced_at=stored_at)


def add_finding(warehouse: Warehouse, day: date, **given: str) -> None:
    """A finding about AAPL."""
    cells = {"ticker": "AAPL", "date": str(day)} | given
    columns = (
        f"CAST({sql.string(cells[column.name]) if column.name in cells else 'NULL'} AS {column.type}) AS {column.name}"
        for column in FINDINGS.value_columns
    )
    assert warehouse.add(FINDINGS, Query(f"SELECT {', '.join(columns)}")) == 1


def gathered(warehouse: Warehouse, request: Request = REQUEST) -> Report:
    return report.gather(warehouse, request, datetime.now(UTC), made_up=False)


@dataclass
class Told:
    """The tables that `tell` fills, their report, and its page. No test changes them."""

    warehouse: Warehouse
    report: Report
    page: str


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with pytest.MonkeyPatch.context() as patch, PolygonServer() as server:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("MAANG_POLYGON_URL", server.url)
        patch.setenv("POLYGON_TOKEN", KEY)
        chosen = settings.load(warehouse="local", source="polygon", home=str(tmp_path_factory.mktemp("home")))
        with closing(WAREHOUSES["local"].open(chosen, "")) as opened, closing(SOURCES["polygon"].open(chosen)) as source:
            tell(Feed(server, source, opened))
            found = gathered(opened)
            yield Told(opened, found, page(found))


def rows_of(told: Told, part: str, *, adjusted: bool = False) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pipeline.show(told.warehouse, REQUEST, part, adjusted=adjusted).rows.to_pylist()
    return rows


# the numbers


def test_calendar_says_what_happened_on_each_day(told: Told) -> None:
    days = {each.day: each for each in told.report.days}
    assert [day.weekday() for day in days if day.weekday() >= 5] == []
    special = {MISSING: State.MISSING, REFUSED: State.REFUSED, HELD: State.HELD, EARLY: State.EARLY}
    expected = {day: special.get(day, State.PUBLISHED) for day in DAYS} | {THANKSGIVING: State.CLOSED}
    assert {day: each.state for day, each in days.items()} == expected
    assert days[MISSING].said == "0 of 5 tickers published; missing: AAPL, AMZN, GOOGL, META, NFLX"
    assert days[REFUSED].said.startswith("0 of 5 tickers published; refused, and waits in staging; missing: AAPL")
    assert days[HELD].said == "4 of 5 tickers published; held: META; missing, allowed by --allow-missing: META"
    assert days[EARLY].said == "5 of 5 tickers published; early: AAPL, AMZN, GOOGL, META, NFLX"
    assert days[REVISED].said == "5 of 5 tickers published; revised: AMZN"
    assert days[DAYS[0]].said == "5 of 5 tickers published; warned: volume_high: AAPL"
    assert days[THANKSGIVING].said == "closed: Thanksgiving Day"


def test_calendar_agrees_with_status(told: Told) -> None:
    found = status.status(told.warehouse, REQUEST, datetime.now(UTC))
    states: dict[State, set[date]] = {}
    for each in told.report.days:
        states.setdefault(each.state, set()).add(each.day)
    assert states[State.REFUSED] == set(found.refused)
    assert states[State.MISSING] == set(found.bars.missing) - set(found.refused)
    assert states[State.HELD] == set(found.held)
    assert states[State.EARLY] == set(found.bars.early)


def test_bars_are_productions_on_the_basis_of_the_newest_split(told: Told) -> None:
    production = [
        {name: value for name, value in row.items() if name != "insertion_timestamp"}
        for row in rows_of(told, "production", adjusted=True)
    ]
    shown = [
        {name: value for name, value in row.items() if name not in {"avg_7_day_volume", "volatility_7_day"}}
        for prices in told.report.prices
        for row in prices.bars
    ]
    assert sorted(shown, key=lambda row: (row["date"], row["ticker"])) == production
    [before] = [row for row in rows_of(told, "production") if row["ticker"] == "NFLX" and row["date"] == DAYS[1]]
    [after] = [row for row in shown if row["ticker"] == "NFLX" and row["date"] == DAYS[1]]
    assert after["volume"] == 2 * before["volume"]


def test_windows_are_cumulatives_on_the_basis_of_the_newest_split(told: Told) -> None:
    shown = {(row["ticker"], row["date"]): row for prices in told.report.prices for row in prices.bars}
    windows = [row for row in rows_of(told, "cumulative") if (row["ticker"], row["date"]) in shown]
    assert len(windows) == len(shown)
    for row in windows:
        factor = 2 if row["ticker"] == "NFLX" and row["date"] < SPLIT else 1
        found = shown[row["ticker"], row["date"]]
        assert found["avg_7_day_volume"] == row["avg_7_day_volume"] * factor
        if row["volatility_7_day"] is None:
            assert found["volatility_7_day"] is None
        else:
            assert abs(found["volatility_7_day"] - row["volatility_7_day"] / factor) <= Decimal("0.0001")


def test_marks_are_splits_findings_and_revisions(told: Told) -> None:
    marks = {prices.ticker: [(mark.day, mark.kind) for mark in prices.marks] for prices in told.report.prices}
    assert marks == {
        "META": [(HELD, "held")],
        "AAPL": [(DAYS[0], "warned"), (DAYS[9], "revision")],
        "AMZN": [(REVISED, "revision")],
        "NFLX": [(SPLIT, "split")],
        "GOOGL": [(REFUSED, "refused")],
    }
    [split] = told.report.prices[TICKERS.index("NFLX")].marks
    assert split.said == "2:1 split"


def test_findings_and_revisions_are_those_of_the_table_newest_first(told: Told) -> None:
    stored = rows_of(told, "findings")
    assert len(stored) == 5
    listed = [*told.report.findings, *told.report.revisions]
    assert sorted(listed, key=lambda row: (row["date"], row["name"])) == sorted(
        stored, key=lambda row: (row["date"], row["name"])
    )
    assert [(row["date"], row["outcome"]) for row in told.report.findings] == [
        (HELD, "held"),
        (REFUSED, "refused"),
        (DAYS[0], "warned"),
    ]
    assert [(row["date"], row["name"]) for row in told.report.revisions] == [(DAYS[9], "close"), (REVISED, "volume")]


def test_latency_is_that_of_status(told: Told) -> None:
    assert told.report.delays == {DAYS[9]: DELAY}
    assert told.report.status.latency == status.Latency(1, DELAY, DELAY, DAYS[9])


def test_newest_session_is_readable_since_its_first_final_row(feed: Feed) -> None:
    take(feed, datetime.combine(DAYS[1], time(17), NEW_YORK), DAYS[0], DAYS[1])
    newest = gathered(feed.warehouse).newest
    assert newest is not None
    assert (newest.session, newest.delay) == (DAYS[1], timedelta(hours=-13))
    before = datetime.now(UTC)
    feed.load(request_for(DAYS[1]))
    newest = gathered(feed.warehouse).newest
    assert newest is not None
    assert newest.moment >= before
    assert newest.delay == newest.moment - sessions.final(DAYS[1])


def test_page_has_each_sections_numbers(told: Told) -> None:
    text = told.page
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[0])["charts"]
    for prices in told.report.prices:
        columns = data["prices"][prices.ticker]["bars"]
        assert columns["day"] == [str(row["date"]) for row in prices.bars]
        for name in ("open", "high", "low", "close", "volume", "avg_7_day_volume", "volatility_7_day"):
            shown = [None if value is None else Decimal(str(value)) for value in columns[name]]
            assert shown == [row[name] for row in prices.bars]
    assert data["latency"] == {"day": [str(DAYS[9])], "minutes": [20.0], "delay": ["20 min"]}
    assert data["calendar"]["state"] == [each.state for each in told.report.days]
    assert list(zip(data["checks"]["day"], data["checks"]["check"], data["checks"]["outcome"], strict=True)) == [
        (str(DAYS[0]), "volume_high", "warned"),
        (str(REFUSED), "price_ranges", "refused"),
        (str(HELD), "volume", "held"),
    ]


# the verdict


def test_verdict_is_that_of_status(told: Told) -> None:
    assert told.report.level is Level.RED
    assert told.report.verdict is not None
    found = status.status(told.warehouse, REQUEST, datetime.now(UTC)).verdict()
    assert found is not None
    assert told.report.verdict.message == found.message
    text = told.page
    assert "Not all is right" in text
    assert f"There are {found.message}." in text
    assert "1 held row on 1 session waits for somebody." in text


def test_complete_sessions_are_green(feed: Feed) -> None:
    feed.load(request_for(*DAYS[:2]))
    found = gathered(feed.warehouse, request_for(*DAYS[:2]))
    assert (found.level, found.verdict) == (Level.GREEN, None)
    text = page(found)
    assert "No session is missing." in text
    assert "No refused or held row waits for anybody." in text


def test_held_row_alone_is_amber(feed: Feed) -> None:
    feed.serve(bar("META", DAYS[1], volume="0"))
    request = request_for(*DAYS[:2], allow=ALLOW)
    feed.load(request)
    assert gathered(feed.warehouse, request).level is Level.AMBER


# what is selected


def test_last_stored_sessions_are_shown_with_all_later_ones(warehouse: Warehouse) -> None:
    publish(warehouse, *(price("META", day) for day in (DAYS[0], DAYS[2], DAYS[3], DAYS[5])))
    now = sessions.final(DAYS[8])
    request = Request(("META",), ())
    assert report.sessions_to_show(warehouse, request, now) == DAYS[:9]
    assert report.sessions_to_show(warehouse, request, now, 2) == DAYS[3:9]
    assert report.sessions_to_show(warehouse, Request(("NFLX",), ()), now, 2) == DAYS[7:9]


def test_twenty_tickers_with_most_findings_then_most_volume_have_charts(warehouse: Warehouse) -> None:
    names = tuple(f"T{chr(65 + number)}" for number in range(22))
    publish(warehouse, *(price(name, DAYS[0]) for name in names))
    busy = price("TV", DAYS[1])
    publish(warehouse, busy)
    warehouse.create(FINDINGS)
    add_finding(warehouse, DAYS[0], ticker="TU", kind="check", name="volume_high", outcome="warned")
    found = gathered(warehouse, Request(names, DAYS[:2]))
    charted = [prices.ticker for prices in found.prices]
    assert charted[:2] == ["TU", "TV"]
    assert (len(charted), found.left_out) == (20, 2)
    assert "These are 20 of 22 tickers: those with most findings, then those with most volume." in page(found)


# what is missing


def test_empty_warehouse_has_a_page_that_says_so(warehouse: Warehouse) -> None:
    found = gathered(warehouse)
    assert (found.level, found.newest, found.prices) == (Level.RED, None, [])
    assert found.lacking == ["production", "cumulative", "splits", "findings"]
    text = page(found)
    assert "Nothing is stored for these tickers." in text
    assert "There is no table production: nothing was ever published." in text
    assert "There are no bars of these tickers on these sessions." in text


def test_older_warehouse_without_its_other_tables_has_a_page_that_says_so(warehouse: Warehouse) -> None:
    publish(warehouse, *(price(ticker, DAYS[0]) for ticker in TICKERS))
    for table in (FINDINGS, SPLITS, CUMULATIVE):
        warehouse.drop(table)
    found = gathered(warehouse)
    assert found.lacking == ["cumulative", "splits", "findings"]
    assert [len(prices.bars) for prices in found.prices] == [1] * len(TICKERS)
    assert (found.findings, found.revisions) == ([], [])
    text = page(found)
    assert "There is no table cumulative, so volatility and average volume are missing below." in text
    assert "There is no table splits, so prices are shown as traded." in text


# the page


def test_data_is_escaped(told: Told) -> None:
    text = told.page
    assert "alert(1)" in text
    assert "<script>alert(1)" not in text
    assert text.count("</script>") == text.count("<script") == 3


def test_policy_allows_only_the_scripts_of_the_page(told: Told) -> None:
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', told.page)
    allowed = dict(part.split(" ", 1) for part in html.unescape(policy).split("; "))
    assert allowed.pop("script-src").count("'sha256-") == 2
    assert allowed == {"default-src": "'none'", "style-src": "'unsafe-inline'", "base-uri": "'none'", "form-action": "'none'"}


# the command


def test_report_is_written_as_a_whole_to_the_default_file(maang: Maang) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    done = maang("report", *ON_DAY, *SAMPLE)
    path = Path("maang-report.html").resolve()
    assert (done.code, done.out) == (0, f"green: a report of 1 session and 5 tickers, 0.9 MB, is in {path}\n")
    assert path.read_text("utf-8").endswith("</html>\n")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "These bars are made up." in path.read_text("utf-8")


def test_report_prints_one_document(maang: Maang, tmp_path: Path) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    out = tmp_path / "page.html"
    done = maang("report", *SAMPLE, "--out", str(out), "--json")
    assert (done.code, done.document["sessions"][0]) == (0, ONE_DAY)
    assert done.result["file"] == str(out)
    assert done.result["bytes"] == out.stat().st_size < 2_500_000
    assert (done.result["level"], done.result["charts"]) == ("red", ["META", "AAPL", "AMZN", "NFLX", "GOOGL"])
    assert re.fullmatch(r"\d+ sessions with missing bars", done.result["verdict"])
    assert "maang backfill --from 2025-10-14 --to" in out.read_text("utf-8")


def test_report_that_cannot_be_written_exits_2(maang: Maang, tmp_path: Path) -> None:
    message, hint = failed(maang("report", *SAMPLE, "--out", str(tmp_path / "no" / "page.html"), "-q"), 2)
    assert message == f"there is no folder {tmp_path / 'no'}"
    assert hint == "create it, or give --out another name"


@pytest.mark.parametrize("module", ["jinja2", "vl_convert"])
def test_missing_extra_prints_how_to_install_it(module: str) -> None:
    program = f"import sys\nsys.modules['{module}'] = None\nfrom maang_cli.cli.process import run\nrun()"
    message, hint = failed(completed(["report", *SAMPLE], program=program), 2)
    assert message == f"what makes the page is not installed: no module {module}"
    assert hint == "install it from a clone of maang: uv run --extra report maang .., or pip install '.[report]'"


def test_only_report_imports_the_extra() -> None:
    program = "import sys\nsys.modules['jinja2'] = sys.modules['vl_convert'] = None\nfrom maang_cli.cli.process import run\nrun()"
    for argv in (["run-day", *ON_DAY, *SAMPLE], ["show", *ON_DAY, *SAMPLE], ["status", *ON_DAY, *SAMPLE]):
        assert completed(argv, program=program).code == 0


def test_report_of_databricks(databricks: object, polygon: PolygonServer, maang: Maang) -> None:
    with closing(WAREHOUSES["databricks"].open(settings.load(), "")) as opened:
        publish(opened, *(price(ticker, DAYS[0]) for ticker in TICKERS))
        found = gathered(opened, request_for(DAYS[0]))
    assert found.level is Level.GREEN
    assert [(prices.ticker, len(prices.bars)) for prices in found.prices] == [(ticker, 1) for ticker in TICKERS]
    assert maang("report", "--date", str(DAYS[0])).out.startswith("green: a report of 1 session and 5 tickers")
