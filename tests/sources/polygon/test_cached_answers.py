"""`sources.polygon.cached_answers`: real files, damaged in many ways, and real processes, killed at many points."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from maang_cli import sessions
from maang_cli.errors import NotPublishedYet, SourceFailed
from maang_cli.sources import SOURCES
from maang_cli.sources.base import Resume, Source
from maang_cli.sources.polygon import cached_answers
from maang_cli.sources.polygon.arrow import SCHEMA
from maang_cli.sources.polygon.cached_answers import CachedAnswers
from tests import settings
from tests.polygon_server import Answer, PolygonServer, row
from tests.sources.polygon.test_source import all_pairs, calls, pairs

DAYS = sessions.between(date(2025, 10, 1), date(2025, 10, 31))
TICKERS = ("A", "B", "C", "D", "E", "F")
MISSING = dict.fromkeys(DAYS, frozenset(TICKERS))
FIRST, LAST = DAYS[0], DAYS[-1]
ONE_DAY = timedelta(days=1)
ALL = Resume(frozenset(TICKERS), FIRST, LAST)


def bars(ticker: str, *days: date, volume: int = 100) -> pa.Table:
    rows = [{"session": day, "date": day, "ticker": ticker, "volume": volume} for day in days]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Its folder does not exist yet."""
    return tmp_path / "answers" / "maang.db"


class Clock:
    """The time in UTC, or a time that stands still until a test moves it."""

    moment: datetime | None = None

    def __call__(self) -> datetime:
        return self.moment or datetime.now(UTC)


def opened(
    path: Path,
    tickers: Collection[str] = TICKERS,
    first: date = FIRST,
    last: date = LAST,
    *,
    vendor: str = "here",
    clock: Clock | None = None,
) -> CachedAnswers:
    return CachedAnswers(path, vendor, Resume(frozenset(tickers), first, last), clock or Clock())


def keep(path: Path, *tickers: str, days: Sequence[date] = DAYS, volume: int = 100, clock: Clock | None = None) -> None:
    """Leave these answers, as a killed run does."""
    with opened(path, tickers, clock=clock) as cached:
        for ticker in tickers:
            cached.add(ticker, days[0], days[-1], bars(ticker, *days, volume=volume))


def spans(cached: CachedAnswers) -> list[tuple[str, date, date]]:
    return [(answer.ticker, answer.first, answer.last) for answer in cached.answers]


def kept(path: Path, clock: Clock | None = None) -> list[tuple[str, date, date]]:
    """What the next run of all tickers reuses."""
    with opened(path, clock=clock) as cached:
        return spans(cached)


def whole(*tickers: str) -> list[tuple[str, date, date]]:
    return [(ticker, FIRST, LAST) for ticker in tickers]


def days_of(cached: CachedAnswers, *tickers: str) -> set[date]:
    return set(cached.rows(dict.fromkeys(tickers, DAYS))["session"].to_pylist())


def volumes(rows: pa.Table) -> list[tuple[str, date, int]]:
    return sorted((bar["ticker"], bar["session"], int(bar["volume"])) for bar in rows.to_pylist())


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


PROCESSES = multiprocessing.get_context("forkserver")
"""Its processes are forked from one that has imported this module, and has no threads."""
PROCESSES.set_forkserver_preload([__name__])


