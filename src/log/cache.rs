//! Where a shard's records are: the young ones in memory, all written ones by position.
//!
//! ```text
//!            start          first cached              written          end
//!              │                 │                       │              │
//! positions    ├─────────────────┼───────────────────────┤              │    8 bytes a record
//! cached                         ├───────────────────────┼──────────────┤    the records themselves
//!              └── served from the files ──┘└── served from memory ─────┘
//! ```
//!
//! Two hands work here. The caller appends, truncates and purges, and sees its own changes at once.
//! The writer does the same later, in the same order, and tells where each record went. What keeps
//! the two apart is the *ticket*: requests of a shard are numbered, and a cached record may be
//! evicted once the writer has come past its ticket. If a cached record's ticket is past, no request
//! since then has dropped its index (or it would not be in the cache), so the position that the
//! writer left at this index is this record's.
//!
//! Invariants: `cached` ends at the end of the log; a record is cached, or has a position, or both;
//! an index below `cached_first` is never looked up in positions that a later truncate will change.

use std::collections::VecDeque;
use std::ops::Range;

use super::Record;
use super::segment::Position;

struct Cached {
    record: Record,
    ticket: u64,
}

#[derive(Default)]
pub(super) struct Cache {
    /// The first index of the log as the caller sees it.
    start: u64,
    /// The index of `positions[0]`.
    positions_first: u64,
    positions: VecDeque<Position>,
    /// The index of `cached[0]`, or the next one to come.
    cached_first: u64,
    cached: VecDeque<Cached>,
    /// Payload bytes in `cached`.
    bytes: u64,
    /// The writer has come this far.
    written_ticket: u64,
}

impl Cache {
    /// What recovery found: nothing cached, everything by position.
    pub(super) fn recovered(start: u64, positions: VecDeque<Position>) -> Self {
        let cached_first = start + positions.len() as u64;
        Self { start, positions_first: start, positions, cached_first, ..Self::default() }
    }

