//! What a user sees who asks the stores: rows as the shells of MySQL and Cassandra print them, documents as mongosh does, messages as kcat does.

use std::env;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use mongodb::bson::Document;
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::value::{CqlValue, Row as CqlRow};
use serde_json::Value;
use sqlx::mysql::MySqlPool;
use sqlx::{AssertSqlSafe, Column as _, Row as _};

use crate::topic;

const CONNECT: Duration = Duration::from_secs(5);

/// The rows of `sql` as text, the columns' names first.
///
/// # Errors
/// MySQL refuses, or does not answer.
pub async fn mysql(pool: &MySqlPool, sql: &str) -> Result<Vec<Vec<String>>> {
    // As text, which is how the server prints values for its own shell.
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(pool).await.with_context(|| sql.to_owned())?;
    let first = rows.first().with_context(|| format!("no rows: {sql}"))?;
    let mut table = vec![first.columns().iter().map(|column| column.name().to_owned()).collect()];
    for row in &rows {
        let cell = |at: usize| Ok(row.try_get_unchecked::<Option<String>, _>(at)?.unwrap_or_else(|| "NULL".to_owned()));
        table.push((0..row.len()).map(cell).collect::<Result<_>>()?);
    }
    Ok(table)
}

/// The rows of `cql`, sorted, since Cassandra has an order of its own; the columns' names first.
///
/// # Errors
/// Cassandra refuses, or does not answer.
pub async fn cassandra(session: &Session, cql: &str) -> Result<Vec<Vec<String>>> {
    let result = session.query_unpaged(cql, ()).await.with_context(|| cql.to_owned())?.into_rows_result()?;
    let header = result.column_specs().iter().map(|column| column.name().to_owned()).collect();
    let mut rows = Vec::new();
    for row in result.rows::<CqlRow>()? {
        rows.push(row?.columns.iter().map(|cell| cell.as_ref().map_or_else(|| Ok("null".to_owned()), printed)).collect::<Result<Vec<_>>>()?);
    }
    rows.sort();
    rows.insert(0, header);
    Ok(rows)
}

/// A session with the Cassandra that asks for user and password, as the user of the examples.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn cassandra_with_users() -> Result<Session> {
    let address = env::var("TESTBED_CASSANDRA_AUTH").unwrap_or_else(|_| "10.99.0.1:9043".to_owned());
    let builder = SessionBuilder::new().known_node(&address).user("tapeline", "tapeline").connection_timeout(CONNECT);
    Box::pin(builder.build()).await.with_context(|| format!("connecting to Cassandra at {address} as tapeline"))
}

/// As cqlsh prints it.
fn printed(value: &CqlValue) -> Result<String> {
    Ok(match value {
        CqlValue::Text(text) | CqlValue::Ascii(text) => text.clone(),
        CqlValue::Int(number) => number.to_string(),
        CqlValue::BigInt(number) => number.to_string(),
        // cqlsh rounds to 5 and 12 digits: the examples have no more.
        CqlValue::Float(number) => number.to_string(),
        CqlValue::Double(number) => number.to_string(),
        CqlValue::Decimal(decimal) => {
            let (digits, scale) = decimal.as_signed_be_bytes_slice_and_exponent();
            ensure!(digits.len() <= 16 && (0..=38).contains(&scale), "a decimal that is too long to be printed here");
            let negative = digits.first().is_some_and(|byte| *byte >= 0x80);
            let number = digits.iter().fold(if negative { -1_i128 } else { 0 }, |number, byte| (number << 8) | i128::from(*byte));
            with_point(number, usize::try_from(scale)?)
        }
        CqlValue::Timestamp(time) => Timestamp::from_millisecond(time.0)?.strftime("%Y-%m-%d %H:%M:%S.%6f+0000").to_string(),
        CqlValue::Uuid(uuid) => uuid.to_string(),
        CqlValue::Boolean(true) => "True".to_owned(),
        CqlValue::Boolean(false) => "False".to_owned(),
        other => anyhow::bail!("{other:?} is nothing that the examples have"),
    })
}

