//! Flags and environment variables of `tapeline-operator run`.

use std::net::SocketAddr;

use clap::Args;
use k8s_openapi::api::rbac::v1::RoleRef;

/// How the operator runs.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The image of workers, where a pipeline does not name another.
    #[arg(long, env = "TAPELINE_WORKER_IMAGE")]
    pub worker_image: String,
    /// The image of producers.
    #[arg(long, env = "TAPELINE_PRODUCER_IMAGE")]
    pub producer_image: String,
    /// The image of dashboards.
    #[arg(long, env = "TAPELINE_DASHBOARD_IMAGE")]
    pub dashboard_image: String,
    /// What the service accounts of dashboards are bound to: Role/NAME, in the pipeline's namespace, or ClusterRole/NAME.
    #[arg(long, env = "TAPELINE_DASHBOARD_ROLE", default_value = "Role/tapeline-dashboard", value_parser = role)]
    pub dashboard_role: RoleRef,
    /// imagePullPolicy of workers, producers and dashboards; the cluster's default when absent.
    #[arg(long, env = "TAPELINE_IMAGE_PULL_POLICY")]
    pub image_pull_policy: Option<String>,
    /// Namespaces to watch, repeated or separated by commas. None: the whole cluster.
    #[arg(long = "namespace", env = "TAPELINE_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "TAPELINE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The namespace of the Lease that decides which of several operators works.
    #[arg(long, env = "TAPELINE_LEADER_ELECTION_NAMESPACE", default_value = "default")]
    pub leader_election_namespace: String,
    /// The name under which this process takes the Lease and reports Events: the pod's name.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
}

fn role(text: &str) -> Result<RoleRef, String> {
    match text.split_once('/') {
        Some((kind @ ("Role" | "ClusterRole"), name)) if !name.is_empty() && !name.contains('/') => {
            Ok(RoleRef { api_group: Some("rbac.authorization.k8s.io".to_owned()), kind: kind.to_owned(), name: name.to_owned() })
        }
        _ => Err("write Role/NAME or ClusterRole/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Role/tapeline-dashboard", Some(("Role", "tapeline-dashboard")))]
    #[case("ClusterRole/tapeline-system-dashboard", Some(("ClusterRole", "tapeline-system-dashboard")))]
    #[case("tapeline-dashboard", None)]
    #[case("Role/", None)]
    #[case("Role/a/b", None)]
    #[case("RoleBinding/a", None)]
    fn roles(#[case] text: &str, #[case] expected: Option<(&str, &str)>) {
        let role = role(text).ok();
        assert_eq!(role.as_ref().map(|role| (role.kind.as_str(), role.name.as_str())), expected);
    }
}
