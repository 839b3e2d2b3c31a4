//! Where what is in a segment: blocks of about 64 KiB of whole records, and which keys each surely lacks.
//!
//! ```text
//! index, 72 bytes for each block             filters, from the next multiple of 64 on
//!  0  8 where it begins in the file           of each block, one after the other (events/filter.rs);
//!  8  8 its first sequence number             keys are hashed with the first eight bytes of the chain
//! 16  8 `at` of its first record, µs          before the segment as seed
//! 24  8 log index of its first record
//! 32 32 chain before it
//! 64  4 where its filter begins, in 64 bytes from where filters begin
//! 68  4 bytes of its filter; 0: it has none, and may have every key
//! ```
//!
//! The seed is the same wherever these records are made again, and nobody knows it who chooses an id. While a
//! segment is written its index is in memory; it is found again by reading the segment.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::filter::{self, Filter};
use super::key::Key;
use super::segment::{FOOTER_ALIGN, HEADER_BYTES, Trailer, array, word};
use crate::protocol::event::EventRecord;

/// A block is closed before it would have more bytes, unless one record has.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// Bytes for a block in the index.
pub(super) const ENTRY_BYTES: usize = 72;

const FILTER_ALIGN: usize = FOOTER_ALIGN as usize;

/// Where a block begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// In the file.
    pub offset: u64,
    /// Its first sequence number.
    pub first: u64,
    /// Of its first record.
    pub at_us: u64,
    /// The log index of its first record.
    pub log_index: u64,
    /// The chain before it.
    pub chain: [u8; 32],
}

/// A block that is whole, with its filter.
#[derive(Debug)]
pub(super) struct ClosedBlock {
    block: Block,
    filter: Vec<u8>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) enum Index {
    /// Of a segment that is written.
    Open { closed: Arc<Vec<Arc<ClosedBlock>>>, last: Option<Block> },
    /// Of one that is whole.
    Sealed(Arc<Sealed>),
}

impl Default for Index {
    fn default() -> Self {
        Self::Open { closed: Arc::default(), last: None }
    }
}

/// A sealed segment's content.
#[derive(Debug)]
pub(super) struct Sealed {
    map: Bytes,
    trailer: Trailer,
    /// Is the index in order? Looked at once.
    is_sound: OnceLock<bool>,
}

impl Index {
    /// Of a whole segment, whose trailer was read from it.
    pub fn sealed(map: Bytes, trailer: Trailer) -> Self {
        Self::Sealed(Arc::new(Sealed { map, trailer, is_sound: OnceLock::new() }))
    }

    /// Is it what was written? Reads all of it the first time.
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Open { .. } => true,
            Self::Sealed(sealed) => *sealed.is_sound.get_or_init(|| sealed.is_in_order()),
        }
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Open { closed, last } => closed.len() + usize::from(last.is_some()),
            Self::Sealed(sealed) => sealed.trailer.blocks as usize,
        }
    }

    /// A block.
    ///
    /// # Panics
    /// There is none with this number.
    pub fn block(&self, at: usize) -> Block {
        match self {
            Self::Open { closed, last } => match closed.get(at) {
                Some(closed) => closed.block,
                None => last.expect("the last block is not closed"),
            },
            Self::Sealed(sealed) => sealed.block(at),
        }
    }

    /// May the block have a key of this hash? `false` is certain.
    pub fn may_have(&self, at: usize, hash: u64) -> bool {
        match self {
            Self::Open { closed, .. } => {
                closed.get(at).is_none_or(|closed| filter::may_have(&closed.filter, hash))
            }
            Self::Sealed(sealed) => {
                sealed.filter(at).is_none_or(|filter| filter::may_have(filter, hash))
            }
        }
    }
}

impl Sealed {
    fn entry(&self, at: usize) -> &[u8] {
        &self.map[self.trailer.index_at() as usize + at * ENTRY_BYTES..][..ENTRY_BYTES]
    }

    fn block(&self, at: usize) -> Block {
        let entry = self.entry(at);
        Block {
            offset: word(entry, 0),
            first: word(entry, 8),
            at_us: word(entry, 16),
            log_index: word(entry, 24),
            chain: array(entry, 32),
        }
    }

    fn filter(&self, at: usize) -> Option<&[u8]> {
        let entry = self.entry(at);
        let [begin, bytes] = [64, 68].map(|at| u32::from_le_bytes(array(entry, at)) as usize);
        let index_bytes = self.trailer.blocks as usize * ENTRY_BYTES;
        let index_end = self.trailer.index_at() as usize + index_bytes;
        let begin = index_end.next_multiple_of(FILTER_ALIGN) + begin * FILTER_ALIGN;
        self.map.get(begin..begin + bytes)
    }

