"""The README and docs/ are true: transcripts, Python examples, generated parts, tables of codes, keys and variables.

UPDATE_GOLDEN=1 writes transcripts and generated parts again.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest

from maang_cli import tables
from maang_cli.checks import CHECKS, Kind
from maang_cli.cli.commands import app
from maang_cli.errors import ExitCode
from maang_cli.sessions import between
from maang_cli.settings import declarations
from maang_cli.sources import SOURCES
from maang_cli.sources.sample import SampleSource
from maang_cli.tables import CUMULATIVE, PRODUCTION, Column
from maang_cli.warehouses import WAREHOUSES
from tests.conftest import Maang
from tests.forks import fork_server
from tests.golden_files import freshness, without_sizes
from tests.polygon_server import PolygonServer, row

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
FIELDS = {"o": "open", "h": "high", "l": "low", "c": "close", "vw": "vwap"}
BAD_DAY = date(2025, 10, 15)
DATA_FOLDER = "~/.local/share/maang"
"""Where the transcripts' tables are, on Linux."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def approve(page: Path, text: str) -> None:
    """The page is `text`, apart from sizes on disk."""
    if os.environ.get("UPDATE_GOLDEN"):
        page.write_text(text, "utf-8")
    else:
        assert without_sizes(page.read_text("utf-8")) == without_sizes(text)


# Transcripts


def transcript(block: str, home: Path) -> str:
    """The block with each command's output as it is now."""
    lines: list[str] = []
    for command in re.findall(r"^\$ (maang .*)$", block, re.MULTILINE):
        with fork_server().start(*shlex.split(command)[1:], stderr=subprocess.STDOUT) as process:
            out, _ = process.communicate(timeout=120)
            code = process.wait()
        printed = freshness(out).replace(str(home), DATA_FOLDER)
        text = "\n".join(line.rstrip() for line in printed.splitlines())
        lines.append(f"$ {command}\n{text}\n" + (f"$ echo $?\n{code}\n" if code else ""))
    return "\n".join(lines)


def day(session: date) -> list[dict[str, object]]:
    """The vendor's answer for a session, with made-up bars."""
    bars = SampleSource().bars(TICKERS, [session]).to_pylist()
    return [row(bar["ticker"], session, **{key: float(bar[name]) for key, name in FIELDS.items()}) for bar in bars]


def bad_day() -> list[dict[str, object]]:
    """A day without NFLX, on which META's high is below its low."""
    changed = {"META": {"h": 300.25}}
    return [bar | changed.get(str(bar["T"]), {}) for bar in day(BAD_DAY) if bar["T"] != "NFLX"]


@pytest.mark.slow
@each_page
def test_transcripts_show_what_maang_prints(page: Path, polygon: PolygonServer, home: Path) -> None:
    text = printed = page.read_text("utf-8")
    found = blocks(text, "console")
    if found:
        polygon.days = {session: day(session) for session in between(date(2025, 9, 2), date(2025, 10, 14))}
        polygon.days |= {BAD_DAY: bad_day()}
    for block in found:
        printed = printed.replace(f"```console\n{block}```", f"```console\n{transcript(block, home)}```")
    approve(page, printed)


def test_readme_has_transcripts_of_a_good_and_a_refused_day() -> None:
    good, refused = blocks(README.read_text("utf-8"), "console")
    assert f"{len(CHECKS)} of {len(CHECKS)} checks passed" in good
    assert refused.endswith("$ echo $?\n3\n")


@each_page
def test_python_examples_run(page: Path, home: Path, maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(home / "airflow"))
    examples = blocks(page.read_text("utf-8"), "python")
    if examples:
        assert maang("run-day", "--date", "2025-10-14", "--source", "sample").code == 0
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr


def test_examples_show_the_published_rows(maang: Maang) -> None:
    assert maang("run-day", "--date", "2025-10-14", "--source", "sample").code == 0
    printed = []
    for page in (README, ROOT / "docs/tables.md"):
        for example in blocks(page.read_text("utf-8"), "python"):
            done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=120, check=True)
            printed.append(done.stdout)
    readme, notebook, others, catalog = printed
    assert "334.17" in readme
    assert "209.38  334.17" in notebook
    assert "│ META   ┆ 334.17" in others
    assert "('META', Decimal('334.17'))" in others
    assert catalog.endswith("5\n")


@pytest.mark.slow
def test_sql_examples_of_the_tables_page_run(maang: Maang) -> None:
    assert maang("run-day", "--date", "2025-10-14", "--source", "sample").code == 0
    examples = [line for line in "".join(blocks((ROOT / "docs/tables.md").read_text("utf-8"), "sh")).splitlines() if line]
    assert len(examples) == 3
    for line in examples:
        done = maang(*shlex.split(line)[1:], "--source", "sample")
        assert done.code == 0, done.err
    assert len(Path("october.csv").read_text().splitlines()) == 6


# Generated parts


def columns(found: Sequence[Column]) -> str:
    lines = [f"| `{column.name}` | `{column.type}` | {column.comment} |" for column in found]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *lines])


