//! Reads: from any thread, without the log and without locks.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::protocol::{
    CellCounters, CellDetails, CellHandle, CellRef, Code, Filter, LineFault, LineShares, Lines,
    ListHead, ListedCell, Listing, OpId, OutcomeHeader, Refs, ReservationId, ReservationState,
    ShortLine, SkuTotal, begin_outcome,
};
use crate::world::UnixMicros;

use super::EngineConfig;
use super::cell::{Cell, Closed};
use super::cells::{CellTable, Missing};
use super::holds::HeldLine;
use super::outcomes::{Outcomes, body, put_millis};
use super::record::Standing;
use super::refusals::is_sampled;
use super::reserve::Demands;
use super::shares::{LineSums, Place, state_of};
use super::state::StockState;
use super::time::{is_from_future, is_too_old};
use super::transfer::put_transfer;

/// Most cells that one LIST_CELLS looks at: with none of them on its page it takes about a millisecond.
const LIST_LOOK_CELLS: u32 = 16_384;

/// Most cells on one page of READ_SKU, of at most 73 bytes each: nobody waits longer for such a read
/// than for a burst of writes.
const SKU_PAGE_CELLS: usize = 1_024;

/// Reads the cells of a running [`StockState`]. Cheap to clone; lock-free.
#[derive(Clone)]
pub struct CellReader {
    table: Arc<CellTable>,
    grace_ms: u64,
    retention_ms: u64,
    sample_refusals: u32,
}

impl CellReader {
    pub(super) fn new(table: Arc<CellTable>, config: &EngineConfig) -> Self {
        let EngineConfig { retention_ms, sample_refusals, .. } = *config;
        Self { table, grace_ms: config.grace_rounded(), retention_ms, sample_refusals }
    }

    /// The log's clock: the latest moment applied.
    pub fn now(&self) -> UnixMicros {
        self.table.now()
    }

    /// The cell's handle, or `None` if the pair was never defined.
    pub fn handle(&self, warehouse: &[u8], sku: &[u8]) -> Option<CellHandle> {
        self.table.resolve(CellRef::Name { warehouse, sku }).ok().map(CellHandle)
    }

    /// The names of a cell, the SKU's own; `None` for a handle never given out.
    pub fn names(&self, cell: CellHandle) -> Option<(&[u8], &[u8])> {
        let (warehouse, sku) = self.table.key(cell.0)?;
        Some((self.table.warehouses.name(warehouse.0)?, self.table.skus.name(sku.0)?))
    }

    /// The cell's counters, all of one moment, or `None` for a handle never given out.
    pub fn counters(&self, cell: CellHandle) -> Option<CellCounters> {
        self.table.read(cell.0).map(|cell| cell.counters())
    }

    /// All about the cell, all of one moment, or `None` for a handle never given out.
    pub fn details(&self, cell: CellHandle) -> Option<CellDetails> {
        self.table.read_details(cell.0)
    }

    /// How many cells there are.
    pub fn count(&self) -> u32 {
        self.table.count()
    }

