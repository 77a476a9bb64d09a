//! Feeds a topic: replays recorded bars, or simulates a market. One process runs one producer of a pipeline.
//!
//! ```text
//!  settings ─> program ─> feed: connect, find where to go on, send, idle          status <─ http: /status /metrics /healthz /readyz
//!                          │
//!                          ├─ source::replay (bars, split) or source::simulate (symbols)      what is sent: one message a tick
//!                          ├─ kafka::tail ─> search                                           which ticks the topic holds already
//!                          └─ kafka::sender ─> ledger ─> kafka::hint                          what is acknowledged, remembered for the next start
//! ```
//!
//! Ticks are numbered from 0. Each message says in its headers ([`mark`]) whose tick it is, and up to which tick everything was acknowledged when it was sent;
//! so the topic itself tells a restarted producer which ticks are missing, whatever killed its predecessor. [`search`] and [`ledger`] hold the rules, without IO;
//! a property test plays crashes against both.

pub mod bars;
pub mod feed;
pub mod halt;
pub mod http;
pub mod kafka;
pub mod ledger;
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
pub mod trade;
