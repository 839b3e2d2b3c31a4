//! The naive model of the engine: ordered maps, and no cleverness about time.
//!
//! Before every operation, whatever is due expires and whatever is over long enough is forgotten. It
//! knows nothing of sweeps, groups, slabs, atomics or hash indexes, and shares no code with the engine
//! but the protocol's types: where the two agree, either both are right or both made the same mistake.
//!
//! Two things it may not know, because it does not sweep: how many units that are due are still counted
//! as held (so a RECEIVE may tell fewer available units than [`Body::Received`] says), and how many
//! ended reservations are still in memory.

use std::collections::{BTreeMap, BTreeSet};

use stockd::engine::EngineConfig;
use stockd_protocol::limits::{COUNTER_MAX, TTL_MS_DEFAULT, TTL_MS_MAX, TTL_MS_MIN};
use stockd_protocol::{Code, ReservationState, UnixMillis};

use crate::history::{Cell, Request};

/// What the engine should answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// What became of the operation.
    pub code: Code,
    /// The reservation's state, or the first line at fault, or 0.
    pub detail: u16,
    /// The outcome's body.
    pub body: Body,
}

/// What the engine's answer should carry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// These bytes.
    Exact(Vec<u8>),
    /// The counters of a cell. The available units may be fewer: due ones that nobody has met are
    /// still held.
    Received {
        /// Its handle.
        cell: u32,
        /// Units physically there.
        on_hand: i64,
        /// What a reserve could take.
        available_max: i64,
    },
}

/// What is remembered under an id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A stock write.
    Op {
        /// Where.
        cell: u32,
        /// How much.
        quantity: u32,
        /// When it may be forgotten, on the hold clock in ms.
        forget: u64,
    },
    /// A reservation.
    Hold(Hold),
}

/// A reservation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Where it stands.
    pub state: ReservationState,
    /// Cells and quantities.
    pub lines: Vec<(u32, u32)>,
    /// As it was asked for.
    pub ttl_ms: u32,
    /// On the cluster's clock, in ms.
    pub created: u64,
    /// On the hold clock, in ms.
    pub deadline: u64,
    /// On the hold clock, in ms.
    pub forget: u64,
}

/// A cell's counters. What is due is not in `reserved`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Units physically there.
    pub on_hand: i64,
    /// Units of active reservations.
    pub reserved: i64,
    /// Units of confirmed ones.
    pub committed: i64,
}

impl Counters {
    /// What a reserve could take.
    pub const fn available(&self) -> i64 {
        self.on_hand - self.reserved - self.committed
    }
}

type Id = [u8; 16];

/// See the module.
#[derive(Clone, Debug)]
pub struct Model {
    config: EngineConfig,
    now_micros: u64,
    shift_ms: u64,
    names: Vec<(Vec<u8>, Vec<u8>)>,
    by_warehouse: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, u32>>,
    /// The cells of each.
    skus: BTreeMap<Vec<u8>, Vec<u32>>,
    cells: Vec<Counters>,
    entries: BTreeMap<Id, Entry>,
    /// Active reservations by the moment at which they are due, on the hold clock.
    due: BTreeSet<(u64, Id)>,
    /// What is over, by the moment at which it may be forgotten, on the hold clock.
    over: BTreeSet<(u64, Id)>,
    touched: BTreeSet<u32>,
    expired: u64,
}

/// Deadlines and the grace are whole ticks of 64 ms, rounded up.
fn round_up(ms: u64) -> u64 {
    ms.div_ceil(64) * 64
}

/// When an id was made: its first 48 bits, in ms since 1970.
pub fn millis(id: &Id) -> u64 {
    id[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
}

fn plain(code: Code, detail: u16) -> Expected {
    Expected { code, detail, body: Body::Exact(Vec::new()) }
}

fn le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn ttl(ttl_ms: u32) -> u64 {
    u64::from(if ttl_ms == 0 { TTL_MS_DEFAULT } else { ttl_ms })
}

fn bad_ttl(ttl_ms: u32) -> bool {
    ttl_ms != 0 && !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms)
}

