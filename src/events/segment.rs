//! A segment: a run of records in a file.
//!
//! ```text
//! events-{first, 20 digits}
//!
//!  ┌────────┬────────┬────────┬───┬────────┐ ┌───────┬─────────┬─────────┐
//!  │ header │ record │ record │ … │ record │ │ index │ filters │ trailer │
//!  └────────┴────────┴────────┴───┴────────┘ └───────┴─────────┴─────────┘
//!            └─ block ────────┘ └─ block ┘    when it is full: the segment is sealed
//!
//! header, 64 bytes                       trailer, the last 96 bytes of the file
//!  0  8 magic "STKDEVTS"                  0  8 magic "STKDEVTE"
//!  8  4 format = 2                        8  4 format = 2
//! 12  4 crc32 of bytes 16..64            12  4 crc32 of bytes 16..96
//! 16  8 first sequence number            16  8 where the records end
//! 24 32 chain before it                  24  8 blocks
//! 56  2 shard                            32  8 sequence number after the last event
//! 58  2 flags: 1 AFTER_GAP, 2 PART       40  8 `at` of the last record, µs
//! 60  4 0                                48  4 crc32 of all between records and trailer
//!                                        52  2 flags: 2 PART
//!                                        54 10 0
//!                                        64 32 chain at the end
//! ```
//!
//! All numbers are little-endian. The index begins at the next multiple of 64 behind the records, with zeros between;
//! it and the filters are drawn in `index.rs`.
//!
//! Invariants:
//! - Only the last segment is not sealed. The file of the next one is made when the seal is on disk.
//! - A sealed segment is never changed, but when a node is opened at a position that is inside of it.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::error::Flaw;
use super::index::{ENTRY_BYTES, Index};
use super::position::Position;
use super::view::View;
use crate::log::{File, Storage};
use crate::protocol::ShardId;

const MAGIC: &[u8; 8] = b"STKDEVTS";
const MAGIC_END: &[u8; 8] = b"STKDEVTE";
const FORMAT: u32 = 2;
/// A disk writes so many bytes or none of them.
const SECTOR_BYTES: u64 = 512;
/// A flag of the header: events before it are missing on purpose.
const AFTER_GAP: u8 = 1;
/// A flag of both: the chain is not whole.
const PART: u8 = 2;
/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 64;
/// Bytes at the end of a sealed segment.
pub(super) const TRAILER_BYTES: usize = 96;
/// The index begins at a multiple of this, the filters too: they are read by the cache line.
pub(super) const FOOTER_ALIGN: u64 = 64;
/// How the names of all event files begin.
pub(super) const PREFIX: &str = "events-";

/// The name of the segment that begins with an event.
pub(super) fn name_of(first: u64) -> String {
    format!("{PREFIX}{first:020}")
}

/// The first event of the segment of this name; `None`: it is no segment.
pub fn first_of(name: &str) -> Option<u64> {
    let first = name.strip_prefix(PREFIX)?.parse().ok()?;
    (name_of(first) == name).then_some(first)
}

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub shard: ShardId,
    pub start: Position,
    /// Events before it are missing on purpose: the node was given a snapshot instead.
    pub is_after_gap: bool,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[16..24].copy_from_slice(&self.start.next.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.start.chain);
        bytes[56..58].copy_from_slice(&self.shard.0.to_le_bytes());
        bytes[58] = if self.is_after_gap { AFTER_GAP } else { 0 } | part(&self.start);
        finish(&mut bytes, MAGIC);
        bytes
    }

    /// `Err`: what is wrong.
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, &'static str> {
        check(bytes, MAGIC)?;
        let is_whole = bytes[58] & PART == 0;
        let start = Position { next: word(bytes, 16), chain: array(bytes, 24), is_whole };
        let shard = ShardId(u16::from_le_bytes(array(bytes, 56)));
        Ok(Self { shard, start, is_after_gap: bytes[58] & AFTER_GAP != 0 })
    }

    /// In the place of one that cannot be read.
    pub const fn unknown(first: u64) -> Self {
        Self { shard: ShardId(0), start: Position::unknown(first), is_after_gap: false }
    }

    /// Does it follow what ends there? It may leave a gap if it says so.
    pub fn follows(&self, end: Position) -> Result<(), Flaw> {
        let (expected, found) = (end.next, self.start.next);
        if found < expected || found > expected && !self.is_after_gap {
            return Err(Flaw::Sequence { expected, found });
        }
        if found == expected && self.start != end { Err(Flaw::Chain) } else { Ok(()) }
    }

    /// Reads it from a file, of a segment that should begin with this event.
    pub fn read(file: &dyn File, bytes: u64, first: u64) -> io::Result<Result<Self, Flaw>> {
        if bytes < HEADER_BYTES as u64 {
            return Ok(Err(Flaw::Frame("it is shorter than its head")));
        }
        let mut header = [0; HEADER_BYTES];
        file.read_at(0, &mut header)?;
        Ok(Self::decode(&header).map_err(Flaw::Frame).and_then(|header| {
            let found = header.start.next;
            let is_it = found == first;
            is_it.then_some(header).ok_or(Flaw::Sequence { expected: first, found })
        }))
    }
}

