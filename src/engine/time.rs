//! The two clocks of the state machine.
//!
//! ```text
//! real clock   `now` of the log entries: micros since 1970, never goes back
//! hold clock   real clock − outage shift: what deadlines are measured on
//!
//! deadline                due = deadline + grace
//!    ├── confirm is LATE ──┤ expired: at `due` itself expiry wins
//! ```
//!
//! A new leader adds the outage to the shift, which moves every deadline later at once. The hold
//! clock stands still over an outage of up to [`OUTAGE_MS_MAX`] and never goes back.
//!
//! Deadlines are whole [`Tick`]s of the hold clock, so that all lines of one cell that fall due in
//! the same 64 ms form one group. They are rounded up: a hold is never shorter than asked for.

use crate::protocol::{ReservationId, UnixMillis};
use crate::world::UnixMicros;

/// Length of a tick. 64 ms is far below the shortest ttl of one second, and coarse enough that a
/// hot cell's lines share groups.
pub(super) const TICK_MS: u64 = 64;

/// The longest outage that a new leader gives back to the holds.
pub(super) const OUTAGE_MS_MAX: u64 = 60_000;

/// How far the time inside an id may be ahead of the log's clock.
const SKEW_MS_MAX: u64 = 5 * 60 * 1_000;

/// An id whose time is `id_ms` may have been known and forgotten by `now_ms`.
pub(super) const fn is_too_old(id_ms: u64, now_ms: u64, retention_ms: u64) -> bool {
    id_ms + retention_ms <= now_ms
}

/// An id whose time is `id_ms` is too far ahead of `now_ms` to be forgotten in time.
pub(super) const fn is_from_future(id_ms: u64, now_ms: u64) -> bool {
    id_ms > now_ms + SKEW_MS_MAX
}

/// Milliseconds on the hold clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct HoldMillis(pub u64);

/// A moment of the hold clock in units of [`TICK_MS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Tick(pub u64);

impl HoldMillis {
    /// The first whole tick at or after this moment.
    pub fn round_up(self) -> Self {
        Self(self.0.div_ceil(TICK_MS) * TICK_MS)
    }

    /// The tick that holds this moment.
    pub fn tick(self) -> Tick {
        Tick(self.0 / TICK_MS)
    }
}

impl Tick {
    /// Before any cell has a line; no real tick is as late.
    pub const NEVER: Self = Self(u64::MAX);

    /// The tick after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HoldClock {
    /// The real clock.
    pub now: UnixMicros,
    /// Outages given back so far.
    pub shift_ms: u64,
    /// A whole number of ticks.
    pub grace_ms: u64,
}

impl HoldClock {
    /// The hold clock, rounded down.
    pub fn hold(&self) -> HoldMillis {
        HoldMillis(self.now.0.saturating_sub(self.shift_ms * 1_000) / 1_000)
    }

    /// The deadline of a hold that lives for at least `ttl_ms` from now.
    pub fn deadline_after(&self, ttl_ms: u64) -> HoldMillis {
        let hold_micros = self.now.0.saturating_sub(self.shift_ms * 1_000);
        HoldMillis(hold_micros.div_ceil(1_000) + ttl_ms).round_up()
    }

    /// When a hold with this deadline expires.
    pub fn due(&self, deadline: HoldMillis) -> HoldMillis {
        HoldMillis(deadline.0 + self.grace_ms)
    }

    /// Expired: at the very moment of `deadline + grace`, expiry wins.
    pub fn is_due(&self, deadline: HoldMillis) -> bool {
        self.hold() >= self.due(deadline)
    }

    /// Past the deadline, whether or not inside the grace.
    pub fn is_late(&self, deadline: HoldMillis) -> bool {
        self.hold() >= deadline
    }

    /// The first tick that is not due yet: deadlines in all earlier ticks are.
    pub fn first_not_due(&self) -> Tick {
        match self.hold().0.checked_sub(self.grace_ms) {
            Some(ms) => Tick(ms / TICK_MS + 1),
            None => Tick(0),
        }
    }

    /// A moment of the hold clock on the real clock, as things stand.
    pub fn real(&self, moment: HoldMillis) -> UnixMillis {
        UnixMillis(moment.0 + self.shift_ms)
    }

    /// How long it is until a moment of the hold clock, in ms; 0 if it is over. No deadline is 49 days away.
    pub fn ms_until(&self, moment: HoldMillis) -> u32 {
        let ms = self.real(moment).0.saturating_sub(self.now.as_millis());
        u32::try_from(ms).unwrap_or(u32::MAX)
    }

    /// When an id was made, on the hold clock; now, if it does not say.
    pub fn born(&self, id: &ReservationId) -> HoldMillis {
        id.born().map_or_else(|| self.hold(), |born_ms| self.unreal(born_ms))
    }

    /// A moment of the real clock on the hold clock, as things stand.
    pub fn unreal(&self, millis: u64) -> HoldMillis {
        HoldMillis(millis.saturating_sub(self.shift_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_shorter_than_asked() {
        for now in [0, 1, 999, 1_000, 63_999, 64_000, 64_001, 1_700_000_000_123_456] {
            for shift_ms in [0, 7] {
                let clock = HoldClock { now: UnixMicros(now), shift_ms, grace_ms: 2_048 };
                let deadline = clock.deadline_after(1_000);
                let hold_micros = now.saturating_sub(shift_ms * 1_000);
                assert!(deadline.0 * 1_000 >= hold_micros + 1_000_000);
                assert!(deadline.0 * 1_000 < hold_micros + 1_000_000 + 65_000);
                assert_eq!(deadline.0 % TICK_MS, 0);
            }
        }
    }

    #[test]
    fn a_tick_is_due_exactly_when_its_deadline_is() {
        let deadline = HoldMillis(64 * 1_000);
        for (now_ms, due) in [(66_047, false), (66_048, true), (66_049, true)] {
            let clock = HoldClock { now: UnixMicros(now_ms * 1_000), shift_ms: 0, grace_ms: 2_048 };
            assert_eq!(clock.is_due(deadline), due, "{now_ms}");
            assert_eq!(deadline.tick() < clock.first_not_due(), due, "{now_ms}");
        }
    }
}
