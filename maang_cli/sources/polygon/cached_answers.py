"""The vendor's answers to range calls, in a SQLite file until the run that needs them has come to its end.

Memory stays bounded, and the next run of a killed one reuses its answers: at a few calls a minute they took hours.
"""

import sqlite3
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from maang_cli import sessions as calendar
from maang_cli.errors import SourceFailed
from maang_cli.sources.base import Resume
from maang_cli.sources.polygon.arrow import SCHEMA

KEPT = timedelta(days=7)
"""How long a killed run's answers may be reused."""
LOCK_SECONDS = 2
"""How long a run waits for another that has the file."""
_TABLE = """CREATE TABLE answers (
  id INTEGER PRIMARY KEY, vendor TEXT, ticker TEXT, first TEXT, last TEXT, fetched_at TEXT, rows BLOB, checksum INTEGER
)"""
_SEED = zlib.crc32(str(SCHEMA).encode())
"""Of all checksums, so that rows with the columns of another version of maang don't match theirs."""
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""SQLite's codes for a file that must be replaced. With other codes the file may be good, but can't be used now."""
_DAY = timedelta(days=1)
_PACKED = pa.ipc.IpcWriteOptions(compression="zstd")


@dataclass(frozen=True)
class Answer:
    """One ticker's bars from `first` to `last`. It had no bar on the sessions without one."""

    ticker: str
    first: date
    last: date
    id: int | None
    """Of its row in the file; None: it has no bars."""


def _now() -> datetime:
    return datetime.now(UTC)


