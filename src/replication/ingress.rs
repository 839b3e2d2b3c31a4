//! Ingress: where the operations of all connections wait for their batch.
//!
//! ```text
//! sessions ──push──▶ queue ──take──▶ proposer ──▶ one Raft entry ──apply──▶ Routes ──▶ ReplyTo
//! ```
//!
//! There is no task, channel or allocation per operation: a session holds the lock once per burst
//! and appends bytes; the proposer takes what gathered while the entries before were in flight.
//!
//! Which requests an entry takes, and so who waits for whom, is decided by [`Lanes`].
//!
//! Invariants:
//! - a pushed request is answered exactly once: by its outcomes, or by a refusal. [`Routes`] refuses
//!   with `OUTCOME_UNKNOWN` when it is dropped unanswered. Only what waits for a connection that is
//!   gone is dropped instead;
//! - a batch frame is never split over entries;
//! - the queue is bounded; a full one answers BUSY.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::api::{Refusal, ReplyTo, RequestTag};
use super::lanes::{Full, Lanes, Request};
use crate::engine::batch::PrincipalRuns;
use crate::protocol::{Code, Reader, ReplyPrefix, ShardId, UnixMillis, take_outcome};
use crate::world::UnixMicros;

/// What BUSY tells a client to wait when the queue is full: a few entries' time.
const BUSY_RETRY_MS: u32 = 5;

/// Why nothing may be pushed now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gate {
    Open,
    Shut(Refusal),
}

struct Queue {
    gate: Gate,
    lanes: Lanes,
    /// Operations that were proposed and not yet answered.
    in_flight_ops: u64,
}

/// The queue between sessions and the proposer.
pub struct Ingress {
    queue: Mutex<Queue>,
    wake: Notify,
}

/// The lock on the queue, for one burst of frames.
pub struct IngressGuard<'a> {
    queue: MutexGuard<'a, Queue>,
    wake: &'a Notify,
    pushed: bool,
}

/// The requests of one entry and where their answers go.
pub struct Routes {
    requests: Vec<Request>,
    ingress: Arc<Ingress>,
    ops: u32,
    bulk_ops: u32,
}

/// A request that was applied and waits for its answer.
pub struct Unanswered {
    request: Request,
    shard: ShardId,
    prefix: ReplyPrefix,
    /// Where its operations are among the bytes of the entry's.
    pub ops_at: Range<usize>,
    pub outcomes: Bytes,
}

impl Unanswered {
    /// How many operations it has.
    pub fn op_count(&self) -> u32 {
        self.request.tag.ops
    }

    /// Hands it these outcomes.
    pub fn answer(self, outcomes: &[u8]) {
        self.request.to.reply(self.request.tag, self.shard, self.prefix, outcomes);
    }
}

/// What the proposer took: operation bytes, their count, who asked for them, and the routes of the answers.
pub struct Taken {
    pub bytes: Bytes,
    pub ops: u32,
    pub principals: PrincipalRuns,
    pub routes: Routes,
}

impl Ingress {
    pub fn new() -> Arc<Self> {
        let queue = Queue {
            gate: Gate::Shut(Refusal::not_leader(None)),
            lanes: Lanes::new(),
            in_flight_ops: 0,
        };
        Arc::new(Self { queue: Mutex::new(queue), wake: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of the ingress lock panics: a panic aborts the process")
    }

    /// Locks the queue for one burst.
    pub fn guard(&self) -> IngressGuard<'_> {
        IngressGuard { queue: self.lock(), wake: &self.wake, pushed: false }
    }

    /// Operations that wait, and operations in flight.
    pub fn depth(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.lanes.ops(), queue.in_flight_ops)
    }

    /// The gate as it stands.
    pub fn gate(&self) -> Gate {
        self.lock().gate.clone()
    }

