//! Reads: from any thread, without the log and without locks.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::protocol::{
    CellCounters, CellHandle, CellRef, Code, LineFault, Lines, OutcomeHeader, Refs, ReservationId,
    ReservationState, ShortLine, SkuTotal, begin_outcome,
};
use crate::world::UnixMicros;

use super::cells::{Cell, CellTable, Missing};
use super::holds::HeldLine;
use super::names::SkuId;
use super::outcomes::{body, put_millis};
use super::record::Standing;
use super::reserve::Demands;
use super::state::StockState;
use super::time::{is_from_future, is_too_old};

/// Most cells on one page of READ_SKU, of at most 73 bytes each: nobody waits longer for such a read
/// than for a burst of writes.
const SKU_PAGE_CELLS: usize = 1_024;

/// Reads the cells of a running [`StockState`]. Cheap to clone; lock-free.
#[derive(Clone)]
pub struct CellReader {
    table: Arc<CellTable>,
    grace_ms: u64,
    retention_ms: u64,
}

impl CellReader {
    pub(super) fn new(table: Arc<CellTable>, grace_ms: u64, retention_ms: u64) -> Self {
        Self { table, grace_ms, retention_ms }
    }

    /// The cell's handle, or `None` if the pair was never defined.
    pub fn handle(&self, warehouse: &[u8], sku: &[u8]) -> Option<CellHandle> {
        self.table.resolve(CellRef::Name { warehouse, sku }).ok().map(CellHandle)
    }

    /// The cell's counters, all of one moment, or `None` for a handle never given out.
    pub fn counters(&self, cell: CellHandle) -> Option<CellCounters> {
        self.table.read(cell.0).map(|cell| cell.counters())
    }

    /// How many cells there are.
    pub fn count(&self) -> u32 {
        self.table.count()
    }

    /// Refuses a reserve that could not be granted at the log time `now` whatever is reclaimed:
    /// appends the NO_STOCK outcome and returns true. Returns false, and appends nothing, if there
    /// may be enough, if a short cell may have due units that nobody has noticed, and if a line
    /// names no cell: then the log decides.
    ///
    /// It judges stock alone: a request whose id may be known (a retry) or is not
    /// [accepted](Self::accepts_id) must go through the log.
    pub fn refuse_if_short(&self, lines: &Lines<'_>, now: UnixMicros, out: &mut BytesMut) -> bool {
        // Before the counters are read: what was swept by then is in them.
        let swept = self.table.swept_before();
        let first_not_due = self.table.clock(now, self.grace_ms).first_not_due();
        let is_final = |cell: &Cell| swept.max(cell.earliest_due) >= first_not_due;
        let count = lines.len();
        let mut lines = lines.iter().map(|line| {
            let cell = self.table.resolve(line.cell).ok()?;
            Some(HeldLine { cell, quantity: line.quantity })
        });
        if count == 1 {
            let Some(Some(line)) = lines.next() else { return false };
            let Some(cell) = self.table.read(line.cell) else { return false };
            if cell.available() >= i64::from(line.quantity) || !is_final(&cell) {
                return false;
            }
            let available = cell.available();
            let asked = u64::from(line.quantity);
            let short = ShortLine { line: 0, cell: CellHandle(line.cell), asked, available };
            body(out, Code::NO_STOCK, 0, |out| short.encode(out));
            return true;
        }
        let Some(lines) = lines.collect::<Option<Vec<_>>>() else { return false };
        let mut demands = Demands::default();
        demands.sum(lines.into_iter());
        let mut shorts = Vec::new();
        for demand in &demands.sums {
            let Some(cell) = self.table.read(demand.cell) else { return false };
            let available = cell.available();
            if available >= demand.asked as i64 {
                continue;
            }
            if !is_final(&cell) {
                return false;
            }
            let (line, asked) = (demand.line, demand.asked);
            shorts.push(ShortLine { line, cell: CellHandle(demand.cell), asked, available });
        }
        if shorts.is_empty() {
            return false;
        }
        body(out, Code::NO_STOCK, 0, |out| shorts.iter().for_each(|short| short.encode(out)));
        true
    }

    /// The time inside an id that nobody has used yet is one that a reserve at the log time `now`
    /// takes: neither older than the retention nor too far ahead. If not, the log says what it is.
    pub fn accepts_id(&self, id: &ReservationId, now: UnixMicros) -> bool {
        let (id_ms, now_ms) = (id.millis(), now.as_millis());
        !is_too_old(id_ms, now_ms, self.retention_ms) && !is_from_future(id_ms, now_ms)
    }

