"""Killed and interrupted runs, and two at the same time: a session is as before or as after, and a re-run finishes the rest.

The runs are forks of a process that has imported everything, so that each takes a fraction of a second.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from pyiceberg.exceptions import NoSuchTableError

from maang_cli import pipeline, sessions
from maang_cli.errors import ExitCode
from maang_cli.request import Request
from maang_cli.sources.sample import SampleSource
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.forks import Fork, fork_server
from tests.kill_points import Notes
from tests.polygon_server import PolygonServer, row
from tests.test_doctor import serve as serve_every_session
from tests.warehouses.conftest import MONDAY, TUESDAY, WEDNESDAY, Row, open_catalog, rows_on_disk, unreachable, without_stamp

POINTS = int(os.environ.get("MAANG_TEST_KILL_POINTS", "10"))
"""How often a run is killed, for each state that it starts from. A very large number kills it at every event."""
THREADS = 2
"""How many runs are killed at the same time, for two processors."""
TICKERS = ("AAPL", "META", "NFLX")
PRODUCTION, CUMULATIVE = "maang.daily_stock_prices", "maang.daily_stock_prices_cumulative"
SPLITS = "maang.daily_stock_prices_splits"
FINDINGS = "maang.daily_stock_prices_findings"
STAMPS = {PRODUCTION: "insertion_timestamp", CUMULATIVE: "updated_at", SPLITS: "updated_at", FINDINGS: "seen_at"}
Tables = dict[str, list[Row] | None]
"""Rows by table; None if the table does not exist."""

# Runs


@dataclass(frozen=True)
class Ended:
    code: int | str | None
    """The exit code, or minus the signal's number, or "stopped"; None: it still runs."""
    err: str = ""


class Runner:
    """Runs `maang` in forks, with their stderr in files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._logs: dict[int, Path] = {}

    def start(
        self, *argv: str, at: int | None = None, send: int = signal.SIGKILL, notes: Path | None = None, commit: int | None = None
    ) -> Fork:
        """Start a run that sends a signal to itself at its `at`-th event, or right after its `commit`-th commit."""
        log = self._folder / f"{next(self._numbers)}.err"
        note = str(notes) if notes else None
        program = f"from tests.kill_points import run; run({at}, {int(send)}, {note!r}, {commit})"
        with Path(os.devnull).open("w") as null, log.open("w") as err:
            fork = fork_server().start(*argv, program=program, stdout=null.fileno(), stderr=err.fileno())
        self._logs[fork.pid] = log
        return fork

    def wait(self, fork: Fork, seconds: float = 60) -> Ended:
        code = fork.state(seconds)
        if isinstance(code, int):
            fork.close()
        return Ended(code, self._logs[fork.pid].read_text())

    def run(self, *argv: str, at: int | None = None, send: int = signal.SIGKILL) -> Ended:
        return self.wait(self.start(*argv, at=at, send=send))

    def watch(self, *argv: str) -> Notes:
        """Run to the end."""
        notes = self._folder / f"{next(self._numbers)}.json"
        ended = self.wait(self.start(*argv, notes=notes))
        assert ended.code == 0, ended.err
        taken: Notes = json.loads(notes.read_text())
        return taken


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    folder = tmp_path / "runs"
    folder.mkdir()
    return Runner(folder)


# States


@dataclass(frozen=True)
class Place:
    """A home, and a copy of it to restore it from. Iceberg's paths are absolute, so the home can't be moved."""

    home: Path

    @property
    def _copy(self) -> Path:
        return self.home.with_suffix(".copy")

    def keep(self) -> None:
        if self.home.exists():
            shutil.copytree(self.home, self._copy)

    def restore(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        if self._copy.exists():
            shutil.copytree(self._copy, self.home)

    def tables(self) -> Tables:
        """What a reader sees. It opens a copy of the catalog, because opening the catalog itself could repair it."""
        scratch = self.home.with_suffix(".read")
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "warehouse").mkdir(parents=True)
        for path in (self.home / "warehouse").glob("catalog.db*"):
            shutil.copy(path, scratch / "warehouse")
        found: Tables = {}
        for name in STAMPS:
            try:
                found[name] = rows_on_disk(scratch, name)
            except NoSuchTableError:
                found[name] = None
        return found


def values(tables: Tables) -> Tables:
    """The tables without their stamps; a table that does not exist counts as empty."""
    return {name: without_stamp(rows or [], STAMPS[name]) for name, rows in tables.items()}


def run_day(day: date, home: Path, tickers: Sequence[str] = TICKERS) -> tuple[str, ...]:
    return ("run-day", "--date", str(day), "--home", str(home), "--tickers", ",".join(tickers))


def backfill_of(days: Sequence[date], home: Path) -> tuple[str, ...]:
    return ("backfill", "--from", str(days[0]), "--to", str(days[-1]), "--home", str(home), "--tickers", ",".join(TICKERS))


def serve_bars(polygon: PolygonServer, days: Sequence[date] = (TUESDAY, WEDNESDAY)) -> None:
    """The sample's bars with other volumes: they are plausible after those that `publish_other_bars` stores."""
    names = {"o": "open", "h": "high", "l": "low", "c": "close", "vw": "vwap"}
    polygon.days = {day: [] for day in days}
    for bar in SampleSource().bars(TICKERS, days).to_pylist():
        prices = {name: float(bar[column]) for name, column in names.items()}
        polygon.days[bar["session"]].append(row(bar["ticker"], bar["session"], v=int(bar["volume"]) + 1000, **prices))


