//! How the units of a reservation's lines move.
//!
//! ```text
//!              ┌────────▶ released
//!  reserved ───┼────────▶ expired ─ ─ ─ ─ ┐ REACQUIRE
//!              │                          ▼
//!              └────────▶ committed ────▶ fulfilled
//!                              └────────▶ cancelled
//! ```
//!
//! While all units of a reservation move as one, its state says where they are. Once some go another way
//! than others, its annex says it line by line, and the state follows from the sums.

use crate::protocol::event::{Cause, EventKind};
use crate::protocol::{LineShares, Part, ReservationState};

use super::cell::Cell;
use super::cell_writer::CellWriter;
use super::holds::{HeldLine, Holds};
use super::record::Standing;
use super::ring::NIL;
use super::time::HoldMillis;

/// Where units of a line are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Reserved,
    Committed,
    Fulfilled,
    Released,
    Expired,
    Cancelled,
}

impl Place {
    /// Where all units of a reservation are that was never changed in part.
    pub const fn of(state: ReservationState) -> Self {
        match state {
            ReservationState::Active => Self::Reserved,
            ReservationState::Confirmed => Self::Committed,
            ReservationState::Fulfilled => Self::Fulfilled,
            ReservationState::Released | ReservationState::Fenced => Self::Released,
            ReservationState::Expired => Self::Expired,
            ReservationState::Cancelled => Self::Cancelled,
        }
    }

    /// The inverse of [`Place::of`].
    const fn state(self) -> ReservationState {
        match self {
            Self::Reserved => ReservationState::Active,
            Self::Committed => ReservationState::Confirmed,
            Self::Fulfilled => ReservationState::Fulfilled,
            Self::Released => ReservationState::Released,
            Self::Expired => ReservationState::Expired,
            Self::Cancelled => ReservationState::Cancelled,
        }
    }

    /// The units of a line that are there.
    pub const fn in_line(self, units: &mut LineShares) -> &mut u32 {
        match self {
            Self::Reserved => &mut units.reserved,
            Self::Committed => &mut units.committed,
            Self::Fulfilled => &mut units.fulfilled,
            Self::Released => &mut units.released,
            Self::Expired => &mut units.expired,
            Self::Cancelled => &mut units.cancelled,
        }
    }
}

/// The units of a line that are in one of `places`.
pub(super) fn units_in(places: &[Place], mut units: LineShares) -> u64 {
    places.iter().map(|place| u64::from(*place.in_line(&mut units))).sum()
}

/// What a cell sees of a move.
#[inline(always)]
fn move_units(cell: &mut Cell, from: Place, to: Place, quantity: u32) {
    let quantity = i64::from(quantity);
    match from {
        Place::Reserved => cell.reserved -= quantity,
        Place::Committed => cell.committed -= quantity,
        _ => {}
    }
    match to {
        Place::Committed => cell.committed += quantity,
        Place::Fulfilled => cell.on_hand -= quantity,
        Place::Reserved => cell.reserved += quantity,
        _ => {}
    }
}

/// The state that follows from where units are, all lines together.
pub(super) fn state_of(sums: &LineSums) -> ReservationState {
    use ReservationState::{Active, Cancelled, Confirmed, Expired, Fulfilled, Released};
    let [reserved, committed, fulfilled, expired, cancelled] =
        [sums.reserved, sums.committed, sums.fulfilled, sums.expired, sums.cancelled];
    match () {
        () if reserved > 0 => Active,
        () if committed > 0 => Confirmed,
        () if fulfilled > 0 => Fulfilled,
        () if cancelled > 0 => Cancelled,
        () if expired > 0 => Expired,
        () => Released,
    }
}

/// [`LineShares`], summed over lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct LineSums {
    pub reserved: u64,
    pub committed: u64,
    pub fulfilled: u64,
    pub released: u64,
    pub expired: u64,
    pub cancelled: u64,
}

