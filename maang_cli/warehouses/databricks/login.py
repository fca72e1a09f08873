"""Who logs in, if there is no personal access token: a service principal, or whatever Databricks' own settings name.

Profiles, the Databricks CLI, OIDC federation and managed identities are found by `databricks.sdk.core.Config`
(https://docs.databricks.com/en/dev-tools/auth/unified-auth.html).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime, timedelta

import requests
import urllib3.exceptions
from databricks.sdk.core import Config
from databricks.sdk.errors import TemporarilyUnavailable, TooManyRequests
from databricks.sdk.oauth import ClientCredentials, Token

from maang_cli.errors import MaangError, WarehouseDenied
from maang_cli.retries import CONNECT_SECONDS, READ_SECONDS, UNREACHABLE_SECONDS
from maang_cli.warehouses.databricks.errors import Transient, translated
from maang_cli.warehouses.databricks.settings import Workspace

Headers = Callable[[], dict[str, str]]


class Login:
    """Gives the connector the headers of a login, renewed in time, and remembers why it could not.

    The connector reports a failed login as a broken connection, which looks as if a retry might help.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._headers: Headers | None = None
        self.failure: Exception | None = None
        """Why the last headers could not be given, as a Transient or a MaangError."""

    def headers(self) -> dict[str, str]:
        """
        Raises:
            WarehouseDenied: the login is refused, or there is none.
            Transient: the host of the login can't be reached, or is busy.
        """
        self.failure = None
        try:
            if self._headers is None:
                principal = self._workspace.client_secret is not None
                self._headers = _service_principal(self._workspace) if principal else _found_by_databricks(self._workspace)
            return self._headers()
        except Exception as exc:
            self.failure = exc if isinstance(exc, MaangError | Transient) else _judged(exc)
            raise self.failure from exc


def _service_principal(workspace: Workspace) -> Headers:
    """OAuth for machines."""

    class Principal(ClientCredentials):
        """Keeps a token and renews it in time. The SDK's own request has no timeout, and its discovery retries for 5 minutes."""

        def refresh(self) -> Token:
            answer = requests.post(
                self.token_url,
                {"grant_type": "client_credentials", "scope": self.scopes},
                auth=(self.client_id, self.client_secret),
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                verify=ssl.get_default_verify_paths().cafile or True,  # as the connector does
            )
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                raise Transient(f"no OAuth token: HTTP {answer.status_code}", retry_seconds=UNREACHABLE_SECONDS)
            try:
                answer.raise_for_status()
                found = answer.json()
                expiry = datetime.now() + timedelta(seconds=int(found["expires_in"]))  # noqa: DTZ005 - the SDK uses local time
                return Token(access_token=found["access_token"], token_type=found["token_type"], expiry=expiry)
            except (requests.HTTPError, ValueError, KeyError) as exc:
                raise WarehouseDenied(
                    f"no OAuth token: the workspace answered HTTP {answer.status_code}",
                    hint="check DATABRICKS_HOST, DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET",
                ) from exc

    assert workspace.client_secret is not None  # noqa: S101 - the caller checks it
    principal = Principal(
        client_id=workspace.client_id,
        client_secret=workspace.client_secret.get_secret_value(),
        token_url=f"{workspace.url}/oidc/v1/token",
        scopes="all-apis",
    )

    def headers() -> dict[str, str]:
        token = principal.token()
        return {"Authorization": f"{token.token_type} {token.access_token}"}

    return headers


def _found_by_databricks(workspace: Workspace) -> Headers:
    """A profile, the CLI's login, OIDC or a managed identity; none of them opens a browser unless a profile names that."""
    config = Config(
        host=workspace.url,
        client_id=workspace.client_id or None,
        http_timeout_seconds=READ_SECONDS,
        retry_timeout_seconds=CONNECT_SECONDS,
    )
    headers: Headers = config.authenticate
    return headers


def _judged(exc: Exception) -> Exception:
    """Why there is no login. The SDK wraps most failures in a ValueError."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, requests.RequestException):
            inner = cause.args[0] if cause.args and isinstance(cause.args[0], urllib3.exceptions.HTTPError) else None
            return translated(inner) if inner else Transient(type(cause).__name__, retry_seconds=UNREACHABLE_SECONDS)
        if isinstance(cause, TemporarilyUnavailable | TooManyRequests):
            return Transient(f"no login: {_short(cause)}", retry_seconds=UNREACHABLE_SECONDS)
        cause = cause.__cause__ or cause.__context__
    return WarehouseDenied(
        f"no login for Databricks: {_short(exc)}",
        hint="set DATABRICKS_TOKEN, or DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET of a service principal, "
        "or DATABRICKS_CONFIG_PROFILE",
    )


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).partition(". Config: ")[0].split())[:200]
