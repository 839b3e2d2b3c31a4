//! Events: segments with arbitrary content, and what a server sends to who follows.

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use bytes::BytesMut;
use stockd::events::{
    Checks, Direction, EventDir, EventLog, EventOptions, Key, Position, ReadError,
};
use stockd::log::{SimStorage, Storage};
use stockd::world::{TaskThreads, World};
use stockd_client::fuzzing;
use stockd_protocol::event::{Cause, CellChange, Counts, EventKind, RecordWriter, seal};
use stockd_protocol::{CellHandle, EventsHead, ReservationId, ShardId, UnixMillis};

use crate::input::{Input, put_block, u32_at};

const HEADER_BYTES: usize = 64;
const TRAILER_BYTES: usize = 96;
/// The smallest segments, so that a seed has several in a few kilobytes.
const OPTIONS: EventOptions =
    EventOptions { retention_ms: u64::MAX, bytes_max: u64::MAX, segment_bytes: 600 };
/// Segments of an input.
const SEGMENTS: usize = 8;

/// A directory of segments. Per segment: flags u8, its content (a block). Bit 0 of the flags keeps wrong checksums,
/// bit 1 a wrong chain, bit 2 lets it follow the one before, bit 3 leaves out its trailer.
pub fn files(data: &[u8]) {
    let mut input = Input(data);
    let storage = SimStorage::new();
    let mut end = Position::START;
    for _ in 0..SEGMENTS {
        if input.is_empty() {
            break;
        }
        let (flags, mut content) = (input.u8(), input.block().to_vec());
        end = mend(&mut content, flags, end);
        let first = word(&content, 16).unwrap_or(end.next);
        let file = storage.create(&format!("events-{first:020}"));
        // Two of one name are one.
        let Ok(file) = file else { continue };
        file.write_at(0, &content).expect("this disk has no faults");
        file.sync_data().expect("this disk has no faults");
    }
    storage.sync_dir().expect("this disk has no faults");
    let found = look_from_outside(&storage);
    read_as_a_node(&storage, found.unwrap_or(end), found.is_some());
}

/// Reads the directory as an audit does. The position at its end, if all is in order.
fn look_from_outside(storage: &SimStorage) -> Option<Position> {
    let survey = EventDir::survey(storage).expect("this disk has no faults");
    let (mut records, mut faults) = (survey.records(Checks::Index), 0);
    let mut next = 0;
    loop {
        match records.next() {
            Ok(Some(found)) => {
                let header = found.record.header();
                assert!(header.first >= next, "numbers rise, or something was wrong between");
                assert_eq!(found.before.next, header.first, "a record is where it says");
                // Events that are none were written by another version.
                let _ = found.record.events().take_while(Result::is_ok).count();
                next = header.next();
            }
            Ok(None) => break,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                (faults, next) = (faults + 1, 0);
            }
        }
    }
    assert!(faults <= survey.segments().len(), "a segment is wrong once");
    let end = records.position().filter(|_| faults == 0)?;
    assert!(EventDir::open(storage).is_ok(), "what is in order can be opened");
    Some(end)
}

/// Opens the log at a position. If that is after what was found in order, all of it must be there.
fn read_as_a_node(storage: &SimStorage, end: Position, is_in_order: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without sockets").block_on(async {
        let world = World { threads: Arc::new(TaskThreads), ..World::real() };
        let notice = Arc::new(|_: &str| ());
        let shard = ShardId(0);
        let log = EventLog::open(Arc::new(storage.clone()), &world, OPTIONS, shard, end, notice);
        // Of another shard, or with numbers of which there are no more.
        let Ok(log) = log else { return };
        let stats = log.stats();
        assert!(stats.oldest <= stats.next && stats.events <= stats.next - stats.oldest);
        let read = read_all(&log, end.next);
        let is_whole = matches!(read, Ok(next) if next <= end.next);
        assert!(is_whole || !is_in_order, "{read:?}: what was in order can be read");
        for key in [Key::Cell(CellHandle(0)), Key::Rules(CellHandle(1)), Key::Id(id(3))] {
            for direction in [Direction::Forward, Direction::Backward] {
                let found = log.scan(key, 0..u64::MAX, direction, &mut |event| {
                    assert!(key.is_of(event), "a scan shows what it looks for");
                    ControlFlow::Continue(())
                });
                assert!(found.is_ok() || found.is_err_and(|error| !error.to_string().is_empty()));
            }
        }
        if let Ok(found) = log.find(AT_US + 2) {
            assert!(found <= end.next, "a moment is before the next event");
        }
        if is_in_order && end.next < u64::MAX / 2 {
            log.append(record(shard, end.next, 1));
            let after = log.mark().await.expect("this disk has no faults");
            assert_eq!(after.next, end.next + 2, "it goes on where it ended");
        }
    });
}

