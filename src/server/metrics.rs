//! Counters of what the server has done.
//!
//! All are relaxed atomics: they are sums for people, nothing is decided by them but the bounds on
//! unsent bytes and on reads that wait, which may be a moment late.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::{Code, Reader, take_outcome};

/// Codes come in hundreds (0, 100, 200, 300) of fewer than this.
const CODES_PER_HUNDRED: usize = 32;

/// What the whole node has counted since it started.
pub(super) struct Metrics {
    pub connections: AtomicU64,
    pub connections_refused: AtomicU64,
    pub frames: AtomicU64,
    pub write_ops: AtomicU64,
    pub read_ops: AtomicU64,
    /// Reserves answered NO_STOCK without the log.
    pub sold_out_ops: AtomicU64,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    /// Reply bytes that clients have not taken yet.
    pub bytes_unsent: AtomicU64,
    /// Bytes of reads that wait for an answer.
    pub read_bytes_waiting: AtomicU64,
    codes: [AtomicU64; 4 * CODES_PER_HUNDRED],
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            write_ops: AtomicU64::new(0),
            read_ops: AtomicU64::new(0),
            sold_out_ops: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            bytes_unsent: AtomicU64::new(0),
            read_bytes_waiting: AtomicU64::new(0),
            codes: [const { AtomicU64::new(0) }; 4 * CODES_PER_HUNDRED],
        }
    }

    /// Counts one answer.
    pub fn count_code(&self, code: Code) {
        let (hundred, rest) = (usize::from(code.0 / 100), usize::from(code.0 % 100));
        if hundred < 4 && rest < CODES_PER_HUNDRED {
            add(&self.codes[hundred * CODES_PER_HUNDRED + rest], 1);
        }
    }

    /// Counts the codes of encoded outcomes.
    pub fn count_outcomes(&self, outcomes: &[u8]) {
        let mut reader = Reader::new(outcomes);
        while let Ok(outcome) = take_outcome(&mut reader) {
            self.count_code(outcome.code);
        }
    }

    /// Every code that was given, and how often.
    pub fn codes(&self) -> impl Iterator<Item = (Code, u64)> + '_ {
        self.codes.iter().enumerate().filter_map(|(slot, count)| {
            let code = slot / CODES_PER_HUNDRED * 100 + slot % CODES_PER_HUNDRED;
            let count = count.load(Ordering::Relaxed);
            (count > 0).then_some((Code(code as u16), count))
        })
    }
}

/// Adds to a counter.
#[inline]
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Reads a counter.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_slot_of_its_own() {
        let metrics = Metrics::new();
        Code::ALL.iter().for_each(|code| metrics.count_code(*code));
        let counted: Vec<_> = metrics.codes().collect();
        let expected: Vec<_> = Code::ALL.iter().map(|code| (*code, 1)).collect();
        assert_eq!(counted, expected);
    }
}
