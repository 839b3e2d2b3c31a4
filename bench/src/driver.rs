//! One connection's load, without the connection: bytes and times in, bytes out.
//!
//! ```text
//!             fill(now, out)                      handle(now, frame)
//!  free slot ───────────────▶ in flight ───────────────────────────▶ free slot
//!                                 │  ▲                                   │ grants bring
//!        lost() or a 2xx answer   ▼  │ fill: the same ids, flag RETRY    ▼ follow-ups
//!                               waiting                                 todo
//! ```
//!
//! - **Closed loop**: `depth` slots; a frame leaves whenever a slot is free.
//! - **Open loop**: frame *n* is due at `start + n · ops / rate`, rounded up to the next tick, whatever
//!   the server does. A due frame that finds no free slot waits in the schedule, and its latency
//!   counts from when it was due. The shell calls `fill` at every tick.
//! - A slot's operations are kept as 8-byte steps until they are answered, so a frame can be
//!   encoded again. Nothing is allocated per operation.
//! - Every acknowledged answer moves a [`Mark`]; nothing acknowledged is forgotten.
//!
//! - **Trouble** can be asked for: replies that are thrown away, as if the connection had lost them, and
//!   operations that are asked once more long after their answer. The same must come of both.
//!
//! Left out on purpose: sockets and clocks (`connection.rs`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, BytesMut};
use stockd_protocol::{
    CellHandle, CellRef, Code, ErrorReply, Frame, Guard, Header, Kind, Line, Op, OpFlags, OpId,
    Outcome, Reader, ReplyPrefix, ReservationId, ReservationState, Rules, ShardId, Terms, Wish,
    begin_frame, finish_frame, take_outcome,
};

use crate::book::{Book, Mark};
use crate::clock::Clock;
use crate::draw::mix;
use crate::plan::{Beside, Fate, Feed, IdStream, Pick, Plan};
use crate::stats::{Shared, Stats, Window};

/// How a phase of a run is driven; the same for all its connections.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many connections share the load.
    pub connections: u32,
    /// Frames in flight on each.
    pub depth: u32,
    /// Operations per frame; 1 sends single-operation frames, more sends batches.
    pub ops_per_frame: u32,
    /// Reservations a second over all connections; `None` is the closed loop.
    pub rate: Option<f64>,
    /// Nanoseconds between the moments at which frames of the open loop fall due; at least 1.
    pub tick_ns: u64,
    /// When the load begins, on the run's clock.
    pub start_ns: u64,
    /// No new reservation is sent, or due, from here on.
    pub stop_ns: u64,
    /// Most reservations of each connection.
    pub budget: u64,
    /// Beyond the budget, go on until this many reservations of all connections are confirmed.
    pub until_confirmed: Option<u64>,
    /// What goes wrong on purpose.
    pub trouble: Trouble,
    /// What is measured.
    pub windows: Vec<Window>,
}

/// What the harness does to its own requests and replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trouble {
    /// Of 100 replies, how many are thrown away and asked for again.
    pub dropped_percent: u64,
    /// Of 100 frames that were answered, how many are sent once more, late.
    pub late_percent: u64,
}

/// What the shell must do after a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Go on.
    Continue,
    /// This node cannot serve: connect to the leader, if it was named, or try another node.
    Reconnect(Option<String>),
}

/// The server said something that ends the run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault(pub String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// One operation of a frame: what to do with which reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step(u64);

impl Step {
    const RESERVE: u64 = 0;
    const CONFIRM: u64 = 1;
    const RELEASE: u64 = 2;

    const fn new(verb: u64, counter: u64) -> Self {
        Self(verb << 62 | counter)
    }

    const fn verb(self) -> u64 {
        self.0 >> 62
    }

