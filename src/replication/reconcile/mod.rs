//! Is what is in memory what the log makes of it, on every node?
//!
//! ```text
//!  leader ─▶ CHECKPOINT in the log ─▶ apply: a cut of the state, right there ─▶ fingerprint of its blocks ┬─▶ leader:
//!                                                                                                        same?  as others?
//!  newest snapshot ─▶ second state ─▶ the log up to the CHECKPOINT ─▶ fingerprint of its blocks ──────────┘
//!                                                                       no: another cut, whose bytes are compared
//! ```
//!
//! The bytes of a snapshot are a function of the log alone, so every counter, every reservation and all that is
//! kept about them is compared. It costs a second state for as long as it takes, and at most a quarter of a processor.
//!
//! A snapshot is compared in the same way before it is published, with what the one before and the log make: else a
//! fault would be taken over by it, and be part of what is compared with from then on. Where the log grows faster
//! than it can be applied beside, or memory is short, it is published all the same, and the node says so. What the
//! nodes tell the leader (`replicas.rs`) finds a fault that came in that way.
//!
//! Found to differ, a node says so (notice, `status`, `reconcile`, DIVERGED in the log of the cluster), compares no more,
//! publishes no snapshot any more, and does not go on leading if another can. It goes on serving: an operator decides.
//! The snapshot and the log that it has make the right state; a restart loads that.

mod replicas;
mod round;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

pub(super) use replicas::{Word, hear};
pub(super) use round::{GaveUp, Round};

use super::core::Core;
use crate::engine::{Difference, Fingerprint, SnapshotCut, StockState};
use crate::log::Log;
use crate::protocol::event::{Anchor, Divergence, Finding};
use crate::world::UnixMicros;
use replicas::{Digests, Judgement, Words};
use round::Outcome;

/// Between two tries to tell the leader.
const TELL_RETRY: Duration = Duration::from_secs(1);

/// What is known of the comparisons so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReconcileStatus {
    /// Rounds that found everything as it should be.
    pub rounds: u64,
    /// Rounds that were not begun, because another was not finished, or could not be finished.
    pub given_up: u64,
    /// The last log entry after which everything was as it should be; 0: none yet.
    pub index: u64,
    /// When that was, on the log's clock.
    pub at: UnixMicros,
    /// The state's digest after the last CHECKPOINT that was looked at, and that entry: the same on every replica.
    pub digest: (u64, u64),
    /// The last log entry after which the state was the one that a majority of the voters had.
    pub agreed_index: u64,
    /// Snapshots that were compared before they were published, and that were published without.
    pub snapshots: (u64, u64),
    /// What is being done: what, how much of it, of how much.
    pub running: Option<(&'static str, u64, u64)>,
    /// The state is wrong.
    pub alarm: Option<Alarm>,
    /// After this entry the events were found not to be those of the leader.
    pub chain_differs_at: Option<u64>,
}

/// What is wrong with a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alarm {
    /// Who found it.
    pub finding: Finding,
    /// After this entry.
    pub index: u64,
    /// Where it is wrong, as far as that is known.
    pub differences: Vec<Difference>,
    /// It went wrong between these events.
    pub events: Range<u64>,
}

/// What apply, the snapshot builder, the thread, peers and those who ask share.
#[derive(Default)]
pub struct Reconciler {
    budget: Option<Budget>,
    diverged: AtomicBool,
    wake: Notify,
    inner: Mutex<Inner>,
}

/// How long a snapshot may wait until it is published.
struct Budget {
    log: Log,
    snapshot_log_bytes: u64,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    /// One is being done.
    is_busy: bool,
    /// A snapshot waits, and is published all the same when the log has so many bytes.
    log_bytes_limit: Option<u64>,
    /// No difference before this event.
    right_until: u64,
    digests: Digests,
    words: Words,
    status: ReconcileStatus,
}

enum Job {
    Compare(Offer),
    Prove(Proof, oneshot::Sender<Verdict>),
}

/// A cut that was made at a CHECKPOINT.
struct Offer {
    cut: SnapshotCut,
    generation: u64,
    at: UnixMicros,
    next_event: u64,
    anchor: Anchor,
}

/// What was in memory after an entry.
pub(super) struct Proof {
    pub index: u64,
    pub next_event: u64,
    pub print: Fingerprint,
}

/// What becomes of a snapshot that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is what the log makes, or nobody can tell.
    Publish,
    /// It is wrong.
    Refuse,
}

