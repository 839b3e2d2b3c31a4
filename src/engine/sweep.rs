//! What falls due and what is forgotten: the ledger's two sweeps, and the reclaim that makes them harmless
//! to be late.

use crate::protocol::ReservationState;
use crate::protocol::event::EventKind;

use super::cell::Change;
use super::cell_writer::CellWriter;
use super::holds::{FORGET_CHAINS, Holds};
use super::record::{LineAt, LineRef};
use super::ring::NIL;
use super::shares::Place;
use super::state::StockState;
use super::time::{HoldClock, HoldMillis, Tick};

/// Groups whose lines are fetched together by the sweep.
const SWEEP_AHEAD: usize = 16;

/// How far reclaim looks past the due ticks for the cell's next group. Every tick found empty is
/// one in which a sold-out cell is refused without the log: 64 ticks are 4 seconds.
const LOOK_AHEAD_TICKS: u64 = 64;

impl StockState {
    /// Would the change leave all sums within their ranges, once what is due has expired?
    pub(super) fn fits(&mut self, cell: u32, change: &Change) -> bool {
        self.cells.fits(cell, change) || {
            self.reclaim_sku(cell);
            self.cells.fits(cell, change)
        }
    }

    /// Expires what is due on a cell, until it can grant so many units.
    pub(super) fn expire_due(&mut self, cell: u32, enough: i64) {
        let Self { holds, cells, clock, config, .. } = self;
        let value = cells.get(cell);
        if value.earliest_due < clock.first_not_due() && value.grantable() < enough {
            holds.reclaim(cells, clock, config.retention_ms, cell, enough);
        }
    }

    /// Expires all that is due on the cells of a SKU: at the end of the range of a sum, how far the sweep
    /// has come must not decide.
    #[cold]
    pub(super) fn reclaim_sku(&mut self, cell: u32) {
        let Self { holds, cells, clock, config, .. } = self;
        let same: Vec<u32> = cells.table().cells_of(cells.sku(cell), None).collect();
        for cell in same {
            holds.reclaim(cells, clock, config.retention_ms, cell, i64::MAX);
        }
    }
}

impl Holds {
    /// Expires a reservation that is due; says how many lines gave their units back. Its event is EXPIRED, or
    /// RECLAIMED if somebody else needs the units.
    pub fn expire(
        &mut self,
        cells: &mut CellWriter,
        clock: &HoldClock,
        retention_ms: u64,
        (handle, kind): (u32, EventKind),
    ) -> u32 {
        // The moment it fell due, not the moment somebody noticed: how far the sweep has come must
        // not change what is remembered.
        let due = clock.due(self.records.get(handle).deadline);
        let forget = HoldMillis(due.0 + retention_ms);
        if let Some(owner) = self.owner_of(handle) {
            let last_due = &mut self.annexes.owners.owners.get_mut(owner).last_due;
            *last_due = due.max(*last_due);
        }
        let places = (&[Place::Reserved][..], Place::Expired);
        self.shift_whole(cells, handle, kind, places, forget);
        self.records.get(handle).lines()
    }

    /// Takes the first line out of a due group, and expires or moves on what it belongs to. Says how
    /// many lines that touched; `None`: the group is empty.
    pub fn pop_due(
        &mut self,
        cells: &mut CellWriter,
        clock: &HoldClock,
        retention_ms: u64,
        (group, kind): (u32, EventKind),
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
                return Some(self.expire(cells, clock, retention_ms, (handle, kind)));
            }
            true => self.link(cells, line, handle, cell, deadline.tick()),
            false => self.settle(handle),
        }
        Some(1)
    }

    /// Expires the cell's due reservations until `asked` units can be granted; `false` if there are
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
                let due = (group, EventKind::Reclaimed);
                while self.pop_due(cells, clock, retention_ms, due).is_some() {
                    if cells.get(cell).grantable() >= asked {
                        cells.set_earliest_due(cell, tick);
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
        cells.set_earliest_due(cell, tick);
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
                    let steps = self.annex(head).map_or(0, |annex| self.annexes.step_count(annex));
                    budget = budget.saturating_sub(record.lines().max(1) + steps);
                    let next = record.next;
                    self.forget.replace(chain, next);
                    self.free(head);
                }
            }
        }
    }
}
