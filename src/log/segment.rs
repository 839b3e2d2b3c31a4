//! Segment files: their names, their headers, and how a new one comes to be.
//!
//! ```text
//! segment-0000000007.log                     64 MiB, written with zeros before it gets its name
//! ┌──────────┬────────┬────────┬─ … ─┬────────┬──────────────────────────┐
//! │ header   │ frame  │ frame  │     │ frame  │ zeros                    │
//! └──────────┴────────┴────────┴─ … ─┴────────┴──────────────────────────┘
//! 0          header_bytes (a multiple of 4,096)
//! ```
//!
//! The header repeats what is known of every shard, so that older segments can be removed. All
//! integers are little-endian:
//!
//! ```text
//!  0  8    magic "stockdwl"
//!  8  u32  format version, 1
//! 12  u32  header_bytes
//! 16  u32  crc32 of the header's bytes, with zeros in this place
//! 20  u32  count of shards
//! 24  u64  log id, random, the same in all segments; the salt of the frames' crc32
//! 32  u64  segment number, as in the name
//! 40  u64  seq: the header has a number of its own in the sequence of frames
//! 48  …    per shard: shard u16 | flags u16 | vote_bytes u16 | 0 u16
//!                     | committed (term u64, index u64) | purged (…) | last (…) | vote
//!          flags say which are there: 1 vote, 2 committed, 4 purged, 8 last
//! ```
//!
//! The first 20 bytes keep their meaning in every version.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use stockd_protocol::ShardId;

use super::record::{NUMBER_MAX, checksum, u16_at, u32_at, u64_at};
use super::storage::{File, Storage};
use super::{RecordId, ShardState};

/// The version of segment files this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"stockdwl";
const HEADER_BLOCK_BYTES: usize = 4096;
const HEADER_FIXED_BYTES: usize = 48;
const SHARD_FIXED_BYTES: usize = 56;
const NAME_PREFIX: &str = "segment-";
const NAME_SUFFIX: &str = ".log";

/// The first segment's zeros are written in pieces of this size.
const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// Segments have numbers below this one.
const NUMBERS_END: u64 = 1 << 32;

/// What every shard is known to be at some point of the log.
pub(super) type ShardStates = BTreeMap<ShardId, ShardState>;

/// The file name of a segment.
pub(super) fn name(number: u64) -> String {
    format!("{NAME_PREFIX}{number:010}{NAME_SUFFIX}")
}

/// The name a segment has while it is being made.
pub(super) fn temporary_name(number: u64) -> String {
    format!("{}.tmp", name(number))
}

/// The segment number in a file name; `None` for other files.
pub(super) fn number_of(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_prefix(NAME_PREFIX)?.strip_suffix(NAME_SUFFIX)?;
    let number = digits.parse().ok()?;
    (name(number) == file_name).then_some(number)
}

/// True for what a power cut leaves of a segment in the making.
pub(super) fn is_temporary(file_name: &str) -> bool {
    file_name.strip_suffix(".tmp").and_then(number_of).is_some()
}

/// A place in the log: segment number and offset in one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Position(u64);

impl Position {
    /// # Panics
    /// The log is longer than 2³² segments, or the offset than 4 GiB.
    pub(super) fn new(number: u64, offset: u64) -> Self {
        assert!(number < NUMBERS_END && offset < 1 << 32, "a position is two words of 32 bits");
        Self(number << 32 | offset)
    }

    /// Both in one word, in the order of the log.
    pub(super) const fn to_word(self) -> u64 {
        self.0
    }

    pub(super) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(super) const fn number(self) -> u64 {
        self.0 >> 32
    }

    pub(super) const fn offset(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

/// A segment that is open.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn File>,
    sealed: AtomicBool,
    map: OnceLock<Bytes>,
}

impl Segment {
    pub(super) fn new(number: u64, bytes: u64, file: Arc<dyn File>) -> Self {
        Self { number, bytes, file, sealed: AtomicBool::new(false), map: OnceLock::new() }
    }

    /// Says that the segment will not be written any more, so that it may be mapped.
    pub(super) fn seal(&self) {
        // Release: whoever sees the seal also sees (through the kernel) all that was written.
        self.sealed.store(true, Ordering::Release);
    }

