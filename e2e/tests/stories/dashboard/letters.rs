//! Dead letters, with their way back.

use anyhow::ensure;
use serde_json::json;
use tapeline_e2e::browser::{Browser, Theme, Viewport};
use tapeline_e2e::{eventually, story, topic, within};

use super::page::{self, Dashboard};

/// An offset at which there is no letter: whoever may send letters is told so, all others are refused before.
const NOWHERE: &str = "partition=0&offset=999999999";

#[test]
fn dead_letters_are_sent_again_by_those_who_may() {
    story(async |world| {
        let dashboard = Dashboard::of_stock_volume(world, |spec| spec["allow"] = json!(["ReplayDeadLetters"])).await;
        let trades = world.topic("trading_data");
        topic::send(&world.kafka, &trades, None, &["this is no trade"]).await.unwrap();
        let browser = Browser::start(Viewport::Desktop, Theme::Light).await.unwrap();
        page::has_letters(&browser, &dashboard).await;
        browser.click(".message summary").await.unwrap();
        browser.click(".message form button").await.unwrap();
        browser
            .until("the page to say where it went", within(15), async |browser| {
                let said = browser.text(".note.ok").await?;
                ensure!(said.contains("was sent again"), "{said}");
                Ok(())
            })
            .await;
        page::is_clean(&browser, &dashboard).await;

        // Another site's page cannot, also in a browser that says no more than where the page is from.
        let replay = format!("{}/replay", dashboard.letters());
        eventually("a letter that is not there to be looked for", within(30), async || {
            let status = dashboard.post(&replay, NOWHERE, &[]).await;
            ensure!(status == 404, "{status}");
            Ok(())
        })
        .await;
        assert_eq!(dashboard.post(&replay, NOWHERE, &[("sec-fetch-site", "cross-site")]).await, 403);
        assert_eq!(dashboard.post(&replay, NOWHERE, &[("origin", "http://evil.example")]).await, 403);
        dashboard.forbid().await;
        eventually("nobody to be allowed any more", within(90), async || {
            let status = dashboard.post(&replay, NOWHERE, &[]).await;
            ensure!(status == 403, "{status}");
            Ok(())
        })
        .await;
        let sent: Vec<_> = topic::records(&world.kafka, &trades).await.unwrap().into_iter().filter_map(|record| record.payload).collect();
        assert_eq!(sent, [b"this is no trade".to_vec(), b"this is no trade".to_vec()], "once by the test, once by the page");
    });
}
