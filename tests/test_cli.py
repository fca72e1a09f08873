"""The command line: exit codes, what goes to stdout and what to stderr, signals, pipes and terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from filelock import FileLock
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException

from maang_cli import __version__, errors
from maang_cli.__main__ import STOPPED
from maang_cli.cli import app, main
from maang_cli.errors import ExitCode, MaangError
from maang_cli.sources.answers import Contradiction
from maang_cli.sources.transport import BeyondPlan
from maang_cli.warehouses.disk_errors import FileGone
from tests.conftest import Maang, Outcome
from tests.polygon_server import KEY, Answer, PolygonServer, grouped, row

DAY = "2025-10-14"
SESSION = date.fromisoformat(DAY)
SAMPLE = ("--source", "sample")
ON_DAY = ("--date", DAY)
COMMANDS = ("init-tables", "ingest", "check", "promote", "cumulate", "show", "drop-staging", "run-day")
MORE = ("plan", "backfill", "status", "maintain", "doctor")
"""In an order in which each one succeeds."""
PROGRAM = (sys.executable, "-m", "maang_cli")
PATIENCE = 300
"""Seconds for a process on a machine that is busy."""


def failed(outcome: Outcome, code: int, out: str = "") -> tuple[str, str]:
    """The message and the hint of a run that ended with `code`: the only two lines on stderr."""
    assert (outcome.code, outcome.out) == (code, out), outcome
    lines = outcome.err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["error:", "hint:"], outcome.err
    message, hint = (line.partition(" ")[2] for line in lines)
    assert message
    assert hint
    assert KEY not in outcome.err
    return message, hint


def serve(polygon: PolygonServer, *tickers: str) -> None:
    polygon.days[SESSION] = [row(ticker, SESSION) for ticker in tickers]


def tables(home: Path) -> SqlCatalog:
    return SqlCatalog("maang", uri=f"sqlite:///{home}/warehouse/catalog.db")


# --- dates


@pytest.mark.parametrize(
    "text",
    ["2025-02-30", "2025-13-01", "2025-00-10", "14.10.2025", "20251014", "2025-W42-2", "2025-10-14T00:00", "today", "", " "],
)
def test_a_date_that_is_none_ends_with_2(maang: Maang, text: str) -> None:
    message, hint = failed(maang("run-day", "--date", text, *SAMPLE, "-q"), 2)
    assert message == f"{text!r} is no date"
    assert "YYYY-MM-DD" in hint


@pytest.mark.parametrize(
    ("text", "said"), [("2999-01-02", "is in the future: in New York it is 20"), ("1989-12-29", "is before 1990-01-01")]
)
def test_a_date_that_no_bars_are_of_ends_with_2(maang: Maang, text: str, said: str) -> None:
    message, hint = failed(maang("run-day", "--date", text, *SAMPLE, "-q"), 2)
    assert f"{text} {said}" in message
    assert "--date" in hint


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("text", "reason"), [("2025-10-11", "Saturday"), ("2025-11-27", "Thanksgiving Day")])
def test_a_date_without_a_session_ends_with_99_and_one_line_that_says_why(
    maang: Maang, home: Path, command: str, text: str, reason: str
) -> None:
    outcome = maang(command, "--date", text, *SAMPLE, "-q")
    assert (outcome.code, outcome.out) == (99, "")
    assert outcome.err.count("\n") == 1
    assert f"{text} is not a session: {reason}" in outcome.err
    assert not home.exists(), "nothing was opened for it"


def test_a_date_without_a_session_can_be_fine(maang: Maang) -> None:
    outcome = maang("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.splitlines()[-1] == "2025-11-27 is not a session: Thanksgiving Day"
    quiet = maang("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_ok_if_no_session_excuses_nothing_else(maang: Maang) -> None:
    failed(maang("check", *ON_DAY, *SAMPLE, "--ok-if-no-session", "-q"), 2)


# --- usage


USAGE = {
    "no session": (["ingest", *SAMPLE], "--date"),
    "half a range": (["ingest", "--to", DAY, *SAMPLE], "--from"),
    "a date and a range": (["ingest", *ON_DAY, "--from", DAY, *SAMPLE], "--from"),
    "a date without its value": (["run-day", "--date"], "--date"),
    "an unknown command": (["run-days", *ON_DAY], "run-days"),
    "an unknown option": (["run-day", *ON_DAY, "--tickets", "META"], "--tickets"),
    "an unknown table": (["show", *ON_DAY, "--table", "prices"], "prices"),
    "an argument too many": (["run-day", DAY, *ON_DAY], DAY),
}
each_misuse = pytest.mark.parametrize(("argv", "culprit"), USAGE.values(), ids=USAGE.keys())


@each_misuse
def test_wrong_usage_ends_with_2_and_names_the_culprit(maang: Maang, argv: Sequence[str], culprit: str) -> None:
    outcome = maang(*argv)
    assert (outcome.code, outcome.out) == (2, "")
    assert culprit in outcome.err
    assert "Traceback" not in outcome.err


@each_misuse
def test_wrong_usage_is_told_in_the_two_lines_of_any_other_error(maang: Maang, argv: Sequence[str], culprit: str) -> None:
    message, _ = failed(maang(*argv), 2)
    assert culprit in message


def test_staging_alone_needs_a_date(maang: Maang) -> None:
    _, hint = failed(maang("init-tables", "--only", "staging", *SAMPLE, "-q"), 2)
    assert "--date" in hint


@pytest.mark.parametrize("text", ["now", "2025-13-01", "", "1760472000"])
def test_a_timestamp_that_is_none_ends_with_2(maang: Maang, text: str) -> None:
    message, hint = failed(maang("show", *ON_DAY, *SAMPLE, "--as-of", text, "-q"), 2)
    assert repr(text) in message
    assert "ISO 8601" in hint


# --- settings, as the command line meets them; tests/test_settings.py has the rules


@pytest.mark.parametrize(
    ("flags", "said", "hinted"),
    [
        (["--source", "yahoo"], "'yahoo' is not a source", "polygon, sample"),
        (["--warehouse", "oracle"], "'oracle' is not a warehouse", "local"),
        (["--tickers", "meta"], "'meta' is no ticker symbol", "--tickers"),
        (["--tickers", ""], "no ticker", "--tickers"),
        (["--tickers", "META,META"], "META", "--tickers"),
        (["--tickers", "@nowhere.txt"], "nowhere.txt", "@FILE"),
        (["--schema", "maang"], "never mix", "maang_sample"),
        (["--schema", "No Name"], "'No Name'", "--schema"),
        (["--allow-missing", "150%"], "150%", "--allow-missing"),
    ],
)
def test_a_wrong_setting_ends_with_2(maang: Maang, flags: Sequence[str], said: str, hinted: str) -> None:
    message, hint = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q", *flags), 2)
    assert said in message
    assert hinted in hint


def test_without_a_key_the_way_out_is_shown(maang: Maang) -> None:
    message, hint = failed(maang("run-day", *ON_DAY, "-q"), 2)
    assert message == "POLYGON_TOKEN is not set"
    assert "--source sample" in hint


def test_without_a_key_the_steps_that_need_none_work(maang: Maang) -> None:
    assert maang("init-tables", *ON_DAY).code == 0
    assert maang("show", *ON_DAY).code == 0


def test_databricks_in_the_environment_never_disturbs_the_sample_source(
    maang: Maang, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOST", "HTTP_PATH", "TOKEN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"DATABRICKS_{name}", "nothing good")
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    assert (home / "warehouse" / "maang_sample").is_dir()


def test_a_home_may_have_spaces_and_a_tilde(maang: Maang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert maang("run-day", *ON_DAY, *SAMPLE, "--home", "~/my own data").code == 0
    assert (tmp_path / "my own data" / "warehouse" / "catalog.db").is_file()
    assert maang("show", *ON_DAY, *SAMPLE, "--home", "~/my own data").out.endswith("5 rows of maang_sample.daily_stock_prices\n")


# --- a home that can't be used


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_a_file_in_the_place_of_home_ends_with_2(maang: Maang, home: Path, below: str) -> None:
    home.write_text("in the way")
    message, hint = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q", "--home", str(home / below)), 2)
    assert str(home) in message
    assert "MAANG_HOME" in hint
    assert home.read_text() == "in the way"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux' /proc, where not even root can create a folder")
def test_a_home_that_cannot_be_written_ends_with_2(maang: Maang) -> None:
    message, hint = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q", "--home", "/proc/maang"), 2)
    assert "/proc/maang" in message
    assert "MAANG_HOME" in hint


@pytest.mark.parametrize("command", ["run-day", "show"])
@pytest.mark.parametrize(
    "content", [b"this is no database, and long enough to be looked at" * 100, b"SQLite format 3\x00" + b"\xff" * 8000]
)
def test_a_corrupt_catalog_ends_with_2_and_is_left_as_it_is(maang: Maang, home: Path, command: str, content: bytes) -> None:
    catalog = home / "warehouse" / "catalog.db"
    catalog.parent.mkdir(parents=True)
    catalog.write_bytes(content)
    message, hint = failed(maang(command, *ON_DAY, *SAMPLE, "-q"), 2)
    assert str(home) in message
    assert "damaged" in message
    assert "MAANG_HOME" in hint
    assert catalog.read_bytes() == content


def test_a_catalog_that_lost_its_second_half_ends_with_2(maang: Maang, home: Path) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    catalog = home / "warehouse" / "catalog.db"
    content = catalog.read_bytes()
    catalog.write_bytes(content[: len(content) // 2])
    message, _ = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q"), 2)
    assert "damaged" in message


# --- every kind of error, once


@dataclass(frozen=True)
class Scene:
    maang: Maang
    polygon: PolygonServer
    home: Path
    monkeypatch: pytest.MonkeyPatch

    def real_day(self) -> None:
        serve(self.polygon, "META")
        assert self.maang("run-day", *ON_DAY, "--tickers", "META").code == 0


def nothing(_scene: Scene) -> None: ...


def another_shape(scene: Scene) -> None:
    scene.real_day()
    with closing(tables(scene.home)) as catalog, catalog.load_table("maang.daily_stock_prices").update_schema() as update:
        update.delete_column("vwap")


def wrong_key(scene: Scene) -> None:
    scene.monkeypatch.setenv("POLYGON_TOKEN", "wrong")


def file_in_the_way(scene: Scene) -> None:
    scene.home.write_text("")


def one_of_two(scene: Scene) -> None:
    serve(scene.polygon, "META")


def outage(scene: Scene) -> None:
    scene.monkeypatch.setenv("MAANG_RETRY_SECONDS", "0.5")
    scene.polygon.always = lambda path: Answer(503, b"<html>outage</html>")


def lost_files(scene: Scene) -> None:
    scene.real_day()
    for file in (scene.home / "warehouse" / "maang" / "daily_stock_prices").rglob("*.parquet"):
        file.unlink()


def ever_overtaken(scene: Scene) -> None:
    scene.real_day()
    serve(scene.polygon, "META")
    scene.polygon.days[SESSION] = [row("META", SESSION, c=10.6)]

    # No real writer can be made to win ten times in a row, so the catalog says that one did.
    def overtaken(*_: object) -> None:
        raise CommitFailedException("another writer was faster")

    staged = scene.maang("ingest", *ON_DAY, "--tickers", "META")
    assert staged.code == 0
    scene.monkeypatch.setattr(SqlCatalog, "commit_table", overtaken)


META = (*ON_DAY, "--tickers", "META")
KINDS: dict[type[MaangError], tuple[Callable[[Scene], None], Sequence[str], str]] = {
    errors.SettingsError: (nothing, ["run-day", *META, "--source", "yahoo"], "yahoo"),
    errors.TableMismatch: (another_shape, ["run-day", *META], "vwap is missing, DECIMAL(10,2) expected"),
    errors.OutOfOrder: (nothing, ["cumulate", *META], "there is no table maang.daily_stock_prices"),
    errors.NotStaged: (nothing, ["check", *META], "nothing is staged for 2025-10-14"),
    errors.SourceDenied: (wrong_key, ["ingest", *META], "HTTP 401, Unknown API Key"),
    errors.WarehouseDenied: (file_in_the_way, ["ingest", *META], "home"),
    errors.GateRefused: (one_of_two, ["run-day", *ON_DAY, "--tickers", "META,NOPE"], "missing_stocks"),
    errors.NotPublishedYet: (nothing, ["ingest", *META], "no bars at all for 2025-10-14"),
    errors.SourceFailed: (outage, ["ingest", *META], "HTTP 503"),
    errors.WarehouseFailed: (lost_files, ["show", *META], ".parquet"),
    errors.CommitLost: (ever_overtaken, ["promote", *META], "by other writers 10 times in a row"),
    errors.NoSession: (nothing, ["ingest", "--date", "2025-10-11"], "2025-10-11 is not a session: Saturday"),
}


def every_kind(root: type[MaangError]) -> set[type[MaangError]]:
    return {root}.union(*(every_kind(kind) for kind in root.__subclasses__()))


def test_all_kinds_of_errors_are_met_here() -> None:
    # PartlyRefused and StagingChanged take several sessions, or several runs: other files have them. The last three are known by
    # their parents' names outside of the part that tells them apart.
    elsewhere = {errors.PartlyRefused, errors.StagingChanged, BeyondPlan, Contradiction, FileGone}
    assert set(KINDS) == every_kind(MaangError) - {MaangError, errors.MayHeal} - elsewhere


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_error_has_its_code_and_its_two_lines(
    maang: Maang, polygon: PolygonServer, home: Path, monkeypatch: pytest.MonkeyPatch, kind: type[MaangError]
) -> None:
    arrange, argv, said = KINDS[kind]
    arrange(Scene(maang, polygon, home, monkeypatch))
    outcome = maang(*argv, "-q")
    assert said in outcome.err
    if kind is errors.NoSession:  # one line: there is nothing to do about it
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (99, "", 1)
    else:
        report = outcome.out if kind is errors.GateRefused else ""
        message, _ = failed(outcome, kind.exit_code, report)
        assert not message.endswith(".")


def test_a_refused_day_is_reported_on_stdout_and_leaves_production_empty(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    outcome = maang("run-day", *ON_DAY, "--tickers", "META,NOPE")
    assert outcome.code == 3
    assert "NOPE 2025-10-14: no bar" in outcome.out
    assert "daily_stock_prices_staging_20251014_" in outcome.err
    shown = maang("show", *ON_DAY, "--tickers", "META,NOPE", "--json")
    assert json.loads(shown.out)["rows"] == []


def test_a_refused_day_heals_with_a_plain_re_run(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    assert maang("run-day", *ON_DAY, "--tickers", "META,BRK.A").code == 3
    serve(polygon, "META", "BRK.A")
    assert maang("run-day", *ON_DAY, "--tickers", "META,BRK.A").code == 0


# --- a bug

BUG = """
import sys
from maang_cli.sources import sample

