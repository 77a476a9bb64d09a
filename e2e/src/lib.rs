//! End-to-end tests against the test bed's real servers; nothing is mocked. A test is a [`story`] in a [`World`] of its own: a namespace that the installed
//! operator watches, and names of topics, keyspace and database that nobody else has. What a story looks at is what a user would look at: rows, sums,
//! conditions, generations; of web pages what a [`Browser`] shows. The binary `demo-report` reads the same [`golden`] numbers for `make demo`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "this is test code: what is not as expected ends the test"
)]

pub mod audit;
pub mod bed;
pub mod browser;
pub mod chart;
pub mod command;
pub mod connect;
pub mod feeds;
pub mod footprint;
pub mod golden;
pub mod http;
pub mod look;
pub mod pages;
pub mod pipeline;
pub mod processes;
pub mod readme;
pub mod recompute;
pub mod recording;
pub mod report;
pub mod servers;
pub mod sinks;
pub mod status;
pub mod topic;
pub mod wait;
pub mod world;

pub use bed::Bed;
pub use browser::{Browser, Theme, Viewport};
pub use pipeline::Pipeline;
pub use wait::{eventually, within};
pub use world::{World, story, story_alone};