    /// Refuses a reserve that could not be granted at the log time `now` whatever is reclaimed:
    /// appends the NO_STOCK outcome and returns true. Returns false, and appends nothing, if there
    /// may be enough, if a short cell may have due units that nobody has noticed, if a cell takes no
    /// holds, and if a line names no cell: then the log decides.
    ///
    /// It judges stock alone: a request whose id may be known (a retry), is not
    /// [accepted](Self::accepts_id) or is in the [sample](Self::samples) of refusals must go through the log.
    pub fn refuse_if_short(
        &self,
        lines: &Lines<'_>,
        commit: bool,
        now: UnixMicros,
        out: &mut BytesMut,
    ) -> bool {
        // Before the counters are read: what was swept by then is in them.
        let swept = self.table.swept_before();
        let first_not_due = self.table.clock(now, self.grace_ms).first_not_due();
        let asked_as = Closed::asked(commit, false);
        let is_final = |cell: &Cell| swept.max(cell.earliest_due) >= first_not_due;
        let count = lines.len();
        let mut lines = (0..).zip(lines.iter()).map(|(number, line)| {
            let cell = self.table.resolve(line.cell).ok()?;
            Some(HeldLine { line: number, cell, quantity: line.quantity })
        });
        if count == 1 {
            let Some(Some(line)) = lines.next() else { return false };
            let Some(cell) = self.table.read(line.cell) else { return false };
            let enough = cell.grantable() >= i64::from(line.quantity);
            if enough || !is_final(&cell) || !cell.is_open(asked_as) {
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
            if !cell.is_open(asked_as) {
                return false;
            }
            if cell.grantable() >= demand.asked as i64 {
                continue;
            }
            if !is_final(&cell) {
                return false;
            }
            let available = cell.available();
            let (line, asked) = (demand.line, demand.asked);
            shorts.push(ShortLine { line, cell: CellHandle(demand.cell), asked, available });
        }
        if shorts.is_empty() {
            return false;
        }
        body(out, Code::NO_STOCK, 0, |out| shorts.iter().for_each(|short| short.encode(out)));
        true
    }

    /// A refusal of the request with this id is told as an event, so that the log must see it.
    pub fn samples(&self, id: &ReservationId) -> bool {
        is_sampled(&id.0, self.sample_refusals)
    }

    /// The time inside an id that nobody has used yet is one that a reserve at the log time `now`
    /// takes: neither older than the retention nor too far ahead. If not, the log says what it is.
    pub fn accepts_id(&self, id: &ReservationId, now: UnixMicros) -> bool {
        let (Some(born_ms), now_ms) = (id.born(), now.as_millis()) else { return true };
        !is_too_old(born_ms, now_ms, self.retention_ms) && !is_from_future(born_ms, now_ms)
    }

    /// Appends the outcome of READ_CELLS. Cells that are not there are marked as not found.
    pub fn read_cells(&self, cells: &Refs<'_>, out: &mut BytesMut) {
        body(out, Code::OK, 0, |out| {
            for cell in cells.iter() {
                let found = self.table.resolve(cell).ok();
                match found.and_then(|cell| Some((cell, self.table.read(cell)?))) {
                    Some((cell, value)) => put_cell(out, cell, &value),
                    None => {
                        out.put_u32_le(missing_handle(cell));
                        out.put_u32_le(0);
                        CellCounters::default().encode(out);
                    }
                }
            }
        });
    }

    /// Appends the outcome of READ_DETAILS. Cells that are not there are marked as not found.
    pub fn read_details(&self, cells: &Refs<'_>, out: &mut BytesMut) {
        body(out, Code::OK, 0, |out| {
            for cell in cells.iter() {
                let found = self.table.resolve(cell).ok();
                let found = found.and_then(|cell| Some((cell, self.table.read_details(cell)?)));
                let missing = || (missing_handle(cell), CellDetails::default());
                let (handle, details) = found.unwrap_or_else(missing);
                out.put_u32_le(handle);
                out.put_u32_le(u32::from(found.is_some()));
                details.encode(out);
            }
        });
    }

    /// Appends the outcome of LIST_CELLS: one page. Each cell is of one moment, not the page. Cells and
    /// rows of details are only ever added at the end, so that whoever pages sees each once.
    pub fn list_cells(&self, listing: &Listing<'_>, out: &mut BytesMut) {
        let filter = listing.filter;
        let end = match filter {
            Filter::All => self.table.count(),
            Filter::Low => self.table.details.count(),
        };
        put_page(listing, end, LIST_LOOK_CELLS, out, |at, out| {
            let cell = match filter {
                Filter::All => Some(at),
                Filter::Low => self.table.details.cell_of(at),
            };
            let listed = cell.and_then(|cell| self.listed(listing, cell));
            listed.map(|cell| cell.encode(out)).is_some()
        });
    }

    fn listed(&self, listing: &Listing<'_>, cell: u32) -> Option<ListedCell<'_>> {
        let (warehouse, sku) = self.table.key(cell)?;
        let warehouse = self.table.warehouses.name(warehouse.0)?;
        let sku = self.table.shown_name(sku)?;
        if !warehouse.starts_with(listing.warehouse) || !sku.starts_with(listing.sku) {
            return None;
        }
        let details = self.table.read_details(cell)?;
        let wanted = listing.filter == Filter::All || details.is_low();
        wanted.then_some(ListedCell { handle: CellHandle(cell), warehouse, sku, details })
    }

    /// Appends the outcome of READ_SKU: one page of the SKU's cells, those after the cell `after`,
    /// in the order of their handles, and the sum over all its cells. Each cell and the sum are of one
    /// moment, but not of the same unless nothing is applied meanwhile.
    pub fn read_sku(&self, sku: &[u8], after: Option<CellHandle>, out: &mut BytesMut) {
        let Some(sku) = self.table.sku(sku) else {
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
        self.show_reservation(id, Age::Remembered, out);
    }

    pub(super) fn show_reservation(&self, id: ReservationId, age: Age, out: &mut BytesMut) {
        let found = self.holds.find(&id, self.holds.hash(&id.0));
        let found = found.and_then(|handle| Some((handle, self.present_state(handle, age)?)));
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

    /// Appends the outcome of READ_LINES.
    pub fn read_lines(&self, id: ReservationId, out: &mut BytesMut) {
        self.show_lines(id, Age::Remembered, out);
    }

    pub(super) fn show_lines(&self, id: ReservationId, age: Age, out: &mut BytesMut) {
        let found = self.holds.find(&id, self.holds.hash(&id.0));
        let present = found.and_then(|handle| Some((handle, self.present_state(handle, age)?)));
        let Some((handle, state)) = present else {
            return body(out, Code::NOT_FOUND, 0, |_| ());
        };
        let record = self.holds.records.get(handle);
        body(out, Code::OK, state as u16, |out| {
            put_millis(out, crate::protocol::UnixMillis(record.created_ms));
            let has_deadline = state != ReservationState::Fenced;
            let deadline = has_deadline.then(|| self.clock.real(record.deadline));
            put_millis(out, deadline.unwrap_or_default());
            let pinned = record.is_pinned() && state == ReservationState::Active;
            out.put_u32_le(u32::from(pinned));
            out.put_u32_le(record.lines());
            for (line, units) in self.present_shares(handle) {
                out.put_u32_le(line.cell);
                units.encode(out);
            }
        });
    }

    /// Appends the outcome of READ_TRANSFER.
    pub fn read_transfer(&self, transfer: OpId, out: &mut BytesMut) {
        self.show_transfer(transfer, Age::Remembered, out);
    }

    pub(super) fn show_transfer(&self, transfer: OpId, age: Age, out: &mut BytesMut) {
        let id = ReservationId(transfer.0);
        let found = self.holds.find(&id, self.holds.hash(&id.0));
        let record = found.map(|handle| self.holds.records.get(handle));
        match record.and_then(|record| Some((record, record.standing()?))) {
            Some((record, standing @ Standing::Transfer(state)))
                if !standing.is_terminal()
                    || age == Age::Any
                    || self.clock.hold() < record.forget =>
            {
                put_transfer(Code::OK, state, &record.transfer(), &mut Outcomes::new(Some(out)));
            }
            _ => body(out, Code::NOT_FOUND, 0, |_| ()),
        }
    }

    /// Whether the deadline has passed that nobody has noticed.
    pub(super) fn is_unnoticed(&self, handle: u32) -> bool {
        let record = self.holds.records.get(handle);
        record.is(ReservationState::Active) && self.clock.is_due(record.deadline)
    }

    /// What a look-up would find of each line.
    fn present_shares(&self, handle: u32) -> Vec<(HeldLine, LineShares)> {
        let mut lines = self.holds.shares(handle);
        if self.is_unnoticed(handle) {
            for (_, units) in &mut lines {
                let due = std::mem::take(Place::Reserved.in_line(units));
                *Place::Expired.in_line(units) += due;
            }
        }
        lines
    }

    /// The state as a look-up would leave it; `None`: forgotten, or not a reservation.
    fn present_state(&self, handle: u32, age: Age) -> Option<ReservationState> {
        let record = self.holds.records.get(handle);
        let Some(Standing::Reservation(state)) = record.standing() else { return None };
        let (state, forget) = match self.is_unnoticed(handle) {
            true => {
                let lines = self.present_shares(handle).into_iter();
                let due = self.clock.due(record.deadline).0 + self.config.retention_ms;
                let state = state_of(&LineSums::over(lines.map(|(_, units)| units)));
                (state, record.forget.0.max(due))
            }
            false => (state, record.forget.0),
        };
        let over = Standing::Reservation(state).is_terminal();
        (!over || age == Age::Any || self.clock.hold().0 < forget).then_some(state)
    }
}

/// What a read shows of what is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// What is remembered still.
    Remembered,
    /// Also what is forgotten, and waits to be swept.
    Any,
}

/// Appends the outcome of a list: one page of the places up to `end`. At most `look` of them are looked at;
/// `put` appends what is at one, or says that it is not wanted.
pub(super) fn put_page(
    listing: &Listing<'_>,
    end: u32,
    look: u32,
    out: &mut BytesMut,
    mut put: impl FnMut(u32, &mut BytesMut) -> bool,
) {
    let stop = end.min(listing.from.saturating_add(look));
    body(out, Code::OK, 0, |out| {
        let head = out.len();
        out.put_bytes(0, ListHead::BYTES);
        let (mut cells, mut at) = (0, listing.from);
        while at < stop && cells < u32::from(listing.count) {
            cells += u32::from(put(at, out));
            at += 1;
        }
        let head_bytes = ListHead { next: (at < end).then_some(at), cells }.to_bytes();
        out[head..head + ListHead::BYTES].copy_from_slice(&head_bytes);
    });
}

/// How a reply names a cell that is not there: by the handle that was asked for, if it was one.
const fn missing_handle(cell: CellRef<'_>) -> u32 {
    match cell {
        CellRef::Handle(handle) => handle.0,
        CellRef::Name { .. } => u32::MAX,
    }
}

fn put_cell(out: &mut BytesMut, cell: u32, value: &Cell) {
    out.put_u32_le(cell);
    out.put_u32_le(1);
    value.counters().encode(out);
}
