"""Fixtures of these tests: a SQL warehouse that needs no Spark, and `maang init-tables` on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Maang, Outcome
from tests.warehouses.databricks.server import CLIENT_ID, CLIENT_SECRET, OAUTH_TOKEN, TOKEN, NoEngine, StandIn

WRONG_SECRET = "wrong-secret"

Init = Callable[[], Outcome]


@pytest.fixture
def server(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A SQL warehouse that takes every statement and stores nothing; the settings point to it."""
    with StandIn(NoEngine(), tmp_path / "server") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def init(maang: Maang) -> Init:
    """`maang init-tables --verbose`, which must never print a secret, and prints one hint if it fails."""

    def run() -> Outcome:
        done = maang("init-tables", "--verbose")
        for secret in (TOKEN, CLIENT_SECRET, OAUTH_TOKEN, WRONG_SECRET):
            assert secret not in done.out + done.err
        if done.code:
            assert done.err.count("hint: ") == 1
            assert "Traceback" not in done.err
        return done

    return run


@pytest.fixture
def use_service_principal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the settings name a service principal with this secret instead of a token."""

    def use(secret: str) -> None:
        monkeypatch.delenv("DATABRICKS_TOKEN")
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT_ID)
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", secret)

    return use
