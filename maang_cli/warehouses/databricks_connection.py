"""One session on a Databricks SQL warehouse: statements, each within a budget, every wait told. No browser, no telemetry."""

from __future__ import annotations

import io
import logging
import time
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
        except (databricks_sql.Error, urllib3.exceptions.HTTPError, OSError) as exc:
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
    import requests  # noqa: PLC0415 - a second to import with the next, and seldom needed
    from databricks.sdk.core import Config, oauth_service_principal  # noqa: PLC0415

    assert space.client_secret is not None  # noqa: S101 - the settings see to it
    try:
        # The SDK asks for this page first, and for 5 silent minutes where the host is away, whatever it is told.
        endpoints = f"{space.url}/oidc/.well-known/oauth-authorization-server"
        requests.get(endpoints, timeout=(10, 30))
        config = Config(
            host=space.url,
            client_id=space.client_id,
            client_secret=space.client_secret.get_secret_value(),
            auth_type="oauth-m2m",
            # Else the SDK asks the host, and takes its silence for a setting that is wrong.
            discovery_url=endpoints,
            http_timeout_seconds=SOCKET_SECONDS,
            retry_timeout_seconds=1,
        )
        headers = oauth_service_principal(config)
        if headers is None:
            raise ValueError("the host offers no OAuth")
        headers()
    except Exception as exc:
        # The SDK wraps what happens in ValueError; what the network did is below it. `requests` raises OSErrors.
        below: BaseException | None = exc
        while below is not None and not isinstance(below, OSError):
            below = below.__cause__ or below.__context__
        if below is not None:
            raise Transient(f"no OAuth token: {type(below).__name__}", patience=NETWORK_SECONDS) from exc
        raise WarehouseDenied(
            f"no OAuth token: {' '.join(str(exc).split())[:200]}",
            hint="check DATABRICKS_HOST, DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET",
        ) from exc
    return lambda: headers
