//! Reading the log from its first byte to its last: the one loop behind recovery, `stockd log
//! check` and `stockd log dump`.
//!
//! Frames follow each other by `seq`. The first place where the next one is not found is the *end*,
//! and the question is always the same: is it a torn tail (a write that power or a kill cut short,
//! which nobody was told of), or damage to something that was acknowledged? Sectors of one unsynced
//! write reach the disk in any order, so a sound frame behind a bad one proves nothing by itself.
//! What proves it is the sync mark: each frame says which frame was known to be on disk when it was
//! written.
//!
//! ```text
//!   seq 7   seq 8   seq 9 ✗   seq 10, synced ≥ 7      torn: 8, 9 and 10 were one write, cut here
//!   seq 7   seq 8   seq 9 ✗   seq 10, synced ≥ 9      damaged: 9 had been on disk, refuse
//! ```
//!
//! A segment is synced as a whole before the next one gets its header, and the header counts as a
//! frame, so the same rule covers a bad header, and a bad record in any older segment. Behind the
//! end, a zeroed segment is a spare that was never used.
//!
//! What can not be told: damage to the very last group before a kill looks like a torn tail. A clean
//! close writes a mark behind it; otherwise the other replicas have it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use super::record::{FRAME_ALIGN, FRAME_HEAD_BYTES, FrameHead};
use super::segment::{self, Header, HeaderFault, Position, Segment};
use super::storage::Storage;

/// How far the reading is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes of segment files that have been read.
    pub bytes_done: u64,
    /// Bytes of segment files that there are.
    pub bytes_total: u64,
}

/// What the reading meets.
pub(super) enum Visit<'a> {
    /// A segment begins.
    Header(&'a Header),
    /// A frame, with its payload.
    Frame { position: Position, head: &'a FrameHead, payload: Bytes },
}

/// Where a sound log ends, and what lies there.
pub(super) struct End {
    pub(super) log_id: u64,
    /// The segments with records, oldest first. The last one is where writing goes on.
    pub(super) segments: Vec<Arc<Segment>>,
    /// Segments behind them, with no header. Only zeros in it: a spare, as it should be.
    pub(super) leftovers: Vec<Leftover>,
    /// Where the next frame belongs, in the last segment.
    pub(super) offset: u64,
    /// The number the next frame gets.
    pub(super) seq: u64,
    /// From here on, in the last segment, no sound frame proves that the bytes are on disk.
    pub(super) unproven_from: u64,
    /// Behind this offset the last segment has only zeros; `offset` when there is no torn tail.
    pub(super) dirty_to: u64,
}

/// A segment without a header.
pub(super) struct Leftover {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) zeroed: bool,
}

/// Reports reading about this often.
const PROGRESS_BYTES: u64 = 4 << 20;