/// How a sealed segment ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trailer {
    pub records_end: u64,
    pub blocks: u64,
    pub last_at_us: u64,
    /// Of all bytes between the records and the trailer.
    pub footer_crc: u32,
    pub end: Position,
}

impl Trailer {
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        let words = [self.records_end, self.blocks, self.end.next, self.last_at_us];
        for (place, word) in bytes[16..48].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[48..52].copy_from_slice(&self.footer_crc.to_le_bytes());
        bytes[52] = part(&self.end);
        bytes[64..].copy_from_slice(&self.end.chain);
        finish(&mut bytes, MAGIC_END);
        bytes
    }

    /// `None`: these bytes are none, of a file of so many.
    fn decode(bytes: &[u8; TRAILER_BYTES], file_bytes: u64) -> Option<Self> {
        check(bytes, MAGIC_END).ok()?;
        let trailer = Self {
            records_end: word(bytes, 16),
            blocks: word(bytes, 24),
            last_at_us: word(bytes, 40),
            footer_crc: u32::from_le_bytes(array(bytes, 48)),
            end: Position {
                next: word(bytes, 32),
                chain: array(bytes, 64),
                is_whole: bytes[52] & PART == 0,
            },
        };
        let room = (file_bytes - TRAILER_BYTES as u64).checked_sub(trailer.records_end)?;
        let index_bytes = trailer.blocks.checked_mul(ENTRY_BYTES as u64)?;
        let padding = trailer.index_at() - trailer.records_end;
        let is_sound = trailer.records_end > HEADER_BYTES as u64
            && trailer.blocks > 0
            && index_bytes.checked_add(padding)? <= room;
        is_sound.then_some(trailer)
    }

    /// Where the index begins.
    pub fn index_at(&self) -> u64 {
        self.records_end.next_multiple_of(FOOTER_ALIGN)
    }

    /// Where what is between the records and the trailer is, in a file of so many bytes.
    pub fn footer(&self, file_bytes: u64) -> Range<u64> {
        self.records_end..file_bytes - TRAILER_BYTES as u64
    }

    /// Reads it from a file; `None`: the segment is not sealed.
    pub fn read(file: &dyn File, bytes: u64) -> io::Result<Option<Self>> {
        let Some(at) = bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut trailer = [0; TRAILER_BYTES];
        file.read_at(at, &mut trailer)?;
        Ok(Self::decode(&trailer, bytes))
    }

    /// There is no trailer; but has one been written, as far as these bytes tell? A power cut may leave one of the
    /// two sectors that it is in, and zeros: that is none.
    pub fn was_written(file: &dyn File, file_bytes: u64) -> io::Result<bool> {
        let Some(at) = file_bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(false) };
        let mut bytes = [0; TRAILER_BYTES];
        file.read_at(at, &mut bytes)?;
        let crc = u32::from_le_bytes(array(&bytes, 12));
        let looks_so = bytes[..8] == *MAGIC_END || crc == crc32fast::hash(&bytes[16..]);
        let cut = (at.next_multiple_of(SECTOR_BYTES) - at).min(TRAILER_BYTES as u64);
        let (one, other) = bytes.split_at(cut as usize);
        let is_torn = [one, other].iter().any(|part| {
            !part.is_empty() && part.len() < TRAILER_BYTES && part.iter().all(|byte| *byte == 0)
        });
        Ok(looks_so && !is_torn)
    }
}

