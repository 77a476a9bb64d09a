//! One websocket connection of the server: answers what the client asks for, and does what the test says.

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::State;
use super::market::Trade;
use super::wire::{Feed, Request, status};

/// What a connection is to do. Each is answered when it is done.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// Send the trades of symbols that are subscribed to.
    Deliver(Arc<Vec<Trade>>),
    /// Send a text as it is.
    Text(String),
    /// Send a ping.
    Ping,
    /// Send the first half of the frame of these trades, and break off.
    HalfFrame(Arc<Vec<Trade>>),
    /// Break off without a word.
    Drop,
    /// Close with a code and a reason.
    Close(u16, String),
    /// Neither read nor write from now on.
    FallSilent,
}

/// A deed, and where to say how many trades the client was sent with it.
pub(super) type Order = (Deed, oneshot::Sender<usize>);

/// A connection at work.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) feed: Feed,
    pub(super) socket: WebSocketStream<TokioIo<Upgraded>>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) state: Arc<State>,
    pub(super) symbols: Vec<String>,
    pub(super) logged_in: bool,
}

/// What comes after a deed.
enum Then {
    GoOn,
    End,
    BeSilent,
}

impl Connection {
    /// Works until either side ends it.
    pub(super) async fn run(mut self) {
        if let Some(welcome) = self.feed.welcome() {
            _ = self.socket.send(Message::text(welcome)).await;
        }
        loop {
            tokio::select! {
                order = self.orders.recv() => {
                    let Some((deed, done)) = order else { break };
                    let (sent, then) = self.perform(deed).await;
                    // Before it is answered: whoever waits for the next connection must not take this one for it.
                    match then {
                        Then::GoOn => {}
                        Then::End => self.state.leave(self.number),
                        Then::BeSilent => {
                            self.state.now().connections.entry(self.number).and_modify(|entry| entry.symbols.clear());
                        }
                    }
                    _ = done.send(sent);
                    match then {
                        Then::GoOn => {}
                        Then::End => break,
                        Then::BeSilent => {
                            self.be_silent().await;
                            break;
                        }
                    }
                }
                message = self.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        if !self.answer(text.as_str()).await {
                            break;
                        }
                    }
                    Some(Ok(Message::Pong(_))) => self.state.now().pongs += 1,
                    Some(Ok(Message::Close(_))) => {
                        _ = self.socket.flush().await;
                        break;
                    }
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => break,
                },
            }
        }
        self.state.leave(self.number);
    }

    /// The client's connection stays open, and it hears nothing; orders other than to drop it do nothing.
    async fn be_silent(&mut self) {
        while let Some((deed, done)) = self.orders.recv().await {
            _ = done.send(0);
            if matches!(deed, Deed::Drop) {
                return;
            }
        }
    }

    async fn perform(&mut self, deed: Deed) -> (usize, Then) {
        match deed {
            Deed::Deliver(trades) => {
                let wanted = self.wanted(&trades);
                for frame in self.feed.frames(&wanted).into_iter().filter(|_| !wanted.is_empty()) {
                    if self.socket.send(Message::text(frame)).await.is_err() {
                        return (0, Then::End);
                    }
                }
                let sent = wanted.len();
                self.state.now().delivered.extend(wanted);
                (sent, Then::GoOn)
            }
            Deed::Text(text) => (0, self.after(Message::text(text)).await),
            Deed::Ping => (0, self.after(Message::Ping("are you there".into())).await),
            Deed::HalfFrame(trades) => {
                let frame = self.feed.frames(&self.wanted(&trades)).into_iter().next().unwrap_or_default();
                _ = self.half(&frame).await;
                (0, Then::End)
            }
            Deed::Drop => (0, Then::End),
            Deed::Close(code, reason) => {
                _ = self.socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await;
                // The client's answer, so that nothing is left unread, which would reset the connection and take from the client what it has not read yet.
                let answered = async { while let Some(Ok(_)) = self.socket.next().await {} };
                _ = tokio::time::timeout(Duration::from_secs(5), answered).await;
                (0, Then::End)
            }
            Deed::FallSilent => (0, Then::BeSilent),
        }
    }

    async fn after(&mut self, message: Message) -> Then {
        if self.socket.send(message).await.is_ok() { Then::GoOn } else { Then::End }
    }

    fn wanted(&self, trades: &[Trade]) -> Vec<Trade> {
        trades.iter().filter(|trade| self.symbols.contains(&trade.symbol)).cloned().collect()
    }

    /// The header says how long the frame is, and half of it follows (RFC 6455, 5.2).
    async fn half(&mut self, frame: &str) -> std::io::Result<()> {
        let length = u16::try_from(frame.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut bytes = vec![0x81, 126, length[0], length[1]];
        bytes.extend(frame.bytes().take(frame.len() / 2));
        self.socket.flush().await.map_err(std::io::Error::other)?;
        let stream = self.socket.get_mut();
        stream.write_all(&bytes).await?;
        stream.flush().await
    }

    /// Answers a message; false ends the connection.
    async fn answer(&mut self, text: &str) -> bool {
        let answers = match self.feed.request(text) {
            Request::Subscribe(_, _) if !self.logged_in => vec![status("auth_failed", "not authenticated")],
            Request::Subscribe(symbols, answers) => {
                self.symbols.extend(symbols.clone());
                let mut now = self.state.now();
                now.subscriptions += 1;
                if let Some(entry) = now.connections.get_mut(&self.number) {
                    entry.symbols.extend(symbols);
                }
                answers
            }
            Request::LogIn(key) if self.state.accepts(&key) => {
                self.logged_in = true;
                vec![status("auth_success", "authenticated")]
            }
            Request::LogIn(_) => {
                self.state.now().refused += 1;
                _ = self.socket.send(Message::text(status("auth_failed", "authentication failed"))).await;
                return false;
            }
            Request::Other(answer) => answer.into_iter().collect(),
        };
        for answer in answers {
            if self.socket.send(Message::text(answer)).await.is_err() {
                return false;
            }
        }
        true
    }
}
