"""The commands: parse, one call, show the result. `process` turns a MaangError into lines on stderr and an exit code."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maang_cli import __version__
from maang_cli.cli import files
from maang_cli.cli.context import Run
from maang_cli.cli.files import Format
from maang_cli.cli.options import DAY, NOT_OFFERED, SessionOptions, SharedOptions, parameters, parse_date, parse_duration, take
from maang_cli.errors import SettingsError, not_installed
from maang_cli.sources import SOURCES

if TYPE_CHECKING:
    from maang_cli.report import Report

# What a command needs beyond this is imported when it runs: `maang --help` loads no driver. Each command makes its request
# before it opens a source or a warehouse, so that a closed market or an invalid date opens nothing.

app = typer.Typer(
    name="maang",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    rich_markup_mode="markdown",
)

EVERYDAY, STEPS, INSPECT, MAINTAIN = "Everyday", "Steps of a day", "Inspect", "Maintain"
ASK_SECONDS = 3600
"""maang asks before a backfill that takes longer."""

Refetch = Annotated[bool, typer.Option("--refetch", help="Fetch every session again, even if it is already stored.")]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="TICKER:DATE:CHECK",
        help="Publish a bar that is right, although this check says that it is unlikely. Repeat it for several. [default: none]",
    ),
]

Early = Annotated[
    bool, typer.Option("--early", help="Take a session before it is final (06:00 New York of the next day), as it is then.")
]
As = Annotated[
    Format | None, typer.Option("--format", help="How the rows are written. [default: as the file's name says, else table]")
]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write CSV or Parquet to this file, all of it or nothing. [default: stdout]")
]

Part = StrEnum("Part", ["schema", "staging", "production", "cumulative"])
ShownTable = StrEnum("ShownTable", ["production", "staging", "cumulative", "findings"])
ComparedTable = StrEnum("ComparedTable", ["production", "cumulative"])


def _one_of(names: type[StrEnum], text: str, default: str = "") -> Any:
    """An option that takes a name. Its help lists them, because Typer's own list is one word, which narrow terminals break."""
    help = f"{text}: {', '.join(names)}.{f' [default: {default}]' if default else ''}"
    return typer.Option(metavar="NAME", help=help)


