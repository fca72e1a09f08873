"""One command's run: its settings, what it opened, what it tells the user while it works."""

from __future__ import annotations

import contextlib
import logging
import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Self

from maang_cli.cli.files import Format, write
from maang_cli.errors import GateRefused, MaangError, NoSession, SettingsError
from maang_cli.sources import SOURCES, open_source
from maang_cli.warehouses import WAREHOUSES

# What a command needs beyond this is imported when it runs: `maang --help` loads no driver.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from maang_cli.cli.files import Target
    from maang_cli.cli.options import SessionOptions, SharedOptions
    from maang_cli.cli.reply import Reply
    from maang_cli.pipeline import Rows
    from maang_cli.reading import Selected
    from maang_cli.request import Request
    from maang_cli.settings import Settings
    from maang_cli.sources.base import Source
    from maang_cli.warehouses.base import Warehouse


class Run:
    """Opens what a command needs when it first asks for it, and closes it at the end."""

    def __init__(self, options: SharedOptions, reply: Reply, purpose: str) -> None:
        """`purpose`: the command and its sessions, for the administrator of a warehouse."""
        self.options = options
        self.reply = reply
        from maang_cli.render import ProgressDisplay

        self.progress = ProgressDisplay(quiet=options.quiet, verbose=options.verbose)
        self._purpose = purpose
        self._open = contextlib.ExitStack()
        reply.stop = self._stop

    @cached_property
    def settings(self) -> Settings:
        from maang_cli import settings

        return settings.load(SOURCES, WAREHOUSES, **self.options.settings)

    @cached_property
    def source(self) -> Source:
        return self._open.enter_context(contextlib.closing(open_source(self.settings)))

    @cached_property
    def warehouse(self) -> Warehouse:
        opened = WAREHOUSES[self.settings.warehouse].open(self.settings, self._purpose)
        return self._open.enter_context(contextlib.closing(opened))

    def request(
        self,
        select: SessionOptions,
        *,
        required: bool = True,
        default_to_last: bool = False,
        fetches: bool = False,
        early: bool = False,
        accept: Sequence[str] | None = None,
    ) -> Request:
        """The request for the selected sessions. If none is selected: for the last final one, for none, or a SettingsError.

        `fetches`: the source is opened, so that what it has to say comes before the notes, and the sessions must be final, unless
        `early`. `accept`: see `findings`.
        """
        from maang_cli import sessions
        from maang_cli.request import Request

        now = datetime.now(UTC)
        made_up = SOURCES[self.settings.source].made_up  # the settings first: they may close a day
        selection = select.select(now, fetches=fetches, early=early)
        if selection is None and default_to_last:
            selection = sessions.Selection(((sessions.last_over if early else sessions.last_final)(now),))
        if selection is None and required:
            raise SettingsError("no session is selected", hint="give --date, such as --date 2025-10-14, or --from and --to")
        if fetches:
            _ = self.source
        if made_up:
            self.progress.say(f"note: the {self.settings.source} source's bars are made up")
        for note in selection.notes if selection else ():
            self.progress.say(f"note: {note}")
        self.reply.sessions = selection.sessions if selection else ()
        for day in self.reply.sessions:
            if fetches and not sessions.is_final(day, now):
                until = f"it is final at {sessions.final_at(day)}; run the same command again after that"
                self.progress.say(f"note: the session of {day} is early, and its bars may still change: {until}")
        found = self.settings
        request = Request(found.tickers, tuple(self.reply.sessions), found.allow_missing, symbols=found.symbols)
        if request.sessions and not any(map(request.requested, request.sessions)):
            from maang_cli.missing import spans

            raise SettingsError(
                f"none of the tickers is listed on {spans(request.sessions)}",
                hint="give other dates, or say in --tickers which symbols they had: NAME=SYMBOL:FIRST..LAST",
            )
        if accept:
            from maang_cli import findings

            return replace(request, accept=findings.acceptances(accept, request.tickers, request.sessions))
        return request

    def finish(self, result: object, error: MaangError | None = None) -> None:
        """Show the command's result, then raise what is wrong with it."""
        self.progress.end()
        self.reply.show(result)
        if error is not None:
            raise error

    def deliver(self, result: Rows | Selected, to: Target) -> None:
        """Show the command's rows, or write them as a file has them."""
        if to.format is Format.table:
            self.finish(result)
            return
        self.progress.end()
        write(result.rows, to, self.reply)
        if to.path is not None:
            from maang_cli.render import plural

            self.progress.say(f"{plural(result.rows.num_rows, 'row')} written to {to.path}")

    def _stop(self) -> None:
        """Leave the terminal and the warehouse in order, because this process is about to end. Another thread calls it."""
        self.progress.end()
        if opened := vars(self).get("warehouse"):  # without opening it
            opened.cancel()
        if self.reply.unfinished:
            self.reply.unfinished.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        _log_to_stderr(verbose=self.options.verbose, quiet=self.options.quiet)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> bool:
        self.progress.end()
        self._open.close()
        if isinstance(exc, NoSession) and self.options.ok_if_no_session:
            self.progress.say(exc.message)
            self.reply.result = exc
            return True
        if isinstance(exc, MaangError):
            exc.hint = self.options.fill_in(exc.hint)
            if isinstance(exc, GateRefused) and exc.audit not in (None, self.reply.result):
                self.reply.show(exc.audit)
        return False


class _StderrHandler(logging.Handler):
    """Writes to stderr as it is at that moment: a spinner replaces it, so that lines appear above the spinner."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


def _log_to_stderr(*, verbose: bool, quiet: bool) -> None:
    """What the parts log goes to stderr: waits and retries unless quiet, everything if verbose."""
    log = logging.getLogger("maang")
    log.handlers.clear()
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s" if verbose else "%(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
