"""Answers that outlive the run that asked for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from maang_cli import sessions, settings
from maang_cli.errors import NotPublishedYet, SourceFailed
from maang_cli.sources import SOURCES, spool
from maang_cli.sources.answers import SCHEMA
from maang_cli.sources.base import Source
from maang_cli.sources.spool import Spool
from tests.polygon_server import Answer, PolygonServer, row
from tests.sources.test_calls import everything, found, kinds

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 31))
TICKERS = ("A", "B", "C", "D", "E", "F")
MISSING = dict.fromkeys(DAYS, frozenset(TICKERS))
FIRST, LAST = DAYS[0], DAYS[-1]


def bars(ticker: str, *days: date, cents: int = 100) -> pa.Table:
    rows = [{"session": day, "date": day, "ticker": ticker, "volume": cents} for day in days]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """It is not there yet."""
    return tmp_path / "kept"


def opened(folder: Path, vendor: str = "here", resume: Collection[str] = TICKERS) -> Spool:
    return Spool(folder, vendor, resume)


def spans(one: Spool) -> list[tuple[str, date, date]]:
    return [(answer.ticker, answer.first, answer.last) for answer in one.answers]


def listed(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "answers.lock"}


def volumes(rows: pa.Table) -> list[tuple[str, date, int]]:
    return sorted((line["ticker"], line["session"], int(line["volume"])) for line in rows.to_pylist())


def test_answers_are_there_again_and_gone_once_all_is_published(folder: Path) -> None:
    with opened(folder) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        one.add("B", FIRST, LAST, bars("B", *DAYS[:5]))
    with opened(folder) as again:
        assert spans(again) == [("A", FIRST, LAST), ("B", FIRST, DAYS[4])]
        assert again.rows({"A": DAYS[:2], "B": DAYS[3:]}).to_pylist() == (
            bars("B", *DAYS[3:5]).to_pylist() + bars("A", *DAYS[:2]).to_pylist()
        )
        assert again.sessions() == set(DAYS)
        again.forget()
    assert listed(folder) == set()
    with opened(folder) as none:
        assert (none.answers, none.sessions(), none.rows({"A": DAYS}).num_rows) == ([], set(), 0)


def test_what_an_answer_has_is_not_lacking_up_to_its_last_bar(folder: Path) -> None:
    with opened(folder) as one:
        one.add("A", DAYS[1], LAST, bars("A", *DAYS[3:20]))
        one.add("B", FIRST, LAST, bars("B"))
    lacking = opened(folder).peek().lacking(dict.fromkeys(DAYS, frozenset("AB")))
    assert [day for day, tickers in lacking.items() if tickers == frozenset("B")] == list(DAYS[1:20])
    assert {lacking[FIRST], *(lacking[day] for day in DAYS[20:])} == {frozenset("AB")}


def test_of_two_answers_the_later_counts(folder: Path) -> None:
    with opened(folder) as one:
        one.add("A", FIRST, DAYS[5], bars("A", *DAYS[:6], cents=1))
        one.add("A", DAYS[4], DAYS[8], bars("A", *DAYS[4:9], cents=2))
        assert volumes(one.rows({"A": DAYS[3:7]})) == [("A", DAYS[3], 1), *(("A", day, 2) for day in DAYS[4:7])]


def test_what_a_run_has_used_is_gone_and_the_rest_stays(folder: Path) -> None:
    with opened(folder) as one:
        for ticker in "ABC":
            one.add(ticker, FIRST, LAST, bars(ticker, *DAYS))
    with opened(folder, resume="AC") as two:
        assert spans(two) == [("A", FIRST, LAST), ("C", FIRST, LAST)]
        two.forget()
    with opened(folder) as three:
        assert spans(three) == [("B", FIRST, LAST)]
        three.add("A", FIRST, LAST, bars("A", *DAYS))
    with opened(folder) as four:
        assert spans(four) == [("B", FIRST, LAST), ("A", FIRST, LAST)]
        four.forget()
    assert listed(folder) == set()


@pytest.mark.parametrize("lost", [1, 30, 500])
def test_half_an_answer_is_none_and_the_next_goes_in_its_place(folder: Path, lost: int) -> None:
    with opened(folder) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        one.add("B", FIRST, LAST, bars("B", *DAYS))
    os.truncate(folder / "answers", (folder / "answers").stat().st_size - lost)
    with opened(folder) as two:
        assert spans(two) == [("A", FIRST, LAST)]
        two.add("C", FIRST, LAST, bars("C", *DAYS))
    with opened(folder) as three:
        assert spans(three) == [("A", FIRST, LAST), ("C", FIRST, LAST)]
        assert three.rows({"C": DAYS}).to_pylist() == bars("C", *DAYS).to_pylist()


@pytest.mark.parametrize(
    "spoil", [lambda body: b"garbage", lambda body: bytes(len(body)), lambda body: body[:200] + b"?" + body[201:]]
)
def test_what_is_no_answer_is_not_taken_for_one(folder: Path, spoil: object) -> None:
    with opened(folder) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
    file = folder / "answers"
    file.write_bytes(spoil(file.read_bytes()))  # type: ignore[operator]
    assert opened(folder).peek().answers == []
    with opened(folder) as two:
        assert two.answers == []


def test_answers_of_another_vendor_and_old_ones_are_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder, "there") as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
    assert opened(folder).peek().answers == []
    assert len(opened(folder, "there").peek().answers) == 1
    monkeypatch.setattr(spool, "KEPT", timedelta(0))
    assert opened(folder, "there").peek().answers == []


def test_of_two_runs_at_once_the_second_keeps_nothing_and_disturbs_nothing(folder: Path) -> None:
    with opened(folder) as one, opened(folder, resume=()) as third:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        other = subprocess.run(
            [sys.executable, "-c", AT_ONCE, str(folder)], capture_output=True, text=True, check=False, timeout=60
        )
        assert (other.returncode, other.stdout) == (0, f"[] {len(DAYS)}\n"), other.stderr
        third.add("A", FIRST, LAST, bars("A", *DAYS[:1]))
        third.forget()
        assert one.rows({"A": DAYS}).num_rows == len(DAYS)
    assert spans(opened(folder).peek()) == [("A", FIRST, LAST)]
    assert listed(folder) == {"answers"}


AT_ONCE = """
import sys
from pathlib import Path
from tests.sources.test_spool import DAYS, FIRST, LAST, bars, opened

