"""The usual answer, decoded by Arrow's JSON reader: digit by digit, and fast. Which answers are usual is decided here."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from maang_cli import sessions as calendar
from maang_cli.schemas import arrow_schema
from maang_cli.tables import FETCHED_COLUMNS

CENTS = Decimal("0.01")
WHOLE = Decimal(1)
FIELDS = {"open": ("o", CENTS), "high": ("h", CENTS), "low": ("l", CENTS), "close": ("c", CENTS)} | {
    "volume": ("v", WHOLE),
    "vwap": ("vw", CENTS),
    "transactions": ("n", WHOLE),
}
_READ = pa.decimal128(30, 12)
"""18 digits before the point and 12 after it; Python decodes an answer with more."""
_TOO_LARGE = Decimal(10) ** 18
"""Arrow's JSON reader accepts larger numbers, and its arithmetic then returns anything."""
_NUMBERS = [(key, _READ) for key in ("t", *(key for key, _ in FIELDS.values()))]
_ENVELOPE = pa.schema(
    [
        ("status", pa.string()),
        ("ticker", pa.string()),
        ("resultsCount", pa.int64()),
        ("adjusted", pa.bool_()),
        ("next_url", pa.string()),
        ("results", pa.list_(pa.struct([("T", pa.string()), *_NUMBERS]))),
    ]
)
SCHEMA = arrow_schema(FETCHED_COLUMNS)
_SPACES = (b"\n", b"\r", b"\t", b"  ")
"""The API sends none of them; between a key and its value it sends no space, or one."""


class Usual(NamedTuple):
    """A usual answer, decoded by Arrow."""

    results: pa.StructArray
    ticker: str | None
    next_url: str | None


def decode(body: bytes, *, named: bool) -> Usual | None:
    """A usual answer that does not contradict itself; None: let Python decode it."""
    # Arrow accepts bytes that are not text, and reads a key with an escaped letter as that key.
    if not body.isascii() or b"\\" in body or any(spaces in body for spaces in _SPACES):
        return None
    start, end = body.find(b'"results"'), body.rfind(b"]")
    if start < 0 or end < start:
        return None
    # Arrow accepts numbers in quotes, so the strings are counted: the only ones in the results must be the tickers.
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
    if answer.num_rows != 1:
        return None
    envelope = answer.drop_columns("results").to_pylist()[0]
    adjusted_is_fine = envelope["adjusted"] is False or (envelope["adjusted"] is None and b'"adjusted"' not in body)
    if envelope["status"] not in ("OK", "DELAYED") or not adjusted_is_fine:
        return None
    results = answer["results"].chunk(0).values
    agrees = envelope["resultsCount"] == len(results) and strings == (len(results) if named else 0)
    if not agrees or results.null_count or (named and results.field("T").null_count):
        return None
    return Usual(results, envelope["ticker"], envelope["next_url"] or None)


def table(results: pa.StructArray, tickers: pa.Array, session: date | None = None) -> pa.Table | None:
    """The results in staging's columns, for `session` or each for its own date; None: let Python decode them."""
    try:
        times = _rounded(results.field("t"), WHOLE).cast(pa.int64()).dictionary_encode()
        known = pa.array(map(new_york, times.dictionary.to_pylist()), pa.date32())
        dates = known.take(times.indices)
        columns = {name: _rounded(results.field(key), unit) for name, (key, unit) in FIELDS.items()}
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
    places = 2 if unit == CENTS else 0
    kind = pa.decimal128(38, places)
    ends = [end for end in pc.min_max(column).as_py().values() if end is not None]
    if any(abs(end) >= _TOO_LARGE for end in ends):
        raise OverflowError
    if any(end < 0 for end in ends):
        return pc.round(column, ndigits=places, round_mode="half_towards_infinity").cast(kind)
    # Ten times as fast: add half a unit, and cut.
    return pc.add(column, pa.scalar(unit / 2, _READ)).cast(kind, safe=False)


def new_york(millis: int) -> date:
    return datetime.fromtimestamp(millis / 1000, UTC).astimezone(calendar.NEW_YORK).date()
