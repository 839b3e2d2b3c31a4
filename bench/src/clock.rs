//! The one place where the harness asks what time it is.

use tokio::time::Instant;

/// Nanoseconds since the harness started, and the wall clock that goes with them.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_unix_ms: u64,
}

impl Clock {
    /// Starts counting now.
    #[expect(clippy::disallowed_methods, reason = "the harness's door to the wall clock")]
    pub fn start() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let start_unix_ms = unix.map_or(0, |since| since.as_millis() as u64);
        Self { start: Instant::now(), start_unix_ms }
    }

    /// Nanoseconds since the start; never goes back.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Milliseconds since 1970 at `now_ns`.
    pub const fn unix_ms(&self, now_ns: u64) -> u64 {
        self.start_unix_ms + now_ns / 1_000_000
    }

    /// The moment `now_ns` as tokio's timers want it.
    pub fn instant(&self, now_ns: u64) -> Instant {
        self.start + std::time::Duration::from_nanos(now_ns)
    }
}
