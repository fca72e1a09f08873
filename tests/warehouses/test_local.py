"""What is particular to the local warehouse: its commits, its files, its readers from outside, its failures."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction

from maang_cli import pipeline, sessions, settings
from maang_cli.errors import CommitLost, ExitCode, MaangError, SettingsError, TableMismatch
from maang_cli.sources.sample import SampleSource
from maang_cli.tables import CUMULATIVE, PRODUCTION, Column, Table, iceberg_schema
from maang_cli.warehouses import WAREHOUSES, iceberg
from maang_cli.warehouses.base import Query, Read
from maang_cli.warehouses.local import ATTEMPTS, LocalWarehouse
from tests.conftest import Maang, Outcome
from tests.warehouses.conftest import (
    MONDAY,
    STAGING,
    TUESDAY,
    WEDNESDAY,
    Row,
    bar,
    content,
    open_catalog,
    publish,
    rows_on_disk,
    staged,
    unreachable,
    without_stamp,
)

PRODUCTION_NAME = "maang.daily_stock_prices"
FIVE = ("AAPL", "AMZN", "GOOGL", "META", "NFLX")
RUN_DAY = ("run-day", "--date", str(TUESDAY), "--source", "sample", "--quiet")


@pytest.fixture
def local(home: Path) -> Iterator[LocalWarehouse]:
    """The local warehouse with an empty production."""
    with closing(LocalWarehouse(home, "maang", keep_snapshots=100)) as warehouse:
        warehouse.create(PRODUCTION)
        yield warehouse


def closes(*texts: str) -> list[Row]:
    """META's bar on Tuesday, one for each close."""
    return [bar("META", TUESDAY, close=Decimal(text)) for text in texts]


# one commit, one snapshot


def snapshots_and_commits(home: Path) -> tuple[int, int]:
    """How many snapshots production has, and how often the catalog's pointer to it has moved."""
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        return len(table.snapshots()), int(Path(table.metadata_location).name.split("-")[0])


@pytest.mark.parametrize(
    ("rows", "tickers", "days"),
    [
        pytest.param([bar("META", WEDNESDAY)], ["META"], [WEDNESDAY], id="insert"),
        pytest.param(closes("10.80"), ["META"], [TUESDAY], id="update"),
        pytest.param([], ["META"], [TUESDAY], id="delete"),
        pytest.param([], ["AAPL", "META"], [TUESDAY], id="empty-a-partition"),
        pytest.param(
            [bar("AAPL", MONDAY), *closes("10.80"), bar("AAPL", WEDNESDAY)],
            ["AAPL", "META"],
            [MONDAY, TUESDAY, WEDNESDAY],
            id="everything-at-once",
        ),
    ],
)
def test_a_replace_is_one_commit_and_one_snapshot(
    local: LocalWarehouse, home: Path, rows: list[Row], tickers: list[str], days: list[date]
) -> None:
    publish(local, bar("META", MONDAY), bar("AAPL", TUESDAY), bar("META", TUESDAY))
    snapshots, commits = snapshots_and_commits(home)
    assert publish(local, *rows, tickers=tickers, sessions=days).changed
    assert snapshots_and_commits(home) == (snapshots + 1, commits + 1)


def test_where_nothing_changes_nothing_is_committed(local: LocalWarehouse, home: Path) -> None:
    rows = [bar("META", MONDAY), bar("META", TUESDAY)]
    publish(local, *rows)
    before = snapshots_and_commits(home)
    publish(local, *rows)
    publish(local, tickers=["NFLX"], sessions=[MONDAY, TUESDAY, WEDNESDAY])
    assert snapshots_and_commits(home) == before


def test_unchanged_sessions_keep_their_files(local: LocalWarehouse, home: Path) -> None:
    publish(local, bar("META", MONDAY), bar("META", TUESDAY))

    def files() -> dict[str, set[str]]:
        with open_catalog(home) as catalog:
            paths = [Path(task.file.file_path) for task in catalog.load_table(PRODUCTION_NAME).scan().plan_files()]
        return {folder: {path.name for path in paths if path.parent.name == folder} for folder in {p.parent.name for p in paths}}

    before = files()
    publish(local, bar("META", MONDAY), *closes("10.80"))
    after = files()
    assert after["date=2025-10-13"] == before["date=2025-10-13"]
    assert after["date=2025-10-14"].isdisjoint(before["date=2025-10-14"])