/// Reads the log; `None` when there are no segments.
///
/// # Errors
/// The log is damaged, incomplete, of another version, or can not be read.
pub(super) fn replay(
    storage: &dyn Storage,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<(), Error>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<End>, Error> {
    let segments = open_all(storage)?;
    let Some(first) = segments.first() else { return Ok(None) };
    let map = map_of(storage, first)?;
    let header = match Header::decode(&map) {
        Ok(header) => header,
        Err(fault) => return Err(first_header_error(storage, first, fault)),
    };
    let bytes_total = segments.iter().map(|segment| segment.bytes).sum();
    let mut reading = Reading {
        storage,
        log_id: header.log_id,
        salt: segment::salt_of(header.log_id),
        seq: header.seq,
        unproven: VecDeque::new(),
        progress,
        state: Progress { bytes_done: 0, bytes_total },
        reported: 0,
    };
    let mut offset = 0;
    let mut used: usize = 0;
    for segment in &segments {
        let map = map_of(storage, segment)?;
        match Header::decode(&map) {
            Ok(header) => {
                let before = used.checked_sub(1).map(|at| (&*segments[at], offset));
                reading.enter(segment, &header, before)?;
                visit(Visit::Header(&header))?;
                offset = reading.frames(segment, &map, header.bytes, visit)?;
                used += 1;
            }
            Err(HeaderFault::Bad) => break,
            Err(HeaderFault::Version(have)) => return Err(version_error(storage, segment, have)),
        }
    }
    assert!(used > 0, "the first header was sound a moment ago");
    let dirty_to = reading.end(&segments[used - 1..], offset)?;
    let unproven_from = reading.unproven.front().map_or(offset, |(_, at)| at.offset());
    let mut leftovers = Vec::new();
    for segment in &segments[used..] {
        let map = map_of(storage, segment)?;
        let zeroed = zeros_from(&map, 0) == 0;
        leftovers.push(Leftover { number: segment.number, bytes: segment.bytes, zeroed });
    }
    reading.report(bytes_total);
    let (log_id, seq) = (reading.log_id, reading.seq);
    let segments = segments.into_iter().take(used).collect();
    Ok(Some(End { log_id, segments, leftovers, offset, seq, unproven_from, dirty_to }))
}

/// The log's id and the number of its first segment; `None`: there is none.
///
/// # Errors
/// Its header is damaged, or of another version; it cannot be read.
pub(super) fn first_header(storage: &dyn Storage) -> Result<Option<(u64, u64)>, Error> {
    let segments = open_all(storage)?;
    let Some(first) = segments.first() else { return Ok(None) };
    match Header::decode(&map_of(storage, first)?) {
        Ok(header) => Ok(Some((header.log_id, first.number))),
        Err(fault) => Err(first_header_error(storage, first, fault)),
    }
}

fn open_all(storage: &dyn Storage) -> Result<Vec<Arc<Segment>>, Error> {
    let io = |deed, name: &str| {
        let file = storage.path(name);
        move |source| Error::Io { deed, file, source }
    };
    let entries = storage.list().map_err(io("list", ""))?;
    let mut numbers: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((segment::number_of(&entry.name)?, entry.bytes)))
        .collect();
    numbers.sort_unstable();
    let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(numbers.len());
    for (number, bytes) in numbers {
        let name = segment::name(number);
        if let Some(last) = segments.last()
            && last.number + 1 != number
        {
            let file = storage.path(&segment::name(last.number + 1));
            return Err(Error::MissingSegment { file });
        }
        let file = storage.open(&name).map_err(io("open", &name))?;
        segments.push(Arc::new(Segment::new(number, bytes, file)));
    }
    Ok(segments)
}

fn map_of(storage: &dyn Storage, segment: &Segment) -> Result<Bytes, Error> {
    segment.file.map().map_err(|source| {
        let file = storage.path(&segment::name(segment.number));
        Error::Io { deed: "map", file, source }
    })
}

fn version_error(storage: &dyn Storage, segment: &Segment, have: u32) -> Error {
    let file = storage.path(&segment::name(segment.number));
    Error::Version { file, have, want: segment::FORMAT_VERSION }
}

fn first_header_error(storage: &dyn Storage, segment: &Segment, fault: HeaderFault) -> Error {
    match fault {
        HeaderFault::Version(have) => version_error(storage, segment, have),
        // The first segment gets its name when its header is on disk, and later ones become first
        // when they have long been synced: this is never a torn write.
        HeaderFault::Bad => {
            let file = storage.path(&segment::name(segment.number));
            Error::Corrupt { file, offset: 0, seq: segment::FIRST_SEQ }
        }
    }
}

struct Reading<'a> {
    storage: &'a dyn Storage,
    log_id: u64,
    salt: u32,
    /// The number of the next frame.
    seq: u64,
    /// Frames that no later frame says are on disk, by seq.
    unproven: VecDeque<(u64, Position)>,
    progress: &'a mut dyn FnMut(Progress),
    state: Progress,
    reported: u64,
}

