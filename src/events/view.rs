//! A segment as it was at a moment: what readers look at while the writer goes on.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{Flaw, ReadError};
use super::index::{BLOCK_BYTES, Block, Index, seed_of};
use super::key::Key;
use super::reader::Chunk;
use super::records::Records;
use super::segment::Segment;
use crate::protocol::event::EventError;

/// See the module.
pub(super) struct View {
    pub segment: Arc<Segment>,
    /// Where the readable records end in the file.
    pub records_end: u64,
    /// The sequence number after its last event.
    pub next: u64,
    /// `at` of its last record.
    pub last_at_us: u64,
    pub index: Index,
}

impl View {
    /// Looks at the index, if nobody has.
    ///
    /// # Errors
    /// It is damaged.
    pub fn checked(self) -> Result<Self, ReadError> {
        match self.index.is_sound() {
            true => Ok(self),
            false => Err(self.damaged(self.records_end, Flaw::Index)),
        }
    }

    /// The sequence number of its first event.
    pub fn first(&self) -> u64 {
        self.segment.first()
    }

    pub fn blocks(&self) -> usize {
        self.index.len()
    }

    pub fn block(&self, at: usize) -> Block {
        self.index.block(at)
    }

    /// May the block have events about the key?
    pub fn may_have(&self, at: usize, key: &Key) -> bool {
        self.index.may_have(at, key.hash(seed_of(&self.segment.header.start.chain)))
    }

    /// The last block that begins so early; the first one if none does.
    pub fn last_block(&self, is_early: impl Fn(&Block) -> bool) -> usize {
        let (mut low, mut high) = (0, self.blocks());
        while low < high {
            let middle = low + (high - low) / 2;
            if is_early(&self.block(middle)) { low = middle + 1 } else { high = middle }
        }
        low.saturating_sub(1)
    }

    /// The bytes of a block.
    pub fn block_bytes(&self, at: usize) -> Result<Bytes, ReadError> {
        self.bytes(self.block(at).offset, self.block_end(at))
    }

    /// The records of a block, in its bytes.
    pub fn records<'a>(&self, at: usize, bytes: &'a [u8]) -> Records<'a> {
        Records::new(bytes, self.segment.header.shard, self.block(at).first)
    }

    fn block_end(&self, at: usize) -> u64 {
        if at + 1 < self.blocks() { self.block(at + 1).offset } else { self.records_end }
    }

    /// Whole records: the one that has an event, and what follows it, up to so many bytes if that is more.
    ///
    /// The event is in the segment.
    pub fn read(&self, from: u64, bytes_max: usize) -> Result<Chunk, ReadError> {
        let at = self.last_block(|block| block.first <= from);
        let block = self.block(at);
        let room = block.offset.saturating_add(BLOCK_BYTES).saturating_add(bytes_max as u64);
        let end = self.block_end(at).max(room.min(self.records_end));
        let bytes = self.bytes(block.offset, end)?;
        let mut records = self.records(at, &bytes);
        let offset = |records: &Records<'_>| bytes.len() - records.rest_bytes();
        let (mut next, mut enough) = (block.first, 0);
        while records.rest_bytes() > 0 && (next <= from || offset(&records) <= enough) {
            let before = offset(&records);
            let record = match records.take() {
                Ok(record) => record,
                // The next one is not all in these bytes.
                Err(Flaw::Record(EventError::Truncated)) if end < self.records_end => break,
                // What comes before can be read.
                Err(_) if next > from => break,
                Err(flaw) => return Err(self.damaged(block.offset + before as u64, flaw)),
            };
            if next <= from {
                enough = before.saturating_add(bytes_max);
            }
            next = record.header().next();
        }
        if next <= from {
            return Err(self.damaged(block.offset, Flaw::Index));
        }
        let checked = bytes.slice(..offset(&records));
        Ok(Chunk { first: block.first, next, bytes: checked }.part(from, bytes_max))
    }

    /// Some of its bytes. They are read and not mapped: a sector that has gone bad is an error then, and not the end of
    /// the node.
    fn bytes(&self, from: u64, to: u64) -> Result<Bytes, ReadError> {
        self.segment.read(from, to).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(from, Flaw::Record(EventError::Truncated)),
            _ => ReadError::Io(error),
        })
    }

    /// Something is wrong at a place.
    pub fn damaged(&self, offset: u64, flaw: Flaw) -> ReadError {
        ReadError::Damaged { file: self.segment.path.clone(), offset, flaw }
    }
}
