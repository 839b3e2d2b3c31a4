//! Reading events that are on disk, beside the writer.

use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::error::ReadError;
use super::position::Position;
use super::segment::Segment;
use super::view::View;
use crate::protocol::event::RecordHeader;

/// Whole records, one after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The sequence number of the first event.
    pub first: u64,
    /// The sequence number after the last one: read on from here.
    pub next: u64,
    /// The records (`protocol::event`); their checksums are right.
    pub bytes: Bytes,
}

impl Chunk {
    /// Some of its records: the one that has the event `from`, and those that follow it up to so many bytes, if that is
    /// more. The event is in the chunk.
    #[must_use]
    pub fn part(&self, from: u64, bytes_max: usize) -> Self {
        if from <= self.first && self.bytes.len() <= bytes_max {
            return self.clone();
        }
        let (mut begin, mut end) = (0, 0);
        let (mut first, mut next) = (self.first, self.first);
        while let Ok(header) = RecordHeader::peek(&self.bytes[end..]) {
            let after = end + header.bytes;
            if next <= from {
                (begin, first) = (end, header.first);
            } else if after - begin > bytes_max {
                break;
            }
            (end, next) = (after, header.next());
        }
        Self { first, next, bytes: self.bytes.slice(begin..end) }
    }
}

impl Inner {
    /// See [`EventLog::read`](super::EventLog::read).
    pub fn read(&self, from: u64, bytes_max: usize) -> Result<Chunk, ReadError> {
        self.view_of(from)?.read(from, bytes_max)
    }

    /// See [`EventLog::find`](super::EventLog::find).
    pub fn find(&self, at_us: u64) -> Result<u64, ReadError> {
        let next = self.next();
        for segment in self.segments().iter() {
            let view = segment.view().checked()?;
            if view.first() == view.next || view.last_at_us < at_us {
                continue;
            }
            // Entries may have the same moment, so it may be in the block before the one that begins with it.
            let at = view.last_block(|block| block.at_us < at_us);
            for at in at..view.blocks() {
                let bytes = view.block_bytes(at)?;
                let mut records = view.records(at, &bytes);
                while records.rest_bytes() > 0 {
                    let offset =
                        view.block(at).offset + (bytes.len() - records.rest_bytes()) as u64;
                    let record = records.take().map_err(|flaw| view.damaged(offset, flaw))?;
                    if record.header().at_us >= at_us {
                        return Ok(record.header().first);
                    }
                }
            }
        }
        Ok(next)
    }

    /// The chain before an event, which is the first of a record.
    pub fn position_at(&self, next: u64) -> Result<Position, ReadError> {
        let view = self.view_of(next)?;
        let at = view.last_block(|block| block.first <= next);
        let block = view.block(at);
        let is_whole = view.segment.header.start.is_whole;
        let mut position = Position { next: block.first, chain: block.chain, is_whole };
        let bytes = view.block_bytes(at)?;
        let mut records = view.records(at, &bytes);
        while position.next < next {
            let offset = block.offset + (bytes.len() - records.rest_bytes()) as u64;
            let record = records.take().map_err(|flaw| view.damaged(offset, flaw))?;
            position.pass(record.bytes(), record.header().next());
        }
        Ok(position)
    }

    /// Is a readable event here? Its record is not looked at.
    pub fn has(&self, sequence: u64) -> Result<bool, ReadError> {
        match self.view_of(sequence) {
            Ok(_) => Ok(true),
            Err(ReadError::Gone { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The segment that has an event.
    fn view_of(&self, sequence: u64) -> Result<View, ReadError> {
        // In this order: what is readable now is in the segments that are looked at after it.
        let next = self.next();
        if sequence >= next {
            return Err(ReadError::Ahead { next });
        }
        let segments = self.segments();
        let after = segments.partition_point(|segment| segment.first() <= sequence);
        let gone = || {
            let first = |segment: &Arc<Segment>| segment.first();
            ReadError::Gone { oldest: segments.get(after).map_or(next, first) }
        };
        let segment = after.checked_sub(1).map(|at| &segments[at]).ok_or_else(gone)?;
        let view = segment.view();
        if sequence >= view.next {
            return Err(gone());
        }
        view.checked()
    }
}
