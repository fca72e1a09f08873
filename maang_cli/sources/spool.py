"""Answers to range calls, in a file until a run of the same request has come to its end.

Memory stays bounded, and a run that was killed is taken up where it stopped: at a few calls a minute its answers took hours.
The file is only ever appended to, with a length and a checksum before each record, which is an Arrow IPC stream; at worst it ends
in half a record.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from filelock import FileLock, Timeout

from maang_cli import sessions as calendar
from maang_cli.errors import SourceFailed
from maang_cli.sources.answers import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from maang_cli.sources.base import Resume

KEPT = timedelta(days=7)
"""How long the answers of a killed run are good for."""
LOCK_SECONDS = 2
"""How long a run waits for another that only looks."""
_DAY = timedelta(days=1)
_HEAD = struct.Struct("<QI")
"""Before each record: its size in bytes and its CRC-32."""
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")
_ABOUT = b"maang"
"""The key of the schema's metadata that says what the record is."""


@dataclass(frozen=True)
class Answer:
    """One ticker's bars from `first` to `last`; on a session without one it had none."""

    vendor: str
    ticker: str
    first: date
    last: date
    start: int
    """Where its rows begin, of `size` bytes. What it has of other sessions does not count."""
    size: int

    def less(self, first: date, last: date) -> Iterator[Answer]:
        """What is left of it when these days are taken out."""
        if last < self.first or self.last < first:
            yield self
            return
        if self.first < first:
            yield replace(self, last=first - _DAY)
        if last < self.last:
            yield replace(self, first=last + _DAY)


class Spool:
    """The answers of one run, and of earlier ones that were killed. One run at a time keeps its answers for the next."""

    def __init__(self, path: Path, vendor: str, resume: Resume | None = None) -> None:
        """`resume`: such answers of earlier runs are taken up, and those of this run are kept if it is killed."""
        self._path = path
        self._lock = FileLock(f"{path}.lock")
        self._vendor = vendor
        self._resume = resume
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None
        self._named = False
        self._others: list[Answer] = []
        self.answers: list[Answer] = []
        """In the order in which they came."""

    def peek(self) -> Spool:
        """Look at what would be taken up now: nothing where another run has it."""
        with suppress(OSError, Timeout):
            if self._resume and self._path.exists():
                with self._lock.acquire(timeout=0), self._path.open("rb") as file:
                    self._take_up(file)
        return self

    def __enter__(self) -> Spool:
        with suppress(OSError):
            if self._path.exists():
                self._file = self._resumed()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _resumed(self) -> IO[bytes] | None:
        """The file to resume from; None where that is not asked for, another run has it, or there is no place for it."""
        if self._resume is None:
            return None
        with suppress(OSError, Timeout):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(self._lock.acquire(timeout=LOCK_SECONDS))
            file = self._closed_at_last(self._path.open("a+b"))
            file.truncate(self._take_up(file))
            self._named = True
            return file
        self.answers, self._others = [], []
        return None

    def _unnamed(self) -> IO[bytes]:
        with suppress(OSError):  # of a container, this may be all that can be written to
            return self._closed_at_last(tempfile.TemporaryFile(dir=self._path.parent))
        return self._closed_at_last(tempfile.TemporaryFile())

    def _closed_at_last(self, file: IO[bytes]) -> IO[bytes]:
        def close() -> None:
            with suppress(OSError):  # what a full disk did not take is tried once more
                file.close()

        self._stack.callback(close)
        return file

    def _take_up(self, file: IO[bytes]) -> int:
        """Look through what earlier runs left; returns where the last whole record ends."""
        found, end = _scan(file)
        wanted = self._resume.tickers if self._resume else ()
        self.answers = [answer for answer in found if answer.vendor == self._vendor and answer.ticker in wanted]
        mine = set(self.answers)
        self._others = [answer for answer in found if answer not in mine]
        return end

    def lacking(self, missing: Mapping[date, frozenset[str]]) -> Mapping[date, frozenset[str]]:
        """The tickers of these sessions that no answer has; equal sets are one object."""
        if not self.answers:
            return missing
        covered: dict[tuple[date, date], set[str]] = {}
        for answer in self.answers:
            covered.setdefault((answer.first, answer.last), set()).add(answer.ticker)
        known: dict[tuple[frozenset[str], tuple[tuple[date, date], ...]], frozenset[str]] = {}
        left: dict[date, frozenset[str]] = {}
        for day, tickers in missing.items():
            spans = tuple(span for span in covered if span[0] <= day <= span[1])
            if (tickers, spans) not in known:
                known[tickers, spans] = tickers.difference(*(covered[span] for span in spans))
            left[day] = known[tickers, spans]
        return left

    def add(self, ticker: str, first: date, last: date, rows: pa.Table) -> None:
        """Keep an answer.

        Raises:
            SourceFailed: the disk is full.
        """
        start, size = self._append(rows, {"ticker": ticker, "first": str(first), "last": str(last)})
        self.answers.append(Answer(self._vendor, ticker, first, last, start, size))

    def _append(self, rows: pa.Table, about: dict[str, object]) -> tuple[int, int]:
        about |= {"vendor": self._vendor, "at": datetime.now(UTC).isoformat()}
        rows = rows.replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema, options=_PACKED) as writer:
            writer.write_table(rows)
        body = sink.getvalue()
        try:
            if self._file is None:
                self._file = self._resumed() or self._unnamed()
            start = self._file.seek(0, os.SEEK_END) + _HEAD.size
            self._file.write(_HEAD.pack(body.size, zlib.crc32(body)))
            self._file.write(body)
            self._file.flush()
        except OSError as exc:
            raise SourceFailed(
                f"answers can't be put aside in {self._path.parent if self._named else 'a temporary file'}: {exc.strerror}",
                hint="free some space, then run the same command again",
            ) from exc
        return start, body.size

    def rows(self, wanted: Mapping[str, Sequence[date]]) -> pa.Table:
        """The bars of these tickers on these sessions of theirs. Of two answers the later counts."""
        tables, left = [SCHEMA.empty_table()], dict(wanted)
        for answer in reversed(self.answers):
            if days := left.get(answer.ticker):
                mine = [day for day in days if answer.first <= day <= answer.last]
                left[answer.ticker] = [day for day in days if not answer.first <= day <= answer.last]
                rows = self._read(answer)
                tables.append(rows.filter(pc.is_in(rows["session"], pa.array(mine, pa.date32()))))
        return pa.concat_tables(tables)

    def _read(self, answer: Answer) -> pa.Table:
        try:
            file = cast("IO[bytes]", self._file)  # it is open, since there is an answer
            file.seek(answer.start)
            with pa.ipc.open_stream(file.read(answer.size)) as stream:
                return stream.read_all()
        except (OSError, pa.ArrowException) as exc:
            raise SourceFailed(
                f"answers that were put aside can't be read: {exc}",
                hint="check the disk, then run the same command again",
            ) from exc

    def forget(self) -> None:
        """The run has come to its end: the next one asks anew. What is left of other requests stays."""
        if not (self._named and self._resume):
            return
        asked = self._resume
        left = [*self._others, *(part for answer in self.answers for part in answer.less(asked.first, asked.last))]
        with suppress(SourceFailed, OSError):  # the work is done
            if left:
                used = sorted(asked.tickers)
                self._append(SCHEMA.empty_table(), {"used": used, "first": str(asked.first), "last": str(asked.last)})
            else:
                self._path.unlink()


