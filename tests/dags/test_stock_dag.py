"""The DAG in the real Airflow: as it is parsed, by `airflow dags test`, and in a started Airflow."""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from filelock import FileLock

from maang_cli import sessions
from maang_cli.errors import ExitCode
from tests.conftest import Maang
from tests.dags.airflow_server import PATIENCE, Airflow, StartedAirflow, until
from tests.dags.conftest import BAD_DAY, Inbox
from tests.polygon_server import KEY, PolygonServer

COMMANDS = {
    "create_schema": "init-tables --only schema",
    "create_staging_table": "init-tables --only staging",
    "create_prod_table": "init-tables --only production",
    "create_cumulative_table": "init-tables --only cumulative",
    "load_to_staging": "ingest",
    "run_dq_check": "check",
    "exchange_data_from_staging": "promote",
    "drop_staging_table": "drop-staging",
    "cumulate_step": "cumulate",
}
ALL_DONE = dict.fromkeys(COMMANDS, "success")
ALL_SKIPPED = dict.fromkeys(COMMANDS, "skipped")
FIRST, SECOND, SATURDAY = date(2025, 10, 13), date(2025, 10, 14), date(2025, 10, 11)


def rows(maang: Maang, home: Path, day: date, table: str, *options: str) -> list[dict[str, Any]]:
    """The day's rows in one table of a warehouse, without the stamps; none where there is no table."""
    shown = maang("show", f"--date={day}", f"--table={table}", "--json", f"--home={home}", *options)
    if shown.code == ExitCode.UNUSABLE:
        assert "there is no table" in shown.err
        return []
    assert shown.code == ExitCode.DONE, shown.err
    found = json.loads(shown.out)["rows"]
    return [{name: value for name, value in each.items() if name not in ("insertion_timestamp", "updated_at")} for each in found]


def assert_same_tables(maang: Maang, home: Path, *days: date) -> None:
    """That the warehouse in `home` holds on these days what `maang run-day` makes of them, one after the other."""
    by_hand = Path("by-hand").absolute()
    for day in days:
        assert maang("run-day", f"--date={day}", f"--home={by_hand}").code == ExitCode.DONE
    for day in days:
        for table in ("production", "cumulative"):
            expected = rows(maang, by_hand, day, table)
            assert len(expected) == 5
            assert rows(maang, home, day, table) == expected


# As it is parsed


def described(airflow: Airflow, **variables: str) -> dict[str, Any]:
    program = Path(__file__).with_name("describe_dag.py").read_text("utf-8")
    facts: dict[str, Any] = Airflow(airflow.home, airflow.env | variables).python(program)
    return facts


@pytest.fixture(scope="module")
def facts(template: Airflow) -> dict[str, Any]:
    return described(template)


def test_every_task_is_one_maang_command(facts: dict[str, Any]) -> None:
    assert facts["errors"] == []
    assert facts["others"] == 0
    options = '"--date=$STOCK_DATE" ${STOCK_TICKERS:+"--tickers=$STOCK_TICKERS"}'
    assert facts["commands"] == {
        name: f"exec ${{MAANG_COMMAND:-maang}} {command} {options}" for name, command in COMMANDS.items()
    }


