use rstest::rstest;
use tapeline_api::pipeline::status::ResourceStatus;

use super::*;

const CLUSTER: &str = "c";

fn owner() -> Owner {
    Owner::new("k", "trading", "volume")
}

fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

fn managed(partitions: Option<i32>, config: &[(&str, &str)]) -> Role {
    Role::Managed { partitions, replication_factor: None, config: config.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect() }
}

fn desired(role: Role) -> Desired {
    Desired { topics: vec![DesiredTopic { name: topic("t"), field: "spec.kafka.topics[0]".into(), role }] }
}

fn there(partitions: i32, config: &[(&str, &str)]) -> ActualTopic {
    let config = config.iter().map(|(key, value)| ((*key).into(), Some((*value).into()))).collect();
    ActualTopic { partitions, config, max_message_bytes: Some(1_000_000) }
}

fn actual(topics: &[(&str, ActualTopic)]) -> Actual {
    Actual { cluster_id: CLUSTER.into(), topics: topics.iter().map(|(name, there)| (topic(name), there.clone())).collect(), denied: BTreeMap::new() }
}

fn resource(origin: Origin) -> ResourceStatus {
    ResourceStatus { kind: ResourceKind::Topic, name: "t".into(), origin, server: Some(CLUSTER.into()) }
}

fn status(partitions: Option<i32>, incarnation: Option<i64>, keys: &[&str]) -> TopicStatus {
    TopicStatus { name: topic("t"), partitions, incarnation, config_keys: keys.iter().map(|key| (*key).to_owned()).collect() }
}

/// The plan for the one topic `t`.
fn single(role: Role, actual: &Actual, resources: &[ResourceStatus], topics: &[TopicStatus]) -> TopicPlan {
    let plan = plan(&desired(role), actual, Recorded { topics, resources }, &owner(), &Contested::default());
    plan.topics.into_iter().next().unwrap()
}

fn refusals(state: &NodeState) -> Vec<(RefusalReason, &str)> {
    match state {
        NodeState::Refused(refusals) => refusals.iter().map(|refusal| (refusal.reason, refusal.field.as_str())).collect(),
        _ => Vec::new(),
    }
}

fn create(partitions: i32) -> Op {
    Op::Create { partitions, replication_factor: -1, config: BTreeMap::new() }
}

#[rstest]
#[case::missing(None, Some(6), vec![create(6)])]
#[case::missing_with_the_brokers_default(None, None, vec![create(-1)])]
#[case::grows(Some(3), Some(6), vec![Op::AddPartitions { to: 6 }])]
#[case::as_it_is(Some(6), Some(6), vec![])]
#[case::whatever_it_has(Some(6), None, vec![])]
fn partitions(#[case] has: Option<i32>, #[case] wants: Option<i32>, #[case] ops: Vec<Op>) {
    let actual = actual(&has.map(|has| ("t", there(has, &[]))).into_iter().collect::<Vec<_>>());
    assert_eq!(single(managed(wants, &[]), &actual, &[], &[]).steps.ops, ops);
}

#[test]
fn fewer_partitions_are_refused_and_nothing_else_is_done_to_the_topic() {
    let plan = single(managed(Some(6), &[("retention.ms", "1")]), &actual(&[("t", there(9, &[]))]), &[], &[]);
    assert_eq!(plan.steps.ops, vec![]);
    assert_eq!(refusals(&plan.steps.state), vec![(RefusalReason::WouldLoseData, "spec.kafka.topics[0].partitions")]);
    let NodeState::Refused(refusals) = plan.steps.state else { panic!() };
    assert_eq!(
        refusals[0].message,
        "topic \"t\" has 9 partitions and 6 are declared; partitions cannot be taken away without the records in them: declare 9 or leave partitions out, or \
        use another topic"
    );
}

fn configure(set: &[(&str, &str)], reset: &[&str], repaired: &[&str]) -> Op {
    Op::Configure {
        set: set.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        reset: reset.iter().map(|key| (*key).into()).collect(),
        repaired: repaired.iter().map(|key| (*key).into()).collect(),
    }
}

