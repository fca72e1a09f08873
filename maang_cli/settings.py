"""What every run needs to know: a flag beats the environment, which beats `.env`.

Each backend has settings of its own, and reads their variables with `read`. Secrets are never shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, urlsplit

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from maang_cli.checks import AllowMissing
from maang_cli.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from maang_cli.sources import SourceKind
    from maang_cli.warehouses import WarehouseKind

TICKER = re.compile(r"[A-Z][A-Za-z0-9]{0,9}([./-][A-Za-z0-9]{1,5}){0,2}")
"""A symbol as the vendor spells it: BRK.A, BACpA, ACHR.WS."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Environment(BaseSettings):
    """Variables as text; an empty variable counts as not set. A backend reads its own with a subclass."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", case_sensitive=True)


class _Given(Environment):
    tickers: str = Field("META,AAPL,AMZN,NFLX,GOOGL", alias="MAANG_TICKERS")
    allow_missing: str = Field("", alias="MAANG_ALLOW_MISSING")
    source: str | None = Field(None, alias="MAANG_SOURCE")
    warehouse: str = Field("", alias="MAANG_WAREHOUSE")
    schema_name: str = Field("", alias="MAANG_SCHEMA")
    home: str = Field("", alias="MAANG_HOME")


@dataclass(frozen=True)
class Settings:
    """What one run of maang works with, checked and complete but for the backends' own settings."""

    tickers: tuple[str, ...]
    """The universe, in the order given; at least one, none twice."""
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
    """The settings, from the flags by their names (`tickers`, ..), the environment and `.env`.

    The first source and warehouse are the defaults.

    Raises:
        SettingsError: one of them is wrong.
    """
    given = read(_Given, **{f"MAANG_{name.upper()}": value for name, value in flags.items()})
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
    return Settings(
        tickers=parse_tickers(given.tickers),
        allow_missing=parse_allow_missing(given.allow_missing),
        source=source,
        warehouse=warehouse,
        warehouse_is_named=bool(given.warehouse),
        schema_name=_schema(given.schema_name, source, sources, warehouses[warehouse]),
        home=_home(given.home),
    )


E = TypeVar("E", bound=Environment)


def read(kind: type[E], **flags: str) -> E:
    """The variables of `kind`. A flag, by its variable's name, replaces the environment's value.

    Raises:
        SettingsError: `.env` can't be read.
    """
    try:
        return kind(**flags)
    except (OSError, ValueError) as exc:
        raise SettingsError(f".env can't be read: {exc}", hint="fix it, or run from another folder") from exc


def parse_tickers(text: str, flag: str = "--tickers", variable: str = "MAANG_TICKERS") -> tuple[str, ...]:
    """A comma list, or `@file` with one symbol a line (blank lines are skipped), in the order given.

    Raises:
        SettingsError: the file can't be read, there is no symbol, or a symbol is malformed or listed twice.
    """
    if text.startswith("@"):
        try:
            names = Path(text[1:]).expanduser().read_text("utf-8").split("\n")
        except (OSError, ValueError, RuntimeError) as exc:
            reason = "it is not UTF-8 text" if isinstance(exc, UnicodeError) else getattr(exc, "strerror", None) or exc
            raise SettingsError(
                f"the ticker file {text[1:]!r} can't be read: {reason}",
                hint=f"give {flag} @FILE a text file with one symbol a line",
            ) from exc
        names = [name for name in names if name.strip()]
    else:
        names = text.split(",") if text.strip() else []
    tickers = tuple(name.strip() for name in names)
    hint = f"give {flag} or {variable} a list such as META,BRK.A (case matters), or @FILE"
    if not tickers:
        raise SettingsError("the list of tickers is empty", hint=hint)
    for ticker in tickers:
        if not TICKER.fullmatch(ticker):
            raise SettingsError(f"{ticker[:40]!r} is not a ticker symbol", hint=hint)
    if twice := [ticker for ticker, times in Counter(tickers).items() if times > 1]:
        raise SettingsError(f"listed twice among the tickers: {', '.join(twice)}", hint=hint)
    return tickers


def parse_allow_missing(text: str) -> AllowMissing:
    """Nothing, a comma list of tickers (or `@file`), or `N%`.

    Raises:
        SettingsError: the text is none of these.
    """
    text = text.strip()
    if not text:
        return AllowMissing()
    if not text.endswith("%"):
        return AllowMissing(tickers=frozenset(parse_tickers(text, "--allow-missing", "MAANG_ALLOW_MISSING")))
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


def _home(text: str) -> Path:
    folder = Path(text) if text else Path(platformdirs.user_data_dir("maang"))
    try:
        return folder.expanduser().absolute()
    except RuntimeError as exc:
        raise SettingsError(
            f"MAANG_HOME is {text!r}, and that user has no home folder", hint="set MAANG_HOME to a folder"
        ) from exc


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
