"""`maang doctor`: what it checks, what it reports, and that it leaves nothing behind."""

from __future__ import annotations

import re
import time
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from maang_cli import sessions as calendar
from maang_cli.tables import PRODUCTION, Table
from maang_cli.warehouses import WAREHOUSES
from tests import settings
from tests.conftest import Maang, Outcome
from tests.polygon_server import Answer, PolygonServer, grouped, row
from tests.warehouses.databricks.server import StandIn

SAMPLE = ("--source", "sample")


def passed(done: Outcome) -> dict[str, bool]:
    """Each check's name, and whether it passed."""
    return {each["name"]: each["ok"] for each in done.result["checks"]}


def serve(polygon: PolygonServer, years: int = 30, headers: dict[str, str] | None = None) -> None:
    """Serve bars on every session of the last years. Older ones are not in the plan."""
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


def test_every_check_passes(warehouse: str, polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon)
    assert maang("init-tables", "--warehouse", warehouse).code == 0
    done = maang("doctor", "--json", "--warehouse", warehouse)
    assert done.code == 0, done.out
    own = {"volume": True, "gate": True} if warehouse == "databricks" else {}
    everywhere = dict.fromkeys(("warehouse", "tables", "merge", "source", "key", "history", "clock"), True)
    assert passed(done) == everywhere | own


def test_nothing_is_left_behind_on_databricks(maang: Maang, databricks: StandIn, polygon: PolygonServer) -> None:
    serve(polygon)
    assert maang("init-tables").code == 0
    before = databricks.rows("SHOW TABLES IN maang")
    assert maang("doctor").code == 0
    assert databricks.rows("SHOW TABLES IN maang") == before
    assert databricks.volume_files() == []


def test_gate_that_does_not_raise_in_the_warehouse_fails(
    maang: Maang, request: pytest.FixtureRequest, polygon: PolygonServer
) -> None:
    server = request.getfixturevalue("databricks")
    serve(polygon)
    assert maang("init-tables").code == 0
    server.rewrite = lambda statement: re.sub(r"CAST\(raise_error\([^)]*\) AS BOOLEAN\)", "TRUE", statement)
    done = maang("doctor", "--json")
    assert done.code == 2
    assert {name for name, ok in passed(done).items() if not ok} == {"gate"}


def test_nothing_is_left_behind_on_this_machine(maang: Maang, home: Path) -> None:
    assert maang("init-tables", *SAMPLE).code == 0
    before = sorted(path for path in home.rglob("*") if path.is_dir())
    assert maang("doctor", *SAMPLE).code == 0
    assert sorted(path for path in home.rglob("*") if path.is_dir()) == before


def test_history_of_one_snapshot_is_enough(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "1")
    assert maang("init-tables", *SAMPLE).code == 0
    done = maang("doctor", *SAMPLE)
    assert done.code == 0, done.err
    assert "written twice, read, and dropped" in " ".join(done.out.split())


def test_old_scratch_table_of_a_killed_run_is_dropped_and_a_new_one_stays(
    warehouse: str, polygon: PolygonServer, maang: Maang
) -> None:
    serve(polygon)
    assert maang("init-tables", "--warehouse", warehouse).code == 0
    now = int(time.time())
    old, new = (f"maang_doctor_{now - age}_0a1b2c3d{part}" for age, part in ((3601, "_in"), (3000, "")))
    with closing(WAREHOUSES[warehouse].open(settings.load(), "")) as opened:
        before = opened.tables()
        for name in (old, new, "maang_doctor_notes"):
            opened.create(Table(name, PRODUCTION.columns, PRODUCTION.stamp))
        done = maang("doctor", "--warehouse", warehouse)
        assert done.code == 0, done.err
        assert "1 of a killed run dropped" in " ".join(done.out.split())
        assert opened.tables() == sorted([*before, new, "maang_doctor_notes"])


def test_tables_are_read(maang: Maang, home: Path) -> None:
    assert maang("run-day", "--date", "2025-10-14", *SAMPLE).code == 0
    done = maang("doctor", *SAMPLE, "--json")
    [found] = [each["found"] for each in done.result["checks"] if each["name"] == "tables"]
    name = "maang_sample.daily_stock_prices"
    assert found == f"{name}: 5 rows, the newest of 2025-10-14; {name}_cumulative: 5 rows, the newest of 2025-10-14"
    [data] = (home / "warehouse/maang_sample/daily_stock_prices_cumulative").rglob("*.parquet")
    data.write_bytes(bytes(data.stat().st_size))
    done = maang("doctor", *SAMPLE, "--json")
    assert (done.code, passed(done)["tables"]) == (2, False)
    assert str(data) in done.err
    assert "maang backfill --refetch --date 2025-10-14" in done.err


def test_nothing_is_written_before_the_schema_exists(maang: Maang) -> None:
    done = maang("doctor", *SAMPLE)
    assert done.code == 0
    assert "not tried: the schema does not exist yet" in done.out
    assert "created the schema\n" in maang("init-tables", *SAMPLE).out


def test_wrong_key_fails_with_its_hint(polygon: PolygonServer, maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", "wrong")
    done = maang("doctor", "--json")
    assert done.code == 2
    found = passed(done)
    assert (found["source"], found["key"], found["history"]) == (True, False, False)
    failure, _ = [each for each in done.result["checks"] if not each["ok"]]
    assert "POLYGON_TOKEN" in failure["hint"]
    assert done.document["error"] == {"message": failure["found"], "hint": failure["hint"]}
    assert done.err == f"error: {failure['found']}\nhint: {failure['hint']}\n"


def test_history_of_the_plan_is_reported(polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon, 3)
    done = maang("doctor")
    assert done.code == 0
    two_years_ago = datetime.now(UTC).date() - timedelta(days=730)
    reached = calendar.between(two_years_ago - timedelta(days=10), two_years_ago + timedelta(days=5))
    assert any(f"the plan reaches back to {day} or earlier" in " ".join(done.out.split()) for day in reached)


def test_wrong_clock_is_reported(polygon: PolygonServer, maang: Maang) -> None:
    serve(polygon, headers={"Date": format_datetime(datetime.now(UTC) - timedelta(hours=2), usegmt=True)})
    done = maang("doctor", "--json")
    assert done.code == 2
    assert passed(done)["clock"] is False


@pytest.mark.parametrize("sent", ["Mon, 01 Jan 10000000000000000000 00:00:00 GMT", "soon", "", "Mon, 99 Jan 2025 99:99:99 +9999"])
def test_clock_is_not_compared_with_a_time_that_can_not_be_read(polygon: PolygonServer, maang: Maang, sent: str) -> None:
    serve(polygon, headers={"Date": sent})
    done = maang("doctor")
    assert done.code == 0
    assert "not tried: the vendor did not send its time" in " ".join(done.out.split())


def test_warehouse_that_can_not_be_opened_is_not_checked_further(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    done = maang("doctor", "--json", "--warehouse", "databricks")
    assert done.code == 2
    assert "merge" not in passed(done)
