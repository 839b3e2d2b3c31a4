//! What is counted and measured: per connection, merged at the end.

use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use stockd_protocol::{Code, Outcome};

use crate::driver::add;

/// A stretch of a run that is measured by itself, on the run's clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// For the report.
    pub name: &'static str,
    /// From here, inclusive.
    pub from_ns: u64,
    /// To here, exclusive.
    pub to_ns: u64,
}

impl Window {
    const fn holds(&self, at_ns: u64) -> bool {
        at_ns >= self.from_ns && at_ns < self.to_ns
    }
}

/// What was measured in one window.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Which.
    pub window: Window,
    /// Microseconds per frame, from when it was due; frames count where they were due.
    pub latency_us: Histogram<u64>,
    /// Operations answered in the window.
    pub ops: u64,
    /// Reservations granted in the window.
    pub granted: u64,
}

/// What came in since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fresh {
    /// Operations answered.
    pub ops: u64,
    /// Reservations granted.
    pub granted: u64,
    /// Reservations refused for lack of stock.
    pub refused: u64,
    /// Reservations confirmed.
    pub confirmed: u64,
    /// Reservations released.
    pub released: u64,
    /// Confirms and releases that came after the deadline.
    pub expired: u64,
}

/// One connection's counts.
#[derive(Clone, Debug)]
pub struct Stats {
    /// By window.
    pub measured: Vec<Measured>,
    /// Answers by code, over the whole run.
    pub census: Vec<u64>,
    /// Not published yet.
    pub fresh: Fresh,
    /// Answers that no correct server gives: how many, and the first few.
    pub odd_count: u64,
    /// See `odd_count`.
    pub odd_examples: Vec<String>,
    /// Earliest and latest deadline granted, in milliseconds since 1970.
    pub deadlines_ms: Option<(u64, u64)>,
    /// How often the connection was made again.
    pub reconnects: u64,
    /// Frames that were sent again.
    pub frames_resent: u64,
    /// Replies that the harness threw away.
    pub replies_dropped: u64,
    /// Operations that were asked once more after their answer.
    pub asked_again: u64,
    /// Frames of the open loop that were due and never left.
    pub frames_overdue: u64,
}

const CODES: usize = 512;
const EXAMPLES_MAX: usize = 5;
/// Ten minutes in microseconds: no frame waits longer.
const LATENCY_US_MAX: u64 = 600_000_000;

impl Stats {
    /// Nothing counted yet.
    pub fn new(windows: &[Window]) -> Self {
        let measured = |window: &Window| Measured {
            window: window.clone(),
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3).expect("3 digits are allowed"),
            ops: 0,
            granted: 0,
        };
        Self {
            measured: windows.iter().map(measured).collect(),
            census: vec![0; CODES],
            fresh: Fresh::default(),
            odd_count: 0,
            odd_examples: Vec::new(),
            deadlines_ms: None,
            reconnects: 0,
            frames_resent: 0,
            replies_dropped: 0,
            asked_again: 0,
            frames_overdue: 0,
        }
    }

    /// One more answer with this code.
    #[inline]
    pub fn count(&mut self, code: Code) {
        self.census[usize::from(code.0).min(CODES - 1)] += 1;
    }

    /// A frame was answered; `whole` if nothing of it must be sent again.
    pub fn answered(&mut self, due_ns: u64, now_ns: u64, ops: u64, granted: u64, whole: bool) {
        self.fresh.ops += ops;
        for measured in &mut self.measured {
            if whole && measured.window.holds(due_ns) {
                measured.latency_us.saturating_record(now_ns.saturating_sub(due_ns) / 1_000);
            }
            if measured.window.holds(now_ns) {
                measured.ops += ops;
                measured.granted += granted;
            }
        }
    }

    /// An answer that no correct server gives; `what` is asked for the first few.
    pub fn odd(&mut self, what: impl FnOnce() -> String) {
        self.odd_count += 1;
        if self.odd_examples.len() < EXAMPLES_MAX {
            self.odd_examples.push(what());
        }
    }

    /// The deadline of a grant.
    #[inline]
    pub fn deadline(&mut self, outcome: &Outcome<'_>) {
        let Some(deadline) = outcome.deadline() else { return };
        let (first, last) = self.deadlines_ms.get_or_insert((deadline.0, deadline.0));
        *first = deadline.0.min(*first);
        *last = deadline.0.max(*last);
    }

    /// Adds another connection's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.measured.iter_mut().zip(&other.measured) {
            mine.latency_us.add(&theirs.latency_us).expect("all histograms have one shape");
            mine.ops += theirs.ops;
            mine.granted += theirs.granted;
        }
        for (mine, theirs) in self.census.iter_mut().zip(&other.census) {
            *mine += theirs;
        }
        self.odd_count += other.odd_count;
        self.odd_examples.extend(other.odd_examples.iter().cloned());
        self.odd_examples.truncate(EXAMPLES_MAX);
        self.deadlines_ms = match (self.deadlines_ms, other.deadlines_ms) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        self.reconnects += other.reconnects;
        self.frames_resent += other.frames_resent;
        self.replies_dropped += other.replies_dropped;
        self.asked_again += other.asked_again;
        self.frames_overdue += other.frames_overdue;
    }

    /// The codes that came, with their counts, in the order of the codes.
    pub fn codes(&self) -> impl Iterator<Item = (Code, u64)> + '_ {
        let seen = self.census.iter().enumerate().filter(|(_, count)| **count > 0);
        seen.map(|(code, count)| (Code(code as u16), *count))
    }
}

/// What all connections of a phase share. Every access is relaxed: these are statistics and hints,
/// they order nothing.
#[derive(Debug, Default)]
pub struct Shared {
    /// Operations answered.
    pub ops: AtomicU64,
    /// Reservations granted.
    pub granted: AtomicU64,
    /// Reservations refused.
    pub refused: AtomicU64,
    /// Reservations confirmed.
    pub confirmed: AtomicU64,
    /// Reservations released.
    pub released: AtomicU64,
    /// Confirms and releases that came too late.
    pub expired: AtomicU64,
    last_answer_ns: AtomicU64,
    /// Longest time without any answer, between the first and the last.
    pub pause_ns_max: AtomicU64,
}

impl Shared {
    /// Adds what a burst brought at `now_ns`.
    pub fn add(&self, now_ns: u64, fresh: &Fresh) {
        if fresh.ops == 0 {
            return;
        }
        let last = self.last_answer_ns.fetch_max(now_ns, Ordering::Relaxed);
        let pause = if last == 0 { 0 } else { now_ns.saturating_sub(last) };
        if pause > self.pause_ns_max.load(Ordering::Relaxed) {
            self.pause_ns_max.fetch_max(pause, Ordering::Relaxed);
        }
        add(&self.ops, fresh.ops);
        add(&self.granted, fresh.granted);
        add(&self.refused, fresh.refused);
        add(&self.confirmed, fresh.confirmed);
        add(&self.released, fresh.released);
        add(&self.expired, fresh.expired);
    }

    /// All counts so far.
    pub fn totals(&self) -> Fresh {
        Fresh {
            ops: self.ops.load(Ordering::Relaxed),
            granted: self.granted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            confirmed: self.confirmed.load(Ordering::Relaxed),
            released: self.released.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
        }
    }
}
