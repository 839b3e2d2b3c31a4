//! Adding events up: what must be in each cell if they are all there is.
//!
//! A ledger believes nothing. It starts empty, or from counters that are known otherwise, and takes events in their
//! order. Each must
//!
//! - have the next number;
//! - find in its cell what the event before it has left there;
//! - change what its kind changes, and nothing else, so that units go from somewhere to somewhere:
//!
//! ```text
//! RECEIVED, ADJUSTED, SET, COUNTED    on_hand
//! MOVED                               buckets
//! ANNOUNCED                           incoming
//! ARRIVED                             incoming −q, on_hand +q, and a bucket +q if they came into one
//! RETURNED                            on_hand +q, and a bucket +q
//! TRANSFER_SHIPPED                    on_hand −q there, in_transit +q here
//! TRANSFER_RECEIVED                   in_transit −q, on_hand +q, and damaged +d of them
//! TRANSFER_CLOSED                     in_transit −q
//! TRANSFER_CANCELLED                  in_transit −q here, on_hand +q there
//! RESERVED                            reserved +q, or committed +q at once
//! AMENDED                             reserved
//! CONFIRMED                           reserved −q, committed +q
//! RELEASED, EXPIRED, RECLAIMED        reserved −q
//! CANCELLED                           committed −q
//! FULFILLED                           on_hand −q, and reserved or committed −q
//! REACQUIRED                          committed +q, or on_hand −q
//! every other kind                    nothing
//! ```

use std::collections::BTreeMap;
use std::fmt;

use super::{CellChange, Counts, Event, EventKind};
use crate::id::CellHandle;

/// What is wrong with an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerFault {
    /// Its number is not the next one.
    Sequence {
        /// The next one.
        expected: u64,
        /// The event's.
        found: u64,
    },
    /// It says that there was something else in its cell before.
    Before {
        /// The event.
        sequence: u64,
        /// The cell.
        cell: CellHandle,
        /// The first counter that is another.
        counter: &'static str,
        /// What the events before it have left there.
        expected: i64,
        /// What it says was there.
        found: i64,
    },
    /// Units come from nowhere or go nowhere: its kind does not change a cell like that.
    Units {
        /// The event.
        sequence: u64,
        /// What it says has happened.
        kind: EventKind,
    },
}

impl LedgerFault {
    /// The number of the event that is wrong.
    pub const fn sequence(&self) -> u64 {
        match self {
            Self::Sequence { found, .. } => *found,
            Self::Before { sequence, .. } | Self::Units { sequence, .. } => *sequence,
        }
    }
}

impl fmt::Display for LedgerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence { expected, found } => {
                write!(f, "event {found} comes where {expected} should")
            }
            Self::Before { sequence, cell, counter, expected, found } => {
                let cell = cell.0;
                write!(f, "event {sequence} finds {counter} {found} in cell {cell}, not {expected}")
            }
            Self::Units { sequence, kind } => {
                write!(f, "event {sequence} moves units as no {} does", kind.name())
            }
        }
    }
}

impl std::error::Error for LedgerFault {}

/// A cell's counters that every cell has; details are seldom, and kept aside.
#[derive(Clone, Copy, Default)]
struct Entry {
    main: [i64; 3],
    is_known: bool,
    has_details: bool,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    next: Option<u64>,
    cells: Vec<Entry>,
    details: BTreeMap<u32, [i64; 6]>,
}

impl Ledger {
    /// Nothing is known, and the first event may have any number.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next event has this number.
    pub fn expect(&mut self, next: u64) {
        self.next = Some(next);
    }

    /// The number of the next event, if it is known.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// What is in a cell; `None`: no event was about it, and nobody has said.
    pub fn counts(&self, cell: CellHandle) -> Option<Counts> {
        let entry = self.cells.get(cell.0 as usize).filter(|entry| entry.is_known)?;
        Some(Counts::from_parts(entry.main, self.details_of(cell.0, entry)))
    }

    /// Says what is in a cell.
    pub fn set(&mut self, cell: CellHandle, counts: &Counts) {
        let at = cell.0 as usize;
        if at >= self.cells.len() {
            self.cells.resize(at + 1, Entry::default());
        }
        let details = counts.details();
        let entry = &mut self.cells[at];
        (entry.main, entry.is_known) = (counts.main(), true);
        if details != [0; 6] || entry.has_details {
            entry.has_details = true;
            self.details.insert(cell.0, details);
        }
    }

