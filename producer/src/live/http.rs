//! A JSON API that is asked again and again: one request at a time, when the interval says so, and later if the server says so.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use tapeline_api::pipeline::live::{Http as Wish, header_file};
use tapeline_api::report::{Problem, ProblemClass};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::{Failure, refusal};
use super::health::Health;
use super::intake::Intake;
use super::json::Node;
use super::mapping::{Mapped, Mapping};
use super::pace::{Pauses, draw, retry_after, used_up};
use super::secrets::{Secrets, fill_url};
use super::tls;
use crate::halt::{Halt, problem};
use crate::kafka::live::Message;

/// The largest answer that is taken.
const MAX_ANSWER: usize = 16 << 20;
/// How long connecting, and all of a request, may take.
const CONNECTING: Duration = Duration::from_secs(10);
const ANSWERING: Duration = Duration::from_secs(30);
/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// An HTTP API as a source.
pub struct Http {
    wish: Wish,
    mapping: Mapping,
    secrets: Secrets,
    health: Health,
    client: Client,
    /// How many answers are still to come in this run; for ever without a number.
    left: Option<u32>,
}

/// What a request brought.
struct Answer {
    mapped: Mapped,
    /// How long the server wants to be left alone.
    used_up: Option<Duration>,
}

impl Http {
    /// A source that has asked nothing yet. Its Secrets are in the folder `secrets`. It ends after as many answers as `answers` says, if it does.
    ///
    /// # Errors
    /// [`Halt::Failed`] if TLS cannot be set up.
    pub fn new(wish: Wish, secrets: PathBuf, health: Health, answers: Option<u32>) -> Result<Self, Halt> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client()?)
            .user_agent(concat!("tapeline-producer/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECTING)
            .timeout(ANSWERING)
            .redirect(redirect::Policy::custom(same_host))
            .build()
            .map_err(|error| Halt::Failed(problem(ProblemClass::Internal, format!("an HTTP client cannot be made: {error}"))))?;
        Ok(Self { mapping: Mapping::new(&wish.mapping()), secrets: Secrets::new(secrets, wish.secret_files()), health, client, left: answers, wish })
    }

    /// Hands on what the answers hold, until `stop`, or it was answered often enough, or nobody takes it any more.
    pub async fn run(mut self, messages: mpsc::Sender<Message>, stop: CancellationToken) {
        let consecutive = self.wish.id.as_ref().is_some_and(|id| id.consecutive);
        let mut intake = Intake::new(consecutive, self.health.clone(), messages, 1 + self.wish.more_topics.len());
        let mut pauses = Pauses::default();
        loop {
            let begun = Instant::now();
            let interval = draw(&self.wish.interval);
            let asked = stop.run_until_cancelled(self.ask()).await;
            let wait = match asked {
                None => return,
                Some(Ok(answer)) => {
                    self.health.connected();
                    pauses = Pauses::default();
                    if intake.take(answer.mapped.elements, 0).await.is_err() {
                        return;
                    }
                    self.left = self.left.map(|left| left.saturating_sub(1));
                    if self.left == Some(0) {
                        return;
                    }
                    answer.used_up.inspect(|wait| self.health.numbers().rate_limited(*wait)).unwrap_or_default()
                }
                Some(Err(failure)) => {
                    if let Some(asked) = failure.retry_after {
                        self.health.numbers().rate_limited(asked);
                    }
                    self.health.disconnected(failure.problem);
                    pauses.next(failure.retry_after)
                }
            };
            // From one request to the next; a slow answer does not make two of them follow each other at once.
            let next = (begun + interval).max(Instant::now() + wait);
            if stop.run_until_cancelled(tokio::time::sleep_until(next)).await.is_none() {
                return;
            }
        }
    }

    async fn ask(&self) -> Result<Answer, Failure> {
        let key = self.secrets.api_key()?;
        let request = self.client.get(fill_url(&self.wish.url, key.as_ref())).headers(self.headers()?);
        let numbers = self.health.numbers();
        let response = request.send().await.inspect_err(|_| numbers.request(None)).map_err(|error| unreachable(&error))?;
        let (status, now) = (response.status(), SystemTime::now());
        numbers.request(Some(status.as_u16()));
        if !status.is_success() {
            let asked = retry_after(response.headers(), now).or_else(|| used_up(response.headers(), now));
            return Err(refusal(status, asked, &self.secrets));
        }
        let used_up = used_up(response.headers(), now);
        if status == StatusCode::NO_CONTENT {
            return Ok(Answer { mapped: Mapped::default(), used_up });
        }
        let text = body(response).await?;
        let node = Node::parse(&text).map_err(|_| refuses("the answer is not JSON; correct url, or ask for JSON with a header Accept"))?;
        let mapped = self.mapping.map(&node);
        if mapped.unknown > 0 {
            return Err(refuses("the answer has nothing where elements says; correct elements").into());
        }
        Ok(Answer { mapped, used_up })
    }

    /// Those with Secrets are read anew each time.
    fn headers(&self) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::new();
        for (index, header) in self.wish.headers.iter().enumerate() {
            let value = match (&header.value, &header.value_from) {
                (_, Some(from)) => self.secrets.read(&header_file(index), &from.secret_key_ref)?,
                (value, None) => SecretString::from(value.clone().unwrap_or_default()),
            };
            let wrong = |what: &str| refuses(&format!("headers[{index}] has a {what} that no header can have; correct it"));
            let name = HeaderName::try_from(&header.name).map_err(|_| wrong("name"))?;
            let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|_| wrong("value"))?;
            value.set_sensitive(header.value_from.is_some());
            headers.append(name, value);
        }
        Ok(headers)
    }
}

