//! What the tasks of a node share.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Raft};
use tokio::sync::watch;

use super::api::{AdminError, Leadership, Refusal, Role, SharedLeadership, StalePoint, StopReason};
use super::clock::{LeaderClock, PeerOffsets};
use super::freshness::{Freshness, Stamp, Witness, Word};
use super::identity::Identity;
use super::ingress::{Gate, Ingress};
use super::leader_loss::LeaderLoss;
use super::link::LinkContext;
use super::network::Transfer;
use super::old_ids::OldIds;
use super::peer_hello::PeerHello;
use super::state_machine::{Shared, StateMachine};
use super::types::{MemberNode, Members, StoredMembership, TypeConfig};
use super::{ReplicaOptions, Timing};
use crate::log::{Log, Space, Storage};
use crate::protocol::event::Divergence;
use crate::protocol::{Code, ShardId};
use crate::world::{UnixMicros, World};

/// Most bytes of a node's address: a host name has at most 253.
const ADDRESS_BYTES_MAX: usize = 262;
/// Most nodes, learners included: more voters only slow a cluster down, and whoever reaches the
/// peers' port can ask to be taken in.
const NODES_MAX: usize = 32;

pub type RaftHandle = Raft<TypeConfig, StateMachine>;

/// A leader's time in office: from the commit of its LEADER_START until it hears of another.
pub struct Tenure {
    pub term: u64,
    pub clock: LeaderClock,
}

/// Figures of the proposer.
#[derive(Default)]
pub struct Proposed {
    pub entries: AtomicU64,
    pub ops: AtomicU64,
}

/// A node's replication, as its tasks share it.
pub struct Core {
    pub world: World,
    pub storage: Arc<dyn Storage>,
    pub shard: ShardId,
    pub options: ReplicaOptions,
    pub log: Log,
    pub ingress: Arc<Ingress>,
    pub shared: Arc<Shared>,
    pub old_ids: OldIds,
    pub identity: Mutex<Identity>,
    pub hello: Arc<Mutex<PeerHello>>,
    pub offsets: Arc<Mutex<PeerOffsets>>,
    pub transfer: Transfer,
    /// Snapshots that began to arrive since the start.
    pub incoming: AtomicU64,
    pub tenure: Mutex<Option<Tenure>>,
    pub proposed: Proposed,
    /// What this node has to say as a leader.
    alarms: Mutex<Vec<Divergence>>,
    /// Somebody wants a CHECKPOINT now.
    pub checkpoint_asked: AtomicBool,
    pub read_waiters: super::reads::ReadWaiters,
    pub leader_loss: LeaderLoss,
    /// The records in memory have reached their limit.
    pub records_full: AtomicBool,
    /// What is left of them is for reservations.
    pub records_tight: AtomicBool,
    /// This node waits to be taken in and answers no Raft request.
    pub joining: AtomicBool,
    leadership: SharedLeadership,
    raft: OnceLock<RaftHandle>,
    freshness: Mutex<Freshness>,
    /// What this node knows as a leader about how fresh its words are.
    pub witness: Witness,
    /// Drawn at each start; not zero.
    boot: u64,
    booted: Duration,
    stop: watch::Sender<Option<StopReason>>,
}

impl Core {
    pub fn new(
        world: World,
        storage: Arc<dyn Storage>,
        options: ReplicaOptions,
        log: Log,
        (shared, old_ids): (Arc<Shared>, OldIds),
        identity: Identity,
        joining: bool,
    ) -> Arc<Self> {
        let hello = PeerHello {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            incarnation: identity.incarnation,
        };
        let leadership = Leadership { role: Role::Learner, leader: None, term: 0 };
        let boot = world.random.next_u64().max(1);
        Arc::new(Self {
            booted: world.clock.monotonic(),
            world,
            storage,
            shard: ShardId(0),
            options,
            log,
            ingress: Ingress::new(),
            shared,
            old_ids,
            identity: Mutex::new(identity),
            hello: Arc::new(Mutex::new(hello)),
            offsets: Arc::default(),
            transfer: Transfer::default(),
            incoming: AtomicU64::new(0),
            tenure: Mutex::new(None),
            proposed: Proposed::default(),
            alarms: Mutex::default(),
            checkpoint_asked: AtomicBool::new(false),
            read_waiters: super::reads::ReadWaiters::default(),
            leader_loss: LeaderLoss::default(),
            records_full: AtomicBool::new(false),
            records_tight: AtomicBool::new(false),
            joining: AtomicBool::new(joining),
            leadership: RwLock::new(Arc::new(leadership)),
            raft: OnceLock::new(),
            freshness: Mutex::default(),
            witness: Witness::default(),
            boot,
            stop: watch::Sender::new(None),
        })
    }

