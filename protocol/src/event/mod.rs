//! Events: what each log entry has changed, for whoever follows, explains or audits it.
//!
//! ```text
//! log entry ──apply──▶ record: header, items        one or several, none if nothing has changed
//! ```
//!
//! A **record** holds the events of one log entry, or of a piece of it, in the order in which they happened. It has
//! the same bytes on every node, on disk and on the wire, so that a subscriber gets what an auditor checks:
//!
//! ```text
//! offset size  field
//!      0    4  len       bytes after this field: 36 + items, at most 1 MiB
//!      4    4  crc32     IEEE 802.3, over everything after this field: offset 8 to the end
//!      8    8  first     the sequence number of the first event
//!     16    8  index     of the log entry
//!     24    8  at        the entry's moment on the cluster's clock, µs since 1970
//!     32    2  shard
//!     34    2  flags     1 FILTERED: some events are left out
//!     36    4  count     sequence numbers that it spans
//!     40    …  items
//! ```
//!
//! An **item** is an event, or says something about those that follow it in the record:
//!
//! ```text
//!   kind u8 = 0xf0  PRINCIPAL  name: u8 length + bytes      who asked for them; nobody said, if there is none
//!   kind u8 = 0xf1  SKIP       count u32                    so many events are left out
//!   kind u8         an event:
//!     shape u8                 1 ID · 2 SAME · 4 NOTE · 8 DEADLINE · 16 CELL · 32 BODY
//!     id 16                    if ID; if SAME, id and note are those of the event before
//!     reason u16 · reference: u8 length + bytes              if NOTE
//!     deadline u32             if DEADLINE: in ms after `at`
//!     if CELL:
//!       cell u32
//!       counters u8            1 on_hand · 2 reserved · 4 committed has changed
//!                              8, 16: log₂ of the bytes of a number · 32 DETAILS
//!       after                  on_hand, reserved, committed: a signed number each
//!       delta                  of each that has changed: a signed number
//!       if DETAILS:            of cells that have any
//!         details u8           1 damaged · 2 quality · 4 safety · 8 other · 16 incoming · 32 in_transit changed
//!         after                all six
//!         delta                of each that has changed
//!     body: u16 length + bytes if BODY, by kind: see body.rs
//! ```
//!
//! Invariants:
//! - Sequence numbers are gapless: the first event of a shard's life is 1.
//! - `after` is the whole cell: the latest event about a cell is what is in it.
//! - For each cell, `after` of one event + `delta` of the next is `after` of the next.

mod body;
mod checkpoint;
mod kind;
mod ledger;
mod read;
mod show;
mod write;

pub use body::EventBody;
pub use checkpoint::{
    ANCHOR_BYTES, Anchor, CHECKPOINT_BYTES, Checkpoint, Divergence, Finding, Totals,
};
pub use kind::EventKind;
pub use ledger::{Ledger, LedgerFault};
pub use read::{Event, EventError, EventRecord, Events, RecordHeader};
pub use show::Text;
pub use write::{Cause, Mark, RecordWriter};

use crate::id::CellHandle;
use crate::stock::CellDetails;

/// Bytes before a record's items.
pub const RECORD_HEADER_BYTES: usize = 40;
/// Bytes that `len` does not count.
const LEN_BYTES: usize = 4;
/// Bytes that the checksum does not cover.
const UNCHECKED_BYTES: usize = 8;
/// A longer record is none: writers begin a new one at a quarter of it, and an event is much smaller than the rest.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// The flag of a record that lacks events.
const FILTERED: u16 = 1;

const PRINCIPAL: u8 = 0xf0;
const SKIP: u8 = 0xf1;

/// Bits of an event's shape.
mod shape {
    pub const ID: u8 = 1;
    pub const SAME: u8 = 2;
    pub const NOTE: u8 = 4;
    pub const DEADLINE: u8 = 8;
    pub const CELL: u8 = 16;
    pub const BODY: u8 = 32;
    pub const ALL: u8 = 63;
}

