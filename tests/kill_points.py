"""A run of `maang` that sends a signal to itself at a chosen moment. `tests/test_kill.py` runs it in forks."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypedDict

from maang_cli import backfill, doctor
from maang_cli.cli import process
from maang_cli.warehouses.local.catalog import LocalCatalog

BATCH_ROWS = 6
"""Rows of a backfill's batch, so that a short range takes several batches."""
DISK = {
    "commit",
    "create",
    "delete",
    "commit_table",
    "drop_table",
    "mkdir",
    "_point",
    "replace",
    "rmtree",
    "clean_up",
    "unlink",
    "write",
    "write_text",
}
"""Functions in the files below that change the disk. A kill near them tells more than a kill between them."""
NEAR_DISK = ("maang_cli/warehouses/", "pyiceberg/", "pathlib", "shutil", "filelock/")


class Notes(TypedDict):
    """What is recorded of a run."""

    total: int
    """How many events there were."""
    near_disk: list[int]
    """Events near the disk."""
    commits: int
    """How many commits there were."""


def _counted(at: int | None, send: int, notes: Notes, commit: int | None) -> Callable[[FrameType, str, object], None]:
    """A profile function that sends a signal to its own process at the `at`-th event, or right after the `commit`-th commit."""
    events = itertools.count(1)

    def profile(frame: FrameType, event: str, arg: object) -> None:
        number = next(events)
        if number == at:
            os.kill(os.getpid(), send)
        notes["total"] = number
        code = frame.f_code
        if not event.startswith("c_") and code.co_name in DISK and any(part in code.co_filename for part in NEAR_DISK):
            notes["near_disk"].append(number)
        if event == "return" and code is LocalCatalog.commit_table.__code__:
            notes["commits"] += 1
            if notes["commits"] == commit:
                os.kill(os.getpid(), send)

    return profile


def run(at: int | None, send: int, notes: str | None, commit: int | None = None) -> None:
    """Run this process's command line.

    `at`: the event at which it sends the signal `send` to itself; `commit`: the commit after which it does; None: never.
    `notes`: the file for `Notes`; None: they are not kept.
    """
    backfill.plan = functools.partial(backfill.plan, batch_rows=BATCH_ROWS)
    doctor.checkup = functools.partial(doctor.checkup, leftover_seconds=0)  # no other run uses what it finds
    for number in (signal.SIGINT, signal.SIGTERM):  # they may come before `run` waits for them
        signal.signal(number, lambda *_: None)
    taken: Notes = {"total": 0, "near_disk": [], "commits": 0}
    if at or commit or notes:
        profile = _counted(at, send, taken, commit)
        threading.setprofile(profile)
        sys.setprofile(profile)
    try:
        process.run()
    finally:
        sys.setprofile(None)
        if notes:
            Path(notes).write_text(json.dumps(taken))
