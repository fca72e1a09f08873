"""Exit codes: one for each error, and the same decision about retries here and in the Airflow DAG."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from maang_cli import errors
from maang_cli.errors import ExitCode, MaangError

DAG = Path(__file__).parents[1] / "dags" / "stock_dag.py"
SHELL_CODES = {126, 127}
"""The shell's own: the command can't be executed, or does not exist."""
SKIPPED = {ExitCode.DONE, ExitCode.NO_SESSION}
"""Airflow treats these as success and as skipped, so the question of a retry does not come up."""
WORTH_A_RETRY = {
    ExitCode.DONE: False,
    ExitCode.BUG: True,
    ExitCode.UNUSABLE: False,
    ExitCode.REFUSED: False,
    ExitCode.MAY_HEAL: True,
    ExitCode.PARTIAL: False,
    ExitCode.NO_SESSION: False,
    ExitCode.INTERRUPTED: True,
    ExitCode.TERMINATED: True,
}
TREE_LINE = re.compile(r"^ {4}(?P<indent>[│ ]*)[├└]── (?P<name>\w+) *(?P<code>\d+)?", re.MULTILINE)


def constant(name: str) -> Any:
    """A literal of the DAG file. Airflow is not needed to read it."""
    for node in ast.parse(DAG.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == [name]:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{DAG.name} has no {name}")


def subclasses(kind: type[MaangError]) -> set[type[MaangError]]:
    """All errors below `kind` that are defined in the module `errors`."""
    below = {found for each in kind.__subclasses__() for found in {each, *subclasses(each)}}
    return {each for each in below if each.__module__ == errors.__name__}


@pytest.mark.parametrize("code", ExitCode)
def test_each_code_says_whether_a_retry_is_worth_it(code: ExitCode) -> None:
    assert code.worth_a_retry is WORTH_A_RETRY[code]


def test_codes_have_the_values_that_scripts_rely_on() -> None:
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 99, 130, 143]


def test_dag_fails_immediately_on_exactly_the_codes_that_no_retry_can_help() -> None:
    hopeless = {int(code) for code in ExitCode if not code.worth_a_retry} - {int(code) for code in SKIPPED}
    assert set(constant("FATAL")) == hopeless | SHELL_CODES


def test_dag_describes_only_codes_worth_a_retry_as_healing() -> None:
    healing = constant("HEALING")
    assert healing
    assert all(ExitCode(code).worth_a_retry for code in healing)


def test_dag_knows_the_code_of_a_refusal() -> None:
    assert constant("REFUSED") == ExitCode.REFUSED


def test_documented_tree_lists_every_error_below_its_parent_with_its_code() -> None:
    parents: dict[int, type[MaangError]] = {-1: MaangError}
    listed = []
    for line in TREE_LINE.finditer(errors.__doc__ or ""):
        depth = len(line["indent"]) // 4
        error: type[MaangError] = getattr(errors, line["name"])
        parents[depth] = error
        listed.append(error)
        assert error.__base__ is parents[depth - 1]
        code = line["code"] or parents[depth - 1].exit_code
        assert int(code) == error.exit_code
    assert len(listed) == len(set(listed))
    assert set(listed) == subclasses(MaangError)


def test_error_carries_its_message_and_hint() -> None:
    error = errors.SourceFailed("no answer", hint="run the same command again")
    assert (str(error), error.message, error.hint) == ("no answer", "no answer", "run the same command again")
    assert errors.SourceFailed("no answer").hint == ""
