//! Is what is in memory what the log makes of it, on every node?
//!
//! ```text
//!  leader ─▶ CHECKPOINT in the log ─▶ apply: a cut of the state, right there
//!                                       └─▶ look: fingerprint of its blocks ─▶ digest ─▶ leader: as those of others?
//!                                             └─▶ check: the same?                         (replicas.rs)
//!  newest snapshot ─▶ second state ─▶ the log up to the CHECKPOINT ─▶ fingerprint ┘
//!                                       no: another cut, whose bytes are compared
//! ```
//!
//! The bytes of a snapshot are a function of the log alone, so every counter, every reservation and all that is
//! kept about them is compared. A look and a check each take at most a quarter of a processor, and a check a second
//! state for as long as it takes.
//!
//! A snapshot is checked in the same way before it is published, with what the one before and the log make: else a
//! fault would be taken over by it, and be part of what is compared with from then on. Where the log grows faster
//! than it can be applied beside, or memory is short, it is published all the same, and the node says so. What the
//! nodes tell the leader finds a fault that came in that way.
//!
//! Found to differ, a node says so (notice, `status`, `reconcile`, DIVERGED in the log of the cluster), compares no more,
//! publishes no snapshot any more, and does not go on leading if another can. It goes on serving: an operator decides.
//! The snapshot and the log that it has make the right state; a restart loads that, and so does a snapshot that another
//! node sends.
//!
//! Threads: looks and checks run on a thread that has no sockets; what is told is told by a task of the node.

mod places;
mod replicas;
mod round;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

pub(super) use places::differing;
pub(super) use replicas::{Statement, hear};
pub(super) use round::{GaveUp, Round};

use super::core::Core;
use crate::engine::{Difference, Fingerprint, SnapshotCut, StockState};
use crate::log::Log;
use crate::protocol::ShardId;
use crate::protocol::event::{Anchor, Divergence, Finding};
use crate::world::UnixMicros;
use places::{Look, Looks};
use replicas::{CHECKPOINTS_MAX, Digests, NOBODY, Words};
use round::Outcome;

/// Between two tries to tell the leader.
const TELL_RETRY: Duration = Duration::from_secs(1);

/// What is known of the comparisons so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReconcileStatus {
    /// Checks after a CHECKPOINT that found everything as it should be.
    pub rounds: u64,
    /// CHECKPOINTs that were not looked at, because something else was, and checks that could not be finished.
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
    /// After this entry the events were found not to be those of a majority.
    pub chain_differs_at: Option<u64>,
    /// What the log tells of nodes, and was not seen to be over since; node 0: nobody knows which.
    pub named: Vec<Divergence>,
}

/// What is wrong with a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alarm {
    /// How that was found.
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
    scope: Option<Scope>,
    look: Notify,
    check: Notify,
    tell: Notify,
    inner: Mutex<Inner>,
}

/// Of a node that compares.
struct Scope {
    me: u64,
    log: Log,
    snapshot_log_bytes: u64,
    /// The last entry of the log when the node was started: what comes up to there was looked at before.
    started_at: u64,
}

#[derive(Default)]
struct Inner {
    look: Option<Offer>,
    checks: VecDeque<Check>,
    is_checking: bool,
    /// The thread is gone.
    is_closed: bool,
    /// A snapshot waits, and is published all the same when the log has so many bytes.
    log_bytes_limit: Option<u64>,
    /// What is in memory has been applied here since this entry.
    state_since: u64,
    /// No difference before this event, as far as this node can tell, and as a majority says.
    right_until: u64,
    agreed_until: u64,
    /// The latest CHECKPOINTs.
    checkpoints: VecDeque<u64>,
    digests: Digests,
    chains: Digests,
    looks: Looks,
    words: Words,
    /// By node and finding.
    named: BTreeMap<(u64, Finding), Divergence>,
    /// What the log has told, for operators.
    news: Vec<Divergence>,
    /// A majority has found this node wrong, after this entry.
    judged: Option<u64>,
    status: ReconcileStatus,
}

/// A cut that was made at a CHECKPOINT.
struct Offer {
    cut: SnapshotCut,
    generation: u64,
    index: u64,
    at: UnixMicros,
    next_event: u64,
    anchor: Anchor,
}

enum Check {
    Compare(Proof, UnixMicros),
    Prove(Proof, oneshot::Sender<Verdict>),
}

