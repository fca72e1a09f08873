"""Errors of the disk and of SQLite, translated into ours at the local warehouse's edge.

Damage is not recognized here: `store.Store.reading` and the catalog look at the files (see `damage`). Everything else is a bug.
"""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from maang_cli.errors import MaangError, SettingsError, WarehouseDenied, WarehouseFailed


class FileGone(WarehouseFailed):
    """Another run has replaced or dropped a table that was just loaded: load it again."""


class Damaged(WarehouseDenied):
    """A file of the warehouse is missing or can't be read."""


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Translates what the disk and SQLite raise inside the block."""
    try:
        yield
    except MaangError:
        raise
    except FileNotFoundError as exc:
        # Arrow and the standard library both raise this. Every reader has loaded the table's metadata just before.
        raise _gone(root, exc) from exc
    except OSError as exc:
        raise _disk_error(root, exc) from exc
    except sqlite3.Error as exc:
        if (ours := _sqlite_error(root, exc)) is None:
            raise
        raise ours from exc
    except duckdb.IOException as exc:
        gone = "No files found" in str(exc) or "No such file" in str(exc)
        raise (_gone(root, exc) if gone else _disk_error(root, OSError(_first_line(exc)))) from exc


def wrong_query(exc: duckdb.Error) -> SettingsError:
    """The error of a user's query that DuckDB does not understand, or can't carry out."""
    said = " ".join(str(exc).partition("\nLINE ")[0].split())
    return SettingsError(said, hint="docs/tables.md lists the tables and their columns")


def is_busy(exc: Exception) -> bool:
    """Whether SQLite reports that another process has locked the file."""
    return isinstance(exc, sqlite3.Error) and _sqlite_code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _sqlite_code(exc: sqlite3.Error) -> int:
    """SQLite's own result code; 0 if the error is not SQLite's but that of its Python module."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def _sqlite_error(root: Path, exc: sqlite3.Error) -> MaangError | None:
    """What SQLite reports about its file; None for an error in our own statements."""
    code = _sqlite_code(exc)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return Damaged(f"the catalog in {root} is damaged: {exc}", hint=RESTORE)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return WarehouseDenied(f"{root}: {exc}", hint="set MAANG_HOME to a folder that you can write to")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL):
        return WarehouseFailed(f"the catalog in {root}: {exc}", hint="check the disk, then run the same command again")
    return None


RESTORE = "restore it from a backup, or set MAANG_HOME to another folder"


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
