"""Errors of the disk, SQLite, Arrow, DuckDB and PyIceberg, translated into ours at the local warehouse's edge."""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
from pydantic import ValidationError
from pyiceberg.exceptions import ValidationError as IcebergValidationError

from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed

# What the reader of a damaged catalog, metadata file, Avro file or Parquet file raises.
_DAMAGE = (
    sqlite3.Error,
    ValidationError,
    IcebergValidationError,
    EOFError,
    UnicodeDecodeError,
    pa.ArrowException,
)


class FileGone(WarehouseFailed):
    """Another run has replaced or dropped a table that was just loaded: load it again."""


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Translates what these libraries raise inside the block."""
    try:
        yield
    except MaangError:
        raise
    except FileNotFoundError as exc:
        # Arrow and the standard library both raise this. Every reader has loaded the table's metadata just before.
        raise _gone(root, exc) from exc
    except OSError as exc:
        raise _disk_error(root, exc) from exc
    except sqlite3.OperationalError as exc:
        said = str(exc)
        if "unable to open" in said or "readonly" in said:
            raise WarehouseDenied(f"{root}: {said}", hint="set MAANG_HOME to a folder that you can write to") from exc
        raise WarehouseFailed(f"the catalog in {root}: {said}", hint="run the same command again") from exc
    except duckdb.Error as exc:
        if (ours := _duckdb_error(root, exc)) is None:
            raise
        raise ours from exc
    except _DAMAGE as exc:
        raise _damaged(root, exc) from exc


def _duckdb_error(root: Path, exc: duckdb.Error) -> MaangError | None:
    """What DuckDB reports about a table's file; None for an error in our SQL."""
    if isinstance(exc, duckdb.IOException):
        gone = "No files found" in str(exc) or "No such file" in str(exc)
        return _gone(root, exc) if gone else _disk_error(root, OSError(_first_line(exc)))
    # For a damaged file it raises these, or just the base class.
    if type(exc) is duckdb.Error or isinstance(exc, duckdb.InvalidInputException | duckdb.SerializationException):
        return _damaged(root, exc)
    return None


def _damaged(root: Path, exc: object) -> WarehouseDenied:
    return WarehouseDenied(
        f"the warehouse in {root} is damaged: {_first_line(exc)}", hint="restore it, or set MAANG_HOME to another folder"
    )


def _gone(root: Path, exc: Exception) -> FileGone:
    named = re.search(r"""['"](/[^'"]+)['"]""", str(exc))
    return FileGone(
        f"a file of the warehouse is gone: {named.group(1) if named else _first_line(exc)}",
        hint=f"another run may have replaced it: run the same command again; if it persists, {root} is damaged",
    )


def _first_line(exc: object) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]


def _disk_error(root: Path, exc: OSError) -> MaangError:
    # Arrow's OSError has the number only in its text, DuckDB's has only the name.
    said = exc.strerror or str(exc)
    for numbers, error, hint in _DISK_ERRORS:
        if exc.errno in numbers or any(f"errno {number}" in said or os.strerror(number) in said for number in numbers):
            return error(f"{exc.filename or root}: {said}", hint=hint)
    return WarehouseFailed(f"{exc.filename or root}: {said}", hint="check the disk, then run the same command again")


_DISK_ERRORS: tuple[tuple[tuple[int, ...], type[MaangError], str], ...] = (
    ((errno.ENOSPC, errno.EDQUOT), WarehouseFailed, "free some space, then run the same command again"),
    ((errno.EFBIG,), WarehouseFailed, "raise the limit on file sizes, then run the same command again"),
    ((errno.EACCES, errno.EPERM, errno.EROFS), WarehouseDenied, "set MAANG_HOME to a folder that you can write to"),
    ((errno.ENOTDIR, errno.EEXIST), WarehouseDenied, "set MAANG_HOME to a folder"),
    ((errno.ENAMETOOLONG,), WarehouseDenied, "set MAANG_HOME to a folder with a shorter name"),
    ((errno.EISDIR,), WarehouseDenied, "move it away, or set MAANG_HOME to another folder"),
)
