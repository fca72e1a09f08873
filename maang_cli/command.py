"""What the commands share: their options, the run of one of them, and their registration."""

import contextlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import typer

from maang_cli.errors import GateRefused, MaangError, MayHeal, NoSession, SettingsError

# What a command needs beyond this is imported when it runs: `maang --help` loads no driver.
if TYPE_CHECKING:
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
            raise SettingsError(
                "neither --date nor --from is given", hint="give --date, such as --date 2025-10-14, or --from and --to"
            )
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
            mute_stdout()
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


def _date(text: str, flag: str = "--date") -> date:
    with contextlib.suppress(ValueError):
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
    raise SettingsError(f"{text[:40]!r} is no date", hint=f"give {flag} as YYYY-MM-DD, such as 2025-10-14")


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


def mute_stdout() -> None:
    """Send what is still to be written nowhere; Python would complain once more when it flushes at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if sys.stdout is None:
        sys.stdout = os.fdopen(nowhere, "w")
    else:
        os.dup2(nowhere, sys.stdout.fileno())
