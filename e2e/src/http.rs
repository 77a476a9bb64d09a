//! Asking a pod or process for its `/status`.

use anyhow::Result;
use serde::de::DeserializeOwned;

/// What `url` answers, as JSON.
///
/// # Errors
/// Nobody answers, or something else.
pub async fn json<T: DeserializeOwned>(url: &str) -> Result<T> {
    // Built together with the producers, reqwest has TLS, and no client without whose cryptography it is. Done before is as good.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
}
