//! The event log: what has changed in the stock, in segments on disk, for whoever follows, explains or audits it.
//!
//! ```text
//! apply ─▶ queue ─▶ writer: seal, chain, one pwrite ─▶ readable ─▶ synced, every 4 MiB ─▶ sealed segments ─▶ removed
//!        (a lock)   (every 4 ms)                                    (and for a mark)     (64 MiB, or old)   (by age or bytes)
//! ```
//!
//! Records (`protocol::event`) are opaque here but for their headers and keys. They are **derived**: the same bytes on
//! every node, made from the log's entries, and made again while the log is replayed after a restart. So an append
//! is not synced. Only a snapshot must not be published before the events up to its cut are on disk, because the log
//! below it goes: that is what [`EventLog::mark`] is for. When the log is opened at the position of a snapshot, all
//! that was written after it is cut off and comes again.
//!
//! Invariants:
//! - Records follow each other without a gap, but where a snapshot of another node was installed
//!   ([`EventLog::rebase`]): there a new segment begins.
//! - What a mark has said is on disk is found by the next [`EventLog::open`] at its position, or is damaged.
//! - Nothing is dropped but whole sealed segments, by age or bytes. A disk that refuses is tried again; what it does
//!   not take waits in memory, and apply waits in [`EventLog::room`] when that is too much.

mod current;
mod dir;
mod error;
mod filter;
mod index;
mod key;
mod open;
mod past;
mod position;
mod reader;
mod records;
mod retention;
mod scan;
mod segment;
mod view;
mod writer;

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot, watch};

pub use dir::{Checks, DirRecords, EventDir, Found, SegmentInfo};
pub use error::{Flaw, ReadError};
pub use key::Key;
pub use open::cut;
pub use past::{Past, Was};
pub use position::Position;
pub use reader::Chunk;
pub use scan::Direction;
pub use segment::first_of;

use crate::archive::Notice;
use crate::log::{DurableFile, Storage};
use crate::protocol::ShardId;
use crate::protocol::event::{Event, RecordHeader};
use crate::world::World;
use segment::Segment;
use writer::Writer;

/// Apply waits while more than this waits for the disk.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// Bytes of buffers that wait for their next record.
const SPARE_BYTES_MAX: usize = 4 << 20;
/// A smaller buffer is not worth keeping.
const SPARE_BYTES_MIN: usize = 4 << 10;
/// The writer is woken when so much waits; else it comes by itself.
const WAKE_BYTES: usize = 512 << 10;

/// How much is kept, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventOptions {
    /// How long events are kept, in ms of the log's time. Default 30 days.
    pub retention_ms: u64,
    /// Bytes on disk; above it the oldest segments are removed. Default 16 GiB.
    pub bytes_max: u64,
    /// Bytes of a segment, without its index. Default 64 MiB.
    pub segment_bytes: u64,
}

impl Default for EventOptions {
    fn default() -> Self {
        let retention_ms = 30 * 24 * 60 * 60 * 1_000;
        Self { retention_ms, bytes_max: 16 << 30, segment_bytes: 64 << 20 }
    }
}

/// How much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventStats {
    /// Events that can be read.
    pub events: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files.
    pub segments: u64,
    /// Bytes in memory that are not written yet.
    pub waiting_bytes: u64,
    /// The sequence number of the first event that can be read.
    pub oldest: u64,
    /// The sequence number after the last one.
    pub next: u64,
    /// Places where events are missing, because a snapshot was installed.
    pub gaps: u64,
    /// The chain is over all records, as on other nodes.
    pub is_whole: bool,
    /// The last attempt to write or to remove something failed.
    pub is_failing: bool,
}

/// See the module. The writer ends with it.
pub struct EventLog(Arc<Inner>);

/// What the event log and its writer share.
struct Inner {
    storage: Arc<dyn Storage>,
    options: EventOptions,
    shard: ShardId,
    queue: Mutex<Queue>,
    wake: Notify,
    stop: Notify,
    /// Bytes that were appended and are not written.
    waiting_bytes: AtomicU64,
    has_room: Notify,
    segments: Mutex<Arc<Vec<Arc<Segment>>>>,
    /// After the last readable event.
    readable: watch::Sender<Position>,
    /// The latest time in the log.
    now_ms: AtomicU64,
    is_failing: AtomicBool,
    is_full: AtomicBool,
    notice: Notice,
}

