//! What is sent: a trade as a JSON object, and a tick's message, which is an array of them or what somebody wrote down.

use serde::Serialize;

use crate::split::cents;

/// A trade, as a consumer of the topic sees it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trade<'a> {
    /// Counts up from the producer's first id.
    pub id: i64,
    /// RFC 3339, in UTC.
    pub created_at: &'a str,
    /// The symbol.
    pub ticker: &'a str,
    /// The symbol's sector, if known.
    pub sector: Option<&'a str>,
    /// What was traded.
    pub volume: u64,
    /// The price times the symbol's number of shares, if known.
    pub market_cap: Option<f64>,
    /// At which price.
    pub price: f64,
}

/// The message of one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The tick, from 0.
    pub tick: u64,
    /// Its key, if it has one. Messages of one key go to one partition, those without to each in turn.
    pub key: Option<Vec<u8>>,
    /// A JSON array of trades, or whatever somebody wrote.
    pub payload: Vec<u8>,
    /// How many.
    pub records: u64,
    /// The id of the last of them; for a file what tells it from other files.
    pub last_id: i64,
    /// What tells this tick from the same tick of another recording; see [`crate::mark::Mark::check`].
    pub check: Option<u64>,
}

/// The value of all shares, in cents exactly as far as a double goes.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "nobody has more than 2^53 shares")]
pub fn market_cap(price: f64, shares: i64) -> f64 {
    cents(price * shares as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trade_reads_as_the_reference_writes_it() {
        let trade = Trade {
            id: 11,
            created_at: "2024-08-25T07:04:45Z",
            ticker: "TMAS.JK",
            sector: Some("Logistics & Deliveries"),
            volume: 275_674,
            market_cap: Some(4_932_000.0),
            price: 550.0,
        };
        assert_eq!(
            serde_json::to_string(&trade).unwrap(),
            r#"{"id":11,"created_at":"2024-08-25T07:04:45Z","ticker":"TMAS.JK","sector":"Logistics & Deliveries","volume":275674,"market_cap":4932000.0,"price":550.0}"#
        );
        let unknown = Trade { sector: None, market_cap: None, ..trade };
        assert!(serde_json::to_string(&unknown).unwrap().contains(r#""sector":null,"volume":275674,"market_cap":null"#));
    }
}
