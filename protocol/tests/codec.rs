//! What is encoded is decoded; what is damaged is found; nothing panics or believes a length.
//!
//! Random values come from a seed that a failure prints.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::{BufMut, BytesMut};
use stockd_protocol::{
    Bucket, CellCounters, CellDetails, CellHandle, CellRef, Code, ErrorReply, Filter, FrameError,
    Guard, Header, Hello, HelloReply, Kind, Line, LineMode, LineShares, Listing, Naming, Note, Op,
    OpError, OpFlags, OpId, Opcode, OutcomeHeader, OwnerLimits, Part, Parts, PolicyChange, Reader,
    ReplyPrefix, ReservationId, ReservationState, Rules, ShardId, ShortLine, SkuTotal, Sourcing,
    Terms, Transfer, UnixMillis, Wish, begin_frame, begin_outcome, finish_frame, finish_outcome,
    limits, take_frame, take_op, take_op_and_terms, take_outcome,
};

/// SplitMix64 (Steele, Lea, Flood 2014): enough to vary bytes, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, but not including, `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn id(&mut self) -> [u8; 16] {
        *self.bytes(16).first_chunk().unwrap()
    }

    /// A note or none.
    fn note(&mut self) -> Option<Note<'static>> {
        let reference = &b"0123456789"[..self.below(10)];
        (self.below(3) == 0).then(|| Note { reason: self.next() as u16, reference })
    }

    /// A time or none.
    fn moment(&mut self) -> Option<UnixMillis> {
        (self.below(2) == 0).then(|| UnixMillis(self.next()))
    }
}

/// A cell that owns its names.
enum OwnedCell {
    Handle(CellHandle),
    Name(Vec<u8>, Vec<u8>),
}

impl OwnedCell {
    fn random(dice: &mut Dice, named: bool) -> Self {
        if !named {
            return Self::Handle(CellHandle(dice.next() as u32));
        }
        let warehouse = 1 + dice.below(limits::WAREHOUSE_BYTES_MAX);
        let sku = 1 + dice.below(limits::SKU_BYTES_MAX);
        Self::Name(dice.bytes(warehouse), dice.bytes(sku))
    }

    fn as_ref(&self) -> CellRef<'_> {
        match self {
            Self::Handle(handle) => CellRef::Handle(*handle),
            Self::Name(warehouse, sku) => CellRef::name(warehouse, sku),
        }
    }
}

/// Appends a random operation.
fn random_op(dice: &mut Dice, out: &mut BytesMut) {
    let named = dice.below(2) == 0;
    let flags = OpFlags((dice.below(2) as u8) * OpFlags::RETRY.0);
    let stale = OpFlags((dice.below(2) as u8) * OpFlags::STALE.0);
    let (id, not_after) = (ReservationId(dice.id()), dice.moment());
    let any = Terms { flags, not_after, note: dice.note() };
    match dice.below(13) {
        0 => {
            let (warehouse, sku) = (dice.bytes(1), dice.bytes(64));
            Op::encode_define(out, &warehouse, &sku);
        }
        1 => {
            let cell = OwnedCell::random(dice, named);
            let quantity = 1 + dice.below(u32::MAX as usize) as u32;
            let op_id = OpId(dice.id());
            Op::encode_receive(out, flags, not_after, op_id, cell.as_ref(), quantity);
        }
        2 => {
            let cells: Vec<_> =
                (0..=dice.below(20)).map(|_| OwnedCell::random(dice, named)).collect();
            let lines: Vec<_> = cells
                .iter()
                .map(|cell| Line { cell: cell.as_ref(), quantity: 1 + dice.below(9) as u32 })
                .collect();
            Op::encode_reserve(out, flags, not_after, id, dice.next() as u32, &lines);
        }
        3 => Op::encode_confirm(out, flags, not_after, id),
        4 => Op::encode_release(out, flags, not_after, id),
        5 => Op::encode_extend(out, flags, not_after, id, dice.next() as u32),
        6 => {
            let cells: Vec<_> =
                (0..=dice.below(20)).map(|_| OwnedCell::random(dice, named)).collect();
            let cells: Vec<_> = cells.iter().map(OwnedCell::as_ref).collect();
            Op::encode_read_cells(out, stale, &cells);
        }
        7 => Op::encode_read_reservation(out, stale, id),
        8 => {
            let after = dice.below(1000) as u32;
            let sku = dice.bytes(3);
            Op::encode_read_sku(out, stale, Some(CellHandle(after)), &sku);
        }
        9 => Op::encode_ping(out),
        10 => Op::encode_cluster_status(out),
        11 => random_change(dice, &any, named, out),
        _ => {
            let cells = [OwnedCell::random(dice, named), OwnedCell::random(dice, named)];
            let op = random_stock_write(dice, cells[0].as_ref(), cells[1].as_ref());
            op.encode(out, &any);
        }
    }
}

