//! The proposer: makes batches of what waits and gives them to Raft. The only place where batches
//! form and time is stamped.
//!
//! Batches form by themselves: while [`WINDOW`] entries are in flight, what arrives gathers, so an
//! idle node answers at once and a busy one batches by the hundred, without a timer. The only timer is
//! for bulk that its pace keeps back (`lanes.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::raft::ClientWriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::sleep;

use super::api::Refusal;
use super::core::Core;
use super::ingress::{Routes, Taken};
use super::lanes::{ENTRY_BYTES_MAX, PRINCIPALS_BYTES_MAX};
use super::types::{CommittedLeader, OnComplete, Outcomes, Payload, RaftLogId, TypeConfig};
use crate::engine::batch::{self, BatchBuilder, PrincipalRuns};
use crate::events::Position;
use crate::log::{SEGMENT_BYTES_MIN_REAL, record_bytes_max};
use crate::protocol::Code;
use crate::protocol::event::{ANCHOR_BYTES, Anchor, Divergence};
use crate::world::UnixMicros;

/// Entries in flight. With one, the disk waits for the network and the other way round; more than
/// a few only make smaller batches.
const WINDOW: usize = 4;
/// Alarms in an entry: there are seldom any.
const ALARMS_MAX: usize = 4;
/// An EXPIRE, a CHECKPOINT and alarms, each with a header of 8 bytes.
const OWN_BYTES_MAX: usize = (8 + 4) + (8 + ANCHOR_BYTES) + ALARMS_MAX * (8 + Divergence::BYTES);
/// The largest entry is a record in the smallest segment; an operation of the leader's own is short.
const _: () = assert!(
    batch::head_bytes(PRINCIPALS_BYTES_MAX) + ENTRY_BYTES_MAX + OWN_BYTES_MAX
        <= record_bytes_max(SEGMENT_BYTES_MIN_REAL),
    "the log would stop at an entry that is too long"
);
/// Lines that one EXPIRE may expire or forget: about a third of a millisecond of apply.
const EXPIRE_BUDGET: u32 = 1024;
/// At most one EXPIRE in so long: a million lines a second, and half of apply's time at most.
const EXPIRE_INTERVAL: Duration = Duration::from_millis(1);
/// Time moves at least so often in the log while reservations are active: an outage is measured
/// against it.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

struct Proposer {
    core: Arc<Core>,
    window: Arc<Semaphore>,
    last_expire: Duration,
    last_entry: Duration,
    last_checkpoint: Duration,
}

/// Proposes until the node stops.
pub async fn serve(core: Arc<Core>) {
    let now = core.world.clock.monotonic();
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut proposer =
        Proposer { core, window, last_expire: now, last_entry: now, last_checkpoint: now };
    loop {
        let pause = proposer.core.ingress.pause(proposer.core.world.clock.monotonic());
        tokio::select! {
            () = proposer.core.ingress.pushed() => (),
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => (),
            () = proposer.core.stopping() => return,
        }
        let permit = proposer.window.clone().acquire_owned().await;
        let permit = permit.expect("the window is never closed");
        proposer.propose(permit).await;
    }
}

/// What becomes of one entry's requests.
struct Pending {
    core: Arc<Core>,
    routes: Option<Routes>,
    _permit: OwnedSemaphorePermit,
}

impl Pending {
    fn complete(self, result: ClientWriteResult<TypeConfig>) {
        let Some(routes) = self.routes else { return };
        match result {
            Ok(response) => {
                let index = response.log_id.index;
                let (shard, Outcomes { bytes, now, too_old }) = (self.core.shard, response.data);
                // Who asks about old ids waits for the disk; nobody else does.
                let unless = too_old.is_some().then_some(Code::ID_TOO_OLD);
                let late = routes.answer(shard, (index, now), &bytes, unless);
                if let Some(ops) = too_old {
                    self.core.old_ids.answer_late(&ops, late);
                }
            }
            Err(error) => routes.refuse(&refusal(error)),
        }
    }
}

