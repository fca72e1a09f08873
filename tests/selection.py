"""Which tests are slow, which run in the same process, and which may be skipped.

The hooks are pytest's; tests/conftest.py imports them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SLOW_FIXTURES = {"maang", "maang_process", "spark", "template"}
"""Whole commands, Spark and Airflow."""
STEPS_FILES = {"test_diff.py", "test_pipeline.py", "test_split_table.py"}
"""Their tests run on both warehouses; on Spark only those marked `on_spark`, unless MAANG_TEST_SPARK=all."""
SLOW_FILES = STEPS_FILES | {
    "test_backfill.py",
    "test_benchmarks.py",
    "test_cached_answers.py",
    "test_connection.py",
    "test_contract.py",
    "test_http.py",
    "test_kill.py",
    "test_market.py",
    "test_power_cut.py",
    "test_progress.py",
    "test_report.py",
    "test_report_page.py",
    "test_retention.py",
    "test_selection.py",
    "test_transcripts.py",
    "test_warehouse.py",
}
SLOW_FOLDERS = {"cli", "dags"}
LONGEST = (
    "spark",
    "dags",
    "tests/test_kill.py",
    "tests/warehouses/local/test_retention.py",
    "tests/warehouses/local/test_errors.py",
    "tests/test_pipeline.py",
    "tests/warehouses/databricks/test_connection.py",
    "tests/warehouses/test_contract.py",
    "tests/cli/test_process.py",
    "tests/warehouses/local/test_warehouse.py",
    "tests/warehouses/local/test_power_cut.py",
    "tests/test_backfill.py",
    "tests/test_docs.py",
    "tests/test_market.py",
)
"""The groups of tests that take longest, the longest first: one that begins last is what the others then wait for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "fail if a test is skipped that FILE does not list, as a line: the start of its id, and the start of the reason"
    parser.addoption("--allowed-skips", type=Path, metavar="FILE", help=help)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "slow: runs many days or whole commands, Spark, Airflow or processes; scripts/check leaves it out"
    )
    config.addinivalue_line("markers", "on_spark: runs on Spark too without MAANG_TEST_SPARK=all; see tests/selection.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow tests. Put each test into a group, and the longest groups first.

    With `--dist loadgroup`, one process runs all tests of a group.
    """
    if os.environ.get("MAANG_TEST_SPARK") != "all":
        repeated = [item for item in items if is_repeated_on_spark(item)]
        config.hook.pytest_deselected(items=repeated)
        items[:] = [item for item in items if item not in set(repeated)]
    groups = {item: group(item) for item in items}
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(name=groups[item]))
        by_path = item.path.name in SLOW_FILES or item.path.parent.name in SLOW_FOLDERS
        if by_path or not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def is_repeated_on_spark(item: pytest.Item) -> bool:
    """Whether Spark would mostly repeat what other tests show: the steps are the same code on every warehouse, the contract suite
    compares the warehouses' verbs, and a test of the steps takes 10 s on Spark.
    """
    return item.path.name in STEPS_FILES and group(item) == "spark" and item.get_closest_marker("on_spark") is None


def group(item: pytest.Item) -> str:
    """One group starts Spark and another starts Airflow. Otherwise a file is a group, so that its tests share its fixtures."""
    callspec = getattr(item, "callspec", None)
    if "spark" in getattr(item, "fixturenames", ()) or (callspec and "databricks" in callspec.params.values()):
        return "spark"
    folder = item.path.parent.name
    return folder if folder == "dags" else str(item.path.relative_to(item.config.rootpath))


def allowed(line: str, test: str, reason: str) -> bool:
    """Whether this line of the list allows that skip. Empty lines and comments allow nothing."""
    test_start, _, reason_start = line.partition(" ")
    return bool(reason_start) and test.startswith(test_start) and reason.startswith(reason_start.strip())


def forbidden_skips(config: pytest.Config) -> list[str]:
    """The skipped tests that the list does not allow, each with its reason."""
    path: Path | None = config.getoption("--allowed-skips")
    if path is None:
        return []
    lines = path.read_text("utf-8").splitlines()
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found = []
    for report in reporter.stats.get("skipped", []) if reporter else []:
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(allowed(line, report.nodeid, reason) for line in lines):
            found.append(f"{report.nodeid} {reason}")
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    if forbidden_skips(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if found := forbidden_skips(config):
        terminalreporter.section("skipped, and not allowed", red=True)
        for each in found:
            terminalreporter.write_line(each)
