//! A leader whose process is gone is replaced at once, not after a silence.
//!
//! ```text
//! a connection from the leader closes ─▶ does anybody listen at its peer address?
//!      refused ─▶ the process is gone: campaign now, and vote in spite of its lease
//!      accepted, or silence ─▶ it may live: wait for the election timeout as ever
//! ```
//!
//! A leader's lease keeps voters from electing another while it may serve reads on it. A process
//! that is gone serves none, so voters that find its port closed need not wait. Raft itself is as
//! safe without the lease; only lease reads need it, and where they are switched on none of this
//! happens: a closed port may then be a proxy's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::api::{NodeInfo, Role};
use super::core::Core;
use crate::world::net::TcpStream;

/// A process that dies closes its connections and its port in any order, some milliseconds apart.
const CHECKS: u32 = 10;
/// Between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// A live host answers a connection attempt within this.
const CHECK_TIMEOUT: Duration = Duration::from_millis(100);
/// The follower with the lowest id campaigns at once, the next so much later if nobody has, and so
/// on: two that campaign at the same moment take each other's votes.
const RANK_DELAY: Duration = Duration::from_millis(80);
/// Between two looks at what became of a campaign: a vote is a round trip and a sync.
const CAMPAIGN_INTERVAL: Duration = Duration::from_millis(150);
/// After so many campaigns the ordinary election timeout is left to it.
const CAMPAIGNS_MAX: u32 = 10;

/// Tells the watcher that a connection from the leader closed.
#[derive(Default)]
pub struct LeaderLoss {
    closed: Notify,
    /// Whose connection closed last.
    peer: AtomicU64,
}

impl LeaderLoss {
    /// A connection from node `peer` closed.
    pub fn connection_closed(&self, core: &Core, peer: u64) {
        if followed_leader(core).is_some_and(|leader| leader.id == peer) {
            self.peer.store(peer, Ordering::Relaxed);
            self.closed.notify_one();
        }
    }
}

fn followed_leader(core: &Core) -> Option<NodeInfo> {
    let leadership = core.leadership();
    let leader = leadership.leader.clone()?;
    (leadership.role != Role::Leader && leader.id != core.me()).then_some(leader)
}

/// The leader that this node follows is certainly gone; a vote need not wait for its lease.
pub async fn is_certain(core: &Core) -> bool {
    match followed_leader(core) {
        Some(leader) => is_gone(core, &leader).await,
        None => false,
    }
}

async fn is_gone(core: &Core, leader: &NodeInfo) -> bool {
    if core.options.lease_reads {
        return false;
    }
    let connected = timeout(CHECK_TIMEOUT, TcpStream::connect(&leader.peer_address)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Campaigns whenever the leader is found gone, until the node stops.
pub async fn watch(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.leader_loss.closed.notified() => (),
            () = core.stopping() => return,
        }
        // It may have been replaced since: each leader has several connections that close.
        let peer = core.leader_loss.peer.load(Ordering::Relaxed);
        let Some(leader) = followed_leader(&core).filter(|leader| leader.id == peer) else {
            continue;
        };
        for _ in 0..CHECKS {
            if is_gone(&core, &leader).await {
                core.note(format_args!("node {}, the leader, is gone", leader.id));
                replace(&core, &leader).await;
                break;
            }
            sleep(CHECK_INTERVAL).await;
        }
    }
}

/// How many of the other followers go first.
fn rank(core: &Core, gone: &NodeInfo) -> u32 {
    let voters = core.members();
    voters.voter_ids().filter(|id| *id != gone.id && *id < core.me()).count() as u32
}

/// Campaigns until somebody leads, or the old leader is back.
async fn replace(core: &Core, gone: &NodeInfo) {
    let mut term = core.leadership().term;
    let delay = RANK_DELAY * rank(core, gone);
    for _ in 0..CAMPAIGNS_MAX {
        sleep(delay).await;
        let leadership = core.leadership();
        let replaced = leadership.leader.as_ref().is_some_and(|leader| leader.id != gone.id);
        if replaced || core.is_stopping() || !is_gone(core, gone).await {
            return;
        }
        // A higher term says that somebody campaigns: let it finish before trying oneself.
        if leadership.term <= term && core.may_stand() {
            // Only fails when Raft has stopped, which the watcher of leadership reports.
            let _ = core.raft().trigger().elect(false).await;
        }
        term = leadership.term;
        sleep(CAMPAIGN_INTERVAL).await;
    }
}
