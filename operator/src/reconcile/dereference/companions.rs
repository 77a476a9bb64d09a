//! What stands under a dashboard's name beside its Deployment. Read one by one, by name: nothing of that kind is watched.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::{Live, refused};
use crate::context::Scope;
use crate::reason::{Area, Problem};
use crate::reconcile::build::{Kind, companions};
use crate::reconcile::{Error, Target};

/// The objects under a dashboard's name, beside its Deployment.
#[derive(Debug, Clone, Default)]
pub struct Companions {
    /// By which people reach it.
    pub service: Live<Service>,
    /// As whom it asks the API server.
    pub account: Live<ServiceAccount>,
    /// What it may ask.
    pub binding: Live<RoleBinding>,
}

impl Companions {
    /// The kinds of those that are somebody else's.
    pub fn foreign(&self) -> impl Iterator<Item = &'static str> {
        let all = [("Service", self.service.is_foreign()), ("ServiceAccount", self.account.is_foreign()), ("RoleBinding", self.binding.is_foreign())];
        all.into_iter().filter(|(_, foreign)| *foreign).map(|(kind, _)| kind)
    }

    /// Why it is not known what there is.
    pub fn unread(&self) -> impl Iterator<Item = &Problem> {
        [self.service.unread(), self.account.unread(), self.binding.unread()].into_iter().flatten()
    }
}

/// Reads them.
///
/// # Errors
/// When the API server does not answer, or cannot.
pub(super) async fn read(target: &Target, scope: &Scope) -> Result<Companions, Error> {
    Ok(Companions {
        service: one(target, scope, "a Service").await?,
        account: one(target, scope, "a ServiceAccount").await?,
        binding: one(target, scope, "a RoleBinding").await?,
    })
}

async fn one<K>(target: &Target, scope: &Scope, what: &'static str) -> Result<Live<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(scope.shared.client.clone(), &target.namespace);
    let answer = api.get_opt(&companions::name(&target.name)).await;
    Ok(match refused(answer, what, Area::Dashboard, Kind::Dashboard.field())? {
        Ok(found) => Live::of(found.map(Arc::new), target),
        Err(problem) => Live::Unread(problem),
    })
}
