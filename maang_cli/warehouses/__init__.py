"""Warehouses, behind one interface (`base.Warehouse`), chosen by name; a loader imports its driver, so nothing here does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from maang_cli.settings import Settings
    from maang_cli.warehouses.base import Warehouse


def _local(settings: Settings) -> Warehouse:
    from maang_cli.warehouses import local

    return local.LocalWarehouse(settings.home, settings.schema_name, settings.keep_snapshots)


WAREHOUSES: dict[str, Callable[[Settings], Warehouse]] = {"local": _local}
