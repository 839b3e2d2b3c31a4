//! One run: random batches, executed by the engine, its twin and the model, and compared.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use stockd::engine::batch::{self, BatchBuilder, PrincipalRuns};
use stockd::engine::{ArchivedRecord, EngineConfig, SnapshotLoader, StockState};
use stockd::protocol::event::{self, Counts, EventBody, EventKind, EventRecord, Ledger};
use stockd::protocol::limits::COUNTER_MAX;
use stockd::protocol::{
    Bucket, CellHandle, Code, CrossingsHead, Filter, Guard, Line, LineMode, LineShares, ListHead,
    ListedCell, Listing, Naming, Note, Op, OpFlags, OpId, Opcode, Outcome, OutcomeHeader,
    OwnerLimits, Part, Parts, PolicyChange, Reader, ReservationId, Rules, ShardId, Sourcing, Terms,
    UnixMillis, Wish, begin_outcome, take_op_and_terms, take_outcome,
};
use stockd::world::UnixMicros;
use stockd_check::history::Sent;
use stockd_check::model::{self, Body, Entry, Expected, Model};
use stockd_check::{Cell, Request};

use super::dice::Dice;

/// Who reserves, if it is somebody in particular.
const OWNERS: [&[u8]; 3] = [b"ann", b"bob", b"cyd"];

/// Short lives, so that a run of a few hundred batches sees every end.
const CONFIG: EngineConfig = EngineConfig {
    grace_ms: 500,
    retention_ms: 12_000,
    max_life_ms: 9_000,
    sample_refusals: 0,
    hash_seed: 1,
};

/// Some tell no refusals, some all, some a few.
fn config(seed: u64) -> EngineConfig {
    EngineConfig { hash_seed: seed, sample_refusals: [0, 1, 3][(seed % 3) as usize], ..CONFIG }
}

/// One operation of a batch, as the test makes it up.
#[derive(Clone, Debug)]
enum Command {
    Client(Request),
    Expire { budget: u32 },
    LeaderStart,
    Tick,
}

/// A refusal as an event tells it: of what, with which operation, why.
type Told = ([u8; 16], Opcode, Code);

/// What the events say has become of a reservation's units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Life {
    reserved: i64,
    committed: i64,
    gone: i64,
    /// The log entry in which it began.
    since: u64,
}

/// A run: engine, model, and what the dice have made up so far.
pub struct Run {
    seed: u64,
    dice: Dice,
    model: Model,
    state: StockState,
    /// The engine as it was restored from a snapshot on the way: it must stay equal.
    twin: Option<StockState>,
    ids: Vec<[u8; 16]>,
    holds: Vec<[u8; 16]>,
    sent: Vec<Request>,
    counts: Vec<OpId>,
    transfers: Vec<OpId>,
    /// What the engine has forgotten.
    archive: BTreeMap<[u8; 16], ArchivedRecord>,
    /// What the events say is in the cells, and what has become of each reservation's units.
    ledger: Ledger,
    lives: BTreeMap<[u8; 16], Life>,
    /// The refusals that events have told.
    refusals: Vec<Told>,
    pub refused_early: u64,
    pub archived: u64,
    pub refusals_told: u64,
    pub codes: BTreeMap<Code, u64>,
}

fn entry(now_micros: u64, op_count: u32, ops: &[u8], principals: &PrincipalRuns) -> BytesMut {
    let mut entry = BytesMut::new();
    let batch = BatchBuilder::begin_named(&mut entry, principals);
    entry.put_slice(ops);
    batch.finish(&mut entry, UnixMicros(now_micros), op_count);
    entry
}

/// Somebody's, somebody else's and nobody's operations; in every third entry, nobody's only.
fn principals(index: u64, op_count: u32) -> PrincipalRuns {
    let mut principals = PrincipalRuns::default();
    for position in 0..op_count.saturating_sub((index % 3) as u32) {
        let name: &[u8] = [&b"shop"[..], b"", b"desk"][position as usize / 2 % 3];
        principals.add(if index.is_multiple_of(3) { b"" } else { name }, 1);
    }
    principals
}

impl Run {
    /// A run whose numbers `dice` draws. `seed` names it, and seeds the hash indexes.
    pub fn new(seed: u64, dice: Dice) -> Self {
        let mut state = StockState::new(config(seed));
        state.keep_forgotten();
        state.keep_events(ShardId::default());
        let mut ledger = Ledger::new();
        ledger.expect(1);
        Self {
            seed,
            dice,
            model: Model::new(CONFIG),
            state,
            twin: None,
            ids: Vec::new(),
            holds: Vec::new(),
            sent: Vec::new(),
            counts: Vec::new(),
            transfers: Vec::new(),
            archive: BTreeMap::new(),
            ledger,
            lives: BTreeMap::new(),
            refusals: Vec::new(),
            refused_early: 0,
            archived: 0,
            refusals_told: 0,
            codes: BTreeMap::new(),
        }
    }

    fn name(&mut self) -> Cell {
        let warehouse = format!("w{}", self.dice.below(3));
        let is_alias = self.dice.one_in(20);
        let sku = if is_alias { self.sku() } else { format!("s{}", self.dice.below(5)) };
        Cell::name(warehouse, sku)
    }

