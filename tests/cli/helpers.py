"""What the tests of the command line share: common arguments, real processes, a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import IO, Any

from maang_cli import __version__
from maang_cli.errors import ExitCode
from tests.conftest import Outcome
from tests.forks import MAANG, Fork, fork_server
from tests.polygon_server import KEY, PolygonServer, row

DAY = "2025-10-14"
SESSION = date.fromisoformat(DAY)
ON_DAY = ("--date", DAY)
SAMPLE = ("--source", "sample")
META = (*ON_DAY, "--tickers", "META")
PROGRAM = (sys.executable, "-m", "maang_cli")
Program = str | Sequence[str]
"""Python source, which a fork carries out, or the first words of a command line, which takes Python's own time to start."""
Process = Fork | subprocess.Popen[str]
PATIENCE = 300
"""Seconds for a process on a busy machine."""
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""A terminal's control codes."""


def failed(outcome: Outcome, code: int, out: str = "") -> tuple[str, str]:
    """The message and the hint of a run that exited with `code`: all of stderr."""
    assert (outcome.code, outcome.out) == (code, out), outcome
    lines = outcome.err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["error:", *["hint:"] * max(len(lines) - 1, 1)], outcome.err
    message, *hints = (line.partition(" ")[2] for line in lines)
    hint = "\n".join(hints)
    assert message
    assert hint
    assert KEY not in outcome.err
    return message, hint


def envelope(outcome: Outcome) -> dict[str, Any]:
    """The one document of a run with --json, which is all of stdout and agrees with the exit code."""
    assert outcome.out.endswith("}\n"), outcome
    found: dict[str, Any] = json.loads(outcome.out)
    assert list(found)[:6] == ["version", "command", "outcome", "exit_code", "sessions", "result"]
    assert list(found)[6:] == (["error"] if outcome.code else [])
    assert (found["version"], found["exit_code"]) == (__version__, outcome.code)
    assert found["outcome"] == ExitCode(outcome.code).name.lower()
    if outcome.code:
        assert list(found["error"]) == ["message", "hint"]
        assert found["error"]["message"]
    assert KEY not in outcome.out
    return found


def serve(polygon: PolygonServer, *tickers: str) -> None:
    """Let the server have plausible bars of these tickers on the session, and no others."""
    polygon.days[SESSION] = [row(ticker, SESSION) for ticker in tickers]


def held(event: threading.Event, text: str = "") -> Callable[[str], None]:
    """For `PolygonServer.always`: a call whose path contains `text` waits for the event, and then gets its usual answer."""

    def wait(path: str) -> None:
        if text in path:
            event.wait(PATIENCE)

    return wait


def completed(argv: Sequence[str], *, program: Program = MAANG, stdout: int | IO[str] = subprocess.PIPE) -> Outcome:
    """`maang` in a process of its own, to its end."""
    with started(*argv, program=program, stdout=stdout) as process:
        return outcome_of(process)


@contextmanager
def started(*argv: str, program: Program = MAANG, stdout: int | IO[str] = subprocess.PIPE) -> Iterator[Process]:
    """`maang` in a process of its own, which is killed at the end if it still runs."""
    process: Process
    if isinstance(program, str):
        process = fork_server().start(*argv, program=program, stdout=stdout if isinstance(stdout, int) else stdout.fileno())
    else:
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        process = subprocess.Popen([*program, *argv], stdin=null, stdout=stdout, stderr=pipe, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], object], process: Process) -> None:
    """Wait for something that the running process does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def outcome_of(process: Process) -> Outcome:
    """How a process that is about to end ends."""
    out, err = process.communicate(timeout=PATIENCE)
    return Outcome(process.wait(), out or "", err)


class Terminal:
    """A run on a terminal of its own, which is the process's controlling terminal: what is typed there may be Ctrl-C."""

    def __init__(self, *argv: str, columns: int = 100, program: str = MAANG, **env: str) -> None:
        self._ours, its = pty.openpty()
        termios.tcsetwinsize(its, (40, columns))
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
        env = kept | {"TERM": "xterm-256color"} | env
        self._process = Fork(fork_server().fork(program, argv, [its, its, its], env, terminal=True))
        os.close(its)
        self.written = b""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_until(self, text: str) -> None:
        """Read what the run writes until it has written this, control codes aside."""
        while text not in CODES.sub("", self.written.decode(errors="replace")):
            self.written += os.read(self._ours, 65536)

    def end(self) -> tuple[int, str]:
        """The exit code, and everything that the run has written."""
        try:
            while part := os.read(self._ours, 65536):
                self.written += part
        except OSError:
            """Linux reports the end of the last writer like this."""
        finally:
            os.close(self._ours)
        with self._process:
            return self._process.wait(PATIENCE), self.written.decode().replace("\r\n", "\n")


def on_terminal(*argv: str, columns: int = 100, typed: str = "", program: str = MAANG, **env: str) -> tuple[int, str]:
    """A run on a terminal, where `typed` waits to be read: its exit code, and everything that it wrote."""
    terminal = Terminal(*argv, columns=columns, program=program, **env)
    terminal.type(typed)
    return terminal.end()
