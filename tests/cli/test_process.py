"""The process around a command: standard streams that are closed, full or not read, signals, terminals."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest
from filelock import FileLock

from maang_cli.cli.process import SIGNALS
from maang_cli.errors import ExitCode
from tests.cli.helpers import (
    CODES,
    DAY,
    META,
    ON_DAY,
    PATIENCE,
    PROGRAM,
    SAMPLE,
    SESSION,
    Process,
    Terminal,
    completed,
    envelope,
    failed,
    held,
    on_terminal,
    outcome_of,
    serve,
    started,
    wait_until,
)
from tests.conftest import Maang, Outcome
from tests.polygon_server import Answer, PolygonServer, row


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API call that stalls is not given up while a test looks at it."""
    monkeypatch.setenv("MAANG_RETRY_SECONDS", "600")


needs_full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")

# Streams


def in_a_shell(argv: Sequence[str], redirection: str) -> Outcome:
    """A run whose streams a shell redirects."""
    script = f"{shlex.join([*PROGRAM, *argv])} {redirection}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE)
    return Outcome(done.returncode, done.stdout, done.stderr)


def stored(maang: Maang) -> list[str]:
    """The tickers that production has on the day."""
    return [bar["ticker"] for bar in maang("show", *ON_DAY, *SAMPLE, "--json").result["rows"]]


@pytest.mark.parametrize("argv", [["--help"], ["show", *ON_DAY, *SAMPLE, "-q"], ["show", *ON_DAY, *SAMPLE, "--json", "-q"]])
def test_pipe_that_nobody_reads_is_not_an_error(maang: Maang, argv: Sequence[str]) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = completed(argv, stdout=writing)
    finally:
        os.close(writing)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("flags", [["-q"], ["-q", "--json"]], ids=["table", "JSON"])
def test_pipe_that_nobody_reads_does_not_hide_a_refusal(maang: Maang, polygon: PolygonServer, flags: Sequence[str]) -> None:
    polygon.days[SESSION] = [row("META", SESSION, c=-1)]
    assert maang("ingest", *META).code == 0
    reading, writing = os.pipe()
    os.close(reading)
    try:
        failed(completed(["check", *META, *flags], stdout=writing), ExitCode.REFUSED)
    finally:
        os.close(writing)


def test_reader_that_leaves_early_is_not_an_error(maang: Maang) -> None:
    names = ",".join(f"T{number}" for number in range(3000))
    assert maang("ingest", *ON_DAY, *SAMPLE, "--tickers", names).code == 0
    with started("show", *ON_DAY, *SAMPLE, "--tickers", names, "--table", "staging", "-q", "--json") as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("redirection", ["2>&-", "2> >(true)", pytest.param("2>/dev/full", marks=needs_full_disk)])
def test_stderr_that_takes_nothing_does_not_stop_the_work(maang: Maang, redirection: str) -> None:
    done = in_a_shell(["run-day", *ON_DAY, *SAMPLE, "--verbose"], redirection)
    assert (done.code, done.err) == (0, "")
    assert "maang_sample.daily_stock_prices" in done.out
    assert len(stored(maang)) == 5


def test_reader_of_both_streams_that_leaves_early_does_not_stop_the_work(maang: Maang) -> None:
    done = in_a_shell(["run-day", *ON_DAY, *SAMPLE], "2>&1 | head -1; exit ${PIPESTATUS[0]}")
    assert (done.code, done.out.count("\n")) == (0, 1)
    assert len(stored(maang)) == 5