#[rstest]
#[case::is_set(&[], &[("retention.ms", "5")], &[], vec![configure(&[("retention.ms", "5")], &[], &[])])]
#[case::is_there(&[("retention.ms", "5")], &[("retention.ms", "5")], &["retention.ms"], vec![])]
#[case::is_repaired(&[("retention.ms", "6")], &[("retention.ms", "5")], &["retention.ms"], vec![configure(&[("retention.ms", "5")], &[], &["retention.ms"])])]
#[case::goes_back_to_its_default(&[("retention.ms", "5")], &[], &["retention.ms"], vec![configure(&[], &["retention.ms"], &[])])]
#[case::is_not_ours_and_stays(&[("cleanup.policy", "compact")], &[("retention.ms", "5")], &[], vec![configure(&[("retention.ms", "5")], &[], &[])])]
#[case::is_gone_already(&[], &[], &["retention.ms"], vec![])]
#[case::in_another_spelling(&[("cleanup.policy", "compact,delete")], &[("cleanup.policy", "compact, delete")], &[], vec![])]
#[case::a_number_in_another_spelling(&[("min.cleanable.dirty.ratio", "0.5")], &[("min.cleanable.dirty.ratio", "0.50")], &[], vec![])]
fn settings(#[case] has: &[(&str, &str)], #[case] wants: &[(&str, &str)], #[case] ours: &[&str], #[case] ops: Vec<Op>) {
    let plan = single(managed(None, wants), &actual(&[("t", there(1, has))]), &[resource(Origin::Created)], &[status(Some(1), Some(1), ours)]);
    assert_eq!(plan.steps.ops, ops);
}

#[test]
fn what_another_cluster_had_is_not_reset_on_this_one() {
    let elsewhere = ResourceStatus { server: Some("another".into()), ..resource(Origin::Created) };
    let plan = single(managed(None, &[]), &actual(&[("t", there(1, &[("retention.ms", "5")]))]), &[elsewhere], &[status(Some(1), Some(2), &["retention.ms"])]);
    assert_eq!((plan.steps.ops, plan.steps.origin), (vec![], Some(Origin::Adopted)));
    assert_eq!(plan.status.unwrap().incarnation, Some(2), "it never goes down");
}

#[test]
fn a_contested_setting_is_left_alone() {
    let contested = Contested::from_settings([(topic("t"), "retention.ms".to_owned(), "5".to_owned())]);
    let (resources, topics) = ([resource(Origin::Created)], [status(Some(1), Some(1), &["retention.ms"])]);
    let actual = actual(&[("t", there(1, &[("retention.ms", "6")]))]);
    let recorded = Recorded { topics: &topics, resources: &resources };
    let plan = plan(&desired(managed(None, &[("retention.ms", "5")])), &actual, recorded, &owner(), &contested);
    assert!(plan.is_empty());
    assert_eq!(refusals(&plan.topics[0].steps.state), vec![(RefusalReason::ConfigContested, "spec.kafka.topics[0].config.retention.ms")]);
}

#[test]
fn a_setting_whose_value_is_hidden_would_be_lost() {
    let mut hidden = there(1, &[]);
    hidden.config.insert("secret".into(), None);
    let plan = single(managed(None, &[("retention.ms", "5")]), &actual(&[("t", hidden)]), &[], &[]);
    assert_eq!(refusals(&plan.steps.state), vec![(RefusalReason::Incompatible, "spec.kafka.topics[0].config")]);
}

#[test]
fn a_topic_that_vanished_is_lost_and_created_under_the_next_incarnation() {
    let (resources, topics) = ([resource(Origin::Created)], [status(Some(6), Some(1), &[])]);
    let plan = single(managed(Some(6), &[]), &actual(&[]), &resources, &topics);
    assert_eq!(plan.steps.ops, vec![create(6)]);
    assert!(matches!(plan.steps.state, NodeState::Recreated(_)));
    assert!(plan.steps.loss.is_some());
    let (resource, topic) = (plan.steps.record.unwrap(), plan.before.unwrap());
    assert_eq!((resource.origin, topic.incarnation, topic.partitions), (Origin::Creating, Some(2), Some(6)));

    // Killed behind the record, before or behind the creation: the same incarnation, and it is still told.
    let (resources, topics) = ([resource], [topic]);
    for actual in [actual(&[]), actual(&[("t", there(6, &[]))])] {
        let plan = single(managed(Some(6), &[]), &actual, &resources, &topics);
        assert_eq!(plan.status.as_ref().unwrap().incarnation, Some(2));
        assert_eq!((plan.steps.origin, &plan.steps.record, &plan.steps.loss), (Some(Origin::Created), &None, &None));
        assert!(matches!(plan.steps.state, NodeState::Recreated(_)));
    }
}

#[test]
fn a_first_creation_that_was_cut_short_is_no_loss() {
    let first = single(managed(Some(6), &[]), &actual(&[]), &[], &[]);
    let (resource, topic) = (first.steps.record.unwrap(), first.before.unwrap());
    assert_eq!((topic.incarnation, topic.partitions), (Some(1), None));
    let (resources, topics) = ([resource], [topic]);
    let created = single(managed(Some(6), &[]), &actual(&[("t", there(6, &[]))]), &resources, &topics);
    assert_eq!((created.steps.origin, created.status.unwrap().incarnation, created.steps.state), (Some(Origin::Created), Some(1), NodeState::AsDeclared));
}

