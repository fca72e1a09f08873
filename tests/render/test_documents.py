"""Results as JSON objects: exact decimals, readable dates, and nothing that JSON lacks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from maang_cli.render.documents import document, plain
from tests.conftest import Maang
from tests.render.conftest import DAY, FEW, ON, Sheet


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("10.40"), "10.40"),
        (Decimal("1E+2"), "1E+2"),
        (date(2025, 10, 14), "2025-10-14"),
        (datetime(2025, 10, 14, 20, 1, 2, tzinfo=UTC), "2025-10-14T20:01:02Z"),
    ],
)
def test_value_that_json_lacks_is_text(value: object, text: str) -> None:
    assert plain(value) == text


def test_unknown_value_is_a_bug() -> None:
    with pytest.raises(TypeError, match="set in a result"):
        plain({1})


def test_result_without_a_form_of_its_own_has_its_fields() -> None:
    @dataclass(frozen=True)
    class Result:
        rows: int
        days: tuple[date, ...]

    assert json.loads(json.dumps(document(Result(1, (DAY,))), default=plain)) == {"rows": 1, "days": ["2025-10-14"]}


def test_decimals_are_exact_strings(sheet: Sheet) -> None:
    results = {}
    for command in ("run-day", "show", "drop-staging", "ingest", "check"):
        results[command] = sheet.maang(command, *ON, *FEW, "--json").result
    assert results["run-day"]["promote"]["inserted"] == 2
    first = results["show"]["rows"][0]
    assert (first["open"], first["volume"], first["date"]) == ("10.41", 2001, "2025-10-14")
    assert results["drop-staging"]["dropped"] is False
    assert results["check"]["passed"] is True


def test_row_keeps_its_decimals_exact_and_its_dates_readable(maang: Maang) -> None:
    meta = (*ON, "--source", "sample", "--tickers", "META")
    assert maang("run-day", *meta).code == 0
    (bar,) = maang("show", *meta, "--json").result["rows"]
    stamp = bar.pop("insertion_timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", stamp)
    assert bar == {
        "ticker": "META",
        "date": "2025-10-14",
        "open": "333.00",
        "high": "335.90",
        "low": "330.23",
        "close": "334.17",
        "volume": 16724100,
        "vwap": "333.43",
        "transactions": 183781,
    }