impl Reading<'_> {
    /// Checks that a segment follows the one before, which ended at an offset.
    fn enter(
        &mut self,
        segment: &Segment,
        header: &Header,
        before: Option<(&Segment, u64)>,
    ) -> Result<(), Error> {
        let file = self.storage.path(&segment::name(segment.number));
        if header.log_id != self.log_id || header.number != segment.number {
            return Err(Error::Foreign { file });
        }
        match before {
            Some((before, offset)) if header.seq > self.seq => Err(self.corrupt(before, offset)),
            _ if header.seq < self.seq => Err(Error::Foreign { file }),
            _ => {
                self.unproven.clear();
                self.unproven.push_back((self.seq, Position::new(segment.number, 0)));
                self.seq += 1;
                Ok(())
            }
        }
    }

    /// Visits the frames of a segment; gives the offset behind the last one.
    fn frames(
        &mut self,
        segment: &Segment,
        map: &Bytes,
        from: usize,
        visit: &mut dyn FnMut(Visit<'_>) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let done = self.state.bytes_done;
        let mut offset = from;
        while let Some(head) = map.get(offset..).and_then(|at| FrameHead::decode(at, self.salt)) {
            if head.seq != self.seq {
                break;
            }
            let position = Position::new(segment.number, offset as u64);
            while self.unproven.front().is_some_and(|(seq, _)| *seq <= head.synced) {
                self.unproven.pop_front();
            }
            self.unproven.push_back((head.seq, position));
            self.seq += 1;
            let start = offset + FRAME_HEAD_BYTES;
            let payload = map.slice(start..start + head.payload_bytes);
            visit(Visit::Frame { position, head: &head, payload })?;
            offset += head.bytes();
            self.report(done + offset as u64);
        }
        self.state.bytes_done = done + segment.bytes;
        Ok(offset as u64)
    }

    /// Decides what the end is: `segments` are the one where it lies, at `offset`, and all behind
    /// it. Gives the offset behind which the first of them has only zeros.
    fn end(&mut self, segments: &[Arc<Segment>], offset: u64) -> Result<u64, Error> {
        let (last, behind) = segments.split_first().expect("the end lies in a segment");
        let map = map_of(self.storage, last)?;
        let dirty_to = zeros_from(&map, offset as usize) as u64;
        let torn = dirty_to > offset;
        if torn && self.proves_damage(&map, offset as usize) {
            return Err(self.corrupt(last, offset));
        }
        for segment in behind {
            let map = map_of(self.storage, segment)?;
            let proof = match Header::decode(&map) {
                // A header is written when all before it is on disk.
                Ok(header) => header.log_id == self.log_id && header.seq > self.seq,
                Err(_) => self.proves_damage(&map, 0),
            };
            if proof {
                // A whole tail that ends in zeros says that the header behind it was hit.
                let hit = if torn { (&**last, offset) } else { (&*behind[0], 0) };
                return Err(self.corrupt(hit.0, hit.1));
            }
        }
        Ok(dirty_to)
    }

    /// True when a sound frame at or behind `from` says that the frame expected at the end was on
    /// disk.
    fn proves_damage(&self, map: &[u8], from: usize) -> bool {
        let mut offset = from.next_multiple_of(FRAME_ALIGN);
        while let Some(at) = map.get(offset..) {
            match FrameHead::decode(at, self.salt) {
                Some(head) if head.synced >= self.seq => return true,
                Some(head) if head.seq >= self.seq => offset += head.bytes(),
                _ => offset += FRAME_ALIGN,
            }
            if at.len() < FRAME_HEAD_BYTES {
                break;
            }
        }
        false
    }

    fn corrupt(&self, segment: &Segment, offset: u64) -> Error {
        let file = self.storage.path(&segment::name(segment.number));
        Error::Corrupt { file, offset, seq: self.seq }
    }

    fn report(&mut self, bytes_done: u64) {
        let total = self.state.bytes_total;
        if bytes_done >= self.reported + PROGRESS_BYTES || bytes_done == total {
            self.reported = bytes_done;
            (self.progress)(Progress { bytes_done, bytes_total: total });
        }
    }
}

/// The offset, at or behind `from`, where the zeros that reach to the end begin.
fn zeros_from(bytes: &[u8], from: usize) -> usize {
    let tail = &bytes[from.min(bytes.len())..];
    const BLOCK: usize = 4096;
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut end = tail.len();
    while end >= BLOCK && tail[end - BLOCK..end] == ZEROS {
        end -= BLOCK;
    }
    let zeros = tail[..end].iter().rev().take_while(|byte| **byte == 0).count();
    from + end - zeros
}
