//! What a directory's log says of one shard in the end: its records, and how far they are committed.
//!
//! For whoever looks at a log from outside: an audit, a checker, a restore. Records that were truncated are gone, and
//! so are those that came before a snapshot of others and may never have been committed. Payloads are slices of
//! mapped segments: they cost no memory, and stay readable when a node removes the file meanwhile.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use stockd_protocol::ShardId;

use super::inspect::{Entry, scan};
use super::{Error, FrameKind, Progress, RecordId, Storage};

/// A record, at its index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    /// The term of the leader that made it.
    pub term: u64,
    /// What the floor above says that it is.
    pub kind: u8,
    /// Its content.
    pub payload: Bytes,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Records {
    records: BTreeMap<u64, Logged>,
    committed: u64,
}

impl Records {
    /// Reads the log of a directory, which changes nothing there.
    ///
    /// # Errors
    /// The log is damaged, as [`scan`] says.
    pub fn read(
        storage: &dyn Storage,
        shard: ShardId,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        let mut records = Self::default();
        let mut take = |frame: &Entry| {
            if frame.shard == shard {
                records.take(frame);
            }
        };
        scan(storage, &mut take, progress)?;
        Ok(records)
    }

    /// The indexes of the records that [`Records::read`] gives, in pieces without a hole. Keeps no more of them in memory
    /// than were not committed at one time.
    ///
    /// # Errors
    /// As [`Records::read`].
    pub fn spans(
        storage: &dyn Storage,
        shard: ShardId,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<RangeInclusive<u64>>, Error> {
        let (mut records, mut spans) = (Self::default(), Vec::new());
        let mut take = |frame: &Entry| {
            if frame.shard == shard {
                records.take(frame);
                records.settle(records.committed, &mut spans);
            }
        };
        scan(storage, &mut take, progress)?;
        records.settle(u64::MAX, &mut spans);
        Ok(spans)
    }

    /// Leaves records up to an index to the spans: nothing takes the place of what is committed.
    fn settle(&mut self, upto: u64, spans: &mut Vec<RangeInclusive<u64>>) {
        while let Some(first) = self.records.first_entry().filter(|first| *first.key() <= upto) {
            let (index, _) = first.remove_entry();
            match spans.last_mut() {
                Some(span) if span.end() + 1 == index => *span = *span.start()..=index,
                _ => spans.push(index..=index),
            }
        }
    }

    /// The records, by index.
    pub fn all(&self) -> &BTreeMap<u64, Logged> {
        &self.records
    }

    /// The last index that is known to be committed. What comes after it may be, too: this is not synced.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The newest record.
    pub fn last(&self) -> Option<RecordId> {
        let last = self.records.last_key_value();
        last.map(|(index, logged)| RecordId { term: logged.term, index: *index })
    }

    fn take(&mut self, frame: &Entry) {
        match (frame.kind, frame.id) {
            (FrameKind::Append, Some(id)) => {
                if self.last().is_some_and(|last| last.index >= id.index) {
                    // It takes the place of one that was never committed, and of what followed that.
                    drop(self.records.split_off(&id.index));
                }
                let (kind, payload) = (frame.record_kind, frame.payload.clone());
                self.records.insert(id.index, Logged { term: id.term, kind, payload });
            }
            (FrameKind::Committed, Some(id)) => self.committed = self.committed.max(id.index),
            (FrameKind::Purged, Some(id)) => {
                // A snapshot from the leader: what is here up to it may never have been committed,
                // unless the record at its end is the same.
                let same = self.records.get(&id.index).is_some_and(|record| record.term == id.term);
                if !same {
                    let (committed, end) = (self.committed, id.index);
                    self.records.retain(|index, _| *index <= committed || *index > end);
                }
                self.committed = self.committed.max(id.index);
            }
            (FrameKind::TruncateAfter, Some(id)) => drop(self.records.split_off(&(id.index + 1))),
            (FrameKind::TruncateAfter, None) => self.records.clear(),
            (FrameKind::Mark | FrameKind::Vote, _) | (_, None) => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_those_of_the_records() {
        for seed in 1..200_u64 {
            let (mut all, mut some, mut spans) =
                (Records::default(), Records::default(), Vec::new());
            let (mut random, mut last, mut committed) = (seed, 0, 0);
            for term in 1..100 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let any = |from: u64, to: u64| from + (random >> 33) % (to - from + 1);
                let (kind, index) = match random >> 60 {
                    // Something uncommitted is replaced.
                    0 => (FrameKind::Append, any(committed + 1, last + 1)),
                    1 => (FrameKind::TruncateAfter, any(committed, last)),
                    2 | 3 => (FrameKind::Committed, any(committed, last)),
                    // A snapshot of others, from which the log goes on.
                    4 => (FrameKind::Purged, any(committed, last + 5)),
                    _ => (FrameKind::Append, last + 1),
                };
                match kind {
                    FrameKind::Append | FrameKind::TruncateAfter => last = index,
                    FrameKind::Committed => committed = index,
                    _ => (last, committed) = (last.max(index), index),
                }
                let frame = Entry {
                    file: String::new(),
                    offset: 0,
                    seq: term,
                    kind,
                    record_kind: 0,
                    shard: ShardId(0),
                    id: Some(RecordId { term, index }),
                    payload: Bytes::new(),
                };
                all.take(&frame);
                some.take(&frame);
                some.settle(some.committed, &mut spans);
            }
            some.settle(u64::MAX, &mut spans);
            let mut found = spans.into_iter().flatten();
            assert!(all.records.keys().all(|index| found.next() == Some(*index)), "seed {seed}");
            assert_eq!(found.next(), None, "seed {seed}");
        }
    }
}
