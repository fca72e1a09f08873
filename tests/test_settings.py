"""The settings of every run: which place beats which, and which values are allowed.

Each backend's own settings are tested beside it.
"""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from maang_cli import settings as settings_module
from maang_cli.checks import AllowMissing
from maang_cli.errors import SettingsError
from maang_cli.settings import load as load_settings
from maang_cli.sources import SOURCES, SourceKind
from maang_cli.warehouses import WAREHOUSES, WarehouseKind
from tests.settings import configure, load

SECRET = "pk_7Qz-secret"
FAANG = ("META", "AAPL", "AMZN", "NFLX", "GOOGL")

MonkeyPatch = pytest.MonkeyPatch


def refusal(**flags: str) -> SettingsError:
    """The error that refuses the settings: one line and a hint, both without a secret."""
    with pytest.raises(SettingsError) as caught:
        load(**flags)
    failure = caught.value
    assert failure.exit_code == 2
    for text in (failure.message, failure.hint):
        assert text
        assert text.isprintable(), text
        assert SECRET not in text
    return failure


def file_of(content: bytes) -> str:
    Path("tickers.txt").write_bytes(content)
    return "@tickers.txt"


# --- flag, environment, configuration file


def test_defaults() -> None:
    settings = load()
    assert settings.tickers == FAANG
    assert settings.allow_missing == AllowMissing()
    assert (settings.source, settings.warehouse, settings.schema_name) == ("polygon", "local", "maang")
    assert not settings.warehouse_is_named


SETTINGS = [
    # flag, variable, attribute, three texts with their values
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
]
each_setting = pytest.mark.parametrize(("flag", "variable", "attribute", "values"), SETTINGS, ids=[row[1] for row in SETTINGS])


@each_setting
def test_flag_beats_the_environment_which_beats_the_file(
    monkeypatch: MonkeyPatch, flag: str, variable: str, attribute: str, values: dict[str, Any]
) -> None:
    first, second, third = [*values, *values, *values][:3]
    monkeypatch.delenv(variable, raising=False)
    configure(f'{variable} = "{first}"\n')
    assert getattr(load(), attribute) == values[first]
    monkeypatch.setenv(variable, second)
    assert getattr(load(), attribute) == values[second]
    assert getattr(load(**{flag: third}), attribute) == values[third]


@each_setting
def test_empty_variable_counts_as_not_set(
    monkeypatch: MonkeyPatch, flag: str, variable: str, attribute: str, values: dict[str, Any]
) -> None:
    monkeypatch.delenv(variable, raising=False)
    default = getattr(load(), attribute)
    monkeypatch.setenv(variable, "")
    assert getattr(load(), attribute) == default
    configure(f'{variable} = ""\n')
    assert getattr(load(), attribute) == default
    configure(f'{variable} = "{next(iter(values))}"\n')
    assert getattr(load(), attribute) == values[next(iter(values))], "an empty variable does not hide the file's"


def test_warehouse_is_chosen_in_the_same_order(monkeypatch: MonkeyPatch) -> None:
    configure('MAANG_WAREHOUSE = "from-file"\n')
    assert "'from-file'" in refusal().message
    monkeypatch.setenv("MAANG_WAREHOUSE", "from-environment")
    assert "'from-environment'" in refusal().message
    chosen = load(warehouse="local")
    assert (chosen.warehouse, chosen.warehouse_is_named) == ("local", True)


def test_names_of_variables_are_case_sensitive(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("maang_tickers", "ZZZ")
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
def test_list_of_tickers_keeps_its_order_and_case(text: str, tickers: tuple[str, ...]) -> None:
    assert load(tickers=text).tickers == tickers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the list of tickers is empty"),
        (" ", "the list of tickers is empty"),
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
def test_malformed_list_of_tickers_is_refused(text: str, expected: str) -> None:
    failure = refusal(tickers=text)
    assert expected in failure.message
    assert "--tickers" in failure.hint
    assert "MAANG_TICKERS" in failure.hint
    assert len(failure.message) < 200


def test_every_ticker_that_is_listed_twice_is_named() -> None:
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
        b"# mine\nMETA\n  # META2\n#\nBRK.A # class A\nBACpA#\r\n",
        b"\xef\xbb\xbfMETA\r\nBRK.A\r\nBACpA\r\n",
        b"\xef\xbb\xbf# mine\r\n\r\nMETA\r\nBRK.A\r\nBACpA\r\n",
    ],
    ids=["lines", "no line end at the end", "CRLF", "blank lines and spaces", "comments", "byte order mark", "both"],
)
def test_file_lists_one_ticker_a_line(content: bytes) -> None:
    assert load(tickers=file_of(content)).tickers == ("META", "BRK.A", "BACpA")