    const fn counter(self) -> u64 {
        self.0 & ((1 << 62) - 1)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    Free,
    InFlight,
    /// To be sent again, not before this time.
    Waiting(u64),
}

#[derive(Debug)]
struct Slot {
    state: SlotState,
    due_ns: u64,
    generation: u32,
    /// It may have been executed before: the flag RETRY.
    retry: bool,
    /// It was answered before, and is asked once more.
    late: bool,
    steps: Vec<Step>,
}

/// One connection's load.
#[derive(Debug)]
pub struct Driver {
    load: Arc<Load>,
    shared: Arc<Shared>,
    clock: Clock,
    connection: u32,
    book: Book,
    slots: Vec<Slot>,
    free: Vec<u32>,
    waiting: u32,
    frames_scheduled: u64,
    todo: VecDeque<Step>,
    /// What is asked once more, and when.
    late: VecDeque<(u64, Vec<Step>)>,
    picks: Vec<Pick>,
    lines: Vec<Line<'static>>,
    stats: Stats,
}

/// More than this is not gathered for one write.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// How long after its answer an operation is asked once more.
const LATE_NS: u64 = 500 * MS;
/// How long to wait when a node says "later" without saying when.
const RETRY_DELAY_NS: u64 = 5_000_000;
const MS: u64 = 1_000_000;

impl Driver {
    /// Connection number `connection` of the load; `stream` names its reservations.
    pub fn new(
        load: Arc<Load>,
        shared: Arc<Shared>,
        clock: Clock,
        plan: Arc<Plan>,
        ids: IdStream,
        stream: u32,
        connection: u32,
    ) -> Self {
        let slot = |_| Slot {
            state: SlotState::Free,
            due_ns: 0,
            generation: 0,
            retry: false,
            late: false,
            steps: Vec::with_capacity(load.ops_per_frame as usize),
        };
        Self {
            slots: (0..load.depth).map(slot).collect(),
            free: (0..load.depth).rev().collect(),
            waiting: 0,
            frames_scheduled: 0,
            todo: VecDeque::new(),
            late: VecDeque::new(),
            picks: Vec::new(),
            lines: Vec::new(),
            stats: Stats::new(&load.windows),
            book: Book { plan, stream, ids, marks: Vec::new() },
            load,
            shared,
            clock,
            connection,
        }
    }

    /// Frames sent and not answered.
    pub fn in_flight(&self) -> bool {
        self.free.len() + (self.waiting as usize) < self.slots.len()
    }

    /// Nothing is left to send or to wait for.
    pub fn finished(&self, now: u64) -> bool {
        self.free.len() == self.slots.len()
            && self.todo.is_empty()
            && self.late.is_empty()
            && !self.may_reserve(now)
            && (self.load.rate.is_none()
                || self.exhausted()
                || self.next_due() >= self.load.stop_ns)
    }

    /// When `fill` will have something to send that it has not now; `None`: only after an answer, or
    /// at a tick of the open loop.
    pub fn wake_ns(&self, now: u64) -> Option<u64> {
        let scheduled = (now < self.load.start_ns).then_some(self.load.start_ns);
        let waiting = self.slots.iter().filter_map(|slot| match slot.state {
            SlotState::Waiting(until) => Some(until),
            _ => None,
        });
        let waiting = if self.waiting == 0 { None } else { waiting.min() };
        let late = self.late.front().map(|(due_ns, _)| *due_ns);
        scheduled.into_iter().chain(waiting).chain(late).min()
    }

    /// Appends every frame that may be sent now.
    pub fn fill(&mut self, now: u64, out: &mut BytesMut) {
        if self.waiting > 0 {
            self.resend(now, out);
        }
        self.book.ids.tick(self.book.marks.len() as u64, self.clock.unix_ms(now));
        while out.len() < WRITE_BYTES_MAX {
            let Some(&index) = self.free.last() else { break };
            let Some(due_ns) = self.collect(index as usize, now) else { break };
            self.free.pop();
            let slot = &mut self.slots[index as usize];
            slot.due_ns = due_ns;
            slot.retry = slot.late;
            self.encode(index as usize, out);
        }
    }

    /// The connection broke: all that was sent and not answered must be sent again.
    pub fn lost(&mut self, now: u64) {
        for slot in &mut self.slots {
            if slot.state == SlotState::InFlight {
                slot.state = SlotState::Waiting(now);
                slot.retry = true;
                self.waiting += 1;
            }
        }
        self.stats.reconnects += 1;
    }

    /// Takes one frame from the server.
    ///
    /// # Errors
    /// The server does not follow the protocol, or refuses what the harness sends.
    pub fn handle(&mut self, now: u64, frame: &Frame) -> Result<Next, Fault> {
        let index = (frame.header.request_id & 0xffff_ffff) as usize;
        let generation = (frame.header.request_id >> 32) as u32;
        let known = self
            .slots
            .get(index)
            .is_some_and(|slot| slot.state == SlotState::InFlight && slot.generation == generation);
        if !known {
            return Err(Fault(format!("a reply to no request: {:?}", frame.header)));
        }
        if frame.header.kind != Kind::Error
            && self.lot(generation, index, self.load.trouble.dropped_percent)
        {
            let slot = &mut self.slots[index];
            (slot.state, slot.retry) = (SlotState::Waiting(now), true);
            self.waiting += 1;
            self.stats.replies_dropped += 1;
            return Ok(Next::Continue);
        }
        let mut reader = Reader::new(&frame.body);
        let count = self.slots[index].steps.len();
        let whole = match frame.header.kind {
            Kind::BatchReply if self.load.ops_per_frame > 1 => ReplyPrefix::take(&mut reader)
                .and_then(|_| reader.u32())
                .is_ok_and(|said| said as usize == count),
            Kind::OpReply if self.load.ops_per_frame == 1 => ReplyPrefix::take(&mut reader).is_ok(),
            Kind::Error => return self.refused(now, index, &frame.body),
            _ => false,
        };
        if !whole || self.settle_all(now, index, &mut reader).is_none() {
            return Err(Fault(format!("a reply that cannot be read: {:?}", frame.header)));
        }
        Ok(Next::Continue)
    }

