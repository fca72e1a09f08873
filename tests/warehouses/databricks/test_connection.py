"""What can go wrong between maang and a SQL warehouse: a retry heals it, or maang exits with 2 or 4 and prints a hint."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import jwt
import pytest

from maang_cli.errors import MaangError, WarehouseFailed
from maang_cli.retries import FAILED_STATEMENT_SECONDS, UNREACHABLE_SECONDS, WAREHOUSE_START_SECONDS
from maang_cli.warehouses.databricks import settings as databricks_settings
from maang_cli.warehouses.databricks.connection import Connection
from tests import settings
from tests.certificates import server_context, write_certificate
from tests.conftest import Maang
from tests.warehouses.databricks.conftest import WRONG_SECRET, Init
from tests.warehouses.databricks.server import (
    CLIENT_ID,
    CLIENT_SECRET,
    HTTP_PATH,
    OIDC_TOKEN,
    POLL_SECONDS,
    TOKEN,
    Fault,
    HttpAnswer,
    NoEngine,
    StandIn,
    wait_until,
)

REFUSED = "connection refused; gave up after"


def test_an_administrator_finds_the_statements(server: StandIn, init: Init) -> None:
    assert init().code == 0
    (session,) = server.sessions.values()
    assert "maang/0.1.0" in session.user_agent
    assert session.configuration["QUERY_TAGS"] == "application:maang,command:init-tables"
    assert not session.open
    assert set(server.paths) == {HTTP_PATH}  # no telemetry, no feature flags


# Mistakes that waiting can't fix


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (("DATABRICKS_TOKEN", WRONG_SECRET), "check DATABRICKS_TOKEN"),
        (("DATABRICKS_HTTP_PATH", "/sql/1.0/warehouses/none"), "check DATABRICKS_HOST and DATABRICKS_HTTP_PATH"),
    ],
)
def test_wrong_setting_exits_2_immediately(
    wrong: tuple[str, str], hint: str, server: StandIn, init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*wrong)
    done = init()
    assert done.code == 2
    assert f"hint: {hint}" in done.err
    assert "trying again" not in done.err
    assert len(server.paths) == 1


def test_host_that_redirects_exits_2(server: StandIn, init: Init) -> None:
    server.script.append(HttpAnswer(303, headers={"Location": "/login.html"}))
    done = init()
    assert done.code == 2
    assert "the host answered with a redirect; it is not a Databricks workspace" in done.err
    assert "hint: check DATABRICKS_HOST" in done.err


def test_warehouse_with_another_protocol_exits_2(server: StandIn, maang_process: Maang) -> None:
    server.refuse_sessions = "KP001"
    done = maang_process("init-tables")  # in its own process, because the connector remembers such a warehouse
    assert done.code == 2
    assert "hint: set DATABRICKS_HTTP_PATH to a serverless or pro SQL warehouse" in done.err


def test_missing_credentials_open_no_browser(server: StandIn, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    done = init()
    assert done.code == 2
    assert "set DATABRICKS_TOKEN, or DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET" in done.err
    assert server.paths == []


def test_missing_extra_prints_how_to_install_it(home: Path) -> None:
    blocked = (
        "import sys; sys.modules['databricks'] = None; from maang_cli.cli.process import main; sys.exit(main(['init-tables']))"
    )
    variables = {"DATABRICKS_HOST": "x.cloud.databricks.com", "DATABRICKS_HTTP_PATH": "/x", "DATABRICKS_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", blocked], env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "error: the driver for Databricks is not installed: no module databricks" in done.stderr
    assert "hint: install it from a clone of maang: uv run --extra databricks maang .., or pip install" in done.stderr


# Retries


@pytest.fixture
def connect() -> Callable[[], closing[Connection]]:
    """Makes a connection from the present settings; its `with` closes it."""
    return lambda: closing(Connection(databricks_settings.load(settings.load()), {}))


@pytest.fixture
def default_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """MAANG_WAREHOUSE_WAIT is not set."""
    monkeypatch.delenv("MAANG_WAREHOUSE_WAIT")


@pytest.mark.usefixtures("default_wait")
@pytest.mark.parametrize(
    ("answer", "reason", "budget"),
    [
        (HttpAnswer(503), "starting, or at capacity (HTTP 503)", WAREHOUSE_START_SECONDS),
        (HttpAnswer(429), "rate-limited (HTTP 429)", WAREHOUSE_START_SECONDS),
        (HttpAnswer(502), "HTTP 502", UNREACHABLE_SECONDS),
        (HttpAnswer(408), "HTTP 408", UNREACHABLE_SECONDS),
    ],
)
def test_http_error_is_retried_within_its_budget(
    answer: HttpAnswer, reason: str, budget: str | int, server: StandIn, init: Init
) -> None:
    server.script.append(answer)
    done = init()
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "trying again" in line)
    assert f": {reason}; trying again in" in line
    assert line.endswith(f" s, for up to {budget} s")


@pytest.mark.usefixtures("default_wait")
def test_failed_statement_is_retried_within_its_budget(server: StandIn, init: Init) -> None:
    fault = Fault(error="[INTERNAL_ERROR] The node was lost. SQLSTATE: XX000")
    server.fault = lambda statement: fault if len(server.statements) == 1 else None
    done = init()
    assert done.code == 0, done.err
    assert "The node was lost. SQLSTATE: XX000; trying again in" in done.err
    assert done.err.count(f" s, for up to {FAILED_STATEMENT_SECONDS} s\n") == 1


def test_each_wait_for_a_starting_warehouse_is_printed(server: StandIn, init: Init) -> None:
    server.script.extend([HttpAnswer(503), HttpAnswer(503)])
    done = init()
    assert done.code == 0
    assert done.err.count("starting, or at capacity (HTTP 503); trying again in") == 2


@pytest.mark.parametrize("status", [502, 503])
def test_warehouse_wait_limits_every_budget(status: int, server: StandIn, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "2.5")
    server.script.extend([HttpAnswer(status)] * 50)
    started = time.monotonic()
    done = init()
    assert done.code == 4
    assert f"HTTP {status}" in done.err
    assert "gave up after" in done.err
    assert "MAANG_WAREHOUSE_WAIT" in done.err
    assert len(server.paths) >= 2
    assert time.monotonic() - started < UNREACHABLE_SECONDS


def test_retry_after_is_honoured(server: StandIn, init: Init) -> None:
    server.script.append(HttpAnswer(429, headers={"Retry-After": "3"}))
    started = time.monotonic()
    done = init()
    assert done.code == 0
    assert "rate-limited (HTTP 429); trying again in 3 s" in done.err
    assert time.monotonic() - started > 3


def test_unreachable_host_exits_4(server: StandIn, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "2")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{unused.getsockname()[1]}")
        done = init()
    assert done.code == 4
    assert REFUSED in done.err
    assert server.paths == []


def test_expired_session_is_opened_again(server: StandIn, init: Init) -> None:
    server.fault = lambda statement: Fault(expired=True) if len(server.statements) == 2 else None
    done = init()
    assert done.code == 0, done.err
    assert "the session has expired; trying again in 0 s" in done.err
    assert [session.open for session in server.sessions.values()] == [False, False]


STARTS = {
    "session": "requirement failed: Session handle: SessionHandle [4f2a] has not been initialized or had already closed.",
    "disk": "java.io.IOException: Couldn't create directory /local_disk0/tmp/4f2a_resources",
    "state": "The warehouse 0123456789abcdef is not ready to accept connections (current state: STARTING)",
}


@pytest.mark.parametrize("text", STARTS.values(), ids=STARTS)
def test_warehouse_that_is_starting_is_waited_for_in_one_session_at_a_time(text: str, server: StandIn, init: Init) -> None:
    opened: list[int] = []

    def start(statement: str) -> Fault | None:
        opened.append(sum(session.open for session in server.sessions.values()))
        return Fault(error=text, refused=True) if len(opened) <= 2 else None

    server.fault = start
    done = init()
    assert done.code == 0, done.err
    assert done.err.count(": starting, or at capacity (") == 2
    assert done.err.count("trying again in 0 s") == 0
    assert set(opened) == {1}
    assert len(server.sessions) == 3


def test_warehouse_that_never_starts_is_given_up(server: StandIn, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "2.5")
    server.fault = lambda statement: Fault(error=STARTS["session"], refused=True)
    done = init()
    assert done.code == 4
    assert "starting, or at capacity (it has closed the session); gave up after" in done.err
    assert len(server.sessions) <= 3
    assert not any(session.open for session in server.sessions.values())


def test_serverless_without_capacity_is_waited_for(server: StandIn, init: Init) -> None:
    reason = {"x-databricks-reason-phrase": "BAD_REQUEST: Cannot create the resource, please try again later"}
    server.script.append(HttpAnswer(400, headers=reason))
    done = init()
    assert done.code == 0, done.err
    assert "starting, or at capacity (HTTP 400, BAD_REQUEST: Cannot create the resource, please try again later)" in done.err


def test_warehouse_that_is_stopped_in_mid_run_is_waited_for(server: StandIn, init: Init) -> None:
    stopped = Fault(error="The SQL warehouse 0123456789abcdef was stopped")
    server.fault = lambda statement: stopped if len(server.statements) == 2 else None
    done = init()
    assert done.code == 0, done.err
    assert "starting, or at capacity (The SQL warehouse 0123456789abcdef was stopped); trying again in" in done.err
    assert [session.open for session in server.sessions.values()] == [False, False]


@pytest.mark.parametrize("status", [500, 503])
def test_failed_poll_is_repeated_and_the_statement_is_not(
    status: int, server: StandIn, connect: Callable[[], closing[Connection]]
) -> None:
    server.fault = lambda statement: Fault(polled=True)
    server.catalog.rows = {"SELECT": [{"number": 7}]}  # type: ignore[attr-defined]
    server.before = lambda statement: server.script.append(HttpAnswer(status))
    with connect() as connection:
        assert connection.run("SELECT 7").to_pylist() == [{"number": 7}]
    assert server.statements == ["SELECT 7"]
    assert server.script == deque()


def test_statement_that_the_warehouse_has_forgotten_is_sent_again(
    server: StandIn, connect: Callable[[], closing[Connection]]
) -> None:
    server.fault = lambda statement: Fault(polled=True) if len(server.statements) == 1 else None

    server.forgets = True
    with connect() as connection:
        connection.run("SELECT 7")
    assert server.statements == ["SELECT 7", "SELECT 7"]


# Statements that are cancelled in the warehouse


@pytest.mark.parametrize(("polled", "result"), [(False, "direct"), *itertools.product((False, True), ("empty", "none", "error"))])
@pytest.mark.parametrize("state", ["CANCELED_STATE", "TIMEDOUT_STATE"])
def test_statement_that_is_cancelled_in_the_warehouse_fails_and_is_not_sent_again(
    state: str, polled: bool, result: str, server: StandIn, connect: Callable[[], closing[Connection]]
) -> None:
    server.fault = lambda statement: Fault(ends=state, polled=polled, result=result)
    with connect() as connection, pytest.raises(WarehouseFailed, match="the statement was cancelled in the warehouse") as failed:
        connection.run("MERGE INTO t")
    assert failed.value.exit_code == 4
    assert "query history" in failed.value.hint
    assert server.statements == ["MERGE INTO t"]


@pytest.mark.parametrize(
    "text",
    ["[OPERATION_CANCELED] Operation has been canceled. SQLSTATE: HY008", "Query was cancelled by user admin@example.com"],
)
def test_statement_that_is_cancelled_with_a_message_is_not_sent_again(
    text: str, server: StandIn, connect: Callable[[], closing[Connection]]
) -> None:
    server.fault = lambda statement: Fault(error=text)
    with connect() as connection, pytest.raises(WarehouseFailed, match="the statement was cancelled in the warehouse: "):
        connection.run("MERGE INTO t")
    assert server.statements == ["MERGE INTO t"]


def test_answer_that_the_connector_can_not_read_is_an_error_without_a_traceback(server: StandIn, init: Init) -> None:
    server.fault = lambda statement: Fault(ends="FINISHED_STATE", result="none")
    done = init()
    assert done.code == 4
    assert ": the answer can't be used (KeyError: None)" in done.err


# Service principals


def test_service_principal_logs_in_with_oauth(server: StandIn, init: Init, use_service_principal: Callable[[str], None]) -> None:
    use_service_principal(CLIENT_SECRET)
    done = init()
    assert done.code == 0, done.err
    assert server.paths.count("/oidc/v1/token") == 1


def test_wrong_client_secret_exits_2_immediately(
    server: StandIn, init: Init, use_service_principal: Callable[[str], None]
) -> None:
    use_service_principal(WRONG_SECRET)
    done = init()
    assert done.code == 2
    assert "DATABRICKS_CLIENT_SECRET" in done.err
    assert server.paths == ["/oidc/v1/token"]


@pytest.fixture
def jwts(server: StandIn, use_service_principal: Callable[[str], None]) -> list[str]:
    """A service principal whose tokens are JWTs that expire immediately. The server accepts only the last one. Returns all."""
    use_service_principal(CLIENT_SECRET)
    granted: list[str] = []

    def grant() -> dict[str, object]:
        claims = {"iss": "https://127.0.0.1/oidc", "exp": int(time.time()), "jti": str(len(granted))}
        granted.append(jwt.encode(claims, "a key of the stand-in, 32 bytes or more"))
        server.tokens = granted[-1:]
        return {"access_token": granted[-1], "expires_in": 0}

    server.grants = grant
    return granted


def test_jwt_that_expires_in_mid_run_is_renewed(jwts: list[str], server: StandIn, init: Init) -> None:
    done = init()
    assert done.code == 0, done.err
    assert len(set(jwts)) > len(server.statements)
    assert not any(token in done.out + done.err for token in jwts)


@pytest.mark.usefixtures("jwts")
def test_secret_that_is_revoked_in_mid_run_exits_2_immediately(server: StandIn, init: Init) -> None:
    def revoke(statement: str) -> None:
        server.revoked = len(server.statements) == 2

    server.before = revoke
    done = init()
    assert done.code == 2
    assert "no OAuth token: the workspace answered HTTP 401" in done.err
    assert "hint: check DATABRICKS_HOST, DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET" in done.err
    assert "trying again" not in done.err
    assert len(server.statements) == 2


# Logins that Databricks' own settings name


@pytest.fixture
def no_token(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")


@pytest.mark.usefixtures("no_token")
def test_profile_logs_in(init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "databrickscfg").write_text(f"[etl]\ntoken = {TOKEN}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "etl")
    done = init()
    assert done.code == 0, done.err


@pytest.mark.usefixtures("no_token")
def test_token_of_another_issuer_logs_in(server: StandIn, init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("DATABRICKS_OIDC_TOKEN", OIDC_TOKEN)
    done = init()
    assert done.code == 0, done.err
    assert server.paths.count("/oidc/v1/token") == 1


@pytest.mark.usefixtures("no_token")
def test_cli_login_is_used(init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = {"access_token": TOKEN, "token_type": "Bearer", "expiry": "2099-01-01T00:00:00Z"}
    cli = tmp_path / "databricks"
    cli.write_text(f"#!/bin/sh\nprintf '%s' '{json.dumps(token)}'\n")
    cli.chmod(0o755)
    monkeypatch.setenv("DATABRICKS_CLI_PATH", str(cli))
    done = init()
    assert done.code == 0, done.err


@pytest.mark.usefixtures("no_token")
def test_profile_that_does_not_exist_exits_2(init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "databrickscfg").write_text(f"[etl]\ntoken = {TOKEN}\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "databrickscfg"))
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "prod")
    done = init()
    assert done.code == 2
    assert "has no prod profile configured" in done.err


def test_service_principal_retries_an_unreachable_host(
    server: StandIn, init: Init, use_service_principal: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_service_principal(CLIENT_SECRET)
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "2")
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    done = init()
    assert done.code == 4
    assert REFUSED in done.err
    assert server.paths == []


# Certificates


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts yet, followed by its key."""
    return write_certificate(tmp_path / "stand-in.pem")


