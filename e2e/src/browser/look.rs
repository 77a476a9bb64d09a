//! What is to be seen on a page.

use std::env;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Browser;

/// The texts of what is rendered. (SVG has no `innerText`.)
const TEXTS: &str = "return [...document.querySelectorAll(arguments[0])].filter(element => element.checkVisibility({visibilityProperty: true}))
    .map(element => (element.innerText ?? element.textContent).trim())";
const ATTRIBUTES: &str =
    "return [...document.querySelectorAll(arguments[0])].map(element => element.getAttribute(arguments[1])).filter(value => value !== null)";
const VALUE: &str = "return document.querySelector(arguments[0])?.value ?? null";
/// Fonts are there, animations that end have ended, and the last change is painted.
const SETTLED: &str = "return document.fonts.ready
    .then(() => Promise.all(document.getAnimations().filter(one => one.playState === 'running' && one.effect.getComputedTiming().endTime < Infinity).map(one => one.finished.catch(() => 0))))
    .then(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true)))))";
const FIRST_PAINT: &str = "return new Promise((done, fail) => {
    new PerformanceObserver(list => list.getEntriesByName('first-contentful-paint').forEach(({startTime}) => done({
        after: startTime,
        loaded: [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
            .map(({name, entryType, transferSize, responseEnd}) => ({name, page: entryType === 'navigation', transferSize, responseEnd})),
    }))).observe({type: 'paint', buffered: true});
    setTimeout(() => fail(new Error('nothing was painted within 10 s')), 10_000);
})";
/// What Chromium takes of a picture at most.
const TALLEST: f64 = 16_000.0;

/// The moment at which something was to be seen for the first time (first contentful paint).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstPaint {
    /// Since the page was asked for.
    pub after: Duration,
    /// What had been loaded by then, each with its bytes on the wire: compressed, with its headers. The page itself is the first, and counts as a whole.
    pub loaded: Vec<(String, u64)>,
}

impl FirstPaint {
    /// All that had been loaded by then.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.loaded.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[derive(Deserialize)]
struct Painted {
    after: f64,
    loaded: Vec<Loaded>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loaded {
    name: String,
    page: bool,
    transfer_size: u64,
    response_end: f64,
}

impl Browser {
    /// The text of the first element that `css` selects and that is rendered, as somebody reads it. For all that is to be read: `text("body")`.
    ///
    /// # Errors
    /// There is none.
    pub async fn text(&self, css: &str) -> Result<String> {
        self.texts(css).await?.into_iter().next().with_context(|| format!("nothing to be seen of {css}"))
    }

    /// The texts of all elements that `css` selects and that are rendered, read in one step.
    ///
    /// # Errors
    /// It is no selector.
    pub async fn texts(&self, css: &str) -> Result<Vec<String>> {
        self.run(TEXTS, json!([css])).await.with_context(|| format!("the texts of {css}"))
    }

    /// The attribute `name` of all elements that `css` selects and that have it: `aria-label` of the marks of a chart, `href` of links.
    ///
    /// # Errors
    /// It is no selector.
    pub async fn attributes(&self, css: &str, name: &str) -> Result<Vec<String>> {
        self.run(ATTRIBUTES, json!([css, name])).await.with_context(|| format!("{name} of {css}"))
    }

    /// What is in the field that `css` selects.
    ///
    /// # Errors
    /// There is none.
    pub async fn value(&self, css: &str) -> Result<String> {
        let value: Option<String> = self.run(VALUE, json!([css])).await?;
        value.with_context(|| format!("no field {css}"))
    }

    /// By how many pixels the page is wider than the window, so that one has to push it to and fro.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn overflow(&self) -> Result<u32> {
        self.evaluate("Math.max(0, document.scrollingElement.scrollWidth - document.documentElement.clientWidth)").await
    }

    /// Saves the whole page as a PNG, also what is below the window, when its fonts are loaded and its animations have ended. Its folder is made.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn screenshot(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.settle().await?;
        let metrics = self.devtools("Page.getLayoutMetrics", json!({})).await?;
        let side = |name: &str| metrics.pointer(&format!("/cssContentSize/{name}")).and_then(Value::as_f64).context("a page has a size");
        let clip = json!({"x": 0, "y": 0, "width": side("width")?, "height": side("height")?.min(TALLEST), "scale": 1});
        self.picture(path, json!({"format": "png", "captureBeyondViewport": true, "clip": clip})).await
    }

    /// Saves what is in the window, as [`Self::screenshot`] saves the whole page.
    ///
    /// # Errors
    /// As there.
    pub async fn window_screenshot(&self, path: impl AsRef<Path>) -> Result<()> {
        self.settle().await?;
        self.picture(path.as_ref(), json!({"format": "png"})).await
    }

    async fn picture(&self, path: &Path, parameters: Value) -> Result<()> {
        let picture = self.devtools("Page.captureScreenshot", parameters).await?;
        let picture = BASE64_STANDARD.decode(picture.pointer("/data").and_then(Value::as_str).unwrap_or_default())?;
        ensure!(!picture.is_empty(), "no picture");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, picture).with_context(|| path.display().to_string())
    }

    /// When something was to be seen of the page for the first time, and what had been loaded by then.
    ///
    /// # Errors
    /// Nothing is to be seen within 10 s.
    pub async fn first_paint(&self) -> Result<FirstPaint> {
        let Painted { after, loaded } = self.run(FIRST_PAINT, json!([])).await.context("the first paint")?;
        let in_time = |loaded: &Loaded| loaded.page || (loaded.response_end > 0.0 && loaded.response_end <= after);
        let loaded = loaded.into_iter().filter(in_time).map(|loaded| (loaded.name, loaded.transfer_size)).collect();
        Ok(FirstPaint { after: Duration::from_secs_f64(after / 1000.0), loaded })
    }

    /// The bytes of [`Self::first_paint`].
    ///
    /// # Errors
    /// As there.
    pub async fn bytes_until_first_paint(&self) -> Result<u64> {
        Ok(self.first_paint().await?.bytes())
    }

    /// Waits until the page stands still, as far as it does.
    pub(super) async fn settle(&self) -> Result<()> {
        if self.has_javascript() {
            let _: bool = self.run(SETTLED, json!([])).await.context("waiting for fonts and animations")?;
        }
        Ok(())
    }

    /// Prints what somebody would look at when `what` did not come, and saves a picture of it.
    pub async fn show(&self, what: &str) {
        let name: String = what.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).take(80).collect();
        let path = env::temp_dir().join(format!("tapeline-e2e/{name}.png"));
        let shown = async {
            println!("--- the browser was at {}", self.url().await?);
            println!("{}", self.text("body").await.unwrap_or_else(|error| format!("{error:#}")));
            println!("--- errors of its console: {:#?}", self.console().await?);
            self.screenshot(&path).await?;
            println!("--- a picture of it: {}", path.display());
            anyhow::Ok(())
        };
        match timeout(Duration::from_secs(10), shown).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => println!("--- the browser cannot show more: {error:#}"),
            Err(elapsed) => println!("--- the browser cannot show more: {elapsed}"),
        }
    }
}