/// Appends an operation on a reservation, whole or in part, or a read of one.
fn random_change(dice: &mut Dice, terms: &Terms<'_>, named: bool, out: &mut BytesMut) {
    let (id, step) = (ReservationId(dice.id()), 1 + dice.next() as u32 / 2);
    let opcodes = [Opcode::Confirm, Opcode::Release, Opcode::Cancel, Opcode::Fulfil];
    let opcode = opcodes[dice.below(4)];
    let parts: Vec<_> = (0..=dice.below(5) as u16)
        .map(|line| Part { line: line * 3, quantity: 1 + dice.below(9) as u32 })
        .collect();
    let cell = OwnedCell::random(dice, named);
    let line = Line { cell: cell.as_ref(), quantity: 1 + dice.below(9) as u32 };
    match dice.below(8) {
        7 => {
            let cells = [cell.as_ref(); 3];
            let rules = Rules {
                mode: [LineMode::All, LineMode::Lines, LineMode::UpTo][dice.below(3)],
                sourcing: [Sourcing::First, Sourcing::MostStock, Sourcing::FewestSplits]
                    [dice.below(3)],
                splits_max: dice.next() as u8,
                owner: &b"the longest name of an owner: 32"[..dice.below(33)],
            };
            let quantity = 1 + dice.below(9) as u32;
            let min_quantity = if rules.mode == LineMode::UpTo { quantity } else { 0 };
            let wish = Wish { quantity, min_quantity, cells: &cells[..1 + dice.below(3)] };
            let wishes = vec![wish; 1 + dice.below(9)];
            Op::encode_reserve_from(out, terms, id, step, rules, &wishes).unwrap();
        }
        0 => Op::encode_parts(out, opcode, terms, id, step, &parts),
        1 => Op::encode_amend(out, terms, id, step, &[line, line]),
        2 => Op::Pin { id, ttl_ms: step }.encode(out, terms),
        3 => Op::Cancel { id, parts: Parts::WHOLE }.encode(out, terms),
        4 => Op::Fulfil { id, parts: Parts::WHOLE }.encode(out, terms),
        5 => Op::ReadLines { id }.encode(out, terms),
        _ => Op::encode_read_details(out, OpFlags::default(), &[cell.as_ref()]),
    }
}

/// A write of stock to one cell, or from it to the other.
fn random_stock_write<'a>(dice: &mut Dice, cell: CellRef<'a>, other: CellRef<'a>) -> Op<'a> {
    let (op_id, transfer) = (OpId(dice.id()), OpId(dice.id()));
    let quantity = 1 + dice.next() as u32 / 2;
    let (units, bucket) = (dice.below(1 << 50) as i64, Bucket::ALL[1 + dice.below(4)]);
    match dice.below(24) {
        23 => Op::ReadCrossings { from: dice.next(), count: 1 + dice.below(1_024) as u16 },
        22 => Op::ListSkus(Listing {
            from: dice.next() as u32,
            count: 1 + dice.below(1_024) as u16,
            filter: [Filter::All, Filter::Low][dice.below(2)],
            warehouse: b"",
            sku: &b"sku"[..dice.below(4)],
        }),
        21 => Op::SetReorder { op_id, point: (dice.below(2) == 0).then_some(units), sku: b"mug" },
        20 => Op::ReadCatalogue { sku: &b"sku"[..1 + dice.below(3)] },
        19 => {
            let naming = [Naming::Alias, Naming::Rename][dice.below(2)];
            Op::NameSku { op_id, naming, sku: b"mug", name: &b"tasse"[..1 + dice.below(5)] }
        }
        18 => {
            let title = &[b'x'; 64][..dice.below(65)];
            Op::DescribeSku { op_id, scale: dice.below(10) as u8, title, sku: b"mug" }
        }
        16 => Op::ReadOwner { owner: &b"the longest name of an owner: 32"[..1 + dice.below(32)] },
        15 => {
            let [holds_max, units_max, cool_down_ms] = [0; 3].map(|_: u8| dice.next() as u32);
            let limits = OwnerLimits { holds_max, units_max, cool_down_ms };
            Op::SetOwnerLimits { op_id, limits }
        }
        14 => Op::ListCells(Listing {
            from: dice.next() as u32,
            count: 1 + dice.below(1_024) as u16,
            filter: [Filter::All, Filter::Low][dice.below(2)],
            warehouse: &b"warehouse"[..dice.below(10)],
            sku: &b"sku"[..dice.below(4)],
        }),
        0 => Op::Adjust { op_id, delta: units - (1 << 51), cell },
        1 => Op::Set { op_id, on_hand: units, guard: Guard::Expected(-units), cell },
        2 => Op::Set { op_id, on_hand: units, guard: Guard::Feed(1 + dice.next() / 2), cell },
        3 => Op::CountBegin { op_id, cell },
        4 => Op::CountCommit { op_id, token: transfer, counted: units },
        5 => Op::Move { op_id, from: Bucket::Sellable, to: bucket, quantity, cell },
        6 => Op::Announce { op_id, delta: units + 1, cell },
        7 => Op::Arrive { op_id, quantity, bucket, cell },
        8 => Op::Return { op_id, quantity, bucket, cell },
        9 => Op::TransferShip { op_id, quantity, from: cell, to: other },
        10 => Op::TransferReceive { op_id, transfer, good: quantity, damaged: 1 },
        11 => Op::TransferClose { transfer },
        12 => Op::TransferCancel { transfer },
        13 => Op::ReadTransfer { transfer },
        _ => Op::SetPolicy { op_id, change: random_policy(dice, units), cell },
    }
}

