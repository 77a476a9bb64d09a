//! What must happen to a table. Pure.
//!
//! Columns are added, and made wider where each value keeps its place: as a change of the description alone, or by a rewrite where the table is small
//! ([`COUNTED`]). A larger one is left to a person, with the statement to run, since its writers would wait for minutes.

use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mysql::{MySqlColumn, MySqlTable};
use tapeline_api::pipeline::status::Origin;
use tapeline_api::types::MySqlType;

use super::ddl::{self, KEY_COLLATION, is_key};
use super::plan::{Context, Load, NodePlan, Op};
use super::shape::{ColumnShape, TableShape, Widening, serves, widening};
use super::{COUNTED, DesiredTable, rows};
use crate::external::ownership::{OwnerRow, ROWS_KIND, Standing, hash};
use crate::external::{NodeState, Refusal, RefusalReason};

/// What must happen to the table `desired`.
pub(super) fn plan(context: &Context<'_>, desired: &DesiredTable) -> NodePlan {
    let (database, table) = (&context.desired.database, &desired.table);
    let mut plan = NodePlan::settled(desired.node(database), NodeState::AsDeclared, None);
    let create = ddl::create_table(database, table);
    let Some(entry) = context.books.entry(&mut plan, &table.name, &database.backticked(), hash(&[&create])) else { return plan };
    if context.actual.views.contains_key(&table.name) {
        let message = format!("{} is a view, not a table: use another name, or drop the view", plan.node.name);
        plan.refuse(vec![Refusal::new(RefusalReason::ResourceConflict, &desired.field, message)]);
        return plan;
    }
    if let Some(error) = context.actual.denied.get(&table.name) {
        plan.state = NodeState::Waiting(error.clone());
        return plan;
    }
    if let Some(shape) = context.actual.tables.get(&table.name) {
        existing(context, &mut plan, desired, shape);
        if entry.keep(&mut plan) {
            load(context, &mut plan, desired, false);
        }
    } else {
        // Before the table: if the operator is killed behind it, its rows must not be taken for loaded.
        let forget = match context.books.standing(ROWS_KIND, &table.name) {
            Standing::Free(Some(loaded)) if !loaded.spec_hash.is_empty() => Some(Op::Store(OwnerRow { spec_hash: String::new(), ..loaded.clone() })),
            _ => None,
        };
        entry.create(&mut plan, forget.into_iter().chain([Op::CreateTable(create)]));
        load(context, &mut plan, desired, true);
    }
    plan
}

/// Reference rows, where the file is another one than was loaded, or the table is new.
fn load(context: &Context<'_>, plan: &mut NodePlan, desired: &DesiredTable, new: bool) {
    let (table, Some(text)) = (&desired.table, &desired.rows) else { return };
    let loaded = match context.books.standing(ROWS_KIND, &table.name) {
        Standing::Free(row) => row.map(|row| row.spec_hash.as_str()),
        // The table is ours, so this row is left over from an owner that it no longer has.
        Standing::Theirs(_) => None,
    };
    let spec_hash = hash(&[text]);
    if !new && loaded == Some(spec_hash.as_str()) {
        return;
    }
    let source = table.rows_from.as_ref().map(|from| &from.config_map_key_ref);
    let source = source.map(|key| format!("ConfigMap {:?} key {:?}", key.name.as_str(), key.key.as_str())).unwrap_or_default();
    match rows::parse(text, table) {
        Ok(rows) => {
            plan.changed(format!("loaded {} rows of {source} into table {}", rows.rows.len(), plan.node.name));
            let row = OwnerRow::new(ROWS_KIND, table.name.as_str(), context.books.owner, Origin::Created, spec_hash);
            plan.ops.push(Op::LoadRows(Load { table: table.name.clone(), primary_key: table.primary_key.clone(), rows, row }));
        }
        Err(problems) => {
            let refusal = |problem: String| Refusal::new(RefusalReason::BadRows, format!("{}.rowsFrom", desired.field), format!("{source} {problem}"));
            plan.refuse(problems.into_iter().map(refusal).collect());
        }
    }
}

