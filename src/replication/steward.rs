//! What a node does beside answering: notices who leads, opens and shuts the gate, sweeps, promotes
//! learners that caught up, takes snapshots, purges the log, asks to be taken in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ReadPolicy, ServerState};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Replica;
use super::api::{AdminError, Leadership, Refusal, Role, StopReason};
use super::clock::{LeaderClock, SKEW_ALARM};
use super::core::{Core, Tenure};
use super::identity::Rules;
use super::ingress::Gate;
use super::link::{Link, LinkContext};
use super::message::put_join;
use super::peer_frame::Kind;
use super::proposer::propose_leader_start;
use super::types::{MemberNode, RaftLogId, TypeConfig};
use crate::protocol::{Code, Reader};

/// How often a leader looks whether something is due. Nobody waits for it: a short reserve reclaims
/// by itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How often a node does its slower chores.
const CHORE_INTERVAL: Duration = Duration::from_millis(200);
/// Between two attempts of a new leader to take office.
const OFFICE_RETRY: Duration = Duration::from_millis(20);
/// Between two attempts of a leader to let another lead.
const STEP_ASIDE_INTERVAL: Duration = Duration::from_secs(60);
/// So many chores after a change of the members began, whoever drove it is taken to be gone.
const CHANGE_CHORES: u32 = 5;
/// A learner this close to the end of the log is made a voter.
const PROMOTE_LAG_MAX: u64 = 1024;
/// Most entries kept below a snapshot for followers that are slightly behind; fewer if those get the
/// snapshot anyway.
const KEEP_ENTRIES: u64 = 1024;
/// Between two requests to be taken in.
const JOIN_INTERVAL: Duration = Duration::from_millis(500);

/// Watches Raft's view of the leader until the node stops.
pub async fn watch_leadership(core: Arc<Core>) {
    let mut metrics = core.raft().server_metrics();
    let mut previous = None;
    loop {
        let leadership = leadership(&core, &metrics.borrow_watched());
        core.raft().runtime_config().elect(core.may_stand());
        if previous.as_ref() != Some(&leadership) {
            core.set_leadership(leadership.clone());
            let led = previous.replace(leadership.clone());
            let led = led.filter(|led| led.role == Role::Leader).map(|led| led.term);
            change(&core, led, &leadership);
        }
        let changed = tokio::select! {
            changed = metrics.changed() => changed.is_ok(),
            () = core.stopping() => return,
        };
        if !changed {
            core.stop(StopReason::Fatal(fatal_message(&core)));
            return;
        }
    }
}

fn fatal_message(core: &Core) -> String {
    let metrics = core.raft().metrics();
    let state = metrics.borrow_watched().running_state.clone();
    match state {
        Ok(()) => "Raft has stopped".into(),
        Err(error) => format!("Raft has stopped: {error}"),
    }
}

fn leadership(
    core: &Core,
    metrics: &openraft::metrics::RaftServerMetrics<TypeConfig>,
) -> Leadership {
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        _ => Role::Learner,
    };
    let members = metrics.membership_config.membership();
    let leader = metrics.current_leader.and_then(|id| members.get_node(&id));
    let leader = leader.map(|node| node.info.clone());
    let leader = leader.or_else(|| (role == Role::Leader).then(|| core.options.node.clone()));
    Leadership { role, leader, term: metrics.vote.leader_id.term }
}

/// Acts on a new word about the leader; this node led in term `led` before.
fn change(core: &Arc<Core>, led: Option<u64>, leadership: &Leadership) {
    let term = leadership.term;
    let leader = leadership.leader.as_ref();
    match leadership.role {
        Role::Leader if led == Some(term) => (),
        Role::Leader => {
            // It may have led in an earlier term until now, and heard of no term in between.
            core.leave_office(Refusal::not_leader(None));
            core.note(format_args!("this node leads in term {term}"));
            let core = core.clone();
            tokio::spawn(async move { take_office(&core, term).await });
        }
        role => {
            core.leave_office(Refusal::not_leader(leader));
            let who = leader.map_or("nobody known".into(), |node| format!("node {}", node.id));
            core.note(format_args!("this node is a {} in term {term}; {who} leads", role.name()));
        }
    }
}

