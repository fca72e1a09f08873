"""One session on a Databricks SQL warehouse. Each statement has a retry budget; waits are logged. No browser, no telemetry."""

from __future__ import annotations

import io
import logging
import ssl
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import tenacity
import urllib3.exceptions
from databricks import sql as databricks_sql
from databricks.sql.session import Session

from maang_cli import __version__
from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed
from maang_cli.retries import CONNECT_SECONDS, READ_SECONDS, STATEMENT_SECONDS, UNREACHABLE_SECONDS, wait_seconds
from maang_cli.warehouses.databricks.errors import AGAIN, Conflict, Refusal, Transient, translated
from maang_cli.warehouses.databricks.settings import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("maang")
logging.getLogger("databricks").addHandler(logging.NullHandler())  # otherwise its errors go to stderr beside ours


class Connection:
    """Opened by the first statement, and opened again if the warehouse has closed the session."""

    def __init__(self, workspace: Workspace, tags: dict[str, str]) -> None:
        self._workspace = workspace
        self._tags = tags
        self._open: Any = None
        self._options: dict[str, Any] = {}
        """What it was opened with."""
        self._cursor: Any = None
        """Of the statement that is running."""
        self._cancelled: Any = None
        """The cursor that `cancel` found."""

    @property
    def host(self) -> str:
        return self._workspace.host

    def run(self, statement: str, *, expect: tuple[type[Refusal], ...] = (), upload: bytes | None = None) -> pa.Table:
        """The statement's rows. The statement may run twice, if an answer is lost.

        Raises:
            Refusal: of one of the expected kinds.
            WarehouseDenied: waiting can't help.
            WarehouseFailed: there was no usable answer within the retry budget, or the statement was cancelled.
        """
        started = time.monotonic()
        retrying = tenacity.Retrying(
            stop=self._stop,
            wait=wait_seconds,
            retry=tenacity.retry_if_exception_type(Transient),
            before_sleep=self._log_retry,
            reraise=True,
        )
        try:
            rows = retrying(self._once, statement, upload, expect)
        except Transient as exc:
            raise WarehouseFailed(
                self._without_secrets(f"{self._workspace.host}: {exc}; gave up after {time.monotonic() - started:.0f} s"),
                hint=f"{AGAIN} later; a stopped warehouse takes minutes to start (MAANG_WAREHOUSE_WAIT)",
            ) from exc
        except Refusal as exc:
            if isinstance(exc, expect):
                raise
            raise self._located(exc.error) from exc
        except MaangError as exc:
            raise self._located(exc) from exc
        log.debug("%.2f s, %d rows: %s", time.monotonic() - started, rows.num_rows, " ".join(statement.split())[:100])
        return rows

    def _once(self, statement: str, upload: bytes | None, expect: tuple[type[Refusal], ...]) -> pa.Table:
        try:
            if self._open is None:
                self._open = self._connect()
            with self._open.cursor() as self._cursor:
                stream = None if upload is None else io.BytesIO(upload)
                return self._cursor.execute(statement, input_stream=stream).fetchall_arrow()
        except (databricks_sql.Error, urllib3.exceptions.HTTPError, OSError, ImportError) as exc:
            failure = translated(exc)
            if isinstance(failure, Conflict) and Conflict not in expect:
                failure = Transient(str(failure))
            if isinstance(failure, Transient) and failure.session_lost:
                self._forget()
            raise failure from exc
        finally:
            cursor, self._cursor = self._cursor, None
            if cursor is not None and cursor is self._cancelled:  # whatever the answer is: it may look like an empty result
                raise WarehouseFailed("the statement was cancelled", hint=AGAIN)

    def cancel(self) -> None:
        """Cancel the statement that is running, if any. Another thread calls this, at any moment."""
        connection, cursor = self._open, self._cursor
        if connection is None or cursor is None:
            return
        self._cancelled = cursor
        # The connector's own `cursor.cancel()` waits until the current request is answered, which takes seconds for a poll. So a
        # second client sends this. It opens no session, because the statement's id is enough.
        client = Session(http_client=connection.http_client, **self._options).backend
        if (statement := cursor.active_command_id) is not None:
            client.cancel_command(statement)
        else:  # the statement gets its id with the first answer
            client.close_session(connection.session.session_id)

    def _connect(self) -> Any:
        workspace = self._workspace
        parts = urlsplit(workspace.url)
        options: dict[str, Any] = {
            "server_hostname": parts.hostname,
            "_port": parts.port or 443,
            "http_path": workspace.http_path,
            "user_agent_entry": f"maang/{__version__}",
            "query_tags": self._tags,
            "enable_telemetry": False,
            "use_cloud_fetch": False,  # answers are small, and maang may not be able to reach cloud storage
            "_socket_timeout": STATEMENT_SECONDS,
            # One attempt each, because maang itself retries. The connector's newer retries would hide the HTTP status, and wait
            # silently for at least 5 s.
            "_enable_v3_retries": False,
            "_retry_stop_after_attempts_count": 1,
            "_retry_stop_after_attempts_duration": 1,
            "_retry_delay_max": 3600,
        }
        if parts.scheme == "http":
            options["_connection_uri"] = workspace.url + workspace.http_path
        if workspace.token is not None:
            options["access_token"] = workspace.token.get_secret_value()
        else:
            options["credentials_provider"] = _service_principal(workspace)
        self._options = options
        return databricks_sql.connect(**options)

    def _forget(self) -> None:
        """Forget a session that the warehouse has closed; closing it again would be one more request."""
        self._open.session.is_open = False
        self._open = None

    def _budget(self, failure: BaseException | None) -> float:
        """How many seconds of retries this failure gets, at most MAANG_WAREHOUSE_WAIT."""
        own = failure.retry_seconds if isinstance(failure, Transient) else None
        most = self._workspace.wait_seconds
        return most if own is None else min(own, most)

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        failure = state.outcome.exception() if state.outcome else None
        return (state.seconds_since_start or 0) + state.upcoming_sleep >= self._budget(failure)

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        log.warning(
            "%s: %s; trying again in %.0f s, for up to %.0f s",
            self._workspace.host,
            self._without_secrets(str(failure)),
            state.upcoming_sleep,
            self._budget(failure),
        )

    def _located(self, error: MaangError) -> MaangError:
        """The error with the host before it, and without secrets."""
        return type(error)(self._without_secrets(f"{self._workspace.host}: {error.message}"), hint=error.hint)

    def _without_secrets(self, text: str) -> str:
        for secret in (self._workspace.token, self._workspace.client_secret):
            if secret is not None:
                text = text.replace(secret.get_secret_value(), "***")
        return text

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _service_principal(workspace: Workspace) -> Callable[[], Callable[[], dict[str, str]]]:
    """OAuth for machines, in the connector's form. The first token is fetched here, where a failure can be reported."""
    # These take half a second to import, and are rarely needed.
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

    assert workspace.client_secret is not None  # noqa: S101 - the settings check it
    principal = Principal(
        client_id=workspace.client_id,
        client_secret=workspace.client_secret.get_secret_value(),
        token_url=f"{workspace.url}/oidc/v1/token",
        scopes="all-apis",
    )

    def headers() -> dict[str, str]:
        token = principal.token()
        return {"Authorization": f"{token.token_type} {token.access_token}"}

    try:
        headers()
    except requests.RequestException as exc:
        cause = exc.args[0] if exc.args and isinstance(exc.args[0], urllib3.exceptions.HTTPError) else None
        raise (translated(cause) if cause else Transient(type(exc).__name__, retry_seconds=UNREACHABLE_SECONDS)) from exc
    return lambda: headers