@pytest.fixture
def tls(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SQL warehouse with this certificate; the settings point to it."""
    with StandIn(NoEngine(), tmp_path / "tls", server_context(certificate)) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("service_principal", [False, True])
def test_only_a_trusted_certificate_is_accepted(
    certificate: Path,
    init: Init,
    use_service_principal: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    service_principal: bool,
) -> None:
    if service_principal:
        use_service_principal(CLIENT_SECRET)
    done = init()
    assert done.code == 2
    assert "the certificate can't be verified: " in done.err
    assert "trying again" not in done.err
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    done = init()
    assert done.code == 0, done.err


# Cancelling


class Statement(threading.Thread):
    """Runs one statement in the background, and keeps its error."""

    def __init__(self, connection: Connection, statement: str = "SELECT 1") -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._statement = statement
        self.error: MaangError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._connection.run(self._statement)
        except MaangError as exc:
            self.error = exc

    def assert_cancelled(self) -> None:
        self.join(POLL_SECONDS)
        assert isinstance(self.error, WarehouseFailed)
        assert self.error.message.endswith(": the statement was cancelled")


@pytest.mark.parametrize("service_principal", [False, True])
def test_cancel_stops_a_running_statement_before_its_poll_ends(
    server: StandIn,
    connect: Callable[[], closing[Connection]],
    use_service_principal: Callable[[str], None],
    *,
    service_principal: bool,
) -> None:
    if service_principal:
        use_service_principal(CLIENT_SECRET)
    server.fault = lambda statement: Fault(slow=True)
    with connect() as connection:
        statement = Statement(connection)
        wait_until(lambda: any(running.polled.is_set() for running in server.running.values()))
        started = time.monotonic()
        connection.cancel()
        assert time.monotonic() - started < POLL_SECONDS / 2
        assert server.cancelled == ["SELECT 1"]
        statement.assert_cancelled()
    assert server.statements == ["SELECT 1"]
    assert len(server.sessions) == 1
    assert server.paths.count("/oidc/v1/token") == service_principal


def test_cancel_closes_the_session_of_a_statement_without_an_id(
    server: StandIn, connect: Callable[[], closing[Connection]]
) -> None:
    held = threading.Event()
    server.before = lambda statement: wait_until(held.is_set)
    with connect() as connection:
        statement = Statement(connection)
        wait_until(lambda: bool(server.statements))
        connection.cancel()
        assert [session.open for session in server.sessions.values()] == [False]
        held.set()
        statement.assert_cancelled()
    assert server.statements == ["SELECT 1"]  # it is not sent again in a new session


def test_cancel_without_a_running_statement_sends_nothing(server: StandIn, connect: Callable[[], closing[Connection]]) -> None:
    with connect() as connection:
        connection.cancel()
        assert server.paths == []
        connection.run("SELECT 1")
        before = list(server.paths)
        connection.cancel()
        assert server.paths == before
        connection.run("SELECT 2")
    assert server.statements == ["SELECT 1", "SELECT 2"]
