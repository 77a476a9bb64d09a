//! A browser for tests of web pages: headless Chromium, driven by WebDriver, as somebody has it who sits at a desk or holds a phone, in the dark or by day. What a test
//! looks at is what that somebody would see: texts that are rendered, the address, pictures of the whole page; and what nobody sees, but should: errors of the console,
//! requests to somewhere else, what a screen reader stumbles over.
//!
//! Pages live, so a text is read in one step, and what is to come is waited for with [`Browser::until`], which shows the page when it does not come.
//!
//! A test has one browser at a time ([`Browser::emulate`] makes it another one): there are two for all tests.

mod axe;
mod driver;
mod heard;
mod keys;
mod look;
mod webdriver;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::driver::Driver;
use self::heard::Heard;
use self::webdriver::{Refusal, Session};
use crate::wait::eventually;

pub use self::axe::Violation;
pub use self::look::FirstPaint;

/// How long a page may replace an element again and again before somebody clicks on it.
const RESTLESS: Duration = Duration::from_secs(5);

/// How large the window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewport {
    /// 1440 by 900.
    Desktop,
    /// 390 by 844, and touched rather than pointed at.
    Phone,
}

impl Viewport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Desktop, Self::Phone];

    /// Width and height in pixels.
    #[must_use]
    pub const fn size(self) -> (u32, u32) {
        match self {
            Self::Desktop => (1440, 900),
            Self::Phone => (390, 844),
        }
    }

    /// For names of files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Phone => "phone",
        }
    }
}

/// What the system asks of pages (`prefers-color-scheme`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Theme {
    Dark,
    Light,
}

impl Theme {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Dark, Self::Light];

    /// As CSS and names of files have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dark => "dark",
            Self::Light => "light",
        }
    }
}

/// A browser with one window, a profile of its own and nothing in its cache. Its processes end when it is dropped.
pub struct Browser {
    driver: Driver,
    session: Session,
    heard: Mutex<Heard>,
    javascript: AtomicBool,
}

impl Browser {
    /// Starts one, on an empty page. Takes half a second once one of the two is free.
    ///
    /// # Errors
    /// Chromium or its driver does not start; `testbed/install.sh browser` installs both.
    pub async fn start(viewport: Viewport, theme: Theme) -> Result<Self> {
        let (driver, session) = Driver::start().await.context("starting a browser")?;
        let browser = Self { driver, session, heard: Mutex::default(), javascript: AtomicBool::new(true) };
        browser.emulate(viewport, theme).await?;
        Ok(browser)
    }

    /// Makes it another one, also while a page is open.
    ///
    /// # Errors
    /// Chromium refuses.
    pub async fn emulate(&self, viewport: Viewport, theme: Theme) -> Result<()> {
        let ((width, height), phone) = (viewport.size(), viewport == Viewport::Phone);
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await?;
        self.devtools("Emulation.setTouchEmulationEnabled", json!({"enabled": phone})).await?;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": theme.name()}]});
        self.devtools("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// From the next page on no script of a page runs. Looking, clicking and [`Self::evaluate`] go on to work, but for promises that wait for something.
    ///
    /// # Errors
    /// Chromium refuses.
    pub async fn without_javascript(&self) -> Result<()> {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({"value": true})).await?;
        self.javascript.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Sends `headers` with each request from now on, as a proxy would add them.
    ///
    /// # Errors
    /// Chromium refuses.
    pub async fn headers(&self, headers: &[(&str, &str)]) -> Result<()> {
        let headers: serde_json::Map<String, Value> = headers.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
        self.devtools("Network.setExtraHTTPHeaders", json!({"headers": headers})).await.map(drop)
    }

    /// Opens `url` and waits until it is loaded.
    ///
    /// # Errors
    /// Nobody answers there, or not within 30 s.
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.session.post("url", json!({"url": url})).await.with_context(|| format!("opening {url}")).map(drop)
    }

    /// Loads the page again.
    ///
    /// # Errors
    /// As [`Self::goto`].
    pub async fn reload(&self) -> Result<()> {
        self.session.post("refresh", json!({})).await.context("loading the page again").map(drop)
    }

    /// The address of the page.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn url(&self) -> Result<String> {
        Ok(serde_json::from_value(self.session.get("url").await?)?)
    }

    /// Clicks on the first element that `css` selects.
    ///
    /// # Errors
    /// There is none, or nobody could click on it.
    pub async fn click(&self, css: &str) -> Result<()> {
        self.act(css, &[("click", json!({}))]).await
    }

    /// Picks the option with the label or value `option` in the `<select>` that `css` selects.
    ///
    /// # Errors
    /// There is none.
    pub async fn select(&self, css: &str, option: &str) -> Result<()> {
        let labels = "return [...document.querySelector(arguments[0]).options].map(option => [option.label.trim(), option.value])";
        let options: Vec<(String, String)> = self.run(labels, json!([css])).await.with_context(|| format!("the options of {css}"))?;
        let position = options.iter().position(|(label, value)| label == option || value == option);
        let position = position.with_context(|| format!("{css} has no option {option:?}; it has {options:?}"))?;
        let path = format!("return document.querySelector(arguments[0]).options[{position}]");
        let option = webdriver::element(&self.session.run(&path, json!([css])).await?)?;
        self.session.post(&format!("element/{option}/click"), json!({})).await.map(drop)
    }

