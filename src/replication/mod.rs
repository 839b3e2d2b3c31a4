//! Replication: one ordered log of batches on a majority of nodes, through Raft.
//!
//! ```text
//! sessions ─▶ Ingress ─▶ proposer ─▶ openraft ─▶ LogStore ─▶ log (fsync) ─┐
//!                                        │                                ├─▶ commit ─▶ StateMachine
//!                                        └─▶ Network ─▶ peers (fsync) ────┘        apply, answers
//! ```
//!
//! This is the only floor that names openraft; no openraft type leaves it. A [`Replica`] is a
//! running node. One Raft entry is one *batch*, opaque bytes stamped with the leader's clock.
//!
//! Invariants:
//! - a success is answered after its entry is on the disks of a majority, and applied here;
//! - a linearizable read is answered after a round in which a majority said that this node leads;
//! - batches are stamped by one clock per leader, strictly later than everything before;
//! - a node that has lost its disk never answers under its old name: it is removed and taken in
//!   anew (`Core::take_in`);
//! - whatever waits is bounded: operations in `ingress`, requests per link, reads in `reads`.
//!
//! openraft settings that matter, with reasons, are in `raft_config`.
//!
//! Left out on purpose: several shards (the [`ShardId`] is in every message and record), and
//! followers that serve linearizable reads.

mod api;
mod checkpoint;
mod clock;
mod core;
mod error;
mod freshness;
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod identity;
mod ingress;
mod lanes;
mod leader_loss;
mod leave;
mod link;
mod log_store;
mod message;
mod network;
mod old_ids;
mod peer_frame;
mod peer_hello;
mod peer_server;
mod proposer;
mod reads;
mod reconcile;
mod runtime;
mod snapshot;
mod state_machine;
mod steward;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Config, Raft, SnapshotPolicy};

pub use api::{
    AdminError, Bootstrap, Leadership, Member, NodeInfo, Observer, ReadPoint, Refusal, ReplyTo,
    RequestTag, Role, StalePoint, Status, StopReason,
};
pub use checkpoint::{
    Checkpoint, Founder, Owner, found, load_checkpoint, newest_checkpoint, owner_of,
    peek_checkpoint,
};
pub use error::Error;
pub use history::History;
pub use ingress::IngressGuard;
pub use lanes::Source;
pub use reconcile::{Alarm, ReconcileStatus};
pub use types::batch_of;

use self::core::Core;
use crate::archive::{Archive, ArchiveOptions};
use crate::engine::{CellReader, EngineConfig, StockState};
use crate::events::{EventLog, EventOptions};
use crate::log::{Log, LogOptions, Storage};
use crate::protocol::{Op, ReservationId, ShardId};
use crate::world::net::{TcpListener, TcpStream};
use crate::world::{UnixMicros, World};
use identity::{Identity, Rules};
use log_store::LogStore;
use network::Network;
use old_ids::OldIds;
use reconcile::Reconciler;
use state_machine::{EventsOf, StateMachine};

/// How fast a cluster notices things.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Between two heartbeats of a leader. At least three times the worst round trip plus the worst
    /// sync: a follower answers a heartbeat when its disk has caught up.
    pub heartbeat: Duration,
    /// A follower that hears nothing for the leader's lease and a random time between this…
    pub election_min: Duration,
    /// … and this asks to be elected. Also the leader's lease: keep it above the worst sync. A
    /// leader whose process is gone is replaced sooner, see `leader_loss`.
    pub election_max: Duration,
    /// How long a membership change or a hand-over may take.
    pub admin_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            admin_timeout: Duration::from_secs(10),
        }
    }
}

/// How a node replicates.
#[derive(Clone)]
pub struct ReplicaOptions {
    /// This node, with the addresses that others use.
    pub node: NodeInfo,
    /// Where to listen for peers, `host:port`.
    pub peer_listen: String,
    /// What to do when the data directory is empty.
    pub bootstrap: Bootstrap,
    /// The engine's settings; equal on all nodes but for the seed.
    pub engine: EngineConfig,
    /// The log's settings. The fatal hook is replaced.
    pub log: LogOptions,
    /// How fast the cluster notices things.
    pub timing: Timing,
    /// Most records of reservations and operations in memory; more reserves are BUSY.
    pub reservations_max: u64,
    /// Log bytes after which a new snapshot is taken.
    pub snapshot_log_bytes: u64,
    /// A follower that is more entries behind the newest snapshot gets a snapshot instead of them.
    pub follower_lag_max: u64,
    /// Reads rely on the leader's lease instead of asking a majority. Safe only if no node's clock
    /// runs slower than another's by more than the margin between lease and election: a slow clock
    /// on a cut-off leader serves stale reads.
    pub lease_reads: bool,
    /// The node takes no new writes.
    pub draining: Arc<AtomicBool>,
    /// What becomes of what is forgotten; `None`: it is gone.
    pub archive: Option<ArchiveOptions>,
    /// How the events are kept; `None`: they are not.
    pub events: Option<EventOptions>,
    /// How often the state is compared with what the log makes; `None`: never.
    pub reconcile: Option<Duration>,
    /// Told what an operator may want to know, a line at a time.
    pub notice: Arc<dyn Fn(&str) + Send + Sync>,
    /// Shown every state of the engine.
    pub observer: Option<Arc<dyn Observer>>,
}

/// A node this many entries behind the leader is sent them in a fraction of the lease.
const HAND_OVER_LAG_MAX: u64 = 1024;

/// What a start is busy with: a label, done, in all.
pub type Progress<'a> = &'a mut (dyn FnMut(&str, u64, u64) + Send);

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    core: Arc<Core>,
}

