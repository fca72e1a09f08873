"""An HTTP proxy on loopback, for tests of the vendor's connection."""

from __future__ import annotations

import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


class Proxy:
    """Accepts CONNECT for any host, and connects it to the server at one address."""

    def __init__(self, target: str, refuse: int = 0) -> None:
        """`target`: the server's address; `refuse`: the status that each CONNECT gets; 0: it is accepted."""
        self.connects: list[str] = []
        """Host and port of each CONNECT."""
        self.users: list[str | None] = []
        """The Proxy-Authorization of each CONNECT."""
        self.others: list[str] = []
        """Paths of other requests, which a proxy could read."""
        proxy, there = self, urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                proxy.connects.append(self.path)
                proxy.users.append(self.headers.get("Proxy-Authorization"))
                self.close_connection = True
                if refuse:
                    self.send_error(refuse)
                    return
                with socket.create_connection((there.hostname, there.port)) as beyond:
                    self.send_response(200)
                    self.end_headers()
                    _relay(self.connection, beyond)

            def do_GET(self) -> None:
                proxy.others.append(self.path)
                self.send_error(400)

            def log_message(self, format: str, *args: Any) -> None:
                """Print nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes in both directions until one side ends."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            try:
                data = ready.recv(65536)
                (other if ready is one else one).sendall(data)
            except OSError:
                return
            if not data:
                return
