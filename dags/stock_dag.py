"""The daily pipeline as an Airflow 3 DAG: every task is one `maang` command, the same one that a person types.

This file does not import `maang_cli`, because the command may be installed in another environment (`MAANG_COMMAND`).
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

from airflow.configuration import conf
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset, AssetAlias, BaseOperator, Connection, Param, chain
from airflow.timetables.interval import CronDataIntervalTimetable

try:
    from airflow.sdk.exceptions import AirflowFailException
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.exceptions import AirflowFailException  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOC = """\
### One day of stock bars: fetched, audited, published atomically

```
                ┌─ create_staging_table ────┐
create_schema ──┼─ create_prod_table ───────┼── load_to_staging ── run_dq_check ── clear_step ─┐
                └─ create_cumulative_table ─┘                                                  │
                 ┌─────────────────────────────────────────────────────────────────────────────┘
                 │                              ┌─ drop_staging_table
                 └─ exchange_data_from_staging ─┤
                                                └─ clear_cumulative ── cumulate_step
```

The DAG runs every day at 06:00 New York, for the day before. Each task is one `maang` command with `--date`.

**Nothing is cleared first.** `clear_step` and `clear_cumulative` log which rows the next task will replace, and clear nothing.
Clearing and inserting are one commit, in `exchange_data_from_staging` and in `cumulate_step`, because no reader may see the day
missing.

| exit code | state of the task | reason |
|---|---|---|
| 0 | success | |
| 99 | skipped, and all tasks after it; the run is a success | NYSE did not trade on that day |
| 2, 5, 126, 127 | failed immediately | waiting can't help: settings, rights, other table columns, `MAANG_COMMAND` |
| 3 | failed immediately | the gate refused the bars: production is untouched, staging is kept, the log names checks and rows |
| 1, 4, 130, 143 | retried, with exponential back-off | the source or the warehouse failed, or the session is not final yet |

To run one day by hand, trigger the DAG with a date. To run it again, clear the run: the result is that of a first run.
"""

FATAL = {
    2: "waiting can't help: settings, rights, or other table columns",
    3: "the gate refused the bars; nothing was published, staging is kept",
    5: "some of the sessions failed or were refused",
    126: "the shell can't execute MAANG_COMMAND",
    127: "the shell can't find MAANG_COMMAND",
}
"""Exit codes after which a retry is pointless, and why. The last two come from the shell, the others from maang."""
HEALING = {
    1: "a bug in maang; its traceback is in the log",
    4: "the source or the warehouse failed, or the session is not final yet",
    130: "interrupted; published data is intact",
    143: "terminated; published data is intact",
}
"""Exit codes after which a retry may succeed, and why."""
REFUSED = 3
GRACE = 3
"""An alert gives up this many seconds before Airflow's `[core] task_success_overtime` ends."""
CHECK_SHARE = 0.6
"""How much of an alert's time `maang check` may take; the rest is for sending the alert."""

PRODUCTION = Asset("daily_stock_prices")
CUMULATIVE = Asset("daily_stock_prices_cumulative")

DATE = "{{ params.date or ds | default('') }}"
"""`ds` is undefined in a manual run without a logical date. The date is then empty, and maang asks for one."""
SHARED_OPTIONS = '"--date=$STOCK_DATE" ${STOCK_TICKERS:+"--tickers=$STOCK_TICKERS"}'
"""Values are variables, so that bash never runs them as code, and follow `=`, so that maang never reads them as options."""


BACKOFF = type(BaseOperator.retry_exponential_backoff)(2)
"""Each wait is twice the one before. Airflow 3.0 and 3.1 take True for that, later versions the factor: there, True means 1."""


def exit_code(exception: object) -> int | None:
    """The command's exit code, which is only in the text of the task's exception; None for any other failure."""
    found = re.search(r"\bexit code (\d+)\b", str(exception))
    return int(found[1]) if found else None


class MaangOperator(BashOperator):
    """Fails its task immediately if waiting can't help. All else is retried as the task's settings say."""

    def execute(self, context: Any) -> Any:
        try:
            return super().execute(context)
        except Exception as exc:
            if (code := exit_code(exc)) in FATAL:
                raise AirflowFailException(f"exit code {code}: {FATAL[code]}") from exc
            raise


class Alert(NamedTuple):
    """What an alert says. The notifiers' templates read it: `{{ alert.title }}`.

    It is not a dataclass, because a dataclass looks its module up in `sys.modules`. Airflow does not add this file there when it
    loads it for a deadline's callback.
    """

    title: str
    text: str

    @property
    def slack(self) -> str:
        """Title and text in Slack's markup, in which only these three characters are escaped."""
        escaped = self.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return f"*{self.title}*\n{escaped}"


