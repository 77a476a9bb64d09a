//! What nobody sees on a page, but should.

use anyhow::ensure;
use axum::http::HeaderMap;
use axum::routing::get;
use sha2::{Digest as _, Sha256};
use tapeline_e2e::{command, within};

use crate::site::{self, Site, file, files, lax_page, page};
use crate::with_browser;

const FINE: &str = "<p>Nothing is wrong with it.</p><img src=/icon.svg alt='a picture'><script src=/fine.js></script>";

fn fine() -> axum::Router {
    files().route("/", get(async || page(FINE))).route("/fine.js", file("text/javascript", "console.warn('slow'); document.title = 'Fine'"))
}

#[test]
fn a_page_without_fault_gives_no_alarm() {
    with_browser(async |browser| {
        let site = Site::start(fine()).await;
        browser.goto(&site.url("/")).await.unwrap();
        assert_eq!(browser.evaluate::<String>("document.title").await.unwrap(), "Fine");
        let hinders = browser.axe().await.unwrap();
        assert!(hinders.is_empty(), "{hinders:#?}");
        assert_eq!(browser.console().await.unwrap(), [""; 0], "a warning is no error, and axe-core runs under any policy");
        assert_eq!(browser.requests_beyond(&site.url("/")).await.unwrap(), [""; 0]);
        let mut asked = browser.requests().await.unwrap();
        asked.sort();
        asked.dedup();
        assert_eq!(asked, ["/", "/fine.js", "/icon.svg", "/page.css"].map(|path| site.url(path)));
    });
}

#[test]
fn errors_of_the_console_are_seen() {
    with_browser(async |browser| {
        let script = "console.error('said', {so: 1}); setTimeout(() => nobody.catches()); Promise.reject(new Error('unhandled'));";
        let body = "<script src=/script.js></script><script>inline()</script><img src=/missing.png alt=missing>";
        let site = Site::start(files().route("/", get(async || page(body))).route("/script.js", file("text/javascript", script))).await;
        browser.goto(&site.url("/")).await.unwrap();
        let expected = [
            ("console-api: ", "said"),
            ("javascript: ", "nobody is not defined"),
            ("javascript: ", "Error: unhandled"),
            ("network: ", "404"),
            ("security: ", "Executing inline script violates the following Content Security Policy directive"),
        ];
        let errors = browser
            .until("five errors", within(5), async |browser| {
                let errors = browser.console().await?;
                ensure!(errors.len() >= expected.len(), "{errors:#?}");
                Ok(errors)
            })
            .await;
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (source, text) in expected {
            assert!(errors.iter().any(|error| error.starts_with(source) && error.contains(text)), "no {source}{text} in {errors:#?}");
        }
        browser.forget().await.unwrap();
        assert_eq!(browser.console().await.unwrap(), [""; 0]);
        browser.reload().await.unwrap();
        browser
            .until("errors again", within(5), async |browser| {
                let errors = browser.console().await?;
                ensure!(errors.len() == expected.len(), "{errors:#?}");
                Ok(())
            })
            .await;
    });
}

#[test]
fn requests_to_somewhere_else_are_seen() {
    with_browser(async |browser| {
        let other = Site::start(files().route("/x.png", file("image/png", ""))).await;
        let script = format!("fetch('{}').catch(() => {{}}); new WebSocket('ws://{}/socket')", other.url("/fetched"), other.address);
        let body = format!("<img src={} alt=elsewhere><script src=/script.js></script>", other.url("/x.png"));
        let strict = body.clone();
        let pages = files().route("/lax", get(async move || lax_page(&body))).route("/strict", get(async move || page(&strict)));
        let site = Site::start(pages.route("/script.js", file("text/javascript", script))).await;

        browser.goto(&site.url("/strict")).await.unwrap();
        assert_eq!(browser.requests_beyond(&site.url("/")).await.unwrap(), [""; 0], "what the policy refuses does not leave");
        assert!(browser.console().await.unwrap().len() >= 3);
        assert_eq!(other.asked(), [""; 0]);

        browser.goto(&site.url("/lax")).await.unwrap();
        let expected = [other.url("/fetched"), format!("ws://{}/socket", other.address), other.url("/x.png")];
        browser
            .until("three requests", within(5), async |browser| {
                let mut beyond = browser.requests_beyond(&site.url("/")).await?;
                beyond.sort_by_key(|url| url.rsplit_once('/').unwrap().1.to_owned());
                ensure!(beyond == expected, "{beyond:?}");
                Ok(())
            })
            .await;
        assert!(other.asked().contains(&"/x.png".to_owned()));
    });
}

