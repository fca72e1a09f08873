"""What a warehouse is: a few verbs, each atomic, each safe to repeat, and what `maang doctor` asks of it.

Errors, for every verb: WarehouseDenied (2) when waiting can't help, WarehouseFailed (4) when it may.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date, datetime

    import pyarrow as pa

    from maang_cli.tables import Table


@dataclass(frozen=True)
class Read:
    """One table that a query reads."""

    table: Table
    sessions: tuple[date, date] | None = None
    """First and last partition that the query needs; None: all of them."""
    as_of: datetime | None = None
    """Aware; the table as it was then. None: as it is."""


@dataclass(frozen=True)
class Query:
    """A SELECT in the SQL that every warehouse shares; `{hole}` in its text stands for a table."""

    text: str
    reads: Mapping[str, Read] = field(default_factory=dict)
    """By the name of the hole."""


@dataclass(frozen=True)
class Replaced:
    """What one `replace` did, in rows."""

    table: str
    """Its full name, as a person would query it."""
    inserted: int
    updated: int
    deleted: int
    unchanged: int

    @property
    def changed(self) -> bool:
        return bool(self.inserted or self.updated or self.deleted)


@dataclass(frozen=True)
class Size:
    bytes: int | None
    """On disk, history included; None where the warehouse does not say."""
    snapshots: int | None


@dataclass(frozen=True)
class Tidied:
    """What housekeeping took away from one table."""

    table: str
    snapshots: int
    files: int
    bytes: int


class Forbidden(Exception):
    """`replace` found rows in `unless`: nothing was published. Never leaves the pipeline."""


class TableMissing(Exception):
    """A verb was asked of a table that is not there. Never leaves the pipeline."""

    def __init__(self, table: Table) -> None:
        super().__init__(table.name)
        self.table = table


class Warehouse(Protocol):
    def full_name(self, table: Table) -> str:
        """The table's name as a person would query it, schema included."""

    def create_schema(self) -> bool:
        """Create the schema; False when it was there."""

    def create(self, table: Table) -> bool:
        """Create an empty table, partitioned by date unless it is staging; False when it was there, fit to be written.

        Raises:
            TableMismatch: it is there with other columns; the differences are listed. Extra nullable columns are none.
        """

    @property
    def most_staged(self) -> int | None:
        """How many rows `stage` takes at most as things are set up; None: any number."""

    def stage(self, table: Table, rows: pa.Table) -> None:
        """Make `rows`, in the table's columns, the only content of the table; created when it is not there."""

    def query(self, query: Query) -> pa.Table:
        """The query's rows, in its order.

        Raises:
            TableMissing: one of the tables it reads is not there.
        """

    def replace(
        self, table: Table, query: Query, tickers: Sequence[str], sessions: Sequence[date], unless: Query | None = None
    ) -> Replaced:
        """Make the query's rows the only rows of these tickers on these sessions, in one commit.

        The query yields the table's `values`, one row a ticker and session. A row whose values are the same keeps its stamp,
        and where nothing differs nothing is committed. Rows of other tickers and sessions, and a user's extra columns, stay as
        they are. `unless` is asked about the very rows that the query reads. A commit that another writer overtakes is computed
        anew.

        Raises:
            Forbidden: `unless` returned rows.
            TableMissing: the table, or one that is read, is not there.
            CommitLost: overtaken on every attempt.
        """

    def has_schema(self) -> bool:
        """Whether the schema is there; changes nothing."""

    def describe(self) -> str:
        """Who works where, for a person; asks the warehouse."""

    def looks(self) -> Mapping[str, Callable[[], str]]:
        """What `maang doctor` looks at here besides a scratch table, by name; each says what is so, or raises."""

    def drop(self, table: Table) -> bool:
        """Drop a table with its data; False when it was not there."""

    def tables(self) -> list[str]:
        """The names of the schema's tables, without the schema, in order; empty when there is no schema."""

    def size(self, table: Table) -> Size:
        """What a table takes up.

        Raises:
            TableMissing: it is not there.
        """

    def maintain(self) -> tuple[Tidied, ...] | None:
        """Expire old snapshots and remove files that nothing reaches, table by table; None: the platform does that by itself."""

    def close(self) -> None:
        """Give back what is held; the warehouse is not used afterwards."""
