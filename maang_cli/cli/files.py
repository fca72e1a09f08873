"""Rows as CSV or Parquet: on stdout, or in a file that is whole or not there."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from maang_cli.errors import MayHeal, SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

    from maang_cli.cli.reply import Reply

Format = StrEnum("Format", ["table", "csv", "parquet"])
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Target:
    """Where rows go. A table goes to stdout."""

    format: Format
    path: Path | None


def target(kind: Format | None, out: Path | None, *, as_json: bool) -> Target:
    """Where the user wants the rows; the file's name decides the format, if the user does not.

    Raises:
        SettingsError: that is not possible.
    """
    if as_json and (kind or out):
        raise SettingsError("--json can't be combined with --format or --out", hint="give one of them")
    if out is not None:
        kind = kind or next((each for each in Format if out.suffix.lower() == f".{each}"), None)
        if kind in {None, Format.table}:
            raise SettingsError(f"--out {out}: CSV or Parquet?", hint="end the name in .csv or .parquet, or give --format")
        out = writable(out)
    elif kind is Format.parquet and sys.stdout.isatty():
        raise SettingsError("Parquet is not for a terminal", hint="give --out FILE, or send stdout to a file or a program")
    return Target(kind or Format.table, out)


def writable(out: Path) -> Path:
    """The file that `--out` names.

    Raises:
        SettingsError: it can't be a file.
    """
    out = out.expanduser().resolve()  # a link is followed, not replaced
    if out.exists() and not out.is_file():
        raise SettingsError(f"{out} is not a file", hint="give --out another name")
    if not out.parent.is_dir():
        raise SettingsError(f"there is no folder {out.parent}", hint="create it, or give --out another name")
    return out


def write(rows: pa.Table, to: Target, reply: Reply) -> None:
    """Write rows that are not for a table.

    Raises:
        SettingsError: the format lacks a type, or the file can't be written.
        MayHeal: the disk is full.
    """
    data = as_csv(rows) if to.format is Format.csv else as_parquet(rows)
    if to.path is None:
        reply.write(data)
    else:
        replace_file(to.path, data, reply)


def replace_file(path: Path, data: bytes, reply: Reply) -> None:
    """Make `data` the file's content, all of it or nothing.

    Raises:
        SettingsError: the file can't be written.
        MayHeal: the disk is full.
    """
    reply.unfinished = part = path.with_name(f".maang-{os.urandom(4).hex()}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                part.chmod(path.stat().st_mode & 0o777)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink()
    except OSError as exc:
        message = f"{path} can't be written: {exc.strerror}"
        if exc.errno in NO_SPACE:
            raise MayHeal(message, hint="free some space, then run the same command again") from exc
        raise SettingsError(message, hint="give --out a file that you may write") from exc


def as_csv(rows: pa.Table) -> bytes:
    """UTF-8 with a header. NULL is empty; times are ISO 8601 in UTC; spaces separate the values of a list."""
    import csv

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows(zip(*(_text(column).to_pylist() for column in rows.columns), strict=True))
    return text.getvalue().encode()


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    try:
        if pa.types.is_timestamp(kind):
            return pc.strftime(column, f"%Y-%m-%dT%H:%M:%S{'Z' if kind.tz else ''}")
        return pc.binary_join(column.cast(pa.list_(pa.string())), " ") if pa.types.is_list(kind) else column.cast(pa.string())
    except pa.ArrowException:  # a user's query may return a type that Arrow can't write
        return pa.chunked_array([[None if value is None else str(value) for value in column.to_pylist()]], pa.string())


def as_parquet(rows: pa.Table) -> bytes:
    """Decimals stay decimals.

    Raises:
        SettingsError: Parquet lacks the type of a column.
    """
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    try:
        parquet.write_table(rows, sink, compression="zstd")
    except pa.ArrowException as exc:
        raise SettingsError(f"these rows can't be Parquet: {exc}", hint="cast that column to another type") from exc
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