/// Waits until everything of earlier terms is applied, starts the clock, and opens the gate when
/// LEADER_START is committed: before it, the outage would expire what a client still holds.
async fn take_office(core: &Arc<Core>, term: u64) {
    while core.leads(term) {
        let fresh = core.raft().ensure_linearizable(ReadPolicy::ReadIndex);
        if matches!(timeout(Duration::from_secs(1), fresh).await, Ok(Ok(_))) {
            break;
        }
        sleep(OFFICE_RETRY).await;
    }
    let applied = core.shared.lock().stock.now();
    let mut clock = {
        let offsets = core.offsets.lock().expect("no holder panics");
        LeaderClock::start(applied, &offsets, core.world.clock.as_ref())
    };
    while core.leads(term) {
        let now = core.stamp_of(&mut clock);
        if propose_leader_start(core, term, now).await {
            break;
        }
        sleep(OFFICE_RETRY).await;
    }
    core.enter_office(Tenure { term, clock }, gate(core));
    core.ingress.poke();
}

/// Wakes the proposer when something may be due, and keeps the gate as disk and quorum want it.
pub async fn look_after(core: Arc<Core>) {
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => (),
            () = core.stopping() => return,
        }
        if core.tenure.lock().expect("no holder panics").is_none() {
            continue;
        }
        if let Some(at) = core.quorum_at() {
            core.witness.led_at(at, core.applied_index());
            core.witness.told_clock(core.now(), core.world.clock.as_ref());
        }
        let gate = gate(&core);
        if core.move_gate(gate.clone()) {
            match gate {
                Gate::Open => core.note(format_args!("writes go on")),
                Gate::Shut(refusal) => core.note(format_args!("no writes: {}", refusal.message)),
            }
        }
        let load = core.shared.lock().stock.load();
        let max = core.options.reservations_max;
        core.records_full.store(load >= max, Ordering::Relaxed);
        core.records_tight.store(load >= max - max / 4, Ordering::Relaxed);
        core.ingress.poke();
    }
}

fn gate(core: &Core) -> Gate {
    obstacle(core).map_or(Gate::Open, Gate::Shut)
}

/// Why a leader takes no writes now.
fn obstacle(core: &Core) -> Option<Refusal> {
    if core.is_full() {
        return Some(Refusal::new(Code::DISK_FULL, 1000));
    }
    if core.options.draining.load(Ordering::Relaxed) {
        return Some(Refusal::busy(1000, "this node is being drained"));
    }
    match core.quorum_age() {
        Some(age) if age > core.timing().election_max => Some(Refusal::new(Code::NO_QUORUM, 100)),
        _ => None,
    }
}

/// The slower chores, until the node stops.
pub async fn do_chores(core: Arc<Core>) {
    let mut chores = interval(CHORE_INTERVAL);
    chores.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut snapshot_log_bytes = 0;
    let (mut skewed, mut full) = (false, false);
    let mut unfinished = Unfinished::default();
    let mut stepped_aside = None;
    loop {
        tokio::select! {
            _ = chores.tick() => (),
            () = core.stopping() => return,
        }
        if core.is_leader() {
            finish_change(&core, &mut unfinished).await;
            promote_learners(&core).await;
            announce(&core).await;
            step_aside(&core, &mut stepped_aside).await;
        }
        snapshot_if_grown(&core, &mut snapshot_log_bytes).await;
        if core.is_full() != full {
            full = !full;
            let words = if full {
                "is full: this node logs nothing until there is space"
            } else {
                "has space again"
            };
            core.note(format_args!("the disk {words}"));
        }
        if full {
            core.shared.make_room();
        }
        let skew = core.skew();
        if (skew > SKEW_ALARM) != skewed {
            skewed = !skewed;
            let word = if skewed { "differ" } else { "agree again" };
            core.note(format_args!("the nodes' clocks {word}: {} ms apart", skew.as_millis()));
        }
    }
}

