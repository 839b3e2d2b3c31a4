//! The words that replication and the floors above it share. No openraft type is among them.

use std::fmt;
use std::sync::Arc;

use super::lanes::Source;
use super::reconcile::ReconcileStatus;
use crate::archive::ArchiveStats;
use crate::engine::{Stats, StockState};
use crate::events::EventStats;
use crate::protocol::{Code, ReplyPrefix, ShardId};
use crate::world::UnixMicros;

/// A node of the cluster, as its peers and clients reach it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeInfo {
    /// Its id, chosen by the operator, unique in the cluster.
    pub id: u64,
    /// Where it serves clients, `host:port`.
    pub client_address: String,
    /// Where it serves its peers, `host:port`.
    pub peer_address: String,
}

/// What a node is in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Asks to be elected.
    Candidate,
    /// Votes and follows.
    Follower,
    /// Orders the log.
    Leader,
    /// Follows without a vote.
    Learner,
}

impl Role {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Follower => "follower",
            Self::Leader => "leader",
            Self::Learner => "learner",
        }
    }
}

/// Who leads, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leadership {
    /// This node's part.
    pub role: Role,
    /// The leader, if known.
    pub leader: Option<NodeInfo>,
    /// The term of this node's vote.
    pub term: u64,
}

/// What connects an answer with its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestTag {
    /// As the client chose it.
    pub request_id: u64,
    /// The request came as a batch frame.
    pub batch: bool,
    /// How many operations, so how many outcomes.
    pub ops: u32,
}

/// A whole request is refused. Unless the code is `OUTCOME_UNKNOWN`, nothing of it was executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// How long to wait before sending it again; 0: at once.
    pub retry_after_ms: u32,
    /// The leader's client address with `NOT_LEADER`, if known.
    pub leader: Option<String>,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal with the code's own advice as its message.
    pub fn new(code: Code, retry_after_ms: u32) -> Self {
        Self { code, retry_after_ms, leader: None, message: code.advice().to_owned() }
    }

    /// `NOT_LEADER` with the leader's client address if it is known.
    pub fn not_leader(leader: Option<&NodeInfo>) -> Self {
        let leader = leader.map(|node| node.client_address.clone());
        // Without a leader there is nowhere to go: an election takes about a second.
        let retry_after_ms = if leader.is_some() { 0 } else { 50 };
        Self { leader, ..Self::new(Code::NOT_LEADER, retry_after_ms) }
    }

    /// `BUSY` because of the limit that `message` names.
    pub fn busy(retry_after_ms: u32, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::new(Code::BUSY, retry_after_ms) }
    }
}

/// Where answers go. Both methods are called on the runtime's thread, between entries: they only
/// append to an outbox and wake its writer.
pub trait ReplyTo: Send + Sync {
    /// The request took its place in the log at `prefix.index`; `outcomes` holds one outcome for
    /// each of its operations, in order.
    fn reply(&self, tag: RequestTag, shard: ShardId, prefix: ReplyPrefix, outcomes: &[u8]);

    /// The whole request is refused.
    fn refuse(&self, tag: RequestTag, refusal: &Refusal);

    /// Whose requests these are: all of a connection's share one. It knows the principal of their
    /// operations.
    fn source(&self) -> &Source;
}

/// The present state of this node is as fresh as a linearizable read needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPoint {
    /// The highest applied log index.
    pub index: u64,
    /// The cluster's clock.
    pub now: UnixMicros,
}

/// How old this node's state may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StalePoint {
    /// The highest applied log index.
    pub index: u64,
    /// The cluster's clock as this node knows it.
    pub now: UnixMicros,
    /// An upper bound of the state's age; `u32::MAX`: unknown, no leader was heard since the start.
    pub age_ms: u32,
}

/// One node in a [`Status`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Who.
    pub node: NodeInfo,
    /// It has a vote.
    pub voter: bool,
    /// It leads.
    pub is_leader: bool,
    /// The highest index known to be on its disk; only the leader knows.
    pub matched_index: Option<u64>,
}