/// Who waits for a position.
type Answer = oneshot::Sender<io::Result<Position>>;

enum Item {
    /// An unsealed record.
    Record(Vec<u8>),
    /// Somebody waits until all before is on disk.
    Mark(Answer),
    /// What comes next begins there.
    Rebase(Position, Option<Answer>),
}

/// What the writer has not taken yet.
#[derive(Default)]
struct Queue {
    items: Vec<Item>,
    /// Bytes of the records.
    bytes: usize,
    /// Buffers of records that are written. Fresh memory would cost more than what goes into it.
    spares: Vec<Vec<u8>>,
    /// The sequence number that the next record begins with.
    next: u64,
    /// The writer sleeps until it is woken.
    idle: bool,
    /// The writer shall not wait for more.
    urgent: bool,
    stopping: bool,
}

impl Queue {
    /// The writer wants to sleep; `false`: there is something to do.
    fn park(&mut self) -> bool {
        self.idle = self.items.is_empty();
        self.idle
    }
}

impl EventLog {
    /// Opens what is there at the position of the last snapshot, and starts the writer: events from it on are cut
    /// off, and come again. `notice` is told when files cannot be written, and when they can again.
    ///
    /// # Errors
    /// `InvalidData`: what is there is damaged or of another history; the text says where, and what to do. What the
    /// operating system says.
    pub fn open(
        storage: Arc<dyn Storage>,
        world: &World,
        options: EventOptions,
        shard: ShardId,
        position: Position,
        notice: Notice,
    ) -> io::Result<Self> {
        let opened = open::open(storage.as_ref(), shard, position);
        let opened = opened.map_err(|error| advised(storage.as_ref(), error))?;
        let (end, is_there) = (opened.end, opened.end.next == position.next);
        let position = if is_there { end } else { position };
        let inner = Arc::new(Inner {
            storage,
            options,
            shard,
            queue: Mutex::new(Queue { next: position.next, ..Queue::default() }),
            wake: Notify::new(),
            stop: Notify::new(),
            waiting_bytes: AtomicU64::new(0),
            has_room: Notify::new(),
            segments: Mutex::new(Arc::new(opened.segments)),
            readable: watch::Sender::new(position),
            now_ms: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            notice,
        });
        if !is_there {
            // The writer ends what is there, and begins anew.
            inner.lock().items.push(Item::Rebase(position, None));
        }
        let writer = Writer::new(inner.clone(), opened.current, end);
        world.threads.spawn("events", Box::pin(writer.run()))?;
        Ok(Self(inner))
    }

    /// Takes in the record of the events that come next: finished, not sealed. Costs a short lock, and wakes the
    /// writer only when it sleeps or much waits. Gives a buffer in return, if there is one to spare. Apply calls it,
    /// after [`EventLog::room`].
    ///
    /// # Panics
    /// It is no whole record, or other events should come next.
    pub fn append(&self, record: Vec<u8>) -> Option<Vec<u8>> {
        let header = RecordHeader::peek(&record).expect("a record has a header");
        assert!(
            header.bytes == record.len() && header.count > 0,
            "a record is finished, and has events"
        );
        assert!(header.shard == self.0.shard, "a record is of the shard whose events these are");
        let mut queue = self.0.lock();
        assert!(header.first == queue.next, "events come without a gap");
        queue.next = header.next();
        self.0.waiting_bytes.fetch_add(record.len() as u64, Ordering::Relaxed);
        queue.bytes += record.len();
        // A short one does not hold a large buffer: what waits for the disk is counted in bytes of records.
        let (record, spare) = match record.len() < record.capacity() / 4 {
            true => (record.as_slice().to_vec(), Some(record)),
            false => (record, queue.spares.pop()),
        };
        queue.items.push(Item::Record(record));
        let is_much = queue.bytes >= WAKE_BYTES && !queue.urgent;
        queue.urgent |= is_much;
        let wakes = std::mem::take(&mut queue.idle) || is_much;
        drop(queue);
        if wakes {
            self.0.wake.notify_one();
        }
        spare
    }

