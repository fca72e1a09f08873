"""A program: loads the DAGs as the DAG processor does and prints what they are, one JSON document.

A process of its own, because Airflow reads its settings when it is imported.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from typing import Any

import pendulum
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk.exceptions import AirflowSkipException
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables.base import DataInterval, TimeRestriction


def outcome(task: BashOperator, code: int) -> str:
    """What becomes of a task whose command ends with `code`, decided by Airflow's own exception."""
    probe = BashOperator(task_id=f"exit_{code}", bash_command=f"exit {code}")
    try:
        probe.execute({})
    except AirflowSkipException:
        return "skip"
    except Exception as exc:  # noqa: BLE001  whatever it raises is what the policy is given
        assert task.retry_policy is not None
        return task.retry_policy.evaluate(exc, 1, task.retries or 0).action.value
    return "success"


def run_after(timetable: Any, session: date) -> tuple[str, str]:
    """When the run of a session starts, in New York, and the `ds` that it has."""
    start = pendulum.datetime(session.year, session.month, session.day, 6, tz="America/New_York")
    earlier = DataInterval(start.subtract(days=1), start)
    info = timetable.next_dagrun_info(
        last_automated_data_interval=earlier, restriction=TimeRestriction(earliest=None, latest=None, catchup=True)
    )
    return str(info.run_after.in_timezone("America/New_York")), info.logical_date.in_timezone("UTC").to_date_string()


before = set(sys.modules)
bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
facts: dict[str, Any] = {"errors": list(bag.import_errors.values()), "loaded": loaded}
if dag := bag.dags.get("stock_dag"):
    tasks = [task for task in dag.tasks if isinstance(task, BashOperator)]
    timetable = coerce_to_core_timetable(dag.timetable)
    facts |= {
        "others": len(dag.tasks) - len(tasks),
        "downstream": {task.task_id: sorted(task.downstream_task_ids) for task in tasks},
        "commands": {task.task_id: task.bash_command for task in tasks},
        "env": {task.task_id: task.env for task in tasks},
        "outlets": {task.task_id: [asset.name for asset in task.outlets] for task in tasks if task.outlets},
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "alerts": all(bool(task.on_failure_callback) for task in tasks),
        "deadline": bool(dag.deadline),
        "max_active_runs": dag.max_active_runs,
        "retry": [
            {"retries": task.retries, "delay": task.retry_delay.total_seconds(), "factor": float(task.retry_exponential_backoff)}
            for task in tasks
        ],
        "runs": {str(day): run_after(timetable, day) for day in (date(2025, 3, 7), date(2025, 3, 8), date(2025, 11, 3))},
        "outcomes": {code: outcome(tasks[0], code) for code in (0, 1, 2, 3, 4, 5, 99, 126, 127, 130, 143)},
        "doc": dag.doc_md,
    }
print(json.dumps(facts))