fn random_policy(dice: &mut Dice, units: i64) -> PolicyChange {
    let mut flag = || (dice.below(2) == 0).then(|| dice.below(2) == 0);
    let (frozen, untracked, preorder, no_hold) = (flag(), flag(), flag(), flag());
    let mut number = || (dice.below(2) == 0).then_some(units);
    let (oversell_limit, buffer) = (number(), number());
    let reorder_point = Some((dice.below(2) == 0).then_some(units));
    let mut change = PolicyChange { frozen, untracked, preorder, no_hold, ..Default::default() };
    (change.oversell_limit, change.buffer) = (oversell_limit, buffer);
    let owner_max = (dice.below(2) == 0).then(|| dice.next() as u32);
    PolicyChange { reorder_point, owner_max, ..change }
}

#[test]
fn every_opcode_is_drawn() {
    let mut drawn = std::collections::BTreeSet::new();
    for seed in 0..3_000 {
        let mut bytes = BytesMut::new();
        random_op(&mut Dice(seed), &mut bytes);
        drawn.insert(bytes[0]);
    }
    let all: std::collections::BTreeSet<u8> = Opcode::ALL.iter().map(|op| *op as u8).collect();
    assert_eq!(drawn, all);
}

/// Changes one encoded operation and says what is wrong with it then.
fn damaged(op: &Op<'_>, damage: impl FnOnce(&mut BytesMut)) -> OpError {
    let mut bytes = BytesMut::new();
    op.encode(&mut bytes, &Terms::default());
    damage(&mut bytes);
    take_op(&mut Reader::new(&bytes)).expect_err("it was damaged")
}

#[test]
fn numbers_and_choices_out_of_range_are_errors() {
    let (op_id, cell) = (OpId([7; 16]), CellRef::Handle(CellHandle(1)));
    // Offsets count from the operation's header of 8 bytes and its id of 16.
    let adjust = Op::Adjust { op_id, delta: 1, cell };
    assert_eq!(damaged(&adjust, |b| b[24] = 0), OpError::ZeroQuantity);
    assert_eq!(damaged(&adjust, |b| b[30] = 0x20), OpError::Range);
    let set = Op::Set { op_id, on_hand: 1, guard: Guard::Feed(1), cell };
    assert_eq!(damaged(&set, |b| b[31] = 0x80), OpError::Range, "less than nothing");
    assert_eq!(damaged(&set, |b| b[32] = 2), OpError::Choice(2));
    assert_eq!(damaged(&set, |b| b[33] = 0), OpError::Range, "feeds count from 1");
    let (from, to) = (Bucket::Sellable, Bucket::Other);
    let moved = Op::Move { op_id, from, to, quantity: 1, cell };
    assert_eq!(damaged(&moved, |b| b[24] = 5), OpError::Choice(5));
    assert_eq!(damaged(&moved, |b| b[24] = 4), OpError::Choice(4), "from and to are the same");
    assert_eq!(damaged(&moved, |b| b[26] = 0), OpError::ZeroQuantity);
    let arrived = Op::TransferReceive { op_id, transfer: op_id, good: 1, damaged: 0 };
    assert_eq!(damaged(&arrived, |b| b[40] = 0), OpError::ZeroQuantity);
    let all = |b: &mut BytesMut| b[40..48].fill(0xff);
    assert_eq!(damaged(&arrived, all), OpError::Range);
    let change = PolicyChange { buffer: Some(1), ..Default::default() };
    let policy = Op::SetPolicy { op_id, change, cell };
    assert_eq!(damaged(&policy, |b| b[24] = 0), OpError::Range, "nothing changes");
    assert_eq!(damaged(&policy, |b| b[26] = 1), OpError::Range, "a bit that is not in the mask");
    assert_eq!(damaged(&policy, |b| b[28] = 1), OpError::Range, "a number that is not either");
    assert_eq!(damaged(&policy, |b| b[25] = 1), OpError::Range, "a rule of a later version");
    assert_eq!(damaged(&policy, |b| b[52] = 1), OpError::Range, "an owner_max that is not");
    let reorder = Op::SetReorder { op_id, point: None, sku: b"a" };
    assert_eq!(damaged(&reorder, |b| b[24] = 0xfe), OpError::Range, "less than none");
    let crossings = Op::ReadCrossings { from: 0, count: 1 };
    assert_eq!(damaged(&crossings, |b| b[2] = 0), OpError::Count(0));
    let named = Op::NameSku { op_id, naming: Naming::Alias, sku: b"a", name: b"b" };
    assert_eq!(damaged(&named, |b| b[24] = 2), OpError::Choice(2));
    assert_eq!(damaged(&named, |b| b[25] = 0), OpError::NameLength(0));
    let described = Op::DescribeSku { op_id, scale: 9, title: b"", sku: b"a" };
    assert_eq!(damaged(&described, |b| b[24] = 10), OpError::Range);
    let title = [b'x'; 64];
    let described = Op::DescribeSku { op_id, scale: 9, title: &title, sku: b"a" };
    assert_eq!(damaged(&described, |b| b[25] = 65), OpError::TitleLength(65));
    let read = Op::ReadOwner { owner: b"ann" };
    assert_eq!(damaged(&read, |b| b[8] = 0), OpError::OwnerLength(0));
    assert_eq!(damaged(&read, |b| b[8] = 4), OpError::Truncated);
}

