"""A power cut at any moment loses nothing that was published, and the next run finishes what was not.

`Disk` computes what a power cut would leave: what was not synced until then is empty, or does not exist. SQLite syncs its own
file, so that is taken as it is: the worst case, because its rows point to the other files.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from maang_cli import backfill, pipeline, sessions
from maang_cli.cli.process import main
from maang_cli.request import Request
from maang_cli.sources.sample import SampleSource
from maang_cli.tables import CUMULATIVE, PRODUCTION
from maang_cli.warehouses.local import disk
from maang_cli.warehouses.local.catalog import LocalCatalog
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Maang
from tests.warehouses.conftest import MONDAY, TUESDAY, WEDNESDAY, Row, content, rows_on_disk, unreachable, without_stamp
from tests.warehouses.local.conftest import FIVE

Image = dict[str, bytes | None]
"""The files of a home by their path in it, each with its content; folders have none."""


class Disk:
    """What is on the disk below a folder, for sure: what was synced."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[Image] = []
        """What a power cut would have left before each sync, and before and after each move of a table's pointer."""
        self._home = home
        self._content: dict[int, bytes] = {}
        """By the number of the file's inode."""
        self._names: dict[Path, set[str]] = {home.parent: {home.name}}
        self._lock = threading.Lock()
        sync, point = os.fsync, LocalCatalog._point

        def recorded(number: int) -> None:
            with self._lock:
                self._cut()
                sync(number)
                path = Path(f"/proc/self/fd/{number}").readlink()
                if path.is_dir():
                    self._names[path] = {entry.name for entry in path.iterdir()}
                else:
                    self._content[os.fstat(number).st_ino] = path.read_bytes()

        def pointed(catalog: LocalCatalog, *where: object) -> None:
            self._cut()
            point(catalog, *where)  # type: ignore[arg-type]
            self._cut()

        monkeypatch.setattr(os, "fsync", recorded)
        monkeypatch.setattr(LocalCatalog, "_point", pointed)

    def image(self) -> Image:
        """What a power cut would leave now."""
        found: Image = {}
        for path in sorted(self._home.rglob("*")):
            name = str(path.relative_to(self._home))
            if path.name.startswith("catalog.db"):
                found[name] = path.read_bytes()
            elif path.name not in self._names.get(path.parent, ()) or not self._is_there(path.parent):
                continue
            elif path.is_dir():
                found[name] = None
            else:
                now = path.read_bytes()
                found[name] = now if self._content.get(path.stat().st_ino) == now else b""
        return found

    def _is_there(self, folder: Path) -> bool:
        return folder == self._home.parent or (
            folder.name in self._names.get(folder.parent, ()) and self._is_there(folder.parent)
        )

    def _cut(self) -> None:
        image = self.image()
        if not self.images or image != self.images[-1]:
            self.images.append(image)


def restore(image: Image, home: Path) -> None:
    """Start again after the power cut."""
    shutil.rmtree(home)
    (home / "warehouse").mkdir(parents=True)
    for name, found in image.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        if found is None:
            (home / name).mkdir(exist_ok=True)
        else:
            (home / name).write_bytes(found)


def load_day(home: Path) -> None:
    with closing(LocalWarehouse(home, "maang", Retention(100))) as warehouse:
        pipeline.run_day(SampleSource(), warehouse, Request(FIVE, (TUESDAY,)), pipeline.NoProgress())


def load_range(home: Path) -> None:
    request = Request(FIVE, sessions.between(MONDAY, WEDNESDAY))
    with closing(LocalWarehouse(home, "maang", Retention(100))) as warehouse:
        plan = backfill.plan(SampleSource(), warehouse, request)
        backfill.run(SampleSource(), warehouse, plan, lambda _progress: None)


def rows(home: Path) -> list[list[Row]]:
    """Production and cumulative without their stamps; a table that does not exist is empty."""
    with closing(LocalWarehouse(home, "maang", Retention(100))) as warehouse:
        return [
            without_stamp(content(warehouse, table), table.stamp) if warehouse._store.exists(table.name) else []
            for table in (PRODUCTION, CUMULATIVE)
        ]


