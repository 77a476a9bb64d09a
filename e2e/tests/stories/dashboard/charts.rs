//! The first page: charts over the rows of MySQL, filters, files.

use std::collections::BTreeMap;

use anyhow::ensure;
use arrow::ipc::reader::StreamReader;
use arrow::util::display::array_value_to_string;
use serde_json::{Map, Value, json};
use tapeline_e2e::browser::{Browser, Theme, Viewport};
use tapeline_e2e::{story, story_alone, within};
use tokio::time::Instant;

use super::page::{self, Dashboard, trade};

/// Most that is transferred until a browser paints first.
const FIRST_PAINT: u64 = 300_000;

#[test]
fn the_chart_shows_what_mysql_holds_and_follows_it() {
    // Alone: two seconds are counted.
    story_alone(async |world| {
        // Rows are read each ten seconds: what is here within two came by the notice of a micro-batch.
        let dashboard = Dashboard::of_changed(world, |pipeline| {
            pipeline.set("/spec/dashboard", page::volume_by_sector()).set("/spec/queries/1/trigger/interval", json!("10s"));
        });
        let dashboard = dashboard.await;
        dashboard.send(&[trade(1, "AAPL", "Information Technology", 700), trade(2, "XOM", "Energy", 50), trade(3, "JPM", "Financials", 200)]).await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        browser.goto(&dashboard.url("/")).await.unwrap();
        // Of a browser that has nothing in its cache.
        let paint = browser.bytes_until_first_paint().await.unwrap();
        assert!((1..FIRST_PAINT).contains(&paint), "{paint} bytes until the first paint");
        world.say(format!("{paint} bytes until the first paint"));

        let shown = browser.until("the chart to show the sums of MySQL", within(60), async |browser| {
            let (stored, shown) = (dashboard.volumes().await?, page::bars(browser).await?);
            ensure!(stored.len() == 3 && shown == stored, "MySQL has {stored:?}, the chart {shown:?}");
            Ok(shown)
        });
        let shown = shown.await;
        assert_eq!(shown.get("Information Technology"), Some(&700));
        assert_eq!(page::rows(&browser).await.unwrap(), shown);
        let marks = page::marks(&browser).await.unwrap();
        // Sorted by their length, as the reference dashboard's.
        assert_eq!(marks.iter().map(|mark| mark.name.as_str()).collect::<Vec<_>>(), ["Information Technology", "Financials", "Energy"]);
        world.say("the chart shows the numbers that MySQL holds");

        let mut total = 50;
        for id in 4..7 {
            total += 1_000;
            dashboard.send(&[trade(id, "XOM", "Energy", 1_000)]).await;
            dashboard.until_volume("Energy", total).await;
            let committed = Instant::now();
            browser.until("chart and table to follow within two seconds", within(2), async |browser| page::has(browser, "Energy", total).await).await;
            world.say(format!("a micro-batch is shown {} ms after it was seen in MySQL", committed.elapsed().as_millis()));
        }
        filters_are_kept(&browser, &dashboard, total).await;
        files_hold_what_the_table_holds(&browser, &dashboard).await;
        page::is_clean(&browser, &dashboard).await;
    });
}

async fn filters_are_kept(browser: &Browser, dashboard: &Dashboard<'_>, total: i64) {
    // The page was opened before there were rows, and so anything to choose from.
    browser
        .until("the filter to offer a sector", within(15), async |browser| {
            let options = browser.attributes("#filter-sector option", "value").await?;
            ensure!(options.iter().any(|option| option == "Energy"), "{options:?}");
            Ok(())
        })
        .await;
    browser.select("#filter-sector", "Energy").await.unwrap();
    let filtered = async |browser: &Browser| {
        let shown = page::rows(browser).await?;
        ensure!(shown == BTreeMap::from([("Energy".to_owned(), total)]), "{shown:?}");
        let bars = page::bars(browser).await?;
        ensure!(bars == shown, "{bars:?}");
        Ok(())
    };
    browser.until("only the rows that pass the filter", within(10), async |browser| filtered(browser).await).await;
    assert_eq!(browser.url().await.unwrap(), dashboard.url("/?sector=Energy"));
    browser.reload().await.unwrap();
    browser.until("the filter to survive a reload", within(10), async |browser| filtered(browser).await).await;
    assert_eq!(browser.value("#filter-sector").await.unwrap(), "Energy");
}

