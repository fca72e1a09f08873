"""The journal: the next writer removes a killed writer's leftovers, and no other file."""

from __future__ import annotations

import json
import logging
import sqlite3
import uuid
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from maang_cli.gate import publish_query
from maang_cli.tables import CUMULATIVE, PRODUCTION, staging
from maang_cli.warehouses.local import disk
from maang_cli.warehouses.local.warehouse import LocalWarehouse
from tests.conftest import Maang
from tests.warehouses.conftest import (
    MONDAY,
    STAGING,
    TUESDAY,
    bar,
    content,
    open_catalog,
    publish,
    staged,
    unreachable,
    without_stamp,
)
from tests.warehouses.local.conftest import PRODUCTION_NAME, RUN_DAY, closes, open_local


class Killed(BaseException):
    """Ends a write as kill -9 does: nothing is cleaned up."""


def journal_of(home: Path) -> Path:
    return home / "warehouse/journal.json"


def kill_during_commit(home: Path, monkeypatch: pytest.MonkeyPatch, *, metadata_is_written: bool = True) -> None:
    """Kill a run that publishes a row, just before or after it writes the new metadata file. Nothing is committed."""
    with open_local(home) as killed, monkeypatch.context() as patched:
        killed.stage(STAGING, staged([bar("NEW", TUESDAY)]))

        def kill(*_: object) -> None:
            raise Killed

        patched.setattr(killed._store.catalog, "_point" if metadata_is_written else "commit_table", kill)
        patched.setattr(killed._store._journal, "clean_up", lambda *_: None)
        with pytest.raises(Killed):
            killed.replace(PRODUCTION, publish_query(STAGING, ["NEW"], [TUESDAY]), [TUESDAY])


def test_journal_exists_only_during_a_write(local: LocalWarehouse, home: Path) -> None:
    assert not journal_of(home).exists()
    with local._store.writing(STAGING.name):
        assert journal_of(home).exists()
    assert not journal_of(home).exists()
    with pytest.raises(ZeroDivisionError), local._store.writing(STAGING.name):
        raise ZeroDivisionError
    assert not journal_of(home).exists()


@pytest.mark.parametrize("metadata_is_written", [True, False])
def test_next_writer_removes_uncommitted_files(
    local: LocalWarehouse, home: Path, monkeypatch: pytest.MonkeyPatch, *, metadata_is_written: bool
) -> None:
    publish(local, bar("META", MONDAY))
    before = content(local)
    kill_during_commit(home, monkeypatch, metadata_is_written=metadata_is_written)
    leftovers = sorted(Path(name).suffix for name in unreachable(home))
    assert leftovers == [".avro", ".avro", ".json", *([".json"] if metadata_is_written else []), ".parquet"]
    local.stage(STAGING, staged([]))
    assert unreachable(home) == []
    assert content(local) == before


def test_next_writer_deletes_expired_files_after_a_commit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is killed between its commit and the deletion of the expired snapshots' files."""
    with open_local(home, snapshots=1) as warehouse:
        warehouse.create(PRODUCTION)
        publish(warehouse, *closes("10.70"))
        warehouse.stage(STAGING, staged(closes("10.80")))
        with open_local(home, snapshots=1) as killed, monkeypatch.context() as patched:

            def kill(files: Iterable[str]) -> None:
                if list(files):
                    raise Killed

            patched.setattr(disk, "delete", kill)
            patched.setattr(killed._store._journal, "clean_up", lambda *_: None)
            with pytest.raises(Killed):
                killed.replace(PRODUCTION, publish_query(STAGING, ["META"], [TUESDAY]), [TUESDAY])
        assert {".avro", ".parquet"} < {Path(name).suffix for name in unreachable(home)}
        assert not warehouse.create_schema()
        assert unreachable(home) == []
        assert without_stamp(content(warehouse)) == closes("10.80")


