//! One comparison, in pieces, with rests between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Proof;
use crate::engine::{Difference, Fingerprint, Place, SnapshotCut, StockState, differences};
use crate::events::ReadError;
use crate::protocol::event::Anchor;
use crate::replication::core::Core;
use crate::replication::snapshot::{self, CHUNK_BYTES_MAX};
use crate::replication::types::batch_of;
use crate::world::Clock;

/// After a piece of work so many times as long is rested: a round takes a quarter of a processor.
const REST: u32 = 3;
/// Work is done in pieces of about so long.
const PIECE: Duration = Duration::from_millis(2);
/// So often one looks up from a long rest.
const REST_SLICE: Duration = Duration::from_millis(100);
/// Bytes of the state that are copied under the engine's lock at a time.
const CHUNK_BYTES: usize = CHUNK_BYTES_MAX / 4;
/// Payload bytes of the log that are read at a time.
const LOG_BYTES: usize = 1 << 20;
/// Differing blocks whose entries are looked at; a wrong state may differ everywhere.
const BLOCKS_MAX: usize = 64;
/// Differences that are kept to be shown.
pub(super) const DIFFERENCES_MAX: usize = 100;
/// How long events are waited for that were applied.
const EVENTS_PATIENCE: Duration = Duration::from_secs(1);
/// Until the engine's one cut is free.
const CUT_RETRY: Duration = Duration::from_millis(20);
/// Memory that a state takes, by the bytes of its snapshot, at most (ARCHITECTURE section 5).
const MEMORY_OF_SNAPSHOT: u64 = 2;
/// Of the memory that is free, a second state takes at most one in so many.
const MEMORY_SHARE: u64 = 2;

/// Why a round came to nothing.
pub(in crate::replication) enum GaveUp {
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

/// What a round has found.
pub(super) enum Outcome {
    Same,
    /// So many blocks differ. Where is looked up after that, and not known if that cannot be finished. The event
    /// after which it was right, if that is known.
    Differs {
        blocks: usize,
        found: Vec<Difference>,
        since: u64,
    },
}

pub(in crate::replication) struct Round<'a> {
    core: &'a Arc<Core>,
    piece_began: Duration,
}

pub(super) type Blocks = BTreeMap<Place, Vec<u8>>;

impl<'a> Round<'a> {
    pub fn new(core: &'a Arc<Core>) -> Self {
        Self { core, piece_began: core.world.clock.monotonic() }
    }

    /// What was in memory at a CHECKPOINT, and the bytes of some blocks of it.
    pub(super) async fn look(
        &mut self,
        cut: SnapshotCut,
        generation: u64,
        wanted: &BTreeSet<Place>,
    ) -> Result<(Fingerprint, Blocks), GaveUp> {
        self.read_live(cut, generation, wanted).await
    }

