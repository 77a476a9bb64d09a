//! A websocket: connects, subscribes, hands every element on, and begins anew whatever happens. It stops reading while there is no room behind it, which slows the
//! server down instead of losing what it sends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use secrecy::SecretString;
use tapeline_api::duration::GoDuration;
use tapeline_api::pipeline::live::WebSocket as Wish;
use tapeline_api::report::{Problem, ProblemClass};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::ClientConfig;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message as Frame};
use tokio_util::sync::CancellationToken;

use super::connect::{Failure, Socket, connect, explain};
use super::health::Health;
use super::intake::Intake;
use super::pace::Pauses;
use super::protocol::{Control, Protocol};
use super::secrets::{Secrets, shown};
use super::tls;
use crate::halt::{Halt, problem};
use crate::kafka::live::Message;

/// How long nothing may be heard, unless the user says otherwise.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a feed that confirms subscriptions may take for it.
const CONFIRMATION: Duration = Duration::from_secs(10);
/// How long a feed that does not confirm them is listened to for a refusal.
const DOUBT: Duration = Duration::from_secs(1);
/// How long the server may take for the end of a connection that we close.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a connection has to last for the next attempt to be made at once.
const SETTLED: Duration = Duration::from_secs(30);

/// A websocket as a source.
pub struct WebSocket {
    wish: Wish,
    protocol: Protocol,
    secrets: Secrets,
    health: Health,
    tls: Arc<ClientConfig>,
    /// Since when nothing is delivered that was once subscribed to.
    down: Option<Instant>,
}

/// One connection, from its handshake on.
struct Session {
    socket: Socket,
    key: Option<SecretString>,
    begun: Instant,
    subscribed: bool,
    /// What it was refused; a feed that confirms may confirm the rest before or after that.
    refused: Option<Problem>,
    /// Whether it was asked for a sign of life and gave none yet.
    pinged: bool,
    /// Whether something unknown was told of already.
    puzzled: bool,
}

/// Why a connection ended.
enum End {
    /// The process was asked to end.
    Stopped,
    /// It does not work any more.
    Lost(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Lost(failure)
    }
}

impl WebSocket {
    /// A source that has not connected yet. Its Secrets are in the folder `secrets`.
    ///
    /// # Errors
    /// [`Halt::Failed`] if TLS cannot be set up.
    pub fn new(wish: Wish, secrets: PathBuf, health: Health) -> Result<Self, Halt> {
        Ok(Self {
            protocol: Protocol::new(&wish),
            secrets: Secrets::new(secrets, wish.secret_files()),
            health,
            tls: Arc::new(tls::client()?),
            down: None,
            wish,
        })
    }

    /// Hands on what comes, until `stop`, or nobody takes it any more.
    pub async fn run(mut self, messages: mpsc::Sender<Message>, stop: CancellationToken) {
        let mut intake = Intake::new(Protocol::is_consecutive(&self.wish), self.health.clone(), messages, 1);
        let mut pauses = Pauses::default();
        loop {
            let opened = stop.run_until_cancelled(self.open()).await;
            let failure = match opened {
                None => return,
                Some(Err(failure)) => failure,
                Some(Ok(mut session)) => {
                    let end = self.serve(&mut session, &mut intake, &stop).await;
                    if session.subscribed {
                        self.down.get_or_insert_with(Instant::now);
                    }
                    if session.subscribed && session.begun.elapsed() >= SETTLED {
                        pauses = Pauses::default();
                    }
                    match end {
                        End::Stopped => return,
                        End::Lost(failure) => session.why(failure),
                    }
                }
            };
            let pause = pauses.next(failure.retry_after);
            if failure.retry_after.is_some() {
                self.health.numbers().rate_limited(pause);
            }
            self.health.disconnected(failure.problem);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Connects.
    async fn open(&self) -> Result<Session, Failure> {
        let key = self.secrets.api_key()?;
        let socket = connect(&self.wish.url, key.as_ref(), &self.secrets, &self.tls).await?;
        Ok(Session::new(socket, key))
    }

    /// Subscribes, and reads until the connection ends.
    async fn serve(&mut self, session: &mut Session, intake: &mut Intake, stop: &CancellationToken) -> End {
        if let Err(failure) = session.say_all(self.protocol.greeting(session.key.as_ref())).await {
            return failure.into();
        }
        let silence = self.wish.silence_timeout.as_ref().map_or(SILENCE, GoDuration::get);
        loop {
            let wait = if self.protocol.confirms() { CONFIRMATION } else { DOUBT };
            let patience = if session.subscribed { silence / 2 } else { wait.saturating_sub(session.begun.elapsed()) };
            let heard = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.farewell(session, intake, FAREWELL).await;
                    return End::Stopped;
                }
                heard = timeout(patience, session.socket.next()) => heard,
            };
            let frame = match heard {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return lost(format!("the connection to the feed broke off: {}", explain(&error))),
                Ok(None) => return lost("the connection to the feed broke off".to_owned()),
                Err(_) if session.subscribed && !session.pinged => {
                    session.pinged = true;
                    match session.say(Frame::Ping(Bytes::new())).await {
                        Ok(()) => continue,
                        Err(failure) => return failure.into(),
                    }
                }
                Err(_) if session.subscribed => return lost(format!("nothing was heard from the feed for {} s", silence.as_secs_f64())),
                Err(_) if self.protocol.confirms() => return lost("the feed does not confirm the subscription".to_owned()),
                Err(_) => {
                    self.subscribed(session);
                    continue;
                }
            };
            if let Err(end) = self.take(frame, session, intake).await {
                return end;
            }
        }
    }

