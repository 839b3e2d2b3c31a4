//! Cells and their counters: one writer, any number of readers, no locks.
//!
//! ```text
//! slot  (40 bytes)   seq u32 · sku u32 · earliest_due u64 · on_hand i64 · reserved i64 · committed i64
//! key   (12 bytes)   warehouse u32 · sku u32 · next cell of the same SKU u32
//! total (40 bytes)   seq u32 · first cell u32 · last cell u32 · 0 u32 · on_hand, reserved, committed i64
//! ```
//!
//! Slots and totals are seqlocks: `seq` is odd while the writer changes the counters, and a reader that
//! saw it change reads again. Cells are never removed and never move.
//!
//! Invariants:
//! - A SKU's total is the sum over its cells, but for the moment between the two stores of a change.
//! - `reserved` and `committed` are never negative; no counter leaves ±[`COUNTER_MAX`].
//! - No line of the cell that is due and unswept is in a tick before `max(front, earliest_due)`.
//! - A SKU's cells are chained in the order of their handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::protocol::limits::COUNTER_MAX;
use crate::protocol::{CellCounters, CellRef, Reader, Truncated};
use crate::world::UnixMicros;

use super::chunked::Chunked;
use super::cut::PageCut;
use super::hash::{Digest, mix2};
use super::names::{Names, SkuId, WarehouseId};
use super::prefetch::prefetch;
use super::ring::NIL;
use super::seqlock::Sequence;
use super::shared_index::SharedIndex;
use super::time::{HoldClock, Tick};

#[derive(Default)]
struct Slot {
    seq: Sequence,
    sku: AtomicU32,
    earliest_due: AtomicU64,
    on_hand: AtomicI64,
    reserved: AtomicI64,
    committed: AtomicI64,
}

const _: () = assert!(size_of::<Slot>() == 40 && size_of::<Total>() == 40);

struct Key {
    warehouse: AtomicU32,
    sku: AtomicU32,
    next: AtomicU32,
}

impl Default for Key {
    fn default() -> Self {
        Self { warehouse: AtomicU32::new(NIL), sku: AtomicU32::new(NIL), next: AtomicU32::new(NIL) }
    }
}

/// A SKU over all warehouses: the chain of its cells, and their sums.
struct Total {
    seq: Sequence,
    first: AtomicU32,
    last: AtomicU32,
    on_hand: AtomicI64,
    reserved: AtomicI64,
    committed: AtomicI64,
}

impl Default for Total {
    fn default() -> Self {
        let [on_hand, reserved, committed] = [const { AtomicI64::new(0) }; 3];
        let [first, last] = [const { AtomicU32::new(NIL) }; 2];
        Self { seq: Sequence::default(), first, last, on_hand, reserved, committed }
    }
}

/// One cell at one moment, as its slot has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Cell {
    pub earliest_due: Tick,
    pub on_hand: i64,
    pub reserved: i64,
    pub committed: i64,
}

impl Cell {
    /// What a reserve could take.
    #[inline]
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved - self.committed
    }

    /// As replies show it.
    pub fn counters(&self) -> CellCounters {
        CellCounters {
            on_hand: self.on_hand,
            reserved: self.reserved,
            committed: self.committed,
            available: self.available(),
        }
    }
}

/// Why a cell cannot be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    Pair,
    Sku,
    Warehouse,
}

/// What writer and readers share.
pub(super) struct CellTable {
    slots: Chunked<Slot>,
    keys: Chunked<Key>,
    totals: Chunked<Total>,
    pairs: SharedIndex,
    pub warehouses: Names,
    pub skus: Names,
    count: AtomicU32,
    seed: u64,
    /// The log's clock, for readers: micros, and the outage shift in ms.
    now: AtomicU64,
    shift_ms: AtomicU64,
    /// The first tick that is not swept yet.
    front: AtomicU64,
}

impl CellTable {
    fn new(seed: u64) -> Self {
        Self {
            slots: Chunked::new(),
            keys: Chunked::new(),
            totals: Chunked::new(),
            pairs: SharedIndex::new(),
            warehouses: Names::new(seed),
            skus: Names::new(seed),
            count: AtomicU32::new(0),
            seed,
            now: AtomicU64::new(0),
            shift_ms: AtomicU64::new(0),
            front: AtomicU64::new(0),
        }
    }

