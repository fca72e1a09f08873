"""The shared SQL on DuckDB: every text runs, literals survive quoting, and windows equal the recomputation."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import checks, diff, findings, gate, missing, pipeline, sessions, split_table, sql
from maang_cli.checks import Acceptance, AllowMissing, Audit, Round
from maang_cli.request import Request
from maang_cli.schemas import arrow_schema
from maang_cli.splits import Split
from maang_cli.symbols import ALWAYS
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS, STAGING_COLUMNS, staging
from maang_cli.warehouses.base import Query
from maang_cli.warehouses.local import warehouse as local
from tests import expected
from tests.conftest import real_market
from tests.expected import Bar, Key, Row

TICKERS = ("META", "BRK.A", "BACpA")
SESSIONS = expected.run_of(date(2025, 11, 12), 14)
DUCKDB = duckdb.connect(config=local.DUCKDB)

ALLOWED = AllowMissing(tickers=frozenset({"META"}), percent=Decimal("12.5"))
STAGED = staging(TICKERS, SESSIONS[:2])
HELD = frozenset({("META", SESSIONS[0])})
REQUESTED = dict.fromkeys(SESSIONS[:2], len(TICKERS))
NO_BASES = gate.bases_sql([], SESSIONS[0], SESSIONS[1])
ROUND = Round(REQUESTED, ALLOWED, NO_BASES, frozenset({SESSIONS[1]}), HELD)
ACCEPTED = [Acceptance("META", SESSIONS[0], "jump")]
AUDIT = Audit(ROUND, "staging", (), ())
FIRST, LAST = sql.day(SESSIONS[0]), sql.day(SESSIONS[1])


def audited(text: str, judged: Round = ROUND) -> str:
    """A text with the audit that it reads."""
    return Query(text, parts={"audit": Query(checks.audit_sql(judged))}).whole().text


TEXTS = {
    "publish": gate.publish_query(STAGED, TICKERS, SESSIONS[:2]).text,
    "windows": pipeline.windows_query(TICKERS, SESSIONS[-2:]).text,
    "stored_sessions": sql.text("stored_sessions", first=FIRST, last=LAST),
    "stored_at": sql.text("stored_at", first=FIRST, last=LAST),
    "table_rows": sql.text("table_rows", columns=", ".join(PRODUCTION.values), condition="TRUE"),
    "table_summary": sql.text("table_summary"),
    "held_rows": sql.text("held_rows", first=FIRST, last=LAST),
    "refused_days": sql.text("refused_days", days=FIRST),
    "stamps": sql.text("stamps", sessions=FIRST),
    "missing_tickers": sql.text("missing_tickers", sessions=sql.rows(map(sql.day, SESSIONS[:2])), first=FIRST, last=LAST),
    "stale_windows": missing.stale_windows_query(TICKERS, SESSIONS[-2:]).text,
    "unpublished_sessions": missing.unpublished_sessions_query(STAGED).text,
    "known_splits": split_table.known_query(TICKERS, SESSIONS[0], SESSIONS[1], [("META", SESSIONS[1])], STAGED).text,
    "adjusted_rows": pipeline.adjusted_text([], SESSIONS[:2], "TRUE"),
    "differences": diff.differences_query(CUMULATIVE, pipeline.windows_query(TICKERS, SESSIONS[-2:]), SESSIONS[-2:]).text,
    "publish_without_held": gate.publish_query(STAGED, TICKERS, SESSIONS[:2], held=HELD).text,
    "revisions": findings.revisions_query(gate.publish_query(STAGED, TICKERS, SESSIONS[:2]), SESSIONS[:2]).text,
    "audit": checks.audit_sql(ROUND),
    "audit_report": audited(checks.report_sql()),
    "forbidden": audited(checks.forbidden_sql(HELD)),
    "findings": gate.findings_query(Request(TICKERS, SESSIONS[:2]), AUDIT, [Acceptance("META", SESSIONS[0], "jump")])
    .whole()
    .text,
}
TABLES = {
    "staging": arrow_schema(STAGING_COLUMNS).empty_table(),
    "production": arrow_schema(PRODUCTION.columns).empty_table(),
    "table": arrow_schema(PRODUCTION.columns).empty_table(),
    "cumulative": arrow_schema(CUMULATIVE.columns).empty_table(),
    "stored": arrow_schema(CUMULATIVE.columns).empty_table(),
    "splits": arrow_schema(SPLITS.columns).empty_table(),
    "findings": arrow_schema(FINDINGS.columns).empty_table(),
}
AUDITED = ["check_name", "ticker", "date", "found", "before", "after", "outcome"]
RESULTS = {
    "publish": [*PRODUCTION.values, "fetched_at"],
    "windows": list(CUMULATIVE.values),
    "stored_sessions": ["date", "tickers", "oldest"],
    "stored_at": ["date", "stored_at"],
    "table_rows": list(PRODUCTION.values),
    "table_summary": ["first", "last", "rows", "tickers", "others"],
    "held_rows": ["ticker", "date"],
    "refused_days": ["date"],
    "stamps": ["date", "ticker", "insertion_timestamp"],
    "missing_tickers": ["date", "ticker"],
    "stale_windows": ["date", "missing", "stale"],
    "unpublished_sessions": ["session"],
    "known_splits": ["ticker", "date", "previous_close", "first_open", *SPLITS.values[2:]],
    "adjusted_rows": [column.name for column in PRODUCTION.columns],
    "differences": [
        *("ticker", "date", "change"),
        *(f"{when}_{name}" for name in CUMULATIVE.values[2:] for when in ("before", "after")),
        "replaced_at",
    ],
    "publish_without_held": [*PRODUCTION.values, "fetched_at"],
    "revisions": list(FINDINGS.values),
    "audit": AUDITED,
    "forbidden": ["ticker", "date"],
    "findings": list(FINDINGS.values),
    "audit_report": [*AUDITED, "failing"],
}


def run(text: str, tickers: Iterable[str] = TICKERS, **tables: pa.Table) -> pa.Table:
    """The result of a text whose placeholders are these tickers and tables."""
    requested = [{"ticker": ticker, "first_date": ALWAYS[0], "last_date": ALWAYS[1]} for ticker in tickers]
    relations = {"tickers": pa.Table.from_pylist(requested, schema=local.REQUESTED), **tables}
    for name, rows in relations.items():
        DUCKDB.register(f"test_{name}", rows)
    filled = sql.fill(text, {name: f"test_{name}" for name in relations})
    assert "{" not in filled
    return DUCKDB.sql(filled).to_arrow_table()


def test_every_sql_file_is_tested_here() -> None:
    assert {file.name for file in files(sql).iterdir() if file.name.endswith(".sql")} == {f"{name}.sql" for name in TEXTS}


@pytest.mark.parametrize("name", TEXTS)
def test_text_runs_on_empty_tables_without_an_open_placeholder_and_returns_its_columns(name: str) -> None:
    assert run(TEXTS[name], **TABLES).column_names == RESULTS[name]


def test_forbidding_query_is_empty_only_if_every_check_passes() -> None:
    for percent, rows in ((Decimal(100), 0), (Decimal(99), 2 * len(TICKERS))):
        text = audited(checks.forbidden_sql([]), Round(REQUESTED, AllowMissing(percent=percent), NO_BASES))
        assert run(text, **TABLES).num_rows == rows


def test_published_columns_are_the_value_columns_of_production_with_their_types() -> None:
    found = run(TEXTS["publish"], staging=TABLES["staging"]).schema
    promised = arrow_schema((*PRODUCTION.value_columns, STAGING_COLUMNS[-1]))
    assert (found.names, found.types) == (promised.names, promised.types)
    assert TABLES["staging"].schema.field("open").type != found.field("open").type, "the casts of the query narrow the types"


def test_window_columns_are_the_value_columns_of_cumulative_with_their_types() -> None:
    found = run(TEXTS["windows"], production=TABLES["production"]).schema
    promised = arrow_schema(CUMULATIVE.value_columns)
    assert found.names == promised.names
    assert [kind.value_type if pa.types.is_list(kind) else kind for kind in found.types] == [
        kind.value_type if pa.types.is_list(kind) else kind for kind in promised.types
    ]


@given(st.text(st.characters(exclude_characters="\\\0", exclude_categories=["Cs"])))
@example("O'Neill's '' {staging} -- ; /*")
@examples(deadline=None)
def test_string_literal_returns_the_string(value: str) -> None:
    assert DUCKDB.execute(f"SELECT {sql.string(value)}").fetchall() == [(value,)]


def test_string_literal_refuses_a_backslash() -> None:
    with pytest.raises(ValueError, match="backslash"):
        sql.string("a\\'; DROP TABLE x")


def test_day_and_rows_are_literals() -> None:
    text = f"SELECT * FROM (VALUES {sql.rows(map(sql.day, SESSIONS[:2]))}) AS d(day)"
    assert DUCKDB.execute(text).fetchall() == [(day,) for day in SESSIONS[:2]]
    assert sql.rows([]) == ""


@pytest.mark.parametrize(
    ("template", "values", "filled"),
    [
        ("a {x} b {y}", {"x": "1", "y": "2"}, "a 1 b 2"),
        ("{x}{x}", {"x": "1"}, "11"),
        ("{x} {later}", {"x": "1"}, "1 {later}"),
        ("{x} {y}", {"x": "{y}", "y": "{x}"}, "{y} {x}"),
        ("no placeholders", {"x": "1"}, "no placeholders"),
        ("an open {brace", {"x": "1"}, "an open {brace"),
        ("", {"x": "1"}, ""),
    ],
)
def test_fill_replaces_only_the_placeholders_that_it_knows(template: str, values: dict[str, str], filled: str) -> None:
    assert sql.fill(template, values) == filled


@pytest.mark.parametrize(
    ("left", "right", "differs"), [("1", "1", False), ("1", "2", True), ("1", "NULL", True), ("NULL", "NULL", False)]
)
def test_rows_differ_if_a_column_differs_and_null_equals_null(left: str, right: str, differs: bool) -> None:
    condition = sql.differs("l", "r", ["same", "x"])
    text = f"SELECT {condition} FROM (SELECT 7 AS same, {left} AS x) AS l, (SELECT 7 AS same, {right} AS x) AS r"
    assert DUCKDB.execute(text).fetchall() == [(differs,)]


def produced(bars: Iterable[Bar]) -> pa.Table:
    """Bars as production stores them."""
    rows = [row | {"insertion_timestamp": None} for row in expected.production(bars).values()]
    return pa.Table.from_pylist(rows, schema=arrow_schema(PRODUCTION.columns))


def run_windows(query: Query, bars: Iterable[Bar]) -> dict[Key, Row]:
    found = run(query.text, query.tickers, production=produced(bars))
    return expected.by_key(found.to_pylist(), without="nothing")


def windows(
    bars: Iterable[Bar], tickers: Iterable[str], targets: tuple[date, ...], known: Iterable[Split] = ()
) -> dict[Key, Row]:
    return run_windows(pipeline.windows_query(tuple(tickers), targets, known), bars)


def applied(split: expected.Split) -> Split:
    """A split as the table has it."""
    ratio = Decimal(split.before), Decimal(split.after)
    return Split(split.ticker, split.date, *ratio, "polygon", split.date, "applied", "")


def priced(ticker: str, day: date, close: str, volume: int = 1) -> Bar:
    return Bar(ticker, day, open=close, high=close, low=close, close=close, volume=str(volume))


def money(largest_cents: int) -> st.SearchStrategy[str]:
    return st.integers(1, largest_cents).map(lambda cents: str(Decimal(cents).scaleb(-2)))


some_bars = st.lists(
    st.builds(
        Bar,
        ticker=st.sampled_from([*TICKERS, "OTHER"]),
        date=st.sampled_from(SESSIONS),
        open=money(10**10 - 1),
        high=money(10**10 - 1),
        low=money(10**10 - 1),
        close=st.one_of(money(100), money(10_000_000)),
        volume=st.integers(1, checks.MAX_VOLUME).map(str),
    ),
    max_size=40,
    unique_by=lambda bar: (bar.ticker, bar.date),
)


@given(some_bars, st.integers(6, 13), st.integers(1, 7))
@examples(deadline=None, max_examples=100)
def test_windows_of_random_bars_with_missing_ones_equal_the_recomputation(bars: list[Bar], last: int, count: int) -> None:
    targets = SESSIONS[max(last - count + 1, 6) : last + 1]
    wanted = {key: row for key, row in expected.cumulative(bars).items() if key[0] in TICKERS and key[1] in targets}
    assert windows(bars, TICKERS, targets) == wanted


some_splits = st.lists(
    st.builds(
        expected.Split,
        ticker=st.sampled_from([*TICKERS, "OTHER"]),
        date=st.sampled_from(SESSIONS[1:]),
        before=st.integers(1, 30),
        after=st.integers(1, 30),
    ),
    max_size=5,
    unique_by=lambda split: (split.ticker, split.date),
)


@given(some_bars, some_splits, st.integers(6, 13), st.integers(1, 7))
@examples(deadline=None, max_examples=200)
def test_windows_across_random_splits_equal_the_recomputation_in_exact_fractions(
    bars: list[Bar], splits: list[expected.Split], last: int, count: int
) -> None:
    targets = SESSIONS[max(last - count + 1, 6) : last + 1]
    wanted = expected.cumulative(bars, splits)
    found = windows(bars, TICKERS, targets, map(applied, splits))
    assert found == {key: row for key, row in wanted.items() if key[0] in TICKERS and key[1] in targets}


@pytest.mark.parametrize("ratio", [(1, 10), (1, 6), (2, 3), (8, 1), (3, 1), (20, 21)], ids=str)
def test_restated_prices_round_half_up_at_every_cent(ratio: tuple[int, int]) -> None:
    """Each of 600 cents, ties such as 0.03 / 6 among them; six for each ticker."""
    target = SESSIONS[7]
    bars, splits = [], []
    for start in range(1, 601, 6):
        closes = [str(Decimal(cents).scaleb(-2)) for cents in range(start, start + 6)]
        bars += [priced(f"T{start}", day, close, 7 * start) for day, close in zip(SESSIONS[1:8], [*closes, "1"], strict=True)]
        splits.append(expected.Split(f"T{start}", target, *ratio))
    found = windows(bars, [split.ticker for split in splits], (target,), map(applied, splits))
    assert len(found) == 100
    assert found == {key: row for key, row in expected.cumulative(bars, splits).items() if key[1] == target}


def test_six_windows_differ_after_a_split_and_no_other() -> None:
    """A 10:1 split: the prices before it are in tenths, the volumes in tens."""
    bars = [priced("META", day, "1000.00" if number < 7 else "100.00", 50) for number, day in enumerate(SESSIONS)]
    raw = windows(bars, ["META"], SESSIONS)
    on_one_basis = windows(bars, ["META"], SESSIONS, [applied(expected.Split("META", SESSIONS[7], 1, 10))])
    assert [day for _, day in raw if raw["META", day] != on_one_basis["META", day]] == list(SESSIONS[7:13])
    assert on_one_basis["META", SESSIONS[8]] | {"ticker": "META"} == {
        "ticker": "META",
        "date": SESSIONS[8],
        **{f"last_7_days_{name}": [Decimal("100.00")] * 7 for name in expected.PRICES},
        "last_7_days_volume": [500] * 5 + [50] * 2,
        "avg_7_day_volume": Decimal("371.43"),
        "volatility_7_day": Decimal("0.0000"),
    }


@pytest.mark.parametrize(
    ("closes", "volatility"),
    [
        (["271.41"], None),
        (["271.41", "271.41"], "0.0000"),
        (["271.41"] * 7, "0.0000"),
        (["0.01", "0.02"], "0.0071"),
        (["99999999.99"] * 7, "0.0000"),
        (["99999999.98", "99999999.99"], "0.0071"),
        (["0.01", "1414213.57"], "999999.9983"),
        (["0.01", "1414213.58"], None),
        (["0.01", "99999999.99"], None),
        (["1000000.00", "1000000.01", "1000000.02", "1000000.03", "1000000.04", "1000000.05", "1000000.06"], "0.0216"),
        (["99691101.19", "99899681.18", "99689788.95", "99503890.93"], "161714.1923"),
        (["99944615.43", "99955706.72", "99980936.20", "99814036.31", "99957592.71", "99828028.05"], "72718.4488"),
    ],
)
def test_volatility_is_exact_to_its_last_digit_and_null_if_it_does_not_fit(closes: list[str], volatility: str | None) -> None:
    bars = [priced("META", day, close) for day, close in zip(SESSIONS[6:], closes, strict=False)]
    target = bars[-1].date
    [row] = windows(bars, ["META"], (target,)).values()
    assert row["volatility_7_day"] == (None if volatility is None else Decimal(volatility))
    assert expected.cumulative(bars)["META", target] == row


@pytest.mark.parametrize(
    ("volumes", "mean"),
    [
        ([1], "1.00"),
        ([1, 2], "1.50"),
        ([1, 1, 2], "1.33"),
        ([1, 2, 2], "1.67"),
        ([1, 1, 1, 1, 1, 1, 2], "1.14"),
        ([checks.MAX_VOLUME] * 7, "1000000000000.00"),
        ([checks.MAX_VOLUME] * 6 + [checks.MAX_VOLUME - 1], "999999999999.86"),
        ([checks.MAX_VOLUME, checks.MAX_VOLUME - 1], "999999999999.50"),
    ],
)
def test_mean_volume_is_exact_to_two_decimals(volumes: list[int], mean: str) -> None:
    bars = [priced("META", day, "1", volume) for day, volume in zip(SESSIONS[6:], volumes, strict=False)]
    [row] = windows(bars, ["META"], (bars[-1].date,)).values()
    assert row["avg_7_day_volume"] == Decimal(mean)
    assert row["last_7_days_volume"] == volumes


@pytest.mark.parametrize("length", [2, 3, 9])
def test_length_of_a_window_comes_from_one_constant(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    closes = {day: f"{number}.00" for number, day in enumerate(SESSIONS, 1)}
    bars = [priced("META", day, close) for day, close in closes.items()]
    targets = SESSIONS[-3:]
    monkeypatch.setattr(sessions, "WINDOW_LENGTH", length)  # the only way to see that the SQL has no length of its own
    query = pipeline.windows_query(["META"], targets)
    found = run_windows(query, bars)
    for number, target in enumerate(SESSIONS, 1):
        if target in targets:
            last = [Decimal(closes[day]) for day in SESSIONS[number - length : number]]
            assert found["META", target]["last_7_days_close"] == last
            assert len(last) == length
    assert query.reads["production"].sessions == (SESSIONS[len(SESSIONS) - 2 - length], SESSIONS[-1])


def test_bars_before_the_first_session_of_a_window_are_not_read() -> None:
    target = SESSIONS[-1]
    query = pipeline.windows_query(["META"], (target,))
    assert query.reads["production"].sessions == (expected.window(target)[0], target)


@real_market
def test_worked_example_of_the_documentation_holds_on_real_bars(market: Path) -> None:
    """A split of 10 for 1 on 2025-11-17: exactly the six windows that reach over it change, and every digit is as documented."""
    with (market / expected.MARKET_CSV).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["ticker"] == "NFLX"]
    bars = [Bar(date=date.fromisoformat(row.pop("date")), **row) for row in rows]
    targets = expected.run_of(date(2025, 11, 10), 13)
    raw = windows(bars, ["NFLX"], targets)
    found = windows(bars, ["NFLX"], targets, [applied(expected.Split("NFLX", date(2025, 11, 17), 1, 10))])
    assert [day for _, day in raw if raw["NFLX", day] != found["NFLX", day]] == list(expected.run_of(date(2025, 11, 17), 6))
    assert {
        day: tuple(str(found["NFLX", date.fromisoformat(day)][name]) for name in ("volatility_7_day", "avg_7_day_volume"))
        for day in ("2025-11-14", "2025-11-17", "2025-11-18", "2025-11-20", "2025-11-24", "2025-11-25")
    } == {
        "2025-11-14": ("24.0257", "3893189.57"),
        "2025-11-17": ("2.2906", "37439185.71"),
        "2025-11-18": ("2.0905", "37341360.71"),
        "2025-11-20": ("3.5912", "37897317.14"),
        "2025-11-24": ("3.4321", "41438291.29"),
        "2025-11-25": ("3.6375", "39654781.14"),
    }
