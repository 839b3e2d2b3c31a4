//! What owners may hold: the limits, and what is asked beyond them.
//!
//! ```text
//! RESERVE_FROM   open ones ─▶ cool-down ─▶ units ─▶ names ─▶ … ─▶ stock, of each cell no more than its
//!                                                                 owner_max less what the owner has there
//! AMEND          units, and of each cell, if it would hold more than before
//! ```
//!
//! What is due of the owner expires before anybody counts, so that how far the sweep has come makes no
//! difference. What is confirmed at once is held by nobody: of the limits, it knows the number of open
//! reservations and those of cells. REACQUIRE knows none that are set: it has been paid.
//!
//! Whoever counts walks over the open reservations of the owner, so there are few of them: 256, with 4,096
//! lines, or a last one more. What was paid too late goes up to twice as many.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::protocol::event::{Cause, EventBody, EventKind};
use crate::protocol::limits::{OWNER_LINES_MAX, OWNER_OPEN_MAX};
use crate::protocol::{
    Code, OpId, OwnerBound, OwnerLimits, OwnerUsage, ReservationId, ReservationState,
};

use super::hash::{mix2, to_32};
use super::holds::Holds;
use super::outcomes::{Outcomes, body, put_millis};
use super::owners::Owner;
use super::reserve::Scratch;
use super::state::StockState;
use super::time::HoldMillis;

/// Which limit is reached, with what the refusal says beyond that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reached {
    Holds,
    /// So many units it may yet take.
    Units(u64),
    /// It is over then.
    CoolDown(HoldMillis),
}

/// What an owner may yet have of each cell; it is counted when the first cell that has a limit asks.
pub(super) struct Rooms<'a> {
    state: &'a StockState,
    owner: Option<u32>,
    has: OnceCell<BTreeMap<u32, i64>>,
}

impl Rooms<'_> {
    /// How many units of a cell the owner may have beyond those it has; `None`: as many as there are.
    pub fn of(&self, cell: u32) -> Option<i64> {
        let most = match self.state.cells.details(cell).policy.owner_max {
            0 => return None,
            most => i64::from(most),
        };
        let has = self.has.get_or_init(|| {
            self.owner.map(|owner| self.state.holds.units_of(owner)).unwrap_or_default()
        });
        Some(most - has.get(&cell).copied().unwrap_or(0))
    }
}

impl StockState {
    /// SET_OWNER_LIMITS.
    pub(super) fn set_owner_limits(
        &mut self,
        op_id: OpId,
        hash: u64,
        limits: OwnerLimits,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let print = print(limits);
        if let Err(code) = self.check_unseen(op_id, hash, print, late) {
            return out.plain(code, 0);
        }
        // An owner is forgotten with the last of its reservations.
        if u64::from(limits.cool_down_ms) > self.config.retention_ms {
            return out.plain(Code::TTL_RANGE, 0);
        }
        // From here on the limits are set.
        self.holds.annexes.owners.limits = limits;
        let (kind, id) = (EventKind::OwnerLimitsSet, ReservationId(op_id.0));
        let body = EventBody::OwnerLimits(limits);
        self.cells.events.tell(&Cause { body, ..Cause::new(kind, id) });
        self.remember_plain(op_id, hash, print);
        out.plain(Code::OK, 0);
    }

    /// Expires all that is due of an owner.
    pub(super) fn expire_due_of(&mut self, owner: u32) {
        let Self { holds, cells, clock, config, .. } = self;
        let records: Vec<u32> = holds.open_of(owner).collect();
        for handle in records {
            let record = holds.records.get(handle);
            if record.is(ReservationState::Active) && clock.is_due(record.deadline) {
                holds.expire(cells, clock, config.retention_ms, (handle, EventKind::Reclaimed));
            }
        }
    }

