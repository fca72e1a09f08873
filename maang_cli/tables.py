"""The tables as data: column, type, unit, meaning. Schemas (`schemas.py`) and SQL casts are made from it.

Types are those of the Iceberg specification (https://iceberg.apache.org/spec/#schemas-and-data-types), as SQL spells them.
"""

import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    """STRING, DATE, INTEGER, BIGINT, TIMESTAMP (with zone), DECIMAL(p,s), or ARRAY<one of them>."""
    comment: str
    """Meaning and unit; it becomes the column's comment in the table's schema."""
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A table's shape. Rows are keyed by `ticker` and `date`, those of FINDINGS by all columns but the stamp."""

    name: str
    columns: tuple[Column, ...]
    stamp: str | None = None
    """The column that says when a row's values last changed, which the warehouse fills in. None for staging."""

    @property
    def value_columns(self) -> tuple[Column, ...]:
        """The columns that a step writes: all but the stamp."""
        return tuple(column for column in self.columns if column.name != self.stamp)

    @property
    def values(self) -> tuple[str, ...]:
        """The names of the columns that a step writes."""
        return tuple(column.name for column in self.value_columns)

    @property
    def partitioned(self) -> bool:
        """Whether the table is partitioned by `date`. Staging is not: it is read completely, and dropped."""
        return self.stamp is not None


PRICE = "DECIMAL(10,2)"
"""The type of every price, USD a share."""
_KEY = (
    Column("ticker", "STRING", "Symbol as the vendor spells it; case matters", required=True),
    Column("date", "DATE", "Session, a New York date on which NYSE traded", required=True),
)

PRODUCTION = Table(
    "daily_stock_prices",
    (
        *_KEY,
        Column("open", PRICE, "First price of the session, USD a share, as traded"),
        Column("high", PRICE, "Highest price of the session, USD a share, as traded"),
        Column("low", PRICE, "Lowest price of the session, USD a share, as traded"),
        Column("close", PRICE, "Last price of the session, USD a share, as traded"),
        Column("volume", "BIGINT", "Shares traded, as traded, rounded half up to whole shares"),
        Column("vwap", PRICE, "Volume-weighted average price, USD a share; NULL if the vendor sends none"),
        Column("transactions", "INTEGER", "Trades; NULL if the vendor sends none"),
        Column("insertion_timestamp", "TIMESTAMP", "When this row's values last changed, or were confirmed as final, UTC"),
    ),
    stamp="insertion_timestamp",
)

_WINDOW = "of the last 7 sessions by the calendar, oldest to newest; shorter if production lacks a bar"
CUMULATIVE = Table(
    "daily_stock_prices_cumulative",
    (
        *_KEY,
        Column("last_7_days_open", f"ARRAY<{PRICE}>", f"Opens {_WINDOW}; USD a share, on the basis of the last session"),
        Column("last_7_days_high", f"ARRAY<{PRICE}>", f"Highs {_WINDOW}; USD a share, on the basis of the last session"),
        Column("last_7_days_low", f"ARRAY<{PRICE}>", f"Lows {_WINDOW}; USD a share, on the basis of the last session"),
        Column("last_7_days_close", f"ARRAY<{PRICE}>", f"Closes {_WINDOW}; USD a share, on the basis of the last session"),
        Column("last_7_days_volume", "ARRAY<BIGINT>", f"Volumes {_WINDOW}; shares, on the basis of the last session"),
        Column("avg_7_day_volume", "DECIMAL(15,2)", "Mean of last_7_days_volume, shares a session"),
        Column(
            "volatility_7_day",
            "DECIMAL(10,4)",
            "Sample standard deviation of last_7_days_close, USD; NULL for fewer than 2 closes, or above 999999.9999",
        ),
        Column("updated_at", "TIMESTAMP", "When this row's values last changed, UTC"),
    ),
    stamp="updated_at",
)

SPLITS = Table(
    "daily_stock_prices_splits",
    (
        *_KEY,
        Column("split_from", "DECIMAL(18,8)", "Shares before the split; 1 for 10 new shares for 1 old one"),
        Column("split_to", "DECIMAL(18,8)", "Shares after the split; 10 for 10 new shares for 1 old one"),
        Column("source", "STRING", "Who says so: the vendor's name, or user"),
        Column("vendor_date", "DATE", "Execution date as the vendor sends it; NULL for a user's row"),
        Column("state", "STRING", "applied, disputed or ignored; windows are restated by applied splits only"),
        Column("reason", "STRING", "Why the split has this state"),
        Column("updated_at", "TIMESTAMP", "When this row's values last changed, UTC"),
    ),
    stamp="updated_at",
)
"""`date` is the first session that trades on the new basis."""

