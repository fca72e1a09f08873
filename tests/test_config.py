"""`maang config`: every setting, its value and its origin; folders, catalog, metadata files; and no secret."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from maang_cli.settings import declarations
from maang_cli.sources import SOURCES
from maang_cli.warehouses import WAREHOUSES
from tests.cli.helpers import failed
from tests.conftest import Maang, Outcome
from tests.settings import configure
from tests.warehouses.conftest import open_catalog

SECRET = "pk_7Qz-secret"
SAMPLE = ("--source", "sample")

MonkeyPatch = pytest.MonkeyPatch


def settings_of(outcome: Outcome) -> dict[str, tuple[str | None, str]]:
    """Each setting's value and origin."""
    assert outcome.code == 0, outcome.err
    return {found["name"]: (found["value"], found["origin"]) for found in outcome.result["settings"]}


def test_every_setting_of_every_backend_is_listed_once(maang: Maang) -> None:
    declared = [str(field.alias) for declares in declarations(SOURCES, WAREHOUSES) for field in declares().model_fields.values()]
    assert list(settings_of(maang("config", "--json"))) == ["MAANG_CONFIG", *declared]
    assert {"MAANG_TICKERS", "POLYGON_TOKEN", "MAANG_KEEP_DAYS", "DATABRICKS_HOST"} <= set(declared)


def test_defaults_are_shown_as_a_run_uses_them(maang: Maang, monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MAANG_HOME", "MAANG_RETRY_SECONDS", "MAANG_WAREHOUSE_WAIT"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    found = settings_of(maang("config", "--json"))
    assert {origin for _, origin in found.values()} == {"default"}
    assert {name: value for name, (value, _) in found.items() if value is not None} == {
        "MAANG_CONFIG": str(tmp_path / "config" / "maang" / "config.toml"),
        "MAANG_TICKERS": "META,AAPL,AMZN,NFLX,GOOGL",
        "MAANG_SOURCE": "polygon",
        "MAANG_WAREHOUSE": "local",
        "MAANG_SCHEMA": "maang",
        "MAANG_HOME": str(tmp_path / "data" / "maang"),
        "MAANG_POLYGON_URL": "https://api.polygon.io",
        "MAANG_RETRY_SECONDS": "120",
        "MAANG_KEEP_SNAPSHOTS": "100",
        "MAANG_WAREHOUSE_WAIT": "600",
    }


def test_origin_follows_the_order_flag_environment_file(maang: Maang, monkeypatch: MonkeyPatch) -> None:
    assert settings_of(maang("config", "--json"))["MAANG_TICKERS"][1] == "default"
    configure('MAANG_TICKERS = ["A", "B"]\nMAANG_KEEP_DAYS = 30\nMAANG_SCHEMA = ""\n')
    found = settings_of(maang("config", "--json"))
    assert found["MAANG_TICKERS"] == ("A,B", "file")
    assert found["MAANG_KEEP_DAYS"] == ("30", "file")
    assert found["MAANG_SCHEMA"] == ("maang", "default")
    monkeypatch.setenv("MAANG_TICKERS", "C")
    monkeypatch.setenv("MAANG_KEEP_DAYS", "")
    found = settings_of(maang("config", "--json"))
    assert found["MAANG_TICKERS"] == ("C", "environment")
    assert found["MAANG_KEEP_DAYS"] == ("30", "file"), "an empty variable counts as not set"
    assert settings_of(maang("config", "--tickers", "D", "--json"))["MAANG_TICKERS"] == ("D", "flag")


def test_configuration_file_is_named_with_its_origin(maang: Maang, monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    assert maang("config", "--json").result["config_file_exists"] is False
    assert "there is no configuration file\n" in maang("config").out
    path = configure("")
    outcome = maang("config", "--json")
    assert outcome.result["config_file_exists"] is True
    assert settings_of(outcome)["MAANG_CONFIG"] == (str(path), "default")
    other = tmp_path / "other.toml"
    other.write_text("", "utf-8")
    monkeypatch.setenv("MAANG_CONFIG", str(other))
    assert settings_of(maang("config", "--json"))["MAANG_CONFIG"] == (str(other), "environment")


# --- secrets


@pytest.mark.parametrize("name", ["POLYGON_TOKEN", "DATABRICKS_TOKEN", "DATABRICKS_CLIENT_SECRET"])
@pytest.mark.parametrize("place", ["environment", "file"])
def test_secret_is_shown_as_asterisks(maang: Maang, monkeypatch: MonkeyPatch, name: str, place: str) -> None:
    if place == "file":
        configure(f'{name} = "{SECRET}"\n')
    else:
        monkeypatch.setenv(name, SECRET)
    outcome = maang("config", "--json")
    assert settings_of(outcome)[name] == ("***", place)
    text = maang("config").out
    assert f"{name} " in text
    assert SECRET not in outcome.out + text


@pytest.mark.parametrize("name", ["MAANG_POLYGON_URL", "DATABRICKS_HOST"])
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"https://me:{SECRET}@host.example", "***"),
        (f"me:{SECRET}@host.example", "***"),
        (f"https://host.example/?key={SECRET}", "https://host.example/***"),
        (f"https://host.example#{SECRET}", "https://host.example***"),
        (f"https://host.example/{SECRET}", "https://host.example/***"),
        ("https://host.example:8443/", "https://host.example:8443/"),
        ("host.example", "host.example"),
    ],
)
def test_password_in_an_address_is_not_shown(maang: Maang, monkeypatch: MonkeyPatch, name: str, address: str, shown: str) -> None:
    monkeypatch.setenv(name, address)
    outcome = maang("config", "--json")
    assert settings_of(outcome)[name] == (shown, "environment")
    assert SECRET not in outcome.out