    /// The chain of this node's events at the place that a CHECKPOINT tells of: its first bytes. `None`: it has no whole
    /// one there, or the leader had none.
    pub async fn chain_at(&self, anchor: &Anchor) -> Result<Option<u64>, ReadError> {
        let Some(events) = self.core.shared.events.as_ref().filter(|_| anchor.next > 0) else {
            return Ok(None);
        };
        // The CHECKPOINT itself comes behind that place, and is soon there; not on a disk that stands still.
        let mut reached = events.subscribe();
        let is_there = reached.wait_for(|reached| reached.next > anchor.next);
        let _ = tokio::time::timeout(EVENTS_PATIENCE, is_there).await;
        match events.position_at(anchor.next) {
            // Where no record begins at that place, it is the one behind, and another one.
            Ok(own) if own.is_whole => {
                Ok(own.chain.first_chunk().map(|head| u64::from_le_bytes(*head)))
            }
            Ok(_) | Err(ReadError::Gone { .. } | ReadError::Ahead { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Is what was in memory after an entry what the log makes up to there?
    pub(super) async fn check(&mut self, proof: &Proof) -> Result<Outcome, GaveUp> {
        self.go_on()?;
        self.has_memory(proof.print.bytes())?;
        let (mut stock, mut applied) = self.load().await?;
        let since = stock.next_event();
        self.replay(&mut stock, &mut applied, proof.index).await?;
        let (made, _) = self.read(&mut stock, &BTreeSet::new()).await?;
        let places = proof.print.differing(&made);
        if places.is_empty() {
            return Ok(Outcome::Same);
        }
        let found = match self.locate(&mut stock, &mut applied, &places).await {
            Err(GaveUp::Stopping) => return Err(GaveUp::Stopping),
            found => found.unwrap_or_default(),
        };
        Ok(Outcome::Differs { blocks: places.len(), found, since })
    }

    /// # Errors
    /// A second state would take memory that the node needs.
    fn has_memory(&self, bytes: u64) -> Result<(), GaveUp> {
        let needed = bytes.saturating_mul(MEMORY_OF_SNAPSHOT);
        match self.core.world.memory.available() {
            Some(available) if needed > available / MEMORY_SHARE => Err(GaveUp::Because(format!(
                "a second state takes up to {} MiB, and {} MiB of memory are free: half of that may be used",
                needed >> 20,
                available >> 20
            ))),
            _ => Ok(()),
        }
    }

    /// Cuts the state once more, and looks at the bytes of the blocks that differ.
    async fn locate(
        &mut self,
        stock: &mut StockState,
        applied: &mut u64,
        places: &[Place],
    ) -> Result<Vec<Difference>, GaveUp> {
        let wanted: BTreeSet<Place> = places.iter().copied().take(BLOCKS_MAX).collect();
        let (cut, generation, index) = self.cut().await?;
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

    /// The engine's one cut, as soon as nobody else has it, and after which entry it is.
    async fn cut(&mut self) -> Result<(SnapshotCut, u64, u64), GaveUp> {
        loop {
            {
                let mut applied = self.core.shared.lock();
                if !applied.is_cut {
                    applied.is_cut = true;
                    let (generation, last) = (applied.generation(), applied.last);
                    let cut = applied.stock.begin_snapshot();
                    return Ok((cut, generation, last.map_or(0, |id| id.index)));
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
        let (mut print, mut blocks) = (Fingerprint::default(), Blocks::new());
        let mut result = Ok(());
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
            result = self.rest().await;
            if result.is_err() {
                break;
            }
        }
        let mut applied = self.core.shared.lock();
        if applied.generation() == generation {
            applied.stock.end_snapshot(cut);
        }
        applied.is_cut = false;
        result.map(|()| (print, blocks))
    }

    /// Reads the second state.
    async fn read(
        &mut self,
        stock: &mut StockState,
        wanted: &BTreeSet<Place>,
    ) -> Result<(Fingerprint, Blocks), GaveUp> {
        let (mut print, mut blocks) = (Fingerprint::default(), Blocks::new());
        let all = stock.stats().bytes;
        let mut cut = stock.begin_snapshot();
        while let Some(chunk) = stock.snapshot_chunk(&mut cut, CHUNK_BYTES) {
            take(&mut print, &mut blocks, &chunk, wanted);
            let running = ("comparing", print.bytes(), all.max(print.bytes()));
            self.core.shared.reconciler.set_running(Some(running));
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
        let reconciler = &core.shared.reconciler;
        let progress = &mut |done, all| {
            reconciler.set_running(Some(("loading the snapshot", done, all)));
        };
        let loaded = snapshot::load(core.storage.as_ref(), &newest.name, &config, progress);
        let loaded = loaded.map_err(|error| GaveUp::Because(error.to_string()))?;
        self.rest().await?;
        Ok((loaded.stock, loaded.meta.last_log_id.map_or(0, |id| id.index)))
    }

    /// Applies the log to the second state, up to an entry that is applied to the first.
    pub async fn replay(
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
        if spent < PIECE {
            return Ok(());
        }
        let mut rest = spent * REST;
        while !rest.is_zero() {
            self.go_on()?;
            let slice = rest.min(REST_SLICE);
            tokio::time::sleep(slice).await;
            rest -= slice;
        }
        self.piece_began = clock.monotonic();
        self.go_on()
    }

    fn go_on(&self) -> Result<(), GaveUp> {
        if self.core.is_stopping() {
            return Err(GaveUp::Stopping);
        }
        let Some(limit) = self.core.shared.reconciler.log_bytes_limit() else { return Ok(()) };
        let why = match self.core.log.stats().bytes_written >= limit {
            true => "the log grows faster than it can be applied beside: the next snapshot is due",
            false if self.core.is_full() => "the disk is full, and a snapshot waits to make room",
            false => return Ok(()),
        };
        Err(GaveUp::Because(why.to_owned()))
    }
}

fn take(print: &mut Fingerprint, blocks: &mut Blocks, chunk: &[u8], wanted: &BTreeSet<Place>) {
    print.add(chunk, |place, body| {
        if wanted.contains(&place) {
            blocks.insert(place, body.to_vec());
        }
    });
}
