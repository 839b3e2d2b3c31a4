//! A server small enough to be right at a glance, that lies on request.
//!
//! It keeps reservations and cells in maps, grants while there is stock, lets reservations expire
//! exactly at deadline + grace, and can be told to break one promise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use stockd_protocol::{
    CellCounters, CellHandle, CellRef, Code, ErrorReply, Frame, Guard, Header, HelloReply, Kind,
    Op, OpFlags, OutcomeHeader, Reader, ReplyPrefix, ReservationId, ReservationState, ShardId,
    UnixMillis, begin_frame, begin_outcome, finish_frame, finish_outcome, limits, take_frame,
    take_op,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The promise to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// None: a right server.
    None,
    /// Grants one unit more than there is, and shows it in the counters.
    OversellCounters,
    /// Grants one unit more than there is, with counters that look fine.
    OversellIds,
    /// Forgets the tenth reservation it granted.
    ForgetId,
    /// Forgets the tenth confirm it acknowledged.
    ForgetConfirm,
    /// Forgets the first cell once all reservations have been read.
    ForgetCell,
    /// Expires the tenth reservation at once.
    ExpireEarly,
    /// Answers REPLAY to an id it sees for the first time.
    ReplayFirst,
    /// Refuses one reserve that it could grant.
    RefuseOnce,
    /// Executes a frame and drops the connection instead of answering, every hundredth frame.
    DropConnections,
    /// None, but after a hundred grants another node leads.
    MoveLeader,
    /// Answers BUSY to every third frame.
    Busy,
    /// Takes the units of a SET on top of what the message before it said, once.
    BlindSet,
    /// Takes the units of a reserve that is sent again once more, once.
    DoubleRetry,
}

struct Reservation {
    lines: Vec<(u32, u32)>,
    state: ReservationState,
    created: u64,
    deadline: u64,
}

#[derive(Default, Clone, Copy)]
struct Cell {
    on_hand: i64,
    fed: u64,
    reserved: i64,
    committed: i64,
}

struct State {
    lie: Lie,
    start: Instant,
    names: BTreeMap<Vec<u8>, u32>,
    cells: Vec<Cell>,
    reservations: BTreeMap<ReservationId, Reservation>,
    granted: u64,
    confirmed: u64,
    frames: u64,
    lied: bool,
    /// The address of the node that leads.
    leader: String,
}

/// What the server allows between deadline and expiry.
const GRACE_MS: u64 = 500;
const EPOCH_MS: u64 = 1_700_000_000_000;

/// Serves on a free port until the runtime ends; returns the address.
pub async fn serve(lie: Lie) -> String {
    serve_all(lie, 1).await.remove(0)
}

/// Serves one state on so many ports, as nodes of a cluster whose first node leads.
pub async fn serve_all(lie: Lie, nodes: usize) -> Vec<String> {
    let mut listeners = Vec::new();
    for _ in 0..nodes {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addresses: Vec<String> =
        listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    let state = Arc::new(Mutex::new(State {
        lie,
        start: Instant::now(),
        names: BTreeMap::new(),
        cells: Vec::new(),
        reservations: BTreeMap::new(),
        granted: 0,
        confirmed: 0,
        frames: 0,
        lied: false,
        leader: addresses[0].clone(),
    }));
    for (listener, address) in listeners.into_iter().zip(addresses.clone()) {
        let (state, last) = (state.clone(), addresses[nodes - 1].clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, address, last) = (state.clone(), address.clone(), last.clone());
                tokio::spawn(connection(stream, state, address, last));
            }
        });
    }
    addresses
}

