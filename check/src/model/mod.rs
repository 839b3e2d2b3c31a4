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

use bytes::BytesMut;
use stockd::engine::EngineConfig;
use stockd_protocol::limits::{TTL_MS_DEFAULT, TTL_MS_MAX, TTL_MS_MIN};
use stockd_protocol::{
    CellRef, Code, Op, OpFlags, OwnerLimits, Reader, ReservationState, Terms, Transfer,
    TransferState, UnixMillis, take_op_and_terms,
};

use crate::history::{Cell, Request};

mod catalogue;
mod cell;
mod holds;
mod owners;
mod sourcing;
mod stock;

pub use cell::Counters;
pub use holds::Hold;

/// What the engine should answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// What became of the operation.
    pub code: Code,
    /// The state of the reservation or the transfer, or the first line at fault, or 0.
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
        /// What it says, but for the cell.
        said: Vec<u8>,
        /// When it may be forgotten, on the hold clock in ms.
        forget: u64,
    },
    /// A count that has begun.
    Count {
        /// Where.
        cell: u32,
        /// Units that were there.
        on_hand: i64,
        /// The cell's epoch then.
        epoch: u64,
        /// As of a stock write.
        said: Vec<u8>,
        /// As of a stock write.
        forget: u64,
    },
    /// Units on their way.
    Transfer {
        /// How far they are.
        now: Transfer,
        /// Where it stands.
        state: TransferState,
        /// It was to be recorded whatever follows.
        truth: bool,
        /// As of a stock write.
        forget: u64,
    },
    /// A reservation.
    Hold(Hold),
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
    /// What was forgotten, and is still answered for by an archive.
    archive: BTreeMap<Id, Entry>,
    touched: BTreeSet<u32>,
    limits: OwnerLimits,
    /// By own name.
    items: BTreeMap<Vec<u8>, catalogue::Item>,
    /// Cells that may have crossed a reorder point since somebody looked.
    moved: BTreeSet<u32>,
    low_cells: BTreeSet<u32>,
    low_skus: BTreeSet<Vec<u8>>,
    crossings: Vec<catalogue::Crossed>,
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

/// The same, but for a UUIDv4, which does not say.
pub fn born(id: &Id) -> Option<u64> {
    let years_2020_to_2039 = 1_577_836_800_000..2_208_988_800_000;
    let is_v4 = id[6] & 0xf0 == 0x40 && id[8] & 0xc0 == 0x80;
    (!is_v4 || years_2020_to_2039.contains(&millis(id))).then(|| millis(id))
}

fn plain(code: Code, detail: u16) -> Expected {
    Expected { code, detail, body: Body::Exact(Vec::new()) }
}

