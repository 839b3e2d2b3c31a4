//! Opening: everything on disk from a position on is cut off, and what is before it must be of its history.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::current::Current;
use super::error::{Flaw, ReadError};
use super::position::Position;
use super::records::{Stream, is_record_in};
use super::segment::{HEADER_BYTES, Header, Segment, Trailer, array, list, name_of, word};
use crate::log::{File, Storage};
use crate::protocol::ShardId;
use crate::protocol::event::RECORD_HEADER_BYTES;

/// What is there.
pub(super) struct Opened {
    pub segments: Vec<Arc<Segment>>,
    /// The last of them, if it is not sealed.
    pub current: Option<Current>,
    /// After what is in them.
    pub end: Position,
}

/// Makes the directory what it was at `position`, or says why that cannot be.
pub(super) fn open(
    storage: &dyn Storage,
    shard: ShardId,
    position: Position,
) -> Result<Opened, ReadError> {
    let mut found = list(storage)?;
    let later = found.split_off(found.partition_point(|(first, _)| *first < position.next));
    let mut opened = Opened { segments: Vec::new(), current: None, end: position };
    let last = found.pop();
    for (first, bytes) in found {
        let opening = Opening::new(storage, shard, (first, bytes))?;
        let header = opening.header()?;
        let trailer = Trailer::read(opening.file.as_ref(), bytes)?;
        let unsealed = Flaw::Frame("it has no end, and others follow");
        let trailer = trailer.ok_or_else(|| opening.damaged(bytes, unsealed))?;
        opened.follow(&opening, &header)?;
        opened.add_sealed(opening, (header, trailer))?;
    }
    let cut = match last {
        Some(last) => opened.add_last(Opening::new(storage, shard, last)?, position)?,
        None => None,
    };
    // All is in order. What begins later comes again. The newest goes first, so that no power cut leaves a hole.
    for (first, _) in later.into_iter().rev() {
        remove(storage, first)?;
    }
    match cut {
        Some((first, 0)) => remove(storage, first)?,
        Some((first, bytes)) => storage.open(&name_of(first))?.truncate(bytes)?,
        None => {}
    }
    Ok(opened)
}

/// Makes the event files of a directory that nobody else uses what they were at a position: what comes after it is
/// gone, and what is before it is of its history, and on disk.
///
/// # Errors
/// They are damaged, or of another history. What the operating system says.
pub fn cut(storage: &dyn Storage, shard: ShardId, position: Position) -> Result<(), ReadError> {
    let opened = open(storage, shard, position)?;
    if let Some(current) = &opened.current {
        storage.open(&current.segment.name())?.sync_data()?;
    }
    Ok(storage.sync_dir()?)
}

fn remove(storage: &dyn Storage, first: u64) -> io::Result<()> {
    storage.remove(&name_of(first))?;
    storage.sync_dir()
}

/// A segment's file.
struct Opening {
    shard: ShardId,
    path: String,
    file: Arc<dyn File>,
    first: u64,
    bytes: u64,
}

impl Opening {
    fn new(storage: &dyn Storage, shard: ShardId, (first, bytes): (u64, u64)) -> io::Result<Self> {
        let name = name_of(first);
        let (file, path) = (storage.open(&name)?, storage.path(&name));
        Ok(Self { shard, path, file, first, bytes })
    }

    fn damaged(&self, offset: u64, flaw: Flaw) -> ReadError {
        ReadError::Damaged { file: self.path.clone(), offset, flaw }
    }

    fn header(&self) -> Result<Header, ReadError> {
        let header = Header::read(self.file.as_ref(), self.bytes, self.first)?;
        let header = header.map_err(|flaw| self.damaged(0, flaw))?;
        let is_ours = header.shard == self.shard;
        is_ours.then_some(header).ok_or_else(|| self.damaged(0, Flaw::Shard(header.shard)))
    }

    /// How the last segment ends; `None`: it is not sealed, or the power went before its footer was synced.
    fn synced_trailer(&self) -> io::Result<Option<Trailer>> {
        let Some(trailer) = Trailer::read(self.file.as_ref(), self.bytes)? else { return Ok(None) };
        let Range { start, end } = trailer.footer(self.bytes);
        let mut footer = vec![0; (end - start) as usize];
        self.file.read_at(start, &mut footer)?;
        Ok(Some(trailer).filter(|trailer| trailer.footer_crc == crc32fast::hash(&footer)))
    }

