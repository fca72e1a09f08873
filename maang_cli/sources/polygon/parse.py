"""The API's answers as rows of staging: exact decimals, rounded once, from an envelope that must not contradict itself.

Arrow's JSON reader decodes the usual answer, digit by digit and fast. Python decodes an answer that is unusual in any way, finds
the field and says what is wrong.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from maang_cli import sessions as calendar
from maang_cli.errors import SourceFailed
from maang_cli.schemas import arrow_schema
from maang_cli.tables import STAGING_COLUMNS

_CENTS = Decimal("0.01")
_WHOLE = Decimal(1)
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP, traps=[InvalidOperation])
_FIELDS = {"open": ("o", _CENTS), "high": ("h", _CENTS), "low": ("l", _CENTS), "close": ("c", _CENTS)} | {
    "volume": ("v", _WHOLE),
    "vwap": ("vw", _CENTS),
    "transactions": ("n", _WHOLE),
}
_READ = pa.decimal128(30, 12)
"""18 digits before the point and 12 after it; Python decodes an answer with more."""
_TOO_LARGE = Decimal(10) ** 18
"""Arrow's JSON reader accepts larger numbers, and its arithmetic then returns anything."""
_NUMBERS = [(key, _READ) for key in ("t", *(key for key, _ in _FIELDS.values()))]
_ENVELOPE = pa.schema(
    [
        ("status", pa.string()),
        ("resultsCount", pa.int64()),
        ("adjusted", pa.bool_()),
        ("next_url", pa.string()),
        ("results", pa.list_(pa.struct([("T", pa.string()), *_NUMBERS]))),
    ]
)
SCHEMA = arrow_schema(STAGING_COLUMNS)


class Contradiction(SourceFailed):
    """An answer that contradicts itself or the request."""


@dataclass(frozen=True)
class Page:
    rows: pa.Table
    """In staging's columns."""
    total: int
    """How many rows the answer has, other tickers' rows included."""
    next_url: str | None = None


