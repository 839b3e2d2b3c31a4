//! The state machine: one log entry in, outcomes out.

use bytes::BytesMut;

use crate::protocol::event::{Anchor, Checkpoint, Divergence, EventBody, EventKind, Totals};
use crate::protocol::{
    CellRef, Code, Lines, Op, OpFlags, Opcode, Reader, ReservationId, ReservationState, ShardId,
    TransferState, UnixMillis,
};
use crate::world::UnixMicros;

use super::EngineConfig;
use super::batch::{Batch, Command};
use super::catalogue::Catalogue;
use super::cell_writer::CellWriter;
use super::crossings::Crossings;
use super::events;
use super::holds::{FORGET_CHAINS, FORGET_MS, Holds};
use super::outcomes::Outcomes;
use super::parts::Asked;
use super::reader::CellReader;
use super::reserve::{Scratch, ttl_or_default};
use super::ring::NIL;
use super::slab::Slab;
use super::sourcing::AskedFrom;
use super::time::{HoldClock, OUTAGE_MS_MAX, TICK_MS};
use super::transfer::Asker;

/// Between two steps of an operation so many others have theirs: what the next one needs is there by then.
const AHEAD: usize = 4;
/// The last step; what comes before fetches.
const EXECUTE: usize = 4;
/// Operations that are on the way.
const QUEUE: usize = (EXECUTE * AHEAD + 1).next_power_of_two();

/// The stock of one shard: cells, reservations and the log's clock. One thread writes it, by
/// [`StockState::apply`] alone; any number read it through [`StockState::cells`].
pub struct StockState {
    pub(super) config: EngineConfig,
    pub(super) index: u64,
    pub(super) clock: HoldClock,
    pub(super) cells: CellWriter,
    pub(super) holds: Holds,
    pub(super) catalogue: Catalogue,
    pub(super) crossings: Crossings,
    pub(super) scratch: Scratch,
    /// The entry that is applied has a CHECKPOINT.
    checkpoint: Option<Anchor>,
    /// What it tells of states that are wrong.
    divergences: Vec<Divergence>,
    pub(super) cut: Option<super::snapshot::Cut>,
    pub(super) cuts: u64,
    /// An empty ledger, for archived records.
    pub(super) ledger: Option<Box<Holds>>,
}

/// What one log entry did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The moment at which its operations happened: not before that of any earlier entry.
    pub now: UnixMicros,
    /// How many operations it held, and so how many outcomes it gave.
    pub op_count: u32,
    /// One of them was refused with ID_TOO_OLD.
    pub too_old: bool,
    /// One of them was a CHECKPOINT.
    pub checkpoint: Option<Anchor>,
    /// What DIVERGED among them tell.
    pub divergences: Vec<Divergence>,
}

/// How much there is of what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Reservations that hold units under a deadline, due ones that nobody noticed included.
    pub active: u64,
    /// Reservations promised to orders.
    pub confirmed: u64,
    /// All others: ended reservations, fences and stock writes that are still remembered, and transfers.
    pub ended: u64,
    /// All of the above: records in memory. Admission bounds this, with `lines`.
    pub records: u64,
    /// Lines of reservations beyond their first, shares of lines that went different ways, and steps
    /// that were done: each takes about half a record's memory.
    pub lines: u64,
    /// Cells.
    pub cells: u64,
    /// Warehouse names.
    pub warehouses: u64,
    /// SKU names.
    pub skus: u64,
    /// Groups of lines that fall due together.
    pub groups: u64,
    /// How far the sweep of due reservations is behind the log's clock, in ms; 0 when it keeps up.
    pub sweep_lag_ms: u64,
    /// Outages given back to deadlines so far, in ms.
    pub outage_ms: u64,
    /// Memory of tables and slabs, estimated.
    pub bytes: u64,
}

