//! Step 4 (pure): which Deployments the pipeline is to have. A query runs when its own topic, dead-letter topic and table are there and its Secret is read;
//! one that lacks something, or whose store does not answer, keeps the Deployment that it has, untouched.

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::{ItemName, SqlName};
use tapeline_api::pipeline::producers::Producer;
use tapeline_api::pipeline::queries::Query;
use tapeline_api::pipeline::status::{ResourceKind, TradingPipelineStatus};

use super::Target;
use super::build::settings::{self, Identity};
use super::build::{Credentials, Kind, Workload, resources};
use super::check_query;
use super::dereference::{Found, Inputs, Live};
use super::systems::{System, Systems};
use super::validate::{ValidQuery, Validated};
use crate::external::{NodeState, RefusalReason};
use crate::options::Options;
use crate::reason::{Area, Problem, Reason, near_miss};

/// What is to be done about one query or producer.
#[derive(Debug)]
pub struct ItemPlan {
    /// Query or producer.
    pub kind: Kind,
    /// Its name.
    pub name: ItemName,
    /// Its path in the object.
    pub field: String,
    /// What is to be done.
    pub step: Step,
    /// What stands against it, beyond the problems of the specification and of the systems.
    pub problems: Vec<Problem>,
    /// Whether the specification of the item itself is wrong.
    pub invalid: Option<String>,
}

/// What is to be done about an item's Deployment.
#[derive(Debug)]
pub enum Step {
    /// It is to be there, like this.
    Run(Box<Workload>),
    /// It is to be gone.
    Stop,
    /// It is left as it is, since something that it needs is not there: says what.
    Leave(String),
}

/// What everything is built from that is the same for all items.
struct Pipeline<'a> {
    target: &'a Target,
    spec: &'a TradingPipelineSpec,
    options: &'a Options,
    identity: Identity<'a>,
    inputs: &'a Inputs,
    systems: &'a Systems,
    status: &'a TradingPipelineStatus,
}

/// Decides for each query and producer.
#[must_use]
pub fn plan(
    target: &Target,
    options: &Options,
    cluster_id: &str,
    validated: &Validated,
    inputs: &Inputs,
    systems: &Systems,
    status: &TradingPipelineStatus,
) -> Vec<ItemPlan> {
    let identity = Identity { namespace: &target.namespace, pipeline: &target.name, cluster_id };
    let spec = &target.pipeline.spec;
    let pipeline = Pipeline { target, spec, options, identity, inputs, systems, status };
    let queries = spec.queries.iter().enumerate().map(|(index, query)| pipeline.query(index, query, validated));
    let producers = spec.producers.iter().enumerate().map(|(index, producer)| pipeline.producer(index, producer, validated));
    queries.chain(producers).collect()
}

