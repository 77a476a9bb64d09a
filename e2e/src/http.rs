//! Asking pods and processes of the test bed by HTTP.

use anyhow::Result;
use reqwest::ClientBuilder;
use serde::de::DeserializeOwned;

/// A client in the making, which talks to whom it is told and not to a proxy.
pub fn client() -> ClientBuilder {
    // Built together with the producers, reqwest has TLS, and no client without whose cryptography it is. Done before is as good.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

/// What `url` answers, as JSON.
///
/// # Errors
/// Nobody answers, or something else.
pub async fn json<T: DeserializeOwned>(url: &str) -> Result<T> {
    Ok(client().build()?.get(url).send().await?.error_for_status()?.json().await?)
}
