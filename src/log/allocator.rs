//! The thread that makes segments ahead of need and removes purged ones or puts them aside, so that
//! none of it ever stands in the way of a commit.
//!
//! A segment is written with zeros, synced, renamed, and its name synced, before the writer sees it:
//! a sync of written zeros costs half of one that grows the file (135 against 202–247 µs measured on
//! ext4), and a commit can then not run out of disk. When the disk is full the half-made file is
//! removed and the allocator tries again every [`RETRY`]; that is not an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use super::kept;
use super::segment::{self, Segment};
use super::shared::{Shared, lock};
use super::storage::is_full;
use super::{Error, KeepOptions};
use crate::world::Clock;

/// How long to wait for space before the next try.
pub(super) const RETRY: Duration = Duration::from_millis(100);

/// Zeros are written in pieces of this size: while the kernel copies one, nothing else runs on its processor.
/// Pieces of 1 MiB held commits up by 4 ms each.
const PIECE_BYTES: u64 = 64 << 10;
/// Zeros are synced when there are so many, so that no commit's sync waits behind a whole segment of them.
const SYNC_BYTES: u64 = 1 << 20;
/// A pause after each piece, which makes 20 MB/s. It is left out while the new segment has less than twice the
/// bytes that are used of the present one, so the new one is there when half of the present one is left: a commit
/// that waits for its segment waits longest.
const PACE: Duration = Duration::from_millis(3);

/// How often to look whether what was put aside is too old, though nothing else is to do.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// What the writer asks for.
pub(super) enum Chore {
    /// Make the segment of this number.
    Make(u64),
    /// Remove these segments, oldest first.
    Remove(Vec<Arc<Segment>>),
}

/// The thread's own.
struct Allocator {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    chores: mpsc::UnboundedReceiver<Chore>,
}

/// Works until the writer hangs up or something fails.
pub(super) async fn run(
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    chores: mpsc::UnboundedReceiver<Chore>,
) {
    let mut allocator = Allocator { shared, clock, chores };
    if let Err(error) = allocator.work().await {
        allocator.shared.fail(error);
    }
}

impl Allocator {
    async fn work(&mut self) -> Result<(), Error> {
        self.tidy()?;
        while let Some(chore) = self.next().await {
            match chore {
                Some(Chore::Make(number)) => self.make_patiently(number).await?,
                Some(Chore::Remove(segments)) => self.remove(&segments)?,
                None => self.tidy()?,
            }
        }
        Ok(())
    }

    /// What is to do next; `Some(None)`: nothing has been for a while.
    async fn next(&mut self) -> Option<Option<Chore>> {
        if self.keep().is_none() {
            return self.chores.recv().await.map(Some);
        }
        match tokio::time::timeout(TIDY_EVERY, self.chores.recv()).await {
            Ok(chore) => chore.map(Some),
            Err(_) => Some(None),
        }
    }

    fn keep(&self) -> Option<KeepOptions> {
        self.shared.options.keep
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall().as_millis()
    }

    async fn make_patiently(&mut self, number: u64) -> Result<(), Error> {
        loop {
            let shared = &self.shared;
            match make(shared, number).await {
                Ok(segment) => {
                    let bytes = segment.bytes;
                    *lock(&shared.spare) = Some(Arc::new(segment));
                    shared.counters.bytes_on_disk.fetch_add(bytes, Ordering::Relaxed);
                    shared.counters.spare.store(true, Ordering::Relaxed);
                    shared.counters.disk_full.store(false, Ordering::Relaxed);
                    shared.bell.notify_one();
                    return Ok(());
                }
                Err(error) if is_full(&error.source) => discard(shared, number)?,
                Err(error) => return Err(error.into_error(shared, number)),
            }
            shared.counters.disk_full.store(true, Ordering::Relaxed);
            // What the writer wants removed may be the very space that is missing.
            match tokio::time::timeout(RETRY, self.chores.recv()).await {
                Err(_) => {}
                Ok(None) => return Ok(()),
                Ok(Some(Chore::Remove(segments))) => self.remove(&segments)?,
                Ok(Some(Chore::Make(_))) => unreachable!("the writer wants one segment at a time"),
            }
        }
    }

    /// Removes segments one by one, or puts them aside, each name synced before the next goes: a power
    /// cut then never leaves a gap in the numbers.
    fn remove(&self, segments: &[Arc<Segment>]) -> Result<(), Error> {
        let storage = &*self.shared.storage;
        for segment in segments {
            let name = segment::name(segment.number);
            let failed = |deed| failed(&self.shared, deed, &name);
            match self.keep() {
                Some(_) => {
                    let aside = kept::name(segment.number, self.now_ms());
                    storage.rename(&name, &aside).map_err(failed("put aside"))?;
                }
                None => storage.remove(&name).map_err(failed("remove"))?,
            }
            storage.sync_dir().map_err(failed("sync the directory of"))?;
            self.shared.counters.bytes_on_disk.fetch_sub(segment.bytes, Ordering::Relaxed);
        }
        self.tidy()
    }

    /// Lets go of what was put aside and is too old or too much.
    fn tidy(&self) -> Result<(), Error> {
        let left = kept::tidy(&*self.shared.storage, self.keep(), self.now_ms());
        let (count, bytes) = left.map_err(failed(&self.shared, "remove old segments in", ""))?;
        self.shared.counters.kept_segments.store(count, Ordering::Relaxed);
        self.shared.counters.kept_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

fn failed(
    shared: &Shared,
    deed: &'static str,
    name: &str,
) -> impl FnOnce(io::Error) -> Error + use<> {
    let file = shared.storage.path(name);
    move |source| Error::Io { deed, file, source }
}

/// A step of the making that failed.
struct Failed {
    sync: bool,
    source: io::Error,
}

impl Failed {
    fn into_error(self, shared: &Shared, number: u64) -> Error {
        let file = shared.storage.path(&segment::temporary_name(number));
        let Self { sync, source } = self;
        if sync {
            Error::SyncFailed { file, offset: 0, source }
        } else {
            Error::Io { deed: "create", file, source }
        }
    }
}

async fn make(shared: &Shared, number: u64) -> Result<Segment, Failed> {
    let other = |source| Failed { sync: false, source };
    let sync = |source| Failed { sync: true, source };
    let storage = &*shared.storage;
    let bytes = shared.options.segment_bytes;
    let file = storage.create(&segment::temporary_name(number)).map_err(other)?;
    let zeros = vec![0; PIECE_BYTES.min(bytes) as usize];
    let mut offset = 0;
    while offset < bytes {
        let piece = (bytes - offset).min(PIECE_BYTES);
        file.write_at(offset, &zeros[..piece as usize]).map_err(other)?;
        offset += piece;
        if offset.is_multiple_of(SYNC_BYTES) || offset == bytes {
            file.sync_data().map_err(sync)?;
        }
        let remaining = shared.counters.remaining_bytes.load(Ordering::Relaxed);
        let is_early = offset >= 2 * bytes.saturating_sub(remaining);
        if offset < bytes && is_early && !shared.closing.load(Ordering::Acquire) {
            tokio::time::sleep(PACE).await;
        }
    }
    storage.rename(&segment::temporary_name(number), &segment::name(number)).map_err(other)?;
    storage.sync_dir().map_err(sync)?;
    Ok(Segment::new(number, bytes, file))
}

fn discard(shared: &Shared, number: u64) -> Result<(), Error> {
    let name = segment::temporary_name(number);
    match shared.storage.remove(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let file = shared.storage.path(&name);
            Err(Error::Io { deed: "remove", file, source: error })
        }
        _ => Ok(()),
    }
}
