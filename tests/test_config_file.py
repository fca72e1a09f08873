"""The configuration file: where it is, what it may hold, what is refused; and no file of the current folder is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from maang_cli import config_file
from maang_cli.errors import SettingsError
from maang_cli.sources.polygon import settings as polygon_settings
from maang_cli.warehouses.databricks import settings as databricks_settings
from maang_cli.warehouses.local import settings as local_settings
from maang_cli.warehouses.local.retention import Retention
from tests.conftest import Maang
from tests.settings import configure, load

SECRET = "pk_7Qz-secret"

MonkeyPatch = pytest.MonkeyPatch


def refusal() -> SettingsError:
    """The error that refuses the settings: one line and a hint, both without a secret."""
    with pytest.raises(SettingsError) as caught:
        load()
    failure = caught.value
    assert failure.exit_code == 2
    for text in (failure.message, failure.hint):
        assert text
        assert text.isprintable(), text
        assert SECRET not in text
    return failure


# --- where it is


def test_file_is_in_the_configuration_folder_of_the_user(tmp_path: Path) -> None:
    assert config_file.load() == config_file.ConfigFile(tmp_path / "config" / "maang" / "config.toml")
    path = configure('MAANG_SCHEMA = "mine"\n')
    assert path == tmp_path / "config" / "maang" / "config.toml"
    assert load().schema_name == "mine"


def test_maang_config_names_another_file(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    configure('MAANG_SCHEMA = "mine"\n')
    (tmp_path / "other file.toml").write_text('MAANG_TICKERS = "A"\n', "utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAANG_CONFIG", "~/other file.toml")
    settings = load()
    assert (settings.tickers, settings.schema_name) == (("A",), "maang")
    monkeypatch.setenv("MAANG_CONFIG", "")
    assert load().schema_name == "mine", "an empty variable counts as not set"


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("nowhere.toml", "does not exist"),
        (".", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("x" * 300, "too long"),
        ("~no-such-user-here/x", "no home folder"),
    ],
)
def test_named_file_that_cannot_be_read_is_refused(monkeypatch: MonkeyPatch, named: str, reason: str) -> None:
    monkeypatch.setenv("MAANG_CONFIG", named)
    failure = refusal()
    assert reason in failure.message
    assert "MAANG_CONFIG" in failure.hint


def test_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config" / "maang" / "config.toml").mkdir(parents=True)
    assert "not a regular file" in refusal().message


def test_user_whose_home_is_no_folder_has_no_file(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null")
    assert config_file.load() == config_file.ConfigFile(Path("/dev/null/maang/config.toml"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user reaches; pytest's own are closed to others."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@contextmanager
def without_roots_rights() -> Iterator[None]:
    """As another user, if this one is root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_of_somebody_else_has_no_file_but_a_file_that_cannot_be_read_is_refused(
    open_folder: Path, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(open_folder))
    path = configure('MAANG_SCHEMA = "mine"\n')
    path.chmod(0)
    with without_roots_rights():
        assert "can't be read: Permission denied" in refusal().message
    path.parent.chmod(0)
    try:
        with without_roots_rights():
            assert load().schema_name == "maang"
    finally:
        path.parent.chmod(0o700)


def test_user_without_a_home_folder_has_no_file(monkeypatch: MonkeyPatch) -> None:
    def homeless(_application: str) -> Path:
        raise RuntimeError("no home folder")

    monkeypatch.setattr("platformdirs.user_config_path", homeless)  # a process can't lose its entry in the list of users
    assert config_file.load() == config_file.ConfigFile(None)
    assert load().schema_name == "maang"


