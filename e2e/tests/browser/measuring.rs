//! What a page weighs, and what many of them take.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::ensure;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tapeline_e2e::bed::block_on;
use tapeline_e2e::pages::Visit;
use tapeline_e2e::within;

use crate::site::{self, Site, file, files, page};
use crate::with_browser;

/// A style of 100 kB without which nothing is painted, and a script of 500 kB that comes when something was.
#[test]
fn bytes_count_until_the_first_paint() {
    with_browser(async |browser| {
        let style = format!("/* {} */", "x".repeat(100_000));
        let late = format!("/* {} */ document.getElementById('state').textContent = 'complete'", "x".repeat(500_000));
        let loader = "setTimeout(() => { const late = document.createElement('script'); late.src = '/late.js'; document.body.append(late) }, 1000)";
        let body = "<link rel=stylesheet href=/large.css><p id=state>begun</p><script src=/loader.js></script>";
        let pages = files().route("/", get(async move || page(body))).route("/large.css", file("text/css", style));
        let site = Site::start(pages.route("/loader.js", file("text/javascript", loader)).route("/late.js", file("text/javascript", late))).await;
        browser.goto(&site.url("/")).await.unwrap();
        let at_once = browser.first_paint().await.unwrap();
        assert_eq!(at_once.loaded[0].0, site.url("/"));
        assert!((100_000..110_000).contains(&at_once.bytes()), "{at_once:?}");
        assert!(at_once.after < Duration::from_secs(1), "{at_once:?}");
        browser
            .until("the late script", within(10), async |browser| {
                let state = browser.text("#state").await?;
                ensure!(state == "complete", "{state}");
                Ok(())
            })
            .await;
        assert!(browser.requests().await.unwrap().contains(&site.url("/late.js")));
        assert_eq!(browser.bytes_until_first_paint().await.unwrap(), at_once.bytes(), "what came later does not count");
    });
}

fn live() -> axum::Router {
    files().route("/", get(async || page("<p>live</p>"))).route("/events", get(async || site::events()))
}

#[test]
fn many_pages_receive_events() {
    block_on(async {
        let site = Site::start(live()).await;
        let visit = Visit::new(&site.url("/"), 50, Duration::from_secs(4), &["/", "/page.css"], "/events").unwrap();
        let pages = visit.open().await.unwrap();
        assert_eq!(pages.len(), 50);
        for page in &pages {
            assert_eq!((page.answers, page.connections, page.failures.len()), (2, 1, 0), "{page:?}");
            // One each 100 ms, of which the last page to be opened had three seconds.
            assert!((15..=41).contains(&page.events), "{page:?}");
        }
        assert_eq!(site.asked().iter().filter(|path| *path == "/events").count(), 50);

        let nothing = Visit::new(&site.url("/"), 1, Duration::from_secs(1), &["/missing"], "/page.css").unwrap().open().await.unwrap();
        assert!(nothing[0].failures[0].contains("404") && nothing[0].failures[1].contains("not events"), "{nothing:?}");
    });
}

async fn rows(headers: HeaderMap) -> Response {
    let is_known = headers.get(IF_NONE_MATCH).is_some_and(|etag| etag == "\"1\"");
    if is_known { StatusCode::NOT_MODIFIED.into_response() } else { ([(ETAG, "\"1\"")], "[{\"n\": 1}]").into_response() }
}

#[test]
fn pages_fetch_rows_that_they_are_told_of_and_do_not_have() {
    block_on(async {
        let twice = "event: data\ndata: {\"source\": \"v\"}\n\n".repeat(2);
        let site = Site::start(files().route("/events", file("text/event-stream", twice)).route("/api/v1/charts/v/data.json", get(rows))).await;
        let pages = Visit::new(&site.url("/"), 1, Duration::from_secs(1), &[""; 0], "events?page=charts").unwrap().open().await.unwrap();
        assert_eq!((pages[0].events, pages[0].failures.len()), (2, 0), "{pages:?}");
        assert_eq!(pages[0].rows.iter().map(|(_, rows)| rows.as_str()).collect::<Vec<_>>(), ["[{\"n\": 1}]"]);
        assert_eq!(site.asked(), ["/events", "/api/v1/charts/v/data.json", "/api/v1/charts/v/data.json"]);
    });
}

fn many_pages(arguments: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_many-pages")).args(arguments).output().unwrap();
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[test]
fn the_program_says_what_they_received_and_took() {
    let site = block_on(Site::start(live()));
    let (pid, url) = (std::process::id().to_string(), site.url(""));
    let (fine, said) = many_pages(&["--url", &url, "--pages", "10", "--seconds", "3", "--get", "/", "--get", "/page.css", "--pid", &pid]);
    assert!(fine, "{said}");
    for part in ["10 pages at http://127.0.0.1:", "20 answers", "10 times", " events each", "% of a processor", "MB at most since it began"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    let (fine, said) = many_pages(&["--url", &url, "--pages", "2", "--seconds", "1", "--events", "missing"]);
    assert!(!fine && said.contains("FAILED 2 times:") && said.contains("404"), "{said}");
}

#[test]
fn the_program_goes_nowhere_else() {
    for (arguments, problem) in [
        (["--url", "http://192.0.2.1", "--pages", "1"], "neither on this machine nor on the test bed"),
        (["--url", "http://127.0.0.1", "--pages", "1001"], "give 1 to 1000"),
        (["--url", "http://127.0.0.1", "--seconds", "601"], "give up to 600s"),
    ] {
        let (fine, said) = many_pages(&arguments);
        assert!(!fine && said.contains(problem), "{said}");
    }
}