#[test]
fn parts_steps_and_notes_that_are_none_are_errors() {
    let id = ReservationId([7; 16]);
    let parts = [Part { line: 1, quantity: 1 }, Part { line: 2, quantity: 1 }];
    let mut bytes = BytesMut::new();
    let terms = Terms { note: Some(Note { reason: 1, reference: b"x" }), ..Terms::default() };
    Op::encode_parts(&mut bytes, Opcode::Cancel, &terms, id, 1, &parts);
    let broken = |at: usize, to: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = to;
        take_op(&mut Reader::new(&bytes)).expect_err("it was damaged")
    };
    // Header 8, note 4, id 16, step 4, parts of 8.
    assert_eq!(broken(10, 65), OpError::Truncated, "a reference longer than the rest");
    assert_eq!(broken(28, 0), OpError::Step);
    assert_eq!(broken(32, 2), OpError::Parts, "not ascending");
    assert_eq!(broken(34, 1), OpError::Parts, "a reserved field");
    assert_eq!(broken(36, 0), OpError::ZeroQuantity);
    assert_eq!(broken(2, 3), OpError::Truncated);
    assert_eq!(broken(3, 5), OpError::Count(5 << 8 | 2));
    let mut long = BytesMut::new();
    long.put_slice(&[0x11, OpFlags::NOTE.0, 0, 0, 84, 0, 0, 0, 0, 0, 65]);
    long.put_bytes(0, 81);
    assert_eq!(take_op(&mut Reader::new(&long)), Err(OpError::ReferenceLength(65)));
}

#[test]
fn the_cells_and_parts_of_a_reserve_from_are_bounded() {
    let cells = [CellRef::Handle(CellHandle(1)); 64];
    let wish = |count: usize| Wish { quantity: 1, min_quantity: 0, cells: &cells[..count] };
    let encoded = |splits_max: u8, wishes: &[Wish<'_>]| {
        let rules = Rules { splits_max, ..Rules::default() };
        let (mut bytes, id) = (BytesMut::new(), ReservationId([7; 16]));
        Op::encode_reserve_from(&mut bytes, &Terms::default(), id, 0, rules, wishes)?;
        Ok(bytes)
    };
    let decoded = |bytes: &BytesMut| take_op(&mut Reader::new(bytes)).map(|_| ());
    // Header 8, id 16, ttl_ms 4, rules 4; then of the first line the units 8, and how many cells.
    let one = encoded(0, &[wish(64)]).unwrap();
    assert_eq!((one[40], decoded(&one)), (64, Ok(())));
    let broken = |to: u8| {
        let mut bytes = one.clone();
        bytes[40] = to;
        decoded(&bytes)
    };
    assert_eq!(broken(0), Err(OpError::Count(0)));
    assert_eq!(broken(65), Err(OpError::Count(65)), "before it is known whether there are as many");

    // Of what is too much in all, the encoder says the same as the decoder.
    let lines = |bytes: &BytesMut, to: u16| {
        let mut bytes = bytes.clone();
        bytes[2..4].copy_from_slice(&to.to_le_bytes());
        bytes
    };
    let most = encoded(0, &[wish(64); 128]).unwrap();
    assert_eq!(decoded(&most), Ok(()));
    let mut more = [wish(64); 129];
    more[128] = wish(1);
    assert_eq!(encoded(0, &more), Err(OpError::Candidates(8_193)));
    let mut longer = lines(&most, 129);
    put_line(&mut longer);
    assert_eq!(decoded(&longer), Err(OpError::Candidates(8_193)));

    let most = encoded(7, &[wish(8); 128]).unwrap();
    assert_eq!(decoded(&most), Ok(()), "128 lines of at most 8 parts");
    let mut more = [wish(8); 129];
    more[128] = wish(1);
    assert_eq!(encoded(7, &more), Err(OpError::TooManyParts(1_025)));
    let mut longer = lines(&most, 129);
    put_line(&mut longer);
    assert_eq!(decoded(&longer), Err(OpError::TooManyParts(1_025)));
    more[128] = wish(8);
    assert!(encoded(6, &more).is_ok(), "not the cells count, but what a line may be split into");
}

