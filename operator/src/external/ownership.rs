//! Who owns a table, view or collection: the row in `tapeline_resources` beside it, first insert wins. Shared by Cassandra, MySQL and MongoDB.

use std::fmt;

use sha2::{Digest, Sha256};
use tapeline_api::pipeline::status::{Origin, ResourceKind};
use tapeline_api::progress::RESOURCES_TABLE;

use super::{Node, Refusal, RefusalReason};

/// The owner of things: `<uid of the namespace kube-system>/<namespace>/<name>`, so that pipelines of two clusters that share a database are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(String);

impl Owner {
    /// The owner that is the pipeline `namespace/name` in the Kubernetes cluster whose namespace kube-system has the uid `cluster`.
    #[must_use]
    pub fn new(cluster: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{cluster}/{namespace}/{name}"))
    }

    /// As it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A row of `tapeline_resources`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRow {
    /// [`kind_name`]
    pub kind: String,
    /// The table's, view's or collection's name, without the database.
    pub name: String,
    /// An [`Owner`] as stored.
    pub owner: String,
    /// An [`Origin`] as stored.
    pub origin: String,
    /// What was last applied: [`hash`]es.
    pub spec_hash: String,
}

impl OwnerRow {
    /// A row as it is to be stored.
    #[must_use]
    pub fn new(kind: &str, name: &str, owner: &Owner, origin: Origin, spec_hash: String) -> Self {
        Self { kind: kind.to_owned(), name: name.to_owned(), owner: owner.as_str().to_owned(), origin: origin.to_string(), spec_hash }
    }

    /// [`Self::origin`], `Creating` where it cannot be read.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self.origin.as_str() {
            "Created" => Origin::Created,
            "Adopted" => Origin::Adopted,
            "Released" => Origin::Released,
            _ => Origin::Creating,
        }
    }
}

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// This pipeline's, or nobody's yet.
    Free(Option<&'a OwnerRow>),
    /// Another pipeline's.
    Theirs(&'a OwnerRow),
}

/// Whose `name` is, by the rows of the table of owners.
#[must_use]
pub(super) fn standing<'a>(rows: Option<&'a [OwnerRow]>, kind: &str, name: &str, owner: &Owner) -> Standing<'a> {
    match rows.unwrap_or_default().iter().find(|row| row.kind == kind && row.name == name) {
        Some(row) if row.owner != owner.as_str() => Standing::Theirs(row),
        row => Standing::Free(row),
    }
}

/// The `kind` of reference rows, whose row holds the hash of the file that was last loaded.
pub(super) const ROWS_KIND: &str = "Rows";

/// The `kind` under which a thing has its row.
#[must_use]
pub(super) fn kind_name(kind: ResourceKind) -> &'static str {
    kind.into()
}

/// 30 hexadecimal digits of SHA-256, of which two and a separator fit into the column `spec_hash`.
#[must_use]
pub(super) fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().take(15).fold(String::with_capacity(30), |mut text, byte| {
        use fmt::Write;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How a user of the pipeline `owner` would name the owner that is stored as `other`.
#[must_use]
pub(super) fn describe_owner(owner: &Owner, other: &str) -> String {
    let (cluster, name) = other.split_once('/').unwrap_or(("", other));
    let (ours, _) = owner.0.split_once('/').unwrap_or_default();
    if cluster == ours { format!("pipeline {name}") } else { format!("pipeline {name} of another Kubernetes cluster ({cluster})") }
}

/// What a pipeline is told whose table, view or collection belongs to another one. `schema` is the database or keyspace, quoted for SQL and CQL.
#[must_use]
pub(super) fn conflict(node: &Node, owner: &Owner, row: &OwnerRow, schema: &str) -> Refusal {
    let Node { name, field, .. } = node;
    let (kind, key) = (&row.kind, &row.name);
    let release = match node.kind {
        ResourceKind::MongoDBCollection => format!("db.getSiblingDB(\"{schema}\").{RESOURCES_TABLE}.deleteOne({{_id: {{kind: \"{kind}\", name: \"{key}\"}}}})"),
        _ => format!("DELETE FROM {schema}.{RESOURCES_TABLE} WHERE kind = '{kind}' AND name = '{key}'"),
    };
    Refusal {
        reason: RefusalReason::ResourceConflict,
        field: field.clone(),
        message: format!(
            "{name} belongs to {}; only one pipeline can manage it. Take it out of this pipeline (its streams, queries and sinks may name it all the same), \
             give it another name, or take it out of the other pipeline; if that one no longer exists, release it with: \
             {release}",
            describe_owner(owner, &row.owner)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_the_owner_and_the_ways_out() {
        let owner = Owner::new("c1", "trading", "volume");
        let node = Node { kind: ResourceKind::MySQLTable, name: "trading.profile".into(), field: "spec.mysql.tables[0]".into() };
        let row = |owner: &Owner| OwnerRow::new("MySQLTable", "profile", owner, Origin::Created, String::new());
        let text = conflict(&node, &owner, &row(&Owner::new("c1", "other", "sales")), "`trading`").message;
        assert!(text.starts_with("trading.profile belongs to pipeline other/sales;"), "{text}");
        assert!(text.ends_with("DELETE FROM `trading`.tapeline_resources WHERE kind = 'MySQLTable' AND name = 'profile'"), "{text}");
        let text = conflict(&node, &owner, &row(&Owner::new("c2", "trading", "volume")), "`trading`").message;
        assert!(text.contains("belongs to pipeline trading/volume of another Kubernetes cluster (c2);"), "{text}");
        let node = Node { kind: ResourceKind::MongoDBCollection, name: "trading.ticks".into(), field: "spec.mongodb.collections[0]".into() };
        let row = OwnerRow::new("MongoDBCollection", "ticks", &Owner::new("c1", "other", "sales"), Origin::Created, String::new());
        let text = conflict(&node, &owner, &row, "trading").message;
        let release = r#"release it with: db.getSiblingDB("trading").tapeline_resources.deleteOne({_id: {kind: "MongoDBCollection", name: "ticks"}})"#;
        assert!(text.ends_with(release), "{text}");
    }

    #[test]
    fn hashes_keep_parts_apart() {
        assert_eq!(hash(&["a"]).len(), 30);
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