def send_alert(alert: Alert, context: Any, slack_connection: str | None, email_to: str | None) -> None:
    """Send an alert through Airflow's own notifiers for Slack and e-mail, if they are set.

    A notifier renders its texts as templates. The alert is passed as a value, so that no part of it is read as a template.
    """

    # The notifiers are imported only if there is an alert: they take longer to load than the rest of this file.
    def post_to_slack(connection: str) -> None:
        from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier  # noqa: PLC0415

        SlackWebhookNotifier(slack_webhook_conn_id=connection, text="{{ alert.slack }}")(context)

    def send_mail(address: str) -> None:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier  # noqa: PLC0415

        SmtpNotifier(to=address, subject="{{ alert.title }}", html_content="<pre>{{ alert.text | e }}</pre>")(context)

    context["alert"] = alert
    failures = []
    for send, recipient in ((post_to_slack, slack_connection), (send_mail, email_to)):
        try:
            if recipient:
                send(recipient)
        except Exception as exc:  # noqa: BLE001  the other notifier still has to send the alert
            failures.append(exc)
    if failures:
        raise ExceptionGroup("an alert was not delivered", failures)


class AlertTimeout(BaseException):
    """An alert took too long. It is not an Exception, so that `send_alert` does not catch it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise AlertTimeout in the block if it takes longer than this."""

    def stop(_signum: int, _frame: object) -> None:
        raise AlertTimeout

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def describe_failure(context: Any, secrets: Mapping[str, str], seconds: float) -> Alert:
    """The alert for a failed task. After a refusal it shows what the gate found: the task's exception says only `exit code 3`."""
    ti, params = context["ti"], context["params"]
    date = params.get("date") or context.get("ds") or ""
    exception = context.get("exception")
    code = exit_code(exception)
    reason = (FATAL | HEALING).get(code, "see the log") if code else ""
    lines = [f"exit code {code}: {reason}" if code else str(exception or "the task was killed")]
    if code == REFUSED:
        lines += failing_checks(date, params.get("tickers"), secrets, seconds)
    return Alert(f"{ti.dag_id} {date}: {ti.task_id} failed", "\n".join([f"date: {date}", *lines, f"log: {ti.log_url}"]))


