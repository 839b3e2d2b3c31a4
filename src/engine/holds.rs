//! The ledger: all records, their lines, and the three ways to one: by id, by due time, by the time
//! at which it may be forgotten.
//!
//! ```text
//!                 ids ──▶ record ──▶ extra line ──▶ extra line
//!                           ▲  ▲            ▲
//! wheel  (cell, tick) ──────┘  │ (lines)    │
//! forget bucket ───────────────┘ (ended records with no line in the wheel)
//! ```
//!
//! Invariants:
//! - A cell's `reserved` is the sum of its lines in ACTIVE records, `committed` in CONFIRMED ones.
//! - Every line of an ACTIVE record is linked in a group whose tick is not after its deadline's.
//! - An ended record is linked in groups or waits in exactly one bucket.

use crate::protocol::{ReservationId, ReservationState};

use super::cells::CellWriter;
use super::hash::hash_id;
use super::index::Index;
use super::record::{ExtraLine, LineAt, LineRef, Record, Standing};
use super::ring::{NIL, Ring};
use super::slab::Slab;
use super::time::{HoldClock, HoldMillis, Tick};
use super::wheel::Wheel;

/// Width of a retention bucket: ended records are freed this much late at most.
pub(super) const FORGET_MS: u64 = 8_192;

/// Chains per bucket, by handle: the sweep follows them side by side, since along one chain every
/// step waits for memory.
pub(super) const FORGET_CHAINS: u64 = 16;

/// 2¹⁰ buckets are 2.3 hours; a longer retention waits in the ring's far part.
pub(super) const FORGET_SPAN: usize = (1 << 10) * FORGET_CHAINS as usize;

/// Groups whose lines are fetched together by the sweep.
const SWEEP_AHEAD: usize = 16;

/// How far reclaim looks past the due ticks for the cell's next group. Every tick found empty is
/// one in which a sold-out cell is refused without the log: 64 ticks are 4 seconds.
const LOOK_AHEAD_TICKS: u64 = 64;

/// See the module.
pub(super) struct Holds {
    pub records: Slab<Record>,
    pub lines: Slab<ExtraLine>,
    pub wheel: Wheel,
    pub forget: Ring,
    ids: Index,
    seed: u64,
    pub active: u64,
    pub confirmed: u64,
}

/// A line of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeldLine {
    pub cell: u32,
    pub quantity: u32,
}

impl Holds {
    /// No records. The seed is this process's own.
    pub fn new(seed: u64) -> Self {
        let wheel = Wheel::new(seed);
        Self::restore(Slab::new(), Slab::new(), wheel, Ring::new(FORGET_SPAN), seed)
    }

    /// Puts index and sums to the slabs.
    pub fn restore(
        records: Slab<Record>,
        lines: Slab<ExtraLine>,
        wheel: Wheel,
        forget: Ring,
        seed: u64,
    ) -> Self {
        let mut ids = Index::new();
        let (mut active, mut confirmed) = (0, 0);
        for (handle, record) in records.iter().filter(|(_, record)| record.standing().is_some()) {
            ids.insert(hash_id(seed, &record.id.0), handle);
            active += u64::from(record.is(ReservationState::Active));
            confirmed += u64::from(record.is(ReservationState::Confirmed));
        }
        Self { records, lines, wheel, forget, ids, seed, active, confirmed }
    }

    /// The hash under which an id is looked up.
    #[inline]
    pub fn hash(&self, id: &[u8; 16]) -> u64 {
        hash_id(self.seed, id)
    }

    /// Starts fetching the place where the id's handle is.
    #[inline]
    pub fn prefetch_id(&self, hash: u64) {
        self.ids.prefetch(hash);
    }

    /// A record that is likely the id's: its hash agrees.
    #[inline]
    pub fn likely(&self, hash: u64) -> Option<u32> {
        self.ids.find(hash, |_| true)
    }

    /// The id's record, whatever has become of it.
    #[inline]
    pub fn find(&self, id: &ReservationId, hash: u64) -> Option<u32> {
        self.ids.find(hash, |handle| self.records.get(handle).id == *id)
    }

