//! Many open pages, for which MySQL is asked no more often than for one.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tapeline_e2e::pages::{Seen, Visit};
use tapeline_e2e::{eventually, story_alone};
use tokio::time::Instant;

use super::page::{Dashboard, trade};

const PAGES: usize = 200;
/// For how long they are open, be they many or one.
const PERIOD: Duration = Duration::from_secs(30);
/// Within which all of them have the rows of a new micro-batch.
const NEW_ROWS: Duration = Duration::from_secs(5);

/// What one page, or many, cost.
struct Cost {
    queries: u64,
    cpu: Duration,
    most_memory: u64,
}

#[test]
fn two_hundred_pages_ask_mysql_no_more_often_than_one() {
    story_alone(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |_| {}).await;
        dashboard.send(&[trade(1, "XOM", "Energy", 50)]).await;
        dashboard.until_stored(1).await;
        let one = cost(&dashboard, 1, 2, 150).await;
        let many = cost(&dashboard, PAGES, 3, 250).await;
        for (pages, Cost { queries, cpu, most_memory }) in [(1, &one), (PAGES, &many)] {
            world.say(format!(
                "{pages} pages for {PERIOD:?}: {queries} queries to MySQL, {:.2} s of a processor, {} MB of memory at most",
                cpu.as_secs_f64(),
                most_memory >> 20
            ));
        }
        assert!(one.queries > 0 && 2 * many.queries < 3 * one.queries, "{} queries for one page, {} for {PAGES}", one.queries, many.queries);
    });
}

/// Opens pages, sends a trade of 100 once they are all open, and checks that each has the rows with it soon after they are in MySQL.
async fn cost(dashboard: &Dashboard<'_>, pages: usize, id: i64, volume: i64) -> Cost {
    let visit = Visit::new(&dashboard.url(""), pages, PERIOD, &[""], "events?page=charts").unwrap();
    let process = dashboard.process().await;
    let (usage, queries) = (process.usage().unwrap(), dashboard.metric("tapeline_dashboard_chart_queries_total").await.unwrap());
    let (seen, stored) = tokio::join!(visit.open(), async {
        eventually("all pages to be open", PERIOD / 2, async || {
            let open = dashboard.metric("tapeline_dashboard_open_pages").await?;
            ensure!(open == pages as u64, "{open}");
            Ok(())
        })
        .await;
        dashboard.send(&[trade(id, "XOM", "Energy", 100)]).await;
        dashboard.until_volume("Energy", volume).await;
        Instant::now()
    });
    let seen = seen.unwrap();
    let failures: Vec<&String> = seen.iter().flat_map(|page| &page.failures).collect();
    assert!(failures.is_empty(), "{failures:?}");
    let late: Vec<Option<Duration>> = seen.iter().map(|page| has_at(page, volume).unwrap().map(|at| at.saturating_duration_since(stored))).collect();
    let slowest = late.iter().max().copied().flatten();
    dashboard.world.say(format!("{pages} pages: the slowest had the new rows {slowest:?} after they were seen in MySQL"));
    assert!(late.iter().all(|late| late.is_some_and(|late| late < NEW_ROWS)), "{late:?}");
    let after = process.usage().expect("it is the same process");
    let queries = dashboard.metric("tapeline_dashboard_chart_queries_total").await.unwrap() - queries;
    Cost { queries, cpu: after.cpu.saturating_sub(usage.cpu), most_memory: after.most_resident }
}

/// When a page had this volume.
fn has_at(page: &Seen, volume: i64) -> Result<Option<Instant>> {
    for (at, rows) in &page.rows {
        let rows: Vec<Value> = serde_json::from_str(rows)?;
        if rows.iter().any(|row| row["total_volume"] == volume) {
            return Ok(Some(*at));
        }
    }
    Ok(None)
}
