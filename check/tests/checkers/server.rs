//! A server without sockets: the real engine, its log, and clients whose calls overlap. Everything is
//! drawn from a seed.
//!
//! ```text
//! invoke ─▶ waiting ─▶ entry of the log ─▶ answered ─▶ returned
//!              │             │                 └─ lost: sent again (REPLAY), or unknown for ever
//!              │             └─ a read: the state of now, at the index of now
//!              └─ dropped: not executed, or unknown
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use stockd::engine::batch::{self, BatchBuilder, PrincipalRuns};
use stockd::engine::{EngineConfig, StockState};
use stockd::world::UnixMicros;
use stockd_check::history::NEVER;
use stockd_check::{Answer, Cell, Entry, Operation, Request, Verdict};
use stockd_protocol::{
    CellHandle, Op, OpId, Reader, ReservationId, UnixMillis, take_op, take_outcome,
};

pub const CONFIG: EngineConfig = EngineConfig {
    grace_ms: 500,
    retention_ms: 3_600_000,
    max_life_ms: 86_400_000,
    sample_refusals: 0,
    hash_seed: 7,
};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }
}

/// What a client calls itself: some share a name, and some have none.
pub fn client_name(client: u32) -> String {
    if client % 3 == 2 { String::new() } else { format!("client-{}", client / 4) }
}

/// How a run is made.
#[derive(Clone, Copy)]
pub struct Plan {
    pub clients: u32,
    pub operations: usize,
    pub cells: u32,
    /// One call in so many loses an answer or a request; 0: none.
    pub losses: u64,
}

/// Where a call is.
enum Call {
    Waiting,
    Answered(Answer),
}

/// See the module.
pub struct Server {
    dice: Dice,
    plan: Plan,
    state: StockState,
    now_micros: u64,
    /// The real-time order.
    event: u64,
    pub log: Vec<Entry>,
    pub history: Vec<Operation>,
    /// By client: the place of its call, and where it is.
    calls: BTreeMap<u32, (usize, Call)>,
    /// Requests that nobody waits for any more, but that may still arrive.
    adrift: Vec<(u32, Request)>,
    ids: Vec<ReservationId>,
    /// Those that several reserves ask for.
    reused: BTreeSet<ReservationId>,
    /// Calls of which an attempt was executed.
    executed: BTreeSet<usize>,
}

impl Server {
    /// Runs clients until they have made all their calls.
    pub fn run(seed: u64, plan: Plan) -> (Vec<Entry>, Vec<Operation>) {
        let mut server = Self {
            dice: Dice(seed),
            plan,
            state: StockState::new(CONFIG),
            now_micros: 1_700_000_000_000_000,
            event: 0,
            log: Vec::new(),
            history: Vec::new(),
            calls: BTreeMap::new(),
            adrift: Vec::new(),
            ids: Vec::new(),
            reused: BTreeSet::new(),
            executed: BTreeSet::new(),
        };
        server.stock();
        while server.history.len() < plan.operations || !server.calls.is_empty() {
            server.step();
        }
        (server.log, server.history)
    }

    /// Defines the cells and puts something into them, one after the other.
    fn stock(&mut self) {
        for cell in 0..self.plan.cells {
            let name = Cell::name("w", format!("s{cell}"));
            self.alone(Request::Define { cell: name.clone() });
            let (op_id, quantity) = (OpId(self.id()), 20);
            self.alone(Request::Receive { op_id, quantity, cell: name, define: true });
        }
    }

    fn alone(&mut self, request: Request) {
        self.invoke(0, request);
        self.entry(&[0]);
        self.answer_returns(0);
    }