/// A leader whose state is wrong lets another lead, whose state is right as far as is known. A hand-over that fails stops
/// writes for a while, so there is not one after the other.
async fn step_aside(core: &Arc<Core>, last: &mut Option<Duration>) {
    let now = core.world.clock.monotonic();
    let is_soon = last.is_some_and(|last| now.saturating_sub(last) < STEP_ASIDE_INTERVAL);
    if is_soon || !core.shared.reconciler.is_diverged() || !core.has_told() {
        return;
    }
    *last = Some(now);
    match (Replica { core: core.clone() }).transfer_leader(None).await {
        Ok(id) => core.note(format_args!("node {id} leads: the state of this one is wrong")),
        Err(error) => {
            core.note(format_args!("this node leads on, though its state is wrong: {error}"))
        }
    }
}

/// Tells the members where a leader is that has been started with other addresses than they know, or was restored.
async fn announce(core: &Arc<Core>) {
    let own = core.member_node();
    let is_other = |known: &MemberNode| known.incarnation == own.incarnation && *known != own;
    if core.members().get_node(&core.me()).is_some_and(is_other) {
        match core.take_in(own).await {
            // Another change is under way, or somebody else leads: the next chore looks again.
            Ok(()) | Err(AdminError::InProgress | AdminError::NotLeader { .. }) => (),
            Err(error) => core.note(format_args!("the members are not told the address: {error}")),
        }
    }
}

/// A joint configuration, and for how many chores it has been there.
#[derive(Default)]
struct Unfinished {
    began: Option<RaftLogId>,
    chores: u32,
}

/// Ends a change of the members that nobody drives any more.
///
/// A change is two entries, and whoever asked for it proposes the second: if that leader is lost
/// between them, or gives up waiting, both the old and the new members must agree to everything from
/// then on, and the loss of one of two old voters stops the cluster. The new ones were decided, so any
/// leader may finish.
async fn finish_change(core: &Arc<Core>, unfinished: &mut Unfinished) {
    let (began, goal) = {
        let metrics = core.raft().metrics();
        let metrics = metrics.borrow_watched();
        match metrics.membership_config.membership().get_joint_config().as_slice() {
            [_, .., goal] => (*metrics.membership_config.log_id(), goal.clone()),
            _ => (None, BTreeSet::new()),
        }
    };
    if began.is_none() || began != unfinished.began {
        *unfinished = Unfinished { began, chores: 0 };
        return;
    }
    unfinished.chores += 1;
    if unfinished.chores >= CHANGE_CHORES {
        unfinished.chores = 0;
        if !goal.contains(&core.me()) {
            return hand_over_change(core, &goal).await;
        }
        match core.finish_change(goal).await {
            Ok(()) => core.note(format_args!("finished a change of the members")),
            // The first of its entries is not committed yet.
            Err(AdminError::InProgress) => (),
            Err(error) => {
                core.note(format_args!("a change of the members cannot be finished yet: {error}"));
            }
        }
    }
}

/// A leader that is not among the new members lets one of them finish: it must not be the only one who
/// knows that it votes no more ([`Core::remove`]).
async fn hand_over_change(core: &Arc<Core>, goal: &BTreeSet<u64>) {
    let successor = {
        let metrics = core.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.iter().flatten();
        let matched = matched.filter_map(|(id, at)| Some((at.as_ref()?.index, *id)));
        let ready = matched.filter(|(at, id)| goal.contains(id) && at + PROMOTE_LAG_MAX >= last);
        ready.max().map(|(_, id)| id)
    };
    if let Some(id) = successor {
        core.note(format_args!("node {id} is to lead and to finish a change of the members"));
        // Only fails when Raft has stopped, which the watcher reports.
        let _ = core.raft().trigger().transfer_leader(id).await;
    }
}

