"""The SQL that is sent to Databricks, and how to read its answers; pure functions.

The statements are documented for managed Iceberg tables, and Apache Spark 4 runs them as well. docs/databricks.md lists what is
known only from the documentation.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property

import pyarrow as pa

from maang_cli import sessions as calendar
from maang_cli import sql
from maang_cli.symbols import ALWAYS
from maang_cli.tables import Column, Table
from maang_cli.warehouses.base import Query, Read
from maang_cli.warehouses.databricks.errors import GATE


@dataclass(frozen=True)
class Replace:
    """The statements of one `replace`: what it would change, and the change.

    A query's inputs are common table expressions, so that every mention of one reads the same snapshot: the gate audits exactly
    the rows that are published.
    """

    table: Table
    name: str
    """The table's full name, quoted."""
    relations: Mapping[str, str]
    """The tables that the queries read, by their placeholders."""
    query: Query
    refuse_if: Query | None
    sessions: tuple[date, ...]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def _days(self) -> str:
        return f"({', '.join(map(sql.day, self.sessions))})"

    @cached_property
    def _names(self) -> dict[str, str]:
        """The common table expressions that fill the queries' placeholders."""
        return {name: f"maang_in_{name}" for name in (*self.relations, "tickers")}

    @cached_property
    def _with(self) -> str:
        inputs = {**self.relations, "tickers": tickers_relation(self.query)}
        mine = "r.ticker = o.ticker AND o.date BETWEEN r.first_date AND r.last_date"
        requested = f"SELECT 1 FROM {self._names['tickers']} AS r WHERE {mine}"
        return ",\n".join(
            [
                *(f"{self._names[name]} AS (SELECT * FROM {source})" for name, source in inputs.items()),
                f"maang_new AS (\n{sql.fill(self.query.text, self._names)}\n)",
                f"maang_old AS (SELECT * FROM {self.name} AS o WHERE o.date IN {self._days} AND EXISTS ({requested}))",
            ]
        )

    @cached_property
    def _gate(self) -> str | None:
        return f"(\n{sql.fill(self.refuse_if.text, self._names)}\n)" if self.refuse_if else None

    def _differs(self, old: str, new: str) -> str:
        differs = sql.differs(old, new, self.table.values)
        if not self.query.fetched:
            return differs
        return f"{differs} OR ({old}.{self.table.stamp} < {_final(old)} AND {new}.fetched_at >= {_final(old)})"

    def columns(self, kinds: str) -> dict[str, Column]:
        """The table's columns with the types that the preview found."""
        return {c.name: Column(c.name, spelled(kind), "") for c, kind in zip(self.table.columns, kinds.split(";"), strict=True)}

    def preview(self) -> str:
        """One row: how many rows `merge` would insert, update, delete and leave, and the types."""
        differs = self._differs("o", "n")
        both = "n.ticker IS NOT NULL AND o.ticker IS NOT NULL"
        kinds = ", ".join(f"typeof(o.{column.name})" for column in self.table.columns)
        return f"""WITH {self._with}
SELECT
  count(*) FILTER (WHERE o.ticker IS NULL) AS inserted,
  count(*) FILTER (WHERE {both} AND ({differs})) AS updated,
  count(*) FILTER (WHERE n.ticker IS NULL) AS deleted,
  count(*) FILTER (WHERE {both} AND NOT ({differs})) AS unchanged,
  max(concat_ws(';', {kinds})) AS kinds
FROM maang_new AS n FULL OUTER JOIN maang_old AS o ON n.ticker = o.ticker AND n.date = o.date"""

    def audit(self) -> str | None:
        """One row: how many rows the gate refuses; None without a gate. For a `replace` that changes nothing: `merge` audits."""
        return f"WITH {self._with}\nSELECT count(*) AS refused FROM {self._gate} AS failing" if self._gate else None

    def merge(self, *, deletes: bool) -> str:
        """One commit. The gate is a row of its own that everything is joined to, so it is evaluated even if nothing is staged.

        Rows to delete are marked in the source: `WHEN NOT MATCHED BY SOURCE` would read, and in Spark rewrite, the whole table.
        """
        columns = self.table.values
        stamp, now = self.table.stamp, f"TIMESTAMP '{self.now.isoformat()}'"
        fetched = ", fetched_at" * self.query.fetched
        if fetched:
            now = f"CASE WHEN s.fetched_at < {_final('s')} THEN s.fetched_at ELSE {now} END"
        source = f"SELECT FALSE AS gone, {', '.join(columns)}{fetched} FROM maang_new"
        if deletes:
            others = ", ".join(f"CAST(NULL AS {c.type})" for c in self.table.columns if c.name in columns[2:])
            source += f"""
UNION ALL
SELECT TRUE, o.ticker, o.date, {others}{", CAST(NULL AS TIMESTAMP)" if fetched else ""} FROM maang_old AS o
LEFT ANTI JOIN maang_new AS n ON n.ticker = o.ticker AND n.date = o.date"""
        if self._gate:
            verdict = f"CASE WHEN count(*) = 0 THEN TRUE ELSE CAST(raise_error('{GATE}') AS BOOLEAN) END"
            source = f"""SELECT g.opened, r.* FROM (SELECT {verdict} AS opened FROM {self._gate} AS failing) AS g
LEFT JOIN (
{source}
) AS r ON TRUE
WHERE g.opened"""
        differs = self._differs("t", "s")
        sets = ", ".join(f"{column} = s.{column}" for column in columns[2:])
        return f"""MERGE INTO {self.name} AS t
USING (
WITH {self._with}
{source}
) AS s
ON t.ticker = s.ticker AND t.date = s.date AND t.date IN {self._days}
{"WHEN MATCHED AND s.gone THEN DELETE" if deletes else ""}
WHEN MATCHED AND ({differs}) THEN UPDATE SET {sets}, {stamp} = {now}
WHEN NOT MATCHED AND s.ticker IS NOT NULL THEN INSERT ({", ".join(columns)}, {stamp})
VALUES ({", ".join(f"s.{column}" for column in columns)}, {now})"""