    /// May the owner have one more reservation, of so many units? One that is confirmed at once holds
    /// nothing.
    ///
    /// # Errors
    /// Not so.
    pub(super) fn check_owner(
        &mut self,
        owner: Option<u32>,
        units: u64,
        commit: bool,
    ) -> Result<(), Reached> {
        if let Some(owner) = owner {
            self.check_open(owner, 1)?;
            if self.holds.annexes.owners.limits == OwnerLimits::default() {
                return Ok(());
            }
            self.expire_due_of(owner);
        }
        let usage = self.usage_of(owner);
        let limits = &usage.limits;
        let holds_max = if limits.holds_max == 0 { u32::MAX } else { limits.holds_max };
        if !commit && usage.holds >= holds_max {
            return Err(Reached::Holds);
        }
        if commit {
            return Ok(());
        }
        if let Some(free_at) = owner.and_then(|owner| self.cools_until(owner)) {
            return Err(Reached::CoolDown(free_at));
        }
        let left = units_left(&usage);
        if units > left { Err(Reached::Units(left)) } else { Ok(()) }
    }

    /// May the owner of a reservation have these demands in the place of its lines?
    ///
    /// # Errors
    /// Not so.
    pub(super) fn check_amend(
        &mut self,
        owner: u32,
        handle: u32,
        scratch: &Scratch,
    ) -> Result<(), Reached> {
        let more_lines = scratch.lines.len() as u32 > self.holds.records.get(handle).lines();
        if more_lines && self.stays(owner, |owner| owner.lines >= OWNER_LINES_MAX) {
            return Err(Reached::Holds);
        }
        self.expire_due_of(owner);
        let own = self.holds.sums(handle).reserved;
        let asked: u64 = scratch.demands.sums.iter().map(|demand| demand.asked).sum();
        let usage = self.usage_of(Some(owner));
        let left = units_left(&usage).saturating_add(own);
        if asked > own && asked > left { Err(Reached::Units(left)) } else { Ok(()) }
    }

    /// May the owner have one more open reservation, if its most are so many times as many?
    ///
    /// # Errors
    /// Not so.
    pub(super) fn check_open(&mut self, owner: u32, times: u32) -> Result<(), Reached> {
        let is_full = |owner: &Owner| {
            owner.open >= times * OWNER_OPEN_MAX || owner.lines >= times * OWNER_LINES_MAX
        };
        if self.stays(owner, is_full) { Err(Reached::Holds) } else { Ok(()) }
    }

    /// Is it so of the owner, and still so when all has expired that is due of it?
    fn stays(&mut self, owner: u32, is_so: impl Fn(&Owner) -> bool) -> bool {
        let is_now = |state: &Self| is_so(state.holds.annexes.owners.owners.get(owner));
        is_now(self) && {
            self.expire_due_of(owner);
            is_now(self)
        }
    }

    /// What an owner may yet have of each cell. `None` has nothing.
    pub(super) fn rooms(&self, owner: Option<u32>) -> Rooms<'_> {
        Rooms { state: self, owner, has: OnceCell::new() }
    }

    /// Says which limit is reached.
    pub(super) fn refuse_owner(&self, reached: Reached, out: &mut Outcomes<'_>) {
        let bound = match reached {
            Reached::Holds => OwnerBound::Holds,
            Reached::Units(_) => OwnerBound::Units,
            Reached::CoolDown(_) => OwnerBound::CoolDown,
        };
        out.body(Code::OWNER_LIMIT, bound as u16, |out| match reached {
            Reached::Holds => {}
            Reached::Units(left) => out.put_u64_le(left),
            Reached::CoolDown(until) => put_millis(out, self.clock.real(until)),
        });
    }

    /// Appends the outcome of READ_OWNER. What is due counts as expired, whether or not the sweep has come
    /// by.
    pub fn read_owner(&self, name: &[u8], out: &mut BytesMut) {
        let owner = self.holds.annexes.owners.find(name);
        let free_at = owner.and_then(|owner| self.cools_until(owner));
        let free_at = free_at.map(|until| self.clock.real(until));
        let usage = OwnerUsage { free_at, ..self.usage_of(owner) };
        body(out, Code::OK, 0, |out| usage.encode(out));
    }

    /// All but `free_at`.
    fn usage_of(&self, owner: Option<u32>) -> OwnerUsage {
        let limits = self.holds.annexes.owners.limits;
        let mut usage = OwnerUsage { limits, ..OwnerUsage::default() };
        for handle in owner.into_iter().flat_map(|owner| self.holds.open_of(owner)) {
            let sums = self.holds.sums(handle);
            let reserved = if self.is_unnoticed(handle) { 0 } else { sums.reserved };
            usage.holds += u32::from(reserved > 0);
            usage.open += u32::from(reserved > 0 || sums.committed > 0);
            usage.units += reserved;
        }
        usage
    }

    /// When an owner may reserve again that may not yet.
    fn cools_until(&self, owner: u32) -> Option<HoldMillis> {
        let owners = &self.holds.annexes.owners;
        let unnoticed = self.holds.open_of(owner).filter(|handle| self.is_unnoticed(*handle));
        let due = unnoticed.map(|handle| self.clock.due(self.holds.records.get(handle).deadline));
        let last = due.max().unwrap_or_default().max(owners.owners.get(owner).last_due);
        let until = HoldMillis(last.0 + u64::from(owners.limits.cool_down_ms));
        (last.0 > 0 && until > self.clock.hold()).then_some(until)
    }
}

