"""A sheet of commands and what they printed, for golden files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import golden_files
from tests.conftest import Maang, Outcome
from tests.polygon_server import PolygonServer, row

DAY, NEXT = date(2025, 10, 14), date(2025, 10, 15)
ON, ON_NEXT = ("--date", str(DAY)), ("--date", str(NEXT))
FEW = ("--tickers", "META,AAPL")
SAMPLE = ("--source", "sample", *FEW)


@dataclass
class Sheet:
    """Runs commands, and writes down what each printed: stdout, stderr after `2> `, and the exit code."""

    maang: Maang
    polygon: PolygonServer
    home: Path
    monkeypatch: pytest.MonkeyPatch
    lines: list[str] = field(default_factory=list)

    def __call__(self, *argv: str) -> Outcome:
        return self.add(argv, self.maang(*argv))

    def add(self, argv: tuple[str, ...], outcome: Outcome) -> Outcome:
        self.lines += [f"$ maang {' '.join(argv)}", *outcome.out.splitlines()]
        self.lines += [f"2> {line}" for line in outcome.err.splitlines()]
        self.lines += [f"exit code {outcome.code}"] if outcome.code else []
        self.lines.append("")
        return outcome

    @property
    def text(self) -> str:
        return golden_files.masked("\n".join(self.lines), self.home.parent)

    def catalog(self) -> Path:
        """The local warehouse's SQLite file, with the tables for SAMPLE."""
        self.maang("init-tables", *SAMPLE)
        return self.home / "warehouse" / "catalog.db"


@pytest.fixture
def sheet(maang: Maang, polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sheet]:
    polygon.days = {day: [row("META", day), row("AAPL", day, o=10.405, v=2000.5)] for day in (DAY, NEXT)}
    # A short path of the same length everywhere, because a table breaks a long one; pytest's folders differ in length.
    with TemporaryDirectory(prefix="maang-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        monkeypatch.setenv("MAANG_HOME", str(home))
        monkeypatch.setenv("XDG_CONFIG_HOME", f"{folder}/config")
        yield Sheet(maang, polygon, home, monkeypatch)
