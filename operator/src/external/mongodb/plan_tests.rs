use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::json;
use tapeline_api::pipeline::cassandra::Order;
use tapeline_api::pipeline::mongodb::MongoDb;
use tapeline_api::pipeline::status::{Origin, ResourceKind, ResourceStatus};

use super::*;
use crate::external::mongodb::{Direction, Other};

fn owner() -> Owner {
    Owner::new("c1", "trading", "volume")
}

fn name(text: &str) -> SqlName {
    text.parse().unwrap()
}

fn spec() -> MongoDb {
    serde_json::from_value(json!({
        "hosts": ["mongo.data:27017"],
        "database": "trading",
        "collections": [
            {"name": "ticks", "indexes": [{"fields": [{"name": "ticker"}, {"name": "created_at", "order": "Desc"}]}, {"fields": [{"name": "sector"}]}]},
            {"name": "plain"},
        ],
    }))
    .unwrap()
}

fn index(name: &str, fields: &[(&str, Order)]) -> IndexShape {
    let fields = fields.iter().map(|(field, order)| ((*field).to_owned(), Direction::Sorted(*order))).collect();
    IndexShape { name: name.into(), fields, ..IndexShape::default() }
}

fn shape() -> CollectionShape {
    let indexes = vec![index("ticker_1_created_at_-1", &[("ticker", Order::Asc), ("created_at", Order::Desc)]), index("sector_1", &[("sector", Order::Asc)])];
    CollectionShape { indexes }
}

fn nothing() -> Actual {
    Actual { new_id: "new".into(), ..Actual::default() }
}

/// All as [`spec`] declares it, and this pipeline's.
fn converged() -> Actual {
    let mut owners: Vec<OwnerRow> = Vec::new();
    for op in plan(&Desired::of(&spec()), &nothing(), Recorded::default(), &owner()).nodes.into_iter().flat_map(|node| node.ops) {
        if let Op::Claim(row) | Op::Store(row) = op {
            owners.retain(|before| (&before.kind, &before.name) != (&row.kind, &row.name));
            owners.push(row);
        }
    }
    Actual {
        id: Some("s".into()),
        database: true,
        collections: BTreeMap::from([(name("ticks"), shape()), (name("plain"), CollectionShape::default())]),
        progress: true,
        owners: Some(owners),
        ..nothing()
    }
}

fn resource(kind: ResourceKind, name: &str) -> ResourceStatus {
    ResourceStatus { kind, name: name.into(), origin: Origin::Created, server: Some("s".into()) }
}

fn known() -> Vec<ResourceStatus> {
    vec![
        resource(ResourceKind::MongoDBDatabase, "trading"),
        resource(ResourceKind::MongoDBCollection, "trading.ticks"),
        resource(ResourceKind::MongoDBCollection, "trading.plain"),
    ]
}

fn planned(spec: &MongoDb, actual: &Actual, resources: &[ResourceStatus]) -> Plan {
    plan(&Desired::of(spec), actual, Recorded { topics: &[], resources }, &owner())
}

fn show(op: &Op) -> String {
    match op {
        Op::CreateCollection(name) => format!("create {name}"),
        Op::Identify(id) => format!("identify {id}"),
        Op::CreateIndexes { collection, indexes } => {
            let indexes: Vec<String> = indexes.iter().map(|index| format!("{} ({})", index.name, index.fields_text())).collect();
            format!("index {collection}: {}", indexes.join("; "))
        }
        Op::Claim(row) => format!("claim {} {} {}", row.kind, row.name, row.origin),
        Op::Store(row) => format!("store {} {} {}", row.kind, row.name, row.origin),
    }
}

fn ops(node: &NodePlan) -> Vec<String> {
    node.ops.iter().map(show).collect()
}

fn refusals(node: &NodePlan) -> Vec<(RefusalReason, &str)> {
    match &node.state {
        NodeState::Refused(refusals) => refusals.iter().map(|refusal| (refusal.reason, refusal.field.as_str())).collect(),
        _ => Vec::new(),
    }
}

fn message(node: &NodePlan) -> &str {
    let NodeState::Refused(refusals) = &node.state else { panic!("{node:#?}") };
    &refusals[0].message
}

