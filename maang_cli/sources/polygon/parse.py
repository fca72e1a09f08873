"""The API's answers as rows of staging: exact decimals, rounded once, from an envelope that must not contradict itself.

Arrow's JSON reader decodes the usual answer, digit by digit and fast. Python decodes an answer that is unusual in any way, finds
the field and says what is wrong. A row with a wrong value is left out, and reported; a wrong envelope is an error.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from maang_cli.errors import SourceFailed
from maang_cli.sources.polygon import arrow
from maang_cli.sources.polygon.arrow import FIELDS, SCHEMA, WHOLE, new_york

_EXACT = Context(prec=60, rounding=ROUND_HALF_UP, traps=[InvalidOperation])
MAX_ROWS = 100_000
"""In one answer: a whole market's day has 12,400, a range at most 50,000."""
MAX_VALUES = 1_000_000
"""In one answer. Each takes up to 200 bytes of memory in Python, however few bytes it was sent in."""
_decoding = threading.Lock()
"""Python's decoder needs the most memory, so it has one answer at a time. It holds the interpreter's lock: nobody loses time."""


class Contradiction(SourceFailed):
    """An answer that contradicts itself or the request."""


class Adjusted(Contradiction):
    """The bars are not as traded: this concerns every bar that the vendor sends."""


class _WrongValue(Exception):
    """A row has a value that can't be stored."""


@dataclass(frozen=True)
class Page:
    rows: pa.Table
    """In the columns of `tables.FETCHED_COLUMNS`."""
    total: int
    """How many rows the answer has, other tickers' rows included."""
    next_url: str | None = None
    keys: pa.Array | None = None
    """What tells the rows of one page from those of the next: tickers in a grouped answer, sessions in a range."""
    wrong: Mapping[str | date | None, str] = field(default_factory=dict)
    """What is wrong with the rows that were left out, by ticker (grouped) or session (range; None: the session is not known)."""