def test_file_name_may_start_with_a_tilde_and_have_spaces(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my tickers.txt").write_text("META\n")
    assert load(tickers="@~/my tickers.txt").tickers == ("META",)


def test_file_of_11_000_tickers_is_read_completely() -> None:
    names = [f"T{number:05}" for number in range(11_000)]
    assert load(tickers=file_of("\n".join(names).encode())).tickers == tuple(names)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the list of tickers is empty"),
        (b"\n \r\n", "the list of tickers is empty"),
        (b"# META\n", "the list of tickers is empty"),
        (b"META,AAPL\n", "'META,AAPL'"),
        (b"META\nmeta\n", "'meta'"),
        (b"META\nAAPL\r\nMETA\n", "twice"),
        (b"META\n\xff\xfeA\n", "UTF-8"),
        ("META\n".encode("utf-16"), "UTF-8"),
        (b"PK\x03\x04", "PK"),
    ],
    ids=["empty", "blank", "comments", "a comma list", "malformed", "twice", "not UTF-8", "UTF-16", "binary"],
)
def test_malformed_file_of_tickers_is_refused(content: bytes, expected: str) -> None:
    failure = refusal(tickers=file_of(content))
    assert expected in failure.message
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
def test_file_that_cannot_be_read_is_refused(name: str, reason: str) -> None:
    failure = refusal(tickers=name)
    assert reason in failure.message
    assert "@FILE" in failure.hint


