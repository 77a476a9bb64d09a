//! The harness for browsers itself: what it is to notice is planted on small pages. It needs Chromium (`testbed/install.sh browser`), and no server of the test bed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod looking;
mod measuring;
mod noticing;
mod site;

use tapeline_e2e::bed::block_on;
use tapeline_e2e::{Browser, Theme, Viewport};

/// Runs `test` with a browser on a desk, by day.
fn with_browser(test: impl AsyncFnOnce(Browser)) {
    block_on(async { test(Browser::start(Viewport::Desktop, Theme::Light).await.unwrap()).await });
}