    /// Opens or shuts the gate. Shutting refuses what waits: it was never proposed.
    pub fn set_gate(&self, gate: Gate) {
        let mut refused = Vec::new();
        {
            let mut queue = self.lock();
            if matches!(gate, Gate::Shut(_)) {
                refused = queue.lanes.clear();
            }
            queue.gate = gate.clone();
        }
        if let Gate::Shut(refusal) = gate {
            refused.iter().for_each(|request| request.to.refuse(request.tag, &refusal));
        }
    }

    /// Waits until something was pushed or [`poke`](Self::poke) was called.
    pub async fn pushed(&self) {
        self.wake.notified().await;
    }

    /// How long the proposer may sleep for want of a push although something waits; `None`: until the
    /// next push or answer.
    pub fn pause(&self, now: Duration) -> Option<Duration> {
        self.lock().lanes.pause(now)
    }

    /// Wakes the proposer, which may have something of its own to propose.
    pub fn poke(&self) {
        self.wake.notify_one();
    }

    /// Takes the next entry's worth of requests at monotonic time `now`; `None` if nothing waits, or
    /// only what is kept back for [`pause`](Self::pause), or until what is in flight is answered.
    pub fn take(self: &Arc<Self>, now: Duration) -> Option<Taken> {
        let mut queue = self.lock();
        let parcel = queue.lanes.next(now)?;
        queue.in_flight_ops += u64::from(parcel.ops);
        if queue.lanes.ops() > 0 {
            self.wake.notify_one();
        }
        let (ops, bulk_ops) = (parcel.ops, parcel.bulk_ops);
        let routes = Routes { requests: parcel.requests, ingress: self.clone(), ops, bulk_ops };
        Some(Taken { bytes: parcel.bytes.freeze(), ops, principals: parcel.principals, routes })
    }
}

impl IngressGuard<'_> {
    /// Queues one frame's operations: `ops` holds `tag.ops` encoded writes, already checked.
    ///
    /// # Errors
    /// The frame is refused and nothing of it will be executed: `NOT_LEADER`, `NO_QUORUM`,
    /// `DISK_FULL`, or `BUSY` when the queue is full.
    pub fn push(
        &mut self,
        to: &Arc<dyn ReplyTo>,
        tag: RequestTag,
        ops: &[u8],
    ) -> Result<(), Refusal> {
        let queue = &mut *self.queue;
        if let Gate::Shut(refusal) = &queue.gate {
            return Err(refusal.clone());
        }
        queue
            .lanes
            .push(to, tag, ops)
            .map_err(|Full| Refusal::busy(BUSY_RETRY_MS, "too many operations wait for the log"))?;
        self.pushed = true;
        Ok(())
    }
}

impl Drop for IngressGuard<'_> {
    fn drop(&mut self) {
        if self.pushed {
            self.wake.notify_one();
        }
    }
}

impl Routes {
    /// Hands each request its outcomes, but for those among whose codes one is `unless`: they are returned, to
    /// be answered later.
    ///
    /// # Panics
    /// `outcomes` holds fewer than the entry's operations: apply broke its promise.
    pub fn answer(
        mut self,
        shard: ShardId,
        (index, now): (u64, UnixMicros),
        outcomes: &[u8],
        unless: Option<Code>,
    ) -> Vec<Unanswered> {
        let prefix = ReplyPrefix { index, server_now: UnixMillis(now.as_millis()), age_ms: 0 };
        let mut rest = Reader::new(outcomes);
        let (mut ops_end, mut unanswered) = (0, Vec::new());
        for request in std::mem::take(&mut self.requests) {
            let all = rest.rest();
            let mut is_held = false;
            for _ in 0..request.tag.ops {
                let outcome = take_outcome(&mut rest);
                let code = outcome.expect("apply makes one outcome per operation").code;
                is_held |= unless == Some(code);
            }
            let own = &all[..all.len() - rest.rest().len()];
            let ops_at = ops_end..ops_end + request.len as usize;
            ops_end = ops_at.end;
            if is_held {
                // Not a piece of the entry's, which all would stay for.
                let outcomes = Bytes::copy_from_slice(own);
                unanswered.push(Unanswered { request, shard, prefix, ops_at, outcomes });
            } else {
                request.to.reply(request.tag, shard, prefix, own);
            }
        }
        unanswered
    }