#[rstest]
#[case::found(None, Origin::Adopted, 0)]
#[case::ours(Some(Origin::Created), Origin::Created, 3)]
#[case::given_back_and_declared_again(Some(Origin::Released), Origin::Adopted, 3)]
fn how_a_topic_came_to_the_pipeline(#[case] before: Option<Origin>, #[case] origin: Origin, #[case] incarnation: i64) {
    let topics: Vec<_> = before.map(|_| status(Some(1), Some(3), &[])).into_iter().collect();
    let plan = single(managed(None, &[]), &actual(&[("t", there(1, &[]))]), &before.map(resource).into_iter().collect::<Vec<_>>(), &topics);
    assert_eq!((plan.steps.origin, plan.status.unwrap().incarnation), (Some(origin), Some(incarnation)));
}

#[test]
fn what_is_only_looked_at_is_awaited_and_never_created() {
    let plan = single(Role::LookedUp, &actual(&[]), &[resource(Origin::Created)], &[status(Some(1), Some(1), &[])]);
    assert_eq!((plan.steps.ops, plan.steps.origin, plan.status, plan.steps.loss), (vec![], None, None, None));
    let NodeState::Missing(message) = plan.steps.state else { panic!() };
    assert!(message.starts_with("topic \"t\" does not exist"), "{message}");
}

#[test]
fn what_is_only_looked_at_keeps_its_incarnation() {
    let plan = single(Role::LookedUp, &actual(&[("t", there(1, &[]))]), &[resource(Origin::Released)], &[status(Some(1), Some(3), &["retention.ms"])]);
    assert_eq!((plan.steps.origin, plan.status), (None, Some(status(Some(1), Some(3), &[]))));
}

#[rstest]
#[case::there(&[("t", there(9, &[]))])]
#[case::missing(&[])]
fn what_another_pipeline_manages_is_refused_and_left_alone(#[case] topics: &[(&str, ActualTopic)]) {
    let recorded = status(Some(9), Some(1), &["retention.ms"]);
    let plan = single(Role::Taken { by: "other/sales".into() }, &actual(topics), &[resource(Origin::Adopted)], std::slice::from_ref(&recorded));
    assert_eq!((plan.steps.ops, plan.steps.origin, plan.status, plan.steps.loss), (vec![], None, Some(recorded), None));
    assert_eq!(refusals(&plan.steps.state), vec![(RefusalReason::ResourceConflict, "spec.kafka.topics[0]")]);
    let NodeState::Refused(refusals) = plan.steps.state else { panic!() };
    assert!(refusals[0].message.starts_with("topic \"t\" is managed by pipeline other/sales"), "{}", refusals[0].message);
}

#[test]
fn a_topic_that_may_not_be_looked_at_waits_under_its_own_field() {
    let mut actual = actual(&[]);
    let error = ExternalError { class: crate::external::ErrorClass::Denied, field: String::new(), message: "no".into() };
    actual.denied.insert(topic("t"), error);
    let plan = single(managed(None, &[]), &actual, &[], &[]);
    let NodeState::Waiting(error) = plan.steps.state else { panic!() };
    assert_eq!(error.to_string(), "spec.kafka.topics[0]: no");
}

#[test]
fn another_replication_factor_is_left_alone() {
    let role = Role::Managed { partitions: None, replication_factor: Some(3), config: BTreeMap::new() };
    let plan = single(role, &actual(&[("t", there(1, &[]))]), &[], &[]);
    assert_eq!((plan.steps.ops, plan.steps.state), (vec![], NodeState::AsDeclared));
}

fn dead_letters() -> Role {
    Role::DeadLetter { source: topic("source") }
}

#[test]
fn dead_letters_take_after_their_source() {
    let plan = single(dead_letters(), &actual(&[("source", there(4, &[]))]), &[], &[]);
    let config = BTreeMap::from([(MAX_MESSAGE_BYTES.to_owned(), "1065536".to_owned())]);
    assert_eq!(plan.steps.ops, vec![Op::Create { partitions: 4, replication_factor: -1, config }]);
}

#[test]
fn dead_letters_of_a_topic_that_is_created_in_the_same_plan_are_fitted_behind_it() {
    let mut desired = desired(dead_letters());
    desired.topics.insert(0, DesiredTopic { name: topic("source"), field: "spec.kafka.topics[0]".into(), role: managed(Some(4), &[]) });
    let plan = plan(&desired, &actual(&[]), Recorded::default(), &owner(), &Contested::default());
    assert_eq!(plan.topics[1].steps.ops, vec![create(4), Op::FitDeadLetters { source: topic("source") }]);
}

