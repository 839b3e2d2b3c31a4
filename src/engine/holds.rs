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
//! What falls due, and what is forgotten, is in sweep.rs; how units of lines move, in shares.rs.
//!
//! Invariants:
//! - A cell's `reserved` is what its lines hold under a deadline, `committed` what they have promised: the
//!   whole line of an ACTIVE or CONFIRMED record, or what its annex says.
//! - Every line of an ACTIVE record is linked in a group whose tick is not after its deadline's.
//! - An ended record is linked in groups or waits in exactly one bucket.

use crate::protocol::{OwnerLimits, ReservationId, ReservationState};

use super::annex::Annexes;
use super::archived::ArchiveBatch;
use super::cell_writer::CellWriter;
use super::hash::hash_id;
use super::index::Index;
use super::owners::Owners;
use super::record::{ExtraLine, LineAt, LineRef, Record, Standing};
use super::ring::{NIL, Ring};
use super::slab::Slab;
use super::time::{HoldMillis, Tick};
use super::wheel::Wheel;

/// Width of a retention bucket: ended records are freed this much late at most.
pub(super) const FORGET_MS: u64 = 8_192;

/// Chains per bucket, by handle: the sweep follows them side by side, since along one chain every
/// step waits for memory.
pub(super) const FORGET_CHAINS: u64 = 16;

/// 2¹⁰ buckets are 2.3 hours; a longer retention waits in the ring's far part.
pub(super) const FORGET_SPAN: usize = (1 << 10) * FORGET_CHAINS as usize;

/// See the module.
pub(super) struct Holds {
    pub records: Slab<Record>,
    pub lines: Slab<ExtraLine>,
    pub annexes: Annexes,
    pub wheel: Wheel,
    pub forget: Ring,
    pub ids: Index,
    /// What was forgotten, if there is an archive that takes it away.
    pub forgotten: Option<ArchiveBatch>,
    seed: u64,
    pub active: u64,
    pub confirmed: u64,
}

/// A line of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeldLine {
    /// The line of the request that it belongs to.
    pub line: u16,
    pub cell: u32,
    pub quantity: u32,
}

impl Holds {
    /// No records. The seed is this process's own.
    pub fn new(seed: u64) -> Self {
        let owners = Owners::restore(Slab::new(), OwnerLimits::default(), seed);
        let annexes = Annexes::restore(Slab::new(), Slab::new(), Slab::new(), owners, seed);
        let (wheel, forget) = (Wheel::new(seed), Ring::new(FORGET_SPAN));
        Self::restore(Slab::new(), Slab::new(), annexes, wheel, forget, seed)
    }

    /// Puts index and sums to the slabs.
    pub fn restore(
        records: Slab<Record>,
        lines: Slab<ExtraLine>,
        annexes: Annexes,
        wheel: Wheel,
        forget: Ring,
        seed: u64,
    ) -> Self {
        let mut ids = Index::new();
        let (mut active, mut confirmed) = (0, 0);
        let has_id = |record: &Record| !matches!(record.standing(), None | Some(Standing::Ghost));
        for (handle, record) in records.iter().filter(|(_, record)| has_id(record)) {
            ids.insert(hash_id(seed, &record.id.0), handle);
            active += u64::from(record.is(ReservationState::Active));
            confirmed += u64::from(record.is(ReservationState::Confirmed));
        }
        let forgotten = None;
        Self { records, lines, annexes, wheel, forget, ids, forgotten, seed, active, confirmed }
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
        let line = self.first_line(record);
        let record = self.records.get(record);
        let first = (record.lines() > 0).then_some(HeldLine {
            line,
            cell: record.cell,
            quantity: record.quantity,
        });
        let extra = |handle: u32| (handle != NIL).then(|| self.lines.get(handle));
        let rest = std::iter::successors(extra(record.more), move |line| extra(line.more));
        let rest =
            rest.map(|line| HeldLine { line: line.line, cell: line.cell, quantity: line.quantity });
        first.into_iter().chain(rest)
    }

    /// The line of the request that the first line of a record belongs to. Seldom another than 0.
    fn first_line(&self, record: u32) -> u16 {
        let annexed = self.records.get(record).is_annexed();
        let annex = annexed.then(|| self.annexes.find(record)).flatten();
        annex.map_or(0, |annex| self.annexes.annexes.get(annex).first_line)
    }

    fn set_first_line(&mut self, record: u32, line: u16) {
        if line != self.first_line(record) {
            let annex = self.make_annex(record);
            self.annexes.annexes.get_mut(annex).first_line = line;
        }
    }

