//! Step 4 (pure): which Deployments and CronJobs the pipeline is to have. A query runs when its own topic, dead-letter topic and sink are there and its Secret is read;
//! one that lacks something, or whose store does not answer, keeps the Deployment that it has, untouched.

mod dashboard;
mod wanted;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::ItemName;
use tapeline_api::pipeline::producers::Producer;
use tapeline_api::pipeline::queries::{Query, Target as SinkTarget};
use tapeline_api::pipeline::status::{ResourceKind, TradingPipelineStatus};
use tapeline_api::progress::PROGRESS_TOPIC;

use super::Target;
use super::build::cron_job::LONGEST_NAME;
use super::build::settings::{self, Identity};
use super::build::{Kind, MountedSecret, Timed, Workload, object_name, resources};
use super::check_query;
use super::dereference::{Inputs, Live};
use super::systems::{LookedUp, Systems};
use super::validate::{ValidQuery, Validated};
use crate::options::Options;
use crate::reason::{Area, Problem, Reason};
use wanted::{CASSANDRA, MONGODB, MYSQL, Wanted, mounted, usable};

/// What is to be done about one query or producer, or the dashboard.
#[derive(Debug)]
pub struct ItemPlan {
    /// What it is.
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

/// What is to be done about an item's Deployment or CronJob.
#[derive(Debug)]
pub enum Step {
    /// It is to be there, like this.
    Run(Box<Workload>),
    /// It is to be gone.
    Stop,
    /// It is suspended, and what its CronJob is built from cannot be read: there is to be no new run.
    Pause,
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

/// Decides for each query and producer, and the dashboard.
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
    let dashboard = spec.dashboard.iter().map(|dashboard| pipeline.dashboard(dashboard, validated));
    queries.chain(producers).chain(dashboard).collect()
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
        let suspended = self.spec.suspend || producer.suspend;
        if suspended {
            // The runs of a CronJob would go with it, and when the last one was.
            item.step = if producer.schedule.is_some() { Step::Pause } else { Step::Stop };
        }
        if let (None, Some(problem)) = (&item.invalid, self.name_too_long(&item.field, producer)) {
            let said = problem.to_string();
            item.problems.push(problem);
            if !suspended {
                item.step = Step::Leave(said.clone());
            }
            item.invalid = Some(said);
        } else if validated.producers.contains(&producer.name) && (!suspended || producer.schedule.is_some()) {
            let mut problems = Vec::new();
            match self.producer_workload(producer, &mut problems) {
                Ok(workload) => item.step = self.guard_name(&mut problems, &item.field, workload),
                Err(_) if suspended => return item,
                Err(awaited) => item.step = Step::Leave(awaited),
            }
            item.problems.extend(problems);
        }
        item
    }

    /// A CronJob's name has less room than a Deployment's.
    fn name_too_long(&self, field: &str, producer: &Producer) -> Option<Problem> {
        let object = object_name(&self.target.name, Kind::Producer, producer.name.as_str());
        let over = object.len().checked_sub(LONGEST_NAME).filter(|over| *over > 0 && producer.schedule.is_some())?;
        let message = format!(
            "its CronJob would be \"{object}\", and Kubernetes takes {LONGEST_NAME} characters for the name of one; give it, or the pipeline, a name that is {over} shorter"
        );
        Some(Problem::change(Area::Workers, Reason::InvalidSpec, format!("{field}.name"), message))
    }

    fn item(&self, kind: Kind, name: &ItemName, field: String, invalid: Option<String>) -> ItemPlan {
        let step = Step::Leave(invalid.clone().unwrap_or_else(|| "its stream is not valid".to_owned()));
        let key = (kind, name.clone());
        let unread = [self.inputs.deployments.get(&key).and_then(Live::unread), self.inputs.cron_jobs.get(&key).and_then(Live::unread)];
        let problems = unread.into_iter().flatten().cloned().collect();
        ItemPlan { kind, name: name.clone(), field, step, problems, invalid }
    }