def _scan(file: IO[bytes]) -> tuple[list[Answer], int]:
    """The answers of earlier runs that are good still, and where the last whole record ends."""
    answers: list[Answer] = []
    end = file.seek(0)
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        size, checksum = _HEAD.unpack(head)
        body = file.read(min(size, os.fstat(file.fileno()).st_size))
        if not size or len(body) < size or zlib.crc32(body) != checksum:
            break
        start, end = end + _HEAD.size, end + _HEAD.size + size
        with suppress(pa.ArrowException, ValueError, KeyError, TypeError):  # of another version
            answers = _after(answers, body, start)
    return answers, end


def _after(answers: list[Answer], body: bytes, start: int) -> list[Answer]:
    """The answers that are good after this record: one more, or less of some."""
    with pa.ipc.open_stream(body) as stream:
        schema, rows = stream.schema, stream.read_all()
    about: dict[str, Any] = json.loads(schema.metadata[_ABOUT])
    vendor, at = about["vendor"], datetime.fromisoformat(about["at"])
    first, last = date.fromisoformat(about["first"]), date.fromisoformat(about["last"])
    if used := frozenset(about.get("used", ())):
        return [
            part
            for answer in answers
            for part in (answer.less(first, last) if answer.vendor == vendor and answer.ticker in used else [answer])
        ]
    if not rows.num_rows or schema != SCHEMA or not timedelta(0) <= datetime.now(UTC) - at <= KEPT:
        return answers
    # Only from its first bar on, since the plan's history may begin there and change; up to its last bar, and to the last session
    # that was over for good: the rest may have come, or changed, since.
    first = max(first, pc.min(rows["session"]).as_py())
    last = min(pc.max(rows["session"]).as_py(), calendar.last_finished(at))
    return answers if last < first else [*answers, Answer(vendor, about["ticker"], first, last, start, len(body))]