def start(function: Callable[..., object], *arguments: object) -> tuple[ForkServerProcess, Connection]:
    """Run a function of this module in its own process. It gets one end of a pipe first; returns the other end."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=function, args=(theirs, *arguments), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))  # where the first of them finds this module
        process.start()
    theirs.close()
    return process, ours


def call(end: Connection, function: Callable[..., object], *arguments: object) -> None:
    end.send(function(*arguments))


def in_a_process(function: Callable[..., object], *arguments: object) -> Any:
    """What a function of this module returns in its own process."""
    process, end = start(call, function, *arguments)
    process.join(120)
    assert process.exitcode == 0
    return end.recv()


# --- what is kept, and for how long


def test_answer_with_wrong_rows_is_for_its_own_run_only(path: Path) -> None:
    with opened(path) as cached:
        cached.add("A", FIRST, LAST, bars("A", *DAYS[1:]), [DAYS[0]])
        assert days_of(cached, "A") == set(DAYS[1:])
    with opened(path) as again:
        assert again.lacking({day: frozenset("A") for day in DAYS}) == dict.fromkeys(DAYS, frozenset("A"))
        again.forget()
    assert not path.exists()


def test_answers_are_reused_until_the_run_has_come_to_its_end(path: Path) -> None:
    with opened(path) as cached:
        cached.add("A", FIRST, LAST, bars("A", *DAYS))
        cached.add("B", FIRST, LAST, bars("B", *DAYS[:5]))
    with opened(path) as again:
        assert spans(again) == [("A", FIRST, LAST), ("B", FIRST, DAYS[4])]
        assert again.rows({"A": DAYS[:2], "B": DAYS[3:]}).to_pylist() == (
            bars("B", *DAYS[3:5]).to_pylist() + bars("A", *DAYS[:2]).to_pylist()
        )
        assert [days_of(again, *names) for names in ("AB", "B")] == [set(DAYS), set(DAYS[:5])]
        again.forget()
    assert files(path) == set()
    with opened(path) as empty:
        assert (empty.answers, days_of(empty, "A", "B")) == ([], set())
    assert files(path) == set()


def test_answer_covers_its_first_bar_to_its_last(path: Path) -> None:
    with opened(path) as cached:
        cached.add("A", DAYS[1], LAST, bars("A", *DAYS[3:20]))
        cached.add("B", FIRST, LAST, bars("B"))
    both, b = frozenset("AB"), frozenset("B")
    with opened(path) as again:
        lacking = again.lacking(dict.fromkeys(DAYS, both))
    assert lacking == dict.fromkeys(DAYS, both) | dict.fromkeys(DAYS[3:20], b)
    assert len({id(tickers) for tickers in lacking.values()}) == 2


def test_later_answer_replaces_an_earlier_one(path: Path) -> None:
    with opened(path) as cached:
        cached.add("A", FIRST, DAYS[5], bars("A", *DAYS[:6], volume=1))
        cached.add("A", DAYS[4], DAYS[8], bars("A", *DAYS[4:9], volume=2))
        assert volumes(cached.rows({"A": DAYS[3:7]})) == [("A", DAYS[3], 1), *(("A", day, 2) for day in DAYS[4:7])]


def test_answer_without_bars_needs_no_file_and_replaces_an_earlier_one(path: Path) -> None:
    keep(path, "A")
    with opened(path) as cached:
        cached.add("A", FIRST, DAYS[4], bars("A"))
        assert days_of(cached, "A") == set(DAYS[5:])
    assert kept(path) == whole("A")
    path.unlink()
    with opened(path) as cached:
        cached.add("A", FIRST, LAST, bars("A"))
        assert days_of(cached, "A") == set()
    assert files(path) == set()


def test_run_of_other_tickers_deletes_only_its_own_answers(path: Path) -> None:
    keep(path, "A", "B", "C")
    with opened(path, "AC") as two:
        assert spans(two) == whole("A", "C")
        two.forget()
    with opened(path) as three:
        assert spans(three) == whole("B")
        three.add("A", FIRST, LAST, bars("A", *DAYS))
    with opened(path) as four:
        assert spans(four) == whole("B", "A")
        four.forget()
    assert files(path) == set()


def test_run_of_other_sessions_deletes_only_its_own_sessions(path: Path) -> None:
    keep(path, "A", "B")
    with opened(path, "A", DAYS[4], DAYS[5]) as two:
        two.forget()
    rest = [("B", FIRST, LAST), ("A", FIRST, DAYS[4] - ONE_DAY), ("A", DAYS[5] + ONE_DAY, LAST)]
    with opened(path) as three:
        assert spans(three) == rest
        assert volumes(three.rows({"A": DAYS[3:7]})) == [("A", DAYS[3], 100), ("A", DAYS[6], 100)]
    with opened(path, "AB", DAYS[10], LAST + ONE_DAY) as four:
        four.forget()
    end = DAYS[10] - ONE_DAY
    assert sorted(kept(path)) == [("A", FIRST, DAYS[4] - ONE_DAY), ("A", DAYS[5] + ONE_DAY, end), ("B", FIRST, end)]
    with opened(path) as five:
        five.forget()
    assert files(path) == set()


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [
        (FIRST - 9 * ONE_DAY, FIRST - ONE_DAY, [(FIRST, LAST)]),
        (LAST + ONE_DAY, LAST + 9 * ONE_DAY, [(FIRST, LAST)]),
        (FIRST - ONE_DAY, FIRST, [(FIRST + ONE_DAY, LAST)]),
        (LAST, LAST + ONE_DAY, [(FIRST, LAST - ONE_DAY)]),
        (FIRST, LAST, []),
        (FIRST - ONE_DAY, LAST + ONE_DAY, []),
    ],
    ids=["before", "after", "the first day", "the last day", "all", "more"],
)
def test_sessions_outside_of_the_run_stay(path: Path, first: date, last: date, left: list[tuple[date, date]]) -> None:
    keep(path, "A")
    with opened(path, "A", first, last) as cached:
        cached.forget()
    assert kept(path) == [("A", *span) for span in left]


def test_sessions_that_stay_keep_the_order_of_their_answers(path: Path) -> None:
    keep(path, "A", volume=1)
    keep(path, "A", days=DAYS[2:9], volume=2)
    with opened(path, "A", DAYS[4], DAYS[5]) as cached:
        cached.forget()
    with opened(path) as cached:
        found = volumes(cached.rows({"A": DAYS}))
    assert found == [("A", day, 2 if day in DAYS[2:9] else 1) for day in DAYS if day not in DAYS[4:6]]


@pytest.fixture
def clock() -> Clock:
    """It stands at an instant long after the last session."""
    clock = Clock()
    clock.moment = datetime(2025, 11, 10, 12, tzinfo=UTC)
    return clock


@pytest.mark.parametrize("microsecond", [0, 1], ids=["full second", "fraction"])
def test_answers_are_reused_for_a_week(path: Path, clock: Clock, microsecond: int) -> None:
    clock.moment = came = datetime(2025, 11, 10, 12, microsecond=microsecond, tzinfo=UTC)
    keep(path, "A", clock=clock)
    clock.moment = came + timedelta(days=7)
    assert kept(path, clock) == whole("A")
    clock.moment += timedelta(microseconds=1)
    assert kept(path, clock) == []


def test_answers_from_the_future_are_not_reused(path: Path, clock: Clock) -> None:
    keep(path, "A", clock=clock)
    set_back(clock)
    keep(path, "B", clock=clock)
    assert kept(path, clock) == whole("B")


def set_back(clock: Clock) -> None:
    """The clock was wrong by an hour."""
    assert clock.moment
    clock.moment -= timedelta(hours=1)


def test_clock_that_goes_back_during_a_run_does_not_matter(path: Path, clock: Clock) -> None:
    with opened(path, clock=clock) as cached:
        cached.add("A", FIRST, LAST, bars("A", *DAYS))
        set_back(clock)
        cached.add("B", FIRST, LAST, bars("B", *DAYS))
        assert [days_of(cached, name) for name in "AB"] == [set(DAYS)] * 2
        cached.forget()
    assert files(path) == set()


@pytest.fixture
def after_the_close(clock: Clock) -> Clock:
    """Ten minutes after the last session's close in New York: its bars may still change."""
    clock.moment = datetime(2025, 10, 31, 20, 10, tzinfo=UTC)
    return clock