fn existing(context: &Context<'_>, plan: &mut NodePlan, desired: &DesiredTable, shape: &TableShape) {
    let (database, table, name) = (&context.desired.database, &desired.table, plan.node.name.clone());
    plan.refuse(table_refusals(desired, shape, &name));
    let rows = context.actual.rows.get(&table.name).copied();
    let (mut missing, mut modified) = (Vec::<&MySqlColumn>::new(), Vec::<(String, Widening)>::new());
    for (index, column) in table.columns.iter().enumerate() {
        let field = format!("{}.columns[{index}]", desired.field);
        let decision = match shape.column(column.name.as_str()) {
            None => addition(table, column, shape, rows, &name).map(|()| missing.push(column)),
            Some(actual) if desired.added.contains(&column.name) => {
                if !serves(actual.type_, column.type_) {
                    plan.refuse(vec![Refusal::new(RefusalReason::Incompatible, &desired.field, taken(&name, column, actual))]);
                }
                Ok(())
            }
            Some(actual) => modification(table, column, actual).map(|how| modified.extend(how.map(|how| (ddl::widened(table, column, actual), how)))),
        };
        if let Err((reason, part, message)) = decision {
            let message = message.replace("{table}", &ddl::qualified(database, &table.name));
            plan.refuse(vec![Refusal::new(reason, format!("{field}{part}"), message)]);
        }
    }
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|column| column.name.as_str()).collect();
        plan.changed(format!("added to table {name}: {}", names.join(", ")));
        // One by one: what another operator adds at the same moment leaves out none of the rest.
        plan.ops.extend(missing.iter().map(|column| Op::Alter(ddl::add_column(database, table, column))));
    }
    modify(plan, desired, database, modified, rows);
    let mut taken: Vec<String> = shape.indexes.iter().map(|index| index.name.clone()).collect();
    for index in table.indexes.iter().filter(|index| !ddl::has_index(shape, index)) {
        let index_name = ddl::index_name(index, &taken);
        plan.changed(format!("added index {index_name} to table {name}"));
        plan.ops.push(Op::Alter(ddl::add_index(database, &table.name, index, &index_name)));
        taken.push(index_name);
    }
}

fn modify(plan: &mut NodePlan, desired: &DesiredTable, database: &SqlName, modified: Vec<(String, Widening)>, rows: Option<u64>) {
    if modified.is_empty() {
        return;
    }
    let rewrite = modified.iter().any(|(_, how)| *how == Widening::Rewrite);
    let columns: Vec<String> = modified.into_iter().map(|(column, _)| column).collect();
    let statement = ddl::modify_columns(database, &desired.table.name, &columns);
    if rewrite && rows.is_none_or(|rows| rows >= COUNTED) {
        let message = format!(
            "table {} would have to be rewritten, which stops its writers and takes minutes for its more than {COUNTED} rows: run this when it suits you, \
            after which all is well: {statement}",
            plan.node.name
        );
        plan.refuse(vec![Refusal::new(RefusalReason::Incompatible, format!("{}.columns", desired.field), message)]);
        return;
    }
    plan.changed(format!("changed columns of table {}: {}", plan.node.name, columns.join(", ")));
    plan.ops.push(Op::Alter(statement));
}

