//! RESERVE: check every line, then take every line, or refuse and take none.
//!
//! ```text
//! known id ─▶ REPLAY / ID_REUSED / HOLD_RELEASED
//! unknown  ─▶ not_after ─▶ id's age ─▶ ttl ─▶ names ─▶ frozen ─▶ stock ─▶ range ─▶ grant
//! ```
//!
//! A refusal leaves no trace of the id: it may be asked again and granted. It may leave due
//! reservations expired, which they were by then anyway.

use bytes::{BufMut, BytesMut};

use crate::protocol::event::{Cause, EventBody, EventKind};
use crate::protocol::limits::{TTL_MS_DEFAULT, TTL_MS_MAX, TTL_MS_MIN};
use crate::protocol::{
    CellHandle, Code, LineFault, Lines, OwnerBound, ReservationId, ReservationState, ShortLine,
};

use super::cell::Closed;
use super::cell_writer::CellWriter;
use super::cells::{CellTable, Missing};
use super::hash::{mix2, to_32};
use super::holds::HeldLine;
use super::outcomes::{Outcomes, in_time, put_millis};
use super::record::{Record, Standing};
use super::state::StockState;
use super::time::{HoldMillis, is_from_future, is_too_old};

/// Buffers that are used again for every reserve.
#[derive(Default)]
pub(super) struct Scratch {
    pub lines: Vec<HeldLine>,
    pub demands: Demands,
    pub shorts: Vec<ShortLine>,
}

/// What a request asks of one cell: its lines on that cell, summed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// The first line that names the cell.
    pub line: u16,
    pub cell: u32,
    pub asked: u64,
    /// Units of the cell that the reservation has already.
    pub own: u64,
}

/// The demands of a request, each cell once, in the order of their first lines.
#[derive(Default)]
pub(super) struct Demands {
    pub sums: Vec<Demand>,
}

impl Demands {
    /// Sums lines by cell.
    #[inline]
    pub fn sum(&mut self, lines: impl Iterator<Item = HeldLine>) {
        self.sums.clear();
        self.sums.extend(lines.map(|held| Demand {
            line: held.line,
            cell: held.cell,
            asked: u64::from(held.quantity),
            own: 0,
        }));
        if self.sums.len() > 1 {
            self.sums.sort_unstable_by_key(|demand| (demand.cell, demand.line));
            self.sums.dedup_by(|later, first| {
                let same = later.cell == first.cell;
                first.asked += if same { later.asked } else { 0 };
                same
            });
            self.sums.sort_unstable_by_key(|demand| demand.line);
        }
    }
}

/// Why a demand is not met.
pub(super) enum Unmet {
    /// These cells take no holds.
    Closed(Vec<u32>),
    /// These cells are sold to owners only.
    Nameless(Vec<u32>),
    /// A sum would leave its range.
    Overflow,
    /// Too few units: see `Scratch::shorts`.
    Short,
}

/// A ttl as asked for, or the default for 0.
#[inline]
pub(super) fn ttl_or_default(ttl_ms: u32) -> u64 {
    u64::from(if ttl_ms == 0 { TTL_MS_DEFAULT } else { ttl_ms })
}

/// A ttl as asked for, or the default for 0; `None` if it is out of range.
#[inline]
pub(super) fn ttl_checked(ttl_ms: u32) -> Option<u64> {
    let in_range = ttl_ms == 0 || (TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms);
    in_range.then(|| ttl_or_default(ttl_ms))
}

impl StockState {
    #[inline]
    pub(super) fn reserve(
        &mut self,
        id: ReservationId,
        hash: u64,
        ttl_ms: u32,
        lines: Lines<'_>,
        (commit, late): (bool, bool),
        out: &mut Outcomes<'_>,
    ) {
        // Taken out so that the checks below may borrow the state; no allocation either way.
        let mut scratch = std::mem::take(&mut self.scratch);
        self.reserve_with(&mut scratch, id, hash, ttl_ms, lines, (commit, late), out);
        self.scratch = scratch;
    }

