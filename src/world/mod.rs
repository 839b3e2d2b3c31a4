//! The doors to everything that is not a function of the log: clock, randomness, threads, memory, network.
//!
//! The daemon opens each door once, at the top ([`World::real`]), and hands the [`World`] down. A
//! simulation hands down another world and runs a whole cluster of this very code in one thread, on
//! simulated time, from a seed. What that takes of the code above:
//!
//! - wall time and durations come from [`Clock`]; timers from `tokio::time`, which a simulation
//!   drives;
//! - a thread is a place to run a future: [`Threads::spawn`]. No bare threads, no `spawn_blocking`;
//! - sockets come from [`net`], files from `log::storage`;
//! - no default hash order: `clippy.toml` refuses the standard hash maps.

mod clock;
mod memory;
mod moment;
pub mod net;
mod pace;
mod random;
mod threads;

use std::sync::Arc;

pub use clock::{Clock, RealClock, UnixMicros};
pub use memory::{EnoughMemory, Memory, RealMemory};
pub use moment::Moment;
pub use pace::Pace;
pub use random::{Random, RealRandom};
pub use threads::{RealThreads, TaskThreads, Threads};

/// One of each door. Cheap to clone.
#[derive(Clone)]
pub struct World {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// Places to run futures that may block.
    pub threads: Arc<dyn Threads>,
    /// How much memory is left.
    pub memory: Arc<dyn Memory>,
}

impl World {
    /// The operating system's clock, randomness and threads.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(RealClock::new()),
            random: Arc::new(RealRandom::new()),
            threads: Arc::new(RealThreads),
            memory: Arc::new(RealMemory),
        }
    }
}
