"""With --json every ending prints exactly one document, of one shape (docs/json.md). test_process.py has the signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from maang_cli import errors
from maang_cli.errors import MaangError
from tests.cli.helpers import DAY, META, ON_DAY, SAMPLE, SESSION, completed, envelope, failed, serve
from tests.cli.scenes import KINDS, Scene
from tests.conftest import Maang
from tests.polygon_server import KEY, PolygonServer, row

NEXT_DAY = "2025-10-15"
NEXT = SESSION.replace(day=15)
TWO_DAYS = (*ON_DAY, "--date", NEXT_DAY)


@pytest.fixture
def scene(maang: Maang, polygon: PolygonServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(maang, polygon, home, monkeypatch)


# Success

CHANGES = {"table", "inserted", "updated", "deleted", "unchanged"}
RESULTS: dict[str, tuple[Sequence[str], Sequence[str], set[str]]] = {
    "init-tables": (ON_DAY, [DAY], {"created", "present", "added", "without_splits"}),
    "ingest": (TWO_DAYS, [DAY, NEXT_DAY], {"rows", "source", "made_up", "staging", "splits"}),
    "check": (TWO_DAYS, [DAY, NEXT_DAY], {"passed", "staging", "checks", "refused", "allowed"}),
    "diff": (TWO_DAYS, [DAY, NEXT_DAY], {"table", "new", "changed", "removed", "cells"}),
    "promote": (TWO_DAYS, [DAY, NEXT_DAY], CHANGES | {"refused", "allowed", "held", "revised"}),
    "cumulate": (TWO_DAYS, [DAY, NEXT_DAY], CHANGES | {"missing"}),
    "show": (["--from", DAY, "--to", NEXT_DAY], [DAY, NEXT_DAY], {"table", "rows", "adjusted", "missing"}),
    "sql": (["SELECT count(*) FROM production"], [], {"columns", "rows"}),
    "report": (TWO_DAYS, [DAY, NEXT_DAY], {"file", "bytes", "level", "verdict", "charts", "findings", "revisions"}),
    "drop-staging": (TWO_DAYS, [DAY, NEXT_DAY], {"staging", "dropped", "refused"}),
    "run-day": (ON_DAY, [DAY], {"ingest", "check", "promote", "cumulate"}),
    "plan": (
        ON_DAY,
        [DAY],
        {
            "missing",
            "allowed",
            "early",
            "windows",
            "calls",
            "grouped_calls",
            "range_calls",
            "cached_answers",
            "calls_per_minute",
            "universe",
            "minutes",
        }
        | {"batches", "commits", "rows"},
    ),
    "backfill": (
        ON_DAY,
        [DAY],
        {"published", "production", "cumulative", "calls", "refused", "failed", "staging", "allowed", "held", "revised"},
    ),
    "status": (
        ON_DAY,
        [DAY],
        {
            "complete",
            "tables",
            "missing",
            "allowed",
            "early",
            "held",
            "refused",
            "windows",
            "awaited",
            "latency",
            "staging",
            "last_session",
            "last_final",
            "next_due",
            "next_due_at",
            "disputed_splits",
            "mistaken_rows",
            "universe",
        },
    ),
    "splits": ([], [], {"table", "splits"}),
    "doctor": ([], [], {"checks"}),
    "maintain": ([], [], {"warehouse", "cleanups"}),
}


@pytest.mark.parametrize("verbosity", [[], ["--quiet"], ["--verbose"]], ids=" ".join)
def test_success_of_every_command(maang: Maang, verbosity: Sequence[str]) -> None:
    for command, (argv, sessions, keys) in RESULTS.items():
        outcome = maang(command, *argv, *SAMPLE, "--json", *verbosity)
        found = envelope(outcome)
        assert (outcome.code, found["outcome"], found["command"], found["sessions"]) == (0, "done", command, sessions)
        assert set(found["result"]) == keys, command


def test_sessions_are_those_that_the_command_found(maang: Maang) -> None:
    assert envelope(maang("init-tables", *SAMPLE, "--json"))["sessions"] == []
    assert envelope(maang("run-day", *ON_DAY, *SAMPLE, "--json"))["sessions"] == [DAY]
    from_the_first = envelope(maang("status", *SAMPLE, "--json"))["sessions"]
    assert from_the_first[0] == DAY
    assert len(from_the_first) > 200
    with_a_saturday = maang("ingest", "--date", NEXT_DAY, "--date", "2025-10-11", *ON_DAY, *SAMPLE, "--json")
    assert envelope(with_a_saturday)["sessions"] == [DAY, NEXT_DAY]


# A closed market


@pytest.mark.parametrize("command", ["run-day", "ingest", "backfill", "show"])
def test_closed_market(maang: Maang, command: str) -> None:
    outcome = maang(command, "--date", "2025-11-27", *SAMPLE, "--json", "-q")
    found = envelope(outcome)
    assert (outcome.code, found["outcome"], found["command"]) == (99, "no_session", command)
    assert (found["sessions"], found["result"]) == ([], None)
    assert found["error"] == {"message": "2025-11-27 is not a session: Thanksgiving Day", "hint": ""}
    assert outcome.err == "2025-11-27 is not a session: Thanksgiving Day\n"


@pytest.mark.parametrize("command", ["run-day", "ingest", "backfill"])
def test_closed_market_with_ok_if_no_session(maang: Maang, command: str) -> None:
    outcome = maang(command, "--date", "2025-10-11", *SAMPLE, "--ok-if-no-session", "--json")
    found = envelope(outcome)
    assert (outcome.code, found["outcome"], found["command"], found["sessions"]) == (0, "done", command, [])
    assert found["result"] == {"no_session": "2025-10-11 is not a session: Saturday"}


# Errors


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error(scene: Scene, kind: type[MaangError]) -> None:
    arrange, argv, text = KINDS[kind]
    arrange(scene)
    outcome = scene.maang(*argv, "--json", "-q")
    found = envelope(outcome)
    assert (outcome.code, found["command"]) == (kind.exit_code, argv[0])
    error = found["error"]
    assert text in error["message"]
    hinted = f"error: {error['message']}\n" + "".join(f"hint: {line}\n" for line in error["hint"].splitlines())
    assert outcome.err == (hinted if error["hint"] else f"{error['message']}\n")
    unknown = kind in (errors.NoSession, errors.SettingsError)
    assert found["sessions"] == ([] if unknown else [DAY])
    assert (found["result"] is None) == (kind is not errors.GateRefused)


USAGE: dict[str, tuple[Sequence[str], str | None, str]] = {
    "an unknown option": (["run-day", *ON_DAY, "--tickets", "META", "--json"], "run-day", "--tickets"),
    "an unknown command": (["run-days", *ON_DAY, "--json"], None, "run-days"),
    "no command": (["--json"], None, "--json"),
    "a missing value": (["ingest", "--json", "--date"], "ingest", "--date"),
    "a value that is not allowed": (["show", *ON_DAY, "--table", "prices", "--json"], "show", "prices"),
    "an extra argument": (["status", DAY, "--json"], "status", DAY),
    "an option that means nothing to the command": (["maintain", "--tickers", "META", "--json"], "maintain", "--tickers"),
    "no session": (["check", "--json"], "check", "no session is selected"),
    "an invalid date": (["check", "--date", "today", "--json"], "check", "'today' is not a date"),
    "--json in place of a value": (["check", "--date", "--json"], "check", "'--json' is not a date"),
    "a wrong setting": (["plan", *ON_DAY, "--source", "yahoo", "--json"], "plan", "'yahoo' is not a source"),
}


@pytest.mark.parametrize(("argv", "command", "text"), USAGE.values(), ids=USAGE.keys())
def test_wrong_usage(maang: Maang, argv: Sequence[str], command: str | None, text: str) -> None:
    outcome = maang(*argv)
    found = envelope(outcome)
    assert (outcome.code, found["outcome"], found["command"]) == (2, "unusable", command)
    assert (found["sessions"], found["result"]) == ([], None)
    message, hint = failed(outcome, 2, outcome.out)
    assert found["error"] == {"message": message, "hint": hint}
    assert text in message


def test_help_is_not_json(maang: Maang) -> None:
    assert "Usage: maang show" in maang("show", "--help", "--json").out
    assert maang("show", "--help", "--json").out == maang("show", "--help").out


# Refusals


@pytest.mark.parametrize("command", ["check", "promote", "run-day"])
def test_refusal_has_the_audit_as_its_result(maang: Maang, polygon: PolygonServer, command: str) -> None:
    serve(polygon, "META")
    flags = (*ON_DAY, "--tickers", "META,NOPE", "-q")
    assert maang("init-tables", *flags).code == 0
    assert maang("ingest", *flags).code == 0
    outcome = maang(command, *flags, "--json")
    message, hint = failed(outcome, 3, outcome.out)
    found = envelope(outcome)
    assert (found["outcome"], found["command"], found["sessions"]) == ("refused", command, [DAY])
    assert found["error"] == {"message": message, "hint": hint}
    audit = found["result"]
    assert audit["passed"] is False
    (broken,) = [check for check in audit["checks"] if check["failing"]]
    assert (broken["name"], broken["failing"]) == ("missing_stocks", 1)
    (failing,) = broken["rows"]
    assert (failing["ticker"], failing["date"], failing["found"], failing["outcome"]) == ("NOPE", DAY, "no bar", "refused")


def one_of_two_refused(scene: Scene) -> None:
    scene.polygon.days = {SESSION: [row("META", SESSION)], NEXT: [row("META", NEXT, c=-1)]}
    assert scene.maang("init-tables", *TWO_DAYS, *META[2:]).code == 0
    assert scene.maang("ingest", *TWO_DAYS, *META[2:]).code == 0


def one_of_two_missing(scene: Scene) -> None:
    scene.real_day()
    scene.polygon.days[NEXT] = [row("META", NEXT)]


def key_is_wrong(scene: Scene) -> None:
    scene.monkeypatch.setenv("POLYGON_TOKEN", "wrong")


def key_is_missing(scene: Scene) -> None:
    scene.monkeypatch.delenv("POLYGON_TOKEN")


REFUSED_NEXT = [{"session": NEXT_DAY, "checks": ["price_ranges"]}]


@dataclass(frozen=True)
class Ending:
    arrange: Callable[[Scene], None]
    argv: Sequence[str]
    code: int
    outcome: str
    sessions: Sequence[object]
    """`...` stands for the sessions between the first and the last."""
    result: Callable[[Any], bool]
    """Whether the result is right."""
    error: str
    """What the error's message contains."""