impl Model {
    /// Nothing in stock.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            now_micros: 0,
            shift_ms: 0,
            names: Vec::new(),
            by_warehouse: BTreeMap::new(),
            skus: BTreeMap::new(),
            cells: Vec::new(),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            over: BTreeSet::new(),
            touched: BTreeSet::new(),
            expired: 0,
        }
    }

    /// The cluster's clock, in micros since 1970.
    pub const fn now_micros(&self) -> u64 {
        self.now_micros
    }

    /// Moves time; says by how many ms.
    pub fn advance(&mut self, now_micros: u64) -> u64 {
        let before = self.now_micros;
        self.now_micros = before.max(now_micros);
        (self.now_micros - before) / 1_000
    }

    /// A new leader gives back an outage of so many ms to the deadlines.
    ///
    /// `held`: the engine counts a reservation as active, though it may be due. (Only then is anything
    /// given back; the model itself cannot tell, because it expired what is due.)
    pub fn give_back(&mut self, outage_ms: u64, held: bool) {
        if held {
            self.shift_ms += outage_ms.min(60_000);
        }
    }

    /// The names of all cells, in the order of their handles.
    pub fn names(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.names
    }

    /// The counters of a cell.
    pub fn counters(&self, cell: u32) -> Counters {
        self.cells[cell as usize]
    }

    /// The cells of a SKU in the order of their making; none: there is no such SKU.
    pub fn cells_of(&self, sku: &[u8]) -> &[u32] {
        self.skus.get(sku).map_or(&[], Vec::as_slice)
    }

    /// Over all cells of this one's SKU.
    fn total_on_hand(&self, cell: u32) -> i64 {
        let (_, sku) = &self.names[cell as usize];
        self.skus[sku].iter().map(|cell| self.counters(*cell).on_hand).sum()
    }

    /// What is remembered, by id.
    pub fn entries(&self) -> &BTreeMap<Id, Entry> {
        &self.entries
    }

    /// How many reservations have expired so far.
    pub const fn expired(&self) -> u64 {
        self.expired
    }

    /// The cells whose counters were changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.touched)
    }

    fn now_ms(&self) -> u64 {
        self.now_micros / 1_000
    }

    fn hold_micros(&self) -> u64 {
        self.now_micros.saturating_sub(self.shift_ms * 1_000)
    }

    fn hold_ms(&self) -> u64 {
        self.hold_micros() / 1_000
    }

    fn due_at(&self, deadline: u64) -> u64 {
        deadline + round_up(self.config.grace_ms)
    }

    /// Expires what is due and forgets what is over long enough.
    pub fn settle(&mut self) {
        let hold_ms = self.hold_ms();
        while let Some((due, id)) = self.due.first().copied().filter(|first| first.0 <= hold_ms) {
            self.end(id, ReservationState::Expired, due + self.config.retention_ms);
            self.expired += 1;
        }
        while let Some((_, id)) = self.over.first().copied().filter(|first| first.0 <= hold_ms) {
            self.over.pop_first();
            self.entries.remove(&id);
        }
    }

    /// Ends an active reservation and gives its units back.
    fn end(&mut self, id: Id, state: ReservationState, forget: u64) {
        let Some(Entry::Hold(hold)) = self.entries.get_mut(&id) else {
            unreachable!("what is due is a reservation");
        };
        assert!(hold.state == ReservationState::Active, "a reservation ends once");
        hold.state = state;
        hold.forget = hold.forget.max(forget);
        let (lines, deadline, forget) = (hold.lines.clone(), hold.deadline, hold.forget);
        for (cell, quantity) in lines {
            self.cell(cell).reserved -= i64::from(quantity);
        }
        let was_due = self.due.remove(&(self.due_at(deadline), id));
        assert!(was_due, "an active reservation has a deadline");
        self.over.insert((forget, id));
    }

    fn cell(&mut self, cell: u32) -> &mut Counters {
        self.touched.insert(cell);
        &mut self.cells[cell as usize]
    }

    /// The counters again, from the reservations alone: `Err` names a cell that does not add up.
    ///
    /// # Errors
    /// `reserved` is not the sum of the active lines of a cell, or `committed` of the confirmed ones.
    pub fn recount(&self) -> Result<(), String> {
        let mut sums = vec![(0, 0); self.cells.len()];
        for entry in self.entries.values() {
            let Entry::Hold(hold) = entry else { continue };
            for (cell, quantity) in &hold.lines {
                let sum: &mut (i64, i64) = &mut sums[*cell as usize];
                match hold.state {
                    ReservationState::Active => sum.0 += i64::from(*quantity),
                    ReservationState::Confirmed => sum.1 += i64::from(*quantity),
                    _ => (),
                }
            }
        }
        for (cell, (counters, sum)) in self.cells.iter().zip(sums).enumerate() {
            if (counters.reserved, counters.committed) != sum {
                return Err(format!("cell #{cell} has {counters:?}, its lines sum to {sum:?}"));
            }
        }
        Ok(())
    }

    /// Where a request's cell is.
    ///
    /// # Errors
    /// What it is refused with.
    pub fn resolve(&self, cell: &Cell) -> Result<u32, Code> {
        match cell {
            Cell::Handle(handle) if (handle.0 as usize) < self.names.len() => Ok(handle.0),
            Cell::Handle(_) => Err(Code::NOT_STOCKED),
            Cell::Name(warehouse, sku) => {
                let skus = self.by_warehouse.get(warehouse).ok_or(Code::UNKNOWN_WAREHOUSE)?;
                match skus.get(sku) {
                    Some(cell) => Ok(*cell),
                    None if self.skus.contains_key(sku) => Err(Code::NOT_STOCKED),
                    None => Err(Code::UNKNOWN_SKU),
                }
            }
        }
    }

    fn define(&mut self, cell: &Cell) -> Result<u32, Code> {
        match (self.resolve(cell), cell) {
            (Err(_), Cell::Name(warehouse, sku)) => {
                let handle = self.names.len() as u32;
                self.names.push((warehouse.clone(), sku.clone()));
                self.cells.push(Counters::default());
                self.skus.entry(sku.clone()).or_default().push(handle);
                let skus = self.by_warehouse.entry(warehouse.clone()).or_default();
                skus.insert(sku.clone(), handle);
                self.touched.insert(handle);
                Ok(handle)
            }
            (found, _) => found,
        }
    }

    fn check_new(&self, id: &Id) -> Result<(), Code> {
        if millis(id) + self.config.retention_ms <= self.now_ms() {
            return Err(Code::ID_TOO_OLD);
        }
        if millis(id) > self.now_ms() + 300_000 { Err(Code::CLOCK_SKEW) } else { Ok(()) }
    }

    fn forget_at_least(&self, id: &Id) -> u64 {
        millis(id).saturating_sub(self.shift_ms) + self.config.retention_ms
    }

    fn forget_from_now(&self, id: &Id) -> u64 {
        (self.hold_ms() + self.config.retention_ms).max(self.forget_at_least(id))
    }

    /// Executes one operation of a client.
    ///
    /// # Panics
    /// It is a read: the model judges what the log has.
    pub fn execute(&mut self, request: &Request, not_after: Option<UnixMillis>) -> Expected {
        self.settle();
        let late = not_after.is_some_and(|end| self.now_micros > end.0.saturating_mul(1_000));
        match request {
            Request::Define { cell } => match self.resolve(cell) {
                Err(_) if late => plain(Code::DEADLINE_PASSED, 0),
                _ => match self.define(cell) {
                    Ok(handle) => {
                        let body = Body::Exact(handle.to_le_bytes().to_vec());
                        Expected { code: Code::OK, detail: 0, body }
                    }
                    Err(code) => Expected { code, detail: 0, body: Body::Exact(vec![0, 0]) },
                },
            },
            Request::Receive { op_id, quantity, cell, define } => {
                self.receive(op_id.0, *quantity, cell, *define, late)
            }
            Request::Reserve { id, ttl_ms, lines } => self.reserve(id.0, *ttl_ms, lines, late),
            Request::Confirm { id } | Request::Release { id } | Request::Extend { id, .. } => {
                match self.entries.get(&id.0).cloned() {
                    Some(Entry::Op { .. }) if late => plain(Code::DEADLINE_PASSED, 0),
                    Some(Entry::Op { .. }) => match request {
                        Request::Extend { ttl_ms, .. } if bad_ttl(*ttl_ms) => {
                            plain(Code::TTL_RANGE, 0)
                        }
                        _ => plain(Code::ID_REUSED, 0),
                    },
                    Some(Entry::Hold(held)) => self.change(id.0, held, request, late),
                    None => self.change_unknown(id.0, request, late),
                }
            }
            Request::ReadCells { .. }
            | Request::ReadReservation { .. }
            | Request::ReadSku { .. } => panic!("a log holds no reads"),
        }
    }

    fn receive(
        &mut self,
        id: Id,
        quantity: u32,
        cell: &Cell,
        define: bool,
        late: bool,
    ) -> Expected {
        let body = |model: &Self, code, cell: u32| {
            let counters = model.counters(cell);
            let (on_hand, available_max) = (counters.on_hand, counters.available());
            Expected { code, detail: 0, body: Body::Received { cell, on_hand, available_max } }
        };
        if let Some(entry) = self.entries.get(&id) {
            let found = self.resolve(cell).ok();
            return match entry {
                Entry::Op { cell, quantity: same, .. }
                    if Some(*cell) == found && *same == quantity =>
                {
                    body(self, Code::REPLAY, *cell)
                }
                _ => plain(Code::ID_REUSED, 0),
            };
        }
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        let found = if define { self.define(cell) } else { self.resolve(cell) };
        let cell = match found {
            Ok(cell) => cell,
            Err(code) => return Expected { code, detail: 0, body: Body::Exact(vec![0, 0]) },
        };
        let most = self.counters(cell).on_hand.max(self.total_on_hand(cell));
        if most + i64::from(quantity) > COUNTER_MAX {
            return plain(Code::OVERFLOW, 0);
        }
        self.cell(cell).on_hand += i64::from(quantity);
        let forget = self.forget_from_now(&id);
        self.entries.insert(id, Entry::Op { cell, quantity, forget });
        self.over.insert((forget, id));
        body(self, Code::OK, cell)
    }

    fn reserve(&mut self, id: Id, ttl_ms: u32, lines: &[(Cell, u32)], late: bool) -> Expected {
        let resolved: Vec<_> = lines.iter().map(|line| self.resolve(&line.0)).collect();
        let held: Option<Vec<(u32, u32)>> = resolved
            .iter()
            .zip(lines)
            .map(|(cell, line)| Some((cell.as_ref().ok().copied()?, line.1)))
            .collect();
        let named = matches!(lines[0].0, Cell::Name(..));
        let grant = |code, state: ReservationState, deadline: u64, held: &[(u32, u32)]| {
            let mut body = le(&[deadline + self.shift_ms]);
            if named {
                body.extend(held.iter().flat_map(|line| line.0.to_le_bytes()));
            }
            Expected { code, detail: state as u16, body: Body::Exact(body) }
        };
        match self.entries.get(&id) {
            Some(Entry::Op { .. }) => return plain(Code::ID_REUSED, 0),
            Some(Entry::Hold(known)) if known.state == ReservationState::Fenced => {
                return plain(Code::HOLD_RELEASED, known.state as u16);
            }
            Some(Entry::Hold(known)) => {
                if held.as_ref() != Some(&known.lines) || known.ttl_ms != ttl_ms {
                    return plain(Code::ID_REUSED, known.state as u16);
                }
                return grant(Code::REPLAY, known.state, known.deadline, &known.lines);
            }
            None => {}
        }
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        if bad_ttl(ttl_ms) {
            return plain(Code::TTL_RANGE, 0);
        }
        let Some(held) = held else { return unknown_cells(&resolved) };
        let shorts = self.shorts(&held, |cell| self.counters(cell).available());
        if !shorts.is_empty() {
            return Expected { code: Code::NO_STOCK, detail: 0, body: Body::Exact(shorts) };
        }
        let deadline = round_up(self.hold_micros().div_ceil(1_000) + ttl(ttl_ms));
        let answer = grant(Code::OK, ReservationState::Active, deadline, &held);
        for (cell, quantity) in &held {
            self.cell(*cell).reserved += i64::from(*quantity);
        }
        self.due.insert((self.due_at(deadline), id));
        let hold = Hold {
            state: ReservationState::Active,
            lines: held,
            ttl_ms,
            created: self.now_ms(),
            deadline,
            forget: self.forget_at_least(&id),
        };
        self.entries.insert(id, Entry::Hold(hold));
        answer
    }

    /// A NO_STOCK body: every cell that has less than all its lines ask for.
    fn shorts(&self, held: &[(u32, u32)], available: impl Fn(u32) -> i64) -> Vec<u8> {
        let mut shorts = Vec::new();
        for (at, line) in held.iter().enumerate() {
            if held[..at].iter().any(|before| before.0 == line.0) {
                continue;
            }
            let same = held.iter().filter(|other| other.0 == line.0);
            let asked: u64 = same.map(|other| u64::from(other.1)).sum();
            let available = available(line.0);
            if available < asked as i64 {
                shorts.extend((at as u32).to_le_bytes());
                shorts.extend(line.0.to_le_bytes());
                shorts.extend(le(&[asked, available as u64]));
            }
        }
        shorts
    }

    /// What a reserve of these lines would be refused with now, or at `now_micros` if that is later,
    /// once all that is due by then has expired: a NO_STOCK body, empty if it would be granted. `None`
    /// if a line names no cell.
    pub fn shorts_at(&self, lines: &[(Cell, u32)], now_micros: u64) -> Option<Vec<u8>> {
        let held: Option<Vec<_>> = lines
            .iter()
            .map(|(cell, quantity)| Some((self.resolve(cell).ok()?, *quantity)))
            .collect();
        let hold_ms = now_micros.max(self.now_micros).saturating_sub(self.shift_ms * 1_000) / 1_000;
        let mut freed: BTreeMap<u32, i64> = BTreeMap::new();
        for (_, id) in self.due.iter().take_while(|due| due.0 <= hold_ms) {
            let Some(Entry::Hold(hold)) = self.entries.get(id) else { continue };
            for (cell, quantity) in &hold.lines {
                *freed.entry(*cell).or_default() += i64::from(*quantity);
            }
        }
        let freed = |cell| freed.get(&cell).copied().unwrap_or(0);
        Some(self.shorts(&held?, |cell| self.counters(cell).available() + freed(cell)))
    }

    /// The outcome of a READ_RESERVATION: code, state and, if there is one, what it shows.
    pub fn read_reservation(&mut self, id: Id) -> Expected {
        self.settle();
        let Some(Entry::Hold(hold)) = self.entries.get(&id) else {
            return plain(Code::NOT_FOUND, 0);
        };
        let fenced = hold.state == ReservationState::Fenced;
        let deadline = if fenced { 0 } else { hold.deadline + self.shift_ms };
        let mut body = le(&[hold.created, deadline]);
        body.extend((hold.lines.len() as u32).to_le_bytes());
        for (cell, quantity) in &hold.lines {
            body.extend(cell.to_le_bytes());
            body.extend(quantity.to_le_bytes());
        }
        Expected { code: Code::OK, detail: hold.state as u16, body: Body::Exact(body) }
    }

    fn change_unknown(&mut self, id: Id, request: &Request, late: bool) -> Expected {
        let too_old = self.check_new(&id) == Err(Code::ID_TOO_OLD);
        let code = match request {
            _ if late => Code::DEADLINE_PASSED,
            _ if too_old => Code::ID_TOO_OLD,
            Request::Extend { ttl_ms, .. } if bad_ttl(*ttl_ms) => Code::TTL_RANGE,
            Request::Release { .. } => match self.check_new(&id) {
                Err(code) => code,
                Ok(()) => {
                    let state = ReservationState::Fenced;
                    let (created, forget) = (self.now_ms(), self.forget_from_now(&id));
                    let lines = Vec::new();
                    let fence = Hold { state, lines, ttl_ms: 0, created, deadline: 0, forget };
                    self.entries.insert(id, Entry::Hold(fence));
                    self.over.insert((forget, id));
                    return plain(Code::OK, state as u16);
                }
            },
            _ => Code::NOT_FOUND,
        };
        plain(code, 0)
    }

    fn change(&mut self, id: Id, held: Hold, request: &Request, late: bool) -> Expected {
        use ReservationState::{Active, Confirmed, Expired, Fenced, Released};
        let detail = held.state as u16;
        match (request, held.state) {
            (Request::Extend { ttl_ms, .. }, _) if !late && bad_ttl(*ttl_ms) => {
                plain(Code::TTL_RANGE, 0)
            }
            (Request::Confirm { .. }, Confirmed) => plain(Code::REPLAY, detail),
            (Request::Release { .. }, Released | Fenced) => plain(Code::REPLAY, detail),
            _ if late => plain(Code::DEADLINE_PASSED, detail),
            (Request::Release { .. }, Expired) => plain(Code::OK, detail),
            (_, Expired) => plain(Code::HOLD_EXPIRED, detail),
            (_, Released | Fenced) => plain(Code::HOLD_RELEASED, detail),
            (_, Confirmed) => plain(Code::HOLD_CONFIRMED, detail),
            (Request::Confirm { .. }, Active) => self.confirm(id, held),
            (Request::Release { .. }, Active) => {
                self.end(id, Released, self.hold_ms() + self.config.retention_ms);
                plain(Code::OK, Released as u16)
            }
            (Request::Extend { ttl_ms, .. }, Active) => self.extend(id, held, *ttl_ms),
            _ => unreachable!("only changes of reservations come here"),
        }
    }

    fn confirm(&mut self, id: Id, mut held: Hold) -> Expected {
        let in_grace = self.hold_ms() >= held.deadline;
        for (cell, quantity) in &held.lines {
            let counters = self.cell(*cell);
            counters.reserved -= i64::from(*quantity);
            counters.committed += i64::from(*quantity);
        }
        self.due.remove(&(self.due_at(held.deadline), id));
        held.state = ReservationState::Confirmed;
        self.entries.insert(id, Entry::Hold(held));
        let code = if in_grace { Code::OK_LATE } else { Code::OK };
        plain(code, ReservationState::Confirmed as u16)
    }

    fn extend(&mut self, id: Id, mut held: Hold, ttl_ms: u32) -> Expected {
        let wanted = round_up(self.hold_micros().div_ceil(1_000) + ttl(ttl_ms));
        let life_end = held.created + self.config.max_life_ms;
        let life_end = round_up(life_end.saturating_sub(self.shift_ms));
        let deadline = held.deadline.max(wanted.min(life_end));
        let detail = held.state as u16;
        if wanted > life_end && deadline == held.deadline {
            return plain(Code::MAX_LIFE, detail);
        }
        self.due.remove(&(self.due_at(held.deadline), id));
        self.due.insert((self.due_at(deadline), id));
        held.deadline = deadline;
        self.entries.insert(id, Entry::Hold(held));
        let body = Body::Exact(le(&[deadline + self.shift_ms]));
        Expected { code: Code::OK, detail, body }
    }
}

/// Names every line that has the same fault as the first faulty one.
fn unknown_cells(resolved: &[Result<u32, Code>]) -> Expected {
    let faults = || resolved.iter().enumerate().filter_map(|(at, cell)| Some((at, cell.err()?)));
    let (first, code) = faults().next().expect("a line names no cell");
    let same = faults().filter(|fault| fault.1 == code);
    let body = same.flat_map(|fault| (fault.0 as u16).to_le_bytes()).collect();
    Expected { code, detail: first as u16, body: Body::Exact(body) }
}
