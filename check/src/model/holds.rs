//! What becomes of reservations in the model.

use std::collections::BTreeMap;

use stockd_protocol::limits::{PIN_MS_MAX, STEPS_MAX};
use stockd_protocol::{Code, LineShares, OpFlags, Opcode, OwnerBound, Parts, ReservationState};

use crate::history::Cell;

use super::owners::bound;
use super::{
    Body, Counters, Entry, Expected, Id, Model, bad_ttl, in_time, le, plain, round_up, ttl,
    unknown_cells,
};

/// What a reservation was made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A RESERVE: cells and quantities.
    Lines(Vec<(u32, u32)>),
    /// A RESERVE_FROM: as it was sent.
    From(Vec<u8>),
    /// Nothing: it is a fence.
    Nothing,
}

/// A reservation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// What was asked for at first.
    pub asked: Asked,
    /// As it was asked for.
    pub ttl_ms: u32,
    /// Cells and quantities as they are now.
    pub lines: Vec<(u32, u32)>,
    /// The line of the request that each belongs to.
    pub numbers: Vec<u16>,
    /// What has become of each line.
    pub units: Vec<LineShares>,
    /// It was released before it was made.
    pub fenced: bool,
    /// It does not expire for long.
    pub pinned: bool,
    /// Whose it is; empty: nobody's.
    pub owner: Vec<u8>,
    /// When it fell due, on the hold clock in ms; 0: it has not.
    pub expired_at: u64,
    /// Something was done with a part of it, so that every step is remembered.
    pub in_steps: bool,
    /// What was done, by operation and step.
    pub steps: BTreeMap<(u8, u32), Vec<(u32, u32)>>,
    /// On the cluster's clock, in ms.
    pub created: u64,
    /// On the hold clock, in ms.
    pub deadline: u64,
    /// On the hold clock, in ms.
    pub forget: u64,
}

impl Hold {
    /// Where it stands, by where its units are.
    pub fn state(&self) -> ReservationState {
        use ReservationState::{
            Active, Cancelled, Confirmed, Expired, Fenced, Fulfilled, Released,
        };
        let any = |units: fn(&LineShares) -> u32| self.units.iter().any(|line| units(line) > 0);
        match () {
            () if self.fenced => Fenced,
            () if any(|line| line.reserved) => Active,
            () if any(|line| line.committed) => Confirmed,
            () if any(|line| line.fulfilled) => Fulfilled,
            () if any(|line| line.cancelled) => Cancelled,
            () if any(|line| line.expired) => Expired,
            () => Released,
        }
    }

    fn any(&self, place: Place) -> bool {
        self.units.iter().any(|units| place.of(units) > 0)
    }

    fn is_over(&self) -> bool {
        !matches!(self.state(), ReservationState::Active | ReservationState::Confirmed)
    }
}

