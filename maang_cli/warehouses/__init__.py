"""Warehouses, behind one interface (`base.Warehouse`), chosen by name; a loader imports its driver, so nothing here does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maang_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from maang_cli.settings import Settings
    from maang_cli.warehouses.base import Warehouse


def _local(settings: Settings, purpose: str = "") -> Warehouse:  # noqa: ARG001
    from maang_cli.warehouses import local, shield

    keep = (settings.keep_snapshots, settings.keep_days)
    return shield.shielded(lambda: local.LocalWarehouse(settings.home, settings.schema_name, *keep))


def _databricks(settings: Settings, purpose: str = "") -> Warehouse:
    try:
        from maang_cli.warehouses import databricks
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"the driver for Databricks is not installed: no module {exc.name}",
            hint="install it: pip install 'maang-cli[databricks]', or uv run --extra databricks maang ..",
        ) from exc
    return databricks.open_warehouse(settings, purpose)


WAREHOUSES: dict[str, Callable[..., Warehouse]] = {"local": _local, "databricks": _databricks}
"""Each takes the settings and, as `purpose`, what it is opened for: "run-day 2025-10-14"."""
