"""Answers that outlive the run that asked for them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from maang_cli import sessions, settings
from maang_cli.errors import NotPublishedYet, SourceFailed
from maang_cli.sources import SOURCES, spool
from maang_cli.sources.answers import SCHEMA
from maang_cli.sources.base import Resume, Source
from maang_cli.sources.spool import Spool
from tests.polygon_server import Answer, PolygonServer, row
from tests.sources.test_calls import everything, found, kinds

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 31))
TICKERS = ("A", "B", "C", "D", "E", "F")
MISSING = dict.fromkeys(DAYS, frozenset(TICKERS))
FIRST, LAST = DAYS[0], DAYS[-1]
ALL = Resume(frozenset(TICKERS), FIRST, LAST)


def bars(ticker: str, *days: date, cents: int = 100) -> pa.Table:
    rows = [{"session": day, "date": day, "ticker": ticker, "volume": cents} for day in days]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Its folder is not there yet."""
    return tmp_path / "answers" / "maang"


def opened(
    path: Path, tickers: Collection[str] = TICKERS, first: date = FIRST, last: date = LAST, *, vendor: str = "here"
) -> Spool:
    return Spool(path, vendor, Resume(frozenset(tickers), first, last))


def keep(path: Path, *tickers: str, days: Sequence[date] = DAYS, cents: int = 100) -> None:
    """What a run that was killed had been told."""
    with opened(path, tickers) as one:
        for ticker in tickers:
            one.add(ticker, days[0], days[-1], bars(ticker, *days, cents=cents))


def spans(one: Spool) -> list[tuple[str, date, date]]:
    return [(answer.ticker, answer.first, answer.last) for answer in one.answers]


def held(one: Spool, *tickers: str) -> set[date]:
    return set(one.rows(dict.fromkeys(tickers, DAYS))["session"].to_pylist())


def volumes(rows: pa.Table) -> list[tuple[str, date, int]]:
    return sorted((line["ticker"], line["session"], int(line["volume"])) for line in rows.to_pylist())


def test_answers_are_there_again_and_gone_once_the_run_has_come_to_its_end(path: Path) -> None:
    with opened(path) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        one.add("B", FIRST, LAST, bars("B", *DAYS[:5]))
    with opened(path) as again:
        assert spans(again) == [("A", FIRST, LAST), ("B", FIRST, DAYS[4])]
        assert again.rows({"A": DAYS[:2], "B": DAYS[3:]}).to_pylist() == (
            bars("B", *DAYS[3:5]).to_pylist() + bars("A", *DAYS[:2]).to_pylist()
        )
        assert [held(again, *names) for names in ("AB", "B")] == [set(DAYS), set(DAYS[:5])]
        again.forget()
    assert not path.exists()
    with opened(path) as none:
        assert (none.answers, held(none, "A", "B")) == ([], set())


def test_what_an_answer_has_is_not_lacking_from_its_first_bar_to_its_last(path: Path) -> None:
    with opened(path) as one:
        one.add("A", DAYS[1], LAST, bars("A", *DAYS[3:20]))
        one.add("B", FIRST, LAST, bars("B"))
    both, b = frozenset("AB"), frozenset("B")
    lacking = opened(path).peek().lacking(dict.fromkeys(DAYS, both))
    assert lacking == dict.fromkeys(DAYS, both) | dict.fromkeys(DAYS[3:20], b)
    assert len({id(tickers) for tickers in lacking.values()}) == 2


def test_of_two_answers_the_later_counts(path: Path) -> None:
    with opened(path) as one:
        one.add("A", FIRST, DAYS[5], bars("A", *DAYS[:6], cents=1))
        one.add("A", DAYS[4], DAYS[8], bars("A", *DAYS[4:9], cents=2))
        assert volumes(one.rows({"A": DAYS[3:7]})) == [("A", DAYS[3], 1), *(("A", day, 2) for day in DAYS[4:7])]


def test_a_run_of_other_tickers_leaves_answers_alone(path: Path) -> None:
    keep(path, "A", "B", "C")
    with opened(path, "AC") as two:
        assert spans(two) == [("A", FIRST, LAST), ("C", FIRST, LAST)]
        two.forget()
    with opened(path) as three:
        assert spans(three) == [("B", FIRST, LAST)]
        three.add("A", FIRST, LAST, bars("A", *DAYS))
    with opened(path) as four:
        assert spans(four) == [("B", FIRST, LAST), ("A", FIRST, LAST)]
        four.forget()
    assert not path.exists()