impl Pipeline<'_> {
    fn query(&self, index: usize, query: &Query, validated: &Validated) -> ItemPlan {
        let field = format!("spec.queries[{index}]");
        let invalid = validated.query_problems.get(&query.name).and_then(|problems| problems.first()).map(ToString::to_string);
        let mut item = self.item(Kind::Query, &query.name, field, invalid);
        if self.spec.suspend || query.suspend {
            item.step = Step::Stop;
        } else if let (Some(valid), Step::Run(_) | Step::Leave(_)) = (validated.queries.get(&query.name), &item.step) {
            item.step = match self.query_workload(&item.field, query, valid, &mut item.problems) {
                Ok(workload) => self.guard_name(&mut item.problems, &item.field, workload),
                Err(awaited) => Step::Leave(awaited),
            };
        }
        item
    }

    fn producer(&self, index: usize, producer: &Producer, validated: &Validated) -> ItemPlan {
        let field = format!("spec.producers[{index}]");
        let invalid = validated.producer_problems.get(&producer.name).and_then(|problems| problems.first()).map(ToString::to_string);
        let mut item = self.item(Kind::Producer, &producer.name, field, invalid);
        if self.spec.suspend || producer.suspend {
            item.step = Step::Stop;
        } else if validated.producers.contains(&producer.name) {
            item.step = match self.producer_workload(producer, &mut item.problems) {
                Ok(workload) => self.guard_name(&mut item.problems, &item.field, workload),
                Err(awaited) => Step::Leave(awaited),
            };
        }
        item
    }

    fn item(&self, kind: Kind, name: &ItemName, field: String, invalid: Option<String>) -> ItemPlan {
        let step = Step::Leave(invalid.clone().unwrap_or_else(|| "its stream is not valid".to_owned()));
        let problems = match self.inputs.deployments.get(&(kind, name.clone())) {
            Some(Live::Unread(problem)) => vec![problem.clone()],
            _ => Vec::new(),
        };
        ItemPlan { kind, name: name.clone(), field, step, problems, invalid }
    }

    /// A Deployment of that name which is not ours, or may not be, is never touched.
    fn guard_name(&self, problems: &mut Vec<Problem>, field: &str, workload: Workload) -> Step {
        match self.inputs.deployments.get(&(workload.kind, workload.name.clone())) {
            Some(Live::Foreign) => {}
            Some(Live::Unread(problem)) => return Step::Leave(problem.to_string()),
            Some(Live::Absent | Live::Ours(_)) | None => return Step::Run(Box::new(workload)),
        }
        let object = workload.object_name(&self.target.name);
        let message = format!(
            "a Deployment \"{object}\" exists that does not belong to this pipeline; it is left alone: rename the {}, or delete it",
            workload.kind.as_str()
        );
        problems.push(Problem::waiting(Area::Workers, Reason::NameTaken, format!("{field}.name"), message.clone()));
        Step::Leave(message)
    }

    /// # Errors
    /// What is awaited, in words.
    fn query_workload(&self, field: &str, query: &Query, valid: &ValidQuery, problems: &mut Vec<Problem>) -> Result<Workload, String> {
        let stream = self.spec.streams.get(valid.stream).ok_or("its stream is not valid")?;
        self.topic(stream.topic.as_str())?;
        if let Some(dead_letters) = &stream.dead_letter_topic {
            self.topic(dead_letters.as_str())?;
        }
        let mut credentials = Vec::new();
        if let (Some(sink), Some(cassandra)) = (&query.sink.cassandra, &self.spec.cassandra) {
            let wanted = Wanted {
                system: self.systems.cassandra.as_ref(),
                kind: ResourceKind::CassandraTable,
                schema: &cassandra.keyspace,
                table: &sink.table,
                declared: cassandra.tables.iter().map(|table| table.name.as_str()).collect(),
                query: field,
                store: "cassandra",
            };
            self.table(&wanted, valid, problems)?;
            credentials.extend(mounted(self.inputs.cassandra.as_ref())?);
        } else if let (Some(sink), Some(mysql)) = (&query.sink.mysql, &self.spec.mysql) {
            let wanted = Wanted {
                system: self.systems.mysql.as_ref(),
                kind: ResourceKind::MySQLTable,
                schema: &mysql.database,
                table: &sink.table,
                declared: mysql.tables.iter().map(|table| table.name.as_str()).collect(),
                query: field,
                store: "mysql",
            };
            self.table(&wanted, valid, problems)?;
            credentials.extend(mounted(self.inputs.mysql.as_ref())?);
        }
        let incarnation = self.status.topics.iter().find(|topic| topic.name == stream.topic).and_then(|topic| topic.incarnation).unwrap_or(0);
        let settings = settings::worker(self.identity, self.spec, query, stream, incarnation).ok_or("its sink is not valid")?;
        let exclusive =
            serde_json::to_string(&(&settings.sql, &settings.sink, &settings.stream.topic, settings.topic_incarnation, &settings.kafka, &settings.group_id));
        let workers = self.spec.workers.as_ref();
        Ok(Workload {
            kind: Kind::Query,
            name: query.name.clone(),
            settings: serde_json::to_string_pretty(&settings).map_err(|error| error.to_string())?,
            image: workers.and_then(|workers| workers.image.clone()).unwrap_or_else(|| self.options.worker_image.clone()),
            image_pull_policy: self.options.image_pull_policy.clone(),
            credentials,
            data: None,
            resources: resources(query.resources.as_ref(), workers.and_then(|workers| workers.resources.as_ref())),
            replicas: query.scale.as_ref().map_or(1, |scale| scale.replicas),
            exclusive: exclusive.unwrap_or_default(),
        })
    }

    /// # Errors
    /// What is awaited, in words.
    fn producer_workload(&self, producer: &Producer, problems: &mut Vec<Problem>) -> Result<Workload, String> {
        self.topic(producer.topic.as_str())?;
        let mut credentials = Vec::new();
        if settings::needs_symbols(producer) {
            self.symbols(producer)?;
            credentials.extend(mounted(self.inputs.mysql.as_ref())?);
        }
        let data = match self.inputs.data.get(&producer.name) {
            None => None,
            Some(Ok(data)) => Some(data.clone()),
            Some(Err(problem)) => {
                problems.push(problem.clone());
                return Err(problem.to_string());
            }
        };
        let settings = settings::producer(self.identity, self.spec, producer);
        let workers = self.spec.workers.as_ref();
        Ok(Workload {
            kind: Kind::Producer,
            name: producer.name.clone(),
            settings: serde_json::to_string_pretty(&settings).map_err(|error| error.to_string())?,
            image: self.options.producer_image.clone(),
            image_pull_policy: self.options.image_pull_policy.clone(),
            credentials,
            data,
            resources: resources(producer.resources.as_ref(), workers.and_then(|workers| workers.resources.as_ref())),
            replicas: 1,
            exclusive: String::new(),
        })
    }

    fn symbols(&self, producer: &Producer) -> Result<(), String> {
        let source = &producer.source;
        let simulate = source.simulate.as_ref().map(|simulate| &simulate.symbols_from);
        let symbols = simulate.or_else(|| source.replay.as_ref().and_then(|replay| replay.symbols_from.as_ref()));
        let (Some(symbols), Some(mysql)) = (symbols, &self.spec.mysql) else { return Ok(()) };
        let system = self.systems.mysql.as_ref();
        if system.is_some_and(|system| system.looked_up.contains_key(&symbols.mysql.table)) {
            // Nobody here declares it: the producer looks itself, and waits for it.
            return Ok(());
        }
        usable(system, ResourceKind::MySQLTable, &format!("{}.{}", mysql.database, symbols.mysql.table))
    }

    fn topic(&self, name: &str) -> Result<(), String> {
        usable(Some(&self.systems.kafka), ResourceKind::Topic, name)
    }

    /// A table that is declared is there when its node is; one that nobody here declares was looked up, and is compared with the query now.
    fn table(&self, wanted: &Wanted<'_>, valid: &ValidQuery, problems: &mut Vec<Problem>) -> Result<(), String> {
        let Some(looked_up) = wanted.system.and_then(|system| system.looked_up.get(wanted.table)) else {
            return usable(wanted.system, wanted.kind, &wanted.name());
        };
        let found: Vec<Problem> = match looked_up {
            Some(columns) => check_query::mismatches(&valid.checked, wanted.table.as_str(), columns)
                .into_iter()
                .map(|finding| Problem::waiting(Area::Workers, Reason::TableMissing, format!("{}.sql", wanted.query), finding))
                .collect(),
            None => vec![wanted.missing()],
        };
        let first = found.first().map(ToString::to_string);
        problems.extend(found);
        first.map_or(Ok(()), Err)
    }
}