@pytest.mark.parametrize("redirection", [">&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_not_an_error(maang: Maang, redirection: str) -> None:
    done = in_a_shell(["run-day", *ON_DAY, *SAMPLE, "-q"], redirection)
    assert (done.code, done.err) == (0, "")
    assert bool(done.out) == (redirection == "<&-")
    assert len(stored(maang)) == 5


def test_no_file_gets_the_number_of_a_closed_stream(home: Path, polygon: PolygonServer, maang: Maang) -> None:
    """Otherwise the words of a signal, which are written to the number, would end up in a file of the warehouse."""
    assert maang("init-tables").code == 0
    polygon.always = lambda path: Answer(delay=3600)
    script = f"exec {shlex.join([*PROGRAM, 'ingest', *META, '--json'])} >&- 2>&-"
    with started("-c", script, program=["bash"]) as process:
        wait_until(lambda: polygon.requests, process)
        process.terminate()
        assert process.wait(PATIENCE) == ExitCode.TERMINATED
    for path in home.rglob("*"):
        assert path.is_dir() or b"published data is intact" not in path.read_bytes(), path
    assert maang("status", "--from", DAY, "--to", DAY).code == ExitCode.PARTIAL


@needs_full_disk
@pytest.mark.parametrize("argv", [["show", *ON_DAY, *SAMPLE, "-q"], ["show", *ON_DAY, *SAMPLE, "-q", "--json"], ["--help"]])
def test_full_disk_for_the_result_exits_4(maang: Maang, argv: Sequence[str]) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE).code == 0
    with Path("/dev/full").open("w") as full:
        message, hint = failed(completed(argv, stdout=full), ExitCode.MAY_HEAL)
    assert message == "the result can't be written: No space left on device"
    assert hint.startswith("the work is done")


@needs_full_disk
@pytest.mark.parametrize("flags", [["-q"], ["-q", "--json"]], ids=["table", "JSON"])
def test_full_disk_for_the_result_keeps_the_exit_code_of_a_failure(
    maang: Maang, polygon: PolygonServer, flags: Sequence[str]
) -> None:
    polygon.days[SESSION] = [row("META", SESSION, c=-1)]
    assert maang("ingest", *META).code == 0
    with Path("/dev/full").open("w") as full:
        message, hint = failed(completed(["check", *META, *flags], stdout=full), ExitCode.REFUSED)
    assert message.endswith("price_ranges; the result can't be written: No space left on device")
    assert "maang show --table staging" in hint


def test_characters_that_the_terminal_lacks_are_not_an_error(
    maang: Maang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    argv = ["doctor", *SAMPLE, "--home", str(tmp_path / "Bücher")]
    done = completed(argv, program=PROGRAM)
    assert done.code == 0
    assert "B\\xfccher" in done.out.replace("\n", "")
    home = envelope(completed([*argv, "--json"], program=PROGRAM))["result"]["checks"][0]["found"]
    assert "Bücher" in home


BROKEN_SOCKET = """
import errno
from maang_cli.sources import sample

def bars(self, tickers, sessions):
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")

sample.SampleSource.bars = bars
from maang_cli.cli.process import run
run()
"""


def test_broken_pipe_in_the_work_is_a_bug() -> None:
    """Typer takes it for a reader that has left."""
    done = completed(["ingest", *ON_DAY, *SAMPLE, "-q", "--json"], program=BROKEN_SOCKET)
    assert (done.code, envelope(done)["outcome"]) == (ExitCode.BUG, "bug")
    assert done.err.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


# Signals

SOON = 10
"""Seconds in which a signal ends a process; a quiet machine needs a fraction of one. What is interrupted would take an hour."""
ENDLESS = """
from pathlib import Path
from maang_cli import sql
from maang_cli.cli.process import run

def fill(text, relations):
    Path("begun").touch()
    return "SELECT sum(range) AS total FROM range(1000000000000)"

sql.fill = fill  # the last step before the query
run()
"""
"""`maang`, every query of which takes hours."""
RETRYING = """
from pathlib import Path
from maang_cli.cli.process import run
from maang_cli.sources.http import RetryingGet

sleep = RetryingGet._sleep

def begin(self, seconds):
    Path("begun").touch()
    sleep(self, seconds)

RetryingGet._sleep = begin
run()
"""
"""`maang`, which says when it begins to wait before it calls again."""
LOCKED_OUT = """
import logging
from pathlib import Path
from maang_cli.cli.process import run

class Begun(logging.Handler):
    def emit(self, record):
        if "waiting" in record.getMessage():
            Path("begun").touch()

logging.getLogger("filelock").addHandler(Begun())
logging.getLogger("filelock").setLevel(logging.DEBUG)
run()
"""
"""`maang`, which says when it begins to wait for the lock."""
LOADING = """
import sys, time
from importlib.machinery import ModuleSpec
from pathlib import Path
from maang_cli.cli.process import run

class Slow:
    def find_spec(self, name, *_):
        return ModuleSpec(name, self) if name == "maang_cli.cli.commands" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        Path("begun").touch()
        time.sleep(3600)

sys.meta_path.insert(0, Slow())
run()
"""
"""`maang`, whose modules take an hour to load."""


@contextmanager
def in_an_api_call(polygon: PolygonServer, _maang: Maang, _home: Path, *flags: str) -> Iterator[Process]:
    polygon.always = lambda path: Answer(delay=3600)
    with started("run-day", *META, *flags) as process:
        wait_until(lambda: polygon.requests, process)
        yield process


@contextmanager
def between_two_api_calls(polygon: PolygonServer, _maang: Maang, _home: Path, *flags: str) -> Iterator[Process]:
    polygon.always = lambda path: Answer(429, b"{}", {"Retry-After": "60"})
    with started("run-day", *META, *flags, program=RETRYING) as process:
        wait_until(Path("begun").exists, process)
        yield process


@contextmanager
def in_a_query(_polygon: PolygonServer, maang: Maang, _home: Path, *flags: str) -> Iterator[Process]:
    assert maang("run-day", *META, "--source", "sample").code == 0
    with started("show", *META, "--source", "sample", *flags, program=ENDLESS) as process:
        wait_until(Path("begun").exists, process)
        yield process


@contextmanager
def waiting_for_the_lock(polygon: PolygonServer, maang: Maang, home: Path, *flags: str) -> Iterator[Process]:
    serve(polygon, "META")
    assert maang("init-tables").code == 0
    with FileLock(home / "warehouse" / "writer.lock"), started("ingest", *META, *flags, program=LOCKED_OUT) as process:
        wait_until(Path("begun").exists, process)
        yield process


@contextmanager
def loading_modules(_polygon: PolygonServer, _maang: Maang, _home: Path, *flags: str) -> Iterator[Process]:
    with started("run-day", *META, *flags, program=[sys.executable, "-c", LOADING]) as process:
        wait_until(Path("begun").exists, process)
        yield process


Moment = Callable[..., AbstractContextManager[Process]]
MOMENTS: dict[str, tuple[Moment, str | None, list[str]]] = {
    "in an API call": (in_an_api_call, "run-day", [DAY]),
    "between two API calls": (between_two_api_calls, "run-day", [DAY]),
    "in a query": (in_a_query, "show", [DAY]),
    "waiting for the lock": (waiting_for_the_lock, "ingest", [DAY]),
    "loading modules": (loading_modules, None, []),
}
"""Each with the command and the sessions that are known by then."""
each_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


def ended_by(process: Process, number: int) -> Outcome:
    """The end of a process that gets a signal now, which must come soon."""
    before = time.monotonic()
    process.send_signal(number)
    outcome = outcome_of(process)
    assert time.monotonic() - before < SOON
    return outcome


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("in an API call", signal.SIGINT),
        ("in an API call", signal.SIGTERM),
        ("in a query", signal.SIGINT),
        ("waiting for the lock", signal.SIGTERM),
        ("loading modules", signal.SIGINT),
    ],
)
def test_signal_ends_a_run_soon_with_two_lines(
    moment: str, number: signal.Signals, polygon: PolygonServer, maang: Maang, home: Path
) -> None:
    word, code = SIGNALS[number]
    with MOMENTS[moment][0](polygon, maang, home, "-q") as process:
        message, hint = failed(ended_by(process, number), code)
    assert message == f"{word}; published data is intact"
    assert hint == "run the same command again to finish"