    /// Replaces what is in the field that `css` selects; a date as `2024-08-25`.
    ///
    /// # Errors
    /// There is none, or it takes no text.
    pub async fn fill(&self, css: &str, text: &str) -> Result<()> {
        // The keys of a date depend on the language of the browser.
        let set = "const field = document.querySelector(arguments[0]);
            if (!['date', 'time', 'datetime-local', 'month', 'week'].includes(field?.type)) return false;
            field.value = arguments[1];
            for (const event of ['input', 'change']) field.dispatchEvent(new Event(event, {bubbles: true}));
            return true;";
        if self.run(set, json!([css, text])).await? {
            return Ok(());
        }
        self.act(css, &[("clear", json!({})), ("value", json!({"text": text}))]).await
    }

    /// Presses a key, or several at once, where the focus is: `Tab`, `Shift+Tab`, `Enter`, `ArrowDown`, `/`.
    ///
    /// # Errors
    /// There is no such key.
    pub async fn press(&self, keys: &str) -> Result<()> {
        self.session.post("actions", keys::press(keys)?).await.with_context(|| format!("pressing {keys}")).map(drop)
    }

    /// What the expression `js` is in the page. A promise is waited for.
    ///
    /// # Errors
    /// It throws, or is something else than a `T`.
    pub async fn evaluate<T: DeserializeOwned>(&self, js: &str) -> Result<T> {
        self.run(&format!("return (\n{js}\n)"), json!([])).await.with_context(|| format!("evaluating {js}"))
    }

    /// Looks with `probe` until it gives a value. When it does not by the deadline, what somebody would see is printed and the page saved as a picture; the error says what
    /// was awaited and what `probe` saw instead.
    pub async fn until<T>(&self, what: &str, deadline: Duration, mut probe: impl AsyncFnMut(&Self) -> Result<T>) -> T {
        let awaited = AssertUnwindSafe(eventually(what, deadline, async || probe(self).await)).catch_unwind().await;
        match awaited {
            Ok(value) => value,
            Err(panic) => {
                self.show(what).await;
                resume_unwind(panic)
            }
        }
    }

    /// What was written to the console as an error since the browser began or [`Self::forget`]: also exceptions, refused by the Content-Security-Policy, not found.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn console(&self) -> Result<Vec<String>> {
        self.listen().await?;
        Ok(self.heard().errors.clone())
    }

    /// The URLs that pages asked for since the browser began or [`Self::forget`], in this order. What the Content-Security-Policy refused was not asked for. (Of workers and
    /// of what Chromium does by itself it has nothing.)
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn requests(&self) -> Result<Vec<String>> {
        self.listen().await?;
        Ok(self.heard().requests())
    }

    /// Those of [`Self::requests`] that went to another host or port than `url`'s.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn requests_beyond(&self, url: &str) -> Result<Vec<String>> {
        Ok(self.requests().await?.into_iter().filter(|asked| !heard::same_place(url, asked)).collect())
    }

    /// Forgets what [`Self::console`] and [`Self::requests`] have: after what was expected to fail.
    ///
    /// # Errors
    /// The browser does not answer.
    pub async fn forget(&self) -> Result<()> {
        self.listen().await?;
        *self.heard() = Heard::default();
        Ok(())
    }

    /// A command of the DevTools protocol, for what is not here.
    ///
    /// # Errors
    /// Chromium refuses.
    pub async fn devtools(&self, method: &str, parameters: Value) -> Result<Value> {
        self.session.post("goog/cdp/execute", json!({"cmd": method, "params": parameters})).await.with_context(|| method.to_owned())
    }

    /// The processes that end with this.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.driver.pids()
    }

    fn has_javascript(&self) -> bool {
        self.javascript.load(Ordering::Relaxed)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// chromedriver gives each entry once, and has what the page did before it last answered.
    async fn listen(&self) -> Result<()> {
        self.session.run("", json!([])).await?;
        let console = self.log("browser").await?;
        for entry in &console {
            self.heard().console(entry);
        }
        let network = self.log("performance").await?;
        for entry in &network {
            self.heard().network(entry);
        }
        Ok(())
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let entries = self.session.post("se/log", json!({"type": kind})).await.with_context(|| format!("the log {kind}"))?;
        Ok(serde_json::from_value(entries)?)
    }

    /// Runs the body of a function in the page.
    async fn run<T: DeserializeOwned>(&self, body: &str, arguments: Value) -> Result<T> {
        let value = self.session.run(body, arguments).await?;
        serde_json::from_value(value.clone()).with_context(|| format!("it is {value}"))
    }

    /// Commands to an element. A page that lives may replace it after it was found; then all of them are for the new one.
    async fn act(&self, css: &str, commands: &[(&str, Value)]) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.session.act(css, commands).await {
                Err(error) if Refusal::is(&error, "stale element reference") && begun.elapsed() < RESTLESS => {}
                done => return done.with_context(|| css.to_owned()),
            }
        }
    }
}
