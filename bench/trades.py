"""The rows of the reference pipeline R1, and what must be in the stores when all of them have been counted once. The same on every machine."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

ROWS_PER_MESSAGE = 10
DAYS = 10
SYMBOLS = 500
SECTORS = [
    "Communication Services", "Consumer Discretionary", "Consumer Staples", "Energy", "Financials", "Health Care", "Industrials",
    "Information Technology", "Materials", "Real Estate", "Utilities",
]
BEGIN = datetime(2024, 8, 25, 7, 4, 45, tzinfo=UTC)


@dataclass
class Candle:
    open: float
    high: float
    low: float
    close: float
    volume: int
    trades: int

    def add(self, price: float, volume: int) -> None:
        """A trade that is later than those before it."""
        self.high, self.low, self.close = max(self.high, price), min(self.low, price), price
        self.volume, self.trades = self.volume + volume, self.trades + 1


class Trades:
    """`rows` trades in messages of ten, spread over ten days. `messages` yields them and, on the way, sums up what is expected."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.messages_total = rows // ROWS_PER_MESSAGE
        self.bytes_total = 0
        self.volumes: Counter[tuple[str, str]] = Counter()  # (date, sector) -> volume
        self.candles: dict[tuple[str, str], Candle] = {}  # (ticker, hour) -> candle

    @property
    def volume(self) -> int:
        return sum(self.volumes.values())

    def messages(self) -> Iterator[bytes]:
        """One JSON array a message, as the pipeline's producers send it: a tick of the market, ten symbols at the same time."""
        chance = random.Random(7)
        between = timedelta(days=DAYS) / self.messages_total
        for message in range(self.messages_total):
            time = BEGIN + message * between
            date, text, hour = time.strftime("%Y-%m-%d"), time.strftime("%Y-%m-%dT%H:%M:%SZ"), time.strftime("%Y-%m-%d %H:00:00")
            trades = []
            for row in range(message * ROWS_PER_MESSAGE, (message + 1) * ROWS_PER_MESSAGE):
                symbol = row % SYMBOLS
                ticker = f"T{symbol:03}.JK"
                sector, volume, price = SECTORS[symbol % len(SECTORS)], chance.randrange(1, 1_000_000), chance.randrange(5_000, 500_000) / 100
                self.volumes[date, sector] += volume
                if (ticker, hour) in self.candles:
                    self.candles[ticker, hour].add(price, volume)
                else:
                    self.candles[ticker, hour] = Candle(price, price, price, price, volume, 1)
                trades.append({
                    "id": row + 1, "created_at": text, "ticker": ticker, "sector": sector, "volume": volume,
                    "market_cap": price * (1_000 + symbol), "price": price,
                })
            line = json.dumps(trades, separators=(",", ":")).encode()
            self.bytes_total += len(line)
            yield line