@each_signal
@pytest.mark.parametrize("moment", MOMENTS)
def test_signal_ends_a_run_with_one_document(
    moment: str, number: signal.Signals, polygon: PolygonServer, maang: Maang, home: Path
) -> None:
    word, code = SIGNALS[number]
    arrange, command, sessions = MOMENTS[moment]
    with arrange(polygon, maang, home, "-q", "--json") as process:
        outcome = ended_by(process, number)
    found = envelope(outcome)
    assert (outcome.code, found["outcome"], found["command"], found["sessions"]) == (code, word, command, sessions)
    message, hint = failed(outcome, code, outcome.out)
    assert found["error"] == {"message": message, "hint": hint}
    assert found["result"] is None


@each_signal
@pytest.mark.parametrize("moment", ["in an API call", "in a query"])
def test_signal_that_comes_again_and_again_ends_a_run_like_a_single_one(
    moment: str, number: signal.Signals, polygon: PolygonServer, maang: Maang, home: Path
) -> None:
    with MOMENTS[moment][0](polygon, maang, home, "-q", "--json") as process:
        before = time.monotonic()
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.002)
        assert time.monotonic() - before < SOON
        outcome = outcome_of(process)
    assert envelope(outcome)["error"]["message"] == failed(outcome, SIGNALS[number][1], outcome.out)[0]


