//! The one hand that writes: it takes everything that has queued up, encodes it into one buffer,
//! writes the buffer with one `pwrite`, syncs once if anything in it needs it, and then calls back
//! in order. While it syncs, the next group queues up.
//!
//! ```text
//! recv_many ─▶ encode all ─▶ pwrite ─▶ positions to the caches ─▶ fdatasync ─▶ callbacks ─▶ …
//!                  │                                                   ▲
//!                  └─ segment full: pwrite, fdatasync, callbacks, next segment ─┘
//! ```
//!
//! Invariants:
//! - a segment is synced as a whole before the next one gets its header;
//! - each frame tells the last seq that was synced before it was written (see [`super::replay`]);
//! - nothing is called back before the sync that covers it, and after the first error everything is
//!   called back with it. A failed sync is never repeated.
//!
//! The queue has no bound of its own, because `append` can neither wait nor refuse without breaking
//! Raft. What bounds it is what bounds Raft: the window of entries in flight on a leader, and one
//! stream per leader on a follower. `Stats::queued_bytes` shows it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use stockd_protocol::ShardId;
use tokio::sync::{mpsc, oneshot};

use super::allocator::{Chore, RETRY};
use super::record::{FrameHead, FrameKind, frame_bytes};
use super::segment::{self, Header, Position, Segment, ShardStates};
use super::shard::Shard;
use super::shared::{Shared, lock};
use super::storage::is_full;
use super::{Error, Record, RecordId};
use crate::world::Clock;

/// Told when something is on disk, or never will be. Called on the log's thread; must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Most requests in one group: a bound for the callbacks of one sync, far above what Raft has in
/// flight.
const GROUP_REQUESTS_MAX: usize = 4096;
/// The buffer is written out when it has this many bytes; the group goes on behind them.
const BUFFER_BYTES_MAX: usize = 4 << 20;

pub(super) enum Request {
    Append { shard: Arc<Shard>, ticket: u64, records: Vec<Record>, bytes: u64, done: Done },
    Close { done: oneshot::Sender<()> },
    Committed { shard: ShardId, committed: RecordId },
    Purge { shard: ShardId, upto: RecordId },
    TruncateAfter { shard: Arc<Shard>, ticket: u64, last: Option<RecordId> },
    Vote { shard: ShardId, vote: Bytes, done: Done },
}

impl Request {
    /// Tells whoever waits that it will not happen.
    pub(super) fn refuse(self, error: &Arc<Error>) {
        match self {
            Self::Append { done, .. } | Self::Vote { done, .. } => {
                done(Err(io::Error::other(error.clone())));
            }
            Self::Close { .. }
            | Self::Committed { .. }
            | Self::Purge { .. }
            | Self::TruncateAfter { .. } => {}
        }
    }
}

/// The highest index that a segment holds of each shard.
#[derive(Default)]
pub(super) struct SegmentUse(BTreeMap<ShardId, u64>);

impl SegmentUse {
    pub(super) fn appended(&mut self, shard: ShardId, index: u64) {
        self.0.insert(shard, index);
    }

    /// Records from index `end` on are gone.
    pub(super) fn truncated(&mut self, shard: ShardId, end: u64) {
        if let Some(last) = self.0.get_mut(&shard) {
            if end == 0 {
                self.0.remove(&shard);
            } else {
                *last = (*last).min(end - 1);
            }
        }
    }

    fn is_purged(&self, states: &ShardStates) -> bool {
        self.0.iter().all(|(shard, last)| {
            let purged = states.get(shard).and_then(|state| state.purged);
            purged.is_some_and(|purged| purged.index >= *last)
        })
    }
}

/// What the writer did for a shard's cache to know.
struct Placed {
    shard: Arc<Shard>,
    ticket: u64,
    index: u64,
    /// Into `Writer::positions`; empty for a truncate.
    positions: Range<usize>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    requests: mpsc::UnboundedReceiver<Request>,
    chores: Option<mpsc::UnboundedSender<Chore>>,
    /// Ends when the allocator has.
    allocator: Option<oneshot::Receiver<()>>,
    log_id: u64,
    /// The segments, oldest first; the last one is written to.
    segments: VecDeque<(Arc<Segment>, SegmentUse)>,
    /// Where `buffer` goes.
    offset: u64,
    /// The number of the next frame.
    seq: u64,
    /// The last frame that is on disk for certain.
    synced: u64,
    /// The shards as of `seq`, for the next header.
    states: ShardStates,
    buffer: Vec<u8>,
    positions: Vec<Position>,
    placed: Vec<Placed>,
    /// Callbacks of requests that are wholly in the files or the buffer.
    done: Vec<Done>,
    /// The callback of the request at hand.
    current: Option<Done>,
    sync_wanted: bool,
    purged: bool,
}

