//! Linearizable reads: one ReadIndex round serves everybody who waits.
//!
//! A round starts when somebody waits and none is under way; who comes during a round waits for the
//! next, because the round's index may be older than their question.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::api::{ReadPoint, Refusal};
use super::core::Core;
use crate::protocol::Code;

/// How long a round may take before its readers hear NO_QUORUM.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);
/// What NO_QUORUM tells a client to wait.
const NO_QUORUM_RETRY_MS: u32 = 100;
/// Bursts of reads that may wait; a session has a few.
const WAITERS_MAX: usize = 1 << 16;

type Waiter = oneshot::Sender<Result<ReadPoint, Refusal>>;

/// Who waits for the next round.
#[derive(Default)]
pub struct ReadWaiters {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    waiters: Vec<Waiter>,
    /// The node stops: there will be no further round.
    closed: bool,
}

/// Waits until this node's applied state is fresh enough for a linearizable read.
pub async fn barrier(core: &Core) -> Result<ReadPoint, Refusal> {
    if !core.is_leader() {
        return Err(Refusal::not_leader(core.leadership().leader.as_ref()));
    }
    let (waiter, answer) = oneshot::channel();
    {
        let mut waiting = core.read_waiters.waiting.lock().expect("no holder panics");
        if waiting.closed {
            return Err(Refusal::not_leader(None));
        }
        if waiting.waiters.len() >= WAITERS_MAX {
            return Err(Refusal::busy(5, "too many reads wait for the leader's check"));
        }
        waiting.waiters.push(waiter);
    }
    core.read_waiters.wake.notify_one();
    answer.await.unwrap_or_else(|_| Err(Refusal::not_leader(None)))
}

/// Runs rounds until the node stops, and sends away who waits then.
pub async fn serve(core: Arc<Core>) {
    serve_rounds(&core).await;
    let mut waiting = core.read_waiters.waiting.lock().expect("no holder panics");
    *waiting = Waiting { waiters: Vec::new(), closed: true };
}

async fn serve_rounds(core: &Core) {
    loop {
        tokio::select! {
            () = core.read_waiters.wake.notified() => (),
            () = core.stopping() => return,
        }
        // Sessions that are ready now get into this round, not the next.
        tokio::task::yield_now().await;
        let waiters = {
            let mut waiting = core.read_waiters.waiting.lock().expect("no holder panics");
            std::mem::take(&mut waiting.waiters)
        };
        if waiters.is_empty() {
            continue;
        }
        let result = round(core).await;
        for waiter in waiters {
            // The session may be gone.
            let _ = waiter.send(result.clone());
        }
    }
}

async fn round(core: &Core) -> Result<ReadPoint, Refusal> {
    // openraft's lease alone will not do: a pause may make it longer, see `Witness::quorum_at`.
    let leased = core.options.lease_reads
        && core.quorum_age().is_some_and(|age| age < core.timing().election_max);
    let policy = if leased { ReadPolicy::LeaseRead } else { ReadPolicy::ReadIndex };
    let mut result = timeout(ROUND_TIMEOUT, core.raft().ensure_linearizable(policy)).await;
    if leased && !matches!(result, Ok(Ok(_))) {
        // The lease has run out, or was never there: ask the others.
        let asked = core.raft().ensure_linearizable(ReadPolicy::ReadIndex);
        result = timeout(ROUND_TIMEOUT, asked).await;
    }
    match result {
        Ok(Ok(_)) => Ok(point(core)),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            let leader = forward.leader_node.map(|node| node.info);
            Err(Refusal::not_leader(leader.as_ref()))
        }
        Ok(Err(RaftError::Fatal(_))) => Err(Refusal::not_leader(None)),
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
            Err(Refusal::new(Code::NO_QUORUM, NO_QUORUM_RETRY_MS))
        }
    }
}

fn point(core: &Core) -> ReadPoint {
    let index = core.applied_index();
    ReadPoint { index, now: core.now() }
}
