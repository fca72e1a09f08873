"""A folder, a file or a disk that fails the local warehouse: the exit code, the error, and what is left on disk."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from maang_cli import pipeline, sessions
from maang_cli.errors import ExitCode, MaangError, WarehouseDenied, WarehouseFailed
from maang_cli.request import Request
from maang_cli.sources.sample import SampleSource
from maang_cli.tables import CUMULATIVE, PRODUCTION
from maang_cli.warehouses.local.errors import FileGone, translated
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Maang, Outcome
from tests.warehouses.conftest import STAGING, TUESDAY, Row, bar, rows_on_disk, staged, unreachable, without_stamp
from tests.warehouses.local.conftest import FIVE, RUN_DAY, must_fail

# translation


@pytest.mark.parametrize(
    ("raised", "error", "hint"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), WarehouseFailed, "free some space"),
        (OSError("error: [errno 28] No space left on device"), WarehouseFailed, "free some space"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), WarehouseFailed, "raise the limit on file sizes"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), WarehouseDenied, "a folder that you can write to"),
        (OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), WarehouseDenied, "set MAANG_HOME to a folder"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)), WarehouseDenied, "a shorter name"),
        (OSError(errno.EISDIR, os.strerror(errno.EISDIR)), WarehouseDenied, "move it away"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), WarehouseFailed, "check the disk"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/w/a.parquet"), FileGone, "run the same command again"),
        (duckdb.IOException('No files found that match the pattern "/w/a.parquet"'), FileGone, "run the same command again"),
        (duckdb.IOException("Could not write: No space left on device"), WarehouseFailed, "free some space"),
    ],
)
def test_library_errors_are_translated(raised: Exception, error: type[MaangError], hint: str) -> None:
    with pytest.raises(error) as caught, translated(Path("/w")):
        raise raised
    assert type(caught.value) is error
    assert "/w" in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.__cause__ is raised


BUGS = [
    ValueError("a bug"),
    EOFError(),
    duckdb.BinderException("in our SQL"),
    duckdb.InvalidInputException("in our SQL"),
    pa.ArrowInvalid("in a merge"),
    sqlite3.ProgrammingError("in our SQL"),
    sqlite3.IntegrityError("in our SQL"),
]


@pytest.mark.parametrize("raised", [WarehouseFailed("ours"), *BUGS], ids=lambda raised: type(raised).__name__)
def test_our_errors_and_bugs_are_not_translated(raised: Exception) -> None:
    with pytest.raises(type(raised)) as caught, translated(Path("/w")):
        raise raised
    assert caught.value is raised


# something else is in the place of a file or folder


def obstruct(path: Path, *, folder: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
    else:
        path.write_text("in the way")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("", False),
        ("warehouse", False),
        ("warehouse/maang_sample", False),
        ("warehouse/maang_sample/daily_stock_prices", False),
        ("warehouse/catalog.db", True),
        ("warehouse/writer.lock", True),
        ("warehouse/journal.json", True),
    ],
)
def test_obstructed_path_is_unusable(maang: Maang, home: Path, path: str, *, folder: bool) -> None:
    obstruct(home / path, folder=folder)
    must_fail(maang(*RUN_DAY), ExitCode.UNUSABLE, "MAANG_HOME", str(home))


def test_home_below_a_file_is_unusable(maang: Maang, home: Path) -> None:
    obstruct(home, folder=False)
    must_fail(maang(*RUN_DAY, "--home", str(home / "deeper")), ExitCode.UNUSABLE, "MAANG_HOME")


# damaged files


@pytest.fixture(scope="module")
def sample_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one session of sample bars. A test that damages it must restore it."""
    home = tmp_path_factory.mktemp("sample")
    with closing(LocalWarehouse(home, "maang_sample", Retention(100))) as warehouse:
        pipeline.run_day(SampleSource(), warehouse, Request(FIVE, (TUESDAY,)), pipeline.NoProgress())
    return home


@pytest.fixture
def restored(sample_home: Path, tmp_path: Path) -> Iterator[Path]:
    """That home, which is as it was after the test."""
    shutil.copytree(sample_home, tmp_path / "copy")
    yield sample_home
    shutil.rmtree(sample_home)
    shutil.move(tmp_path / "copy", sample_home)


