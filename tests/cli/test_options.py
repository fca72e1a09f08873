"""Options: what is rejected, what each command offers, what help shows, and hints that can be typed."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from pyiceberg.catalog.sql import SqlCatalog

from maang_cli import sessions
from maang_cli.cli.commands import app
from tests import settings
from tests.cli.helpers import DAY, META, ON_DAY, PATIENCE, PROGRAM, SAMPLE, SESSION, completed, failed
from tests.conftest import Maang
from tests.polygon_server import PolygonServer, row

PANELS = {
    "Everyday": ["run-day", "backfill", "status", "show", "sql", "report"],
    "Steps of a day": ["init-tables", "ingest", "check", "promote", "cumulate", "drop-staging"],
    "Inspect": ["diff", "plan", "config", "doctor"],
    "Maintain": ["splits", "maintain"],
}
COMMANDS = [name for names in PANELS.values() for name in names]
SESSIONS = {"--date", "--from", "--to", "--last"}
SETTINGS = {"--tickers", "--source", "--warehouse", "--schema", "--home", "--allow-missing"}
SHARED = SETTINGS | {"--ok-if-no-session", "--json", "--quiet", "-q", "--verbose", "-v", "--help", "-h"}
OWN = {
    "run-day": {"--early", "--accept"},
    "promote": {"--accept"},
    "backfill": {"--refetch", "--early", "--accept", "--dry-run", "--yes", "-y"},
    "diff": {"--table"},
    "status": {"--max-delay"},
    "plan": {"--refetch"},
    "show": {"--table", "--as-of", "--adjusted", "--format", "--out"},
    "sql": {"--format", "--out"},
    "report": {"--out"},
    "splits": {"--add", "--ignore", "--clear"},
    "init-tables": {"--only"},
}
MEANINGLESS = {
    "status": {"--ok-if-no-session"},
    "report": {"--ok-if-no-session"},
    "plan": {"--ok-if-no-session"},
    "show": {"--allow-missing", "--ok-if-no-session"},
    "sql": {"--allow-missing", "--ok-if-no-session", "--tickers", *SESSIONS},
    "init-tables": {"--allow-missing"},
    "ingest": {"--allow-missing"},
    "drop-staging": {"--allow-missing"},
    "diff": {"--allow-missing"},
    "config": {"--ok-if-no-session", *SESSIONS},
    "splits": {"--allow-missing", "--ok-if-no-session", "--date", "--last"},
    "doctor": {"--allow-missing", "--ok-if-no-session", "--tickers", *SESSIONS},
    "maintain": {"--allow-missing", "--ok-if-no-session", "--tickers", *SESSIONS},
}
"""Options of other commands that would change nothing."""


def offered(command: str) -> set[str]:
    """The options that a command accepts."""
    group: Any = typer.main.get_command(app)
    options = {option for parameter in group.commands[command].params for option in parameter.opts if option[0] == "-"}
    return options | {"--help", "-h"}


# Dates and timestamps


@pytest.mark.parametrize(
    "text",
    ["2025-02-30", "2025-13-01", "2025-00-10", "14.10.2025", "20251014", "2025-W42-2", "2025-10-14T00:00", "today", "", " "],
)
@pytest.mark.parametrize("flag", ["--date", "--from"])
def test_invalid_date_exits_2(maang: Maang, flag: str, text: str) -> None:
    message, hint = failed(maang("run-day", flag, text, *SAMPLE, "-q"), 2)
    assert message == f"{text!r} is not a date"
    assert f"give {flag} as YYYY-MM-DD" in hint


@pytest.mark.parametrize(
    ("text", "reason"), [("2999-01-02", "is in the future: in New York it is 20"), ("1989-12-29", "is before 1990-01-01")]
)
def test_date_outside_of_the_calendar_exits_2(maang: Maang, text: str, reason: str) -> None:
    message, hint = failed(maang("run-day", "--date", text, *SAMPLE, "-q"), 2)
    assert f"{text} {reason}" in message
    assert "--date" in hint


@pytest.mark.parametrize("text", ["now", "2025-13-01", "", "1760472000"])
def test_invalid_timestamp_exits_2(maang: Maang, text: str) -> None:
    message, hint = failed(maang("show", *ON_DAY, *SAMPLE, "--as-of", text, "-q"), 2)
    assert message == f"{text!r} is not a timestamp"
    assert "ISO 8601" in hint


# Usage


USAGE = {
    "no session": (["ingest"], "no session is selected", "--date"),
    "half a range": (["ingest", "--to", DAY], "--to needs --from", "--from"),
    "the last sessions and a date": (
        ["ingest", *ON_DAY, "--last", "5"],
        "--last can't be combined with --date, --from or --to",
        "give one of them",
    ),
    "a date and a range": (["ingest", *ON_DAY, "--from", DAY], "--date and --from can't be combined", "--to"),
    "a date without its value": (["run-day", "--date"], "--date", "maang run-day --help"),
    "an unknown command": (["run-days", *ON_DAY], "run-days", "maang --help"),
    "an unknown option": (["run-day", *ON_DAY, "--tickets", "META"], "--tickets", "maang run-day --help"),
    "an option before the command": (["--json", "run-day", *ON_DAY], "--json", "maang --help"),
    "an unknown table": (["show", *ON_DAY, "--table", "prices"], "prices", "maang show --help"),
    "an extra argument": (["run-day", DAY, *ON_DAY], DAY, "maang run-day --help"),
    "staging without a session": (["init-tables", "--only", "staging"], "--only staging needs a session", "--date"),
}


@pytest.mark.parametrize(("argv", "text", "hinted"), USAGE.values(), ids=USAGE.keys())
def test_wrong_usage_exits_2_with_two_lines(maang: Maang, home: Path, argv: Sequence[str], text: str, hinted: str) -> None:
    outcome = maang(*argv)
    message, hint = failed(outcome, 2, outcome.out if "--json" in argv else "")
    assert text in message
    assert not message.endswith(".")
    assert hinted in hint
    assert not home.exists()


@pytest.mark.parametrize(
    ("flags", "text", "hinted"),
    [
        (["--source", "yahoo"], "'yahoo' is not a source", "polygon, sample"),
        (["--warehouse", "oracle"], "'oracle' is not a warehouse", "local"),
        (["--tickers", "meta"], "'meta' is not a ticker symbol", "--tickers"),
        (["--tickers", ""], "the list of tickers is empty", "--tickers"),
        (["--tickers", "META,META"], "META", "--tickers"),
        (["--tickers", "@nowhere.txt"], "nowhere.txt", "@FILE"),
        (["--schema", "maang"], "never mix", "maang_sample"),
        (["--schema", "No Name"], "'No Name'", "--schema"),
        (["--allow-missing", "150%"], "150%", "--allow-missing"),
    ],
)
def test_wrong_setting_exits_2(maang: Maang, flags: Sequence[str], text: str, hinted: str) -> None:
    message, hint = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q", *flags), 2)
    assert text in message
    assert hinted in hint


# What each command offers


@pytest.mark.parametrize("command", COMMANDS)
def test_command_offers_exactly_the_options_that_mean_something_to_it(command: str) -> None:
    assert offered(command) == (SESSIONS | SHARED | OWN.get(command, set())) - MEANINGLESS.get(command, set())


@pytest.mark.parametrize(
    ("command", "option"), [(name, option) for name, options in MEANINGLESS.items() for option in sorted(options)]
)
def test_option_without_meaning_is_rejected(maang: Maang, command: str, option: str) -> None:
    value = [] if option == "--ok-if-no-session" else [DAY]
    message, hint = failed(maang(command, option, *value), 2)
    assert option in message
    assert hint == f"maang {command} --help"


# Help


def panels(text: str) -> dict[str, list[str]]:
    """The panels of a help text, in order, with the first word of each of their entries."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if heading := re.match(r"╭─ (.+?) ─+╮", line):
            found[heading[1]] = entries = []
        elif entry := re.match(r"│ ([a-z-]+)", line):
            entries.append(entry[1])
    return found


