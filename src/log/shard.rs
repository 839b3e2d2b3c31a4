//! A shard's own view of the log.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stockd_protocol::ShardId;
use tokio::sync::mpsc;

use super::cache::Cache;
use super::record::{FRAME_HEAD_BYTES, FrameHead, FrameKind, VOTE_BYTES_MAX, frame_bytes};
use super::segment::{self, Position, Segment};
use super::shared::{Shared, lock};
use super::writer::{Done, Request};
use super::{Error, Record, RecordId};

/// What the log knows of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardState {
    /// The vote saved last, as the caller encoded it.
    pub vote: Option<Bytes>,
    /// What was saved as committed last. Saved without a sync: after a power cut it may be older.
    pub committed: Option<RecordId>,
    /// The last record that was purged: everything up to it is in a snapshot.
    pub purged: Option<RecordId>,
    /// The last record, or `purged` when there is none behind it.
    pub last: Option<RecordId>,
}

/// One shard's log. Cheap to clone; all clones are the same log.
///
/// Changes take effect for readers when the call returns, and reach the disk in the order of the
/// calls. One task should make them: two callers that race get some order, but not one of their
/// choice.
#[derive(Clone)]
pub struct ShardLog {
    pub(super) shared: Arc<Shared>,
    pub(super) shard: Arc<Shard>,
    pub(super) requests: mpsc::UnboundedSender<Request>,
}

pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) state: ShardState,
    pub(super) cache: Cache,
    /// Requests that changed `cache`, see there.
    pub(super) tickets: u64,
}

/// A read takes this many records from the files under one look at the positions.
const READ_CHUNK_RECORDS: u64 = 1024;
/// A read from the segment in use takes this many bytes at a time.
const READ_WINDOW_BYTES: u64 = 256 << 10;

impl ShardLog {
    /// The shard's number.
    pub fn id(&self) -> ShardId {
        self.shard.id
    }

    /// What is known now, whether or not it has reached the disk.
    pub fn state(&self) -> ShardState {
        lock(&self.shard.inner).state.clone()
    }

    /// Adds records. They can be read when this returns; `done` is called on the log's thread when
    /// they are on disk, in the order of the calls, or with the error that stopped the log. It must
    /// not block. An index that exists is replaced, and all behind it are dropped.
    ///
    /// A record longer than [`Log::record_bytes_max`](super::Log::record_bytes_max) refuses the
    /// whole call with `InvalidInput`, through `done`, before anything happened.
    ///
    /// # Panics
    /// The indices leave a hole, or fall into what was purged. Only the first record of a log that
    /// has no last record may have any index.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        let bytes_max = self.shared.options.record_bytes_max();
        if records.iter().any(|record| record.payload.len() > bytes_max) {
            return done(Err(io::ErrorKind::InvalidInput.into()));
        }
        let Some(first) = records.first() else { return done(Ok(())) };
        let mut inner = lock(&self.shard.inner);
        let purged = inner.state.purged.map_or(0, |purged| purged.index + 1);
        assert!(first.index >= purged, "a purged record does not come back");
        // Behind a snapshot the cache is empty and would take any index, but recovery would refuse
        // what was acknowledged.
        let next = inner.state.last.map_or(first.index, |last| last.index + 1);
        assert!(first.index <= next, "a shard's records have no holes, behind a snapshot neither");
        inner.cache.truncate(first.index);
        inner.tickets += 1;
        let ticket = inner.tickets;
        let mut bytes = 0;
        for record in &records {
            bytes += frame_bytes(record.payload.len()) as u64;
            inner.cache.push(record.clone(), ticket);
        }
        inner.state.last = records.last().map(Record::id);
        let shards = lock(&self.shared.shards).len().max(1) as u64;
        inner.cache.evict(self.shared.options.cache_bytes_max / shards);
        self.shared.counters.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Under the lock, so that the writer meets the requests in the order of their tickets.
        self.send(Request::Append { shard: self.shard.clone(), ticket, records, bytes, done });
    }

    /// Saves the vote; `done` is called on the log's thread when it is on disk, or with the error
    /// that stopped the log.
    ///
    /// # Panics
    /// It is longer than [`VOTE_BYTES_MAX`].
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        assert!(vote.len() <= VOTE_BYTES_MAX, "a vote is short");
        let mut inner = lock(&self.shard.inner);
        inner.state.vote = Some(vote.clone());
        self.send(Request::Vote { shard: self.shard.id, vote, done });
    }

    /// Saves how far the shard is committed, without waiting for the disk.
    pub fn save_committed(&self, committed: RecordId) {
        let mut inner = lock(&self.shard.inner);
        inner.state.committed = Some(committed);
        self.send(Request::Committed { shard: self.shard.id, committed });
    }

    /// Drops every record after `last`; `None` drops all. Ordered before later appends, without
    /// waiting for the disk: after a power cut the dropped records may be back.
    ///
    /// # Panics
    /// `last` lies before what was purged.
    pub fn truncate_after(&self, last: Option<RecordId>) {
        let mut inner = lock(&self.shard.inner);
        let purged = inner.state.purged;
        let last = last.or(purged);
        let index = last.map(|last| last.index);
        assert!(index >= purged.map(|purged| purged.index), "a purged record does not come back");
        if inner.state.last.map(|last| last.index) <= index {
            return;
        }
        inner.cache.truncate(index.map_or(0, |index| index + 1));
        inner.state.last = last;
        inner.tickets += 1;
        let ticket = inner.tickets;
        self.send(Request::TruncateAfter { shard: self.shard.clone(), ticket, last });
    }

    /// Drops every record up to `upto`, which a snapshot covers; `upto` may lie beyond the last
    /// record. Segments that nobody needs any more are removed when this has reached the disk.
    pub fn purge(&self, upto: RecordId) {
        let mut inner = lock(&self.shard.inner);
        if inner.state.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        inner.cache.purge(upto.index + 1);
        inner.state.purged = Some(upto);
        inner.state.last = inner.state.last.filter(|last| last.index > upto.index).or(Some(upto));
        self.send(Request::Purge { shard: self.shard.id, upto });
    }

    /// The records of `from..to` that are in the log, as far as their payloads fit into `bytes_max`,
    /// but at least one if there is any. Young ones come from memory, others from the files.
    ///
    /// # Errors
    /// A file can not be read, or a record in it is damaged; the latter stops the log.
    pub fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut budget = Budget { bytes: bytes_max, fresh: true };
        let mut next = from;
        let mut source = Source { log: self, window: None };
        loop {
            let places: Vec<Position> = {
                let inner = lock(&self.shard.inner);
                let range = inner.cache.range();
                if records.is_empty() {
                    next = next.max(range.start);
                } else if next < range.start {
                    return Ok(records); // purged under our hands; what we have is sound
                }
                let end = to.min(range.end);
                while let Some(record) = inner.cache.cached(next).filter(|_| next < end) {
                    if !budget.take(record.payload.len()) {
                        return Ok(records);
                    }
                    records.push(record.clone());
                    next += 1;
                }
                if next >= end {
                    return Ok(records);
                }
                inner.cache.positions(next..end.min(next + READ_CHUNK_RECORDS)).collect()
            };
            assert!(!places.is_empty(), "a record is cached or has a position");
            for place in places {
                let Some(record) = source.read(next, place)? else { break };
                if !budget.take(record.payload.len()) {
                    return Ok(records);
                }
                records.push(record);
                next += 1;
            }
        }
    }

    fn send(&self, request: Request) {
        if let Err(mpsc::error::SendError(request)) = self.requests.send(request) {
            let error = self.shared.failure().unwrap_or_else(|| Arc::new(Error::Closed));
            request.refuse(&error);
        }
    }
}