    /// Closes the connection; what the server had sent before it heard of that is taken. Only the server has to hurry: what was read waits for room as ever.
    async fn farewell(&mut self, session: &mut Session, intake: &mut Intake, patience: Duration) {
        let mut left = patience;
        if !matches!(timeout(left, session.socket.close(None)).await, Ok(Ok(()))) {
            return;
        }
        loop {
            let asked = Instant::now();
            let Ok(heard) = timeout(left, session.socket.next()).await else {
                tracing::debug!("the feed did not take leave in time");
                return;
            };
            left = left.saturating_sub(asked.elapsed());
            let Some(Ok(frame)) = heard else { return };
            if self.take(frame, session, intake).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, frame: Frame, session: &mut Session, intake: &mut Intake) -> Result<(), End> {
        session.pinged = false;
        match frame {
            Frame::Text(text) => self.read(text.as_str(), session, intake).await,
            // Some feeds send JSON so.
            Frame::Binary(bytes) => self.read(str::from_utf8(&bytes).unwrap_or_default(), session, intake).await,
            Frame::Close(close) => Err(lost(farewell_of(close.as_ref(), session.key.as_ref()))),
            // A ping is answered by the library, with the next read.
            Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => Ok(()),
        }
    }

    async fn read(&mut self, text: &str, session: &mut Session, intake: &mut Intake) -> Result<(), End> {
        let reading = self.protocol.read(text);
        for control in reading.controls {
            self.heed(control, session).await?;
        }
        // A feed that does not confirm, and speaks of something else than a refusal, has accepted.
        if !session.subscribed && !self.protocol.confirms() {
            self.subscribed(session);
        }
        if reading.unknown > 0 && !session.puzzled {
            session.puzzled = true;
            tracing::warn!("the feed sends something that is not known; it is passed over and counted, and not told of again while this connection lasts");
        }
        intake.take(reading.elements, reading.unknown).await.map_err(|_| End::Stopped)
    }

    /// Does what a frame that is not data calls for.
    async fn heed(&mut self, control: Control, session: &mut Session) -> Result<(), End> {
        match control {
            Control::Alive => {}
            Control::LoggedIn => session.say_all(self.protocol.after_login()).await?,
            Control::Subscribed if session.subscribed => {}
            Control::Subscribed => self.subscribed(session),
            Control::Denied(said) => return Err(End::Lost(self.secrets.denied(&shown(&said, session.key.as_ref())).into())),
            Control::Refused(said) => {
                let said = shown(&said, session.key.as_ref());
                let refused = problem(ProblemClass::FeedRefuses, format!("the feed refuses what it is asked for ({said}); look at symbols and onOpen"));
                // It may well deliver the rest, which one that confirms says by itself.
                if !session.subscribed && !self.protocol.confirms() {
                    self.subscribed(session);
                }
                session.refused = Some(refused.clone());
                self.health.complains(refused);
            }
        }
        Ok(())
    }

    fn subscribed(&mut self, session: &mut Session) {
        session.subscribed = true;
        self.health.connected();
        if let Some(refused) = session.refused.clone() {
            self.health.complains(refused);
        }
        match self.down.take() {
            None => tracing::info!(symbols = self.wish.symbols.len(), "connected and subscribed"),
            Some(since) => {
                let down = since.elapsed();
                self.health.numbers().reconnected(down);
                tracing::warn!(seconds = down.as_secs_f64(), "connected and subscribed again; what the feed had meanwhile was not delivered");
            }
        }
    }
}

impl Session {
    fn new(socket: Socket, key: Option<SecretString>) -> Self {
        Self { socket, key, begun: Instant::now(), subscribed: false, refused: None, pinged: false, puzzled: false }
    }

    /// Why it ended with `failure`: what was refused before anything was accepted is why it got no further.
    fn why(self, failure: Failure) -> Failure {
        match self.refused {
            Some(problem) if !self.subscribed && failure.problem.class == ProblemClass::FeedUnreachable => Failure { problem, ..failure },
            _ => failure,
        }
    }

    async fn say_all(&mut self, texts: Vec<String>) -> Result<(), Failure> {
        for text in texts {
            self.say(Frame::text(text)).await?;
        }
        Ok(())
    }

    async fn say(&mut self, frame: Frame) -> Result<(), Failure> {
        let trouble = match timeout(CONFIRMATION, self.socket.send(frame)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => explain(&error),
            Err(_) => "it takes no messages".to_owned(),
        };
        Err(problem(ProblemClass::FeedUnreachable, format!("the connection to the feed broke off: {trouble}")).into())
    }
}

fn lost(message: String) -> End {
    End::Lost(problem(ProblemClass::FeedUnreachable, message).into())
}

fn farewell_of(close: Option<&CloseFrame>, key: Option<&SecretString>) -> String {
    match close {
        Some(close) if close.reason.is_empty() => format!("the feed closed the connection with code {}", u16::from(close.code)),
        Some(close) => format!("the feed closed the connection with code {}: {}", u16::from(close.code), shown(&close.reason, key)),
        None => "the feed closed the connection".to_owned(),
    }
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
