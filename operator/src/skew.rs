//! Version skew: a definition older than the operator would silently drop fields of the status, a newer one would offer fields that nobody reads. The installed
//! definition says which schema it is; while it is another, the operator stays unready, says so, and does not reconcile.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};
use tapeline_api::crd::SCHEMA_HASH_ANNOTATION;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::Readiness;

/// The definition's name.
pub const CRD: &str = "tradingpipelines.tapeline.dev";
/// What readiness waits for until it is known to fit.
pub const WHAT: &str = "the definition tradingpipelines.tapeline.dev";
const LOOK_AGAIN: Duration = Duration::from_mins(1);
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(3);

/// What the installed definition is to this operator.
#[derive(Debug, PartialEq, Eq)]
enum Installed {
    Same,
    /// In words.
    Unfit(String),
}

/// Looks at the installed definition until `stop`, and says on `fits` whether it is this program's.
pub async fn watch_definition(client: Client, built_hash: String, readiness: Readiness, fits: watch::Sender<bool>, stop: CancellationToken) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    let mut said = None;
    loop {
        let installed = match api.get_metadata_opt(CRD).await {
            Ok(found) => {
                let hash = found.map(|crd| crd.metadata.annotations.unwrap_or_default().remove(SCHEMA_HASH_ANNOTATION));
                Some(judge(hash.as_ref().map(Option::as_deref), &built_hash))
            }
            // Not an answer: what was known stays.
            Err(error) => {
                tracing::warn!(%error, "cannot read the definition {CRD}");
                None
            }
        };
        match &installed {
            Some(Installed::Same) => {
                readiness.is_there(WHAT);
                fits.send_if_modified(|fits| !std::mem::replace(fits, true));
            }
            Some(Installed::Unfit(why)) => {
                readiness.wait_for(WHAT, why.clone());
                fits.send_if_modified(|fits| std::mem::replace(fits, false));
                if said.as_ref() != Some(why) {
                    tracing::error!("{WHAT}: {why}");
                    said = Some(why.clone());
                }
            }
            None => {}
        }
        let pause = if installed == Some(Installed::Same) { LOOK_AGAIN } else { LOOK_AGAIN_SOON };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// `installed`: none when there is no definition, then its annotation.
fn judge(installed: Option<Option<&str>>, built: &str) -> Installed {
    match installed {
        Some(Some(hash)) if hash == built => Installed::Same,
        None => Installed::Unfit(
            "it is not installed; install the chart with crds.install=true, or `kubectl apply --server-side -f crds/tradingpipelines.yaml`".to_owned(),
        ),
        Some(hash) => Installed::Unfit(format!(
            "its schema is {}, this operator was built with {built}; install the definition of this version (`kubectl apply --server-side -f crds/tradingpipelines.yaml`) \
             or the operator that belongs to it",
            hash.unwrap_or("of unknown origin")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_schema_fits() {
        assert_eq!(judge(Some(Some("a")), "a"), Installed::Same);
        for other in [None, Some(None), Some(Some("b"))] {
            assert!(matches!(judge(other, "a"), Installed::Unfit(_)), "{other:?}");
        }
    }
}
