//! Log lines on standard error: text on a terminal, JSON otherwise. `RUST_LOG` chooses what is shown, default `info`.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging. To be called once, before anything is logged.
pub fn start() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if stderr().is_terminal() {
        lines.init();
    } else {
        lines.json().flatten_event(true).with_span_list(false).with_current_span(false).init();
    }
}
