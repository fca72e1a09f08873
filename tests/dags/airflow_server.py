"""The real Airflow in its own folder: its commands as processes, and the servers that a scheduled run needs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

DAGS = Path(__file__).parents[2] / "dags"
OURS = Path(sys.executable).parent
BIN = Path(os.environ.get("MAANG_TEST_AIRFLOW", OURS))
"""Where the commands of the tested Airflow are, which may be another version in an environment of its own."""
PATIENCE = 600
"""How many seconds a test waits for what must happen. A busy machine needs that long."""

T = TypeVar("T")


def wait_for(find: Callable[[], T | None], failure: str, seconds: float = PATIENCE) -> T:
    """Call `find` until it returns something. After `seconds`, raise a TimeoutError that says `failure`."""
    deadline = time.monotonic() + seconds
    while (value := find()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(failure)
        time.sleep(0.5)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Airflow:
    """One AIRFLOW_HOME with a database."""

    home: Path
    env: dict[str, str]
    """The complete environment of its processes."""

    @classmethod
    def create(cls, home: Path, template: Path | None = None, **variables: str) -> Self:
        """Make a home with an empty database, copied from `template` if there is one."""
        removed = ("MAANG_", "POLYGON_", "DATABRICKS_", "STOCK_DAG_", "AIRFLOW", "COV_", "PYTEST_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
        env |= {
            # Without the virtual environment's commands, so that the tasks find `maang` through MAANG_COMMAND only.
            "PATH": os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != OURS),
            "NO_COLOR": "1",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        }
        home.mkdir(parents=True)
        # As if maang were installed alone: PyIceberg imports pandas if it can, and then takes twice as long to start.
        (home / "no-pandas").mkdir()
        (home / "no-pandas" / "pandas.py").write_text("raise ImportError")
        env["MAANG_COMMAND"] = f"env PYTHONPATH={home / 'no-pandas'} {sys.executable} -m maang_cli"
        airflow = cls(home, env | variables)
        if template:
            shutil.copy(template / "airflow.db", home / "airflow.db")
        else:
            airflow.run_ok("db", "migrate")
        return airflow

    def popen(self, *argv: str, log: Path) -> subprocess.Popen[bytes]:
        """Start an `airflow` command in its own process group."""
        with log.open("ab") as out:
            return subprocess.Popen(
                [str(BIN / "airflow"), *argv],
                env=self.env,
                cwd=self.home,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run an `airflow` command to its end. The stdout of the result includes stderr."""
        log = self.home / f"command-{secrets.token_hex(4)}.log"
        process = self.popen(*argv, log=log)
        try:
            code = process.wait(PATIENCE)
        finally:
            end(process)
        return subprocess.CompletedProcess(argv, code, log.read_text())

    def run_ok(self, *argv: str) -> str:
        """Run an `airflow` command that has to succeed; returns its output."""
        done = self.run(*argv)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def python(self, code: str) -> Any:
        """Run a Python program in Airflow's environment; returns the JSON document on the last line that it prints."""
        done = subprocess.run(
            [str(BIN / "python"), "-W", "ignore", "-c", code],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def end(*processes: subprocess.Popen[bytes]) -> None:
    """End processes and their whole process groups, all at the same time."""
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, PATIENCE)):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


@dataclass
class StartedAirflow:
    """One Airflow's API server, scheduler and DAG processor, and a client of its API."""

    airflow: Airflow
    url: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _token: str = ""

    @classmethod
    def configuration(cls, port: int) -> dict[str, str]:
        return {
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__PARALLELISM": "4",
            # An alert runs `maang check`, which is slow on a busy machine.
            "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "120",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            # The scheduler notices a killed worker by its missing heartbeats.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            # The DAG's file does not change, so it is parsed only once.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        }

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "api-server": ("--host", "127.0.0.1"),
        "scheduler": ("--skip-serve-logs",),
        "dag-processor": (),
    }

    def start(self) -> None:
        for name in self.PARTS:
            self._start(name)
        wait_for(self._healthy, "Airflow did not start; see its logs")
        wait_for(lambda: self._dag_is_parsed() or None, "Airflow did not parse the DAG")

    def _start(self, name: str) -> None:
        self.processes[name] = self.airflow.popen(name, *self.PARTS[name], log=self.airflow.home / f"{name}.log")

    def _supervise(self) -> None:
        """Restart the scheduler if it has ended, as a service manager does.

        With SQLite, `airflow backfill create` may find the database locked and roll back. The scheduler ends if it has already
        read those runs.
        """
        if "scheduler" in self.processes and self.processes["scheduler"].poll() is not None:
            self._start("scheduler")

    def stop(self) -> None:
        end(*self.processes.values())

    def _healthy(self) -> bool | None:
        for name, process in self.processes.items():
            assert process.poll() is None, (self.airflow.home / f"{name}.log").read_text()[-4000:]
        try:
            health = self.get("/api/v2/monitor/health")
        except OSError:
            return None
        parts = ("metadatabase", "scheduler", "dag_processor")
        return True if all(health[part]["status"] == "healthy" for part in parts) else None

    def _dag_is_parsed(self) -> bool:
        return bool(self.get("/api/v2/dags?dag_id_pattern=stock_dag")["dags"])

    def get(self, path: str) -> Any:
        self._supervise()
        return self._call("GET", path, None)

    def post(self, path: str, body: object) -> Any:
        return self._call("POST", path, body)

    def patch(self, path: str, body: object) -> Any:
        return self._call("PATCH", path, body)

    def _call(self, method: str, path: str, body: object) -> Any:
        if path.startswith("/api/v2") and not path.endswith("/health") and not self._token:
            self._token = self._call("GET", "/auth/token", None)["access_token"]
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def refused(self, path: str, body: object) -> str:
        """POST something that the API has to refuse; returns its error message."""
        try:
            self.post(path, body)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.read().decode()
        raise AssertionError(f"{path} accepted {body}")

    def trigger(self, **params: str) -> str:
        """Start a manual run without a logical date; returns its id."""
        return str(self.post("/api/v2/dags/stock_dag/dagRuns", {"logical_date": None, "conf": params})["dag_run_id"])

    def finished(self, run_id: str) -> dict[str, Any]:
        """Wait until a run has ended; returns the run."""

        def ended() -> dict[str, Any] | None:
            run: dict[str, Any] = self.get(f"/api/v2/dags/stock_dag/dagRuns/{run_id}")
            return run if run["state"] in ("success", "failed") else None

        return wait_for(ended, f"{run_id} did not end")

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        answer = self.get(f"/api/v2/dags/stock_dag/dagRuns/{run_id}/taskInstances")
        return {task["task_id"]: task for task in answer["task_instances"]}

    def states(self, run_id: str) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks(run_id).items()}

    def log(self, run_id: str, task_id: str, attempt: int = 1) -> str:
        answer = self.get(f"/api/v2/dags/stock_dag/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}?full_content=true")
        return "\n".join(str(line.get("event", line)) for line in answer["content"])