def test_folder_of_the_configuration_is_never_relative(monkeypatch: MonkeyPatch) -> None:
    Path("maang").mkdir()
    Path("maang/config.toml").write_text('MAANG_SCHEMA = "theirs"\n', "utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert load().schema_name == "maang"


# --- no file of the current folder


def test_files_of_the_current_folder_are_not_read(monkeypatch: MonkeyPatch) -> None:
    """A cloned folder must not send the key elsewhere, nor expand other secrets into an address."""
    hostile = {
        "MAANG_POLYGON_URL": "https://elsewhere.example/${AWS_SECRET_ACCESS_KEY}",
        "MAANG_TICKERS": "ZZZ",
        "MAANG_KEEP_SNAPSHOTS": "1",
        "DATABRICKS_HTTP_PATH": "/sql/1.0/warehouses/1",
    }
    lines = "".join(f'{name}="{value}"\n' for name, value in hostile.items())
    for name in (".env", ".env.local", "config.toml", "maang.toml", ".maang.toml", ".config/maang/config.toml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(lines, "utf-8")
    monkeypatch.setenv("POLYGON_TOKEN", SECRET)
    assert (load().tickers[0], load().warehouse) == ("META", "local")
    assert polygon_settings.load().url == "https://api.polygon.io"
    assert local_settings.load() == Retention(100, None)


def test_nothing_is_expanded(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_TEST_SECRET", SECRET)
    configure('MAANG_SCHEMA = "${MAANG_TEST_SECRET}"\n')
    assert "${MAANG_TEST_SECRET}" in refusal().message


def test_dotenv_is_mentioned_if_the_key_is_missing(maang: Maang) -> None:
    argv = ("ingest", "--date", "2025-10-14")
    assert ".env" not in maang(*argv).err
    Path(".env").write_text("POLYGON_TOKEN=x\n", "utf-8")
    outcome = maang(*argv)
    assert outcome.code == 2
    assert "error: POLYGON_TOKEN is not set\n" in outcome.err
    assert outcome.err.endswith("which needs no key; .env in this folder is not read\n")


# --- what it may hold


def test_backends_settings_come_from_the_file_too() -> None:
    configure(
        f"""
        POLYGON_TOKEN = "{SECRET}"
        MAANG_CALLS_PER_MINUTE = 5
        MAANG_KEEP_SNAPSHOTS = 7
        MAANG_KEEP_DAYS = "30"
        DATABRICKS_HOST = "dbc-1.cloud.databricks.com"
        DATABRICKS_HTTP_PATH = "/sql/1.0/warehouses/1"
        DATABRICKS_TOKEN = "{SECRET}"
        """
    )
    polygon = polygon_settings.load()
    assert (polygon.token.get_secret_value(), polygon.calls_per_minute) == (SECRET, 5)
    assert local_settings.load() == Retention(7, 30)
    settings = load()
    assert settings.warehouse == "databricks", "the file sets it up"
    assert databricks_settings.load(settings).host == "dbc-1.cloud.databricks.com"


def test_number_may_have_a_fraction(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_TOKEN", SECRET)
    monkeypatch.delenv("MAANG_RETRY_SECONDS")
    configure("MAANG_RETRY_SECONDS = 7.5\n")
    assert polygon_settings.load().retry_seconds == 7.5


@pytest.mark.parametrize("text", ['["META", "BRK.A"]', '[\n  "META", # mine\n  "BRK.A",\n]', '"META,BRK.A"', '"META, BRK.A"'])
def test_list_of_tickers_may_be_a_list(text: str) -> None:
    configure(f"MAANG_TICKERS = {text}\nMAANG_ALLOW_MISSING = {text}\n")
    settings = load()
    assert settings.tickers == ("META", "BRK.A")
    assert settings.allow_missing.tickers == {"META", "BRK.A"}


def test_empty_list_allows_nothing_and_is_no_universe() -> None:
    configure("MAANG_ALLOW_MISSING = []\n")
    assert load().allow_missing.tickers == frozenset()
    configure("MAANG_TICKERS = []\n")
    assert "the list of tickers is empty" in refusal().message


def test_relative_files_and_folders_are_beside_the_file(monkeypatch: MonkeyPatch, tmp_path: Path) -> None:
    Path("tickers.txt").write_text("ZZZ\n", "utf-8")
    path = configure('MAANG_TICKERS = "@tickers.txt"\nMAANG_HOME = "data"\n')
    (path.parent / "tickers.txt").write_text("META\n", "utf-8")
    monkeypatch.delenv("MAANG_HOME")
    assert (load().tickers, load().home) == (("META",), path.parent / "data")
    (tmp_path / "mine.txt").write_text("AAPL\n", "utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    configure('MAANG_TICKERS = "@~/mine.txt"\nMAANG_HOME = "~/data"\n')
    assert (load().tickers, load().home) == (("AAPL",), tmp_path / "data")
    monkeypatch.setenv("MAANG_TICKERS", "@tickers.txt")
    monkeypatch.setenv("MAANG_HOME", "data")
    assert (load().tickers, load().home) == (("ZZZ",), Path.cwd() / "data"), "the environment means the current folder"


@pytest.mark.parametrize(
    "content",
    [b'\xef\xbb\xbfMAANG_SCHEMA = "mine"\n', b'# mine\r\n\r\nMAANG_SCHEMA = "mine"\r\n', b"MAANG_SCHEMA = 'mine'"],
    ids=["byte order mark", "CRLF, a comment", "no line end"],
)
def test_file_of_any_editor_is_read(content: bytes) -> None:
    configure("").write_bytes(content)
    assert load().schema_name == "mine"


# --- what is refused


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("MAANG_TICKER", "did you mean MAANG_TICKERS? "),
        ("maang_tickers", "did you mean MAANG_TICKERS? "),
        ("POLYGON_TOKENS", "did you mean POLYGON_TOKEN? "),
        ("MAANG_KEEP_SNAPSHOT", "did you mean MAANG_KEEP_SNAPSHOTS? "),
        ("DATABRICKS_PATH", "did you mean DATABRICKS_HTTP_PATH? "),
        ("colour", ""),
        ("MAANG_CONFIG", ""),
    ],
)
def test_unknown_key_is_refused_with_a_near_one(key: str, near: str) -> None:
    path = configure(f'MAANG_SCHEMA = "mine"\n{key} = "{SECRET}"\n')
    failure = refusal()
    assert failure.message == f"'{key}' in '{path}' is not a setting"
    if key == "MAANG_CONFIG":
        assert failure.hint.endswith("maang config lists all settings")
    else:
        assert failure.hint == f"{near}maang config lists all settings"


def test_table_of_toml_is_an_unknown_key() -> None:
    configure('[maang]\nMAANG_SCHEMA = "mine"\n')
    assert "'maang'" in refusal().message


@pytest.mark.parametrize(
    "content",
    [
        f"POLYGON_TOKEN={SECRET}\n".encode(),
        f'export POLYGON_TOKEN="{SECRET}"\n'.encode(),
        f'POLYGON_TOKEN = "{SECRET}\n'.encode(),
        f'POLYGON_TOKEN = "{SECRET}"\nPOLYGON_TOKEN = "{SECRET}"\n'.encode(),
        b'POLYGON_TOKEN = "\xff\xfe' + SECRET.encode() + b'"\n',
        'MAANG_SCHEMA = "mine"\n'.encode("utf-16"),
        b"MAANG_CALLS_PER_MINUTE = " + b"9" * 5000,
        b"MAANG_TICKERS = " + b"[" * 100_000,
        b"\x00",
    ],
    ids=["an env file", "export", "no quote", "twice", "not UTF-8", "UTF-16", "5,000 digits", "100,000 brackets", "NUL"],
)
def test_file_that_is_not_toml_is_refused(content: bytes) -> None:
    path = configure("")
    path.write_bytes(content)
    failure = refusal()
    assert failure.message.startswith(f"the configuration file '{path}' is not TOML: ")
    assert "MAANG_TICKERS = [" in failure.hint


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('MAANG_HOME = ["a", "b"]', "a text or a number"),
        ("MAANG_SCHEMA = true", "a text or a number"),
        ("MAANG_SCHEMA = 2025-10-14", "a text or a number"),
        ("MAANG_SCHEMA = {a = 1}", "a text or a number"),
        ("MAANG_TICKERS = [1, 2]", "a text, a number or a list of texts"),
        ('MAANG_TICKERS = ["@tickers.txt"]', "a text, a number or a list of texts"),
        ('MAANG_TICKERS = [["META"]]', "a text, a number or a list of texts"),
        ("MAANG_TICKERS = true", "a text, a number or a list of texts"),
    ],
)
def test_value_of_another_type_is_refused(monkeypatch: MonkeyPatch, line: str, wanted: str) -> None:
    monkeypatch.delenv("MAANG_HOME")
    path = configure(f"{line}\n")
    name = line.partition(" ")[0]
    assert refusal().message == f"{name} in '{path}' must be {wanted}"


def test_secret_of_another_type_is_refused_without_showing_it() -> None:
    configure(f'POLYGON_TOKEN = ["{SECRET}"]\n')
    with pytest.raises(SettingsError, match=r"POLYGON_TOKEN in .* must be a text or a number") as caught:
        polygon_settings.load()
    assert SECRET not in caught.value.message


def test_error_in_the_file_exits_2(maang: Maang) -> None:
    configure('MAANG_TICKER = "META"\n')
    outcome = maang("status", "--json")
    assert (outcome.code, outcome.document["outcome"]) == (2, "unusable")
    assert outcome.err.splitlines()[1] == "hint: did you mean MAANG_TICKERS? maang config lists all settings"


# --- secrets in a file that others may read


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602])
def test_secret_in_a_file_that_others_may_read_is_a_warning(maang: Maang, mode: int) -> None:
    path = configure(f'POLYGON_TOKEN = "{SECRET}"\nMAANG_SCHEMA = "mine"\n')
    path.chmod(mode)
    outcome = maang("init-tables")
    assert outcome.code == 0
    assert outcome.err == f"warning: other users of this machine may read POLYGON_TOKEN in {path}: chmod 600 it\n"
    assert maang("init-tables", "-q").err == ""


@pytest.mark.parametrize(("key", "mode"), [("POLYGON_TOKEN", 0o600), ("POLYGON_TOKEN", 0o400), ("DATABRICKS_HOST", 0o644)])
def test_private_file_and_a_file_without_secrets_are_fine(key: str, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    configure(f'{key} = "x"\n').chmod(mode)
    with caplog.at_level(logging.WARNING, "maang"):
        load()
    assert caplog.messages == []