impl Reconciler {
    /// Compares the state with what `log` makes. A snapshot, which is made when the log has grown by
    /// `snapshot_log_bytes`, is compared at most until the next one is due.
    pub fn of(log: Log, snapshot_log_bytes: u64) -> Self {
        Self { budget: Some(Budget { log, snapshot_log_bytes }), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    pub fn status(&self) -> ReconcileStatus {
        self.lock().status.clone()
    }

    /// States are compared on this node.
    pub fn is_on(&self) -> bool {
        self.budget.is_some()
    }

    /// The state was found to be wrong: it must not become a snapshot.
    pub fn is_diverged(&self) -> bool {
        self.diverged.load(Ordering::Relaxed)
    }

    /// Nothing is wrong that the leader was not told.
    pub fn has_told(&self) -> bool {
        !self.lock().words.has_alarm()
    }

    /// As far as this leader knows, a node's state is right.
    pub fn is_right(&self, node: u64) -> bool {
        !self.lock().digests.is_named(node)
    }

    /// A CHECKPOINT was applied. A state that is known to be wrong is not looked at again. `true`: the state was cut,
    /// and nobody else may until the round has read it.
    pub fn begin(&self, stock: &mut StockState, generation: u64, anchor: Anchor) -> bool {
        if !self.is_on() || self.is_diverged() {
            return false;
        }
        let mut inner = self.lock();
        if inner.is_busy || !inner.jobs.is_empty() {
            inner.status.given_up += 1;
            return false;
        }
        let (cut, at, next_event) = (stock.begin_snapshot(), stock.now(), stock.next_event());
        inner.jobs.push_back(Job::Compare(Offer { cut, generation, at, next_event, anchor }));
        self.wake.notify_one();
        true
    }

    /// A CHECKPOINT was applied while somebody else read the state's cut.
    pub fn pass_over(&self) {
        self.lock().status.given_up += u64::from(self.is_on());
    }

    /// Asks what becomes of a snapshot.
    pub async fn prove(&self, proof: Proof) -> Verdict {
        let Some(Budget { log, snapshot_log_bytes }) = &self.budget else {
            return Verdict::Publish;
        };
        let (answer, verdict) = oneshot::channel();
        {
            let enough = (*snapshot_log_bytes).max(2 * proof.print.bytes());
            let mut inner = self.lock();
            inner.log_bytes_limit = Some(log.stats().bytes_written + enough);
            inner.jobs.push_back(Job::Prove(proof, answer));
        }
        self.wake.notify_one();
        // The thread is gone: the node stops.
        verdict.await.unwrap_or(Verdict::Refuse)
    }

    fn log_bytes_limit(&self) -> Option<u64> {
        self.lock().log_bytes_limit
    }

    fn set_running(&self, running: Option<(&'static str, u64, u64)>) {
        self.lock().status.running = running;
    }

    fn next_job(&self) -> Option<Job> {
        let mut inner = self.lock();
        let job = inner.jobs.pop_front();
        inner.is_busy = job.is_some();
        inner.status.running = None;
        job
    }
}

/// Compares whenever a CHECKPOINT has been applied or a snapshot was made, on a thread of its own, until the node stops.
pub async fn serve(core: Arc<Core>) {
    let reconciler = &core.shared.reconciler;
    loop {
        let is_silent = reconciler.lock().words.is_empty();
        tokio::select! {
            () = reconciler.wake.notified() => {}
            () = tokio::time::sleep(TELL_RETRY), if !is_silent => {}
            () = core.stopping() => return,
        }
        while let Some(job) = reconciler.next_job() {
            match job {
                Job::Compare(offer) => compare(&core, offer).await,
                Job::Prove(proof, answer) => {
                    let verdict = prove(&core, &proof).await;
                    reconciler.lock().log_bytes_limit = None;
                    // Whoever asked may have been stopped with the node.
                    let _ = answer.send(verdict);
                }
            }
        }
        tell(&core).await;
    }
}

async fn tell(core: &Core) {
    let reconciler = &core.shared.reconciler;
    let mut words = std::mem::take(&mut reconciler.lock().words);
    let judgement = replicas::tell(core, &mut words).await;
    reconciler.lock().words = words;
    match judgement {
        Some((index, Judgement::Same)) => reconciler.lock().status.agreed_index = index,
        Some((index, Judgement::Other)) => {
            let next_event = core.shared.lock().stock.next_event();
            diverge(core, Finding::Replica, index, Vec::new(), next_event, 0);
        }
        Some((_, Judgement::Open)) | None => (),
    }
}

async fn compare(core: &Arc<Core>, offer: Offer) {
    let reconciler = &core.shared.reconciler;
    let Offer { at, next_event, anchor, .. } = offer;
    let index = offer.cut.index();
    let mut round = Round::new(core);
    let print = match round.look(offer).await {
        Ok(print) => print,
        Err(why) => return give_up(core, index, &why),
    };
    {
        let mut inner = reconciler.lock();
        let digest = print.digest();
        inner.status.digest = (digest, index);
        inner.words.digest(index, digest);
    }
    // The others need not wait for what comes next.
    tell(core).await;
    match round.has_chain(&anchor) {
        Ok(true) => (),
        Ok(false) => say_chain_differs(core, index, &anchor),
        Err(error) => {
            core.note(format_args!("the events before {} cannot be read: {error}", anchor.next))
        }
    }
    match round.check(&Proof { index, next_event, print }).await {
        Ok(Outcome::Same) => {
            let mut inner = reconciler.lock();
            inner.right_until = inner.right_until.max(next_event);
            let status = &mut inner.status;
            (status.index, status.at) = (index, at);
            status.rounds += 1;
        }
        Ok(Outcome::Differs { blocks, found, since }) => {
            say_where(core, index, blocks);
            diverge(core, Finding::Replay, index, found, next_event, since);
        }
        Err(why) => give_up(core, index, &why),
    }
}

async fn prove(core: &Arc<Core>, proof: &Proof) -> Verdict {
    let reconciler = &core.shared.reconciler;
    let Proof { index, next_event, .. } = *proof;
    match Round::new(core).check(proof).await {
        Ok(Outcome::Same) => {
            let mut inner = reconciler.lock();
            inner.right_until = inner.right_until.max(next_event);
            inner.status.snapshots.0 += 1;
            Verdict::Publish
        }
        Ok(Outcome::Differs { blocks, found, since }) => {
            say_where(core, index, blocks);
            diverge(core, Finding::Replay, index, found, next_event, since);
            Verdict::Refuse
        }
        Err(GaveUp::Stopping) => Verdict::Refuse,
        Err(why) => {
            reconciler.lock().status.snapshots.1 += 1;
            core.note(format_args!(
                "the snapshot of entry {index} is published without a comparison: {why}"
            ));
            Verdict::Publish
        }
    }
}

fn give_up(core: &Core, index: u64, why: &GaveUp) {
    if !matches!(why, GaveUp::Stopping) {
        core.shared.reconciler.lock().status.given_up += 1;
        core.note(format_args!("the state after entry {index} was not compared: {why}"));
    }
}

fn say_where(core: &Core, index: u64, blocks: usize) {
    core.note(format_args!(
        "ALARM: the state after entry {index} is not what the log makes of it, in {blocks} blocks"
    ));
}

fn say_chain_differs(core: &Core, index: u64, anchor: &Anchor) {
    let reconciler = &core.shared.reconciler;
    let mut inner = reconciler.lock();
    if inner.status.chain_differs_at.replace(index).is_none() {
        let finding = Finding::Chain;
        inner.words.alarm(Divergence { node: core.me(), index, finding, cell: None });
        drop(inner);
        core.note(format_args!(
            "ALARM: this node's events before {} are not those of the leader: stockd audit tells whether the files were changed",
            anchor.next
        ));
    }
}

/// The state is wrong. Once in a life.
fn diverge(
    core: &Core,
    finding: Finding,
    index: u64,
    differences: Vec<Difference>,
    next_event: u64,
    since: u64,
) {
    let reconciler = &core.shared.reconciler;
    if reconciler.diverged.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut inner = reconciler.lock();
    let cell = differences.iter().find_map(|difference| difference.cell);
    // Its own finding is told by it, that of a majority by the leader.
    if finding != Finding::Replica {
        inner.words.alarm(Divergence { node: core.me(), index, finding, cell });
    }
    let events = inner.right_until.max(since).max(1)..next_event;
    inner.status.alarm = Some(Alarm { finding, index, differences, events });
    drop(inner);
    core.note(format_args!(
        "ALARM: this node's state is wrong ({}, after entry {index}): it publishes no snapshot any more, and hands leadership \
         over if it can; see the admin command reconcile, then restart it; if that does not help, its snapshot is wrong: \
         empty its --data and let it join again",
        finding.name()
    ));
}