/// Headers with Secrets must not go to whom the user did not name, nor in plain text where TLS was asked for.
fn same_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let same = attempt.previous().last().is_some_and(|from| {
        let to = attempt.url();
        from.host_str() == to.host_str() && from.port_or_known_default() == to.port_or_known_default() && from.scheme() == to.scheme()
    });
    if same && attempt.previous().len() <= REDIRECTS { attempt.follow() } else { attempt.stop() }
}

async fn body(mut response: Response) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER {
            return Err(refuses(&format!("the answer is larger than {} MiB; ask for less", MAX_ANSWER >> 20)).into());
        }
    }
    String::from_utf8(bytes).map_err(|_| refuses("the answer is not UTF-8 text; correct url").into())
}

fn refuses(message: &str) -> Problem {
    problem(ProblemClass::FeedRefuses, message.to_owned())
}

/// Its text has the URL, and that the API key.
fn unreachable(error: &reqwest::Error) -> Failure {
    // A connection that takes too long is both.
    let what = if error.is_connect() {
        "there is no connection; look at the host in url, at network policies, and at the server's certificate".to_owned()
    } else if error.is_timeout() {
        format!("it does not answer within {} s", ANSWERING.as_secs())
    } else if error.is_builder() {
        return refuses("the URL is none; correct url").into();
    } else {
        "the connection broke off".to_owned()
    };
    problem(ProblemClass::FeedUnreachable, format!("the API cannot be reached: {what}")).into()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use rstest::rstest;

    use super::*;

    /// Whoever listens says nothing, so TLS is never set up, and no answer comes.
    #[rstest]
    #[case::connecting("https", "there is no connection")]
    #[case::answering("http", "it does not answer within 30 s")]
    #[tokio::test]
    async fn what_took_too_long_is_said(#[case] scheme: &str, #[case] said: &str) {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = Client::builder().tls_backend_preconfigured(tls::client().unwrap()).connect_timeout(Duration::from_millis(50));
        let client = client.timeout(Duration::from_secs(if scheme == "http" { 1 } else { 20 })).build().unwrap();
        let error = client.get(format!("{scheme}://{}/", silent.local_addr().unwrap())).send().await.unwrap_err();
        let message = unreachable(&error).problem.message;
        assert!(message.contains(said), "{message}");
    }
}
