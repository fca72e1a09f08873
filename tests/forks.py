"""`maang` in a process of its own, which is a fork of one that has imported everything: it starts in a few milliseconds.

A fork is what `python -m maang_cli` is after its imports: it has its own environment, folder, streams, signals and end. A test of
what happens before that starts Python instead.

One server serves a whole test session. For each run it forks a keeper, which forks the run, waits for it, and reports how it
ended, because only a parent can do that.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

MAANG = "from maang_cli.cli.process import run; run()"
"""The program that a fork carries out, unless a test has another one."""
PRELOADED = (
    "maang_cli.sources.polygon.source",
    "maang_cli.warehouses.databricks.warehouse",
    "tests.kill_points",
)
"""Modules that forks need beside those of a day with the sample source."""


# The server's side


def serve(control: socket.socket) -> str:
    """Fork as often as it is asked for, until the other side is closed. In a run's fork: returns its program."""
    assert threading.active_count() == 1, "a fork would lack the other threads"
    gc.freeze()  # so that the forks' garbage collectors don't copy all memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Linux and macOS then reap the keepers
    while True:
        _, descriptors, *_ = socket.recv_fds(control, 1, 4)
        if not descriptors:
            sys.exit()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
            control.close()
            return _keep(socket.socket(fileno=descriptors[0]), descriptors[1:])
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(connection: socket.socket, streams: Sequence[int]) -> str:
    """Fork the run, and report its process id and each of its states. In the run's fork: returns its program."""
    job = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        return _become(streams, **job)
    for descriptor in (0, 1, *streams):
        os.close(descriptor)  # otherwise the readers of the run's output wait for the keeper, too
    with contextlib.suppress(OSError):  # nobody waits for the end
        connection.sendall(f"{pid}\n".encode())
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                break
            connection.sendall(b"stopped\n")
    os._exit(0)


def _become(streams: Sequence[int], program: str, argv: list[str], env: dict[str, str], folder: str, terminal: bool) -> str:
    """Turn this process into a new one, as far as it can be seen."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    if terminal:
        os.setsid()
        fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Not the old ones again, which remember whether they can seek.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), "utf-8", errors, line_buffering=by_line)
        for number, errors, by_line in ((1, "strict", os.isatty(1)), (2, "backslashreplace", True))
    )
    sys.argv = ["maang", *argv]
    return program


def load(modules: Sequence[str]) -> None:
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


SERVER = """
import socket, sys
from tests.forks import PRELOADED, load, serve
load([*sys.argv[2:], *PRELOADED])
exec(serve(socket.socket(fileno=int(sys.argv[1]))), {"__name__": "__main__"})
"""
"""The fork's program runs at the bottom of the stack, so that Python ends the process as it always does."""
LOADS = """
import sys
from maang_cli.cli.process import main
code = main(sys.argv[1:])
print("\\n" + " ".join(sys.modules))
sys.exit(code)
"""
"""Prints all modules that a run has loaded."""


# The tests' side


class Fork:
    """A run, with what the tests need of a `subprocess.Popen`'s methods."""

    def __init__(self, connection: socket.socket, stdout: IO[str] | None = None, stderr: IO[str] | None = None) -> None:
        self._connection = connection
        self._reports = connection.makefile()
        self.pid = int(self._reports.readline())
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None
        self.args = [MAANG]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for stream in (self.stdout, self.stderr):
            if stream:
                stream.close()
        self.wait()
        self.close()

    def close(self) -> None:
        """Forget the run; nobody learns how it ends."""
        self._reports.close()
        self._connection.close()

    def state(self, timeout: float | None) -> int | str | None:
        """The exit code, or minus the signal's number, or "stopped"; None if neither happens within `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                return None
            report = self._reports.readline().strip()
            if report == "stopped":
                return report
            self.returncode = int(report)
        return self.returncode

    def poll(self) -> int | None:
        self.state(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: the run has not ended within `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            if self.state(None if end is None else max(end - time.monotonic(), 0)) is None:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read stdout and stderr to their ends, and wait for the run's end. Raises as `wait`."""
        texts = ["", ""]

        def read(number: int, stream: IO[str]) -> None:
            texts[number] = stream.read()

        opened = [stream for stream in (self.stdout, self.stderr) if stream and not stream.closed]
        readers = [
            threading.Thread(target=read, args=(number, stream), daemon=True)
            for number, stream in enumerate((self.stdout, self.stderr))
            if stream in opened
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The tests' end of a server. Threads may use it at the same time."""

    def __init__(self, *modules: str) -> None:
        self._control, other = socket.socketpair()
        self._lock = threading.Lock()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(other.fileno()), *modules],
                cwd=Path(__file__).parents[1],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the tests, which then close their end
            )

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def fork(
        self,
        program: str,
        argv: Sequence[str],
        streams: Sequence[int],
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> socket.socket:
        """Start a run in the folder of this process; returns the connection of a `Fork`.

        `streams` are the descriptors of its stdin, stdout and stderr. `env`: its whole environment, by default that of this
        process. `terminal`: stdin becomes its controlling terminal.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            socket.send_fds(self._control, [b"."], [theirs.fileno(), *streams])
        job = {"program": program, "argv": argv, "env": dict(env or os.environ), "folder": str(Path.cwd()), "terminal": terminal}
        ours.sendall((json.dumps(job) + "\n").encode())
        return ours

    def start(self, *argv: str, program: str = MAANG, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> Fork:
        """Start a run without input. `stdout` and `stderr` are descriptors, or `PIPE`; `stderr` may be `STDOUT`."""
        with contextlib.ExitStack() as ours:
            streams = [os.open(os.devnull, os.O_RDONLY)]
            ours.callback(os.close, streams[0])
            readers: list[IO[str] | None] = []
            for target in (stdout, stderr):
                reader = None
                if target == subprocess.PIPE:
                    reading, writing = os.pipe()
                    ours.callback(os.close, writing)
                    reader = os.fdopen(reading, encoding="utf-8")
                    streams.append(writing)
                else:
                    streams.append(streams[1] if target == subprocess.STDOUT else target)
                readers.append(reader)
            return Fork(self.fork(program, argv, streams), *readers)


@functools.cache
def fork_server() -> ForkServer:
    """The server of this test session. It takes some seconds to start, so the first test that needs it starts it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAANG_", "POLYGON_", "DATABRICKS_"))}
    with tempfile.TemporaryDirectory() as home:
        argv = [sys.executable, "-c", LOADS, "run-day", "--date", "2025-10-14", "--source", "sample", "--home", home]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=True)
    server = ForkServer(*done.stdout.splitlines()[-1].split())
    atexit.register(server.close)
    return server