def staging_tables(home: Path) -> list[str]:
    return [path.name for path in (home / "warehouse" / "maang").iterdir() if "staging" in path.name]


@pytest.mark.parametrize("moment", ["in an API call", "between two API calls", "waiting for the lock"])
def test_next_run_finishes_an_interrupted_one(moment: str, polygon: PolygonServer, maang: Maang, home: Path) -> None:
    with MOMENTS[moment][0](polygon, maang, home, "-q") as process:
        ended_by(process, signal.SIGINT)
    polygon.always = lambda path: None
    serve(polygon, "META")
    assert maang("run-day", *META).code == 0
    assert maang("status", *META).code == 0
    assert staging_tables(home) == []
    assert not (home / "warehouse" / "journal.json").exists()


def test_next_run_drops_the_staging_table_of_an_interrupted_one(polygon: PolygonServer, maang: Maang, home: Path) -> None:
    serve(polygon, "META")
    with started("run-day", *META, "-q", program=ENDLESS) as process:
        wait_until(Path("begun").exists, process)  # in `check`, the first step with a query
        ended_by(process, signal.SIGTERM)
    assert len(staging_tables(home)) == 1
    assert maang("run-day", *META).code == 0
    assert staging_tables(home) == []


def test_interrupted_wait_for_the_lock_stages_nothing(polygon: PolygonServer, maang: Maang, home: Path) -> None:
    with waiting_for_the_lock(polygon, maang, home, "-q") as process:
        ended_by(process, signal.SIGTERM)
    assert staging_tables(home) == []


IGNORING = {
    "nohup": "nohup {command}",
    "background": "{command} & wait $!",
    "trap": "trap '' INT; exec {command}",
}


@pytest.mark.parametrize("script", IGNORING.values(), ids=IGNORING.keys())
def test_signal_that_is_ignored_stays_ignored(script: str, polygon: PolygonServer) -> None:
    """A shell without job control ignores SIGINT in its background jobs; nohup ignores SIGHUP."""
    serve(polygon, "META")
    signalled = threading.Event()
    polygon.always = held(signalled)
    number = signal.SIGHUP if "nohup" in script else signal.SIGINT
    command = f"sh -c 'echo $$ >pid; exec {shlex.join([*PROGRAM, 'run-day', *META, '-q', '--json'])}'"
    with started("-c", script.format(command=command), program=["sh"]) as process:
        wait_until(lambda: polygon.requests, process)
        for _ in range(3):
            os.kill(int(Path("pid").read_text()), number)
        signalled.set()
        outcome = outcome_of(process)
    assert outcome.code == 0, outcome
    assert envelope(outcome)["outcome"] == "done"


def test_sigterm_ends_a_run_that_ignores_sigint(polygon: PolygonServer, maang: Maang, home: Path) -> None:
    polygon.always = lambda path: Answer(delay=3600)
    script = f"trap '' INT; exec {shlex.join([*PROGRAM, 'run-day', *META, '-q'])}"
    with started("-c", script, program=["sh"]) as process:
        wait_until(lambda: polygon.requests, process)
        process.send_signal(signal.SIGINT)
        failed(ended_by(process, signal.SIGTERM), ExitCode.TERMINATED)


LINGERING = {
    "thread": "threading.Thread(target=time.sleep, args=(3600,)).start()",
    "exit function": "atexit.register(time.sleep, 3600)",
}
"""What may keep a process alive when its work is done: both take an hour."""
WITH_LINGERING = """
import atexit, threading, time
from pathlib import Path
from maang_cli.cli import process

main = process.main

def main_and_more(argv, reply):
    {lingering}
    code = main(argv, reply)
    Path("ended").touch()
    return code

process.main = main_and_more
process.run()
"""


