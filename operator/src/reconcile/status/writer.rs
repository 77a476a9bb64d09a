//! The one writer of statuses. The reconcile and the observer both change parts of a status; each change is a function over the newest status, run under one
//! lock per pipeline, and the result is sent as a whole, if it differs. So neither ever overwrites the other with something older.
//!
//! Newest: what this process wrote last, unless the cache has a later resourceVersion (comparable since Kubernetes 1.35). Without it a reconcile that starts
//! right after a write would decide on the status before it. A merge patch, since it takes fields away by null and does not fail on a definition that lacks
//! one. It carries the resourceVersion of the status that was changed: a process that was stopped for a while and does not know yet that another leads, or a
//! reconcile that began before the object was edited, writes nothing.

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
use crate::external::REQUEST_TIMEOUT;
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
        newest(known.as_ref(), &target.pipeline).0
    }

    /// Changes the newest status by `change` and writes it, if that made a difference.
    ///
    /// # Errors
    /// When it cannot be written: also when this process may no longer act, when the object is a later one, and when it is gone.
    pub async fn update(&self, shared: &Context, target: &Target, change: impl FnOnce(&mut TradingPipelineStatus)) -> Result<Option<Written>, Error> {
        let slot = self.slot(&target.uid);
        let mut known = slot.lock().await;
        let (before, version_before) = newest(known.as_ref(), &target.pipeline);
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(None);
        }
        // Here, since the lock may have been waited for.
        if !shared.leadership.has(REQUEST_TIMEOUT) {
            return Err(Error::NotLeader);
        }
        let api: Api<TradingPipeline> = Api::namespaced(shared.client.clone(), &target.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let body = patch(&target.uid, version_before.as_deref(), &before, &after).map_err(Error::Status)?;
        let result = api.patch_status(&target.name, &params, &Patch::Merge(&body)).await;
        shared.metrics.wrote("status", result.is_ok());
        let written = result.map_err(not_written)?;
        *known = version(&written).map(|version| Known { version, status: after.clone() });
        Ok(Some(Written { before, after }))
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

/// Why a status was not written.
pub(in crate::reconcile) fn not_written(error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if status.code == 404 => Error::Gone,
        // It was changed meanwhile, or another of the same name is there now.
        kube::Error::Api(status) if status.code == 409 => Error::Conflict,
        source => Error::Write { what: "the status", source },
    }
}

/// The newest status, with the resourceVersion at which it was the object's.
fn newest(known: Option<&Known>, pipeline: &TradingPipeline) -> (TradingPipelineStatus, Option<String>) {
    match known {
        Some(known) if version(pipeline).is_none_or(|cached| cached <= known.version) => (known.status.clone(), Some(known.version.to_string())),
        _ => (pipeline.status.clone().unwrap_or_default(), pipeline.metadata.resource_version.clone()),
    }
}

fn version(pipeline: &TradingPipeline) -> Option<u64> {
    pipeline.metadata.resource_version.as_ref()?.parse().ok()
}

/// The whole status; what it had before and has no longer is null. Uid and resourceVersion make it fail on another object than the one that was looked at.
fn patch(uid: &str, version: Option<&str>, before: &TradingPipelineStatus, after: &TradingPipelineStatus) -> Result<Value, serde_json::Error> {
    let (before, mut after) = (object(before)?, object(after)?);
    take_away(&before, &mut after);
    Ok(json!({"metadata": metadata(uid, version), "status": after}))
}

/// A merge patch keeps what it does not name, in objects inside of it as well.
fn take_away(before: &Map<String, Value>, after: &mut Map<String, Value>) {
    for (key, old) in before {
        match (old, after.get_mut(key)) {
            (Value::Object(old), Some(Value::Object(new))) => take_away(old, new),
            (_, Some(_)) => {}
            (_, None) => drop(after.insert(key.clone(), Value::Null)),
        }
    }
}

/// What an object's metadata must be for it to be written.
pub(in crate::reconcile) fn metadata(uid: &str, version: Option<&str>) -> Value {
    match version {
        Some(version) => json!({"uid": uid, "resourceVersion": version}),
        None => json!({"uid": uid}),
    }
}

fn object(status: &TradingPipelineStatus) -> Result<Map<String, Value>, serde_json::Error> {
    Ok(match serde_json::to_value(status)? {
        Value::Object(members) => members,
        _ => Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use tapeline_api::pipeline::status::{DashboardStatus, ItemState};

    use super::*;

    fn status(lag: Option<i64>) -> TradingPipelineStatus {
        TradingPipelineStatus { lag, ..TradingPipelineStatus::default() }
    }

    #[test]
    fn what_is_gone_is_null() {
        let body = patch("u", Some("7"), &status(Some(3)), &status(None)).unwrap();
        assert_eq!(body, json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "status": {"conditions": [], "lag": null}}));
    }

    #[test]
    fn what_is_gone_inside_of_an_object_is_null_too() {
        let told = |message: &str| TradingPipelineStatus {
            dashboard: Some(DashboardStatus { state: ItemState::Running, message: message.to_owned(), service: "x.y".to_owned() }),
            ..TradingPipelineStatus::default()
        };
        let body = patch("u", None, &told("its pods are rolling out"), &told("")).unwrap();
        assert_eq!(body["status"]["dashboard"], json!({"state": "Running", "message": null, "service": "x.y"}));
    }

    #[test]
    fn the_later_of_own_write_and_cache_counts() {
        let mut pipeline = crate::reconcile::validate::tests::pipeline(crate::reconcile::validate::tests::good());
        pipeline.status = Some(status(Some(1)));
        let known = Known { version: 7, status: status(Some(2)) };
        for (cached, lag, based_on) in [("6", 2, "7"), ("7", 2, "7"), ("8", 1, "8")] {
            pipeline.metadata.resource_version = Some(cached.to_owned());
            let (newest, version) = newest(Some(&known), &pipeline);
            assert_eq!((newest.lag, version.as_deref()), (Some(lag), Some(based_on)), "{cached}");
        }
    }

    #[test]
    fn a_write_that_did_not_happen_never_counts_as_one() {
        let refused = |code| not_written(kube::Error::Api(Box::new(Status::failure("no", "No").with_code(code))));
        assert!(matches!(refused(404), Error::Gone));
        assert!(matches!(refused(409), Error::Conflict));
        assert!(matches!(refused(500), Error::Write { .. }));
    }
}