/// Appends a line of a RESERVE_FROM to the one operation in `bytes`: one unit from one cell.
fn put_line(bytes: &mut BytesMut) {
    bytes.put_u32_le(1);
    bytes.put_u32_le(0);
    bytes.put_u32_le(1);
    bytes.put_u32_le(1);
    let len = bytes.len() as u32 - 8;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
}

#[test]
fn details_transfers_and_shares_round_trip() {
    let mut dice = Dice(1);
    for _ in 0..200 {
        let mut number = || (dice.next() >> 11) as i64;
        let policy = random_policy(&mut Dice(number() as u64), number());
        let details = CellDetails {
            blocked: [number(), number(), number(), number()],
            incoming: number(),
            in_transit: number(),
            feed_sequence: number() as u64,
            policy: policy.apply(Default::default()),
            short: number() % 2 == 0,
            ..CellDetails::default()
        };
        let mut word = || number() as u32 / 8;
        let [received, damaged] = [word(), word()];
        let (from, to) = (CellHandle(word()), CellHandle(word()));
        let transfer = Transfer { from, to, shipped: word(), received, damaged };
        let mut shares = LineShares::whole(ReservationState::Fulfilled, word());
        (shares.reserved, shares.expired, shares.cancelled) = (word(), word(), word());
        let mut out = BytesMut::new();
        details.encode(&mut out);
        assert_eq!(out.len(), CellDetails::BYTES);
        transfer.encode(&mut out);
        shares.encode(&mut out);
        let mut reader = Reader::new(&out);
        assert_eq!(CellDetails::take(&mut reader), Ok(details));
        assert_eq!(Transfer::take(&mut reader), Ok(transfer));
        assert_eq!(LineShares::take(&mut reader), Ok(shares));
        assert!(reader.is_empty());
    }
}

/// Takes one operation and encodes it again.
fn encode_again(reader: &mut Reader<'_>, out: &mut BytesMut) -> Result<(), OpError> {
    let (op, terms) = take_op_and_terms(reader)?;
    op.encode(out, &terms);
    Ok(())
}

fn header(kind: Kind) -> Header {
    Header { request_id: 0x1234_5678_9abc_def0, kind, shard: ShardId(3) }
}

fn frame(kind: Kind, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let start = begin_frame(&mut out, header(kind));
    out.put_slice(body);
    finish_frame(&mut out, start);
    out
}

#[test]
fn operations_round_trip_one_after_the_other() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let mut bytes = BytesMut::new();
        for _ in 0..20 {
            random_op(&mut dice, &mut bytes);
        }
        let (mut reader, mut again) = (Reader::new(&bytes), BytesMut::new());
        for _ in 0..20 {
            encode_again(&mut reader, &mut again).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
        assert!(reader.is_empty(), "seed {seed}");
        assert_eq!(again, bytes, "seed {seed}");
    }
}

#[test]
fn a_decoded_operation_is_the_encoded_one() {
    let mut out = BytesMut::new();
    let lines = [
        Line { cell: CellRef::name("BER", "mug"), quantity: 3 },
        Line { cell: CellRef::name("BER", "\0\u{ff}"), quantity: u32::MAX },
    ];
    let (id, not_after) = (ReservationId([7; 16]), Some(UnixMillis(99)));
    Op::encode_reserve(&mut out, OpFlags::RETRY, not_after, id, 5_000, &lines);
    let (op, flags, moment) = take_op(&mut Reader::new(&out)).unwrap();
    let Op::Reserve { id: actual_id, ttl_ms, lines: actual } = op else { panic!("{op:?}") };
    assert_eq!((actual_id, ttl_ms, moment), (id, 5_000, not_after));
    assert!(flags.contains(OpFlags::RETRY.with(OpFlags::NAMES).with(OpFlags::NOT_AFTER)));
    assert_eq!(actual.iter().collect::<Vec<_>>(), lines);
    assert_eq!((actual.len(), actual.is_named()), (2, true));
}

#[test]
fn a_truncated_operation_is_an_error_at_every_byte() {
    for seed in 0..60 {
        let mut bytes = BytesMut::new();
        random_op(&mut Dice(seed), &mut bytes);
        for end in 0..bytes.len() {
            let cut = &bytes[..end];
            assert_eq!(take_op(&mut Reader::new(cut)), Err(OpError::Truncated), "{seed}, {end}");
            // The same cut by a header that declares the shorter body: a field is missing.
            if end >= Op::HEADER_BYTES {
                let mut cut = cut.to_vec();
                cut[4..8].copy_from_slice(&((end - Op::HEADER_BYTES) as u32).to_le_bytes());
                assert!(take_op(&mut Reader::new(&cut)).is_err(), "seed {seed}, {end} bytes");
            }
        }
        bytes.put_u8(0);
        let len = (bytes.len() - Op::HEADER_BYTES) as u32;
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        assert!(take_op(&mut Reader::new(&bytes)).is_err(), "seed {seed}: one byte too many");
    }
}

