//! What the seeds are made of: the requests of a small shop, and the state they lead to.

use bytes::{BufMut, BytesMut};
use stockd::engine::batch::{self, BatchBuilder, PrincipalRuns};
use stockd::engine::{EngineConfig, StockState};
use stockd::world::UnixMicros;
use stockd_protocol::{
    Bucket, CellHandle, CellRef, Guard, Header, Hello, Kind, Line, LineMode, MAGIC, Naming, Note,
    Op, OpFlags, OpId, Opcode, OwnerLimits, Part, Parts, PolicyChange, ReservationId, Rules,
    Selector, ShardId, Sourcing, Start, Subscribe, Terms, UnixMillis, VERSION, Wish, begin_frame,
    finish_frame,
};

/// The shop opens.
pub const START_MS: u64 = 1_700_000_000_000;

/// The id of the shop's `number`th customer.
pub fn id(number: u8) -> ReservationId {
    ReservationId::from_parts(START_MS + u64::from(number), [number; 10])
}

/// One operation of each kind, in each of its shapes, and how many there are.
pub fn writes() -> Vec<BytesMut> {
    let plain = OpFlags::default();
    let named = |sku: &'static [u8]| CellRef::Name { warehouse: b"BER", sku };
    let handle = |cell| CellRef::Handle(CellHandle(cell));
    let end = Some(UnixMillis(START_MS + 60_000));
    let line = |cell, quantity| Line { cell, quantity };
    let op = |encode: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        encode(&mut out);
        out
    };
    let receive = |number, flags, cell, quantity| {
        move |out: &mut BytesMut| {
            Op::encode_receive(out, flags, end, OpId(id(number).0), cell, quantity);
        }
    };
    let reserve = |number, flags, ttl_ms, lines: Vec<Line<'static>>| {
        move |out: &mut BytesMut| Op::encode_reserve(out, flags, None, id(number), ttl_ms, &lines)
    };
    let mut writes = vec![
        op(&|out| Op::encode_define(out, b"BER", b"shirt-m")),
        op(&receive(1, OpFlags::DEFINE, named(b"shirt-l"), 10)),
        op(&receive(2, plain, handle(0), 3)),
        op(&reserve(3, plain, 0, vec![line(handle(0), 1)])),
        op(&reserve(4, plain, 5_000, vec![line(named(b"shirt-m"), 1), line(named(b"shirt-l"), 2)])),
        op(&reserve(5, OpFlags::RETRY, 1_000, vec![line(handle(1), 1), line(handle(1), 4)])),
        op(&reserve(6, plain, 2_000, vec![line(handle(1), 99), line(handle(0), 99)])),
        op(&|out| Op::encode_confirm(out, plain, end, id(3))),
        op(&|out| Op::encode_release(out, plain, None, id(4))),
        op(&|out| Op::encode_release(out, plain, None, id(7))),
        op(&|out| Op::encode_extend(out, plain, None, id(5), 7_000)),
    ];
    writes.extend(stock_writes());
    writes.extend(changes());
    writes
}

