//! A dashboard of a test, and what stands on its pages.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tapeline_e2e::browser::{Browser, Theme, Viewport};
use tapeline_e2e::processes::{self, Process};
use tapeline_e2e::{Pipeline, World, eventually, http, look, topic, within};

/// The bars of the chart: each mark tells its values to those who do not see it.
const BARS: &str = ".plot [role='graphics-symbol'][aria-roledescription='bar']";
/// The label of the dashboard's pods.
const LABEL: &str = "tapeline.dev/dashboard";

/// The dashboard of `examples/1-stock-volume`, without the history: only what a test sends is of today.
pub(crate) struct Dashboard<'w> {
    pub(crate) world: &'w World,
    pub(crate) pipeline: Pipeline<'w>,
    address: String,
}

/// A trade of now.
pub(crate) fn trade(id: i64, ticker: &str, sector: &str, volume: i64) -> String {
    let now = jiff::Timestamp::now();
    json!({"id": id, "created_at": now.to_string(), "ticker": ticker, "sector": sector, "volume": volume, "market_cap": 1.0, "price": 2.5}).to_string()
}

/// `spec.dashboard` with one chart: the view of today's volume as the bars that there are without a specification.
pub(crate) fn volume_by_sector() -> Value {
    json!({"title": "Today's volume", "charts": [{"name": "volume", "view": "volume_today", "title": "Volume by sector"}]})
}

impl<'w> Dashboard<'w> {
    /// Applies the example with `change`d `spec.dashboard`, and waits until it is ready.
    pub(crate) async fn of_stock_volume(world: &'w World, change: impl FnOnce(&mut Value)) -> Self {
        let mut spec = volume_by_sector();
        change(&mut spec);
        Self::of_changed(world, |pipeline| _ = pipeline.set("/spec/dashboard", spec)).await
    }