impl StockState {
    /// Nothing in stock, before the first log entry.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            index: 0,
            clock: HoldClock { now: UnixMicros(0), shift_ms: 0, grace_ms: config.grace_rounded() },
            cells: CellWriter::new(config.hash_seed),
            holds: Holds::new(config.hash_seed),
            catalogue: Catalogue::restore(Slab::new(), config.hash_seed),
            crossings: Crossings::default(),
            scratch: Scratch::default(),
            checkpoint: None,
            divergences: Vec::new(),
            cut: None,
            cuts: 0,
            ledger: None,
        }
    }

    /// A reader of the cells, for any thread. It stays valid for the life of this state and beyond.
    pub fn cells(&self) -> CellReader {
        CellReader::new(self.cells.table().clone(), &self.config)
    }

    /// The log's clock: the latest moment applied.
    pub fn now(&self) -> UnixMicros {
        self.clock.now
    }

    /// The index of the last log entry applied; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.index
    }

    /// Keeps events from now on, for [`StockState::take_events`].
    pub fn keep_events(&mut self, shard: ShardId) {
        self.cells.events.keep(shard);
    }

    /// What the entries since the last time have changed: records, see [`crate::protocol::event`]. Their
    /// checksums are missing.
    pub fn take_events(&mut self) -> Vec<Vec<u8>> {
        self.cells.events.take()
    }

    /// As [`StockState::take_events`], but whoever takes a record may give a buffer in return, for a later one.
    pub fn pass_events_on(&mut self, to: impl FnMut(Vec<u8>) -> Option<Vec<u8>>) {
        self.cells.events.pass_on(to);
    }

    /// The sequence number that the next event will have.
    pub fn next_event(&self) -> u64 {
        self.cells.events.next()
    }

    /// Reservations that hold units under a deadline, due ones that nobody noticed included.
    pub fn active_reservations(&self) -> u64 {
        self.holds.active
    }

    /// Would an EXPIRE at `now` do something?
    pub fn due(&self, now: UnixMicros) -> bool {
        let clock = HoldClock { now: now.max(self.clock.now), ..self.clock };
        self.holds.wheel.ring.any_before(clock.first_not_due().0)
            || self.holds.forget.any_before(first_chain_kept(&clock))
    }

    /// How much there is of what.
    pub fn stats(&self) -> Stats {
        let table = self.cells.table();
        let records = u64::from(self.holds.records.in_use());
        let lag = self.clock.first_not_due().0.saturating_sub(self.holds.wheel.front().0);
        Stats {
            active: self.holds.active,
            confirmed: self.holds.confirmed,
            ended: records - self.holds.active - self.holds.confirmed,
            records,
            lines: self.lines(),
            cells: u64::from(table.count()),
            warehouses: u64::from(table.warehouses.count()),
            skus: u64::from(table.skus.count()),
            groups: u64::from(self.holds.wheel.groups.in_use()),
            sweep_lag_ms: lag * TICK_MS,
            outage_ms: self.clock.shift_ms,
            bytes: table.bytes() + self.holds.bytes() + self.catalogue.bytes(),
        }
    }

    /// The memory of reservations, in records: what admission bounds. A cart counts for more than a
    /// reservation of one line, or a thousand lines would pass as one.
    pub fn load(&self) -> u64 {
        u64::from(self.holds.records.in_use()) + self.lines().div_ceil(2)
    }

    fn lines(&self) -> u64 {
        u64::from(self.holds.lines.in_use()) + self.holds.annexes.load()
    }

    /// Applies one log entry. Outcomes are appended to `out`, one per operation and in their order,
    /// if someone waits for them.
    ///
    /// # Panics
    /// `payload` is not a batch, or `index` was applied before: the log is broken, and a stopped
    /// replica is safe. An operation that cannot be read gives BAD_OP.
    pub fn apply(&mut self, index: u64, payload: &[u8], out: Option<&mut BytesMut>) -> Applied {
        assert!(index > self.index, "log entries are applied in order, each once");
        self.index = index;
        let mut batch = Batch::decode(payload);
        let mut outcomes = Outcomes::new(out);
        let (mut chain, mut refused) = (None, None);
        let before = self.clock.now;
        self.clock.now = before.max(batch.now);
        self.cells.events.begin_entry(index, self.clock.now);
        let mut outage_ms = (self.clock.now.0 - before.0) / 1_000;
        let count = batch.op_count as usize;
        let mut queue = [Queued::NONE; QUEUE];
        let mut principals = batch.principals;
        let mut principal: &[u8] = &[];
        self.cells.events.set_principal(principal);
        for turn in 0..count + EXECUTE * AHEAD {
            let at = |step: usize| turn.checked_sub(step * AHEAD).filter(|at| *at < count);
            if let Some(at) = at(0) {
                queue[at % QUEUE] = self.take(&mut batch);
            }
            if let Some(at) = at(1) {
                self.prefetch_record(&mut queue[at % QUEUE]);
            }
            if let Some(at) = at(2) {
                self.prefetch_cells(&queue[at % QUEUE]);
            }
            if let Some(at) = at(3).filter(|_| self.cells.has_totals()) {
                self.prefetch_totals(&queue[at % QUEUE]);
            }
            let Some(at) = at(EXECUTE) else { continue };
            let queued = &queue[at % QUEUE];
            let whose = principals.of(at as u32);
            // Those of a run are the same bytes: where they lie is seen faster than what they are.
            if !std::ptr::eq(whose, principal) {
                self.cells.events.set_principal(whose);
                principal = whose;
            }
            self.cells.events.take_note(queued.bytes);
            if queued.is_linked || chain.is_some() {
                let (command, hash) = (queued.command(), queued.hash);
                self.execute_linked(&command, hash, &mut chain, &mut outcomes);
                refused = refused.or_else(|| self.refused(queued.bytes, &outcomes));
            } else {
                self.execute_queued(queued, outage_ms, &mut outcomes);
                refused = self.refused(queued.bytes, &outcomes);
                if self.cells.has_crossed() {
                    self.keep_crossings();
                }
            }
            if chain.is_none()
                && let Some(refused) = refused.take()
            {
                self.tell_refused(&refused);
            }
            // Only a batch's first operation can start a leader: nothing may have been judged
            // by the clock before the outage was given back.
            outage_ms = 0;
        }
        self.end_chain(&mut chain);
        if let Some(refused) = refused {
            self.tell_refused(&refused);
        }
        assert!(batch.ops.is_empty(), "a log entry ends with its last operation");
        assert!(
            principals.end_within(batch.op_count),
            "a log entry names whose its operations are"
        );
        self.cells.events.end_entry();
        self.advance();
        self.cells.publish(&self.clock, self.holds.wheel.front());
        let too_old = outcomes.too_old();
        let checkpoint = self.checkpoint.take();
        let divergences = std::mem::take(&mut self.divergences);
        Applied { now: self.clock.now, op_count: batch.op_count, too_old, checkpoint, divergences }
    }

    /// Takes the place of a running state: readers of this one see `newer`, a later state of the
    /// same log. A snapshot cut of this one is dropped.
    ///
    /// # Panics
    /// `newer` is not a later state of the same log.
    pub fn replace_from(&mut self, newer: StockState) {
        assert!(newer.index >= self.index, "a state is replaced by a later one");
        self.cells.overwrite(newer.cells.table());
        let mut cells = std::mem::replace(&mut self.cells, CellWriter::new(0));
        cells.events.go_on_from(&newer.cells.events);
        let forgotten = self.holds.forgotten.take();
        *self = Self { cells, cuts: self.cuts, ..newer };
        self.holds.forgotten = forgotten;
        self.cells.publish(&self.clock, self.holds.wheel.front());
    }

    /// Decodes an operation and starts fetching what it will look up.
    #[inline]
    fn take<'a>(&self, batch: &mut Batch<'a>) -> Queued<'a> {
        let bytes = batch.ops.rest();
        let command = batch.take();
        let Command::Client(op, flags, not_after) = command else {
            return Queued { bytes, ..Queued::NONE };
        };
        let is_linked = flags.contains(OpFlags::LINKED);
        let Some(id) = op.key() else { return Queued { bytes, is_linked, ..Queued::NONE } };
        let hash = self.holds.hash(&id);
        self.holds.prefetch_id(hash);
        let deed = Deed::of(&op, hash, flags, self.is_late(not_after));
        if let Deed::Other = deed {
            self.prefetch_name(&op);
        }
        Queued { deed, bytes, hash, record: NIL, is_linked }
    }

    /// Starts fetching the place of a name that a feed or a load of many cells looks up.
    fn prefetch_name(&self, op: &Op<'_>) {
        if let Op::Receive { cell, .. } | Op::Set { cell, .. } = op
            && let CellRef::Name { sku, .. } = cell
        {
            self.cells.table().skus.prefetch(sku);
        }
    }

    /// Starts fetching the record that the operation is likely about.
    #[inline]
    fn prefetch_record(&self, queued: &mut Queued<'_>) {
        if queued.hash != 0
            && let Some(record) = self.holds.likely(queued.hash)
        {
            self.holds.records.prefetch(record);
            queued.record = record;
        }
    }

    /// Starts fetching the cell of that record, if it has not been freed since, or those that are asked for:
    /// not earlier, since a cart has many.
    #[inline]
    fn prefetch_cells(&self, queued: &Queued<'_>) {
        if queued.record != NIL {
            self.cells.prefetch(self.holds.records.get(queued.record).cell);
        }
        if let Deed::Reserve { lines, ttl_ms, .. } = &queued.deed
            && !lines.is_named()
        {
            let tick = self.clock.deadline_after(ttl_or_default(*ttl_ms)).tick();
            for line in lines.iter() {
                if let CellRef::Handle(cell) = line.cell {
                    self.cells.prefetch(cell.0);
                    self.holds.wheel.prefetch(cell.0, tick);
                }
            }
        }
    }

    /// Starts fetching the totals that the cells are in.
    fn prefetch_totals(&self, queued: &Queued<'_>) {
        if queued.record != NIL {
            self.cells.prefetch_total(self.holds.records.get(queued.record).cell);
        }
        if let Deed::Reserve { lines, .. } = &queued.deed
            && !lines.is_named()
        {
            for line in lines.iter() {
                if let CellRef::Handle(cell) = line.cell {
                    self.cells.prefetch_total(cell.0);
                }
            }
        }
    }

    #[inline]
    fn execute_queued(&mut self, queued: &Queued<'_>, outage_ms: u64, out: &mut Outcomes<'_>) {
        if !self.execute_deed(&queued.deed, queued.hash, out) {
            self.execute(&queued.command(), queued.hash, outage_ms, out);
        }
    }

    /// Sells or gives back; `false`: it is something else.
    #[inline]
    fn execute_deed(&mut self, deed: &Deed<'_>, hash: u64, out: &mut Outcomes<'_>) -> bool {
        match deed {
            Deed::Reserve { id, ttl_ms, lines, end } => {
                self.reserve(*id, hash, *ttl_ms, *lines, *end, out);
            }
            Deed::Confirm(asked) => self.confirm(asked, out),
            Deed::Release(asked) => self.release(asked, out),
            Deed::Other => return false,
        }
        true
    }

    /// The moment after which the operation may not take effect any more is over.
    #[inline]
    fn is_late(&self, not_after: Option<UnixMillis>) -> bool {
        not_after.is_some_and(|end| self.clock.now.0 > end.0.saturating_mul(1_000))
    }

    pub(super) fn execute(
        &mut self,
        command: &Command<'_>,
        hash: u64,
        outage_ms: u64,
        out: &mut Outcomes<'_>,
    ) {
        let (op, flags, not_after) = match command {
            Command::Client(op, flags, not_after) => (op, *flags, not_after),
            Command::Bad => return out.plain(Code::BAD_OP, 0),
            Command::Expire(budget) => {
                self.sweep(*budget);
                return out.plain(Code::OK, 0);
            }
            Command::LeaderStart => {
                self.give_back(outage_ms);
                return out.plain(Code::OK, 0);
            }
            Command::Tick => return out.plain(Code::OK, 0),
            Command::Checkpoint(anchor) => {
                self.tell_checkpoint(anchor);
                return out.plain(Code::OK, 0);
            }
            Command::Diverged(divergence) => {
                self.divergences.push(*divergence);
                let body = EventBody::Diverged(*divergence);
                self.cells.events.tell(&events::unnamed(EventKind::Diverged, body));
                return out.plain(Code::OK, 0);
            }
        };
        let late = self.is_late(*not_after);
        if !self.execute_deed(&Deed::of(op, hash, flags, late), hash, out) {
            self.execute_rest(op, hash, flags, late, out);
        }
    }

    /// Everything but what is sold and given back, out of the way of that.
    #[inline(never)]
    fn execute_rest(
        &mut self,
        op: &Op<'_>,
        hash: u64,
        flags: OpFlags,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        match *op {
            Op::Define { cell } => self.define(cell, late, out),
            Op::Receive { op_id, quantity, cell } => {
                self.receive(op_id, hash, quantity, cell, flags, late, out);
            }
            Op::Cancel { id, parts } => {
                self.shift_known(Opcode::Cancel, &Asked { id, hash, parts, flags, late }, out);
            }
            Op::Fulfil { id, parts } => {
                self.shift_known(Opcode::Fulfil, &Asked { id, hash, parts, flags, late }, out);
            }
            Op::Extend { id, ttl_ms } => self.extend(id, hash, ttl_ms, late, out),
            Op::Pin { id, ttl_ms } => self.pin(id, hash, ttl_ms, late, out),
            Op::Amend { id, step, lines } => self.amend(id, hash, step, lines, late, out),
            Op::TransferShip { op_id, quantity, from, to } => {
                self.ship_transfer(Asker { op_id, hash, late }, quantity, (from, to), flags, out);
            }
            Op::TransferReceive { op_id, transfer, good, damaged } => {
                self.receive_transfer(Asker { op_id, hash, late }, transfer, (good, damaged), out);
            }
            Op::TransferClose { transfer } => {
                self.end_transfer(transfer, TransferState::Closed, late, out);
            }
            Op::TransferCancel { transfer } => {
                self.end_transfer(transfer, TransferState::Cancelled, late, out);
            }
            Op::Adjust { .. }
            | Op::Set { .. }
            | Op::CountBegin { .. }
            | Op::CountCommit { .. }
            | Op::Move { .. }
            | Op::Announce { .. }
            | Op::Arrive { .. }
            | Op::Return { .. }
            | Op::SetPolicy { .. } => self.write_stock(op, hash, flags, late, out),
            Op::DescribeSku { .. } | Op::NameSku { .. } | Op::SetReorder { .. } => {
                self.write_catalogue(op, hash, late, out);
            }
            Op::SetOwnerLimits { op_id, limits } => {
                self.set_owner_limits(op_id, hash, limits, late, out);
            }
            Op::ReserveFrom { id, ttl_ms, wishes } => {
                let commit = flags.contains(OpFlags::COMMIT);
                self.reserve_from(&AskedFrom { id, hash, ttl_ms, wishes, commit, late }, out);
            }
            Op::Reserve { .. } | Op::Confirm { .. } | Op::Release { .. } => {
                unreachable!("these were executed")
            }
            Op::ReadCells { .. }
            | Op::ReadReservation { .. }
            | Op::ReadSku { .. }
            | Op::ReadDetails { .. }
            | Op::ReadLines { .. }
            | Op::ReadTransfer { .. }
            | Op::ListCells(_)
            | Op::ReadOwner { .. }
            | Op::ReadCatalogue { .. }
            | Op::ListSkus(_)
            | Op::ReadCrossings { .. }
            | Op::Ping
            | Op::ClusterStatus => out.plain(Code::BAD_OP, 0),
        }
    }

    /// What a bit that flips in memory does: units come from nowhere, and nobody is told.
    #[cfg(test)]
    pub fn plant_fault(&mut self, cell: crate::protocol::CellHandle, units: i64) {
        self.cells.plant_fault(cell.0, units);
    }

    /// How much there is of everything.
    pub fn totals(&self) -> Totals {
        Totals {
            cells: self.cells.table().count(),
            active: self.holds.active,
            confirmed: self.holds.confirmed,
            sums: *self.cells.events.sums(),
        }
    }

    fn tell_checkpoint(&mut self, anchor: &Anchor) {
        self.checkpoint = Some(*anchor);
        let bytes = Checkpoint::encode(&self.totals(), anchor);
        let body = EventBody::Checkpoint(Checkpoint::of(&bytes));
        self.cells.events.tell(&events::unnamed(EventKind::Checkpoint, body));
    }

    /// A new leader: moves every deadline later by the time in which nobody could be served.
    fn give_back(&mut self, outage_ms: u64) {
        let given_ms = outage_ms.min(OUTAGE_MS_MAX);
        if self.holds.active > 0 && given_ms > 0 {
            self.clock.shift_ms += given_ms;
            let (kind, body) = (EventKind::OutageGivenBack, EventBody::Outage(given_ms));
            self.cells.events.tell(&events::unnamed(kind, body));
        }
    }

    /// Expires and forgets what is due, as much as `budget` has lines for: a cart costs as many as it
    /// has, so that an entry's work is bounded. The last one may have more lines than are left.
    fn sweep(&mut self, mut budget: u32) {
        let Self { holds, cells, clock, config, .. } = self;
        let first_not_due = clock.first_not_due();
        let mut ahead = 0_usize;
        while budget > 0 {
            holds.wheel.ring.skip_empty(first_not_due.0);
            let tick = holds.wheel.front();
            let Some(group) = holds.wheel.first(tick).filter(|_| tick < first_not_due) else {
                break;
            };
            if ahead == 0 {
                ahead = holds.prefetch_due(cells, group);
            }
            match holds.pop_due(cells, clock, config.retention_ms, (group, EventKind::Expired)) {
                Some(lines) => budget = budget.saturating_sub(lines),
                None => {
                    holds.wheel.remove_first(tick);
                    (budget, ahead) = (budget - 1, ahead - 1);
                }
            }
        }
        holds.forget_before(first_chain_kept(clock), budget);
    }

    /// Moves the fronts over what is empty, so that they are never far behind.
    fn advance(&mut self) {
        self.holds.wheel.ring.skip_empty(self.clock.first_not_due().0);
        self.holds.forget.skip_empty(first_chain_kept(&self.clock));
    }

    /// The id's record as it stands now: what is due has expired, what is over long enough is
    /// forgotten, and how far the sweep has come makes no difference.
    #[inline]
    pub(super) fn look_up(&mut self, id: &ReservationId, hash: u64) -> Option<u32> {
        let handle = self.holds.find(id, hash)?;
        let record = self.holds.records.get(handle);
        if record.is(ReservationState::Active) {
            if !self.clock.is_due(record.deadline) {
                return Some(handle);
            }
            let Self { holds, cells, clock, config, .. } = self;
            holds.expire(cells, clock, config.retention_ms, (handle, EventKind::Expired));
        }
        let record = self.holds.records.get(handle);
        let forgotten = record.is_terminal() && self.clock.hold() >= record.forget;
        if forgotten {
            self.holds.bury(handle, hash);
        }
        (!forgotten).then_some(handle)
    }
}

