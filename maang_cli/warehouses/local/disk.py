"""Files and folders of the local warehouse: written through to the disk, listed and removed while others change them."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

log = logging.getLogger("maang")

SYNCING = 8
"""How many files are written through at the same time, if there are more: they share the file system's own commits."""


def path_of(location: str) -> Path:
    """A location in Iceberg, which is a `file://` URL without percent escapes, or a path."""
    return Path(location.removeprefix("file://"))


def sync(files: Iterable[Path], root: Path) -> None:
    """Wait until these files, and the folders that lead to them from `root`, are on disk: they survive a power cut.

    Raises:
        OSError: the disk did not take them.
    """
    paths = list(files)
    folders = {root}
    for path in paths:
        folder = path.parent
        while folder not in folders:
            folders.add(folder)
            folder = folder.parent
    _each(_sync, paths)
    _each(_sync_folder, folders)


def _each(sync_one: Callable[[Path], None], paths: Collection[Path]) -> None:
    if len(paths) <= SYNCING:  # the usual day: to start threads would take longer
        for path in paths:
            sync_one(path)
        return
    with ThreadPoolExecutor(SYNCING) as pool:
        list(pool.map(sync_one, paths))


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems can't sync a folder
            raise


def make_folder(folder: Path) -> None:
    """Create a folder that may exist, and those above it; the new ones are on disk."""
    above = next(each for each in (folder, *folder.parents) if each.exists())
    folder.mkdir(parents=True, exist_ok=True)
    if above != folder:
        sync([folder], above)


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files below a folder. What another program removes meanwhile is left out."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                yield path, path.lstat()
            except FileNotFoundError:
                continue


def delete(paths: Iterable[Path]) -> None:
    """Remove files that nothing needs any more. One that can't be removed is no reason to fail: `maang maintain` tries again."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("%s can't be removed: %s; maang maintain tries again", path, exc.strerror)


def delete_folder(folder: Path) -> None:
    """Remove a folder that nothing needs any more. If that fails, the next run tries again."""
    shutil.rmtree(folder, onerror=lambda _, path, exc: _not_removed(path, exc[1]))


def _not_removed(path: str, exc: BaseException) -> None:
    if not isinstance(exc, FileNotFoundError):
        log.warning("%s can't be removed: %s; the next run tries again", path, exc)
