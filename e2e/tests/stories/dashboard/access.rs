//! Who may see a dashboard, and where.

use std::collections::BTreeSet;

use anyhow::ensure;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tapeline_e2e::browser::{Browser, Theme, Viewport};
use tapeline_e2e::{eventually, story, within};

use super::page::{self, Dashboard, trade};

#[test]
fn everything_is_below_the_base_path() {
    story(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |spec| spec["basePath"] = json!("/stock-volume")).await;
        dashboard.send(&[trade(1, "XOM", "Energy", 50), trade(2, "JPM", "Financials", 200)]).await;
        dashboard.until_stored(2).await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        for path in ["/stock-volume", "/stock-volume/"] {
            browser.goto(&dashboard.url(path)).await.unwrap();
            assert_eq!(browser.url().await.unwrap(), dashboard.url("/stock-volume/"));
            page::is_live(&browser, 15).await;
            browser.until("the chart", within(15), async |browser| page::has(browser, "Financials", 200).await).await;
        }
        browser.select("#filter-sector", "Energy").await.unwrap();
        browser
            .until("only the rows that pass the filter", within(10), async |browser| {
                page::has(browser, "Energy", 50).await?;
                let rows = page::rows(browser).await?;
                ensure!(rows.len() == 1, "{rows:?}");
                Ok(())
            })
            .await;
        assert_eq!(browser.url().await.unwrap(), dashboard.url("/stock-volume/?sector=Energy"));

        let mut links = BTreeSet::new();
        let topic = format!("/topics/{}", world.topic("trading_data"));
        for path in ["/", "/overview", "/queries", "/queries/volume", "/data", "/data/mysql/profile", topic.as_str()] {
            browser.goto(&dashboard.url(&format!("/stock-volume{path}"))).await.unwrap();
            page::is_live(&browser, 15).await;
            page::is_settled(&browser).await;
            links.extend(page::links(&browser).await.unwrap());
        }
        assert!(links.len() > 20, "{links:?}");
        for link in &links {
            let path = link.strip_prefix(&dashboard.url("")).unwrap_or_else(|| panic!("{link} is elsewhere"));
            assert!(path.starts_with("/stock-volume/"), "{path} is not below the base path");
            dashboard.until_shown(path).await;
        }
        // An ingress brings nothing else here.
        let beside: Vec<String> = browser.requests().await.unwrap().into_iter().filter(|url| !url.starts_with(&dashboard.url("/stock-volume"))).collect();
        assert!(beside.is_empty(), "{beside:?}");
        page::is_clean(&browser, &dashboard).await;
    });
}

/// Checks that nobody with these headers sees anything.
async fn is_refused(dashboard: &Dashboard<'_>, headers: &[(&str, &str)], statuses: &[u16]) {
    for path in ["/", "/overview", "/events?page=charts", "/api/v1/charts/volume/data.json", "/api/v1/charts/volume/data.csv", "/data/mysql/aggregated_data"] {
        let (status, text) = dashboard.answer(path, headers).await.unwrap();
        assert!(statuses.contains(&status) && !text.contains("Energy"), "{path}: {status} {text}");
    }
}

#[test]
fn a_password_is_asked_for() {
    story(async |world| {
        let dashboard = Dashboard::begun(world, |pipeline| {
            let mut spec = page::volume_by_sector();
            spec["auth"] = json!({"passwordSecretRef": {"name": "dashboard"}});
            pipeline.set("/spec/dashboard", spec);
        });
        let dashboard = dashboard.await;
        dashboard.pipeline.until_condition("DashboardReady", "False", within(60)).await;
        dashboard.pipeline.until_condition("WorkersReady", "True", within(180)).await;
        dashboard.send(&[trade(1, "XOM", "Energy", 50)]).await;
        dashboard.until_stored(1).await;
        is_refused(&dashboard, &[], &[401, 503]).await;
        world.say("nobody sees anything before there is a password");

        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dashboard"}, "stringData": {"username": "ann", "password": "s3cret"}});
        world.apply(&[secret]).await.unwrap();
        let basic = |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("ann:{password}")));
        let (right, wrong) = (basic("s3cret"), basic("secret"));
        let (right, wrong) = ([("authorization", right.as_str())], [("authorization", wrong.as_str())]);
        eventually("those who know it to see the rows", within(180), async || {
            let (status, text) = dashboard.answer("/", &right).await?;
            ensure!(status == 200 && text.contains("Energy"), "{status}: {text}");
            Ok(())
        })
        .await;
        // Also the pod of before, which may still answer, has let nobody in.
        dashboard.pipeline.until_ready(within(120)).await;
        eventually("only the new pod to answer", within(60), async || {
            for _ in 0..5 {
                let (status, text) = dashboard.answer("/", &[]).await?;
                ensure!(status == 401, "{status}: {text}");
            }
            Ok(())
        })
        .await;
        is_refused(&dashboard, &[], &[401]).await;
        is_refused(&dashboard, &wrong, &[401]).await;

        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        browser.goto(&dashboard.url_as("ann", "s3cret")).await.unwrap();
        // A script may not fetch by an address with a password, as this page's is. The browser knows it from now on.
        browser.goto("about:blank").await.unwrap();
        browser.forget().await.unwrap();
        browser.goto(&dashboard.url("/")).await.unwrap();
        page::is_live(&browser, 15).await;
        browser.until("the chart", within(15), async |browser| page::has(browser, "Energy", 50).await).await;
        page::is_clean(&browser, &dashboard).await;
    });
}

#[test]
fn a_proxy_says_who_is_there() {
    story(async |world| {
        let header = json!({"header": {"name": "X-Forwarded-User", "users": ["ann"]}});
        let dashboard = Dashboard::of_stock_volume(world, |spec| spec["auth"] = header).await;
        dashboard.send(&[trade(1, "XOM", "Energy", 50)]).await;
        dashboard.until_stored(1).await;
        is_refused(&dashboard, &[], &[401]).await;
        is_refused(&dashboard, &[("x-forwarded-user", "eve")], &[403]).await;
        let (status, text) = dashboard.answer("/", &[("x-forwarded-user", "ann")]).await.unwrap();
        assert!(status == 200 && text.contains("Energy"), "{status}: {text}");

        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        browser.headers(&[("X-Forwarded-User", "ann")]).await.unwrap();
        browser.goto(&dashboard.url("/")).await.unwrap();
        page::is_live(&browser, 15).await;
        browser.until("the chart", within(15), async |browser| page::has(browser, "Energy", 50).await).await;
        page::is_clean(&browser, &dashboard).await;
    });
}
