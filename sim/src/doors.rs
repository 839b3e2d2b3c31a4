//! The doors of a simulated machine: clock, randomness, threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use stockd::world::{Clock, EnoughMemory, Random, TaskThreads, UnixMicros, World};
use stockd_client::IdSource;

/// When a simulation begins, in microseconds since 1970: a day in June 2025.
pub const EPOCH_MICROS: u64 = 1_750_000_000_000_000;

/// SplitMix64, shared by all who have a clone.
#[derive(Clone)]
pub struct Dice(Arc<AtomicU64>);

impl Dice {
    /// Rolls as `seed` says.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// 64 random bits.
    pub fn roll(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between `low` and `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    /// True `percent` times of a hundred.
    pub fn chance(&self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// There is none.
    pub fn pick<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[(self.roll() % choices.len() as u64) as usize]
    }

    /// Dice of their own, for somebody whose rolls must not change those of others.
    pub fn split(&self) -> Self {
        Self::new(self.roll())
    }
}

impl Random for Dice {
    fn next_u64(&self) -> u64 {
        self.roll()
    }
}

/// A machine's clock: it runs as fast as the machine is told, whether or not a process is there to
/// look at it. Its monotonic time begins with the machine; that of a process does with the process, see
/// [`world`].
#[derive(Default)]
pub struct MachineClock {
    micros: AtomicU64,
    wrong_by_micros: AtomicI64,
}

impl MachineClock {
    /// Lets time pass, as this machine sees it.
    pub fn advance(&self, micros: u64) {
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Moves the wall clock.
    pub fn jump(&self, micros: i64) {
        self.wrong_by_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Sets the wall clock right, but for what its own rate has made of it.
    pub fn correct(&self) {
        self.wrong_by_micros.store(0, Ordering::Relaxed);
    }

    /// Microseconds since the machine was made.
    pub fn micros(&self) -> u64 {
        self.micros.load(Ordering::Relaxed)
    }
}

impl Clock for MachineClock {
    fn wall(&self) -> UnixMicros {
        let wrong = self.wrong_by_micros.load(Ordering::Relaxed);
        UnixMicros((EPOCH_MICROS + self.micros()).saturating_add_signed(wrong))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros())
    }
}

/// A machine's clock as one process sees it, whose monotonic time begins now.
struct ProcessClock {
    machine: Arc<MachineClock>,
    born: Duration,
}

impl Clock for ProcessClock {
    fn wall(&self) -> UnixMicros {
        self.machine.wall()
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic() - self.born
    }
}

/// The world as a process sees it that is started now.
pub fn world(machine: &Arc<MachineClock>, dice: &Dice) -> World {
    let clock = ProcessClock { machine: machine.clone(), born: machine.monotonic() };
    World {
        clock: Arc::new(clock),
        random: Arc::new(dice.split()),
        threads: Arc::new(TaskThreads),
        memory: Arc::new(EnoughMemory),
    }
}

/// A client's ids, by its machine's clock.
pub struct Ids {
    /// Of the client's machine.
    pub clock: Arc<MachineClock>,
    /// Its own.
    pub dice: Dice,
}

impl IdSource for Ids {
    fn unix_millis(&self) -> u64 {
        self.clock.wall().as_millis()
    }

    fn next_u64(&self) -> u64 {
        self.dice.roll()
    }
}