/// What is refused of a request that was not done before: that it is late comes first.
fn in_time(code: Code, late: bool) -> Code {
    if late { Code::DEADLINE_PASSED } else { code }
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
            archive: BTreeMap::new(),
            touched: BTreeSet::new(),
            limits: OwnerLimits::default(),
            items: BTreeMap::new(),
            moved: BTreeSet::new(),
            low_cells: BTreeSet::new(),
            low_skus: BTreeSet::new(),
            crossings: Vec::new(),
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
        let cells = self.own_name(sku).and_then(|own| self.skus.get(&own));
        cells.map_or(&[], Vec::as_slice)
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
            self.expire(id, due);
            self.expired += 1;
        }
        while let Some((_, id)) = self.over.first().copied().filter(|first| first.0 <= hold_ms) {
            self.over.pop_first();
            if let Some(entry) = self.entries.remove(&id)
                && born(&id).is_some()
            {
                self.archive.insert(id, entry);
            }
        }
    }

    fn cell(&mut self, cell: u32) -> &mut Counters {
        self.touched.insert(cell);
        self.moved.insert(cell);
        &mut self.cells[cell as usize]
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
                let sku = self.own_name(sku).ok_or(Code::UNKNOWN_SKU)?;
                skus.get(&sku).copied().ok_or(Code::NOT_STOCKED)
            }
        }
    }

    fn define(&mut self, cell: &Cell) -> Result<u32, Code> {
        match (self.resolve(cell), cell) {
            (Err(_), Cell::Name(warehouse, sku)) => {
                let handle = self.names.len() as u32;
                let sku = &self.own_name(sku).unwrap_or_else(|| sku.clone());
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
        let Some(born) = born(id) else { return Ok(()) };
        if born + self.config.retention_ms <= self.now_ms() {
            return Err(Code::ID_TOO_OLD);
        }
        if born > self.now_ms() + 300_000 { Err(Code::CLOCK_SKEW) } else { Ok(()) }
    }

    fn forget_at_least(&self, id: &Id) -> u64 {
        let born = born(id).map_or(self.hold_ms(), |born| born.saturating_sub(self.shift_ms));
        born + self.config.retention_ms
    }

    fn forget_from_now(&self, id: &Id) -> u64 {
        (self.hold_ms() + self.config.retention_ms).max(self.forget_at_least(id))
    }

    /// Executes one operation of a client. One that is LINKED, or follows one that is, belongs into a
    /// [`chain`](Self::chain).
    ///
    /// # Panics
    /// It is a read: the model judges what the log has.
    pub fn execute(&mut self, request: &Request, not_after: Option<UnixMillis>) -> Expected {
        let answer = self.execute_one(request, not_after);
        self.note_crossings();
        answer
    }

    /// What an archive answers to a request whose id is forgotten; `None`: the id was never known, or is
    /// of a time that it does not tell.
    ///
    /// # Panics
    /// The answer would change something.
    pub fn answer_archived(
        &mut self,
        request: &Request,
        not_after: Option<UnixMillis>,
    ) -> Option<Expected> {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, not_after);
        let (op, mut terms) = take_op_and_terms(&mut Reader::new(&bytes)).expect("it encodes");
        terms.flags = terms.flags.without(OpFlags::REACQUIRE);
        self.settle();
        let cells = self.cells.clone();
        let answer = self.read_archived(&op.key()?, |model| model.execute_op(&op, &terms));
        assert!(self.cells == cells, "{request:?} changed something");
        answer
    }

    /// What an archive shows of what is forgotten; `None`: it was never known.
    pub fn read_archived(
        &mut self,
        id: &Id,
        read: impl FnOnce(&mut Self) -> Expected,
    ) -> Option<Expected> {
        let entry = self.archive.get(id)?.clone();
        let count = self.entries.len();
        let clash = self.entries.insert(*id, entry.clone());
        assert!(clash.is_none(), "what is forgotten is not in memory");
        let answer = read(self);
        assert!(self.entries.remove(id) == Some(entry), "an archived record never changes");
        assert!(self.entries.len() == count, "an archived record leads to no other");
        Some(answer)
    }

    /// The ids of what was forgotten.
    pub fn archived(&self) -> impl Iterator<Item = &Id> {
        self.archive.keys()
    }

    fn execute_one(&mut self, request: &Request, not_after: Option<UnixMillis>) -> Expected {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, not_after);
        let (op, terms) = take_op_and_terms(&mut Reader::new(&bytes)).expect("a request encodes");
        self.execute_op(&op, &terms)
    }

    fn execute_op(&mut self, op: &Op<'_>, terms: &Terms<'_>) -> Expected {
        self.settle();
        let now = self.now_micros;
        let late = terms.not_after.is_some_and(|end| now > end.0.saturating_mul(1_000));
        match *op {
            Op::Define { cell } => match self.resolve(&cell_of(cell)) {
                Err(_) if late => plain(Code::DEADLINE_PASSED, 0),
                _ => match self.define(&cell_of(cell)) {
                    Ok(handle) => {
                        let body = Body::Exact(handle.to_le_bytes().to_vec());
                        Expected { code: Code::OK, detail: 0, body }
                    }
                    Err(code) => Expected { code, detail: 0, body: Body::Exact(vec![0, 0]) },
                },
            },
            Op::TransferShip { .. }
            | Op::TransferReceive { .. }
            | Op::TransferClose { .. }
            | Op::TransferCancel { .. } => self.transfer(op, terms, late),
            Op::Reserve { id, ttl_ms, lines } => {
                let commit = terms.flags.contains(OpFlags::COMMIT);
                self.reserve(id.0, ttl_ms, &lines_of(lines), (commit, late))
            }
            Op::ReserveFrom { id, ttl_ms, wishes } => {
                let commit = terms.flags.contains(OpFlags::COMMIT);
                self.reserve_from(id.0, ttl_ms, wishes, (commit, late))
            }
            Op::Confirm { id, parts }
            | Op::Release { id, parts }
            | Op::Cancel { id, parts }
            | Op::Fulfil { id, parts } => self.change(op.opcode(), id.0, &parts, terms.flags, late),
            Op::Extend { id, ttl_ms } => self.move_deadline(id.0, ttl_ms, false, late),
            Op::Pin { id, ttl_ms } => self.move_deadline(id.0, ttl_ms, true, late),
            Op::Amend { id, step, lines } => self.amend(id.0, step, &lines_of(lines), late),
            Op::DescribeSku { op_id, .. }
            | Op::NameSku { op_id, .. }
            | Op::SetReorder { op_id, .. } => {
                self.write_catalogue(op_id.0, op, stock::said(op, terms), late)
            }
            Op::SetOwnerLimits { op_id, limits } => {
                self.set_owner_limits(op_id.0, limits, stock::said(op, terms), late)
            }
            op if op.opcode().is_write() => self.write(&op, terms, late),
            _ => panic!("a log holds no reads"),
        }
    }

    /// Executes linked operations: all, or none. Cells that were made stay.
    pub fn chain(&mut self, requests: &[(Request, Option<UnixMillis>)]) -> Vec<Expected> {
        self.settle();
        let archive = std::mem::take(&mut self.archive);
        let done = self.chain_without_archive(requests);
        self.archive.extend(archive);
        done
    }

    fn chain_without_archive(
        &mut self,
        requests: &[(Request, Option<UnixMillis>)],
    ) -> Vec<Expected> {
        let before = self.clone();
        let mut done = Vec::new();
        for (request, not_after) in requests {
            done.push(self.execute_one(request, *not_after));
            if !done[done.len() - 1].code.is_ok() {
                break;
            }
        }
        let Some(refused) = done.pop().filter(|last| !last.code.is_ok()) else {
            // Nothing is refused once it was found that nothing is.
            *self = before;
            let done = requests.iter().map(|(request, end)| self.execute_one(request, *end));
            let done = done.collect();
            self.note_crossings();
            return done;
        };
        let (made, touched) = (self.names.clone(), self.touched.clone());
        *self = before;
        self.touched.extend(touched);
        for (warehouse, sku) in made.into_iter().skip(self.names.len()) {
            self.define(&Cell::Name(warehouse, sku)).expect("a name makes a cell");
        }
        let failed = plain(Code::LINKED_FAILED, 0);
        let mut all = vec![failed; requests.len()];
        all[done.len()] = refused;
        all
    }

    /// Puts an entry in the place of what is remembered under its id, if anything.
    fn store(&mut self, id: Id, entry: Entry) {
        self.forget_places(id);
        match &entry {
            Entry::Op { forget, .. } | Entry::Count { forget, .. } => {
                self.over.insert((*forget, id));
            }
            Entry::Transfer { state: TransferState::Open, .. } => {}
            Entry::Transfer { forget, .. } => {
                self.over.insert((*forget, id));
            }
            Entry::Hold(hold) => match hold.state() {
                ReservationState::Active => {
                    self.due.insert((self.due_at(hold.deadline), id));
                }
                ReservationState::Confirmed => {}
                _ => {
                    self.over.insert((hold.forget, id));
                }
            },
        }
        self.entries.insert(id, entry);
    }

    fn forget_places(&mut self, id: Id) {
        let Some(entry) = self.entries.get(&id) else { return };
        let (forget, deadline) = match entry {
            Entry::Op { forget, .. }
            | Entry::Count { forget, .. }
            | Entry::Transfer { forget, .. } => (*forget, 0),
            Entry::Hold(hold) => (hold.forget, hold.deadline),
        };
        self.over.remove(&(forget, id));
        self.due.remove(&(self.due_at(deadline), id));
    }

    /// The counters again, from what is remembered alone: `Err` names a cell that does not add up.
    ///
    /// # Errors
    /// `reserved` is not the sum of what the lines on a cell hold, `committed` of what they promise, or
    /// `in_transit` of what has not arrived.
    pub fn recount(&self) -> Result<(), String> {
        let mut sums = vec![(0, 0, 0); self.cells.len()];
        for entry in self.entries.values() {
            match entry {
                Entry::Hold(hold) => {
                    for ((cell, quantity), units) in hold.lines.iter().zip(&hold.units) {
                        if units.requested() != u64::from(*quantity) {
                            return Err(format!("{units:?} are not the {quantity} of a line"));
                        }
                        let sum: &mut (i64, i64, i64) = &mut sums[*cell as usize];
                        sum.0 += i64::from(units.reserved);
                        sum.1 += i64::from(units.committed);
                    }
                }
                Entry::Transfer { now, state: TransferState::Open, .. } => {
                    sums[now.to.0 as usize].2 += i64::from(now.rest());
                }
                _ => {}
            }
        }
        for (cell, (counters, sum)) in self.cells.iter().zip(sums).enumerate() {
            if (counters.reserved, counters.committed, counters.in_transit) != sum {
                return Err(format!("cell #{cell} has {counters:?}, it sums to {sum:?}"));
            }
        }
        Ok(())
    }
}

fn cell_of(cell: CellRef<'_>) -> Cell {
    Cell::of(cell)
}

fn lines_of(lines: stockd_protocol::Lines<'_>) -> Vec<(Cell, u32)> {
    lines.iter().map(|line| (Cell::of(line.cell), line.quantity)).collect()
}

/// Names every line that has the same fault as the first faulty one.
fn unknown_cells(resolved: &[Result<u32, Code>]) -> Expected {
    let faults = || resolved.iter().enumerate().filter_map(|(at, cell)| Some((at, cell.err()?)));
    let (first, code) = faults().next().expect("a line names no cell");
    let same = faults().filter(|fault| fault.1 == code);
    let body = same.flat_map(|fault| (fault.0 as u16).to_le_bytes()).collect();
    Expected { code, detail: first as u16, body: Body::Exact(body) }
}
