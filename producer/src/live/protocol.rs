//! What a feed wants to hear when a connection opens, and what its frames mean. The ready feeds are a [`Mapping`] each, and a table of the frames that are not
//! data. Pure.

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tapeline_api::pipeline::live::{FeedKind, Mapping as Wish, WebSocket};

use super::json::Node;
use super::mapping::{Check, Element, Field, Mapping};
use super::secrets::fill;

/// How frames are read and what is sent.
#[derive(Debug)]
pub struct Protocol {
    feed: Option<FeedKind>,
    on_open: Vec<String>,
    symbols: Vec<String>,
    mapping: Mapping,
}

/// A frame, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What it says about the connection.
    pub controls: Vec<Control>,
    /// What is to be sent, in its order.
    pub elements: Vec<Element>,
    /// How many frames and elements mean nothing.
    pub unknown: u64,
}

/// What a frame says that is not data. The texts are the feed's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// That the feed is there.
    Alive,
    /// It accepts the API key.
    LoggedIn,
    /// It accepts the subscription.
    Subscribed,
    /// It refuses the API key.
    Denied(String),
    /// It refuses something else.
    Refused(String),
}

impl Protocol {
    /// How `wish` is to be read.
    #[must_use]
    pub fn new(wish: &WebSocket) -> Self {
        let mapping = match wish.feed {
            None => Mapping::new(wish.mapping.as_ref().unwrap_or(&Wish::default())),
            Some(FeedKind::Finnhub) => finnhub(),
            Some(FeedKind::Binance) => binance(),
            Some(FeedKind::Massive) => massive(),
        };
        Self { feed: wish.feed, on_open: wish.on_open.clone(), symbols: wish.symbols.clone(), mapping }
    }

    /// Whether ids count up by one for each key, by what the user or the feed says.
    #[must_use]
    pub fn is_consecutive(wish: &WebSocket) -> bool {
        wish.feed == Some(FeedKind::Binance) || wish.mapping.as_ref().and_then(|mapping| mapping.id.as_ref()).is_some_and(|id| id.consecutive)
    }

    /// What is sent as soon as the connection is open.
    #[must_use]
    pub fn greeting(&self, key: Option<&SecretString>) -> Vec<String> {
        let secret = key.map_or("", |key| key.expose_secret());
        match self.feed {
            Some(FeedKind::Massive) => vec![json!({"action": "auth", "params": secret}).to_string()],
            Some(_) => self.subscriptions(),
            None => self.on_open.iter().flat_map(|message| self.filled(message, secret)).collect(),
        }
    }

    /// What is sent when the feed has accepted the API key.
    #[must_use]
    pub fn after_login(&self) -> Vec<String> {
        if self.feed == Some(FeedKind::Massive) { self.subscriptions() } else { Vec::new() }
    }

    /// Whether the feed says that it has accepted a subscription. If not, it counts as accepted when it is sent.
    #[must_use]
    pub const fn confirms(&self) -> bool {
        matches!(self.feed, Some(FeedKind::Binance | FeedKind::Massive))
    }

    /// What a frame means. One that is not JSON means nothing.
    #[must_use]
    pub fn read(&self, frame: &str) -> Reading {
        let Ok(node) = Node::parse(frame) else { return Reading { unknown: 1, ..Reading::default() } };
        let control = match self.feed {
            None => None,
            Some(FeedKind::Finnhub) => of_finnhub(&node),
            Some(FeedKind::Binance) => of_binance(&node),
            Some(FeedKind::Massive) => return self.read_massive(&node),
        };
        if let Some(control) = control {
            return Reading { controls: vec![control], ..Reading::default() };
        }
        let mapped = self.mapping.map(&node);
        Reading { controls: Vec::new(), elements: mapped.elements, unknown: mapped.unknown }
    }

    /// Its frames are arrays that may have both.
    fn read_massive(&self, frame: &Node<'_>) -> Reading {
        let Some(items) = frame.items() else { return Reading { unknown: 1, ..Reading::default() } };
        let (mut controls, mut data) = (Vec::new(), Vec::new());
        for item in items {
            match of_massive(&Node::of(item)) {
                Some(control) => controls.push(control),
                None => data.push(*item),
            }
        }
        let mapped = self.mapping.elements(data);
        Reading { controls, elements: mapped.elements, unknown: mapped.unknown }
    }

    fn subscriptions(&self) -> Vec<String> {
        match self.feed {
            None => Vec::new(),
            Some(FeedKind::Finnhub) => self.symbols.iter().map(|symbol| json!({"type": "subscribe", "symbol": symbol}).to_string()).collect(),
            // In one message: more than five in a second break the connection.
            Some(FeedKind::Binance) => {
                let streams: Vec<String> = self.symbols.iter().map(|symbol| format!("{}@trade", symbol.to_lowercase())).collect();
                vec![json!({"method": "SUBSCRIBE", "params": streams, "id": 1}).to_string()]
            }
            Some(FeedKind::Massive) => vec![json!({"action": "subscribe", "params": self.symbols.join(",")}).to_string()],
        }
    }

