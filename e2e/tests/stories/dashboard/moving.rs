//! What moves, and how people stop it, go on and get about.

use std::collections::BTreeSet;

use anyhow::ensure;
use tapeline_e2e::browser::{Browser, Theme, Viewport};
use tapeline_e2e::wait::all_along;
use tapeline_e2e::{eventually, story, topic, within};

use super::page::{self, Dashboard, trade};

#[test]
fn people_stop_what_moves_and_get_about_by_keyboard() {
    story(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |_| {}).await;
        dashboard.send(&[trade(1, "XOM", "Energy", 50)]).await;
        dashboard.until_stored(1).await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        browser.goto(&dashboard.url("/")).await.unwrap();
        page::is_live(&browser, 15).await;
        browser.until("the chart", within(15), async |browser| page::has(browser, "Energy", 50).await).await;

        browser.click("#pause").await.unwrap();
        page::says(&browser, "paused", 15).await;
        dashboard.send(&[trade(2, "XOM", "Energy", 100)]).await;
        dashboard.until_volume("Energy", 150).await;
        all_along("what a paused page shows", within(5), async || page::has(&browser, "Energy", 50).await).await;
        browser.click("#pause").await.unwrap();
        page::says(&browser, "live", 15).await;
        browser.until("what has come meanwhile", within(15), async |browser| page::has(browser, "Energy", 150).await).await;
        world.say("a paused page stands still while MySQL goes on");

        by_keyboard(&browser, &dashboard).await;
        page::is_clean(&browser, &dashboard).await;
    });
}

/// Tab reaches everything, in the order in which it stands there.
async fn by_keyboard(browser: &Browser, dashboard: &Dashboard<'_>) {
    let here = "(() => { const here = document.activeElement; return here.id || here.className || here.textContent.trim(); })()";
    browser.goto(&dashboard.url("/")).await.unwrap();
    let mut reached: Vec<String> = Vec::new();
    while !reached.iter().any(|name| name == "filter-sector") {
        browser.press("Tab").await.unwrap();
        reached.push(browser.evaluate(here).await.unwrap());
        assert!(reached.len() < 30, "the filter is not among {reached:?}");
    }
    assert_eq!(reached, ["skip", "brand", "Charts", "Overview", "Queries", "Data", "pause", "theme", "filter-sector"]);

    browser.reload().await.unwrap();
    page::is_live(browser, 15).await;
    browser.press("Tab").await.unwrap();
    browser.press("Enter").await.unwrap();
    assert_eq!(browser.evaluate::<String>(here).await.unwrap(), "main", "the first one skips what is the same on all pages");
    for key in ["Shift+Tab", "Shift+Tab", "Enter"] {
        browser.press(key).await.unwrap();
    }
    page::says(browser, "paused", 15).await;
    browser.press("Enter").await.unwrap();
    page::is_live(browser, 15).await;
}

#[test]
fn a_topic_is_followed_as_it_goes() {
    story(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |_| {}).await;
        dashboard.send(&[trade(700_001, "XOM", "Energy", 50)]).await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        browser.goto(&dashboard.url(&format!("/topics/{}?follow=true", world.topic("trading_data")))).await.unwrap();
        page::is_live(&browser, 15).await;
        let mut sent = vec![700_001];
        // Messages that were there are on the page, those that come are told; also after the connection was lost, each is there once.
        for id in [700_002, 700_003] {
            dashboard.send(&[trade(id, "XOM", "Energy", 50)]).await;
            sent.push(id);
            browser
                .until("all messages, the newest first", within(15), async |browser| {
                    let (shown, ids) = (browser.texts("#tail .message .text").await?, browser.attributes("#tail .message", "id").await?);
                    let is_there = |id: &i64| shown.iter().filter(|text| text.contains(&id.to_string())).count() == 1;
                    ensure!(shown.len() == sent.len() && sent.iter().all(is_there), "{shown:?}");
                    ensure!(shown.first().is_some_and(|text| text.contains(&id.to_string())), "{shown:?}");
                    ensure!(ids.iter().collect::<BTreeSet<_>>().len() == ids.len(), "{ids:?}");
                    Ok(())
                })
                .await;
            if id == 700_002 {
                page::is_clean(&browser, &dashboard).await;
                dashboard.process().await.kill().unwrap();
                page::says(&browser, "reconnecting", 30).await;
                page::is_live(&browser, 90).await;
            }
        }
        // What comes while it stands still waits.
        browser.click("#pause").await.unwrap();
        topic::send(&world.kafka, &world.topic("trading_data"), None, &["700004 is no trade"]).await.unwrap();
        browser
            .until("the page to say that something waits", within(15), async |browser| {
                let count: u32 = browser.text("#pause .count").await?.parse()?;
                ensure!(count == 1, "{count}");
                Ok(())
            })
            .await;
        assert_eq!(browser.texts("#tail .message .text").await.unwrap().len(), sent.len());
        browser.click("#pause").await.unwrap();
        let first = browser.text("#tail .message .text").await.unwrap();
        assert!(first.contains("700004"), "{first}");
    });
}

const TABLES: [&str; 2] = ["/data/cassandra/real_time_data", "/data/mysql/profile"];

#[test]
fn a_table_goes_on_where_its_page_ends() {
    story(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |_| {}).await;
        let trades: Vec<String> = (1..=120).map(|id| trade(id, "XOM", "Energy", 1)).collect();
        dashboard.send(&trades).await;
        eventually("the trades in Cassandra", within(60), async || {
            let rows = crate::small::rows(world).await?;
            ensure!(rows == 120, "{rows}");
            Ok(())
        })
        .await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        for path in TABLES {
            dashboard.until_shown(path).await;
        }
        for (path, column, expected) in [(TABLES[0], "id", 120), (TABLES[1], "ticker", 504)] {
            let cells = all_cells(&browser, &dashboard, path, column).await;
            let each: BTreeSet<&String> = cells.iter().collect();
            assert_eq!((cells.len(), each.len()), (expected, expected), "{path}: {cells:?}");
        }
        page::is_clean(&browser, &dashboard).await;
    });
}

/// The cells of `column`, from the first page of a table to the last.
async fn all_cells(browser: &Browser, dashboard: &Dashboard<'_>, path: &str, column: &str) -> Vec<String> {
    let (mut path, mut cells) = (path.to_owned(), Vec::new());
    loop {
        browser.goto(&dashboard.url(&path)).await.unwrap();
        let table = page::table(browser, "table.rows").await.unwrap();
        let place = table[0].iter().position(|name| name == column).unwrap_or_else(|| panic!("{path} has no {column}: {:?}", table[0]));
        assert!(table.len() > 1 && cells.len() < 2_000, "{path}: {table:?}");
        cells.extend(table.into_iter().skip(1).map(|mut row| row.swap_remove(place)));
        match browser.attributes("a[rel='next']", "href").await.unwrap().pop() {
            Some(next) => path = next,
            None => return cells,
        }
    }
}
