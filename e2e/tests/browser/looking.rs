//! What somebody sees, and does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use anyhow::ensure;
use axum::routing::get;
use tapeline_e2e::{Browser, Theme, Viewport, within};

use crate::site::{self, Site, file, files, page};
use crate::with_browser;

#[test]
fn the_page_knows_the_theme_and_the_window() {
    with_browser(async |browser| {
        let site = Site::start(files().route("/", get(async || page("<p id=theme><span class=dark>dark</span><span class=light>light</span></p>")))).await;
        browser.goto(&site.url("/")).await.unwrap();
        for viewport in Viewport::ALL {
            for theme in Theme::ALL {
                browser.emulate(viewport, theme).await.unwrap();
                assert_eq!(browser.texts("#theme span").await.unwrap(), [theme.name()], "what is not rendered is not seen");
                let (width, height) = viewport.size();
                assert_eq!(browser.evaluate::<(u32, u32)>("[innerWidth, innerHeight]").await.unwrap(), (width, height));
                let touched: bool = browser.evaluate("matchMedia('(pointer: coarse)').matches").await.unwrap();
                assert_eq!(touched, viewport == Viewport::Phone);
            }
        }
        browser.emulate(Viewport::Phone, Theme::Dark).await.unwrap();
        browser.reload().await.unwrap();
        assert_eq!(browser.text("#theme").await.unwrap(), "dark", "the next page knows, too");
        assert_eq!(browser.evaluate::<u32>("innerWidth").await.unwrap(), 390);
    });
}

#[test]
fn a_screenshot_has_the_whole_page() {
    with_browser(async |browser| {
        let pages = files().route("/", get(async || page("<p class=tall>tall</p>"))).route("/wide", get(async || page("<p class=wide>wide</p>")));
        let site = Site::start(pages).await;
        let folder = tempfile::tempdir().unwrap();
        for viewport in Viewport::ALL {
            browser.emulate(viewport, Theme::Dark).await.unwrap();
            browser.goto(&site.url("/")).await.unwrap();
            let path = folder.path().join(format!("below/{}.png", viewport.name()));
            browser.screenshot(&path).await.unwrap();
            let (width, height) = size_of_png(&std::fs::read(path).unwrap());
            assert_eq!(width, viewport.size().0);
            assert!((3000..4000).contains(&height), "{height}");
            assert_eq!(browser.overflow().await.unwrap(), 0);
        }
        browser.goto(&site.url("/wide")).await.unwrap();
        let overflow = browser.overflow().await.unwrap();
        assert!((210..250).contains(&overflow), "600 pixels on a phone of 390: {overflow}");
    });
}

