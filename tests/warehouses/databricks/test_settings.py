"""Which descriptions of a Databricks workspace are accepted, and when they are read."""

from __future__ import annotations

import pytest

from maang_cli.errors import SettingsError
from maang_cli.retries import WAREHOUSE_START_SECONDS
from maang_cli.warehouses.databricks import settings as databricks_settings
from maang_cli.warehouses.databricks.settings import MOST_WAIT_SECONDS, Workspace
from tests import settings

COMPLETE = {
    "DATABRICKS_HOST": "dbc-1.cloud.databricks.com",
    "DATABRICKS_HTTP_PATH": "/sql/1.0/warehouses/1",
    "DATABRICKS_TOKEN": "dapi-secret",
}


@pytest.fixture(autouse=True)
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)


def workspace(**flags: str) -> Workspace:
    """The workspace of a run with these flags."""
    return databricks_settings.load(settings.load(**flags))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("dbc-1.cloud.databricks.com", "https://dbc-1.cloud.databricks.com"),
        ("https://dbc-1.cloud.databricks.com", "https://dbc-1.cloud.databricks.com"),
        ("https://dbc-1.cloud.databricks.com/", "https://dbc-1.cloud.databricks.com"),
        ("dbc-1.cloud.databricks.com/", "https://dbc-1.cloud.databricks.com"),
        (" dbc-1.cloud.databricks.com\n", "https://dbc-1.cloud.databricks.com"),
        ("dbc-1.cloud.databricks.com:8443", "https://dbc-1.cloud.databricks.com:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:8080/", "http://localhost:8080"),
    ],
)
def test_host_may_have_a_scheme_and_a_slash(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", host)
    assert workspace().url == url


@pytest.mark.parametrize("path", ["/sql/1.0/warehouses/1", "sql/1.0/warehouses/1", " /sql/1.0/warehouses/1 "])
def test_http_path_may_lack_its_slash(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HTTP_PATH", path)
    assert workspace().http_path == "/sql/1.0/warehouses/1"


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
        ("MAANG_VOLUME", "landing.bars"),
        ("MAANG_VOLUME", "main.landing.bars'"),
        ("MAANG_WAREHOUSE_WAIT", "long"),
        ("MAANG_WAREHOUSE_WAIT", "-1"),
        ("MAANG_WAREHOUSE_WAIT", str(MOST_WAIT_SECONDS + 1)),
        ("MAANG_SCHEMA", "a.b.c"),
        ("MAANG_SCHEMA", "main.maang_sample"),
        ("MAANG_SCHEMA", "main.`x`"),
    ],
)
def test_invalid_value_is_refused_with_its_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        workspace()
    assert variable in raised.value.message + raised.value.hint
    assert "dapi-secret" not in raised.value.message + raised.value.hint


def test_warehouse_without_a_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_HTTP_PATH")
    with pytest.raises(SettingsError, match=r"^DATABRICKS_HTTP_PATH is not set$"):
        workspace(warehouse="databricks")


def test_error_says_why_databricks_is_the_warehouse_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_HOST")
    with pytest.raises(SettingsError) as raised:
        workspace()
    assert raised.value.message == "DATABRICKS_HTTP_PATH is set, so the warehouse is Databricks: DATABRICKS_HOST is not set"
    assert raised.value.hint.endswith("; or use --warehouse local to write to this machine")
    with pytest.raises(SettingsError) as raised:
        workspace(warehouse="databricks")
    assert raised.value.message == "DATABRICKS_HOST is not set"
    assert "--warehouse" not in raised.value.hint


def test_local_warehouse_reads_no_databricks_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "not a host")
    monkeypatch.setenv("MAANG_VOLUME", "not a volume")
    assert settings.load(warehouse="local").warehouse == "local"


def test_wait_has_a_default_and_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAANG_WAREHOUSE_WAIT")
    assert workspace().wait_seconds == float(WAREHOUSE_START_SECONDS)
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", str(MOST_WAIT_SECONDS))
    assert workspace().wait_seconds == MOST_WAIT_SECONDS


def test_volume_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workspace().volume is None
    monkeypatch.setenv("MAANG_VOLUME", "main.landing.bars")
    assert workspace().volume == "main.landing.bars"


@pytest.mark.parametrize("name", ["maang", "main.maang", "my-catalog.maang", "Prod_2.bars"])
def test_schema_may_name_its_catalog(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_SCHEMA", name)
    assert settings.load().schema_name == name


def test_schema_of_the_local_warehouse_has_no_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_SCHEMA", "main.maang")
    with pytest.raises(SettingsError):
        settings.load(warehouse="local")


def test_http_path_makes_databricks_the_warehouse_except_for_the_sample_source(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().warehouse == "databricks"
    assert settings.load(source="sample").warehouse == "local"
    monkeypatch.delenv("DATABRICKS_HTTP_PATH")
    assert settings.load().warehouse == "local"


def test_token_beats_a_service_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "client")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "client-secret")
    token = workspace().token
    assert token is not None
    assert token.get_secret_value() == "dapi-secret"
    monkeypatch.delenv("DATABRICKS_TOKEN")
    assert workspace().token is None


def test_client_secret_needs_a_client_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "client-secret")
    monkeypatch.delenv("DATABRICKS_TOKEN")
    with pytest.raises(SettingsError, match="DATABRICKS_CLIENT_SECRET is set without DATABRICKS_CLIENT_ID"):
        workspace()


def test_white_space_around_a_secret_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-secret\n")
    token = workspace().token
    assert token is not None
    assert token.get_secret_value() == "dapi-secret"


def test_settings_show_no_secret() -> None:
    assert "dapi-secret" not in repr(workspace())
    assert "dapi-secret" not in repr(settings.load())
