//! The reads of one connection: collected while they arrive, answered together.
//!
//! ```text
//! burst ─▶ arriving ──one read barrier──▶ waiting ─▶ ready ─▶ outbox
//!                                                      └─ sold-out reserves that are not any more ─▶ ingress
//! burst ─▶ local ────────────────────────────────────────▶ outbox (stale reads, PING, CLUSTER_STATUS)
//! ```
//!
//! While a barrier is under way the next reads gather in `arriving`, so that a connection waits for
//! one barrier at a time however many reads it sends. Requests are copied here, not shared with the
//! receive buffer: a few bytes that wait must not keep 256 KiB alive.
//!
//! Invariants:
//! - A read is answered from a state at least as new as a barrier that began after it arrived.
//! - A sold-out reserve is refused only when the cells are short after such a barrier.
//! - Replies stop while the connection has too much unsent.
//! - A read of many cells waits for its turn among those of all connections ([`Line`](super::line::Line)),
//!   and what came after it on this way waits behind it.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::admission::{reads_full, records_full};
use super::limits::{
    ANSWER_BYTES_PER_ROUND, BUSY_RETRY_MS, LARGE_READ_CELLS, SPARE_BYTES_MAX, emptied,
};
use super::line::{Line, Turn, Waiting};
use super::metrics;
use super::outbox::{Outbox, Ticket};
use super::shared::Shared;
use super::status;
use crate::protocol::limits::REPLY_BYTES_MAX;
use crate::protocol::{
    Code, Header, Op, OutcomeHeader, Reader, ReplyPrefix, ShardId, UnixMillis, begin_outcome,
    finish_outcome, take_op, take_outcome,
};
use crate::replication::{ReadPoint, Refusal, ReplyTo, RequestTag, StalePoint};
use crate::world::UnixMicros;

/// So many cells in a reply make the next read of cells on the same way wait in line.
const MANY_CELLS: usize = LARGE_READ_CELLS as usize / 2;

/// A cell in the reply to READ_CELLS; one of a SKU has its warehouse's name instead of its handle.
const CELL_REPLY_BYTES: usize = 40;

/// More do not fit a reply: a header, the prefix and the count go before them.
const OUTCOMES_BYTES_MAX: usize = REPLY_BYTES_MAX as usize - Header::BYTES - ReplyPrefix::BYTES - 4;

/// What a request that is no plain write waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    /// The read barrier.
    Fresh,
    /// Nothing.
    Local,
    /// The read barrier, and then a second look.
    SoldOut,
}

struct Entry {
    tag: RequestTag,
    sold_out: bool,
    /// Cells that it reads, about.
    cells: u32,
    ops: Range<usize>,
}

/// Requests and their bytes.
#[derive(Default)]
struct List {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl List {
    fn add(&mut self, tag: RequestTag, sold_out: bool, cells: u32, ops: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(ops);
        self.entries.push(Entry { tag, sold_out, cells, ops: start..self.bytes.len() });
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn clear(&mut self, outbox: &Outbox) {
        outbox.release_read_bytes(self.bytes.len() as u64);
        self.entries.clear();
        self.bytes.clear();
        self.bytes.shrink_to(SPARE_BYTES_MAX);
    }
}

/// A list that is being answered.
#[derive(Default)]
struct Ready {
    list: List,
    next: usize,
    prefix: Option<ReplyPrefix>,
    now: UnixMicros,
    place: Place,
    /// The last reply to a read of cells had many. How many a SKU has is not known before, but who has
    /// just had a large page is likely to ask for the next.
    had_many: bool,
}

/// A place in the line, if there is one.
#[derive(Default)]
struct Place(Option<Waiting>);

impl Place {
    /// Waits for a turn; `None`: the line is full.
    fn poll(&mut self, cx: &mut Context<'_>, line: &Arc<Line>) -> Poll<Option<Turn>> {
        if self.0.is_none() {
            self.0 = line.join();
        }
        let Some(waiting) = &mut self.0 else { return Poll::Ready(None) };
        let turn = waiting.as_mut().poll(cx);
        if turn.is_ready() {
            self.0 = None;
        }
        turn.map(Some)
    }
}

type Barrier = Pin<Box<dyn Future<Output = Result<ReadPoint, Refusal>> + Send>>;

/// See the module.
#[derive(Default)]
pub(super) struct Reads {
    arriving: List,
    waiting: List,
    barrier: Option<Barrier>,
    fresh: Ready,
    local: Ready,
    scratch: BytesMut,
}

impl Reads {
    /// Takes a request in. A reply to it is owed already.
    pub fn add(&mut self, want: Want, tag: RequestTag, cells: u32, ops: &[u8]) {
        match want {
            Want::Local => self.local.list.add(tag, false, cells, ops),
            Want::Fresh => self.arriving.add(tag, false, cells, ops),
            Want::SoldOut => self.arriving.add(tag, true, cells, ops),
        }
    }

