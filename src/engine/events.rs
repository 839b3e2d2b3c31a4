//! Events: everything that changes says so here, as it changes.
//!
//! ```text
//! apply ─▶ begin_entry ─▶ per operation: take_note ─▶ change, change, … ─▶ end_entry ─▶ records
//! ```
//!
//! Counters change in [`CellWriter`](super::cell_writer::CellWriter) alone, which asks for a [`Cause`] with each
//! change and hands it on: so no unit can move without an event, and what an event says of a cell is what was
//! stored there.
//!
//! A node that keeps no events still counts them: sequence numbers are part of the state, and the same on all.

use crate::protocol::event::{Cause, EventBody, EventKind, Mark, RecordWriter};
use crate::protocol::limits::REFERENCE_BYTES_MAX;
use crate::protocol::{Note, OpFlags, Reader, ReservationId, ShardId, take_op_and_terms};
use crate::world::UnixMicros;

use super::cell::{Cell, Details};

/// A record of so many bytes gets no further event; the entry goes on in another one.
const RECORD_BYTES: usize = 256 << 10;
/// Buffers that wait for the next entry: a fresh one of this size costs more than what is written into it.
const SPARES_MAX: usize = 8;

/// See the module.
pub(super) struct EventWriter {
    next: u64,
    /// The sums of all counters over all cells, in the order of `Counts::NAMES`.
    sums: [i128; 9],
    kept: Option<Box<Kept>>,
    note: Option<KeptNote>,
    /// Who asked for the present operation; empty: nobody said.
    principal: Vec<u8>,
    /// The open record says so.
    is_principal_told: bool,
}

/// What an entry has made so far.
struct Kept {
    shard: ShardId,
    index: u64,
    now: UnixMicros,
    open: RecordWriter,
    finished: Vec<Vec<u8>>,
    spares: Vec<Vec<u8>>,
}

/// The note of the present operation.
#[derive(Clone, Copy)]
struct KeptNote {
    reason: u16,
    len: u8,
    reference: [u8; REFERENCE_BYTES_MAX],
}

/// A place to come back to if a chain fails.
pub(super) struct EventMark {
    next: u64,
    sums: [i128; 9],
    finished: usize,
    open: Option<Mark>,
}

impl EventWriter {
    /// Counts from `next` on, and keeps nothing.
    pub fn new(next: u64) -> Self {
        Self {
            next,
            sums: [0; 9],
            kept: None,
            note: None,
            principal: Vec::new(),
            is_principal_told: false,
        }
    }

    /// The sequence number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Somebody takes the events from now on: see [`EventWriter::take`].
    pub fn keep(&mut self, shard: ShardId) {
        let open = RecordWriter::begin(Vec::new(), shard, self.next, 0, 0);
        let (now, finished, spares) = (UnixMicros(0), Vec::new(), Vec::new());
        self.kept = Some(Box::new(Kept { shard, index: 0, now, open, finished, spares }));
    }

    /// The state is a later one now, of which the events so far were kept elsewhere.
    pub fn go_on_from(&mut self, later: &Self) {
        (self.next, self.sums) = (later.next, later.sums);
    }

    /// The state is that of a snapshot.
    pub fn restore(&mut self, next: u64, sums: [i128; 9]) {
        (self.next, self.sums) = (next, sums);
    }

    /// The sums of all counters over all cells, in the order of `Counts::NAMES`.
    pub fn sums(&self) -> &[i128; 9] {
        &self.sums
    }

    /// A log entry begins.
    pub fn begin_entry(&mut self, index: u64, now: UnixMicros) {
        self.is_principal_told = false;
        if let Some(kept) = &mut self.kept {
            (kept.index, kept.now) = (index, now);
            kept.open.restart(kept.shard, self.next, index, now.0);
        }
    }

    /// Operations begin that this client asked for; empty: nobody said.
    pub fn set_principal(&mut self, name: &[u8]) {
        self.principal.clear();
        self.principal.extend_from_slice(name);
        self.is_principal_told = false;
    }

    /// What is told next is about this operation, of the same client.
    #[inline]
    pub fn take_note(&mut self, bytes: &[u8]) {
        self.note = None;
        if OpFlags(bytes.get(1).copied().unwrap_or_default()).contains(OpFlags::NOTE) {
            self.note = note_of(bytes);
        }
    }

    /// A log entry ends.
    pub fn end_entry(&mut self) {
        self.note = None;
        if let Some(kept) = &mut self.kept
            && !kept.open.is_empty()
        {
            kept.finish_record(self.next);
        }
    }

