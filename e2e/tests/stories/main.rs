//! What a user sees, told on the real servers of the test bed. Stories run beside each other, so each has a namespace, and names of its own ([`tapeline_e2e::World`]).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bad_records;
mod candles;
mod chart;
mod dashboard;
mod examples;
mod leadership;
mod many_topics;
mod mistakes;
mod operator;
mod positions;
mod producer;
mod references;
mod schedule;
mod small;
mod stock_volume;
mod websocket;