    /// The segment's content, or `None` while it is still being written.
    pub(super) fn map(&self) -> io::Result<Option<Bytes>> {
        if !self.sealed.load(Ordering::Acquire) {
            return Ok(None);
        }
        if let Some(map) = self.map.get() {
            return Ok(Some(map.clone()));
        }
        let map = self.file.map()?;
        Ok(Some(self.map.get_or_init(|| map).clone()))
    }
}

/// What stands at the start of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) log_id: u64,
    pub(super) number: u64,
    pub(super) seq: u64,
    pub(super) states: ShardStates,
    /// Where the first frame begins.
    pub(super) bytes: usize,
}

/// Why there is no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderFault {
    /// Zeros, a torn write or damage.
    Bad,
    /// A sound header of another format.
    Version(u32),
}

impl Header {
    /// The bytes a header with these shards takes.
    pub(super) fn bytes_for(states: &ShardStates) -> usize {
        let votes = states.values().filter_map(|state| state.vote.as_ref()).map(Bytes::len);
        let shards = states.len() * SHARD_FIXED_BYTES + votes.sum::<usize>();
        (HEADER_FIXED_BYTES + shards).next_multiple_of(HEADER_BLOCK_BYTES)
    }

    /// Appends a header to `buffer`.
    pub(super) fn encode(
        log_id: u64,
        number: u64,
        seq: u64,
        states: &ShardStates,
        buffer: &mut Vec<u8>,
    ) {
        let start = buffer.len();
        let bytes = Self::bytes_for(states);
        buffer.extend_from_slice(MAGIC);
        for word in [FORMAT_VERSION, bytes as u32, 0, states.len() as u32] {
            buffer.extend_from_slice(&word.to_le_bytes());
        }
        for word in [log_id, number, seq] {
            buffer.extend_from_slice(&word.to_le_bytes());
        }
        for (shard, state) in states {
            encode_state(*shard, state, buffer);
        }
        buffer.resize(start + bytes, 0);
        let crc = checksum(0, &buffer[start..]);
        buffer[start + 16..start + 20].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the header at the start of a segment.
    pub(super) fn decode(segment: &[u8]) -> Result<Self, HeaderFault> {
        let fixed = segment.get(..HEADER_FIXED_BYTES).ok_or(HeaderFault::Bad)?;
        let bytes = u32_at(fixed, 12) as usize;
        if &fixed[..8] != MAGIC || bytes < HEADER_FIXED_BYTES {
            return Err(HeaderFault::Bad);
        }
        let mut copy = segment.get(..bytes).ok_or(HeaderFault::Bad)?.to_vec();
        copy[16..20].fill(0);
        if checksum(0, &copy) != u32_at(fixed, 16) {
            return Err(HeaderFault::Bad);
        }
        let version = u32_at(fixed, 8);
        if version != FORMAT_VERSION {
            return Err(HeaderFault::Version(version));
        }
        let mut states = ShardStates::new();
        let mut rest = &copy[HEADER_FIXED_BYTES..];
        for _ in 0..u32_at(fixed, 20) {
            let (shard, state) = decode_state(&mut rest).ok_or(HeaderFault::Bad)?;
            states.insert(shard, state);
        }
        let (log_id, number, seq) = (u64_at(fixed, 24), u64_at(fixed, 32), u64_at(fixed, 40));
        if seq > NUMBER_MAX || number >= NUMBERS_END {
            return Err(HeaderFault::Bad);
        }
        Ok(Self { log_id, number, seq, states, bytes })
    }
}

/// Reads the header of a file.
pub(super) fn read_header(file: &dyn File) -> io::Result<Result<Header, HeaderFault>> {
    let file_bytes = file.bytes()?;
    let mut head = vec![0; HEADER_BLOCK_BYTES.min(file_bytes as usize)];
    file.read_at(0, &mut head)?;
    // It says its own length, which is one block unless there are many shards.
    let bytes = head.get(12..16).map_or(0, |_| u64::from(u32_at(&head, 12)));
    if bytes > head.len() as u64 && bytes <= file_bytes {
        head.resize(bytes as usize, 0);
        file.read_at(0, &mut head)?;
    }
    Ok(Header::decode(&head))
}

/// Where the checksums of a log's frames start.
pub(super) const fn salt_of(log_id: u64) -> u32 {
    (log_id ^ (log_id >> 32)) as u32
}

fn encode_state(shard: ShardId, state: &ShardState, buffer: &mut Vec<u8>) {
    let ids = [state.committed, state.purged, state.last];
    let mut flags = u16::from(state.vote.is_some());
    for (bit, id) in ids.iter().enumerate() {
        flags |= u16::from(id.is_some()) << (bit + 1);
    }
    let vote = state.vote.as_deref().unwrap_or_default();
    for half in [shard.0, flags, vote.len() as u16, 0] {
        buffer.extend_from_slice(&half.to_le_bytes());
    }
    for id in ids {
        let RecordId { term, index } = id.unwrap_or(RecordId { term: 0, index: 0 });
        buffer.extend_from_slice(&term.to_le_bytes());
        buffer.extend_from_slice(&index.to_le_bytes());
    }
    buffer.extend_from_slice(vote);
}

fn decode_state(rest: &mut &[u8]) -> Option<(ShardId, ShardState)> {
    let (fixed, tail) = rest.split_at_checked(SHARD_FIXED_BYTES)?;
    let (vote, tail) = tail.split_at_checked(u16_at(fixed, 4).into())?;
    *rest = tail;
    let flags = u16_at(fixed, 2);
    let id = |bit: u16| {
        let at = 8 + usize::from(bit - 1) * 16;
        let id = RecordId { term: u64_at(fixed, at), index: u64_at(fixed, at + 8) };
        (flags & 1 << bit != 0).then_some(id)
    };
    let state = ShardState {
        vote: (flags & 1 != 0).then(|| Bytes::copy_from_slice(vote)),
        committed: id(1),
        purged: id(2),
        last: id(3),
    };
    let ids = [state.committed, state.purged, state.last];
    let in_range = ids.iter().flatten().all(|id| id.term.max(id.index) <= NUMBER_MAX);
    // What was purged is the last, or lies before it.
    if !in_range || state.purged.map(|id| id.index) > state.last.map(|id| id.index) {
        return None;
    }
    Some((ShardId(u16_at(fixed, 0)), state))
}

/// Makes the very first segment, header and all: once it has its name, it is whole.
pub(super) fn create_first(
    storage: &dyn Storage,
    number: u64,
    bytes: u64,
    log_id: u64,
) -> io::Result<Arc<dyn File>> {
    let file = storage.create(&temporary_name(number))?;
    let zeros = vec![0; ZERO_CHUNK_BYTES.min(bytes as usize)];
    let mut offset = 0;
    while offset < bytes {
        let chunk = (bytes - offset).min(zeros.len() as u64);
        file.write_at(offset, &zeros[..chunk as usize])?;
        offset += chunk;
    }
    let mut header = Vec::new();
    Header::encode(log_id, number, FIRST_SEQ, &ShardStates::new(), &mut header);
    file.write_at(0, &header)?;
    file.sync_data()?;
    storage.rename(&temporary_name(number), &name(number))?;
    storage.sync_dir()?;
    Ok(file)
}

/// The number of the first header of a log.
pub(super) const FIRST_SEQ: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_notices_any_flipped_bit() {
        let id = |term, index| Some(RecordId { term, index });
        let states = ShardStates::from([
            (
                ShardId(0),
                ShardState {
                    vote: Some(Bytes::from_static(b"vote")),
                    committed: id(1, 2),
                    purged: None,
                    last: id(3, 4),
                },
            ),
            (ShardId(9), ShardState { purged: id(5, 6), last: id(5, 6), ..ShardState::default() }),
        ]);
        let mut buffer = Vec::new();
        Header::encode(11, 12, 13, &states, &mut buffer);
        assert_eq!(buffer.len(), 4096);
        let header = Header { log_id: 11, number: 12, seq: 13, states, bytes: 4096 };
        assert_eq!(Header::decode(&buffer), Ok(header));
        for bit in 0..buffer.len() * 8 {
            buffer[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&buffer), Err(HeaderFault::Bad), "bit {bit}");
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_sound_header_of_another_format_says_which() {
        let mut buffer = Vec::new();
        Header::encode(1, 1, 1, &ShardStates::new(), &mut buffer);
        buffer[8] = 2;
        buffer[16..20].fill(0);
        let crc = checksum(0, &buffer);
        buffer[16..20].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&buffer), Err(HeaderFault::Version(2)));
    }

    #[test]
    fn names_and_numbers_match() {
        assert_eq!(name(7), "segment-0000000007.log");
        assert_eq!(number_of("segment-0000000007.log"), Some(7));
        assert_eq!(number_of("segment-7.log"), None);
        assert_eq!(number_of("snapshot-0000000007.log"), None);
        assert!(is_temporary("segment-0000000007.log.tmp"));
        assert!(!is_temporary("identity.tmp"));
    }
}