/// Reads all that is there, in pieces; gives the number after it.
fn read_all(log: &EventLog, end: u64) -> Result<u64, ReadError> {
    let mut from = log.oldest();
    while from < end {
        match log.read(from, 100) {
            Ok(chunk) => {
                assert!(chunk.next > from, "a reader comes forward");
                from = chunk.next;
            }
            Err(ReadError::Gone { oldest }) => {
                assert!(oldest > from, "what is gone is behind");
                from = oldest;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(from)
}

/// Sets right what the flags do not keep wrong; gives the position after it.
fn mend(content: &mut Vec<u8>, flags: u8, before: Position) -> Position {
    if content.len() < HEADER_BYTES {
        return before;
    }
    if flags & 8 != 0 {
        content.truncate(content.len().saturating_sub(TRAILER_BYTES).max(HEADER_BYTES));
    }
    if flags & 4 != 0 {
        content[16..24].copy_from_slice(&before.next.to_le_bytes());
        content[24..56].copy_from_slice(&before.chain);
        set_part(&mut content[58], before);
    }
    let mut end = Position {
        next: word(content, 16).expect("a header is there"),
        chain: *content[24..].first_chunk().expect("a header is there"),
        is_whole: content[58] & PART == 0,
    };
    let has_trailer = content.len() >= HEADER_BYTES + TRAILER_BYTES
        && content[content.len() - TRAILER_BYTES..].starts_with(b"STKDEVTE");
    let trailer_at = content.len() - if has_trailer { TRAILER_BYTES } else { 0 };
    let trailer = has_trailer.then(|| word(content, trailer_at + 16)).flatten();
    let records_end = trailer.map_or(trailer_at, |end| (end as usize).min(trailer_at));
    if flags & 1 == 0 {
        set_crc(content, 16..=HEADER_BYTES - 1, 12);
        mend_records(&mut content[..records_end], &mut end);
    }
    if has_trailer && flags & 2 == 0 {
        content[trailer_at + 32..trailer_at + 40].copy_from_slice(&end.next.to_le_bytes());
        content[trailer_at + 64..].copy_from_slice(&end.chain);
        set_part(&mut content[trailer_at + 52], end);
    }
    if has_trailer && flags & 1 == 0 {
        let footer = crc32fast::hash(&content[records_end.max(HEADER_BYTES)..trailer_at]);
        content[trailer_at + 48..trailer_at + 52].copy_from_slice(&footer.to_le_bytes());
        set_crc(content, trailer_at + 16..=trailer_at + TRAILER_BYTES - 1, trailer_at + 12);
    }
    end
}

/// A flag of a head or a trailer: the chain is not whole.
const PART: u8 = 2;

fn set_part(flags: &mut u8, position: Position) {
    *flags = *flags & !PART | if position.is_whole { 0 } else { PART };
}

/// Sets the checksums of records right, and goes past them.
fn mend_records(bytes: &mut [u8], end: &mut Position) {
    let mut at = HEADER_BYTES;
    while let Some(len) = u32_at(bytes, at) {
        let to = at + 4 + len as usize;
        if len < 36 || to > bytes.len() {
            return;
        }
        set_crc(bytes, at + 8..=to - 1, at + 4);
        let first = word(bytes, at + 8).expect("a record has a header");
        let count = u32_at(bytes, at + 36).expect("a record has a header");
        end.pass(&bytes[at..to], first.saturating_add(u64::from(count)));
        at = to;
    }
}

fn set_crc(bytes: &mut [u8], of: RangeInclusive<usize>, at: usize) {
    let crc = crc32fast::hash(&bytes[of]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

const AT_US: u64 = 1_700_000_000_000_000;

fn id(number: u64) -> ReservationId {
    ReservationId::from_parts(AT_US / 1_000, [number as u8; 10])
}

/// A reservation and the rules of its cell.
fn record(shard: ShardId, first: u64, index: u64) -> Vec<u8> {
    let mut writer = RecordWriter::begin(Vec::new(), shard, first, index, AT_US + index);
    let cell = CellHandle(index as u32 % 2);
    let counts = Counts { on_hand: 3, ..Counts::default() };
    let change = CellChange { cell, after: counts, delta: Counts::default() };
    writer.principal(b"shop");
    writer.cell_event(&Cause::new(EventKind::Reserved, id(index)), &change, false);
    writer.cell_event(&Cause::new(EventKind::PolicySet, id(index)), &change, true);
    writer.finish()
}

/// Directories as the event log writes them: with one segment, and with several.
pub fn directories() -> Vec<Vec<u8>> {
    [2, 20].map(directory).into()
}

fn directory(records: u64) -> Vec<u8> {
    let storage = SimStorage::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without sockets").block_on(async {
        let world = World { threads: Arc::new(TaskThreads), ..World::real() };
        let notice = Arc::new(|text: &str| panic!("{text}"));
        let (storage, shard, start) = (Arc::new(storage.clone()), ShardId(0), Position::START);
        let log = EventLog::open(storage, &world, OPTIONS, shard, start, notice);
        let log = log.expect("the directory is empty");
        for index in 0..records {
            log.append(record(shard, 1 + 2 * index, index));
        }
        log.mark().await.expect("this disk has no faults");
    });
    assert!(look_from_outside(&storage).is_some(), "a seed is sound");
    let mut seed = Vec::new();
    let files = storage.list().expect("this disk has no faults");
    let mut names: Vec<_> = files.into_iter().map(|file| file.name).collect();
    names.sort();
    for name in names.iter().filter(|name| name.starts_with("events-")) {
        let content = storage.read_small(name).expect("this disk has no faults");
        seed.push(0);
        assert!(names.len() < SEGMENTS + 2, "a seed is an input");
        put_block(&mut seed, &content.expect("it was listed"));
    }
    seed
}

/// The body of an EVENTS frame. Byte 0: bit 0, all events are wanted; bit 1, it is known where it begins; bit 2 keeps
/// wrong checksums.
pub fn frame(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.u8();
    let mut body = input.0.to_vec();
    if flags & 4 == 0 {
        mend_frame(&mut body);
    }
    let from = word(&body, 0).filter(|_| flags & 2 != 0);
    let Some((head, events)) = fuzzing::read_events(flags & 1 != 0, from, &body) else { return };
    assert!(head.first <= head.next, "a frame goes forward");
    let inside = events.iter().all(|sequence| (head.first..head.next).contains(sequence));
    assert!(inside && events.is_sorted(), "events are those of the frame, in their order");
    if flags & 1 != 0 {
        assert_eq!(events.len() as u64, head.next - head.first, "none is left out");
    }
}

fn mend_frame(body: &mut [u8]) {
    let mut at = EventsHead::BYTES;
    while let Some(len) = u32_at(body, at) {
        let to = at + 4 + len as usize;
        if len < 36 || to > body.len() {
            return;
        }
        set_crc(body, at + 8..=to - 1, at + 4);
        at = to;
    }
}

/// Frames as a server makes them: a heartbeat, a record, several, and one that begins in the middle of a record.
pub fn frames() -> Vec<Vec<u8>> {
    let records = |count: u64| (0..count).map(|at| sealed(1 + 2 * at, at)).collect::<Vec<_>>();
    let seed = |first: u64, next: u64, records: &[Vec<u8>]| {
        let server_now = UnixMillis(AT_US / 1_000);
        let head = EventsHead { first, next, reached: next, server_now };
        let mut body = BytesMut::new();
        head.encode(&mut body);
        [&[3], &body[..], &records.concat()].concat()
    };
    vec![seed(1, 1, &[]), seed(1, 3, &records(1)), seed(1, 7, &records(3)), seed(2, 5, &records(2))]
}

fn sealed(first: u64, index: u64) -> Vec<u8> {
    let mut record = record(ShardId(0), first, index);
    seal(&mut record);
    record
}

/// A cursor's file. Bit 0 of byte 0 keeps a wrong checksum.
pub fn cursor(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.u8();
    let mut content = input.0.to_vec();
    if flags & 1 == 0 && content.len() >= 12 {
        let end = content.len() - 1;
        if end >= 12 {
            set_crc(&mut content, 12..=end, 8);
        }
    }
    if let Some(again) = fuzzing::read_cursor(&content) {
        assert_eq!(again, content, "a cursor is written as it was read");
    }
}

/// Cursors without data, and with some.
pub fn cursors() -> Vec<Vec<u8>> {
    [&b""[..], b"two orders"].map(|data| [&[0], &fuzzing::sample_cursor(data)[..]].concat()).into()
}
