"""`maang`, and `python -m maang_cli`."""

import os
import sys

STOPPED = 128
"""Exit codes above it are of a run that a signal has ended."""


def main() -> int:
    """Run the command line; see `cli.main`."""
    try:
        from maang_cli.cli import main as run  # noqa: PLC0415 - half a second, in which Ctrl-C may come

        code = run()
        if code > STOPPED:
            # At once: a thread that still works, when a second signal came, would bring the interpreter down as it leaves.
            sys.stderr.flush()
            os._exit(code)
        return code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
