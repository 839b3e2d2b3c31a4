//! What may become of a reservation as a whole: CONFIRM, RELEASE, EXTEND, PIN.
//!
//! ```text
//!             CONFIRM (LATE inside the grace)
//!   ACTIVE ──────────────────────────────────▶ CONFIRMED ── FULFIL ──▶ FULFILLED
//!     │ ▲└─ EXTEND, PIN: a later deadline          └─────── CANCEL ──▶ CANCELLED
//!     │ └── RESERVE grants
//!     ├──────── RELEASE ─────────▶ RELEASED
//!     └── due ─────────────────▶ EXPIRED        unknown ── RELEASE ──▶ FENCED
//! ```
//!
//! What moves in part, and what CANCEL and FULFIL do, is in parts.rs.
//!
//! When `not_after` has passed, what was done before is still answered with REPLAY; anything else is
//! DEADLINE_PASSED and changes nothing.

use crate::protocol::event::{Cause, EventKind};
use crate::protocol::limits::{PIN_MS_MAX, TTL_MS_MIN};
use crate::protocol::{Code, Opcode, ReservationId, ReservationState};

use super::events::until;
use super::holds::trace;
use super::outcomes::{Outcomes, in_time, put_millis};
use super::parts::Asked;
use super::record::Standing;
use super::reserve::ttl_checked;
use super::shares::Place;
use super::state::StockState;
use super::time::HoldMillis;

impl StockState {
    /// The reservation and its state; `None`: there is none, which has been said.
    #[inline]
    pub(super) fn reservation(
        &mut self,
        id: &ReservationId,
        hash: u64,
        late: bool,
        out: &mut Outcomes<'_>,
    ) -> Option<(u32, ReservationState)> {
        let found = self.look_up(id, hash);
        self.reservation_at(found, id, late, out)
    }

    /// As [`StockState::reservation`], for an id that was looked up.
    #[inline]
    fn reservation_at(
        &mut self,
        found: Option<u32>,
        id: &ReservationId,
        late: bool,
        out: &mut Outcomes<'_>,
    ) -> Option<(u32, ReservationState)> {
        let code = match found {
            Some(handle) => match self.holds.records.get(handle).standing() {
                Some(Standing::Reservation(state)) => return Some((handle, state)),
                _ => in_time(Code::ID_REUSED, late),
            },
            None if late => Code::DEADLINE_PASSED,
            None if self.is_too_old(id) => Code::ID_TOO_OLD,
            None => Code::NOT_FOUND,
        };
        out.plain(code, 0);
        None
    }

    /// CONFIRM: the common case is that all of it is confirmed in time.
    #[inline]
    pub(super) fn confirm(&mut self, asked: &Asked<'_>, out: &mut Outcomes<'_>) {
        use ReservationState::{Active, Confirmed, Released};
        let found = self.reservation(&asked.id, asked.hash, asked.late, out);
        let Some((handle, state)) = found else { return };
        if !asked.parts.is_whole() || self.holds.records.get(handle).is_annexed() {
            return self.shift(Opcode::Confirm, handle, state, asked, out);
        }
        match state {
            Confirmed => out.state(Code::REPLAY, state),
            Released if !asked.late => out.state(Code::HOLD_RELEASED, state),
            Active if !asked.late => {
                let in_grace = self.clock.is_late(self.holds.records.get(handle).deadline);
                let places = (Place::Reserved, Place::Committed);
                let kind = EventKind::Confirmed;
                self.holds.shift_alike(&mut self.cells, handle, kind, places, HoldMillis(0));
                out.state(if in_grace { Code::OK_LATE } else { Code::OK }, Confirmed);
            }
            _ => self.shift(Opcode::Confirm, handle, state, asked, out),
        }
    }

    /// RELEASE: the common case is that all of it is given back.
    #[inline]
    pub(super) fn release(&mut self, asked: &Asked<'_>, out: &mut Outcomes<'_>) {
        use ReservationState::{Active, Confirmed, Released};
        let found = self.look_up(&asked.id, asked.hash);
        if found.is_none() && asked.parts.is_whole() {
            return self.fence(asked, out);
        }
        let found = self.reservation_at(found, &asked.id, asked.late, out);
        let Some((handle, state)) = found else { return };
        if !asked.parts.is_whole() || self.holds.records.get(handle).is_annexed() {
            return self.shift(Opcode::Release, handle, state, asked, out);
        }
        match state {
            Released => out.state(Code::REPLAY, state),
            Active if !asked.late => {
                let forget = HoldMillis(self.clock.hold().0 + self.config.retention_ms);
                let places = (Place::Reserved, Place::Released);
                let kind = EventKind::Released;
                self.holds.shift_alike(&mut self.cells, handle, kind, places, forget);
                out.state(Code::OK, Released);
            }
            Confirmed if !asked.late => out.state(Code::HOLD_CONFIRMED, state),
            _ => self.shift(Opcode::Release, handle, state, asked, out),
        }
    }

