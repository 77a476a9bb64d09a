//! Flags and environment variables of `tapeline-operator run`.

use std::net::SocketAddr;

use clap::Args;

/// How the operator runs.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The image of workers, where a pipeline does not name another.
    #[arg(long, env = "TAPELINE_WORKER_IMAGE")]
    pub worker_image: String,
    /// The image of producers.
    #[arg(long, env = "TAPELINE_PRODUCER_IMAGE")]
    pub producer_image: String,
    /// imagePullPolicy of workers and producers; the cluster's default when absent.
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
