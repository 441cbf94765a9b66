//! The kernel's side on a thread of its own: netlink calls block, and their objects need not be [`Send`].

use std::thread;

use ruleset::Kernel;
use runtime::patch::now;
use tokio::sync::{mpsc, oneshot};

use crate::enforce::{Committed, Enforcement, Failure};
use crate::plan::Plan;

type Reply = Result<Committed<Plan>, Failure>;

/// The way to the thread; the thread ends when this is dropped. The table stays as it is (S41).
#[derive(Debug)]
pub struct KernelThread {
    plans: mpsc::Sender<(Plan, oneshot::Sender<Reply>)>,
}

/// The thread is gone: it has panicked.
#[derive(Debug, thiserror::Error)]
#[error("the thread that talks to the kernel has ended")]
pub struct Gone;

impl KernelThread {
    /// Starts the thread and opens the kernel there.
    pub async fn start<K>(open: impl FnOnce() -> Result<K, K::Error> + Send + 'static) -> anyhow::Result<KernelThread>
    where
        K: Kernel + 'static,
    {
        let (plans, mut received) = mpsc::channel::<(Plan, oneshot::Sender<Reply>)>(1);
        let (opened, is_open) = oneshot::channel();
        thread::Builder::new().name("kernel".into()).spawn(move || {
            let kernel = match open() {
                Ok(kernel) => kernel,
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            if opened.send(Ok(())).is_err() {
                return;
            }
            let mut enforcement = Enforcement::new(kernel);
            while let Some((plan, reply)) = received.blocking_recv() {
                // Nobody listens only when the program is ending.
                let _ = reply.send(enforcement.enforce(plan, now));
            }
        })?;
        is_open.await.map_err(|_| Gone)??;
        Ok(KernelThread { plans })
    }

    /// Puts a plan in force.
    pub async fn enforce(&self, plan: Plan) -> Result<Reply, Gone> {
        let (reply, replied) = oneshot::channel();
        self.plans.send((plan, reply)).await.map_err(|_| Gone)?;
        replied.await.map_err(|_| Gone)
    }
}