#[test]
fn names_are_not_looked_up() {
    with_browser(async |browser| {
        let site = Site::start(files().route("/", get(async || lax_page("<img src=http://example.com/x.png alt=elsewhere>")))).await;
        browser.goto(&site.url("/")).await.unwrap();
        assert_eq!(browser.requests_beyond(&site.url("/")).await.unwrap(), ["http://example.com/x.png"]);
        let errors = browser.console().await.unwrap();
        assert!(errors.iter().any(|error| error.contains("ERR_NAME_NOT_RESOLVED")), "{errors:?}");
    });
}

#[test]
fn what_hinders_people_is_found() {
    with_browser(async |browser| {
        let body = "<img src=/icon.svg><p class=faint>Who can read this?</p><p class=tall>.</p>";
        let site = Site::start(files().route("/", get(async || page(body)))).await;
        browser.goto(&site.url("/")).await.unwrap();
        let found = browser.axe().await.unwrap();
        let rules: Vec<(&str, &str)> = found.iter().map(|violation| (violation.rule.as_str(), violation.impact.as_deref().unwrap())).collect();
        assert_eq!(rules, [("color-contrast", "serious"), ("image-alt", "critical")], "{found:#?}");
        assert!(found[0].elements[0].contains("Who can read this?") && found[0].elements[0].contains("contrast"), "{found:#?}");
        assert_eq!(browser.axe().await.unwrap(), found, "it can be asked again");
    });
}

#[test]
fn a_page_can_be_looked_at_without_javascript() {
    with_browser(async |browser| {
        let body =
            "<p id=script>No script has run.</p><noscript><p id=without>It works without.</p></noscript><a href=/next>next</a><script src=/script.js></script>";
        let pages = files().route("/", get(async move || page(body))).route("/next", get(async || page("<p id=next>The next page.</p>")));
        let site = Site::start(pages.route("/script.js", file("text/javascript", "document.getElementById('script').textContent = 'A script has run.'"))).await;
        browser.goto(&site.url("/")).await.unwrap();
        assert_eq!(browser.text("#script").await.unwrap(), "A script has run.");
        assert_eq!(browser.texts("#without").await.unwrap(), [""; 0]);

        browser.without_javascript().await.unwrap();
        browser.goto(&site.url("/")).await.unwrap();
        assert_eq!(browser.text("#script").await.unwrap(), "No script has run.");
        assert_eq!(browser.text("#without").await.unwrap(), "It works without.");
        let picture = tempfile::tempdir().unwrap();
        browser.screenshot(picture.path().join("without.png")).await.unwrap();
        assert!(browser.axe().await.unwrap_err().to_string().contains("JavaScript"));
        browser.click("a").await.unwrap();
        assert_eq!(browser.text("#next").await.unwrap(), "The next page.");
    });
}

#[test]
fn headers_are_sent_with_each_request() {
    with_browser(async |browser| {
        let site = Site::start(files().route("/", get(async |headers: HeaderMap| site::who(&headers)))).await;
        browser.goto(&site.url("/")).await.unwrap();
        assert!(browser.text("#user").await.is_err());
        browser.headers(&[("X-Forwarded-User", "ann")]).await.unwrap();
        browser.goto(&site.url("/")).await.unwrap();
        assert_eq!(browser.text("#user").await.unwrap(), "ann");
    });
}

/// It is that of npm, unchanged.
#[test]
fn axe_core_is_the_file_that_is_written_down() {
    let assets = command::repository().join("e2e/assets");
    let sum: String = Sha256::digest(std::fs::read(assets.join("axe-core/axe.min.js")).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    let written = std::fs::read_to_string(assets.join("README.md")).unwrap();
    assert!(written.contains(&format!("`{sum}`")), "e2e/assets/README.md does not have {sum}");
}