impl LineSums {
    /// Over all lines.
    pub fn over(lines: impl Iterator<Item = LineShares>) -> Self {
        lines.fold(Self::default(), |sums, line| Self {
            reserved: sums.reserved + u64::from(line.reserved),
            committed: sums.committed + u64::from(line.committed),
            fulfilled: sums.fulfilled + u64::from(line.fulfilled),
            released: sums.released + u64::from(line.released),
            expired: sums.expired + u64::from(line.expired),
            cancelled: sums.cancelled + u64::from(line.cancelled),
        })
    }
}

impl Holds {
    /// The state of a reservation.
    ///
    /// # Panics
    /// It is none.
    #[inline]
    pub fn state(&self, handle: u32) -> ReservationState {
        match self.records.get(handle).standing() {
            Some(Standing::Reservation(state)) => state,
            _ => panic!("only reservations have lines whose units move"),
        }
    }

    /// What has become of each line of a reservation.
    pub fn shares(&self, handle: u32) -> Vec<(HeldLine, LineShares)> {
        let lines = self.lines_of(handle);
        match self.shared_annex(handle) {
            Some(annex) => {
                lines.zip(self.annexes.shares_of(annex).map(|(_, units)| units)).collect()
            }
            None => {
                let state = self.state(handle);
                lines.map(|line| (line, LineShares::whole(state, line.quantity))).collect()
            }
        }
    }

    /// [`Holds::shares`], summed.
    pub fn sums(&self, handle: u32) -> LineSums {
        if let Some(annex) = self.shared_annex(handle) {
            return LineSums::over(self.annexes.shares_of(annex).map(|(_, units)| units));
        }
        let state = self.state(handle);
        let lines = self.lines_of(handle);
        LineSums::over(lines.map(|line| LineShares::whole(state, line.quantity)))
    }

    /// Moves all units that are in one of `from`. What is over then is forgotten at `forget` at the
    /// earliest.
    ///
    /// # Panics
    /// No unit is there.
    #[inline]
    pub fn shift_whole(
        &mut self,
        cells: &mut CellWriter,
        handle: u32,
        kind: EventKind,
        (from, to): (&[Place], Place),
        forget: HoldMillis,
    ) {
        if self.records.get(handle).is_annexed()
            && let Some(annex) = self.shared_annex(handle)
        {
            return self.shift_shares(cells, (handle, annex), kind, (from, to), forget);
        }
        let place = Place::of(self.state(handle));
        assert!(from.contains(&place), "units move from where they are");
        self.shift_alike(cells, handle, kind, (place, to), forget);
    }

    /// [`Holds::shift_whole`] of a record that has no shares, and whose units are all in `from`. Both places
    /// are known where it is called most.
    #[inline(always)]
    pub fn shift_alike(
        &mut self,
        cells: &mut CellWriter,
        handle: u32,
        kind: EventKind,
        (from, to): (Place, Place),
        forget: HoldMillis,
    ) {
        self.shift_lines(cells, handle, kind, (from, to));
        if from != to {
            self.change_state(handle, (from.state(), to.state()), forget);
        }
    }

    #[inline(always)]
    fn shift_lines(
        &self,
        cells: &mut CellWriter,
        handle: u32,
        kind: EventKind,
        (from, to): (Place, Place),
    ) {
        let record = self.records.get(handle);
        let cause = Cause::new(kind, record.id);
        cells.update(record.cell, &cause, |cell| move_units(cell, from, to, record.quantity));
        let mut extra = record.more;
        while extra != NIL {
            let line = self.lines.get(extra);
            cells.update(line.cell, &cause, |cell| move_units(cell, from, to, line.quantity));
            extra = line.more;
        }
    }

    #[cold]
    fn shift_shares(
        &mut self,
        cells: &mut CellWriter,
        (handle, annex): (u32, u32),
        kind: EventKind,
        places: (&[Place], Place),
        forget: HoldMillis,
    ) {
        let cause = Cause::new(kind, self.records.get(handle).id);
        for (line, (share, _)) in self.shared_lines(handle, annex) {
            self.shift_share(cells, &cause, (line.cell, share), places, u32::MAX);
        }
        self.restate(handle, state_of(&self.sums(handle)), forget);
    }

