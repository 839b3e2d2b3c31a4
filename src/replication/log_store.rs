//! Raft's log over stockd's: one shard of the node's write-ahead log as openraft wants to see it.
//!
//! - `append` returns when the entries can be read, and calls back when they are on disk; only
//!   `save_vote` waits for the disk. openraft's core task awaits both inline.
//! - `save_committed`, `truncate_after` and `purge` are ordered in the same queue and not synced.

use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::types::{
    Entry, RaftLogId, TypeConfig, Vote, entry_of, log_id, put_vote, record_id, record_of, take_vote,
};
use crate::log::ShardLog;
use crate::protocol::Reader;

/// Most payload bytes read for one append to a follower, unless one entry alone is larger.
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Most payload bytes read ahead for apply.
const APPLY_BYTES_MAX: usize = 4 << 20;

/// One shard's log for openraft; cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    log: ShardLog,
}

impl LogStore {
    pub fn new(log: ShardLog) -> Self {
        Self { log }
    }

    /// Waits until everything asked for so far is on disk, by writing the vote again.
    ///
    /// # Errors
    /// The log has failed.
    pub async fn sync(&self) -> io::Result<()> {
        match self.log.state().vote {
            Some(vote) => self.write_vote(vote).await,
            None => Ok(()),
        }
    }

    async fn write_vote(&self, vote: Bytes) -> io::Result<()> {
        let (done, on_disk) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| {
            // The core may be shutting down and no longer wait.
            let _ = done.send(result);
        });
        self.log.save_vote(vote, done);
        on_disk.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let records = self.log.read(from, to, bytes_max)?;
        let entries = records.into_iter().map(entry_of).collect::<Result<Vec<_>, _>>();
        entries.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(from) => from + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => to + 1,
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let Some(bytes) = self.log.state().vote else { return Ok(None) };
        let vote = take_vote(&mut Reader::new(&bytes));
        vote.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, APPEND_BYTES_MAX)
    }

    /// Reads ahead a few megabytes at a time: a follower that was away may have gigabytes to apply.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let store = self.clone();
        stream::unfold(Some(from), move |from| {
            let entries = match from {
                Some(from) if from < to => Some(store.read(from, to, APPLY_BYTES_MAX)),
                _ => None,
            };
            async move {
                match entries? {
                    Ok(entries) if entries.is_empty() => None,
                    Ok(entries) => {
                        let next = entries.last().map(|entry| entry.log_id.index + 1);
                        let items: Vec<_> = entries.into_iter().map(Ok).collect();
                        Some((stream::iter(items), next))
                    }
                    Err(error) => Some((stream::iter(vec![Err(error)]), None)),
                }
            }
        })
        .flatten()
        .boxed()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(log_id),
            last_log_id: state.last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        put_vote(&mut bytes, vote);
        self.write_vote(bytes.freeze()).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.save_committed(record_id(committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.log.state().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(record_of).collect();
        self.log.append(records, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.log.truncate_after(last.map(record_id));
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.log.purge(record_id(upto));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log::{Log, LogOptions, SimStorage, Survival};
    use crate::protocol::ShardId;
    use crate::world::{TaskThreads, World};

    fn open(storage: &SimStorage) -> (Log, LogStore) {
        let world = World { threads: Arc::new(TaskThreads), ..World::real() };
        let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
        let log = Log::open(Arc::new(storage.clone()), &world, options, &mut |_| {}).unwrap();
        let store = LogStore::new(log.shard(ShardId(0)));
        (log, store)
    }

    #[tokio::test]
    async fn a_vote_that_was_given_survives_a_power_cut() {
        let mut storage = SimStorage::new();
        for term in 1..=20 {
            let (_log, mut store) = open(&storage);
            let given = (term > 1).then(|| Vote::new(term - 1, 7));
            assert_eq!(store.read_vote().await.unwrap(), given);
            store.save_vote(&Vote::new(term, 7)).await.unwrap();
            storage = storage.restart(Survival::Lost);
        }
    }
}
