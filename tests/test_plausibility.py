"""What the gate finds by comparing bars with earlier ones, what it holds, what a person accepts, and what is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from maang_cli import findings, pipeline, sessions, split_table
from maang_cli.checks import AllowMissing, Audit, Outcome
from maang_cli.errors import GateRefused, SettingsError
from maang_cli.pipeline import NoProgress
from maang_cli.request import Request
from maang_cli.schemas import arrow_schema
from maang_cli.sources.sample import SampleSource
from maang_cli.splits import USER, Claim, Claims, Split
from maang_cli.tables import FINDINGS, PRODUCTION, SPLITS, STAGING_COLUMNS
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.test_pipeline import warehouse

__all__ = ["warehouse"]

TICKERS = ("AAPL", "AMZN", "GOOGL", "META", "NFLX")
DAYS = sessions.between(date(2025, 9, 2), date(2025, 10, 14))
"""31 sessions without a split in the sample."""
DAY, LAST = DAYS[20], DAYS[-1]
Change = Callable[[dict[str, Any]], None]
local_only = pytest.mark.parametrize("warehouse", ["local"], indirect=True)


def scaled(*names: str, by: str) -> Change:
    """Multiplies these columns of a row."""

    def change(row: dict[str, Any]) -> None:
        for name in names:
            row[name] = (row[name] * Decimal(by)).quantize(Decimal(1) if name == "volume" else Decimal("0.01"))

    return change


PRICES = ("open", "high", "low", "close", "vwap")


def bars(days: Sequence[date], changes: Mapping[tuple[str, date], Change] | None = None) -> pa.Table:
    """The sample's rows, some of them changed."""
    rows = SampleSource().bars(TICKERS, days).to_pylist()
    for row in rows:
        if change := (changes or {}).get((row["ticker"], row["session"])):
            change(row)
    return pa.Table.from_pylist(rows, schema=arrow_schema(STAGING_COLUMNS))


def publish(opened: Warehouse, rows: pa.Table, request: Request) -> Audit:
    """Stage these rows and publish what passes, as `run_day` does."""
    pipeline.init_tables(opened, request, only=("schema", "production", "cumulative"))
    opened.stage(request.staging, rows)
    audit, _ = pipeline.publish_staged(opened, request, rows, NoProgress())
    return audit


def found_in(audit: Audit) -> set[tuple[str, str, str | None, date]]:
    """Every failing row: its outcome, check, ticker and session."""
    return {(str(row.outcome), check.check.name, row.ticker, row.date) for check in audit.results for row in check.rows}


def rows_of(opened: Warehouse, table: Any, columns: str) -> list[tuple[Any, ...]]:
    """A table's rows, in order; none if it does not exist."""
    try:
        rows = opened.query(Query(f"SELECT {columns} FROM {{it}} ORDER BY {columns}", {"it": Read(table)})).to_pylist()
    except TableMissing:
        return []
    return [tuple(row.values()) for row in rows]


def stored_findings(opened: Warehouse) -> list[tuple[Any, ...]]:
    return rows_of(opened, FINDINGS, "outcome, name, ticker, date")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWarehouse]:
    """A warehouse with the sessions before DAY; tests only stage and audit there."""
    with closing(LocalWarehouse(Path(tmp_path_factory.mktemp("home")), "maang", Retention(5))) as opened:
        days = DAYS[: DAYS.index(DAY)]
        assert publish(opened, bars(days), Request(TICKERS, days)).passed
        yield opened


def audit_of(opened: Warehouse, rows: pa.Table, allow: AllowMissing | None = None) -> Audit:
    request = Request(TICKERS, (DAY,), allow or AllowMissing())
    opened.stage(request.staging, rows)
    return pipeline.check(opened, request)


def as_another(ticker: str, day: date) -> Change:
    """Puts another ticker's, or another session's, numbers into a row."""
    [other] = SampleSource().bars((ticker,), (day,)).to_pylist()

    def change(row: dict[str, Any]) -> None:
        row |= {name: other[name] for name in (*PRICES, "volume", "transactions")}

    return change