/// One stock write of each kind.
fn stock_writes() -> Vec<BytesMut> {
    let cell = CellRef::Handle(CellHandle(1));
    let there = CellRef::Name { warehouse: b"HAM", sku: b"shirt-l" };
    let here = CellRef::Name { warehouse: b"BER", sku: b"shirt-l" };
    let op_id = |number| OpId(id(number).0);
    let (from, to, bucket) = (Bucket::Sellable, Bucket::Damaged, Bucket::Quality);
    let change = PolicyChange {
        preorder: Some(true),
        buffer: Some(1),
        reorder_point: Some(Some(5)),
        ..PolicyChange::default()
    };
    let limits = OwnerLimits { holds_max: 9, units_max: 99, cool_down_ms: 1_000 };
    let sku: &[u8] = b"shirt-l";
    let ops = [
        (Op::Adjust { op_id: op_id(20), delta: 5, cell }, OpFlags::TRUTH),
        (Op::Set { op_id: op_id(21), on_hand: 20, guard: Guard::Expected(18), cell }, OpFlags(0)),
        (Op::Set { op_id: op_id(22), on_hand: 25, guard: Guard::Feed(3), cell }, OpFlags(0)),
        (Op::CountBegin { op_id: op_id(23), cell }, OpFlags(0)),
        (Op::CountCommit { op_id: op_id(24), token: op_id(23), counted: 26 }, OpFlags(0)),
        (Op::Move { op_id: op_id(25), from, to, quantity: 2, cell }, OpFlags(0)),
        (Op::Announce { op_id: op_id(26), delta: 9, cell }, OpFlags(0)),
        (Op::Arrive { op_id: op_id(27), quantity: 4, bucket, cell }, OpFlags(0)),
        (Op::Return { op_id: op_id(28), quantity: 1, bucket, cell }, OpFlags(0)),
        (
            Op::TransferShip { op_id: op_id(29), quantity: 6, from: here, to: there },
            OpFlags::DEFINE,
        ),
        (
            Op::TransferReceive { op_id: op_id(30), transfer: op_id(29), good: 2, damaged: 1 },
            OpFlags(0),
        ),
        (Op::TransferClose { transfer: op_id(40) }, OpFlags(0)),
        (Op::TransferCancel { transfer: op_id(41) }, OpFlags(0)),
        (Op::SetPolicy { op_id: op_id(31), change, cell }, OpFlags(0)),
        (Op::SetOwnerLimits { op_id: op_id(32), limits }, OpFlags(0)),
        (Op::DescribeSku { op_id: op_id(33), scale: 3, title: b"a shirt", sku }, OpFlags(0)),
        (Op::SetReorder { op_id: op_id(37), point: Some(4), sku }, OpFlags(0)),
        (Op::NameSku { op_id: op_id(34), naming: Naming::Alias, sku, name: b"tee" }, OpFlags(0)),
        (
            Op::NameSku { op_id: op_id(35), naming: Naming::Rename, sku, name: b"top" },
            OpFlags::LINKED,
        ),
        (Op::DescribeSku { op_id: op_id(36), scale: 0, title: b"", sku: b"none" }, OpFlags(0)),
    ];
    let note = Some(Note { reason: 3, reference: b"PO-7" });
    let encoded = ops.iter().map(|(op, flags)| {
        let mut out = BytesMut::new();
        op.encode(&mut out, &Terms { flags: *flags, not_after: None, note });
        out
    });
    encoded.collect()
}

/// Reservations that go different ways, and two operations that are linked.
fn changes() -> Vec<BytesMut> {
    let mut out = vec![BytesMut::new(); 10];
    let lines = [1, 3].map(|quantity| Line { cell: CellRef::Handle(CellHandle(1)), quantity });
    let terms = |flags| Terms { flags, ..Terms::default() };
    let plain = terms(OpFlags(0));
    let parts = [Part { line: 0, quantity: 1 }, Part { line: 1, quantity: 2 }];
    let whole = Parts::WHOLE;
    Op::encode_reserve(&mut out[0], OpFlags(0), None, id(50), 9_000, &lines);
    Op::encode_amend(&mut out[1], &plain, id(50), 1, &[lines[1], lines[0], lines[1]]);
    Op::Pin { id: id(50), ttl_ms: 99_000 }.encode(&mut out[2], &plain);
    Op::encode_parts(&mut out[3], Opcode::Confirm, &plain, id(50), 1, &parts[..1]);
    Op::encode_parts(&mut out[4], Opcode::Fulfil, &terms(OpFlags::SHIP), id(50), 2, &parts[1..]);
    Op::encode_reserve(&mut out[5], OpFlags::COMMIT, None, id(51), 9_000, &lines[..1]);
    Op::Cancel { id: id(51), parts: whole }.encode(&mut out[6], &plain);
    Op::Confirm { id: id(5), parts: whole }.encode(&mut out[7], &terms(OpFlags::LINKED));
    Op::Confirm { id: id(99), parts: whole }.encode(&mut out[8], &terms(OpFlags::REACQUIRE));
    let cells = [0, 1, 2].map(|cell| CellRef::Handle(CellHandle(cell)));
    let wish = Wish { quantity: 9, min_quantity: 1, cells: &cells };
    let rules = Rules {
        mode: LineMode::UpTo,
        sourcing: Sourcing::FewestSplits,
        splits_max: 2,
        owner: b"ann",
    };
    Op::encode_reserve_from(&mut out[9], &plain, id(52), 9_000, rules, &[wish, wish])
        .expect("six parts are not too many");
    out
}

