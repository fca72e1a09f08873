"""What a person does with splits: list them, add one, ignore one, take that back. Windows follow in the same run."""

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal, InvalidOperation

from maang_cli import pipeline, split_table, splits
from maang_cli import sessions as calendar
from maang_cli.errors import SettingsError
from maang_cli.splits import Split
from maang_cli.tables import CUMULATIVE, SPLITS
from maang_cli.warehouses.base import Replaced, TableMissing, Warehouse

EVER = (calendar.FIRST_DATE, pipeline.EVER)
EXAMPLE = "NFLX:2025-11-17:1:10"


@dataclass(frozen=True)
class Listed:
    """The known splits, by ticker and date."""

    table: str
    splits: tuple[Split, ...]


@dataclass(frozen=True)
class Edited:
    """What a person changed, and the windows that followed."""

    changed: tuple[Split, ...]
    removed: tuple[Split, ...]
    """A person's rows that were taken back. A split that the vendor lists there comes back when it is fetched again."""
    windows: Replaced


@dataclass(frozen=True)
class Edit:
    """One change: add a split with this ratio, ignore the one of this session, or take a person's row back."""

    kind: str
    """add, ignore or clear."""
    ticker: str
    session: date
    split_from: Decimal = Decimal(1)
    split_to: Decimal = Decimal(1)


def parse(kind: str, text: str) -> Edit:
    """An edit from what a person typed: `TICKER:DATE:FROM:TO` to add, otherwise `TICKER:DATE`.

    Raises:
        SettingsError: it does not have this form, the ratio is not one, or the date is not a session.
    """
    form = "TICKER:DATE:FROM:TO" if kind == "add" else "TICKER:DATE"
    example = EXAMPLE if kind == "add" else EXAMPLE.rsplit(":", 2)[0]
    wrong = SettingsError(f"{text[:60]!r} is not {form}", hint=f"give it as in --{kind} {example}")
    parts = text.split(":")
    if len(parts) != form.count(":") + 1 or not parts[0]:
        raise wrong
    try:
        day = date.fromisoformat(parts[1])
        ratio = [_positive(part) for part in parts[2:]]
    except ValueError as exc:
        raise wrong from exc
    if not calendar.is_session(day):
        raise SettingsError(
            f"{day} is not a session", hint=f"a split takes effect on a session: the next one is {splits.session_of(day)}"
        )
    if ratio and ratio[0] == ratio[1]:
        raise SettingsError(f"a split of {parts[2]} into {parts[3]} changes nothing", hint=f"give it as in --{kind} {example}")
    return Edit(kind, parts[0], day, *ratio)


def _positive(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation as exc:
        raise ValueError from exc
    if not re.fullmatch(r"\d{1,9}(\.\d{1,8})?", text) or number <= 0:
        raise ValueError
    return number


def listed(warehouse: Warehouse, tickers: Sequence[str], first: date | None = None, last: date | None = None) -> Listed:
    """The known splits of these tickers with first sessions from `first` to `last`."""
    return Listed(warehouse.full_name(SPLITS), split_table.stored(warehouse, tickers, first or EVER[0], last or EVER[1]))


def edit(warehouse: Warehouse, universe: Collection[str], edits: Sequence[Edit]) -> Edited:
    """Carry out all edits or none, and refresh the windows that follow from them.

    Raises:
        SettingsError: a ticker is not in the universe, or there is nothing to ignore or to clear.
    """
    tickers = sorted({each.ticker for each in edits})
    if unknown := [ticker for ticker in tickers if ticker not in universe]:
        raise SettingsError(
            f"{unknown[0][:40]!r} is not among the tickers", hint="add it to --tickers or MAANG_TICKERS, or correct its name"
        )
    known, nights = split_table.read(warehouse, tickers, *EVER)
    rows = list(known)
    for each in edits:
        rows = _edited(rows, each)
    judged = splits.judge([], rows, None, nights)
    windows = Replaced(warehouse.full_name(CUMULATIVE))
    if days := sorted({day for split in {*known} ^ {*judged} for day in pipeline.windows_over(split.session)}):
        # The windows first: if this run is killed in between, the same command still finds what to change.
        with suppress(TableMissing):  # there may be no windows yet
            windows = pipeline.refresh_windows(warehouse, tickers, days, judged)
    changed = split_table.store(warehouse, known, judged)
    keys = {split.key for split in judged}
    return Edited(changed, tuple(split for split in known if split.key not in keys), windows)


def _edited(known: Sequence[Split], edit: Edit) -> list[Split]:
    """The splits with one edit carried out, and not judged yet.

    Raises:
        SettingsError: there is nothing to ignore or to clear.
    """
    key = (edit.ticker, edit.session)
    mine = next((split for split in known if split.key == key), None)
    if edit.kind == "ignore" and mine is None:
        raise SettingsError(f"no split of {edit.ticker} on {edit.session} is known", hint="maang splits lists the known ones")
    if edit.kind == "clear" and (mine is None or (mine.source != splits.USER and mine.reason != splits.NOT_WANTED)):
        raise SettingsError(
            f"you have neither added nor ignored a split of {edit.ticker} on {edit.session}",
            hint="maang splits lists the known ones",
        )
    rows = splits.cleared(known, key)
    if edit.kind == "add":
        return [split for split in rows if split.key != key] + [_added(edit)]
    if edit.kind == "ignore":
        return [replace(split, state=splits.IGNORED, reason=splits.NOT_WANTED) if split.key == key else split for split in rows]
    return rows


def _added(edit: Edit) -> Split:
    split_from, split_to = (number.quantize(Decimal(1).scaleb(-8)) for number in (edit.split_from, edit.split_to))
    return Split(edit.ticker, edit.session, split_from, split_to, splits.USER, None, splits.APPLIED, "you added it")
