//! Being the first process of a container.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// The signals that end us and the one about children. Blocked in every thread started after this, so that [`Signals::wait`] gets them:
/// the kernel throws away a signal that the first process of a pid namespace neither handles nor blocks.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them; call it before any thread is started.
    pub fn block() -> io::Result<Signals> {
        let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
        set.thread_block()?;
        Ok(Signals(set))
    }

    /// Reaps children until told to end, then returns.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            if self.0.wait()? != Signal::SIGCHLD {
                return Ok(());
            }
            while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                if status == WaitStatus::StillAlive {
                    break;
                }
            }
        }
    }
}