    fn id(&mut self) -> [u8; 16] {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.dice.next().to_le_bytes());
        ReservationId::from_parts(self.now_micros / 1_000, random).0
    }

    fn tick(&mut self) -> u64 {
        self.event += 1;
        self.event
    }

    fn step(&mut self) {
        self.now_micros += self.dice.below(20_000);
        let client = self.dice.below(u64::from(self.plan.clients)) as u32;
        match self.calls.get(&client) {
            None if self.history.len() < self.plan.operations => {
                let request = self.request();
                self.invoke(client, request);
            }
            None => self.serve(),
            Some((_, Call::Answered(_))) => self.answer_returns(client),
            Some(_) if self.dice.one_in(3) => self.serve(),
            Some(_) => self.own(),
        }
    }

    /// Something of the server's own: a sweep, a tick, a new leader, a late arrival.
    fn own(&mut self) {
        let (mut ops, mut clients) = (BytesMut::new(), None);
        match self.dice.below(30) {
            0..10 => batch::encode_expire(&mut ops, 4),
            10..12 => batch::encode_tick(&mut ops),
            12 => {
                self.now_micros += 900_000;
                batch::encode_leader_start(&mut ops);
            }
            13..15 if !self.adrift.is_empty() => {
                let late = self.dice.below(self.adrift.len() as u64) as usize;
                let (client, request) = self.adrift.swap_remove(late);
                request.encode(&mut ops, None);
                clients = Some(client);
            }
            _ => return,
        }
        self.apply(&ops, 1, clients);
    }

    fn request(&mut self) -> Request {
        let stale = self.dice.one_in(10);
        let old = match self.ids.len() {
            0 => ReservationId(self.id()),
            len => {
                let recent = len.saturating_sub(12);
                self.dice.pick(&self.ids[recent..])
            }
        };
        match self.dice.below(100) {
            0..6 => {
                let (op_id, quantity) = (OpId(self.id()), 1 + self.dice.below(4) as u32);
                Request::Receive { op_id, quantity, cell: self.cell(), define: false }
            }
            6..40 => {
                let again = self.dice.one_in(30);
                let id = if again { old } else { ReservationId(self.id()) };
                if again {
                    self.reused.insert(id);
                }
                self.ids.push(id);
                let count = self.dice.pick(&[1, 1, 2, 3]);
                let named = self.dice.one_in(2);
                let lines =
                    (0..count).map(|_| (self.cell_as(named), 1 + self.dice.below(4) as u32));
                Request::Reserve { id, ttl_ms: 1_000, lines: lines.collect() }
            }
            40..52 => Request::Confirm { id: old },
            52..66 => Request::Release { id: old },
            66..70 => Request::Extend { id: old, ttl_ms: 1_500 },
            70..85 => {
                let named = self.dice.one_in(2);
                let cells = (0..2).map(|_| self.cell_as(named)).collect();
                Request::ReadCells { cells, stale }
            }
            85..97 => Request::ReadReservation { id: old, stale },
            _ => Request::ReadSku { sku: b"s0".to_vec(), after: None, stale },
        }
    }

    fn cell(&mut self) -> Cell {
        let named = self.dice.one_in(2);
        self.cell_as(named)
    }

    fn cell_as(&mut self, named: bool) -> Cell {
        let cell = self.dice.below(u64::from(self.plan.cells)) as u32;
        match named {
            true => Cell::name("w", format!("s{cell}")),
            false => Cell::Handle(CellHandle(cell)),
        }
    }

    fn invoke(&mut self, client: u32, request: Request) {
        let invoked = self.tick();
        let (completed, verdict) = (NEVER, Verdict::Unknown);
        let place = self.history.len();
        let not_after = None;
        self.history.push(Operation { client, invoked, completed, request, not_after, verdict });
        self.calls.insert(client, (place, Call::Waiting));
    }

    fn loses(&mut self) -> bool {
        self.plan.losses > 0 && self.dice.one_in(self.plan.losses)
    }

    /// Takes some calls that wait, in any order.
    fn serve(&mut self) {
        let waiting = |(client, call): (&u32, &(usize, Call))| {
            matches!(call.1, Call::Waiting).then_some(*client)
        };
        let mut clients: Vec<u32> = self.calls.iter().filter_map(waiting).collect();
        for at in (1..clients.len()).rev() {
            let other = self.dice.below(at as u64 + 1) as usize;
            clients.swap(at, other);
        }
        clients.truncate(1 + self.dice.below(4) as usize);
        let (writes, reads): (Vec<u32>, Vec<u32>) = clients
            .into_iter()
            .partition(|client| self.history[self.calls[client].0].request.is_write());
        if writes.iter().all(|client| !self.refuses(*client)) && !writes.is_empty() {
            self.entry(&writes);
        }
        for client in reads {
            self.read(client);
        }
    }

    /// Answers a call that is refused without the log, if it is one.
    fn refuses(&mut self, client: u32) -> bool {
        let place = self.calls[&client].0;
        let mut bytes = BytesMut::new();
        self.history[place].request.encode(&mut bytes, None);
        let Ok((Op::Reserve { id, lines, .. }, ..)) = take_op(&mut Reader::new(&bytes)) else {
            return false;
        };
        let now = UnixMicros(self.now_micros.max(self.state.now().0));
        let (cells, mut out) = (self.state.cells(), BytesMut::new());
        // What is sent again is marked, and always goes through the log.
        let fresh = !self.reused.contains(&id) && !self.executed.contains(&place);
        if !fresh
            || !cells.accepts_id(&id, now)
            || !cells.refuse_if_short(&lines, false, now, &mut out)
        {
            return false;
        }
        let answer = self.answer(&mut Reader::new(&out), now, 0);
        self.calls.insert(client, (place, Call::Answered(answer)));
        true
    }

    /// Puts calls into one entry of the log. A request or an answer may be lost.
    fn entry(&mut self, clients: &[u32]) {
        let mut ops = BytesMut::new();
        let mut taken = Vec::new();
        for client in clients {
            let place = self.calls[client].0;
            if self.loses() {
                self.loses_request(*client, place);
                continue;
            }
            self.history[place].request.encode(&mut ops, None);
            taken.push((*client, place));
        }
        if taken.is_empty() {
            return;
        }
        let asked = taken.iter().map(|(client, _)| *client);
        let out = self.apply(&ops, taken.len() as u32, asked);
        let (now, mut outcomes) = (self.state.now(), Reader::new(&out));
        for (client, place) in taken {
            let answer = self.answer(&mut outcomes, now, 0);
            self.executed.insert(place);
            match self.loses() {
                false => drop(self.calls.insert(client, (place, Call::Answered(answer)))),
                // It waits on, and is sent again; or gives up.
                true if self.dice.one_in(2) => (),
                true => drop(self.calls.remove(&client)),
            }
        }
    }

    fn loses_request(&mut self, client: u32, place: usize) {
        self.calls.remove(&client);
        let completed = self.tick();
        let operation = &mut self.history[place];
        if self.dice.one_in(2) && !self.executed.contains(&place) {
            (operation.completed, operation.verdict) = (completed, Verdict::NotExecuted);
        } else {
            self.adrift.push((client, operation.request.clone()));
        }
    }

    /// An entry of what some clients asked for, one operation each, or of something of the server's own.
    fn apply(
        &mut self,
        ops: &[u8],
        count: u32,
        clients: impl IntoIterator<Item = u32>,
    ) -> BytesMut {
        let (mut entry, mut out) = (BytesMut::new(), BytesMut::new());
        let mut principals = PrincipalRuns::default();
        for client in clients {
            principals.add(client_name(client).as_bytes(), 1);
        }
        let batch = BatchBuilder::begin_named(&mut entry, &principals);
        entry.put_slice(ops);
        batch.finish(&mut entry, UnixMicros(self.now_micros), count);
        // Some indexes are Raft's own.
        let index = self.state.applied_index() + 1 + self.dice.below(5) / 4;
        let batch: Bytes = entry.freeze();
        self.state.apply(index, &batch, Some(&mut out));
        self.log.push(Entry { index, batch });
        out
    }

    fn read(&mut self, client: u32) {
        let place = self.calls[&client].0;
        let (mut bytes, mut out) = (BytesMut::new(), BytesMut::new());
        let request = &self.history[place].request;
        request.encode(&mut bytes, None);
        let age_ms = if request.is_stale() { u32::MAX } else { 0 };
        match take_op(&mut Reader::new(&bytes)).unwrap().0 {
            Op::ReadCells { cells } => self.state.cells().read_cells(&cells, &mut out),
            Op::ReadReservation { id } => self.state.read_reservation(id, &mut out),
            Op::ReadSku { after, sku } => self.state.read_sku(sku, after, &mut out),
            op => unreachable!("{op:?} is no read"),
        }
        let now = UnixMicros(self.now_micros.max(self.state.now().0));
        let answer = self.answer(&mut Reader::new(&out), now, age_ms);
        self.calls.insert(client, (place, Call::Answered(answer)));
    }

    fn answer(&self, outcomes: &mut Reader<'_>, now: UnixMicros, age_ms: u32) -> Answer {
        let outcome = take_outcome(outcomes).unwrap();
        Answer {
            code: outcome.code,
            detail: outcome.detail,
            body: outcome.body.to_vec(),
            index: self.state.applied_index(),
            server_now: UnixMillis(now.as_millis()),
            age_ms,
        }
    }

    fn answer_returns(&mut self, client: u32) {
        let Some((place, Call::Answered(answer))) = self.calls.remove(&client) else { return };
        self.history[place].completed = self.tick();
        self.history[place].verdict = Verdict::Answered(answer);
    }
}
