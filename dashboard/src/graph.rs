//! The pipeline as a graph from left to right: producers, topics, queries, and what these write to. Its places are computed here, so that the page is whole without
//! JavaScript. Pure.

use std::collections::BTreeMap;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::TopicName;
use tapeline_api::pipeline::queries::Target;

/// Width of a node, in pixels.
pub const WIDTH: i32 = 236;
/// Height of a node.
pub const HEIGHT: i32 = 88;
const GAP_X: i32 = 90;
const GAP_Y: i32 = 16;
const MARGIN: i32 = 4;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// What feeds a topic.
    Producer,
    /// A topic.
    Topic,
    /// A query.
    Query,
    /// A table of Cassandra.
    Cassandra,
    /// A table of MySQL.
    MySql,
    /// A collection of MongoDB.
    MongoDb,
    /// Nowhere.
    Blackhole,
}

impl Kind {
    /// In words, for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Topic => "topic",
            Self::Query => "query",
            Self::Cassandra => "Cassandra",
            Self::MySql => "MySQL",
            Self::MongoDb => "MongoDB",
            Self::Blackhole => "nowhere",
        }
    }
}

impl Kind {
    /// Several, in words.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Producer => "Producers",
            Self::Topic => "Topics",
            Self::Query => "Queries",
            Self::Cassandra => "Tables of Cassandra",
            Self::MySql => "Tables of MySQL",
            Self::MongoDb => "Collections of MongoDB",
            Self::Blackhole => "Nowhere",
        }
    }
}

/// A node and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its name in the pipeline.
    pub name: String,
    /// Left edge.
    pub x: i32,
    /// Upper edge.
    pub y: i32,
}

/// An arrow between two nodes, as the path of an SVG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Where it begins, in [`Graph::nodes`].
    pub from: usize,
    /// Where it ends.
    pub to: usize,
    /// The path.
    pub path: String,
}

/// All nodes and arrows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// The nodes, column by column.
    pub nodes: Vec<Node>,
    /// The arrows.
    pub edges: Vec<Edge>,
    /// Of the whole, in pixels.
    pub width: i32,
    /// Of the whole.
    pub height: i32,
}

impl Graph {
    /// The nodes that give to the one at `index`.
    pub fn before(&self, index: usize) -> impl Iterator<Item = &Node> {
        self.edges.iter().filter(move |edge| edge.to == index).filter_map(move |edge| self.nodes.get(edge.from))
    }

    /// The nodes that the one at `index` gives to.
    pub fn behind(&self, index: usize) -> impl Iterator<Item = &Node> {
        self.edges.iter().filter(move |edge| edge.from == index).filter_map(move |edge| self.nodes.get(edge.to))
    }
}

type Id = (Kind, String);

/// The graph of a pipeline.
#[must_use]
pub fn graph(spec: &TradingPipelineSpec) -> Graph {
    let arrows = arrows(spec);
    let mut order: Vec<Id> = Vec::new();
    let topics = spec.kafka.topics.iter().map(|topic| (Kind::Topic, topic.name.to_string()));
    let wired = arrows.iter().flat_map(|(from, to)| [from.clone(), to.clone()]);
    // A dead-letter topic is a part of its stream, and one that is only declared hangs on nothing.
    let letters: Vec<&str> = spec.streams.iter().filter_map(|stream| stream.dead_letter_topic.as_ref()).map(TopicName::as_str).collect();
    for id in wired.chain(topics.filter(|(_, name)| !letters.contains(&name.as_str()))) {
        if !order.contains(&id) {
            order.push(id);
        }
    }
    let columns = columns(&order, &arrows);
    let mut rows: BTreeMap<usize, i32> = BTreeMap::new();
    let mut nodes: Vec<Node> = Vec::new();
    for (id, column) in order.iter().zip(columns) {
        let row = rows.entry(column).or_default();
        let x = MARGIN + i32::try_from(column).unwrap_or(0) * (WIDTH + GAP_X);
        nodes.push(Node { kind: id.0, name: id.1.clone(), x, y: MARGIN + *row * (HEIGHT + GAP_Y) });
        *row += 1;
    }
    let edges = arrows.iter().filter_map(|(from, to)| {
        let (from, to) = (order.iter().position(|id| id == from)?, order.iter().position(|id| id == to)?);
        Some(Edge { from, to, path: path(nodes.get(from)?, nodes.get(to)?) })
    });
    let edges = edges.collect();
    let width = nodes.iter().map(|node| node.x + WIDTH + MARGIN).max().unwrap_or(0);
    let height = nodes.iter().map(|node| node.y + HEIGHT + MARGIN).max().unwrap_or(0);
    Graph { nodes, edges, width, height }
}

