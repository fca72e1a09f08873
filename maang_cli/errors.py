"""Every failure that maang foresees, and the exit code that each one means.

    MaangError
    ├── SettingsError      2   a flag, a variable or a file is wrong
    ├── TableMismatch      2   a table's columns are not the ones this version writes
    ├── OutOfOrder         2   a step whose input an earlier step makes: `cumulate` before `promote`
    │   └── NotStaged          `check` or `promote` before `ingest`
    ├── SourceDenied       2   the vendor refuses the key or the plan
    ├── WarehouseDenied    2   the warehouse can't be used as it is: rights, damage
    ├── GateRefused        3   the audit found rows that must not be published
    ├── MayHeal            4   a plain re-run may succeed
    │   ├── NotPublishedYet
    │   ├── SourceFailed
    │   └── WarehouseFailed
    │       ├── CommitLost     another writer was faster, time after time
    │       └── StagingChanged another run of the same request was at its staging table
    ├── PartlyRefused      5   the gate refused some of the sessions, the rest are done
    └── NoSession         99   NYSE did not trade on that date

Anything else that escapes is a bug: it keeps its traceback, and code 1.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from maang_cli.checks import Audit


class ExitCode(IntEnum):
    """The contract with Airflow and scripts; the reason under each."""

    DONE = 0
    BUG = 1
    """Python's own code for a traceback; a retry is harmless."""
    UNUSABLE = 2
    """Waiting can't help: usage, settings, rights, a table of another shape. Click's own code for usage."""
    REFUSED = 3
    """The gate refused the data; production is untouched."""
    MAY_HEAL = 4
    """The source or the warehouse failed; what was published stays whole, a re-run finishes the rest."""
    PARTIAL = 5
    """Several sessions were asked for: some failed, the rest are done."""
    NO_SESSION = 99
    """Airflow's BashOperator reads 99 as "skipped"."""
    INTERRUPTED = 130
    """128 + SIGINT."""
    TERMINATED = 143
    """128 + SIGTERM."""


class MaangError(Exception):
    """A foreseen failure: `message` says what and where, `hint` what to type next.

    `{flags}` in a hint stands for the flags that the command was given, so that the line can be typed as it is.
    """

    exit_code: ClassVar[ExitCode]

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingsError(MaangError):
    exit_code = ExitCode.UNUSABLE


class TableMismatch(MaangError):
    exit_code = ExitCode.UNUSABLE


class OutOfOrder(MaangError):
    exit_code = ExitCode.UNUSABLE


class NotStaged(OutOfOrder):
    """There is no staging table for this request."""


class SourceDenied(MaangError):
    exit_code = ExitCode.UNUSABLE


class WarehouseDenied(MaangError):
    exit_code = ExitCode.UNUSABLE


class GateRefused(MaangError):
    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, *, hint: str, audit: Audit | None = None) -> None:
        super().__init__(message, hint=hint)
        self.audit = audit
        """The report, where it has not been shown yet."""


class MayHeal(MaangError):
    exit_code = ExitCode.MAY_HEAL


class NotPublishedYet(MayHeal):
    """The session is not over, or the vendor does not serve it yet."""


class SourceFailed(MayHeal):
    """No usable answer within the budget, or an answer that contradicts itself."""


class WarehouseFailed(MayHeal):
    """The warehouse did not carry out a verb; nothing of it is visible."""


class CommitLost(WarehouseFailed):
    """Another writer committed first on every attempt."""


class StagingChanged(WarehouseFailed):
    """Another run replaced or dropped what was staged; nothing was published."""


class PartlyRefused(MaangError):
    exit_code = ExitCode.PARTIAL


class NoSession(MaangError):
    """Nothing failed, so there is no hint: the message is all that is printed."""

    exit_code = ExitCode.NO_SESSION
