//! Producers: where their symbols come from, and what the API server cannot see of sources outside: placeholders that nothing stands for, keys that nothing uses, schedules that are none.

use std::collections::BTreeSet;
use std::time::Duration;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::duration::GoDuration;
use tapeline_api::pipeline::live::{FeedKind, Http, MappedField, WebSocket};
use tapeline_api::pipeline::producers::{Producer, Source, SymbolsFrom};
use tapeline_api::pipeline::schedule::Schedule;
use tapeline_api::progress::PROGRESS_TOPIC;

use super::queries::{INTO_PROGRESS, invalid};
use super::{Validated, cron};
use crate::reason::{Problem, near_miss};

pub(super) fn validate(spec: &TradingPipelineSpec, validated: &mut Validated) {
    for (index, producer) in spec.producers.iter().enumerate() {
        let mut problems = Vec::new();
        for (field, _) in producer.topics().filter(|(_, topic)| topic.as_str() == PROGRESS_TOPIC) {
            problems.push(invalid(format!("spec.producers[{index}].{field}"), INTO_PROGRESS));
        }
        if let Some((path, symbols)) = symbols(index, producer) {
            check_symbols(spec, &path, symbols, &mut problems);
        }
        if let Some(schedule) = &producer.schedule {
            check_schedule(&format!("spec.producers[{index}].schedule"), schedule, &producer.source, &mut problems);
        }
        let path = format!("spec.producers[{index}].source");
        if let Some(websocket) = &producer.source.websocket {
            check_websocket(&format!("{path}.websocket"), websocket, &mut problems);
        }
        if let Some(http) = &producer.source.http {
            check_http(&format!("{path}.http"), producer, http, &mut problems);
        }
        if problems.is_empty() {
            validated.producers.insert(producer.name.clone());
        }
        validated.problems.extend(problems.iter().cloned());
        validated.producer_problems.insert(producer.name.clone(), problems);
    }
}

/// Where a producer's symbols come from, and the path of that field.
fn symbols(index: usize, producer: &Producer) -> Option<(String, &SymbolsFrom)> {
    let source = &producer.source;
    let simulate = source.simulate.as_ref().map(|simulate| ("simulate", &simulate.symbols_from));
    let replay = || source.replay.as_ref().and_then(|replay| replay.symbols_from.as_ref()).map(|symbols| ("replay", symbols));
    let (kind, symbols) = simulate.or_else(replay)?;
    Some((format!("spec.producers[{index}].source.{kind}.symbolsFrom.mysql"), symbols))
}

fn check_symbols(spec: &TradingPipelineSpec, path: &str, symbols: &SymbolsFrom, problems: &mut Vec<Problem>) {
    let Some(mysql) = &spec.mysql else {
        problems.push(invalid(path.to_owned(), "the pipeline has no MySQL; add spec.mysql"));
        return;
    };
    let Some(table) = mysql.tables.iter().find(|table| table.name == symbols.mysql.table) else { return };
    for needed in ["ticker", "sector", "shares"] {
        if !table.columns.iter().any(|column| column.name.as_str() == needed) {
            let message = format!("table \"{}\" has no column \"{needed}\"; symbols need ticker, sector and shares", table.name);
            problems.push(invalid(format!("{path}.table"), message));
        }
    }
}

fn check_schedule(path: &str, schedule: &Schedule, source: &Source, problems: &mut Vec<Problem>) {
    problems.extend(cron::check(&schedule.cron).err().map(|wrong| invalid(format!("{path}.cron"), wrong)));
    problems.extend(cron::check_time_zone(&schedule.time_zone).err().map(|wrong| invalid(format!("{path}.timeZone"), wrong)));
    problems.extend(
        endless(source).map(|(what, remedy)| invalid(path.to_owned(), format!("{what} has no end, and a run needs one; remove schedule, or {remedy}"))),
    );
}

/// A source that comes to no end by itself, and what else could be done about it.
fn endless(source: &Source) -> Option<(&'static str, &'static str)> {
    if source.simulate.is_some() {
        Some(("a simulated market", "choose another source"))
    } else if source.websocket.is_some() {
        Some(("a websocket", "choose another source"))
    } else if source.replay.as_ref().is_some_and(|replay| replay.repeat) {
        Some(("a replay with loop", "loop"))
    } else {
        None
    }
}

