"""Results as one JSON document each."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from maang_cli.backfill import Backfilled, Plan, Windows
from maang_cli.checks import Audit
from maang_cli.doctor import Checkup
from maang_cli.errors import NoSession
from maang_cli.pipeline import Cumulated, DayRun, Published, Rows
from maang_cli.sessions import settled
from maang_cli.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def dumps(value: object) -> str:
    """A result as one JSON document; decimals are strings, dates and times are ISO 8601."""
    return json.dumps(document(value), indent=2, default=_plain, ensure_ascii=False)


@singledispatch
def document(value: object) -> dict[str, Any]:
    """A result as a JSON object. Decimals are strings, so that no reader turns them into floats; dates are ISO 8601."""
    return asdict(value)  # type: ignore[call-overload, no-any-return]


@document.register(Audit)
def _(value: Audit) -> dict[str, Any]:
    return {
        "passed": value.passed,
        "sessions": list(value.sessions),
        "staging": value.staging,
        "checks": [
            {
                "name": outcome.check.name,
                "promise": outcome.check.promise,
                "failing": outcome.failing,
                "rows": [asdict(row) for row in outcome.rows],
            }
            for outcome in value.results
        ],
        "refused": _refusals(value.refused),
        "absent": [asdict(row) for row in value.absent],
    }


@document.register(Checkup)
def _(value: Checkup) -> dict[str, Any]:
    return {
        "findings": [
            {"name": each.name, "ok": each.error is None, "said": each.said, "hint": each.error.hint if each.error else None}
            for each in value.findings
        ]
    }


def _refusals(refused: Mapping[date, Sequence[str]]) -> list[dict[str, Any]]:
    return [{"session": day, "checks": list(names)} for day, names in refused.items()]


@document.register(Published)
def _(value: Published) -> dict[str, Any]:
    return asdict(value.replaced) | {
        "refused": _refusals(value.audit.refused),
        "absent": [asdict(row) for row in value.absent],
    }


@document.register(Cumulated)
def _(value: Cumulated) -> dict[str, Any]:
    return asdict(value.replaced) | {"holes": [{"date": day, "tickers": held} for day, held in value.holes]}


@document.register(DayRun)
def _(value: DayRun) -> dict[str, Any]:
    return {
        "ingest": document(value.ingested),
        "check": document(value.audit),
        "promote": document(value.published),
        "cumulate": document(value.cumulated),
    }


@document.register(NoSession)
def _(value: NoSession) -> dict[str, Any]:
    return {"no_session": value.message}


@document.register(Plan)
def _(value: Plan) -> dict[str, Any]:
    return {
        "sessions": len(value.request.sessions),
        "missing": _lacking(value.holes.missing),
        "excused": _lacking(value.holes.excused),
        "windows": _windows(value.windows),
        "calls": value.calls.number,
        "grouped_calls": len(value.calls.grouped),
        "range_calls": len(value.calls.ranges),
        "answers_in_hand": value.calls.in_hand,
        "calls_per_minute": value.per_minute,
        "minutes": round(value.seconds / 60, 1),
        "batches": len(value.batches),
        "commits": value.commits,
        "rows": value.rows,
    }


def _lacking(holes: Mapping[date, frozenset[str]]) -> list[dict[str, Any]]:
    return [{"session": day, "tickers": sorted(tickers)} for day, tickers in holes.items()]


def _windows(found: Mapping[date, Windows]) -> list[dict[str, Any]]:
    return [{"session": day, "missing": windows.missing, "stale": windows.stale} for day, windows in found.items()]


@document.register(Backfilled)
def _(value: Backfilled) -> dict[str, Any]:
    return {
        "sessions": len(value.plan.request.sessions),
        "published": value.published,
        "production": asdict(value.production),
        "cumulative": asdict(value.cumulative),
        "calls": value.calls,
        "refused": _refusals(value.refused),
        "failed": [{"session": day, "error": failure.message} for day, failure in value.failed.items()],
        "staging": value.kept,
        "absent": value.absent,
    }


@document.register(Status)
def _(value: Status) -> dict[str, Any]:
    return {
        "whole": value.whole,
        "from": value.request.sessions[0],
        "to": value.request.sessions[-1],
        "tables": [asdict(found) for found in value.tables],
        "gaps": _lacking(value.holes.missing),
        "excused": _lacking(value.holes.excused),
        "windows": _windows(value.windows),
        "staging": [asdict(left) for left in value.staging],
        "last_session": value.last_held,
        "last_finished": value.last_finished,
        "next_due": value.next_due,
        "next_due_at": settled(value.next_due),
    }


@document.register(Rows)
def _(value: Rows) -> dict[str, Any]:
    return {"table": value.table, "rows": value.rows.to_pylist()}


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a result")
