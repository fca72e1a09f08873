"""CPU seconds of whole processes that do little, so that most of their time is start and exit: a day of five bars, and each of
its steps, on a filled warehouse; `--help` against a bare Typer app with the same commands and options.

With `--against PYTHON`, the Python of an environment with another version of maang, both versions take turns. Extras make imports
slower (PyArrow imports pandas if it is there): compare environments without them.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from run_cost import Cost, clean_environment, interleaved, machine, process
from typer.main import get_command

from maang_cli.cli.commands import app

DAY = ("--date", "2025-10-14")
FIVE = ("--tickers", ",".join(f"T{number:05}" for number in range(5)))
SAMPLE = (*DAY, "--source", "sample")
PACKAGES = ("maang-cli", "typer", "pyarrow", "duckdb", "pyiceberg", "pandas")


def bare_app() -> str:
    """The text of a module with maang's commands and options, and empty bodies."""
    lines = ["import typer", "app = typer.Typer()"]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        options = [
            f"p{number}: str = typer.Option('', {parameter.opts[0]!r}, help={parameter.help!r})"
            for number, parameter in enumerate(command.params)
            if parameter.opts[0].startswith("--")
        ]
        lines += [f"@app.command({name!r}, help={command.help!r})", f"def c{len(lines)}({', '.join(options)}): ..."]
    return "\n".join([*lines, "app()", ""])


@contextmanager
def vendor() -> Iterator[dict[str, str]]:
    """Settings for the vendor on loopback."""
    server = subprocess.Popen(
        [sys.executable, Path(__file__).absolute().with_name("fake_vendor.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield {"MAANG_POLYGON_URL": server.stdout.readline().strip(), "POLYGON_TOKEN": "none"}
    finally:
        server.terminate()
        server.wait()


def runs_of(python: str, home: str, polygon: dict[str, str]) -> dict[str, Callable[[], Cost]]:
    """Each command's run with the maang of one environment. The first day is loaded here."""
    maang = partial(process, "-m", "maang_cli", python=python)
    sample = ("--home", home, *SAMPLE)
    maang("run-day", *sample)
    return {
        "run-day, sample": partial(maang, "run-day", *sample),
        "run-day, polygon": partial(maang, "run-day", "--home", home, *DAY, *FIVE, environment=polygon),
        **{step: partial(maang, step, *sample) for step in ("ingest", "check", "promote", "cumulate")},
        "--help": partial(maang, "--help"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="PYTHON", help="the Python of an environment with another version of maang")
    parser.add_argument("--repetitions", type=int, default=20, help="how often each run is repeated (default: 20)")
    given = parser.parse_args()
    clean_environment()
    print(machine(PACKAGES), end="\n\n")
    with TemporaryDirectory() as folder, contextlib.chdir(folder), vendor() as polygon:  # Python would import maang from here
        ours = runs_of(sys.executable, f"{folder}/ours", polygon)
        theirs = runs_of(given.against, f"{folder}/theirs", polygon) if given.against else {}
        bare = Path(folder, "bare.py")
        bare.write_text(bare_app())
        theirs["--help"] = partial(process, str(bare), "--help")
        print(f"{'CPU seconds, medians':24}{'maang':>8}{'peer':>8}{'ratio':>8}")
        for name, run in ours.items():
            costs = interleaved({"ours": run, **({"theirs": theirs[name]} if name in theirs else {})}, given.repetitions)
            ours_cpu, theirs_cpu = costs["ours"].cpu, costs["theirs"].cpu if name in theirs else None
            rest = f"{theirs_cpu:8.2f}{ours_cpu / theirs_cpu:8.2f}" if theirs_cpu else ""
            print(f"{name:24}{ours_cpu:8.2f}{rest}", flush=True)
        print("The peer of --help is a bare Typer app; that of the others is the version given by --against.")


if __name__ == "__main__":
    main()
