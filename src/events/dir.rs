//! The event files of a directory, read from outside: by an audit, an export, a backup; also beside a running node.
//!
//! Nothing is written, and nothing is mapped: a node that starts shortens its last segment, and what was cut off is
//! not read. What is listed is what was there when the directory was opened; segments that a node removes meanwhile
//! can be read to their end.
//!
//! ```no_run
//! # use std::path::Path;
//! # use stockd::events::{Checks, EventDir};
//! # use stockd::log::RealStorage;
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = EventDir::open(&RealStorage::open_read_only(Path::new("stockd-data"))?)?;
//! let mut records = directory.records(Checks::Index);
//! while let Some(found) = records.next()? {
//!     println!("{}: at byte {}: event {}", found.file, found.offset, found.record.header().first);
//! }
//! println!("all is in order up to {:?}", records.position());
//! # Ok(())
//! # }
//! ```

use std::io;
use std::sync::Arc;

use super::error::{Flaw, ReadError};
use super::index::{Builder, ENTRY_BYTES};
use super::position::Position;
use super::records::{Stream, is_record_in};
use super::segment::{HEADER_BYTES, Header, TRAILER_BYTES, Trailer, array, list, name_of};
use crate::log::{File, Storage};
use crate::protocol::ShardId;
use crate::protocol::event::EventRecord;

/// A segment, as it says itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    /// The path of its file.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// The shard whose events these are.
    pub shard: ShardId,
    /// Before its first event.
    pub start: Position,
    /// Events before it are missing, because the node was given a snapshot instead.
    pub is_after_gap: bool,
    /// After its last event; `None`: it is not sealed, so it is the last one, and maybe written.
    pub end: Option<Position>,
}

/// See the module.
pub struct EventDir {
    segments: Vec<Listed>,
}

struct Listed {
    info: SegmentInfo,
    header: Header,
    file: Arc<dyn File>,
    trailer: Option<Trailer>,
    /// The head or the end is damaged: where, and how. Nothing of it is read then.
    damage: Option<(u64, Flaw)>,
}

/// What is looked at; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Checks {
    /// The checksum, shard and number of each record.
    Records,
    /// The chain, from record to record and from segment to segment.
    Chain,
    /// The index and the filters of each segment, by making them again.
    Index,
}

impl EventDir {
    /// Lists what is there.
    ///
    /// # Errors
    /// The head of a segment is damaged, or the end of one that others follow. What the operating system says.
    pub fn open(storage: &dyn Storage) -> Result<Self, ReadError> {
        let found = Self::survey(storage)?;
        match found.segments.iter().find_map(|segment| Some((segment, segment.damage?))) {
            Some((segment, (offset, flaw))) => Err(damaged(segment, offset, flaw)),
            None => Ok(found),
        }
    }

    /// As [`EventDir::open`], for whoever wants to know all that is wrong: what is damaged is listed as its name
    /// says, and is an error when its records are asked for.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn survey(storage: &dyn Storage) -> io::Result<Self> {
        let mut segments = Vec::new();
        let found = list(storage)?;
        let last = found.last().copied();
        for (first, _) in found {
            let name = name_of(first);
            let file = match storage.open(&name) {
                Ok(file) => file,
                // Too old, since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let (bytes, path) = (file.bytes()?, storage.path(&name));
            let is_last = last.is_some_and(|(last, _)| last == first);
            if is_last && bytes < HEADER_BYTES as u64 {
                // It was made, and nothing is written yet.
                break;
            }
            let trailer = Trailer::read(file.as_ref(), bytes)?;
            let has_end = trailer.is_some() || is_last;
            let (header, damage) = match Header::read(file.as_ref(), bytes, first)? {
                Ok(header) if has_end => (header, None),
                Ok(header) => {
                    (header, Some((bytes, Flaw::Frame("it has no end, and others follow"))))
                }
                Err(flaw) => (Header::unknown(first), Some((0, flaw))),
            };
            let end = trailer.map(|trailer| trailer.end);
            let Header { shard, start, is_after_gap } = header;
            let info = SegmentInfo { file: path, bytes, shard, start, is_after_gap, end };
            segments.push(Listed { info, header, file, trailer, damage });
        }
        Ok(Self { segments })
    }