#[test]
fn from_nothing() {
    let plan = planned(&spec(), &nothing(), &[]);
    let ops: Vec<String> = plan.nodes.iter().flat_map(ops).collect();
    insta::assert_yaml_snapshot!(ops, @r#"
    - create tapeline_progress
    - create tapeline_resources
    - identify new
    - claim MongoDBCollection ticks Creating
    - create ticks
    - "index ticks: ticker_1_created_at_-1 (ticker 1, created_at -1); sector_1 (sector 1)"
    - store MongoDBCollection ticks Created
    - claim MongoDBCollection plain Creating
    - create plain
    - store MongoDBCollection plain Created
    "#);
    assert_eq!(plan.server, "new");
    let records = plan.records();
    assert!(records.resources.iter().all(|resource| resource.origin == Origin::Creating && resource.server.as_deref() == Some("new")));
    assert_eq!((records.resources.len(), records.losses), (3, vec![]));
    assert_eq!(plan.nodes[1].state, NodeState::Changed("created collection trading.ticks".into()));
}

#[test]
fn what_is_as_declared_needs_nothing() {
    for resources in [known(), Vec::new()] {
        let plan = planned(&spec(), &converged(), &resources);
        assert!(plan.is_empty(), "{:?}", plan.nodes.iter().flat_map(ops).collect::<Vec<_>>());
        assert!(plan.records().is_empty());
        assert!(plan.nodes.iter().all(|node| node.state == NodeState::AsDeclared));
    }
}

/// The plan for the collection `ticks`, when it has other indexes than are declared.
fn differing(differ: impl FnOnce(&mut Vec<IndexShape>)) -> NodePlan {
    let mut actual = converged();
    differ(&mut actual.collections.get_mut(&name("ticks")).unwrap().indexes);
    planned(&spec(), &actual, &known()).nodes.swap_remove(1)
}

#[test]
fn a_missing_index_is_added_beside_what_others_created() {
    let plan = differing(|indexes| {
        indexes.remove(0);
        indexes.push(index("mine", &[("price", Order::Asc)]));
    });
    assert_eq!(ops(&plan), ["index ticks: ticker_1_created_at_-1 (ticker 1, created_at -1)"]);
    assert_eq!(plan.state, NodeState::Changed("added to collection trading.ticks: index ticker_1_created_at_-1".into()));
}

#[rstest]
#[case::other_direction(index("ticker_1_created_at_1", &[("ticker", Order::Asc), ("created_at", Order::Asc)]))]
#[case::other_order(index("created_at_-1_ticker_1", &[("created_at", Order::Desc), ("ticker", Order::Asc)]))]
#[case::a_part(index("ticker_1", &[("ticker", Order::Asc)]))]
fn fields_directions_and_their_order_make_an_index(#[case] there: IndexShape) {
    let plan = differing(|indexes| indexes[0] = there);
    assert_eq!(ops(&plan), ["index ticks: ticker_1_created_at_-1 (ticker 1, created_at -1)"]);
}

#[test]
fn the_name_of_an_index_does_not_matter_and_is_not_taken_twice() {
    assert_eq!(ops(&differing(|indexes| indexes[0].name = "by_ticker".into())), Vec::<String>::new());
    let plan = differing(|indexes| indexes[0] = index("ticker_1_created_at_-1", &[("price", Order::Asc)]));
    assert_eq!(ops(&plan), ["index ticks: ticker_1_created_at_-1_tapeline (ticker 1, created_at -1)"]);
}

#[test]
fn an_index_that_also_does_something_else_is_left_to_a_person() {
    let plan = differing(|indexes| indexes[1].options = vec!["expireAfterSeconds".into()]);
    assert_eq!(refusals(&plan), vec![(RefusalReason::WouldLoseData, "spec.mongodb.collections[0].indexes[1]")]);
    assert!(plan.ops.is_empty());
    assert_eq!(
        message(&plan),
        "index \"sector_1\" of collection trading.ticks has the declared fields (sector 1), and also expireAfterSeconds, which cannot be declared and which Tapeline \
         does not take away: take the index out of the specification, or, to have it without that, run: db.getSiblingDB(\"trading\").ticks.dropIndex(\"sector_1\")"
    );
    // A plain one beside it is what is declared.
    let plan = differing(|indexes| indexes.push(IndexShape { name: "old".into(), options: vec!["sparse".into()], ..indexes[1].clone() }));
    assert_eq!(plan.state, NodeState::AsDeclared);
}

#[rstest]
#[case::of_a_declared_index(|indexes: &mut Vec<IndexShape>| indexes[1].unique = true)]
#[case::beside_them(|indexes: &mut Vec<IndexShape>| indexes.push(IndexShape { unique: true, ..index("sector_1", &[("price", Order::Asc)]) }))]
fn a_unique_index_would_let_documents_vanish(#[case] differ: fn(&mut Vec<IndexShape>)) {
    let plan = differing(differ);
    assert_eq!(refusals(&plan), vec![(RefusalReason::Incompatible, "spec.mongodb.collections[0]")]);
    assert!(plan.ops.is_empty());
    assert!(message(&plan).contains("db.getSiblingDB(\"trading\").ticks.dropIndex(\"sector_1\")"), "{}", message(&plan));
}

#[rstest]
#[case(Other::View, "is a view")]
#[case(Other::Collated, "is a collection with a collation of its own")]
#[case(Other::Capped, "is a capped collection")]
#[case(Other::TimeSeries, "is a time series")]
fn what_is_no_ordinary_collection_is_refused(#[case] other: Other, #[case] words: &str) {
    let mut actual = converged();
    actual.collections.remove(&name("ticks"));
    actual.other.insert(name("ticks"), other);
    let plan = planned(&spec(), &actual, &known());
    assert_eq!(refusals(&plan.nodes[1]), vec![(RefusalReason::ResourceConflict, "spec.mongodb.collections[0]")]);
    assert!(plan.is_empty() && message(&plan.nodes[1]).contains(words), "{}", message(&plan.nodes[1]));
}

#[test]
fn a_collection_that_was_there_is_taken_over_with_its_documents() {
    let mut actual = Actual { owners: Some(Vec::new()), ..converged() };
    actual.collections.get_mut(&name("ticks")).unwrap().indexes.pop();
    let plan = planned(&spec(), &actual, &[]);
    assert_eq!(ops(&plan.nodes[1]), ["claim MongoDBCollection ticks Adopted", "index ticks: sector_1 (sector 1)"]);
    assert_eq!(plan.nodes[1].origin, Some(Origin::Adopted));
    assert_eq!(plan.nodes[2].state, NodeState::Changed("took over collection trading.plain, which was there".into()));
}

#[test]
fn what_belongs_to_another_pipeline_is_a_conflict() {
    let mut actual = converged();
    for row in actual.owners.as_mut().unwrap() {
        row.owner = Owner::new("c1", "other", "sales").as_str().into();
    }
    let plan = planned(&spec(), &actual, &[]);
    assert!(plan.is_empty());
    assert_eq!(refusals(&plan.nodes[1]), vec![(RefusalReason::ResourceConflict, "spec.mongodb.collections[0]")]);
    let release = "db.getSiblingDB(\"trading\").tapeline_resources.deleteOne({_id: {kind: \"MongoDBCollection\", name: \"ticks\"}})";
    assert!(message(&plan.nodes[1]).ends_with(release), "{}", message(&plan.nodes[1]));
}

#[test]
fn a_declaration_that_changed_is_stored() {
    let mut spec = spec();
    spec.collections[0].indexes.pop();
    let plan = planned(&spec, &converged(), &known());
    assert_eq!(ops(&plan.nodes[1]), ["store MongoDBCollection ticks Created"], "an index that is no longer declared stays");
}

#[test]
fn a_dropped_collection_is_lost() {
    let mut actual = converged();
    actual.collections.remove(&name("ticks"));
    let plan = planned(&spec(), &actual, &known());
    assert_eq!(ops(&plan.nodes[1])[0], "create ticks");
    assert!(matches!(&plan.nodes[1].state, NodeState::Recreated(loss) if loss.starts_with("collection trading.ticks had been dropped")));
    let lost: Vec<String> = plan.records().losses.into_iter().map(|loss| loss.node.name).collect();
    assert_eq!(lost, ["trading.ticks"]);
}

#[test]
fn a_creation_that_was_cut_short_is_no_loss() {
    let first = planned(&spec(), &nothing(), &[]).records().resources;
    // Killed behind the record, and behind the collections of Tapeline's own.
    for actual in [nothing(), Actual { database: true, progress: true, owners: Some(Vec::new()), id: Some("new".into()), ..nothing() }] {
        let again = Actual { new_id: "newer".into(), ..actual };
        let plan = planned(&spec(), &again, &first);
        assert_eq!((plan.server.as_str(), plan.records().losses), ("new", vec![]));
        assert_eq!(plan.nodes[1].origin, Some(Origin::Created));
    }
}

#[test]
fn dropped_progress_is_told() {
    let plan = planned(&spec(), &Actual { progress: false, ..converged() }, &known());
    assert_eq!(ops(&plan.nodes[0]), ["create tapeline_progress"]);
    let losses = plan.records().losses;
    assert!(losses.len() == 1 && losses[0].message.starts_with("collection trading.tapeline_progress had been dropped"), "{losses:?}");
    // Of a database that is new to the pipeline nothing was dropped.
    assert_eq!(planned(&spec(), &Actual { progress: false, ..converged() }, &[]).records().losses, vec![]);
}

#[test]
fn a_dropped_database_is_told_with_all_that_was_in_it_and_keeps_its_id() {
    let plan = planned(&spec(), &nothing(), &known());
    let lost: Vec<String> = plan.records().losses.into_iter().map(|loss| loss.node.name).collect();
    assert_eq!(lost, ["trading", "trading.ticks", "trading.plain"]);
    assert_eq!((plan.server.as_str(), ops(&plan.nodes[0])[2].as_str()), ("s", "identify s"));
}

#[test]
fn a_database_with_another_id_is_another_one() {
    let actual = Actual { id: Some("other".into()), database: true, progress: true, owners: Some(Vec::new()), ..nothing() };
    let plan = planned(&spec(), &actual, &known());
    assert_eq!((plan.server.as_str(), plan.records().losses), ("other", vec![]));
    assert_eq!((plan.nodes[0].origin, plan.nodes[1].origin), (Some(Origin::Adopted), Some(Origin::Created)));
}

#[test]
fn owners_that_were_dropped_are_written_again() {
    let plan = planned(&spec(), &Actual { owners: None, id: None, ..converged() }, &known());
    assert_eq!(ops(&plan.nodes[0]), ["create tapeline_resources", "identify s"]);
    assert_eq!(ops(&plan.nodes[1]), ["claim MongoDBCollection ticks Created"]);
    assert_eq!(plan.records().losses, vec![]);
}