/// How much a read may still give.
struct Budget {
    bytes: usize,
    fresh: bool,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.fresh {
            return false;
        }
        self.fresh = false;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// Reads records from the files, a window at a time.
struct Source<'a> {
    log: &'a ShardLog,
    window: Option<Window>,
}

struct Window {
    segment: u64,
    /// The bytes of the segment that `content` has.
    range: Range<u64>,
    content: Bytes,
    sealed: bool,
}

impl Source<'_> {
    /// The record of this index at this place; `None` when its segment has just been removed.
    fn read(&mut self, index: u64, at: Position) -> io::Result<Option<Record>> {
        let shared = &self.log.shared;
        for _ in 0..2 {
            if let Some(window) = self.window.as_ref().filter(|window| window.covers(at)) {
                let start = (at.offset() - window.range.start) as usize;
                if let Some(head) = FrameHead::decode(&window.content[start..], shared.salt) {
                    let sound = head.kind == FrameKind::Append
                        && head.shard == self.log.shard.id
                        && head.id.index == index;
                    assert!(sound, "a position leads to its record");
                    let payload = start + FRAME_HEAD_BYTES;
                    return Ok(Some(Record {
                        term: head.id.term,
                        index,
                        kind: head.record_kind,
                        payload: window.content.slice(payload..payload + head.payload_bytes),
                    }));
                }
                if window.range.start == at.offset() || window.sealed {
                    break; // the whole frame was there
                }
            }
            let Some(segment) = lock(&shared.segments).get(&at.number()).cloned() else {
                return Ok(None);
            };
            self.window = Some(self.open(&segment, at)?);
        }
        Err(self.damaged(index, at))
    }

    fn open(&self, segment: &Segment, at: Position) -> io::Result<Window> {
        if let Some(content) = segment.map()? {
            let range = 0..content.len() as u64;
            return Ok(Window { segment: segment.number, range, content, sealed: true });
        }
        let mut head = [0; 8];
        segment.file.read_at(at.offset(), &mut head)?;
        let frame = frame_bytes(u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize);
        let wanted = (frame as u64).clamp(READ_WINDOW_BYTES, 16 * READ_WINDOW_BYTES);
        let bytes = wanted.min(segment.bytes - at.offset());
        let mut content = vec![0; bytes as usize];
        segment.file.read_at(at.offset(), &mut content)?;
        let range = at.offset()..at.offset() + bytes;
        Ok(Window { segment: segment.number, range, content: content.into(), sealed: false })
    }

    fn damaged(&self, index: u64, at: Position) -> io::Error {
        let file = self.log.shared.storage.path(&segment::name(at.number()));
        let error = || {
            let (file, shard) = (file.clone(), self.log.shard.id);
            Error::Unreadable { file, offset: at.offset(), shard, index }
        };
        self.log.shared.fail(error());
        io::Error::new(io::ErrorKind::InvalidData, error())
    }
}

impl Window {
    fn covers(&self, at: Position) -> bool {
        self.segment == at.number() && self.range.contains(&at.offset())
    }
}
