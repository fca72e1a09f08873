"""The options that commands share, each declared once; a dataclass bundles those that go together."""

import contextlib
import inspect
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from maang_cli.errors import SettingsError
from maang_cli.sources import SOURCES
from maang_cli.warehouses import WAREHOUSES

if TYPE_CHECKING:  # time zones take a while to load, and `maang --help` needs no calendar
    from maang_cli.sessions import Selection

DAY = "YYYY-MM-DD"


@dataclass(frozen=True)
class SessionOptions:
    """Which sessions a command works on."""

    date: Annotated[
        list[str] | None,
        typer.Option(metavar=DAY, help="Session date (New York). Repeat the option for several."),
    ] = None
    first: Annotated[str | None, typer.Option("--from", metavar=DAY, help="First date of a range of sessions.")] = None
    last: Annotated[
        str | None, typer.Option("--to", metavar=DAY, help="Last date of the range. [default: the last final session]")
    ] = None

    newest: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="The last N final sessions.")] = None

    def __str__(self) -> str:
        ends = f"{self.first or ''}..{self.last or ''}" if self.first or self.last else ""
        newest = f"last {self.newest}" if self.newest else ""
        return ",".join([*(self.date or ()), *filter(None, [ends, newest])])

    def select(self, now: datetime, *, fetches: bool = False, early: bool = False) -> "Selection | None":
        """The sessions, each of which is over at `now`; None if no option selects any.

        `fetches`: each must be final, too, unless `early`.

        Raises:
            SettingsError, NoSession, NotPublishedYet: as `sessions.select_dates`, `select_range` and `select_newest`.
        """
        from maang_cli import sessions

        if self.newest is not None:
            if self.date or self.first or self.last:
                raise SettingsError("--last can't be combined with --date, --from or --to", hint="give one of them")
            return sessions.select_newest(self.newest, now)
        if self.first is None:
            if self.last is not None:
                raise SettingsError("--to needs --from", hint="give both, such as --from 2025-10-01 --to 2025-10-14")
            return sessions.select_dates(map(parse_date, self.date), now, early=early or not fetches) if self.date else None
        if self.date:
            raise SettingsError(
                "--date and --from can't be combined", hint="give --date, once or several times, or --from and --to"
            )
        return sessions.select_range(
            parse_date(self.first, "--from"), None if self.last is None else parse_date(self.last, "--to"), now, early=early
        )


def _setting(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel="Settings")


def _output(*flags: str, text: str) -> Any:
    return typer.Option(*flags, help=text, rich_help_panel="Output")


TICKERS = (
    "Tickers or NAME=SYMBOL:FIRST entries, comma-separated, or @FILE with one a line."
    " [env: MAANG_TICKERS] [default: META,AAPL,AMZN,NFLX,GOOGL]"
)
INVENTING = ", ".join(name for name, kind in SOURCES.items() if kind.made_up)
SOURCE = f"Where bars come from ({INVENTING}: made up). [env: MAANG_SOURCE] [default: {next(iter(SOURCES))}]"
CHOSEN = ", ".join(f"{name} if {kind.configured_by} is set" for name, kind in WAREHOUSES.items() if kind.configured_by)
WAREHOUSE = f"Where the tables are. [env: MAANG_WAREHOUSE] [default: {CHOSEN}, else {next(iter(WAREHOUSES))}]"
OWN_SCHEMAS = ", ".join(f"{kind.default_schema} for {name}" for name, kind in SOURCES.items())
SCHEMA = f"The schema of the tables. [env: MAANG_SCHEMA] [default: {OWN_SCHEMAS}]"
HOME = "The folder of the local warehouse. [env: MAANG_HOME] [default: your data folder]"
ALLOW_MISSING = "Tickers that may have no bar, or their share. [env: MAANG_ALLOW_MISSING] [default: none]"


@dataclass(frozen=True)
class SharedOptions:
    """What every command offers, unless it has no use for it."""

    tickers: Annotated[str | None, _setting("LIST|@FILE", TICKERS)] = None
    source: Annotated[str | None, _setting("|".join(SOURCES), SOURCE)] = None
    warehouse: Annotated[str | None, _setting("|".join(WAREHOUSES), WAREHOUSE)] = None
    schema: Annotated[str | None, _setting("NAME", SCHEMA)] = None
    home: Annotated[str | None, _setting("DIR", HOME)] = None
    allow_missing: Annotated[str | None, _setting("LIST|N%", ALLOW_MISSING)] = None
    ok_if_no_session: Annotated[
        bool, _output("--ok-if-no-session", text="Exit with 0 instead of 99 when the market was closed.")
    ] = False
    json: Annotated[bool, _output("--json", text="Print one JSON document.")] = False
    quiet: Annotated[bool, _output("--quiet", "-q", text="Print only the result, and errors.")] = False
    verbose: Annotated[bool, _output("--verbose", "-v", text="Log every API call and query with its duration.")] = False

    @property
    def settings(self) -> dict[str, str]:
        """The flags that were given and that `settings.load` reads."""
        names = ("tickers", "source", "warehouse", "schema", "allow_missing", "home")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def fill_in(self, hint: str) -> str:
        """The hint with the settings' flags as they were given, so that the user can type its command as it is."""

        def flags(found: re.Match[str]) -> str:
            offered = {name: value for name, value in self.settings.items() if name not in NOT_OFFERED[found["command"]]}
            return found[1] + "".join(f" --{name.replace('_', '-')} {shlex.quote(value)}" for name, value in offered.items())

        return re.sub(r"(maang (?P<command>[a-z-]+)[^{]*)\{flags\}", flags, hint)


NOT_OFFERED: dict[str, Collection[str]] = {}
"""By command: the shared options that mean nothing to it."""


Bundle = TypeVar("Bundle", SessionOptions, SharedOptions)


def parameters(bundle: type[SessionOptions] | type[SharedOptions], without: Collection[str] = ()) -> list[inspect.Parameter]:
    """A bundle's options as parameters of a command's function, for Typer."""
    return [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(bundle)
        if field.name not in without
    ]


def take(bundle: type[Bundle], values: dict[str, Any]) -> Bundle:
    """The bundle made of its options' values, which are removed from `values`."""
    return bundle(**{field.name: values.pop(field.name) for field in fields(bundle) if field.name in values})


def parse_duration(text: str, flag: str) -> timedelta:
    """A duration as a person types it: `90m`, `3h` or `2d`.

    Raises:
        SettingsError: it is not one.
    """
    if not (found := re.fullmatch(r"([0-9]{1,4})([mhd])", text)):
        raise SettingsError(f"{text[:40]!r} is not a duration", hint=f"give {flag} minutes, hours or days, such as 90m, 3h or 2d")
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[found[2]]: int(found[1])})


def parse_date(text: str, flag: str = "--date") -> date:
    """A date as a person types it.

    Raises:
        SettingsError: it is not one.
    """
    with contextlib.suppress(ValueError):
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
    raise SettingsError(f"{text[:40]!r} is not a date", hint=f"give {flag} as YYYY-MM-DD, such as 2025-10-14")