impl Holds {
    /// The open reservations of an owner.
    pub fn open_of(&self, owner: u32) -> impl Iterator<Item = u32> + '_ {
        self.annexes.open_of(owner).map(|annex| self.annexes.annexes.get(annex).record)
    }

    /// Units of each cell that the open reservations of an owner hold or have been promised.
    fn units_of(&self, owner: u32) -> BTreeMap<u32, i64> {
        let mut has = BTreeMap::new();
        for (line, units) in self.open_of(owner).flat_map(|handle| self.shares(handle)) {
            let units = i64::from(units.reserved) + i64::from(units.committed);
            *has.entry(line.cell).or_default() += units;
        }
        has
    }
}

fn units_left(usage: &OwnerUsage) -> u64 {
    match usage.limits.units_max {
        0 => u64::MAX,
        most => u64::from(most).saturating_sub(usage.units),
    }
}

/// 32 bits over the limits, so that an id used with other ones is caught.
fn print(limits: OwnerLimits) -> u32 {
    let OwnerLimits { holds_max, units_max, cool_down_ms } = limits;
    let hash = mix2(5, u64::from(holds_max) << 32 | u64::from(units_max), u64::from(cool_down_ms));
    to_32(hash)
}

#[cfg(test)]
mod tests {
    use super::super::EngineConfig;
    use super::super::batch::BatchBuilder;
    use super::*;
    use crate::protocol::{
        CellHandle, CellRef, Line, Op, OpFlags, Parts, Reader, ReservationId, Rules, Terms, Wish,
        take_outcome,
    };
    use crate::world::UnixMicros;

    /// Time goes on to this minute.
    fn wait_until(state: &mut StockState, minute: u64) {
        let mut entry = BytesMut::new();
        let batch = BatchBuilder::begin(&mut entry);
        batch.finish(&mut entry, UnixMicros(minute * 60_000_000), 0);
        state.apply(state.applied_index() + 1, &entry, None);
    }

    fn apply(state: &mut StockState, encode: impl FnOnce(&mut BytesMut)) -> (Code, u16) {
        let (mut entry, mut out) = (BytesMut::new(), BytesMut::new());
        let batch = BatchBuilder::begin(&mut entry);
        encode(&mut entry);
        // Time does not go back.
        batch.finish(&mut entry, UnixMicros(0), 1);
        state.apply(state.applied_index() + 1, &entry, Some(&mut out));
        let outcome = take_outcome(&mut Reader::new(&out)).unwrap();
        (outcome.code, outcome.detail)
    }

    const FULL: (Code, u16) = (Code::OWNER_LIMIT, OwnerBound::Holds as u16);

    fn id(number: u32) -> ReservationId {
        let mut random = [0; 10];
        random[6..].copy_from_slice(&number.to_be_bytes());
        ReservationId::from_parts(0, random)
    }

    /// A state with 20,000 of cell 0.
    fn stocked() -> StockState {
        let mut state = StockState::new(EngineConfig::default());
        let cell = state.cells.define(b"w", b"s");
        let cause = Cause::new(EventKind::Received, ReservationId([0; 16]));
        state.cells.update(cell, &cause, |cell| cell.on_hand = 20_000);
        state
    }