/// Serves a connection of the node at `address`; `last` is the node that follows the first as leader.
async fn connection(
    mut stream: TcpStream,
    state: Arc<Mutex<State>>,
    address: String,
    last: String,
) {
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    while matches!(stream.read_buf(&mut input).await, Ok(1..)) {
        while let Some(frame) = take_frame(&mut input, limits::FRAME_BYTES_MAX).unwrap() {
            if !state.lock().unwrap().frame(&frame, &address, &last, &mut out) {
                return;
            }
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        tokio::time::sleep(Duration::ZERO).await;
    }
}

impl State {
    fn now_ms(&self) -> u64 {
        EPOCH_MS + self.start.elapsed().as_millis() as u64
    }

    /// Answers a frame; false: drop the connection.
    fn frame(&mut self, frame: &Frame, address: &str, last: &str, out: &mut BytesMut) -> bool {
        let request_id = frame.header.request_id;
        let begin = |out: &mut BytesMut, kind| {
            begin_frame(out, Header { request_id, kind, shard: ShardId(0) })
        };
        self.frames += 1;
        if self.lie == Lie::MoveLeader && self.granted > 100 {
            last.clone_into(&mut self.leader);
        }
        if self.lie == Lie::Busy && self.frames.is_multiple_of(3) && frame.header.kind == Kind::Op {
            let start = begin(out, Kind::Error);
            let (code, message) = (Code::BUSY, b"busy");
            ErrorReply { code, retry_after_ms: 1, leader: b"", message, event: 0 }.encode(out);
            finish_frame(out, start);
            return true;
        }
        if frame.header.kind == Kind::Hello {
            let start = begin(out, Kind::HelloReply);
            let hello = HelloReply {
                version: 1,
                frame_bytes_max: limits::FRAME_BYTES_MAX,
                batch_ops_max: limits::BATCH_OPS_MAX,
                frames_in_flight_max: 1024,
                cluster_id: 1,
                node_id: 1,
                server_now: UnixMillis(self.now_ms()),
                leader: self.leader.as_bytes(),
            };
            hello.encode(out);
            finish_frame(out, start);
            return true;
        }
        if address != self.leader {
            let start = begin(out, Kind::Error);
            let (code, leader) = (Code::NOT_LEADER, self.leader.as_bytes());
            ErrorReply { code, retry_after_ms: 0, leader, message: b"", event: 0 }.encode(out);
            finish_frame(out, start);
            return true;
        }
        let mut reader = Reader::new(&frame.body);
        let batch = frame.header.kind == Kind::Batch;
        let count = if batch { reader.u32().unwrap() } else { 1 };
        let kind = if batch { Kind::BatchReply } else { Kind::OpReply };
        let start = begin(out, kind);
        let server_now = UnixMillis(self.now_ms());
        ReplyPrefix { index: self.frames, server_now, age_ms: 0 }.encode(out);
        if batch {
            out.put_u32_le(count);
        }
        for _ in 0..count {
            let (op, flags, _) = take_op(&mut reader).unwrap();
            self.apply(&op, flags, out);
        }
        finish_frame(out, start);
        !(self.lie == Lie::DropConnections && self.frames.is_multiple_of(100))
    }

    fn apply(&mut self, op: &Op<'_>, flags: OpFlags, out: &mut BytesMut) {
        match op {
            Op::Define { cell } => {
                let handle = self.cell(cell);
                self.say(out, Code::OK, 0, |out, _| out.put_u32_le(handle));
            }
            Op::Receive { quantity, cell, .. } => {
                let handle = self.cell(cell);
                self.cells[handle as usize].on_hand += i64::from(*quantity);
                self.say(out, Code::OK, 0, |out, _| out.put_u32_le(handle));
            }
            Op::SetOwnerLimits { .. } => self.say(out, Code::OK, 0, |_, _| ()),
            Op::Set { on_hand, guard: Guard::Feed(sequence), cell, .. } => {
                let handle = handle(cell);
                let blind = self.lie == Lie::BlindSet && !std::mem::replace(&mut self.lied, true);
                let cell = &mut self.cells[handle as usize];
                if *sequence <= cell.fed {
                    let fed = cell.fed;
                    return self.say(out, Code::STALE_FEED, 0, |out, _| out.put_u64_le(fed));
                }
                // A later message would mend it.
                cell.fed = if blind { u64::MAX } else { *sequence };
                cell.on_hand = *on_hand + if blind { 100 } else { 0 };
                self.say(out, Code::OK, 0, |out, _| out.put_u32_le(handle));
            }
            Op::ReserveFrom { id, ttl_ms, wishes } => {
                let cells = wishes.iter().map(|wish| (wish.cells().next(), wish.quantity));
                let lines = cells.map(|(cell, units)| (handle(&cell.unwrap()), units)).collect();
                self.reserve(*id, *ttl_ms, lines, flags, out);
            }
            Op::Reserve { id, ttl_ms, lines } => {
                let lines = lines.iter().map(|line| (handle(&line.cell), line.quantity)).collect();
                self.reserve(*id, *ttl_ms, lines, flags, out);
            }
            Op::Confirm { id, .. } => self.confirm(*id, out),
            Op::Release { id, .. } => self.release(*id, out),
            Op::ReadReservation { id } => self.read(*id, out),
            Op::ReadCells { cells } => {
                let handles: Vec<u32> = cells.iter().map(|cell| handle(&cell)).collect();
                self.expire();
                self.say(out, Code::OK, 0, |out, state| state.put_cells(&handles, out));
            }
            other => panic!("the harness does not send {other:?}"),
        }
    }

    fn say(
        &mut self,
        out: &mut BytesMut,
        code: Code,
        detail: u16,
        body: impl FnOnce(&mut BytesMut, &mut Self),
    ) {
        let start = begin_outcome(out, OutcomeHeader { code, detail });
        body(out, self);
        finish_outcome(out, start);
    }

    fn cell(&mut self, cell: &CellRef<'_>) -> u32 {
        let CellRef::Name { warehouse, sku } = cell else { return handle(cell) };
        let next = self.cells.len() as u32;
        let handle = *self.names.entry([*warehouse, b"/", *sku].concat()).or_insert(next);
        if handle == next {
            self.cells.push(Cell::default());
        }
        handle
    }

    fn expire(&mut self) {
        let now = self.now_ms();
        for reservation in self.reservations.values_mut() {
            let due = reservation.deadline + GRACE_MS <= now;
            if due && reservation.state == ReservationState::Active {
                reservation.state = ReservationState::Expired;
                for (cell, quantity) in &reservation.lines {
                    self.cells[*cell as usize].reserved -= i64::from(*quantity);
                }
            }
        }
    }

    fn reserve(
        &mut self,
        id: ReservationId,
        ttl_ms: u32,
        lines: Vec<(u32, u32)>,
        flags: OpFlags,
        out: &mut BytesMut,
    ) {
        if let Some(reservation) = self.reservations.get(&id) {
            assert!(flags.contains(OpFlags::RETRY), "an id sent again carries RETRY");
            assert_eq!(reservation.lines, lines, "an id sent again carries the same lines");
            let (state, deadline) = (reservation.state as u16, reservation.deadline);
            if self.lie == Lie::DoubleRetry && !std::mem::replace(&mut self.lied, true) {
                for (cell, quantity) in &lines {
                    self.cells[*cell as usize].reserved += i64::from(*quantity);
                }
            }
            return self.say(out, Code::REPLAY, state, |out, _| out.put_u64_le(deadline));
        }
        let free = |cell: &Cell| cell.on_hand - cell.reserved - cell.committed;
        let short = |state: &Self| {
            lines.iter().any(|(cell, wanted)| {
                let same = lines.iter().filter(|line| line.0 == *cell);
                let sum: u32 = same.map(|line| line.1).sum::<u32>().max(*wanted);
                free(&state.cells[*cell as usize]) < i64::from(sum)
            })
        };
        if short(self) {
            self.expire();
        }
        let mut counted = true;
        if short(self) {
            match self.lie {
                Lie::OversellCounters if !self.lied => self.lied = true,
                Lie::OversellIds if !self.lied => (self.lied, counted) = (true, false),
                _ => return self.say(out, Code::NO_STOCK, 0, |_, _| ()),
            }
        }
        if self.lie == Lie::RefuseOnce && self.granted == 100 && !self.lied {
            self.lied = true;
            return self.say(out, Code::NO_STOCK, 0, |_, _| ());
        }
        self.granted += 1;
        if counted {
            for (cell, quantity) in &lines {
                self.cells[*cell as usize].reserved += i64::from(*quantity);
            }
        }
        let created = self.now_ms();
        let ttl_ms = if ttl_ms == 0 { limits::TTL_MS_DEFAULT } else { ttl_ms };
        let deadline = created + u64::from(ttl_ms);
        let mut state = ReservationState::Active;
        if self.lie == Lie::ExpireEarly && self.granted == 10 {
            state = ReservationState::Expired;
            self.cells[lines[0].0 as usize].reserved -= i64::from(lines[0].1);
        }
        if !(self.lie == Lie::ForgetId && self.granted == 10) {
            self.reservations.insert(id, Reservation { lines, state, created, deadline });
        }
        let code = match self.lie {
            Lie::ReplayFirst if self.granted == 10 => Code::REPLAY,
            _ => Code::OK,
        };
        let active = ReservationState::Active as u16;
        self.say(out, code, active, |out, _| out.put_u64_le(deadline));
    }

    fn confirm(&mut self, id: ReservationId, out: &mut BytesMut) {
        self.expire();
        self.confirmed += 1;
        let forget = self.lie == Lie::ForgetConfirm && self.confirmed == 10;
        let Some(reservation) = self.reservations.get_mut(&id) else {
            return self.say(out, Code::NOT_FOUND, 0, |_, _| ());
        };
        let code = match reservation.state {
            ReservationState::Active => Code::OK,
            ReservationState::Confirmed => Code::REPLAY,
            ReservationState::Expired => Code::HOLD_EXPIRED,
            _ => Code::HOLD_RELEASED,
        };
        if code == Code::OK && !forget {
            reservation.state = ReservationState::Confirmed;
            for (cell, quantity) in &reservation.lines {
                self.cells[*cell as usize].reserved -= i64::from(*quantity);
                self.cells[*cell as usize].committed += i64::from(*quantity);
            }
        }
        let state = reservation.state as u16;
        self.say(out, code, state, |_, _| ());
    }

    fn release(&mut self, id: ReservationId, out: &mut BytesMut) {
        self.expire();
        let Some(reservation) = self.reservations.get_mut(&id) else {
            return self.say(out, Code::OK, ReservationState::Fenced as u16, |_, _| ());
        };
        let code = match reservation.state {
            ReservationState::Active | ReservationState::Expired => Code::OK,
            ReservationState::Confirmed => Code::HOLD_CONFIRMED,
            _ => Code::REPLAY,
        };
        if reservation.state == ReservationState::Active {
            reservation.state = ReservationState::Released;
            for (cell, quantity) in &reservation.lines {
                self.cells[*cell as usize].reserved -= i64::from(*quantity);
            }
        }
        let state = reservation.state as u16;
        self.say(out, code, state, |_, _| ());
    }

    fn read(&mut self, id: ReservationId, out: &mut BytesMut) {
        self.expire();
        let Some(reservation) = self.reservations.get(&id) else {
            return self.say(out, Code::NOT_FOUND, 0, |_, _| ());
        };
        let state = reservation.state as u16;
        let (created, deadline) = (reservation.created, reservation.deadline);
        let lines = reservation.lines.clone();
        self.say(out, Code::OK, state, |out, _| {
            out.put_u64_le(created);
            out.put_u64_le(deadline);
            out.put_u32_le(lines.len() as u32);
            for (cell, quantity) in lines {
                out.put_u32_le(cell);
                out.put_u32_le(quantity);
            }
        });
    }

    fn put_cells(&self, handles: &[u32], out: &mut BytesMut) {
        for handle in handles {
            let gone = self.lie == Lie::ForgetCell && *handle == 0;
            let cell = if gone { Cell::default() } else { self.cells[*handle as usize] };
            out.put_u32_le(*handle);
            out.put_u32_le(u32::from(!gone));
            let Cell { on_hand, reserved, committed, .. } = cell;
            let available = on_hand - reserved - committed;
            CellCounters { on_hand, reserved, committed, available }.encode(out);
        }
    }
}

fn handle(cell: &CellRef<'_>) -> u32 {
    match cell {
        CellRef::Handle(CellHandle(handle)) => *handle,
        CellRef::Name { .. } => panic!("the harness reads and reserves by handle"),
    }
}
