//! Runs one query of a pipeline over the partitions that its consumer group gives it.
//!
//! The flow: [`consumer`], on a thread of its own, polls Kafka and turns messages into record batches; [`engine`] pushes them through the plan and cuts
//! micro-batches; a [`sink`] stores rows together with progress; [`dead_letters`] takes what cannot be read. [`status`] is what the world sees of it.

pub mod consumer;
pub mod dead_letters;
pub mod engine;
pub mod http;
pub mod references;
pub mod run;
pub mod settings;
pub mod sink;
pub mod status;
