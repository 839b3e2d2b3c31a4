//! Opening: everything on disk from a position on is cut off, and what is before it must be of its history.

use std::io;
use std::sync::Arc;

use super::current::Current;
use super::error::{Flaw, ReadError};
use super::position::Position;
use super::records::{Stream, is_record_in};
use super::segment::{HEADER_BYTES, Header, Segment, Trailer, list, name_of};
use crate::log::{File, Storage};
use crate::protocol::ShardId;

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
    // What begins later comes again. The newest goes first, so that no power cut leaves a hole.
    while let Some((first, _)) = found.pop_if(|(first, _)| *first >= position.next) {
        remove(storage, first)?;
    }
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
    if let Some(last) = last {
        opened.add_last(Opening::new(storage, shard, last)?, position)?;
    }
    Ok(opened)
}

fn remove(storage: &dyn Storage, first: u64) -> io::Result<()> {
    storage.remove(&name_of(first))?;
    storage.sync_dir()
}

/// A segment's file.
struct Opening<'a> {
    storage: &'a dyn Storage,
    shard: ShardId,
    path: String,
    file: Arc<dyn File>,
    first: u64,
    bytes: u64,
}

impl<'a> Opening<'a> {
    fn new(
        storage: &'a dyn Storage,
        shard: ShardId,
        (first, bytes): (u64, u64),
    ) -> io::Result<Self> {
        let name = name_of(first);
        let (file, path) = (storage.open(&name)?, storage.path(&name));
        Ok(Self { storage, shard, path, file, first, bytes })
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

    /// Is there a record, anywhere from an offset on, behind which this position is?
    ///
    /// A position was on disk when it was published. So if there is, what is damaged before it was on disk, too. If
    /// not, the power went before this was synced, and the position is of a snapshot that another node gave.
    fn reaches(&self, from: u64, position: Position) -> io::Result<bool> {
        is_record_in(self.file.as_ref(), from..self.bytes, |header| {
            header.next() == position.next && header.shard == self.shard
        })
    }
}

impl Opened {
    /// A segment follows those before.
    fn follow(&self, opening: &Opening<'_>, header: &Header) -> Result<(), ReadError> {
        match self.segments.is_empty() {
            true => Ok(()),
            false => header.follows(self.end).map_err(|flaw| opening.damaged(0, flaw)),
        }
    }

    fn add_sealed(
        &mut self,
        opening: Opening<'_>,
        (header, trailer): (Header, Trailer),
    ) -> io::Result<()> {
        self.end = trailer.end;
        let segment = Segment::sealed((header, trailer), opening.path, opening.file)?;
        self.segments.push(Arc::new(segment));
        Ok(())
    }

    /// The segment that has the position, or ends before it.
    fn add_last(&mut self, opening: Opening<'_>, position: Position) -> Result<(), ReadError> {
        let header = match opening.header() {
            Err(ReadError::Damaged { .. }) if !opening.reaches(0, position)? => {
                return Ok(remove(opening.storage, opening.first)?);
            }
            header => header?,
        };
        self.follow(&opening, &header)?;
        let trailer = Trailer::read(opening.file.as_ref(), opening.bytes)?;
        if let Some(trailer) = trailer.filter(|trailer| trailer.end.next <= position.next) {
            if trailer.end.next == position.next && trailer.end != position {
                return Err(opening.damaged(trailer.records_end, Flaw::Chain));
            }
            return Ok(self.add_sealed(opening, (header, trailer))?);
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
            if trailer.is_some() || opening.reaches(stream.offset(), position)? {
                return Err(opening.damaged(stream.offset(), flaw));
            }
            break;
        }
        let at = stream.offset();
        if end.next > position.next {
            let flaw = Flaw::Sequence { expected: position.next, found: end.next };
            return Err(opening.damaged(at, flaw));
        }
        if end.next == position.next && end != position {
            return Err(opening.damaged(at, Flaw::Chain));
        }
        if end == header.start {
            return Ok(remove(opening.storage, opening.first)?);
        }
        if at < opening.bytes {
            opening.file.truncate(at)?;
        }
        current.publish();
        self.end = end;
        self.segments.push(current.segment.clone());
        self.current = Some(current);
        Ok(())
    }
}
