"""What the connector raises becomes a retry with a budget, an error that exits with 2 or 4, or a refusal for the caller."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
import urllib3
from databricks.sql import exc as driver

from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed
from maang_cli.retries import FAILED_STATEMENT_SECONDS, UNREACHABLE_SECONDS
from maang_cli.warehouses.databricks.errors import (
    GATE,
    AlreadyExists,
    Conflict,
    Denied,
    GateRaised,
    Missing,
    NoHistory,
    NothingSince,
    Refusal,
    Transient,
    Unfit,
    translated,
)
from tests.warehouses.databricks.conftest import Init
from tests.warehouses.databricks.server import TOKEN, Fault, StandIn

POOL = urllib3.HTTPConnectionPool("127.0.0.1")


def http(code: int, text: str = "", delay: float | None = None) -> driver.RequestError:
    """An HTTP status, as the connector reports it."""
    context = {"http-code": code, "error-message": text, "bounded-retry-delay": delay}
    return driver.RequestError("Error during request to server", context)


def unreachable(reason: Exception) -> urllib3.exceptions.MaxRetryError:
    return urllib3.exceptions.MaxRetryError(POOL, "/sql", reason)


@pytest.mark.parametrize(
    ("raised", "text", "retry_seconds"),
    [
        (http(503), "starting, or at capacity (HTTP 503)", None),
        (http(503, ": no room"), "starting, or at capacity (HTTP 503, no room)", None),
        (http(429), "rate-limited (HTTP 429)", None),
        (http(408), "HTTP 408", UNREACHABLE_SECONDS),
        (http(500), "HTTP 500", UNREACHABLE_SECONDS),
        (http(200), "the connection broke off", UNREACHABLE_SECONDS),
        (driver.RequestError("no context"), "the connection broke off", UNREACHABLE_SECONDS),
        (
            unreachable(urllib3.exceptions.NameResolutionError("x.example", POOL, OSError())),  # type: ignore[arg-type]
            "the host's name can't be resolved",
            UNREACHABLE_SECONDS,
        ),
        (
            unreachable(urllib3.exceptions.NewConnectionError(POOL, "Connection refused")),  # type: ignore[arg-type]
            "connection refused",
            UNREACHABLE_SECONDS,
        ),
        (
            unreachable(urllib3.exceptions.NewConnectionError(POOL, "Network is unreachable")),  # type: ignore[arg-type]
            "no connection",
            UNREACHABLE_SECONDS,
        ),
        (unreachable(urllib3.exceptions.ConnectTimeoutError()), "no connection in time", UNREACHABLE_SECONDS),
        (urllib3.exceptions.ReadTimeoutError(POOL, "/sql", "timed out"), "no answer in time", UNREACHABLE_SECONDS),
        (urllib3.exceptions.ProtocolError("Connection aborted."), "the connection broke off", UNREACHABLE_SECONDS),
        (
            unreachable(urllib3.exceptions.SSLError(ssl.SSLError(1, "[SSL] wrong version number (_ssl.c:1000)"))),
            "TLS failed: [SSL] wrong version number",
            UNREACHABLE_SECONDS,
        ),
        (
            driver.OperationalError("Staging operation over HTTP was unsuccessful: 503-busy"),
            "the volume's storage answered HTTP 503",
            UNREACHABLE_SECONDS,
        ),
        (ConnectionResetError("reset by peer"), "reset by peer", UNREACHABLE_SECONDS),
        (TimeoutError(), "TimeoutError", UNREACHABLE_SECONDS),
        (
            driver.ServerOperationError("[INTERNAL_ERROR] The node was lost. SQLSTATE: XX000"),
            "[INTERNAL_ERROR] The node was lost. SQLSTATE: XX000",
            FAILED_STATEMENT_SECONDS,
        ),
        (
            driver.ServerOperationError("[TEMPORARILY_BUSY] Later.\n  SQLSTATE: 57014"),
            "[TEMPORARILY_BUSY] Later. SQLSTATE: 57014",
            FAILED_STATEMENT_SECONDS,
        ),
        (
            driver.ServerOperationError("[UNITY_CATALOG_SERVICE_UNAVAILABLE] Later. SQLSTATE: 57000"),
            "[UNITY_CATALOG_SERVICE_UNAVAILABLE] Later. SQLSTATE: 57000",
            FAILED_STATEMENT_SECONDS,
        ),
        (
            driver.ServerOperationError("[DELTA_FILE_NOT_FOUND_DETAILED] It was replaced. SQLSTATE: 42K03"),
            "[DELTA_FILE_NOT_FOUND_DETAILED] It was replaced. SQLSTATE: 42K03",
            FAILED_STATEMENT_SECONDS,
        ),
    ],
)
def test_failure_that_may_heal_has_a_budget(raised: Exception, text: str, retry_seconds: float | None) -> None:
    failure = translated(raised)
    assert isinstance(failure, Transient)
    assert str(failure) == text
    assert failure.retry_seconds == retry_seconds
    assert failure.after is None
    assert not failure.session_lost


@pytest.mark.parametrize(("delay", "after"), [(5, 5.0), (2.5, 2.5), (1, None), (None, None)])
def test_requested_delay_is_kept_if_it_exceeds_the_back_off(delay: float | None, after: float | None) -> None:
    failure = translated(http(429, delay=delay))
    assert isinstance(failure, Transient)
    assert failure.after == after


@pytest.mark.parametrize(
    "raised",
    [
        driver.DatabaseError("Invalid SessionHandle: SessionHandle [4f2a]"),
        driver.DatabaseError("Command 5c1b unexpectedly closed server side"),
        driver.InterfaceError("Attempting operation on closed cursor"),
    ],
)
def test_closed_session_is_opened_again_immediately(raised: Exception) -> None:
    failure = translated(raised)
    assert isinstance(failure, Transient)
    assert (str(failure), failure.after, failure.session_lost) == ("the session has expired", 0, True)


STARTING = [
    "requirement failed: Session handle: SessionHandle [4f2a] has not been initialized or had already closed.",
    "java.io.IOException: Couldn't create directory /local_disk0/tmp/4f2a_resources",
    "The warehouse 0123456789abcdef is not ready to accept connections (current state: STARTING)",
    "SQL warehouse 0123456789abcdef was stopped",
    "BAD_REQUEST: Cannot create the resource, please try again later",
]
"""What users have reported of warehouses that start or stop."""


@pytest.mark.parametrize("text", STARTING[1:])
@pytest.mark.parametrize("kind", [driver.ServerOperationError, driver.DatabaseError, lambda text: http(400, text)])
def test_starting_warehouse_is_waited_for_with_a_new_session(text: str, kind: Callable[[str], Exception]) -> None:
    failure = translated(kind(text))
    assert isinstance(failure, Transient)
    assert str(failure).startswith("starting, or at capacity (")
    assert (failure.retry_seconds, failure.after, failure.session_lost) == (None, None, True)


def test_try_again_later_at_the_end_of_another_error_is_not_a_start() -> None:
    failure = translated(driver.ServerOperationError("[RESOURCE_EXHAUSTED] Too many; try again later SQLSTATE: 54000"))
    assert isinstance(failure, Refusal)


@pytest.mark.parametrize("raised", [KeyError(None), AssertionError(), ValueError("Unknown command state: 9")])
def test_failure_inside_the_connector_is_an_unusable_answer(raised: Exception) -> None:
    failure = translated(raised)
    assert isinstance(failure, WarehouseFailed)
    assert failure.message.startswith(f"the answer can't be used ({type(raised).__name__}: ")


def test_failed_statement_without_a_message_is_reported() -> None:
    failure = translated(driver.ServerOperationError(None))
    assert isinstance(failure, Refusal)
    assert failure.error.message == "the statement failed without a message"


@pytest.mark.parametrize(
    ("raised", "text", "hint"),
    [
        (http(401, ": Invalid access token."), "the host answered HTTP 401, Invalid access token.", "check DATABRICKS_TOKEN"),
        (http(403), "the host answered HTTP 403", "check DATABRICKS_TOKEN (or the service principal), and that it may use the"),
        (http(404), "the host answered HTTP 404", "check DATABRICKS_HOST and DATABRICKS_HTTP_PATH"),
        (
            unreachable(urllib3.exceptions.ResponseError("too many redirects")),
            "the host answered with a redirect; it is not a Databricks workspace",
            "check DATABRICKS_HOST",
        ),
        (
            unreachable(urllib3.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED] certificate verify failed: expired (_ssl.c:1)")),
            "the certificate can't be verified: expired",
            "check DATABRICKS_HOST; behind a proxy of your own, set SSL_CERT_FILE",
        ),
        (
            ImportError("databricks_sql_kernel"),
            "the host does not speak the protocol of SQL warehouses",
            "set DATABRICKS_HTTP_PATH to a serverless or pro SQL warehouse",
        ),
        (
            driver.OperationalError("Staging operation over HTTP was unsuccessful: 403-denied"),
            "the volume's storage answered HTTP 403",
            "check that MAANG_VOLUME exists",
        ),
    ],
)
def test_mistake_that_waiting_cannot_fix_is_denied(raised: Exception, text: str, hint: str) -> None:
    failure = translated(raised)
    assert isinstance(failure, WarehouseDenied)
    assert failure.message == text
    assert failure.hint.startswith(hint)


REFUSED = [
    ("[TABLE_OR_VIEW_NOT_FOUND] It cannot be found. SQLSTATE: 42P01", Missing, WarehouseFailed),
    ("[SCHEMA_NOT_FOUND] It cannot be found. SQLSTATE: 42704", Missing, WarehouseFailed),
    ("[TABLE_OR_VIEW_ALREADY_EXISTS] It exists. SQLSTATE: 42P07", AlreadyExists, WarehouseFailed),
    ("[DELTA_CONCURRENT_APPEND] Files were added. SQLSTATE: 2D521", Conflict, WarehouseFailed),
    ("[SERIALIZATION] It failed. SQLSTATE: 40001", Conflict, WarehouseFailed),
    ("[DELTA_TIMESTAMP_EARLIER_THAN_COMMIT_RETENTION] Too early. SQLSTATE: 42816", NoHistory, WarehouseDenied),
    (
        "[DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION] 7 days. SQLSTATE: 0AKDC",
        NoHistory,
        WarehouseDenied,
    ),
    ("[DELTA_TIMESTAMP_GREATER_THAN_COMMIT] Too late. SQLSTATE: 42816", NothingSince, WarehouseDenied),
    ("[OPERATION_CANCELED] Operation has been canceled. SQLSTATE: HY008", Refusal, WarehouseFailed),
    ("[QUERY_EXECUTION_TIMEOUT_EXCEEDED] Timeout. SQLSTATE: 57KD0", Refusal, WarehouseFailed),
    ("[CATALOG_QUOTA_EXCEEDED] Too many. SQLSTATE: 54000", Refusal, WarehouseFailed),
    ("[UNRESOLVED_COLUMN.WITH_SUGGESTION] No such column. SQLSTATE: 42703", Unfit, WarehouseDenied),
    ("[CAST_OVERFLOW] It does not fit. SQLSTATE: 22003", Unfit, WarehouseDenied),
    (f"[USER_RAISED_EXCEPTION] {GATE} SQLSTATE: P0001", GateRaised, WarehouseFailed),
    ("[INSUFFICIENT_PERMISSIONS] No USE SCHEMA. SQLSTATE: 42501", Denied, WarehouseDenied),
    ("PERMISSION_DENIED: No USE CATALOG.", Denied, WarehouseDenied),
    ("PERMISSION_DENIED: Presigned URLs API is not enabled", Refusal, WarehouseDenied),
    ("[NO_SUCH_CATALOG_EXCEPTION] It was not found. SQLSTATE: 42704", Refusal, WarehouseDenied),
    ("[UC_QUOTA_EXCEEDED] The metastore is full. SQLSTATE: 53000", Refusal, WarehouseFailed),
    ("[SOMETHING_NEW] Unknown.", Refusal, WarehouseFailed),
]


@pytest.mark.parametrize("wrapper", [driver.ServerOperationError, driver.DatabaseError])
@pytest.mark.parametrize(("text", "kind", "error"), REFUSED)
def test_refused_statement_is_classified_by_condition_and_sqlstate(
    text: str, kind: type[Refusal], error: type[MaangError], wrapper: type[driver.Error]
) -> None:
    if wrapper is driver.DatabaseError and "SQLSTATE" not in text:
        text += " SQLSTATE: HY000"  # without it, the connector itself may have raised a DatabaseError
    failure = translated(wrapper(text))
    assert type(failure) is kind
    assert isinstance(failure, Refusal)
    assert type(failure.error) is error
    assert failure.error.hint


def test_long_error_text_is_cut() -> None:
    failure = translated(driver.ServerOperationError("[SOMETHING_NEW] " + "x" * 1000))
    assert isinstance(failure, Refusal)
    assert len(failure.error.message) == 303
    assert failure.error.message.endswith("x...")


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("[INSUFFICIENT_PERMISSIONS] User does not have USE SCHEMA on Schema 'main.maang'. SQLSTATE: 42501", 2, "ask an admin"),
        ("PERMISSION_DENIED: User does not have USE CATALOG on Catalog 'main'.", 2, "ask an administrator"),
        ("[NO_SUCH_CATALOG_EXCEPTION] Catalog 'mian' was not found. SQLSTATE: 42704", 2, "set --schema or MAANG_SCHEMA"),
        ("[RESOURCE_EXHAUSTED] Too many tables in the schema. SQLSTATE: 54000", 4, "ask an administrator to raise the quota"),
        ("[SOMETHING_NEW] Unheard of.", 4, "run the same command again"),
        (
            f"[SOMETHING_ODD] With the token {TOKEN} in it. SQLSTATE: 42000",
            2,
            "see the statement in the warehouse's query history",
        ),
    ],
)
def test_refused_statement_prints_the_text_and_a_hint(text: str, code: int, hint: str, server: StandIn, init: Init) -> None:
    server.fault = lambda statement: Fault(error=text)
    done = init()
    assert done.code == code
    assert f"hint: {hint}" in done.err
    assert text[:20] in done.err
