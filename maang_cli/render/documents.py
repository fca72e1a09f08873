"""Results as JSON objects: the `result` of each command's document (docs/json.md)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from functools import singledispatch
from math import isfinite
from typing import Any

from maang_cli.backfill import Backfilled, Compared, Plan
from maang_cli.checks import Audit
from maang_cli.config import Configuration
from maang_cli.diff import Differences
from maang_cli.doctor import Checkup
from maang_cli.errors import MaangError, NoSession
from maang_cli.missing import StaleWindows
from maang_cli.pipeline import Cumulated, DayRun, Published, Rows
from maang_cli.reading import Selected
from maang_cli.report import Written
from maang_cli.request import Request
from maang_cli.sessions import final_at
from maang_cli.status import Latency, Status


@singledispatch
def document(value: object) -> dict[str, Any]:
    """A result as a JSON object; `plain` turns its decimals and dates into text."""
    return asdict(value)  # type: ignore[call-overload, no-any-return]


def plain(value: object) -> str:
    """A value that JSON lacks: decimals as strings, so that no reader turns them into floats; dates and times in ISO 8601."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in a result")


@document.register(Audit)
def _audit(value: Audit) -> dict[str, Any]:
    return {
        "passed": value.passed,
        "staging": value.staging,
        "checks": [
            {
                "name": outcome.check.name,
                "promise": outcome.check.promise,
                "kind": outcome.check.kind,
                "failing": outcome.failing,
                "refused": outcome.refused,
                "rows": [asdict(row) for row in outcome.rows],
            }
            for outcome in value.results
        ],
        "refused": _refused(value.refused),
        "allowed": [asdict(row) for row in value.allowed],
    }


@document.register(Checkup)
def _checkup(value: Checkup) -> dict[str, Any]:
    return {
        "checks": [
            {"name": each.name, "ok": each.error is None, "found": each.found, "hint": each.error.hint if each.error else None}
            for each in value.diagnoses
        ]
    }


@document.register(Configuration)
def _configuration(value: Configuration) -> dict[str, Any]:
    return {
        "settings": [asdict(setting) for setting in value.settings],
        "config_file_exists": value.config_file_exists,
        "not_read": value.not_read,
        "folders": {name: str(folder) for name, folder in value.folders.items()},
        "catalog": value.catalog,
        "tables": [{"table": name, "metadata": place} for name, place in value.tables.items()],
    }


@document.register(Published)
def _published(value: Published) -> dict[str, Any]:
    return asdict(value.replaced) | {
        "refused": _refused(value.audit.refused),
        "allowed": [asdict(row) for row in value.allowed],
        "held": _tickers(value.held),
        "revised": document(value.revised) if value.revised else None,
    }


@document.register(Cumulated)
def _cumulated(value: Cumulated) -> dict[str, Any]:
    return asdict(value.replaced) | {"missing": [{"session": day, "tickers": stored} for day, stored in value.missing]}


@document.register(Differences)
def _differences(value: Differences) -> dict[str, Any]:
    return {
        "table": value.table,
        **{how: _tickers(getattr(value, how)) for how in ("new", "changed", "removed")},
        "cells": [asdict(cell) for cell in value.cells],
    }


@document.register(DayRun)
def _day_run(value: DayRun) -> dict[str, Any]:
    return {
        "ingest": document(value.ingested),
        "check": document(value.audit),
        "promote": document(value.published),
        "cumulate": document(value.cumulated),
    }


@document.register(NoSession)
def _no_session(value: NoSession) -> dict[str, Any]:
    return {"no_session": value.message}


@document.register(Plan)
def _plan(value: Plan) -> dict[str, Any]:
    return {
        "universe": _universe(value.request),
        "missing": _tickers(value.bars.missing),
        "allowed": _tickers(value.bars.allowed),
        "early": _tickers(value.bars.early),
        "windows": _windows(value.windows),
        "calls": value.calls.total,
        "grouped_calls": len(value.calls.grouped),
        "range_calls": len(value.calls.ranges),
        "cached_answers": value.calls.cached,
        "calls_per_minute": value.per_minute,
        "minutes": round(value.seconds / 60, 1),
        "batches": len(value.batches),
        "commits": value.commits,
        "rows": value.rows,
    }