    fn filled(&self, message: &str, secret: &str) -> Vec<String> {
        // Inside of JSON a quote is escaped.
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(message).is_ok();
        let escape = |value: &str| {
            let quoted = serde_json::Value::from(value).to_string();
            quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|_| is_json).unwrap_or(value).to_owned()
        };
        let secret = escape(secret);
        if message.contains("${symbol}") {
            self.symbols.iter().map(|symbol| fill(message, &[("apiKey", &secret), ("symbol", &escape(symbol))])).collect()
        } else {
            vec![fill(message, &[("apiKey", &secret)])]
        }
    }
}

/// <https://finnhub.io/docs/api/websocket-trades>
fn finnhub() -> Mapping {
    Mapping {
        frames: Some(check("type", &["trade"])),
        elements: vec![vec!["data".to_owned()]],
        fields: trade(["/s"].as_slice(), ["/p", "/v", "/t", "/c"], false),
        key: paths(&["s"]),
        ..Mapping::default()
    }
}

fn of_finnhub(frame: &Node<'_>) -> Option<Control> {
    match frame.text("type")?.as_ref() {
        "ping" => Some(Control::Alive),
        "error" => {
            let message = frame.text("msg").unwrap_or_default();
            let said = message.to_lowercase();
            let denied = ["api key", "apikey", "token", "unauthori", "forbidden"].iter().any(|word| said.contains(word));
            Some(if denied { Control::Denied(message.into_owned()) } else { Control::Refused(message.into_owned()) })
        }
        _ => None,
    }
}

/// <https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams>: as it is, or wrapped under `data` on the combined address.
fn binance() -> Mapping {
    let mut fields = trade(["/s"].as_slice(), ["/p", "/q", "/T", "/c"], true);
    fields.push(Field::new("trade_id", &["/t"]));
    Mapping {
        elements: vec![vec!["data".to_owned()], Vec::new()],
        elements_where: Some(check("e", &["trade"])),
        fields,
        key: paths(&["s"]),
        id: paths(&["t"]),
        ..Mapping::default()
    }
}

fn of_binance(frame: &Node<'_>) -> Option<Control> {
    let has = |name: &str| frame.find(&[name.to_owned()]).is_some();
    let refusal = if has("error") { frame.find(&["error".to_owned()]).map(Node::of) } else { None };
    if let Some(message) = refusal.as_ref().unwrap_or(frame).text("msg") {
        return Some(Control::Refused(message.into_owned()));
    }
    (has("result") && has("id")).then_some(Control::Subscribed)
}

/// <https://massive.com/docs/websocket>: crypto-currencies are pairs, stocks are symbols.
fn massive() -> Mapping {
    let mut fields = trade(["/pair", "/sym"].as_slice(), ["/p", "/s", "/t", "/c"], false);
    fields.extend([("trade_id", "/i"), ("exchange", "/x"), ("sequence", "/q")].map(|(name, from)| Field::new(name, &[from])));
    Mapping {
        elements_where: Some(check("ev", &["XT", "T"])),
        fields,
        key: paths(&["pair", "sym"]),
        // An exchange's ids are its own; those of the off-exchange ones (4) are of several facilities, and only the time tells these apart. A repeat has the same.
        id: paths(&["x", "i", "t"]),
        ..Mapping::default()
    }
}

fn of_massive(item: &Node<'_>) -> Option<Control> {
    if item.text("ev")? != "status" {
        return None;
    }
    let message = || item.text("message").unwrap_or_default().into_owned();
    Some(match item.text("status").unwrap_or_default().as_ref() {
        "connected" => Control::Alive,
        "auth_success" => Control::LoggedIn,
        "success" => Control::Subscribed,
        "auth_failed" | "auth_timeout" => Control::Denied(message()),
        _ => Control::Refused(message()),
    })
}

/// The fields that every trade has: price, volume, time and conditions are at `rest`.
fn trade(symbol: &[&str], rest: [&str; 4], quoted: bool) -> Vec<Field> {
    let [price, volume, time, conditions] = rest;
    let number = |name: &str, from: &str| if quoted { Field::new(name, &[from]).unquoted() } else { Field::new(name, &[from]) };
    vec![
        Field::new("symbol", symbol),
        number("price", price),
        number("volume", volume),
        Field::new("timestamp_unix", &[time]),
        Field::new("conditions", &[conditions]),
    ]
}

fn check(name: &str, one_of: &[&str]) -> Check {
    Check { at: vec![name.to_owned()], one_of: one_of.iter().map(|one| (*one).to_owned()).collect() }
}

fn paths(names: &[&str]) -> Vec<Vec<String>> {
    names.iter().map(|name| vec![(*name).to_owned()]).collect()
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