/// Reason, what is appended to the column's field, message; `{table}` stands for the quoted table.
type No = (RefusalReason, &'static str, String);

/// A column that mode Merge needs is somebody's.
fn taken(name: &str, column: &MySqlColumn, actual: &ColumnShape) -> String {
    format!(
        "table {name} has a column {} of type {}, and mode Merge needs a column of that name and type {} for its own use: rename it, or the query's column",
        column.name, actual.type_text, column.type_
    )
}

/// Whether a column can be added.
fn addition(table: &MySqlTable, column: &MySqlColumn, shape: &TableShape, rows: Option<u64>, name: &str) -> Result<(), No> {
    // To MySQL they are one.
    if let Some(same) = shape.columns.iter().find(|actual| actual.name.eq_ignore_ascii_case(column.name.as_str())) {
        let message = format!(
            "table {name} has the column {:?}, which is {:?} to MySQL but not to a query: run: ALTER TABLE {{table}} RENAME COLUMN `{}` TO `{}`",
            same.name,
            column.name.as_str(),
            same.name.replace('`', "``"),
            column.name
        );
        return Err((RefusalReason::Incompatible, ".name", message));
    }
    // The rows that are there would all get MySQL's idea of a value: 0, or the empty text.
    if !column.nullable && !is_key(table, &column.name) && rows != Some(0) {
        let message = format!(
            "column {} is to be added to table {name}, which has rows, and takes no nulls: they would all get a made-up value. Declare it nullable, or add it \
            by hand with a value for them",
            column.name
        );
        return Err((RefusalReason::Incompatible, ".nullable", message));
    }
    Ok(())
}

/// What it takes for a column to be as declared; `None` if it is.
fn modification(table: &MySqlTable, column: &MySqlColumn, actual: &ColumnShape) -> Result<Option<Widening>, No> {
    let (name, declared, is) = (&column.name, column.type_, &actual.type_text);
    let key = is_key(table, name);
    let mut how = None;
    if !serves(actual.type_, declared) {
        how = actual.type_.and_then(|from| widening(from, declared));
        if how.is_none() || (key && declared == MySqlType::Text) {
            let message = format!(
                "column {name} is {is} and {declared} is declared, which does not hold all that it can hold: declare {is}, or add a column under another name"
            );
            return Err((RefusalReason::WouldLoseData, ".type", message));
        }
    }
    if actual.nullable && !column.nullable && !key {
        let message = format!(
            "column {name} takes nulls and nullable: false is declared: leave that out, or, once no row has a null there, run: ALTER TABLE {{table}} MODIFY \
            COLUMN {}",
            ddl::column(table, column)
        );
        return Err((RefusalReason::WouldLoseData, ".nullable", message));
    }
    if !actual.nullable && column.nullable && !key {
        how = Some(Widening::Rewrite);
    }
    if key && declared.is_text() && actual.collation.as_deref() != Some(KEY_COLLATION) {
        let message = format!(
            "column {name} of the primary key has the collation {}, by which different texts are the same key: run: ALTER TABLE {{table}} MODIFY COLUMN {}",
            actual.collation.as_deref().unwrap_or("of a binary column"),
            ddl::column(table, column)
        );
        return Err((RefusalReason::Incompatible, "", message));
    }
    if column.auto_increment && !actual.auto_increment {
        let message = format!(
            "column {name} is not numbered by MySQL and autoIncrement: true is declared: leave that out, or run: ALTER TABLE {{table}} MODIFY COLUMN {}",
            ddl::column(table, column)
        );
        return Err((RefusalReason::Incompatible, ".autoIncrement", message));
    }
    if how.is_some() && actual.embellished {
        let message = format!(
            "column {name} is {is} and has to be changed, but it also has a default, a comment or the like, which would be lost: change it by hand with ALTER \
            TABLE {{table}} MODIFY COLUMN .."
        );
        return Err((RefusalReason::Incompatible, "", message));
    }
    Ok(how)
}

fn table_refusals(desired: &DesiredTable, shape: &TableShape, name: &str) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let declared: Vec<&str> = desired.table.primary_key.iter().map(SqlName::as_str).collect();
    if declared != shape.primary_key {
        let is = if shape.primary_key.is_empty() { "none".to_owned() } else { format!("({})", shape.primary_key.join(", ")) };
        let message = format!(
            "the primary key of table {name} is {is} and ({}) is declared; another key would make different rows the same: declare the one that it has, or \
            use another table",
            declared.join(", ")
        );
        refusals.push(Refusal::new(RefusalReason::WouldLoseData, format!("{}.primaryKey", desired.field), message));
    }
    if !shape.engine.eq_ignore_ascii_case("InnoDB") {
        let message =
            format!("table {name} has the engine {}, which knows no transactions: use another table, or run ALTER TABLE .. ENGINE=InnoDB", shape.engine);
        refusals.push(Refusal::new(RefusalReason::Incompatible, &desired.field, message));
    }
    refusals
}
