"""What can go wrong between maang and a SQL warehouse: each case heals within its budget, or ends in 2 or 4 with a hint."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import Maang, Outcome
from tests.databricks.server import CLIENT_ID, CLIENT_SECRET, HTTP_PATH, OAUTH_TOKEN, TOKEN, Fault, HttpAnswer, StandIn
from tests.databricks.spark import Spark


@pytest.fixture
def init(maang: Maang) -> Callable[[], Outcome]:
    """`maang init-tables`, which must show no secret, whatever happens."""

    def run() -> Outcome:
        done = maang("init-tables", "--verbose")
        for secret in (TOKEN, CLIENT_SECRET, OAUTH_TOKEN, "wrong-secret"):
            assert secret not in done.out + done.err
        if done.code:
            assert done.err.count("hint: ") == 1
            assert "Traceback" not in done.err
        return done

    return run


@pytest.fixture
def use_service_principal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(secret: str) -> None:
        monkeypatch.delenv("DATABRICKS_TOKEN")
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT_ID)
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", secret)

    return use


def refused(databricks: StandIn, text: str, begins: str = "") -> None:
    databricks.fault = lambda statement: Fault(says=text) if statement.startswith(begins) else None


def test_an_administrator_finds_the_statements(databricks: StandIn, init: Callable[[], Outcome]) -> None:
    assert init().code == 0
    (session,) = databricks.sessions.values()
    assert "maang/0.1.0" in session.user_agent
    assert session.configuration["QUERY_TAGS"] == "application:maang,command:init-tables"
    assert set(databricks.paths) == {HTTP_PATH}  # nothing else is asked: no telemetry, no feature flags


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (("DATABRICKS_TOKEN", "wrong-secret"), "check DATABRICKS_TOKEN"),
        (("DATABRICKS_HTTP_PATH", "/sql/1.0/warehouses/none"), "check DATABRICKS_HOST and DATABRICKS_HTTP_PATH"),
    ],
)
def test_a_wrong_setting_ends_at_once(
    wrong: tuple[str, str], hint: str, databricks: StandIn, init: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*wrong)
    done = init()
    assert done.code == 2
    assert f"hint: {hint}" in done.err
    assert "trying again" not in done.err
    assert len(databricks.paths) == 1


def test_a_host_that_redirects_is_no_warehouse(databricks: StandIn, init: Callable[[], Outcome]) -> None:
    databricks.script.append(HttpAnswer(303, headers={"Location": "/login.html"}))
    done = init()
    assert done.code == 2
    assert "hint: check DATABRICKS_HOST" in done.err


def test_a_warehouse_of_another_protocol_is_no_use(databricks: StandIn, maang_process: Maang) -> None:
    databricks.refuse_sessions = "KP001"
    done = maang_process("init-tables")  # in a process of its own: the connector remembers such a warehouse
    assert done.code == 2
    assert "hint: set DATABRICKS_HTTP_PATH to a serverless or pro SQL warehouse" in done.err


def test_a_host_that_is_not_there_is_given_up(
    databricks: StandIn, init: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "2")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{unused.getsockname()[1]}")
        done = init()
    assert done.code == 4
    assert "connection refused; given up after" in done.err


def test_a_warehouse_that_starts_is_waited_for_and_told_of(databricks: StandIn, init: Callable[[], Outcome]) -> None:
    databricks.script.extend([HttpAnswer(503), HttpAnswer(503)])
    done = init()
    assert done.code == 0
    assert done.err.count("it is starting, or has no room (HTTP 503); trying again in") == 2
    assert "for up to 20 s" in done.err


def test_a_warehouse_that_never_starts_is_given_up(
    databricks: StandIn, init: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "2.5")
    databricks.script.extend([HttpAnswer(503)] * 50)
    done = init()
    assert done.code == 4
    assert "HTTP 503); given up after" in done.err
    assert "MAANG_WAREHOUSE_WAIT" in done.err


def test_the_wait_that_the_warehouse_asks_for_is_kept(databricks: StandIn, init: Callable[[], Outcome]) -> None:
    databricks.script.append(HttpAnswer(429, headers={"Retry-After": "3"}))
    done = init()
    assert done.code == 0
    assert "it asks for patience (HTTP 429); trying again in 3 s" in done.err


def test_a_server_error_in_html_is_tried_again(databricks: StandIn, init: Callable[[], Outcome]) -> None:
    databricks.script.append(HttpAnswer(502))
    done = init()
    assert done.code == 0
    assert "HTTP 502; trying again" in done.err


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("[INSUFFICIENT_PERMISSIONS] User does not have USE SCHEMA on Schema 'main.maang'. SQLSTATE: 42501", 2, "ask an admin"),
        ("PERMISSION_DENIED: User does not have USE CATALOG on Catalog 'main'.", 2, "ask an administrator"),
        ("[NO_SUCH_CATALOG_EXCEPTION] Catalog 'mian' was not found. SQLSTATE: 42704", 2, "give --schema or MAANG_SCHEMA"),
        ("[RESOURCE_EXHAUSTED] Too many tables in the schema. SQLSTATE: 54000", 4, "ask an administrator to raise the quota"),
        ("[SOMETHING_NEW] Unheard of.", 4, "run the same command again"),
        (
            f"[SOMETHING_ODD] With the token {TOKEN} in it. SQLSTATE: 42000",
            2,
            "see the statement in the warehouse's query history",
        ),
    ],
)
def test_a_refused_statement_says_what_to_do(
    text: str, code: int, hint: str, databricks: StandIn, init: Callable[[], Outcome]
) -> None:
    refused(databricks, text)
    done = init()
    assert done.code == code
    assert f"hint: {hint}" in done.err
    assert text[:20] in done.err


def test_without_the_right_to_create_a_schema_one_that_is_there_will_do(databricks: StandIn, init: Callable[[], Outcome]) -> None:
    databricks.catalog.run("CREATE SCHEMA maang")
    refused(databricks, "[INSUFFICIENT_PERMISSIONS] User does not have CREATE SCHEMA. SQLSTATE: 42501", "CREATE SCHEMA")
    assert init().code == 0
    assert init().code == 0


def test_a_service_principal_logs_in_with_oauth(
    databricks: StandIn, init: Callable[[], Outcome], use_service_principal: Callable[[str], None]
) -> None:
    use_service_principal(CLIENT_SECRET)
    done = init()
    assert done.code == 0, done.err
    assert "/oidc/v1/token" in databricks.paths


def test_a_service_principal_with_a_wrong_secret_ends_at_once(
    databricks: StandIn, init: Callable[[], Outcome], use_service_principal: Callable[[str], None]
) -> None:
    use_service_principal("wrong-secret")
    done = init()
    assert done.code == 2
    assert "DATABRICKS_CLIENT_SECRET" in done.err


def test_a_service_principal_waits_for_a_host_that_is_away(
    databricks: StandIn,
    init: Callable[[], Outcome],
    use_service_principal: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_service_principal(CLIENT_SECRET)
    monkeypatch.setenv("MAANG_WAREHOUSE_WAIT", "2")
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    done = init()
    assert done.code == 4
    assert "connection refused; given up after" in done.err


def test_without_credentials_no_browser_is_opened(
    databricks: StandIn, init: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABRICKS_TOKEN")
    done = init()
    assert done.code == 2
    assert "set DATABRICKS_TOKEN, or DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET" in done.err
    assert databricks.paths == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts yet, its key after it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    today = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path / "stand-in.pem"
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return file


@pytest.fixture
def tls(certificate: Path, spark: Spark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SQL warehouse with that certificate, which the settings point to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with StandIn(spark.catalog(), tmp_path / "tls", context) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("tls")
def test_a_certificate_that_nobody_trusts_ends_at_once(init: Callable[[], Outcome]) -> None:
    done = init()
    assert done.code == 2
    assert "the certificate is not to be trusted" in done.err
    assert "trying again" not in done.err


@pytest.mark.usefixtures("tls")
def test_a_service_principal_too_trusts_only_what_it_should(
    certificate: Path,
    init: Callable[[], Outcome],
    use_service_principal: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_service_principal(CLIENT_SECRET)
    done = init()
    assert done.code == 2
    assert "the certificate is not to be trusted" in done.err
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert init().code == 0


@pytest.mark.usefixtures("tls")
def test_a_certificate_authority_of_ones_own_can_be_named(
    certificate: Path, init: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    done = init()
    assert done.code == 0, done.err


def test_without_the_extra_the_install_line_is_shown(home: Path) -> None:
    blocked = "import sys; sys.modules['databricks'] = None; from maang_cli.cli import main; sys.exit(main(['init-tables']))"
    variables = {"DATABRICKS_HOST": "x.cloud.databricks.com", "DATABRICKS_HTTP_PATH": "/x", "DATABRICKS_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", blocked], env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "hint: install it: pip install 'maang-cli[databricks]'" in done.stderr


def test_made_up_bars_are_not_written_to_databricks(databricks: StandIn, maang: Maang) -> None:
    done = maang("run-day", "--date", "2025-10-14", "--source", "sample", "--warehouse", "databricks")
    assert done.code == 2
    assert databricks.paths == []
