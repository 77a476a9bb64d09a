//! How Finnhub, Binance and Massive write trades, and what they say besides. Pure.

use serde_json::{Value, json};

use super::market::Trade;

/// Whose format a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feed {
    /// `/finnhub?token=..`
    Finnhub,
    /// `/ws`
    Binance,
    /// `/stream`: the same, wrapped.
    BinanceCombined,
    /// `/crypto`
    MassiveCrypto,
    /// `/stocks`
    MassiveStocks,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Trades of these symbols, and what is answered.
    Subscribe(Vec<String>, Vec<String>),
    /// It shows its API key.
    LogIn(String),
    /// Anything else, and what is answered.
    Other(Option<String>),
}

impl Feed {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Finnhub, Self::Binance, Self::BinanceCombined, Self::MassiveCrypto, Self::MassiveStocks];

    /// Where it is on the server.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Finnhub => "/finnhub",
            Self::Binance => "/ws",
            Self::BinanceCombined => "/stream",
            Self::MassiveCrypto => "/crypto",
            Self::MassiveStocks => "/stocks",
        }
    }

    /// What is said to whoever connects.
    #[must_use]
    pub(super) fn welcome(self) -> Option<String> {
        self.is_massive().then(|| status("connected", "Connected Successfully"))
    }

    /// Whether the API key is shown in a message, not in the URL.
    #[must_use]
    pub(super) const fn is_massive(self) -> bool {
        matches!(self, Self::MassiveCrypto | Self::MassiveStocks)
    }

    /// What a message of the client asks for.
    #[must_use]
    pub(super) fn request(self, text: &str) -> Request {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        match self {
            Self::Finnhub if text("type") == "subscribe" => Request::Subscribe(vec![text("symbol")], Vec::new()),
            Self::Finnhub => Request::Other(Some(json!({"type": "error", "msg": "Unknown message type"}).to_string())),
            Self::Binance | Self::BinanceCombined if text("method") == "SUBSCRIBE" => {
                let streams = message.get("params").and_then(Value::as_array).cloned().unwrap_or_default();
                let symbols = streams.iter().filter_map(|stream| Some(stream.as_str()?.strip_suffix("@trade")?.to_uppercase())).collect();
                Request::Subscribe(symbols, vec![json!({"result": null, "id": message.get("id")}).to_string()])
            }
            Self::Binance | Self::BinanceCombined => {
                Request::Other(Some(json!({"error": {"code": 2, "msg": "Invalid request: unknown method"}, "id": message.get("id")}).to_string()))
            }
            Self::MassiveCrypto | Self::MassiveStocks => match text("action").as_str() {
                "auth" => Request::LogIn(text("params")),
                "subscribe" => {
                    let params = text("params");
                    let channel = if self == Self::MassiveCrypto { "XT." } else { "T." };
                    let symbols = params.split(',').filter_map(|param| param.strip_prefix(channel)).map(str::to_owned).collect();
                    Request::Subscribe(symbols, params.split(',').map(|param| status("success", &format!("subscribed to: {param}"))).collect())
                }
                _ => Request::Other(Some(status("error", "unknown action"))),
            },
        }
    }

    /// The frames of some trades. Binance writes one for each.
    #[must_use]
    pub(super) fn frames(self, trades: &[Trade]) -> Vec<String> {
        let one = |trade: &Trade| self.trade(trade);
        match self {
            Self::Finnhub => vec![format!(r#"{{"data":[{}],"type":"trade"}}"#, trades.iter().map(one).collect::<Vec<_>>().join(","))],
            Self::Binance => trades.iter().map(one).collect(),
            Self::BinanceCombined => {
                trades.iter().map(|trade| format!(r#"{{"stream":"{}@trade","data":{}}}"#, trade.symbol.to_lowercase(), one(trade))).collect()
            }
            Self::MassiveCrypto | Self::MassiveStocks => vec![format!("[{}]", trades.iter().map(one).collect::<Vec<_>>().join(","))],
        }
    }

    /// As text and not by way of numbers, so that every digit is there.
    fn trade(self, trade: &Trade) -> String {
        let Trade { symbol, id, price, volume, time } = trade;
        match self {
            Self::Finnhub => format!(r#"{{"c":null,"p":{price},"s":"{symbol}","t":{time},"v":{volume}}}"#),
            Self::Binance | Self::BinanceCombined => {
                format!(r#"{{"e":"trade","E":{time},"s":"{symbol}","t":{id},"p":"{price}","q":"{volume}","T":{time},"m":true,"M":true}}"#)
            }
            Self::MassiveCrypto => {
                format!(r#"{{"ev":"XT","pair":"{symbol}","p":{price},"t":{time},"s":{volume},"c":[2],"i":"{id}","x":3,"r":{time}}}"#)
            }
            Self::MassiveStocks => {
                format!(r#"{{"ev":"T","sym":"{symbol}","x":4,"i":"{id}","z":3,"p":{price},"s":{volume},"c":[0,12],"t":{time},"q":{id}}}"#)
            }
        }
    }
}

/// A status message of Massive.
#[must_use]
pub(super) fn status(status: &str, message: &str) -> String {
    json!([{"ev": "status", "status": status, "message": message}]).to_string()
}