def test_a_reader_sees_the_old_rows_or_the_new_ones(local: LocalWarehouse, home: Path) -> None:
    keys = [(day, ticker) for day in (MONDAY, TUESDAY) for ticker in "ABC"]
    versions = [[bar(ticker, day, close=Decimal(close)) for day, ticker in keys] for close in ("10.6", "10.7")]
    publish(local, *versions[0])
    done = threading.Event()

    def write() -> None:
        try:
            for version in [1, 0] * 5:
                publish(local, *versions[version])
        finally:
            done.set()

    seen = []
    with ThreadPoolExecutor(1) as pool, closing(LocalWarehouse(home, "maang", 100)) as reader:
        writing = pool.submit(write)
        while not done.is_set():
            seen.append(without_stamp(content(reader)))
        writing.result()
    assert seen
    assert all(rows in versions for rows in seen)


# readers from outside


def test_pyiceberg_alone_reads_today_and_by_snapshot_yesterday(local: LocalWarehouse, home: Path) -> None:
    publish(local, *closes("10.70"), bar("AAPL", TUESDAY))
    first = content(local)
    publish(local, *closes("10.80"), bar("NFLX", WEDNESDAY))
    assert rows_on_disk(home, PRODUCTION_NAME) == content(local)
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        oldest, _ = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
        rows = table.scan(snapshot_id=oldest.snapshot_id).to_arrow().sort_by("ticker").to_pylist()
    assert rows == first


def test_duckdb_reads_it_over_arrow(local: LocalWarehouse, home: Path) -> None:
    publish(local, *closes("10.70"), bar("AAPL", TUESDAY))
    with open_catalog(home) as catalog, duckdb.connect() as connection:
        connection.register("bars", catalog.load_table(PRODUCTION_NAME).scan(f"date = '{TUESDAY}'").to_arrow())
        assert connection.sql("SELECT sum(close), typeof(any_value(close)) FROM bars").fetchall() == [
            (Decimal("21.45"), "DECIMAL(10,2)")
        ]


ISSUED = {
    PRODUCTION: "ticker string, date date, open decimal(10, 2), high decimal(10, 2), low decimal(10, 2), close decimal(10, 2), "
    "volume long, vwap decimal(10, 2), transactions int, insertion_timestamp timestamptz",
    CUMULATIVE: "ticker string, date date, last_7_days_open list<decimal(10, 2)>, last_7_days_high list<decimal(10, 2)>, "
    "last_7_days_low list<decimal(10, 2)>, last_7_days_close list<decimal(10, 2)>, last_7_days_volume list<long>, "
    "avg_7_day_volume decimal(15, 2), volatility_7_day decimal(10, 4), updated_at timestamptz",
    STAGING: "session date, ticker string, date date, open decimal(38, 2), high decimal(38, 2), low decimal(38, 2), "
    "close decimal(38, 2), volume decimal(38, 0), vwap decimal(38, 2), transactions decimal(38, 0)",
}


@pytest.mark.parametrize("table", [pytest.param(table, id=table.name) for table in ISSUED])
def test_the_iceberg_schema_is_the_documented_one(local: LocalWarehouse, home: Path, table: Table) -> None:
    local.create(table)
    with open_catalog(home) as catalog:
        found = catalog.load_table(("maang", table.name))
    fields = found.schema().fields
    assert ", ".join(f"{field.name} {field.field_type}" for field in fields) == ISSUED[table]
    assert [field.name for field in fields if field.required] == ([] if table is STAGING else ["ticker", "date"])
    assert [field.doc for field in fields] == [column.comment for column in table.columns]
    assert all(field.doc for field in fields)
    spec = [(found.schema().find_column_name(field.source_id), str(field.transform), field.name) for field in found.spec().fields]
    assert spec == ([] if table is STAGING else [("date", "identity", "date")])


# history


def past(home: Path) -> list[list[Decimal]]:
    """META's closes in each snapshot of production, oldest first."""
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        ordered = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)
        return [table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()["close"].to_pylist() for snapshot in ordered]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_snapshots_are_kept_and_the_older_ones_expire(home: Path, keep: int) -> None:
    with closing(LocalWarehouse(home, "maang", keep_snapshots=keep)) as warehouse:
        warehouse.create(PRODUCTION)
        long_ago = datetime.now(UTC)
        for number, row in enumerate(closes("10.1", "10.2", "10.3", "10.4", "10.5"), 1):
            publish(warehouse, row)
            assert len(past(home)) == min(number, keep)
        assert past(home) == [[Decimal(f"10.{n}0")] for n in range(6 - keep, 6)]
        with pytest.raises(SettingsError):
            content(warehouse, as_of=long_ago)


