//! Segments that the log needs no more, put aside for backups.
//!
//! ```text
//! segment-0000000007.log ──purged──▶ kept-0000000007-1764482356123.log ──too old, too much, disk full──▶ gone
//!                                         number     wall clock, ms, when it was put aside
//! ```
//!
//! The bytes stay as they are; only the name changes, in one step. Recovery looks at names of segments alone, so what
//! was put aside is never taken for a part of the log, whatever its header says. A power cut before the name is on
//! disk brings back a segment that is purged, and the next start puts it aside again.
//!
//! Invariants:
//! - What is kept costs nobody anything: it goes first when the disk is full ([`super::yielding`]).
//! - The oldest goes first, so what is left goes on into the log without a hole.
//!
//! The moment is in the name because nothing else survives a restart: a file's times are not behind
//! [`Storage`], and the log itself knows no time.

use std::io;

use super::segment::{self, Header};
use super::storage::{FileEntry, Storage};

const PREFIX: &str = "kept-";
const SUFFIX: &str = ".log";

/// For how long segments are kept, and how many bytes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepOptions {
    /// Milliseconds of the wall clock. Default 7 days.
    pub retention_ms: u64,
    /// Above it the oldest ones go. Default 8 GiB.
    pub bytes_max: u64,
}

impl Default for KeepOptions {
    fn default() -> Self {
        Self { retention_ms: 7 * 24 * 60 * 60 * 1_000, bytes_max: 8 << 30 }
    }
}

/// A segment that was put aside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Kept {
    /// Its number in the log. First, so that they sort by it: clocks are set back at times.
    pub(super) number: u64,
    /// When, in ms of the wall clock.
    pub(super) since_ms: u64,
    pub(super) bytes: u64,
}

impl Kept {
    pub(super) fn name(&self) -> String {
        name(self.number, self.since_ms)
    }

    fn of(entry: &FileEntry) -> Option<Self> {
        let words = entry.name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let (number, since) = words.split_once('-')?;
        let kept = Self {
            since_ms: since.parse().ok()?,
            number: number.parse().ok()?,
            bytes: entry.bytes,
        };
        (kept.name() == entry.name).then_some(kept)
    }
}

/// The name of a segment that is put aside at a moment.
pub(super) fn name(number: u64, since_ms: u64) -> String {
    format!("{PREFIX}{number:010}-{since_ms:013}{SUFFIX}")
}

/// What was put aside, the oldest first.
pub(super) fn list(storage: &dyn Storage) -> io::Result<Vec<Kept>> {
    let mut found: Vec<_> = storage.list()?.iter().filter_map(Kept::of).collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes what is too old or too much; `None`: everything. Gives how many are left, and their bytes.
pub(super) fn tidy(
    storage: &dyn Storage,
    keep: Option<KeepOptions>,
    now_ms: u64,
) -> io::Result<(u64, u64)> {
    let found = list(storage)?;
    let (mut count, mut bytes) =
        (found.len() as u64, found.iter().map(|kept| kept.bytes).sum::<u64>());
    for kept in found {
        let is_over = keep.is_none_or(|keep| {
            kept.since_ms.saturating_add(keep.retention_ms) <= now_ms || bytes > keep.bytes_max
        });
        if !is_over {
            break;
        }
        remove(storage, &kept)?;
        (count, bytes) = (count - 1, bytes - kept.bytes);
    }
    Ok((count, bytes))
}

/// Removes the oldest one; `false`: there is none.
pub(super) fn remove_oldest(storage: &dyn Storage) -> io::Result<bool> {
    match list(storage)?.first() {
        Some(oldest) => remove(storage, oldest).map(|()| true),
        None => Ok(false),
    }
}

fn remove(storage: &dyn Storage, kept: &Kept) -> io::Result<()> {
    match storage.remove(&kept.name()) {
        // Two threads may want it gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Those of the log that goes on with segment `first`, without a hole up to there, the oldest first.
pub(super) fn before(storage: &dyn Storage, (log_id, first): (u64, u64)) -> io::Result<Vec<Kept>> {
    let (mut expected, mut run) = (first, Vec::new());
    for kept in list(storage)?.into_iter().rev() {
        if kept.number + 1 == expected && is_of(storage, &kept, log_id)? {
            expected = kept.number;
            run.push(kept);
        }
    }
    run.reverse();
    Ok(run)
}

/// Is it of that log? One that was removed meanwhile is not.
fn is_of(storage: &dyn Storage, kept: &Kept, log_id: u64) -> io::Result<bool> {
    let header = match storage.open(&kept.name()).and_then(|file| segment::read_header(&*file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        header => header?,
    };
    let is_it = |header: Header| header.log_id == log_id && header.number == kept.number;
    Ok(header.is_ok_and(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::SimStorage;

    fn put(storage: &SimStorage, number: u64, since_ms: u64) {
        let file = storage.create(&name(number, since_ms)).unwrap();
        file.write_at(0, &[0; 100]).unwrap();
    }

    fn numbers(storage: &SimStorage) -> Vec<u64> {
        list(storage).unwrap().iter().map(|kept| kept.number).collect()
    }

    #[test]
    fn names_of_kept_segments_are_no_names_of_segments() {
        let name = name(7, 1_764_482_356_123);
        assert_eq!(name, "kept-0000000007-1764482356123.log");
        assert_eq!(segment::number_of(&name), None);
        for other in ["kept-7-1764482356123.log", "kept-0000000007.log", "segment-0000000007.log"] {
            let entry = FileEntry { name: other.to_owned(), bytes: 1 };
            assert_eq!(Kept::of(&entry), None, "{other}");
        }
    }

    #[test]
    fn the_oldest_go_also_when_a_clock_was_set_back() {
        let storage = SimStorage::new();
        for (number, since_ms) in [(1, 9_000), (2, 3_000), (3, 4_000)] {
            put(&storage, number, since_ms);
        }
        assert_eq!(numbers(&storage), [1, 2, 3]);
        assert!(remove_oldest(&storage).unwrap());
        assert_eq!(numbers(&storage), [2, 3]);
    }

    #[test]
    fn the_oldest_go_by_age_and_by_bytes() {
        let storage = SimStorage::new();
        (1..=5).for_each(|number| put(&storage, number, number * 1_000));
        let keep = |retention_ms, bytes_max| Some(KeepOptions { retention_ms, bytes_max });
        assert_eq!(tidy(&storage, keep(10_000, 1_000), 5_000).unwrap(), (5, 500));
        assert_eq!(tidy(&storage, keep(4_000, 1_000), 6_000).unwrap(), (3, 300));
        assert_eq!(numbers(&storage), [3, 4, 5]);
        assert_eq!(tidy(&storage, keep(4_000, 250), 6_000).unwrap(), (2, 200));
        assert!(remove_oldest(&storage).unwrap());
        assert_eq!(numbers(&storage), [5]);
        assert_eq!(tidy(&storage, None, 0).unwrap(), (0, 0));
        assert!(!remove_oldest(&storage).unwrap());
    }
}
