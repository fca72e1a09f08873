"""The DAG as Airflow parses it, its exit codes and its alerts. `test_runs.py` runs it."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from maang_cli.errors import ExitCode
from maang_cli.notify import OFF
from tests.dags.airflow_server import Airflow
from tests.dags.conftest import COMMANDS, Inbox

DOCS = Path(__file__).parents[2] / "docs" / "airflow.md"
SHELL_CODES = {126, 127}
"""The shell exits with these if it can't run the command."""


def describe(airflow: Airflow, **variables: str) -> dict[str, Any]:
    """What `describe_dag.py` prints in this environment."""
    program = Path(__file__).with_name("describe_dag.py").read_text("utf-8")
    facts: dict[str, Any] = Airflow(airflow.home, airflow.env | variables).python(program)
    return facts


@pytest.fixture(scope="module")
def facts(template: Airflow) -> dict[str, Any]:
    """The DAG with its default settings."""
    return describe(template)


def test_every_task_is_one_maang_command(facts: dict[str, Any]) -> None:
    assert facts["errors"] == []
    assert facts["others"] == 0
    options = '"--date=$STOCK_DATE" ${STOCK_TICKERS:+"--tickers=$STOCK_TICKERS"}'
    assert facts["commands"] == {
        name: f"exec ${{MAANG_COMMAND:-maang}} {command} {options}" for name, command in COMMANDS.items()
    }


def test_tasks_have_the_specified_edges(facts: dict[str, Any]) -> None:
    tables = ["create_cumulative_table", "create_prod_table", "create_staging_table"]
    assert facts["downstream"] == {
        "create_schema": tables,
        **{table: ["load_to_staging"] for table in tables},
        "load_to_staging": ["run_dq_check"],
        "run_dq_check": ["clear_step"],
        "clear_step": ["exchange_data_from_staging"],
        "exchange_data_from_staging": ["clear_cumulative", "drop_staging_table"],
        "drop_staging_table": [],
        "clear_cumulative": ["cumulate_step"],
        "cumulate_step": [],
    }


@pytest.mark.parametrize(
    ("session", "starts"),
    [
        ("2025-03-07", "2025-03-08 06:00:00-05:00"),
        ("2025-03-08", "2025-03-09 06:00:00-04:00"),
        ("2025-11-03", "2025-11-04 06:00:00-05:00"),
    ],
)
def test_session_runs_at_six_the_next_morning_in_summer_and_winter(facts: dict[str, Any], session: str, starts: str) -> None:
    assert facts["runs"][session] == [starts, session]


def test_params_are_typed_and_passed_as_variables(facts: dict[str, Any]) -> None:
    assert facts["params"]["date"]["format"] == "date"
    assert {name: schema["type"] for name, schema in facts["params"].items()} == {
        "date": ["null", "string"],
        "tickers": ["null", "string"],
    }
    assert all(
        env.items()
        >= {"STOCK_DATE": "{{ params.date or ds | default('') }}", "STOCK_TICKERS": "{{ params.tickers or '' }}"}.items()
        for env in facts["env"].values()
    )


def test_maang_sends_no_messages_of_its_own(facts: dict[str, Any]) -> None:
    assert {env["MAANG_NOTIFY"] for env in facts["env"].values()} == {OFF}


def test_parsing_imports_no_driver_and_not_maang(facts: dict[str, Any]) -> None:
    assert not {"maang_cli", "pyiceberg", "duckdb", "pandas", "polygon", "databricks"} & set(facts["loaded"])


def test_production_and_cumulative_are_assets(facts: dict[str, Any]) -> None:
    assert facts["outlets"] == {
        "exchange_data_from_staging": ["daily_stock_prices"],
        "cumulate_step": ["daily_stock_prices_cumulative"],
    }


def test_dag_doc_says_that_nothing_is_cleared_first(facts: dict[str, Any]) -> None:
    assert "Nothing is cleared first" in facts["doc"]
    assert all(name in facts["doc"] for name in COMMANDS)


# Exit codes


def test_exit_code_sets_the_state_of_the_task(facts: dict[str, Any]) -> None:
    assert facts["outcomes"] == {
        "0": "success",
        "1": "retry",
        "2": "fail",
        "3": "fail",
        "4": "retry",
        "5": "fail",
        "99": "skip",
        "126": "fail",
        "127": "fail",
        "130": "retry",
        "143": "retry",
    }
    assert facts["retry"] == [{"retries": 8, "delay": 120, "factor": 2}] * len(COMMANDS)


def test_dag_tables_hold_the_exit_codes_of_maang(facts: dict[str, Any]) -> None:
    failures = set(ExitCode) - {ExitCode.DONE, ExitCode.NO_SESSION}
    fatal, healing = set(facts["exit_codes"]["FATAL"]), set(facts["exit_codes"]["HEALING"])
    assert healing == {code for code in failures if code.worth_a_retry}
    assert fatal == {code for code in failures if not code.worth_a_retry} | SHELL_CODES


