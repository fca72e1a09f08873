"""The local warehouse's own settings: how much history it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from maang_cli.errors import SettingsError
from maang_cli.tables import CUMULATIVE, FINDINGS, PRODUCTION, SPLITS
from maang_cli.warehouses.local import settings
from maang_cli.warehouses.local.retention import Retention
from tests.conftest import Maang
from tests.settings import configure
from tests.warehouses.conftest import open_catalog


@pytest.mark.parametrize(
    ("snapshots", "days", "expected"),
    [
        ("", "", Retention(100, None)),
        ("2", "", Retention(2, None)),
        ("", "30", Retention(100, 30)),
        ("1", "1", Retention(1, 1)),
    ],
)
def test_environment_sets_the_retention(monkeypatch: pytest.MonkeyPatch, snapshots: str, days: str, expected: Retention) -> None:
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", snapshots)
    monkeypatch.setenv("MAANG_KEEP_DAYS", days)
    assert settings.load() == expected


@pytest.mark.parametrize("variable", ["MAANG_KEEP_SNAPSHOTS", "MAANG_KEEP_DAYS"])
@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1000000", "٣", " "])
def test_number_that_is_not_whole_and_positive_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert caught.value.message == f"{variable} must be a whole number from 1 to 999999, not {text!r}"
    assert variable in caught.value.hint


def test_environment_beats_the_file_and_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    configure('MAANG_KEEP_SNAPSHOTS = 5\nMAANG_KEEP_DAYS = ""\n')
    assert settings.load() == Retention(5, None)
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "7")
    monkeypatch.setenv("MAANG_KEEP_DAYS", "2")
    assert settings.load() == Retention(7, 2)
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "")
    assert settings.load() == Retention(5, 2), "an empty variable does not hide the file's"


def test_run_keeps_as_many_snapshots_as_the_settings_say(maang: Maang, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "2")
    for day in ("2025-10-13", "2025-10-14", "2025-10-15"):
        assert maang("run-day", "--date", day, "--source", "sample").code == 0
    with open_catalog(home) as catalog:
        for table in (PRODUCTION, CUMULATIVE):
            assert len(catalog.load_table(("maang_sample", table.name)).snapshots()) == 2


def test_maintain_expires_the_snapshots_beyond_the_settings(maang: Maang, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2025-10-13", "2025-10-14", "2025-10-15", "2025-10-16"):
        assert maang("run-day", "--date", day, "--source", "sample").code == 0
    monkeypatch.setenv("MAANG_KEEP_SNAPSHOTS", "1")
    done = maang("maintain", "--source", "sample", "--json")
    expected = {PRODUCTION.name: (3, True), CUMULATIVE.name: (3, True), SPLITS.name: (0, False), FINDINGS.name: (0, False)}
    removed = {line["table"]: (line["snapshots"], line["files"] > 0) for line in done.result["cleanups"]}
    assert removed == {f"maang_sample.{name}": found for name, found in expected.items()}
    with open_catalog(home) as catalog:
        for table in (PRODUCTION, CUMULATIVE):
            found = catalog.load_table(("maang_sample", table.name))
            assert (len(found.snapshots()), found.scan().to_arrow().num_rows) == (1, 20)