def test_bar_that_may_still_change_is_fetched_again(path: Path, after_the_close: Clock) -> None:
    keep(path, "A", clock=after_the_close)
    assert kept(path, after_the_close) == [("A", FIRST, DAYS[-2])]


def test_answer_with_only_bars_that_may_change_is_used_once(path: Path, after_the_close: Clock) -> None:
    with opened(path, clock=after_the_close) as cached:
        cached.add("A", LAST, LAST, bars("A", LAST))
        assert days_of(cached, "A") == {LAST}
    with opened(path, clock=after_the_close) as cached:
        assert cached.lacking({LAST: frozenset("A")}) == {LAST: frozenset("A")}
        cached.forget()
    assert files(path) == set()


def test_answers_of_another_vendor_stay(path: Path) -> None:
    keep(path, "A")
    with opened(path, vendor="there") as other:
        assert other.answers == []
        other.add("A", FIRST, LAST, bars("A", *DAYS, volume=7))
        assert volumes(other.rows({"A": DAYS[:1]})) == [("A", FIRST, 7)]
        other.forget()
    assert kept(path) == whole("A")


def test_run_that_may_not_resume_uses_and_writes_no_file(path: Path) -> None:
    with CachedAnswers(path, "here") as cached:
        cached.add("A", FIRST, LAST, bars("A", *DAYS))
        assert days_of(cached, "A") == set(DAYS)
        cached.forget()
    assert not path.parent.exists()
    keep(path, "A")
    with CachedAnswers(path, "here") as cached:
        assert cached.answers == []
        cached.add("B", FIRST, LAST, bars("B", *DAYS))
        cached.forget()
    assert kept(path) == whole("A")


# --- several runs at the same time


def second_run(path: Path) -> object:
    with opened(path) as cached:
        before = cached.answers[:]
        cached.add("A", FIRST, LAST, bars("A", *DAYS, volume=5))
        found = volumes(cached.rows({"A": DAYS}))
        cached.forget()
        return before, found


def test_second_run_keeps_nothing_and_disturbs_nothing(path: Path) -> None:
    with opened(path) as one, CachedAnswers(path, "here") as third:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        assert in_a_process(second_run, path) == ([], [("A", day, 5) for day in DAYS])
        assert path.exists()
        third.add("A", FIRST, LAST, bars("A", *DAYS[:1]))
        third.forget()
        one.add("B", FIRST, LAST, bars("B", *DAYS))
        assert volumes(one.rows({"A": DAYS})) == [("A", day, 100) for day in DAYS]
    assert kept(path) == whole("A", "B")
    assert files(path) == {"maang.db"}


