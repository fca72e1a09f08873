"""The SQL that Databricks is sent, and how its answers read; pure functions.

It is what Databricks documents for managed Iceberg tables and what Apache Spark 4 runs as well; docs/databricks.md lists what
rests on documentation alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from maang_cli import sql
from maang_cli.tables import Column
from maang_cli.warehouses.databricks_errors import GATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from maang_cli.tables import Table
    from maang_cli.warehouses.base import Query, Read


@dataclass(frozen=True)
class Replace:
    """The two statements of one `replace`: what it would change, and the change.

    A query's inputs are common table expressions, so that every mention of one reads the same snapshot: what the gate audits is
    what is published.
    """

    table: Table
    name: str
    """The table's, quoted."""
    sources: Mapping[str, str]
    """Hole in the queries to the table that stands for it."""
    query: Query
    unless: Query | None
    tickers: tuple[str, ...]
    sessions: tuple[date, ...]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def _days(self) -> str:
        return f"({', '.join(map(sql.day, self.sessions))})"

    @cached_property
    def _holes(self) -> dict[str, str]:
        return {hole: f"maang_in_{hole}" for hole in self.sources}

    @cached_property
    def _with(self) -> str:
        asked = f"(SELECT ticker FROM (VALUES {sql.rows(map(sql.string, self.tickers))}) AS a(ticker))"
        return ",\n".join(
            [
                *(f"{self._holes[hole]} AS (SELECT * FROM {source})" for hole, source in self.sources.items()),
                f"maang_new AS (\n{sql.fill(self.query.text, self._holes)}\n)",
                f"maang_old AS (SELECT * FROM {self.name} WHERE date IN {self._days} AND ticker IN {asked})",
            ]
        )

    @cached_property
    def _gate(self) -> str | None:
        return f"(\n{sql.fill(self.unless.text, self._holes)}\n)" if self.unless else None

    def _differs(self, old: str, new: str) -> str:
        return sql.differs(old, new, self.table.values)

    @property
    def kinds(self) -> str:
        """The types of the columns that are written, as the preview should find them."""
        return ";".join(_TYPES.get(c.type, c.type) for c in self.table.columns)

    def preview(self) -> str:
        differs = self._differs("o", "n")
        both = "n.ticker IS NOT NULL AND o.ticker IS NOT NULL"
        kinds = ", ".join(f"typeof(o.{column.name})" for column in self.table.columns)
        return f"""WITH {self._with}
SELECT
  count(*) FILTER (WHERE o.ticker IS NULL) AS inserted,
  count(*) FILTER (WHERE {both} AND ({differs})) AS updated,
  count(*) FILTER (WHERE n.ticker IS NULL) AS deleted,
  count(*) FILTER (WHERE {both} AND NOT ({differs})) AS unchanged,
  {f"(SELECT count(*) FROM {self._gate} AS refused)" if self._gate else "0"} AS forbidden,
  max(concat_ws(';', {kinds})) AS kinds
FROM maang_new AS n FULL OUTER JOIN maang_old AS o ON n.ticker = o.ticker AND n.date = o.date"""

    def merge(self, *, deletes: bool) -> str:
        """One commit. The gate is a row of its own that everything hangs on: it is asked even when there is nothing to publish.

        What has to go is in the source, marked: `WHEN NOT MATCHED BY SOURCE` would read, and in Spark rewrite, the whole table.
        """
        columns = self.table.values
        stamp, now = self.table.stamp, f"TIMESTAMP '{self.now.isoformat()}'"
        source = f"SELECT FALSE AS gone, {', '.join(columns)} FROM maang_new"
        if deletes:
            others = ", ".join(f"CAST(NULL AS {c.type})" for c in self.table.columns if c.name in columns[2:])
            source += f"""
UNION ALL
SELECT TRUE, o.ticker, o.date, {others} FROM maang_old AS o
LEFT ANTI JOIN maang_new AS n ON n.ticker = o.ticker AND n.date = o.date"""
        if self._gate:
            verdict = f"CASE WHEN count(*) = 0 THEN TRUE ELSE CAST(raise_error('{GATE}') AS BOOLEAN) END"
            source = f"""SELECT g.opened, r.* FROM (SELECT {verdict} AS opened FROM {self._gate} AS refused) AS g
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


_TYPES = {"INTEGER": "INT"}
_TREE = {"LONG": "BIGINT", "INT": "INTEGER"}
_COLUMN = re.compile(
    r"^ \|-- (.+): (.+) \(nullable = (true|false)\)\n(?: \|    \|-- element: (.+) \(containsNull)?", re.MULTILINE
)


def columns_of(information: str) -> dict[str, Column]:
    """The columns in the text of SHOW TABLE EXTENDED, typed as `tables.Column` spells them."""
    columns = {}
    for name, kind, nullable, element in _COLUMN.findall(information + "\n"):
        inner = (element or kind).upper()
        spelled = _TREE.get(inner, inner)
        columns[name] = Column(name, f"ARRAY<{spelled}>" if element else spelled, "", required=nullable == "false")
    return columns


def plain(kind: pa.DataType) -> pa.DataType:
    """An Arrow type as every warehouse answers it: time stamps in UTC, list elements nullable."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC")
    return pa.list_(plain(kind.value_type)) if pa.types.is_list(kind) else kind


def relation(name: str, read: Read) -> str:
    """What a query reads, as it stands after FROM: the table's name, or its rows of some sessions, now or as they were."""
    then = "" if read.as_of is None else f" TIMESTAMP AS OF '{read.as_of.astimezone(UTC).isoformat()}'"
    if read.sessions is None:
        return name + then
    first, last = map(sql.day, read.sessions)
    return f"(SELECT * FROM {name}{then} WHERE date BETWEEN {first} AND {last})"


def values(table: Table, rows: pa.Table) -> str:
    """The rows as a relation of text, which the casts around it read exactly; NULL stays NULL."""
    names = ", ".join(column.name for column in table.columns)
    lines = [
        "(" + ", ".join("NULL" if cell is None else text(str(cell)) for cell in row.values()) + ")"
        for row in rows.select([column.name for column in table.columns]).to_pylist()
    ]
    if lines:
        return f"VALUES {', '.join(lines)} AS v({names})"
    return f"(SELECT * FROM VALUES ({', '.join('NULL' for _ in table.columns)}) AS v({names}) WHERE FALSE) AS v"


def text(value: str) -> str:
    """A string literal of Databricks: backslashes escape, and `${..}` would be replaced before the text is parsed."""
    for char, escaped in (("\\", "\\\\"), ("'", "\\'"), ("$", "\\u0024")):
        value = value.replace(char, escaped)
    return f"'{value}'"


def quote(name: str) -> str:
    return ".".join(f"`{part}`" for part in name.split("."))
