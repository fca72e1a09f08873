"""A Databricks workspace as the settings describe it. Pure checks on strings; nothing here connects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from maang_cli.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import SecretStr

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_WAIT = 24 * 3600
_VOLUME = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Workspace:
    """Where the SQL warehouse is, and who asks."""

    url: str
    """`https://host` or `https://host:port`; `http` for a loopback host only."""
    http_path: str
    """The warehouse's, `/sql/1.0/warehouses/<id>`."""
    token: SecretStr | None
    """A personal access token. None: the service principal below asks."""
    client_id: str
    client_secret: SecretStr | None
    volume: str | None
    """`catalog.schema.volume` for large loads; None when there is none."""
    wait_seconds: float
    """How long a statement may take to get through: a warehouse that starts, a network that is down."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


def workspace_of(
    *,
    host: str,
    http_path: str,
    token: SecretStr | None,
    client_id: str,
    client_secret: SecretStr | None,
    volume: str,
    wait: str,
) -> Workspace:
    """The workspace that these variables describe; a token goes before a service principal.

    Raises:
        SettingsError: one is missing or wrong.
    """
    url = _url(host)
    if not http_path:
        raise SettingsError("DATABRICKS_HTTP_PATH is not set", hint="set it to the path in the warehouse's connection details")
    if not re.fullmatch(r"[!-~]+", http_path):
        raise SettingsError(
            "DATABRICKS_HTTP_PATH has characters that no path has", hint="set it to a path such as /sql/1.0/warehouses/<id>"
        )
    token = secret("DATABRICKS_TOKEN", token, "token")
    client_secret = secret("DATABRICKS_CLIENT_SECRET", client_secret, "secret")
    # Without either, the connector would open a browser.
    if token is None and not (client_id and client_secret):
        raise SettingsError(
            "nothing to log in to Databricks with",
            hint="set DATABRICKS_TOKEN, or DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET of a service principal",
        )
    if volume and not _VOLUME.fullmatch(volume):
        raise SettingsError(f"{volume[:80]!r} is no volume", hint="give MAANG_VOLUME as catalog.schema.volume")
    return Workspace(url, "/" + http_path.lstrip("/"), token, client_id, client_secret, volume or None, _wait(wait))


def plain_address(text: str) -> SplitResult | None:
    """An http or https address without user, password, query or fragment, taken apart; None for anything else.

    It is not for messages: what is refused here may carry a password.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    plain = re.fullmatch(r"[!-~]+", text) and not set("@?#") & set(text)
    return parts if host and plain and parts.scheme in ("https", "http") else None


def _url(host: str) -> str:
    hint = "set DATABRICKS_HOST to the workspace's host, such as dbc-a1b2c3d4-e5f6.cloud.databricks.com"
    if not host:
        raise SettingsError("DATABRICKS_HOST is not set", hint=hint)
    parts = plain_address(host if "://" in host else f"https://{host}")
    if parts is None or parts.path.strip("/"):
        raise SettingsError("DATABRICKS_HOST is no plain host name", hint=hint)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise SettingsError(f"DATABRICKS_HOST: http to {parts.hostname} would show the token to the network", hint=hint)
    return f"{parts.scheme}://{parts.netloc}"


def secret(variable: str, value: SecretStr | None, noun: str) -> SecretStr | None:
    """The secret without the white space around it: those kept in files end in a newline.

    Raises:
        SettingsError: it has a character that can't be sent.
    """
    if value is None:
        return None
    text = value.get_secret_value().strip()
    if not re.fullmatch(r"[!-~]+", text):
        raise SettingsError(
            f"{variable} has characters that no {noun} has", hint=f"set {variable} to the {noun}, without quotes or spaces"
        )
    return type(value)(text)


def _wait(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= MAX_WAIT:
        raise SettingsError(f"MAANG_WAREHOUSE_WAIT is {text!r}", hint=f"give MAANG_WAREHOUSE_WAIT from 0 to {MAX_WAIT} seconds")
    return value