def test_the_setting_says_how_many_snapshots_are_kept(maang: Maang, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "2")
    for day in ("2025-10-13", "2025-10-14", "2025-10-15"):
        assert maang("run-day", "--date", day, "--source", "sample").code == 0
    with open_catalog(home) as catalog:
        for table in (PRODUCTION, CUMULATIVE):
            assert len(catalog.load_table(("maang_sample", table.name)).snapshots()) == 2


def test_a_tagged_snapshot_does_not_expire(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", keep_snapshots=2)) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *closes("10.1"))
        with open_catalog(home) as catalog:
            table = catalog.load_table(PRODUCTION_NAME)
            table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "audited").commit()
        for row in closes("10.2", "10.3", "10.4", "10.5"):
            publish(warehouse, row)
    with open_catalog(home) as catalog:
        table = catalog.load_table(PRODUCTION_NAME)
        tagged = table.snapshot_by_name("audited")
        assert tagged is not None
        assert table.scan(snapshot_id=tagged.snapshot_id).to_arrow()["close"].to_pylist() == [Decimal("10.10")]
    assert past(home) == [[Decimal("10.10")], [Decimal("10.40")], [Decimal("10.50")]]


# writers from outside


Meddle = Callable[[IcebergTable], object]
Key = tuple[date, str]


class Overtaken(LocalWarehouse):
    """Between reading and committing, somebody else commits to production, as often as `meddles` says."""

    meddles: Iterator[Meddle] = iter(())

    def _run_on(self, text: str, tables: dict[str, pa.Table]) -> pa.Table:
        merged = super()._run_on(text, tables)
        if meddle := next(self.meddles, None):
            with open_catalog(self._store.root.parent) as catalog:
                meddle(catalog.load_table(PRODUCTION_NAME))
        return merged


@pytest.fixture
def overtaken(home: Path) -> Iterator[Overtaken]:
    """A warehouse with META and OTHER on Monday and Tuesday in production."""
    with closing(Overtaken(home, "maang", keep_snapshots=100)) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *(bar(ticker, day) for day in (MONDAY, TUESDAY) for ticker in ("META", "OTHER")))
        yield warehouse


SOMEBODYS = datetime(2020, 1, 1, tzinfo=UTC)


def foreign(*rows: Row, stamp: datetime = SOMEBODYS) -> pa.Table:
    """Production's rows, as somebody else would write them."""
    fields = schema_to_pyarrow(iceberg_schema(PRODUCTION.columns), include_field_ids=False)
    narrowed = staged(rows).select(PRODUCTION.values).cast(pa.schema([fields.field(name) for name in PRODUCTION.values]))
    return narrowed.append_column(fields.field("insertion_timestamp"), [[stamp] * len(rows)])


META_ON_TUESDAY = f"ticker == 'META' and date == '{TUESDAY}'"
USUAL = {(MONDAY, "META"), (MONDAY, "OTHER"), (TUESDAY, "META"), (TUESDAY, "OTHER")}


@pytest.mark.parametrize(
    ("meddle", "more", "fewer"),
    [
        pytest.param(lambda table: table.append(foreign(bar("NEW", TUESDAY))), {(TUESDAY, "NEW")}, (), id="append"),
        pytest.param(lambda table: table.append(foreign(bar("NEW", MONDAY))), {(MONDAY, "NEW")}, (), id="append-elsewhere"),
        pytest.param(lambda table: table.delete(f"date == '{TUESDAY}'"), (), {(TUESDAY, "OTHER")}, id="delete"),
        pytest.param(
            lambda table: table.delete(f"date == '{MONDAY}'"), (), {(MONDAY, "META"), (MONDAY, "OTHER")}, id="delete-elsewhere"
        ),
        pytest.param(lambda table: table.delete(META_ON_TUESDAY), (), (), id="delete-the-row-itself"),
        pytest.param(lambda table: table.overwrite(foreign(*closes("99")), META_ON_TUESDAY), (), (), id="update-the-row-itself"),
    ],
)
def test_a_commit_from_outside_is_never_lost(
    overtaken: Overtaken, home: Path, meddle: Meddle, more: Collection[Key], fewer: Collection[Key]
) -> None:
    overtaken.meddles = iter([meddle])
    assert publish(overtaken, *closes("10.80")).changed
    assert next(overtaken.meddles, None) is None
    rows = rows_on_disk(home, PRODUCTION_NAME)
    found = {(row["date"], row["ticker"]): row["close"] for row in rows}
    assert len(found) == len(rows)
    assert found.keys() == USUAL.union(more).difference(fewer)
    assert found[TUESDAY, "META"] == Decimal("10.80")
    assert unreachable(home) == []