/// What was in memory after an entry.
pub(super) struct Proof {
    pub index: u64,
    pub next_event: u64,
    pub generation: u64,
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
    /// Compares the state of node `me` with what `log` makes. A snapshot, which is made when the log has grown by
    /// `snapshot_log_bytes`, waits for that at most until it is nearly time for the next one.
    pub fn of(me: u64, log: Log, snapshot_log_bytes: u64) -> Self {
        let started_at = log.shard(ShardId(0)).state().last.map_or(0, |last| last.index);
        let inner = Inner { state_since: started_at, ..Inner::default() };
        let scope = Scope { me, log, snapshot_log_bytes, started_at };
        Self { scope: Some(scope), inner: Mutex::new(inner), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    pub fn status(&self) -> ReconcileStatus {
        let inner = self.lock();
        let mine =
            self.scope.as_ref().and_then(|scope| inner.named.get(&(scope.me, Finding::Chain)));
        ReconcileStatus {
            named: inner.named.values().copied().collect(),
            chain_differs_at: mine.map(|divergence| divergence.index),
            ..inner.status.clone()
        }
    }

    /// States are compared on this node.
    pub fn is_on(&self) -> bool {
        self.scope.is_some()
    }

    /// The state was found to be wrong: it must not become a snapshot.
    pub fn is_diverged(&self) -> bool {
        let inner = self.lock();
        inner.status.alarm.is_some() || inner.judged.is_some()
    }

    /// Nobody compares any more: the node stops.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// All that was found here is in the log.
    pub fn has_told(&self) -> bool {
        !self.lock().words.has_alarm()
    }

    /// Nothing is known to be wrong with a node.
    pub fn is_right(&self, node: u64) -> bool {
        !self.lock().named.keys().any(|(named, _)| *named == node)
    }

    /// A CHECKPOINT was applied. A state that is known to be wrong is not looked at again, but to find where. `true`: the
    /// state was cut, and nobody else may until it has been read.
    pub fn begin(
        &self,
        stock: &mut StockState,
        (index, generation): (u64, u64),
        anchor: Anchor,
    ) -> bool {
        if !self.note_checkpoint(index) || self.is_diverged() && !self.lock().is_searching() {
            return false;
        }
        let (cut, at, next_event) = (stock.begin_snapshot(), stock.now(), stock.next_event());
        self.lock().look = Some(Offer { cut, generation, index, at, next_event, anchor });
        self.look.notify_one();
        true
    }

    /// A CHECKPOINT was applied while somebody else read the state's cut.
    pub fn pass_over(&self, index: u64) {
        if self.note_checkpoint(index) {
            self.lock().status.given_up += 1;
        }
    }

    /// `true`: it is one to be looked at.
    fn note_checkpoint(&self, index: u64) -> bool {
        if self.scope.as_ref().is_none_or(|scope| index <= scope.started_at) {
            return false;
        }
        let mut inner = self.lock();
        inner.checkpoints.push_back(index);
        while inner.checkpoints.len() > CHECKPOINTS_MAX {
            inner.checkpoints.pop_front();
        }
        inner.forget_chains();
        true
    }

    /// A DIVERGED was applied.
    pub fn heard(&self, divergence: &Divergence) {
        let Divergence { node, index, finding, .. } = *divergence;
        let mut inner = self.lock();
        inner.named.insert((node, finding), *divergence);
        inner.words.is_told(divergence);
        let is_mine = self.scope.as_ref().is_some_and(|scope| scope.me == node);
        // Not of what was in memory before a restart, or before a snapshot was installed.
        if is_mine && finding == Finding::Replica && index > inner.state_since {
            inner.judged = Some(index);
        }
        // What a start replays was told before.
        if self.scope.as_ref().is_none_or(|scope| index > scope.started_at) {
            inner.news.push(*divergence);
        }
        self.tell.notify_one();
    }

    /// The state is another's now, after this entry, whose next event is this.
    pub fn replaced(&self, index: u64, next_event: u64) {
        let mut inner = self.lock();
        inner.state_since = inner.state_since.max(index);
        inner.words.forget_digest();
        (inner.right_until, inner.agreed_until) = (next_event, next_event);
        (inner.judged, inner.status.alarm) = (None, None);
        inner.looks = Looks::default();
        inner.status.digest = (0, 0);
    }

    /// Bytes that the log has ever had.
    pub fn log_bytes(&self) -> u64 {
        self.scope.as_ref().map_or(0, |scope| scope.log.stats().bytes_written)
    }

    /// Asks what becomes of a snapshot, which was cut when the log had so many bytes.
    pub async fn prove(&self, proof: Proof, log_bytes: u64) -> Verdict {
        let Some(scope) = &self.scope else { return Verdict::Publish };
        let (answer, verdict) = oneshot::channel();
        {
            let mut inner = self.lock();
            if inner.is_closed {
                return Verdict::Refuse;
            }
            // As the steward counts; and what is left is for writing the next one.
            let enough = scope.snapshot_log_bytes.max(2 * proof.print.bytes());
            inner.log_bytes_limit = Some(log_bytes + enough / 4 * 3);
            inner.checks.push_back(Check::Prove(proof, answer));
        }
        self.check.notify_one();
        // None comes when the node stops.
        verdict.await.unwrap_or(Verdict::Refuse)
    }

    fn log_bytes_limit(&self) -> Option<u64> {
        self.lock().log_bytes_limit
    }

    fn set_running(&self, running: Option<(&'static str, u64, u64)>) {
        self.lock().status.running = running;
    }

    /// What was looked at is to be checked, unless that is under way for something else.
    fn compare(&self, proof: Proof, at: UnixMicros) {
        let mut inner = self.lock();
        if inner.is_checking || !inner.checks.is_empty() {
            inner.status.given_up += 1;
            return;
        }
        inner.checks.push_back(Check::Compare(proof, at));
        self.check.notify_one();
    }

    fn next_check(&self) -> Option<Check> {
        let mut inner = self.lock();
        let check = inner.checks.pop_front();
        inner.is_checking = check.is_some();
        inner.status.running = None;
        check
    }

    /// As if a snapshot waited until the log has so many bytes.
    #[cfg(test)]
    pub fn press(&self, log_bytes_limit: u64) {
        self.lock().log_bytes_limit = Some(log_bytes_limit);
    }

    fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        inner.checks.clear();
    }
}

/// Looks at the state at each CHECKPOINT, and checks it and snapshots, on a thread of its own, until the node stops.
pub async fn serve(core: Arc<Core>) {
    futures_util::future::join(serve_looks(&core), serve_checks(&core)).await;
    core.shared.reconciler.close();
}

async fn serve_looks(core: &Arc<Core>) {
    let reconciler = &core.shared.reconciler;
    loop {
        tokio::select! {
            () = reconciler.look.notified() => {}
            () = core.stopping() => return,
        }
        let offer = reconciler.lock().look.take();
        if let Some(offer) = offer {
            look(core, offer).await;
        }
    }
}

async fn serve_checks(core: &Arc<Core>) {
    let reconciler = &core.shared.reconciler;
    loop {
        tokio::select! {
            () = reconciler.check.notified() => {}
            () = core.stopping() => return,
        }
        while let Some(check) = reconciler.next_check() {
            match check {
                Check::Compare(proof, at) => compare(core, &proof, at).await,
                Check::Prove(proof, answer) => {
                    let verdict = prove(core, &proof).await;
                    reconciler.lock().log_bytes_limit = None;
                    // Whoever asked may have been stopped with the node.
                    let _ = answer.send(verdict);
                }
            }
        }
    }
}

/// Tells the leader what there is to tell, and hears what the log says of this node, until the node stops.
pub async fn serve_words(core: Arc<Core>) {
    let reconciler = &core.shared.reconciler;
    loop {
        let is_silent = {
            let inner = reconciler.lock();
            inner.words.is_empty() && !inner.has_question()
        };
        tokio::select! {
            () = reconciler.tell.notified() => {}
            () = tokio::time::sleep(TELL_RETRY), if !is_silent => {}
            () = core.stopping() => return,
        }
        let (judged, news) = {
            let mut inner = reconciler.lock();
            (inner.judged, std::mem::take(&mut inner.news))
        };
        news.iter().for_each(|divergence| core.note(format_args!("{}", notice_of(divergence))));
        if let Some(index) = judged {
            let next_event = core.shared.lock().stock.next_event();
            diverge(&core, Finding::Replica, index, Vec::new(), next_event);
        }
        replicas::tell(&core).await;
        places::search(&core).await;
    }
}

async fn look(core: &Arc<Core>, offer: Offer) {
    let reconciler = &core.shared.reconciler;
    let Offer { cut, generation, index, at, next_event, anchor } = offer;
    let mut round = Round::new(core);
    let wanted = reconciler.lock().looks.take_wanted();
    let (print, mut blocks) = match round.look(cut, generation, &wanted).await {
        Ok(found) => found,
        Err(why) => return give_up(core, index, &why),
    };
    for place in wanted {
        blocks.entry(place).or_default();
    }
    let chain = round.chain_at(&anchor).await.unwrap_or_else(|error| {
        core.note(format_args!("the events before {} cannot be read: {error}", anchor.next));
        None
    });
    {
        let is_wrong = reconciler.is_diverged();
        let mut inner = reconciler.lock();
        let digest = print.digest();
        inner.looks.keep(Look { index, next_event, print: print.clone(), blocks });
        inner.status.digest = (digest, index);
        if is_wrong {
            drop(inner);
            return reconciler.tell.notify_one();
        }
        inner.words.digest((index, digest), chain, next_event);
    }
    reconciler.tell.notify_one();
    reconciler.compare(Proof { index, next_event, generation, print }, at);
}

async fn compare(core: &Arc<Core>, proof: &Proof, at: UnixMicros) {
    match check(core, proof).await {
        Ok(true) => {
            let status = &mut core.shared.reconciler.lock().status;
            (status.index, status.at) = (proof.index, at);
            status.rounds += 1;
        }
        Ok(false) => (),
        Err(why) => give_up(core, proof.index, &why),
    }
}

async fn prove(core: &Arc<Core>, proof: &Proof) -> Verdict {
    match check(core, proof).await {
        Ok(true) => {
            core.shared.reconciler.lock().status.snapshots.0 += 1;
            Verdict::Publish
        }
        Ok(false) | Err(GaveUp::Stopping) => Verdict::Refuse,
        Err(why) => {
            core.shared.reconciler.lock().status.snapshots.1 += 1;
            core.note(format_args!(
                "the snapshot of entry {} is published without a comparison: {why}",
                proof.index
            ));
            Verdict::Publish
        }
    }
}

/// Is it what the log makes? If not, that is told.
async fn check(core: &Arc<Core>, proof: &Proof) -> Result<bool, GaveUp> {
    let outcome = Round::new(core).check(proof).await?;
    let reconciler = &core.shared.reconciler;
    if core.shared.lock().generation() != proof.generation {
        return Err(GaveUp::Replaced);
    }
    match outcome {
        Outcome::Same => {
            let mut inner = reconciler.lock();
            inner.right_until = inner.right_until.max(proof.next_event);
            Ok(true)
        }
        Outcome::Differs { blocks, found, since } => {
            let index = proof.index;
            core.note(format_args!(
                "ALARM: the state after entry {index} is not what the log makes of it, in {blocks} blocks"
            ));
            {
                let mut inner = reconciler.lock();
                inner.right_until = inner.right_until.max(since);
            }
            diverge(core, Finding::Replay, index, found, proof.next_event);
            Ok(false)
        }
    }
}

fn give_up(core: &Core, index: u64, why: &GaveUp) {
    if !matches!(why, GaveUp::Stopping) {
        core.shared.reconciler.lock().status.given_up += 1;
        core.note(format_args!("the state after entry {index} was not compared: {why}"));
    }
}

/// The state is wrong. What is found first is what is shown.
fn diverge(
    core: &Core,
    finding: Finding,
    index: u64,
    differences: Vec<Difference>,
    next_event: u64,
) {
    let reconciler = &core.shared.reconciler;
    let mut inner = reconciler.lock();
    inner.judged = None;
    if inner.status.alarm.is_some() {
        return;
    }
    let cell = differences.iter().find_map(|difference| difference.cell);
    let since = match finding {
        // Its own snapshots have the fault, perhaps.
        Finding::Replica => inner.agreed_until,
        _ => {
            inner.words.alarm(Divergence { node: core.me(), index, finding, cell });
            inner.right_until
        }
    };
    let events = since.max(1)..next_event;
    inner.status.alarm = Some(Alarm { finding, index, differences, events });
    drop(inner);
    reconciler.tell.notify_one();
    core.note(format_args!(
        "ALARM: this node's state is wrong ({}, after entry {index}): it publishes no snapshot any more, and hands \
         leadership over if it can; see the admin command reconcile, then restart it; if that does not help, its snapshot \
         is wrong: empty its --data and let it join again",
        finding.name()
    ));
}

/// For operators of all nodes.
fn notice_of(divergence: &Divergence) -> String {
    let Divergence { node, index, finding, .. } = divergence;
    match (*node, finding) {
        (NOBODY, Finding::Chain) => format!(
            "ALARM: the nodes' events before entry {index} are not the same, and no majority agrees; stockd audit tells \
             whose files were changed"
        ),
        (_, Finding::Chain) => format!(
            "ALARM: the events of node {node} before entry {index} are not those that a majority has; stockd audit tells \
             whether its files were changed"
        ),
        (NOBODY, _) => format!(
            "ALARM: the nodes' states after entry {index} are not the same, and no majority agrees on one"
        ),
        (_, Finding::Replica) => format!(
            "ALARM: the state of node {node} after entry {index} is not the one that a majority has"
        ),
        _ => format!(
            "ALARM: node {node} has found its state wrong after entry {index}; see reconcile there"
        ),
    }
}
