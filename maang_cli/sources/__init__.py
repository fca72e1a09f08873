"""Sources, behind one interface (`base.Source`). The driver of each is imported when it is opened, not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # these take a while to load, and `maang --help` needs neither
    from maang_cli.settings import Environment, Settings
    from maang_cli.sources.base import Source


@dataclass(frozen=True)
class SourceKind:
    """A source that `--source` can name."""

    open: Callable[[Settings], Source]
    """Imports its driver; raises SettingsError if the source's own settings are wrong."""
    default_schema: str
    """Each source has a schema of its own, so that made-up and real bars never mix."""
    made_up: bool = False
    """Whether its bars are invented."""
    declares: Callable[[], type[Environment]] | None = None
    """Imports the source's own settings, but no driver; None: it has none."""


def _polygon(settings: Settings) -> Source:
    from maang_cli.sources.polygon.source import open_source

    return open_source(settings)


def _polygon_declares() -> type[Environment]:
    from maang_cli.sources.polygon.settings import Given

    return Given


def _sample(_settings: Settings) -> Source:
    from maang_cli.sources.sample import SampleSource

    return SampleSource()


SOURCES = {
    "polygon": SourceKind(_polygon, default_schema="maang", declares=_polygon_declares),
    "sample": SourceKind(_sample, default_schema="maang_sample", made_up=True),
}
"""By name; the first is the default."""


def open_source(settings: Settings) -> Source:
    """The source that the settings name, by the names of their universe.

    Raises:
        SettingsError: the source's own settings are wrong.
    """
    source = SOURCES[settings.source].open(settings)
    if not settings.symbols.listings:
        return source
    from maang_cli.sources.named import NamedSource

    return NamedSource(source, settings.symbols)