    #[inline]
    #[expect(clippy::too_many_arguments, reason = "one caller, a line above")]
    fn reserve_with(
        &mut self,
        scratch: &mut Scratch,
        id: ReservationId,
        hash: u64,
        ttl_ms: u32,
        lines: Lines<'_>,
        (commit, late): (bool, bool),
        out: &mut Outcomes<'_>,
    ) {
        if let Some(handle) = self.look_up(&id, hash) {
            return self.reserve_again(scratch, handle, (ttl_ms, lines), late, out);
        }
        if late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&id) {
            return out.plain(code, 0);
        }
        let Some(ttl) = ttl_checked(ttl_ms) else { return out.plain(Code::TTL_RANGE, 0) };
        if let Err((line, missing)) = resolve(self.cells.table(), lines, &mut scratch.lines) {
            return refuse_names(self.cells.table(), lines, line, missing, out);
        }
        scratch.demands.sum(scratch.lines.iter().copied());
        if let Err(unmet) = self.check_stock(scratch, Closed::asked(commit, false)) {
            return refuse_unmet(&unmet, scratch, out);
        }
        // From here on the grant succeeds.
        let print = fingerprint(&scratch.lines, ttl_ms);
        let handle = self.grant((id, hash), (ttl, print), (commit, &[]), &scratch.lines);
        let record = self.holds.records.get(handle);
        let deadline = self.clock.real(record.deadline);
        out.body(Code::OK, self.holds.state(handle) as u16, |out| {
            put_millis(out, deadline);
            put_handles(out, lines, &scratch.lines);
        });
    }

    /// Takes the units of lines that were checked, for a reservation; its handle.
    ///
    /// # Panics
    /// They were not checked, or wrongly.
    #[inline]
    pub(super) fn grant(
        &mut self,
        (id, hash): (ReservationId, u64),
        (ttl, fingerprint): (u64, u32),
        (commit, owner): (bool, &[u8]),
        lines: &[HeldLine],
    ) -> u32 {
        let state = if commit { ReservationState::Confirmed } else { ReservationState::Active };
        let record = Record {
            created_ms: self.clock.now.as_millis(),
            deadline: self.clock.deadline_after(ttl),
            forget: HoldMillis(self.clock.born(&id).0 + self.config.retention_ms),
            fingerprint,
            ..Record::new(id, Standing::Reservation(state))
        };
        let due = (!commit).then(|| record.deadline.tick());
        let deadline_ms = (!commit).then(|| self.clock.ms_until(record.deadline));
        let mut cause = Cause { deadline_ms, ..Cause::new(EventKind::Reserved, id) };
        if !owner.is_empty() {
            cause.body = EventBody::Owner(owner);
        }
        for line in lines {
            self.cells.take(line.cell, line.quantity, due, &cause);
            cause.body = EventBody::None;
        }
        self.holds.insert(&mut self.cells, record, hash, lines)
    }

    /// The id is known: the answer is what became of it, if it was asked for the same.
    #[cold]
    fn reserve_again(
        &mut self,
        scratch: &mut Scratch,
        handle: u32,
        (ttl_ms, lines): (u32, Lines<'_>),
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let record = self.holds.records.get(handle);
        let Some(Standing::Reservation(state)) = record.standing() else {
            return out.plain(in_time(Code::ID_REUSED, late), 0);
        };
        if state == ReservationState::Fenced {
            return out.state(in_time(Code::HOLD_RELEASED, late), state);
        }
        let same = resolve(self.cells.table(), lines, &mut scratch.lines).is_ok()
            && fingerprint(&scratch.lines, ttl_ms) == record.fingerprint;
        if !same {
            return out.state(in_time(Code::ID_REUSED, late), state);
        }
        let deadline = self.clock.real(record.deadline);
        out.body(Code::REPLAY, state as u16, |out| {
            put_millis(out, deadline);
            put_handles(out, lines, &scratch.lines);
        });
    }

    /// An id that is not known: too old to say whether it ever was, or from the future?
    #[inline]
    pub(super) fn check_new_id(&self, id: &ReservationId) -> Result<(), Code> {
        let now_ms = self.clock.now.as_millis();
        if self.is_too_old(id) {
            Err(Code::ID_TOO_OLD)
        } else if id.born().is_some_and(|born_ms| is_from_future(born_ms, now_ms)) {
            Err(Code::CLOCK_SKEW)
        } else {
            Ok(())
        }
    }

    /// An id of this age may have been forgotten. One that does not tell its age is not known to be.
    #[inline]
    pub(super) fn is_too_old(&self, id: &ReservationId) -> bool {
        let now_ms = self.clock.now.as_millis();
        id.born().is_some_and(|born_ms| is_too_old(born_ms, now_ms, self.config.retention_ms))
    }

    /// Every cell has what is asked of it beyond what the reservation has there already, if need be
    /// after its due reservations have expired.
    ///
    /// # Errors
    /// Not so; short cells are in `scratch.shorts`.
    #[inline]
    pub(super) fn check_stock(
        &mut self,
        scratch: &mut Scratch,
        asked: Closed,
    ) -> Result<(), Unmet> {
        scratch.shorts.clear();
        let Self { holds, cells, clock, config, .. } = self;
        let (mut open, mut in_range) = (true, true);
        for demand in &scratch.demands.sums {
            let more = demand.asked as i64 - demand.own as i64;
            if more <= 0 {
                continue;
            }
            let (cell, room) = cells.get_with_room(demand.cell);
            open &= cell.is_open(asked);
            in_range &= room >= more;
            let enough = cell.grantable() >= more
                || holds.reclaim(cells, clock, config.retention_ms, demand.cell, more);
            if !enough {
                scratch.shorts.push(ShortLine {
                    line: demand.line,
                    cell: CellHandle(demand.cell),
                    asked: demand.asked,
                    available: demand.own as i64,
                });
            }
        }
        if !open {
            return Err(closed_cells(cells, &scratch.demands, asked));
        }
        // Reclaiming for a later line may have freed units of an earlier one: look once more.
        scratch.shorts.retain_mut(|short| {
            let cell = cells.get(short.cell.0);
            let more = short.asked as i64 - short.available;
            short.available += cell.available();
            cell.grantable() < more
        });
        match scratch.shorts.is_empty() {
            false => Err(Unmet::Short),
            true if in_range && scratch.demands.sums.len() == 1 => Ok(()),
            true if fit_together(cells, &scratch.demands) => Ok(()),
            true => {
                scratch.demands.sums.iter().for_each(|demand| self.reclaim_sku(demand.cell));
                let fits = fit_together(&self.cells, &scratch.demands);
                if fits { Ok(()) } else { Err(Unmet::Overflow) }
            }
        }
    }
}