/// openraft's settings.
///
/// - `enable_leader_restore` off: after a power cut a leader that comes back as leader of its old
///   term may reuse log ids that its followers hold with other content (found by simulation).
/// - `snapshot_policy` never and `max_in_snapshot_log_to_keep` unlimited: the steward decides by
///   bytes, and purges with regard to followers.
/// - `enable_pre_vote`: a node that was cut off does not unseat a working leader.
/// - `quorum_loss_probe_interval`: the cure for the five-voter partial partition.
fn raft_config(timing: &Timing) -> Result<Config, Error> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: "stockd".into(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        max_payload_entries: 256,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        // `Core::may_stand` decides.
        enable_elect: false,
        quorum_loss_probe_interval: Some(2 * millis(timing.election_max)),
        backoff: "50ms 100ms 200ms".into(),
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Raft(error.to_string()))
}

impl Replica {
    /// Opens the data directory, recovers, listens for peers and takes part in the cluster.
    ///
    /// Must be called in a tokio runtime; the node's tasks run there.
    ///
    /// # Errors
    /// See [`Error`]; nothing goes on running.
    pub async fn start(
        options: ReplicaOptions,
        storage: Arc<dyn Storage>,
        world: World,
        progress: Progress<'_>,
    ) -> Result<Self, Error> {
        // Segments that are kept for backups are the first to go when the disk is full.
        let storage = crate::log::yielding(storage);
        let listener = TcpListener::bind(&options.peer_listen).await;
        let listener = listener
            .map_err(|source| Error::Listen { address: options.peer_listen.clone(), source })?;
        let rules = Rules::of(&options.engine);
        let identity = Identity::load_or_make(storage.as_ref(), &world, options.node.id, rules)?;
        let (fatal, failed) = tokio::sync::watch::channel(None);
        let mut log_options = options.log.clone();
        log_options.on_fatal = Arc::new(move |error| {
            fatal.send_replace(Some(error.to_string()));
        });
        let log = Log::open(storage.clone(), &world, log_options, &mut |at| {
            progress("reading the log", at.bytes_done, at.bytes_total);
        })?;
        let archive = options
            .archive
            .map(|archive| {
                let notice = options.notice.clone();
                Archive::open(storage.clone(), &world, archive, notice).map(Arc::new)
            })
            .transpose()
            .map_err(Error::Archive)?;
        let events = options.events.map(|events| EventsOf {
            options: events,
            shard: ShardId(0),
            notice: options.notice.clone(),
        });
        let reconciler = options.reconcile.map_or_else(Reconciler::default, |_| {
            Reconciler::of(options.node.id, log.clone(), options.snapshot_log_bytes)
        });
        let (machine, shared) = StateMachine::open(
            storage.clone(),
            options.engine,
            world.clone(),
            LogStore::new(log.shard(ShardId(0))),
            (archive, events, reconciler),
            options.observer.clone(),
            &mut |done, total| progress("loading the snapshot", done, total),
        )?;
        let empty = log.shard(ShardId(0)).state().last.is_none() && shared.snapshot_index() == 0;
        if empty && identity.cluster_id != 0 && options.bootstrap == Bootstrap::Single {
            return Err(Error::LostLog { file: storage.path("identity") });
        }
        let joining = empty && matches!(options.bootstrap, Bootstrap::Join(_));
        let old_ids = OldIds::start(&world, &shared).map_err(Error::Archive)?;
        let core =
            Core::new(world, storage, options, log.clone(), (shared, old_ids), identity, joining);
        let compare = Box::pin(reconcile::serve(core.clone()));
        core.world.threads.spawn("reconcile", compare).map_err(Error::Archive)?;
        start_raft(&core, machine, empty).await?;
        core.start_tasks(listener, failed);
        Ok(Self { core })
    }

    /// Who leads.
    pub fn leadership(&self) -> Arc<Leadership> {
        self.core.leadership()
    }

