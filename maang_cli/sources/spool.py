"""Answers to range calls, in a file until all of them are published.

Memory stays bounded, and a run that was killed is taken up where it stopped: at a few calls a minute its answers took hours.
The file is only ever appended to, with a length and a checksum before each answer, which is an Arrow IPC stream; at worst it ends
in half an answer.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from filelock import FileLock, Timeout

from maang_cli.errors import SourceFailed
from maang_cli.sources.answers import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

KEPT = timedelta(days=7)
"""How long the answers of a killed run are good for."""
_HEAD = struct.Struct("<QI")
"""Before each answer: its size in bytes and its CRC-32."""
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")
_ABOUT = b"maang"
"""The key of the schema's metadata that says what was asked."""


_SESSION = pa.ipc.IpcReadOptions(included_fields=[SCHEMA.get_field_index("session")])


@dataclass(frozen=True)
class Answer:
    """One ticker's bars from `first` to `last`; on a session without one it had none."""

    ticker: str
    first: date
    last: date
    start: int
    size: int

    def rows(self, whole: pa.Buffer) -> pa.Table:
        return _table(whole.slice(self.start, self.size))

    def sessions(self, whole: pa.Buffer) -> list[date]:
        days: list[date] = pc.unique(_table(whole.slice(self.start, self.size), _SESSION)["session"]).to_pylist()
        return days


class Spool:
    """The answers of one run, and of earlier ones that were killed. One run at a time keeps its answers for the next."""

    def __init__(self, folder: Path, vendor: str, resume: Collection[str] = ()) -> None:
        """`resume`: of these tickers earlier answers are taken up, and those of this run are kept if it is killed."""
        self._path = folder / "answers"
        self._lock = FileLock(folder / "answers.lock", timeout=0)
        self._vendor = vendor
        self._resume = frozenset(resume)
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None
        self._named = self._others = False
        self.answers: list[Answer] = []
        """In the order in which they came."""

    def peek(self) -> Spool:
        """Look at the earlier answers, without taking them up."""
        if self._resume:
            with suppress(OSError), self._path.open("rb") as file:
                self._take_up(file)
        return self

    def __enter__(self) -> Spool:
        if self._resume and self._path.exists():
            self._file = self._open()
            self._file.truncate(self._take_up(self._file))
        return self

    def _take_up(self, file: IO[bytes]) -> int:
        """Look through what earlier runs left; returns where the last whole answer ends."""
        found, end = _scan(_mapped(file), self._vendor)
        self.answers = [answer for answer in found if answer.ticker in self._resume]
        self._others = len(found) > len(self.answers)
        return end

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _open(self) -> IO[bytes]:
        """The file to resume from; one without a name where another run has that, or there is no place for it."""
        if self._resume:
            with suppress(OSError, Timeout):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stack.enter_context(self._lock)
                file = self._closed_at_last(self._path.open("a+b"))
                self._named = True
                return file
        with suppress(OSError):  # of a container, the folder may be all that can be written to
            return self._closed_at_last(tempfile.TemporaryFile(dir=self._path.parent))
        return self._closed_at_last(tempfile.TemporaryFile())

    def _closed_at_last(self, file: IO[bytes]) -> IO[bytes]:
        def close() -> None:
            with suppress(OSError):  # what a full disk did not take is tried once more
                file.close()

        self._stack.callback(close)
        return file

    def lacking(self, missing: Mapping[date, frozenset[str]]) -> Mapping[date, frozenset[str]]:
        """The tickers of these sessions that no answer has."""
        if not self.answers:
            return missing
        return {
            day: tickers - {answer.ticker for answer in self.answers if answer.first <= day <= answer.last}
            for day, tickers in missing.items()
        }

    def add(self, ticker: str, first: date, last: date, rows: pa.Table) -> None:
        """Keep an answer.

        Raises:
            SourceFailed: the disk is full.
        """
        start, size = self._append(rows, {"ticker": ticker, "first": str(first), "last": str(last)})
        self.answers.append(Answer(ticker, first, last, start, size))

    def _append(self, rows: pa.Table, about: dict[str, object]) -> tuple[int, int]:
        about |= {"vendor": self._vendor, "at": datetime.now(UTC).isoformat()}
        rows = rows.replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema, options=_PACKED) as writer:
            writer.write_table(rows)
        body = sink.getvalue()
        try:
            self._file = self._file or self._open()
            start = self._file.seek(0, os.SEEK_END) + _HEAD.size
            self._file.write(_HEAD.pack(body.size, zlib.crc32(body)))
            self._file.write(body)
            self._file.flush()
        except OSError as exc:
            raise SourceFailed(
                f"answers can't be put aside in {self._path.parent}: {exc.strerror}",
                hint="free some space, then run the same command again",
            ) from exc
        return start, body.size

    def sessions(self) -> set[date]:
        """The sessions on which any ticker has a bar."""
        if self._file is None:
            return set()
        whole, found = _mapped(self._file), set()
        for answer in self.answers:
            found.update(answer.sessions(whole))
        return found

    def rows(self, wanted: Mapping[str, Sequence[date]]) -> pa.Table:
        """The bars of these tickers on these sessions of theirs. Of two answers the later counts."""
        tables = [SCHEMA.empty_table()]
        if self._file is not None:
            whole, left = _mapped(self._file), dict(wanted)
            for answer in reversed(self.answers):
                if days := left.get(answer.ticker):
                    rows = answer.rows(whole)
                    mine = [day for day in days if answer.first <= day <= answer.last]
                    tables.append(rows.filter(pc.is_in(rows["session"], pa.array(mine, pa.date32()))))
                    left[answer.ticker] = [day for day in days if not answer.first <= day <= answer.last]
        return pa.concat_tables(tables)

    def forget(self) -> None:
        """All is published. What is left of a run of other tickers stays."""
        with suppress(SourceFailed, OSError):  # the work is done
            if self._named and self._others:
                self._append(SCHEMA.empty_table(), {"used": sorted(self._resume)})
            elif self._named:
                self._path.unlink()


def _table(body: pa.Buffer, options: pa.ipc.IpcReadOptions | None = None) -> pa.Table:
    with pa.ipc.open_stream(body, options=options) as stream:
        return stream.read_all()


def _mapped(file: IO[bytes]) -> pa.Buffer:
    size = file.seek(0, os.SEEK_END)
    return pa.py_buffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")


def _scan(whole: pa.Buffer, vendor: str) -> tuple[list[Answer], int]:
    """The answers of earlier runs that are good still, and where the last whole one ends."""
    answers: list[Answer] = []
    start, oldest = 0, datetime.now(UTC) - KEPT
    while start + _HEAD.size <= whole.size:
        size, checksum = _HEAD.unpack(whole.slice(start, _HEAD.size))
        if not 0 < size <= whole.size - start - _HEAD.size:
            break
        body = whole.slice(start + _HEAD.size, size)
        if zlib.crc32(body) != checksum:
            break
        rows = _table(body, _SESSION)
        about = json.loads(rows.schema.metadata[_ABOUT])
        used = frozenset(about.get("used", ()))
        answers = [answer for answer in answers if answer.ticker not in used]
        if rows.num_rows and about["vendor"] == vendor and datetime.fromisoformat(about["at"]) > oldest:
            # Only up to its last bar: what came after that may not have been published yet.
            last = pc.max(rows["session"]).as_py()
            answers.append(Answer(about["ticker"], date.fromisoformat(about["first"]), last, start + _HEAD.size, size))
        start += _HEAD.size + size
    return answers, start