/// In the byte of the counters: the first bit of the width of numbers, and whether details follow.
const WIDTH_SHIFT: u32 = 3;
const DETAILS: u8 = 32;

/// The units of a cell, all that is counted: at a moment, or as a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Physically there.
    pub on_hand: i64,
    /// Held under a deadline.
    pub reserved: i64,
    /// Promised to orders.
    pub committed: i64,
    /// Not for sale: damaged, quality, safety, other.
    pub blocked: [i64; 4],
    /// Announced, not there yet.
    pub incoming: i64,
    /// Sent here by other warehouses, not there yet.
    pub in_transit: i64,
}

impl Counts {
    /// The counters that every cell has.
    const fn main(&self) -> [i64; 3] {
        [self.on_hand, self.reserved, self.committed]
    }

    /// The counters that most cells do not have.
    const fn details(&self) -> [i64; 6] {
        let [damaged, quality, safety, other] = self.blocked;
        [damaged, quality, safety, other, self.incoming, self.in_transit]
    }

    const fn from_parts(main: [i64; 3], details: [i64; 6]) -> Self {
        let [on_hand, reserved, committed] = main;
        let [damaged, quality, safety, other, incoming, in_transit] = details;
        let blocked = [damaged, quality, safety, other];
        Self { on_hand, reserved, committed, blocked, incoming, in_transit }
    }

    /// Their names, as documents write them, in the order of [`Counts::all`].
    pub const NAMES: [&'static str; 9] = [
        "on_hand",
        "reserved",
        "committed",
        "damaged",
        "quality",
        "safety",
        "other",
        "incoming",
        "in_transit",
    ];

    /// All of them.
    pub fn all(&self) -> [i64; 9] {
        let mut all = [0; 9];
        all[..3].copy_from_slice(&self.main());
        all[3..].copy_from_slice(&self.details());
        all
    }

    /// These counts changed by `delta`; `None`: out of the range of numbers.
    #[must_use]
    pub fn changed_by(&self, delta: &Self) -> Option<Self> {
        let add = |a: i64, b: i64| a.checked_add(b);
        let (mut main, mut details) = (self.main(), self.details());
        for (to, by) in main.iter_mut().zip(delta.main()) {
            *to = add(*to, by)?;
        }
        for (to, by) in details.iter_mut().zip(delta.details()) {
            *to = add(*to, by)?;
        }
        Some(Self::from_parts(main, details))
    }

    /// What to add to `before` to get these counts; `None`: out of the range of numbers.
    pub fn since(&self, before: &Self) -> Option<Self> {
        let (mut main, mut details) = (self.main(), self.details());
        for (to, from) in main.iter_mut().zip(before.main()) {
            *to = to.checked_sub(from)?;
        }
        for (to, from) in details.iter_mut().zip(before.details()) {
            *to = to.checked_sub(from)?;
        }
        Some(Self::from_parts(main, details))
    }
}

/// Puts the checksum of a finished record into its place.
///
/// # Panics
/// It is shorter than a header.
pub fn seal(record: &mut [u8]) {
    let crc = crc32fast::hash(&record[UNCHECKED_BYTES..]);
    record[LEN_BYTES..UNCHECKED_BYTES].copy_from_slice(&crc.to_le_bytes());
}

impl From<&CellDetails> for Counts {
    fn from(details: &CellDetails) -> Self {
        let counters = &details.counters;
        Self {
            on_hand: counters.on_hand,
            reserved: counters.reserved,
            committed: counters.committed,
            blocked: details.blocked,
            incoming: details.incoming,
            in_transit: details.in_transit,
        }
    }
}

/// What an event has done to a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CellChange {
    /// The cell.
    pub cell: CellHandle,
    /// What is in it now.
    pub after: Counts,
    /// What has changed; all zero if the event is only about the cell.
    pub delta: Counts,
}

impl CellChange {
    /// What was in the cell before; `None`: the event says nonsense.
    pub fn before(&self) -> Option<Counts> {
        self.after.since(&self.delta)
    }
}