/// Who gives to whom.
fn arrows(spec: &TradingPipelineSpec) -> Vec<(Id, Id)> {
    let mut arrows = Vec::new();
    for producer in &spec.producers {
        for (_, topic) in producer.topics() {
            arrows.push(((Kind::Producer, producer.name.to_string()), (Kind::Topic, topic.to_string())));
        }
    }
    for query in &spec.queries {
        let id = (Kind::Query, query.name.to_string());
        let read = relations(&query.sql);
        for stream in spec.streams.iter().filter(|stream| read.iter().any(|name| name == stream.name.as_str())) {
            let arrow = ((Kind::Topic, stream.topic.to_string()), id.clone());
            if !arrows.contains(&arrow) {
                arrows.push(arrow);
            }
        }
        let to = match query.sink.target() {
            Some(Target::Cassandra(sink)) => (Kind::Cassandra, sink.table.to_string()),
            Some(Target::MySql(sink)) => (Kind::MySql, sink.table.to_string()),
            Some(Target::MongoDb(sink)) => (Kind::MongoDb, sink.collection.to_string()),
            Some(Target::Kafka(sink)) => (Kind::Topic, sink.topic.to_string()),
            Some(Target::Blackhole) => (Kind::Blackhole, query.name.to_string()),
            None => continue,
        };
        arrows.push((id, to));
    }
    arrows
}

/// The names that stand in `sql` where a stream, table or view can: after FROM, JOIN, or a comma in between, in lower case. The planner knows better; a picture needs no more.
#[must_use]
pub fn relations(sql: &str) -> Vec<String> {
    let (mut names, mut outer) = (Vec::new(), Vec::new());
    let (mut is_next, mut in_from) = (false, false);
    for token in tokens(sql) {
        match token.as_str() {
            "from" | "join" => (is_next, in_from) = (true, true),
            "," => is_next = in_from,
            "(" => {
                outer.push(in_from);
                (is_next, in_from) = (false, false);
            }
            ")" => (is_next, in_from) = (false, outer.pop().unwrap_or_default()),
            "select" | "on" | "using" | "where" | "group" | "having" | "order" | "limit" | "union" => (is_next, in_from) = (false, false),
            // `trading.volumes` is the table `volumes`.
            name if is_next => {
                names.extend(name.rsplit('.').next().map(str::to_owned));
                is_next = false;
            }
            _ => {}
        }
    }
    names
}

