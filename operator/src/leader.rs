//! One Lease: of several operators only the one that holds it works. Kubernetes' own clients do the same; kube has no elector.
//!
//! The holder renews every third of the duration. What others wrote is judged by how long *this* process has seen it unchanged, never by clocks of other
//! machines. A holder that could not renew in time exits: work that began under the Lease must not go on beside the next holder's. Each operation is safe to
//! run twice all the same, since a stopped process cannot know that it was stopped; the remaining time is looked at before each external call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// The Lease's name.
pub const LEASE: &str = "tapeline-operator";
const DURATION: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// The holder stops this much before others may take over.
const MARGIN: Duration = Duration::from_secs(3);

/// Whether this process may act: true until the moment at which another could take over.
#[derive(Debug, Clone)]
pub struct Leadership {
    start: Instant,
    /// Milliseconds since `start`.
    until: Arc<AtomicU64>,
}

/// The Lease was lost, or was never renewed in time.
#[derive(Debug, thiserror::Error)]
#[error("the lease {LEASE} was lost: {0}")]
pub struct Lost(String);

impl Leadership {
    fn new() -> Self {
        Self { start: Instant::now(), until: Arc::new(AtomicU64::new(0)) }
    }

    /// Leadership that does not end, for tests.
    #[must_use]
    pub fn forever() -> Self {
        Self { start: Instant::now(), until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// Whether there is still time for a call that takes `at_most`. By the monotonic clock.
    #[must_use]
    pub fn has(&self, at_most: Duration) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let needed = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        now.saturating_add(needed) < self.until.load(Ordering::Acquire)
    }

    fn extend(&self, renewed_at: Instant) {
        let until = (renewed_at.duration_since(self.start) + DURATION).saturating_sub(MARGIN);
        self.until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }
}

/// A candidate for the Lease.
pub struct Elector {
    api: Api<Lease>,
    identity: String,
    leadership: Leadership,
    /// The last state of the Lease that was seen, and since when.
    seen: Option<(LeaseState, Instant)>,
}

type LeaseState = (Option<String>, Option<String>);

impl Elector {
    /// A candidate named `identity` (the pod's name) for the Lease in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), identity, leadership: Leadership::new(), seen: None }
    }

    /// Whether this candidate may act, now and later.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Waits until this process holds the Lease.
    pub async fn acquire(&mut self) {
        tracing::info!(identity = self.identity, "waiting for the lease {LEASE}");
        loop {
            match tokio::time::timeout(RENEW_EVERY, self.try_hold()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot get the lease {LEASE}; trying again"),
                Err(_) => tracing::warn!("getting the lease {LEASE} takes too long; trying again"),
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }

    /// Renews the Lease for as long as it can.
    ///
    /// # Errors
    /// Always ends with one: when another holds the Lease or when it could not be renewed in time.
    pub async fn keep(mut self) -> Lost {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match tokio::time::timeout(RENEW_EVERY, self.try_hold()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Lost("another process holds it".to_owned()),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease {LEASE}"),
                Err(_) => tracing::warn!("renewing the lease {LEASE} takes too long"),
            }
            if !self.leadership.has(Duration::ZERO) {
                return Lost("it could not be renewed in time".to_owned());
            }
        }
    }

    /// Gives the Lease up, so that the next process need not wait.
    pub async fn release(api_client: Client, namespace: &str, identity: &str) {
        let api: Api<Lease> = Api::namespaced(api_client, namespace);
        let Ok(mut lease) = api.get(LEASE).await else { return };
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(identity) {
            return;
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        // A failure costs the next process the rest of the duration, no more.
        if let Err(error) = api.replace(LEASE, &PostParams::default(), &lease).await {
            tracing::info!(%error, "could not release the lease {LEASE}");
        }
    }

    async fn try_hold(&mut self) -> Result<bool, kube::Error> {
        let asked_at = Instant::now();
        let Some(mut lease) = self.api.get_opt(LEASE).await? else {
            let lease = Lease { metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() }, spec: Some(self.spec(0, None)) };
            return self.written(self.api.create(&PostParams::default(), &lease).await, asked_at);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        let mine = holder.as_deref() == Some(self.identity.as_str());
        if !mine && holder.is_some() && !self.expired(&lease) {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!mine);
        lease.spec = Some(self.spec(transitions, mine.then_some(spec.acquire_time).flatten()));
        // `replace` with the resourceVersion that was read: of two candidates one gets a conflict.
        self.written(self.api.replace(LEASE, &PostParams::default(), &lease).await, asked_at)
    }

    fn written(&self, result: Result<Lease, kube::Error>, asked_at: Instant) -> Result<bool, kube::Error> {
        match result {
            Ok(_) => {
                self.leadership.extend(asked_at);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the holder has let its time pass, as seen by this process alone.
    fn expired(&mut self, lease: &Lease) -> bool {
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0.to_string());
        let state = (lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()), renewed);
        match &self.seen {
            Some((seen, since)) if *seen == state => since.elapsed() > DURATION,
            _ => {
                self.seen = Some((state, Instant::now()));
                false
            }
        }
    }

    fn spec(&self, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        LeaseSpec {
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(transitions),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}