def bars(self, tickers, sessions):
    secret = "local-value"
    raise RuntimeError("a bug")

sample.SampleSource.bars = bars
from maang_cli.cli import main
sys.exit(main(["run-day", "--date", "2025-10-14", "--source", "sample", *sys.argv[1:]]))
"""


def test_a_bug_keeps_its_traceback_and_ends_with_1() -> None:
    done = subprocess.run([sys.executable, "-c", BUG, "-q"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("RuntimeError: a bug\n")
    assert "error:" not in done.stderr
    assert "local-value" not in done.stderr.replace('secret = "local-value"', ""), "locals may be secrets"


def test_a_bug_leaves_main_as_itself(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    def bars(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("maang_cli.sources.sample.SampleSource.bars", bars)
    with pytest.raises(ZeroDivisionError):
        main(["ingest", *ON_DAY, *SAMPLE])


# --- stdout is the result, stderr the narration


def each_command(maang: Maang, *flags: str) -> list[tuple[str, Outcome]]:
    argvs = [[command, *ON_DAY] for command in COMMANDS]
    argvs += [["init-tables"], ["init-tables", "--only", "schema"]]
    argvs += [["show", *ON_DAY, "--table", table] for table in ("production", "cumulative")]
    return [(" ".join(argv), maang(*argv, *SAMPLE, *flags)) for argv in argvs]


def test_json_is_one_document_for_every_command(maang: Maang) -> None:
    for command, outcome in each_command(maang, "--json"):
        assert outcome.code == 0, command
        assert isinstance(json.loads(outcome.out), dict), command
        assert outcome.out.endswith("}\n"), command


def test_json_keeps_decimals_exact_and_dates_readable(maang: Maang) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE, "--tickers", "META").code == 0
    (bar,) = json.loads(maang("show", *ON_DAY, *SAMPLE, "--tickers", "META", "--json").out)["rows"]
    stamp = bar.pop("insertion_timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", stamp)
    assert bar == {
        "ticker": "META",
        "date": DAY,
        "open": "333.00",
        "high": "335.90",
        "low": "330.23",
        "close": "334.17",
        "volume": 16724100,
        "vwap": "333.43",
        "transactions": 183781,
    }


@pytest.mark.parametrize("command", ["check", "promote", "run-day"])
def test_json_of_a_refusal_is_the_audit(maang: Maang, polygon: PolygonServer, command: str) -> None:
    serve(polygon, "META")
    flags = (*ON_DAY, "--tickers", "META,NOPE", "-q")
    assert maang("init-tables", *flags).code == 0
    assert maang("ingest", *flags).code == 0
    outcome = maang(command, *flags, "--json")
    failed(outcome, 3, outcome.out)
    audit = json.loads(outcome.out)
    assert audit["passed"] is False
    (broken,) = [check for check in audit["checks"] if check["failing"]]
    assert (broken["name"], broken["failing"]) == ("missing_stocks", 1)
    assert broken["rows"] == [{"ticker": "NOPE", "date": DAY, "found": "no bar"}]


def test_json_of_any_other_error_is_nothing(maang: Maang) -> None:
    failed(maang("check", *ON_DAY, *SAMPLE, "--json", "-q"), 2)


def test_json_of_a_day_without_a_session_is_a_document_too(maang: Maang) -> None:
    outcome = maang("run-day", "--date", "2025-10-11", *SAMPLE, "--ok-if-no-session", "--json")
    assert outcome.code == 0
    assert isinstance(json.loads(outcome.out), dict), "a program that sees 0 reads one"


def test_quiet_leaves_stderr_empty_and_the_result_on_stdout(maang: Maang) -> None:
    for command, outcome in each_command(maang, "--quiet"):
        assert (outcome.code, outcome.err) == (0, ""), command
        assert outcome.out, command


def test_quiet_hides_retries_that_healed(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    polygon.script.append(Answer(429, b"{}", {"Retry-After": "0"}))
    outcome = maang("ingest", *META, "-q")
    assert (outcome.code, outcome.err, len(polygon.requests)) == (0, "", 2)


def test_a_retry_is_narrated(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    polygon.script.append(Answer(429, b'{"error":"too fast"}', {"Retry-After": "0"}))
    outcome = maang("ingest", *META)
    assert "HTTP 429, too fast; trying again in 0 s\n" in outcome.err
    assert "429" not in outcome.out


def test_made_up_bars_are_always_announced(maang: Maang) -> None:
    for command, outcome in each_command(maang):
        assert "made up" in outcome.err, command


def test_real_bars_are_not_called_made_up(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    outcome = maang("run-day", *META)
    assert outcome.code == 0
    assert "made up" not in outcome.err + outcome.out


def test_verbose_says_what_was_asked_of_whom_and_how_long_it_took(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    outcome = maang("run-day", *META, "--verbose")
    assert outcome.code == 0
    asked = re.escape(f"GET {polygon.url}/v2/aggs/grouped/locale/us/market/stocks/{DAY}")
    assert re.search(rf"^\d\d:\d\d:\d\d {asked}: 200, \d+ bytes, \d+\.\d\d s$", outcome.err, re.MULTILINE), outcome.err
    assert re.search(r"query on .*: \d+ rows?, \d+\.\d+ s", outcome.err), outcome.err
    assert KEY not in outcome.err
    assert "GET" not in outcome.out


def test_verbose_masks_a_key_that_the_vendor_echoes(maang: Maang, polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(401, json.dumps({"error": f"Unknown API Key {KEY}"}).encode())
    outcome = maang("ingest", *META, "--verbose")
    assert outcome.code == 2
    assert "Unknown API Key ***" in outcome.err
    assert KEY not in outcome.err + outcome.out


# --- hints that can be typed


def typed(hint: str) -> list[str]:
    """The command of a hint, as a shell would split it."""
    found = re.search(r"maang ([^;]*)", hint)
    assert found, hint
    return shlex.split(found[1])


def test_each_hint_leads_on_with_the_flags_that_were_given(maang: Maang, tmp_path: Path) -> None:
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


def test_the_hint_of_a_refusal_shows_what_was_refused(maang: Maang, polygon: PolygonServer) -> None:
    polygon.days[SESSION] = [row("META", SESSION, c=-1)]
    outcome = maang("run-day", *META, "-q")
    _, hint = failed(outcome, 3, outcome.out)
    assert "-1.00" in maang(*typed(hint)).out


# --- help


def test_version(maang: Maang) -> None:
    outcome = maang("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"maang {__version__}\n", "")


def test_maang_alone_shows_help(maang: Maang) -> None:
    alone, asked = maang(), maang("--help")
    assert alone.out.strip() == asked.out.strip()
    assert alone.err == ""
    assert alone.code == 2, "as Click has it: nothing was done"
    assert asked.code == 0


def test_help_lists_every_command(maang: Maang) -> None:
    names = {command.name for command in app.registered_commands}
    assert names == {*COMMANDS, *MORE}
    for name in names:
        assert re.search(rf"^│ {name} ", maang("--help").out, re.MULTILINE), name


def test_the_example_in_each_commands_help_works(maang: Maang) -> None:
    for command in (*COMMANDS, *MORE):
        shown = maang(command, "-h")
        assert shown.code == 0
        example = re.search(r"Example: maang (.*)", shown.out)
        assert example, command
        argv = example[1].split()
        assert argv[0] == command
        assert maang(*argv, *SAMPLE).code == 0, command


@pytest.mark.parametrize("command", [*COMMANDS, "plan", "backfill", "status"])
def test_help_names_every_setting_with_its_variable(maang: Maang, command: str) -> None:
    text = " ".join(maang(command, "--help").out.replace("│", " ").split())
    for flag in ("date", "tickers", "source", "warehouse", "schema", "allow-missing", "home", "ok-if-no-session", "json"):
        assert f"--{flag} " in text
    for variable in ("TICKERS", "SOURCE", "WAREHOUSE", "SCHEMA", "ALLOW_MISSING", "HOME"):
        assert f"[env: MAANG_{variable}]" in text


def test_a_shell_can_complete_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str, position: int) -> list[str]:
        env = os.environ | {"_MAANG_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
        done = subprocess.run(PROGRAM, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    assert completed("maang ru", 1) == ["run-day"]
    assert "--allow-missing" in completed("maang ingest --", 2)


def test_a_shell_is_shown_how_to_complete() -> None:
    script = shlex.join([*PROGRAM, "--show-completion"]) + "; exit $?"  # the shell that asks is found by its process
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_MAANG_COMPLETE=complete_bash" in done.stdout


# --- what is loaded


LOADED = """
import sys
from maang_cli.cli import main
code = main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""
ABSENT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"pandas", "databricks", "airflow", "pyspark", "requests", "polars", "ray"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""
DRIVERS = {
    "duckdb",
    "pyarrow",
    "pyiceberg",
    "polygon",
    "holidays",
    "sqlalchemy",
    "urllib3",
    "tenacity",
    "pandas",
    "numpy",
    "requests",
}


