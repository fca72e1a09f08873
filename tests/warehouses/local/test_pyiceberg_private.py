"""PyIceberg's private parts: only one module uses them, and what it makes of them behaves as the public parts do."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import pyiceberg
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.utils.concurrent import ExecutorFactory

import maang_cli
from maang_cli.schemas import iceberg_schema
from maang_cli.tables import PRODUCTION
from maang_cli.warehouses.local import pyiceberg_private
from maang_cli.warehouses.local.pyiceberg_private import LocalCatalog, io_of, parquet_options, wait_for_threads
from maang_cli.warehouses.local.store import PROPERTIES
from tests.warehouses.conftest import MONDAY, TUESDAY, bar
from tests.warehouses.local.conftest import foreign

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
        "_convert_orm_to_iceberg",
        "_get_parquet_writer_kwargs",
        "_instance",
        "_table",
        "_updates",
        "_write_metadata",
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


# the catalog


@pytest.fixture
def announced() -> list[str]:
    """The metadata files that the catalog announced."""
    return []


@pytest.fixture
def catalog(tmp_path: Path, announced: list[str]) -> Iterator[LocalCatalog]:
    """A catalog with an empty table `s.t`."""
    with closing(LocalCatalog("test", announced.append, **places(tmp_path))) as catalog:
        catalog.create_namespace("s")
        catalog.create_table("s.t", iceberg_schema(PRODUCTION.columns), properties=PROPERTIES)
        yield catalog


def places(folder: Path) -> dict[str, str]:
    return {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}"}


def test_each_metadata_file_is_announced_before_it_is_written(
    catalog: LocalCatalog, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert announced == [catalog.load_table("s.t").metadata_location]

    def announce(location: str) -> None:
        assert not Path(location.removeprefix("file://")).exists()
        announced.append(location)

    monkeypatch.setattr(catalog, "_before_metadata", announce)
    catalog.load_table("s.t").append(foreign(bar("META", TUESDAY)))
    assert len(announced) == 2
    assert announced[-1] == catalog.load_table("s.t").metadata_location


def test_metadata_file_is_parsed_once(catalog: LocalCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = catalog.load_table("s.t")
    monkeypatch.setattr(SqlCatalog, "_convert_orm_to_iceberg", None)
    assert catalog.load_table("s.t").metadata is first.metadata


def test_commit_of_one_table_object_does_not_change_another(catalog: LocalCatalog) -> None:
    reader, writer = catalog.load_table("s.t"), catalog.load_table("s.t")
    writer.append(foreign(bar("META", TUESDAY)))
    assert reader.current_snapshot() is None
    assert reader.scan().to_arrow().num_rows == 0
    assert catalog.load_table("s.t").scan().to_arrow().num_rows == 1
    reader.refresh()
    assert reader.scan().to_arrow().num_rows == 1


def test_commit_of_another_catalog_is_seen_and_not_overwritten(catalog: LocalCatalog, tmp_path: Path) -> None:
    stale = catalog.load_table("s.t")
    with closing(SqlCatalog("test", **places(tmp_path))) as other:
        other.load_table("s.t").append(foreign(bar("THEIRS", TUESDAY)))
    with pytest.raises(CommitFailedException):
        stale.append(foreign(bar("OURS", TUESDAY)))
    assert catalog.load_table("s.t").scan().to_arrow()["ticker"].to_pylist() == ["THEIRS"]


def test_transaction_has_the_metadata_of_its_own_updates(catalog: LocalCatalog, tmp_path: Path) -> None:
    """The cached state equals that of PyIceberg's own transaction after each update."""
    with closing(SqlCatalog("test", **places(tmp_path))) as other:
        transactions = [each.load_table("s.t").transaction() for each in (catalog, other)]
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


def test_io_of_a_transaction_is_its_tables(catalog: LocalCatalog) -> None:
    table = catalog.load_table("s.t")
    assert io_of(table.transaction()) is table.io


def test_parquet_options_follow_the_tables_properties(catalog: LocalCatalog) -> None:
    with catalog.load_table("s.t").transaction() as transaction:
        transaction.set_properties({"write.parquet.compression-codec": "gzip"})
    assert parquet_options(catalog.load_table("s.t").metadata)["compression"] == "gzip"


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