    /// Waits while too much waits for the disk; at once, else.
    pub async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.0.has_room.notified());
            freed.as_mut().enable();
            if self.0.waiting_bytes.load(Ordering::Relaxed) <= MEMORY_BYTES_MAX {
                return;
            }
            freed.await;
        }
    }

    /// Resolves when all that was appended before the call is on disk, with the position after it. For a snapshot:
    /// called when it is cut, under the lock of apply, and awaited before it is published.
    ///
    /// # Errors
    /// The disk says no; events wait in memory and are written later, but this mark is given up.
    pub fn mark(&self) -> impl Future<Output = io::Result<Position>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        self.ask(Item::Mark(answer), None);
        wait_for(answered)
    }

    /// A snapshot was installed: what is appended next begins at `base`. If that is ahead, a gap is left; if it is where
    /// events end, it must be of this history. Behind the end it cannot be: Raft installs no snapshot of what is applied.
    /// Resolves as a mark: before the snapshot is kept, so that no power cut leaves what looks like damage.
    ///
    /// # Errors
    /// `InvalidData`: it is of another history, and nothing may be appended. Else the disk says no, as for a mark; what
    /// comes next begins there all the same.
    pub fn rebase(
        &self,
        base: Position,
    ) -> impl Future<Output = io::Result<Position>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        self.ask(Item::Rebase(base, Some(answer)), Some(base.next));
        wait_for(answered)
    }

    /// Asks the writer for something, now.
    fn ask(&self, item: Item, next: Option<u64>) {
        let mut queue = self.0.lock();
        queue.items.push(item);
        queue.next = next.unwrap_or(queue.next);
        (queue.urgent, queue.idle) = (true, false);
        drop(queue);
        self.0.wake.notify_one();
    }

    /// The number of the event that comes next. Those just before it may not be readable yet.
    pub fn next(&self) -> u64 {
        self.0.lock().next
    }

    /// After the last event that can be read.
    pub fn position(&self) -> Position {
        *self.0.readable.borrow()
    }

    /// As [`EventLog::position`], as it rises.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.0.readable.subscribe()
    }

    /// Whole records: the one that has the event `from`, and those that follow it, up to so many bytes if that is
    /// more. May read the disk.
    ///
    /// # Errors
    /// The event is not here, or not in order: see [`ReadError`].
    pub fn read(&self, from: u64, bytes_max: usize) -> Result<Chunk, ReadError> {
        self.0.read(from, bytes_max)
    }

    /// The chain before the first event of a record, which is at `next` or else the next one after it. May read the
    /// disk.
    ///
    /// # Errors
    /// The event is not here, or not in order: see [`ReadError`].
    pub fn position_at(&self, next: u64) -> Result<Position, ReadError> {
        self.0.position_at(next)
    }

    /// The sequence number of the first event at a time or after it, in µs of the cluster's clock; that of the next
    /// event if there is none. May read the disk.
    ///
    /// # Errors
    /// What is on disk is not in order.
    pub fn find(&self, at_us: u64) -> Result<u64, ReadError> {
        self.0.find(at_us)
    }

    /// As [`EventLog::find`], if nothing is missing just before.
    ///
    /// # Errors
    /// [`ReadError::Gone`]: events just before are missing, so the first may be one of those. What is on disk is not in
    /// order.
    pub fn find_known(&self, at_us: u64) -> Result<u64, ReadError> {
        let first = self.find(at_us)?;
        match self.is_known_before(first)? {
            true => Ok(first),
            false => Err(ReadError::Gone { oldest: first }),
        }
    }

    /// The event before this one is here, or this is the first of all.
    ///
    /// # Errors
    /// What is on disk is not in order.
    pub fn is_known_before(&self, sequence: u64) -> Result<bool, ReadError> {
        if sequence <= 1 { Ok(true) } else { self.0.has(sequence - 1) }
    }

    /// Shows the events of a key in a range of sequence numbers, in that order, until `visit` breaks it off: then the
    /// result is a break, too. May read the disk; blocks that surely lack the key are not read.
    ///
    /// # Errors
    /// [`ReadError::Gone`] where it comes to events that are not here: those before them in its direction were
    /// shown. What is on disk is not in order.
    pub fn scan(
        &self,
        key: Key,
        range: Range<u64>,
        direction: Direction,
        visit: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        self.0.scan(key, range, direction, visit)
    }

    /// The sequence number of the first event that can be read; that of the next one if there is none.
    pub fn oldest(&self) -> u64 {
        let next = self.0.next();
        self.0.segments().first().map_or(next, |segment| segment.first())
    }

    /// The files with events that can be read, the oldest first. Whole records, or all of a file. What a
    /// mark has said is on disk is in them.
    pub fn files(&self) -> Vec<DurableFile> {
        let segments = self.0.segments();
        let views = segments.iter().map(|segment| (segment.name(), segment.extent()));
        let files = views.map(|(name, (bytes, is_sealed))| DurableFile { name, bytes, is_sealed });
        files.collect()
    }

    /// The log's time has come to this.
    pub fn tell_time(&self, now_ms: u64) {
        self.0.now_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// The disk is full: what clients want to write should be refused, before apply must wait.
    pub fn is_full(&self) -> bool {
        self.0.is_full.load(Ordering::Relaxed)
    }

    /// How much there is.
    pub fn stats(&self) -> EventStats {
        let next = self.0.next();
        let segments = self.0.segments();
        let mut stats = EventStats {
            segments: segments.len() as u64,
            waiting_bytes: self.0.waiting_bytes.load(Ordering::Relaxed),
            oldest: segments.first().map_or(next, |segment| segment.first()),
            next,
            is_whole: self.position().is_whole,
            is_failing: self.0.is_failing.load(Ordering::Relaxed),
            ..EventStats::default()
        };
        let mut end = stats.oldest;
        for segment in segments.iter() {
            stats.bytes += segment.file_bytes();
            stats.events += segment.next() - segment.first();
            stats.gaps += u64::from(segment.first() > end);
            end = segment.next();
        }
        stats.gaps += u64::from(next > end);
        stats
    }
}

