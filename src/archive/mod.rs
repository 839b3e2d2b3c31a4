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
//! which is safe.
//!
//! Invariants:
//! - What was taken in before [`Archive::flush`] was called is on disk when it returns; a snapshot is
//!   published after that, and the log below it purged.
//! - A record goes from batch to table to run; whoever looks in this order misses none.

mod filter;
mod keeper;
mod run;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};

use crate::engine::{ArchiveBatch, ArchivedRecord};
use crate::log::Storage;
use crate::protocol::ReservationId;
use crate::world::World;
use run::Run;

/// So many records at once come from the engine: they are searched one by one until they are sorted.
pub const BATCH_RECORDS: usize = 2_048;

/// How much is archived, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveOptions {
    /// How long an id is answered for after its own time, in ms. Default seven days.
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
    /// The latest time in the log.
    now_ms: AtomicU64,
    damaged: AtomicU64,
}

#[derive(Default)]
struct Tables {
    /// As they came.
    fresh: Vec<Arc<ArchiveBatch>>,
    /// Sorted; each much smaller than the one before.
    sorted: Vec<Arc<ArchiveBatch>>,
    /// By the latest time in their ids.
    runs: Vec<Arc<Run>>,
    flushes: Vec<oneshot::Sender<io::Result<()>>>,
    stopping: bool,
}

impl Tables {
    fn add_run(&mut self, run: Run) {
        self.runs.push(Arc::new(run));
        self.runs.sort_by_key(|run| run.newest_ms);
    }

    fn waiting(&self) -> impl Iterator<Item = &Arc<ArchiveBatch>> {
        self.fresh.iter().chain(&self.sorted)
    }

    fn bytes_waiting(&self) -> u64 {
        self.waiting().map(|batch| batch.bytes() as u64).sum()
    }
}

impl Archive {
    /// Maps what is there, and starts the keeper.
    ///
    /// # Errors
    /// A file is damaged, and which; what the operating system says.
    pub fn open(
        storage: Arc<dyn Storage>,
        world: &World,
        options: ArchiveOptions,
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
            now_ms: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        });
        world.threads.spawn("archive", Box::pin(keeper::keep(inner.clone())))?;
        Ok(Self(inner))
    }

    /// Takes records in. `now_ms`: the log's time.
    pub fn take_in(&self, batch: ArchiveBatch, now_ms: u64) {
        self.0.now_ms.fetch_max(now_ms, Ordering::Relaxed);
        if !batch.is_empty() {
            self.0.lock().fresh.push(Arc::new(batch));
            self.0.wake.notify_one();
        }
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

    /// The record under an id, if its own time is not longer ago than the archive goes back.
    ///
    /// May read the disk: not for apply, and not under its lock.
    pub fn find(&self, id: &ReservationId) -> Option<ArchivedRecord> {
        if self.0.is_expired(id.born()?) {
            return None;
        }
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
        }
    }
}

impl Drop for Archive {
    /// What waits is in the log still.
    fn drop(&mut self) {
        self.0.lock().stopping = true;
        self.0.wake.notify_one();
    }
}

impl Inner {
    fn note_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    fn is_expired(&self, born_ms: u64) -> bool {
        born_ms + self.options.retention_ms <= self.now_ms.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no holder panics")
    }
}
