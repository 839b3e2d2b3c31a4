//! Is what is in memory what the log makes of it?
//!
//! ```text
//!  leader ─▶ CHECKPOINT in the log ─▶ apply: a cut of the state, right there ─▶ fingerprint of its blocks ┐
//!                                                                                                        same?
//!  newest snapshot ─▶ second state ─▶ the log up to the CHECKPOINT ─▶ fingerprint of its blocks ──────────┘
//!                                                                       no: another cut, whose bytes are compared
//! ```
//!
//! The bytes of a snapshot are a function of the log alone, so every counter, every reservation and all that is
//! kept about them is compared. It costs a second state for as long as it takes, and at most a quarter of a processor.
//!
//! Found to differ, a node says so (notice, `reconcile`), compares no more, publishes no snapshot any more, since that would
//! make the wrong state the one that everything is made of, and as a leader puts DIVERGED into the log. It goes on
//! serving: an operator decides. The snapshot and the log that it has make the right state; a restart loads that.
//!
//! Known gap: a fault that a snapshot has taken over before the next round is part of what is compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::core::Core;
use super::snapshot::{self, CHUNK_BYTES_MAX};
use super::types::batch_of;
use crate::engine::{Difference, Fingerprint, Place, SnapshotCut, StockState, differences};
use crate::protocol::event::{Divergence, Finding};
use crate::world::{Clock, UnixMicros};

/// After a piece of work so many times as long is rested: a round takes a quarter of a processor.
const REST: u32 = 3;
/// Work is done in pieces of about so long.
const PIECE: Duration = Duration::from_millis(2);
/// Bytes of the state that are copied under the engine's lock at a time.
const CHUNK_BYTES: usize = CHUNK_BYTES_MAX / 4;
/// Payload bytes of the log that are read at a time.
const LOG_BYTES: usize = 1 << 20;
/// Differing blocks whose entries are looked at; a wrong state may differ everywhere.
const BLOCKS_MAX: usize = 64;
/// Differences that are kept to be shown.
const DIFFERENCES_MAX: usize = 100;
/// Until the engine's one cut is free.
const CUT_RETRY: Duration = Duration::from_millis(20);

/// What is known of the comparisons so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReconcileStatus {
    /// Rounds that found everything as it should be.
    pub rounds: u64,
    /// Rounds that could not be finished: a snapshot was installed meanwhile, or the log was purged.
    pub given_up: u64,
    /// The last log entry after which everything was as it should be; 0: none yet.
    pub index: u64,
    /// When that was, on the log's clock.
    pub at: UnixMicros,
    /// The state's digest there: the same on every replica that has compared at this index.
    pub digest: u64,
    /// What is being done: what, how much of it, of how much.
    pub running: Option<(&'static str, u64, u64)>,
    /// The state is not what the log makes of it: found after this entry.
    pub diverged_at: Option<u64>,
    /// Where it is not.
    pub differences: Vec<Difference>,
}

/// What apply, the thread and those who ask share.
#[derive(Default)]
pub struct Reconciler {
    is_on: bool,
    diverged: AtomicBool,
    wake: Notify,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    offer: Option<Offer>,
    is_busy: bool,
    status: ReconcileStatus,
}

/// A cut that was made at a CHECKPOINT.
struct Offer {
    cut: SnapshotCut,
    generation: u64,
    at: UnixMicros,
}

/// Why a round came to nothing.
pub(super) enum GaveUp {
    Replaced,
    Stopping,
    Because(String),
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced => f.write_str("a snapshot was installed meanwhile"),
            Self::Stopping => f.write_str("the node is stopping"),
            Self::Because(why) => f.write_str(why),
        }
    }
}

impl Reconciler {
    pub fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }

    pub fn status(&self) -> ReconcileStatus {
        self.lock().status.clone()
    }

    /// The state was found to be wrong: it must not become a snapshot.
    pub fn is_diverged(&self) -> bool {
        self.diverged.load(Ordering::Relaxed)
    }

    /// A CHECKPOINT was applied. A state that is known to be wrong is not looked at again. `true`: the state was cut, and nobody else may until the round has read it.
    pub fn begin(&self, stock: &mut StockState, generation: u64) -> bool {
        let mut inner = self.lock();
        if !self.is_on || inner.is_busy || self.is_diverged() {
            return false;
        }
        let (cut, at) = (stock.begin_snapshot(), stock.now());
        inner.offer = Some(Offer { cut, generation, at });
        inner.is_busy = true;
        self.wake.notify_one();
        true
    }

    fn set_running(&self, running: Option<(&'static str, u64, u64)>) {
        self.lock().status.running = running;
    }
}