@pytest.mark.parametrize(
    ("lingering", "number", "argv", "code"),
    [
        ("thread", signal.SIGINT, ["init-tables", *SAMPLE], 0),
        ("thread", signal.SIGTERM, ["check", *ON_DAY, *SAMPLE], 2),
        ("exit function", signal.SIGTERM, ["init-tables", *SAMPLE], 0),
    ],
)
def test_signal_after_the_last_word_only_ends_the_process(
    lingering: str, number: signal.Signals, argv: Sequence[str], code: int
) -> None:
    program = WITH_LINGERING.format(lingering=LINGERING[lingering])
    with started(*argv, "-q", "--json", program=program) as process:
        assert process.stdout
        written = ""
        while not written.endswith("\n}\n"):
            written += process.stdout.readline()
        wait_until(Path("ended").exists, process)
        rest = ended_by(process, number)
    outcome = Outcome(rest.code, written + rest.out, rest.err)
    assert outcome.code == code
    assert envelope(outcome)["exit_code"] == code
    assert ("interrupted" in outcome.err, "terminated" in outcome.err) == (False, False)


def unread(pipe: IO[str] | None) -> int:
    """How many bytes a pipe holds."""
    assert pipe
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_signal_ends_a_run_whose_result_nobody_reads(maang: Maang) -> None:
    names = ",".join(f"T{number}" for number in range(3000))
    assert maang("ingest", *ON_DAY, *SAMPLE, "--tickers", names).code == 0
    with started("show", *ON_DAY, *SAMPLE, "--tickers", names, "--table", "staging", "-q", "--json") as process:
        assert process.stdout
        assert process.stdout.readline() == "{\n"  # and no more
        wait_until(lambda: unread(process.stdout) > 60_000, process)  # the pipe is full
        before = time.monotonic()
        process.terminate()
        assert process.wait(PATIENCE) == ExitCode.TERMINATED
        assert time.monotonic() - before < SOON
        assert process.stderr
        assert "error: terminated; published data is intact\n" in process.stderr.read()


