//! The write-ahead log: one per node, shared by all its shards.
//!
//! It knows nothing of stock and nothing of Raft's rules. It keeps, per shard, what Raft must find
//! again after a crash: a vote, a gapless run of opaque records, how far they are committed and how
//! far a snapshot covers them.
//!
//! # The life of a record
//!
//! ```text
//! ShardLog::append ──▶ cache (readable from here on) ──▶ queue
//!                                                          │   everything that has queued up
//!                                                          ▼
//!                      writer thread: encode ▶ one pwrite ▶ one fdatasync ▶ callbacks in order
//!                                                          │
//!   segment-0000000007.log  [ header │ frame │ frame │ … │ zeros ]     the segment in use
//!   segment-0000000008.log  [ zeros                             ]     the spare, made ahead
//! ```
//!
//! While one group is being synced the next one queues up, so the more there is to do, the more one
//! sync carries. A sync of a zero-filled file took 135 µs (p99 247 µs) for 4 KiB and 0.47 ms for 1
//! MiB on ext4 on a virtual disk, against 202 and 1,025 µs of a growing one; writing through a
//! mapping and `msync` took 382–550 µs. Hence: zero-filled segments, `pwrite`, and mappings only for
//! reading.
//!
//! # What is durable when
//!
//! | call | on disk when | after a power cut before that |
//! |---|---|---|
//! | `append`, `save_vote` | `done(Ok)` is called | all of it, a prefix, or nothing |
//! | `save_committed` | some later sync | an older value |
//! | `truncate_after` | before any later append is acknowledged | the dropped tail may be back |
//! | `purge` | before any segment is removed | an older value, and the records |
//!
//! All of them go through one queue and one sequence of frames, so what is durable is always a
//! prefix of what was called.
//!
//! # Invariants
//!
//! - Frames have the numbers 1, 2, 3, … through all segments; segment headers count.
//! - A segment is wholly on disk before the next one gets its header.
//! - Segments are removed from the oldest on, one by one, when a durable purge of every shard covers
//!   all they hold; what they said of votes and ids is repeated in every later header. To be removed
//!   may mean to be put aside under another name, for backups (the module `kept`).
//! - A shard's records are gapless, from behind `purged` to `last`.
//! - A damaged record that was acknowledged stops the node; a torn tail, which nobody was told of, is
//!   cut (the module `replay` says how the two are told apart).
//!
//! # When the disk gives trouble
//!
//! *Full*: only making the next segment needs space. When that fails, the log goes on inside what it
//! has; [`Log::space`] says [`Space::Full`] while there is still headroom for votes and for what is
//! in flight, so that admission can refuse clients with a clear code. Should even that be used up,
//! the writer keeps its queue and tries again until there is space. Nothing fails, reads go on.
//!
//! *Errors*: any other error of a write, and any error of a sync, ends the log for good: every
//! callback gets it, [`LogOptions::on_fatal`] is called, and the node must stop. A sync is never
//! repeated: the kernel may have dropped the pages and would say yes to bytes that are nowhere.
//!
//! # Left out on purpose
//!
//! Segments are not recycled: a reader may still have the old one mapped. There is no compression and
//! no encryption. A shard that never purges keeps every segment since its oldest record: the floor
//! above must snapshot idle shards too.
//!
//! # Example
//!
//! ```no_run
//! # use std::{path::Path, sync::Arc};
//! # use stockd::{log::{Error, Log, LogOptions, RealStorage, Record}, protocol::ShardId, world::World};
//! # fn example() -> Result<(), Error> {
//! let storage = Arc::new(RealStorage::open(Path::new("stockd-data"))?);
//! let log = Log::open(storage, &World::real(), LogOptions::default(), &mut |_| {})?;
//! let shard = log.shard(ShardId(0));
//! let index = shard.state().last.map_or(0, |last| last.index + 1);
//! let record = Record { term: 1, index, kind: 0, payload: "bytes".into() };
//! shard.append(vec![record], Box::new(|result| println!("on disk: {result:?}")));
//! # Ok(())
//! # }
//! ```

mod allocator;
mod cache;
mod error;
mod files;
pub mod inspect;
mod kept;
mod mmap;
mod options;
mod record;
mod records;
mod recovery;
mod replay;
mod room;
mod segment;
mod shard;
mod shared;
mod sim_storage;
mod storage;
mod view;
mod writer;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use stockd_protocol::ShardId;
use tokio::sync::{mpsc, oneshot};

pub use error::Error;
pub use files::{DurableFile, SegmentStart, segment_starts};
pub use kept::KeepOptions;
pub use options::{
    FatalHook, LogOptions, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MIN_REAL,
    record_bytes_max,
};
pub use record::{FrameKind, PAYLOAD_BYTES_MAX, Record, RecordId, VOTE_BYTES_MAX};
pub use records::{Logged, Records};
pub use replay::Progress;
pub use room::yielding;
pub use segment::FORMAT_VERSION;
pub use shard::{ShardLog, ShardState};
pub use sim_storage::{Fault, SimStorage, Survival};
pub(crate) use storage::is_full;
pub use storage::{File, FileEntry, RealStorage, Storage};
pub use view::View;
pub use writer::Done;

use crate::world::World;
use cache::Cache;
use recovery::Recovered;
use shard::{Inner, Shard};
use shared::{Shared, lock};
use writer::{Request, Start, Writer};

