//! The part of step 5 that brings what stands beside a dashboard's Deployment to what was planned. Compared first, like everything: at rest nothing is sent.

use std::fmt::Debug;

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tapeline_api::FIELD_MANAGER;

use super::Cluster;
use crate::reconcile::Error;
use crate::reconcile::build::companions::{role_binding, service, service_account};
use crate::reconcile::build::deployment::is_applied;
use crate::reconcile::dereference::{Companions, Live};

/// A kind of companion: as metrics and as messages name it.
#[derive(Debug, Clone, Copy)]
struct Words(&'static str, &'static str);

const SERVICE: Words = Words("service", "a Service");
const ACCOUNT: Words = Words("serviceaccount", "a ServiceAccount");
const BINDING: Words = Words("rolebinding", "a RoleBinding");

impl Cluster<'_> {
    /// Brings them up. The account first, without which no pod is created.
    pub(super) async fn accompany(&self, companions: &Companions) -> Result<(), Error> {
        let pipeline = &self.target.pipeline;
        self.put(ACCOUNT, &service_account(pipeline), &companions.account).await?;
        let binding = role_binding(pipeline, &self.shared.options.dashboard_role);
        if companions.binding.ours().is_some_and(|live| binds_another(live, &binding)) {
            self.remove(BINDING, &companions.binding).await?;
            self.put(BINDING, &binding, &Live::Absent).await?;
        } else {
            self.put(BINDING, &binding, &companions.binding).await?;
        }
        self.put(SERVICE, &service(pipeline), &companions.service).await
    }

    /// Takes away those that are ours.
    pub(super) async fn take_away(&self, companions: &Companions) -> Result<(), Error> {
        self.remove(SERVICE, &companions.service).await?;
        self.remove(BINDING, &companions.binding).await?;
        self.remove(ACCOUNT, &companions.account).await
    }

    async fn put<K>(&self, Words(kind, what): Words, built: &K, live: &Live<K>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        if live.ours().is_some_and(|live| is_applied(built, &**live)) {
            return Ok(());
        }
        self.may_write()?;
        let name = built.meta().name.as_deref().unwrap_or_default();
        let applied = self.api::<K>().patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(built)).await;
        self.wrote(kind, what, applied).map(|_| ())
    }

    async fn remove<K>(&self, Words(kind, what): Words, live: &Live<K>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let Some(live) = live.ours().filter(|live| live.meta().deletion_timestamp.is_none()) else { return Ok(()) };
        self.may_write()?;
        let preconditions = Preconditions { uid: live.meta().uid.clone(), resource_version: None };
        let name = live.meta().name.as_deref().unwrap_or_default();
        let deleted = self.api::<K>().delete(name, &DeleteParams::background().preconditions(preconditions)).await;
        self.gone(kind, what, deleted)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.shared.client.clone(), &self.target.namespace)
    }
}

/// The API server never changes which role is bound: it has to be another binding then.
fn binds_another(live: &RoleBinding, built: &RoleBinding) -> bool {
    live.role_ref != built.role_ref
}
