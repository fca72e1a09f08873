"""`sources.connections`: proxies and certificates of the environment, with a real proxy and real TLS on loopback."""

from __future__ import annotations

import base64
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from maang_cli.errors import SettingsError, SourceDenied, SourceFailed
from tests.certificates import server_context, write_certificate
from tests.polygon_server import KEY, Answer, PolygonServer
from tests.sources.proxy import Proxy
from tests.sources.test_http import BODY, SHORT, bare_server, client, get, get_with

VENDOR = "https://vendor.test"
"""No name server knows it: only the proxy leads there."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the developer's own proxy and certificates."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For 127.0.0.1 and vendor.test."""
    return write_certificate(tmp_path / "vendor.pem", "vendor.test")


@pytest.fixture
def server(certificate: Path) -> Iterator[PolygonServer]:
    """Answers each request with BODY, over TLS."""
    with PolygonServer(server_context(certificate)) as server:
        server.always = lambda path: Answer(body=BODY)
        yield server


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.fixture
def proxy(server: PolygonServer) -> Iterator[Proxy]:
    with Proxy(server.url) as proxy:
        yield proxy


# --- certificates


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_authority_that_the_environment_names_is_trusted(
    server: PolygonServer, certificate: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    assert get(server.url) == BODY


def test_both_variables_count(server: PolygonServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(write_certificate(tmp_path / "another.pem")))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert get(server.url) == BODY


def test_folder_of_authorities_is_trusted(server: PolygonServer, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["openssl", "rehash", str(certificate.parent)], check=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.parent))
    assert get(server.url) == BODY


def denied(url: str) -> SourceDenied:
    """The error of a GET that no retry can heal, with a budget for many."""
    with closing(client(url)) as opened:
        with pytest.raises(SourceDenied) as caught:
            get_with(opened, url)
        assert opened.calls == 1, "no retries"
    assert caught.value.exit_code == 2
    return caught.value


def test_unknown_authority_is_denied_without_retries(server: PolygonServer) -> None:
    error = denied(server.url)
    assert f"{server.url.removeprefix('https://')}: the certificate can't be verified: self" in error.message
    assert error.hint == "check MAANG_VENDOR_URL; behind a proxy of your own, set SSL_CERT_FILE to its certificate authority"
    assert server.requests == []


@pytest.mark.usefixtures("trusted")
def test_certificate_of_another_host_is_denied_without_retries(server: PolygonServer) -> None:
    error = denied(server.url.replace("127.0.0.1", "localhost"))
    assert "the certificate can't be verified: Hostname mismatch" in error.message
    assert server.requests == []


def test_expired_certificate_is_denied_without_retries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expired = write_certificate(tmp_path / "expired.pem", days=-1)
    monkeypatch.setenv("SSL_CERT_FILE", str(expired))
    with PolygonServer(server_context(expired)) as server:
        assert "the certificate can't be verified: certificate has expired" in denied(server.url).message


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("content", [None, b"", b"not a certificate"], ids=["no file", "empty", "other bytes"])
def test_file_without_certificates_is_refused_by_the_name_of_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, content: bytes | None
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(SettingsError, match=variable) as caught:
        client("https://127.0.0.1")
    assert variable in caught.value.hint


def test_address_without_tls_needs_no_certificates(polygon: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    polygon.always = lambda path: Answer(body=BODY)
    assert get(polygon.url) == BODY


def test_slow_answer_over_tls_ends_with_the_budget(server: PolygonServer, trusted: None) -> None:
    server.always = lambda path: Answer(body=BODY, drip=0.05)
    with pytest.raises(SourceFailed, match="no complete answer in time"):
        get(server.url, budget=SHORT)


# --- proxies


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_of_the_environment_leads_to_the_vendor_and_never_sees_the_key(
    server: PolygonServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    monkeypatch.setenv(variable, f"{scheme}{proxy.address}")
    assert get(VENDOR) == BODY
    assert (proxy.connects, proxy.users, proxy.others) == (["vendor.test:443"], [None], [])
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.usefixtures("trusted")
def test_user_and_password_of_the_proxy_are_sent_to_it(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@{proxy.address}")
    assert get(VENDOR) == BODY
    assert proxy.users == ["Basic " + base64.b64encode(b"me:p@ss").decode()]


@pytest.mark.parametrize("value", ["vendor.test", ".test", "*", "other.example, vendor.test"])
def test_no_proxy_names_hosts_that_are_reached_directly(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("NO_PROXY", value)
    with pytest.raises(SourceFailed, match="the host's name can't be resolved"):
        get(VENDOR, budget=SHORT)
    assert proxy.connects == []


def test_this_machine_is_reached_without_a_proxy(polygon: PolygonServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://{proxy.address}")
    polygon.always = lambda path: Answer(body=BODY)
    assert get(polygon.url) == BODY
    assert (proxy.connects, proxy.others) == ([], [])


def test_certificate_behind_a_proxy_is_verified(server: PolygonServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    assert "vendor.test: the certificate can't be verified" in denied(VENDOR).message
    assert server.requests == []


@pytest.mark.parametrize("status", [403, 407])
def test_proxy_that_refuses_is_named_without_retries(server: PolygonServer, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with Proxy(server.url, refuse=status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{proxy.address}")
        error = denied(VENDOR)
    assert error.message == f"vendor.test: the proxy refused the connection with HTTP {status}"
    assert "HTTPS_PROXY" in error.hint
    assert "secret" not in error.message + error.hint


def test_proxy_that_is_not_there_may_heal(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(SourceFailed, match="the proxy: connection refused"):
        get(VENDOR, budget=SHORT)


@pytest.mark.parametrize("value", ["socks5://me:secret@127.0.0.1:1", "http://me:secret@[bad", "http://me:secret@"])
def test_proxy_address_that_can_not_be_used_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(SettingsError) as caught:
        client(VENDOR)
    assert "HTTPS_PROXY" in caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint


def test_slow_answer_of_a_proxy_ends_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def speak(connection: socket.socket) -> None:
        for _ in range(90):
            connection.sendall(b"X")
            sent.append("X")
            time.sleep(0.05)

    with bare_server(speak) as url:
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(SourceFailed):
            get(VENDOR, budget=0.5)
    assert len(sent) < 90
