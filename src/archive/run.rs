//! A run: many archived records, sorted by id, in a file that is never changed.
//!
//! ```text
//! archive-{number}
//!  0 8 magic "STKDARCH"        48 8 where the filter is
//!  8 4 format = 2              56 8 its bytes
//! 12 4 crc32 of bytes 16..80   64 8 when it was written, ms
//! 16 8 entries                 72 8 seed of the filter's hash
//! 24 8 where the tails are     80 … entries (engine/archived.rs)
//! 32 8 their bytes              … tails
//! 40 8 0                        … filter
//! ```
//!
//! A file is written under a temporary name, synced, renamed, and the directory synced. It is read by a
//! mapping. Each record has a checksum of its own, which whoever finds it checks. A merged run has the time of
//! the latest one that went into it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::filter;
use crate::engine::{ARCHIVE_ENTRY_BYTES, ArchiveEntry, ArchivedRecord};
use crate::log::{File, Storage};
use crate::protocol::ReservationId;

const MAGIC: &[u8; 8] = b"STKDARCH";
const FORMAT: u32 = 2;
const HEAD_BYTES: usize = 80;
const PREFIX: &str = "archive-";
/// The name under which a run is written.
const BUILDING: &str = "archive.building.tmp";
/// So much is written, and synced, at once; the log's syncs share the disk.
const WRITE_BYTES: usize = 1 << 20;
/// The pause after each: at most 128 MB/s.
const WRITE_PAUSE: Duration = Duration::from_millis(8);

pub(super) fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

/// The number in a run's name; `None`: it is no run.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (name_of(number) == name).then_some(number)
}

/// Removes what a killed process left half written.
pub(super) fn remove_unfinished(storage: &dyn Storage) -> io::Result<()> {
    remove_if_there(storage, BUILDING)
}

/// Removes a file, which may be gone already.
pub(super) fn remove_if_there(storage: &dyn Storage, name: &str) -> io::Result<()> {
    match storage.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A run, mapped.
pub(super) struct Run {
    pub number: u64,
    /// How many records it has.
    pub count: u64,
    /// When it was written, in the log's time.
    pub written_ms: u64,
    seed: u64,
    entries: Bytes,
    tails: Bytes,
    filter: Bytes,
    pub bytes: u64,
}

impl Run {
    /// Maps a run.
    ///
    /// # Errors
    /// `InvalidData`: the file is damaged. What the operating system says.
    pub fn open(storage: &dyn Storage, number: u64) -> io::Result<Self> {
        let all = storage.open(&name_of(number))?.map()?;
        let bytes = all.len() as u64;
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let head = all.get(..HEAD_BYTES).ok_or_else(|| damaged("it is too short"))?;
        let word = |at: usize| {
            let bytes = head[at..at + 8].first_chunk().expect("eight bytes");
            u64::from_le_bytes(*bytes)
        };
        let format = word(8);
        if head[..8] != *MAGIC || format as u32 != FORMAT {
            return Err(damaged("it is no archive of this version"));
        }
        if (format >> 32) as u32 != crc32fast::hash(&head[16..]) {
            return Err(damaged("the checksum of its head is wrong"));
        }
        let part = |at: u64, len: u64| {
            let end = at.checked_add(len).filter(|end| *end <= bytes);
            end.map(|end| all.slice(at as usize..end as usize))
        };
        let count = word(16);
        let entries_bytes = count.saturating_mul(ARCHIVE_ENTRY_BYTES as u64);
        let parts = (
            part(HEAD_BYTES as u64, entries_bytes),
            part(word(24), word(32)),
            part(word(48), word(56)),
        );
        let (Some(entries), Some(tails), Some(filter)) = parts else {
            return Err(damaged("it ends before its records do"));
        };
        Ok(Self {
            number,
            count,
            written_ms: word(64),
            seed: word(72),
            entries,
            tails,
            filter,
            bytes,
        })
    }

    /// The record under an id. `Err`: it is there, but damaged.
    pub fn find(&self, id: &ReservationId) -> Result<Option<ArchivedRecord>, Damaged> {
        if self.count == 0 || !filter::may_have(&self.filter, ArchiveEntry::hash(id, self.seed)) {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle);
            match entry.id().cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    return self.checked(entry).map(Some).ok_or(Damaged);
                }
            }
        }
        Ok(None)
    }

    /// The record at a place; `None`: it is damaged.
    ///
    /// # Panics
    /// `at` is not before `count`.
    pub fn record(&self, at: u64) -> Option<ArchivedRecord> {
        self.checked(self.entry(at))
    }

    fn checked(&self, entry: ArchiveEntry) -> Option<ArchivedRecord> {
        let tail = entry.tail_at().and_then(|at| self.tails.get(at as usize..));
        ArchivedRecord::checked(entry, tail.unwrap_or_default())
    }

    fn entry(&self, at: u64) -> ArchiveEntry {
        let start = at as usize * ARCHIVE_ENTRY_BYTES;
        let bytes = &self.entries[start..start + ARCHIVE_ENTRY_BYTES];
        ArchiveEntry(bytes.try_into().expect("an entry has its size"))
    }
}

