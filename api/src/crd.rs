//! The CustomResourceDefinition: the derived schema, the rules that look at the whole object, the status default and the hash by which the operator knows its own.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::TradingPipeline;

/// The annotation that holds [`schema_hash`] on the installed definition.
pub const SCHEMA_HASH_ANNOTATION: &str = "tapeline.dev/schema-hash";

/// The definition as it is shipped in `crds/` and in the chart.
///
/// # Errors
/// Fails only if the derived schema is not the JSON that this module expects, which its tests rule out.
pub fn definition() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut crd = serde_json::to_value(TradingPipeline::crd())?;
    if let Some(root) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        set(root, "x-kubernetes-validations", root_rules());
        describe(root, "/properties/spec", "What the pipeline is to be.");
        describe(root, "/properties/status", "What the operator saw of it.");
        if let Some(status) = root.pointer_mut("/properties/status") {
            // On `status` itself: a default on `status.conditions` alone does nothing, and `helm install --wait` would pass at once (probed on 1.36).
            set(
                status,
                "default",
                json!({"conditions": [{
                    "type": "Ready", "status": "Unknown", "reason": "Pending", "message": "the operator has not looked yet", "lastTransitionTime": "1970-01-01T00:00:00Z"
                }]}),
            );
            strip_nulls(status);
        }
    }
    let hash = schema_hash(crd.pointer("/spec/versions").unwrap_or(&Value::Null));
    if let Some(metadata) = crd.get_mut("metadata") {
        set(metadata, "annotations", json!({SCHEMA_HASH_ANNOTATION: hash}));
    }
    serde_json::from_value(crd)
}

/// What kustomize has to know to merge patches into lists by name, as the API server does: an OpenAPI document with the keys of the resource's list-maps, for `openapi: {path: ..}` of a
/// kustomization. Without it kustomize replaces such lists as a whole.
///
/// # Errors
/// As [`definition`].
pub fn kustomize_openapi() -> Result<Value, serde_json::Error> {
    let crd = serde_json::to_value(definition()?)?;
    let part = |pointer: &str| crd.pointer(pointer).cloned().unwrap_or_default();
    let mut schema = merge_keys(&part("/spec/versions/0/schema/openAPIV3Schema")).unwrap_or_else(|| json!({"type": "object"}));
    let kind = json!({"group": part("/spec/group"), "version": part("/spec/versions/0/name"), "kind": part("/spec/names/kind")});
    set(&mut schema, "x-kubernetes-group-version-kind", json!([kind]));
    Ok(json!({"definitions": {"dev.tapeline.v1alpha1.TradingPipeline": schema}}))
}

/// The parts of `schema` that have list-maps, and their keys in kustomize's words.
fn merge_keys(schema: &Value) -> Option<Value> {
    let properties: serde_json::Map<String, Value> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, property)| Some((name.clone(), merge_keys(property)?)))
        .collect();
    let mut kept = json!({"type": schema.get("type")});
    if !properties.is_empty() {
        set(&mut kept, "properties", Value::Object(properties));
        return Some(kept);
    }
    let items = schema.get("items")?;
    let key = schema.pointer("/x-kubernetes-list-map-keys/0")?;
    set(&mut kept, "items", merge_keys(items).unwrap_or_else(|| json!({"type": items.get("type")})));
    set(&mut kept, "x-kubernetes-patch-strategy", json!("merge"));
    set(&mut kept, "x-kubernetes-patch-merge-key", key.clone());
    Some(kept)
}

/// The hash of the schema that this program was built with.
///
/// # Errors
/// As [`definition`].
pub fn built_schema_hash() -> Result<String, serde_json::Error> {
    let crd = definition()?;
    Ok(crd.metadata.annotations.and_then(|mut annotations| annotations.remove(SCHEMA_HASH_ANNOTATION)).unwrap_or_default())
}