def test_run_that_opens_the_file_late_leaves_the_answers_of_others(path: Path) -> None:
    with opened(path, "A") as late:
        keep(path, "B", "C")
        late.add("A", FIRST, LAST, bars("A", *DAYS))
        late.forget()
    assert kept(path) == whole("B", "C")


def test_file_opened_late_does_not_hide_this_runs_answers(path: Path) -> None:
    with opened(path) as late:
        late.add("A", FIRST, LAST, bars("A"))
        keep(path, "A", "B")
        late.add("C", FIRST, LAST, bars("C", *DAYS))
        assert spans(late) == whole("A", "B", "A", "C")
        assert days_of(late, "A") == set()


def waiting_run(end: Connection, path: Path) -> None:
    cached_answers.LOCK_SECONDS = 60
    connect = cached_answers._connect

    def announced(place: Path | str) -> sqlite3.Connection:
        file = connect(place)
        if not place:
            end.send("uses a temporary file")
        else:  # SQLite calls this when it carries out a statement; the one after this needs the lock
            file.set_trace_callback(lambda statement: end.send("waits") if "locking_mode" in statement else None)
        return file

    cached_answers._connect = announced
    with opened(path) as cached:
        cached.add("B", FIRST, LAST, bars("B", *DAYS))
        end.send((spans(cached), days_of(cached, "B")))
        end.recv()
        cached.forget()


def test_run_that_waits_for_a_file_which_is_then_deleted_goes_on(path: Path) -> None:
    with opened(path) as one:
        one.add("A", FIRST, LAST, bars("A", *DAYS))
        process, end = start(waiting_run, path)
        assert end.recv() == "waits"
        one.forget()
        assert files(path) <= {"maang.db-journal"}
    assert end.recv() == "uses a temporary file"
    assert end.recv() == (whole("B"), set(DAYS))
    keep(path, "C")
    end.send("go on")
    process.join(60)
    assert process.exitcode == 0
    assert kept(path) == whole("C")


# --- killed runs


def check_nothing_is_wrong(path: Path) -> tuple[str, ...]:
    """Each answer that the next run finds has all bars of its span, with their own values; returns their tickers."""
    with opened(path) as cached:
        for answer in cached.answers:
            found = cached.rows({answer.ticker: DAYS})
            days = [day for day in DAYS if any(a.first <= day <= a.last for a in cached.answers if a.ticker == answer.ticker)]
            assert volumes(found) == [(answer.ticker, day, ord(answer.ticker)) for day in days], answer
        return tuple(sorted(answer.ticker for answer in cached.answers))


def kill_everywhere(path: Path, step: int) -> Counter[str]:
    """Kill a run at every `step`-th instruction of SQLite, each time with the same file before; returns what is left."""
    pa.set_cpu_count(1)  # threads do not survive a fork
    connect, spare = cached_answers._connect, path.with_suffix(".spare")
    for ticker in "ABC":
        keep(path, ticker, volume=ord(ticker))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE answers SET fetched_at = '2001' WHERE ticker = 'C'")  # the run deletes it
    shutil.copy(path, spare)
    fresh = bars("A", *DAYS[4:6], volume=ord("A"))
    left: Counter[str] = Counter()
    left_to_live = 0

    def count() -> None:
        nonlocal left_to_live
        left_to_live -= 1
        if not left_to_live:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(place: Path | str) -> sqlite3.Connection:
        file = connect(place)
        file.set_progress_handler(count, 1)
        return file

    for left_to_live in range(1, 1_000_000, step):  # noqa: B007 - `count` uses it
        for file in path.parent.glob("maang.db*"):
            file.unlink()
        shutil.copy(spare, path)
        if (child := os.fork()) == 0:
            cached_answers._connect = counted
            with opened(path, "AB", DAYS[4], DAYS[5]) as cached:
                cached.add("A", DAYS[4], DAYS[5], fresh)
                cached.forget()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        left[",".join(check_nothing_is_wrong(path))] += 1
        if status == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return left


def test_run_that_is_killed_anywhere_leaves_all_answers_or_those_of_others(path: Path) -> None:
    left = in_a_process(kill_everywhere, path, 5)
    # A and B as they were; the new answer for A too; the run is over, and A and B are without the sessions that it had.
    assert left.keys() == {"A,B", "A,A,B", "A,A,B,B"}
    assert left["A,B"] > 20
    assert left["A,A,B"] > 20


def endless_run(end: Connection, path: Path) -> None:
    with opened(path, [f"T{number}" for number in range(100_000)]) as cached:
        for number in range(len(cached.answers), 100_000):
            ticker = f"T{number}"
            cached.add(ticker, FIRST, LAST, bars(ticker, *DAYS, volume=number))
            end.send(number)