BEFORE = sessions.before(DAY, 1)[0]
FAULTS: dict[str, tuple[dict[tuple[str, date], Change], set[tuple[str, str]]]] = {
    "nothing": ({}, set()),
    "prices x 10": ({("NFLX", DAY): scaled(*PRICES, by="10")}, {("jump", "NFLX")}),
    "prices / 100": ({("NFLX", DAY): scaled(*PRICES, by="0.01")}, {("jump", "NFLX")}),
    "prices / 2": ({("NFLX", DAY): scaled(*PRICES, by="0.5")}, {("jump", "NFLX")}),
    "low / 10": ({("NFLX", DAY): scaled("low", by="0.1")}, {("spike", "NFLX")}),
    "high x 10": ({("NFLX", DAY): scaled("high", by="10")}, {("spike", "NFLX")}),
    "the session before": (
        {(ticker, DAY): as_another(ticker, BEFORE) for ticker in TICKERS},
        {("repeat", ticker) for ticker in TICKERS},
    ),
    "another ticker's bar": (
        {("AAPL", DAY): as_another("GOOGL", DAY)},
        {("jump", "AAPL"), ("twins", "AAPL"), ("twins", "GOOGL")},
    ),
    "volumes / 1000": (
        {(ticker, DAY): scaled("volume", by="0.001") for ticker in TICKERS},
        {("thin_session", "")} | {("volume_low", ticker) for ticker in TICKERS},
    ),
    "one volume / 20": ({("META", DAY): scaled("volume", by="0.05")}, {("volume_low", "META")}),
    "one volume x 50": ({("META", DAY): scaled("volume", by="50")}, {("volume_high", "META")}),
    "vwap / 2": ({("META", DAY): scaled("vwap", by="0.5")}, {("vwap_range", "META")}),
}


@pytest.mark.parametrize(("changes", "expected"), FAULTS.values(), ids=FAULTS.keys())
def test_fault_is_found_and_named(
    history: LocalWarehouse, changes: dict[tuple[str, date], Change], expected: set[tuple[str, str]]
) -> None:
    audit = audit_of(history, bars((DAY,), changes))
    assert {(check, ticker or "") for _, check, ticker, _ in found_in(audit)} == expected
    warnings = {"volume_low", "volume_high", "vwap_range"}
    assert audit.passed == ({name for name, _ in expected} <= warnings)


