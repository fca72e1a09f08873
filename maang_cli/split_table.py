"""The table of splits: read with the prices that judge them, written if something changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from typing import Any

from maang_cli import splits, sql
from maang_cli.splits import Claim, Claims, Key, Night, Split
from maang_cli.tables import PRODUCTION, SPLITS, Table
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse, query_optional

_KINDS = {column.name: column.type for column in SPLITS.value_columns}
NIGHT_DAYS = 10
"""How many days before a split the last close may be."""


@dataclass(frozen=True)
class Learned:
    """What one run learned about splits."""

    known: tuple[Split, ...] = ()
    """All splits around the run's sessions."""
    changed: tuple[Split, ...] = ()
    """Those that are new, or whose row has changed."""

    @property
    def disputed(self) -> tuple[Split, ...]:
        return tuple(split for split in self.known if split.state == splits.DISPUTED)


def stored(warehouse: Warehouse, tickers: Sequence[str], first: date, last: date) -> tuple[Split, ...]:
    """The known splits with first sessions from `first` to `last`, with the states that they were given last.

    A table that does not exist has none.
    """
    text = f"-- The known splits of these tickers.\n{_stored(_between(first, last))}\nORDER BY ticker, date"
    query = Query(text, {"splits": Read(SPLITS, (first, last))}, tuple(tickers))
    return tuple(_split(row) for row in query_optional(warehouse, query, [SPLITS]).to_pylist())


def read(
    warehouse: Warehouse,
    tickers: Sequence[str],
    first: date,
    last: date,
    *,
    claims: Iterable[Claim] = (),
    staged: Table | None = None,
) -> tuple[tuple[Split, ...], Mapping[Key, Night]]:
    """The known splits with first sessions from `first` to `last`, and the prices around them and around the claimed ones.

    The claimed ones are in the same range. A person's splits count if they are near it, for they may replace one that is in it.
    A table that does not exist, or that another run has just dropped, has no rows. `staged`: a staging table, whose bars
    replace production's.
    """
    claimed = sorted({(claim.ticker, splits.session_of(claim.executed)) for claim in claims})
    query = known_query(tickers, first, last, claimed, staged)
    rows = query_optional(warehouse, query, query.tables).to_pylist()
    known = tuple(_split(row) for row in rows if row["state"] is not None)
    return known, {(row["ticker"], row["date"]): Night(row["previous_close"], row["first_open"]) for row in rows}


def known_query(tickers: Sequence[str], first: date, last: date, claimed: Iterable[Key], staged: Table | None) -> Query:
    """What `read` asks for."""
    near = first - splits.SAME_SPLIT_DAYS, last + splits.SAME_SPLIT_DAYS
    reads = {"splits": Read(SPLITS, near), "production": Read(PRODUCTION, (first - timedelta(NIGHT_DAYS), last))}
    reads |= {"staging": Read(staged)} if staged else {}
    users = f"source = {sql.string(splits.USER)} AND {_between(*near)}"
    bars = (
        f"SELECT ticker, date, open, close, {name == 'staging'} AS staged FROM {{{name}}}"
        for name in sorted(reads.keys() - {"splits"})
    )
    text = sql.text(
        "known_splits",
        stored=_stored(f"({_between(first, last)} OR {users})"),
        claimed=sql.relation({"ticker": "STRING", "date": "DATE"}, ([sql.string(name), sql.day(day)] for name, day in claimed)),
        bars="\nUNION ALL\n".join(bars),
        night_days=str(NIGHT_DAYS),
        columns=", ".join(f"s.{name}" for name in list(_KINDS)[2:]),
    )
    return Query(text, reads, tuple(tickers))


def _between(first: date, last: date) -> str:
    return f"date BETWEEN {sql.day(first)} AND {sql.day(last)}"


def _stored(condition: str) -> str:
    return f"SELECT {', '.join(_KINDS)} FROM {{splits}} WHERE {condition} AND ticker IN (SELECT ticker FROM {{tickers}})"


def _split(row: Mapping[str, Any]) -> Split:
    return Split(*(row[name] for name in _KINDS))


def learn(
    warehouse: Warehouse,
    tickers: Sequence[str],
    sessions: Sequence[date],
    claims: Claims,
    staged: Table | None = None,
) -> Learned:
    """Judge what the vendor claims about these tickers around these sessions, and store what is new. `staged`: see `read`.

    Only these claims count, if there are more.
    """
    requested = claimed_range(sessions)
    names = frozenset(tickers)
    mine = [claim for claim in claims.rows if claim.ticker in names and requested[0] <= claim.executed <= requested[1]]
    reach = requested[0], splits.session_of(requested[1])
    if not mine and not stored(warehouse, tickers, *reach):  # the usual case: no bar is read
        return Learned()
    known, nights = read(warehouse, tickers, *reach, claims=mine, staged=staged)
    judged = splits.judge(mine, known, requested if claims.complete else None, nights)
    return Learned(tuple(judged), store(warehouse, known, judged))


def judge_again(
    warehouse: Warehouse, tickers: Sequence[str], first: date, last: date, published: Sequence[date], *, keep: bool
) -> Sequence[Split]:
    """The known splits with first sessions from `first` to `last`, as production's prices prove them.

    `published`: the sessions whose bars may have changed. They matter to the splits on them and soon after them; another run may
    have judged those before these bars were published. `keep`: store the verdicts that have changed.
    """
    known = stored(warehouse, tickers, first, last)
    if not any(published[0] <= split.session <= published[-1] + timedelta(NIGHT_DAYS) for split in known):
        return known
    known, nights = read(warehouse, tickers, first, last)
    judged = splits.judge([], known, None, nights)
    if keep:
        store(warehouse, known, judged)
    return judged


def claimed_range(sessions: Sequence[date]) -> tuple[date, date]:
    """The execution dates of which a run asks the vendor."""
    return sessions[0] - splits.CLAIMS_BEFORE, sessions[-1] + splits.CLAIMS_AFTER


def store(warehouse: Warehouse, known: Iterable[Split], judged: Sequence[Split]) -> tuple[Split, ...]:
    """Write the judged splits if they differ from the known ones, in one commit; returns those that are new or changed.

    A known split that is not among the judged ones is removed.
    """
    before = {split.key: split for split in known}
    after = {split.key: split for split in judged}
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if not keys:
        return ()
    spans: dict[str, list[tuple[date, date]]] = {}
    for ticker, day in keys:
        spans.setdefault(ticker, []).append((day, day))
    rows = [after[key] for key in keys if key in after]
    query = Query(sql.relation(_KINDS, map(_literals, rows)), {}, tuple(spans), spans)
    days = sorted({day for _, day in keys})
    try:
        warehouse.replace(SPLITS, query, days)
    except TableMissing:
        warehouse.create(SPLITS)
        warehouse.replace(SPLITS, query, days)
    return tuple(rows)


def _literals(split: Split) -> list[str]:
    return [
        "NULL" if value is None else sql.day(value) if isinstance(value, date) else sql.string(str(value))
        for value in astuple(split)
    ]