def test_help_groups_the_commands_in_this_order(maang: Maang) -> None:
    found = panels(maang("--help").out)
    assert list(found) == ["Options", *PANELS]
    assert {name: found[name] for name in PANELS} == PANELS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_groups_its_options_in_this_order(maang: Maang, command: str) -> None:
    found = panels(maang(command, "--help").out)
    assert list(found) == [*(["Arguments"] if command == "sql" else []), "Options", "Settings", "Output"]
    assert set(found["Settings"]) == offered(command) & SETTINGS
    assert {option for options in found.values() for option in options} == {each for each in offered(command) if each[1] == "-"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_default_of_every_option_that_has_one(maang: Maang, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    lines = (line.strip("│ ") for line in maang(command, "--help").out.splitlines() if line.startswith("│"))
    found = dict(entry.split(maxsplit=1) for entry in re.split(r"\n--", "\n" + "\n".join(lines))[1:])
    assert {f"--{name}" for name in found} == {each for each in offered(command) if each.startswith("--")}
    for name, text in found.items():
        is_switch = "<bool>" in text
        assert ("[default: " in text) != (is_switch or name in ("date", "from", "last")), text


@pytest.mark.parametrize("command", COMMANDS)
def test_narrow_help_breaks_no_word(maang: Maang, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = []
    for columns in ("300", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        words.append(set(re.sub("[│╭╮╰╯─]", " ", maang(command, "--help").out).split()))
    assert words[1] <= words[0]


def test_defaults_in_help_are_those_of_the_settings(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    shown = dict(re.findall(r"^│ --([a-z-]+) .*\[default: ([^]]*)\]", maang("run-day", "--help").out, re.MULTILINE))
    found = settings.load()
    assert shown == {
        "to": "the last final session",
        "tickers": ",".join(found.tickers),
        "source": found.source,
        "warehouse": f"databricks if DATABRICKS_HTTP_PATH is set, else {found.warehouse}",
        "schema": f"{found.schema_name} for polygon, {settings.load(source='sample').schema_name} for sample",
        "home": "your data folder",
        "allow-missing": "none",
        "accept": "none",
    }
    assert not found.allow_missing.tickers
    assert not found.allow_missing.percent
    assert "Without --date: the last final session." in maang("run-day", "--help").out
    assert "Without dates: from the first stored session to the last final one." in maang("status", "--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_variable_of_every_setting(maang: Maang, command: str) -> None:
    text = " ".join(maang(command, "--help").out.replace("│", " ").split())
    for option in offered(command) & SETTINGS:
        assert f"[env: MAANG_{option[2:].upper().replace('-', '_')}]" in text


def test_example_of_every_command_works(maang: Maang) -> None:
    # In this order each one succeeds.
    steps = ["init-tables", "ingest", "check", "diff", "promote", "cumulate", "show", "drop-staging"]
    for command in (*steps, *(name for name in COMMANDS if name not in steps)):
        shown = maang(command, "-h")
        assert shown.code == 0
        example = re.search(r"Example: maang (.*)", shown.out)
        assert example, command
        argv = shlex.split(example[1])
        assert argv[0] == command
        assert maang(*argv, *SAMPLE).code == 0, command


def test_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(words: str, position: int) -> list[str]:
        for name, value in {"_MAANG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}.items():
            monkeypatch.setenv(name, value)
        done = completed([])
        assert (done.code, done.err) == (0, "")
        return done.out.split()

    assert complete("maang ru", 1) == ["run-day"]
    assert "--allow-missing" in complete("maang check --", 2)
    assert "--allow-missing" not in complete("maang ingest --", 2)


def test_show_completion_prints_the_shells_script() -> None:
    script = shlex.join([*PROGRAM, "--show-completion"]) + "; exit $?"  # Typer finds the shell by its process
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_MAANG_COMPLETE=complete_bash" in done.stdout


# Hints that can be typed


def typed(hint: str) -> list[str]:
    """The command in a hint, as a shell would split it."""
    found = re.search(r"maang ([^;]*)", hint)
    assert found, hint
    return shlex.split(found[1])


def flags_in(argv: Sequence[str]) -> dict[str, str]:
    """The options of a command, each with the value that follows it."""
    return {flag: value for flag, value in zip(argv, [*argv[1:], ""], strict=True) if flag.startswith("--")}


NEXT_DAY, AFTER = "2025-10-15", "2025-10-16"
THREE_DAYS = ("--date", DAY, "--date", NEXT_DAY, "--date", AFTER)
Flags = Mapping[str, str]


def given(command: str, flags: Flags) -> list[str]:
    """The flags that a command offers."""
    return [word for flag, value in flags.items() if flag in offered(command) for word in (flag, value)]


class Scene:
    """Runs commands, each with the flags that it offers."""

    def __init__(self, maang: Maang, polygon: PolygonServer, flags: Flags) -> None:
        self.maang, self.polygon, self.flags = maang, polygon, flags

    def run(self, *argv: str) -> int:
        return self.maang(*argv, *given(argv[0], self.flags)).code

    def refuse(self, *days: str) -> None:
        """Let the server have bars that the gate refuses on these days, and good ones on the others."""
        for session in (SESSION, SESSION.replace(day=15), SESSION.replace(day=16), sessions.last_final(datetime.now(UTC))):
            self.polygon.days[session] = [
                row(ticker, session, **({"c": -1} if str(session) in days else {})) for ticker in ("META", "BRK.A")
            ]


def empty(scene: Scene) -> None:
    """Nothing exists."""
    scene.refuse()


def with_tables(scene: Scene) -> None:
    scene.refuse()
    assert scene.run("init-tables") == 0


def staged(scene: Scene) -> None:
    scene.refuse()
    assert scene.run("ingest", *ON_DAY) == 0


def staged_and_refused(scene: Scene) -> None:
    scene.refuse(DAY)
    assert scene.run("init-tables", *ON_DAY) == 0
    assert scene.run("ingest", *ON_DAY) == 0


def refused(scene: Scene) -> None:
    scene.refuse(DAY)


def one_of_three_refused(scene: Scene) -> None:
    scene.refuse(NEXT_DAY)


def all_refused(scene: Scene) -> None:
    scene.refuse(DAY, NEXT_DAY, AFTER)


def with_a_day(scene: Scene) -> None:
    scene.refuse()
    assert scene.run("run-day", *ON_DAY) == 0


def staged_with_another_column(scene: Scene) -> None:
    staged(scene)
    with closing(SqlCatalog("maang", uri=f"sqlite:///{scene.flags['--home']}/warehouse/catalog.db")) as catalog:
        (found,) = (name for name in catalog.list_tables("mine") if "staging" in name[1])
        catalog.load_table(found).update_schema().delete_column("vwap").commit()


HINTS: dict[str, tuple[Callable[[Scene], None], Sequence[str], str]] = {
    "check, not staged": (empty, ["check", *ON_DAY], "ingest"),
    "check, several sessions not staged": (empty, ["check", *THREE_DAYS], "ingest"),
    "check, sessions with a gap not staged": (empty, ["check", "--date", DAY, "--date", AFTER], "ingest"),
    "check, staging with other columns": (staged_with_another_column, ["check", *ON_DAY], "ingest"),
    "promote, not staged": (empty, ["promote", *ON_DAY], "ingest"),
    "promote, no tables": (staged, ["promote", *ON_DAY], "init-tables"),
    "cumulate, no tables": (empty, ["cumulate", *ON_DAY], "init-tables"),
    "cumulate, not published": (with_tables, ["cumulate", *ON_DAY], "run-day"),
    "show, no tables": (empty, ["show", *ON_DAY], "init-tables"),
    "show, no windows": (empty, ["show", *ON_DAY, "--table", "cumulative"], "init-tables"),
    "show, not staged": (empty, ["show", *ON_DAY, "--table", "staging"], "ingest"),
    "status, no session": (with_tables, ["status"], "run-day"),
    "status, missing bars": (with_a_day, ["status", "--from", DAY, "--to", AFTER], "backfill"),
    "check, refused": (staged_and_refused, ["check", *ON_DAY], "show"),
    "promote, refused": (staged_and_refused, ["promote", *ON_DAY], "show"),
    "run-day, refused": (refused, ["run-day", *ON_DAY], "show"),
    "run-day, partly refused": (one_of_three_refused, ["run-day", *THREE_DAYS], "show"),
    "run-day, all refused": (all_refused, ["run-day", "--from", DAY, "--to", AFTER], "show"),
    "run-day, usage": (empty, ["run-day", "--tickets", "META"], "run-day"),
}


@pytest.mark.parametrize("percent", ["", "0%"], ids=["", "allow-missing"])
@pytest.mark.parametrize(("arrange", "argv", "command"), HINTS.values(), ids=HINTS.keys())
def test_command_in_a_hint_has_its_flags_and_can_be_typed(
    arrange: Callable[[Scene], None],
    argv: Sequence[str],
    command: str,
    percent: str,
    maang: Maang,
    polygon: PolygonServer,
    tmp_path: Path,
) -> None:
    flags = {"--tickers": "BRK.A,META", "--source": "polygon", "--schema": "mine", "--home": str(tmp_path / "it's mine")}
    flags |= {"--allow-missing": percent} if percent else {}
    arrange(Scene(maang, polygon, flags))
    outcome = maang(*argv, *given(argv[0], flags), "-q")
    (hint,) = (line for line in outcome.err.splitlines() if line.startswith("hint: ") and "maang " in line)
    words = typed(hint)
    assert words[0] == command
    shown = flags_in(words)
    assert set(shown) <= offered(command)
    if shown != {"--help": ""}:
        assert shown.items() >= {flag: value for flag, value in flags.items() if flag in offered(command)}.items()
    assert maang(*words).code == 0


def test_hints_lead_from_an_empty_warehouse_to_a_published_day(maang: Maang, tmp_path: Path) -> None:
    flags = ("--tickers", "BRK.A,META", "--source", "sample", "--schema", "mine", "--home", str(tmp_path / "it's mine"))

    def hint_of(*argv: str) -> list[str]:
        return typed(failed(maang(*argv, *flags, "-q"), 2)[1])

    first = hint_of("promote", *ON_DAY)
    assert first[0] == "ingest"
    assert maang(*first).code == 0
    assert hint_of("cumulate", *ON_DAY)[0] == "init-tables"
    second = hint_of("promote", *ON_DAY)
    assert second[0] == "init-tables"
    assert maang(*second).code == 0
    third = hint_of("cumulate", *ON_DAY)
    assert third[0] == "run-day"
    for command in (first, second, third):
        assert dict(zip(command[-8::2], command[-7::2], strict=True)) == dict(zip(flags[::2], flags[1::2], strict=True))
    assert maang(*third).code == 0
    assert maang("cumulate", *ON_DAY, *flags).code == 0


def test_hint_of_a_refusal_shows_the_refused_rows(maang: Maang, polygon: PolygonServer) -> None:
    polygon.days[SESSION] = [row("META", SESSION, c=-1)]
    outcome = maang("run-day", *META, "-q")
    _, hint = failed(outcome, 3, outcome.out)
    assert "-1.00" in maang(*typed(hint)).out


def test_hint_of_a_usage_error_shows_the_help(maang: Maang) -> None:
    _, hint = failed(maang("shwo", *ON_DAY), 2)
    assert hint == "maang --help"
    assert maang(*typed(hint)).code == 0
