"""The report as one HTML page that loads nothing from elsewhere. Only `maang report` imports this package.

The page is `page.html.jinja`, its charts are the Vega-Lite specifications `*.vl.json`; `page.js` gives them their rows.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert

from maang_cli import __version__
from maang_cli import sessions as calendar
from maang_cli.checks import CHECKS
from maang_cli.missing import few
from maang_cli.render.lines import cell, duration, line, plural
from maang_cli.report import CHARTED, Level, Mark, Prices, Readable, Report, State

LISTED = 500
"""So many findings, and so many revisions, are listed."""
WORDS = {Level.GREEN: "All is right", Level.AMBER: "Published, but have a look", Level.RED: "Not all is right"}
CHARTS = ("calendar", "prices", "checks", "latency")


def page(report: Report) -> str:
    """The page. Everything that comes from the tables is escaped: in HTML by the template, in the data as JSON."""
    here = files(__name__)
    scripts = [vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), here.joinpath("page.js").read_text("utf-8")]
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # and not in the order of the alphabet
    environment.filters |= {"cell": cell, "plural": plural, "utc": _utc, "delay": _delay}
    template = environment.from_string(here.joinpath("page.html.jinja").read_text("utf-8"))
    specs = {name: json.loads(here.joinpath(f"{name}.vl.json").read_text("utf-8")) for name in (*CHARTS, "config")}
    return template.render(
        scripts=scripts,
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src {' '.join(hashes)}",
                "style-src 'unsafe-inline'",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=here.joinpath("page.css").read_text("utf-8"),
        data={"specs": specs, "charts": _charts(report)},
        report=report,
        word=WORDS[report.level],
        said=list(_said(report)),
        states=Counter(day.state for day in report.days),
        kinds=sorted({mark.kind for prices in report.prices for mark in prices.marks}),
        outcomes=Counter(row["outcome"] for row in report.findings),
        checks=_totals(report.findings),
        summaries={prices.ticker: _summary(prices) for prices in report.prices},
        latency=_latency(report),
        in_new_york=calendar.in_new_york,
        version=__version__,
        listed=LISTED,
        charted=CHARTED,
        State=State,
    )


def _said(report: Report) -> Iterable[str]:
    """Whether all is right, in sentences."""
    yield _newest(report.newest)
    found = report.status
    yield "No session is missing." if report.verdict is None else f"There are {report.verdict.message}."
    held = [(day, ticker) for day, tickers in found.held.items() for ticker in tickers]
    if held:
        on = plural(len(found.held), "session")
        yield f"{plural(len(held), 'held row')} on {on} {_verb(held, 'waits', 'wait')} for somebody."
    elif not found.refused:
        yield "No refused or held row waits for anybody."
    if allowed := found.bars.allowed:
        yield f"{plural(len(allowed), 'session')} {_verb(allowed, 'lacks', 'lack')} bars that may be missing."
    if early := found.bars.early.keys() - found.late.keys():
        yield f"{plural(len(early), 'session')} {_verb(early, 'has', 'have')} early rows, and will be final later."
    if found.disputed:
        yield f"{plural(len(found.disputed), 'split')} {_verb(found.disputed, 'is', 'are')} disputed and not applied."


def _verb(things: Sized, one: str, many: str) -> str:
    return one if len(things) == 1 else many


def _newest(newest: Readable | None) -> str:
    if newest is None:
        return "Nothing is stored for these tickers."
    when = f"The newest session is {newest.session}. It became readable on {calendar.in_new_york(newest.moment)}"
    if newest.delay < timedelta(0):
        return f"{when}, before it was final, so its rows may still change."
    return f"{when}, {_delay(newest.delay)} after it was final."


def _delay(value: timedelta) -> str:
    """A duration as a person reads it."""
    return f"{value.days} days" if value.days >= 2 else duration(value.total_seconds())


def _utc(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _latency(report: Report) -> str:
    """The latency of the last sessions, as `maang status` prints it."""
    text = "" if report.status.latency is None else line(report.status.latency)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


OUTCOMES = ("refused", "held", "warned", "accepted")


def _totals(findings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many findings of each outcome each check has."""
    counts = Counter((row["name"], row["outcome"]) for row in findings)
    return [
        {"name": check.name, "promise": check.promise, **{outcome: counts[check.name, outcome] for outcome in OUTCOMES}}
        for check in CHECKS
    ]


def _summary(prices: Prices) -> str:
    """A chart in words, for those who can't see it."""
    bars = prices.bars
    first, last = bars[0], bars[-1]
    lows, highs = ([bar[name] for bar in bars if bar[name] is not None] for name in ("low", "high"))
    kinds = Counter(mark.kind for mark in prices.marks)
    marks = ", ".join(plural(number, kind if kind in {"split", "revision"} else f"{kind} row") for kind, number in kinds.items())
    return (
        f"{plural(len(bars), 'session')} from {first['date']} to {last['date']}. The close went from {cell(first['close'])} to "
        f"{cell(last['close'])} USD; the lowest price is {min(lows, default='?')}, the highest {max(highs, default='?')} USD."
        f"{f' Marked: {marks}.' if marks else ''}"
    )


def _charts(report: Report) -> dict[str, Any]:
    """The rows of each chart, as `page.js` expects them: by column."""
    sessions = [str(day) for day in report.status.request.sessions]
    return {
        "sessions": [sessions[0], sessions[-1]],
        "calendar": _columns({"day": str(each.day), "state": each.state, "said": each.said} for each in report.days),
        "prices": {
            prices.ticker: {"bars": _columns(map(_bar, prices.bars)), "marks": _columns(map(_mark, prices.marks))}
            for prices in report.prices
        },
        "checks": _columns(_cells(report.findings)),
        "names": [check.name for check in CHECKS],
        "latency": _columns(
            {"day": str(day), "minutes": round(delay.total_seconds() / 60, 1), "delay": _delay(delay)}
            for day, delay in report.delays.items()
        ),
    }


BAR = ("open", "high", "low", "close", "volume", "volatility_7_day", "avg_7_day_volume")


def _bar(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"day": str(row["date"]), **{name: _number(row.get(name)) for name in BAR}}


def _mark(mark: Mark) -> dict[str, Any]:
    return {"day": str(mark.day), "kind": mark.kind, "said": mark.said}


def _number(value: Decimal | int | None) -> float | int | None:
    """A number for a chart; the nearest float of a price prints like the price."""
    return float(value) if isinstance(value, Decimal) else value


def _cells(findings: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """The findings by session, check and outcome."""
    cells: dict[tuple[date, str, str], list[str]] = {}
    for row in findings:
        cells.setdefault((row["date"], row["name"], row["outcome"]), []).append(row["ticker"] or "the session")
    for (day, name, outcome), names in sorted(cells.items()):
        yield {"day": str(day), "check": name, "outcome": outcome, "rows": len(names), "said": few(sorted(names))}


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows by column, which takes much less room."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found
