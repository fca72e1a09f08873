"""The commands: parse, one call, render. `main` turns a MaangError into two lines on stderr and an exit code."""

import contextlib
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from maang_cli import __version__
from maang_cli.command import Run, Which, app, command, mute_stdout
from maang_cli.errors import ExitCode, MaangError, SettingsError

# What a command needs beyond this is imported when it runs: `maang --help` loads no driver.
if TYPE_CHECKING:
    from maang_cli.checks import Audit

__all__ = ["app", "main"]

Refetch = Annotated[bool, typer.Option("--refetch", help="Take all sessions again, those that are there too.")]
ASK_SECONDS = 3600
"""A plan that takes longer is asked about."""


class Part(StrEnum):
    schema = "schema"
    staging = "staging"
    production = "production"
    cumulative = "cumulative"


class Shown(StrEnum):
    production = "production"
    staging = "staging"
    cumulative = "cumulative"


@command("init-tables")
def init_tables(
    run: Run,
    which: Which,
    only: Annotated[Part | None, typer.Option(help="Create this one alone.")] = None,
) -> None:
    """Create what is missing: schema, staging (where a session is given), production, cumulative. Safe to repeat.

    Example: `maang init-tables --date 2025-10-14`
    """
    from maang_cli import pipeline

    request = run.may_request(which)
    if only is Part.staging and not request.sessions:
        raise SettingsError("a staging table is of a session", hint="give --date, such as --date 2025-10-14")
    parts = [only.value] if only else pipeline.PARTS
    run.finish(run.step("init-tables", request, lambda request: pipeline.init_tables(run.warehouse, request, parts)))


@command("ingest")
def ingest(run: Run, which: Which) -> None:
    """Fetch the sessions' bars into their staging table, in the place of what was there.

    Example: `maang ingest --date 2025-10-14`
    """
    from maang_cli import pipeline

    run.finish(run.step("ingest", run.must_request(which), lambda request: pipeline.ingest(run.source, run.warehouse, request)))


@command("check")
def check(run: Run, which: Which) -> None:
    """Audit staging: every check with its promise and the rows that break it. Ends with 0, 3 or (some sessions refused) 5.

    Example: `maang check --date 2025-10-14 --json`
    """
    from maang_cli import pipeline

    audit = run.step("check", run.must_request(which), lambda request: pipeline.check(run.warehouse, request))
    if not audit.passing:
        raise pipeline.refused(audit)
    run.finish(audit)
    _end(audit)


@command("promote")
def promote(run: Run, which: Which) -> None:
    """Audit staging, then publish exactly the audited rows of the sessions that pass, in one commit.

    Example: `maang promote --date 2025-10-14`
    """
    from maang_cli import pipeline

    done = run.step("promote", run.must_request(which), lambda request: pipeline.promote(run.warehouse, request))
    run.finish(done)
    _end(done.audit)


@command("cumulate")
def cumulate(run: Run, which: Which) -> None:
    """Refresh the 7-session windows of the sessions and of the 6 after each, in one commit.

    Example: `maang cumulate --date 2025-10-14`
    """
    from maang_cli import pipeline

    run.finish(run.step("cumulate", run.must_request(which), lambda request: pipeline.cumulate(run.warehouse, request)))


@command("drop-staging")
def drop_staging(run: Run, which: Which) -> None:
    """Drop the sessions' staging table.

    Example: `maang drop-staging --date 2025-10-14`
    """
    from maang_cli import pipeline

    run.finish(run.step("drop-staging", run.must_request(which), lambda request: pipeline.drop_staging(run.warehouse, request)))


@command("show")
def show(
    run: Run,
    which: Which,
    table: Annotated[Shown, typer.Option(help="Which table.")] = Shown.production,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIMESTAMP", help="As it was then, ISO 8601; UTC unless it says otherwise.")
    ] = None,
) -> None:
    """Show the sessions' rows, today's or those of an earlier time.

    Example: `maang show --date 2025-10-14 --table cumulative --json`
    """
    from maang_cli import pipeline

    request, instant = run.must_request(which), _instant(as_of)
    run.finish(pipeline.show(run.warehouse, request, table.value, instant))


@command("run-day")
def run_day(run: Run, which: Which) -> None:
    """The whole day in one process: init-tables, ingest, check, promote, cumulate, drop-staging.

    Without --date: the last finished session.

    Example: `maang run-day --date 2025-10-14 --source sample`
    """
    from maang_cli import pipeline

    request = run.request(which)
    done = pipeline.run_day(run.source, run.warehouse, request, run.narrator.step)
    run.finish(done)
    _end(done.audit)


@command("plan")
def plan(run: Run, which: Which, refetch: Refetch = False) -> None:
    """What backfill would do, without doing it: sessions, calls, minutes, commits, rows.

    Example: `maang plan --from 2025-10-01 --to 2025-10-14`
    """
    from maang_cli import backfill

    request = run.must_request(which)
    run.finish(run.step("plan", request, lambda request: backfill.plan(run.source, run.warehouse, request, refetch=refetch)))