fn with_point(number: i128, scale: usize) -> String {
    let digits = format!("{:0width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let sign = if number < 0 { "-" } else { "" };
    if part.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

/// A client of MongoDB as the user of the examples.
///
/// # Errors
/// The address is none.
pub fn mongodb() -> Result<mongodb::Client> {
    let address = env::var("TESTBED_MONGO").unwrap_or_else(|_| "10.99.0.1:27017".to_owned());
    let credential = Credential::builder().username("tapeline".to_owned()).password("tapeline".to_owned()).source("admin".to_owned()).build();
    let options = ClientOptions::builder()
        .hosts(vec![ServerAddress::parse(&address)?])
        .direct_connection(true)
        .credential(credential)
        .server_selection_timeout(CONNECT)
        .build();
    mongodb::Client::with_options(options).with_context(|| format!("a client of MongoDB at {address}"))
}

/// What mongosh answers to `db.getSiblingDB("..").COLLECTION.countDocuments()`, or to `EJSON.stringify(db.getSiblingDB("..").COLLECTION.findOne(FILTER, PROJECTION))`.
///
/// # Errors
/// It is something else, there is no such document, or MongoDB does not answer.
pub async fn mongosh(client: &mongodb::Client, expression: &str) -> Result<Value> {
    let unknown = || format!("{expression} is not what this understands");
    let call = expression.strip_prefix("EJSON.stringify(").map_or(Some(expression), |call| call.strip_suffix(')')).with_context(unknown)?;
    let (database, call) = call.strip_prefix("db.getSiblingDB(\"").and_then(|call| call.split_once("\").")).with_context(unknown)?;
    let (collection, call) = call.split_once('.').with_context(unknown)?;
    let collection = client.database(database).collection::<Document>(collection);
    if call == "countDocuments()" {
        return Ok(collection.count_documents(Document::new()).await?.into());
    }
    let arguments = call.strip_prefix("findOne(").and_then(|call| call.strip_suffix(')')).with_context(unknown)?;
    let [filter, projection]: [Document; 2] = serde_json::from_str(&format!("[{arguments}]")).with_context(unknown)?;
    let document = collection.find_one(filter).projection(projection).await?.context("there is no such document")?;
    Ok(serde_json::to_value(document)?)
}

/// What `kcat -C -t TOPIC -o beginning -c COUNT` prints of `kafka`, with `| jq length` behind it the number of elements of each message.
///
/// # Errors
/// It is another call, the topic has fewer messages, or Kafka does not answer.
pub async fn kcat(kafka: &str, command: &str) -> Result<String> {
    let (call, filter) = command.split_once(" | ").map_or((command, None), |(call, filter)| (call, Some(filter)));
    let words: Vec<&str> = call.split_whitespace().collect();
    let &["kcat", "-C", "-t", topic, "-o", "beginning", "-c", count] = words.as_slice() else { anyhow::bail!("{command} is not what this understands") };
    let records = topic::records(kafka, topic).await?;
    let payloads: Vec<String> = records.iter().filter_map(|record| String::from_utf8(record.payload.clone()?).ok()).take(count.parse()?).collect();
    ensure!(payloads.len() == count.parse::<usize>()?, "{topic} has {} messages", payloads.len());
    let lines: Result<Vec<String>> = match filter {
        None => Ok(payloads),
        Some("jq length") => payloads.iter().map(|payload| Ok(serde_json::from_str::<Vec<Value>>(payload)?.len().to_string())).collect(),
        Some(other) => anyhow::bail!("{other} is not what this understands"),
    };
    Ok(lines?.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_have_their_point() {
        assert_eq!([with_point(3430, 2), with_point(5, 2), with_point(-5, 2), with_point(7, 0)], ["34.30", "0.05", "-0.05", "7"]);
    }
}
