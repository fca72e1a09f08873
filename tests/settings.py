"""Settings as the command line loads them."""

from __future__ import annotations

from maang_cli.settings import Settings
from maang_cli.settings import load as load_settings
from maang_cli.sources import SOURCES
from maang_cli.warehouses import WAREHOUSES


def load(**flags: str) -> Settings:
    """The settings of a run with these flags."""
    return load_settings(SOURCES, WAREHOUSES, **flags)