    /// Room for encoding, lent to admission.
    pub fn take_scratch(&mut self) -> BytesMut {
        std::mem::take(&mut self.scratch)
    }

    pub fn return_scratch(&mut self, scratch: BytesMut) {
        self.scratch = emptied(scratch);
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.arriving, &self.waiting, &self.fresh.list, &self.local.list];
        lists.into_iter().all(List::is_empty)
    }

    /// A large read waits for its turn.
    pub const fn stands_in_line(&self) -> bool {
        self.fresh.place.0.is_some() || self.local.place.0.is_some()
    }

    /// Forgets everything: the connection is gone.
    pub fn clear(&mut self, outbox: &Outbox) {
        let Self { arriving, waiting, fresh, local, .. } = self;
        for list in [arriving, waiting, &mut fresh.list, &mut local.list] {
            list.clear(outbox);
        }
    }

    /// Gives memory back while nothing waits.
    pub fn tidy(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Answers what can be answered. True: something was, look again.
    pub fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared, outbox: &Arc<Outbox>) -> bool {
        let mut answering = Answering {
            shared,
            outbox,
            scratch: &mut self.scratch,
            is_old: false,
            pushes: Vec::new(),
        };
        let mut progress = answering.answer(cx, &mut self.local);
        progress |= answering.answer(cx, &mut self.fresh);
        progress |= self.poll_barrier(cx, shared, outbox);
        progress
    }

    fn poll_barrier(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        outbox: &Arc<Outbox>,
    ) -> bool {
        if !self.fresh.list.is_empty() {
            return false;
        }
        if self.barrier.is_none() && !self.arriving.is_empty() {
            std::mem::swap(&mut self.arriving, &mut self.waiting);
            let replica = shared.replica.clone();
            self.barrier = Some(Box::pin(async move { replica.read_barrier().await }));
        }
        let Some(barrier) = &mut self.barrier else { return false };
        let Poll::Ready(passed) = barrier.as_mut().poll(cx) else { return false };
        self.barrier = None;
        match passed {
            Ok(point) => {
                std::mem::swap(&mut self.waiting, &mut self.fresh.list);
                let server_now = UnixMillis(point.now.as_millis());
                let prefix = ReplyPrefix { index: point.index, server_now, age_ms: 0 };
                self.fresh.prefix = Some(prefix);
                self.fresh.now = point.now;
            }
            Err(refusal) => {
                for entry in &self.waiting.entries {
                    outbox.refuse(entry.tag, &refusal);
                }
                self.waiting.clear(outbox);
            }
        }
        true
    }
}

struct Answering<'a> {
    shared: &'a Shared,
    outbox: &'a Arc<Outbox>,
    scratch: &'a mut BytesMut,
    /// Something was read and not found that the archive may know.
    is_old: bool,
    /// Entries that must go through the log after all.
    pushes: Vec<usize>,
}