/// What a [`Writer`] starts from.
pub(super) struct Start {
    pub(super) log_id: u64,
    pub(super) segments: VecDeque<(Arc<Segment>, SegmentUse)>,
    pub(super) offset: u64,
    pub(super) seq: u64,
    pub(super) states: ShardStates,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        requests: mpsc::UnboundedReceiver<Request>,
        chores: mpsc::UnboundedSender<Chore>,
        allocator: oneshot::Receiver<()>,
        start: Start,
    ) -> Self {
        let Start { log_id, segments, offset, seq, states } = start;
        let mut writer = Self {
            shared,
            clock,
            requests,
            chores: Some(chores),
            allocator: Some(allocator),
            log_id,
            segments,
            offset,
            seq,
            synced: seq - 1, // recovery has synced all it found
            states,
            buffer: Vec::with_capacity(1 << 20),
            positions: Vec::new(),
            placed: Vec::new(),
            done: Vec::new(),
            current: None,
            sync_wanted: false,
            purged: true,
        };
        writer.note_remaining();
        writer.note_synced();
        if lock(&writer.shared.spare).is_none() {
            writer.order_spare();
        }
        writer.remove_purged();
        writer
    }

    /// Works until the log is closed or all its handles are gone.
    pub(super) async fn run(mut self) {
        let mut inbox = Vec::new();
        let mut closed = Vec::new();
        while self.requests.recv_many(&mut inbox, GROUP_REQUESTS_MAX).await > 0 {
            if self.shared.failure().is_none() {
                let result = self.group(&mut inbox, &mut closed).await;
                inbox.reverse();
                if let Err(error) = result {
                    self.stop(error);
                }
            }
            self.refuse_all(&mut inbox, &mut closed);
            if !closed.is_empty() {
                self.requests.close();
            }
        }
        if self.shared.failure().is_none()
            && let Err(error) = self.mark().await
        {
            self.stop(error);
        }
        self.chores = None;
        if let Some(allocator) = self.allocator.take() {
            // An error says just as well that it is gone.
            let _ = allocator.await;
        }
        // Let go of the storage first: whoever waits may want to open it again.
        drop(self);
        for done in closed {
            let _ = done.send(());
        }
    }

    /// Writes a group of requests.
    async fn group(
        &mut self,
        inbox: &mut Vec<Request>,
        closed: &mut Vec<oneshot::Sender<()>>,
    ) -> Result<(), Error> {
        // In reverse, to pop from the front. After an error the caller refuses what is left.
        inbox.reverse();
        while let Some(request) = inbox.pop() {
            match request {
                Request::Close { done } => closed.push(done),
                request => self.take(request).await?,
            }
            if self.buffer.len() >= BUFFER_BYTES_MAX {
                self.write_buffer().await?;
            }
        }
        self.write_buffer().await?;
        self.publish();
        self.positions.clear();
        // Not cleared by the sync of a rotation: the request at hand goes on behind it.
        if std::mem::take(&mut self.sync_wanted) {
            self.sync().await?;
            self.call_back();
        }
        Ok(())
    }

    /// Encodes one request.
    async fn take(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Append { shard, ticket, records, bytes, done } => {
                self.current = Some(done);
                self.sync_wanted = true;
                self.append(shard, ticket, records).await?;
                self.shared.counters.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            Request::Close { .. } => {}
            Request::Committed { shard, committed } => {
                self.frame(shard, FrameKind::Committed, 0, committed, &[]).await?;
                self.states.entry(shard).or_default().committed = Some(committed);
            }
            Request::Purge { shard, upto } => self.purge(shard, upto).await?,
            Request::TruncateAfter { shard, ticket, last } => {
                self.truncate(shard, ticket, last).await?;
            }
            Request::Vote { shard, vote, done } => {
                self.current = Some(done);
                self.sync_wanted = true;
                self.frame(shard, FrameKind::Vote, 0, NO_ID, &vote).await?;
                self.states.entry(shard).or_default().vote = Some(vote);
            }
        }
        self.done.extend(self.current.take());
        Ok(())
    }

    async fn append(
        &mut self,
        shard: Arc<Shard>,
        ticket: u64,
        records: Vec<Record>,
    ) -> Result<(), Error> {
        let first = records.first().expect("an empty append is not sent").index;
        let from = self.positions.len();
        if self.states.get(&shard.id).and_then(|state| state.last).is_some_and(|l| l.index >= first)
        {
            self.note_truncate(shard.id, first);
        }
        for record in &records {
            let id = record.id();
            let at =
                self.frame(shard.id, FrameKind::Append, record.kind, id, &record.payload).await?;
            self.positions.push(at);
            self.states.entry(shard.id).or_default().last = Some(id);
            let (_, used) = self.segments.back_mut().expect("a log has a segment");
            used.appended(shard.id, record.index);
        }
        self.shared.counters.records.fetch_add(records.len() as u64, Ordering::Relaxed);
        let positions = from..self.positions.len();
        self.placed.push(Placed { shard, ticket, index: first, positions });
        Ok(())
    }

    async fn truncate(
        &mut self,
        shard: Arc<Shard>,
        ticket: u64,
        last: Option<RecordId>,
    ) -> Result<(), Error> {
        let (some, id) = (u8::from(last.is_some()), last.unwrap_or(NO_ID));
        self.frame(shard.id, FrameKind::TruncateAfter, some, id, &[]).await?;
        self.states.entry(shard.id).or_default().last = last;
        let end = last.map_or(0, |last| last.index + 1);
        self.note_truncate(shard.id, end);
        self.placed.push(Placed { shard, ticket, index: end, positions: 0..0 });
        Ok(())
    }

    fn note_truncate(&mut self, shard: ShardId, end: u64) {
        for (_, used) in &mut self.segments {
            used.truncated(shard, end);
        }
    }

    async fn purge(&mut self, shard: ShardId, upto: RecordId) -> Result<(), Error> {
        self.frame(shard, FrameKind::Purged, 0, upto, &[]).await?;
        let state = self.states.entry(shard).or_default();
        state.purged = Some(upto);
        state.last = state.last.filter(|last| last.index > upto.index).or(Some(upto));
        self.purged = true;
        // A segment goes only when the purge that frees it is on disk.
        self.sync_wanted |= self.purged_segments() > 0;
        Ok(())
    }

    /// Adds a frame to the buffer; says where it will be.
    async fn frame(
        &mut self,
        shard: ShardId,
        kind: FrameKind,
        record_kind: u8,
        id: RecordId,
        payload: &[u8],
    ) -> Result<Position, Error> {
        let need = frame_bytes(payload.len());
        if self.place() + need as u64 > self.active().bytes {
            self.rotate(need).await?;
        }
        let at = Position::new(self.active().number, self.place());
        let (seq, synced) = (self.seq, self.synced);
        let payload_bytes = payload.len();
        FrameHead { seq, synced, shard, kind, record_kind, id, payload_bytes }.encode(
            payload,
            self.shared.salt,
            &mut self.buffer,
        );
        self.seq += 1;
        Ok(at)
    }

    fn active(&self) -> &Arc<Segment> {
        &self.segments.back().expect("a log has a segment").0
    }

    /// Where the next frame goes.
    fn place(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Ends the segment in use and begins the next one, waiting for it if need be.
    async fn rotate(&mut self, need: usize) -> Result<(), Error> {
        self.write_buffer().await?;
        self.sync().await?;
        self.publish();
        self.call_back();
        let next = self.next_segment().await?;
        self.active().seal();
        lock(&self.shared.segments).insert(next.number, next.clone());
        self.offset = 0;
        Header::encode(self.log_id, next.number, self.seq, &self.states, &mut self.buffer);
        self.seq += 1;
        assert!(
            (self.buffer.len() + need) as u64 <= next.bytes,
            "a segment has room for its header and a record"
        );
        self.segments.push_back((next, SegmentUse::default()));
        self.order_spare();
        Ok(())
    }

    /// The spare, as soon as there is one.
    async fn next_segment(&mut self) -> Result<Arc<Segment>, Error> {
        loop {
            if let Some(spare) = lock(&self.shared.spare).take() {
                self.shared.counters.spare.store(false, Ordering::Relaxed);
                return Ok(spare);
            }
            self.wait_for_space().await?;
        }
    }

    async fn wait_for_space(&mut self) -> Result<(), Error> {
        // The disk is full and nobody is left who would wait: what is queued was never acknowledged.
        let counters = &self.shared.counters;
        let full = counters.disk_full.load(Ordering::Relaxed)
            || counters.writer_waits.load(Ordering::Relaxed);
        let gone = self.requests.is_closed() || self.shared.closing.load(Ordering::Acquire);
        if full && gone || self.shared.failure().is_some() {
            return Err(Error::Closed);
        }
        let _ = tokio::time::timeout(RETRY, self.shared.bell.notified()).await;
        Ok(())
    }

    fn order_spare(&self) {
        if let Some(chores) = &self.chores {
            // It may have stopped on an error, which has been noted then.
            let _ = chores.send(Chore::Make(self.active().number + 1));
        }
    }

    async fn write_buffer(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let active = self.active().clone();
        while let Err(source) = active.file.write_at(self.offset, &self.buffer) {
            if !is_full(&source) {
                let (file, offset) = (self.path(&active), self.offset);
                return Err(Error::WriteFailed { file, offset, source });
            }
            // A file system that copies on write can be full even here. The same bytes to the same
            // place: repeating a write is safe, other than repeating a sync.
            self.shared.counters.writer_waits.store(true, Ordering::Relaxed);
            self.wait_for_space().await?;
        }
        self.shared.counters.writer_waits.store(false, Ordering::Relaxed);
        self.offset += self.buffer.len() as u64;
        let bytes = self.buffer.len() as u64;
        self.shared.counters.bytes_written.fetch_add(bytes, Ordering::Relaxed);
        self.buffer.clear();
        self.note_remaining();
        Ok(())
    }

    fn note_remaining(&self) {
        let remaining = self.active().bytes - self.offset;
        self.shared.counters.remaining_bytes.store(remaining, Ordering::Relaxed);
    }

    fn note_synced(&self) {
        let end = Position::new(self.active().number, self.offset);
        // Release: whoever sees it also sees (through the kernel) what was written up to there.
        self.shared.synced.store(end.to_word(), Ordering::Release);
    }

    /// Makes everything that was written durable.
    async fn sync(&mut self) -> Result<(), Error> {
        assert!(self.buffer.is_empty(), "what is synced was written");
        if self.synced + 1 == self.seq {
            return Ok(());
        }
        let delay = self.shared.storage.sync_delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let start = self.clock.monotonic();
        let active = self.active();
        if let Err(source) = active.file.sync_data() {
            return Err(Error::SyncFailed { file: self.path(active), offset: self.offset, source });
        }
        let micros = (self.clock.monotonic() - start).as_micros() as u64;
        let counters = &self.shared.counters;
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        counters.sync_micros.fetch_add(micros, Ordering::Relaxed);
        counters.sync_micros_max.fetch_max(micros, Ordering::Relaxed);
        self.synced = self.seq - 1;
        self.note_synced();
        self.remove_purged();
        Ok(())
    }

    fn path(&self, segment: &Segment) -> String {
        self.shared.storage.path(&segment::name(segment.number))
    }

    /// Tells the caches where records have gone.
    fn publish(&mut self) {
        for Placed { shard, ticket, index, positions } in self.placed.drain(..) {
            lock(&shard.inner).cache.placed(ticket, index, &self.positions[positions]);
        }
    }

    fn call_back(&mut self) {
        for done in self.done.drain(..) {
            done(Ok(()));
        }
    }

    /// How many of the oldest segments no shard needs.
    fn purged_segments(&self) -> usize {
        let before_last = self.segments.len() - 1;
        let purged = self.segments.iter().take(before_last);
        purged.take_while(|(_, used)| used.is_purged(&self.states)).count()
    }

    /// Lets go of segments that no shard needs. Everything up to here is on disk.
    fn remove_purged(&mut self) {
        if !std::mem::take(&mut self.purged) {
            return;
        }
        let count = self.purged_segments();
        let gone: Vec<_> = self.segments.drain(..count).map(|(segment, _)| segment).collect();
        if let (Some(chores), false) = (&self.chores, gone.is_empty()) {
            for segment in &gone {
                lock(&self.shared.segments).remove(&segment.number);
            }
            let _ = chores.send(Chore::Remove(gone));
        }
    }

    /// Leaves a proof behind the last frames that they are on disk.
    async fn mark(&mut self) -> Result<(), Error> {
        self.write_buffer().await?;
        self.sync().await?;
        if self.place() + frame_bytes(0) as u64 <= self.active().bytes {
            self.frame(ShardId(0), FrameKind::Mark, 0, NO_ID, &[]).await?;
            self.write_buffer().await?;
            self.sync().await?;
        }
        Ok(())
    }

    /// After an error nothing is written any more, and everybody is told.
    fn stop(&mut self, error: Error) {
        self.shared.fail(error);
        let error = self.shared.failure().expect("it has just been noted");
        for done in self.done.drain(..).chain(self.current.take()) {
            done(Err(io::Error::other(error.clone())));
        }
    }

    fn refuse_all(&self, inbox: &mut Vec<Request>, closed: &mut Vec<oneshot::Sender<()>>) {
        let error = self.shared.failure().unwrap_or_else(|| Arc::new(Error::Closed));
        for request in inbox.drain(..) {
            match request {
                Request::Close { done } => closed.push(done),
                request => request.refuse(&error),
            }
        }
    }
}

const NO_ID: RecordId = RecordId { term: 0, index: 0 };
