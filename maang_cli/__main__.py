"""`maang`, and `python -m maang_cli`."""

from maang_cli.cli.process import run

if __name__ == "__main__":
    run()