    /// The release came before the reserve: see to it that the reserve never takes effect.
    #[cold]
    fn fence(&mut self, asked: &Asked<'_>, out: &mut Outcomes<'_>) {
        let id = asked.id;
        if asked.late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&id) {
            return out.plain(code, 0);
        }
        let standing = Standing::Reservation(ReservationState::Fenced);
        let mut record = trace(id, standing, self.forget_from_now(&id));
        record.created_ms = self.clock.now.as_millis();
        self.holds.insert(&mut self.cells, record, asked.hash, &[]);
        self.cells.events.tell(&Cause::new(EventKind::Fenced, id));
        out.state(Code::OK, ReservationState::Fenced);
    }

    pub(super) fn extend(
        &mut self,
        id: ReservationId,
        hash: u64,
        ttl_ms: u32,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let ttl = ttl_checked(ttl_ms);
        let Some(handle) = self.still_active(id, hash, late, ttl.is_some(), out) else { return };
        let record = self.holds.records.get(handle);
        let wanted = self.clock.deadline_after(ttl.unwrap_or_default());
        let life_end = self.clock.unreal(record.created_ms + self.config.max_life_ms).round_up();
        let deadline = record.deadline.max(wanted.min(life_end));
        if wanted > life_end && deadline == record.deadline {
            return out.state(Code::MAX_LIFE, ReservationState::Active);
        }
        self.move_deadline(handle, deadline, EventKind::Extended, out);
    }

    pub(super) fn pin(
        &mut self,
        id: ReservationId,
        hash: u64,
        ttl_ms: u32,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let in_range = (TTL_MS_MIN..=PIN_MS_MAX).contains(&ttl_ms);
        let Some(handle) = self.still_active(id, hash, late, in_range, out) else { return };
        let record = self.holds.records.get_mut(handle);
        record.pin();
        let deadline = record.deadline.max(self.clock.deadline_after(u64::from(ttl_ms)));
        self.move_deadline(handle, deadline, EventKind::Pinned, out);
    }

    /// The reservation, if its deadline can be moved; `None`: it cannot, which has been said.
    fn still_active(
        &mut self,
        id: ReservationId,
        hash: u64,
        late: bool,
        ttl_in_range: bool,
        out: &mut Outcomes<'_>,
    ) -> Option<u32> {
        // The ttl comes before the state in the order of refusals, but after what is wrong with the id.
        let found = self.look_up(&id, hash);
        let wrong_ttl = !late && !ttl_in_range;
        if wrong_ttl && found.is_none() && !self.is_too_old(&id) {
            out.plain(Code::TTL_RANGE, 0);
            return None;
        }
        let (handle, state) = self.reservation_at(found, &id, late, out)?;
        match refusal_if_not_active(state) {
            _ if late => out.state(Code::DEADLINE_PASSED, state),
            _ if wrong_ttl => out.plain(Code::TTL_RANGE, 0),
            Some(code) => out.state(code, state),
            None => return Some(handle),
        }
        None
    }

    /// The lines stay in their group; whoever walks it moves them on.
    fn move_deadline(
        &mut self,
        handle: u32,
        deadline: HoldMillis,
        kind: EventKind,
        out: &mut Outcomes<'_>,
    ) {
        let record = self.holds.records.get(handle);
        let (id, is_moved) = (record.id, deadline != record.deadline);
        if is_moved {
            self.holds.records.get_mut(handle).deadline = deadline;
        }
        if is_moved || kind == EventKind::Pinned {
            self.cells.events.tell(&until(kind, id, self.clock.ms_until(deadline)));
        }
        let real = self.clock.real(deadline);
        out.body(Code::OK, ReservationState::Active as u16, |out| put_millis(out, real));
    }

    /// When a thing that is over from the first may be forgotten.
    pub(super) fn forget_from_now(&self, id: &ReservationId) -> HoldMillis {
        let from = self.clock.hold().max(self.clock.born(id));
        HoldMillis(from.0 + self.config.retention_ms)
    }
}

/// Why a reservation in this state takes no other deadline and no other lines.
pub(super) const fn refusal_if_not_active(state: ReservationState) -> Option<Code> {
    use ReservationState::{Active, Cancelled, Confirmed, Expired, Fenced, Fulfilled, Released};
    match state {
        Active => None,
        Confirmed | Fulfilled | Cancelled => Some(Code::HOLD_CONFIRMED),
        Expired => Some(Code::HOLD_EXPIRED),
        Released | Fenced => Some(Code::HOLD_RELEASED),
    }
}