/// The words (with points in them) and the commas and parentheses of `sql`, without texts and comments. A quoted name is a word.
fn tokens(sql: &str) -> Vec<String> {
    let (mut tokens, mut rest) = (Vec::new(), sql);
    let skip = |rest: &str, end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    while let Some(letter) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"' | '`');
        let length = if rest.starts_with("--") {
            skip(rest, "\n")
        } else if rest.starts_with("/*") {
            skip(rest, "*/")
        } else if letter == '\'' {
            1 + skip(rest.get(1..).unwrap_or_default(), "'")
        } else if is_word(letter) {
            let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            tokens.extend(rest.get(..length).map(|word| word.replace(['"', '`'], "").to_lowercase()));
            length
        } else {
            tokens.extend(matches!(letter, ',' | '(' | ')').then(|| letter.to_string()));
            letter.len_utf8()
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    tokens
}

/// The column of each node: one to the right of the rightmost that gives to it. Topics stand right of producers even where nobody feeds them.
fn columns(order: &[Id], arrows: &[(Id, Id)]) -> Vec<usize> {
    let has_producers = order.iter().any(|(kind, _)| *kind == Kind::Producer);
    let mut columns: Vec<usize> = order.iter().map(|(kind, _)| usize::from(*kind != Kind::Producer && has_producers)).collect();
    // As many rounds as there are nodes: a circle, which the operator refuses, comes to an end, too.
    for _ in 0..order.len() {
        for (from, to) in arrows {
            let place = |id: &Id| order.iter().position(|known| known == id);
            if let (Some(from), Some(to)) = (place(from), place(to)) {
                let least = columns.get(from).copied().unwrap_or(0) + 1;
                if let Some(column) = columns.get_mut(to).filter(|column| **column < least && least < order.len()) {
                    *column = least;
                }
            }
        }
    }
    columns
}

fn path(from: &Node, to: &Node) -> String {
    let (x1, y1, x2, y2) = (from.x + WIDTH, from.y + HEIGHT / 2, to.x, to.y + HEIGHT / 2);
    let bend = ((x2 - x1) / 2).max(GAP_X / 2);
    format!("M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}", x1 + bend, x2 - bend)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn spec(queries: serde_json::Value) -> TradingPipelineSpec {
        serde_json::from_value(json!({
            "kafka": {"bootstrapServers": "k:9092", "topics": [{"name": "trades"}, {"name": "alone"}, {"name": "trades.dead"}]},
            "streams": [{"name": "ticks", "topic": "trades", "deadLetterTopic": "trades.dead", "fields": [{"name": "id", "type": "bigint"}]},
                {"name": "ticks_out", "topic": "out", "fields": [{"name": "id", "type": "bigint"}]}],
            "queries": queries,
            "producers": [{"name": "market", "topic": "trades", "source": {"simulate": {"interval": "1s", "symbolsFrom": {"mysql": {"table": "profile"}}}}}],
        }))
        .unwrap()
    }

    #[test]
    fn a_pipeline_reads_from_left_to_right() {
        let queries = json!([
            {"name": "raw", "sql": "SELECT * FROM ticks", "sink": {"cassandra": {"table": "every"}}},
            {"name": "again", "sql": "SELECT * FROM Ticks", "sink": {"kafka": {"topic": "out"}}},
            {"name": "last", "sql": "SELECT * FROM ticks_out", "sink": {"mysql": {"table": "t", "mode": "Append"}}},
        ]);
        let graph = graph(&spec(queries));
        let column = |name: &str| graph.nodes.iter().find(|node| node.name == name).map(|node| (node.x - MARGIN) / (WIDTH + GAP_X));
        let columns = ["market", "trades", "alone", "raw", "again", "every", "out", "last", "t"].map(column);
        assert_eq!(columns, [0, 1, 1, 2, 2, 3, 3, 4, 5].map(Some));
        assert_eq!(column("trades.dead"), None);
        assert_eq!(graph.edges.len(), 7);
        assert_eq!((graph.width, graph.height), (6 * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN, 2 * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN));
        for (index, one) in graph.nodes.iter().enumerate() {
            assert!(graph.nodes.iter().skip(index + 1).all(|other| (one.x, one.y) != (other.x, other.y)), "{} stands on another", one.name);
        }
    }

    #[rstest]
    #[case::one("SELECT ticks.id FROM ticks_out", &["ticks_out"])]
    #[case::joined("select * from Ticks t JOIN profile p ON t.id = p.id WHERE f(a, ticks_out) = 1", &["ticks", "profile"])]
    #[case::listed("SELECT a, b FROM (SELECT max(a, b) FROM x) AS y, trading.z GROUP BY a, b", &["x", "z"])]
    #[case::texts_and_comments("SELECT 'it''s from a', 1 -- from b\n /* from c */ FROM \"d\" WHERE e = 'from f'", &["d"])]
    #[case::nothing("SELECT 1", &[])]
    #[case::not_sql("'; -- ünd /*", &[])]
    fn relations_stand_behind_from_and_join(#[case] sql: &str, #[case] expected: &[&str]) {
        assert_eq!(relations(sql), expected);
    }

    #[test]
    fn all_streams_of_a_query_point_to_it_and_words_do_not() {
        let queries = json!([
            {"name": "both", "sql": "SELECT 'ticks' FROM ticks_out JOIN ticks USING (id)", "sink": {"blackhole": {}}},
            {"name": "one", "sql": "SELECT 'ticks' AS ticks FROM ticks_out", "sink": {"blackhole": {}}},
        ]);
        let graph = graph(&spec(queries));
        let into = |name: &str| -> Vec<&str> {
            let index = graph.nodes.iter().position(|node| node.name == name && node.kind == Kind::Query).unwrap();
            graph.before(index).map(|node| node.name.as_str()).collect()
        };
        assert_eq!((into("both"), into("one")), (vec!["trades", "out"], vec!["out"]));
    }

    #[test]
    fn a_circle_comes_to_an_end() {
        let queries = json!([{"name": "round", "sql": "SELECT * FROM ticks", "sink": {"kafka": {"topic": "trades"}}}]);
        assert!(graph(&spec(queries)).width < 10_000);
    }

    #[test]
    fn nothing_is_no_graph() {
        let empty = serde_json::from_value(json!({"kafka": {"bootstrapServers": "k:9092"}})).unwrap();
        assert_eq!(graph(&empty), Graph::default());
    }
}