def test_without_earlier_bars_nothing_is_compared(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        rows = bars((DAY,), {(ticker, DAY): scaled(*PRICES, by="10") for ticker in TICKERS})
        assert found_in(publish(opened, rows, Request(TICKERS, (DAY,)))) == set()


# --- the same bars get the same verdicts in one batch and day by day


def unlisted_split(day: date) -> dict[tuple[str, date], Change]:
    """NFLX splits 10:1 on `day`, and nobody says so."""
    return {("NFLX", each): scaled(*PRICES, by="0.1") for each in DAYS if each >= day}


BATCHES = {
    "one price x 10": {("META", DAYS[10]): scaled(*PRICES, by="10")},
    "a split that is not listed": unlisted_split(DAYS[9]),
    "a repeated session": {(ticker, DAYS[12]): as_another(ticker, DAYS[11]) for ticker in TICKERS},
    "a thin session": {(ticker, DAYS[15]): scaled("volume", by="0.001") for ticker in TICKERS},
    "a missing price, then a jump": {
        ("AAPL", DAYS[13]): lambda row: row.update(close=None),
        ("AAPL", DAYS[14]): scaled(*PRICES, by="3"),
    },
}


@pytest.mark.parametrize("allow", [AllowMissing(), AllowMissing(percent=Decimal(20))], ids=["refused", "held"])
@pytest.mark.parametrize("changes", BATCHES.values(), ids=BATCHES.keys())
def test_batch_gets_the_verdicts_of_single_days(
    tmp_path: Path, changes: dict[tuple[str, date], Change], allow: AllowMissing
) -> None:
    days = DAYS[:22]
    found: dict[str, Any] = {}
    for name, pieces in (("batch", [days]), ("days", [(day,) for day in days])):
        with closing(LocalWarehouse(tmp_path / name, "maang", Retention(5))) as opened:
            verdicts = set[tuple[str, str, str | None, date]]()
            for piece in pieces:
                verdicts |= found_in(publish(opened, bars(piece, changes), Request(TICKERS, piece, allow)))
            values = ", ".join(PRODUCTION.values)
            found[name] = verdicts, rows_of(opened, PRODUCTION, values), rows_of(opened, FINDINGS, ", ".join(FINDINGS.values))
    assert found["batch"] == found["days"]
    assert found["batch"][0], "the change is found"


def test_price_x_10_in_the_middle_refuses_its_own_session_alone(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        audit = publish(opened, bars(DAYS, BATCHES["one price x 10"]), Request(TICKERS, DAYS))
        assert audit.refused == {DAYS[10]: ("jump",)}
        assert len(rows_of(opened, PRODUCTION, "ticker, date")) == len(TICKERS) * (len(DAYS) - 1)


def test_jump_after_a_refused_one_says_from_which_it_follows(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        audit = publish(opened, bars(DAYS[:12], unlisted_split(DAYS[9])), Request(TICKERS, DAYS[:12]))
    texts = {row.date: row.found for _, row in audit.rows(Outcome.REFUSED)}
    assert list(texts) == list(DAYS[9:12])
    assert "follows from" not in texts[DAYS[9]]
    assert texts[DAYS[10]].endswith(f"; follows from {DAYS[9]}")
    assert texts[DAYS[11]].endswith(f"; follows from {DAYS[10]}")


def test_refused_jump_says_what_to_type_and_the_split_explains_it(home: Path) -> None:
    days = DAYS[:12]
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        publish(opened, bars(days[:9]), Request(TICKERS, days[:9]))
        request = Request(TICKERS, days[9:])
        rows = bars(days[9:], unlisted_split(days[9]))
        opened.stage(request.staging, rows)
        with pytest.raises(GateRefused) as refused:
            pipeline.promote(opened, request)
        assert f"maang splits --add NFLX:{days[9]}:1:10{{flags}}" in refused.value.hint
        assert f"--accept NFLX:{days[9]}:jump" in refused.value.hint
        split_table.store(opened, [], [Split("NFLX", days[9], Decimal(1), Decimal(10), USER, None, "applied", "you added it")])
        assert pipeline.promote(opened, request).audit.passed


# --- held rows


@pytest.mark.on_spark
def test_held_row_stays_out_and_production_keeps_what_it_has(warehouse: Warehouse) -> None:
    publish(warehouse, bars(DAYS[:2]), Request(TICKERS, DAYS[:2]))
    before = rows_of(warehouse, PRODUCTION, "ticker, date, close, insertion_timestamp")
    changes = {(ticker, DAYS[1]): scaled("close", "high", by="1.001") for ticker in TICKERS}
    changes |= {("NFLX", DAYS[1]): scaled(*PRICES, by="10"), ("META", DAYS[2]): scaled(*PRICES, by="10")}
    request = Request(TICKERS, DAYS[1:3], AllowMissing(percent=Decimal(20)))
    audit = publish(warehouse, bars(DAYS[1:3], changes), request)
    assert audit.held == {("NFLX", DAYS[1]), ("META", DAYS[2])}
    after = rows_of(warehouse, PRODUCTION, "ticker, date, close, insertion_timestamp")
    assert [row for row in after if row[:2] == ("NFLX", DAYS[1])] == [row for row in before if row[:2] == ("NFLX", DAYS[1])]
    assert ("META", DAYS[2]) not in {row[:2] for row in after}
    assert len(after) == 3 * len(TICKERS) - 1
    found = stored_findings(warehouse)
    assert found[:2] == [("held", "jump", "META", DAYS[2]), ("held", "jump", "NFLX", DAYS[1])]
    others = [ticker for ticker in sorted(TICKERS) if ticker != "NFLX"]
    assert found[2:] == [("revised", name, ticker, DAYS[1]) for name in ("close", "high") for ticker in others]
    again = publish(warehouse, bars(DAYS[1:3], changes), request)
    assert again.held == audit.held
    assert rows_of(warehouse, PRODUCTION, "ticker, date, close, insertion_timestamp") == after
    assert stored_findings(warehouse) == found


# --- acceptances


def test_what_a_person_accepts_is_published_and_remembered_with_its_values(home: Path) -> None:
    wrong = {("META", DAYS[3]): scaled(*PRICES, by="1.6")}
    accepted = findings.acceptances([f"META:{DAYS[3]}:jump"], TICKERS, DAYS)
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        publish(opened, bars(DAYS[:3]), Request(TICKERS, DAYS[:3]))
        audit = publish(opened, bars(DAYS[3:4], wrong), Request(TICKERS, DAYS[3:4], accept=accepted))
        assert audit.passed
        assert found_in(audit) == {("accepted", "jump", "META", DAYS[3])}
        assert stored_findings(opened) == [("accepted", "jump", "META", DAYS[3])]
        assert publish(opened, bars(DAYS[3:4], wrong), Request(TICKERS, DAYS[3:4])).passed, "nobody has to repeat it"
        other = {("META", DAYS[3]): scaled(*PRICES, by="1.7")}
        assert publish(opened, bars(DAYS[3:4], other), Request(TICKERS, DAYS[3:4])).refused == {DAYS[3]: ("jump",)}


def test_session_is_accepted_with_its_ratio(history: LocalWarehouse) -> None:
    thin = {(ticker, DAY): scaled("volume", by="0.001") for ticker in TICKERS}
    request = Request(TICKERS, (DAY,), accept=findings.acceptances([f"{DAY}:thin_session"], TICKERS, (DAY,)))
    history.stage(request.staging, bars((DAY,), thin))
    assert pipeline.check(history, request).passed
    thinner = {(ticker, DAY): scaled("volume", by="0.0005") for ticker in TICKERS}
    assert audit_of(history, bars((DAY,), thinner)).refused == {DAY: ("thin_session",)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("META", "is not TICKER:DATE:CHECK"),
        ("META:2025-02-30:jump", "is not TICKER:DATE:CHECK"),
        (f"META:{LAST}:volume", "volume can't be accepted"),
        (f"META:{LAST}:nothing", "nothing can't be accepted"),
        (f"{LAST}:jump", "does not fit the check jump"),
        (f"META:{LAST}:thin_session", "does not fit the check thin_session"),
        (f"TSLA:{LAST}:jump", "is not in this run"),
        ("META:2025-10-15:jump", "is not in this run"),
    ],
)
def test_acceptance_that_means_nothing_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as refused:
        findings.acceptances([text], TICKERS, (LAST,))
    assert refused.value.hint


def test_netflix_of_april_2022_is_known(home: Path) -> None:
    days = (date(2022, 4, 19), date(2022, 4, 20))
    rows = SampleSource().bars(("NFLX",), days).to_pylist()
    for row, prices in zip(rows, (("346.21", "348.61"), ("245.20", "226.19")), strict=True):
        low, high = sorted(map(Decimal, prices))
        row |= {"open": Decimal(prices[0]), "close": Decimal(prices[1]), "low": low, "high": high, "vwap": None}
    request = Request(("NFLX",), days)
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        audit = publish(opened, pa.Table.from_pylist(rows, schema=arrow_schema(STAGING_COLUMNS)), request)
    assert found_in(audit) == {("accepted", "jump", "NFLX", days[1])}


# --- what is remembered


def test_refusal_is_stored_once_with_the_bars_values(home: Path) -> None:
    wrong = {("META", DAYS[0]): scaled("low", by="0.1"), ("AAPL", DAYS[0]): lambda row: row.update(close=None)}
    rows = bars(DAYS[:1], wrong)
    request = Request(TICKERS, DAYS[:1])
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        for _ in range(2):
            publish(opened, rows, request)
        columns = "outcome, name, ticker, date, found, low, close"
        [aapl, meta] = [row for row in rows.to_pylist() if row["ticker"] in ("AAPL", "META")]
        assert rows_of(opened, FINDINGS, columns) == [
            ("refused", "null_prices", "AAPL", DAYS[0], "close missing", aapl["low"], None),
            ("refused", "spike", "META", DAYS[0], rows_of(opened, FINDINGS, "name, found")[1][1], meta["low"], meta["close"]),
        ]


def test_usual_day_stores_no_finding(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        publish(opened, bars(DAYS[:2]), Request(TICKERS, DAYS[:2]))
        assert stored_findings(opened) == []
        table = opened._must_exist(FINDINGS)
        assert table.metadata.snapshots == []


def test_findings_are_stored_beside_an_older_warehouse_too(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        publish(opened, bars(DAYS[:1]), Request(TICKERS, DAYS[:1]))
        for table in (FINDINGS, SPLITS):
            opened.drop(table)
        request = Request(TICKERS, DAYS[1:2])
        opened.stage(request.staging, bars(DAYS[1:2], {("META", DAYS[1]): scaled("low", by="0.1")}))
        assert pipeline.check(opened, request).refused == {DAYS[1]: ("spike",)}
        assert stored_findings(opened) == [("refused", "spike", "META", DAYS[1])]


def test_split_that_the_staged_prices_contradict_makes_no_jump(home: Path) -> None:
    claim = Claim("META", DAYS[5], Decimal(1), Decimal(10), "vendor")
    with closing(LocalWarehouse(home, "maang", Retention(5))) as opened:
        request = Request(TICKERS, DAYS[:10])
        opened.stage(request.staging, bars(DAYS[:10]))
        learned = split_table.learn(opened, TICKERS, DAYS[:10], Claims((claim,)), request.staging)
        assert [split.state for split in learned.known] == ["disputed"]
        assert pipeline.check(opened, request).passed
