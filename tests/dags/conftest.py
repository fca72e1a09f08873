"""One vendor, one inbox and one running Airflow for many tests of the DAG, because each takes a while to start."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from tests.dags.airflow_server import Airflow, StartedAirflow, free_port
from tests.polygon_server import KEY, Answer, PolygonServer, grouped, row

TICKERS = ("META", "AAPL", "AMZN", "NFLX", "GOOGL", "NVDA")
COMMANDS = {
    "create_schema": "init-tables --only schema",
    "create_staging_table": "init-tables --only staging",
    "create_prod_table": "init-tables --only production",
    "create_cumulative_table": "init-tables --only cumulative",
    "load_to_staging": "ingest",
    "run_dq_check": "check",
    "clear_step": "diff",
    "exchange_data_from_staging": "promote",
    "drop_staging_table": "drop-staging",
    "clear_cumulative": "diff --table cumulative",
    "cumulate_step": "cumulate",
}
"""The command of each task."""
BAD_DAY = date(2025, 10, 15)
"""On this day META's high is below its low, and AMZN has no bar."""


def bars(path: str) -> Answer:
    """A whole-market answer for any day. Each day has different prices."""
    day = date.fromisoformat(path.partition("?")[0].rpartition("/")[2])
    close = 10 + day.toordinal() % 40 / 100
    rows = [row(ticker, day, c=close, v=1000 + day.toordinal() % 7) for ticker in TICKERS]
    if day == BAD_DAY:
        rows = [row("META", day, h=9, l=9.5), *(each for each in rows if each["T"] not in ("META", "AMZN"))]
    return Answer(body=grouped(rows))


@pytest.fixture(scope="session")
def vendor() -> Iterator[PolygonServer]:
    with PolygonServer() as server:
        server.always = bars
        yield server


@pytest.fixture
def polygon(vendor: PolygonServer, monkeypatch: pytest.MonkeyPatch) -> PolygonServer:
    """The vendor, for `maang` in this process."""
    monkeypatch.setenv("MAANG_POLYGON_URL", vendor.url)
    monkeypatch.setenv("POLYGON_TOKEN", KEY)
    return vendor


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """An Airflow with an empty database, which other tests copy."""
    return Airflow.create(tmp_path_factory.mktemp("airflow") / "template")


@dataclass
class Inbox:
    """The mails and the webhook's posts that the alerts sent."""

    mails: list[tuple[str, str]] = field(default_factory=list)
    """Subject and body of each."""
    posts: list[str] = field(default_factory=list)
    """Text of each."""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        message = message_from_bytes(envelope.content, policy=policy.default)
        body = message.get_body()
        self.mails.append((str(message["Subject"]), body.get_content() if body else ""))
        return "250 OK"


@pytest.fixture(scope="session")
def inbox() -> Iterator[tuple[Inbox, dict[str, str]]]:
    """An SMTP server and a webhook, and the variables that connect the DAG to them."""
    received = Inbox()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.posts.append(body["text"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    smtp = Controller(received, hostname="127.0.0.1", port=free_port())
    smtp.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        mail = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"}
        yield (
            received,
            {
                "STOCK_DAG_EMAIL_TO": "desk@example.com",
                "STOCK_DAG_SLACK_CONNECTION": "alerts",
                "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(
                    {"conn_type": "smtp", "host": "127.0.0.1", "port": smtp.port, "extra": mail}
                ),
                "AIRFLOW_CONN_ALERTS": json.dumps(
                    {"conn_type": "slackwebhook", "host": f"http://127.0.0.1:{web.server_port}", "password": "/T0/B0/hook"}
                ),
            },
        )
    finally:
        smtp.stop()
        web.shutdown()
        web.server_close()
        thread.join()


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, template: Airflow, vendor: PolygonServer, inbox: tuple[Inbox, dict[str, str]]
) -> Iterator[StartedAirflow]:
    """A running Airflow with alerts, a deadline that every run misses, and the vendor's key in an Airflow connection.

    It ends with its module, because it takes a tenth of a processor as long as it runs.
    """
    port = free_port()
    folder = tmp_path_factory.mktemp("started")
    airflow = Airflow.create(
        folder / "airflow",
        template.home,
        **StartedAirflow.configuration(port),
        **inbox[1],
        MAANG_HOME=str(folder / "maang"),
        MAANG_POLYGON_URL=vendor.url,
        STOCK_DAG_RETRY_SECONDS="1",
        STOCK_DAG_DEADLINE_MINUTES="0.02",
        STOCK_DAG_SECRETS="POLYGON_TOKEN=vendor",
        AIRFLOW_CONN_VENDOR=json.dumps({"conn_type": "generic", "password": KEY}),
    )
    running = StartedAirflow(airflow, f"http://127.0.0.1:{port}")
    try:
        running.start()
        yield running
    finally:
        running.stop()
