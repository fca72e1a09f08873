"""`maang config`: every setting with its value and its origin, and where everything is. It changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from maang_cli import config_file, settings
from maang_cli.config_file import ConfigFile
from maang_cli.errors import MaangError
from maang_cli.settings import Origin, Settings

if TYPE_CHECKING:
    from maang_cli.sources import SourceKind
    from maang_cli.warehouses import WarehouseKind

HIDDEN = "***"


@dataclass(frozen=True)
class Setting:
    name: str
    """Its variable's name."""
    value: str | None
    """What a run uses. Asterisks: a secret. None: there is none."""
    origin: Origin


@dataclass(frozen=True)
class Configuration:
    settings: tuple[Setting, ...]
    config_file_exists: bool
    """Where it is, or would be, is the setting MAANG_CONFIG."""
    not_read: list[str]
    """Files of the current folder that a user may expect to be read."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """By what they hold."""
    catalog: str | None = None
    tables: Mapping[str, str | None] = field(default_factory=dict)
    """Each table's current metadata file; empty if the platform keeps it to itself."""
    error: MaangError | None = None
    """Why a part of this is unknown: a setting is wrong, or the catalog can't be read."""


def configuration(
    sources: Mapping[str, SourceKind], warehouses: Mapping[str, WarehouseKind], flags: Mapping[str, str]
) -> Configuration:
    """What a run with these flags would use.

    Raises:
        SettingsError: the configuration file is not usable.
    """
    file = config_file.load()
    given = list(_given(sources, warehouses, file, settings.variables(flags)))
    found = Configuration(tuple(given), file.exists, settings.not_read())
    try:
        loaded = settings.load(sources, warehouses, **flags)
    except MaangError as exc:
        return replace(found, error=exc)
    folders = {"home": loaded.home}
    found = replace(found, settings=_as_used(given, loaded), folders=folders)
    try:
        places = warehouses[loaded.warehouse].places(loaded)
    except MaangError as exc:
        return replace(found, error=exc)
    return replace(found, folders={**folders, **places.folders}, catalog=places.catalog, tables=places.metadata)


def _given(
    sources: Mapping[str, SourceKind], warehouses: Mapping[str, WarehouseKind], file: ConfigFile, flags: Mapping[str, str]
) -> Iterator[Setting]:
    named = settings.origin(config_file.VARIABLE, file, flags)
    yield Setting(config_file.VARIABLE, None if file.path is None else str(file.path), named)
    for declares in settings.declarations(sources, warehouses):
        kind = declares()
        values = settings.read(kind, **flags)
        for name, declared in kind.model_fields.items():
            value, variable = getattr(values, name) or None, str(declared.alias)
            if value is not None and settings.is_secret(kind, name):
                value = HIDDEN
            elif value is not None and kind is not settings.Given:
                value = _without_password(value)
            yield Setting(variable, value, settings.origin(variable, file, flags))


def _without_password(text: str) -> str:
    """A backend's setting, which may be an address: what else it holds than the host is a mistake, and may be a password."""
    if "@" in text:
        return HIDDEN
    address = re.match(r"\s*https?://[^/?#]*/?", text)
    return text if address is None or address.end() == len(text) else f"{address[0]}{HIDDEN}"


def _as_used(given: Sequence[Setting], loaded: Settings) -> tuple[Setting, ...]:
    """With the values that a run computes: its defaults, and the absolute folder."""
    used = {
        "MAANG_SOURCE": loaded.source,
        "MAANG_WAREHOUSE": loaded.warehouse,
        "MAANG_SCHEMA": loaded.schema_name,
        "MAANG_HOME": str(loaded.home),
    }
    return tuple(replace(setting, value=used.get(setting.name, setting.value)) for setting in given)
