"""MAANG_NOTIFY: one message about a failed run, through apprise to a real HTTP server; no secret of a URL in any output."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from maang_cli.cli.process import main
from maang_cli.errors import ExitCode
from tests.cli.helpers import DAY, META, ON_DAY, SAMPLE, SESSION, completed, serve
from tests.conftest import Maang, Outcome
from tests.polygon_server import KEY, Answer, PolygonServer, row
from tests.settings import configure

MonkeyPatch = pytest.MonkeyPatch

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
"""apprise imports it on Python 3.11 and 3.12."""

SECRET = "s3cr3t-Q7zz"
WARNING = "warning: notification 1 of 1 was not sent: "


class Receiver:
    """A webhook on loopback."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.status = 200
        self.stalled: threading.Event | None = None
        """An answer waits for it."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.paths.append(self.path)
                receiver.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if receiver.stalled is not None:
                    receiver.stalled.wait()
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Nothing: stderr is what the tests read."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The webhook's URL, with a password, and a token in its path."""
        return f"json://user:{SECRET}@127.0.0.1:{self._server.server_port}/{SECRET}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.stalled is not None:
            self.stalled.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver(monkeypatch: MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        monkeypatch.setenv("MAANG_NOTIFY", server.url)
        yield server


def without_secret(outcome: Outcome) -> Outcome:
    for text in (outcome.out, outcome.err):
        assert SECRET not in text
    return outcome


def test_refused_day_sends_one_message_with_the_failing_rows_and_the_hint(
    maang: Maang, polygon: PolygonServer, receiver: Receiver
) -> None:
    serve(polygon, "META", "AAPL")
    done = without_secret(maang("run-day", *ON_DAY, "--tickers", "META,AAPL,NFLX"))
    assert done.code == ExitCode.REFUSED
    assert "notification" not in done.err
    [sent] = receiver.received
    assert (sent["title"], sent["type"]) == (f"maang run-day {DAY}: refused (exit code 3)", "failure")
    meaning, error, check, failing_row, *hints = sent["message"].splitlines()
    assert meaning == ExitCode.REFUSED.meaning
    assert error == f"error: the gate refused {DAY}: missing_stocks; nothing was published"
    assert check == "missing_stocks (every requested ticker has a bar): 1 failing"
    assert failing_row == f"  NFLX {DAY}: no bar"
    assert "hint: to publish the others: --allow-missing NFLX" in hints
    assert done.err.endswith("\n".join(["", *hints, ""]))
    assert receiver.paths == [f"/{SECRET}"]


def test_message_of_many_failing_rows_stays_short(maang: Maang, polygon: PolygonServer, receiver: Receiver) -> None:
    serve(polygon, "META")
    tickers = ",".join(["META", *(f"T{number}" for number in range(40))])
    for command in ("run-day", "backfill"):
        assert maang(command, *ON_DAY, "--tickers", tickers).code == ExitCode.REFUSED
        lines = receiver.received.pop()["message"].splitlines()
        assert lines.count(f"  T0 {DAY}: no bar") == 1
        assert sum(line.endswith(": no bar") for line in lines) <= 5
        assert any(line.endswith(" more") for line in lines)


def test_incomplete_status_sends_what_is_missing(maang: Maang, receiver: Receiver) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    assert receiver.received == []
    done = maang("status", "--from", "2025-10-13", "--to", DAY, *SAMPLE)
    assert done.code == ExitCode.PARTIAL
    [sent] = receiver.received
    assert sent["title"] == f"maang status 2025-10-13 to {DAY}: partial (exit code 5)"
    assert "missing: 2025-10-13 (1 session): AAPL, AMZN, GOOGL, META, NFLX\n" in sent["message"]


def test_dry_run_that_finds_differences_sends_them(maang: Maang, polygon: PolygonServer, receiver: Receiver) -> None:
    serve(polygon, "META")
    assert maang("run-day", *META).code == 0
    polygon.days[SESSION] = [row("META", SESSION, c=10.6)]
    assert maang("backfill", *META, "--refetch", "--dry-run").code == ExitCode.PARTIAL
    [sent] = receiver.received
    assert f"META {DAY} close 10.50 -> 10.60 (+0.95 %)" in sent["message"].splitlines()


def test_unavailable_source_sends_why(maang: Maang, polygon: PolygonServer, receiver: Receiver, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "0")
    polygon.always = lambda path: Answer(500)
    for command in ("run-day", "backfill"):
        assert maang(command, *META).code == ExitCode.MAY_HEAL
        sent = receiver.received.pop()
        assert f"maang {command} {DAY}: may_heal (exit code 4)" == sent["title"]
        assert ExitCode.MAY_HEAL.meaning in sent["message"]
        assert "HTTP 500" in sent["message"]
    assert receiver.received == []


def test_wrong_setting_sends_its_message(maang: Maang, receiver: Receiver) -> None:
    assert maang("run-day", "--date", "2025-10-32", *SAMPLE).code == ExitCode.UNUSABLE
    [sent] = receiver.received
    assert sent["title"] == "maang run-day: unusable (exit code 2)"
    assert "error: '2025-10-32' is not a date\nhint: give --date as YYYY-MM-DD" in sent["message"]


def test_bug_sends_its_class_and_keeps_its_traceback(receiver: Receiver, polygon: PolygonServer) -> None:
    program = "import maang_cli.pipeline as p\np.run_day = lambda *_: 1 / 0\nfrom maang_cli.cli.process import run\nrun()"
    done = without_secret(completed(["run-day", *META], program=program))
    assert done.code == ExitCode.BUG
    assert "ZeroDivisionError: division by zero" in done.err
    [sent] = receiver.received
    assert sent["title"] == f"maang run-day {DAY}: bug (exit code 1)"
    assert "error: ZeroDivisionError: a bug in maang" in sent["message"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["run-day", *ON_DAY, *SAMPLE], ExitCode.DONE),
        (["run-day", "--date", "2025-10-12", *SAMPLE], ExitCode.NO_SESSION),
        (["run-day", "--no-such-option"], ExitCode.UNUSABLE),
        (["status", "--help"], ExitCode.DONE),
        (["check", *ON_DAY, *SAMPLE], ExitCode.UNUSABLE),
    ],
)
def test_nothing_is_sent_about_success_closed_markets_usage_errors_and_single_steps(
    maang: Maang, receiver: Receiver, argv: list[str], code: int
) -> None:
    assert maang(*argv).code == code
    assert receiver.received == []