    /// Tells the other connections and the progress display what this burst brought.
    pub fn publish(&mut self, now: u64) {
        let fresh = std::mem::take(&mut self.stats.fresh);
        self.shared.add(now, &fresh);
    }

    /// What was measured and what is remembered, at the end.
    pub fn into_parts(mut self, now: u64) -> (Stats, Book) {
        self.stats.frames_overdue = self.overdue(now);
        (self.stats, self.book)
    }

    /// Frames that were due in the open loop and never left.
    fn overdue(&mut self, now: u64) -> u64 {
        if self.load.rate.is_none() {
            return 0;
        }
        let (sent, end_ns) = (self.frames_scheduled, now.min(self.load.stop_ns));
        let frames_max = self.load.budget.div_ceil(u64::from(self.load.ops_per_frame));
        while self.frames_scheduled < frames_max && self.next_due() < end_ns {
            self.frames_scheduled += 1;
        }
        self.frames_scheduled - sent
    }

    fn exhausted(&self) -> bool {
        self.book.marks.len() as u64 >= self.load.budget
            // Relaxed: a late look sends a few more reservations, which does no harm.
            && self
                .load
                .until_confirmed
                .is_none_or(|units| self.shared.confirmed.load(Ordering::Relaxed) >= units)
    }

    fn may_reserve(&self, now: u64) -> bool {
        now < self.load.stop_ns && now >= self.load.start_ns && !self.exhausted()
    }

    /// When the next frame of the open loop is due.
    fn next_due(&self) -> u64 {
        let rate = self.load.rate.expect("asked in the open loop only");
        let frame = self.frames_scheduled * u64::from(self.load.connections);
        let frame = (frame + u64::from(self.connection)) as f64;
        let after_ns = (frame * f64::from(self.load.ops_per_frame) * 1e9 / rate) as u64;
        self.load.start_ns + after_ns.next_multiple_of(self.load.tick_ns)
    }

    /// Chooses the steps of a new frame and says when it was due; `None`: there is none now.
    fn collect(&mut self, index: usize, now: u64) -> Option<u64> {
        let ops_max = self.load.ops_per_frame as usize;
        let mut due_ns = now;
        let follow_ups = self.todo.len().min(ops_max);
        let mut room = ops_max - follow_ups;
        if self.load.rate.is_some() {
            // Follow-ups leave at once and by themselves; reservations leave when they are due.
            due_ns = if follow_ups > 0 { now } else { self.next_due() };
            let is_due = due_ns <= now && due_ns < self.load.stop_ns && !self.exhausted();
            room = if follow_ups == 0 && is_due { room } else { 0 };
            self.frames_scheduled += u64::from(room > 0);
        } else if !self.may_reserve(now) {
            room = 0;
        }
        if let Some((due_ns, steps)) = self.late.pop_front_if(|(due_ns, _)| *due_ns <= now) {
            let slot = &mut self.slots[index];
            (slot.steps, slot.late) = (steps, true);
            return Some(due_ns);
        }
        self.slots[index].late = false;
        let steps = &mut self.slots[index].steps;
        steps.clear();
        steps.extend(self.todo.drain(..follow_ups));
        let first = self.book.marks.len() as u64;
        let beyond = self.load.until_confirmed.is_some();
        let budget = if beyond { u64::MAX } else { self.load.budget.saturating_sub(first) };
        let count = (room as u64).min(budget);
        steps.extend((first..first + count).map(|counter| Step::new(Step::RESERVE, counter)));
        self.book.marks.resize((first + count) as usize, Mark::Unanswered);
        (!steps.is_empty()).then_some(due_ns)
    }

    fn resend(&mut self, now: u64, out: &mut BytesMut) {
        for index in 0..self.slots.len() {
            if matches!(self.slots[index].state, SlotState::Waiting(until) if until <= now) {
                self.waiting -= 1;
                self.stats.frames_resent += 1;
                self.encode(index, out);
            }
        }
    }