    /// A Deployment or CronJob of that name which is not ours, or may not be, is never touched.
    fn guard_name(&self, problems: &mut Vec<Problem>, field: &str, workload: Workload) -> Step {
        let key = (workload.kind, workload.name.clone());
        let (deployment, cron_job) = (self.inputs.deployments.get(&key), self.inputs.cron_jobs.get(&key));
        let (unread, foreign, what) = match &workload.schedule {
            None => (deployment.and_then(Live::unread), deployment.is_some_and(Live::is_foreign), "Deployment"),
            Some(_) => (cron_job.and_then(Live::unread), cron_job.is_some_and(Live::is_foreign), "CronJob"),
        };
        if let Some(problem) = unread {
            return Step::Leave(problem.to_string());
        }
        if !foreign {
            return Step::Run(Box::new(workload));
        }
        let taken = self.taken(what, field, &workload);
        let message = taken.message.clone();
        problems.push(taken);
        Step::Leave(message)
    }

    /// A `what` of the workload's name is somebody else's.
    fn taken(&self, what: &str, field: &str, workload: &Workload) -> Problem {
        let (field, rename) = match workload.kind {
            Kind::Query | Kind::Producer => (format!("{field}.name"), format!("rename the {}", workload.kind.as_str())),
            // It has the pipeline's name.
            Kind::Dashboard => (field.to_owned(), "rename the pipeline".to_owned()),
        };
        let object = workload.object_name(&self.target.name);
        let message = format!("a {what} \"{object}\" exists that does not belong to this pipeline; it is left alone: {rename}, or delete it");
        Problem::waiting(workload.kind.area(), Reason::NameTaken, field, message)
    }

