//! The one writer of the cells.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::protocol::event::{Cause, Counts, EventBody, EventKind, Totals};
use crate::protocol::limits::COUNTER_MAX;

use super::cell::{Cell, Change, Details, Sums};
use super::cells::{CellTable, Slot, encode, encode_details};
use super::crossings::{self, Crossed, Subject};
use super::cut::PageCut;
use super::events::{self, EventMark, EventWriter};
use super::names::{SkuId, WarehouseId};
use super::prefetch::prefetch;
use super::ring::NIL;
use super::time::{HoldClock, Tick};
use super::totals::Total;

/// See the module.
pub(super) struct CellWriter {
    table: Arc<CellTable>,
    total_count: u32,
    cut: Option<PageCut>,
    details_cut: Option<PageCut>,
    /// Cells before each change, in order, if somebody may want to undo them.
    journal: Option<Journal>,
    /// What has changed, for whoever follows.
    pub events: EventWriter,
    /// Reorder points that the present operation has crossed.
    crossed: Crossed,
}

/// What a chain that fails has to put back.
struct Journal {
    before: Vec<(u32, Cell, Details)>,
    cells: u32,
    events: EventMark,
}

impl CellWriter {
    /// No cells yet. The seed is this process's own.
    pub fn new(seed: u64) -> Self {
        Self {
            table: Arc::new(CellTable::new(seed)),
            total_count: 0,
            cut: None,
            details_cut: None,
            journal: None,
            events: EventWriter::new(1),
            crossed: Crossed::new(),
        }
    }

    /// What readers share.
    pub fn table(&self) -> &Arc<CellTable> {
        &self.table
    }

    /// The cell's present state.
    ///
    /// # Panics
    /// The cell was never defined.
    #[inline(always)]
    pub fn get(&self, cell: u32) -> Cell {
        self.table.load(cell, self.slot(cell))
    }

    /// The cell's present details.
    pub fn details(&self, cell: u32) -> Details {
        self.table.load_details(cell, self.slot(cell))
    }

    /// Starts fetching a cell; `cell` may be out of range.
    #[inline]
    pub fn prefetch(&self, cell: u32) {
        if let Some(slot) = self.table.slots.get(cell) {
            prefetch(&slot.seq);
            prefetch(&slot.committed);
        }
    }

    /// There is a SKU with several cells.
    #[inline]
    pub fn has_totals(&self) -> bool {
        self.total_count > 0
    }

    /// Starts fetching the total that the cell is in. The cell itself should be there by now.
    #[inline]
    pub fn prefetch_total(&self, cell: u32) {
        if let Some(slot) = self.table.slots.get(cell)
            && let Some(total) = slot.total().and_then(|number| self.table.totals.get(number))
        {
            prefetch(&total.seq);
        }
    }

    /// The sums over all cells of the cell's SKU.
    pub fn sums(&self, cell: u32) -> Sums {
        self.table.sums_around(cell)
    }

    /// How many more units of the cell may be promised before a sum leaves its range, whether or not they
    /// are there.
    #[inline]
    pub fn room(&self, cell: u32) -> i64 {
        self.get_with_room(cell).1
    }

    /// [`CellWriter::get`] and [`CellWriter::room`] at one go.
    #[inline]
    pub fn get_with_room(&self, cell: u32) -> (Cell, i64) {
        let slot = self.slot(cell);
        let value = self.table.load(cell, slot);
        let own = room_of(&value);
        let room = self.total_of(slot).map_or(own, |total| own.min(room_of(&total.load())));
        (value, room)
    }

    /// As [`CellWriter::room`], as far as the sums over the SKU go.
    pub fn room_of_sku(&self, cell: u32) -> i64 {
        let slot = self.slot(cell);
        room_of(&self.total_of(slot).map_or_else(|| slot.load(), Total::load))
    }

    /// The cell's SKU.
    pub fn sku(&self, cell: u32) -> SkuId {
        self.table.key(cell).expect("a resolved cell has names").1
    }

    /// Changes the cell's counters, and with them the total of its SKU. `change` sees no details.
    ///
    /// # Panics
    /// A counter leaves its range.
    #[inline(always)]
    pub fn update(&mut self, cell: u32, cause: &Cause<'_>, change: impl FnOnce(&mut Cell)) {
        self.update_slot(cell, cause, change);
    }