FILES = {"metadata": "00001-*.metadata.json", "list": "snap-*.avro", "manifest": "*-m0.avro", "data": "*.parquet"}
DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "half": lambda intact: intact[: len(intact) // 2],
    "overwritten": lambda intact: intact[:20].ljust(len(intact), b"\xff"),
    "zeros": lambda intact: bytes(len(intact)),
    "empty": lambda _: b"",
    "missing": None,
}
damages = pytest.mark.parametrize("damage", DAMAGES)


def damage_file(path: Path, damage: str) -> None:
    change = DAMAGES[damage]
    if change:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()


def file_of(home: Path, what: str, table: str = PRODUCTION.name) -> Path:
    (path,) = (home / "warehouse/maang_sample" / table).rglob(FILES[what])
    return path


@pytest.mark.parametrize("damage", ["half", "overwritten", "zeros"])  # without a catalog: see test_store
@pytest.mark.parametrize("command", ["show", "run-day"])
def test_damaged_catalog_is_reported_with_a_hint(maang: Maang, restored: Path, command: str, damage: str) -> None:
    damage_file(restored / "warehouse/catalog.db", damage)
    must_fail(maang(command, *RUN_DAY[1:], "--home", str(restored)), ExitCode.UNUSABLE, str(restored), "restore it")


@damages
@pytest.mark.parametrize("file", ["metadata", "list", "manifest"])
def test_commit_whose_files_are_damaged_is_missing_and_filled_again(maang: Maang, restored: Path, file: str, damage: str) -> None:
    argv = (*RUN_DAY[1:], "--home", str(restored))
    before = maang("show", *argv, "--json").result["rows"]
    damage_file(file_of(restored, file), damage)
    shown = maang("show", *argv)
    assert (shown.code, shown.out.splitlines()[-1]) == (0, "0 rows of maang_sample.daily_stock_prices")
    (line,) = shown.err.splitlines()
    assert "maang_sample.daily_stock_prices is again as of" in line
    assert maang("backfill", *argv).code == 0
    rows = maang("show", *argv, "--json").result["rows"]
    assert without_stamp(rows) == without_stamp(before)


def test_metadata_of_another_version_of_iceberg_is_not_given_up(maang: Maang, restored: Path) -> None:
    """It can't be read, but it is complete: going back would lose commits."""
    path = file_of(restored, "metadata")
    path.write_text('{"format-version": 99}')
    must_fail(maang("show", *RUN_DAY[1:], "--home", str(restored)), ExitCode.UNUSABLE, str(path), "restore it")


def test_table_without_any_readable_metadata_is_reported(maang: Maang, restored: Path) -> None:
    for path in (restored / "warehouse/maang_sample" / PRODUCTION.name / "metadata").glob("*.json"):
        path.write_bytes(b"")
    must_fail(maang("show", *RUN_DAY[1:], "--home", str(restored)), ExitCode.UNUSABLE, str(restored), "restore it")


@damages
def test_damaged_data_file_is_reported_and_can_be_fetched_again(maang: Maang, restored: Path, damage: str) -> None:
    argv = (*RUN_DAY[1:], "--home", str(restored))
    before = maang("show", *argv, "--json").result["rows"]
    damage_file(path := file_of(restored, "data"), damage)
    hint = f"maang backfill --refetch --date {TUESDAY} --source sample"
    for command in ("show", "run-day"):
        must_fail(maang(command, *argv), ExitCode.UNUSABLE, str(path), hint)
    assert maang("doctor", "--source", "sample", "--home", str(restored)).code == ExitCode.UNUSABLE
    done = maang("backfill", "--refetch", *(word for word in argv if word != "--quiet"))
    assert (done.code, "removed files that can't be read" in done.err) == (0, True)
    assert without_stamp(maang("show", *argv, "--json").result["rows"]) == without_stamp(before)
    assert maang("status", *argv).code == 0


@pytest.mark.parametrize("damage", ["half", "missing"])  # each reads it as the other table: see the test above
def test_damaged_windows_can_be_fetched_again(maang: Maang, restored: Path, damage: str) -> None:
    argv = (*RUN_DAY[1:], "--home", str(restored))
    damage_file(file_of(restored, "data", CUMULATIVE.name), damage)
    must_fail(maang("show", *argv, "--table", "cumulative"), ExitCode.UNUSABLE, "backfill --refetch")
    assert maang("backfill", "--refetch", *argv).code == 0
    assert maang("status", *argv).code == 0