/// Everything there is to say about a node.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// Its cluster; 0 until it has joined one.
    pub cluster_id: u64,
    /// Who leads.
    pub leadership: Leadership,
    /// The newest log index on this node.
    pub last_index: u64,
    /// The newest index known to be committed.
    pub committed_index: u64,
    /// The newest applied index.
    pub applied_index: u64,
    /// The newest snapshot's index; 0: none.
    pub snapshot_index: u64,
    /// The newest index that is gone from the log.
    pub purged_index: u64,
    /// All nodes, by id.
    pub members: Vec<Member>,
    /// Bytes of the log's segments on disk.
    pub log_bytes: u64,
    /// Segments of the log on disk.
    pub log_segments: u64,
    /// Purged segments that are kept for backups, and their bytes.
    pub log_kept: (u64, u64),
    /// Syncs of the log since the start.
    pub log_syncs: u64,
    /// No space for new writes.
    pub disk_full: bool,
    /// Largest difference between this node's wall clock and a peer's, in milliseconds.
    pub clock_skew_ms: u64,
    /// The engine's figures.
    pub stock: Stats,
    /// What was forgotten and is still answered for.
    pub archive: ArchiveStats,
    /// The event log; `None`: this node keeps none.
    pub events: Option<EventStats>,
    /// Is the state what the log makes of it?
    pub reconcile: ReconcileStatus,
    /// Operations that wait for their batch.
    pub ingress_ops: u64,
    /// Entries proposed and operations in them since the start.
    pub proposed: (u64, u64),
    /// A snapshot that is being sent or received: what, bytes done, bytes in all (0: unknown).
    pub snapshot_transfer: Option<(String, u64, u64)>,
}

/// A change of the cluster did not happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminError {
    /// Ask the leader.
    NotLeader {
        /// If known.
        leader: Option<NodeInfo>,
    },
    /// No node has this id.
    UnknownNode(u64),
    /// The last voter cannot be removed, and a lone leader has nobody to hand over to.
    LastVoter,
    /// Another change is under way.
    InProgress,
    /// It did not happen in time; it may still.
    Timeout(&'static str),
    /// The disk or the node failed; the text is from there.
    Failed(String),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(node) } => write!(
                f,
                "this node does not lead; ask node {} (clients reach it at {})",
                node.id, node.client_address
            ),
            Self::NotLeader { leader: None } => {
                f.write_str("this node does not lead and knows no leader; try again in a second")
            }
            Self::UnknownNode(id) => write!(f, "no node has id {id}; `members` lists them"),
            Self::LastVoter => f.write_str("there is no other voter"),
            Self::InProgress => {
                f.write_str("another change is under way; try again when it is done")
            }
            Self::Timeout(what) => write!(f, "{what} is not done yet; `status` shows the progress"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for AdminError {}

/// Why a node must stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// It was asked to.
    Shutdown,
    /// Going on would be unsafe; the text names file, offset and what to do.
    Fatal(String),
}

/// Watches the state of a node from inside, under the lock that apply takes: for simulations, which
/// check every state that a node is in.
pub trait Observer: Send + Sync {
    /// The entry at `index` has been applied; `batch` is `None` for Raft's own entries, which leave
    /// the stock as it was.
    fn applied(&self, index: u64, batch: Option<&[u8]>, stock: &StockState);

    /// The state was taken from a snapshot that covers the log up to `index`.
    fn restored(&self, index: u64, stock: &StockState);
}

/// How a node finds its cluster when its data directory is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bootstrap {
    /// Ask these peer addresses to be taken in.
    Join(Vec<String>),
    /// Be a cluster of one.
    Single,
}

/// Keeps a [`Leadership`] that readers clone cheaply.
pub(super) type SharedLeadership = std::sync::RwLock<Arc<Leadership>>;
