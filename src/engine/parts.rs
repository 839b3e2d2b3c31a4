//! CONFIRM, RELEASE, CANCEL and FULFIL as far as they are about parts of a reservation, or about one that
//! was changed in part before.
//!
//! ```text
//! step done before ─▶ REPLAY / CONFLICT, or too late
//! else ─▶ by state ─▶ refuse, or nothing to do, or move these units ─▶ enough of them in each line?
//! ```
//!
//! `plan` is the table of states and operations; everything after it is the same for all of them.

use crate::protocol::event::EventKind;
use crate::protocol::limits::STEPS_MAX;
use crate::protocol::{
    Code, LineFault, LineShares, OpFlags, Opcode, Part, Parts, ReservationId, ReservationState,
};

use super::cell::Closed;
use super::hash::{mix2, to_32};
use super::holds::HeldLine;
use super::outcomes::{Outcomes, in_time};
use super::reserve::{Unmet, refuse_closed, refuse_stock};
use super::shares::{LineSums, Place, units_in};
use super::state::StockState;
use super::time::HoldMillis;

/// What an operation asks of a reservation.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub id: ReservationId,
    pub hash: u64,
    pub parts: Parts<'a>,
    pub flags: OpFlags,
    pub late: bool,
}

/// What an operation comes to, by the reservation's state.
#[derive(Clone, Copy)]
enum Plan {
    /// It changes nothing and says so.
    Answer(Code),
    /// Units that have expired are taken again.
    Reacquire(Place),
    /// Units move.
    Shift(&'static [Place], Place),
}

impl Plan {
    /// Where the units are that it moves.
    const fn from(self) -> &'static [Place] {
        match self {
            Self::Answer(_) => &[],
            Self::Reacquire(_) => &[Place::Expired],
            Self::Shift(from, _) => from,
        }
    }
}

impl StockState {
    /// CANCEL and FULFIL.
    pub(super) fn shift_known(
        &mut self,
        opcode: Opcode,
        asked: &Asked<'_>,
        out: &mut Outcomes<'_>,
    ) {
        let found = self.reservation(&asked.id, asked.hash, asked.late, out);
        let Some((handle, state)) = found else { return };
        let annexed = self.holds.records.get(handle).is_annexed();
        if state != ReservationState::Confirmed || annexed || asked.late || !asked.parts.is_whole()
        {
            return self.shift(opcode, handle, state, asked, out);
        }
        // The common case: all that was promised, at once.
        let to = if opcode == Opcode::Cancel { Place::Cancelled } else { Place::Fulfilled };
        let (places, forget) = ((&[Place::Committed][..], to), self.forget_if_over());
        self.holds.shift_whole(&mut self.cells, handle, kind_of(to), places, forget);
        out.state(Code::OK, self.holds.state(handle));
    }

    /// Does it, or says why not.
    #[inline(never)]
    pub(super) fn shift(
        &mut self,
        opcode: Opcode,
        handle: u32,
        state: ReservationState,
        asked: &Asked<'_>,
        out: &mut Outcomes<'_>,
    ) {
        let (parts, annex) = (asked.parts, self.holds.annex(handle));
        let print = print(&parts);
        let plan = plan(opcode, state, &self.holds.sums(handle), asked);
        if let Some(annex) = annex
            && let Some(done) = self.holds.annexes.step(annex, opcode, parts.step())
        {
            // Done whole, it was done to all that was there then: it must not seem to be done to what came since.
            let is_done = done == print && !(parts.is_whole() && self.has_more(handle, plan));
            let code = if is_done { Code::REPLAY } else { in_time(Code::CONFLICT, asked.late) };
            return out.state(code, state);
        }
        match plan {
            Plan::Answer(Code::REPLAY) => return out.state(Code::REPLAY, state),
            _ if asked.late => return out.state(Code::DEADLINE_PASSED, state),
            Plan::Answer(Code::QTY_EXCEEDS) => return out.plain(Code::QTY_EXCEEDS, 0),
            Plan::Answer(code) => return out.state(code, state),
            Plan::Reacquire(_) | Plan::Shift(..) => {}
        }
        let lines = self.holds.shares(handle);
        let from = plan.from();
        let wanted = match parts.is_whole() {
            true => all_in(from, &lines),
            false => parts.iter().collect(),
        };
        let lacks = |part: &&Part| match lines.get(usize::from(part.line)) {
            Some((_, units)) => units_in(from, *units) < u64::from(part.quantity),
            None => true,
        };
        if wanted.iter().any(|part| lacks(&part)) {
            return out.body(Code::QTY_EXCEEDS, 0, |out| {
                let faults = wanted.iter().filter(lacks);
                faults.for_each(|part| LineFault { line: part.line }.encode(out));
            });
        }
        let in_steps = |annex| self.holds.annexes.is_in_steps(annex);
        let remember = !parts.is_whole() || annex.is_some_and(in_steps);
        let full = |annex| self.holds.annexes.step_count(annex) >= STEPS_MAX;
        if !parts.is_whole() && annex.is_some_and(full) {
            return out.plain(Code::OVERFLOW, 0);
        }
        let (handle, code) = match plan {
            Plan::Shift(from, to) => {
                let code = match to {
                    Place::Released => Code::OK,
                    _ => self.code_of_shift(handle, from, &wanted, &lines),
                };
                let forget = self.forget_if_over();
                if parts.is_whole() {
                    self.holds.shift_whole(
                        &mut self.cells,
                        handle,
                        kind_of(to),
                        (from, to),
                        forget,
                    );
                } else {
                    self.holds.shift_parts(
                        &mut self.cells,
                        handle,
                        kind_of(to),
                        &wanted,
                        (from, to),
                        forget,
                    );
                }
                (handle, code)
            }
            Plan::Reacquire(to) => match self.reacquire(handle, (&wanted, to), &lines, out) {
                Some(handle) => (handle, Code::OK_REACQUIRED),
                None => return,
            },
            Plan::Answer(_) => unreachable!("answered above"),
        };
        if remember {
            let annex = self.holds.make_annex(handle);
            self.holds.annexes.add_step(annex, opcode, parts.step(), print);
        }
        out.state(code, self.holds.state(handle));
    }

