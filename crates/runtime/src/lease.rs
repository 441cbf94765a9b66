//! One leader by a Lease (coordination.k8s.io/v1).
//!
//! As client-go does it: a lease counts as live for its duration since *we* saw it change, so that nobody's clock but ours matters; every
//! write carries the resourceVersion that was read, so that of two candidates one gets a conflict; a leader that could not renew in time
//! steps down well before anyone else may take over.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Error, in_time, with_causes};

/// A candidacy.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where the Lease is.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// Who we are: unique among candidates, the pod's name.
    pub identity: String,
    /// How long after its last renewal a lease is taken over.
    pub duration: Duration,
    /// How long after its last renewal a leader steps down; shorter than `duration` by at least what a write may take.
    pub deadline: Duration,
    /// Between two tries.
    pub period: Duration,
}

impl Candidate {
    /// With the durations of Kubernetes' own components: 15 s, 10 s, 2 s.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Candidate {
        Candidate {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            period: Duration::from_secs(2),
        }
    }

    /// Runs for leadership until shutdown, then gives it up if it has it (await the task to let that happen). The receiver says whether we
    /// lead now; a program that is told `false` stops writing and goes on running.
    pub fn run(self, client: Client, shutdown: CancellationToken) -> (watch::Receiver<bool>, JoinHandle<()>) {
        let (leads, receiver) = watch::channel(false);
        let task = tokio::spawn(campaign(self, client, leads, shutdown));
        (receiver, task)
    }
}

/// What we know of the lease.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// As last read.
    pub spec: Option<LeaseSpec>,
    /// When we first saw it so.
    pub since: Option<Instant>,
}

impl Seen {
    /// Notes what was read.
    pub fn note(&mut self, spec: Option<LeaseSpec>, now: Instant) {
        if self.spec != spec || self.since.is_none() {
            self.spec = spec;
            self.since = Some(now);
        }
    }
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is none: make it.
    Create,
    /// It is nobody's, or its holder is gone: take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// It is another's.
    Wait,
}

/// From what is known to what to do.
pub fn decide(identity: &str, seen: &Seen, now: Instant) -> Decision {
    let Some(spec) = &seen.spec else { return Decision::Create };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        return Decision::Renew;
    }
    let lasts = Duration::from_secs(spec.lease_duration_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    let over = seen.since.is_none_or(|since| now.duration_since(since) >= lasts);
    if holder.is_empty() || over { Decision::Take } else { Decision::Wait }
}

/// The lease as we want it after a decision.
pub fn wanted(candidate: &Candidate, decision: Decision, old: Option<&LeaseSpec>, now: jiff::Timestamp) -> LeaseSpec {
    let renewing = decision == Decision::Renew;
    LeaseSpec {
        acquire_time: if renewing { old.and_then(|old| old.acquire_time.clone()) } else { Some(MicroTime(now)) },
        holder_identity: Some(candidate.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(candidate.duration.as_secs()).unwrap_or(i32::MAX)),
        lease_transitions: Some(old.map_or(0, |old| old.lease_transitions.unwrap_or(0) + i32::from(!renewing))),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    }
}

async fn campaign(candidate: Candidate, client: Client, leads: watch::Sender<bool>, shutdown: CancellationToken) {
    let leases = Api::<Lease>::namespaced(client, &candidate.namespace);
    let mut seen = Seen::default();
    let mut renewed: Option<Instant> = None;
    loop {
        let started = Instant::now();
        let step_down_at = renewed.map(|at| at + candidate.deadline);
        let tried = tokio::select! {
            tried = round(&candidate, &leases, &mut seen) => tried,
            () = until(step_down_at) => Ok(false),
            () = shutdown.cancelled() => break,
        };
        match tried {
            // Counted from before the write: the server may have taken it then.
            Ok(true) => renewed = Some(started),
            Ok(false) => renewed = None,
            Err(error) if error.is_conflict() => tracing::debug!("another candidate wrote the lease first"),
            Err(error) => tracing::warn!(error = with_causes(&error), lease = candidate.name, "cannot hold or read the lease"),
        }
        let leading = renewed.is_some_and(|at| at.elapsed() < candidate.deadline);
        if leads.send_if_modified(|old| std::mem::replace(old, leading) != leading) {
            tracing::info!(leading, lease = candidate.name, identity = candidate.identity, "leadership changed");
        }
        tokio::select! {
            () = tokio::time::sleep(candidate.period) => {}
            // The next round begins with stepping down.
            () = until(renewed.map(|at| at + candidate.deadline)) => {}
            () = shutdown.cancelled() => break,
        }
    }
    leads.send_replace(false);
    if let Err(error) = release(&candidate, &leases).await {
        tracing::warn!(error = with_causes(&error), "cannot release the lease; another candidate has to wait until it is over");
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Reads, decides, writes; whether we hold the lease now.
async fn round(candidate: &Candidate, leases: &Api<Lease>, seen: &mut Seen) -> Result<bool, Error> {
    let stored = in_time(leases.get_opt(&candidate.name)).await?;
    let now = Instant::now();
    seen.note(stored.as_ref().map(|lease| lease.spec.clone().unwrap_or_default()), now);
    let decision = decide(&candidate.identity, seen, now);
    let spec = wanted(candidate, decision, seen.spec.as_ref(), jiff::Timestamp::now());
    let written = match (decision, stored) {
        (Decision::Wait, _) => return Ok(false),
        (_, Some(mut lease)) => {
            lease.spec = Some(spec);
            in_time(leases.replace(&candidate.name, &PostParams::default(), &lease)).await?
        }
        (_, None) => {
            let metadata = ObjectMeta { name: Some(candidate.name.clone()), ..ObjectMeta::default() };
            in_time(leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) })).await?
        }
    };
    seen.note(Some(written.spec.unwrap_or_default()), Instant::now());
    Ok(true)
}

/// Leaves the lease to whoever wants it, if it is ours.
async fn release(candidate: &Candidate, leases: &Api<Lease>) -> Result<(), Error> {
    let Some(mut lease) = in_time(leases.get_opt(&candidate.name)).await? else { return Ok(()) };
    match &mut lease.spec {
        Some(spec) if spec.holder_identity.as_deref() == Some(&candidate.identity) => {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
        }
        _ => return Ok(()),
    }
    in_time(leases.replace(&candidate.name, &PostParams::default(), &lease)).await.map(|_| ())
}

#[cfg(test)]
mod tests;
