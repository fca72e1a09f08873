"""Every failure that maang foresees, and the exit code of each.

    MaangError
    ├── SettingsError      2   a flag, a variable or a file is wrong
    ├── TableMismatch      2   a table's columns are not the ones that this version writes
    ├── OutOfOrder         2   an earlier step has to run first: `cumulate` before `promote`
    │   └── NotStaged          `check` or `promote` before `ingest`
    ├── SourceDenied       2   the vendor refuses the key or the plan
    ├── WarehouseDenied    2   the warehouse can't be used as it is: missing rights, damage
    │   └── NotOwner           only its owner may drop a table
    ├── GateRefused        3   the audit found rows that must not be published
    ├── MayHeal            4   a re-run may succeed
    │   ├── NotPublishedYet
    │   ├── SourceFailed
    │   └── WarehouseFailed
    │       ├── CommitLost     another writer was faster, on every attempt
    │       └── StagingChanged another run of the same request replaced or dropped its staging table
    ├── PartlyRefused      5   the gate refused some of the sessions, the others are done
    └── NoSession         99   NYSE did not trade on that date

Anything else that escapes is a bug: it keeps its traceback, and maang exits with 1.
"""

from enum import IntEnum
from typing import Any, ClassVar, Self


class ExitCode(IntEnum):
    """The contract with Airflow and scripts, each with what it means. The lower-case name is the outcome in JSON."""

    meaning: str
    """As docs/exit-codes.md says it first."""

    def __new__(cls, code: int, meaning: str = "") -> Self:
        """A member. (Without a meaning: mypy reads `ExitCode(3)`, which looks a member up, as a call of this.)"""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "Everything is done."
    BUG = 1, "A bug in maang, with its traceback."
    """Python's own code for a traceback. A retry is harmless."""
    UNUSABLE = 2, "Waiting can't help: usage, settings, different table columns, a damaged warehouse, a refused key or plan."
    """Click's own code for usage errors."""
    REFUSED = 3, "The gate refused the data. Production is untouched, staging is kept."
    MAY_HEAL = (
        4,
        "The source or the warehouse failed after retries, or the session is not final. Published data is intact; a re-run"
        " finishes the rest.",
    )
    PARTIAL = (
        5,
        "Some of several sessions failed or were refused, the others are done; or `status` found something missing, or"
        " `--dry-run` other bars.",
    )
    NO_SESSION = 99, "The market was closed on that date."
    """Airflow's BashOperator reads 99 as "skipped"."""
    INTERRUPTED = 130, "SIGINT (Ctrl-C). Published data is intact."
    """128 + SIGINT."""
    TERMINATED = 143, "SIGTERM. Published data is intact."
    """128 + SIGTERM."""

    @property
    def worth_a_retry(self) -> bool:
        """Whether the same command may succeed later, with nothing else changed."""
        return self in (ExitCode.BUG, ExitCode.MAY_HEAL, ExitCode.INTERRUPTED, ExitCode.TERMINATED)


class MaangError(Exception):
    """A foreseen failure: `message` says what failed and where, `hint` what to type next.

    `{flags}` in a hint stands for the settings' flags of the command, so that the user can type the line as it is.
    """

    exit_code: ClassVar[ExitCode]

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def done_before(self, done: str) -> None:
        """Add what earlier steps have published: the exit code speaks only for the step that failed."""
        self.message += f"; {done}"
        self.args = (self.message,)


class SettingsError(MaangError):
    exit_code = ExitCode.UNUSABLE


def not_installed(what: str, extra: str, exc: ModuleNotFoundError) -> SettingsError:
    """The error of something that needs an extra. `what`: the message's beginning."""
    hint = f"install it from a clone of maang: uv run --extra {extra} maang .., or pip install '.[{extra}]'"
    return SettingsError(f"{what}: no module {exc.name}", hint=hint)


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


class NotOwner(WarehouseDenied):
    """Only its owner may drop a table, and somebody else created it."""


class GateRefused(MaangError):
    exit_code = ExitCode.REFUSED

    def __init__(self, message: str, *, hint: str, audit: Any = None) -> None:
        super().__init__(message, hint=hint)
        self.audit = audit
        """The `checks.Audit`, which is shown before the error; None: there is none."""


class MayHeal(MaangError):
    exit_code = ExitCode.MAY_HEAL


class NotPublishedYet(MayHeal):
    """The session is not over, or not final, or the vendor does not serve it yet."""


class SourceFailed(MayHeal):
    """No usable answer within the retry budget, or an answer that contradicts itself."""


class WarehouseFailed(MayHeal):
    """The warehouse did not carry out a verb; nothing of it is visible."""


class CommitLost(WarehouseFailed):
    """Another writer committed first, on every attempt."""


class StagingChanged(WarehouseFailed):
    """Another run replaced or dropped the staging table; nothing was published."""


class PartlyRefused(MaangError):
    exit_code = ExitCode.PARTIAL


class NoSession(MaangError):
    """Nothing failed, so there is no hint: only the message is printed."""

    exit_code = ExitCode.NO_SESSION
