//! Cells and their counters: any number of readers, no locks.
//!
//! ```text
//! slot  (40 bytes)   seq u32 · more u32 · earliest_due u64 · on_hand i64 · reserved i64 · committed i64
//!                    more: 1 bit, the cell has details (details.rs) · 1 bit, it or its SKU has
//!                    a reorder point (crossings.rs) · 30 bits, the total it is in
//! key   (12 bytes)   warehouse u32 · sku u32 · next cell of the same SKU u32
//! SKU    (8 bytes)   first cell u32 · last cell u32
//! total (56 bytes)   the sums of a SKU that has several cells (totals.rs)
//! ```
//!
//! Slots and totals are seqlocks: `seq` is odd while the writer (cell_writer.rs) changes the counters, and
//! a reader that saw it change reads again. Cells are never removed and never move. While operations that
//! are linked may yet be undone, readers wait (`undecided`).
//!
//! Invariants:
//! - A SKU's total is the sum over its cells, but for the moment between the two stores of a change.
//! - Counters, and their sums over a SKU, are within their ranges (`Sums::are_in_range`).
//! - No line of the cell that is due and unswept is in a tick before `max(front, earliest_due)`.
//! - A SKU's cells are chained in the order of their handles.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::protocol::{CellCounters, CellDetails, CellRef, Reader, Truncated};
use crate::world::UnixMicros;

use super::aliases::Aliases;
use super::cell::{Cell, Closed, Details, Sums};
use super::chunked::Chunked;
use super::details::DetailTable;
use super::hash::{Digest, mix2};
use super::names::{Names, SkuId, WarehouseId};
use super::points::Points;
use super::prefetch::prefetch;
use super::ring::NIL;
use super::seqlock::Sequence;
use super::shared_index::SharedIndex;
use super::time::{HoldClock, Tick};
use super::totals::Total;

/// The bit of a slot's `more` that says that the cell has details.
const DETAILED: u32 = 1 << 31;

/// The bit of a slot's `more` that says that a reorder point may be crossed.
const WATCHED: u32 = 1 << 30;

/// The rest of a slot's `more` while the cell is the only one of its SKU.
const NO_TOTAL: u32 = WATCHED - 1;

/// In this order in memory: whoever fetches both ends of a slot has all of it.
#[repr(C)]
pub(super) struct Slot {
    pub seq: Sequence,
    more: AtomicU32,
    earliest_due: AtomicU64,
    on_hand: AtomicI64,
    reserved: AtomicI64,
    pub committed: AtomicI64,
}

const _: () = assert!(size_of::<Slot>() == 40 && size_of::<Total>() == 56);
const _: () = assert!(std::mem::offset_of!(Slot, seq) == 0);
const _: () = assert!(std::mem::offset_of!(Slot, committed) == 32);

impl Default for Slot {
    fn default() -> Self {
        let [on_hand, reserved, committed] = [const { AtomicI64::new(0) }; 3];
        let (seq, more) = (Sequence::default(), AtomicU32::new(NO_TOTAL));
        Self { seq, more, earliest_due: AtomicU64::new(0), on_hand, reserved, committed }
    }
}

pub(super) struct Key {
    pub warehouse: AtomicU32,
    pub sku: AtomicU32,
    pub next: AtomicU32,
}

impl Default for Key {
    fn default() -> Self {
        Self { warehouse: AtomicU32::new(NIL), sku: AtomicU32::new(NIL), next: AtomicU32::new(NIL) }
    }
}

/// The chain of a SKU's cells.
pub(super) struct Chain {
    pub first: AtomicU32,
    pub last: AtomicU32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { first: AtomicU32::new(NIL), last: AtomicU32::new(NIL) }
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
    pub slots: Chunked<Slot>,
    pub keys: Chunked<Key>,
    pub chains: Chunked<Chain>,
    pub totals: Chunked<Total>,
    pub details: DetailTable,
    pub pairs: SharedIndex,
    pub warehouses: Names,
    pub skus: Names,
    pub aliases: Aliases,
    pub points: Points,
    pub count: AtomicU32,
    /// Odd while operations are linked that may yet be undone.
    pub undecided: Sequence,
    seed: u64,
    /// The log's clock, for readers: micros, and the outage shift in ms.
    pub now: AtomicU64,
    pub shift_ms: AtomicU64,
    /// The first tick that is not swept yet.
    pub front: AtomicU64,
}

