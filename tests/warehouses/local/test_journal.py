"""The journal: the next writer removes a killed writer's leftovers, and no other file."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

from maang_cli.pipeline import publish_query
from maang_cli.tables import PRODUCTION
from maang_cli.warehouses.local import retention
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

        def kill(*metadata: str) -> None:
            if not metadata_is_written:
                killed._store._journal.will_write(*metadata)
            raise Killed

        patched.setattr(killed._store.catalog, "_point" if metadata_is_written else "_before_metadata", kill)
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
                assert list(files)
                raise Killed

            patched.setattr(retention, "delete", kill)
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


@pytest.mark.parametrize("text", ["", "{", "null", "{}", '{"schema": "maang_sample"}'])
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
