"""A folder, a file or a disk that fails the local warehouse: the exit code, the error, and what is left on disk."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

import duckdb
import pytest

from maang_cli import pipeline, sessions
from maang_cli.errors import ExitCode, MaangError, WarehouseDenied, WarehouseFailed
from maang_cli.sources.sample import SampleSource
from maang_cli.tables import CUMULATIVE, PRODUCTION
from maang_cli.warehouses.local.errors import FileGone, translated
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Maang, Outcome
from tests.warehouses.conftest import TUESDAY, Row, rows_on_disk, unreachable, without_stamp
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
        (duckdb.InvalidInputException("No magic bytes found"), WarehouseDenied, "restore it"),
        (EOFError(), WarehouseDenied, "restore it"),
    ],
)
def test_library_errors_are_translated(raised: Exception, error: type[MaangError], hint: str) -> None:
    with pytest.raises(error) as caught, translated(Path("/w")):
        raise raised
    assert type(caught.value) is error
    assert "/w" in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [WarehouseFailed("ours"), duckdb.BinderException("in our SQL"), ValueError("a bug")])
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


class NoProgress:
    """Shows nothing of a day's steps."""

    def begin(self, step: str) -> None: ...

    def done(self, result: object) -> None: ...


@pytest.fixture(scope="module")
def sample_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one session of sample bars. A test that damages it must restore it."""
    home = tmp_path_factory.mktemp("sample")
    with closing(LocalWarehouse(home, "maang_sample", Retention(100))) as warehouse:
        pipeline.run_day(SampleSource(), warehouse, pipeline.Request(FIVE, (TUESDAY,)), NoProgress())
    return home


@contextmanager
def damaged(path: Path, damage: Callable[[bytes], bytes] | None) -> Iterator[None]:
    """Inside the block the file has other content, or is missing."""
    intact = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(intact))
    try:
        yield
    finally:
        path.write_bytes(intact)


FILES = {
    "catalog": "catalog.db",
    "metadata": "00001-*.metadata.json",
    "list": "snap-*.avro",
    "manifest": "*-m0.avro",
    "data": "*.parquet",
}
DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "half": lambda intact: intact[: len(intact) // 2],
    "overwritten": lambda intact: intact[:20].ljust(len(intact), b"\xff"),
    "other": lambda _: b"{}",
    "empty": lambda _: b"",
    "missing": None,
}
# A missing or empty catalog is a case of its own: see test_store.
DAMAGED = [(file, damage) for file in FILES for damage in DAMAGES if file != "catalog" or damage not in ("missing", "empty")]


@pytest.mark.parametrize(
    ("command", "file", "damage"), [("show", *case) for case in DAMAGED] + [("run-day", file, "half") for file in FILES]
)
def test_damage_is_reported_with_a_hint(maang: Maang, sample_home: Path, command: str, file: str, damage: str) -> None:
    folder = sample_home / "warehouse" if file == "catalog" else sample_home / "warehouse/maang_sample/daily_stock_prices"
    (path,) = folder.rglob(FILES[file])
    with damaged(path, DAMAGES[damage]):
        outcome = maang(command, *RUN_DAY[1:], "--home", str(sample_home))
    must_fail(outcome, ExitCode.MAY_HEAL if damage == "missing" else ExitCode.UNUSABLE, str(sample_home))


def test_restored_warehouse_works_again(maang: Maang, sample_home: Path) -> None:
    (path,) = (sample_home / "warehouse/maang_sample/daily_stock_prices").rglob("*.parquet")
    with damaged(path, DAMAGES["half"]):
        assert maang(*RUN_DAY, "--home", str(sample_home)).code != 0
    assert maang(*RUN_DAY, "--home", str(sample_home)).code == 0
    assert unreachable(sample_home) == []


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
    for day, free in zip(reversed(earlier), range(0, 10**6, 16384), strict=False):
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
