//! What a node has left in its directory, for whoever looks at it from outside: an audit, a restore.
//!
//! Nothing is written, so a node may run on the directory meanwhile. It removes a snapshot when it has a newer one:
//! then loading says that the file is not there, and whoever wants it looks for the newest again.

use std::io;

use super::error::Error;
use super::identity::Identity;
use super::snapshot::{self, Loaded};
use crate::engine::{EngineConfig, StockState};
use crate::events::Position;
use crate::log::Storage;

/// Whose a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The cluster; 0: none yet.
    pub cluster_id: u64,
    /// The node in it.
    pub node_id: u64,
    /// The rules under which everything in it was decided. The hash seed is not that of the node.
    pub engine: EngineConfig,
}

/// Reads the identity of a directory; `None`: no node has ever started there.
///
/// # Errors
/// The file is damaged, or cannot be read.
pub fn owner_of(storage: &dyn Storage) -> Result<Option<Owner>, Error> {
    let identity = Identity::read(storage)?;
    Ok(identity.map(|Identity { cluster_id, node_id, rules, .. }| {
        let engine = EngineConfig {
            grace_ms: rules.grace_ms,
            retention_ms: rules.retention_ms,
            max_life_ms: rules.max_life_ms,
            sample_refusals: rules.sample_refusals,
            ..EngineConfig::default()
        };
        Owner { cluster_id, node_id, engine }
    }))
}

/// A state and its place in the log and among the events.
pub struct Checkpoint {
    /// The path of the snapshot's file.
    pub file: String,
    /// The last log entry in it; 0: none.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// After the last event in it. The chain is zero if the node kept no events.
    pub events: Position,
    /// The state.
    pub stock: StockState,
}

/// The name of the newest snapshot; `None`: there is none.
///
/// # Errors
/// What the operating system says.
pub fn newest_checkpoint(storage: &dyn Storage) -> io::Result<Option<String>> {
    Ok(snapshot::find_newest(storage)?.map(|newest| newest.name))
}

/// Loads a snapshot, which checks every reference and every sum in it. `progress` is told the bytes read, and all.
///
/// # Errors
/// [`Error::DamagedSnapshot`], and what the operating system says.
pub fn load_checkpoint(
    storage: &dyn Storage,
    name: &str,
    engine: &EngineConfig,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Checkpoint, Error> {
    let Loaded { meta, events, stock } = snapshot::load(storage, name, engine, progress)?;
    let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    Ok(Checkpoint { file: storage.path(name), index, term, events, stock })
}
