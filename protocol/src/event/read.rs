//! Reading records, from a disk or a wire that may lie.

use std::fmt;

use super::{
    CellChange, Counts, DETAILS, EventBody, EventKind, LEN_BYTES, PRINCIPAL, RECORD_BYTES_MAX,
    RECORD_HEADER_BYTES, SKIP, UNCHECKED_BYTES, WIDTH_SHIFT, shape,
};
use crate::id::{CellHandle, ReservationId, ShardId, UnixMillis};
use crate::reader::{Reader, Truncated};
use crate::stock::Note;

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventError {
    /// They end before the record does.
    Truncated,
    /// It says that it has so many bytes, which none has.
    Len(u32),
    /// The checksum is another.
    Crc,
    /// There is no such kind of event.
    Kind(u8),
    /// An event has a shape that none has.
    Shape(u8),
    /// The body is none of that kind.
    Body(EventKind),
    /// It has other events than it says.
    Count,
    /// A note is cut off, or its reference is too long.
    Note,
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the record is cut off"),
            Self::Len(len) => write!(f, "a record of {len} bytes: none is so long or short"),
            Self::Crc => f.write_str("the record's checksum is wrong"),
            Self::Kind(kind) => write!(f, "unknown kind of event {kind:#04x}"),
            Self::Shape(shape) => write!(f, "an event of the unknown shape {shape:#04x}"),
            Self::Body(kind) => write!(f, "the body of a {} cannot be read", kind.name()),
            Self::Note => f.write_str("an event's note cannot be read"),
            Self::Count => f.write_str("the record has other events than it says"),
        }
    }
}

impl std::error::Error for EventError {}

impl From<Truncated> for EventError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// What a record says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes of the whole record.
    pub bytes: usize,
    /// The sequence number of its first event.
    pub first: u64,
    /// The log entry's index.
    pub index: u64,
    /// The log entry's moment, in µs since 1970.
    pub at_us: u64,
    /// The shard.
    pub shard: ShardId,
    /// Some events are left out.
    pub is_filtered: bool,
    /// Sequence numbers that it spans.
    pub count: u32,
}

impl RecordHeader {
    /// Reads the header at the front of `bytes`, which need not have more of the record.
    ///
    /// # Errors
    /// There is no whole header, or no record is as long as it says.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Self, EventError> {
        let mut reader = Reader::new(bytes);
        let (len, _crc) = (reader.u32()?, reader.u32()?);
        let (first, index, at_us) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (shard, flags, count) = (ShardId(reader.u16()?), reader.u16()?, reader.u32()?);
        let bytes = len as usize + LEN_BYTES;
        if !(RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&bytes) {
            return Err(EventError::Len(len));
        }
        let is_filtered = flags & super::FILTERED != 0;
        Ok(Self { bytes, first, index, at_us, shard, is_filtered, count })
    }

    /// The sequence number after its last event.
    pub fn next(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }
}

/// A record, whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub struct EventRecord<'a> {
    header: RecordHeader,
    bytes: &'a [u8],
}

impl<'a> EventRecord<'a> {
    /// Takes a record off the front of `reader`.
    ///
    /// # Errors
    /// There is none, or it is damaged; `reader` is then as before.
    pub fn take(reader: &mut Reader<'a>) -> Result<Self, EventError> {
        let mut rest = *reader;
        let record = Self::take_checked(&mut rest)?;
        let crc = Reader::new(&record.bytes[LEN_BYTES..]).u32()?;
        if crc != crc32fast::hash(&record.bytes[UNCHECKED_BYTES..]) {
            return Err(EventError::Crc);
        }
        *reader = rest;
        Ok(record)
    }

    /// Takes a record off the front of bytes that have been in memory since [`EventRecord::take`] found it there: the
    /// checksum is not looked at again.
    ///
    /// # Errors
    /// There is none; `reader` is then as before.
    pub fn take_checked(reader: &mut Reader<'a>) -> Result<Self, EventError> {
        let header = RecordHeader::peek(reader.rest())?;
        let bytes = reader.bytes(header.bytes)?;
        Ok(Self { header, bytes })
    }

    /// What it says of itself.
    pub fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// All of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its events. The iterator ends after an error.
    pub fn events(&self) -> Events<'a> {
        let items = Reader::new(self.bytes.get(RECORD_HEADER_BYTES..).unwrap_or_default());
        let (id, note, principal) = (None, None, &[][..]);
        Events {
            header: self.header,
            items,
            next: self.header.first,
            id,
            note,
            principal,
            done: false,
        }
    }
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// Its number: gapless, from 1.
    pub sequence: u64,
    /// The log entry's index.
    pub index: u64,
    /// When it happened on the cluster's clock, in µs since 1970.
    pub at_us: u64,
    /// The shard.
    pub shard: ShardId,
    /// What the client calls itself that asked for it; empty: nobody said, or nobody asked.
    pub principal: &'a [u8],
    /// What has happened.
    pub kind: EventKind,
    /// To what: a reservation, a transfer, or the write itself.
    pub id: Option<ReservationId>,
    /// What whoever asked for it has said about it.
    pub note: Option<Note<'a>>,
    /// The deadline that the reservation has now.
    pub deadline: Option<UnixMillis>,
    /// The cell that it is about, and what has changed there.
    pub change: Option<CellChange>,
    /// The cell has details: units that are blocked, announced or in transit, or rules.
    pub has_details: bool,
    /// More, by kind.
    pub body: EventBody<'a>,
}

