"""Settings as the command line loads them, and the file that they may come from."""

from __future__ import annotations

import os
from pathlib import Path

from maang_cli.settings import Settings
from maang_cli.settings import load as load_settings
from maang_cli.sources import SOURCES
from maang_cli.warehouses import WAREHOUSES


def load(**flags: str) -> Settings:
    """The settings of a run with these flags."""
    return load_settings(SOURCES, WAREHOUSES, **flags)


def configure(text: str) -> Path:
    """Writes the user's configuration file, which only the user may read, and returns its path."""
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "maang" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.write_text(text, "utf-8", newline="")
    return path
