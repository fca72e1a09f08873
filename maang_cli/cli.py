"""The commands: parse, one call, render. `main` turns a MaangError into two lines on stderr and an exit code."""

import contextlib
import inspect
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import typer
from typer.exceptions import TyperException

from maang_cli import __version__
from maang_cli.errors import ExitCode, GateRefused, MaangError, MayHeal, NoSession, SettingsError

# What a command needs beyond this is imported when it runs: `maang --help` loads no driver.
if TYPE_CHECKING:
    from maang_cli.checks import Audit
    from maang_cli.pipeline import Request
    from maang_cli.render import Narrator
    from maang_cli.sessions import Selection
    from maang_cli.settings import Settings
    from maang_cli.sources.base import Source
    from maang_cli.warehouses.base import Warehouse

app = typer.Typer(
    name="maang",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    rich_markup_mode="markdown",
)

SETTINGS = "Settings"
OUTPUT = "Output"
DAY = "YYYY-MM-DD"


@dataclass(frozen=True)
class Which:
    """The sessions that a command is asked for."""

    date: Annotated[
        list[str] | None, typer.Option(metavar=DAY, help="The session, a New York date; several times for several sessions.")
    ] = None
    first: Annotated[str | None, typer.Option("--from", metavar=DAY, help="The first date of a range of sessions.")] = None
    last: Annotated[
        str | None, typer.Option("--to", metavar=DAY, help="The last date of the range; else the last finished session.")
    ] = None

    def __str__(self) -> str:
        ends = f"{self.first or ''}..{self.last or ''}" if self.first or self.last else ""
        return ",".join([*(self.date or ()), *filter(None, [ends])])

    def select(self, now: datetime) -> "Selection | None":
        """The sessions, each of them over at `now`; None when none is asked for."""
        from maang_cli import sessions

        if self.first is None:
            if self.last is not None:
                raise SettingsError("--to has no --from", hint="give --from too, such as --from 2025-10-01 --to 2025-10-14")
            return sessions.among([_date(text) for text in self.date], now) if self.date else None
        if self.date:
            raise SettingsError("--date and --from are two ways to ask", hint="give --date, once or more, or --from and --to")
        return sessions.ranging(_date(self.first, "--from"), None if self.last is None else _date(self.last, "--to"), now)