/// 16 hexadecimal digits that change with the schema. `DefaultHasher` with its fixed keys is stable within one version of the program, and the value is
/// shipped with the definition, so only equality matters.
fn schema_hash(versions: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    versions.to_string().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Rules over the whole object. Only create-only and transition rules: one that a stored object breaks would block even the removal of its finalizers.
fn root_rules() -> Value {
    json!([
        {
            "rule": "oldSelf.hasValue() || size(self.metadata.name) <= 40",
            "optionalOldSelf": true,
            "message": "metadata.name may have 40 characters at most: Deployments are named <pipeline>-producer-<name>",
        },
        {
            "rule": "oldSelf.hasValue() || self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')",
            "optionalOldSelf": true,
            "message": "metadata.name must be lower-case letters, digits and -, starting with a letter",
        },
        {
            "rule": "!has(self.spec.kafka.topics) || !has(oldSelf.spec.kafka.topics) || !has(self.status) || !has(self.status.topics) || \
                self.spec.kafka.topics.all(t, !has(t.partitions) || \
                oldSelf.spec.kafka.topics.exists(o, o.name == t.name && has(o.partitions) && o.partitions <= t.partitions) || \
                !self.status.topics.exists(a, a.name == t.name && has(a.partitions) && a.partitions > t.partitions))",
            "message": "spec.kafka.topics: a topic cannot have fewer partitions than it has; ask for at least as many, or for another topic",
        },
    ])
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn describe(root: &mut Value, pointer: &str, text: &str) {
    if let Some(part) = root.pointer_mut(pointer) {
        set(part, "description", json!(text));
    }
}

/// A nullable status cannot have a default that the API server applies.
fn strip_nulls(schema: &mut Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("nullable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        let crd = serde_json::to_value(definition().unwrap()).unwrap();
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
    }

    /// Visits every property of ours: not those that come from Kubernetes' own types.
    fn properties(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{name}");
            visit(&path, property);
            if !path.ends_with(".affinity") {
                properties(&path, property, visit);
                for name in ["items", "additionalProperties"] {
                    if let Some(part) = property.get(name) {
                        visit(&format!("{path}[{name}]"), part);
                        properties(&path, part, visit);
                    }
                }
            }
        }
    }

    #[test]
    fn every_field_has_a_description() {
        let mut bare = Vec::new();
        properties("", &schema(), &mut |path, property| {
            if property.get("description").and_then(Value::as_str).is_none_or(str::is_empty) && path != ".metadata" && !path.ends_with(']') {
                bare.push(path.to_owned());
            }
        });
        assert_eq!(bare, Vec::<String>::new());
    }

    #[test]
    fn every_string_of_the_specification_has_a_limit() {
        let mut endless = Vec::new();
        let schema = schema();
        properties(".spec", schema.pointer("/properties/spec").unwrap(), &mut |path, property| {
            let is_text = property.get("type") == Some(&json!("string"));
            let limited = ["maxLength", "enum", "format"].iter().any(|limit| property.get(limit).is_some());
            if is_text && !limited && !path.starts_with(".spec.workers.") {
                endless.push(path.to_owned());
            }
        });
        assert_eq!(endless, Vec::<String>::new());
    }

    #[test]
    fn it_is_small_enough_for_client_side_apply() {
        let size = serde_json::to_string(&definition().unwrap()).unwrap().len();
        assert!(size < 200_000, "{size} bytes; the annotation of kubectl apply holds 262,144");
    }

    #[test]
    fn kustomize_learns_the_keys_of_all_list_maps_and_nothing_else() {
        let openapi = kustomize_openapi().unwrap();
        let spec = openapi.pointer("/definitions/dev.tapeline.v1alpha1.TradingPipeline/properties/spec/properties").unwrap();
        for list in [
            "/producers",
            "/queries",
            "/streams",
            "/streams/items/properties/fields",
            "/kafka/properties/topics",
            "/mysql/properties/tables",
            "/dashboard/properties/charts",
        ] {
            assert_eq!(spec.pointer(&format!("{list}/x-kubernetes-patch-merge-key")), Some(&json!("name")), "{list}");
        }
        assert_eq!(spec.pointer("/cassandra/properties/contactPoints"), None, "an atomic list is replaced");
        assert_eq!(
            openapi.pointer("/definitions/dev.tapeline.v1alpha1.TradingPipeline/x-kubernetes-group-version-kind/0/kind"),
            Some(&json!("TradingPipeline"))
        );
    }

    #[test]
    fn the_hash_moves_with_the_schema() {
        let mut versions = serde_json::to_value(definition().unwrap().spec.versions).unwrap();
        assert_eq!(built_schema_hash().unwrap(), schema_hash(&versions), "it is the hash of what is shipped");
        describe(&mut versions, "/0/schema/openAPIV3Schema/properties/spec", "Something else.");
        assert_ne!(built_schema_hash().unwrap(), schema_hash(&versions));
    }
}