    /// Takes units for a reservation: as committed at once, or reserved until the tick `due`.
    ///
    /// # Panics
    /// They were not there.
    #[inline]
    pub fn take(&mut self, cell: u32, quantity: u32, due: Option<Tick>, cause: &Cause<'_>) {
        let (slot, after) = self.update_slot(cell, cause, |cell| match due {
            None => cell.committed += i64::from(quantity),
            Some(due) => {
                cell.reserved += i64::from(quantity);
                cell.earliest_due = cell.earliest_due.min(due);
            }
        });
        let after = if slot.is_detailed() { self.get(cell) } else { after };
        assert!(after.grantable() >= 0, "a grant leaves no cell short");
    }

    /// [`CellWriter::update`]; the slot, and what is in it now.
    #[inline(always)]
    fn update_slot(
        &mut self,
        cell: u32,
        cause: &Cause<'_>,
        change: impl FnOnce(&mut Cell),
    ) -> (&Slot, Cell) {
        self.before_change(cell);
        let slot = self.table.slots.get(cell).expect("a resolved cell has a slot");
        let before = slot.load();
        let mut value = before;
        change(&mut value);
        assert!(value.reserved >= 0 && value.committed >= 0, "promised units are never negative");
        assert!(value.on_hand.abs() <= COUNTER_MAX, "a counter is within its range");
        slot.seq.write(|| slot.store(&value));
        self.events.changed(cause, cell, (&before, &value), || {
            slot.is_detailed().then(|| {
                let details = self.table.load_details(cell, slot);
                (details, details)
            })
        });
        if let Some(total) = self.total_of(slot) {
            total.seq.write(|| total.follow(&before, &value));
        }
        if slot.is_watched() {
            let details = self.table.load_details(cell, slot);
            let both = [(&before, &details), (&value, &details)];
            watch(&self.table, &mut self.crossed, cell, both);
        }
        (slot, value)
    }

    /// An operation has crossed reorder points.
    #[inline]
    pub fn has_crossed(&self) -> bool {
        !self.crossed.is_empty()
    }

    /// The reorder points that the operation has crossed.
    pub fn take_crossed(&mut self) -> Crossed {
        std::mem::take(&mut self.crossed)
    }

    /// Changes the reorder point of a SKU.
    pub fn set_point(&mut self, sku: SkuId, point: Option<i64>) {
        let position = self.table.sku_position(sku);
        let before = self.table.points.of(sku);
        self.table.points.set(sku, point);
        // Whoever is watched once stays so.
        if before.is_none() && point.is_some() {
            for cell in self.table.cells_of(sku, None) {
                self.slot(cell).set_watched();
            }
        }
        let subject = Subject::Sku(sku);
        crossings::note(&mut self.crossed, subject, (before, position), (point, position));
    }

    /// Would the change leave every counter, and every sum over the SKU, within its range?
    pub fn fits(&self, cell: u32, change: &Change) -> bool {
        change.checked(&self.get(cell), &self.details(cell), self.sums(cell)).is_some()
    }

    /// Changes the cell's counters and details, and the sums of its SKU.
    ///
    /// # Panics
    /// A counter leaves its range: ask [`CellWriter::fits`] before.
    pub fn change(&mut self, cell: u32, cause: &Cause<'_>, change: &Change) {
        let (before, details_before) = (self.get(cell), self.details(cell));
        let after = change.checked(&before, &details_before, self.sums(cell));
        let (value, details) = after.expect("a counter is within its range");
        self.put(cell, &value, &details);
        self.events.details_change(&details_before, &details);
        let has_details = self.slot(cell).is_detailed();
        self.events.changed(cause, cell, (&before, &value), || {
            has_details.then_some((details_before, details))
        });
    }