def test_other_writers_files_stay(local: LocalWarehouse, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another engine may still commit them."""
    publish(local, bar("META", MONDAY))
    folder, other = home / "warehouse/maang/daily_stock_prices", uuid.UUID(int=1)
    paths = [folder / f"data/00000-0-{other}.parquet", folder / f"metadata/99999-{other}.metadata.json"]
    for path in paths:
        path.write_bytes(b"x")
    kill_during_commit(home, monkeypatch)
    local.stage(STAGING, staged([]))
    assert unreachable(home) == sorted(str(path.relative_to(home / "warehouse")) for path in paths)


def test_interrupted_drop_is_finished_by_a_run_that_writes_nothing(home: Path) -> None:
    journal = journal_of(home)
    with open_local(home) as killed, open_local(home) as other:
        killed.stage(STAGING, staged([]))
        with killed._store.writing(STAGING.name):
            killed._store.catalog.drop_table(("maang", STAGING.name))
            text = journal.read_text()
            assert not other.create_schema()
            assert journal.read_text() == text  # because the writer is still running
        journal.write_text(text)
        assert {f"maang/{STAGING.name}", "journal.json"} < set(unreachable(home))
        assert not other.create_schema()
    assert unreachable(home) == []


@pytest.mark.parametrize("text", ["", "{", "null", "{}", "\0\0", '{"schema": "maang_sample"}'])
def test_invalid_journal_is_removed(maang: Maang, home: Path, text: str) -> None:
    assert maang(*RUN_DAY).code == 0
    journal_of(home).write_text(text)
    assert maang(*RUN_DAY).code == 0
    assert unreachable(home) == []


def test_journal_of_a_damaged_table_is_removed_with_a_warning(
    local: LocalWarehouse, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(local, bar("META", MONDAY))
    kill_during_commit(home, monkeypatch)
    with open_catalog(home) as catalog:
        Path(catalog.load_table(PRODUCTION_NAME).metadata_location.removeprefix("file://")).write_text("{}")
    with open_local(home) as next_run, caplog.at_level(logging.WARNING, "maang"):
        assert not next_run.create_schema()
    assert "can't clean up after a killed write: maang.daily_stock_prices is damaged" in caplog.text
    assert not journal_of(home).exists()


ID = "00000000-0000-0000-0000-000000000001"


def planted(schema: object, table: object, writer: str = ID, expired: object = ()) -> str:
    return json.dumps({"schema": schema, "table": table, "writer": writer, "expired": expired})


@pytest.mark.parametrize(
    ("schema", "table"),
    [
        ("{outside}", "precious"),
        ("../..", "outside/precious"),
        ("..", "precious"),
        ("maang", "../../outside/precious"),
        ("maang", ""),
        ("", "maang"),
        (".", "maang"),
        ("maang", "."),
        ("maang", ".."),
        ("linked", "precious"),
        ("maang", "linked"),
        (1, None),
    ],
)
def test_planted_journal_deletes_nothing_outside_of_a_dropped_table(
    local: LocalWarehouse, home: Path, schema: object, table: object
) -> None:
    publish(local, bar("META", MONDAY))
    outside = home.parent / "outside"
    precious = outside / f"precious/{ID}.parquet"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"x")
    (home / "warehouse/linked").symlink_to(outside)
    (home / "warehouse/maang/linked").symlink_to(precious.parent)
    before = content(local)
    journal_of(home).write_text(planted(str(schema).format(outside=outside) if isinstance(schema, str) else schema, table))
    local.stage(STAGING, staged([]))
    assert precious.exists()
    assert content(local) == before
    assert not journal_of(home).exists()


def test_planted_journal_deletes_no_file_that_a_table_needs(local: LocalWarehouse, home: Path) -> None:
    """It names the writer of the newest snapshot, and files of this table and others."""
    publish(local, bar("META", MONDAY))
    publish(local, bar("META", TUESDAY))
    local.create(CUMULATIVE)
    before = content(local)
    elsewhere = home.parent / "x.parquet"
    elsewhere.write_bytes(b"x")
    files = [str(path) for path in (home / "warehouse").rglob("*") if path.is_file()]
    with open_catalog(home) as catalog:
        snapshot = catalog.load_table(PRODUCTION_NAME).current_snapshot()
    assert snapshot is not None
    writer = snapshot.manifest_list.removesuffix(".avro")[-36:]
    for doomed in (files, [str(elsewhere)]):
        for text in (planted("maang", PRODUCTION.name, writer, doomed), planted("maang", PRODUCTION.name, "*", doomed)):
            journal_of(home).write_text(text)
            local.stage(STAGING, staged([]))
            assert content(local) == before
            assert local._store.load(CUMULATIVE.name) is not None
            assert elsewhere.exists()
    assert unreachable(home) == []


def test_journal_of_a_dropped_table_keeps_the_folder_of_another_catalogs_table(local: LocalWarehouse, home: Path) -> None:
    publish(local, bar("META", MONDAY))
    with closing(sqlite3.connect(home / "warehouse/catalog.db")) as opened, opened:
        opened.execute("UPDATE iceberg_tables SET catalog_name = 'theirs' WHERE table_name = ?", (PRODUCTION.name,))
    journal_of(home).write_text(planted("maang", PRODUCTION.name))
    local.stage(STAGING, staged([]))
    assert len(list((home / "warehouse/maang" / PRODUCTION.name).rglob("*.parquet"))) == 1


def test_folder_of_a_dropped_staging_table_is_removed_later(
    local: LocalWarehouse, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its removal failed, or another program has put files there since."""
    table = staging(["META"], [TUESDAY])
    own = home / "warehouse/maang/daily_stock_prices_staging_backup"
    own.mkdir(parents=True)
    for finish in (local.create_schema, local.maintain):
        local.stage(table, staged([]))
        with monkeypatch.context() as patched:
            patched.setattr(disk, "delete_folder", lambda _: None)
            assert local.drop(table)
        assert (home / "warehouse/maang" / table.name).is_dir()
        finish()
        assert not (home / "warehouse/maang" / table.name).exists()
    assert own.is_dir()


@pytest.mark.parametrize("name", ["delete", "delete_folder"])
def test_failed_removal_is_not_a_failure(local: LocalWarehouse, home: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    folder = home / "folder"
    folder.mkdir()
    path = folder / "x"
    path.mkdir()
    with caplog.at_level(logging.WARNING, "maang"):
        if name == "delete":
            disk.delete([path])
        else:
            disk.delete_folder(folder / "missing")
    assert ("can't be removed" in caplog.text) is (name == "delete")
