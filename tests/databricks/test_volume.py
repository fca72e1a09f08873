"""Large loads go through a Unity Catalog volume, and leave nothing in it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from maang_cli.sessions import between
from maang_cli.warehouses.databricks import SMALL
from tests.conftest import Maang
from tests.databricks.server import Fault, StandIn
from tests.polygon_server import PolygonServer, row

DAY = date(2025, 10, 14)
RUN = ("run-day", "--date", str(DAY), "--json")


@pytest.fixture
def universe(polygon: PolygonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One ticker more than goes into a statement's text, each with a bar."""
    return serve(SMALL + 1, polygon, tmp_path, monkeypatch)


def serve(number: int, polygon: PolygonServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    tickers = [f"{letters[n // 676 % 26]}{letters[n // 26 % 26]}{letters[n % 26]}" for n in range(number)]
    (folder / "tickers.txt").write_text("\n".join(tickers))
    monkeypatch.setenv("MAANG_TICKERS", f"@{folder / 'tickers.txt'}")
    polygon.days[DAY] = [row(ticker, DAY, v=1000 + n) for n, ticker in enumerate(tickers)]
    return tickers


def test_a_day_of_11_000_tickers(
    databricks: StandIn, polygon: PolygonServer, maang: Maang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(11_000, polygon, tmp_path, monkeypatch)
    assert maang("init-tables").code == 0
    databricks.statements.clear()
    done = maang(*RUN)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["promote"]["inserted"], result["cumulate"]["inserted"]) == (11_000, 11_000)
    assert len(databricks.statements) == 11
    assert max(map(len, databricks.statements)) < 1_000_000
    assert databricks.uploads
    assert databricks.volume_files() == []


def test_a_load_that_fails_leaves_nothing_in_the_volume(databricks: StandIn, universe: list[str], maang: Maang) -> None:
    denied = Fault(says="[INSUFFICIENT_PERMISSIONS] User does not have CREATE TABLE. SQLSTATE: 42501")
    databricks.fault = lambda statement: denied if statement.startswith("CREATE OR REPLACE") else None
    done = maang(*RUN)
    assert done.code == 2
    assert "CREATE TABLE" in done.err
    assert databricks.statements[-1].startswith("REMOVE '/Volumes/main/landing/bars/")
    assert databricks.uploads
    assert databricks.volume_files() == []


@pytest.mark.parametrize(("status", "code"), [(403, 2), (404, 2), (500, 0), (503, 0)])
def test_storage_that_refuses_a_file_ends_at_once_and_one_that_stumbles_is_asked_again(
    status: int, code: int, databricks: StandIn, universe: list[str], maang: Maang
) -> None:
    answers = [status]
    databricks.volume_status = lambda method, path: answers.pop() if method == "PUT" and answers else 200
    done = maang("ingest", "--date", str(DAY))
    assert done.code == code, done.err
    assert ("hint: check that MAANG_VOLUME is there" in done.err) is (code == 2)
    assert ("trying again" in done.err) is (code == 0)
    assert databricks.volume_files() == []


def test_a_file_that_can_not_be_removed_is_told_of_and_no_more(databricks: StandIn, universe: list[str], maang: Maang) -> None:
    databricks.volume_status = lambda method, path: 403 if method == "DELETE" else 200
    done = maang("ingest", "--date", str(DAY))
    assert done.code == 0, done.err
    assert "was not removed" in done.err


def test_without_a_volume_a_large_load_ends_before_anything_is_sent(
    databricks: StandIn, universe: list[str], maang: Maang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAANG_VOLUME")
    done = maang(*RUN)
    assert done.code == 2
    assert "hint: set MAANG_VOLUME" in done.err
    assert databricks.paths == []


def test_without_a_volume_a_backfill_goes_up_in_small_batches(
    databricks: StandIn, polygon: PolygonServer, maang: Maang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAANG_VOLUME")
    monkeypatch.setattr("maang_cli.warehouses.databricks.SMALL", 4)
    tickers = ("AAPL", "META")
    days = between(DAY, date(2025, 10, 16))
    polygon.days = {day: [row(ticker, day) for ticker in tickers] for day in days}
    done = maang("backfill", "--from", str(days[0]), "--to", str(days[-1]), "--tickers", ",".join(tickers), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["production"]["inserted"] == 6
    assert databricks.uploads == []