#[test]
fn a_damaged_operation_decodes_to_something_whole_or_not_at_all() {
    for seed in 0..60 {
        let mut bytes = BytesMut::new();
        random_op(&mut Dice(seed), &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Encoding again walks every line; it panics if decoding let something through.
            let _ = encode_again(&mut Reader::new(&damaged), &mut BytesMut::new());
        }
    }
}

#[test]
fn garbage_never_panics() {
    for seed in 0..20_000 {
        let mut dice = Dice(seed);
        let len = dice.below(120);
        let garbage = dice.bytes(len);
        let _ = encode_again(&mut Reader::new(&garbage), &mut BytesMut::new());
        let _ = Hello::decode(&garbage);
        let _ = HelloReply::decode(&garbage);
        let _ = ErrorReply::decode(&garbage);
        if let Ok(outcome) = take_outcome(&mut Reader::new(&garbage)) {
            let _ = (outcome.state(), outcome.deadline());
        }
        let mut buffer = BytesMut::from(&garbage[..]);
        let _ = take_frame(&mut buffer, limits::FRAME_BYTES_MAX);
        // The same under a plausible length, so that the body is looked at.
        let mut buffer = frame(Kind::Op, &garbage);
        assert_eq!(take_frame(&mut buffer, 1000).unwrap().unwrap().body, garbage);
    }
}

#[test]
fn operations_are_refused_for_the_right_reason() {
    fn refused(damage: impl FnOnce(&mut BytesMut)) -> OpError {
        let mut bytes = BytesMut::new();
        let line = Line { cell: CellRef::name("BER", "mug"), quantity: 1 };
        let id = ReservationId([1; 16]);
        Op::encode_reserve(&mut bytes, OpFlags(0), None, id, 0, &[line]);
        damage(&mut bytes);
        take_op(&mut Reader::new(&bytes)).unwrap_err()
    }
    assert_eq!(refused(|op| op[0] = 0xf0), OpError::UnknownOpcode(0xf0));
    assert_eq!(refused(|op| op[0] = 0x00), OpError::UnknownOpcode(0x00));
    assert_eq!(refused(|op| op[2] = 0), OpError::Count(0));
    assert_eq!(refused(|op| op[3] = 0xff), OpError::Count(0xff01));
    assert_eq!(refused(|op| op[2] = 2), OpError::Truncated);
    assert_eq!(refused(|op| op[28] = 0), OpError::NameLength(0));
    assert_eq!(refused(|op| op[28] = 200), OpError::Truncated);
    // The body: id at 8, ttl_ms at 24, "BER" at 28, "mug" at 32, quantity at 36.
    assert_eq!(refused(|op| op[36] = 0), OpError::ZeroQuantity);
    assert_eq!(refused(|op| op[0] = 0x11), OpError::Step);
    assert_eq!(refused(|op| op[0] = 0x13), OpError::TrailingBytes);

    let mut define = BytesMut::new();
    Op::encode_define(&mut define, b"BER", b"mug");
    define[1] = 0;
    assert_eq!(take_op(&mut Reader::new(&define)), Err(OpError::NamesFlag));
}

#[test]
fn a_frame_arrives_byte_by_byte() {
    let whole = frame(Kind::Batch, b"some body");
    let mut buffer = BytesMut::new();
    for byte in &whole[..whole.len() - 1] {
        buffer.put_u8(*byte);
        assert_eq!(take_frame(&mut buffer, limits::FRAME_BYTES_MAX), Ok(None));
    }
    buffer.put_u8(whole[whole.len() - 1]);
    buffer.put_slice(&whole[..7]);
    let taken = take_frame(&mut buffer, limits::FRAME_BYTES_MAX).unwrap().unwrap();
    assert_eq!((taken.header, &taken.body[..]), (header(Kind::Batch), &b"some body"[..]));
    assert_eq!(buffer, whole[..7], "what follows stays");
}

#[test]
fn every_flipped_bit_of_a_frame_is_found() {
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let len = dice.below(200);
        let body = dice.bytes(len);
        let (whole, next) = (frame(Kind::Op, &body), frame(Kind::Op, &dice.bytes(700)));
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // With the next frame behind it, so that a longer length finds bytes to swallow.
            for follower in [&[][..], &next] {
                let mut buffer = damaged.clone();
                buffer.put_slice(follower);
                let taken = take_frame(&mut buffer, limits::FRAME_BYTES_MAX);
                assert!(!matches!(taken, Ok(Some(_))), "seed {seed}, bit {bit}: {taken:?}");
            }
        }
    }
}

