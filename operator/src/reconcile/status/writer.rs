//! The one writer of statuses. The reconcile and the observer both change parts of a status; each change is a function over the newest status, run under one
//! lock per pipeline, and the result is sent as a whole, if it differs. So neither ever overwrites the other with something older.
//!
//! Newest: what this process wrote last, unless the cache has a later resourceVersion (comparable since Kubernetes 1.35). Without it a reconcile that starts
//! right after a write would decide on the status before it. A merge patch, since it takes fields away by null and does not fail on a definition that lacks
//! one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tapeline_api::{FIELD_MANAGER, TradingPipeline, TradingPipelineStatus};
use tokio::sync::Mutex as AsyncMutex;

use crate::context::Context;
use crate::reconcile::{Error, Target};

/// A status before and after it was written.
#[derive(Debug)]
pub struct Written {
    /// Before.
    pub before: TradingPipelineStatus,
    /// After.
    pub after: TradingPipelineStatus,
}

#[derive(Debug)]
struct Known {
    version: u64,
    status: TradingPipelineStatus,
}

type Slot = Arc<AsyncMutex<Option<Known>>>;

/// Writes statuses of pipelines.
#[derive(Debug, Default)]
pub struct StatusWriter(Mutex<HashMap<String, Slot>>);

impl StatusWriter {
    /// The newest status of a pipeline.
    pub async fn current(&self, target: &Target) -> TradingPipelineStatus {
        let slot = self.slot(&target.uid);
        let known = slot.lock().await;
        newest(known.as_ref(), &target.pipeline)
    }

    /// Changes the newest status by `change` and writes it, if that made a difference.
    ///
    /// # Errors
    /// When it cannot be written. A pipeline that is gone is none.
    pub async fn update(&self, shared: &Context, target: &Target, change: impl FnOnce(&mut TradingPipelineStatus)) -> Result<Option<Written>, Error> {
        let slot = self.slot(&target.uid);
        let mut known = slot.lock().await;
        let before = newest(known.as_ref(), &target.pipeline);
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(None);
        }
        let api: Api<TradingPipeline> = Api::namespaced(shared.client.clone(), &target.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let body = patch(&target.uid, &before, &after).map_err(Error::Status)?;
        let result = api.patch_status(&target.name, &params, &Patch::Merge(&body)).await;
        shared.metrics.wrote("status", result.is_ok());
        match result {
            Ok(written) => {
                *known = version(&written).map(|version| Known { version, status: after.clone() });
                Ok(Some(Written { before, after }))
            }
            // Gone, or another of the same name is there now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(source) => Err(Error::Write { what: "the status", source }),
        }
    }

    /// A pipeline is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn slot(&self, uid: &str) -> Slot {
        Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default())
    }
}

/// The time as conditions have it: whole seconds, so that it equals what comes back.
#[must_use]
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn newest(known: Option<&Known>, pipeline: &TradingPipeline) -> TradingPipelineStatus {
    match known {
        Some(known) if version(pipeline).is_none_or(|cached| cached <= known.version) => known.status.clone(),
        _ => pipeline.status.clone().unwrap_or_default(),
    }
}

fn version(pipeline: &TradingPipeline) -> Option<u64> {
    pipeline.metadata.resource_version.as_ref()?.parse().ok()
}

/// The whole status; what it had before and has no longer is null. The uid makes it fail on an object that was created anew under the name.
fn patch(uid: &str, before: &TradingPipelineStatus, after: &TradingPipelineStatus) -> Result<Value, serde_json::Error> {
    let (before, mut after) = (object(before)?, object(after)?);
    for key in before.keys() {
        after.entry(key.clone()).or_insert(Value::Null);
    }
    Ok(json!({"metadata": {"uid": uid}, "status": after}))
}

fn object(status: &TradingPipelineStatus) -> Result<Map<String, Value>, serde_json::Error> {
    Ok(match serde_json::to_value(status)? {
        Value::Object(members) => members,
        _ => Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(lag: Option<i64>) -> TradingPipelineStatus {
        TradingPipelineStatus { lag, ..TradingPipelineStatus::default() }
    }

    #[test]
    fn what_is_gone_is_null() {
        let body = patch("u", &status(Some(3)), &status(None)).unwrap();
        assert_eq!(body, json!({"metadata": {"uid": "u"}, "status": {"conditions": [], "lag": null}}));
    }

    #[test]
    fn the_later_of_own_write_and_cache_counts() {
        let mut pipeline = crate::reconcile::validate::tests::pipeline(crate::reconcile::validate::tests::good());
        pipeline.status = Some(status(Some(1)));
        let known = Known { version: 7, status: status(Some(2)) };
        for (cached, lag) in [("6", 2), ("7", 2), ("8", 1)] {
            pipeline.metadata.resource_version = Some(cached.to_owned());
            assert_eq!(newest(Some(&known), &pipeline).lag, Some(lag), "{cached}");
        }
    }
}