/// What may stand in a text of a source outside.
const API_KEY: &str = "apiKey";
const SYMBOL: &str = "symbol";

fn check_websocket(path: &str, websocket: &WebSocket, problems: &mut Vec<Problem>) {
    placeholders(&format!("{path}.url"), &websocket.url, &[API_KEY], problems);
    for (index, message) in websocket.on_open.iter().enumerate() {
        placeholders(&format!("{path}.onOpen[{index}]"), message, &[API_KEY, SYMBOL], problems);
    }
    let used_in = |name: &str, text: &String| names(text).any(|used| used == Ok(name));
    let uses_symbols = websocket.on_open.iter().any(|message| used_in(SYMBOL, message));
    let uses_key = used_in(API_KEY, &websocket.url) || websocket.on_open.iter().any(|message| used_in(API_KEY, message));
    match websocket.feed {
        None if uses_symbols && websocket.symbols.is_empty() => {
            problems.push(invalid(format!("{path}.symbols"), "onOpen has ${symbol}, and there is none; name at least one"));
        }
        None if !uses_symbols && !websocket.symbols.is_empty() => {
            problems.push(invalid(format!("{path}.symbols"), "nothing uses them; write ${symbol} in a message of onOpen, or remove them"));
        }
        Some(FeedKind::Massive) => massive(path, websocket, problems),
        _ => {}
    }
    let logs_in = websocket.feed == Some(FeedKind::Massive);
    api_key(path, uses_key, logs_in, websocket.api_key_secret_ref.is_some(), "in url or onOpen", problems);
    if let Some(mapping) = &websocket.mapping {
        fields(&format!("{path}.mapping.fields"), &mapping.fields, problems);
    }
}

/// Massive's clients log in with a message, and say for each symbol which kind of trade they want.
fn massive(path: &str, websocket: &WebSocket, problems: &mut Vec<Problem>) {
    if websocket.api_key_secret_ref.is_none() {
        problems.push(invalid(format!("{path}.apiKeySecretRef"), "Massive wants an API key; name the Secret and the key that hold it"));
    }
    for (index, symbol) in websocket.symbols.iter().enumerate().filter(|(_, symbol)| !symbol.starts_with("XT.") && !symbol.starts_with("T.")) {
        let message = format!("\"{symbol}\" does not say which trades; write XT.{symbol} for a crypto-currency, T.{symbol} for a stock");
        problems.push(invalid(format!("{path}.symbols[{index}]"), message));
    }
}

fn check_http(path: &str, producer: &Producer, http: &Http, problems: &mut Vec<Problem>) {
    placeholders(&format!("{path}.url"), &http.url, &[API_KEY], problems);
    let uses_key = names(&http.url).any(|name| name == Ok(API_KEY));
    api_key(path, uses_key, false, http.api_key_secret_ref.is_some(), "in url, or name the Secret under headers", problems);
    fields(&format!("{path}.fields"), &http.fields, problems);
    for (index, _) in http.headers.iter().enumerate().filter(|(_, header)| header.value.iter().flat_map(|value| names(value)).any(|name| name == Ok(API_KEY))) {
        let message = "${apiKey} is put into url alone; name the Secret that holds this header's value with valueFrom";
        problems.push(invalid(format!("{path}.headers[{index}].value"), message));
    }
    match (http.requests, &producer.schedule) {
        (Some(requests), Some(schedule)) => requests_within(path, http, requests, schedule, problems),
        (Some(_), None) => {
            problems.push(invalid(format!("{path}.requests"), "it is for the runs of a schedule, and the producer has none; add schedule, or remove it"));
        }
        (None, _) => {}
    }
    for (index, _) in http.more_topics.iter().enumerate().filter(|(_, topic)| **topic == producer.topic) {
        let message = "it is the producer's topic, which has its turn already; remove it here";
        problems.push(invalid(format!("{path}.moreTopics[{index}]"), message));
    }
}

/// A run that waits for longer than it may take would fail each time.
fn requests_within(path: &str, http: &Http, requests: i32, schedule: &Schedule, problems: &mut Vec<Problem>) {
    let pause = http.interval.every.as_ref().or(http.interval.between.as_ref().map(|between| &between.min)).map_or(Duration::ZERO, GoDuration::get);
    let pauses = pause.saturating_mul(u32::try_from(requests).unwrap_or(0).saturating_sub(1));
    if pauses >= schedule.time_limit.get() {
        let message = format!(
            "{requests} requests wait for {} s or more between them, and a run may take {}; ask for fewer, shorten interval, or raise schedule.timeLimit",
            pauses.as_secs(),
            schedule.time_limit
        );
        problems.push(invalid(format!("{path}.requests"), message));
    }
}

