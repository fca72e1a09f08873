"""The shared SQL on DuckDB: every text runs, literals survive quoting, and windows equal the recomputation."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from importlib.resources import files

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from maang_cli import backfill, checks, pipeline, sql
from maang_cli.checks import AllowMissing
from maang_cli.tables import CUMULATIVE, PRODUCTION, STAGED_COLUMNS, arrow_schema, staging
from maang_cli.warehouses import local
from tests import expected
from tests.expected import Bar, Key, Row

TICKERS = ("META", "BRK.A", "BACpA")
SESSIONS = expected.run_of(date(2025, 11, 12), 14)
DUCKDB = duckdb.connect(config=local.DUCKDB)


def windows_text(tickers: Iterable[str], targets: tuple[date, ...]) -> str:
    days = (*expected.window(targets[0]), *(day for day in expected.sessions() if targets[0] < day <= targets[-1]))
    return sql.text(
        "windows",
        calendar=", ".join(f"(DATE '{day}', {number})" for number, day in enumerate(days)),
        tickers=sql.rows(map(sql.string, tickers)),
        first=sql.day(days[0]),
        last=sql.day(days[-1]),
        targets=", ".join(map(sql.day, targets)),
    )


ALLOWED = AllowMissing(tickers=frozenset({"META"}), percent=Decimal("12.5"))
TEXTS = {
    "publish": pipeline.publish_query(staging(TICKERS, SESSIONS[:2]), SESSIONS[:2]).text,
    "windows": windows_text(TICKERS, SESSIONS[-2:]),
    "coverage": sql.text(
        "coverage", tickers=sql.rows(map(sql.string, TICKERS)), first=sql.day(SESSIONS[0]), last=sql.day(SESSIONS[-1])
    ),
    "show": sql.text("show", columns=", ".join(PRODUCTION.values), which="TRUE"),
    "glance": sql.text("glance"),
    "missing": sql.text(
        "missing",
        tickers=sql.rows(map(sql.string, TICKERS)),
        sessions=sql.rows(map(sql.day, SESSIONS[:2])),
        first=sql.day(SESSIONS[0]),
        last=sql.day(SESSIONS[1]),
    ),
    "stale": backfill.stale_query(TICKERS, SESSIONS[-2:]).text,
    "unpublished": backfill.unpublished_query(staging(TICKERS, SESSIONS[:2])).text,
    "audit": checks.audit_sql(TICKERS, SESSIONS[:2], checks.ALL_MUST_BE_THERE),
    "failing_rows": checks.report_sql(TICKERS, SESSIONS[:2], ALLOWED),
}
TABLES = {
    "staging": arrow_schema(STAGED_COLUMNS).empty_table(),
    "production": arrow_schema(PRODUCTION.columns).empty_table(),
    "table": arrow_schema(PRODUCTION.columns).empty_table(),
    "cumulative": arrow_schema(CUMULATIVE.columns).empty_table(),
}
AUDITED = ["check_name", "ticker", "date", "found", "allowed"]
RESULTS = {
    "publish": list(PRODUCTION.values),
    "windows": list(CUMULATIVE.values),
    "coverage": ["date", "tickers"],
    "show": list(PRODUCTION.values),
    "glance": ["first", "last", "rows", "tickers"],
    "missing": ["date", "ticker"],
    "stale": ["date", "missing", "stale"],
    "unpublished": ["session"],
    "audit": AUDITED,
    "failing_rows": [*AUDITED, "failing"],
}


def run(text: str, **tables: pa.Table) -> pa.Table:
    """The result of a text whose holes are these tables."""
    for name, rows in tables.items():
        DUCKDB.register(f"test_{name}", rows)
    filled = sql.fill(text, {name: f"test_{name}" for name in tables})
    assert "{" not in filled
    return DUCKDB.sql(filled).to_arrow_table()


def test_every_text_is_tested_here() -> None:
    assert {file.name for file in files(sql).iterdir() if file.name.endswith(".sql")} == {f"{name}.sql" for name in TEXTS}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_runs_on_empty_tables_with_no_hole_left_and_gives_its_columns(name: str) -> None:
    assert run(TEXTS[name], **TABLES).column_names == RESULTS[name]


def test_the_forbidding_query_is_empty_exactly_where_all_is_well() -> None:
    for percent, rows in ((Decimal(100), 0), (Decimal(99), 2 * len(TICKERS))):
        text = checks.forbidden_sql(TICKERS, SESSIONS[:2], AllowMissing(percent=percent))
        assert run(text, staging=TABLES["staging"]).num_rows == rows


def test_published_columns_have_productions_types() -> None:
    wanted = [column for column in PRODUCTION.columns if column.name != PRODUCTION.stamp]
    found = run(TEXTS["publish"], staging=TABLES["staging"]).schema
    assert found.types == arrow_schema(wanted).types


def test_window_columns_have_the_cumulative_tables_types() -> None:
    wanted = [column for column in CUMULATIVE.columns if column.name != CUMULATIVE.stamp]
    found = run(TEXTS["windows"], production=TABLES["production"]).schema
    assert [kind.value_type if pa.types.is_list(kind) else kind for kind in found.types] == [
        kind.value_type if pa.types.is_list(kind) else kind for kind in arrow_schema(wanted).types
    ]


@given(st.text(st.characters(exclude_characters="\\\0", exclude_categories=["Cs"])))
@example("O'Neill's '' {staging} -- ; /*")
@examples(deadline=None)
def test_a_string_literal_gives_back_the_string(value: str) -> None:
    assert DUCKDB.execute(f"SELECT {sql.string(value)}").fetchone() == (value,)


def test_a_backslash_is_refused_in_a_literal() -> None:
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
        ("no holes", {"x": "1"}, "no holes"),
        ("an open {brace", {"x": "1"}, "an open {brace"),
        ("", {"x": "1"}, ""),
    ],
)
def test_fill_replaces_the_holes_it_knows_and_nothing_else(template: str, values: dict[str, str], filled: str) -> None:
    assert sql.fill(template, values) == filled


def produced(bars: Iterable[Bar]) -> pa.Table:
    """Bars as production holds them."""
    rows = [row | {"insertion_timestamp": None} for row in expected.production(bars).values()]
    return pa.Table.from_pylist(rows, schema=arrow_schema(PRODUCTION.columns))


def windows(bars: Iterable[Bar], tickers: Iterable[str], targets: tuple[date, ...]) -> dict[Key, Row]:
    return expected.by_key(run(windows_text(tickers, targets), production=produced(bars)).to_pylist(), without="nothing")


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
def test_windows_of_random_bars_with_holes_equal_the_recomputation(bars: list[Bar], last: int, count: int) -> None:
    targets = SESSIONS[max(last - count + 1, 6) : last + 1]
    wanted = {key: row for key, row in expected.cumulative(bars).items() if key[0] in TICKERS and key[1] in targets}
    assert windows(bars, TICKERS, targets) == wanted


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
def test_volatility_is_exact_to_its_last_digit_and_null_where_it_has_no_place(closes: list[str], volatility: str | None) -> None:
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
def test_the_mean_volume_is_exact_to_the_cent(volumes: list[int], mean: str) -> None:
    bars = [priced("META", day, "1", volume) for day, volume in zip(SESSIONS[6:], volumes, strict=False)]
    [row] = windows(bars, ["META"], (bars[-1].date,)).values()
    assert row["avg_7_day_volume"] == Decimal(mean)
    assert row["last_7_days_volume"] == volumes
