//! What the handles, the writer and the allocator of one log have in common.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use stockd_protocol::ShardId;
use tokio::sync::Notify;

use super::segment::Segment;
use super::shard::Shard;
use super::storage::Storage;
use super::{Error, LogOptions, Space, Stats};

pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) options: LogOptions,
    pub(super) salt: u32,
    pub(super) shards: Mutex<BTreeMap<ShardId, Arc<Shard>>>,
    /// The segments with records, by number.
    pub(super) segments: Mutex<BTreeMap<u64, Arc<Segment>>>,
    /// Where what is on disk ends: a [`Position`](super::segment::Position) as one word.
    pub(super) synced: AtomicU64,
    /// The zeroed segment that comes next.
    pub(super) spare: Mutex<Option<Arc<Segment>>>,
    /// Rung when there is a spare, when the log failed and when it closes.
    pub(super) bell: Notify,
    pub(super) counters: Counters,
    /// Do not wait for space any longer.
    pub(super) closing: AtomicBool,
    failure: OnceLock<Arc<Error>>,
}

/// Written by the log's own threads, read by anybody. None of them guards other memory, so all
/// accesses are relaxed.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) bytes_on_disk: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) kept_bytes: AtomicU64,
    pub(super) kept_segments: AtomicU64,
    pub(super) queued_bytes: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) remaining_bytes: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) sync_micros: AtomicU64,
    pub(super) sync_micros_max: AtomicU64,
    /// There is a spare segment.
    pub(super) spare: AtomicBool,
    /// The disk was full at the last try to make one.
    pub(super) disk_full: AtomicBool,
    /// The writer itself met a full disk and waits.
    pub(super) writer_waits: AtomicBool,
}

impl Shared {
    pub(super) fn new(storage: Arc<dyn Storage>, options: LogOptions, salt: u32) -> Self {
        Self {
            storage,
            options,
            salt,
            shards: Mutex::default(),
            segments: Mutex::default(),
            synced: AtomicU64::new(0),
            spare: Mutex::default(),
            bell: Notify::new(),
            counters: Counters::default(),
            closing: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    /// Notes the first error, for good, and tells the owner, unless it asked for the end itself.
    pub(super) fn fail(&self, error: Error) {
        let error = Arc::new(error);
        let first = self.failure.set(error.clone()).is_ok();
        if first && !matches!(*error, Error::Closed) {
            (self.options.on_fatal)(&error);
        }
        self.bell.notify_one();
    }

    pub(super) fn failure(&self) -> Option<Arc<Error>> {
        self.failure.get().cloned()
    }

    pub(super) fn space(&self) -> Space {
        let counters = &self.counters;
        let free_bytes = counters.remaining_bytes.load(Ordering::Relaxed);
        let no_spare = counters.disk_full.load(Ordering::Relaxed)
            && !counters.spare.load(Ordering::Relaxed)
            && free_bytes < self.options.headroom();
        if no_spare || counters.writer_waits.load(Ordering::Relaxed) {
            Space::Full { free_bytes }
        } else {
            Space::Ok
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Stats {
            segments: lock(&self.segments).len() as u64,
            bytes_on_disk: read(&counters.bytes_on_disk),
            kept: (read(&counters.kept_segments), read(&counters.kept_bytes)),
            bytes_written: read(&counters.bytes_written),
            queued_bytes: read(&counters.queued_bytes),
            records: read(&counters.records),
            syncs: read(&counters.syncs),
            sync_micros: read(&counters.sync_micros),
            sync_micros_max: read(&counters.sync_micros_max),
        }
    }
}

/// Takes a lock. Nothing under these locks can panic half-way but a broken invariant, which stops
/// the process in a release build; a test that provokes one may go on looking.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
