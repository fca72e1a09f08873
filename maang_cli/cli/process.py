"""The process around one command: signals, standard streams and exit codes. In this order:

1. `run` blocks SIGINT and SIGTERM and starts a thread that waits for them, before it imports what the commands need.
2. `main` carries out the command, which shows its result. Then `main` writes the last word: an error, or the JSON document. Then
   it reports a failure to MAANG_NOTIFY.
3. A signal that arrives before the last word ends the process from that thread, whatever the others are doing: it cancels the
   statement that runs in the warehouse, says so in two lines, and exits with 130 or 143. That is as safe as kill -9, which every
   write survives; the next run removes the leftovers.
4. A signal that arrives after the last word only ends the process sooner. The work is done, and the exit code says so.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import NoReturn, cast

from maang_cli.cli.reply import Reply, Stream
from maang_cli.errors import ExitCode, MaangError

STOP_SECONDS = 0.8
"""How long a signal waits for the warehouse to cancel its statement, or for a process that is ending anyway."""
WRITE_SECONDS = 5
"""How long a signal waits for somebody to read what is written."""
SIGNALS = {
    signal.SIGINT: ("interrupted", ExitCode.INTERRUPTED),
    signal.SIGTERM: ("terminated", ExitCode.TERMINATED),
}
"""What each signal is called in messages, and its exit code."""
CLEAR_LINE = "\r\x1b[2K\x1b[?25h"
"""Removes a question or a spinner from a terminal, and shows the cursor again."""


def run() -> NoReturn:
    """Carry out this process's own command line, and exit."""
    # Most of what is imported and made lives until the end: looking for garbage in it takes a third of a short run.
    gc.set_threshold(100_000, 20)
    # A signal that was ignored stays ignored, as a shell arranges for its background jobs.
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # every thread inherits this, so that only the waiting one gets them
    _prepare_streams()
    reply = Reply(sys.argv[1:])
    if reply.as_json:
        reply.document(ExitCode.DONE)  # loads what a document needs: later another thread may hold the import lock
    if numbers:
        threading.Thread(target=_end_on_signal, args=(numbers, reply), daemon=True).start()
    code = main(sys.argv[1:], reply)
    gc.freeze()  # Python would look through everything once more before it exits
    sys.exit(code)


def _prepare_streams() -> None:
    """Open the standard streams that the caller has closed (`maang .. >&-`), and make the writing ones safe."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        """The lowest free number: otherwise the next file would get it, and then the text that is meant for a stream."""
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0)
    opened = [found or os.fdopen(number, "w") for number, found in ((1, sys.stdout), (2, sys.stderr))]
    sys.stdout, sys.stderr = (Stream(cast("TextIOWrapper", stream)) for stream in opened)


def _end_on_signal(numbers: Sequence[signal.Signals], reply: Reply) -> None:
    how, code = SIGNALS[signal.Signals(signal.sigwait(numbers))]
    message, hint = f"{how}; published data is intact", "run the same command again to finish"
    exit_code: int = code
    try:
        mine = reply.lock.acquire(timeout=WRITE_SECONDS)  # without it: nobody reads the last word, which is being written
        if reply.exit_code is not None:
            exit_code = reply.exit_code
            threading.main_thread().join(STOP_SECONDS)
            return
        _attempt(reply.stop, STOP_SECONDS)
        if mine and reply.as_json:
            _attempt(lambda: _write(1, reply.document(code, message, hint)), WRITE_SECONDS)
        clear = CLEAR_LINE if os.isatty(2) and os.environ.get("TERM") != "dumb" else ""
        _attempt(lambda: _write(2, f"{clear}error: {message}\nhint: {hint}\n"), WRITE_SECONDS)
    finally:
        os._exit(exit_code)


def _attempt(work: Callable[[], object], seconds: float) -> None:
    """Do what may fail or stall, and wait for it no longer than this."""

    def attempt() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)


def _write(number: int, text: str) -> None:
    """Write past Python's buffers, which another thread may hold."""
    rest = text.encode(errors="backslashreplace")
    while rest:
        rest = rest[os.write(number, rest) :]


def main(argv: Sequence[str], reply: Reply | None = None) -> int:
    """Carry out one command; returns the exit code (see `errors.ExitCode`). A bug raises."""
    reply = reply or Reply(argv)
    try:
        code = reply.end(*_call(argv, reply))
    except Exception as exc:
        reply.result = None  # it may be the bug
        reply.end(ExitCode.BUG, f"{type(exc).__name__}: a bug in maang", "report it, with the traceback on stderr")
        _notify(reply)
        raise
    _notify(reply)
    return code


def _notify(reply: Reply) -> None:
    """Report a failure to MAANG_NOTIFY, if the command does that. It comes after the last word: it changes no exit code."""
    code = reply.exit_code or ExitCode.DONE
    if not reply.notifies or not ExitCode.BUG <= code <= ExitCode.PARTIAL:
        return
    log = logging.getLogger("maang")
    try:
        from maang_cli import notify

        if not notify.is_wanted():
            return
        from maang_cli.render.message import message

        told = message(reply.command or "", reply.sessions, code, reply.error, reply.hint, reply.result)
        notify.send(told.title, told.body)
    except MaangError as exc:
        log.warning("warning: no notification was sent: %s; %s", exc.message, exc.hint)
    except Exception as exc:  # noqa: BLE001 - neither a bug here nor one of the library may hide how the run ended
        log.warning("warning: no notification was sent: %s", type(exc).__name__)


def _call(argv: Sequence[str], reply: Reply) -> tuple[int, str, str]:
    """The exit code, and the message and the hint of an error."""
    from typer.exceptions import TyperException

    from maang_cli.cli.commands import app

    try:
        return app(args=list(argv), prog_name="maang", standalone_mode=False, obj=reply) or ExitCode.DONE, "", ""
    except MaangError as exc:
        return exc.exit_code, exc.message, exc.hint
    except TyperException as exc:
        names = [command.name for command in app.registered_commands]
        reply.command = next((word for word in argv[:1] if word in names), None)
        # Without a message Typer has printed the help.
        hint = f"maang {reply.command} --help" if reply.command else "maang --help"
        return ExitCode.UNUSABLE, exc.format_message().rstrip("."), hint
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):  # Typer takes it for stdout's, but that is a `Stream`: it is a bug
            raise exc.__context__ from None
        raise