    /// How many cells there are: handles are below this.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// The cell that a request means.
    #[inline]
    pub fn resolve(&self, cell: CellRef<'_>) -> Result<u32, Missing> {
        match cell {
            CellRef::Handle(handle) if handle.0 < self.count() => Ok(handle.0),
            CellRef::Handle(_) => Err(Missing::Pair),
            CellRef::Name { warehouse, sku } => {
                let warehouse = self.warehouses.find(warehouse).ok_or(Missing::Warehouse)?;
                let sku = self.skus.find(sku).ok_or(Missing::Sku)?;
                self.find(WarehouseId(warehouse), SkuId(sku)).ok_or(Missing::Pair)
            }
        }
    }

    fn find(&self, warehouse: WarehouseId, sku: SkuId) -> Option<u32> {
        let hash = self.hash(warehouse, sku);
        self.pairs.find(hash, |cell| self.key(cell) == Some((warehouse, sku)))
    }

    fn hash(&self, warehouse: WarehouseId, sku: SkuId) -> u64 {
        mix2(self.seed, u64::from(warehouse.0), u64::from(sku.0))
    }

    /// The pair has a cell.
    pub fn has(&self, warehouse: WarehouseId, sku: SkuId) -> bool {
        self.find(warehouse, sku).is_some()
    }

    /// The names of a cell, as numbers.
    pub fn key(&self, cell: u32) -> Option<(WarehouseId, SkuId)> {
        let key = self.keys.get(cell)?;
        // Relaxed: the cell was published with Release after its key was stored.
        let warehouse = key.warehouse.load(Ordering::Relaxed);
        Some((WarehouseId(warehouse), SkuId(key.sku.load(Ordering::Relaxed))))
    }

    /// The cell's counters, all of one moment, or `None` for a handle never given out.
    #[inline]
    pub fn read(&self, cell: u32) -> Option<Cell> {
        if cell >= self.count() {
            return None;
        }
        let slot = self.slots.get(cell)?;
        Some(slot.seq.read(|| slot.load()))
    }

    /// A SKU's counters over all its cells, of one moment.
    pub fn total(&self, sku: SkuId) -> CellCounters {
        self.totals
            .get(sku.0)
            .map_or(CellCounters::default(), |total| total.seq.read(|| total.load()).counters())
    }

    /// The cells of a SKU, in the order of their handles, after `after`.
    pub fn cells_of(&self, sku: SkuId, after: Option<u32>) -> impl Iterator<Item = u32> + '_ {
        // Acquire: pairs with the writer's Release when it links a cell.
        let next = |cell: &u32| self.keys.get(*cell).map(|key| key.next.load(Ordering::Acquire));
        let is_of = |cell: &u32| self.key(*cell).is_some_and(|(_, of)| of == sku);
        let begin = match after.filter(|after| *after < self.count() && is_of(after)) {
            Some(after) => next(&after),
            None => self.totals.get(sku.0).map(|total| total.first.load(Ordering::Acquire)),
        };
        std::iter::successors(begin, next)
            .take_while(|cell| *cell != NIL)
            .skip_while(move |cell| after.is_some_and(|after| *cell <= after))
    }

    /// Nothing of the cell can have fallen due by the log time `now` and be unswept, so that its
    /// counters are what a reserve at `now` would find. To be called *before* the cell is read.
    pub fn swept_before(&self) -> Tick {
        // Acquire: sees all counters that the sweep before this front changed.
        Tick(self.front.load(Ordering::Acquire))
    }

    /// The hold clock of the log, moved to `now` if that is later.
    pub fn clock(&self, now: UnixMicros, grace_ms: u64) -> HoldClock {
        // An older shift only makes more lines look due, which is the safe side.
        let shift_ms = self.shift_ms.load(Ordering::Acquire);
        let now = now.max(UnixMicros(self.now.load(Ordering::Acquire)));
        HoldClock { now, shift_ms, grace_ms }
    }

    /// Mixes everything in.
    pub fn digest(&self, digest: &mut Digest) {
        for names in [&self.warehouses, &self.skus] {
            for number in 0..names.count() {
                digest.bytes(names.name(number).expect("counted names are there"));
            }
        }
        for cell in 0..self.count() {
            digest.bytes(&encode(self, cell..cell + 1));
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let tables = self.slots.bytes() + self.keys.bytes() + self.totals.bytes();
        tables + self.pairs.bytes() + self.warehouses.bytes() + self.skus.bytes()
    }
}

impl Slot {
    /// Relaxed: the writer reads its own stores, a reader checks `seq` around it.
    #[inline]
    fn load(&self) -> Cell {
        Cell {
            earliest_due: Tick(self.earliest_due.load(Ordering::Relaxed)),
            on_hand: self.on_hand.load(Ordering::Relaxed),
            reserved: self.reserved.load(Ordering::Relaxed),
            committed: self.committed.load(Ordering::Relaxed),
        }
    }