#[test]
fn every_unknown_kind_is_refused() {
    for kind in 0..=255_u8 {
        let mut bytes = frame(Kind::Op, b"");
        bytes[16] = kind;
        finish_frame(&mut bytes, 0);
        let known = Kind::ALL.iter().find(|known| **known as u8 == kind);
        match take_frame(&mut bytes, 1000) {
            Ok(frame) => assert_eq!(known, Some(&frame.unwrap().header.kind)),
            Err(error) => assert_eq!((known, error), (None, FrameError::UnknownKind(kind))),
        }
    }
}

#[test]
fn a_declared_length_is_bounded_and_never_allocated() {
    let declare = |len: u32| BytesMut::from(&len.to_le_bytes()[..]);
    let max = limits::FRAME_BYTES_MAX;
    for len in [0, 1, 15] {
        assert_eq!(take_frame(&mut declare(len), max), Err(FrameError::TooShort { len }));
    }
    let mut largest = declare(max - 4);
    let capacity = largest.capacity();
    assert_eq!(take_frame(&mut largest, max), Ok(None));
    assert_eq!(largest.capacity(), capacity, "no room is made for what has not come");
    for len in [max - 3, u32::MAX] {
        assert_eq!(take_frame(&mut declare(len), max), Err(FrameError::TooLarge { len, max }));
    }
    let small = limits::FRAME_BYTES_MAX_BEFORE_HELLO;
    let len = small - 3;
    let refused = Err(FrameError::TooLarge { len, max: small });
    assert_eq!(take_frame(&mut declare(len), small), refused, "the limit in force counts");

    let exact = vec![0; max as usize - Header::BYTES];
    let taken = take_frame(&mut frame(Kind::Batch, &exact), max).unwrap().unwrap();
    assert_eq!(taken.body.len(), exact.len(), "a frame of exactly the limit passes");

    let mut op = BytesMut::new();
    Op::encode_ping(&mut op);
    op[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(take_op(&mut Reader::new(&op)), Err(OpError::Truncated));
}

#[test]
fn the_largest_cart_and_the_largest_read_fit_in_a_frame() {
    let (warehouse, sku) = ([b'w'; limits::WAREHOUSE_BYTES_MAX], [b's'; limits::SKU_BYTES_MAX]);
    let cell = CellRef::name(&warehouse, &sku);
    let room = limits::FRAME_BYTES_MAX as usize - Header::BYTES;

    let mut cart = BytesMut::new();
    let lines = vec![Line { cell, quantity: u32::MAX }; usize::from(limits::LINES_MAX)];
    let moment = Some(UnixMillis(1));
    Op::encode_reserve(&mut cart, OpFlags::RETRY, moment, ReservationId([1; 16]), 0, &lines);
    assert!(cart.len() <= room, "{} bytes", cart.len());
    let (op, ..) = take_op(&mut Reader::new(&cart)).unwrap();
    assert!(matches!(op, Op::Reserve { lines, .. } if lines.iter().count() == 1024));

    let mut read = BytesMut::new();
    let cells = vec![cell; usize::from(limits::READ_CELLS_MAX)];
    Op::encode_read_cells(&mut read, OpFlags(0), &cells);
    assert!(read.len() <= room, "{} bytes", read.len());
    assert!(take_op(&mut Reader::new(&read)).is_ok());
}

#[test]
fn whatever_a_batch_of_writes_is_answered_fits_in_a_reply() {
    // The worst is a refusal that lists every line of carts given by handle or by one-byte names:
    // 24 bytes of answer for 8 bytes of line.
    let mut worst = 0;
    for line_count in [1, 2, 3, 10, 100, 1024] {
        let mut op = BytesMut::new();
        let lines = vec![Line { cell: CellRef::Handle(CellHandle(1)), quantity: 1 }; line_count];
        Op::encode_reserve(&mut op, OpFlags(0), None, ReservationId([1; 16]), 0, &lines);
        let mut answer = BytesMut::new();
        let start = begin_outcome(&mut answer, OutcomeHeader { code: Code::NO_STOCK, detail: 0 });
        for line in 0..line_count as u16 {
            ShortLine { line, cell: CellHandle(1), asked: 1, available: 0 }.encode(&mut answer);
        }
        finish_outcome(&mut answer, start);
        let ops = (limits::FRAME_BYTES_MAX as usize).div_ceil(op.len());
        let ops = ops.min(limits::BATCH_OPS_MAX as usize);
        worst = worst.max(Header::BYTES + ReplyPrefix::BYTES + 4 + ops * answer.len());
    }
    assert!(worst <= limits::REPLY_BYTES_MAX as usize, "{worst} bytes");
    assert!(worst > limits::FRAME_BYTES_MAX as usize, "else one limit would do: {worst} bytes");
}

#[test]
fn replies_round_trip_and_say_when_they_are_cut() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut out = BytesMut::new();
        let prefix = ReplyPrefix {
            index: dice.next(),
            server_now: UnixMillis(dice.next()),
            age_ms: dice.next() as u32,
        };
        let counters = CellCounters {
            on_hand: dice.next() as i64,
            reserved: dice.next() as i64,
            committed: dice.next() as i64,
            available: dice.next() as i64,
        };
        let short = ShortLine {
            line: dice.next() as u16,
            cell: CellHandle(dice.next() as u32),
            asked: dice.next(),
            available: dice.next() as i64,
        };
        let total = SkuTotal { more: seed % 2 == 0, cells: dice.next() as u32, total: counters };
        prefix.encode(&mut out);
        let code = Code(dice.next() as u16);
        let start = begin_outcome(&mut out, OutcomeHeader { code, detail: 4 });
        counters.encode(&mut out);
        short.encode(&mut out);
        total.encode(&mut out);
        finish_outcome(&mut out, start);

        let mut reader = Reader::new(&out);
        assert_eq!(ReplyPrefix::take(&mut reader), Ok(prefix), "seed {seed}");
        let outcome = take_outcome(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!((outcome.code, outcome.detail), (code, 4));
        let mut body = Reader::new(outcome.body);
        assert_eq!(CellCounters::take(&mut body), Ok(counters), "seed {seed}");
        assert_eq!(ShortLine::take(&mut body), Ok(short), "seed {seed}");
        assert_eq!(SkuTotal::take(&mut body), Ok(total), "seed {seed}");
        assert!(body.is_empty());

        for end in 0..out.len() {
            let mut reader = Reader::new(&out[..end]);
            let whole = ReplyPrefix::take(&mut reader).and_then(|_| take_outcome(&mut reader));
            assert!(whole.is_err(), "seed {seed}, {end} bytes");
        }
    }
}