    /// Appends the outcome of READ_CELLS. Cells that are not there are marked as not found.
    pub fn read_cells(&self, cells: &Refs<'_>, out: &mut BytesMut) {
        body(out, Code::OK, 0, |out| {
            for cell in cells.iter() {
                let found = self.table.resolve(cell).ok();
                match found.and_then(|cell| Some((cell, self.table.read(cell)?))) {
                    Some((cell, value)) => put_cell(out, cell, &value),
                    None => {
                        let named = match cell {
                            CellRef::Handle(handle) => handle.0,
                            CellRef::Name { .. } => u32::MAX,
                        };
                        out.put_u32_le(named);
                        out.put_u32_le(0);
                        CellCounters::default().encode(out);
                    }
                }
            }
        });
    }

    /// Appends the outcome of READ_SKU: one page of the SKU's cells, those after the cell `after`,
    /// in the order of their handles, and the sum over all its cells. Each cell and the sum are of one
    /// moment, but not of the same unless nothing is applied meanwhile.
    pub fn read_sku(&self, sku: &[u8], after: Option<CellHandle>, out: &mut BytesMut) {
        let Some(sku) = self.table.skus.find(sku).map(SkuId) else {
            let code = Missing::Sku.code();
            return body(out, code, 0, |out| LineFault { line: 0 }.encode(out));
        };
        let total = self.table.total(sku);
        let mut cells = self.table.cells_of(sku, after.map(|cell| cell.0));
        let page: Vec<u32> = cells.by_ref().take(SKU_PAGE_CELLS).collect();
        let more = cells.next().is_some();
        body(out, Code::OK, 0, |out| {
            SkuTotal { more, cells: page.len() as u32, total }.encode(out);
            for cell in page {
                let (warehouse, _) = self.table.key(cell).expect("a chained cell has names");
                let name = self.table.warehouses.name(warehouse.0).expect("numbers have names");
                out.put_u8(name.len() as u8);
                out.put_slice(name);
                let value = self.table.read(cell).expect("a chained cell has counters");
                put_cell(out, cell, &value);
            }
        });
    }
}

impl StockState {
    /// Appends the outcome of READ_RESERVATION: its lines with OK, or NOT_FOUND. One that is due
    /// reads as expired, and one that is over long enough as not found, whether or not the sweep
    /// has come by.
    pub fn read_reservation(&self, id: ReservationId, out: &mut BytesMut) {
        let found = self.holds.find(&id, self.holds.hash(&id.0));
        let found = found.and_then(|handle| Some((handle, self.present_state(handle)?)));
        let Some((handle, state)) = found else {
            begin_outcome(out, OutcomeHeader { code: Code::NOT_FOUND, detail: 0 });
            return;
        };
        let record = self.holds.records.get(handle);
        body(out, Code::OK, state as u16, |out| {
            out.put_u64_le(record.created_ms);
            // A fence never had a deadline.
            let has_deadline = state != ReservationState::Fenced;
            let deadline = has_deadline.then(|| self.clock.real(record.deadline));
            put_millis(out, deadline.unwrap_or_default());
            out.put_u32_le(record.lines());
            for line in self.holds.lines_of(handle) {
                out.put_u32_le(line.cell);
                out.put_u32_le(line.quantity);
            }
        });
    }

    /// As [`CellReader::read_sku`], with nothing applied meanwhile.
    pub fn read_sku(&self, sku: &[u8], after: Option<CellHandle>, out: &mut BytesMut) {
        self.cells().read_sku(sku, after, out);
    }

    /// The state as a look-up would leave it; `None`: forgotten, or not a reservation.
    fn present_state(&self, handle: u32) -> Option<ReservationState> {
        let record = self.holds.records.get(handle);
        let Some(Standing::Reservation(state)) = record.standing() else { return None };
        let (state, forget) = match state {
            ReservationState::Active if self.clock.is_due(record.deadline) => {
                let due = self.clock.due(record.deadline).0 + self.config.retention_ms;
                (ReservationState::Expired, record.forget.0.max(due))
            }
            state => (state, record.forget.0),
        };
        let over = !matches!(state, ReservationState::Active | ReservationState::Confirmed);
        (!over || self.clock.hold().0 < forget).then_some(state)
    }
}

fn put_cell(out: &mut BytesMut, cell: u32, value: &Cell) {
    out.put_u32_le(cell);
    out.put_u32_le(1);
    value.counters().encode(out);
}