def modules_of(*argv: str, before: str = "") -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", before + LOADED, *argv], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    *_, names = done.stderr.splitlines()
    assert done.returncode in (0, 2), done.stderr
    return {name.partition(".")[0] for name in names.split()}


@pytest.mark.parametrize("argv", [["--help"], ["--version"], []], ids=" ".join)
def test_help_loads_no_driver(argv: Sequence[str]) -> None:
    assert not modules_of(*argv) & (DRIVERS | {"pydantic", "pydantic_settings", "platformdirs", "dotenv"})


@pytest.mark.parametrize("argv", [["run-day", "--help"], ["run-day", "--date", "2025-02-30", *SAMPLE, "-q"]], ids=" ".join)
def test_what_a_command_says_before_it_works_needs_no_driver(argv: Sequence[str]) -> None:
    assert not modules_of(*argv) & DRIVERS  # Typer itself loads pydantic here


def test_the_sample_day_loads_nothing_of_the_vendor_and_works_without_what_extras_bring() -> None:
    loaded = modules_of("run-day", *ON_DAY, *SAMPLE, "-q", before=ABSENT)
    assert {"duckdb", "pyiceberg"} <= loaded
    assert not loaded & {"polygon", "urllib3", "tenacity", "certifi", "requests"}


# --- pipes