def test_variable_may_name_a_file(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_TICKERS", file_of(b"META\n"))
    assert load().tickers == ("META",)


# --- which tickers may be missing


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
def test_missing_tickers_are_allowed_by_name_or_by_share(text: str, meaning: AllowMissing) -> None:
    assert load(allow_missing=text).allow_missing == meaning


def test_missing_tickers_are_allowed_by_a_file_of_names() -> None:
    assert load(allow_missing=file_of(b"META\r\nBRK.A\r\n")).allow_missing == AllowMissing(frozenset({"META", "BRK.A"}))


@pytest.mark.parametrize("text", ["%", "101%", "-1%", "100.01%", "five%", "5%%", "NaN%", "Infinity%", "1e3%"])
def test_share_must_be_from_0_to_100_percent(text: str) -> None:
    failure = refusal(allow_missing=text)
    assert text in failure.message
    assert "--allow-missing" in failure.hint


@pytest.mark.parametrize("text", ["meta", "META,META", "5", "0.05", "@nowhere.txt"])
def test_malformed_list_of_allowed_tickers_is_refused_with_a_hint_to_its_flag(text: str) -> None:
    assert "--allow-missing" in refusal(allow_missing=text).hint


# --- source, warehouse, schema


@pytest.mark.parametrize(
    ("flag", "variable", "known"),
    [("source", "MAANG_SOURCE", "polygon, sample"), ("warehouse", "MAANG_WAREHOUSE", "local, databricks")],
)
@pytest.mark.parametrize("value", ["yahoo", "Sample", "LOCAL", "sample ", "a\nb"])
def test_unknown_name_is_refused_with_a_list_of_the_known_ones(
    monkeypatch: MonkeyPatch, flag: str, variable: str, known: str, value: str
) -> None:
    from_flag = refusal(**{flag: value})
    monkeypatch.setenv(variable, value)
    assert str(refusal()) == str(from_flag)
    assert from_flag.message == f"{value!r} is not a {flag}"
    assert from_flag.hint == f"set --{flag} or {variable} to one of: {known}"


def test_empty_source_flag_is_refused() -> None:
    assert refusal(source="").message == "'' is not a source"


def test_each_source_has_a_schema_of_its_own() -> None:
    assert load(source="polygon").schema_name == "maang"
    assert load(source="sample").schema_name == "maang_sample"


@pytest.mark.parametrize(("source", "schema"), [("sample", "maang"), ("polygon", "maang_sample")])
def test_made_up_and_real_bars_never_mix(source: str, schema: str) -> None:
    failure = refusal(source=source, schema=schema)
    assert "never mix" in failure.message
    assert "MAANG_SCHEMA" in failure.hint


@pytest.mark.parametrize("name", ["a", "prices_2", "x" * 63])
def test_schema_name_is_accepted(name: str) -> None:
    assert load(schema=name).schema_name == name


@pytest.mark.parametrize(
    "name", ["Maang", "1st", "_x", "a-b", "a.b", "a b", "a/b", "../x", "a;drop", "é", "x" * 64, "a\n", " a", '"a"', "x" * 9999]
)
def test_schema_must_be_a_plain_name(name: str) -> None:
    failure = refusal(schema=name)
    assert "--schema" in failure.hint
    assert len(failure.message) < 200


# --- home


def test_home_is_in_the_data_folder_of_the_user(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MAANG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    home = load().home
    assert home.is_relative_to(tmp_path)
    assert home.name == "maang"
    assert not home.exists(), "loading the settings creates nothing"


def test_home_may_start_with_a_tilde_have_spaces_and_be_relative(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(home="~/my data").home == tmp_path / "my data"
    assert load(home="my data").home == Path.cwd() / "my data"
    assert load(home="~").home == tmp_path


def test_home_of_an_unknown_user_is_refused() -> None:
    failure = refusal(home="~no-such-user-here/x")
    assert "no-such-user-here" in failure.message
    assert "MAANG_HOME" in failure.hint


@pytest.mark.parametrize("character", ["\t", "\r", "\n", "\x01", "\x1b", "\x7f", "\x85", "\udcff"])
def test_home_with_a_control_character_is_refused(monkeypatch: MonkeyPatch, tmp_path: Path, character: str) -> None:
    expected = "has a control character in its name"
    for home in (f"{tmp_path}/a{character}b", f"{tmp_path}/a{character}", f"{character}/a", f"a{character}/b"):
        failure = refusal(home=home)
        assert expected in failure.message
        assert "MAANG_HOME" in failure.hint
    current = tmp_path / f"x{character}y"
    current.mkdir()
    monkeypatch.chdir(current)
    assert expected in refusal(home="data").message, "a relative folder is in the current one"
    monkeypatch.delenv("MAANG_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(current))
    assert expected in refusal().message


# --- backends


def test_settings_of_a_backend_are_not_read_before_it_is_opened(monkeypatch: MonkeyPatch) -> None:
    before = load(warehouse="local")
    for name in ("MAANG_POLYGON_URL", "MAANG_RETRY_SECONDS", "MAANG_CALLS_PER_MINUTE", "MAANG_KEEP_SNAPSHOTS", "MAANG_KEEP_DAYS"):
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.setenv("POLYGON_TOKEN", "not a key")
    assert load(warehouse="local") == before


def test_databricks_variables_do_not_change_the_sample_source(monkeypatch: MonkeyPatch) -> None:
    before = load(source="sample")
    for name in ("HOST", "HTTP_PATH", "TOKEN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.setenv(f"DATABRICKS_{name}", "x y\u00e9")
    settings = load(source="sample")
    assert settings == before
    assert (settings.warehouse, settings.schema_name) == ("local", "maang_sample")


def test_settings_module_names_no_backend() -> None:
    text = Path(settings_module.__file__).read_text("utf-8")
    names = "|".join([*SOURCES, *WAREHOUSES])
    assert re.findall(rf"(?<![a-z])({names})(?![a-z])", text, re.IGNORECASE) == []


def kinds(*, made_up: bool, configured: bool, takes_made_up: bool) -> tuple[dict[str, SourceKind], dict[str, WarehouseKind]]:
    """One source, and two warehouses: a plain one, and another with these properties."""

    def unused(*_arguments: object) -> Any:
        raise AssertionError("loading the settings opens nothing")

    name = re.compile("[a-z]+")
    return {"feed": SourceKind(unused, "bars", made_up)}, {
        "plain": WarehouseKind(unused, name, "letters", unused, unused),
        "other": WarehouseKind(
            unused, name, "letters", unused, unused, is_configured=lambda: configured, takes_made_up=takes_made_up
        ),
    }


@pytest.mark.parametrize(
    ("made_up", "configured", "takes_made_up", "chosen"),
    [
        (False, False, True, "plain"),
        (False, True, True, "other"),
        (False, True, False, "other"),
        (True, True, True, "other"),
        (True, True, False, "plain"),
        (True, False, False, "plain"),
    ],
)
def test_configured_warehouse_is_used_unless_it_refuses_made_up_bars(
    made_up: bool, configured: bool, takes_made_up: bool, chosen: str
) -> None:
    found = load_settings(*kinds(made_up=made_up, configured=configured, takes_made_up=takes_made_up))
    assert (found.source, found.warehouse, found.warehouse_is_named, found.schema_name) == ("feed", chosen, False, "bars")


def test_named_warehouse_that_refuses_made_up_bars_is_an_error_that_lists_the_others() -> None:
    sources, warehouses = kinds(made_up=True, configured=False, takes_made_up=False)
    sources["vendor"] = SourceKind(sources["feed"].open, "real")
    with pytest.raises(SettingsError, match="made-up bars can't be written to other") as caught:
        load_settings(sources, warehouses, warehouse="other")
    assert caught.value.hint == "use --warehouse plain, or --source vendor for real bars"
    assert load_settings(sources, warehouses, warehouse="other", source="vendor").warehouse == "other"


def test_settings_are_frozen() -> None:
    settings = load()
    for field in fields(settings):
        with pytest.raises(FrozenInstanceError):
            setattr(settings, field.name, None)
