"""Fixtures: a stand-in for a SQL warehouse. `tests/conftest.py` makes them available to every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.warehouses.databricks.server import StandIn
    from tests.warehouses.databricks.spark import Spark


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    """One Spark for all tests, because it takes 20 s to start."""
    from tests.warehouses.databricks.spark import Spark

    spark = Spark(tmp_path_factory.mktemp("spark"))
    yield spark
    spark.stop()


@pytest.fixture
def databricks(spark: Spark, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An empty SQL warehouse; the settings point to it."""
    from tests.warehouses.databricks.server import StandIn

    with StandIn(spark.catalog(), tmp_path / "warehouse") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
