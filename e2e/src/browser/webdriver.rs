//! The W3C's WebDriver protocol as far as a [`super::Browser`] needs it: one session, JSON over HTTP. (The crate fantoccini has more of it, and by way of `webdriver` and ICU
//! 1.5 a feature of syn, with which DataFusion and whatever else has seen a procedural macro is compiled anew.)

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use reqwest::{Client, Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http;

/// Above what the browser itself allows pages and scripts.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Under which name an element is referred to.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A session of a driver.
pub(super) struct Session {
    client: Client,
    /// `http://HOST:PORT/session/ID`.
    address: String,
    pub(super) id: String,
}

/// What the driver answers instead of doing it.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    error: String,
    message: String,
}

#[derive(Deserialize)]
struct Answer {
    value: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Begun {
    session_id: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Behind it are versions and addresses in the driver's code.
        let message = self.message.split("\n  (Session info").next().unwrap_or_default();
        // Most messages begin with the error.
        if message.starts_with(&self.error) { f.write_str(message) } else { write!(f, "{}: {message}", self.error) }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Whether `error` is one, of the kind `kind`.
    pub(super) fn is(error: &anyhow::Error, kind: &str) -> bool {
        error.downcast_ref::<Self>().is_some_and(|refusal| refusal.error == kind)
    }
}

impl Session {
    /// Begins one at `address`, such as `http://127.0.0.1:9515/session`.
    ///
    /// # Errors
    /// The driver does not answer, or the browser does not start.
    pub(super) async fn begin(address: &str, capabilities: &Value) -> Result<Self> {
        let client = http::client().timeout(TIMEOUT).build()?;
        let begun = send(client.post(address).json(&json!({"capabilities": {"alwaysMatch": capabilities}}))).await?;
        let Begun { session_id: id } = serde_json::from_value(begun).context("the beginning of a session")?;
        Ok(Self { client, address: format!("{address}/{id}"), id })
    }

    /// `POST /session/ID/PATH`.
    ///
    /// # Errors
    /// A [`Refusal`], or the driver does not answer.
    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value> {
        send(self.request(Method::POST, path).json(&body)).await
    }

    /// `GET /session/ID/PATH`.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        send(self.request(Method::GET, path)).await
    }

    /// Runs the body of a function, and waits for what it returns, should that be a promise. Policies of the page are for the page's own scripts.
    ///
    /// # Errors
    /// As [`Self::post`]; among them what it throws.
    pub(super) async fn run(&self, body: &str, arguments: Value) -> Result<Value> {
        self.post("execute/sync", json!({"script": body, "args": arguments})).await
    }

    /// Gives `commands` to the first element that `css` selects.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub(super) async fn act(&self, css: &str, commands: &[(&str, Value)]) -> Result<()> {
        let found = element(&self.post("element", json!({"using": "css selector", "value": css})).await?)?;
        for (command, body) in commands {
            self.post(&format!("element/{found}/{command}"), body.clone()).await?;
        }
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}/{path}", self.address))
    }
}

/// The id of an element that was returned.
///
/// # Errors
/// It is none.
pub(super) fn element(value: &Value) -> Result<String> {
    value.get(ELEMENT).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no element, but {value}"))
}

async fn send(request: RequestBuilder) -> Result<Value> {
    let answer = request.send().await.context("asking chromedriver")?;
    let fine = answer.status().is_success();
    let Answer { value } = answer.json().await.context("what chromedriver answers")?;
    if fine { Ok(value) } else { Err(serde_json::from_value::<Refusal>(value)?.into()) }
}
