"""PyIceberg's private parts: only one module uses them, and what it makes of them behaves as the public parts do."""

from __future__ import annotations

import ast
import re
import threading
from functools import cache
from pathlib import Path

import pyiceberg
import pytest
from pyiceberg.utils.concurrent import ExecutorFactory

import maang_cli
from maang_cli.warehouses.local import pyiceberg_private
from maang_cli.warehouses.local.catalog import LocalCatalog
from maang_cli.warehouses.local.pyiceberg_private import parquet_options, table_of, wait_for_threads
from tests.warehouses.conftest import MONDAY, bar, open_catalog
from tests.warehouses.local.conftest import TABLE, foreign

# only one module uses private parts

PACKAGE = Path(maang_cli.__file__).parent
ALLOWED = Path(pyiceberg_private.__file__)
_DEFINITION = re.compile(r"\b(?:def|class)\s+(_[A-Za-z]\w*)|\b(_[A-Za-z]\w*)\s*(?::[^=\n]+)?=(?!=)")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def defined_by_pyiceberg() -> frozenset[str]:
    """Every private name that PyIceberg's own code defines or assigns."""
    texts = (path.read_text("utf-8") for path in Path(pyiceberg.__file__).parent.rglob("*.py"))
    return frozenset(name for text in texts for names in _DEFINITION.findall(text) for name in names if name)


class PrivateUses(ast.NodeVisitor):
    """Collects the private names of PyIceberg that a module uses."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._from_pyiceberg: set[str] = set()
        """Names that the module imported from PyIceberg, or from our module of its private parts."""
        self._inherits = [False]
        """Whether the classes around a node, outermost first, derive from such a name."""

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._imported(alias.name, "")
            self._from_pyiceberg.add(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._imported(node.module or "", alias.name)
            if re.match(r"pyiceberg\b|.*\bpyiceberg_private$", node.module or ""):
                self._from_pyiceberg.add(alias.asname or alias.name)

    def _imported(self, module: str, name: str) -> None:
        parts = [*module.split("."), name]
        if parts[0] == "pyiceberg":
            self.found += filter(is_private, parts)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        roots = {base.id for each in node.bases for base in ast.walk(each) if isinstance(base, ast.Name)}
        self._inherits.append(bool(roots & self._from_pyiceberg))
        if self._inherits[-1]:
            names = [each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            self._used(*names)
        self.generic_visit(node)
        self._inherits.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if not is_own or self._inherits[-1]:
            self._used(node.attr)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
            self._used(*(arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)))
        self.generic_visit(node)

    def _used(self, *names: str) -> None:
        self.found += [name for name in names if is_private(name) and name in defined_by_pyiceberg()]


def private_uses(text: str) -> list[str]:
    visitor = PrivateUses()
    visitor.visit(ast.parse(text))
    return visitor.found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(PACKAGE))) for path in MODULES if path != ALLOWED])
def test_module_uses_no_private_name_of_pyiceberg(path: Path) -> None:
    assert private_uses(path.read_text("utf-8")) == []


def test_private_names_in_use_are_known() -> None:
    """If a new version of PyIceberg renames one of these, the module must follow."""
    assert set(private_uses(ALLOWED.read_text("utf-8"))) == {
        "_get_parquet_writer_kwargs",
        "_instance",
        "_table",
        "_updates",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from pyiceberg.io.pyarrow import _to_requested_schema as convert", ["_to_requested_schema"]),
        ("from pyiceberg._private import thing", ["_private"]),
        ("import pyiceberg._private", ["_private"]),
        ("def f(table): return table.transaction()._updates", ["_updates"]),
        ("from pyiceberg.io import pyarrow\ncompute = pyarrow._to_requested_schema", ["_to_requested_schema"]),
        ("def f(table): return getattr(table, '_updates')", ["_updates"]),
        ("from pyiceberg.table import Transaction\nclass Own(Transaction):\n  def f(self): return self._updates", ["_updates"]),
        ("import pyiceberg.table\nclass Own(pyiceberg.table.Table):\n  def _do_commit(self): ...", ["_do_commit"]),
        ("from pyiceberg.table import Table\nclass Own(Table):\n  def f(self): super()._do_commit()", ["_do_commit"]),
        ("from pyiceberg.table import Table\nclass Own:\n  def f(self): return self._updates", []),
        ("from pyiceberg.table import Table\nclass Own(Table):\n  def _ours(self): return self._our_own", []),
        ("from urllib.parse import _coerce_args", []),
        ("import os\nos._exit(1)", []),
        ("def f(parts): return parts._replace(scheme='')", []),
        ("def f(table): return table.__class__", []),
    ],
)
def test_private_uses_are_found(text: str, found: list[str]) -> None:
    assert private_uses(text) == found


# what it makes of them


def test_transaction_has_the_metadata_of_its_own_updates(catalog: LocalCatalog, home: Path) -> None:
    """The cached state equals that of PyIceberg's own transaction after each update."""
    with open_catalog(home) as other:
        transactions = [each.load_table(TABLE).transaction() for each in (catalog, other)]
        for _ in range(2):
            ours, theirs = (transaction.table_metadata for transaction in transactions)
            assert ours.properties == theirs.properties
            assert ours.snapshots == theirs.snapshots == []
            for number in ("1", "2"):
                for transaction in transactions:
                    transaction.set_properties(number=number)
                    assert transaction.table_metadata.properties["number"] == number
    ours = transactions[0].table_metadata
    assert transactions[0].table_metadata is ours
    transactions[0].append(foreign(bar("META", MONDAY)))
    assert len(transactions[0].table_metadata.snapshots) == 1
    assert ours.snapshots == []


def test_table_of_a_transaction_is_the_one_that_made_it(catalog: LocalCatalog) -> None:
    table = catalog.load_table(TABLE)
    assert table_of(table.transaction()) is table


def test_parquet_options_follow_the_tables_properties(catalog: LocalCatalog) -> None:
    with catalog.load_table(TABLE).transaction() as transaction:
        transaction.set_properties({"write.parquet.compression-codec": "gzip"})
    assert parquet_options(catalog.load_table(TABLE).metadata)["compression"] == "gzip"


def test_wait_for_threads_ends_them_and_allows_new_ones() -> None:
    may_end, has_ended = threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait()
        has_ended.set()

    first = ExecutorFactory.get_or_create()
    first.submit(work)
    threading.Timer(0.1, may_end.set).start()
    wait_for_threads()
    assert has_ended.is_set()
    second = ExecutorFactory.get_or_create()
    assert second is not first
    assert second.submit(int, "7").result() == 7
