//! The full check of the state's invariants: every reference, every chain, every sum. Walks
//! everything; for restores and tests.

use crate::protocol::limits::LINES_MAX;
use crate::protocol::{LineShares, ReservationState, Transfer, TransferState};

use super::cell::Sums;
use super::holds::HeldLine;
use super::names::SkuId;
use super::record::{LineAt, LineRef, Standing};
use super::restore::MILLIS_MAX;
use super::ring::NIL;
use super::shares::{LineSums, state_of};
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
        self.audit_catalogue()?;
        self.audit_totals()
    }

    /// Adds up the cells of each SKU.
    fn audit_totals(&self) -> Result<(), &'static str> {
        let table = self.cells.table();
        let mut chained = 0;
        for sku in 0..table.skus.count() {
            let mut sums = Sums::default();
            for cell in table.cells_of(SkuId(sku), None) {
                let own = self.sums_of(cell).ok_or("a chained cell exists")?;
                check(own.are_in_range(), "the counters of a cell are within range")?;
                sums = sums.moved(&Sums::default(), &own);
                chained += 1;
            }
            check(sums.are_in_range(), "the counters of a SKU are within range")?;
            check(table.sums(SkuId(sku)) == sums, "a SKU's total is the sum of its cells")?;
        }
        check(chained == table.count(), "each cell is in the chain of its SKU")
    }

    fn sums_of(&self, cell: u32) -> Option<Sums> {
        let shown = self.cells.table().read_details(cell)?;
        Some(Sums {
            on_hand: shown.counters.on_hand,
            promised: shown.counters.reserved + shown.counters.committed,
            withheld: shown.blocked.iter().sum::<i64>() + shown.policy.buffer,
            incoming: shown.incoming,
            in_transit: shown.in_transit,
        })
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
        // Reserved, committed, in transit.
        let mut sums = vec![[0_i64; 3]; table.count() as usize];
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
            let is_hold = matches!(record.standing(), Some(Standing::Reservation(_)));
            let deadline = if is_hold { record.deadline.0 } else { 0 };
            let times = [record.created_ms, deadline, record.forget.0];
            check(times.iter().all(|time| *time <= MILLIS_MAX), "times are within range")?;
            if record.standing() != Some(Standing::Ghost) {
                let hash = self.holds.hash(&record.id.0);
                check(self.holds.find(&record.id, hash) == Some(handle), "an id has one record")?;
            }
            if let Some(Standing::Op | Standing::Count) = record.standing() {
                check(record.cell == NIL || record.cell < table.count(), "a write's cell exists")?;
            }
            if let Some(Standing::Transfer(state)) = record.standing() {
                let Transfer { from, to, shipped, received, damaged } = record.transfer();
                check(from.0 < table.count(), "a transfer is between cells")?;
                let arrived = u64::from(received) + u64::from(damaged);
                check(arrived <= u64::from(shipped), "no more arrives than was shipped")?;
                let sum = sums.get_mut(to.0 as usize).ok_or("a transfer is between cells")?;
                let open = state == TransferState::Open;
                sum[2] += if open { i64::from(shipped) - arrived as i64 } else { 0 };
            }
            let lines = self.audit_lines(handle, &mut extras_left)?;
            check(lines.len() == record.lines() as usize, "a record counts its lines")?;
            let units = self.audit_annex(handle, &lines)?;
            for (line, units) in lines.iter().zip(units) {
                let sum = sums.get_mut(line.cell as usize).ok_or("a line's cell exists")?;
                sum[0] += i64::from(units.reserved);
                sum[1] += i64::from(units.committed);
            }
        }
        check(extras_left == 0, "every line is in a record")?;
        for (cell, [reserved, committed, in_transit]) in (0..).zip(sums) {
            let value = table.read_details(cell).ok_or("counted cells are there")?;
            let counters = value.counters;
            check(counters.reserved == reserved, "reserved is the sum of what is held")?;
            check(counters.committed == committed, "committed is the sum of what is promised")?;
            check(value.in_transit == in_transit, "in transit is what has not arrived")?;
        }
        self.audit_annexes()
    }

    /// The lines of a record, each of which is its own.
    fn audit_lines(&self, handle: u32, left: &mut u32) -> Result<Vec<HeldLine>, &'static str> {
        let record = self.holds.records.get(handle);
        let mut lines = Vec::new();
        if record.lines() > 0 {
            lines.push(HeldLine { line: 0, cell: record.cell, quantity: record.quantity });
        }
        let mut at = record.more;
        while at != NIL {
            let line = self.holds.lines.try_get(at).ok_or("a record's line exists")?;
            check(line.record == handle, "a line belongs to its record")?;
            *left = left.checked_sub(1).ok_or("a line is in one record")?;
            check(line.line < LINES_MAX, "a line is of the request")?;
            lines.push(HeldLine { line: line.line, cell: line.cell, quantity: line.quantity });
            at = line.more;
        }
        Ok(lines)
    }

    /// What has become of the lines, as the annex or the state says it.
    fn audit_annex(
        &self,
        handle: u32,
        lines: &[HeldLine],
    ) -> Result<Vec<LineShares>, &'static str> {
        let record = self.holds.records.get(handle);
        let Some(Standing::Reservation(state)) = record.standing() else {
            check(!record.is_annexed(), "only a reservation has an annex")?;
            return Ok(vec![LineShares::default(); lines.len()]);
        };
        let whole = || lines.iter().map(|line| LineShares::whole(state, line.quantity)).collect();
        if !record.is_annexed() {
            return Ok(whole());
        }
        let annexes = &self.holds.annexes;
        let annex = annexes.find(handle).ok_or("an annexed record has an annex")?;
        let mut units = Vec::new();
        let mut at = annexes.annexes.get(annex).shares;
        while at != NIL {
            let share = annexes.shares.try_get(at).ok_or("an annex's share exists")?;
            check(share.annex == annex, "a share belongs to its annex")?;
            check(units.len() < lines.len(), "an annex has a share for each line")?;
            units.push(share.units);
            at = share.more;
        }
        if units.is_empty() {
            return Ok(whole());
        }
        check(units.len() == lines.len(), "an annex has a share for each line")?;
        let sum_to =
            |(line, units): (&HeldLine, &LineShares)| units.requested() == u64::from(line.quantity);
        check(lines.iter().zip(&units).all(sum_to), "the shares of a line sum to it")?;
        let follows = state_of(&LineSums::over(units.iter().copied())) == state;
        check(follows, "the state follows from the shares")?;
        Ok(units)
    }

    /// Every annex, share and step is somebody's.
    fn audit_annexes(&self) -> Result<(), &'static str> {
        let annexes = &self.holds.annexes;
        let (mut shares_left, mut steps_left) = (annexes.shares.in_use(), annexes.steps.in_use());
        for (handle, annex) in annexes.annexes.iter().filter(|(_, annex)| annex.record != NIL) {
            let record = self.holds.records.try_get(annex.record).ok_or("an annex has a record")?;
            check(record.is_annexed(), "a record says that it has an annex")?;
            check(annexes.find(annex.record) == Some(handle), "a record has one annex")?;
            let (mut at, mut steps) = (annex.steps, 0);
            while at != NIL {
                let step = annexes.steps.try_get(at).ok_or("an annex's step exists")?;
                check(step.annex == handle, "a step belongs to its annex")?;
                steps_left = steps_left.checked_sub(1).ok_or("a step is in one annex")?;
                (at, steps) = (step.more, steps + 1);
            }
            check(steps == annex.step_count, "an annex counts its steps")?;
            let mut at = annex.shares;
            while at != NIL {
                let share = annexes.shares.try_get(at).ok_or("an annex's share exists")?;
                shares_left = shares_left.checked_sub(1).ok_or("a share is in one annex")?;
                at = share.more;
            }
        }
        check(shares_left == 0 && steps_left == 0, "every share and step is in an annex")?;
        self.audit_owners()
    }

    /// Every owner is known by its name and has its records; its open ones are in its list, each once.
    fn audit_owners(&self) -> Result<(), &'static str> {
        let annexes = &self.holds.annexes;
        let owners = &annexes.owners.owners;
        // Records, of these the open ones, and the lines of those.
        let mut counts = vec![[0_u32; 3]; owners.len() as usize];
        for (_, annex) in annexes.annexes.iter().filter(|(_, annex)| annex.record != NIL) {
            if annex.owner == NIL {
                check(annex.next == NIL && annex.before == NIL, "only owners have lists")?;
                continue;
            }
            let count = counts.get_mut(annex.owner as usize).ok_or("an annex's owner exists")?;
            let record = self.holds.records.get(annex.record);
            let (open, lines) = if record.is_terminal() { (0, 0) } else { (1, record.lines()) };
            *count = [count[0] + 1, count[1] + open, count[2].saturating_add(lines)];
        }
        for ((handle, owner), [records, open, lines]) in owners.iter().zip(counts) {
            if owner.is_free() {
                check(records == 0, "an annex's owner exists")?;
                continue;
            }
            let known = annexes.owners.find(owner.name()) == Some(handle);
            check(known && !owner.name().is_empty(), "an owner is known by its name")?;
            check(records > 0 && owner.records == records, "an owner counts its records")?;
            check(owner.last_due.0 <= MILLIS_MAX, "times are within range")?;
            let (mut at, mut before, mut left) = (owner.first, NIL, open);
            while at != NIL {
                let annex = annexes.annexes.try_get(at).ok_or("an owner's annex exists")?;
                let is_its = annex.record != NIL && annex.owner == handle;
                check(is_its && annex.before == before, "a list of an owner is linked both ways")?;
                let is_open = !self.holds.records.get(annex.record).is_terminal();
                check(is_open, "an owner's list has the open ones")?;
                left = left.checked_sub(1).ok_or("an open reservation is listed once")?;
                (at, before) = (annex.next, at);
            }
            check(left == 0 && owner.open == open, "an owner's list has all open ones")?;
            check(owner.lines == lines, "an owner counts the lines of its open reservations")?;
        }
        Ok(())
    }
}

fn check(holds: bool, rule: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(rule) }
}