def test_a_session_that_somebody_else_begins_meanwhile_has_each_row_once(overtaken: Overtaken, home: Path) -> None:
    theirs = foreign(bar("META", WEDNESDAY, close=Decimal(99)), bar("NEW", WEDNESDAY))
    overtaken.meddles = iter([lambda table: table.append(theirs)])
    done = publish(overtaken, bar("META", WEDNESDAY))
    assert (done.inserted, done.updated) == (0, 1)
    wednesday = [row for row in rows_on_disk(home, PRODUCTION_NAME) if row["date"] == WEDNESDAY]
    assert without_stamp(wednesday) == [bar("META", WEDNESDAY), bar("NEW", WEDNESDAY)]


def test_a_row_that_somebody_else_made_the_same_meanwhile_is_unchanged(overtaken: Overtaken, home: Path) -> None:
    overtaken.meddles = iter([lambda table: table.overwrite(foreign(*closes("10.80")), META_ON_TUESDAY)])
    done = publish(overtaken, *closes("10.80"))
    assert (done.updated, done.unchanged) == (0, 1)
    (row,) = (row for row in rows_on_disk(home, PRODUCTION_NAME) if (row["date"], row["ticker"]) == (TUESDAY, "META"))
    assert row["insertion_timestamp"] == SOMEBODYS


def test_overtaken_every_time_is_a_lost_commit_and_publishes_nothing(overtaken: Overtaken, home: Path) -> None:
    before = content(overtaken)
    names = (f"NEW{n:02}" for n in itertools.count())
    overtaken.meddles = iter(lambda: lambda table: table.append(foreign(bar(next(names), TUESDAY))), None)
    with pytest.raises(CommitLost) as caught:
        publish(overtaken, *closes("10.80"))
    assert caught.value.exit_code == ExitCode.MAY_HEAL
    assert "run the same command again" in caught.value.hint
    after = content(overtaken)
    assert [row for row in after if not str(row["ticker"]).startswith("NEW")] == before
    assert len(after) == len(before) + ATTEMPTS
    assert unreachable(home) == []


@pytest.mark.parametrize(
    "copies", [closes("10.75"), closes("99"), closes("99", "10.75", "10.75")], ids=["same", "other", "several"]
)
@pytest.mark.parametrize("stamp", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)], ids=["older", "newer"])
def test_further_copies_of_a_row_are_removed(local: LocalWarehouse, home: Path, copies: list[Row], stamp: datetime) -> None:
    rows = [bar("META", TUESDAY), bar("OTHER", TUESDAY)]
    publish(local, *rows)
    with open_catalog(home) as catalog:
        catalog.load_table(PRODUCTION_NAME).append(foreign(*copies, stamp=stamp))
    assert len(content(local)) == 2 + len(copies)
    assert publish(local, rows[0]).deleted == len(copies)
    assert without_stamp(content(local)) == rows


@pytest.mark.parametrize("name", ["note", "a b", 'we"ird', "select", "n", "o", "copy", "outcome", "Ticker", "ünïcode"])
def test_an_extra_column_may_have_any_name(home: Path, name: str) -> None:
    wide = replace(PRODUCTION, columns=(*PRODUCTION.columns, Column(name, "STRING", "A user's own")))
    with closing(LocalWarehouse(home, "maang", 100)) as warehouse:
        warehouse.create(wide)
        rows = foreign(bar("KEPT", TUESDAY), bar("META", TUESDAY), bar("OTHER", TUESDAY))
        with open_catalog(home) as catalog:
            catalog.load_table(PRODUCTION_NAME).append(rows.append_column(name, [["one", "two", "three"]]))
        publish(warehouse, bar("KEPT", TUESDAY), bar("NEW", TUESDAY), *closes("10.80"))
    found = {row["ticker"]: row[name] for row in rows_on_disk(home, PRODUCTION_NAME)}
    assert found == {"KEPT": "one", "META": "two", "OTHER": "three", "NEW": None}