    /// Puts a cell's counters and details in the place of those it has.
    fn put(&mut self, cell: u32, value: &Cell, details: &Details) {
        self.before_change(cell);
        let (before, before_details) = (self.get(cell), self.details(cell));
        let row = self.row_for(cell, &before_details, details);
        let slot = self.table.slots.get(cell).expect("a resolved cell has a slot");
        slot.seq.write(|| {
            slot.store(value);
            if let Some(row) = row {
                self.table.details.store(row, details);
                slot.set_detailed();
            }
        });
        if let Some(total) = self.total_of(slot) {
            total.seq.write(|| {
                total.follow(&before, value);
                total.follow_details(&before_details, details);
            });
        }
        if details.policy.reorder_point.is_some() {
            slot.set_watched();
        }
        if slot.is_watched() {
            let both = [(&before, &before_details), (value, details)];
            watch(&self.table, &mut self.crossed, cell, both);
        }
    }

    /// The row that the details go to, about to change; `None` if there is nothing to say.
    fn row_for(&mut self, cell: u32, before: &Details, after: &Details) -> Option<u32> {
        let table = &self.table;
        match table.details.find(cell) {
            Some(row) => {
                if let Some(cut) = &mut self.details_cut
                    && before != after
                {
                    cut.before_change(row, |range| encode_details(table, range));
                }
                Some(row)
            }
            None => (*after != Details::default()).then(|| table.details.make(cell)),
        }
    }

    #[inline]
    fn before_change(&mut self, cell: u32) {
        if self.cut.is_some() || self.journal.is_some() {
            self.save(cell);
        }
    }

    #[cold]
    fn save(&mut self, cell: u32) {
        if let Some(cut) = &mut self.cut {
            cut.before_change(cell, |range| encode(&self.table, range));
        }
        let before = (cell, self.get(cell), self.details(cell));
        if let Some(journal) = &mut self.journal {
            journal.before.push(before);
        }
    }

    /// Notes changes from now on, so that they can be undone. Readers wait until that is decided.
    pub fn begin_journal(&mut self) {
        self.table.undecided.begin();
        let (cells, events) = (self.table.count(), self.events.mark());
        self.journal = Some(Journal { before: Vec::new(), cells, events });
    }

    /// Ends the journal: undoes what it has noted, or keeps it. Cells that were made stay, with nothing
    /// in them.
    pub fn end_journal(&mut self, undo: bool) {
        let journal = self.journal.take().expect("a journal that ends was begun");
        if undo {
            for (cell, value, details) in journal.before.into_iter().rev() {
                self.put(cell, &value, &details);
            }
            self.crossed.clear();
            self.events.undo(journal.events);
            (journal.cells..self.table.count()).for_each(|cell| self.tell_defined(cell));
        }
        self.table.undecided.end();
    }

    /// A line of the cell falls due in `tick`.
    #[inline]
    pub fn lower_earliest_due(&mut self, cell: u32, tick: Tick) {
        if tick < self.slot(cell).load().earliest_due {
            self.set_earliest_due(cell, tick);
        }
    }

    /// No line of the cell falls due before `tick`.
    pub fn set_earliest_due(&mut self, cell: u32, tick: Tick) {
        self.before_change(cell);
        let slot = self.slot(cell);
        let value = Cell { earliest_due: tick, ..slot.load() };
        slot.seq.write(|| slot.store(&value));
    }

    /// The cell of two names, made if need be.
    pub fn define(&mut self, warehouse: &[u8], sku: &[u8]) -> u32 {
        let warehouse = WarehouseId(self.table.warehouses.add(warehouse));
        let known = self.table.sku(sku);
        if let Some(cell) = known.and_then(|sku| self.table.find(warehouse, sku)) {
            return cell;
        }
        let sku = known.unwrap_or_else(|| {
            // Where the cell will be found: on its way while the name is added.
            self.table.prefetch(warehouse, SkuId(self.table.skus.count()));
            SkuId(self.table.skus.push(sku))
        });
        let none = Cell { earliest_due: Tick::NEVER, ..Cell::default() };
        let cell = self.push(warehouse, sku, none);
        self.tell_defined(cell);
        cell
    }