def failing_checks(date: str, tickers: str | None, secrets: Mapping[str, str], seconds: float) -> Iterator[str]:
    """The checks that the kept staging fails, with the first rows of each; or a line that says why they are unavailable."""
    command = [*os.environ.get("MAANG_COMMAND", "maang").split(), "check", f"--date={date}", "--json", "--quiet"]
    command += [f"--tickers={tickers}"] if tickers else []
    try:
        env = os.environ | {name: str(Connection.get(connection).password) for name, connection in secrets.items()}
        done = subprocess.run(  # noqa: S603
            command, env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
        document = json.loads(done.stdout)
        audit, error = document["result"], document.get("error", {})
    except Exception as exc:  # noqa: BLE001  an alert without the rows is better than none
        yield f"the failing rows are unavailable ({type(exc).__name__}); see the log"
        return
    if audit is None:
        yield f"the failing rows are unavailable ({error.get('message')}); see the log"
        return
    yield f"staging: {audit['staging']}"
    for check in audit["checks"]:
        if check["refused"]:
            rows = [row for row in check["rows"] if row["outcome"] == "refused"]
            yield f"{check['name']} ({check['promise']}): {check['refused']} failing"
            yield from (f"  {row['ticker'] or 'session'} {row['date']}: {row['found']}" for row in rows)
            if check["refused"] > len(rows):
                yield f"  and {check['refused'] - len(rows)} more"


def alert_late_run(context: Any, slack_connection: str | None = None, email_to: str | None = None) -> None:
    """Send an alert for a run that missed its deadline. Airflow gives backfills one too; they are left out."""
    run = context["dag_run"]
    if run["run_type"] == "backfill":
        return
    date = (run["conf"] or {}).get("date") or str(run["logical_date"] or "")[:10]
    alert = Alert(
        f"{run['dag_id']} {date}: late",
        f"date: {date}\nrun: {run['dag_run_id']}, {run['state']}\ndeadline: {context['deadline']['deadline_time']}",
    )
    send_alert(alert, context, slack_connection, email_to)


def late_alert(deadline: timedelta, slack_connection: str | None, email_to: str | None) -> Any:
    """What makes Airflow send an alert for a late run. Only newer versions of Airflow have it, so it is imported here.

    Raises:
        ValueError: Airflow is too old.
    """
    try:
        from airflow.sdk import (  # type: ignore[attr-defined]  # noqa: PLC0415  these names are exported lazily
            DeadlineAlert,
            DeadlineReference,
            SyncCallback,
        )
    except ImportError as exc:
        raise ValueError("a deadline needs Airflow 3.2 or later") from exc
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=deadline,
        callback=SyncCallback(alert_late_run, kwargs={"slack_connection": slack_connection, "email_to": email_to}),
    )


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
        max_active_runs: how many dates may run at the same time.
        retries: how often Airflow tries a task again. With the default delay, 8 retries take about 4 hours.
        retry_delay: the wait before the first retry. Each next wait is twice as long, up to an hour.
        slack_connection: id of the Airflow connection to an incoming webhook. Failures are posted there.
        email_to: address that failures are mailed to, through the connection `smtp_default`.
        deadline: a run that is not finished this long after it was queued sends an alert. Backfills send none. It needs
            Airflow 3.2 or later.
        secrets: variables that hold tokens, each with the id of the Airflow connection whose password it gets.

    Raises:
        ValueError: there is a deadline, and neither `slack_connection` nor `email_to`, or Airflow is too old for it.
    """
    secrets = secrets or {}
    has_alerts = bool(slack_connection or email_to)
    options: dict[str, Any] = {}
    if deadline:
        if not has_alerts:
            raise ValueError("a deadline needs Slack or e-mail: set slack_connection or email_to")
        options["deadline"] = late_alert(deadline, slack_connection, email_to)

    def alert_failure(context: Any) -> None:
        # Airflow kills a task whose callback takes longer than this, and then retries the task, whatever the policy decided.
        seconds = max(conf.getfloat("core", "task_success_overtime") - GRACE, 1)
        try:
            with time_limit(seconds):
                send_alert(describe_failure(context, secrets, seconds * CHECK_SHARE), context, slack_connection, email_to)
        except AlertTimeout as exc:
            raise TimeoutError(f"the alert was given up after {seconds} s: raise [core] task_success_overtime") from exc

    dag = DAG(
        "stock_dag",
        description="One day of stock bars: fetched, audited, published atomically",
        doc_md=DOC,
        tags=["maang"],
        # With a plain cron string, `ds` would be the day of the trigger. With a cron for Tuesday to Saturday, the run for
        # Monday's session would be dated Saturday.
        schedule=CronDataIntervalTimetable("0 6 * * *", timezone="America/New_York"),
        # A run dated before this has no tasks, and Airflow calls it a success.
        start_date=datetime(1990, 1, 1, tzinfo=ZoneInfo("America/New_York")),
        catchup=False,
        max_active_runs=max_active_runs,
        params={
            "date": Param(
                None,
                type=["null", "string"],
                format="date",
                title="Date",
                description="Session date (New York). Without it: the day that the run is scheduled for.",
            ),
            "tickers": Param(
                None,
                type=["null", "string"],
                # No @FILE: a user who may start a run may not be allowed to read the worker's files.
                pattern="^[^@]*$",
                maxLength=100_000,  # on Linux a variable can hold 128 KiB
                title="Tickers",
                description="Tickers or NAME=SYMBOL:FIRST entries, such as META,BRK.A. Without them: the worker's MAANG_TICKERS.",
            ),
        },
        default_args={
            "retries": retries,
            "retry_delay": retry_delay,
            "retry_exponential_backoff": BACKOFF,
            "max_retry_delay": timedelta(hours=1),
            "execution_timeout": timedelta(hours=1),
            "on_failure_callback": alert_failure if has_alerts else None,
        },
        **options,
    )

    def task(task_id: str, command: str, *updates: Asset) -> MaangOperator:
        def record_date(context: Any, _result: object) -> None:
            for asset in updates:
                date = context["params"].get("date") or context["ds"]
                context["outlet_events"][AssetAlias(asset.name)].add(asset, extra={"date": date})

        return MaangOperator(
            task_id=task_id,
            dag=dag,
            # MAANG_COMMAND is not quoted, because it may have several words, such as `uv run maang`.
            bash_command=f"exec ${{MAANG_COMMAND:-maang}} {command} {SHARED_OPTIONS}",
            # Airflow reports failures: with alerts, and with retries that maang does not know of.
            env={"STOCK_DATE": DATE, "STOCK_TICKERS": "{{ params.tickers or '' }}", "MAANG_NOTIFY": "off"}
            | {name: f"{{{{ conn.get('{connection}').password }}}}" for name, connection in secrets.items()},
            append_env=True,
            do_xcom_push=False,
            # An alias of the same name, through which the task updates the Asset. On Airflow 3.0, `airflow dags test` fails with
            # the Asset itself, until a DAG processor has stored it.
            outlets=[AssetAlias(asset.name) for asset in updates],
            post_execute=record_date,
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
        task("clear_step", "diff"),
        task("exchange_data_from_staging", "promote", PRODUCTION),
        [task("drop_staging_table", "drop-staging"), clear_cumulative := task("clear_cumulative", "diff --table cumulative")],
    )
    chain(clear_cumulative, task("cumulate_step", "cumulate", CUMULATIVE))
    return dag


def from_environment() -> dict[str, Any]:
    """The arguments of `stock_dag` that the environment sets. It must be the same for every part of Airflow."""

    def variable(name: str) -> str | None:
        return os.environ.get(f"STOCK_DAG_{name}") or None

    arguments: dict[str, Any] = {"slack_connection": variable("SLACK_CONNECTION"), "email_to": variable("EMAIL_TO")}
    if runs := variable("MAX_ACTIVE_RUNS"):
        arguments["max_active_runs"] = int(runs)
    if retries := variable("RETRIES"):
        arguments["retries"] = int(retries)
    if seconds := variable("RETRY_SECONDS"):
        arguments["retry_delay"] = timedelta(seconds=float(seconds))
    if minutes := variable("DEADLINE_MINUTES"):
        arguments["deadline"] = timedelta(minutes=float(minutes))
    if pairs := variable("SECRETS"):
        arguments["secrets"] = dict(pair.strip().split("=", 1) for pair in pairs.split(","))
    return arguments


dag = stock_dag(**from_environment())
