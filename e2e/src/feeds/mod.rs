//! A server that speaks as Finnhub, Binance, Massive and randomuser.me do, and misbehaves when told to. It knows what it delivered, to whom it was subscribed, so
//! that a test can ask where each trade went. The binary `feed-server` runs it with steady data.

mod connection;
mod market;
mod users;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::{Response, StatusCode, Uri};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use connection::{Connection, Deed, Order};
pub use market::{Market, Trade};
pub use users::uuid;
pub use wire::Feed;

/// A running server. It ends when this is dropped.
pub struct FeedServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

/// How a handshake or a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// With this status.
    Status(u16),
    /// With 429, and the seconds after which it may come again.
    RateLimited(u64),
}

/// A handshake or a request that came.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// What was asked for, without the query, which may hold a key.
    pub path: String,
    /// When.
    pub at: Instant,
    /// How it was answered.
    pub status: u16,
}

/// What connections and tests share.
struct State {
    seed: u64,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    /// The API key that is asked for; none: any or none will do.
    key: Option<String>,
    refusals: VecDeque<Refusal>,
    arrivals: Vec<Arrival>,
    connections: BTreeMap<u64, Entry>,
    opened: u64,
    subscriptions: u64,
    refused: u64,
    pongs: u64,
    delivered: Vec<Trade>,
    users: u64,
}

struct Entry {
    feed: Feed,
    symbols: BTreeSet<String>,
    orders: mpsc::Sender<Order>,
}

impl FeedServer {
    /// Listens at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is taken, or not ours.
    pub async fn start(address: SocketAddr, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening at {address}"))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { seed, now: Mutex::default() });
        let mut router = Router::new();
        for feed in Feed::ALL {
            let state = Arc::clone(&state);
            router = router.route(feed.path(), get(async move |request: Request| state.upgrade(feed, request)));
        }
        let users = Arc::clone(&state);
        router = router.route("/users", get(async move |request: Request| users.users(&request)));
        let server = tokio::spawn(async move {
            _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, state, server })
    }

    /// The URL of a feed, with the place for the key where it has one there.
    #[must_use]
    pub fn url(&self, feed: Feed) -> String {
        let query = if feed == Feed::Finnhub { "?token=${apiKey}" } else { "" };
        format!("ws://{}{}{query}", self.address, feed.path())
    }

    /// The URL of the users.
    #[must_use]
    pub fn users_url(&self, results: u64) -> String {
        format!("http://{}/users?results={results}", self.address)
    }

    /// From now on only this key is accepted, whereever a feed wants it: in the URL, in a message, or as `Authorization: Bearer`.
    pub fn require_key(&self, key: &str) {
        self.state.now().key = Some(key.to_owned());
    }

    /// The next handshakes or requests are refused so, one each.
    pub fn refuse_next(&self, refusals: &[Refusal]) {
        self.state.now().refusals.extend(refusals);
    }

    /// Sends `trades` to every connection of `feed` that has subscribed to their symbols, and says how many were sent.
    pub async fn deliver(&self, feed: Feed, trades: &[Trade]) -> usize {
        self.order(feed, &Deed::Deliver(Arc::new(trades.to_vec()))).await
    }

    /// Sends a text as it is.
    pub async fn say(&self, feed: Feed, text: &str) {
        self.order(feed, &Deed::Text(text.to_owned())).await;
    }

    /// Sends a ping.
    pub async fn ping(&self, feed: Feed) {
        self.order(feed, &Deed::Ping).await;
    }

    /// Sends half of the frame of `trades`, and breaks the connections off.
    pub async fn half_frame(&self, feed: Feed, trades: &[Trade]) {
        self.order(feed, &Deed::HalfFrame(Arc::new(trades.to_vec()))).await;
    }

    /// Breaks the connections off without a word.
    pub async fn drop_connections(&self, feed: Feed) {
        self.order(feed, &Deed::Drop).await;
    }

    /// Closes the connections with a code and a reason.
    pub async fn close(&self, feed: Feed, code: u16, reason: &str) {
        self.order(feed, &Deed::Close(code, reason.to_owned())).await;
    }

    /// The connections stay open, and nothing is read or written any more.
    pub async fn fall_silent(&self, feed: Feed) {
        self.order(feed, &Deed::FallSilent).await;
    }

    /// How many connections of `feed` are subscribed to `symbol`.
    #[must_use]
    pub fn subscribed(&self, feed: Feed, symbol: &str) -> usize {
        self.state.now().connections.values().filter(|entry| entry.feed == feed && entry.symbols.contains(symbol)).count()
    }

    /// The symbols of `feed` that somebody is subscribed to.
    #[must_use]
    pub fn symbols(&self, feed: Feed) -> BTreeSet<String> {
        self.state.now().connections.values().filter(|entry| entry.feed == feed).flat_map(|entry| entry.symbols.clone()).collect()
    }

    /// How often a client subscribed to something, in all.
    #[must_use]
    pub fn subscriptions(&self) -> u64 {
        self.state.now().subscriptions
    }