    /// Reserves one of cell 0 on each of so many lines, for ann.
    fn reserve_lines(
        state: &mut StockState,
        number: u32,
        lines: usize,
        commit: bool,
    ) -> (Code, u16) {
        let cells = [CellRef::Handle(CellHandle(0))];
        let wishes = vec![Wish { quantity: 1, min_quantity: 0, cells: &cells }; lines];
        let flags = if commit { OpFlags::COMMIT } else { OpFlags::default() };
        let terms = Terms { flags, ..Terms::default() };
        let rules = Rules { owner: b"ann", ..Rules::default() };
        apply(state, |out| {
            Op::encode_reserve_from(out, &terms, id(number), 0, rules, &wishes).unwrap();
        })
    }

    #[test]
    fn an_owner_has_256_open_reservations_and_no_more() {
        let mut state = stocked();
        let reserve =
            |state: &mut StockState, number, commit| reserve_lines(state, number, 1, commit);
        for number in 0..OWNER_OPEN_MAX {
            // What is confirmed is open, too.
            assert_eq!(reserve(&mut state, number, number % 2 == 0).0, Code::OK, "{number}");
        }
        assert_eq!(reserve(&mut state, 1_000, false), FULL);
        assert_eq!(reserve(&mut state, 1_000, true), FULL);
        let released = apply(&mut state, |out| {
            Op::encode_release(out, OpFlags::default(), None, id(1));
        });
        assert_eq!(released.0, Code::OK);
        assert_eq!(reserve(&mut state, 1_000, false).0, Code::OK);
        assert_eq!(reserve(&mut state, 1_001, false), FULL);
        state.audit().unwrap();
    }

    #[test]
    fn an_owner_gets_no_more_at_4096_open_lines() {
        let mut state = stocked();
        assert_eq!(reserve_lines(&mut state, 0, 1, false).0, Code::OK);
        let amend = |state: &mut StockState, lines: usize, step| {
            let line = Line { cell: CellRef::Handle(CellHandle(0)), quantity: 1 };
            apply(state, |out| {
                let lines = vec![line; lines];
                Op::encode_amend(out, &Terms::default(), id(0), step, &lines);
            })
        };
        for number in 1..4 {
            assert_eq!(reserve_lines(&mut state, number, 1_024, false).0, Code::OK);
        }
        assert_eq!(amend(&mut state, 1_023, 1).0, Code::OK);
        // It is one below.
        assert_eq!(reserve_lines(&mut state, 4, 1, false).0, Code::OK);
        assert_eq!(reserve_lines(&mut state, 5, 1, false), FULL);
        assert_eq!(amend(&mut state, 1_024, 2), FULL);
        assert_eq!(amend(&mut state, 1_022, 2).0, Code::OK);
        assert_eq!(amend(&mut state, 1_024, 3).0, Code::OK);
        assert_eq!(reserve_lines(&mut state, 5, 1, false), FULL);
        state.audit().unwrap();
    }

    #[test]
    fn what_is_paid_too_late_goes_up_to_512() {
        let mut state = stocked();
        let mut reserve = |minute: u64, numbers: std::ops::Range<u32>, commit: bool| {
            wait_until(&mut state, minute);
            for number in numbers {
                assert_eq!(reserve_lines(&mut state, number, 1, commit).0, Code::OK, "{number}");
            }
        };
        reserve(0, 0..OWNER_OPEN_MAX, false);
        reserve(20, 1_000..1_001, false);
        reserve(40, 2_000..2_000 + OWNER_OPEN_MAX, true);
        let mut confirm = |number| {
            apply(&mut state, |out| Op::encode_confirm(out, OpFlags::REACQUIRE, None, id(number)))
        };
        for number in 0..OWNER_OPEN_MAX {
            assert_eq!(confirm(number).0, Code::OK_REACQUIRED, "{number}");
        }
        assert_eq!(confirm(1_000), FULL);
        state.audit().unwrap();
        let cancelled = apply(&mut state, |out| {
            let parts = Parts::WHOLE;
            Op::Cancel { id: id(0), parts }.encode(out, &Terms::default());
        });
        assert_eq!(cancelled.0, Code::OK);
        let confirmed = apply(&mut state, |out| {
            Op::encode_confirm(out, OpFlags::REACQUIRE, None, id(1_000));
        });
        assert_eq!(confirmed.0, Code::OK_REACQUIRED);
        state.audit().unwrap();
    }
}
