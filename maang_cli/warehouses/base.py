"""What a warehouse is: a few verbs, each atomic and safe to repeat, and what `maang doctor` asks of it.

Every verb may raise WarehouseDenied (2) if waiting can't help, or WarehouseFailed (4) if it may.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from maang_cli import sql
from maang_cli.errors import CommitLost, TableMismatch
from maang_cli.symbols import ALWAYS
from maang_cli.tables import Table, staged_sessions

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Read:
    """One table that a query reads."""

    table: Table
    sessions: tuple[date, date] | None = None
    """The first and last partition that the query needs; None: all of them."""
    as_of: datetime | None = None
    """Aware: the table as of this time. None: as it is now."""


Spans = Mapping[str, Sequence[tuple[date, date]]]
"""By ticker, the first and last date of each span in which it is requested. A ticker that is not here is requested always."""


@dataclass(frozen=True)
class Query:
    """A SELECT in the SQL that every warehouse shares.

    `{name}` in its text is a placeholder: a table of `reads`, the rows of a query of `parts`, or `{tickers}`, the requested
    tickers in the columns `ticker`, `first_date` and `last_date`.
    """

    text: str
    reads: Mapping[str, Read] = field(default_factory=dict)
    """By the name of the placeholder."""
    tickers: tuple[str, ...] = ()
    spans: Spans = field(default_factory=dict)
    parts: Mapping[str, Query] = field(default_factory=dict)
    """Queries for the same tickers, by the name of the placeholder. A warehouse need not run one twice on the same data."""
    fetched: bool = False
    """Whether it also yields the column `fetched_at`: see `Warehouse.replace`."""

    @property
    def tables(self) -> list[Table]:
        """All that is read."""
        return [read.table for read in self.whole().reads.values()]

    def whole(self) -> Query:
        """The query with its parts inside its text."""
        reads = dict(self.reads)
        texts = {}
        for name, part in self.parts.items():
            texts[name] = f"(\n{part.text}\n)"
            reads |= part.reads
        return replace(self, text=sql.fill(self.text, texts), reads=reads, parts={})

    def without(self, table: Table) -> Query:
        """The query with this table as an empty one."""
        empty = f"({sql.relation({column.name: column.type for column in table.columns}, ())})"
        names = [name for name, read in self.reads.items() if read.table == table]
        rest = {name: read for name, read in self.reads.items() if name not in names}
        parts = {name: part.without(table) for name, part in self.parts.items()}
        return replace(self, text=sql.fill(self.text, dict.fromkeys(names, empty)), reads=rest, parts=parts)

    def requested(self) -> Iterator[tuple[str, date, date]]:
        """The rows of `{tickers}`: each ticker with the first and last date of each of its spans."""
        for ticker in self.tickers:
            for first, last in self.spans.get(ticker, (ALWAYS,)):
                yield ticker, first, last


@dataclass(frozen=True)
class Replaced:
    """What one `replace` did, in rows."""

    table: str
    """Its full name, as a person would query it."""
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.inserted or self.revised)

    @property
    def revised(self) -> bool:
        """Whether stored rows changed or were removed."""
        return bool(self.updated or self.deleted)

    def __add__(self, other: Replaced) -> Replaced:
        counts = ("inserted", "updated", "deleted", "unchanged")
        return Replaced(self.table, *(getattr(self, count) + getattr(other, count) for count in counts))


@dataclass(frozen=True)
class Size:
    bytes: int | None
    """On disk, history included; None if the warehouse does not report it."""
    snapshots: int | None


@dataclass(frozen=True)
class Cleanup:
    """What `maintain` removed from one table."""

    table: str
    snapshots: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Places:
    """Where a warehouse keeps its tables, as far as that is known without opening it."""

    catalog: str
    """For a person, or for another engine to connect to."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """On this machine, by what they hold."""
    metadata: Mapping[str, str | None] = field(default_factory=dict)
    """By the table's full name, its current metadata file; None: the catalog names none."""


class GateFailed(Exception):
    """`replace` found rows in `refuse_if`, and published nothing. It never leaves the pipeline."""


class WouldRevise(Exception):
    """`replace` would change or remove stored rows, and may not. It never leaves the pipeline."""


class TableMissing(Exception):
    """A verb needs a table that does not exist. It never leaves the pipeline."""

    def __init__(self, table: Table) -> None:
        super().__init__(table.name)
        self.table = table


def query_optional(warehouse: Warehouse, query: Query, optional: Collection[Table]) -> pa.Table:
    """The query's rows; a table in `optional` that does not exist is empty."""
    while True:
        try:
            return warehouse.query(query)
        except TableMissing as exc:
            if exc.table not in optional:
                raise
            query = query.without(exc.table)


def commit_lost(table: str, attempts: int) -> CommitLost:
    """The error of a `replace` that another writer has overtaken on every attempt."""
    return CommitLost(
        f"other writers have changed {table} {attempts} times in a row", hint="run the same command again when they have ended"
    )