    /// How many pings were answered.
    #[must_use]
    pub fn pongs(&self) -> u64 {
        self.state.now().pongs
    }

    /// How many handshakes, requests and logins were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.state.now().refused
    }

    /// Everything that was written to a connection after its subscription, in that order; once for each connection.
    #[must_use]
    pub fn delivered(&self) -> Vec<Trade> {
        self.state.now().delivered.clone()
    }

    /// Handshakes and requests so far.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.now().arrivals.clone()
    }

    /// How many users were handed out.
    #[must_use]
    pub fn users(&self) -> u64 {
        self.state.now().users
    }

    /// Has all connections of `feed` do something, and waits until it is done.
    async fn order(&self, feed: Feed, deed: &Deed) -> usize {
        let connections: Vec<mpsc::Sender<Order>> =
            self.state.now().connections.values().filter(|entry| entry.feed == feed).map(|entry| entry.orders.clone()).collect();
        let mut sent = 0;
        for orders in connections {
            let (done, answer) = oneshot::channel();
            if orders.send((deed.clone(), done)).await.is_ok() {
                sent += answer.await.unwrap_or(0);
            }
        }
        sent
    }
}

impl Drop for FeedServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepts(&self, key: &str) -> bool {
        self.now().key.as_deref().is_none_or(|wanted| wanted == key)
    }

    fn leave(&self, connection: u64) {
        self.now().connections.remove(&connection);
    }

    /// What stands against a handshake or request, if anything does. It is noted in any case, as one that is answered with `good`.
    fn judge(&self, uri: &Uri, key_is_right: bool, good: StatusCode) -> Option<Response<Body>> {
        let mut now = self.now();
        let refusal = now.refusals.pop_front().or_else(|| (!key_is_right).then_some(Refusal::Status(401)));
        let (status, seconds) = match refusal {
            None => (good, None),
            Some(Refusal::Status(code)) => (StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST), None),
            Some(Refusal::RateLimited(seconds)) => (StatusCode::TOO_MANY_REQUESTS, Some(seconds)),
        };
        now.arrivals.push(Arrival { path: uri.path().to_owned(), at: Instant::now(), status: status.as_u16() });
        refusal?;
        now.refused += 1;
        let mut response = answer(status, Body::empty());
        if let Some(seconds) = seconds {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        Some(response)
    }

    fn upgrade(self: &Arc<Self>, feed: Feed, mut request: Request) -> Response<Body> {
        let in_url = feed == Feed::Finnhub;
        let key_is_right = !in_url || self.accepts(query(request.uri(), "token").as_deref().unwrap_or_default());
        if let Some(refusal) = self.judge(request.uri(), key_is_right, StatusCode::SWITCHING_PROTOCOLS) {
            return refusal;
        }
        let Some(accept) = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes())) else {
            return answer(StatusCode::BAD_REQUEST, Body::from("a websocket is wanted"));
        };
        let (upgrade, state) = (hyper::upgrade::on(&mut request), Arc::clone(self));
        tokio::spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            state.serve(feed, socket).await;
        });
        let mut response = answer(StatusCode::SWITCHING_PROTOCOLS, Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONNECTION, "upgrade".parse().expect("a header"));
        headers.insert(UPGRADE, "websocket".parse().expect("a header"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept.parse().expect("base64"));
        response
    }

    async fn serve(self: Arc<Self>, feed: Feed, socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) {
        let (sender, orders) = mpsc::channel(16);
        let number = {
            let mut now = self.now();
            now.opened += 1;
            let number = now.opened;
            now.connections.insert(number, Entry { feed, symbols: BTreeSet::new(), orders: sender });
            number
        };
        Connection { number, feed, socket, orders, state: self, symbols: Vec::new(), logged_in: !feed.is_massive() }.run().await;
    }

    fn users(&self, request: &Request) -> Response<Body> {
        let key = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ")).unwrap_or_default();
        if let Some(refusal) = self.judge(request.uri(), self.accepts(key), StatusCode::OK) {
            return refusal;
        }
        let count = query(request.uri(), "results").and_then(|results| results.parse().ok()).unwrap_or(1).min(5000);
        let from = {
            let mut now = self.now();
            now.users += count;
            now.users - count
        };
        let mut response = answer(StatusCode::OK, Body::from(users::answer(self.seed, from, count).to_string()));
        response.headers_mut().insert(CONTENT_TYPE, "application/json; charset=utf-8".parse().expect("a header"));
        response
    }
}

fn answer(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// The value of a parameter, with the escapes that a key may need.
fn query(uri: &Uri, name: &str) -> Option<String> {
    let pair = uri.query()?.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))?;
    Some(unescape(pair.1))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|code| u8::from_str_radix(str::from_utf8(code).ok()?, 16).ok());
        if let Some(byte) = code.filter(|_| *first == b'%') {
            bytes.push(byte);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_they_were_meant() {
        let uri: Uri = "/finnhub?a=1&token=s3cr%2Ft%20%2B".parse().unwrap();
        assert_eq!((query(&uri, "token").as_deref(), query(&uri, "b")), (Some("s3cr/t +"), None));
    }
}
