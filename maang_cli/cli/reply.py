"""What a command answers: its result on stdout, for people or as one JSON document (docs/json.md), and its error on stderr."""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

from maang_cli.errors import ExitCode


class Reply:
    """The reply to one command line. The command fills it in, `process` ends it, and a signal may end it earlier."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.as_json = "--json" in argv
        self.command: str | None = None
        """None until the command is known."""
        self.sessions: Sequence[date] = ()
        """The sessions that the command works on, in order."""
        self.result: object = None
        """What `show` was given last."""
        self.notifies = False
        """Whether a failure is reported to MAANG_NOTIFY."""
        self.stop: Callable[[], None] = lambda: None
        """Stops what the terminal shows and what runs in the warehouse; a signal calls it."""
        self.unfinished: Path | None = None
        """A file that is being written. A signal removes it."""
        self.lock = threading.Lock()
        """Whoever holds it may write the last word."""
        self.exit_code: int | None = None
        """Set with the last word."""
        self.error = self.hint = ""
        """What is wrong, and what to type next: set with the last word."""

    def show(self, value: object) -> None:
        """The command's result: printed now for people, kept for the document in JSON."""
        self.result = value
        if not self.as_json:
            from maang_cli import render

            render.result(value)

    def write(self, data: bytes) -> None:
        """The command's result, as a file has it."""
        sys.stdout.flush()
        with sys.stdout.losing() if isinstance(sys.stdout, Stream) else nullcontext():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def end(self, code: int, message: str = "", hint: str = "") -> int:
        """The last word: the document in JSON, if a command was carried out or failed, and the error. Returns the exit code."""
        with self.lock:
            if self.as_json and (self.command or message):
                sys.stdout.write(self.document(code, message, hint))
            sys.stdout.flush()
            if lost := getattr(sys.stdout, "lost", ""):
                reason = f"the result can't be written: {lost}"
                message = f"{message}; {reason}" if message else reason
                if code == ExitCode.DONE:
                    code, hint = ExitCode.MAY_HEAL, "the work is done; free some space, and run the same command again"
            if message and code != ExitCode.BUG:  # a bug prints its traceback
                from maang_cli import render

                render.error(message, hint)
            self.exit_code, self.error, self.hint = code, message, hint
        return code

    def document(self, code: int, message: str = "", hint: str = "") -> str:
        """The JSON document that ends with this exit code, and with this error, if there is a message."""
        import json

        from maang_cli import __version__

        found: dict[str, Any] = {
            "version": __version__,
            "command": self.command,
            "outcome": ExitCode(code).name.lower(),
            "exit_code": int(code),
            "sessions": [day.isoformat() for day in self.sessions],
            "result": None,
        }
        if message:
            found["error"] = {"message": message, "hint": hint}
        if self.result is None:
            return json.dumps(found, indent=2) + "\n"
        from maang_cli.render.documents import document, plain

        found["result"] = document(self.result)
        return json.dumps(found, indent=2, default=plain) + "\n"


class Stream(io.TextIOWrapper):
    """stdout or stderr, made safe to write to: if nobody reads it or its disk is full, the text is lost and the work goes on."""

    lost = ""
    """Why a text was lost; empty if none was, or if the reader left, who then wanted no more."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        # A character that the terminal lacks is no reason to fail.
        super().__init__(stream.detach(), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering)

    def write(self, text: str) -> int:
        with self.losing():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self.losing():
            super().flush()

    @contextmanager
    def losing(self) -> Iterator[None]:
        """What can't be written inside the block is lost."""
        try:
            yield
        except OSError as exc:
            if not isinstance(exc, BrokenPipeError):
                self.lost = exc.strerror or str(exc)
            # The text is still in a buffer, and writing it would fail again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