fn part(position: &Position) -> u8 {
    if position.is_whole { 0 } else { PART }
}

fn finish(bytes: &mut [u8], magic: &[u8; 8]) {
    bytes[..8].copy_from_slice(magic);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let crc = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

fn check(bytes: &[u8], magic: &[u8; 8]) -> Result<(), &'static str> {
    if bytes[..8] != *magic {
        return Err("it is no segment of events");
    }
    if u32::from_le_bytes(array(bytes, 8)) != FORMAT {
        return Err("it was written by another version");
    }
    if u32::from_le_bytes(array(bytes, 12)) != crc32fast::hash(&bytes[16..]) {
        return Err("the checksum of its head is wrong");
    }
    Ok(())
}

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// # Panics
/// They are not all there.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the caller has looked how many there are")
}

/// How far a segment can be read.
#[derive(Clone, Debug)]
struct State {
    /// Where the readable records end in the file.
    records_end: u64,
    /// The sequence number after the last of their events.
    next: u64,
    /// Of the last record.
    last_at_us: u64,
    /// All bytes of the file.
    file_bytes: u64,
    index: Index,
}

/// A segment, as readers and the writer share it.
pub(super) struct Segment {
    pub header: Header,
    /// The file's path, for messages.
    pub path: String,
    file: Arc<dyn File>,
    state: Mutex<State>,
}

impl Segment {
    /// One that has no records yet.
    pub fn begin(header: Header, path: String, file: Arc<dyn File>) -> Self {
        let state = State {
            records_end: HEADER_BYTES as u64,
            next: header.start.next,
            last_at_us: 0,
            file_bytes: HEADER_BYTES as u64,
            index: Index::default(),
        };
        Self { header, path, file, state: Mutex::new(state) }
    }

    /// One that is sealed.
    pub fn sealed(
        (header, trailer): (Header, Trailer),
        path: String,
        file: Arc<dyn File>,
    ) -> io::Result<Self> {
        let segment = Self::begin(header, path, file);
        segment.seal(trailer)?;
        Ok(segment)
    }

    pub fn name(&self) -> String {
        name_of(self.first())
    }

    pub fn first(&self) -> u64 {
        self.header.start.next
    }

    pub fn next(&self) -> u64 {
        self.lock().next
    }

    pub fn last_at_us(&self) -> u64 {
        self.lock().last_at_us
    }

    pub fn file_bytes(&self) -> u64 {
        self.lock().file_bytes
    }

    pub fn is_sealed(&self) -> bool {
        self.extent().1
    }

    /// How many bytes there are, and whether there will never be more.
    pub fn extent(&self) -> (u64, bool) {
        let state = self.lock();
        (state.file_bytes, matches!(state.index, Index::Sealed(_)))
    }

    /// Readers may read so far.
    pub fn publish(&self, records_end: u64, next: u64, last_at_us: u64, index: Index) {
        *self.lock() = State { records_end, next, last_at_us, file_bytes: records_end, index };
    }

    /// Nobody will read these bytes soon, which are on disk.
    pub fn uncache(&self, bytes: Range<u64>) {
        self.file.uncache(bytes);
    }

    /// It is on disk for good.
    pub fn seal(&self, trailer: Trailer) -> io::Result<()> {
        let map = self.file.map()?;
        let file_bytes = map.len() as u64;
        if file_bytes < TRAILER_BYTES as u64 + trailer.records_end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *self.lock() = State {
            records_end: trailer.records_end,
            next: trailer.end.next,
            last_at_us: trailer.last_at_us,
            file_bytes,
            index: Index::sealed(map, trailer),
        };
        Ok(())
    }

