//! What events are looked up by.

use crate::protocol::event::{Event, EventKind};
use crate::protocol::{CellHandle, ReservationId};

/// What events are looked up by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A cell.
    Cell(CellHandle),
    /// A reservation, a transfer, or a stock write.
    Id(ReservationId),
    /// The rules of a cell: the events that set them.
    Rules(CellHandle),
}

impl Key {
    /// Is the event about it?
    pub fn is_of(&self, event: &Event<'_>) -> bool {
        match self {
            Self::Cell(cell) => event.change.is_some_and(|change| change.cell == *cell),
            Self::Id(id) => event.id == Some(*id),
            Self::Rules(cell) => {
                event.kind == EventKind::PolicySet && Self::Cell(*cell).is_of(event)
            }
        }
    }

    /// Shows the keys of an event.
    #[inline]
    pub(super) fn each_of(event: &Event<'_>, mut show: impl FnMut(Self)) {
        if let Some(id) = event.id {
            show(Self::Id(id));
        }
        if let Some(change) = &event.change {
            show(Self::Cell(change.cell));
            if event.kind == EventKind::PolicySet {
                show(Self::Rules(change.cell));
            }
        }
    }

    /// For filters. Clients choose ids, so the seed must not be known before.
    #[inline]
    pub(super) fn hash(&self, seed: u64) -> u64 {
        match self {
            Self::Cell(cell) => mixed(seed ^ u64::from(cell.0)),
            // Handles have 32 bits.
            Self::Rules(cell) => mixed(seed ^ (1 << 32 | u64::from(cell.0))),
            Self::Id(id) => {
                let words = u128::from_le_bytes(id.0);
                mixed(mixed(!seed ^ words as u64) ^ (words >> 64) as u64)
            }
        }
    }
}

/// The end of SplitMix64 (Steele, Lea, Flood 2014).
#[inline]
fn mixed(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