    /// The segments, in order.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &SegmentInfo> {
        self.segments.iter().map(|segment| &segment.info)
    }

    /// All records, in order.
    pub fn records(&self, checks: Checks) -> DirRecords<'_> {
        DirRecords { directory: self, checks, at: 0, part: None, end: None, ignored_bytes: 0 }
    }

    /// The records from the beginning of the segment on that has an event, or would have it.
    pub fn records_from(&self, checks: Checks, sequence: u64) -> DirRecords<'_> {
        let after = self.segments.partition_point(|at| at.info.start.next <= sequence);
        DirRecords { at: after.saturating_sub(1), ..self.records(checks) }
    }

    /// What is behind the last record of the last segment: where it begins, and at most so many bytes of it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn tail(&self, ignored_bytes: u64, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let Some(segment) = self.segments.last() else { return Ok((0, Vec::new())) };
        let offset = segment.info.bytes.saturating_sub(ignored_bytes);
        let mut bytes = vec![0; (segment.info.bytes - offset).min(bytes_max as u64) as usize];
        segment.file.read_at(offset, &mut bytes)?;
        Ok((offset, bytes))
    }
}

/// A record, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The path of the file.
    pub file: &'a str,
    /// Where in it.
    pub offset: u64,
    /// Before the record. Without a check of the chain, the chain is that of the segment's beginning.
    pub before: Position,
    /// The record.
    pub record: EventRecord<'a>,
}

/// The records of a directory, one after the other.
///
/// After an error, the next record is the first of the next segment: who wants to know all that is wrong goes on.
pub struct DirRecords<'a> {
    directory: &'a EventDir,
    checks: Checks,
    /// The segment that is read.
    at: usize,
    part: Option<Part>,
    /// After what was read, if that was in order.
    end: Option<Position>,
    ignored_bytes: u64,
}

/// What is read of a segment.
struct Part {
    stream: Stream,
    builder: Builder,
    /// After what was read. Without a check of the chain, the chain is that of the segment's beginning.
    position: Position,
    last_at_us: u64,
    ignored_bytes: u64,
}

impl DirRecords<'_> {
    /// After the record that was read last; the chain is only right if it is checked. `None`: nothing was read, or
    /// what was last is not in order.
    pub fn position(&self) -> Option<Position> {
        self.part.as_ref().map(|part| part.position).or(self.end)
    }

    /// Bytes at the end of the last segment that are no records. It is not sealed, and they are being written, or
    /// were when the power went. Known at the end.
    pub fn ignored_bytes(&self) -> u64 {
        self.ignored_bytes
    }

    /// Takes the next record; `None`: this was all.
    ///
    /// # Errors
    /// Something is damaged, or of another history. What the operating system says.
    #[expect(clippy::should_implement_trait, reason = "what it gives borrows from it")]
    pub fn next(&mut self) -> Result<Option<Found<'_>>, ReadError> {
        if let Err(error) = self.seek() {
            (self.part, self.end, self.at) = (None, None, self.at + 1);
            return Err(error);
        }
        let Some(part) = &mut self.part else { return Ok(None) };
        let file = &self.directory.segments[self.at].info.file;
        let before = part.position;
        Ok(part.take(self.checks)?.map(|(offset, record)| Found { file, offset, before, record }))
    }

    /// Goes to where a record is, which is looked at, unless this was all.
    fn seek(&mut self) -> Result<(), ReadError> {
        while let Some(segment) = self.directory.segments.get(self.at) {
            if let Some((offset, flaw)) = segment.damage {
                return Err(damaged(segment, offset, flaw));
            }
            let part = match &mut self.part {
                Some(part) => part,
                None => {
                    let part = Part::begin(segment, self.end, self.checks)?;
                    self.part.insert(part)
                }
            };
            let is_over = match part.look(segment, self.checks) {
                Err(ReadError::Damaged { .. }) if segment.was_cut()? => {
                    // What comes again is the same, and is read the next time.
                    self.at = self.directory.segments.len() - 1;
                    true
                }
                is_over => is_over?,
            };
            if !is_over {
                return Ok(());
            }
            self.ignored_bytes = part.ignored_bytes;
            self.end = Some(part.position);
            (self.part, self.at) = (None, self.at + 1);
        }
        Ok(())
    }
}

impl Listed {
    /// A node was started meanwhile: it has cut off what was written after its last snapshot.
    fn was_cut(&self) -> io::Result<bool> {
        Ok(self.file.bytes()? < self.info.bytes)
    }
}

fn damaged(segment: &Listed, offset: u64, flaw: Flaw) -> ReadError {
    ReadError::Damaged { file: segment.info.file.clone(), offset, flaw }
}

impl Part {
    /// Looks at the next record. `true`: there is none, and the segment ends as it should.
    fn look(&mut self, segment: &Listed, checks: Checks) -> Result<bool, ReadError> {
        match self.stream.look()? {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(flaw) => self.ignored_bytes = self.rest_of(segment, flaw)?,
        }
        self.finish(segment, checks)?;
        Ok(true)
    }

