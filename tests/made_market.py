"""Writes tests/data/market: made-up bars in the forms of ../shared/market. Run it with `python -m tests.made_market`.

The numbers have the digits that vendors send: prices with up to four places, vwap with six, volumes as floats and with exponents.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from tests import expected
from tests.expected import Bar
from tests.polygon_server import Digits, json_text, session_start

FOLDER = Path(__file__).parent / "data" / "market"
SPLIT = date(2025, 11, 17)
"""NFLX's 10:1 split: from this session on, its prices are a tenth."""
OPENS = {"AAPL": 270.0, "AMZN": 225.0, "GOOGL": 282.0, "META": 670.0, "NFLX": 1090.0}
"""USD a share on the first session."""


def made_bar(rng: random.Random, ticker: str, day: date, price: float) -> Bar:
    """A bar that opens and closes near `price`."""
    places = (0, 2, 2, 3) if price > 100 else (2, 3, 4)
    opened, closed = (format(price * rng.uniform(0.98, 1.02), f".{rng.choice(places)}f") for _ in range(2))
    high = max(float(opened), float(closed)) * rng.uniform(1.001, 1.02)
    low = min(float(opened), float(closed)) * rng.uniform(0.98, 0.999)
    volume = rng.randrange(1_000_000, 60_000_000)
    return Bar(
        ticker,
        day,
        open=opened,
        high=f"{high:.4f}",
        low=f"{low:.4f}",
        close=closed,
        volume=str(volume),
        vwap=f"{rng.uniform(low, high):.6f}",
        transactions=str(volume // rng.randrange(30, 80)),
    )


def walk(rng: random.Random) -> Iterable[Bar]:
    """A random walk of each ticker, session by session."""
    prices = dict(OPENS)
    for day in expected.run_of(expected.MARKET_SPAN[0], 25):
        if day == SPLIT:
            prices["NFLX"] /= 10
        for ticker, price in prices.items():
            bar = made_bar(rng, ticker, day, price)
            prices[ticker] = float(bar.close)
            yield bar


def csv_text(bars: Iterable[Bar]) -> str:
    columns = ("date", "ticker", "open", "high", "low", "close", "volume", "vwap", "transactions")
    lines = (columns, *([str(getattr(bar, column)) for column in columns] for bar in bars))
    return "".join(f"{','.join(line)}\n" for line in lines)


def answers(rng: random.Random) -> dict[str, object]:
    """Answers of the API, by the name of their file."""

    def bars(days: str, **prices: float) -> list[Bar]:
        return [made_bar(rng, ticker, date.fromisoformat(day), prices[ticker]) for day in days.split() for ticker in prices]

    def row(bar: Bar, **names: object) -> dict[str, object]:
        return {key: value for key, value in expected.wire(bar).items() if key != "T"} | names

    day = "2025-10-14"
    market = bars(day, AAPL=247, GOOGL=244, MSFT=511, AMZN=216, TSLA=427)
    two_days = bars("2005-04-01 2005-04-04", AAPL=1.5)
    # Two companies that had the same ticker, one after the other. Volumes have exponents.
    reused = bars("2022-01-27 2022-01-28", META=12.1) + bars("2022-06-09 2022-06-10 2022-06-13", META=177.3)
    return {
        f"aggs_day_{day}_AAPL_GOOGL_MSFT_AMZN_TSLA": [row(bar, symbol=bar.ticker, fetch_date=day) for bar in market],
        "aggs_AAPL_1day_2005-04-01_2005-04-04": envelope(
            [row(bar, t=session_start(bar.date), v=Digits(f"{bar.volume}.0")) for bar in two_days], ticker="AAPL"
        ),
        "issue846_META_ticker_reuse_bars": [row(bar, v=Digits(f"{int(bar.volume):.7e}")) for bar in reused],
        "prev_AAPL_2022-04-26": envelope([expected.wire(bar) for bar in bars("2022-04-26", AAPL=158)], ticker="AAPL"),
        "grouped_mock": envelope([expected.wire(bar) for bar in bars("2020-10-14", GIK=10)]),
    }


def envelope(rows: list[dict[str, object]], **names: str) -> dict[str, object]:
    counts = {"queryCount": len(rows), "resultsCount": len(rows)}
    return {**names, **counts, "adjusted": True, "results": rows, "status": "OK", "request_id": "made-up", "count": len(rows)}


def files() -> dict[str, str]:
    """The text of each file, by its path in the folder. Always the same."""
    rng = random.Random(16)
    texts = {expected.MARKET_CSV: csv_text(walk(rng))}
    for name, answer in answers(rng).items():
        texts[f"recorded/{name}.json"] = json_text(answer, indent=2) + "\n"
    return texts


def main() -> None:
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
