//! Writing records.

use super::{
    CellChange, DETAILS, Event, EventBody, EventKind, PRINCIPAL, RECORD_HEADER_BYTES, SKIP,
    UNCHECKED_BYTES, WIDTH_SHIFT, shape,
};
use crate::id::{ReservationId, ShardId, UnixMillis};
use crate::stock::Note;

/// What an event says beside its cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause<'a> {
    /// What has happened.
    pub kind: EventKind,
    /// To what: a reservation, a transfer, or the write itself.
    pub id: Option<ReservationId>,
    /// What whoever asked for it has said about it.
    pub note: Option<Note<'a>>,
    /// The deadline that the reservation has now, in ms after the record's `at`.
    pub deadline_ms: Option<u32>,
    /// More, by kind.
    pub body: EventBody<'a>,
}

impl Cause<'_> {
    /// Of a kind, about an id.
    #[inline]
    pub const fn new(kind: EventKind, id: ReservationId) -> Self {
        Self { kind, id: Some(id), note: None, deadline_ms: None, body: EventBody::None }
    }
}

/// The note of the event before, so that it need not be repeated.
#[derive(Clone, Copy)]
struct LastNote {
    /// 0: none.
    len: u8,
    bytes: [u8; 3 + 64],
}

impl LastNote {
    const NONE: Self = Self { len: 0, bytes: [0; 67] };

