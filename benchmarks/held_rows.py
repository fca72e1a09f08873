"""How many plausible rows would the gate hold? Prints the share, by check, of made-up bars with heavy tails.

No bar is wrong here, so each failing row is a false alarm. Run it with `uv run benchmarks/held_rows.py`.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from collections import Counter
from contextlib import closing
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from maang_cli import pipeline, sessions
from maang_cli.checks import AllowMissing, Outcome
from maang_cli.request import Request
from maang_cli.schemas import arrow_schema
from maang_cli.tables import STAGING_COLUMNS
from maang_cli.warehouses.local.retention import Retention
from maang_cli.warehouses.local.warehouse import LocalWarehouse

if TYPE_CHECKING:
    from collections.abc import Iterator

FREEDOM = 3
"""Degrees of freedom of Student's t: daily returns have about three, so that their fourth moment is infinite."""
CENT = Decimal("0.01")


class Ticker:
    """A walk of prices and volumes. Thin names move more, as they do: some 4 % a day, others 2 %."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self._chance = name, chance
        self._close = math.exp(chance.gauss(3.0, 1.2))
        self._usual = math.exp(chance.gauss(12.0, 2.5))
        self._volatility = min(0.15, 0.02 * math.exp(chance.gauss(0, 0.5)) * (1 + (self._usual < 20_000)))

    def _moved(self, share: float) -> float:
        """A factor of a price: a part of the day's variance, with a heavy tail."""
        chi = self._chance.gammavariate(FREEDOM / 2, 2)
        student = self._chance.gauss(0, 1) / math.sqrt(chi / FREEDOM) / math.sqrt(FREEDOM / (FREEDOM - 2))
        return math.exp(max(-1.5, min(1.5, self._volatility * math.sqrt(share) * student)))

    def bar(self, day: date) -> dict[str, object]:
        opened = self._close * self._moved(0.3)
        self._close = max(opened * self._moved(0.7), 0.02)
        high = max(opened, self._close) * (1 + abs(self._moved(0.2) - 1))
        low = min(opened, self._close) / (1 + abs(self._moved(0.2) - 1))
        prices = {"open": opened, "high": high, "low": low, "close": self._close, "vwap": (high + low + self._close) / 3}
        volume = max(1, round(self._usual * math.exp(self._chance.gauss(0, 0.6))))
        exact = {name: max(Decimal(price).quantize(CENT), CENT) for name, price in prices.items()}
        return {"session": day, "ticker": self.name, "date": day, **exact, "volume": Decimal(volume)}


def judged(tickers: int, days: int, seed: int) -> Iterator[Counter[str]]:
    """The failing rows of each day, by outcome and check."""
    chance = random.Random(seed)
    walks = [Ticker(f"T{n}", chance) for n in range(tickers)]
    names = tuple(walk.name for walk in walks)
    with tempfile.TemporaryDirectory() as home, closing(LocalWarehouse(Path(home), "maang", Retention(5))) as warehouse:
        for day in sessions.before(date(2025, 10, 15), days):
            request = Request(names, (day,), AllowMissing(percent=Decimal(100)))
            pipeline.init_tables(warehouse, request)
            rows = [walk.bar(day) for walk in walks]
            warehouse.stage(request.staging, pa.Table.from_pylist(rows, schema=arrow_schema(STAGING_COLUMNS)))
            audit = pipeline.promote(warehouse, request).audit
            pipeline.drop_staging(warehouse, request)
            yield Counter(
                {
                    f"{outcome} {result.check.name}": number
                    for result in audit.results
                    for outcome, number in result.counts.items()
                }
            ) + Counter({Outcome.HELD: len(audit.held)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tickers", type=int, default=11_000)
    parser.add_argument("--days", type=int, default=30, help="the first 20 are only history for the others")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counted: Counter[str] = Counter()
    for number, found in enumerate(judged(options.tickers, options.days, options.seed)):
        if number >= 20:
            counted += found
    rows = options.tickers * max(options.days - 20, 0)
    print(f"{rows:,} plausible bars")
    for name, number in sorted(counted.items()):
        print(f"{name:24} {number:6}  {number / rows:.4%}")


if __name__ == "__main__":
    main()