#[test]
fn hellos_and_errors_round_trip_and_leave_room_for_later_fields() {
    let hello = Hello { magic: 1, version_min: 2, version_max: 3, client_name: b"shop" };
    let reply = HelloReply {
        version: 1,
        frame_bytes_max: 2,
        batch_ops_max: 3,
        frames_in_flight_max: 4,
        cluster_id: 5,
        node_id: 6,
        server_now: UnixMillis(7),
        leader: b"localhost:8",
    };
    let error = ErrorReply {
        code: Code::NOT_LEADER,
        retry_after_ms: 9,
        leader: b"localhost:8",
        message: "für Menschen".as_bytes(),
        event: 0,
    };
    let gone = ErrorReply { code: Code::EVENTS_GONE, event: 10, ..error };
    let encode = |encode: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        encode(&mut out);
        let len = out.len();
        out.put_slice(b"later");
        (out, len)
    };
    let (bytes, len) = encode(&|out| hello.encode(out));
    assert_eq!(Hello::decode(&bytes), Ok(hello));
    assert!((0..len).all(|end| Hello::decode(&bytes[..end]).is_err()));
    let (bytes, len) = encode(&|out| reply.encode(out));
    assert_eq!(HelloReply::decode(&bytes), Ok(reply));
    assert!((0..len).all(|end| HelloReply::decode(&bytes[..end]).is_err()));
    let (bytes, len) = encode(&|out| error.encode(out));
    assert_eq!(ErrorReply::decode(&bytes), Ok(error));
    let (bytes, _) = encode(&|out| gone.encode(out));
    assert_eq!(ErrorReply::decode(&bytes), Ok(gone));
    assert!((0..len).all(|end| ErrorReply::decode(&bytes[..end]).is_err()));
}

#[test]
fn ids_round_trip_as_text_and_carry_their_time() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let id = ReservationId(dice.id());
        let text = id.to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.replace('-', "").to_uppercase().parse(), Ok(id));

        let millis = dice.next() >> 16;
        let made = OpId::from_parts(millis, *dice.bytes(10).first_chunk().unwrap());
        assert_eq!(made.millis(), millis);
        assert_eq!((made.0[6] >> 4, made.0[8] >> 6), (7, 2), "version 7, variant 2 (RFC 9562)");
    }
    for wrong in ["", "0", "018bcfe5-687b-7c1d-9a01-42434445464", "xyz", &"0".repeat(33), "é"] {
        assert!(wrong.parse::<ReservationId>().is_err(), "{wrong}");
    }
}

#[test]
fn codes_are_ordered_and_each_has_one_class() {
    assert!(Code::ALL.windows(2).all(|pair| pair[0] < pair[1]));
    for code in Code::ALL {
        let classes = [code.is_ok(), code.is_refusal(), code.is_retry(), code.0 >= 300];
        assert_eq!(classes.iter().filter(|class| **class).count(), 1, "{code}");
        assert_ne!((code.name(), code.advice()), ("UNKNOWN", ""));
    }
    assert_eq!(Code(999).to_string(), "UNKNOWN (999)");
}
