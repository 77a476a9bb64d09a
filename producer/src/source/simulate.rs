//! A made-up market: every symbol's price walks at random, pulled back to where it began. The seed, the tick and the symbol decide each step, and the walk goes on
//! from the prices that the last message in the topic has; so a market is the same however often its producer is restarted.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use jiff::{Timestamp, Unit};
use serde::Deserialize;
use tapeline_api::pipeline::producers::Simulate as Wish;
use tokio::time::MissedTickBehavior;

use super::{Needs, Source};
use crate::halt::Halt;
use crate::kafka::Fault;
use crate::kafka::sender::Sender;
use crate::noise::Noise;
use crate::search::Position;
use crate::split::cents;
use crate::symbols::Symbol;
use crate::trade::{Message, Trade, market_cap};

/// One standard deviation of a step, as a part of the price.
const VOLATILITY: f64 = 0.001;
/// How much of the way back to its first price a symbol goes in a step. Without it every price ends at nothing or at infinity.
const PULL: f64 = 0.001;

/// A simulated market.
#[derive(Debug)]
pub struct Simulate {
    wish: Wish,
    quotes: Vec<Quote>,
    next_id: i64,
}

/// A symbol and its price.
#[derive(Debug)]
struct Quote {
    symbol: Symbol,
    first_price: f64,
    price: f64,
}

impl Simulate {
    /// A market without symbols yet.
    #[must_use]
    pub const fn new(wish: Wish) -> Self {
        let next_id = wish.first_id;
        Self { wish, quotes: Vec::new(), next_id }
    }

    /// The message of the next tick; nothing once ids are used up.
    pub fn message(&mut self, tick: u64, now: Timestamp) -> Option<Message> {
        let created = now.round(Unit::Millisecond).unwrap_or(now).to_string();
        let (seed, number) = (self.wish.seed.to_le_bytes(), tick.to_le_bytes());
        let mut batch = Vec::with_capacity(self.quotes.len());
        let mut last_id = self.next_id;
        for (Quote { symbol, first_price, price }, count) in self.quotes.iter_mut().zip(0_i64..) {
            let mut noise = Noise::of(&[b"tick", &seed, &number, symbol.ticker.as_bytes()]);
            last_id = self.next_id.checked_add(count)?;
            let step = *price * VOLATILITY * noise.bell() + (*first_price - *price) * PULL;
            *price = cents(*price + step).max(0.01);
            batch.push(Trade {
                id: last_id,
                created_at: &created,
                ticker: &symbol.ticker,
                sector: symbol.sector.as_deref(),
                // Many small ones, some large ones: 1 to 4,000.
                volume: 1 + u64::from(noise.below(2000)) * u64::from(noise.below(2000)) / 1000,
                market_cap: symbol.shares.map(|shares| market_cap(*price, shares)),
                price: *price,
            });
        }
        self.next_id = last_id.checked_add(1)?;
        let records = u64::try_from(batch.len()).ok()?;
        Some(Message { tick, key: None, payload: serde_json::to_vec(&batch).ok()?, records, last_id, check: None })
    }
}

impl Source for Simulate {
    /// Goes on behind the last id and with the last prices. Gaps are not filled: a tick of the past is worth nothing.
    fn resume(&mut self, position: &mut Position) -> Result<(), Halt> {
        #[derive(Deserialize)]
        struct Seen {
            ticker: String,
            price: f64,
        }

        position.floor = position.end;
        position.present.clear();
        let Some(last) = &position.last else { return Ok(()) };
        position.before = Some(last.stamp);
        self.next_id = self.wish.first_id.max(last.stamp.last_id.saturating_add(1));
        let seen: Vec<Seen> = last.payload.as_deref().and_then(|payload| serde_json::from_slice(payload).ok()).unwrap_or_default();
        let mut prices: HashMap<String, f64> = seen.into_iter().map(|trade| (trade.ticker, trade.price)).collect();
        for quote in &mut self.quotes {
            if let Some(price) = prices.remove(&quote.symbol.ticker) {
                quote.price = price;
            }
        }
        Ok(())
    }