    fn id(&mut self, now_ms: u64) -> [u8; 16] {
        if !self.ids.is_empty() && self.dice.one_in(12) {
            return self.dice.pick(&self.ids);
        }
        if self.dice.one_in(10) {
            // A UUIDv4, and now and then one that might be a ULID.
            let mut id = [0; 16];
            let bits = [self.dice.next().to_be_bytes(), self.dice.next().to_be_bytes()];
            id.copy_from_slice(bits.as_flattened());
            if self.dice.one_in(8) {
                id[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
            }
            (id[6], id[8]) = (0x40 | id[6] & 0x0f, 0x80 | id[8] & 0x3f);
            self.ids.push(id);
            return id;
        }
        let born = match self.dice.below(40) {
            0 => now_ms + 299_000 + self.dice.below(2_000),
            1 => now_ms.saturating_sub(CONFIG.retention_ms - 20 + self.dice.below(40)),
            2..10 => now_ms + self.dice.below(3_000),
            _ => now_ms.saturating_sub(self.dice.below(300)),
        };
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.dice.next().to_le_bytes());
        let id = ReservationId::from_parts(born, random).0;
        self.ids.push(id);
        id
    }

    /// Most likely the id of a reservation.
    fn old_id(&mut self, now_ms: u64) -> [u8; 16] {
        let recent = self.holds.len().saturating_sub(self.dice.pick(&[20, 100, 300]));
        match self.dice.below(20) {
            0 => self.id(now_ms),
            1 if !self.ids.is_empty() => self.dice.pick(&self.ids),
            2 if !self.holds.is_empty() => self.dice.pick(&self.holds),
            _ if recent < self.holds.len() => self.dice.pick(&self.holds[recent..]),
            _ => self.id(now_ms),
        }
    }

    fn cell(&mut self) -> Cell {
        let count = self.model.names().len() as u64;
        match self.dice.below(30) {
            0 => Cell::name("nowhere", "s1"),
            1 => Cell::name("w1", "nothing"),
            2 => Cell::Handle(CellHandle(count as u32 + 3)),
            3..10 => self.name(),
            _ => Cell::Handle(CellHandle(self.dice.below(count + 1) as u32)),
        }
    }

    fn lines(&mut self) -> Vec<(Cell, u32)> {
        let count = self.dice.pick(&[1, 1, 1, 2, 2, 3, 4, 8]);
        let first = (self.cell(), 1 + self.dice.below(4) as u32);
        let mut lines = vec![first];
        while lines.len() < count && !self.dice.is_spent() {
            let cell = self.cell();
            if matches!(cell, Cell::Name(..)) == matches!(lines[0].0, Cell::Name(..)) {
                lines.push((cell, 1 + self.dice.below(4) as u32));
            }
        }
        lines
    }

    fn command(&mut self, now_ms: u64) -> Command {
        match self.dice.below(100) {
            0..5 => Command::Expire { budget: self.dice.below(12) as u32 },
            5..7 => Command::Tick,
            _ => Command::Client(self.request(now_ms)),
        }
    }

    fn request(&mut self, now_ms: u64) -> Request {
        if !self.sent.is_empty() && self.dice.one_in(25) {
            let recent = self.sent.len().saturating_sub(200);
            return self.dice.pick(&self.sent[recent..]);
        }
        let request = self.new_request(now_ms);
        self.sent.push(request.clone());
        request
    }

    fn new_request(&mut self, now_ms: u64) -> Request {
        match self.dice.below(100) {
            0..3 => Request::Define { cell: self.name() },
            3..11 => {
                let (op_id, cell) = (OpId(self.id(now_ms)), self.cell());
                let define = self.dice.one_in(2) && matches!(cell, Cell::Name(..));
                let quantity = 1 + self.dice.below(30) as u32;
                Request::Receive { op_id, quantity, cell, define }
            }
            11..38 => {
                let ttl_ms = self.ttl_ms();
                let id = ReservationId(self.id(now_ms));
                self.holds.push(id.0);
                Request::Reserve { id, ttl_ms, lines: self.lines() }
            }
            38..44 => Request::Confirm { id: ReservationId(self.old_id(now_ms)) },
            44..50 => Request::Release { id: ReservationId(self.old_id(now_ms)) },
            50..56 => {
                let id = ReservationId(self.old_id(now_ms));
                Request::Extend { id, ttl_ms: self.ttl_ms() }
            }
            56..62 => Request::Other(self.reserve_from(now_ms)),
            62..78 => Request::Other(self.change(now_ms)),
            78 => Request::Other(self.limit_owners(now_ms)),
            79..81 => Request::Other(self.catalogue(now_ms)),
            _ => Request::Other(self.write(now_ms)),
        }
    }

    fn ttl_ms(&mut self) -> u32 {
        match self.dice.below(30) {
            0 => 999,
            1 => 0,
            2 => 14_400_001,
            _ => 1_000 + self.dice.below(5_000) as u32,
        }
    }

