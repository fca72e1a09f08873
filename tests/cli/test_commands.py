"""Each command from its arguments to its exit code: stdout and stderr, every kind of error, what is loaded."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from maang_cli import __version__, errors
from maang_cli.errors import MaangError
from maang_cli.sources.http import Oversized
from maang_cli.sources.polygon.http import BeyondPlan, NotFound, NotInPlan
from maang_cli.sources.polygon.parse import Adjusted, Contradiction
from maang_cli.warehouses.local.errors import Damaged, FileGone
from tests.cli.helpers import DAY, META, ON_DAY, SAMPLE, completed, failed, serve
from tests.cli.scenes import KINDS, Scene
from tests.conftest import Maang, Outcome
from tests.polygon_server import KEY, Answer, PolygonServer

STEPS = ("init-tables", "ingest", "check", "diff", "promote", "cumulate", "show", "drop-staging", "run-day")
"""Commands that work on a session, in an order in which each one succeeds."""

# A closed market


@pytest.mark.parametrize("command", STEPS)
@pytest.mark.parametrize(("text", "reason"), [("2025-10-11", "Saturday"), ("2025-11-27", "Thanksgiving Day")])
def test_closed_market_exits_99_with_one_line_that_says_why(
    maang: Maang, home: Path, command: str, text: str, reason: str
) -> None:
    outcome = maang(command, "--date", text, *SAMPLE, "-q")
    assert (outcome.code, outcome.out) == (99, "")
    assert outcome.err.count("\n") == 1
    assert f"{text} is not a session: {reason}" in outcome.err
    assert not home.exists(), "nothing was opened for it"


def test_ok_if_no_session_turns_99_into_0(maang: Maang) -> None:
    outcome = maang("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.splitlines()[-1] == "2025-11-27 is not a session: Thanksgiving Day"
    quiet = maang("run-day", "--date", "2025-11-27", *SAMPLE, "--ok-if-no-session", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_ok_if_no_session_allows_no_other_error(maang: Maang) -> None:
    failed(maang("check", *ON_DAY, *SAMPLE, "--ok-if-no-session", "-q"), 2)


# Settings, as the command line meets them; tests/test_settings.py has the rules


def test_missing_key_hint_names_the_sample_source(maang: Maang) -> None:
    message, hint = failed(maang("run-day", *ON_DAY, "-q"), 2)
    assert message == "POLYGON_TOKEN is not set"
    assert "--source sample" in hint


def test_commands_that_call_no_api_need_no_key(maang: Maang) -> None:
    assert maang("init-tables", *ON_DAY).code == 0
    assert maang("show", *ON_DAY).code == 0


def test_sample_source_ignores_databricks_variables(maang: Maang, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "HTTP_PATH", "TOKEN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"DATABRICKS_{name}", "nothing good")
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    assert (home / "warehouse" / "maang_sample").is_dir()


def test_home_may_have_spaces_and_a_tilde(maang: Maang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert maang("run-day", *ON_DAY, *SAMPLE, "--home", "~/my own data").code == 0
    assert (tmp_path / "my own data" / "warehouse" / "catalog.db").is_file()
    assert maang("show", *ON_DAY, *SAMPLE, "--home", "~/my own data").out.endswith("5 rows of maang_sample.daily_stock_prices\n")


# A home that can't be used


@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_home_that_is_a_file_exits_2(maang: Maang, home: Path, below: str) -> None:
    home.write_text("a file")
    message, hint = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q", "--home", str(home / below)), 2)
    assert str(home) in message
    assert "MAANG_HOME" in hint
    assert home.read_text() == "a file"


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 40] * 120)], ids=["name", "path"])
@pytest.mark.parametrize("command", ["run-day", "show", "status"])
def test_home_with_a_name_that_is_too_long_exits_2(maang: Maang, home: Path, command: str, name: str) -> None:
    message, hint = failed(maang(command, *ON_DAY, *SAMPLE, "-q", "--home", str(home / name)), 2)
    assert "File name too long" in message
    assert hint == "set MAANG_HOME to a folder with a shorter name"


@pytest.mark.parametrize("character", "\t\r\n")
def test_home_with_a_control_character_exits_2_and_nothing_is_stored(maang: Maang, tmp_path: Path, character: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    message, hint = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q", "--home", f"{tmp_path}/my{character}data"), 2)
    assert "has a control character in its name" in message
    assert hint == "set MAANG_HOME to another folder"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux' /proc, where not even root can create a folder")
def test_home_that_is_not_writable_exits_2(maang: Maang) -> None:
    message, hint = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q", "--home", "/proc/maang"), 2)
    assert "/proc/maang" in message
    assert "MAANG_HOME" in hint


@pytest.mark.parametrize("command", ["run-day", "show"])
@pytest.mark.parametrize(
    "content", [b"this is not a database, and long enough to be read" * 100, b"SQLite format 3\x00" + b"\xff" * 8000]
)
def test_damaged_catalog_exits_2_and_is_not_changed(maang: Maang, home: Path, command: str, content: bytes) -> None:
    catalog = home / "warehouse" / "catalog.db"
    catalog.parent.mkdir(parents=True)
    catalog.write_bytes(content)
    message, hint = failed(maang(command, *ON_DAY, *SAMPLE, "-q"), 2)
    assert str(home) in message
    assert "damaged" in message
    assert "MAANG_HOME" in hint
    assert catalog.read_bytes() == content


def test_catalog_without_its_second_half_exits_2(maang: Maang, home: Path) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    catalog = home / "warehouse" / "catalog.db"
    content = catalog.read_bytes()
    catalog.write_bytes(content[: len(content) // 2])
    message, _ = failed(maang("run-day", *ON_DAY, *SAMPLE, "-q"), 2)
    assert "damaged" in message


# Every kind of error, once


def every_kind(root: type[MaangError]) -> set[type[MaangError]]:
    return {root}.union(*(every_kind(kind) for kind in root.__subclasses__()))


def test_every_kind_of_error_has_a_scene() -> None:
    # PartlyRefused and StagingChanged need several sessions or several runs, so other files have them. The others are only
    # caught inside of their own package; outside they count as their parents.
    elsewhere = {errors.PartlyRefused, errors.StagingChanged, errors.NotOwner, FileGone, Damaged}
    elsewhere |= {BeyondPlan, NotFound, NotInPlan, Contradiction, Adjusted, Oversized}
    assert set(KINDS) == every_kind(MaangError) - {MaangError, errors.MayHeal} - elsewhere


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_has_its_exit_code_and_two_lines(
    maang: Maang, polygon: PolygonServer, home: Path, monkeypatch: pytest.MonkeyPatch, kind: type[MaangError]
) -> None:
    arrange, argv, text = KINDS[kind]
    arrange(Scene(maang, polygon, home, monkeypatch))
    outcome = maang(*argv, "-q")
    assert text in outcome.err
    if kind is errors.NoSession:  # one line, because there is nothing to do about it
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (99, "", 1)
    else:
        report = outcome.out if kind is errors.GateRefused else ""
        message, _ = failed(outcome, kind.exit_code, report)
        assert not message.endswith(".")


def test_refused_day_is_reported_on_stdout_and_changes_no_table(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    outcome = maang("run-day", *ON_DAY, "--tickers", "META,NOPE")
    assert outcome.code == 3
    assert "NOPE 2025-10-14: no bar" in outcome.out
    assert "daily_stock_prices_staging_20251014_" in outcome.err
    shown = maang("show", *ON_DAY, "--tickers", "META,NOPE", "--json")
    assert shown.result["rows"] == []


def test_refused_day_succeeds_once_the_source_is_right(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    assert maang("run-day", *ON_DAY, "--tickers", "META,BRK.A").code == 3
    serve(polygon, "META", "BRK.A")
    assert maang("run-day", *ON_DAY, "--tickers", "META,BRK.A").code == 0


# stdout has the result, stderr has the progress


def each_command(maang: Maang, *flags: str) -> list[tuple[str, Outcome]]:
    argvs = [[command, *ON_DAY] for command in STEPS]
    argvs += [["init-tables"], ["init-tables", "--only", "schema"]]
    argvs += [["show", *ON_DAY, "--table", table] for table in ("production", "cumulative")]
    return [(" ".join(argv), maang(*argv, *SAMPLE, *flags)) for argv in argvs]


def test_quiet_leaves_stderr_empty_and_the_result_on_stdout(maang: Maang) -> None:
    for command, outcome in each_command(maang, "--quiet"):
        assert (outcome.code, outcome.err) == (0, ""), command
        assert outcome.out, command


def test_quiet_hides_retries_that_succeed(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    polygon.script.append(Answer(429, b"{}", {"Retry-After": "0"}))
    outcome = maang("ingest", *META, "-q")
    assert (outcome.code, outcome.err, len(polygon.requests)) == (0, "", 2)


def test_retry_is_reported_on_stderr(maang: Maang, polygon: PolygonServer) -> None:
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


def test_run_day_ends_by_saying_where_the_tables_are(maang: Maang, home: Path) -> None:
    outcome = maang("run-day", *ON_DAY, *SAMPLE)
    assert outcome.err.splitlines()[-1] == f"the tables are in {home / 'warehouse'}"
    assert "the tables are in" not in outcome.out


def test_verbose_logs_each_call_and_query_with_its_duration(maang: Maang, polygon: PolygonServer) -> None:
    serve(polygon, "META")
    outcome = maang("run-day", *META, "--verbose")
    assert outcome.code == 0
    call = re.escape(f"GET {polygon.url}/v2/aggs/grouped/locale/us/market/stocks/{DAY}")
    assert re.search(rf"^\d\d:\d\d:\d\d {call}: 200, \d+ bytes, \d+\.\d\d s$", outcome.err, re.MULTILINE), outcome.err
    assert re.search(r"query on .*: \d+ rows?, \d+\.\d+ s", outcome.err), outcome.err
    assert KEY not in outcome.err
    assert "GET" not in outcome.out


def test_verbose_masks_a_key_that_the_vendor_repeats(maang: Maang, polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(401, json.dumps({"error": f"Unknown API Key {KEY}"}).encode())
    outcome = maang("ingest", *META, "--verbose")
    assert outcome.code == 2
    assert "Unknown API Key ***" in outcome.err
    assert KEY not in outcome.err + outcome.out


# Without a command


def test_version(maang: Maang) -> None:
    outcome = maang("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"maang {__version__}\n", "")


def test_maang_alone_shows_the_help_and_exits_2(maang: Maang) -> None:
    alone, requested = maang(), maang("--help")
    assert alone.out.strip() == requested.out.strip()
    assert alone.err == ""
    assert alone.code == 2, "as Click has it: nothing was done"
    assert requested.code == 0


# What is loaded


LOADED = """
import sys
from maang_cli.cli.process import main
code = main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""
WITHOUT_EXTRAS = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"pandas", "databricks", "airflow", "pyspark", "requests", "polars", "ray", "sqlalchemy"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""
DRIVERS = {
    "duckdb",
    "pyarrow",
    "pyiceberg",
    "polygon",
    "urllib3",
    "tenacity",
    "pandas",
    "numpy",
    "requests",
}


