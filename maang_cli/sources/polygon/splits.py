"""The vendor's splits (https://massive.com/docs/rest/stocks/corporate-actions/splits), from the newer or the older endpoint."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from maang_cli.sources.polygon.http import NotFound, NotInPlan
from maang_cli.sources.polygon.parse import Contradiction
from maang_cli.splits import Claim, Claims

log = logging.getLogger("maang")

PATH, ROWS = "/stocks/v1/splits", 5_000
OLDER_PATH, OLDER_ROWS = "/v3/reference/splits", 1_000
"""The endpoint before February 2026. It can't select several tickers."""
MAX_PAGES = 20
MANY = 100
"""From more tickers on, the whole market is asked for, which has 5 to 10 splits a day."""


@dataclass(frozen=True)
class Vendor:
    """What a call for splits needs of the source."""

    base: str
    """The configured address."""
    get: Callable[[str], bytes]
    """Makes a call with the key, and returns the body of its answer."""
    checked: Callable[[str], str]
    """The address of a next page, after a check that it is the vendor's."""
    contradiction: Callable[[str], Contradiction]
    """The error of an answer that contradicts itself."""


def fetch(vendor: Vendor, tickers: Sequence[str], first: date, last: date) -> Claims:
    """The splits of these tickers with execution dates from `first` to `last`.

    If the vendor or the plan has no splits, the claims are not complete, and a note says so.

    Raises:
        Contradiction: an answer contradicts itself.
    """
    dates = {"execution_date.gte": str(first), "execution_date.lte": str(last)}
    newer = dates | ({"ticker.any_of": ",".join(tickers)} if len(tickers) <= MANY else {})
    older = dates | {"limit": str(OLDER_ROWS), "sort": "execution_date", "order": "asc"}
    try:
        try:
            rows = list(_rows(vendor, PATH, newer | {"limit": str(ROWS), "sort": "execution_date.asc"}))
        except NotFound:
            rows = list(_rows(vendor, OLDER_PATH, older))
    except (NotFound, NotInPlan) as exc:
        log.warning("note: no splits: %s; those that are known are used", exc.message)
        return Claims(complete=False)
    wanted = frozenset(tickers)
    return Claims(tuple(_claim(vendor, row) for row in rows if row.get("ticker") in wanted))


def _rows(vendor: Vendor, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of all pages, each once."""
    url = f"{vendor.base}{path}?{urlencode(query)}"
    seen: set[str] = set()
    for _ in range(MAX_PAGES):
        answer = _answer(vendor, url)
        fresh = {text: row for row in answer["results"] if (text := json.dumps(row, default=str, sort_keys=True)) not in seen}
        seen |= fresh.keys()
        yield from fresh.values()
        if not (following := answer.get("next_url")):
            return
        if not fresh:
            raise vendor.contradiction("a page that brings nothing new")
        url = vendor.checked(str(following))
    raise vendor.contradiction(f"more than {MAX_PAGES} pages")


def _answer(vendor: Vendor, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(vendor.get(url), parse_float=Decimal, parse_constant=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as exc:
        raise vendor.contradiction("bytes that are not a JSON document") from exc
    results = answer.get("results", []) if isinstance(answer, dict) else None
    if not isinstance(results, list) or not all(isinstance(row, dict) for row in results):
        raise vendor.contradiction("no list of splits")
    return {**answer, "results": results}


def _claim(vendor: Vendor, row: dict[str, Any]) -> Claim:
    try:
        executed = date.fromisoformat(str(row.get("execution_date")))
        split_from, split_to = (_ratio(row.get(side)) for side in ("split_from", "split_to"))
    except (ValueError, ArithmeticError, TypeError) as exc:
        raise vendor.contradiction(f"a split of {row['ticker']} without a date or a ratio") from exc
    return Claim(row["ticker"], executed, split_from, split_to, "polygon")


def _ratio(number: object) -> Decimal:
    """One side of a ratio, with the 8 places that the table has.

    Raises:
        TypeError, ArithmeticError: it is not a number, or too large.
    """
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        raise TypeError
    rounded = Decimal(number).quantize(Decimal(1).scaleb(-8))
    if not rounded.is_finite() or rounded.adjusted() >= 10:
        raise ArithmeticError
    return rounded