def test_a_table_partitioned_otherwise_is_a_mismatch(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", 100)) as warehouse:
        warehouse.create(replace(PRODUCTION, stamp=None))
        with pytest.raises(TableMismatch, match="date expected"):
            warehouse.create(PRODUCTION)


# what is read


def spoil(home: Path, keep: Sequence[date]) -> int:
    """Make every data file of production useless but for those of `keep`; says how many."""
    kept = {f"date={day}" for day in keep}
    data = home / "warehouse/maang/daily_stock_prices/data"
    files = [path for path in data.rglob("*.parquet") if path.parent.name not in kept]
    for path in files:
        path.write_bytes(b"PAR1 spoiled PAR1")
    return len(files)


def test_only_the_partitions_needed_are_read(local: LocalWarehouse, home: Path) -> None:
    days = sessions.between(date(2025, 9, 2), date(2025, 10, 31))
    publish(local, *(bar("META", day) for day in days))
    local.create(CUMULATIVE)
    session = date(2025, 10, 1)
    needed = sessions.between(sessions.window(session)[0], sessions.touched(session)[-1])
    assert spoil(home, needed) == len(days) - 13

    assert pipeline.cumulate(local, pipeline.Request(("META",), (session,))).replaced.inserted == 7
    assert publish(local, bar("META", session, close=Decimal("10.80"))).updated == 1
    assert publish(local, bar("META", date(2025, 11, 3))).inserted == 1
    one_day = Query("SELECT close FROM {it}", {"it": Read(PRODUCTION, (session, session))})
    assert local.query(one_day)["close"].to_pylist() == [Decimal("10.80")]
    with pytest.raises(MaangError):
        content(local)


# where the home is


@pytest.mark.parametrize(
    "name",
    ["with spaces", "ünïcödé 日", "a%20b%", "a+b&c;d", 'it\'s "quoted"', "{schema}[0]*", "file:x", "a\\b"],
)
def test_any_folder_can_be_the_home(maang: Maang, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "homes" / name
    assert maang(*RUN_DAY, "--home", str(folder)).code == 0
    again = maang(*RUN_DAY, "--home", str(folder))
    assert (again.code, again.err) == (0, "")
    assert [path.name for path in (tmp_path / "homes").iterdir()] == [name]
    assert len(list((folder / "warehouse/maang_sample").rglob("*.parquet"))) == 2


@pytest.mark.parametrize("name", ["a#b", "a?b=c"])
def test_a_home_that_iceberg_can_not_name_is_refused(maang: Maang, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "homes" / name
    must_fail(maang(*RUN_DAY, "--home", str(folder)), ExitCode.UNUSABLE, str(folder), "MAANG_HOME")
    assert not folder.exists()


# failures


def must_fail(outcome: Outcome, code: int, *said: str) -> None:
    """One line that says what and where, one that says what to type next, and the code."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    error, hint = outcome.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    for text in said:
        assert text in outcome.err


def be_in_the_way(path: Path, *, folder: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
    else:
        path.write_text("in the way")


@pytest.mark.parametrize(
    ("where", "folder"),
    [
        ("", False),
        ("warehouse", False),
        ("warehouse/maang_sample", False),
        ("warehouse/maang_sample/daily_stock_prices", False),
        ("warehouse/catalog.db", True),
        ("warehouse/writer.lock", True),
        ("warehouse/write.json", True),
    ],
)
def test_something_in_the_way_is_unusable(maang: Maang, home: Path, where: str, *, folder: bool) -> None:
    be_in_the_way(home / where, folder=folder)
    must_fail(maang(*RUN_DAY), ExitCode.UNUSABLE, "MAANG_HOME", str(home))


@pytest.mark.parametrize("left", [None, b""], ids=["missing", "empty"])
def test_tables_without_their_catalog_are_not_begun_anew(maang: Maang, home: Path, left: bytes | None) -> None:
    assert maang(*RUN_DAY).code == 0
    catalog = home / "warehouse/catalog.db"
    whole = catalog.read_bytes()
    catalog.unlink()
    if left is not None:
        catalog.write_bytes(left)
    must_fail(maang(*RUN_DAY), ExitCode.UNUSABLE, str(catalog), "MAANG_HOME")
    catalog.write_bytes(whole)
    again = maang(*RUN_DAY)
    assert again.code == 0
    assert unreachable(home) == []


def test_a_value_that_may_be_missing_must_not_be_required(home: Path) -> None:
    strict = tuple(replace(column, required=True) if column.name == "vwap" else column for column in PRODUCTION.columns)
    with closing(LocalWarehouse(home, "maang", 100)) as warehouse:
        warehouse.create(replace(PRODUCTION, columns=strict))
        with pytest.raises(TableMismatch, match="vwap is required"):
            warehouse.create(PRODUCTION)


def test_a_table_that_somebody_else_creates_first_is_taken_as_it_is(home: Path) -> None:
    class Slow(LocalWarehouse):
        """Somebody else creates the table when this one has seen that there is none."""

        def create(self, table: Table) -> bool:
            begin = self._store.creation

            def late(table: Table) -> Transaction:
                transaction = begin(table)
                begin(table).commit_transaction()
                return transaction

            self._store.creation = late  # type: ignore[method-assign]
            return super().create(table)

    with closing(Slow(home, "maang", 100)) as warehouse:
        assert warehouse.create(PRODUCTION) is False
    assert unreachable(home) == []


def test_a_home_below_a_file_is_unusable(maang: Maang, home: Path) -> None:
    be_in_the_way(home, folder=False)
    must_fail(maang(*RUN_DAY, "--home", str(home / "deeper")), ExitCode.UNUSABLE, "MAANG_HOME")


@pytest.fixture(scope="module")
def sample_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a day of made-up bars; whoever damages it, mends it."""
    home = tmp_path_factory.mktemp("sample")
    with closing(LocalWarehouse(home, "maang_sample", 100)) as warehouse:
        pipeline.run_day(SampleSource(), warehouse, pipeline.Request(FIVE, (TUESDAY,)), lambda _: nullcontext(lambda _: None))
    return home


@contextmanager
def damaged(path: Path, content: Callable[[bytes], bytes] | None) -> Iterator[None]:
    """For a while the file has another content, or is gone."""
    whole = path.read_bytes()
    path.unlink()
    if content:
        path.write_bytes(content(whole))
    try:
        yield
    finally:
        path.write_bytes(whole)


FILES = {
    "catalog": "catalog.db",
    "metadata": "00001-*.metadata.json",
    "list": "snap-*.avro",
    "manifest": "*-m0.avro",
    "data": "*.parquet",
}
DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "half": lambda whole: whole[: len(whole) // 2],
    "overwritten": lambda whole: whole[:20].ljust(len(whole), b"\xff"),
    "other": lambda _: b"{}",
    "empty": lambda _: b"",
    "missing": None,
}
# A catalog that is missing or empty is no damaged one, it is a new one.
DAMAGED = [(file, damage) for file in FILES for damage in DAMAGES if file != "catalog" or damage not in ("missing", "empty")]


@pytest.mark.parametrize(
    ("command", "file", "damage"), [("show", *case) for case in DAMAGED] + [("run-day", file, "half") for file in FILES]
)
def test_damage_is_told_in_one_line(maang: Maang, sample_home: Path, command: str, file: str, damage: str) -> None:
    folder = sample_home / "warehouse" if file == "catalog" else sample_home / "warehouse/maang_sample/daily_stock_prices"
    (path,) = folder.rglob(FILES[file])
    with damaged(path, DAMAGES[damage]):
        outcome = maang(command, *RUN_DAY[1:], "--home", str(sample_home))
    must_fail(outcome, ExitCode.MAY_HEAL if damage == "missing" else ExitCode.UNUSABLE, str(sample_home))


def test_what_was_damaged_and_mended_works_again(maang: Maang, sample_home: Path) -> None:
    (path,) = (sample_home / "warehouse/maang_sample/daily_stock_prices").rglob("*.parquet")
    with damaged(path, DAMAGES["half"]):
        assert maang(*RUN_DAY, "--home", str(sample_home)).code != 0
    assert maang(*RUN_DAY, "--home", str(sample_home)).code == 0
    assert unreachable(sample_home) == []


@pytest.mark.parametrize("note", ["", "{", "null", "{}", '{"schema": "maang_sample"}'])
def test_a_garbled_note_of_a_killed_writer_does_not_stop_the_next_one(maang: Maang, sample_home: Path, note: str) -> None:
    (sample_home / "warehouse/write.json").write_text(note)
    assert maang(*RUN_DAY, "--home", str(sample_home)).code == 0
    assert unreachable(sample_home) == []


# the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs `mount`")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_home_that_cannot_be_written_is_unusable(maang: Maang, disk: Path) -> None:
    home = disk / "home"
    assert maang(*RUN_DAY, "--home", str(home)).code == 0
    rows = rows_on_disk(home, "maang_sample.daily_stock_prices")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    must_fail(maang(*RUN_DAY, "--home", str(home)), ExitCode.UNUSABLE, "MAANG_HOME", str(home))
    must_fail(maang(*RUN_DAY, "--home", str(disk / "another")), ExitCode.UNUSABLE, "MAANG_HOME", str(disk / "another"))
    assert rows_on_disk(home, "maang_sample.daily_stock_prices") == rows


def test_a_home_that_can_only_be_read_can_be_shown(maang: Maang, disk: Path) -> None:
    home = str(disk / "home")
    assert maang(*RUN_DAY, "--home", home).code == 0
    shown = maang("show", *RUN_DAY[1:], "--home", home)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert maang("show", *RUN_DAY[1:], "--home", home) == shown


def test_a_full_disk_changes_nothing_and_heals(maang: Maang, disk: Path) -> None:
    home, filler = disk / "home", disk / "filler"

    def run(day: date) -> Outcome:
        return maang("run-day", "--date", str(day), "--source", "sample", "--quiet", "--home", str(home))

    def rows() -> list[list[Row]]:
        return [rows_on_disk(home, f"maang_sample.{table.name}") for table in (PRODUCTION, CUMULATIVE)]

    # Backwards, so that the windows of seven sessions, a file each, are written together.
    *earlier, last = sessions.between(date(2025, 6, 2), date(2025, 9, 30))
    assert run(last).code == 0
    failed = 0
    # From no space at all to space enough, a few kilobytes more each time, so that another write fails.
    for day, free in zip(reversed(earlier), range(0, 10**6, 16384), strict=False):
        before = rows()
        space = os.statvfs(disk)
        filler.write_bytes(bytes(space.f_bavail * space.f_frsize - free))
        outcome = run(day)
        after = rows()
        filler.unlink()
        if outcome.code == 0:
            break
        failed += 1
        must_fail(outcome, ExitCode.MAY_HEAL, str(home), "run the same command again")
        assert free or after == before
        assert run(day).code == 0
        for table, was, at_last in zip((PRODUCTION, CUMULATIVE), zip(before, after, strict=True), rows(), strict=True):
            old, seen = was
            assert seen == old or without_stamp(seen, table.stamp) == without_stamp(at_last, table.stamp)
        assert unreachable(home) == []
        assert not (home / "warehouse/write.json").exists()
    assert failed > 3
    assert unreachable(home) == []


@contextmanager
def interrupted(at: int) -> Iterator[None]:
    """KeyboardInterrupt at the `at`-th call or return of the main thread, the only one that a signal interrupts."""
    events = itertools.count(1)

    def profile(*_: object) -> None:
        if next(events) == at:
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_a_signal_interrupts_no_verb_and_the_next_one_waits_for_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iceberg, "SQLITE_SECONDS", 0.1)
    rows = staged([bar("META", TUESDAY)])
    times = 0
    with closing(WAREHOUSES["local"](settings.load(home=str(home)))) as warehouse:
        for at in itertools.count(1):
            try:
                with interrupted(at):
                    warehouse.stage(STAGING, rows)
            except KeyboardInterrupt:  # not over yet: what was interrupted is still in the hands of the exception
                warehouse.drop(STAGING)
                assert warehouse.tables() == [], at
                times += 1
            else:
                break
    assert times > 10
    assert unreachable(home) == []


def test_arrays_are_stored_as_differences_and_nothing_else_is(home: Path, maang: Maang) -> None:
    assert maang(*RUN_DAY).code == 0
    (file,) = (home / "warehouse/maang_sample/daily_stock_prices_cumulative/data").rglob("*.parquet")
    group = pq.read_metadata(file).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    differences = {column.path_in_schema for column in columns if "DELTA_BINARY_PACKED" in column.encodings}
    assert differences == {f"{column.name}.list.element" for column in CUMULATIVE.columns if column.type.startswith("ARRAY")}
