//! Records one after the other, in memory or in a file, each checked before it is given away.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::error::Flaw;
use crate::log::File;
use crate::protocol::event::{
    EventError, EventRecord, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader,
};
use crate::protocol::{Reader, ShardId};

/// So much of a file is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Records in memory.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    reader: Reader<'a>,
    shard: ShardId,
    next: u64,
}

impl<'a> Records<'a> {
    /// `next`: the sequence number that the first one begins with.
    pub fn new(bytes: &'a [u8], shard: ShardId, next: u64) -> Self {
        Self { reader: Reader::new(bytes), shard, next }
    }

    /// Bytes that have not been taken.
    pub fn rest_bytes(&self) -> usize {
        self.reader.rest().len()
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// It is damaged, or not the one that should be there. It is not taken then.
    pub fn take(&mut self) -> Result<EventRecord<'a>, Flaw> {
        let mut reader = self.reader;
        let record = EventRecord::take(&mut reader).map_err(Flaw::Record)?;
        let RecordHeader { first, shard, count, .. } = *record.header();
        if first != self.next {
            return Err(Flaw::Sequence { expected: self.next, found: first });
        }
        if shard != self.shard {
            return Err(Flaw::Shard(shard));
        }
        if count == 0 {
            return Err(Flaw::Empty);
        }
        (self.reader, self.next) = (reader, record.header().next());
        Ok(record)
    }
}

/// Records in a file, read piece by piece: it may grow, or be shortened, meanwhile.
pub(super) struct Stream {
    file: Arc<dyn File>,
    shard: ShardId,
    /// The sequence number that comes next.
    next: u64,
    buffer: Vec<u8>,
    /// What was taken of the buffer.
    taken: usize,
    /// Where the buffer ends in the file.
    read_to: u64,
    /// Where the records end at the latest.
    end: u64,
}

impl Stream {
    /// From a place in a file up to another at most.
    pub fn new(file: Arc<dyn File>, range: Range<u64>, shard: ShardId, next: u64) -> Self {
        let Range { start, end } = range;
        Self { file, shard, next, buffer: Vec::new(), taken: 0, read_to: start, end }
    }

    /// Where the next record is.
    pub fn offset(&self) -> u64 {
        self.read_to - (self.buffer.len() - self.taken) as u64
    }

    /// Is there a next record?
    ///
    /// # Errors
    /// As [`Stream::take`].
    pub fn look(&mut self) -> io::Result<Result<bool, Flaw>> {
        self.fill()?;
        let bytes = &self.buffer[self.taken..];
        if bytes.is_empty() {
            return Ok(Ok(false));
        }
        Ok(Records::new(bytes, self.shard, self.next).take().map(|_| true))
    }

    /// Takes the next record; `None`: nothing follows.
    ///
    /// # Errors
    /// What the operating system says; and what is wrong at [`Stream::offset`], where it stays then.
    pub fn take(&mut self) -> io::Result<Result<Option<EventRecord<'_>>, Flaw>> {
        self.fill()?;
        let bytes = &self.buffer[self.taken..];
        if bytes.is_empty() {
            return Ok(Ok(None));
        }
        let mut records = Records::new(bytes, self.shard, self.next);
        Ok(records.take().map(|record| {
            self.taken += record.bytes().len();
            self.next = record.header().next();
            Some(record)
        }))
    }

    /// Sees to it that the next record is in the buffer, if it is in the file.
    fn fill(&mut self) -> io::Result<()> {
        let rest = &self.buffer[self.taken..];
        let need = match RecordHeader::peek(rest) {
            Ok(header) => header.bytes,
            Err(EventError::Truncated) => RECORD_BYTES_MAX,
            Err(_) => return Ok(()),
        };
        if rest.len() >= need || self.read_to >= self.end {
            return Ok(());
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let more = (self.end - self.read_to).min((PIECE_BYTES + need) as u64) as usize;
        let len = self.buffer.len();
        self.buffer.resize(len + more, 0);
        let read = self.file.read_at(self.read_to, &mut self.buffer[len..]);
        if let Err(error) = read {
            self.buffer.truncate(len);
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return Err(error);
            }
            // Shortened since: what is there of it is read up to the new end.
            self.end = self.file.bytes()?.clamp(self.read_to, self.end.saturating_sub(1));
            return self.fill();
        }
        self.read_to += more as u64;
        Ok(())
    }
}

/// Is there a whole record, anywhere in that part of a file, of which this is so? Where one is damaged, there is no
/// telling where the next one begins.
pub(super) fn is_record_in(
    file: &dyn File,
    range: Range<u64>,
    is_it: impl Fn(&RecordHeader) -> bool,
) -> io::Result<bool> {
    let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
    file.read_at(range.start, &mut bytes)?;
    let is_record = |at: usize| {
        let rest = &bytes[at..];
        RecordHeader::peek(rest).is_ok_and(|header| header.bytes <= rest.len() && is_it(&header))
            && EventRecord::take(&mut Reader::new(rest)).is_ok()
    };
    Ok((0..bytes.len().saturating_sub(RECORD_HEADER_BYTES)).any(is_record))
}
