"""Errors of the disk, SQLite, Arrow and PyIceberg, as ours: the local warehouse's edge."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import sqlalchemy.exc
from pydantic import ValidationError
from pyiceberg.exceptions import ValidationError as IcebergValidationError

from maang_cli.errors import MaangError, WarehouseDenied, WarehouseFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# What a spoilt catalog, metadata file, Avro file or Parquet file makes its reader raise.
_DAMAGE = (
    sqlalchemy.exc.SQLAlchemyError,
    ValidationError,
    IcebergValidationError,
    EOFError,
    UnicodeDecodeError,
    pa.ArrowException,
)


class FileGone(WarehouseFailed):
    """A table that was loaded a moment ago has been replaced or dropped: load it again."""


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Errors of the disk, SQLite, Arrow and PyIceberg as ours."""
    try:
        yield
    except MaangError:
        raise
    except FileNotFoundError as exc:
        # Arrow and the standard library agree on this class; every reader has loaded the table's metadata just before.
        raise _gone(root, exc) from exc
    except OSError as exc:
        raise _disk_error(root, exc) from exc
    except sqlalchemy.exc.OperationalError as exc:
        said = str(exc.orig)
        if "unable to open" in said or "readonly" in said:
            raise WarehouseDenied(f"{root}: {said}", hint="give MAANG_HOME a folder that you can write to") from exc
        raise WarehouseFailed(f"the catalog in {root}: {said}", hint="run the same command again") from exc
    except duckdb.Error as exc:
        if (ours := _duckdb_error(root, exc)) is None:
            raise
        raise ours from exc
    except _DAMAGE as exc:
        raise _damaged(root, getattr(exc, "orig", exc)) from exc


def _duckdb_error(root: Path, exc: duckdb.Error) -> MaangError | None:
    """What DuckDB says of a table's file; None for an error in our SQL."""
    if isinstance(exc, duckdb.IOException):
        gone = "No files found" in str(exc) or "No such file" in str(exc)
        return _gone(root, exc) if gone else _disk_error(root, OSError(_first_line(exc)))
    # Of a spoilt file it raises these, and the bare base class.
    if type(exc) is duckdb.Error or isinstance(exc, duckdb.InvalidInputException | duckdb.SerializationException):
        return _damaged(root, exc)
    return None


def _damaged(root: Path, exc: object) -> WarehouseDenied:
    return WarehouseDenied(
        f"the warehouse in {root} is damaged: {_first_line(exc)}", hint="restore it, or give MAANG_HOME another folder"
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
    # Arrow raises OSError with the number in its text alone, DuckDB with its name.
    said = exc.strerror or str(exc)
    for number, error, hint in (
        (errno.ENOSPC, WarehouseFailed, "free some space, then run the same command again"),
        (errno.EDQUOT, WarehouseFailed, "free some space, then run the same command again"),
        (errno.EFBIG, WarehouseFailed, "raise the limit on file sizes, then run the same command again"),
        (errno.EACCES, WarehouseDenied, "give MAANG_HOME a folder that you can write to"),
        (errno.EPERM, WarehouseDenied, "give MAANG_HOME a folder that you can write to"),
        (errno.EROFS, WarehouseDenied, "give MAANG_HOME a folder that you can write to"),
        (errno.ENOTDIR, WarehouseDenied, "give MAANG_HOME a folder"),
        (errno.EEXIST, WarehouseDenied, "give MAANG_HOME a folder"),
        (errno.EISDIR, WarehouseDenied, "move it away, or give MAANG_HOME another folder"),
    ):
        if exc.errno == number or f"errno {number}" in said or os.strerror(number) in said:
            return error(f"{exc.filename or root}: {said}", hint=hint)
    return WarehouseFailed(f"{exc.filename or root}: {said}", hint="check the disk, then run the same command again")