    /// As [`Self::of_stock_volume`], with a change of anything.
    pub(crate) async fn of_changed(world: &'w World, change: impl FnOnce(&mut Pipeline<'w>)) -> Self {
        let dashboard = Self::begun(world, change).await;
        dashboard.pipeline.until_ready(within(180)).await;
        dashboard
    }

    /// As [`Self::of_changed`], but waits for the dashboard alone.
    pub(crate) async fn begun(world: &'w World, change: impl FnOnce(&mut Pipeline<'w>)) -> Self {
        world.apply_secrets().await.unwrap();
        let mut pipeline = world.stock_volume().await.unwrap();
        pipeline.list("/spec/producers").clear();
        change(&mut pipeline);
        pipeline.apply().await.unwrap();
        let (services, name): (Api<Service>, _) = (Api::namespaced(world.kube.clone(), &world.namespace), format!("{}-dashboard", pipeline.name));
        let address = eventually("the dashboard's Service", within(60), async || {
            services.get(&name).await?.spec.and_then(|spec| spec.cluster_ip).context("it has no address")
        });
        let dashboard = Self { world, pipeline, address: address.await };
        eventually("the dashboard to answer", within(120), async || dashboard.get("/readyz").await.map(drop)).await;
        dashboard
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The same for a browser that says who it is.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}/", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8(self.bytes(path).await?)?)
    }

    pub(crate) async fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        Ok(http::client().build()?.get(self.url(path)).send().await?.error_for_status()?.bytes().await?.to_vec())
    }

    /// Status and text of an answer, whatever it is.
    pub(crate) async fn answer(&self, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String)> {
        let mut request = http::client().timeout(within(20)).build()?.get(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The status of a POST.
    pub(crate) async fn post(&self, path: &str, form: &'static str, headers: &[(&str, &str)]) -> u16 {
        let client = http::client().redirect(Policy::none()).build().unwrap();
        let mut request = client.post(self.url(path)).header("content-type", "application/x-www-form-urlencoded").body(form);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.map_or(0, |response| response.status().as_u16())
    }

    /// A number of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        let text = self.get("/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).with_context(|| format!("no {name} in {text}"))?;
        Ok(value.trim().parse()?)
    }

    /// Waits until a page can be shown: on a slow machine the first connection to a store may take longer than a page waits.
    pub(crate) async fn until_shown(&self, path: &str) {
        eventually(&format!("{path} to be shown"), within(60), async || {
            let (status, text) = self.answer(path, &[]).await?;
            ensure!(status == 200, "{status}: {text}");
            Ok(())
        })
        .await;
    }

    pub(crate) async fn send(&self, trades: &[String]) {
        let trades: Vec<&str> = trades.iter().map(String::as_str).collect();
        topic::send(&self.world.kafka, &self.world.topic("trading_data"), None, &trades).await.unwrap();
    }

    /// What the view holds in MySQL.
    pub(crate) async fn volumes(&self) -> Result<BTreeMap<String, i64>> {
        let sql = format!("SELECT sector, total_volume FROM `{}`.volume_today", self.world.schema());
        let rows = look::mysql(&self.world.mysql, &sql).await?;
        rows.into_iter().skip(1).map(|row| Ok((row.first().context("a sector")?.clone(), row.get(1).context("a sum")?.parse()?))).collect()
    }

    /// Waits until MySQL has so many sectors.
    pub(crate) async fn until_stored(&self, sectors: usize) {
        eventually("the trades in MySQL", within(60), async || {
            let stored = self.volumes().await?;
            ensure!(stored.len() == sectors, "{stored:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until MySQL has this volume of a sector.
    pub(crate) async fn until_volume(&self, sector: &str, volume: i64) {
        eventually("the new trade in MySQL", within(60), async || {
            let stored = self.volumes().await?;
            ensure!(stored.get(sector) == Some(&volume), "{stored:?}");
            Ok(())
        })
        .await;
    }

    pub(crate) async fn process(&self) -> Process {
        let pods = self.world.pods(LABEL).await.unwrap();
        pods.iter().find_map(processes::of).expect("the dashboard runs")
    }

    /// Deletes the dashboard's pod, as a drained node does.
    pub(crate) async fn delete_pod(&self) {
        self.world.kubectl(&["delete", "pod", "-l", LABEL, "--wait=false"], "").await.unwrap();
    }

    /// Takes away what people may do there.
    pub(crate) async fn forbid(&self) {
        let patch = r#"[{"op": "remove", "path": "/spec/dashboard/allow"}]"#;
        self.world.kubectl(&["patch", "tp", &self.pipeline.name, "--type=json", "-p", patch], "").await.unwrap();
    }

    /// The address of the page of dead letters.
    pub(crate) fn letters(&self) -> String {
        format!("/topics/{}", self.world.topic("trading_data.dead-letter"))
    }
}

/// Waits until the page's connection stands.
pub(crate) async fn is_live(browser: &Browser, seconds: u64) {
    says(browser, "live", seconds).await;
}

/// Waits until the page says this of its connection.
pub(crate) async fn says(browser: &Browser, expected: &str, seconds: u64) {
    browser
        .until(&format!("the page to say that it is {expected}"), within(seconds), async |browser| {
            let state = browser.text("#connection .word").await?;
            ensure!(state == expected, "{state}");
            Ok(())
        })
        .await;
}

/// Waits until all charts and lines of the page are drawn.
pub(crate) async fn is_settled(browser: &Browser) {
    // Lines far down are drawn when somebody comes near.
    let left = "(() => {
        const left = [...document.querySelectorAll('figure.chart, .series')].filter((one) => !one.querySelector('.plot.drawn svg, .uplot'));
        left[0]?.scrollIntoView();
        return left.length;
    })()";
    browser
        .until("the page to be drawn", within(30), async |browser| {
            let left: usize = browser.evaluate(left).await?;
            ensure!(left == 0, "{left} are not drawn yet");
            Ok(())
        })
        .await;
    let _: Value = browser.evaluate("scrollTo(0, 0)").await.unwrap();
}

pub(crate) async fn bars(browser: &Browser) -> Result<BTreeMap<String, i64>> {
    let labels: Vec<String> = browser.attributes(BARS, "aria-label").await?;
    labels.iter().map(|label| bar(label)).collect()
}

/// `Volume: 700; sector: Energy`, in whatever order.
fn bar(label: &str) -> Result<(String, i64)> {
    let parts: Vec<(&str, &str)> = label.split(';').filter_map(|part| part.trim().split_once(": ")).collect();
    let number = |text: &str| text.replace([',', '\u{202f}', '\u{a0}'], "").parse::<i64>();
    let volume = parts.iter().find_map(|(name, value)| number(value).ok().filter(|_| name.to_lowercase().contains("volume")));
    let sector = parts.iter().find(|(name, _)| name.to_lowercase().contains("sector"));
    Ok((sector.with_context(|| label.to_owned())?.1.to_owned(), volume.with_context(|| label.to_owned())?))
}

/// What a bar looks like, in pixels.
#[derive(Debug, PartialEq)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) volume: i64,
    pub(crate) colour: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// Whether its outline has curves.
    pub(crate) is_round: bool,
}

/// The bars from the top to the bottom.
pub(crate) async fn marks(browser: &Browser) -> Result<Vec<Mark>> {
    let script = format!(
        "[...document.querySelectorAll({BARS:?})].sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
            .map((mark) => [mark.getAttribute('aria-label'), mark.getAttribute('fill'), mark.getBBox().width, mark.getBBox().height, mark.getAttribute('d')])"
    );
    let marks: Vec<(String, String, f64, f64, String)> = browser.evaluate(&script).await?;
    let mark = |(label, colour, width, height, outline): (String, String, f64, f64, String)| {
        let (name, volume) = bar(&label)?;
        anyhow::Ok(Mark { name, volume, colour, width, height, is_round: outline.contains(['A', 'C', 'Q', 'a', 'c', 'q']) })
    };
    marks.into_iter().map(mark).collect()
}

/// The titles of the axes.
pub(crate) async fn axis_titles(browser: &Browser) -> Result<Vec<String>> {
    browser.texts(".plot .role-axis-title text").await
}

/// The cells of a table, its header first.
pub(crate) async fn table(browser: &Browser, css: &str) -> Result<Vec<Vec<String>>> {
    let rows = format!("{css} tr");
    browser.evaluate(&format!("[...document.querySelectorAll({rows:?})].map((row) => [...row.cells].map((cell) => cell.innerText.trim()))")).await
}

/// The rows of the table beside the chart.
pub(crate) async fn rows(browser: &Browser) -> Result<BTreeMap<String, i64>> {
    let table = table(browser, ".chart-table").await?;
    table.into_iter().skip(1).map(|row| Ok((row.first().context("a sector")?.clone(), row.get(1).context("a sum")?.parse()?))).collect()
}

/// Checks that chart and table have this volume of a sector.
pub(crate) async fn has(browser: &Browser, sector: &str, volume: i64) -> Result<()> {
    let (bars, rows) = (bars(browser).await?, rows(browser).await?);
    ensure!(bars.get(sector) == Some(&volume) && rows.get(sector) == Some(&volume), "the chart has {bars:?}, the table {rows:?}");
    Ok(())
}

/// Where the page leads to, and what it loads.
pub(crate) async fn links(browser: &Browser) -> Result<Vec<String>> {
    let script = "[...document.querySelectorAll('a[href], link[href], script[src], img[src]')]
        .map((element) => new URL(element.getAttribute('href') ?? element.getAttribute('src'), location).href.split('#')[0])";
    browser.evaluate(script).await
}

/// Waits until the page of dead letters says of all of them (one of each query, at least) why they are there, as their headers say it.
pub(crate) async fn has_letters(browser: &Browser, dashboard: &Dashboard<'_>) {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    browser
        .until("a letter of each query, with its reason", within(60), async |browser| {
            let letters = topic::records(&dashboard.world.kafka, &dashboard.world.topic("trading_data.dead-letter")).await?;
            let reasons: Vec<String> = letters.iter().filter_map(|letter| letter.header("tapeline-error")).map(words).collect();
            browser.goto(&dashboard.url(&dashboard.letters())).await?;
            let shown: Vec<String> = browser.texts(".message .why").await?.iter().map(|text| words(text)).collect();
            let are_said = reasons.iter().all(|reason| !reason.is_empty() && shown.iter().any(|text| text.contains(reason)));
            ensure!(letters.len() >= 2 && reasons.len() == letters.len() && shown.len() == letters.len() && are_said, "letters: {reasons:?}, shown: {shown:?}");
            Ok(())
        })
        .await;
}

/// Nothing is wrong on the console, and nothing was asked of anybody else.
pub(crate) async fn is_clean(browser: &Browser, dashboard: &Dashboard<'_>) {
    let console = browser.console().await.unwrap();
    assert!(console.is_empty(), "{console:#?}");
    let beyond = browser.requests_beyond(&dashboard.url("/")).await.unwrap();
    assert!(beyond.is_empty(), "{beyond:#?}");
}

/// Keeps a picture of the window where `DASHBOARD_SCREENSHOTS` says.
pub(crate) async fn keep_screenshot(browser: &Browser, name: &str, viewport: Viewport, theme: Theme) {
    if let Some(folder) = std::env::var_os("DASHBOARD_SCREENSHOTS") {
        let file = format!("{name}-{}-{}.png", viewport.name(), theme.name());
        browser.window_screenshot(std::path::Path::new(&folder).join(file)).await.unwrap();
    }
}