/// Compares whenever a CHECKPOINT has been applied, on a thread of its own, until the node stops.
pub async fn serve(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.shared.reconciler.wake.notified() => {}
            () = core.stopping() => return,
        }
        let offer = core.shared.reconciler.lock().offer.take();
        if let Some(offer) = offer {
            let index = offer.cut.index();
            let at = offer.at;
            let result = Round::new(&core).compare(offer).await;
            end(&core, index, at, result);
        }
    }
}

fn end(core: &Core, index: u64, at: UnixMicros, result: Result<Outcome, GaveUp>) {
    let reconciler = &core.shared.reconciler;
    let mut inner = reconciler.lock();
    inner.is_busy = false;
    let status = &mut inner.status;
    status.running = None;
    match result {
        Ok(Outcome::Same { digest }) => {
            (status.index, status.at, status.digest) = (index, at, digest);
            status.rounds += 1;
        }
        Ok(Outcome::Differs { blocks, found }) => {
            reconciler.diverged.store(true, Ordering::Relaxed);
            let cell = found.iter().find_map(|difference| difference.cell);
            (status.diverged_at, status.differences) = (Some(index), found);
            drop(inner);
            core.note(format_args!(
                "ALARM: the state after entry {index} is not what the log makes of it, in {blocks} blocks; this node \
                 publishes no snapshot any more; see the admin command reconcile, then restart it"
            ));
            core.alarm(Divergence { node: core.me(), index, finding: Finding::Replay, cell });
        }
        Err(GaveUp::Stopping) => {}
        Err(why) => {
            status.given_up += 1;
            drop(inner);
            core.note(format_args!("the state after entry {index} was not compared: {why}"));
        }
    }
}

/// What a round has found.
enum Outcome {
    Same {
        digest: u64,
    },
    /// So many blocks differ. Where is looked up after that, and not known if that cannot be finished.
    Differs {
        blocks: usize,
        found: Vec<Difference>,
    },
}

pub(super) struct Round<'a> {
    core: &'a Arc<Core>,
    piece_began: Duration,
}

type Blocks = BTreeMap<Place, Vec<u8>>;

impl<'a> Round<'a> {
    pub(super) fn new(core: &'a Arc<Core>) -> Self {
        Self { core, piece_began: core.world.clock.monotonic() }
    }

    async fn compare(&mut self, offer: Offer) -> Result<Outcome, GaveUp> {
        let Offer { cut, generation, .. } = offer;
        let index = cut.index();
        let (live, _) = self.read_live(cut, generation, &BTreeSet::new()).await?;
        let (mut stock, mut applied) = self.load().await?;
        self.replay(&mut stock, &mut applied, index).await?;
        let (made, _) = self.read(&mut stock, &BTreeSet::new()).await?;
        let places = live.differing(&made);
        if places.is_empty() {
            return Ok(Outcome::Same { digest: live.digest() });
        }
        let found = match self.locate(&mut stock, &mut applied, &places).await {
            Err(GaveUp::Stopping) => return Err(GaveUp::Stopping),
            found => found.unwrap_or_default(),
        };
        Ok(Outcome::Differs { blocks: places.len(), found })
    }

    /// Cuts the state once more, and looks at the bytes of the blocks that differ.
    async fn locate(
        &mut self,
        stock: &mut StockState,
        applied: &mut u64,
        places: &[Place],
    ) -> Result<Vec<Difference>, GaveUp> {
        let wanted: BTreeSet<Place> = places.iter().copied().take(BLOCKS_MAX).collect();
        let (cut, generation) = self.cut().await?;
        let index = cut.index();
        let (_, live) = self.read_live(cut, generation, &wanted).await?;
        self.replay(stock, applied, index).await?;
        let (_, made) = self.read(stock, &wanted).await?;
        let none = Vec::new();
        let all = wanted.iter().flat_map(|place| {
            let [live, made] = [&live, &made].map(|blocks| blocks.get(place).unwrap_or(&none));
            differences(*place, live, made)
        });
        Ok(all.take(DIFFERENCES_MAX).collect())
    }

    /// The engine's one cut, as soon as nobody else has it.
    async fn cut(&mut self) -> Result<(SnapshotCut, u64), GaveUp> {
        loop {
            {
                let mut applied = self.core.shared.lock();
                if !applied.is_cut {
                    applied.is_cut = true;
                    return Ok((applied.stock.begin_snapshot(), applied.generation()));
                }
            }
            tokio::time::sleep(CUT_RETRY).await;
            self.go_on()?;
        }
    }

