"""Sources, behind one interface (`base.Source`), chosen by name; a loader imports its driver, so nothing here does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from maang_cli.settings import Settings
    from maang_cli.sources.base import Source


def _polygon(settings: Settings) -> Source:
    from maang_cli.sources import polygon

    return polygon.open_source(settings)


def _sample(_settings: Settings) -> Source:
    from maang_cli.sources import sample

    return sample.SampleSource()


SOURCES: dict[str, Callable[[Settings], Source]] = {"polygon": _polygon, "sample": _sample}