def test_tables_come_first_and_staging_goes_last(facts: dict[str, Any]) -> None:
    tables = ["create_cumulative_table", "create_prod_table", "create_staging_table"]
    assert facts["downstream"] == {
        "create_schema": tables,
        **{table: ["load_to_staging"] for table in tables},
        "load_to_staging": ["run_dq_check"],
        "run_dq_check": ["exchange_data_from_staging"],
        "exchange_data_from_staging": ["cumulate_step", "drop_staging_table"],
        "drop_staging_table": [],
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
def test_a_session_is_run_at_six_the_next_morning_in_summer_and_winter(facts: dict[str, Any], session: str, starts: str) -> None:
    assert facts["runs"][session] == [starts, session]


def test_params_are_typed_and_travel_as_variables(facts: dict[str, Any]) -> None:
    assert facts["params"]["date"]["format"] == "date"
    assert {name: schema["type"] for name, schema in facts["params"].items()} == {
        "date": ["null", "string"],
        "tickers": ["null", "string"],
    }
    assert all(
        env == {"STOCK_DATE": "{{ params.date or ds | default('') }}", "STOCK_TICKERS": "{{ params.tickers or '' }}"}
        for env in facts["env"].values()
    )


def test_exit_codes_become_the_states_that_the_contract_names(facts: dict[str, Any]) -> None:
    assert facts["outcomes"] == {
        "0": "success",
        "1": "default",
        "2": "fail",
        "3": "fail",
        "4": "default",
        "5": "fail",
        "99": "skip",
        "126": "fail",
        "127": "fail",
        "130": "default",
        "143": "default",
    }
    # What the policy leaves to the default is retried with back-off.
    assert facts["retry"] == [{"retries": 8, "delay": 120, "factor": 2}] * len(COMMANDS)


def test_parsing_loads_no_driver_and_nothing_of_maang(facts: dict[str, Any]) -> None:
    assert not {"maang_cli", "pyiceberg", "duckdb", "pandas", "polygon", "databricks"} & set(facts["loaded"])


def test_alerts_and_deadline_are_off_until_set(facts: dict[str, Any], template: Airflow) -> None:
    assert (facts["alerts"], facts["deadline"], facts["max_active_runs"]) == (False, False, 4)
    on = described(
        template,
        STOCK_DAG_EMAIL_TO="desk@example.com",
        STOCK_DAG_SLACK_CONNECTION="alerts",
        STOCK_DAG_DEADLINE_MINUTES="90",
        STOCK_DAG_MAX_ACTIVE_RUNS="2",
    )
    assert on["errors"] == []
    assert (on["alerts"], on["deadline"], on["max_active_runs"]) == (True, True, 2)
    assert not {"slack_sdk", "aiosmtplib"} & set(on["loaded"])  # not before there is something to tell


def test_a_deadline_that_nobody_is_told_of_is_an_import_error(template: Airflow) -> None:
    [error] = described(template, STOCK_DAG_DEADLINE_MINUTES="90")["errors"]
    assert "a deadline needs someone to be told" in error


ALERT = """
import json, os, time
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag

dag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags["stock_dag"]
ti = SimpleNamespace(dag_id="stock_dag", task_id="run_dq_check", log_url="http://localhost/log")
exception = RuntimeError("Bash command failed. The command returned a non-zero exit code 3.")
try:
    dag.get_task("run_dq_check").on_failure_callback[0]({"ti": ti, "params": {"date": "2025-10-15"}, "exception": exception})
except Exception as exc:
    print(json.dumps(repr(exc)))
"""


def test_an_alert_gives_up_before_airflow_kills_and_retries_the_task(template: Airflow, tmp_path: Path) -> None:
    stuck = tmp_path / "maang"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a mail server that never says a word
        mail = {"conn_type": "smtp", "host": "127.0.0.1", "port": silent.getsockname()[1], "extra": {"disable_ssl": True}}
        variables = {
            "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "5",
            "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(mail),
            "MAANG_COMMAND": str(stuck),
            "STOCK_DAG_EMAIL_TO": "desk@example.com",
        }
        said = Airflow(template.home, template.env | variables).python(ALERT)
    assert "the alert was given up after 2.0 s" in said


def test_production_and_cumulative_are_assets(facts: dict[str, Any]) -> None:
    assert facts["outlets"] == {
        "exchange_data_from_staging": ["daily_stock_prices"],
        "cumulate_step": ["daily_stock_prices_cumulative"],
    }


def test_the_dag_says_that_nothing_is_cleared_first(facts: dict[str, Any]) -> None:
    assert "Nothing is cleared first" in facts["doc"]
    assert all(name in facts["doc"] for name in COMMANDS)


# airflow dags test


@pytest.fixture(scope="module")
def tested(
    tmp_path_factory: pytest.TempPathFactory, template: Airflow, vendor: PolygonServer
) -> tuple[Path, dict[date, CompletedProcess[str]]]:
    """`airflow dags test` of four days at once, on one warehouse."""
    folder = tmp_path_factory.mktemp("tested")

    def run(day: date) -> CompletedProcess[str]:
        variables = {"MAANG_HOME": str(folder / "maang"), "MAANG_POLYGON_URL": vendor.url, "POLYGON_TOKEN": KEY}
        return Airflow.create(folder / str(day), template.home, **variables).run("dags", "test", "stock_dag", str(day))

    days = (FIRST, SECOND, SATURDAY, BAD_DAY)
    with ThreadPoolExecutor(len(days)) as pool:
        return folder / "maang", dict(zip(days, pool.map(run, days), strict=True))


def test_two_sessions_at_once_land_as_if_run_by_hand_in_order(
    tested: tuple[Path, dict[date, CompletedProcess[str]]], maang: Maang, polygon: PolygonServer
) -> None:
    home, done = tested
    for day in (FIRST, SECOND):
        assert done[day].returncode == 0, done[day].stdout
    assert_same_tables(maang, home, FIRST, SECOND)
    assert len(rows(maang, home, SECOND, "cumulative")[0]["last_7_days_close"]) == 2


def test_a_saturday_is_skipped_with_its_reason(tested: tuple[Path, dict[date, CompletedProcess[str]]]) -> None:
    done = tested[1][SATURDAY]
    assert done.returncode == 0, done.stdout
    assert "2025-10-11 is not a session: Saturday" in done.stdout
    assert done.stdout.count("Running command") == 1  # the first task skips the others
    assert "successful" in done.stdout


def test_a_bad_day_fails_at_once_names_the_rows_and_keeps_staging(
    tested: tuple[Path, dict[date, CompletedProcess[str]]], maang: Maang, polygon: PolygonServer
) -> None:
    home, done = tested[0], tested[1][BAD_DAY]
    assert done.returncode == 1
    for expected in (
        "price_ranges",
        "META 2025-10-15: ",
        "high 9.00",
        "missing_stocks",
        "AMZN 2025-10-15: no bar",
        "exit code 3",
    ):
        assert expected in done.stdout
    assert " promote " not in done.stdout
    assert rows(maang, home, BAD_DAY, "production") == []
    assert len(rows(maang, home, BAD_DAY, "staging")) == 4


# In a started Airflow


@pytest.fixture
def warehouse(started: StartedAirflow, polygon: PolygonServer) -> Path:
    """MAANG_HOME of the tasks; `maang` in this process has its own."""
    return Path(started.airflow.env["MAANG_HOME"])


def events(started: StartedAirflow, run_id: str) -> dict[str, Any]:
    found = started.get("/api/v2/assets/events?limit=100")["asset_events"]
    return {event["name"]: event["extra"] for event in found if event["source_run_id"] == run_id}


@pytest.fixture(scope="module")
def scheduled(started: StartedAirflow) -> str:
    """The run that the scheduler starts as soon as the DAG is switched on: that of the last interval."""
    started.patch("/api/v2/dags/stock_dag", {"is_paused": False})

    def first() -> str | None:
        found = started.get("/api/v2/dags/stock_dag/dagRuns?run_type=scheduled")["dag_runs"]
        return found[0]["dag_run_id"] if found else None

    return until(first, "nothing was scheduled")


def test_the_scheduler_runs_the_day_before(started: StartedAirflow, scheduled: str, warehouse: Path, maang: Maang) -> None:
    run = started.finished(scheduled)
    day = datetime.fromisoformat(run["logical_date"]).date()
    after = datetime.fromisoformat(run["run_after"]).astimezone(ZoneInfo("America/New_York"))
    assert (after.hour, (after.date() - day).days) == (6, 1)
    assert run["state"] == "success"
    if sessions.is_session(day):  # it depends on the day on which the tests run
        assert started.states(scheduled) == ALL_DONE
        assert_same_tables(maang, warehouse, day)
        told = {"date": str(day)}
        assert events(started, scheduled) == {"daily_stock_prices": told, "daily_stock_prices_cumulative": told}
    else:
        assert started.states(scheduled) == ALL_SKIPPED
        assert events(started, scheduled) == {}


def worker_of(started: StartedAirflow, run_id: str, task_id: str) -> list[int] | None:
    """The processes of a running task, its command first, up to the executor's worker; None while there are none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            env = (folder / "environ").read_bytes().split(b"\0")
            wanted = {f"AIRFLOW_CTX_DAG_RUN_ID={run_id}", f"AIRFLOW_CTX_TASK_ID={task_id}"}
            if not {each.encode() for each in wanted} <= set(env):
                continue
            found = [int(folder.name)]
            while (parent := parent_of(found[-1])) != started.processes["scheduler"].pid:
                found.append(parent)
        except OSError:  # it ended while it was looked at
            continue
        return found
    return None


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the task's processes in /proc")
def test_a_worker_killed_while_it_publishes_leaves_nothing_and_the_retry_finishes(
    started: StartedAirflow, scheduled: str, warehouse: Path, maang: Maang
) -> None:
    started.finished(scheduled)
    run_id = started.trigger(date=str(SECOND), tickers="META,NVDA")
    publish = "exchange_data_from_staging"
    until(lambda: started.states(run_id).get("load_to_staging") == "success" or None, "nothing was ingested")
    with FileLock(warehouse / "warehouse" / "writer.lock", timeout=PATIENCE):
        # With the lock held here, the task waits where it is about to write.
        pids = until(lambda: worker_of(started, run_id, publish), "nothing publishes")
        assert len(pids) >= 3
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert rows(maang, warehouse, SECOND, "production", "--tickers=META,NVDA") == []
    assert started.finished(run_id)["state"] == "success"
    tasks = started.tasks(run_id)
    assert {name: task["state"] for name, task in tasks.items()} == ALL_DONE
    assert tasks[publish]["try_number"] == 2
    assert [row["ticker"] for row in rows(maang, warehouse, SECOND, "production", "--tickers=META,NVDA")] == ["META", "NVDA"]
    assert len(rows(maang, warehouse, SECOND, "cumulative", "--tickers=META,NVDA")) == 2


def test_a_backfill_runs_a_week_with_a_holiday_and_sets_off_no_deadline(
    started: StartedAirflow, scheduled: str, warehouse: Path, maang: Maang, inbox: tuple[Inbox, dict[str, str]]
) -> None:
    week = ("--from-date", "2025-11-24", "--to-date", "2025-11-29T23:59:59", "--max-active-runs", "3")
    until(lambda: backfill(started, *week), "the backfill was not created")

    def week_over() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = started.get("/api/v2/dags/stock_dag/dagRuns?run_type=backfill&limit=100")["dag_runs"]
        return found if len(found) == 6 and {run["state"] for run in found} <= {"success", "failed"} else None

    runs = until(week_over, "the backfill did not end", 2 * PATIENCE)
    assert {run["state"] for run in runs} == {"success"}
    days = {date.fromisoformat(run["logical_date"][:10]): run["dag_run_id"] for run in runs}
    thanksgiving, saturday = date(2025, 11, 27), date(2025, 11, 29)
    for day, run_id in days.items():
        closed = day in (thanksgiving, saturday)
        assert started.states(run_id) == (ALL_SKIPPED if closed else ALL_DONE)
        assert bool(events(started, run_id)) is not closed
    assert "2025-11-27 is not a session: Thanksgiving Day" in started.log(days[thanksgiving], "create_schema")
    assert_same_tables(maang, warehouse, *sorted(set(days) - {thanksgiving, saturday}))
    assert not [subject for subject, _ in inbox[0].mails if "2025-11-" in subject]


def backfill(started: StartedAirflow, *options: str) -> bool | None:
    """Create a backfill by Airflow's own command; None when SQLite, which has one writer, was busy."""
    done = started.airflow.run("backfill", "create", "--dag-id", "stock_dag", *options)
    if done.returncode and "database is locked" in done.stdout:
        return None
    assert done.returncode == 0, done.stdout
    return True


def test_a_run_that_is_late_is_told(started: StartedAirflow, scheduled: str, inbox: tuple[Inbox, dict[str, str]]) -> None:
    day = started.finished(scheduled)["logical_date"][:10]
    title = f"stock_dag {day}: not done in time"
    body = until(lambda: next((body for subject, body in inbox[0].mails if subject == title), None), "no mail")
    assert scheduled in body
    until(lambda: next((True for post in inbox[0].posts if title in post), None), "no post")


def test_a_refusal_fails_at_once_and_alerts_with_the_failing_rows(
    started: StartedAirflow, scheduled: str, warehouse: Path, maang: Maang, inbox: tuple[Inbox, dict[str, str]]
) -> None:
    run_id = started.trigger(date=str(BAD_DAY))
    assert started.finished(run_id)["state"] == "failed"
    tasks = started.tasks(run_id)
    assert (tasks["run_dq_check"]["state"], tasks["run_dq_check"]["try_number"]) == ("failed", 1)
    assert tasks["exchange_data_from_staging"]["state"] == "upstream_failed"
    assert rows(maang, warehouse, BAD_DAY, "production") == []
    log = started.log(run_id, "run_dq_check")
    assert "price_ranges" in log
    assert "high 9.00" in log

    title = "stock_dag 2025-10-15: run_dq_check failed"
    mail = until(lambda: next((body for subject, body in inbox[0].mails if subject == title), None), "no mail")
    post = until(lambda: next((post for post in inbox[0].posts if title in post), None), "no post")
    page = f"{started.url}/dags/stock_dag/runs/{run_id.replace(':', '%3A').replace('+', '%2B')}/tasks/run_dq_check?try_number=1"
    for text in (mail, post):
        for expected in ("2025-10-15", "exit code 3", "price_ranges", "META 2025-10-15: ", "AMZN 2025-10-15: no bar", page):
            assert expected in text


def test_params_never_become_shell_code(started: StartedAirflow, scheduled: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    run_id = started.trigger(date=str(SECOND), tickers=f'META"; touch {trace}; $(touch {trace}) {{{{ 1 }}}}')
    assert started.finished(run_id)["state"] == "failed"
    assert started.tasks(run_id)["create_schema"]["try_number"] == 1  # code 2 fails at once
    assert "is no ticker symbol" in started.log(run_id, "create_schema")
    assert not trace.exists()


@pytest.mark.parametrize("params", [{"date": "yesterday"}, {"date": 20251014}, {"tickers": ["META"]}, {"tickers": "@/etc/hosts"}])
def test_params_of_another_type_start_no_run(started: StartedAirflow, params: dict[str, Any]) -> None:
    said = started.refused("/api/v2/dags/stock_dag/dagRuns", {"logical_date": None, "conf": params})
    assert "Invalid input for param" in said


def test_the_key_shows_in_no_rendered_template_and_in_no_log(
    started: StartedAirflow, scheduled: str, vendor: PolygonServer
) -> None:
    started.finished(scheduled)
    assert f"Bearer {KEY}" in vendor.keys  # it did reach the tasks
    path = f"/api/v2/dags/stock_dag/dagRuns/{scheduled}/taskInstances/load_to_staging"
    assert started.get(path)["rendered_fields"]["env"]["POLYGON_TOKEN"] == "***"
    texts = [path for path in started.airflow.home.rglob("*") if path.is_file()]
    assert len(texts) > 5
    assert [path for path in texts if KEY.encode() in path.read_bytes()] == []
