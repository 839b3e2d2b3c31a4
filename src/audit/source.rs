//! What a state is made of: the newest snapshot, and the log after it.

use std::io::ErrorKind;

use super::Progress;
use super::findings::Finding;
use crate::engine::EngineConfig;
use crate::log::{self, Records, Storage};
use crate::protocol::ShardId;
use crate::replication::{Checkpoint, Error, load_checkpoint, newest_checkpoint};

/// A node that runs may remove a snapshot, and the log before the next one, while they are read; it does so minutes
/// apart.
const ATTEMPTS: u32 = 4;

/// See the module.
pub struct Source {
    /// The newest snapshot, if there is any.
    pub checkpoint: Option<Checkpoint>,
    /// The log, with everything after the snapshot.
    pub log: Records,
}

/// Reads the newest snapshot of a directory, and the log that goes on from it.
///
/// # Errors
/// One of them is damaged, or cannot be read.
pub fn load(
    storage: &dyn Storage,
    shard: ShardId,
    engine: &EngineConfig,
    progress: Progress<'_>,
) -> Result<Source, Finding> {
    let mut attempt = 1;
    loop {
        let name = newest(storage)?;
        let loaded = try_load(storage, shard, engine, name.as_deref(), progress);
        let is_newest = newest(storage)? == name;
        match loaded {
            // What was read first is not what was there last.
            Err(_) if !is_newest && attempt < ATTEMPTS => attempt += 1,
            Ok(source) if !is_newest && attempt < ATTEMPTS && has_gap(&source) => attempt += 1,
            loaded => return loaded,
        }
    }
}

fn newest(storage: &dyn Storage) -> Result<Option<String>, Finding> {
    newest_checkpoint(storage).map_err(|error| Finding {
        file: storage.path("snapshot-*"),
        offset: None,
        what: error.to_string(),
    })
}

fn try_load(
    storage: &dyn Storage,
    shard: ShardId,
    engine: &EngineConfig,
    name: Option<&str>,
    progress: Progress<'_>,
) -> Result<Source, Finding> {
    // The log first: its files are mapped, and stay.
    let log = Records::read(storage, shard, &mut |at| {
        progress("reading the log", at.bytes_done, at.bytes_total);
    });
    let log = log.map_err(|error| of_log(&error, storage))?;
    let mut loading = |done, total| progress("loading the snapshot", done, total);
    let load = |name| load_checkpoint(storage, name, engine, &mut loading);
    let checkpoint = name.map(load).transpose().map_err(of_snapshot)?;
    Ok(Source { checkpoint, log })
}

/// The log begins later than right after the snapshot.
fn has_gap(source: &Source) -> bool {
    let index = source.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.index);
    let mut behind = source.log.all().range(index + 1..).map(|(index, _)| *index);
    behind.next().map_or(source.log.committed() > index, |first| first > index + 1)
}

fn of_log(error: &log::Error, storage: &dyn Storage) -> Finding {
    let what = error.to_string();
    let directory = || storage.path("segment-*.log");
    let (file, offset) = match error {
        log::Error::Corrupt { file, offset, .. } | log::Error::Gap { file, offset, .. } => {
            (file.clone(), Some(*offset))
        }
        log::Error::Foreign { file } | log::Error::MissingSegment { file } => (file.clone(), None),
        _ => (directory(), None),
    };
    Finding { file, offset, what }
}

fn of_snapshot(error: Error) -> Finding {
    match error {
        Error::DamagedSnapshot { file, offset, what } => {
            Finding { file, offset: Some(offset), what }
        }
        Error::Io { file, source } if source.kind() == ErrorKind::NotFound => {
            let what = "it was removed meanwhile, again and again".to_owned();
            Finding { file, offset: None, what }
        }
        Error::Io { file, source } => Finding { file, offset: None, what: source.to_string() },
        error => Finding { file: "the snapshot".to_owned(), offset: None, what: error.to_string() },
    }
}
