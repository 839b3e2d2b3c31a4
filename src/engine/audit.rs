//! The full check of the state's invariants: every reference, every chain, every sum. Walks
//! everything; for restores and tests.

use crate::protocol::{CellCounters, ReservationState};

use super::names::SkuId;
use super::record::{LineAt, LineRef};
use super::restore::MILLIS_MAX;
use super::ring::NIL;
use super::state::StockState;

/// What is known about each record after the walks, to be compared with what it says itself.
#[derive(Clone, Copy, Default)]
struct Seen {
    linked: u32,
    waiting: bool,
}

impl StockState {
    /// Checks every invariant that the modules state.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn audit(&self) -> Result<(), &'static str> {
        let mut seen = vec![Seen::default(); self.holds.records.len() as usize];
        self.audit_groups(&mut seen)?;
        self.audit_buckets(&mut seen)?;
        self.audit_records(&seen)?;
        self.audit_totals()
    }

    /// Adds up the cells of each SKU.
    fn audit_totals(&self) -> Result<(), &'static str> {
        let table = self.cells.table();
        let mut chained = 0;
        for sku in 0..table.skus.count() {
            let mut sum = CellCounters::default();
            for cell in table.cells_of(SkuId(sku), None) {
                let counters = table.read(cell).ok_or("a chained cell exists")?.counters();
                sum.on_hand += counters.on_hand;
                sum.reserved += counters.reserved;
                sum.committed += counters.committed;
                sum.available += counters.available;
                chained += 1;
            }
            check(table.total(SkuId(sku)) == sum, "a SKU's total is the sum of its cells")?;
        }
        check(chained == table.count(), "each cell is in the chain of its SKU")
    }

    /// Walks the wheel: each group once, each line in the group of its cell.
    fn audit_groups(&self, seen: &mut [Seen]) -> Result<(), &'static str> {
        let groups = &self.holds.wheel.groups;
        let mut groups_left = groups.in_use();
        // A line is in one group: more steps than lines mean a cycle.
        let mut lines_left =
            u64::from(self.holds.records.len()) + u64::from(self.holds.lines.len());
        for (tick, first) in self.holds.wheel.ring.iter() {
            let mut at = first;
            while at != NIL {
                let group = groups.try_get(at).ok_or("a tick's group exists")?;
                groups_left = groups_left.checked_sub(1).ok_or("a group is in one tick")?;
                check(group.tick.0 == tick && group.cell != NIL, "a group is in its own tick")?;
                check(
                    self.holds.wheel.find(group.cell, group.tick) == Some(at),
                    "groups are unique",
                )?;
                let mut line = group.head;
                while let Some(place) = line.at() {
                    lines_left = lines_left.checked_sub(1).ok_or("a line is in one group")?;
                    let (record, cell, next) = self.line(place)?;
                    check(cell == group.cell, "a line is in a group of its cell")?;
                    let owner = self.holds.records.get(record);
                    let is_active = owner.is(ReservationState::Active);
                    check(
                        !is_active || group.tick <= owner.deadline.tick(),
                        "a line is looked at no later than it falls due",
                    )?;
                    let floor = self.cells.table().read(cell).ok_or("a line's cell exists")?;
                    let lowest = floor.earliest_due.max(self.holds.wheel.front());
                    check(!is_active || lowest <= group.tick, "a cell knows its earliest line")?;
                    seen[record as usize].linked += 1;
                    line = next;
                }
                at = group.next;
            }
        }
        check(groups_left == 0, "every group is in the wheel")
    }

    /// The record, the cell and the next line in the group.
    fn line(&self, place: LineAt) -> Result<(u32, u32, LineRef), &'static str> {
        match place {
            LineAt::First(record) => {
                let own = self.holds.records.try_get(record).ok_or("a line's record exists")?;
                check(own.standing().is_some() && own.lines() > 0, "a line's record has lines")?;
                Ok((record, own.cell, LineRef(own.next)))
            }
            LineAt::Extra(extra) => {
                let line = self.holds.lines.try_get(extra).ok_or("a group's line exists")?;
                check(line.record < self.holds.records.len(), "a line's record exists")?;
                Ok((line.record, line.cell, LineRef(line.next)))
            }
        }
    }

    /// Walks the retention buckets: each record once.
    fn audit_buckets(&self, seen: &mut [Seen]) -> Result<(), &'static str> {
        for (_, first) in self.holds.forget.iter() {
            let mut at = first;
            while at != NIL {
                let record = self.holds.records.try_get(at).ok_or("a bucket's record exists")?;
                let waiting = &mut seen[at as usize].waiting;
                check(!std::mem::replace(waiting, true), "a record waits in one bucket")?;
                check(record.is_terminal() && record.linked() == 0, "what waits has ended")?;
                at = record.next;
            }
        }
        Ok(())
    }

    /// Adds up all records by cell.
    fn audit_records(&self, seen: &[Seen]) -> Result<(), &'static str> {
        let table = self.cells.table();
        let mut sums = vec![(0_i64, 0_i64); table.count() as usize];
        let mut extras_left = self.holds.lines.in_use();
        for (handle, record) in self.holds.records.iter() {
            let Some(_) = record.standing() else { continue };
            let seen = seen[handle as usize];
            check(record.linked() == seen.linked, "a record counts its linked lines")?;
            check(
                (record.is_terminal() && record.linked() == 0) == seen.waiting,
                "what has ended waits to be forgotten",
            )?;
            let is_active = record.is(ReservationState::Active);
            check(!is_active || record.linked() == record.lines(), "an active line falls due")?;
            check(!is_active || record.lines() > 0, "a reservation has lines")?;
            let times = [record.created_ms, record.deadline.0, record.forget.0];
            check(times.iter().all(|time| *time <= MILLIS_MAX), "times are within range")?;
            let hash = self.holds.hash(&record.id.0);
            check(self.holds.find(&record.id, hash) == Some(handle), "an id has one record")?;
            let is_confirmed = record.is(ReservationState::Confirmed);
            let mut add = |cell: u32, quantity: u32| {
                let sum = sums.get_mut(cell as usize).ok_or("a line's cell exists")?;
                sum.0 += if is_active { i64::from(quantity) } else { 0 };
                sum.1 += if is_confirmed { i64::from(quantity) } else { 0 };
                Ok(())
            };
            let mut lines = 0;
            if record.lines() > 0 {
                add(record.cell, record.quantity)?;
                lines += 1;
            }
            let mut at = record.more;
            while at != NIL {
                let line = self.holds.lines.try_get(at).ok_or("a record's line exists")?;
                check(line.record == handle, "a line belongs to its record")?;
                extras_left = extras_left.checked_sub(1).ok_or("a line is in one record")?;
                add(line.cell, line.quantity)?;
                lines += 1;
                at = line.more;
            }
            check(lines == record.lines(), "a record counts its lines")?;
        }
        check(extras_left == 0, "every line is in a record")?;
        for (cell, (reserved, committed)) in (0..).zip(sums) {
            let value = table.read(cell).ok_or("counted cells are there")?;
            check(value.reserved == reserved, "reserved is the sum of active lines")?;
            check(value.committed == committed, "committed is the sum of confirmed lines")?;
        }
        Ok(())
    }
}

fn check(holds: bool, rule: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(rule) }
}