    /// # Errors
    /// What is awaited, in words.
    fn query_workload(&self, field: &str, query: &Query, valid: &ValidQuery, problems: &mut Vec<Problem>) -> Result<Workload, String> {
        let stream = self.spec.streams.get(valid.stream).ok_or("its stream is not valid")?;
        self.topic(stream.topic.as_str())?;
        if let Some(dead_letters) = &stream.dead_letter_topic {
            self.topic(dead_letters.as_str())?;
        }
        let mut credentials = self.sink(field, query, valid, problems)?;
        if !valid.references.is_empty() && query.sink.mysql.is_none() {
            credentials.extend(mounted(self.inputs.mysql.as_ref())?);
        }
        let incarnation = self.status.topics.iter().find(|topic| topic.name == stream.topic).and_then(|topic| topic.incarnation).unwrap_or(0);
        let settings = settings::worker(self.identity, self.spec, query, stream, &valid.references, incarnation).ok_or("its sink is not valid")?;
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
            schedule: None,
        })
    }

    /// # Errors
    /// What is awaited, in words.
    fn producer_workload(&self, producer: &Producer, problems: &mut Vec<Problem>) -> Result<Workload, String> {
        for (_, topic) in producer.topics() {
            self.topic(topic.as_str())?;
        }
        let mut credentials = Vec::new();
        for secret in self.inputs.secrets.get(&producer.name).into_iter().flatten() {
            match secret {
                Ok(secret) => credentials.push(secret.clone()),
                Err(problem) => problems.push(problem.clone()),
            }
        }
        // All of them are named, not one after the other.
        if let Some(problem) = problems.iter().find(|problem| problem.reason == Reason::SecretMissing || problem.reason == Reason::KubernetesRefused) {
            return Err(problem.to_string());
        }
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
            schedule: producer.schedule.as_ref().map(|schedule| Timed {
                cron: schedule.cron.clone(),
                time_zone: schedule.time_zone.clone(),
                suspend: self.spec.suspend || producer.suspend,
                time_limit: schedule.time_limit.get(),
            }),
        })
    }

    fn symbols(&self, producer: &Producer) -> Result<(), String> {
        let source = &producer.source;
        let simulate = source.simulate.as_ref().map(|simulate| &simulate.symbols_from);
        let symbols = simulate.or_else(|| source.replay.as_ref().and_then(|replay| replay.symbols_from.as_ref()));
        let (Some(symbols), Some(mysql)) = (symbols, &self.spec.mysql) else { return Ok(()) };
        let system = self.systems.of(Area::MySql);
        if system.is_some_and(|system| system.looked_up.contains_key(&symbols.mysql.table)) {
            // Nobody here declares it: the producer looks itself, and waits for it.
            return Ok(());
        }
        usable(system, ResourceKind::MySQLTable, &format!("{}.{}", mysql.database, symbols.mysql.table))
    }

    fn topic(&self, name: &str) -> Result<(), String> {
        usable(self.systems.of(Area::Topics), ResourceKind::Topic, name)
    }

    /// What a query writes to is there; gives the Secrets of its pods.
    ///
    /// # Errors
    /// What is awaited, in words.
    fn sink(&self, field: &str, query: &Query, valid: &ValidQuery, problems: &mut Vec<Problem>) -> Result<Vec<MountedSecret>, String> {
        let Some(target) = query.sink.target() else { return Err("its sink is not valid".to_owned()) };
        let (wanted, secret) = match target {
            SinkTarget::Blackhole => return Ok(Vec::new()),
            SinkTarget::Kafka(sink) => {
                self.topic(sink.topic.as_str())?;
                self.topic(PROGRESS_TOPIC)?;
                return Ok(Vec::new());
            }
            SinkTarget::Cassandra(sink) => {
                let cassandra = self.spec.cassandra.as_ref().ok_or("its sink is not valid")?;
                let declared = cassandra.tables.iter().map(|table| &table.name).collect();
                (Wanted { store: &CASSANDRA, schema: &cassandra.keyspace, name: &sink.table, declared, query: field }, &self.inputs.cassandra)
            }
            SinkTarget::MySql(sink) => {
                let mysql = self.spec.mysql.as_ref().ok_or("its sink is not valid")?;
                let declared = mysql.tables.iter().map(|table| &table.name).collect();
                (Wanted { store: &MYSQL, schema: &mysql.database, name: &sink.table, declared, query: field }, &self.inputs.mysql)
            }
            SinkTarget::MongoDb(sink) => {
                let mongodb = self.spec.mongodb.as_ref().ok_or("its sink is not valid")?;
                let declared = mongodb.collections.iter().map(|collection| &collection.name).collect();
                (Wanted { store: &MONGODB, schema: &mongodb.database, name: &sink.collection, declared, query: field }, &self.inputs.mongodb)
            }
        };
        self.is_there(&wanted, valid, problems)?;
        Ok(mounted(secret.as_ref())?.into_iter().collect())
    }

    /// What is declared is there when its node is; what nobody here declares was looked up, and is compared with the query now.
    fn is_there(&self, wanted: &Wanted<'_>, valid: &ValidQuery, problems: &mut Vec<Problem>) -> Result<(), String> {
        let system = self.systems.of(wanted.store.area);
        let found: Vec<Problem> = match system.and_then(|system| system.looked_up.get(wanted.name)) {
            None => return usable(system, wanted.store.kind, &wanted.full_name()),
            Some(LookedUp::Collection) => Vec::new(),
            Some(LookedUp::Table(columns)) => check_query::mismatches(&valid.checked, wanted.name.as_str(), columns)
                .into_iter()
                .map(|finding| Problem::waiting(Area::Workers, Reason::TableMissing, format!("{}.sql", wanted.query), finding))
                .collect(),
            Some(LookedUp::Missing) => vec![wanted.missing()],
            Some(LookedUp::Unfit(why)) => vec![wanted.unfit(why)],
        };
        let first = found.first().map(ToString::to_string);
        problems.extend(found);
        first.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