class CachedAnswers:
    """The answers of one run, and of killed earlier ones. One run at a time has the file; others use a temporary one."""

    def __init__(self, path: Path, vendor: str, resume: Resume | None = None, now: Callable[[], datetime] = _now) -> None:
        """With `resume`, earlier runs' answers to that request are reused, and this run's answers are kept if it is killed."""
        self._path = path
        self._vendor = vendor
        self._resume = resume
        self._now = now
        self._file: sqlite3.Connection | None = None
        self.answers: list[Answer] = []
        """In the order in which they came."""

    def __enter__(self) -> Self:
        with suppress(OSError):
            if self._resume and self._path.is_file():
                self._file = self._open()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            with suppress(sqlite3.Error):
                self._file.close()

    def _open(self) -> sqlite3.Connection:
        """The file, locked for this run; a temporary one if that is impossible."""
        if self._resume is not None:
            with suppress(OSError, sqlite3.Error):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    return self._locked(self._resume)
                except (sqlite3.Error, UnicodeError) as exc:  # UnicodeError: a message that quotes damaged text
                    if getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGED:
                        raise
                    self._path.unlink()
                    return self._locked(self._resume)
            self._resume = None  # so that this run does not touch the file
        file = _connect("")  # SQLite keeps it in memory up to 2 MB, and then in the system's folder for temporary files
        file.execute(_TABLE)
        return file

    def _locked(self, resume: Resume) -> sqlite3.Connection:
        file = _connect(self._path)
        try:
            # Locked until it is closed. After a power cut the answers may be lost; they are not worth a sync each.
            file.executescript("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; BEGIN EXCLUSIVE")
            file.execute("PRAGMA user_version = 1")  # any write: it fails if another run has just deleted the file
            if file.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError
            if file.execute("SELECT sql FROM sqlite_schema").fetchall() != [(_TABLE,)]:
                file.execute("DROP TABLE IF EXISTS answers")
                file.execute(_TABLE)
            now = self._now()
            file.execute("DELETE FROM answers WHERE fetched_at NOT BETWEEN ? AND ?", ((now - KEPT).isoformat(), now.isoformat()))
            file.execute("COMMIT")
            self.answers = [*self._load(file, resume), *self.answers]
        except BaseException:
            file.close()
            raise
        return file

    def _load(self, file: sqlite3.Connection, resume: Resume) -> list[Answer]:
        select = """SELECT ticker, first, last, id FROM answers
            WHERE vendor = ? AND checksum = checksum(vendor, ticker, first, last, fetched_at, rows) ORDER BY id"""
        return [
            Answer(ticker, date.fromisoformat(first), date.fromisoformat(last), number)
            for ticker, first, last, number in file.execute(select, (self._vendor,))
            if ticker in resume.tickers
        ]

    def lacking(self, missing: Mapping[date, frozenset[str]]) -> Mapping[date, frozenset[str]]:
        """The tickers of these sessions that no answer covers; equal sets are one object."""
        covered: dict[tuple[date, date], set[str]] = {}
        for answer in self.answers:
            covered.setdefault((answer.first, answer.last), set()).add(answer.ticker)

        @cache
        def left(tickers: frozenset[str], spans: tuple[tuple[date, date], ...]) -> frozenset[str]:
            return tickers.difference(*(covered[span] for span in spans))

        return {day: left(some, tuple(span for span in covered if span[0] <= day <= span[1])) for day, some in missing.items()}

    def add(self, ticker: str, first: date, last: date, rows: pa.Table, wrong: Collection[object] = ()) -> None:
        """Keep an answer. If it has `wrong` rows, which are not in `rows`, no later run reuses it.

        Raises:
            SourceFailed: the disk is full.
        """
        number = None
        if rows.num_rows:
            if self._file is None:
                self._file = self._open()
            now = self._now()
            # A later run may reuse it only from its first bar on, because the plan's history may begin there and move on, up to
            # its last bar or the last session that was final: what comes after that may appear, or change.
            reusable = pc.min(rows["session"]).as_py(), min(pc.max(rows["session"]).as_py(), calendar.last_final(now))
            if wrong:
                reusable = reusable[0], reusable[0] - _DAY  # a span without a day
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.schema, options=_PACKED) as writer:
                writer.write_table(rows)
            insert = "INSERT INTO answers VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, checksum(?1, ?2, ?3, ?4, ?5, ?6))"
            values = (self._vendor, ticker, *map(str, reusable), now.isoformat(), sink.getvalue().to_pybytes())
            try:
                number = self._file.execute(insert, values).lastrowid
            except sqlite3.Error as exc:
                raise SourceFailed(
                    f"answers can't be cached in {self._path.parent if self._resume else 'a temporary file'}: {exc}",
                    hint="free some space, then run the same command again",
                ) from exc
        self.answers.append(Answer(ticker, first, last, number))

    def rows(self, wanted: Mapping[str, Sequence[date]]) -> pa.Table:
        """The bars of these tickers, each on its own sessions. The later of two answers counts."""
        tables, left = [SCHEMA.empty_table()], dict(wanted)
        for answer in reversed(self.answers):
            if days := left.get(answer.ticker):
                mine = [day for day in days if answer.first <= day <= answer.last]
                left[answer.ticker] = [day for day in days if not answer.first <= day <= answer.last]
                if mine and answer.id is not None:
                    rows = self._read(answer.id)
                    tables.append(rows.filter(pc.is_in(rows["session"], pa.array(mine, pa.date32()))))
        return pa.concat_tables(tables)

    def _read(self, number: int) -> pa.Table:
        assert self._file is not None  # noqa: S101 - an answer with bars is in the file
        try:
            [packed] = self._file.execute("SELECT rows FROM answers WHERE id = ?", (number,)).fetchone()
            with pa.ipc.open_stream(packed) as stream:
                return stream.read_all()
        except (sqlite3.Error, pa.ArrowException) as exc:
            raise SourceFailed(
                f"cached answers can't be read: {exc}", hint="check the disk, then run the same command again"
            ) from exc

    def forget(self) -> None:
        """The run has come to its end, so the next one fetches everything again. Answers to other requests stay."""
        if self._file is None or self._resume is None:
            return
        first, last = self._resume.first, self._resume.last
        rest = """INSERT INTO answers SELECT NULL, vendor, ticker, ?1, ?2, fetched_at, rows,
            checksum(vendor, ticker, ?1, ?2, fetched_at, rows) FROM answers WHERE id = ?3"""
        with suppress(sqlite3.Error, OSError):  # the work is done
            self._file.execute("BEGIN")
            for answer in self._load(self._file, self._resume):
                for start, end in ((answer.first, min(answer.last, first - _DAY)), (max(answer.first, last + _DAY), answer.last)):
                    if start <= end:
                        self._file.execute(rest, (str(start), str(end), answer.id))
                self._file.execute("DELETE FROM answers WHERE id = ?", (answer.id,))
            self._file.execute("COMMIT")
            if self._file.execute("SELECT count(*) FROM answers").fetchone() == (0,):
                self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
                self._path.unlink()  # before the lock is released: a run that waits for it notices


def _connect(place: Path | str) -> sqlite3.Connection:
    file = sqlite3.connect(place, timeout=LOCK_SECONDS, isolation_level=None)
    file.create_function("checksum", 6, lambda *values: zlib.crc32(values[-1], zlib.crc32(repr(values[:-1]).encode(), _SEED)))
    return file