with opened(Path(sys.argv[1])) as one:
    before = one.answers[:]
    one.add("A", FIRST, LAST, bars("A", *DAYS, cents=5))
    print(before, one.rows({"A": DAYS}).num_rows)
    one.forget()
"""


def test_where_nothing_can_be_kept_the_run_goes_on(folder: Path) -> None:
    folder.write_text("no folder")
    with opened(folder) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        assert one.rows({"A": DAYS}).num_rows == len(DAYS)


FULL = """
import resource, sys
from pathlib import Path
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


def test_where_the_disk_takes_no_more_it_is_4_and_what_was_told_before_is_there(folder: Path) -> None:
    """A file may not grow beyond a limit: a disk that is full for one file only, without the right to mount one."""
    with opened(folder) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        one.forget()
        limit = one.answers[0].size * 5 // 2
    argv = [sys.executable, "-c", FULL, str(folder), str(limit)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    told, message, hint = ended.stdout.strip().split("|")
    assert (ended.returncode, told, ended.stderr) == (0, "2", "")
    assert message == f"answers can't be put aside in {folder}: File too large"
    assert hint == "free some space, then run the same command again"
    assert spans(opened(folder).peek()) == [("A", FIRST, LAST), ("B", FIRST, LAST)]


@pytest.fixture
def source(polygon: PolygonServer) -> Iterator[Source]:
    polygon.days = {day: [row(name, day) for name in TICKERS] for day in DAYS}
    with closing(SOURCES["polygon"](settings.load())) as one:
        yield one


def stopped_at(source: Source, polygon: PolygonServer, ticker: str, *, resume: Collection[str] = TICKERS) -> list[str]:
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
    plan = source.plan(MISSING, resume=TICKERS)
    assert (list(plan.ranges), plan.in_hand, plan.number) == (["D", "E", "F"], 3, 3)
    batches = list(source.fetch(MISSING, [DAYS[:9], DAYS[9:]], resume=TICKERS))
    assert kinds(polygon) == ["D", "E", "F"]
    assert [found(batch) for batch in batches] == [everything(*days, tickers=TICKERS) for days in (DAYS[:9], DAYS[9:])]
    assert source.plan(MISSING, resume=TICKERS).number == len(TICKERS)


def test_without_leave_what_was_told_is_asked_again(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F")
    assert (source.plan(MISSING).number, source.plan(MISSING).in_hand) == (6, 0)
    assert source.bars(TICKERS, DAYS).num_rows == len(DAYS) * len(TICKERS)
    assert kinds(polygon) == list(TICKERS)


def test_a_run_that_may_not_resume_keeps_nothing(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F", resume=())
    assert source.plan(MISSING, resume=TICKERS).in_hand == 0


def test_a_session_that_was_not_there_is_asked_for_once_it_is(source: Source, polygon: PolygonServer) -> None:
    newest = polygon.days.pop(LAST)
    stopped_at(source, polygon, "F")
    polygon.days[LAST] = newest
    (batch,) = source.fetch(MISSING, [DAYS], resume=TICKERS)
    assert kinds(polygon) == [str(LAST), "F"]
    assert (found(batch), batch.failed) == (everything(*DAYS, tickers=TICKERS), {})


def test_what_is_not_there_yet_is_told_of_answers_in_hand_too(source: Source, polygon: PolygonServer) -> None:
    del polygon.days[LAST]
    stopped_at(source, polygon, "F")
    (batch,) = source.fetch(MISSING, [DAYS], resume=TICKERS)
    assert {day: type(error) for day, error in batch.failed.items()} == {LAST: NotPublishedYet}
    assert found(batch) == everything(*DAYS[:-1], tickers=TICKERS)


def test_the_plans_history_is_told_of_answers_in_hand_too(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[7]
    stopped_at(source, polygon, "F")
    (batch,) = source.fetch(MISSING, [DAYS], resume=TICKERS)
    assert list(batch.failed) == list(DAYS[:7])
    assert found(batch) == everything(*DAYS[7:], tickers=TICKERS)


def test_another_range_and_other_tickers_take_what_they_can(source: Source, polygon: PolygonServer) -> None:
    stopped_at(source, polygon, "F")
    wider = sessions.between(date(2025, 9, 29), LAST)
    for day in wider[:2]:
        polygon.days[day] = [row(name, day) for name in (*TICKERS, "G")]
    (batch,) = source.fetch({day: frozenset("CDEFG") for day in wider}, [wider], resume="CDEFG")
    assert kinds(polygon) == [*map(str, wider[:2]), "F", "G"]
    assert found(batch) == everything(*wider[:2], tickers=tuple("CDEFG")) + everything(*DAYS, tickers=tuple("CDEF"))


def test_an_answer_says_when_it_came(folder: Path) -> None:
    with opened(folder) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
    assert str(datetime.now(UTC).date()).encode() in (folder / "answers").read_bytes()
