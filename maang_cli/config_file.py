"""The configuration file: TOML with the names of the environment's variables, in the user's own folder.

maang reads no file of the current folder by itself, because a folder that was cloned or unpacked may hold anybody's settings.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from maang_cli.errors import SettingsError

VARIABLE = "MAANG_CONFIG"
"""The environment's variable that names another file."""


@dataclass(frozen=True)
class ConfigFile:
    path: Path | None
    """Absolute: where the file is, or would be. None: this user has no home folder."""
    exists: bool = False
    open_to_others: bool = False
    """Whether other users of this machine may read or change it."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What it sets, by the variables' names. An empty text counts as not set."""


def load() -> ConfigFile:
    """The user's configuration file. It need not exist, unless MAANG_CONFIG names it.

    Raises:
        SettingsError: it can't be read, or it is not TOML. The message shows nothing of its content.
    """
    named = os.environ.get(VARIABLE, "")
    path = _path(named)
    if path is None:
        return ConfigFile(None)
    hint = f"set {VARIABLE} to a TOML file, or unset it" if named else "fix it, or move it away"
    try:
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # a service's home may be /dev/null, or somebody else's
            if named:
                raise
            return ConfigFile(path)
        if not stat.S_ISREG(found.st_mode):  # a pipe could be read only once, and its settings are read several times
            raise SettingsError(f"the configuration file {str(path)!r} is not a regular file", hint=hint)
        content = path.read_bytes()
    except FileNotFoundError as exc:
        raise SettingsError(f"{VARIABLE} names a file that does not exist: {str(path)!r}", hint=hint) from exc
    except OSError as exc:
        raise SettingsError(f"the configuration file {str(path)!r} can't be read: {exc.strerror}", hint=hint) from exc
    given = {name: _beside(path, value) for name, value in _parsed(path, content).items() if value != ""}
    return ConfigFile(path, exists=True, open_to_others=bool(found.st_mode & 0o077), values=given)


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most runs have no file

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        reason = str(exc) if isinstance(exc, tomllib.TOMLDecodeError) else "it can't be decoded"
        raise SettingsError(
            f"the configuration file {str(path)!r} is not TOML: {reason}",
            hint='fix it: one setting a line, such as MAANG_TICKERS = ["META", "AAPL"]',
        ) from exc


def _path(named: str) -> Path | None:
    try:
        path = Path(named).expanduser().absolute() if named else platformdirs.user_config_path("maang") / "config.toml"
    except RuntimeError as exc:
        if not named:
            return None
        raise SettingsError(
            f"{VARIABLE} is {named!r}, and that user has no home folder", hint=f"set {VARIABLE} to a file"
        ) from exc
    return path if path.is_absolute() else None  # older versions of platformdirs don't expand `~` if there is no home folder


def _beside(path: Path, value: Any) -> Any:
    """`@FILE` is relative to the configuration file, so that it means the same in every folder."""
    if isinstance(value, str) and value.startswith("@"):
        try:
            return f"@{path.parent / Path(value[1:]).expanduser()}"
        except RuntimeError:
            return value  # an unknown user, which is reported when the list is read
    return value