def loaded_by(*argv: str, before: str = "") -> set[str]:
    """The top-level modules that a run of `maang` loads."""
    done = completed(argv, program=(sys.executable, "-c", before + LOADED))
    *_, names = done.err.splitlines()
    assert done.code in (0, 2), done.err
    return {name.partition(".")[0] for name in names.split()}


@pytest.mark.parametrize("argv", [["--help"], ["--version"], []], ids=" ".join)
def test_help_loads_no_driver(argv: Sequence[str]) -> None:
    assert not loaded_by(*argv) & (DRIVERS | {"pydantic", "pydantic_settings", "platformdirs", "dotenv"})


@pytest.mark.parametrize(
    "argv", [["run-day", "--help"], ["run-day", "--date", "2025-02-30", *SAMPLE, "-q"], ["config"]], ids=" ".join
)
def test_command_that_does_no_work_loads_no_driver(argv: Sequence[str]) -> None:
    assert not loaded_by(*argv) & DRIVERS  # Typer itself loads pydantic here


def test_sample_day_loads_no_vendor_code_and_needs_no_extra() -> None:
    loaded = loaded_by("run-day", *ON_DAY, *SAMPLE, "-q", before=WITHOUT_EXTRAS)
    assert {"duckdb", "pyiceberg"} <= loaded
    assert not loaded & {"polygon", "urllib3", "tenacity", "certifi", "requests", "sqlalchemy"}


def test_day_that_is_declared_closed_exits_99(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_CLOSED", "2025-10-13, 2025-10-14")
    done = maang("run-day", *ON_DAY, *SAMPLE)
    assert (done.code, "2025-10-14 is not a session: closed, as MAANG_CLOSED says" in done.err) == (99, True)
    monkeypatch.delenv("MAANG_CLOSED")
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0


def test_closed_days_that_are_no_dates_exit_2(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_CLOSED", "tomorrow")
    done = maang("status", *SAMPLE)
    assert done.code == 2
    assert "MAANG_CLOSED must be dates, not 'tomorrow'" in done.err
