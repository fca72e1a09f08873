"""What every run needs to know: a flag beats the environment, which beats the configuration file (see `config_file`).

Each backend has settings of its own, and reads their variables with `read`. Secrets are never shown.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args
from urllib.parse import SplitResult, urlsplit

import platformdirs
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from maang_cli import closures, config_file, symbols
from maang_cli.checks import AllowMissing
from maang_cli.config_file import ConfigFile
from maang_cli.errors import SettingsError
from maang_cli.symbols import Symbols

if TYPE_CHECKING:
    from maang_cli.sources import SourceKind
    from maang_cli.warehouses import WarehouseKind

LOOPBACK = ("localhost", "127.0.0.1", "::1")


log = logging.getLogger("maang")


class Environment(BaseSettings):
    """Settings as text, by their variables' names: each from a flag, the environment or the configuration file.

    An empty text counts as not set. A backend declares its own with a subclass.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        extra="ignore",
        case_sensitive=True,
        coerce_numbers_to_str=True,  # TOML has numbers
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library passes them
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(config_file.load().values))


def _joined(value: object) -> object:
    if isinstance(value, list) and all(isinstance(each, str) and not each.startswith("@") for each in value):
        return ",".join(value)
    return value


Listed = Annotated[str, BeforeValidator(_joined)]
"""A list, which the configuration file may also spell as one of TOML's."""


class Given(Environment):
    """The settings that belong to no backend, as they are given."""

    tickers: Listed = Field("META,AAPL,AMZN,NFLX,GOOGL", alias="MAANG_TICKERS")
    allow_missing: Listed = Field("", alias="MAANG_ALLOW_MISSING")
    source: str | None = Field(None, alias="MAANG_SOURCE")
    warehouse: str = Field("", alias="MAANG_WAREHOUSE")
    schema_name: str = Field("", alias="MAANG_SCHEMA")
    home: str = Field("", alias="MAANG_HOME")
    closed: Listed = Field("", alias="MAANG_CLOSED")
    notify: Annotated[SecretStr | None, BeforeValidator(_joined)] = Field(None, alias="MAANG_NOTIFY")


@dataclass(frozen=True)
class Settings:
    """What one run of maang works with, checked and complete but for the backends' own settings."""

    tickers: tuple[str, ...]
    """The names of the universe, in the order given; at least one, none twice."""
    symbols: Symbols
    """The vendor's symbols of those names; empty for a source of made-up bars, which ignores them."""
    allow_missing: AllowMissing
    source: str
    warehouse: str
    warehouse_is_named: bool
    """False if it is the default, or chosen because the environment is set up for it."""
    schema_name: str
    """As the warehouse spells it: `schema`, or `catalog.schema`."""
    home: Path
    """Absolute: the folder for what maang keeps on this machine."""


def load(sources: Mapping[str, SourceKind], warehouses: Mapping[str, WarehouseKind], **flags: str) -> Settings:
    """The settings, from the flags by their names (`tickers`, ..), the environment and the configuration file.

    The first source and warehouse are the defaults. Logs a warning if other users may read a secret in the file.

    Also declares MAANG_CLOSED to the calendar.

    Raises:
        SettingsError: one of them is wrong, or the file has a key that is not a setting.
    """
    file = config_file.load()
    _check_keys(file, declarations(sources, warehouses))
    by_variable = variables(flags)
    given = read(Given, **by_variable)
    source = next(iter(sources)) if given.source is None else _one_of(given.source, sources, "source")
    usable = [name for name, kind in warehouses.items() if kind.takes_made_up or not sources[source].made_up]
    if given.warehouse:
        warehouse = _one_of(given.warehouse, warehouses, "warehouse")
    else:
        warehouse = next((name for name in usable if warehouses[name].is_configured()), usable[0])
    if warehouse not in usable:
        real = [name for name, kind in sources.items() if not kind.made_up]
        raise SettingsError(
            f"made-up bars can't be written to {warehouse}",
            hint=f"use --warehouse {', '.join(usable)}, or --source {', '.join(real)} for real bars",
        )
    closures.declare_closed(_closed(given.closed))
    tickers, found = symbols.parse(_entries(given.tickers, *TICKERS), _hint(*TICKERS))
    return Settings(
        tickers=tickers,
        symbols=Symbols() if sources[source].made_up else found,
        allow_missing=parse_allow_missing(given.allow_missing),
        source=source,
        warehouse=warehouse,
        warehouse_is_named=bool(given.warehouse),
        schema_name=_schema(given.schema_name, source, sources, warehouses[warehouse]),
        # A relative folder in the file means the same in every current folder.
        home=_home(given.home, file.path if origin("MAANG_HOME", file, by_variable) is Origin.FILE else None),
    )


