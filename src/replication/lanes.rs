//! Lanes: which of the operations that wait go into the next entry.
//!
//! ```text
//!                  ┌─▶ short ─┐   few operations of this source wait
//! push ── source ──┤          ├──▶ next ──▶ one entry
//!                  └─▶ bulk ──┘   many do
//! ```
//!
//! A connection that asks for one thing at a time must not wait behind all that others have piled up.
//! So what a source sends goes to the short lane while little of it waits there, and to the bulk lane
//! otherwise. While short requests come, an entry has them first and then a share of bulk, at a pace that
//! leaves the disk time for syncs, so that the next entry is never far away. Without them, entries are as large as they may be.
//!
//! Invariants:
//! - A request is never split over entries.
//! - In a lane, requests are taken in the order in which they came. A source that has something in
//!   the bulk lane pushes there.
//! - Neither lane starves: if bulk got nothing in an entry, it is first in the next that it may be in.
//! - A lane's bytes lie back to back, so that what an entry takes of one lane is not copied.
//! - What a source that is gone has waiting is dropped, as if it had never come.
//!
//! Left out on purpose: weights, and a queue per connection. A greedy connection waits behind other
//! greedy ones in one line.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::api::{ReplyTo, RequestTag};
use crate::engine::batch::PrincipalRuns;
use crate::protocol::limits;
use crate::world::Pace;

/// Most bytes that wait in a lane: eight full batches. What comes later would wait for tens of
/// milliseconds; BUSY tells the client instead.
pub const LANE_BYTES_MAX: usize = 8 << 20;
/// Most operations that wait in a lane, for the same reason.
const LANE_OPS_MAX: u64 = 256 << 10;
/// Most operations in one entry: a batch of them applies in about two milliseconds, which is what
/// the next batch waits.
pub const ENTRY_OPS_MAX: u32 = limits::BATCH_OPS_MAX;
/// Most bytes of operations in one entry; a client's frame may be that large.
pub const ENTRY_BYTES_MAX: usize = limits::FRAME_BYTES_MAX as usize;
/// Most bytes of an entry's table of principals: enough for names of 27 bytes that change with every
/// operation; with the longest names it is full after some 3,800 changes, and what is left waits for the
/// next entry. Without a bound, the largest entry would be no record of the smallest log segment.
pub const PRINCIPALS_BYTES_MAX: usize = 256 << 10;
/// Most operations of one source in the short lane. Sixteen such sources fill an entry: whoever
/// keeps more than that waiting is after throughput, and a client that shares a connection among
/// hundreds of callers is not.
const SHORT_OPS_PER_SOURCE: u32 = 512;
/// Most operations that bulk adds to an entry while short requests come: a third of a millisecond of
/// apply. A larger frame gets an entry of its own.
const BULK_OPS_BESIDE: u32 = 1024;
/// Most bulk operations in flight while short requests come: a share in each entry of the window. A
/// frame that is larger than its share goes when no other bulk is in flight.
const BULK_OPS_IN_FLIGHT: u64 = 4 * BULK_OPS_BESIDE as u64;
/// Most bulk bytes in a second while short requests come: over a million and a half one-line
/// reserves. The log writes each byte twice, first as a zero, which is likely why syncs wait when
/// there are more: without a pace, four clients sent the largest frames at some 290 MB/s, and
/// `scripts/abuse.sh`'s victims had a p99 of 13 ms instead of 2.
const BULK_BYTES_PER_SECOND: u64 = 64_000_000;
/// What bulk has not used of its pace is lost after so long: a proposer that sleeps wakes up to a
/// millisecond late.
const BULK_PACE_SLACK: Duration = Duration::from_millis(2);
/// After so many entries without a short request, bulk is taken to be alone. A tenth of a second or
/// more: a client that asks ten times a second is not to find large entries in flight each time.
const ALONE_AFTER_ENTRIES: u32 = 256;

/// One sender of requests, such as a connection, as the lanes know it. Its [`ReplyTo`]s share it.
///
/// The counts change under the lock on the lanes, so that `Relaxed` loads and stores do. `gone` is
/// only a hint: a request that is taken although its source has just gone is answered in vain.
#[derive(Default, Debug)]
pub struct Source {
    short_ops: AtomicU32,
    bulk_requests: AtomicU32,
    gone: AtomicBool,
    principal: OnceLock<Box<[u8]>>,
}