def test_run_that_is_killed_at_any_time_leaves_what_it_had(path: Path) -> None:
    chance = random.Random(5)
    done = 0
    for _ in range(8):
        process, end = start(endless_run, path)
        end.recv()
        time.sleep(chance.random() / 20)
        process.kill()
        process.join()
        with suppress(EOFError):
            while True:
                done = end.recv() + 1
        names = [f"T{number}" for number in range(done + 1)]
        with opened(path, names) as cached:
            assert len(cached.answers) in (done, done + 1)  # the process may not have reported the last one
            done = len(cached.answers)
            assert spans(cached) == whole(*names[:done])
            assert volumes(cached.rows(dict.fromkeys(names, DAYS[:1]))) == sorted(
                (name, FIRST, number) for number, name in enumerate(names[:done])
            )
    assert done > 20


def killed_in_a_transaction(_: Connection, path: Path) -> None:
    with opened(path) as cached:
        cached.add("A", FIRST, LAST, bars("A", *DAYS))
        assert cached._file
        cached._file.execute("PRAGMA cache_size = 1")  # so that changed pages go to the file before the commit
        cached._file.execute("BEGIN")
        cached._file.execute("UPDATE answers SET rows = zeroblob(500000)")
        cached._file.execute("INSERT INTO answers (vendor, rows) VALUES ('x', zeroblob(500000))")
        os.kill(os.getpid(), signal.SIGKILL)


def test_transaction_of_a_killed_run_is_rolled_back(path: Path) -> None:
    process, _ = start(killed_in_a_transaction, path)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert files(path) == {"maang.db", "maang.db-journal"}
    assert path.stat().st_size > 500_000
    with opened(path) as cached:
        assert spans(cached) == whole("A")
        assert volumes(cached.rows({"A": DAYS})) == [("A", day, 100) for day in DAYS]
        cached.forget()
    assert files(path) == set()


def killed_at_a_deletion(_: Connection, path: Path, number: int, when: str) -> None:
    unlink, deletions = Path.unlink, 0

    def last_unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal deletions
        deletions += 1
        if deletions == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(path, missing_ok)
        if deletions == number:
            os.kill(os.getpid(), signal.SIGKILL)

    pytest.MonkeyPatch().setattr(Path, "unlink", last_unlink)
    with opened(path) as cached:
        cached.add("A", FIRST, LAST, bars("A", *DAYS))
        cached.forget()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_run_after_one_that_was_killed_at_a_deletion_leaves_nothing(path: Path, number: int, when: str) -> None:
    process, _ = start(killed_at_a_deletion, path, number, when)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with opened(path) as cached:
        assert cached.answers == []
        cached.forget()
    assert files(path) == set()


def test_journal_without_a_file_does_not_matter(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("maang.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(600))
    keep(path, "A")
    assert kept(path) == whole("A")
    assert files(path) == {"maang.db"}


# --- damaged files


def damaged(path: Path, body: bytes) -> tuple[str, ...]:
    """The answers that the next run finds in this file. It goes on, and the run after it finds what it kept."""
    path.write_bytes(body)
    found = check_nothing_is_wrong(path)
    with opened(path) as cached:
        cached.add("D", FIRST, LAST, bars("D", *DAYS, volume=ord("D")))
        assert days_of(cached, "D") == set(DAYS)
    return found


@pytest.fixture
def good(path: Path) -> bytes:
    """A file with three answers."""
    for ticker in "ABC":
        keep(path, ticker, volume=ord(ticker))
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: b"garbage",
        lambda body: b"garbage" * 10_000,
        lambda body: bytes(len(body)),
        lambda body: body * 0,
        lambda body: body[:4096],
        lambda body: body[4096:],
        lambda body: body[:100] + bytes(len(body) - 100),
    ],
    ids=["garbage", "much garbage", "zeros", "nothing", "a page", "no first page", "a header"],
)
def test_file_that_is_not_a_database_is_replaced(path: Path, good: bytes, damage: Callable[[bytes], bytes]) -> None:
    assert damaged(path, damage(good)) == ()
    assert kept(path) == whole("D")


def test_truncated_file_is_replaced_or_loses_its_last_answers(path: Path, good: bytes) -> None:
    for size in range(1, len(good), 397):
        found = damaged(path, good[:size])
        if size <= len(good) - 4096:  # whole pages are lost
            assert found == (), size
        assert kept(path) == whole(*found, "D"), size


def test_damaged_answer_is_dropped_and_the_others_stay(path: Path, good: bytes) -> None:
    middle = good.index(b"hereB") + 200
    assert damaged(path, good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]) == ("A", "C")
    assert kept(path) == whole("A", "C", "D")


