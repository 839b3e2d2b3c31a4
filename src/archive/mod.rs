//! The archive: what the engine has forgotten, so that an old id still gets its answer.
//!
//! ```text
//! apply ─▶ fresh batches ─▶ one table in memory ─▶ runs on disk ─▶ larger runs ─▶ too old: removed
//!             (sorted by the keeper)     (full, or before a snapshot)
//! ```
//!
//! An id is only looked up here when its own time says that it is too old to be executed: a fresh one never
//! comes here. What is found never changes again, so each node keeps its own archive, and nothing here is
//! agreed on. A node that was given a snapshot lacks what others forgot meanwhile: it answers ID_TOO_OLD,
//! which is safe. So it is when the oldest run is given up because the disk is full, and when records come
//! faster than a disk takes them.
//!
//! Invariants:
//! - What was taken in before [`Archive::flush`] was called is on disk when it returns; a snapshot that was
//!   built is published after that, and the log below it purged. One that was installed is not waited for.
//! - A record goes from batch to table to run; whoever looks in this order misses none.

mod filter;
mod keeper;
mod run;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::engine::{ArchiveBatch, ArchivedRecord};
use crate::log::Storage;
use crate::protocol::ReservationId;
use crate::world::World;
use run::Run;

/// So much at once comes from the engine, some 500 reservations of one line: they are searched one by one until
/// they are sorted.
pub const BATCH_BYTES: usize = 32 << 10;

/// What waits in memory for a disk that does not take it, and twice that while it is sorted; beyond that it is
/// let go.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// How much is archived, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveOptions {
    /// How long an id is answered for after the engine has forgotten it, in ms. Default seven days.
    pub retention_ms: u64,
    /// Bytes on disk; above it the oldest runs are removed. Default 8 GiB.
    pub bytes_max: u64,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self { retention_ms: 7 * 24 * 60 * 60 * 1_000, bytes_max: 8 << 30 }
    }
}

/// How much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ArchiveStats {
    /// Records in memory, on their way to disk.
    pub waiting: u64,
    /// Records on disk. One that a crash made be written twice counts twice until runs are merged.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files.
    pub runs: u64,
    /// Records that were found damaged, or of another shard, since the start.
    pub damaged: u64,
    /// Records that were let go since the start: the disk did not take them.
    pub dropped: u64,
    /// The last attempt to write or to remove something failed.
    pub is_failing: bool,
}

/// See the module. The keeper ends with it.
pub struct Archive(Arc<Inner>);

/// What the archive and its keeper share.
struct Inner {
    storage: Arc<dyn Storage>,
    world: World,
    options: ArchiveOptions,
    tables: Mutex<Tables>,
    wake: Notify,
    stop: Notify,
    /// The latest time in the log.
    now_ms: AtomicU64,
    damaged: AtomicU64,
    dropped: AtomicU64,
    notice: Notice,
}

/// Where an operator is told something.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct Tables {
    /// As they came.
    fresh: Vec<Arc<ArchiveBatch>>,
    /// Sorted; each much smaller than the one before.
    sorted: Vec<Arc<ArchiveBatch>>,
    /// By the time at which they were written.
    runs: Arc<Vec<Arc<Run>>>,
    flushes: Vec<oneshot::Sender<io::Result<()>>>,
    /// What waits shall be written, and nobody waits for it.
    write_soon: bool,
    /// Others need the disk, and when they got some.
    room_wanted: bool,
    made_room: Option<Duration>,
    /// No merge before this moment.
    merge_after: Duration,
    /// What went wrong the last time.
    failure: Option<String>,
    stopping: bool,
}

impl Tables {
    fn add_run(&mut self, run: Run) {
        let runs = Arc::make_mut(&mut self.runs);
        runs.push(Arc::new(run));
        runs.sort_by_key(|run| run.written_ms);
    }

    fn waiting(&self) -> impl Iterator<Item = &Arc<ArchiveBatch>> {
        self.fresh.iter().chain(&self.sorted)
    }

    fn bytes_waiting(&self) -> u64 {
        self.waiting().map(|batch| batch.bytes() as u64).sum()
    }
}

