//! MongoDB: the declared collections, and those that only queries name.

use std::collections::BTreeSet;

use tapeline_api::TradingPipelineSpec;
use tapeline_api::names::SqlName;
use tapeline_api::pipeline::mongodb::Collection;

use super::{LookedUp, Prepared, Step, System};
use crate::external::mongodb::{Actual, Client, Desired, DesiredCollection, Endpoint, Plan, plan, unfit};
use crate::external::{Applied, ExternalError, Guard, Records};
use crate::reason::{Area, Problem};

/// The servers, and what is asked of them.
pub(super) struct Collections {
    client: Client,
    desired: Desired,
    looked_up: BTreeSet<SqlName>,
}

/// None where the pipeline has no MongoDB.
pub(super) fn prepare(step: &Step<'_>) -> Option<Result<Collections, Problem>> {
    let (spec, validated) = (step.spec(), step.validated);
    let mongodb = spec.mongodb.as_ref().filter(|_| validated.mongodb_is_valid)?;
    let credentials = match &step.inputs.mongodb {
        None => None,
        Some(Ok(found)) => Some(found.credentials.clone()),
        Some(Err(problem)) => return Some(Err(problem.clone())),
    };
    let mut desired = Desired::of(mongodb);
    desired.collections.retain(|declared| !validated.bad_collections.contains(&declared.collection.name));
    Some(Ok(Collections { client: step.clients().mongodb(Endpoint::of(mongodb, credentials)), desired, looked_up: looked_up(spec) }))
}

/// Collections that only queries name.
fn looked_up(spec: &TradingPipelineSpec) -> BTreeSet<SqlName> {
    let declared = |name: &SqlName| spec.mongodb.iter().flat_map(|mongodb| &mongodb.collections).any(|collection| collection.name == *name);
    let sinks = spec.queries.iter().filter_map(|query| query.sink.mongodb.as_ref()).map(|sink| &sink.collection);
    sinks.filter(|name| !declared(name)).cloned().collect()
}

impl Prepared for Collections {
    const AREA: Area = Area::MongoDb;
    type Actual = Actual;
    type Plan = Plan;

    async fn describe(&self) -> Result<Actual, ExternalError> {
        let mut asked = self.desired.clone();
        let named = |name: &SqlName| DesiredCollection { collection: Collection { name: name.clone(), indexes: Vec::new() }, field: String::new() };
        asked.collections.extend(self.looked_up.iter().map(named));
        self.client.describe(&asked).await
    }

    fn plan(&self, actual: &Actual, step: &Step<'_>) -> Plan {
        plan(&self.desired, actual, step.recorded(), &step.owner)
    }

    fn records(plan: &Plan) -> Records {
        plan.records()
    }

    async fn apply(&self, plan: &Plan, guard: &Guard) -> Applied {
        self.client.apply(plan, guard).await
    }

    fn complete(&self, actual: &Actual, _: &Step<'_>, system: &mut System) {
        system.looked_up = self.looked_up.iter().map(|name| (name.clone(), found(actual, name))).collect();
    }
}

/// What a collection is that was looked up. It takes whatever columns a query gives.
fn found(actual: &Actual, name: &SqlName) -> LookedUp {
    match (actual.other.get(name), actual.collections.get(name)) {
        (Some(other), _) => LookedUp::Unfit(format!("is {}", other.described())),
        (None, Some(shape)) => unfit(shape).map_or(LookedUp::Collection, LookedUp::Unfit),
        (None, None) => LookedUp::Missing,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::external::mongodb::{CollectionShape, IndexShape, Other};

    #[test]
    fn what_a_collection_is_that_nobody_here_declares() {
        let name = |text: &str| -> SqlName { text.parse().unwrap() };
        let unique = CollectionShape { indexes: vec![IndexShape { name: "u".into(), unique: true, ..IndexShape::default() }] };
        let actual = Actual {
            collections: BTreeMap::from([(name("plain"), CollectionShape::default()), (name("unique"), unique)]),
            other: BTreeMap::from([(name("view"), Other::View)]),
            ..Actual::default()
        };
        assert_eq!(found(&actual, &name("plain")), LookedUp::Collection);
        assert_eq!(found(&actual, &name("absent")), LookedUp::Missing);
        assert_eq!(found(&actual, &name("view")), LookedUp::Unfit("is a view, which takes no documents".into()));
        assert!(matches!(found(&actual, &name("unique")), LookedUp::Unfit(why) if why.starts_with("has the unique index \"u\"")));
    }
}