fn refusal(error: ClientWriteError<TypeConfig>) -> Refusal {
    match error {
        ClientWriteError::ForwardToLeader(forward) => match forward.reason {
            ForwardReason::LeaseExpired => Refusal::new(Code::NO_QUORUM, 100),
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                let leader = forward.leader_node.map(|node| node.info);
                Refusal::not_leader(leader.as_ref())
            }
        },
        // Discarded from this log, but it may have reached the next leader's.
        _ => Refusal::new(Code::OUTCOME_UNKNOWN, 0),
    }
}

/// Proposes a leader's first entry in `term`; true when it is committed and applied.
pub async fn propose_leader_start(core: &Core, term: u64, now: UnixMicros) -> bool {
    let mut own = BytesMut::new();
    batch::encode_leader_start(&mut own);
    let payload = encode_batch(None, &own, 1, now);
    let (done, committed) = oneshot::channel();
    let on_complete = OnComplete::new(move |result: ClientWriteResult<TypeConfig>| {
        // The node may be stopping and no longer wait.
        let _ = done.send(result.is_ok());
    });
    let write = core.raft().write(payload).with_leader(leader_of(term)).responder(on_complete);
    core.proposed.entries.fetch_add(1, Ordering::Relaxed);
    write.await.is_ok() && committed.await.unwrap_or(false)
}

/// An entry is only for the term whose clock stamped it.
fn leader_of(term: u64) -> CommittedLeader {
    RaftLogId::new_term_index(term, 0).leader_id
}

/// The clients' operations first: their outcomes open the reply, and their principals the table. Nobody asked
/// for the leader's own.
fn encode_batch(clients: Option<&Taken>, own: &[u8], own_ops: u32, now: UnixMicros) -> Payload {
    let nobody = PrincipalRuns::default();
    let (bytes, ops, principals) = match clients {
        Some(taken) => (&taken.bytes[..], taken.ops, &taken.principals),
        None => (&[][..], 0, &nobody),
    };
    let head = batch::head_bytes(principals.bytes().len());
    let mut payload = BytesMut::with_capacity(head + bytes.len() + own.len());
    let builder = BatchBuilder::begin_named(&mut payload, principals);
    payload.put_slice(bytes);
    payload.put_slice(own);
    builder.finish(&mut payload, now, ops + own_ops);
    Payload(payload.freeze())
}

impl Proposer {
    async fn propose(&mut self, permit: OwnedSemaphorePermit) {
        let Some((payload, routes, term)) = self.next_batch() else { return };
        let pending = Pending { core: self.core.clone(), routes, _permit: permit };
        let on_complete = OnComplete::new(move |result| pending.complete(result));
        let write = self.core.raft().write(payload).with_leader(leader_of(term));
        if let Err(error) = write.responder(on_complete).await {
            // The responder was dropped, and with it the routes: they say that nobody knows.
            self.core.note(format_args!("a batch found no Raft: {error}"));
        }
    }

    /// What a leader has to say about the state itself; how many operations that is.
    fn put_words(&mut self, monotonic: Duration, own: &mut BytesMut) -> u32 {
        let alarms = self.core.take_alarms(ALARMS_MAX);
        alarms.iter().for_each(|divergence| batch::encode_diverged(own, divergence));
        let mut count = alarms.len() as u32;
        let since = monotonic.saturating_sub(self.last_checkpoint);
        let is_time = self.core.options.reconcile.is_some_and(|interval| since >= interval);
        if self.core.checkpoint_asked.swap(false, Ordering::Relaxed) || is_time {
            self.last_checkpoint = monotonic;
            batch::encode_checkpoint(own, &self.anchor());
            count += 1;
        }
        count
    }

    /// How far this leader's events are, and their chain, if it is one that others have.
    fn anchor(&self) -> Anchor {
        let events = self.core.shared.events.as_ref().map(|events| events.position());
        let whole = events.filter(|position| position.is_whole);
        whole.map(|Position { next, chain, .. }| Anchor { next, chain }).unwrap_or_default()
    }