    /// Encodes a slot's steps as a frame and counts it as in flight.
    fn encode(&mut self, index: usize, out: &mut BytesMut) {
        let slot = &mut self.slots[index];
        slot.state = SlotState::InFlight;
        slot.generation = slot.generation.wrapping_add(1);
        let batch = self.load.ops_per_frame > 1;
        let request_id = u64::from(slot.generation) << 32 | index as u64;
        let kind = if batch { Kind::Batch } else { Kind::Op };
        let start = begin_frame(out, Header { request_id, kind, shard: ShardId(0) });
        if batch {
            out.put_u32_le(slot.steps.len() as u32);
        }
        let flags = if slot.retry { OpFlags::RETRY } else { OpFlags::default() };
        let book = &self.book;
        for step in &slot.steps {
            let counter = step.counter();
            let id = book.ids.id(counter);
            match step.verb() {
                Step::CONFIRM => Op::encode_confirm(out, flags, None, id),
                Step::RELEASE => Op::encode_release(out, flags, None, id),
                _ => {
                    if let Some(feed) = book.plan.feed(book.stream, counter) {
                        encode_feed(book, OpId(id.0), &feed, flags, out);
                        continue;
                    }
                    book.plan.lines(book.stream, counter, &mut self.picks);
                    self.lines.clear();
                    self.lines.extend(self.picks.iter().map(|(cell, quantity)| Line {
                        cell: CellRef::Handle(CellHandle(book.plan.handles[*cell as usize])),
                        quantity: *quantity,
                    }));
                    let fate = book.plan.fate(book.stream, counter);
                    let ttl_ms = book.plan.ttl_ms(fate, id.millis());
                    match book.plan.owner(book.stream, counter) {
                        Some(owner) => {
                            encode_for(&owner, flags, id, ttl_ms, &self.lines, out);
                        }
                        None => Op::encode_reserve(out, flags, None, id, ttl_ms, &self.lines),
                    }
                }
            }
        }
        finish_frame(out, start);
    }

    /// Settles all steps of a slot; `None`: the reply is cut short.
    fn settle_all(&mut self, now: u64, index: usize, reader: &mut Reader<'_>) -> Option<()> {
        let mut steps = std::mem::take(&mut self.slots[index].steps);
        let Slot { retry: retried, late, generation, .. } = self.slots[index];
        if late {
            return self.settle_late(index, &steps, reader);
        }
        let again = self.lot(!generation, index, self.load.trouble.late_percent);
        let asked = if again { steps.clone() } else { Vec::new() };
        let (mut kept, mut settled) = (0, 0_u64);
        let granted_before = self.stats.fresh.granted;
        for at in 0..steps.len() {
            let step = steps[at];
            let outcome = take_outcome(reader).ok()?;
            self.stats.count(outcome.code);
            if outcome.code.is_retry() {
                steps[kept] = step;
                kept += 1;
            } else {
                settled += 1;
                self.settle(step, &outcome, retried);
            }
        }
        steps.truncate(kept);
        if kept == 0 {
            self.ask_again(now, asked);
        }
        let granted = self.stats.fresh.granted - granted_before;
        let slot = &mut self.slots[index];
        slot.steps = steps;
        self.stats.answered(slot.due_ns, now, settled, granted, kept == 0);
        if kept == 0 {
            slot.state = SlotState::Free;
            self.free.push(index as u32);
        } else {
            slot.retry = true;
            slot.state = SlotState::Waiting(now + RETRY_DELAY_NS);
            self.waiting += 1;
        }
        Some(())
    }

    /// So many frames of 100.
    fn lot(&self, generation: u32, index: usize, percent: u64) -> bool {
        let stream = u64::from(self.book.stream) << 32;
        percent > 0 && mix(mix(stream | u64::from(generation)) ^ index as u64) % 100 < percent
    }

    /// What of `steps` took effect is asked once more, later.
    fn ask_again(&mut self, now: u64, mut steps: Vec<Step>) {
        let marks = &self.book.marks;
        steps.retain(|step| {
            let mark = marks[step.counter() as usize];
            match step.verb() {
                Step::CONFIRM => mark == Mark::Confirmed,
                Step::RELEASE => mark == Mark::Released,
                _ => matches!(mark, Mark::Granted | Mark::Confirming | Mark::Releasing),
            }
        });
        if !steps.is_empty() {
            self.late.push_back((now + LATE_NS, steps));
        }
    }

    /// Whatever was asked once more was done before.
    fn settle_late(&mut self, index: usize, steps: &[Step], reader: &mut Reader<'_>) -> Option<()> {
        for step in steps {
            let outcome = take_outcome(reader).ok()?;
            self.stats.count(outcome.code);
            self.stats.asked_again += 1;
            if outcome.code != Code::REPLAY {
                let (code, ids) = (outcome.code, &self.book.ids);
                let id = ids.id(step.counter());
                self.stats.odd(|| format!("{id} was asked once more and answered {code}"));
            }
        }
        let slot = &mut self.slots[index];
        (slot.state, slot.late) = (SlotState::Free, false);
        self.free.push(index as u32);
        Some(())
    }

    #[inline]
    fn settle(&mut self, step: Step, outcome: &Outcome<'_>, retried: bool) {
        let counter = step.counter();
        let mark = match step.verb() {
            Step::CONFIRM => self.confirmed(outcome),
            Step::RELEASE => self.released(outcome),
            _ => self.reserved(counter, outcome, retried),
        };
        if mark == Mark::Odd {
            let verb = ["RESERVE", "CONFIRM", "RELEASE"][step.verb() as usize];
            let state = outcome.state().map_or("no state", ReservationState::name);
            let (code, ids) = (outcome.code, &self.book.ids);
            self.stats
                .odd(|| format!("{verb} {} was answered {code} with {state}", ids.id(counter)));
        }
        self.book.marks[counter as usize] = mark;
    }

