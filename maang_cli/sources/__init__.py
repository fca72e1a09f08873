"""Sources, behind one interface (`base.Source`). The driver of each is imported when it is opened, not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # these take a while to load, and `maang --help` needs neither
    from maang_cli.settings import Settings
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


def _polygon(settings: Settings) -> Source:
    from maang_cli.sources.polygon.source import open_source

    return open_source(settings)


def _sample(_settings: Settings) -> Source:
    from maang_cli.sources.sample import SampleSource

    return SampleSource()


SOURCES = {
    "polygon": SourceKind(_polygon, default_schema="maang"),
    "sample": SourceKind(_sample, default_schema="maang_sample", made_up=True),
}
"""By name; the first is the default."""