@dataclass(frozen=True)
class Options:
    """The options that every command shares."""

    tickers: Annotated[
        str | None,
        typer.Option(
            metavar="LIST|@FILE",
            help="Tickers, comma-separated, or @FILE with one a line. [env: MAANG_TICKERS]",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    source: Annotated[
        str | None,
        typer.Option(
            metavar="polygon|sample",
            help="Where bars come from; sample makes them up. [env: MAANG_SOURCE]",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    warehouse: Annotated[
        str | None,
        typer.Option(metavar="local|databricks", help="Where the tables live. [env: MAANG_WAREHOUSE]", rich_help_panel=SETTINGS),
    ] = None
    schema: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The schema that holds the tables. [env: MAANG_SCHEMA]", rich_help_panel=SETTINGS),
    ] = None
    allow_missing: Annotated[
        str | None,
        typer.Option(
            metavar="LIST|N%",
            help="Tickers that may have no bar, or their share. [env: MAANG_ALLOW_MISSING]",
            rich_help_panel=SETTINGS,
        ),
    ] = None
    home: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The folder of the local warehouse. [env: MAANG_HOME]", rich_help_panel=SETTINGS),
    ] = None
    ok_if_no_session: Annotated[
        bool,
        typer.Option("--ok-if-no-session", help="End with 0, not 99, on a day without a session.", rich_help_panel=OUTPUT),
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No narration, only the result.", rich_help_panel=OUTPUT)] = False
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Say what was asked of whom, and how long it took.", rich_help_panel=OUTPUT),
    ] = False

    @property
    def flags(self) -> str:
        """The settings' flags as they were given, for a hint that can be typed."""
        names = ("tickers", "source", "warehouse", "schema", "allow_missing", "home")
        given = ((name, getattr(self, name)) for name in names)
        import shlex

        return "".join(f" --{name.replace('_', '-')} {shlex.quote(value)}" for name, value in given if value is not None)


Result = TypeVar("Result")

Refetch = Annotated[bool, typer.Option("--refetch", help="Take all sessions again, those that are there too.")]
ASK_SECONDS = 3600


class Run:
    """One command's run: its settings, and what it opened."""

    def __init__(self, options: Options, purpose: str) -> None:
        self.options = options
        self._purpose = purpose
        self._open = contextlib.ExitStack()

    @cached_property
    def settings(self) -> "Settings":
        from maang_cli import settings

        names = ("tickers", "source", "warehouse", "schema", "allow_missing", "home")
        return settings.load(**{name: getattr(self.options, name) for name in names})

    @cached_property
    def source(self) -> "Source":
        from maang_cli.sources import SOURCES

        return self._open.enter_context(contextlib.closing(SOURCES[self.settings.source](self.settings)))

    @cached_property
    def warehouse(self) -> "Warehouse":
        from maang_cli.warehouses import WAREHOUSES

        return self._open.enter_context(contextlib.closing(WAREHOUSES[self.settings.warehouse](self.settings, self._purpose)))

    @cached_property
    def narrator(self) -> "Narrator":
        from maang_cli.render import Narrator

        return Narrator(quiet=self.options.quiet)

    def request(self, which: Which) -> "Request":
        """The request for the sessions asked for; without any, for the last finished one."""
        from maang_cli import sessions

        now = datetime.now(UTC)
        return self._request(which.select(now) or sessions.Selection((sessions.last_finished(now),)))

    def must_request(self, which: Which) -> "Request":
        """The request for the sessions asked for, at least one."""
        selection = which.select(datetime.now(UTC))
        if selection is None:
            raise SettingsError("which session? none is given", hint="give --date, such as --date 2025-10-14, or --from and --to")
        return self._request(selection)

    def may_request(self, which: Which) -> "Request":
        """The request for the sessions asked for, if any."""
        return self._request(which.select(datetime.now(UTC)))

    def _request(self, selection: "Selection | None") -> "Request":
        from maang_cli.pipeline import Request

        if self.settings.source == "sample":
            self.narrator.say("note: bars of the source sample are made up")
        for note in selection.notes if selection else ():
            self.narrator.say(f"note: {note}")
        return Request(self.settings.tickers, selection.sessions if selection else (), self.settings.allow_missing)

    def step(self, name: str, request: "Request", work: "Callable[[Request], Result]") -> Result:
        """One step, told while it goes on."""
        with self.narrator.step(name):
            return work(request)

    def finish(self, value: object) -> None:
        """Put the result on stdout."""
        from maang_cli import render

        try:
            render.result(value, as_json=self.options.json)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            _mute_stdout()
            raise MayHeal(
                f"the result can't be written: {exc.strerror}", hint="the work is done; free some space, and ask again"
            ) from exc

    def with_flags(self, hint: str) -> str:
        return hint.replace("{flags}", self.options.flags)

    def __enter__(self) -> Self:
        _log_to_stderr(verbose=self.options.verbose, quiet=self.options.quiet)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> bool:
        self._open.close()
        if isinstance(exc, NoSession) and self.options.ok_if_no_session:
            self.narrator.say(exc.message)
            if self.options.json:
                self.finish(exc)
            return True
        if isinstance(exc, MaangError):
            exc.hint = self.with_flags(exc.hint)
            if isinstance(exc, GateRefused) and exc.audit is not None:
                self.finish(exc.audit)
        return False


def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register `function(run, which, ..)` as a command: the options of Which, its own parameters, then those of Options.

    A function without a parameter `which` has none of Which.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(function).parameters)
        bundle: tuple[type[Which], ...] = (Which,) if own.pop("which", None) else ()
        own.pop("run")

        def wrapper(**values: Any) -> None:
            options = _take(Options, values)
            given = [_take(kind, values) for kind in bundle]
            purpose = " ".join([name, *filter(None, map(str, given))])
            with Run(options, purpose) as run:
                function(run, *given, **values)

        parameters = [
            *(parameter for kind in bundle for parameter in _parameters(kind)),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.values()),
            *_parameters(Options),
        ]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        wrapper.__doc__ = function.__doc__
        app.command(name)(wrapper)
        return function

    return register


