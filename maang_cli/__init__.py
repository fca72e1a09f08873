"""maang: daily stock bars in your own lakehouse, audited before they are published."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maang_cli.reading import read

__all__ = ["read"]
__version__: str


def __getattr__(name: str) -> object:
    """`read` and `__version__` are imported when they are first used, because that takes longer than all of `cli.process`."""
    from importlib import import_module, metadata  # noqa: PLC0415

    if name == "read":
        return import_module("maang_cli.reading").read
    if name == "__version__":
        return metadata.version("maang-cli")
    raise AttributeError(name)
