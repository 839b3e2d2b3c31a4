//! Wakes the connections of an open loop, once per tick.
//!
//! A thread of its own: the timers of the runtime have a resolution of one millisecond, counted from
//! a start of their own, and may be up to two milliseconds late. That would be measured as the
//! server's latency. A sleeping thread wakes within some 60 µs, at the cost of one wake-up per tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;

/// Wakes connections until it is dropped.
#[derive(Debug)]
pub struct Pacer {
    stop: Arc<AtomicBool>,
}

impl Pacer {
    /// Wakes all of `wakes` at `start_ns` and every `tick_ns` from there on.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        clock: Clock,
        start_ns: u64,
        tick_ns: u64,
        wakes: Vec<Arc<Notify>>,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let tick = move || pace(&clock, start_ns, tick_ns, &wakes, &stopped);
        std::thread::Builder::new().name("pacer".into()).spawn(tick)?;
        Ok(Self { stop })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        // Relaxed: the flag orders nothing; the thread sees it a tick later at most.
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "the harness's own thread, see above")]
fn pace(clock: &Clock, start_ns: u64, tick_ns: u64, wakes: &[Arc<Notify>], stop: &AtomicBool) {
    let mut next_ns = start_ns;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_nanos(next_ns.saturating_sub(clock.now_ns())));
        for wake in wakes {
            wake.notify_one();
        }
        // Ticks that were slept through need no wake-up of their own: all that is due is sent.
        let missed = clock.now_ns().saturating_sub(next_ns) / tick_ns;
        next_ns += (missed + 1) * tick_ns;
    }
}