    /// Reads a cut of the live state, under short locks, and gives it back.
    async fn read_live(
        &mut self,
        mut cut: SnapshotCut,
        generation: u64,
        wanted: &BTreeSet<Place>,
    ) -> Result<(Fingerprint, Blocks), GaveUp> {
        self.core.shared.reconciler.set_running(Some(("reading the state", 0, 0)));
        let (mut print, mut blocks) = (Fingerprint::default(), Blocks::new());
        loop {
            let chunk = {
                let mut applied = self.core.shared.lock();
                if applied.generation() != generation {
                    applied.is_cut = false;
                    return Err(GaveUp::Replaced);
                }
                applied.stock.snapshot_chunk(&mut cut, CHUNK_BYTES)
            };
            let Some(chunk) = chunk else { break };
            take(&mut print, &mut blocks, &chunk, wanted);
            self.rest().await?;
        }
        let mut applied = self.core.shared.lock();
        if applied.generation() == generation {
            applied.stock.end_snapshot(cut);
        }
        applied.is_cut = false;
        Ok((print, blocks))
    }

    /// Reads the second state.
    async fn read(
        &mut self,
        stock: &mut StockState,
        wanted: &BTreeSet<Place>,
    ) -> Result<(Fingerprint, Blocks), GaveUp> {
        let (mut print, mut blocks) = (Fingerprint::default(), Blocks::new());
        let mut cut = stock.begin_snapshot();
        while let Some(chunk) = stock.snapshot_chunk(&mut cut, CHUNK_BYTES) {
            take(&mut print, &mut blocks, &chunk, wanted);
            self.rest().await?;
        }
        stock.end_snapshot(cut);
        Ok((print, blocks))
    }

    /// The newest snapshot as a state of its own, or an empty one.
    async fn load(&mut self) -> Result<(StockState, u64), GaveUp> {
        let (core, config) = (self.core, self.core.options.engine);
        let Some(newest) = core.shared.newest_snapshot() else {
            return Ok((StockState::new(config), 0));
        };
        core.shared.reconciler.set_running(Some(("loading the snapshot", 0, 0)));
        let loaded = snapshot::load(core.storage.as_ref(), &newest.name, &config, &mut |_, _| ());
        let loaded = loaded.map_err(|error| GaveUp::Because(error.to_string()))?;
        self.rest().await?;
        Ok((loaded.stock, loaded.meta.last_log_id.map_or(0, |id| id.index)))
    }

    /// Applies the log to the second state, up to an entry that is applied to the first.
    pub(super) async fn replay(
        &mut self,
        stock: &mut StockState,
        applied: &mut u64,
        to: u64,
    ) -> Result<(), GaveUp> {
        if *applied > to {
            let why = format!("there is a snapshot of entry {applied} by now");
            return Err(GaveUp::Because(why));
        }
        let log = self.core.log.shard(self.core.shard);
        let (from, all) = (*applied, to.saturating_sub(*applied));
        while *applied < to {
            let records = log.read(*applied + 1, to + 1, LOG_BYTES);
            let records = records.map_err(|error| GaveUp::Because(error.to_string()))?;
            if records.first().is_none_or(|record| record.index != *applied + 1) {
                return Err(GaveUp::Because("the log was purged meanwhile".to_owned()));
            }
            for record in records {
                if let Some(batch) = batch_of(record.kind, record.payload) {
                    stock.apply(record.index, &batch, None);
                }
                *applied = record.index;
                self.rest().await?;
            }
            let running = ("applying the log", *applied - from, all);
            self.core.shared.reconciler.set_running(Some(running));
        }
        Ok(())
    }

    /// Rests if a piece of work is done.
    async fn rest(&mut self) -> Result<(), GaveUp> {
        let clock: &dyn Clock = self.core.world.clock.as_ref();
        let spent = clock.monotonic().saturating_sub(self.piece_began);
        if spent >= PIECE {
            tokio::select! {
                () = tokio::time::sleep(spent * REST) => {}
                () = self.core.stopping() => {}
            }
            self.piece_began = clock.monotonic();
        }
        self.go_on()
    }

    fn go_on(&self) -> Result<(), GaveUp> {
        if self.core.is_stopping() { Err(GaveUp::Stopping) } else { Ok(()) }
    }
}

fn take(print: &mut Fingerprint, blocks: &mut Blocks, chunk: &[u8], wanted: &BTreeSet<Place>) {
    print.add(chunk, |place, body| {
        if wanted.contains(&place) {
            blocks.insert(place, body.to_vec());
        }
    });
}
