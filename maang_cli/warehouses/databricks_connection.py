"""One session on a Databricks SQL warehouse: statements, each within a budget, every wait told. No browser, no telemetry."""

from __future__ import annotations

import io
import logging
import ssl
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import tenacity
import urllib3.exceptions
from databricks import sql as databricks_sql

from maang_cli import __version__
from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed
from maang_cli.warehouses.databricks_errors import AGAIN, NETWORK_SECONDS, Conflict, Refusal, Transient, translated

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from maang_cli.workspace import Workspace

log = logging.getLogger("maang")
logging.getLogger("databricks").addHandler(logging.NullHandler())  # else its errors go to stderr beside ours

CONNECT_SECONDS = 10
READ_SECONDS = 30
SOCKET_SECONDS = 120
"""Without an answer for so long, a request is given up. A long statement answers at once and is polled."""


class Connection:
    """Opened by the first statement, and opened anew when the warehouse has forgotten the session."""

    def __init__(self, workspace: Workspace, tags: dict[str, str]) -> None:
        self._workspace = workspace
        self._tags = tags
        self._open: Any = None

    @property
    def host(self) -> str:
        return self._workspace.host

    def run(self, statement: str, *, expect: tuple[type[Refusal], ...] = (), upload: bytes | None = None) -> pa.Table:
        """The statement's rows. It may be carried out twice, where an answer is lost.

        Raises:
            Refusal: of an expected kind.
            WarehouseDenied: waiting can't help.
            WarehouseFailed: not within the budget.
        """
        started = time.monotonic()
        retrying = tenacity.Retrying(
            stop=self._stop,
            wait=_wait,
            retry=tenacity.retry_if_exception_type(Transient),
            before_sleep=self._narrate,
            reraise=True,
        )
        try:
            rows = retrying(self._once, statement, upload, expect)
        except Transient as exc:
            raise WarehouseFailed(
                self._plain(f"{self._workspace.host}: {exc}; given up after {time.monotonic() - started:.0f} s"),
                hint=f"{AGAIN} later; a stopped warehouse takes minutes to start (MAANG_WAREHOUSE_WAIT)",
            ) from exc
        except Refusal as exc:
            if isinstance(exc, expect):
                raise
            raise self._told(exc.error) from exc
        except MaangError as exc:
            raise self._told(exc) from exc
        log.debug("%.2f s, %d rows: %s", time.monotonic() - started, rows.num_rows, " ".join(statement.split())[:100])
        return rows

    def _once(self, statement: str, upload: bytes | None, expect: tuple[type[Refusal], ...]) -> pa.Table:
        try:
            if self._open is None:
                self._open = self._connect()
            with self._open.cursor() as cursor:
                stream = None if upload is None else io.BytesIO(upload)
                return cursor.execute(statement, input_stream=stream).fetchall_arrow()
        except (databricks_sql.Error, urllib3.exceptions.HTTPError, OSError, ImportError) as exc:
            failure = translated(exc)
            if isinstance(failure, Conflict) and Conflict not in expect:
                failure = Transient(str(failure))
            if isinstance(failure, Transient) and failure.session_lost:
                self._forget()
            raise failure from exc

    def _connect(self) -> Any:
        space = self._workspace
        parts = urlsplit(space.url)
        options: dict[str, Any] = {"_port": parts.port or 443}
        if parts.scheme == "http":
            options["_connection_uri"] = space.url + space.http_path
        if space.token is not None:
            options["access_token"] = space.token.get_secret_value()
        else:
            options["credentials_provider"] = _service_principal(space)
        return databricks_sql.connect(
            server_hostname=parts.hostname,
            http_path=space.http_path,
            user_agent_entry=f"maang/{__version__}",
            query_tags=self._tags,
            enable_telemetry=False,
            use_cloud_fetch=False,  # answers are small, and cloud storage may be out of reach
            _socket_timeout=SOCKET_SECONDS,
            # One attempt each: retries are ours. With the connector's newer retries the HTTP status would be lost, and each wait
            # be silent and 5 s at least.
            _enable_v3_retries=False,
            _retry_stop_after_attempts_count=1,
            _retry_stop_after_attempts_duration=1,
            _retry_delay_max=3600,
            **options,
        )

    def _forget(self) -> None:
        """Leave a session that the warehouse no longer knows: closing it would ask once more."""
        self._open.session.is_open = False
        self._open = None

    def _budget(self, failure: BaseException | None) -> float:
        patience = failure.patience if isinstance(failure, Transient) else None
        whole = self._workspace.wait_seconds
        return whole if patience is None else min(patience, whole)

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        failure = state.outcome.exception() if state.outcome else None
        return (state.seconds_since_start or 0) + state.upcoming_sleep >= self._budget(failure)

    def _narrate(self, state: tenacity.RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        log.warning(
            "%s: %s; trying again in %.0f s, for up to %.0f s",
            self._workspace.host,
            self._plain(str(failure)),
            state.upcoming_sleep,
            self._budget(failure),
        )

    def _told(self, error: MaangError) -> MaangError:
        """The error with the host before it, and without secrets."""
        return type(error)(self._plain(f"{self._workspace.host}: {error.message}"), hint=error.hint)

    def _plain(self, text: str) -> str:
        for secret in (self._workspace.token, self._workspace.client_secret):
            if secret is not None:
                text = text.replace(secret.get_secret_value(), "***")
        return text

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _wait(state: tenacity.RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.after if isinstance(failure, Transient) else None
    return tenacity.wait_exponential_jitter(initial=1, max=30)(state) if asked is None else asked


def _service_principal(space: Workspace) -> Callable[[], Callable[[], dict[str, str]]]:
    """OAuth for machines, as the connector takes it. The first token is fetched here, where a failure can be told."""
    # Half a second to import, and seldom needed.
    import requests  # noqa: PLC0415
    from databricks.sdk.oauth import ClientCredentials, Token  # noqa: PLC0415

    class Principal(ClientCredentials):
        """Keeps a token and renews it in time. The SDK's own request has no timeout, and its discovery retries for 5 minutes."""

        def refresh(self) -> Token:
            answer = requests.post(
                self.token_url,
                {"grant_type": "client_credentials", "scope": self.scopes},
                auth=(self.client_id, self.client_secret),
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                verify=ssl.get_default_verify_paths().cafile or True,  # trusts whom the connector trusts
            )
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                raise Transient(f"no OAuth token: HTTP {answer.status_code}", patience=NETWORK_SECONDS)
            try:
                answer.raise_for_status()
                found = answer.json()
                expiry = datetime.now() + timedelta(seconds=int(found["expires_in"]))  # noqa: DTZ005 - as the SDK reckons
                return Token(access_token=found["access_token"], token_type=found["token_type"], expiry=expiry)
            except (requests.HTTPError, ValueError, KeyError) as exc:
                raise WarehouseDenied(
                    f"no OAuth token: it answered HTTP {answer.status_code}",
                    hint="check DATABRICKS_HOST, DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET",
                ) from exc

    assert space.client_secret is not None  # noqa: S101 - the settings see to it
    principal = Principal(
        client_id=space.client_id,
        client_secret=space.client_secret.get_secret_value(),
        token_url=f"{space.url}/oidc/v1/token",
        scopes="all-apis",
    )

    def headers() -> dict[str, str]:
        token = principal.token()
        return {"Authorization": f"{token.token_type} {token.access_token}"}

    try:
        headers()
    except requests.RequestException as exc:
        below = exc.args[0] if exc.args and isinstance(exc.args[0], urllib3.exceptions.HTTPError) else None
        raise (translated(below) if below else Transient(type(exc).__name__, patience=NETWORK_SECONDS)) from exc
    return lambda: headers