    #[cold]
    fn of(note: &Note<'_>) -> Self {
        let mut last = Self::NONE;
        last.bytes[..2].copy_from_slice(&note.reason.to_le_bytes());
        last.bytes[2] = note.reference.len() as u8;
        last.bytes[3..3 + note.reference.len()].copy_from_slice(note.reference);
        last.len = 3 + note.reference.len() as u8;
        last
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A place in a record that is being made.
#[derive(Clone, Debug)]
pub struct Mark {
    len: usize,
    count: u32,
    principal: Vec<u8>,
}

/// Makes one record.
pub struct RecordWriter {
    bytes: Vec<u8>,
    count: u32,
    /// Of the event before; `None`: it has none, or there is none.
    id: Option<ReservationId>,
    note: LastNote,
    principal: Vec<u8>,
}

impl RecordWriter {
    /// Begins a record, which may use the room of `bytes`.
    pub fn begin(bytes: Vec<u8>, shard: ShardId, first: u64, index: u64, at_us: u64) -> Self {
        let principal = Vec::new();
        let mut writer = Self { bytes, count: 0, id: None, note: LastNote::NONE, principal };
        writer.restart(shard, first, index, at_us);
        writer
    }

    /// Drops what was written, and begins another record in its room.
    pub fn restart(&mut self, shard: ShardId, first: u64, index: u64, at_us: u64) {
        (self.count, self.id, self.note) = (0, None, LastNote::NONE);
        self.principal.clear();
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; UNCHECKED_BYTES]);
        for word in [first, index, at_us] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.extend_from_slice(&shard.0.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 2 + 4]);
        debug_assert!(self.bytes.len() == RECORD_HEADER_BYTES);
    }

    /// Goes on with a record that was finished.
    pub fn reopen(bytes: Vec<u8>) -> Self {
        let count = bytes.get(36..40).and_then(|count| count.try_into().ok());
        let count = u32::from_le_bytes(count.expect("a finished record has a header"));
        Self { bytes, count, id: None, note: LastNote::NONE, principal: Vec::new() }
    }

    /// Bytes so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Sequence numbers so far.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Nothing was written.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A place to come back to.
    pub fn mark(&self) -> Mark {
        Mark { len: self.bytes.len(), count: self.count, principal: self.principal.clone() }
    }

    /// Takes back everything after a mark of this record.
    pub fn truncate(&mut self, mark: Mark) {
        self.bytes.truncate(mark.len);
        (self.count, self.principal) = (mark.count, mark.principal);
        // The event before is another.
        (self.id, self.note) = (None, LastNote::NONE);
    }

    /// What follows was asked for by this client; empty: nobody said.
    #[inline]
    pub fn principal(&mut self, name: &[u8]) {
        // Nobody is told from nobody without a look at bytes: where there are none, comparing them may cost a
        // hundred times as much (masked loads at an address that is not mapped).
        if self.principal.len() != name.len() || !name.is_empty() && self.principal != name {
            self.set_principal(name);
        }
    }

    #[cold]
    fn set_principal(&mut self, name: &[u8]) {
        self.principal.clear();
        self.principal.extend_from_slice(name);
        self.bytes.push(PRINCIPAL);
        self.bytes.push(u8::try_from(name.len()).expect("a client's name has at most 64 bytes"));
        self.bytes.extend_from_slice(name);
    }

    /// Some events are left out, which makes it a filtered record.
    pub fn skip(&mut self, count: u32) {
        self.bytes.push(SKIP);
        self.bytes.extend_from_slice(&count.to_le_bytes());
        self.count += count;
        self.bytes[34] |= super::FILTERED as u8;
    }

    /// Appends an event of another record of the same log entry.
    pub fn copy(&mut self, event: &Event<'_>) {
        self.principal(event.principal);
        let ms = |deadline: UnixMillis| deadline.0.saturating_sub(event.at_us / 1_000);
        let cause = Cause {
            kind: event.kind,
            id: event.id,
            note: event.note,
            deadline_ms: event
                .deadline
                .map(|deadline| u32::try_from(ms(deadline)).unwrap_or(u32::MAX)),
            body: event.body,
        };
        match &event.change {
            Some(change) => self.cell_event(&cause, change, event.has_details),
            None => self.event(&cause),
        }
    }

    /// Appends an event that is about no cell.
    pub fn event(&mut self, cause: &Cause<'_>) {
        self.put_head(cause, 0);
        self.put_body(cause);
    }

    /// Appends an event that is about a cell.
    pub fn cell_event(&mut self, cause: &Cause<'_>, change: &CellChange, has_details: bool) {
        let (after, delta) = (&change.after, &change.delta);
        let details = has_details.then(|| (after.details(), delta.details()));
        self.change(cause, change.cell.0, (after.main(), delta.main()), details);
    }

    /// As [`RecordWriter::cell_event`]: `after` and `delta` of on_hand, reserved and committed, and those of
    /// details if the cell has any.
    #[inline]
    pub fn change(
        &mut self,
        cause: &Cause<'_>,
        cell: u32,
        main: ([i64; 3], [i64; 3]),
        details: Option<([i64; 6], [i64; 6])>,
    ) {
        self.put_head(cause, shape::CELL);
        match details {
            None => {
                let code = width_code(bits_in(&main.0) | bits_in(&main.1));
                self.put_numbers::<3, 54>(&cell.to_le_bytes(), code << WIDTH_SHIFT, main, code);
            }
            Some(details) => self.put_detailed(cell, main, details),
        }
        self.put_body(cause);
    }

    #[cold]
    fn put_detailed(
        &mut self,
        cell: u32,
        main: ([i64; 3], [i64; 3]),
        details: ([i64; 6], [i64; 6]),
    ) {
        let bits = [bits_in(&main.0), bits_in(&main.1), bits_in(&details.0), bits_in(&details.1)];
        let code = width_code(bits.into_iter().fold(0, |all, bits| all | bits));
        let flags = DETAILS | code << WIDTH_SHIFT;
        self.put_numbers::<3, 54>(&cell.to_le_bytes(), flags, main, code);
        self.put_numbers::<6, 98>(&[], 0, details, code);
    }

    /// `before` · flags and what has changed · after · deltas of that.
    #[inline]
    fn put_numbers<const N: usize, const ROOM: usize>(
        &mut self,
        before: &[u8],
        flags: u8,
        (after, delta): ([i64; N], [i64; N]),
        code: u8,
    ) {
        let width = 1 << code;
        // Numbers are written whole, and the next one over what is more than the width.
        let begin = self.bytes.len();
        let room = self.room::<ROOM>();
        room[..before.len()].copy_from_slice(before);
        let mut at = before.len() + 1;
        let mut changed = 0;
        for number in after {
            room[at..at + 8].copy_from_slice(&number.to_le_bytes());
            at += width;
        }
        for (bit, number) in delta.into_iter().enumerate() {
            room[at..at + 8].copy_from_slice(&number.to_le_bytes());
            let is_changed = number != 0;
            at += if is_changed { width } else { 0 };
            changed |= u8::from(is_changed) << bit;
        }
        room[before.len()] = flags | changed;
        self.bytes.truncate(begin + at);
    }

    /// Room at the end, to be cut to what is used: bytes of a known number are written without a call.
    #[inline]
    fn room<const ROOM: usize>(&mut self) -> &mut [u8; ROOM] {
        self.bytes.extend_from_slice(&[0; ROOM]);
        self.bytes.last_chunk_mut().expect("it was just appended")
    }

    /// Kind, shape, and what comes before the cell.
    #[inline]
    fn put_head(&mut self, cause: &Cause<'_>, cell: u8) {
        self.count += 1;
        let is_plain = cause.note.is_none() && self.note.len == 0;
        let is_same = cause.id.is_some() && cause.id == self.id && is_plain;
        if is_same || is_plain && cause.id.is_some() {
            let deadline = if cause.deadline_ms.is_some() { shape::DEADLINE } else { 0 };
            let body = if matches!(cause.body, EventBody::None) { 0 } else { shape::BODY };
            let id = if is_same { shape::SAME } else { shape::ID };
            let begin = self.bytes.len();
            let room = self.room::<22>();
            (room[0], room[1]) = (cause.kind as u8, id | deadline | cell | body);
            let mut at = 2;
            if let Some(id) = cause.id.filter(|_| !is_same) {
                room[2..18].copy_from_slice(&id.0);
                at = 18;
            }
            if let Some(deadline_ms) = cause.deadline_ms {
                room[at..at + 4].copy_from_slice(&deadline_ms.to_le_bytes());
                at += 4;
            }
            self.bytes.truncate(begin + at);
            self.id = cause.id;
        } else {
            self.put_noted_head(cause, cell);
        }
    }

    #[cold]
    fn put_noted_head(&mut self, cause: &Cause<'_>, cell: u8) {
        let note = cause.note.as_ref().map_or(LastNote::NONE, LastNote::of);
        let is_same =
            cause.id.is_some() && cause.id == self.id && note.bytes() == self.note.bytes();
        let mut bits = cell;
        bits |= match cause.id {
            Some(_) if is_same => shape::SAME,
            Some(_) => shape::ID,
            None => 0,
        };
        let has_note = !is_same && note.len > 0;
        bits |= if has_note { shape::NOTE } else { 0 };
        bits |= if cause.deadline_ms.is_some() { shape::DEADLINE } else { 0 };
        bits |= if cause.body == EventBody::None { 0 } else { shape::BODY };
        self.bytes.extend_from_slice(&[cause.kind as u8, bits]);
        if let Some(id) = cause.id.filter(|_| !is_same) {
            self.bytes.extend_from_slice(&id.0);
        }
        if has_note {
            self.bytes.extend_from_slice(note.bytes());
        }
        if let Some(deadline_ms) = cause.deadline_ms {
            self.bytes.extend_from_slice(&deadline_ms.to_le_bytes());
        }
        (self.id, self.note) = (cause.id, note);
    }

    #[inline]
    fn put_body(&mut self, cause: &Cause<'_>) {
        if !matches!(cause.body, EventBody::None) {
            let at = self.bytes.len();
            self.bytes.extend_from_slice(&[0; 2]);
            cause.body.put(&mut self.bytes);
            let len = (self.bytes.len() - at - 2) as u16;
            self.bytes[at..at + 2].copy_from_slice(&len.to_le_bytes());
        }
    }

    /// The record, but for its checksum: see [`seal`](super::seal).
    pub fn finish(mut self) -> Vec<u8> {
        let len = (self.bytes.len() - super::LEN_BYTES) as u32;
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[36..40].copy_from_slice(&self.count.to_le_bytes());
        self.bytes
    }
}

/// Which bits the numbers need, without their signs.
#[inline]
fn bits_in<const N: usize>(numbers: &[i64; N]) -> u64 {
    numbers.iter().fold(0, |bits, number| bits | (number ^ (number >> 63)) as u64)
}

/// The log₂ of the bytes of a signed number with these bits.
#[inline]
fn width_code(bits: u64) -> u8 {
    match bits {
        0..=0x7f => 0,
        0x80..=0x7fff => 1,
        0x8000..=0x7fff_ffff => 2,
        _ => 3,
    }
}