impl Drop for EventLog {
    /// What waits is in the Raft log still.
    fn drop(&mut self) {
        self.0.lock().stopping = true;
        self.0.stop.notify_one();
        self.0.wake.notify_one();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder panics")
    }

    fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.segments.lock().expect("no holder panics").clone()
    }

    fn next(&self) -> u64 {
        self.readable.borrow().next
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn add_segment(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.lock().expect("no holder panics");
        Arc::make_mut(&mut segments).push(segment);
    }

    fn forget_segment(&self, gone: &Arc<Segment>) {
        let mut segments = self.segments.lock().expect("no holder panics");
        Arc::make_mut(&mut segments).retain(|segment| !Arc::ptr_eq(segment, gone));
    }

    /// Events before this one can be read.
    fn publish(&self, end: Position) {
        self.readable.send_replace(end);
    }

    /// So many bytes wait no more.
    fn written(&self, bytes: usize) {
        let before = self.waiting_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        if before > MEMORY_BYTES_MAX {
            self.has_room.notify_waiters();
        }
    }

    fn set_failing(&self, is_failing: bool, is_full: bool) {
        self.is_failing.store(is_failing, Ordering::Relaxed);
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// The latency of a simulated disk.
    async fn pause_before_sync(&self) {
        let delay = self.storage.sync_delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}

/// What to do about it.
fn advised(storage: &dyn Storage, error: ReadError) -> io::Error {
    match error {
        ReadError::Io(error) => error,
        damage => {
            let files = storage.path(&format!("{}*", segment::PREFIX));
            let text = format!(
                "{damage}; start the node on an empty directory, so that it gets everything from the others, or \
                 remove {files}, which loses this node's history of events and nothing else"
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        }
    }
}

async fn wait_for(answer: oneshot::Receiver<io::Result<Position>>) -> io::Result<Position> {
    answer.await.unwrap_or_else(|_| Err(io::Error::other("the writer of events is gone")))
}