#[cold]
fn closed_cells(cells: &CellWriter, demands: &Demands, asked: Closed) -> Unmet {
    let closed = |asked: Closed| -> Vec<u32> {
        let wanted = demands.sums.iter().filter(|demand| demand.asked > demand.own);
        wanted.map(|demand| demand.cell).filter(|cell| !cells.get(*cell).is_open(asked)).collect()
    };
    let frozen = closed(asked.but_nameless());
    if frozen.is_empty() { Unmet::Nameless(closed(asked)) } else { Unmet::Closed(frozen) }
}

/// No sum over a SKU leaves its range by all demands together. Cells of one SKU share its room.
pub(super) fn fit_together(cells: &CellWriter, demands: &Demands) -> bool {
    let more = |demand: &Demand| demand.asked as i64 - demand.own as i64;
    let all: i64 = demands.sums.iter().map(|demand| more(demand).max(0)).sum();
    // A cart is small beside the range: only near its end must it be looked at closely.
    demands.sums.iter().all(|demand| {
        let room = cells.room(demand.cell);
        room >= all || {
            let sku = cells.sku(demand.cell);
            let same = demands.sums.iter().filter(|other| cells.sku(other.cell) == sku);
            room >= more(demand) && cells.room_of_sku(demand.cell) >= same.map(more).sum()
        }
    })
}

