//! The sums over all cells of a SKU that has several.
//!
//! A SKU with one cell has no sums of its own: they are what the cell has, and nobody pays for keeping
//! them. With its second cell it gets a row here, which the writer keeps up with every change.

use std::sync::atomic::{AtomicI64, Ordering};

use super::cell::{Cell, Details, Sums};
use super::seqlock::Sequence;

/// One row: a seqlock as a cell's slot is.
#[derive(Default)]
pub(super) struct Total {
    pub seq: Sequence,
    on_hand: AtomicI64,
    reserved: AtomicI64,
    committed: AtomicI64,
    withheld: AtomicI64,
    incoming: AtomicI64,
    in_transit: AtomicI64,
}

impl Total {
    /// The sums of all that a grant looks at; nothing is due in a total. Relaxed: the writer reads its own
    /// stores, a reader checks `seq` around it.
    #[inline]
    pub fn load(&self) -> Cell {
        Cell {
            on_hand: self.on_hand.load(Ordering::Relaxed),
            reserved: self.reserved.load(Ordering::Relaxed),
            committed: self.committed.load(Ordering::Relaxed),
            withheld: self.withheld.load(Ordering::Relaxed),
            ..Cell::default()
        }
    }

    /// As [`Total::load`], all that is bounded.
    pub fn sums(&self) -> Sums {
        let Cell { on_hand, reserved, committed, withheld, .. } = self.load();
        Sums {
            on_hand,
            promised: reserved.wrapping_add(committed),
            withheld,
            incoming: self.incoming.load(Ordering::Relaxed),
            in_transit: self.in_transit.load(Ordering::Relaxed),
        }
    }

    /// A cell's counters have changed. The writer does so within the sequence.
    #[inline]
    pub fn follow(&self, before: &Cell, after: &Cell) {
        shift(&self.on_hand, before.on_hand, after.on_hand);
        shift(&self.reserved, before.reserved, after.reserved);
        shift(&self.committed, before.committed, after.committed);
    }

    /// A cell's details have changed. As [`Total::follow`].
    pub fn follow_details(&self, before: &Details, after: &Details) {
        shift(&self.withheld, before.withheld(), after.withheld());
        shift(&self.incoming, before.incoming, after.incoming);
        shift(&self.in_transit, before.in_transit, after.in_transit);
    }
}

/// Wrapping: while a whole table is overwritten, sums may pass their range and be right in the end.
#[inline]
fn shift(sum: &AtomicI64, before: i64, after: i64) {
    let now = sum.load(Ordering::Relaxed);
    sum.store(now.wrapping_add(after.wrapping_sub(before)), Ordering::Relaxed);
}
