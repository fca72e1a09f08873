"""The local warehouse's own settings: how much history it keeps for time travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from maang_cli.settings import Environment, read, whole_number

if TYPE_CHECKING:
    from maang_cli.warehouses.local.retention import Retention

SNAPSHOTS = 100
"""The default of MAANG_KEEP_SNAPSHOTS."""


class Given(Environment):
    keep_snapshots: str = Field(str(SNAPSHOTS), alias="MAANG_KEEP_SNAPSHOTS")
    keep_days: str = Field("", alias="MAANG_KEEP_DAYS")


def load() -> Retention:
    """How much history to keep.

    Raises:
        SettingsError: one of the settings is wrong.
    """
    from maang_cli.warehouses.local.retention import Retention  # noqa: PLC0415 - with PyIceberg, which `config` does not need

    given = read(Given)
    return Retention(
        whole_number("MAANG_KEEP_SNAPSHOTS", given.keep_snapshots) or SNAPSHOTS,
        whole_number("MAANG_KEEP_DAYS", given.keep_days),
    )