@dataclass(frozen=True)
class Reader:
    """Reads the vendor's answers."""

    where: str
    """The vendor's host, for messages."""
    clean: Callable[[str, int], str]
    """Makes the vendor's words safe to show, and cuts them to a length."""

    def grouped(self, body: bytes, session: date, wanted: frozenset[str]) -> Page:
        """One session's bars of these tickers.

        Raises:
            Contradiction: the answer contradicts itself.
        """
        if (results := _usual(body, named=True)) is not None:
            which = pc.is_in(results.field("T"), pa.array(list(wanted), pa.string()))
            mine = results if pc.all(which).as_py() else results.filter(which)
            if (rows := _table(mine, mine.field("T"), session)) is not None:
                return Page(rows, len(results))
        answer = self._envelope(body, str(session))
        found = answer["results"]
        for row in found:
            if not isinstance(row.get("T"), str):
                raise self.contradiction(str(session), "a result without a ticker")
        columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
        for row in found:
            if row["T"] in wanted:
                self._add(columns, row, row["T"], str(session))
        columns["session"] = [session] * len(columns["ticker"])
        return Page(pa.Table.from_pydict(columns, schema=SCHEMA), len(found))

    def ranged(self, body: bytes, ticker: str, span: str) -> Page:
        """One ticker's bars, each for the session of its own date. `span` is the request, for messages.

        Raises:
            Contradiction: the answer contradicts itself.
        """
        if (results := _usual(body, named=False)) is not None:
            names = pa.repeat(pa.scalar(ticker), len(results))
            if (rows := _table(results, names)) is not None:
                return Page(rows, len(results), _next(body))
        answer = self._envelope(body, span)
        columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
        for row in answer["results"]:
            self._add(columns, row, ticker, span)
        columns["session"] = columns["date"]
        next_url = answer.get("next_url")
        return Page(pa.Table.from_pydict(columns, schema=SCHEMA), len(answer["results"]), str(next_url) if next_url else None)

    def _envelope(self, body: bytes, what: str) -> dict[str, Any]:
        """The answer, whose `results` are a list of objects, after a check that it does not contradict itself."""
        try:
            answer = json.loads(body, parse_float=Decimal, parse_constant=Decimal)
        except (ValueError, ArithmeticError, RecursionError) as exc:  # Decimal refuses an exponent with twenty digits
            raise self.contradiction(what, f"{len(body)} bytes that are not a JSON document") from exc
        if not isinstance(answer, dict):
            raise self.contradiction(what, "JSON that is not an object")
        status = answer.get("status")
        if status not in ("OK", "DELAYED"):
            raise self.contradiction(what, f"status {self._shown(status)} in an HTTP 200")
        if answer.get("adjusted") is True:
            raise self.contradiction(what, "adjusted bars instead of bars as traded")
        count = answer.get("resultsCount")
        rows = answer.get("results", [] if count == 0 else None)
        if not isinstance(rows, list):
            raise self.contradiction(what, f"no list of results, and resultsCount {self._shown(count)}")
        if count != len(rows):
            raise self.contradiction(what, f"{len(rows)} results, and resultsCount {self._shown(count)}")
        if not all(isinstance(row, dict) for row in rows):
            raise self.contradiction(what, "a result without a ticker")
        return answer | {"results": rows}

    def _add(self, columns: dict[str, list[object]], row: dict[str, Any], ticker: str, what: str) -> None:
        columns["ticker"].append(ticker)
        columns["date"].append(self._date(row.get("t"), ticker, what))
        for name, (key, unit) in _FIELDS.items():
            columns[name].append(self._number(row.get(key), unit, f"{ticker}'s {key}", what))

    def _date(self, millis: object, ticker: str, what: str) -> date | None:
        """The New York date of `t`, Unix milliseconds: the session's end in a grouped answer, its first midnight in a range."""
        exact = self._number(millis, _WHOLE, f"{ticker}'s t", what)
        if exact is None:
            return None
        try:
            return _new_york(int(exact))
        except (ValueError, OverflowError, OSError) as exc:
            raise self.contradiction(what, f"{ticker}'s t as {self._shown(exact)}, which is not a time") from exc

    def _number(self, value: object, unit: Decimal, field: str, what: str) -> Decimal | None:
        """`value` rounded half up to `unit`; None stays None."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.contradiction(what, f"{field} as {self._shown(value)}, which is not a number")
        try:
            rounded = Decimal(value).quantize(unit, context=_EXACT)
        except InvalidOperation as exc:
            raise self.contradiction(what, f"{field} as {self._shown(value)}, which fits no column") from exc
        # quantize accepts NaN. Staging's DECIMAL(38,2) has 36 digits before the point.
        if not rounded.is_finite() or rounded.adjusted() >= 36:
            raise self.contradiction(what, f"{field} as {self._shown(value)}, which fits no column")
        return rounded

    def _shown(self, value: object) -> str:
        return self.clean(str(value) if isinstance(value, Decimal) else repr(value), 40)

    def contradiction(self, what: str, found: str) -> Contradiction:
        return Contradiction(
            f"{self.where} answered for {what} with {found}", hint="run the same command again; if it persists, ask the vendor"
        )


def _new_york(millis: int) -> date:
    return datetime.fromtimestamp(millis / 1000, UTC).astimezone(calendar.NEW_YORK).date()


def _usual(body: bytes, *, named: bool) -> pa.StructArray | None:
    """The results of a usual answer that does not contradict itself; None: let Python decode it."""
    # Arrow accepts numbers in quotes, so the strings are counted: the only ones in the results must be the tickers.
    if not body.isascii():  # Arrow accepts bytes that are not text
        return None
    start, end = body.find(b'"results"'), body.rfind(b"]")
    if start < 0 or end < start:
        return None
    strings = body.count(b':"', start, end) + body.count(b': "', start, end)
    try:
        answer = pyarrow.json.read_json(
            pa.BufferReader(body),
            # One block of any size, because the answer is one line.
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(body) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=_ENVELOPE, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowException, OverflowError):
        return None
    if answer.num_rows != 1 or answer["status"][0].as_py() not in ("OK", "DELAYED") or answer["adjusted"][0].as_py():
        return None
    results = answer["results"].chunk(0).values
    agrees = answer["resultsCount"][0].as_py() == len(results) and strings == (len(results) if named else 0)
    if not agrees or results.null_count or (named and results.field("T").null_count):
        return None
    return results


def _next(body: bytes) -> str | None:
    """The address of the next page, from an answer that was checked."""
    if b'"next_url"' not in body:
        return None
    return json.loads(body).get("next_url") or None


def _table(results: pa.StructArray, tickers: pa.Array, session: date | None = None) -> pa.Table | None:
    """The results in staging's columns, for `session` or each for its own date; None: let Python decode them."""
    try:
        times = _rounded(results.field("t"), _WHOLE).cast(pa.int64()).dictionary_encode()
        known = pa.array(map(_new_york, times.dictionary.to_pylist()), pa.date32())
        dates = known.take(times.indices)
        columns = {name: _rounded(results.field(key), unit) for name, (key, unit) in _FIELDS.items()}
    except (pa.ArrowException, ValueError, OverflowError, OSError):
        return None
    sessions = dates if session is None else pa.repeat(pa.scalar(session, pa.date32()), len(dates))
    columns |= {"session": sessions, "ticker": tickers, "date": dates}
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _rounded(column: pa.Array, unit: Decimal) -> pa.Array:
    """Half up, away from zero, to `unit`.

    Raises:
        OverflowError: a number has more digits than Arrow reads.
    """
    places = 2 if unit == _CENTS else 0
    kind = pa.decimal128(38, places)
    ends = [end for end in pc.min_max(column).as_py().values() if end is not None]
    if any(abs(end) >= _TOO_LARGE for end in ends):
        raise OverflowError
    if any(end < 0 for end in ends):
        return pc.round(column, ndigits=places, round_mode="half_towards_infinity").cast(kind)
    # Ten times as fast: add half a unit, and cut.
    return pc.add(column, pa.scalar(unit / 2, _READ)).cast(kind, safe=False)