    /// Is there a record, anywhere from an offset on, behind which this position is?
    ///
    /// A position was on disk when it was published. So if there is, what is damaged before it was on disk, too. If
    /// not, the power went before this was synced, and the position is of a snapshot that another node gave, which
    /// nobody waited for. `next`: the event that should be at the offset.
    fn reaches(&self, (from, next): (u64, u64), position: Position) -> io::Result<bool> {
        if self.bytes >= from + RECORD_HEADER_BYTES as u64 {
            let mut header = [0; RECORD_HEADER_BYTES];
            self.file.read_at(from, &mut header)?;
            // The record that is damaged may itself be the last one before the position.
            let (first, count): (_, [u8; 4]) = (word(&header, 8), array(&header, 36));
            let ends_there = |first: u64| {
                first.checked_add(u64::from(u32::from_le_bytes(count))) == Some(position.next)
            };
            if ends_there(first) || ends_there(next) {
                return Ok(true);
            }
        }
        is_record_in(self.file.as_ref(), from.min(self.bytes)..self.bytes, |header| {
            header.next() == position.next && header.shard == self.shard
        })
    }
}

impl Opened {
    /// A segment follows those before.
    fn follow(&self, opening: &Opening, header: &Header) -> Result<(), ReadError> {
        match self.segments.is_empty() {
            true => Ok(()),
            false => header.follows(self.end).map_err(|flaw| opening.damaged(0, flaw)),
        }
    }

    fn add_sealed(
        &mut self,
        opening: Opening,
        (header, trailer): (Header, Trailer),
    ) -> Result<(), ReadError> {
        if trailer.end.next <= header.start.next {
            let flaw = Flaw::Frame("its end says that there is no event in it");
            return Err(opening.damaged(trailer.records_end, flaw));
        }
        self.end = trailer.end;
        let segment = Segment::sealed((header, trailer), opening.path, opening.file)?;
        self.segments.push(Arc::new(segment));
        Ok(())
    }

    /// The segment that has the position, or ends before it. Says which file is to be cut, and to how many bytes.
    fn add_last(
        &mut self,
        opening: Opening,
        position: Position,
    ) -> Result<Option<(u64, u64)>, ReadError> {
        let header = match opening.header() {
            Err(ReadError::Damaged { .. })
                if !opening.reaches((HEADER_BYTES as u64, opening.first), position)? =>
            {
                return Ok(Some((opening.first, 0)));
            }
            header => header?,
        };
        self.follow(&opening, &header)?;
        let trailer = opening.synced_trailer()?;
        if let Some(trailer) = trailer.filter(|trailer| trailer.end.next <= position.next) {
            if trailer.end.next == position.next && !trailer.end.fits(&position) {
                return Err(opening.damaged(trailer.records_end, Flaw::Chain));
            }
            self.add_sealed(opening, (header, trailer))?;
            return Ok(None);
        }
        let records_end = trailer.map_or(opening.bytes, |trailer| trailer.records_end);
        let range = HEADER_BYTES as u64..records_end;
        let mut stream = Stream::new(opening.file.clone(), range, opening.shard, opening.first);
        let mut current = Current::resume(header, opening.path.clone(), opening.file.clone());
        let mut end = header.start;
        while end.next < position.next {
            let flaw = match stream.take()? {
                Ok(Some(record)) => {
                    current.reload(&record, &mut end);
                    continue;
                }
                Ok(None) => Flaw::Missing,
                Err(flaw) => flaw,
            };
            if trailer.is_some() || opening.reaches((stream.offset(), end.next), position)? {
                return Err(opening.damaged(stream.offset(), flaw));
            }
            break;
        }
        let at = stream.offset();
        if end.next > position.next {
            let flaw = Flaw::Sequence { expected: position.next, found: end.next };
            return Err(opening.damaged(at, flaw));
        }
        if end.next == position.next && !end.fits(&position) {
            return Err(opening.damaged(at, Flaw::Chain));
        }
        if end == header.start {
            return Ok(Some((opening.first, 0)));
        }
        current.publish();
        self.end = end;
        self.segments.push(current.segment.clone());
        self.current = Some(current);
        Ok((at < opening.bytes).then_some((opening.first, at)))
    }
}