def _final(relation: str) -> str:
    """When the session of a row is final, `sessions.final`."""
    parts = ", ".join(f"{part}(date_add({relation}.date, 1))" for part in ("year", "month", "day"))
    return f"make_timestamp({parts}, {calendar.FINAL.hour}, {calendar.FINAL.minute}, 0, '{calendar.NEW_YORK.key}')"


@dataclass(frozen=True)
class Add:
    """The two statements of one `add`: how many rows it would add, and the addition."""

    table: Table
    name: str
    """The table's full name, quoted."""
    query: str
    """With all its placeholders filled in."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def _columns(self) -> str:
        return ", ".join(self.table.values)

    def preview(self) -> str:
        """One row: how many rows are new, and on which dates."""
        return f"""SELECT count(*) AS added, concat_ws(',', collect_set(CAST(date AS STRING))) AS days
FROM (SELECT {self._columns} FROM (
{self.query}
) AS new EXCEPT SELECT {self._columns} FROM {self.name})"""

    def merge(self, days: Iterable[str]) -> str:
        """One commit. A MERGE, because it conflicts with another writer that adds the same rows; an INSERT does not."""
        same = " AND ".join(f"t.{column} <=> s.{column}" for column in self.table.values)
        dates = ", ".join(f"DATE '{day}'" for day in sorted(days))
        return f"""MERGE INTO {self.name} AS t