impl CellTable {
    pub fn new(seed: u64) -> Self {
        Self {
            slots: Chunked::new(),
            keys: Chunked::new(),
            chains: Chunked::new(),
            totals: Chunked::new(),
            details: DetailTable::new(seed),
            pairs: SharedIndex::new(),
            warehouses: Names::new(seed),
            skus: Names::new(seed),
            aliases: Aliases::new(seed),
            points: Points::new(),
            count: AtomicU32::new(0),
            undecided: Sequence::default(),
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
                let sku = self.sku(sku).ok_or(Missing::Sku)?;
                self.find(WarehouseId(warehouse), sku).ok_or(Missing::Pair)
            }
        }
    }

    /// The SKU that has this name, its first or another.
    #[inline]
    pub fn sku(&self, name: &[u8]) -> Option<SkuId> {
        self.skus.find(name).map(SkuId).or_else(|| self.aliases.find(name))
    }

    /// The name under which a SKU is shown.
    pub fn shown_name(&self, sku: SkuId) -> Option<&[u8]> {
        match self.aliases.shown(sku) {
            Some(alias) => self.aliases.names.name(alias),
            None => self.skus.name(sku.0),
        }
    }

    /// The sum of the positions of a SKU's cells. As [`CellTable::sums`], also while a chain is undecided.
    pub fn sku_position(&self, sku: SkuId) -> i64 {
        let Some(slot) = self.first_of(sku).and_then(|first| self.slots.get(first)) else {
            return 0;
        };
        let total = slot.total().and_then(|number| self.totals.get(number));
        let committed = total.map_or_else(|| slot.load(), Total::load).committed;
        let sums = self.sums(sku);
        sums.on_hand - committed - sums.withheld + sums.incoming + sums.in_transit
    }

    pub fn find(&self, warehouse: WarehouseId, sku: SkuId) -> Option<u32> {
        let hash = self.hash(warehouse, sku);
        self.pairs.find(hash, |cell| self.key(cell) == Some((warehouse, sku)))
    }

    /// Starts fetching the place where a search for the pair begins.
    pub fn prefetch(&self, warehouse: WarehouseId, sku: SkuId) {
        if let Some(slot) = self.pairs.home(self.hash(warehouse, sku)) {
            prefetch(slot);
        }
    }

    pub fn hash(&self, warehouse: WarehouseId, sku: SkuId) -> u64 {
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

    /// The cell, all of one moment, or `None` for a handle never given out.
    #[inline(always)]
    pub fn read(&self, cell: u32) -> Option<Cell> {
        if cell >= self.count() {
            return None;
        }
        let slot = self.slots.get(cell)?;
        Some(self.undecided.read(|| slot.seq.read(|| self.load(cell, slot))))
    }

    /// All about the cell, all of one moment, or `None` for a handle never given out.
    pub fn read_details(&self, cell: u32) -> Option<CellDetails> {
        if cell >= self.count() {
            return None;
        }
        let slot = self.slots.get(cell)?;
        let load = || {
            let details = self.load_details(cell, slot);
            slot.load().with(&details).shown_with(&details)
        };
        Some(self.undecided.read(|| slot.seq.read(load)))
    }

    /// Relaxed: the writer reads its own stores, a reader checks the slot's sequence around it.
    #[inline(always)]
    pub fn load(&self, cell: u32, slot: &Slot) -> Cell {
        let mut value = slot.load();
        if slot.is_detailed() {
            // Field by field: a cell that is handed over by address would always lie in memory.
            (value.withheld, value.allowance, value.closed) = self.load_derived(cell, slot);
        }
        value
    }

    /// What follows from the details.
    #[cold]
    fn load_derived(&self, cell: u32, slot: &Slot) -> (i64, i64, Closed) {
        let details = self.load_details(cell, slot);
        (details.withheld(), details.allowance(), details.closed())
    }

    /// As [`CellTable::load`].
    pub fn load_details(&self, cell: u32, slot: &Slot) -> Details {
        let row = slot.is_detailed().then(|| self.details.find(cell)).flatten();
        row.map_or(Details::default(), |row| self.details.load(row))
    }

    /// A SKU's counters over all its cells, of one moment.
    pub fn total(&self, sku: SkuId) -> CellCounters {
        let Some(first) = self.first_of(sku) else { return CellCounters::default() };
        self.undecided.read(|| {
            // While there is no total, there is no other cell: the slot says both at one moment.
            let alone = |slot: &Slot| match slot.total() {
                Some(number) => Err(number),
                None => Ok(self.load(first, slot)),
            };
            let slot = self.slots.get(first).expect("a chained cell has a slot");
            let sum = slot.seq.read(|| alone(slot)).unwrap_or_else(|number| {
                let total = self.totals.get(number).expect("a numbered total is there");
                total.seq.read(|| total.load())
            });
            sum.counters()
        })
    }

    /// What is bounded of a SKU, over all its cells. For the writer's thread.
    pub fn sums(&self, sku: SkuId) -> Sums {
        self.first_of(sku).map_or(Sums::default(), |first| self.sums_around(first))
    }

    /// What is bounded of the SKU of a cell, over all its cells. For the writer's thread.
    pub fn sums_around(&self, cell: u32) -> Sums {
        let slot = self.slots.get(cell).expect("the cell was found before");
        match slot.total().and_then(|number| self.totals.get(number)) {
            Some(total) => total.sums(),
            None => Sums::of(&slot.load(), &self.load_details(cell, slot)),
        }
    }

    fn first_of(&self, sku: SkuId) -> Option<u32> {
        // Acquire: pairs with the writer's Release when it makes the cell.
        let first = self.chains.get(sku.0)?.first.load(Ordering::Acquire);
        (first != NIL).then_some(first)
    }

    /// The cells of a SKU, in the order of their handles, after `after`.
    pub fn cells_of(&self, sku: SkuId, after: Option<u32>) -> impl Iterator<Item = u32> + '_ {
        // Acquire: pairs with the writer's Release when it links a cell.
        let next = |cell: &u32| self.keys.get(*cell).map(|key| key.next.load(Ordering::Acquire));
        let is_of = |cell: &u32| self.key(*cell).is_some_and(|(_, of)| of == sku);
        let begin = match after {
            Some(after) if after >= self.count() => None,
            Some(after) if is_of(&after) => next(&after),
            _ => self.first_of(sku),
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

    /// The log's clock.
    pub fn now(&self) -> UnixMicros {
        UnixMicros(self.now.load(Ordering::Acquire))
    }

    /// The hold clock of the log, moved to `now` if that is later.
    pub fn clock(&self, now: UnixMicros, grace_ms: u64) -> HoldClock {
        // An older shift only makes more lines look due, which is the safe side.
        let shift_ms = self.shift_ms.load(Ordering::Acquire);
        let now = now.max(self.now());
        HoldClock { now, shift_ms, grace_ms }
    }

    /// Mixes everything in.
    pub fn digest(&self, digest: &mut Digest) {
        for names in [&self.warehouses, &self.skus, &self.aliases.names] {
            for number in 0..names.count() {
                digest.bytes(names.name(number).expect("counted names are there"));
            }
        }
        for cell in 0..self.count() {
            digest.bytes(&encode(self, cell..cell + 1));
        }
        for row in 0..self.details.count() {
            digest.bytes(&encode_details(self, row..row + 1));
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let tables = self.slots.bytes() + self.keys.bytes() + self.chains.bytes();
        tables
            + self.totals.bytes()
            + self.details.bytes()
            + self.pairs.bytes()
            + self.warehouses.bytes()
            + self.skus.bytes()
            + self.aliases.bytes()
            + self.points.bytes()
    }
}

impl Slot {
    /// The number of the total that the cell is in; `None`: it is the only cell of its SKU.
    #[inline]
    pub fn total(&self) -> Option<u32> {
        let number = self.more.load(Ordering::Relaxed) & NO_TOTAL;
        (number != NO_TOTAL).then_some(number)
    }

    /// The cell has a row of details.
    #[inline]
    pub fn is_detailed(&self) -> bool {
        self.more.load(Ordering::Relaxed) & DETAILED != 0
    }

    /// A reorder point may be crossed by what happens to the cell.
    #[inline]
    pub fn is_watched(&self) -> bool {
        self.more.load(Ordering::Relaxed) & WATCHED != 0
    }

    /// Says that a reorder point may be crossed from now on. Readers do not look at it.
    pub fn set_watched(&self) {
        self.more.store(self.more.load(Ordering::Relaxed) | WATCHED, Ordering::Relaxed);
    }

    /// Says that the cell has a row of details now. The writer does so within the sequence.
    pub fn set_detailed(&self) {
        self.more.store(self.more.load(Ordering::Relaxed) | DETAILED, Ordering::Relaxed);
    }

    /// Says that the cell is in a total now. The writer does so within the sequence.
    pub fn set_total(&self, number: u32) {
        assert!(number < NO_TOTAL, "totals have 30-bit numbers");
        let bits = self.more.load(Ordering::Relaxed) & !NO_TOTAL;
        self.more.store(bits | number, Ordering::Relaxed);
    }

    /// What lies in the slot itself. Relaxed: the writer reads its own stores, a reader checks `seq`
    /// around it.
    #[inline]
    pub fn load(&self) -> Cell {
        Cell {
            earliest_due: Tick(self.earliest_due.load(Ordering::Relaxed)),
            on_hand: self.on_hand.load(Ordering::Relaxed),
            reserved: self.reserved.load(Ordering::Relaxed),
            committed: self.committed.load(Ordering::Relaxed),
            ..Cell::default()
        }
    }

    /// The writer does so within the sequence.
    #[inline]
    pub fn store(&self, cell: &Cell) {
        self.earliest_due.store(cell.earliest_due.0, Ordering::Relaxed);
        self.on_hand.store(cell.on_hand, Ordering::Relaxed);
        self.reserved.store(cell.reserved, Ordering::Relaxed);
        self.committed.store(cell.committed, Ordering::Relaxed);
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
        ..Cell::default()
    };
    Ok((warehouse, sku, value))
}

/// The bytes of cells in a snapshot, without their details.
pub(super) fn encode(table: &CellTable, range: std::ops::Range<u32>) -> Vec<u8> {
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

/// The bytes of rows of details in a snapshot.
pub(super) fn encode_details(table: &CellTable, range: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(range.len() * super::details::ROW_BYTES);
    range.for_each(|row| table.details.put(row, &mut bytes));
    bytes
}
