//! The feeds' own frames, as their documentation shows them.

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::live::seen::Seen;

fn protocol(wish: serde_json::Value) -> Protocol {
    let mut source = json!({"url": "wss://feed.test/"});
    for (key, value) in wish.as_object().unwrap() {
        source[key] = value.clone();
    }
    Protocol::new(&serde_json::from_value(source).unwrap())
}

fn ready(feed: &str, symbols: &[&str]) -> Protocol {
    protocol(json!({"feed": feed, "symbols": symbols}))
}

fn elements(reading: &Reading) -> Vec<(&str, Option<&str>, &str)> {
    reading.elements.iter().map(|element| (element.key.as_deref().unwrap_or_default(), element.id.as_deref(), element.payload.as_str())).collect()
}

fn key() -> SecretString {
    "k\"1".to_owned().into()
}

#[test]
fn trades_of_finnhub() {
    let feed = ready("Finnhub", &["BINANCE:BTCUSDT", "AAPL"]);
    let subscriptions = [r#"{"symbol":"BINANCE:BTCUSDT","type":"subscribe"}"#, r#"{"symbol":"AAPL","type":"subscribe"}"#];
    assert_eq!(feed.greeting(Some(&key())), subscriptions);
    assert!(!feed.confirms());
    let trade = r#"{"c":["1","12"],"p":7296.89,"s":"BINANCE:BTCUSDT","t":1575526691134,"v":0.011467}"#;
    let same = format!(r#"{{"data":[{trade},{trade},{{"c":null,"p":1,"s":"AAPL","t":1,"v":2}}],"type":"trade"}}"#);
    let reading = feed.read(&same);
    let sent = r#"{"symbol":"BINANCE:BTCUSDT","price":7296.89,"volume":0.011467,"timestamp_unix":1575526691134,"conditions":["1","12"]}"#;
    let other = r#"{"symbol":"AAPL","price":1,"volume":2,"timestamp_unix":1,"conditions":null}"#;
    assert_eq!(elements(&reading), [("BINANCE:BTCUSDT", None, sent), ("BINANCE:BTCUSDT", None, sent), ("AAPL", None, other)]);
    assert_eq!((reading.controls.len(), reading.unknown), (0, 0));
    assert_eq!(feed.read(r#"{"type":"trade","data":null}"#), Reading::default());
}

#[rstest]
#[case(r#"{"type":"ping"}"#, Control::Alive)]
#[case(r#"{"type":"error","msg":"Invalid API key"}"#, Control::Denied("Invalid API key".to_owned()))]
#[case(r#"{"type":"error","msg":"Subscribing to too many symbols"}"#, Control::Refused("Subscribing to too many symbols".to_owned()))]
fn what_finnhub_says_besides(#[case] frame: &str, #[case] control: Control) {
    assert_eq!(ready("Finnhub", &["A"]).read(frame), Reading { controls: vec![control], ..Reading::default() });
}

#[rstest]
#[case::raw("", "")]
#[case::combined(r#"{"stream":"bnbbtc@trade","data":"#, "}")]
fn trades_of_binance(#[case] before: &str, #[case] behind: &str) {
    let feed = ready("Binance", &["BNBBTC", "BTCUSDT"]);
    assert_eq!(feed.greeting(None), [r#"{"id":1,"method":"SUBSCRIBE","params":["bnbbtc@trade","btcusdt@trade"]}"#]);
    assert!(feed.confirms());
    let trade = r#"{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.00100000","q":"100","T":1672515782130,"m":true,"M":true}"#;
    let reading = feed.read(&format!("{before}{trade}{behind}"));
    let sent = r#"{"symbol":"BNBBTC","price":0.00100000,"volume":100,"timestamp_unix":1672515782130,"conditions":null,"trade_id":12345}"#;
    assert_eq!(elements(&reading), [("BNBBTC", Some("12345"), sent)]);
    let depth = feed.read(&format!("{before}{}{behind}", r#"{"e":"depthUpdate","s":"BNBBTC"}"#));
    assert_eq!((depth.elements.len(), depth.unknown), (0, 1));
}

#[rstest]
#[case(r#"{"result":null,"id":1}"#, Control::Subscribed)]
#[case(r#"{"error":{"code":2,"msg":"Invalid request: unknown method"},"id":1}"#, Control::Refused("Invalid request: unknown method".to_owned()))]
#[case(r#"{"code":-1121,"msg":"Invalid symbol."}"#, Control::Refused("Invalid symbol.".to_owned()))]
fn what_binance_says_besides(#[case] frame: &str, #[case] control: Control) {
    assert_eq!(ready("Binance", &["A"]).read(frame), Reading { controls: vec![control], ..Reading::default() });
}

#[test]
fn trades_of_massive() {
    let feed = ready("Massive", &["XT.BTC-USD", "T.MSFT"]);
    assert_eq!(feed.greeting(Some(&key())), [r#"{"action":"auth","params":"k\"1"}"#]);
    assert_eq!(feed.after_login(), [r#"{"action":"subscribe","params":"XT.BTC-USD,T.MSFT"}"#]);
    let crypto = r#"{"ev":"XT","pair":"BTC-USD","p":33021.9,"t":1610462007425,"s":0.01616617,"c":[2],"i":"14272084","x":3,"r":1610462007576}"#;
    let stock = r#"{"ev":"T","sym":"MSFT","x":4,"i":"12345","z":3,"p":114.125,"s":100,"c":[0,12],"t":1536036818784,"q":3681328}"#;
    let status = r#"{"ev":"status","status":"success","message":"subscribed to: XT.BTC-USD"}"#;
    let reading = feed.read(&format!(r#"[{status},{crypto},{{"ev":"XQ","pair":"BTC-USD"}},{stock}]"#));
    let crypto = r#"{"symbol":"BTC-USD","price":33021.9,"volume":0.01616617,"timestamp_unix":1610462007425,"conditions":[2],"trade_id":"14272084","exchange":3,"sequence":null}"#;
    let stock = r#"{"symbol":"MSFT","price":114.125,"volume":100,"timestamp_unix":1536036818784,"conditions":[0,12],"trade_id":"12345","exchange":4,"sequence":3681328}"#;
    assert_eq!(elements(&reading), [("BTC-USD", Some("3/14272084/1610462007425"), crypto), ("MSFT", Some("4/12345/1536036818784"), stock)]);
    assert_eq!((reading.controls, reading.unknown), (vec![Control::Subscribed], 1));
}

#[test]
fn equal_ids_of_two_facilities_are_two_trades_of_massive() {
    let feed = ready("Massive", &["T.MSFT"]);
    let trade = |time: u64| format!(r#"[{{"ev":"T","sym":"MSFT","x":4,"i":"71","p":114,"s":1,"t":{time}}}]"#);
    let mut seen = Seen::new(false);
    let mut sent = |time| seen.sift(feed.read(&trade(time)).elements).new.len();
    assert_eq!([sent(1_536_036_818_784), sent(1_536_036_818_912), sent(1_536_036_818_784)], [1, 1, 0]);
}

#[rstest]
#[case("connected", Control::Alive)]
#[case("auth_success", Control::LoggedIn)]
#[case("auth_failed", Control::Denied("m".to_owned()))]
#[case("max_connections", Control::Refused("m".to_owned()))]
fn what_massive_says_besides(#[case] status: &str, #[case] control: Control) {
    let frame = json!([{"ev": "status", "status": status, "message": "m"}]).to_string();
    assert_eq!(ready("Massive", &["T.A"]).read(&frame), Reading { controls: vec![control], ..Reading::default() });
}

#[test]
fn a_mapping_of_ones_own_says_what_is_sent() {
    let on_open = [r#"{"login":"${apiKey}"}"#, r#"{"subscribe":"${symbol}"}"#, "plain ${apiKey}"];
    let own = protocol(json!({"onOpen": on_open, "symbols": ["A\"", "B"], "mapping": {}}));
    assert_eq!(own.greeting(Some(&key())), [r#"{"login":"k\"1"}"#, r#"{"subscribe":"A\""}"#, r#"{"subscribe":"B"}"#, "plain k\"1"]);
    assert_eq!(own.read(r#"{"type":"ping"}"#).elements.len(), 1, "frames mean what the mapping says");
}

#[rstest]
#[case("Finnhub")]
#[case("Binance")]
#[case("Massive")]
fn half_a_document_means_nothing(#[case] feed: &str) {
    for frame in [r#"{"type":"tra"#, "", "hello", "[1, 2", "7"] {
        let reading = ready(feed, &["T.A"]).read(frame);
        assert_eq!((reading.elements.len(), reading.unknown), (0, 1), "{frame}");
    }
}
