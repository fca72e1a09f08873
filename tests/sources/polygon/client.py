"""The Polygon source, opened at the address of a test's server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from maang_cli.errors import MaangError
from maang_cli.sources.polygon.settings import PolygonSettings
from maang_cli.sources.polygon.source import PolygonSource
from tests.polygon_server import KEY

DAY = date(2025, 10, 14)
AMPLE = 30.0
"""Seconds for an answer that comes immediately, even on a busy machine."""
SHORT = 1.0
"""Seconds: too short for a second attempt, because the wait before it takes a second or longer."""


def polygon_source(url: str, budget: float = AMPLE, key: str = KEY) -> PolygonSource:
    return PolygonSource(PolygonSettings(SecretStr(key), url, budget, None), Path("no-cached-answers"))


def fetch_bars(url: str, *tickers: str, sessions: Sequence[date] = (DAY,), budget: float = AMPLE) -> list[dict[str, Any]]:
    """The bars of META, or of these tickers."""
    with closing(polygon_source(url, budget)) as source:
        rows: list[dict[str, Any]] = source.bars(tickers or ("META",), sessions).to_pylist()
        return rows


def error_of(url: str, *tickers: str, budget: float = AMPLE) -> MaangError:
    """The source's error: it names the host, has a hint, prints on one line, and does not show the key."""
    with pytest.raises(MaangError) as caught:
        fetch_bars(url, *tickers, budget=budget)
    error = caught.value
    assert urlsplit(url).netloc in error.message
    assert error.hint
    for text in (error.message, error.hint, str(error), repr(error)):
        assert text.isprintable(), text
        assert KEY not in text
        assert not text.endswith(".")
    return error
