//! A disk on which segments that were put aside give way to everything else.
//!
//! Whatever a node writes (its log, snapshots, events, old ids) and has no room, takes the room of the oldest kept
//! segment and is tried again. So keeping them never costs a sale, and nobody else has to know of them.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::kept;
use super::storage::{File, FileEntry, Storage, is_full};

/// The same directory; what does not fit in it takes the place of [kept segments](super::KeepOptions).
pub fn yielding(storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
    Arc::new(Yielding(storage))
}

struct Yielding(Arc<dyn Storage>);

impl Yielding {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(YieldingFile { file, storage: self.0.clone() })
    }
}

/// Does it, and again for as long as there is no room and something can give way.
fn with_room<T>(storage: &dyn Storage, deed: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match deed() {
            Err(error) if is_full(&error) && kept::remove_oldest(storage)? => {}
            done => return done,
        }
    }
}

impl Storage for Yielding {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        with_room(&*self.0, || self.0.create(name)).map(|file| self.wrap(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.0.open(name).map(|file| self.wrap(file))
    }

    fn list(&self) -> io::Result<Vec<FileEntry>> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        with_room(&*self.0, || self.0.rename(from, to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name)
    }

    fn sync_delay(&self) -> Duration {
        self.0.sync_delay()
    }
}

struct YieldingFile {
    file: Arc<dyn File>,
    storage: Arc<dyn Storage>,
}

impl File for YieldingFile {
    /// The same bytes to the same place: repeating a write is safe.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        with_room(&*self.storage, || self.file.write_at(offset, bytes))
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }

    /// Not repeated: the kernel would say yes to bytes that are nowhere.
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn uncache(&self, bytes: Range<u64>) {
        self.file.uncache(bytes);
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn map(&self) -> io::Result<Bytes> {
        self.file.map()
    }
}
