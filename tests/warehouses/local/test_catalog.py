"""The local catalog: what PyIceberg's SqlCatalog writes, it reads, and the other way round."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.serializers import FromInputFile
from pyiceberg.typedef import Identifier

from maang_cli.schemas import iceberg_schema
from maang_cli.tables import PRODUCTION
from maang_cli.warehouses.local.catalog import LocalCatalog
from maang_cli.warehouses.local.waiting import Waiting
from tests.warehouses.conftest import MONDAY, TUESDAY, bar, open_catalog
from tests.warehouses.local.conftest import TABLE, create, foreign


def tickers(catalog: LocalCatalog) -> list[str]:
    found: list[str] = catalog.load_table(TABLE).scan().to_arrow()["ticker"].to_pylist()
    return sorted(found)


def sqlite_schema(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The columns of each table of an SQLite file."""
    with closing(sqlite3.connect(path)) as opened:
        names = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: opened.execute(f"PRAGMA table_info({name})").fetchall() for name in names}


def test_pyiceberg_reads_and_writes_what_maang_created(catalog: LocalCatalog, home: Path) -> None:
    catalog.load_table(TABLE).append(foreign(bar("OURS", MONDAY)))
    with open_catalog(home) as other:
        assert other.list_namespaces() == [("maang",)]
        assert other.list_tables("maang") == [TABLE]
        table = other.load_table(TABLE)
        table.append(foreign(bar("THEIRS", TUESDAY)))
        assert table.scan().to_arrow().num_rows == 2
    assert tickers(catalog) == ["OURS", "THEIRS"]


def test_maang_reads_and_writes_what_pyiceberg_created(home: Path) -> None:
    root = home / "warehouse"
    root.mkdir(parents=True)
    with open_catalog(home) as other:
        other.create_namespace("maang")
        other.create_table(TABLE, iceberg_schema(PRODUCTION.columns)).append(foreign(bar("THEIRS", MONDAY)))
        with closing(LocalCatalog(root / "catalog.db", Waiting(10))) as catalog:
            assert catalog.has_schema("maang")
            assert not catalog.create_schema("maang")
            assert list(catalog.locations("maang")) == ["t"]
            catalog.load_table(TABLE).append(foreign(bar("OURS", TUESDAY)))
            assert tickers(catalog) == ["OURS", "THEIRS"]
        assert other.load_table(TABLE).scan().to_arrow().num_rows == 2


def test_sqlite_file_is_the_one_that_pyiceberg_creates(catalog: LocalCatalog, home: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "warehouse").mkdir(parents=True)
    with open_catalog(theirs):
        assert sqlite_schema(home / "warehouse/catalog.db") == sqlite_schema(theirs / "warehouse/catalog.db")


def test_catalog_of_an_older_pyiceberg_is_read_and_written(catalog: LocalCatalog, home: Path) -> None:
    """Before 0.11 it had no column for the type."""
    path = home / "warehouse/catalog.db"
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("ALTER TABLE iceberg_tables DROP COLUMN iceberg_type")
    with closing(LocalCatalog(path, Waiting(10))) as older:
        older.load_table(TABLE).append(foreign(bar("META", MONDAY)))
        assert tickers(older) == ["META"]
        assert older.drop_table(TABLE)
        create(older, home / "warehouse")
        assert tickers(older) == []


def test_view_of_another_engine_is_not_a_table(catalog: LocalCatalog, home: Path) -> None:
    with closing(sqlite3.connect(home / "warehouse/catalog.db")) as opened, opened:
        opened.execute("INSERT INTO iceberg_tables VALUES ('maang', 'maang', 'v', 'file:///v.json', NULL, 'VIEW')")
    assert list(catalog.locations("maang")) == ["t"]
    with pytest.raises(NoSuchTableError):
        catalog.load_table(("maang", "v"))