    /// Refuses all requests.
    pub fn refuse(mut self, refusal: &Refusal) {
        self.refuse_all(refusal);
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        for request in std::mem::take(&mut self.requests) {
            request.to.refuse(request.tag, refusal);
        }
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        let mut queue = self.ingress.lock();
        queue.in_flight_ops -= u64::from(self.ops);
        if queue.lanes.landed(self.bulk_ops) {
            self.ingress.wake.notify_one();
        }
        drop(queue);
        self.refuse_all(&Refusal::new(Code::OUTCOME_UNKNOWN, 0));
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::replication::Source;
    use crate::replication::lanes::{ENTRY_BYTES_MAX, LANE_BYTES_MAX};

    /// What became of a request: its outcomes, or the refusal's code.
    type Answer = (u64, Result<Vec<u8>, Code>);

    #[derive(Default)]
    struct Inbox(Mutex<Vec<Answer>>, Source);

    impl ReplyTo for Inbox {
        fn reply(&self, tag: RequestTag, _: ShardId, _: ReplyPrefix, outcomes: &[u8]) {
            self.0.lock().unwrap().push((tag.request_id, Ok(outcomes.to_vec())));
        }

        fn refuse(&self, tag: RequestTag, refusal: &Refusal) {
            self.0.lock().unwrap().push((tag.request_id, Err(refusal.code)));
        }

        fn source(&self) -> &Source {
            &self.1
        }
    }

    fn tag(request_id: u64, ops: u32) -> RequestTag {
        RequestTag { request_id, batch: ops > 1, ops }
    }

    fn outcome(detail: u16) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u16_le(0);
        out.put_u16_le(detail);
        out.put_u32_le(0);
        out
    }

    fn open() -> (Arc<Ingress>, Arc<Inbox>, Arc<dyn ReplyTo>) {
        let ingress = Ingress::new();
        ingress.set_gate(Gate::Open);
        let inbox = Arc::new(Inbox::default());
        (ingress, inbox.clone(), inbox)
    }

    #[test]
    fn every_request_gets_its_own_outcomes() {
        let (ingress, inbox, to) = open();
        ingress.guard().push(&to, tag(1, 2), b"aabb").unwrap();
        ingress.guard().push(&to, tag(2, 1), b"cc").unwrap();
        let taken = ingress.take(Duration::ZERO).unwrap();
        assert_eq!((&taken.bytes[..], taken.ops), (&b"aabbcc"[..], 3));
        let outcomes = [outcome(1), outcome(2), outcome(3)].concat();
        let late = taken.routes.answer(ShardId(0), (9, UnixMicros(0)), &outcomes, None);
        assert!(late.is_empty());
        let first = [outcome(1), outcome(2)].concat();
        assert_eq!(*inbox.0.lock().unwrap(), [(1, Ok(first)), (2, Ok(outcome(3)))]);
        assert_eq!(ingress.depth(), (0, 0));
    }

    #[test]
    fn who_asks_about_an_old_id_holds_up_nobody_else() {
        let (ingress, inbox, to) = open();
        ingress.guard().push(&to, tag(1, 1), b"aa").unwrap();
        ingress.guard().push(&to, tag(2, 2), b"bbcc").unwrap();
        ingress.guard().push(&to, tag(3, 1), b"dd").unwrap();
        let taken = ingress.take(Duration::ZERO).unwrap();
        let mut old = outcome(3);
        old[..2].copy_from_slice(&Code::ID_TOO_OLD.0.to_le_bytes());
        let outcomes = [outcome(1), outcome(2), old.clone(), outcome(4)].concat();
        let (at, unless) = ((9, UnixMicros(0)), Some(Code::ID_TOO_OLD));
        let late = taken.routes.answer(ShardId(0), at, &outcomes, unless);
        let now = [(1, Ok(outcome(1))), (3, Ok(outcome(4)))];
        assert_eq!(*inbox.0.lock().unwrap(), now);
        assert_eq!(ingress.depth(), (0, 0), "it is no more in flight");
        let [late] = <[Unanswered; 1]>::try_from(late).ok().unwrap();
        assert_eq!((late.ops_at.clone(), late.op_count()), (2..6, 2));
        assert_eq!(late.outcomes, [outcome(2), old].concat());
        late.answer(&outcome(5));
        assert_eq!(inbox.0.lock().unwrap().last(), Some(&(2, Ok(outcome(5)))));
    }

