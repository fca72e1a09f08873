"""What all tests share: a clean environment, a home, a Polygon server on loopback, `maang` in this process or in its own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from maang_cli.cli.process import main
from tests import made_market
from tests.forks import fork_server
from tests.polygon_server import KEY, PolygonServer
from tests.selection import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from tests.warehouses.databricks.fixtures import databricks, spark

__all__ = [
    "databricks",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "spark",
]


@dataclass(frozen=True)
class Outcome:
    """How a run of `maang` ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document that a run with --json printed."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def result(self) -> Any:
        """The document's result."""
        return self.document["result"]


class Maang(Protocol):
    def __call__(self, *argv: str) -> Outcome: ...


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps the developer's own environment out; returns MAANG_HOME, which does not exist yet."""
    for name in list(os.environ):
        if name.startswith(("MAANG_", "POLYGON_", "DATABRICKS_", "RICH_", "FORCE_COLOR", "PYICEBERG_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("MAANG_HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "1.5")
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.fixture
def polygon(monkeypatch: pytest.MonkeyPatch) -> Iterator[PolygonServer]:
    """A Polygon server without bars; the settings point to it."""
    with PolygonServer() as server:
        monkeypatch.setenv("MAANG_POLYGON_URL", server.url)
        monkeypatch.setenv("POLYGON_TOKEN", KEY)
        yield server


@pytest.fixture(autouse=True)
def unconfigured_log() -> Iterator[None]:
    """A command configures the log of its process. The next test gets it as Python has it."""
    yield
    log = logging.getLogger("maang")
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def maang(capfd: pytest.CaptureFixture[str]) -> Maang:
    """`maang` in this process, through `main`."""

    def run(*argv: str) -> Outcome:
        capfd.readouterr()
        code = main(argv)
        out, err = capfd.readouterr()
        return Outcome(int(code), out, err)

    return run


@pytest.fixture
def maang_process() -> Maang:
    """`maang` in a process of its own."""

    def run(*argv: str) -> Outcome:
        with fork_server().start(*argv) as process:
            out, err = process.communicate(timeout=120)
            return Outcome(process.wait(), out, err)

    return run


REAL_MARKET = Path(__file__).parents[2] / "shared" / "market"


@pytest.fixture(params=[made_market.FOLDER, REAL_MARKET], ids=["made", "real"])
def market(request: pytest.FixtureRequest) -> Path:
    """Bars and recorded answers: those made up by tests/made_market.py, and real ones if the developer has them."""
    folder: Path = request.param
    if not folder.is_dir():
        pytest.skip("needs the real bars in ../shared/market")
    return folder


real_market = pytest.mark.parametrize("market", [REAL_MARKET], ids=["real"], indirect=True)
"""For inputs that went wrong once. Other tests have the same faults in bodies of our own."""