@pytest.mark.parametrize("what", ["hereA", "2025-10-01", "2025-10-31"], ids=["ticker", "first day", "last day"])
def test_answer_whose_description_is_damaged_is_dropped(path: Path, good: bytes, what: str) -> None:
    end = good.index(what.encode()) + len(what) - 1
    assert len(damaged(path, good[:end] + bytes([good[end] ^ 1]) + good[end + 1 :])) == 2


def test_damage_of_any_byte_is_never_a_wrong_bar_or_the_end_of_caching(path: Path, good: bytes) -> None:
    """Bytes of the file's header, of the table's definition and of the header of each page, and a sample of all others."""
    chance = random.Random(7)
    definition = good.index(b"tableanswers")
    pages = [page + byte for page in range(4096, len(good), 4096) for byte in range(12)]
    places = [*range(0, 110, 3), *range(definition - 12, 4096, 3), *pages, *chance.sample(range(4096, len(good)), 100)]
    found = Counter[int]()
    for place in places:
        found[len(damaged(path, good[:place] + bytes([good[place] ^ 1 << chance.randrange(8)]) + good[place + 1 :]))] += 1
        # A single byte makes SQLite take the file for one that it may only read.
        assert kept(path)[-1:] == whole("D") or place in (18, 19), place
    assert found[0] + found[2] + found[3] == len(places)
    assert min(found[0], found[2], found[3]) > 20


def test_noise_is_never_a_wrong_bar(path: Path, good: bytes) -> None:
    chance = random.Random(9)
    for place in range(0, len(good) - 500, 1500):
        damaged(path, good[:place] + chance.randbytes(500) + good[place + 500 :])
        assert kept(path)[-1:] == whole("D"), place


# --- other versions


def test_table_of_another_version_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE answers (ticker TEXT, rows BLOB)")
        file.execute("INSERT INTO answers VALUES ('A', x'00')")
    assert kept(path) == []
    keep(path, "B")
    assert kept(path) == whole("B")


def test_rows_of_another_version_are_not_reused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_answers, "_SEED", cached_answers._SEED ^ 1)
    keep(path, "A")
    monkeypatch.undo()
    keep(path, "B")
    assert kept(path) == whole("B")


# --- places that can't be written to


def run_goes_on(path: Path, found: list[tuple[str, date, date]] | None = None) -> None:
    """A run caches its answers although the file can't be used."""
    with opened(path) as cached:
        assert spans(cached) == (found or [])
        cached.add("D", FIRST, LAST, bars("D", *DAYS))
        assert days_of(cached, "D") == set(DAYS)
        cached.forget()


@pytest.mark.parametrize("what", ["the folder is a file", "the file is a folder", "the journal is a folder"])
def test_run_goes_on_if_its_answers_cant_be_kept(path: Path, what: str) -> None:
    if what == "the folder is a file":
        path.parent.write_text("")
    else:
        (path if what == "the file is a folder" else path.with_name("maang.db-journal")).mkdir(parents=True)
    run_goes_on(path)


def run_as_nobody(folder: Path) -> None:
    os.chdir(folder)  # the folders above it are closed to this user
    if os.geteuid() == 0:
        os.seteuid(65534)
    run_goes_on(Path("maang.db"))
    run_goes_on(Path("closed/maang.db"))


@pytest.mark.parametrize("file_mode", [0o000, 0o444, 0o666], ids=["unreadable", "read-only", "writable"])
def test_run_goes_on_in_a_read_only_folder(path: Path, file_mode: int) -> None:
    keep(path, "A")
    closed = path.parent / "closed"
    closed.mkdir()
    shutil.copy(path, closed)
    path.chmod(file_mode)
    closed.chmod(0o000)
    path.parent.chmod(0o555)
    try:
        in_a_process(run_as_nobody, path.parent)
    finally:
        path.parent.chmod(0o755)
        closed.chmod(0o755)
        path.chmod(0o644)
    assert kept(path) == kept(closed / "maang.db") == whole("A")


