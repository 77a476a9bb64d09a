//! `tapeline-producer`: feeds one topic, as its settings say. See the library for how.

use std::process::ExitCode;

use clap::Parser;
use tapeline_producer::options::Options;
use tapeline_producer::{logging, program};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One thread is enough: what takes time is done by librdkafka's own threads, and each further thread costs memory.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    logging::start();
    let code = match program::run(&options).await {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            1
        }
    };
    // Not by returning: that would wait for blocking calls into librdkafka that were given up, such as looking for a broker that is gone.
    std::process::exit(code)
}