    /// Stores a record and its lines. Those of an active reservation are linked to fall due with it.
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
        (record.cell, record.quantity, record.more) = (first.cell, first.quantity, NIL);
        let active = record.is(ReservationState::Active);
        let tick = active.then(|| record.deadline.tick());
        let handle = self.records.insert(record);
        self.ids.insert(hash, handle);
        self.count(record.standing(), 1);
        if let Some(tick) = tick {
            self.link(cells, LineRef::first(handle), handle, first.cell, tick);
        }
        let mut last = NIL;
        for line in rest {
            let extra = self.lines.insert(ExtraLine {
                record: handle,
                line: line.line,
                cell: line.cell,
                quantity: line.quantity,
                more: NIL,
                next: NIL,
            });
            match last {
                NIL => self.records.get_mut(handle).more = extra,
                last => self.lines.get_mut(last).more = extra,
            }
            if let Some(tick) = tick {
                self.link(cells, LineRef::extra(extra), handle, line.cell, tick);
            }
            last = extra;
        }
        // A successor gets the annex of the one before, and with it this.
        if first.line > 0 && !record.is_annexed() {
            self.set_first_line(handle, first.line);
        }
        if !active {
            self.settle(handle);
        }
        handle
    }

    /// Puts a record with other lines, or with another fate, in the place of one that groups or a bucket
    /// still hold: the old one stays behind as a ghost, the id and the annex go over.
    pub fn replace(
        &mut self,
        cells: &mut CellWriter,
        handle: u32,
        state: ReservationState,
        lines: &[HeldLine],
    ) -> u32 {
        let old = *self.records.get(handle);
        let waits = old.is_terminal() && old.linked() == 0;
        let hash = self.hash(&old.id.0);
        self.ids.remove(hash, handle);
        self.count(old.standing(), -1);
        let ghost = self.records.get_mut(handle);
        ghost.set_standing(Standing::Ghost);
        ghost.set_annexed(false);
        if !waits {
            ghost.forget = HoldMillis(0);
            self.settle(handle);
        }
        let mut fresh = old;
        fresh.set_state(state);
        let new = self.insert(cells, fresh, hash, lines);
        if old.is_annexed() {
            let annex = self.annexes.find(handle).expect("an annexed record has an annex");
            self.annexes.hand_on(annex, new);
            if !old.is_terminal() {
                self.annexes.close(annex, old.lines());
            }
            if !self.records.get(new).is_terminal() {
                self.annexes.open(annex, lines.len() as u32);
            }
            self.set_first_line(new, lines.first().map_or(0, |line| line.line));
        }
        new
    }

    /// Reservations that hold or promise units are counted.
    #[inline(always)]
    pub fn count(&mut self, standing: Option<Standing>, by: i64) {
        let counter = match standing {
            Some(Standing::Reservation(ReservationState::Active)) => &mut self.active,
            Some(Standing::Reservation(ReservationState::Confirmed)) => &mut self.confirmed,
            _ => return,
        };
        *counter = counter.checked_add_signed(by).expect("a counted reservation was counted");
    }

    /// Gives up the id of a record that is forgotten, and that a bucket still holds: another may get it.
    #[cold]
    pub fn bury(&mut self, handle: u32, hash: u64) {
        self.archive(handle);
        self.ids.remove(hash, handle);
        if let Some(annex) = self.annex(handle) {
            self.annexes.remove(annex);
        }
        let ghost = self.records.get_mut(handle);
        ghost.set_standing(Standing::Ghost);
        ghost.set_annexed(false);
    }

    /// Whose a reservation is; `None`: nobody's.
    pub fn owner_of(&self, handle: u32) -> Option<u32> {
        let owner = self.annexes.annexes.get(self.annex(handle)?).owner;
        Some(owner).filter(|owner| *owner != NIL)
    }

    /// Gives an open reservation an owner.
    pub fn set_owner(&mut self, handle: u32, owner: &[u8]) {
        let annex = self.make_annex(handle);
        self.annexes.set_owner(annex, owner, self.records.get(handle).lines());
    }

    /// Frees an ended record and its lines.
    pub fn free(&mut self, handle: u32) {
        let record = *self.records.get(handle);
        assert!(record.is_terminal() && record.linked() == 0, "only ended records are forgotten");
        let is_ghost = record.standing() == Some(Standing::Ghost);
        if !is_ghost {
            self.archive(handle);
        }
        let mut extra = record.more;
        while extra != NIL {
            let next = self.lines.get(extra).more;
            self.lines.remove(extra);
            extra = next;
        }
        if record.is_annexed() {
            let annex = self.annexes.find(handle).expect("an annexed record has an annex");
            self.annexes.remove(annex);
        }
        if !is_ghost {
            self.ids.remove(self.hash(&record.id.0), handle);
        }
        self.records.remove(handle);
    }

    /// Notes changes from now on, so that they can be undone.
    pub fn begin_journal(&mut self) {
        self.records.begin_journal();
        self.lines.begin_journal();
        self.ids.begin_journal();
        self.forget.begin_journal();
        self.wheel.begin_journal();
        self.annexes.begin_journal();
    }

    /// Ends the journal: undoes what it has noted, or keeps it.
    pub fn end_journal(&mut self, undo: bool) {
        self.records.end_journal(undo);
        self.lines.end_journal(undo);
        self.ids.end_journal(undo);
        self.forget.end_journal(undo);
        self.wheel.end_journal(undo);
        self.annexes.end_journal(undo);
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let slabs = self.records.bytes() + self.lines.bytes() + self.annexes.bytes();
        slabs + self.wheel.bytes() + self.forget.bytes() + self.ids.bytes()
    }

    /// Puts an ended record that no group holds any more into its retention bucket.
    pub fn settle(&mut self, handle: u32) {
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
    pub fn link(
        &mut self,
        cells: &mut CellWriter,
        line: LineRef,
        record: u32,
        cell: u32,
        tick: Tick,
    ) {
        let next = self.wheel.push(cell, tick, line).0;
        self.records.get_mut(record).link();
        match line.at() {
            Some(LineAt::Extra(extra)) => self.lines.get_mut(extra).next = next,
            _ => self.records.get_mut(record).next = next,
        }
        cells.lower_earliest_due(cell, tick);
    }
}

/// A record without lines: a fence, a stock write, a count, a transfer.
pub(super) fn trace(id: ReservationId, standing: Standing, forget: HoldMillis) -> Record {
    Record { forget, ..Record::new(id, standing) }
}
