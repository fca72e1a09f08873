"""Runs of the DAG: by `airflow dags test`, and in a running Airflow."""

from __future__ import annotations

import html
import os
import re
import signal
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from filelock import FileLock

from maang_cli import sessions
from maang_cli.errors import ExitCode
from tests.conftest import Maang
from tests.dags.airflow_server import PATIENCE, Airflow, StartedAirflow, wait_for
from tests.dags.conftest import BAD_DAY, COMMANDS, Inbox
from tests.polygon_server import KEY, PolygonServer

DOCS = Path(__file__).parents[2] / "docs" / "airflow.md"
ALL_DONE = dict.fromkeys(COMMANDS, "success")
ALL_SKIPPED = dict.fromkeys(COMMANDS, "skipped")
SECOND = date(2025, 10, 14)


def rows(maang: Maang, home: Path, day: date, table: str, *options: str) -> list[dict[str, Any]]:
    """The day's rows in one table of a warehouse, without the time stamps; none if there is no table."""
    shown = maang("show", f"--date={day}", f"--table={table}", "--json", f"--home={home}", *options)
    if shown.code == ExitCode.UNUSABLE:
        assert "there is no table" in shown.err
        return []
    assert shown.code == ExitCode.DONE, shown.err
    stamps = ("insertion_timestamp", "updated_at")
    return [{name: value for name, value in row.items() if name not in stamps} for row in shown.result["rows"]]


def assert_same_tables(maang: Maang, home: Path, *days: date) -> None:
    """The warehouse in `home` holds for these days what `maang run-day` writes for one after the other."""
    by_hand = Path("by-hand").absolute()
    for day in days:
        assert maang("run-day", f"--date={day}", f"--home={by_hand}").code == ExitCode.DONE
    for day in days:
        for table in ("production", "cumulative"):
            expected = rows(maang, by_hand, day, table)
            assert len(expected) == 5
            assert rows(maang, home, day, table) == expected


# airflow dags test


def test_dags_test_gives_the_same_tables_as_run_day(
    tmp_path: Path, template: Airflow, vendor: PolygonServer, maang: Maang, polygon: PolygonServer
) -> None:
    warehouse = tmp_path / "maang"
    variables = {"MAANG_HOME": str(warehouse), "MAANG_POLYGON_URL": vendor.url, "POLYGON_TOKEN": KEY}
    Airflow.create(tmp_path / "airflow", template.home, **variables).run_ok("dags", "test", "stock_dag", str(SECOND))
    assert_same_tables(maang, warehouse, SECOND)


# In a running Airflow


@pytest.fixture
def warehouse(started: StartedAirflow, polygon: PolygonServer) -> Path:
    """The MAANG_HOME of the tasks. `maang` in this process has another one."""
    return Path(started.airflow.env["MAANG_HOME"])


def events(started: StartedAirflow, run_id: str) -> dict[str, Any]:
    """The `extra` of the Asset events of a run, by Asset."""
    found = started.get("/api/v2/assets/events?limit=100")["asset_events"]
    return {event["name"]: event["extra"] for event in found if event["source_run_id"] == run_id}


@pytest.fixture(scope="module")
def scheduled(started: StartedAirflow) -> str:
    """The run of the last interval, which the scheduler starts when the DAG is switched on."""
    started.patch("/api/v2/dags/stock_dag", {"is_paused": False})

    def first() -> str | None:
        found = started.get("/api/v2/dags/stock_dag/dagRuns?run_type=scheduled")["dag_runs"]
        return found[0]["dag_run_id"] if found else None

    return wait_for(first, "Airflow scheduled no run")