    /// As it is now.
    pub fn view(self: &Arc<Self>) -> View {
        let state = self.lock().clone();
        let State { records_end, next, last_at_us, index, .. } = state;
        View { segment: self.clone(), records_end, next, last_at_us, index }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Some of its bytes.
    pub fn read(&self, from: u64, to: u64) -> io::Result<Bytes> {
        let mut bytes = vec![0; (to - from) as usize];
        self.file.read_at(from, &mut bytes)?;
        Ok(bytes.into())
    }
}

/// The event files of a directory, by their first event.
pub(super) fn list(storage: &dyn Storage) -> io::Result<Vec<(u64, u64)>> {
    let entries = storage.list()?.into_iter();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((first_of(&entry.name)?, entry.bytes))).collect();
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::SimStorage;

    fn position(next: u64) -> Position {
        Position { next, chain: [next as u8; 32], is_whole: next.is_multiple_of(2) }
    }

    #[test]
    fn names_sort_as_their_events_do() {
        assert_eq!(name_of(7), "events-00000000000000000007");
        assert_eq!(first_of(&name_of(u64::MAX)), Some(u64::MAX));
        for name in
            ["events-7", "events-0000000000000000007x", "events", "archive-00000000000000000007"]
        {
            assert_eq!(first_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_or_not_at_all() {
        let storage = SimStorage::new();
        let file = storage.create("x").unwrap();
        let header = Header { shard: ShardId(3), start: position(70_000), is_after_gap: true };
        let bytes = header.encode();
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 2;
            file.write_at(0, &damaged).unwrap();
            assert!(Header::read(file.as_ref(), 64, 70_000).unwrap().is_err(), "{at}");
        }
        file.write_at(0, &bytes).unwrap();
        assert_eq!(Header::read(file.as_ref(), 64, 70_000).unwrap(), Ok(header));
        assert!(Header::read(file.as_ref(), 63, 70_000).unwrap().is_err());
        let flaw = Flaw::Sequence { expected: 1, found: 70_000 };
        assert_eq!(Header::read(file.as_ref(), 64, 1).unwrap(), Err(flaw));
    }

    #[test]
    fn a_trailer_is_read_as_it_was_written_or_not_at_all() {
        let trailer = Trailer {
            records_end: 1_000,
            blocks: 2,
            last_at_us: 3,
            footer_crc: 4,
            end: position(5),
        };
        let bytes = trailer.encode();
        let file_bytes = 1_024 + 2 * 72 + 96;
        assert_eq!(Trailer::decode(&bytes, file_bytes), Some(trailer));
        assert_eq!(Trailer::decode(&bytes, file_bytes - 1), None, "the index has no room");
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 2;
            assert_eq!(Trailer::decode(&damaged, file_bytes), None, "{at}");
        }
        for (records_end, blocks) in [(64, 2), (1_000, 0), (u64::MAX, 2), (1_000, u64::MAX / 8)] {
            let bytes = Trailer { records_end, blocks, ..trailer }.encode();
            assert_eq!(Trailer::decode(&bytes, file_bytes), None, "{records_end} {blocks}");
        }
    }

    #[test]
    fn a_segment_follows_what_ends_where_it_begins() {
        let header = Header { shard: ShardId(0), start: position(10), is_after_gap: false };
        let after_gap = Header { is_after_gap: true, ..header };
        assert_eq!(header.follows(position(10)), Ok(()));
        assert_eq!(after_gap.follows(position(9)), Ok(()));
        let missing = Flaw::Sequence { expected: 9, found: 10 };
        assert_eq!(header.follows(position(9)), Err(missing));
        assert!(after_gap.follows(position(11)).is_err());
        assert_eq!(header.follows(Position::told(10, [1; 32])), Err(Flaw::Chain));
        assert_eq!(header.follows(Position { is_whole: false, ..position(10) }), Err(Flaw::Chain));
    }
}