/// A table that a query writes to.
struct Wanted<'a> {
    system: Option<&'a System>,
    kind: ResourceKind,
    schema: &'a SqlName,
    table: &'a SqlName,
    declared: Vec<&'a str>,
    query: &'a str,
    store: &'static str,
}

impl Wanted<'_> {
    fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    fn missing(&self) -> Problem {
        let hint = near_miss(self.table.as_str(), self.declared.iter().copied());
        let message =
            format!("there is no table \"{}\", and the pipeline declares none{hint}; declare it under spec.{}.tables, or create it", self.name(), self.store);
        Problem::waiting(Area::Workers, Reason::TableMissing, format!("{}.sink.{}.table", self.query, self.store), message)
    }
}

/// Whether a thing that an item needs is there. One that differs from its declaration, without being of another kind, can be used all the same.
fn usable(system: Option<&System>, kind: ResourceKind, name: &str) -> Result<(), String> {
    let Some(system) = system else { return Err(format!("{name} is not declared")) };
    if let Some(problem) = &system.unavailable {
        return Err(problem.to_string());
    }
    let Some(outcome) = system.node(kind, name) else { return Err(format!("the declaration of {name} is not valid")) };
    match &outcome.state {
        NodeState::AsDeclared | NodeState::Changed(_) | NodeState::Recreated(_) => Ok(()),
        NodeState::Refused(refusals)
            if refusals.iter().all(|refusal| matches!(refusal.reason, RefusalReason::WouldLoseData | RefusalReason::ConfigContested)) =>
        {
            Ok(())
        }
        NodeState::Waiting(error) => Err(error.message.clone()),
        NodeState::Missing(message) => Err(message.clone()),
        NodeState::Refused(refusals) => Err(refusals.first().map(|refusal| refusal.message.clone()).unwrap_or_default()),
    }
}

fn mounted(found: Option<&Result<Found, Problem>>) -> Result<Option<Credentials>, String> {
    match found {
        None => Ok(None),
        Some(Ok(found)) => Ok(Some(found.mounted.clone())),
        Some(Err(problem)) => Err(problem.to_string()),
    }
}
