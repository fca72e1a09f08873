"""Polygon's own settings."""

from dataclasses import dataclass

from pydantic import Field, SecretStr

from maang_cli.errors import SettingsError
from maang_cli.retries import API_CALL_SECONDS
from maang_cli.settings import Environment, not_read, read, seconds, secret, web_address, whole_number

HOSTS = ("api.polygon.io", "api.massive.com")
"""The vendor's own. The key is sent to another host only if MAANG_POLYGON_URL names it."""


class Given(Environment):
    token: SecretStr | None = Field(None, alias="POLYGON_TOKEN")
    url: str = Field(f"https://{HOSTS[0]}", alias="MAANG_POLYGON_URL")
    retry_seconds: str = Field(API_CALL_SECONDS, alias="MAANG_RETRY_SECONDS")
    calls_per_minute: str = Field("", alias="MAANG_CALLS_PER_MINUTE")


@dataclass(frozen=True)
class PolygonSettings:
    token: SecretStr
    """The API key. It prints as asterisks."""
    url: str
    """Without a slash at its end."""
    retry_seconds: float
    """The budget of one API call, retries included."""
    calls_per_minute: int | None
    """What the key's plan allows; None: full speed, slower after the vendor refuses a call."""


def load() -> PolygonSettings:
    """Polygon's settings, as they are given.

    Raises:
        SettingsError: one of them is wrong, or there is no key.
    """
    given = read(Given)
    hint = "set MAANG_POLYGON_URL to an address such as https://api.polygon.io"
    url = given.url.strip()
    web_address("MAANG_POLYGON_URL", url, noun="key", hint=hint)
    retry_seconds = seconds("MAANG_RETRY_SECONDS", given.retry_seconds, 3600)
    calls_per_minute = whole_number("MAANG_CALLS_PER_MINUTE", given.calls_per_minute)
    token = secret("POLYGON_TOKEN", given.token, "key")
    if token is None:
        ignored = "".join(f"; {name} in this folder is not read" for name in not_read())
        raise SettingsError(
            "POLYGON_TOKEN is not set", hint=f"export POLYGON_TOKEN=<key>, or try --source sample, which needs no key{ignored}"
        )
    return PolygonSettings(token, url.rstrip("/"), retry_seconds, calls_per_minute)