/// An operation that waits for what it looks up to be there.
#[derive(Clone, Copy)]
struct Queued<'a> {
    deed: Deed<'a>,
    /// It, and what follows it.
    bytes: &'a [u8],
    /// Of its id; 0: it has none.
    hash: u64,
    /// Its record, likely.
    record: u32,
    is_linked: bool,
}

/// What is sold and given back, taken apart. Most other operations are longer, and would make each of these
/// be copied as if it were as long: they are decoded again when it is their turn.
#[derive(Clone, Copy)]
enum Deed<'a> {
    /// `end`: at once; too late.
    Reserve {
        id: ReservationId,
        ttl_ms: u32,
        lines: Lines<'a>,
        end: (bool, bool),
    },
    Confirm(Asked<'a>),
    Release(Asked<'a>),
    Other,
}

impl<'a> Deed<'a> {
    #[inline]
    fn of(op: &Op<'a>, hash: u64, flags: OpFlags, late: bool) -> Self {
        match *op {
            Op::Reserve { id, ttl_ms, lines } => {
                let commit = flags.contains(OpFlags::COMMIT);
                Self::Reserve { id, ttl_ms, lines, end: (commit, late) }
            }
            Op::Confirm { id, parts } => Self::Confirm(Asked { id, hash, parts, flags, late }),
            Op::Release { id, parts } => Self::Release(Asked { id, hash, parts, flags, late }),
            _ => Self::Other,
        }
    }
}

impl<'a> Queued<'a> {
    const NONE: Self =
        Self { deed: Deed::Other, bytes: &[], hash: 0, record: NIL, is_linked: false };

    fn command(&self) -> Command<'a> {
        Command::take(&mut Reader::new(self.bytes))
    }
}