def test_a_run_of_other_sessions_leaves_answers_alone(path: Path) -> None:
    keep(path, "A", "B")
    with opened(path, "A", DAYS[4], DAYS[5]) as two:
        two.forget()
    day = timedelta(days=1)
    rest = [("A", FIRST, DAYS[4] - day), ("A", DAYS[5] + day, LAST), ("B", FIRST, LAST)]
    with opened(path) as three:
        assert spans(three) == rest
        assert volumes(three.rows({"A": DAYS[3:7]})) == [("A", DAYS[3], 100), ("A", DAYS[6], 100)]
    with opened(path, "AB", DAYS[10], LAST + day) as four:
        four.forget()
    ends = DAYS[10] - day
    assert spans(opened(path).peek()) == [*rest[:1], ("A", DAYS[5] + day, ends), ("B", FIRST, ends)]
    with opened(path) as five:
        five.forget()
    assert not path.exists()


@pytest.mark.parametrize("lost", [1, 30, 500])
def test_half_an_answer_is_none_and_the_next_goes_in_its_place(path: Path, lost: int) -> None:
    keep(path, "A", "B")
    os.truncate(path, path.stat().st_size - lost)
    with opened(path) as two:
        assert spans(two) == [("A", FIRST, LAST)]
        two.add("C", FIRST, LAST, bars("C", *DAYS))
    with opened(path) as three:
        assert spans(three) == [("A", FIRST, LAST), ("C", FIRST, LAST)]
        assert three.rows({"C": DAYS}).to_pylist() == bars("C", *DAYS).to_pylist()