    /// Locks the queue of writes for one burst; dropping the guard wakes the proposer.
    pub fn ingress(&self) -> IngressGuard<'_> {
        self.core.ingress.guard()
    }

    /// Reserves must be refused with BUSY: the records in memory have reached their limit. Other
    /// operations go on, and free records.
    pub fn records_full(&self) -> bool {
        self.core.records_full.load(Ordering::Relaxed)
    }

    /// Stock writes must be refused with BUSY: they have three quarters of the records, so that a file that is
    /// loaded leaves room for sales.
    pub fn records_tight(&self) -> bool {
        self.core.records_tight.load(Ordering::Relaxed)
    }

    /// Waits until a read of this node's present state is linearizable. All who wait share a round.
    ///
    /// # Errors
    /// `NOT_LEADER`, `NO_QUORUM`, `BUSY`.
    pub async fn read_barrier(&self) -> Result<ReadPoint, Refusal> {
        reads::barrier(&self.core).await
    }

    /// How old a stale read of this node may be.
    pub fn stale_point(&self) -> StalePoint {
        self.core.stale_point()
    }

    /// The cells, readable without a lock.
    pub fn cells(&self) -> &CellReader {
        &self.core.shared.cells
    }

    /// The event log, if this node keeps one.
    pub fn events(&self) -> Option<&Arc<EventLog>> {
        self.core.shared.events.as_ref()
    }

    /// May the archive know more of what was read and not found?
    pub fn is_for_archive(&self, read: &Op<'_>) -> bool {
        let is_old =
            |id: ReservationId| id.born().is_some() && !self.cells().accepts_id(&id, self.now());
        self.core.shared.archive.is_some() && old_ids::id_read(read).is_some_and(is_old)
    }

    /// Gives `done` the outcomes of `count` reads with what the archive knows of those that were not found.
    pub fn read_archived(
        &self,
        (ops, count): (Bytes, u32),
        outcomes: Bytes,
        done: impl FnOnce(&[u8]) + Send + 'static,
    ) {
        self.core.old_ids.fill_in(ops, count, outcomes, done);
    }

    /// Looks at the state under the lock that apply takes: keep it short.
    pub fn with_state<R>(&self, look: impl FnOnce(&StockState) -> R) -> R {
        look(&self.core.shared.lock().stock)
    }

    /// The cluster's clock as this node sees it.
    pub fn now(&self) -> UnixMicros {
        self.core.now()
    }

    /// The cluster, 0 while this node belongs to none, and this node in it.
    pub fn identity(&self) -> (u64, u64) {
        (self.core.hello().cluster_id, self.core.me())
    }

    /// Everything there is to say about this node.
    pub fn status(&self) -> Status {
        let core = &self.core;
        let metrics = core.raft().metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        // While the members change, a node counts for certain if it votes before and after.
        let votes = |id: &u64| members.get_joint_config().iter().all(|half| half.contains(id));
        let matched = |id: &u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(id)?.as_ref().map(|id: &types::RaftLogId| id.index)
        };
        let member = |(id, node): (&u64, &types::MemberNode)| Member {
            node: node.info.clone(),
            voter: votes(id),
            is_leader: metrics.current_leader == Some(*id),
            matched_index: matched(id),
        };
        let index = |id: Option<types::RaftLogId>| id.map_or(0, |id| id.index);
        let (stock, applied) = {
            let applied = core.shared.lock();
            (applied.stock.stats(), index(applied.last))
        };
        let (ingress_ops, _) = core.ingress.depth();
        let proposed = &core.proposed;
        let log = core.log.stats();
        Status {
            node_id: core.me(),
            cluster_id: core.hello().cluster_id,
            leadership: core.leadership().as_ref().clone(),
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(metrics.local_committed),
            applied_index: applied,
            snapshot_index: core.shared.snapshot_index(),
            purged_index: index(metrics.purged),
            members: members.nodes().map(member).collect(),
            log_bytes: log.bytes_on_disk,
            log_segments: log.segments,
            log_kept: log.kept,
            log_syncs: log.syncs,
            disk_full: core.is_full(),
            clock_skew_ms: core.skew().as_millis() as u64,
            stock,
            archive: core.shared.archive.as_ref().map(|a| a.stats()).unwrap_or_default(),
            events: core.shared.events.as_ref().map(|events| events.stats()),
            reconcile: core.shared.reconciler.status(),
            ingress_ops,
            proposed: (
                proposed.entries.load(Ordering::Relaxed),
                proposed.ops.load(Ordering::Relaxed),
            ),
            snapshot_transfer: core.transfer.lock().expect("no holder panics").clone(),
        }
    }

    /// Takes a node into the cluster; it becomes a voter when it has caught up.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn add_node(&self, node: NodeInfo) -> Result<(), AdminError> {
        let known = self.core.members().get_node(&node.id).map(|node| node.incarnation);
        let incarnation = known.unwrap_or(0);
        self.core.take_in(types::MemberNode { info: node, incarnation }).await
    }

    /// Removes a node for good. A leader hands over first, and its successor removes it.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn remove_node(&self, id: u64) -> Result<(), AdminError> {
        let core = &self.core;
        core.must_lead()?;
        if id != core.me() {
            return core.remove(id).await;
        }
        let leader = self.transfer_leader(None).await?;
        leave::ask(core, leader).await
    }

    /// Hands leadership to `to`, or to the voter that is furthest; returns who leads now.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, AdminError> {
        let core = &self.core;
        core.must_lead()?;
        let to = match to {
            Some(to) => to,
            None => self.best_successor().ok_or(AdminError::LastVoter)?,
        };
        if !core.members().voter_ids().any(|id| id == to) {
            return Err(AdminError::UnknownNode(to));
        }
        if to == core.me() {
            return Ok(to);
        }
        self.must_be_ready(to).await?;
        let trigger = core.raft().trigger().transfer_leader(to).await;
        trigger.map_err(|error| AdminError::Failed(error.to_string()))?;
        let mut metrics = core.raft().server_metrics();
        let handed_over = async {
            loop {
                let leader = metrics.borrow_watched().current_leader;
                match leader {
                    Some(leader) if leader != core.me() => return leader,
                    _ if metrics.changed().await.is_err() => return 0,
                    _ => (),
                }
            }
        };
        let limit = core.timing().election_max * 2;
        let result = tokio::time::timeout(limit, handed_over).await;
        result.map_err(|_| AdminError::Timeout("the hand-over"))
    }

    /// A hand-over cannot be taken back: a leader that waits for a node which is gone or far behind
    /// takes no writes until somebody is elected.
    async fn must_be_ready(&self, to: u64) -> Result<(), AdminError> {
        let status = self.status();
        let member = status.members.iter().find(|member| member.node.id == to);
        let member = member.ok_or(AdminError::UnknownNode(to))?;
        let behind = status.last_index.saturating_sub(member.matched_index.unwrap_or(0));
        if behind > HAND_OVER_LAG_MAX {
            return Err(AdminError::Failed(format!(
                "node {to} is {behind} entries behind; hand over when it has caught up"
            )));
        }
        let reached = TcpStream::connect(&member.node.peer_address);
        match tokio::time::timeout(self.core.timing().election_max, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(AdminError::Failed(format!(
                "node {to} does not answer at {}; `members` lists the others",
                member.node.peer_address
            ))),
        }
    }

    /// The voter that is furthest, of those whose states are right if there are any.
    fn best_successor(&self) -> Option<u64> {
        let status = self.status();
        let others = status.members.iter().filter(|member| member.voter);
        let others = others.filter(|member| member.node.id != status.node_id);
        let is_right = |member: &Member| self.core.shared.reconciler.is_right(member.node.id);
        let best = others.max_by_key(|member| (is_right(member), member.matched_index));
        best.map(|member| member.node.id)
    }

    /// Compares the states of all nodes now, and not only when it is time.
    ///
    /// # Errors
    /// This node does not lead, or was told not to compare.
    pub fn reconcile(&self) -> Result<(), AdminError> {
        let core = &self.core;
        core.must_lead()?;
        if !core.shared.reconciler.is_on() {
            let why = "this node compares nothing: start it without --reconcile 0s";
            return Err(AdminError::Failed(why.to_owned()));
        }
        core.ask_checkpoint();
        Ok(())
    }

    /// A fault in memory, of which the log knows nothing.
    #[cfg(test)]
    pub(crate) fn plant_fault(&self, cell: crate::protocol::CellHandle, units: i64) {
        self.core.shared.lock().stock.plant_fault(cell, units);
    }

    /// Takes a snapshot now and waits for it; returns its index.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn snapshot(&self) -> Result<u64, AdminError> {
        let core = &self.core;
        let wanted = core.shared.lock().last.map_or(0, |id| id.index);
        let failed = |error: openraft::errors::Fatal<types::TypeConfig>| {
            AdminError::Failed(error.to_string())
        };
        core.raft().trigger().snapshot().await.map_err(failed)?;
        let deadline = tokio::time::Instant::now() + core.timing().admin_timeout;
        while core.shared.snapshot_index() < wanted {
            if core.shared.reconciler.is_diverged() {
                let why =
                    "this node's state is wrong, and must not become a snapshot; see reconcile";
                return Err(AdminError::Failed(why.to_owned()));
            }
            if tokio::time::Instant::now() > deadline {
                return Err(AdminError::Timeout("the snapshot, or its comparison with the log,"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(core.shared.snapshot_index())
    }

    /// Stops taking writes, or takes them again; a leader hands over before it stops.
    ///
    /// # Errors
    /// See [`AdminError`]; the node is drained all the same.
    pub async fn set_draining(&self, draining: bool) -> Result<(), AdminError> {
        self.core.options.draining.store(draining, Ordering::Relaxed);
        if draining && self.core.is_leader() && self.best_successor().is_some() {
            self.transfer_leader(None).await?;
        }
        Ok(())
    }

    /// Hands leadership over, lets what is in flight be answered, stops, and closes the log.
    pub async fn shutdown(&self) {
        let core = &self.core;
        if let Err(error) = self.set_draining(true).await {
            core.note(format_args!("leadership was not handed over: {error}"));
        }
        // The proposer's window bounds what is in flight; its answers are a few syncs away.
        for _ in 0..200 {
            if core.ingress.depth() == (0, 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        core.stop(StopReason::Shutdown);
        if let Err(error) = core.raft().shutdown().await {
            core.note(format_args!("Raft did not stop cleanly: {error}"));
        }
        core.log.close().await;
    }

    /// Resolves when the node must stop, with the reason.
    pub async fn stopped(&self) -> StopReason {
        self.core.stop_reason().await
    }
}

async fn start_raft(core: &Arc<Core>, machine: StateMachine, empty: bool) -> Result<(), Error> {
    let network = Network {
        context: core.links(),
        shard: core.shard,
        storage: core.storage.clone(),
        transfer: core.transfer.clone(),
        witness: core.witness.clone(),
        control: BTreeMap::new(),
    };
    let config = Arc::new(raft_config(core.timing())?);
    let store = LogStore::new(core.log.shard(core.shard));
    let raft = Raft::new(core.me(), config, network, store, machine).await;
    core.set_raft(raft.map_err(|error| Error::Raft(error.to_string()))?);
    if core.options.bootstrap == Bootstrap::Single && core.hello().cluster_id == 0 {
        // First the membership, then the cluster's id: an id without a log is a log that was lost.
        if empty {
            let nodes = BTreeMap::from([(core.me(), core.member_node())]);
            let made = core.raft().initialize(nodes).await;
            made.map_err(|error| Error::Raft(error.to_string()))?;
        }
        core.set_cluster(core.world.random.next_u64().max(1))
            .map_err(|source| Error::Io { file: core.storage.path("identity"), source })?;
    }
    Ok(())
}

impl Core {
    fn start_tasks(
        self: &Arc<Self>,
        listener: TcpListener,
        mut failed: tokio::sync::watch::Receiver<Option<String>>,
    ) {
        tokio::spawn(peer_server::serve(self.clone(), listener));
        tokio::spawn(proposer::serve(self.clone()));
        tokio::spawn(reads::serve(self.clone()));
        tokio::spawn(steward::watch_leadership(self.clone()));
        tokio::spawn(steward::look_after(self.clone()));
        tokio::spawn(steward::do_chores(self.clone()));
        tokio::spawn(leader_loss::watch(self.clone()));
        tokio::spawn(reconcile::serve_words(self.clone()));
        if let Bootstrap::Join(peers) = &self.options.bootstrap {
            tokio::spawn(steward::join(self.clone(), peers.clone()));
        }
        let core = self.clone();
        tokio::spawn(async move {
            // The sender lives as long as the node: stopping must end this task too.
            let reason = tokio::select! {
                failed = failed.wait_for(Option::is_some) => failed.ok().and_then(|why| why.clone()),
                () = core.stopping() => None,
            };
            if let Some(reason) = reason {
                core.stop(StopReason::Fatal(reason));
            }
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::log::{SimStorage, Survival};
    use crate::protocol::event::{Anchor, Divergence, EventBody, EventKind, EventRecord, Finding};
    use crate::protocol::{CellHandle, CellRef, Line, OpFlags, OpId};
    use crate::world::{Memory, TaskThreads};

    /// Most that a wait may take before its test fails.
    pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
    const ELECTION: Duration = Duration::from_millis(50);

    #[test]
    fn openraft_is_set_for_safety() {
        let config = raft_config(&Timing::default()).expect("the default timing is valid");
        assert_eq!(config.enable_leader_restore, Some(false), "a leader must not come back as one");
        assert_eq!(config.enable_pre_vote, Some(true), "who was cut off must not unseat a leader");
        assert!(!config.enable_elect, "`Core::may_stand` decides");
        assert!(matches!(config.snapshot_policy, SnapshotPolicy::Never), "the steward decides");
        assert_eq!(config.max_in_snapshot_log_to_keep, u64::MAX, "the steward purges");
    }

    fn world() -> World {
        World { threads: Arc::new(TaskThreads), ..World::real() }
    }

    /// A machine without memory to spare.
    struct NoMemory;

    impl Memory for NoMemory {
        fn available(&self) -> Option<u64> {
            Some(0)
        }
    }

    /// Node 1, which founds a cluster if there is none, with elections after [`ELECTION`] at most.
    async fn start(storage: &SimStorage) -> Replica {
        let address = "127.0.0.1:0".to_owned();
        let (often, silent): (_, Notice) = (Some(Duration::from_millis(20)), Arc::new(|_| ()));
        start_in(world(), storage, options((1, address), Bootstrap::Single, (often, silent))).await
    }

    pub(crate) async fn start_as(
        storage: &SimStorage,
        (id, address): (u64, String),
        bootstrap: Bootstrap,
        reconcile: Option<Duration>,
    ) -> Replica {
        // As in a process: threads that have no sockets.
        let silent: Notice = Arc::new(|_| ());
        start_in(World::real(), storage, options((id, address), bootstrap, (reconcile, silent)))
            .await
    }

    type Notice = Arc<dyn Fn(&str) + Send + Sync>;

    fn options(
        (id, address): (u64, String),
        bootstrap: Bootstrap,
        (reconcile, notice): (Option<Duration>, Notice),
    ) -> ReplicaOptions {
        ReplicaOptions {
            node: NodeInfo { id, client_address: address.clone(), peer_address: address.clone() },
            peer_listen: address,
            bootstrap,
            engine: EngineConfig::default(),
            log: LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() },
            timing: Timing {
                heartbeat: Duration::from_millis(10),
                election_min: Duration::from_millis(30),
                election_max: ELECTION,
                admin_timeout: Duration::from_secs(1),
            },
            reservations_max: 1_000,
            snapshot_log_bytes: 1 << 30,
            follower_lag_max: 1_000,
            lease_reads: false,
            archive: Some(ArchiveOptions::default()),
            events: Some(EventOptions::default()),
            reconcile,
            draining: Arc::default(),
            notice,
            observer: None,
        }
    }

    async fn start_in(world: World, storage: &SimStorage, options: ReplicaOptions) -> Replica {
        let storage = Arc::new(storage.clone());
        Replica::start(options, storage, world, &mut |_, _, _| ()).await.expect("it starts")
    }

    pub(crate) async fn leads(replica: &Replica, within: Duration) -> bool {
        let leads = async {
            while replica.leadership().role != Role::Leader {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(within, leads).await.is_ok()
    }

    /// Puts an entry into the log.
    pub(crate) async fn write(
        replica: &Replica,
        count: u32,
        fill: impl FnOnce(&mut bytes::BytesMut),
    ) {
        let mut payload = bytes::BytesMut::new();
        let batch = crate::engine::batch::BatchBuilder::begin(&mut payload);
        fill(&mut payload);
        batch.finish(&mut payload, replica.now(), count);
        let written = replica.core.raft().client_write(types::Payload(payload.freeze())).await;
        assert!(written.is_ok(), "one node agrees with itself");
    }

    /// The kinds of all events that can be read.
    fn kinds(events: &EventLog) -> Vec<EventKind> {
        let Ok(chunk) = events.read(1, 1 << 20) else { return Vec::new() };
        let mut reader = crate::protocol::Reader::new(&chunk.bytes);
        let mut kinds = Vec::new();
        while let Ok(record) = EventRecord::take(&mut reader) {
            kinds.extend(record.events().map(|event| event.expect("it was written here").kind));
        }
        kinds
    }

    pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let wait = async {
            while !is_so() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, wait).await.is_ok(), "gave up waiting for {what}");
    }

    #[tokio::test]
    async fn a_fault_in_memory_is_found_told_and_not_published() {
        let replica = start(&SimStorage::new()).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        let cell = CellRef::Name { warehouse: b"w", sku: b"s" };
        let now_ms = replica.now().as_millis();
        let id = |number| ReservationId::from_parts(now_ms, [number; 10]);
        write(&replica, 3, |out| {
            Op::encode_define(out, b"w", b"s");
            Op::encode_receive(out, OpFlags::default(), None, OpId(id(1).0), cell, 10);
            let lines = [Line { cell: CellRef::Handle(CellHandle(0)), quantity: 3 }];
            Op::encode_reserve(out, OpFlags::default(), None, id(2), 60_000, &lines);
        })
        .await;
        let before = replica.core.applied_index();
        let status = || replica.status().reconcile;
        until("a round", || status().index >= before).await;
        let snapshot = replica.snapshot().await.expect("what is right is published");
        assert!(snapshot >= before);
        until("a round from the snapshot", || status().index > snapshot).await;
        assert_eq!(status().alarm, None);

        replica.plant_fault(CellHandle(0), -1);
        until("the alarm", || status().alarm.is_some()).await;
        let alarm = status().alarm.expect("it was waited for");
        assert_eq!(alarm.finding, Finding::Replay);
        let differences = alarm.differences;
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!(differences[0].cell, Some(CellHandle(0)));
        assert!(differences[0].live.contains("on_hand=9"), "{differences:?}");
        assert!(differences[0].right.contains("on_hand=10"), "{differences:?}");
        let events = replica.events().expect("this node keeps events").clone();
        until("the event", || kinds(&events).contains(&EventKind::Diverged)).await;
        assert!(kinds(&events).contains(&EventKind::Checkpoint));
        let refused = replica.snapshot().await;
        assert!(matches!(refused, Err(AdminError::Failed(_))), "{refused:?}");
        assert_eq!(replica.core.shared.snapshot_index(), snapshot, "the right one is still there");
        // It was looked at while the snapshot was waited for, had anybody done so.
        let told = kinds(&events).into_iter().filter(|kind| *kind == EventKind::Diverged);
        assert_eq!(told.count(), 1, "what is known is not told again");
        replica.shutdown().await;
    }

    /// Longer than any test: states are compared when a test wants it.
    pub(crate) const NEVER: Option<Duration> = Some(Duration::from_secs(3_600));

    /// With a cell with ten units.
    pub(crate) fn a_state() -> StockState {
        let mut stock = StockState::new(EngineConfig::default());
        let cell = CellRef::Name { warehouse: b"w", sku: b"s" };
        let id = OpId(ReservationId::from_parts(1_700_000_000_000, [1; 10]).0);
        let mut payload = bytes::BytesMut::new();
        let batch = crate::engine::batch::BatchBuilder::begin(&mut payload);
        Op::encode_define(&mut payload, b"w", b"s");
        Op::encode_receive(&mut payload, OpFlags::default(), None, id, cell, 10);
        batch.finish(&mut payload, UnixMicros(1_700_000_000_000_000), 2);
        stock.apply(1, &payload, None);
        stock
    }

    /// A cell with ten units.
    pub(crate) async fn write_a_cell(replica: &Replica) {
        let cell = CellRef::Name { warehouse: b"w", sku: b"s" };
        let id = OpId(ReservationId::from_parts(replica.now().as_millis(), [1; 10]).0);
        write(replica, 2, |out| {
            Op::encode_define(out, b"w", b"s");
            Op::encode_receive(out, OpFlags::default(), None, id, cell, 10);
        })
        .await;
    }

    /// Three nodes, the first of which leads; the third compares nothing.
    async fn start_three() -> Vec<(SimStorage, String, Replica)> {
        let ports: Vec<_> =
            (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> =
            ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
        drop(ports);
        let mut nodes = Vec::new();
        for (address, id) in addresses.iter().zip(1..) {
            let bootstrap = match id {
                1 => Bootstrap::Single,
                _ => Bootstrap::Join(vec![addresses[0].clone()]),
            };
            let reconcile = NEVER.filter(|_| id < 3);
            let storage = SimStorage::new();
            let node = start_as(&storage, (id, address.clone()), bootstrap, reconcile).await;
            nodes.push((storage, address.clone(), node));
            let is_voter = |node: &(SimStorage, String, Replica)| {
                let members = node.2.status().members;
                members.iter().filter(|member| member.voter).count() == nodes.len()
            };
            until("a voter", || nodes.iter().all(is_voter)).await;
        }
        assert!(leads(&nodes[0].2, PATIENCE).await, "it led alone");
        nodes
    }

    /// What a node's events tell of wrong states.
    fn told(replica: &Replica) -> Vec<Divergence> {
        let events = replica.events().expect("this node keeps events");
        let Ok(chunk) = events.read(1, 1 << 20) else { return Vec::new() };
        let mut reader = crate::protocol::Reader::new(&chunk.bytes);
        let mut found = Vec::new();
        while let Ok(record) = EventRecord::take(&mut reader) {
            found.extend(record.events().filter_map(|event| match event.unwrap().body {
                EventBody::Diverged(divergence) => Some(divergence),
                _ => None,
            }));
        }
        found
    }

    #[tokio::test]
    async fn a_fault_is_not_taken_over_by_a_snapshot() {
        let address = "127.0.0.1:0".to_owned();
        let replica = start_as(&SimStorage::new(), (1, address), Bootstrap::Single, NEVER).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        write_a_cell(&replica).await;
        let published = replica.snapshot().await.expect("what is right is published");
        let status = || replica.status().reconcile;
        assert_eq!((status().snapshots, status().alarm), ((1, 0), None));

        replica.plant_fault(CellHandle(0), 1);
        write(&replica, 1, |out| Op::encode_define(out, b"w", b"t")).await;
        let refused = replica.snapshot().await;
        assert!(matches!(refused, Err(AdminError::Failed(_))), "{refused:?}");
        assert_eq!(replica.core.shared.snapshot_index(), published, "the right one is still there");
        let alarm = status().alarm.expect("it is wrong");
        assert_eq!(alarm.finding, Finding::Replay);
        let cells: Vec<_> = alarm.differences.iter().filter_map(|found| found.cell).collect();
        assert_eq!(cells, [CellHandle(0)]);
        assert_eq!(alarm.events, 3..4, "it was right when the first snapshot was made");
        until("the event", || told(&replica).len() == 1).await;
        replica.shutdown().await;
    }

    #[tokio::test]
    async fn without_memory_for_a_second_state_a_snapshot_is_published_all_the_same() {
        let address = "127.0.0.1:0".to_owned();
        let world = World { memory: Arc::new(NoMemory), ..World::real() };
        let storage = SimStorage::new();
        let (told, notice) = notices();
        let how = (NEVER, notice);
        let replica =
            start_in(world, &storage, options((1, address), Bootstrap::Single, how)).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        write_a_cell(&replica).await;
        let index = replica.snapshot().await.expect("nothing is known to be wrong");
        let status = replica.status().reconcile;
        assert_eq!((status.snapshots, status.alarm), ((0, 1), None));
        let why = format!(
            "the snapshot of entry {index} is published without a comparison: a second state takes up to 0 MiB, and 0 \
             MiB of memory are free: half of that may be used"
        );
        assert!(told.lock().unwrap().contains(&why), "{told:?}");
        replica.shutdown().await;
    }

    /// What an operator is told.
    fn notices() -> (Arc<std::sync::Mutex<Vec<String>>>, Notice) {
        let told = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let heard = told.clone();
        (told, Arc::new(move |line| heard.lock().unwrap().push(line.to_owned())))
    }

    #[tokio::test]
    async fn a_comparison_gives_way_to_a_snapshot_that_waits_and_says_so() {
        let (told, notice) = notices();
        let (address, storage) = ("127.0.0.1:0".to_owned(), SimStorage::new());
        let (world, how) = (World::real(), (NEVER, notice));
        let replica =
            start_in(world, &storage, options((1, address), Bootstrap::Single, how)).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        let is_told = |why: &str| told.lock().unwrap().iter().any(|line| line.ends_with(why));
        let reconciler = &replica.core.shared.reconciler;

        reconciler.press(0);
        replica.reconcile().expect("it leads");
        let why = "was not compared: the log grows faster than it can be applied beside: the next snapshot is due";
        until("a log that is too long", || is_told(why)).await;
        assert_eq!(replica.status().reconcile.given_up, 1);

        reconciler.press(u64::MAX);
        storage.set_bytes_max(Some(0));
        write_a_cell(&replica).await;
        until("a full disk", || replica.core.is_full()).await;
        replica.reconcile().expect("it leads");
        let why = "was not compared: the disk is full, and a snapshot waits to make room";
        until("a disk that is full", || is_told(why)).await;
        assert_eq!(
            (replica.status().reconcile.given_up, replica.status().reconcile.rounds),
            (2, 0)
        );
        storage.set_bytes_max(None);
        replica.shutdown().await;
    }

    #[tokio::test]
    async fn who_compares_nothing_says_so() {
        let address = "127.0.0.1:0".to_owned();
        let replica = start_as(&SimStorage::new(), (1, address), Bootstrap::Single, None).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        let why = "this node compares nothing: start it without --reconcile 0s";
        assert_eq!(replica.reconcile(), Err(AdminError::Failed(why.to_owned())));
        write_a_cell(&replica).await;
        replica.snapshot().await.expect("nobody looks");
        assert_eq!(replica.status().reconcile, ReconcileStatus::default());
        replica.shutdown().await;
    }

    #[tokio::test]
    async fn a_state_that_is_not_the_others_is_found_even_if_it_is_what_its_own_snapshot_makes() {
        let mut nodes = start_three().await;
        write_a_cell(&nodes[0].2).await;
        let index = nodes[0].2.core.applied_index();
        until("the third", || nodes[2].2.core.applied_index() >= index).await;
        let (storage, address, third) = nodes.pop().unwrap();
        third.plant_fault(CellHandle(0), 1);
        third.snapshot().await.expect("it does not look");
        third.shutdown().await;
        let (join, storage) = (Bootstrap::Join(Vec::new()), storage.restart(Survival::Kept));
        let third = start_as(&storage, (3, address.clone()), join.clone(), NEVER).await;
        let (first, second) = (&nodes[0].2, &nodes[1].2);
        until("the third", || third.core.applied_index() >= index).await;

        first.reconcile().expect("it leads");
        until("the alarm", || third.status().reconcile.alarm.is_some()).await;
        assert_eq!(third.status().reconcile.alarm.unwrap().finding, Finding::Replica);
        assert!(third.core.shared.reconciler.is_diverged());
        let alarm = || third.status().reconcile.alarm.expect("nothing has ended it");
        until("where it is", || !alarm().differences.is_empty()).await;
        let Alarm { differences, events, .. } = alarm();
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!(differences[0].cell, Some(CellHandle(0)));
        assert!(differences[0].live.contains("on_hand=11"), "{differences:?}");
        assert!(differences[0].right.contains("on_hand=10"), "{differences:?}");
        assert!(events.contains(&2), "it was received then: {events:?}");
        for right in [first, second] {
            until("the event", || !told(right).is_empty()).await;
            let told: Vec<_> = told(right).iter().map(|told| (told.node, told.finding)).collect();
            assert_eq!(told, [(3, Finding::Replica)]);
            until("agreement", || right.status().reconcile.agreed_index > 0).await;
            assert_eq!(right.status().reconcile.alarm, None);
            assert!(!right.core.shared.reconciler.is_right(3), "it is not to lead");
        }
        // What a start replays was told before, and is of what was in memory then.
        third.shutdown().await;
        let third = start_as(&storage.restart(Survival::Kept), (3, address), join, NEVER).await;
        until("the third", || third.core.applied_index() >= first.core.applied_index()).await;
        assert!(!third.core.shared.reconciler.is_diverged());
        assert_eq!(third.status().reconcile.alarm, None);
        assert_eq!(third.status().reconcile.digest, (0, 0), "old CHECKPOINTs are not looked at");
        // Its snapshot is still the wrong one.
        first.reconcile().expect("it leads");
        until("the alarm", || third.status().reconcile.alarm.is_some()).await;
        let refused = third.snapshot().await;
        assert!(matches!(refused, Err(AdminError::Failed(_))), "{refused:?}");
        for node in [third, second.clone(), first.clone()] {
            node.shutdown().await;
        }
    }

    #[tokio::test]
    async fn a_leader_whose_state_is_wrong_tells_it_and_lets_another_lead() {
        let nodes: Vec<_> = start_three().await.into_iter().map(|(.., node)| node).collect();
        write_a_cell(&nodes[0]).await;
        nodes[0].plant_fault(CellHandle(0), 1);
        nodes[0].reconcile().expect("it leads");
        until("another leader", || nodes[1..].iter().any(|node| node.core.is_leader())).await;
        assert!(nodes[0].status().reconcile.alarm.is_some());
        let is_told = |node: &Replica| told(node).iter().any(|told| told.node == 1);
        until("the event", || nodes.iter().all(is_told)).await;
        // A slow machine may have elected it again, and then it hands over once more.
        until("it follows", || matches!(nodes[0].reconcile(), Err(AdminError::NotLeader { .. })))
            .await;
        for node in nodes {
            node.shutdown().await;
        }
    }

    #[tokio::test]
    async fn events_that_are_not_the_others_are_found_and_told_until_they_are() {
        let nodes: Vec<_> = start_three().await.into_iter().map(|(.., node)| node).collect();
        write_a_cell(&nodes[0]).await;
        let round = |node: &Replica| {
            nodes[0].reconcile().expect("it leads");
            let before = node.status().reconcile.digest.1;
            let node = node.clone();
            async move {
                until("a look", || node.status().reconcile.digest.1 > before).await;
                node.status().reconcile.digest
            }
        };
        let (digest, index) = round(&nodes[0]).await;
        let anchor = last_checkpoint(nodes[0].events().expect("it keeps events"));
        let anchor = anchor.expect("there was one");
        let chain_at = async |node: &Replica| {
            let found = reconcile::Round::new(&node.core).chain_at(&anchor).await;
            found.expect("what is on disk is in order")
        };
        let chain = chain_at(&nodes[0]).await;
        assert!(chain.is_some() && chain == chain_at(&nodes[1]).await);
        // Whoever it is, the leader included.
        let leader = &nodes[0].core;
        for (node, chain) in [(1, Some(7)), (2, chain), (3, chain)] {
            reconcile::hear(leader, node, reconcile::Statement::Digest { index, digest, chain });
        }
        let named = || nodes[1].status().reconcile.named;
        let chain_of_1 = Divergence { node: 1, index, finding: Finding::Chain, cell: None };
        until("the event", || named() == [chain_of_1]).await;
        assert_eq!(nodes[0].status().reconcile.chain_differs_at, Some(index));
        assert!(!nodes[0].core.shared.reconciler.is_diverged(), "its state is right");
        // Its state is right at the next one, too, and that ends nothing; its chain is then.
        let (_, index) = round(&nodes[0]).await;
        until("agreement", || nodes[0].status().reconcile.agreed_index == index).await;
        until("the end of it", || nodes[0].status().reconcile.named.is_empty()).await;
        for node in nodes {
            node.shutdown().await;
        }
    }

    #[tokio::test]
    async fn a_node_that_kept_no_events_for_a_while_is_not_judged_by_its_chain() {
        let mut storage = SimStorage::new();
        // It keeps none, takes them up, and is started again from a snapshot of that time.
        for events in [None, Some(EventOptions::default()), Some(EventOptions::default())] {
            let silent: Notice = Arc::new(|_| ());
            let known = options((1, "127.0.0.1:0".to_owned()), Bootstrap::Single, (NEVER, silent));
            let options = ReplicaOptions { events, ..known };
            let replica = start_in(world(), &storage, options).await;
            assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
            write_a_cell(&replica).await;
            if let Some(events) = replica.events() {
                let before = events.position();
                replica.reconcile().expect("it leads");
                until("a CHECKPOINT", || events.position().next > before.next).await;
                let position = events.position();
                assert!(!position.is_whole);
                assert_eq!(last_checkpoint(events), Some(Anchor::default()));
                let of_another = Anchor { next: before.next, chain: [7; 32] };
                let chain = reconcile::Round::new(&replica.core).chain_at(&of_another).await;
                assert_eq!(chain.expect("what is on disk is in order"), None);
            }
            replica.snapshot().await.expect("nothing is wrong");
            replica.shutdown().await;
            storage = storage.restart(Survival::Kept);
        }
    }

    #[tokio::test]
    async fn what_is_listed_while_a_snapshot_is_installed_is_not_of_two_moments() {
        let replica = start(&SimStorage::new()).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        write_a_cell(&replica).await;
        replica.history().await.expect("nothing is being installed");
        // As an installation does before the state is replaced.
        let events = replica.events().expect("this node keeps events");
        events.rebase(crate::events::Position::unknown(1_000)).await.expect("the disk has room");
        let refused = replica.history().await.map(|history| history.index);
        assert_eq!(refused.expect_err("what is it of?").kind(), std::io::ErrorKind::Interrupted);
        let snapshot = timeout(Duration::from_millis(300), replica.snapshot()).await;
        assert!(snapshot.is_err(), "it waits: {snapshot:?}");
        assert_eq!(replica.core.shared.snapshot_index(), 0);
    }

    /// What the last CHECKPOINT that can be read says of the leader's chain.
    fn last_checkpoint(events: &EventLog) -> Option<Anchor> {
        let chunk = events.read(events.oldest(), 1 << 20).ok()?;
        let mut reader = crate::protocol::Reader::new(&chunk.bytes);
        let mut last = None;
        while let Ok(record) = EventRecord::take(&mut reader) {
            let bodies = record.events().map(|event| event.expect("it was written here").body);
            let told = bodies.filter_map(|body| match body {
                EventBody::Checkpoint(checkpoint) => Some(checkpoint.anchor()),
                _ => None,
            });
            last = told.last().or(last);
        }
        last
    }

    #[tokio::test]
    async fn what_is_not_of_the_same_entry_is_not_compared() {
        let replica = start(&SimStorage::new()).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        write(&replica, 1, |out| Op::encode_define(out, b"w", b"s")).await;
        let core = &replica.core;
        let (last, engine) = (core.applied_index(), core.options.engine);
        let mut round = reconcile::Round::new(core);
        let mut stock = StockState::new(engine);
        assert!(round.replay(&mut stock, &mut 0, last).await.is_ok());
        let why = "there is a snapshot of entry 9 by now";
        let newer = round.replay(&mut StockState::new(engine), &mut 9, 8).await;
        assert_eq!(newer.map_err(|gave_up| gave_up.to_string()), Err(why.to_owned()));
        let log = core.log.shard(core.shard);
        let purged = log.read(last, last + 1, 1).expect("it is there")[0].id();
        log.purge(purged);
        let mut stock = StockState::new(engine);
        let gone = round.replay(&mut stock, &mut 0, last).await;
        let why = "the log was purged meanwhile";
        assert_eq!(gone.map_err(|gave_up| gave_up.to_string()), Err(why.to_owned()));
        assert_eq!(stock.applied_index(), 0);
        replica.shutdown().await;
    }

    #[tokio::test]
    async fn a_node_that_lost_its_disk_does_not_stand_by_what_it_reads_of_the_one_before_it() {
        let storage = SimStorage::new();
        let founder = start(&storage).await;
        assert!(leads(&founder, PATIENCE).await, "alone it founds the cluster");
        founder.shutdown().await;
        let storage = storage.restart(Survival::Kept);

        let again = start(&storage).await;
        assert!(leads(&again, PATIENCE).await, "the node that the log names stands");
        again.shutdown().await;
        let storage = storage.restart(Survival::Kept);

        // What the node would have that lost its disk, was given the log's beginning by others, and
        // then lost power: the founding members, of which none is itself.
        let rules = Rules::of(&EngineConfig::default());
        let mut identity =
            Identity::load_or_make(&storage, &world(), 1, rules).expect("it is there");
        identity.incarnation += 1;
        identity.save(&storage).expect("nothing fails");
        let wiped = start(&storage).await;
        assert!(
            !leads(&wiped, 20 * ELECTION).await,
            "it would be a majority of one, beside the cluster"
        );
        wiped.shutdown().await;
    }
}
