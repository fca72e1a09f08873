"""Settings: who beats whom, and what each of them may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from maang_cli.checks import AllowMissing
from maang_cli.errors import SettingsError
from maang_cli.settings import Settings, load, parse_tickers

SECRET = "pk_7Qz-secret"
FAANG = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")

MonkeyPatch = pytest.MonkeyPatch


def refusal(**flags: str) -> SettingsError:
    """Why the settings are refused: one line and a hint, and no secret in either."""
    with pytest.raises(SettingsError) as caught:
        load(**flags)
    failure = caught.value
    assert failure.exit_code == 2
    for text in (failure.message, failure.hint):
        assert text
        assert text.isprintable(), text
        assert SECRET not in text
    return failure


def dotenv(text: str) -> None:
    Path(".env").write_text(text, "utf-8", newline="")


def file_of(content: bytes) -> str:
    Path("tickers.txt").write_bytes(content)
    return "@tickers.txt"


# --- flag, environment, .env


def test_without_any_setting_the_defaults_hold(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.delenv("MAANG_RETRY_SECONDS")
    settings = load()
    assert settings.polygon_token is None
    assert settings.polygon_url == "https://api.polygon.io"
    assert settings.retry_seconds == 120
    assert settings.tickers == FAANG
    assert settings.allow_missing == AllowMissing()
    assert (settings.source, settings.warehouse, settings.schema_name) == ("polygon", "local", "maang")
    assert settings.keep_snapshots == 100


SETTINGS = [
    # name of the flag (None: there is none), variable, attribute, three values and what they mean
    ("tickers", "MAANG_TICKERS", "tickers", {"A": ("A",), "B": ("B",), "C": ("C",)}),
    ("source", "MAANG_SOURCE", "source", {"sample": "sample", "polygon": "polygon"}),
    ("schema", "MAANG_SCHEMA", "schema_name", {"one": "one", "two": "two", "three": "three"}),
    (
        "allow_missing",
        "MAANG_ALLOW_MISSING",
        "allow_missing",
        {"A": AllowMissing(frozenset("A")), "5%": AllowMissing(percent=Decimal(5)), "7%": AllowMissing(percent=Decimal(7))},
    ),
    ("home", "MAANG_HOME", "home", {"/a": Path("/a"), "/b": Path("/b"), "/c": Path("/c")}),
    (
        None,
        "MAANG_POLYGON_URL",
        "polygon_url",
        {"https://a.example": "https://a.example", "https://b.example": "https://b.example"},
    ),
    (None, "MAANG_RETRY_SECONDS", "retry_seconds", {"5": 5.0, "7.5": 7.5}),
    (None, "MAANG_KEEP_SNAPSHOTS", "keep_snapshots", {"5": 5, "7": 7}),
]
each_setting = pytest.mark.parametrize(("flag", "variable", "attribute", "values"), SETTINGS, ids=[row[1] for row in SETTINGS])


@each_setting
def test_a_flag_beats_the_environment_which_beats_dotenv(
    monkeypatch: MonkeyPatch, flag: str | None, variable: str, attribute: str, values: dict[str, Any]
) -> None:
    first, second, third = [*values, *values, *values][:3]
    monkeypatch.delenv(variable, raising=False)
    dotenv(f"{variable}={first}\n")
    assert getattr(load(), attribute) == values[first]
    monkeypatch.setenv(variable, second)
    assert getattr(load(), attribute) == values[second]
    if flag:
        assert getattr(load(**{flag: third}), attribute) == values[third]


@each_setting
def test_an_empty_variable_is_as_if_it_were_not_there(
    monkeypatch: MonkeyPatch, flag: str | None, variable: str, attribute: str, values: dict[str, Any]
) -> None:
    monkeypatch.delenv(variable, raising=False)
    default = getattr(load(), attribute)
    monkeypatch.setenv(variable, "")
    assert getattr(load(), attribute) == default
    dotenv(f"{variable}=\n")
    assert getattr(load(), attribute) == default
    dotenv(f"{variable}={next(iter(values))}\n")
    assert getattr(load(), attribute) == values[next(iter(values))], "an empty variable hides no line of .env"


def test_the_warehouse_is_chosen_in_the_same_order(monkeypatch: MonkeyPatch) -> None:
    dotenv("MAANG_WAREHOUSE=from-file\n")
    assert "'from-file'" in refusal().message
    monkeypatch.setenv("MAANG_WAREHOUSE", "from-environment")
    assert "'from-environment'" in refusal().message
    assert load(warehouse="local").warehouse == "local"


def test_the_token_comes_from_the_environment_before_dotenv(monkeypatch: MonkeyPatch) -> None:
    dotenv("POLYGON_TOKEN=from-file\n")
    assert load().polygon_token is not None
    monkeypatch.setenv("POLYGON_TOKEN", "from-environment")
    token = load().polygon_token
    assert token is not None
    assert token.get_secret_value() == "from-environment"


def test_an_empty_token_is_no_token(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", "")
    assert load().polygon_token is None


def test_the_name_of_a_variable_is_in_capitals(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("maang_tickers", "ZZZ")
    assert load().tickers == FAANG


def test_dotenv_may_have_comments_quotes_exports_crlf_and_the_variables_of_others() -> None:
    dotenv("# mine\r\nexport MAANG_TICKERS=\"META, BRK.A\"\r\n\r\nOTHER=1\r\nMAANG_SCHEMA='mine'\r\nMAANG_SOURCE\r\n")
    settings = load()
    assert (settings.tickers, settings.schema_name, settings.source) == (("META", "BRK.A"), "mine", "polygon")


def test_dotenv_that_is_no_text_is_an_error() -> None:
    Path(".env").write_bytes(b"MAANG_TICKERS=META\nPOLYGON_TOKEN=\xff\xfe" + SECRET.encode() + b"\n")
    failure = refusal()
    assert ".env" in failure.message


def test_a_folder_called_dotenv_is_left_alone() -> None:
    Path(".env").mkdir()
    assert load().tickers == FAANG


# --- tickers


@pytest.mark.parametrize(
    ("text", "tickers"),
    [
        ("META", ("META",)),
        (" META , AAPL ", ("META", "AAPL")),
        ("BRK.A,BRK.B,BACpA,ACHR.WS,BF-B,BRK/A,A,GOOGL", ("BRK.A", "BRK.B", "BACpA", "ACHR.WS", "BF-B", "BRK/A", "A", "GOOGL")),
        ("BACpA,BACPA", ("BACpA", "BACPA")),
        ("ZZZ,AAA", ("ZZZ", "AAA")),
    ],
)
def test_a_list_of_tickers_keeps_its_order_and_its_case(text: str, tickers: tuple[str, ...]) -> None:
    assert load(tickers=text).tickers == tickers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no ticker"),
        (" ", "no ticker"),
        (",", "''"),
        ("META,", "''"),
        ("META,,AAPL", "''"),
        ("meta", "'meta'"),
        ("1META", "'1META'"),
        ("ME TA", "'ME TA'"),
        ("META;AAPL", "'META;AAPL'"),
        ("META'", "META'"),
        ("MÉTA", "'MÉTA'"),
        ("\uff2dETA", "'\uff2dETA'"),
        ("BRK..A", "'BRK..A'"),
        ("BRK.", "'BRK.'"),
        (".A", "'.A'"),
        ("A" * 11, "A" * 11),
        ("X" * 5000, "X" * 40),
        ("META\nAAPL", r"'META\nAAPL'"),
        ("ME\x00TA", r"'ME\x00TA'"),
        ("META,AAPL,META", "twice"),
        ("META, META", "META"),
    ],
)
def test_a_list_that_names_no_tickers_is_refused(text: str, said: str) -> None:
    failure = refusal(tickers=text)
    assert said in failure.message
    assert "--tickers" in failure.hint
    assert "MAANG_TICKERS" in failure.hint
    assert len(failure.message) < 200


def test_all_that_are_listed_twice_are_named() -> None:
    message = refusal(tickers="META,AAPL,NFLX,AAPL,META").message
    assert "META, AAPL" in message
    assert "NFLX" not in message


@pytest.mark.parametrize(
    "content",
    [
        b"META\nBRK.A\nBACpA\n",
        b"META\nBRK.A\nBACpA",
        b"META\r\nBRK.A\r\nBACpA\r\n",
        b"\n\nMETA\n\n  \nBRK.A  \n\tBACpA\n\n",
    ],
    ids=["lines", "no last line end", "CRLF", "blank lines and spaces"],
)
def test_a_file_lists_one_ticker_a_line(content: bytes) -> None:
    assert load(tickers=file_of(content)).tickers == ("META", "BRK.A", "BACpA")


def test_a_file_can_be_named_from_home_and_have_spaces(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my tickers.txt").write_text("META\n")
    assert load(tickers="@~/my tickers.txt").tickers == ("META",)


def test_a_file_of_all_tickers_is_read_in_full() -> None:
    names = [f"T{number:05}" for number in range(11_000)]
    assert load(tickers=file_of("\n".join(names).encode())).tickers == tuple(names)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no ticker"),
        (b"\n \r\n", "no ticker"),
        (b"META,AAPL\n", "'META,AAPL'"),
        (b"META\nmeta\n", "'meta'"),
        (b"META\nAAPL\r\nMETA\n", "twice"),
        (b"META\n\xff\xfeA\n", "UTF-8"),
        ("META\n".encode("utf-16"), "UTF-8"),
        (b"PK\x03\x04", "PK"),
    ],
    ids=["empty", "blank", "a comma list", "malformed", "twice", "not UTF-8", "UTF-16", "binary"],
)
def test_a_file_that_lists_no_tickers_is_refused(content: bytes, said: str) -> None:
    failure = refusal(tickers=file_of(content))
    assert said in failure.message
    assert "@FILE" in failure.hint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("@nowhere.txt", "No such file"),
        ("@.", "directory"),
        ("@", "directory"),
        ("@" + "x" * 300, "too long"),
        ("@~no-such-user-here/tickers.txt", "no-such-user-here"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(name: str, reason: str) -> None:
    failure = refusal(tickers=name)
    assert reason in failure.message
    assert "@FILE" in failure.hint


def test_a_file_may_be_given_by_the_variable_too(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_TICKERS", file_of(b"META\n"))
    assert load().tickers == parse_tickers("META")


# --- which tickers may be absent


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (" ", AllowMissing()),
        ("META", AllowMissing(frozenset({"META"}))),
        ("META, BRK.A", AllowMissing(frozenset({"META", "BRK.A"}))),
        ("0%", AllowMissing(percent=Decimal(0))),
        ("2.5%", AllowMissing(percent=Decimal("2.5"))),
        (" 100% ", AllowMissing(percent=Decimal(100))),
    ],
)
def test_absence_is_allowed_by_name_or_by_share(text: str, meaning: AllowMissing) -> None:
    assert load(allow_missing=text).allow_missing == meaning


def test_absence_is_allowed_by_a_file_of_names() -> None:
    assert load(allow_missing=file_of(b"META\r\nBRK.A\r\n")).allow_missing == AllowMissing(frozenset({"META", "BRK.A"}))


@pytest.mark.parametrize("text", ["%", "101%", "-1%", "100.01%", "five%", "5%%", "NaN%", "Infinity%", "1e3%"])
def test_a_share_is_from_0_to_100_percent(text: str) -> None:
    failure = refusal(allow_missing=text)
    assert text in failure.message
    assert "--allow-missing" in failure.hint


@pytest.mark.parametrize("text", ["meta", "META,META", "5", "0.05", "@nowhere.txt"])
def test_a_list_of_absent_tickers_is_refused_as_any_other_and_the_hint_names_this_setting(text: str) -> None:
    assert "--allow-missing" in refusal(allow_missing=text).hint


# --- source, warehouse, schema


@pytest.mark.parametrize(
    ("flag", "variable", "allowed"), [("source", "MAANG_SOURCE", "polygon, sample"), ("warehouse", "MAANG_WAREHOUSE", "local")]
)
@pytest.mark.parametrize("value", ["yahoo", "Sample", "LOCAL", "sample ", "a\nb"])
def test_an_unknown_name_is_refused_with_those_that_are_known(
    monkeypatch: MonkeyPatch, flag: str, variable: str, allowed: str, value: str
) -> None:
    from_flag = refusal(**{flag: value})
    monkeypatch.setenv(variable, value)
    assert str(refusal()) == str(from_flag)
    assert repr(value) in from_flag.message
    for word in (f"--{flag}", variable, allowed):
        assert word in from_flag.hint


def test_an_empty_source_is_refused() -> None:
    assert "source" in refusal(source="").message


def test_databricks_in_the_environment_never_disturbs_the_sample_source(monkeypatch: MonkeyPatch) -> None:
    before = load(source="sample")
    for name in ("HOST", "HTTP_PATH", "TOKEN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"DATABRICKS_{name}", "x y\u00e9")
    settings = load(source="sample")
    assert settings == before
    assert (settings.warehouse, settings.schema_name) == ("local", "maang_sample")


def test_databricks_is_not_overlooked_for_real_bars(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HTTP_PATH", "/sql/1.0/warehouses/x")
    failure = refusal()
    assert "DATABRICKS_HTTP_PATH" in failure.message
    assert "--warehouse local" in failure.hint
    assert load(warehouse="local").warehouse == "local"


def test_each_source_has_a_schema_of_its_own() -> None:
    assert load(source="polygon").schema_name == "maang"
    assert load(source="sample").schema_name == "maang_sample"


@pytest.mark.parametrize(("source", "schema"), [("sample", "maang"), ("polygon", "maang_sample")])
def test_made_up_and_real_bars_never_mix(source: str, schema: str) -> None:
    failure = refusal(source=source, schema=schema)
    assert "never mix" in failure.message
    assert "MAANG_SCHEMA" in failure.hint


@pytest.mark.parametrize("name", ["a", "prices_2", "x" * 63])
def test_a_schema_may_be_named(name: str) -> None:
    assert load(schema=name).schema_name == name


@pytest.mark.parametrize(
    "name", ["Maang", "1st", "_x", "a-b", "a.b", "a b", "a/b", "../x", "a;drop", "é", "x" * 64, "a\n", " a", '"a"', "x" * 9999]
)
def test_a_schema_is_a_plain_name(name: str) -> None:
    failure = refusal(schema=name)
    assert "--schema" in failure.hint
    assert len(failure.message) < 200


# --- the vendor's address


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
    ],
)
def test_an_address_is_https_or_http_on_this_machine(monkeypatch: MonkeyPatch, given: str, kept: str) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", given)
    assert load().polygon_url == kept


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
    ],
)
def test_any_other_address_is_refused(monkeypatch: MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", url)
    failure = refusal()
    assert "MAANG_POLYGON_URL" in failure.message
    assert "MAANG_POLYGON_URL" in failure.hint


@pytest.mark.parametrize("user", [f"me:{SECRET}", f":{SECRET}", SECRET])
def test_an_address_with_a_password_is_refused_without_repeating_it(monkeypatch: MonkeyPatch, user: str) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", f"https://{user}@api.polygon.io")
    assert "MAANG_POLYGON_URL" in refusal().message


@pytest.mark.parametrize("url", ["https://api.polygon.io\n", " https://api.polygon.io", "https://api.polygon.io/\r\n"])
def test_white_space_around_an_address_goes(monkeypatch: MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MAANG_POLYGON_URL", url)
    assert load().polygon_url == "https://api.polygon.io"


# --- the key


def test_white_space_around_a_key_goes(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", f" {SECRET}\r\n")
    token = load().polygon_token
    assert token is not None
    assert token.get_secret_value() == SECRET


@pytest.mark.parametrize(
    "token", [f"{SECRET} {SECRET}", f"{SECRET}\nX: y", f"{SECRET}é", f"“{SECRET}”", f"{SECRET}\x7f", " ", "\n"]
)
def test_a_key_with_other_characters_is_refused_without_repeating_it(monkeypatch: MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", token)
    failure = refusal()
    assert "POLYGON_TOKEN" in failure.message
    assert "POLYGON_TOKEN" in failure.hint


@pytest.mark.parametrize(
    "shown", [repr, str, lambda s: f"{s}", lambda s: json.dumps(asdict(s), default=str), lambda s: str(vars(s))]
)
def test_settings_never_show_the_key(monkeypatch: MonkeyPatch, shown: Callable[[Settings], str]) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", SECRET)
    settings = load()
    assert settings.polygon_token is not None
    assert settings.polygon_token.get_secret_value() == SECRET
    assert SECRET not in shown(settings)
    assert "polygon_token" in shown(settings) or "*" in shown(settings)


# --- the rest


@pytest.mark.parametrize("text", ["-1", "3601", "nan", "inf", "2 minutes", "1,5", "0x10"])
def test_a_budget_is_a_number_of_seconds_up_to_an_hour(monkeypatch: MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", text)
    assert "MAANG_RETRY_SECONDS" in refusal().message


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1234567", "٣", " "])
def test_the_snapshots_that_are_kept_are_a_whole_number(monkeypatch: MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", text)
    assert "MAANG_KEEP_SNAPSHOTS" in refusal().message


def test_home_is_in_the_users_data_folder(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MAANG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    home = load().home
    assert home.is_relative_to(tmp_path)
    assert home.name == "maang"
    assert not home.exists(), "settings create nothing"


def test_home_may_begin_with_a_tilde_have_spaces_and_be_relative(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(home="~/my data").home == tmp_path / "my data"
    assert load(home="my data").home == Path.cwd() / "my data"
    assert load(home="~").home == tmp_path


def test_the_home_of_an_unknown_user_is_refused() -> None:
    failure = refusal(home="~no-such-user-here/x")
    assert "no-such-user-here" in failure.message
    assert "MAANG_HOME" in failure.hint


def test_settings_are_frozen() -> None:
    settings = load()
    for field in fields(settings):
        with pytest.raises(FrozenInstanceError):
            setattr(settings, field.name, None)