    pub fn set_raft(&self, raft: RaftHandle) {
        assert!(self.raft.set(raft).is_ok(), "a node starts Raft once");
    }

    /// # Panics
    /// Before the node has started Raft.
    pub fn raft(&self) -> &RaftHandle {
        self.raft.get().expect("Raft starts before any task that asks it")
    }

    pub fn timing(&self) -> &Timing {
        &self.options.timing
    }

    pub fn me(&self) -> u64 {
        self.options.node.id
    }

    pub fn hello(&self) -> PeerHello {
        self.hello.lock().expect("no holder panics").clone()
    }

    /// What a link to a peer needs.
    pub fn links(&self) -> LinkContext {
        LinkContext {
            world: self.world.clone(),
            hello: self.hello.clone(),
            offsets: self.offsets.clone(),
        }
    }

    /// The largest distance between this node's clock and a peer's.
    pub fn skew(&self) -> Duration {
        self.offsets.lock().expect("no holder panics").skew(self.world.clock.as_ref())
    }

    /// Tells the whole cluster, if this node leads. It may be forgotten with the office: whoever found it says it again.
    pub fn alarm(&self, divergence: Divergence) {
        let mut alarms = self.alarms.lock().expect("no holder panics");
        if self.is_leader() && !alarms.contains(&divergence) {
            alarms.push(divergence);
            self.ingress.poke();
        }
    }

    /// All that this node had to say as a leader is in the log.
    pub fn has_told(&self) -> bool {
        self.shared.reconciler.has_told()
            && self.alarms.lock().expect("no holder panics").is_empty()
    }

    /// What is to be told, at most so much.
    pub fn take_alarms(&self, count_max: usize) -> Vec<Divergence> {
        let mut alarms = self.alarms.lock().expect("no holder panics");
        let count = alarms.len().min(count_max);
        alarms.drain(..count).collect()
    }