/// Whether there is room for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// The disk can not hold another segment, and the current one is nearly used up: refuse what
    /// clients want to write. Goes back to `Ok` by itself.
    Full {
        /// Bytes left in the current segment.
        free_bytes: u64,
    },
    /// There is room.
    Ok,
}

/// What the log has done since it was opened, and how it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Segments with records.
    pub segments: u64,
    /// Bytes of all segment files, the spare one included.
    pub bytes_on_disk: u64,
    /// Purged segments that are kept for backups, and their bytes, when it was last looked.
    pub kept: (u64, u64),
    /// Bytes written to segments.
    pub bytes_written: u64,
    /// Bytes of records that wait to be written.
    pub queued_bytes: u64,
    /// Records written.
    pub records: u64,
    /// Syncs of the segment in use: one per group.
    pub syncs: u64,
    /// Microseconds spent in them.
    pub sync_micros: u64,
    /// The longest of them.
    pub sync_micros_max: u64,
}

/// A node's log. Cheap to clone; all clones are the same log, and its threads end when the last
/// clone and the last [`ShardLog`] are gone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    requests: mpsc::UnboundedSender<Request>,
}

impl Log {
    /// Recovers the log in `storage`, or begins one, and starts its two threads. Blocks for as long
    /// as reading all segments takes; `progress` is told about every 4 MiB.
    ///
    /// # Errors
    /// The log is damaged, incomplete or of another version, see [`Error`]; the disk or the threads
    /// are not to be had.
    pub fn open(
        storage: Arc<dyn Storage>,
        world: &World,
        options: LogOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, Error> {
        options.check()?;
        let found = recovery::recover(&*storage, world.random.next_u64(), &options, progress)?;
        let salt = segment::salt_of(found.log_id);
        let shared = Arc::new(Shared::new(storage, options, salt));
        let (requests, queue) = mpsc::unbounded_channel();
        let start = share(&shared, found);
        start_threads(&shared, world, queue, start)?;
        Ok(Self { shared, requests })
    }

    /// A shard's log; empty when it is new.
    pub fn shard(&self, id: ShardId) -> ShardLog {
        let mut shards = lock(&self.shared.shards);
        let shard = shards.entry(id).or_insert_with(|| new_shard(id, ShardState::default(), None));
        let (shared, shard) = (self.shared.clone(), shard.clone());
        ShardLog { shared, shard, requests: self.requests.clone() }
    }

    /// The shards of which the log has ever heard, in order.
    pub fn shards(&self) -> Vec<ShardId> {
        lock(&self.shared.shards).keys().copied().collect()
    }

    /// Whether there is room for more: two or three atomic loads.
    pub fn space(&self) -> Space {
        self.shared.space()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The longest payload a record may have: [`PAYLOAD_BYTES_MAX`], or three quarters of a segment.
    pub fn record_bytes_max(&self) -> usize {
        self.shared.options.record_bytes_max()
    }

    /// What stopped the log, if it has stopped.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.shared.failure()
    }

    /// Writes and syncs everything that has been asked for, leaves a mark that says so, and ends the
    /// threads. Later calls get [`Error::Closed`]. When the disk is full, what does not fit is
    /// refused instead.
    pub async fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.bell.notify_one();
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close { done }).is_ok() {
            // An error says that another close was faster.
            let _ = closed.await;
        }
    }
}

fn new_shard(id: ShardId, state: ShardState, cache: Option<Cache>) -> Arc<Shard> {
    let inner = Inner { state, cache: cache.unwrap_or_default(), tickets: 0 };
    Arc::new(Shard { id, inner: Mutex::new(inner) })
}

/// Puts what recovery found where readers look; gives what the writer starts from.
fn share(shared: &Shared, found: Recovered) -> Start {
    let Recovered { log_id, segments, spare, offset, seq, shards } = found;
    let mut bytes = 0;
    let mut states = segment::ShardStates::new();
    for (id, found) in shards {
        let start = found.start();
        states.insert(id, found.state.clone());
        let cache = Cache::recovered(start, found.positions);
        lock(&shared.shards).insert(id, new_shard(id, found.state, Some(cache)));
    }
    for (segment, _) in &segments {
        bytes += segment.bytes;
        lock(&shared.segments).insert(segment.number, segment.clone());
    }
    if let Some(spare) = spare {
        bytes += spare.bytes;
        shared.counters.spare.store(true, Ordering::Relaxed);
        *lock(&shared.spare) = Some(spare);
    }
    shared.counters.bytes_on_disk.store(bytes, Ordering::Relaxed);
    Start { log_id, segments: segments.into(), offset, seq, states }
}

fn start_threads(
    shared: &Arc<Shared>,
    world: &World,
    queue: mpsc::UnboundedReceiver<Request>,
    start: Start,
) -> Result<(), Error> {
    let (chores, chores_rx) = mpsc::unbounded_channel();
    let (ended, allocator) = oneshot::channel();
    let writer = Writer::new(shared.clone(), world.clock.clone(), queue, chores, allocator, start);
    let spawn = |name: &str, body| {
        let file = shared.storage.path("");
        let error = |source| Error::Io { deed: "start a thread for", file, source };
        world.threads.spawn(name, body).map_err(error)
    };
    let body = allocator::run(shared.clone(), world.clock.clone(), chores_rx);
    spawn(
        "log-allocator",
        Box::pin(async move {
            body.await;
            let _ = ended.send(()); // the writer may be gone by then
        }),
    )?;
    spawn("log-writer", Box::pin(writer.run()))
}
