//! Makes a websocket connection, and says in a user's words why there is none.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;
use tapeline_api::report::{Problem, ProblemClass};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, error::CapacityError};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::pace::retry_after;
use super::secrets::{Secrets, fill_url};
use crate::halt::problem;

/// The largest frame that is taken.
const MAX_FRAME: usize = 16 << 20;
/// How long each step of connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection, in plain text or not.
pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// What a connection reads and writes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the status.
    pub problem: Problem,
    /// How long the server asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { problem, retry_after: None }
    }
}

/// Connects to `url`, in which the API key still has to be put.
///
/// # Errors
/// Why it does not work. All of it may come right by itself, the API key too: somebody corrects the Secret.
pub async fn connect(url: &str, key: Option<&SecretString>, secrets: &Secrets, tls: &Arc<ClientConfig>) -> Result<Socket, Failure> {
    let refuses = |what: &str| Failure::from(problem(ProblemClass::FeedRefuses, what.to_owned()));
    let not_one = || refuses("the URL is none that can be connected to; correct url");
    let request = fill_url(url, key).into_client_request().map_err(|_| not_one())?;
    let (host, port, is_tls) = place(request.uri()).ok_or_else(not_one)?;
    let plain = within("connecting", TcpStream::connect((host.as_str(), port))).await?;
    _ = plain.set_nodelay(true);
    let stream: Box<dyn Stream> = if is_tls {
        let name = ServerName::try_from(host).map_err(|_| not_one())?;
        Box::new(within("setting TLS up", TlsConnector::from(Arc::clone(tls)).connect(name, plain)).await?)
    } else {
        Box::new(plain)
    };
    let config = WebSocketConfig::default().read_buffer_size(32 << 10).max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
    match timeout(PATIENCE, client_async_with_config(request, stream, Some(config))).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(response))) => Err(refusal(response.status(), retry_after(response.headers(), SystemTime::now()), secrets)),
        Ok(Err(error)) => Err(problem(ProblemClass::FeedUnreachable, format!("the feed does not open a websocket: {}", explain(&error))).into()),
        Err(_) => Err(late("opening the websocket")),
    }
}

/// Host, port, and whether TLS is wanted.
fn place(url: &Uri) -> Option<(String, u16, bool)> {
    let is_tls = match url.scheme_str()? {
        "wss" => true,
        "ws" => false,
        _ => return None,
    };
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), url.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), is_tls))
}

async fn within<T>(what: &'static str, step: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match timeout(PATIENCE, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(problem(ProblemClass::FeedUnreachable, format!("the feed cannot be reached, {what}: {}", explain_io(&error))).into()),
        Err(_) => Err(late(what)),
    }
}

fn late(what: &str) -> Failure {
    problem(ProblemClass::FeedUnreachable, format!("the feed cannot be reached: {what} took longer than {} s", PATIENCE.as_secs())).into()
}

/// What an answer means that is no success, to a handshake or a request.
#[must_use]
pub fn refusal(status: StatusCode, retry_after: Option<Duration>, secrets: &Secrets) -> Failure {
    let problem = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => secrets.denied(&status.to_string()),
        StatusCode::TOO_MANY_REQUESTS => {
            problem(ProblemClass::FeedUnreachable, "the feed says that it is asked too often; it is left alone for a while".to_owned())
        }
        _ if status.is_server_error() => problem(ProblemClass::FeedUnreachable, format!("the feed answers {status}")),
        _ if status.is_redirection() => problem(ProblemClass::FeedRefuses, format!("the feed answers {status} and sends us elsewhere; give its present URL")),
        _ => problem(ProblemClass::FeedRefuses, format!("the feed answers {status}; correct url")),
    };
    Failure { problem, retry_after }
}

/// An error of a connection without addresses and contents.
#[must_use]
pub fn explain(error: &Error) -> String {
    match error {
        Error::Io(error) => explain_io(error),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => format!("a frame is larger than {} MiB", MAX_FRAME >> 20),
        Error::ConnectionClosed | Error::AlreadyClosed => "the connection was closed".to_owned(),
        Error::Utf8(_) => "a text is not UTF-8".to_owned(),
        Error::Protocol(error) => error.to_string(),
        _ => "it does not speak the websocket protocol".to_owned(),
    }
}

/// The kind says enough, and what TLS has to say is in an error of its own.
fn explain_io(error: &io::Error) -> String {
    match (error.get_ref(), error.kind()) {
        (Some(inner), io::ErrorKind::InvalidData) => inner.to_string(),
        (Some(inner), _) if inner.to_string().starts_with("failed to lookup address") => "its name cannot be looked up".to_owned(),
        (_, kind) => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("wss://ws.finnhub.io?token=k", Some(("ws.finnhub.io", 443, true)))]
    #[case("ws://127.0.0.1:8090/ws", Some(("127.0.0.1", 8090, false)))]
    #[case("ws://[::1]/", Some(("::1", 80, false)))]
    #[case("https://a.test/", None)]
    fn where_a_url_leads(#[case] url: &str, #[case] expected: Option<(&str, u16, bool)>) {
        assert_eq!(place(&url.parse().unwrap()), expected.map(|(host, port, is_tls)| (host.to_owned(), port, is_tls)));
    }

    #[rstest]
    #[case(401, ProblemClass::FeedDenied)]
    #[case(403, ProblemClass::FeedDenied)]
    #[case(404, ProblemClass::FeedRefuses)]
    #[case(302, ProblemClass::FeedRefuses)]
    #[case(429, ProblemClass::FeedUnreachable)]
    #[case(502, ProblemClass::FeedUnreachable)]
    fn what_an_answer_means(#[case] status: u16, #[case] class: ProblemClass) {
        let secrets = Secrets::new("/nowhere".into(), Vec::new());
        assert_eq!(refusal(StatusCode::from_u16(status).unwrap(), None, &secrets).problem.class, class);
    }
}
