//! The command line. In a pod every default fits; the options are for running the program by hand and in tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use tapeline_api::settings::{CREDENTIALS_DIR, DATA_DIR, HTTP_PORT, IMAGE_DATA_DIR, SETTINGS_PATH};

/// Feeds a topic: replays recorded bars, or simulates a market.
#[derive(Debug, Clone, Parser)]
#[command(name = "tapeline-producer", version)]
pub struct Options {
    /// The settings, as the operator writes them (JSON)
    #[arg(long, env = "TAPELINE_SETTINGS", default_value = SETTINGS_PATH, value_name = "FILE")]
    pub settings: PathBuf,
    /// Where credentials are: mysql/username and mysql/password
    #[arg(long, env = "TAPELINE_CREDENTIALS", default_value = CREDENTIALS_DIR, value_name = "DIR")]
    pub credentials: PathBuf,
    /// Where the ConfigMap of a replay is
    #[arg(long, env = "TAPELINE_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the files of the image are
    #[arg(long, env = "TAPELINE_IMAGE_DATA_DIR", default_value = IMAGE_DATA_DIR, value_name = "DIR")]
    pub image_data_dir: PathBuf,
    /// Where /status, /metrics, /healthz and /readyz are served
    #[arg(long, env = "TAPELINE_LISTEN", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTP_PORT)), value_name = "ADDR")]
    pub listen: SocketAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
