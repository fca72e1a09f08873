"""`maang`, and `python -m maang_cli`."""

import os
import signal
import sys
from contextlib import suppress

STOPPED = 128
"""Exit codes above it are of a run that a signal has ended: 128 + its number."""


def main() -> int:
    """Run the command line; see `cli.main`, which has signals of its own while it works."""
    code: int | None = None

    def leave(number: int, _frame: object) -> None:
        # An exception would do while modules are loaded, but not on the way out, where the next signal may come in its handler.
        if code is None:
            with suppress(OSError):
                os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
        os._exit(STOPPED + number if code is None else code)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored stays ignored, as in `cli.main`
            signal.signal(number, leave)
    from maang_cli.cli import main as run  # noqa: PLC0415 - half a second, in which Ctrl-C may come

    code = run()
    if code > STOPPED:
        # At once: a thread that still works, when a second signal came, would bring the interpreter down as it leaves.
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