@pytest.fixture
def lost(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What maang has logged about lost commits."""
    caplog.set_level(logging.WARNING, "maang")
    return lambda: caplog.text


@pytest.mark.parametrize("number", [disk.SYNCING, disk.SYNCING + 1], ids=["few", "many"])
def test_every_file_and_the_folders_that_lead_to_it_are_synced(home: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    files = [home / f"date={day}" / "data.parquet" for day in range(number)]
    for path in files:
        path.parent.mkdir(parents=True)
        path.write_text(path.parent.name)
    watched = Disk(home, monkeypatch)
    disk.sync(files, home.parent)
    assert {name: found for name, found in watched.image().items() if found} == {
        f"{path.parent.name}/data.parquet": path.parent.name.encode() for path in files
    }


@pytest.mark.parametrize("load", [load_day, load_range], ids=["day", "backfill"])
def test_power_cut_at_any_step_loses_nothing_that_was_published(
    home: Path, monkeypatch: pytest.MonkeyPatch, lost: Callable[[], str], load: Callable[[Path], None]
) -> None:
    with monkeypatch.context() as patched:
        watched = Disk(home, patched)
        load(home)
        last = watched.image()
    after = rows(home)
    restore(last, home)
    assert rows(home) == after
    assert unreachable(home) == []
    assert len(watched.images) > 20
    for number, image in enumerate(watched.images):
        restore(image, home)
        for table, found in zip((PRODUCTION, CUMULATIVE), rows(home), strict=True):
            assert found in ([], after[table is CUMULATIVE]), f"{table.name} is neither as before nor as after, cut at {number}"
        load(home)
        assert rows(home) == after, f"cut at {number}"
    assert lost() == ""


def test_commits_that_were_never_synced_are_missing_after_a_power_cut_and_filled_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, lost: Callable[[], str]
) -> None:
    """As older versions wrote, or on a disk that reports a write as finished before it is."""
    load_day(home)
    before = rows(home)
    request = Request(FIVE, (WEDNESDAY,))
    with monkeypatch.context() as patched:
        watched = Disk(home, patched)
        for path in home.rglob("*"):  # what the first day has written is on disk by now
            watched._names.setdefault(path.parent, set()).add(path.name)
            if path.is_file():
                watched._content[path.stat().st_ino] = path.read_bytes()
        patched.setattr(disk, "sync", lambda *_: None)
        patched.setattr(os, "fsync", lambda _: None)
        with closing(LocalWarehouse(home, "maang", Retention(100))) as warehouse:
            pipeline.run_day(SampleSource(), warehouse, request, pipeline.NoProgress())
        image = watched.image()
    after = rows(home)
    restore(image, home)
    assert rows(home) == before
    assert lost().count("maang backfill fetches what is missing since") == 2
    with closing(LocalWarehouse(home, "maang", Retention(100))) as warehouse:
        pipeline.run_day(SampleSource(), warehouse, request, pipeline.NoProgress())
    assert rows(home) == after


# an ext4 file system


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder on an ext4 file system of its own, and a function that cuts its power."""
    image, folder = tmp_path / "disk.img", tmp_path / "ext4"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)

    def attempt(*command: object) -> None:
        try:
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"needs `{command[0]}`")
        if done.returncode:
            pytest.skip(f"needs the right to mount a file: {done.stderr.strip()}")

    attempt("mkfs.ext4", "-q", image)
    attempt("mount", "-o", "loop", image, folder)

    def cut() -> None:
        copy = image.with_suffix(".copy")
        shutil.copyfile(image, copy)  # what is on the disk, and not what is still in memory
        subprocess.run(["umount", folder], check=True)
        subprocess.run(["mount", "-o", "loop", copy, folder], check=True)

    yield folder, cut
    subprocess.run(["umount", folder], check=True)


def test_power_cut_right_after_a_day_keeps_it_on_ext4(ext4: tuple[Path, Callable[[], None]], maang: Maang) -> None:
    folder, cut = ext4
    argv = ("--date", str(TUESDAY), "--source", "sample", "--home", str(folder / "home"))
    assert main(["run-day", *argv, "--quiet"]) == 0
    cut()
    names = [f"maang_sample.{table.name}" for table in (PRODUCTION, CUMULATIVE)]
    assert [len(rows_on_disk(folder / "home", name)) for name in names] == [len(FIVE)] * 2
    done = maang("run-day", *argv)
    assert (done.code, "5 rows unchanged" in done.err) == (0, True)
    assert unreachable(folder / "home") == []