impl Answering<'_> {
    /// Answers entries until the list ends or the round has had its share. True: some were.
    fn answer(&mut self, cx: &mut Context<'_>, ready: &mut Ready) -> bool {
        if ready.list.is_empty() {
            return false;
        }
        if self.outbox.is_unsent_over(self.shared.limits.unsent_bytes_pause) {
            // Whose client does not read must not have the turn that others wait for.
            ready.place = Place::default();
            return false;
        }
        // The state may have moved on since the barrier: the reply says how far.
        let StalePoint { index, now, age_ms } = self.shared.replica.stale_point();
        let present = UnixMillis(now.as_millis());
        let prefix = match ready.prefix {
            Some(ReplyPrefix { server_now, age_ms, .. }) => {
                ReplyPrefix { index, server_now: server_now.max(present), age_ms }
            }
            None => ReplyPrefix { index, server_now: present, age_ms },
        };
        // A reservation may have fallen due since the barrier: what is refused now must be short now.
        let now = ready.now.max(now);
        let (mut bytes_left, first) = (ANSWER_BYTES_PER_ROUND, ready.next);
        while let Some(entry) = ready.list.entries.get(ready.next) {
            if bytes_left == 0 {
                break;
            }
            let mut turn = None;
            if entry.cells > LARGE_READ_CELLS || (entry.cells > 0 && ready.had_many) {
                match ready.place.poll(cx, &self.shared.large_reads) {
                    Poll::Pending => break,
                    Poll::Ready(None) => {
                        self.outbox.refuse(entry.tag, &line_is_full());
                        ready.next += 1;
                        continue;
                    }
                    Poll::Ready(next) => turn = next,
                }
            }
            self.scratch.clear();
            let ops = &ready.list.bytes[entry.ops.clone()];
            if entry.sold_out && !self.refuse_sold_out(ops, now) {
                self.pushes.push(ready.next);
            } else if entry.sold_out || self.read(ops) {
                if std::mem::take(&mut self.is_old) {
                    self.ask_archive(ops, entry.tag, prefix);
                } else {
                    self.outbox.reply(entry.tag, ShardId::default(), prefix, self.scratch);
                }
            } else {
                self.outbox.refuse(entry.tag, &too_large());
            }
            // What was read in vain has taken its time too.
            bytes_left = bytes_left.saturating_sub(self.scratch.len());
            let cells_read = self.scratch.len() / CELL_REPLY_BYTES;
            if let Some(turn) = turn {
                turn.end(cells_read);
            }
            if entry.cells > 0 {
                ready.had_many = cells_read > MANY_CELLS;
            }
            ready.next += 1;
        }
        let progress = ready.next > first;
        *self.scratch = emptied(std::mem::take(self.scratch));
        self.push_rest(&ready.list);
        if ready.next == ready.list.entries.len() {
            ready.list.clear(self.outbox);
            ready.next = 0;
        }
        progress
    }

    /// Has what was not found looked for in the archive. What was found is in `scratch`.
    fn ask_archive(&mut self, ops: &[u8], tag: RequestTag, prefix: ReplyPrefix) {
        let waiting = metrics::read(&self.shared.metrics.read_bytes_waiting);
        if waiting > self.shared.limits.read_bytes_all_max {
            return self.outbox.refuse(tag, &reads_full());
        }
        let held = self.outbox.hold_reads(ops.len() + self.scratch.len());
        let outcomes = Bytes::copy_from_slice(self.scratch);
        let ops = (Bytes::copy_from_slice(ops), tag.ops);
        self.shared.replica.read_archived(ops, outcomes, move |all| {
            let outbox = held.outbox();
            match all.len() > OUTCOMES_BYTES_MAX {
                true => outbox.refuse(tag, &too_large()),
                false => outbox.reply(tag, ShardId::default(), prefix, all),
            }
        });
    }

    /// Appends NO_STOCK for every reserve, or says that one of them may be granted.
    fn refuse_sold_out(&mut self, ops: &[u8], now: UnixMicros) -> bool {
        let mut reader = Reader::new(ops);
        let mut count = 0;
        while !reader.is_empty() {
            let (op, flags, not_after) = take_op(&mut reader).expect("admission decoded it");
            if !self.shared.looks_sold_out(&op, flags, not_after, now, self.scratch) {
                return false;
            }
            count += 1;
        }
        metrics::add(&self.shared.metrics.sold_out_ops, count);
        true
    }

    /// Appends the outcomes of reads, or says that they do not fit a reply.
    fn read(&mut self, ops: &[u8]) -> bool {
        let mut reader = Reader::new(ops);
        while !reader.is_empty() {
            let (op, ..) = take_op(&mut reader).expect("admission decoded it");
            let start = self.scratch.len();
            self.read_one(&op);
            self.is_old |= self.shared.replica.is_for_archive(&op) && {
                let outcome = take_outcome(&mut Reader::new(&self.scratch[start..]));
                outcome.is_ok_and(|outcome| outcome.code == Code::NOT_FOUND)
            };
            if self.scratch.len() > OUTCOMES_BYTES_MAX {
                return false;
            }
        }
        true
    }

    fn read_one(&mut self, op: &Op<'_>) {
        let (replica, out) = (&self.shared.replica, &mut *self.scratch);
        let ok = OutcomeHeader { code: Code::OK, detail: 0 };
        match op {
            Op::ReadCells { cells } => replica.cells().read_cells(cells, out),
            Op::ReadReservation { id } => replica.with_state(|s| s.read_reservation(*id, out)),
            Op::ReadSku { after, sku } => replica.with_state(|s| s.read_sku(sku, *after, out)),
            Op::ListCells(listing) => replica.cells().list_cells(listing, out),
            Op::ReadDetails { cells } => replica.cells().read_details(cells, out),
            Op::ReadLines { id } => replica.with_state(|s| s.read_lines(*id, out)),
            Op::ListSkus(listing) => replica.with_state(|s| s.list_skus(listing, out)),
            Op::ReadCrossings { from, count } => {
                replica.with_state(|s| s.read_crossings(*from, *count, out));
            }
            Op::ReadCatalogue { sku } => replica.with_state(|s| s.read_catalogue(sku, out)),
            Op::ReadOwner { owner } => replica.with_state(|s| s.read_owner(owner, out)),
            Op::ReadTransfer { transfer } => {
                replica.with_state(|s| s.read_transfer(*transfer, out));
            }
            Op::Ping => drop(begin_outcome(out, ok)),
            Op::ClusterStatus => {
                let start = begin_outcome(out, ok);
                out.extend_from_slice(status::status(self.shared).to_json().as_bytes());
                finish_outcome(out, start);
            }
            Op::Define { .. }
            | Op::Receive { .. }
            | Op::Adjust { .. }
            | Op::Set { .. }
            | Op::CountBegin { .. }
            | Op::CountCommit { .. }
            | Op::Move { .. }
            | Op::Announce { .. }
            | Op::Arrive { .. }
            | Op::Return { .. }
            | Op::TransferShip { .. }
            | Op::TransferReceive { .. }
            | Op::TransferClose { .. }
            | Op::TransferCancel { .. }
            | Op::SetPolicy { .. }
            | Op::SetOwnerLimits { .. }
            | Op::DescribeSku { .. }
            | Op::NameSku { .. }
            | Op::SetReorder { .. }
            | Op::Reserve { .. }
            | Op::ReserveFrom { .. }
            | Op::Confirm { .. }
            | Op::Release { .. }
            | Op::Extend { .. }
            | Op::Pin { .. }
            | Op::Amend { .. }
            | Op::Cancel { .. }
            | Op::Fulfil { .. } => unreachable!("admission sends writes to the log"),
        }
    }

    /// Hands the reserves that are not sold out any more to the log.
    fn push_rest(&mut self, list: &List) {
        if self.pushes.is_empty() {
            return;
        }
        let (ticket, to) = Ticket::new(self.outbox);
        let mut guard = self.shared.replica.ingress();
        for entry in self.pushes.drain(..).map(|position| &list.entries[position]) {
            if self.shared.replica.records_full() {
                self.outbox.refuse(entry.tag, &records_full());
                continue;
            }
            ticket.hold(entry.ops.len());
            self.outbox.hold_bytes(entry.ops.len());
            if let Err(refusal) = guard.push(&to, entry.tag, &list.bytes[entry.ops.clone()]) {
                self.outbox.refuse(entry.tag, &refusal);
            }
        }
    }
}

fn line_is_full() -> Refusal {
    let message = "too many large reads wait for their turn; ask for fewer cells at once, or later";
    Refusal::busy(BUSY_RETRY_MS, message)
}

fn too_large() -> Refusal {
    let message = format!("the reply would be over {REPLY_BYTES_MAX} bytes; ask for less at once");
    Refusal { message, ..Refusal::new(Code::TOO_LARGE, 0) }
}