def test_library_is_not_loaded_unless_something_is_sent(receiver: Receiver) -> None:
    program = "import sys\nfrom maang_cli.cli.process import main\nmain(sys.argv[1:])\nprint('apprise' in sys.modules)"
    done = completed(["run-day", *ON_DAY, *SAMPLE], program=[sys.executable, "-c", program])
    assert done.code == 0
    assert done.out.endswith("\nFalse\n")


def test_webhook_that_fails_is_a_warning_and_the_exit_code_stays(maang: Maang, receiver: Receiver) -> None:
    receiver.status = 500
    for flags in ((), ("--json",), ("--verbose",)):
        done = without_secret(maang("status", *ON_DAY, *SAMPLE, *flags))
        assert done.code == ExitCode.PARTIAL
        assert f"{WARNING}json did not take it\n" in done.err
    assert len(receiver.received) == 3


def test_host_that_is_not_there_is_a_warning(maang: Maang, monkeypatch: MonkeyPatch) -> None:
    with Receiver() as server:
        gone = server.url
    monkeypatch.setenv("MAANG_NOTIFY", gone)
    done = without_secret(completed(["status", *ON_DAY, *SAMPLE, "--verbose"]))
    assert done.code == ExitCode.PARTIAL
    assert f"{WARNING}json did not take it\n" in done.err


def test_stalled_webhook_does_not_keep_the_process(receiver: Receiver, monkeypatch: MonkeyPatch) -> None:
    receiver.stalled = threading.Event()
    monkeypatch.setenv("MAANG_NOTIFY", f"{receiver.url}?rto=600")
    done = without_secret(completed([], program="from maang_cli import notify\nnotify.send('title', 'body', seconds=0.5)"))
    assert (done.code, done.out, done.err) == (0, "", f"{WARNING}no answer within 0.5 s\n")
    assert not receiver.stalled.is_set()