def test_scheduler_runs_the_day_before(started: StartedAirflow, scheduled: str, warehouse: Path, maang: Maang) -> None:
    run = started.finished(scheduled)
    day = datetime.fromisoformat(run["logical_date"]).date()
    after = datetime.fromisoformat(run["run_after"]).astimezone(ZoneInfo("America/New_York"))
    assert (after.hour, (after.date() - day).days) == (6, 1)
    assert run["state"] == "success"
    if sessions.is_session(day):  # depends on the day on which the tests run
        assert started.states(scheduled) == ALL_DONE
        assert_same_tables(maang, warehouse, day)
        extra = {"date": str(day)}
        assert events(started, scheduled) == {"daily_stock_prices": extra, "daily_stock_prices_cumulative": extra}
    else:
        assert started.states(scheduled) == ALL_SKIPPED
        assert events(started, scheduled) == {}


def worker_of(started: StartedAirflow, run_id: str, task_id: str) -> list[int] | None:
    """The processes of a running task, from its command up to the executor's worker; None until the task runs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            env = (folder / "environ").read_bytes().split(b"\0")
            wanted = {f"AIRFLOW_CTX_DAG_RUN_ID={run_id}", f"AIRFLOW_CTX_TASK_ID={task_id}"}
            if not {each.encode() for each in wanted} <= set(env):
                continue
            found = [int(folder.name)]
            while (parent := parent_of(found[-1])) != started.processes["scheduler"].pid:
                found.append(parent)
        except OSError:  # the process has just ended
            continue
        return found
    return None


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the test needs /proc to find the task's processes")
def test_worker_killed_while_publishing_changes_nothing_and_the_retry_finishes(
    started: StartedAirflow, scheduled: str, warehouse: Path, maang: Maang
) -> None:
    started.finished(scheduled)
    run_id = started.trigger(date=str(SECOND), tickers="META,NVDA")
    publish = "exchange_data_from_staging"
    wait_for(lambda: started.states(run_id).get("load_to_staging") == "success" or None, "load_to_staging did not succeed")
    with FileLock(warehouse / "warehouse" / "writer.lock", timeout=PATIENCE):
        # The test holds the lock, so the task waits just before it writes.
        pids = wait_for(lambda: worker_of(started, run_id, publish), f"{publish} did not start")
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


def test_backfill_skips_closed_days_with_their_reasons_and_sends_no_deadline_alert(
    started: StartedAirflow, scheduled: str, warehouse: Path, maang: Maang, inbox: tuple[Inbox, dict[str, str]]
) -> None:
    four_days = ("--from-date", "2025-11-26", "--to-date", "2025-11-29T23:59:59", "--max-active-runs", "3")
    wait_for(lambda: backfill(started, *four_days), "Airflow did not create the backfill")

    def ended() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = started.get("/api/v2/dags/stock_dag/dagRuns?run_type=backfill&limit=100")["dag_runs"]
        return found if len(found) == 4 and {run["state"] for run in found} <= {"success", "failed"} else None

    runs = wait_for(ended, "the backfill did not end", 2 * PATIENCE)
    assert {run["state"] for run in runs} == {"success"}
    days = {date.fromisoformat(run["logical_date"][:10]): run["dag_run_id"] for run in runs}
    thanksgiving, saturday = date(2025, 11, 27), date(2025, 11, 29)
    for day, run_id in days.items():
        closed = day in (thanksgiving, saturday)
        assert started.states(run_id) == (ALL_SKIPPED if closed else ALL_DONE)
        assert bool(events(started, run_id)) is not closed
    assert "2025-11-27 is not a session: Thanksgiving Day" in started.log(days[thanksgiving], "create_schema")
    assert "2025-11-29 is not a session: Saturday" in started.log(days[saturday], "create_schema")
    assert_same_tables(maang, warehouse, *sorted(set(days) - {thanksgiving, saturday}))
    assert not [subject for subject, _ in inbox[0].mails if "2025-11-" in subject]


def backfill(started: StartedAirflow, *options: str) -> bool | None:
    """Create a backfill with Airflow's own command; None if SQLite, which has one writer, was busy."""
    done = started.airflow.run("backfill", "create", "--dag-id", "stock_dag", *options)
    if done.returncode and "database is locked" in done.stdout:
        return None
    assert done.returncode == 0, done.stdout
    return True


