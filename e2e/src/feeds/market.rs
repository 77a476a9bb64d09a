//! Trades that a server makes up: the same for the same seed. Prices and volumes are texts, so that a test can compare digits.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The first trade's time: 2024-08-25 07:04:45 UTC, in milliseconds.
const BEGIN: i64 = 1_724_569_485_000;

/// A trade.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trade {
    /// As the feed names it in its data.
    pub symbol: String,
    /// Counts up by one for each symbol.
    pub id: u64,
    /// In decimal notation.
    pub price: String,
    /// In decimal notation.
    pub volume: String,
    /// Milliseconds since 1970.
    pub time: i64,
}

/// A market.
#[derive(Debug)]
pub struct Market {
    random: StdRng,
    /// The last id and price, in cents, of each symbol.
    last: BTreeMap<String, (u64, i64)>,
    time: i64,
}

impl Market {
    /// A market that has not begun.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), last: BTreeMap::new(), time: BEGIN }
    }

    /// The next `count` trades of `symbol`.
    pub fn trades(&mut self, symbol: &str, count: usize) -> Vec<Trade> {
        (0..count).map(|_| self.trade(symbol)).collect()
    }

    fn trade(&mut self, symbol: &str) -> Trade {
        let step = self.random.random_range(-200..=200);
        let volume = self.random.random_range(1..2_000_000);
        self.time += self.random.random_range(0..3);
        let (id, price) = self.last.entry(symbol.to_owned()).or_insert((0, 6_400_000));
        *id += 1;
        *price = (*price + step).max(1);
        // Digits behind the point that a double would not keep, as feeds write them.
        let price = format!("{}.{:02}000000", *price / 100, *price % 100);
        Trade { symbol: symbol.to_owned(), id: *id, price, volume: format!("{}.{:05}", volume / 100_000, volume % 100_000), time: self.time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_trades() {
        let trades = |seed| Market::new(seed).trades("A", 50);
        assert_eq!(trades(1), trades(1));
        assert_ne!(trades(1), trades(2));
        assert!(trades(1).iter().map(|trade| trade.id).eq(1..=50));
        let mut market = Market::new(1);
        assert_eq!((market.trades("A", 2)[1].id, market.trades("B", 1)[0].id), (2, 1));
    }
}
