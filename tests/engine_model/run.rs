//! One run: random batches, executed by the engine, its twin and the model, and compared.

use bytes::{BufMut, BytesMut};
use stockd::engine::batch::{self, BatchBuilder};
use stockd::engine::{EngineConfig, SnapshotLoader, StockState};
use stockd::protocol::{
    CellHandle, Code, Op, OpId, Outcome, Reader, ReservationId, UnixMillis, take_op, take_outcome,
};
use stockd::world::UnixMicros;
use stockd_check::model::{self, Body, Entry, Expected, Model};
use stockd_check::{Cell, Request};

use super::dice::Dice;

/// Short lives, so that a run of a few hundred batches sees every end.
const CONFIG: EngineConfig =
    EngineConfig { grace_ms: 500, retention_ms: 12_000, max_life_ms: 9_000, hash_seed: 1 };

/// One operation of a batch, as the test makes it up.
#[derive(Clone, Debug)]
enum Command {
    Client(Request),
    Expire { budget: u32 },
    LeaderStart,
    Tick,
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
    reserves: Vec<Request>,
    pub refused_early: u64,
    pub codes: std::collections::BTreeMap<Code, u64>,
}

impl Run {
    /// A run whose numbers `dice` draws. `seed` names it, and seeds the hash indexes.
    pub fn new(seed: u64, dice: Dice) -> Self {
        let config = EngineConfig { hash_seed: seed, ..CONFIG };
        Self {
            seed,
            dice,
            model: Model::new(CONFIG),
            state: StockState::new(config),
            twin: None,
            ids: Vec::new(),
            reserves: Vec::new(),
            refused_early: 0,
            codes: std::collections::BTreeMap::new(),
        }
    }

    fn name(&mut self) -> Cell {
        let warehouse = format!("w{}", self.dice.below(3));
        Cell::name(warehouse, format!("s{}", self.dice.below(5)))
    }