#[rstest]
#[case::too_small(1_000_000, vec![configure(&[(MAX_MESSAGE_BYTES, "1065536")], &[], &[])])]
#[case::fits(1_065_536, vec![])]
#[case::larger_for_another_pipeline(5_000_000, vec![])]
fn the_largest_dead_letter_only_grows(#[case] has: i64, #[case] ops: Vec<Op>) {
    let own = ActualTopic { max_message_bytes: Some(has), ..there(4, &[]) };
    assert_eq!(single(dead_letters(), &actual(&[("t", own), ("source", there(4, &[]))]), &[], &[]).steps.ops, ops);
}

fn progress(actual: &Actual, resources: &[ResourceStatus], topics: &[TopicStatus]) -> TopicPlan {
    let name = topic(tapeline_api::progress::PROGRESS_TOPIC);
    let desired = Desired { topics: vec![DesiredTopic { name, field: "spec.queries[0].sink.kafka".into(), role: Role::Progress }] };
    plan(&desired, actual, Recorded { topics, resources }, &owner(), &Contested::default()).topics.into_iter().next().unwrap()
}

#[test]
fn progress_is_kept_in_a_compacted_topic_of_small_segments() {
    let plan = progress(&actual(&[]), &[], &[]);
    let config = tapeline_api::progress::PROGRESS_TOPIC_CONFIG.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert!(config.contains(&("cleanup.policy".to_owned(), "compact".to_owned())));
    assert_eq!(plan.steps.ops, vec![Op::Create { partitions: 1, replication_factor: -1, config: config.into() }]);
    assert_eq!((plan.steps.origin, plan.steps.loss), (Some(Origin::Created), None));
}

#[rstest]
#[case::as_it_should_be(&[("cleanup.policy", "compact"), ("segment.bytes", "1073741824")], vec![])]
#[case::as_the_brokers_create_it(&[], vec![configure(&[("cleanup.policy", "compact")], &[], &[])])]
#[case::deletes_as_well(&[("cleanup.policy", "compact,delete")], vec![configure(&[("cleanup.policy", "compact")], &[], &[])])]
fn progress_is_never_deleted_for_its_age(#[case] has: &[(&str, &str)], #[case] ops: Vec<Op>) {
    let plan = progress(&actual(&[("tapeline-progress", there(3, has))]), &[], &[]);
    assert_eq!((plan.steps.ops, plan.steps.origin, plan.steps.loss), (ops, Some(Origin::Adopted), None));
}

#[test]
fn progress_with_a_hidden_setting_is_left_to_a_person() {
    let mut hidden = there(1, &[]);
    hidden.config.insert("secret".into(), None);
    let plan = progress(&actual(&[("tapeline-progress", hidden)]), &[], &[]);
    assert_eq!((plan.steps.ops, refusals(&plan.steps.state)), (vec![], vec![(RefusalReason::Incompatible, "spec.queries[0].sink.kafka")]));
}

#[test]
fn progress_that_vanished_is_told() {
    let resource = ResourceStatus { name: "tapeline-progress".into(), ..resource(Origin::Created) };
    let status = TopicStatus { name: topic("tapeline-progress"), ..status(Some(1), Some(1), &[]) };
    let plan = progress(&actual(&[]), &[resource], &[status]);
    assert!(matches!(plan.steps.state, NodeState::Recreated(_)));
    assert!(plan.steps.loss.is_some_and(|loss| loss.contains("published twice")));
}

#[test]
fn what_sinks_write_to_is_looked_up_and_its_progress_is_wanted_once() {
    let spec: tapeline_api::TradingPipelineSpec = serde_json::from_value(serde_json::json!({
        "kafka": {"bootstrapServers": "kafka:9092", "topics": [{"name": "declared"}]},
        "queries": [
            {"name": "nowhere", "sql": "", "sink": {"blackhole": {}}},
            {"name": "first", "sql": "", "sink": {"kafka": {"topic": "declared"}}},
            {"name": "second", "sql": "", "sink": {"kafka": {"topic": "elsewhere"}}},
        ],
    }))
    .unwrap();
    let topics: Vec<(String, String, bool)> =
        Desired::of(&spec).topics.into_iter().map(|topic| (topic.name.to_string(), topic.field, topic.role == Role::LookedUp)).collect();
    let expected = [
        ("declared", "spec.kafka.topics[0]", false),
        ("tapeline-progress", "spec.queries[1].sink.kafka", false),
        ("elsewhere", "spec.queries[2].sink.kafka.topic", true),
    ];
    assert_eq!(topics, expected.map(|(name, field, looked_up)| (name.to_owned(), field.to_owned(), looked_up)));
}

#[test]
fn dead_letters_wait_for_a_source_that_nobody_here_creates() {
    let plan = single(dead_letters(), &actual(&[]), &[], &[]);
    assert!(matches!(plan.steps.state, NodeState::Missing(_)) && plan.steps.ops.is_empty());
}
