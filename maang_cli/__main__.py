"""`maang`, and `python -m maang_cli`."""

import sys


def main() -> int:
    """Run the command line; see `cli.main`."""
    try:
        from maang_cli.cli import main as run  # noqa: PLC0415 - half a second, in which Ctrl-C may come

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
