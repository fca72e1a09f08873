"""PyIceberg's own configuration neither decides anything nor breaks a run: hostile files and variables change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyiceberg.utils.config import Config

from maang_cli.warehouses.local import pyiceberg_config
from tests.conftest import Maang

FILES = {
    "not YAML": b"catalog: [broken\n  - : : {",
    "not text": b"\xff\xfe\x00",
    "another shape": b"- a\n- b\n",
    "wrong numbers": b"max-workers: nonsense\nmanifest-cache-size: -5\n",
    "another catalog": b"default-catalog: evil\ncatalog:\n  maang:\n    uri: sqlite:////nowhere/x.db\n    warehouse: s3://theirs\n",
}
VARIABLES = {
    "wrong numbers": {"PYICEBERG_MAX_WORKERS": "nonsense", "PYICEBERG_MANIFEST_CACHE_SIZE": "-5"},
    "wrong switches": {
        "PYICEBERG_LEGACY_CURRENT_SNAPSHOT_ID": "maybe",
        "PYICEBERG_DOWNCAST_NS_TIMESTAMP_TO_US_ON_WRITE": "perhaps",
    },
    "another catalog": {
        "PYICEBERG_CATALOG__MAANG__URI": "sqlite:////nowhere/x.db",
        "PYICEBERG_CATALOG__MAANG__WAREHOUSE": "s3://theirs",
        "PYICEBERG_CATALOG__MAANG__PY_IO_IMPL": "theirs.IO",
    },
    "contradictions": {"PYICEBERG_CATALOG": "x", "PYICEBERG_CATALOG__MAANG__URI": "y"},
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("place", ["current folder", "home", "PYICEBERG_HOME"])
def test_file_of_pyiceberg_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, content: bytes) -> None:
    if place != "current folder":
        monkeypatch.setenv("HOME" if place == "home" else place, str(tmp_path))
    folder = Path.cwd() if place == "current folder" else tmp_path
    (folder / ".pyiceberg.yaml").write_bytes(content)
    pyiceberg_config.ignore()
    assert Config().config == {}


@pytest.mark.parametrize("variables", VARIABLES.values(), ids=VARIABLES)
def test_variables_of_pyiceberg_are_not_read(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pyiceberg_config.ignore()
    assert Config().config == {}


def test_run_with_a_hostile_configuration_is_as_without(
    maang_process: Maang, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """In a process of its own, because PyIceberg reads some options when it is imported."""
    Path(".pyiceberg.yaml").write_bytes(FILES["not YAML"])
    for name, value in (pair for variables in VARIABLES.values() for pair in variables.items()):
        monkeypatch.setenv(name, value)
    for new, unchanged in ((5, 0), (0, 5)):
        outcome = maang_process("run-day", "--date", "2025-10-14", "--source", "sample", "-q", "--json")
        assert (outcome.code, outcome.err) == (0, "")
        assert (outcome.result["promote"]["inserted"], outcome.result["promote"]["unchanged"]) == (new, unchanged)
    assert (home / "warehouse" / "catalog.db").is_file()


def test_hostile_file_breaks_pyiceberg_itself() -> None:
    """Otherwise the tests above prove nothing."""
    Path(".pyiceberg.yaml").write_bytes(FILES["not YAML"])
    argv = [sys.executable, "-c", "import pyiceberg.catalog"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | {"HOME": str(Path.cwd())})
    assert "strictyaml" in done.stderr