    fn id(&mut self, now_ms: u64) -> [u8; 16] {
        if !self.ids.is_empty() && self.dice.one_in(12) {
            return self.dice.pick(&self.ids);
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

    fn old_id(&mut self, now_ms: u64) -> [u8; 16] {
        let recent = self.ids.len().saturating_sub(30);
        match self.dice.below(10) {
            0 => self.id(now_ms),
            1 | 2 if !self.ids.is_empty() => self.dice.pick(&self.ids),
            _ if recent < self.ids.len() => self.dice.pick(&self.ids[recent..]),
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
        let request = match self.dice.below(100) {
            0..3 => Request::Define { cell: self.name() },
            3..15 => {
                let (op_id, cell) = (OpId(self.id(now_ms)), self.cell());
                let define = self.dice.one_in(2) && matches!(cell, Cell::Name(..));
                let quantity = 1 + self.dice.below(6) as u32;
                Request::Receive { op_id, quantity, cell, define }
            }
            15..19 if !self.reserves.is_empty() => self.dice.pick(&self.reserves),
            15..55 => {
                let ttl_ms = match self.dice.below(30) {
                    0 => 999,
                    1 => 0,
                    2 => 14_400_001,
                    _ => 1_000 + self.dice.below(4_000) as u32,
                };
                let id = ReservationId(self.id(now_ms));
                let reserve = Request::Reserve { id, ttl_ms, lines: self.lines() };
                self.reserves.push(reserve.clone());
                reserve
            }
            55..68 => Request::Confirm { id: ReservationId(self.old_id(now_ms)) },
            68..80 => Request::Release { id: ReservationId(self.old_id(now_ms)) },
            80..90 => {
                let ttl_ms = if self.dice.one_in(20) { 5 } else { 1_000 + self.dice.below(6_000) };
                let id = ReservationId(self.old_id(now_ms));
                Request::Extend { id, ttl_ms: ttl_ms as u32 }
            }
            90..97 => return Command::Expire { budget: self.dice.below(12) as u32 },
            _ => return Command::Tick,
        };
        Command::Client(request)
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
            let command = self.command(now_ms);
            // The protocol's encoder offers no deadline for a define.
            let has_end =
                self.dice.one_in(15) && !matches!(command, Command::Client(Request::Define { .. }));
            let not_after = has_end.then(|| UnixMillis(now_ms + 2 - self.dice.below(4)));
            commands.push((command, not_after));
        }
        let refused = self.refuse_early(&commands);
        let mut ops = BytesMut::new();
        commands.iter().for_each(|(command, end)| encode(&mut ops, command, *end));
        let out = self.apply(stamp, commands.len() as u32, &ops);
        let mut outcomes = Reader::new(&out);
        for (command, not_after) in &commands {
            let expected = self.expect(command, *not_after);
            let outcome = take_outcome(&mut outcomes).unwrap();
            *self.codes.entry(outcome.code).or_default() += 1;
            self.compare(command, &expected, &outcome);
        }
        assert!(outcomes.is_empty(), "seed {}: one outcome per operation", self.seed);
        if let Some(refused) = refused {
            assert_eq!(refused, out, "seed {}: {commands:?} was refused too early", self.seed);
            self.refused_early += 1;
        }
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
        let [(Command::Client(Request::Reserve { id, ttl_ms, .. }), None)] = commands else {
            return None;
        };
        let fresh = !self.model.entries().contains_key(&id.0)
            && model::millis(&id.0).abs_diff(self.model.now_micros() / 1_000) < 4_000;
        if !fresh || !(1_000..=14_400_000).contains(ttl_ms) {
            return None;
        }
        let mut op = BytesMut::new();
        encode(&mut op, &commands[0].0, None);
        let (Op::Reserve { lines, .. }, ..) = take_op(&mut Reader::new(&op)).unwrap() else {
            unreachable!("a reserve was encoded");
        };
        let mut out = BytesMut::new();
        let now = UnixMicros(self.model.now_micros());
        self.state.cells().refuse_if_short(&lines, false, now, &mut out).then_some(out)
    }

    fn apply(&mut self, now_micros: u64, op_count: u32, ops: &[u8]) -> BytesMut {
        let mut entry = BytesMut::new();
        let batch = BatchBuilder::begin(&mut entry);
        entry.put_slice(ops);
        batch.finish(&mut entry, UnixMicros(now_micros), op_count);
        let index = self.state.applied_index() + 1;
        let mut out = BytesMut::new();
        let applied = self.state.apply(index, &entry, Some(&mut out));
        assert_eq!(applied.now.0, self.model.now_micros(), "seed {}", self.seed);
        if let Some(twin) = &mut self.twin {
            twin.apply(index, &entry, None);
        }
        out
    }

    fn compare(&self, command: &Command, expected: &Expected, outcome: &Outcome<'_>) {
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
            let want = self.model.counters(cell);
            let have = cells.counters(CellHandle(cell)).unwrap();
            let want = (want.on_hand, want.reserved, want.committed, want.available());
            let have = (have.on_hand, have.reserved, have.committed, have.available);
            assert_eq!(have, want, "seed {seed}: cell {cell}");
            let names = &self.model.names()[cell as usize];
            let found = cells.handle(&names.0, &names.1);
            assert_eq!(found, Some(CellHandle(cell)), "seed {seed}");
        }
        for (id, entry) in self.model.entries() {
            let Entry::Hold(held) = entry else { continue };
            let mut out = BytesMut::new();
            self.state.read_reservation(ReservationId(*id), &mut out);
            let outcome = take_outcome(&mut Reader::new(&out)).map(|o| (o.code, o.detail));
            assert_eq!(outcome, Ok((Code::OK, held.state as u16)), "seed {seed}");
        }
    }

    /// Takes a snapshot while more batches are applied, and restores it as the twin.
    fn snapshot(&mut self) {
        let seed = self.seed;
        let mut cut = self.state.begin_snapshot();
        let digest = self.state.digest();
        let mut loader = SnapshotLoader::new(EngineConfig { hash_seed: !seed, ..CONFIG });
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
        for (index, ops) in (first + 1..).zip(tail) {
            let mut entry = BytesMut::new();
            let batch = BatchBuilder::begin(&mut entry);
            entry.put_slice(&ops);
            batch.finish(&mut entry, UnixMicros(self.model.now_micros()), 1);
            twin.apply(index, &entry, None);
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