/// A record whose checksum is wrong.
#[derive(Debug)]
pub(super) struct Damaged;

/// Bytes that go to one place of a file, one after the other.
struct Stream {
    file: Arc<dyn File>,
    at: u64,
    waiting: Vec<u8>,
}

impl Stream {
    fn new(file: Arc<dyn File>, at: u64) -> Self {
        Self { file, at, waiting: Vec::new() }
    }

    async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= WRITE_BYTES {
            self.flush()?;
            self.file.sync_data()?;
            tokio::time::sleep(WRITE_PAUSE).await;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.at, &self.waiting)?;
        self.at += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

/// Writes a run. One that is not finished gives its space back.
pub(super) struct RunWriter<'a> {
    storage: &'a dyn Storage,
    file: Arc<dyn File>,
    entries: Stream,
    tails: Stream,
    tails_at: u64,
    filter: Vec<u8>,
    seed: u64,
    count: u64,
    written_ms: u64,
    last: Option<ReservationId>,
    is_named: bool,
}

impl<'a> RunWriter<'a> {
    /// Begins a run of at most so many records.
    pub fn new(
        storage: &'a dyn Storage,
        count_max: u64,
        seed: u64,
        written_ms: u64,
    ) -> io::Result<Self> {
        let file = storage.create(BUILDING)?;
        let tails_at = HEAD_BYTES as u64 + count_max * ARCHIVE_ENTRY_BYTES as u64;
        Ok(Self {
            storage,
            entries: Stream::new(file.clone(), HEAD_BYTES as u64),
            tails: Stream::new(file.clone(), tails_at),
            file,
            tails_at,
            filter: vec![0; filter::bytes_for(count_max) as usize],
            seed,
            count: 0,
            written_ms,
            last: None,
            is_named: false,
        })
    }

    /// Adds a record, unless it is there already.
    ///
    /// # Panics
    /// Its id is before that of the last one.
    pub async fn add(&mut self, record: &ArchivedRecord) -> io::Result<()> {
        let id = record.id();
        assert!(self.last <= Some(id), "records come in the order of their ids");
        if self.last == Some(id) {
            return Ok(());
        }
        let tail_at = self.tails.at + self.tails.waiting.len() as u64 - self.tails_at;
        let Some(entry) = record.entry_with_tail_at(tail_at) else {
            return Err(io::Error::other("the tails of a run are over 4 GiB"));
        };
        self.entries.put(&entry.0).await?;
        self.tails.put(record.tail()).await?;
        filter::add(&mut self.filter, ArchiveEntry::hash(&id, self.seed));
        self.count += 1;
        self.last = Some(id);
        Ok(())
    }

    /// Makes the run durable, under this number.
    pub fn finish(mut self, number: u64) -> io::Result<Run> {
        self.entries.flush()?;
        self.tails.flush()?;
        let filter_at = self.tails.at.div_ceil(64) * 64;
        self.file.write_at(filter_at, &self.filter)?;
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        let tails_bytes = self.tails.at - self.tails_at;
        let filter_bytes = self.filter.len() as u64;
        let words = [
            self.count,
            self.tails_at,
            tails_bytes,
            0,
            filter_at,
            filter_bytes,
            self.written_ms,
            self.seed,
        ];
        for (place, word) in head[16..].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&head[16..]);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(0, &head)?;
        self.file.sync_data()?;
        self.storage.rename(BUILDING, &name_of(number))?;
        self.is_named = true;
        self.storage.sync_dir()?;
        Run::open(self.storage, number)
    }
}

impl Drop for RunWriter<'_> {
    fn drop(&mut self) {
        if !self.is_named {
            // Where it cannot be removed, the next one is written over it.
            let _ = self.storage.remove(BUILDING);
        }
    }
}