    /// Moves some units of some lines, out of the first of `from` as far as it goes, then the next.
    ///
    /// # Panics
    /// A line does not have them.
    pub fn shift_parts(
        &mut self,
        cells: &mut CellWriter,
        handle: u32,
        kind: EventKind,
        parts: &[Part],
        places: (&[Place], Place),
        forget: HoldMillis,
    ) {
        let cause = Cause::new(kind, self.records.get(handle).id);
        let annex = self.make_shares(handle);
        let lines = self.shared_lines(handle, annex);
        for part in parts {
            let (line, (share, _)) = lines[usize::from(part.line)];
            let at = (line.cell, share);
            let left = self.shift_share(cells, &cause, at, places, part.quantity);
            assert!(left == 0, "a part is checked before it moves");
        }
        self.restate(handle, state_of(&self.sums(handle)), forget);
    }

    /// Moves up to `quantity` units of one line; says how many were not there.
    fn shift_share(
        &mut self,
        cells: &mut CellWriter,
        cause: &Cause<'_>,
        (cell, share): (u32, u32),
        (from, to): (&[Place], Place),
        mut quantity: u32,
    ) -> u32 {
        let units = &mut self.annexes.shares.get_mut(share).units;
        for place in from {
            let there = place.in_line(units);
            let moved = quantity.min(*there);
            *there -= moved;
            *to.in_line(units) += moved;
            quantity -= moved;
            if moved > 0 {
                cells.update(cell, cause, |cell| move_units(cell, *place, to, moved));
            }
        }
        quantity
    }

    /// Gives a reservation an annex and a share for each line, if it has none; the annex.
    pub fn make_shares(&mut self, handle: u32) -> u32 {
        if let Some(annex) = self.shared_annex(handle) {
            return annex;
        }
        let units: Vec<_> = self.shares(handle).into_iter().map(|(_, units)| units).collect();
        let annex = self.make_annex(handle);
        self.annexes.set_shares(annex, units.into_iter());
        annex
    }

    /// Gives a record an annex, if it has none; the annex.
    pub fn make_annex(&mut self, handle: u32) -> u32 {
        match self.annex(handle) {
            Some(annex) => annex,
            None => {
                self.records.get_mut(handle).set_annexed(true);
                self.annexes.make(handle)
            }
        }
    }

    /// The annex of a record.
    pub fn annex(&self, handle: u32) -> Option<u32> {
        let annexed = self.records.get(handle).is_annexed();
        annexed.then(|| self.annexes.find(handle).expect("an annexed record has an annex"))
    }

    fn shared_annex(&self, handle: u32) -> Option<u32> {
        self.annex(handle).filter(|annex| self.annexes.annexes.get(*annex).shares != NIL)
    }

    fn shared_lines(&self, handle: u32, annex: u32) -> Vec<(HeldLine, (u32, LineShares))> {
        self.lines_of(handle).zip(self.annexes.shares_of(annex)).collect()
    }

    /// What is over is no longer in the list of its owner.
    #[cold]
    fn close_owned(&mut self, handle: u32) {
        let annex = self.annexes.find(handle).expect("an annexed record has an annex");
        self.annexes.close(annex, self.records.get(handle).lines());
    }

    /// Takes over a state.
    fn restate(&mut self, handle: u32, state: ReservationState, forget: HoldMillis) {
        let before = self.state(handle);
        if before != state {
            self.change_state(handle, (before, state), forget);
        }
    }

    /// Where both states are known, little is left of it.
    #[inline(always)]
    fn change_state(
        &mut self,
        handle: u32,
        (before, after): (ReservationState, ReservationState),
        forget: HoldMillis,
    ) {
        let (before, after) = (Standing::Reservation(before), Standing::Reservation(after));
        let record = self.records.get_mut(handle);
        record.set_standing(after);
        if after.is_terminal() {
            record.forget = record.forget.max(forget);
            let (annexed, linked) = (record.is_annexed(), record.linked());
            if annexed && !before.is_terminal() {
                self.close_owned(handle);
            }
            if linked == 0 {
                self.settle(handle);
            }
        }
        self.count(Some(before), -1);
        self.count(Some(after), 1);
    }
}