fn api_key(path: &str, used: bool, logs_in: bool, given: bool, place: &str, problems: &mut Vec<Problem>) {
    if used && !given && !logs_in {
        let message = "${apiKey} stands for a Secret's value, and none is named; add apiKeySecretRef with the Secret's name and key";
        problems.push(invalid(format!("{path}.apiKeySecretRef"), message));
    } else if given && !used && !logs_in {
        problems.push(invalid(format!("{path}.apiKeySecretRef"), format!("nothing uses it; write ${{apiKey}} {place}")));
    }
}

/// Two fields of one name would be read as one of them.
fn fields(path: &str, fields: &[MappedField], problems: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate().filter(|(_, field)| !seen.insert(&field.name)) {
        problems.push(invalid(format!("{path}[{index}].name"), format!("\"{}\" is there twice; name each field once", field.name)));
    }
}

/// Everything in `${..}` must be one of `known`.
fn placeholders(path: &str, text: &str, known: &[&str], problems: &mut Vec<Problem>) {
    for name in names(text) {
        let message = match name {
            Ok(name) if known.contains(&name) => continue,
            Ok(name) => {
                let known: Vec<String> = known.iter().map(|known| format!("${{{known}}}")).collect();
                match near_miss(&format!("${{{name}}}"), known.iter().map(String::as_str)) {
                    hint if hint.is_empty() => format!("nothing stands for ${{{name}}}; there is {}", known.join(" and ")),
                    hint => format!("nothing stands for ${{{name}}}{hint}"),
                }
            }
            Err(()) => "a ${ is not closed; write } behind the name".to_owned(),
        };
        problems.push(invalid(path.to_owned(), message));
    }
}

