//! The dashboard's stores against the test bed's real servers. Each test has a database, keyspace or topics of its own, which are removed at its end, also of one that fails.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::large_futures, reason = "tests")]

mod cassandra;
mod mongodb;
mod mysql;
mod support;
mod topics;
