//! CONFIRM, RELEASE, EXTEND: what may become of a reservation.
//!
//! ```text
//!             CONFIRM (LATE inside the grace)
//!   ACTIVE ──────────────────────────────────▶ CONFIRMED
//!     │ ▲└─ EXTEND: deadline = max(deadline, now + ttl), within the longest life
//!     │ └── RESERVE grants
//!     ├──────── RELEASE ─────────▶ RELEASED
//!     └── due ─────────────────▶ EXPIRED        unknown ── RELEASE ──▶ FENCED
//! ```
//!
//! When `not_after` has passed, what was done before is still answered with REPLAY; anything else is
//! DEADLINE_PASSED and changes nothing.

use crate::protocol::{Code, ReservationId, ReservationState};

use super::holds::trace;
use super::outcomes::{Outcomes, put_millis};
use super::record::Standing;
use super::reserve::ttl_checked;
use super::state::StockState;
use super::time::HoldMillis;

impl StockState {
    /// The reservation and its state; `Err`: there is none, which has been said.
    fn reservation(
        &mut self,
        id: &ReservationId,
        hash: u64,
        late: bool,
        out: &mut Outcomes<'_>,
    ) -> Option<(u32, ReservationState)> {
        let code = match self.look_up(id, hash) {
            Some(handle) => match self.holds.records.get(handle).standing() {
                Some(Standing::Reservation(state)) => return Some((handle, state)),
                _ if late => Code::DEADLINE_PASSED,
                _ => Code::ID_REUSED,
            },
            None if late => Code::DEADLINE_PASSED,
            None if self.is_too_old(id) => Code::ID_TOO_OLD,
            None => Code::NOT_FOUND,
        };
        out.plain(code, 0);
        None
    }

    pub(super) fn confirm(
        &mut self,
        id: ReservationId,
        hash: u64,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        use ReservationState::{Active, Confirmed, Expired, Fenced, Released};
        let Some((handle, state)) = self.reservation(&id, hash, late, out) else { return };
        match state {
            Confirmed => out.state(Code::REPLAY, state),
            _ if late => out.state(Code::DEADLINE_PASSED, state),
            Expired => out.state(Code::HOLD_EXPIRED, state),
            Released | Fenced => out.state(Code::HOLD_RELEASED, state),
            Active => {
                let in_grace = self.clock.is_late(self.holds.records.get(handle).deadline);
                self.holds.confirm(&mut self.cells, handle);
                out.state(if in_grace { Code::OK_LATE } else { Code::OK }, Confirmed);
            }
        }
    }

    pub(super) fn release(
        &mut self,
        id: ReservationId,
        hash: u64,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        use ReservationState::{Active, Confirmed, Expired, Fenced, Released};
        let Some(handle) = self.look_up(&id, hash) else { return self.fence(id, hash, late, out) };
        let Some(Standing::Reservation(state)) = self.holds.records.get(handle).standing() else {
            return out.plain(if late { Code::DEADLINE_PASSED } else { Code::ID_REUSED }, 0);
        };
        match state {
            Released | Fenced => out.state(Code::REPLAY, state),
            _ if late => out.state(Code::DEADLINE_PASSED, state),
            Expired => out.state(Code::OK, state),
            Confirmed => out.state(Code::HOLD_CONFIRMED, state),
            Active => {
                let forget = HoldMillis(self.clock.hold().0 + self.config.retention_ms);
                self.holds.end(&mut self.cells, handle, Released, forget);
                out.state(Code::OK, Released);
            }
        }
    }

    /// The release came before the reserve: see to it that the reserve never takes effect.
    #[cold]
    fn fence(&mut self, id: ReservationId, hash: u64, late: bool, out: &mut Outcomes<'_>) {
        if late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&id) {
            return out.plain(code, 0);
        }
        let standing = Standing::Reservation(ReservationState::Fenced);
        let mut record = trace(id, standing, self.forget_from_now(&id));
        record.created_ms = self.clock.now.as_millis();
        self.holds.insert(&mut self.cells, record, hash, &[]);
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
        use ReservationState::{Active, Confirmed, Expired, Fenced, Released};
        let ttl = ttl_checked(ttl_ms);
        // The ttl comes before the state in the order of refusals, but after the id's age.
        let known = self.look_up(&id, hash).is_some();
        if !late && ttl.is_none() && (known || !self.is_too_old(&id)) {
            return out.plain(Code::TTL_RANGE, 0);
        }
        let Some((handle, state)) = self.reservation(&id, hash, late, out) else { return };
        match state {
            _ if late => out.state(Code::DEADLINE_PASSED, state),
            Confirmed => out.state(Code::HOLD_CONFIRMED, state),
            Expired => out.state(Code::HOLD_EXPIRED, state),
            Released | Fenced => out.state(Code::HOLD_RELEASED, state),
            Active => self.extend_active(handle, ttl.unwrap_or_default(), out),
        }
    }

    /// The lines stay in their group; whoever walks it moves them on.
    fn extend_active(&mut self, handle: u32, ttl: u64, out: &mut Outcomes<'_>) {
        let record = self.holds.records.get(handle);
        let wanted = self.clock.deadline_after(ttl);
        let life_end = self.clock.unreal(record.created_ms + self.config.max_life_ms).round_up();
        let deadline = record.deadline.max(wanted.min(life_end));
        if wanted > life_end && deadline == record.deadline {
            return out.state(Code::MAX_LIFE, ReservationState::Active);
        }
        if deadline != record.deadline {
            self.holds.records.get_mut(handle).deadline = deadline;
        }
        let real = self.clock.real(deadline);
        out.body(Code::OK, ReservationState::Active as u16, |out| put_millis(out, real));
    }

    /// When a thing that is over from the first may be forgotten.
    pub(super) fn forget_from_now(&self, id: &ReservationId) -> HoldMillis {
        let from = self.clock.hold().max(self.clock.unreal(id.millis()));
        HoldMillis(from.0 + self.config.retention_ms)
    }
}