# --- what is where


def metadata_of(outcome: Outcome) -> dict[str, Any]:
    return {found["table"]: found["metadata"] for found in outcome.result["tables"]}


def test_folders_catalog_and_current_metadata_files(maang: Maang, home: Path) -> None:
    before = maang("config", *SAMPLE, "--json").result
    assert before["folders"] == {"home": str(home), "warehouse": str(home / "warehouse")}
    assert before["catalog"] == f"sqlite:///{home}/warehouse/catalog.db"
    assert before["tables"] == []
    assert not home.exists(), "it changes nothing"
    assert maang("run-day", "--date", "2025-10-14", *SAMPLE).code == 0
    with open_catalog(home) as catalog:
        current = {
            f"maang_sample.{name}": catalog.load_table(("maang_sample", name)).metadata_location.removeprefix("file://")
            for name in (
                "daily_stock_prices",
                "daily_stock_prices_cumulative",
                "daily_stock_prices_findings",
                "daily_stock_prices_splits",
            )
        }
    assert metadata_of(maang("config", *SAMPLE, "--json")) == current
    assert all(Path(place).is_file() for place in current.values())
    text = maang("config", *SAMPLE).out
    assert all(f"{name}: {place}\n" in text for name, place in current.items()), "whole, so that they can be copied"


def test_table_without_a_metadata_file_is_listed(maang: Maang, home: Path) -> None:
    assert maang("init-tables", *SAMPLE).code == 0
    with closing(sqlite3.connect(home / "warehouse" / "catalog.db")) as catalog:
        catalog.execute("UPDATE iceberg_tables SET metadata_location = NULL WHERE table_name = 'daily_stock_prices'")
        catalog.commit()
    assert metadata_of(maang("config", *SAMPLE, "--json"))["maang_sample.daily_stock_prices"] is None
    assert "maang_sample.daily_stock_prices: the catalog names no metadata file\n" in maang("config", *SAMPLE).out


def test_views_and_other_catalogs_in_the_same_file_are_left_out(maang: Maang, home: Path) -> None:
    assert maang("init-tables", *SAMPLE).code == 0
    before = metadata_of(maang("config", *SAMPLE, "--json"))
    with closing(sqlite3.connect(home / "warehouse" / "catalog.db")) as catalog:
        row = "INSERT INTO iceberg_tables VALUES (?, 'theirs', 'other', 'file:///x.json', NULL, ?)"
        catalog.execute(row, ("another", "TABLE"))
        catalog.execute(row, ("maang", "VIEW"))
        catalog.commit()
    assert len(before) == 4
    assert metadata_of(maang("config", *SAMPLE, "--json")) == before


def test_catalog_that_was_just_begun_has_no_tables(maang: Maang, home: Path) -> None:
    (home / "warehouse").mkdir(parents=True)
    (home / "warehouse" / "catalog.db").touch()
    assert metadata_of(maang("config", *SAMPLE, "--json")) == {}


def test_damaged_catalog_exits_2_and_the_settings_are_shown(maang: Maang, home: Path) -> None:
    (home / "warehouse").mkdir(parents=True)
    (home / "warehouse" / "catalog.db").write_bytes(b"not a database" * 100)
    outcome = maang("config", *SAMPLE, "--json")
    assert outcome.code == 2
    assert "catalog.db can't be read: file is not a database" in outcome.document["error"]["message"]
    assert outcome.result["folders"] == {"home": str(home)}
    assert outcome.result["settings"]


def test_databricks_names_its_catalog_and_connects_to_nothing(maang: Maang, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "host.invalid")
    monkeypatch.setenv("DATABRICKS_HTTP_PATH", "/sql/1.0/warehouses/1")
    monkeypatch.setenv("DATABRICKS_TOKEN", SECRET)
    result = maang("config", "--json").result
    assert (result["catalog"], result["tables"]) == ("the default catalog on host.invalid", [])
    assert maang("config", "--schema", "main.bars", "--json").result["catalog"] == "main on host.invalid"


def test_wrong_setting_exits_2_and_all_of_them_are_shown(maang: Maang, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_SOURCE", "yahoo")
    outcome = maang("config", "--json")
    assert outcome.code == 2
    assert "'yahoo' is not a source" in outcome.document["error"]["message"]
    assert {"name": "MAANG_SOURCE", "value": "yahoo", "origin": "environment"} in outcome.result["settings"]
    assert (outcome.result["catalog"], outcome.result["folders"]) == (None, {})


def test_file_that_is_not_toml_exits_2(maang: Maang) -> None:
    configure("MAANG_TICKERS=META\n")
    message, _ = failed(maang("config"), 2)
    assert "is not TOML" in message


def test_missing_key_is_no_error(maang: Maang) -> None:
    outcome = maang("config")
    assert (outcome.code, outcome.err) == (0, "")


# --- for people


def test_dotenv_of_the_current_folder_is_named_as_not_read(maang: Maang) -> None:
    assert maang("config", "--json").result["not_read"] == []
    assert ".env" not in maang("config").out
    Path(".env").write_text("MAANG_TICKERS=ZZZ\n", "utf-8")
    outcome = maang("config", "--json")
    assert outcome.result["not_read"] == [".env"]
    assert settings_of(outcome)["MAANG_TICKERS"][0] == "META,AAPL,AMZN,NFLX,GOOGL"
    assert "note: .env in this folder is not read" in maang("config").out


def test_control_characters_of_a_value_are_not_printed(maang: Maang, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_VOLUME", "a\x1b[31m\nb")
    assert r"'a\x1b[31m\nb'" in maang("config").out
