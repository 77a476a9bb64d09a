//! One pipeline of a test: its document, which is edited and applied as a user does it, and what can be read of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use serde_json::{Value, json};
use tapeline_api::TradingPipeline;

use crate::status;
use crate::wait::eventually;
use crate::world::World;

/// A pipeline.
pub struct Pipeline<'w> {
    world: &'w World,
    /// The object's name.
    pub name: String,
    document: Value,
}

impl<'w> Pipeline<'w> {
    pub(crate) fn new(world: &'w World, document: Value) -> Self {
        let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { world, name, document }
    }

    /// Gives the example the names of this test: topics, keyspace, database. The history is its only producer, and triggers are short.
    pub(crate) fn rename_everything(&mut self) {
        let (world, old) = (self.world, ["trading_data.dead-letter", "trading_data", "test_topic"]);
        replace_texts(&mut self.document, &|text| old.contains(&text).then(|| world.topic(text)));
        self.set("/spec/cassandra/keyspace", json!(world.schema())).set("/spec/mysql/database", json!(world.schema()));
        for query in self.list("/spec/queries") {
            if let Some(query) = query.as_object_mut() {
                query.insert("trigger".to_owned(), json!({"interval": "1s"}));
            }
        }
        self.list("/spec/producers").retain(|producer| producer.pointer("/name") == Some(&json!("history")));
    }

    /// Another pipeline with the same document.
    #[must_use]
    pub fn copy(&self, name: &str) -> Self {
        let mut copy = Self { world: self.world, name: name.to_owned(), document: self.document.clone() };
        copy.set("/metadata/name", json!(name));
        copy
    }

    /// Replaces (or adds) what is at `pointer`. The part above it has to be there.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        match self.document.pointer_mut(parent).unwrap_or_else(|| panic!("the document has no {parent}")) {
            Value::Object(object) => _ = object.insert(key.to_owned(), value),
            Value::Array(array) => *array.get_mut(key.parse::<usize>().expect("an index")).expect("an element") = value,
            other => panic!("{parent} is {other}"),
        }
        self
    }

    /// Takes away what is at `pointer` in an object.
    pub fn unset(&mut self, pointer: &str) -> &mut Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        self.document.pointer_mut(parent).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("no object {parent}")).remove(key);
        self
    }

    /// The array at `pointer`.
    pub fn list(&mut self, pointer: &str) -> &mut Vec<Value> {
        self.document.pointer_mut(pointer).and_then(Value::as_array_mut).unwrap_or_else(|| panic!("no array {pointer}"))
    }

    /// Applies the document with the example's Secret.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn apply(&self) -> Result<()> {
        self.world.apply(std::slice::from_ref(&self.document)).await.map(drop)
    }

    /// Applies the document as `kubectl apply` does by default: the client compares it with what it has applied before.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn apply_client_side(&self) -> Result<()> {
        self.world.kubectl(&["apply", "-f", "-"], &self.document.to_string()).await.map(drop)
    }

    /// The object as it is now.
    ///
    /// # Errors
    /// It is not there.
    pub async fn get(&self) -> Result<TradingPipeline> {
        let api: Api<TradingPipeline> = Api::namespaced(self.world.kube.clone(), &self.world.namespace);
        Ok(api.get(&self.name).await?)
    }

    /// Waits until `probe` is content with the object.
    pub async fn until<T>(&self, what: &str, deadline: Duration, probe: impl Fn(&TradingPipeline) -> Result<T>) -> T {
        eventually(what, deadline, async || probe(&self.get().await?)).await
    }

    /// Waits until the condition `kind` is `status`, and returns it.
    pub async fn until_condition(&self, kind: &str, status: &str, deadline: Duration) -> Condition {
        let what = format!("{} to be {kind}={status}", self.name);
        self.until(&what, deadline, |pipeline| status::expect(pipeline, kind, status)).await
    }

    /// Waits until it is Ready.
    pub async fn until_ready(&self, deadline: Duration) {
        self.until_condition("Ready", "True", deadline).await;
        self.world.say(format!("{} is ready", self.name));
    }

    /// The Deployment of a query (`query`) or producer (`producer`).
    ///
    /// # Errors
    /// It is not there.
    pub async fn deployment(&self, kind: &str, item: &str) -> Result<Deployment> {
        let api: Api<Deployment> = Api::namespaced(self.world.kube.clone(), &self.world.namespace);
        let name = format!("{}-{kind}-{item}", self.name);
        api.get(&name).await.with_context(|| format!("the Deployment {name}"))
    }

    /// The generation of a query's Deployment: it counts the changes of its specification.
    ///
    /// # Errors
    /// It is not there.
    pub async fn generation(&self, query: &str) -> Result<i64> {
        self.deployment("query", query).await?.metadata.generation.context("a Deployment has a generation")
    }

    /// The running pods of a query, those that are on their way out not counted.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self, query: &str) -> Result<Vec<Pod>> {
        let pods = self.world.pods(&format!("tapeline.dev/pipeline={},tapeline.dev/query={query}", self.name)).await?;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// Deletes the object.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn delete(&self) -> Result<()> {
        self.world.kubectl(&["delete", "tp", &self.name, "--timeout=60s"], "").await.map(drop)
    }

    /// Asks the operator to look again, as an annotation of the user's does.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn touch(&self, value: &str) -> Result<()> {
        let annotation = format!("example.com/looked-at={value}");
        self.world.kubectl(&["annotate", "--overwrite", "tp", &self.name, &annotation], "").await.map(drop)
    }

    /// Checks that the status does not speak of any trouble.
    ///
    /// # Errors
    /// It does.
    pub async fn expect_calm(&self) -> Result<()> {
        let pipeline = self.get().await?;
        for (kind, expected) in [("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")] {
            status::expect(&pipeline, kind, expected)?;
        }
        let failing: Vec<_> = status::of(&pipeline).queries.into_iter().filter(|query| !query.message.is_empty()).collect();
        ensure!(failing.is_empty(), "{failing:?}");
        Ok(())
    }
}

/// Replaces each text in `value` for which `new` has another.
fn replace_texts(value: &mut Value, new: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(replaced) = new(text) {
                *text = replaced;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| replace_texts(value, new)),
        Value::Object(fields) => fields.values_mut().for_each(|value| replace_texts(value, new)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use tapeline_operator::reconcile::validate::validate;

    use super::*;

    #[test]
    fn the_templates_are_pipelines_that_the_operator_takes() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines")).unwrap();
        let templates: Vec<_> = folder.map(|file| file.unwrap().path()).collect();
        assert!(templates.len() > 2, "{templates:?}");
        for template in templates {
            let text = std::fs::read_to_string(&template).unwrap().replace("${id}", "e1").replace("${topic}", "e1.").replace("${schema}", "e1_trading");
            let read: Result<TradingPipeline, _> = serde_yaml::from_str(&text);
            let pipeline = read.unwrap_or_else(|error| panic!("{}: {error}", template.display()));
            let problems = validate(&pipeline.spec).problems;
            assert!(problems.is_empty(), "{}: {problems:?}", template.display());
        }
    }
}
