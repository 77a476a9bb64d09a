//! The operator as a user installs it: with the chart, its Role only, under the `restricted` Pod Security level. One release watches the namespaces of all stories
//! and stays installed, so that a second run begins at once; a story that stops operators has a release of its own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::sync::OnceCell;

use crate::bed::Bed;
use crate::command::{self, kubectl, repository};
use crate::wait::{eventually, within};

/// How many stories of all test programs can run at a time.
const SLOTS: usize = 8;
/// The label of an operator's pods.
pub const SELECTOR: &str = "app.kubernetes.io/name=tapeline-operator";
const START: Duration = within(120);
static SHARED: OnceCell<Result<Operator>> = OnceCell::const_new();

/// An installed operator.
#[derive(Debug)]
pub struct Operator {
    /// The release, and the namespace that it is in.
    pub release: String,
    /// The namespaces that it watches.
    pub watched: Vec<String>,
}

impl Operator {
    /// The one that all stories share, installed (or brought to the present images) once for each test program.
    pub async fn shared() -> &'static Self {
        let watched = (1..=SLOTS).map(|slot| format!("tapeline-e2e-{slot}")).collect();
        let installed = SHARED.get_or_init(async || Box::pin(Self::install("tapeline-e2e", watched)).await).await;
        installed.as_ref().unwrap_or_else(|error| panic!("the chart cannot be installed: {error:#}"))
    }

    /// Installs the release `release` into a namespace of the same name. It watches `watched`, which are created.
    ///
    /// # Errors
    /// The operator does not become ready; the error has what helm says.
    pub async fn install(release: &str, watched: Vec<String>) -> Result<Self> {
        let operator = Self { release: release.to_owned(), watched };
        let lock = operator.lock().await?;
        // One definition for all releases: that of this build. It may belong to the release of a running demo, so it is not this release's.
        kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "crds/tradingpipelines.yaml"], "").await?;
        kubectl(&["apply", "--server-side", "-f", "-"], &operator.namespaces()).await?;
        let tag = format!("image.tag={}", image_tag().await?);
        let names = format!("watch.namespaces={{{}}}", operator.watched.join(","));
        // What there is only once in a cluster is not this release's.
        let values = ["--set", "crds.install=false,rbac.aggregate=false", "--set", &tag, "--set", &names];
        let arguments = [&["upgrade", "--install", release, "charts/tapeline", "-n", release], &values[..], &["--wait", "--timeout", "2m"]].concat();
        if let Err(error) = command::run("helm", &arguments, "").await {
            let pods = kubectl(&["describe", "pods", "-n", release, "-l", SELECTOR], "").await.unwrap_or_default();
            let logs = kubectl(&["logs", "-n", release, "-l", SELECTOR, "--tail=20"], "").await.unwrap_or_default();
            return Err(error).with_context(|| format!("installing the chart\n{pods}\n{logs}"));
        }
        drop(lock);
        operator.until_ready().await;
        Ok(operator)
    }

    /// Removes the release and its namespaces.
    ///
    /// # Errors
    /// helm or kubectl fails.
    pub async fn uninstall(&self) -> Result<()> {
        command::run("helm", &["uninstall", &self.release, "-n", &self.release, "--ignore-not-found"], "").await?;
        let namespaces: Vec<&str> = self.watched.iter().map(String::as_str).chain([self.release.as_str()]).collect();
        kubectl(&[&["delete", "namespace", "--ignore-not-found", "--wait=false"], &namespaces[..]].concat(), "").await?;
        Ok(())
    }

    /// Restricted, all of them: the operator's namespace and those in which pipelines run.
    fn namespaces(&self) -> String {
        let namespace = |name: &String| {
            format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}\n")
        };
        self.watched.iter().chain([&self.release]).map(namespace).collect::<Vec<_>>().join("---\n")
    }

    /// Two test programs do not install at once.
    async fn lock(&self) -> Result<std::fs::File> {
        let file = lock_file(&self.release)?;
        Ok(tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??)
    }

    /// Waits until an operator of this release is ready and works. (One that waits for the Lease of another is ready, too.)
    pub async fn until_ready(&self) {
        eventually(&format!("the operator of {} to be ready and to hold the lease", self.release), START, async || {
            let status = self.deployment().await?.status.unwrap_or_default();
            ensure!(status.ready_replicas >= Some(1) && status.replicas == Some(1) && status.updated_replicas == Some(1), "{status:?}");
            let leases: Api<Lease> = Api::namespaced(Bed::get().await.kube.clone(), &self.release);
            let holder = leases.get("tapeline-operator").await?.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            let pods: Vec<String> = self.pods().await?.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(ResourceExt::name_any).collect();
            ensure!(pods == [holder.clone()], "the lease is held by {holder:?}, the pods are {pods:?}");
            Ok(())
        })
        .await;
    }

    async fn deployment(&self) -> Result<Deployment> {
        let api: Api<Deployment> = Api::namespaced(Bed::get().await.kube.clone(), &self.release);
        api.list(&ListParams::default()).await?.items.pop().context("the release has no Deployment")
    }

    /// The operator's service account.
    ///
    /// # Errors
    /// There is no Deployment.
    pub async fn service_account(&self) -> Result<String> {
        let pod = self.deployment().await?.spec.and_then(|spec| spec.template.spec);
        pod.and_then(|pod| pod.service_account_name).context("the operator has no service account")
    }

    /// The operator's pods.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(Bed::get().await.kube.clone(), &self.release);
        Ok(api.list(&ListParams::default().labels(SELECTOR)).await?.items)
    }
}

/// The tag of the images that are tested: `$TAPELINE_IMAGE_TAG`, or those that were built last.
pub(crate) async fn image_tag() -> Result<String> {
    match std::env::var("TAPELINE_IMAGE_TAG") {
        Ok(tag) => Ok(tag),
        Err(_) => Ok(command::run(&repository().join("images/build.sh").display().to_string(), &["--tag"], "").await?.trim().to_owned()),
    }
}

/// The file by which test programs agree on who has `what`.
///
/// # Errors
/// It cannot be created.
pub fn lock_file(what: &str) -> Result<std::fs::File> {
    let folder = std::env::temp_dir().join("tapeline-e2e");
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::File::create(folder.join(format!("{what}.lock")))?)
}
