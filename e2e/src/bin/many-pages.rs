//! `many-pages`: opens many pages of a dashboard at once, as browsers would (each fetches the rows of charts that it is told of), and says what each has seen and what
//! the dashboard's process took meanwhile. Only on this machine or the test bed. Exit code 1 when a page saw no event, or something went wrong.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use tapeline_e2e::pages::{Seen, Visit};
use tapeline_e2e::processes::{Usage, usage};

/// Opens many pages at once.
#[derive(Debug, Parser)]
#[command(name = "many-pages", version)]
struct Options {
    /// Where the dashboard is: an address of this machine, or of the test bed's servers, Services or pods
    #[arg(long, value_name = "URL")]
    url: String,
    /// How many pages, up to 1000
    #[arg(long, default_value_t = 200, value_name = "NUMBER")]
    pages: usize,
    /// For how long, up to 600; a tenth of it, but no more than 10, is for opening them
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
    /// What a page asks for when it is opened, relative to the URL; may be repeated
    #[arg(long = "get", default_values_t = [String::new()], value_name = "PATH")]
    gets: Vec<String>,
    /// Where the events are, relative to the URL
    #[arg(long, default_value = "events?page=charts", value_name = "PATH")]
    events: String,
    /// The dashboard's process, as this machine sees it
    #[arg(long)]
    pid: Option<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("many-pages: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything went well.
async fn run(options: &Options) -> Result<bool> {
    let visit = Visit::new(&options.url, options.pages, Duration::from_secs(options.seconds), &options.gets, &options.events)?;
    println!("{} pages at {} for {} s", options.pages, visit.base(), options.seconds);
    let (begun, before) = (Instant::now(), options.pid.map(usage).transpose()?);
    let pages = visit.open().await?;
    if let (Some(pid), Some(before)) = (options.pid, before) {
        print_usage(pid, &before, &usage(pid)?, begun.elapsed());
    }
    let failures = print_seen(&pages);
    Ok(failures == 0 && pages.iter().all(|page| page.events > 0))
}

/// Prints what pages have seen; how much went wrong.
fn print_seen(pages: &[Seen]) -> usize {
    let sum = |of: fn(&Seen) -> u64| pages.iter().map(of).sum::<u64>();
    println!("\nasked for when opened   {} answers", sum(|page| page.answers));
    println!("connected for events    {} times", sum(|page| page.connections));
    println!("fetched new rows        {} times", sum(|page| page.rows.len() as u64));
    println!("received                {} events, {:.1} MB with all answers", sum(|page| page.events), megabytes(sum(|page| page.bytes)));
    let mut alike = BTreeMap::<u64, usize>::new();
    for page in pages {
        *alike.entry(page.events).or_default() += 1;
    }
    for (events, pages) in alike {
        println!("  {pages:>4} pages received {events} events each");
    }
    let mut failures = BTreeMap::<&str, usize>::new();
    for failure in pages.iter().flat_map(|page| &page.failures) {
        *failures.entry(failure).or_default() += 1;
    }
    for (failure, times) in &failures {
        println!("FAILED {times} times: {failure}");
    }
    failures.values().sum()
}

fn print_usage(pid: u32, before: &Usage, after: &Usage, elapsed: Duration) {
    let taken = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    let share = 100.0 * taken / elapsed.as_secs_f64();
    println!("\nprocess {pid} ({})", after.name);
    println!(
        "  CPU     before {:.2} s, after {:.2} s: {taken:.2} s in {:.1} s, {share:.1} % of a processor",
        before.cpu.as_secs_f64(),
        after.cpu.as_secs_f64(),
        elapsed.as_secs_f64()
    );
    let [before, most, after] = [before.resident, after.most_resident, after.resident].map(megabytes);
    println!("  memory  before {before:.1} MB, after {after:.1} MB; {most:.1} MB at most since it began");
}

#[allow(clippy::cast_precision_loss, reason = "it is printed with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
