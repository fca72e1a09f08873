"""Connections to a vendor: the environment's proxy and certificates, and a deadline for every byte of an answer."""

import http.client
import io
import os
import re
import socket
import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from maang_cli.errors import SettingsError
from maang_cli.retries import READ_SECONDS
from maang_cli.settings import LOOPBACK

CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a file (or a folder) with certificate authorities. What they name replaces the built-in ones."""


def open_pool(url: str, connections: int) -> urllib3.PoolManager:
    """The pool for this address, which keeps so many connections.

    The read timeout of a request is the time for its whole answer, headers and body together: a server that sends a byte now and
    then does not get more.

    Raises:
        SettingsError: the environment's proxy or certificates can't be used.
    """
    options: dict[str, Any] = {"retries": False, "maxsize": connections}
    if urlsplit(url).scheme == "https":
        options["ssl_context"] = _trust()
    proxy = _proxy(url)
    pool = urllib3.PoolManager(**options) if proxy is None else _through(proxy, options)
    pool.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return pool


def _trust() -> ssl.SSLContext:
    """Which certificate authorities are trusted."""
    named = {variable: Path(os.environ[variable]) for variable in CERTIFICATES if os.environ.get(variable)}
    if not named:
        return ssl.create_default_context(cafile=certifi.where())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it verifies certificates and names, and trusts nobody yet
    for variable, path in named.items():
        try:
            if path.is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except (OSError, ValueError) as exc:  # an ssl.SSLError is an OSError
            reason = "it has no certificates" if isinstance(exc, ssl.SSLError) else getattr(exc, "strerror", None) or exc
            raise SettingsError(
                f"the file that {variable} names can't be used: {reason}",
                hint=f"set {variable} to a PEM file with certificate authorities, or unset it",
            ) from exc
    return context


def _proxy(url: str) -> str | None:
    """The environment's proxy for this address; None: there is none. Addresses on this machine need none."""
    parts = urlsplit(url)
    if parts.hostname in LOOPBACK or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all") or None


def _through(proxy: str, options: dict[str, Any]) -> urllib3.ProxyManager:
    """A pool behind this proxy, which passes on what only the vendor can decrypt."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if not parts.hostname:
            raise ValueError
        user = None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return urllib3.ProxyManager(
            plain,
            proxy_headers=urllib3.make_headers(proxy_basic_auth=user),
            proxy_ssl_context=options["ssl_context"],
            **options,
        )
    except (ValueError, urllib3.exceptions.HTTPError) as exc:
        raise SettingsError(  # without the address, which may hold a password
            "the proxy that the environment names can't be used",
            hint="set HTTPS_PROXY to an address such as http://proxy.example:3128, or unset it",
        ) from exc


class _Reader(io.RawIOBase):
    """Reads from a socket until a deadline. urllib3's own read timeout starts again with each byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(min(left, READ_SECONDS))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Deadline(HTTPConnection):
    """http.client calls `response_class` for each answer, that of a proxy too, and reads all of it through its `fp`."""

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        response = http.client.HTTPResponse(sock, *args, **kwargs)
        assert self.timeout is not None  # noqa: S101 - RetryingGet sets it
        response.fp = io.BufferedReader(_Reader(response.fp.detach(), sock, time.monotonic() + self.timeout))
        return response


class _HTTPSConnection(_Deadline, HTTPSConnection):
    """With TLS."""


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Deadline


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


def lasting_fault(exc: urllib3.exceptions.HTTPError) -> tuple[str, str] | None:
    """What is wrong, and what the user may set, if no retry can heal this error; None: a retry may."""
    text = str(exc)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        why = re.search(r"verify failed: ([^(]+)", text)
        what = "the certificate can't be verified" + (f": {why[1].strip()}" if why else "")
        return what, "SSL_CERT_FILE to its certificate authority"
    if isinstance(exc, urllib3.exceptions.ProxyError) and (found := re.search(r"Tunnel connection failed: (4\d\d)", text)):
        return f"the proxy refused the connection with HTTP {found[1]}", "HTTPS_PROXY to its address, with user and password"
    return None