    fn tell_defined(&mut self, cell: u32) {
        let table = self.table.clone();
        let (warehouse, sku) = table.key(cell).expect("a cell that was made has names");
        let names = (table.warehouses.name(warehouse.0), table.skus.name(sku.0));
        let (Some(warehouse), Some(sku)) = names else { unreachable!("numbered names are there") };
        let body = EventBody::Names { warehouse, sku };
        let cause = events::unnamed(EventKind::CellDefined, body);
        self.events.tell_of_cell(&cause, cell, &self.get(cell), &self.details(cell));
    }

    /// Appends a cell that is not there yet.
    pub fn push(&mut self, warehouse: WarehouseId, sku: SkuId, value: Cell) -> u32 {
        let table = &*self.table;
        let cell = table.count.load(Ordering::Relaxed);
        assert!(cell < NIL - 1, "cells have 32-bit handles");
        let slot = table.slots.make(cell);
        slot.store(&value);
        if table.points.of(sku).is_some() {
            slot.set_watched();
        }
        let key = table.keys.make(cell);
        key.warehouse.store(warehouse.0, Ordering::Relaxed);
        key.sku.store(sku.0, Ordering::Relaxed);
        // Release: whoever sees the count, the pair or the link sees slot and key.
        table.count.store(cell + 1, Ordering::Release);
        table.pairs.insert(table.hash(warehouse, sku), cell);
        let chain = table.chains.make(sku.0);
        match chain.last.swap(cell, Ordering::Relaxed) {
            NIL => chain.first.store(cell, Ordering::Release),
            last => {
                self.share_total(last, cell);
                self.table.keys.make(last).next.store(cell, Ordering::Release);
            }
        }
        cell
    }

    /// Takes a cell that was just made into the total of another of its SKU, which is made with the second.
    fn share_total(&mut self, other: u32, cell: u32) {
        let slot = self.slot(other);
        let number = slot.total().unwrap_or(self.total_count);
        if slot.total().is_none() {
            let total = self.table.totals.make(number);
            let none = (Cell::default(), Details::default());
            total.follow(&none.0, &slot.load());
            total.follow_details(&none.1, &self.details(other));
            // Whoever sees the number in the slot, sees the total: the sequence ends with Release.
            slot.seq.write(|| slot.set_total(number));
            self.total_count += 1;
        }
        let total = self.table.totals.get(number).expect("it is there by now");
        let slot = self.slot(cell);
        slot.seq.write(|| slot.set_total(number));
        total.seq.write(|| total.follow(&Cell::default(), &slot.load()));
    }

    /// Gives a cell that was pushed the row of details that a snapshot has for it.
    pub fn adopt_details(&mut self, cell: u32, details: &Details) {
        let slot = self.slot(cell);
        slot.seq.write(|| slot.set_detailed());
        if details.policy.reorder_point.is_some() {
            slot.set_watched();
        }
        if let Some(total) = self.total_of(slot) {
            total.seq.write(|| total.follow_details(&Details::default(), details));
        }
    }

    /// The sums of all counters over all cells, in the order of `Counts::NAMES`. Walks them.
    pub fn sums_of_all(&self) -> [i128; 9] {
        let mut totals = Totals::default();
        for cell in 0..self.table.count() {
            totals.add(&Counts::from(&self.get(cell).shown_with(&self.details(cell))));
        }
        totals.sums
    }

    /// What a bit that flips in memory does: units come from nowhere, and nobody is told.
    #[cfg(test)]
    pub fn plant_fault(&mut self, cell: u32, units: i64) {
        self.before_change(cell);
        let slot = self.slot(cell);
        let mut value = slot.load();
        value.on_hand += units;
        slot.seq.write(|| slot.store(&value));
    }

    /// Publishes the log's clock and how far the sweep has come.
    pub fn publish(&self, clock: &HoldClock, front: Tick) {
        // Release: a reader that sees the front sees the counters that the sweep changed.
        self.table.now.store(clock.now.0, Ordering::Release);
        self.table.shift_ms.store(clock.shift_ms, Ordering::Release);
        self.table.front.store(front.0, Ordering::Release);
    }

    /// Begins a cut of the cells as they are now.
    pub fn begin_cut(&mut self) {
        self.cut = Some(PageCut::new(self.table.count()));
        self.details_cut = Some(PageCut::new(self.table.details.count()));
    }