/// Where units can be.
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
    fn of(self, units: &LineShares) -> u32 {
        *self.of_mut(&mut units.clone())
    }

    const fn of_mut(self, units: &mut LineShares) -> &mut u32 {
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

/// What an operation comes to.
enum Plan {
    Answer(Code),
    Take(&'static [Place], Place),
    TakeAgain(Place),
}

impl Model {
    pub(super) fn reserve(
        &mut self,
        id: Id,
        ttl_ms: u32,
        lines: &[(Cell, u32)],
        (commit, late): (bool, bool),
    ) -> Expected {
        let resolved: Vec<_> = lines.iter().map(|line| self.resolve(&line.0)).collect();
        let held = all_found(&resolved, lines);
        match self.entries.get(&id) {
            Some(Entry::Hold(known)) => {
                let detail = known.state() as u16;
                return match held {
                    _ if known.fenced => plain(in_time(Code::HOLD_RELEASED, late), detail),
                    Some(held)
                        if known.asked == Asked::Lines(held.clone()) && known.ttl_ms == ttl_ms =>
                    {
                        self.granted(Code::REPLAY, known, lines, &held)
                    }
                    _ => plain(in_time(Code::ID_REUSED, late), detail),
                };
            }
            Some(_) => return plain(in_time(Code::ID_REUSED, late), 0),
            None if late => return plain(Code::DEADLINE_PASSED, 0),
            None => {}
        }
        if let Err(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        if bad_ttl(ttl_ms) {
            return plain(Code::TTL_RANGE, 0);
        }
        let Some(held) = held else { return unknown_cells(&resolved) };
        if let Err(refused) = self.check_stock(&numbered(&held), (commit, false), |_| 0) {
            return refused;
        }
        let numbered = (0..).zip(&held).map(|(number, line)| (number, *line)).collect();
        let hold = self.grant(id, ttl_ms, Asked::Lines(held.clone()), numbered, commit);
        self.granted(Code::OK, &hold, lines, &held)
    }

    /// Takes units that are there.
    pub(super) fn grant(
        &mut self,
        id: Id,
        ttl_ms: u32,
        asked: Asked,
        numbered: Vec<(u16, (u32, u32))>,
        commit: bool,
    ) -> Hold {
        let place = if commit { Place::Committed } else { Place::Reserved };
        let (numbers, lines): (Vec<u16>, Vec<(u32, u32)>) = numbered.into_iter().unzip();
        for (cell, quantity) in &lines {
            self.move_units(*cell, None, Some(place), *quantity);
        }
        let hold = Hold {
            asked,
            ttl_ms,
            units: lines.iter().map(|line| all_in(place, line.1)).collect(),
            lines,
            numbers,
            fenced: false,
            pinned: false,
            owner: Vec::new(),
            expired_at: 0,
            in_steps: false,
            steps: BTreeMap::new(),
            created: self.now_ms(),
            deadline: self.deadline_after(ttl(ttl_ms)),
            forget: self.forget_at_least(&id),
        };
        self.store(id, Entry::Hold(hold.clone()));
        hold
    }

    fn granted(
        &self,
        code: Code,
        hold: &Hold,
        lines: &[(Cell, u32)],
        held: &[(u32, u32)],
    ) -> Expected {
        let mut body = le(&[hold.deadline + self.shift_ms]);
        if matches!(lines[0].0, Cell::Name(..)) {
            body.extend(held.iter().flat_map(|line| line.0.to_le_bytes()));
        }
        Expected { code, detail: hold.state() as u16, body: Body::Exact(body) }
    }

    fn deadline_after(&self, ttl_ms: u64) -> u64 {
        round_up(self.hold_micros().div_ceil(1_000) + ttl_ms)
    }

    /// What the cells see of units that go from one place to another.
    fn move_units(&mut self, cell: u32, from: Option<Place>, to: Option<Place>, quantity: u32) {
        let units = i64::from(quantity);
        let counters = self.cell(cell);
        match from {
            Some(Place::Reserved) => counters.reserved -= units,
            Some(Place::Committed) => counters.committed -= units,
            _ => {}
        }
        match to {
            Some(Place::Reserved) => counters.reserved += units,
            Some(Place::Committed) => counters.committed += units,
            Some(Place::Fulfilled) => counters.on_hand -= units,
            _ => {}
        }
    }

    /// Refuses what there is not, or what no rule lets go. Each line has its number; `own` says what
    /// the reservation has of a cell already.
    fn check_stock(
        &self,
        lines: &[(u16, u32, u32)],
        (commit, owned): (bool, bool),
        own: impl Fn(u32) -> u64,
    ) -> Result<(), Expected> {
        let mut demands: Vec<(u16, u32, u64)> = Vec::new();
        for (line, cell, quantity) in lines {
            match demands.iter_mut().find(|demand| demand.1 == *cell) {
                Some(demand) => demand.2 += u64::from(*quantity),
                None => demands.push((*line, *cell, u64::from(*quantity))),
            }
        }
        demands.retain(|(_, cell, asked)| *asked > own(*cell));
        let those = |is_so: &dyn Fn(&Counters) -> bool| -> Vec<u16> {
            let wanted = |cell: u32| demands.iter().any(|demand| demand.1 == cell);
            let lines = lines.iter().filter(|line| wanted(line.1));
            lines.filter(|line| is_so(&self.counters(line.1))).map(|line| line.0).collect()
        };
        let bytes = |lines: &[u16]| lines.iter().flat_map(|line| line.to_le_bytes()).collect();
        let closed = those(&|cell| cell.is_closed(commit));
        if let Some(first) = closed.first() {
            let body = Body::Exact(bytes(&closed));
            return Err(Expected { code: Code::FROZEN, detail: *first, body });
        }
        let nameless = those(&|cell| !cell.is_open(commit, owned));
        if !nameless.is_empty() {
            return Err(bound(OwnerBound::Nameless, bytes(&nameless)));
        }
        let mut shorts = Vec::new();
        for (line, cell, asked) in &demands {
            let (own, counters) = (own(*cell) as i64, self.counters(*cell));
            if counters.grantable() < *asked as i64 - own {
                let available = own + counters.available();
                shorts.extend(u32::from(*line).to_le_bytes());
                shorts.extend(cell.to_le_bytes());
                shorts.extend(le(&[*asked, available as u64]));
            }
        }
        if !shorts.is_empty() {
            return Err(Expected { code: Code::NO_STOCK, detail: 0, body: Body::Exact(shorts) });
        }
        let mut after = self.cells.clone();
        for (_, cell, asked) in &demands {
            after[*cell as usize].reserved += (asked - own(*cell)) as i64;
        }
        let cells: Vec<u32> = demands.iter().map(|demand| demand.1).collect();
        if self.stay_in_range(&cells, &after) { Ok(()) } else { Err(plain(Code::OVERFLOW, 0)) }
    }

    /// Some cells, and their SKUs, are within range if all cells become `after`.
    pub(super) fn stay_in_range(&self, cells: &[u32], after: &[Counters]) -> bool {
        cells.iter().all(|cell| {
            let (_, sku) = &self.names[*cell as usize];
            let sums = self.skus[sku].iter().map(|cell| after[*cell as usize]);
            let sums = sums.reduce(|sums, cell| sums.plus(&cell)).expect("the cell is one of them");
            after[*cell as usize].is_in_range() && sums.is_in_range()
        })
    }

    /// What a reserve of these lines would be refused with now, or at `now_micros` if that is later,
    /// once all that is due by then has expired: a NO_STOCK body, empty if it would be granted or
    /// refused for another reason. `None` if a line names no cell.
    pub fn shorts_at(
        &self,
        lines: &[(Cell, u32)],
        commit: bool,
        now_micros: u64,
    ) -> Option<Vec<u8>> {
        let resolved: Vec<_> = lines.iter().map(|line| self.resolve(&line.0)).collect();
        let held = all_found(&resolved, lines)?;
        let mut then = self.clone();
        then.now_micros = now_micros.max(self.now_micros);
        then.settle();
        match then.check_stock(&numbered(&held), (commit, false), |_| 0) {
            Err(Expected { code: Code::NO_STOCK, body: Body::Exact(shorts), .. }) => Some(shorts),
            _ => Some(Vec::new()),
        }
    }

    /// The reservation of an id, or what is said if there is none.
    fn hold(&self, id: Id, late: bool) -> Result<Hold, Expected> {
        match self.entries.get(&id) {
            Some(Entry::Hold(hold)) => Ok(hold.clone()),
            _ if late => Err(plain(Code::DEADLINE_PASSED, 0)),
            Some(_) => Err(plain(Code::ID_REUSED, 0)),
            None if self.check_new(&id) == Err(Code::ID_TOO_OLD) => Err(plain(Code::ID_TOO_OLD, 0)),
            None => Err(plain(Code::NOT_FOUND, 0)),
        }
    }

    /// EXTEND, or PIN.
    pub(super) fn move_deadline(&mut self, id: Id, ttl_ms: u32, pin: bool, late: bool) -> Expected {
        let bad = if pin { !(1_000..=PIN_MS_MAX).contains(&ttl_ms) } else { bad_ttl(ttl_ms) };
        let mut hold = match self.hold(id, late) {
            Ok(hold) => hold,
            Err(refused) if refused.code == Code::NOT_FOUND && bad => {
                return plain(Code::TTL_RANGE, 0);
            }
            Err(refused) => return refused,
        };
        let detail = hold.state() as u16;
        if late {
            return plain(Code::DEADLINE_PASSED, detail);
        }
        if bad {
            return plain(Code::TTL_RANGE, 0);
        }
        if let Some(code) = not_active(hold.state()) {
            return plain(code, detail);
        }
        hold.deadline = if pin {
            hold.pinned = true;
            hold.deadline.max(self.deadline_after(u64::from(ttl_ms)))
        } else {
            let wanted = self.deadline_after(ttl(ttl_ms));
            let life_end = hold.created + self.config.max_life_ms;
            let life_end = round_up(life_end.saturating_sub(self.shift_ms));
            let deadline = hold.deadline.max(wanted.min(life_end));
            if wanted > life_end && deadline == hold.deadline {
                return plain(Code::MAX_LIFE, detail);
            }
            deadline
        };
        let body = Body::Exact(le(&[hold.deadline + self.shift_ms]));
        self.store(id, Entry::Hold(hold));
        Expected { code: Code::OK, detail, body }
    }

    /// CONFIRM, RELEASE, CANCEL, FULFIL.
    pub(super) fn change(
        &mut self,
        opcode: Opcode,
        id: Id,
        parts: &Parts<'_>,
        flags: OpFlags,
        late: bool,
    ) -> Expected {
        let whole = parts.is_whole();
        if opcode == Opcode::Release && whole && !self.entries.contains_key(&id) {
            return self.fence(id, late);
        }
        let hold = match self.hold(id, late) {
            Ok(hold) => hold,
            Err(refused) => return refused,
        };
        let detail = hold.state() as u16;
        let named: Vec<(u32, u32)> =
            parts.iter().map(|part| (u32::from(part.line), part.quantity)).collect();
        let key = (opcode as u8, parts.step());
        let plan = plan(opcode, &hold, whole, flags);
        if let Some(done) = hold.steps.get(&key) {
            let moves_more = match plan {
                Plan::Answer(_) => false,
                Plan::Take(from, _) => from.iter().any(|place| hold.any(*place)),
                Plan::TakeAgain(_) => hold.any(Place::Expired),
            };
            let is_done = *done == named && !(whole && moves_more);
            let refused = in_time(Code::CONFLICT, late);
            return plain(if is_done { Code::REPLAY } else { refused }, detail);
        }
        let (from, to) = match plan {
            Plan::Answer(Code::REPLAY) => return plain(Code::REPLAY, detail),
            _ if late => return plain(Code::DEADLINE_PASSED, detail),
            Plan::Answer(Code::QTY_EXCEEDS) => return plain(Code::QTY_EXCEEDS, 0),
            Plan::Answer(code) => return plain(code, detail),
            Plan::Take(from, to) => (from, to),
            Plan::TakeAgain(to) => (&[Place::Expired][..], to),
        };
        let there = |line: usize| -> u64 {
            from.iter().map(|place| u64::from(place.of(&hold.units[line]))).sum()
        };
        let wanted: Vec<(usize, u32)> = if whole {
            let all = (0..hold.lines.len()).map(|line| (line, there(line) as u32));
            all.filter(|part| part.1 > 0).collect()
        } else {
            named.iter().map(|part| (part.0 as usize, part.1)).collect()
        };
        let lacking = wanted.iter().filter(|(line, quantity)| {
            *line >= hold.lines.len() || there(*line) < u64::from(*quantity)
        });
        let lacking: Vec<u8> = lacking.flat_map(|part| (part.0 as u16).to_le_bytes()).collect();
        if !lacking.is_empty() {
            let body = Body::Exact(lacking);
            return Expected { code: Code::QTY_EXCEEDS, detail: 0, body };
        }
        if !whole && hold.steps.len() >= STEPS_MAX as usize {
            return plain(Code::OVERFLOW, 0);
        }
        if matches!(plan, Plan::TakeAgain(_)) {
            let is_open =
                matches!(hold.state(), ReservationState::Active | ReservationState::Confirmed);
            if !is_open && let Err(refused) = self.check_open(&hold.owner, 2) {
                return refused;
            }
            let lines: Vec<_> = wanted
                .iter()
                .map(|(line, quantity)| (*line as u16, hold.lines[*line].0, *quantity))
                .collect();
            if let Err(refused) = self.check_stock(&lines, (true, true), |_| 0) {
                return refused;
            }
        }
        self.take(id, hold, key, named, &wanted, (from, to))
    }

    /// Moves what is known to be there.
    fn take(
        &mut self,
        id: Id,
        mut hold: Hold,
        key: (u8, u32),
        named: Vec<(u32, u32)>,
        wanted: &[(usize, u32)],
        (from, to): (&[Place], Place),
    ) -> Expected {
        let again = from == [Place::Expired];
        let is_late = self.hold_ms() >= hold.deadline;
        let mut took_reserved = false;
        for (line, quantity) in wanted {
            let mut left = *quantity;
            for place in from {
                let there = place.of_mut(&mut hold.units[*line]);
                let moved = left.min(*there);
                *there -= moved;
                left -= moved;
                *to.of_mut(&mut hold.units[*line]) += moved;
                took_reserved |= *place == Place::Reserved && moved > 0;
                if moved > 0 {
                    self.move_units(hold.lines[*line].0, Some(*place), Some(to), moved);
                }
            }
        }
        if hold.in_steps || !named.is_empty() {
            hold.steps.insert(key, named);
            hold.in_steps = true;
        }
        hold.in_steps |= again;
        if hold.is_over() {
            hold.forget = hold.forget.max(self.hold_ms() + self.config.retention_ms);
        }
        let detail = hold.state() as u16;
        self.store(id, Entry::Hold(hold));
        let code = match () {
            () if again => Code::OK_REACQUIRED,
            () if is_late && took_reserved && to != Place::Released => Code::OK_LATE,
            () => Code::OK,
        };
        plain(code, detail)
    }

    fn fence(&mut self, id: Id, late: bool) -> Expected {
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        let fence = Hold {
            asked: Asked::Nothing,
            ttl_ms: 0,
            numbers: Vec::new(),
            lines: Vec::new(),
            units: Vec::new(),
            fenced: true,
            pinned: false,
            owner: Vec::new(),
            expired_at: 0,
            in_steps: false,
            steps: BTreeMap::new(),
            created: self.now_ms(),
            deadline: 0,
            forget: self.forget_from_now(&id),
        };
        self.store(id, Entry::Hold(fence));
        plain(Code::OK, ReservationState::Fenced as u16)
    }

    pub(super) fn amend(
        &mut self,
        id: Id,
        step: u32,
        lines: &[(Cell, u32)],
        late: bool,
    ) -> Expected {
        let resolved: Vec<_> = lines.iter().map(|line| self.resolve(&line.0)).collect();
        let held = all_found(&resolved, lines);
        let key = (Opcode::Amend as u8, step);
        let hold = match self.entries.get(&id) {
            Some(Entry::Hold(hold)) => Some(hold.clone()),
            Some(_) if late => return plain(Code::DEADLINE_PASSED, 0),
            Some(_) => return plain(Code::ID_REUSED, 0),
            None => None,
        };
        if let Some(hold) = &hold
            && let Some(done) = hold.steps.get(&key)
        {
            return match held {
                Some(held) if held == *done => self.granted(Code::REPLAY, hold, lines, &held),
                _ => plain(in_time(Code::CONFLICT, late), hold.state() as u16),
            };
        }
        let detail = hold.as_ref().map_or(0, |hold| hold.state() as u16);
        if late {
            return plain(Code::DEADLINE_PASSED, detail);
        }
        if hold.is_none() && self.check_new(&id) == Err(Code::ID_TOO_OLD) {
            return plain(Code::ID_TOO_OLD, 0);
        }
        let Some(held) = held else { return unknown_cells(&resolved) };
        let Some(mut hold) = hold else { return plain(Code::NOT_FOUND, 0) };
        if let Some(code) = not_active(hold.state()) {
            return plain(code, detail);
        }
        if [Place::Committed, Place::Fulfilled, Place::Cancelled].iter().any(|at| hold.any(*at)) {
            return plain(Code::HOLD_CONFIRMED, detail);
        }
        let own = |cell: u32| -> u64 {
            let lines = hold.lines.iter().zip(&hold.units).filter(|(line, _)| line.0 == cell);
            lines.map(|(_, units)| u64::from(units.reserved)).sum()
        };
        let owned = !hold.owner.is_empty();
        let checked = self
            .check_amend(&hold, &held)
            .and_then(|()| self.check_stock(&numbered(&held), (false, owned), own))
            .and_then(|()| self.check_rooms(&hold.owner, &held, own));
        if let Err(refused) = checked {
            return refused;
        }
        if hold.steps.len() >= STEPS_MAX as usize {
            return plain(Code::OVERFLOW, 0);
        }
        for ((cell, _), units) in hold.lines.iter().zip(&hold.units) {
            self.move_units(*cell, Some(Place::Reserved), None, units.reserved);
        }
        for (cell, quantity) in &held {
            self.move_units(*cell, None, Some(Place::Reserved), *quantity);
        }
        hold.units = held.iter().map(|line| all_in(Place::Reserved, line.1)).collect();
        hold.lines.clone_from(&held);
        hold.numbers = (0..).take(held.len()).collect();
        hold.in_steps = true;
        hold.steps.insert(key, held.clone());
        let answer = self.granted(Code::OK, &hold, lines, &held);
        self.store(id, Entry::Hold(hold));
        answer
    }

    /// A reservation that is due gives back what it holds.
    pub(super) fn expire(&mut self, id: Id, due: u64) {
        let Some(Entry::Hold(hold)) = self.entries.get(&id) else {
            unreachable!("what is due is a reservation");
        };
        let mut hold = hold.clone();
        assert!(hold.state() == ReservationState::Active, "a reservation expires once");
        for (line, units) in hold.lines.iter().zip(&mut hold.units) {
            let gone = std::mem::take(&mut units.reserved);
            units.expired += gone;
            self.move_units(line.0, Some(Place::Reserved), None, gone);
        }
        hold.expired_at = due;
        if hold.is_over() {
            hold.forget = hold.forget.max(due + self.config.retention_ms);
        }
        self.store(id, Entry::Hold(hold));
    }

    /// The outcome of a READ_RESERVATION: code, state and, if there is one, what it shows.
    pub fn read_reservation(&mut self, id: Id) -> Expected {
        self.read_hold(id, |hold, body| {
            body.extend((hold.lines.len() as u32).to_le_bytes());
            for (cell, quantity) in &hold.lines {
                body.extend(cell.to_le_bytes());
                body.extend(quantity.to_le_bytes());
            }
        })
    }

    /// The outcome of a READ_LINES.
    pub fn read_lines(&mut self, id: Id) -> Expected {
        self.read_hold(id, |hold, body| {
            let pinned = hold.pinned && hold.state() == ReservationState::Active;
            body.extend(u32::from(pinned).to_le_bytes());
            body.extend((hold.lines.len() as u32).to_le_bytes());
            for ((cell, _), units) in hold.lines.iter().zip(&hold.units) {
                body.extend(cell.to_le_bytes());
                let mut bytes = bytes::BytesMut::new();
                units.encode(&mut bytes);
                body.extend_from_slice(&bytes);
            }
        })
    }

    fn read_hold(&mut self, id: Id, show: impl FnOnce(&Hold, &mut Vec<u8>)) -> Expected {
        self.settle();
        let Some(Entry::Hold(hold)) = self.entries.get(&id) else {
            return plain(Code::NOT_FOUND, 0);
        };
        let deadline = if hold.fenced { 0 } else { hold.deadline + self.shift_ms };
        let mut body = le(&[hold.created, deadline]);
        show(hold, &mut body);
        Expected { code: Code::OK, detail: hold.state() as u16, body: Body::Exact(body) }
    }
}

/// The table of the design: rows are operations, columns are states.
fn plan(opcode: Opcode, hold: &Hold, whole: bool, flags: OpFlags) -> Plan {
    use ReservationState::{Active, Cancelled, Confirmed, Expired, Fenced, Fulfilled, Released};
    let state = hold.state();
    let ship = flags.contains(OpFlags::SHIP);
    let reacquire = flags.contains(OpFlags::REACQUIRE);
    match opcode {
        Opcode::Confirm => match state {
            Active => Plan::Take(&[Place::Reserved], Place::Committed),
            Released | Fenced => Plan::Answer(Code::HOLD_RELEASED),
            Expired if reacquire => Plan::TakeAgain(Place::Committed),
            Expired => Plan::Answer(Code::HOLD_EXPIRED),
            Confirmed | Fulfilled | Cancelled => match () {
                () if reacquire && hold.any(Place::Expired) => Plan::TakeAgain(Place::Committed),
                () if !whole => Plan::Take(&[Place::Reserved], Place::Committed),
                () if hold.any(Place::Released) || hold.any(Place::Expired) => {
                    Plan::Answer(Code::CONFLICT)
                }
                () => Plan::Answer(Code::REPLAY),
            },
        },
        Opcode::Release => match state {
            Active => Plan::Take(&[Place::Reserved], Place::Released),
            Released | Fenced if whole => Plan::Answer(Code::REPLAY),
            Released | Fenced => Plan::Answer(Code::HOLD_RELEASED),
            Expired if whole => Plan::Answer(Code::OK),
            Expired => Plan::Answer(Code::HOLD_EXPIRED),
            Confirmed | Fulfilled | Cancelled => Plan::Answer(Code::HOLD_CONFIRMED),
        },
        Opcode::Cancel => match state {
            Released | Fenced => Plan::Answer(Code::HOLD_RELEASED),
            Expired => Plan::Answer(Code::HOLD_EXPIRED),
            Active if !hold.any(Place::Committed) => Plan::Answer(Code::NOT_CONFIRMED),
            Cancelled if whole => Plan::Answer(Code::REPLAY),
            Fulfilled if whole => Plan::Answer(Code::QTY_EXCEEDS),
            Active | Confirmed | Fulfilled | Cancelled => {
                Plan::Take(&[Place::Committed], Place::Cancelled)
            }
        },
        _ => match state {
            Released | Fenced | Cancelled => Plan::Answer(Code::HOLD_RELEASED),
            Expired if reacquire && ship => Plan::TakeAgain(Place::Fulfilled),
            Expired => Plan::Answer(Code::HOLD_EXPIRED),
            Active if ship => Plan::Take(&[Place::Committed, Place::Reserved], Place::Fulfilled),
            Active if !hold.any(Place::Committed) => Plan::Answer(Code::NOT_CONFIRMED),
            Fulfilled if whole => Plan::Answer(Code::REPLAY),
            Active | Confirmed | Fulfilled => Plan::Take(&[Place::Committed], Place::Fulfilled),
        },
    }
}

fn not_active(state: ReservationState) -> Option<Code> {
    use ReservationState::{Active, Cancelled, Confirmed, Expired, Fenced, Fulfilled, Released};
    match state {
        Active => None,
        Confirmed | Fulfilled | Cancelled => Some(Code::HOLD_CONFIRMED),
        Expired => Some(Code::HOLD_EXPIRED),
        Released | Fenced => Some(Code::HOLD_RELEASED),
    }
}

fn all_in(place: Place, quantity: u32) -> LineShares {
    let mut units = LineShares::default();
    *place.of_mut(&mut units) = quantity;
    units
}

fn all_found(resolved: &[Result<u32, Code>], lines: &[(Cell, u32)]) -> Option<Vec<(u32, u32)>> {
    resolved.iter().zip(lines).map(|(cell, line)| Some(((*cell).ok()?, line.1))).collect()
}

fn numbered(held: &[(u32, u32)]) -> Vec<(u16, u32, u32)> {
    (0..).zip(held).map(|(line, (cell, quantity))| (line, *cell, *quantity)).collect()
}
