"""A program that loads the DAG as Airflow's DAG processor does, and prints a description of it as one JSON document.

It is a separate process, because Airflow reads its settings when it is imported.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from datetime import date
from typing import Any

import airflow.sdk
import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.timetables.base import DataInterval, TimeRestriction

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 3.0
    from airflow.models.dagbag import DagBag  # type: ignore[no-redef]


def outcome(operator: type[BashOperator], code: int) -> str:
    """What happens to a task whose command exits with `code`, by the exception that its operator raises."""
    probe = operator(task_id=f"exit_{code}", bash_command=f"exit {code}")
    try:
        probe.execute({})
    except Exception as exc:  # noqa: BLE001  every other exception is retried
        return {"AirflowSkipException": "skip", "AirflowFailException": "fail"}.get(type(exc).__name__, "retry")
    return "success"


def run_after(timetable: Any, session: date) -> tuple[str, str]:
    """When the run of a session starts, in New York, and its `ds`."""
    start = pendulum.datetime(session.year, session.month, session.day, 6, tz="America/New_York")
    earlier = DataInterval(start.subtract(days=1), start)
    info = timetable.next_dagrun_info(
        last_automated_data_interval=earlier, restriction=TimeRestriction(earliest=None, latest=None, catchup=True)
    )
    return str(info.run_after.in_timezone("America/New_York")), info.logical_date.in_timezone("UTC").to_date_string()


def factor(task: BashOperator) -> float:
    """How much longer each wait is than the one before. Airflow 3.0 has only True, which means 2."""
    has_factor = airflow.sdk.BaseOperator.retry_exponential_backoff is not False
    return float(task.retry_exponential_backoff) if has_factor else 2 * task.retry_exponential_backoff


before = set(sys.modules)
folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
bag = DagBag(dag_folder=folder)
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
facts: dict[str, Any] = {"errors": list(bag.import_errors.values()), "loaded": loaded}
facts["has_deadlines"] = hasattr(airflow.sdk, "DeadlineAlert")
if dag := bag.dags.get("stock_dag"):
    tasks = [task for task in dag.tasks if isinstance(task, BashOperator)]
    codes = runpy.run_path(f"{folder}/stock_dag.py")
    facts |= {
        "others": len(dag.tasks) - len(tasks),
        "downstream": {task.task_id: sorted(task.downstream_task_ids) for task in tasks},
        "commands": {task.task_id: task.bash_command for task in tasks},
        "env": {task.task_id: task.env for task in tasks},
        "outlets": {task.task_id: [asset.name for asset in task.outlets] for task in tasks if task.outlets},
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "alerts": all(bool(task.on_failure_callback) for task in tasks),
        "deadline": bool(getattr(dag, "deadline", None)),
        "max_active_runs": dag.max_active_runs,
        "retry": [{"retries": task.retries, "delay": task.retry_delay.total_seconds(), "factor": factor(task)} for task in tasks],
        "runs": {str(day): run_after(dag.timetable, day) for day in (date(2025, 3, 7), date(2025, 3, 8), date(2025, 11, 3))},
        "outcomes": {code: outcome(codes["MaangOperator"], code) for code in (0, 1, 2, 3, 4, 5, 99, 126, 127, 130, 143)},
        "doc": dag.doc_md,
        "exit_codes": {name: list(codes[name]) for name in ("FATAL", "HEALING")},
    }
print(json.dumps(facts))
