"""The local warehouse. On import: two modules that PyIceberg imports and a day of bars never uses are loaded at their first use.

PyIceberg's parser of filter texts builds its grammar with pyparsing, and strictyaml reads PyIceberg's configuration file. Both
together are a sixth of all imports. See https://docs.python.org/3/library/importlib.html#implementing-lazy-imports.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_AT_FIRST_USE = {"pyiceberg.expressions.parser", "strictyaml"}


class _LazyFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _AT_FIRST_USE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


sys.meta_path.insert(0, _LazyFinder)