impl Source {
    /// Says who it is: the principal of what it asks for from now on. Only the first name counts, since a
    /// connection says hello once.
    ///
    /// # Panics
    /// The name is longer than a hello may have.
    pub fn set_principal(&self, name: &[u8]) {
        assert!(
            name.len() <= limits::CLIENT_NAME_BYTES_MAX,
            "a hello with a longer name is refused"
        );
        self.principal.get_or_init(|| name.into());
    }

    /// Who it is; empty: nobody said.
    pub fn principal(&self) -> &[u8] {
        self.principal.get().map_or(&[], |name| name)
    }

    /// Nobody will hear an answer: what waits need not be proposed.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Operations of a new request go to the bulk lane.
    fn is_bulk_with(&self, ops: u32) -> bool {
        self.bulk_requests.load(Ordering::Relaxed) > 0
            || self.short_ops.load(Ordering::Relaxed) + ops > SHORT_OPS_PER_SOURCE
    }
}

/// A request without its operations.
pub struct Request {
    pub to: Arc<dyn ReplyTo>,
    pub tag: RequestTag,
    /// Bytes of its operations.
    pub len: u32,
}

/// A lane is full.
pub struct Full;

/// What goes into one entry.
#[derive(Default)]
pub struct Parcel {
    /// Operations of all requests, back to back.
    pub bytes: BytesMut,
    pub requests: Vec<Request>,
    /// Who asked for which of the operations.
    pub principals: PrincipalRuns,
    pub ops: u32,
    /// Of `ops`, those of the bulk lane.
    pub bulk_ops: u32,
}

impl Parcel {
    /// What the requests add to the log.
    fn bytes_logged(&self) -> usize {
        self.bytes.len() + self.principals.bytes().len()
    }

