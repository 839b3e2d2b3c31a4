//! What is encoded is decoded; what is damaged is found; nothing panics or believes a length.
//!
//! Random values come from a seed that a failure prints.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::{BufMut, BytesMut};
use stockd_protocol::{
    CellCounters, CellHandle, CellRef, Code, ErrorReply, FrameError, Header, Hello, HelloReply,
    Kind, Line, Op, OpError, OpFlags, OpId, OutcomeHeader, Reader, ReplyPrefix, ReservationId,
    ShardId, ShortLine, SkuTotal, UnixMillis, begin_frame, begin_outcome, finish_frame,
    finish_outcome, limits, take_frame, take_op, take_outcome,
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
    match dice.below(11) {
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
        _ => Op::encode_cluster_status(out),
    }
}

/// Takes one operation and encodes it again; walks everything it holds.
fn encode_again(reader: &mut Reader<'_>, out: &mut BytesMut) -> Result<(), OpError> {
    let (op, flags, not_after) = take_op(reader)?;
    match op {
        Op::Define { cell: CellRef::Name { warehouse, sku } } => {
            Op::encode_define(out, warehouse, sku);
        }
        Op::Define { cell: CellRef::Handle(_) } => unreachable!("refused when decoded"),
        Op::Receive { op_id, quantity, cell } => {
            Op::encode_receive(out, flags, not_after, op_id, cell, quantity);
        }
        Op::Reserve { id, ttl_ms, lines } => {
            let lines: Vec<_> = lines.iter().collect();
            Op::encode_reserve(out, flags, not_after, id, ttl_ms, &lines);
        }
        Op::Confirm { id } => Op::encode_confirm(out, flags, not_after, id),
        Op::Release { id } => Op::encode_release(out, flags, not_after, id),
        Op::Extend { id, ttl_ms } => Op::encode_extend(out, flags, not_after, id, ttl_ms),
        Op::ReadCells { cells } => {
            let cells: Vec<_> = cells.iter().collect();
            Op::encode_read_cells(out, flags, &cells);
        }
        Op::ReadReservation { id } => Op::encode_read_reservation(out, flags, id),
        Op::ReadSku { after, sku } => Op::encode_read_sku(out, flags, after, sku),
        Op::Ping => Op::encode_ping(out),
        Op::ClusterStatus => Op::encode_cluster_status(out),
    }
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
    assert_eq!(refused(|op| op[1] |= 32), OpError::UnknownFlags(36));
    assert_eq!(refused(|op| op[2] = 0), OpError::Count(0));
    assert_eq!(refused(|op| op[3] = 0xff), OpError::Count(0xff01));
    assert_eq!(refused(|op| op[2] = 2), OpError::Truncated);
    assert_eq!(refused(|op| op[28] = 0), OpError::NameLength(0));
    assert_eq!(refused(|op| op[28] = 200), OpError::Truncated);
    // The body: id at 8, ttl_ms at 24, "BER" at 28, "mug" at 32, quantity at 36.
    assert_eq!(refused(|op| op[36] = 0), OpError::ZeroQuantity);
    assert_eq!(refused(|op| op[0] = 0x11), OpError::TrailingBytes);

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
    };
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