    /// What stands around an operation, with some of `flags`.
    fn terms(&mut self, flags: &[OpFlags]) -> Terms<'static> {
        let mut all = OpFlags::default();
        for flag in flags {
            all = if self.dice.one_in(2) { all.with(*flag) } else { all };
        }
        let note = Note { reason: 3, reference: b"why" };
        Terms { flags: all, not_after: None, note: self.dice.one_in(10).then_some(note) }
    }

    /// Something that is done with a reservation, in part or by a rare way.
    fn change(&mut self, now_ms: u64) -> Sent {
        let id = ReservationId(self.old_id(now_ms));
        let kind = self.dice.below(12);
        if kind == 0 {
            let ttl_ms = self.ttl_ms();
            return Sent::new(&Op::Pin { id, ttl_ms }, &self.terms(&[])).unwrap();
        }
        let mut bytes = BytesMut::new();
        if kind <= 3 {
            let commit = kind == 1;
            let (lines, step) = (self.lines(), 1 + self.dice.below(3) as u32);
            let lines: Vec<_> =
                lines.iter().map(|line| Line { cell: line.0.as_ref(), quantity: line.1 }).collect();
            let terms = self.terms(&[]);
            if commit {
                let id = ReservationId(self.id(now_ms));
                self.holds.push(id.0);
                let flags = OpFlags::COMMIT;
                Op::encode_reserve(&mut bytes, flags, None, id, self.ttl_ms(), &lines);
            } else {
                Op::encode_amend(&mut bytes, &terms, id, step, &lines);
            }
        } else {
            let opcode = [Opcode::Confirm, Opcode::Release, Opcode::Cancel, Opcode::Fulfil];
            let opcode = self.dice.pick(&opcode);
            let flags: &[OpFlags] = match opcode {
                Opcode::Confirm => &[OpFlags::REACQUIRE],
                Opcode::Fulfil => &[OpFlags::SHIP, OpFlags::REACQUIRE],
                _ => &[],
            };
            let terms = self.terms(flags);
            if self.dice.one_in(3) {
                let parts = Parts::WHOLE;
                let op = match opcode {
                    Opcode::Confirm => Op::Confirm { id, parts },
                    Opcode::Release => Op::Release { id, parts },
                    Opcode::Cancel => Op::Cancel { id, parts },
                    _ => Op::Fulfil { id, parts },
                };
                op.encode(&mut bytes, &terms);
            } else {
                let mut parts = Vec::new();
                let mut line = self.dice.below(2) as u16;
                for _ in 0..=self.dice.below(2) {
                    parts.push(Part { line, quantity: 1 + self.dice.below(3) as u32 });
                    line += 1 + self.dice.below(2) as u16;
                }
                let step = 1 + self.dice.below(4) as u32;
                Op::encode_parts(&mut bytes, opcode, &terms, id, step, &parts);
            }
        }
        let (op, terms) = take_op_and_terms(&mut Reader::new(&bytes)).unwrap();
        Sent::new(&op, &terms).unwrap()
    }

    /// A cart whose lines may come from several cells.
    fn reserve_from(&mut self, now_ms: u64) -> Sent {
        let id = ReservationId(self.id(now_ms));
        self.holds.push(id.0);
        let rules = Rules {
            mode: self.dice.pick(&[LineMode::All, LineMode::Lines, LineMode::UpTo]),
            sourcing: self.dice.pick(&[
                Sourcing::First,
                Sourcing::MostStock,
                Sourcing::FewestSplits,
            ]),
            splits_max: self.dice.below(4) as u8,
            owner: if self.dice.one_in(2) { b"" } else { self.dice.pick(&OWNERS) },
        };
        let first = self.cell();
        let mut lines = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let mut cells = vec![first.clone()];
            for _ in 0..self.dice.below(5) {
                let cell = self.cell();
                if matches!(cell, Cell::Name(..)) == matches!(first, Cell::Name(..)) {
                    cells.push(cell);
                }
            }
            // The first one is not always the best.
            let at = self.dice.below(cells.len() as u64) as usize;
            cells.rotate_left(at);
            let quantity = 1 + self.dice.below(12) as u32;
            let least = self.dice.below(u64::from(quantity) + 1) as u32;
            let least = if rules.mode == LineMode::UpTo { least } else { 0 };
            lines.push((quantity, least, cells));
        }
        let refs: Vec<Vec<_>> =
            lines.iter().map(|line| line.2.iter().map(Cell::as_ref).collect()).collect();
        let wishes: Vec<Wish<'_>> = lines
            .iter()
            .zip(&refs)
            .map(|((quantity, min_quantity, _), cells)| Wish {
                quantity: *quantity,
                min_quantity: *min_quantity,
                cells,
            })
            .collect();
        let (ttl_ms, terms) = (self.ttl_ms(), self.terms(&[]));
        let flags = if self.dice.one_in(8) { OpFlags::COMMIT } else { OpFlags::default() };
        let terms = Terms { flags, ..terms };
        let mut bytes = BytesMut::new();
        Op::encode_reserve_from(&mut bytes, &terms, id, ttl_ms, rules, &wishes).unwrap();
        let (op, terms) = take_op_and_terms(&mut Reader::new(&bytes)).unwrap();
        Sent::new(&op, &terms).unwrap()
    }

    fn limit_owners(&mut self, now_ms: u64) -> Sent {
        let op_id = OpId(self.id(now_ms));
        // Most limits are given up soon, or nothing would be granted any more.
        let limits = match self.dice.below(3) {
            0 => OwnerLimits {
                holds_max: self.dice.below(3) as u32,
                units_max: self.dice.below(20) as u32,
                cool_down_ms: self.dice.pick(&[0, 1_000, 4_000, 100_000_000]),
            },
            _ => OwnerLimits::default(),
        };
        Sent::new(&Op::SetOwnerLimits { op_id, limits }, &self.terms(&[])).unwrap()
    }

    fn catalogue(&mut self, now_ms: u64) -> Sent {
        let op_id = OpId(self.id(now_ms));
        let (sku, name) = (self.sku(), self.sku());
        let titles: [&[u8]; 3] = [b"", b"a mug", &[b'x'; 64]];
        let op = match self.dice.below(5) {
            0 => {
                let (scale, title) = (self.dice.below(10) as u8, self.dice.pick(&titles));
                Op::DescribeSku { op_id, scale, title, sku: sku.as_bytes() }
            }
            1 => {
                let point = self.dice.one_in(2).then(|| self.dice.below(60) as i64);
                Op::SetReorder { op_id, point, sku: sku.as_bytes() }
            }
            kind => {
                let naming = if kind == 2 { Naming::Rename } else { Naming::Alias };
                Op::NameSku { op_id, naming, sku: sku.as_bytes(), name: name.as_bytes() }
            }
        };
        Sent::new(&op, &self.terms(&[])).unwrap()
    }

    /// A name of a SKU, its first or another, or one that nobody has.
    fn sku(&mut self) -> String {
        match self.dice.below(2) {
            0 => format!("s{}", self.dice.below(6)),
            _ => format!("x{}", self.dice.below(14)),
        }
    }

    fn bucket(&mut self) -> Bucket {
        self.dice.pick(&Bucket::ALL)
    }

    /// A number, seldom near the end of its range.
    fn units(&mut self) -> i64 {
        match self.dice.below(60) {
            0 => COUNTER_MAX - self.dice.below(10) as i64,
            1 => COUNTER_MAX / 2,
            2..30 => self.dice.below(60) as i64,
            _ => self.dice.below(6) as i64,
        }
    }

    /// A write of stock.
    fn write(&mut self, now_ms: u64) -> Sent {
        let (op_id, cell, other) = (OpId(self.id(now_ms)), self.cell(), self.cell());
        let (on_hand, quantity) = (self.units(), 1 + self.dice.below(5) as u32);
        let define = matches!(cell, Cell::Name(..)) && self.dice.one_in(2);
        let signed = |units: i64, less: bool| if less { -units - 1 } else { units + 1 };
        let less = self.dice.one_in(3);
        let delta = signed(on_hand, less).clamp(-COUNTER_MAX, COUNTER_MAX);
        let known = self.model.resolve(&cell).ok().map(|cell| self.model.counters(cell).on_hand);
        let (truth, sequence) = (self.dice.one_in(3), 1 + self.dice.below(40));
        let token = self.pick_or(&self.counts.clone(), op_id);
        let transfer = self.pick_or(&self.transfers.clone(), op_id);
        let (bucket, to) = (self.bucket(), self.bucket());
        let terms = self.terms(&[]);
        let cell_ref = cell.as_ref();
        let kind = self.dice.below(24);
        let op = match kind {
            0..3 => Op::Adjust { op_id, delta, cell: cell_ref },
            3..5 => {
                let expected = known.filter(|_| !self.dice.one_in(3)).unwrap_or(on_hand);
                Op::Set { op_id, on_hand, guard: Guard::Expected(expected), cell: cell_ref }
            }
            5 => Op::Set { op_id, on_hand, guard: Guard::Feed(sequence), cell: cell_ref },
            6 => {
                self.counts.push(op_id);
                Op::CountBegin { op_id, cell: cell_ref }
            }
            7 | 8 => Op::CountCommit { op_id, token, counted: on_hand },
            9 | 10 if bucket != to => {
                Op::Move { op_id, from: bucket, to, quantity, cell: cell_ref }
            }
            9..12 => Op::Announce { op_id, delta, cell: cell_ref },
            12 => Op::Arrive { op_id, quantity, bucket, cell: cell_ref },
            13 => Op::Return { op_id, quantity, bucket, cell: cell_ref },
            14 | 15 => Op::SetPolicy { op_id, change: self.policy(), cell: cell_ref },
            16..19 => {
                self.transfers.push(op_id);
                let to = match (&cell, &other) {
                    (Cell::Name(_, sku), Cell::Name(warehouse, _)) => {
                        Cell::name(warehouse, if self.dice.one_in(9) { b"s1" } else { &sku[..] })
                    }
                    (Cell::Name(..), _) => cell.clone(),
                    (Cell::Handle(_), Cell::Handle(_)) => other,
                    (Cell::Handle(handle), _) => Cell::Handle(CellHandle(handle.0 ^ 1)),
                };
                let ship = Op::TransferShip { op_id, quantity, from: cell_ref, to: to.as_ref() };
                return Sent::new(&ship, &with_flags(terms, truth, define)).unwrap();
            }
            19..22 => {
                let (good, damaged) = (self.dice.below(3) as u32, self.dice.below(3) as u32);
                let good = if good + damaged == 0 { 1 } else { good };
                Op::TransferReceive { op_id, transfer, good, damaged }
            }
            22 => Op::TransferClose { transfer },
            _ => Op::TransferCancel { transfer },
        };
        let define = define && op.written_cell().is_some();
        Sent::new(&op, &with_flags(terms, truth && kind < 11, define)).unwrap()
    }

    fn pick_or(&mut self, some: &[OpId], other: OpId) -> OpId {
        let recent = some.len().saturating_sub(8);
        if some.is_empty() || self.dice.one_in(30) {
            other
        } else {
            self.dice.pick(&some[recent..])
        }
    }

    fn policy(&mut self) -> PolicyChange {
        let mut change = PolicyChange { frozen: Some(false), ..PolicyChange::default() };
        // Most rules are given up soon, or nothing would be refused any more.
        let on = self.dice.one_in(6);
        match self.dice.below(10) {
            0 => change.frozen = Some(on),
            1 => change.untracked = Some(on),
            2 => change.preorder = Some(on),
            3 => change.no_hold = Some(on),
            4 => change.oversell_limit = Some(self.units()),
            5 => change.buffer = Some(self.units()),
            6 => change.reorder_point = Some(on.then_some(3)),
            7 | 8 => change.owner_max = Some(if on { 1 + self.dice.below(9) as u32 } else { 0 }),
            _ => {
                let off = Some(false);
                (change.untracked, change.preorder, change.no_hold) = (off, off, off);
                (change.oversell_limit, change.buffer) = (Some(0), Some(0));
                change.owner_max = Some(0);
            }
        }
        change
    }

    /// Some operations that are linked.
    fn chain(&mut self, now_ms: u64) -> Vec<Command> {
        let count = 2 + self.dice.below(2);
        let mut chain: Vec<Command> = Vec::new();
        for place in 1..=count {
            let request = self.request(now_ms);
            let mut bytes = BytesMut::new();
            request.encode(&mut bytes, None);
            let (op, terms) = take_op_and_terms(&mut Reader::new(&bytes)).unwrap();
            let linked = if place < count { OpFlags::LINKED } else { OpFlags::default() };
            let flags = terms.flags.without(OpFlags::LINKED).with(linked);
            let sent = Sent::new(&op, &Terms { flags, ..terms }).unwrap();
            chain.push(Command::Client(Request::Other(sent)));
        }
        chain
    }

    /// One batch: executed by the model, the engine, and its twin.
    fn step(&mut self) {
        let gap_micros = match self.dice.below(60) {
            0 => self.dice.below(20_000_000),
            1 => 90_000_000,
            2..20 => 0,
            _ => self.dice.below(200_000),
        };
        let before = self.model.now_micros().max(1_700_000_000_000_000);
        let now_micros = before + gap_micros;
        let stamp = if self.dice.one_in(20) { now_micros - 50_000 } else { now_micros };
        let outage_ms = self.model.advance(stamp);
        let now_ms = self.model.now_micros() / 1_000;
        let count = self.dice.pick(&[1, 1, 2, 5, 40, 70]);
        let mut commands = Vec::new();
        if self.dice.one_in(25) {
            commands.push((Command::LeaderStart, None));
            self.model.give_back(outage_ms, self.state.active_reservations() > 0);
        }
        for _ in 0..count {
            let more = match self.dice.one_in(40) {
                true => self.chain(now_ms),
                false => vec![self.command(now_ms)],
            };
            for command in more {
                // The protocol's encoder offers no deadline for a define.
                let has_end = self.dice.one_in(15)
                    && !matches!(command, Command::Client(Request::Define { .. }));
                let not_after = has_end.then(|| UnixMillis(now_ms + 2 - self.dice.below(4)));
                commands.push((command, not_after));
            }
        }
        let refused = self.refuse_early(&commands);
        let mut ops = BytesMut::new();
        commands.iter().for_each(|(command, end)| encode(&mut ops, command, *end));
        self.refusals.clear();
        let out = self.apply(stamp, commands.len() as u32, &ops);
        let mut outcomes = Reader::new(&out);
        let (mut too_old, mut refusals) = (Vec::new(), Vec::new());
        for ((command, expected), (_, end)) in self.expect_all(&commands).iter().zip(&commands) {
            let outcome = take_outcome(&mut outcomes).unwrap();
            *self.codes.entry(outcome.code).or_default() += 1;
            self.compare(command, expected, &outcome);
            refusals.extend(self.refusal_to_tell(command, outcome.code));
            if outcome.code == Code::ID_TOO_OLD
                && let Command::Client(request) = command
            {
                too_old.push((request.clone(), *end));
            }
        }
        assert!(outcomes.is_empty(), "seed {}: one outcome per operation", self.seed);
        assert_eq!(self.refusals, refusals, "seed {}: {commands:?}", self.seed);
        self.refusals_told += refusals.len() as u64;
        for (request, end) in too_old {
            self.ask_archive(&request, end);
        }
        if let Some(refused) = refused {
            assert_eq!(refused, out, "seed {}: {commands:?} was refused too early", self.seed);
            self.refused_early += 1;
        }
    }

    /// What an event must tell of an outcome, if it is a refusal and in the sample.
    fn refusal_to_tell(&self, command: &Command, code: Code) -> Option<Told> {
        let untold = code.is_ok() || matches!(code, Code::LINKED_FAILED | Code::ID_TOO_OLD);
        let Command::Client(request) = command else { return None };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, None);
        let (op, _) = take_op_and_terms(&mut Reader::new(&bytes)).unwrap();
        let id = op.key().filter(|_| !untold)?;
        let is_sampled = match config(self.seed).sample_refusals {
            0 => false,
            1 => true,
            _ => self.state.cells().samples(&ReservationId(id)),
        };
        is_sampled.then_some((id, op.opcode(), code))
    }

    /// What the archive says of an id that is too old is what the model says of it.
    fn ask_archive(&mut self, request: &Request, not_after: Option<UnixMillis>) {
        let Some(expected) = self.model.answer_archived(request, not_after) else { return };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, not_after);
        let (op, terms) = take_op_and_terms(&mut Reader::new(&bytes)).unwrap();
        let transfer = match op {
            Op::TransferReceive { transfer, .. } => self.archive.get(&transfer.0),
            _ => None,
        };
        let record = &self.archive[&op.key().unwrap()];
        let mut out = BytesMut::new();
        let asked = (&op, terms.flags, not_after);
        assert!(self.state.answer_archived(record, transfer, asked, &mut out), "{request:?}");
        self.compare(&(request, "archived"), &expected, &read_outcome(&out));
        self.archived += 1;
    }

    /// All reads of some of what is forgotten.
    fn compare_archive(&mut self) {
        let ids: Vec<_> = self.model.archived().copied().collect();
        for id in ids.iter().copied().step_by(1 + ids.len() / 64) {
            // The engine forgets by the bucket, a little later, or when it is asked.
            let record = self.archive.get(&id).cloned();
            let reservation = ReservationId(id);
            for read in [
                Op::ReadReservation { id: reservation },
                Op::ReadLines { id: reservation },
                Op::ReadTransfer { transfer: OpId(id) },
            ] {
                let mut out = BytesMut::new();
                let shown = match &record {
                    Some(record) => self.state.read_archived(record, &read, &mut out),
                    None => self.state.read_unswept(&read, &mut out),
                };
                if !shown {
                    begin_outcome(&mut out, OutcomeHeader { code: Code::NOT_FOUND, detail: 0 });
                }
                let expected = self.model.read_archived(&id, |model| match read {
                    Op::ReadReservation { .. } => model.read_reservation(id),
                    Op::ReadLines { .. } => model.read_lines(id),
                    _ => model.read_transfer(OpId(id)),
                });
                self.compare(&(read, "archived"), &expected.unwrap(), &read_outcome(&out));
            }
        }
    }

    fn expect_all(
        &mut self,
        commands: &[(Command, Option<UnixMillis>)],
    ) -> Vec<(Command, Expected)> {
        let mut expected = Vec::new();
        let mut rest = commands;
        while let Some(((first, end), _)) = rest.split_first() {
            let is_linked = |command: &Command| matches!(command, Command::Client(request) if request.is_linked());
            if !is_linked(first) {
                expected.push((first.clone(), self.expect(first, *end)));
                rest = &rest[1..];
                continue;
            }
            let links = rest.iter().take_while(|(command, _)| is_linked(command)).count();
            let (chain, after) = rest.split_at((links + 1).min(rest.len()));
            let requests: Vec<_> = chain
                .iter()
                .map(|(command, end)| match command {
                    Command::Client(request) => (request.clone(), *end),
                    other => panic!("{other:?} is in a chain"),
                })
                .collect();
            let outcomes = self.model.chain(&requests);
            expected.extend(chain.iter().map(|(command, _)| command.clone()).zip(outcomes));
            rest = after;
        }
        expected
    }

    fn expect(&mut self, command: &Command, not_after: Option<UnixMillis>) -> Expected {
        match command {
            Command::Client(request) => self.model.execute(request, not_after),
            Command::Expire { .. } | Command::LeaderStart | Command::Tick => {
                self.model.settle();
                Expected { code: Code::OK, detail: 0, body: Body::Exact(Vec::new()) }
            }
        }
    }

    /// What a session answers without the log, if the batch is one reserve that it would refuse.
    fn refuse_early(&self, commands: &[(Command, Option<UnixMillis>)]) -> Option<BytesMut> {
        let [(Command::Client(request), None)] = commands else { return None };
        if request.is_linked() {
            return None;
        }
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, None);
        let (op, terms) = take_op_and_terms(&mut Reader::new(&bytes)).unwrap();
        let Op::Reserve { id, ttl_ms, lines } = op else { return None };
        let fresh = !self.model.entries().contains_key(&id.0)
            && model::millis(&id.0).abs_diff(self.model.now_micros() / 1_000) < 4_000;
        let is_told = self.state.cells().samples(&id);
        if !fresh || is_told || !(1_000..=14_400_000).contains(&ttl_ms) {
            return None;
        }
        let mut out = BytesMut::new();
        let now = UnixMicros(self.model.now_micros());
        let commit = terms.flags.contains(OpFlags::COMMIT);
        self.state.cells().refuse_if_short(&lines, commit, now, &mut out).then_some(out)
    }

    fn apply(&mut self, now_micros: u64, op_count: u32, ops: &[u8]) -> BytesMut {
        let index = self.state.applied_index() + 1;
        let mut out = BytesMut::new();
        // Whose operations they are changes nothing.
        let named = entry(now_micros, op_count, ops, &principals(index, op_count));
        let applied = self.state.apply(index, &named, Some(&mut out));
        assert_eq!(applied.now.0, self.model.now_micros(), "seed {}", self.seed);
        let records = self.state.take_events();
        if let Some(twin) = &mut self.twin {
            if self.dice.one_in(2) {
                let nameless = entry(now_micros, op_count, ops, &PrincipalRuns::default());
                twin.apply(index, &nameless, None);
                twin.take_events();
            } else {
                twin.apply(index, &named, None);
                let same = twin.take_events() == records;
                assert!(same, "seed {}: events are the same on all", self.seed);
            }
        }
        records.into_iter().for_each(|record| self.read_events(record));
        let seed = self.seed;
        assert_eq!(self.ledger.next(), Some(self.state.next_event()), "seed {seed}");
        let forgotten = self.state.take_forgotten();
        for at in 0..forgotten.len() {
            let record = forgotten.get(at).unwrap();
            let before = self.archive.insert(record.id().0, record.clone());
            let same = before.as_ref().is_none_or(|before| *before == record);
            let seed = self.seed;
            assert!(same, "seed {seed}: {before:?} was forgotten twice, then as {record:?}");
        }
        out
    }

    fn read_events(&mut self, mut record: Vec<u8>) {
        event::seal(&mut record);
        let seed = self.seed;
        let record = EventRecord::take(&mut Reader::new(&record)).unwrap();
        assert_eq!(record.header().at_us, self.model.now_micros(), "seed {seed}");
        for event in record.events() {
            let event = event.unwrap();
            let taken = self.ledger.take(&event);
            taken.unwrap_or_else(|fault| panic!("seed {seed}: {fault}: {event}"));
            if let EventBody::Refused { opcode, code, .. } = event.body {
                self.refusals.push((event.id.unwrap().0, opcode, code));
                continue;
            }
            if let Some(id) = event.id {
                let life = self.lives.entry(id.0).or_default();
                // An id that tells no time may live again once it is forgotten.
                let begins = matches!(event.kind, EventKind::Reserved | EventKind::Fenced);
                if begins && life.since != event.index {
                    *life = Life { since: event.index, ..Life::default() };
                }
                let Some(change) = event.change else { continue };
                life.reserved += change.delta.reserved;
                life.committed += change.delta.committed;
                life.gone -= if event.kind.is_of_hold() { change.delta.on_hand } else { 0 };
            }
        }
    }

    /// What the events say of cells and reservations is what the model says.
    fn compare_events(&self) {
        let seed = self.seed;
        assert_eq!(self.ledger.known().count(), self.model.names().len(), "seed {seed}");
        for (cell, counts) in self.ledger.known() {
            let want = Counts::from(&self.model.counters(cell.0).details());
            assert_eq!(counts, want, "seed {seed}: cell {}", cell.0);
        }
        for (id, entry) in self.model.entries() {
            let Entry::Hold(hold) = entry else { continue };
            let sum = |of: fn(&LineShares) -> u32| {
                hold.units.iter().map(|units| i64::from(of(units))).sum::<i64>()
            };
            let want = Life {
                reserved: sum(|units| units.reserved),
                committed: sum(|units| units.committed),
                gone: sum(|units| units.fulfilled),
                since: self.lives.get(id).map_or(0, |life| life.since),
            };
            let have = self.lives.get(id).copied().unwrap_or_default();
            assert_eq!(have, want, "seed {seed}: reservation {}", ReservationId(*id));
        }
    }

    fn compare(&self, command: &dyn std::fmt::Debug, expected: &Expected, outcome: &Outcome<'_>) {
        let seed = self.seed;
        let now = self.model.now_micros();
        let head = (expected.code, expected.detail);
        assert_eq!((outcome.code, outcome.detail), head, "seed {seed} at {now}: {command:?}");
        match &expected.body {
            Body::Exact(body) => {
                assert_eq!(outcome.body, &body[..], "seed {seed} at {now}: {command:?}")
            }
            Body::Received { cell, on_hand, available_max } => {
                let mut body = Reader::new(outcome.body);
                assert_eq!(body.u32(), Ok(*cell), "seed {seed}: {command:?}");
                assert_eq!(body.i64(), Ok(*on_hand), "seed {seed}: {command:?}");
                assert!(body.i64().unwrap() <= *available_max, "seed {seed}: {command:?}");
            }
        }
    }

    /// Sweeps everything; then the counters must be the model's, to the unit.
    fn sweep_and_compare(&mut self) {
        let seed = self.seed;
        // Whether or not the sweep has come by.
        self.compare_owners();
        let mut ops = BytesMut::new();
        batch::encode_expire(&mut ops, u32::MAX);
        let now = self.model.now_micros();
        self.apply(now, 1, &ops);
        self.model.settle();
        self.model.recount().unwrap_or_else(|rule| panic!("seed {seed}: {rule}"));
        self.state.audit().unwrap_or_else(|rule| panic!("seed {seed}: {rule}"));
        assert!(!self.state.due(UnixMicros(now)), "seed {seed}: all that is due was swept");
        let cells = self.state.cells();
        for cell in 0..self.model.names().len() as u32 {
            let want = self.model.counters(cell).details();
            let have = cells.details(CellHandle(cell)).unwrap();
            assert_eq!(have, want, "seed {seed}: cell {cell}");
            let names = &self.model.names()[cell as usize];
            let found = cells.handle(&names.0, &names.1);
            assert_eq!(found, Some(CellHandle(cell)), "seed {seed}");
        }
        self.compare_lists();
        self.compare_crossings();
        self.compare_events();
        for number in 0..14 {
            for name in [format!("s{number}"), format!("x{number}")] {
                let mut out = BytesMut::new();
                self.state.read_catalogue(name.as_bytes(), &mut out);
                let expected = self.model.read_catalogue(name.as_bytes());
                self.compare(&name, &expected, &read_outcome(&out));
            }
        }
        self.compare_owners();
        let entries: Vec<_> =
            self.model.entries().iter().map(|(id, entry)| (*id, entry.clone())).collect();
        for (id, entry) in entries {
            let mut out = BytesMut::new();
            let expected = match entry {
                Entry::Hold(_) => {
                    self.state.read_reservation(ReservationId(id), &mut out);
                    let expected = self.model.read_reservation(id);
                    self.compare(&"a reservation", &expected, &read_outcome(&out));
                    out.clear();
                    self.state.read_lines(ReservationId(id), &mut out);
                    self.model.read_lines(id)
                }
                Entry::Transfer { .. } => {
                    self.state.read_transfer(OpId(id), &mut out);
                    self.model.read_transfer(OpId(id))
                }
                Entry::Op { .. } | Entry::Count { .. } => continue,
            };
            self.compare(&entry, &expected, &read_outcome(&out));
        }
    }

    /// All crossings, in pages.
    fn compare_crossings(&self) {
        let expected = self.model.read_crossings();
        let (mut have, mut from) = (BytesMut::new(), 0);
        loop {
            let mut out = BytesMut::new();
            self.state.read_crossings(from, 700, &mut out);
            let mut body = Reader::new(read_outcome(&out).body);
            let head = CrossingsHead::take(&mut body).unwrap();
            assert_eq!(head.first, from, "seed {}", self.seed);
            have.put_slice(body.rest());
            from += u64::from(head.count);
            if from == head.next {
                break;
            }
        }
        let mut all = BytesMut::new();
        CrossingsHead { first: 0, next: from, count: from as u32 }.encode(&mut all);
        all.extend_from_slice(&have);
        let Body::Exact(want) = expected.body else { unreachable!("a read is exact") };
        assert!(all[..] == want[..], "seed {}: crossings differ", self.seed);
    }

    fn compare_owners(&mut self) {
        for owner in OWNERS {
            let mut out = BytesMut::new();
            self.state.read_owner(owner, &mut out);
            let expected = self.model.read_owner(owner);
            self.compare(&String::from_utf8_lossy(owner), &expected, &read_outcome(&out));
        }
    }

    /// Every list, in pages of two cells, has the model's cells, each once.
    fn compare_lists(&self) {
        let seed = self.seed;
        for (filter, warehouse, sku) in [
            (Filter::All, "", ""),
            (Filter::Low, "", ""),
            (Filter::All, "w1", ""),
            (Filter::Low, "w", "s1"),
        ] {
            let (mut have, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                let (warehouse, sku) = (warehouse.as_bytes(), sku.as_bytes());
                let mut out = BytesMut::new();
                let listing = Listing { from, count: 2, filter, warehouse, sku };
                self.state.cells().list_cells(&listing, &mut out);
                let mut body = Reader::new(read_outcome(&out).body);
                let head = ListHead::take(&mut body).unwrap();
                assert!(head.cells <= 2, "seed {seed}");
                for _ in 0..head.cells {
                    let cell = ListedCell::take(&mut body).unwrap();
                    let names = (cell.warehouse.to_vec(), cell.sku.to_vec());
                    have.push((cell.handle.0, names, cell.details));
                }
                next = head.next;
            }
            // Rows of details come in the order in which cells got them.
            have.sort_by_key(|(cell, ..)| *cell);
            let cells = (0..).zip(self.model.names()).map(|(cell, (warehouse, sku))| {
                let names = (warehouse.clone(), self.model.shown_name(sku));
                (cell, names, self.model.counters(cell).details())
            });
            let want = cells.filter(|(_, names, details)| {
                let named = names.0.starts_with(warehouse.as_bytes())
                    && names.1.starts_with(sku.as_bytes());
                let stock = details.counters.on_hand
                    - details.counters.committed
                    - details.blocked.iter().sum::<i64>()
                    - details.policy.buffer
                    + details.incoming
                    + details.in_transit;
                let low = details.policy.reorder_point.is_some_and(|point| point >= stock);
                named && (filter == Filter::All || low)
            });
            assert_eq!(have, want.collect::<Vec<_>>(), "seed {seed}: {filter:?}");
        }
    }

    /// Takes a snapshot while more batches are applied, and restores it as the twin.
    fn snapshot(&mut self) {
        let seed = self.seed;
        let mut cut = self.state.begin_snapshot();
        let digest = self.state.digest();
        let mut loader = SnapshotLoader::new(EngineConfig { hash_seed: !seed, ..config(seed) });
        self.twin = None;
        let first = self.state.applied_index();
        let mut tail = Vec::new();
        while let Some(chunk) = self.state.snapshot_chunk(&mut cut, 1) {
            loader.feed(&chunk).unwrap();
            let mut ops = BytesMut::new();
            let id = ReservationId(self.id(self.model.now_micros() / 1_000));
            let reserve = Request::Reserve { id, ttl_ms: 2_000, lines: self.lines() };
            reserve.encode(&mut ops, None);
            self.apply(self.model.now_micros(), 1, &ops);
            self.model.execute(&reserve, None);
            tail.push(ops);
        }
        self.state.end_snapshot(cut);
        let mut twin = loader.finish().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(twin.digest(), digest, "seed {seed}: a snapshot is of the moment of its cut");
        twin.keep_events(ShardId::default());
        for (index, ops) in (first + 1..).zip(tail) {
            let entry = entry(self.model.now_micros(), 1, &ops, &PrincipalRuns::default());
            twin.apply(index, &entry, None);
            twin.take_events();
        }
        self.twin = Some(twin);
    }

    /// Four hundred steps, or as many as the dice have bytes for; gives the digest at the end.
    pub fn run(mut self) -> (u64, Self) {
        for step in 1..=400 {
            if self.dice.is_spent() {
                break;
            }
            self.step();
            if self.dice.one_in(50) {
                self.snapshot();
            }
            if step % 100 == 0 || self.dice.one_in(30) {
                self.sweep_and_compare();
            }
        }
        self.sweep_and_compare();
        self.compare_archive();
        let digest = self.state.digest();
        if let Some(twin) = &self.twin {
            assert_eq!(twin.digest(), digest, "seed {}: restored and original agree", self.seed);
        }
        (digest, self)
    }
}

fn encode(out: &mut BytesMut, command: &Command, not_after: Option<UnixMillis>) {
    match command {
        Command::Client(request) => request.encode(out, not_after),
        Command::Expire { budget } => batch::encode_expire(out, *budget),
        Command::LeaderStart => batch::encode_leader_start(out),
        Command::Tick => batch::encode_tick(out),
    }
}

fn read_outcome(out: &[u8]) -> Outcome<'_> {
    take_outcome(&mut Reader::new(out)).unwrap()
}

fn with_flags(terms: Terms<'_>, truth: bool, define: bool) -> Terms<'_> {
    let none = OpFlags::default();
    let truth = if truth { OpFlags::TRUTH } else { none };
    let define = if define { OpFlags::DEFINE } else { none };
    Terms { flags: terms.flags.with(truth).with(define), ..terms }
}