ENDINGS = {
    "check, partly refused": Ending(
        one_of_two_refused,
        ["check", *TWO_DAYS, *META[2:]],
        5,
        "partial",
        [DAY, NEXT_DAY],
        lambda result: not result["passed"] and result["refused"] == REFUSED_NEXT,
        "the gate refused 1 of 2 sessions: 2025-10-15 (price_ranges)",
    ),
    "promote, partly refused": Ending(
        one_of_two_refused,
        ["promote", *TWO_DAYS, *META[2:]],
        5,
        "partial",
        [DAY, NEXT_DAY],
        lambda result: result["inserted"] == 1 and result["refused"] == REFUSED_NEXT,
        "the gate refused 1 of 2 sessions",
    ),
    "run-day, partly refused": Ending(
        one_of_two_refused,
        ["run-day", *TWO_DAYS, *META[2:]],
        5,
        "partial",
        [DAY, NEXT_DAY],
        lambda result: result["cumulate"]["inserted"] == 1 and result["promote"]["refused"] == REFUSED_NEXT,
        "the gate refused 1 of 2 sessions",
    ),
    "backfill, partly refused": Ending(
        one_of_two_refused,
        ["backfill", *TWO_DAYS, *META[2:]],
        5,
        "partial",
        [DAY, NEXT_DAY],
        lambda result: result["published"] == [DAY] and result["refused"] == REFUSED_NEXT,
        "1 of 2 sessions are not done: 2025-10-15 refused (price_ranges)",
    ),
    "status, missing bars": Ending(
        one_of_two_missing,
        ["status", *TWO_DAYS, *META[2:]],
        5,
        "partial",
        [DAY, NEXT_DAY],
        lambda result: not result["complete"] and result["missing"] == [{"session": NEXT_DAY, "tickers": ["META"]}],
        "1 session with missing bars",
    ),
    "doctor, wrong key": Ending(
        key_is_wrong,
        ["doctor"],
        2,
        "unusable",
        [],
        lambda result: [each["name"] for each in result["checks"] if not each["ok"]] == ["key", "history"],
        "HTTP 401, Unknown API Key",
    ),
    "doctor, no key": Ending(
        key_is_missing,
        ["doctor"],
        2,
        "unusable",
        [],
        lambda result: [each["name"] for each in result["checks"] if not each["ok"]] == ["source"],
        "POLYGON_TOKEN is not set",
    ),
    "backfill, too long": Ending(
        lambda scene: scene.monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "1"),
        ["backfill", "--from", "2025-01-02", "--to", DAY, "--tickers", ",".join(f"T{number}" for number in range(99))],
        2,
        "unusable",
        ["2025-01-02", ..., DAY],
        lambda result: result is None,
        "not started: this would take about",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_other_endings(scene: Scene, ending: Ending) -> None:
    ending.arrange(scene)
    outcome = scene.maang(*ending.argv, "--json", "-q")
    message, hint = failed(outcome, ending.code, outcome.out)
    found = envelope(outcome)
    assert (found["outcome"], found["command"]) == (ending.outcome, ending.argv[0])
    if ... in ending.sessions:
        assert [found["sessions"][0], ..., found["sessions"][-1]] == ending.sessions
    else:
        assert found["sessions"] == ending.sessions
    assert ending.result(found["result"]), found["result"]
    assert found["error"] == {"message": message, "hint": hint}
    assert ending.error in message


def test_backfill_with_an_unavailable_session(maang: Maang, polygon: PolygonServer) -> None:
    names = ("META", "AAPL", "AMZN")
    serve(polygon, *names)
    outcome = maang("backfill", *TWO_DAYS, "--tickers", ",".join(names), "--json", "-q")
    found = envelope(outcome)
    assert (outcome.code, found["outcome"], found["sessions"]) == (4, "may_heal", [DAY, NEXT_DAY])
    assert found["result"]["published"] == [DAY]
    (unavailable,) = found["result"]["failed"]
    assert unavailable["session"] == NEXT_DAY
    assert "has no bars for 2025-10-15 yet" in unavailable["error"]
    assert unavailable["error"] in found["error"]["message"]


# A bug


BUG = """
import sys
from maang_cli.sources import sample

def bars(self, tickers, sessions):
    secret = "local-value"
    raise RuntimeError("a bug")

sample.SampleSource.bars = bars
from maang_cli.cli.process import run
run()
"""
RENDERING_BUG = """
import sys
from maang_cli import pipeline

pipeline.ingest = lambda *_: object()
from maang_cli.cli.process import run
run()
"""


@pytest.mark.parametrize(("program", "error"), [(BUG, "RuntimeError"), (RENDERING_BUG, "TypeError")], ids=["work", "result"])
def test_bug_keeps_its_traceback_on_stderr(program: str, error: str) -> None:
    outcome = completed(["ingest", *ON_DAY, *SAMPLE, "--json", "-q"], program=program)
    found = envelope(outcome)
    assert (outcome.code, found["outcome"], found["command"], found["sessions"]) == (1, "bug", "ingest", [DAY])
    assert found["result"] is None
    assert found["error"]["message"] == f"{error}: a bug in maang"
    assert outcome.err.startswith("Traceback (most recent call last)")
    assert "error:" not in outcome.err.splitlines()[0]
    assert KEY not in outcome.err


def test_bug_without_json_prints_only_its_traceback() -> None:
    outcome = completed(["run-day", *ON_DAY, *SAMPLE, "-q"], program=BUG)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("Traceback (most recent call last)")
    assert outcome.err.endswith("RuntimeError: a bug\n")
    assert "error:" not in outcome.err
    assert "local-value" not in outcome.err.replace('secret = "local-value"', ""), "locals may be secrets"


def test_main_raises_a_bug() -> None:
    program = BUG.replace("import run\nrun()", "import main\ntry: main(sys.argv[1:])\nexcept RuntimeError: print('raised')")
    outcome = completed(["ingest", *ON_DAY, *SAMPLE, "-q"], program=program)
    assert (outcome.code, outcome.out, outcome.err) == (0, "raised\n", "")