def test_tables_page_lists_every_column() -> None:
    page = ROOT / "docs/tables.md"
    text = page.read_text("utf-8")
    parts = {
        "production": PRODUCTION.columns,
        "cumulative": CUMULATIVE.columns,
        "splits": tables.SPLITS.columns,
        "findings": tables.FINDINGS.columns,
        "staging": tables.STAGING_COLUMNS,
    }
    for name, found in parts.items():
        text = with_part(text, name, columns(found))
    approve(page, text)


def with_part(text: str, name: str, part: str) -> str:
    """The page with `part` as its generated part of this name."""
    start = f"<!-- generated: {name} -->\n"
    assert start in text
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{part}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


def test_gate_page_lists_every_check() -> None:
    page = ROOT / "docs/gate.md"
    effects = {
        Kind.MISSING: "refuses the session",
        Kind.ROW: "refuses the session, or is held",
        Kind.SESSION: "refuses the session",
    }
    lines = [
        f"| `{check.name}` | {check.promise} | {effects.get(check.kind, 'warns')} | {'yes' if check.acceptable else 'no'} |"
        for check in CHECKS
    ]
    head = ["| check | promise | a row that fails | can be accepted |", "|---|---|---|---|"]
    approve(page, with_part(page.read_text("utf-8"), "checks", "\n".join([*head, *lines])))


def command_names() -> list[str]:
    return [str(command.name) for command in app.registered_commands]


def test_cli_page_is_the_help_of_every_command(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    parts = ["# Commands", "", "This page is generated from `--help`."]
    for name in ("", *command_names()):
        done = maang(*name.split(), "--help")
        assert (done.code, done.err) == (0, "")
        assert max(map(len, done.out.splitlines())) <= 100
        text = "\n".join(line.rstrip() for line in done.out.strip("\n").splitlines())
        parts += ["", f"## `{f'maang {name}'.strip()}`", "", "```text", text, "```"]
    approve(ROOT / "docs/cli.md", "\n".join(parts) + "\n")


def test_readme_lists_every_command_once() -> None:
    listed = re.findall(r"^\| `maang ([a-z-]+)` \|", README.read_text("utf-8"), re.MULTILINE)
    assert listed == command_names()


# Tables of codes, keys and variables


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table whose first column has this heading, cell by cell."""
    text = page.read_text("utf-8")
    found = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]


def test_exit_codes_page_agrees_with_the_code() -> None:
    rows = table(ROOT / "docs/exit-codes.md", "code")
    assert all(cells[2].startswith(code.meaning) for cells, code in zip(rows, ExitCode, strict=True))
    retries = {True: "yes", False: "no"}
    assert [cells[:2] for cells in rows] == [[str(int(code)), f"`{code.name.lower()}`"] for code in ExitCode]
    assert [cells[3] for cells in rows] == [retries[code.worth_a_retry] for code in ExitCode]
    airflow = {"yes": "retry", "no": "fail immediately"}
    special = {"0": "success", "99": "skip"}
    assert [cells[4] for cells in rows] == [special.get(cells[0], airflow[cells[3]]) for cells in rows]


def test_readme_lists_every_exit_code() -> None:
    codes = [number for cells in table(README, "code") for number in cells[0].split(", ")]
    assert codes == [str(int(code)) for code in ExitCode]


def documented_keys(command: str) -> list[str]:
    text = (ROOT / "docs/json.md").read_text("utf-8")
    [section] = re.findall(rf"^## `{command}`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [key for cell in cells for key in re.findall(r"`(\w+)`", cell)]


def test_json_page_lists_the_keys_of_every_result(maang: Maang) -> None:
    sample = ("--source", "sample", "--json")
    on_day = ("--date", "2025-10-14", *sample)
    calls: dict[str, tuple[str, ...]] = dict.fromkeys(
        ("init-tables", "ingest", "check", "diff", "promote", "cumulate", "drop-staging", "run-day", "show"), on_day
    )
    calls |= dict.fromkeys(("plan", "backfill", "status"), on_day) | dict.fromkeys(
        ("config", "doctor", "maintain", "splits"), sample
    )
    calls["report"] = on_day
    calls["sql"] = ("SELECT 1 AS number", *sample)
    assert sorted(calls) == sorted(command_names())
    envelope = [cells[0].strip("`") for cells in table(ROOT / "docs/json.md", "key")]
    for name, argv in calls.items():
        done = maang(name, *argv)
        assert done.code == 0, done.err
        assert list(done.result) == documented_keys(name), name
        assert [*done.document, "error"] == envelope


def test_configuration_page_names_every_variable() -> None:
    text = (ROOT / "docs/configuration.md").read_text("utf-8")
    named = set(re.findall(r"`((?:MAANG|POLYGON|DATABRICKS)_[A-Z_]+)`", text))
    declared = [declares() for declares in declarations(SOURCES, WAREHOUSES)]
    assert named == {str(field.alias) for kind in declared for field in kind.model_fields.values()} | {"MAANG_CONFIG"}


@each_page
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("http", "#"))]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    paths = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sql|md|toml)|(?:[\w.-]+/)+)`", text)
    known = [ROOT, ROOT / "maang_cli", ROOT / "maang_cli/sources", ROOT / "maang_cli/sources/polygon", page.parent]
    known += [ROOT / "maang_cli/warehouses", ROOT / "maang_cli/warehouses/local"]
    assert [path for path in paths if not any((folder / path).exists() for folder in known)] == []


def test_readme_is_read_in_one_sitting() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150
