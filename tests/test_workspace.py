"""How a Databricks workspace may be described."""

from __future__ import annotations

import pytest

from maang_cli import settings
from maang_cli.errors import SettingsError

COMPLETE = {
    "DATABRICKS_HOST": "dbc-1.cloud.databricks.com",
    "DATABRICKS_HTTP_PATH": "/sql/1.0/warehouses/1",
    "DATABRICKS_TOKEN": "dapi-secret",
}


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("dbc-1.cloud.databricks.com", "https://dbc-1.cloud.databricks.com"),
        ("https://dbc-1.cloud.databricks.com", "https://dbc-1.cloud.databricks.com"),
        ("https://dbc-1.cloud.databricks.com/", "https://dbc-1.cloud.databricks.com"),
        ("dbc-1.cloud.databricks.com/", "https://dbc-1.cloud.databricks.com"),
        ("dbc-1.cloud.databricks.com:8443", "https://dbc-1.cloud.databricks.com:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:8080/", "http://localhost:8080"),
    ],
)
def test_a_host_is_taken_with_or_without_scheme_and_slash(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", host)
    workspace = settings.load().workspace
    assert workspace is not None
    assert workspace.url == url


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABRICKS_HOST", ""),
        ("DATABRICKS_HOST", "http://dbc-1.cloud.databricks.com"),
        ("DATABRICKS_HOST", "https://user:dapi-secret@dbc-1.cloud.databricks.com"),
        ("DATABRICKS_HOST", "https://dbc-1.cloud.databricks.com/?o=1&t=dapi-secret"),
        ("DATABRICKS_HOST", "https://dbc-1.cloud.databricks.com/sql/dapi-secret"),
        ("DATABRICKS_HOST", "ftp://dbc-1.cloud.databricks.com"),
        ("DATABRICKS_HOST", "dbc 1"),
        ("DATABRICKS_HTTP_PATH", "/sql/1.0/ware houses"),
        ("DATABRICKS_TOKEN", "dapi secret"),
        ("DATABRICKS_TOKEN", ""),
        ("MAANG_VOLUME", "landing.bars"),
        ("MAANG_VOLUME", "main.landing.bars'"),
        ("MAANG_WAREHOUSE_WAIT", "long"),
        ("MAANG_WAREHOUSE_WAIT", "-1"),
        ("MAANG_SCHEMA", "a.b.c"),
        ("MAANG_SCHEMA", "main.maang_sample"),
        ("MAANG_SCHEMA", "main.`x`"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        settings.load()
    assert variable in raised.value.message + raised.value.hint
    assert "dapi-secret" not in raised.value.message + raised.value.hint


@pytest.mark.parametrize("name", ["maang", "main.maang", "my-catalog.maang", "Prod_2.bars"])
def test_a_schema_may_name_its_catalog(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_SCHEMA", name)
    assert settings.load().schema_name == name


def test_on_the_laptop_a_schema_has_no_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_SCHEMA", "main.maang")
    with pytest.raises(SettingsError):
        settings.load(warehouse="local")


def test_a_path_makes_databricks_the_warehouse_but_for_made_up_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().warehouse == "databricks"
    assert settings.load(source="sample").warehouse == "local"
    monkeypatch.delenv("DATABRICKS_HTTP_PATH")
    assert settings.load().warehouse == "local"


def test_secrets_are_not_shown() -> None:
    assert "dapi-secret" not in repr(settings.load())
