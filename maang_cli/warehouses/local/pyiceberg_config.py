"""PyIceberg's own configuration decides nothing here, and can't break a run.

PyIceberg reads `.pyiceberg.yaml` in the home folder or the current one, and PYICEBERG_* variables, whenever it needs an option. A
file that is not YAML, or a number that is not one, would end the run.
"""

from pyiceberg.typedef import FrozenDict
from pyiceberg.utils.config import Config


def ignore() -> None:
    """Let PyIceberg have its defaults. Some options are read when its modules are imported, so this comes before them."""

    def empty(self: Config) -> None:
        self.config = FrozenDict()

    Config.__init__ = empty  # type: ignore[method-assign]
