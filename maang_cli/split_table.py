"""The table of splits: read with the prices that judge them, written if something changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import date, timedelta

from maang_cli import splits, sql
from maang_cli.splits import Claim, Claims, Key, Night, Split
from maang_cli.tables import PRODUCTION, SPLITS, Table
from maang_cli.warehouses.base import Query, Read, TableMissing, Warehouse

_KINDS = {column.name: column.type for column in SPLITS.value_columns}
_NIGHT = timedelta(days=10)
"""How far back the close before a split is looked for."""


@dataclass(frozen=True)
class Known:
    """The known splits of some tickers and dates, and the prices around them."""

    splits: tuple[Split, ...]
    nights: Mapping[Key, Night]


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


def read(
    warehouse: Warehouse,
    tickers: Sequence[str],
    first: date,
    last: date,
    *,
    claims: Iterable[Claim] = (),
    staged: Table | None = None,
) -> Known:
    """The splits with first sessions from `first` to `last`, and the prices around them and around the claimed ones.

    A table that does not exist, or that another run has just dropped, has no rows. `staged`: a staging table whose bars count
    as well.
    """
    known = _stored(warehouse, tickers, first, last)
    keys = {split.key for split in known} | {(claim.ticker, splits.session_of(claim.executed)) for claim in claims}
    if not keys:  # the usual case: no bar is read
        return Known((), {})
    return Known(known, dict.fromkeys(keys, Night()) | _nights(warehouse, sorted(keys), staged))


def _stored(warehouse: Warehouse, tickers: Sequence[str], first: date, last: date) -> tuple[Split, ...]:
    text = (
        f"-- The known splits of these tickers.\nSELECT {', '.join(_KINDS)} FROM {{splits}} "
        f"WHERE date BETWEEN {sql.day(first)} AND {sql.day(last)} AND ticker IN (SELECT ticker FROM {{tickers}}) "
        "ORDER BY ticker, date"
    )
    try:
        rows = warehouse.query(Query(text, {"splits": Read(SPLITS, (first, last))}, tuple(tickers))).to_pylist()
    except TableMissing:
        return ()
    return tuple(Split(*row.values()) for row in rows)


def _nights(warehouse: Warehouse, keys: Sequence[Key], staged: Table | None) -> dict[Key, Night]:
    """The prices around these splits, as far as there are bars."""
    days = [day for _, day in keys]
    reads = {"production": Read(PRODUCTION, (min(days) - _NIGHT, max(days)))} | ({"staging": Read(staged)} if staged else {})
    while reads:
        try:
            rows = warehouse.query(nights_query(keys, reads)).to_pylist()
        except TableMissing as exc:
            reads = {name: each for name, each in reads.items() if each.table != exc.table}
        else:
            return {(row["ticker"], row["date"]): Night(row["previous_close"], row["open"]) for row in rows}
    return {}


def nights_query(keys: Sequence[Key], reads: Mapping[str, Read]) -> Query:
    """The prices around these splits, from the bars of `reads`: production, staging, or both."""
    text = sql.text(
        "nights",
        wanted=sql.relation({"ticker": "STRING", "date": "DATE"}, ([sql.string(name), sql.day(day)] for name, day in keys)),
        bars="\nUNION ALL\n".join(f"SELECT ticker, date, open, close FROM {{{name}}}" for name in reads),
    )
    return Query(text, reads)


def learn(
    warehouse: Warehouse,
    tickers: Sequence[str],
    sessions: Sequence[date],
    claims: Claims,
    staged: Table | None = None,
) -> Learned:
    """Judge what the vendor claims about these sessions' surroundings, and store what is new. `staged`: see `read`."""
    requested = claimed_range(sessions)
    known = read(warehouse, tickers, requested[0], splits.session_of(requested[1]), claims=claims.rows, staged=staged)
    judged = splits.judge(claims.rows, known.splits, requested if claims.complete else None, known.nights)
    return Learned(tuple(judged), store(warehouse, known.splits, judged))


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
    tickers, days = {ticker for ticker, _ in keys}, {day for _, day in keys}
    rows = [split for split in judged if split.ticker in tickers and split.session in days]
    query = Query(sql.relation(_KINDS, map(_literals, rows)), {}, tuple(sorted(tickers)))
    try:
        warehouse.replace(SPLITS, query, sorted(days))
    except TableMissing:
        warehouse.create(SPLITS)
        warehouse.replace(SPLITS, query, sorted(days))
    return tuple(after[key] for key in keys if key in after)


def _literals(split: Split) -> list[str]:
    return [
        "NULL" if value is None else sql.day(value) if isinstance(value, date) else sql.string(str(value))
        for value in astuple(split)
    ]
