"""The daily pipeline as an Airflow 3 DAG: every task is one `maang` command, the very one that a person types.

Nothing of `maang_cli` is imported: the command may live in another virtual environment (`MAANG_COMMAND`).
"""
# ruff: noqa: INP001  Airflow loads this file by its path.

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import (  # type: ignore[attr-defined]  # some of these names are exported lazily
    DAG,
    Asset,
    Connection,
    CronDataIntervalTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    RetryDecision,
    RetryPolicy,
    SyncCallback,
    chain,
    conf,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DOC = """\
### One day of stock bars: fetched, audited, published atomically

```
                ┌─ create_staging_table ────┐
create_schema ──┼─ create_prod_table ───────┼── load_to_staging ── run_dq_check ─┐
                └─ create_cumulative_table ─┘                                    │
                                 ┌───────────────────────────────────────────────┘
                                 │                              ┌─ drop_staging_table
                                 └─ exchange_data_from_staging ─┤
                                                                └─ cumulate_step
```

Every day at 06:00 New York, for the day before. Each task is one `maang` command with `--date`.

**Nothing is cleared first.** `exchange_data_from_staging` and `cumulate_step` put a day in the place of its former self in one
commit, so a reader sees the old rows or the new ones, never a day that has vanished. That is why no task clears on its own.

| exit code | task | |
|---|---|---|
| 0 | success | |
| 99 | skipped, with all that follow; the run is a success | NYSE did not trade on that day |
| 2, 5 | failed at once | settings, rights, a table of another shape: waiting can't help |
| 3 | failed at once | the gate refused the bars: production is untouched, staging is kept, the log names checks and rows |
| 1, 4 | retried, with exponential back-off | what may heal: vendor, network, warehouse, or the day is not published yet |

To run a day by hand, trigger the DAG with a date. To run it again, clear the run: what it publishes is what a first run would.
"""

FATAL = {
    2: "cannot succeed by waiting: settings, rights, or a table's columns",
    3: "the gate refused the bars: nothing was published, staging is kept",
    5: "some of the sessions failed",
    126: "MAANG_COMMAND can't be executed",
    127: "MAANG_COMMAND is not there",
}
"""Exit codes after which a retry is pointless, and why. The last two are the shell's own."""
HEALING = {
    1: "a bug: its traceback is in the log",
    4: "the source or the warehouse failed, or the day is not published yet",
}
REFUSED = 3
GRACE = 3
"""Seconds that are left of Airflow's `[core] task_success_overtime` when an alert gives up."""

PRODUCTION = Asset("daily_stock_prices")
CUMULATIVE = Asset("daily_stock_prices_cumulative")

DATE = "{{ params.date or ds | default('') }}"
"""`ds` is undefined in a manual run without a logical date; maang then says that the date is missing."""
SHARED_OPTIONS = '"--date=$STOCK_DATE" ${STOCK_TICKERS:+"--tickers=$STOCK_TICKERS"}'
"""Values travel as variables, so that bash never reads them as code; behind `=`, so that maang never reads them as options."""


def exit_code(exception: object) -> int | None:
    """The command's exit code, which BashOperator gives in its text alone; None for any other failure."""
    found = re.search(r"returned a non-zero exit code (\d+)\.$", str(exception))
    return int(found[1]) if found else None


class RetryByExitCode(RetryPolicy):
    """Fails at once where waiting can't help; everything else is retried as the task says."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002
        max_tries: int,  # noqa: ARG002
        context: Any = None,  # noqa: ARG002
    ) -> RetryDecision:
        code = exit_code(exception)
        return RetryDecision.fail(f"exit code {code}, {FATAL[code]}") if code in FATAL else RetryDecision.default()


class Alert(NamedTuple):
    """What an alert says, as the notifiers' templates find it: `{{ alert.title }}`.

    No dataclass: Airflow loads this file for a deadline's callback without entering it in `sys.modules`, where those look.
    """

    title: str
    text: str

    @property
    def slack(self) -> str:
        """Title and text in Slack's markup, which knows these three escapes."""
        escaped = self.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"*{self.title}*\n{escaped}"


def tell(alert: Alert, context: Any, slack_connection: str | None, email_to: str | None) -> None:
    """Send an alert through Airflow's own notifiers, those that are set.

    Their texts are templates: the alert goes in as a value, never as a piece of template.
    """
    notifiers: list[Callable[[Any], None]] = []
    # Imported when there is something to tell: they take longer to load than all of this file.
    if slack_connection:
        from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier  # noqa: PLC0415

        notifiers.append(SlackWebhookNotifier(slack_webhook_conn_id=slack_connection, text="{{ alert.slack }}"))
    if email_to:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier  # noqa: PLC0415

        notifiers.append(SmtpNotifier(to=email_to, subject="{{ alert.title }}", html_content="<pre>{{ alert.text | e }}</pre>"))
    context["alert"] = alert
    failures = []
    for notify in notifiers:
        try:
            notify(context)
        except Exception as exc:  # noqa: BLE001  the other one is still to be told
            failures.append(exc)
    if failures:
        raise ExceptionGroup("an alert was not delivered", failures)


class OutOfTime(BaseException):
    """An alert took too long."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in this block once it has taken so long."""

    def stop(_signum: int, _frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def describe_failure(context: Any, secrets: Mapping[str, str], seconds: float) -> Alert:
    """What has failed, and for a refusal what the gate found: the task's exception says no more than `exit code 3`."""
    ti, params = context["ti"], context["params"]
    date = params.get("date") or context.get("ds") or ""
    exception = context.get("exception")
    code = exit_code(exception)
    lines = [f"exit code {code}: {(FATAL | HEALING).get(code, 'see the log')}" if code else str(exception or "it was killed")]
    if code == REFUSED:
        lines += failing_checks(date, params.get("tickers"), secrets, seconds)
    return Alert(f"{ti.dag_id} {date}: {ti.task_id} failed", "\n".join([f"date: {date}", *lines, f"log: {ti.log_url}"]))


def failing_checks(date: str, tickers: str | None, secrets: Mapping[str, str], seconds: float) -> Iterator[str]:
    """The checks that the kept staging fails, and the first rows of each; a line that says so when `seconds` don't suffice."""
    command = [*os.environ.get("MAANG_COMMAND", "maang").split(), "check", f"--date={date}", "--json", "--quiet"]
    command += [f"--tickers={tickers}"] if tickers else []
    try:
        env = os.environ | {name: str(Connection.get(connection).password) for name, connection in secrets.items()}
        asked = subprocess.run(  # noqa: S603
            command, env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
        audit = json.loads(asked.stdout)
    except Exception as exc:  # noqa: BLE001  an alert without the rows is better than none
        yield f"the failing rows can't be told ({type(exc).__name__}): see the log"
        return
    yield f"staging: {audit['staging']}"
    for check in audit["checks"]:
        if check["failing"]:
            yield f"{check['name']} ({check['promise']}): {check['failing']} failing"
            yield from (f"  {row['ticker']} {row['date']}: {row['found']}" for row in check["rows"])
            if check["failing"] > len(check["rows"]):
                yield f"  and {check['failing'] - len(check['rows'])} more"


def late(context: Any, slack_connection: str | None = None, email_to: str | None = None) -> None:
    """Tell that a run is not done by its deadline; a backfill has none, but Airflow gives every run one."""
    run = context["dag_run"]
    if run["run_type"] == "backfill":
        return
    date = (run["conf"] or {}).get("date") or str(run["logical_date"] or "")[:10]
    alert = Alert(
        f"{run['dag_id']} {date}: not done in time",
        f"date: {date}\nrun: {run['dag_run_id']}, {run['state']}\nit was to be done by {context['deadline']['deadline_time']}",
    )
    tell(alert, context, slack_connection, email_to)


def stock_dag(
    *,
    max_active_runs: int = 4,
    retries: int = 8,
    retry_delay: timedelta = timedelta(minutes=2),
    slack_connection: str | None = None,
    email_to: str | None = None,
    deadline: timedelta | None = None,
    secrets: Mapping[str, str] | None = None,
) -> DAG:
    """The DAG.

    Args:
        max_active_runs: how many dates may run at once.
        retries: how often a task is tried again; 8 times from 2 minutes on are about 4 hours.
        retry_delay: the first wait; each next one is twice as long, up to an hour.
        slack_connection: id of an Airflow connection to an incoming webhook, which failures are posted to.
        email_to: where failures are mailed to, through the connection `smtp_default`.
        deadline: a run that is not done this long after it was queued is told to the same two; backfills have none.
        secrets: variable to id of the Airflow connection whose password it is to hold, for tokens kept in Airflow.
    """
    secrets = secrets or {}
    somebody = bool(slack_connection or email_to)
    late_alert = None
    if deadline:
        if not somebody:
            raise ValueError("a deadline needs someone to be told: set slack_connection or email_to")
        late_alert = DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=deadline,
            callback=SyncCallback(late, kwargs={"slack_connection": slack_connection, "email_to": email_to}),
        )

    def failed(context: Any) -> None:
        # Airflow kills a task whose callback takes longer than this, and then retries it, whatever the policy said.
        seconds = max(conf.getfloat("core", "task_success_overtime") - GRACE, 1)
        try:
            with at_most(seconds):
                tell(describe_failure(context, secrets, seconds * 0.6), context, slack_connection, email_to)
        except OutOfTime as exc:
            raise TimeoutError(f"the alert was given up after {seconds} s: raise [core] task_success_overtime") from exc

    dag = DAG(
        "stock_dag",
        description="One day of stock bars: fetched, audited, published atomically",
        doc_md=DOC,
        tags=["maang"],
        # A cron string would give the date of the trigger; a weekdays' cron would give Friday's run the date of Saturday.
        schedule=CronDataIntervalTimetable("0 6 * * *", timezone="America/New_York"),
        # A run of a date before this would have no tasks and end green.
        start_date=datetime(1990, 1, 1, tzinfo=ZoneInfo("America/New_York")),
        catchup=False,
        max_active_runs=max_active_runs,
        deadline=late_alert,
        params={
            "date": Param(
                None,
                type=["null", "string"],
                format="date",
                title="Date",
                description="The session, a New York date; without it, the day that the run is scheduled for.",
            ),
            "tickers": Param(
                None,
                type=["null", "string"],
                # Whoever may start a run is not thereby someone who may read the worker's files.
                pattern="^[^@]*$",
                maxLength=100_000,  # Linux allows a variable 128 KiB
                title="Tickers",
                description="A comma list, such as META,BRK.A; without it, the worker's MAANG_TICKERS.",
            ),
        },
        default_args={
            "retries": retries,
            "retry_delay": retry_delay,
            "retry_exponential_backoff": 2,  # the factor; True would be 1, no back-off at all
            "max_retry_delay": timedelta(hours=1),
            "retry_policy": RetryByExitCode(),
            "execution_timeout": timedelta(hours=1),
            "on_failure_callback": failed if somebody else None,
        },
    )

    def task(task_id: str, command: str, outlet: Asset | None = None) -> BashOperator:
        def tell_date(context: Any, _result: object) -> None:
            context["outlet_events"][outlet].extra = {"date": context["params"].get("date") or context["ds"]}

        return BashOperator(
            task_id=task_id,
            dag=dag,
            # Unquoted: a command of several words, such as `uv run maang`, is one too.
            bash_command=f"exec ${{MAANG_COMMAND:-maang}} {command} {SHARED_OPTIONS}",
            env={"STOCK_DATE": DATE, "STOCK_TICKERS": "{{ params.tickers or '' }}"}
            | {name: f"{{{{ conn.get('{connection}').password }}}}" for name, connection in secrets.items()},
            append_env=True,
            do_xcom_push=False,
            outlets=[outlet] if outlet else None,
            post_execute=tell_date if outlet else None,
        )

    chain(
        task("create_schema", "init-tables --only schema"),
        [
            task("create_staging_table", "init-tables --only staging"),
            task("create_prod_table", "init-tables --only production"),
            task("create_cumulative_table", "init-tables --only cumulative"),
        ],
        task("load_to_staging", "ingest"),
        task("run_dq_check", "check"),
        task("exchange_data_from_staging", "promote", PRODUCTION),
        [task("drop_staging_table", "drop-staging"), task("cumulate_step", "cumulate", CUMULATIVE)],
    )
    return dag


def from_environment() -> dict[str, Any]:
    """The arguments of `stock_dag` that are set as variables, the same for every part of Airflow."""

    def given(name: str) -> str | None:
        return os.environ.get(f"STOCK_DAG_{name}") or None

    arguments: dict[str, Any] = {"slack_connection": given("SLACK_CONNECTION"), "email_to": given("EMAIL_TO")}
    if runs := given("MAX_ACTIVE_RUNS"):
        arguments["max_active_runs"] = int(runs)
    if retries := given("RETRIES"):
        arguments["retries"] = int(retries)
    if seconds := given("RETRY_SECONDS"):
        arguments["retry_delay"] = timedelta(seconds=float(seconds))
    if minutes := given("DEADLINE_MINUTES"):
        arguments["deadline"] = timedelta(minutes=float(minutes))
    if pairs := given("SECRETS"):
        arguments["secrets"] = dict(pair.strip().split("=", 1) for pair in pairs.split(","))
    return arguments


dag = stock_dag(**from_environment())