    /// Forgets the cut.
    pub fn end_cut(&mut self) {
        (self.cut, self.details_cut) = (None, None);
    }

    /// The next page of the cut: cell count and bytes.
    pub fn take_page(&mut self) -> Option<(u32, Vec<u8>)> {
        self.cut.as_mut()?.take(|range| encode(&self.table, range))
    }

    /// The next page of the cut of details: row count and bytes.
    pub fn take_details_page(&mut self) -> Option<(u32, Vec<u8>)> {
        self.details_cut.as_mut()?.take(|range| encode_details(&self.table, range))
    }

    /// Turns this table into `newer`, a later state of the same log, under the readers' feet: each
    /// cell changes at once, all of them one after the other.
    ///
    /// # Panics
    /// `newer` does not begin with this table's cells.
    pub fn overwrite(&mut self, newer: &CellTable) {
        self.end_cut();
        for (ours, theirs) in [
            (&self.table.warehouses, &newer.warehouses),
            (&self.table.skus, &newer.skus),
            (&self.table.aliases.names, &newer.aliases.names),
        ] {
            for number in 0..theirs.count() {
                let name = theirs.name(number).expect("counted names are there");
                assert!(ours.add(name) == number, "a later state keeps the numbers of names");
            }
        }
        for alias in 0..newer.aliases.names.count() {
            self.table.aliases.set_sku(alias, newer.aliases.sku(alias));
        }
        for sku in (0..newer.skus.count()).map(SkuId) {
            if self.table.aliases.shown(sku) != newer.aliases.shown(sku) {
                self.table.aliases.set_shown(sku, newer.aliases.shown(sku));
            }
        }
        assert!(self.table.count() <= newer.count(), "a later state keeps all cells");
        for cell in 0..newer.count() {
            let (warehouse, sku) = newer.key(cell).expect("counted cells have names");
            if cell < self.table.count() {
                assert!(self.table.key(cell) == Some((warehouse, sku)), "a cell keeps its names");
            } else {
                let earliest_due = Tick::NEVER;
                self.push(warehouse, sku, Cell { earliest_due, ..Cell::default() });
            }
        }
        // Rows in the order of the other table: both then number them alike.
        for row in 0..newer.details.count() {
            let cell = newer.details.cell_of(row).expect("counted rows have cells");
            if self.table.details.find(cell).is_none() {
                self.table.details.make(cell);
            }
            assert!(self.table.details.find(cell) == Some(row), "a later state keeps all details");
        }
        for cell in 0..newer.count() {
            let slot = newer.slots.get(cell).expect("counted cells have slots");
            self.put(cell, &slot.load(), &newer.load_details(cell, slot));
        }
        for sku in (0..newer.skus.count()).map(SkuId) {
            if self.table.points.of(sku) != newer.points.of(sku) {
                self.set_point(sku, newer.points.of(sku));
            }
        }
        self.crossed.clear();
    }

    #[inline]
    fn slot(&self, cell: u32) -> &Slot {
        self.table.slots.get(cell).expect("a resolved cell has a slot")
    }

    #[inline(always)]
    fn total_of(&self, slot: &Slot) -> Option<&Total> {
        slot.total().map(|number| self.table.totals.get(number).expect("a numbered total is there"))
    }
}

/// Notes which reorder points are crossed as a cell goes from the first of two values to the second.
#[cold]
fn watch(table: &CellTable, crossed: &mut Crossed, cell: u32, both: [(&Cell, &Details); 2]) {
    let [before, after] = both.map(|(cell, details)| {
        let shown = cell.shown_with(details);
        (shown.policy.reorder_point, shown.position())
    });
    crossings::note(crossed, Subject::Cell(cell), before, after);
    let Some((_, sku)) = table.key(cell) else { return };
    if let Some(point) = table.points.of(sku) {
        let now = table.sku_position(sku);
        let then = now - (after.1 - before.1);
        crossings::note(crossed, Subject::Sku(sku), (Some(point), then), (Some(point), now));
    }
}

#[inline]
fn room_of(sums: &Cell) -> i64 {
    let promised = sums.reserved + sums.committed;
    (COUNTER_MAX - promised).min(COUNTER_MAX + sums.on_hand - promised)
}