async fn files_hold_what_the_table_holds(browser: &Browser, dashboard: &Dashboard<'_>) {
    for (query, lines) in [("", 4), ("?sector=Energy", 2)] {
        browser.goto(&dashboard.url(&format!("/{query}"))).await.unwrap();
        let shown = browser.until("the table", within(10), async |browser| {
            let table = page::table(browser, ".chart-table").await?;
            ensure!(table.len() == lines, "{table:?}");
            Ok(table)
        });
        let shown = shown.await;
        let file = async |ending: &str| dashboard.bytes(&format!("/api/v1/charts/volume/data.{ending}{query}")).await.unwrap();
        assert_eq!(of_csv(&file("csv").await), shown);
        assert_eq!(of_json(&file("json").await, &shown[0]), shown[1..]);
        assert_eq!(of_arrow(&file("arrow").await), shown);
    }
}

/// The cells of a file, its header first, as the page has them.
fn of_csv(bytes: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
    reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
}

fn of_arrow(bytes: &[u8]) -> Vec<Vec<String>> {
    let reader = StreamReader::try_new(bytes, None).unwrap();
    let mut table: Vec<Vec<String>> = vec![reader.schema().fields().iter().map(|field| field.name().clone()).collect()];
    for batch in reader {
        let batch = batch.unwrap();
        let row = |row: usize| batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap()).collect::<Vec<_>>();
        table.extend((0..batch.num_rows()).map(row));
    }
    table
}

/// The rows alone: their members have no order.
fn of_json(bytes: &[u8], header: &[String]) -> Vec<Vec<String>> {
    let rows: Vec<Map<String, Value>> = serde_json::from_slice(bytes).unwrap();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    assert!(rows.iter().all(|row| row.len() == header.len()), "{rows:?}");
    rows.iter().map(|row| header.iter().map(|name| text(&row[name])).collect()).collect()
}

/// As an object, and as the text that Altair's `to_json()` gives. `kubectl apply` takes members that are null for members to remove, but for those in a text.
#[test]
fn altairs_chart_is_drawn_as_it_was_pasted() {
    story(async |world| {
        let text = include_str!("../../../assets/stock-volume.vl.json");
        let object: Value = serde_json::from_str(text).unwrap();
        let chart = |title: &str, pasted: &Value| json!([{"name": "volume", "view": "volume_today", "title": title, "vegaLite": pasted}]);
        let mut dashboard = Dashboard::of_stock_volume(world, |spec| spec["charts"] = chart("As an object", &object)).await;
        dashboard.send(&[trade(1, "AAPL", "Information Technology", 700), trade(2, "XOM", "Energy", 100)]).await;
        dashboard.until_stored(2).await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        is_altairs(&browser, &dashboard, "As an object", &object).await;

        dashboard.pipeline.set("/spec/dashboard/charts", chart("As a text", &json!(text)));
        for _ in 0..2 {
            dashboard.pipeline.apply_client_side().await.unwrap();
            is_altairs(&browser, &dashboard, "As a text", &object).await;
        }
        dashboard.pipeline.until_ready(within(60)).await;
        page::is_clean(&browser, &dashboard).await;
    });
}

/// Waits for the chart of this title, and compares its marks with what Vega-Lite makes of the specification by itself.
async fn is_altairs(browser: &Browser, dashboard: &Dashboard<'_>, title: &str, altair: &Value) {
    browser
        .until("the chart's title", within(30), async |browser| {
            browser.goto(&dashboard.url("/")).await?;
            let shown = browser.text(".chart-card h2").await?;
            ensure!(shown == title, "{shown}");
            Ok(())
        })
        .await;
    let marks = browser.until("Altair's bars over the rows of MySQL", within(30), async |browser| {
        let (stored, marks) = (dashboard.volumes().await?, page::marks(browser).await?);
        let shown: BTreeMap<String, i64> = marks.iter().map(|mark| (mark.name.clone(), mark.volume)).collect();
        ensure!(stored.len() == 2 && shown == stored, "MySQL has {stored:?}, the chart {shown:?}");
        Ok(marks)
    });
    let marks = marks.await;
    let [first, second] = marks.as_slice() else { panic!("{marks:?}") };
    assert_eq!((first.name.as_str(), second.name.as_str()), ("Information Technology", "Energy"));
    let ratio = first.width / second.width;
    assert!((ratio / 7.0 - 1.0).abs() < 0.01, "bars as long as 700 and 100: {marks:?}");
    let colour = altair.pointer("/mark/color").and_then(Value::as_str).unwrap();
    // A step of 20 pixels, a tenth of it between bars.
    assert!(marks.iter().all(|mark| mark.colour == colour && !mark.is_round && (mark.height - 18.0).abs() < 0.1), "{marks:?}");
    assert_eq!(page::axis_titles(browser).await.unwrap(), ["Volume"]);
}
