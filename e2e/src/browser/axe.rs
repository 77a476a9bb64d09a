//! What people with a screen reader, without a mouse or with weak eyes cannot use, as axe-core finds it.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::Browser;

/// See `e2e/assets/README.md`.
const AXE: &str = include_str!("../../assets/axe-core/axe.min.js");

/// All rules of axe-core, which are those of WCAG 2 and its best practices.
const RUN: &str = "return axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(({id, impact, help, nodes}) => ({
    rule: id, impact, help,
    elements: nodes.map(node => `${node.target.join(' ')} ${node.html.slice(0, 200)} ${[...node.any, ...node.all, ...node.none].map(check => check.message).join('; ')}`),
})))";

/// A rule that the page breaks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Violation {
    /// axe's name of the rule, such as `color-contrast`.
    pub rule: String,
    /// How much it hinders people: `minor`, `moderate`, `serious` or `critical`.
    pub impact: Option<String>,
    /// What should be so.
    pub help: String,
    /// Where it is not so, each with its selector, its HTML and what is missing.
    pub elements: Vec<String>,
}

impl Browser {
    /// What axe-core finds on the page as it is, of impact serious or critical. It is brought in by the DevTools protocol, which no Content-Security-Policy concerns.
    ///
    /// # Errors
    /// axe-core does not run: the page has no JavaScript, or is none.
    pub async fn axe(&self) -> Result<Vec<Violation>> {
        ensure!(self.has_javascript(), "axe-core is JavaScript, and this browser has none");
        self.settle().await?;
        let is_there: bool = self.run("return typeof axe === 'object'", json!([])).await?;
        if !is_there {
            self.devtools("Runtime.evaluate", json!({"expression": AXE})).await.context("bringing axe-core into the page")?;
        }
        let violations: Vec<Violation> = self.run(RUN, json!([])).await.context("running axe-core")?;
        Ok(violations.into_iter().filter(|found| matches!(found.impact.as_deref(), Some("serious" | "critical"))).collect())
    }
}
