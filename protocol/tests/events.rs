//! Records of events: what is written is read, and damaged ones are errors.

use stockd_protocol::event::{
    Cause, CellChange, Counts, Event, EventBody, EventError, EventKind, EventRecord, Ledger,
    RecordWriter, seal,
};
use stockd_protocol::{
    CellHandle, Code, Naming, Note, Opcode, OwnerLimits, Policy, Reader, ReservationId, ShardId,
    UnixMillis,
};

const AT_US: u64 = 1_700_000_000_000_000;

fn begin() -> RecordWriter {
    RecordWriter::begin(Vec::new(), ShardId(3), 100, 7, AT_US)
}

fn finish(writer: RecordWriter) -> Vec<u8> {
    let mut record = writer.finish();
    seal(&mut record);
    record
}

fn read(record: &[u8]) -> Result<Vec<Event<'_>>, EventError> {
    let mut reader = Reader::new(record);
    let record = EventRecord::take(&mut reader)?;
    assert!(reader.is_empty());
    record.events().collect()
}

fn id(number: u8) -> ReservationId {
    ReservationId([number; 16])
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// Numbers of all sizes, often zero.
    fn number(&mut self) -> i64 {
        match self.below(3) {
            0 => 0,
            _ => self.roll() as i64 >> (10 + self.below(53)),
        }
    }

    fn counts(&mut self, with_details: bool) -> Counts {
        let mut details = [0; 6];
        if with_details {
            details = std::array::from_fn(|_| self.number());
        }
        let [damaged, quality, safety, other, incoming, in_transit] = details;
        Counts {
            on_hand: self.number(),
            reserved: self.number(),
            committed: self.number(),
            blocked: [damaged, quality, safety, other],
            incoming,
            in_transit,
        }
    }
}

#[test]
fn what_is_written_is_read() {
    let mut dice = Dice(1);
    for _ in 0..2_000 {
        let mut writer = begin();
        let mut written = Vec::new();
        for _ in 0..dice.below(40) {
            let names = [&b""[..], b"shop", b"warehouse-app"];
            let principal = names[dice.below(3) as usize];
            writer.principal(principal);
            let kind = EventKind::ALL[dice.below(EventKind::ALL.len() as u64) as usize];
            let notes = [
                None,
                Some(Note { reason: 7, reference: b"" }),
                Some(Note { reason: 9, reference: b"order 4711" }),
            ];
            let cause = Cause {
                kind,
                id: (dice.below(4) > 0).then(|| id(dice.below(3) as u8)),
                note: notes[dice.below(3) as usize],
                deadline_ms: (dice.below(2) == 0).then(|| dice.below(1 << 32) as u32),
                body: body_of(kind, &mut dice),
            };
            let has_details = dice.below(3) == 0;
            let change = (dice.below(4) > 0).then(|| CellChange {
                cell: CellHandle(dice.roll() as u32),
                after: dice.counts(has_details),
                delta: dice.counts(has_details),
            });
            match &change {
                Some(change) => writer.cell_event(&cause, change, has_details),
                None => writer.event(&cause),
            }
            written.push(Event {
                sequence: 100 + written.len() as u64,
                index: 7,
                at_us: AT_US,
                shard: ShardId(3),
                principal,
                kind,
                id: cause.id,
                note: cause.note,
                deadline: cause.deadline_ms.map(|ms| UnixMillis(AT_US / 1_000 + u64::from(ms))),
                change,
                has_details: has_details && change.is_some(),
                body: cause.body,
            });
        }
        assert_eq!(writer.count() as usize, written.len());
        assert_eq!(read(&finish(writer)).unwrap(), written);
    }
}

fn body_of(kind: EventKind, dice: &mut Dice) -> EventBody<'static> {
    if dice.below(4) == 0 {
        return EventBody::None;
    }
    let point = Some(dice.below(1 << 40) as i64).filter(|point| point % 3 > 0);
    let policy = Policy { buffer: 3, reorder_point: point, frozen: true, ..Policy::default() };
    match kind {
        EventKind::CellDefined => EventBody::Names { warehouse: b"BER", sku: b"mug" },
        EventKind::PolicySet => EventBody::Policy { before: Policy::default(), after: policy },
        EventKind::Reserved => EventBody::Owner(b"somebody"),
        EventKind::SkuDescribed => EventBody::Described { sku: b"mug", scale: 2, title: b"A mug" },
        EventKind::SkuNamed => {
            EventBody::Named { sku: b"mug", naming: Naming::Rename, name: b"cup" }
        }
        EventKind::ReorderSet => EventBody::Reorder { sku: b"mug", point },
        EventKind::OwnerLimitsSet => {
            EventBody::OwnerLimits(OwnerLimits { holds_max: 1, units_max: 2, cool_down_ms: 3 })
        }
        EventKind::CrossedDown | EventKind::CrossedUp => {
            EventBody::Crossed { position: -5, point, sku: b"mug" }
        }
        EventKind::OutageGivenBack => EventBody::Outage(dice.roll()),
        EventKind::Refused => {
            EventBody::Refused { opcode: Opcode::Amend, code: Code::NO_STOCK, asked: dice.roll() }
        }
        _ => EventBody::None,
    }
}

