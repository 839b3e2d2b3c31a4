//! What was asked and answered, and when.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use stockd::world::{Clock, RealClock};
use stockd_check::history::{Answer, NEVER, Operation, Request, Verdict};
use stockd_client::UnixMillis;
use tokio::time::Instant;

/// Most operations of a run: some gigabytes. Callers rest after that.
const OPERATIONS_MAX: usize = 20_000_000;

/// The history of a run.
pub struct Ledger {
    begun: Instant,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    operations: Vec<Operation>,
    /// Answers that are not part of the history, by what they say.
    asides: BTreeMap<String, u64>,
    /// When the last write was acknowledged; `None` while nobody writes.
    last_write: Option<Instant>,
    longest_pause: Duration,
    /// How far the cluster's clock was ever ahead of this machine's, in milliseconds.
    clock_ahead_ms: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { begun: Instant::now(), book: Mutex::default() }
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no holder panics")
    }

    /// A moment on the clock of this process, in nanoseconds.
    pub fn now(&self) -> u64 {
        1 + self.begun.elapsed().as_nanos() as u64
    }

    /// Writes down calls that were made together from `invoked` until now.
    pub fn record(
        &self,
        client: u32,
        invoked: u64,
        calls: impl IntoIterator<Item = (Request, Option<UnixMillis>, Verdict)>,
    ) {
        let now = self.now().max(invoked + 1);
        let wall_ms = RealClock::new().wall().as_millis();
        let mut book = self.lock();
        for (request, not_after, verdict) in calls {
            if request.is_write() && verdict.answer().is_some() {
                book.acknowledged();
            }
            // Who was just started and never heard of a leader has only its own clock, and says so.
            let knows = |answer: &&Answer| !request.is_stale() || answer.age_ms != u32::MAX;
            if let Some(answer) = verdict.answer().filter(knows) {
                let ahead_ms = answer.server_now.0.saturating_sub(wall_ms);
                book.clock_ahead_ms = book.clock_ahead_ms.max(ahead_ms);
            }
            let completed = if verdict == Verdict::Unknown { NEVER } else { now };
            let operation = Operation { client, invoked, completed, request, not_after, verdict };
            book.operations.push(operation);
        }
    }

    /// Counts something that is no operation.
    pub fn aside(&self, what: &str) {
        *self.lock().asides.entry(what.to_owned()).or_default() += 1;
    }

    /// No more can be written down.
    pub fn is_full(&self) -> bool {
        self.lock().operations.len() >= OPERATIONS_MAX
    }

    /// Counts the pause that lasts at this moment, too.
    pub fn count_pause(&self) {
        let mut book = self.lock();
        let pause = book.last_write.map_or(Duration::ZERO, |last| last.elapsed());
        book.longest_pause = book.longest_pause.max(pause);
    }

    /// The load has ended on purpose: until it goes on, no pause is counted.
    pub fn rest(&self) {
        self.lock().last_write = None;
    }

    /// How many calls have been written down.
    pub fn len(&self) -> usize {
        self.lock().operations.len()
    }

    /// The longest time in which no write was acknowledged although some were asked for.
    pub fn longest_pause(&self) -> Duration {
        self.lock().longest_pause
    }

    /// How far the cluster's clock was ever ahead of this machine's, which is right.
    pub fn clock_ahead(&self) -> Duration {
        Duration::from_millis(self.lock().clock_ahead_ms)
    }

    /// What is no operation, counted.
    pub fn asides(&self) -> BTreeMap<String, u64> {
        self.lock().asides.clone()
    }

    /// Hands over the history, in the order in which calls ended.
    pub fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.lock().operations)
    }
}

impl Book {
    fn acknowledged(&mut self) {
        let now = Instant::now();
        let pause = self.last_write.map_or(Duration::ZERO, |last| now - last);
        self.longest_pause = self.longest_pause.max(pause);
        self.last_write = Some(now);
    }
}