def can_unshare() -> bool:
    try:
        return subprocess.run(["unshare", "-rfp", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@each_signal
@pytest.mark.skipif(not can_unshare(), reason="needs Linux' unshare, and the right to use it")
def test_signal_ends_a_run_that_is_the_first_process_of_a_container(number: signal.Signals, polygon: PolygonServer) -> None:
    """Linux drops a signal to such a process if it has no handler and does not block it."""
    polygon.always = lambda path: Answer(delay=3600)
    with started("-rfp", "--kill-child", *PROGRAM, "run-day", *META, "-q", program=["unshare"]) as process:
        wait_until(lambda: polygon.requests, process)
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        before = time.monotonic()
        os.kill(int(first), number)
        failed(outcome_of(process), SIGNALS[number][1])
        assert time.monotonic() - before < SOON


CANCELLING = """
import time
from pathlib import Path
from maang_cli.cli import context
{cancel}
context.Run._stop = stop
from maang_cli.cli.process import run
run()
"""


@pytest.mark.parametrize(
    "cancel",
    ["def stop(run): time.sleep(3600)", "def stop(run): raise RuntimeError('the warehouse is gone')"],
    ids=["stalls", "fails"],
)
def test_signal_ends_a_run_although_the_warehouse_cant_cancel(cancel: str, polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(delay=3600)
    program = CANCELLING.format(cancel=cancel)
    with started("run-day", *META, "-q", "--json", program=program) as process:
        wait_until(lambda: polygon.requests, process)
        outcome = ended_by(process, signal.SIGINT)
    assert envelope(outcome)["error"]["message"] == failed(outcome, ExitCode.INTERRUPTED, outcome.out)[0]


def test_first_of_two_signals_decides(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(delay=3600)
    program = CANCELLING.format(cancel="def stop(run): Path('begun').touch(); time.sleep(3600)")
    with started("run-day", *META, "-q", program=program) as process:
        wait_until(lambda: polygon.requests, process)
        process.terminate()
        wait_until(Path("begun").exists, process)
        failed(ended_by(process, signal.SIGINT), ExitCode.TERMINATED)


def test_main_changes_no_signal_handler(maang: Maang) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    maang("--version")
    after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert after == before


# Terminals

COLOURS = re.compile(r"\x1b\[[0-9;]*(?<![0-9])(3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def screen(written: str) -> list[str]:
    """The lines that are on a terminal in the end, except empty ones. Enough of a terminal for a spinner."""
    lines = [""]
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written):
        if part == "\n":
            lines.append("")
        elif part in ("\r", "\x1b[2K"):
            lines[-1] = ""
        elif part == "\x1b[1A":
            lines.pop()
        elif not part.startswith("\x1b"):
            lines[-1] += part
    return [line for line in lines if line]


@pytest.mark.parametrize("argv", [["run-day", "--date", "never"], ["--help"], ["run-day"]], ids=["error", "help", "settings"])
def test_colours_are_for_terminals_and_no_color_turns_them_off(argv: Sequence[str]) -> None:
    _, coloured = on_terminal(*argv)
    assert COLOURS.search(coloured)
    _, plain = on_terminal(*argv, NO_COLOR="1")
    assert not COLOURS.search(plain)
    assert screen(plain) == screen(coloured)


def test_pipe_gets_no_codes_whatever_the_terminal_is(maang: Maang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    for argv in (["run-day", *ON_DAY, *SAMPLE], ["run-day", *ON_DAY, *SAMPLE, "--tickers", "meta"], ["run-day"], ["--help"]):
        outcome = maang(*argv)
        assert "\x1b" not in outcome.out + outcome.err


def test_step_is_shown_on_a_terminal_and_removed(polygon: PolygonServer) -> None:
    serve(polygon, "META")
    shown = threading.Event()
    polygon.always = held(shown)
    terminal = Terminal("run-day", *META)
    terminal.read_until(" ingest")
    shown.set()
    code, written = terminal.end()
    assert code == 0
    assert re.search(r"[^ \n\x1b] \x1b?(\[[0-9;]*m)?ingest", written), "the step that runs"
    assert written.rfind(SHOW_CURSOR) > written.rfind(HIDE_CURSOR)
    assert "maang.daily_stock_prices " in CODES.sub("", written)


def test_log_lines_appear_above_the_spinner(polygon: PolygonServer) -> None:
    serve(polygon, "META")
    polygon.script.append(Answer(429, b'{"error":"too fast"}', {"Retry-After": "1"}))
    code, written = on_terminal("ingest", *META)
    assert code == 0
    assert any(re.fullmatch(r"127\.0\.0\.1:\d+: HTTP 429, too fast; trying again in 1 s", line) for line in screen(written))


def test_ctrl_c_leaves_the_terminal_in_order(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(delay=3600)
    terminal = Terminal("run-day", *META)
    terminal.read_until("ingest")
    terminal.type("\x03")
    code, written = terminal.end()
    assert code == ExitCode.INTERRUPTED
    assert written.rfind(SHOW_CURSOR) > written.rfind(HIDE_CURSOR) > -1
    assert screen(written)[1:] == [
        "error: interrupted; published data is intact",
        "hint: run the same command again to finish",
    ]
    assert screen(written)[0].startswith("init-tables   created the schema")


ASKS = "from maang_cli.cli import commands, process; commands.ASK_SECONDS = 0; process.run()"


def test_ctrl_c_at_the_question_changes_nothing(polygon: PolygonServer, home: Path) -> None:
    serve(polygon, "META")
    terminal = Terminal("backfill", *META, program=ASKS)
    terminal.read_until("continue? [y/N]")
    terminal.type("\x03")
    code, written = terminal.end()
    assert code == ExitCode.INTERRUPTED
    assert screen(written) == [
        "error: interrupted; published data is intact",
        "hint: run the same command again to finish",
    ]
    assert polygon.requests == []
    assert not (home / "warehouse" / "maang").exists()


def test_dumb_terminal_gets_no_codes(polygon: PolygonServer) -> None:
    polygon.always = lambda path: Answer(delay=3600)
    terminal = Terminal("run-day", *META, TERM="dumb")
    terminal.read_until("created the schema")
    terminal.type("\x03")
    code, written = terminal.end()
    assert code == ExitCode.INTERRUPTED
    assert "error: interrupted" in written
    assert "\x1b" not in written


def test_values_stay_whole_on_a_narrow_terminal(maang: Maang) -> None:
    assert maang("run-day", *ON_DAY, *SAMPLE, "--tickers", "META").code == 0
    code, written = on_terminal("show", *ON_DAY, *SAMPLE, "--tickers", "META", "-q", columns=59, NO_COLOR="1")
    assert code == 0
    for value in ("META", DAY, "333.00", "335.90", "330.23", "334.17", "16724100", "333.43", "183781"):
        assert value in written


@pytest.mark.parametrize("argv", [["--help"], ["run-day", "--date", "never"]], ids=["help", "error"])
def test_very_narrow_terminal_is_not_an_error(argv: Sequence[str]) -> None:
    code, written = on_terminal(*argv, columns=10)
    assert code == (2 if "never" in argv else 0)
    assert "Traceback" not in written