def limit_file_size(size: int) -> None:
    """No file may become larger: a full disk, without the rights to make one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def run_on_a_full_disk(path: Path, size: int) -> object:
    limit_file_size(size)
    try:
        with opened(path) as cached:
            for ticker in TICKERS:
                cached.add(ticker, FIRST, LAST, bars(ticker, *DAYS))
    except SourceFailed as exc:
        return len(cached.answers), exc.message, exc.hint
    raise AssertionError


def test_full_disk_exits_4_and_keeps_the_earlier_answers(path: Path) -> None:
    keep(path, "A", "B")
    size = path.stat().st_size
    path.unlink()
    added, message, hint = in_a_process(run_on_a_full_disk, path, size)
    assert SourceFailed.exit_code == 4
    assert 2 <= added < len(TICKERS)
    assert message in (
        f"answers can't be cached in {path.parent}: database or disk is full",
        f"answers can't be cached in {path.parent}: disk I/O error",
    )
    assert hint == "free some space, then run the same command again"
    assert kept(path) == whole(*TICKERS[:added])


def run_on_a_disk_that_is_full_from_the_start(path: Path) -> None:
    limit_file_size(0)
    run_goes_on(path)


def test_run_goes_on_if_the_disk_is_full_from_the_start(path: Path) -> None:
    """Its answers are few enough for SQLite's memory."""
    in_a_process(run_on_a_disk_that_is_full_from_the_start, path)
    path.unlink(missing_ok=True)
    keep(path, "A")
    in_a_process(run_on_a_disk_that_is_full_from_the_start, path)
    assert kept(path) == whole("A")