    /// Are there units that the plan would move?
    fn has_more(&self, handle: u32, plan: Plan) -> bool {
        let more = |(_, units): &(HeldLine, LineShares)| units_in(plan.from(), *units) > 0;
        self.holds.shares(handle).iter().any(more)
    }

    /// LATE is said of units that leave `reserved` for good after the deadline.
    fn code_of_shift(
        &self,
        handle: u32,
        from: &[Place],
        wanted: &[Part],
        lines: &[(HeldLine, LineShares)],
    ) -> Code {
        let late = self.clock.is_late(self.holds.records.get(handle).deadline);
        // What is not taken from the places before `reserved` comes from there.
        let before = from.iter().position(|place| *place == Place::Reserved);
        let takes_reserved = before.is_some_and(|before| {
            let from = &from[..before];
            wanted.iter().any(|part| {
                units_in(from, lines[usize::from(part.line)].1) < u64::from(part.quantity)
            })
        });
        if late && takes_reserved { Code::OK_LATE } else { Code::OK }
    }

    /// Takes units again that have expired. The reservation may go on under another handle; `None`: it
    /// cannot be, which has been said.
    fn reacquire(
        &mut self,
        handle: u32,
        (wanted, to): (&[Part], Place),
        lines: &[(HeldLine, LineShares)],
        out: &mut Outcomes<'_>,
    ) -> Option<u32> {
        // It was his already, and it is paid: of the limits of owners, only the one that bounds a walk is in the
        // way, and late.
        let comes_back = self.holds.records.get(handle).is_terminal();
        if comes_back
            && let Some(owner) = self.holds.owner_of(handle)
            && let Err(reached) = self.check_open(owner, 2)
        {
            self.refuse_owner(reached, out);
            return None;
        }
        let cell_of = |part: &Part| lines[usize::from(part.line)].0.cell;
        let frozen = |part: &&Part| !self.cells.get(cell_of(part)).is_open(Closed::TO_ALL);
        let frozen: Vec<u16> = wanted.iter().filter(frozen).map(|part| part.line).collect();
        if !frozen.is_empty() {
            refuse_closed(&frozen, out);
            return None;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.demands.sum(wanted.iter().map(|part| HeldLine {
            line: part.line,
            cell: cell_of(part),
            quantity: part.quantity,
        }));
        let checked = self.check_stock(&mut scratch, Closed::asked(true, true));
        match &checked {
            Ok(()) => {}
            Err(Unmet::Short) => refuse_stock(&scratch.shorts, out),
            Err(Unmet::Overflow) => out.plain(Code::OVERFLOW, 0),
            Err(Unmet::Closed(_) | Unmet::Nameless(_)) => unreachable!("frozen cells were refused"),
        }
        self.scratch = scratch;
        checked.ok()?;
        // From here on the units are taken.
        self.holds.make_shares(handle);
        let handle = if comes_back {
            // A record that is over waits in a group or a bucket, and cannot leave it.
            let held: Vec<HeldLine> = lines.iter().map(|(line, _)| *line).collect();
            let state = ReservationState::Confirmed;
            self.holds.replace(&mut self.cells, handle, state, &held)
        } else {
            handle
        };
        let (places, forget) = ((&[Place::Expired][..], to), self.forget_if_over());
        let kind = EventKind::Reacquired;
        self.holds.shift_parts(&mut self.cells, handle, kind, wanted, places, forget);
        Some(handle)
    }

    fn forget_if_over(&self) -> HoldMillis {
        HoldMillis(self.clock.hold().0 + self.config.retention_ms)
    }
}

/// The table: what the operation comes to for a reservation in this state.
fn plan(opcode: Opcode, state: ReservationState, sums: &LineSums, asked: &Asked<'_>) -> Plan {
    use ReservationState::{Active, Cancelled, Confirmed, Expired, Fenced, Fulfilled, Released};
    let whole = asked.parts.is_whole();
    let ship = asked.flags.contains(OpFlags::SHIP);
    let reacquire = asked.flags.contains(OpFlags::REACQUIRE);
    let came_whole = sums.released == 0 && sums.expired == 0;
    let committed = &[Place::Committed];
    let reserved = &[Place::Reserved];
    match (opcode, state) {
        (Opcode::Release, Released | Fenced) if whole => Plan::Answer(Code::REPLAY),
        (_, Released | Fenced) => Plan::Answer(Code::HOLD_RELEASED),
        (Opcode::Release, Expired) if whole => Plan::Answer(Code::OK),
        (Opcode::Confirm, Expired) if reacquire => Plan::Reacquire(Place::Committed),
        (Opcode::Fulfil, Expired) if reacquire && ship => Plan::Reacquire(Place::Fulfilled),
        (_, Expired) => Plan::Answer(Code::HOLD_EXPIRED),

        (Opcode::Confirm, Active) => Plan::Shift(reserved, Place::Committed),
        (Opcode::Confirm, _) if reacquire && sums.expired > 0 => Plan::Reacquire(Place::Committed),
        (Opcode::Confirm, _) if !whole => Plan::Shift(reserved, Place::Committed),
        (Opcode::Confirm, _) if came_whole => Plan::Answer(Code::REPLAY),
        (Opcode::Confirm, _) => Plan::Answer(Code::CONFLICT),

        (Opcode::Release, Active) => Plan::Shift(reserved, Place::Released),
        (Opcode::Release, _) => Plan::Answer(Code::HOLD_CONFIRMED),

        (Opcode::Fulfil, Active) if ship => {
            Plan::Shift(&[Place::Committed, Place::Reserved], Place::Fulfilled)
        }
        (_, Active) if sums.committed == 0 => Plan::Answer(Code::NOT_CONFIRMED),

        (Opcode::Cancel, Cancelled) if whole => Plan::Answer(Code::REPLAY),
        (Opcode::Cancel, Fulfilled) if whole => Plan::Answer(Code::QTY_EXCEEDS),
        (Opcode::Cancel, _) => Plan::Shift(committed, Place::Cancelled),

        (Opcode::Fulfil, Cancelled) => Plan::Answer(Code::HOLD_RELEASED),
        (Opcode::Fulfil, Fulfilled) if whole => Plan::Answer(Code::REPLAY),
        (Opcode::Fulfil, Active | Confirmed | Fulfilled) => {
            Plan::Shift(committed, Place::Fulfilled)
        }
        _ => unreachable!("{opcode:?} moves no units"),
    }
}

/// What it is called when units get there.
const fn kind_of(to: Place) -> EventKind {
    match to {
        Place::Reserved => EventKind::Reserved,
        Place::Committed => EventKind::Confirmed,
        Place::Fulfilled => EventKind::Fulfilled,
        Place::Released => EventKind::Released,
        Place::Expired => EventKind::Expired,
        Place::Cancelled => EventKind::Cancelled,
    }
}

/// Everything that is in one of `from`, line by line.
fn all_in(from: &[Place], lines: &[(HeldLine, LineShares)]) -> Vec<Part> {
    let parts = (0..).zip(lines).map(|(line, (_, units))| {
        // A line's units sum to what it asked for, which is 32 bits.
        Part { line, quantity: units_in(from, *units) as u32 }
    });
    parts.filter(|part| part.quantity > 0).collect()
}

/// 32 bits over the parts, so that a step with other parts is caught.
fn print(parts: &Parts<'_>) -> u32 {
    let start = parts.len() as u64;
    let words = parts.iter().map(|part| u64::from(part.line) << 32 | u64::from(part.quantity));
    let hash = words.fold(start, |hash, word| mix2(0, hash, word));
    to_32(hash)
}
