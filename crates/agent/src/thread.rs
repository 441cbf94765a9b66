//! The kernel's side on a thread of its own: netlink calls block, and their objects need not be [`Send`].

use std::collections::BTreeMap;
use std::{io, thread};

use ruleset::{Counter, Kernel};
use runtime::patch::now;
use tokio::sync::{mpsc, oneshot};

use crate::bridge::{Bridges, Bridging};
use crate::enforce::{Committed, Enforcement, Failure};
use crate::passage::{Passage, Ways};
use crate::plan::Plan;

/// What became of a plan, and whether packets pass beside it.
type Reply = (Result<Committed<Plan>, Failure>, Bridging, Passage);

enum Request {
    Enforce { plan: Box<Plan>, recheck: bool, reply: oneshot::Sender<Reply> },
    Count { reply: oneshot::Sender<BTreeMap<String, Counter>> },
}

/// The way to the thread; the thread ends when this is dropped. The table stays as it is (S41).
#[derive(Debug)]
pub struct KernelThread {
    requests: mpsc::Sender<Request>,
}

/// The thread is gone: it has panicked.
#[derive(Debug, thiserror::Error)]
#[error("the thread that talks to the kernel has ended")]
pub struct Gone;

impl KernelThread {
    /// Starts the thread, with what it needs to look at devices.
    pub async fn start(
        kernel: impl Kernel + Send + 'static,
        look: impl FnOnce() -> io::Result<(Bridges, Ways)> + Send + 'static,
    ) -> anyhow::Result<KernelThread> {
        let (requests, mut received) = mpsc::channel::<Request>(1);
        let (opened, is_open) = oneshot::channel();
        thread::Builder::new().name("kernel".into()).spawn(move || {
            let (mut bridges, mut ways) = match look() {
                Ok(opened) => opened,
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            if opened.send(Ok(())).is_err() {
                return;
            }
            let mut enforcement = Enforcement::new(kernel);
            while let Some(request) = received.blocking_recv() {
                let (plan, recheck, reply) = match request {
                    Request::Enforce { plan, recheck, reply } => (*plan, recheck, reply),
                    Request::Count { reply } => {
                        // Counts are for people: what cannot be read now is read the next time.
                        let _ = reply.send(enforcement.counters().unwrap_or_default());
                        continue;
                    }
                };
                let checked = if recheck { enforcement.recheck() } else { Ok(false) };
                if let Ok(true) = checked {
                    tracing::warn!("someone else has changed our table; putting it right");
                }
                // Before the rules are said to be in force, packets have to meet them.
                let bridging = bridges.look(&plan.scope.addresses, recheck);
                let passage = ways.look(&plan.scope.addresses, recheck);
                // What cannot be read back cannot be said to be in force. Nobody listens only when the program is ending.
                let _ = reply.send((checked.and_then(|_| enforcement.enforce(plan, now)), bridging, passage));
            }
        })?;
        is_open.await.map_err(|_| Gone)??;
        Ok(KernelThread { requests })
    }

    /// Puts a plan in force; with `recheck` the table is read again before.
    pub async fn enforce(&self, plan: Plan, recheck: bool) -> Result<Reply, Gone> {
        let (reply, replied) = oneshot::channel();
        self.requests.send(Request::Enforce { plan: Box::new(plan), recheck, reply }).await.map_err(|_| Gone)?;
        replied.await.map_err(|_| Gone)
    }

    /// What the table's counters have counted; empty where they cannot be read.
    pub async fn counters(&self) -> Result<BTreeMap<String, Counter>, Gone> {
        let (reply, replied) = oneshot::channel();
        self.requests.send(Request::Count { reply }).await.map_err(|_| Gone)?;
        replied.await.map_err(|_| Gone)
    }
}