def test_late_run_sends_an_alert(started: StartedAirflow, scheduled: str, inbox: tuple[Inbox, dict[str, str]]) -> None:
    day = started.finished(scheduled)["logical_date"][:10]
    title = f"stock_dag {day}: late"
    body = wait_for(lambda: next((body for subject, body in inbox[0].mails if subject == title), None), "the mail did not arrive")
    assert scheduled in body
    wait_for(lambda: next((True for post in inbox[0].posts if title in post), None), "the post did not arrive")


@pytest.fixture(scope="module")
def refused(started: StartedAirflow, scheduled: str) -> str:
    """A run whose bars the gate refused."""
    run_id = started.trigger(date=str(BAD_DAY))
    assert started.finished(run_id)["state"] == "failed"
    return run_id


def test_refusal_fails_immediately_and_the_alert_shows_the_failing_rows(
    started: StartedAirflow, refused: str, warehouse: Path, maang: Maang, inbox: tuple[Inbox, dict[str, str]]
) -> None:
    tasks = started.tasks(refused)
    assert (tasks["run_dq_check"]["state"], tasks["run_dq_check"]["try_number"]) == ("failed", 1)
    assert tasks["exchange_data_from_staging"]["state"] == "upstream_failed"
    assert rows(maang, warehouse, BAD_DAY, "production") == []
    assert len(rows(maang, warehouse, BAD_DAY, "staging")) == 4
    log = started.log(refused, "run_dq_check")
    for expected in (
        "price_ranges",
        "META 2025-10-15: ",
        "high 9.00",
        "missing_stocks",
        "AMZN 2025-10-15: no bar",
        "return code 3",
    ):
        assert expected in log

    title = "stock_dag 2025-10-15: run_dq_check failed"
    mail = wait_for(lambda: next((body for subject, body in inbox[0].mails if subject == title), None), "the mail did not arrive")
    post = wait_for(lambda: next((post for post in inbox[0].posts if title in post), None), "the post did not arrive")
    page = f"{started.url}/dags/stock_dag/runs/{refused.replace(':', '%3A').replace('+', '%2B')}/tasks/run_dq_check?try_number=1"
    for text in (mail, post):
        for expected in ("2025-10-15", "exit code 3", "price_ranges", "META 2025-10-15: ", "AMZN 2025-10-15: no bar", page):
            assert expected in text
    [example] = re.findall(r"```\n(stock_dag .*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    subject, *lines, log = example.splitlines()
    assert (subject, log.partition("http")[0]) == (title, "log: ")
    assert html.unescape(mail).removeprefix("<pre>").splitlines()[:-1] == lines


def test_params_are_never_run_as_shell_code(started: StartedAirflow, scheduled: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    run_id = started.trigger(date=str(SECOND), tickers=f'META"; touch {trace}; $(touch {trace}) {{{{ 1 }}}}')
    assert started.finished(run_id)["state"] == "failed"
    assert started.tasks(run_id)["create_schema"]["try_number"] == 1  # code 2 fails immediately
    assert "is not a ticker symbol" in started.log(run_id, "create_schema")
    assert not trace.exists()


@pytest.mark.parametrize("params", [{"date": "yesterday"}, {"date": 20251014}, {"tickers": ["META"]}, {"tickers": "@/etc/hosts"}])
def test_params_of_another_type_are_refused(started: StartedAirflow, params: dict[str, Any]) -> None:
    message = started.refused("/api/v2/dags/stock_dag/dagRuns", {"logical_date": None, "conf": params})
    assert "Invalid input for param" in message


def test_key_is_in_no_rendered_template_and_in_no_log(started: StartedAirflow, refused: str, vendor: PolygonServer) -> None:
    assert f"Bearer {KEY}" in vendor.keys  # the tasks did get the key
    path = f"/api/v2/dags/stock_dag/dagRuns/{refused}/taskInstances/load_to_staging"
    assert started.get(path)["rendered_fields"]["env"]["POLYGON_TOKEN"] == "***"
    files = [path for path in started.airflow.home.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