    #[inline]
    fn store(&self, cell: Cell) {
        self.seq.write(|| {
            self.earliest_due.store(cell.earliest_due.0, Ordering::Relaxed);
            self.on_hand.store(cell.on_hand, Ordering::Relaxed);
            self.reserved.store(cell.reserved, Ordering::Relaxed);
            self.committed.store(cell.committed, Ordering::Relaxed);
        });
    }
}

impl Total {
    /// As [`Slot::load`]; nothing is due in a total.
    #[inline]
    fn load(&self) -> Cell {
        Cell {
            earliest_due: Tick::NEVER,
            on_hand: self.on_hand.load(Ordering::Relaxed),
            reserved: self.reserved.load(Ordering::Relaxed),
            committed: self.committed.load(Ordering::Relaxed),
        }
    }

    /// A cell has changed. The sums may pass their range while a whole table is overwritten, and be
    /// right in the end.
    #[inline]
    fn follow(&self, before: &Cell, after: &Cell) {
        if (before.on_hand, before.reserved, before.committed)
            == (after.on_hand, after.reserved, after.committed)
        {
            return;
        }
        let moved = |sum: &AtomicI64, before: i64, after: i64| {
            sum.store(sum.load(Ordering::Relaxed).wrapping_add(after - before), Ordering::Relaxed);
        };
        self.seq.write(|| {
            moved(&self.on_hand, before.on_hand, after.on_hand);
            moved(&self.reserved, before.reserved, after.reserved);
            moved(&self.committed, before.committed, after.committed);
        });
    }
}

/// The one writer of a [`CellTable`].
pub(super) struct CellWriter {
    table: Arc<CellTable>,
    cut: Option<PageCut>,
}

impl CellWriter {
    /// No cells yet. The seed is this process's own.
    pub fn new(seed: u64) -> Self {
        Self { table: Arc::new(CellTable::new(seed)), cut: None }
    }

    /// What readers share.
    pub fn table(&self) -> &Arc<CellTable> {
        &self.table
    }

    /// The cell's present state.
    ///
    /// # Panics
    /// The cell was never defined.
    #[inline]
    pub fn get(&self, cell: u32) -> Cell {
        self.slot(cell).load()
    }

    /// Starts fetching a cell; `cell` may be out of range.
    #[inline]
    pub fn prefetch(&self, cell: u32) {
        if let Some(slot) = self.table.slots.get(cell) {
            prefetch(&slot.seq);
            prefetch(&slot.committed);
        }
    }

    /// Starts fetching the total that the cell is in. The cell itself should be there by now.
    #[inline]
    pub fn prefetch_total(&self, cell: u32) {
        if let Some(slot) = self.table.slots.get(cell)
            && let Some(total) = self.table.totals.get(slot.sku.load(Ordering::Relaxed))
        {
            prefetch(&total.seq);
        }
    }

    /// The SKU of the cell has so many units over all its cells.
    pub fn total_on_hand(&self, cell: u32) -> i64 {
        self.total_of(self.slot(cell)).on_hand.load(Ordering::Relaxed)
    }

    /// Changes the cell, and with it the total of its SKU.
    ///
    /// # Panics
    /// A counter leaves its range.
    #[inline]
    pub fn update(&mut self, cell: u32, change: impl FnOnce(&mut Cell)) {
        if let Some(cut) = &mut self.cut {
            cut.before_change(cell, |range| encode(&self.table, range));
        }
        let slot = self.slot(cell);
        let before = slot.load();
        let mut value = before;
        change(&mut value);
        assert!(value.reserved >= 0 && value.committed >= 0, "promised units are never negative");
        assert!(value.on_hand.abs() <= COUNTER_MAX, "a counter is within its range");
        slot.store(value);
        self.total_of(slot).follow(&before, &value);
    }

    /// A line of the cell falls due in `tick`.
    #[inline]
    pub fn lower_earliest_due(&mut self, cell: u32, tick: Tick) {
        if tick < self.get(cell).earliest_due {
            self.update(cell, |value| value.earliest_due = tick);
        }
    }

