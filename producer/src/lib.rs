//! Feeds topics: sends a file, replays recorded bars, simulates a market or a shop, or passes on what a websocket or an HTTP API delivers. One process runs one producer
//! of a pipeline.
//!
//! ```text
//!  settings ─> program ─> feed: connect, find where to go on, send, idle          status <─ http: /status /metrics /healthz /readyz
//!                          │
//!                          ├─ source::{file, replay (bars, split), simulate (symbols)}        what is sent: one message a tick
//!                          ├─ kafka::tail ─> search                                           which ticks the topic holds already
//!                          └─ kafka::sender ─> ledger ─> kafka::hint                          what is acknowledged, remembered for the next start
//! ```
//!
//! Ticks are numbered from 0. Each message says in its headers ([`mark`]) whose tick it is, and up to which tick everything was acknowledged when it was sent;
//! so the topic itself tells a restarted producer which ticks are missing, whatever killed its predecessor. [`search`] and [`ledger`] hold the rules, without IO;
//! a property test plays crashes against both.
//!
//! Sources outside have no ticks and no place to go on from: what they deliver is sent as it comes, and what they do not deliver is a gap. They have a path of
//! their own, [`live`].

pub mod bars;
pub mod console;
pub mod feed;
pub mod halt;
pub mod http;
pub mod kafka;
pub mod ledger;
pub mod live;
pub mod logging;
pub mod mark;
pub mod noise;
pub mod options;
pub mod program;
pub mod search;
pub mod settings;
pub mod shutdown;
pub mod source;
pub mod split;
pub mod status;
pub mod symbols;
pub mod termination;
pub mod trade;