def _closed(text: str) -> list[date]:
    try:
        return [date.fromisoformat(day.strip()) for day in text.split(",") if day.strip()]
    except ValueError as exc:
        raise SettingsError(
            f"MAANG_CLOSED must be dates, not {text[:40]!r}", hint="list them as in MAANG_CLOSED=2027-01-11,2027-01-12"
        ) from exc


def variables(flags: Mapping[str, str]) -> dict[str, str]:
    """The flags by their variables' names."""
    return {f"MAANG_{name.upper()}": value for name, value in flags.items()}


def declarations(
    sources: Mapping[str, SourceKind], warehouses: Mapping[str, WarehouseKind]
) -> list[Callable[[], type[Environment]]]:
    """What declares the settings of maang and of each backend. A backend's module is imported when its own is called."""
    of_sources = [kind.declares for kind in sources.values() if kind.declares is not None]
    return [lambda: Given, *of_sources, *(kind.declares for kind in warehouses.values())]


def is_secret(kind: type[Environment], name: str) -> bool:
    """Whether this field of `kind` is a secret."""
    annotation = kind.model_fields[name].annotation
    return SecretStr in (annotation, *get_args(annotation))


def _check_keys(file: ConfigFile, declared: Iterable[Callable[[], type[Environment]]]) -> None:
    """Warn of secrets that others may read; raise SettingsError for a key that no setting has."""
    unknown, names, secrets = set(file.values), set[str](), []
    for declaration in declared:
        if not unknown:  # the other backends need not be imported
            break
        kind = declaration()
        aliases = {str(field.alias): name for name, field in kind.model_fields.items()}
        secrets += [alias for alias, name in aliases.items() if alias in unknown and is_secret(kind, name)]
        unknown -= set(aliases)
        names |= set(aliases)
    if unknown:
        import difflib  # noqa: PLC0415 - only now

        key = min(unknown)
        near = difflib.get_close_matches(key.upper(), names, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(
            f"{key[:80]!r} in {str(file.path)!r} is not a setting", hint=f"{meant}maang config lists all settings"
        )
    if secrets and file.open_to_others:
        log.warning("warning: other users of this machine may read %s in %s: chmod 600 it", ", ".join(secrets), file.path)


class Origin(StrEnum):
    """Where a setting comes from."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


def origin(variable: str, file: ConfigFile, flags: Mapping[str, str]) -> Origin:
    """Where the setting comes from. `flags`: by their variables' names."""
    if variable in flags:
        return Origin.FLAG
    if os.environ.get(variable):
        return Origin.ENVIRONMENT
    return Origin.FILE if variable in file.values else Origin.DEFAULT


E = TypeVar("E", bound=Environment)


def read(kind: type[E], **flags: str) -> E:
    """The settings of `kind` as they are given. A flag, by its variable's name, beats the environment.

    Raises:
        SettingsError: the configuration file can't be read, or has a value of another type.
    """
    try:
        return kind(**flags)
    except ValidationError as exc:  # only the file's values have types
        variable = str(exc.errors(include_url=False, include_input=False)[0]["loc"][0])
        lists = any(field.alias == variable and field.metadata for field in kind.model_fields.values())
        wanted = "a text, a number or a list of texts" if lists else "a text or a number"
        path = str(config_file.load().path)
        raise SettingsError(f"{variable} in {path!r} must be {wanted}", hint=f"change {variable}, or remove it") from exc


def not_read() -> list[str]:
    """The files of the current folder that a user may expect to be read, and that maang does not read."""
    return [name for name in (".env",) if Path(name).is_file()]


TICKERS = ("--tickers", "MAANG_TICKERS")
ALLOW_MISSING = ("--allow-missing", "MAANG_ALLOW_MISSING")


def _entries(text: str, flag: str, variable: str) -> list[str]:
    """What a comma list holds, or `@file` with one entry a line; at least one. In a file, a comment begins with `#`.

    Raises:
        SettingsError: the file can't be read, or there is no entry.
    """
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).expanduser().read_text("utf-8-sig").split("\n")
        except (OSError, ValueError, RuntimeError) as exc:
            reason = "it is not UTF-8 text" if isinstance(exc, UnicodeError) else getattr(exc, "strerror", None) or exc
            raise SettingsError(
                f"the ticker file {text[1:]!r} can't be read: {reason}",
                hint=f"give {flag} @FILE a text file with one symbol a line",
            ) from exc
        entries = [entry for line in lines if (entry := line.partition("#")[0].strip())]
    else:
        entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    if not entries:
        raise SettingsError("the list of tickers is empty", hint=_hint(flag, variable))
    return entries