@document.register(Backfilled)
def _backfilled(value: Backfilled) -> dict[str, Any]:
    return {
        "published": value.published,
        "production": asdict(value.production),
        "cumulative": asdict(value.cumulative),
        "calls": value.calls,
        "refused": _refused(value.refused),
        "failed": _failed(value.failed),
        "staging": value.kept,
        "allowed": value.allowed,
        "held": _tickers(value.held),
        "revised": document(value.revised) if value.revised else None,
    }


@document.register(Compared)
def _compared(value: Compared) -> dict[str, Any]:
    return document(value.differences) | {"failed": _failed(value.failed)}


def _failed(failed: Mapping[date, MaangError]) -> list[dict[str, Any]]:
    return [{"session": day, "error": failure.message} for day, failure in failed.items()]


@document.register(Status)
def _status(value: Status) -> dict[str, Any]:
    return {
        "complete": value.complete,
        "universe": _universe(value.request),
        "tables": [asdict(found) for found in value.tables],
        "missing": _tickers(value.bars.missing),
        "allowed": _tickers(value.bars.allowed),
        "early": _tickers(value.bars.early),
        "windows": _windows(value.windows),
        "awaited": [{"session": day, "until": until} for day, until in value.awaited.items()],
        "latency": value.latency and _latency(value.latency),
        "staging": [asdict(table) for table in value.staging],
        "last_session": value.last_session,
        "last_final": value.last_final,
        "next_due": value.next_due,
        "next_due_at": final_at(value.next_due),
        "held": _tickers(value.held),
        "refused": value.refused,
        "disputed_splits": [asdict(split) for split in value.disputed],
        "mistaken_rows": value.mistaken and asdict(value.mistaken),
    }


def _latency(value: Latency) -> dict[str, Any]:
    return {
        "sessions": value.sessions,
        "median_seconds": round(value.median.total_seconds()),
        "worst_seconds": round(value.worst.total_seconds()),
        "worst_session": value.worst_session,
    }


@document.register(Rows)
def _rows(value: Rows) -> dict[str, Any]:
    return {"table": value.table, "rows": value.rows.to_pylist(), "adjusted": value.adjusted, "missing": value.missing}


@document.register(Selected)
def _selected(value: Selected) -> dict[str, Any]:
    rows = [{name: _in_json(cell) for name, cell in row.items()} for row in value.rows.to_pylist()]
    return {"columns": value.rows.column_names, "rows": rows}


def _in_json(value: object) -> object:
    """A value of a user's query, which may have any type."""
    if isinstance(value, dict):
        return {str(name): _in_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return list(map(_in_json, value))
    if value is None or isinstance(value, bool | int | str | Decimal | date):  # a datetime is a date
        return value
    return value if isinstance(value, float) and isfinite(value) else str(value)


@document.register(Written)
def _written(value: Written) -> dict[str, Any]:
    found = value.report
    return {
        "file": str(value.path),
        "bytes": value.bytes,
        "level": found.level,
        "verdict": found.verdict and found.verdict.message,
        "charts": [prices.ticker for prices in found.prices],
        "findings": len(found.findings),
        "revisions": len(found.revisions),
    }


def _refused(refused: Mapping[date, Sequence[str]]) -> list[dict[str, Any]]:
    return [{"session": day, "checks": list(names)} for day, names in refused.items()]


def _universe(request: Request) -> list[str]:
    return list(map(request.symbols.entry, request.tickers))


def _tickers(bars: Mapping[date, frozenset[str]]) -> list[dict[str, Any]]:
    return [{"session": day, "tickers": sorted(tickers)} for day, tickers in bars.items()]


def _windows(found: Mapping[date, StaleWindows]) -> list[dict[str, Any]]:
    return [{"session": day, "missing": windows.missing, "stale": windows.stale} for day, windows in found.items()]