    /// The lines of a record, in order.
    pub fn lines_of(&self, record: u32) -> impl Iterator<Item = HeldLine> + '_ {
        let record = self.records.get(record);
        let first = (record.lines() > 0)
            .then_some(HeldLine { cell: record.cell, quantity: record.quantity });
        let extra = |handle: u32| (handle != NIL).then(|| self.lines.get(handle));
        let rest = std::iter::successors(extra(record.more), move |line| extra(line.more));
        let rest = rest.map(|line| HeldLine { cell: line.cell, quantity: line.quantity });
        first.into_iter().chain(rest)
    }

    /// Stores a record and its lines, which are linked to fall due with it.
    pub fn insert(
        &mut self,
        cells: &mut CellWriter,
        mut record: Record,
        hash: u64,
        lines: &[HeldLine],
    ) -> u32 {
        record.set_lines(lines.len() as u32);
        let Some((first, rest)) = lines.split_first() else {
            let handle = self.records.insert(record);
            self.ids.insert(hash, handle);
            self.settle(handle);
            return handle;
        };
        let tick = record.deadline.tick();
        (record.cell, record.quantity) = (first.cell, first.quantity);
        let handle = self.records.insert(record);
        self.ids.insert(hash, handle);
        self.active += 1;
        self.link(cells, LineRef::first(handle), handle, first.cell, tick);
        let mut last = NIL;
        for line in rest {
            let extra = self.lines.insert(ExtraLine {
                record: handle,
                cell: line.cell,
                quantity: line.quantity,
                more: NIL,
                next: NIL,
            });
            match last {
                NIL => self.records.get_mut(handle).more = extra,
                last => self.lines.get_mut(last).more = extra,
            }
            self.link(cells, LineRef::extra(extra), handle, line.cell, tick);
            last = extra;
        }
        handle
    }

    /// Ends an active reservation and gives its units back.
    ///
    /// # Panics
    /// It is not active.
    pub fn end(
        &mut self,
        cells: &mut CellWriter,
        handle: u32,
        state: ReservationState,
        forget: HoldMillis,
    ) {
        self.change_lines(cells, handle, |cell, quantity| cell.reserved -= quantity);
        let record = self.records.get_mut(handle);
        record.set_state(state);
        record.forget = record.forget.max(forget);
        self.active -= 1;
        self.settle(handle);
    }

    /// Promises an active reservation's units.
    ///
    /// # Panics
    /// It is not active.
    pub fn confirm(&mut self, cells: &mut CellWriter, handle: u32) {
        self.change_lines(cells, handle, |cell, quantity| {
            cell.reserved -= quantity;
            cell.committed += quantity;
        });
        self.records.get_mut(handle).set_state(ReservationState::Confirmed);
        self.active -= 1;
        self.confirmed += 1;
    }

    /// Expires a reservation that is due; says how many lines gave their units back.
    pub fn expire(
        &mut self,
        cells: &mut CellWriter,
        clock: &HoldClock,
        retention_ms: u64,
        handle: u32,
    ) -> u32 {
        // The moment it fell due, not the moment somebody noticed: how far the sweep has come must
        // not change what is remembered.
        let due = clock.due(self.records.get(handle).deadline);
        let forget = HoldMillis(due.0 + retention_ms);
        self.end(cells, handle, ReservationState::Expired, forget);
        self.records.get(handle).lines()
    }

    /// Takes the first line out of a due group, and expires or moves on what it belongs to. Says how
    /// many lines that touched; `None`: the group is empty.
    pub fn pop_due(
        &mut self,
        cells: &mut CellWriter,
        clock: &HoldClock,
        retention_ms: u64,
        group: u32,
    ) -> Option<u32> {
        let line = self.wheel.groups.get(group).head;
        let (handle, cell, next) = match line.at()? {
            LineAt::First(handle) => {
                let record = self.records.get(handle);
                (handle, record.cell, LineRef(record.next))
            }
            LineAt::Extra(extra) => {
                let line = self.lines.get(extra);
                (line.record, line.cell, LineRef(line.next))
            }
        };
        self.wheel.groups.get_mut(group).head = next;
        let record = self.records.get_mut(handle);
        record.unlink();
        let (active, deadline) = (record.is(ReservationState::Active), record.deadline);
        match active {
            true if clock.is_due(deadline) => {
                return Some(self.expire(cells, clock, retention_ms, handle));
            }
            true => self.link(cells, line, handle, cell, deadline.tick()),
            false => self.settle(handle),
        }
        Some(1)
    }

    /// Expires the cell's due reservations until `asked` units are available; `false` if there are
    /// not enough of them.
    #[cold]
    pub fn reclaim(
        &mut self,
        cells: &mut CellWriter,
        clock: &HoldClock,
        retention_ms: u64,
        cell: u32,
        asked: i64,
    ) -> bool {
        let mut tick = cells.get(cell).earliest_due.max(self.wheel.front());
        let first_not_due = clock.first_not_due();
        while tick < first_not_due {
            // After a night's outage there are millions of ticks in which nothing falls due: they
            // are passed over in the ring, not looked up one by one.
            tick = Tick(self.wheel.ring.first_from(tick.0, first_not_due.0));
            if tick == first_not_due {
                break;
            }
            if let Some(group) = self.wheel.find(cell, tick) {
                while self.pop_due(cells, clock, retention_ms, group).is_some() {
                    if cells.get(cell).available() >= asked {
                        cells.update(cell, |cell| cell.earliest_due = tick);
                        return true;
                    }
                }
            }
            tick = tick.next();
        }
        // Nothing due is left: say so to the readers who refuse without the log.
        let limit = Tick(first_not_due.0 + LOOK_AHEAD_TICKS);
        while tick < limit && self.wheel.find(cell, tick).is_none() {
            tick = tick.next();
        }
        cells.update(cell, |cell| cell.earliest_due = tick);
        false
    }

    /// Starts fetching what [`Holds::pop_due`] needs for a group and those after it; returns how many
    /// groups that is.
    pub fn prefetch_due(&self, cells: &CellWriter, group: u32) -> usize {
        let (mut at, mut count) = (group, 0);
        while at != NIL && count < SWEEP_AHEAD {
            let group = self.wheel.groups.get(at);
            if let Some(LineAt::First(record)) = group.head.at() {
                self.records.prefetch(record);
            }
            self.wheel.prefetch(group.cell, group.tick);
            cells.prefetch(group.cell);
            at = group.next;
            count += 1;
        }
        count
    }

    /// Forgets records in chains before `limit`, as many as `budget` has lines for, and returns what
    /// is left of it. The last one may have more lines than that.
    pub fn forget_before(&mut self, limit: u64, mut budget: u32) -> u32 {
        loop {
            self.forget.skip_empty(limit);
            let front = self.forget.front();
            if budget == 0 || front >= limit {
                return budget;
            }
            // The rest of the bucket's chains, side by side.
            let end = (front / FORGET_CHAINS + 1) * FORGET_CHAINS;
            let heads = (front..end).map(|chain| self.forget.head(chain));
            for head in heads.clone().filter(|head| *head != NIL) {
                self.records.prefetch(head);
            }
            for head in heads.filter(|head| *head != NIL) {
                self.ids.prefetch(self.hash(&self.records.get(head).id.0));
            }
            for chain in front..end {
                let head = self.forget.head(chain);
                if head != NIL && budget > 0 {
                    let record = self.records.get(head);
                    budget = budget.saturating_sub(record.lines().max(1));
                    let next = record.next;
                    self.forget.replace(chain, next);
                    self.free(head);
                }
            }
        }
    }

    /// Frees an ended record and its lines.
    fn free(&mut self, handle: u32) {
        let record = *self.records.get(handle);
        assert!(record.is_terminal() && record.linked() == 0, "only ended records are forgotten");
        let mut extra = record.more;
        while extra != NIL {
            let next = self.lines.get(extra).more;
            self.lines.remove(extra);
            extra = next;
        }
        self.ids.remove(self.hash(&record.id.0), handle);
        self.records.remove(handle);
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let slabs = self.records.bytes() + self.lines.bytes();
        slabs + self.wheel.bytes() + self.forget.bytes() + self.ids.bytes()
    }

    /// Puts an ended record that no group holds any more into its retention bucket.
    fn settle(&mut self, handle: u32) {
        let record = self.records.get(handle);
        if !record.is_terminal() || record.linked() > 0 {
            return;
        }
        let bucket = record.forget.0 / FORGET_MS + 1;
        let chain = bucket * FORGET_CHAINS + u64::from(handle) % FORGET_CHAINS;
        let chain = chain.max(self.forget.front());
        let next = self.forget.replace(chain, handle);
        self.records.get_mut(handle).next = next;
    }

    #[inline]
    fn link(&mut self, cells: &mut CellWriter, line: LineRef, record: u32, cell: u32, tick: Tick) {
        let next = self.wheel.push(cell, tick, line).0;
        self.records.get_mut(record).link();
        match line.at() {
            Some(LineAt::Extra(extra)) => self.lines.get_mut(extra).next = next,
            _ => self.records.get_mut(record).next = next,
        }
        cells.lower_earliest_due(cell, tick);
    }

    #[inline]
    fn change_lines(
        &mut self,
        cells: &mut CellWriter,
        handle: u32,
        change: impl Fn(&mut super::cells::Cell, i64),
    ) {
        let record = self.records.get(handle);
        assert!(record.is(ReservationState::Active), "only an active reservation changes state");
        cells.update(record.cell, |cell| change(cell, i64::from(record.quantity)));
        let mut extra = record.more;
        while extra != NIL {
            let line = self.lines.get(extra);
            cells.update(line.cell, |cell| change(cell, i64::from(line.quantity)));
            extra = line.more;
        }
    }
}

/// A record that stands for an ended thing from the first: a fence or a stock write.
pub(super) fn trace(id: ReservationId, standing: Standing, forget: HoldMillis) -> Record {
    Record { forget, ..Record::new(id, standing) }
}