def exit_code_states(markdown: str) -> dict[int, str]:
    """The states in the one table of exit codes, by code."""
    [table] = re.findall(r"^\| exit code \| state of the task \| reason \|\n\|[-|]+\|\n((?:\|.*\n)+)", markdown, re.MULTILINE)
    states: dict[int, str] = {}
    for line in table.splitlines():
        codes, state = line.split(" | ")[:2]
        for code in map(int, re.findall(r"\d+", codes)):
            assert code not in states
            states[code] = state
    return states


@pytest.mark.parametrize("where", ["the doc of the DAG", "docs/airflow.md"])
def test_documented_exit_codes_are_those_of_maang(facts: dict[str, Any], where: str) -> None:
    states = exit_code_states(DOCS.read_text("utf-8") if where == "docs/airflow.md" else facts["doc"])
    assert set(states) == set(ExitCode) | SHELL_CODES
    words = {"success": "success", "skip": "skipped", "fail": "failed immediately", "retry": "retried"}
    for code, state in states.items():
        assert re.split(r",", state)[0] == words[facts["outcomes"][str(code)]]
        if code not in SHELL_CODES:
            assert state.startswith("retried") is ExitCode(code).worth_a_retry


# Alerts


ALERTS = {"STOCK_DAG_EMAIL_TO": "desk@example.com", "STOCK_DAG_SLACK_CONNECTION": "alerts"}


def test_alerts_and_deadline_are_off_by_default(facts: dict[str, Any], template: Airflow) -> None:
    assert (facts["alerts"], facts["deadline"], facts["max_active_runs"]) == (False, False, 4)
    on = describe(template, **ALERTS, STOCK_DAG_MAX_ACTIVE_RUNS="2")
    assert on["errors"] == []
    assert (on["alerts"], on["deadline"], on["max_active_runs"]) == (True, False, 2)
    assert not {"slack_sdk", "aiosmtplib"} & set(on["loaded"])  # only an alert imports them


def test_deadline_is_an_import_error_if_airflow_is_too_old_for_it(template: Airflow) -> None:
    on = describe(template, **ALERTS, STOCK_DAG_DEADLINE_MINUTES="90")
    if on["has_deadlines"]:
        assert (on["errors"], on["deadline"]) == ([], True)
    else:
        [error] = on["errors"]
        assert "a deadline needs Airflow 3.2 or later" in error


def test_deadline_without_slack_or_email_is_an_import_error(template: Airflow) -> None:
    [error] = describe(template, STOCK_DAG_DEADLINE_MINUTES="90")["errors"]
    assert "a deadline needs Slack or e-mail" in error


ALERT = """
import json, os, runpy
from types import SimpleNamespace

dag = runpy.run_path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"] + "/stock_dag.py")["dag"]
ti = SimpleNamespace(dag_id="stock_dag", task_id="run_dq_check", log_url="http://localhost/log")
exception = RuntimeError("Bash command failed. The command returned a non-zero exit code 3.")
try:
    context = {"dag": dag, "ti": ti, "params": {"date": "2025-10-15"}, "exception": exception}
    dag.get_task("run_dq_check").on_failure_callback[0](context)
except Exception as exc:
    print(json.dumps(repr(exc)))
else:
    print("null")
"""


def test_alert_gives_up_before_airflow_kills_and_retries_the_task(template: Airflow, tmp_path: Path) -> None:
    stuck = tmp_path / "maang"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a mail server that never answers
        mail = {"conn_type": "smtp", "host": "127.0.0.1", "port": silent.getsockname()[1], "extra": {"disable_ssl": True}}
        variables = {
            "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "5",
            "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(mail),
            "MAANG_COMMAND": str(stuck),
            "STOCK_DAG_EMAIL_TO": "desk@example.com",
        }
        error = Airflow(template.home, template.env | variables).python(ALERT)
    assert "the alert was given up after 2.0 s" in error


def test_alert_arrives_by_mail_and_webhook(template: Airflow, inbox: tuple[Inbox, dict[str, str]]) -> None:
    variables = inbox[1] | {"MAANG_COMMAND": "false"}
    assert Airflow(template.home, template.env | variables).python(ALERT) is None
    title, reason = "stock_dag 2025-10-15: run_dq_check failed", "exit code 3: the gate refused the bars"
    assert [body for subject, body in inbox[0].mails if subject == title and reason in body]
    assert [post for post in inbox[0].posts if title in post and reason in post]


FAILING_CHECKS = """
import json, os, runpy

dag = runpy.run_path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"] + "/stock_dag.py")
print(json.dumps(list(dag["failing_checks"]("2025-10-15", None, {}, 300))))
"""


def test_alert_says_why_the_failing_rows_are_unavailable(template: Airflow, tmp_path: Path) -> None:
    [nothing_staged] = Airflow(template.home, template.env | {"MAANG_HOME": str(tmp_path)}).python(FAILING_CHECKS)
    assert nothing_staged.startswith("the failing rows are unavailable (nothing is staged for 2025-10-15 ")
    [no_command] = Airflow(template.home, template.env | {"MAANG_COMMAND": str(tmp_path / "maang")}).python(FAILING_CHECKS)
    assert no_command == "the failing rows are unavailable (FileNotFoundError); see the log"
