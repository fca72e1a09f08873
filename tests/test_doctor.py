"""`maang doctor`: what it looks at, what it says of it, and that it leaves nothing behind."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime

import pytest

from maang_cli import sessions as calendar
from tests.conftest import Maang, Outcome
from tests.polygon_server import Answer, PolygonServer, grouped, row

SAMPLE = ("--source", "sample")


def looks(done: Outcome) -> dict[str, bool]:
    return {each["name"]: each["ok"] for each in json.loads(done.out)["findings"]}


def serve(polygon: PolygonServer, years: int, headers: dict[str, str] | None = None) -> None:
    """Bars on every session of the last years; what is older is not in the plan."""
    first = datetime.now(UTC).date() - timedelta(days=365 * years)

    def answer(path: str) -> Answer:
        day = date.fromisoformat(path.partition("/stocks/")[2][:10])
        if day < first:
            return Answer(403, b'{"status":"NOT_AUTHORIZED","message":"Your plan doesn\'t include this data timeframe."}')
        return Answer(body=grouped([row("AAPL", day)]), headers=headers or {})

    polygon.always = answer


@pytest.fixture(params=["local", "databricks"])
def warehouse(request: pytest.FixtureRequest, home: object) -> str:
    if request.param == "databricks":
        request.getfixturevalue("databricks")
    return str(request.param)


def test_all_is_well_and_nothing_is_left_behind(warehouse: str, polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon, 30)
    assert maang("init-tables", "--warehouse", warehouse).code == 0
    done = maang("doctor", "--json", "--warehouse", warehouse)
    assert done.code == 0, done.out
    volume = {"volume": True} if warehouse == "databricks" else {}
    assert looks(done) == {"warehouse": True, **volume, "merge": True} | dict.fromkeys(
        ("source", "key", "history", "clock"), True
    )


def test_the_stand_in_is_left_as_it_was(maang: Maang, request: pytest.FixtureRequest, polygon: PolygonServer) -> None:
    server = request.getfixturevalue("databricks")
    serve(polygon, 30)
    assert maang("init-tables").code == 0
    before = server.rows("SHOW TABLES IN maang")
    assert maang("doctor").code == 0
    assert server.rows("SHOW TABLES IN maang") == before
    assert server.volume_files() == []


def test_before_the_schema_is_there_nothing_is_written(maang: Maang) -> None:
    done = maang("doctor", *SAMPLE)
    assert done.code == 0
    assert "not tried: the schema is not there yet" in done.out
    assert "maang_sample was there" not in maang("init-tables", *SAMPLE).out


def test_a_wrong_key_fails_with_its_hint(polygon: PolygonServer, maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", "wrong")
    done = maang("doctor", "--json")
    assert done.code == 2
    found = looks(done)
    assert (found["source"], found["key"]) == (True, False)
    assert "POLYGON_TOKEN" in done.out


def test_the_plans_reach_is_told(polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon, 3)
    done = maang("doctor")
    assert done.code == 0
    two_years_ago = datetime.now(UTC).date() - timedelta(days=730)
    reached = calendar.between(two_years_ago - timedelta(days=10), two_years_ago + timedelta(days=5))
    assert any(f"the plan reaches back to {day} at least" in done.out.replace("\n", " ") for day in reached)


def test_a_clock_that_is_off_is_told(polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon, 30, {"Date": format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)})
    done = maang("doctor", "--json")
    assert done.code == 2
    assert looks(done)["clock"] is False


def test_a_warehouse_that_can_not_be_opened_spares_what_rests_on_it(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    done = maang("doctor", "--json", "--warehouse", "databricks")
    assert done.code == 2
    assert "merge" not in looks(done)
