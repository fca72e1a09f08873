"""Settings: a flag beats the environment, which beats `.env`. The only reader of the environment; secrets are never shown."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import platformdirs
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from maang_cli.checks import AllowMissing
from maang_cli.errors import SettingsError
from maang_cli.workspace import LOOPBACK, Workspace, plain_address, secret, workspace_of

SOURCES = ("polygon", "sample")
WAREHOUSES = ("local", "databricks")
REAL_SCHEMA = "maang"
SAMPLE_SCHEMA = "maang_sample"
TICKER = re.compile(r"[A-Z][A-Za-z0-9]{0,9}([./-][A-Za-z0-9]{1,5}){0,2}")
"""A symbol as the vendor spells it: BRK.A, BACpA, ACHR.WS."""
_SCHEMA_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CATALOG_AND_SCHEMA = re.compile(r"([\w-]{1,255}\.)?[a-z][a-z0-9_]{0,62}", re.ASCII)


class _Given(BaseSettings):
    """The variables as they stand, an empty one as if it were not there."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", case_sensitive=True)

    polygon_token: SecretStr | None = Field(None, alias="POLYGON_TOKEN")
    polygon_url: str = Field("https://api.polygon.io", alias="MAANG_POLYGON_URL")
    retry_seconds: str = Field("120", alias="MAANG_RETRY_SECONDS")
    calls_per_minute: str = Field("", alias="MAANG_CALLS_PER_MINUTE")
    tickers: str = Field("META,AAPL,AMZN,NFLX,GOOGL", alias="MAANG_TICKERS")
    allow_missing: str = Field("", alias="MAANG_ALLOW_MISSING")
    source: str = Field("polygon", alias="MAANG_SOURCE")
    warehouse: str = Field("", alias="MAANG_WAREHOUSE")
    databricks_host: str = Field("", alias="DATABRICKS_HOST")
    databricks_http_path: str = Field("", alias="DATABRICKS_HTTP_PATH")
    databricks_token: SecretStr | None = Field(None, alias="DATABRICKS_TOKEN")
    databricks_client_id: str = Field("", alias="DATABRICKS_CLIENT_ID")
    databricks_client_secret: SecretStr | None = Field(None, alias="DATABRICKS_CLIENT_SECRET")
    volume: str = Field("", alias="MAANG_VOLUME")
    warehouse_wait: str = Field("600", alias="MAANG_WAREHOUSE_WAIT")
    schema_name: str = Field("", alias="MAANG_SCHEMA")
    home: str = Field("", alias="MAANG_HOME")
    keep_snapshots: str = Field("100", alias="MAANG_KEEP_SNAPSHOTS")
    keep_days: str = Field("", alias="MAANG_KEEP_DAYS")


@dataclass(frozen=True)
class Settings:
    """What one run of maang works with, checked and complete."""

    polygon_token: SecretStr | None
    """The API key; None when there is none. It prints as asterisks."""
    polygon_url: str
    """Without a slash at its end."""
    retry_seconds: float
    """Budget of one call to the API, retries included."""
    calls_per_minute: int | None
    """The pace that the key's plan allows; None: full speed, slowed down by refusals."""
    tickers: tuple[str, ...]
    """The universe, as it was given; at least one, none twice."""
    allow_missing: AllowMissing
    source: str
    """One of SOURCES."""
    warehouse: str
    """One of WAREHOUSES."""
    workspace: Workspace | None
    """Set when the warehouse is databricks."""
    schema_name: str
    """On Databricks with its catalog before it, or else in the session's own catalog."""
    home: Path
    """Absolute; the local warehouse lives below it."""
    keep_snapshots: int
    """How many snapshots of a table are kept for time travel, 1 or more."""
    keep_days: int | None
    """How old a snapshot may get that is not the newest; None: as old as it likes."""


