//! `tapeline-producer`: feeds one topic, as its settings say, or from standard input (`console`). See the library for how.

use std::process::ExitCode;

use clap::Parser;
use tapeline_producer::options::{Command, CommandLine, Options};
use tapeline_producer::program::Ended;
use tapeline_producer::{console, logging, program, termination};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One thread is enough: what takes time is done by librdkafka's own threads, and each further thread costs memory.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let CommandLine { command, options } = CommandLine::parse();
    logging::start();
    let code = match command {
        Some(Command::Console(console)) => console::main(console).await,
        None => feed(&options).await,
    };
    // Not by returning: that would wait for blocking calls into librdkafka that were given up, such as looking for a broker that is gone.
    std::process::exit(code.into())
}

async fn feed(options: &Options) -> u8 {
    match program::run(options).await {
        Ok(ended) => {
            if let Ended::Failed(problem) = &ended {
                termination::leave(&options.termination_log, &problem.message);
            }
            ended.code()
        }
        Err(error) => {
            tracing::error!(%error, "cannot start");
            1
        }
    }
}
