//! The operator's way with Kafka, Cassandra, MySQL and MongoDB, on the real servers of the test bed: what it creates, what it refuses, that it writes nothing when there
//! is nothing to do, and that it says what is wrong. Addresses come from `TESTBED_KAFKA`, `TESTBED_CASSANDRA`, `TESTBED_MYSQL` and `TESTBED_MONGO`;
//! each test has names of its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod cassandra;
mod kafka;
mod mongodb;
mod mysql;
mod support;