async fn promote_learners(core: &Arc<Core>) {
    let caught_up: Vec<u64> = {
        let metrics = core.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let members = metrics.membership_config.membership();
        let matched = |id: &u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(id)?.as_ref().map(|id: &RaftLogId| id.index)
        };
        let learners = members.learner_ids();
        learners.filter(|id| matched(id).is_some_and(|at| at + PROMOTE_LAG_MAX >= last)).collect()
    };
    for id in caught_up {
        match core.promote(id).await {
            Ok(()) => core.note(format_args!("node {id} has caught up and votes")),
            Err(error) => core.note(format_args!("node {id} cannot vote yet: {error}")),
        }
    }
}

/// Takes a snapshot when the log has grown enough since the last, and purges what it covers.
///
/// Enough is a floor, or twice the last snapshot: so a snapshot costs at most half of what the log
/// it replaces did, and recovery reads at most three times the state.
async fn snapshot_if_grown(core: &Arc<Core>, log_bytes_at_snapshot: &mut u64) {
    let log_bytes = core.log.stats().bytes_written;
    let state_bytes = core.shared.lock().stock.stats().bytes;
    let enough = core.options.snapshot_log_bytes.max(2 * state_bytes);
    if log_bytes.saturating_sub(*log_bytes_at_snapshot) >= enough {
        *log_bytes_at_snapshot = log_bytes;
        // Only fails when Raft has stopped, which the watcher reports.
        let _ = core.raft().trigger().snapshot().await;
    }
    purge(core).await;
}

/// Purges what the newest snapshot covers and no healthy follower still needs.
async fn purge(core: &Arc<Core>) {
    let covered = core.shared.snapshot_index();
    let upto = {
        let metrics = core.raft().metrics();
        let metrics = metrics.borrow_watched();
        let needed = metrics.replication.as_ref().and_then(|replication| {
            let matched = replication.values().map(|at| at.as_ref().map_or(0, |id| id.index));
            matched.filter(|at| at + core.options.follower_lag_max >= covered).min()
        });
        let kept = KEEP_ENTRIES.min(core.options.follower_lag_max);
        let upto = covered.saturating_sub(kept).min(needed.unwrap_or(u64::MAX));
        let purged = metrics.purged.map_or(0, |id| id.index);
        (upto > purged).then_some(upto)
    };
    if let Some(upto) = upto {
        // Only fails when Raft has stopped, which the watcher reports.
        let _ = core.raft().trigger().purge_log(upto).await;
    }
}

/// Asks the members of a cluster to take this node in, until it is a voter.
pub async fn join(core: Arc<Core>, peers: Vec<String>) {
    let context = core.links();
    let (mut said, mut asked) = (String::new(), false);
    loop {
        for peer in &peers {
            if core.is_stopping() || (asked && is_voter(&core)) {
                return;
            }
            let result = ask(&core, &context, peer).await;
            asked |= result.is_ok();
            match result {
                Ok(()) => (),
                Err(why) if why != said => {
                    core.note(format_args!("{peer} does not take this node in yet: {why}"));
                    said = why;
                }
                Err(_) => (),
            }
        }
        sleep(JOIN_INTERVAL).await;
    }
}

fn is_voter(core: &Core) -> bool {
    let voter = core.members().voter_ids().any(|id| id == core.me());
    voter && !core.joining.load(Ordering::Relaxed)
}

async fn ask(core: &Arc<Core>, context: &LinkContext, peer: &str) -> Result<(), String> {
    let mut link = Link::new(context.clone(), 0, peer.to_owned());
    let mut out = BytesMut::new();
    put_join(&mut out, &core.member_node(), &Rules::of(&core.options.engine), false);
    let limit = core.timing().admin_timeout;
    let answer = link.call_within(Kind::Join, core.shard, out.freeze(), limit).await;
    let body = answer.map_err(|error| error.to_string())?;
    let cluster_id = Reader::new(&body).u64().map_err(|_| "the answer is cut short".to_owned())?;
    if let Err(error) = core.set_cluster(cluster_id) {
        let what = format!("{}: {error}", core.storage.path("identity"));
        if error.kind() != std::io::ErrorKind::StorageFull {
            core.stop(StopReason::Fatal(what.clone()));
        }
        return Err(what);
    }
    core.joining.store(false, Ordering::Relaxed);
    Ok(())
}
