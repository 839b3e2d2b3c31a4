//! The state machine behind Raft: the engine, its place in the log, and its snapshots.
//!
//! One lock guards the engine. Apply holds it for one entry, reads of reservations and snapshot
//! chunks for less; counters are read through [`CellReader`] without it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::api::Observer;
use super::error::Error;
use super::log_store::LogStore;
use super::reconcile::{Proof, Reconciler, Verdict};
use super::snapshot::{self, Loaded, SnapshotHandle};
use super::types::{Entry, Outcomes, RaftLogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::archive::{Archive, BATCH_BYTES, Notice};
use crate::engine::batch::Batch;
use crate::engine::{CellReader, EngineConfig, Fingerprint, SnapshotCut, StockState};
use crate::events::{EventLog, EventOptions, Position};
use crate::log::{Storage, is_full};
use crate::protocol::ShardId;
use crate::world::World;

/// After so many operations applied in a row, other tasks get a turn: about half a millisecond.
const OPS_PER_TURN: u64 = 2048;
/// How long a snapshot waits for space before it tries again.
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// How long a snapshot waits until nobody else reads a cut.
const CUT_RETRY: Duration = Duration::from_millis(20);

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotHandle>;

/// The engine and its place in the log.
pub struct Applied {
    pub stock: StockState,
    pub last: Option<RaftLogId>,
    pub membership: StoredMembership,
    /// Counts installed snapshots: a build that finds another one starts anew.
    generation: u64,
    /// Somebody reads the engine's one cut.
    pub is_cut: bool,
}

impl Applied {
    /// Another one: a snapshot was installed meanwhile.
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// What the state machine shares with readers.
pub struct Shared {
    applied: Mutex<Applied>,
    pub cells: CellReader,
    /// Where what is forgotten goes.
    pub archive: Option<Arc<Archive>>,
    /// Where what has changed goes.
    pub events: Option<Arc<EventLog>>,
    /// Who compares the state with what the log makes.
    pub reconciler: Reconciler,
    snapshot: Mutex<Option<Snapshot>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Shared {
    /// Locks the engine; keep it short, apply waits.
    pub fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().expect("a panic under the engine's lock aborts the process")
    }

    /// The newest snapshot's index; 0: none.
    pub fn snapshot_index(&self) -> u64 {
        let snapshot = self.snapshot.lock().expect("no holder panics");
        let last = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
        last.map_or(0, |id| id.index)
    }

    /// The newest snapshot's file.
    pub fn newest_snapshot(&self) -> Option<SnapshotHandle> {
        let snapshot = self.snapshot.lock().expect("no holder panics");
        snapshot.as_ref().map(|snapshot| snapshot.snapshot.clone())
    }

    /// Notes a new snapshot, unless a later one was installed while it was written.
    fn set_snapshot(&self, meta: &SnapshotMeta, handle: SnapshotHandle) {
        let mut newest = self.snapshot.lock().expect("no holder panics");
        if newest.as_ref().is_none_or(|newest| newest.meta.last_log_id <= meta.last_log_id) {
            *newest = Some(Snapshot { meta: meta.clone(), snapshot: handle });
        }
    }

    fn show_restored(&self) {
        if let Some(observer) = &self.observer {
            let applied = self.lock();
            if let Some(last) = applied.last {
                observer.restored(last.index, &applied.stock);
            }
        }
    }

    fn apply(&self, entry: &Entry, answered: bool) -> Outcomes {
        let mut applied = self.lock();
        let mut out = BytesMut::new();
        let (mut batch_bytes, mut too_old) = (None, None);
        match &entry.payload {
            EntryPayload::Blank => (),
            EntryPayload::Normal(batch) => {
                batch_bytes = Some(batch.0.as_ref());
                let out = answered.then_some(&mut out);
                let done = applied.stock.apply(entry.log_id.index, &batch.0, out);
                too_old =
                    done.too_old.then(|| batch.0.slice_ref(Batch::decode(&batch.0).ops.rest()));
                match done.checkpoint {
                    None => (),
                    Some(_) if applied.is_cut => self.reconciler.pass_over(entry.log_id.index),
                    Some(anchor) => {
                        let at = (entry.log_id.index, applied.generation);
                        applied.is_cut = self.reconciler.begin(&mut applied.stock, at, anchor);
                    }
                }
                done.divergences.iter().for_each(|found| self.reconciler.heard(found));
                if let Some(archive) = &self.archive {
                    archive.tell_time(applied.stock.now().as_millis());
                }
                if let Some(events) = &self.events {
                    events.tell_time(applied.stock.now().as_millis());
                    applied.stock.pass_events_on(|record| events.append(record));
                }
                if applied.stock.forgotten_bytes() >= BATCH_BYTES {
                    self.archive_forgotten(&mut applied.stock);
                }
            }
            EntryPayload::Membership(members) => {
                applied.membership = StoredMembership::new(Some(entry.log_id), members.clone());
            }
        }
        applied.last = Some(entry.log_id);
        if let Some(observer) = &self.observer {
            observer.applied(entry.log_id.index, batch_bytes, &applied.stock);
        }
        Outcomes { bytes: out.freeze(), now: applied.stock.now(), too_old }
    }

    fn archive_forgotten(&self, stock: &mut StockState) {
        if let Some(archive) = &self.archive {
            archive.take_in(stock.take_forgotten());
        }
    }

    /// Waits while too many events wait for the disk.
    async fn event_room(&self) {
        if let Some(events) = &self.events {
            events.room().await;
        }
    }

    /// What the archive has may go where the log or a snapshot has no room.
    pub fn make_room(&self) {
        if let Some(archive) = &self.archive {
            archive.make_room();
        }
    }

    /// Waits until all that was forgotten before is in the archive's files: only then may the log that it
    /// came from be purged.
    async fn flush_archive(&self) -> io::Result<()> {
        match &self.archive {
            Some(archive) => archive.flush().await,
            None => Ok(()),
        }
    }
}

/// How events are kept.
pub struct EventsOf {
    pub options: EventOptions,
    pub shard: ShardId,
    pub notice: Notice,
}

/// openraft's handle on the engine.
pub struct StateMachine {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    config: EngineConfig,
    world: World,
    log: LogStore,
}

impl StateMachine {
    /// Restores the newest snapshot, or starts empty.
    ///
    /// # Errors
    /// The snapshot cannot be read or is damaged.
    pub fn open(
        storage: Arc<dyn Storage>,
        config: EngineConfig,
        world: World,
        log: LogStore,
        (archive, events, reconciler): (Option<Arc<Archive>>, Option<EventsOf>, Reconciler),
        observer: Option<Arc<dyn Observer>>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, Arc<Shared>), Error> {
        let io = |source| Error::Io { file: storage.path("."), source };
        let newest = snapshot::newest(storage.as_ref()).map_err(io)?;
        let Loaded { meta, events: position, mut stock } = match &newest {
            None => {
                let stock = StockState::new(config);
                Loaded { meta: SnapshotMeta::default(), events: Position::START, stock }
            }
            Some(handle) => snapshot::load(storage.as_ref(), &handle.name, &config, progress)?,
        };
        let events = events.map(|EventsOf { options, shard, notice }| {
            stock.keep_events(shard);
            EventLog::open(storage.clone(), &world, options, shard, position, notice).map(Arc::new)
        });
        let events = events.transpose().map_err(Error::Events)?;
        if archive.is_some() {
            stock.keep_forgotten();
        }
        let cells = stock.cells();
        let membership = meta.last_membership.clone();
        let applied =
            Applied { stock, last: meta.last_log_id, membership, generation: 0, is_cut: false };
        let (applied, snapshot) = (Mutex::new(applied), Mutex::new(None));
        let shared =
            Arc::new(Shared { applied, cells, archive, events, reconciler, snapshot, observer });
        if let Some(handle) = newest {
            shared.set_snapshot(&meta, handle);
            shared.show_restored();
        }
        Ok((Self { shared: shared.clone(), storage, config, world, log }, shared))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
        let applied = self.shared.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut bytes_in_turn = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.shared.event_room().await;
            let outcomes = self.shared.apply(&entry, responder.is_some());
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
            if let EntryPayload::Normal(batch) = &entry.payload {
                bytes_in_turn += batch.0.len() as u64;
            }
            // An operation is about 40 bytes.
            if bytes_in_turn > OPS_PER_TURN * 40 {
                bytes_in_turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            shared: self.shared.clone(),
            storage: self.storage.clone(),
            world: self.world.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotHandle,
    ) -> io::Result<()> {
        let (storage, config) = (self.storage.clone(), self.config);
        let loaded = snapshot::load_aside(&self.world, storage, data.name.clone(), config).await;
        let loaded = loaded.map_err(|error| io::Error::other(error.to_string()))?;
        // Raft may have cut a tail that conflicts with the snapshot. Were the snapshot durable and the
        // cut not, a power cut would leave a log that contradicts it.
        self.log.sync().await?;
        if let Some(archive) = &self.shared.archive {
            archive.take_in(self.shared.lock().stock.take_forgotten());
            archive.write_soon();
        }
        if let Some(events) = &self.shared.events {
            // A full disk is waited out, as when a snapshot is built.
            while let Err(error) = events.rebase(loaded.events).await {
                if !is_full(&error) {
                    return Err(error);
                }
                self.shared.make_room();
                tokio::time::sleep(SPACE_RETRY).await;
            }
        }
        let name = snapshot::publish(self.storage.as_ref(), &data.name, meta.last_log_id)?;
        {
            let mut applied = self.shared.lock();
            applied.stock.replace_from(loaded.stock);
            applied.generation += 1;
            let index = meta.last_log_id.map_or(0, |id| id.index);
            self.shared.reconciler.replaced(index, applied.stock.next_event());
            applied.last = meta.last_log_id;
            applied.membership = meta.last_membership.clone();
        }
        self.shared.show_restored();
        self.shared.set_snapshot(meta, SnapshotHandle { name, bytes: data.bytes });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.shared.snapshot.lock().expect("no holder panics").clone())
    }
}

/// Writes the state of one moment to a file while apply goes on.
pub struct SnapshotBuilder {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    world: World,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotHandle;

    /// A full disk is waited out: the node serves on with the log it has.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        loop {
            let reconciler = &self.shared.reconciler;
            if reconciler.is_diverged() || reconciler.is_closed() {
                // It would make a wrong state the one that everything is made of; or the node stops.
                tokio::time::sleep(SPACE_RETRY).await;
                continue;
            }
            match self.try_build().await {
                Err(error) if is_full(&error) => {
                    self.shared.make_room();
                    tokio::time::sleep(SPACE_RETRY).await;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                result => return result,
            }
        }
    }
}

impl SnapshotBuilder {
    async fn try_build(&self) -> io::Result<Snapshot> {
        self.take_cut().await;
        let (mut cut, meta, events, next_event, generation) = {
            let mut applied = self.shared.lock();
            let meta = SnapshotMeta {
                last_log_id: applied.last,
                last_membership: applied.membership.clone(),
            };
            self.shared.archive_forgotten(&mut applied.stock);
            let next_event = applied.stock.next_event();
            let unknown = Position::unknown(next_event);
            let mark = self.shared.events.as_ref().map(|events| events.mark());
            let events = async move {
                let Some(mark) = mark else { return Ok(unknown) };
                match mark.await? {
                    // A snapshot is being installed: its events are there, and its state is not yet.
                    position if position.next != next_event => {
                        tokio::time::sleep(CUT_RETRY).await;
                        Err(io::ErrorKind::Interrupted.into())
                    }
                    position => Ok(position),
                }
            };
            let cut = applied.stock.begin_snapshot();
            (cut, meta, events, next_event, applied.generation)
        };
        let (index, log_bytes) =
            (meta.last_log_id.map_or(0, |id| id.index), self.shared.reconciler.log_bytes());
        let result = self.write_cut(&mut cut, &meta, events, generation).await;
        self.end_cut(cut, generation);
        let (bytes, print) = result?;
        let proof = Proof { index, next_event, generation, print };
        if self.shared.reconciler.prove(proof, log_bytes).await == Verdict::Refuse {
            snapshot::discard_aside(&self.world, self.storage.clone()).await?;
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (storage, id) = (self.storage.clone(), meta.last_log_id);
        let handle = snapshot::publish_built(&self.world, storage, id, bytes).await?;
        self.shared.set_snapshot(&meta, handle.clone());
        Ok(Snapshot { meta, snapshot: handle })
    }

    /// Waits until the engine's one cut is this one's.
    async fn take_cut(&self) {
        while std::mem::replace(&mut self.shared.lock().is_cut, true) {
            tokio::time::sleep(CUT_RETRY).await;
        }
    }

    /// Gives the engine's one cut back.
    fn end_cut(&self, cut: SnapshotCut, generation: u64) {
        let mut applied = self.shared.lock();
        if applied.generation == generation {
            applied.stock.end_snapshot(cut);
        }
        applied.is_cut = false;
    }

    /// Copies the cut chunk by chunk, under short locks, to the thread that writes it.
    async fn write_cut(
        &self,
        cut: &mut SnapshotCut,
        meta: &SnapshotMeta,
        events: impl Future<Output = io::Result<Position>>,
        generation: u64,
    ) -> io::Result<(u64, Fingerprint)> {
        self.shared.flush_archive().await?;
        let events = events.await?;
        let (chunks, written) = snapshot::write(&self.world, self.storage.clone(), meta, events)?;
        let mut print = Fingerprint::default();
        loop {
            let chunk = {
                let mut applied = self.shared.lock();
                let current = applied.generation == generation;
                current.then(|| applied.stock.snapshot_chunk(cut, snapshot::CHUNK_BYTES_MAX))
            };
            let Some(chunk) = chunk else {
                // The writer must have let go of its file before the next attempt makes it again.
                drop(chunks);
                return match written.await {
                    Ok(Ok(_)) | Err(_) => Err(io::ErrorKind::Interrupted.into()),
                    Ok(Err(error)) => Err(error),
                };
            };
            // An empty chunk says that all were sent; a closed channel, that writing failed.
            let last = chunk.is_none();
            if let Some(chunk) = &chunk {
                print.add(chunk, |_, _| ());
            }
            if chunks.send(chunk.unwrap_or_default()).await.is_err() || last {
                break;
            }
            tokio::task::yield_now().await;
        }
        let bytes = written.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))?;
        Ok((bytes, print))
    }
}
