//! The committed log, from the directories of stopped nodes.
//!
//! Each node has a part of it: the head is purged behind a snapshot, the tail may be missing on a node
//! that was behind, and may be there on one whose tail was never committed. What is taken:
//!
//! - of the node whose last record is the newest (by term, then index), everything: among a majority of
//!   the nodes that one has all that is committed, and would, were they started again, commit the rest;
//! - of the others, what they know to be committed. Two nodes that have different records at a committed
//!   index have diverged, which is the worst that can happen, and is said.

use std::fmt;
use std::path::{Path, PathBuf};

use stockd::engine::EngineConfig;
use stockd::log::{Logged, RealStorage, Records};
use stockd::replication::{batch_of, owner_of};
use stockd_protocol::ShardId;

use crate::replay::Entry;

/// The logs are not one log.
#[derive(Debug)]
pub enum Error {
    /// Two nodes have different records at a committed index.
    Diverged(u64),
    /// Nobody has this index any more, but later ones: a log is checked from its beginning.
    Missing(u64),
    /// A directory's log cannot be read.
    Unreadable(PathBuf, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverged(index) => write!(f, "VIOLATION: the nodes differ at index {index}"),
            Self::Missing(index) => write!(
                f,
                "no node has index {index} any more; run nodes with a larger --snapshot-log-bytes"
            ),
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

/// The log of a cluster from those of its nodes; see the module.
///
/// # Errors
/// [`Error::Diverged`], [`Error::Missing`].
pub fn merge(logs: &[Records]) -> Result<Vec<Entry>, Error> {
    let newest = logs.iter().max_by_key(|log| log.last());
    let Some(newest) = newest else { return Ok(Vec::new()) };
    let mut merged = newest.all().clone();
    for log in logs {
        for (index, kept) in log.all().range(..=log.committed()) {
            if merged.entry(*index).or_insert_with(|| kept.clone()) != kept {
                return Err(Error::Diverged(*index));
            }
        }
    }
    let first = merged.keys().next().copied().unwrap_or(0);
    if first > 1 {
        return Err(Error::Missing(first - 1));
    }
    for (want, index) in (first..).zip(merged.keys()) {
        if want != *index {
            return Err(Error::Missing(want));
        }
    }
    let batch = |(index, kept): (u64, Logged)| {
        Some(Entry { index, batch: batch_of(kept.kind, kept.payload)? })
    };
    Ok(merged.into_iter().filter_map(batch).collect())
}

/// The rules under which everything in these directories was decided; `None`: none says.
pub fn rules(directories: &[impl AsRef<Path>]) -> Option<EngineConfig> {
    directories.iter().find_map(|directory| {
        let storage = RealStorage::open_read_only(directory.as_ref()).ok()?;
        Some(owner_of(&storage).ok()??.engine)
    })
}

/// Reads the data directories of stopped nodes of one cluster: all of them, or at least a majority.
///
/// # Errors
/// See [`Error`].
pub fn read(directories: &[impl AsRef<Path>]) -> Result<Vec<Entry>, Error> {
    let read = |directory: &Path| {
        let storage = RealStorage::open_read_only(directory).map_err(|error| error.to_string())?;
        Records::read(&storage, ShardId(0), &mut |_| {}).map_err(|error| error.to_string())
    };
    let mut logs = Vec::new();
    for directory in directories {
        let directory = directory.as_ref();
        let log = read(directory).map_err(|error| Error::Unreadable(directory.into(), error))?;
        logs.push(log);
    }
    merge(&logs)
}
