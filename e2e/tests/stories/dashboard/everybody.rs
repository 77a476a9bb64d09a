//! Each page, for whoever comes with whatever.

use tapeline_e2e::browser::{Browser, Theme, Viewport};
use tapeline_e2e::{story, topic};

use super::page::{self, Dashboard, trade};

#[test]
fn every_page_is_for_everybody() {
    story(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |_| {}).await;
        dashboard.send(&[trade(1, "AAPL", "Information Technology", 700), trade(2, "XOM", "Energy", 50), trade(3, "JPM", "Financials", 200)]).await;
        topic::send(&world.kafka, &world.topic("trading_data"), None, &["this is no trade"]).await.unwrap();
        dashboard.until_stored(3).await;
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        page::has_letters(&browser, &dashboard).await;
        let (letters, trades) = (dashboard.letters(), format!("/topics/{}", world.topic("trading_data")));
        let pages = [
            ("charts", "/"),
            ("overview", "/overview"),
            ("queries", "/queries"),
            ("query", "/queries/volume"),
            ("data", "/data"),
            ("table", "/data/cassandra/real_time_data"),
            ("topic", trades.as_str()),
            ("dead-letters", letters.as_str()),
        ];
        for (_, path) in pages {
            dashboard.until_shown(path).await;
        }
        for viewport in Viewport::ALL {
            for theme in Theme::ALL {
                browser.emulate(viewport, theme).await.unwrap();
                for (name, path) in pages {
                    browser.goto(&dashboard.url(path)).await.unwrap();
                    page::is_live(&browser, 15).await;
                    page::is_settled(&browser).await;
                    let violations = browser.axe().await.unwrap();
                    assert!(violations.is_empty(), "{name}, {viewport:?}, {theme:?}: {violations:#?}");
                    assert_eq!(browser.overflow().await.unwrap(), 0, "{name} is wider than its window, {viewport:?}");
                    page::keep_screenshot(&browser, name, viewport, theme).await;
                    page::is_clean(&browser, &dashboard).await;
                }
            }
        }
        without_scripts(&browser, &dashboard).await;
    });
}

/// Pages are whole without JavaScript.
async fn without_scripts(browser: &Browser, dashboard: &Dashboard<'_>) {
    browser.without_javascript().await.unwrap();
    browser.goto(&dashboard.url("/")).await.unwrap();
    assert_eq!(page::rows(browser).await.unwrap(), dashboard.volumes().await.unwrap());
    page::has_letters(browser, dashboard).await;
    browser.goto(&dashboard.url("/overview")).await.unwrap();
    let conditions = browser.texts("#conditions .type").await.unwrap();
    assert!(conditions.contains(&"Ready".to_owned()), "{conditions:?}");
}