/// One read of each kind.
pub fn reads() -> Vec<BytesMut> {
    let mut out = vec![BytesMut::new(); 9];
    let handles: Vec<_> = (0..3).map(|cell| CellRef::Handle(CellHandle(cell))).collect();
    Op::encode_read_cells(&mut out[0], OpFlags::default(), &handles);
    let named = [CellRef::Name { warehouse: b"BER", sku: b"shirt-m" }];
    Op::encode_read_cells(&mut out[1], OpFlags::STALE, &named);
    Op::encode_read_reservation(&mut out[2], OpFlags::default(), id(3));
    Op::encode_read_sku(&mut out[3], OpFlags::STALE, Some(CellHandle(0)), b"shirt-m");
    Op::encode_ping(&mut out[4]);
    Op::encode_cluster_status(&mut out[5]);
    Op::encode_read_details(&mut out[6], OpFlags::default(), &handles);
    Op::ReadLines { id: id(50) }.encode(&mut out[7], &Terms::default());
    Op::ReadTransfer { transfer: OpId(id(29).0) }.encode(&mut out[8], &Terms::default());
    out
}

/// A client's frame.
pub fn frame(kind: Kind, request_id: u64, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let start = begin_frame(&mut out, Header { request_id, kind, shard: ShardId(0) });
    out.put_slice(body);
    finish_frame(&mut out, start);
    out.to_vec()
}

/// A client's first frame.
pub fn hello() -> Vec<u8> {
    let mut body = BytesMut::new();
    let hello =
        Hello { magic: MAGIC, version_min: VERSION, version_max: VERSION, client_name: b"shop" };
    hello.encode(&mut body);
    frame(Kind::Hello, 0, &body)
}

/// All of `ops` in one batch frame.
pub fn batch_frame(request_id: u64, ops: &[BytesMut]) -> Vec<u8> {
    let mut body = (ops.len() as u32).to_le_bytes().to_vec();
    ops.iter().for_each(|op| body.extend_from_slice(op));
    frame(Kind::Batch, request_id, &body)
}

/// A log entry of these operations, which nobody said a name for.
pub fn entry(now_ms: u64, op_count: u32, ops: &[u8]) -> BytesMut {
    named_entry(now_ms, op_count, ops, &PrincipalRuns::default())
}

/// A log entry of these operations of somebody's.
pub fn named_entry(now_ms: u64, op_count: u32, ops: &[u8], principals: &PrincipalRuns) -> BytesMut {
    let mut out = BytesMut::new();
    let batch = BatchBuilder::begin_named(&mut out, principals);
    out.put_slice(ops);
    batch.finish(&mut out, UnixMicros(now_ms * 1_000), op_count);
    out
}

/// Frames of who follows events: subscriptions from everywhere, with and without a filter, and credit.
pub fn following() -> Vec<Vec<u8>> {
    let selectors = vec![
        Selector::Warehouse(b"BER"),
        Selector::Sku(b"shirt-m"),
        Selector::Cell { warehouse: b"BER", sku: b"shirt-m" },
    ];
    let all = Subscribe { start: Start::Oldest, credit: 1 << 16, kinds: 0, selectors: Vec::new() };
    let some = Subscribe { start: Start::Sequence(2), kinds: 1 << 16 | 1 << 2, ..all.clone() };
    let picked = Subscribe { start: Start::Time(START_MS * 1_000), selectors, ..all.clone() };
    let late = Subscribe { start: Start::Now, credit: 0, ..all.clone() };
    let mut frames: Vec<_> = (1..)
        .zip([all, some, picked, late])
        .map(|(request_id, wish)| {
            let mut body = BytesMut::new();
            wish.encode(&mut body);
            frame(Kind::Subscribe, request_id, &body)
        })
        .collect();
    frames.push(frame(Kind::Credit, 4, &70_000_u32.to_le_bytes()));
    frames
}

/// The shop's state after `rounds` of its writes, with reservations of every kind.
pub fn state(rounds: u64) -> StockState {
    let mut state = StockState::new(EngineConfig::default());
    for round in 0..rounds {
        let mut ops = BytesMut::new();
        writes().iter().for_each(|op| ops.put_slice(op));
        // Each round has customers of its own, and lines that fall due in ticks of their own.
        let lines = [Line { cell: CellRef::Handle(CellHandle(1)), quantity: 1 }];
        let new = ReservationId::from_parts(START_MS + round, [round as u8; 10]);
        Op::encode_reserve(&mut ops, OpFlags::default(), None, new, 1_000, &lines);
        batch::encode_expire(&mut ops, 2);
        let count = writes().len() as u32 + 2;
        state.apply(round + 1, &entry(START_MS + round * 700, count, &ops), None);
    }
    state
}

/// A snapshot of a state.
pub fn snapshot(state: &mut StockState) -> Vec<u8> {
    let mut cut = state.begin_snapshot();
    let mut bytes = Vec::new();
    while let Some(chunk) = state.snapshot_chunk(&mut cut, 1 << 20) {
        bytes.extend_from_slice(&chunk);
    }
    state.end_snapshot(cut);
    bytes
}