    fn is_in_order(&self) -> bool {
        let Range { start, end } = self.trailer.footer(self.map.len() as u64);
        let footer = &self.map[start as usize..end as usize];
        if crc32fast::hash(footer) != self.trailer.footer_crc {
            return false;
        }
        let blocks = self.trailer.blocks as usize;
        let first = self.block(0);
        let rises = |at: usize| {
            let [one, other] = [self.block(at - 1), self.block(at)];
            one.offset < other.offset && one.first < other.first
        };
        let last = self.block(blocks - 1);
        first.offset == HEADER_BYTES as u64
            && last.offset < self.trailer.records_end
            && last.first < self.trailer.end.next
            && (1..blocks).all(rises)
    }
}

/// Makes the index of a segment that is written.
pub(super) struct Builder {
    seed: u64,
    closed: Arc<Vec<Arc<ClosedBlock>>>,
    last: Option<Block>,
    /// Where the last block ends.
    end: u64,
    /// Of the last block's keys; `None`: some are not known.
    filter: Option<Filter>,
}

impl Builder {
    /// Of an empty segment.
    pub fn new(chain_before: &[u8; 32]) -> Self {
        Self {
            seed: seed_of(chain_before),
            closed: Arc::default(),
            last: None,
            end: HEADER_BYTES as u64,
            filter: None,
        }
    }

    /// A record follows.
    pub fn add(&mut self, record: &EventRecord<'_>, chain_before: &[u8; 32]) {
        let bytes = record.bytes().len() as u64;
        let begun = self.last.map_or(self.end, |block| block.offset);
        if self.end - begun + bytes > BLOCK_BYTES {
            self.close();
        }
        if self.last.is_none() {
            let header = record.header();
            self.last = Some(Block {
                offset: self.end,
                first: header.first,
                at_us: header.at_us,
                log_index: header.index,
                chain: *chain_before,
            });
            // A record that is larger has a block to itself.
            self.filter = Some(Filter::for_bytes(bytes.max(BLOCK_BYTES) as usize));
        }
        self.end += bytes;
        self.add_keys(record);
    }

    fn add_keys(&mut self, record: &EventRecord<'_>) {
        for event in record.events() {
            let (Ok(event), Some(filter)) = (event, &mut self.filter) else {
                // A kind of a later version: nobody knows what it is about.
                self.filter = None;
                return;
            };
            Key::each_of(&event, |key| filter.add(key.hash(self.seed)));
        }
    }

    fn close(&mut self) {
        let Some(block) = self.last.take() else { return };
        let filter = self.filter.take().map_or_else(Vec::new, Filter::finish);
        Arc::make_mut(&mut self.closed).push(Arc::new(ClosedBlock { block, filter }));
    }

    /// As it is now.
    pub fn index(&self) -> Index {
        Index::Open { closed: self.closed.clone(), last: self.last }
    }

    /// The segment ends here: what comes between the records and the trailer, and of how many blocks it is.
    pub fn finish(&mut self) -> (Vec<u8>, u64) {
        self.close();
        let padding = self.end.next_multiple_of(FOOTER_ALIGN) - self.end;
        let mut out = vec![0; padding as usize];
        let mut filters_bytes = 0;
        for ClosedBlock { block, filter } in self.closed.iter().map(Arc::as_ref) {
            for word in [block.offset, block.first, block.at_us, block.log_index] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&block.chain);
            out.extend_from_slice(&((filters_bytes / FILTER_ALIGN) as u32).to_le_bytes());
            out.extend_from_slice(&(filter.len() as u32).to_le_bytes());
            filters_bytes += filter.len();
        }
        let filters_at = (out.len() - padding as usize).next_multiple_of(FILTER_ALIGN);
        out.resize(filters_at + padding as usize, 0);
        self.closed.iter().for_each(|closed| out.extend_from_slice(&closed.filter));
        (out, self.closed.len() as u64)
    }
}