impl Archive {
    /// Maps what is there, and starts the keeper. `notice` is told when files cannot be written, and when they
    /// can again.
    ///
    /// # Errors
    /// A file is damaged, and which; what the operating system says.
    pub fn open(
        storage: Arc<dyn Storage>,
        world: &World,
        options: ArchiveOptions,
        notice: Notice,
    ) -> io::Result<Self> {
        run::remove_unfinished(storage.as_ref())?;
        let mut tables = Tables::default();
        for entry in storage.list()? {
            let Some(number) = run::number_of(&entry.name) else { continue };
            let opened = Run::open(storage.as_ref(), number).map_err(|error| {
                let path = storage.path(&entry.name);
                let advice = "remove it to go on without the answers that are in it";
                io::Error::new(error.kind(), format!("{path}: {error}; {advice}"))
            })?;
            tables.add_run(opened);
        }
        let inner = Arc::new(Inner {
            storage,
            world: world.clone(),
            options,
            tables: Mutex::new(tables),
            wake: Notify::new(),
            stop: Notify::new(),
            now_ms: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            notice,
        });
        world.threads.spawn("archive", Box::pin(keeper::keep(inner.clone())))?;
        Ok(Self(inner))
    }

    /// The log's time has come to this.
    pub fn tell_time(&self, now_ms: u64) {
        self.0.now_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Takes records in.
    pub fn take_in(&self, batch: ArchiveBatch) {
        if batch.is_empty() {
            return;
        }
        let mut tables = self.0.lock();
        if tables.bytes_waiting() >= MEMORY_BYTES_MAX {
            self.0.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
        } else {
            tables.fresh.push(Arc::new(batch));
        }
        drop(tables);
        self.0.wake.notify_one();
    }

    /// Waits until all that was taken in before is on disk.
    ///
    /// # Errors
    /// What the operating system says; the records are kept, and written with the next ones.
    pub async fn flush(&self) -> io::Result<()> {
        let (done, flushed) = oneshot::channel();
        self.0.lock().flushes.push(done);
        self.0.wake.notify_one();
        flushed.await.unwrap_or_else(|_| Err(io::Error::other("the archive's keeper is gone")))
    }

    /// Has all that was taken in before written soon.
    pub fn write_soon(&self) {
        self.0.lock().write_soon = true;
        self.0.wake.notify_one();
    }

    /// The disk is full, and others need it more: the oldest run goes.
    pub fn make_room(&self) {
        self.0.lock().room_wanted = true;
        self.0.wake.notify_one();
    }

    /// The record under an id.
    ///
    /// May read the disk: not for apply, and not under its lock.
    pub fn find(&self, id: &ReservationId) -> Option<ArchivedRecord> {
        let (fresh, sorted, runs) = {
            let tables = self.0.lock();
            (tables.fresh.clone(), tables.sorted.clone(), tables.runs.clone())
        };
        let found = fresh.iter().find_map(|batch| {
            let at = batch.entries().iter().position(|entry| entry.id() == *id);
            at.and_then(|at| batch.get(at))
        });
        let found = found.or_else(|| {
            sorted.iter().find_map(|batch| {
                let at = batch.entries().binary_search_by_key(id, |entry| entry.id());
                at.ok().and_then(|at| batch.get(at))
            })
        });
        // The newest runs have what was forgotten last.
        found.or_else(|| {
            runs.iter().rev().find_map(|run| {
                run.find(id).unwrap_or_else(|_| {
                    self.note_damaged();
                    None
                })
            })
        })
    }

    /// A record could not be used.
    pub fn note_damaged(&self) {
        self.0.note_damaged();
    }

    /// How much there is.
    pub fn stats(&self) -> ArchiveStats {
        let tables = self.0.lock();
        ArchiveStats {
            waiting: tables.waiting().map(|batch| batch.len() as u64).sum(),
            records: tables.runs.iter().map(|run| run.count).sum(),
            bytes: tables.runs.iter().map(|run| run.bytes).sum(),
            runs: tables.runs.len() as u64,
            damaged: self.0.damaged.load(Ordering::Relaxed),
            dropped: self.0.dropped.load(Ordering::Relaxed),
            is_failing: tables.failure.is_some(),
        }
    }
}

impl Drop for Archive {
    /// What waits is in the log still.
    fn drop(&mut self) {
        self.0.lock().stopping = true;
        self.0.stop.notify_one();
        self.0.wake.notify_one();
    }
}

impl Inner {
    fn note_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no holder panics")
    }
}