def command(
    name: str, panel: str, without: Collection[str] = (), *, notifies: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register `function(run, ..)` as a command with its own options and the shared ones, except those in `without`.

    A function with a parameter `select` also gets the options that select sessions. `notifies`: MAANG_NOTIFY gets its failures.
    """
    # Typer reads a command's options from one signature, so it is put together here from the bundles. Written out, the 13
    # signatures would repeat the same 8 to 13 options, and each body would pass them on: 260 lines more.

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(function).parameters)
        selects = own.pop("select", None) is not None
        own.pop("run")

        def callback(context: typer.Context, **values: Any) -> None:
            context.obj.command, context.obj.notifies = name, notifies
            options = take(SharedOptions, values)
            if selects:
                values["select"] = take(SessionOptions, values)
            purpose = f"{name} {values.get('select', '')}".rstrip()
            with Run(options, context.obj, purpose) as run:
                run.progress.begin(name)
                function(run, **values)

        signature = [
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(parameters(SessionOptions) if selects else ()),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.values()),
            *parameters(SharedOptions, without),
        ]
        callback.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        callback.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
        callback.__doc__ = function.__doc__
        NOT_OFFERED[name] = without
        app.command(name, rich_help_panel=panel)(callback)
        return function

    return register


@command("run-day", EVERYDAY, notifies=True)
def run_day(run: Run, select: SessionOptions, early: Early = False, accept: Accept = None) -> None:
    """Load a whole day in one process: init-tables, ingest, check, promote, cumulate, drop-staging.

    Without --date: the last final session.

    Example: `maang run-day --date 2025-10-14 --source sample`
    """
    from maang_cli import pipeline

    request = run.request(select, default_to_last=True, fetches=True, early=early, accept=accept)
    done = pipeline.run_day(run.source, run.warehouse, request, run.progress)
    run.progress.say(f"the tables are in {run.warehouse.location}")
    run.finish(done, pipeline.verdict(done.audit))


@command("backfill", EVERYDAY, notifies=True)
def backfill(
    run: Run,
    select: SessionOptions,
    refetch: Refetch = False,
    early: Early = False,
    accept: Accept = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --refetch: fetch, and show what would change, without publishing it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before a backfill of more than an hour.")] = False,
) -> None:
    """Fetch and publish every session of a range that production lacks, and refresh missing or stale windows.

    Safe to interrupt: run the same command again to finish. With --refetch --dry-run it checks what is stored against the vendor,
    and exits with 5 if the vendor has other bars.

    Example: `maang backfill --from 2025-10-01 --to 2025-10-14`
    """
    from maang_cli import backfill, pipeline, render

    request = run.request(select, fetches=True, early=early, accept=accept)
    if dry_run and not refetch:
        raise SettingsError(
            "--dry-run needs --refetch",
            hint=f"to see what is missing: maang plan {pipeline.session_flags(request.sessions)}{{flags}}",
        )
    todo = backfill.plan(run.source, run.warehouse, request, refetch=refetch)
    if todo.seconds > ASK_SECONDS and not yes and not run.progress.agrees(render.line(todo)):
        raise SettingsError(f"not started: this would take about {render.cost(todo)}", hint="give --yes, or a shorter range")
    if todo.calls.cached:
        run.progress.say(f"note: {render.reused(todo)}")
    with run.progress.meter() as report:
        carry_out = backfill.compare if dry_run else backfill.run
        done = carry_out(run.source, run.warehouse, todo, report)
    run.finish(done, done.verdict())


@command("status", EVERYDAY, without=["ok_if_no_session"], notifies=True)
def status(
    run: Run,
    select: SessionOptions,
    max_delay: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Don't count a session as missing until this long after it was final: 90m, 3h, 2d. [default: none]",
        ),
    ] = None,
) -> None:
    """Is anything missing, is anything late? Missing bars, stale windows, leftovers in staging, sizes. Exits with 0 or 5.

    Without dates: from the first stored session to the last final one. A session's latency is the time from when it was final
    (06:00 New York on the next day) until it was readable; status prints that of the last 30 sessions.

    Example: `maang status --from 2025-10-01 --to 2025-10-14`
    """
    from maang_cli import status

    delay = None if max_delay is None else parse_duration(max_delay, "--max-delay")
    request = run.request(select, required=False)
    found = status.status(run.warehouse, request, datetime.now(UTC), delay)
    run.reply.sessions = found.request.sessions
    run.finish(found, found.verdict())


@command("show", EVERYDAY, without=["allow_missing", "ok_if_no_session"])
def show(
    run: Run,
    select: SessionOptions,
    table: Annotated[ShownTable, _one_of(ShownTable, "Which table")] = ShownTable.production,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIMESTAMP", help="Show the table as of this time (ISO 8601; UTC if it has no offset). [default: now]"
        ),
    ] = None,
    adjusted: Annotated[bool, typer.Option("--adjusted", help="Show prices and volumes on the newest split's basis.")] = False,
    format: As = None,
    out: Out = None,
) -> None:
    """Show the sessions' rows, as they are now or as they were at an earlier time.

    Without dates: the last stored session, or all findings.

    Production holds prices as traded. --adjusted shows them on the basis of the newest split.

    Example: `maang show --date 2025-10-14 --table cumulative --json`
    """
    from maang_cli import pipeline, reading, render

    to = files.target(format, out, as_json=run.options.json)
    request = run.request(select, required=table is ShownTable.staging)
    instant = None if as_of is None else reading.parse_instant(as_of)
    if adjusted and table is not ShownTable.production:
        raise SettingsError(f"--adjusted shows production, not {table.value}", hint="leave out --table, or --adjusted")
    if not request.sessions and table is not ShownTable.findings:
        request = replace(request, sessions=(pipeline.last_stored(run.warehouse, request, table.value, instant),))
        run.reply.sessions = request.sessions
    shown = pipeline.show(run.warehouse, request, table.value, instant, adjusted=adjusted)
    run.deliver(shown, to)
    if shown.missing:
        run.progress.say(run.options.fill_in(render.not_stored(shown, earlier=instant is not None)))


@command("sql", EVERYDAY, without=["tickers", "allow_missing", "ok_if_no_session"])
def sql(
    run: Run,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT, in the SQL of the warehouse (local: DuckDB).")],
    format: As = None,
    out: Out = None,
) -> None:
    """Query the tables production, cumulative, splits and findings. Nothing can be changed.

    Example: `maang sql "SELECT ticker, max(close) FROM production GROUP BY ticker"`
    """
    from maang_cli import reading

    to = files.target(format, out, as_json=run.options.json)
    run.deliver(reading.select(run.warehouse, query), to)


@command("report", EVERYDAY, without=["ok_if_no_session"])
def report(
    run: Run,
    select: SessionOptions,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The HTML file; all of it or nothing.")] = Path("maang-report.html"),
) -> None:
    """Make one HTML page of the tables: what is stored, prices, what the gate said, latency, revisions. It loads nothing else.

    Without dates: the last 250 stored sessions, and those that are missing since then.

    Example: `maang report --last 60 --out maang-report.html`
    """
    path = files.writable(out)
    page = _page_maker()
    from maang_cli import report

    request = run.request(select, required=False)
    now = datetime.now(UTC)
    if not request.sessions:
        request = replace(request, sessions=report.sessions_to_show(run.warehouse, request, now))
        run.reply.sessions = request.sessions
    found = report.gather(run.warehouse, request, now, made_up=SOURCES[run.settings.source].made_up)
    if found.verdict is not None:
        found.verdict.hint = run.options.fill_in(found.verdict.hint)
    data = page(found).encode()
    files.replace_file(path, data, run.reply)
    run.finish(report.Written(path, len(data), found))


def _page_maker() -> Callable[["Report"], str]:
    """What makes the page of a report.

    Raises:
        SettingsError: the extra `report` is not installed.
    """
    try:
        from maang_cli.render.report import page
    except ModuleNotFoundError as exc:
        raise not_installed("what makes the page is not installed", "report", exc) from exc
    return page


@command("init-tables", STEPS, without=["allow_missing"])
def init_tables(
    run: Run,
    select: SessionOptions,
    only: Annotated[Part | None, _one_of(Part, "Create only this", default="all of them")] = None,
) -> None:
    """Create what does not exist: schema, staging (if a session is selected), production, cumulative. Safe to repeat.

    Example: `maang init-tables --date 2025-10-14`
    """
    from maang_cli import pipeline

    request = run.request(select, required=False)
    if only is Part.staging and not request.sessions:
        raise SettingsError("--only staging needs a session", hint="give --date, such as --date 2025-10-14")
    run.finish(pipeline.init_tables(run.warehouse, request, [only.value] if only else pipeline.PARTS))


@command("ingest", STEPS, without=["allow_missing"])
def ingest(run: Run, select: SessionOptions) -> None:
    """Fetch the sessions' bars into their staging table, and replace what was there.

    Example: `maang ingest --date 2025-10-14`
    """
    from maang_cli import pipeline

    request = run.request(select, fetches=True)
    run.finish(pipeline.ingest(run.source, run.warehouse, request))


@command("check", STEPS)
def check(run: Run, select: SessionOptions) -> None:
    """Audit staging: every check with its promise and the rows that break it. Exits with 0, 3, or 5 if some sessions are refused.

    Example: `maang check --date 2025-10-14 --json`
    """
    from maang_cli import pipeline

    request = run.request(select)
    audit = pipeline.check(run.warehouse, request)
    run.finish(audit, pipeline.verdict(audit))


@command("promote", STEPS)
def promote(run: Run, select: SessionOptions, accept: Accept = None) -> None:
    """Audit staging, then publish exactly the audited rows of the sessions that pass, in one commit.

    Example: `maang promote --date 2025-10-14`
    """
    from maang_cli import pipeline

    request = run.request(select, accept=accept)
    published = pipeline.promote(run.warehouse, request)
    run.finish(published, pipeline.verdict(published.audit))


@command("cumulate", STEPS)
def cumulate(run: Run, select: SessionOptions) -> None:
    """Refresh the 7-session windows of the sessions and of the 6 sessions after each, in one commit.

    Example: `maang cumulate --date 2025-10-14`
    """
    from maang_cli import pipeline

    request = run.request(select)
    run.finish(pipeline.cumulate(run.warehouse, request))


@command("drop-staging", STEPS, without=["allow_missing"])
def drop_staging(run: Run, select: SessionOptions) -> None:
    """Drop the sessions' staging table.

    Example: `maang drop-staging --date 2025-10-14`
    """
    from maang_cli import pipeline

    request = run.request(select)
    run.finish(pipeline.drop_staging(run.warehouse, request))


@command("diff", INSPECT, without=["allow_missing"])
def diff(
    run: Run,
    select: SessionOptions,
    table: Annotated[
        ComparedTable, _one_of(ComparedTable, "What promote would change in production, or cumulate in cumulative")
    ] = ComparedTable.production,
) -> None:
    """Compare staging with production: which rows publishing would add, change and remove, and each changed value.

    It only reads, and does not audit. It exits with 0 whether or not rows differ.

    Example: `maang diff --date 2025-10-14`
    """
    from maang_cli import pipeline

    request = run.request(select)
    run.finish(pipeline.diff(run.warehouse, request, table.value))


@command("plan", INSPECT, without=["ok_if_no_session"])
def plan(run: Run, select: SessionOptions, refetch: Refetch = False) -> None:
    """Show what backfill would do, without doing it: sessions, calls, minutes, commits, rows.

    Example: `maang plan --from 2025-10-01 --to 2025-10-14`
    """
    from maang_cli import backfill

    request = run.request(select, fetches=True)
    run.finish(backfill.plan(run.source, run.warehouse, request, refetch=refetch))


@command("config", INSPECT, without=["ok_if_no_session"])
def config(run: Run) -> None:
    """Show every setting with its value and where it comes from, the folders, the catalog, each table's metadata file.

    Example: `maang config --json`
    """
    from maang_cli import config
    from maang_cli.sources import SOURCES
    from maang_cli.warehouses import WAREHOUSES

    found = config.configuration(SOURCES, WAREHOUSES, run.options.settings)
    run.finish(found, found.error)


@command("doctor", INSPECT, without=["tickers", "allow_missing", "ok_if_no_session"])
def doctor(run: Run) -> None:
    """Check all a run needs: warehouse, rights, volume, source, key, plan, clock. Writes only a scratch table, and drops it.

    Example: `maang doctor`
    """
    from maang_cli import doctor

    done = doctor.checkup(lambda: run.warehouse, lambda: run.source)
    for error in done.errors:
        error.hint = run.options.fill_in(error.hint)
    run.finish(done, next(iter(done.errors), None))


@command("splits", MAINTAIN, without=["allow_missing", "ok_if_no_session"])
def splits(
    run: Run,
    first: Annotated[str | None, typer.Option("--from", metavar=DAY, help="List splits from this date on.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar=DAY, help="List splits up to this date. [default: all]")] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="TICKER:DATE:FROM:TO", help="Add a split, such as NFLX:2025-11-17:1:10. [default: none]"),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="TICKER:DATE", help="Don't apply a split that is listed. [default: none]")
    ] = None,
    clear: Annotated[
        list[str] | None, typer.Option(metavar="TICKER:DATE", help="Take back what you added or ignored. [default: none]")
    ] = None,
) -> None:
    """List the known splits, or change them. The windows that follow from a change are refreshed.

    Example: `maang splits --from 2025-11-01`
    """
    from maang_cli import user_splits

    given = {"add": add, "ignore": ignore, "clear": clear}
    edits = [user_splits.parse(kind, text) for kind, texts in given.items() for text in texts or ()]
    days = [None if text is None else parse_date(text, flag) for text, flag in ((first, "--from"), (last, "--to"))]
    if edits and any(days):
        raise SettingsError("--from and --to select what is listed", hint="leave them out to change a split")
    if edits:
        run.finish(user_splits.edit(run.warehouse, run.settings.tickers, edits))
    else:
        run.finish(user_splits.listed(run.warehouse, run.settings.tickers, *days))


@command("maintain", MAINTAIN, without=["tickers", "allow_missing", "ok_if_no_session"])
def maintain(run: Run) -> None:
    """Expire old snapshots, and remove unreachable files. Every writing command does the first by itself.

    Example: `maang maintain`
    """
    from maang_cli import render

    run.finish(render.Maintained(run.settings.warehouse, run.warehouse.maintain()))


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