/// Of events that anybody may have made up.
#[test]
fn a_ledger_takes_no_number_that_overflows() {
    let extremes = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX];
    let counts = |one: usize, other: usize, [first, second]: [i64; 2]| {
        let mut all = [0; 9];
        (all[one], all[other]) = (first, second);
        let [on_hand, reserved, committed, a, b, c, d, incoming, in_transit] = all;
        Counts { on_hand, reserved, committed, blocked: [a, b, c, d], incoming, in_transit }
    };
    let pairs = || extremes.iter().flat_map(|one| extremes.map(|other| [*one, other]));
    let mut taken = 0;
    for kind in EventKind::ALL {
        for (one, other) in (0..9).flat_map(|one| (one + 1..9).map(move |other| (one, other))) {
            for (delta, after) in pairs().flat_map(|delta| pairs().map(move |after| (delta, after)))
            {
                let [delta, after] = [delta, after].map(|units| counts(one, other, units));
                let change = Some(CellChange { cell: CellHandle(0), after, delta });
                let event = Event {
                    sequence: 1,
                    index: 1,
                    at_us: AT_US,
                    shard: ShardId(0),
                    principal: b"",
                    kind: *kind,
                    id: None,
                    note: None,
                    deadline: None,
                    change,
                    has_details: true,
                    body: EventBody::None,
                };
                let mut ledger = Ledger::new();
                ledger.expect(1);
                if ledger.take(&event).is_ok() {
                    taken += 1;
                    assert_eq!(ledger.counts(CellHandle(0)), Some(after), "{kind:?}");
                }
            }
        }
    }
    assert!(taken > 1_000, "{taken}");
}

#[test]
fn every_damaged_byte_and_every_cut_is_an_error() {
    let mut writer = begin();
    writer.principal(b"shop");
    writer.event(&Cause::new(EventKind::Fenced, id(1)));
    let record = finish(writer);
    for at in 0..record.len() {
        let mut damaged = record.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(read(&damaged).is_err(), "byte {at}");
        assert_eq!(read(&record[..at]), Err(EventError::Truncated), "cut at {at}");
    }
}

#[test]
fn no_items_make_a_reader_panic() {
    let mut dice = Dice(2);
    let mut errors = 0;
    for _ in 0..20_000 {
        let mut writer = begin();
        writer.event(&Cause::new(EventKind::Fenced, id(1)));
        let mut record = writer.finish();
        let kinds = [0xf0, 0xf1, 1, 15, 16, 17, 28, 32, 0xff];
        for _ in 0..dice.below(80) {
            let byte = match dice.below(3) {
                0 => kinds[dice.below(kinds.len() as u64) as usize],
                _ => dice.roll() as u8 >> dice.below(8),
            };
            record.push(byte);
        }
        let len = record.len() as u32 - 4;
        record[..4].copy_from_slice(&len.to_le_bytes());
        seal(&mut record);
        errors += u32::from(read(&record).is_err());
    }
    assert!(errors > 15_000, "random bytes are seldom events: {errors}");
}

#[test]
fn what_is_taken_back_was_never_there() {
    let mut writer = begin();
    writer.principal(b"shop");
    let note = Some(Note { reason: 1, reference: b"a" });
    writer.event(&Cause { note, ..Cause::new(EventKind::Fenced, id(1)) });
    let mark = writer.mark();
    writer.principal(b"other");
    writer.event(&Cause::new(EventKind::Fenced, id(2)));
    writer.truncate(mark);
    writer.principal(b"shop");
    writer.event(&Cause { note, ..Cause::new(EventKind::Released, id(1)) });
    let record = finish(writer);
    let events = read(&record).unwrap();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.principal == b"shop" && event.note == note));
    assert_eq!(events[1].id, Some(id(1)));
}

#[test]
fn left_out_events_keep_their_numbers() {
    let mut writer = begin();
    writer.skip(5);
    writer.event(&Cause::new(EventKind::Fenced, id(1)));
    writer.skip(2);
    let record = finish(writer);
    let events = read(&record).unwrap();
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [105]);
    let header = *EventRecord::take(&mut Reader::new(&record)).unwrap().header();
    assert!(header.is_filtered);
    assert_eq!(header.next(), 108);
}
