"""Databricks' own settings: where the SQL warehouse is, and who logs in. Nothing here connects."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from maang_cli.errors import SettingsError
from maang_cli.retries import WAREHOUSE_START_SECONDS
from maang_cli.settings import Environment, Settings, read, seconds, secret, web_address
from maang_cli.warehouses.base import Places

MOST_WAIT_SECONDS = 24 * 3600
_VOLUME = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


class Given(Environment):
    host: str = Field("", alias="DATABRICKS_HOST")
    http_path: str = Field("", alias="DATABRICKS_HTTP_PATH")
    token: SecretStr | None = Field(None, alias="DATABRICKS_TOKEN")
    client_id: str = Field("", alias="DATABRICKS_CLIENT_ID")
    client_secret: SecretStr | None = Field(None, alias="DATABRICKS_CLIENT_SECRET")
    volume: str = Field("", alias="MAANG_VOLUME")
    warehouse_wait: str = Field(WAREHOUSE_START_SECONDS, alias="MAANG_WAREHOUSE_WAIT")


@dataclass(frozen=True)
class Workspace:
    """Where the SQL warehouse is, and who logs in."""

    url: str
    """`https://host` or `https://host:port`; `http` for a loopback host only."""
    http_path: str
    """The SQL warehouse's path, `/sql/1.0/warehouses/<id>`."""
    token: SecretStr | None
    """A personal access token. None: the service principal below logs in."""
    client_id: str
    client_secret: SecretStr | None
    """None: whatever login Databricks' own settings name (`login.py`)."""
    volume: str | None
    """`catalog.schema.volume` for large loads; None if there is none."""
    wait_seconds: float
    """How long to keep trying a statement while the SQL warehouse starts or the network is down."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


def is_configured() -> bool:
    """Whether the environment names a SQL warehouse."""
    return bool(read(Given).http_path)


def load(settings: Settings) -> Workspace:
    """The workspace, from the environment; a token beats a service principal.

    Raises:
        SettingsError: a variable is missing or wrong.
    """
    try:
        return _workspace(read(Given))
    except SettingsError as exc:
        if settings.warehouse_is_named:
            raise
        raise SettingsError(
            f"DATABRICKS_HTTP_PATH is set, so the warehouse is Databricks: {exc.message}",
            hint=f"{exc.hint}; or use --warehouse local to write to this machine",
        ) from exc


def places(settings: Settings) -> Places:
    """The catalog of the schema; Unity Catalog keeps each table's metadata file to itself.

    Raises:
        SettingsError: a variable is missing or wrong.
    """
    catalog, _, _ = settings.schema_name.rpartition(".")
    return Places(f"{catalog or 'the default catalog'} on {load(settings).host}")


def _workspace(given: Given) -> Workspace:
    url = _url(given.host.strip())
    http_path, volume = given.http_path.strip(), given.volume.strip()
    if not http_path:
        raise SettingsError("DATABRICKS_HTTP_PATH is not set", hint="set it to the path in the warehouse's connection details")
    if not re.fullmatch(r"[!-~]+", http_path):
        raise SettingsError(
            "DATABRICKS_HTTP_PATH has characters that a path never has",
            hint="set it to a path such as /sql/1.0/warehouses/<id>",
        )
    token = secret("DATABRICKS_TOKEN", given.token, "token")
    client_id, client_secret = given.client_id.strip(), secret("DATABRICKS_CLIENT_SECRET", given.client_secret, "secret")
    if client_secret and not client_id:
        raise SettingsError(
            "DATABRICKS_CLIENT_SECRET is set without DATABRICKS_CLIENT_ID",
            hint="set DATABRICKS_CLIENT_ID to the service principal's application id",
        )
    if volume and not _VOLUME.fullmatch(volume):
        raise SettingsError(f"{volume[:80]!r} is not a volume", hint="set MAANG_VOLUME to catalog.schema.volume")
    wait_seconds = seconds("MAANG_WAREHOUSE_WAIT", given.warehouse_wait, MOST_WAIT_SECONDS)
    return Workspace(url, "/" + http_path.lstrip("/"), token, client_id, client_secret, volume or None, wait_seconds)


def _url(host: str) -> str:
    hint = "set DATABRICKS_HOST to the workspace's host, such as dbc-a1b2c3d4-e5f6.cloud.databricks.com"
    if not host:
        raise SettingsError("DATABRICKS_HOST is not set", hint=hint)
    parts = web_address("DATABRICKS_HOST", host if "://" in host else f"https://{host}", noun="token", hint=hint)
    if parts.path.strip("/"):
        raise SettingsError("DATABRICKS_HOST is not a plain host name", hint=hint)
    return f"{parts.scheme}://{parts.netloc}"