@command("backfill")
def backfill(
    run: Run,
    which: Which,
    refetch: Refetch = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before a plan of more than an hour.")] = False,
) -> None:
    """Fetch and publish every session of a range that production lacks, and make the windows that are missing or stale.

    Kill it anywhere: the same command does what is left.

    Example: `maang backfill --from 2025-10-01 --to 2025-10-14`
    """
    from maang_cli import backfill, render

    request = run.must_request(which)
    todo = run.step("plan", request, lambda request: backfill.plan(run.source, run.warehouse, request, refetch=refetch))
    if todo.seconds > ASK_SECONDS and not yes and not run.narrator.agrees(render.line(todo)):
        raise SettingsError(f"not begun: {render.line(todo)}", hint="give --yes, or a shorter range")
    if todo.calls.in_hand:
        run.narrator.say(f"note: answers of an earlier run in hand: {todo.calls.in_hand}")
    with run.narrator.meter() as tell:
        done = backfill.run(run.source, run.warehouse, todo, tell)
    run.finish(done)
    if error := done.verdict():
        raise error


@command("status")
def status(run: Run, which: Which) -> None:
    """Is anything missing, is anything late? Gaps, stale windows, staging left behind, freshness, size. Ends with 0 or 5.

    Without dates: from the first session held to the last finished one.

    Example: `maang status --from 2025-10-01 --to 2025-10-14`
    """
    from maang_cli import status

    request = run.may_request(which)
    done = run.step("status", request, lambda request: status.status(run.warehouse, request, datetime.now(UTC)))
    run.finish(done)
    if error := done.verdict():
        raise error


@command("maintain")
def maintain(run: Run) -> None:
    """Expire old snapshots, and remove files that nothing reaches. Every writing command does the first by itself.

    Example: `maang maintain`
    """
    from maang_cli import render

    with run.narrator.step("maintain"):
        done = run.warehouse.maintain()
    run.finish(render.Maintained(run.settings.warehouse, done))


def _end(audit: "Audit") -> None:
    """End with 5 when the gate refused some of the sessions."""
    from maang_cli import pipeline

    if not audit.passed:
        raise pipeline.partly_refused(audit)


@command("doctor")
def doctor(run: Run) -> None:
    """Look at all that a run needs: warehouse, rights, volume, source, key, plan, clock. Writes a scratch table only.

    Example: `maang doctor`
    """
    from maang_cli import doctor

    done = doctor.checkup(lambda: run.warehouse, lambda: run.source)
    for error in done.errors:
        error.hint = run.with_flags(error.hint)
    run.finish(done)
    if done.errors:
        raise typer.Exit(done.errors[0].exit_code)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"maang {__version__}")
        raise typer.Exit


@app.callback()
def callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Daily stock bars in your own lakehouse: fetched, audited, published atomically.

    Example: `maang run-day --date 2025-10-14 --source sample`
    """


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        raise SettingsError(
            f"{text[:40]!r} is no timestamp", hint="give --as-of as ISO 8601, such as 2025-10-15T06:00:00-04:00"
        ) from exc
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


STOPPED = {
    signal.SIGINT: ("interrupted", ExitCode.INTERRUPTED),
    signal.SIGTERM: ("terminated", ExitCode.TERMINATED),
}
"""What is said of a signal, and the exit code."""


class _Stopped(BaseException):
    """A signal arrived."""


class _Signals:
    """Signals stop the work by an exception; once it is over there is nothing to stop, and they are let go."""

    def __init__(self) -> None:
        self.working = True
        self.arrived: int | None = None
        # One that is ignored stays so: a shell gives SIGINT to its background jobs like that. None: not Python's to give back.
        self._before = {number: found for number in STOPPED if (found := signal.getsignal(number)) not in (signal.SIG_IGN, None)}

    def _stop(self, number: int, _frame: object) -> None:
        if self.working:
            self.arrived = number
            raise _Stopped

    def listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._stop)

    def give_back(self) -> None:
        for number, found in self._before.items():
            signal.signal(number, found)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see `errors.ExitCode`). A bug raises."""
    if sys.stdout is None:  # closed by the caller: `maang .. >&-`
        mute_stdout()
    signals = _Signals()
    try:
        signals.listen()
        code = _call(argv)
        sys.stdout.flush()
        signals.working = False
    except BaseException as exc:
        signals.working = False
        if signals.arrived is not None:  # whatever was raised: a library that is interrupted may raise an error of its own
            how, code = STOPPED[signal.Signals(signals.arrived)]
            with contextlib.suppress(OSError):  # nobody reads it
                _say_error(f"{how}; what was published stays whole", "run the same command again to finish")
        elif isinstance(exc, BrokenPipeError):  # nobody reads the result any more; the work itself is done
            mute_stdout()
            code = ExitCode.DONE
        else:
            raise
    finally:
        signals.give_back()
    return code


def _call(argv: Sequence[str] | None) -> int:
    try:
        code = app(args=list(argv) if argv is not None else None, prog_name="maang", standalone_mode=False)
    except MaangError as exc:
        _say_error(exc.message, exc.hint)
        return exc.exit_code
    except TyperException as exc:
        if said := exc.format_message():  # without one it has shown the help
            context = getattr(exc, "ctx", None)
            _say_error(said.rstrip("."), f"{context.command_path if context else 'maang'} --help")
        return ExitCode.UNUSABLE
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):
            raise BrokenPipeError from exc
        raise
    return code or ExitCode.DONE


def _say_error(message: str, hint: str) -> None:
    from maang_cli import render

    render.error(message, hint)