    /// Begins a segment, which follows what was before if it begins where that ends.
    fn begin(
        segment: &Listed,
        before: Option<Position>,
        checks: Checks,
    ) -> Result<Self, ReadError> {
        let Listed { info: SegmentInfo { shard, start, bytes, .. }, header, file, trailer, .. } =
            segment;
        match before.map_or(Ok(()), |before| header.follows(before)) {
            // The chain before is not known.
            Err(Flaw::Chain) if checks < Checks::Chain => {}
            follows => follows.map_err(|flaw| damaged(segment, 0, flaw))?,
        }
        let end = trailer.map_or(*bytes, |trailer| trailer.records_end);
        let range = HEADER_BYTES as u64..end;
        Ok(Self {
            stream: Stream::new(file.clone(), range, *shard, start.next),
            builder: Builder::new(&start.chain),
            position: *start,
            last_at_us: 0,
            ignored_bytes: 0,
        })
    }

    /// Takes the record that is there, which was looked at.
    fn take(&mut self, checks: Checks) -> Result<Option<(u64, EventRecord<'_>)>, ReadError> {
        let offset = self.stream.offset();
        let Ok(Some(record)) = self.stream.take()? else { return Ok(None) };
        if checks >= Checks::Index {
            self.builder.add(&record, &self.position.chain);
        }
        let next = record.header().next();
        match checks >= Checks::Chain {
            true => self.position.pass(record.bytes(), next),
            false => self.position.next = next,
        }
        self.last_at_us = record.header().at_us;
        Ok(Some((offset, record)))
    }

    /// There is no record: how many bytes does that leave, if it is only the end of what was written?
    fn rest_of(&self, segment: &Listed, flaw: Flaw) -> Result<u64, ReadError> {
        let Listed { info: SegmentInfo { bytes, shard, .. }, file, trailer, .. } = segment;
        let offset = self.stream.offset();
        let rest = offset..file.bytes()?.min(*bytes);
        let next = self.position.next;
        let goes_on = || {
            is_record_in(file.as_ref(), rest.clone(), |header| {
                header.shard == *shard && header.first >= next
            })
        };
        if trailer.is_some() || goes_on()? {
            return Err(damaged(segment, offset, flaw));
        }
        if Trailer::was_written(file.as_ref(), *bytes)? {
            let flaw = Flaw::Frame("it was sealed, and the end of it is damaged");
            return Err(damaged(segment, bytes - TRAILER_BYTES as u64, flaw));
        }
        Ok(bytes - offset)
    }

    /// All records of the segment were read: it must end as it says.
    fn finish(&mut self, segment: &Listed, checks: Checks) -> Result<(), ReadError> {
        let Some(trailer) = &segment.trailer else { return Ok(()) };
        let (end, at) = (trailer.end, trailer.records_end);
        if self.position.next != end.next {
            let flaw = Flaw::Sequence { expected: self.position.next, found: end.next };
            return Err(damaged(segment, at, flaw));
        }
        if checks >= Checks::Chain && self.position != end {
            let at = match checks >= Checks::Index {
                true => self.parting(segment, trailer)?,
                false => at,
            };
            return Err(damaged(segment, at, Flaw::Chain));
        }
        if checks >= Checks::Index {
            let made = (self.builder.finish(), self.last_at_us);
            let found = footer_of(segment, trailer)?;
            if made != ((found, trailer.blocks), trailer.last_at_us) {
                return Err(damaged(segment, at, Flaw::Index));
            }
        }
        Ok(())
    }

    /// The chain is not the one at the end: where the block begins in which they part, as the index tells.
    fn parting(&mut self, segment: &Listed, trailer: &Trailer) -> io::Result<u64> {
        let (ours, _) = self.builder.finish();
        let found = footer_of(segment, trailer)?;
        let begin = |entry: &[u8]| u64::from_le_bytes(array(entry, 0));
        let padding = (trailer.index_at() - trailer.records_end) as usize;
        let (ours, found) = (&ours[padding..], &found[padding..]);
        let both = ours.chunks_exact(ENTRY_BYTES).zip(found.chunks_exact(ENTRY_BYTES));
        let mut at = HEADER_BYTES as u64;
        for (ours, found) in both.take(trailer.blocks as usize) {
            if array::<32>(ours, 32) != array::<32>(found, 32) {
                break;
            }
            at = begin(ours);
        }
        Ok(at)
    }
}

/// What is between the records and the trailer, as it is on disk.
fn footer_of(segment: &Listed, trailer: &Trailer) -> io::Result<Vec<u8>> {
    let range = trailer.footer(segment.info.bytes);
    let mut footer = vec![0; (range.end - range.start) as usize];
    segment.file.read_at(range.start, &mut footer)?;
    Ok(footer)
}
