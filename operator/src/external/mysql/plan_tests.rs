use std::collections::BTreeMap;
use std::sync::Arc;

use rstest::rstest;
use serde_json::json;
use tapeline_api::pipeline::mysql::{MySql, MySqlColumn};
use tapeline_api::pipeline::status::{Origin, ResourceKind, ResourceStatus};
use tapeline_api::types::MySqlType;

use super::*;
use crate::external::mysql::{COUNTED, ColumnShape, IndexShape, TableShape, ViewShape};
use crate::external::{ErrorClass, ExternalError, Owner, RefusalReason};

fn owner() -> Owner {
    Owner::new("c1", "trading", "volume")
}

fn name(text: &str) -> SqlName {
    text.parse().unwrap()
}

fn spec() -> MySql {
    serde_json::from_value(json!({
        "host": "mysql.data",
        "credentialsSecretRef": {"name": "mysql"},
        "database": "trading",
        "tables": [{
            "name": "profile",
            "columns": [
                {"name": "ticker", "type": "varchar(16)"},
                {"name": "sector", "type": "varchar(64)"},
                {"name": "shares", "type": "int"},
                {"name": "active", "type": "boolean", "nullable": false},
            ],
            "primaryKey": ["ticker"],
            "indexes": [{"columns": ["sector", "ticker"]}],
            "rowsFrom": {"configMapKeyRef": {"name": "profile", "key": "profile.csv"}},
        }],
        "views": [{"name": "by_sector", "sql": "SELECT sector, COUNT(*) AS companies FROM profile GROUP BY sector;"}],
    }))
    .unwrap()
}

const CSV: &str = "ticker,sector,shares,active\nTMAS.JK,Logistics,12,true\n";

fn desired(spec: &MySql) -> Desired {
    Desired::of(spec, &BTreeMap::from([(name("profile"), Arc::from(CSV))]))
}

fn column(name: &str, type_: &str, nullable: bool) -> ColumnShape {
    let type_: MySqlType = type_.parse().unwrap();
    let collation = type_.is_text().then(|| ddl::KEY_COLLATION.to_owned());
    ColumnShape { name: name.into(), type_: Some(type_), type_text: type_.to_string(), nullable, collation, ..ColumnShape::default() }
}

fn shape() -> TableShape {
    TableShape {
        columns: vec![
            column("ticker", "varchar(16)", false),
            column("sector", "varchar(64)", true),
            column("shares", "int", true),
            column("active", "boolean", false),
        ],
        primary_key: vec!["ticker".into()],
        indexes: vec![IndexShape { name: "ix_sector_ticker".into(), columns: vec!["sector".into(), "ticker".into()] }],
        engine: "InnoDB".into(),
    }
}

fn view() -> ViewShape {
    ViewShape { definition: "select `trading`.`profile`.`sector` ..".into(), security: "INVOKER".into() }
}

fn nothing() -> Actual {
    Actual { server_uuid: "s".into(), ..Actual::default() }
}

/// All as [`spec`] declares it, and this pipeline's.
fn converged() -> Actual {
    let mut owners: Vec<OwnerRow> = Vec::new();
    for op in plan(&desired(&spec()), &nothing(), Recorded::default(), &owner()).nodes.into_iter().flat_map(|node| node.ops) {
        let row = match op {
            Op::Claim(row) | Op::Store(row) | Op::LoadRows(Load { row, .. }) => row,
            Op::PutView(declared) => OwnerRow::new("MySQLView", declared.name.as_str(), &owner(), Origin::Created, views::fingerprint(&declared, &view())),
            Op::CreateDatabase(_) | Op::CreateTable(_) | Op::Alter(_) => continue,
        };
        owners.retain(|before| (&before.kind, &before.name) != (&row.kind, &row.name));
        owners.push(row);
    }
    Actual {
        database: true,
        tables: BTreeMap::from([(name("profile"), shape())]),
        views: BTreeMap::from([(name("by_sector"), view())]),
        progress_table: true,
        owners: Some(owners),
        ..nothing()
    }
}

