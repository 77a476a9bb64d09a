use rstest::rstest;
use serde_json::json;
use tapeline_api::pipeline::cassandra::Cassandra;
use tapeline_api::pipeline::status::ResourceStatus;
use tapeline_api::types::CqlType;

use super::*;
use crate::external::cassandra::ColumnShape;

fn owner() -> Owner {
    Owner::new("c1", "trading", "volume")
}

fn other() -> Owner {
    Owner::new("c1", "other", "sales")
}

fn spec() -> Cassandra {
    serde_json::from_value(json!({
        "contactPoints": ["cassandra.data:9042"],
        "keyspace": "trading",
        "replication": {"class": "SimpleStrategy", "factor": 1},
        "tables": [{
            "name": "ticks",
            "columns": [{"name": "id", "type": "bigint"}, {"name": "at", "type": "timestamp"}, {"name": "price", "type": "double"}],
            "partitionKey": ["id"],
            "clusteringKey": [{"column": "at", "order": "Desc"}],
            "ttl": "720h",
        }],
    }))
    .unwrap()
}

fn simple(factor: &str) -> BTreeMap<String, String> {
    [("class", "org.apache.cassandra.locator.SimpleStrategy"), ("replication_factor", factor)]
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

fn column(type_: CqlType) -> ColumnShape {
    ColumnShape { type_: Some(type_), type_text: type_.to_string(), is_static: false }
}

/// The table as [`spec`] declares it.
fn shape() -> TableShape {
    TableShape {
        columns: [("id", CqlType::Bigint), ("at", CqlType::Timestamp), ("price", CqlType::Double)]
            .into_iter()
            .map(|(name, type_)| (name.into(), column(type_)))
            .collect(),
        partition_key: vec!["id".into()],
        clustering_key: vec![("at".into(), Order::Desc)],
        default_ttl: 2_592_000,
    }
}

/// All as [`spec`] declares it, and this pipeline's.
fn converged() -> Actual {
    let desired = Desired::of(&spec());
    let mut owners = Vec::new();
    let empty = Actual { cluster_name: "test".into(), ..Actual::default() };
    for op in plan(&desired, &empty, Recorded::default(), &owner()).nodes.into_iter().flat_map(|node| node.ops) {
        match op {
            Op::Claim(row) | Op::Store(row) => {
                owners.retain(|before: &OwnerRow| (&before.kind, &before.name) != (&row.kind, &row.name));
                owners.push(row);
            }
            Op::Create(_) | Op::Alter(_) | Op::AddColumns { .. } => {}
        }
    }
    Actual {
        replication: Some(simple("1")),
        tables: BTreeMap::from([("ticks".parse().unwrap(), shape())]),
        progress_table: true,
        owners: Some(owners),
        ..empty
    }
}

fn resource(kind: ResourceKind, name: &str, origin: Origin) -> ResourceStatus {
    ResourceStatus { kind, name: name.into(), origin, server: Some("test".into()) }
}

/// What the status says of a pipeline that was there for a while.
fn known() -> Vec<ResourceStatus> {
    vec![resource(ResourceKind::CassandraKeyspace, "trading", Origin::Created), resource(ResourceKind::CassandraTable, "trading.ticks", Origin::Created)]
}

fn planned(spec: &Cassandra, actual: &Actual, resources: &[ResourceStatus]) -> Plan {
    plan(&Desired::of(spec), actual, Recorded { topics: &[], resources }, &owner())
}

fn refusals(node: &NodePlan) -> Vec<(RefusalReason, &str)> {
    match &node.state {
        NodeState::Refused(refusals) => refusals.iter().map(|refusal| (refusal.reason, refusal.field.as_str())).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn from_nothing() {
    let plan = planned(&spec(), &Actual { cluster_name: "test".into(), ..Actual::default() }, &[]);
    let cql: Vec<String> = plan
        .nodes
        .iter()
        .flat_map(|node| &node.ops)
        .map(|op| match op {
            Op::Create(cql) | Op::Alter(cql) => cql.clone(),
            Op::AddColumns { columns, .. } => format!("add {columns:?}"),
            Op::Claim(row) => format!("claim {} {} {}", row.kind, row.name, row.origin),
            Op::Store(row) => format!("store {} {} {}", row.kind, row.name, row.origin),
        })
        .collect();
    insta::assert_yaml_snapshot!(cql, @r#"
    - "CREATE KEYSPACE IF NOT EXISTS \"trading\" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': '1'}"
    - "CREATE TABLE IF NOT EXISTS \"trading\".tapeline_progress (kafka_cluster text, query text, topic text, partition int, epoch bigint, next_offset bigint, write_time bigint, sink_table text, plan_hash text, updated_at timestamp, PRIMARY KEY ((kafka_cluster, query, topic), partition))"
    - "CREATE TABLE IF NOT EXISTS \"trading\".tapeline_resources (kind text, name text, owner text, origin text, spec_hash text, PRIMARY KEY ((kind, name)))"
    - claim CassandraKeyspace trading Created
    - claim CassandraTable ticks Creating
    - "CREATE TABLE IF NOT EXISTS \"trading\".\"ticks\" (\"id\" bigint, \"at\" timestamp, \"price\" double, PRIMARY KEY ((\"id\"), \"at\")) WITH CLUSTERING ORDER BY (\"at\" DESC) AND default_time_to_live = 2592000"
    - store CassandraTable ticks Created
    "#);
    let records = plan.records();
    let creating: Vec<_> = records.resources.iter().map(|resource| (resource.kind, resource.name.as_str(), resource.origin)).collect();
    assert_eq!(creating, [(ResourceKind::CassandraKeyspace, "trading", Origin::Creating), (ResourceKind::CassandraTable, "trading.ticks", Origin::Creating)]);
    assert_eq!(records.losses, vec![]);
}

#[test]
fn what_is_as_declared_needs_nothing() {
    for resources in [known(), Vec::new()] {
        let plan = planned(&spec(), &converged(), &resources);
        assert!(plan.is_empty(), "{plan:?}");
        assert!(plan.records().is_empty());
        assert!(plan.nodes.iter().all(|node| node.state == NodeState::AsDeclared && node.origin == Some(Origin::Created)));
    }
}

#[test]
fn a_column_is_added_and_one_that_is_not_declared_stays() {
    let mut actual = converged();
    let shape = actual.tables.values_mut().next().unwrap();
    shape.columns.remove("price");
    shape.columns.insert("note".into(), column(CqlType::Text));
    let plan = planned(&spec(), &actual, &known());
    assert_eq!(plan.nodes[1].ops, vec![Op::AddColumns { table: "ticks".parse().unwrap(), columns: vec![spec().tables[0].columns[2].clone()] }]);
}

#[rstest]
#[case::partition_key(|table: &mut TableShape| table.partition_key = vec!["id".into(), "at".into()], "spec.cassandra.tables[0].partitionKey")]
#[case::order(|table: &mut TableShape| table.clustering_key = vec![("at".into(), Order::Asc)], "spec.cassandra.tables[0].clusteringKey")]
#[case::type_(|table: &mut TableShape| _ = table.columns.insert("price".into(), column(CqlType::Float)), "spec.cassandra.tables[0].columns[2].type")]
fn what_would_lose_data_is_refused(#[case] differ: fn(&mut TableShape), #[case] field: &str) {
    let mut actual = converged();
    differ(actual.tables.values_mut().next().unwrap());
    let plan = planned(&spec(), &actual, &known());
    assert_eq!(refusals(&plan.nodes[1]), vec![(RefusalReason::WouldLoseData, field)]);
    assert!(plan.is_empty());
}

#[test]
fn all_that_is_wrong_with_a_table_is_told_at_once() {
    let mut actual = converged();
    let shape = actual.tables.values_mut().next().unwrap();
    shape.partition_key.clear();
    shape.columns.insert("price".into(), ColumnShape { type_: None, type_text: "frozen<list<int>>".into(), is_static: false });
    let plan = planned(&spec(), &actual, &known());
    let NodeState::Refused(refusals) = &plan.nodes[1].state else { panic!() };
    assert_eq!(refusals.len(), 2);
    assert_eq!(
        refusals[1].message,
        "column price of table trading.ticks is frozen<list<int>> and double is declared; Cassandra cannot change a column's type: declare frozen<list<int>>, \
        or add a column under another name"
    );
}

#[rstest]
#[case::shorter(Some("1h"), Origin::Created, Some(3_600))]
#[case::taken_out_of_our_own(None, Origin::Created, Some(0))]
#[case::not_said_of_one_that_was_found(None, Origin::Adopted, None)]
fn time_to_live(#[case] declared: Option<&str>, #[case] origin: Origin, #[case] seconds: Option<i32>) {
    let mut spec = spec();
    spec.tables[0].ttl = declared.map(|ttl| ttl.parse().unwrap());
    let mut actual = converged();
    for row in actual.owners.as_mut().unwrap().iter_mut().filter(|row| row.kind == "CassandraTable") {
        row.origin = origin.to_string();
    }
    let plan = planned(&spec, &actual, &known());
    let altered = plan.nodes[1].ops.iter().find_map(|op| if let Op::Alter(cql) = op { Some(cql.clone()) } else { None });
    assert_eq!(altered, seconds.map(|seconds| format!("ALTER TABLE \"trading\".\"ticks\" WITH default_time_to_live = {seconds}")));
}

#[test]
fn a_table_that_was_there_is_taken_over_once() {
    let mut actual = converged();
    actual.owners.as_mut().unwrap().retain(|row| row.kind != "CassandraTable");
    let plan = planned(&spec(), &actual, &[]);
    assert!(matches!(&plan.nodes[1].ops[..], [Op::Claim(row)] if row.origin == "Adopted"));
    assert_eq!(plan.nodes[1].origin, Some(Origin::Adopted));
}

#[test]
fn a_table_of_another_pipeline_is_a_conflict() {
    let mut actual = converged();
    for row in actual.owners.as_mut().unwrap() {
        row.owner = other().as_str().into();
    }
    let plan = planned(&spec(), &actual, &[]);
    assert!(plan.is_empty());
    assert_eq!(plan.nodes[0].state, NodeState::AsDeclared, "a keyspace is shared");
    assert_eq!(refusals(&plan.nodes[1]), vec![(RefusalReason::ResourceConflict, "spec.cassandra.tables[0]")]);
}

#[test]
fn a_materialized_view_of_that_name_is_a_conflict() {
    let mut actual = converged();
    actual.tables.clear();
    actual.owners = Some(Vec::new());
    actual.other.insert("ticks".parse().unwrap(), "a materialized view".into());
    assert_eq!(refusals(&planned(&spec(), &actual, &[]).nodes[1]), vec![(RefusalReason::ResourceConflict, "spec.cassandra.tables[0]")]);
}

#[rstest]
#[case::by_status_and_row(true, known())]
#[case::by_row_alone(true, Vec::new())]
#[case::by_status_alone(false, known())]
fn a_dropped_table_is_created_again_and_lost(#[case] row: bool, #[case] resources: Vec<ResourceStatus>) {
    let mut actual = converged();
    actual.tables.clear();
    if !row {
        actual.owners = Some(Vec::new());
    }
    let plan = planned(&spec(), &actual, &resources);
    assert!(matches!(plan.nodes[1].state, NodeState::Recreated(_)));
    assert!(plan.nodes[1].ops.iter().any(|op| matches!(op, Op::Create(_))));
    let records = plan.records();
    assert_eq!(records.losses.iter().map(|loss| loss.node.name.as_str()).collect::<Vec<_>>(), ["trading.ticks"]);
    assert_eq!(records.resources.iter().map(|resource| resource.origin).collect::<Vec<_>>(), [Origin::Creating]);
}

#[test]
fn the_same_name_on_another_cluster_is_another_table() {
    let elsewhere: Vec<_> = known().into_iter().map(|resource| ResourceStatus { server: Some("another".into()), ..resource }).collect();
    let plan = planned(&spec(), &Actual { cluster_name: "test".into(), ..Actual::default() }, &elsewhere);
    assert_eq!(plan.records().losses, vec![]);
}

#[test]
fn dropped_progress_is_told() {
    let plan = planned(&spec(), &Actual { progress_table: false, ..converged() }, &known());
    assert_eq!(plan.records().losses.len(), 1);
    assert!(matches!(&plan.nodes[0].ops[..], [Op::Create(_)]));
}

#[rstest]
#[case::of_ours(Some(owner()), RefusalReason::WouldLoseData)]
#[case::of_nobody(None, RefusalReason::WouldLoseData)]
#[case::of_another_pipeline(Some(other()), RefusalReason::ResourceConflict)]
fn replication_is_not_changed(#[case] of: Option<Owner>, #[case] reason: RefusalReason) {
    let mut actual = Actual { replication: Some(simple("3")), ..converged() };
    let owners = actual.owners.as_mut().unwrap();
    match of {
        Some(of) => owners.iter_mut().for_each(|row| row.owner = of.as_str().into()),
        None => owners.retain(|row| row.kind != "CassandraKeyspace"),
    }
    let plan = planned(&spec(), &actual, &[]);
    assert_eq!(refusals(&plan.nodes[0]), vec![(reason, "spec.cassandra.replication")]);
    assert!(plan.nodes[0].ops.is_empty());
}

#[test]
fn who_wants_other_replication_is_told_how() {
    let plan = planned(&spec(), &Actual { replication: Some(simple("3")), ..converged() }, &known());
    let NodeState::Refused(refusals) = &plan.nodes[0].state else { panic!() };
    assert!(
        refusals[0].message.ends_with(
            "run: ALTER KEYSPACE \"trading\" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': '1'}; then nodetool repair --full trading \
            on each node, and resume them"
        ),
        "{}",
        refusals[0].message
    );
}