    /// The cell of two names, made if need be.
    pub fn define(&mut self, warehouse: &[u8], sku: &[u8]) -> u32 {
        let warehouse = WarehouseId(self.table.warehouses.add(warehouse));
        let sku = SkuId(self.table.skus.add(sku));
        match self.table.find(warehouse, sku) {
            Some(cell) => cell,
            None => {
                self.push(warehouse, sku, Cell { earliest_due: Tick::NEVER, ..Cell::default() })
            }
        }
    }

    /// Appends a cell that is not there yet.
    pub fn push(&mut self, warehouse: WarehouseId, sku: SkuId, value: Cell) -> u32 {
        let table = &*self.table;
        let cell = table.count.load(Ordering::Relaxed);
        assert!(cell < NIL - 1, "cells have 32-bit handles");
        let slot = table.slots.make(cell);
        slot.sku.store(sku.0, Ordering::Relaxed);
        slot.store(value);
        let key = table.keys.make(cell);
        key.warehouse.store(warehouse.0, Ordering::Relaxed);
        key.sku.store(sku.0, Ordering::Relaxed);
        // Release: whoever sees the count, the pair or the link sees slot and key.
        table.count.store(cell + 1, Ordering::Release);
        table.pairs.insert(table.hash(warehouse, sku), cell);
        let total = table.totals.make(sku.0);
        match total.last.swap(cell, Ordering::Relaxed) {
            NIL => total.first.store(cell, Ordering::Release),
            last => table.keys.make(last).next.store(cell, Ordering::Release),
        }
        total.follow(&Cell::default(), &value);
        cell
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
    }

    /// Forgets the cut.
    pub fn end_cut(&mut self) {
        self.cut = None;
    }

    /// The next page of the cut: cell count and bytes.
    pub fn take_page(&mut self) -> Option<(u32, Vec<u8>)> {
        self.cut.as_mut()?.take(|range| encode(&self.table, range))
    }

    /// Turns this table into `newer`, a later state of the same log, under the readers' feet: each
    /// cell changes at once, all of them one after the other.
    ///
    /// # Panics
    /// `newer` does not begin with this table's cells.
    pub fn overwrite(&mut self, newer: &CellTable) {
        self.cut = None;
        for (ours, theirs) in
            [(&self.table.warehouses, &newer.warehouses), (&self.table.skus, &newer.skus)]
        {
            for number in 0..theirs.count() {
                let name = theirs.name(number).expect("counted names are there");
                assert!(ours.add(name) == number, "a later state keeps the numbers of names");
            }
        }
        assert!(self.table.count() <= newer.count(), "a later state keeps all cells");
        for cell in 0..newer.count() {
            let value = newer.read(cell).expect("counted cells are there");
            let (warehouse, sku) = newer.key(cell).expect("counted cells have names");
            if cell < self.table.count() {
                assert!(self.table.key(cell) == Some((warehouse, sku)), "a cell keeps its names");
                self.update(cell, |ours| *ours = value);
            } else {
                self.push(warehouse, sku, value);
            }
        }
    }

    #[inline]
    fn slot(&self, cell: u32) -> &Slot {
        self.table.slots.get(cell).expect("a resolved cell has a slot")
    }

    #[inline]
    fn total_of(&self, slot: &Slot) -> &Total {
        let sku = slot.sku.load(Ordering::Relaxed);
        self.table.totals.get(sku).expect("a cell's SKU has a total")
    }
}

/// Bytes of a cell in a snapshot: warehouse u32, sku u32, earliest_due u64, three counters i64.
pub(super) const CELL_BYTES: usize = 40;

/// Reads a cell as a snapshot has it.
pub(super) fn decode(reader: &mut Reader<'_>) -> Result<(WarehouseId, SkuId, Cell), Truncated> {
    let (warehouse, sku) = (WarehouseId(reader.u32()?), SkuId(reader.u32()?));
    let value = Cell {
        earliest_due: Tick(reader.u64()?),
        on_hand: reader.i64()?,
        reserved: reader.i64()?,
        committed: reader.i64()?,
    };
    Ok((warehouse, sku, value))
}

fn encode(table: &CellTable, range: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(range.len() * CELL_BYTES);
    for cell in range {
        let (warehouse, sku) = table.key(cell).expect("counted cells have names");
        let value = table.slots.get(cell).expect("counted cells have slots").load();
        bytes.extend_from_slice(&warehouse.0.to_le_bytes());
        bytes.extend_from_slice(&sku.0.to_le_bytes());
        bytes.extend_from_slice(&value.earliest_due.0.to_le_bytes());
        for counter in [value.on_hand, value.reserved, value.committed] {
            bytes.extend_from_slice(&counter.to_le_bytes());
        }
    }
    bytes
}