def publish_other_bars(home: Path, days: Sequence[date], keep_snapshots: int) -> None:
    """Store the sample's bars."""
    with closing(LocalWarehouse(home, "maang", Retention(keep_snapshots))) as warehouse:
        for day in days:
            pipeline.run_day(SampleSource(), warehouse, Request(TICKERS, (day,)), NoProgress())


class NoProgress:
    """Shows nothing of a day's steps."""

    def begin(self, step: str) -> None: ...

    def done(self, result: object) -> None: ...


@dataclass(frozen=True)
class State:
    """What a home contains before the day is run."""

    days: Sequence[date]
    """Sessions that are stored, with other values than Polygon's."""
    keep_snapshots: int = 100
    points: int = POINTS


STATES = {
    "an-empty-home": State([]),
    "the-day-with-other-values-and-the-day-after": State([TUESDAY, WEDNESDAY]),
    # The next day merges manifests, drops metadata files and expires snapshots.
    "a-long-history": State(sessions.between(date(2025, 9, 26), MONDAY), keep_snapshots=3, points=max(POINTS // 4, 4)),
}


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """About `most` of the numbers, evenly spread, and none at the ends, where a run has not begun its work or has done it."""
    step = max(len(numbers) // most, 1)
    return list(numbers)[step // 2 :: step]


def moments(notes: Notes, number: int) -> list[int]:
    """About `number` points of a run, half of them near the disk."""
    return spread(range(1, notes["total"]), number // 2) + spread(notes["near_disk"], number // 2)


TABLES = frozenset(name.split(".")[1] for name in STAMPS)


def folders(home: Path) -> frozenset[str]:
    """The tables that have a folder."""
    return frozenset(path.name for path in (home / "warehouse/maang").iterdir())


def must_be_clean(home: Path, what: str, tables: frozenset[str] = TABLES) -> None:
    """There is nothing but the tables: no leftovers, no cached answers."""
    assert list((home / "answers").glob("*")) == [], what
    assert unreachable(home) == [], what
    assert folders(home) == tables, what


def kill_and_run_again(
    runner: Runner, place: Place, points: Sequence[int], before: Tables, after: Tables
) -> list[int | str | None]:
    """Kill the day at each point, look, run it again, look again. Returns how the killed runs ended."""
    codes = []
    for at in points:
        place.restore()
        killed = runner.run(*run_day(TUESDAY, place.home), at=at)
        codes.append(killed.code)
        seen = place.tables()
        done = {name: values(seen)[name] == values(after)[name] for name in seen}
        for name, rows in seen.items():
            assert done[name] or (rows or []) == (before[name] or []), f"{name} is neither as before nor as after, killed at {at}"
        assert done[PRODUCTION] or not done[CUMULATIVE], f"windows without their bars, killed at {at}"
        assert done[FINDINGS] or not done[PRODUCTION], f"values replaced without a trace, killed at {at}"

        again = runner.run(*run_day(TUESDAY, place.home))
        assert again.code == 0, f"killed at {at}: {again.err}"
        assert values(place.tables()) == values(after), f"killed at {at}"
        must_be_clean(place.home, f"killed at {at}")
    return codes


@pytest.mark.parametrize("state", [pytest.param(state, id=name) for name, state in STATES.items()])
def test_killed_day_is_as_before_or_after_and_next_run_finishes(
    polygon: PolygonServer, runner: Runner, home: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    serve_bars(polygon)
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", str(state.keep_snapshots))

    def kill_some(number: int) -> list[int | str | None]:
        """One thread's share of the points."""
        place = Place(home / str(number))
        publish_other_bars(place.home, state.days, state.keep_snapshots)
        place.keep()
        before = place.tables()
        notes = runner.watch(*run_day(TUESDAY, place.home))
        after = place.tables()
        assert all(values(before)[name] != values(after)[name] for name in (PRODUCTION, CUMULATIVE))
        points = moments(notes, state.points)[number::THREADS]
        return kill_and_run_again(runner, place, points, before, after)

    with ThreadPoolExecutor(THREADS) as pool:
        codes = [code for share in pool.map(kill_some, range(THREADS)) for code in share]
    assert set(codes) <= {-signal.SIGKILL, 0}
    assert codes.count(-signal.SIGKILL) >= len(codes) * 0.8


def serve_split(polygon: PolygonServer) -> None:
    """On Tuesday, NFLX splits 10:1: the prices fall to a tenth. Monday is served too."""
    serve_bars(polygon, (MONDAY, TUESDAY, WEDNESDAY))
    before = next(row for row in polygon.days[MONDAY] if row["T"] == "NFLX")
    before.update({name: round(float(str(before[name])) * 10, 2) for name in ("o", "h", "l", "c", "vw")})
    polygon.splits = [{"ticker": "NFLX", "execution_date": str(TUESDAY), "split_from": 1, "split_to": 10}]


def test_run_that_is_killed_between_two_commits_of_a_split_is_finished_by_the_next(
    polygon: PolygonServer, runner: Runner, home: Path
) -> None:
    """Tuesday is stored without its split, which Wednesday's run learns: one commit each for the split, the bars, Wednesday's
    windows, and Tuesday's.
    """
    serve_split(polygon)
    splits, polygon.splits = polygon.splits, []
    place = Place(home)
    assert runner.run(*run_day(MONDAY, home)).code == 0
    assert runner.run(*run_day(TUESDAY, home), "--accept", f"NFLX:{TUESDAY}:jump").code == 0
    polygon.splits = splits
    place.keep()
    before = values(place.tables())
    notes = runner.watch(*run_day(WEDNESDAY, home))
    after = values(place.tables())
    assert [row["state"] for row in after[SPLITS] or []] == ["applied"]
    seen = []
    for at in range(1, notes["commits"] + 1):
        place.restore()
        assert runner.wait(runner.start(*run_day(WEDNESDAY, home), commit=at)).code == -signal.SIGKILL
        found = values(place.tables())
        seen.append(tuple(found[name] != before[name] for name in (SPLITS, PRODUCTION, CUMULATIVE)))
        again = runner.run(*run_day(WEDNESDAY, home))
        assert again.code == 0, f"killed after commit {at}: {again.err}"
        assert values(place.tables()) == after, f"killed after commit {at}"
        must_be_clean(home, f"killed after commit {at}")
    assert sorted(set(seen)) == [(False,) * 3, (True, False, False), (True, True, False), (True,) * 3]
    assert seen.count((True,) * 3) > 1, "the windows around the split have a commit of their own"


# Many sessions


RANGE = sessions.between(MONDAY, date(2025, 10, 16))
STORED = {
    "an-empty-home": State([]),
    # Grouped calls instead of range calls; the windows of what is stored are refreshed.
    "a-range-with-gaps": State([RANGE[1]]),
}


def by_session(rows: Sequence[Row] | None) -> dict[object, list[Row]]:
    found: dict[object, list[Row]] = {}
    for line in without_stamp(rows or [], STAMPS[PRODUCTION]):
        found.setdefault(line["date"], []).append(line)
    return found


def must_be_between(seen: Tables, before: Tables, after: Tables, what: str) -> None:
    """Each session's bars are as before or as after, and no window lacks its bar."""
    old, now, new = (by_session(tables[PRODUCTION]) for tables in (before, seen, after))
    for day in RANGE:
        assert now.get(day) in (old.get(day), new.get(day)), f"{day} is neither as before nor as after, {what}"
    stored = {(line["ticker"], line["date"]) for line in seen[PRODUCTION] or []}
    assert {(line["ticker"], line["date"]) for line in seen[CUMULATIVE] or []} <= stored, what


@pytest.mark.parametrize("state", [pytest.param(state, id=name) for name, state in STORED.items()])
def test_next_run_finishes_killed_backfill(polygon: PolygonServer, runner: Runner, home: Path, state: State) -> None:
    serve_bars(polygon, RANGE)

    def kill_some(number: int) -> list[int | str | None]:
        """One thread's share of the points."""
        place = Place(home / str(number))
        run = backfill_of(RANGE, place.home)
        publish_other_bars(place.home, state.days, state.keep_snapshots)
        place.keep()
        before = place.tables()
        notes = runner.watch(*run)
        after = place.tables()
        assert {line["date"] for line in after[CUMULATIVE] or []} == set(RANGE)
        with open_catalog(place.home) as catalog:  # one for each batch
            assert len(catalog.load_table(PRODUCTION).snapshots()) == len(state.days) + 2
        codes = []
        for at in moments(notes, state.points)[number::THREADS]:
            place.restore()
            codes.append(runner.run(*run, at=at).code)
            must_be_between(place.tables(), before, after, f"killed at {at}")
            for again in (run, ("status", *run[1:])):
                ended = runner.run(*again)
                assert ended.code == 0, f"killed at {at}: {ended.err}"
            assert values(place.tables()) == values(after), f"killed at {at}"
            must_be_clean(place.home, f"killed at {at}")
        return codes

    with ThreadPoolExecutor(THREADS) as pool:
        codes = [code for share in pool.map(kill_some, range(THREADS)) for code in share]
    assert set(codes) <= {-signal.SIGKILL, 0}
    assert codes.count(-signal.SIGKILL) >= len(codes) * 0.8


@pytest.mark.parametrize(
    ("send", "code", "word"),
    [(signal.SIGINT, ExitCode.INTERRUPTED, "interrupted"), (signal.SIGTERM, ExitCode.TERMINATED, "terminated")],
)
def test_interrupted_backfill_says_how_to_finish_and_next_run_finishes_it(
    polygon: PolygonServer, runner: Runner, home: Path, send: int, code: ExitCode, word: str
) -> None:
    serve_bars(polygon, RANGE)
    place = Place(home)
    run = backfill_of(RANGE, home)
    notes = runner.watch(*run)
    before, after = dict.fromkeys(STAMPS), place.tables()
    ended = []
    for at in moments(notes, max(POINTS // 4, 6)):
        place.restore()
        ended.append(runner.run(*run, at=at, send=send))
        what = f"interrupted at {at}"
        must_be_between(place.tables(), before, after, what)
        if ended[-1].code:
            lines = [f"error: {word}; published data is intact", "hint: run the same command again to finish"]
            assert (ended[-1].code, ended[-1].err.splitlines()[-2:]) == (code, lines), what
        assert runner.run(*run).code == 0, what
        assert values(place.tables()) == values(after), what
        must_be_clean(home, what)
    assert [each.code for each in ended].count(code) >= len(ended) * 0.8


# Two at the same time


TWO: list[tuple[str, list[tuple[date, Sequence[str]]]]] = [
    ("the-same-day", [(TUESDAY, TICKERS), (TUESDAY, TICKERS)]),
    ("different-days", [(TUESDAY, TICKERS), (WEDNESDAY, TICKERS)]),
    ("different-tickers", [(TUESDAY, TICKERS[:2]), (TUESDAY, TICKERS[1:])]),
]
two = pytest.mark.parametrize("requests", [pytest.param(requests, id=name) for name, requests in TWO])


def must_end_well(runner: Runner, place: Place, runs: Mapping[tuple[str, ...], Ended], after: Tables, what: str) -> None:
    """Each run has done its work, or says that it has not, and then a re-run does it."""
    for argv, ended in runs.items():
        if ended.code != 0:
            assert ended.code == ExitCode.MAY_HEAL, f"{what}: {ended}"
            error, hint = ended.err.splitlines()[-2:]
            assert error.startswith("error: "), ended.err
            assert hint.startswith("hint: "), ended.err
            assert "run the same command again" in hint
            assert runner.run(*argv).code == 0
    assert sum(ended.code != 0 for ended in runs.values()) < len(runs), what
    assert values(place.tables()) == values(after), what
    must_be_clean(place.home, what)


@pytest.fixture
def place(polygon: PolygonServer, home: Path) -> Place:
    """An empty home; Polygon serves Tuesday and Wednesday."""
    serve_bars(polygon)
    return Place(home)


def one_after_the_other(runner: Runner, place: Place, runs: Sequence[tuple[str, ...]]) -> Tables:
    for argv in runs:
        assert runner.run(*argv).code == 0
    return place.tables()


def run_together(runner: Runner, place: Place, argvs: Sequence[tuple[str, ...]], after: Tables, what: str) -> None:
    """Start the runs at the same time, on the home as it was kept. They must end well."""
    place.restore()
    forks = [runner.start(*argv) for argv in argvs]
    runs = {argv: runner.wait(fork) for argv, fork in zip(argvs, forks, strict=True)}
    must_end_well(runner, place, runs, after, what)


@two
def test_two_runs_at_the_same_time_end_well(runner: Runner, place: Place, requests: list[tuple[date, Sequence[str]]]) -> None:
    argvs = [(*run_day(day, place.home, tickers), *["--quiet"] * n) for n, (day, tickers) in enumerate(requests)]
    after = one_after_the_other(runner, place, argvs)
    for attempt in range(2):
        run_together(runner, place, argvs, after, f"attempt {attempt}")


@pytest.mark.parametrize("days", [(TUESDAY, TUESDAY), (TUESDAY, WEDNESDAY)], ids=["the-same-day", "different-days"])
def test_two_runs_at_the_same_time_learn_a_split_once(
    polygon: PolygonServer, runner: Runner, place: Place, days: Sequence[date]
) -> None:
    serve_split(polygon)
    assert runner.run(*run_day(MONDAY, place.home)).code == 0
    place.keep()
    argvs = [(*run_day(day, place.home), *["--quiet"] * n) for n, day in enumerate(days)]
    after = one_after_the_other(runner, place, argvs)
    for attempt in range(2):
        run_together(runner, place, argvs, after, f"attempt {attempt}")
        assert [(row["ticker"], row["state"]) for row in place.tables()[SPLITS] or []] == [("NFLX", "applied")]


@two
def test_stopped_run_ends_well_after_another_ran(
    runner: Runner, place: Place, requests: list[tuple[date, Sequence[str]]]
) -> None:
    slow, quick = ((*run_day(day, place.home, tickers), *["--quiet"] * n) for n, (day, tickers) in enumerate(requests))
    notes = runner.watch(*slow)
    after = one_after_the_other(runner, place, [quick])
    for at in moments(notes, max(POINTS // 4, 4)):
        place.restore()
        sleeping = runner.start(*slow, at=at, send=signal.SIGSTOP)
        stopped = runner.wait(sleeping)
        other = runner.start(*quick)
        ended = runner.wait(other, seconds=0.5)
        if stopped.code == "stopped":
            sleeping.send_signal(signal.SIGCONT)
        runs = {slow: runner.wait(sleeping) if stopped.code == "stopped" else stopped}
        # It waits for the lock if the stopped run has it.
        runs[quick] = runner.wait(other) if ended.code is None else ended
        must_end_well(runner, place, runs, after, f"asleep at {at}")


# The other commands that write, and the steps of a day one by one


@dataclass(frozen=True)
class Command:
    argv: Sequence[str]
    earlier: Sequence[Sequence[str]]
    """The commands that come before it."""
    changes: Sequence[str] = ()
    """The tables whose rows it changes."""
    when_done: ExitCode = ExitCode.DONE
    """How it exits if there is nothing left to do."""


THREE_DAYS = [["run-day", "--date", str(day)] for day in (MONDAY, TUESDAY, WEDNESDAY)]
STEPS = [["init-tables"], *([step, "--date", str(TUESDAY)] for step in ("ingest", "promote", "cumulate"))]
OTHER_COMMANDS = {
    "init-tables": Command(["init-tables"], []),
    "maintain": Command(["maintain"], THREE_DAYS),
    "drop-staging": Command(["drop-staging", "--date", str(TUESDAY)], STEPS[:2]),
    "doctor": Command(["doctor"], [["init-tables"]]),
    "ingest": Command(STEPS[1], STEPS[:1], [SPLITS]),
    "promote": Command(STEPS[2], STEPS[:2], [PRODUCTION]),
    "cumulate": Command(STEPS[3], STEPS[:3], [CUMULATIVE]),
    "backfill --refetch": Command(
        ["backfill", "--refetch", "--from", str(MONDAY), "--to", str(TUESDAY)], [], [PRODUCTION, CUMULATIVE, FINDINGS]
    ),
    "splits --add": Command(["splits", "--add", f"NFLX:{TUESDAY}:1:10"], THREE_DAYS, [CUMULATIVE, SPLITS]),
    "splits --ignore": Command(["splits", "--ignore", f"AAPL:{TUESDAY}"], THREE_DAYS, [CUMULATIVE, SPLITS]),
    # All or nothing: if META's split is taken back, NFLX's is added.
    "splits --clear": Command(
        ["splits", "--clear", f"META:{TUESDAY}", "--add", f"NFLX:{TUESDAY}:1:10"],
        [*THREE_DAYS, ["splits", "--add", f"META:{TUESDAY}:1:2"]],
        [CUMULATIVE, SPLITS],
        when_done=ExitCode.UNUSABLE,
    ),
}


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_other_killed_command_has_changed_all_or_nothing_and_the_same_command_finishes_it(
    polygon: PolygonServer, runner: Runner, home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if command == "doctor":
        serve_every_session(polygon)
    else:
        serve_bars(polygon, (MONDAY, TUESDAY, WEDNESDAY))
    if command != "backfill --refetch":  # the prices before it and those after it would judge the split differently
        # The prices neither prove nor contradict this one, so that it is applied.
        polygon.splits = [{"ticker": "AAPL", "execution_date": str(TUESDAY), "split_from": 100, "split_to": 105}]
    monkeypatch.setenv("MAANG_HOME", str(home))
    monkeypatch.setenv("MAANG_TICKERS", ",".join(TICKERS))
    chosen = OTHER_COMMANDS[command]
    place = Place(home)
    for each in chosen.earlier:
        assert runner.run(*each).code == 0
    if command == "backfill --refetch":
        publish_other_bars(home, [MONDAY, TUESDAY], 100)
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "1")
    place.keep()
    before = values(place.tables()) if home.exists() else {name: [] for name in STAMPS}
    notes = runner.watch(*chosen.argv)
    after, tables = values(place.tables()), folders(home)
    assert {name for name in STAMPS if before[name] != after[name]} == set(chosen.changes)
    codes = []
    for at in moments(notes, POINTS):
        place.restore()
        codes.append(runner.run(*chosen.argv, at=at).code)
        what = f"{command} killed at {at}"
        seen = values(place.tables())
        assert all(seen[name] in (before[name], after[name]) for name in STAMPS), what
        if chosen.argv[0] == "splits" and seen[SPLITS] == after[SPLITS]:
            assert seen == after, f"a split without its windows, {what}"
        again = runner.run(*chosen.argv)
        is_done = bool(chosen.changes) and seen == after
        assert again.code == (chosen.when_done if is_done else ExitCode.DONE), f"{what}: {again.err}"
        assert values(place.tables()) == after, what
        must_be_clean(home, what, tables)
    assert set(codes) <= {-signal.SIGKILL, 0}
    assert codes.count(-signal.SIGKILL) >= len(codes) * 0.8