/// Retention chains before this one hold only records that are forgotten.
fn first_chain_kept(clock: &HoldClock) -> u64 {
    // A record with forget time f is in bucket f / FORGET_MS + 1.
    (clock.hold().0 / FORGET_MS + 1) * FORGET_CHAINS
}

// The state moves to its apply thread; readers go anywhere.
const _: () = {
    const fn is_send<T: Send>() {}
    const fn is_sync<T: Sync>() {}
    is_send::<StockState>();
    is_send::<CellReader>();
    is_sync::<CellReader>();
};

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::batch::{BatchBuilder, PrincipalRuns};
    use super::*;
    use crate::protocol::event::Cause;
    use crate::protocol::{CellHandle, Line, OpFlags};

    #[test]
    fn a_cart_weighs_more_than_one_line() {
        let mut state = StockState::new(EngineConfig::default());
        let cell = state.cells.define(b"w", b"s");
        let cause = Cause::new(EventKind::Received, ReservationId([0; 16]));
        state.cells.update(cell, &cause, |cell| cell.on_hand = 2_000);
        let line = Line { cell: CellRef::Handle(CellHandle(cell)), quantity: 1 };
        for (index, lines, load) in [(1, 1, 1), (2, 1_024, 2 + 512)] {
            let id = ReservationId::from_parts(0, [index as u8; 10]);
            let mut entry = BytesMut::new();
            let batch = BatchBuilder::begin(&mut entry);
            Op::encode_reserve(&mut entry, OpFlags::default(), None, id, 0, &vec![line; lines]);
            batch.finish(&mut entry, UnixMicros(0), 1);
            state.apply(index, &entry, None);
            assert_eq!(state.load(), load, "{lines} lines");
        }
    }

    #[test]
    #[should_panic(expected = "names whose its operations are")]
    fn an_entry_that_names_more_operations_than_it_has_is_noticed() {
        let (mut entry, mut principals) = (BytesMut::new(), PrincipalRuns::default());
        principals.add(b"shop", 2);
        let batch = BatchBuilder::begin_named(&mut entry, &principals);
        Op::encode_define(&mut entry, b"w", b"s");
        batch.finish(&mut entry, UnixMicros(0), 1);
        StockState::new(EngineConfig::default()).apply(1, &entry, None);
    }
}