def many_bars(number: int) -> pa.Table:
    """About 3 MB of bars that can't be compressed."""
    chance = random.Random(number)
    rows = [{"session": FIRST, "ticker": f"T{number}", "vwap": chance.randrange(10**30)} for _ in range(200_000)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_many_answers_of_a_run_without_the_file_go_to_a_temporary_one(path: Path) -> None:
    with CachedAnswers(path, "here") as cached:
        for number in range(2):
            cached.add(f"T{number}", FIRST, FIRST, many_bars(number))
        for number in range(2):
            assert cached.rows({f"T{number}": [FIRST]}).equals(many_bars(number))
    assert not path.parent.exists()


def full_temporary_file(path: Path) -> str:
    limit_file_size(100_000)
    with CachedAnswers(path, "here") as cached:
        with suppress(SourceFailed):
            cached.add("T0", FIRST, FIRST, many_bars(0))  # SQLite decides when a part of it goes to the file
        with pytest.raises(SourceFailed) as caught:
            cached.add("T1", FIRST, FIRST, many_bars(1))
    return caught.value.message


def test_full_disk_for_temporary_files_is_named(path: Path) -> None:
    assert in_a_process(full_temporary_file, path).startswith("answers can't be cached in a temporary file: ")


# --- the source that uses them


@pytest.fixture
def source(polygon: PolygonServer) -> Iterator[Source]:
    polygon.days = {day: [row(name, day) for name in TICKERS] for day in DAYS}
    with closing(SOURCES["polygon"].open(settings.load())) as opened_source:
        yield opened_source


def fail_at(source: Source, polygon: PolygonServer, ticker: str, *, resume: Resume | None = ALL) -> list[str]:
    """Fetch until this ticker's range call fails; returns the calls."""
    polygon.always = lambda path: Answer(501) if f"/{ticker}/range" in path else None
    with pytest.raises(SourceFailed):
        list(source.fetch(MISSING, [DAYS[:9], DAYS[9:]], resume=resume))
    polygon.always = lambda path: None
    made = calls(polygon)
    polygon.requests.clear()
    return made


def test_cached_answers_are_not_fetched_again(source: Source, polygon: PolygonServer) -> None:
    assert set(fail_at(source, polygon, "D")) >= {"A", "B", "C", "D"}
    plan = source.plan(MISSING, resume=ALL)
    assert (list(plan.ranges), plan.cached, plan.number) == (["D", "E", "F"], 3, 3)
    batches = list(source.fetch(MISSING, [DAYS[:9], DAYS[9:]], resume=ALL))
    assert calls(polygon) == ["D", "E", "F"]
    assert [pairs(batch) for batch in batches] == [all_pairs(*days, tickers=TICKERS) for days in (DAYS[:9], DAYS[9:])]
    assert source.plan(MISSING, resume=ALL).number == len(TICKERS)


def test_everything_is_fetched_again_without_resume(source: Source, polygon: PolygonServer) -> None:
    fail_at(source, polygon, "F")
    assert (source.plan(MISSING).number, source.plan(MISSING).cached) == (6, 0)
    assert source.bars(TICKERS, DAYS).num_rows == len(DAYS) * len(TICKERS)
    assert calls(polygon) == list(TICKERS)


def test_nothing_is_kept_without_resume(source: Source, polygon: PolygonServer) -> None:
    fail_at(source, polygon, "F", resume=None)
    assert source.plan(MISSING, resume=ALL).cached == 0


def test_plan_while_another_run_has_the_file_counts_no_cached_answers(source: Source, polygon: PolygonServer, home: Path) -> None:
    fail_at(source, polygon, "F")
    with opened(home / "answers" / "maang.db"):
        assert source.plan(MISSING, resume=ALL).cached == 0
    assert source.plan(MISSING, resume=ALL).cached == 5


def test_session_that_was_not_served_is_fetched_later(source: Source, polygon: PolygonServer) -> None:
    newest = polygon.days.pop(LAST)
    fail_at(source, polygon, "F")
    polygon.days[LAST] = newest
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert calls(polygon) == [str(LAST), "F"]
    assert (pairs(batch), batch.failed) == (all_pairs(*DAYS, tickers=TICKERS), {})


def test_session_that_is_not_served_yet_fails_with_cached_answers_too(source: Source, polygon: PolygonServer) -> None:
    del polygon.days[LAST]
    fail_at(source, polygon, "F")
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert {day: type(error) for day, error in batch.failed.items()} == {LAST: NotPublishedYet}
    assert pairs(batch) == all_pairs(*DAYS[:-1], tickers=TICKERS)


def test_sessions_before_the_plans_history_fail_with_cached_answers_too(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[7]
    fail_at(source, polygon, "F")
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert list(batch.failed) == list(DAYS[:7])
    assert pairs(batch) == all_pairs(*DAYS[7:], tickers=TICKERS)


def test_other_range_and_other_tickers_reuse_what_they_can(source: Source, polygon: PolygonServer) -> None:
    fail_at(source, polygon, "F")
    wider = sessions.between(date(2025, 9, 29), LAST)
    for day in wider[:2]:
        polygon.days[day] = [row(name, day) for name in (*TICKERS, "G")]
    (batch,) = source.fetch(
        {day: frozenset("CDEFG") for day in wider}, [wider], resume=Resume(frozenset("CDEFG"), wider[0], LAST)
    )
    assert calls(polygon) == [*map(str, wider[:2]), "F", "G"]
    assert pairs(batch) == all_pairs(*wider[:2], tickers=tuple("CDEFG")) + all_pairs(*DAYS, tickers=tuple("CDEF"))


def test_sessions_that_left_the_plans_history_fail_by_name(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[3]
    fail_at(source, polygon, "D")
    polygon.history = DAYS[5]
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert list(batch.failed) == list(DAYS[:5])
    assert pairs(batch) == all_pairs(*DAYS[5:], tickers=TICKERS)


def test_cached_answers_are_used_for_sessions_that_left_the_plans_history(source: Source, polygon: PolygonServer) -> None:
    fail_at(source, polygon, "F")
    polygon.history = DAYS[5]
    missing = {day: frozenset("ABCDE" if number < 9 else TICKERS) for number, day in enumerate(DAYS)}
    (batch,) = source.fetch(missing, [DAYS], resume=ALL)
    assert (pairs(batch), batch.failed) == (sorted((day, name) for day in DAYS for name in missing[day]), {})


def test_cached_and_new_answers_for_one_ticker_are_joined(source: Source, polygon: PolygonServer) -> None:
    fail_at(source, polygon, "F")
    polygon.history = DAYS[5]
    later = sessions.between(date(2025, 11, 3), date(2025, 11, 14))
    polygon.days |= {day: [row(name, day) for name in TICKERS] for day in later}
    missing = dict.fromkeys((*DAYS, *later), frozenset("ABCDE"))
    (batch,) = source.fetch(missing, [tuple(missing)], resume=Resume(frozenset("ABCDE"), FIRST, later[-1]))
    assert calls(polygon) == list("ABCDE")
    assert (pairs(batch), batch.failed) == (all_pairs(*missing, tickers=tuple("ABCDE")), {})


def test_sessions_that_a_better_plan_serves_are_fetched(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[3]
    fail_at(source, polygon, "F")
    polygon.history = None
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert (pairs(batch), batch.failed) == (all_pairs(*DAYS, tickers=TICKERS), {})
    assert calls(polygon) == [*map(str, DAYS[:3]), "F"]


def test_answers_with_different_histories_are_distinguished(source: Source, polygon: PolygonServer) -> None:
    polygon.history = DAYS[2]
    fail_at(source, polygon, "D")
    polygon.history = DAYS[5]
    batches = source.fetch(MISSING, [DAYS[:9], DAYS[9:]], resume=ALL)
    assert list(next(batches).failed) == list(DAYS[:5])
    batches.close()
    (batch,) = source.fetch(MISSING, [DAYS], resume=ALL)
    assert list(batch.failed) == list(DAYS[:5])
    assert pairs(batch) == all_pairs(*DAYS[5:], tickers=TICKERS)


def test_only_missing_tickers_count_as_cached(source: Source, polygon: PolygonServer) -> None:
    fail_at(source, polygon, "F")
    assert source.plan(MISSING, resume=ALL).cached == 5
    assert source.plan(dict.fromkeys(DAYS, frozenset("EF")), resume=ALL).cached == 1
    assert source.plan({date(2025, 11, 3): frozenset(TICKERS)}, resume=ALL).cached == 0
    assert source.plan({}, resume=ALL).cached == 0