@dataclass(frozen=True)
class Reader:
    """Reads the vendor's answers."""

    where: str
    """The vendor's host, for messages."""
    clean: Callable[[str, int], str]
    """Makes the vendor's words safe to show, and cuts them to a length."""

    def grouped(self, body: bytes, session: date, wanted: frozenset[str]) -> Page:
        """One session's bars of these tickers. A ticker with a wrong value has no row.

        Raises:
            Contradiction: the answer contradicts itself.
        """
        self._check_size(body, str(session))
        if (usual := arrow.decode(body, named=True)) is not None:
            names = usual.results.field("T")
            which = pc.is_in(names, pa.array(list(wanted), pa.string()))
            mine = usual.results if pc.all(which).as_py() else usual.results.filter(which)
            if (rows := arrow.table(mine, mine.field("T"), session)) is not None:
                return Page(rows, len(names), usual.next_url, names)
        with _decoding:
            answer = self._envelope(body, str(session))
            names = [name if isinstance(name := row.get("T"), str) else None for row in answer["results"]]
            bars: list[dict[str, object]] = []
            wrong: dict[str | date | None, str] = {}
            for name, row in zip(names, answer["results"], strict=True):
                if name in wanted:
                    try:
                        bars.append({"session": session} | self._bar(row, name))
                    except _WrongValue as exc:
                        wrong[name] = self._answered(str(session), f"{exc}: {name} is missing there")
        right = [bar for bar in bars if bar["ticker"] not in wrong]
        return self._page(right, answer, pa.array(names, pa.string()), wrong)

    def ranged(self, body: bytes, ticker: str, span: str) -> Page:
        """One ticker's bars, each for the session of its own date. `span` is the request, for messages.

        A session with a wrong value has no row.

        Raises:
            Contradiction: the answer contradicts itself, or is about another ticker.
        """
        self._check_size(body, span)
        if (usual := arrow.decode(body, named=False)) is not None and usual.ticker in (None, ticker):
            names = pa.repeat(pa.scalar(ticker), len(usual.results))
            if (rows := arrow.table(usual.results, names)) is not None:
                return Page(rows, len(names), usual.next_url, rows["session"].combine_chunks())
        with _decoding:
            answer = self._envelope(body, span)
            for row in (answer, *answer["results"]):
                if (other := row.get("T" if row is not answer else "ticker")) not in (None, ticker):
                    raise self.contradiction(span, f"the ticker {self._shown(other)}")
            bars: list[dict[str, object]] = []
            wrong: dict[str | date | None, str] = {}
            for row in answer["results"]:
                day = None
                try:
                    day = self._date(row.get("t"), ticker)
                    bars.append({"session": day} | self._bar(row, ticker))
                except _WrongValue as exc:
                    where = "on a session" if day is None else f"on {day}"
                    wrong[day] = self._answered(span, f"{exc}: {ticker} is missing {where}")
        days = pa.array([*(bar["session"] for bar in bars), *wrong], pa.date32())
        return self._page([bar for bar in bars if bar["session"] not in wrong], answer, days, wrong)

    def _page(
        self, bars: list[dict[str, object]], answer: Mapping[str, Any], keys: pa.Array, wrong: Mapping[str | date | None, str]
    ) -> Page:
        rows = pa.Table.from_pylist(bars, schema=SCHEMA)
        return Page(rows, len(answer["results"]), answer.get("next_url") or None, keys, wrong)

    def _check_size(self, body: bytes, what: str) -> None:
        """Refuse an answer that needs far more memory than any real one, before anything decodes it."""
        rows = body.count(b"{")
        values = len(body) // 2  # at most
        if values > MAX_VALUES:
            values = rows + body.count(b",") + body.count(b"[")
        if rows > MAX_ROWS or values > MAX_VALUES:
            raise self.contradiction(what, f"more than {MAX_ROWS if rows > MAX_ROWS else MAX_VALUES} JSON objects or values")

    def _envelope(self, body: bytes, what: str) -> dict[str, Any]:
        """The answer, whose `results` are a list of objects, after a check that it does not contradict itself."""
        try:
            answer = json.loads(body, parse_float=_exact, parse_int=_exact, parse_constant=_exact)
        except (ValueError, RecursionError) as exc:
            raise self.contradiction(what, f"{len(body)} bytes that are not a JSON document") from exc
        if not isinstance(answer, dict):
            raise self.contradiction(what, "JSON that is not an object")
        status = answer.get("status")
        if status not in ("OK", "DELAYED"):
            raise self.contradiction(what, f"status {self._shown(status)} in an HTTP 200")
        if answer.get("adjusted", False) is not False:
            text = self._answered(what, f"adjusted {self._shown(answer['adjusted'])} instead of bars as traded")
            raise Adjusted(text, hint=_HINT)
        count = answer.get("resultsCount")
        rows = answer.get("results", [] if count == 0 else None)
        if not isinstance(rows, list):
            raise self.contradiction(what, f"no list of results, and resultsCount {self._shown(count)}")
        if count != len(rows):
            raise self.contradiction(what, f"{len(rows)} results, and resultsCount {self._shown(count)}")
        if not all(isinstance(row, dict) for row in rows):
            raise self.contradiction(what, "a result that is not an object")
        if not isinstance(answer.get("next_url"), str | None):
            raise self.contradiction(what, "a next page whose address is not text")
        return answer | {"results": rows}

    def _bar(self, row: Mapping[str, Any], ticker: str) -> dict[str, object]:
        """The row in staging's columns, without `session`.

        Raises:
            _WrongValue: a value can't be stored; the text names ticker, field and value.
        """
        numbers = {name: self._number(row.get(key), unit, f"{ticker}'s {key}") for name, (key, unit) in FIELDS.items()}
        return {"ticker": ticker, "date": self._date(row.get("t"), ticker), **numbers}

    def _date(self, millis: object, ticker: str) -> date | None:
        """The New York date of `t`, Unix milliseconds: the session's end in a grouped answer, its first midnight in a range."""
        exact = self._number(millis, WHOLE, f"{ticker}'s t")
        if exact is None:
            return None
        try:
            return new_york(int(exact))
        except (ValueError, OverflowError, OSError) as exc:
            raise _WrongValue(f"{ticker}'s t as {self._shown(exact)}, which is not a time") from exc

    def _number(self, value: object, unit: Decimal, field: str) -> Decimal | None:
        """`value` rounded half up to `unit`; None stays None."""
        if value is None:
            return None
        if not isinstance(value, Decimal):
            raise _WrongValue(f"{field} as {self._shown(value)}, which is not a number")
        try:
            rounded = value.quantize(unit, context=_EXACT)
        except InvalidOperation as exc:
            raise _WrongValue(f"{field} as {self._shown(value)}, which fits no column") from exc
        # quantize accepts NaN. Staging's DECIMAL(38,2) has 36 digits before the point.
        if not rounded.is_finite() or rounded.adjusted() >= 36:
            raise _WrongValue(f"{field} as {self._shown(value)}, which fits no column")
        return rounded

    def _shown(self, value: object) -> str:
        if isinstance(value, list | dict):  # it may be deeper than Python can print
            return "a list" if isinstance(value, list) else "an object"
        return self.clean(str(value) if isinstance(value, Decimal) else repr(value), 40)

    def _answered(self, what: str, found: str) -> str:
        return f"{self.where} answered for {what} with {found}"

    def contradiction(self, what: str, found: str) -> Contradiction:
        return Contradiction(self._answered(what, found), hint=_HINT)


_HINT = "run the same command again; if it persists, ask the vendor"


def _exact(text: str) -> Decimal | str:
    """A number of a JSON document; the text itself if it is beyond all bounds."""
    try:
        return Decimal(text)
    except ArithmeticError:  # an exponent with twenty digits
        return text