fn resource(kind: ResourceKind, name: &str) -> ResourceStatus {
    ResourceStatus { kind, name: name.into(), origin: Origin::Created, server: Some("s".into()) }
}

fn known() -> Vec<ResourceStatus> {
    vec![
        resource(ResourceKind::MySQLDatabase, "trading"),
        resource(ResourceKind::MySQLTable, "trading.profile"),
        resource(ResourceKind::MySQLView, "trading.by_sector"),
    ]
}

fn planned(spec: &MySql, actual: &Actual, resources: &[ResourceStatus]) -> Plan {
    plan(&desired(spec), actual, Recorded { topics: &[], resources }, &owner())
}

fn show(op: &Op) -> String {
    match op {
        Op::CreateDatabase(sql) | Op::CreateTable(sql) | Op::Alter(sql) => sql.lines().next().unwrap_or_default().to_owned(),
        Op::Claim(row) => format!("claim {} {} {}", row.kind, row.name, row.origin),
        Op::Store(row) => format!("store {} {} {}", row.kind, row.name, row.origin),
        Op::PutView(view) => format!("view {}", view.name),
        Op::LoadRows(load) => format!("load {} rows into {}", load.rows.rows.len(), load.table),
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

#[test]
fn from_nothing() {
    let plan = planned(&spec(), &nothing(), &[]);
    let ops: Vec<String> = plan.nodes.iter().flat_map(ops).collect();
    insta::assert_yaml_snapshot!(ops, @r#"
    - "CREATE DATABASE IF NOT EXISTS `trading` CHARACTER SET utf8mb4"
    - "CREATE TABLE IF NOT EXISTS `tapeline_progress` ("
    - "CREATE TABLE IF NOT EXISTS `tapeline_resources` ("
    - claim MySQLTable profile Creating
    - "CREATE TABLE IF NOT EXISTS `trading`.`profile` (`ticker` varchar(16) COLLATE utf8mb4_0900_bin NOT NULL, `sector` varchar(64) NULL, `shares` int NULL, `active` boolean NOT NULL, PRIMARY KEY (`ticker`), INDEX `ix_sector_ticker` (`sector`, `ticker`)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    - store MySQLTable profile Created
    - load 1 rows into profile
    - claim MySQLView by_sector Creating
    - view by_sector
    "#);
    assert_eq!(plan.records().resources.len(), 3);
    assert_eq!(plan.records().losses, vec![]);
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

/// The plan for the table, when it differs from what is declared.
fn differing(differ: impl FnOnce(&mut Actual, &mut TableShape)) -> NodePlan {
    let mut actual = converged();
    let mut shape = shape();
    differ(&mut actual, &mut shape);
    actual.tables.insert(name("profile"), shape);
    planned(&spec(), &actual, &known()).nodes.swap_remove(1)
}

#[test]
fn columns_and_indexes_are_added() {
    let plan = differing(|actual, shape| {
        shape.columns.retain(|column| !matches!(column.name.as_str(), "shares" | "active"));
        shape.columns.push(column("note", "text", true));
        shape.indexes.clear();
        actual.rows.insert(name("profile"), 0);
    });
    assert_eq!(
        ops(&plan),
        [
            "ALTER TABLE `trading`.`profile` ADD COLUMN `shares` int NULL",
            "ALTER TABLE `trading`.`profile` ADD COLUMN `active` boolean NOT NULL",
            "ALTER TABLE `trading`.`profile` ADD INDEX `ix_sector_ticker` (`sector`, `ticker`)",
        ]
    );
}

#[rstest]
#[case::small(5, vec!["ALTER TABLE `trading`.`profile` MODIFY COLUMN `shares` int NULL"], vec![])]
#[case::large(COUNTED, vec![], vec![(RefusalReason::Incompatible, "spec.mysql.tables[0].columns")])]
fn a_column_is_made_wider_by_a_rewrite_of_a_small_table(#[case] rows: u64, #[case] does: Vec<&str>, #[case] refuses: Vec<(RefusalReason, &str)>) {
    let plan = differing(|actual, shape| {
        shape.columns[2] = column("shares", "smallint", true);
        actual.rows.insert(name("profile"), rows);
    });
    let alters: Vec<String> = ops(&plan).into_iter().filter(|op| op.starts_with("ALTER")).collect();
    assert_eq!((alters, refusals(&plan)), (does.into_iter().map(str::to_owned).collect(), refuses));
}

#[test]
fn a_longer_text_keeps_its_collation_and_needs_no_rewrite() {
    let mut spec = spec();
    spec.tables[0].columns[0].type_ = MySqlType::Varchar(63);
    let mut actual = converged();
    actual.rows.insert(name("profile"), COUNTED);
    let plan = planned(&spec, &actual, &known());
    assert_eq!(ops(&plan.nodes[1])[0], "ALTER TABLE `trading`.`profile` MODIFY COLUMN `ticker` varchar(63) COLLATE utf8mb4_0900_bin NOT NULL");
}

#[rstest]
#[case::narrower(|table: &mut TableShape| table.columns[2] = column("shares", "bigint", true), RefusalReason::WouldLoseData, ".columns[2].type")]
#[case::another_type(|table: &mut TableShape| table.columns[2] = column("shares", "date", true), RefusalReason::WouldLoseData, ".columns[2].type")]
#[case::unknown_type(|table: &mut TableShape| table.columns[2].type_ = None, RefusalReason::WouldLoseData, ".columns[2].type")]
#[case::takes_nulls(|table: &mut TableShape| table.columns[3].nullable = true, RefusalReason::WouldLoseData, ".columns[3].nullable")]
#[case::not_null_to_be_added(|table: &mut TableShape| _ = table.columns.pop(), RefusalReason::Incompatible, ".columns[3].nullable")]
#[case::upper_case(|table: &mut TableShape| table.columns[2].name = "Shares".into(), RefusalReason::Incompatible, ".columns[2].name")]
#[case::another_key(|table: &mut TableShape| table.primary_key = vec!["sector".into()], RefusalReason::WouldLoseData, ".primaryKey")]
#[case::no_key(|table: &mut TableShape| table.primary_key.clear(), RefusalReason::WouldLoseData, ".primaryKey")]
#[case::collation(|table: &mut TableShape| table.columns[0].collation = Some("utf8mb4_0900_ai_ci".into()), RefusalReason::Incompatible, ".columns[0]")]
#[case::engine(|table: &mut TableShape| table.engine = "MyISAM".into(), RefusalReason::Incompatible, "")]
fn what_cannot_be_done_is_refused(#[case] differ: fn(&mut TableShape), #[case] reason: RefusalReason, #[case] field: &str) {
    let plan = differing(|actual, shape| {
        differ(shape);
        actual.rows.insert(name("profile"), 5);
    });
    assert_eq!(refusals(&plan), vec![(reason, format!("spec.mysql.tables[0]{field}").as_str())]);
    assert!(plan.ops.is_empty());
}

#[rstest]
#[case::not_there(None, vec!["ALTER TABLE `trading`.`profile` ADD COLUMN `shares_order` binary(24) NULL"], vec![])]
#[case::there(Some("binary(24)"), vec![], vec![])]
#[case::somebody_elses(Some("int"), vec![], vec![(RefusalReason::Incompatible, "spec.mysql.tables[0]")])]
fn what_merging_needs_is_added_and_takes_nothing_over(#[case] found: Option<&str>, #[case] does: Vec<&str>, #[case] refuses: Vec<(RefusalReason, &str)>) {
    let mut desired = desired(&spec());
    let order = MySqlColumn { name: name("shares_order"), type_: MySqlType::Binary(24), auto_increment: false, nullable: true };
    desired.tables[0].added.insert(order.name.clone());
    desired.tables[0].table.columns.push(order);
    let mut actual = converged();
    actual.tables.get_mut(&name("profile")).unwrap().columns.extend(found.map(|type_| column("shares_order", type_, true)));
    let plan = plan(&desired, &actual, Recorded { topics: &[], resources: &known() }, &owner()).nodes.swap_remove(1);
    let alters: Vec<String> = ops(&plan).into_iter().filter(|op| op.starts_with("ALTER")).collect();
    assert_eq!((alters, refusals(&plan)), (does.into_iter().map(str::to_owned).collect(), refuses));
}

#[test]
fn a_default_is_not_lost_by_making_its_column_wider() {
    let plan = differing(|actual, shape| {
        shape.columns[2] = ColumnShape { embellished: true, ..column("shares", "smallint", true) };
        actual.rows.insert(name("profile"), 5);
    });
    assert_eq!(refusals(&plan), vec![(RefusalReason::Incompatible, "spec.mysql.tables[0].columns[2]")]);
}

#[test]
fn a_statement_to_run_by_hand_can_be_run() {
    let plan = differing(|_, shape| shape.columns[0].collation = Some("utf8mb4_0900_ai_ci".into()));
    let NodeState::Refused(refusals) = plan.state else { panic!() };
    assert!(
        refusals[0].message.ends_with("run: ALTER TABLE `trading`.`profile` MODIFY COLUMN `ticker` varchar(16) COLLATE utf8mb4_0900_bin NOT NULL"),
        "{}",
        refusals[0].message
    );
}

#[test]
fn an_auto_increment_that_is_missing_is_refused() {
    let mut spec = spec();
    spec.tables[0].columns[2].auto_increment = true;
    let plan = planned(&spec, &converged(), &known());
    assert_eq!(refusals(&plan.nodes[1]), vec![(RefusalReason::Incompatible, "spec.mysql.tables[0].columns[2].autoIncrement")]);
}

#[test]
fn a_dropped_table_is_lost_and_its_rows_are_loaded_again() {
    let mut actual = converged();
    actual.tables.clear();
    let plan = planned(&spec(), &actual, &known());
    assert!(matches!(plan.nodes[1].state, NodeState::Recreated(_)));
    let ops = ops(&plan.nodes[1]);
    assert_eq!(ops[0], "store Rows profile Created", "forgotten before the table is there");
    assert!(ops[1].starts_with("CREATE TABLE") && ops[2] == "load 1 rows into profile", "{ops:?}");
    let records = plan.records();
    assert_eq!(records.losses.iter().map(|loss| loss.node.name.as_str()).collect::<Vec<_>>(), ["trading.profile"]);
}

#[test]
fn a_table_that_is_not_shown_to_this_user_is_not_lost() {
    let mut actual = converged();
    actual.tables.clear();
    let error = ExternalError { class: ErrorClass::Denied, field: "spec.mysql.credentialsSecretRef".into(), message: "no".into() };
    actual.denied.insert(name("profile"), error.clone());
    let plan = planned(&spec(), &actual, &known());
    assert_eq!((&plan.nodes[1].state, plan.nodes[1].origin), (&NodeState::Waiting(error), None));
    assert!(plan.is_empty() && plan.records().is_empty());
}

#[test]
fn rows_are_loaded_when_the_file_changes() {
    let spec = spec();
    let mut desired = desired(&spec);
    desired.tables[0].rows = Some(Arc::from("ticker,active\nA,1\nB,1\n"));
    let plan = plan(&desired, &converged(), Recorded::default(), &owner());
    assert_eq!(ops(&plan.nodes[1]), ["load 2 rows into profile"]);
    desired.tables[0].rows = None;
    assert!(super::plan(&desired, &converged(), Recorded::default(), &owner()).is_empty(), "a ConfigMap that is gone changes nothing");
}

#[test]
fn a_bad_file_does_not_stop_its_table() {
    let spec = spec();
    let mut desired = desired(&spec);
    desired.tables[0].rows = Some(Arc::from("ticker,active,share\nA,1,2\n"));
    let plan = plan(&desired, &nothing(), Recorded::default(), &owner());
    assert!(ops(&plan.nodes[1]).iter().any(|op| op.starts_with("CREATE TABLE")));
    let NodeState::Refused(refusals) = &plan.nodes[1].state else { panic!() };
    assert_eq!((refusals[0].reason, refusals[0].field.as_str()), (RefusalReason::BadRows, "spec.mysql.tables[0].rowsFrom"));
    assert_eq!(refusals[0].message, "ConfigMap \"profile\" key \"profile.csv\" line 1: table profile has no column \"share\"; did you mean \"shares\"?");
}

#[test]
fn what_belongs_to_another_pipeline_is_a_conflict() {
    let mut actual = converged();
    for row in actual.owners.as_mut().unwrap() {
        row.owner = Owner::new("c1", "other", "sales").as_str().into();
    }
    let plan = planned(&spec(), &actual, &[]);
    assert!(plan.is_empty());
    assert_eq!(refusals(&plan.nodes[1]), vec![(RefusalReason::ResourceConflict, "spec.mysql.tables[0]")]);
    assert_eq!(refusals(&plan.nodes[2]), vec![(RefusalReason::ResourceConflict, "spec.mysql.views[0]")]);
}

#[test]
fn a_table_is_no_view_and_a_view_no_table() {
    let mut actual = Actual { owners: Some(Vec::new()), ..converged() };
    actual.tables = BTreeMap::from([(name("by_sector"), shape())]);
    actual.views = BTreeMap::from([(name("profile"), view())]);
    let plan = planned(&spec(), &actual, &[]);
    assert_eq!(refusals(&plan.nodes[1]), vec![(RefusalReason::ResourceConflict, "spec.mysql.tables[0]")]);
    assert_eq!(refusals(&plan.nodes[2]), vec![(RefusalReason::ResourceConflict, "spec.mysql.views[0]")]);
}

#[test]
fn a_view_that_was_there_is_not_replaced() {
    let mut actual = converged();
    actual.owners.as_mut().unwrap().retain(|row| row.kind != "MySQLView");
    let plan = planned(&spec(), &actual, &[]);
    assert_eq!(refusals(&plan.nodes[2]), vec![(RefusalReason::ResourceConflict, "spec.mysql.views[0]")]);
}

#[rstest]
#[case::altered_by_hand(|_: &mut MySql, actual: &mut Actual| actual.views.get_mut(&name("by_sector")).unwrap().definition.push('x'), "view trading.by_sector \
had been altered and was put back")]
#[case::run_as_its_definer(|_: &mut MySql, actual: &mut Actual| actual.views.get_mut(&name("by_sector")).unwrap().security = "DEFINER".into(), "view \
trading.by_sector had been altered and was put back")]
#[case::declared_anew(|spec: &mut MySql, _: &mut Actual| spec.views[0].sql = "SELECT 1".into(), "replaced view trading.by_sector")]
#[case::dropped(|_: &mut MySql, actual: &mut Actual| actual.views.clear(), "created again view trading.by_sector")]
fn a_view_is_put(#[case] differ: fn(&mut MySql, &mut Actual), #[case] event: &str) {
    let (mut spec, mut actual) = (spec(), converged());
    differ(&mut spec, &mut actual);
    let plan = planned(&spec, &actual, &known());
    assert_eq!(ops(&plan.nodes[2]), ["view by_sector"]);
    assert_eq!(plan.nodes[2].state, NodeState::Changed(event.into()));
    assert_eq!(plan.records().losses, vec![], "a view holds nothing");
}

#[test]
fn dropped_progress_is_told() {
    let plan = planned(&spec(), &Actual { progress_table: false, ..converged() }, &known());
    assert_eq!(plan.records().losses.len(), 1);
    assert_eq!(ops(&plan.nodes[0]), ["CREATE TABLE IF NOT EXISTS `tapeline_progress` ("]);
}

#[test]
fn a_dropped_database_is_told_with_all_that_was_in_it() {
    let plan = planned(&spec(), &nothing(), &known());
    let lost: Vec<String> = plan.records().losses.into_iter().map(|loss| loss.node.name).collect();
    assert_eq!(lost, ["trading", "trading.profile"]);
}
