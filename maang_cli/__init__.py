"""maang: daily stock bars in your own lakehouse, audited before they are published."""

from importlib.metadata import version

__version__ = version("maang-cli")