@pytest.mark.parametrize(
    "spoil",
    [lambda body: b"garbage", lambda body: bytes(len(body)), lambda body: body[:200] + b"?" + body[201:], lambda body: body * 0],
    ids=["garbage", "zeros", "a byte", "nothing"],
)
def test_what_is_no_answer_is_not_taken_for_one(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    keep(path, "A")
    path.write_bytes(spoil(path.read_bytes()))
    assert opened(path).peek().answers == []
    keep(path, "B")
    assert spans(opened(path).peek()) == [("B", FIRST, LAST)]


@pytest.mark.parametrize(
    "rows",
    [bars("A", *DAYS).drop_columns(["vwap"]), bars("A", *DAYS).replace_schema_metadata({"maang": "{}"})],
    ids=["other columns", "other words"],
)
def test_answers_of_another_version_are_passed_over(path: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as one:
        if rows.schema.metadata:
            monkeypatch.setattr(spool, "json", SimpleNamespace(dumps=lambda about: "{}"))
        one.add("A", FIRST, LAST, rows)
        monkeypatch.undo()
        one.add("B", FIRST, LAST, bars("B", *DAYS))
    with opened(path) as two:
        assert spans(two) == [("B", FIRST, LAST)]


def at(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr(spool, "datetime", Then)


def test_answers_are_good_for_a_week(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came = datetime(2025, 11, 10, 12, tzinfo=UTC)
    at(monkeypatch, came)
    keep(path, "A")
    at(monkeypatch, came + timedelta(days=6, hours=23))
    assert spans(opened(path).peek()) == [("A", FIRST, LAST)]
    at(monkeypatch, came + timedelta(days=7, hours=1))
    assert opened(path).peek().answers == []


def test_a_bar_that_may_not_be_the_last_word_is_asked_for_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, datetime(2025, 10, 31, 20, 10, tzinfo=UTC))  # ten minutes after the bell in New York
    keep(path, "A")
    assert spans(opened(path).peek()) == [("A", FIRST, DAYS[-2])]


def test_answers_of_another_vendor_are_left_to_it(path: Path) -> None:
    keep(path, "A")
    with opened(path, vendor="there") as other:
        assert other.answers == []
        other.add("A", FIRST, LAST, bars("A", *DAYS, cents=7))
        assert volumes(other.rows({"A": DAYS[:1]})) == [("A", FIRST, 7)]
        other.forget()
    assert spans(opened(path).peek()) == [("A", FIRST, LAST)]


AT_ONCE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tests.sources.test_spool import DAYS, FIRST, LAST, bars, opened

path = Path(sys.argv[1])
print(opened(path).peek().answers)
with opened(path) as one:
    before = one.answers[:]
    one.add("A", FIRST, LAST, bars("A", *DAYS, cents=5))
    print(before, one.rows({"A": DAYS}).num_rows)
    one.forget()
"""


def test_of_two_runs_at_once_the_second_keeps_nothing_and_disturbs_nothing(path: Path) -> None:
    with opened(path) as one, Spool(path, "here") as third:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        argv = [sys.executable, "-c", AT_ONCE, str(path)]
        other = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert (other.returncode, other.stdout) == (0, f"[]\n[] {len(DAYS)}\n"), other.stderr
        third.add("A", FIRST, LAST, bars("A", *DAYS[:1]))
        third.forget()
        assert one.rows({"A": DAYS}).num_rows == len(DAYS)
    assert spans(opened(path).peek()) == [("A", FIRST, LAST)]
    assert {file.name for file in path.parent.iterdir()} == {"maang", "maang.lock"}


def test_what_another_run_left_meanwhile_is_seen(path: Path) -> None:
    with opened(path, "A") as late:
        keep(path, "B", "C")
        os.truncate(path, path.stat().st_size - 1)
        late.add("A", FIRST, LAST, bars("A", *DAYS))
        late.forget()
    assert spans(opened(path).peek()) == [("B", FIRST, LAST)]


@pytest.mark.parametrize("what", ["the folder is a file", "the file is a folder"])
def test_where_nothing_can_be_kept_the_run_goes_on(path: Path, what: str) -> None:
    if what == "the folder is a file":
        path.parent.write_text("")
    else:
        path.mkdir(parents=True)
    assert opened(path).peek().answers == []
    with opened(path) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        assert one.rows({"A": DAYS}).num_rows == len(DAYS)
        one.forget()


def test_of_a_container_the_folder_may_be_all_that_can_be_written_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path / "nowhere"))
    with Spool(path, "here") as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        assert one.rows({"A": DAYS}).num_rows == len(DAYS)
        assert list(path.parent.iterdir()) == []
    path.parent.rmdir()
    with Spool(path, "here") as two, pytest.raises(SourceFailed, match="put aside in a temporary file"):
        two.add("A", FIRST, LAST, bars("A", *DAYS))


FULL = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from maang_cli.errors import SourceFailed
from tests.sources.test_spool import DAYS, FIRST, LAST, bars, opened

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    with opened(Path(sys.argv[1])) as one:
        for ticker in "ABCDEF":
            one.add(ticker, FIRST, LAST, bars(ticker, *DAYS))
except SourceFailed as exc:
    print(len(one.answers), exc.message, exc.hint, sep="|")
"""


def test_where_the_disk_takes_no_more_it_is_4_and_what_was_told_before_is_there(path: Path) -> None:
    """A file may not grow beyond a limit: a disk that is full for one file only, without the right to mount one."""
    keep(path, "A")
    limit = path.stat().st_size * 5 // 2
    path.unlink()
    argv = [sys.executable, "-c", FULL, str(path), str(limit)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    told, message, hint = ended.stdout.strip().split("|")
    assert (ended.returncode, told, ended.stderr) == (0, "2", "")
    assert message == f"answers can't be put aside in {path.parent}: File too large"
    assert hint == "free some space, then run the same command again"
    assert spans(opened(path).peek()) == [("A", FIRST, LAST), ("B", FIRST, LAST)]


@pytest.fixture
def source(polygon: PolygonServer) -> Iterator[Source]:
    polygon.days = {day: [row(name, day) for name in TICKERS] for day in DAYS}
    with closing(SOURCES["polygon"](settings.load())) as one:
        yield one


def stopped_at(source: Source, polygon: PolygonServer, ticker: str, *, resume: Resume | None = ALL) -> list[str]:
    """What was asked until this ticker's range got no answer."""
    polygon.always = lambda path: Answer(body=b"{}") if f"/{ticker}/range" in path else None
    with pytest.raises(SourceFailed):
        list(source.fetch(MISSING, [DAYS[:9], DAYS[9:]], resume=resume))
    polygon.always = lambda path: None
    asked = kinds(polygon)
    polygon.requests.clear()
    return asked


def test_what_was_told_is_not_asked_again(source: Source, polygon: PolygonServer) -> None:
    assert set(stopped_at(source, polygon, "D")) >= {"A", "B", "C", "D"}
    plan = source.plan(MISSING, resume=ALL)
    assert (list(plan.ranges), plan.in_hand, plan.number) == (["D", "E", "F"], 3, 3)
    batches = list(source.fetch(MISSING, [DAYS[:9], DAYS[9:]], resume=ALL))
    assert kinds(polygon) == ["D", "E", "F"]
    assert [found(batch) for batch in batches] == [everything(*days, tickers=TICKERS) for days in (DAYS[:9], DAYS[9:])]
    assert source.plan(MISSING, resume=ALL).number == len(TICKERS)


def test_without_leave_what_was_told_is_asked_again(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F")
    assert (source.plan(MISSING).number, source.plan(MISSING).in_hand) == (6, 0)
    assert source.bars(TICKERS, DAYS).num_rows == len(DAYS) * len(TICKERS)
    assert kinds(polygon) == list(TICKERS)


def test_a_run_that_may_not_resume_keeps_nothing(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F", resume=None)
    assert source.plan(MISSING, resume=ALL).in_hand == 0


def test_a_session_that_was_not_there_is_asked_for_once_it_is(source: Source, polygon: PolygonServer) -> None:
    newest = polygon.days.pop(LAST)
    stopped_at(source, polygon, "F")
    polygon.days[LAST] = newest
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert kinds(polygon) == [str(LAST), "F"]
    assert (found(batch), batch.failed) == (everything(*DAYS, tickers=TICKERS), {})


def test_what_is_not_there_yet_is_told_of_answers_in_hand_too(source: Source, polygon: PolygonServer) -> None:
    del polygon.days[LAST]
    stopped_at(source, polygon, "F")
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert {day: type(error) for day, error in batch.failed.items()} == {LAST: NotPublishedYet}
    assert found(batch) == everything(*DAYS[:-1], tickers=TICKERS)


def test_the_plans_history_is_told_of_answers_in_hand_too(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[7]
    stopped_at(source, polygon, "F")
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert list(batch.failed) == list(DAYS[:7])
    assert found(batch) == everything(*DAYS[7:], tickers=TICKERS)


def test_another_range_and_other_tickers_take_what_they_can(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F")
    wider = sessions.between(date(2025, 9, 29), LAST)
    for day in wider[:2]:
        polygon.days[day] = [row(name, day) for name in (*TICKERS, "G")]
    (batch,) = source.fetch(
        {day: frozenset("CDEFG") for day in wider}, [wider], resume=Resume(frozenset("CDEFG"), wider[0], LAST)
    )
    assert kinds(polygon) == [*map(str, wider[:2]), "F", "G"]
    assert found(batch) == everything(*wider[:2], tickers=tuple("CDEFG")) + everything(*DAYS, tickers=tuple("CDEF"))


def test_the_plans_history_that_has_moved_on_is_told(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[3]
    stopped_at(source, polygon, "D")
    polygon.history = DAYS[5]
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert list(batch.failed) == list(DAYS[:5])
    assert found(batch) == everything(*DAYS[5:], tickers=TICKERS)


def test_what_is_in_hand_is_of_use_though_the_plans_history_has_moved_on(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F")
    polygon.history = DAYS[5]
    missing = {day: frozenset("ABCDE" if number < 9 else TICKERS) for number, day in enumerate(DAYS)}
    (batch,) = source.fetch(missing, [DAYS], resume=ALL)
    assert (found(batch), batch.failed) == (sorted((day, name) for day in DAYS for name in missing[day]), {})


def test_a_tickers_earlier_answer_and_a_new_one_are_put_together(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F")
    polygon.history = DAYS[5]
    later = sessions.between(date(2025, 11, 3), date(2025, 11, 14))
    polygon.days |= {day: [row(name, day) for name in TICKERS] for day in later}
    missing = dict.fromkeys((*DAYS, *later), frozenset("ABCDE"))
    (batch,) = source.fetch(missing, [tuple(missing)], resume=Resume(frozenset("ABCDE"), FIRST, later[-1]))
    assert kinds(polygon) == list("ABCDE")
    assert (found(batch), batch.failed) == (everything(*missing, tickers=tuple("ABCDE")), {})


def test_sessions_that_a_better_plan_serves_are_asked_for(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[3]
    stopped_at(source, polygon, "F")
    polygon.history = None
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert (found(batch), batch.failed) == (everything(*DAYS, tickers=TICKERS), {})
    assert kinds(polygon) == [*map(str, DAYS[:3]), "F"]


def test_answers_of_different_histories_are_told_apart(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[2]
    stopped_at(source, polygon, "D")
    polygon.history = DAYS[5]
    answers = source.fetch(MISSING, [DAYS[:9], DAYS[9:]], resume=ALL)
    assert list(next(answers).failed) == list(DAYS[:5])
    answers.close()
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert list(batch.failed) == list(DAYS[:5])
    assert found(batch) == everything(*DAYS[5:], tickers=TICKERS)


def test_a_file_that_cannot_be_put_in_order_is_not_taken_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(path, "A", "B")
    told = opened(path).peek().answers
    assert len(told) == 2

    def fail(file: object) -> int:
        one.answers = told
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    one = opened(path)
    monkeypatch.setattr(one, "_take_up", fail)
    with one:
        assert (one.answers, held(one, "A", "B")) == ([], set())


def test_only_what_is_missing_counts_as_in_hand(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F")
    assert source.plan(MISSING, resume=ALL).in_hand == 5
    assert source.plan(dict.fromkeys(DAYS, frozenset("EF")), resume=ALL).in_hand == 1
    assert source.plan({date(2025, 11, 3): frozenset(TICKERS)}, resume=ALL).in_hand == 0
    assert source.plan({}, resume=ALL).in_hand == 0
