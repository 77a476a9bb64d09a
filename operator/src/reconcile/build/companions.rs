//! What a dashboard needs beside its Deployment, all under the same name: a Service, by which people reach it, and a service account with a RoleBinding, since it
//! watches its own pipeline, the pipeline's pods and their Events. What the account may do is in a Role of the chart: the operator binds it, and grants nothing
//! itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::Serialize;
use tapeline_api::TradingPipeline;
use tapeline_api::pipeline::dashboard::DASHBOARD;

use super::deployment::{BUILT_HASH, selector};
use super::{Kind, hash_of, labels, object_name, owner};

/// The Service's port. The pod listens on another one, since only root may listen below 1024.
const PORT: i32 = 80;

/// The name of a dashboard's Deployment and of everything here.
#[must_use]
pub fn name(pipeline: &str) -> String {
    object_name(pipeline, Kind::Dashboard, DASHBOARD)
}

/// The Service.
#[must_use]
pub fn service(pipeline: &TradingPipeline) -> Service {
    stamped(Service {
        metadata: metadata(pipeline),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector(pipeline_name(pipeline), Kind::Dashboard, DASHBOARD)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("http".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

/// The service account. Its token is mounted where a pod asks for it, as the dashboard's does, and nowhere else.
#[must_use]
pub fn service_account(pipeline: &TradingPipeline) -> ServiceAccount {
    stamped(ServiceAccount { metadata: metadata(pipeline), automount_service_account_token: Some(false), ..ServiceAccount::default() })
}

/// What binds the service account to `role`.
#[must_use]
pub fn role_binding(pipeline: &TradingPipeline, role: &RoleRef) -> RoleBinding {
    let account = Subject {
        kind: "ServiceAccount".to_owned(),
        name: name(pipeline_name(pipeline)),
        namespace: pipeline.metadata.namespace.clone(),
        ..Subject::default()
    };
    stamped(RoleBinding { metadata: metadata(pipeline), role_ref: role.clone(), subjects: Some(vec![account]) })
}

fn pipeline_name(pipeline: &TradingPipeline) -> &str {
    pipeline.metadata.name.as_deref().unwrap_or_default()
}

fn metadata(pipeline: &TradingPipeline) -> ObjectMeta {
    let pipeline_name = pipeline_name(pipeline);
    ObjectMeta {
        name: Some(name(pipeline_name)),
        namespace: pipeline.metadata.namespace.clone(),
        labels: Some(labels(pipeline_name, Kind::Dashboard, DASHBOARD)),
        owner_references: owner(pipeline).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// With the hash by which fields are found that we no longer send.
fn stamped<K: Resource + Serialize>(mut built: K) -> K {
    let hash = hash_of(&built);
    built.meta_mut().annotations = Some(BTreeMap::from([(BUILT_HASH.to_owned(), hash)]));
    built
}