_ANY_PRICE = "DECIMAL(38,2)"
_ANY_COUNT = "DECIMAL(38,0)"
_STAGED = {PRICE: _ANY_PRICE, "BIGINT": _ANY_COUNT, "INTEGER": _ANY_COUNT}
FETCHED_COLUMNS = (
    Column("session", "DATE", "Requested session; `date` is what the source says"),
    *(replace(column, type=_STAGED.get(column.type, column.type), required=False) for column in PRODUCTION.value_columns),
)
"""What a source returns. Wide and nullable, so that the check that names a wrong number refuses it, not a cast."""
STAGING_COLUMNS = (*FETCHED_COLUMNS, Column("fetched_at", "TIMESTAMP", "When the fetch of this row began, UTC"))
BAR = FETCHED_COLUMNS[3:]
"""What a staged row says about its ticker and session: prices, volume, transactions."""

FINDINGS = Table(
    "daily_stock_prices_findings",
    (
        Column("ticker", "STRING", "Symbol as the vendor spells it; NULL if the finding is about the whole session"),
        Column("date", "DATE", "Session, a New York date on which NYSE traded", required=True),
        Column("kind", "STRING", "check or revision"),
        Column("name", "STRING", "The check, or the column that was revised"),
        Column("outcome", "STRING", "refused, held, warned or accepted; revised or vanished"),
        Column("found", "STRING", "What is wrong, in words"),
        Column("before", "STRING", "The value before: of a jump the close before it, of a revision the replaced value"),
        Column("after", "STRING", "The value after: of a jump the price that jumped, of a revision the new value"),
        *(replace(column, comment=f"{column.comment}; of the row that the finding is about") for column in BAR),
        Column("replaced_at", "TIMESTAMP", "Of a revision: insertion_timestamp of the replaced row, UTC"),
        Column("seen_at", "TIMESTAMP", "When the finding was written, UTC"),
    ),
    stamp="seen_at",
)
"""What the gate and the revisions found. Two findings are the same if they differ in `seen_at` alone."""

STORED = {"production": PRODUCTION, "cumulative": CUMULATIVE, "splits": SPLITS, "findings": FINDINGS}
"""The tables that stay, by the names that users give them."""


def staging(tickers: Iterable[str], sessions: Sequence[date]) -> Table:
    """The staging table of one request, `daily_stock_prices_staging_<first session>[_<last>]_<6 hex of the sorted tickers>`.

    The last part is the beginning of a SHA-256 over the sorted tickers, one a line.
    """
    digest = hashlib.sha256("\n".join(sorted(tickers)).encode()).hexdigest()[:6]
    ends = dict.fromkeys(f"{day:%Y%m%d}" for day in (sessions[0], sessions[-1]))
    return Table("_".join([PRODUCTION.name, "staging", *ends, digest]), STAGING_COLUMNS)


def is_staging(name: str) -> bool:
    """Whether it is the name of a staging table, which `staging` gives. A user's own table may begin like one."""
    if not re.fullmatch(rf"{PRODUCTION.name}_staging(_\d{{8}}){{1,2}}_[0-9a-f]{{6}}", name):
        return False
    try:
        staged_sessions(Table(name, ()))
    except ValueError:  # digits that are not a date
        return False
    return True


def staged_sessions(table: Table) -> tuple[date, date]:
    """The first and the last session of a staging table, read from its name."""
    ends = table.name.removeprefix(f"{PRODUCTION.name}_staging_").split("_")[:-1]
    first, last = (datetime.strptime(text, "%Y%m%d").date() for text in (ends[0], ends[-1]))  # noqa: DTZ007 - a date
    return first, last


def scratch(columns: tuple[Column, ...], stamp: str | None = None) -> Table:
    """A table of `maang doctor`, `maang_doctor_<Unix time>_<8 random hex>`."""
    return Table(f"maang_doctor_{int(time.time())}_{uuid.uuid4().hex[:8]}", columns, stamp)


def scratch_made(name: str) -> int | None:
    """When a scratch table got its name, as a Unix time; None if it is not the name of one."""
    found = re.fullmatch(r"maang_doctor_(\d+)_[0-9a-f]{8}(_[a-z]+)?", name)
    return int(found[1]) if found else None


def differences(table: Table, found: dict[str, str], required: Iterable[str] = ()) -> list[str]:
    """Why `table` can't be written, one line a reason: the columns that were found (name to SQL type) differ from its own, or are
    `required` although maang may have no value for them.

    A user's extra nullable columns are not a difference.
    """
    own = {column.name: column.type for column in table.columns}
    lines = [
        f"{name} is missing, {kind} expected" if name not in found else f"{name} is {found[name]}, {kind} expected"
        for name, kind in own.items()
        if found.get(name) != kind
    ]
    always = {column.name for column in table.columns if column.required}
    return lines + [
        f"{name} is required, and maang may have no value for it: make it nullable"
        if name in own
        else f"{name} is required but not maang's: make it nullable"
        for name in required
        if name not in always
    ]