    /// Sends a message at each interval, one at a time: what an outage missed is not made good. Ends never by itself.
    fn run<'a>(&'a mut self, position: &'a Position, sender: &'a Sender) -> LocalBoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            // An interval of nothing is refused by the resource's rules, and would panic here.
            let mut clock = tokio::time::interval(self.wish.interval.get().max(Duration::from_millis(1)));
            clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut tick = position.end;
            loop {
                clock.tick().await;
                let Some(message) = self.message(tick, Timestamp::now()) else {
                    return Err(Fault::Broken("ids are used up".to_owned()));
                };
                sender.send(&message).await?;
                sender.settled().await?;
                tick += 1;
            }
        })
    }

    fn needs(&self) -> Needs {
        Needs { last_message: true, symbols: self.quotes.is_empty().then(|| self.wish.symbols_from.mysql.table.clone()) }
    }

    /// Takes the symbols and gives each its first price, from 10 to 500.
    fn take_symbols(&mut self, symbols: Vec<Symbol>) {
        let seed = self.wish.seed.to_le_bytes();
        self.quotes = symbols
            .into_iter()
            .map(|symbol| {
                let first_price = cents(10.0 + 490.0 * Noise::of(&[b"first price", &seed, symbol.ticker.as_bytes()]).unit());
                Quote { symbol, first_price, price: first_price }
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::search::{Last, Stamp};

    fn market(seed: i64) -> Simulate {
        let wish = serde_json::json!({"interval": "1s", "seed": seed, "firstId": 100, "symbolsFrom": {"mysql": {"table": "profile"}}});
        let mut market = Simulate::new(serde_json::from_value(wish).unwrap());
        assert_eq!(market.needs().symbols.unwrap().as_str(), "profile");
        let symbol = |ticker: &str, shares| Symbol { ticker: ticker.to_owned(), sector: Some("Tech".to_owned()), shares };
        market.take_symbols(vec![symbol("A", Some(1000)), symbol("B", None)]);
        assert_eq!(market.needs().symbols, None);
        market
    }

    const NOW: Timestamp = Timestamp::constant(1_724_569_485, 123_456_789);

    fn at(tick: u64, last_id: i64, payload: Vec<u8>) -> Position {
        let stamp = Stamp { last_id, check: None };
        let last = Some(Last { tick, stamp, payload: Some(payload) });
        Position { floor: 0, before: None, present: BTreeMap::from([(tick, stamp)]), end: tick + 1, published: 0, last, ends: BTreeMap::new() }
    }

    #[test]
    fn a_message_has_a_trade_of_every_symbol() {
        let message = market(7).message(0, NOW).unwrap();
        let trades: Vec<serde_json::Value> = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((message.records, message.last_id, trades.len()), (2, 101, 2));
        assert_eq!((&trades[1]["id"], &trades[1]["ticker"], &trades[1]["market_cap"]), (&101.into(), &"B".into(), &serde_json::Value::Null));
        assert_eq!(trades[0]["created_at"], "2024-08-25T07:04:45.123Z");
        assert_eq!(trades[0]["market_cap"].as_f64(), trades[0]["price"].as_f64().map(|price| cents(price * 1000.0)));
    }

    #[test]
    fn a_restarted_market_is_the_one_that_would_have_gone_on() {
        let mut one = market(7);
        let (mut last, mut payloads) = (None, Vec::new());
        for tick in 0..50 {
            let message = one.message(tick, NOW).unwrap();
            if tick == 24 {
                last = Some(message.clone());
            }
            payloads.push(message.payload);
        }
        let last = last.unwrap();
        let mut other = market(7);
        let mut position = at(24, last.last_id, last.payload);
        other.resume(&mut position).unwrap();
        assert_eq!((position.floor, position.end, position.present.len()), (25, 25, 0));
        let again: Vec<_> = (25..50).map(|tick| other.message(tick, NOW).unwrap().payload).collect();
        assert!(payloads[25..] == again[..]);
        assert!(market(8).message(0, NOW).unwrap().payload != payloads[0], "another seed is another market");
    }

    #[test]
    fn ids_go_on_behind_the_last_one_or_where_the_settings_now_say() {
        let mut market = market(7);
        market.resume(&mut at(3, 50, b"not JSON".to_vec())).unwrap();
        assert_eq!(market.message(4, NOW).unwrap().last_id, 101, "firstId was raised");
        market.resume(&mut at(3, 500, Vec::new())).unwrap();
        assert_eq!(market.message(4, NOW).unwrap().last_id, 502);
    }

    #[test]
    fn prices_neither_vanish_nor_explode() {
        let mut market = market(1);
        for tick in 0..200_000 {
            market.message(tick, NOW).unwrap();
        }
        for quote in &market.quotes {
            assert!((0.5..2.0).contains(&(quote.price / quote.first_price)), "{} from {}", quote.price, quote.first_price);
        }
    }
}
