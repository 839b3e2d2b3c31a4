//! What a directory's log says of one shard in the end: its records, and how far they are committed.
//!
//! For whoever looks at a log from outside: an audit, a checker, a restore. Records that were truncated are gone, and
//! so are those that came before a snapshot of others and may never have been committed. Payloads are slices of
//! mapped segments: they cost no memory, and stay readable when a node removes the file meanwhile.

use std::collections::BTreeMap;

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
