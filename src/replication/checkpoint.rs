//! What a node has left in its directory, for whoever looks at it from outside: an audit, a restore. And a directory
//! for a node that begins with a state: [`found`].
//!
//! But for that, nothing is written, so a node may run on the directory meanwhile. It removes a snapshot when it has a newer one:
//! then loading says that the file is not there, and whoever wants it looks for the newest again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::api::NodeInfo;
use super::error::Error;
use super::identity::{Identity, Rules};
use super::snapshot::{self, Loaded};
use super::types::{MemberNode, Members, RaftLogId, SnapshotMeta, StoredMembership};
use crate::engine::{EngineConfig, StockState};
use crate::events::Position;
use crate::log::Storage;
use crate::world::World;

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

/// A snapshot's last log entry, and its place among the events, without its state.
///
/// # Errors
/// The file's head is damaged, or it cannot be read.
pub fn peek_checkpoint(storage: &dyn Storage, name: &str) -> Result<(u64, Position), Error> {
    let (meta, events) = snapshot::peek(storage, name)?;
    Ok((meta.last_log_id.map_or(0, |id| id.index), events))
}

/// Who begins a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Founder {
    /// The node.
    pub node_id: u64,
    /// The rules of the cluster, for ever.
    pub engine: EngineConfig,
}

/// Makes an empty directory that of a node which is a cluster of its own and begins with a state: as after the log
/// entry `index` and the events before `events`. Gives the new cluster's id.
///
/// The entry is of term 0, which no leader ever has, so whatever comes is later. The node tells the others where it is
/// when it is started.
///
/// # Errors
/// What the operating system says; without `identity`, which comes last, the directory is worth nothing.
pub fn found(
    storage: &dyn Storage,
    world: &World,
    Founder { node_id, engine }: Founder,
    (index, events): (u64, Position),
    stock: &mut StockState,
    progress: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let incarnation = world.random.next_u64().max(1);
    let nowhere = String::new;
    let info = NodeInfo { id: node_id, client_address: nowhere(), peer_address: nowhere() };
    let nodes = BTreeMap::from([(node_id, MemberNode { info, incarnation })]);
    let members = Members::new(vec![BTreeSet::from([node_id])], nodes);
    let members = members.map_err(|error| io::Error::other(error.to_string()))?;
    let last = Some(RaftLogId::new_term_index(0, index));
    let last_membership = StoredMembership::new(last, members);
    let meta = SnapshotMeta { last_log_id: last, last_membership };
    snapshot::write_still(storage, (&meta, events), stock, progress)?;
    let cluster_id = world.random.next_u64().max(1);
    let identity = Identity { cluster_id, node_id, incarnation, rules: Rules::of(&engine) };
    identity.save(storage)?;
    Ok(cluster_id)
}