def load(
    *,
    tickers: str | None = None,
    source: str | None = None,
    warehouse: str | None = None,
    schema: str | None = None,
    allow_missing: str | None = None,
    home: str | None = None,
) -> Settings:
    """The settings, with the flags that were given (None: not given).

    Raises:
        SettingsError: one of them is wrong.
    """
    flags = {
        "MAANG_TICKERS": tickers,
        "MAANG_SOURCE": source,
        "MAANG_WAREHOUSE": warehouse,
        "MAANG_SCHEMA": schema,
        "MAANG_ALLOW_MISSING": allow_missing,
        "MAANG_HOME": home,
    }
    try:
        given = _Given(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except (OSError, ValueError) as exc:
        raise SettingsError(f".env can't be read: {exc}", hint="mend it, or run from another folder") from exc
    chosen = _one_of(given.source, SOURCES, "--source", "MAANG_SOURCE")
    where = _warehouse(given, chosen)
    return Settings(
        polygon_token=secret("POLYGON_TOKEN", given.polygon_token, "key"),
        polygon_url=_url(given.polygon_url),
        retry_seconds=_retry_seconds(given.retry_seconds),
        calls_per_minute=_whole("MAANG_CALLS_PER_MINUTE", given.calls_per_minute) if given.calls_per_minute else None,
        tickers=parse_tickers(given.tickers),
        allow_missing=parse_allow_missing(given.allow_missing),
        source=chosen,
        warehouse=where,
        workspace=_workspace(given) if where == "databricks" else None,
        schema_name=_schema(given.schema_name, chosen, where),
        home=_home(given.home),
        keep_snapshots=_whole("MAANG_KEEP_SNAPSHOTS", given.keep_snapshots),
        keep_days=_whole("MAANG_KEEP_DAYS", given.keep_days) if given.keep_days else None,
    )


def parse_tickers(text: str, flag: str = "--tickers", variable: str = "MAANG_TICKERS") -> tuple[str, ...]:
    """A comma list, or `@file` with one symbol a line (blank lines are skipped), in the order given.

    Raises:
        SettingsError: the file can't be read, there is no symbol, or one is malformed or there twice.
    """
    if text.startswith("@"):
        try:
            names = Path(text[1:]).expanduser().read_text("utf-8").split("\n")
        except (OSError, ValueError, RuntimeError) as exc:
            reason = "it is no UTF-8 text" if isinstance(exc, UnicodeError) else getattr(exc, "strerror", None) or exc
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
        raise SettingsError("there is no ticker to ask for", hint=hint)
    for ticker in tickers:
        if not TICKER.fullmatch(ticker):
            raise SettingsError(f"{ticker[:40]!r} is no ticker symbol", hint=hint)
    if twice := [ticker for ticker, times in Counter(tickers).items() if times > 1]:
        raise SettingsError(f"listed twice among the tickers: {', '.join(twice)}", hint=hint)
    return tickers


def parse_allow_missing(text: str) -> AllowMissing:
    """Nothing, a comma list of tickers (or `@file`), or `N%`.

    Raises:
        SettingsError: it is none of these.
    """
    text = text.strip()
    if not text:
        return AllowMissing()
    if not text.endswith("%"):
        return AllowMissing(tickers=frozenset(parse_tickers(text, "--allow-missing", "MAANG_ALLOW_MISSING")))
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?%", text) or (percent := Decimal(text[:-1])) > 100:
        raise SettingsError(f"{text[:40]!r} is no share of the tickers", hint="give --allow-missing tickers, or 0% to 100%")
    return AllowMissing(percent=percent)


def _one_of(value: str, allowed: tuple[str, ...], flag: str, variable: str) -> str:
    if value not in allowed:
        raise SettingsError(
            f"{value!r} is not a {flag.removeprefix('--')}", hint=f"give {flag} or {variable} one of: {', '.join(allowed)}"
        )
    return value


def _url(value: str) -> str:
    hint = "give MAANG_POLYGON_URL an address such as https://api.polygon.io"
    value = value.strip()
    parts = plain_address(value)
    if parts is None:
        raise SettingsError("MAANG_POLYGON_URL is no plain web address", hint=hint)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise SettingsError(f"MAANG_POLYGON_URL: http to {parts.hostname} would show the key to the network", hint=hint)
    return value.rstrip("/")


def _retry_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 3600:
        raise SettingsError(f"MAANG_RETRY_SECONDS is {text!r}", hint="give MAANG_RETRY_SECONDS from 0 to 3600 seconds")
    return value


def _whole(variable: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise SettingsError(f"{variable} is {text!r}", hint=f"give {variable} a whole number from 1")
    return int(text)


def _warehouse(given: _Given, source: str) -> str:
    wanted = given.warehouse or ("databricks" if given.databricks_http_path and source != "sample" else "local")
    if wanted == "databricks" and source == "sample":
        raise SettingsError(
            "made-up bars are not written to Databricks", hint="give --warehouse local, or --source polygon for real bars"
        )
    return _one_of(wanted, WAREHOUSES, "--warehouse", "MAANG_WAREHOUSE")


def _workspace(given: _Given) -> Workspace:
    try:
        return workspace_of(
            host=given.databricks_host.strip(),
            http_path=given.databricks_http_path.strip(),
            token=given.databricks_token,
            client_id=given.databricks_client_id.strip(),
            client_secret=given.databricks_client_secret,
            volume=given.volume.strip(),
            wait=given.warehouse_wait,
        )
    except SettingsError as exc:
        if given.warehouse:
            raise
        raise SettingsError(
            f"DATABRICKS_HTTP_PATH is set, so the warehouse is Databricks: {exc.message}",
            hint=f"{exc.hint}; or give --warehouse local to write to this machine",
        ) from exc


def _schema(name: str, source: str, warehouse: str) -> str:
    own, others = (SAMPLE_SCHEMA, REAL_SCHEMA) if source == "sample" else (REAL_SCHEMA, SAMPLE_SCHEMA)
    name = name or own
    if warehouse == "databricks" and not _CATALOG_AND_SCHEMA.fullmatch(name):
        raise SettingsError(
            f"{name[:80]!r} is no schema name",
            hint="give --schema or MAANG_SCHEMA as catalog.schema: lower-case letters, digits and _, a letter first",
        )
    if warehouse != "databricks" and not _SCHEMA_NAME.fullmatch(name):
        raise SettingsError(
            f"{name[:80]!r} is no schema name", hint="give --schema lower-case letters, digits and _, a letter first"
        )
    if name.rpartition(".")[2] == others:
        raise SettingsError(
            f"the schema {name} is not for bars of the source {source}: made-up and real rows never mix",
            hint=f"leave --schema and MAANG_SCHEMA out to use {own}",
        )
    return name


def _home(text: str) -> Path:
    folder = Path(text) if text else Path(platformdirs.user_data_dir("maang"))
    try:
        return folder.expanduser().absolute()
    except RuntimeError as exc:
        raise SettingsError(f"MAANG_HOME is {text!r}, and that home is unknown", hint="give MAANG_HOME a folder") from exc
