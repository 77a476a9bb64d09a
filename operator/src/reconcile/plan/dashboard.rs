//! The dashboard. It waits for nothing, neither for topics and tables, nor for the servers that hold them, nor for Secrets: what is wrong with those is what it is there
//! to show. So it goes on when the pipeline is suspended, too.

use tapeline_api::pipeline::dashboard::{Dashboard, item_name};

use super::{ItemPlan, Pipeline, Step};
use crate::reason::Problem;
use crate::reconcile::build::{Kind, Workload, dashboard_resources, settings};
use crate::reconcile::validate::Validated;

impl Pipeline<'_> {
    pub(super) fn dashboard(&self, dashboard: &Dashboard, validated: &Validated) -> ItemPlan {
        let mut item = self.item(Kind::Dashboard, &item_name(), Kind::Dashboard.field().to_owned(), None);
        item.problems.extend(self.inputs.companions.unread().cloned());
        // A chart that is wrong is left out by the program, which shows the others.
        item.problems.extend(validated.dashboard_problems.iter().cloned());
        item.step = if dashboard.suspend { Step::Stop } else { self.dashboard_step(dashboard, &mut item) };
        item
    }

    fn dashboard_step(&self, dashboard: &Dashboard, item: &mut ItemPlan) -> Step {
        let workload = match self.dashboard_workload(dashboard, &mut item.problems) {
            Ok(workload) => workload,
            Err(error) => return Step::Leave(error.to_string()),
        };
        if let Some(unread) = self.inputs.companions.unread().next() {
            return Step::Leave(unread.to_string());
        }
        let taken: Vec<Problem> = self.inputs.companions.foreign().map(|kind| self.taken(kind, &item.field, &workload)).collect();
        match taken.first().map(|taken| taken.message.clone()) {
            Some(message) => {
                item.problems.extend(taken);
                Step::Leave(message)
            }
            None => self.guard_name(&mut item.problems, &item.field, workload),
        }
    }

    /// A Secret that is missing is named and left out: a store is then shown as one that cannot be read, and without its password the program lets nobody in.
    fn dashboard_workload(&self, dashboard: &Dashboard, problems: &mut Vec<Problem>) -> Result<Workload, serde_json::Error> {
        let stores = [&self.inputs.cassandra, &self.inputs.mysql, &self.inputs.mongodb].into_iter().flatten();
        let secrets = stores.map(|found| found.as_ref().map(|found| &found.mounted)).chain(self.inputs.password.iter().map(Result::as_ref));
        let mut credentials = Vec::new();
        for secret in secrets {
            match secret {
                Ok(mounted) => credentials.push(mounted.clone()),
                Err(problem) => problems.push(problem.clone()),
            }
        }
        let settings = settings::dashboard(self.identity, self.spec, dashboard);
        Ok(Workload {
            kind: Kind::Dashboard,
            name: item_name(),
            settings: serde_json::to_string_pretty(&settings)?,
            image: self.options.dashboard_image.clone(),
            image_pull_policy: self.options.image_pull_policy.clone(),
            credentials,
            data: None,
            resources: dashboard_resources(dashboard.resources.as_ref()),
            replicas: 1,
            exclusive: String::new(),
            schedule: None,
        })
    }
}