    fn reserved(&mut self, counter: u64, outcome: &Outcome<'_>, retried: bool) -> Mark {
        if self.book.plan.feed(self.book.stream, counter).is_some() {
            return match outcome.code {
                Code::OK | Code::REPLAY => Mark::Fed,
                Code::STALE_FEED => Mark::Refused,
                _ => Mark::Odd,
            };
        }
        let limited = outcome.code == Code::OWNER_LIMIT
            && self.book.plan.owner(self.book.stream, counter).is_some();
        if outcome.code == Code::NO_STOCK || limited {
            self.stats.fresh.refused += 1;
            return Mark::Refused;
        }
        // An id that was sent once cannot have been executed before.
        let granted = outcome.code == Code::OK || (retried && outcome.code == Code::REPLAY);
        if !granted {
            return Mark::Odd;
        }
        self.stats.fresh.granted += 1;
        match outcome.state() {
            Some(ReservationState::Active) => self.stats.deadline(outcome),
            // A replay that came so late that the reservation has run out meanwhile.
            Some(ReservationState::Expired) if retried => return Mark::Expired,
            _ => return Mark::Odd,
        }
        match self.book.plan.fate(self.book.stream, counter) {
            Fate::Confirm => {
                self.todo.push_back(Step::new(Step::CONFIRM, counter));
                Mark::Confirming
            }
            Fate::Release => {
                self.todo.push_back(Step::new(Step::RELEASE, counter));
                Mark::Releasing
            }
            Fate::Keep => Mark::Granted,
        }
    }

    fn confirmed(&mut self, outcome: &Outcome<'_>) -> Mark {
        if outcome.code.is_ok() {
            self.stats.fresh.confirmed += 1;
            Mark::Confirmed
        } else if outcome.code == Code::HOLD_EXPIRED {
            self.stats.fresh.expired += 1;
            Mark::Expired
        } else {
            Mark::Odd
        }
    }

    fn released(&mut self, outcome: &Outcome<'_>) -> Mark {
        match (outcome.code.is_ok(), outcome.state()) {
            (true, Some(ReservationState::Expired)) => {
                self.stats.fresh.expired += 1;
                Mark::Expired
            }
            (true, Some(ReservationState::Released)) => {
                self.stats.fresh.released += 1;
                Mark::Released
            }
            _ => Mark::Odd,
        }
    }