fn size_of_png(bytes: &[u8]) -> (u32, u32) {
    assert_eq!(bytes[..8], *b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

const FORM: &str =
    "<p id=heard>nothing</p><p><label>Sector <select id=sector><option value=all>all sectors<option>Logistics &amp; Deliveries<option>Bob's</select></label>
    <label>Ticker <input id=ticker value=old></label> <label>Day <input type=date id=day></label> <button>Pause</button> <a href=/#there>there</a></p>
    <svg><text>in a picture</text><rect aria-label='Volume: 7'/></svg><p hidden>hidden</p><script src=/form.js></script>";
/// Says what it heard, and for a second replaces the button again and again, as a page that lives may do.
const FORM_JS: &str = "const heard = document.getElementById('heard');
    for (const field of document.querySelectorAll('select, input')) field.addEventListener('change', () => heard.textContent = `${field.id} ${field.value}`);
    addEventListener('keydown', event => heard.textContent = `${event.shiftKey ? 'shift ' : ''}${event.key}`);
    const button = () => { const old = document.querySelector('button'), now = old.cloneNode(true); now.onclick = () => heard.textContent = 'clicked'; old.replaceWith(now) };
    let left = 30; button(); const timer = setInterval(() => { button(); if (--left === 0) clearInterval(timer) }, 40);";

#[test]
fn somebody_clicks_picks_writes_and_presses() {
    with_browser(async |browser| {
        let site = Site::start(files().route("/", get(async || page(FORM))).route("/form.js", file("text/javascript", FORM_JS))).await;
        browser.goto(&site.url("/")).await.unwrap();
        let heard = async || browser.text("#heard").await.unwrap();
        browser.click("button").await.unwrap();
        assert_eq!(heard().await, "clicked");
        for (option, value) in [("Bob's", "Bob's"), ("Logistics & Deliveries", "Logistics & Deliveries"), ("all", "all")] {
            browser.select("#sector", option).await.unwrap();
            assert_eq!((heard().await, browser.value("#sector").await.unwrap()), (format!("sector {value}"), value.to_owned()));
        }
        assert!(browser.select("#sector", "none").await.unwrap_err().to_string().contains("has no option \"none\""));
        browser.fill("#ticker", "AAPL").await.unwrap();
        assert_eq!(browser.value("#ticker").await.unwrap(), "AAPL");
        browser.press("Tab").await.unwrap();
        assert_eq!(browser.evaluate::<String>("document.activeElement.id").await.unwrap(), "day");
        browser.fill("#day", "2024-08-25").await.unwrap();
        assert_eq!(heard().await, "day 2024-08-25");
        browser.press("Shift+Tab").await.unwrap();
        assert_eq!((heard().await.as_str(), browser.evaluate::<String>("document.activeElement.id").await.unwrap().as_str()), ("shift Tab", "ticker"));
        browser.press("/").await.unwrap();
        assert_eq!(heard().await, "/");

        assert_eq!(browser.text("svg text").await.unwrap(), "in a picture");
        assert_eq!(browser.attributes("svg rect", "aria-label").await.unwrap(), ["Volume: 7"]);
        assert!(browser.text("p[hidden]").await.unwrap_err().to_string().contains("nothing to be seen of p[hidden]"));
        browser.click("a").await.unwrap();
        assert_eq!(browser.url().await.unwrap(), site.url("/#there"));
        for missing in [browser.click("#missing").await, browser.fill("#missing", "x").await, browser.select("#missing", "x").await] {
            assert!(format!("{:#}", missing.unwrap_err()).contains("#missing"));
        }
        assert!(browser.evaluate::<u32>("missing.thing").await.is_err() && browser.evaluate::<u32>("'text'").await.is_err());
        assert_eq!(browser.evaluate::<u32>("new Promise(done => setTimeout(() => done(7), 50))").await.unwrap(), 7);
    });
}

const LIVE_JS: &str = "const say = (id, text) => document.getElementById(id).textContent = text;
    let connections = 0;
    const events = new EventSource('/events');
    events.onopen = () => { say('state', 'live'); say('connections', ++connections) };
    events.onerror = () => say('state', 'away');
    events.onmessage = ({data}) => say('last', data);";

#[test]
fn a_page_that_lives_is_waited_for_and_connects_again() {
    with_browser(async |browser| {
        let body = "<p id=state>new</p><p id=connections>0</p><p id=last>0</p><script src=/live.js></script>";
        let pages = || {
            files().route("/", get(async move || page(body))).route("/live.js", file("text/javascript", LIVE_JS)).route("/events", get(async || site::events()))
        };
        let site = Site::start(pages()).await;
        browser.goto(&site.url("/")).await.unwrap();
        let seen = async |browser: &Browser, state: &str, connections: &str| {
            let seen = (browser.text("#state").await?, browser.text("#connections").await?);
            ensure!(seen == (state.to_owned(), connections.to_owned()), "{seen:?}");
            Ok(())
        };
        browser.until("the first connection", within(5), async |browser| seen(browser, "live", "1").await).await;
        browser
            .until("the third event", within(5), async |browser| {
                let last: u32 = browser.text("#last").await?.parse()?;
                ensure!(last >= 3, "{last}");
                Ok(())
            })
            .await;
        let address = site.address;
        drop(site);
        browser.until("the page to say so", within(5), async |browser| seen(browser, "away", "1").await).await;
        let _again = Site::start_at(address, pages()).await;
        browser.until("the second connection", within(10), async |browser| seen(browser, "live", "2").await).await;
        assert!(browser.console().await.unwrap().iter().all(|error| error.starts_with("network: ")), "a lost connection is an error of the console");
    });
}

#[test]
fn what_does_not_come_ends_the_test_and_the_browser() {
    let pids = Mutex::new(Vec::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        with_browser(async |browser| {
            *pids.lock().unwrap() = browser.pids();
            let site = Site::start(files().route("/", get(async || page("<p id=says>something else</p>")))).await;
            browser.goto(&site.url("/")).await.unwrap();
            browser
                .until("what never comes", within(1), async |browser| {
                    let says = browser.text("#says").await?;
                    ensure!(says == "it", "the page says {says:?}");
                    Ok(())
                })
                .await;
        });
    }));
    let panic = outcome.unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.starts_with("waited 1s in vain for what never comes"), "{message}");
    assert!(message.ends_with("last seen: the page says \"something else\""), "{message}");
    let picture = std::env::temp_dir().join("tapeline-e2e/what-never-comes.png");
    assert_eq!(size_of_png(&std::fs::read(picture).unwrap()).0, 1440);

    let pids = pids.into_inner().unwrap();
    assert!(pids.len() >= 2, "{pids:?}");
    // Of a process that has ended nothing is left to read.
    let left: Vec<_> = pids.iter().filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())).collect();
    assert!(left.is_empty(), "{left:?} of {pids:?} still run");
}

#[test]
fn where_nobody_answers_no_page_is_opened() {
    with_browser(async |browser| {
        let site = Site::start(files()).await;
        let url = site.url("/");
        drop(site);
        let refused = async |browser: &Browser| {
            let error = format!("{:#}", browser.goto(&url).await.err().ok_or_else(|| anyhow::anyhow!("somebody answers"))?);
            ensure!(error.contains(&url) && error.contains("ERR_CONNECTION_REFUSED"), "{error}");
            Ok(())
        };
        browser.until("to be refused", within(5), async |browser| refused(browser).await).await;
    });
}
