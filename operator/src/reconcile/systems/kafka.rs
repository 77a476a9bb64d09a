//! Kafka: declared topics, those of dead letters and progress, and those that streams, sinks and producers name.

use std::sync::Arc;

use kube::ResourceExt;
use tapeline_api::TradingPipeline;
use tapeline_api::names::TopicName;
use tapeline_api::pipeline::status::{Origin, ResourceKind};

use super::{Prepared, Step};
use crate::context::Guarded;
use crate::external::kafka::{Actual, Client, Desired, Endpoint, Plan, Role, plan};
use crate::external::{Applied, ExternalError, Guard, Records};
use crate::reason::{Area, Problem};

/// The brokers, and the topics that are asked for.
pub(super) struct Topics {
    client: Client,
    desired: Desired,
}

/// None where the brokers cannot be asked at all: the problem itself is among those of the specification.
pub(super) fn prepare(step: &Step<'_>) -> Option<Result<Topics, Problem>> {
    if !step.validated.kafka_is_valid {
        return None;
    }
    let spec = step.spec();
    let mut desired = Desired::of(spec);
    desired.topics.retain(|topic| !step.validated.bad_topics.contains(&topic.name));
    Some(Ok(Topics { client: step.clients().kafka(Endpoint::of(&spec.kafka)), desired }))
}

impl Prepared for Topics {
    const AREA: Area = Area::Topics;
    type Actual = Actual;
    type Plan = Plan;

    async fn describe(&self) -> Result<Actual, ExternalError> {
        self.client.describe(&self.desired).await
    }

    fn plan(&self, actual: &Actual, step: &Step<'_>) -> Plan {
        let mut desired = self.desired.clone();
        leave_to_others(&mut desired, &actual.cluster_id, step);
        plan(&desired, actual, step.recorded(), &step.owner, &self.client.contested(actual, &step.owner))
    }

    fn records(plan: &Plan) -> Records {
        plan.records()
    }

    async fn apply(&self, plan: &Plan, guard: &Guard) -> Applied {
        self.client.apply(plan, guard).await
    }
}

/// A topic has no place for its owner, as a table has: of several pipelines that declare one, the oldest manages it.
fn leave_to_others(desired: &mut Desired, cluster_id: &str, step: &Step<'_>) {
    let others = step.scope.pipelines.state();
    for topic in desired.topics.iter_mut().filter(|topic| matches!(topic.role, Role::Managed { .. })) {
        if let Some(by) = manager(&others, &step.target.pipeline, &topic.name, cluster_id) {
            topic.role = Role::Taken { by };
        }
    }
}

/// The oldest of the pipelines before `pipeline` that manage a topic of a Kafka cluster: it declares the topic, and its status says that it has it there.
fn manager(others: &[Arc<Guarded>], pipeline: &TradingPipeline, topic: &TopicName, cluster_id: &str) -> Option<String> {
    let age = |pipeline: &TradingPipeline| (pipeline.metadata.creation_timestamp.as_ref().map(|time| time.0), pipeline.metadata.uid.clone());
    let manages = |other: &TradingPipeline| {
        let declares = other.spec.kafka.topics.iter().any(|declared| declared.managed && declared.name == *topic);
        let mut resources = other.status.iter().flat_map(|status| &status.resources);
        declares
            && resources.any(|resource| {
                resource.kind == ResourceKind::Topic
                    && resource.name == topic.as_str()
                    && resource.origin != Origin::Released
                    && resource.server.as_deref() == Some(cluster_id)
            })
    };
    let older = others.iter().filter_map(|other| other.0.as_ref().ok()).filter(|other| age(other) < age(pipeline));
    let oldest = older.filter(|other| other.metadata.deletion_timestamp.is_none() && manages(other)).min_by_key(|other| age(other))?;
    Some(format!("{}/{}", oldest.namespace().unwrap_or_default(), oldest.name_any()))
}

#[cfg(test)]
mod tests {
    use kube::core::DeserializeGuard;
    use rstest::rstest;
    use tapeline_api::TradingPipelineStatus;
    use tapeline_api::pipeline::status::ResourceStatus;

    use super::*;
    use crate::reconcile::validate::tests::{good, pipeline};

    /// A pipeline of this age that declares topic `test_topic`, and says that it has it on Kafka cluster `c`.
    fn declaring(name: &str, day: u32) -> TradingPipeline {
        let mut pipeline = pipeline(good());
        pipeline.metadata.name = Some(name.to_owned());
        pipeline.metadata.uid = Some(name.to_owned());
        pipeline.metadata.creation_timestamp = serde_json::from_value(format!("2026-01-0{day}T00:00:00Z").into()).unwrap();
        let resource = ResourceStatus { kind: ResourceKind::Topic, name: "test_topic".into(), origin: Origin::Adopted, server: Some("c".into()) };
        pipeline.status = Some(TradingPipelineStatus { resources: vec![resource], ..TradingPipelineStatus::default() });
        pipeline
    }

    #[rstest]
    #[case::older(1, |_: &mut TradingPipeline| (), Some("demo/other"))]
    #[case::younger(3, |_: &mut TradingPipeline| (), None)]
    #[case::as_old_and_before_it_by_uid(2, |_: &mut TradingPipeline| (), Some("demo/other"))]
    #[case::only_reads_it(1, |other: &mut TradingPipeline| other.spec.kafka.topics[0].managed = false, None)]
    #[case::has_not_got_it_yet(1, |other: &mut TradingPipeline| other.status = None, None)]
    #[case::on_another_cluster(1, |other: &mut TradingPipeline| other.status.as_mut().unwrap().resources[0].server = Some("d".into()), None)]
    #[case::gave_it_back(1, |other: &mut TradingPipeline| other.status.as_mut().unwrap().resources[0].origin = Origin::Released, None)]
    #[case::goes(1, |other: &mut TradingPipeline| other.metadata.deletion_timestamp = other.metadata.creation_timestamp.clone(), None)]
    fn of_two_pipelines_that_declare_a_topic_the_older_manages_it(#[case] day: u32, #[case] differ: fn(&mut TradingPipeline), #[case] by: Option<&str>) {
        let (mut other, this) = (declaring("other", day), declaring("this", 2));
        differ(&mut other);
        let all = [Arc::new(DeserializeGuard(Ok(this.clone()))), Arc::new(DeserializeGuard(Ok(other)))];
        assert_eq!(manager(&all, &this, &"test_topic".parse().unwrap(), "c").as_deref(), by);
    }
}