def test_other_catalogs_in_the_same_file_are_not_seen(catalog: LocalCatalog, home: Path) -> None:
    with closing(sqlite3.connect(home / "warehouse/catalog.db")) as opened, opened:
        opened.execute("UPDATE iceberg_tables SET catalog_name = 'theirs'")
        opened.execute("UPDATE iceberg_namespace_properties SET catalog_name = 'theirs'")
    assert not catalog.has_schema("maang")
    assert catalog.locations("maang") == {}


def test_metadata_files_carry_the_writers_id(catalog: LocalCatalog) -> None:
    catalog.writer = uuid.uuid4()
    catalog.load_table(TABLE).append(foreign(bar("META", TUESDAY)))
    assert Path(catalog.load_table(TABLE).metadata_location).name == f"00001-{catalog.writer}.metadata.json"


def test_metadata_file_is_parsed_once(catalog: LocalCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = catalog.load_table(TABLE)
    monkeypatch.setattr(FromInputFile, "table_metadata", None)
    assert catalog.load_table(TABLE).metadata is first.metadata


def test_commit_of_one_table_object_does_not_change_another(catalog: LocalCatalog) -> None:
    reader, writer = catalog.load_table(TABLE), catalog.load_table(TABLE)
    writer.append(foreign(bar("META", TUESDAY)))
    assert reader.current_snapshot() is None
    assert reader.scan().to_arrow().num_rows == 0
    assert tickers(catalog) == ["META"]
    reader.refresh()
    assert reader.scan().to_arrow().num_rows == 1


def test_commit_of_another_catalog_is_seen_and_not_overwritten(catalog: LocalCatalog, home: Path) -> None:
    stale = catalog.load_table(TABLE)
    with open_catalog(home) as other:
        other.load_table(TABLE).append(foreign(bar("THEIRS", TUESDAY)))
    with pytest.raises(CommitFailedException):
        stale.append(foreign(bar("OURS", TUESDAY)))
    assert tickers(catalog) == ["THEIRS"]


class Slow(LocalCatalog):
    """Another program commits after maang has written its metadata file, before maang points to it."""

    interfere: Callable[[], object]

    def _point(self, identifier: Identifier, old: str | None, new: str) -> None:
        self.interfere()
        super()._point(identifier, old, new)


def test_pointer_moves_only_from_where_the_commit_found_it(catalog: LocalCatalog, home: Path) -> None:
    def interfere() -> None:
        with open_catalog(home) as other:
            other.load_table(TABLE).append(foreign(bar("THEIRS", TUESDAY)))

    with closing(Slow(home / "warehouse/catalog.db", Waiting(10))) as slow:
        slow.interfere = interfere
        with pytest.raises(CommitFailedException):
            slow.load_table(TABLE).append(foreign(bar("OURS", TUESDAY)))
    assert tickers(catalog) == ["THEIRS"]


def test_table_is_created_once(catalog: LocalCatalog, home: Path) -> None:
    assert catalog.drop_table(TABLE)
    with closing(Slow(home / "warehouse/catalog.db", Waiting(10))) as slow:
        slow.interfere = lambda: create(catalog, home / "warehouse")
        with pytest.raises(TableAlreadyExistsError):
            create(slow, home / "warehouse")


def test_dropped_table_does_not_exist(catalog: LocalCatalog) -> None:
    assert catalog.drop_table(TABLE)
    assert not catalog.drop_table(TABLE)
    with pytest.raises(NoSuchTableError):
        catalog.load_table(TABLE)


def test_metadata_files_that_the_log_no_longer_lists_are_deleted(catalog: LocalCatalog, home: Path) -> None:
    for number in range(8):
        with catalog.load_table(TABLE).transaction() as transaction:
            transaction.set_properties(number=str(number))
    table = catalog.load_table(TABLE)
    listed = {entry.metadata_file for entry in table.metadata.metadata_log} | {table.metadata_location}
    assert {f"file://{path}" for path in (home / "warehouse/t/metadata").glob("*.json")} == listed
    assert len(listed) == 6