    #[test]
    fn a_frame_is_not_split_over_entries() {
        let (ingress, _, to) = open();
        ingress.guard().push(&to, tag(1, 5000), b"a").unwrap();
        ingress.guard().push(&to, tag(2, 5000), b"b").unwrap();
        assert_eq!(ingress.take(Duration::ZERO).unwrap().ops, 5000);
        assert_eq!(&ingress.take(Duration::ZERO).unwrap().bytes[..], b"b");
        assert!(ingress.take(Duration::ZERO).is_none());
    }

    #[test]
    fn a_full_queue_is_busy_and_a_shut_gate_refuses_what_waits() {
        let (ingress, inbox, to) = open();
        let big = vec![0; ENTRY_BYTES_MAX];
        let fit = LANE_BYTES_MAX / ENTRY_BYTES_MAX;
        for _ in 0..fit {
            ingress.guard().push(&to, tag(1, 1), &big).unwrap();
        }
        let refused = ingress.guard().push(&to, tag(2, 1), &big).unwrap_err();
        assert_eq!(refused.code, Code::BUSY);
        ingress.set_gate(Gate::Shut(Refusal::not_leader(None)));
        assert_eq!(*inbox.0.lock().unwrap(), vec![(1, Err(Code::NOT_LEADER)); fit]);
        let refused = ingress.guard().push(&to, tag(3, 1), b"x").unwrap_err();
        assert_eq!(refused.code, Code::NOT_LEADER);
    }

    #[test]
    fn what_waits_for_nobody_is_dropped_and_others_get_their_own_outcomes() {
        let (ingress, inbox, to) = open();
        let left = Arc::new(Inbox::default());
        to.source().set_principal(b"shop");
        left.source().set_principal(b"left");
        let leaver: Arc<dyn ReplyTo> = left.clone();
        ingress.guard().push(&to, tag(1, 1), b"a").unwrap();
        ingress.guard().push(&leaver, tag(2, 2), b"xx").unwrap();
        ingress.guard().push(&to, tag(3, 2), b"bb").unwrap();
        left.source().leave();
        let taken = ingress.take(Duration::ZERO).unwrap();
        assert_eq!((&taken.bytes[..], taken.ops), (&b"abb"[..], 3));
        assert_eq!(taken.principals.bytes(), b"\x03\0\0\0\x04shop");
        let outcomes = [outcome(1), outcome(2), outcome(3)].concat();
        let late = taken.routes.answer(ShardId(0), (9, UnixMicros(0)), &outcomes, None);
        assert!(late.is_empty());
        let second = [outcome(2), outcome(3)].concat();
        assert_eq!(*inbox.0.lock().unwrap(), [(1, Ok(outcome(1))), (3, Ok(second))]);
        assert_eq!(*left.0.lock().unwrap(), []);
        assert_eq!(ingress.depth(), (0, 0));
    }

    #[test]
    fn dropped_routes_say_that_the_outcome_is_unknown() {
        let (ingress, inbox, to) = open();
        ingress.guard().push(&to, tag(1, 1), b"a").unwrap();
        drop(ingress.take(Duration::ZERO));
        assert_eq!(*inbox.0.lock().unwrap(), [(1, Err(Code::OUTCOME_UNKNOWN))]);
        assert_eq!(ingress.depth(), (0, 0));
    }
}