/// The seed of a segment's hashes.
pub(super) fn seed_of(chain_before: &[u8; 32]) -> u64 {
    word(chain_before, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::position::Position;
    use crate::protocol::event::{Cause, CellChange, Counts, EventKind, RecordWriter, seal};
    use crate::protocol::{CellHandle, Reader, ReservationId, ShardId};

    const EVENTS: u32 = 16;

    fn id(index: u64) -> ReservationId {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        ReservationId::from_parts(1_700_000_000_000, random)
    }

    /// Sixteen events about an id, and a cell of this entry or cell 0.
    fn record(index: u64) -> Vec<u8> {
        let first = 1 + index * u64::from(EVENTS);
        let mut writer = RecordWriter::begin(Vec::new(), ShardId(0), first, index, index * 10);
        for event in 0..EVENTS {
            let cell = CellHandle(if event % 2 == 0 { 0 } else { 1 + index as u32 });
            let change = CellChange { cell, after: Counts::default(), delta: Counts::default() };
            writer.cell_event(&Cause::new(EventKind::Reserved, id(index)), &change, false);
        }
        let mut bytes = writer.finish();
        seal(&mut bytes);
        bytes
    }

    /// The index of a segment of such records, while it is written and when it is sealed.
    fn both(count: u64, record: impl Fn(u64) -> Vec<u8>) -> (Index, Index, Vec<Position>) {
        let mut position = Position::START;
        let mut positions = Vec::new();
        let mut builder = Builder::new(&position.chain);
        let (mut file, mut last_at_us) = (vec![0; HEADER_BYTES], 0);
        for index in 0..count {
            let bytes = record(index);
            let record = EventRecord::take(&mut Reader::new(&bytes)).unwrap();
            positions.push(position);
            builder.add(&record, &position.chain);
            position.pass(&bytes, record.header().next());
            last_at_us = record.header().at_us;
            file.extend_from_slice(&bytes);
        }
        let (open, records_end) = (builder.index(), file.len() as u64);
        let (footer, blocks) = builder.finish();
        let footer_crc = crc32fast::hash(&footer);
        let trailer = Trailer { records_end, blocks, last_at_us, footer_crc, end: position };
        file.extend_from_slice(&footer);
        file.extend_from_slice(&trailer.encode());
        (open, Index::sealed(file.into(), trailer), positions)
    }

    fn may_have(index: &Index, at: usize, key: Key) -> bool {
        index.may_have(at, key.hash(seed_of(&Position::START.chain)))
    }

    #[test]
    fn an_index_is_the_same_while_it_is_written_and_when_it_is_sealed() {
        let (open, sealed, positions) = both(2_000, record);
        assert!(sealed.is_sound());
        assert_eq!((open.len(), sealed.len()), (sealed.len(), open.len()));
        assert!(open.len() > 5, "{}", open.len());
        let mut end = HEADER_BYTES as u64;
        for at in 0..open.len() {
            let block = open.block(at);
            assert_eq!(block, sealed.block(at));
            let index = block.log_index;
            assert_eq!((block.first, block.at_us), (1 + index * u64::from(EVENTS), index * 10));
            assert_eq!(block.chain, positions[index as usize].chain);
            assert!(at == 0 || (BLOCK_BYTES - 1_000..=BLOCK_BYTES).contains(&(block.offset - end)));
            end = block.offset;
        }
    }

    #[test]
    fn filters_have_all_keys_of_their_block_and_few_others() {
        let (open, sealed, _) = both(10_000, record);
        let blocks = open.len() - 1;
        let (mut passed, mut asked) = (0, 0);
        for index in 0..10_000 {
            let at = (0..blocks).rfind(|at| open.block(*at).log_index <= index);
            let at = at.unwrap();
            for key in [
                Key::Cell(CellHandle(0)),
                Key::Cell(CellHandle(1 + index as u32)),
                Key::Id(id(index)),
            ] {
                let is_last = index >= open.block(blocks).log_index;
                let has = [&open, &sealed]
                    .map(|filters| may_have(filters, at + usize::from(is_last), key));
                assert_eq!(has, [true; 2], "{index}: {key:?}");
            }
            for other in (0..blocks).filter(|other| *other != at) {
                let key = Key::Id(id(index));
                let has = may_have(&sealed, other, key);
                assert_eq!(has, may_have(&open, other, key));
                passed += u64::from(has);
                asked += 1;
            }
        }
        // At most about one in a hundred.
        assert!((asked / 2_000..asked / 70).contains(&passed), "{passed} of {asked}");
        assert!((0..open.len()).all(|at| may_have(&sealed, at, Key::Cell(CellHandle(0)))));
    }

    #[test]
    fn a_block_with_an_event_that_nobody_knows_may_have_every_key() {
        let unknown = |index| {
            let mut bytes = record(index);
            bytes[40] = if index == 3 { 0xee } else { bytes[40] };
            seal(&mut bytes);
            bytes
        };
        let (_, sealed, _) = both(2_000, unknown);
        assert!(sealed.is_sound());
        let keys = (5_000..5_100).map(|index| Key::Id(id(index)));
        assert!(keys.clone().all(|key| may_have(&sealed, 0, key)));
        assert!(keys.filter(|key| may_have(&sealed, 1, *key)).count() < 10);
    }

    #[test]
    fn an_index_that_is_damaged_is_not_sound() {
        let (_, sealed, _) = both(500, record);
        let Index::Sealed(sealed) = sealed else { panic!("it is sealed") };
        let footer = sealed.trailer.footer(sealed.map.len() as u64);
        for at in (footer.start..footer.end).step_by(13) {
            let mut file = sealed.map.to_vec();
            file[at as usize] ^= 4;
            assert!(!Index::sealed(file.into(), sealed.trailer).is_sound(), "{at}");
        }
    }
}