def _hint(flag: str, variable: str) -> str:
    return f"give {flag} or {variable} a list such as META,BRK.A (case matters), or @FILE"


def parse_allow_missing(text: str) -> AllowMissing:
    """Nothing, a comma list of tickers (or `@file`), or `N%`.

    Raises:
        SettingsError: the text is none of these.
    """
    text = text.strip()
    if not text:
        return AllowMissing()
    if not text.endswith("%"):
        names = symbols.parse_names(_entries(text, *ALLOW_MISSING), _hint(*ALLOW_MISSING))
        return AllowMissing(tickers=frozenset(names))
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%", text) or (percent := Decimal(text[:-1])) > 100:
        raise SettingsError(f"{text[:40]!r} is not a share of the tickers", hint="give --allow-missing tickers, or 0% to 100%")
    return AllowMissing(percent=percent)


def _one_of(value: str, kinds: Mapping[str, object], noun: str) -> str:
    if value not in kinds:
        raise SettingsError(
            f"{value!r} is not a {noun}", hint=f"set --{noun} or MAANG_{noun.upper()} to one of: {', '.join(kinds)}"
        )
    return value


def _schema(name: str, source: str, sources: Mapping[str, SourceKind], warehouse: WarehouseKind) -> str:
    own = sources[source].default_schema
    name = name or own
    if not warehouse.schema_name.fullmatch(name):
        raise SettingsError(f"{name[:80]!r} is not a schema name", hint=f"give --schema or MAANG_SCHEMA {warehouse.schema_hint}")
    others = {kind.default_schema for kind in sources.values()} - {own}
    if name.rpartition(".")[2] in others:
        raise SettingsError(
            f"the schema {name} is not for bars from the source {source}: made-up and real rows never mix",
            hint=f"omit --schema and MAANG_SCHEMA to use {own}",
        )
    return name


def _home(text: str, file: Path | None) -> Path:
    """`file`: the configuration file, if the folder is from there."""
    try:
        folder = Path(text or platformdirs.user_data_dir("maang")).expanduser()
        folder = (file.parent / folder if file else folder).absolute()
    except RuntimeError as exc:
        raise SettingsError(
            f"MAANG_HOME is {text!r}, and that user has no home folder", hint="set MAANG_HOME to a folder"
        ) from exc
    # PyIceberg removes some control characters: the files would be written to another folder. SQLite takes UTF-8 only.
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", str(folder)):
        raise SettingsError(
            f"the folder {str(folder)!r} has a control character in its name, or one that is not UTF-8",
            hint="set MAANG_HOME to another folder",
        )
    return folder


def whole_number(variable: str, text: str) -> int | None:
    """A whole number from 1; None if the variable is not set."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise SettingsError(
            f"{variable} must be a whole number from 1 to 999999, not {text!r}", hint=f"change {variable}, or unset it"
        )
    return int(text)


def seconds(variable: str, text: str, most: int) -> float:
    """A number of seconds from 0 to `most`."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise SettingsError(f"{variable} must be a number from 0 to {most}, not {text!r}", hint=f"change {variable}, or unset it")
    return value


def web_address(variable: str, text: str, *, noun: str, hint: str) -> SplitResult:
    """An https address, or http on this machine, without user, password, query or fragment. `noun`: what is sent to it.

    Raises:
        SettingsError: it is anything else. The message does not repeat the text, which may hold a password.
    """
    parts: SplitResult | None = None
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    plain = re.fullmatch(r"[!-~]+", text) and not set("@?#") & set(text)
    if parts is None or not host or not plain or parts.scheme not in ("https", "http"):
        raise SettingsError(f"{variable} is not a plain web address", hint=hint)
    if parts.scheme == "http" and host not in LOOPBACK:
        raise SettingsError(f"{variable}: http to {host} would show the {noun} to the network", hint=hint)
    return parts


def secret(variable: str, value: SecretStr | None, noun: str) -> SecretStr | None:
    """The secret without the white space around it, because secrets kept in files end in a newline.

    Raises:
        SettingsError: it has a character that can't be sent.
    """
    if value is None:
        return None
    text = value.get_secret_value().strip()
    if not re.fullmatch(r"[!-~]+", text):
        raise SettingsError(
            f"{variable} has characters that a {noun} never has", hint=f"set {variable} to the {noun}, without quotes or spaces"
        )
    return type(value)(text)