    /// Every cell of which something is known.
    pub fn known(&self) -> impl Iterator<Item = (CellHandle, Counts)> + '_ {
        let cells = (0..).zip(&self.cells).filter(|(_, entry)| entry.is_known);
        cells.map(|(cell, entry)| {
            (CellHandle(cell), Counts::from_parts(entry.main, self.details_of(cell, entry)))
        })
    }

    fn details_of(&self, cell: u32, entry: &Entry) -> [i64; 6] {
        match entry.has_details {
            true => self.details.get(&cell).copied().unwrap_or_default(),
            false => [0; 6],
        }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// It is not what can come next.
    #[inline]
    pub fn take(&mut self, event: &Event<'_>) -> Result<(), LedgerFault> {
        let sequence = event.sequence;
        match self.next {
            Some(expected) if expected != sequence => {
                return Err(LedgerFault::Sequence { expected, found: sequence });
            }
            _ => self.next = Some(sequence + 1),
        }
        let Some(change) = &event.change else { return Ok(()) };
        if !is_sound(event.kind, &change.delta) {
            return Err(LedgerFault::Units { sequence, kind: event.kind });
        }
        self.take_change(event, change)
    }

    #[inline]
    fn take_change(&mut self, event: &Event<'_>, change: &CellChange) -> Result<(), LedgerFault> {
        let (sequence, cell, kind) = (event.sequence, change.cell, event.kind);
        let Some(found) = change.before() else {
            return Err(LedgerFault::Units { sequence, kind });
        };
        let known = match kind {
            EventKind::CellDefined => Some(Counts::default()),
            _ => self.counts(cell),
        };
        if let Some(expected) = known.filter(|expected| *expected != found) {
            let both = Counts::NAMES.iter().zip(expected.all().into_iter().zip(found.all()));
            let other = both.into_iter().find(|(_, (expected, found))| expected != found);
            let (counter, (expected, found)) =
                other.expect("unequal counts have a counter that is");
            return Err(LedgerFault::Before { sequence, cell, counter, expected, found });
        }
        self.set(cell, &change.after);
        Ok(())
    }
}

/// One lacks what the other has more. Whoever wrote the event may have written any numbers.
fn are_even(one: i64, other: i64) -> bool {
    one.checked_add(other) == Some(0)
}

/// Does an event of this kind change a cell like that? See the module.
fn is_sound(kind: EventKind, delta: &Counts) -> bool {
    let Counts { on_hand, reserved, committed, blocked, incoming, in_transit } = *delta;
    let into_buckets: i64 = blocked.iter().fold(0, |sum, units| sum.saturating_add(*units));
    let only = |kept: &dyn Fn(&mut Counts)| {
        let mut rest = *delta;
        kept(&mut rest);
        rest == Counts::default()
    };
    let no_bucket_shrinks = blocked.iter().all(|units| *units >= 0);
    match kind {
        EventKind::Received => on_hand >= 0 && only(&|rest| rest.on_hand = 0),
        EventKind::Adjusted | EventKind::Set | EventKind::Counted => only(&|rest| rest.on_hand = 0),
        EventKind::Moved => only(&|rest| rest.blocked = [0; 4]),
        EventKind::Announced => only(&|rest| rest.incoming = 0),
        EventKind::Arrived => {
            let arrived = incoming <= 0 && are_even(on_hand, incoming) && no_bucket_shrinks;
            let rest =
                |rest: &mut Counts| (rest.on_hand, rest.incoming, rest.blocked) = (0, 0, [0; 4]);
            arrived && into_buckets <= on_hand && only(&rest)
        }
        EventKind::Returned => {
            let rest = |rest: &mut Counts| (rest.on_hand, rest.blocked) = (0, [0; 4]);
            on_hand >= 0 && no_bucket_shrinks && into_buckets <= on_hand && only(&rest)
        }
        EventKind::TransferShipped => {
            let leaves = on_hand < 0 && only(&|rest| rest.on_hand = 0);
            leaves || in_transit > 0 && only(&|rest| rest.in_transit = 0)
        }
        EventKind::TransferReceived => {
            let rest = |rest: &mut Counts| {
                (rest.on_hand, rest.in_transit, rest.blocked[0]) = (0, 0, 0);
            };
            let arrived = in_transit <= 0 && are_even(on_hand, in_transit);
            arrived && (0..=on_hand).contains(&blocked[0]) && only(&rest)
        }
        EventKind::TransferClosed => in_transit <= 0 && only(&|rest| rest.in_transit = 0),
        EventKind::TransferCancelled => {
            let vanishes = in_transit < 0 && only(&|rest| rest.in_transit = 0);
            vanishes || on_hand > 0 && only(&|rest| rest.on_hand = 0)
        }
        EventKind::Reserved => {
            let held = reserved > 0 && only(&|rest| rest.reserved = 0);
            held || committed > 0 && only(&|rest| rest.committed = 0)
        }
        EventKind::Amended => reserved != 0 && only(&|rest| rest.reserved = 0),
        EventKind::Confirmed => {
            let rest = |rest: &mut Counts| (rest.reserved, rest.committed) = (0, 0);
            committed > 0 && are_even(reserved, committed) && only(&rest)
        }
        EventKind::Released | EventKind::Expired | EventKind::Reclaimed => {
            reserved < 0 && only(&|rest| rest.reserved = 0)
        }
        EventKind::Cancelled => committed < 0 && only(&|rest| rest.committed = 0),
        EventKind::Fulfilled => {
            let rest =
                |rest: &mut Counts| (rest.on_hand, rest.reserved, rest.committed) = (0, 0, 0);
            let promised = reserved.saturating_add(committed);
            on_hand < 0 && promised == on_hand && reserved.max(committed) == 0 && only(&rest)
        }
        EventKind::Reacquired => {
            let promised = committed > 0 && only(&|rest| rest.committed = 0);
            promised || on_hand < 0 && only(&|rest| rest.on_hand = 0)
        }
        _ => only(&|_| {}),
    }
}
