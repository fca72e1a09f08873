"""What the README shows is what maang prints. UPDATE_GOLDEN=1 writes the transcripts anew."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

from maang_cli.sessions import between
from maang_cli.sources.sample import SampleSource
from tests.golden_files import freshness, without_sizes
from tests.polygon_server import PolygonServer, row

README = Path(__file__).parents[1] / "README.md"
TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")
FIELDS = {"o": "open", "h": "high", "l": "low", "c": "close", "vw": "vwap"}
BAD_DAY = date(2025, 10, 15)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def transcript(block: str) -> str:
    """The block with each command's output as it is now."""
    lines: list[str] = []
    for command in re.findall(r"^\$ (maang .*)$", block, re.MULTILINE):
        argv = [sys.executable, "-m", "maang_cli", *shlex.split(command)[1:]]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
        said = "\n".join(line.rstrip() for line in freshness(done.stdout).splitlines())
        lines.append(f"$ {command}\n{said}\n" + (f"$ echo $?\n{done.returncode}\n" if done.returncode else ""))
    return "\n".join(lines)


def day(session: date) -> list[dict[str, object]]:
    """The vendor's answer for a session, its bars made up."""
    bars = SampleSource().bars(TICKERS, [session]).to_pylist()
    return [row(bar["ticker"], session, **{key: float(bar[name]) for key, name in FIELDS.items()}) for bar in bars]


def bad_day() -> list[dict[str, object]]:
    """A day without NFLX, on which META's high lies below its low."""
    rows = [bar for bar in day(BAD_DAY) if bar["T"] != "NFLX"]
    rows[0]["h"] = 300.25
    return rows


def test_transcripts_are_what_maang_prints(polygon: PolygonServer) -> None:
    polygon.days = {session: day(session) for session in between(date(2025, 9, 2), date(2025, 10, 14))} | {BAD_DAY: bad_day()}
    text = README.read_text("utf-8")
    printed = text
    shown = blocks("console")
    assert len(shown) >= 2
    for block in shown:
        printed = printed.replace(f"```console\n{block}```", f"```console\n{transcript(block)}```")
    if os.environ.get("UPDATE_GOLDEN"):
        README.write_text(printed, "utf-8")
    else:
        assert without_sizes(text) == without_sizes(printed)


def test_python_that_opens_the_tables_runs() -> None:
    argv = [sys.executable, "-m", "maang_cli", "run-day", "--date", "2025-10-14", "--source", "sample"]
    subprocess.run(argv, check=True, timeout=120)
    opening = next(block for block in blocks("python") if "SqlCatalog" in block)
    done = subprocess.run([sys.executable, "-c", opening], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "('META', Decimal('334.17'))" in done.stdout
    assert done.stdout.endswith("5\n")