    /// Says something to the operator.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        (self.options.notice)(&what.to_string());
    }

    /// This node belongs to `cluster_id` from now on.
    pub fn set_cluster(&self, cluster_id: u64) -> std::io::Result<()> {
        let mut identity = self.identity.lock().expect("no holder panics");
        identity.cluster_id = cluster_id;
        identity.save(self.storage.as_ref())?;
        self.hello.lock().expect("no holder panics").cluster_id = cluster_id;
        Ok(())
    }

    pub fn leadership(&self) -> Arc<Leadership> {
        self.leadership.read().expect("no holder panics").clone()
    }

    pub fn set_leadership(&self, leadership: Leadership) {
        *self.leadership.write().expect("no holder panics") = Arc::new(leadership);
    }

    pub fn is_leader(&self) -> bool {
        self.leadership().role == Role::Leader
    }

    /// This node leads in `term`, as far as it knows, and goes on.
    pub fn leads(&self, term: u64) -> bool {
        let leadership = self.leadership();
        leadership.role == Role::Leader && leadership.term == term && !self.is_stopping()
    }

    /// There is no space for new writes.
    pub fn is_full(&self) -> bool {
        let events = self.shared.events.as_ref();
        !matches!(self.log.space(), Space::Ok) || events.is_some_and(|events| events.is_full())
    }

    /// Starts a tenure and opens the gate, unless this node leads no more or is in office.
    ///
    /// The tenure's lock is held while the gate moves, here and wherever else it does: a leader that
    /// was voted out meanwhile must not open it again.
    pub fn enter_office(&self, tenure: Tenure, gate: Gate) {
        let mut current = self.tenure.lock().expect("no holder panics");
        if current.is_none() && self.leads(tenure.term) {
            *current = Some(tenure);
            self.ingress.set_gate(gate);
        }
    }

    /// Moves the gate of a leader in office; true if it was moved.
    pub fn move_gate(&self, gate: Gate) -> bool {
        let tenure = self.tenure.lock().expect("no holder panics");
        let moves = tenure.is_some() && self.ingress.gate() != gate;
        if moves {
            self.ingress.set_gate(gate);
        }
        moves
    }

    /// Ends the tenure, if there is one, and refuses what waits and what comes.
    pub fn leave_office(&self, refusal: Refusal) {
        let mut tenure = self.tenure.lock().expect("no holder panics");
        *tenure = None;
        self.alarms.lock().expect("no holder panics").clear();
        self.ingress.set_gate(Gate::Shut(refusal));
    }

    /// Raft's requests may be answered.
    ///
    /// # Errors
    /// This node waits to be taken into a cluster.
    pub fn admit(&self) -> Result<(), String> {
        match self.joining.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(format!("node {} waits to be taken into the cluster", self.me())),
        }
    }

    /// Votes may be answered. With lease reads, not within a lease of the start: the node may have
    /// promised a leader not to vote for another, and forgotten it.
    ///
    /// # Errors
    /// The lease is not over.
    pub fn admit_vote(&self) -> Result<(), String> {
        let since = self.world.clock.monotonic().saturating_sub(self.booted);
        if self.options.lease_reads && since < self.timing().election_max {
            return Err("this node has just started and waits for a lease to end".into());
        }
        Ok(())
    }

    /// This moment, as other nodes give it back.
    pub fn stamp(&self) -> Stamp {
        Stamp::now(self.boot, self.world.clock.as_ref())
    }

    /// A leader whose word counts here gave it.
    pub fn heard_leader(&self, word: Word) {
        if let Some(now) = word.now() {
            self.witness.told_clock(now, self.world.clock.as_ref());
        }
        let Some(at) = word.speaks_of(self.boot) else { return };
        let applied = self.applied_index();
        let mut freshness = self.freshness.lock().expect("no holder panics");
        freshness.hear(word.told(), at, applied);
    }

    /// This node may ask for votes: it is the one that the members name, not one before it that lost its
    /// disk. While it is given the log anew, it reads there of members that are long gone. Did the
    /// cluster begin with its name alone, that is a majority of one, and it would lead nobody else and
    /// acknowledge writes.
    pub fn may_stand(&self) -> bool {
        let own = self.member_node().incarnation;
        self.members().get_node(&self.me()).is_some_and(|member| member.incarnation == own)
    }

    /// The newest log index that is applied here.
    pub fn applied_index(&self) -> u64 {
        self.shared.lock().last.map_or(0, |id| id.index)
    }

    /// How old this node's state may be.
    pub fn stale_point(&self) -> StalePoint {
        let now = self.now();
        let index = self.applied_index();
        // A leader that is not in office yet has perhaps not applied what others have told.
        let in_office = self.tenure.lock().expect("no holder panics").is_some();
        let age = match in_office && self.is_leader() {
            true => self.quorum_age(),
            false => {
                let mut freshness = self.freshness.lock().expect("no holder panics");
                let fresh = freshness.at(index);
                fresh.map(|at| self.world.clock.monotonic().saturating_sub(at))
            }
        };
        // Rounded up: it is a bound.
        let millis = |age: Duration| u32::try_from(age.as_micros().div_ceil(1_000)).ok();
        let age_ms = age.and_then(millis).unwrap_or(u32::MAX);
        StalePoint { index, now, age_ms }
    }

    /// When a majority last said that this node leads: since then another may have been elected.
    /// `None`: never in this term.
    pub fn quorum_at(&self) -> Option<Duration> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().get_joint_config();
        self.witness.quorum_at(self.me(), voters, self.world.clock.monotonic())
    }

    /// How long ago [`quorum_at`](Self::quorum_at) is.
    pub fn quorum_age(&self) -> Option<Duration> {
        let at = self.quorum_at()?;
        Some(self.world.clock.monotonic().saturating_sub(at))
    }

    /// The cluster's clock as this node sees it: never behind what it applied. In office, nothing
    /// that is proposed after this is stamped earlier.
    pub fn now(&self) -> UnixMicros {
        let mut tenure = self.tenure.lock().expect("no holder panics");
        let stamped = tenure.as_mut().map(|tenure| self.stamp_of(&mut tenure.clock));
        drop(tenure);
        let clock = self.world.clock.as_ref();
        let known = stamped.or_else(|| self.witness.now(clock)).unwrap_or_else(|| {
            // Nobody has led since this node was started.
            self.offsets.lock().expect("no holder panics").reference(clock)
        });
        // Published under the lock of apply, and read without: other threads ask, too.
        known.max(self.shared.cells.now())
    }

    /// The next stamp of a leader's clock.
    pub fn stamp_of(&self, clock: &mut LeaderClock) -> UnixMicros {
        let offsets = self.offsets.lock().expect("no holder panics");
        clock.stamp(&offsets, self.world.clock.as_ref())
    }

    pub fn set_transfer(&self, transfer: Option<(String, u64, u64)>) {
        *self.transfer.lock().expect("no holder panics") = transfer;
    }

    /// Stops the node; the first reason counts.
    pub fn stop(&self, reason: StopReason) {
        self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
        self.leave_office(Refusal {
            message: "this node is shutting down".into(),
            ..Refusal::new(Code::NOT_LEADER, 50)
        });
    }

    /// Resolves when the node stops.
    pub async fn stopping(&self) {
        self.stop_reason().await;
    }

    /// Resolves with the reason when the node stops.
    pub async fn stop_reason(&self) -> StopReason {
        let mut stop = self.stop.subscribe();
        match stop.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().expect("waited for it"),
            Err(_) => StopReason::Shutdown,
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// The effective membership.
    pub fn members(&self) -> Members {
        self.raft().server_metrics().borrow_watched().membership_config.membership().clone()
    }

    /// Takes a node in as a learner; the steward makes it a voter when it has caught up.
    ///
    /// A node of that id with another incarnation has lost its disk: the old one is removed first,
    /// by the remaining voters, so that nothing it forgot is counted on.
    pub async fn take_in(&self, node: MemberNode) -> Result<(), AdminError> {
        self.must_lead()?;
        let id = node.info.id;
        let members = self.members();
        let addresses = [&node.info.client_address, &node.info.peer_address];
        if addresses.iter().any(|address| address.len() > ADDRESS_BYTES_MAX) {
            let why = format!("an address has more than {ADDRESS_BYTES_MAX} bytes");
            return Err(AdminError::Failed(why));
        }
        if members.nodes().count() >= NODES_MAX && members.get_node(&id).is_none() {
            return Err(AdminError::Failed(format!("a cluster has at most {NODES_MAX} nodes")));
        }
        match members.get_node(&id) {
            Some(known) if *known == node => return Ok(()),
            Some(known) if known.incarnation == node.incarnation => {
                self.note(format_args!("node {id} has new addresses"));
                let change = ChangeMembers::SetNodes([(id, node)].into());
                return self.change(change, true).await;
            }
            Some(_) => {
                self.note(format_args!("node {id} has lost its disk; taking it in anew"));
                self.remove(id).await?;
            }
            None => (),
        }
        self.note(format_args!("taking in node {id} at {}", node.info.peer_address));
        self.change(ChangeMembers::AddNodes([(id, node)].into()), true).await
    }

    /// Removes another node, voter or not.
    ///
    /// A leader does not remove itself: with the entry that names the new members in its log only, it
    /// would be the one whom the others need to elect a leader, and who may not stand.
    pub async fn remove(&self, id: u64) -> Result<(), AdminError> {
        self.must_lead()?;
        if id == self.me() {
            let why = format!("node {id} leads; another node has to remove it");
            return Err(AdminError::Failed(why));
        }
        let members = self.members();
        if members.get_node(&id).is_none() {
            return Err(AdminError::UnknownNode(id));
        }
        if members.voter_ids().any(|voter| voter == id) {
            if members.voter_ids().count() == 1 {
                return Err(AdminError::LastVoter);
            }
            return self.change(ChangeMembers::RemoveVoters([id].into()), false).await;
        }
        self.change(ChangeMembers::RemoveNodes([id].into()), false).await
    }

    /// Makes learners voters.
    pub async fn promote(&self, id: u64) -> Result<(), AdminError> {
        self.change(ChangeMembers::AddVoterIds([id].into()), true).await
    }

    /// Leaves a joint configuration: `goal`, the newer half of it, votes from now on. Who voted only in
    /// the older half is removed, because that is the only change that takes a vote away.
    pub async fn finish_change(&self, goal: BTreeSet<u64>) -> Result<(), AdminError> {
        self.propose(ChangeMembers::ReplaceAllVoters(goal), false, self.stored_members()).await
    }

    /// A change that does not finish another.
    async fn change(
        &self,
        change: ChangeMembers<u64, MemberNode>,
        retain: bool,
    ) -> Result<(), AdminError> {
        let known = self.stored_members();
        // openraft would go on from a joint configuration to one without its older half. A leader that
        // is only in that half would be gone before its second step.
        match known.membership().get_joint_config().len() {
            1 => self.propose(change, retain, known).await,
            _ => Err(AdminError::InProgress),
        }
    }

    fn stored_members(&self) -> StoredMembership {
        (*self.raft().server_metrics().borrow_watched().membership_config).clone()
    }

    /// Changes the members if they are still `known`.
    async fn propose(
        &self,
        change: ChangeMembers<u64, MemberNode>,
        retain: bool,
        known: StoredMembership,
    ) -> Result<(), AdminError> {
        // A leader that was removed leads until all know it. It leaves further changes to the next one:
        // openraft does not expect any from it, least of all that it takes itself in again.
        if !known.membership().voter_ids().any(|id| id == self.me()) {
            return Err(AdminError::NotLeader { leader: None });
        }
        // It may be removed between this look and openraft's.
        let last_membership_log_id = *known.log_id();
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id };
        let changed = self.raft().change_membership_if(change, retain, [unchanged]);
        let changed = tokio::time::timeout(self.timing().admin_timeout, changed).await;
        match changed.map_err(|_| AdminError::Timeout("the change of the membership"))? {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(error)) => Err(self.admin_error(error)),
            Err(RaftError::Fatal(error)) => Err(AdminError::Failed(error.to_string())),
        }
    }

    fn admin_error(&self, error: ClientWriteError<TypeConfig>) -> AdminError {
        match error {
            ClientWriteError::ForwardToLeader(_) => {
                AdminError::NotLeader { leader: self.leadership().leader.clone() }
            }
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
                AdminError::InProgress
            }
            ClientWriteError::PreconditionFailed(_) => AdminError::InProgress,
            other => AdminError::Failed(other.to_string()),
        }
    }

    /// The next entry that this node proposes is a CHECKPOINT, or has one.
    pub fn ask_checkpoint(&self) {
        self.checkpoint_asked.store(true, Ordering::Relaxed);
        self.ingress.poke();
    }

    pub fn must_lead(&self) -> Result<(), AdminError> {
        let leadership = self.leadership();
        match leadership.role {
            Role::Leader => Ok(()),
            _ => Err(AdminError::NotLeader { leader: leadership.leader.clone() }),
        }
    }

    /// A node's own entry in the membership.
    pub fn member_node(&self) -> MemberNode {
        let incarnation = self.identity.lock().expect("no holder panics").incarnation;
        MemberNode { info: self.options.node.clone(), incarnation }
    }
}
