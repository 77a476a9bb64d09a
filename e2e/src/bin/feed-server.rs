//! `feed-server`: steady trades and users for trying the websocket and http producers out, in the formats of Finnhub (`/finnhub`), Binance (`/ws`, `/stream`),
//! Massive (`/crypto`, `/stocks`) and randomuser.me (`/users`). The same seed gives the same trades.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use tapeline_e2e::feeds::{Feed, FeedServer, Market};

/// Serves trades and users that are made up.
#[derive(Debug, Parser)]
#[command(name = "feed-server", version)]
struct Options {
    /// Where it listens
    #[arg(long, env = "FEED_LISTEN", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8090)), value_name = "ADDR")]
    listen: SocketAddr,
    /// What trades and users are made from
    #[arg(long, env = "FEED_SEED", default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// Milliseconds between two frames of each symbol that somebody subscribed to
    #[arg(long, env = "FEED_INTERVAL_MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..), value_name = "MS")]
    interval_ms: u64,
    /// Trades in a frame
    #[arg(long, env = "FEED_TRADES", default_value_t = 3, value_name = "NUMBER")]
    trades: usize,
    /// Frames, one a line, that whoever subscribes first to Finnhub's trades is sent once, instead of steady trades
    #[arg(long, env = "FEED_FRAMES", value_name = "FILE")]
    frames: Option<PathBuf>,
    /// The API key that clients must show; without it any will do
    #[arg(long, env = "FEED_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let server = FeedServer::start(options.listen, options.seed).await?;
    if let Some(key) = &options.key {
        server.require_key(key);
    }
    let frames = match &options.frames {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?),
        None => None,
    };
    println!("serving trades and users at {}", server.address);
    tokio::select! {
        () = trade(&server, &options), if frames.is_none() => Ok(()),
        () = play(&server, frames.as_deref().unwrap_or_default()), if frames.is_some() => Ok(()),
        stopped = stop() => Ok(stopped?),
    }
}

async fn trade(server: &FeedServer, options: &Options) {
    let mut clock = tokio::time::interval(Duration::from_millis(options.interval_ms));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Each feed has a market of its own: what one client subscribes to does not change what another one hears.
    let mut markets = Feed::ALL.map(|feed| (feed, Market::new(options.seed)));
    loop {
        clock.tick().await;
        for (feed, market) in &mut markets {
            for symbol in server.symbols(*feed) {
                server.deliver(*feed, &market.trades(&symbol, options.trades)).await;
            }
        }
    }
}

/// Sends the frames to the first that subscribes, and then no more.
async fn play(server: &FeedServer, frames: &str) {
    let mut clock = tokio::time::interval(Duration::from_millis(100));
    while server.symbols(Feed::Finnhub).is_empty() {
        clock.tick().await;
    }
    for frame in frames.lines() {
        server.say(Feed::Finnhub, frame).await;
    }
    std::future::pending::<()>().await;
}

async fn stop() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}
