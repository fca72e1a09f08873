"""`sources.polygon.settings`: the key, the address, the retry budget and the rate limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from maang_cli.errors import SettingsError
from maang_cli.sources import SOURCES
from maang_cli.sources.polygon.settings import PolygonSettings, load
from tests import settings
from tests.conftest import Maang

SECRET = "pk_7Qz-secret"

MonkeyPatch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def key(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", SECRET)


def error() -> SettingsError:
    """The error of loading: one line and a hint, without the key."""
    with pytest.raises(SettingsError) as caught:
        load()
    found = caught.value
    assert found.exit_code == 2
    for text in (found.message, found.hint):
        assert text
        assert text.isprintable(), text
        assert SECRET not in text
    return found


def test_defaults(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.delenv("MAANG_RETRY_SECONDS")
    loaded = load()
    assert (loaded.url, loaded.retry_seconds, loaded.calls_per_minute) == ("https://api.polygon.io", 120, None)


SETTINGS = [
    ("MAANG_POLYGON_URL", "url", "https://a.example", "https://a.example"),
    ("MAANG_RETRY_SECONDS", "retry_seconds", "7.5", 7.5),
    ("MAANG_CALLS_PER_MINUTE", "calls_per_minute", "5", 5),
]


@pytest.mark.parametrize(("variable", "attribute", "text", "value"), SETTINGS, ids=[row[0] for row in SETTINGS])
def test_variable_sets_its_value_and_an_empty_one_the_default(
    monkeypatch: MonkeyPatch, variable: str, attribute: str, text: str, value: object
) -> None:
    monkeypatch.delenv(variable, raising=False)
    default = getattr(load(), attribute)
    assert default != value
    monkeypatch.setenv(variable, text)
    assert getattr(load(), attribute) == value
    monkeypatch.setenv(variable, "")
    assert getattr(load(), attribute) == default
    settings.configure(f'{variable} = "{text}"\n')
    assert getattr(load(), attribute) == value, "an empty variable does not hide the file's"


def test_key_comes_from_the_environment_before_the_file(monkeypatch: MonkeyPatch) -> None:
    settings.configure('POLYGON_TOKEN = "from-file"\n')
    assert load().token.get_secret_value() == SECRET
    monkeypatch.setenv("POLYGON_TOKEN", "")
    assert load().token.get_secret_value() == "from-file", "an empty variable does not hide the file's"
    monkeypatch.delenv("POLYGON_TOKEN")
    assert load().token.get_secret_value() == "from-file"


# --- the address


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://api.polygon.io", "https://api.polygon.io"),
        ("https://api.massive.com/", "https://api.massive.com"),
        ("https://proxy.example:8443/polygon//", "https://proxy.example:8443/polygon"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("HTTPS://API.POLYGON.IO", "HTTPS://API.POLYGON.IO"),
        ("https://api.polygon.io\n", "https://api.polygon.io"),
        (" https://api.polygon.io", "https://api.polygon.io"),
        ("https://api.polygon.io/\r\n", "https://api.polygon.io"),
    ],
)
def test_address_is_https_or_http_on_this_machine(monkeypatch: MonkeyPatch, given: str, kept: str) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", given)
    assert load().url == kept


@pytest.mark.parametrize(
    "url",
    [
        "http://api.polygon.io",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://localhost@example.com",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "ftp://api.polygon.io",
        "file:///etc/hosts",
        "api.polygon.io",
        "//api.polygon.io",
        "https://",
        "https:///v2",
        "https://:443",
        "https://api.polygon.io:port",
        "https://api.polygon.io:99999",
        "https://[::1",
        "https://api.polygon.io/?apiKey=x",
        "https://api.polygon.io/#x",
        "https://api polygon.io",
        "https://api.polygon.io/a b",
        "nonsense",
        *(f"https://{user}@api.polygon.io" for user in (f"me:{SECRET}", f":{SECRET}", SECRET)),
    ],
)
def test_other_addresses_are_refused(monkeypatch: MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", url)
    found = error()
    assert "MAANG_POLYGON_URL" in found.message
    assert "MAANG_POLYGON_URL" in found.hint


# --- the key


def test_white_space_around_the_key_is_removed(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", f" {SECRET}\r\n")
    assert load().token.get_secret_value() == SECRET


@pytest.mark.parametrize(
    "token", [f"{SECRET} {SECRET}", f"{SECRET}\nX: y", f"{SECRET}é", f"“{SECRET}”", f"{SECRET}\x7f", " ", "\n"]
)
def test_key_with_other_characters_is_refused(monkeypatch: MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", token)
    found = error()
    assert "POLYGON_TOKEN" in found.message
    assert "POLYGON_TOKEN" in found.hint


@pytest.mark.parametrize("token", [None, ""], ids=["not set", "empty"])
def test_missing_key_is_an_error(monkeypatch: MonkeyPatch, token: str | None) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", SECRET)  # the client would take this one
    if token is None:
        monkeypatch.delenv("POLYGON_TOKEN")
    else:
        monkeypatch.setenv("POLYGON_TOKEN", token)
    found = error()
    assert found.message == "POLYGON_TOKEN is not set"
    assert "export POLYGON_TOKEN=" in found.hint


def test_key_is_not_needed_until_the_source_is_opened(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.delenv("POLYGON_TOKEN")
    loaded = settings.load(source="polygon")
    with pytest.raises(SettingsError, match="POLYGON_TOKEN is not set"):
        SOURCES["polygon"].open(loaded)


@pytest.mark.parametrize(
    "shown", [repr, str, lambda s: f"{s}", lambda s: json.dumps(asdict(s), default=str), lambda s: str(vars(s))]
)
def test_settings_never_show_the_key(shown: Callable[[PolygonSettings], str]) -> None:
    loaded = load()
    assert loaded.token.get_secret_value() == SECRET
    assert SECRET not in shown(loaded)
    assert "*" in shown(loaded)


# --- numbers


@pytest.mark.parametrize("text", ["-1", "3601", "nan", "inf", "2 minutes", "1,5", "0x10"])
def test_retry_budget_is_a_number_of_seconds_up_to_an_hour(monkeypatch: MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", text)
    found = error()
    assert found.message == f"MAANG_RETRY_SECONDS must be a number from 0 to 3600, not {text!r}"
    assert "MAANG_RETRY_SECONDS" in found.hint


@pytest.mark.parametrize("text", ["0", "-1", "five", "1.5", "1e3", "1234567", "٣", " "])
def test_calls_per_minute_are_a_whole_number(monkeypatch: MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", text)
    found = error()
    assert "MAANG_CALLS_PER_MINUTE" in found.message
    assert "MAANG_CALLS_PER_MINUTE" in found.hint


def test_calls_per_minute_limit_the_source(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_CALLS_PER_MINUTE", "5")
    with closing(SOURCES["polygon"].open(settings.load())) as source:
        assert source.per_minute == 5


def test_settings_are_frozen() -> None:
    loaded = load()
    for field in fields(loaded):
        with pytest.raises(FrozenInstanceError):
            setattr(loaded, field.name, None)


# --- where the key goes

SKIPPED = ("plan", "--date", "2025-10-11", "--date", "2025-10-14")


@pytest.mark.parametrize("command", [SKIPPED, (*SKIPPED, "--json")], ids=["text", "json"])
def test_address_of_another_host_is_the_first_line(maang: Maang, monkeypatch: MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", "https://vendor.example/mirror")
    first, *others = maang(*command).err.splitlines()
    assert first == "note: the API key is sent to vendor.example, as MAANG_POLYGON_URL says"
    assert ["2025-10-11" in line for line in others] == [True]


@pytest.mark.parametrize(
    "address",
    ["https://api.polygon.io", "https://api.massive.com", "https://API.Polygon.io/", "http://127.0.0.1:1", "http://[::1]:1"],
)
def test_addresses_of_the_vendor_and_of_this_machine_are_not_worth_a_line(
    maang: Maang, monkeypatch: MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", address)
    assert "vendor" not in maang(*SKIPPED).err
    assert "API key" not in maang(*SKIPPED).err


def test_command_that_asks_no_vendor_does_not_name_it(maang: Maang, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", "https://vendor.example")
    assert "vendor.example" not in maang("status").err
