//! What `make demo` shows at its end: waits until the whole replay has arrived in both stores, and of the simulated market what was sent until then, and prints
//! volumes and counts beside the numbers that they must be (examples/data/README.md). It only reads. Exit code 1 when a number is not right, or did not become
//! so in time.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use scylla::client::session::Session;
use sqlx::mysql::MySqlPool;
use tapeline_e2e::connect;
use tapeline_e2e::golden::{self, Stored, TRADES, VOLUME, Volumes};
use tapeline_e2e::topic::{self, Sent};

const TABLE: &str = "real_time_data";
/// How often the stores are asked while rows are still coming.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits for the replay of the example stock-volume, and compares what arrived with what was sent.
#[derive(Debug, Parser)]
struct Options {
    /// Kafka's address, `host:port`
    #[arg(long)]
    kafka: String,
    /// Cassandra's address, `host:port`
    #[arg(long)]
    cassandra: String,
    /// MySQL's address, `mysql://user:password@host:port`
    #[arg(long)]
    mysql: String,
    /// Cassandra's keyspace
    #[arg(long, default_value = "trading")]
    keyspace: String,
    /// MySQL's database
    #[arg(long, default_value = "trading")]
    database: String,
    /// The topic of trades
    #[arg(long, default_value = "trading_data")]
    topic: String,
    /// Seconds to wait for the replay
    #[arg(long, default_value_t = 300)]
    deadline: u64,
}

/// What is in the two stores.
struct Arrived {
    by_sector: Volumes,
    stored: Stored,
}

impl Arrived {
    /// A volume beyond the expected one never becomes right again, so there is nothing to wait for.
    fn is_all(&self, simulated: u64) -> bool {
        total(&self.by_sector) >= VOLUME && self.stored.history >= TRADES && self.stored.others >= simulated
    }

    fn missing(&self, simulated: u64) -> String {
        let (volume, rows) = (total(&self.by_sector), self.stored.history);
        let mut text = String::new();
        if volume < VOLUME {
            _ = write!(text, "MySQL has a volume of {} of {}", thousands(volume), thousands(VOLUME));
        }
        if rows < TRADES {
            let and = if text.is_empty() { "" } else { ", " };
            _ = write!(text, "{and}Cassandra has {} of {} trades", thousands(rows), thousands(TRADES));
        } else if self.stored.others < simulated {
            _ = write!(text, "Cassandra has {} of {} simulated trades", thousands(self.stored.others), thousands(simulated));
        }
        text
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Box::pin(run(&Options::parse())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo-report: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every number is right.
async fn run(options: &Options) -> Result<bool> {
    let deadline = Instant::now() + Duration::from_secs(options.deadline);
    let mysql = connect::mysql(&options.mysql).await?;
    let cassandra = Box::pin(connect::cassandra(&options.cassandra)).await?;
    wait(options, &mysql, &cassandra, deadline, (i64::MAX, 0)).await?;
    let sent = topic::trades(&options.kafka, &options.topic).await.context("counting the trades in Kafka")?;
    // Retention deletes messages and leaves rows: then there is nothing to compare the simulated rows with.
    let simulated = if sent.whole { (sent.newest, sent.others) } else { (i64::MAX, 0) };
    let arrived = wait(options, &mysql, &cassandra, deadline, simulated).await?;
    Ok(report(options, &arrived, sent))
}

/// Until the history is there, and of the `simulated` trades up to an id as many as were sent. A store that does not answer, or a table that is not there yet, is
/// waited for like rows.
async fn wait(options: &Options, mysql: &MySqlPool, cassandra: &Session, deadline: Instant, simulated: (i64, u64)) -> Result<Arrived> {
    let (begun, mut said) = (Instant::now(), String::new());
    let (up_to, simulated) = simulated;
    loop {
        let missing = match look(options, mysql, cassandra, up_to).await {
            Ok(arrived) if arrived.is_all(simulated) => return Ok(arrived),
            Ok(arrived) => arrived.missing(simulated),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("the replay has not arrived after {} s: {missing}. Look at: kubectl -n tapeline describe tp stock-volume", options.deadline);
        }
        if missing != said {
            println!("    {:>6.1} s  {missing}", begun.elapsed().as_secs_f64());
            said = missing;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(options: &Options, mysql: &MySqlPool, cassandra: &Session, up_to: i64) -> Result<Arrived> {
    let by_sector = golden::by_sector(mysql, &options.database).await?;
    Ok(Arrived { by_sector, stored: golden::stored(cassandra, &options.keyspace, TABLE, up_to).await? })
}

/// Prints everything; whether all of it is right.
fn report(options: &Options, arrived: &Arrived, sent: Sent) -> bool {
    let (stored, topic) = (&arrived.stored, &options.topic);
    let mut right = print_volumes(&format!("Volume by sector (MySQL, {}.aggregated_data)", options.database), &arrived.by_sector, &golden::BY_SECTOR);
    right &= print_volumes(&format!("Volume by ticker (Cassandra, {}.{TABLE})", options.keyspace), &stored.by_ticker, &golden::BY_TICKER);
    println!("\nTrades of the replay");
    if sent.whole {
        right &= print_number("sent to Kafka", sent.history, TRADES);
    }
    right &= print_number("sent more than once", sent.repeated, 0);
    right &= print_number("rows in Cassandra", stored.history, TRADES);
    if sent.whole {
        println!("\nTrades simulated, up to the id {} (it goes on)", sent.newest);
        println!("  {:<28}{:>20}", "sent to Kafka", thousands(sent.others));
        right &= print_number("rows in Cassandra", stored.others, sent.others);
        println!("\nIn Kafka {} trades, in Cassandra {} rows.", thousands(sent.history + sent.others), thousands(stored.history + stored.others));
    } else {
        println!("\nThe retention of {topic} has deleted its oldest messages, so rows are not compared with what was sent.");
    }
    println!("{}", if right { "Every number is as it must be." } else { "Not every number is as it must be; those are marked with ✗." });
    right
}

fn print_volumes(title: &str, seen: &Volumes, expected: &[(&str, i64)]) -> bool {
    println!("\n{title}");
    let mut right = true;
    for &(name, volume) in expected {
        right &= print_number(name, seen.get(name).copied().unwrap_or_default(), volume);
    }
    for (name, volume) in seen.iter().filter(|(name, _)| !expected.iter().any(|(known, _)| known == name)) {
        right &= print_number(if name.is_empty() { "(none)" } else { name }, *volume, 0);
    }
    print_number("in all", total(seen), expected.iter().map(|(_, volume)| volume).sum()) && right
}

fn print_number<N: PartialEq + Into<i128> + Copy>(name: &str, seen: N, expected: N) -> bool {
    let verdict = if seen == expected { "✓".to_owned() } else { format!("✗ expected {}", thousands(expected)) };
    println!("  {name:<28}{:>20}  {verdict}", thousands(seen));
    seen == expected
}

fn total(volumes: &Volumes) -> i64 {
    volumes.values().sum()
}

/// A number with a comma between each three digits.
fn thousands(number: impl Into<i128>) -> String {
    let digits = number.into().to_string();
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!([0, 999, 1_000, -1_234_567, VOLUME].map(thousands), ["0", "999", "1,000", "-1,234,567", "309,890,993,650"]);
    }
}
