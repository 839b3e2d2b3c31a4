//! Wall and monotonic time.

use std::time::{Duration, Instant, SystemTime};

/// Microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixMicros(pub u64);

impl UnixMicros {
    /// The same moment in whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }
}

/// The clock door.
pub trait Clock: Send + Sync {
    /// The wall clock: may jump in either direction.
    fn wall(&self) -> UnixMicros;

    /// Time since some moment of this process: never goes back, never jumps.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clocks.
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// Monotonic time starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock door")]
    #[expect(clippy::new_without_default, reason = "reads the clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock door")]
    fn wall(&self) -> UnixMicros {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        UnixMicros(since.map_or(0, |d| d.as_micros() as u64))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}
