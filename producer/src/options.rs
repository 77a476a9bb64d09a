//! The command line. In a pod every default fits; the options are for running the program by hand and in tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tapeline_api::settings::{CREDENTIALS_DIR, DATA_DIR, HTTP_PORT, IMAGE_DATA_DIR, RUN_VARIABLE, SETTINGS_PATH};

use crate::console::Console;
use crate::termination;

/// Feeds topics: sends a file, replays recorded bars, simulates a market, or passes on what a websocket or an HTTP API delivers, as its settings say.
#[derive(Debug, Clone, Parser)]
#[command(name = "tapeline-producer", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where everything is.
    #[command(flatten)]
    pub options: Options,
}

/// What else the program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Sends the lines of standard input to a topic, one message each, and ends when all of them are acknowledged
    Console(Console),
}

/// Where a producer of a pipeline finds everything.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The settings, as the operator writes them (JSON)
    #[arg(long, env = "TAPELINE_SETTINGS", default_value = SETTINGS_PATH, value_name = "FILE")]
    pub settings: PathBuf,
    /// Where credentials are: mysql/username and mysql/password, feed/api-key
    #[arg(long, env = "TAPELINE_CREDENTIALS", default_value = CREDENTIALS_DIR, value_name = "DIR")]
    pub credentials: PathBuf,
    /// Where the ConfigMap of a file or replay is
    #[arg(long, env = "TAPELINE_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the files of the image are
    #[arg(long, env = "TAPELINE_IMAGE_DATA_DIR", default_value = IMAGE_DATA_DIR, value_name = "DIR")]
    pub image_data_dir: PathBuf,
    /// Where /status, /metrics, /healthz and /readyz are served
    #[arg(long, env = "TAPELINE_LISTEN", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTP_PORT)), value_name = "ADDR")]
    pub listen: SocketAddr,
    /// What tells a run of a scheduled producer from every other; each attempt of a run has the same
    #[arg(long, env = RUN_VARIABLE, value_name = "ID")]
    pub run: Option<String>,
    /// Where a run that fails leaves the reason, if the file is there
    #[arg(long, env = "TAPELINE_TERMINATION_LOG", default_value = termination::PATH, value_name = "FILE")]
    pub termination_log: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn without_a_command_the_settings_are_run() {
        assert!(CommandLine::parse_from(["tapeline-producer"]).command.is_none());
        let console = ["tapeline-producer", "console", "--bootstrap-servers", "kafka:9092", "--topic", "item_sales", "-X", "security.protocol=SSL"];
        let Some(Command::Console(console)) = CommandLine::parse_from(console).command else { panic!("a command was given") };
        assert_eq!((console.topic.as_str(), console.key_separator.as_deref()), ("item_sales", None));
        assert_eq!(console.client_properties, [("security.protocol".to_owned(), "SSL".to_owned())]);
        assert!(CommandLine::try_parse_from(["tapeline-producer", "console", "--topic", "t"]).is_err(), "brokers are missing");
    }
}