/// The events of a record, in their order.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    header: RecordHeader,
    items: Reader<'a>,
    next: u64,
    id: Option<&'a [u8; 16]>,
    note: Option<Note<'a>>,
    principal: &'a [u8],
    done: bool,
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, EventError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.take_next() {
            Ok(Some(event)) => Some(Ok(event)),
            Ok(None) => {
                self.done = true;
                let is_whole = self.next == self.header.next();
                (!is_whole).then_some(Err(EventError::Count))
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }
}

impl<'a> Events<'a> {
    #[inline]
    fn take_next(&mut self) -> Result<Option<Event<'a>>, EventError> {
        loop {
            if self.items.is_empty() {
                return Ok(None);
            }
            match self.items.u8()? {
                PRINCIPAL => self.principal = self.items.short_bytes()?,
                SKIP => {
                    let count = self.items.u32()?;
                    self.next = self.next.checked_add(u64::from(count)).ok_or(EventError::Count)?;
                }
                kind => {
                    let kind = EventKind::from_u8(kind).ok_or(EventError::Kind(kind))?;
                    return self.take_event(kind).map(Some);
                }
            }
        }
    }

    #[inline]
    fn take_event(&mut self, kind: EventKind) -> Result<Event<'a>, EventError> {
        let items = &mut self.items;
        let bits = items.u8()?;
        let has = |bit: u8| bits & bit != 0;
        if bits & !shape::ALL != 0 || has(shape::SAME) && (has(shape::ID) || has(shape::NOTE)) {
            return Err(EventError::Shape(bits));
        }
        if has(shape::SAME) {
            if self.id.is_none() {
                return Err(EventError::Shape(bits));
            }
        } else {
            self.id = match has(shape::ID) {
                true => Some(items.chunk()?),
                false => None,
            };
            self.note = match has(shape::NOTE) {
                true => Some(Note::take(items).map_err(|_| EventError::Note)?),
                false => None,
            };
        }
        let deadline = match has(shape::DEADLINE) {
            true => {
                let after_ms = u64::from(items.u32()?);
                Some(UnixMillis((self.header.at_us / 1_000).saturating_add(after_ms)))
            }
            false => None,
        };
        let (change, has_details) = match has(shape::CELL) {
            true => {
                let (change, has_details) = take_change(items)?;
                (Some(change), has_details)
            }
            false => (None, false),
        };
        let body = match has(shape::BODY) {
            true => {
                let len = items.u16()?;
                EventBody::decode(kind, items.bytes(usize::from(len))?)?
            }
            false => EventBody::None,
        };
        let sequence = self.next;
        self.next = sequence.checked_add(1).ok_or(EventError::Count)?;
        let RecordHeader { index, at_us, shard, .. } = self.header;
        Ok(Event {
            sequence,
            index,
            at_us,
            shard,
            principal: self.principal,
            kind,
            id: self.id.map(|id| ReservationId(*id)),
            note: self.note,
            deadline,
            change,
            has_details,
            body,
        })
    }
}

#[inline]
fn take_change(items: &mut Reader<'_>) -> Result<(CellChange, bool), EventError> {
    let (cell, flags) = (CellHandle(items.u32()?), items.u8()?);
    if flags >= DETAILS << 1 {
        return Err(EventError::Shape(flags));
    }
    let width = 1 << (flags >> WIDTH_SHIFT & 3);
    let (after, delta) = take_numbers::<3>(items, flags, width)?;
    let has_details = flags & DETAILS != 0;
    let (details_after, details_delta) = match has_details {
        true => {
            let changed = items.u8()?;
            if changed >= 1 << 6 {
                return Err(EventError::Shape(changed));
            }
            take_numbers::<6>(items, changed, width)?
        }
        false => ([0; 6], [0; 6]),
    };
    let after = Counts::from_parts(after, details_after);
    let delta = Counts::from_parts(delta, details_delta);
    Ok((CellChange { cell, after, delta }, has_details))
}

#[inline]
fn take_numbers<const N: usize>(
    items: &mut Reader<'_>,
    changed: u8,
    width: usize,
) -> Result<([i64; N], [i64; N]), Truncated> {
    let (mut after, mut delta) = ([0; N], [0; N]);
    for number in &mut after {
        *number = take_number(items, width)?;
    }
    for (bit, number) in delta.iter_mut().enumerate() {
        if changed & 1 << bit != 0 {
            *number = take_number(items, width)?;
        }
    }
    Ok((after, delta))
}

#[inline]
fn take_number(items: &mut Reader<'_>, width: usize) -> Result<i64, Truncated> {
    Ok(match width {
        1 => i64::from(items.array::<1>().map(i8::from_le_bytes)?),
        2 => i64::from(items.array().map(i16::from_le_bytes)?),
        4 => i64::from(items.array().map(i32::from_le_bytes)?),
        _ => items.i64()?,
    })
}