    /// A whole frame was refused: wait, move, or give up.
    fn refused(&mut self, now: u64, index: usize, body: &[u8]) -> Result<Next, Fault> {
        let error = ErrorReply::decode(body).map_err(|_| Fault("an error cut short".into()))?;
        self.stats.count(error.code);
        if !error.code.is_retry() {
            let message = String::from_utf8_lossy(error.message);
            return Err(Fault(format!("the server refused a frame: {}: {message}", error.code)));
        }
        let delay = u64::from(error.retry_after_ms) * MS;
        let slot = &mut self.slots[index];
        // The other 2xx codes say that nothing was executed.
        slot.retry |= error.code == Code::OUTCOME_UNKNOWN;
        self.waiting += 1;
        if error.code == Code::NOT_LEADER {
            slot.state = SlotState::Waiting(now);
            let leader = String::from_utf8_lossy(error.leader).into_owned();
            return Ok(Next::Reconnect(Some(leader).filter(|leader| !leader.is_empty())));
        }
        slot.state = SlotState::Waiting(now + if delay == 0 { RETRY_DELAY_NS } else { delay });
        Ok(Next::Continue)
    }
}

/// A reserve for somebody: the lines come from their cells and from no other.
fn encode_for(
    owner: &[u8],
    flags: OpFlags,
    id: ReservationId,
    ttl_ms: u32,
    lines: &[Line<'_>],
    out: &mut BytesMut,
) {
    let rules = Rules { owner, ..Rules::default() };
    let cells: Vec<_> = lines.iter().map(|line| [line.cell]).collect();
    let wishes = lines.iter().zip(&cells);
    let wishes: Vec<_> = wishes
        .map(|(line, cells)| Wish { quantity: line.quantity, min_quantity: 0, cells })
        .collect();
    let terms = Terms { flags, ..Terms::default() };
    Op::encode_reserve_from(out, &terms, id, ttl_ms, rules, &wishes)
        .expect("a cart has few enough lines");
}

fn encode_feed(book: &Book, op_id: OpId, feed: &Feed, flags: OpFlags, out: &mut BytesMut) {
    let cell = CellRef::Handle(CellHandle(book.plan.handles[feed.cell as usize]));
    let guard = Guard::Feed(feed.sequence);
    let terms = Terms { flags, ..Terms::default() };
    Op::Set { op_id, on_hand: feed.on_hand, guard, cell }.encode(out, &terms);
}

/// The largest frame this load can send, in bytes.
pub fn frame_bytes_max(plan: &Plan, ops_per_frame: u32) -> usize {
    let line = if plan.owner(0, 0).is_some() { 16 } else { 8 };
    let beside = if plan.beside == Beside::Nothing { 0 } else { 32 };
    let op = Op::HEADER_BYTES + 16 + 4 + beside + line * plan.lines_max();
    Header::BYTES + 4 + op * ops_per_frame as usize
}

/// A counter that many connections add to, once per burst.
pub fn add(counter: &AtomicU64, count: u64) {
    if count > 0 {
        // Relaxed: a statistic; it orders nothing.
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Choice, Ttl};
    use stockd_protocol::{
        OutcomeHeader, UnixMillis, begin_outcome, finish_outcome, limits, take_frame, take_op,
    };

    fn load() -> Load {
        Load {
            connections: 1,
            depth: 1,
            ops_per_frame: 1,
            rate: None,
            tick_ns: MS,
            start_ns: 0,
            stop_ns: 1_000 * MS,
            budget: u64::MAX,
            until_confirmed: None,
            trouble: Trouble::default(),
            windows: vec![Window { name: "all", from_ns: 0, to_ns: u64::MAX }],
        }
    }

    async fn driver(load: Load, confirm_percent: u32) -> Driver {
        let plan = Plan {
            seed: 1,
            choice: Choice::Uniform,
            handles: vec![40, 41, 42],
            confirm_percent,
            release_percent: 0,
            ttl: Ttl::Fixed(0),
            ttl_kept: Ttl::Fixed(0),
            beside: Beside::Nothing,
        };
        let ids = IdStream::new(9, 0);
        let shared = Arc::new(Shared::default());
        Driver::new(Arc::new(load), shared, Clock::start(), Arc::new(plan), ids, 0, 0)
    }

    fn sent(driver: &mut Driver, now: u64) -> Vec<Frame> {
        let mut out = BytesMut::new();
        driver.fill(now, &mut out);
        std::iter::from_fn(|| take_frame(&mut out, limits::FRAME_BYTES_MAX).unwrap()).collect()
    }

    /// Answers a single-operation frame.
    fn answer(driver: &mut Driver, now: u64, frame: &Frame, code: Code, state: u16) -> Next {
        let mut out = BytesMut::new();
        let header = Header { kind: Kind::OpReply, ..frame.header };
        let start = begin_frame(&mut out, header);
        ReplyPrefix { index: 1, server_now: UnixMillis(1), age_ms: 0 }.encode(&mut out);
        let outcome = begin_outcome(&mut out, OutcomeHeader { code, detail: state });
        out.put_u64_le(77);
        finish_outcome(&mut out, outcome);
        finish_frame(&mut out, start);
        let reply = take_frame(&mut out, limits::REPLY_BYTES_MAX).unwrap().unwrap();
        driver.handle(now, &reply).unwrap()
    }

    fn refuse(driver: &mut Driver, now: u64, frame: &Frame, code: Code) -> Next {
        let mut out = BytesMut::new();
        let header = Header { kind: Kind::Error, ..frame.header };
        let start = begin_frame(&mut out, header);
        let leader = b"127.0.0.1:9";
        ErrorReply { code, retry_after_ms: 7, leader, message: b"", event: 0 }.encode(&mut out);
        finish_frame(&mut out, start);
        let reply = take_frame(&mut out, limits::REPLY_BYTES_MAX).unwrap().unwrap();
        driver.handle(now, &reply).unwrap()
    }

    fn op(frame: &Frame) -> (Op<'_>, OpFlags) {
        let (op, flags, _) = take_op(&mut Reader::new(&frame.body)).unwrap();
        (op, flags)
    }

    #[tokio::test]
    async fn open_loop_latency_counts_from_when_a_frame_was_due() {
        // A frame is due every millisecond, one may be in flight, and the server sleeps for 10 ms.
        let mut driver = driver(Load { rate: Some(1_000.0), ..load() }, 0).await;
        let first = sent(&mut driver, 0);
        assert_eq!(first.len(), 1);
        assert_eq!(sent(&mut driver, 5 * MS).len(), 0, "the slot is taken");
        answer(&mut driver, 10 * MS, &first[0], Code::OK, 1);
        let second = sent(&mut driver, 10 * MS);
        assert_eq!(second.len(), 1, "due at 1 ms");
        answer(&mut driver, 11 * MS, &second[0], Code::OK, 1);
        let third = sent(&mut driver, 11 * MS);
        answer(&mut driver, 11 * MS, &third[0], Code::OK, 1);
        let (stats, book) = driver.into_parts(12 * MS);
        let latencies: Vec<u64> =
            stats.measured[0].latency_us.iter_recorded().map(|v| v.value_iterated_to()).collect();
        assert_eq!(latencies.len(), 2, "9 and 10 ms: {latencies:?}");
        assert!(latencies[0].abs_diff(9_000) < 20 && latencies[1].abs_diff(10_000) < 20);
        assert_eq!(stats.measured[0].latency_us.len(), 3);
        assert_eq!(stats.frames_overdue, 12 - 3, "of those due before 12 ms, three were sent");
        assert_eq!(book.marks, [Mark::Granted; 3]);
    }

    #[tokio::test]
    async fn open_loop_frames_are_not_sent_before_they_are_due() {
        let mut driver = driver(Load { rate: Some(1_000.0), depth: 8, ..load() }, 0).await;
        assert_eq!(sent(&mut driver, 0).len(), 1);
        assert_eq!(sent(&mut driver, MS - 1).len(), 0);
        assert_eq!(sent(&mut driver, MS).len(), 1);
        assert_eq!(sent(&mut driver, 4 * MS).len(), 3);
    }

    #[tokio::test]
    async fn arrivals_gather_at_the_ticks() {
        let load = Load { rate: Some(10_000.0), depth: 64, ..load() };
        let mut driver = driver(load, 0).await;
        assert_eq!(sent(&mut driver, 0).len(), 1);
        assert_eq!(sent(&mut driver, MS - 1).len(), 0);
        assert_eq!(sent(&mut driver, MS).len(), 10);
    }

    #[tokio::test]
    async fn what_was_lost_is_sent_again_with_the_same_bytes_and_the_flag() {
        let mut driver = driver(load(), 0).await;
        let first = sent(&mut driver, 0);
        driver.lost(MS);
        let again = sent(&mut driver, MS);
        assert_eq!(again.len(), 1);
        let ((before, flags), (after, flags_after)) = (op(&first[0]), op(&again[0]));
        assert_eq!(before, after, "same id, ttl and lines");
        assert!(!flags.contains(OpFlags::RETRY) && flags_after.contains(OpFlags::RETRY));
        // It had been executed, and the answer was lost.
        answer(&mut driver, 2 * MS, &again[0], Code::REPLAY, 1);
        let (stats, book) = driver.into_parts(3 * MS);
        assert_eq!((stats.odd_count, book.marks), (0, vec![Mark::Granted]));
    }

    #[tokio::test]
    async fn an_answer_to_an_earlier_sending_is_a_fault() {
        let mut driver = driver(load(), 0).await;
        let first = sent(&mut driver, 0);
        driver.lost(MS);
        sent(&mut driver, MS);
        let stale =
            Frame { header: Header { kind: Kind::OpReply, ..first[0].header }, ..first[0].clone() };
        assert!(driver.handle(MS, &stale).is_err());
    }

    #[tokio::test]
    async fn a_reply_that_is_thrown_away_is_asked_for_again() {
        let trouble = Trouble { dropped_percent: 50, late_percent: 0 };
        let mut driver = driver(Load { budget: 40, trouble, ..load() }, 0).await;
        let mut retried = 0;
        for _ in 0..400 {
            let frames = sent(&mut driver, MS);
            let [frame] = &frames[..] else { break };
            let is_retry = op(frame).1.contains(OpFlags::RETRY);
            retried += u64::from(is_retry);
            answer(&mut driver, MS, frame, if is_retry { Code::REPLAY } else { Code::OK }, 1);
        }
        assert!(driver.finished(MS));
        let (stats, book) = driver.into_parts(2 * MS);
        assert_eq!((stats.odd_count, stats.replies_dropped), (0, retried));
        assert!((10..120).contains(&retried), "{retried} of 40 and their repetitions");
        assert_eq!(book.marks, vec![Mark::Granted; 40]);
    }

    #[tokio::test]
    async fn what_is_asked_once_more_was_done_before() {
        let trouble = Trouble { dropped_percent: 0, late_percent: 100 };
        for (code, odd) in [(Code::REPLAY, 0), (Code::OK, 1)] {
            let mut driver = driver(Load { budget: 1, trouble, ..load() }, 100).await;
            let reserve = sent(&mut driver, 0);
            answer(&mut driver, 0, &reserve[0], Code::OK, 1);
            let confirm = sent(&mut driver, 0);
            answer(&mut driver, 0, &confirm[0], Code::OK, 2);
            assert!(sent(&mut driver, MS).is_empty() && !driver.finished(MS));
            assert_eq!(driver.wake_ns(MS), Some(LATE_NS));
            let again = sent(&mut driver, LATE_NS);
            assert_eq!(op(&again[0]).0, op(&reserve[0]).0);
            assert!(op(&again[0]).1.contains(OpFlags::RETRY));
            answer(&mut driver, LATE_NS, &again[0], code, 2);
            let again = sent(&mut driver, LATE_NS);
            answer(&mut driver, LATE_NS, &again[0], Code::REPLAY, 2);
            assert!(driver.finished(LATE_NS));
            let (stats, book) = driver.into_parts(LATE_NS);
            assert_eq!((stats.odd_count, stats.asked_again), (odd, 2));
            assert_eq!(book.marks, [Mark::Confirmed]);
        }
    }

    #[tokio::test]
    async fn a_busy_server_is_given_time_and_no_retry_flag() {
        let mut driver = driver(load(), 0).await;
        let first = sent(&mut driver, 0);
        assert_eq!(refuse(&mut driver, 0, &first[0], Code::BUSY), Next::Continue);
        assert!(!driver.in_flight() && !driver.finished(2_000 * MS));
        assert_eq!(driver.wake_ns(0), Some(7 * MS));
        assert_eq!(sent(&mut driver, 7 * MS - 1).len(), 0);
        let again = sent(&mut driver, 7 * MS);
        assert!(!op(&again[0]).1.contains(OpFlags::RETRY), "nothing of it was executed");
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_sent_again_as_a_retry() {
        let mut driver = driver(load(), 0).await;
        let first = sent(&mut driver, 0);
        refuse(&mut driver, 0, &first[0], Code::OUTCOME_UNKNOWN);
        let again = sent(&mut driver, 7 * MS);
        assert!(op(&again[0]).1.contains(OpFlags::RETRY));
    }

    #[tokio::test]
    async fn another_leader_is_followed() {
        let mut driver = driver(load(), 0).await;
        let first = sent(&mut driver, 0);
        let next = refuse(&mut driver, 0, &first[0], Code::NOT_LEADER);
        assert_eq!(next, Next::Reconnect(Some("127.0.0.1:9".into())));
        driver.lost(0);
        let again = sent(&mut driver, 0);
        assert!(!op(&again[0]).1.contains(OpFlags::RETRY), "a follower executes nothing");
    }

    #[tokio::test]
    async fn grants_are_confirmed_even_after_the_load_stopped() {
        let mut driver = driver(Load { stop_ns: MS, ..load() }, 100).await;
        let reserve = sent(&mut driver, 0);
        answer(&mut driver, 2 * MS, &reserve[0], Code::OK, 1);
        assert!(!driver.finished(2 * MS));
        let confirm = sent(&mut driver, 2 * MS);
        assert!(matches!(op(&confirm[0]).0, Op::Confirm { .. }));
        driver.lost(2 * MS);
        let (stats, book) = {
            let again = sent(&mut driver, 2 * MS);
            answer(&mut driver, 3 * MS, &again[0], Code::REPLAY, 2);
            assert!(driver.finished(3 * MS));
            driver.into_parts(3 * MS)
        };
        assert_eq!((stats.odd_count, book.marks), (0, vec![Mark::Confirmed]));
    }

    #[tokio::test]
    async fn a_confirm_of_nothing_is_impossible() {
        let mut driver = driver(Load { stop_ns: MS, ..load() }, 100).await;
        let reserve = sent(&mut driver, 0);
        answer(&mut driver, MS, &reserve[0], Code::OK, 1);
        let confirm = sent(&mut driver, MS);
        answer(&mut driver, MS, &confirm[0], Code::NOT_FOUND, 0);
        let (stats, book) = driver.into_parts(MS);
        assert_eq!((stats.odd_count, book.marks), (1, vec![Mark::Odd]));
    }

    #[tokio::test]
    async fn a_drop_goes_on_after_its_demand_until_all_is_sold() {
        let load = Load { budget: 1, until_confirmed: Some(1), ..load() };
        let mut driver = driver(load, 100).await;
        for _ in 0..3 {
            let reserve = sent(&mut driver, 0);
            assert_eq!(reserve.len(), 1, "nothing is sold yet");
            answer(&mut driver, 0, &reserve[0], Code::NO_STOCK, 0);
        }
        let reserve = sent(&mut driver, 0);
        answer(&mut driver, 0, &reserve[0], Code::OK, 1);
        let confirm = sent(&mut driver, 0);
        answer(&mut driver, 0, &confirm[0], Code::OK, 2);
        driver.publish(0);
        assert!(driver.finished(0));
        assert_eq!(sent(&mut driver, 0).len(), 0);
    }

    #[tokio::test]
    async fn an_open_loop_that_kept_up_owes_nothing() {
        let load = Load { rate: Some(3_000.0), depth: 64, stop_ns: 10 * MS, ..load() };
        let mut driver = driver(load, 0).await;
        for ms in 0..10 {
            for frame in sent(&mut driver, ms * MS) {
                answer(&mut driver, ms * MS, &frame, Code::OK, 1);
            }
        }
        assert!(driver.finished(10 * MS));
        assert_eq!(driver.into_parts(10 * MS).0.frames_overdue, 0);
    }
}