@pytest.mark.parametrize("text", [f"slack://{SECRET}", SECRET, f"nosuch://{SECRET}/a", f"https://hooks.example/{SECRET}?a=b,c"])
def test_wrong_url_is_a_warning_without_the_url(maang: Maang, monkeypatch: MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MAANG_NOTIFY", text)
    done = without_secret(maang("status", *ON_DAY, *SAMPLE))
    assert done.code == ExitCode.PARTIAL
    assert f"{WARNING}not a URL that apprise knows\n" in done.err


@pytest.mark.parametrize("separator", [",", " ", ", ", "\n"])
def test_every_service_of_a_list_gets_the_message(
    maang: Maang, receiver: Receiver, monkeypatch: MonkeyPatch, separator: str
) -> None:
    with Receiver() as other:
        urls = [f"{receiver.url}?format=text,a", "nosuch://x", f"{other.url}/b"]
        monkeypatch.setenv("MAANG_NOTIFY", separator.join(urls))
        done = without_secret(maang("status", *ON_DAY, *SAMPLE))
        assert (len(receiver.received), len(other.received)) == (1, 1)
    assert "warning: notification 2 of 3 was not sent: not a URL that apprise knows\n" in done.err


def test_file_may_list_urls_and_a_variable_switches_them_off(maang: Maang, receiver: Receiver, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.delenv("MAANG_NOTIFY")
    configure(f'MAANG_NOTIFY = ["{receiver.url}", "{receiver.url}"]\n')
    assert maang("status", *ON_DAY, *SAMPLE).code == ExitCode.PARTIAL
    assert len(receiver.received) == 2
    monkeypatch.setenv("MAANG_NOTIFY", "off")
    done = maang("status", *ON_DAY, *SAMPLE)
    assert (done.code, len(receiver.received)) == (ExitCode.PARTIAL, 2)
    assert "warning" not in done.err


def test_missing_library_is_a_warning_that_says_how_to_install_it(receiver: Receiver) -> None:
    program = "import sys\nsys.modules['apprise'] = None\nfrom maang_cli.cli.process import run\nrun()"
    done = without_secret(completed(["status", *ON_DAY, *SAMPLE], program=program))
    assert done.code == ExitCode.PARTIAL
    assert "warning: no notification was sent: MAANG_NOTIFY needs apprise, which is not installed" in done.err
    assert "uv run --extra notify maang" in done.err


def test_config_hides_the_urls(maang: Maang, receiver: Receiver) -> None:
    [found] = [each for each in without_secret(maang("config", "--json")).result["settings"] if each["name"] == "MAANG_NOTIFY"]
    assert found == {"name": "MAANG_NOTIFY", "value": "***", "origin": "environment"}


def doctor(maang: Maang) -> dict[str, Any]:
    [found] = [each for each in without_secret(maang("doctor", *SAMPLE, "--json")).result["checks"] if each["name"] == "notify"]
    return {"ok": found["ok"], "found": found["found"]}


def test_doctor_checks_the_urls_and_sends_nothing(maang: Maang, receiver: Receiver, monkeypatch: MonkeyPatch) -> None:
    assert doctor(maang) == {"ok": True, "found": "json; nothing was sent"}
    monkeypatch.setenv("MAANG_NOTIFY", f"{receiver.url}, slack://{SECRET}")
    assert doctor(maang) == {"ok": False, "found": "MAANG_NOTIFY: not a URL that apprise knows (entry 2 of 2)"}
    assert receiver.received == []


def test_configuration_file_that_can_not_be_read_is_reported_by_the_other_checks(maang: Maang, receiver: Receiver) -> None:
    configure("MAANG_NOTIFY = \n")
    done = maang("doctor", *SAMPLE, "--json")
    assert [each["name"] for each in done.result["checks"]] == ["warehouse", "source"]
    done = maang("status", *ON_DAY, *SAMPLE)
    assert (done.code, receiver.received) == (ExitCode.UNUSABLE, [])
    assert "warning: no notification was sent: the configuration file" in done.err


def test_key_is_not_in_the_message(maang: Maang, polygon: PolygonServer, receiver: Receiver) -> None:
    polygon.always = lambda path: Answer(401, b'{"status":"ERROR","error":"Unknown API Key"}')
    assert main(["run-day", *META]) == ExitCode.UNUSABLE
    assert KEY not in json.dumps(receiver.received)
    assert os.environ["MAANG_NOTIFY"] not in json.dumps(receiver.received)
