//! What the feed has read last, for all who are at about the same place.
//!
//! ```text
//!      chunk          chunk       chunk
//!  ├──┬──┬──┬──┬──┼──┬──┬──┬──┼──┬──┬──┤ end      more of the log
//!        │                    ▲ who has granted enough gets a chunk, and is where it ends
//!        ▲ who has not gets the records that it has granted, and then the rest of the chunk
//! ```
//!
//! So those who follow are soon in step again after one of them was slow, and what they get is read, checked and
//! framed once. For the same reason the end moves by steps: see [`Recent::advance`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::events::{Chunk, EventLog, ReadError};
use crate::protocol::crc32;

/// What is read at once, unless a record is larger.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Even for a subscriber that has granted less: the others follow it.
const CHUNK_BYTES_MIN: usize = 64 << 10;
/// Who lags by more reads on its own. Together as much as four subscribers may be sent.
const CHUNKS_MAX: usize = 16;

/// See the module.
pub(super) struct Recent {
    events: Arc<EventLog>,
    chunks: VecDeque<Read>,
    end: u64,
}

struct Read {
    chunk: Chunk,
    crc: u32,
}

/// Whole records for a subscriber.
pub(super) struct Part {
    /// The sequence number after the last of their events.
    pub next: u64,
    pub records: Bytes,
    /// Of the records, if it is known.
    pub crc: Option<u32>,
}

impl Read {
    fn part(&self, from: u64, bytes_max: usize) -> Part {
        let Chunk { next, bytes: records, .. } = self.chunk.part(from, bytes_max);
        let is_all = records.len() == self.chunk.bytes.len();
        Part { next, records, crc: is_all.then_some(self.crc) }
    }
}

impl Recent {
    pub fn new(events: Arc<EventLog>) -> Self {
        Self { events, chunks: VecDeque::new(), end: 0 }
    }

    /// Has something come since the last step?
    pub fn has_more(&self) -> bool {
        self.events.position().next > self.end
    }

    /// Those who are at the end may go on.
    pub fn advance(&mut self) {
        self.end = self.events.position().next;
    }

    /// Nobody follows any more.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Whole records: the one that has the event `from`, and those that follow it up to so many bytes, if that is more.
    ///
    /// # Errors
    /// The event is not there, is behind the end of the last step, or cannot be read.
    pub fn read(&mut self, from: u64, bytes_max: usize) -> Result<Part, ReadError> {
        if from >= self.end {
            return Err(ReadError::Ahead { next: self.end });
        }
        let has = |Read { chunk, .. }: &&Read| (chunk.first..chunk.next).contains(&from);
        if let Some(read) = self.chunks.iter().rev().find(has) {
            return Ok(read.part(from, bytes_max));
        }
        let chunk = self.events.read(from, bytes_max.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES))?;
        let read = Read { crc: crc32(&chunk.bytes), chunk };
        let part = read.part(from, bytes_max);
        if self.chunks.len() >= CHUNKS_MAX {
            self.chunks.pop_front();
        }
        self.chunks.push_back(read);
        Ok(part)
    }
}
