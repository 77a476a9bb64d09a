//! TLS to sources outside: ring, and the roots that browsers trust, which are compiled in since the image has no files but the program.

use std::sync::Arc;

use tapeline_api::report::ProblemClass;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::halt::{Halt, problem};

/// The settings of a client that shows no certificate of its own.
///
/// # Errors
/// [`Halt::Failed`] if the library does not accept them.
pub fn client() -> Result<ClientConfig, Halt> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Halt::Failed(problem(ProblemClass::Internal, format!("TLS cannot be set up: {error}"))))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
