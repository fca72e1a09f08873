"""The local warehouse's own settings: how much history it keeps for time travel."""

from pydantic import Field

from maang_cli.settings import Environment, read, whole_number
from maang_cli.warehouses.local.retention import Retention


class _Given(Environment):
    keep_snapshots: str = Field("", alias="MAANG_KEEP_SNAPSHOTS")
    keep_days: str = Field("", alias="MAANG_KEEP_DAYS")


def load() -> Retention:
    """How much history to keep, from the environment.

    Raises:
        SettingsError: one of the variables is wrong.
    """
    given = read(_Given)
    return Retention(
        whole_number("MAANG_KEEP_SNAPSHOTS", given.keep_snapshots) or 100,
        whole_number("MAANG_KEEP_DAYS", given.keep_days),
    )
