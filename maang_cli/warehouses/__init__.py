"""Warehouses, behind one interface (`base.Warehouse`). The driver of each is imported when it is opened, not here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maang_cli.errors import not_installed

if TYPE_CHECKING:  # these take a while to load, and `maang --help` needs neither
    from maang_cli.settings import Environment, Settings
    from maang_cli.warehouses.base import Places, Warehouse


@dataclass(frozen=True)
class WarehouseKind:
    """A warehouse that `--warehouse` can name."""

    open: Callable[[Settings, str], Warehouse]
    """Imports its driver. The second argument says what the warehouse is opened for, such as "run-day 2025-10-14"."""
    schema_name: re.Pattern[str]
    schema_hint: str
    """What a schema's name must be, for a hint."""
    declares: Callable[[], type[Environment]]
    """Imports the warehouse's own settings, but no driver."""
    places: Callable[[Settings], Places]
    """Where its tables are; opens nothing and changes nothing. Raises a MaangError if that can't be found out."""
    is_configured: Callable[[], bool] = lambda: False
    """Whether the environment is set up for it: it is then used unless another one is named."""
    configured_by: str = ""
    """The variable that sets it up, for help texts."""
    takes_made_up: bool = True


def _local(settings: Settings, _purpose: str = "") -> Warehouse:
    from maang_cli.warehouses.local import pyiceberg_config

    pyiceberg_config.ignore()
    from maang_cli.warehouses.local.warehouse import open_warehouse

    return open_warehouse(settings)


def _local_places(settings: Settings) -> Places:
    from maang_cli.warehouses.local.places import places

    return places(settings)


def _local_declares() -> type[Environment]:
    from maang_cli.warehouses.local.settings import Given

    return Given


def _databricks(settings: Settings, purpose: str = "") -> Warehouse:
    try:
        from maang_cli.warehouses.databricks.warehouse import open_warehouse
    except ModuleNotFoundError as exc:
        raise not_installed("the driver for Databricks is not installed", "databricks", exc) from exc
    return open_warehouse(settings, purpose)


def _databricks_places(settings: Settings) -> Places:
    from maang_cli.warehouses.databricks.settings import places

    return places(settings)


def _databricks_declares() -> type[Environment]:
    from maang_cli.warehouses.databricks.settings import Given

    return Given


def _databricks_is_configured() -> bool:
    from maang_cli.warehouses.databricks.settings import is_configured

    return is_configured()


WAREHOUSES = {
    "local": WarehouseKind(
        _local,
        schema_name=re.compile(r"[a-z][a-z0-9_]{0,62}"),
        schema_hint="a name of lower-case letters, digits and _, a letter first",
        declares=_local_declares,
        places=_local_places,
    ),
    "databricks": WarehouseKind(
        _databricks,
        schema_name=re.compile(r"([\w-]{1,255}\.)?[a-z][a-z0-9_]{0,62}", re.ASCII),
        schema_hint="a name such as catalog.schema: lower-case letters, digits and _, a letter first",
        declares=_databricks_declares,
        places=_databricks_places,
        is_configured=_databricks_is_configured,
        configured_by="DATABRICKS_HTTP_PATH",
        takes_made_up=False,
    ),
}
"""By name; the first is the default."""