/// The names in `${..}`, or that one is not closed.
fn names(text: &str) -> impl Iterator<Item = Result<&str, ()>> {
    text.split("${").skip(1).map(|rest| rest.split_once('}').map(|(name, _)| name).ok_or(()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use crate::reconcile::validate::tests::{good, pipeline};
    use crate::reconcile::validate::validate;

    /// What is wrong with a producer that has `source`.
    fn problems(source: Value) -> Vec<String> {
        let mut object = good();
        object["spec"]["producers"][1]["source"] = source;
        let validated = validate(&pipeline(object).spec);
        assert_eq!(validated.producers.len(), 1 + usize::from(validated.problems.is_empty()));
        validated.problems.iter().map(ToString::to_string).collect()
    }

    fn websocket(changes: Value) -> Value {
        let mut source = json!({
            "url": "wss://feed.test/?token=${apiKey}", "apiKeySecretRef": {"name": "feed", "key": "token"}, "symbols": ["A"],
            "onOpen": ["subscribe ${symbol}"], "mapping": {"elements": "/data"},
        });
        for (key, value) in changes.as_object().unwrap() {
            source[key] = value.clone();
        }
        source.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        json!({"websocket": source})
    }

    fn http(changes: Value) -> Value {
        let mut source = json!({"url": "https://api.test/", "interval": {"every": "10s"}, "moreTopics": ["test_topic"]});
        for (key, value) in changes.as_object().unwrap() {
            source[key] = value.clone();
        }
        json!({"http": source})
    }

    #[rstest]
    #[case(websocket(json!({})))]
    #[case(websocket(json!({"feed": "Finnhub", "mapping": null, "onOpen": null})))]
    #[case(websocket(json!({"url": "wss://m.test/crypto", "feed": "Massive", "mapping": null, "onOpen": null, "symbols": ["XT.BTC-USD", "T.AAPL"]})))]
    #[case(http(json!({})))]
    #[case(http(json!({"url": "https://api.test/?key=${apiKey}", "apiKeySecretRef": {"name": "api", "key": "key"}})))]
    fn good_sources(#[case] source: Value) {
        assert_eq!(problems(source), Vec::<String>::new());
    }

    #[rstest]
    #[case::unknown_placeholder(websocket(json!({"url": "wss://feed.test/?token=${apikey}&k=${apiKey}"})),
        "spec.producers[1].source.websocket.url: nothing stands for ${apikey}; did you mean \"${apiKey}\"?")]
    #[case::open_placeholder(websocket(json!({"onOpen": ["${symbol}", "${symbol"]})),
        "spec.producers[1].source.websocket.onOpen[1]: a ${ is not closed; write } behind the name")]
    #[case::no_secret(websocket(json!({"apiKeySecretRef": null})),
        "spec.producers[1].source.websocket.apiKeySecretRef: ${apiKey} stands for a Secret's value, and none is named; add apiKeySecretRef with the Secret's name and key")]
    #[case::unused_secret(websocket(json!({"url": "wss://feed.test/"})),
        "spec.producers[1].source.websocket.apiKeySecretRef: nothing uses it; write ${apiKey} in url or onOpen")]
    #[case::no_symbols(websocket(json!({"symbols": null})),
        "spec.producers[1].source.websocket.symbols: onOpen has ${symbol}, and there is none; name at least one")]
    #[case::unused_symbols(websocket(json!({"onOpen": null})),
        "spec.producers[1].source.websocket.symbols: nothing uses them; write ${symbol} in a message of onOpen, or remove them")]
    #[case::massive_without_key(websocket(json!({"url": "wss://m.test/", "feed": "Massive", "mapping": null, "onOpen": null, "apiKeySecretRef": null, "symbols": ["T.A"]})),
        "spec.producers[1].source.websocket.apiKeySecretRef: Massive wants an API key; name the Secret and the key that hold it")]
    #[case::massive_without_channel(websocket(json!({"url": "wss://m.test/", "feed": "Massive", "mapping": null, "onOpen": null, "symbols": ["T.A", "BTC-USD"]})),
        "spec.producers[1].source.websocket.symbols[1]: \"BTC-USD\" does not say which trades; write XT.BTC-USD for a crypto-currency, T.BTC-USD for a stock")]
    #[case::a_field_twice(websocket(json!({"mapping": {"fields": [{"name": "p", "pointer": "/p"}, {"name": "p", "pointer": "/q"}]}})),
        "spec.producers[1].source.websocket.mapping.fields[1].name: \"p\" is there twice; name each field once")]
    #[case::the_topic_twice(http(json!({"moreTopics": ["test_topic", "trading_data"]})),
        "spec.producers[1].source.http.moreTopics[1]: it is the producer's topic, which has its turn already; remove it here")]
    #[case::requests_of_no_run(http(json!({"requests": 3})),
        "spec.producers[1].source.http.requests: it is for the runs of a schedule, and the producer has none; add schedule, or remove it")]
    #[case::key_in_a_header(http(json!({"headers": [{"name": "accept", "value": "*/*"}, {"name": "x-key", "value": "Bearer ${apiKey}"}]})),
        "spec.producers[1].source.http.headers[1].value: ${apiKey} is put into url alone; name the Secret that holds this header's value with valueFrom")]
    #[case::symbol_in_http(http(json!({"url": "https://api.test/${symbol}"})),
        "spec.producers[1].source.http.url: nothing stands for ${symbol}; there is ${apiKey}")]
    fn each_fault_is_named(#[case] source: Value, #[case] problem: &str) {
        assert_eq!(problems(source), [problem]);
    }

    #[rstest]
    #[case(json!({"every": "10s"}), 6, false)]
    #[case(json!({"every": "10s"}), 7, true)]
    #[case(json!({"between": {"min": "1s", "max": "100s"}}), 60, false)]
    #[case(json!({"between": {"min": "1s", "max": "100s"}}), 61, true)]
    fn the_requests_of_a_run_have_room_in_its_time(#[case] interval: Value, #[case] requests: i32, #[case] too_many: bool) {
        let mut object = good();
        object["spec"]["producers"][1]["source"] = http(json!({"interval": interval, "requests": requests}));
        object["spec"]["producers"][1]["schedule"] = json!({"cron": "@daily", "timeLimit": "60s"});
        let problems: Vec<String> = validate(&pipeline(object).spec).problems.iter().map(ToString::to_string).collect();
        let message = "requests wait for 60 s or more between them, and a run may take 60s; ask for fewer, shorten interval, or raise schedule.timeLimit";
        let expected = too_many.then(|| format!("spec.producers[1].source.http.requests: {requests} {message}"));
        assert_eq!(problems, expected.into_iter().collect::<Vec<_>>());
    }
}
