//! Threads: places to run a future that may block.

use std::future::Future;
use std::io;
use std::pin::Pin;

/// What a thread runs.
pub type ThreadBody = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The thread door. A body may block its thread (a write, an fsync); in a simulation it is a task
/// like any other, and its storage does not block.
pub trait Threads: Send + Sync {
    /// Runs `body` on a thread of its own until it is done.
    ///
    /// # Errors
    /// The operating system gives no thread.
    fn spawn(&self, name: &str, body: ThreadBody) -> io::Result<()>;
}

/// One operating-system thread with a timer-only tokio runtime for each body.
pub struct RealThreads;

impl Threads for RealThreads {
    fn spawn(&self, name: &str, body: ThreadBody) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(body))
            .map(drop)
    }
}

/// For simulations and tests: a thread is a task of the runtime that this is called on. Bodies must
/// not block, so it goes with a storage that does not.
pub struct TaskThreads;

impl Threads for TaskThreads {
    fn spawn(&self, _: &str, body: ThreadBody) -> io::Result<()> {
        tokio::spawn(body);
        Ok(())
    }
}