USING (
SELECT DISTINCT {self._columns} FROM (
{self.query}
) AS new
) AS s
ON t.date IN ({dates}) AND {same}
WHEN NOT MATCHED THEN INSERT ({self._columns}, {self.table.stamp})
VALUES ({", ".join(f"s.{column}" for column in self.table.values)}, TIMESTAMP '{self.now.isoformat()}')"""


_SPELLED = {"LONG": "BIGINT", "INT": "INTEGER"}
"""The types of `tables.Column`, by the spelling of SHOW TABLE EXTENDED, `typeof` or the information schema, if it differs."""
_COLUMN = re.compile(
    r"^ \|-- (.+): (.+) \(nullable = (true|false)\)\n(?: \|    \|-- element: (.+) \(containsNull)?", re.MULTILINE
)


def columns_of(information: str) -> dict[str, Column]:
    """The columns in the text of SHOW TABLE EXTENDED, with types spelled as in `tables.Column`."""
    columns = {}
    for name, kind, nullable, element in _COLUMN.findall(information + "\n"):
        columns[name] = Column(name, spelled(f"array<{element}>" if element else kind), "", required=nullable == "false")
    return columns


def spelled(kind: str) -> str:
    """A type that the warehouse names, as `tables.Column` spells it."""
    kind = kind.upper()
    if kind.startswith("ARRAY<"):
        return f"ARRAY<{spelled(kind[6:-1])}>"
    return _SPELLED.get(kind, kind)


def information_schema(schema: str, tables: Iterable[str]) -> str:
    """The columns of these tables: their table, name, type, and whether they are nullable, in order."""
    catalog, _, name = schema.rpartition(".")
    source = quote(f"{catalog}.information_schema.columns" if catalog else "information_schema.columns")
    return (
        "SELECT table_name, column_name, full_data_type, is_nullable"
        f" FROM {source} WHERE table_schema = {text(name)} AND table_name IN ({', '.join(map(text, tables))})"
        " ORDER BY table_name, ordinal_position"
    )


def plain(kind: pa.DataType) -> pa.DataType:
    """An Arrow type as every warehouse returns it: timestamps in UTC, list elements nullable."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC")
    return pa.list_(plain(kind.value_type)) if pa.types.is_list(kind) else kind


def relation(name: str, read: Read) -> str:
    """What follows FROM for a `Read`: the table's name, or its rows of some sessions, as they are now or were then."""
    then = "" if read.as_of is None else f" TIMESTAMP AS OF '{read.as_of.astimezone(UTC).isoformat()}'"
    if read.sessions is None:
        return name + then
    first, last = map(sql.day, read.sessions)
    return f"(SELECT * FROM {name}{then} WHERE date BETWEEN {first} AND {last})"


def tickers_relation(query: Query) -> str:
    """The query's tickers as a relation with the columns `ticker`, `first_date` and `last_date`; it may be empty."""
    always = sql.rows(sql.string(ticker) for ticker in query.tickers if ticker not in query.spans)
    limited = ", ".join(
        f"({sql.string(ticker)}, {sql.day(first)}, {sql.day(last)})"
        for ticker, first, last in query.requested()
        if ticker in query.spans
    )
    dates = ", ".join(f"{sql.day(day)} AS {name}" for day, name in zip(ALWAYS, ("first_date", "last_date"), strict=True))
    parts = [f"SELECT ticker, {dates} FROM (VALUES {always}) AS t(ticker)"] if always else []
    if limited:
        parts.append(f"SELECT ticker, first_date, last_date FROM (VALUES {limited}) AS t(ticker, first_date, last_date)")
    return f"({' UNION ALL '.join(parts) or f'SELECT CAST(NULL AS STRING) AS ticker, {dates} WHERE FALSE'})"


def values(table: Table, rows: pa.Table) -> str:
    """The rows as a relation of text, which casts read exactly; NULL stays NULL."""
    names = ", ".join(column.name for column in table.columns)
    lines = [
        "(" + ", ".join("NULL" if cell is None else text(str(cell)) for cell in row.values()) + ")"
        for row in rows.select([column.name for column in table.columns]).to_pylist()
    ]
    if lines:
        return f"VALUES {', '.join(lines)} AS v({names})"
    return f"(SELECT * FROM VALUES ({', '.join('NULL' for _ in table.columns)}) AS v({names}) WHERE FALSE) AS v"


def text(value: str) -> str:
    """A string literal of Databricks, where a backslash escapes, and `${..}` would be replaced before the text is parsed."""
    for char, escaped in (("\\", "\\\\"), ("'", "\\'"), ("$", "\\u0024")):
        value = value.replace(char, escaped)
    return f"'{value}'"


def quote(name: str) -> str:
    """A dotted name with each part quoted."""
    return ".".join(f"`{part}`" for part in name.split("."))