    /// The next entry and its term, or `None` if this node is not in office or nothing is to be said.
    fn next_batch(&mut self) -> Option<(Payload, Option<Routes>, u64)> {
        let core = self.core.clone();
        let mut tenure = core.tenure.lock().expect("no holder panics");
        let tenure = tenure.as_mut()?;
        let now = core.stamp_of(&mut tenure.clock);
        let monotonic = core.world.clock.monotonic();
        let taken = core.ingress.take(monotonic);
        let mut own = BytesMut::new();
        let mut own_ops = 0;
        if monotonic.saturating_sub(self.last_expire) >= EXPIRE_INTERVAL
            && core.shared.lock().stock.due(now)
        {
            self.last_expire = monotonic;
            batch::encode_expire(&mut own, EXPIRE_BUDGET);
            own_ops = 1;
        } else if taken.is_none()
            && monotonic.saturating_sub(self.last_entry) >= TICK_INTERVAL
            && core.shared.lock().stock.active_reservations() > 0
        {
            batch::encode_tick(&mut own);
            own_ops = 1;
        }
        own_ops += self.put_words(monotonic, &mut own);
        if taken.is_none() && own_ops == 0 {
            return None;
        }
        self.last_entry = monotonic;
        let ops = taken.as_ref().map_or(0, |taken| taken.ops);
        core.proposed.entries.fetch_add(1, Ordering::Relaxed);
        core.proposed.ops.fetch_add(u64::from(ops), Ordering::Relaxed);
        let payload = encode_batch(taken.as_ref(), &own, own_ops, now);
        Some((payload, taken.map(|taken| taken.routes), tenure.term))
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::{ReplyTo, RequestTag};
    use super::super::ingress::{Gate, Ingress};
    use super::super::lanes::Source;
    use super::*;
    use crate::engine::batch::{Batch, Command};
    use crate::protocol::{Op, ReplyPrefix, ShardId};

    #[derive(Default)]
    struct Deaf(Source);

    impl ReplyTo for Deaf {
        fn reply(&self, _: RequestTag, _: ShardId, _: ReplyPrefix, _: &[u8]) {}
        fn refuse(&self, _: RequestTag, _: &Refusal) {}
        fn source(&self) -> &Source {
            &self.0
        }
    }

    /// What an entry has of requests of so many operations, each of somebody, and of an EXPIRE.
    fn entry(requests: &[(&[u8], u32)]) -> Payload {
        let ingress = Ingress::new();
        ingress.set_gate(Gate::Open);
        for (name, ops) in requests {
            let to = Deaf::default();
            to.source().set_principal(name);
            let (to, mut bytes): (Arc<dyn ReplyTo>, _) = (Arc::new(to), BytesMut::new());
            (0..*ops).for_each(|_| Op::encode_define(&mut bytes, b"w", name));
            let tag = RequestTag { request_id: 1, batch: true, ops: *ops };
            assert!(ingress.guard().push(&to, tag, &bytes).is_ok());
        }
        let mut own = BytesMut::new();
        batch::encode_expire(&mut own, EXPIRE_BUDGET);
        encode_batch(ingress.take(Duration::ZERO).as_ref(), &own, 1, UnixMicros(7))
    }

    /// The name in each operation, and its principal.
    fn names(entry: &Payload) -> Vec<(&[u8], &[u8])> {
        let mut batch = Batch::decode(&entry.0);
        let mut principals = batch.principals;
        let name = |command| match command {
            Command::Client(Op::Define { cell }, ..) => match cell {
                crate::protocol::CellRef::Name { sku, .. } => sku,
                crate::protocol::CellRef::Handle(_) => b"#",
            },
            _ => &b""[..],
        };
        (0..batch.op_count).map(|at| (name(batch.take()), principals.of(at))).collect()
    }

    #[test]
    fn every_operation_of_an_entry_has_its_clients_name() {
        let requests: [(&[u8], u32); 4] = [(b"shop", 2), (b"desk", 1), (b"shop", 3), (b"b", 1)];
        let entry = entry(&requests);
        let names = names(&entry);
        assert_eq!(names.len(), 8);
        assert!(names.iter().all(|(name, principal)| name == principal), "{names:?}");
        assert_eq!(names[7], (&b""[..], &b""[..]), "nobody asked for the leader's own");
    }
}
