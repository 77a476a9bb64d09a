//! An object that this version cannot read, though the API server took it: said in its status, since its author looks there. Whatever else the status says
//! stays, `DataLost` above all, so the object is read once more, as plain JSON.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use tapeline_api::{FIELD_MANAGER, TradingPipeline};

use super::Error;
use super::status::conditions::{Is, Said, with_times};
use super::status::writer::{metadata, not_written};
use crate::context::Scope;
use crate::external::REQUEST_TIMEOUT;
use crate::reason::Reason;

/// Says in the status that the object cannot be read, unless it says so.
///
/// # Errors
/// When the API server does not do its part.
pub(super) async fn report(invalid: &InvalidObject, scope: &Scope) -> Result<Action, Error> {
    let (Some(namespace), Some(name), Some(uid)) = (&invalid.metadata.namespace, &invalid.metadata.name, &invalid.metadata.uid) else {
        return Ok(Action::await_change());
    };
    scope.shared.metrics.invalid_object();
    tracing::warn!(namespace, name, error = invalid.error, "a TradingPipeline cannot be read");
    let api: Api<DynamicObject> = Api::namespaced_with(scope.shared.client.clone(), namespace, &ApiResource::erase::<TradingPipeline>(&()));
    // By a list, which the operator's Role allows anyway.
    let found = api.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await;
    let found = found.map_err(|source| Error::Read { what: "a TradingPipeline", source })?.items.pop().ok_or(Error::Gone)?;
    if found.metadata.resource_version != invalid.metadata.resource_version {
        return Err(Error::Conflict);
    }
    let generation = invalid.metadata.generation.unwrap_or_default();
    let message = format!("the object cannot be read: {}; correct the field, or install the operator that fits the definition", invalid.error);
    let known = found.data.pointer("/status/conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let Some(conditions) = conditions(known, &message, generation) else { return Ok(Action::await_change()) };
    if !scope.shared.leadership.has(REQUEST_TIMEOUT) {
        return Err(Error::NotLeader);
    }
    let metadata = metadata(uid, invalid.metadata.resource_version.as_deref());
    let body = json!({"metadata": metadata, "status": {"observedGeneration": generation, "conditions": conditions}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = api.patch_status(name, &params, &Patch::Merge(body)).await;
    scope.shared.metrics.wrote("status", written.is_ok());
    written.map_err(not_written)?;
    Ok(Action::await_change())
}

/// The conditions as they are to be, those of other types as they are. None where nothing differs.
fn conditions(known: &[Value], message: &str, generation: i64) -> Option<Vec<Value>> {
    let read: Vec<Condition> = known.iter().filter_map(|condition| serde_json::from_value(condition.clone()).ok()).collect();
    let said = [("Ready", Is::False), ("Reconciling", Is::False), ("Stalled", Is::True)];
    let said = said.map(|(type_, is)| Said { type_, is, reason: Reason::InvalidObject, message: message.to_owned() });
    let said = with_times(said.into(), &read, generation);
    if said.iter().all(|condition| read.contains(condition)) {
        return None;
    }
    let is_other = |condition: &&Value| !said.iter().any(|said| condition.get("type").and_then(Value::as_str) == Some(&said.type_));
    Some(said.iter().map(|condition| json!(condition)).chain(known.iter().filter(is_other).cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Value> {
        let condition = |type_: &str, status: &str, reason: &str| {
            let time = "2020-01-01T00:00:00Z";
            json!({"type": type_, "status": status, "reason": reason, "message": "", "observedGeneration": 1, "lastTransitionTime": time})
        };
        vec![condition("Ready", "False", "Progressing"), condition("Stalled", "False", "NotStalled"), condition("DataLost", "True", "RecreatedEmpty")]
    }

    #[test]
    fn a_loss_stays_and_a_time_moves_with_its_status() {
        let said = conditions(&known(), "unknown field", 2).unwrap();
        let of = |type_: &str| said.iter().find(|condition| condition["type"] == type_).unwrap();
        assert_eq!(said.len(), 4);
        assert_eq!(of("DataLost"), &known()[2]);
        assert_eq!((&of("Ready")["reason"], &of("Ready")["lastTransitionTime"]), (&json!("InvalidObject"), &json!("2020-01-01T00:00:00Z")));
        assert_eq!(of("Stalled")["status"], "True");
        assert_ne!(of("Stalled")["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let said = conditions(&known(), "unknown field", 2).unwrap();
        assert_eq!(conditions(&said, "unknown field", 2), None);
        assert!(conditions(&said, "another field", 2).is_some());
        assert!(conditions(&said, "unknown field", 3).is_some());
    }
}
