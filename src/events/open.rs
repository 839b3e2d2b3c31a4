//! Opening: everything on disk from a position on is cut off, and what is before it must be of its history.

use std::io;
use std::sync::Arc;

use super::current::Current;
use super::error::Flaw;
use super::position::Position;
use super::records::Stream;
use super::segment::{HEADER_BYTES, Header, Segment, Trailer, list, name_of};
use crate::log::Storage;
use crate::protocol::Reader;
use crate::protocol::ShardId;
use crate::protocol::event::{EventRecord, RECORD_HEADER_BYTES, RecordHeader};

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
) -> io::Result<Opened> {
    let mut found = list(storage)?;
    // What begins later comes again. The newest goes first, so that no power cut leaves a hole.
    while found.last().is_some_and(|(first, _)| *first >= position.next) {
        if let Some((first, _)) = found.pop() {
            storage.remove(&name_of(first))?;
            storage.sync_dir()?;
        }
    }
    let mut opened = Opened { segments: Vec::new(), current: None, end: Position::default() };
    let last = found.pop();
    for (first, bytes) in found {
        let place = Place { storage, name: name_of(first) };
        let file = storage.open(&place.name)?;
        let header = place.header(Header::read(file.as_ref(), bytes)?, (shard, first), 0)?;
        let trailer = Trailer::read(file.as_ref(), bytes)?;
        let trailer =
            trailer.ok_or_else(|| place.damaged(bytes, &"it has no end, and others follow"))?;
        opened.follow(&place, &header)?;
        opened.end = trailer.end;
        opened.segments.push(Arc::new(Segment::sealed(header, trailer, file)?));
    }
    if let Some((first, bytes)) = last {
        opened.open_last(storage, shard, position, (first, bytes))?;
    }
    if opened.segments.is_empty() {
        opened.end = position;
    }
    Ok(opened)
}

/// A file, for messages.
struct Place<'a> {
    storage: &'a dyn Storage,
    name: String,
}

impl Place<'_> {
    fn damaged(&self, offset: u64, what: &dyn std::fmt::Display) -> io::Error {
        let (path, all) = (self.storage.path(&self.name), self.storage.path("events-*"));
        let text = format!(
            "{path}: at byte {offset}: {what}; start the node on an empty directory, so that it gets everything \
             from the others, or remove {all}, which loses this node's history of events and nothing else"
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    fn header(
        &self,
        header: Result<Header, &'static str>,
        (shard, first): (ShardId, u64),
        offset: u64,
    ) -> io::Result<Header> {
        let header = header.map_err(|what| self.damaged(offset, &what))?;
        if header.shard != shard {
            return Err(self.damaged(offset, &Flaw::Shard(header.shard)));
        }
        if header.start.next != first {
            return Err(
                self.damaged(offset, &Flaw::Sequence { expected: first, found: header.start.next })
            );
        }
        Ok(header)
    }
}

impl Opened {
    /// A segment follows those before; there may be a gap between them.
    fn follow(&self, place: &Place<'_>, header: &Header) -> io::Result<()> {
        let (end, start) = (self.end, header.start);
        if self.segments.is_empty() || start.next > end.next || start == end {
            return Ok(());
        }
        let flaw = match start.next == end.next {
            true => Flaw::Chain,
            false => Flaw::Sequence { expected: end.next, found: start.next },
        };
        Err(place.damaged(0, &flaw))
    }

    /// The segment that has the position, or ends before it.
    fn open_last(
        &mut self,
        storage: &dyn Storage,
        shard: ShardId,
        position: Position,
        (first, bytes): (u64, u64),
    ) -> io::Result<()> {
        let place = Place { storage, name: name_of(first) };
        let file = storage.open(&place.name)?;
        let header = Header::read(file.as_ref(), bytes)?;
        let trailer = match header {
            Ok(_) => Trailer::read(file.as_ref(), bytes)?,
            Err(_) => None,
        };
        if header.is_err() && !reaches(&place, (0, bytes), shard, position.next)? {
            // Of a history that this node has left for a snapshot, and the power went.
            storage.remove(&place.name)?;
            return storage.sync_dir();
        }
        let header = place.header(header, (shard, first), 0)?;
        self.follow(&place, &header)?;
        if let Some(trailer) = trailer.filter(|trailer| trailer.end.next <= position.next) {
            if trailer.end.next == position.next && trailer.end != position {
                return Err(place.damaged(trailer.records_end, &Flaw::Chain));
            }
            self.end = trailer.end;
            self.segments.push(Arc::new(Segment::sealed(header, trailer, file)?));
            return Ok(());
        }
        let records_end = trailer.map_or(bytes, |trailer| trailer.records_end);
        let mut stream =
            Stream::new(file.clone(), (HEADER_BYTES as u64, records_end), shard, first);
        let mut current = Current::resume(header, file.clone());
        let mut end = header.start;
        let flaw = loop {
            if end.next == position.next {
                break None;
            }
            match stream.take()? {
                Ok(Some(record)) => current.reload(&record, &mut end),
                Ok(None) => break Some(None),
                Err(flaw) => break Some(Some(flaw)),
            }
            if end.next > position.next {
                let flaw = Flaw::Sequence { expected: position.next, found: end.next };
                return Err(place.damaged(stream.offset(), &flaw));
            }
        };
        let at = stream.offset();
        match flaw {
            None if end != position => return Err(place.damaged(at, &Flaw::Chain)),
            Some(flaw)
                if trailer.is_some() || reaches(&place, (at, bytes), shard, position.next)? =>
            {
                let what =
                    flaw.map_or_else(|| "records are missing".to_owned(), |flaw| flaw.to_string());
                return Err(place.damaged(at, &what));
            }
            // A whole history, or one that was left for a snapshot.
            _ => {}
        }
        if at < bytes {
            file.truncate(at)?;
        }
        current.publish();
        self.end = end;
        self.segments.push(current.segment.clone());
        self.current = Some(current);
        Ok(())
    }
}

/// Is there a record, anywhere in that part of a file, behind which the event comes?
///
/// A position was synced when it was published. So if there is, what is damaged before it was on disk; if not, the
/// power went before this was synced, and the position is of a snapshot that another node gave.
fn reaches(
    place: &Place<'_>,
    (from, to): (u64, u64),
    shard: ShardId,
    next: u64,
) -> io::Result<bool> {
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    place.storage.open(&place.name)?.read_at(from, &mut bytes)?;
    let is_it = |at: usize| {
        let header = RecordHeader::peek(&bytes[at..]);
        header.is_ok_and(|header| header.next() == next && header.shard == shard)
            && EventRecord::take(&mut Reader::new(&bytes[at..])).is_ok()
    };
    Ok((0..bytes.len().saturating_sub(RECORD_HEADER_BYTES)).any(is_it))
}