@pytest.mark.parametrize("argv", [["--help"], ["show", *ON_DAY, *SAMPLE, "-q"]], ids=" ".join)
def test_a_pipe_that_nobody_reads_is_no_error(maang: Maang, argv: Sequence[str]) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*PROGRAM, *argv], stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_early_is_no_error(maang: Maang) -> None:
    names = ",".join(f"T{number}" for number in range(3000))
    assert maang("ingest", *ON_DAY, *SAMPLE, "--tickers", names).code == 0
    argv = [*PROGRAM, "show", *ON_DAY, *SAMPLE, "--tickers", names, "--table", "staging", "-q", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_a_result_that_finds_no_space_is_told_in_two_lines(maang: Maang) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    with Path("/dev/full").open("w") as full:
        argv = [*PROGRAM, "show", *ON_DAY, *SAMPLE, "-q"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    assert "No space left" in failed(Outcome(done.returncode, "", done.stderr), ExitCode.MAY_HEAL)[0]


def test_a_closed_stdout_is_no_bug() -> None:
    script = shlex.join([*PROGRAM, "init-tables", *SAMPLE, "-q"]) + " >&-"
    done = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


# --- signals


def interrupted(polygon: PolygonServer, number: int, argv: Sequence[str]) -> Outcome:
    """A run that gets a signal when the server has got its request."""
    with subprocess.Popen([*PROGRAM, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + PATIENCE
        while not polygon.requests:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.1)  # so that a denial has been read, and its wait has begun
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    return Outcome(process.returncode, out, err)


@pytest.mark.parametrize(
    ("number", "code", "said", "answer"),
    [
        (signal.SIGINT, 130, "interrupted", Answer(delay=60)),
        (signal.SIGTERM, 143, "terminated", Answer(429, b"{}", {"Retry-After": "60"})),
    ],
    ids=["INT while it waits for an answer", "TERM while it waits to try again"],
)
def test_a_signal_ends_a_run_with_one_clear_line_and_the_next_run_goes_on(
    polygon: PolygonServer,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    maang: Maang,
    number: int,
    code: int,
    said: str,
    answer: Answer,
) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "120")
    polygon.always = lambda path: answer
    message, hint = failed(interrupted(polygon, number, ["run-day", *META, "-q"]), code)
    assert said in message
    assert "again" in hint
    polygon.always = lambda path: None
    serve(polygon, "META")
    assert maang("run-day", *META).code == 0
    assert not (home / "warehouse" / "write.json").exists()


ENDLESS = """
from maang_cli import __main__, sql
slow = "SELECT sum(range) AS total FROM range(1000000000000)"
sql.text = lambda *_, **__: print("begun", flush=True) or slow
raise SystemExit(__main__.main())
"""
"""`maang`, of which each query takes hours."""


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_in_the_middle_of_a_query_is_told_like_any_other(maang: Maang, number: int, code: int, said: str) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    argv = [sys.executable, "-c", ENDLESS, "show", *ON_DAY, *SAMPLE, "-q"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)  # from the query's text to the query
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    message, hint = failed(Outcome(process.returncode, out, err), code)
    assert said in message
    assert "again" in hint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_again_and_again_ends_a_query_the_same_way(maang: Maang, number: signal.Signals) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    argv = [sys.executable, "-c", ENDLESS, "show", *ON_DAY, *SAMPLE, "-q"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        try:
            while process.poll() is None:
                process.send_signal(number)
                time.sleep(0.002)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == STOPPED + number, err


LOADING = """
import sys, time
from maang_cli import __main__

class Slow:
    def find_spec(self, name, *_):
        if name == "maang_cli.cli":
            print("begun", flush=True)
            time.sleep(3600)

sys.meta_path.insert(0, Slow())
raise SystemExit(__main__.main())
"""
"""`maang`, whose modules take an hour to load."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_loaded_is_told_in_one_line(number: signal.Signals) -> None:
    argv = [sys.executable, "-c", LOADING, "--version"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, err) == (STOPPED + number, f"stopped by {number.name}\n")


def test_a_signal_ends_the_wait_for_another_writer_and_nothing_is_done(home: Path, maang: Maang) -> None:
    assert maang("init-tables", *SAMPLE).code == 0
    argv = [*PROGRAM, "ingest", *ON_DAY, *SAMPLE, "-v"]
    with (
        FileLock(home / "warehouse" / "writer.lock"),
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        time.sleep(5)  # it has come to the lock by then; if it has not, it is stopped on its way
        process.send_signal(signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert "terminated" in failed(Outcome(process.returncode, out, "\n".join(err.splitlines()[-2:]) + "\n"), 143)[0]
    assert not [path for path in (home / "warehouse" / "maang_sample").iterdir() if "staging" in path.name]


def test_a_signal_that_is_ignored_stays_so(polygon: PolygonServer, maang: Maang) -> None:
    """As a shell gives SIGINT to its background jobs."""
    serve(polygon, "META")
    polygon.always = lambda _path: os.kill(os.getpid(), signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert maang("run-day", *META).code == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_main_gives_signals_back_as_they_were(maang: Maang) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    maang("--version")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# --- terminals


def on_terminal(*argv: str, columns: int = 100, typed: str = "", program: Sequence[str] = PROGRAM, **env: str) -> tuple[int, str]:
    """A run on a terminal of its own, where `typed` waits to be read: its exit code and all that it wrote."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, columns))
    os.write(ours, typed.encode())
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
    with subprocess.Popen(
        [*program, *argv], stdin=its, stdout=its, stderr=its, env=kept | {"TERM": "xterm-256color"} | env
    ) as process:
        os.close(its)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:
            """Linux says so when the last writer has gone."""
        finally:
            os.close(ours)
    return process.returncode, written.decode().replace("\r\n", "\n")


COLOURS = re.compile(r"\x1b\[[0-9;]*(?<![0-9])(3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("argv", [["run-day", "--date", "never"], ["--help"], ["run-day"]], ids=["error", "help", "usage"])
def test_colours_are_for_terminals_and_no_color_turns_them_off(argv: Sequence[str]) -> None:
    _, coloured = on_terminal(*argv)
    assert COLOURS.search(coloured)
    _, plain = on_terminal(*argv, NO_COLOR="1")
    assert not COLOURS.search(plain)
    assert CODES.sub("", plain) == CODES.sub("", coloured)


def test_a_pipe_gets_no_codes_whatever_the_terminal_is(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    for argv in (["run-day", *ON_DAY, *SAMPLE], ["run-day", *ON_DAY, *SAMPLE, "--tickers", "meta"], ["run-day"], ["--help"]):
        outcome = maang(*argv)
        assert "\x1b" not in outcome.out + outcome.err


def test_progress_is_shown_on_a_terminal_and_cleaned_up(polygon: PolygonServer) -> None:
    serve(polygon, "META")
    polygon.script.append(Answer(body=grouped([row("META", SESSION)]), delay=0.5))
    code, written = on_terminal("run-day", *META)
    assert code == 0
    assert re.search(r"[^ \n\x1b] \x1b?(\[[0-9;]*m)?ingest", written), "the step that is being waited for"
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor is back"
    assert "maang.daily_stock_prices " in CODES.sub("", written)


def test_values_stay_whole_on_a_narrow_terminal(maang: Maang) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE, "--tickers", "META").code == 0
    code, written = on_terminal("show", *ON_DAY, *SAMPLE, "--tickers", "META", "-q", columns=80, NO_COLOR="1")
    assert code == 0
    for value in ("META", DAY, "333.00", "335.90", "330.23", "334.17", "16724100", "333.43", "183781"):
        assert value in written


@pytest.mark.parametrize("argv", [["--help"], ["run-day", "--date", "never"]], ids=["help", "error"])
def test_a_very_narrow_terminal_is_no_error(argv: Sequence[str]) -> None:
    code, written = on_terminal(*argv, columns=10)
    assert code == (2 if "never" in argv else 0)
    assert "Traceback" not in written
