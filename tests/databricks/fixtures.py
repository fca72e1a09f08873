"""The stand-in for a SQL warehouse as fixtures; `tests/conftest.py` hands them to every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.databricks.server import StandIn
    from tests.databricks.spark import Spark


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    """One Spark for all tests."""
    from tests.databricks.spark import Spark

    spark = Spark(tmp_path_factory.mktemp("spark"))
    yield spark
    spark.stop()


@pytest.fixture
def databricks(spark: Spark, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An empty SQL warehouse, which the settings point to."""
    from tests.databricks.server import StandIn

    with StandIn(spark.catalog(), tmp_path / "warehouse") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