/// Finds the cells of all lines; the first line without one, if any.
#[inline]
pub(super) fn resolve(
    table: &CellTable,
    lines: Lines<'_>,
    resolved: &mut Vec<HeldLine>,
) -> Result<(), (u16, Missing)> {
    resolved.clear();
    for (at, line) in lines.iter().enumerate() {
        match table.resolve(line.cell) {
            Ok(cell) => {
                resolved.push(HeldLine { line: at as u16, cell, quantity: line.quantity });
            }
            Err(missing) => return Err((at as u16, missing)),
        }
    }
    Ok(())
}

/// Names every line that has the same fault as the first faulty one.
#[cold]
pub(super) fn refuse_names(
    table: &CellTable,
    lines: Lines<'_>,
    first: u16,
    missing: Missing,
    out: &mut Outcomes<'_>,
) {
    out.body(missing.code(), first, |out| {
        for (at, line) in lines.iter().enumerate() {
            if table.resolve(line.cell) == Err(missing) {
                LineFault { line: at as u16 }.encode(out);
            }
        }
    });
}

/// Says what is wrong with the lines of a reserve or an amend.
#[cold]
pub(super) fn refuse_unmet(unmet: &Unmet, scratch: &Scratch, out: &mut Outcomes<'_>) {
    let lines_on = |cells: &[u32]| -> Vec<u16> {
        let lines = (0..).zip(&scratch.lines).filter(|(_, line)| cells.contains(&line.cell));
        lines.map(|(line, _)| line).collect()
    };
    match unmet {
        Unmet::Closed(cells) => refuse_closed(&lines_on(cells), out),
        Unmet::Nameless(cells) => {
            refuse_bound(OwnerBound::Nameless, &lines_on(cells), out);
        }
        Unmet::Overflow => out.plain(Code::OVERFLOW, 0),
        Unmet::Short => refuse_stock(&scratch.shorts, out),
    }
}

/// Names the lines on cells that take no holds.
pub(super) fn refuse_closed(lines: &[u16], out: &mut Outcomes<'_>) {
    let first = lines.first().copied().unwrap_or_default();
    out.body(Code::FROZEN, first, |out| put_lines(out, lines));
}

/// Names the lines that a limit of an owner is in the way of.
pub(super) fn refuse_bound(bound: OwnerBound, lines: &[u16], out: &mut Outcomes<'_>) {
    out.body(Code::OWNER_LIMIT, bound as u16, |out| put_lines(out, lines));
}

fn put_lines(out: &mut BytesMut, lines: &[u16]) {
    lines.iter().for_each(|line| LineFault { line: *line }.encode(out));
}

pub(super) fn refuse_stock(shorts: &[ShortLine], out: &mut Outcomes<'_>) {
    out.body(Code::NO_STOCK, 0, |out| shorts.iter().for_each(|short| short.encode(out)));
}

/// A request that named cells learns their handles.
pub(super) fn put_handles(out: &mut BytesMut, lines: Lines<'_>, resolved: &[HeldLine]) {
    if lines.is_named() {
        resolved.iter().for_each(|line| out.put_u32_le(line.cell));
    }
}

/// 32 bits over what was asked for, so that an id used with another body is caught.
#[inline]
pub(super) fn fingerprint(lines: &[HeldLine], ttl_ms: u32) -> u32 {
    let start = u64::from(ttl_ms) << 32 | lines.len() as u64;
    let words = lines.iter().map(|line| u64::from(line.cell) << 32 | u64::from(line.quantity));
    let hash = words.fold(start, |hash, word| mix2(0, hash, word));
    to_32(hash)
}
