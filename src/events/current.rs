//! The segment that is written.

use std::io;
use std::sync::Arc;

use super::index::Builder;
use super::position::Position;
use super::segment::{HEADER_BYTES, Header, Segment, Trailer};
use crate::log::File;
use crate::protocol::event::EventRecord;

/// So much is written before it is synced, and stays in memory until it is. The Raft log's syncs share the disk.
pub(super) const SYNC_BYTES: usize = 4 << 20;

/// So much of what is synced stays in the system's memory, for whoever follows. The rest of it is as good as never read;
/// without this, all memory fills with events, and each new page is one that nobody has touched for long.
pub(super) const CACHED_BYTES: u64 = 16 << 20;

/// The segment that is written, and what of it is not on disk for sure.
///
/// ```text
///  0          synced            written           end
///  ├ on disk ──┼ may be on disk ─┼ in memory only ─┤
///              └── unsynced: all of it is in memory, and written again when a write or a sync fails
/// ```
pub(super) struct Current {
    pub segment: Arc<Segment>,
    file: Arc<dyn File>,
    builder: Builder,
    synced: u64,
    /// So much of the beginning is not in the system's memory any more.
    uncached: u64,
    /// The segment before, while it is there.
    before: Option<Arc<Segment>>,
    unsynced: Vec<u8>,
    /// How many of the unsynced bytes are written.
    written: usize,
    /// After what is in it, and when its first and its last record were.
    next: u64,
    first_at_us: u64,
    last_at_us: u64,
    /// Its footer may be on disk in part: nothing is put over it.
    is_ending: bool,
}

impl Current {
    /// A new one.
    pub fn begin(header: Header, path: String, file: Arc<dyn File>) -> Self {
        let segment = Arc::new(Segment::begin(header, path, file.clone()));
        Self {
            segment,
            file,
            builder: Builder::new(&header.start.chain),
            synced: 0,
            uncached: 0,
            before: None,
            unsynced: header.encode().to_vec(),
            written: 0,
            next: header.start.next,
            first_at_us: u64::MAX,
            last_at_us: 0,
            is_ending: false,
        }
    }

    /// One that was there before, whose header was read: records follow by [`Current::reload`].
    pub fn resume(header: Header, path: String, file: Arc<dyn File>) -> Self {
        let mut current = Self::begin(header, path, file);
        current.synced = HEADER_BYTES as u64;
        current.unsynced.clear();
        current
    }

    /// A record that is on disk already, before which the chain is this.
    pub fn reload(&mut self, record: &EventRecord<'_>, position: &mut Position) {
        self.add(record, position);
        self.synced += record.bytes().len() as u64;
    }

    /// Lets readers see what is written.
    pub fn publish(&self) {
        let written = self.synced + self.written as u64;
        self.segment.publish(written, self.next, self.last_at_us, self.builder.index());
    }

    /// Is there room for a record of so many bytes? For one there always is.
    pub fn has_room(&self, bytes: u64, bytes_max: u64) -> bool {
        !self.is_ending && (self.next == self.segment.first() || self.end() + bytes <= bytes_max)
    }

    /// When its first record was, in ms; in the far future, if there is none.
    pub fn first_at_ms(&self) -> u64 {
        self.first_at_us / 1_000
    }

    /// Takes a record in.
    pub fn put(&mut self, record: &EventRecord<'_>, position: &mut Position) {
        self.add(record, position);
        self.unsynced.extend_from_slice(record.bytes());
    }

    fn add(&mut self, record: &EventRecord<'_>, position: &mut Position) {
        self.builder.add(record, &position.chain);
        position.pass(record.bytes(), record.header().next());
        self.next = position.next;
        self.first_at_us = self.first_at_us.min(record.header().at_us);
        self.last_at_us = record.header().at_us;
    }

    fn end(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    pub fn unsynced_bytes(&self) -> usize {
        self.unsynced.len()
    }

    pub fn unwritten_bytes(&self) -> usize {
        self.unsynced.len() - self.written
    }

    /// Writes what is not, and lets readers see it.
    pub fn write(&mut self) -> io::Result<()> {
        if self.unwritten_bytes() > 0 {
            let bytes = &self.unsynced[self.written..];
            self.file.write_at(self.synced + self.written as u64, bytes)?;
            self.written = self.unsynced.len();
            self.publish();
        }
        Ok(())
    }

    /// Syncs what is written, which is everything.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.sync_data() {
            // Nobody knows what is on disk. A second sync would say yes to what is nowhere.
            self.written = 0;
            return Err(error);
        }
        self.synced += self.written as u64;
        self.unsynced.drain(..self.written);
        self.written = 0;
        self.uncache();
        Ok(())
    }

    /// Gives memory back.
    fn uncache(&mut self) {
        let Some(end) = self.synced.checked_sub(CACHED_BYTES) else { return };
        if let Some(before) = self.before.take() {
            before.uncache(0..before.file_bytes());
        }
        self.segment.uncache(self.uncached..end);
        self.uncached = end;
    }

    /// The next one.
    pub fn follow(&mut self, before: Option<Arc<Segment>>) {
        self.before = before;
    }

    /// Syncs the records, which are all written, and then the footer: where one is, all records are.
    pub fn seal(&mut self, end: Position) -> io::Result<()> {
        self.is_ending = true;
        self.sync()?;
        let (mut bytes, blocks) = self.builder.finish();
        let (records_end, last_at_us) = (self.end(), self.last_at_us);
        let footer_crc = crc32fast::hash(&bytes);
        let trailer = Trailer { records_end, blocks, last_at_us, footer_crc, end };
        bytes.extend_from_slice(&trailer.encode());
        let mut at = records_end;
        for piece in bytes.chunks(SYNC_BYTES) {
            self.file.write_at(at, piece)?;
            self.file.sync_data()?;
            at += piece.len() as u64;
        }
        self.segment.seal(trailer)
    }
}
