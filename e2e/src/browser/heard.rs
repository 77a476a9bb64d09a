//! What was heard of a page: what it wrote to the console, and what it asked for.

use reqwest::Url;
use serde_json::Value;

/// All of it since the browser began, or since it was forgotten.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Errors of the console, each with its source: `security` for what the Content-Security-Policy refused, `javascript` for what nobody caught, `network`,
    /// `console-api`.
    pub(super) errors: Vec<String>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    id: String,
    url: String,
}

impl Heard {
    /// Takes an entry of chromedriver's log `browser`.
    pub(super) fn console(&mut self, entry: &Value) {
        if entry.pointer("/level") == Some(&Value::from("SEVERE")) {
            let text = |name: &str| entry.pointer(name).and_then(Value::as_str).unwrap_or_default();
            self.errors.push(format!("{}: {}", text("/source"), text("/message")));
        }
    }

    /// Takes an entry of chromedriver's log `performance`: an event of the DevTools protocol as JSON in a text.
    pub(super) fn network(&mut self, entry: &Value) {
        let event: Value = entry.pointer("/message").and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let text = |name: &str| event.pointer(&format!("/message{name}")).and_then(Value::as_str).unwrap_or_default().to_owned();
        match text("/method").as_str() {
            // Once for each redirect, too.
            "Network.requestWillBeSent" => self.requests.push(Request { id: text("/params/requestId"), url: text("/params/request/url") }),
            "Network.webSocketCreated" => self.requests.push(Request { id: text("/params/requestId"), url: text("/params/url") }),
            "Network.webTransportCreated" => self.requests.push(Request { id: text("/params/transportId"), url: text("/params/url") }),
            // What the policy refused has not left; the console has it.
            "Network.loadingFailed" if text("/params/blockedReason") == "csp" => {
                let id = text("/params/requestId");
                if let Some(blocked) = self.requests.iter().rposition(|request| request.id == id) {
                    self.requests.remove(blocked);
                }
            }
            _ => {}
        }
    }

    /// What was asked for, in this order, without what is no request: `data:`, `blob:`, Chromium's own pages.
    pub(super) fn requests(&self) -> Vec<String> {
        let leaves = |url: &&str| ["http:", "https:", "ws:", "wss:"].iter().any(|scheme| url.starts_with(scheme));
        self.requests.iter().map(|request| request.url.as_str()).filter(leaves).map(str::to_owned).collect()
    }
}

/// Whether two URLs have the same host and port.
pub(super) fn same_place(one: &str, other: &str) -> bool {
    let place = |url: &str| Url::parse(url).ok().and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default())));
    place(one).is_some_and(|place_of_one| place(other) == Some(place_of_one))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(method: &str, params: Value) -> Value {
        json!({"level": "INFO", "message": json!({"message": {"method": method, "params": params}}).to_string()})
    }

    #[test]
    fn what_the_policy_refused_was_no_request() {
        let mut heard = Heard::default();
        for (id, url) in [("1", "http://a/"), ("2", "http://b/x.png"), ("3", "data:image/gif;base64,R0"), ("4", "http://a/old"), ("4", "http://c/new")] {
            heard.network(&event("Network.requestWillBeSent", json!({"requestId": id, "request": {"url": url}})));
        }
        heard.network(&event("Network.webSocketCreated", json!({"requestId": "5", "url": "ws://d/"})));
        heard.network(&event("Network.loadingFailed", json!({"requestId": "2", "blockedReason": "csp"})));
        heard.network(&event("Network.loadingFailed", json!({"requestId": "4", "errorText": "net::ERR_FAILED"})));
        assert_eq!(heard.requests(), ["http://a/", "http://a/old", "http://c/new", "ws://d/"]);
    }

    #[test]
    fn only_errors_are_kept() {
        let mut heard = Heard::default();
        heard.console(&json!({"level": "WARNING", "source": "console-api", "message": "slow"}));
        heard.console(&json!({"level": "SEVERE", "source": "javascript", "message": "x is not defined"}));
        assert_eq!(heard.errors, ["javascript: x is not defined"]);
    }

    #[test]
    fn a_place_is_a_host_and_a_port() {
        assert!(same_place("http://10.0.0.1/a", "http://10.0.0.1:80/b?c"));
        assert!(same_place("ws://10.0.0.1:8080/", "http://10.0.0.1:8080"));
        for other in ["http://10.0.0.1:81/", "http://10.0.0.2/", "https://10.0.0.1/", "nonsense"] {
            assert!(!same_place("http://10.0.0.1/", other), "{other}");
        }
        assert!(!same_place("nonsense", "nonsense"));
    }
}