def _parameters(bundle: type[Which] | type[Options]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(bundle)
    ]


def _take(bundle: Callable[..., Any], values: dict[str, Any]) -> Any:
    """The bundle, made of its own values, which are taken out."""
    return bundle(**{field.name: values.pop(field.name) for field in fields(bundle)})  # type: ignore[arg-type]


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

    Without --date: the last finished session. Example: `maang run-day --date 2025-10-14 --source sample`
    """
    from maang_cli import pipeline

    request = run.request(which)
    done = pipeline.run_day(run.source, run.warehouse, request, run.narrator.step)
    run.finish(done)
    _end(done.audit)


@command("plan")
def plan(run: Run, which: Which, refetch: Refetch = False) -> None:
    """What backfill would do, without doing it: sessions, calls, minutes, commits, rows.

    Example: `maang plan --from 2024-01-01 --to 2024-12-31`
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

    Kill it anywhere: the same command does what is left. Example: `maang backfill --from 2024-01-01 --to 2024-12-31`
    """
    from maang_cli import backfill, render

    request = run.must_request(which)
    todo = run.step("plan", request, lambda request: backfill.plan(run.source, run.warehouse, request, refetch=refetch))
    if todo.seconds > ASK_SECONDS and not yes and not run.narrator.agrees(render.line(todo)):
        raise SettingsError(f"not begun: {render.line(todo)}", hint="give --yes, or a shorter range")
    with run.narrator.meter() as tell:
        done = backfill.run(run.source, run.warehouse, todo, tell)
    run.finish(done)
    if error := done.verdict():
        raise error


@command("status")
def status(run: Run, which: Which) -> None:
    """Is anything missing, is anything late? Gaps, stale windows, staging left behind, freshness, size. Ends with 0 or 5.

    Without dates: from the first session held to the last finished one. Example: `maang status`
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


def _date(text: str, flag: str = "--date") -> date:
    with contextlib.suppress(ValueError):
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
    raise SettingsError(f"{text[:40]!r} is no date", hint=f"give {flag} as YYYY-MM-DD, such as 2025-10-14")


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


def _log_to_stderr(*, verbose: bool, quiet: bool) -> None:
    """What the parts log goes to stderr: waits and retries always but when quiet, everything when verbose."""
    import logging

    log = logging.getLogger("maang")
    log.handlers.clear()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s" if verbose else "%(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)


class _Terminated(BaseException):
    """SIGTERM arrived."""


def _terminate(_signum: int, _frame: object) -> None:
    raise _Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see `errors.ExitCode`). A bug raises."""
    if sys.stdout is None:  # closed by the caller: `maang .. >&-`
        _mute_stdout()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _call(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # nobody reads the result any more; the work itself is done
        _mute_stdout()
        return ExitCode.DONE
    finally:
        signal.signal(signal.SIGTERM, before)


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
    except _Terminated:
        return _stopped("terminated", ExitCode.TERMINATED)
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):
            raise BrokenPipeError from exc
        raise
    if code == ExitCode.INTERRUPTED:  # Typer has caught the KeyboardInterrupt
        return _stopped("interrupted", ExitCode.INTERRUPTED)
    return code or ExitCode.DONE


def _stopped(how: str, code: ExitCode) -> int:
    _say_error(f"{how}; what was published stays whole", "run the same command again to finish")
    return code


def _say_error(message: str, hint: str) -> None:
    from maang_cli import render

    render.error(message, hint)


def _mute_stdout() -> None:
    """Send what is still to be written nowhere; Python would complain once more when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if sys.stdout is None:
        sys.stdout = os.fdopen(nowhere, "w")
    else:
        os.dup2(nowhere, sys.stdout.fileno())