    fn append(&mut self, bytes: BytesMut) {
        if self.bytes.is_empty() {
            self.bytes = bytes;
        } else {
            self.bytes.extend_from_slice(&bytes);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Bulk,
    Short,
}

impl Kind {
    /// The source has one request more in this lane.
    fn enter(self, source: &Source, ops: u32) {
        let (count, by) = self.count(source, ops);
        count.store(count.load(Ordering::Relaxed) + by, Ordering::Relaxed);
    }

    /// The source has one request less in this lane.
    fn leave(self, source: &Source, ops: u32) {
        let (count, by) = self.count(source, ops);
        count.store(count.load(Ordering::Relaxed) - by, Ordering::Relaxed);
    }

    const fn count(self, source: &Source, ops: u32) -> (&AtomicU32, u32) {
        match self {
            Self::Bulk => (&source.bulk_requests, 1),
            Self::Short => (&source.short_ops, ops),
        }
    }
}

struct Lane {
    kind: Kind,
    /// Operations of all requests, back to back.
    bytes: BytesMut,
    requests: VecDeque<Request>,
    ops: u64,
}

impl Lane {
    fn new(kind: Kind) -> Self {
        Self { kind, bytes: BytesMut::new(), requests: VecDeque::new(), ops: 0 }
    }

    fn push(&mut self, to: &Arc<dyn ReplyTo>, tag: RequestTag, ops: &[u8]) -> Result<(), Full> {
        if self.bytes.len() + ops.len() > LANE_BYTES_MAX
            || self.ops + u64::from(tag.ops) > LANE_OPS_MAX
        {
            return Err(Full);
        }
        // From here on the push succeeds.
        self.kind.enter(to.source(), tag.ops);
        self.bytes.extend_from_slice(ops);
        self.requests.push_back(Request { to: to.clone(), tag, len: ops.len() as u32 });
        self.ops += u64::from(tag.ops);
        Ok(())
    }

    /// Moves requests into `parcel` while they fit, at most `ops_max` operations. Says how many.
    fn take(&mut self, ops_max: u32, parcel: &mut Parcel) -> u32 {
        // Bytes at the front of the lane that belong to requests which were taken.
        let (mut run, mut ops) = (0, 0);
        while let Some(request) = self.requests.front() {
            let (tag, len) = (request.tag, request.len as usize);
            let gone = request.to.source().is_gone();
            let fits = ops + tag.ops <= ops_max
                && parcel.ops + tag.ops <= ENTRY_OPS_MAX
                && parcel.bytes.len() + run + len <= ENTRY_BYTES_MAX
                && parcel.principals.has_room(PRINCIPALS_BYTES_MAX);
            if !gone && !fits {
                break;
            }
            let request = self.requests.pop_front().expect("it is at the front");
            let source = request.to.source();
            self.kind.leave(source, tag.ops);
            self.ops -= u64::from(tag.ops);
            if gone {
                parcel.append(self.bytes.split_to(run));
                self.bytes.advance(len);
                run = 0;
            } else {
                run += len;
                ops += tag.ops;
                parcel.ops += tag.ops;
                parcel.principals.add(source.principal(), tag.ops);
                parcel.requests.push(request);
            }
        }
        parcel.append(self.bytes.split_to(run));
        ops
    }

    fn clear(&mut self) -> impl Iterator<Item = Request> + use<> {
        self.bytes.clear();
        self.ops = 0;
        let requests = std::mem::take(&mut self.requests);
        for request in &requests {
            self.kind.leave(request.to.source(), request.tag.ops);
        }
        requests.into_iter()
    }
}

/// See the module.
pub struct Lanes {
    short: Lane,
    bulk: Lane,
    /// Operations that were taken out of the bulk lane and not yet answered.
    bulk_ops_in_flight: u64,
    /// Bulk waited for the last entry in vain.
    bulk_first: bool,
    entries_since_short: u32,
    /// How fast bulk goes while short requests come.
    bulk_pace: Pace,
}

impl Lanes {
    pub fn new() -> Self {
        Self {
            short: Lane::new(Kind::Short),
            bulk: Lane::new(Kind::Bulk),
            bulk_ops_in_flight: 0,
            bulk_first: false,
            entries_since_short: ALONE_AFTER_ENTRIES,
            bulk_pace: Pace::new(BULK_BYTES_PER_SECOND, BULK_PACE_SLACK),
        }
    }

    /// Operations that wait.
    pub fn ops(&self) -> u64 {
        self.short.ops + self.bulk.ops
    }

    /// Queues one frame's operations in the lane where its source belongs.
    ///
    /// # Errors
    /// That lane is full.
    ///
    /// # Panics
    /// The request is larger than an entry.
    pub fn push(&mut self, to: &Arc<dyn ReplyTo>, tag: RequestTag, ops: &[u8]) -> Result<(), Full> {
        assert!(
            tag.ops <= ENTRY_OPS_MAX && ops.len() <= ENTRY_BYTES_MAX,
            "admission lets in no request that is larger than an entry"
        );
        let lane = if to.source().is_bulk_with(tag.ops) { &mut self.bulk } else { &mut self.short };
        lane.push(to, tag, ops)
    }

    /// What goes into the next entry at monotonic time `now`; `None` if nothing waits, or all that
    /// does is kept back by the pace of bulk or by what is in flight. Its `bulk_ops` are in flight until [`landed`](Self::landed).
    pub fn next(&mut self, now: Duration) -> Option<Parcel> {
        let mut parcel = Parcel::default();
        if !self.short.requests.is_empty() {
            self.entries_since_short = 0;
        }
        if self.entries_since_short >= ALONE_AFTER_ENTRIES {
            parcel.bulk_ops = self.bulk.take(ENTRY_OPS_MAX, &mut parcel);
        } else if self.bulk_first {
            self.add_bulk(now, &mut parcel);
            self.short.take(ENTRY_OPS_MAX, &mut parcel);
        } else {
            self.short.take(ENTRY_OPS_MAX, &mut parcel);
            self.add_bulk(now, &mut parcel);
        }
        self.bulk_first = parcel.bulk_ops == 0 && !self.bulk.requests.is_empty();
        if parcel.requests.is_empty() {
            return None;
        }
        self.entries_since_short = self.entries_since_short.saturating_add(1);
        self.bulk_ops_in_flight += u64::from(parcel.bulk_ops);
        Some(parcel)
    }

    /// Adds the share of bulk while short requests come.
    fn add_bulk(&mut self, now: Duration, parcel: &mut Parcel) {
        if now < self.bulk_pace.free_at() {
            return;
        }
        let bytes_before = parcel.bytes_logged();
        let may_fly = BULK_OPS_IN_FLIGHT.saturating_sub(self.bulk_ops_in_flight);
        let share = BULK_OPS_BESIDE.min(may_fly as u32);
        parcel.bulk_ops = self.bulk.take(share, parcel);
        if parcel.requests.is_empty() && self.bulk_ops_in_flight == 0 {
            let first = self.bulk.requests.front().map_or(0, |request| request.tag.ops);
            parcel.bulk_ops = self.bulk.take(first, parcel);
        }
        self.bulk_pace.book(now, (parcel.bytes_logged() - bytes_before) as u64);
    }

    /// How long bulk that waits is still kept back by its pace; `None` if it is not.
    pub fn pause(&self, now: Duration) -> Option<Duration> {
        let free_at = self.bulk_pace.free_at();
        let paced = self.entries_since_short < ALONE_AFTER_ENTRIES && now < free_at;
        (paced && !self.bulk.requests.is_empty()).then(|| free_at - now)
    }

    /// Bulk operations that were in flight are answered. True: more may go now.
    pub fn landed(&mut self, bulk_ops: u32) -> bool {
        self.bulk_ops_in_flight -= u64::from(bulk_ops);
        bulk_ops > 0 && self.ops() > 0
    }

    /// Empties both lanes.
    pub fn clear(&mut self) -> Vec<Request> {
        self.short.clear().chain(self.bulk.clear()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::batch::{Batch, BatchBuilder};
    use crate::protocol::{ReplyPrefix, ShardId};
    use crate::replication::Refusal;
    use crate::world::UnixMicros;

    /// A source whose answers do not matter.
    #[derive(Default)]
    struct Deaf(Source);

    impl ReplyTo for Deaf {
        fn reply(&self, _: RequestTag, _: ShardId, _: ReplyPrefix, _: &[u8]) {}
        fn refuse(&self, _: RequestTag, _: &Refusal) {}
        fn source(&self) -> &Source {
            &self.0
        }
    }

    fn source() -> Arc<dyn ReplyTo> {
        Arc::new(Deaf::default())
    }

    fn named(name: &str) -> Arc<dyn ReplyTo> {
        let source = source();
        source.source().set_principal(name.as_bytes());
        source
    }

    /// Each operation of an entry has the principal of its request.
    fn check_principals(parcel: &Parcel) {
        let mut payload = BytesMut::new();
        let batch = BatchBuilder::begin_named(&mut payload, &parcel.principals);
        batch.finish(&mut payload, UnixMicros(0), parcel.ops);
        let mut principals = Batch::decode(&payload).principals;
        let mut position = 0;
        for request in &parcel.requests {
            for _ in 0..request.tag.ops {
                let name = request.to.source().principal();
                assert_eq!(principals.of(position), name, "operation {position}");
                position += 1;
            }
        }
        assert!(principals.end_within(position), "nobody else is named");
        assert!(parcel.principals.bytes().len() <= PRINCIPALS_BYTES_MAX);
    }

    fn push(lanes: &mut Lanes, to: &Arc<dyn ReplyTo>, request_id: u64, ops: u32) -> bool {
        let tag = RequestTag { request_id, batch: ops > 1, ops };
        lanes.push(to, tag, &request_id.to_le_bytes()).is_ok()
    }

    /// The ids of the next entry's requests, and how much bulk is in it.
    fn next(lanes: &mut Lanes) -> Option<(Vec<u64>, u32)> {
        // A second later than the last: the pace keeps nothing back.
        next_at(lanes, lanes.bulk_pace.free_at() + Duration::from_secs(1))
    }

    fn next_at(lanes: &mut Lanes, now: Duration) -> Option<(Vec<u64>, u32)> {
        let parcel = lanes.next(now)?;
        let ids: Vec<u64> = parcel.requests.iter().map(|request| request.tag.request_id).collect();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        assert_eq!(parcel.bytes, bytes, "an entry has its requests' bytes, whole and in order");
        assert!(parcel.ops <= ENTRY_OPS_MAX, "an entry has at most its operations");
        assert_eq!(parcel.requests.iter().map(|request| request.tag.ops).sum::<u32>(), parcel.ops);
        check_principals(&parcel);
        Some((ids, parcel.bulk_ops))
    }

    #[test]
    fn bulk_alone_fills_entries() {
        let (mut lanes, greedy) = (Lanes::new(), source());
        (0..20).for_each(|id| assert!(push(&mut lanes, &greedy, id, 1000)));
        assert_eq!(next(&mut lanes), Some(((0..8).collect(), 8000)));
        assert_eq!(next(&mut lanes), Some(((8..16).collect(), 8000)), "without an answer between");
    }

    #[test]
    fn one_operation_does_not_wait_behind_a_flood() {
        let (mut lanes, greedy, modest) = (Lanes::new(), named("greedy"), named("modest"));
        (0..40).for_each(|id| assert!(push(&mut lanes, &greedy, id, 1000)));
        for id in 100..104 {
            assert!(push(&mut lanes, &modest, id, 1));
            let (ids, bulk_ops) = next(&mut lanes).unwrap();
            assert_eq!((ids.len(), ids[0], bulk_ops), (2, id, 1000));
        }
        assert!(push(&mut lanes, &modest, 104, 1));
        assert_eq!(next(&mut lanes), Some((vec![104], 0)), "as much bulk as may be is in flight");
        assert_eq!(next(&mut lanes), None);
        assert!(lanes.landed(1000));
        assert_eq!(next(&mut lanes), Some((vec![4], 1000)));
    }

    #[test]
    fn small_requests_without_end_are_a_flood_too() {
        let (mut lanes, greedy, modest) = (Lanes::new(), named("greedy"), source());
        (0..9000).for_each(|id| assert!(push(&mut lanes, &greedy, id, 1)));
        assert!(push(&mut lanes, &modest, 9000, 1));
        let (ids, bulk_ops) = next(&mut lanes).unwrap();
        assert_eq!((ids.len(), bulk_ops), (512 + 1 + 1024, 1024));
        assert_eq!(ids[512], 9000, "behind what was short when it came, and before all bulk");
        // What it sends now must not overtake what it has waiting.
        assert!(push(&mut lanes, &greedy, 9001, 1));
        assert!(!next(&mut lanes).unwrap().0.contains(&9001));
    }

    #[test]
    fn frames_larger_than_their_share_go_one_at_a_time_while_short_requests_come() {
        let (mut lanes, greedy, modest) = (Lanes::new(), source(), source());
        assert!(push(&mut lanes, &greedy, 0, 8192) && push(&mut lanes, &greedy, 1, 8192));
        assert!(push(&mut lanes, &modest, 2, 1));
        assert_eq!(next(&mut lanes), Some((vec![2], 0)), "not in one entry with it");
        assert!(push(&mut lanes, &modest, 3, 1));
        assert_eq!(next(&mut lanes), Some((vec![0], 8192)), "bulk that waited comes first");
        assert_eq!(next(&mut lanes), Some((vec![3], 0)));
        assert_eq!(next(&mut lanes), None);
        assert!(lanes.landed(8192));
        assert_eq!(next(&mut lanes), Some((vec![1], 8192)));
    }

    #[test]
    fn bulk_keeps_its_pace_while_short_requests_come() {
        let (mut lanes, greedy, modest) = (Lanes::new(), source(), source());
        let mut now = Duration::from_secs(9);
        let frame = vec![0; ENTRY_BYTES_MAX];
        for request_id in 0..4 {
            let tag = RequestTag { request_id, batch: true, ops: 1000 };
            assert!(lanes.push(&greedy, tag, &frame).is_ok());
        }
        let ids = |parcel: Option<Parcel>| -> Vec<u64> {
            let requests = parcel.map(|parcel| parcel.requests).unwrap_or_default();
            requests.iter().map(|request| request.tag.request_id).collect()
        };
        assert!(push(&mut lanes, &modest, 9, 1));
        assert_eq!(ids(lanes.next(now)), [9], "the frame has no room beside it");
        let begin = now;
        for id in 0..4 {
            assert_eq!(ids(lanes.next(now)), [id], "what waited first");
            assert!(ids(lanes.next(now)).is_empty(), "not before the last one's time is over");
            now += lanes.pause(now).unwrap_or_default();
        }
        let paced = (3 * ENTRY_BYTES_MAX) as f64 / BULK_BYTES_PER_SECOND as f64;
        assert!(now - begin + BULK_PACE_SLACK >= Duration::from_secs_f64(paced));
    }

    #[test]
    fn bulk_does_not_starve() {
        let (mut lanes, greedy) = (Lanes::new(), source());
        (0..8).for_each(|id| assert!(push(&mut lanes, &greedy, id, 1000 + 1000 * (id as u32 % 3))));
        let mut taken = Vec::new();
        // Enough short requests for each entry and more, from whoever comes new.
        for round in 0_usize..16 {
            (0..20).for_each(|id| assert!(push(&mut lanes, &source(), 1000 + id, 512)));
            let (ids, bulk_ops) = next(&mut lanes).expect("short requests wait");
            taken.extend(ids.into_iter().filter(|id| *id < 1000));
            lanes.landed(bulk_ops);
            assert!(taken.len() >= round.div_ceil(2), "at least every other entry has bulk");
        }
        assert_eq!(taken, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_bulk_lane_refuses_only_bulk() {
        let (mut lanes, greedy, modest) = (Lanes::new(), source(), source());
        let fit = LANE_OPS_MAX / 8192;
        (0..fit).for_each(|id| assert!(push(&mut lanes, &greedy, id, 8192)));
        assert!(!push(&mut lanes, &greedy, fit, 1), "its next requests are bulk, however small");
        assert!(!push(&mut lanes, &modest, fit, 513));
        assert!(push(&mut lanes, &modest, fit, 512));
    }

    #[test]
    fn who_is_gone_leaves_nothing_behind() {
        let (mut lanes, leaver, other) = (Lanes::new(), named("leaver"), named("other"));
        for id in 0..6 {
            let to = if id % 2 == 0 { &leaver } else { &other };
            assert!(push(&mut lanes, to, id, 400));
        }
        leaver.source().leave();
        assert_eq!(next(&mut lanes), Some((vec![1, 3, 5], 800)));
        assert_eq!((lanes.ops(), next(&mut lanes)), (0, None));
        assert_eq!(Arc::strong_count(&leaver), 1);
    }

    #[test]
    fn requests_keep_their_principals_whoever_is_gone_and_whatever_comes_first() {
        let mut lanes = Lanes::new();
        let (greedy, leaver, nobody) = (named("greedy"), named("leaver"), source());
        // Two connections of one application.
        let shop = [named("shop"), named("shop")];
        (0..40).for_each(|id| assert!(push(&mut lanes, &greedy, id, 600)));
        for id in 100..110 {
            assert!(push(&mut lanes, &leaver, id, 5));
            assert!(push(&mut lanes, &shop[id as usize % 2], id + 100, 1));
            assert!(push(&mut lanes, &shop[id as usize / 2 % 2], id + 200, 2));
            if id % 3 == 0 {
                assert!(push(&mut lanes, &nobody, id + 300, 4));
            }
        }
        leaver.source().leave();
        let parcel = lanes.next(Duration::from_secs(1)).unwrap();
        check_principals(&parcel);
        let shop_and_nobody = [(9, "shop"), (4, "")].repeat(3);
        let runs = [&shop_and_nobody[..], &[(3, "shop"), (600, "greedy")]].concat();
        let mut expected = PrincipalRuns::default();
        runs.iter().for_each(|(ops, name)| expected.add(name.as_bytes(), *ops));
        assert_eq!(parcel.principals.bytes(), expected.bytes());
        // In the next entry bulk comes first or alone; in each, whoever asked is named.
        while let Some((_, bulk_ops)) = next(&mut lanes) {
            lanes.landed(bulk_ops);
        }
    }

    #[test]
    fn a_table_of_principals_that_is_full_ends_the_entry() {
        let mut lanes = Lanes::new();
        let name = |id: u64| format!("{id:0>64}");
        let count = u64::from(ENTRY_OPS_MAX);
        (0..count).for_each(|id| assert!(push(&mut lanes, &named(&name(id)), id, 1)));
        let mut taken = Vec::new();
        for entry in 0..3 {
            let (ids, _) = next(&mut lanes).expect("requests wait");
            assert!(entry == 2 || (3_000..4_000).contains(&ids.len()), "{} fit", ids.len());
            taken.extend(ids);
        }
        assert_eq!(taken, (0..count).collect::<Vec<_>>());
        assert_eq!(next(&mut lanes), None);
        // Shorter names are no limit.
        (0..count).for_each(|id| assert!(push(&mut lanes, &named(&id.to_string()), id, 1)));
        assert_eq!(next(&mut lanes).map(|(ids, _)| ids.len()), Some(count as usize));
    }

    #[test]
    fn emptied_lanes_forget_what_waited() {
        let (mut lanes, greedy) = (Lanes::new(), source());
        assert!(push(&mut lanes, &greedy, 0, 512) && push(&mut lanes, &greedy, 1, 8192));
        assert_eq!(lanes.clear().len(), 2);
        assert_eq!((lanes.ops(), next(&mut lanes)), (0, None));
        assert!(push(&mut lanes, &greedy, 2, 512));
        assert_eq!(next(&mut lanes), Some((vec![2], 0)), "its source has nothing in bulk any more");
    }
}