    /// The records since the last time.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.kept.as_mut().map(|kept| std::mem::take(&mut kept.finished)).unwrap_or_default()
    }

    /// Gives away the records since the last time, and takes buffers for the next ones in return.
    pub fn pass_on(&mut self, mut to: impl FnMut(Vec<u8>) -> Option<Vec<u8>>) {
        if let Some(kept) = &mut self.kept {
            for record in kept.finished.drain(..) {
                let spare = to(record).filter(|_| kept.spares.len() < SPARES_MAX);
                kept.spares.extend(spare);
            }
        }
    }

    /// Says what has happened, if not to a cell.
    pub fn tell(&mut self, cause: &Cause<'_>) {
        self.put(cause, |open, cause| open.event(cause));
    }

    /// Says what has happened about a cell whose counters stay as they are.
    pub fn tell_of_cell(&mut self, cause: &Cause<'_>, cell: u32, value: &Cell, details: &Details) {
        let detailed = *details != Details::default();
        let details = detailed.then(|| (details_of(details), [0; 6]));
        self.put(cause, |open, cause| open.change(cause, cell, (main_of(value), [0; 3]), details));
    }

    /// Says that counters of a cell have changed, and why.
    #[inline]
    pub fn changed(
        &mut self,
        cause: &Cause<'_>,
        cell: u32,
        (before, after): (&Cell, &Cell),
        details: impl FnOnce() -> Option<(Details, Details)>,
    ) {
        let (then, now) = (main_of(before), main_of(after));
        let delta = since(now, then);
        for (sum, delta) in self.sums.iter_mut().zip(delta) {
            *sum += i128::from(delta);
        }
        if self.kept.is_none() {
            self.next += 1;
            return;
        }
        self.put_change(cause, cell, (now, delta), details());
    }

    /// Of a cell whose counters are told to change by [`EventWriter::changed`], the details change too.
    pub fn details_change(&mut self, before: &Details, after: &Details) {
        let delta = since(details_of(after), details_of(before));
        for (sum, delta) in self.sums[3..].iter_mut().zip(delta) {
            *sum += i128::from(delta);
        }
    }

    #[inline(never)]
    fn put_change(
        &mut self,
        cause: &Cause<'_>,
        cell: u32,
        main: ([i64; 3], [i64; 3]),
        details: Option<(Details, Details)>,
    ) {
        let details = details.map(|(before, after)| {
            let (then, now) = (details_of(&before), details_of(&after));
            (now, since(now, then))
        });
        self.put(cause, |open, cause| open.change(cause, cell, main, details));
    }

    #[inline]
    fn put(&mut self, cause: &Cause<'_>, put: impl FnOnce(&mut RecordWriter, &Cause<'_>)) {
        self.next += 1;
        let Some(kept) = &mut self.kept else { return };
        if kept.open.len() >= RECORD_BYTES {
            kept.finish_record(self.next - 1);
            self.is_principal_told = false;
        }
        if !self.is_principal_told {
            kept.open.principal(&self.principal);
            self.is_principal_told = true;
        }
        match &self.note {
            Some(note) if is_asked_for(cause) => {
                let reference = &note.reference[..usize::from(note.len)];
                let note = Some(Note { reason: note.reason, reference });
                put(&mut kept.open, &Cause { note, ..*cause });
            }
            _ => put(&mut kept.open, cause),
        }
    }

    /// A place to come back to.
    pub fn mark(&self) -> EventMark {
        let kept = self.kept.as_ref();
        EventMark {
            next: self.next,
            sums: self.sums,
            finished: kept.map_or(0, |kept| kept.finished.len()),
            open: kept.map(|kept| kept.open.mark()),
        }
    }

    /// Nothing has happened since the mark.
    pub fn undo(&mut self, mark: EventMark) {
        (self.next, self.sums, self.is_principal_told) = (mark.next, mark.sums, false);
        if let (Some(kept), Some(open)) = (&mut self.kept, mark.open) {
            if kept.finished.len() > mark.finished {
                // The record that was open then has been finished since.
                let record = kept.finished.swap_remove(mark.finished);
                kept.finished.truncate(mark.finished);
                kept.open = RecordWriter::reopen(record);
            }
            kept.open.truncate(open);
        }
    }
}

impl Kept {
    fn finish_record(&mut self, next: u64) {
        let room = self.spares.pop().unwrap_or_default();
        let open = RecordWriter::begin(room, self.shard, next, self.index, self.now.0);
        self.finished.push(std::mem::replace(&mut self.open, open).finish());
    }
}

/// What has run out, and what follows from a change, happens by itself.
fn is_asked_for(cause: &Cause<'_>) -> bool {
    cause.id.is_some() && !matches!(cause.kind, EventKind::Expired | EventKind::Reclaimed)
}

#[cold]
fn note_of(bytes: &[u8]) -> Option<KeptNote> {
    let (_, terms) = take_op_and_terms(&mut Reader::new(bytes)).ok()?;
    let note = terms.note?;
    let mut reference = [0; REFERENCE_BYTES_MAX];
    reference[..note.reference.len()].copy_from_slice(note.reference);
    Some(KeptNote { reason: note.reason, len: note.reference.len() as u8, reference })
}

#[inline]
fn main_of(cell: &Cell) -> [i64; 3] {
    [cell.on_hand, cell.reserved, cell.committed]
}

fn details_of(details: &Details) -> [i64; 6] {
    let [damaged, quality, safety, other] = details.blocked;
    [damaged, quality, safety, other, details.incoming, details.in_transit]
}

#[inline]
fn since<const N: usize>(now: [i64; N], then: [i64; N]) -> [i64; N] {
    std::array::from_fn(|at| now[at] - then[at])
}

/// A cause without an id.
pub(super) fn unnamed(kind: EventKind, body: EventBody<'_>) -> Cause<'_> {
    Cause { kind, id: None, note: None, deadline_ms: None, body }
}

/// The cause of what a reservation does under a deadline.
#[inline]
pub(super) fn until(kind: EventKind, id: ReservationId, deadline_ms: u32) -> Cause<'static> {
    Cause { deadline_ms: Some(deadline_ms), ..Cause::new(kind, id) }
}
