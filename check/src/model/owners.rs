//! Owners in the model: what one has is added up from all that is remembered.

use stockd_protocol::limits::{OWNER_LINES_MAX, OWNER_OPEN_MAX};
use stockd_protocol::{Code, OwnerBound, OwnerLimits, OwnerUsage, ReservationState, UnixMillis};

use super::holds::Hold;
use super::{Body, Entry, Expected, Id, Model, le, plain};

impl Model {
    /// SET_OWNER_LIMITS.
    pub(super) fn set_owner_limits(
        &mut self,
        id: Id,
        limits: OwnerLimits,
        said: Vec<u8>,
        late: bool,
    ) -> Expected {
        if let Err(answer) = self.check_unseen(&id, &said, late) {
            return answer;
        }
        if u64::from(limits.cool_down_ms) > self.config.retention_ms {
            return plain(Code::TTL_RANGE, 0);
        }
        self.limits = limits;
        let forget = self.forget_from_now(&id);
        self.store(id, Entry::Op { cell: u32::MAX, said, forget });
        plain(Code::OK, 0)
    }

    fn holds_of<'a>(&'a self, owner: &'a [u8]) -> impl Iterator<Item = &'a Hold> {
        self.entries.values().filter_map(move |entry| match entry {
            Entry::Hold(hold) if hold.owner == owner => Some(hold),
            _ => None,
        })
    }

    fn usage(&self, owner: &[u8]) -> OwnerUsage {
        let mut usage = OwnerUsage { limits: self.limits, ..OwnerUsage::default() };
        for hold in self.holds_of(owner) {
            match hold.state() {
                ReservationState::Active => {
                    (usage.holds, usage.open) = (usage.holds + 1, usage.open + 1)
                }
                ReservationState::Confirmed => usage.open += 1,
                _ => {}
            }
            usage.units += hold.units.iter().map(|line| u64::from(line.reserved)).sum::<u64>();
        }
        usage
    }

    /// When it may reserve again, on the hold clock; 0: now.
    fn cools_until(&self, owner: &[u8]) -> u64 {
        let last = self.holds_of(owner).map(|hold| hold.expired_at).max().unwrap_or(0);
        let until = last + u64::from(self.limits.cool_down_ms);
        if last > 0 && until > self.hold_ms() { until } else { 0 }
    }

    /// Refuses a reserve that goes beyond what an owner may have.
    pub(super) fn check_owner(
        &self,
        owner: &[u8],
        units: u64,
        commit: bool,
    ) -> Result<(), Expected> {
        self.check_open(owner, 1)?;
        let usage = self.usage(owner);
        if usage.limits.holds_max > 0 && usage.holds >= usage.limits.holds_max && !commit {
            return Err(plain(Code::OWNER_LIMIT, OwnerBound::Holds as u16));
        }
        if commit {
            return Ok(());
        }
        match self.cools_until(owner) {
            0 => self.check_units(&usage, 0, units),
            until => Err(reached(OwnerBound::CoolDown, until + self.shift_ms)),
        }
    }

    /// Refuses one more open reservation, if the most are so many times as many.
    pub(super) fn check_open(&self, owner: &[u8], times: u32) -> Result<(), Expected> {
        let is_full = self.usage(owner).open >= times * OWNER_OPEN_MAX
            || self.open_lines(owner) >= times * OWNER_LINES_MAX;
        match is_full && !owner.is_empty() {
            true => Err(plain(Code::OWNER_LIMIT, OwnerBound::Holds as u16)),
            false => Ok(()),
        }
    }

    /// Lines of the open reservations of an owner.
    fn open_lines(&self, owner: &[u8]) -> u32 {
        use ReservationState::{Active, Confirmed};
        let open = self.holds_of(owner).filter(|hold| matches!(hold.state(), Active | Confirmed));
        open.map(|hold| hold.lines.len() as u32).sum()
    }

    /// Refuses so many units in the place of those that a reservation has.
    fn check_units(&self, usage: &OwnerUsage, own: u64, units: u64) -> Result<(), Expected> {
        let most = u64::from(usage.limits.units_max);
        let left = if most == 0 { u64::MAX } else { most.saturating_sub(usage.units) };
        let left = left.saturating_add(own);
        match units > left && units > own {
            true => Err(reached(OwnerBound::Units, left)),
            false => Ok(()),
        }
    }

    /// Refuses other lines for an owner's reservation.
    pub(super) fn check_amend(&self, hold: &Hold, held: &[(u32, u32)]) -> Result<(), Expected> {
        if hold.owner.is_empty() {
            return Ok(());
        }
        if held.len() > hold.lines.len() && self.open_lines(&hold.owner) >= OWNER_LINES_MAX {
            return Err(plain(Code::OWNER_LIMIT, OwnerBound::Holds as u16));
        }
        let own = hold.units.iter().map(|line| u64::from(line.reserved)).sum();
        let units = held.iter().map(|line| u64::from(line.1)).sum();
        self.check_units(&self.usage(&hold.owner), own, units)
    }

    /// Refuses more of a cell than an owner may have there. Each line has its number; `own` says what the
    /// reservation has of a cell already.
    pub(super) fn check_rooms(
        &self,
        owner: &[u8],
        held: &[(u32, u32)],
        own: impl Fn(u32) -> u64,
    ) -> Result<(), Expected> {
        let mut body = Vec::new();
        for (line, (cell, _)) in (0_u16..).zip(held) {
            let is_first =
                held.iter().position(|other| other.0 == *cell) == Some(usize::from(line));
            let same = held.iter().filter(|other| other.0 == *cell);
            let asked: i64 = same.map(|other| i64::from(other.1)).sum();
            let more = asked - own(*cell) as i64;
            if is_first && more > 0 && self.room(owner, *cell).is_some_and(|room| more > room) {
                body.extend(line.to_le_bytes());
            }
        }
        match body.is_empty() {
            true => Ok(()),
            false => Err(bound(OwnerBound::Cell, body)),
        }
    }

    /// How many more units of a cell an owner may have; `None`: as many as there are.
    pub(super) fn room(&self, owner: &[u8], cell: u32) -> Option<i64> {
        let most = self.counters(cell).policy.owner_max;
        let has = |hold: &Hold| -> i64 {
            let lines = hold.lines.iter().zip(&hold.units).filter(|(line, _)| line.0 == cell);
            lines.map(|(_, units)| i64::from(units.reserved) + i64::from(units.committed)).sum()
        };
        let all: i64 = if owner.is_empty() { 0 } else { self.holds_of(owner).map(has).sum() };
        (most > 0).then(|| i64::from(most) - all)
    }

    /// The outcome of a READ_OWNER.
    pub fn read_owner(&mut self, owner: &[u8]) -> Expected {
        self.settle();
        let free_at = Some(self.cools_until(owner)).filter(|until| *until > 0);
        let free_at = free_at.map(|until| UnixMillis(until + self.shift_ms));
        let mut body = bytes::BytesMut::new();
        OwnerUsage { free_at, ..self.usage(owner) }.encode(&mut body);
        Expected { code: Code::OK, detail: 0, body: Body::Exact(body.to_vec()) }
    }
}

fn reached(limit: OwnerBound, value: u64) -> Expected {
    bound(limit, le(&[value]))
}

/// Refuses with a limit of an owner.
pub(super) fn bound(limit: OwnerBound, body: Vec<u8>) -> Expected {
    Expected { code: Code::OWNER_LIMIT, detail: limit as u16, body: Body::Exact(body) }
}