@pytest.mark.parametrize(
    ("file", "damage"),
    [("metadata", "half"), ("list", "overwritten"), ("manifest", "zeros"), ("data", "empty"), ("data", "missing")],
)
def test_damaged_staging_is_replaced_and_dropped(maang: Maang, home: Path, file: str, damage: str) -> None:
    argv = RUN_DAY[1:]
    assert maang("init-tables", "--source", "sample", "--quiet").code == 0
    for command in ("drop-staging", "ingest"):
        assert maang("ingest", *argv).code == 0
        (folder,) = (home / "warehouse/maang_sample").glob("*_staging_*")
        (path,) = folder.rglob(FILES[file].replace("00001", "00000"))
        damage_file(path, damage)
        assert maang("check", *argv).code == ExitCode.UNUSABLE
        assert maang("status", *argv).code == ExitCode.PARTIAL
        assert maang(command, *argv).code == 0
    assert maang("check", *argv).code == 0


@pytest.mark.parametrize("raised", BUGS, ids=lambda raised: type(raised).__name__)
def test_bug_is_not_taken_for_damage(local: LocalWarehouse, raised: Exception) -> None:
    local.stage(STAGING, staged([bar("META", TUESDAY)]))
    table = local._store.load(STAGING.name)
    assert table is not None
    files = [task.file for task in table.scan().plan_files()]
    with pytest.raises(type(raised)) as caught, translated(Path("/w")), local._store.reading((table, files)):
        raise raised
    assert caught.value is raised


# the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs `mount`")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_read_only_home_is_unusable(maang: Maang, disk: Path) -> None:
    home = disk / "home"
    assert maang(*RUN_DAY, "--home", str(home)).code == 0
    rows = rows_on_disk(home, "maang_sample.daily_stock_prices")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    must_fail(maang(*RUN_DAY, "--home", str(home)), ExitCode.UNUSABLE, "MAANG_HOME", str(home))
    must_fail(maang(*RUN_DAY, "--home", str(disk / "another")), ExitCode.UNUSABLE, "MAANG_HOME", str(disk / "another"))
    assert rows_on_disk(home, "maang_sample.daily_stock_prices") == rows


def test_read_only_home_can_be_shown(maang: Maang, disk: Path) -> None:
    home = str(disk / "home")
    assert maang(*RUN_DAY, "--home", home).code == 0
    shown = maang("show", *RUN_DAY[1:], "--home", home)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert maang("show", *RUN_DAY[1:], "--home", home) == shown


def test_full_disk_changes_nothing_and_the_next_run_finishes(maang: Maang, disk: Path) -> None:
    home, filler = disk / "home", disk / "filler"

    def run(day: date) -> Outcome:
        return maang("run-day", "--date", str(day), "--source", "sample", "--quiet", "--home", str(home))

    def rows() -> list[list[Row]]:
        return [rows_on_disk(home, f"maang_sample.{table.name}") for table in (PRODUCTION, CUMULATIVE)]

    # From the last session to the first: each run then writes the windows of seven sessions, one file each.
    *earlier, last = sessions.between(date(2025, 6, 2), date(2025, 9, 30))
    assert run(last).code == 0
    failed = 0
    # From no free space to enough space, a few kilobytes more each time, so that each time another write fails.
    for day, free in zip(reversed(earlier), range(0, 10**6, 24576), strict=False):
        before = rows()
        space = os.statvfs(disk)
        filler.write_bytes(bytes(space.f_bavail * space.f_frsize - free))
        outcome = run(day)
        after = rows()
        filler.unlink()
        if outcome.code == 0:
            break
        failed += 1
        must_fail(outcome, ExitCode.MAY_HEAL, str(home), "run the same command again")
        assert free or after == before
        assert run(day).code == 0
        for table, old, seen, new in zip((PRODUCTION, CUMULATIVE), before, after, rows(), strict=True):
            assert seen == old or without_stamp(seen, table.stamp) == without_stamp(new, table.stamp)
        assert unreachable(home) == []
        assert not (home / "warehouse/journal.json").exists()
    assert failed > 3
    assert unreachable(home) == []
