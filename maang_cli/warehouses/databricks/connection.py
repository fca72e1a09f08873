"""One session on a Databricks SQL warehouse. Each statement has a retry budget; waits are logged. No browser, no telemetry."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import tenacity
import urllib3.exceptions
from databricks import sql as databricks_sql
from databricks.sql.backend.types import CommandState
from databricks.sql.session import Session

from maang_cli import __version__
from maang_cli.errors import MaangError, WarehouseFailed
from maang_cli.retries import FIRST_WAIT_SECONDS, STATEMENT_SECONDS, UNREACHABLE_SECONDS, wait_seconds
from maang_cli.warehouses.databricks.errors import AGAIN, Conflict, Refusal, Transient, cancelled, starting, translated
from maang_cli.warehouses.databricks.settings import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from maang_cli.warehouses.databricks.login import Login

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
        self._login: Login | None = None
        """Who logs in, if there is no token. It is kept for all sessions, as are its tokens."""
        self._answered = False
        """Whether this session has answered a statement. A session that never has belongs to a warehouse that is starting."""
        self._cursor: Any = None
        """Of the statement that is running, or may be: its last poll got no answer."""
        self._failing_since: dict[float, float] = {}
        """When the running statement first failed, by the retry budget of the failure."""
        self.rows_changed: int | None = None
        """How many rows the last statement changed; None if the warehouse does not say."""
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
        self._failing_since.clear()
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
                hint=exc.hint,
            ) from exc
        except Refusal as exc:
            if isinstance(exc, expect):
                raise
            raise self._located(exc.error) from exc
        except MaangError as exc:
            raise self._located(exc) from exc
        finally:
            self._release()
        log.debug("%.2f s, %d rows: %s", time.monotonic() - started, rows.num_rows, " ".join(statement.split())[:100])
        return rows

    def _once(self, statement: str, upload: bytes | None, expect: tuple[type[Refusal], ...]) -> pa.Table:
        may_run = False
        try:
            return self._answer(statement, upload)
        except Exception as exc:
            failure = exc if isinstance(exc, MaangError | Transient) else self._judged(exc)
            if isinstance(failure, Conflict) and Conflict not in expect:
                failure = Transient(str(failure))
            if isinstance(failure, Transient):
                may_run = upload is None and not failure.session_lost and self._has_no_answer(exc)
                if failure.session_lost:
                    self.close()
            if failure is exc:
                raise
            raise failure from exc
        finally:
            if not may_run:
                self._release()

    def _answer(self, statement: str, upload: bytes | None) -> pa.Table:
        """Send the statement, or go on waiting for it, if it may still run."""
        if self._open is None:
            self._open = self._connect()
        sent = self._cursor is not None
        cursor = self._cursor = self._cursor or self._open.cursor()
        try:
            if sent:
                self._wait_for_the_end()
            else:
                cursor.execute(statement, input_stream=None if upload is None else io.BytesIO(upload))
                if cursor.active_result_set.status is not CommandState.SUCCEEDED:  # it looks like an empty result
                    raise cancelled()
            rows = cursor.fetchall_arrow()
            self.rows_changed = cursor.rowcount if cursor.rowcount >= 0 else None
            self._answered = True
            return rows
        finally:
            if cursor is self._cancelled:  # whatever the answer is: it may look like an empty result
                raise WarehouseFailed("the statement was cancelled", hint=AGAIN)

    def _wait_for_the_end(self) -> None:
        """Wait for a statement that the warehouse has accepted. It is not sent again: it may still run, or be done."""
        while (state := self._cursor.get_query_state()) in (CommandState.PENDING, CommandState.RUNNING):
            time.sleep(FIRST_WAIT_SECONDS)
        if state is not CommandState.SUCCEEDED:
            raise cancelled()
        self._cursor.get_async_execution_result()

    def _has_no_answer(self, exc: Exception) -> bool:
        """Whether the warehouse has accepted the statement, and then given no answer about it."""
        unanswered = isinstance(exc, databricks_sql.exc.RequestError | urllib3.exceptions.HTTPError | OSError)
        return unanswered and self._is_accepted() and self._cursor.active_result_set is None

    def _is_accepted(self) -> bool:
        return self._cursor is not None and self._cursor.active_command_id is not None

    def _judged(self, exc: Exception) -> Exception:
        """What the connector raised, as a Transient, a Refusal or a MaangError."""
        if self._login is not None and (failed := self._login.failure) is not None:
            return failed
        failure = translated(exc)
        if isinstance(failure, Transient):
            if failure.after == 0 and not self._answered:
                return starting("it has closed the session")
            if isinstance(exc, databricks_sql.exc.RequestError) and self._moves_a_file():
                return Transient(
                    f"the volume's storage can't be reached: {failure}",
                    retry_seconds=UNREACHABLE_SECONDS,
                    hint="let this machine reach the cloud storage of MAANG_VOLUME: an upload goes there directly",
                )
        if not isinstance(failure, Refusal) and self._is_accepted() and not self._has_no_answer(exc) and self._was_cancelled():
            return cancelled()
        return failure

    def _moves_a_file(self) -> bool:
        """Whether the statement has been answered, and the connector is moving a file to or from a volume."""
        answered = self._cursor is not None and self._cursor.active_result_set
        return bool(answered) and self._cursor.active_result_set.is_staging_operation

    def _was_cancelled(self) -> bool:
        """Whether the statement that gave no usable answer was cancelled: an answer without a result may be anything."""
        with contextlib.suppress(Exception):
            return self._cursor.get_query_state() in (CommandState.CANCELLED, CommandState.FAILED)
        return False

    def _release(self) -> None:
        """Let the last statement go. Its answer is complete, so a failure to say so does not matter."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            with contextlib.suppress(Exception):
                cursor.close()

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
            # These take half a second to import, and are rarely needed.
            from maang_cli.warehouses.databricks.login import Login  # noqa: PLC0415

            self._login = login = self._login or Login(workspace)
            login.headers()  # a failure is reported as it is here, and as a broken connection by the connector
            options["credentials_provider"] = lambda: login.headers
        self._options = options
        self._answered = False
        return databricks_sql.connect(**options)

    def _budget(self, failure: BaseException | None) -> float:
        """How many seconds of retries this failure gets, at most MAANG_WAREHOUSE_WAIT."""
        own = failure.retry_seconds if isinstance(failure, Transient) else None
        most = self._workspace.wait_seconds
        return most if own is None else min(own, most)

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        budget, now = self._budget(state.outcome.exception() if state.outcome else None), time.monotonic()
        return now - self._failing_since.setdefault(budget, now) + state.upcoming_sleep >= budget

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
        """Close the session, if there is one. If that fails, or it is closed already, that does not matter: its work is done."""
        self._release()
        opened, self._open = self._open, None
        if opened is not None:
            with contextlib.suppress(Exception):
                opened.close()
            opened.session.is_open = False  # otherwise the connector tries again when it forgets it