    /// The indices that can be read.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    fn end(&self) -> u64 {
        self.cached_first + self.cached.len() as u64
    }

    /// The cached record at `index`.
    pub(super) fn cached(&self, index: u64) -> Option<&Record> {
        let at = index.checked_sub(self.cached_first)?;
        self.cached.get(at as usize).map(|cached| &cached.record)
    }

    /// The positions of `range`, as far as it lies in the log and is not cached.
    pub(super) fn positions(&self, range: Range<u64>) -> impl Iterator<Item = Position> {
        let end = range.end.min(self.cached_first);
        let from = range.start.saturating_sub(self.positions_first) as usize;
        let to = end.saturating_sub(self.positions_first) as usize;
        let to = to.min(self.positions.len());
        self.positions.range(from.min(to)..to).copied()
    }

    // The caller's hand.

    /// Adds the next record.
    ///
    /// # Panics
    /// It leaves a hole.
    pub(super) fn push(&mut self, record: Record, ticket: u64) {
        if self.start == self.end() && self.cached.is_empty() && record.index > self.end() {
            (self.start, self.cached_first) = (record.index, record.index);
        }
        assert!(record.index == self.end(), "a shard's records have no holes");
        self.bytes += record.payload.len() as u64;
        self.cached.push_back(Cached { record, ticket });
    }

    /// Drops every record from index `end` on.
    pub(super) fn truncate(&mut self, end: u64) {
        let end = end.max(self.start);
        while self.end() > end {
            match self.cached.pop_back() {
                Some(cached) => self.bytes -= cached.record.payload.len() as u64,
                None => self.cached_first = end,
            }
        }
    }

    /// Drops every record before index `start`; the log then begins there.
    pub(super) fn purge(&mut self, start: u64) {
        if start <= self.start {
            return;
        }
        self.start = start;
        while self.cached_first < start {
            match self.cached.pop_front() {
                Some(cached) => {
                    self.bytes -= cached.record.payload.len() as u64;
                    self.cached_first += 1;
                }
                None => self.cached_first = start,
            }
        }
        while self.positions_first < start && self.positions.pop_front().is_some() {
            self.positions_first += 1;
        }
    }

    /// Lets go of the oldest written records while they take more than `bytes_max`.
    pub(super) fn evict(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max {
            match self.cached.front() {
                Some(front) if front.ticket <= self.written_ticket => {
                    self.bytes -= front.record.payload.len() as u64;
                    self.cached.pop_front();
                    self.cached_first += 1;
                }
                _ => break,
            }
        }
    }

    // The writer's hand.

    /// The records from `index` on have been written there. They replace what had these indices.
    pub(super) fn placed(&mut self, ticket: u64, index: u64, places: &[Position]) {
        self.written_truncate(ticket, index);
        for (index, position) in (index..).zip(places) {
            if index < self.start {
                continue; // purged in the meantime
            }
            if self.positions.is_empty() {
                self.positions_first = index;
            }
            let next = self.positions_first + self.positions.len() as u64;
            assert!(index == next, "the writer places a shard's records in order");
            self.positions.push_back(*position);
        }
    }

    /// The writer has come to a truncate: records from index `end` on are gone.
    pub(super) fn written_truncate(&mut self, ticket: u64, end: u64) {
        assert!(ticket > self.written_ticket, "the writer takes a shard's requests in order");
        self.written_ticket = ticket;
        let keep = end.saturating_sub(self.positions_first) as usize;
        self.positions.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(term: u64, index: u64) -> Record {
        Record { term, index, kind: 0, payload: Bytes::from(vec![0; 10]) }
    }

    fn place(offset: u64) -> Position {
        Position::new(1, offset)
    }

    fn places(cache: &Cache, range: Range<u64>) -> Vec<u64> {
        cache.positions(range).map(Position::offset).collect()
    }

    #[test]
    fn evicts_only_what_is_written() {
        let mut cache = Cache::default();
        for index in 0..4 {
            cache.push(record(1, index), index + 1);
        }
        cache.evict(0);
        assert!(cache.cached(0).is_some(), "nothing is written yet");
        cache.placed(1, 0, &[place(100)]);
        cache.placed(2, 1, &[place(101)]);
        cache.evict(0);
        assert!(cache.cached(1).is_none());
        assert!(cache.cached(2).is_some());
        assert_eq!(places(&cache, 0..4), [100, 101]);
        assert_eq!(cache.range(), 0..4);
    }

    #[test]
    fn a_rewritten_tail_is_not_mixed_up_with_the_old_one() {
        let mut cache = Cache::default();
        for index in 5..8 {
            cache.push(record(1, index), 1);
        }
        cache.truncate(6);
        cache.push(record(2, 6), 3);
        cache.placed(1, 5, &[place(1), place(2), place(3)]);
        cache.evict(0);
        // The old record 6 has a position, but the new one is still only in memory.
        assert_eq!(places(&cache, 5..7), [1]);
        assert_eq!(cache.cached(6).map(|r| r.term), Some(2));
        cache.written_truncate(2, 6);
        cache.placed(3, 6, &[place(4)]);
        cache.evict(0);
        assert_eq!(places(&cache, 5..7), [1, 4]);
        assert_eq!(cache.range(), 5..7);
    }

    #[test]
    fn a_purge_may_overtake_the_writer() {
        let mut cache = Cache::default();
        for index in 0..4 {
            cache.push(record(1, index), 1);
        }
        cache.purge(10);
        cache.push(record(1, 10), 3);
        cache.placed(1, 0, &[place(0), place(1), place(2), place(3)]);
        cache.placed(3, 10, &[place(4)]);
        cache.evict(0);
        assert_eq!(cache.range(), 10..11);
        assert_eq!(places(&cache, 10..11), [4]);
    }

    #[test]
    fn truncating_everything_starts_afresh() {
        let mut cache = Cache::recovered(5, VecDeque::from([place(1), place(2)]));
        cache.truncate(0);
        assert_eq!(cache.range(), 5..5);
        cache.push(record(3, 9), 2);
        assert_eq!(cache.range(), 9..10);
        cache.written_truncate(1, 0);
        cache.placed(2, 9, &[place(7)]);
        assert!(places(&cache, 9..10).is_empty(), "still cached");
        cache.evict(0);
        assert_eq!(places(&cache, 9..10), [7]);
    }

    #[test]
    #[should_panic(expected = "no holes")]
    fn a_hole_is_a_bug() {
        let mut cache = Cache::default();
        cache.push(record(1, 0), 1);
        cache.push(record(1, 2), 2);
    }
}
