//! AMEND: a reservation gets other lines, or keeps those it has.
//!
//! Its own units count as available to it, so that nobody loses a unit to somebody else by asking for one
//! more, and a refusal changes nothing.

use crate::protocol::event::EventKind;
use crate::protocol::limits::STEPS_MAX;
use crate::protocol::{Code, Lines, Opcode, OwnerBound, ReservationId, ReservationState};

use super::cell::Closed;
use super::events::until;
use super::holds::HeldLine;
use super::lifecycle::refusal_if_not_active;
use super::outcomes::{Outcomes, in_time, put_millis};
use super::record::Standing;
use super::reserve::{
    Demand, Scratch, fingerprint, put_handles, refuse_bound, refuse_names, refuse_unmet, resolve,
};
use super::state::StockState;

impl StockState {
    pub(super) fn amend(
        &mut self,
        id: ReservationId,
        hash: u64,
        step: u32,
        lines: Lines<'_>,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.amend_with(&mut scratch, (id, hash, step), lines, late, out);
        self.scratch = scratch;
    }

    fn amend_with(
        &mut self,
        scratch: &mut Scratch,
        (id, hash, step): (ReservationId, u64, u32),
        lines: Lines<'_>,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let resolved = resolve(self.cells.table(), lines, &mut scratch.lines);
        let print = resolved.is_ok().then(|| fingerprint(&scratch.lines, step));
        let found = self.look_up(&id, hash);
        let standing = found.and_then(|handle| self.holds.records.get(handle).standing());
        let state = match standing {
            None => None,
            Some(Standing::Reservation(state)) => Some(state),
            Some(_) => {
                return out.plain(in_time(Code::ID_REUSED, late), 0);
            }
        };
        if let (Some(handle), Some(state)) = (found, state)
            && let Some(done) = self.step_done(handle, step)
        {
            return match print == Some(done) {
                true => self.put_amended(Code::REPLAY, handle, lines, scratch, out),
                false => out.state(in_time(Code::CONFLICT, late), state),
            };
        }
        let detail = state.map_or(0, |state| state as u16);
        if late {
            return out.plain(Code::DEADLINE_PASSED, detail);
        }
        if found.is_none() && self.is_too_old(&id) {
            return out.plain(Code::ID_TOO_OLD, 0);
        }
        if let Err((line, missing)) = resolved {
            return refuse_names(self.cells.table(), lines, line, missing, out);
        }
        let (Some(handle), Some(state)) = (found, state) else {
            return out.plain(Code::NOT_FOUND, 0);
        };
        if let Some(code) = refusal_if_not_active(state) {
            return out.state(code, state);
        }
        let shares = self.holds.shares(handle);
        let promised =
            |units: u32, committed: u32, cancelled: u32| units + committed + cancelled > 0;
        if shares.iter().any(|(_, own)| promised(own.fulfilled, own.committed, own.cancelled)) {
            return out.state(Code::HOLD_CONFIRMED, state);
        }
        scratch.demands.sum(scratch.lines.iter().copied());
        for demand in &mut scratch.demands.sums {
            let own = shares.iter().filter(|(line, _)| line.cell == demand.cell);
            demand.own = own.map(|(_, units)| u64::from(units.reserved)).sum();
        }
        let owner = self.holds.owner_of(handle);
        if let Some(owner) = owner
            && let Err(reached) = self.check_amend(owner, handle, scratch)
        {
            return self.refuse_owner(reached, out);
        }
        if let Err(unmet) = self.check_stock(scratch, Closed::asked(false, owner.is_some())) {
            return refuse_unmet(&unmet, scratch, out);
        }
        let rooms = self.rooms(owner);
        let over = |demand: &&Demand| {
            let more = demand.asked as i64 - demand.own as i64;
            more > 0 && rooms.of(demand.cell).is_some_and(|room| more > room)
        };
        let over: Vec<u16> =
            scratch.demands.sums.iter().filter(over).map(|demand| demand.line).collect();
        if !over.is_empty() {
            return refuse_bound(OwnerBound::Cell, &over, out);
        }
        let annex = self.holds.annex(handle);
        if annex.is_some_and(|annex| self.holds.annexes.step_count(annex) >= STEPS_MAX) {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on the reservation has the new lines.
        let deadline_ms = self.clock.ms_until(self.holds.records.get(handle).deadline);
        let cause = until(EventKind::Amended, id, deadline_ms);
        for (line, units) in shares.iter().filter(|(_, units)| units.reserved > 0) {
            let own = i64::from(units.reserved);
            self.cells.update(line.cell, &cause, |cell| cell.reserved -= own);
        }
        let lines_now: &[HeldLine] = &scratch.lines;
        for line in lines_now {
            let more = i64::from(line.quantity);
            self.cells.update(line.cell, &cause, |cell| cell.reserved += more);
        }
        let annex = self.holds.make_annex(handle);
        self.holds.annexes.drop_shares(annex);
        let active = ReservationState::Active;
        let handle = self.holds.replace(&mut self.cells, handle, active, lines_now);
        let print = fingerprint(lines_now, step);
        self.holds.annexes.add_step(annex, Opcode::Amend, step, print);
        self.put_amended(Code::OK, handle, lines, scratch, out);
    }

    fn step_done(&self, handle: u32, step: u32) -> Option<u32> {
        self.holds.annexes.step(self.holds.annex(handle)?, Opcode::Amend, step)
    }

    fn put_amended(
        &self,
        code: Code,
        handle: u32,
        lines: Lines<'_>,
        scratch: &Scratch,
        out: &mut Outcomes<'_>,
    ) {
        let deadline = self.clock.real(self.holds.records.get(handle).deadline);
        out.body(code, self.holds.state(handle) as u16, |out| {
            put_millis(out, deadline);
            put_handles(out, lines, &scratch.lines);
        });
    }
}
