//! What is away is said, and comes back by itself.

use anyhow::ensure;
use tapeline_e2e::browser::{Browser, Theme, Viewport};
use tapeline_e2e::servers::Server;
use tapeline_e2e::{story, story_alone, within};

use super::page::{self, Dashboard, trade};

#[test]
fn a_killed_dashboard_comes_back_and_its_pages_with_it() {
    story(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |_| {}).await;
        dashboard.send(&[trade(1, "XOM", "Energy", 50)]).await;
        let browser = Browser::start(Viewport::Phone, Theme::Dark).await.unwrap();
        browser.goto(&dashboard.url("/")).await.unwrap();
        page::is_live(&browser, 30).await;
        dashboard.process().await.kill().unwrap();
        goes_on(&browser, &dashboard, 2, 150).await;
        world.say("its pages go on after its process was killed");
        dashboard.delete_pod().await;
        goes_on(&browser, &dashboard, 3, 250).await;
        world.say("and after its pod was deleted");
    });
}

/// The page says that the connection is lost, finds the dashboard again and has the next trade of 100.
async fn goes_on(browser: &Browser, dashboard: &Dashboard<'_>, id: i64, volume: i64) {
    page::says(browser, "reconnecting", 30).await;
    page::is_live(browser, 90).await;
    // A connection that is lost or refused is an error of the console.
    browser.forget().await.unwrap();
    dashboard.send(&[trade(id, "XOM", "Energy", 100)]).await;
    browser.until("chart and table to go on by themselves", within(30), async |browser| page::has(browser, "Energy", volume).await).await;
    page::is_clean(browser, dashboard).await;
}

#[test]
fn a_stopped_mysql_is_said_on_the_dashboard_and_heals() {
    story_alone(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |_| {}).await;
        dashboard.send(&[trade(1, "XOM", "Energy", 50)]).await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        browser.goto(&dashboard.url("/")).await.unwrap();
        let shows = async |browser: &Browser, volume: i64, trouble: Option<&str>| {
            page::has(browser, "Energy", volume).await?;
            let said = browser.texts(".chart-card .badge.bad").await?;
            ensure!(said.first().map(String::as_str) == trouble, "{said:?}");
            Ok(())
        };
        let is_out = async |browser: &Browser| shows(browser, 50, Some("not up to date")).await;
        browser.until("the rows, fresh", within(60), async |browser| shows(browser, 50, None).await).await;
        let mysql = Server::MySql.stop().await.unwrap();
        browser.until("the page to say that they are not, with the rows still there", within(60), async |browser| is_out(browser).await).await;
        browser.goto(&dashboard.url("/")).await.unwrap();
        browser.until("a page that is opened now to say so, too", within(40), async |browser| is_out(browser).await).await;
        let (status, text) = dashboard.answer("/data/mysql/aggregated_data", &[]).await.unwrap();
        assert!(status == 502 && text.contains("This cannot be shown") && text.contains("MySQL"), "{status}: {text}");
        browser
            .until("their age to be told as old", within(120), async |browser| {
                let states = browser.attributes(".chart-card time[data-age]", "data-state").await?;
                ensure!(states == ["old"], "{states:?}");
                Ok(())
            })
            .await;
        mysql.start().await.unwrap();
        dashboard.send(&[trade(2, "XOM", "Energy", 100)]).await;
        browser.until("the page to be right again by itself", within(120), async |browser| shows(browser, 150, None).await).await;
        page::is_clean(&browser, &dashboard).await;
    });
}
