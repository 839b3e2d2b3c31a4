//! What a node has on its disk of a cluster's history, for a backup beside it.
//!
//! ```text
//!   snapshot S ─▶ log: entries … ─▶ at least to entry I ─▶ …
//!   events …  ───────────────────▶ at least to those of entry I: position P, as a mark says
//! ```
//!
//! The snapshot is looked at first, then everything is brought to disk up to the entry that is applied, then the files
//! are listed. So whatever a node adds or removes meanwhile, the log goes on from the snapshot up to `index`, and the
//! events are those of all entries up to there.

use std::io;
use std::sync::Arc;

use super::Replica;
use super::log_store::LogStore;
use super::snapshot;
use crate::events::{self, Position};
use crate::log::{DurableFile, File};
use crate::world::UnixMicros;

/// A snapshot is replaced minutes apart: one that was, while files were listed, is not replaced again and again.
const ATTEMPTS: u32 = 4;

/// See the module.
pub struct History {
    /// The cluster.
    pub cluster_id: u64,
    /// The node in it.
    pub node_id: u64,
    /// Drawn when the node's directory was made.
    pub incarnation: u64,
    /// Grace, retention and longest life, in ms, and of how many refusals one is told.
    pub rules: [u64; 4],
    /// The last entry that all files reach.
    pub index: u64,
    /// The log's time after it.
    pub now: UnixMicros,
    /// After its last event; `None`: the node keeps none.
    pub events: Option<Position>,
    /// The snapshot if there is one, the log, the events.
    pub files: Vec<DurableFile>,
}

impl Replica {
    /// Brings everything to disk that is applied, and lists the files. Reads the disk: not for a task of the node.
    ///
    /// # Errors
    /// The disk says no.
    pub async fn history(&self) -> io::Result<History> {
        let mut attempt = 1;
        loop {
            let snapshot = self.newest_snapshot();
            let history = self.history_after(snapshot.clone()).await?;
            if self.newest_snapshot() == snapshot || attempt == ATTEMPTS {
                return Ok(history);
            }
            attempt += 1;
        }
    }

    /// Opens one of the files for reading. What was opened can be read to its end, also when the node removes it.
    ///
    /// # Errors
    /// `NotFound`: it is gone, or is no file of a history. What else the operating system says.
    pub fn open_history(&self, name: &str) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.core.log.open_file(name)? {
            return Ok(file);
        }
        match snapshot::is_whole(name) || events::first_of(name).is_some() {
            true => self.core.storage.open(name),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn newest_snapshot(&self) -> Option<DurableFile> {
        let snapshot = self.core.shared.newest_snapshot()?;
        Some(DurableFile { name: snapshot.name, bytes: snapshot.bytes, is_sealed: true })
    }

    async fn history_after(&self, snapshot: Option<DurableFile>) -> io::Result<History> {
        let core = &self.core;
        let (index, now, next_event, mark) = {
            let applied = core.shared.lock();
            let mark = core.shared.events.as_ref().map(|events| events.mark());
            let (index, stock) = (applied.last.map_or(0, |last| last.index), &applied.stock);
            (index, stock.now(), stock.next_event(), mark)
        };
        LogStore::new(core.log.shard(core.shard)).sync().await?;
        let position = match mark {
            Some(mark) => Some(mark.await?),
            None => None,
        };
        if position.is_some_and(|position| position.next != next_event) {
            let why = "a snapshot is being installed; ask again";
            return Err(io::Error::new(io::ErrorKind::Interrupted, why));
        }
        let log = core.log.files().map_err(io::Error::other)?;
        let events = core.shared.events.as_ref().map(|events| events.files()).unwrap_or_default();
        let identity = *core.identity.lock().expect("no holder panics");
        Ok(History {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            incarnation: identity.incarnation,
            rules: identity.rules.words(),
            index,
            now,
            events: position,
            files: snapshot.into_iter().chain(log).chain(events).collect(),
        })
    }
}