def table_mismatch(name: str, table: Table, differences: Sequence[str]) -> TableMismatch:
    """The error of a table that this version can't write or read."""
    hint = "alter the table to match, or use --schema with a new name"
    if not table.partitioned:
        first, last = staged_sessions(table)
        sessions = f"--date {first}" if first == last else f"--from {first} --to {last}"
        hint = f"fetch it again: maang ingest {sessions}{{flags}}"
    return TableMismatch(f"{name} has other columns than this version writes: {'; '.join(differences)}", hint=hint)


class Warehouse(Protocol):
    def full_name(self, table: Table) -> str:
        """The table's name as a person would query it, schema included."""

    @property
    def location(self) -> str:
        """Where the tables are, for a person; known without asking the warehouse."""

    def describe(self) -> str:
        """Where the tables are and who is logged in, for a person; asks the warehouse."""

    def has_schema(self) -> bool:
        """Whether the schema exists. It changes nothing."""

    def create_schema(self) -> bool:
        """Create the schema; False if it existed."""

    def create(self, table: Table) -> bool:
        """Create an empty table, partitioned by date unless it is staging; False if it existed with fitting columns.

        Raises:
            TableMismatch: it exists with other columns; the message lists the differences. Extra nullable columns are fine.
        """

    def add_columns(self, table: Table) -> tuple[str, ...]:
        """Add the nullable columns that an older table lacks, without rewriting it; returns their names.

        Nothing is changed if the table does not exist, or differs in another way too.
        """

    @property
    def max_staged_rows(self) -> int | None:
        """How many rows one `stage` can take with the present settings; None: any number."""

    def stage(self, table: Table, rows: pa.Table) -> None:
        """Make `rows`, in the table's columns, the table's only content. It is created if it does not exist."""

    def query(self, query: Query) -> pa.Table:
        """The query's rows, in its order.

        Raises:
            TableMissing: one of the tables that it reads does not exist.
        """

    def select(self, text: str, tables: Mapping[str, Query]) -> pa.Table:
        """The rows of a user's query, in the warehouse's own SQL, which knows these queries as tables. It can't change anything.

        Raises:
            SettingsError, WarehouseDenied: it is not one query, or a wrong one; the message is the engine's.
            TableMissing: one of the tables that `tables` read does not exist.
        """

    def replace(
        self, table: Table, query: Query, sessions: Sequence[date], refuse_if: Query | None = None, *, revise: bool = True
    ) -> Replaced:
        """Make the query's rows the only rows of the query's tickers on these sessions, within their spans, in one commit.

        The query yields the table's `values`, one row per ticker and session. A row whose values are the same keeps its stamp,
        and if nothing differs, nothing is committed. Rows of other tickers and sessions, and a user's extra columns, stay as
        they are. `refuse_if`, a query for the same tickers, sees exactly the rows that the query reads. If another writer commits
        first, everything is computed again.

        If the query yields `fetched_at`, when the fetch of a row began: a row that was fetched before its session was final
        (`sessions.final`) has this moment as its stamp, instead of the present one. A row that was fetched later renews such a
        stamp even if its values are the same, and counts as updated.

        Raises:
            GateFailed: `refuse_if` returned rows.
            WouldRevise: not `revise`, and stored rows would change or be removed; nothing was committed.
            TableMissing: the table, or one that is read, does not exist.
            CommitLost: another writer committed first, on every attempt.
        """

    def add(self, table: Table, query: Query) -> int:
        """Add those of the query's rows that the table does not have yet, in one commit; returns how many.

        The query yields the table's `values`. Two rows are the same if all of these are, NULL or not. If there is nothing to add,
        nothing is committed. If another writer commits first, everything is computed again.

        Raises:
            TableMissing: the table, or one that is read, does not exist.
            CommitLost: another writer committed first, on every attempt.
        """

    def remove_unreadable(self, table: Table, sessions: Sequence[date], /) -> tuple[date, ...]:
        """Remove those rows of the sessions that can't be read because a file is damaged, in one commit; returns their sessions.

        The rows are then missing, so that they can be fetched again. Rows that can be read stay.
        """

    def drop(self, table: Table) -> bool:
        """Drop a table with its data; False if it did not exist.

        Raises:
            NotOwner: somebody else created it.
        """

    def tables(self) -> list[str]:
        """The names of the schema's tables, without the schema, in order; empty if there is no schema."""

    def size(self, table: Table) -> Size:
        """How much space a table takes.

        Raises:
            TableMissing: it does not exist.
        """

    def maintain(self) -> tuple[Cleanup, ...] | None:
        """Expire old snapshots and remove unreachable files, table by table; None: the platform does that by itself."""

    def doctor_checks(self) -> Mapping[str, Callable[[], str]]:
        """What `maang doctor` checks besides a scratch table, by name. Each returns what it found, or raises."""

    def cancel(self) -> None:
        """Stop what still runs in the warehouse, because this process is about to end. Another thread calls it, at any moment."""

    def close(self) -> None:
        """Release what is open; the warehouse is not used afterwards."""
